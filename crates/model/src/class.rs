//! Classes of data, rungs of disclosure, labels and the rules that lower them.

use std::{collections::BTreeSet, fmt};

/// A class of data, such as `pii` or `clinical`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Class(pub String);

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The class of what comes from a column without any. Else a permit for the classes of other columns that are mixed in would
/// open what nobody has classified.
pub const UNCLASSIFIED: &str = "unclassified";

/// Classes, closed under `UNDER` where a bundle has closed them.
pub type ClassSet = BTreeSet<Class>;

/// How much of a column a reader gets, from nothing to the value. `Ord` is the ladder.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Rung {
    /// Not in the schema.
    None,
    /// Only inside aggregates over large enough groups.
    Aggregate,
    /// NULL or a constant.
    Redact,
    /// A keyed pseudonym.
    Token,
    /// A coarser value: a year, a prefix, a bucket.
    Partial,
    /// The value.
    Raw,
}

impl Rung {
    /// All rungs, lowest first.
    pub const ALL: [Self; 6] = [Self::None, Self::Aggregate, Self::Redact, Self::Token, Self::Partial, Self::Raw];

    /// The rung's word in SQL, Cedar actions and system tables.
    pub fn word(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Aggregate => "aggregate",
            Self::Redact => "redact",
            Self::Token => "token",
            Self::Partial => "partial",
            Self::Raw => "raw",
        }
    }
}

impl fmt::Display for Rung {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.word().fmt(f)
    }
}

/// Whether a class comes with the value or with an influence on it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Part {
    /// By DIRECT lineage.
    Explicit,
    /// By INDIRECT lineage.
    Implicit,
}

/// The classes of one output column, kept apart by how they reached it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ClassLabel {
    /// By DIRECT lineage.
    pub explicit: ClassSet,
    /// By INDIRECT lineage.
    pub implicit: ClassSet,
}

/// One version of one declassification rule.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct RuleVersion {
    /// The rule's name in the bundle.
    pub rule: String,
    /// The epoch of the bundle that holds it.
    pub epoch: u64,
}

/// What a declassification rule matches.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum DeclassificationTarget {
    /// Any of these aggregate functions.
    Aggregates(Vec<String>),
    /// A mask at this rung.
    Mask(Rung),
    /// A scalar function.
    Function(String),
}

/// A named, reviewed rule that lowers labels.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Declassification {
    /// Name and bundle epoch.
    pub version: RuleVersion,
    /// What it matches.
    pub target: DeclassificationTarget,
    /// The class it removes.
    pub removes: Class,
    /// A class it leaves instead.
    pub replaces_with: Option<Class>,
    /// From which parts of the label.
    pub from: BTreeSet<Part>,
    /// Smallest group, counted in distinct values of the named column.
    pub group: Option<(u64, String)>,
}
