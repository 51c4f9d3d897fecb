//! Decides what a subject gets of a table, and puts that decision into the plan.
//!
//! `decide(bundle, subject, facts) -> Grant` is pure: no clock, no I/O. `govern(scan, at, grant, keys)` makes the
//! governed relation: filter first, mask above it, a barrier above both. The physical half of the barrier lives in
//! `engine`, which executes.
#![forbid(unsafe_code)]

mod barrier;
pub mod enforce;
mod govern;
mod grant;
pub mod markers;
pub mod mask;

pub use barrier::{Barrier, ViewBoundary};
pub use govern::govern;
pub use grant::{ColumnFacts, ColumnGrant, Grant, GroupFloor, Mask, RowGrant, RowPredicate, TableFacts};
pub use mask::TokenKeys;
