//! TPC-H and TPC-DS: every query has exact lineage, as the goldens in `testdata/tpc` say, and its
//! optimised plan depends on no more. `UPDATE_GOLDEN=1` writes them anew; read the diff.
#![allow(clippy::panic, clippy::unwrap_used, reason = "tests")]

use crate::tests::{World, sources};
use std::{fs, path::PathBuf};

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../testdata/tpc")
}

/// The declarations of a suite, and its queries by name.
pub(crate) fn files(name: &str) -> (Vec<String>, Vec<(String, String)>) {
    let folder = folder().join(name);
    let ddl = fs::read_to_string(folder.join("schema.sql")).unwrap();
    let ddl = ddl.split(";\n").map(|s| s.trim().to_string()).filter(|s| !s.is_empty()).collect();
    let mut queries: Vec<_> = fs::read_dir(&folder)
        .unwrap()
        .map(|e| e.unwrap().path())
        .filter_map(|p| Some((p.file_stem()?.to_str()?.to_string(), fs::read_to_string(&p).ok()?)))
        .filter(|(name, _)| name != "schema")
        .map(|(name, text)| (name, text.trim().trim_end_matches(';').to_string()))
        .collect();
    queries.sort();
    (ddl, queries)
}

async fn golden(name: &str, count: usize) {
    let (ddl, queries) = files(name);
    let mut world = World::new();
    for statement in &ddl {
        world.declare(statement).await.unwrap();
    }
    let (mut out, mut exact) = (String::new(), 0);
    for (query, sql) in &queries {
        let plan = world.plan(sql).await.unwrap_or_else(|e| panic!("{query}: {}", e.strip_backtrace()));
        let lineage = world.extract(&plan).unwrap_or_else(|e| panic!("{query}: {e}"));
        exact += usize::from(lineage.exact);
        out.push_str(&format!("query {query}\n{}\n", world.show(sql).await));

        let optimised = world.ctx.state().optimize(&plan).unwrap_or_else(|e| panic!("{query}: {e}"));
        let after = world.extract(&optimised).unwrap_or_else(|e| panic!("{query}: {e}"));
        let (known, more) = (sources(&lineage), sources(&after));
        let more: Vec<_> = more.difference(&known).filter(|(_, field)| field.is_some()).collect();
        assert!(more.is_empty(), "{query}: the optimised plan also depends on {more:?}");
    }
    assert_eq!((queries.len(), exact), (count, count), "queries, and those that are exact");
    let path = folder().join(format!("{name}.txt"));
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        fs::write(&path, out).unwrap();
    } else {
        let old = fs::read_to_string(&path).unwrap();
        let differs = out.lines().zip(old.lines()).find(|(a, b)| a != b);
        assert!(out == old, "run with UPDATE_GOLDEN=1 and read the diff; first difference (new, old): {differs:#?}");
    }
}

#[tokio::test]
async fn tpch() {
    golden("tpch", 22).await;
}

#[tokio::test]
async fn tpcds() {
    golden("tpcds", 99).await;
}
