//! What a decision gives: rungs and masks by column, rows, and why. Everything here is data.

use custody_model::{
    Approvals, Class, DatasetId, Durability, FieldId, Hash, PolicyId, Principal, Purpose, Rung, WallNanos,
};
use datafusion_common::ScalarValue;
use datafusion_expr::Expr;
use std::collections::{BTreeMap, BTreeSet};

/// What a decision may look at about a table: the catalog fold at one control position.
#[derive(Clone, PartialEq, Debug)]
pub struct TableFacts {
    /// The dataset.
    pub dataset: DatasetId,
    /// Its name: the id in Cedar.
    pub name: custody_model::DatasetName,
    /// Its owner.
    pub owner: Principal,
    /// Purposes it may be read for; empty: any.
    pub purposes: BTreeSet<Purpose>,
    /// The columns of the version read, in order.
    pub columns: Vec<ColumnFacts>,
    /// Versions of the token keys that masks of this table may use, by key id: a new key makes other tokens, so it makes
    /// another grant.
    pub token_keys: BTreeMap<String, Hash>,
}

/// What a decision may look at about a column.
#[derive(Clone, PartialEq, Debug)]
pub struct ColumnFacts {
    /// Its identity.
    pub field: FieldId,
    /// Its name in the version read.
    pub name: String,
    /// Its type in the version read.
    pub data_type: arrow_schema::DataType,
    /// Its classes: tags and labels, closed under `UNDER`.
    pub classes: BTreeSet<Class>,
    /// Unexpired approvals for this subject, with their expiry.
    pub approved: BTreeMap<Rung, WallNanos>,
}

impl TableFacts {
    /// The same, with what is approved for one subject.
    #[must_use]
    pub fn with_approvals(mut self, approvals: &Approvals) -> Self {
        for column in &mut self.columns {
            column.approved = approvals.get(&column.field).cloned().unwrap_or_default();
        }
        self
    }
}

/// How a column is masked. Every mask is total, keeps the type and reads raw columns of its own row.
#[derive(Clone, PartialEq, Debug)]
pub enum Mask {
    /// NULL.
    Null,
    /// A constant of the column's type.
    Const(ScalarValue),
    /// HMAC-SHA3-256 under a named key: text → 26 base32 characters, Int64 → 63 bits.
    Token {
        /// Which key; plans hold ids, never keys.
        key: String,
        /// Separates uses of one key.
        domain: String,
    },
    /// The first n characters and `***`.
    First(u32),
    /// `***` and the last n characters.
    Last(u32),
    /// The first day of the year.
    Year,
    /// The first day of the month.
    Month,
    /// The lower bound of a bucket of this width, saturating.
    Bucket(u64),
}

/// What a reader gets of one column.
#[derive(Clone, PartialEq, Debug)]
pub struct ColumnGrant {
    /// The column.
    pub field: FieldId,
    /// Its name in the version read.
    pub name: String,
    /// The rung. `None`: not in the governed relation's schema.
    pub rung: Rung,
    /// Set when the rung is redact, token or partial.
    pub mask: Option<Mask>,
    /// Permits that gave this rung and forbids above it.
    pub policies: Vec<PolicyId>,
}

/// Which rows a reader gets.
#[derive(Clone, PartialEq, Debug)]
pub enum RowGrant {
    /// All.
    All,
    /// None.
    Nothing,
    /// Those that pass.
    Where(RowPredicate),
}

/// OR of the permitted row sets AND every guard that is not skipped. Expressions are Boolean, over unqualified raw
/// columns by their names in the version read, attributes bound as literals. Row sets may be empty (guards only).
#[derive(Clone, PartialEq, Debug)]
pub struct RowPredicate {
    /// Row sets, by name; a row passes when any is TRUE, or when there are none.
    pub sets: Vec<(PolicyId, Expr)>,
    /// Guards, by name; a row passes when all are TRUE.
    pub guards: Vec<(PolicyId, Expr)>,
}

/// The least size of a group for aggregate-only columns.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct GroupFloor {
    /// Distinct values needed.
    pub least: u64,
    /// Of this column.
    pub counting: FieldId,
}

/// A decision about one table for one subject.
#[derive(Clone, PartialEq, Debug)]
pub struct Grant {
    /// Every column of the facts, in order.
    pub columns: Vec<ColumnGrant>,
    /// Rows.
    pub rows: RowGrant,
    /// Group floor for aggregate-only columns.
    pub floor: Option<GroupFloor>,
    /// Least durability of the entries of a read.
    pub durability: Durability,
    /// Whether the subject may see plans, files and policy's own columns.
    pub explain_raw: bool,
    /// Whether the subject may publish to, or record snapshots of, this table.
    pub publish: bool,
    /// Whether the subject may apply declassification rules to it.
    pub declassify: bool,
    /// Earliest expiry of an approval that took part.
    pub valid_until: Option<WallNanos>,
    /// Permits and forbids that decided rows and actions on the table.
    pub policies: Vec<PolicyId>,
    /// Policies that could not be evaluated, and row sets that do not fit the version read. Any: nothing is granted.
    pub failed: Vec<PolicyId>,
    /// SHA3-256 over everything that decided.
    pub hash: Hash,
}

impl Grant {
    /// Whether the table exists for this subject at all: some column above `none`.
    pub fn visible(&self) -> bool {
        self.columns.iter().any(|c| c.rung > Rung::None)
    }

    /// All columns raw, all rows: an open barrier forwards everything.
    pub fn open(&self) -> bool {
        self.rows == RowGrant::All && self.columns.iter().all(|c| c.rung == Rung::Raw)
    }

    /// Names of the row sets and guards that apply.
    pub fn row_sets(&self) -> Vec<PolicyId> {
        match &self.rows {
            RowGrant::All | RowGrant::Nothing => vec![],
            RowGrant::Where(p) => p.sets.iter().chain(&p.guards).map(|(id, _)| id.clone()).collect(),
        }
    }
}
