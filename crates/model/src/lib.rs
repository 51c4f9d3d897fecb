//! Nouns of the domain, shared by every crate.
//!
//! No logic beyond checked construction, display and the arithmetic of [`profile`], which whoever writes and whoever reads
//! one must share; no I/O, no clock. When two crates on one level need
//! to talk about the same thing, the noun lives here; what is done with it lives with whoever does it.
#![forbid(unsafe_code)]

mod asserted;
mod class;
mod definition;
mod entry;
mod hash;
mod ids;
mod lineage;
mod name;
mod payload;
mod problem;
pub mod profile;
mod subject;

pub use asserted::{AssertedLineage, AssertedOutput, AssertedSource, AssertedTable, FlowKind};
pub use class::{
    Class, ClassLabel, ClassSet, Declassification, DeclassificationTarget, Part, RuleVersion, Rung, UNCLASSIFIED,
};
pub use definition::{ColumnDef, DatasetDefinition, DatasetKind, Pin, TableVersion};
pub use entry::{
    Actor, ColumnRole, Durability, Entry, EntryRef, Kind, Measure, Outcome, Reason, RoleSet, StoredEntry, Target,
    TargetColumn, Verb,
};
pub use hash::{Hash, NotAHash};
pub use ids::{ControlSeq, DatasetId, EntryId, FieldId, Node, Seq, WallMicros, WallNanos, WriterId};
pub use lineage::{
    Atom, AtomIx, Direct, Hop, HopIx, Indirect, Influence, Lineage, OutputFlow, PolicyId, TableIx, ViewId,
};
pub use name::{BadName, DatasetName};
pub use payload::{
    AccessGrant, AccessRequest, AccessReview, AdminRecord, Approvals, AttributeChange, BlobRef, BypassRecord,
    CatalogChange, Denied, DraftRecord, ErasureRecord, ExpectationResult, FileDigest, HeadRecord, InputRef, KeyRecord,
    LineageRecord, ModelRecord, OpenIntent, Payload, PolicyBundleRecord, Publish, ReadIntent, ReadOutcome, Relabelled,
    RunRecord, RunState, ScanFact, ScannedFile, SealedBox, SourceKind, SourceSnapshot, StatusRecord, TokenRecord,
    Verdict, ViewRecord, WriterEvent,
};
pub use problem::{Code, Label, Position, Problem, SourceText};
pub use subject::{Authentication, Principal, Purpose, Subject, SubjectKey};
