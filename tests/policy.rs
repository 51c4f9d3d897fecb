//! `custody policy`: tests of policies, replay, decisions of earlier bundles.

use crate::support::{World, repository};
use std::{fmt::Write as _, fs};

fn edit(world: &World, file: &str, from: &str, to: &str) {
    let path = world.project().join(file);
    let text = fs::read_to_string(&path).unwrap();
    assert!(text.contains(from), "{text}");
    fs::write(path, text.replace(from, to)).unwrap();
}

/// The demo's own tests hold; a policy that gives more does not pass them, active or not, and the place is told.
#[test]
fn tests_of_policies_hold_or_say_where_not() {
    let world = World::fresh();
    let ran = world.run(&["policy", "test"]);
    assert!(ran.err.contains("73 expectations of 9 readers in 1 files: 0 do not hold"), "{}", ran.err);
    ran.code(0);

    edit(&world, "policies/clinic.cedar", "action in Action::\"up_to_token\"", "action in Action::\"up_to_raw\"");
    let ran = world.run(&["--format", "json", "policy", "test"]);
    for part in [
        "C1606",
        "`raw.patients.name` as researcher: expected `token hmac(key 'research', domain 'person')`, got `raw`",
        "[policies/tests/clinic.txt:5:3]",
        "decided by research_identifier",
        ": 3 do not hold",
    ] {
        assert!(ran.err.contains(part), "{part} is missing: {}", ran.err);
    }
    assert_eq!(ran.out.matches("\"holds\":false").count(), 3);
    assert_eq!(ran.out.matches("\"holds\":true").count(), 70);
    ran.code(1);

    // What does not read is refused before anything is tested.
    let tests = world.project().join("policies/tests/more.txt");
    for (text, refusal) in [
        ("as nobody\nraw.labs not found\n", ("C6201", 6)),
        ("as researcher\nraw.nothing not found\n", ("C6001", 6)),
        ("as researcher\nraw.labs\n  id rwa\n", ("C1602", 1)),
    ] {
        fs::write(&tests, text).unwrap();
        let ran = world.run(&["policy", "test"]);
        assert!(ran.err.contains(refusal.0) && ran.err.contains("policies/tests/more.txt:"), "{}", ran.err);
        ran.code(refusal.1);
    }
}

/// A published view has the classes that it would have under the project's policies, without a tag of its own.
#[test]
fn tests_of_policies_see_classes_of_views() {
    let world = World::published();
    let text = "as trainer\nfeatures.patient_profile\n  name redact\n  bmi RUNG\n";
    let tests = world.project().join("policies/tests/more.txt");
    fs::write(&tests, text.replace("RUNG", "raw")).unwrap();
    world.run(&["policy", "test"]).code(0);
    edit(&world, "policies/clinic.sql", "raw.patients.weight, ", "");
    edit(
        &world,
        "policies/clinic.sql",
        "TAG COLUMN raw.labs",
        "TAG COLUMN raw.patients.weight AS quasi;\nTAG COLUMN raw.labs",
    );
    fs::remove_file(world.project().join("policies/tests/clinic.txt")).unwrap();
    world.run(&["policy", "test"]).code(1);
    fs::write(&tests, text.replace("RUNG", "partial bucket(10)")).unwrap();
    world.run(&["policy", "test"]).code(0);
}

/// Every block of `testdata/policies/refused.txt`: what is wrong, where, and what to do; the active bundle stays.
#[test]
fn bad_bundles_are_refused_and_the_active_one_stays() {
    let path = repository().join("testdata/policies/refused.txt");
    let stored = fs::read_to_string(&path).unwrap();
    let (head, blocks) = stored.split_once("\n## ").unwrap();
    let world = World::published();
    let count = "SELECT count(*) AS n FROM raw.patients";
    let before = world.sql("researcher", count);
    let mut text = head.to_string();
    for block in blocks.split("\n## ") {
        let (question, _) = block.split_once("\n----").unwrap();
        let mut lines = question.lines();
        let (title, file) = (lines.next().unwrap(), lines.next().unwrap());
        let bad = world.project().join("policies").join(file);
        fs::write(&bad, lines.map(|l| format!("{l}\n")).collect::<String>()).unwrap();
        let ran = world.run(&["policy", "check"]);
        assert_eq!(ran.code, 1, "{title}: {}", ran.err);
        assert!(ran.err.contains("help: ") && ran.err.contains("[policies/"), "{title}: {}", ran.err);
        let applied = world.run(&["policy", "apply", "-m", "bad"]);
        assert_eq!((applied.code, &applied.err), (1, &ran.err), "{title}");
        let told: String = ran.err.trim_end().lines().map(|l| format!("{}\n", l.trim_end())).collect();
        let _ = write!(text, "\n## {}\n----\n{told}", question);
        fs::remove_file(bad).unwrap();
    }
    if std::env::var_os("UPDATE_EXPECT").is_some() {
        fs::write(&path, &text).unwrap();
    }
    assert_eq!(text, fs::read_to_string(&path).unwrap(), "UPDATE_EXPECT=1 writes testdata/policies/refused.txt anew");
    assert_eq!(world.sql("researcher", count), before);
    let epochs = "SELECT epoch FROM system.policy.bundles";
    assert_eq!(world.run(&["--format", "csv", "sql", "-c", epochs]).code(0), "epoch\n1\n");
}

