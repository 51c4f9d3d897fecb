//! All system tables at one position.

use crate::{
    Direction, Edge, Entries, Facts, SystemError, Viewer,
    fold::{Chain, Lineages, is_request},
    gate::Gate,
    intern::Dictionaries,
    rows::Rows,
    schema::{CLOSURE, Table, system_table},
    tables::{access, approvals, asserted, catalog, ledger, lineage, ml, policy, quality},
};
use arrow::{array::RecordBatch, compute::concat_batches};
use custody_catalog::Catalog;
use custody_model::{
    ControlSeq, DatasetId, DatasetName, EntryId, Kind, LineageRecord, Node, Payload, Pin, Seq, StoredEntry, WallNanos,
    WriterEvent, WriterId,
};
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    ops::ControlFlow,
    sync::Arc,
};

/// So many entries are in memory at once, of those read again.
const LOADED: u64 = 4096;
/// Three heartbeats.
const SILENCE_NANOS: i64 = 30 * 1_000_000_000;

/// All system tables at one position. Cloning costs a few reference counts.
#[derive(Clone, Debug)]
pub struct Snapshot {
    pub(crate) catalog: Catalog,
    pub(crate) chains: Arc<BTreeMap<WriterId, Arc<Chain>>>,
    pub(crate) doubles: Arc<BTreeMap<EntryId, (WriterId, Seq)>>,
    pub(crate) lineages: Arc<Lineages>,
    pub(crate) known: Arc<Dictionaries>,
    pub(crate) ledger: Option<Arc<dyn Entries>>,
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
            Table::Audit => {
                let scan = self.audit(viewer, facts)?;
                return (0..scan.chunks())
                    .filter_map(|chunk| scan.batch(chunk, &(i64::MIN..=i64::MAX)).transpose())
                    .collect();
            }
            Table::ColumnReads => access::column_reads(self, &gate, &mut rows)?,
            Table::Bundles => policy::bundles(self, &gate, &mut rows)?,
            Table::Policies => policy::policies(&gate, facts, &mut rows)?,
            Table::RowSets => policy::row_sets(self, &gate, facts, &mut rows)?,
            Table::Tags => policy::tags(self, &gate, facts, &mut rows)?,
            Table::Grants => policy::grants(self, &gate, facts, &mut rows)?,
            Table::Denials => policy::denials(self, &gate, &mut rows)?,
            Table::Entries => ledger::entries(self, &gate, &mut rows)?,
            Table::Checkpoints => ledger::checkpoints(&gate, facts, &mut rows)?,
            Table::Writers => ledger::writers(self, &gate, facts, &mut rows)?,
            Table::Keys => ledger::keys(self, &gate, &mut rows)?,
            Table::Slo => ledger::slo(self, &gate, facts, &mut rows)?,
            Table::Models => catalog::models(self, &gate, &mut rows)?,
            Table::Profiles => quality::profiles(self, &gate, facts, &mut rows)?,
            Table::ProfileCells => quality::profile_cells(self, &gate, facts, &mut rows)?,
            Table::Drift => quality::drift(self, &gate, facts, &mut rows)?,
            Table::AccessRequests => approvals::requests(self, &gate, &mut rows)?,
            Table::AccessGrants => approvals::grants(self, &gate, &mut rows)?,
            Table::Predictions => ml::predictions(self, &gate, &mut rows)?,
            Table::ModelDrift => ml::drift(self, &gate, facts, &mut rows)?,
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

    /// Runs over entries from each writer's seq on, control entries once, with the request of an outcome, until told to
    /// stop.
    pub fn entries_from(
        &self,
        from: &BTreeMap<WriterId, Seq>,
        mut each: impl FnMut(&StoredEntry, Option<&StoredEntry>) -> ControlFlow<()>,
    ) -> Result<(), SystemError> {
        let mut open: HashMap<EntryId, Arc<StoredEntry>> = HashMap::new();
        self.each_entry(
            |writer| from.get(writer).map_or(0, |seq| seq.0),
            |stored| {
                if !self.here(stored) {
                    return Ok(ControlFlow::Continue(()));
                }
                let request = match (&stored.entry.payload, stored.entry.reference) {
                    (Payload::ReadIntent(_), _) => {
                        open.insert(stored.entry.id, Arc::clone(stored));
                        None
                    }
                    (Payload::ReadOutcome(_), Some(id)) => match open.remove(&id) {
                        Some(request) => Some(request),
                        None => self.read(id)?,
                    },
                    _ => None,
                };
                Ok(each(stored, request.as_deref()))
            },
        )
    }

    /// A read's request by its id.
    fn read(&self, id: EntryId) -> Result<Option<Arc<StoredEntry>>, SystemError> {
        for (writer, chain) in self.chains.iter() {
            if let Some(slot) = chain.requests.iter().find(|slot| slot.stored.entry.id == id) {
                return Ok(Some(&slot.stored).filter(|stored| self.here(stored)).cloned());
            }
            for sealed in chain.sealed.iter().rev() {
                let Some(row) = sealed.audit.row_of(id.0.as_u128()) else { continue };
                let seq = sealed.audit.seq(row);
                let found = self.load(writer, Seq(seq), Seq(seq + 1))?.pop();
                return Ok(found.filter(|stored| self.here(stored)).map(Arc::new));
            }
        }
        Ok(None)
    }

    /// The newest seq of each writer.
    pub fn heads(&self) -> impl Iterator<Item = (&WriterId, Seq)> {
        self.chains.iter().filter_map(|(writer, chain)| Some((writer, chain.head?)))
    }

