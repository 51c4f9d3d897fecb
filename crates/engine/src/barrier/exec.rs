//! `BarrierExec`: the physical barrier.
//!
//! Closed: statistics are those of what is visible (`visible`) or unknown, limits stop above, no order, constant or partitioning key is known, only leakproof
//! static and dynamic filters pass, and any error from below becomes one sentence without data. Open: it is not there.
//!
//! A scan uses filters by row group, and hidden rows decide what a group holds; whether a predicate above fails would then
//! tell about them. So what passes is applied again to each row, and batches are cut anew: what comes out of a partition,
//! and where its batches end, depends on its visible rows alone.

use super::leakproof;
use custody_model::{Hash, TableVersion};
use custody_policy::enforce;
use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::compute::BatchCoalescer;
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::arrow::record_batch::RecordBatchOptions;
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{DataFusionError, Result, Statistics, internal_err};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::expressions::Column;
use datafusion::physical_expr::{EquivalenceProperties, PhysicalExpr, PhysicalSortExpr};
use datafusion::physical_plan::execution_plan::{
    CardinalityEffect, ChildrenPropertiesMode, ReplaceChildrenOptions, apply_expression_roots,
};
use datafusion::physical_plan::filter::batch_filter;
use datafusion::physical_plan::filter_pushdown::{
    ChildFilterDescription, ChildPushdownResult, FilterDescription, FilterPushdownPhase, FilterPushdownPropagation,
    PushedDown,
};
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
    sealed: bool,
    input: Arc<dyn ExecutionPlan>,
    schema: SchemaRef,
    properties: Arc<PlanProperties>,
    /// Filters from above that were passed on, over `schema`.
    filters: Vec<Arc<dyn PhysicalExpr>>,
    /// Of what is visible.
    statistics: Option<Arc<Statistics>>,
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
        Ok(Self { at, grant, open, sealed: false, input, schema, properties, filters: vec![], statistics: None })
    }

    /// Over the text of a plain view: not even a leakproof filter passes.
    pub(super) fn sealed_over(self) -> Self {
        Self { sealed: true, ..self }
    }

    /// With statistics of what is visible, column for column of its schema.
    pub(super) fn showing(self, statistics: Option<Arc<Statistics>>) -> Self {
        Self { statistics, ..self }
    }

    /// Whether it stands over the text of a plain view, below which other barriers stand.
    pub(super) fn sealed(&self) -> bool {
        self.sealed
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

    /// Filters from above that also run below.
    pub(super) fn filters(&self) -> &[Arc<dyn PhysicalExpr>] {
        &self.filters
    }

    fn over(&self, input: Arc<dyn ExecutionPlan>) -> Result<Arc<dyn ExecutionPlan>> {
        let schema = if self.open { input.schema() } else { Arc::clone(&self.schema) };
        let over = Self::try_new(self.at.clone(), self.grant, self.open, schema, input)?;
        let statistics = self.statistics.clone().filter(|s| s.column_statistics.len() == over.schema.fields().len());
        Ok(Arc::new(Self { filters: self.filters.clone(), sealed: self.sealed, statistics, ..over }))
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
        write!(f, "BarrierExec: {} grant={}", self.at, self.grant.short())?;
        match self.filters.as_slice() {
            [] => Ok(()),
            [first, others @ ..] => {
                write!(f, ", filter={first}")?;
                others.iter().try_for_each(|filter| write!(f, " AND {filter}"))
            }
        }
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
        vec![!enforce!("exec.order", !self.open)]
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
        f: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        apply_expression_roots(&self.filters, f)
    }

    fn repartitioned(&self, partitions: usize, config: &ConfigOptions) -> Result<Option<Arc<dyn ExecutionPlan>>> {
        match self.input.repartitioned(partitions, config)? {
            Some(input) => self.over(input).map(Some),
            None => Ok(None),
        }
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let rows = context.session_config().batch_size();
        let below = self.input.execute(partition, context).map_err(|e| self.opaque(e))?;
        if self.open {
            return Ok(below);
        }
        let buffer = BatchCoalescer::new(self.schema(), rows);
        let cut = Cut { barrier: self.clone(), below, buffer, size: rows.max(1), bare: 0, ended: false };
        let batches = futures::stream::try_unfold(cut, Cut::next);
        Ok(Box::pin(RecordBatchStreamAdapter::new(self.schema(), batches)))
    }

    fn child_stats_requests(&self, partition: Option<usize>) -> Vec<ChildStats> {
        if enforce!("exec.statistics", !self.open) { vec![ChildStats::Skip] } else { vec![ChildStats::At(partition)] }
    }

    fn statistics_from_inputs(&self, inputs: &[Arc<Statistics>], of: &StatisticsArgs) -> Result<Arc<Statistics>> {
        match inputs {
            [below] if !enforce!("exec.statistics", !self.open) => Ok(Arc::clone(below)),
            _ => Ok(match self.statistics.as_ref().filter(|_| of.partition().is_none()) {
                Some(visible) => Arc::clone(visible),
                None => Arc::new(Statistics::new_unknown(&self.schema)),
            }),
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
        let offered =
            parent_filters.into_iter().map(|filter| if self.passes(&filter) { filter } else { Arc::clone(&stays) });
        let child = ChildFilterDescription::from_child(&offered.collect::<Vec<_>>(), &self.input)?;
        Ok(FilterDescription::new().with_child(child))
    }

    fn handle_child_pushdown_result(
        &self,
        _: FilterPushdownPhase,
        below: ChildPushdownResult,
        _: &ConfigOptions,
    ) -> Result<FilterPushdownPropagation<Arc<dyn ExecutionPlan>>> {
        if self.open {
            return Ok(FilterPushdownPropagation::if_all(below));
        }
        let mut this = self.clone();
        let mut answers = vec![];
        for parent in below.parent_filters {
            let passed = self.passes(&parent.filter);
            answers.push(if passed { PushedDown::Yes } else { PushedDown::No });
            if passed {
                this.filters.push(parent.filter);
            }
        }
        let changed = this.filters.len() > self.filters.len();
        let answer = FilterPushdownPropagation::with_parent_pushdown_result(answers);
        Ok(if changed { answer.with_updated_node(Arc::new(this)) } else { answer })
    }

    fn try_pushdown_sort(&self, order: &[PhysicalSortExpr]) -> Result<SortOrderPushdownResult<Arc<dyn ExecutionPlan>>> {
        if enforce!("exec.order", !self.open) {
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
    fn passes(&self, filter: &Arc<dyn PhysicalExpr>) -> bool {
        !enforce!("view.filters", self.sealed)
            && !enforce!("exec.filters", !self.open && !leakproof::physical(filter, &self.schema))
    }

    fn relabel(&self, batch: RecordBatch) -> Result<RecordBatch> {
        if batch.schema_ref() == &self.schema {
            return Ok(batch);
        }
        let rows = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
        let (_, columns, _) = batch.into_parts();
        Ok(RecordBatch::try_new_with_options(self.schema(), columns, &rows)?)
    }
}

/// A partition's visible rows in batches of the session's size.
struct Cut {
    barrier: BarrierExec,
    below: SendableRecordBatchStream,
    buffer: BatchCoalescer,
    size: usize,
    /// Rows without columns that have not left yet.
    bare: usize,
    ended: bool,
}

impl Cut {
    async fn next(mut self) -> Result<Option<(RecordBatch, Self)>> {
        loop {
            if let Some(batch) = self.buffer.next_completed_batch() {
                return Ok(Some((batch, self)));
            }
            if self.bare >= self.size || (self.ended && self.bare > 0) {
                let rows = self.bare.min(self.size);
                self.bare -= rows;
                let options = RecordBatchOptions::new().with_row_count(Some(rows));
                let batch = RecordBatch::try_new_with_options(self.barrier.schema(), vec![], &options)?;
                return Ok(Some((batch, self)));
            }
            if self.ended {
                return Ok(None);
            }
            match self.below.next().await.transpose().map_err(|e| self.barrier.opaque(e))? {
                None => {
                    self.ended = true;
                    self.buffer.finish_buffered_batch()?;
                }
                Some(batch) => {
                    let mut batch = self.barrier.relabel(batch)?;
                    for filter in &self.barrier.filters {
                        batch = batch_filter(&batch, filter)?;
                    }
                    if batch.num_columns() == 0 && enforce!("exec.batches", true) {
                        // Nothing to evaluate and nothing to gather, but to count.
                        self.bare += batch.num_rows();
                        continue;
                    }
                    if enforce!("exec.batches", batch.num_rows() > 0) {
                        self.buffer.push_batch(batch)?;
                    } else if batch.num_rows() > 0 {
                        return Ok(Some((batch, self)));
                    }
                }
            }
        }
    }
}
