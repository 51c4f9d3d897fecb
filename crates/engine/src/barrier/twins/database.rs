//! Several databases behind one plan: they differ only in what the subject of the policy may not see.
//!
//! The policy goes the whole way: a bundle as text, `Bundle::load`, `decide`, `govern`. The logical plan of a statement is
//! shared, since nothing in it has seen a row; physical planning and the run are done once a database.

use super::{
    in_turn,
    random::Random,
    world::{COLUMNS, Kind, Policy, Row, Shown, Value, batch, schema},
};
use crate::barrier::{Decisions, Visible, barrier_session_state, physical_optimizer_rules, physical_text};
use custody_model::{
    Authentication, ControlSeq, DatasetId, DatasetName, FieldId, Hash, Principal, Purpose, Rung, Subject, TableVersion,
};
use custody_policy::{
    Barrier, Bundle, ColumnFacts, Grant, TableFacts, Tables, TokenKeys, decide, floor, govern, mask::hmac_sha3_256,
};
use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::datatypes::{DataType, SchemaRef};
use datafusion::arrow::util::display::{ArrayFormatter, FormatOptions};
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::{ParamValues, Result, ScalarValue};
use datafusion::datasource::{MemTable, TableType, provider_as_source};
use datafusion::execution::{SessionState, SessionStateBuilder};
use datafusion::logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder, TableProviderFilterPushDown};
use datafusion::parquet::arrow::ArrowWriter;
use datafusion::parquet::file::properties::WriterProperties;
use datafusion::physical_plan::{ExecutionPlan, ExecutionPlanProperties, collect};
use datafusion::prelude::{ParquetReadOptions, SessionConfig, SessionContext};
use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

/// How names resolve.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum How {
    /// Governed relations with their barriers.
    Governed,
    /// The same filters and masks without barriers: what a plain view does.
    Plain,
}

/// In what order partitions are read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Order {
    /// At once.
    AsItComes,
    /// One after the other.
    InTurn,
}

/// How statements are planned and run, and how tables are stored.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Configuration {
    pub(crate) parquet: bool,
    pub(crate) partitions: usize,
    pushdown: bool,
    batch: usize,
    hash_joins: bool,
    clean: bool,
    rows: usize,
}

impl Configuration {
    fn random(random: &mut Random) -> Self {
        Self {
            parquet: random.chance(40),
            partitions: if random.chance(70) { 1 } else { 4 },
            pushdown: random.chance(60),
            batch: [2, 4, 8, 8192][random.below(4)],
            hash_joins: random.chance(80),
            clean: random.chance(70),
            rows: 8 + random.below(24),
        }
    }
}

/// What `u`, which is open, and the policies of `t` and `m` are made of.
pub(crate) struct Setting {
    pub(crate) configuration: Configuration,
    pub(crate) t: Policy,
    pub(crate) m: Policy,
}

/// Databases under one setting.
pub(crate) struct Databases {
    pub(crate) setting: Setting,
    state: SessionState,
    in_turn: SessionState,
    reference: SessionState,
    now: Arc<AtomicUsize>,
    _files: tempfile::TempDir,
}

/// What an observer sees of a statement.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Seen {
    /// The batches, or rows in an order of their own where partitions race; or the error.
    pub(crate) answer: Result<Answer, String>,
    /// The physical plan down to the barriers.
    pub(crate) explain: String,
    /// Whether partitions race in it.
    pub(crate) races: bool,
}

#[derive(Clone, PartialEq, Debug)]
pub(crate) enum Answer {
    Batches(Vec<RecordBatch>),
    Rows(Vec<String>),
}

impl Answer {
    /// Rows as text, sorted.
    pub(crate) fn rows(&self) -> Vec<String> {
        match self {
            Self::Batches(batches) => rows(batches),
            Self::Rows(rows) => rows.clone(),
        }
    }
}

/// A statement whose logical plan is made.
pub(crate) struct Planned {
    sql: String,
    values: Vec<ScalarValue>,
    plan: LogicalPlan,
}

