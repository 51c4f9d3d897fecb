//! What governance costs: the same statements over governed relations and over what one would write by hand, planning
//! included, in turns.
//!
//! - TPC-H, a reader from whom rows and cells are hidden, beside views with the same predicates and CASEs.
//! - TPC-H, a reader from whom nothing is hidden, beside the tables alone.
//! - One row by its key under a row set, beside the same predicate in the statement.
//!
//! `CUSTODY_SCALE` is TPC-H's scale factor (0.2), `CUSTODY_ROUNDS` how often each side runs (7), `CUSTODY_QUERIES` the
//! queries (`q06,q14`); `CUSTODY_STAGES=1` tells how long each stage takes, `CUSTODY_PLANS=1` the plans. What both sides answer is
//! compared first.

mod data;

use crate::pairs::Ratios;
use custody_engine::barrier::{Decisions, Visible, barrier_session_state, physical_text};
use custody_model::{
    Authentication, ControlSeq, DatasetId, DatasetName, FieldId, Hash, Principal, Purpose, Subject, TableVersion,
};
use custody_policy::{Bundle, ColumnFacts, TableFacts, Tables, TokenKeys, decide, floor, govern};
use datafusion::arrow::{array::RecordBatch, datatypes::DataType, util::pretty::pretty_format_batches};
use datafusion::catalog::{MemorySchemaProvider, Session, TableProvider};
use datafusion::datasource::{TableType, provider_as_source};
use datafusion::error::Result;
use datafusion::execution::{SessionState, SessionStateBuilder};
use datafusion::logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder};
use datafusion::physical_plan::{ExecutionPlan, collect};
use datafusion::prelude::{ParquetReadOptions, SessionConfig, SessionContext};
use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::runtime::Runtime;

/// What is hidden, in the policy's words.
const HIDDEN: &str = "
    CREATE ROW SET r ON lake.customer AS c_mktsegment <> 'MACHINERY';
    CREATE ROW SET r ON lake.orders AS o_orderpriority <> '5-LOW';
    CREATE ROW SET r ON lake.lineitem AS l_shipmode <> 'RAIL';
    CREATE ROW SET r ON lake.partsupp AS ps_availqty > 100;
    CREATE ROW SET r ON lake.events AS region = 'eu';
    CREATE MASK PARAMETERS FOR COLUMN lake.customer.c_phone (partial = first(2));
    CREATE MASK PARAMETERS FOR COLUMN lake.customer.c_comment (redact = const(''));
    CREATE MASK PARAMETERS FOR COLUMN lake.orders.o_clerk (redact = const('hidden'));
    CREATE MASK PARAMETERS FOR COLUMN lake.supplier.s_phone (partial = first(3));";

/// The rungs of columns that are not shown raw; one without parameters is NULL.
const MASKED: &[(&str, &str)] = &[
    ("customer.c_address", "redact"),
    ("customer.c_phone", "partial"),
    ("customer.c_comment", "redact"),
    ("orders.o_clerk", "redact"),
    ("lineitem.l_comment", "redact"),
    ("supplier.s_address", "redact"),
    ("supplier.s_phone", "partial"),
    ("part.p_comment", "redact"),
    ("partsupp.ps_comment", "redact"),
];

/// The same by hand: what stands for a table.
const BY_HAND: &[(&str, &str, &str)] = &[
    (
        "customer",
        "c_custkey, c_name, CAST(NULL AS VARCHAR) AS c_address, c_nationkey, \
         CASE WHEN char_length(c_phone) < 4 THEN '***' ELSE left(c_phone, 2) || '***' END AS c_phone, c_acctbal, \
         c_mktsegment, '' AS c_comment",
        "c_mktsegment <> 'MACHINERY'",
    ),
    (
        "orders",
        "o_orderkey, o_custkey, o_orderstatus, o_totalprice, o_orderdate, o_orderpriority, 'hidden' AS o_clerk, \
         o_shippriority, o_comment",
        "o_orderpriority <> '5-LOW'",
    ),
    (
        "lineitem",
        "l_orderkey, l_partkey, l_suppkey, l_linenumber, l_quantity, l_extendedprice, l_discount, l_tax, \
         l_returnflag, l_linestatus, l_shipdate, l_commitdate, l_receiptdate, l_shipinstruct, l_shipmode, \
         CAST(NULL AS VARCHAR) AS l_comment",
        "l_shipmode <> 'RAIL'",
    ),
    (
        "supplier",
        "s_suppkey, s_name, CAST(NULL AS VARCHAR) AS s_address, s_nationkey, \
         CASE WHEN char_length(s_phone) < 6 THEN '***' ELSE left(s_phone, 3) || '***' END AS s_phone, s_acctbal, \
         s_comment",
        "TRUE",
    ),
    (
        "part",
        "p_partkey, p_name, p_mfgr, p_brand, p_type, p_size, p_container, p_retailprice, \
         CAST(NULL AS VARCHAR) AS p_comment",
        "TRUE",
    ),
    (
        "partsupp",
        "ps_partkey, ps_suppkey, ps_availqty, ps_supplycost, CAST(NULL AS VARCHAR) AS ps_comment",
        "ps_availqty > 100",
    ),
    ("nation", "*", "TRUE"),
    ("region", "*", "TRUE"),
    ("events", "*", "region = 'eu'"),
];

