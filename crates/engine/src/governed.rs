//! From pinned names to a plan that may run: `GovernedPlan` has no other constructor.
//!
//! What holds after it: every output column has its sources; each storage leaf stands under exactly one barrier.

use crate::{
    barrier::physical_text,
    pin::{Asked, Statement},
    problem::from_datafusion,
    provider::Leaf,
    session::{ReadRequest, Session},
};
use custody_dialect::{AsOfJoin, FunctionCall, FunctionKind, GatedQuery, dropped_modifiers};
use custody_lineage::{ColumnUse, Leaves, NodeRule, Text, column_roles};
use custody_model::{Hash, Lineage, Problem, Rung, TableVersion};
use custody_policy::{Barrier, ColumnGrant, FlooredGroups, ViewBoundary, floor};
use datafusion::{
    arrow::datatypes::{DataType, Field, Schema, SchemaRef},
    catalog::default_table_source::source_as_provider,
    common::{Column, ScalarValue},
    execution::{SessionState, TaskContext},
    logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder, TableScan, UserDefinedLogicalNode},
    physical_plan::{ExecutionPlan, displayable},
    sql::{parser::Statement as Parsed, sqlparser::ast},
};
use std::sync::Arc;

/// A plan in which every storage leaf is governed and whose lineage is known.
pub(crate) struct GovernedPlan {
    physical: Arc<dyn ExecutionPlan>,
    context: Arc<TaskContext>,
    schema: SchemaRef,
    lineage: Lineage,
    uses: Vec<ColumnUse>,
    fingerprint: Hash,
}

impl GovernedPlan {
    pub(crate) fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    pub(crate) fn lineage(&self) -> &Lineage {
        &self.lineage
    }

    pub(crate) fn uses(&self) -> &[ColumnUse] {
        &self.uses
    }

    /// Keyed hash of the plan: a receipt fits only the plan it was earned for.
    pub(crate) fn fingerprint(&self) -> Hash {
        self.fingerprint
    }

    /// The plan down to its barriers; below those that `raw` opens too.
    pub(crate) fn text(&self, raw: &dyn Fn(&TableVersion, Hash) -> bool) -> String {
        physical_text(&self.physical, raw)
    }

    pub(crate) fn into_parts(self) -> (Arc<dyn ExecutionPlan>, Arc<TaskContext>) {
        (self.physical, self.context)
    }
}

/// A plan over governed relations, before it was optimised: what lineage reads and what identity is made of.
pub(crate) struct Drafted {
    pub(crate) plan: LogicalPlan,
    pub(crate) lineage: Lineage,
    pub(crate) state: SessionState,
}

impl Session {
    /// Plans, extracts lineage, optimises, checks.
    pub(crate) async fn govern(&self, request: &ReadRequest, statement: &Statement) -> Result<GovernedPlan, Problem> {
        let drafted = self.draft(statement, Text::None).await?;
        let plan = match request {
            ReadRequest::Sql { parameters: Some(values), .. } => {
                drafted.plan.clone().with_param_values(values.clone()).map_err(|e| from_datafusion(&e))?
            }
            _ => match parameters(&drafted.plan)?.as_slice() {
                [] => drafted.plan.clone(),
                wanted => {
                    let names: Vec<_> = wanted.iter().map(|(name, _)| format!("`{name}`")).collect();
                    return Err(Problem::new(1130, format!("no value was given for {}", names.join(", ")))
                        .help("prepare the statement and bind its parameters"));
                }
            },
        };
        self.finish(Drafted { plan, ..drafted }).await
    }

