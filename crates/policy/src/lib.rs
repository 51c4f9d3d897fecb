//! Decides what a subject gets of a table, and puts that decision into the plan.
//!
//! `decide(bundle, subject, facts) -> Grant` is pure: no clock, no I/O. `govern(scan, at, grant, keys)` makes the
//! governed relation: filter first, mask above it, a barrier above both. The physical half of the barrier lives in
//! `engine`, which executes.
#![forbid(unsafe_code)]

mod grant;

pub use grant::{ColumnFacts, ColumnGrant, GroupFloor, Grant, Mask, RowGrant, RowPredicate, TableFacts};
