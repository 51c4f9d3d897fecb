//! Published versions are plain Delta tables: foreign readers find the rows that `custody read` gives.

use crate::support::{World, python};
use std::{fs, path::PathBuf};

#[test]
fn foreign_readers_of_delta_find_the_same_rows() {
    let Some(python) = python() else { return };
    let world = World::published();
    let identities = "SELECT dataset, identity FROM system.catalog.versions WHERE dataset LIKE 'features.%'";
    let listed = world.run(&["--format", "csv", "sql", "-c", identities]).code(0);
    let mut versions = 0;
    for line in listed.lines().skip(1) {
        let (dataset, identity) = line.split_once(',').unwrap();
        let read = world.beside("read.parquet");
        let read = read.to_str().unwrap();
        world.run(&["read", &format!("{dataset}@1"), "--output", read]).code(0);
        let table = table(&world, &identity[..32]);
        let told = world.script(&python, "readers.py", &[("READ", read), ("TABLE", table.to_str().unwrap())]);
        let found: Vec<_> = told.lines().collect();
        assert!(
            matches!(found[..], [a, b] if a.ends_with(", the same") && b.ends_with(", the same")),
            "{dataset}: {told}"
        );
        versions += 1;
    }
    assert_eq!(versions, 4);
}

/// The Delta folder of a version: below its dataset's, named by the first digits of its identity.
fn table(world: &World, name: &str) -> PathBuf {
    let datasets = fs::read_dir(world.project().join("warehouse/data")).unwrap();
    datasets.map(|d| d.unwrap().path().join(name)).find(|p| p.is_dir()).unwrap()
}

/// Vacuum by delta-rs removes nothing that a version holds, so that a training set is replayed and verified after it.
#[test]
fn a_vacuum_by_others_removes_nothing_of_a_version() {
    let Some(python) = python() else { return };
    let world = World::published();
    world.run(&["train-set", "build", "training.mortality", "-m", "first model"]).code(0);
    let identities =
        "SELECT dataset, identity FROM system.catalog.versions WHERE identity IS NOT NULL AND dataset NOT LIKE 'raw.%'";
    let listed = world.run(&["--format", "csv", "sql", "-c", identities]).code(0);
    assert_eq!(listed.lines().count(), 6, "{listed}");
    for line in listed.lines().skip(1) {
        let (dataset, identity) = line.split_once(',').unwrap();
        let table = table(&world, &identity[..32]);
        assert_eq!(world.script(&python, "vacuum.py", &[("TABLE", table.to_str().unwrap())]).trim(), "removed 0");
        world.run(&["verify", &format!("{dataset}@1"), "--deep"]).code(0);
    }
    let replayed = world.run(&["train-set", "replay", "training.mortality@1"]);
    assert!(replayed.err.contains("byte for byte the files published"), "{}", replayed.err);
    replayed.code(0);
}
