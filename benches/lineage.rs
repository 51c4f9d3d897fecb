//! What extraction costs beside planning and optimising, over TPC-H and TPC-DS.

use crate::pairs::Ratios;
use custody_lineage::{Leaf, Leaves, Limits, NodeRule, extract};
use custody_model::{ControlSeq, DatasetName, FieldId, Hash, TableVersion};
use datafusion::{
    logical_expr::{LogicalPlan, TableScan, UserDefinedLogicalNode},
    prelude::{SessionConfig, SessionContext},
};
use std::{fs, path::PathBuf};
use tokio::runtime::Runtime;

/// Declared tables without rows.
struct Declared;

impl Leaves for Declared {
    fn scan(&self, scan: &TableScan) -> Leaf {
        let table = TableVersion {
            dataset: "00000000-0000-8000-8000-000000000000".parse().unwrap(),
            name: DatasetName::new("public", scan.table_name.table()).unwrap(),
            version: 1,
            made_at: ControlSeq(1),
            content: Hash::default(),
        };
        Leaf::Table(table, (1..=scan.source.schema().fields().len() as u32).map(FieldId).collect())
    }

    fn node<'a>(&self, _: &'a dyn UserDefinedLogicalNode) -> NodeRule<'a> {
        NodeRule::Unknown
    }
}

struct World {
    ctx: SessionContext,
    runtime: Runtime,
}

impl World {
    fn new(declarations: &str) -> Self {
        let mut config = SessionConfig::new().with_target_partitions(1);
        config.options_mut().sql_parser.enable_subquery_sort_elimination = false;
        let world = Self { ctx: SessionContext::new_with_config(config), runtime: Runtime::new().unwrap() };
        for statement in declarations.split(";\n").map(str::trim).filter(|s| !s.is_empty()) {
            world.runtime.block_on(async { world.ctx.sql(statement).await.unwrap().collect().await.unwrap() });
        }
        world
    }

    fn plan(&self, sql: &str) -> LogicalPlan {
        self.runtime.block_on(self.ctx.state().create_logical_plan(sql)).unwrap()
    }
}

/// A suite's declarations, and its queries by name.
fn suite(name: &str) -> (World, Vec<(String, String)>) {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../testdata/tpc").join(name);
    let mut queries: Vec<_> = fs::read_dir(&folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .map(|path| (path.file_stem().unwrap().to_str().unwrap().to_string(), fs::read_to_string(&path).unwrap()))
        .filter(|(name, _)| name != "schema")
        .map(|(name, text)| (name, text.trim().trim_end_matches(';').to_string()))
        .collect();
    queries.sort();
    (World::new(&fs::read_to_string(folder.join("schema.sql")).unwrap()), queries)
}

fn lineage(plan: &LogicalPlan) {
    let limits = Limits { nodes: u64::MAX, ..Limits::default() };
    assert!(divan::black_box(extract(divan::black_box(plan), &Declared, &[], &limits)).unwrap().exact);
}

/// Extraction against planning and optimising, query by query.
pub(crate) fn share() {
    for name in ["tpch", "tpcds"] {
        let (world, queries) = suite(name);
        let mut ratios = Ratios::default();
        for (query, sql) in &queries {
            let plan = world.plan(sql);
            let whole = || {
                let plan = world.plan(sql);
                divan::black_box(world.ctx.state().optimize(&plan)).unwrap();
            };
            ratios.case(&format!("{name} {query}"), 5, || lineage(&plan), whole);
        }
        ratios.geomean();
        ratios.sums();
    }
}

/// `n` CTEs, each joining the one before with itself: the plan shares them, its expansion doubles each time.
fn doubling(n: usize) -> String {
    let mut sql = String::from("WITH c0 AS (SELECT a, b FROM t)");
    for i in 1..=n {
        sql += &format!(", c{i} AS (SELECT l.a, r.b FROM c{0} AS l JOIN c{0} AS r ON l.a = r.b)", i - 1);
    }
    format!("{sql} SELECT a, b FROM c{n}")
}

#[divan::bench]
fn twelve_self_joined_ctes(bencher: divan::Bencher<'_, '_>) {
    let world = World::new("CREATE TABLE t (a INT, b INT)");
    let plan = world.plan(&doubling(12));
    bencher.bench_local(|| lineage(&plan));
}
