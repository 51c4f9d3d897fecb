//! Conditions that a scan of `system.access.audit` answers itself, chunk by chunk.
//!
//! INVARIANT: a condition has an answer for every row, and NULL is never an answer `true`: nothing here can fail, so that
//! no row that the viewer may not see can be told from its absence.

use crate::{
    audit::chunk::{Chunk, Coded},
    audit::scan::View,
    intern::{Dictionaries, NONE},
};
use std::{collections::BTreeSet, hash::Hash, ops::RangeInclusive};

/// A condition on rows of `system.access.audit`, as in SQL's WHERE: a row for which it is NULL does not satisfy it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Condition {
    /// All of them.
    All(Vec<Condition>),
    /// One of them.
    Any(Vec<Condition>),
    /// The column has one of these values.
    Is(AuditColumn, BTreeSet<String>),
    /// The column has a value, which is none of these.
    IsNot(AuditColumn, BTreeSet<String>),
    /// The column is NULL.
    Null(AuditColumn),
    /// `event_time`, in microseconds.
    Time(RangeInclusive<i64>),
    /// `entry_id` is one of these.
    Entry(BTreeSet<u128>),
}

/// A column whose values repeat.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[expect(missing_docs, reason = "the names of the columns")]
pub enum AuditColumn {
    Principal,
    Purpose,
    Dataset,
    Action,
    Ticket,
    Session,
    Environment,
    Stage,
    Model,
    Decision,
}

impl AuditColumn {
    /// The column with this name, where it is one of them.
    pub fn named(name: &str) -> Option<Self> {
        Some(match name {
            "principal" => Self::Principal,
            "purpose" => Self::Purpose,
            "dataset" => Self::Dataset,
            "action" => Self::Action,
            "ticket" => Self::Ticket,
            "session" => Self::Session,
            "environment" => Self::Environment,
            "stage" => Self::Stage,
            "model" => Self::Model,
            "decision" => Self::Decision,
            _ => return None,
        })
    }
}

/// Which rows of a chunk.
pub(crate) enum Rows {
    All,
    Nothing,
    Some(Vec<bool>),
}

impl Rows {
    pub(crate) fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::Nothing, _) | (_, Self::Nothing) => Self::Nothing,
            (Self::All, rows) | (rows, Self::All) => rows,
            (Self::Some(mut a), Self::Some(b)) => {
                a.iter_mut().zip(&b).for_each(|(a, b)| *a &= b);
                Self::Some(a)
            }
        }
    }

    fn or(self, other: Self) -> Self {
        match (self, other) {
            (Self::All, _) | (_, Self::All) => Self::All,
            (Self::Nothing, rows) | (rows, Self::Nothing) => rows,
            (Self::Some(mut a), Self::Some(b)) => {
                a.iter_mut().zip(&b).for_each(|(a, b)| *a |= b);
                Self::Some(a)
            }
        }
    }

    /// The rows whose value satisfies.
    pub(crate) fn of<T: Copy + Eq + Hash>(column: &Coded<T>, satisfies: impl Fn(T) -> bool) -> Self {
        let values: Vec<bool> = column.values.iter().map(|v| satisfies(*v)).collect();
        if values.iter().all(|v| *v) {
            return Self::All;
        }
        if values.iter().all(|v| !*v) {
            return Self::Nothing;
        }
        match column.codes() {
            None => Self::Nothing,
            Some(codes) => Self::Some(codes.iter().map(|c| values[usize::from(*c)]).collect()),
        }
    }

    pub(crate) fn each(len: usize, satisfies: impl Fn(usize) -> bool) -> Self {
        Self::Some((0..len).map(satisfies).collect())
    }
}

