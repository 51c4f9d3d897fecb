//! Goldens: `testdata/lineage/*.txt`, planned by the real planner. `UPDATE_GOLDEN=1` writes them anew; read the diff.
//!
//! A file is made of blocks, separated by blank lines. The first line of a block says what it is:
//! - `ddl`: statements to run; besides SQL also our own nodes, see [`World::declare`].
//! - `query NAME`: a query, a line `----`, its lineage.
//! - `-- …`: a comment.
#![allow(clippy::disallowed_methods, reason = "tests of lineage plan without an engine")]
#![allow(clippy::panic, clippy::unwrap_used, reason = "tests")]

use crate::{Leaf, Leaves, Limits, NodeRule, Refusal, Text, extract, rows};
use custody_model::{ControlSeq, DatasetName, FieldId, Hash, Lineage, Problem, TableVersion};
use datafusion::{
    arrow::datatypes::{DataType, SchemaRef},
    catalog::{Session, TableProvider, cte_worktable::CteWorkTable},
    common::{DFSchemaRef, Result as DfResult},
    datasource::source_as_provider,
    logical_expr::{
        ColumnarValue, Expr, Extension, LogicalPlan, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature,
        TableScan, TableType, UserDefinedLogicalNode, UserDefinedLogicalNodeCore, Volatility,
    },
    physical_plan::ExecutionPlan,
    prelude::{SessionConfig, SessionContext},
};
use std::{
    borrow::Cow,
    cmp::Ordering,
    collections::{BTreeMap, BTreeSet},
    fmt,
    fmt::Write as _,
    hash::Hash as StdHash,
    path::PathBuf,
    sync::Arc,
};

/// What a node of the tests means.
#[derive(Clone, PartialEq, Eq, PartialOrd, StdHash, Debug)]
pub(crate) enum Meaning {
    Barrier { table: String, version: u64, fields: Vec<u32> },
    View(String),
    AsOf,
    Opaque,
}

/// An extension node.
#[derive(Clone, PartialEq, Eq, StdHash, Debug)]
pub(crate) struct Node {
    meaning: Meaning,
    inputs: Vec<LogicalPlan>,
    exprs: Vec<Expr>,
    fields: Vec<FieldId>,
    schema: DFSchemaRef,
}

impl PartialOrd for Node {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        self.meaning.partial_cmp(&other.meaning)
    }
}

impl UserDefinedLogicalNodeCore for Node {
    fn name(&self) -> &str {
        match self.meaning {
            Meaning::Barrier { .. } => "Barrier",
            Meaning::View(_) => "View",
            Meaning::AsOf => "AsOfJoin",
            Meaning::Opaque => "RangeJoin",
        }
    }

    fn inputs(&self) -> Vec<&LogicalPlan> {
        self.inputs.iter().collect()
    }

    fn schema(&self) -> &DFSchemaRef {
        &self.schema
    }

    fn expressions(&self) -> Vec<Expr> {
        self.exprs.clone()
    }

    fn fmt_for_explain(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(UserDefinedLogicalNodeCore::name(self))
    }

    fn with_exprs_and_inputs(&self, exprs: Vec<Expr>, inputs: Vec<LogicalPlan>) -> DfResult<Self> {
        Ok(Self { exprs, inputs, ..self.clone() })
    }
}

/// A name that stands for a plan.
#[derive(Debug)]
struct Inlined(LogicalPlan);

#[async_trait::async_trait]
impl TableProvider for Inlined {
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
    ) -> DfResult<Arc<dyn ExecutionPlan>> {
        Err(datafusion::error::DataFusionError::Plan("only planned".into()))
    }
}

