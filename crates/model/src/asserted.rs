//! Lineage that somebody else claims: by names, none of it seen by the engine.
//!
//! Nothing here has a node: labels, decisions and the graph cannot reach it.

use crate::{DatasetId, DatasetName, Direct, Hash, Indirect, WallNanos};

/// How a source takes part.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum FlowKind {
    /// Its value flows.
    Direct(Direct),
    /// Its value decides.
    Indirect(Indirect),
}

/// A dataset as a claim names it.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct AssertedTable {
    /// The dataset of the catalog that stands for it.
    pub dataset: DatasetId,
    /// Its name in the catalog when the claim was recorded.
    pub name: DatasetName,
    /// The namespace it was named in.
    pub namespace: String,
    /// The name it was given there.
    pub text: String,
    /// The version, where one was given as a number.
    pub version: Option<u64>,
}

/// One source of an output, or of all of them.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct AssertedSource {
    /// Index into the tables.
    pub table: u32,
    /// The column; `None`: which rows exist.
    pub column: Option<String>,
    /// How.
    pub kind: FlowKind,
    /// Whether the value is masked on the way.
    pub masking: bool,
}

/// One output column of a claim.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct AssertedOutput {
    /// Its name.
    pub name: String,
    /// What it is made of. Empty: the claim is that it comes from nowhere.
    pub from: Vec<AssertedSource>,
}

/// What one event claims of one output dataset. Invariants: `tables` is not empty, indices are in range, `outputs` are
/// sorted by name, sources are sorted, and nothing stands twice.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AssertedLineage {
    /// SHA3-256 of the event, keys sorted, without white space: tells it again when it comes again.
    pub event: Hash,
    /// Who made the event.
    pub producer: String,
    /// The namespace of its job; empty: it names no job.
    pub job_namespace: String,
    /// The job.
    pub job: String,
    /// The run; empty: it names no run.
    pub run: String,
    /// When it happened, by the producer's clock.
    pub at: WallNanos,
    /// The output, then what it was made from.
    pub tables: Vec<AssertedTable>,
    /// Columns of the output.
    pub outputs: Vec<AssertedOutput>,
    /// What decides about all rows of the output.
    pub rows: Vec<AssertedSource>,
}

impl AssertedLineage {
    /// What tells an assertion again: the event, the output, its version.
    pub fn key(&self) -> Option<(Hash, DatasetId, Option<u64>)> {
        self.tables.first().map(|output| (self.event, output.dataset, output.version))
    }
}
