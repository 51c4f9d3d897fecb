//! Who sees what.
//!
//! | role | rows | values |
//! |---|---|---|
//! | everyone | datasets and columns they may see; own reads, runs and entries | no counts unless the grant is open |
//! | owner of a dataset | all rows on it | principals |
//! | `investigator` | all | principals; client addresses and literals only with a ticket |
//! | `auditor` | all | counts, raw entries; no values |
//! | whoever sees all rows and a column raw | its profile | |
//! | `operator`, `admin` | ledger without entries | |
//! | `admin`, `policy_admin` | policies, row sets, tags | |
//!
//! What a viewer may not see is absent, so that counts differ by viewer and nothing confirms a hidden name.

use crate::{Snapshot, edges::Edge, schema::tables};
use custody_catalog::Catalog;
use custody_model::{
    BlobRef, ControlSeq, DatasetId, FieldId, Hash, Node, Principal, SealedBox, Subject, TableVersion, WallNanos,
    profile::Profile,
};
use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

/// What policy decides for a viewer at the snapshot's position. The engine answers from grants.
pub trait Sees {
    /// Whether any column of the dataset's newest version has a rung above none.
    fn dataset(&self, dataset: DatasetId) -> bool;
    /// Whether the column has a rung above none; ordinal 0: as its dataset.
    fn column(&self, node: Node) -> bool;
    /// Whether the viewer may see what policy adds to plans over the dataset.
    fn explain_raw(&self, dataset: DatasetId) -> bool;
    /// Whether the dataset's owner is the viewer or one of the viewer's roles.
    fn owned(&self, dataset: DatasetId) -> bool;
    /// Whether the viewer sees every row of this version and this column raw.
    fn raw(&self, node: Node) -> bool;
    /// Whether the viewer's grant on this version is open: every row and every column raw.
    fn open(&self, table: &TableVersion) -> bool;
}

/// Who asks for a table.
pub struct Viewer<'a> {
    /// Who.
    pub principal: Principal,
    /// Roles, by claim and on this warehouse.
    pub roles: BTreeSet<String>,
    /// The ticket that the request names.
    pub ticket: Option<String>,
    /// What policy lets them see.
    pub sees: &'a dyn Sees,
}

/// A policy of the active bundle.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PolicyRow {
    /// `@id`, else `<file stem>.policy<n>`.
    pub policy_id: String,
    /// `permit`, `forbid`, `mask`, `classification`, …
    pub kind: String,
    /// Its text.
    pub text: String,
}

/// A row set or guard of the active bundle.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RowSetRow {
    /// Its name.
    pub name: String,
    /// Its dataset.
    pub dataset: DatasetId,
    /// Its SQL predicate.
    pub predicate: String,
    /// Whether it is a guard, which applies unless skipped.
    pub guard: bool,
}

/// A class given to a column by the active bundle.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct TagRow {
    /// The column's dataset.
    pub dataset: DatasetId,
    /// The column.
    pub field: FieldId,
    /// The class.
    pub class: String,
}

/// The active bundle as rows.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct PolicyRows {
    /// By id.
    pub policies: Vec<PolicyRow>,
    /// By name.
    pub row_sets: Vec<RowSetRow>,
    /// By dataset, field and class.
    pub tags: Vec<TagRow>,
}

/// A signed tree head.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CheckpointRow {
    /// `<warehouse>/sha3-256/<writer>`.
    pub origin: String,
    /// Entries covered.
    pub tree_size: u64,
    /// RFC 6962 root.
    pub root: Hash,
    /// The signed note.
    pub note: String,
    /// When, by the signer's clock: the time of the newest entry covered.
    pub signed_at: WallNanos,
}

/// A promise of the ledger, and how it stands.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SloRow {
    /// Its name, with its unit at the end.
    pub metric: &'static str,
    /// What was measured; `None`: it cannot be.
    pub value: Option<u64>,
    /// What it is held to.
    pub target: u64,
    /// Whether it holds.
    pub ok: bool,
}

/// What neither the entries nor the catalog say; the engine knows it.
pub trait Facts {
    /// The classes of a column at the snapshot's position, closed under `UNDER`, sorted.
    fn classes(&self, table: &TableVersion, field: FieldId) -> Vec<String>;
    /// The active bundle.
    fn policies(&self) -> &PolicyRows;
    /// The checkpoints kept, by origin and size.
    fn checkpoints(&self) -> Result<Vec<CheckpointRow>, Box<dyn std::error::Error + Send + Sync>>;
    /// The ledger's promises, as this process sees them.
    fn slo(&self, snapshot: &Snapshot) -> Result<Vec<SloRow>, Box<dyn std::error::Error + Send + Sync>>;
    /// This moment.
    fn now(&self) -> WallNanos;
    /// What the values of a version look like.
    fn profile(&self, blob: &BlobRef) -> Result<Profile, Box<dyn std::error::Error + Send + Sync>>;
    /// The key that decisions for this subject are made under.
    fn subject_key(&self, subject: &Subject) -> Hash;
    /// Opens sealed client addresses.
    fn unsealer(&self) -> Unseal;
}

/// A sealed client address in clear; `None` where its key is gone.
pub type Unseal = Arc<dyn Fn(&SealedBox) -> Option<String> + Send + Sync>;

