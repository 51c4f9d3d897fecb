//! TPC-H and TPC-DS: every query has exact lineage, as the goldens in `testdata/tpc` say, and its
//! optimised plan depends on no more. `UPDATE_GOLDEN=1` writes them anew; read the diff.
#![allow(clippy::panic, clippy::unwrap_used, clippy::print_stdout, reason = "tests")]

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

/// What extraction costs beside planning and optimising: the figures of `docs/lineage-figures.md`.
#[tokio::test]
#[ignore = "a measurement, not a test"]
async fn cost() {
    use std::time::{Duration, Instant};
    for name in ["tpch", "tpcds"] {
        let (ddl, queries) = files(name);
        let mut world = World::new();
        for statement in &ddl {
            world.declare(statement).await.unwrap();
        }
        let (mut plan_optimise, mut extract) = (Duration::ZERO, Duration::ZERO);
        for (query, sql) in &queries {
            // The best of three, each.
            let mut best = [Duration::MAX; 2];
            for _ in 0..3 {
                let begun = Instant::now();
                let plan = world.plan(sql).await.unwrap();
                let optimised = world.ctx.state().optimize(&plan);
                best[0] = best[0].min(begun.elapsed());
                assert!(optimised.is_ok(), "{query}");
                let begun = Instant::now();
                let lineage = world.extract_without_text(&plan).unwrap();
                best[1] = best[1].min(begun.elapsed());
                assert!(lineage.exact, "{query}");
            }
            plan_optimise += best[0];
            extract += best[1];
        }
        let count = queries.len() as u32;
        println!(
            "{name}: plan and optimise {:?}, extract {:?} a query: {:.1} %",
            plan_optimise / count,
            extract / count,
            100.0 * extract.as_secs_f64() / plan_optimise.as_secs_f64()
        );
    }
    let mut world = World::new();
    world.declare("CREATE TABLE t (a INT, b INT)").await.unwrap();
    let plan = world.plan(&crate::tests::doubling(12)).await.unwrap();
    let best = (0..5).map(|_| {
        let begun = Instant::now();
        world.extract_unbounded(&plan).unwrap();
        begun.elapsed()
    });
    println!("12 self-joined CTEs: extract {:?}", best.min().unwrap());
}
