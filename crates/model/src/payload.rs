//! What an entry says beyond who, what and why: one record a kind.
//!
//! A payload that does not fit an entry is stored as a blob under its hash; that is the byte format's business
//! (`ledger::format`) and does not show here.

use crate::{
    AssertedLineage, ClassLabel, ControlSeq, DatasetDefinition, DatasetId, DatasetName, EntryId, FieldId, Hash, Kind,
    Lineage, Principal, Purpose, Rung, Seq, WallNanos, WriterId,
};
use std::collections::{BTreeMap, BTreeSet};

/// Bytes kept beside the ledger under their hash, synced before the entry that names them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BlobRef {
    /// SHA3-256 of the bytes.
    pub hash: Hash,
    /// How many bytes.
    pub length: u64,
}

/// A value sealed with AES-256-GCM-SIV under a subject's key, so that destroying the key erases it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SealedBox {
    /// Which key.
    pub key: String,
    /// 12 bytes.
    pub nonce: [u8; 12],
    /// Ciphertext and tag.
    pub ciphertext: Vec<u8>,
}

/// What a source is stored as.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
pub enum SourceKind {
    /// A Delta table.
    Delta = 1,
    /// A folder of Parquet files.
    Parquet = 2,
    /// A folder of CSV files.
    Csv = 3,
    /// A folder of newline-delimited JSON files.
    Json = 4,
}

impl SourceKind {
    /// Every kind.
    pub const ALL: [Self; 4] = [Self::Delta, Self::Parquet, Self::Csv, Self::Json];

    /// The keyword in `CREATE SOURCE … FROM`.
    pub fn word(self) -> &'static str {
        match self {
            Self::Delta => "DELTA",
            Self::Parquet => "PARQUET",
            Self::Csv => "CSV",
            Self::Json => "JSON",
        }
    }
}

/// A source at one moment: what a version number of a source means.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SourceSnapshot {
    /// What the source is.
    pub definition: DatasetDefinition,
    /// The n-th recorded snapshot, or the Delta version.
    pub version: u64,
    /// Its storage.
    pub kind: SourceKind,
    /// As declared.
    pub url: String,
    /// SHA3-256 over definition and files.
    pub snapshot: Hash,
    /// The file list (paths, sizes, digests), JSON.
    pub files: BlobRef,
    /// Total bytes.
    pub bytes: u64,
}

/// A private draft becomes readable by its principal.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DraftRecord {
    /// Whose.
    pub principal: Principal,
    /// What the draft is; its name is the name it would be published under.
    pub definition: DatasetDefinition,
    /// As for a publish.
    pub identity: Hash,
    /// As for a publish.
    pub content_root: Hash,
    /// As for a publish.
    pub rows: u64,
    /// As for a publish.
    pub labels: Vec<ClassLabel>,
    /// What it read.
    pub inputs: Vec<InputRef>,
    /// Its lineage.
    pub lineage: Lineage,
    /// The run that made it.
    pub run: EntryId,
}

/// A plain view: text, planned anew at each use.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ViewRecord {
    /// What it is; `columns` as planned when it was recorded.
    pub definition: DatasetDefinition,
    /// Whether it reads with its owner's rights.
    pub definer: bool,
    /// The classes that its columns inherited when it was recorded, in order; of one without `definer`: none.
    pub labels: Vec<ClassLabel>,
}

/// Owner, purposes or comment of a dataset change, nothing else.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AttributeChange {
    /// Which dataset.
    pub dataset: DatasetId,
    /// The new owner.
    pub owner: Option<String>,
    /// The new purposes.
    pub purposes: Option<BTreeSet<Purpose>>,
    /// The new comment.
    pub comment: Option<String>,
    /// The new name.
    pub name: Option<DatasetName>,
}

/// A bearer token is issued or revoked.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TokenRecord {
    /// Its id.
    pub jti: String,
    /// Whether it ends here.
    pub revoked: bool,
    /// For whom.
    pub principal: Principal,
    /// `user`, `service`.
    pub kind: String,
    /// Role claims.
    pub roles: BTreeSet<String>,
    /// Attribute claims.
    pub attributes: BTreeMap<String, BTreeSet<String>>,
    /// Purposes it may name.
    pub purposes: BTreeSet<Purpose>,
    /// For which server.
    pub audience: String,
    /// Until when.
    pub expires: WallNanos,
}

