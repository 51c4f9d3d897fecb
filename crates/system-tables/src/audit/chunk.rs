//! Some rows of `system.access.audit` of one writer, by column.

use crate::{
    fold::Slot,
    intern::{Context, Dictionaries, TargetKey},
    tables::access::{End, Touched, action, end, statement, touched},
};
use custody_model::{ControlSeq, Kind, Measure, Outcome, Payload, StoredEntry};
use std::{collections::HashMap, hash::Hash, sync::Arc};

/// A column whose values repeat: each row has the place of its value.
#[derive(Clone, Debug)]
pub(crate) struct Coded<T> {
    pub(crate) values: Vec<T>,
    /// Empty: every row has the first value.
    codes: Vec<u16>,
}

impl<T: Copy + Eq + Hash> FromIterator<T> for Coded<T> {
    fn from_iter<I: IntoIterator<Item = T>>(rows: I) -> Self {
        let (mut values, mut places, mut codes) = (vec![], HashMap::new(), vec![]);
        for value in rows {
            codes.push(*places.entry(value).or_insert_with(|| {
                values.push(value);
                // INVARIANT: a chunk has at most 65,536 rows.
                (values.len() - 1) as u16
            }));
        }
        if values.len() <= 1 {
            codes = vec![];
        }
        values.shrink_to_fit();
        codes.shrink_to_fit();
        Self { values, codes }
    }
}

impl<T: Copy> Coded<T> {
    /// The place of a row's value among `values`.
    pub(crate) fn code(&self, row: usize) -> usize {
        self.codes.get(row).map_or(0, |code| usize::from(*code))
    }

    pub(crate) fn get(&self, row: usize) -> Option<T> {
        self.values.get(self.code(row)).copied()
    }

    /// Places of rows; `None`: every row has the first value.
    pub(crate) fn codes(&self) -> Option<&[u16]> {
        (!self.codes.is_empty()).then_some(&self.codes)
    }

    fn bytes(&self) -> usize {
        self.values.capacity() * size_of::<T>() + self.codes.capacity() * 2
    }
}

/// Counts, of which most are small.
#[derive(Clone, Debug)]
pub(crate) enum Counts {
    Narrow(Vec<u32>),
    Wide(Vec<u64>),
}

impl Counts {
    fn new(rows: &[Option<u64>]) -> Self {
        let narrow: Option<Vec<u32>> = rows
            .iter()
            .map(|v| v.map_or(Some(u32::MAX), |v| u32::try_from(v).ok().filter(|v| *v < u32::MAX)))
            .collect();
        narrow.map_or_else(|| Self::Wide(rows.iter().map(|v| v.unwrap_or(u64::MAX)).collect()), Self::Narrow)
    }

    pub(crate) fn get(&self, row: usize) -> Option<u64> {
        match self {
            Self::Narrow(rows) => rows.get(row).filter(|v| **v < u32::MAX).map(|v| u64::from(*v)),
            Self::Wide(rows) => rows.get(row).filter(|v| **v < u64::MAX).copied(),
        }
    }

    fn bytes(&self) -> usize {
        match self {
            Self::Narrow(rows) => rows.capacity() * 4,
            Self::Wide(rows) => rows.capacity() * 8,
        }
    }
}

/// What a row is, beside its values.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Sort {
    pub(crate) action: &'static str,
    pub(crate) denied: bool,
    /// A control entry, which may stand in two chains.
    pub(crate) control: bool,
    /// A read intent, whose own outcome is a plan.
    pub(crate) intent: bool,
}

/// How a request ended: of most rows the same.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Ending {
    pub(crate) outcome: Outcome,
    pub(crate) upper_bound: bool,
    pub(crate) code: u32,
    /// The position at which an entry of its own said so.
    pub(crate) later: Option<ControlSeq>,
}

impl Ending {
    fn new(end: &End<'_>, later: Option<&StoredEntry>, known: &Dictionaries) -> Self {
        Self {
            outcome: end.outcome,
            upper_bound: end.measure.upper_bound,
            code: known.text(end.code),
            later: later.map(|l| l.entry.control_seq),
        }
    }
}

