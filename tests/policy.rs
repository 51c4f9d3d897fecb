//! `custody policy`: tests of policies, replay, decisions of earlier bundles.

use crate::support::World;
use std::fs;

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
