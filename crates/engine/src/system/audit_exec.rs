//! The physical scan of `system.access.audit`.
//!
//! Where a query wants the newest rows first, the scan gives them in that order, and a limit above it ends it: no sort runs.
//! One that orders by more than the time sorts what comes, and tells the scan, while it runs, from which time on rows
//! still matter.
//!
//! INVARIANT: only where the viewer sees every row. For anyone else one partition reads all chunks in order, so that nothing
//! depends on rows that are not shown.

use custody_system_tables::{AuditScan, Newest};
use datafusion::{
    arrow::{
        array::{RecordBatch, RecordBatchOptions},
        compute::BatchCoalescer,
    },
    common::{DataFusionError, Result, ScalarValue, internal_err, tree_node::TreeNodeRecursion},
    config::ConfigOptions,
    execution::{SendableRecordBatchStream, TaskContext},
    logical_expr::Operator,
    physical_expr::{EquivalenceProperties, PhysicalExpr, PhysicalSortExpr, expressions as physical},
    physical_plan::{
        DisplayAs, DisplayFormatType, ExecutionPlan, Partitioning, PlanProperties,
        execution_plan::{Boundedness, EmissionType, SchedulingType, apply_expression_roots},
        filter_pushdown::{ChildPushdownResult, FilterPushdownPhase, FilterPushdownPropagation, PushedDown},
        sort_pushdown::SortOrderPushdownResult,
        stream::RecordBatchStreamAdapter,
    },
};
use std::{fmt, ops::RangeInclusive, sync::Arc};

const ALL_TIMES: RangeInclusive<i64> = i64::MIN..=i64::MAX;

/// Some columns of the viewer's rows that satisfy the statement's comparisons.
#[derive(Clone, Debug)]
pub(super) struct AuditExec {
    scan: AuditScan,
    partitions: usize,
    limit: Option<usize>,
    /// The newest rows first.
    newest: bool,
    /// What rows must satisfy as far as is known while the query runs; rows that do not may come all the same.
    running: Vec<Arc<dyn PhysicalExpr>>,
    properties: Arc<PlanProperties>,
}

impl AuditExec {
    pub(super) fn new(scan: AuditScan, partitions: usize, limit: Option<usize>) -> Self {
        let partitions = if scan.sees_all() { partitions.max(1) } else { 1 };
        let properties = PlanProperties::new(
            EquivalenceProperties::new(Arc::clone(scan.schema())),
            Partitioning::UnknownPartitioning(partitions),
            EmissionType::Incremental,
            Boundedness::Bounded,
        )
        .with_scheduling_type(SchedulingType::Cooperative);
        Self { scan, partitions, limit, newest: false, running: vec![], properties: Arc::new(properties) }
    }

    /// The chunks of a partition.
    fn chunks(&self, partition: usize) -> Vec<usize> {
        let chunks: Vec<usize> = (0..self.scan.chunks()).collect();
        let size = chunks.len().div_ceil(self.partitions).max(1);
        chunks.chunks(size).nth(partition).map(<[_]>::to_vec).unwrap_or_default()
    }
}

impl DisplayAs for AuditExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> = self.scan.schema().fields().iter().map(|field| field.name().as_str()).collect();
        write!(f, "AuditExec: columns=[{}]", names.join(", "))?;
        if self.newest {
            write!(f, ", newest first")?;
        }
        self.limit.map_or(Ok(()), |limit| write!(f, ", limit={limit}"))
    }
}

impl ExecutionPlan for AuditExec {
    fn name(&self) -> &str {
        "AuditExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![]
    }

    fn apply_expressions(
        &self,
        f: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        apply_expression_roots(&self.running, f)
    }

