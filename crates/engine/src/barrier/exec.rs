//! `BarrierExec`: the physical barrier.
//!
//! Closed: statistics are unknown, limits stop above, no order, constant or partitioning key is known, only leakproof
//! static and dynamic filters pass, and any error from below becomes one sentence without data. Open: it is not there.

use super::leakproof;
use custody_model::{Hash, TableVersion};
use custody_policy::enforce;
use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::arrow::record_batch::RecordBatchOptions;
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{DataFusionError, Result, Statistics, internal_err};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::expressions::Column;
use datafusion::physical_expr::{EquivalenceProperties, PhysicalExpr, PhysicalSortExpr};
use datafusion::physical_plan::execution_plan::{CardinalityEffect, ChildrenPropertiesMode, ReplaceChildrenOptions};
use datafusion::physical_plan::filter_pushdown::{ChildFilterDescription, FilterDescription, FilterPushdownPhase};
use datafusion::physical_plan::projection::ProjectionExec;
use datafusion::physical_plan::sort_pushdown::SortOrderPushdownResult;
use datafusion::physical_plan::statistics::{ChildStats, StatisticsArgs};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, ExecutionPlan, ExecutionPlanProperties, Partitioning, PlanProperties,
};
use futures::StreamExt;
use std::{fmt, sync::Arc};

/// What a reader learns of an error below a closed barrier. The cause is in the server's log, under the same decision.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("query failed inside a governed table (decision {})", .decision.short())]
pub struct InsideGovernedTable {
    /// The hash of the decision.
    pub decision: Hash,
}

/// The physical barrier.
#[derive(Clone, Debug)]
pub struct BarrierExec {
    at: TableVersion,
    grant: Hash,
    open: bool,
    input: Arc<dyn ExecutionPlan>,
    schema: SchemaRef,
    properties: Arc<PlanProperties>,
}

impl BarrierExec {
    /// A barrier over `input`; `schema` has its columns, some of them nullable where the input's are not.
    pub fn try_new(
        at: TableVersion,
        grant: Hash,
        open: bool,
        schema: SchemaRef,
        input: Arc<dyn ExecutionPlan>,
    ) -> Result<Self> {
        let below = input.schema();
        let fits = schema.fields().len() == below.fields().len()
            && schema.fields().iter().zip(below.fields()).all(|(a, b)| {
                a.name() == b.name() && a.data_type() == b.data_type() && (a.is_nullable() || !b.is_nullable())
            });
        if !fits {
            return internal_err!("barrier of `{at}`: {schema} over {below}");
        }
        let schema = if open { below } else { schema };
        let properties = properties(open, &schema, &input);
        Ok(Self { at, grant, open, input, schema, properties })
    }

    /// The table version below.
    pub fn at(&self) -> &TableVersion {
        &self.at
    }

    /// The hash of the decision.
    pub fn grant(&self) -> Hash {
        self.grant
    }

    /// Whether it hides nothing.
    pub fn open(&self) -> bool {
        self.open
    }

    /// What is below.
    pub fn input(&self) -> &Arc<dyn ExecutionPlan> {
        &self.input
    }

    fn over(&self, input: Arc<dyn ExecutionPlan>) -> Result<Arc<dyn ExecutionPlan>> {
        let schema = if self.open { input.schema() } else { Arc::clone(&self.schema) };
        Ok(Arc::new(Self::try_new(self.at.clone(), self.grant, self.open, schema, input)?))
    }

    fn opaque(&self, error: DataFusionError) -> DataFusionError {
        if enforce!("exec.errors", !self.open) {
            let decision = self.grant;
            tracing::warn!(decision = %decision.short(), table = %self.at, %error, "query failed inside a governed table");
            DataFusionError::External(Box::new(InsideGovernedTable { decision }))
        } else {
            error
        }
    }
}

fn properties(open: bool, schema: &SchemaRef, input: &Arc<dyn ExecutionPlan>) -> Arc<PlanProperties> {
    if !enforce!("exec.properties", !open) {
        return Arc::clone(input.properties());
    }
    let partitions = Partitioning::UnknownPartitioning(input.output_partitioning().partition_count());
    let mut known = PlanProperties::new(
        EquivalenceProperties::new(Arc::clone(schema)),
        partitions,
        input.pipeline_behavior(),
        input.boundedness(),
    );
    known.evaluation_type = input.properties().evaluation_type;
    known.scheduling_type = input.properties().scheduling_type;
    Arc::new(known)
}

impl DisplayAs for BarrierExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BarrierExec: {} grant={}", self.at, self.grant.short())
    }
}

impl ExecutionPlan for BarrierExec {
    fn name(&self) -> &str {
        "BarrierExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn maintains_input_order(&self) -> Vec<bool> {
        // What is not known to be ordered cannot keep an order: a sort must not move below.
        vec![self.open]
    }

