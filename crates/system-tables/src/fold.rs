//! Entries of all writers into what tables are built from.
//!
//! What holds here: of a ledger that can be read again, only the newest entries of each chain are in memory, and of the
//! others the columns of their requests.

use crate::{
    Graph, Snapshot, SystemError,
    audit::{Chunk, rows_of},
    chunks::Chunks,
    edges::VersionLineage,
    intern::Dictionaries,
};
use custody_catalog::Catalog;
use custody_model::{
    ControlSeq, DatasetId, EntryId, Hash, Kind, Payload, Seq, StoredEntry, TableVersion, WallNanos, WriterEvent,
    WriterId,
};
use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    fmt,
    ops::Range,
    sync::{Arc, OnceLock},
};

/// Rows of `system.access.audit` in a sealed chunk; its last request may add to them.
const CHUNK_ROWS: usize = 4096;
/// Requests in a young chunk: what each query makes anew is less than this.
const YOUNG: usize = 256;
/// Entries in a sealed chunk, where few of them are requests.
const CHUNK_ENTRIES: usize = 16_384;

/// The ledger, to read entries again.
pub trait Entries: Send + Sync + fmt::Debug {
    /// The entries of a writer with these seqs, in order.
    fn load(
        &self,
        writer: &WriterId,
        seqs: Range<u64>,
    ) -> Result<Vec<StoredEntry>, Box<dyn std::error::Error + Send + Sync>>;
}

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
    /// The oldest, in seq order.
    pub(crate) sealed: Arc<Vec<Arc<Sealed>>>,
    /// All behind them, in seq order.
    pub(crate) entries: Chunks<Arc<Slot>>,
    /// Those of `entries` that are a request of their own, for `access` and `policy`.
    pub(crate) requests: Chunks<Arc<Slot>>,
    /// How many rows of `system.access.audit` those are.
    rows: usize,
    /// The first of `requests`, by column already.
    pub(crate) young: Arc<Vec<Young>>,
    /// Those of runs.
    pub(crate) runs: Chunks<Arc<Slot>>,
    /// What others claim of lineage: read by `tables::asserted` alone.
    pub(crate) asserted: Chunks<Arc<Slot>>,
    /// Keys and the writer's own life.
    pub(crate) life: Chunks<Arc<Slot>>,
    pub(crate) head: Option<Seq>,
}

/// Requests that are in memory, and their columns.
#[derive(Clone, Debug)]
pub(crate) struct Young {
    pub(crate) slots: Arc<Vec<Arc<Slot>>>,
    pub(crate) audit: Arc<Chunk>,
}

impl Chain {
    /// Requests that are in no chunk.
    pub(crate) fn loose(&self) -> impl Iterator<Item = &Arc<Slot>> {
        self.requests.iter().skip(self.young.len() * YOUNG)
    }

    /// Puts loose requests by column, where there are many.
    fn gather(&mut self, known: &Dictionaries) {
        while self.requests.len() >= (self.young.len() + 1) * YOUNG {
            let slots: Vec<Arc<Slot>> = self.loose().take(YOUNG).cloned().collect();
            let audit = Arc::new(Chunk::new(&slots, known, Slot::ended));
            Arc::make_mut(&mut self.young).push(Young { slots: Arc::new(slots), audit });
        }
    }
}

/// Entries that are no longer in memory.
#[derive(Debug)]
pub(crate) struct Sealed {
    pub(crate) from: Seq,
    /// One behind the last.
    pub(crate) to: Seq,
    /// The newest control position that one of them saw.
    pub(crate) newest: ControlSeq,
    /// The time of the last of them.
    pub(crate) time: WallNanos,
    pub(crate) audit: Chunk,
    pub(crate) intents: u64,
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
    known: Arc<Dictionaries>,
    /// Where entries can be read again; none: all stay in memory.
    ledger: Option<Arc<dyn Entries>>,
    chunk_rows: usize,
}

impl Fold {
    /// Before any entry. All that comes stays in memory.
    pub fn new() -> Self {
        Self::default()
    }

    /// Before any entry of a ledger that can be read again.
    pub fn over(ledger: Arc<dyn Entries>) -> Self {
        Self::in_chunks(ledger, CHUNK_ROWS)
    }

    pub(crate) fn in_chunks(ledger: Arc<dyn Entries>, chunk_rows: usize) -> Self {
        Self { ledger: Some(ledger), chunk_rows, ..Self::default() }
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
        if is_request(&stored.entry.payload) {
            chain.rows += rows_of(&slot);
            chain.requests.push(slot.clone());
        }
        match &stored.entry.payload {
            Payload::CatalogChange(_)
            | Payload::PolicyBundle(_)
            | Payload::AccessGrant(_)
            | Payload::AccessRequest(_)
            | Payload::AccessReview(_)
            | Payload::Publish(_)
            | Payload::Erasure(_) => self.control(&stored),
            Payload::ReadIntent(_) => {
                if let Some(end) = self.early.remove(&stored.entry.id) {
                    let _ = slot.end.set(end);
                } else {
                    self.requests.insert(stored.entry.id, slot);
                }
            }
            // These have their end in themselves.
            Payload::Read(..) | Payload::Denied(_) | Payload::Bypass(_) => {}
            Payload::ReadOutcome(_) => self.ended(stored.clone())?,
            Payload::Run(_) => chain.runs.push(slot),
            Payload::Asserted(claim) => {
                self.asserted.extend(claim.key());
                chain.asserted.push(slot);
            }
            Payload::Lineage(_) => drop(self.lineage_entries.insert(stored.entry.id, stored.clone())),
            // A heartbeat is told by the time of the chain's newest entry.
            Payload::Writer(WriterEvent::Heartbeat) => {}
            Payload::Key(_) | Payload::Writer(_) => chain.life.push(slot),
            // A progress entry is told by the outcome's byte count; heads are those of the chains themselves.
            Payload::ReadProgress(_) | Payload::Heads(_) => {}
        }
        self.seal(&stored.writer);
        Ok(())
    }

