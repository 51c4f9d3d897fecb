//! Entries of all writers into what tables are built from.

use crate::{Graph, Snapshot, SystemError, chunks::Chunks, edges::VersionLineage};
use custody_catalog::Catalog;
use custody_model::{ControlSeq, DatasetId, EntryId, Hash, Payload, Seq, StoredEntry, TableVersion, WriterId};
use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    sync::{Arc, OnceLock},
};

/// An entry of a chain, with the outcome that came later.
#[derive(Debug)]
pub(crate) struct Slot {
    pub(crate) stored: Arc<StoredEntry>,
    /// Set once. A snapshot shows it only where it lies below its own heads.
    end: OnceLock<Arc<StoredEntry>>,
}

/// One writer's entries.
#[derive(Clone, Default, Debug)]
pub(crate) struct Chain {
    /// All, in seq order.
    pub(crate) entries: Chunks<Arc<Slot>>,
    /// Those that are a request of their own, for `access` and `policy`.
    pub(crate) requests: Chunks<Arc<Slot>>,
    /// Those of runs.
    pub(crate) runs: Chunks<Arc<Slot>>,
    /// What others claim of lineage: read by `tables::asserted` alone.
    pub(crate) asserted: Chunks<Arc<Slot>>,
    /// Keys and the writer's own life.
    pub(crate) life: Chunks<Arc<Slot>>,
    pub(crate) head: Option<Seq>,
}

/// Lineage of every published version.
#[derive(Default, Debug)]
pub(crate) struct Lineages {
    pub(crate) versions: BTreeMap<ControlSeq, Arc<VersionLineage>>,
    /// Versions whose lineage entry has not arrived.
    pub(crate) missing: BTreeMap<ControlSeq, TableVersion>,
    graph: OnceLock<Graph>,
}

impl Lineages {
    /// All edges, built at first use.
    pub(crate) fn graph(&self) -> &Graph {
        self.graph.get_or_init(|| Graph::new(self.versions.values().flat_map(|v| v.edges.iter().copied()).collect()))
    }
}

/// Takes entries, gives snapshots.
#[derive(Default, Debug)]
pub struct Fold {
    chains: Arc<BTreeMap<WriterId, Arc<Chain>>>,
    /// Where each request stands, for the outcome to come.
    requests: HashMap<EntryId, Arc<Slot>>,
    /// Outcomes whose request has not arrived.
    early: HashMap<EntryId, Arc<StoredEntry>>,
    /// Where control entries stand first, by writer and seq.
    homes: HashMap<EntryId, (WriterId, Seq)>,
    /// Of control entries that stand in two chains, the place that counts.
    doubles: Arc<BTreeMap<EntryId, (WriterId, Seq)>>,
    /// Claims taken.
    asserted: HashSet<(Hash, DatasetId, Option<u64>)>,
    lineage_entries: HashMap<EntryId, Arc<StoredEntry>>,
    lineages: Arc<Lineages>,
    /// Versions up to here are in `lineages`.
    lineages_at: ControlSeq,
}

impl Fold {
    /// Before any entry.
    pub fn new() -> Self {
        Self::default()
    }

    /// The newest entry taken of a writer.
    pub fn head(&self, writer: &WriterId) -> Option<Seq> {
        self.chains.get(writer)?.head
    }

    /// Claims taken so far, as `AssertedLineage::key` tells them.
    pub fn asserted(&self) -> &HashSet<(Hash, DatasetId, Option<u64>)> {
        &self.asserted
    }

