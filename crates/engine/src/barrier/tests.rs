//! The barrier is proved here and in `twins`, since everything rests on it.
//!
//! - `adversarial`: the statements of `adversarial.sql`, each against a stored copy of what the reader may see.
//! - `a_missing_line_is_seen`: lines that enforce something, switched off one by one, let these fail. `../attacks/mutations.rs` does
//!   so for the ids outside the barrier, and knows that there are no others.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod files;

use super::twins::Random;
use super::*;
use custody_model::{ControlSeq, DatasetId, Durability, FieldId, Hash, Rung, TableVersion};
use custody_policy::mask::hmac_sha3_256;
use custody_policy::{ColumnGrant, Grant, Mask, RowGrant, RowPredicate, TokenKeys, enforce, govern};
use datafusion::arrow::array::{
    ArrayRef, BooleanArray, Date32Array, Int64Array, Int64Builder, ListBuilder, RecordBatch, StringArray, StructArray,
};
use datafusion::arrow::datatypes::{DataType, Field, Fields, Schema, SchemaRef};
use datafusion::arrow::util::display::{ArrayFormatter, FormatOptions};
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::stats::Precision;
use datafusion::common::{DFSchema, DataFusionError, Result};
use datafusion::datasource::memory::MemorySourceConfig;
use datafusion::datasource::{MemTable, TableType, provider_as_source};
use datafusion::execution::{SessionStateBuilder, context::QueryPlanner};
use datafusion::logical_expr::execution_props::ExecutionProps;
use datafusion::logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder, Operator, cast, col, lit};
use datafusion::parquet::arrow::ArrowWriter;
use datafusion::parquet::file::properties::WriterProperties;
use datafusion::physical_expr::{PhysicalExpr, create_physical_expr, expressions as physical};
use datafusion::physical_plan::filter::FilterExec;
use datafusion::physical_plan::statistics::StatisticsContext;
use datafusion::physical_plan::{ExecutionPlan, collect};
use datafusion::physical_planner::{DefaultPhysicalPlanner, PhysicalPlanner};
use datafusion::prelude::{ParquetReadOptions, SessionConfig, SessionContext};
use std::{borrow::Cow, sync::Arc};

// ---- the data -----------------------------------------------------------------------------------------------------

#[derive(Clone, Debug)]
struct Row {
    id: i64,
    mrn: String,
    region: &'static str,
    amount: Option<i64>,
    code: String,
    bucketed: i64,
    birth: i32,
    note: Option<String>,
    flag: bool,
    info: (i64, String),
    tags: Vec<i64>,
    secret: i64,
}

const VISIBLE: usize = 40;

/// What the reader may see of row `i`; the rest is filled in by `hide`.
fn visible(i: usize) -> Row {
    let n = i as i64;
    Row {
        id: n,
        mrn: format!("m{}", n % 30),
        region: "eu",
        amount: (n % 9 != 8).then_some(n % 17 + 1),
        code: format!("{}", n % 7),
        bucketed: n % 5 * 10,
        birth: -4748 + (n % 4) as i32 * 366,
        note: None,
        flag: n % 3 == 0,
        info: (n % 6 + 1, format!("b{}", n % 3)),
        tags: (1..n % 4).collect(),
        secret: 0,
    }
}

/// Cells that the masks hide: anything with the same image.
fn hide(row: &mut Row, random: &mut Random) {
    row.bucketed += random.below(10) as i64;
    row.birth += random.below(300) as i32;
    row.note = random.chance(70).then(|| format!("HID{}", random.below(1000)));
    row.secret = hidden_number(random);
}

fn hidden_number(random: &mut Random) -> i64 {
    match random.below(6) {
        0 | 1 => 0,
        2 => i64::MIN,
        3 => i64::MAX,
        _ => 900_000 + random.below(1000) as i64,
    }
}

/// A row that the row set hides.
fn hidden(random: &mut Random) -> Row {
    let mut row = visible(random.below(VISIBLE));
    row.id = if random.chance(50) { row.id } else { hidden_number(random) };
    row.region = random.pick(&["us", "zz"]);
    row.mrn = format!("HID{}", random.below(1000));
    row.amount = random.chance(80).then(|| hidden_number(random));
    row.code = random.pick(&["HID", "", "(", "1900-13-77"]).to_string();
    row.info = (hidden_number(random), "HID".into());
    row.tags = vec![hidden_number(random); random.below(4)];
    hide(&mut row, random);
    row
}

fn schema() -> SchemaRef {
    let info = Fields::from(vec![Field::new("a", DataType::Int64, true), Field::new("b", DataType::Utf8, true)]);
    Arc::new(Schema::new(vec![
        Field::new("id", DataType::Int64, false),
        Field::new("mrn", DataType::Utf8, false),
        Field::new("region", DataType::Utf8, false),
        Field::new("amount", DataType::Int64, true),
        Field::new("code", DataType::Utf8, false),
        Field::new("bucketed", DataType::Int64, false),
        Field::new("birth", DataType::Date32, false),
        Field::new("note", DataType::Utf8, true),
        Field::new("flag", DataType::Boolean, false),
        Field::new("info", DataType::Struct(info), false),
        Field::new("tags", DataType::new_list(DataType::Int64, true), true),
        Field::new("secret", DataType::Int64, false),
    ]))
}