/// A principal is given roles on this warehouse.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AdminRecord {
    /// Who.
    pub principal: Principal,
    /// `admin`, `policy_admin`.
    pub roles: BTreeSet<String>,
}

/// A version is advised against, or taken out of use. What it holds stays as it is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StatusRecord {
    /// Whose.
    pub dataset: DatasetId,
    /// The control position that made the version.
    pub made_at: ControlSeq,
    /// Whether it may no longer be used; else it is advised against.
    pub revoked: bool,
    /// Why.
    pub because: String,
}

/// A model, with what it learned from.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ModelRecord {
    /// Its name.
    pub name: String,
    /// Number of the version, from 1.
    pub version: u64,
    /// The training set.
    pub training: InputRef,
    /// SHA3-256 of the artifact.
    pub artifact: Hash,
    /// Its size.
    pub artifact_bytes: u64,
    /// The C2SP verifier string of the key that signs receipts of this model.
    pub receipt_key: String,
    /// Why.
    pub because: String,
}

/// A change of the catalog.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum CatalogChange {
    /// A source as it stands now.
    Source(SourceSnapshot),
    /// A private draft.
    Draft(Box<DraftRecord>),
    /// A plain view.
    View(ViewRecord),
    /// A dataset known by name only.
    External {
        /// Its id.
        id: DatasetId,
        /// Its name.
        name: DatasetName,
    },
    /// Owner, purposes, comment.
    Attributes(AttributeChange),
    /// A token.
    Token(TokenRecord),
    /// Roles on this warehouse.
    Admin(AdminRecord),
    /// Whether a version may be used.
    Status(StatusRecord),
    /// A model.
    Model(ModelRecord),
}

/// A policy bundle becomes active.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PolicyBundleRecord {
    /// From 1.
    pub epoch: u64,
    /// PolicyHash.
    pub hash: Hash,
    /// Its files: CBOR array of [path, bytes] sorted by path.
    pub blob: BlobRef,
    /// Who agreed.
    pub approvers: Vec<Principal>,
    /// Why.
    pub because: String,
    /// Published versions whose columns carry other classes under this bundle's tags and rules.
    pub relabelled: Vec<Relabelled>,
}

/// The classes of a published version's columns, derived anew from its lineage.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Relabelled {
    /// The control position that made the version.
    pub made_at: ControlSeq,
    /// By column, in order.
    pub labels: Vec<ClassLabel>,
}

/// Where a run stands.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
pub enum RunState {
    /// Inputs pinned, grants and lineage decided.
    Started = 1,
    /// Files written and synced.
    Written = 2,
    /// Done.
    Ended = 3,
    /// Given up.
    Failed = 4,
}

impl RunState {
    /// Every state.
    pub const ALL: [Self; 4] = [Self::Started, Self::Written, Self::Ended, Self::Failed];

    /// The word in `system.lineage.runs`.
    pub fn word(self) -> &'static str {
        match self {
            Self::Started => "started",
            Self::Written => "written",
            Self::Ended => "ended",
            Self::Failed => "failed",
        }
    }
}

/// A data file by its digest.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FileDigest {
    /// Below the version's folder.
    pub path: String,
    /// Size.
    pub bytes: u64,
    /// SHA3-256 of the bytes.
    pub sha3: Hash,
}

/// What a version was made from.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct InputRef {
    /// Which dataset.
    pub dataset: DatasetId,
    /// Which version.
    pub version: u64,
    /// The control position that made it.
    pub made_at: ControlSeq,
    /// Content root, or a source's snapshot hash.
    pub content: Hash,
}

/// What an expectation found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ExpectationResult {
    /// The check as written.
    pub check: String,
    /// `fail`, `quarantine`, `warn`.
    pub action: String,
    /// Rows looked at.
    pub checked: u64,
    /// Rows that broke it.
    pub violations: u64,
}