    /// The first outcome of a request is the one that was promised; a second one changes nothing.
    fn ended(&mut self, end: Arc<StoredEntry>) -> Result<(), SystemError> {
        let Some(request) = end.entry.reference else { return Ok(()) };
        match self.requests.remove(&request) {
            Some(slot) => drop(slot.end.set(end)),
            None if self.is_taken(request) => {}
            None => drop(self.early.entry(request).or_insert(end)),
        }
        Ok(())
    }

    /// Whether a request that has its end, or needs none, has arrived.
    fn is_taken(&self, request: EntryId) -> bool {
        let sealed = |chain: &Chain| chain.sealed.iter().rev().any(|s| s.audit.row_of(request.0.as_u128()).is_some());
        let tail = |chain: &Chain| chain.requests.iter().any(|slot| slot.stored.entry.id == request);
        self.chains.values().any(|chain| tail(chain) || sealed(chain))
    }

    /// Puts away the entries of a chain of which there are enough.
    fn seal(&mut self, writer: &WriterId) {
        let Some(chain) = Arc::make_mut(&mut self.chains).get_mut(writer) else { return };
        let enough = chain.rows >= self.chunk_rows || chain.entries.len() >= CHUNK_ENTRIES.max(self.chunk_rows);
        if self.ledger.is_none() || !enough {
            return;
        }
        let chain = Arc::make_mut(chain);
        let (Some(first), Some(head)) = (chain.entries.first(), chain.head) else { return };
        let slots = || chain.requests.iter();
        let sealed = Sealed {
            from: first.stored.seq,
            to: Seq(head.0 + 1),
            time: chain.entries.last().map(|s| s.stored.entry.wall).unwrap_or_default(),
            newest: chain.entries.iter().map(|s| s.stored.entry.control_seq).max().unwrap_or_default(),
            audit: Chunk::new(slots(), &self.known, Slot::ended),
            intents: slots().filter(|s| s.stored.entry.kind() == Kind::ReadIntent).count() as u64,
        };
        let all = Arc::make_mut(&mut chain.sealed);
        // Of reads that had not ended when their chunk was sealed, most have by now.
        for earlier in all.iter_mut().filter(|earlier| !earlier.audit.late.is_empty()) {
            if let Some(audit) = earlier.audit.settled(&self.known) {
                let Sealed { from, to, newest, time, intents, .. } = **earlier;
                *earlier = Arc::new(Sealed { from, to, newest, time, intents, audit });
            }
        }
        all.push(Arc::new(sealed));
        (chain.entries, chain.requests, chain.rows) = (Chunks::default(), Chunks::default(), 0);
        chain.young = Arc::default();
    }

    /// Rows of sealed chunks that keep their entry.
    #[cfg(test)]
    pub(crate) fn unended(&self) -> usize {
        self.chains.values().flat_map(|chain| chain.sealed.iter()).map(|sealed| sealed.audit.late.len()).sum()
    }

    /// Bytes of memory that sealed chunks take, and their rows.
    pub fn memory(&self) -> (usize, usize) {
        let sealed = || self.chains.values().flat_map(|chain| chain.sealed.iter());
        (sealed().map(|s| s.audit.memory()).sum(), sealed().map(|s| s.audit.len).sum())
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
        let many = |chain: &Chain| chain.requests.len() >= (chain.young.len() + 1) * YOUNG;
        if self.chains.values().any(|chain| many(chain)) {
            let chains = Arc::make_mut(&mut self.chains);
            chains.values_mut().filter(|c| many(c)).for_each(|chain| Arc::make_mut(chain).gather(&self.known));
        }
        Ok(Snapshot {
            catalog: catalog.clone(),
            chains: self.chains.clone(),
            doubles: self.doubles.clone(),
            lineages: self.lineages.clone(),
            known: self.known.clone(),
            ledger: self.ledger.clone(),
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

/// Entries that are a request of their own: an act, or what was refused. Who claims lineage acts like any administrator.
pub(crate) fn is_request(payload: &Payload) -> bool {
    match payload {
        Payload::CatalogChange(_)
        | Payload::PolicyBundle(_)
        | Payload::AccessGrant(_)
        | Payload::AccessRequest(_)
        | Payload::AccessReview(_)
        | Payload::Publish(_)
        | Payload::Erasure(_)
        | Payload::Asserted(_)
        | Payload::ReadIntent(_)
        | Payload::Read(..)
        | Payload::Denied(_)
        | Payload::Bypass(_) => true,
        Payload::Run(_)
        | Payload::Lineage(_)
        | Payload::ReadProgress(_)
        | Payload::ReadOutcome(_)
        | Payload::Key(_)
        | Payload::Heads(_)
        | Payload::Writer(_) => false,
    }
}

impl Slot {
    /// The outcome that has come.
    pub(crate) fn ended(&self) -> Option<&StoredEntry> {
        self.end.get().map(Arc::as_ref)
    }

    /// The outcome, if it lies below these heads.
    pub(crate) fn end(&self, chains: &BTreeMap<WriterId, Arc<Chain>>) -> Option<&StoredEntry> {
        let end = self.end.get()?;
        (chains.get(&end.writer)?.head >= Some(end.seq)).then_some(end)
    }
}