fn batch(rows: &[Row]) -> RecordBatch {
    fn numbers(rows: &[Row], f: impl Fn(&Row) -> Option<i64>) -> ArrayRef {
        Arc::new(rows.iter().map(f).collect::<Int64Array>())
    }
    fn texts(rows: &[Row], f: impl Fn(&Row) -> Option<String>) -> ArrayRef {
        Arc::new(rows.iter().map(f).collect::<StringArray>())
    }
    let schema = schema();
    let DataType::Struct(info) = schema.field(9).data_type() else { unreachable!() };
    let mut tags = ListBuilder::new(Int64Builder::new());
    rows.iter().for_each(|r| tags.append_value(r.tags.iter().copied().map(Some)));
    let columns: Vec<ArrayRef> = vec![
        numbers(rows, |r| Some(r.id)),
        texts(rows, |r| Some(r.mrn.clone())),
        texts(rows, |r| Some(r.region.into())),
        numbers(rows, |r| r.amount),
        texts(rows, |r| Some(r.code.clone())),
        numbers(rows, |r| Some(r.bucketed)),
        Arc::new(rows.iter().map(|r| Some(r.birth)).collect::<Date32Array>()),
        texts(rows, |r| r.note.clone()),
        Arc::new(rows.iter().map(|r| Some(r.flag)).collect::<BooleanArray>()),
        Arc::new(StructArray::new(
            info.clone(),
            vec![numbers(rows, |r| Some(r.info.0)), texts(rows, |r| Some(r.info.1.clone()))],
            None,
        )),
        Arc::new(tags.finish()),
        numbers(rows, |r| Some(r.secret)),
    ];
    RecordBatch::try_new(schema, columns).unwrap()
}

/// One database. Two with different `seed`s differ only in what is hidden.
#[derive(Clone)]
struct World {
    t: Vec<Vec<Row>>,
    m: Vec<Vec<Row>>,
}

impl World {
    fn new(seed: u64, partitions: usize) -> Self {
        let mut random = Random(seed);
        let mut t = vec![vec![]; partitions];
        let mut m = t.clone();
        for i in 0..VISIBLE {
            let mut row = visible(i);
            hide(&mut row, &mut random);
            m[i % partitions].push(row.clone());
            for _ in 0..random.below(3) {
                t[i % partitions].push(hidden(&mut random));
            }
            t[i % partitions].push(row);
        }
        Self { t, m }
    }
}

fn u() -> (SchemaRef, RecordBatch) {
    let schema =
        Arc::new(Schema::new(vec![Field::new("id", DataType::Int64, false), Field::new("val", DataType::Int64, true)]));
    let ids: ArrayRef = Arc::new((0..60).collect::<Int64Array>());
    let vals: ArrayRef = Arc::new((0..60).map(|i| (i % 7 != 6).then_some(i % 23)).collect::<Int64Array>());
    (Arc::clone(&schema), RecordBatch::try_new(schema, vec![ids, vals]).unwrap())
}

// ---- the governed relations ---------------------------------------------------------------------------------------

#[derive(Debug)]
struct Keys;

impl TokenKeys for Keys {
    fn mac(&self, key: &str, message: &[u8]) -> Option<[u8; 32]> {
        (key == "k").then(|| hmac_sha3_256(b"key", message))
    }
}

fn at(name: &str) -> TableVersion {
    TableVersion {
        dataset: DatasetId(Default::default()),
        name: format!("test.{name}").parse().unwrap(),
        version: 1,
        made_at: ControlSeq(1),
        content: Hash::default(),
    }
}

fn grant(schema: &Schema, rows: RowGrant, masks: bool) -> Grant {
    let column = |(i, f): (usize, &Arc<Field>)| {
        let token = Mask::Token { key: "k".into(), domain: "d".into() };
        let (rung, mask) = match f.name().as_str() {
            _ if !masks => (Rung::Raw, None),
            "mrn" => (Rung::Token, Some(token)),
            "bucketed" => (Rung::Partial, Some(Mask::Bucket(10))),
            "birth" => (Rung::Partial, Some(Mask::Year)),
            "note" => (Rung::Redact, Some(Mask::Null)),
            "secret" => (Rung::None, None),
            _ => (Rung::Raw, None),
        };
        ColumnGrant { field: FieldId(i as u32 + 1), name: f.name().clone(), rung, mask, policies: vec!["p".into()] }
    };
    Grant {
        columns: schema.fields().iter().enumerate().map(column).collect(),
        rows,
        floor: None,
        durability: Durability::Local,
        explain_raw: false,
        publish: false,
        declassify: false,
        valid_until: None,
        hash: Hash([0x7f; 32]),
        failed: vec![],
        policies: Default::default(),
    }
}

fn eu() -> RowGrant {
    let eu: Expr = col("region").eq(lit("eu"));
    RowGrant::Where(RowPredicate { sets: vec![("eu".into(), eu)], guards: vec![] })
}

/// A table that is a plan.
#[derive(Debug)]
struct Relation(LogicalPlan);

#[async_trait::async_trait]
impl TableProvider for Relation {
    fn schema(&self) -> SchemaRef {
        Arc::new(self.0.schema().as_arrow().clone())
    }

