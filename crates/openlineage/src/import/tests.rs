//! What is refused, as `testdata/openlineage/refused.txt` shows it; bounds; what is one event.

#![allow(clippy::unwrap_used)]

use super::*;
use std::fs;

#[test]
fn refusals_name_the_line_the_field_and_the_next_step() {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../../testdata/openlineage/refused.txt");
    let expected = fs::read_to_string(file).unwrap();
    let mut found = String::new();
    for (n, part) in expected.trim_end().split("\n\n== ").enumerate() {
        if n == 0 {
            found.push_str(part);
            continue;
        }
        let (name, rest) = part.split_once('\n').unwrap();
        let (text, _) = rest.split_once("\n--").unwrap();
        let refused = parse(text.as_bytes()).expect_err(name);
        found.push_str(&format!("\n\n== {name}\n{text}\n--\n{refused}\n{}", refused.fault.help()));
    }
    found.push('\n');
    if std::env::var_os("UPDATE_EXPECT").is_some() {
        fs::write(file, &found).unwrap();
    }
    for (found, expected) in found.split("\n\n== ").zip(expected.split("\n\n== ")) {
        assert_eq!(found.trim_end(), expected.trim_end(), "run with UPDATE_EXPECT=1 and read the difference");
    }
    assert!(found.matches("\n== ").count() > 20);
}

/// An event with these inputs and outputs.
fn event(inputs: &[Value], outputs: &[Value]) -> String {
    serde_json::json!({
        "eventTime": "2026-03-01T04:00:00Z", "producer": "p", "schemaURL": "s",
        "job": {"namespace": "n", "name": "j"}, "inputs": inputs, "outputs": outputs,
    })
    .to_string()
}

fn dataset(name: &str) -> Value {
    serde_json::json!({"namespace": "a", "name": name})
}

fn refusal(text: &str) -> String {
    parse(text.as_bytes()).unwrap_err().to_string()
}

#[test]
fn everything_is_bounded() {
    let many = vec![dataset("x"); MAX_LIST + 1];
    assert_eq!(refusal(&event(&many, &[])), "line 1: `inputs` has more than 16384 items");
    // Each output repeats all inputs.
    let names: Vec<Value> = (0..4_000).map(|n| dataset(&format!("{n:0>60}"))).collect();
    assert_eq!(refusal(&event(&names, &names)), "line 1: its claims have more than 16777216 bytes");
    let line = event(&[dataset("i")], &[dataset("o")]);
    let long = format!("{line}\n{}{line}", " ".repeat(MAX_LINE));
    assert_eq!(refusal(&long), "line 2: it has more than 8388608 bytes");
    let together = vec![line.as_str(); 20].join("\n");
    let refused = parse_within(together.as_bytes(), 600).unwrap_err();
    assert_eq!(refused.to_string(), "line 17: up to here the claims have more than 600 bytes");
    assert_eq!(refusal(&format!("{line}\n\n{}", "[".repeat(100_000))).split_once(':').unwrap().0, "line 3");
}

#[test]
fn an_event_is_the_same_however_it_is_written() {
    let line = event(&[dataset("i")], &[dataset("o")]);
    let value: Value = serde_json::from_str(&line).unwrap();
    let loose = serde_json::to_string_pretty(&value).unwrap().replace('\n', " ");
    let (a, b) = (parse(line.as_bytes()).unwrap(), parse(format!("\r\n {loose}\r\n\n").as_bytes()).unwrap());
    assert_eq!(a, b);
    let other = line.replace("\"j\"", "\"k\"");
    assert_ne!(parse(other.as_bytes()).unwrap().events[0].hash, a.events[0].hash);
    assert_eq!((a.count, a.without_outputs()), (1, 0));
}

#[test]
fn one_output_twice_says_both_and_an_unclear_version_is_none() {
    let version = |name: &str, n: &str| serde_json::json!({"namespace": "a", "name": name, "facets": {"version": {"datasetVersion": n}}});
    let output = |column: &str| {
        let from = serde_json::json!({"namespace": "a", "name": "i", "field": "c"});
        serde_json::json!({"namespace": "a", "name": "o", "facets": {"columnLineage": {"fields": {column: {"inputFields": [from]}}}}})
    };
    let text = event(&[version("i", "1"), version("i", "2")], &[output("x"), output("y")]);
    let parsed = parse(text.as_bytes()).unwrap();
    let [claim] = parsed.events[0].claims.as_slice() else { panic!("{parsed:?}") };
    let versions: Vec<_> = claim.tables.iter().map(|t| (t.name.as_str(), t.version)).collect();
    assert_eq!(versions, [("o", None), ("i", None), ("i", Some(1)), ("i", Some(2))]);
    let named: Vec<_> = claim.outputs.iter().map(|o| (o.name.as_str(), o.from[0].table)).collect();
    assert_eq!(named, [("x", 1), ("y", 1)]);
    // Of one version there is no doubt.
    let text = event(&[version("i", "1"), version("j", "9223372036854775808")], &[output("x")]);
    let parsed = parse(text.as_bytes()).unwrap();
    let versions: Vec<_> = parsed.events[0].claims[0].tables.iter().map(|t| t.version).collect();
    assert_eq!(versions, [None, Some(1), None]);
}