/// `mask(policy, rung, expr)` and `rows(name, expr)`, as `policy` has them: the last argument.
#[derive(PartialEq, Eq, StdHash, Debug)]
struct Marker(&'static str, Signature);

impl ScalarUDFImpl for Marker {
    fn name(&self) -> &str {
        self.0
    }

    fn signature(&self) -> &Signature {
        &self.1
    }

    fn return_type(&self, args: &[DataType]) -> DfResult<DataType> {
        Ok(args.last().cloned().unwrap_or(DataType::Null))
    }

    fn invoke_with_args(&self, mut args: ScalarFunctionArgs) -> DfResult<ColumnarValue> {
        Ok(args.args.pop().unwrap())
    }
}

/// A session with tables and our own nodes.
pub(crate) struct World {
    pub(crate) ctx: SessionContext,
    columns: BTreeMap<String, Vec<String>>,
}

struct Known;

pub(crate) fn version_of(table: &str, version: u64) -> TableVersion {
    let name = table.strip_prefix("datafusion.").unwrap_or(table);
    let name = if name.contains('.') { name.to_string() } else { format!("public.{name}") };
    TableVersion {
        dataset: "00000000-0000-8000-8000-000000000000".parse().unwrap(),
        name: name.parse::<DatasetName>().unwrap(),
        version,
        made_at: ControlSeq(1),
        content: Hash::default(),
    }
}

fn fields(n: usize) -> Vec<FieldId> {
    (1..=n as u32).map(FieldId).collect()
}

impl Leaves for Known {
    fn scan(&self, scan: &TableScan) -> Leaf {
        if let Ok(provider) = source_as_provider(&scan.source)
            && let Some(work) = provider.downcast_ref::<CteWorkTable>()
        {
            return Leaf::WorkTable(work.name().to_string());
        }
        let name = scan.table_name.to_string();
        if name == "range()" || name == "generate_series()" {
            return Leaf::Function(vec![]);
        }
        if name == "hidden" {
            return Leaf::Unknown;
        }
        Leaf::Table(version_of(&name, 7), fields(scan.source.schema().fields().len()))
    }

    fn node<'a>(&self, node: &'a dyn UserDefinedLogicalNode) -> NodeRule<'a> {
        let Some(node) = node.as_any().downcast_ref::<Node>() else { return NodeRule::Unknown };
        match &node.meaning {
            Meaning::Barrier { table, version, .. } => NodeRule::Barrier(version_of(table, *version), &node.fields),
            Meaning::View(view) => NodeRule::View(view.clone()),
            Meaning::AsOf => NodeRule::AsOf(&node.exprs),
            Meaning::Opaque => NodeRule::Unknown,
        }
    }
}

impl World {
    pub(crate) fn new() -> Self {
        Self::with(SessionConfig::new())
    }

    /// Plans of one partition, in which data gives no reason to reorder.
    pub(crate) fn single() -> Self {
        let mut config = SessionConfig::new().with_target_partitions(1);
        config.options_mut().optimizer.join_reordering = false;
        Self::with(config)
    }

    fn with(mut config: SessionConfig) -> Self {
        config.options_mut().sql_parser.enable_subquery_sort_elimination = false;
        let ctx = SessionContext::new_with_config(config);
        for (name, args) in [("mask", 3), ("rows", 2)] {
            let signature = Signature::any(args, Volatility::Immutable);
            ctx.register_udf(ScalarUDF::new_from_impl(Marker(name, signature)));
        }
        Self { ctx, columns: BTreeMap::new() }
    }

    pub(crate) async fn plan(&self, sql: &str) -> DfResult<LogicalPlan> {
        self.ctx.state().create_logical_plan(sql).await
    }

    /// One statement: SQL, or one of
    /// - `GOVERN t ON base AS query`: `t` is a barrier over the query, its outputs columns of `base` by name;
    /// - `VIEW v AS query`: `v` is a plain view; `OPAQUE v AS query`: a node that nobody understands;
    /// - `ASOF v ON key, … AS query ; query`: an ASOF join of two queries.
    pub(crate) async fn declare(&mut self, statement: &str) -> DfResult<()> {
        let (word, rest) = statement.split_once(char::is_whitespace).unwrap_or((statement, ""));
        let (head, query) = rest.split_once(" AS ").unwrap_or((rest, ""));
        let node = match word {
            "GOVERN" => {
                let (_, base) = head.split_once(" ON ").unwrap();
                let plan = self.plan(query).await?;
                let columns = &self.columns[base];
                let fields = plan.schema().fields().iter();
                let fields = fields.map(|f| columns.iter().position(|c| c == f.name()).unwrap() as u32 + 1).collect();
                Some(self.node(Meaning::Barrier { table: base.into(), version: 7, fields }, vec![plan], vec![]))
            }
            "VIEW" => Some(self.node(Meaning::View(head.into()), vec![self.plan(query).await?], vec![])),
            "OPAQUE" => Some(self.node(Meaning::Opaque, vec![self.plan(query).await?], vec![])),
            "ASOF" => {
                let (_, keys) = head.split_once(" ON ").unwrap();
                let (left, right) = query.split_once(" TO ").unwrap();
                let (left, right) = (self.plan(left).await?, self.plan(right).await?);
                let keys = keys.split(',').map(|k| Expr::Column(k.trim().into())).collect();
                Some(self.node(Meaning::AsOf, vec![left, right], keys))
            }
            _ => None,
        };
        let Some(node) = node else {
            self.ctx.sql(statement).await?.collect().await?;
            for catalog in self.ctx.catalog_names() {
                let catalog = self.ctx.catalog(&catalog).unwrap();
                for schema in catalog.schema_names().into_iter().filter(|s| s != "information_schema") {
                    let provider = catalog.schema(&schema).unwrap();
                    for table in provider.table_names() {
                        let columns = provider.table(&table).await?.unwrap().schema();
                        let columns = columns.fields().iter().map(|f| f.name().clone()).collect();
                        let name = if schema == "public" { table } else { format!("{schema}.{table}") };
                        self.columns.insert(name, columns);
                    }
                }
            }
            return Ok(());
        };
        let name = head.split(" ON ").next().unwrap();
        let plan = LogicalPlan::Extension(Extension { node: Arc::new(node) });
        let _ = self.ctx.deregister_table(name);
        self.ctx.register_table(name, Arc::new(Inlined(plan)))?;
        Ok(())
    }