/// A condition with the numbers of its values looked up once.
#[derive(Debug)]
pub(crate) enum Lookup {
    All(Vec<Lookup>),
    Any(Vec<Lookup>),
    Texts(AuditColumn, Vec<u32>, Wants),
    Numbers(AuditColumn, Vec<bool>, Wants),
    Words(AuditColumn, BTreeSet<String>, Wants),
    Time(RangeInclusive<i64>),
    Entry(BTreeSet<u128>),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Wants {
    One,
    Other,
    Null,
}

impl Lookup {
    pub(crate) fn new(condition: &Condition, known: &Dictionaries, view: &View) -> Self {
        let empty = BTreeSet::new();
        let all = |of: &[Condition]| of.iter().map(|c| Self::new(c, known, view)).collect();
        let (column, values, wants) = match condition {
            Condition::All(of) => return Self::All(all(of)),
            Condition::Any(of) => return Self::Any(all(of)),
            Condition::Time(range) => return Self::Time(range.clone()),
            Condition::Entry(ids) => return Self::Entry(ids.clone()),
            Condition::Is(column, values) => (*column, values, Wants::One),
            Condition::IsNot(column, values) => (*column, values, Wants::Other),
            Condition::Null(column) => (*column, &empty, Wants::Null),
        };
        let context = |value: fn(&crate::intern::Context) -> Option<&str>| {
            known.contexts.read(|all| all.iter().map(|c| satisfies(value(c), values, wants)).collect())
        };
        match column {
            AuditColumn::Principal | AuditColumn::Purpose | AuditColumn::Ticket | AuditColumn::Session => {
                Self::Texts(column, values.iter().filter_map(|v| known.texts.find(v.as_str())).collect(), wants)
            }
            AuditColumn::Dataset => {
                let names = view.names.iter().map(|name| satisfies(name.as_deref(), values, wants));
                Self::Numbers(column, names.collect(), wants)
            }
            AuditColumn::Environment => Self::Numbers(column, context(|c| Some(&c.environment)), wants),
            AuditColumn::Stage => Self::Numbers(column, context(|c| c.stage.as_deref()), wants),
            AuditColumn::Model => Self::Numbers(column, context(|c| c.model.as_deref()), wants),
            AuditColumn::Action | AuditColumn::Decision => Self::Words(column, values.clone(), wants),
        }
    }

    /// Rows within these times.
    pub(crate) fn times(chunk: &Chunk, range: &RangeInclusive<i64>) -> Rows {
        let (least, most) = chunk.times_span;
        if range.contains(&least) && range.contains(&most) {
            Rows::All
        } else if range.is_empty() || least > *range.end() || most < *range.start() {
            Rows::Nothing
        } else {
            Rows::Some(chunk.times.iter().map(|t| range.contains(t)).collect())
        }
    }

    pub(crate) fn rows(&self, chunk: &Chunk) -> Rows {
        match self {
            Self::All(of) => of.iter().fold(Rows::All, |rows, c| match rows {
                Rows::Nothing => Rows::Nothing,
                rows => rows.and(c.rows(chunk)),
            }),
            Self::Any(of) => of.iter().fold(Rows::Nothing, |rows, c| rows.or(c.rows(chunk))),
            Self::Texts(column, numbers, wants) => Rows::of(texts(chunk, *column), |number| match wants {
                Wants::One => numbers.contains(&number),
                Wants::Other => number != NONE && !numbers.contains(&number),
                Wants::Null => number == NONE,
            }),
            Self::Numbers(column, satisfying, wants) => {
                let numbers = if *column == AuditColumn::Dataset { &chunk.targets } else { &chunk.contexts };
                Rows::of(numbers, |number| match satisfying.get(number as usize) {
                    Some(satisfies) => *satisfies,
                    None => *wants == Wants::Null,
                })
            }
            Self::Words(column, values, wants) => Rows::of(&chunk.sorts, |sort| {
                let word = if *column == AuditColumn::Action { sort.action } else { decision(sort.denied) };
                satisfies(Some(word), values, *wants)
            }),
            Self::Time(range) => Self::times(chunk, range),
            Self::Entry(ids) if !ids.iter().any(|id| chunk.row_of(*id).is_some()) => Rows::Nothing,
            Self::Entry(ids) => Rows::Some(chunk.ids.iter().map(|id| ids.contains(id)).collect()),
        }
    }
}

pub(crate) fn decision(denied: bool) -> &'static str {
    if denied { "deny" } else { "allow" }
}

fn satisfies(value: Option<&str>, values: &BTreeSet<String>, wants: Wants) -> bool {
    match (value, wants) {
        (Some(value), Wants::One) => values.contains(value),
        (Some(value), Wants::Other) => !values.contains(value),
        (None, Wants::Null) => true,
        (Some(_), Wants::Null) | (None, Wants::One | Wants::Other) => false,
    }
}

fn texts(chunk: &Chunk, column: AuditColumn) -> &Coded<u32> {
    match column {
        AuditColumn::Purpose => &chunk.purposes,
        AuditColumn::Ticket => &chunk.tickets,
        AuditColumn::Session => &chunk.sessions,
        AuditColumn::Principal
        | AuditColumn::Dataset
        | AuditColumn::Action
        | AuditColumn::Environment
        | AuditColumn::Stage
        | AuditColumn::Model
        | AuditColumn::Decision => &chunk.principals,
    }
}
