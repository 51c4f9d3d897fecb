//! One partition, without sorting the right side: its rows are looked up among the left ones.
//!
//! The left side is held and grouped by key, each group's times in order. A right row of a key can first be matched by the
//! left row at or after its own time: its slot. Of a slot's rows only the greatest by rank can ever be chosen, so what is
//! held of the right side is a row a slot at most, give or take what is not thrown away yet, however long that side is.
//! A left row then has the greatest of the slots up to its own.
//!
//! INVARIANT: what is held is reserved in the memory pool. Where the pool has no more, both sides go on into sorts, which
//! spill, and `merge` joins them; of right rows seen so far those go on that can still be chosen, a tied one twice.

use super::{
    AsOfJoinExec, Spec,
    merge::{self, Sides, tie},
};
use datafusion::{
    arrow::{
        array::{Array, ArrayRef, RecordBatch, UInt32Array, new_null_array},
        compute::{interleave, take},
        datatypes::SchemaRef,
        record_batch::RecordBatchOptions,
    },
    common::{Result, hash_utils::RandomState, internal_err},
    execution::{
        SendableRecordBatchStream, TaskContext,
        memory_pool::{MemoryConsumer, MemoryReservation},
    },
    physical_expr::{LexOrdering, PhysicalExpr},
    physical_plan::{
        ExecutionPlan,
        metrics::{BaselineMetrics, RecordOutput},
        sorts::sort::SortExec,
        stream::RecordBatchStreamAdapter,
        streaming::{PartitionStream, StreamingTableExec},
    },
};
use futures::{StreamExt, TryStreamExt};
use std::{
    cmp::Ordering,
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, PoisonError},
};

/// Bytes held for a left row beside its columns: its time and number, its slot, its answer.
const PER_ROW: usize = 8 + 4 + size_of::<Slot>() + 8;

/// Bytes held for a key beside its own.
const PER_KEY: usize = 64;

/// Right rows that are held beyond two a slot before those that cannot be chosen any more are thrown away.
const SLACK: usize = 65_536;

/// The sorts of partitions that ran out of memory: their metrics are the join's.
pub(super) type Sorts = Arc<Mutex<Vec<Arc<SortExec>>>>;

/// What a partition is joined with.
pub(super) struct Join {
    pub(super) spec: Arc<Spec>,
    pub(super) schema: SchemaRef,
    pub(super) measured: BaselineMetrics,
    pub(super) context: Arc<TaskContext>,
    pub(super) sorts: Sorts,
}

/// The joined rows of a partition.
pub(super) fn stream(
    left: SendableRecordBatchStream,
    right: SendableRecordBatchStream,
    join: Join,
) -> SendableRecordBatchStream {
    let schema = Arc::clone(&join.schema);
    let rows = futures::stream::once(join.run(left, right)).try_flatten();
    Box::pin(RecordBatchStreamAdapter::new(schema, rows))
}

impl Join {
    async fn run(
        self,
        mut left: SendableRecordBatchStream,
        mut right: SendableRecordBatchStream,
    ) -> Result<SendableRecordBatchStream> {
        let time = self.measured.elapsed_compute().clone();
        let reserved = MemoryConsumer::new("AsOfJoinExec").with_can_spill(true).register(self.context.memory_pool());
        let mut index = Index::new(Sides::new(Arc::clone(&self.spec), &left.schema())?, right.schema());
        while let Some(batch) = left.next().await.transpose()? {
            if batch.num_rows() == 0 {
                continue;
            }
            let _timer = time.timer();
            if !index.add_left(batch, &reserved)? {
                let held = std::mem::take(&mut index.left);
                drop(index);
                return self.sorted(held, left, vec![], right, reserved);
            }
        }
        {
            let _timer = time.timer();
            index.settle();
        }
        while let Some(batch) = right.next().await.transpose()? {
            if batch.num_rows() == 0 {
                continue;
            }
            let _timer = time.timer();
            index.add_right(batch)?;
            if !index.reserve_right(&reserved)? {
                let (held, kept) = (std::mem::take(&mut index.left), index.choosable()?);
                drop(index);
                return self.sorted(held, left, kept, right, reserved);
            }
        }
        drop((left, right));
        let answer = {
            let _timer = time.timer();
            index.answer()?
        };
        Ok(self.output(answer, reserved))
    }