    /// It does no work itself, so spreading its input over more partitions gains nothing.
    fn benefits_from_input_partitioning(&self) -> Vec<bool> {
        vec![false]
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![&self.input]
    }

    fn replace_children(
        self: Arc<Self>,
        children: Vec<Arc<dyn ExecutionPlan>>,
        _: ReplaceChildrenOptions,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        match <[_; 1]>::try_from(children) {
            Ok([input]) => self.over(input),
            Err(_) => internal_err!("a barrier has one input"),
        }
    }

    fn with_new_children(self: Arc<Self>, children: Vec<Arc<dyn ExecutionPlan>>) -> Result<Arc<dyn ExecutionPlan>> {
        self.replace_children(children, ReplaceChildrenOptions::new(ChildrenPropertiesMode::Recompute))
    }

    fn apply_expressions(
        &self,
        _: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn repartitioned(&self, partitions: usize, config: &ConfigOptions) -> Result<Option<Arc<dyn ExecutionPlan>>> {
        match self.input.repartitioned(partitions, config)? {
            Some(input) => self.over(input).map(Some),
            None => Ok(None),
        }
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let below = self.input.execute(partition, context).map_err(|e| self.opaque(e))?;
        if self.open {
            return Ok(below);
        }
        let this = self.clone();
        let batches = below.map(move |batch| batch.map_err(|e| this.opaque(e)).and_then(|b| this.relabel(b)));
        Ok(Box::pin(RecordBatchStreamAdapter::new(self.schema(), batches)))
    }

    fn child_stats_requests(&self, partition: Option<usize>) -> Vec<ChildStats> {
        if enforce!("exec.statistics", !self.open) { vec![ChildStats::Skip] } else { vec![ChildStats::At(partition)] }
    }

    fn statistics_from_inputs(&self, inputs: &[Arc<Statistics>], _: &StatisticsArgs) -> Result<Arc<Statistics>> {
        match inputs {
            [below] if !enforce!("exec.statistics", !self.open) => Ok(Arc::clone(below)),
            _ => Ok(Arc::new(Statistics::new_unknown(&self.schema))),
        }
    }

    fn supports_limit_pushdown(&self) -> bool {
        !enforce!("exec.limit", !self.open)
    }

    fn cardinality_effect(&self) -> CardinalityEffect {
        CardinalityEffect::Equal
    }

    fn try_swapping_with_projection(&self, projection: &ProjectionExec) -> Result<Option<Arc<dyn ExecutionPlan>>> {
        // Only into a scan: a projection over a projection would be swapped below again and again.
        if !self.open || !self.input.children().is_empty() {
            return Ok(None);
        }
        match self.input.try_swapping_with_projection(projection)? {
            Some(input) => self.over(input).map(Some),
            None => Ok(None),
        }
    }

    fn gather_filters_for_pushdown(
        &self,
        _: FilterPushdownPhase,
        parent_filters: Vec<Arc<dyn PhysicalExpr>>,
        _: &ConfigOptions,
    ) -> Result<FilterDescription> {
        // A filter that must stay is offered as a column that no child has, and so comes back as unsupported.
        let stays: Arc<dyn PhysicalExpr> = Arc::new(Column::new("", usize::MAX));
        let offered = parent_filters.into_iter().map(|filter| {
            let passes = self.open || leakproof::physical(&filter, &self.schema);
            if enforce!("exec.filters", !passes) { Arc::clone(&stays) } else { filter }
        });
        let child = ChildFilterDescription::from_child(&offered.collect::<Vec<_>>(), &self.input)?;
        Ok(FilterDescription::new().with_child(child))
    }

    fn try_pushdown_sort(&self, order: &[PhysicalSortExpr]) -> Result<SortOrderPushdownResult<Arc<dyn ExecutionPlan>>> {
        if !self.open {
            return Ok(SortOrderPushdownResult::Unsupported);
        }
        Ok(match self.input.try_pushdown_sort(order)? {
            SortOrderPushdownResult::Exact { inner } => SortOrderPushdownResult::Exact { inner: self.over(inner)? },
            SortOrderPushdownResult::Inexact { inner } => SortOrderPushdownResult::Inexact { inner: self.over(inner)? },
            SortOrderPushdownResult::Unsupported => SortOrderPushdownResult::Unsupported,
        })
    }
}

impl BarrierExec {
    fn relabel(&self, batch: RecordBatch) -> Result<RecordBatch> {
        if batch.schema_ref() == &self.schema {
            return Ok(batch);
        }
        let rows = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
        let (_, columns, _) = batch.into_parts();
        Ok(RecordBatch::try_new_with_options(self.schema(), columns, &rows)?)
    }
}
