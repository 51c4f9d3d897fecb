//! Perturbation: run a statement, change one column of one table, run it again. Whatever differs must be claimed.
//!
//! What holds here:
//! - Rows are compared one by one on an untouched key: all outputs that, by lineage, the change leaves alone are taken
//!   together (`_k` among them), and as a bag they must stay as they were.
//! - A claim is witnessed when its output differs beside that key. The share of claims that were witnessed is checked
//!   too: silence would prove nothing.
//! - No floats are summed and plans have one partition, so every difference is a real one; unspecified order is kept
//!   the same by giving the planner no reason to reorder.
#![allow(clippy::disallowed_methods, reason = "tests of lineage plan without an engine")]
#![allow(clippy::panic, clippy::unwrap_used, clippy::print_stdout, reason = "tests")]

mod data;
mod search;
mod statements;

use crate::tests::{World, version_of};
use custody_model::{FieldId, Lineage};
use data::{Draw, Hints, WAYS};
use datafusion::{
    arrow::{
        array::{ArrayRef, RecordBatch, UInt32Array},
        compute::take,
        datatypes::{Field, FieldRef, Schema, SchemaRef},
        util::display::array_value_to_string,
    },
    catalog::{Session, TableProvider},
    common::tree_node::TreeNodeRecursion,
    error::{DataFusionError, Result},
    execution::{SendableRecordBatchStream, SessionState, TaskContext},
    logical_expr::{Expr, LogicalPlan, TableType},
    physical_expr::{EquivalenceProperties, PhysicalExpr},
    physical_plan::{
        DisplayAs, DisplayFormatType, ExecutionPlan, Partitioning, PlanProperties, ReplaceChildrenOptions, collect,
        execution_plan::{Boundedness, EmissionType, reset_plan_states},
        memory::MemoryStream,
    },
};
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::{Arc, RwLock},
};

/// A table whose rows are exchanged between runs; plans over it stay good.
#[derive(Debug)]
struct Cell {
    schema: SchemaRef,
    rows: RwLock<RecordBatch>,
}

#[async_trait::async_trait]
impl TableProvider for Shared {
    fn schema(&self) -> SchemaRef {
        self.0.schema.clone()
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    async fn scan(
        &self,
        _: &dyn Session,
        projection: Option<&Vec<usize>>,
        _: &[Expr],
        _: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        Ok(Arc::new(Scan::new(self.0.clone(), projection.cloned())?))
    }
}

/// A table as the planner sees it.
#[derive(Debug)]
struct Shared(Arc<Cell>);

/// A scan that reads the rows of its table when it is run, not when it is planned.
#[derive(Debug)]
struct Scan {
    cell: Arc<Cell>,
    projection: Option<Vec<usize>>,
    properties: Arc<PlanProperties>,
}

impl Scan {
    fn new(cell: Arc<Cell>, projection: Option<Vec<usize>>) -> Result<Self> {
        let schema = match &projection {
            Some(columns) => Arc::new(cell.schema.project(columns)?),
            None => cell.schema.clone(),
        };
        let properties = PlanProperties::new(
            EquivalenceProperties::new(schema),
            Partitioning::UnknownPartitioning(1),
            EmissionType::Incremental,
            Boundedness::Bounded,
        );
        Ok(Self { cell, projection, properties: Arc::new(properties) })
    }
}

impl DisplayAs for Scan {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Scan")
    }
}

impl ExecutionPlan for Scan {
    fn name(&self) -> &str {
        "Scan"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![]
    }