    /// The schema of an answer and of the parameters that it needs, where their values are still to come.
    pub(crate) async fn prepared(&self, statement: &Statement) -> Result<(GovernedPlan, SchemaRef), Problem> {
        let drafted = self.draft(statement, Text::None).await?;
        let wanted = parameters(&drafted.plan)?;
        let nulls = wanted
            .iter()
            .map(|(name, data_type)| {
                let null = ScalarValue::try_new_null(data_type).map_err(|e| from_datafusion(&e))?;
                Ok((name.trim_start_matches('$').to_string(), null))
            })
            .collect::<Result<Vec<_>, Problem>>()?;
        let plan = match nulls.is_empty() {
            true => drafted.plan.clone(),
            false => drafted.plan.clone().with_param_values(nulls).map_err(|e| from_datafusion(&e))?,
        };
        let fields: Vec<Field> = wanted.into_iter().map(|(name, t)| Field::new(name, t, true)).collect();
        let plan = self.finish(Drafted { plan, ..drafted }).await?;
        Ok((plan, Arc::new(Schema::new(fields))))
    }

    /// The unoptimised plan over governed relations, with its lineage.
    pub(crate) async fn draft(&self, statement: &Statement, text: Text) -> Result<Drafted, Problem> {
        let state = self.engine.state(&statement.pinned, &self.subject)?;
        let plan = match &statement.asked {
            Asked::Query(query) => {
                nothing_dropped(&state, query)?;
                plan_query(&state, query.clone().into_ast()).await?
            }
            Asked::Dataset(columns) => plan_dataset(statement, columns)?,
        };
        let plan = floor::settle(plan).map_err(|e| from_datafusion(&e))?;
        let lineage = custody_lineage::extract(&plan, &EngineLeaves, &self.declassifications(), &limits(text))
            .map_err(Problem::from)?;
        Ok(Drafted { plan, lineage, state })
    }

    /// Optimises and checks: the only way to a `GovernedPlan`.
    pub(crate) async fn finish(&self, drafted: Drafted) -> Result<GovernedPlan, Problem> {
        let Drafted { plan, lineage, state } = drafted;
        let optimised = state.optimize(&plan).map_err(|e| from_datafusion(&e))?;
        // Statistics make plans better, never possible: what fails here fails again, and is told, when it runs.
        let look = self.engine.visible.look(&plan, &optimised, &state);
        match tokio::time::timeout(self.engine.settings.statement_time, look).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::debug!(%error, "visible rows were not counted"),
            Err(_) => tracing::debug!("visible rows were not counted in time"),
        }
        let physical =
            state.query_planner().create_physical_plan(&optimised, &state).await.map_err(|e| from_datafusion(&e))?;
        let text = displayable(physical.as_ref()).indent(false).to_string();
        let nonce: [u8; 16] = crate::keys::random()?;
        let fingerprint = self.engine.keys.token("plan", &[text.as_bytes(), &nonce].concat())?;
        Ok(GovernedPlan {
            schema: physical.schema(),
            uses: column_roles(&lineage),
            physical,
            context: state.task_ctx(),
            lineage,
            fingerprint,
        })
    }
}

pub(crate) fn limits(text: Text) -> custody_lineage::Limits {
    custody_lineage::Limits { text, ..Default::default() }
}

/// The parameters of a plan in the order of their numbers, then of their names, each with its type.
fn parameters(plan: &LogicalPlan) -> Result<Vec<(String, DataType)>, Problem> {
    let types = plan.get_parameter_types().map_err(|e| from_datafusion(&e))?;
    let mut parameters = types
        .into_iter()
        .map(|(name, data_type)| match data_type {
            Some(data_type) => Ok((name, data_type)),
            None => Err(Problem::new(1130, format!("the type of parameter `{name}` cannot be told"))
                .help(format!("write `CAST({name} AS …)`"))),
        })
        .collect::<Result<Vec<_>, _>>()?;
    parameters.sort_by_key(|(name, _)| (name.trim_start_matches('$').parse::<u32>().unwrap_or(u32::MAX), name.clone()));
    Ok(parameters)
}

/// What DataFusion would drop of a call, which depends on what kind of function the name is here.
pub(crate) fn nothing_dropped(state: &SessionState, query: &GatedQuery) -> Result<(), Problem> {
    dropped_calls(state, query.functions()).map_or(Ok(()), Err)
}

