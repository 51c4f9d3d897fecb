//! Entries of the ledger as OpenLineage 2-0-2 run events, and events of others as what they claim.
//!
//! What holds here:
//!
//! - One entry gives at most one event, and the same entry always the same: an event that is sent twice says the same
//!   thing twice.
//! - What [`Names`] does not know, because the receiver may not see it, is left out whole: no name of a hidden dataset or
//!   column leaves.
//! - Values never leave: an event names datasets, versions, columns, classes and counts.
//!
//! OpenLineage has no reads. A read is a run without outputs, whose inputs say in the facet `custody_reads` which columns
//! took part and what was given of each.
#![forbid(unsafe_code)]

mod claims;
mod event;
mod facets;
mod import;

pub use event::{Known, Names, event};
pub use import::{Claim, Fault, ForeignEvent, ForeignTable, Imported, MAX_BYTES, Place, Refused, parse};
