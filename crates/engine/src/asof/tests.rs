//! `testdata/asof/joins.txt`: what an ASOF JOIN means, through the dialect and the planner; `UPDATE_GOLDEN=1` writes the
//! results, which are read in review. Then a brute-force oracle over random cases.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use super::*;
use crate::{barrier::barrier_session_state, problem::from_datafusion};
use custody_dialect::{AsOfRelations, Statement};
use custody_model::{Problem, SourceText};
use datafusion::{
    arrow::{
        array::{ArrayRef, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray},
        util::display::{ArrayFormatter, FormatOptions},
    },
    datasource::{MemTable, provider_as_source},
    execution::{SessionState, SessionStateBuilder, disk_manager::DiskManagerBuilder, runtime_env::RuntimeEnvBuilder},
    physical_plan::collect,
    physical_planner::DefaultPhysicalPlanner,
    prelude::SessionConfig,
    sql::{parser::Statement as Parsed, sqlparser::ast},
};
use std::{fmt::Write as _, fs, path::Path};

fn state(partitions: usize, batch: usize) -> SessionState {
    let config = SessionConfig::new().with_target_partitions(partitions).with_batch_size(batch);
    let builder = SessionStateBuilder::new()
        .with_config(config)
        .with_default_features()
        .with_type_planner(Arc::new(custody_dialect::Types))
        .with_relation_planners(vec![Arc::new(AsOfRelations)]);
    barrier_session_state(builder).build()
}

async fn run(state: &SessionState, plan: &LogicalPlan) -> Result<Vec<RecordBatch>> {
    let optimised = state.optimize(plan)?;
    let physical = state.query_planner().create_physical_plan(&optimised, state).await?;
    collect(physical, state.task_ctx()).await
}

async fn answer(state: &SessionState, sql: &str) -> Result<Vec<String>, Problem> {
    let text = SourceText::inline(sql);
    let mut statements = custody_dialect::parse(&text).map_err(crate::refused)?;
    let Statement::Query(query) = statements.remove(0).value else { panic!("not a query") };
    let parsed = Parsed::Statement(Box::new(ast::Statement::Query(Box::new(query.into_ast()))));
    let plan = state.statement_to_plan(parsed).await.map_err(|e| from_datafusion(&e))?;
    let batches = run(state, &plan).await.map_err(|e| from_datafusion(&e))?;
    let names: Vec<_> = plan.schema().fields().iter().map(|f| f.name().clone()).collect();
    Ok(std::iter::once(names.join(" ")).chain(rows(&batches)).collect())
}

fn rows(batches: &[RecordBatch]) -> Vec<String> {
    let options = FormatOptions::default().with_null("NULL");
    let mut out = vec![];
    for batch in batches {
        let columns: Vec<_> =
            batch.columns().iter().map(|c| ArrayFormatter::try_new(c.as_ref(), &options).unwrap()).collect();
        for row in 0..batch.num_rows() {
            out.push(columns.iter().map(|c| c.value(row).to_string()).collect::<Vec<_>>().join(" "));
        }
    }
    out
}

fn told(problem: &Problem) -> String {
    let mut text = problem.to_string();
    for label in &problem.labels {
        write!(text, "\n  at {}:{}-{}", label.start.line, label.start.column, label.end.column).unwrap();
    }
    if let Some(help) = &problem.help {
        write!(text, "\n  help: {help}").unwrap();
    }
    text
}

#[tokio::test]
async fn the_meaning_of_an_asof_join() {
    let file = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../testdata/asof/joins.txt"));
    let text = fs::read_to_string(file).unwrap();
    let (mut new, mut wrong) = (String::new(), String::new());
    for case in text.split("### ").skip(1) {
        let (title, rest) = case.split_once('\n').unwrap();
        let (sql, expected) = rest.split_once("\n----\n").unwrap();
        let mut answers = vec![];
        for (partitions, batch) in [(1, 8192), (4, 2)] {
            answers.push(match answer(&state(partitions, batch), sql).await {
                Ok(lines) => lines.join("\n"),
                Err(problem) => told(&problem),
            });
        }
        assert_eq!(answers[0], answers[1], "{title}: partitions change the answer");
        if answers[0] != expected.trim_end() {
            write!(wrong, "### {title}\nexpected\n{}\nfound\n{}\n", expected.trim_end(), answers[0]).unwrap();
        }
        write!(new, "### {title}\n{sql}\n----\n{}\n\n", answers[0]).unwrap();
    }
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        fs::write(file, new.trim_end().to_string() + "\n").unwrap();
    } else {
        assert!(wrong.is_empty(), "run with UPDATE_GOLDEN=1 and read the difference\n{wrong}");
    }
}

