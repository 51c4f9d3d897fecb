//! A project of one's own: the README's commands, word by word.

use crate::support::{Ran, World, repository};
use std::{fs, path::Path, process::Command};

/// The first fenced block of a language after a marker.
fn block<'a>(text: &'a str, marker: &str, language: &str) -> &'a str {
    let rest = text.split_once(marker).unwrap_or_else(|| panic!("README has no {marker}")).1;
    let rest = rest.split_once(&format!("```{language}\n")).expect("a block follows").1;
    rest.split_once("```").expect("the block ends").0
}

#[test]
fn the_readme_leads_from_an_empty_folder_to_an_answer() {
    let readme = fs::read_to_string(repository().join("README.md")).unwrap();
    let world = World::empty();
    let mut shell = Command::new("bash");
    world.environment(&mut shell);
    let binary = Path::new(env!("CARGO_BIN_EXE_custody")).parent().unwrap().display().to_string();
    shell.env("PATH", format!("{binary}:{}", std::env::var("PATH").unwrap()));
    let ran: Ran =
        shell.args(["-euo", "pipefail", "-c", block(&readme, "<!-- own-project -->", "sh")]).output().unwrap().into();
    assert_eq!(ran.code(0), block(&readme, "<!-- own-project -->", "json"));
}

#[test]
fn a_folder_of_csv_files_becomes_a_feature() {
    let world = World::empty();
    let shop = world.project().join("shop");
    world.run(&["init", "shop"]).code(0);
    let run = |arguments: &[&str]| world.run(&[&["--project", shop.to_str().unwrap()], arguments].concat());
    let write = |path: &str, text: &str| {
        let path = shop.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    };
    write("raw/orders/orders.csv", "id,ts,amount\n1,2026-01-01T00:00:00Z,10.5\n1,2026-01-02T00:00:00Z,4.5\n");
    write(
        "sources/orders.sql",
        "CREATE SOURCE raw.orders (id BIGINT NOT NULL, ts TIMESTAMP NOT NULL, amount DOUBLE)\n\
         FROM CSV 'raw/orders' ENTITY customer (id) EVENT TIME ts;\n",
    );
    write(
        "features/spend.sql",
        "CREATE FEATURE VIEW features.spend ENTITY customer (id) EVENT TIME ts\n\
         AS SELECT id, max(ts) AS ts, sum(amount) AS total FROM raw.orders GROUP BY id;\n",
    );
    run(&["publish", "-m", "first"]).code(0);
    let rows = run(&["sql", "-c", "SELECT id, total FROM features.spend"]).code(0);
    assert_eq!(rows.trim(), r#"{"id":1,"total":15.0}"#);
    let again = run(&["publish", "-m", "again"]);
    assert!(again.err.contains("nothing changed"), "{}", again.err);
    run(&["verify", "features.spend@1", "--deep"]).code(0);
}

#[test]
fn both_commands_of_the_readme_are_those_that_ci_runs() {
    let readme = fs::read_to_string(repository().join("README.md")).unwrap();
    assert_eq!(block(&readme, "## See it", "sh"), "cargo run -- demo\n");
    let test = block(&readme, "## Test it", "sh");
    assert_eq!(test, "cargo test --workspace\n");
    let ci = fs::read_to_string(repository().join(".ci/run")).unwrap();
    assert!(ci.ends_with(test), "the last step of .ci/run is the README's test command");
}
