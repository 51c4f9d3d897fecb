//! All system tables at one position.

use crate::{
    Direction, Edge, Facts, SystemError, Viewer,
    fold::{Chain, Lineages, Slot},
    gate::Gate,
    rows::Rows,
    schema::{CLOSURE, Table, system_table},
    tables::{access, asserted, catalog, ledger, lineage, policy, quality},
};
use arrow::{array::RecordBatch, compute::concat_batches};
use custody_catalog::Catalog;
use custody_model::{
    ControlSeq, DatasetId, DatasetName, EntryId, Kind, LineageRecord, Node, Payload, Pin, Seq, StoredEntry, WriterId,
};
use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

/// All system tables at one position. Cloning costs a few reference counts.
#[derive(Clone, Debug)]
pub struct Snapshot {
    pub(crate) catalog: Catalog,
    pub(crate) chains: Arc<BTreeMap<WriterId, Arc<Chain>>>,
    pub(crate) doubles: Arc<BTreeMap<EntryId, (WriterId, Seq)>>,
    pub(crate) lineages: Arc<Lineages>,
}

impl Snapshot {
    /// The control position: what `TableVersion::version` of a system table is.
    pub fn at(&self) -> ControlSeq {
        self.catalog.at()
    }

    /// The catalog at this position.
    pub fn catalog(&self) -> &Catalog {
        &self.catalog
    }

    /// The rows of a table that the viewer may see.
    pub fn batches(
        &self,
        table: &DatasetName,
        viewer: &Viewer<'_>,
        facts: &dyn Facts,
    ) -> Result<Vec<RecordBatch>, SystemError> {
        let table = system_table(table).ok_or_else(|| SystemError::NoTable(table.clone()))?;
        let (gate, mut rows) = (Gate::new(viewer, &self.catalog), Rows::new(table)?);
        match table.table {
            Table::Datasets => catalog::datasets(self, &gate, &mut rows)?,
            Table::Columns => catalog::columns(self, &gate, facts, &mut rows)?,
            Table::Versions => catalog::versions(self, &gate, &mut rows)?,
            Table::Runs => lineage::runs(self, &gate, &mut rows)?,
            Table::LineageColumns => {
                lineage::columns(self, &gate, &mut rows)?;
                asserted::columns(self, &gate, &mut rows)?;
            }
            Table::Inputs => {
                lineage::inputs(self, &gate, &mut rows)?;
                asserted::inputs(self, &gate, &mut rows)?;
            }
            Table::Hops => lineage::hops(self, &gate, &mut rows)?,
            Table::Scans => lineage::scans(self, &gate, &mut rows)?,
            Table::Labels => lineage::labels(self, &gate, &mut rows)?,
            Table::Edges | Table::Closure => lineage::edges(self, &gate, &mut rows)?,
            Table::Audit => access::audit(self, &gate, facts, &mut rows)?,
            Table::ColumnReads => access::column_reads(self, &gate, &mut rows)?,
            Table::Bundles => policy::bundles(self, &gate, &mut rows)?,
            Table::Policies => policy::policies(&gate, facts, &mut rows)?,
            Table::RowSets => policy::row_sets(self, &gate, facts, &mut rows)?,
            Table::Tags => policy::tags(self, &gate, facts, &mut rows)?,
            Table::Grants => policy::grants(self, &gate, facts, &mut rows)?,
            Table::Denials => policy::denials(self, &gate, &mut rows)?,
            Table::Entries => ledger::entries(self, &gate, &mut rows)?,
            Table::Checkpoints => ledger::checkpoints(&gate, facts, &mut rows)?,
            Table::Writers => ledger::writers(self, &gate, &mut rows)?,
            Table::Keys => ledger::keys(self, &gate, &mut rows)?,
            Table::Slo => ledger::slo(self, &gate, facts, &mut rows)?,
            Table::Models => catalog::models(self, &gate, &mut rows)?,
            Table::Expectations => quality::expectations(self, &gate, &mut rows)?,
        }
        rows.finish()
    }

    /// The node of `schema.dataset.column` (`*`: which rows exist) at a version, newest where none is said. Whether the
    /// viewer may see it, the closure decides.
    pub fn node(&self, column: &str, version: Option<u64>) -> Option<Node> {
        let (dataset, column) = column.rsplit_once('.')?;
        let pin = version.map_or(Pin::Newest, Pin::Version);
        let version = self.catalog.resolve(&dataset.parse().ok()?, pin)?;
        let ordinal = match column {
            "*" => 0,
            column => version.definition().ordinal(version.definition().column_named(column)?.field)?,
        };
        Some(version.table.node(ordinal))
    }