    fn apply_expressions(
        &self,
        _: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn replace_children(
        self: Arc<Self>,
        _: Vec<Arc<dyn ExecutionPlan>>,
        _: ReplaceChildrenOptions,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        Ok(self)
    }

    fn with_new_children(self: Arc<Self>, _: Vec<Arc<dyn ExecutionPlan>>) -> Result<Arc<dyn ExecutionPlan>> {
        Ok(self)
    }

    fn execute(&self, _: usize, _: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let rows = self.cell.rows.read().unwrap().clone();
        let schema = self.properties.equivalence_properties().schema().clone();
        Ok(Box::pin(MemoryStream::try_new(vec![rows], schema, self.projection.clone())?))
    }
}

/// A world whose tables can be changed.
struct Bench {
    world: World,
    tables: BTreeMap<String, Arc<Cell>>,
    state: SessionState,
}

type Rows = Vec<Vec<String>>;
/// Columns by table.
type Tables = BTreeMap<String, Vec<ArrayRef>>;
type Answer = std::result::Result<Rows, String>;

impl Bench {
    async fn new(ddl: &[String]) -> Self {
        let mut world = World::single();
        let mut tables = BTreeMap::new();
        for statement in ddl {
            world.declare(statement).await.unwrap();
            let schema = world.ctx.catalog("datafusion").unwrap().schema("public").unwrap();
            for name in schema.table_names() {
                let provider = schema.table(&name).await.unwrap().unwrap();
                if tables.contains_key(&name) || provider.table_type() != TableType::Base {
                    continue;
                }
                // Any value may be missing.
                let fields = provider.schema();
                let fields = fields.fields().iter().map(|f| Field::new(f.name(), f.data_type().clone(), true));
                let schema_of = Arc::new(Schema::new(fields.collect::<Vec<_>>()));
                let rows = RwLock::new(RecordBatch::new_empty(schema_of.clone()));
                let cell = Arc::new(Cell { schema: schema_of, rows });
                schema.deregister_table(&name).unwrap();
                schema.register_table(name.clone(), Arc::new(Shared(cell.clone()))).unwrap();
                tables.insert(name, cell);
            }
        }
        let state = world.ctx.state();
        Self { world, tables, state }
    }

    fn put(&self, name: &str, columns: Vec<ArrayRef>) {
        let cell = &self.tables[name];
        *cell.rows.write().unwrap() = RecordBatch::try_new(cell.schema.clone(), columns).unwrap();
    }

    async fn physical(&self, optimised: &LogicalPlan) -> Option<Arc<dyn ExecutionPlan>> {
        self.state.query_planner().create_physical_plan(optimised, &self.state).await.ok()
    }

    async fn run(&self, physical: &Arc<dyn ExecutionPlan>) -> Answer {
        let (context, physical) = (self.state.task_ctx(), physical.clone());
        let run = async move {
            let batches = collect(reset_plan_states(physical)?, context).await?;
            let mut rows = vec![];
            for batch in &batches {
                for row in 0..batch.num_rows() {
                    let cells = batch.columns().iter().map(|c| array_value_to_string(c, row));
                    rows.push(cells.collect::<std::result::Result<Vec<_>, _>>()?);
                }
            }
            Ok::<_, DataFusionError>(rows)
        };
        // As a task of its own: DataFusion panics on some statements, which is an answer like any other.
        match tokio::spawn(run).await {
            Ok(answer) => answer.map_err(|e| e.strip_backtrace()),
            Err(panic) => Err(panic.to_string()),
        }
    }

    /// A statement that can be run: planned, with lineage, not volatile.
    async fn prepare(&self, sql: &str) -> Option<Prepared> {
        let plan = self.world.plan(sql).await.ok()?;
        let lineage = self.world.extract(&plan).ok()?;
        let runs = !lineage.volatile && !matches!(plan, LogicalPlan::Explain(_) | LogicalPlan::Analyze(_));
        let runs = runs && !matches!(plan, LogicalPlan::Dml(_) | LogicalPlan::Ddl(_) | LogicalPlan::Copy(_));
        let optimised = self.state.optimize(&plan).ok().filter(|_| runs)?;
        let hints = Hints::of(&optimised);
        Some(Prepared { sql: sql.to_string(), plan, optimised, lineage, hints })
    }
}

struct Prepared {
    sql: String,
    plan: LogicalPlan,
    optimised: LogicalPlan,
    lineage: Lineage,
    hints: Hints,
}

/// Which column was changed; without a field: a row was left out.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct Change {
    table: String,
    field: Option<u32>,
}

/// One run after one change.
struct Observation {
    change: Change,
    before: Arc<Rows>,
    after: Answer,
}

/// Which outputs lineage says a change may alter.
fn claimed(lineage: &Lineage, change: &Change, outputs: usize) -> Vec<bool> {
    let name = version_of(&change.table, 7).name;
    let Some(field) = change.field else {
        // Row existence is implied by the inputs.
        return vec![lineage.inputs.iter().any(|t| t.name == name); outputs];
    };
    let is = |ix: u32| {
        let atom = lineage.atom(ix).unwrap();
        atom.field == Some(FieldId(field)) && lineage.table(atom).unwrap().name == name
    };
    let all = lineage.dataset.iter().any(|i| is(i.atom));
    let one =
        |o: &custody_model::OutputFlow| o.direct.iter().any(|(_, a)| is(*a)) || o.field.iter().any(|i| is(i.atom));
    lineage.outputs.iter().map(|o| all || one(o)).collect()
}

