//! What the fold keeps: datasets with their versions, drafts, bundles.

use custody_model::{
    AttributeChange, ClassLabel, ColumnDef, ControlSeq, DatasetDefinition, DatasetId, DatasetKind, DatasetName,
    DraftRecord, EntryId, FieldId, Hash, ModelRecord, PolicyBundleRecord, Principal, Publish, Purpose, SourceSnapshot,
    TableVersion, ViewRecord, WallNanos,
};
use std::{collections::BTreeSet, sync::Arc};

/// One dataset as it stands at the catalog's position.
#[derive(Clone, PartialEq, Debug)]
pub struct Dataset {
    pub(crate) definition: Arc<DatasetDefinition>,
    pub(crate) versions: Vec<Arc<VersionRecord>>,
    pub(crate) view: Option<Arc<PlainView>>,
    pub(crate) created_at: WallNanos,
    pub(crate) created_by: EntryId,
    pub(crate) entry: EntryId,
    pub(crate) made_at: ControlSeq,
    pub(crate) last_field: u32,
}

impl Dataset {
    /// Its id, which renames keep.
    pub fn id(&self) -> DatasetId {
        self.definition.id
    }

    /// Its present name.
    pub fn name(&self) -> &DatasetName {
        &self.definition.name
    }

    /// What it is.
    pub fn kind(&self) -> DatasetKind {
        self.definition.kind
    }

    /// What it is now: the newest version's definition, with later changes of owner, purposes and comment.
    pub fn definition(&self) -> &Arc<DatasetDefinition> {
        &self.definition
    }

    /// Its present owner: a principal or role.
    pub fn owner(&self) -> &str {
        &self.definition.owner
    }

    /// What it may be read for now; empty: not restricted.
    pub fn purposes(&self) -> &BTreeSet<Purpose> {
        &self.definition.purposes
    }

    /// Its versions in the order they became visible. Plain views and external datasets have none.
    pub fn versions(&self) -> &[Arc<VersionRecord>] {
        &self.versions
    }

    /// The newest version that may be used, at or before a position.
    pub fn newest_usable(&self, at: ControlSeq) -> Option<&Arc<VersionRecord>> {
        self.versions.iter().rev().find(|v| v.table.made_at <= at && v.status != VersionStatus::Revoked)
    }

    /// The newest version.
    pub fn newest(&self) -> Option<&Arc<VersionRecord>> {
        self.versions.last()
    }

    /// The version with this number; of a source recorded more than once at it, the newest record.
    pub fn version(&self, number: u64) -> Option<&Arc<VersionRecord>> {
        self.versions.iter().rev().find(|v| v.table.version == number)
    }

    /// What a plain view is now.
    pub fn view(&self) -> Option<&Arc<PlainView>> {
        self.view.as_ref()
    }

    /// What is read under its name: its newest version or a plain view, with the classes of the columns by their lineage.
    /// Nothing of an external dataset.
    pub fn readable(&self) -> Option<(&TableVersion, &DatasetDefinition, &[ClassLabel])> {
        let view = self.view.as_ref().map(|v| (&v.table, &v.record.definition, v.record.labels.as_slice()));
        view.or_else(|| self.newest().map(|v| (&v.table, v.definition(), v.labels().unwrap_or_default())))
    }

    /// When its first entry was written.
    pub fn created_at(&self) -> WallNanos {
        self.created_at
    }

    /// Its first entry.
    pub fn created_by(&self) -> EntryId {
        self.created_by
    }

    /// The entry that last changed it.
    pub fn entry(&self) -> EntryId {
        self.entry
    }

    /// The control position of its first entry; the node of an external dataset.
    pub fn made_at(&self) -> ControlSeq {
        self.made_at
    }

    pub(crate) fn change(&mut self, change: &AttributeChange, entry: EntryId) {
        let definition = Arc::make_mut(&mut self.definition);
        if let Some(owner) = &change.owner {
            definition.owner.clone_from(owner);
        }
        if let Some(purposes) = &change.purposes {
            definition.purposes.clone_from(purposes);
        }
        if let Some(comment) = &change.comment {
            definition.comment = Some(comment.clone());
        }
        if let Some(name) = &change.name {
            definition.name.clone_from(name);
        }
        self.entry = entry;
    }
}

/// A plain view as one entry recorded it.
#[derive(Clone, PartialEq, Debug)]
pub struct PlainView {
    /// The dataset, its name then, which record of it this is (from 1), and the hash of its text.
    pub table: TableVersion,
    /// What the entry says.
    pub record: ViewRecord,
}

/// What made a version, with what is known only of its kind.
#[derive(Clone, PartialEq, Debug)]
pub enum Made {
    /// A publish of a feature view or training set.
    Published(Box<Publish>),
    /// A recorded snapshot of a source.
    Snapshot(Box<SourceSnapshot>),
}