    fn table_type(&self) -> TableType {
        TableType::View
    }

    fn get_logical_plan(&self) -> Option<Cow<'_, LogicalPlan>> {
        Some(Cow::Borrowed(&self.0))
    }

    async fn scan(
        &self,
        _: &dyn Session,
        _: Option<&Vec<usize>>,
        _: &[Expr],
        _: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        datafusion::common::internal_err!("a governed relation is never scanned")
    }
}

#[derive(Clone, Copy, PartialEq, Debug)]
enum How {
    /// Barriers.
    Governed,
    /// The same filters and masks without barriers: what a view does.
    Plain,
    /// Filtered and masked first, then stored.
    Stored,
}

#[derive(Clone, Copy, Debug)]
struct Configuration {
    parquet: bool,
    partitions: usize,
    pushdown: bool,
}

const CONFIGURATIONS: &[Configuration] = &[
    Configuration { parquet: false, partitions: 1, pushdown: false },
    Configuration { parquet: false, partitions: 4, pushdown: false },
    Configuration { parquet: true, partitions: 1, pushdown: true },
    Configuration { parquet: true, partitions: 4, pushdown: true },
    Configuration { parquet: true, partitions: 1, pushdown: false },
];

/// A session over one database.
struct Database {
    session: SessionContext,
    partitions: usize,
    _files: tempfile::TempDir,
}

impl Database {
    async fn new(world: &World, how: How, c: Configuration) -> Self {
        let files = tempfile::tempdir().unwrap();
        let mut config = SessionConfig::new().with_target_partitions(c.partitions);
        config.options_mut().execution.parquet.pushdown_filters = c.pushdown;
        config.options_mut().execution.parquet.reorder_filters = c.pushdown;
        let decisions = Arc::new(Decisions::default());
        let extended = config.clone().with_extension(Arc::clone(&decisions));
        let base = SessionStateBuilder::new()
            .with_default_features()
            .with_relation_planners(vec![Arc::new(custody_dialect::AsOfRelations)])
            .with_config(extended);
        let state = match how {
            How::Governed => barrier_session_state(base),
            How::Plain | How::Stored => base.with_query_planner(Arc::new(NoBarrier)),
        };
        let session = SessionContext::new_with_state(state.build());
        let scratch = SessionContext::new_with_config(config);
        let (u_schema, u_batch) = u();
        let u_parts = vec![vec![u_batch]];
        let t_parts = world.t.iter().map(|rows| vec![batch(rows)]).collect::<Vec<_>>();
        let m_parts = world.m.iter().map(|rows| vec![batch(rows)]).collect::<Vec<_>>();
        for (name, schema, parts, rows, masks) in [
            ("t", schema(), t_parts, eu(), true),
            ("m", schema(), m_parts, RowGrant::All, true),
            ("u", u_schema, u_parts, RowGrant::All, false),
        ] {
            let raw: Arc<dyn TableProvider> = if c.parquet {
                stored(&scratch, files.path(), name, &schema, &parts).await
            } else {
                Arc::new(MemTable::try_new(Arc::clone(&schema), parts).unwrap())
            };
            // Parquet gives text another type, and the provider says which.
            let schema = raw.schema();
            let scan = LogicalPlanBuilder::scan(name, provider_as_source(raw), None).unwrap().build().unwrap();
            let fields: Vec<_> = (1..=schema.fields().len() as u32).map(FieldId).collect();
            let grant = grant(&schema, rows, masks);
            decisions.record(&at(name), grant.hash);
            let keys: Arc<dyn TokenKeys> = Arc::new(Keys);
            let governed = govern(scan, &at(name), &fields, &grant, &keys).unwrap();
            let provider: Arc<dyn TableProvider> = match how {
                How::Governed => Arc::new(Relation(governed)),
                How::Plain => Arc::new(Relation(without_barrier(&governed))),
                How::Stored => {
                    let plan = without_barrier(&governed);
                    let schema: SchemaRef = Arc::new(governed.schema().as_arrow().clone());
                    let frame = scratch.execute_logical_plan(plan).await.unwrap();
                    let parts = frame.collect_partitioned().await.unwrap();
                    let relabel =
                        |b: RecordBatch| RecordBatch::try_new(Arc::clone(&schema), b.columns().to_vec()).unwrap();
                    let parts = parts.into_iter().map(|p| p.into_iter().map(relabel).collect()).collect();
                    Arc::new(MemTable::try_new(schema, parts).unwrap())
                }
            };
            session.register_table(name, provider).unwrap();
        }
        Self { session, partitions: c.partitions, _files: files }
    }
}

/// DataFusion's planner that knows joins by time, and no barrier.
#[derive(Debug)]
struct NoBarrier;

#[async_trait::async_trait]
impl QueryPlanner for NoBarrier {
    async fn create_physical_plan(&self, plan: &LogicalPlan, session: &dyn Session) -> Result<Arc<dyn ExecutionPlan>> {
        let planner = DefaultPhysicalPlanner::with_extension_planners(vec![Arc::new(crate::asof::AsOfPlanner)]);
        planner.create_physical_plan(plan, session).await
    }
}