    fn output(self, answer: Answer, reserved: MemoryReservation) -> SendableRecordBatchStream {
        let Self { schema, measured, .. } = self;
        let out = Arc::clone(&schema);
        let mut from = 0;
        let batches = futures::stream::iter(answer.left).map(move |batch| {
            // Held as long as rows are left to give out.
            let _ = reserved.size();
            let _timer = measured.elapsed_compute().timer();
            let rows = from..from + batch.num_rows();
            from = rows.end;
            let chosen: UInt32Array = answer.rows[rows.clone()].iter().map(|r| (*r != NONE).then_some(*r)).collect();
            let mut columns = batch.columns().to_vec();
            for column in &answer.right {
                columns.push(match column {
                    Ok(values) => take(values, &chosen, None)?,
                    Err(nulls) => new_null_array(nulls.data_type(), rows.len()),
                });
            }
            let options = RecordBatchOptions::new().with_row_count(Some(rows.len()));
            let batch = RecordBatch::try_new_with_options(Arc::clone(&schema), columns, &options)?;
            Ok(batch.record_output(&measured))
        });
        Box::pin(RecordBatchStreamAdapter::new(out, batches))
    }

    /// Both sides sorted, within what memory there is, and merged.
    fn sorted(
        self,
        left_held: Vec<RecordBatch>,
        left: SendableRecordBatchStream,
        right_held: Vec<RecordBatch>,
        right: SendableRecordBatchStream,
        reserved: MemoryReservation,
    ) -> Result<SendableRecordBatchStream> {
        // The sorts reserve what they are handed.
        drop(reserved);
        let on = |i: usize| {
            let keys = self.spec.on.iter().map(move |(l, r)| Arc::clone(if i == 0 { l } else { r }));
            keys.collect::<Vec<Arc<dyn PhysicalExpr>>>()
        };
        let left_order = AsOfJoinExec::order(on(0).into_iter(), &self.spec.left_time);
        let right_order = AsOfJoinExec::order(on(1).into_iter(), &self.spec.right_time);
        let left = self.sort(left_held, left, left_order)?;
        let right = self.sort(right_held, right, right_order)?;
        merge::stream(left, right, self.spec, self.schema, self.measured)
    }

    fn sort(
        &self,
        held: Vec<RecordBatch>,
        rest: SendableRecordBatchStream,
        order: Option<LexOrdering>,
    ) -> Result<SendableRecordBatchStream> {
        let Some(order) = order else { return internal_err!("`AsOfJoinExec` has no order") };
        let schema = rest.schema();
        let all = futures::stream::iter(held.into_iter().map(Ok)).chain(rest);
        let once = Once {
            stream: Mutex::new(Some(Box::pin(RecordBatchStreamAdapter::new(Arc::clone(&schema), all)))),
            schema: Arc::clone(&schema),
        };
        let input = StreamingTableExec::try_new(schema, vec![Arc::new(once)], None, None, false, None)?;
        let sort = Arc::new(SortExec::new(order, Arc::new(input)));
        self.sorts.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::clone(&sort));
        sort.execute(0, Arc::clone(&self.context))
    }
}

/// A stream that is read once.
struct Once {
    stream: Mutex<Option<SendableRecordBatchStream>>,
    schema: SchemaRef,
}

impl fmt::Debug for Once {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Once")
    }
}

impl PartitionStream for Once {
    fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    fn execute(&self, _: Arc<TaskContext>) -> SendableRecordBatchStream {
        let stream = self.stream.lock().unwrap_or_else(PoisonError::into_inner).take();
        stream.unwrap_or_else(|| {
            let again = futures::stream::once(async { internal_err!("a stream is read once") });
            Box::pin(RecordBatchStreamAdapter::new(Arc::clone(&self.schema), again))
        })
    }
}

/// No right row, or no left group.
const NONE: u32 = u32::MAX;

/// The greatest right row that a left row is the first to see.
#[derive(Clone, Copy)]
struct Slot {
    rank: (i64, i64),
    /// Which of the batches held, and which row of it; no batch: none.
    batch: u32,
    row: u32,
    /// Whether another row has the same rank.
    tied: bool,
    /// Whether `row` is still a row of the batch that is being looked at.
    fresh: bool,
}

const EMPTY: Slot = Slot { rank: (0, 0), batch: NONE, row: 0, tied: false, fresh: false };

struct Index {
    sides: Sides,
    left: Vec<RecordBatch>,
    rows: usize,
    /// The event of a match must lie after this, by left row.
    floors: Vec<Option<i64>>,
    groups: HashMap<Box<[u8]>, u32, RandomState>,
    /// Group and time of each left row that can be matched, until `settle`.
    loose: Vec<(u32, i64, u32)>,
    /// Where each group's slots start; one more than there are groups.
    starts: Vec<u32>,
    times: Vec<i64>,
    left_row: Vec<u32>,
    slots: Vec<Slot>,
    touched: Vec<u32>,
    kept: Vec<RecordBatch>,
    kept_rows: usize,
    /// Bytes of the left side, and of both with what is kept.
    left_bytes: usize,
    right_schema: SchemaRef,
}