#[derive(Clone, Debug)]
pub(crate) struct Chunk {
    pub(crate) len: usize,
    first_seq: u64,
    seqs: Vec<u32>,
    pub(crate) ids: Vec<u128>,
    /// Smallest and largest id.
    ids_span: (u128, u128),
    pub(crate) times: Vec<i64>,
    pub(crate) times_span: (i64, i64),
    pub(crate) parts: Coded<u16>,
    pub(crate) control: Coded<ControlSeq>,
    pub(crate) sorts: Coded<Sort>,
    pub(crate) principals: Coded<u32>,
    pub(crate) roles: Coded<u32>,
    pub(crate) sessions: Coded<u32>,
    pub(crate) purposes: Coded<u32>,
    pub(crate) tickets: Coded<u32>,
    pub(crate) contexts: Coded<u32>,
    pub(crate) targets: Coded<u32>,
    pub(crate) grants: Coded<u32>,
    pub(crate) statements: Coded<u32>,
    pub(crate) endings: Coded<Ending>,
    pub(crate) rows: Counts,
    pub(crate) bytes: Counts,
    pub(crate) micros: Counts,
    /// Rows, in order, whose request had not ended when the chunk was made.
    pub(crate) late: Vec<(u32, Arc<Slot>)>,
}

/// How many rows a request has.
pub(crate) fn rows_of(slot: &Slot) -> usize {
    touched(&slot.stored.entry).len().max(1)
}

impl Chunk {
    /// The rows of these requests, in order. `ended` says which end counts.
    pub(crate) fn new<'a>(
        slots: impl IntoIterator<Item = &'a Arc<Slot>>,
        known: &Dictionaries,
        ended: impl Fn(&'a Slot) -> Option<&'a StoredEntry>,
    ) -> Self {
        let mut rows: Vec<Row<'a>> = vec![];
        let mut late = vec![];
        for slot in slots {
            let later = ended(slot);
            let open = later.is_none() && slot.stored.entry.kind() == Kind::ReadIntent;
            let touched = touched(&slot.stored.entry);
            let parts = if touched.is_empty() { vec![None] } else { touched.into_iter().map(Some).collect() };
            for (part, touched) in (0..).zip(parts) {
                if open {
                    late.push((rows.len() as u32, Arc::clone(slot)));
                }
                rows.push(Row { stored: &slot.stored, later, part, touched });
            }
        }
        Self::of(&rows, late, known)
    }

