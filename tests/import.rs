//! Events of others are kept as what they claim: apart from what the engine saw, and without any effect on it.

use crate::support::{World, repository};
use std::{fs, io::Write, process::Stdio};

/// What tells a row of column lineage, whoever says it.
const COLUMNS: &str =
    "dataset, version, output_column, source_dataset, source_version, source_column, kind, subtype, masking";

/// Runs `custody import openlineage` over a text.
#[track_caller]
fn import(world: &World, more: &[&str], text: &str, code: i32) -> String {
    let mut command = world.command();
    command.args(["--format", "json"]).args(more).args(["import", "openlineage", "-"]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // Who is refused may not have read it.
    let _ = child.stdin.take().unwrap().write_all(text.as_bytes());
    let ran = crate::support::Ran::from(child.wait_with_output().unwrap());
    let told = ran.err.clone();
    let out = ran.code(code);
    if code == 0 { out.trim().to_string() } else { told }
}

/// The rows of a query, sorted, below its header.
#[track_caller]
fn rows(world: &World, who: &str, text: &str) -> String {
    let found = world.sql(who, text);
    let (header, rows) = found.split_once('\n').unwrap();
    let mut rows: Vec<_> = rows.lines().collect();
    rows.sort_unstable();
    [&[header], rows.as_slice(), &[""]].concat().join("\n")
}

fn foreign() -> String {
    fs::read_to_string(repository().join("testdata/openlineage/foreign.ndjson")).unwrap()
}

#[test]
fn our_own_events_come_back_as_the_same_graph() {
    let world = World::fresh();
    let settings = world.project().join("custody.toml");
    let text = fs::read_to_string(&settings).unwrap();
    let section = "\n[openlineage]\nurl = \"events.ndjson\"\nroles = [\"care\"]\npurpose = \"care\"\n";
    fs::write(&settings, text + section).unwrap();
    world.run(&["publish", "-m", "first version"]).code(0);
    world.run(&["train-set", "build", "training.mortality", "-m", "first model"]).code(0);
    let told = world.run(&["--format", "json", "import", "openlineage", "events.ndjson"]).code(0);
    assert_eq!(told.trim(), r#"[{"events":10,"assertions":5,"externals":0,"known":0,"without_outputs":5}]"#);

    let differ = |table: &str, columns: &str| {
        let of = |origin: &str| format!("SELECT {columns} FROM system.lineage.{table} WHERE origin = '{origin}'");
        let (seen, said) = (of("observed"), of("asserted"));
        let count = |from: &str| format!("(SELECT count(*) FROM ({from}))");
        let text = format!(
            "SELECT {} AS only_seen, {} AS only_said, {} > 0 AS any",
            count(&format!("{seen} EXCEPT {said}")),
            count(&format!("{said} EXCEPT {seen}")),
            count(&format!("SELECT DISTINCT * FROM ({said})"))
        );
        world.sql("auditor", &text)
    };
    let same = "only_seen,only_said,any\n0,0,true\n";
    assert_eq!(differ("columns", COLUMNS), same);
    assert_eq!(differ("inputs", "dataset, version, input, input_version"), same);
    let enough = "SELECT count(DISTINCT dataset) AS datasets, count(*) > 60 AS enough, count(DISTINCT subtype) > 5 AS kinds \
                  FROM system.lineage.columns WHERE origin = 'asserted'";
    assert_eq!(world.sql("auditor", enough), "datasets,enough,kinds\n5,true,true\n");
}

#[test]
fn what_others_say_is_kept_as_they_say_it() {
    let world = World::published();
    let told = import(&world, &[], &foreign(), 0);
    assert_eq!(told, r#"[{"events":10,"assertions":8,"externals":11,"known":0,"without_outputs":3}]"#);
    let columns =
        format!("SELECT {COLUMNS}, output_ordinal, exact FROM system.lineage.columns WHERE origin = 'asserted'");
    let inputs = "SELECT dataset, version, input, input_version FROM system.lineage.inputs WHERE origin = 'asserted'";
    let datasets = "SELECT dataset, kind, owner FROM system.catalog.datasets WHERE kind = 'external' ORDER BY dataset";
    let mut found = String::new();
    for (who, what, text) in [
        ("auditor", "columns", columns.as_str()),
        ("auditor", "inputs", inputs),
        ("auditor", "datasets", datasets),
        ("researcher", "columns", &columns),
        ("researcher", "inputs", inputs),
        ("researcher", "datasets", datasets),
        ("billing", "columns", &columns),
        ("billing", "inputs", inputs),
    ] {
        found.push_str(&format!("== {who}: {what}\n{}\n", rows(&world, who, text)));
    }
    let file = repository().join("testdata/openlineage/foreign.txt");
    if std::env::var_os("UPDATE_EXPECT").is_some() {
        fs::write(&file, &found).unwrap();
    }
    assert_eq!(found, fs::read_to_string(&file).unwrap(), "run with UPDATE_EXPECT=1 and read the difference");

    // A source that sends twice, and a source that sends one more.
    let told = import(&world, &[], &foreign(), 0);
    assert_eq!(told, r#"[{"events":10,"assertions":0,"externals":0,"known":7,"without_outputs":3}]"#);
    let line = foreign().lines().nth(1).unwrap().to_string();
    let more = line.replace("orders.daily", "orders.hourly");
    let told = import(&world, &[], &format!("{line}\n{more}\n{more}\n"), 0);
    assert_eq!(told, r#"[{"events":3,"assertions":1,"externals":0,"known":2,"without_outputs":0}]"#);

    // Who said so is on record, and nobody reads what is known by name only.
    let acts = "SELECT principal, count(*) AS claims FROM system.access.audit \
                WHERE action = 'admin' AND dataset = 'features.patient_profile' GROUP BY principal";
    assert_eq!(world.sql("auditor", acts), "principal,claims\nlocal/tester,1\n");
    let name = found.lines().find(|l| l.contains(",external,")).unwrap().split(',').next().unwrap().to_string();
    world.run(&["--as", "auditor", "read", &name]).code(6);
    world.run(&["ledger", "verify"]);
}

#[test]
fn nothing_is_recorded_unless_all_of_it_is_good() {
    let world = World::published();
    let entries = "SELECT count(*) AS n FROM system.ledger.entries WHERE kind IN (1, 11)";
    let before = world.sql("auditor", entries);
    let told = import(&world, &[], &format!("{}nonsense\n", foreign()), 1);
    assert!(told.starts_with("C1150") && told.contains("line 11: this is not JSON"), "{told}");
    let told = import(&world, &[], "{\"eventTime\": \"now\"}", 1);
    assert!(told.starts_with("C1151") && told.contains("`producer` is missing"), "{told}");
    let long = foreign().replacen("mart/Orders", &"x".repeat(2_000), 1);
    let told = import(&world, &[], &long, 1);
    assert!(told.starts_with("C1152") && told.contains("`outputs[0].name` has more than 1024 bytes"), "{told}");
    let told = world.run(&["import", "openlineage", "no such file"]);
    assert!(told.err.starts_with("C2025"), "{}", told.err);
    told.code(2);
    assert_eq!(
        import(&world, &[], "\n\n", 0),
        r#"[{"events":0,"assertions":0,"externals":0,"known":0,"without_outputs":0}]"#
    );
    assert_eq!(world.sql("auditor", entries), before);

    // Not an administrator: denied before a line is read, and on record.
    let told = import(&world, &["--as", "researcher"], "nonsense", 3);
    assert!(told.starts_with("C3101") && told.contains("this needs role `admin`"), "{told}");
    let denied = "SELECT principal, action, outcome FROM system.access.audit WHERE action = 'deny'";
    assert_eq!(world.sql("auditor", denied), "principal,action,outcome\nresearcher,deny,denied\n");
}

/// Claims that a name comes from nowhere, that consent is a national number, and that a source is made of a feature.
const LIES: &str = r#"{"eventTime":"2026-03-01T04:00:00Z","producer":"https://example.org","schemaURL":"https://openlineage.io/spec/2-0-2/OpenLineage.json#/$defs/JobEvent","job":{"namespace":"n","name":"j"},"inputs":[],"outputs":[{"namespace":"custody://clinic","name":"features.patient_profile","facets":{"version":{"datasetVersion":"1"},"columnLineage":{"fields":{"name":{"inputFields":[]},"national_id":{"inputFields":[]},"bmi":{"inputFields":[]},"consent":{"inputFields":[{"namespace":"custody://clinic","name":"raw.patients","field":"national_id","transformations":[{"type":"DIRECT","subtype":"IDENTITY"}]}]}}}}},{"namespace":"custody://clinic","name":"raw.labs","facets":{"columnLineage":{"fields":{"value":{"inputFields":[{"namespace":"custody://clinic","name":"features.risk_inputs","field":"bmi"},{"namespace":"custody://clinic","name":"raw.patients","field":"national_id"}]}},"dataset":[{"namespace":"custody://clinic","name":"raw.patients","field":"name"}]}}}]}"#;

/// Everything that classes, lineage and grants amount to.
fn truth(world: &World) -> String {
    let queries = [
        "SELECT * EXCLUDE (classes), array_to_string(classes, '+') AS classes FROM system.catalog.columns ORDER BY node",
        "SELECT * FROM system.lineage.labels",
        "SELECT * FROM system.lineage.edges",
        "SELECT * EXCLUDE (via_view) FROM system.lineage.columns WHERE origin = 'observed'",
    ];
    let mut all: String = queries.iter().map(|text| rows(world, "auditor", text)).collect();
    for table in ["raw.patients", "raw.labs", "features.patient_profile", "features.risk_inputs"] {
        for (role, purpose) in [("research", "research"), ("training", "model_training"), ("care", "care")] {
            let decide = ["--purpose", purpose, "policy", "decide", table, "--role", role, "--attr", "region=eu"];
            all.push_str(&world.run(&decide).code(0));
        }
    }
    let profile = "SELECT * FROM features.patient_profile VERSION 1 ORDER BY id";
    for who in ["researcher", "trainer", "clinician"] {
        all.push_str(&world.sql(who, profile));
        let up = ["--as", who, "--format", "ndjson", "lineage", "features.patient_profile.consent", "--up"];
        all.push_str(&world.run(&up).code(0));
    }
    all
}

#[test]
fn a_lie_changes_no_class_no_edge_and_no_grant() {
    let (told, untold) = (World::published(), World::published());
    let before = truth(&told);
    assert!(before.len() > 50_000, "{}", before.len());
    assert_eq!(before, truth(&untold));
    let counts = import(&told, &[], LIES, 0);
    assert_eq!(counts, r#"[{"events":1,"assertions":2,"externals":0,"known":0,"without_outputs":0}]"#);
    let lies =
        "SELECT dataset, version, output_column, source_column FROM system.lineage.columns WHERE origin = 'asserted'";
    let shown = "dataset,version,output_column,source_column\nfeatures.patient_profile,1,consent,national_id\n\
                raw.labs,0,*,name\nraw.labs,0,value,bmi\nraw.labs,0,value,national_id\n";
    assert_eq!(rows(&told, "auditor", lies), shown);
    assert!(truth(&told) == before, "what others say has an effect");

    // Classes that are derived anew, and a version that is published after it.
    for world in [&told, &untold] {
        let file = world.project().join("policies/clinic.sql");
        let text = fs::read_to_string(&file).unwrap();
        let more = text
            .replace("raw.patients.sex, raw.patients.weight,", "raw.patients.sex,")
            .replace("TAG COLUMN raw.patients.postcode,", "TAG COLUMN raw.patients.weight, raw.patients.postcode,");
        assert_ne!(text, more);
        fs::write(&file, more).unwrap();
        world.run(&["policy", "apply", "-m", "weight helps to guess who it is"]).code(0);
        let view = world.project().join("features/patient_profile.sql");
        let text = fs::read_to_string(&view).unwrap();
        fs::write(&view, text.replace("  consent\n", "  NOT consent AS consent\n")).unwrap();
        world.run(&["publish", "-m", "the other way round"]).code(0);
    }
    let classes = "SELECT dataset, version, column_name, array_to_string(classes, '+') AS classes \
                   FROM system.catalog.columns";
    let after = rows(&told, "auditor", classes);
    assert!(after.contains("features.patient_profile,2,consent,clinical\n"), "{after}");
    assert_eq!(after, rows(&untold, "auditor", classes));
}