    fn node(&self, meaning: Meaning, inputs: Vec<LogicalPlan>, exprs: Vec<Expr>) -> Node {
        let schema = match inputs.as_slice() {
            [left, right] => Arc::new(left.schema().join(right.schema()).unwrap()),
            _ => inputs[0].schema().clone(),
        };
        let fields = match &meaning {
            Meaning::Barrier { fields, .. } => fields.iter().map(|f| FieldId(*f)).collect(),
            _ => vec![],
        };
        Node { meaning, inputs, exprs, fields, schema }
    }

    pub(crate) fn extract(&self, plan: &LogicalPlan) -> Result<Lineage, Refusal> {
        extract(plan, &Known, &[], &Limits { text: Text::Full, ..Limits::default() })
    }

    pub(crate) fn extract_without_text(&self, plan: &LogicalPlan) -> Result<Lineage, Refusal> {
        extract(plan, &Known, &[], &Limits::default())
    }

    pub(crate) fn column(&self, table: &TableVersion, field: FieldId) -> String {
        let name = table.name.to_string();
        let name = name.strip_prefix("public.").unwrap_or(&name);
        self.columns.get(name).and_then(|c| c.get(field.0 as usize - 1)).cloned().unwrap_or_else(|| "?".into())
    }

    /// The lineage of a query as text.
    pub(crate) async fn show(&self, sql: &str) -> String {
        let plan = match self.plan(sql).await {
            Ok(plan) => plan,
            Err(error) => return format!("not planned: {}\n", error.strip_backtrace()),
        };
        match self.extract(&plan) {
            Ok(lineage) => {
                check(&lineage);
                self.text(&lineage)
            }
            Err(refusal) => format!("error: {}\n", Problem::from(refusal)),
        }
    }

    fn text(&self, lineage: &Lineage) -> String {
        let mut out = String::new();
        for row in rows(lineage, &|t, f| self.column(t, f), &|_| true) {
            let table = row.source_dataset.strip_prefix("public.").unwrap_or(&row.source_dataset);
            let column = row.source_column.as_deref().unwrap_or("(rows)");
            write!(out, "{} {} {table} {column} {} {}", row.output_ordinal, row.output_column, row.kind, row.subtype)
                .unwrap();
            if row.masking {
                out.push_str(" masked");
            }
            if let Some(text) = row.expression {
                write!(out, " | {text}").unwrap();
            }
            if !row.via_view.is_empty() {
                write!(out, " | via {}", row.via_view.join(" > ")).unwrap();
            }
            if let Some(policy) = row.policy_id {
                write!(out, " | policy {policy}").unwrap();
            }
            out.push('\n');
        }
        // What is evaluated and claimed nowhere else.
        let claimed = |ix: &u32| {
            lineage.dataset.iter().any(|i| i.atom == *ix)
                || lineage
                    .outputs
                    .iter()
                    .any(|o| o.direct.iter().any(|(_, a)| a == ix) || o.field.iter().any(|i| i.atom == *ix))
        };
        for ix in lineage.evaluated.iter().filter(|ix| !claimed(ix)) {
            let atom = lineage.atom(*ix).unwrap();
            let table = lineage.table(atom).unwrap();
            let name = table.name.to_string();
            let column = self.column(table, atom.field.unwrap());
            writeln!(out, "evaluated {} {column}", name.strip_prefix("public.").unwrap_or(&name)).unwrap();
        }
        if lineage.volatile {
            out.push_str("volatile\n");
        }
        for node in &lineage.unknown {
            writeln!(out, "not exact: {node}").unwrap();
        }
        if out.is_empty() {
            out.push_str("nothing\n");
        }
        out
    }
}

