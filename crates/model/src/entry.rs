//! One entry of the ledger: who did what to what, with which result, and why it was allowed.
//!
//! Field order and key numbers of the byte format belong to `ledger::format`; this is the meaning.

use crate::{
    Authentication, Class, ControlSeq, DatasetId, EntryId, Hash, Payload, PolicyId, Principal, Purpose, Rung, Seq,
    WallNanos, WriterId, payload::SealedBox,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

/// What an entry is about. Numbers are frozen: they are in the byte format.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(u16)]
pub enum Kind {
    /// A change of the catalog: source snapshot, draft, plain view, token, admin, attributes.
    CatalogChange = 1,
    /// A policy bundle becomes active.
    PolicyBundle = 2,
    /// Somebody gets more of a dataset than policy alone gives, until a time.
    AccessGrant = 3,
    /// Somebody asks for that.
    AccessRequest = 4,
    /// A request is denied, or what was given is taken back.
    AccessReview = 5,
    /// A feature run changes state.
    Run = 10,
    /// The lineage of a version about to be published.
    Lineage = 11,
    /// A version becomes visible.
    Publish = 12,
    /// A read may begin, up to a number of bytes.
    ReadIntent = 20,
    /// A running read may hand out more bytes.
    ReadProgress = 21,
    /// A read ended.
    ReadOutcome = 22,
    /// A whole read in one entry; also a request that hands out no rows.
    Read = 23,
    /// A request was refused, or failed before an intent.
    Denied = 24,
    /// An attempt to get around policy.
    Bypass = 25,
    /// A signing key begins or ends.
    Key = 40,
    /// Heads of all writers.
    Heads = 41,
    /// A writer's own life.
    Writer = 42,
    /// The keys of a subject's sealed fields are to be destroyed.
    Erasure = 51,
}

impl Kind {
    /// Every kind.
    pub const ALL: [Self; 18] = [
        Self::CatalogChange,
        Self::PolicyBundle,
        Self::AccessGrant,
        Self::AccessRequest,
        Self::AccessReview,
        Self::Run,
        Self::Lineage,
        Self::Publish,
        Self::ReadIntent,
        Self::ReadProgress,
        Self::ReadOutcome,
        Self::Read,
        Self::Denied,
        Self::Bypass,
        Self::Key,
        Self::Heads,
        Self::Writer,
        Self::Erasure,
    ];

    /// The kind with this frozen number.
    pub fn from_number(number: u16) -> Option<Self> {
        Self::ALL.into_iter().find(|k| *k as u16 == number)
    }

    /// Whether entries of this kind take a place in the one control order that the catalog folds.
    pub fn is_control(self) -> bool {
        matches!(
            self,
            Self::CatalogChange
                | Self::PolicyBundle
                | Self::AccessGrant
                | Self::AccessRequest
                | Self::AccessReview
                | Self::Publish
                | Self::Erasure
        )
    }

    /// The kind's word in `system.ledger.entries` and `custody ledger tail`.
    pub fn word(self) -> &'static str {
        match self {
            Self::CatalogChange => "catalog.change",
            Self::PolicyBundle => "policy.bundle",
            Self::AccessGrant => "access.grant",
            Self::AccessRequest => "access.request",
            Self::AccessReview => "access.review",
            Self::Run => "run",
            Self::Lineage => "lineage",
            Self::Publish => "publish",
            Self::ReadIntent => "read.intent",
            Self::ReadProgress => "read.progress",
            Self::ReadOutcome => "read.outcome",
            Self::Read => "read",
            Self::Denied => "denied",
            Self::Bypass => "bypass",
            Self::Key => "key",
            Self::Heads => "heads",
            Self::Writer => "writer",
            Self::Erasure => "erasure",
        }
    }
}

/// What was done, or tried.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
pub enum Verb {
    /// Rows by a SQL statement.
    Read = 1,
    /// Rows of a named feature version.
    Serve = 2,
    /// Schemas, plans, listings: no rows.
    Metadata = 3,
    /// A version, or what leads to it.
    Publish = 4,
    /// Rows, proofs or events that leave for a file or another system.
    Export = 5,
    /// Catalog, policy, tokens, keys.
    Admin = 6,
    /// The ledger's own bookkeeping.
    Maintain = 7,
}

