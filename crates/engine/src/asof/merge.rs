//! One partition: a pass over left and right rows in the order of key and time.
//!
//! INVARIANT: each left row comes out once, in its order. Of the right side are held the batch that is being read, the
//! best row so far of its key, and the batches that rows not yet given out have matched, [`HELD`] at most.

use super::{ORDER, Spec};
use custody_model::Problem;
use datafusion::{
    arrow::{
        array::{
            Array, ArrayRef, AsArray, Int64Array, IntervalMonthDayNanoArray, RecordBatch, UInt32Array, new_null_array,
        },
        buffer::NullBuffer,
        compute::{cast, interleave, kernels::numeric::sub, take},
        datatypes::{DataType, Int64Type, SchemaRef},
        record_batch::RecordBatchOptions,
        row::{RowConverter, Rows, SortField},
    },
    common::{DataFusionError, Result, internal_err},
    execution::SendableRecordBatchStream,
    physical_expr::PhysicalExpr,
    physical_plan::{
        metrics::{BaselineMetrics, RecordOutput},
        stream::RecordBatchStreamAdapter,
    },
};
use futures::StreamExt;
use std::{cmp::Ordering, sync::Arc};

/// Right batches that a batch of output may draw on.
const HELD: usize = 64;

/// Several right rows are equally new.
pub(crate) fn tie() -> DataFusionError {
    let problem = Problem::new(1140, "an ASOF match is not unique: two rows of the right side share key and time")
        .help("leave one row for each key and time: GROUP BY them, or QUALIFY row_number() OVER (PARTITION BY key, time ORDER BY …) = 1");
    DataFusionError::External(Box::new(problem))
}

/// The joined rows of a partition.
pub(super) fn stream(
    left: SendableRecordBatchStream,
    right: SendableRecordBatchStream,
    spec: Arc<Spec>,
    schema: SchemaRef,
    measured: BaselineMetrics,
) -> Result<SendableRecordBatchStream> {
    let empty = RecordBatch::new_empty(right.schema());
    let merge = Merge {
        sides: Sides::new(Arc::clone(&spec), &left.schema())?,
        current: None,
        best: None,
        held: Held::new(&empty),
        left,
        at: None,
        right: Some(right),
        spec,
        schema: Arc::clone(&schema),
        measured,
    };
    Ok(Box::pin(RecordBatchStreamAdapter::new(schema, futures::stream::try_unfold(merge, Merge::next))))
}

/// A batch with what of it decides. A row without a key or time is not `valid` and matches nothing.
pub(super) struct Side {
    pub(super) batch: RecordBatch,
    pub(super) keys: Rows,
    pub(super) time: Int64Array,
    valid: Option<NullBuffer>,
}

impl Side {
    pub(super) fn valid(&self, row: usize) -> bool {
        self.valid.as_ref().is_none_or(|v| v.is_valid(row))
    }
}

struct LeftBatch {
    side: Side,
    /// The event must lie after this.
    floor: Option<Int64Array>,
    row: usize,
    /// The first row not given out yet.
    from: usize,
}

pub(super) struct RightBatch {
    pub(super) side: Side,
    rank: Option<(Int64Array, Int64Array)>,
}

impl RightBatch {
    /// Event, then known time; without known times the time itself.
    pub(super) fn rank(&self, row: usize) -> (i64, i64) {
        match &self.rank {
            Some((event, known)) => (event.value(row), known.value(row)),
            None => (self.side.time.value(row), 0),
        }
    }
}

/// Evaluates what decides over batches of either side.
pub(super) struct Sides {
    keys: RowConverter,
    pub(super) spec: Arc<Spec>,
}

impl Sides {
    pub(super) fn new(spec: Arc<Spec>, left: &SchemaRef) -> Result<Self> {
        let types = spec.on.iter().map(|(l, _)| Ok(SortField::new_with_options(l.data_type(left)?, ORDER)));
        let keys = RowConverter::new(types.collect::<Result<Vec<_>>>()?)?;
        Ok(Self { keys, spec })
    }