/// The invariants that `model` promises.
fn check(lineage: &Lineage) {
    let ascending = |list: &[u32]| list.windows(2).all(|w| w[0] < w[1]);
    assert!(lineage.atoms.windows(2).all(|w| w[0] < w[1]));
    assert!(lineage.inputs.windows(2).all(|w| w[0] < w[1]));
    assert!(lineage.dataset.windows(2).all(|w| w[0] < w[1]));
    assert!(ascending(&lineage.evaluated));
    assert!(lineage.atoms.iter().all(|a| (a.table as usize) < lineage.inputs.len()));
    for output in &lineage.outputs {
        assert!(output.direct.windows(2).all(|w| w[0] < w[1]));
        assert!(output.field.windows(2).all(|w| w[0] < w[1]));
        assert!(output.hops.iter().all(|h| (*h as usize) < lineage.hops.len()));
        assert!(output.direct.iter().all(|(_, a)| (*a as usize) < lineage.atoms.len()));
    }
    assert!(lineage.hops.iter().all(|h| h.text.len() <= crate::text::LIMIT));
}

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../testdata/lineage")
}

async fn golden(file: &str) {
    let path = folder().join(format!("{file}.txt"));
    let text = std::fs::read_to_string(&path).unwrap();
    let mut world = World::new();
    let mut out = vec![];
    for block in text.trim_end().split("\n\n") {
        let block = block.trim_matches('\n');
        let (head, body) = block.split_once('\n').unwrap_or((block, ""));
        if head == "ddl" {
            for statement in body.split(";\n").map(|s| s.trim().trim_end_matches(';')).filter(|s| !s.is_empty()) {
                let one_line = statement.lines().map(str::trim).collect::<Vec<_>>().join(" ");
                world.declare(&one_line).await.unwrap_or_else(|e| panic!("{file}: {one_line}: {e}"));
            }
            out.push(block.to_string());
        } else if head.starts_with("query ") {
            let query = body.split_once("----").map_or(body, |(query, _)| query).trim();
            out.push(format!("{head}\n{query}\n----\n{}", world.show(query).await.trim_end()));
        } else {
            assert!(head.starts_with("--"), "{file}: block begins with `{head}`");
            out.push(block.to_string());
        }
    }
    let new = out.join("\n\n") + "\n";
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, new).unwrap();
    } else if new != text {
        let differs = new.lines().zip(text.lines()).find(|(a, b)| a != b);
        panic!("{file}: run with UPDATE_GOLDEN=1 and read the diff; first difference (new, old): {differs:#?}");
    }
}

macro_rules! goldens {
    ($($name:ident)*) => { $(
        #[tokio::test]
        async fn $name() {
            golden(stringify!($name)).await;
        }
    )* };
}

goldens! { combined nodes expressions subqueries recursion policy writes refusals }

#[test]
fn every_file_is_run() {
    let listed = include_str!("tests.rs").lines().find_map(|l| l.strip_prefix("goldens! { ")).unwrap();
    let listed: Vec<_> = listed.trim_end_matches(" }").split(' ').collect();
    for entry in std::fs::read_dir(folder()).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        assert!(listed.contains(&name.trim_end_matches(".txt")), "{name} is not run");
    }
}

/// The declarations and the queries of a golden file.
pub(crate) fn queries(file: &str) -> (Vec<String>, Vec<String>) {
    let text = std::fs::read_to_string(folder().join(format!("{file}.txt"))).unwrap();
    let (mut ddl, mut queries) = (vec![], vec![]);
    for block in text.trim_end().split("\n\n") {
        let (head, body) = block.split_once('\n').unwrap_or((block, ""));
        if head == "ddl" {
            ddl.extend(body.split(";\n").map(|s| s.trim().trim_end_matches(';').to_string()));
        } else if head.starts_with("query ") {
            queries.push(body.split("\n----").next().unwrap().to_string());
        }
    }
    (ddl, queries)
}

/// What a statement depends on: tables and fields.
pub(crate) fn sources(lineage: &Lineage) -> BTreeSet<(TableVersion, Option<FieldId>)> {
    let direct = lineage.outputs.iter().flat_map(|o| o.direct.iter().map(|(_, atom)| *atom));
    let field = lineage.outputs.iter().flat_map(|o| &o.field).chain(&lineage.dataset).map(|i| i.atom);
    let atoms = direct.chain(field).chain(lineage.evaluated.iter().copied()).map(|ix| lineage.atom(ix).unwrap());
    atoms.map(|atom| (lineage.table(atom).unwrap().clone(), atom.field)).collect()
}