impl Verb {
    /// Every verb.
    pub const ALL: [Self; 7] =
        [Self::Read, Self::Serve, Self::Metadata, Self::Publish, Self::Export, Self::Admin, Self::Maintain];

    /// The verb's word in `system.access.audit.action`.
    pub fn word(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Serve => "serve",
            Self::Metadata => "metadata",
            Self::Publish => "publish",
            Self::Export => "export",
            Self::Admin => "admin",
            Self::Maintain => "maintain",
        }
    }
}

/// How it ended.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
pub enum Outcome {
    /// As asked.
    Success = 1,
    /// An error that is nobody's refusal.
    Failure = 2,
    /// Refused.
    Denied = 3,
    /// A crash took the answer away.
    Unknown = 4,
    /// Not ended yet.
    Pending = 5,
}

impl Outcome {
    /// Every outcome.
    pub const ALL: [Self; 5] = [Self::Success, Self::Failure, Self::Denied, Self::Unknown, Self::Pending];

    /// The outcome's word in system tables.
    pub fn word(self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::Failure => "failure",
            Self::Denied => "denied",
            Self::Unknown => "unknown",
            Self::Pending => "pending",
        }
    }
}

/// How safe an entry must be before what it allows may happen. `Ord`: safer is larger.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
#[repr(u8)]
pub enum Durability {
    /// Synced on this machine.
    #[default]
    Local = 0,
    /// Synced by a second process too.
    Peer = 1,
    /// Put into an object store too.
    Object = 2,
}

/// Who acted.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Actor {
    /// Who.
    pub principal: Principal,
    /// `user`, `service`, `owner`, `engine`.
    pub kind: String,
    /// Roles at that moment.
    pub roles: BTreeSet<String>,
    /// Attributes at that moment.
    pub attributes: BTreeMap<String, BTreeSet<String>>,
    /// How it was established.
    pub authentication: Authentication,
    /// The session, where there is one.
    pub session: Option<String>,
    /// For whom a service acted.
    pub on_behalf_of: Option<Principal>,
    /// The token's id (`jti`).
    pub token: Option<String>,
    /// The client's address, sealed under the principal's key.
    pub address: Option<SealedBox>,
}

/// The part a column played in a statement.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(u8)]
pub enum ColumnRole {
    /// Its value is in the answer.
    Project = 0,
    /// Decides which rows.
    Filter = 1,
    /// Decides which rows meet.
    Join = 2,
    /// Decides groups.
    GroupBy = 3,
    /// Decides order.
    Sort = 4,
    /// Decides windows.
    Window = 5,
    /// Decides between values.
    Conditional = 6,
}

impl ColumnRole {
    /// Every role.
    pub const ALL: [Self; 7] =
        [Self::Project, Self::Filter, Self::Join, Self::GroupBy, Self::Sort, Self::Window, Self::Conditional];

    /// The role's word in `system.access.column_reads`.
    pub fn word(self) -> &'static str {
        match self {
            Self::Project => "PROJECT",
            Self::Filter => "FILTER",
            Self::Join => "JOIN",
            Self::GroupBy => "GROUP_BY",
            Self::Sort => "SORT",
            Self::Window => "WINDOW",
            Self::Conditional => "CONDITIONAL",
        }
    }
}

/// A set of column roles, one bit each.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct RoleSet(pub u8);

impl RoleSet {
    /// Adds a role.
    pub fn insert(&mut self, role: ColumnRole) {
        self.0 |= 1 << role as u8;
    }

    /// Whether a role is in the set.
    pub fn contains(self, role: ColumnRole) -> bool {
        self.0 & (1 << role as u8) != 0
    }

    /// The roles, in order.
    pub fn iter(self) -> impl Iterator<Item = ColumnRole> {
        ColumnRole::ALL.into_iter().filter(move |r| self.contains(*r))
    }
}

