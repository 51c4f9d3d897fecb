//! The story: `Session::{read, publish, plan, explain}`; composes what lies below.
//!
//! A read goes through `read.rs` from top to bottom; a publish through `publish.rs`, its mirror. Only this crate
//! executes plans, and only as `execute(GovernedPlan, AuditReceipt)`.
#![forbid(unsafe_code)]

mod access;
mod acts;
mod admin;
mod asof;
#[cfg(test)]
mod attacks;
pub mod audit;
pub mod barrier;
mod bounded;
mod bundle_files;
mod checks;
pub mod clock;
mod compare;
mod declared;
mod engine;
mod entitled;
mod entries;
mod erase;
mod exact;
mod expect;
mod explain;
mod functions;
mod governed;
mod import;
mod keys;
mod known;
mod listing;
mod memory;
mod outbox;
mod pin;
mod plan;
mod policy_tests;
mod problem;
mod project;
mod proofs;
mod provider;
mod publish;
mod read;
mod receipt;
mod relabel;
mod replay;
mod replica;
mod scans;
mod session;
mod settings;
mod split;
mod sweep;
mod system;
mod training;
mod view;

pub use access::Narrower;
pub use acts::Registered;
pub use admin::Applied;
pub use checks::{Decided, VerifyOptions, keep_checkpoints, verify_ledger};
pub use compare::{ColumnChange, Compared, ComparedColumn};
pub use custody_ledger::verify::{Report, Verdict, split_notes};
pub use custody_openlineage::MAX_BYTES as MAX_IMPORT_BYTES;
pub use custody_policy::{Change, Direction, Finding, Reader, read_expectations};
pub use custody_store::Leftover;
pub use declared::declared_lineage;
pub use engine::Engine;
pub use erase::Erased;
pub use explain::Described;
pub use import::ImportedLineage;
pub use keys::Keys;
pub use listing::Listed;
pub use outbox::{Batch, Cursor};
pub use pin::{not_found as table_not_found, version_not_found};
pub use plan::{PlannedView, Reach};
pub use policy_tests::Tested;
pub use problem::from_datafusion;
pub use project::{Declared, Project};
pub use proofs::{check_proof, entry_place, prove_consistency, prove_entry, root_key};
pub use publish::{Contract, ENGINE_VERSION, Event, PublishOptions, Published};
pub use read::{GovernedRead, Totals};
pub use receipt::check_receipt;
pub use replay::{Choice, Redecided};
pub use replica::{Drilled, Replicated, drill, keep_copy, replicate, restore};
pub use session::{ReadRequest, Session};
pub use settings::Settings;
pub use training::Replayed;

use custody_dialect::Refusals;
use custody_model::{DatasetDefinition, Hash, Problem};
use datafusion::arrow::datatypes::{Field, Schema, SchemaRef};
use sha3::{Digest, Sha3_256};
use std::sync::Arc;

/// SHA3-256 of a text whose literals are gone already.
pub(crate) fn hash_text(text: &str) -> Hash {
    Hash(Sha3_256::digest(text.as_bytes()).into())
}

/// All refusals of a text as one problem.
pub(crate) fn refused(refusals: Refusals) -> Problem {
    refusals.into_problem()
}

/// The Arrow schema of a dataset version, field ids in the metadata.
pub(crate) fn schema_of(definition: &DatasetDefinition) -> SchemaRef {
    let fields: Vec<Field> = definition
        .columns
        .iter()
        .map(|c| custody_store::with_field_id(Field::new(&c.name, c.data_type.clone(), c.nullable), c.field))
        .collect();
    Arc::new(Schema::new(fields))
}
