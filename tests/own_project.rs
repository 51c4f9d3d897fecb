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
fn both_commands_of_the_readme_are_those_that_ci_runs() {
    let readme = fs::read_to_string(repository().join("README.md")).unwrap();
    assert_eq!(block(&readme, "## See it", "sh"), "cargo run -- demo\n");
    let test = block(&readme, "## Test it", "sh");
    assert_eq!(test, "cargo test --workspace\n");
    let ci = fs::read_to_string(repository().join(".ci/run")).unwrap();
    assert!(ci.ends_with(test), "the last step of .ci/run is the README's test command");
}
