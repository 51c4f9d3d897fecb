//! Decides what a subject gets of a table, and puts that decision into the plan.
//!
//! `decide(bundle, subject, facts) -> Grant` is pure: no clock, no I/O. `govern(scan, at, grant, keys)` makes the
//! governed relation: filter first, mask above it, a barrier above both. The physical half of the barrier lives in
//! `engine`, which executes.
//!
//! `Bundle::load` reads Cedar policies and policy SQL (`ddl`, `rows`, `cedar`) and refuses whatever is not total, typed
//! and closed; `decide` asks Cedar and resolves masks and rows; `Decisions` remembers.
#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking"))]

mod barrier;
mod bundle;
mod cache;
mod cedar;
mod ddl;
mod decide;
mod digest;
pub mod enforce;
mod entitlement;
mod expect;
mod explain;
pub mod floor;
mod govern;
mod grant;
pub mod markers;
pub mod mask;
mod matrix;
mod place;
#[cfg(test)]
mod properties;
mod replay;
mod rows;
#[cfg(test)]
mod tests;

pub use barrier::{Barrier, ViewBoundary};
pub use bundle::{Bundle, PolicyRow, RowSetRow, Tables, TagRow, policy_hash};
pub use cache::Decisions;
pub use decide::{decide, facts_hash, subject_key};
pub use entitlement::{Entitlement, resolved};
pub use expect::{Claims, Expected, Finding, Reader, read_expectations};
pub use explain::{ExplainRow, explain, rows_text};
pub use floor::{FloorRefusal, FlooredGroups};
pub use govern::{govern, govern_view};
pub use grant::{ColumnFacts, ColumnGrant, Grant, GroupFloor, Mask, RowGrant, RowPredicate, TableFacts};
pub use mask::TokenKeys;
pub use matrix::{Answer, matrix};
pub use replay::{Change, Direction, Grounds, Group, Recorded, Replay, VersionRead, subject_of};