#[tokio::test]
async fn optimised_plans_depend_on_no_more() {
    let mut compared = 0;
    for file in ["combined", "nodes", "expressions", "subqueries", "recursion"] {
        let (ddl, queries) = queries(file);
        let mut world = World::new();
        for statement in &ddl {
            world.declare(statement).await.unwrap();
        }
        for sql in queries {
            let Ok(plan) = world.plan(&sql).await else { continue };
            let Ok(before) = world.extract(&plan) else { continue };
            let Ok(optimised) = world.ctx.state().optimize(&plan) else { continue };
            // The optimizer loses columns of plans that DataFusion cannot run, such as LATERAL over UNNEST.
            let Ok(after) = world.extract(&optimised) else { continue };
            assert_eq!(before.outputs.len(), after.outputs.len(), "{sql}");
            // Of the whole statement: a subquery of one output becomes a join, which decides all rows.
            let (known, more) = (sources(&before), sources(&after));
            // Row existence is implied by the inputs.
            let more: Vec<_> = more.difference(&known).filter(|(_, field)| field.is_some()).collect();
            assert!(more.is_empty(), "{sql}: also {more:?}\n{}", optimised.display_indent());
            compared += 1;
        }
    }
    assert!(compared > 100, "{compared}");
}

async fn world(ddl: &[&str]) -> World {
    let mut world = World::new();
    for statement in ddl {
        world.declare(statement).await.unwrap();
    }
    world
}

fn with(plan: &LogicalPlan, limits: Limits) -> Result<Lineage, Refusal> {
    extract(plan, &Known, &[], &limits)
}

/// Each of the CTEs joins the one before it with itself.
fn doubling(levels: usize) -> String {
    let mut sql = "WITH c0 AS (SELECT a, b FROM t)".to_string();
    for i in 1..=levels {
        let before = i - 1;
        write!(sql, ", c{i} AS (SELECT p.a, q.b FROM c{before} AS p JOIN c{before} AS q ON p.a = q.b)").unwrap();
    }
    write!(sql, " SELECT a FROM c{levels}").unwrap();
    sql
}

#[tokio::test]
async fn shared_plans_are_walked_once() {
    let world = world(&["CREATE TABLE t (a INT, b INT)"]).await;
    let plan = world.plan(&doubling(12)).await.unwrap();
    let refusal = with(&plan, Limits::default()).unwrap_err();
    assert_eq!(refusal.to_string(), "statement expands to 32764 plan nodes, limit 20000");
    let limits = Limits { nodes: u64::MAX, ..Limits::default() };
    let (lineage, steps) = crate::extract::extract_counted(&plan, &Known, &[], &limits).unwrap();
    assert_eq!(steps, 76);
    assert_eq!(lineage.atoms.len(), 2);
    assert_eq!(lineage.dataset.len(), 2);
}

/// Ten thousand nodes side by side, each walked once; as many on top of one another are refused before any is walked.
#[tokio::test]
async fn large_plans_take_linear_time_and_no_stack() {
    use datafusion::logical_expr::{LogicalPlanBuilder, Union};
    let world = world(&["CREATE TABLE t (a INT, b INT)"]).await;
    let one = world.plan("SELECT a, b FROM t").await.unwrap();
    let wide = |n: usize| {
        let inputs = (0..n).map(|_| Arc::new(one.clone())).collect();
        LogicalPlan::Union(Union { inputs, schema: one.schema().clone() })
    };
    let steps = |plan: &LogicalPlan| crate::extract::extract_counted(plan, &Known, &[], &Limits::default()).unwrap().1;
    // A scan is shared by all its clones.
    assert_eq!([steps(&wide(500)), steps(&wide(5_000)), steps(&wide(9_998))], [502, 5_002, 10_000]);

    let mut deep = one;
    for _ in 0..1_030 {
        deep = LogicalPlanBuilder::from(deep).filter(datafusion::prelude::lit(true)).unwrap().build().unwrap();
    }
    let refusal = std::thread::Builder::new()
        .stack_size(16 << 20)
        .spawn(move || with(&deep, Limits::default()).unwrap_err().to_string())
        .unwrap();
    assert_eq!(refusal.join().unwrap(), "statement nests deeper than 1024 levels");
}