// ---- the oracle ---------------------------------------------------------------------------------------------------

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        // splitmix64
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    fn chance(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }
}

/// 2024-02-28, so that a month of TTL meets a leap day.
const START: i64 = 1_709_078_400_000_000;
const HOUR: i64 = 3_600_000_000;

#[derive(Clone, Debug)]
struct Row {
    key: Option<i64>,
    second: Option<&'static str>,
    at: Option<i64>,
    known: Option<i64>,
    value: i64,
}

#[derive(Debug)]
struct Case {
    left: Vec<Row>,
    right: Vec<Row>,
    strict: bool,
    ttl: Option<&'static str>,
    has_known: bool,
    respect_known: bool,
    two_keys: bool,
    partitions: usize,
    batch: usize,
}

fn case(seed: u64) -> Case {
    let mut r = Random(seed);
    let keys = [1, 2, 5, 30][r.below(4)];
    let skewed = r.chance(20);
    let span = [3, 30, 2000][r.below(3)];
    let nulls = [0, 0, 10][r.below(3)];
    let has_known = r.chance(70);
    let row = |r: &mut Random, value: usize| {
        let key = if skewed && r.chance(80) { 0 } else { r.below(keys) };
        // Few distinct instants give ties; ±1 µs meets the edges of strictness and TTL.
        let at = START + r.below(span) as i64 * HOUR + [0, 0, 0, 1, -1][r.below(5)];
        let late = [0, 0, 1, 5, 700][r.below(5)] as i64 * HOUR;
        Row {
            key: (!r.chance(nulls)).then_some(key as i64),
            second: (!r.chance(nulls)).then_some(["a", "b"][r.below(2)]),
            at: (!r.chance(nulls)).then_some(at),
            known: (!r.chance(nulls)).then_some(at + late),
            value: value as i64,
        }
    };
    let lefts = if r.chance(5) { 0 } else { r.below(30) };
    let rights = if r.chance(5) { 0 } else { r.below(60) };
    let left: Vec<Row> = (0..lefts).map(|i| row(&mut r, i)).collect();
    let mut right: Vec<Row> = (0..rights).map(|i| row(&mut r, i)).collect();
    let two_keys = r.chance(30);
    if !r.chance(25) {
        // No ties: one row for each key, event and known time.
        let mut seen = std::collections::BTreeSet::new();
        right.retain(|x| seen.insert((x.key, x.second.filter(|_| two_keys), x.at, x.known.filter(|_| has_known))));
    }
    Case {
        left,
        right,
        strict: r.chance(30),
        ttl: [None, None, Some("1 hour"), Some("1 day"), Some("1 month"), Some("2 days 3 hours")][r.below(6)],
        has_known,
        respect_known: r.chance(80),
        two_keys,
        partitions: [1, 2, 3, 8][r.below(4)],
        batch: [1, 2, 7, 64][r.below(4)],
    }
}

/// The half-open floor of a TTL, by the calendar: months first, then days and hours.
fn floor(at: i64, ttl: &str) -> i64 {
    match ttl {
        "1 hour" => at - HOUR,
        "1 day" => at - 24 * HOUR,
        "2 days 3 hours" => at - 51 * HOUR,
        "1 month" => {
            use datafusion::arrow::array::types::TimestampMicrosecondType;
            TimestampMicrosecondType::subtract_year_months(at, 1, "UTC".parse().unwrap()).unwrap()
        }
        other => panic!("no oracle for {other}"),
    }
}