/// One column of a target.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TargetColumn {
    /// From 1; 0: which rows exist.
    pub ordinal: u16,
    /// The user's statement reads it; `false`: only policy does.
    pub requested: bool,
    /// The parts it played.
    pub roles: RoleSet,
    /// What the reader got of it.
    pub rung: Rung,
    /// The policies that gave this rung, or that read it.
    pub policies: Vec<PolicyId>,
}

/// A dataset version that the act touched.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Target {
    /// The dataset; its name resolves through the fold.
    pub dataset: DatasetId,
    /// The version.
    pub version: u64,
    /// The control position that made the version; 0 for system tables. With an ordinal it makes a node.
    pub made_at: ControlSeq,
    /// The hash of the grant that allowed it.
    pub grant: Option<Hash>,
    /// Row sets and guards that applied.
    pub row_sets: Vec<PolicyId>,
    /// Columns touched, by ordinal.
    pub columns: Vec<TargetColumn>,
    /// Whose rights the grant was for, where a view read it with its owner's.
    pub owner: Option<Principal>,
    /// Of a plain view with its owner's rights: the classes that its columns inherited, in order.
    pub classes: Vec<BTreeSet<Class>>,
}

/// Why it was allowed, and where it happened.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Reason {
    /// What for.
    pub purpose: Option<Purpose>,
    /// A ticket in another system, as the caller gave it.
    pub ticket: Option<String>,
    /// `prod`, `dev`.
    pub environment: String,
    /// `training`, `serving`; empty: not said.
    pub stage: String,
    /// Where the server stands.
    pub region: Option<String>,
    /// The model that asked.
    pub model: Option<String>,
    /// Its version.
    pub model_version: Option<u64>,
    /// The hash of the bundle that decided.
    pub bundle: Option<Hash>,
    /// Whether the lineage of the statement was exact, where there was one.
    pub exact: Option<bool>,
    /// How safe the entry must be before rows leave.
    pub durability: Durability,
}

/// How much.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Measure {
    /// Rows released.
    pub rows: Option<u64>,
    /// Batches released.
    pub batches: Option<u64>,
    /// Encoded bytes released.
    pub bytes: Option<u64>,
    /// Microseconds from request to end.
    pub micros: Option<u64>,
    /// Whether the numbers are upper bounds rather than counts.
    pub upper_bound: bool,
}

/// One entry.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Entry {
    /// Its own id.
    pub id: EntryId,
    /// When, by the writer's clock. Never order.
    pub wall: WallNanos,
    /// The entry this belongs to: an outcome's intent, a lineage's run, an intent's metadata entry.
    pub reference: Option<EntryId>,
    /// A control entry's own place in the control order; for any other the newest it has seen.
    pub control_seq: ControlSeq,
    /// A trace id from outside.
    pub trace: Option<String>,
    /// Who; absent where nobody was established, or the writer itself.
    pub actor: Option<Actor>,
    /// What was done or tried.
    pub verb: Verb,
    /// To what.
    pub targets: Vec<Target>,
    /// How it ended.
    pub outcome: Outcome,
    /// Why it was allowed.
    pub reason: Reason,
    /// How much.
    pub measure: Measure,
    /// The rest, by kind.
    pub payload: Payload,
}

impl Entry {
    /// The kind, which the payload decides.
    pub fn kind(&self) -> Kind {
        self.payload.kind()
    }
}

/// An entry as it stands in a chain.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StoredEntry {
    /// Whose chain.
    pub writer: WriterId,
    /// Where in it.
    pub seq: Seq,
    /// RFC 6962 leaf hash of `raw`.
    pub leaf: Hash,
    /// The stored bytes.
    pub raw: Vec<u8>,
    /// What they say.
    pub entry: Entry,
}

/// `writer/seq`: how people and receipts name an entry.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct EntryRef {
    /// Whose chain.
    pub writer: WriterId,
    /// Where in it.
    pub seq: Seq,
}

impl fmt::Display for EntryRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.writer, self.seq)
    }
}
