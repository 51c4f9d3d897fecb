//! Unmodified clients from PyPI: they read with a token, are refused without a good one, and every call is recorded.

use crate::support::{Server, World, python};
use expect_test::expect;
use std::{thread::sleep, time::Duration};

/// What two clocks may differ by, and a second.
const UNTIL_EXPIRED: Duration = Duration::from_secs(62);

#[test]
fn foreign_clients_read_with_a_token_and_are_refused_without_a_good_one() {
    let Some(python) = python() else { return };
    let world = World::published();
    let eu = ["--attr", "region=eu"];
    let expired = world.token("eve", "research", "research", &["--expires", "1s"]);
    sleep(UNTIL_EXPIRED);
    let good = world.token("ann", "research", "research", &eu);
    let elsewhere = world.token("bob", "research", "research", &["--audience", "another"]);
    let revoked = world.token("cyd", "research", "research", &[]);
    let listed = world.run(&["--format", "csv", "token", "list"]).code(0);
    let id = listed.lines().find(|l| l.contains("cyd")).and_then(|l| l.split(',').next()).unwrap();
    world.run(&["token", "revoke", id]).code(0);
    let altered = format!("{}A{}", &good[..40], &good[41..]);
    let tokens = format!(
        r#"{{"good": "{good}", "no token": "", "expired": "{expired}", "another audience": "{elsewhere}",
            "revoked": "{revoked}", "altered": "{altered}"}}"#
    );
    let server = Server::start(&world);
    let told = world.script(&python, "clients.py", &[("ADDRESS", &server.address), ("TOKENS", &tokens)]);
    expect![[r#"
        pyarrow: a feature version: 52 rows of id, ts, name, national_id, birth_date, sex, bmi, postcode, region, consent
        pyarrow: a query: 1 rows of region, n
        adbc: a feature version: 52 rows of id, ts, name, national_id, birth_date, sex, bmi, postcode, region, consent
        adbc: a query: 1 rows of region, n
        adbc: parameters: [{'more': 42, 'later': True}]
        adbc: parameters of a query: [3, 20, 24, 25, 26, 29, 30, 35, 36]
        pyarrow: no token: FlightUnauthenticatedError: Flight returned unauthenticated error, with message: C3001 no valid token
        adbc: no token: ProgrammingError: UNAUTHENTICATED: [FlightSQL] C3001 no valid token
        pyarrow: expired: FlightUnauthenticatedError: Flight returned unauthenticated error, with message: C3001 no valid token
        adbc: expired: ProgrammingError: UNAUTHENTICATED: [FlightSQL] C3001 no valid token
        pyarrow: another audience: FlightUnauthenticatedError: Flight returned unauthenticated error, with message: C3001 no valid token
        adbc: another audience: ProgrammingError: UNAUTHENTICATED: [FlightSQL] C3001 no valid token
        pyarrow: revoked: FlightUnauthenticatedError: Flight returned unauthenticated error, with message: C3001 no valid token
        adbc: revoked: ProgrammingError: UNAUTHENTICATED: [FlightSQL] C3001 no valid token
        pyarrow: altered: FlightUnauthenticatedError: Flight returned unauthenticated error, with message: C3001 no valid token
        adbc: altered: ProgrammingError: UNAUTHENTICATED: [FlightSQL] C3001 no valid token
        pyarrow: another purpose: FlightUnauthorizedError: Flight returned unauthorized error, with message: C3002 purpose `marketing` is not among the purposes of this token
        adbc: another purpose: ProgrammingError: UNAUTHORIZED: [FlightSQL] C3002 purpose `marketing` is not among the purposes of this token
    "#]].assert_eq(&told);
    assert_eq!(server.stop(), 0);
    let reads = "SELECT action, principal, purpose, dataset, dataset_version, decision, outcome, rows \
                 FROM system.access.audit WHERE action IN ('read', 'serve') AND principal = 'ann' ORDER BY writer, seq";
    expect![[r#"
        action,principal,purpose,dataset,dataset_version,decision,outcome,rows
        serve,ann,research,features.patient_profile,1,allow,success,52
        read,ann,research,features.patient_profile,1,allow,success,1
        read,ann,research,features.patient_profile,1,allow,success,52
        read,ann,research,features.patient_profile,1,allow,success,1
        read,ann,research,,,allow,success,1
        read,ann,research,features.patient_profile,1,allow,success,9
    "#]]
    .assert_eq(&world.sql("auditor", reads));
    // Refused in six ways, by pyarrow with its first call; ADBC makes three: information on connecting, prepare, close.
    let denials = "SELECT principal, purpose, decision, outcome, count(*) AS calls FROM system.access.audit \
                   WHERE action = 'deny' GROUP BY principal, purpose, decision, outcome ORDER BY principal";
    expect![[r#"
        principal,purpose,decision,outcome,calls
        ann,marketing,deny,denied,4
        ,,deny,denied,20
    "#]]
    .assert_eq(&world.sql("auditor", denials));
}
