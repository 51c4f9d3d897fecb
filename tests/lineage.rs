//! `custody lineage --ddl`: the command without a project.

use crate::support::World;
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