impl Databases {
    /// `twins` databases and the reference.
    pub(crate) async fn new(random: &mut Random, how: How, twins: usize) -> Self {
        let configuration = Configuration::random(random);
        let c = configuration;
        let (t, m) = (Policy::random(random, true), Policy::random(random, false));
        let files = tempfile::tempdir().unwrap();
        let mut config = SessionConfig::new().with_target_partitions(c.partitions).with_batch_size(c.batch);
        let options = config.options_mut();
        options.execution.parquet.pushdown_filters = c.pushdown;
        options.execution.parquet.reorder_filters = c.pushdown;
        options.execution.parquet.schema_force_view_types = false;
        options.execution.collect_statistics = true;
        options.sql_parser.map_string_types_to_utf8view = false;
        options.optimizer.prefer_hash_join = c.hash_joins;
        if random.chance(50) {
            options.optimizer.hash_join_single_partition_threshold = 0;
            options.optimizer.hash_join_single_partition_threshold_rows = 0;
        }
        let decisions = Arc::new(Decisions::default());
        let extended =
            config.clone().with_extension(Arc::clone(&decisions)).with_extension(Arc::new(Visible::default()));
        let base = SessionStateBuilder::new().with_default_features().with_config(extended);
        let state = match how {
            How::Governed => barrier_session_state(base).build(),
            How::Plain => base.build(),
        };
        // Stored copies are read as DataFusion does it, but for what is known to be wrong.
        let plain = SessionStateBuilder::new()
            .with_default_features()
            .with_config(config.clone())
            .with_physical_optimizer_rules(physical_optimizer_rules())
            .build();
        let scratch = SessionContext::new_with_config(config);
        let (session, reference) = (SessionContext::new_with_state(state), SessionContext::new_with_state(plain));
        let now = Arc::new(AtomicUsize::new(0));
        let granted = grants(&t, &m);
        let keys: Arc<dyn TokenKeys> = Arc::new(Keys);
        for (name, policy) in [("t", Some(&t)), ("m", Some(&m)), ("u", None)] {
            let (databases, image): (Vec<Vec<RecordBatch>>, _) = match policy {
                Some(policy) => {
                    let base = policy.base(c.rows, c.clean, random);
                    let images: Vec<Row> = policy.image(&base);
                    let twin = |_| policy.twin(&base, c.partitions, c.clean, random);
                    let twins: Vec<Vec<Vec<Row>>> = (0..twins).map(twin).collect();
                    let mut want: Vec<_> = images.iter().map(|r| format!("{r:?}")).collect();
                    want.sort();
                    for twin in &twins {
                        let mut got: Vec<_> = policy.image(&twin.concat()).iter().map(|r| format!("{r:?}")).collect();
                        got.sort();
                        assert_eq!(got, want, "the twins are not twins under {policy:?}");
                    }
                    let stored = |twin: &Vec<Vec<Row>>| twin.iter().map(|rows| batch(COLUMNS, rows)).collect();
                    (twins.iter().map(stored).collect(), batch(&policy.columns(), &images))
                }
                None => (vec![vec![open()]; twins], open()),
            };
            let mut worlds = vec![];
            for (i, parts) in databases.into_iter().enumerate() {
                worlds.push(if c.parquet {
                    stored(&scratch, files.path(), &format!("{name}{i}"), parts).await
                } else {
                    let schema = parts[0].schema();
                    Arc::new(MemTable::try_new(schema, parts.into_iter().map(|b| vec![b]).collect()).unwrap())
                });
            }
            let swap = Arc::new(Swap { worlds, now: Arc::clone(&now) });
            let scan = LogicalPlanBuilder::scan(name, provider_as_source(swap), None).unwrap().build().unwrap();
            let fields: Vec<_> = (1..=scan.schema().fields().len() as u32).map(FieldId).collect();
            let grant = &granted[name];
            decisions.record(&at(name), grant.hash);
            let governed = govern(scan, &at(name), &fields, grant, &keys).unwrap();
            session
                .register_table(
                    name,
                    Arc::new(Relation(match how {
                        How::Governed => governed,
                        How::Plain => Barrier::of_plan(&governed).unwrap().input().as_ref().clone(),
                    })),
                )
                .unwrap();
            let copy = MemTable::try_new(image.schema(), vec![vec![image]]).unwrap();
            reference.register_table(name, Arc::new(copy)).unwrap();
        }
        Self {
            setting: Setting { configuration, t, m },
            in_turn: in_turn::in_turn(&session.state()),
            state: session.state(),
            reference: reference.state(),
            now,
            _files: files,
        }
    }

