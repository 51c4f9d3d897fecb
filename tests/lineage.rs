//! `custody lineage --ddl`: the command without a project.

use crate::support::World;
use expect_test::expect;
use std::fs;

fn written(world: &World, name: &str, text: &str) -> String {
    let path = world.beside(name);
    fs::write(&path, text).unwrap();
    path.to_str().unwrap().to_string()
}

#[test]
fn lineage_without_a_project() {
    let world = World::empty();
    let ddl = written(&world, "schema.sql", "CREATE TABLE t (a INT, b TEXT);\nCREATE VIEW v AS SELECT a FROM t;\n");
    let query = written(&world, "query.sql", "SELECT a + 1 AS k FROM v WHERE a > 0\n");
    let out = world.run(&["lineage", "--ddl", &ddl, "--file", &query, "--format", "ndjson"]).code(0);
    let row = |ordinal: u32, name: &str, kind: &str, subtype: &str, text: &str| {
        format!(
            "{{\"output_ordinal\":{ordinal},\"output_column\":\"{name}\",\"source_dataset\":\"t\",\
             \"source_version\":null,\"source_column\":\"a\",\"kind\":\"{kind}\",\"subtype\":\"{subtype}\",\
             \"masking\":false,\"expression\":\"{text}\",\"via_view\":[\"v\"],\"policy_id\":null,\"exact\":true}}\n"
        )
    };
    let expected = row(0, "*", "INDIRECT", "FILTER", "a > 0") + &row(1, "k", "DIRECT", "TRANSFORMATION", "a + 1");
    assert_eq!(out, expected);
}

#[test]
fn refusals_point_into_the_text() {
    let world = World::empty();
    let ddl = written(&world, "schema.sql", "CREATE TABLE t (a INT);\n");
    for (text, code, place) in [
        ("SELECT a,\n  nope FROM t", "C1101", "query.sql:2:3"),
        ("SELECT a FROM t FOR UPDATE", "C1003", "query.sql:1:17"),
        ("VACUUM t", "C1002", "query.sql:1:1"),
    ] {
        let query = written(&world, "query.sql", text);
        let ran = world.run(&["lineage", "--ddl", &ddl, "--file", &query]);
        assert!(ran.err.contains(code) && ran.err.contains(place), "{}", ran.err);
        assert_eq!((ran.code, ran.out.as_str()), (1, ""));
    }
    assert_eq!(world.run(&["lineage", "--ddl", "nothing.sql", "--file", "nothing.sql"]).code, 2);
    assert_eq!(world.run(&["lineage", "--ddl", &ddl]).code, 2);
}