fn without_barrier(plan: &LogicalPlan) -> LogicalPlan {
    custody_policy::Barrier::of_plan(plan).unwrap().input().as_ref().clone()
}

/// Small row groups, one file a partition.
async fn stored(
    session: &SessionContext,
    folder: &std::path::Path,
    name: &str,
    schema: &SchemaRef,
    parts: &[Vec<RecordBatch>],
) -> Arc<dyn TableProvider> {
    let folder = folder.join(name);
    std::fs::create_dir(&folder).unwrap();
    for (i, part) in parts.iter().enumerate() {
        let file = std::fs::File::create(folder.join(format!("{i}.parquet"))).unwrap();
        let small = WriterProperties::builder().set_max_row_group_row_count(Some(8)).build();
        let mut writer = ArrowWriter::try_new(file, Arc::clone(schema), Some(small)).unwrap();
        part.iter().for_each(|b| writer.write(b).unwrap());
        writer.close().unwrap();
    }
    session.register_parquet(name, folder.to_str().unwrap(), ParquetReadOptions::default()).await.unwrap();
    session.table_provider(name).await.unwrap()
}

// ---- what an observer sees ----------------------------------------------------------------------------------------

#[derive(PartialEq, Debug)]
struct Seen {
    /// Column names and types, then rows; or the error.
    answer: Result<(Vec<String>, Vec<String>), String>,
    /// Both plans down to the barriers.
    explain: String,
}

async fn see(database: &Database, sql: &str) -> Seen {
    let mut explain = String::new();
    let answer = answer(database, sql, &mut explain).await.map_err(|e| e.strip_backtrace());
    Seen { answer, explain }
}

async fn answer(database: &Database, sql: &str, explain: &mut String) -> Result<(Vec<String>, Vec<String>)> {
    let state = database.session.state();
    let plan = state.create_logical_plan(sql).await?;
    let plan = state.optimize(&plan)?;
    explain.push_str(&logical_text(&plan, &|_, _| false)?);
    let physical = state.query_planner().create_physical_plan(&plan, &state).await?;
    explain.push('\n');
    explain.push_str(&physical_text(&physical, &|_, _| false));
    let columns = physical.schema().fields().iter().map(|f| format!("{}: {}", f.name(), f.data_type())).collect();
    let batches = collect(physical, state.task_ctx()).await?;
    let mut rows = vec![];
    for batch in &batches {
        let options = FormatOptions::default().with_null("NULL");
        let cells: Vec<_> = batch.columns().iter().map(|c| ArrayFormatter::try_new(c, &options).unwrap()).collect();
        rows.extend(
            (0..batch.num_rows()).map(|i| cells.iter().map(|c| c.value(i).to_string()).collect::<Vec<_>>().join(" | ")),
        );
    }
    rows.sort();
    Ok((columns, rows))
}

/// Which partition fails first is a race: with several, only that it failed counts.
fn settle(mut seen: Seen, database: &Database) -> Seen {
    if database.partitions > 1 {
        seen.answer = seen.answer.map_err(|_| "failed".into());
    }
    seen
}

/// Every hidden value says so itself.
fn shows_hidden(seen: &Seen) -> bool {
    let text = format!("{seen:?}");
    text.match_indices("HID").any(|(i, _)| text[i + 3..].starts_with(|c: char| c.is_ascii_digit()))
        || (900_000..901_000).any(|n: i64| text.contains(&n.to_string()))
}

fn statements() -> Vec<&'static str> {
    let text = include_str!("adversarial.sql");
    let lines = text.lines().filter(|l| !l.is_empty() && !l.starts_with("--"));
    lines.map(|l| l.strip_suffix(';').unwrap()).collect()
}

/// Plans are deep and unoptimised code has large frames. One thread: a switch of `enforce::without` holds on the thread
/// that runs the query.
fn run<T: Send>(f: impl AsyncFnOnce() -> T + Send) -> T {
    let run = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(f());
    std::thread::scope(|s| {
        std::thread::Builder::new().stack_size(64 << 20).spawn_scoped(s, run).unwrap().join().unwrap()
    })
}

fn run_without<T: Send>(id: &'static str, f: impl AsyncFnOnce() -> T + Send) -> T {
    let run = || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        enforce::without(id, || runtime.block_on(f()))
    };
    std::thread::scope(|s| {
        std::thread::Builder::new().stack_size(64 << 20).spawn_scoped(s, run).unwrap().join().unwrap()
    })
}

// ---- the proofs ---------------------------------------------------------------------------------------------------

/// Failures over `adversarial.sql`, as text.
async fn adversarial(c: Configuration) -> Vec<String> {
    let governed = [
        Database::new(&World::new(1, c.partitions), How::Governed, c).await,
        Database::new(&World::new(2, c.partitions), How::Governed, c).await,
    ];
    let stored = Database::new(&World::new(1, c.partitions), How::Stored, c).await;
    let mut failures = vec![];
    for sql in statements() {
        let a = settle(see(&governed[0], sql).await, &governed[0]);
        let b = settle(see(&governed[1], sql).await, &governed[1]);
        let want = settle(see(&stored, sql).await, &stored);
        if a != b {
            failures.push(format!("{c:?}: {sql}\n  twins differ:\n  {a:?}\n  {b:?}"));
        }
        // Leakproof conjuncts run first here, so that a fallible one may find nothing left to fail on.
        let spared = a.answer.is_ok() && want.answer.is_err();
        if a.answer != want.answer && !spared {
            failures.push(format!("{c:?}: {sql}\n  governed {:?}\n  stored   {:?}", a.answer, want.answer));
        }
        if shows_hidden(&a) || shows_hidden(&b) {
            failures.push(format!("{c:?}: {sql}\n  shows a hidden value:\n  {a:?}\n  {b:?}"));
        }
    }
    failures
}

