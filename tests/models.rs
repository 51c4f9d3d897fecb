//! Acts about versions, and models with receipts that stand alone.

use crate::support::World;
use std::{fs, path::Path};

fn edit(file: &Path, from: &str, to: &str) {
    let text = fs::read_to_string(file).unwrap();
    assert!(text.contains(from), "{text}");
    fs::write(file, text.replace(from, to)).unwrap();
}

#[test]
fn versions_are_advised_against_and_taken_out_of_use_without_changing() {
    let world = World::published();
    world.run(&["train-set", "build", "training.mortality", "-m", "first model"]).code(0);
    let view = world.project().join("features/lab_trend.sql");
    edit(&view, "'730 days'", "'365 days'");
    world.run(&["publish", "-m", "shorter windows"]).code(0);
    let newest = || {
        let asked = "SELECT count(*) AS n FROM features.lab_trend AS a FULL JOIN features.lab_trend VERSION 1 AS b ON a.id = b.id AND a.ts = b.ts \
                     AND a.hdl_mean_2y IS NOT DISTINCT FROM b.hdl_mean_2y WHERE a.id IS NULL OR b.id IS NULL";
        world.run(&["--format", "csv", "sql", "-c", asked])
    };
    assert_ne!(newest().code(0), "n\n0\n", "version 2 is another");
    world.run(&["deprecate", "features.lab_trend", "-m", "which"]).code(2);
    world.run(&["--as", "researcher", "revoke", "features.lab_trend@2", "-m", "not mine"]).code(3);
    world.run(&["--as", "billing", "revoke", "features.lab_trend@2", "-m", "not seen"]).code(6);
    world.run(&["revoke", "features.lab_trend@2", "-m", "wrong unit"]).code(0);
    assert_eq!(newest().code(0), "n\n0\n", "the newest is the newest that is left");
    let pinned = world.run(&["sql", "-c", "SELECT * FROM features.lab_trend VERSION 2"]);
    assert!(pinned.code == 3 && pinned.err.contains("`features.lab_trend@2` is revoked: wrong unit"), "{}", pinned.err);
    world.run(&["--as", "billing", "sql", "-c", "SELECT * FROM features.lab_trend VERSION 2"]).code(6);
    let again = world.run(&["publish", "-m", "again", "-s", "lab_trend"]);
    assert!(again.code == 1 && again.err.contains("C1149") && again.err.contains("wrong unit"), "{}", again.err);

    world.run(&["deprecate", "features.lab_trend@1", "-m", "old windows"]).code(0);
    let statuses =
        "SELECT version, status FROM system.catalog.versions WHERE dataset = 'features.lab_trend' ORDER BY version";
    assert_eq!(
        world.run(&["--format", "csv", "sql", "-c", statuses]).code(0),
        "version,status\n1,deprecated\n2,revoked\n"
    );
    world.run(&["verify", "features.lab_trend@2", "--deep"]).code(0);
    // What was built before can still be shown to be what it is.
    world.run(&["revoke", "features.lab_trend@1", "-m", "wrong unit too"]).code(0);
    world.run(&["train-set", "replay", "training.mortality@1"]).code(0);
    world.run(&["train-set", "build", "training.mortality", "-m", "second model"]).code(6);
    world.run(&["ledger", "verify"]).code(8);
}

#[test]
fn a_models_receipt_is_checked_without_the_warehouse() {
    let world = World::published();
    world.run(&["train-set", "build", "training.mortality", "-m", "first model"]).code(0);
    let at = |name: &str| world.beside(name).to_str().unwrap().to_string();
    let (artifact, receipt, key) = (at("model.bin"), at("model.dsse"), at("root.key"));
    fs::write(&artifact, "coefficients").unwrap();
    fs::write(&key, world.run(&["ledger", "root-key"]).code(0)).unwrap();
    let register = |set: &str| {
        let arguments = ["model", "register", "mortality", "--training-set", set, "--artifact", &artifact];
        world.run(&[&arguments[..], &["--receipt", &receipt, "-m", "first"]].concat())
    };
    assert!(register("features.lab_trend@1").err.contains("is not a training set"));
    register("training.none@1").code(6);
    let registered = register("training.mortality@1");
    assert!(registered.err.contains("Registered mortality@1 of training.mortality@1"), "{}", registered.err);
    assert!(register("training.mortality@1").err.contains("Registered mortality@2"));
    let listed =
        "SELECT model, version, dataset, dataset_version, artifact_bytes FROM system.catalog.models ORDER BY version";
    let listed = world.run(&["--format", "csv", "sql", "-c", listed]).code(0);
    assert!(listed.ends_with("mortality,1,training.mortality,1,12\nmortality,2,training.mortality,1,12\n"), "{listed}");

    // Elsewhere: no project, no warehouse.
    let alone = World::empty();
    let check = || alone.run(&["model", "check", &receipt, "--artifact", &artifact, "--root-key", &key]);
    let told = check();
    assert!(told.out.starts_with("model mortality@2 of training set version 1, root "), "{}{}", told.out, told.err);
    told.code(0);
    fs::write(&artifact, "other coefficients").unwrap();
    assert!(check().code(4).contains("the artifact has SHA3-256"));
    fs::write(&artifact, "coefficients").unwrap();

    // Every byte of the envelope counts: what still reads is false.
    let original = fs::read(&receipt).unwrap();
    let mut refused = 0;
    for i in (0..original.len()).step_by(original.len() / 40) {
        let mut bytes = original.clone();
        bytes[i] ^= 2;
        fs::write(&receipt, bytes).unwrap();
        let code = check().code;
        assert!(matches!(code, 1 | 4), "byte {i}: {code}");
        refused += 1;
    }
    assert!(refused >= 40);
    fs::write(&receipt, &original).unwrap();
    let other = World::published();
    fs::write(&key, other.run(&["ledger", "root-key"]).code(0)).unwrap();
    check().code(0);
    let foreign = World::empty();
    foreign.run(&["init", "other"]).code(0);
    let project = foreign.project().join("other");
    fs::write(&key, foreign.run(&["--project", project.to_str().unwrap(), "ledger", "root-key"]).code(0)).unwrap();
    assert_ne!(check().code, 0, "a ledger's root key vouches for that ledger alone");
}

#[test]
fn a_view_that_hides_when_its_inputs_became_known_is_refused() {
    let world = World::fresh();
    let view = world.project().join("features/lab_trend.sql");
    edit(&view, "max(loaded_at) OVER w", "max(ts) OVER w");
    let refused = world.run(&["publish", "-m", "leaks", "-s", "lab_trend"]);
    assert!(refused.code == 1, "{}", refused.err);
    assert!(refused.err.contains("`features.lab_trend` hides the known time of `raw.labs`"), "{}", refused.err);
}
