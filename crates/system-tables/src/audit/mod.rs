//! `system.access.audit` by column, for ledgers of any length.
//!
//! What holds here: a row takes some sixty bytes, whatever its entry has; what is seldom asked for is read from the ledger
//! again. A request whose outcome comes after its chunk was made keeps its entry until it is shown with it.

mod chunk;
mod filter;
mod newest;
mod scan;

pub(crate) use chunk::{Chunk, rows_of};
pub use filter::{AuditColumn, Condition};
pub use newest::Newest;
pub use scan::AuditScan;