/// The first modifier of these calls that would be dropped.
pub(crate) fn dropped_calls(state: &SessionState, calls: &[FunctionCall]) -> Option<Problem> {
    let dropped = dropped_modifiers(calls, |name| {
        if state.aggregate_functions().contains_key(name) {
            Some(FunctionKind::Aggregate)
        } else if state.window_functions().contains_key(name) {
            Some(FunctionKind::Window)
        } else {
            state.scalar_functions().contains_key(name).then_some(FunctionKind::Scalar)
        }
    });
    dropped.into_iter().next()
}

pub(crate) async fn plan_query(state: &SessionState, query: ast::Query) -> Result<LogicalPlan, Problem> {
    let statement = Parsed::Statement(Box::new(ast::Statement::Query(Box::new(query))));
    state.statement_to_plan(statement).await.map_err(|e| from_datafusion(&e))
}

/// A dataset by name: no text is made from names, so nothing can be spliced in.
fn plan_dataset(statement: &Statement, columns: &[String]) -> Result<LogicalPlan, Problem> {
    let table = statement.pinned.first().ok_or_else(|| Problem::bug("a dataset request pins one table"))?;
    let wrong = |e| from_datafusion(&e);
    let source = datafusion::datasource::provider_as_source(Arc::clone(&table.provider));
    let scan = LogicalPlanBuilder::scan(table.at.name.name(), source, None).map_err(wrong)?;
    // All that can be handed out row by row.
    let only = |c: &&ColumnGrant| c.rung == Rung::Aggregate;
    let hidden: Vec<&str> = table.grant.columns.iter().filter(only).map(|c| c.name.as_str()).collect();
    let shown = scan.schema().fields().iter().map(|f| f.name().clone()).filter(|name| !hidden.contains(&name.as_str()));
    let columns = if columns.is_empty() && !hidden.is_empty() { shown.collect() } else { columns.to_vec() };
    if columns.is_empty() {
        return scan.build().map_err(wrong);
    }
    let wanted = columns
        .iter()
        .map(|name| {
            scan.schema()
                .has_column_with_unqualified_name(name)
                .then(|| Expr::Column(Column::from_name(name)))
                .ok_or_else(|| Problem::new(6002, format!("column `{name}` of `{}` not found", table.at.name)))
        })
        .collect::<Result<Vec<_>, _>>()?;
    scan.project(wanted).and_then(LogicalPlanBuilder::build).map_err(wrong)
}

/// What the leaves and the engine's own nodes mean to lineage.
pub(crate) struct EngineLeaves;

impl Leaves for EngineLeaves {
    fn scan(&self, scan: &TableScan) -> custody_lineage::Leaf {
        let Ok(provider) = source_as_provider(&scan.source) else { return custody_lineage::Leaf::Unknown };
        let any: &dyn std::any::Any = provider.as_ref();
        if let Some(leaf) = any.downcast_ref::<Leaf>() {
            return custody_lineage::Leaf::Table(leaf.at.clone(), leaf.fields.clone());
        }
        if any.is::<datafusion::datasource::cte_worktable::CteWorkTable>() {
            return custody_lineage::Leaf::WorkTable(scan.table_name.table().to_string());
        }
        if matches!(scan.table_name.table(), "range()" | "generate_series()") {
            return custody_lineage::Leaf::Function(vec![]);
        }
        custody_lineage::Leaf::Unknown
    }

    fn node<'a>(&self, node: &'a dyn UserDefinedLogicalNode) -> NodeRule<'a> {
        if let Some(barrier) = Barrier::of(node) {
            if barrier.sealed() {
                return NodeRule::View(barrier.at().name.to_string());
            }
            return NodeRule::Barrier(barrier.at().clone(), barrier.fields());
        }
        if let Some(view) = ViewBoundary::of(node) {
            return NodeRule::View(view.view().clone());
        }
        if let Some(floor) = FlooredGroups::of(node) {
            return match floor.positions() {
                Ok((groups, ..)) => NodeRule::Floor { by: floor.deciders(), groups },
                Err(_) => NodeRule::Unknown,
            };
        }
        match AsOfJoin::of(node) {
            Some(join) => NodeRule::AsOf(join.deciders()),
            None => NodeRule::Unknown,
        }
    }
}