    fn with_new_children(self: Arc<Self>, children: Vec<Arc<dyn ExecutionPlan>>) -> Result<Arc<dyn ExecutionPlan>> {
        if children.is_empty() { Ok(self) } else { internal_err!("a scan of the audit has no input") }
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let rows = context.session_config().batch_size().max(1);
        let schema = Arc::clone(self.scan.schema());
        if self.newest {
            let newest = Newest::new(self.scan.clone(), self.chunks(partition), rows);
            let (state, mut left) = ((newest, self.running.clone()), self.limit.unwrap_or(usize::MAX));
            let batches = futures::stream::try_unfold(state, move |(mut newest, running)| {
                let next = newest.next(|| running.iter().map(times).fold(ALL_TIMES, and));
                let next = next.map_err(|e| DataFusionError::External(e.into()));
                let next = next
                    .map(|batch| batch.filter(|_| left > 0).map(|batch| batch.slice(0, batch.num_rows().min(left))));
                left -= next.as_ref().map_or(0, |batch| batch.as_ref().map_or(0, RecordBatch::num_rows));
                std::future::ready(next.map(|batch| batch.map(|batch| (batch, (newest, running)))))
            });
            return Ok(Box::pin(RecordBatchStreamAdapter::new(schema, batches)));
        }
        let state = Cut {
            scan: self.scan.clone(),
            chunks: self.chunks(partition).into_iter(),
            running: self.running.clone(),
            buffer: BatchCoalescer::new(Arc::clone(&schema), rows),
            bare: 0,
            rows,
            left: self.limit.unwrap_or(usize::MAX),
            ended: false,
        };
        let batches =
            futures::stream::try_unfold(state, |mut state| async move { Ok(state.next()?.map(|b| (b, state))) });
        Ok(Box::pin(RecordBatchStreamAdapter::new(schema, batches)))
    }

    fn handle_child_pushdown_result(
        &self,
        _: FilterPushdownPhase,
        above: ChildPushdownResult,
        _: &ConfigOptions,
    ) -> Result<FilterPushdownPropagation<Arc<dyn ExecutionPlan>>> {
        let running: Vec<_> = above
            .parent_filters
            .iter()
            .map(|parent| &parent.filter)
            .filter(|filter| self.scan.sees_all() && filter.is::<physical::DynamicFilterPhysicalExpr>())
            .cloned()
            .collect();
        // None is answered for: whoever made them applies them.
        let answers = above.parent_filters.iter().map(|_| PushedDown::No).collect();
        let answer = FilterPushdownPropagation::with_parent_pushdown_result(answers);
        if running.is_empty() {
            return Ok(answer);
        }
        let running = self.running.iter().cloned().chain(running).collect();
        Ok(answer.with_updated_node(Arc::new(Self { running, ..self.clone() })))
    }

    fn try_pushdown_sort(&self, order: &[PhysicalSortExpr]) -> Result<SortOrderPushdownResult<Arc<dyn ExecutionPlan>>> {
        let Some(first) = order.first().filter(|by| by.options.descending) else {
            return Ok(SortOrderPushdownResult::Unsupported);
        };
        if !self.scan.sees_all() || !first.expr.downcast_ref().is_some_and(is_time) {
            return Ok(SortOrderPushdownResult::Unsupported);
        }
        let known = EquivalenceProperties::new_with_orderings(Arc::clone(self.scan.schema()), [[first.clone()]]);
        // One partition: a limit above it is one of all rows.
        let properties = PlanProperties::clone(&self.properties)
            .with_eq_properties(known)
            .with_partitioning(Partitioning::UnknownPartitioning(1));
        let inner = Arc::new(Self { newest: true, partitions: 1, properties: Arc::new(properties), ..self.clone() });
        Ok(match order {
            [_] => SortOrderPushdownResult::Exact { inner },
            _ => SortOrderPushdownResult::Inexact { inner },
        })
    }
}

/// Rows in batches of the session's size.
struct Cut {
    scan: AuditScan,
    chunks: std::vec::IntoIter<usize>,
    running: Vec<Arc<dyn PhysicalExpr>>,
    buffer: BatchCoalescer,
    /// Rows without columns that have not left yet.
    bare: usize,
    rows: usize,
    left: usize,
    ended: bool,
}

