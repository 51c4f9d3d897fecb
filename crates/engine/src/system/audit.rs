//! `system.access.audit` as a table that answers filters itself.
//!
//! What holds here: the scan shows the viewer's rows and no others before any filter is looked at. A filter is taken where
//! it is a comparison of columns with literals that no row can make fail, and then answered exactly; all others stay
//! above. What leaves a partition, and where its batches end, depends on rows that the viewer may see.

use async_trait::async_trait;
use custody_system_tables::{AuditColumn, AuditScan, Condition};
use datafusion::{
    arrow::{array::RecordBatch, compute::BatchCoalescer, datatypes::SchemaRef},
    catalog::{Session, TableProvider},
    common::{DataFusionError, Result, ScalarValue},
    execution::{SendableRecordBatchStream, TaskContext},
    logical_expr::{BinaryExpr, Expr, Operator, TableProviderFilterPushDown, TableType, expr::InList},
    physical_plan::{
        ExecutionPlan,
        stream::RecordBatchStreamAdapter,
        streaming::{PartitionStream, StreamingTableExec},
    },
};
use std::{collections::BTreeSet, ops::Range, sync::Arc};

/// The table for one viewer at one position.
#[derive(Debug)]
pub(super) struct AuditTable(AuditScan);

impl AuditTable {
    pub(super) fn new(scan: AuditScan) -> Self {
        Self(scan)
    }
}

#[async_trait]
impl TableProvider for AuditTable {
    fn schema(&self) -> SchemaRef {
        Arc::clone(self.0.schema())
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    fn supports_filters_pushdown(&self, filters: &[&Expr]) -> Result<Vec<TableProviderFilterPushDown>> {
        let answer = |filter: &&Expr| match condition(filter) {
            Some(_) => TableProviderFilterPushDown::Exact,
            None => TableProviderFilterPushDown::Unsupported,
        };
        Ok(filters.iter().map(answer).collect())
    }

    async fn scan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let mut scan = self.0.clone();
        let conditions = filters.iter().map(|filter| {
            condition(filter).ok_or_else(|| DataFusionError::Internal(format!("not a filter of this table: {filter}")))
        });
        let conditions = conditions.collect::<Result<Vec<_>>>()?;
        if !conditions.is_empty() {
            scan = scan.filter(&Condition::All(conditions));
        }
        if let Some(columns) = projection {
            scan = scan.project(columns).map_err(|e| DataFusionError::External(e.into()))?;
        }
        let schema = Arc::clone(scan.schema());
        // Where a viewer does not see all, how rows fall into several partitions would tell of the others.
        let partitions = if scan.sees_all() { state.config().target_partitions().max(1) } else { 1 };
        let size = scan.chunks().div_ceil(partitions).max(1);
        let part = |n: usize| -> Arc<dyn PartitionStream> {
            Arc::new(Part { scan: scan.clone(), chunks: n * size..((n + 1) * size).min(scan.chunks()) })
        };
        let parts = (0..partitions).map(part).collect();
        Ok(Arc::new(StreamingTableExec::try_new(schema, parts, None, [], false, limit)?))
    }
}

/// Some chunks of a scan.
#[derive(Debug)]
struct Part {
    scan: AuditScan,
    chunks: Range<usize>,
}

impl PartitionStream for Part {
    fn schema(&self) -> &SchemaRef {
        self.scan.schema()
    }

    fn execute(&self, context: Arc<TaskContext>) -> SendableRecordBatchStream {
        let rows = context.session_config().batch_size();
        let buffer = BatchCoalescer::new(Arc::clone(self.scan.schema()), rows);
        let state = Cut { scan: self.scan.clone(), chunks: self.chunks.clone(), buffer, bare: 0, rows, ended: false };
        let stream =
            futures::stream::try_unfold(state, |mut state| async move { Ok(state.next()?.map(|b| (b, state))) });
        Box::pin(RecordBatchStreamAdapter::new(Arc::clone(self.scan.schema()), stream))
    }
}

/// Rows in batches of the session's size.
struct Cut {
    scan: AuditScan,
    chunks: Range<usize>,
    buffer: BatchCoalescer,
    /// Rows without columns that have not left yet.
    bare: usize,
    rows: usize,
    ended: bool,
}

