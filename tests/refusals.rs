//! What is refused, and how it reads: `testdata/refusals.txt` holds statements, who asks, and all that they are told.
//! `UPDATE_EXPECT=1` writes the file anew.

use crate::support::{World, repository};
use std::{fs, path::Path};

/// Runs every case of the file, in order, in one project, and gives the file as it should read.
fn answered(world: &World, cases: &str) -> String {
    let mut told = String::new();
    for part in cases.split("\n\n== ").enumerate() {
        match part {
            (0, header) => told.push_str(header),
            (_, case) => {
                let (asked, _) = case.split_once("\n--").unwrap();
                let (principal, statement) = asked.split_once(": ").unwrap();
                let ran = world.run(&["--as", principal, "sql", "-c", statement]);
                let error: Vec<_> = ran.err.lines().filter(|l| !l.trim_start().starts_with("recorded as")).collect();
                let error = error.join("\n");
                assert_eq!(ran.out, "", "{asked}");
                told.push_str(&format!("\n\n== {asked}\n--\nexit {}\n{}", ran.code, error.trim_end()));
            }
        }
    }
    told + "\n"
}

#[test]
fn refusals_say_what_is_wrong_where_and_what_to_do() {
    let file = repository().join("testdata/refusals.txt");
    let expected = fs::read_to_string(&file).unwrap();
    let found = answered(&World::published(), expected.trim_end());
    if std::env::var_os("UPDATE_EXPECT").is_some() {
        fs::write(&file, &found).unwrap();
    }
    for (found, expected) in found.split("\n\n== ").zip(expected.split("\n\n== ")) {
        assert_eq!(found, expected, "run with UPDATE_EXPECT=1 and read the difference");
    }
    assert_eq!(found.len(), expected.len());
}

#[test]
fn denied_and_missing_are_the_same_but_for_the_name() {
    let world = World::published();
    let ask = |table: &str| {
        let ran = world.run(&["--as", "billing", "sql", "-c", &format!("SELECT count(*) FROM raw.{table}")]);
        assert_eq!(ran.code, 6);
        let kept = ran.err.lines().filter(|l| !l.contains("recorded as"));
        kept.collect::<Vec<_>>().join("\n").replace(table, "TABLE")
    };
    // Names of one length, so that the caret is as wide.
    assert_eq!(ask("patients"), ask("nonesuch"));
}

#[test]
fn a_cycle_is_refused_with_its_path() {
    let world = World::fresh();
    for (view, of) in [("first", "second"), ("second", "third"), ("third", "first")] {
        write(&world.project().join(format!("features/{view}.sql")), view, of);
    }
    for command in ["lint", "plan"] {
        let ran = world.run(&[command]);
        assert_eq!(ran.code, 1, "{}", ran.err);
        let cycle = "cycle: features.first → features.second → features.third → features.first";
        assert!(ran.err.contains(cycle) && ran.err.contains("features/third.sql:2:23"), "{command}: {}", ran.err);
    }
}

fn write(file: &Path, view: &str, of: &str) {
    let text = format!(
        "CREATE FEATURE VIEW features.{view} ENTITY patient (id) EVENT TIME ts\nAS SELECT id, ts FROM features.{of};\n"
    );
    fs::write(file, text).unwrap();
}

#[test]
fn a_purpose_is_one_of_those_given_and_a_stand_in_is_allowed() {
    let world = World::published();
    let user = world.beside("home/custody/config.toml");
    let text = fs::read_to_string(&user).unwrap();
    let refused = |arguments: &[&str], want: &str| {
        let ran = world.run(&[arguments, &["sql", "-c", "SELECT 1"]].concat());
        assert_eq!(ran.code, 3, "{arguments:?}: {}", ran.err);
        assert!(ran.err.contains(want), "{arguments:?}: {}", ran.err);
    };
    refused(&["--as", "researcher", "--purpose", "sale"], "purpose `sale` is not among those of `researcher`");
    fs::write(&user, text.replace("impersonate = true", "impersonate = false")).unwrap();
    refused(&["--as", "researcher"], "you may not act as `researcher`");
    fs::write(&user, text + "\n[local]\npurposes = [\"build\"]\n").unwrap();
    refused(&["--purpose", "sale"], "purpose `sale` is not among yours");
}