    /// What `lineage_upstream` and `lineage_downstream` return: the columns on the way, over edges that the viewer may
    /// see, each at its shortest hop. A column that the viewer may not see has nothing on its way, as one that does not
    /// exist.
    pub fn lineage_closure(
        &self,
        viewer: &Viewer<'_>,
        from: Node,
        way: Direction,
        depth: u32,
    ) -> Result<RecordBatch, SystemError> {
        self.complete()?;
        let (gate, mut rows) = (Gate::new(viewer, &self.catalog), Rows::new(&CLOSURE)?);
        let here = |node: Node| node.made_at() <= self.at();
        let hops = if here(from) && gate.column(from) {
            let mut visible = |edge: &Edge| here(edge.target) && gate.edge(edge);
            self.lineages.graph().closure(&[from], way, depth, &mut visible)
        } else {
            vec![]
        };
        for hop in hops {
            lineage::hop(self, &hop, &mut rows)?;
        }
        Ok(concat_batches(&CLOSURE.schema, &rows.finish()?)?)
    }

    /// Entries from each writer's seq on, control entries once, with the request of an outcome.
    pub fn entries_from<'a>(
        &'a self,
        from: &'a BTreeMap<WriterId, Seq>,
    ) -> impl Iterator<Item = (&'a StoredEntry, Option<&'a StoredEntry>)> {
        let mut requests: Option<HashMap<EntryId, &StoredEntry>> = None;
        let start = |writer: &WriterId| from.get(writer).copied().unwrap_or(Seq(0));
        let slots = self.chains.iter().flat_map(move |(writer, chain)| {
            let start = start(writer);
            chain.entries.iter().filter(move |slot| slot.stored.seq >= start)
        });
        slots.map(Arc::as_ref).filter(|slot| self.here(slot)).map(move |slot| {
            let stored = slot.stored.as_ref();
            let request = match &stored.entry.payload {
                Payload::ReadOutcome(_) => {
                    let all = requests
                        .get_or_insert_with(|| self.reads().map(|s| (s.stored.entry.id, s.stored.as_ref())).collect());
                    stored.entry.reference.and_then(|id| all.get(&id).copied())
                }
                _ => None,
            };
            (stored, request)
        })
    }

    /// The newest seq of each writer.
    pub fn heads(&self) -> impl Iterator<Item = (&WriterId, Seq)> {
        self.chains.iter().filter_map(|(writer, chain)| Some((writer, chain.head?)))
    }

    /// How many reads a writer has recorded from a seq on.
    pub fn reads_from(&self, writer: &WriterId, from: Seq) -> u64 {
        let Some(chain) = self.chains.get(writer) else { return 0 };
        let is_read =
            |slot: &&Arc<Slot>| slot.stored.seq >= from && matches!(slot.stored.entry.kind(), Kind::ReadIntent);
        chain.requests.iter().filter(is_read).count() as u64
    }

    /// The lineage that the version made at this position was published with.
    pub fn lineage_at(&self, made_at: ControlSeq) -> Option<&LineageRecord> {
        self.lineages.versions.get(&made_at)?.record()
    }

    /// Lineage of every version is here, or the missing one is named.
    pub(crate) fn complete(&self) -> Result<(), SystemError> {
        match self.lineages.missing.range(..=self.at()).next() {
            None => Ok(()),
            Some((_, table)) => Err(SystemError::LineageMissing(Box::new(table.clone()))),
        }
    }

    /// Slots that count here: decided at or before this position, control entries once.
    pub(crate) fn here(&self, slot: &Slot) -> bool {
        let stored = &slot.stored;
        stored.entry.control_seq <= self.at()
            && (!stored.entry.kind().is_control()
                || self.doubles.get(&stored.entry.id).is_none_or(|(writer, seq)| {
                    // The place that counts may lie above this snapshot's head of that writer.
                    let known = self.chains.get(writer).is_some_and(|chain| chain.head >= Some(*seq));
                    !known || (*writer == stored.writer && *seq == stored.seq)
                }))
    }

    /// Requests by writer and seq.
    pub(crate) fn requests(&self) -> impl Iterator<Item = &Slot> {
        self.chains.values().flat_map(|chain| chain.requests.iter()).map(Arc::as_ref).filter(|slot| self.here(slot))
    }

    /// Requests that read columns: intents and reads in one entry.
    pub(crate) fn reads(&self) -> impl Iterator<Item = &Slot> {
        self.requests().filter(|slot| matches!(slot.stored.entry.kind(), Kind::ReadIntent | Kind::Read))
    }

    /// The present name of a dataset; of a draft, quarantined rows or a system table, theirs.
    pub(crate) fn name(&self, dataset: DatasetId, made_at: ControlSeq, ordinal: u16) -> Option<DatasetName> {
        if let Some(draft) = self.catalog.draft_made_at(made_at) {
            return Some(draft.table.name.clone());
        }
        match self.catalog.dataset_by_id(dataset) {
            Some(known) if ordinal >= 32_768 => DatasetName::new("quarantine", known.name().name()).ok(),
            Some(known) => Some(known.name().clone()),
            None => crate::tables().iter().find(|t| t.definition.id == dataset).map(|t| t.definition.name.clone()),
        }
    }
}
