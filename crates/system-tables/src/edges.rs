//! Lineage of one published version as edges between nodes.
//!
//! Influences on every output, and which rows exist, attach to the version's `*` (ordinal 0); every column has an edge
//! `ROWS` from its own `*`. So equality joins of `target_node` with `source_node` follow every influence.

use crate::SystemError;
use custody_catalog::{Catalog, VersionRecord};
use custody_model::{
    Atom, ControlSeq, DatasetId, Direct, FieldId, Indirect, LineageRecord, Node, Payload, StoredEntry, TableVersion,
};
use std::sync::Arc;

/// What an edge means. `Ord`: what says more comes first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum EdgeKind {
    /// The value flows.
    Direct(Direct),
    /// The value decides.
    Indirect(Indirect),
    /// The rows are there because rows of the source are.
    Rows,
}

impl EdgeKind {
    /// `DIRECT` or `INDIRECT`.
    pub fn kind(self) -> &'static str {
        match self {
            Self::Direct(_) => "DIRECT",
            Self::Indirect(_) | Self::Rows => "INDIRECT",
        }
    }

    /// OpenLineage's subtype, or `ROWS`.
    pub fn subtype(self) -> &'static str {
        match self {
            Self::Direct(direct) => direct.word(),
            Self::Indirect(indirect) => indirect.word(),
            Self::Rows => "ROWS",
        }
    }

    /// What a path means whose part nearer the source is `self` and whose part nearer the output is `output`: a value
    /// that flows all the way keeps the larger subtype, else the influence that acts last names it.
    #[must_use]
    pub fn then(self, output: Self) -> Self {
        match (self, output) {
            (Self::Direct(a), Self::Direct(b)) => Self::Direct(a.max(b)),
            (Self::Indirect(_), Self::Direct(_) | Self::Rows) | (Self::Rows, Self::Direct(_)) => self,
            (_, Self::Indirect(_)) | (Self::Direct(_) | Self::Rows, Self::Rows) => output,
        }
    }
}

/// One edge.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Edge {
    /// Whose value or existence.
    pub source: Node,
    /// Of which column.
    pub target: Node,
    /// How.
    pub kind: EdgeKind,
    /// Whether a mask stands between.
    pub masking: bool,
    /// Whether the lineage is exact.
    pub exact: bool,
    /// The dataset whose policy reads the source, where the user's statement does not.
    pub by_policy: Option<DatasetId>,
}

/// A published version with its lineage.
#[derive(Debug)]
pub(crate) struct VersionLineage {
    pub(crate) version: Arc<VersionRecord>,
    entry: Arc<StoredEntry>,
    /// Sorted, each once.
    pub(crate) edges: Vec<Edge>,
}

impl VersionLineage {
    pub(crate) fn new(
        version: Arc<VersionRecord>,
        entry: Arc<StoredEntry>,
        catalog: &Catalog,
    ) -> Result<Self, SystemError> {
        let mut lineage = Self { version, entry, edges: vec![] };
        lineage.edges = lineage.build(catalog)?;
        Ok(lineage)
    }

    /// The lineage entry.
    pub(crate) fn entry(&self) -> &StoredEntry {
        &self.entry
    }

    /// What the entry says. `None` cannot be: `new` has checked it.
    pub(crate) fn record(&self) -> Option<&LineageRecord> {
        match &self.entry.entry.payload {
            Payload::Lineage(record) => Some(record),
            _ => None,
        }
    }

    /// The ordinal of an output; the lineage's outputs are columns of the version by name.
    pub(crate) fn ordinal(&self, output: &str) -> Option<u16> {
        let definition = self.version.definition();
        definition.ordinal(definition.column_named(output)?.field)
    }

    fn build(&self, catalog: &Catalog) -> Result<Vec<Edge>, SystemError> {
        let mismatch = || SystemError::LineageMismatch(Box::new(self.version.table.clone()));
        let (record, publish) = (self.record().ok_or_else(mismatch)?, self.version.publish().ok_or_else(mismatch)?);
        if record.identity != publish.identity || record.hash != publish.lineage_hash {
            return Err(mismatch());
        }
        let lineage = &record.lineage;
        let rows = self.version.table.node(0);
        let columns = u16::try_from(self.version.definition().columns.len()).map_err(|_| mismatch())?;
        let atoms = lineage
            .atoms
            .iter()
            .map(|atom| self.atom(atom, lineage.table(atom).ok_or_else(mismatch)?, catalog))
            .collect::<Result<Vec<_>, _>>()?;
        let edge = |target, kind, atom: u32| {
            let end = atoms.get(atom as usize).ok_or_else(mismatch)?;
            Ok::<_, SystemError>(Edge {
                source: end.node,
                target,
                kind,
                masking: end.masking,
                exact: lineage.exact,
                by_policy: end.by_policy,
            })
        };
        let plain = |source, target| Edge {
            source,
            target,
            kind: EdgeKind::Rows,
            masking: false,
            exact: lineage.exact,
            by_policy: None,
        };
        let mut edges: Vec<Edge> = (1..=columns).map(|ordinal| plain(rows, self.version.table.node(ordinal))).collect();
        for input in &lineage.inputs {
            edges.push(plain(rows_of(input), rows));
        }
        for influence in &lineage.dataset {
            edges.push(edge(rows, EdgeKind::Indirect(influence.kind), influence.atom)?);
        }
        for output in &lineage.outputs {
            let target = self.version.table.node(self.ordinal(&output.name).ok_or_else(mismatch)?);
            for (direct, atom) in &output.direct {
                edges.push(edge(target, EdgeKind::Direct(*direct), *atom)?);
            }
            for influence in &output.field {
                edges.push(edge(target, EdgeKind::Indirect(influence.kind), influence.atom)?);
            }
        }
        edges.sort_unstable();
        edges.dedup();
        Ok(edges)
    }

    fn atom(&self, atom: &Atom, input: &TableVersion, catalog: &Catalog) -> Result<End, SystemError> {
        let node = match atom.field {
            None => Some(rows_of(input)),
            Some(field) => column_of(input, field, catalog),
        };
        Ok(End {
            node: node.ok_or_else(|| SystemError::UnknownColumn {
                version: Box::new(self.version.table.clone()),
                input: Box::new(input.clone()),
            })?,
            masking: !atom.masks.is_empty(),
            by_policy: atom.by_policy.as_ref().map(|_| input.dataset),
        })
    }
}

struct End {
    node: Node,
    masking: bool,
    by_policy: Option<DatasetId>,
}

/// First ordinal of quarantined rows, which share the version's control position.
const QUARANTINE: u16 = 32_768;

fn first_ordinal(table: &TableVersion) -> u16 {
    if table.name.schema() == "quarantine" { QUARANTINE } else { 0 }
}

fn rows_of(input: &TableVersion) -> Node {
    input.node(first_ordinal(input))
}

/// The node of an input's column, by the definition of that version.
pub(crate) fn column_of(input: &TableVersion, field: FieldId, catalog: &Catalog) -> Option<Node> {
    if input.made_at == ControlSeq(0) {
        return Some(crate::system_node(field));
    }
    let ordinal = match catalog.version_made_at(input.made_at) {
        Some(version) => version.definition().ordinal(field)?,
        None => catalog.draft_made_at(input.made_at)?.record.definition.ordinal(field)?,
    };
    Some(input.node(first_ordinal(input).checked_add(ordinal)?))
}