/// What a session's names mean.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Way {
    /// Governed, for a reader from whom something is hidden.
    Governed,
    /// Views with the same predicates and CASEs.
    ByHand,
    /// Governed, for a reader from whom nothing is.
    Unrestricted,
    /// The tables alone.
    Alone,
}

/// A table as it lies on disk.
struct Stored {
    name: &'static str,
    provider: Arc<dyn TableProvider>,
}

struct Schemas<'a>(&'a [Stored]);

impl Tables for Schemas<'_> {
    fn columns(&self, name: &DatasetName) -> Option<Vec<(FieldId, String, DataType)>> {
        let stored = self.0.iter().find(|s| s.name == name.name())?;
        let column = |(i, (name, data_type))| (FieldId(i as u32 + 1), name, data_type);
        Some(data::columns(&stored.provider.schema()).into_iter().enumerate().map(column).collect())
    }
}

struct NoKeys;

impl TokenKeys for NoKeys {
    fn mac(&self, _: &str, _: &[u8]) -> Option<[u8; 32]> {
        None
    }
}

/// A name that is a plan.
#[derive(Debug)]
struct Relation(LogicalPlan);

#[async_trait::async_trait]
impl TableProvider for Relation {
    fn schema(&self) -> datafusion::arrow::datatypes::SchemaRef {
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
        panic!("a plan is not scanned")
    }
}

/// As the engine's own sessions, on both sides.
fn config() -> SessionConfig {
    let cores = std::thread::available_parallelism().map_or(2, usize::from);
    let mut config = SessionConfig::new().with_target_partitions(cores);
    let options = config.options_mut();
    options.sql_parser.map_string_types_to_utf8view = false;
    options.execution.parquet.schema_force_view_types = false;
    options.execution.parquet.pushdown_filters = true;
    config
}

