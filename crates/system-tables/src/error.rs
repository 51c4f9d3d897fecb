//! Why a system table cannot be shown.

use custody_model::{DatasetName, Seq, TableVersion, WriterId};

/// Why a system table cannot be shown.
#[derive(Debug, thiserror::Error)]
pub enum SystemError {
    /// No such table.
    #[error("table `{0}` not found")]
    NoTable(DatasetName),
    /// A writer's entries are not dense.
    #[error("entry {writer}/{found} follows {writer}/{at}: the entries between are missing")]
    NotDense {
        /// Whose chain.
        writer: WriterId,
        /// The newest entry taken.
        at: Seq,
        /// The entry offered.
        found: Seq,
    },
    /// A version's publish entry has arrived before its lineage.
    #[error("lineage of `{0}` is not in the entries read so far; help: try again, another process is still writing it")]
    LineageMissing(Box<TableVersion>),
    /// A publish entry names an entry that is not its lineage.
    #[error("lineage of `{0}` does not belong to it")]
    LineageMismatch(Box<TableVersion>),
    /// A lineage names a column that its input does not have.
    #[error("lineage of `{version}` names a column that `{input}` does not have")]
    UnknownColumn {
        /// The version whose lineage it is.
        version: Box<TableVersion>,
        /// The input.
        input: Box<TableVersion>,
    },
    /// A number that a 64-bit integer column cannot hold.
    #[error("`{value}` does not fit column `{column}`, which holds 64-bit integers")]
    TooLarge {
        /// The column.
        column: &'static str,
        /// The value.
        value: u64,
    },
    /// What the engine knows could not be had.
    #[error("{0}")]
    Facts(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// A table was built otherwise than it is declared.
    #[error("column {at} of `{table}` was built with another type than it is declared with")]
    Shape {
        /// The table.
        table: DatasetName,
        /// Which column, from 0.
        at: usize,
    },
    /// Arrow could not make a batch.
    #[error("batch of a system table cannot be made")]
    Arrow(#[from] arrow::error::ArrowError),
}
