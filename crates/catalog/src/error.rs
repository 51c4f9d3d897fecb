//! Why an entry does not fit the catalog so far.

use custody_model::{ControlSeq, DatasetId, DatasetKind, DatasetName, EntryId, Kind};

/// An entry contradicts the entries before it. Nothing was changed.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum FoldError {
    /// A control position is missing or comes twice.
    #[error("control entry {found} follows {at}: entry {} is missing", at.0 + 1)]
    NotDense {
        /// The newest position folded.
        at: ControlSeq,
        /// The position of the entry offered.
        found: ControlSeq,
    },
    /// A bundle gives classes to a version that was not published.
    #[error("no version was published by control entry {0}")]
    UnknownVersion(ControlSeq),
    /// The kind takes no place in the control order.
    #[error("entry of kind `{}` is not a control entry", .0.word())]
    NotControl(Kind),
    /// A version, draft, view or bundle that nobody made.
    #[error("control entry {0} names no principal")]
    NoPrincipal(ControlSeq),
    /// Another dataset has the name.
    #[error("`{name}` is the name of dataset {holder} already, and cannot be that of {claimant}")]
    NameTaken {
        /// The name.
        name: DatasetName,
        /// Who has it.
        holder: DatasetId,
        /// Who wants it.
        claimant: DatasetId,
    },
    /// A dataset stays what it is.
    #[error("`{name}` is a {} and cannot become a {}", was.word(), becomes.word())]
    KindChanged {
        /// Its name.
        name: DatasetName,
        /// What it is.
        was: DatasetKind,
        /// What the entry makes of it.
        becomes: DatasetKind,
    },
    /// The definition is of a kind that this entry cannot carry.
    #[error("a {} cannot be recorded by this entry", .0.word())]
    WrongKind(DatasetKind),
    /// Publishes of a dataset are numbered densely from 1.
    #[error("`{name}@{found}` cannot be published: the next version is {expected}")]
    VersionNotNext {
        /// The dataset.
        name: DatasetName,
        /// The version that would be next.
        expected: u64,
        /// The version in the entry.
        found: u64,
    },
    /// Versions of a model are numbered densely from 1.
    #[error("model `{name}@{found}` cannot be registered: the next version is {expected}")]
    ModelNotNext {
        /// The model.
        name: String,
        /// The version that would be next.
        expected: u64,
        /// The version in the entry.
        found: u64,
    },
    /// A column's identity is used twice, or its name is.
    #[error("column `{column}` of `{name}` is declared twice")]
    RepeatedColumn {
        /// The dataset.
        name: DatasetName,
        /// The column.
        column: String,
    },
    /// One label a column.
    #[error("`{name}` has {columns} columns and {labels} labels")]
    LabelCount {
        /// The dataset.
        name: DatasetName,
        /// How many columns.
        columns: usize,
        /// How many labels.
        labels: usize,
    },
    /// Attributes of a dataset that does not exist.
    #[error("dataset {0} is not in the catalog")]
    UnknownDataset(DatasetId),
    /// A request, or access that was given, which is not there or has its answer.
    #[error("entry {0} asks for or gives no access that waits for an answer")]
    UnknownAccess(EntryId),
    /// Access goes to who asked for it, from somebody else.
    #[error("what entry {0} asks for is given to somebody else, or by whoever asked")]
    OwnRequest(EntryId),
    /// A bundle's epoch is not the next one.
    #[error("policy bundle has epoch {found}, expected {expected}")]
    EpochNotNext {
        /// The epoch that would be next.
        expected: u64,
        /// The epoch in the entry.
        found: u64,
    },
}