#[tokio::test]
async fn everything_is_bounded() {
    let world = world(&["CREATE TABLE t (a INT, b INT)"]).await;
    let plan = world.plan("SELECT a + 1 + 2 + 3 AS k, b FROM t").await.unwrap();
    let refused = |limits: Limits| Problem::from(with(&plan, limits).unwrap_err()).to_string();
    assert_eq!(
        refused(Limits { depth: 4, ..Limits::default() }),
        "C1406 statement nests deeper than 4 levels; help: split the statement: publish a part of it as a feature view"
    );
    assert_eq!(
        refused(Limits { atoms: 2, ..Limits::default() }),
        "C1405 statement reads more than 2 sources; help: split the statement: publish a part of it as a feature view"
    );
    assert_eq!(
        refused(Limits { nodes: 1, ..Limits::default() }),
        "C1404 statement expands to 2 plan nodes, limit 1; help: split the statement: publish a part of it as a feature \
         view"
    );
    // As deep as allowed, on the stack that the runtime's workers have.
    let deep = std::thread::Builder::new().stack_size(16 << 20).spawn(move || {
        let mut sum = datafusion::prelude::lit(0);
        for _ in 0..1_000 {
            sum = sum + datafusion::prelude::col("a");
        }
        let input = match &plan {
            LogicalPlan::Projection(p) => p.input.as_ref().clone(),
            other => other.clone(),
        };
        let plan = datafusion::logical_expr::LogicalPlanBuilder::from(input).project([sum]).unwrap().build().unwrap();
        with(&plan, Limits { text: Text::Full, ..Limits::default() }).unwrap().outputs[0].direct.len()
    });
    assert_eq!(deep.unwrap().join().unwrap(), 1);
}

#[tokio::test]
async fn publishes_need_exact_lineage() {
    let world = world(&["CREATE TABLE t (a INT, b INT)", "OPAQUE odd AS SELECT a FROM t"]).await;
    let lineage = world.extract(&world.plan("SELECT a FROM odd").await.unwrap()).unwrap();
    assert_eq!(
        crate::require_exact(&lineage, "features.x").unwrap_err().to_string(),
        "lineage of `features.x` is not exact: `RangeJoin` is not understood"
    );
    let lineage = world.extract(&world.plan("SELECT a FROM t").await.unwrap()).unwrap();
    crate::require_exact(&lineage, "features.x").unwrap();
}

#[tokio::test]
async fn text_costs_nothing_else() {
    let world = world(&["CREATE TABLE t (a INT, b INT)"]).await;
    let plan = world.plan("SELECT a + b AS s FROM t WHERE a > 0").await.unwrap();
    let with_text = world.extract(&plan).unwrap();
    let without = with(&plan, Limits::default()).unwrap();
    assert!(without.hops.is_empty() && !with_text.hops.is_empty());
    let mut stripped = Lineage { hops: vec![], ..with_text };
    stripped.outputs.iter_mut().for_each(|o| o.hops.clear());
    assert_eq!(stripped, without);
}

const GOVERNED: [&str; 4] = [
    "CREATE TABLE p (id INT, mrn TEXT, region TEXT, ok BOOLEAN)",
    "CREATE TABLE staff (region TEXT, person TEXT)",
    "GOVERN g ON p AS SELECT id, mask('m1', 'partial', mrn || region) AS mrn, region FROM p WHERE rows('ok', ok) AND \
     rows('own', region IN (SELECT s.region FROM staff AS s))",
    "GOVERN raw ON p AS SELECT * FROM p",
];

#[tokio::test]
async fn requested_leaves_out_what_policy_reads() {
    let world = world(&GOVERNED).await;
    let plan = world.plan("SELECT mrn FROM g WHERE id = 1").await.unwrap();
    let effective = world.extract(&plan).unwrap();
    let requested = crate::requested(&effective);
    check(&requested);
    assert_eq!(
        world.text(&requested),
        "0 * p id INDIRECT FILTER | id = 1\n1 mrn p mrn DIRECT IDENTITY masked | mask(m1, partial) | policy m1\n"
    );
    assert_eq!(requested.inputs, [version_of("p", 7)]);
    assert_eq!(effective.inputs, [version_of("p", 7), version_of("staff", 7)]);
    // Without policy both are the same.
    let plan = world.plan("SELECT mrn FROM raw WHERE id = 1").await.unwrap();
    let effective = world.extract(&plan).unwrap();
    assert_eq!(crate::requested(&effective), effective);
}

