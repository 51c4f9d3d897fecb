//! The ledger's verdict as an exit code.

use crate::support::{World, copy};
use std::fs;

#[test]
fn without_memory_outside_freshness_is_unproven_and_with_it_proven() {
    let world = World::published();
    let kept = world.run(&["ledger", "keep"]).code(0);
    let file = world.beside("kept");
    fs::write(&file, kept).unwrap();
    let mirror = world.beside("mirror");
    copy(&world.project().join("warehouse/ledger"), &mirror);
    world.sql("researcher", "SELECT count(*) AS n FROM features.patient_profile");
    let told = world.run(&["ledger", "verify"]).code(8);
    assert!(told.contains("freshness unproven"), "{told}");
    world.run(&["ledger", "verify", "--since", file.to_str().unwrap()]).code(0);
    let told = world.run(&["ledger", "verify", "--mirror", mirror.to_str().unwrap()]).code(0);
    assert!(told.contains("fresh"), "{told}");
}

#[test]
fn one_flipped_bit_is_tampering() {
    let world = World::published();
    let segment = world.project().join("warehouse/ledger/w/cli-0/seg/000000000001.seg");
    let mut bytes = fs::read(&segment).unwrap();
    // Beyond the segment's header (512 bytes) and the frame's (104): in the first entry.
    bytes[512 + 104 + 20] ^= 1;
    fs::write(&segment, bytes).unwrap();
    world.run(&["ledger", "verify"]).code(4);
}

#[test]
fn a_ledger_older_than_what_was_kept_is_tampering() {
    let world = World::published();
    let old = world.beside("old");
    let ledger = world.project().join("warehouse/ledger");
    copy(&ledger, &old);
    world.sql("researcher", "SELECT count(*) AS n FROM features.patient_profile");
    let file = world.beside("kept");
    fs::write(&file, world.run(&["ledger", "keep"]).code(0)).unwrap();
    fs::remove_dir_all(&ledger).unwrap();
    copy(&old, &ledger);
    world.run(&["ledger", "verify"]).code(8);
    world.run(&["ledger", "verify", "--since", file.to_str().unwrap()]).code(4);
}

#[test]
fn proofs_hold_without_the_warehouse() {
    let world = World::published();
    let path = |name: &str| world.beside(name).to_str().unwrap().to_string();
    let (kept, key, proof, grown) = (path("kept"), path("root.key"), path("entry.proof"), path("grown.proof"));
    fs::write(&kept, world.run(&["ledger", "keep"]).code(0)).unwrap();
    fs::write(&key, world.run(&["ledger", "root-key"]).code(0)).unwrap();
    world.run(&["--as", "auditor", "ledger", "prove", "cli-0/3", "-o", &proof]).code(0);
    world.run(&["ledger", "consistency", &kept, "-o", &grown]).code(0);
    let check = |proof: &str, code| world.run(&["ledger", "check-proof", proof, "--root-key", &key]).code(code);
    assert!(check(&proof, 0).starts_with("entry 3 of "), "{}", check(&proof, 0));
    assert!(check(&grown, 0).contains(" entries continue "));
    // Taking an entry out is a read like any other.
    let log =
        world.sql("auditor", "SELECT count(*) AS n FROM system.access.audit WHERE dataset = 'system.ledger.entries'");
    assert!(log.contains('1') || log.contains('2'), "{log}");
    let mut bytes = fs::read(&proof).unwrap();
    assert!(bytes.len() <= 1536, "{} bytes", bytes.len());
    let last = bytes.len() - 40;
    bytes[last] ^= 1;
    fs::write(&proof, bytes).unwrap();
    check(&proof, 4);
    fs::write(&proof, "nonsense").unwrap();
    check(&proof, 1);
    let told = world.run(&["--as", "auditor", "ledger", "prove", "cli-0/999999", "-o", &proof]);
    assert_ne!(told.code, 0);
}

#[test]
fn a_changed_data_file_is_found() {
    let world = World::published();
    world.run(&["verify", "features.lab_trend@1", "--deep"]).code(0);
    let mut files = vec![];
    find(&world.project().join("warehouse/data"), &mut files);
    for file in files {
        let mut bytes = fs::read(&file).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::write(&file, bytes).unwrap();
    }
    world.run(&["verify", "features.lab_trend@1"]).code(4);
}

fn find(folder: &std::path::Path, found: &mut Vec<std::path::PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            find(&path, found);
        } else if path.extension().is_some_and(|e| e == "parquet") {
            found.push(path);
        }
    }
}
