//! The rows of `system.access.audit` that a viewer may see, at one position, chunk by chunk.

use crate::{
    Facts, Snapshot, SystemError, Unseal, Viewer,
    audit::{
        chunk::{Chunk, Coded, Counts, Ending},
        filter::{Condition, Lookup, Rows, decision},
    },
    fold::{Sealed, Slot},
    gate::Gate,
    intern::{Context, Dictionaries, NONE},
    schema::{SystemTable, Table, tables},
    tables::access::end,
};
use arrow::{
    array::{
        ArrayRef, BooleanArray, FixedSizeBinaryBuilder, Int64Array, ListBuilder, RecordBatch, RecordBatchOptions,
        StringArray, StringBuilder, TimestampMicrosecondArray, new_null_array,
    },
    datatypes::SchemaRef,
};
use custody_model::{ControlSeq, DatasetId, Hash, Outcome, Seq, StoredEntry, WriterId};
use std::{
    collections::{BTreeMap, HashMap},
    ops::RangeInclusive,
    sync::Arc,
};
use uuid::Uuid;

/// What a viewer sees of the targets, by their numbers.
#[derive(Debug)]
pub(crate) struct View {
    pub(crate) names: Vec<Option<Arc<str>>>,
    versions: Vec<Option<u64>>,
    /// Rows on it are the viewer's to see, whoever asked.
    owned: Vec<bool>,
    /// Rows on it are the viewer's to see where they asked.
    made: Vec<bool>,
    all: bool,
    own: Option<u32>,
}

/// A scan of `system.access.audit`: the viewer's rows that satisfy a condition, in the order of writer, seq and part.
#[derive(Clone)]
pub struct AuditScan {
    snapshot: Snapshot,
    schema: SchemaRef,
    columns: Vec<&'static str>,
    known: Arc<Dictionaries>,
    view: Arc<View>,
    parts: Vec<Part>,
    lookups: Vec<Arc<Lookup>>,
    /// Present where the viewer may see client addresses.
    unseal: Option<Unseal>,
}

/// A chunk of one writer, sealed or made of what is not sealed yet.
#[derive(Clone)]
struct Part {
    writer: WriterId,
    rows: Made,
}

#[derive(Clone)]
enum Made {
    Sealed(Arc<Sealed>),
    Tail(Arc<Chunk>, Arc<Vec<Arc<Slot>>>),
}

impl Part {
    fn chunk(&self) -> &Chunk {
        match &self.rows {
            Made::Sealed(sealed) => &sealed.audit,
            Made::Tail(chunk, _) => chunk,
        }
    }
}

impl std::fmt::Debug for AuditScan {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AuditScan").field("chunks", &self.parts.len()).field("lookups", &self.lookups).finish()
    }
}

impl Snapshot {
    /// A scan of `system.access.audit` for a viewer.
    pub fn audit(&self, viewer: &Viewer<'_>, facts: &dyn Facts) -> Result<AuditScan, SystemError> {
        let gate = Gate::new(viewer, &self.catalog);
        let table = audit_table()?;
        let mut parts = vec![];
        for (writer, chain) in self.chains.iter() {
            let part = |rows| Part { writer: writer.clone(), rows };
            parts.extend(chain.sealed.iter().map(|sealed| part(Made::Sealed(Arc::clone(sealed)))));
            parts.extend(chain.young.iter().map(|y| part(Made::Tail(Arc::clone(&y.audit), Arc::clone(&y.slots)))));
            let slots: Vec<Arc<Slot>> = chain.loose().cloned().collect();
            if !slots.is_empty() {
                let chunk = Chunk::new(&slots, &self.known, |slot| slot.end(&self.chains));
                parts.push(part(Made::Tail(Arc::new(chunk), Arc::new(slots))));
            }
        }
        Ok(AuditScan {
            view: Arc::new(self.view(&gate)),
            snapshot: self.clone(),
            schema: Arc::clone(&table.schema),
            columns: (0..table.schema.fields().len()).map(|at| table.column(at)).collect(),
            known: Arc::clone(&self.known),
            parts,
            lookups: vec![],
            unseal: gate.sealed().then(|| facts.unsealer()),
        })
    }