fn direct(lineage: &Lineage, change: &Change, output: usize) -> bool {
    let name = version_of(&change.table, 7).name;
    lineage.outputs[output].direct.iter().any(|(_, a)| {
        let atom = lineage.atom(*a).unwrap();
        atom.field.map(|f| f.0) == change.field && lineage.table(atom).unwrap().name == name
    })
}

fn evaluated(lineage: &Lineage, change: &Change) -> bool {
    let name = version_of(&change.table, 7).name;
    lineage.evaluated.iter().any(|ix| {
        let atom = lineage.atom(*ix).unwrap();
        atom.field.map(|f| f.0) == change.field && lineage.table(atom).unwrap().name == name
    })
}

fn bag(rows: &Rows, columns: &[usize]) -> Vec<Vec<String>> {
    let mut bag: Vec<Vec<String>> = rows.iter().map(|r| columns.iter().map(|c| r[*c].clone()).collect()).collect();
    bag.sort_unstable();
    bag
}

/// What one observation says about a lineage: what it does not claim, or which claims it witnesses.
fn judge(lineage: &Lineage, seen: &Observation) -> std::result::Result<Vec<usize>, String> {
    let outputs = lineage.outputs.len();
    let claims = claimed(lineage, &seen.change, outputs);
    let after = match &seen.after {
        Ok(after) => after,
        Err(error) => {
            // A row left out can fail nothing that a column could not.
            let fine = claims.contains(&true) || seen.change.field.is_none() || evaluated(lineage, &seen.change);
            return if fine { Ok(vec![]) } else { Err(format!("fails: {error}")) };
        }
    };
    let mut key: Vec<usize> = (0..outputs).filter(|o| !claims[*o]).collect();
    let same = |columns: &[usize]| bag(&seen.before, columns) == bag(after, columns);
    if !key.is_empty() && !same(&key) {
        let alone = key.iter().filter(|o| !same(&[**o])).map(|o| lineage.outputs[*o].name.as_str());
        return Err(format!("changes {:?} of what is not claimed", alone.collect::<Vec<_>>()));
    }
    let mut witnessed = vec![];
    for output in (0..outputs).filter(|o| claims[*o]) {
        key.push(output);
        if !same(&key) {
            witnessed.push(output);
        }
        key.pop();
    }
    Ok(witnessed)
}

/// How much an answer can tell: outputs that hold a value, and one more where there are several rows.
fn telling(rows: &Rows, outputs: usize) -> usize {
    let holds = |o: usize| rows.iter().any(|r| !matches!(r[o].as_str(), "" | "0" | "0.00"));
    (0..outputs).filter(|o| holds(*o)).count() + usize::from(rows.len() > 1)
}

/// Counts of pairs: a changed column and an output.
#[derive(Default)]
struct Count {
    statements: usize,
    runs: usize,
    claimed: BTreeSet<(String, Change, usize)>,
    direct: BTreeSet<(String, Change, usize)>,
    witnessed: BTreeSet<(String, Change, usize)>,
    violations: BTreeSet<String>,
}

impl Count {
    fn witnessed_direct(&self) -> usize {
        self.direct.intersection(&self.witnessed).count()
    }

    fn text(&self) -> String {
        format!(
            "{} statements, {} runs: {} of {} pairs witnessed, {} of {} direct ones, {} violations",
            self.statements,
            self.runs,
            self.witnessed.len(),
            self.claimed.len(),
            self.witnessed_direct(),
            self.direct.len(),
            self.violations.len()
        )
    }
}

/// How much to do with a statement.
#[derive(Clone, Copy)]
struct Effort {
    /// Data sets tried before an empty answer is taken.
    tries: u64,
    /// Changes of each column.
    changes: usize,
}