#[tokio::test]
async fn columns_say_what_they_were_read_for() {
    let world = world(&GOVERNED).await;
    let plan = world.plan("SELECT mrn, count(*) AS n FROM g WHERE id = 1 GROUP BY mrn ORDER BY n").await.unwrap();
    let lineage = world.extract(&plan).unwrap();
    let mut out = String::new();
    for used in crate::column_roles(&lineage) {
        let column = used.field.map_or("(rows)".into(), |f| world.column(&used.table, f));
        let roles: Vec<_> = used.roles.iter().map(|r| r.word()).collect();
        let masks: Vec<_> = used.masks.iter().map(|(p, r)| format!("{p}:{r}")).collect();
        let who = if used.requested { "user" } else { "policy" };
        writeln!(
            out,
            "{} {column} {who} [{}] masks [{}] by [{}]",
            used.table.name.name(),
            roles.join(" "),
            masks.join(" "),
            used.by_policy.join(" ")
        )
        .unwrap();
    }
    assert_eq!(
        out,
        "p (rows) user [PROJECT SORT] masks [] by []\n\
         p id user [FILTER] masks [] by []\n\
         p mrn user [PROJECT GROUP_BY] masks [m1:partial] by []\n\
         p region policy [PROJECT FILTER GROUP_BY] masks [] by [m1 own]\n\
         p ok policy [FILTER] masks [] by [ok]\n\
         staff (rows) policy [FILTER] masks [] by [own]\n\
         staff region policy [FILTER] masks [] by [own]\n"
    );
}

#[tokio::test]
async fn rows_of_policy_show_only_where_raw_may_be_explained() {
    let world = world(&GOVERNED).await;
    let lineage = world.extract(&world.plan("SELECT mrn FROM g").await.unwrap()).unwrap();
    let count = |raw: &dyn Fn(&TableVersion) -> bool| rows(&lineage, &|t, f| world.column(t, f), raw).len();
    assert_eq!(count(&|_| false), 1);
    assert_eq!(count(&|t| t.name.name() == "staff"), 3);
    assert_eq!(count(&|_| true), 6);
}

mod declassification {
    use super::*;
    use crate::labels;
    use custody_model::{Class, ClassSet, Declassification, DeclassificationTarget, Part, RuleVersion};

    fn classes(table: &TableVersion, field: FieldId) -> ClassSet {
        let class = match (table.name.name(), field.0) {
            ("p", 2) => "identifier",
            ("p", 3) => "clinical",
            _ => return ClassSet::new(),
        };
        ClassSet::from([Class(class.into())])
    }

    fn rule(target: DeclassificationTarget, from: &[Part]) -> Declassification {
        Declassification {
            version: RuleVersion { rule: "cohort".into(), epoch: 1 },
            target,
            removes: Class("clinical".into()),
            replaces_with: None,
            from: from.iter().copied().collect(),
            group: None,
        }
    }

    async fn label(sql: &str, rules: &[Declassification]) -> String {
        let world = world(&GOVERNED).await;
        let plan = world.plan(sql).await.unwrap();
        let lineage = extract(&plan, &Known, rules, &Limits::default()).unwrap();
        check(&lineage);
        let of = |set: &ClassSet| set.iter().map(|c| c.0.as_str()).collect::<Vec<_>>().join(" ");
        labels(&lineage, &classes, &|v| rules.iter().find(|r| r.version == *v).cloned())
            .iter()
            .map(|l| format!("{} / {}", of(&l.explicit), of(&l.implicit)))
            .collect::<Vec<_>>()
            .join("; ")
    }

    #[tokio::test]
    async fn labels_keep_values_and_influences_apart() {
        assert_eq!(
            label("SELECT id, mrn || region AS k FROM raw", &[]).await,
            "unclassified / ; clinical identifier / "
        );
        assert_eq!(label("SELECT id FROM raw WHERE region = 'x'", &[]).await, "unclassified / clinical");
        assert_eq!(label("SELECT region FROM raw WHERE id = 1", &[]).await, "clinical / ");
        assert_eq!(label("SELECT id || region AS k FROM raw", &[]).await, "clinical unclassified / ");
        assert_eq!(
            label("SELECT CASE WHEN mrn = 'x' THEN region END AS k FROM raw", &[]).await,
            "clinical / identifier"
        );
    }

    #[tokio::test]
    async fn masks_lower_nothing_and_row_sets_are_left_out() {
        assert_eq!(label("SELECT id, mrn FROM g", &[]).await, "unclassified / ; clinical identifier / ");
    }

