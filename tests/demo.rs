//! README command 1 on fewer rows: the whole promise, each step checked by the command itself.

use crate::support::World;

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
fn the_same_seed_gives_the_same_bytes_of_data_and_content() {
    let roots = |world: &World| {
        world.sql("auditor", "SELECT 1 AS x");
        let versions = "SELECT dataset, content_root FROM system.catalog.versions ORDER BY dataset";
        world.run(&["--format", "csv", "sql", "-c", versions]).code(0)
    };
    let (first, second) = (World::published(), World::fresh());
    second.run(&["publish", "-m", "elsewhere"]).code(0);
    let roots = (roots(&first), roots(&second));
    assert_eq!(roots.0, roots.1);
    assert!(roots.0.contains("features.risk_inputs"), "{}", roots.0);
}