#[test]
fn recorded_lineage_in_every_format() {
    let world = World::fresh();
    world.run(&["publish", "-m", "first version"]).code(0);
    let shown = |column: &str, more: &[&str]| world.run(&[&["lineage", column], more].concat()).code(0);
    expect![[r#"
        features.risk_inputs@1.bmi [clinical]
        ├─ IDENTITY       features.patient_profile@1.bmi [clinical]
        │  ├─ TRANSFORMATION raw.patients@1.weight [clinical]
        │  ├─ TRANSFORMATION raw.patients@1.height [clinical]
        │  └─ ROWS           rows of features.patient_profile@1
        │     └─ ROWS           rows of raw.patients@1
        └─ ROWS           rows of features.risk_inputs@1
           ├─ ROWS           rows of features.diagnosis_burden@1
           │  ├─ ROWS           rows of raw.diagnoses@1
           │  ├─ JOIN           raw.diagnoses@1.id [clinical]
           │  ├─ ROWS           rows of raw.patients@1
           │  ├─ GROUP_BY       raw.patients@1.id [clinical]
           │  └─ JOIN           raw.patients@1.id [clinical]
           ├─ JOIN           features.diagnosis_burden@1.id [clinical]
           │  ├─ IDENTITY       raw.patients@1.id [clinical]
           │  └─ ROWS           rows of features.diagnosis_burden@1 (above)
           ├─ ROWS           rows of features.lab_trend@1
           │  ├─ ROWS           rows of raw.labs@1
           │  ├─ GROUP_BY       raw.labs@1.id [clinical]
           │  ├─ GROUP_BY       raw.labs@1.ts [clinical]
           │  ├─ GROUP_BY       raw.labs@1.test [clinical]
           │  ├─ GROUP_BY       raw.labs@1.value [clinical]
           │  └─ GROUP_BY       raw.labs@1.loaded_at [clinical]
           ├─ JOIN           features.lab_trend@1.id [clinical]
           │  ├─ IDENTITY       raw.labs@1.id [clinical]
           │  └─ ROWS           rows of features.lab_trend@1 (above)
           ├─ ROWS           rows of features.patient_profile@1 (above)
           └─ JOIN           features.patient_profile@1.id [clinical]
              ├─ IDENTITY       raw.patients@1.id [clinical]
              └─ ROWS           rows of features.patient_profile@1 (above)
    "#]]
    .assert_eq(&shown("features.risk_inputs.bmi", &["--format", "tree"]));
    expect![[r#"
        {"hop":0,"dataset":"features.risk_inputs","version":1,"column_name":"bmi","data_type":"Float64","classes":["clinical"],"how":["SELF"]}
        {"hop":1,"dataset":"features.patient_profile","version":1,"column_name":"bmi","data_type":"Float64","classes":["clinical"],"how":["IDENTITY"]}
    "#]].assert_eq(&shown("features.risk_inputs.bmi", &["--format", "ndjson", "--direct", "--depth", "1"]));
    expect![[r#"
        raw.diagnoses@1.code [clinical]
        ├─ AGGREGATION    features.diagnosis_burden@1.n_codes [clinical]
        └─ AGGREGATION    features.diagnosis_burden@1.has_fatty_liver [clinical]
           ├─ CONDITIONAL    features.risk_inputs@1.has_fatty_liver [clinical]
           └─ TRANSFORMATION features.risk_inputs@1.has_fatty_liver [clinical]
    "#]]
    .assert_eq(&shown("raw.diagnoses.code", &["--down", "--format", "tree"]));
    expect![[r#"
        digraph lineage {
          rankdir = LR;
          node [shape = box];
          "raw.patients@1.height";
          "features.patient_profile@1.bmi";
          "features.risk_inputs@1.bmi";
          "raw.patients@1.height" -> "features.patient_profile@1.bmi" [label = "TRANSFORMATION"];
          "features.patient_profile@1.bmi" -> "features.risk_inputs@1.bmi" [label = "IDENTITY"];
        }
    "#]]
    .assert_eq(&shown("raw.patients.height", &["--to", "features.risk_inputs", "--format", "dot"]));
    // Either way round, rows as well as drawings.
    expect![[r#"
        {"hop":0,"dataset":"features.risk_inputs","version":1,"column_name":"bmi","data_type":"Float64","classes":["clinical"],"how":["SELF"]}
        {"hop":1,"dataset":"features.patient_profile","version":1,"column_name":"bmi","data_type":"Float64","classes":["clinical"],"how":["IDENTITY"]}
        {"hop":2,"dataset":"raw.patients","version":1,"column_name":"height","data_type":"Float64","classes":["clinical"],"how":["TRANSFORMATION"]}
    "#]].assert_eq(&shown("features.risk_inputs.bmi", &["--to", "raw.patients.height", "--format", "ndjson"]));

    let events = shown("features.patient_profile.bmi", &["--format", "openlineage"]);
    let events: Vec<serde_json::Value> = events.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    assert_eq!(events.len(), 1);
    let inputs = &events[0]["outputs"][0]["facets"]["columnLineage"]["fields"]["bmi"]["inputFields"];
    let fields: Vec<_> = inputs.as_array().unwrap().iter().map(|f| f["field"].as_str().unwrap()).collect();
    assert_eq!(fields, ["height", "weight"]);
    // The graph leaves as an export; what a reader may not see is in no format.
    let exports = "SELECT action, outcome FROM system.access.audit WHERE action = 'export'";
    assert_eq!(world.sql("auditor", exports), "action,outcome\nexport,success\n");
    for format in ["tree", "dot", "openlineage", "ndjson"] {
        let hidden = world.run(&["--as", "billing", "lineage", "features.risk_inputs.bmi", "--format", format]);
        assert_eq!((hidden.code, hidden.out.as_str()), (6, ""), "{format}: {}", hidden.err);
    }
}

#[test]
fn lineage_that_cannot_be_drawn_says_so() {
    let world = World::fresh();
    world.run(&["publish", "-m", "first version"]).code(0);
    for (arguments, code) in [
        (&["lineage", "raw.patients.height", "--to", "raw.labs"][..], "C6203"),
        (&["lineage", "raw.patients.shoe"], "C6202"),
        (&["lint", "--format", "dot"], "C2019"),
        (&["sql", "-c", "SELECT 1 AS one", "--format", "tree"], "C2019"),
    ] {
        let ran = world.run(arguments);
        assert!(ran.err.contains(code) && ran.out.is_empty(), "{arguments:?}: {} {}", ran.out, ran.err);
    }
    let ddl = written(&world, "schema.sql", "CREATE TABLE t (a INT);\n");
    let ran = world.run(&["lineage", "--ddl", &ddl, "--file", &ddl, "--format", "tree"]);
    assert!(ran.err.contains("C2019"), "{}", ran.err);
}

#[test]
fn recorded_expressions_hold_no_literals() {
    let world = World::published();
    let columns = "SELECT DISTINCT output_column, source_column, subtype, expression FROM system.lineage.columns \
                   WHERE dataset = 'features.lab_trend' AND expression IS NOT NULL AND output_column <> 'fib4_mean_2y' \
                   ORDER BY 1, 2, 3, 4";
    expect![[r#"
        output_column,source_column,subtype,expression
        chol_mean_2y,id,WINDOW,avg(value) FILTER (WHERE test = ?) OVER (PARTITION BY id ORDER BY ts BETWEEN ? AND ?)
        chol_mean_2y,test,CONDITIONAL,avg(value) FILTER (WHERE test = ?) OVER (PARTITION BY id ORDER BY ts BETWEEN ? AND ?)
        chol_mean_2y,ts,WINDOW,avg(value) FILTER (WHERE test = ?) OVER (PARTITION BY id ORDER BY ts BETWEEN ? AND ?)
        chol_mean_2y,value,AGGREGATION,avg(value) FILTER (WHERE test = ?) OVER (PARTITION BY id ORDER BY ts BETWEEN ? AND ?)
        hdl_mean_2y,id,WINDOW,avg(value) FILTER (WHERE test = ?) OVER (PARTITION BY id ORDER BY ts BETWEEN ? AND ?)
        hdl_mean_2y,test,CONDITIONAL,avg(value) FILTER (WHERE test = ?) OVER (PARTITION BY id ORDER BY ts BETWEEN ? AND ?)
        hdl_mean_2y,ts,WINDOW,avg(value) FILTER (WHERE test = ?) OVER (PARTITION BY id ORDER BY ts BETWEEN ? AND ?)
        hdl_mean_2y,value,AGGREGATION,avg(value) FILTER (WHERE test = ?) OVER (PARTITION BY id ORDER BY ts BETWEEN ? AND ?)
        known_at,id,WINDOW,max(loaded_at) OVER (PARTITION BY id ORDER BY ts BETWEEN ? AND ?)
        known_at,loaded_at,AGGREGATION,max(loaded_at) OVER (PARTITION BY id ORDER BY ts BETWEEN ? AND ?)
        known_at,ts,WINDOW,max(loaded_at) OVER (PARTITION BY id ORDER BY ts BETWEEN ? AND ?)
        n_results_2y,id,WINDOW,count(value) OVER (PARTITION BY id ORDER BY ts BETWEEN ? AND ?)
        n_results_2y,ts,WINDOW,count(value) OVER (PARTITION BY id ORDER BY ts BETWEEN ? AND ?)
        n_results_2y,value,AGGREGATION,count(value) OVER (PARTITION BY id ORDER BY ts BETWEEN ? AND ?)
    "#]].assert_eq(&world.sql("auditor", columns));
    let hops = "SELECT DISTINCT dataset, text FROM system.lineage.hops WHERE dataset = 'features.patient_profile' ORDER BY 1, 2";
    expect![[r#"
        dataset,text
        features.patient_profile,weight / (height * height)
    "#]]
    .assert_eq(&world.sql("auditor", hops));
    // A literal of the declaration is in no text of the ledger's lineage; a reader without the right sees no text.
    let literals = "SELECT count(*) AS n FROM system.lineage.hops WHERE text LIKE '%''%'";
    assert_eq!(world.sql("auditor", literals), "n\n0\n");
    let hidden = "SELECT count(*) AS n FROM system.lineage.hops";
    assert_eq!(world.sql("billing", hidden), "n\n0\n");
    let hidden = "SELECT count(expression) AS n FROM system.lineage.columns";
    assert_eq!(world.sql("trainer", hidden), "n\n0\n");
}

#[test]
fn what_runs_and_reads_took_from_storage() {
    let world = World::published();
    world.sql("trainer", "SELECT count(*) AS n FROM features.lab_trend WHERE id < 40");
    world.sql("trainer", "SELECT count(*) AS n FROM features.lab_trend WHERE id < 0");
    let runs = "SELECT r.job, s.dataset, s.version, s.file, s.row_groups, s.row_groups_skipped \
                FROM system.lineage.scans AS s JOIN system.lineage.runs AS r USING (run_id) ORDER BY 1, 2";
    expect![[r#"
        job,dataset,version,file,row_groups,row_groups_skipped
        features.diagnosis_burden,raw.diagnoses,1,part-0.parquet,1,0
        features.diagnosis_burden,raw.patients,1,part-0.csv,,0
        features.lab_trend,raw.labs,1,part-0.parquet,1,0
        features.patient_profile,raw.patients,1,part-0.csv,,0
        features.risk_inputs,features.diagnosis_burden,1,part-00000.parquet,1,0
        features.risk_inputs,features.lab_trend,1,part-00000.parquet,1,0
        features.risk_inputs,features.patient_profile,1,part-00000.parquet,1,0
    "#]]
    .assert_eq(&world.sql("auditor", runs));
    // A read that needs no file has no fact; the other's stands under its own entry.
    let reads = "SELECT a.principal, s.dataset, s.rows, s.files, s.row_groups, s.row_groups_skipped \
                 FROM system.lineage.scans AS s JOIN system.access.audit AS a USING (entry_id) WHERE s.run_id IS NULL";
    expect![[r#"
        principal,dataset,rows,files,row_groups,row_groups_skipped
        trainer,features.lab_trend,939,1,1,0
    "#]]
    .assert_eq(&world.sql("auditor", reads));
    // It tells about values: not for readers who may not look behind the barrier.
    let hidden = "SELECT count(*) AS n FROM system.lineage.scans";
    assert_eq!(world.sql("trainer", hidden), "n\n0\n");
}
