//! The barrier is proved here, since everything rests on it.
//!
//! - `adversarial`: the statements of `adversarial.sql`, each against a stored copy of what the reader may see.
//! - `twins`: random statements over two databases that differ only in what is hidden.
//! - `mutations`: each line that enforces something, switched off, lets one of these fail.

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
use datafusion::common::{DataFusionError, Result};
use datafusion::datasource::{MemTable, TableType, provider_as_source};
use datafusion::execution::SessionStateBuilder;
use datafusion::logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder, col, lit};
use datafusion::parquet::arrow::ArrowWriter;
use datafusion::parquet::file::properties::WriterProperties;
use datafusion::physical_plan::{ExecutionPlan, collect};
use datafusion::prelude::{ParquetReadOptions, SessionConfig, SessionContext};
use std::{borrow::Cow, collections::BTreeSet, future::Future, sync::Arc};

// ---- random numbers: a fixed generator, so that a printed seed brings a failure back ------------------------------

#[derive(Clone)]
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

    fn pick<'a, T: ?Sized>(&mut self, of: &[&'a T]) -> &'a T {
        of[self.below(of.len())]
    }

    fn chance(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }
}

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
    let schema = Arc::new(Schema::new(vec![
        Field::new("id", DataType::Int64, false),
        Field::new("val", DataType::Int64, true),
    ]));
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
        let base = SessionStateBuilder::new().with_default_features().with_config(extended);
        let state = match how {
            How::Governed => barrier_session_state(base),
            How::Plain | How::Stored => base,
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
                    let relabel = |b: RecordBatch| RecordBatch::try_new(Arc::clone(&schema), b.columns().to_vec()).unwrap();
                    let parts = parts.into_iter().map(|p| p.into_iter().map(relabel).collect()).collect();
                    Arc::new(MemTable::try_new(schema, parts).unwrap())
                }
            };
            session.register_table(name, provider).unwrap();
        }
        Self { session, partitions: c.partitions, _files: files }
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
        rows.extend((0..batch.num_rows()).map(|i| {
            cells.iter().map(|c| c.value(i).to_string()).collect::<Vec<_>>().join(" | ")
        }));
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

fn block_on<T>(future: impl Future<Output = T>) -> T {
    // One thread: `enforce::without` switches on the thread that runs the query.
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
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
        if a.answer != want.answer {
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
    for c in CONFIGURATIONS {
        let failures = block_on(adversarial(*c));
        assert!(failures.is_empty(), "{} failures\n{}", failures.len(), failures.join("\n"));
    }
}