    /// Takes an entry. Writers may interleave in any way; within a writer `seq` is dense, from wherever it begins.
    /// An entry taken already is passed over.
    pub fn apply(&mut self, stored: Arc<StoredEntry>) -> Result<(), SystemError> {
        let chains = Arc::make_mut(&mut self.chains);
        let chain = Arc::make_mut(chains.entry(stored.writer.clone()).or_default());
        if let Some(at) = chain.head {
            if stored.seq <= at {
                return Ok(());
            }
            if stored.seq.0 != at.0 + 1 {
                return Err(SystemError::NotDense { writer: stored.writer.clone(), at, found: stored.seq });
            }
        }
        chain.head = Some(stored.seq);
        let slot = Arc::new(Slot { stored: stored.clone(), end: OnceLock::new() });
        chain.entries.push(slot.clone());
        match &stored.entry.payload {
            Payload::CatalogChange(_) | Payload::PolicyBundle(_) | Payload::Publish(_) | Payload::Erasure(_) => {
                chain.requests.push(slot);
                self.control(&stored);
            }
            Payload::ReadIntent(_) | Payload::Read(..) => {
                if let Some(end) = self.early.remove(&stored.entry.id) {
                    let _ = slot.end.set(end);
                }
                chain.requests.push(slot.clone());
                self.requests.insert(stored.entry.id, slot);
            }
            Payload::Denied(_) | Payload::Bypass(_) => chain.requests.push(slot),
            Payload::ReadOutcome(_) => {
                if let Some(request) = stored.entry.reference {
                    match self.requests.get(&request) {
                        // The first outcome is the one that was promised; a second one changes nothing.
                        Some(slot) => drop(slot.end.set(stored)),
                        None => drop(self.early.entry(request).or_insert(stored)),
                    }
                }
            }
            Payload::Run(_) => chain.runs.push(slot),
            Payload::Asserted(claim) => {
                self.asserted.extend(claim.key());
                // Who said so is a request like any act of an administrator.
                chain.requests.push(slot.clone());
                chain.asserted.push(slot);
            }
            Payload::Lineage(_) => drop(self.lineage_entries.insert(stored.entry.id, stored)),
            Payload::Key(_) | Payload::Writer(_) => chain.life.push(slot),
            // A progress entry is told by the outcome's byte count; heads are those of the chains themselves.
            Payload::ReadProgress(_) | Payload::Heads(_) => {}
        }
        Ok(())
    }

    /// A control entry may stand in the chain of its writer and in that of whoever completed a missing append.
    fn control(&mut self, stored: &StoredEntry) {
        let place = (stored.writer.clone(), stored.seq);
        match self.homes.entry(stored.entry.id) {
            std::collections::hash_map::Entry::Vacant(free) => drop(free.insert(place)),
            std::collections::hash_map::Entry::Occupied(mut home) => {
                if place < *home.get() {
                    home.insert(place);
                }
                Arc::make_mut(&mut self.doubles).insert(stored.entry.id, home.get().clone());
            }
        }
    }

    /// The tables at the catalog's position and at the heads of all chains as they are now. A catalog of an earlier
    /// position gives the tables as of that position: entries decided later are left out.
    pub fn freeze(&mut self, catalog: &Catalog) -> Result<Snapshot, SystemError> {
        self.take_lineages(catalog)?;
        Ok(Snapshot {
            catalog: catalog.clone(),
            chains: self.chains.clone(),
            doubles: self.doubles.clone(),
            lineages: self.lineages.clone(),
        })
    }

    fn take_lineages(&mut self, catalog: &Catalog) -> Result<(), SystemError> {
        let mut missing = BTreeMap::new();
        let mut found = vec![];
        let new = (self.lineages_at.0 + 1..=catalog.at().0).map(ControlSeq);
        let waiting: BTreeSet<ControlSeq> = self.lineages.missing.keys().copied().collect();
        for seq in waiting.into_iter().chain(new) {
            let Some(version) = catalog.version_made_at(seq) else {
                // A catalog older than the last one: what waits goes on waiting.
                if let Some(table) = self.lineages.missing.get(&seq) {
                    missing.insert(seq, table.clone());
                }
                continue;
            };
            let Some(publish) = version.publish() else { continue };
            match self.lineage_entries.get(&publish.lineage) {
                Some(entry) => {
                    found.push((seq, Arc::new(VersionLineage::new(version.clone(), entry.clone(), catalog)?)));
                }
                None => drop(missing.insert(seq, version.table.clone())),
            }
        }
        self.lineages_at = self.lineages_at.max(catalog.at());
        if !found.is_empty() || missing != self.lineages.missing {
            let mut versions = self.lineages.versions.clone();
            versions.extend(found);
            self.lineages = Arc::new(Lineages { versions, missing, graph: OnceLock::new() });
        }
        Ok(())
    }
}

impl Slot {
    /// The outcome, if it lies below these heads.
    pub(crate) fn end(&self, chains: &BTreeMap<WriterId, Arc<Chain>>) -> Option<&StoredEntry> {
        let end = self.end.get()?;
        (chains.get(&end.writer)?.head >= Some(end.seq)).then_some(end)
    }
}