    fn side(&self, batch: RecordBatch, left: bool) -> Result<(Side, ArrayRef)> {
        let of = |expr: &Arc<dyn PhysicalExpr>| expr.evaluate(&batch)?.into_array(batch.num_rows());
        let keys: Vec<ArrayRef> =
            self.spec.on.iter().map(|(l, r)| of(if left { l } else { r })).collect::<Result<_>>()?;
        let time = of(if left { &self.spec.left_time } else { &self.spec.right_time })?;
        let mut valid = time.logical_nulls();
        for key in &keys {
            valid = NullBuffer::union(valid.as_ref(), key.logical_nulls().as_ref());
        }
        let rows = self.keys.convert_columns(&keys)?;
        let number = number(&time)?;
        Ok((Side { batch, keys: rows, time: number, valid }, time))
    }

    /// With the time that an event must lie after to match.
    pub(super) fn left(&self, batch: RecordBatch) -> Result<(Side, Option<Int64Array>)> {
        let (side, time) = self.side(batch, true)?;
        let floor = match self.spec.ttl {
            Some(ttl) => Some(number(&sub(&time, &IntervalMonthDayNanoArray::new_scalar(ttl))?)?),
            None => None,
        };
        Ok((side, floor))
    }

    pub(super) fn right(&self, batch: RecordBatch) -> Result<RightBatch> {
        let (mut side, _) = self.side(batch, false)?;
        let Some((event, known)) = &self.spec.rank else { return Ok(RightBatch { side, rank: None }) };
        let of = |expr: &Arc<dyn PhysicalExpr>| number(&expr.evaluate(&side.batch)?.into_array(side.batch.num_rows())?);
        let (event, known) = (of(event)?, of(known)?);
        for nulls in [event.nulls(), known.nulls()] {
            side.valid = NullBuffer::union(side.valid.as_ref(), nulls);
        }
        Ok(RightBatch { side, rank: Some((event, known)) })
    }
}

struct Best {
    of: Arc<RightBatch>,
    row: usize,
    rank: (i64, i64),
    /// Whether another row has the same rank.
    tied: bool,
}

/// What the rows not yet given out have matched: batches, and for each row the batch and row in it. Batch 0 is one row
/// of NULLs.
struct Held {
    batches: Vec<Arc<RightBatch>>,
    nulls: Vec<ArrayRef>,
    rows: Vec<(usize, usize)>,
}

impl Held {
    fn new(empty: &RecordBatch) -> Self {
        let nulls = empty.columns().iter().map(|c| new_null_array(c.data_type(), 1)).collect();
        Self { batches: vec![], nulls, rows: vec![] }
    }

    fn push(&mut self, best: Option<&Best>) {
        let Some(best) = best else { return self.rows.push((0, 0)) };
        if self.batches.last().is_none_or(|last| !Arc::ptr_eq(last, &best.of)) {
            self.batches.push(Arc::clone(&best.of));
        }
        self.rows.push((self.batches.len(), best.row));
    }

    /// The right columns of the rows held, which are then let go.
    fn columns(&mut self) -> Result<Vec<ArrayRef>> {
        let columns = match self.batches.as_slice() {
            [] => self.nulls.iter().map(|c| Ok(new_null_array(c.data_type(), self.rows.len()))).collect(),
            [one] => {
                let rows = self.rows.iter().map(|(batch, row)| (*batch > 0).then_some(*row as u32));
                let rows = UInt32Array::from_iter(rows);
                one.side.batch.columns().iter().map(|c| Ok(take(c, &rows, None)?)).collect()
            }
            many => (0..self.nulls.len())
                .map(|i| {
                    let first = std::iter::once(self.nulls[i].as_ref());
                    let all: Vec<&dyn Array> =
                        first.chain(many.iter().map(|b| b.side.batch.column(i).as_ref())).collect();
                    Ok(interleave(&all, &self.rows)?)
                })
                .collect::<Result<Vec<_>>>(),
        };
        self.rows.clear();
        self.batches.clear();
        columns
    }
}

struct Merge {
    left: SendableRecordBatchStream,
    at: Option<LeftBatch>,
    right: Option<SendableRecordBatchStream>,
    current: Option<(Arc<RightBatch>, usize)>,
    best: Option<Best>,
    held: Held,
    sides: Sides,
    spec: Arc<Spec>,
    schema: SchemaRef,
    measured: BaselineMetrics,
}