/// A viewer's answers, asked once each.
pub(crate) struct Gate<'a> {
    viewer: &'a Viewer<'a>,
    catalog: &'a Catalog,
    system: BTreeSet<DatasetId>,
    datasets: RefCell<BTreeMap<DatasetId, bool>>,
    explained: RefCell<BTreeMap<DatasetId, bool>>,
    owned: RefCell<BTreeMap<DatasetId, bool>>,
    columns: RefCell<HashMap<Node, bool>>,
    open: RefCell<BTreeMap<ControlSeq, bool>>,
    auditor: bool,
    all: bool,
}

impl<'a> Gate<'a> {
    pub(crate) fn new(viewer: &'a Viewer<'a>, catalog: &'a Catalog) -> Self {
        let auditor = viewer.roles.contains("auditor");
        Self {
            viewer,
            catalog,
            system: tables().iter().map(|t| t.definition.id).collect(),
            datasets: RefCell::default(),
            explained: RefCell::default(),
            owned: RefCell::default(),
            columns: RefCell::default(),
            open: RefCell::default(),
            auditor,
            all: auditor || viewer.roles.contains("investigator"),
        }
    }

    fn role(&self, role: &str) -> bool {
        self.viewer.roles.contains(role)
    }

    /// Whether every row is visible.
    pub(crate) fn all(&self) -> bool {
        self.all
    }

    /// Stored bytes.
    pub(crate) fn raw(&self) -> bool {
        self.auditor
    }

    /// Client addresses, and literals in texts of others' datasets.
    pub(crate) fn sealed(&self) -> bool {
        self.all && self.viewer.ticket.is_some()
    }

    /// The ledger's own tables, without entries.
    pub(crate) fn ledger(&self) -> bool {
        self.all || self.role("operator") || self.role("admin")
    }

    /// Policies, whatever datasets their texts name.
    pub(crate) fn policy(&self) -> bool {
        self.all || self.role("admin") || self.role("policy_admin")
    }

    pub(crate) fn principal_name(&self) -> &str {
        &self.viewer.principal.0
    }

    pub(crate) fn own(&self, principal: Option<&Principal>) -> bool {
        principal == Some(&self.viewer.principal)
    }

    pub(crate) fn owned(&self, dataset: DatasetId) -> bool {
        *self.owned.borrow_mut().entry(dataset).or_insert_with(|| self.viewer.sees.owned(dataset))
    }

    /// Rows that name the dataset. System tables hide nothing by their names.
    pub(crate) fn dataset(&self, dataset: DatasetId) -> bool {
        self.all
            || self.system.contains(&dataset)
            || self.owned(dataset)
            || *self.datasets.borrow_mut().entry(dataset).or_insert_with(|| self.viewer.sees.dataset(dataset))
    }

    /// Rows that name what was made there: a draft for its principal alone, anything else as its dataset.
    pub(crate) fn made(&self, dataset: DatasetId, made_at: ControlSeq) -> bool {
        match self.place(made_at) {
            Place::Draft(principal) => self.all || self.own(Some(principal)),
            Place::Version(_) | Place::Nowhere => self.dataset(dataset),
        }
    }

    /// Rows that name the column.
    pub(crate) fn column(&self, node: Node) -> bool {
        self.all
            || node.made_at() == ControlSeq(0)
            || *self.columns.borrow_mut().entry(node).or_insert_with(|| match self.place(node.made_at()) {
                Place::Version(dataset) => self.owned(dataset) || self.viewer.sees.column(node),
                Place::Draft(principal) => *principal == self.viewer.principal,
                Place::Nowhere => self.viewer.sees.column(node),
            })
    }

    /// Rows that policy added, and texts that may name hidden datasets.
    pub(crate) fn explained(&self, dataset: DatasetId) -> bool {
        self.all
            || self.owned(dataset)
            || *self.explained.borrow_mut().entry(dataset).or_insert_with(|| self.viewer.sees.explain_raw(dataset))
    }

    /// Texts with literals.
    pub(crate) fn literals(&self, dataset: DatasetId) -> bool {
        self.auditor || self.sealed() || (!self.all && self.explained(dataset)) || self.owned(dataset)
    }

    /// Texts of expressions, without literals; they name columns that the viewer may not see otherwise.
    pub(crate) fn texts(&self, dataset: DatasetId) -> bool {
        self.all || self.explained(dataset) || self.owned(dataset)
    }

    /// Who did something to the dataset.
    pub(crate) fn principal(&self, principal: Option<&Principal>, dataset: Option<DatasetId>) -> bool {
        self.all || self.own(principal) || dataset.is_some_and(|d| self.owned(d))
    }

    /// Counts, ranges and roots.
    pub(crate) fn open(&self, table: &TableVersion) -> bool {
        self.auditor || *self.open.borrow_mut().entry(table.made_at).or_insert_with(|| self.viewer.sees.open(table))
    }

    /// Values of a column, counted: for whoever could count them, which no role gives.
    pub(crate) fn countable(&self, node: Node) -> bool {
        self.viewer.sees.raw(node)
    }

    /// An edge: both ends, and what policy added only where it may be seen.
    pub(crate) fn edge(&self, edge: &Edge) -> bool {
        self.column(edge.source)
            && self.column(edge.target)
            && edge.by_policy.is_none_or(|dataset| self.explained(dataset))
    }

    fn place(&self, made_at: ControlSeq) -> Place<'a> {
        if let Some(version) = self.catalog.version_made_at(made_at) {
            Place::Version(version.table.dataset)
        } else if let Some(draft) = self.catalog.draft_made_at(made_at) {
            Place::Draft(&draft.record.principal)
        } else {
            Place::Nowhere
        }
    }
}

enum Place<'a> {
    Version(DatasetId),
    Draft(&'a Principal),
    Nowhere,
}