/// Whether a version may be used.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum VersionStatus {
    /// Yes.
    Published,
    /// Yes, but it is advised against.
    Deprecated,
    /// No. Its rows stay for whoever has to show what was done with them.
    Revoked,
}

impl VersionStatus {
    /// The word in `system.catalog.versions.status`.
    pub fn word(self) -> &'static str {
        match self {
            Self::Published => "published",
            Self::Deprecated => "deprecated",
            Self::Revoked => "revoked",
        }
    }
}

/// One version of a dataset. What it holds never changes; the classes of its columns follow the policies.
#[derive(Clone, PartialEq, Debug)]
pub struct VersionRecord {
    /// Dataset, name and number, the control position that made it, and what it holds.
    pub table: TableVersion,
    /// What made it.
    pub made: Made,
    /// When.
    pub at: WallNanos,
    /// The entry that made it.
    pub entry: EntryId,
    /// Who made it.
    pub by: Principal,
    /// Whether it may be used.
    pub status: VersionStatus,
    /// Why it is advised against or may not be used.
    pub status_because: Option<Arc<str>>,
    /// Its classes under the newest bundle, where they are not those it came with.
    pub(crate) relabelled: Option<Arc<Vec<ClassLabel>>>,
}

impl VersionRecord {
    /// What the dataset was at this version.
    pub fn definition(&self) -> &DatasetDefinition {
        match &self.made {
            Made::Published(publish) => &publish.definition,
            Made::Snapshot(snapshot) => &snapshot.definition,
        }
    }

    /// Why it was published.
    pub fn because(&self) -> Option<&str> {
        match &self.made {
            Made::Published(publish) => Some(&publish.because),
            Made::Snapshot(_) => None,
        }
    }

    /// The publish that made it; `None` for a source.
    pub fn publish(&self) -> Option<&Publish> {
        match &self.made {
            Made::Published(publish) => Some(publish),
            Made::Snapshot(_) => None,
        }
    }

    /// The snapshot that it is; `None` for what was published.
    pub fn snapshot(&self) -> Option<&SourceSnapshot> {
        match &self.made {
            Made::Published(_) => None,
            Made::Snapshot(snapshot) => Some(snapshot),
        }
    }

    /// A publish's identity, a source's snapshot hash.
    pub fn identity(&self) -> &Hash {
        match &self.made {
            Made::Published(publish) => &publish.identity,
            Made::Snapshot(snapshot) => &snapshot.snapshot,
        }
    }

    /// The classes of the columns by their lineage, in order; `None` for a source, whose classes are tags alone.
    pub fn labels(&self) -> Option<&[ClassLabel]> {
        let came_with = self.publish().map(|p| p.labels.as_slice())?;
        Some(self.relabelled.as_ref().map_or(came_with, |labels| labels.as_slice()))
    }

    /// The classes of a column by its lineage.
    pub fn label(&self, field: FieldId) -> Option<&ClassLabel> {
        let at = self.definition().columns.iter().position(|c| c.field == field)?;
        self.labels()?.get(at)
    }
}

/// A private draft. Only its principal reads it.
#[derive(Clone, PartialEq, Debug)]
pub struct Draft {
    /// The dataset it would become, under the name `draft.<view>`, numbered from 1 for each principal and dataset name.
    pub table: TableVersion,
    /// What the entry says.
    pub record: DraftRecord,
    /// When.
    pub at: WallNanos,
    /// The entry that made it.
    pub entry: EntryId,
}

/// A policy bundle and when it was active.
#[derive(Clone, PartialEq, Debug)]
pub struct BundleEpoch {
    /// What the entry says.
    pub record: PolicyBundleRecord,
    /// The control position that activated it.
    pub from: ControlSeq,
    /// The last control position decided by it; `None`: still active.
    pub to: Option<ControlSeq>,
    /// When it was activated.
    pub at: WallNanos,
    /// The entry that activated it.
    pub entry: EntryId,
    /// Who activated it.
    pub by: Principal,
}

/// What a node stands for.
#[derive(Clone, PartialEq, Debug)]
pub struct ColumnAt<'a> {
    /// The version. A draft is `draft.<view>`, quarantined rows are `quarantine.<view>`.
    pub table: TableVersion,
    /// From 1; 0: which rows exist. Quarantined rows: counted from their own first column.
    pub ordinal: u16,
    /// The column; `None` for ordinal 0.
    pub column: Option<&'a ColumnDef>,
}

/// A model, registered.
#[derive(Clone, PartialEq, Debug)]
pub struct Model {
    /// What the entry says.
    pub record: ModelRecord,
    /// When.
    pub at: WallNanos,
    /// The entry that registered it.
    pub entry: EntryId,
    /// Who registered it.
    pub by: Principal,
}
