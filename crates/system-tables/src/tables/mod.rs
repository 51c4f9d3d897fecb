//! One function a table: which rows the viewer may see, in the order of the table's declaration.

pub(crate) mod access;
pub(crate) mod approvals;
pub(crate) mod asserted;
pub(crate) mod catalog;
pub(crate) mod ledger;
pub(crate) mod lineage;
pub(crate) mod ml;
pub(crate) mod policy;
pub(crate) mod quality;