impl Cut {
    fn next(&mut self) -> Result<Option<RecordBatch>> {
        while self.left > 0 {
            if let Some(batch) = self.buffer.next_completed_batch() {
                return Ok(Some(self.within_limit(batch)));
            }
            if self.bare >= self.rows || (self.ended && self.bare > 0) {
                let rows = self.bare.min(self.rows);
                self.bare -= rows;
                let options = RecordBatchOptions::new().with_row_count(Some(rows));
                let batch = RecordBatch::try_new_with_options(Arc::clone(self.scan.schema()), vec![], &options)?;
                return Ok(Some(self.within_limit(batch)));
            }
            if self.ended {
                return Ok(None);
            }
            let Some(chunk) = self.chunks.next() else {
                self.ended = true;
                self.buffer.finish_buffered_batch()?;
                continue;
            };
            let times = self.running.iter().map(times).fold(ALL_TIMES, and);
            match self.scan.batch(chunk, &times).map_err(|e| DataFusionError::External(e.into()))? {
                None => {}
                Some(batch) if batch.num_columns() == 0 => self.bare += batch.num_rows(),
                Some(batch) => self.buffer.push_batch(batch)?,
            }
            let buffered = self.buffer.get_buffered_rows() + self.bare;
            if buffered >= self.left {
                self.ended = true;
                self.buffer.finish_buffered_batch()?;
            }
        }
        Ok(None)
    }

    fn within_limit(&mut self, batch: RecordBatch) -> RecordBatch {
        let batch = if batch.num_rows() > self.left { batch.slice(0, self.left) } else { batch };
        self.left -= batch.num_rows();
        batch
    }
}

fn is_time(column: &physical::Column) -> bool {
    column.name() == "event_time"
}

/// Times outside of which no row satisfies a condition.
fn times(condition: &Arc<dyn PhysicalExpr>) -> RangeInclusive<i64> {
    if let Some(dynamic) = condition.downcast_ref::<physical::DynamicFilterPhysicalExpr>() {
        return dynamic.current().map_or(ALL_TIMES, |current| times(&current));
    }
    if let Some(null) = condition.downcast_ref::<physical::IsNullExpr>() {
        // The time of an entry is never NULL.
        return if null.arg().downcast_ref().is_some_and(is_time) { RangeInclusive::new(1, 0) } else { ALL_TIMES };
    }
    let Some(binary) = condition.downcast_ref::<physical::BinaryExpr>() else { return ALL_TIMES };
    match binary.op() {
        Operator::And => return and(times(binary.left()), times(binary.right())),
        Operator::Or => return or(times(binary.left()), times(binary.right())),
        _ => {}
    }
    let literal = binary.right().downcast_ref::<physical::Literal>().map(physical::Literal::value);
    let Some(ScalarValue::TimestampMicrosecond(Some(at), _)) = literal else { return ALL_TIMES };
    if !binary.left().downcast_ref().is_some_and(is_time) {
        return ALL_TIMES;
    }
    match binary.op() {
        Operator::Gt | Operator::GtEq => *at..=i64::MAX,
        Operator::Lt | Operator::LtEq => i64::MIN..=*at,
        Operator::Eq => *at..=*at,
        _ => ALL_TIMES,
    }
}

fn and(a: RangeInclusive<i64>, b: RangeInclusive<i64>) -> RangeInclusive<i64> {
    *a.start().max(b.start())..=*a.end().min(b.end())
}

fn or(a: RangeInclusive<i64>, b: RangeInclusive<i64>) -> RangeInclusive<i64> {
    match (a.is_empty(), b.is_empty()) {
        (true, _) => b,
        (_, true) => a,
        (false, false) => *a.start().min(b.start())..=*a.end().max(b.end()),
    }
}
