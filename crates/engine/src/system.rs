//! The catalog `system` for a session: read models of the ledger, governed and audited like any table.
//!
//! What holds here: a statement's system tables all show one position, the watermark frozen when it was pinned; the
//! rows are those that the subject may see, chosen beneath the barrier.

mod again;
mod audit;
mod audit_exec;
mod follow;
pub(crate) mod information_schema;
#[cfg(test)]
mod tests;

use self::{again::Again, audit::AuditTable};
use crate::{
    Engine,
    pin::{PinnedTable, all_classes, facts, not_found, present},
    provider::GovernedTable,
    session::Session,
};
use custody_catalog::{Catalog, Dataset, Draft};
use custody_ledger::{Position, Reader};
use custody_model::{
    BlobRef, ControlSeq, DatasetId, DatasetName, Durability, EntryId, FieldId, FileDigest, Hash, Node, Payload, Pin,
    Problem, RunRecord, RunState, Rung, StoredEntry, Subject, TableVersion, WallNanos, WriterId, profile::Profile,
};
use custody_policy::{ColumnGrant, Grant, RowGrant, enforce, subject_key};
use custody_store::{FileDisk, Place};
use custody_system_tables::{
    CheckpointRow, Facts, Fold, PolicyRow, PolicyRows, RowSetRow, Sees, SloRow, Snapshot, TagRow, Unseal, Viewer,
};
use datafusion::{catalog::TableProvider, datasource::MemTable};
use sha3::{Digest, Sha3_256};
use std::{
    cell::RefCell,
    collections::{BTreeMap, HashMap, HashSet, VecDeque},
    path::Path,
    sync::{Arc, PoisonError},
};

/// Follows all chains of the ledger.
pub(crate) struct SystemState {
    ledger: Arc<Again>,
    positions: BTreeMap<WriterId, Position>,
    fold: Fold,
    written: HashMap<Hash, (EntryId, RunRecord)>,
    /// What runs wrote, by identity and path: a version may have been written more than once.
    files: HashMap<Hash, BTreeMap<String, FileDigest>>,
    /// The same of quarantined rows.
    quarantined: HashMap<Hash, BTreeMap<String, FileDigest>>,
    runs: HashMap<EntryId, RunState>,
    /// The time of the newest entry that a tree of a size covers, by writer: of its recent sizes, the first is said.
    covered: HashMap<WriterId, (u64, VecDeque<WallNanos>)>,
    /// The whole ledger has been taken once: what is left is what was appended since.
    whole: bool,
}

/// So many sizes of a tree are recent: a checkpoint is at most 65,536 entries behind.
const RECENT: usize = 80_000;

impl SystemState {
    pub(crate) fn new(ledger: &Path) -> Result<Self, Problem> {
        let ledger = Arc::new(Again::new(Reader::new(FileDisk::new(ledger))));
        Ok(Self {
            positions: BTreeMap::new(),
            fold: Fold::over(Arc::clone(&ledger) as _),
            ledger,
            written: HashMap::new(),
            files: HashMap::new(),
            quarantined: HashMap::new(),
            runs: HashMap::new(),
            covered: HashMap::new(),
            whole: false,
        })
    }

    fn take(&mut self, entry: StoredEntry) -> Result<(), Problem> {
        if let Payload::Run(record) = &entry.entry.payload {
            self.runs.insert(entry.entry.reference.unwrap_or(entry.entry.id), record.state);
            let files = record.files.iter().map(|f| (f.path.clone(), f.clone()));
            self.files.entry(record.identity).or_default().extend(files);
            let aside = record.quarantine_files.iter().map(|f| (f.path.clone(), f.clone()));
            self.quarantined.entry(record.identity).or_default().extend(aside);
        }
        if let Payload::Run(record) = &entry.entry.payload
            && record.state == RunState::Written
            && let Some(run) = entry.entry.reference
        {
            self.written.insert(record.identity, (run, record.clone()));
        }
        let (first, times) = match self.covered.get_mut(&entry.writer) {
            Some(covered) => covered,
            None => self.covered.entry(entry.writer.clone()).or_insert((entry.seq.0 + 1, VecDeque::new())),
        };
        times.push_back(entry.entry.wall);
        if times.len() > RECENT {
            times.pop_front();
            *first += 1;
        }
        self.fold.apply(Arc::new(entry)).map_err(|e| unreadable(&e))
    }