    /// Plans a statement; with values, as a prepared one.
    pub(crate) async fn plan(&self, sql: &str, values: &[ScalarValue]) -> Result<Planned> {
        let plan = logical(&self.state, sql, values).await?;
        Ok(Planned { sql: sql.into(), values: values.into(), plan })
    }

    /// What an observer of database `i` sees.
    pub(crate) async fn see_as(&self, planned: &Planned, i: usize, order: Order) -> Seen {
        self.now.store(i, Ordering::SeqCst);
        let state = match order {
            Order::AsItComes => &self.state,
            Order::InTurn => &self.in_turn,
        };
        self.run(&planned.plan, state).await
    }

    /// The same, planned for this database alone.
    pub(crate) async fn see_anew(&self, planned: &Planned, i: usize) -> Seen {
        self.now.store(i, Ordering::SeqCst);
        match logical(&self.state, &planned.sql, &planned.values).await {
            Ok(plan) => self.run(&plan, &self.state).await,
            Err(e) => Seen { answer: Err(e.strip_backtrace()), explain: String::new(), races: false },
        }
    }

    /// The answer over stored copies of what may be seen.
    pub(crate) async fn reference(&self, planned: &Planned) -> Result<Vec<String>, String> {
        let seen = match logical(&self.reference, &planned.sql, &planned.values).await {
            Ok(plan) => self.run(&plan, &self.reference).await,
            Err(e) => return Err(e.strip_backtrace()),
        };
        seen.answer.map(|a| a.rows())
    }

    async fn run(&self, plan: &LogicalPlan, state: &SessionState) -> Seen {
        let (mut explain, mut races) = (String::new(), false);
        let answer = run(plan, state, &mut explain, &mut races).await;
        let answer = match answer {
            Ok(batches) if races => Ok(Answer::Rows(rows(&batches))),
            Ok(batches) => Ok(Answer::Batches(batches)),
            // Which partition fails first is a race.
            Err(_) if races => Err("failed".into()),
            Err(e) => Err(e.strip_backtrace()),
        };
        Seen { answer, explain, races }
    }
}

async fn logical(state: &SessionState, sql: &str, values: &[ScalarValue]) -> Result<LogicalPlan> {
    let plan = floor::settle(state.create_logical_plan(sql).await?)?;
    let plan = if values.is_empty() { plan } else { plan.with_param_values(ParamValues::from(values.to_vec()))? };
    let optimised = state.optimize(&plan)?;
    if let Some(shown) = state.config().get_extension::<Visible>() {
        // Row sets and masks are total.
        shown.look(&plan, &optimised, state).await.unwrap();
    }
    Ok(optimised)
}

async fn run(
    plan: &LogicalPlan,
    state: &SessionState,
    explain: &mut String,
    races: &mut bool,
) -> Result<Vec<RecordBatch>> {
    let physical = state.query_planner().create_physical_plan(plan, state).await?;
    explain.push_str(&physical_text(&physical, &|_, _| false));
    *races = side_by_side(&physical);
    collect(physical, state.task_ctx()).await
}