    #[tokio::test]
    async fn a_rule_lowers_the_way_it_matches_only() {
        let count = || DeclassificationTarget::Aggregates(vec!["max".into()]);
        let sql = "SELECT max(region) AS m FROM raw";
        assert_eq!(label(sql, &[]).await, "clinical / ");
        assert_eq!(label(sql, &[rule(count(), &[Part::Explicit])]).await, " / ");
        assert_eq!(label(sql, &[rule(count(), &[Part::Implicit])]).await, "clinical / ");
        // A second way keeps its class.
        let both = "SELECT max(region) || min(region) AS m FROM raw";
        assert_eq!(label(both, &[rule(count(), &[Part::Explicit])]).await, "clinical / ");
        // What decides the node's rows is lowered where every aggregate carries the rule.
        let grouped = "SELECT max(region) AS m FROM raw WHERE region > 'a'";
        assert_eq!(label(grouped, &[rule(count(), &[Part::Explicit])]).await, " / clinical");
        assert_eq!(label(grouped, &[rule(count(), &[Part::Explicit, Part::Implicit])]).await, " / ");
        let mixed = "SELECT max(region) AS m, min(id) AS n FROM raw WHERE region > 'a'";
        assert_eq!(
            label(mixed, &[rule(count(), &[Part::Explicit, Part::Implicit])]).await,
            " / clinical; unclassified / clinical"
        );
    }

    #[tokio::test]
    async fn rules_for_functions_and_masks() {
        let upper = rule(DeclassificationTarget::Function("upper".into()), &[Part::Explicit]);
        assert_eq!(label("SELECT upper(region) AS u, region FROM raw", &[upper]).await, " / ; clinical / ");
        let mut partial = rule(DeclassificationTarget::Mask(custody_model::Rung::Partial), &[Part::Explicit]);
        partial.removes = Class("identifier".into());
        partial.replaces_with = Some(Class("quasi".into()));
        assert_eq!(label("SELECT mrn FROM g", &[partial]).await, "clinical quasi / ");
    }
}

#[test]
fn texts_are_cut_at_512_bytes() {
    use datafusion::prelude::{col, lit};
    let long = (0..200).fold(col("é"), |e, i| e + lit(i));
    let text = crate::text::of(Text::Full, &long);
    assert!(text.len() <= 512 && text.len() > 500 && text.ends_with('…'), "{}", text.len());
    let sum = (col("a") + lit(1)) * (col("b") - (col("c") - lit("it's")));
    assert_eq!(crate::text::of(Text::Full, &sum), "(a + 1) * (b - (c - 'it''s'))");
    assert_eq!(crate::text::of(Text::Full, &col("a").eq(lit(1)).is_null()), "(a = 1) IS NULL");
    assert_eq!(crate::text::of(Text::Full, &col("\"A b\"").or(col("c")).and(col("d"))), "(\"A b\" OR c) AND d");
}

/// A number or a string that stands by itself.
fn literal_in(text: &str) -> bool {
    let word = |c: char| c.is_alphanumeric() || c == '_' || c == '"';
    let alone = |(i, c): (usize, char)| c.is_ascii_digit() && !text[..i].chars().next_back().is_some_and(word);
    // The digits of a type are none.
    text.contains('\'') || (!text.contains("CAST(") && text.char_indices().any(alone))
}

#[tokio::test]
async fn shapes_hold_no_literals() {
    let (mut texts, mut full) = (0, 0);
    for suite in ["tpch", "tpcds"] {
        let (ddl, queries) = crate::tpc::files(suite);
        let mut world = World::new();
        for statement in &ddl {
            world.declare(statement).await.unwrap();
        }
        for (name, sql) in queries {
            let plan = world.plan(&sql).await.unwrap();
            let with = |text| extract(&plan, &Known, &[], &Limits { text, ..Limits::default() }).unwrap();
            let (shape, whole) = (with(Text::Shape), with(Text::Full));
            assert!(shape.shapes && !whole.shapes);
            for hop in &shape.hops {
                assert!(!literal_in(&hop.text), "{suite} {name}: {}", hop.text);
            }
            assert_eq!(shape.hops.len(), whole.hops.len());
            texts += shape.hops.len();
            full += whole.hops.iter().filter(|hop| literal_in(&hop.text)).count();
        }
    }
    assert!(texts > 1_000 && full > 500, "{texts} texts, {full} of them with literals when asked for");
}