    /// The time of the newest entry that a tree of this size covers.
    fn covered(&self, writer: &WriterId, size: u64) -> Option<WallNanos> {
        let (first, times) = self.covered.get(writer)?;
        times.get(usize::try_from(size.checked_sub(*first)?).ok()?).copied()
    }
}

pub(crate) fn unreadable(error: &dyn std::error::Error) -> Problem {
    Problem::new(4006, format!("the ledger cannot be read: {error}")).help("custody ledger verify")
}

impl Engine {
    /// The newest `written` entry for this identity: the run and what it wrote.
    pub(crate) fn written(&self, identity: &Hash) -> Result<Option<(EntryId, RunRecord)>, Problem> {
        let mut system = self.system.lock().unwrap_or_else(PoisonError::into_inner);
        system.follow()?;
        Ok(system.written.get(identity).cloned())
    }

    /// Every file that a run recorded for this place, by its path below the place's folder.
    pub(crate) fn written_files(&self, place: &Place) -> Result<BTreeMap<String, FileDigest>, Problem> {
        let mut system = self.system.lock().unwrap_or_else(PoisonError::into_inner);
        system.follow()?;
        let files = match place {
            Place::Version { .. } | Place::Draft { .. } => &system.files,
            Place::Quarantine { .. } => &system.quarantined,
        };
        Ok(files.get(&place.identity()).cloned().unwrap_or_default())
    }

    /// Where a run stands, by its newest entry.
    pub(crate) fn run_state(&self, run: EntryId) -> Result<Option<RunState>, Problem> {
        let mut system = self.system.lock().unwrap_or_else(PoisonError::into_inner);
        system.follow()?;
        Ok(system.runs.get(&run).copied())
    }

    /// Which claims of others are recorded already.
    pub(crate) fn claims(&self) -> Result<HashSet<(Hash, DatasetId, Option<u64>)>, Problem> {
        let mut system = self.system.lock().unwrap_or_else(PoisonError::into_inner);
        system.follow()?;
        Ok(system.fold.asserted().clone())
    }

    /// What the values of a version look like, as its publish recorded it.
    pub(crate) fn profile(&self, blob: &BlobRef) -> Result<Profile, Problem> {
        let damaged = |what| Problem::new(4003, format!("a profile {what}")).help("custody ledger verify");
        let json = self.recorder.get_blob(blob)?.ok_or_else(|| damaged("is gone"))?;
        custody_store::profile_from_json(&json).ok_or_else(|| damaged("cannot be read"))
    }

    /// All system tables at one position.
    pub(crate) fn snapshot(&self, catalog: &Catalog) -> Result<Snapshot, Problem> {
        let mut system = self.system.lock().unwrap_or_else(PoisonError::into_inner);
        system.follow()?;
        system.fold.freeze(catalog).map_err(|e| unreadable(&e))
    }

    /// The catalog as it stood at an earlier position, folded again.
    pub(crate) fn catalog_at(&self, seq: ControlSeq) -> Result<Arc<Catalog>, Problem> {
        let newest = self.catalog();
        if seq >= newest.at() {
            return Ok(newest);
        }
        let mut catalog = Catalog::new();
        for n in 1..=seq.0 {
            let entry = self
                .recorder
                .control_entry(ControlSeq(n))?
                .ok_or_else(|| Problem::new(4002, format!("control entry {n} is gone")))?;
            catalog
                .apply(&entry)
                .map_err(|e| Problem::new(4002, format!("control entry {n} cannot be folded: {e}")))?;
        }
        Ok(Arc::new(catalog))
    }
}