/// Whether partitions, or scalar subqueries, run side by side: which comes or fails first is up to time.
fn side_by_side(plan: &Arc<dyn ExecutionPlan>) -> bool {
    if let Some(sides) = in_turn::sides(plan) {
        return sides.into_iter().any(side_by_side);
    }
    let subqueries = plan.name() == "ScalarSubqueryExec" && plan.children().len() > 2;
    subqueries || plan.output_partitioning().partition_count() > 1 || plan.children().into_iter().any(side_by_side)
}

fn rows(batches: &[RecordBatch]) -> Vec<String> {
    let mut rows = vec![];
    for batch in batches {
        let options = FormatOptions::default().with_null("NULL");
        let cells: Vec<_> = batch.columns().iter().map(|c| ArrayFormatter::try_new(c, &options).unwrap()).collect();
        rows.extend(
            (0..batch.num_rows()).map(|i| cells.iter().map(|c| c.value(i).to_string()).collect::<Vec<_>>().join(" | ")),
        );
    }
    rows.sort();
    rows
}

/// `u`: the same for everybody.
fn open() -> RecordBatch {
    let rows: Vec<Row> =
        (0..30).map(|i| vec![Value::Int(i), if i % 7 == 6 { Value::Null } else { Value::Int(i * 5 % 23) }]).collect();
    batch(OPEN, &rows)
}

pub(crate) const OPEN: &[(&str, Kind)] = &[("id", Kind::Int), ("val", Kind::Int)];

/// One file a partition, small row groups.
async fn stored(
    session: &SessionContext,
    folder: &Path,
    name: &str,
    parts: Vec<RecordBatch>,
) -> Arc<dyn TableProvider> {
    let folder = folder.join(name);
    std::fs::create_dir(&folder).unwrap();
    for (i, part) in parts.iter().enumerate() {
        let file = std::fs::File::create(folder.join(format!("{i}.parquet"))).unwrap();
        let small = WriterProperties::builder().set_max_row_group_row_count(Some(8)).build();
        let mut writer = ArrowWriter::try_new(file, part.schema(), Some(small)).unwrap();
        writer.write(part).unwrap();
        writer.close().unwrap();
    }
    let options = ParquetReadOptions::default().schema(parts[0].schema_ref());
    // The schema lives as long as the call.
    session.register_parquet(name, folder.to_str().unwrap(), options).await.unwrap();
    session.table_provider(name).await.unwrap()
}

struct Keys;

impl TokenKeys for Keys {
    fn mac(&self, key: &str, message: &[u8]) -> Option<[u8; 32]> {
        (key == "k").then(|| hmac_sha3_256(b"key", message))
    }
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

fn dataset(name: &str) -> DatasetName {
    format!("test.{name}").parse().unwrap()
}

/// Storage of whichever database is looked at.
struct Swap {
    worlds: Vec<Arc<dyn TableProvider>>,
    now: Arc<AtomicUsize>,
}

impl std::fmt::Debug for Swap {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Swap")
    }
}