/// The tables of a folder, by one listing that all ways share.
async fn stored(folder: &Path, names: &[&'static str]) -> Vec<Stored> {
    let context = SessionContext::new_with_config(config());
    let mut tables = vec![];
    for name in names {
        let path = folder.join(format!("{name}.parquet"));
        context.register_parquet(*name, path.to_str().unwrap(), ParquetReadOptions::default()).await.unwrap();
        tables.push(Stored { name, provider: context.table_provider(*name).await.unwrap() });
    }
    tables
}

fn dataset(name: &str) -> DatasetName {
    format!("lake.{name}").parse().unwrap()
}

async fn session(tables: &[Stored], way: Way) -> SessionContext {
    let governed = matches!(way, Way::Governed | Way::Unrestricted);
    let decisions = Arc::new(Decisions::default());
    let config = match governed {
        true => config().with_extension(Arc::clone(&decisions)).with_extension(Arc::new(Visible::default())),
        false => config(),
    };
    let base = SessionStateBuilder::new().with_default_features().with_config(config);
    let state = if governed { barrier_session_state(base).build() } else { base.build() };
    let context = SessionContext::new_with_state(state);
    let stored = Arc::new(MemorySchemaProvider::new());
    context.catalog("datafusion").unwrap().register_schema("stored", stored).unwrap();
    let bundle = bundle(tables, way);
    for Stored { name, provider } in tables {
        match way {
            Way::Alone => drop(context.register_table(*name, Arc::clone(provider)).unwrap()),
            Way::ByHand => {
                context.register_table(format!("stored.{name}"), Arc::clone(provider)).unwrap();
                let (_, columns, rows) = BY_HAND.iter().find(|(table, ..)| table == name).unwrap();
                let filter = if *rows == "TRUE" { String::new() } else { format!(" WHERE {rows}") };
                let view = format!("CREATE VIEW {name} AS SELECT {columns} FROM stored.{name}{filter}");
                context.sql(&view).await.unwrap().collect().await.unwrap();
            }
            Way::Governed | Way::Unrestricted => {
                let grant = decide(&bundle, &subject(), &facts(tables, name));
                assert!(grant.failed.is_empty() && grant.visible());
                assert_eq!(grant.open(), way == Way::Unrestricted || ["nation", "region"].contains(name), "{name}");
                let fields: Vec<_> = grant.columns.iter().map(|c| c.field).collect();
                let source = provider_as_source(Arc::clone(provider));
                let scan = LogicalPlanBuilder::scan(*name, source, None).unwrap().build().unwrap();
                decisions.record(&at(name), grant.hash);
                let keys: Arc<dyn TokenKeys> = Arc::new(NoKeys);
                let plan = govern(scan, &at(name), &fields, &grant, &keys).unwrap();
                context.register_table(*name, Arc::new(Relation(plan))).unwrap();
            }
        }
    }
    context
}

fn bundle(tables: &[Stored], way: Way) -> Bundle {
    let hides = way == Way::Governed;
    let mut cedar = String::new();
    let mut sql = String::from("CREATE CLASSIFICATION pii;");
    for Stored { name, provider } in tables {
        for (column, _) in data::columns(&provider.schema()) {
            let masked = MASKED.iter().find(|(masked, _)| *masked == format!("{name}.{column}"));
            let rung = masked.filter(|_| hides).map_or("raw", |(_, rung)| *rung);
            cedar += &format!(
                "permit (principal, action in Action::\"up_to_{rung}\", resource == Column::\"lake.{name}.{column}\");\n"
            );
        }
    }
    if hides {
        cedar += "permit (principal, action == Action::\"see_rows\", resource);\n";
        let here = |s: &&str| tables.iter().any(|t| s.contains(&format!("lake.{}", t.name)));
        sql.extend(HIDDEN.split_inclusive(';').filter(here));
    }
    let files = [("p.cedar".to_string(), cedar.into_bytes()), ("p.sql".to_string(), sql.into_bytes())];
    Bundle::load(&files, &Schemas(tables)).unwrap_or_else(|problems| panic!("{problems:#?}"))
}

fn at(name: &str) -> TableVersion {
    TableVersion {
        dataset: DatasetId(Default::default()),
        name: dataset(name),
        version: 1,
        made_at: ControlSeq(1),
        content: Hash::default(),
    }
}

fn facts(tables: &[Stored], name: &str) -> TableFacts {
    let column = |(field, name, data_type)| ColumnFacts {
        field,
        name,
        data_type,
        classes: BTreeSet::new(),
        approved: BTreeMap::new(),
    };
    TableFacts {
        dataset: DatasetId(Default::default()),
        name: dataset(name),
        owner: Principal::from("lake"),
        purposes: BTreeSet::new(),
        columns: Schemas(tables).columns(&dataset(name)).unwrap().into_iter().map(column).collect(),
        token_keys: BTreeMap::new(),
    }
}

fn subject() -> Subject {
    Subject {
        principal: Principal::from("ann"),
        kind: "user".into(),
        roles: BTreeSet::new(),
        attributes: BTreeMap::new(),
        purpose: Purpose::from("research"),
        environment: "prod".into(),
        stage: String::new(),
        region: None,
        model: None,
        model_version: None,
        authentication: Authentication::Local,
        session: None,
        token: None,
    }
}

/// A statement, planned and run.
async fn run(context: &SessionContext, sql: &str) -> Vec<RecordBatch> {
    let state = context.state();
    let plan = physical(&state, sql).await;
    collect(plan, state.task_ctx()).await.unwrap()
}

/// As the engine plans: visible rows are counted when a join first meets them, which the comparison of answers does.
async fn physical(state: &SessionState, sql: &str) -> Arc<dyn ExecutionPlan> {
    let plan = floor::settle(state.create_logical_plan(sql).await.unwrap()).unwrap();
    let optimised = state.optimize(&plan).unwrap();
    if let Some(shown) = state.config().get_extension::<Visible>() {
        shown.look(&plan, &optimised, state).await.unwrap();
    }
    state.query_planner().create_physical_plan(&optimised, state).await.unwrap()
}

/// How long each stage of a statement takes at best: parsing and the logical plan, optimizing, looking at what is visible, the
/// physical plan, running.
async fn stages(context: &SessionContext, sql: &str, rounds: usize) -> [Duration; 5] {
    let mut best = [Duration::MAX; 5];
    for _ in 0..rounds {
        let state = context.state();
        let mut marks = vec![Instant::now()];
        let plan = floor::settle(state.create_logical_plan(sql).await.unwrap()).unwrap();
        marks.push(Instant::now());
        let optimised = state.optimize(&plan).unwrap();
        marks.push(Instant::now());
        if let Some(shown) = state.config().get_extension::<Visible>() {
            shown.look(&plan, &optimised, &state).await.unwrap();
        }
        marks.push(Instant::now());
        let physical = state.query_planner().create_physical_plan(&optimised, &state).await.unwrap();
        marks.push(Instant::now());
        drop(collect(physical, state.task_ctx()).await.unwrap());
        marks.push(Instant::now());
        for (best, pair) in best.iter_mut().zip(marks.windows(2)) {
            *best = (*best).min(pair[1] - pair[0]);
        }
    }
    best
}

async fn plan(context: &SessionContext, sql: &str) -> String {
    let state = context.state();
    physical_text(&physical(&state, sql).await, &|_, _| true)
}

fn text(batches: &[RecordBatch]) -> Vec<String> {
    let mut lines: Vec<String> =
        pretty_format_batches(batches).unwrap().to_string().lines().map(String::from).collect();
    lines.sort();
    lines
}

struct World {
    runtime: Runtime,
    sessions: [SessionContext; 2],
}

impl World {
    fn new(folder: &Path, names: &[&'static str], ways: [Way; 2]) -> Self {
        let runtime = Runtime::new().unwrap();
        let tables = runtime.block_on(stored(folder, names));
        let sessions = ways.map(|way| runtime.block_on(session(&tables, way)));
        Self { runtime, sessions }
    }

    fn compare(&self, ratios: &mut Ratios, name: &str, sql: &str, rounds: usize) {
        let [ours, theirs] = self.sessions.each_ref().map(|s| self.runtime.block_on(run(s, sql)));
        assert_eq!(text(&ours), text(&theirs), "{name}");
        if std::env::var("CUSTODY_PLANS").is_ok() {
            self.sessions.iter().for_each(|s| println!("{}", self.runtime.block_on(plan(s, sql))));
        }
        if std::env::var("CUSTODY_STAGES").is_ok() {
            self.sessions.iter().for_each(|s| println!("{name} {:?}", self.runtime.block_on(stages(s, sql, rounds))));
            return;
        }
        let [ours, theirs] = self.sessions.each_ref().map(|s| move || drop(self.runtime.block_on(run(s, sql))));
        ratios.case(name, rounds, ours, theirs);
    }
}

fn setting<T: std::str::FromStr>(name: &str, default: T) -> T {
    std::env::var(name).ok().and_then(|v| v.parse().ok()).unwrap_or(default)
}

fn queries() -> Vec<(String, String)> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../testdata/tpc/tpch");
    let chosen = std::env::var("CUSTODY_QUERIES").unwrap_or_default();
    let mut queries: Vec<_> = fs::read_dir(&folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .map(|path| (path.file_stem().unwrap().to_str().unwrap().to_string(), fs::read_to_string(&path).unwrap()))
        .filter(|(name, _)| name != "schema" && (chosen.is_empty() || chosen.split(',').any(|c| c == name)))
        .map(|(name, text)| (name, text.trim().trim_end_matches(';').to_string()))
        .collect();
    queries.sort();
    queries
}

fn tpch(ways: [Way; 2]) {
    let folder = tempfile::tempdir().unwrap();
    data::make(folder.path(), setting("CUSTODY_SCALE", 0.2));
    let world = World::new(folder.path(), &data::TABLES, ways);
    let mut ratios = Ratios::default();
    for (name, sql) in queries() {
        world.compare(&mut ratios, &name, &sql, setting("CUSTODY_ROUNDS", 7));
    }
    ratios.geomean();
    ratios.sums();
}

/// TPC-H for a reader from whom a part is hidden, beside the same predicates and CASEs.
pub(crate) fn governed() {
    tpch([Way::Governed, Way::ByHand]);
}

/// TPC-H for a reader from whom nothing is hidden, beside the tables alone.
pub(crate) fn unrestricted() {
    tpch([Way::Unrestricted, Way::Alone]);
}

/// One row of five million by its key, under a row set.
pub(crate) fn lookup() {
    let folder = tempfile::tempdir().unwrap();
    data::write(&folder.path().join("events.parquet"), &data::events(5_000_000));
    let world = World::new(folder.path(), &["events"], [Way::Governed, Way::ByHand]);
    let mut ratios = Ratios::default();
    for id in [17, 1_234_567, 4_999_999] {
        let sql = format!("SELECT id, region, amount, note FROM events WHERE id = {id}");
        world.compare(&mut ratios, &format!("id = {id}"), &sql, 10 * setting("CUSTODY_ROUNDS", 7));
    }
    ratios.geomean();
}