/// Left batches in their order, the row of `right` for each of their rows.
struct Answer {
    left: Vec<RecordBatch>,
    rows: Vec<u32>,
    /// Columns of the rows chosen; where none is, something of the column's type.
    right: Vec<Result<ArrayRef, ArrayRef>>,
}

impl Index {
    fn new(sides: Sides, right_schema: SchemaRef) -> Self {
        Self {
            sides,
            left: vec![],
            rows: 0,
            floors: vec![],
            groups: HashMap::default(),
            loose: vec![],
            starts: vec![],
            times: vec![],
            left_row: vec![],
            slots: vec![],
            touched: vec![],
            kept: vec![],
            kept_rows: 0,
            left_bytes: 0,
            right_schema,
        }
    }

    /// Holds a left batch; `false` where there is no memory for it: it is held, but not reserved.
    fn add_left(&mut self, batch: RecordBatch, reserved: &MemoryReservation) -> Result<bool> {
        let mut bytes = batch.get_array_memory_size() + batch.num_rows() * PER_ROW;
        let rows = batch.num_rows();
        let fits = u32::try_from(self.rows + rows).is_ok_and(|n| n < NONE);
        self.left.push(batch.clone());
        if !fits || reserved.try_grow(bytes).is_err() {
            return Ok(false);
        }
        let (side, floor) = self.sides.left(batch)?;
        self.floors.extend(floor.iter().flatten());
        let mut keys = 0;
        for row in (0..rows).filter(|row| side.valid(*row)) {
            let key = side.keys.row(row);
            let group = match self.groups.get(key.as_ref()) {
                Some(group) => *group,
                None => {
                    let group = self.groups.len() as u32;
                    keys += key.as_ref().len() + PER_KEY;
                    self.groups.insert(key.as_ref().into(), group);
                    group
                }
            };
            self.loose.push((group, side.time.value(row), (self.rows + row) as u32));
        }
        self.rows += rows;
        let fits = reserved.try_grow(keys).is_ok();
        bytes += keys;
        self.left_bytes += bytes;
        Ok(fits)
    }

    /// Puts the times of each group in order.
    fn settle(&mut self) {
        let loose = std::mem::take(&mut self.loose);
        let mut starts = vec![0_u32; self.groups.len() + 1];
        loose.iter().for_each(|(group, ..)| starts[*group as usize + 1] += 1);
        for i in 1..starts.len() {
            starts[i] += starts[i - 1];
        }
        let mut next = starts.clone();
        let mut ordered = vec![(0_i64, 0_u32); loose.len()];
        for (group, time, row) in loose {
            let at = &mut next[group as usize];
            ordered[*at as usize] = (time, row);
            *at += 1;
        }
        for range in starts.windows(2) {
            ordered[range[0] as usize..range[1] as usize].sort_unstable();
        }
        (self.times, self.left_row) = ordered.into_iter().unzip();
        self.slots = vec![EMPTY; self.times.len()];
        self.starts = starts;
    }

    fn add_right(&mut self, batch: RecordBatch) -> Result<()> {
        let right = self.sides.right(batch)?;
        let side = &right.side;
        let (strict, number) = (self.sides.spec.strict, self.kept.len() as u32);
        // In three passes, each over all rows: what one row waits for in memory, the next ones wait for at the same time.
        let mut found: Vec<(u32, u32)> = Vec::with_capacity(side.batch.num_rows());
        for row in (0..side.batch.num_rows()).filter(|row| side.valid(*row)) {
            if let Some(group) = self.groups.get(side.keys.row(row).as_ref()) {
                found.push((*group, row as u32));
            }
        }
        for (at, row) in &mut found {
            let (from, to) = (self.starts[*at as usize] as usize, self.starts[*at as usize + 1] as usize);
            let time = side.time.value(*row as usize);
            let past = self.times[from..to].partition_point(|t| *t < time || (strict && *t == time));
            *at = if from + past == to { NONE } else { (from + past) as u32 };
        }
        for (at, row) in found {
            if at == NONE {
                continue;
            }
            let slot = &mut self.slots[at as usize];
            let rank = right.rank(row as usize);
            match if slot.batch == NONE { Ordering::Greater } else { rank.cmp(&slot.rank) } {
                Ordering::Less => {}
                Ordering::Equal => slot.tied = true,
                Ordering::Greater => {
                    *slot = Slot { rank, batch: number, row, tied: false, fresh: true };
                    self.touched.push(at);
                }
            }
        }
        // Of the batch, the rows that are some slot's greatest.
        let mut rows: Vec<u32> = vec![];
        for at in self.touched.drain(..) {
            let slot = &mut self.slots[at as usize];
            if slot.fresh {
                slot.fresh = false;
                rows.push(std::mem::replace(&mut slot.row, rows.len() as u32));
            }
        }
        if !rows.is_empty() {
            self.kept_rows += rows.len();
            let rows = UInt32Array::from(rows);
            let columns = side.batch.columns().iter().map(|c| take(c, &rows, None)).collect::<Result<Vec<_>, _>>()?;
            self.kept.push(self.right_batch(columns, rows.len())?);
        }
        if self.kept_rows > 2 * self.slots.len() + SLACK {
            self.compact()?;
        }
        Ok(())
    }