/// Grants recorded under two bundles, of old versions, by tokens and masks, before and after classes moved, come out
/// again under the bundles that made them.
#[test]
fn every_recorded_grant_comes_out_again() {
    let world = World::published();
    let read = || {
        for principal in ["researcher", "clinician", "trainer"] {
            world.sql(principal, "SELECT name, birth_date FROM raw.patients");
            world.sql(principal, "SELECT p.bmi FROM features.patient_profile p JOIN raw.labs l ON p.id = l.id LIMIT 1");
        }
        world.run(&["sql", "-c", "SELECT count(*) FROM raw.patients"]).code(0);
    };
    read();
    edit(
        &world,
        "policies/clinic.cedar",
        "resource in Class::\"quasi\")\nwhen { context.purpose == \"research\" }",
        "resource in Class::\"quasi\")\nwhen { context.purpose == \"care\" }",
    );
    edit(
        &world,
        "policies/clinic.sql",
        "TAG COLUMN raw.labs",
        "TAG COLUMN raw.patients.weight AS quasi;\nTAG COLUMN raw.labs",
    );
    edit(&world, "policies/clinic.sql", "partial = bucket(10)", "partial = bucket(5)");
    world.run(&["policy", "apply", "-m", "second"]).code(0);
    fs::write(world.project().join("policies/tests/none.txt"), "").unwrap();
    world.run(&["publish", "-m", "under the second"]).code(0);
    for principal in ["researcher", "clinician", "trainer"] {
        world.sql(principal, "SELECT * FROM raw.labs LIMIT 1");
        world.sql(principal, "SELECT sex FROM features.patient_profile VERSION 1 LIMIT 1");
        world.sql(principal, "SELECT sex FROM features.patient_profile LIMIT 1");
    }
    // Nothing differs from itself, and a grant that did not come out again would end with 4.
    let ran = world.run(&["policy", "diff", "2", "2", "--replay", "1d"]);
    assert!(ran.err.contains(" 0 changes"), "{}", ran.err);
    let decisions: u64 = ran.err.split(' ').next().unwrap().parse().unwrap();
    assert!(decisions >= 19, "{}", ran.err);
    ran.code(0);
    let ran = world.run(&["policy", "diff", "1", "2", "--replay", "1d"]);
    assert!(ran.out.contains("loses") && ran.out.contains("researcher for research"), "{}", ran.out);
    ran.code(5);
}

/// What somebody would have got: by an earlier bundle, and as of an entry, with the tables that were there then.
#[test]
fn decisions_as_of_an_earlier_bundle() {
    let world = World::published();
    let decide = |more: &[&str]| {
        let base = ["policy", "decide", "raw.patients", "--role", "research", "--attr", "region=eu"];
        world.run(&[&["--purpose", "research"][..], &base, more].concat())
    };
    let token = |out: String| {
        out.lines().find(|l| l.starts_with("name ")).unwrap_or("").split_whitespace().nth(1).map(String::from)
    };
    assert_eq!(token(decide(&[]).code(0)).as_deref(), Some("token"));
    // The entry that activated the bundle, before any table was there, and the last one since.
    let entry = |order: &str| {
        let text = format!(
            "SELECT writer, seq FROM system.ledger.entries \
             WHERE control_seq >= (SELECT min(from_seq) FROM system.policy.bundles) ORDER BY control_seq {order}, seq LIMIT 1"
        );
        let told = world.run(&["--as", "auditor", "--format", "csv", "sql", "-c", &text]).code(0);
        told.lines().nth(1).unwrap_or_else(|| panic!("{told}")).replace(',', "/")
    };
    let (first, last) = (entry("ASC"), entry("DESC"));

    edit(&world, "policies/clinic.cedar", "action in Action::\"up_to_token\"", "action in Action::\"up_to_redact\"");
    world.run(&["policy", "apply", "-m", "less"]).code(0);
    assert_eq!(token(decide(&[]).code(0)).as_deref(), Some("redact"));
    assert_eq!(token(decide(&["--at", "2"]).code(0)).as_deref(), Some("redact"));
    assert_eq!(token(decide(&["--at", "1"]).code(0)).as_deref(), Some("token"));
    assert_eq!(token(decide(&["--at", &last]).code(0)).as_deref(), Some("token"));
    assert_eq!(decide(&["--at", &first]).code(0), "table `raw.patients` not found\n");
    decide(&["--at", "9"]).code(6);
    decide(&["--at", "nowhere/1"]).code(6);
    decide(&["--at", "x"]).code(1);

    // The system tables of policy show the bundle of the position that they are read at.
    let text = "SELECT text FROM system.policy.policies VERSION AT WHERE policy_id = 'research_identifier'";
    let at = |seq: &str| {
        let ask = text.replace("VERSION AT", seq);
        world.run(&["--format", "csv", "sql", "-c", &ask]).code(0)
    };
    assert!(at("").contains("up_to_redact"));
    let newest = "SELECT max(from_seq) AS seq FROM system.policy.bundles";
    let newest = world.run(&["--format", "csv", "sql", "-c", newest]).code(0);
    let newest: u64 = newest.lines().nth(1).unwrap().parse().unwrap();
    assert!(at(&format!("VERSION {}", newest - 1)).contains("up_to_token"));
}