impl Cut {
    fn next(&mut self) -> Result<Option<RecordBatch>> {
        loop {
            if let Some(batch) = self.buffer.next_completed_batch() {
                return Ok(Some(batch));
            }
            if self.bare >= self.rows || (self.ended && self.bare > 0) {
                let rows = self.bare.min(self.rows);
                self.bare -= rows;
                let options = datafusion::arrow::array::RecordBatchOptions::new().with_row_count(Some(rows));
                let schema = Arc::clone(self.scan.schema());
                return Ok(Some(RecordBatch::try_new_with_options(schema, vec![], &options)?));
            }
            if self.ended {
                return Ok(None);
            }
            match self.chunks.next() {
                None => {
                    self.ended = true;
                    self.buffer.finish_buffered_batch()?;
                }
                Some(chunk) => {
                    let batch = self.scan.batch(chunk).map_err(|e| DataFusionError::External(e.into()))?;
                    match batch {
                        None => {}
                        Some(batch) if batch.num_columns() == 0 => self.bare += batch.num_rows(),
                        Some(batch) => self.buffer.push_batch(batch)?,
                    }
                }
            }
        }
    }
}

/// What the scan can answer itself.
fn condition(filter: &Expr) -> Option<Condition> {
    match filter {
        Expr::BinaryExpr(BinaryExpr { left, op: Operator::And, right }) => {
            Some(Condition::All(vec![condition(left)?, condition(right)?]))
        }
        Expr::BinaryExpr(BinaryExpr { left, op: Operator::Or, right }) => {
            Some(Condition::Any(vec![condition(left)?, condition(right)?]))
        }
        Expr::BinaryExpr(BinaryExpr { left, op, right }) => match (left.as_ref(), right.as_ref()) {
            (Expr::Column(column), Expr::Literal(value, _)) => comparison(&column.name, *op, value),
            (Expr::Literal(value, _), Expr::Column(column)) => comparison(&column.name, op.swap()?, value),
            _ => None,
        },
        Expr::InList(InList { expr, list, negated }) => {
            let Expr::Column(column) = expr.as_ref() else { return None };
            let texts: Option<BTreeSet<String>> = list.iter().map(|e| text(literal(e)?)).collect();
            one_of(&column.name, texts?, *negated)
        }
        Expr::IsNull(inner) => match inner.as_ref() {
            Expr::Column(column) => Some(Condition::Null(AuditColumn::named(&column.name)?)),
            _ => None,
        },
        Expr::IsNotNull(inner) => match inner.as_ref() {
            Expr::Column(column) => Some(Condition::IsNot(AuditColumn::named(&column.name)?, BTreeSet::new())),
            _ => None,
        },
        _ => None,
    }
}

fn literal(e: &Expr) -> Option<&ScalarValue> {
    match e {
        Expr::Literal(value, _) => Some(value),
        _ => None,
    }
}

fn text(value: &ScalarValue) -> Option<String> {
    value.try_as_str().flatten().map(str::to_owned)
}

fn comparison(column: &str, op: Operator, value: &ScalarValue) -> Option<Condition> {
    if column == "event_time" {
        let ScalarValue::TimestampMicrosecond(Some(at), _) = value else { return None };
        let nothing = Condition::Any(vec![]);
        return Some(match op {
            Operator::Eq => Condition::Time(*at..=*at),
            Operator::GtEq => Condition::Time(*at..=i64::MAX),
            Operator::LtEq => Condition::Time(i64::MIN..=*at),
            Operator::Gt => at.checked_add(1).map_or(nothing, |at| Condition::Time(at..=i64::MAX)),
            Operator::Lt => at.checked_sub(1).map_or(nothing, |at| Condition::Time(i64::MIN..=at)),
            _ => return None,
        });
    }
    match op {
        Operator::Eq => one_of(column, BTreeSet::from([text(value)?]), false),
        Operator::NotEq => one_of(column, BTreeSet::from([text(value)?]), true),
        _ => None,
    }
}

fn one_of(column: &str, values: BTreeSet<String>, negated: bool) -> Option<Condition> {
    if column == "entry_id" && !negated {
        // Ids stand in the table in one form; a text in another is equal to none of them.
        let canonical = |text: &String| {
            let id = uuid::Uuid::try_parse(text).ok()?;
            (id.hyphenated().to_string() == *text).then(|| id.as_u128())
        };
        return Some(Condition::Entry(values.iter().filter_map(canonical).collect()));
    }
    let column = AuditColumn::named(column)?;
    Some(if negated { Condition::IsNot(column, values) } else { Condition::Is(column, values) })
}
