//! SQL text → statements of which every clause has a reader.
//!
//! What holds here: a [`GatedQuery`] holds nothing that DataFusion would silently drop; its
//! [`references`](GatedQuery::references) are all the datasets it reads, `WITH` names told apart from them; a pin reaches
//! the planner through [`Relations`]. Everything refused says where and what to write instead.
//!
//! Deliberately absent: whether a name exists, who may read it, which functions there are, what is executed. The
//! crate is pure and synchronous.
//!
//! The way of a text: [`parse`] → tokens and bounds (`text`) → heads (`parse`) → gate (`gate`) → statements.
#![forbid(unsafe_code)]

mod asof;
#[cfg(test)]
mod ast_scan;
mod bare;
mod custody_dialect;
mod dag;
mod gate;
mod parse;
mod problem;
mod reference;
mod relations;
mod rewrite;
mod statement;
#[cfg(test)]
mod tests;
mod text;
mod training;
mod types;

pub use asof::{AsOfJoin, AsOfRelations, Matching};
pub use bare::{Bare, BareStatement, parse_bare};
pub use custody_dialect::CustodyDialect;
pub use dag::{Definition, order};
pub use gate::TABLE_FUNCTIONS;
pub use parse::parse;
pub use problem::{Place, Refusals, code};
pub use reference::Reference;
pub use relations::{Relations, table_reference};
pub use statement::{
    Check, Clauses, ExecuteDef, Expectation, ExplainKind, FeatureItem, FunctionCall, FunctionKind, GatedQuery,
    Incremental, Key, KnownAt, Located, OnViolation, Placed, PlainViewDef, PrepareDef, RenamedColumn, Sample,
    SourceColumn, SourceDef, SourceFormat, Split, Statement, TrainingDef, ViewDef, dropped_modifiers,
};
pub use text::{
    MAX_CHAIN, MAX_COLUMNS, MAX_CTES, MAX_JOINS, MAX_NESTING, MAX_SET_OPERATIONS, MAX_STATEMENT_BYTES, normalise,
};
pub use types::{Types, timestamp_type};