#[test]
fn adversarial_statements_see_nothing() {
    for c in CONFIGURATIONS.iter().filter(|c| c.parquet == (c.partitions == 4) || c.pushdown) {
        let failures = run(async || adversarial(*c).await);
        assert!(failures.is_empty(), "{} failures\n{}", failures.len(), failures.join("\n"));
    }
}

// ---- single pieces ------------------------------------------------------------------------------------------------

/// The physical plan with everything in it.
async fn full_plan(database: &Database, sql: &str) -> Result<String> {
    let state = database.session.state();
    let plan = state.optimize(&state.create_logical_plan(sql).await?)?;
    let physical = state.query_planner().create_physical_plan(&plan, &state).await?;
    let text = physical_text(&physical, &|_, _| true);
    Ok(text.replace(database._files.path().to_str().unwrap().trim_start_matches('/'), "…"))
}

#[test]
fn an_open_barrier_costs_nothing() {
    run(async || {
        for c in CONFIGURATIONS {
            let world = World::new(1, c.partitions);
            let governed = Database::new(&world, How::Governed, *c).await;
            let plain = Database::new(&world, How::Plain, *c).await;
            for sql in [
                "SELECT id FROM u WHERE val > 3",
                "SELECT id FROM u WHERE 10 / val > 3 LIMIT 2",
                "SELECT count(*) FROM u",
                "SELECT id FROM u ORDER BY val LIMIT 3",
                "SELECT max(id) FROM u",
                "SELECT val, count(*) FROM u GROUP BY val",
                "SELECT a.id FROM u a JOIN u b ON a.id = b.val WHERE b.id < 5",
            ] {
                let governed = full_plan(&governed, sql).await.unwrap();
                let lines = |text: &str| {
                    let lines = text.lines().map(|l| l.trim().to_string());
                    lines.filter(|l| !l.starts_with("BarrierExec")).collect::<Vec<_>>()
                };
                assert_eq!(lines(&governed), lines(&full_plan(&plain, sql).await.unwrap()), "{c:?} {sql}\n{governed}");
            }
        }
    });
}

#[test]
fn leakproof_predicates_reach_the_scan_and_others_do_not() {
    run(async || {
        let c = CONFIGURATIONS[4];
        let database = Database::new(&World::new(1, c.partitions), How::Governed, c).await;
        let below = async |sql| {
            let plan = full_plan(&database, sql).await.unwrap();
            plan.split_once("BarrierExec").unwrap().1.to_string()
        };
        assert!(below("SELECT id FROM t WHERE amount > 20").await.contains("amount@"));
        assert!(below("SELECT id FROM t WHERE amount > 20").await.contains("pruning_predicate"));
        assert!(!below("SELECT id FROM t WHERE 10 / amount > 20").await.contains("10 / amount"));
        assert!(below("SELECT t.id FROM u JOIN t ON u.id = t.id WHERE u.val = 3").await.contains("DynamicFilter"));
        assert!(below("SELECT id FROM u ORDER BY val LIMIT 2").await.contains("DynamicFilter"));
    });
}

/// Row groups that neither a row set nor a leakproof predicate can match are not read, under a closed barrier as without one.
#[test]
fn row_groups_are_pruned_as_without_a_barrier() {
    let pruned = async |how, sql: &str| {
        let c = CONFIGURATIONS[4];
        let database = Database::new(&World::new(1, c.partitions), how, c).await;
        let state = database.session.state();
        let plan = state.optimize(&state.create_logical_plan(sql).await.unwrap()).unwrap();
        let physical = state.query_planner().create_physical_plan(&plan, &state).await.unwrap();
        collect(Arc::clone(&physical), state.task_ctx()).await.unwrap();
        let mut found = vec![];
        let mut nodes = vec![physical];
        while let Some(node) = nodes.pop() {
            let metrics = node.metrics().map(|m| m.aggregate_by_name());
            let groups =
                metrics.iter().flat_map(|m| m.iter()).filter(|m| m.value().name() == "row_groups_pruned_statistics");
            found.extend(groups.map(|m| m.value().to_string()));
            nodes.extend(node.children().into_iter().cloned());
        }
        found
    };
    run(async || {
        for sql in [
            "SELECT id FROM t WHERE id = 39",
            "SELECT count(*) FROM t WHERE id > 35",
            "SELECT count(*) FROM m WHERE id BETWEEN 3 AND 5",
        ] {
            let (with, without) = (pruned(How::Governed, sql).await, pruned(How::Plain, sql).await);
            assert_eq!(with, without, "{sql}");
            // "12 total → 8 matched".
            let pruned = |text: &String| {
                let numbers: Vec<u64> = text.split_whitespace().filter_map(|w| w.parse().ok()).collect();
                numbers.first() > numbers.get(1)
            };
            assert!(with.iter().any(pruned), "{sql}: {with:?}");
        }
    });
}