impl Session {
    /// A system table at a position, with the rows this subject may see.
    pub(crate) fn pin_system(&self, name: &DatasetName, pin: Pin) -> Result<PinnedTable, Problem> {
        let table = custody_system_tables::system_table(name).ok_or_else(|| not_found(name))?;
        let newest = self.engine.catalog();
        let catalog = match pin {
            Pin::Newest => newest,
            Pin::Version(n) => self.engine.catalog_at(ControlSeq(n))?,
            Pin::At(time) => self.engine.catalog_at(newest.seq_at(time))?,
        };
        let snapshot = self.engine.snapshot(&catalog)?;
        let sees = sees(self, &catalog);
        let viewer =
            Viewer { principal: self.subject.principal.clone(), roles: self.roles(), ticket: None, sees: &sees };
        let facts = EngineFacts { session: self, catalog: &catalog, rows: self.policy_rows(&catalog)? };
        let rows: Arc<dyn TableProvider> = if custody_system_tables::is_audit(name) {
            Arc::new(AuditTable::new(snapshot.audit(&viewer, &facts).map_err(|e| unreadable(&e))?))
        } else {
            let batches = snapshot.batches(name, &viewer, &facts).map_err(|e| unreadable(&e))?;
            let rows = MemTable::try_new(Arc::clone(&table.schema), vec![batches]);
            Arc::new(rows.map_err(|e| crate::problem::from_datafusion(&e))?)
        };
        let at = TableVersion {
            dataset: table.definition.id,
            name: name.clone(),
            version: catalog.at().0,
            made_at: ControlSeq(0),
            content: Hash::default(),
        };
        let grant = self.system_grant(&table.definition);
        let fields: Vec<FieldId> = table.definition.columns.iter().map(|c| c.field).collect();
        let plan = self.govern_table(&at, fields, rows, &grant)?;
        Ok(PinnedTable {
            reference: None,
            at,
            definition: Arc::new(table.definition.clone()),
            labels: [].into(),
            grant: Arc::new(grant),
            provider: Arc::new(GovernedTable::new(plan)),
            owner: None,
            beneath: vec![],
            entitlements: vec![],
        })
    }

    fn roles(&self) -> std::collections::BTreeSet<String> {
        let catalog = self.engine.catalog();
        self.subject.roles.union(&catalog.warehouse_roles(&self.subject.principal)).cloned().collect()
    }

    /// Rows and values of a system table are chosen for the viewer as they are made, so the grant over them is open;
    /// its hash says who they were made for.
    pub(crate) fn system_grant(&self, definition: &custody_model::DatasetDefinition) -> Grant {
        let mut hasher = Sha3_256::new();
        for part in [
            b"custody system grant v1".as_slice(),
            subject_key(&self.subject).0.as_bytes(),
            definition.name.to_string().as_bytes(),
        ] {
            hasher.update((part.len() as u64).to_be_bytes());
            hasher.update(part);
        }
        for role in self.roles() {
            hasher.update((role.len() as u64).to_be_bytes());
            hasher.update(role.as_bytes());
        }
        Grant {
            columns: definition
                .columns
                .iter()
                .map(|c| ColumnGrant {
                    field: c.field,
                    name: c.name.clone(),
                    rung: Rung::Raw,
                    mask: None,
                    policies: vec![],
                })
                .collect(),
            rows: RowGrant::All,
            floor: None,
            durability: Durability::Local,
            explain_raw: true,
            publish: false,
            declassify: false,
            valid_until: None,
            policies: vec![],
            failed: vec![],
            hash: Hash(hasher.finalize().into()),
        }
    }

    /// What the bundle says that is active in this catalog.
    fn policy_rows(&self, catalog: &Catalog) -> Result<PolicyRows, Problem> {
        let Some(hash) = catalog.bundle().map(|b| b.record.hash) else { return Ok(PolicyRows::default()) };
        let active = self.engine.bundle().filter(|b| b.hash() == hash);
        let earlier = match active {
            Some(_) => None,
            None => self.engine.bundle_of(catalog, |e| e.record.hash == hash)?,
        };
        let Some(bundle) = active.as_deref().or(earlier.as_ref()) else { return Ok(PolicyRows::default()) };
        let id = |name: &DatasetName| catalog.dataset(name).map(Dataset::id);
        Ok(PolicyRows {
            policies: bundle
                .policies()
                .iter()
                .map(|p| PolicyRow { policy_id: p.id.clone(), kind: p.kind.to_string(), text: p.text.clone() })
                .collect(),
            row_sets: bundle
                .row_sets()
                .iter()
                .filter_map(|r| {
                    Some(RowSetRow {
                        name: r.name.clone(),
                        dataset: id(&r.dataset)?,
                        predicate: r.predicate.clone(),
                        guard: r.guard,
                    })
                })
                .collect(),
            tags: bundle
                .tags()
                .iter()
                .filter_map(|t| {
                    let dataset = catalog.dataset(&t.dataset)?;
                    let column = dataset.definition().column_named(&t.column)?;
                    Some(TagRow { dataset: dataset.id(), field: column.field, class: t.class.0.clone() })
                })
                .collect(),
        })
    }
}