/// Access for a study: asked for, approved by somebody else, read, taken back; the audit and the replay know all of it.
#[test]
fn access_is_asked_for_approved_and_taken_back() {
    let world = World::fresh();
    let approved = "@id(\"approved\")\npermit (principal, action in Action::\"up_to_raw\", resource in Table::\"raw.patients\")\n\
                    when { resource.approved.contains(\"raw\") };\n";
    fs::write(world.project().join("policies/approved.cedar"), approved).unwrap();
    world.run(&["policy", "apply", "-m", "approvals count"]).code(0);
    world.run(&["publish", "-m", "first"]).code(0);
    let name = || {
        world
            .run(&[
                "--as",
                "researcher",
                "--format",
                "csv",
                "sql",
                "-c",
                "SELECT name FROM raw.patients ORDER BY id LIMIT 1",
            ])
            .code(0)
    };
    let masked = name();

    let access = |who: &[&str], rest: &[&str]| world.run(&[who, &["access"], rest].concat());
    let researcher = ["--as", "researcher"];
    let ask = ["request", "raw.patients", "--columns", "name", "--rung", "raw", "--for", "8h", "-m", "study 12"];
    let request = access(&researcher, &ask).code(0);
    let request = request.trim();
    let approve = ["approve", request, "--for", "1h", "-m", "agreed"];
    assert!(access(&researcher, &approve).err.contains("nobody approves what they asked for themselves"));
    access(&["--as", "billing"], &approve).code(6);
    assert_eq!(name(), masked);
    let grant = access(&[], &approve).code(0);
    let raw = name();
    assert_ne!(raw, masked);
    access(&[], &["approve", request, "-m", "twice"]).code(6);

    let list = access(&["--as", "researcher", "--format", "json"], &["list"]).code(0);
    for part in ["\"state\":\"approved\"", "\"reason\":\"study 12\"", "\"answer\":\"agreed\"", "\"given_rung\":\"raw\""]
    {
        assert!(list.contains(part), "{part} is missing: {list}");
    }
    assert!(!access(&["--as", "billing"], &["list"]).code(0).contains("study 12"));

    access(&[], &["revoke", grant.trim(), "-m", "the study ended"]).code(0);
    assert_eq!(name(), masked);
    let audited =
        world.sql("auditor", "SELECT DISTINCT kind FROM system.ledger.entries WHERE kind IN (3, 4, 5) ORDER BY kind");
    assert_eq!(audited.trim(), "kind\n3\n4\n5");
    let replayed = world.run(&["policy", "diff", "2", "project", "--replay", "30d"]);
    assert!(replayed.err.contains(" 0 changes"), "{}", replayed.err);
    replayed.code(0);

    for (wrong, code) in [
        (vec!["request", "raw.patients", "--columns", "name", "--rung", "rwa", "--for", "8h", "-m", "x"], "C2022"),
        (vec!["request", "raw.patients", "--columns", "name", "--rung", "raw", "--for", "400d", "-m", "x"], "C2103"),
        (vec!["deny", "17", "-m", "x"], "C2021"),
    ] {
        let ran = access(&[], &wrong);
        assert!(ran.err.contains(code) && ran.code == 2, "{}: {}", ran.code, ran.err);
    }
}