    /// Writers that have not ended and have said nothing for 30 seconds, as of this moment: a living one says every ten
    /// seconds that it lives.
    pub fn silent(&self, now: WallNanos) -> BTreeSet<WriterId> {
        let is_silent = |chain: &Chain| {
            let closed = chain.life.last().is_some_and(|slot| {
                Some(slot.stored.seq) == chain.head && slot.stored.entry.payload == Payload::Writer(WriterEvent::Close)
            });
            let last = chain.entries.last().map(|slot| slot.stored.entry.wall);
            let last = last.or_else(|| chain.sealed.last().map(|sealed| sealed.time));
            !closed && last.is_some_and(|last| now.0.saturating_sub(last.0) > SILENCE_NANOS)
        };
        self.chains.iter().filter(|(_, chain)| is_silent(chain)).map(|(writer, _)| writer.clone()).collect()
    }

    /// How many reads a writer has recorded from a seq on.
    pub fn reads_from(&self, writer: &WriterId, from: Seq) -> u64 {
        let Some(chain) = self.chains.get(writer) else { return 0 };
        let sealed = chain.sealed.iter().map(|sealed| match from {
            from if from <= sealed.from => sealed.intents,
            from if from >= sealed.to => 0,
            from => sealed.audit.intents_from(from.0),
        });
        let tail = chain
            .requests
            .iter()
            .filter(|slot| slot.stored.seq >= from && matches!(slot.stored.entry.kind(), Kind::ReadIntent));
        sealed.sum::<u64>() + tail.count() as u64
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

    /// Entries that count here: decided at or before this position, control entries once.
    pub(crate) fn here(&self, stored: &StoredEntry) -> bool {
        stored.entry.control_seq <= self.at()
            && (!stored.entry.kind().is_control() || self.counts(stored.entry.id, &stored.writer, stored.seq))
    }

    /// Whether this is the place that counts of a control entry.
    pub(crate) fn counts(&self, id: EntryId, writer: &WriterId, seq: Seq) -> bool {
        self.doubles.get(&id).is_none_or(|(home, at)| {
            // The place that counts may lie above this snapshot's head of that writer.
            let known = self.chains.get(home).is_some_and(|chain| chain.head >= Some(*at));
            !known || (home == writer && *at == seq)
        })
    }

    /// Entries of a writer, read again.
    pub(crate) fn load(&self, writer: &WriterId, from: Seq, to: Seq) -> Result<Vec<StoredEntry>, SystemError> {
        let Some(ledger) = &self.ledger else { return Ok(vec![]) };
        ledger.load(writer, from.0..to.0).map_err(SystemError::Facts)
    }

    /// Runs over all entries by writer and seq, from each writer's seq on, until told to stop.
    pub(crate) fn each_entry(
        &self,
        from: impl Fn(&WriterId) -> u64,
        mut each: impl FnMut(&Arc<StoredEntry>) -> Result<ControlFlow<()>, SystemError>,
    ) -> Result<(), SystemError> {
        for (writer, chain) in self.chains.iter() {
            let from = from(writer);
            for sealed in chain.sealed.iter().filter(|sealed| sealed.to.0 > from) {
                let mut at = sealed.from.0.max(from);
                while at < sealed.to.0 {
                    let to = sealed.to.0.min(at + LOADED);
                    for stored in self.load(writer, Seq(at), Seq(to))? {
                        if each(&Arc::new(stored))?.is_break() {
                            return Ok(());
                        }
                    }
                    at = to;
                }
            }
            for slot in chain.entries.iter().filter(|slot| slot.stored.seq.0 >= from) {
                if each(&slot.stored)?.is_break() {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// Runs over requests by writer and seq.
    pub(crate) fn each_request(
        &self,
        mut each: impl FnMut(&Arc<StoredEntry>) -> Result<(), SystemError>,
    ) -> Result<(), SystemError> {
        self.each_entry(
            |_| 0,
            |stored| {
                if is_request(&stored.entry.payload) && self.here(stored) {
                    each(stored)?;
                }
                Ok(ControlFlow::Continue(()))
            },
        )
    }

    /// Runs over requests that read columns: intents and reads in one entry.
    pub(crate) fn each_read(
        &self,
        mut each: impl FnMut(&Arc<StoredEntry>) -> Result<(), SystemError>,
    ) -> Result<(), SystemError> {
        self.each_request(|stored| match stored.entry.kind() {
            Kind::ReadIntent | Kind::Read => each(stored),
            _ => Ok(()),
        })
    }

    /// The last entry of a chain before the first that was decided later, and its time.
    pub(crate) fn newest(&self, writer: &WriterId, chain: &Chain) -> Result<Option<(Seq, WallNanos)>, SystemError> {
        let mut newest = None;
        for sealed in chain.sealed.iter() {
            if sealed.newest <= self.at() {
                newest = Some((Seq(sealed.to.0 - 1), sealed.time));
                continue;
            }
            let entries = self.load(writer, sealed.from, sealed.to)?;
            let last = entries.iter().take_while(|stored| stored.entry.control_seq <= self.at()).last();
            return Ok(last.map(|stored| (stored.seq, stored.entry.wall)).or(newest));
        }
        let here = |slot: &&Arc<crate::fold::Slot>| slot.stored.entry.control_seq <= self.at();
        let last = match chain.entries.last().filter(here) {
            Some(slot) => Some(slot),
            None => chain.entries.iter().take_while(here).last(),
        };
        Ok(last.map(|slot| (slot.stored.seq, slot.stored.entry.wall)).or(newest))
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