    fn view(&self, gate: &Gate<'_>) -> View {
        let targets = self.known.targets.read(<[_]>::to_vec);
        let mut names: HashMap<(DatasetId, ControlSeq, bool), Option<Arc<str>>> = HashMap::new();
        let name = |t: &crate::intern::TargetKey| {
            let draft = self.catalog.draft_made_at(t.made_at).map_or(ControlSeq(0), |_| t.made_at);
            names
                .entry((t.dataset, draft, t.quarantined))
                .or_insert_with(|| {
                    let name = self.name(t.dataset, t.made_at, if t.quarantined { 32_768 } else { 0 })?;
                    Some(Arc::from(name.to_string()))
                })
                .clone()
        };
        View {
            names: targets.iter().map(name).collect(),
            versions: targets
                .iter()
                .map(|t| self.catalog.draft_made_at(t.made_at).map_or(t.version, |d| Some(d.table.version)))
                .collect(),
            owned: targets.iter().map(|t| gate.all() || gate.owned(t.dataset)).collect(),
            made: targets.iter().map(|t| gate.all() || gate.made(t.dataset, t.made_at)).collect(),
            all: gate.all(),
            own: self.known.texts.find(gate.principal_name()),
        }
    }
}

fn audit_table() -> Result<&'static SystemTable, SystemError> {
    let found = tables().iter().find(|t| t.table == Table::Audit);
    found.ok_or_else(|| SystemError::NoTable(tables()[0].definition.name.clone()))
}

impl AuditScan {
    /// The same scan of these columns only, by their places in the table.
    pub fn project(mut self, columns: &[usize]) -> Result<Self, SystemError> {
        self.schema = Arc::new(self.schema.project(columns)?);
        self.columns = columns.iter().filter_map(|at| self.columns.get(*at).copied()).collect();
        Ok(self)
    }

    /// The same scan of rows that satisfy this too.
    pub fn filter(mut self, condition: &Condition) -> Self {
        let one = Lookup::new(condition, &self.known, &self.view);
        self.lookups.push(Arc::new(one));
        self
    }

    /// The columns of its batches.
    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// How many chunks there are.
    pub fn chunks(&self) -> usize {
        self.parts.len()
    }

    /// Whether the viewer sees every row: then a chunk's place says nothing of rows that are not shown.
    pub fn sees_all(&self) -> bool {
        self.view.all
    }

    /// The times of a chunk's rows, in microseconds; empty: there is no such chunk.
    pub fn times(&self, chunk: usize) -> RangeInclusive<i64> {
        let (least, most) = self.parts.get(chunk).map_or((1, 0), |part| part.chunk().times_span);
        least..=most
    }

    /// The rows of a chunk within these times that the viewer may see and that satisfy the condition; `None`: there are
    /// none.
    pub fn batch(&self, chunk: usize, times: &RangeInclusive<i64>) -> Result<Option<RecordBatch>, SystemError> {
        let Some(part) = self.parts.get(chunk) else { return Ok(None) };
        let rows = self.select(part, times);
        if rows.is_empty() { Ok(None) } else { self.made(part, &rows).map(Some) }
    }

    /// Of a chunk, the places of such rows in order, each with its time.
    pub(crate) fn places(&self, chunk: usize, times: &RangeInclusive<i64>) -> Vec<(i64, usize)> {
        let Some(part) = self.parts.get(chunk) else { return vec![] };
        let time = |row: usize| part.chunk().times.get(row).copied().unwrap_or_default();
        self.select(part, times).into_iter().map(|row| (time(row), row)).collect()
    }

    /// These rows of a chunk, by places that [`AuditScan::places`] gave, in their order.
    pub(crate) fn rows(&self, chunk: usize, rows: &[usize]) -> Result<RecordBatch, SystemError> {
        match self.parts.get(chunk) {
            Some(part) => self.made(part, rows),
            None => Ok(RecordBatch::new_empty(Arc::clone(&self.schema))),
        }
    }

    fn made(&self, part: &Part, rows: &[usize]) -> Result<RecordBatch, SystemError> {
        let columns = self.columns.iter().enumerate().map(|(at, name)| self.column(at, name, part, rows));
        let columns = columns.collect::<Result<Vec<_>, _>>()?;
        let options = RecordBatchOptions::new().with_row_count(Some(rows.len()));
        Ok(RecordBatch::try_new_with_options(Arc::clone(&self.schema), columns, &options)?)
    }

    fn select(&self, part: &Part, times: &RangeInclusive<i64>) -> Vec<usize> {
        let chunk = part.chunk();
        // What skips most comes first.
        let mut rows = Lookup::times(chunk, times);
        for lookup in &self.lookups {
            if !matches!(rows, Rows::Nothing) {
                rows = rows.and(lookup.rows(chunk));
            }
        }
        if matches!(rows, Rows::Nothing) {
            return vec![];
        }
        rows = rows.and(Rows::of(&chunk.control, |seq| seq <= self.snapshot.at())).and(self.once(part));
        if !self.view.all {
            rows = rows.and(self.visible(chunk));
        }
        match rows {
            Rows::All => (0..chunk.len).collect(),
            Rows::Nothing => vec![],
            Rows::Some(rows) => rows.iter().enumerate().filter_map(|(row, is)| is.then_some(row)).collect(),
        }
    }