#[async_trait::async_trait]
impl TableProvider for Swap {
    fn schema(&self) -> SchemaRef {
        self.worlds[0].schema()
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    fn supports_filters_pushdown(&self, filters: &[&Expr]) -> Result<Vec<TableProviderFilterPushDown>> {
        self.worlds[0].supports_filters_pushdown(filters)
    }

    async fn scan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        self.worlds[self.now.load(Ordering::SeqCst)].scan(state, projection, filters, limit).await
    }
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

// ---- the policies as a bundle --------------------------------------------------------------------------------------

struct Schemas;

impl Tables for Schemas {
    fn columns(&self, name: &DatasetName) -> Option<Vec<(FieldId, String, DataType)>> {
        let columns = if name.name() == "u" { OPEN } else { COLUMNS };
        let schema = schema(columns);
        let column = |(i, f): (usize, &Arc<_>)| (FieldId(i as u32 + 1), column_name(f), column_type(f));
        Some(schema.fields().iter().enumerate().map(column).collect())
    }
}

fn column_name(field: &Arc<datafusion::arrow::datatypes::Field>) -> String {
    field.name().clone()
}

fn column_type(field: &Arc<datafusion::arrow::datatypes::Field>) -> DataType {
    field.data_type().clone()
}

/// Writes the policies down, loads them, decides.
fn grants(t: &Policy, m: &Policy) -> BTreeMap<&'static str, Grant> {
    let (mut cedar, mut sql) = (String::new(), String::new());
    let _ = writeln!(cedar, r#"permit (principal, action in Action::"up_to_raw", resource in Table::"test.u");"#);
    for (name, policy) in [("t", t), ("m", m)] {
        for ((column, _), shown) in COLUMNS.iter().zip(&policy.shown) {
            let (rung, parameters) = match shown {
                Shown::None => continue,
                Shown::Counted => ("aggregate", None),
                Shown::Raw => ("raw", None),
                Shown::Null => ("redact", Some("null".to_string())),
                Shown::Const(v) => ("redact", Some(format!("const({})", v.sql()))),
                Shown::Token => ("token", Some("hmac(key 'k', domain 'd')".into())),
                Shown::First(n) => ("partial", Some(format!("first({n})"))),
                Shown::Last(n) => ("partial", Some(format!("last({n})"))),
                Shown::Year => ("partial", Some("year".into())),
                Shown::Month => ("partial", Some("month".into())),
                Shown::Bucket(w) => ("partial", Some(format!("bucket({w})"))),
            };
            let _ = writeln!(
                cedar,
                r#"permit (principal, action in Action::"up_to_{rung}", resource == Column::"test.{name}.{column}");"#
            );
            if let Some(parameters) = parameters {
                let _ =
                    writeln!(sql, "CREATE MASK PARAMETERS FOR COLUMN test.{name}.{column} ({rung} = {parameters});");
            }
        }
        if policy.shown.contains(&Shown::Counted) {
            let _ = writeln!(sql, "CREATE GROUP FLOOR 1000 ON test.{name} COUNTING id;");
        }
        for (i, set) in policy.sets.iter().enumerate() {
            let _ = writeln!(sql, "CREATE ROW SET s{i} ON test.{name} AS {};", set.sql());
            let _ = writeln!(
                cedar,
                r#"permit (principal, action == Action::"see_rows", resource == RowSet::"test.{name}/s{i}");"#
            );
        }
        for (i, guard) in policy.guards.iter().enumerate() {
            let _ = writeln!(sql, "CREATE GUARD g{i} ON test.{name} AS {};", guard.sql());
        }
    }
    let files = [("p.cedar".to_string(), cedar.into_bytes()), ("p.sql".to_string(), sql.into_bytes())];
    let bundle = Bundle::load(&files, &Schemas).unwrap_or_else(|p| panic!("{p:#?}"));
    let decided = |(name, policy): (&'static str, Option<&Policy>)| {
        let grant = decide(&bundle, &subject(), &facts(name));
        assert!(grant.failed.is_empty(), "{:?}", grant.failed);
        if let Some(policy) = policy {
            let shown: Vec<_> = grant.columns.iter().filter(|c| c.rung > Rung::Aggregate).map(|c| &c.name).collect();
            assert!(policy.columns().iter().map(|(n, _)| n).eq(shown), "{grant:?}");
        }
        (name, grant)
    };
    [("t", Some(t)), ("m", Some(m)), ("u", None)].into_iter().map(decided).collect()
}

fn subject() -> Subject {
    Subject {
        principal: Principal::from("ann"),
        kind: "user".into(),
        roles: BTreeSet::new(),
        attributes: BTreeMap::new(),
        purpose: Purpose::from("test"),
        environment: "prod".into(),
        stage: String::new(),
        region: None,
        model: None,
        model_version: None,
        authentication: Authentication::Impersonated,
        session: None,
        token: None,
    }
}

fn facts(name: &str) -> TableFacts {
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
        owner: Principal::from("owner"),
        purposes: BTreeSet::new(),
        columns: Schemas.columns(&dataset(name)).unwrap().into_iter().map(column).collect(),
        token_keys: BTreeMap::new(),
    }
}
