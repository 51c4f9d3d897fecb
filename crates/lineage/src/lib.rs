#![forbid(unsafe_code)]
//! Lineage of one statement: which columns flow into which outputs, and which only decide.
//!
//! What holds here:
//! - The walk reads the plan that `create_logical_plan` gave, before parameters, analyzer and optimizer.
//! - Complete or refused: every node and every expression has a rule; one that has none makes every output depend
//!   on every column below it and the lineage not exact; a source that cannot be named refuses.
//! - Pure: no clock, no I/O, no session. Identity of sources comes through [`Leaves`].
//!
//! Deliberately absent: storage formats (`ledger`), the decision to refuse a publish (`engine`).

mod barrier;
mod error;
mod expr;
mod extract;
mod flow;
mod label;
mod node;
mod rule;
mod text;
mod view;

#[cfg(test)]
mod differential;
#[cfg(test)]
mod perturb;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod tpc;

pub use error::{Refusal, require_exact};
pub use extract::extract;
pub use label::labels;
pub use view::{ColumnUse, LineageRow, column_roles, requested, rows};

use custody_model::{FieldId, TableVersion, ViewId};
use datafusion_expr::{Expr, TableScan, UserDefinedLogicalNode};

/// Names the sources of a plan. `engine` implements it over its own providers and nodes.
pub trait Leaves {
    /// What a scan reads.
    fn scan(&self, scan: &TableScan) -> Leaf;
    /// What a node of ours means.
    fn node<'a>(&self, node: &'a dyn UserDefinedLogicalNode) -> NodeRule<'a>;
}

/// What a scan reads.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Leaf {
    /// A table, with the field id of each column of the provider's schema, in order.
    Table(TableVersion, Vec<FieldId>),
    /// The work table of the enclosing recursive query of this name.
    WorkTable(String),
    /// A table function, with the tables and columns its provider reads; none for `range` and its kin.
    Function(Vec<(TableVersion, Vec<FieldId>)>),
    /// Anything else: refused.
    Unknown,
}

/// What an extension node means.
#[derive(Clone, Debug)]
pub enum NodeRule<'a> {
    /// Output *i* is the governed column `fields[i]` of this table version; below lies what policy reads.
    Barrier(TableVersion, &'a [FieldId]),
    /// Output *i* is the column `fields[i]` of this table version; what lies below is not looked at.
    Source(TableVersion, &'a [FieldId]),
    /// One input, passed through: the text of this plain view.
    View(ViewId),
    /// Two inputs, left rows kept, right columns by these keys and times.
    AsOf(&'a [Expr]),
    /// One input, passed through, and a column that tells groups apart: `by` decides which rows remain, and which lose the
    /// values of the columns `groups`.
    Floor {
        /// What decides.
        by: Vec<Expr>,
        /// Which columns.
        groups: Vec<usize>,
    },
    /// Not understood.
    Unknown,
}

/// What a walk may cost.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// Plan nodes once sharing is expanded.
    pub nodes: u64,
    /// Distinct sources.
    pub atoms: usize,
    /// Nesting of nodes and expressions.
    pub depth: usize,
    /// What to keep of the text of expressions.
    pub text: Text,
}

/// What a lineage keeps of the text of expressions.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Text {
    /// Nothing: for reads, which only need sources.
    #[default]
    None,
    /// Expressions with `?` for every literal, and only the names of row sets: what a publish records.
    Shape,
    /// Everything: for `EXPLAIN LINEAGE`.
    Full,
}

impl Default for Limits {
    fn default() -> Self {
        Self { nodes: 20_000, atoms: 65_536, depth: 1_024, text: Text::None }
    }
}
