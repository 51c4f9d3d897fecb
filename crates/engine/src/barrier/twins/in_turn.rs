//! Plans whose partitions do not race: they are read one after the other, the first to its end first.
//!
//! What depends on the order of rows is then a function of the data, so two databases can be compared to the last batch.

use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode, TreeNodeRecursion};
use datafusion::common::{Result, internal_err};
use datafusion::execution::{SendableRecordBatchStream, SessionState, SessionStateBuilder, TaskContext};
use datafusion::physical_expr::{EquivalenceProperties, PhysicalExpr};
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_plan::execution_plan::{CardinalityEffect, ChildrenPropertiesMode, ReplaceChildrenOptions};
use datafusion::physical_plan::filter_pushdown::{
    ChildPushdownResult, FilterDescription, FilterPushdownPhase, FilterPushdownPropagation,
};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, ExecutionPlan, ExecutionPlanProperties, Partitioning, PlanProperties,
};
use futures::{StreamExt, TryStreamExt};
use std::{fmt, sync::Arc};

use crate::barrier::BarrierExec;

/// The session with one partition above every barrier, scan and union.
pub(super) fn in_turn(state: &SessionState) -> SessionState {
    let mut rules: Vec<Arc<dyn PhysicalOptimizerRule + Send + Sync>> = vec![Arc::new(OnePartition)];
    rules.extend(state.physical_optimizers().iter().cloned());
    // The tables are those of the session: no new catalog over them.
    let config = state.config().clone().with_target_partitions(1).with_create_default_catalog_and_schema(false);
    SessionStateBuilder::new_from_existing(state.clone())
        .with_config(config)
        .with_physical_optimizer_rules(rules)
        .build()
}

/// What is read in turn below an [`InTurn`]; nothing else runs beside it.
pub(super) fn sides(plan: &Arc<dyn ExecutionPlan>) -> Option<Vec<&Arc<dyn ExecutionPlan>>> {
    let in_turn = plan.downcast_ref::<InTurn>()?;
    Some(if in_turn.input.is::<BarrierExec>() { vec![] } else { in_turn.input.children() })
}

/// Puts [`InTurn`] where partitions arise. It comes before DataFusion's own rules, which then add none.
#[derive(Debug)]
struct OnePartition;

impl PhysicalOptimizerRule for OnePartition {
    fn optimize(&self, plan: Arc<dyn ExecutionPlan>, _: &ConfigOptions) -> Result<Arc<dyn ExecutionPlan>> {
        let whole = |plan: Arc<dyn ExecutionPlan>| {
            let several = plan.output_partitioning().partition_count() > 1;
            if several && (plan.is::<BarrierExec>() || plan.children().is_empty()) {
                let wrapped = Arc::new(InTurn::over(plan)) as Arc<dyn ExecutionPlan>;
                return Ok(Transformed::new(wrapped, true, TreeNodeRecursion::Jump));
            }
            let below = if plan.is::<BarrierExec>() { TreeNodeRecursion::Jump } else { TreeNodeRecursion::Continue };
            Ok(Transformed::new(plan, false, below))
        };
        let plan = plan.transform_down(whole).data()?;
        let union = |plan: Arc<dyn ExecutionPlan>| {
            Ok(match plan.name() == "UnionExec" {
                true => Transformed::yes(Arc::new(InTurn::over(plan)) as Arc<dyn ExecutionPlan>),
                false => Transformed::no(plan),
            })
        };
        plan.transform_up(union).data()
    }

    fn name(&self) -> &str {
        "one_partition"
    }

    fn schema_check(&self) -> bool {
        true
    }
}

/// The partitions of its input, one after the other.
#[derive(Debug)]
struct InTurn {
    input: Arc<dyn ExecutionPlan>,
    properties: Arc<PlanProperties>,
}

impl InTurn {
    fn over(input: Arc<dyn ExecutionPlan>) -> Self {
        let properties = PlanProperties::new(
            EquivalenceProperties::new(input.schema()),
            Partitioning::UnknownPartitioning(1),
            input.pipeline_behavior(),
            input.boundedness(),
        );
        Self { input, properties: Arc::new(properties) }
    }
}

impl DisplayAs for InTurn {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("InTurn")
    }
}

impl ExecutionPlan for InTurn {
    fn name(&self) -> &str {
        "InTurn"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![&self.input]
    }

    fn maintains_input_order(&self) -> Vec<bool> {
        vec![false]
    }

    fn benefits_from_input_partitioning(&self) -> Vec<bool> {
        vec![false]
    }

    fn apply_expressions(
        &self,
        _: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn replace_children(
        self: Arc<Self>,
        children: Vec<Arc<dyn ExecutionPlan>>,
        _: ReplaceChildrenOptions,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        match <[_; 1]>::try_from(children) {
            Ok([input]) => Ok(Arc::new(Self::over(input))),
            Err(_) => internal_err!("one input"),
        }
    }

    fn with_new_children(self: Arc<Self>, children: Vec<Arc<dyn ExecutionPlan>>) -> Result<Arc<dyn ExecutionPlan>> {
        self.replace_children(children, ReplaceChildrenOptions::new(ChildrenPropertiesMode::Recompute))
    }

    fn execute(&self, _: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let input = Arc::clone(&self.input);
        let partitions = 0..input.output_partitioning().partition_count();
        // A partition starts when the one before it has ended.
        let batches = futures::stream::iter(partitions)
            .map(move |partition| input.execute(partition, Arc::clone(&context)))
            .try_flatten();
        Ok(Box::pin(RecordBatchStreamAdapter::new(self.schema(), batches)))
    }

    fn cardinality_effect(&self) -> CardinalityEffect {
        CardinalityEffect::Equal
    }

    fn gather_filters_for_pushdown(
        &self,
        _: FilterPushdownPhase,
        parent_filters: Vec<Arc<dyn PhysicalExpr>>,
        _: &ConfigOptions,
    ) -> Result<FilterDescription> {
        FilterDescription::from_children(parent_filters, &self.children())
    }

    fn handle_child_pushdown_result(
        &self,
        _: FilterPushdownPhase,
        below: ChildPushdownResult,
        _: &ConfigOptions,
    ) -> Result<FilterPushdownPropagation<Arc<dyn ExecutionPlan>>> {
        Ok(FilterPushdownPropagation::if_all(below))
    }
}
