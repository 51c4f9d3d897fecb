//! The logical rule of the barrier, in the place of DataFusion's `PushDownFilter`.
//!
//! `PushDownFilter` keeps a predicate above an extension node only by column *name*, so `1 / 0 > 0`, which names none,
//! would sink, and a projection in between can make such a predicate in the middle of its pass. `BarrierPushDown` is
//! `PushDownFilter` everywhere else and decides itself where a filter meets a closed barrier: leakproof conjuncts go
//! below, all others stay. It works because `PushDownFilter` moves a filter past one node per call.

use super::leakproof;
use custody_policy::{Barrier, FlooredGroups, enforce};
use datafusion::common::Result;
use datafusion::common::tree_node::Transformed;
use datafusion::logical_expr::utils::{conjunction, split_conjunction_owned};
use datafusion::logical_expr::{Expr, Filter, LogicalPlan};
use datafusion::optimizer::optimizer::{ApplyOrder, Optimizer};
use datafusion::optimizer::push_down_filter::PushDownFilter;
use datafusion::optimizer::{OptimizerConfig, OptimizerRule};
use std::sync::Arc;

/// DataFusion's rules in their order, with [`BarrierPushDown`] for `PushDownFilter`.
pub fn optimizer_rules() -> Vec<Arc<dyn OptimizerRule + Send + Sync>> {
    let ours: Arc<dyn OptimizerRule + Send + Sync> = Arc::new(BarrierPushDown::default());
    let replace = |rule: Arc<dyn OptimizerRule + Send + Sync>| match rule.name() == ours.name() {
        true => Arc::clone(&ours),
        false => rule,
    };
    Optimizer::new().rules.into_iter().map(replace).collect()
}

/// `PushDownFilter` that respects barriers.
#[derive(Debug, Default)]
pub struct BarrierPushDown {
    inner: PushDownFilter,
}

impl OptimizerRule for BarrierPushDown {
    fn name(&self) -> &str {
        "push_down_filter"
    }

    fn apply_order(&self) -> Option<ApplyOrder> {
        Some(ApplyOrder::TopDown)
    }

    fn rewrite(&self, plan: LogicalPlan, config: &dyn OptimizerConfig) -> Result<Transformed<LogicalPlan>> {
        match closed_barrier_below(&plan) {
            Some(barrier) if enforce!("view.push", barrier.sealed()) => Ok(Transformed::no(plan)),
            Some(_) if enforce!("push.guarded", true) => meet(plan),
            None if enforce!("push.floors", floor_below(&plan)) => Ok(Transformed::no(plan)),
            _ => self.inner.rewrite(plan, config),
        }
    }
}

/// The closed barrier directly below a filter or a stack of filters.
fn closed_barrier_below(plan: &LogicalPlan) -> Option<&Barrier> {
    let LogicalPlan::Filter(filter) = plan else { return None };
    match filter.input.as_ref() {
        LogicalPlan::Filter(_) => closed_barrier_below(&filter.input),
        other => Barrier::of_plan(other).filter(|b| !b.open()),
    }
}

/// Whether a group floor is directly below a filter: one without columns would sink to the rows that it counts.
fn floor_below(plan: &LogicalPlan) -> bool {
    match plan {
        LogicalPlan::Filter(filter) => floor_below(&filter.input),
        other => FlooredGroups::of_plan(other).is_some(),
    }
}

/// Splits what stands above a closed barrier: leakproof conjuncts below, the others above, in their order.
fn meet(plan: LogicalPlan) -> Result<Transformed<LogicalPlan>> {
    let unchanged = plan.clone();
    let (conjuncts, barrier) = conjuncts_above(plan);
    let LogicalPlan::Extension(extension) = &barrier else { return Ok(Transformed::no(unchanged)) };
    let Some(node) = Barrier::of(extension.node.as_ref()) else { return Ok(Transformed::no(unchanged)) };
    let schema = barrier.schema();
    let (below, above): (Vec<_>, Vec<_>) = conjuncts.into_iter().partition(|e| leakproof::logical(e, schema));
    let Some(below) = conjunction(below) else { return Ok(Transformed::no(unchanged)) };
    let filter = Filter::try_new(below, Arc::clone(node.input()))?;
    let lowered = node.over(LogicalPlan::Filter(filter))?.crossed().into_plan();
    Ok(Transformed::yes(match conjunction(above) {
        None => lowered,
        Some(above) => LogicalPlan::Filter(Filter::try_new(above, Arc::new(lowered))?),
    }))
}

/// The conjuncts of a stack of filters, innermost first, and what is below the stack.
fn conjuncts_above(plan: LogicalPlan) -> (Vec<Expr>, LogicalPlan) {
    match plan {
        LogicalPlan::Filter(filter) => {
            let (mut conjuncts, below) = conjuncts_above(Arc::unwrap_or_clone(filter.input));
            conjuncts.extend(split_conjunction_owned(filter.predicate));
            (conjuncts, below)
        }
        below => (vec![], below),
    }
}
