//! Filters move through a plan only where column names are unambiguous.
//!
//! DataFusion's physical `FilterPushdown` finds a filter's columns in the node below by name. Where two columns there have
//! one name, as above a join of `a.id` and `b.id`, the filter comes to mean the first of them, and rows are lost: through a
//! projection of both, `a.x IS NULL` above an outer join became `b.x IS NULL` below it (apache/datafusion #21246, #25296).
//!
//! INVARIANT: no filter enters a node that has a column name twice, or whose input has. Such a node is looked at as the top
//! of a plan of its own, so what it makes itself, a join's filter of its other side, still reaches its inputs.

use datafusion::arrow::datatypes::Schema;
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::common::{Result, internal_err};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_optimizer::filter_pushdown::FilterPushdown;
use datafusion::physical_optimizer::optimizer::PhysicalOptimizer;
use datafusion::physical_plan::execution_plan::{
    ChildrenPropertiesMode, ReplaceChildrenOptions, apply_expression_roots,
};
use datafusion::physical_plan::filter_pushdown::{
    ChildPushdownResult, FilterPushdownPhase, FilterPushdownPropagation, PushedDown,
};
use datafusion::physical_plan::{DisplayAs, DisplayFormatType, ExecutionPlan, PlanProperties};
use std::{collections::HashSet, fmt, sync::Arc};

/// DataFusion's physical rules in their order, each `FilterPushdown` held to unambiguous names.
pub fn physical_optimizer_rules() -> Vec<Arc<dyn PhysicalOptimizerRule + Send + Sync>> {
    let names = [FilterPushdown::new(), FilterPushdown::new_post_optimization()].map(|rule| rule.name().to_string());
    let hold = |rule: Arc<dyn PhysicalOptimizerRule + Send + Sync>| {
        if names.iter().any(|name| name == rule.name()) { Arc::new(Unambiguous(rule)) as _ } else { rule }
    };
    PhysicalOptimizer::new().rules.into_iter().map(hold).collect()
}

/// A rule that looks at the parts of a plan between ambiguous names, one after the other.
#[derive(Debug)]
struct Unambiguous(Arc<dyn PhysicalOptimizerRule + Send + Sync>);

impl PhysicalOptimizerRule for Unambiguous {
    fn optimize(&self, plan: Arc<dyn ExecutionPlan>, config: &ConfigOptions) -> Result<Arc<dyn ExecutionPlan>> {
        let parts = plan
            .children()
            .into_iter()
            .map(|child| self.closed(Arc::clone(child), config))
            .collect::<Result<Vec<_>>>()?;
        let top = if parts.is_empty() {
            plan
        } else {
            plan.replace_children(parts, ReplaceChildrenOptions::new(ChildrenPropertiesMode::Recompute))?
        };
        let top = self.0.optimize(top, config)?;
        top.transform_down(|node| {
            Ok(match node.downcast_ref::<Closed>() {
                // Its parts are done.
                Some(closed) => Transformed::new(Arc::clone(&closed.0), true, TreeNodeRecursion::Jump),
                None => Transformed::no(node),
            })
        })
        .map(|t| t.data)
    }

    fn name(&self) -> &str {
        self.0.name()
    }

    fn schema_check(&self) -> bool {
        self.0.schema_check()
    }
}

impl Unambiguous {
    /// The plan with each topmost ambiguous node looked at by itself and closed.
    fn closed(&self, plan: Arc<dyn ExecutionPlan>, config: &ConfigOptions) -> Result<Arc<dyn ExecutionPlan>> {
        plan.transform_down(|node| {
            if !is_ambiguous(&node) {
                return Ok(Transformed::no(node));
            }
            let closed = Arc::new(Closed(self.optimize(node, config)?));
            Ok(Transformed::new(closed as _, true, TreeNodeRecursion::Jump))
        })
        .map(|t| t.data)
    }
}

fn is_ambiguous(node: &Arc<dyn ExecutionPlan>) -> bool {
    twice(&node.schema()) || node.children().into_iter().any(|child| twice(&child.schema()))
}

fn twice(schema: &Schema) -> bool {
    let mut names = HashSet::new();
    !schema.fields().iter().all(|f| names.insert(f.name()))
}

/// Stands for a part of the plan while the rule looks at what is above it: takes no filter.
#[derive(Debug)]
struct Closed(Arc<dyn ExecutionPlan>);

impl DisplayAs for Closed {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Closed")
    }
}

impl ExecutionPlan for Closed {
    fn name(&self) -> &str {
        "Closed"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        self.0.properties()
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![]
    }

    fn apply_expressions(
        &self,
        f: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        apply_expression_roots(&[] as &[Arc<dyn PhysicalExpr>], f)
    }

    fn with_new_children(self: Arc<Self>, _: Vec<Arc<dyn ExecutionPlan>>) -> Result<Arc<dyn ExecutionPlan>> {
        Ok(self)
    }

    fn execute(&self, _: usize, _: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        internal_err!("a part of a plan was left out")
    }

    fn handle_child_pushdown_result(
        &self,
        _: FilterPushdownPhase,
        above: ChildPushdownResult,
        _: &ConfigOptions,
    ) -> Result<FilterPushdownPropagation<Arc<dyn ExecutionPlan>>> {
        let answers = above.parent_filters.iter().map(|_| PushedDown::No).collect();
        Ok(FilterPushdownPropagation::with_parent_pushdown_result(answers))
    }
}