    /// A control entry that stands in two chains is shown in one.
    fn once(&self, part: &Part) -> Rows {
        let chunk = part.chunk();
        if self.snapshot.doubles.is_empty() || !chunk.sorts.values.iter().any(|s| s.control) {
            return Rows::All;
        }
        Rows::each(chunk.len, |row| {
            let control = chunk.sorts.get(row).is_some_and(|s| s.control);
            let id = custody_model::EntryId(Uuid::from_u128(chunk.ids.get(row).copied().unwrap_or_default()));
            !control || self.snapshot.counts(id, &part.writer, Seq(chunk.seq(row)))
        })
    }

    fn visible(&self, chunk: &Chunk) -> Rows {
        let is = |set: &[bool], number: u32| set.get(number as usize).copied().unwrap_or(false);
        let own = |number: u32| number != NONE && Some(number) == self.view.own;
        let (targets, principals) = (&chunk.targets, &chunk.principals);
        if !principals.values.iter().any(|p| own(*p)) {
            return Rows::of(targets, |t| is(&self.view.owned, t));
        }
        Rows::each(chunk.len, |row| match (targets.get(row), principals.get(row)) {
            (Some(NONE), Some(principal)) => own(principal),
            (Some(target), Some(principal)) => {
                is(&self.view.owned, target) || (own(principal) && is(&self.view.made, target))
            }
            (None, _) | (_, None) => false,
        })
    }

    fn column(&self, at: usize, name: &str, part: &Part, rows: &[usize]) -> Result<ArrayRef, SystemError> {
        let chunk = part.chunk();
        let int = |value: &dyn Fn(usize) -> Option<u64>| integers(name, rows, value);
        let target = |row: usize| chunk.targets.get(row).map(|t| t as usize);
        Ok(match name {
            "entry_id" => {
                let mut ids = StringBuilder::with_capacity(rows.len(), rows.len() * 36);
                let mut buffer = Uuid::encode_buffer();
                for row in rows {
                    ids.append_value(Uuid::from_u128(chunk.ids[*row]).hyphenated().encode_lower(&mut buffer));
                }
                Arc::new(ids.finish())
            }
            "part" => int(&|row| chunk.parts.get(row).map(u64::from))?,
            "writer" => Arc::new(StringArray::from_iter_values(rows.iter().map(|_| part.writer.as_str()))),
            "seq" => int(&|row| Some(chunk.seq(row)))?,
            "control_seq" => int(&|row| chunk.control.get(row).map(|c| c.0))?,
            "event_time" => {
                let times = TimestampMicrosecondArray::from_iter_values(rows.iter().map(|row| chunk.times[*row]));
                Arc::new(times.with_timezone("UTC"))
            }
            "action" => words(&chunk.sorts, rows, |s| s.action),
            "decision" => words(&chunk.sorts, rows, |s| decision(s.denied)),
            "principal" => self.texts(&chunk.principals, rows),
            "session" => self.texts(&chunk.sessions, rows),
            "purpose" => self.texts(&chunk.purposes, rows),
            "ticket" => self.texts(&chunk.tickets, rows),
            "roles" => self.roles(chunk, rows),
            "client_addr" => self.addresses(part, rows)?,
            "on_behalf_of" => self.context(chunk, rows, |c| c.on_behalf_of.as_deref()),
            "environment" => self.context(chunk, rows, |c| Some(&c.environment)),
            "stage" => self.context(chunk, rows, |c| c.stage.as_deref()),
            "region" => self.context(chunk, rows, |c| c.region.as_deref()),
            "model" => self.context(chunk, rows, |c| c.model.as_deref()),
            "model_version" => {
                let versions = self.contexts(chunk, rows, |c| c.model_version);
                integers(name, rows, &|row| versions.get(&chunk.contexts.code(row)).copied().flatten())?
            }
            "policy_hash" => {
                let bundles = self.contexts(chunk, rows, |c| c.bundle);
                digests(rows.iter().map(|row| bundles.get(&chunk.contexts.code(*row)).copied().flatten()))?
            }
            "dataset" => strings(rows, |row| self.view.names.get(chunk.targets.get(row)? as usize)?.as_deref()),
            "dataset_version" => int(&|row| target(row).and_then(|t| self.view.versions.get(t).copied().flatten()))?,
            "grant_hash" => self.hashes(&chunk.grants, rows)?,
            "statement_hash" => self.hashes(&chunk.statements, rows)?,
            "rows" => self.counts(name, chunk, &chunk.rows, rows, |e, part| e.measure.rows.filter(|_| part == 0))?,
            "bytes" => self.counts(name, chunk, &chunk.bytes, rows, |e, part| e.measure.bytes.filter(|_| part == 0))?,
            "duration_us" => self.counts(name, chunk, &chunk.micros, rows, |e, _| e.measure.micros)?,
            "upper_bound" => {
                let late = self.late(chunk, rows, |e, _| e.measure.upper_bound);
                Arc::new(BooleanArray::from_iter(rows.iter().map(|row| {
                    Some(late.get(row).copied().unwrap_or_else(|| {
                        self.unless_later(chunk, *row) && chunk.endings.get(*row).is_some_and(|e| e.upper_bound)
                    }))
                })))
            }
            "outcome" => {
                let late = self.late(chunk, rows, |e, _| e.outcome.word());
                if late.is_empty() {
                    words(&chunk.endings, rows, |e| self.outcome(e).word())
                } else {
                    let own = |row| chunk.endings.get(row).map_or("", |e| self.outcome(e).word());
                    let word = |row: &usize| late.get(row).copied().unwrap_or_else(|| own(*row));
                    Arc::new(StringArray::from_iter_values(rows.iter().map(word)))
                }
            }
            "code" => {
                let late = self.late(chunk, rows, |e, _| e.code.map(str::to_owned));
                let numbers: Vec<u32> = chunk.endings.values.iter().map(|e| self.code(*e)).collect();
                self.known.texts.read(|all| {
                    strings(rows, |row| match late.get(&row) {
                        Some(late) => late.as_deref(),
                        None => all.get(*numbers.get(chunk.endings.code(row))? as usize).map(Arc::as_ref),
                    })
                })
            }
            _ => return Err(SystemError::Shape { table: audit_table()?.definition.name.clone(), at }),
        })
    }

