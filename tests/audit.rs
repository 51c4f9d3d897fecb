//! Every request is a row of the audit, with its intent and its outcome behind it.

use crate::support::{AUDIT, World};
use expect_test::expect;

#[test]
fn every_read_and_denial_shows_once_and_so_do_reads_of_the_audit_itself() {
    let world = World::published();
    world.sql("researcher", "SELECT count(*) AS n FROM features.patient_profile");
    world.run(&["--as", "clinician", "read", "features.patient_profile@1"]).code(0);
    world.run(&["--as", "billing", "sql", "-c", "SELECT * FROM raw.patients"]).code(6);
    world.run(&["--as", "trainer", "sql", "-c", "SELECT nothing FROM raw.patients"]).code(1);
    world.sql("auditor", AUDIT);
    expect![[r#"
        action,principal,purpose,dataset,dataset_version,decision,outcome,rows
        read,researcher,research,features.patient_profile,1,allow,success,1
        serve,clinician,care,features.patient_profile,1,allow,success,54
        deny,billing,billing,,,deny,denied,
        deny,trainer,model_training,,,deny,failure,
        read,auditor,audit,system.access.audit,10,allow,success,4
    "#]]
    .assert_eq(&world.sql("auditor", AUDIT));
}

#[test]
fn an_intent_and_its_outcome_stand_behind_every_read() {
    let world = World::published();
    world.sql("researcher", "SELECT count(*) AS n FROM features.patient_profile");
    world.run(&["--as", "billing", "sql", "-c", "SELECT * FROM raw.patients"]).code(6);
    // 20 intent, 22 outcome, 24 denial.
    let text = "SELECT a.action, a.principal, e.kind, count(*) AS entries \
                FROM system.access.audit AS a JOIN system.ledger.entries AS e ON e.entry_id = a.entry_id \
                WHERE a.action IN ('read', 'deny') GROUP BY a.action, a.principal, e.kind ORDER BY a.action";
    expect![[r#"
        action,principal,kind,entries
        deny,billing,24,1
        read,researcher,20,1
    "#]]
    .assert_eq(&world.sql("auditor", text));
    let text = "SELECT sum(CASE WHEN kind = 20 THEN 1 ELSE 0 END) - sum(CASE WHEN kind = 22 THEN 1 ELSE 0 END) AS open \
                FROM system.ledger.entries";
    expect![[r#"
        open
        0
    "#]]
    .assert_eq(&world.sql("auditor", text));
}

#[test]
fn who_is_no_auditor_sees_their_own_reads_only() {
    let world = World::published();
    world.sql("researcher", "SELECT count(*) AS n FROM features.patient_profile");
    world.sql("clinician", "SELECT count(*) AS n FROM features.patient_profile");
    let seen = world.sql("clinician", "SELECT DISTINCT principal FROM system.access.audit");
    assert_eq!(seen, "principal\nclinician\n");
}