/// A feature run. `Entry::reference` of every later state is the id of the `Started` entry.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RunRecord {
    /// Where it stands.
    pub state: RunState,
    /// The dataset it makes.
    pub job: DatasetName,
    /// Its id.
    pub dataset: DatasetId,
    /// SHA3-256 of the resolved, unoptimised plan.
    pub plan: Hash,
    /// The engine's semantic version.
    pub engine_version: u64,
    /// The seed, where there is one.
    pub seed: Option<u64>,
    /// The version's identity.
    pub identity: Hash,
    /// What it reads.
    pub inputs: Vec<InputRef>,
    /// From `Written` on.
    pub content_root: Option<Hash>,
    /// From `Written` on: the data files.
    pub files: Vec<FileDigest>,
    /// From `Written` on: the id that the publish entry will have.
    pub publish_entry: Option<EntryId>,
    /// Rows written.
    pub rows: Option<u64>,
    /// Why it failed: a code and a message without values.
    pub error: Option<String>,
    /// The commit of the project's git repository.
    pub git_commit: Option<String>,
    /// Whether the project had uncommitted changes.
    pub git_dirty: Option<bool>,
    /// From `Written` on: root of the quarantined rows.
    pub quarantine_root: Option<Hash>,
    /// From `Written` on: their files.
    pub quarantine_files: Vec<FileDigest>,
    /// From `Written` on: what each expectation found, in the order of the declaration.
    pub expectations: Vec<ExpectationResult>,
    /// From `Written` on: what the values look like.
    pub profile: Option<BlobRef>,
}

/// The lineage of the version with this identity.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LineageRecord {
    /// Which version.
    pub identity: Hash,
    /// SHA3-256 of the canonical form without hops.
    pub hash: Hash,
    /// The lineage.
    pub lineage: Lineage,
}

/// A version becomes visible: the last act of a publish.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Publish {
    /// SHA3-256 over plan, declaration, inputs, engine version and seed.
    pub identity: Hash,
    /// What the dataset is from this version on.
    pub definition: DatasetDefinition,
    /// Number of the version, from 1.
    pub version: u64,
    /// Why.
    pub because: String,
    /// Merkle root over the values.
    pub content_root: Hash,
    /// Rows.
    pub rows: u64,
    /// Smallest and largest event time, microseconds.
    pub event_range: Option<(i64, i64)>,
    /// Over field ids, names, types, nullability.
    pub schema_hash: Hash,
    /// What it was made from.
    pub inputs: Vec<InputRef>,
    /// The classes of each column, in order.
    pub labels: Vec<ClassLabel>,
    /// The lineage entry.
    pub lineage: EntryId,
    /// Its hash.
    pub lineage_hash: Hash,
    /// Root of the quarantined rows.
    pub quarantine_root: Option<Hash>,
    /// The run that made it.
    pub run: EntryId,
    /// SHA3-256 of the resolved, unoptimised plan.
    pub plan: Hash,
    /// The engine's semantic version.
    pub engine_version: u64,
    /// The seed, where there is one.
    pub seed: Option<u64>,
    /// The commit of the project's git repository.
    pub git_commit: Option<String>,
    /// Whether the project had uncommitted changes.
    pub git_dirty: Option<bool>,
    /// Quarantined rows.
    pub quarantine_rows: Option<u64>,
    /// What each expectation found, in the order of the declaration.
    pub expectations: Vec<ExpectationResult>,
    /// What the values look like, quarantined ones aside.
    pub profile: Option<BlobRef>,
}

/// What a read is about to do.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ReadIntent {
    /// The statement, sealed: it holds literals.
    pub statement: Option<SealedBox>,
    /// SHA3-256 of its text with literals as `?`.
    pub statement_hash: Hash,
    /// The lineage of the statement.
    pub lineage_hash: Option<Hash>,
    /// Keyed hash of the governed plan; a receipt fits only the plan with this fingerprint.
    pub plan: Hash,
    /// How many encoded bytes may leave before the next entry.
    pub granted_bytes: u64,
    /// The prediction that the rows are for.
    pub prediction: Option<String>,
}

/// How a read ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ReadOutcome {
    /// `None`: well. Else a problem code, `client_cancelled`, `unknown_crash`, `refused`.
    pub code: Option<String>,
    /// What it took from storage, one for each scan.
    pub scans: Vec<ScanFact>,
}