    fn of(rows: &[Row<'_>], late: Vec<(u32, Arc<Slot>)>, known: &Dictionaries) -> Self {
        let first_seq = rows.first().map_or(0, |r| r.stored.seq.0);
        let entries = || rows.iter().map(|r| &r.stored.entry);
        let actors = || entries().map(|e| e.actor.as_ref());
        let ids: Vec<u128> = entries().map(|e| e.id.0.as_u128()).collect();
        let times: Vec<i64> = entries().map(|e| e.wall.micros().0).collect();
        let measures: Vec<Measure> = rows.iter().map(Row::measure).collect();
        let once = |count: fn(&Measure) -> Option<u64>| {
            let part = |(row, measure): (&Row<'_>, &Measure)| count(measure).filter(|_| row.part == 0);
            Counts::new(&rows.iter().zip(&measures).map(part).collect::<Vec<_>>())
        };
        Self {
            len: rows.len(),
            first_seq,
            seqs: rows.iter().map(|r| (r.stored.seq.0 - first_seq) as u32).collect(),
            ids_span: span(&ids),
            ids,
            times_span: span(&times),
            times,
            parts: rows.iter().map(|r| r.part).collect(),
            control: entries().map(|e| e.control_seq).collect(),
            sorts: rows.iter().map(Row::sort).collect(),
            principals: actors().map(|a| known.text(a.map(|a| a.principal.0.as_str()))).collect(),
            roles: actors()
                .map(|a| a.map_or(crate::intern::NONE, |a| known.roles.number(&a.roles, Clone::clone)))
                .collect(),
            sessions: actors().map(|a| known.text(a.and_then(|a| a.session.as_deref()))).collect(),
            purposes: entries().map(|e| known.text(e.reason.purpose.as_ref().map(|p| p.0.as_str()))).collect(),
            tickets: entries().map(|e| known.text(e.reason.ticket.as_deref())).collect(),
            contexts: rows.iter().map(|r| known.contexts.number(&r.context(), Clone::clone)).collect(),
            targets: rows.iter().map(|r| r.target(known)).collect(),
            grants: rows.iter().map(|r| known.hash(r.touched.as_ref().and_then(|t| t.target?.grant))).collect(),
            statements: entries().map(|e| known.hash(statement(&e.payload))).collect(),
            endings: rows.iter().map(|r| r.ending(known)).collect(),
            rows: once(|m| m.rows),
            bytes: once(|m| m.bytes),
            micros: Counts::new(&measures.iter().map(|m| m.micros).collect::<Vec<_>>()),
            late,
        }
    }

    /// The same with the ends that have come since; `None`: none has.
    pub(crate) fn settled(&self, known: &Dictionaries) -> Option<Self> {
        if !self.late.iter().any(|(_, slot)| slot.ended().is_some()) {
            return None;
        }
        let all = || 0..self.len;
        let mut endings: Vec<Ending> = all().filter_map(|row| self.endings.get(row)).collect();
        let counts = |counts: &Counts| all().map(|row| counts.get(row)).collect::<Vec<_>>();
        let (mut rows, mut bytes, mut micros) = (counts(&self.rows), counts(&self.bytes), counts(&self.micros));
        for (row, slot) in &self.late {
            let Some(later) = slot.ended() else { continue };
            let (row, end) = (*row as usize, end(&slot.stored.entry, Some(&later.entry)));
            let once = |count: Option<u64>| count.filter(|_| self.parts.get(row) == Some(0));
            endings[row] = Ending::new(&end, Some(later), known);
            (rows[row], bytes[row], micros[row]) =
                (once(end.measure.rows), once(end.measure.bytes), end.measure.micros);
        }
        let late = self.late.iter().filter(|(_, slot)| slot.ended().is_none()).cloned().collect();
        Some(Self {
            endings: endings.into_iter().collect(),
            rows: Counts::new(&rows),
            bytes: Counts::new(&bytes),
            micros: Counts::new(&micros),
            late,
            ..self.clone()
        })
    }

    pub(crate) fn seq(&self, row: usize) -> u64 {
        self.first_seq + u64::from(self.seqs.get(row).copied().unwrap_or_default())
    }

    /// The first row of a request.
    pub(crate) fn row_of(&self, id: u128) -> Option<usize> {
        (self.ids_span.0 <= id && id <= self.ids_span.1).then(|| self.ids.iter().position(|i| *i == id))?
    }

    /// How many reads began in it at or after a seq.
    pub(crate) fn intents_from(&self, seq: u64) -> u64 {
        let is_intent = |row: &usize| {
            self.sorts.get(*row).is_some_and(|s| s.intent) && self.parts.get(*row) == Some(0) && self.seq(*row) >= seq
        };
        (0..self.len).filter(is_intent).count() as u64
    }

    /// How many bytes of memory it takes, but for its late rows.
    pub(crate) fn memory(&self) -> usize {
        size_of::<Self>()
            + self.seqs.capacity() * 4
            + self.ids.capacity() * 16
            + self.times.capacity() * 8
            + self.parts.bytes()
            + self.control.bytes()
            + self.sorts.bytes()
            + self.endings.bytes()
            + [
                &self.principals,
                &self.roles,
                &self.sessions,
                &self.purposes,
                &self.tickets,
                &self.contexts,
                &self.targets,
                &self.grants,
                &self.statements,
            ]
            .iter()
            .map(|c| c.bytes())
            .sum::<usize>()
            + [&self.rows, &self.bytes, &self.micros].iter().map(|c| c.bytes()).sum::<usize>()
    }
}

fn span<T: Copy + Ord + Default>(values: &[T]) -> (T, T) {
    (values.iter().min().copied().unwrap_or_default(), values.iter().max().copied().unwrap_or_default())
}

struct Row<'a> {
    stored: &'a StoredEntry,
    later: Option<&'a StoredEntry>,
    part: u16,
    touched: Option<Touched<'a>>,
}

impl Row<'_> {
    fn sort(&self) -> Sort {
        let entry = &self.stored.entry;
        Sort {
            action: action(entry),
            denied: matches!(entry.payload, Payload::Denied(_) | Payload::Bypass(_)),
            control: entry.kind().is_control(),
            intent: entry.kind() == Kind::ReadIntent,
        }
    }

    fn context(&self) -> Context {
        let (reason, actor) = (&self.stored.entry.reason, self.stored.entry.actor.as_ref());
        Context {
            on_behalf_of: actor.and_then(|a| a.on_behalf_of.as_ref()).map(|p| p.0.clone()),
            environment: reason.environment.clone(),
            stage: Some(reason.stage.clone()).filter(|s| !s.is_empty()),
            region: reason.region.clone(),
            model: reason.model.clone(),
            model_version: reason.model_version,
            bundle: reason.bundle,
        }
    }

    fn target(&self, known: &Dictionaries) -> u32 {
        self.touched.as_ref().map_or(crate::intern::NONE, |t| {
            let key = TargetKey {
                dataset: t.dataset,
                version: t.version,
                made_at: t.made_at,
                quarantined: t.ordinal() >= 32_768,
            };
            known.targets.number(&key, |k| *k)
        })
    }

    fn measure(&self) -> Measure {
        end(&self.stored.entry, self.later.map(|l| &l.entry)).measure
    }

    fn ending(&self, known: &Dictionaries) -> Ending {
        Ending::new(&end(&self.stored.entry, self.later.map(|l| &l.entry)), self.later, known)
    }
}
