//! README command 1 on fewer rows: the whole promise, each step checked by the command itself.

use crate::support::World;
use expect_test::expect;
use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

#[test]
fn the_demo_shows_everything_and_a_second_publish_changes_nothing() {
    let world = World::empty();
    let demo = world.beside("clinic");
    let demo = demo.to_str().unwrap();
    let told = world.run(&["demo", demo, "--divide", "50"]).code(0);
    for (number, part) in [
        "a project and its data",
        "the features, computed",
        "one feature over Arrow Flight",
        "exactly those reads, in the ledger",
        "where one served column comes from",
        "the ledger, verified",
    ]
    .iter()
    .enumerate()
    {
        assert!(told.contains(&format!("== {}  {part}", number + 1)), "part {} is missing:\n{told}", number + 1);
    }
    assert!(told.contains("billing: C6001 table `features.patient_profile` not found"), "{told}");
    let again = world.run(&["--project", demo, "publish", "-m", "again"]);
    assert!(again.err.contains("nothing changed: nothing computed, nothing published"), "{}", again.err);
    again.code(0);
}

#[test]
fn the_sources_are_as_large_as_promised_and_the_same_seed_gives_the_same_bytes() {
    let world = World::empty();
    let made = [("first", "7"), ("second", "7"), ("third", "8")].map(|(name, seed)| {
        let folder = world.beside(name);
        let ran = world.run(&["init", "--demo", "clinic", folder.to_str().unwrap(), "--seed", seed]);
        assert_eq!(ran.code, 0, "{}", ran.err);
        (ran.err, bytes(&folder.join("warehouse/raw")))
    });
    let told: Vec<_> = made[0].0.lines().filter(|l| l.starts_with("generated")).collect();
    expect![[r#"
        generated patients      17549 synthetic rows
        generated labs         400123 synthetic rows
        generated diagnoses     34340 synthetic rows
        generated landmarks     87745 synthetic rows
    "#]]
    .assert_eq(&(told.join("\n") + "\n"));
    assert_eq!(made[0].1.len(), 4);
    assert!(made[0].1 == made[1].1, "the same seed gave other bytes");
    assert!(made[0].1 != made[2].1, "another seed gave the same bytes");
}

/// The files of a folder's folders, by name.
fn bytes(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let files = fs::read_dir(folder).unwrap().flat_map(|d| fs::read_dir(d.unwrap().path()).unwrap());
    let files = files.map(|f| f.unwrap().path());
    files.map(|f| (f.strip_prefix(folder).unwrap().to_path_buf(), fs::read(&f).unwrap())).collect()
}

#[test]
fn a_plan_of_what_is_not_published_yet_tells_classes_and_readers_as_after_it() {
    let (before, after) = (World::fresh(), World::published());
    let view = after.project().join("features/risk_inputs.sql");
    let text = fs::read_to_string(&view).unwrap();
    fs::write(&view, text.replace("AS lipid_ratio", "AS lipid_quota")).unwrap();
    let readers = |world: &World| {
        let planned = world.run(&["plan", "--select", "risk_inputs"]);
        assert_eq!(planned.code, 5, "{}", planned.err);
        let own = planned.out.split("features.risk_inputs ->").last().unwrap().split("features.risk_inputs 1").last();
        let own: Vec<_> = own.unwrap().lines().filter(|l| l.contains("class ") || l.contains("raw: ")).collect();
        own.join("\n").replace("lipid_ratio", "lipid_quota")
    };
    let (before, after) = (readers(&before), readers(&after));
    assert!(before.contains("class clinical") && before.contains("researcher"), "{before}");
    assert_eq!(before, after);
}

#[test]
fn a_run_makes_drafts_and_a_publish_adopts_them() {
    let world = World::fresh();
    let told = world.run(&["run"]).err;
    assert_eq!(told.matches("Drafted").count(), 4, "{told}");
    world.run(&["sql", "-c", "SELECT * FROM features.lab_trend VERSION 1"]).code(6);
    let told = world.run(&["publish", "-m", "as drafted"]).err;
    assert_eq!(told.matches("(from the draft)").count(), 4, "{told}");
    let versions = "SELECT dataset, version, content_root FROM system.catalog.versions WHERE dataset LIKE 'features.%'";
    let roots = |world: &World| world.run(&["--format", "csv", "sql", "-c", versions]).code(0);
    assert_eq!(roots(&world), roots(&World::published()));
}

/// In another folder, on any number of partitions: views, and the training set over them.
#[test]
fn the_same_data_gives_the_same_content() {
    let roots = |world: &World| {
        world.run(&["train-set", "build", "training.mortality", "-m", "first model"]).code(0);
        let versions = "SELECT dataset, version, row_count, content_root FROM system.catalog.versions ORDER BY dataset";
        world.run(&["--format", "csv", "sql", "-c", versions]).code(0)
    };
    let first = roots(&World::published());
    assert!(first.contains("features.risk_inputs,1") && first.contains("training.mortality,1"), "{first}");
    for partitions in [1, 2, 8] {
        let world = World::fresh();
        let settings = world.project().join("custody.toml");
        let text = fs::read_to_string(&settings).unwrap();
        fs::write(&settings, format!("{text}\n[limits]\npartitions = {partitions}\n")).unwrap();
        world.run(&["publish", "-m", "elsewhere"]).code(0);
        assert_eq!(roots(&world), first, "{partitions} partitions");
    }
}
