//! The tables of the catalog `system`: read models of the ledger's entries and of the catalog folded from them.
//!
//! What holds here:
//!
//! - The same entries give the same tables, whatever the order in which different writers' entries arrive: rows stand in
//!   the order of (writer, seq), of control position, or of name, never of arrival.
//! - A [`Snapshot`] is one position: all tables of a statement show the state at its catalog's [`Catalog::at`] and at the
//!   heads of the chains when it was frozen. Freezing under an older catalog shows the tables as of that position.
//! - Nobody is exempt: a row is built only for a [`Viewer`] who may see it, and what the viewer may not see is absent
//!   (rows) or NULL (values). `gate.rs` holds the whole rule.
//! - Lineage is complete or the table is refused: a version whose lineage entry has not arrived is an error, not a gap.
//!
//! Deliberately absent: execution and providers (engine), decisions (policy), signatures and files (ledger, store).
//! What only those know comes in through [`Facts`] and [`Sees`].
//!
//! [`Catalog::at`]: custody_catalog::Catalog::at
#![forbid(unsafe_code)]

mod audit;
mod chunks;
mod edges;
mod error;
mod fold;
mod gate;
mod graph;
mod intern;
mod rows;
mod schema;
mod snapshot;
mod tables;

pub use audit::{AuditColumn, AuditScan, Condition, Newest};
pub use edges::{Edge, EdgeKind};
pub use error::SystemError;
pub use fold::{Entries, Fold};
pub use gate::{CheckpointRow, Facts, PolicyRow, PolicyRows, RowSetRow, Sees, SloRow, TagRow, Unseal, Viewer};
pub use graph::{Direction, Graph, Hop};
pub use schema::{SystemTable, closure_schema, is_audit, system_node, system_table, tables};
pub use snapshot::Snapshot;

#[cfg(test)]
mod tests;