/// What each left row sees, by looking at every right row; none: two rows are equally new.
fn brute(c: &Case) -> Option<Vec<String>> {
    let mut out = vec![];
    for l in &c.left {
        let mut best: Option<(&Row, bool)> = None;
        for r in &c.right {
            let keys =
                l.key.is_some() && l.key == r.key && (!c.two_keys || (l.second.is_some() && l.second == r.second));
            let (Some(t), Some(event), true) = (l.at, r.at, keys) else { continue };
            if event > t || (c.strict && event == t) {
                continue;
            }
            let known = if c.has_known { r.known } else { Some(event) };
            let Some(known) = known else { continue };
            if c.has_known && c.respect_known && known > t {
                continue;
            }
            let rank = |x: &Row| (x.at, if c.has_known { x.known } else { x.at });
            best = match best {
                None => Some((r, false)),
                Some((b, _)) if rank(r) > rank(b) => Some((r, false)),
                Some((b, _)) if rank(r) == rank(b) => Some((b, true)),
                other => other,
            };
        }
        let fresh = |r: &Row| match (c.ttl, l.at, r.at) {
            (Some(ttl), Some(t), Some(event)) => event > floor(t, ttl),
            _ => true,
        };
        let found = best.filter(|(r, _)| fresh(r));
        if found.is_some_and(|(_, tied)| tied) {
            return None;
        }
        out.push(format!("{} {}", l.value, found.map_or("NULL".into(), |(r, _)| r.value.to_string())));
    }
    out.sort();
    Some(out)
}

fn table(rows: &[Row], parts: usize, names: [&str; 5]) -> LogicalPlan {
    let batch = |rows: &[Row]| {
        let times = |of: fn(&Row) -> Option<i64>| {
            Arc::new(rows.iter().map(of).collect::<TimestampMicrosecondArray>().with_timezone("UTC")) as ArrayRef
        };
        let columns: [ArrayRef; 5] = [
            Arc::new(rows.iter().map(|r| r.key).collect::<Int64Array>()),
            Arc::new(rows.iter().map(|r| r.second).collect::<StringArray>()),
            times(|r| r.at),
            times(|r| r.known),
            Arc::new(Int64Array::from_iter_values(rows.iter().map(|r| r.value))),
        ];
        RecordBatch::try_from_iter_with_nullable(names.into_iter().zip(columns).map(|(n, c)| (n, c, true))).unwrap()
    };
    let schema = batch(&[]).schema();
    let size = rows.len().div_ceil(parts).max(1);
    let parts: Vec<Vec<RecordBatch>> = rows.chunks(size).map(|rows| vec![batch(rows)]).collect();
    let table = MemTable::try_new(schema, if parts.is_empty() { vec![vec![]] } else { parts }).unwrap();
    LogicalPlanBuilder::scan("x", provider_as_source(Arc::new(table)), None).unwrap().build().unwrap()
}

fn plan(c: &Case) -> LogicalPlan {
    let alias = |plan: LogicalPlan, name: &str| LogicalPlanBuilder::from(plan).alias(name).unwrap().build().unwrap();
    let left = alias(table(&c.left, c.partitions, ["id", "second", "t", "unused", "n"]), "spine");
    let right = alias(table(&c.right, c.partitions, ["id", "second", "event", "known", "v"]), "feature");
    let column = |of: &str, name: &str| Column::new(Some(of), name);
    let mut on = vec![(column("spine", "id"), column("feature", "id"))];
    if c.two_keys {
        on.push((column("spine", "second"), column("feature", "second")));
    }
    let sight = Sight {
        on,
        at: column("spine", "t"),
        event: column("feature", "event"),
        known: c.has_known.then(|| column("feature", "known")),
        respect_known: c.respect_known,
        matching: Matching { strict: c.strict, ttl: c.ttl.map(Into::into) },
    };
    let joined = point_in_time(left, right, sight).unwrap();
    let wanted = [column("spine", "n"), column("feature", "v")].map(Expr::Column);
    LogicalPlanBuilder::from(joined).project(wanted).unwrap().build().unwrap()
}

