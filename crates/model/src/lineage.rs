//! Column-level lineage of one statement: complete, or marked as not exact.
//!
//! Invariants: indices (`TableIx`, `AtomIx`, `HopIx`) are in range; lists are sorted and free of repeats
//! except `outputs`, which is in output order.

use crate::{FieldId, RuleVersion, Rung, TableVersion};
use std::fmt;

/// Index into `Lineage::inputs`.
pub type TableIx = u32;
/// Index into `Lineage::atoms`.
pub type AtomIx = u32;
/// Index into `Lineage::hops`.
pub type HopIx = u32;

/// A policy's id: `@id` of a Cedar policy, or the name of a row set or guard.
pub type PolicyId = String;

/// A plain view that a reference went through, by name.
pub type ViewId = String;

/// How a value flows. `Ord`: along a path the larger wins.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Direct {
    /// The value itself.
    Identity,
    /// Through an expression.
    Transformation,
    /// Through an aggregate.
    Aggregation,
}

/// How a value decides without flowing.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Indirect {
    /// Decides which rows exist.
    Filter,
    /// Decides which rows meet.
    Join,
    /// Decides which rows share a group.
    GroupBy,
    /// Decides an order.
    Sort,
    /// Decides a window.
    Window,
    /// Decides between values.
    Conditional,
}

impl Direct {
    /// OpenLineage's subtype.
    pub fn word(self) -> &'static str {
        match self {
            Self::Identity => "IDENTITY",
            Self::Transformation => "TRANSFORMATION",
            Self::Aggregation => "AGGREGATION",
        }
    }
}

impl Indirect {
    /// OpenLineage's subtype.
    pub fn word(self) -> &'static str {
        match self {
            Self::Filter => "FILTER",
            Self::Join => "JOIN",
            Self::GroupBy => "GROUP_BY",
            Self::Sort => "SORT",
            Self::Window => "WINDOW",
            Self::Conditional => "CONDITIONAL",
        }
    }
}

impl fmt::Display for Direct {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.word().fmt(f)
    }
}

impl fmt::Display for Indirect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.word().fmt(f)
    }
}

/// A source of influence: a column of a table, or the existence of its rows, with what stood in between.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Atom {
    /// The table.
    pub table: TableIx,
    /// The column; `None`: which rows exist.
    pub field: Option<FieldId>,
    /// Plain views on the way, outermost first.
    pub views: Vec<ViewId>,
    /// Masks on the way: the policy and the rung it left.
    pub masks: Vec<(PolicyId, Rung)>,
    /// Set where policy reads the column, not the user: the mask's policy, row set or guard.
    pub by_policy: Option<PolicyId>,
    /// Declassification rules that applied.
    pub rules: Vec<RuleVersion>,
}

/// One output column.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct OutputFlow {
    /// Its name.
    pub name: String,
    /// What its value is made of.
    pub direct: Vec<(Direct, AtomIx)>,
    /// What decides its value, beyond the influences on every output.
    pub field: Vec<Influence>,
    /// The expressions on the way, outermost first.
    pub hops: Vec<HopIx>,
}

/// An INDIRECT influence.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Influence {
    /// How.
    pub kind: Indirect,
    /// By what.
    pub atom: AtomIx,
}

/// One expression on a path.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Hop {
    /// The plan node, numbered in walk order.
    pub node: u32,
    /// Which of its outputs.
    pub output: u32,
    /// Which outputs of which nodes it reads.
    pub from: Vec<(u32, u32)>,
    /// The expression's text.
    pub text: String,
}

impl Hop {
    /// In `from`: not an output of a node but an atom of the lineage.
    pub const ATOMS: u32 = u32::MAX;
    /// In `output`: the hop decides rows of its node, and the low bits are the `Indirect` that says how.
    pub const DECIDES: u32 = 1 << 31;
}

/// The lineage of one statement.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Lineage {
    /// Whether every node was understood.
    pub exact: bool,
    /// The nodes that were not.
    pub unknown: Vec<String>,
    /// Whether a volatile function takes part.
    pub volatile: bool,
    /// Tables read.
    pub inputs: Vec<TableVersion>,
    /// Sources of influence.
    pub atoms: Vec<Atom>,
    /// Output columns in order.
    pub outputs: Vec<OutputFlow>,
    /// Influences on every output: which rows exist, and in which order.
    pub dataset: Vec<Influence>,
    /// Columns that an expression reads, so that their values can make the statement fail.
    pub evaluated: Vec<AtomIx>,
    /// Expressions on the way; empty unless asked for.
    pub hops: Vec<Hop>,
    /// Whether the texts of the hops have `?` for every literal: only such hops are recorded.
    pub shapes: bool,
}

impl Lineage {
    /// The atom at an index. Out of range: `None`, which no well-formed lineage gives.
    pub fn atom(&self, ix: AtomIx) -> Option<&Atom> {
        self.atoms.get(ix as usize)
    }

    /// The text of the outermost expression that makes an output's value.
    pub fn text_of(&self, output: &OutputFlow) -> Option<&str> {
        self.hops.get(*output.hops.first()? as usize).map(|hop| hop.text.as_str())
    }

    /// The text of the outermost expression by which an atom decides rows.
    pub fn text_of_rows(&self, kind: Indirect, atom: AtomIx) -> Option<&str> {
        let decides = |hop: &&Hop| hop.output == Hop::DECIDES | kind as u32 && hop.from.contains(&(Hop::ATOMS, atom));
        self.hops.iter().rev().find(decides).map(|hop| hop.text.as_str()).filter(|text| !text.is_empty())
    }

    /// The input table an atom belongs to.
    pub fn table(&self, atom: &Atom) -> Option<&TableVersion> {
        self.inputs.get(atom.table as usize)
    }
}