    fn texts(&self, column: &Coded<u32>, rows: &[usize]) -> ArrayRef {
        self.known.texts.read(|all| strings(rows, |row| all.get(column.get(row)? as usize).map(Arc::as_ref)))
    }

    /// What contexts of these rows say, by their places in the chunk.
    fn contexts<T>(
        &self,
        chunk: &Chunk,
        rows: &[usize],
        value: impl Fn(&Context) -> Option<T>,
    ) -> HashMap<usize, Option<T>> {
        self.known.contexts.read(|all| {
            let mut found = HashMap::new();
            for row in rows {
                let code = chunk.contexts.code(*row);
                found
                    .entry(code)
                    .or_insert_with(|| all.get(*chunk.contexts.values.get(code)? as usize).and_then(&value));
            }
            found
        })
    }

    fn context(&self, chunk: &Chunk, rows: &[usize], value: fn(&Context) -> Option<&str>) -> ArrayRef {
        self.known.contexts.read(|all| strings(rows, |row| value(all.get(chunk.contexts.get(row)? as usize)?)))
    }

    fn roles(&self, chunk: &Chunk, rows: &[usize]) -> ArrayRef {
        let mut lists = ListBuilder::new(StringBuilder::new());
        self.known.roles.read(|all| {
            for row in rows {
                let set = chunk.roles.get(*row).and_then(|n| all.get(n as usize));
                set.into_iter().flatten().for_each(|role| lists.values().append_value(role));
                lists.append(true);
            }
        });
        Arc::new(lists.finish())
    }

    fn hashes(&self, column: &Coded<u32>, rows: &[usize]) -> Result<ArrayRef, SystemError> {
        self.known.hashes.read(|all| digests(rows.iter().map(|row| all.get(column.get(*row)? as usize).copied())))
    }

    fn addresses(&self, part: &Part, rows: &[usize]) -> Result<ArrayRef, SystemError> {
        let Some(unseal) = &self.unseal else {
            return Ok(new_null_array(&arrow::datatypes::DataType::Utf8, rows.len()));
        };
        let loaded;
        let entries: BTreeMap<u64, &StoredEntry> = match &part.rows {
            Made::Tail(_, slots) => slots.iter().map(|s| (s.stored.seq.0, s.stored.as_ref())).collect(),
            Made::Sealed(sealed) => {
                let ends = rows.first().zip(rows.last()).map(|(a, b)| (part.chunk().seq(*a), part.chunk().seq(*b)));
                let (from, to) = ends.map_or((sealed.from, sealed.to), |(a, b)| (Seq(a), Seq(b + 1)));
                loaded = self.snapshot.load(&part.writer, from, to)?;
                loaded.iter().map(|e| (e.seq.0, e)).collect()
            }
        };
        let address = |row: &usize| {
            let entry = entries.get(&part.chunk().seq(*row))?;
            unseal(entry.entry.actor.as_ref()?.address.as_ref()?)
        };
        Ok(Arc::new(StringArray::from_iter(rows.iter().map(address))))
    }