impl Merge {
    async fn next(mut self) -> Result<Option<(RecordBatch, Self)>> {
        loop {
            if self.at.is_none() {
                match self.left.next().await.transpose()? {
                    None => {
                        self.right = None;
                        return Ok(None);
                    }
                    Some(batch) if batch.num_rows() == 0 => continue,
                    Some(batch) => {
                        let (side, floor) = self.sides.left(batch)?;
                        self.at = Some(LeftBatch { side, floor, row: 0, from: 0 });
                    }
                }
            }
            match self.advance()? {
                Step::Output(batch) => return Ok(Some((batch.record_output(&self.measured), self))),
                Step::NeedsRight => self.fetch().await?,
            }
        }
    }

    /// The next right batch; none once they have ended.
    async fn fetch(&mut self) -> Result<()> {
        self.current = None;
        while let Some(right) = &mut self.right {
            match right.next().await.transpose()? {
                None => self.right = None,
                Some(batch) if batch.num_rows() == 0 => {}
                Some(batch) => {
                    self.current = Some((Arc::new(self.sides.right(batch)?), 0));
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// Matches left rows until there is something to give out, or the right batch is read to its end.
    fn advance(&mut self) -> Result<Step> {
        let timer = self.measured.elapsed_compute().clone();
        let _timer = timer.timer();
        let Some(left) = &mut self.at else { return internal_err!("no left batch") };
        while left.row < left.side.batch.num_rows() {
            if !left.side.valid(left.row) {
                self.held.push(None);
                left.row += 1;
                continue;
            }
            let key = left.side.keys.row(left.row);
            let time = left.side.time.value(left.row);
            loop {
                let Some((right, row)) = &mut self.current else {
                    if self.right.is_some() {
                        return Ok(Step::NeedsRight);
                    }
                    break;
                };
                if *row == right.side.batch.num_rows() {
                    if self.right.is_some() {
                        return Ok(Step::NeedsRight);
                    }
                    self.current = None;
                    break;
                }
                let right_time = right.side.time.value(*row);
                let valid = right.side.valid(*row);
                match right.side.keys.row(*row).cmp(&key) {
                    Ordering::Less => {}
                    Ordering::Equal if !valid => {}
                    Ordering::Equal if right_time < time || (right_time == time && !self.spec.strict) => {
                        offer(&mut self.best, right, *row);
                    }
                    Ordering::Equal | Ordering::Greater => break,
                }
                *row += 1;
            }
            let best = self.best.as_ref().filter(|b| b.of.side.keys.row(b.row) == key);
            let fresh = |b: &&Best| left.floor.as_ref().is_none_or(|f| b.rank.0 > f.value(left.row));
            let best = best.filter(fresh);
            if best.is_some_and(|b| b.tied) {
                return Err(tie());
            }
            self.held.push(best);
            left.row += 1;
            if self.held.batches.len() >= HELD {
                break;
            }
        }
        let (from, to) = (left.from, left.row);
        left.from = to;
        let mut columns = left.side.batch.slice(from, to - from).columns().to_vec();
        if to == left.side.batch.num_rows() {
            self.at = None;
        }
        columns.extend(self.held.columns()?);
        let rows = RecordBatchOptions::new().with_row_count(Some(to - from));
        Ok(Step::Output(RecordBatch::try_new_with_options(Arc::clone(&self.schema), columns, &rows)?))
    }
}

enum Step {
    Output(RecordBatch),
    NeedsRight,
}

/// A visible row of the key that is being matched, or of one before it.
fn offer(best: &mut Option<Best>, of: &Arc<RightBatch>, row: usize) {
    let rank = of.rank(row);
    let key = of.side.keys.row(row);
    match best {
        Some(b) if b.of.side.keys.row(b.row) == key => match rank.cmp(&b.rank) {
            Ordering::Less => {}
            Ordering::Equal => b.tied = true,
            Ordering::Greater => *b = Best { of: Arc::clone(of), row, rank, tied: false },
        },
        _ => *best = Some(Best { of: Arc::clone(of), row, rank, tied: false }),
    }
}

/// Times and dates as numbers, NULLs kept.
fn number(time: &ArrayRef) -> Result<Int64Array> {
    Ok(cast(time, &DataType::Int64)?.as_primitive::<Int64Type>().clone())
}
