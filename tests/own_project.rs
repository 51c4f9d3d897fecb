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

/// A column's node is its dataset, version and place; its identity over versions is the dataset's id and the field's.
#[test]
fn renaming_and_reformatting_keep_the_identity_of_datasets_and_columns() {
    let world = World::published();
    let replace = |file: &str, from: &str, to: &str| {
        let file = world.project().join(file);
        let text = fs::read_to_string(&file).unwrap();
        assert!(text.contains(from), "{text}");
        fs::write(file, text.replace(from, to)).unwrap();
    };
    let ids = |dataset: &str| {
        let text = format!("SELECT dataset_id FROM system.catalog.datasets WHERE dataset = '{dataset}'");
        let columns = format!(
            "SELECT field_id FROM system.catalog.columns WHERE dataset = '{dataset}' ORDER BY version DESC, ordinal"
        );
        let ask = |text: &str| world.run(&["--format", "csv", "sql", "-c", text]).code(0);
        (ask(&text), ask(&columns).lines().take(5).collect::<Vec<_>>().join(","))
    };
    let before = (ids("features.diagnosis_burden"), ids("raw.diagnoses"));

    // Another layout of the same query is the same version.
    replace("features/diagnosis_burden.sql", "AS SELECT p.id,", "AS\n  SELECT   p.id ,");
    let told = world.run(&["publish", "-m", "reformatted"]).err;
    assert!(told.contains("nothing changed"), "{told}");

    // A source, a view and a column get other names.
    replace("sources/clinic.sql", "CREATE SOURCE raw.diagnoses", "CREATE SOURCE raw.findings");
    replace("features/diagnosis_burden.sql", "FEATURE VIEW features.diagnosis_burden", "FEATURE VIEW features.burden");
    replace("features/diagnosis_burden.sql", "raw.diagnoses", "raw.findings");
    replace("features/diagnosis_burden.sql", "n_codes", "n_kinds");
    replace("features/risk_inputs.sql", "features.diagnosis_burden", "features.burden");
    replace("policies/clinic.sql", "raw.diagnoses", "raw.findings");
    let clause = "COMMENT 'how many diagnoses";
    let renames =
        "RENAMED FROM features.diagnosis_burden COLUMN n_kinds RENAMED FROM n_codes\n  COMMENT 'how many diagnoses";
    replace("features/diagnosis_burden.sql", clause, renames);
    let sources = fs::read_to_string(world.project().join("sources/clinic.sql")).unwrap();
    let at = sources.find("CREATE SOURCE raw.findings").unwrap();
    let end = at + sources[at..].find(';').unwrap();
    let renamed = format!("{} RENAMED FROM raw.diagnoses{}", &sources[..end], &sources[end..]);
    fs::write(world.project().join("sources/clinic.sql"), renamed).unwrap();
    world.run(&["policy", "apply", "-m", "renamed"]).code(0);
    world.run(&["publish", "-m", "renamed", "--accept-breaking"]).code(0);
    assert_eq!((ids("features.burden"), ids("raw.findings")), before);
    let kinds = "SELECT field_id FROM system.catalog.columns WHERE dataset = 'features.burden' \
                 AND column_name IN ('n_codes', 'n_kinds')";
    let kinds = world.run(&["--format", "csv", "sql", "-c", kinds]).code(0);
    let kinds: Vec<_> = kinds.lines().skip(1).collect();
    assert!(matches!(kinds[..], [a, b] if a == b), "{kinds:?}");
    world.sql("researcher", "SELECT n_kinds FROM features.burden");
    world.sql("researcher", "SELECT n_codes FROM features.burden VERSION 1");
    world.run(&["sql", "-c", "SELECT * FROM features.diagnosis_burden"]).code(6);
    let told = world.run(&["publish", "-m", "again"]).err;
    assert!(told.contains("nothing changed"), "{told}");
}

#[test]
fn a_rename_of_nothing_or_of_what_stays_is_refused_with_its_place() {
    let world = World::published();
    let file = world.project().join("features/lab_trend.sql");
    let text = fs::read_to_string(&file).unwrap();
    for (clause, refusal) in [
        ("RENAMED FROM raw.labs", "`raw.labs` is still defined"),
        ("COLUMN ts RENAMED FROM nothing", ""),
        ("COLUMN nothing RENAMED FROM ts", "there is no column `nothing`"),
        ("COLUMN ts RENAMED FROM id", "column `id` is still there"),
    ] {
        fs::write(&file, text.replace("COMMENT", &format!("{clause} COMMENT"))).unwrap();
        let ran = world.run(&["plan"]);
        if refusal.is_empty() {
            // A clause that has done its work stays without effect.
            ran.code(0);
        } else {
            assert!(ran.code == 1 && ran.err.contains(refusal), "{clause}: {}", ran.err);
            assert!(ran.err.contains("features/lab_trend.sql:"), "{}", ran.err);
        }
    }
    fs::rename(&file, world.project().join("features/trend.sql")).unwrap();
    let text = text.replace("features.lab_trend", "features.trend");
    let text = text.replace("COMMENT", "RENAMED FROM features.nothing COMMENT");
    fs::write(world.project().join("features/trend.sql"), text).unwrap();
    let ran = world.run(&["plan", "--select", "trend"]);
    assert!(ran.err.contains("there is no `features.nothing` to be renamed"), "{}", ran.err);
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

/// Owner and purposes are the dataset's, not a version's: no new version is needed to take a purpose away.
#[test]
fn a_purpose_taken_away_is_taken_from_versions_already_published() {
    let world = World::published();
    let view = world.project().join("features/risk_inputs.sql");
    let ask = "SELECT count(*) > 0 AS any FROM features.risk_inputs VERSION 1";
    assert_eq!(world.sql("researcher", ask), "any\ntrue\n");

    let text = fs::read_to_string(&view).unwrap();
    fs::write(&view, text.replace("OWNER hepatology", "OWNER hepatology PURPOSE care")).unwrap();
    let told = world.run(&["publish", "-m", "for care only"]);
    assert!(told.err.contains("Unchanged features.risk_inputs@1"), "{}", told.err);
    let refused = world.run(&["--as", "researcher", "sql", "-c", ask]);
    assert_eq!(refused.code, 6, "{}", refused.err);
    assert!(refused.err.contains("C6001"), "{}", refused.err);
}