    /// Whether the recorded end of a row is there at this position.
    fn ended(&self, ending: Ending) -> bool {
        ending.later.is_none_or(|at| at <= self.snapshot.at())
    }

    fn unless_later(&self, chunk: &Chunk, row: usize) -> bool {
        chunk.endings.get(row).is_some_and(|e| self.ended(e))
    }

    fn outcome(&self, ending: Ending) -> Outcome {
        if self.ended(ending) { ending.outcome } else { Outcome::Pending }
    }

    fn code(&self, ending: Ending) -> u32 {
        if self.ended(ending) { ending.code } else { NONE }
    }

    fn counts(
        &self,
        name: &str,
        chunk: &Chunk,
        counts: &Counts,
        rows: &[usize],
        of: fn(&crate::tables::access::End<'_>, u16) -> Option<u64>,
    ) -> Result<ArrayRef, SystemError> {
        if chunk.late.is_empty() && chunk.endings.values.iter().all(|e| self.ended(*e)) {
            return match counts {
                // Most chunks: no row has to be asked whether it has ended here, no count is too large.
                Counts::Narrow(_) => {
                    let count = |row: &usize| counts.get(*row).and_then(|count| i64::try_from(count).ok());
                    Ok(Arc::new(Int64Array::from_iter(rows.iter().map(count))))
                }
                Counts::Wide(_) => integers(name, rows, &|row| counts.get(row)),
            };
        }
        let late = self.late(chunk, rows, of);
        let own = |row: usize| self.unless_later(chunk, row).then(|| counts.get(row)).flatten();
        integers(name, rows, &|row| late.get(&row).copied().unwrap_or_else(|| own(row)))
    }

    /// What holds of rows that had not ended when their chunk was made.
    fn late<T>(
        &self,
        chunk: &Chunk,
        rows: &[usize],
        of: impl Fn(&crate::tables::access::End<'_>, u16) -> T,
    ) -> HashMap<usize, T> {
        let (Some(first), Some(last)) = (rows.first(), rows.last()) else { return HashMap::new() };
        let here = |(row, slot): &(u32, Arc<Slot>)| {
            let row = *row as usize;
            (*first..=*last).contains(&row).then(|| {
                let later = slot.end(&self.snapshot.chains).filter(|e| e.entry.control_seq <= self.snapshot.at());
                let end = end(&slot.stored.entry, later.map(|l| &l.entry));
                (row, of(&end, chunk.parts.get(row).unwrap_or_default()))
            })
        };
        chunk.late.iter().filter_map(here).collect()
    }
}

fn integers(name: &str, rows: &[usize], value: &dyn Fn(usize) -> Option<u64>) -> Result<ArrayRef, SystemError> {
    let mut out = Int64Array::builder(rows.len());
    for row in rows {
        match value(*row) {
            None => out.append_null(),
            Some(value) => match i64::try_from(value) {
                Ok(value) => out.append_value(value),
                Err(_) => {
                    let table = audit_table()?;
                    let at = table.schema.index_of(name)?;
                    return Err(SystemError::TooLarge { column: table.column(at), value });
                }
            },
        }
    }
    Ok(Arc::new(out.finish()))
}

fn strings<'a>(rows: &[usize], of: impl Fn(usize) -> Option<&'a str>) -> ArrayRef {
    let mut out = StringBuilder::with_capacity(rows.len(), rows.len() * 16);
    rows.iter().for_each(|row| out.append_option(of(*row)));
    Arc::new(out.finish())
}

fn words<T: Copy>(column: &Coded<T>, rows: &[usize], word: impl Fn(T) -> &'static str) -> ArrayRef {
    let words: Vec<&str> = column.values.iter().map(|v| word(*v)).collect();
    Arc::new(StringArray::from_iter_values(rows.iter().map(|row| words[column.code(*row)])))
}

fn digests(values: impl Iterator<Item = Option<Hash>>) -> Result<ArrayRef, SystemError> {
    let mut out = FixedSizeBinaryBuilder::new(32);
    for value in values {
        match value {
            Some(hash) => out.append_value(hash.as_bytes())?,
            None => out.append_null(),
        }
    }
    Ok(Arc::new(out.finish()))
}
