//! The catalog: datasets, versions, drafts, views, tokens, roles, approvals and bundles, as a fold over control entries.
//!
//! What holds here:
//!
//! - The same entries give the same catalog. There is no clock, no I/O, no other input.
//! - Entries come in `control_seq` order, dense from 1. An entry that contradicts what came before is an error and
//!   changes nothing, so a writer applies an entry to a clone before it claims a place for it.
//! - Cloning costs a reference count; applying after a clone copies only the parts that change.
//! - The state at an earlier position is had by folding again up to it. [`Catalog::seq_at`] turns a time into a position.
//!
//! Deliberately absent: what a version holds (store), who may see it (policy), the bytes of entries (ledger).
#![forbid(unsafe_code)]

mod access;
mod dataset;
mod error;
mod fold;
mod identity;

pub use access::{Answer, AskedAccess, GivenAccess};
pub use dataset::{BundleEpoch, ColumnAt, Dataset, Draft, Made, Model, PlainView, VersionRecord, VersionStatus};
pub use error::FoldError;
pub use fold::Catalog;

#[cfg(test)]
mod tests;