/// What one scan took from storage.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct ScanFact {
    /// Which dataset.
    pub dataset: DatasetId,
    /// Which version; of a Delta source its Delta version.
    pub version: u64,
    /// The control position that made it.
    pub made_at: ControlSeq,
    /// Rows out of storage, before policy and the statement.
    pub rows: u64,
    /// How many files were opened.
    pub opened: u64,
    /// Those files by path; of more than 4,096 none.
    pub files: Vec<ScannedFile>,
    /// SHA3-256 over path and counts of every file opened, length-prefixed.
    pub list: Hash,
}

/// A file that a scan opened.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct ScannedFile {
    /// Below the folder of the version or source.
    pub path: String,
    /// Row groups that were read; `None`: the format has none.
    pub row_groups: Option<u64>,
    /// Row groups that statistics and filters left out.
    pub skipped: u64,
}

/// A request refused, or failed before an intent.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Denied {
    /// The problem's code.
    pub code: String,
    /// SHA3-256 of the statement's text with literals as `?`, where there was one.
    pub statement_hash: Option<Hash>,
    /// Keyed tokens of the names asked for.
    pub targets: Vec<Hash>,
    /// How many alike this entry stands for.
    pub count: u64,
}

/// An attempt to get around policy.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BypassRecord {
    /// `foreign_ticket`, `altered_ticket`.
    pub technique: String,
    /// Keyed tokens, never values.
    pub evidence: Vec<Hash>,
}

/// A signing key begins or ends.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct KeyRecord {
    /// From 1.
    pub epoch: u64,
    /// The key's C2SP verifier string.
    pub vkey: String,
    /// The signature of the key that vouches for it, over the certificate text.
    pub certificate: Vec<u8>,
    /// An epoch that ends in distrust.
    pub revoke: Option<u64>,
}

/// A writer's head.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HeadRecord {
    /// Whose.
    pub writer: WriterId,
    /// Which opening.
    pub incarnation: u64,
    /// Entries.
    pub size: u64,
    /// RFC 6962 root.
    pub root: Hash,
    /// Newest frame.
    pub frame: Hash,
}

/// A read that had begun and not ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct OpenIntent {
    /// The intent.
    pub intent: EntryId,
    /// Where it stands.
    pub seq: Seq,
    /// Its newest byte grant.
    pub granted_bytes: u64,
}

/// A writer's own life.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum WriterEvent {
    /// A segment begins; reads that are open at that moment.
    Open {
        /// Which opening of this writer, from 1.
        incarnation: u64,
        /// Reads begun and not ended.
        open: Vec<OpenIntent>,
    },
    /// The writer ends in order.
    Close,
    /// Nothing else happened.
    Heartbeat,
    /// A torn tail was put aside.
    Recovery {
        /// In which segment.
        segment: u64,
        /// From which byte.
        offset: u64,
        /// How many bytes.
        length: u64,
        /// SHA3-256 of them.
        hash: Hash,
    },
    /// The disk is full.
    NoSpace,
    /// The clock went back.
    ClockAnomaly {
        /// By how many nanoseconds.
        back: u64,
    },
}

/// Somebody asks for more of a dataset than policy alone gives. Names are as they were asked for: whether they mean
/// anything is not told to whoever asks.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AccessRequest {
    /// Of which dataset.
    pub dataset: DatasetName,
    /// Which columns.
    pub columns: BTreeSet<String>,
    /// Up to which rung.
    pub rung: Rung,
    /// For which purpose.
    pub purpose: Purpose,
    /// For how many seconds from when it is given.
    pub seconds: u64,
    /// Why.
    pub because: String,
}

/// A request is approved: while it lasts, decisions on these columns for this principal and purpose see the rung in
/// `resource.approved`. What that permits is for policies to say.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AccessGrant {
    /// The entry that asked for it.
    pub request: EntryId,
    /// Who asked.
    pub principal: Principal,
    /// Of which dataset.
    pub dataset: DatasetId,
    /// Which columns.
    pub columns: BTreeSet<FieldId>,
    /// Up to which rung.
    pub rung: Rung,
    /// For which purpose.
    pub purpose: Purpose,
    /// From when on it is over.
    pub expires: WallNanos,
    /// Why.
    pub because: String,
}

