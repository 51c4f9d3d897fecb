//! Runs and reads leave as OpenLineage events, at least once, and say no more than policy lets the receiver see.

use crate::support::{Server, World, python, repository};
use expect_test::expect;
use serde_json::Value;
use std::{
    collections::BTreeSet,
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

/// Events go to `url`; their receiver may see what training jobs see.
fn told_to(url: &str) -> World {
    let world = World::fresh();
    let settings = world.project().join("custody.toml");
    let text = fs::read_to_string(&settings).unwrap();
    let section = format!("\n[openlineage]\nurl = \"{url}\"\nroles = [\"training\"]\npurpose = \"model_training\"\n");
    fs::write(settings, text + &section).unwrap();
    world
}

fn work(world: &World) {
    world.run(&["publish", "-m", "first version"]).code(0);
    world.sql("trainer", "SELECT sex, avg(bmi) AS bmi FROM features.patient_profile WHERE consent GROUP BY sex");
    world.run(&["--as", "trainer", "read", "features.lab_trend@1"]).code(0);
}

/// What an event says, without what is another one in each warehouse and run.
fn gist(event: &Value) -> String {
    let names = |sets: &Value| {
        let names: Vec<_> = sets.as_array().unwrap().iter().map(|d| d["name"].as_str().unwrap()).collect();
        names.join(" ")
    };
    format!(
        "{} {} <- {} -> {};",
        event["eventType"].as_str().unwrap(),
        event["job"]["name"].as_str().unwrap(),
        names(&event["inputs"]),
        names(&event["outputs"])
    )
}

fn parsed(lines: &str) -> Vec<Value> {
    lines.lines().map(|l| serde_json::from_str(l).unwrap()).collect()
}

#[test]
fn a_file_takes_an_event_for_each_run_and_read() {
    let world = told_to("events.ndjson");
    work(&world);
    let file = world.project().join("events.ndjson");
    let events = parsed(&fs::read_to_string(&file).unwrap());
    let gists: Vec<_> = events.iter().map(gist).collect();
    expect![[r#"
        START features.diagnosis_burden <- raw.patients raw.diagnoses -> ;
        COMPLETE features.diagnosis_burden <- raw.patients raw.diagnoses -> features.diagnosis_burden;
        START features.lab_trend <- raw.labs -> ;
        COMPLETE features.lab_trend <- raw.labs -> features.lab_trend;
        START features.patient_profile <- raw.patients -> ;
        COMPLETE features.patient_profile <- raw.patients -> features.patient_profile;
        START features.risk_inputs <- features.diagnosis_burden features.patient_profile features.lab_trend -> ;
        COMPLETE features.risk_inputs <- features.diagnosis_burden features.patient_profile features.lab_trend -> features.risk_inputs;
        START read <- features.patient_profile -> ;
        COMPLETE read <- features.patient_profile -> ;
        START serve <- features.lab_trend -> ;
        COMPLETE serve <- features.lab_trend -> ;
    "#]].assert_eq(&(gists.join("\n") + "\n"));
    let profile = events.iter().find(|e| e["outputs"][0]["name"] == "features.patient_profile").unwrap();
    let output = &profile["outputs"][0];
    expect![[r#"
        {
          "inputFields": [
            {
              "namespace": "custody://clinic",
              "name": "raw.patients",
              "field": "height",
              "transformations": [
                {
                  "type": "DIRECT",
                  "subtype": "TRANSFORMATION",
                  "masking": false
                }
              ]
            },
            {
              "namespace": "custody://clinic",
              "name": "raw.patients",
              "field": "weight",
              "transformations": [
                {
                  "type": "DIRECT",
                  "subtype": "TRANSFORMATION",
                  "masking": false
                }
              ]
            }
          ]
        }"#]]
    .assert_eq(&serde_json::to_string_pretty(&output["facets"]["columnLineage"]["fields"]["bmi"]).unwrap());
    let read = events.iter().find(|e| e["job"]["name"] == "read").unwrap();
    expect![[r#"[{"column":"sex","roles":["PROJECT","GROUP_BY"],"requested":true,"rung":"raw"},{"column":"bmi","roles":["PROJECT"],"requested":true,"rung":"raw"},{"column":"consent","roles":["FILTER"],"requested":true,"rung":"raw"}]"#]].assert_eq(&read["inputs"][0]["facets"]["custody_reads"]["columns"].to_string());
    // Nothing new, nothing sent.
    world.run(&["lint"]).code(0);
    world.run(&["log", "features.lab_trend"]).code(0);
    assert_eq!(parsed(&fs::read_to_string(&file).unwrap()).len(), events.len());
    let exports =
        "SELECT principal, outcome, rows FROM system.access.audit WHERE action = 'export' ORDER BY writer, seq";
    expect![[r#"
        principal,outcome,rows
        service/openlineage,success,8
        service/openlineage,success,2
        service/openlineage,success,2
    "#]]
    .assert_eq(&world.sql("auditor", exports));
}

#[test]
fn events_are_valid_by_the_official_schemas() {
    let Some(python) = python() else { return };
    let world = told_to("events.ndjson");
    work(&world);
    world.run(&["--as", "trainer", "sql", "-c", "SELECT 1 / (id - id) FROM features.lab_trend"]).code(1);
    let events = world.project().join("events.ndjson");
    let schemas = repository().join("testdata/openlineage");
    let variables = [("EVENTS", events.to_str().unwrap()), ("SCHEMAS", schemas.to_str().unwrap())];
    let told = world.script(&python, "openlineage.py", &variables);
    expect![[r#"
        event COMPLETE
        event FAIL
        event START
        facet ColumnLineageDatasetFacet
        facet JobTypeJobFacet
        facet OutputStatisticsOutputDatasetFacet
        facet SchemaDatasetFacet
    "#]]
    .assert_eq(&told);
}

#[test]
fn what_policy_hides_from_the_receiver_does_not_leave() {
    let world = told_to("events.ndjson");
    let settings = world.project().join("custody.toml");
    let text = fs::read_to_string(&settings).unwrap().replace("\"training\"", "\"billing\"");
    fs::write(&settings, text.replace("model_training", "billing")).unwrap();
    work(&world);
    let told = fs::read_to_string(world.project().join("events.ndjson")).unwrap_or_default();
    assert_eq!(told, "");
}

#[test]
fn a_receiver_that_was_away_gets_everything() {
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let world = told_to(&format!("http://127.0.0.1:{port}/api/v1/lineage"));
    let told = world.run(&["publish", "-m", "first version"]);
    assert!(told.err.contains("lineage events wait: C7204"), "{}", told.err);
    told.code(0);
    work(&world);
    let got = Arc::new(Mutex::new(vec![]));
    receive(port, got.clone());
    // The first command after it is back sends what waited; a server goes on.
    world.run(&["log", "features.lab_trend"]).code(0);
    let same = told_to("events.ndjson");
    same.run(&["publish", "-m", "first version"]).code(0);
    work(&same);
    let gists = |events: &[Value]| events.iter().map(gist).collect::<Vec<_>>();
    let expected = gists(&parsed(&fs::read_to_string(same.project().join("events.ndjson")).unwrap()));
    assert_eq!(gists(&got.lock().unwrap()), expected);

    let server = Server::start(&world);
    let before = got.lock().unwrap().len();
    world.run(&["--as", "trainer", "read", "features.lab_trend@1"]).code(0);
    let began = Instant::now();
    while got.lock().unwrap().len() < before + 2 {
        assert!(began.elapsed() < Duration::from_secs(30), "no event of the read arrived");
        std::thread::sleep(Duration::from_millis(50));
    }
    assert_eq!(server.stop(), 0);
    let runs: BTreeSet<_> = got.lock().unwrap().iter().map(|e| e["run"]["runId"].to_string()).collect();
    assert!(runs.len() > 5, "{runs:?}");
}

/// A receiver of POST requests.
fn receive(port: u16, got: Arc<Mutex<Vec<Value>>>) {
    let listener = TcpListener::bind(("127.0.0.1", port)).unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let got = got.clone();
            std::thread::spawn(move || answer(stream.unwrap(), &got));
        }
    });
}

fn answer(mut stream: TcpStream, got: &Mutex<Vec<Value>>) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    loop {
        let mut length = 0;
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line).unwrap_or(0) == 0 {
                return;
            }
            match line.trim().split_once(": ") {
                Some((name, value)) if name.eq_ignore_ascii_case("content-length") => length = value.parse().unwrap(),
                _ if line.trim().is_empty() => break,
                _ => {}
            }
        }
        let mut body = vec![0; length];
        reader.read_exact(&mut body).unwrap();
        got.lock().unwrap().push(serde_json::from_slice(&body).unwrap());
        stream.write_all(b"HTTP/1.1 201 Created\r\ncontent-length: 0\r\n\r\n").unwrap();
    }
}