/// What a TopK or an aggregate has seen so far depends on when hidden rows came, so it may not choose among visible ones.
#[test]
fn filters_that_still_change_stop_at_a_closed_barrier() {
    let changing = async || {
        let c = CONFIGURATIONS[2];
        let database = Database::new(&World::new(1, c.partitions), How::Governed, c).await;
        let plan = full_plan(&database, "SELECT id FROM t ORDER BY amount LIMIT 2").await.unwrap();
        plan.split_once("BarrierExec").unwrap().1.contains("DynamicFilter")
    };
    assert!(!run(changing));
    assert!(run_without("check.settled", changing));
}

#[test]
fn plans_end_at_the_barrier() {
    run(async || {
        let c = CONFIGURATIONS[0];
        let database = Database::new(&World::new(1, c.partitions), How::Governed, c).await;
        let seen =
            see(&database, "SELECT id FROM t WHERE amount > 20 AND EXISTS (SELECT 1 FROM m WHERE m.id = t.id)").await;
        assert!(seen.explain.contains("Barrier: test.t@1 grant=7f7f7f7f"), "{}", seen.explain);
        for hidden in ["TableScan", "DataSourceExec", "region", "mask", "rows", "secret"] {
            assert!(!seen.explain.contains(hidden), "{hidden}\n{}", seen.explain);
        }
    });
}

#[test]
fn a_scan_without_a_decision_is_refused() {
    run(async || {
        let c = CONFIGURATIONS[0];
        let database = Database::new(&World::new(1, c.partitions), How::Governed, c).await;
        let (schema, batch) = u();
        let raw = Arc::new(MemTable::try_new(schema, vec![vec![batch]]).unwrap());
        database.session.register_table("raw", raw).unwrap();
        let error = async |sql| see(&database, sql).await.answer.unwrap_err();
        let want = "Error during planning: table `raw` is read without a decision";
        assert_eq!(error("SELECT * FROM raw").await, want);
        assert_eq!(error("SELECT * FROM u WHERE EXISTS (SELECT 1 FROM raw WHERE raw.id = u.id)").await, want);
        assert_eq!(error("SELECT (SELECT max(id) FROM raw) FROM u").await, want);
        let free = see(&database, "SELECT * FROM (VALUES (1), (2)) v(x)").await;
        assert_eq!(free.answer.unwrap().1, ["1", "2"]);
        let free = see(&database, "SELECT value FROM generate_series(1, 2)").await;
        assert_eq!(free.answer.unwrap().1, ["1", "2"]);
        let others = Arc::new(Decisions::default());
        others.record(&at("other"), Hash::default());
        let mut state = database.session.state();
        state.config_mut().set_extension(others);
        let plan = state.create_logical_plan("SELECT * FROM u").await.unwrap();
        let refused = state.create_physical_plan(&plan).await.unwrap_err().strip_backtrace();
        assert!(refused.contains("no decision is recorded for `test.u@1`"), "{refused}");
    });
}

/// Fails for every batch with text that nobody may see.
#[derive(Debug)]
struct Broken(SchemaRef);

impl datafusion::physical_plan::streaming::PartitionStream for Broken {
    fn schema(&self) -> &SchemaRef {
        &self.0
    }

    fn execute(&self, _: Arc<datafusion::execution::TaskContext>) -> datafusion::execution::SendableRecordBatchStream {
        let error = DataFusionError::Execution("cannot read /secret/HID1.parquet".into());
        let stream = futures::stream::once(async { Err(error) });
        Box::pin(datafusion::physical_plan::stream::RecordBatchStreamAdapter::new(Arc::clone(&self.0), stream))
    }
}

async fn broken_storage() -> String {
    let c = CONFIGURATIONS[0];
    let database = Database::new(&World::new(1, c.partitions), How::Governed, c).await;
    let schema = schema();
    let stream = Arc::new(Broken(Arc::clone(&schema)));
    let raw = datafusion::catalog::streaming::StreamingTable::try_new(Arc::clone(&schema), vec![stream]).unwrap();
    let scan = LogicalPlanBuilder::scan("t", provider_as_source(Arc::new(raw)), None).unwrap().build().unwrap();
    let fields: Vec<_> = (1..=schema.fields().len() as u32).map(FieldId).collect();
    let keys: Arc<dyn TokenKeys> = Arc::new(Keys);
    let plan = govern(scan, &at("t"), &fields, &grant(&schema, eu(), true), &keys).unwrap();
    database.session.register_table("broken", Arc::new(Relation(plan))).unwrap();
    see(&database, "SELECT id FROM broken").await.answer.unwrap_err()
}

#[test]
fn errors_below_a_barrier_are_opaque() {
    let error = run(broken_storage);
    assert_eq!(error, "External error: query failed inside a governed table (decision 7f7f7f7f)");
}