    fn right_batch(&self, columns: Vec<ArrayRef>, rows: usize) -> Result<RecordBatch> {
        let options = RecordBatchOptions::new().with_row_count(Some(rows));
        Ok(RecordBatch::try_new_with_options(Arc::clone(&self.right_schema), columns, &options)?)
    }

    /// One batch of the rows that are some slot's.
    fn compact(&mut self) -> Result<()> {
        let mut rows = Vec::with_capacity(self.slots.len());
        for slot in self.slots.iter_mut().filter(|s| s.batch != NONE) {
            rows.push((slot.batch as usize, slot.row as usize));
            (slot.batch, slot.row) = (0, rows.len() as u32 - 1);
        }
        self.gather(&rows)
    }

    /// Keeps these rows, in this order.
    fn gather(&mut self, rows: &[(usize, usize)]) -> Result<()> {
        if self.kept.is_empty() {
            return Ok(());
        }
        let columns = (0..self.right_schema.fields().len()).map(|i| {
            let all: Vec<&dyn Array> = self.kept.iter().map(|b| b.column(i).as_ref()).collect();
            Ok(interleave(&all, rows)?)
        });
        let columns = columns.collect::<Result<Vec<_>>>()?;
        self.kept = vec![self.right_batch(columns, rows.len())?];
        self.kept_rows = rows.len();
        Ok(())
    }

    /// Reserves what is held; `false` where there is no memory for it.
    fn reserve_right(&mut self, reserved: &MemoryReservation) -> Result<bool> {
        let held = |kept: &[RecordBatch]| kept.iter().map(RecordBatch::get_array_memory_size).sum::<usize>();
        let last = self.kept.last().map_or(0, RecordBatch::get_array_memory_size);
        if self.kept.len() == 1 {
            return Ok(reserved.try_resize(self.left_bytes + last).is_ok());
        }
        if reserved.try_grow(last).is_ok() {
            return Ok(true);
        }
        self.compact()?;
        Ok(reserved.try_resize(self.left_bytes + held(&self.kept)).is_ok())
    }

    /// The rows that can still be chosen; one that is tied twice, so that it stays so.
    fn choosable(&mut self) -> Result<Vec<RecordBatch>> {
        let chosen = self.slots.iter().filter(|s| s.batch != NONE);
        let rows: Vec<_> = chosen
            .flat_map(|s| std::iter::repeat_n((s.batch as usize, s.row as usize), 1 + usize::from(s.tied)))
            .collect();
        self.gather(&rows)?;
        Ok(std::mem::take(&mut self.kept))
    }

    fn answer(mut self) -> Result<Answer> {
        self.compact()?;
        let mut rows = vec![NONE; self.rows];
        for range in self.starts.windows(2) {
            let mut best: Option<Slot> = None;
            for at in range[0] as usize..range[1] as usize {
                let slot = self.slots[at];
                if slot.batch != NONE {
                    match best.as_mut().map(|b| (slot.rank.cmp(&b.rank), b)) {
                        Some((Ordering::Less, _)) => {}
                        Some((Ordering::Equal, b)) => b.tied = true,
                        Some((Ordering::Greater, _)) | None => best = Some(slot),
                    }
                }
                let row = self.left_row[at] as usize;
                let floor = self.floors.get(row).copied().flatten();
                if let Some(best) = best.filter(|b| floor.is_none_or(|floor| b.rank.0 > floor)) {
                    if best.tied {
                        return Err(tie());
                    }
                    rows[row] = best.row;
                }
            }
        }
        let right = match self.kept.pop() {
            Some(batch) => batch.columns().iter().cloned().map(Ok).collect(),
            None => self.right_schema.fields().iter().map(|f| Err(new_null_array(f.data_type(), 1))).collect(),
        };
        Ok(Answer { left: self.left, rows, right })
    }
}