/// What policy lets a subject see under a catalog.
pub(crate) fn sees<'a>(session: &'a Session, catalog: &'a Catalog) -> SubjectSees<'a> {
    SubjectSees { session, catalog, grants: RefCell::default() }
}

/// What policy lets this subject see, decided once a dataset version.
pub(crate) struct SubjectSees<'a> {
    session: &'a Session,
    catalog: &'a Catalog,
    grants: RefCell<HashMap<ControlSeq, Option<Arc<Grant>>>>,
}

impl SubjectSees<'_> {
    /// The grant on the version made at this position; none where there is no such version or no decision.
    pub(crate) fn grant(&self, made_at: ControlSeq) -> Option<Arc<Grant>> {
        if let Some(known) = self.grants.borrow().get(&made_at) {
            return known.clone();
        }
        let mine = |d: &&Arc<Draft>| d.record.principal == self.session.subject.principal;
        let now = self.session.engine.catalog();
        let decided = if let Some(v) = self.catalog.version_made_at(made_at) {
            Some((present(&now, v.definition()), v.labels().unwrap_or_default()))
        } else if let Some(v) = self.catalog.view_made_at(made_at) {
            Some((present(&now, &v.record.definition), v.record.labels.as_slice()))
        } else {
            let draft = self.catalog.draft_made_at(made_at).filter(mine);
            draft.map(|d| (d.record.definition.clone(), d.record.labels.as_slice()))
        };
        let decided = decided.and_then(|(definition, labels)| {
            let labels: Vec<_> = labels.iter().map(all_classes).collect();
            self.session.decide(&definition, &labels).ok()
        });
        self.grants.borrow_mut().insert(made_at, decided.clone());
        decided
    }

    fn newest(&self, dataset: DatasetId) -> Option<Arc<Grant>> {
        let (table, ..) = self.catalog.dataset_by_id(dataset)?.readable()?;
        self.grant(table.made_at)
    }
}

impl Sees for SubjectSees<'_> {
    fn dataset(&self, dataset: DatasetId) -> bool {
        !enforce!("system.dataset", !self.newest(dataset).is_some_and(|g| g.visible()))
    }

    fn column(&self, node: Node) -> bool {
        let Some(grant) = self.grant(node.made_at()) else { return false };
        let sees = match usize::from(node.ordinal()).checked_sub(1) {
            None => grant.visible(),
            Some(i) => grant.columns.get(i).is_some_and(|c| c.rung > Rung::None),
        };
        !enforce!("system.column", !sees)
    }

    fn explain_raw(&self, dataset: DatasetId) -> bool {
        !enforce!("system.explained", !self.newest(dataset).is_some_and(|g| g.explain_raw))
    }

    fn owned(&self, dataset: DatasetId) -> bool {
        let owned = self.catalog.dataset_by_id(dataset).is_some_and(|d| self.session.owns(d.owner()));
        !enforce!("system.owned", !owned)
    }

    fn raw(&self, node: Node) -> bool {
        let grant = self.grant(node.made_at()).filter(|g| g.rows == RowGrant::All);
        let column = usize::from(node.ordinal()).checked_sub(1);
        let sees = grant.zip(column).and_then(|(g, i)| g.columns.get(i).map(|c| c.rung == Rung::Raw));
        !enforce!("system.raw", sees != Some(true))
    }

    fn open(&self, table: &TableVersion) -> bool {
        !enforce!("system.open", !self.grant(table.made_at).is_some_and(|g| g.open()))
    }
}

struct EngineFacts<'a> {
    session: &'a Session,
    catalog: &'a Catalog,
    rows: PolicyRows,
}