/// A closed barrier over rows in memory that come in batches of one, with an order and a constant below.
fn closed_over(filter: Option<Arc<dyn PhysicalExpr>>) -> Arc<dyn ExecutionPlan> {
    let (schema, batch) = u();
    let single = (0..batch.num_rows()).map(|i| batch.slice(i, 1)).collect();
    let rows = MemorySourceConfig::try_new_exec(&[single], Arc::clone(&schema), None).unwrap();
    let constant =
        physical::binary(physical::col("val", &schema).unwrap(), Operator::Eq, physical::lit(3_i64), &schema);
    let rows = FilterExec::try_new(filter.unwrap_or_else(|| constant.unwrap()), rows).unwrap();
    Arc::new(BarrierExec::try_new(at("u"), Hash([0x7f; 32]), false, schema, Arc::new(rows)).unwrap())
}

fn decided() -> Decisions {
    let decisions = Decisions::default();
    decisions.record(&at("u"), Hash([0x7f; 32]));
    decisions
}

#[test]
fn a_closed_barrier_knows_nothing_of_what_is_below() {
    let constants = || {
        let barrier = closed_over(None);
        barrier.properties().equivalence_properties().constants().len()
    };
    assert_eq!(constants(), 0);
    assert!(enforce::without("exec.properties", constants) > 0);
    assert_eq!(statistics(closed_over(None)), Precision::Absent);
}

fn statistics(barrier: Arc<dyn ExecutionPlan>) -> Precision<usize> {
    StatisticsContext::new().compute(barrier.as_ref(), &Default::default()).unwrap().num_rows
}

/// `10 / id > 1` over `u`.
fn fallible() -> Arc<dyn PhysicalExpr> {
    let (schema, _) = u();
    let id = physical::col("id", &schema).unwrap();
    let quotient = physical::binary(physical::lit(10_i64), Operator::Divide, id, &schema).unwrap();
    physical::binary(quotient, Operator::Gt, physical::lit(1_i64), &schema).unwrap()
}

#[test]
fn batches_end_where_visible_rows_say() {
    let sizes = async || {
        let (schema, batch) = u();
        let cut = [0, 0, 7, 8, 20, 58, 60].windows(2).map(|w| batch.slice(w[0], w[1] - w[0])).collect();
        let rows = MemorySourceConfig::try_new_exec(&[cut], Arc::clone(&schema), None).unwrap();
        let barrier = BarrierExec::try_new(at("u"), Hash::default(), false, schema, rows).unwrap();
        let context = SessionContext::new_with_config(SessionConfig::new().with_batch_size(16)).task_ctx();
        let batches = collect(Arc::new(barrier), context).await.unwrap();
        batches.iter().map(RecordBatch::num_rows).collect::<Vec<_>>()
    };
    assert_eq!(run(sizes), [16, 16, 16, 12]);
    assert_ne!(run_without("exec.batches", sizes), [16, 16, 16, 12]);
    // Rows without columns too: `SELECT 1 FROM t`.
    let bare = async || {
        let (schema, batch) = u();
        let cut = [0, 7, 8, 20, 58, 60].windows(2).map(|w| batch.slice(w[0], w[1] - w[0])).collect();
        let rows = MemorySourceConfig::try_new_exec(&[cut], schema, Some(vec![])).unwrap();
        let barrier = BarrierExec::try_new(at("u"), Hash::default(), false, rows.schema(), rows).unwrap();
        let context = SessionContext::new_with_config(SessionConfig::new().with_batch_size(16)).task_ctx();
        let batches = collect(Arc::new(barrier), context).await.unwrap();
        batches.iter().map(RecordBatch::num_rows).collect::<Vec<_>>()
    };
    assert_eq!(run(bare), [16, 16, 16, 12]);
}

#[test]
fn what_is_not_known_below_a_closed_barrier_is_refused() {
    assert!(check(&closed_over(None), &decided()).is_ok());
    let refused = check(&closed_over(Some(fallible())), &decided()).unwrap_err().strip_backtrace();
    assert!(refused.contains("an expression of `FilterExec` is not known below a barrier"), "{refused}");
    let twice = BarrierExec::try_new(at("u"), Hash([0x7f; 32]), true, u().0, closed_over(None)).unwrap();
    let twice: Arc<dyn ExecutionPlan> = Arc::new(twice);
    let refused = check(&twice, &decided()).unwrap_err().strip_backtrace();
    assert!(refused.contains("`DataSourceExec` is under 2 barriers, not one"), "{refused}");
    let refused = check(&closed_over(None), &Decisions::default()).unwrap_err().strip_backtrace();
    assert!(refused.contains("no decision is recorded for `test.u@1`"), "{refused}");
}

