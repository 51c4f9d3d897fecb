//! The code has the shape that docs/ARCHITECTURE.md says.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|e| panic!("{path}: {e}"))
}

/// Crate → level, from the table.
fn levels() -> BTreeMap<String, u32> {
    read("docs/ARCHITECTURE.md")
        .lines()
        .filter_map(|line| {
            let mut cells = line.strip_prefix("| ")?.split(" | ");
            Some((cells.next()?.parse().ok()?, cells.next()?.to_string()))
        })
        .map(|(level, name)| (name, level))
        .collect()
}

/// Names under `[dependencies]`.
fn dependencies(name: &str) -> BTreeSet<String> {
    let manifest: toml::Table = toml::from_str(&read(&format!("crates/{name}/Cargo.toml"))).expect("a manifest");
    manifest["dependencies"].as_table().expect("a table").keys().cloned().collect()
}

/// The arrows that the table does not allow.
fn forbidden(levels: &BTreeMap<String, u32>, name: &str, dependencies: &BTreeSet<String>) -> Vec<String> {
    let own = levels[name];
    let ours = dependencies.iter().filter_map(|d| d.strip_prefix("custody-"));
    ours.filter(|d| levels.get(*d).is_none_or(|level| *level >= own)).map(|d| format!("{name} -> {d}")).collect()
}

#[test]
fn arrows_point_downwards() {
    let levels = levels();
    let folders: BTreeSet<String> = fs::read_dir(root().join("crates"))
        .expect("crates")
        .map(|e| e.expect("an entry").file_name().to_string_lossy().into_owned())
        .collect();
    assert_eq!(levels.keys().cloned().collect::<BTreeSet<_>>(), folders, "the table names every crate");
    for name in &folders {
        assert_eq!(forbidden(&levels, name, &dependencies(name)), Vec::<String>::new());
    }
    let added = BTreeSet::from(["custody-ledger".to_string(), "custody-engine".to_string()]);
    assert_eq!(forbidden(&levels, "policy", &added), ["policy -> engine", "policy -> ledger"]);
}

#[test]
fn brains_are_pure() {
    for name in ["dialect", "lineage", "policy", "ledger", "catalog"] {
        let found: Vec<_> =
            ["tokio", "object_store", "rustix"].into_iter().filter(|d| dependencies(name).contains(*d)).collect();
        assert!(found.is_empty(), "{name} depends on {found:?}");
    }
}

#[test]
fn every_crate_forbids_unsafe_code() {
    for name in levels().keys() {
        let file = if name == "cli" { "main.rs" } else { "lib.rs" };
        let text = read(&format!("crates/{name}/src/{file}"));
        assert!(text.contains("#![forbid(unsafe_code)]"), "{name}");
    }
}

#[test]
fn one_copy_of_each_foundation() {
    let lock: toml::Table = toml::from_str(&read("Cargo.lock")).expect("a lock file");
    let packages = lock["package"].as_array().expect("packages");
    for name in ["arrow", "arrow-array", "parquet", "datafusion", "datafusion-common", "object_store", "tonic"] {
        let copies = packages.iter().filter(|p| p["name"].as_str() == Some(name)).count();
        assert_eq!(copies, 1, "{name}");
    }
}