/// What is approved of a dataset's columns for somebody, by rung, and until when.
pub type Approvals = BTreeMap<FieldId, BTreeMap<Rung, WallNanos>>;

/// A request is denied, or what was given is taken back.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AccessReview {
    /// The entry that asked, or that gave.
    pub of: EntryId,
    /// Which of both.
    pub verdict: Verdict,
    /// Why.
    pub because: String,
}

/// What a review says.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
pub enum Verdict {
    /// The request is denied.
    Denied = 1,
    /// What was given is taken back.
    Revoked = 2,
}

impl Verdict {
    /// Every verdict.
    pub const ALL: [Self; 2] = [Self::Denied, Self::Revoked];
}

/// The keys that a subject's personal fields are sealed under are destroyed: asked for by one administrator, done when a
/// second one agrees. The fields stay where they are, in every copy, and nobody can read them.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ErasureRecord {
    /// A keyed token of the subject's name.
    pub subject: Hash,
    /// Which keys.
    pub keys: BTreeSet<String>,
    /// Who agreed, in that order: one asks, two do it.
    pub approvers: Vec<Principal>,
    /// Why.
    pub because: String,
}

impl ErasureRecord {
    /// Whether it is more than asked for: two have agreed.
    pub fn agreed(&self) -> bool {
        matches!(&self.approvers[..], [first, rest @ ..] if rest.iter().any(|p| p != first))
    }
}

/// The rest of an entry, by kind.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Payload {
    /// Kind 1.
    CatalogChange(CatalogChange),
    /// Kind 2.
    PolicyBundle(PolicyBundleRecord),
    /// Kind 3.
    AccessGrant(AccessGrant),
    /// Kind 4.
    AccessRequest(AccessRequest),
    /// Kind 5.
    AccessReview(AccessReview),
    /// Kind 10.
    Run(RunRecord),
    /// Kind 11.
    Lineage(LineageRecord),
    /// Kind 11 too, told by a key of its own: what somebody else claims.
    Asserted(Box<AssertedLineage>),
    /// Kind 12.
    Publish(Box<Publish>),
    /// Kind 20.
    ReadIntent(ReadIntent),
    /// Kind 21: granted bytes in total.
    ReadProgress(u64),
    /// Kind 22.
    ReadOutcome(ReadOutcome),
    /// Kind 23.
    Read(ReadIntent, ReadOutcome),
    /// Kind 24.
    Denied(Denied),
    /// Kind 25.
    Bypass(BypassRecord),
    /// Kind 40.
    Key(KeyRecord),
    /// Kind 41.
    Heads(Vec<HeadRecord>),
    /// Kind 42.
    Writer(WriterEvent),
    /// Kind 51.
    Erasure(ErasureRecord),
}

impl Payload {
    /// The kind.
    pub fn kind(&self) -> Kind {
        match self {
            Self::CatalogChange(_) => Kind::CatalogChange,
            Self::PolicyBundle(_) => Kind::PolicyBundle,
            Self::AccessGrant(_) => Kind::AccessGrant,
            Self::AccessRequest(_) => Kind::AccessRequest,
            Self::AccessReview(_) => Kind::AccessReview,
            Self::Run(_) => Kind::Run,
            Self::Lineage(_) | Self::Asserted(_) => Kind::Lineage,
            Self::Publish(_) => Kind::Publish,
            Self::ReadIntent(_) => Kind::ReadIntent,
            Self::ReadProgress(_) => Kind::ReadProgress,
            Self::ReadOutcome(_) => Kind::ReadOutcome,
            Self::Read(..) => Kind::Read,
            Self::Denied(_) => Kind::Denied,
            Self::Bypass(_) => Kind::Bypass,
            Self::Key(_) => Kind::Key,
            Self::Heads(_) => Kind::Heads,
            Self::Writer(_) => Kind::Writer,
            Self::Erasure(_) => Kind::Erasure,
        }
    }
}
