//! Published versions as Delta tables, and sources at a recorded snapshot: bytes and files.
//!
//! Names, policy and meaning come from above. What holds true here:
//!
//! - A version is written once ([`Warehouse::stage`], [`Staging`], [`Staged::commit`]) and read by a pinned list of files
//!   ([`scan()`], [`VersionTable`]); nothing is ever changed in place.
//! - Its content root ([`content_root`]) depends on its values alone: not on files, batches, codec or machine.
//! - A source is read at the files of its snapshot ([`Warehouse::snapshot`], [`Warehouse::open_source`]) or not at all.
//! - What was written is synced before it is said to be there ([`DurableLocal`]).
//!
//! A version is *visible* only by its publish entry in the ledger, which is not this crate's business.
#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking"))]

mod disk;
mod durable;
mod error;
mod layout;
mod locate;
mod manifest;
mod profile;
mod root;
mod scan;
mod scanned;
mod source;
mod sweep;
#[cfg(test)]
mod tests;
mod types;
mod write;

pub use disk::{Changed, FileDisk, Watcher};
pub use durable::DurableLocal;
pub use error::StoreError;
pub use layout::{Place, Warehouse};
pub use manifest::{Bounds, DataFile, Manifest};
pub use profile::{profile_from_json, profile_to_json};
pub use root::{BLOCK_ROWS, Block, RootHasher, cell, content_root, schema_hash, sha3};
pub use scan::{ScanArgs, VersionTable, scan};
pub use scanned::{Scanned, scanned};
pub use source::{Allow, SourceFile, SourceFiles, SourceSpec, SourceTable, snapshot_hash};
pub use sweep::{Depth, Finding, FindingKind, Leftover};
pub use types::{FIELD_ID, conform, field_id, version_schema, version_type, with_field_id};
pub use write::{Codec, Committed, Shape, Staged, Staging, Stamp};