impl Facts for EngineFacts<'_> {
    fn classes(&self, table: &TableVersion, field: FieldId) -> Vec<String> {
        let Some(bundle) = self.session.engine.bundle() else { return vec![] };
        let version = self.catalog.version_made_at(table.made_at);
        let version = version.map(|v| (v.definition(), v.labels().unwrap_or_default()));
        let view = || self.catalog.view_made_at(table.made_at);
        let made = version.or_else(|| view().map(|v| (&v.record.definition, v.record.labels.as_slice())));
        let Some((definition, labels)) = made else { return vec![] };
        let labels: Vec<_> = labels.iter().map(all_classes).collect();
        let facts = facts(&bundle, definition, &labels);
        let column = facts.columns.into_iter().find(|c| c.field == field);
        column.map(|c| c.classes.iter().map(ToString::to_string).collect()).unwrap_or_default()
    }

    fn policies(&self) -> &PolicyRows {
        &self.rows
    }

    fn checkpoints(&self) -> Result<Vec<CheckpointRow>, Box<dyn std::error::Error + Send + Sync>> {
        let system = self.session.engine.system.lock().unwrap_or_else(PoisonError::into_inner);
        let mut rows = vec![];
        let reader = system.ledger.reader();
        for writer in reader.writers()? {
            let Some(note) = reader.checkpoint_note(&writer)? else { continue };
            let head = note.checkpoint()?;
            rows.push(CheckpointRow {
                origin: head.origin,
                tree_size: head.size.0,
                root: head.root,
                note: String::from_utf8_lossy(&note.to_bytes()).into_owned(),
                signed_at: system.covered(&writer, head.size.0).unwrap_or_default(),
            });
        }
        Ok(rows)
    }

    fn slo(&self, snapshot: &Snapshot) -> Result<Vec<SloRow>, Box<dyn std::error::Error + Send + Sync>> {
        let engine = &self.session.engine;
        let (recorder, writer) = (&engine.recorder, engine.recorder.writer());
        let released = engine.reads_released.load(std::sync::atomic::Ordering::Relaxed);
        let recorded = snapshot.reads_from(writer, recorder.began());
        let covered = (recorded * 100).checked_div(released).map_or(100, |percent| percent.min(100));
        let signed: u64 = self.checkpoints()?.iter().map(|c| c.tree_size).sum();
        let entries: u64 = snapshot.heads().map(|(_, seq)| seq.0 + 1).sum();
        let unsigned = entries.saturating_sub(signed);
        let at_most = |metric, value: u64, target| SloRow { metric, value: Some(value), target, ok: value <= target };
        let patience = u64::try_from(engine.settings.patience.as_micros()).unwrap_or(u64::MAX);
        let mut rows = vec![
            SloRow { metric: "audit_coverage_percent", value: Some(covered), target: 100, ok: recorded >= released },
            at_most("durable_p99_us", recorder.durable_p99_micros(), patience),
            at_most("unsigned_entries", unsigned, 65_536),
            at_most("silent_writers", snapshot.silent(self.now()).len() as u64, 0),
        ];
        if engine.settings.peer.is_some() {
            let own = snapshot.heads().find(|(w, _)| *w == writer).map_or(0, |(_, seq)| seq.0 + 1);
            let lag = recorder.peer_held().map(|held| own.saturating_sub(held));
            let ok = lag.is_some_and(|lag| lag <= 4096);
            rows.push(SloRow { metric: "replica_lag_entries", value: lag, target: 4096, ok });
        }
        Ok(rows)
    }

    fn now(&self) -> WallNanos {
        self.session.engine.clock().now()
    }

    fn profile(&self, blob: &BlobRef) -> Result<Profile, Box<dyn std::error::Error + Send + Sync>> {
        Ok(self.session.engine.profile(blob).map_err(|p| p.to_string())?)
    }

    fn subject_key(&self, subject: &Subject) -> Hash {
        subject_key(subject).0
    }

    fn unsealer(&self) -> Unseal {
        let keys = Arc::clone(&self.session.engine.keys);
        Arc::new(move |sealed| keys.unseal(sealed, "address"))
    }
}
