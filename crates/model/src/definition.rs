//! What a dataset is: its columns, keys, times, owner and text.

use crate::{ControlSeq, DatasetId, DatasetName, FieldId, Hash, Node, Purpose, WallMicros};
use arrow_schema::DataType;
use std::{collections::BTreeSet, fmt};

/// What kind of dataset.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum DatasetKind {
    /// Data from elsewhere, read at recorded snapshots.
    Source,
    /// Computed by SQL, published in versions.
    FeatureView,
    /// A spine with features, published in versions.
    TrainingSet,
    /// A plain view: text, never materialised.
    View,
    /// Known only by name, from imported lineage.
    External,
    /// A table of the catalog `system`.
    System,
}

impl DatasetKind {
    /// The kind's word in system tables.
    pub fn word(self) -> &'static str {
        match self {
            Self::Source => "source",
            Self::FeatureView => "feature_view",
            Self::TrainingSet => "training_set",
            Self::View => "view",
            Self::External => "external",
            Self::System => "system",
        }
    }
}

/// One column of a dataset version.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ColumnDef {
    /// Its identity across versions.
    pub field: FieldId,
    /// Its name in this version.
    pub name: String,
    /// Its Arrow type. In SQL and the ledger: `DataType`'s `Display` text.
    pub data_type: DataType,
    /// Whether it may hold NULL.
    pub nullable: bool,
}

/// What a dataset is, as declared by a project file and frozen by a publish or snapshot.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DatasetDefinition {
    /// Derived from the first name.
    pub id: DatasetId,
    /// Its present name.
    pub name: DatasetName,
    /// What it is.
    pub kind: DatasetKind,
    /// Its columns in order; ordinal = position + 1.
    pub columns: Vec<ColumnDef>,
    /// The entity its keys identify, such as `patient`.
    pub entity: Option<String>,
    /// Columns that identify the entity.
    pub keys: Vec<FieldId>,
    /// When the row became true.
    pub event_time: Option<FieldId>,
    /// When the row became known.
    pub known_time: Option<FieldId>,
    /// How long a value holds, as written (`5 years`).
    pub ttl: Option<String>,
    /// A principal or role.
    pub owner: String,
    /// What it may be read for; empty: not restricted.
    pub purposes: BTreeSet<Purpose>,
    /// Free text.
    pub comment: Option<String>,
    /// The text of the statement that declares it.
    pub sql: String,
}

impl DatasetDefinition {
    /// The column with this field id.
    pub fn column(&self, field: FieldId) -> Option<&ColumnDef> {
        self.columns.iter().find(|c| c.field == field)
    }

    /// The column with this name.
    pub fn column_named(&self, name: &str) -> Option<&ColumnDef> {
        self.columns.iter().find(|c| c.name == name)
    }

    /// From 1; `None` where no such column is in this version.
    pub fn ordinal(&self, field: FieldId) -> Option<u16> {
        self.columns.iter().position(|c| c.field == field).and_then(|i| u16::try_from(i + 1).ok())
    }
}

/// Which version of a dataset a reference asks for.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub enum Pin {
    /// The newest at the moment the statement starts.
    #[default]
    Newest,
    /// `VERSION n`, `VERSION AS OF n`.
    Version(u64),
    /// `TIMESTAMP AS OF t`: the newest published by then.
    At(WallMicros),
}

/// A dataset at a version: what every reference in a statement is pinned to before anything is planned.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TableVersion {
    /// The dataset.
    pub dataset: DatasetId,
    /// Its name when pinned.
    pub name: DatasetName,
    /// The n-th publish, the n-th recorded snapshot, a Delta version, or the watermark of a system table.
    pub version: u64,
    /// The control position of the entry that made the version; 0 for system tables.
    pub made_at: ControlSeq,
    /// What the version holds: content root of a publish, snapshot hash of a source.
    pub content: Hash,
}

impl TableVersion {
    /// The node of one of its columns.
    pub fn node(&self, ordinal: u16) -> Node {
        Node::new(self.made_at, ordinal)
    }
}

impl fmt::Display for TableVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.name, self.version)
    }
}

impl fmt::Debug for TableVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}