impl Bench {
    /// Runs a statement on one data set and its changes; each run goes to `see`.
    async fn observe(
        &self,
        prepared: &Prepared,
        seed: u64,
        effort: Effort,
        count: &mut Count,
        see: &mut dyn FnMut(Observation),
    ) {
        let inputs: BTreeSet<String> = prepared.lineage.inputs.iter().map(|t| t.name.name().to_string()).collect();
        let scanned = |name: &str| inputs.contains(name);
        let ends = prepared.sql.contains("RECURSIVE");
        let Some(physical) = self.physical(&prepared.optimised).await else { return };
        let mut chosen: Option<(usize, Tables, Arc<Rows>, Draw)> = None;
        let outputs = prepared.lineage.outputs.len();
        for attempt in 0..effort.tries {
            let mut draw = Draw::new(seed.wrapping_add(attempt.wrapping_mul(0x51_7C_C1_B7)));
            let mut tables = BTreeMap::new();
            for (name, cell) in self.tables.iter().filter(|(name, _)| scanned(name)) {
                tables.insert(name.clone(), data::table(name, &cell.schema, &prepared.hints, &mut draw));
            }
            for (name, columns) in &tables {
                self.put(name, columns.clone());
            }
            let Ok(before) = self.run(&physical).await else { continue };
            let score = telling(&before, outputs);
            if chosen.as_ref().is_none_or(|(best, ..)| *best < score) {
                chosen = Some((score, tables, Arc::new(before), draw));
            }
            if score > outputs {
                break;
            }
        }
        let Some((_, tables, before, mut draw)) = chosen else { return };
        for (name, columns) in &tables {
            self.put(name, columns.clone());
        }
        count.statements += 1;
        for (name, columns) in &tables {
            let schema = &self.tables[name].schema;
            for (at, field) in schema.fields().iter().enumerate().filter(|(_, f)| f.name() != "_k") {
                let change = Change { table: name.clone(), field: Some(at as u32 + 1) };
                let claims = claimed(&prepared.lineage, &change, outputs);
                for output in (0..outputs).filter(|o| claims[*o]) {
                    count.claimed.insert((prepared.sql.clone(), change.clone(), output));
                    if direct(&prepared.lineage, &change, output) {
                        count.direct.insert((prepared.sql.clone(), change.clone(), output));
                    }
                }
                let first = draw.below(WAYS as u64) as usize;
                for way in 0..effort.changes {
                    let way = (first + way) % WAYS;
                    // Recursion over a column ends because its values do not grow.
                    let ends = ends && name == "edges" && field.name() != "cost" && field.name() != "w";
                    let Some(new) = changed(&columns[at], field, prepared, way, ends, &mut draw) else { continue };
                    let mut columns = columns.clone();
                    columns[at] = new;
                    self.put(name, columns);
                    count.runs += 1;
                    let after = self.run(&physical).await;
                    see(Observation { change: change.clone(), before: before.clone(), after });
                }
            }
            let kept = UInt32Array::from_iter_values((0..data::ROWS as u32).filter(|_| !draw.one_in(4)));
            self.put(name, columns.iter().map(|c| take(c, &kept, None).unwrap()).collect());
            count.runs += 1;
            let after = self.run(&physical).await;
            let change = Change { table: name.clone(), field: None };
            see(Observation { change, before: before.clone(), after });
            self.put(name, columns.clone());
        }
    }

    /// Observes and judges by the lineage itself. Gives what was seen.
    async fn check(&self, prepared: &Prepared, seed: u64, effort: Effort, count: &mut Count) -> Vec<Observation> {
        let mut seen = vec![];
        self.observe(prepared, seed, effort, count, &mut |observation| seen.push(observation)).await;
        for observation in &seen {
            match judge(&prepared.lineage, observation) {
                Ok(outputs) if observation.change.field.is_some() => count
                    .witnessed
                    .extend(outputs.into_iter().map(|o| (prepared.sql.clone(), observation.change.clone(), o))),
                Ok(_) => {}
                Err(what) => {
                    let Change { table, field } = &observation.change;
                    let column = field
                        .map_or("(rows)".into(), |f| self.tables[table].schema.field(f as usize - 1).name().clone());
                    count.violations.insert(format!("seed {seed}: {}\n  {table}.{column} {what}", prepared.sql));
                }
            }
        }
        seen
    }
}

fn changed(
    column: &ArrayRef,
    field: &FieldRef,
    prepared: &Prepared,
    way: usize,
    ends: bool,
    draw: &mut Draw,
) -> Option<ArrayRef> {
    data::changed(column, field, &prepared.hints, way, ends, draw)
}