#[test]
fn which_predicates_are_leakproof() {
    let raw = schema();
    let schema = DFSchema::try_from(raw.as_ref().clone()).unwrap();
    let (amount, code, info) = (|| col("amount"), || col("code"), || col("info"));
    let long = "a".repeat(257);
    for (predicate, want) in [
        (amount().gt(lit(3_i64)), true),
        (lit(3_i64).lt_eq(amount()).or(code().eq(lit("x"))), true),
        (!col("flag").and(amount().is_null()), true),
        (amount().in_list(vec![lit(1_i64), lit(2_i64)], true), true),
        (amount().between(lit(1_i64), lit(2_i64)), true),
        (code().like(lit("a%")), true),
        (amount().eq(col("id")), true),
        (code().like(lit(long.as_str())), false),
        (code().ilike(lit("a%")), false),
        (code().like(code()), false),
        (lit(1_i64).eq(lit(2_i64)), false),
        (lit(true), false),
        ((lit(1_i64) / lit(0_i64)).gt(lit(0_i64)), false),
        (amount().gt(lit(3_i32)), false),
        ((amount() + lit(1_i64)).gt(lit(3_i64)), false),
        (cast(code(), DataType::Int64).gt(lit(3_i64)), false),
        (amount().gt(lit(3_i64)).and((lit(1_i64) / amount()).gt(lit(0_i64))), false),
        (amount().in_list(vec![lit(1_i64) / amount()], false), false),
        (info().eq(info()), false),
        (col("tags").is_null(), false),
        (col("secret_of_nobody").eq(lit(1_i64)), false),
    ] {
        assert_eq!(leakproof::logical(&predicate, &schema), want, "{predicate}");
        let props = ExecutionProps::new();
        if let Ok(physical) = create_physical_expr(&predicate, &schema, &props, &Default::default()) {
            assert_eq!(leakproof::physical(&physical, &raw), want, "physical {physical}");
        }
    }
}

// ---- mutations ----------------------------------------------------------------------------------------------------

/// Every id of the barrier, switched off alone, is seen: by the statements of `adversarial.sql`, or by what a single piece says.
#[test]
fn a_missing_line_is_seen() {
    let (memory, parquet) = (CONFIGURATIONS[0], CONFIGURATIONS[2]);
    for (id, c) in [
        ("exec.filters", memory),
        ("govern.columns", memory),
        ("govern.masks", memory),
        ("govern.sets", memory),
        ("leakproof.conjuncts", parquet),
        ("push.guarded", memory),
    ] {
        let failures = run_without(id, async || adversarial(c).await);
        assert!(!failures.is_empty(), "without `{id}` nothing fails");
    }
    assert!(run_without("exec.errors", broken_storage).contains("HID1"));
    let ungoverned = async || {
        let database = Database::new(&World::new(1, 1), How::Governed, CONFIGURATIONS[0]).await;
        let (schema, batch) = u();
        let raw = Arc::new(MemTable::try_new(schema, vec![vec![batch]]).unwrap());
        database.session.register_table("raw", raw).unwrap();
        see(&database, "SELECT * FROM raw").await.answer.is_ok()
    };
    assert!(!run(ungoverned) && run_without("check.leaves", ungoverned));
    let around_its_floor = async || {
        let database = Database::new(&World::new(1, 1), How::Governed, CONFIGURATIONS[0]).await;
        let (schema, batch) = u();
        let raw = Arc::new(MemTable::try_new(Arc::clone(&schema), vec![vec![batch]]).unwrap());
        let scan = LogicalPlanBuilder::scan("u", provider_as_source(raw), None).unwrap().build().unwrap();
        let mut grant = grant(&schema, RowGrant::All, false);
        grant.columns[1].rung = Rung::Aggregate;
        grant.floor = Some(custody_policy::GroupFloor { least: 2, counting: FieldId(1) });
        let keys: Arc<dyn TokenKeys> = Arc::new(Keys);
        let plan = govern(scan, &at("u"), &[FieldId(1), FieldId(2)], &grant, &keys).unwrap();
        database.session.register_table("counted", Arc::new(Relation(plan))).unwrap();
        see(&database, "SELECT val FROM counted").await.answer.is_ok()
    };
    assert!(!run(around_its_floor) && run_without("floor.settled", around_its_floor));
    type Piece = (&'static str, fn() -> bool);
    let pieces: [Piece; 7] = [
        ("check.decisions", || check(&closed_over(None), &Decisions::default()).is_ok()),
        ("check.expressions", || check(&closed_over(Some(fallible())), &decided()).is_ok()),
        ("exec.limit", || closed_over(None).supports_limit_pushdown()),
        ("exec.order", || closed_over(None).maintains_input_order()[0]),
        ("exec.properties", || !closed_over(None).properties().equivalence_properties().constants().is_empty()),
        ("exec.statistics", || statistics(closed_over(None)) != Precision::Absent),
        ("leakproof.columns", || {
            let schema = DFSchema::try_from(schema().as_ref().clone()).unwrap();
            leakproof::logical(&lit(1_i64).eq(lit(2_i64)), &schema)
        }),
    ];
    for (id, let_through) in pieces {
        assert!(!let_through() && enforce::without(id, let_through), "`{id}`");
    }
    // Shown by tests of their own above.
    let elsewhere = ["check.settled", "exec.batches"];
    let seen = [
        "check.decisions",
        "check.expressions",
        "check.leaves",
        "exec.errors",
        "exec.filters",
        "exec.limit",
        "exec.order",
        "exec.properties",
        "exec.statistics",
        "leakproof.columns",
        "leakproof.conjuncts",
    ];
    let ours = enforce::IDS.iter().filter(|id| {
        let (part, _) = id.split_once('.').unwrap();
        ["check", "exec", "leakproof"].contains(&part)
    });
    for id in ours {
        assert!(seen.contains(id) || elsewhere.contains(id), "no test switches `{id}` off");
    }
}
