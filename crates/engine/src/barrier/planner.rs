//! From logical barriers to physical ones.
//!
//! What holds after it: every table scan of the logical plan, subqueries included, stood under exactly one barrier.

use super::{
    check::{Decisions, check, settled},
    exec::BarrierExec,
    visible::Visible,
};
use async_trait::async_trait;
use custody_policy::{Barrier, ViewBoundary, enforce};
use datafusion::catalog::Session;
use datafusion::catalog::default_table_source::source_as_provider;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{DataFusionError, Result, internal_err, plan_err};
use datafusion::datasource::cte_worktable::CteWorkTable;
use datafusion::execution::SessionState;
use datafusion::execution::context::QueryPlanner;
use datafusion::functions_table::generate_series::GenerateSeriesTable;
use datafusion::logical_expr::physical_planning_context::PhysicalPlanningContext;
use datafusion::logical_expr::{LogicalPlan, TableScan, UserDefinedLogicalNode};
use datafusion::physical_expr::expressions::Column;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::projection::{ProjectionExec, ProjectionExpr};
use datafusion::physical_planner::{DefaultPhysicalPlanner, ExtensionPlanner, PhysicalPlanner};
use std::{fmt, sync::Arc};

/// Plans [`Barrier`] and [`ViewBoundary`].
#[derive(Debug, Default)]
pub struct BarrierPlanner;

#[async_trait]
impl ExtensionPlanner for BarrierPlanner {
    async fn plan_extension(
        &self,
        _: &dyn PhysicalPlanner,
        node: &dyn UserDefinedLogicalNode,
        _: &[&LogicalPlan],
        physical: &[Arc<dyn ExecutionPlan>],
        session: &dyn Session,
        _: &PhysicalPlanningContext,
    ) -> Result<Option<Arc<dyn ExecutionPlan>>> {
        let input = |what: &str| match physical {
            [input] => Ok(Arc::clone(input)),
            _ => internal_err!("{what} has one input"),
        };
        if ViewBoundary::of(node).is_some() {
            return input("a view").map(Some);
        }
        let Some(barrier) = Barrier::of(node) else { return Ok(None) };
        let input = own_columns(barrier, input("a barrier")?)?;
        let schema = Arc::new(barrier.schema().as_arrow().clone());
        let exec = BarrierExec::try_new(barrier.at().clone(), barrier.grant(), barrier.open(), schema, input)?;
        let shown = session.config().get_extension::<Visible>().and_then(|s| s.get(barrier.at(), barrier.grant()));
        let statistics = shown.map(|figures| Arc::new(figures.statistics(&exec.schema(), barrier.is_crossed())));
        let exec = if barrier.sealed() { exec.sealed_over() } else { exec.showing(statistics) };
        Ok(Some(Arc::new(exec)))
    }
}

/// The input with the barrier's columns in their order, and no others.
fn own_columns(barrier: &Barrier, input: Arc<dyn ExecutionPlan>) -> Result<Arc<dyn ExecutionPlan>> {
    let positions = barrier.positions()?;
    if positions.iter().copied().eq(0..input.schema().fields().len()) {
        return Ok(input);
    }
    let schema = input.schema();
    let column = |i: &usize| {
        let name = schema.field(*i).name();
        ProjectionExpr { expr: Arc::new(Column::new(name, *i)), alias: name.clone() }
    };
    Ok(Arc::new(ProjectionExec::try_new(positions.iter().map(column).collect::<Vec<_>>(), input)?))
}

/// DataFusion's planner with ours, between a look at the logical plan and one at the physical.
pub struct BarrierQueryPlanner {
    planner: DefaultPhysicalPlanner,
}

impl BarrierQueryPlanner {
    /// With planners of other nodes.
    pub fn new(extra: Vec<Arc<dyn ExtensionPlanner + Send + Sync>>) -> Self {
        let mut planners: Vec<Arc<dyn ExtensionPlanner + Send + Sync>> = vec![Arc::new(BarrierPlanner)];
        planners.extend(extra);
        Self { planner: DefaultPhysicalPlanner::with_extension_planners(planners) }
    }
}

impl fmt::Debug for BarrierQueryPlanner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("BarrierQueryPlanner")
    }
}

#[async_trait]
impl QueryPlanner for BarrierQueryPlanner {
    async fn create_physical_plan(&self, plan: &LogicalPlan, session: &dyn Session) -> Result<Arc<dyn ExecutionPlan>> {
        check_scans(plan, 0, false)?;
        let mut physical = self.planner.create_physical_plan(plan, session).await.map_err(hide_plan)?;
        if !settled(&physical) {
            let session = without_changing_filters(session)?;
            physical = self.planner.create_physical_plan(plan, &session).await.map_err(hide_plan)?;
        }
        let decisions = session.config().get_extension::<Decisions>().unwrap_or_default();
        check(&physical, &decisions)?;
        Ok(physical)
    }
}

/// The session without the dynamic filters that change while rows are read; those of joins stay.
fn without_changing_filters(session: &dyn Session) -> Result<SessionState> {
    let Some(state) = session.as_any().downcast_ref::<SessionState>() else {
        return internal_err!("a governed table is planned by an unknown session");
    };
    let mut state = state.clone();
    let options = &mut state.config_mut().options_mut().optimizer;
    options.enable_topk_dynamic_filter_pushdown = false;
    options.enable_aggregate_dynamic_filter_pushdown = false;
    Ok(state)
}

/// Planning errors may print a plan with row sets, masks and files in it.
fn hide_plan(error: DataFusionError) -> DataFusionError {
    if error.to_string().contains("BarrierExec") {
        tracing::warn!(%error, "planning failed around a governed table");
        return DataFusionError::Plan("planning failed around a governed table".into());
    }
    error
}

/// Every scan below `plan` stands under exactly one barrier. A subquery has barriers of its own; one that a row set asks,
/// below a closed barrier, is under that one (`lent`).
fn check_scans(plan: &LogicalPlan, above: usize, lent: bool) -> Result<()> {
    if let LogicalPlan::TableScan(scan) = plan {
        return match above {
            1 => Ok(()),
            0 if lent => Ok(()),
            _ if !enforce!("check.leaves", !holds_no_table(scan)) => Ok(()),
            0 => plan_err!("table `{}` is read without a decision", scan.table_name),
            n => plan_err!("table `{}` is read under {n} decisions", scan.table_name),
        };
    }
    let barrier = Barrier::of_plan(plan);
    if let Some(barrier) = barrier.filter(|b| enforce!("floor.settled", !b.is_settled())) {
        return plan_err!("table `{}` is read around its group floor", barrier.at().name);
    }
    if barrier.is_some_and(Barrier::sealed) {
        // A view's text is a plan of its own: its scans have barriers of their own.
        return plan.inputs().into_iter().try_for_each(|text| check_scans(text, 0, false));
    }
    let above = above + usize::from(barrier.is_some());
    let lent = lent || barrier.is_some_and(|b| !b.open());
    plan.apply_subqueries(|subquery| check_scans(subquery, 0, lent).map(|()| TreeNodeRecursion::Continue))?;
    plan.inputs().into_iter().try_for_each(|input| check_scans(input, above, lent))
}

/// Rows that a statement makes itself: a recursive query's working table, a generated series.
fn holds_no_table(scan: &TableScan) -> bool {
    source_as_provider(&scan.source)
        .is_ok_and(|provider| provider.is::<CteWorkTable>() || provider.is::<GenerateSeriesTable>())
}