/// Without barriers: the tables of the oracle are nobody's.
async fn bare(state: &SessionState, plan: &LogicalPlan) -> Result<Vec<RecordBatch>> {
    let optimised = state.optimize(plan)?;
    let planner = DefaultPhysicalPlanner::with_extension_planners(vec![Arc::new(AsOfPlanner)]);
    collect(planner.create_physical_plan(&optimised, state).await?, state.task_ctx()).await
}

async fn oracle(seeds: std::ops::Range<u64>) {
    let (mut refused, mut matched) = (0, 0);
    let mut states = std::collections::BTreeMap::new();
    for seed in seeds.clone() {
        let c = case(seed);
        let state = states.entry((c.partitions, c.batch)).or_insert_with(|| state(c.partitions, c.batch));
        let found = bare(state, &plan(&c)).await;
        match (brute(&c), found) {
            (Some(want), Ok(found)) => {
                let mut found = rows(&found);
                found.sort();
                assert_eq!(want, found, "seed {seed}: {c:#?}");
                matched += want.iter().filter(|row| !row.ends_with("NULL")).count();
            }
            (None, Err(e)) if from_datafusion(&e).code == custody_model::Code(1140) => refused += 1,
            (want, found) => panic!("seed {seed}: wanted {want:?}, found {found:?}\n{c:#?}"),
        }
    }
    let cases = (seeds.end - seeds.start) as usize;
    assert!(matched > cases && refused * 50 > cases, "{matched} matches, {refused} refusals say little");
}

/// More seeds: `CUSTODY_ORACLE=100000`.
#[tokio::test]
async fn no_difference_from_looking_at_every_row() {
    let cases = std::env::var("CUSTODY_ORACLE").map_or(10_000, |n| n.parse().unwrap());
    oracle(0..cases).await;
}

#[tokio::test]
async fn a_join_larger_than_its_memory_spills() {
    let mut r = Random(7);
    let rows = |r: &mut Random, n: usize| -> Vec<Row> {
        let row = |i| Row {
            key: Some(r.below(500) as i64),
            second: None,
            at: Some(START + i as i64 * 1_000),
            known: None,
            value: i as i64,
        };
        (0..n).map(row).collect()
    };
    let (left, right) = (rows(&mut r, 20_000), rows(&mut r, 60_000));
    let c = Case {
        left,
        right,
        strict: false,
        ttl: None,
        has_known: false,
        respect_known: true,
        two_keys: false,
        partitions: 2,
        batch: 1024,
    };
    let want = bare(&state(2, 1024), &plan(&c)).await.unwrap();
    let config = SessionConfig::new()
        .with_target_partitions(2)
        .with_batch_size(1024)
        .with_sort_spill_reservation_bytes(128 << 10);
    let runtime = RuntimeEnvBuilder::new()
        .with_memory_pool(Arc::new(crate::memory::Pool::new(5 << 20)))
        .with_disk_manager_builder(DiskManagerBuilder::default())
        .build_arc()
        .unwrap();
    let small =
        SessionStateBuilder::new().with_config(config).with_runtime_env(runtime).with_default_features().build();
    let optimised = small.optimize(&plan(&c)).unwrap();
    let planner = DefaultPhysicalPlanner::with_extension_planners(vec![Arc::new(AsOfPlanner)]);
    let physical = planner.create_physical_plan(&optimised, &small).await.unwrap();
    let found = collect(Arc::clone(&physical), small.task_ctx()).await.unwrap();
    let bag = |batches: &[RecordBatch]| {
        let mut all = super::tests::rows(batches);
        all.sort();
        all
    };
    assert_eq!(bag(&want), bag(&found));
    assert!(spills(&physical) > 0, "nothing was spilled");
}

fn spills(plan: &Arc<dyn ExecutionPlan>) -> usize {
    let own = plan.metrics().and_then(|m| m.spill_count()).unwrap_or(0);
    own + plan.children().into_iter().map(spills).sum::<usize>()
}
