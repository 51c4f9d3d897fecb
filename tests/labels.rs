//! Classes follow lineage: what a source column is tagged as holds for every feature made of it, before and after.

use crate::support::World;
use std::fs;

/// The classes of `bmi` in two views, one made of the other.
fn classes(world: &World) -> String {
    let text = "SELECT dataset, array_to_string(classes, ' + ') AS classes FROM system.catalog.columns \
                WHERE column_name = 'bmi' ORDER BY dataset";
    world.run(&["--format", "csv", "sql", "-c", text]).code(0)
}

fn retag(world: &World, from: &str, to: &str, why: &str) {
    let file = world.project().join("policies/clinic.sql");
    let text = fs::read_to_string(&file).unwrap();
    assert!(text.contains(from), "{text}");
    fs::write(&file, text.replace(from, to)).unwrap();
    world.run(&["policy", "apply", "-m", why]).code(0);
}

const BEFORE: &str = "dataset,classes\nfeatures.patient_profile,clinical\nfeatures.risk_inputs,clinical\n";

#[test]
fn a_tag_that_comes_later_protects_what_is_published_already() {
    let world = World::published();
    let bmi = "SELECT bmi FROM features.risk_inputs VERSION 1 WHERE bmi IS NOT NULL ORDER BY id, ts LIMIT 1";
    let raw = world.sql("researcher", bmi);
    assert_eq!(classes(&world), BEFORE);

    let (as_clinical, as_quasi) = ("raw.patients.sex, raw.patients.weight,", "raw.patients.sex,");
    let tags = "TAG COLUMN raw.patients.weight, raw.patients.postcode,";
    retag(&world, as_clinical, as_quasi, "weight is not tagged");
    retag(&world, "TAG COLUMN raw.patients.postcode,", tags, "weight helps to guess who it is");
    let quasi = "dataset,classes\nfeatures.patient_profile,clinical + pii + quasi\n\
                 features.risk_inputs,clinical + pii + quasi\n";
    assert_eq!(classes(&world), quasi);
    // In tens, as ages are.
    let coarse = world.sql("researcher", bmi);
    assert_ne!(coarse, raw);
    assert!(coarse.trim_end().ends_with("0.0"), "{coarse}");

    // What is published from here on carries them as well, and a deep verification still holds.
    let told = world.run(&["publish", "-m", "again"]).err;
    assert!(told.contains("nothing changed"), "{told}");
    world.run(&["verify", "features.risk_inputs@1", "--deep"]).code(0);

    retag(&world, tags, "TAG COLUMN raw.patients.postcode,", "not after all");
    retag(&world, as_quasi, as_clinical, "as before");
    assert_eq!(classes(&world), BEFORE);
    assert_eq!(world.sql("researcher", bmi), raw);
}

#[test]
fn nobody_becomes_owner_by_saying_so() {
    let world = World::published();
    let cedar = world.project().join("policies/clinic.cedar");
    let text = fs::read_to_string(&cedar).unwrap();
    let only = "\n@id(\"owners_publish\")\nforbid (principal, action == Action::\"publish\", resource is Table)\n\
                unless { resource.owner == \"hepatology\" || resource.owner == \"clinic\" };\n";
    fs::write(&cedar, text + only).unwrap();
    world.run(&["policy", "apply", "-m", "only what is hepatology's"]).code(0);
    let view = world.project().join("features/lab_trend.sql");
    let text = fs::read_to_string(&view).unwrap();
    fs::write(&view, text.replace("OWNER hepatology", "OWNER cardiology")).unwrap();
    // Hepatology may give it away.
    world.run(&["publish", "-m", "given away"]).code(0);
    // It cannot take it back.
    fs::write(&view, &text).unwrap();
    let refused = world.run(&["publish", "-m", "taken back"]);
    assert_eq!(refused.code, 3, "{}", refused.err);
    assert!(refused.err.contains("you may not publish `features.lab_trend`"), "{}", refused.err);
}
