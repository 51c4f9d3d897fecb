//! The fold itself.

use crate::{
    Answer, AskedAccess, BundleEpoch, ColumnAt, Dataset, Draft, FoldError, GivenAccess, Made, Model, PlainView,
    VersionRecord, VersionStatus,
    access::Access,
    identity::{dataset_id, text_hash},
};
use custody_model::{
    AccessGrant, AdminRecord, Approvals, AttributeChange, CatalogChange, ControlSeq, DatasetDefinition, DatasetId,
    DatasetKind, DatasetName, DraftRecord, Entry, EntryId, ErasureRecord, FieldId, Hash, ModelRecord, Node, Payload,
    Pin, PolicyBundleRecord, Principal, Publish, Purpose, Relabelled, SourceSnapshot, StatusRecord, TableVersion,
    TokenRecord, ViewRecord, WallMicros, WallNanos,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

/// First ordinal of quarantined rows, which share the version's control position.
const QUARANTINE: u16 = 32_768;

/// The catalog at one control position.
#[derive(Clone, Debug, Default)]
pub struct Catalog {
    at: ControlSeq,
    datasets: Arc<BTreeMap<DatasetId, Arc<Dataset>>>,
    names: Arc<BTreeMap<DatasetName, DatasetId>>,
    /// Which datasets ever had a name, for ids of new ones.
    named: Arc<BTreeMap<DatasetName, BTreeSet<DatasetId>>>,
    /// What a control position made.
    made: Arc<BTreeMap<ControlSeq, MadeAt>>,
    drafts: Arc<Drafts>,
    tokens: Arc<BTreeMap<String, Arc<TokenRecord>>>,
    admins: Arc<BTreeMap<Principal, BTreeSet<String>>>,
    bundles: Arc<Vec<Arc<BundleEpoch>>>,
    /// Erasures by the subject's token: what was asked for and waits for a second administrator.
    asked: Arc<BTreeMap<Hash, Arc<ErasureRecord>>>,
    /// Keys that are to be destroyed wherever they are found.
    destroyed: Arc<BTreeSet<String>>,
    access: Arc<Access>,
    /// By name, oldest first.
    models: Arc<BTreeMap<String, Vec<Arc<Model>>>>,
    /// Positions at which the largest wall time so far grew, with that time.
    clock: Arc<Vec<(ControlSeq, WallNanos)>>,
}

/// Oldest first.
type Drafts = BTreeMap<(Principal, DatasetName), Vec<Arc<Draft>>>;

#[derive(Clone, Debug)]
enum MadeAt {
    Version(Arc<VersionRecord>),
    Draft(Arc<Draft>),
    View(Arc<PlainView>),
    External(DatasetId, DatasetName),
}

impl PartialEq for Catalog {
    fn eq(&self, other: &Self) -> bool {
        // `names`, `named` and `made` follow from the rest.
        (self.at, &self.datasets, &self.drafts, &self.tokens)
            == (other.at, &other.datasets, &other.drafts, &other.tokens)
            && (&self.admins, &self.bundles, &self.clock) == (&other.admins, &other.bundles, &other.clock)
            && (&self.asked, &self.destroyed) == (&other.asked, &other.destroyed)
            && (&self.models, &self.access) == (&other.models, &other.access)
    }
}

/// What every handler needs to know of the entry.
struct Header {
    seq: ControlSeq,
    id: EntryId,
    wall: WallNanos,
    principal: Option<Principal>,
}

impl Header {
    fn principal(&self) -> Result<Principal, FoldError> {
        self.principal.clone().ok_or(FoldError::NoPrincipal(self.seq))
    }

    fn answer(&self, because: &str) -> Result<Answer, FoldError> {
        Ok(Answer { by: self.principal()?, at: self.seq, wall: self.wall, because: because.to_string() })
    }
}

// Reading.
impl Catalog {
    /// The empty catalog, before any entry.
    pub fn new() -> Self {
        Self::default()
    }

    /// The position of the newest entry folded.
    pub fn at(&self) -> ControlSeq {
        self.at
    }

    /// What was asked to be erased of the subject with this token, and waits for a second administrator.
    pub fn erasure_asked(&self, subject: &Hash) -> Option<&ErasureRecord> {
        self.asked.get(subject).map(Arc::as_ref)
    }

    /// Keys that erasures destroy, wherever and whenever they are found.
    pub fn destroyed_keys(&self) -> &Arc<BTreeSet<String>> {
        &self.destroyed
    }

    /// The dataset that has this name now.
    pub fn dataset(&self, name: &DatasetName) -> Option<&Dataset> {
        self.dataset_by_id(*self.names.get(name)?)
    }

    /// The dataset with this id.
    pub fn dataset_by_id(&self, id: DatasetId) -> Option<&Dataset> {
        self.datasets.get(&id).map(Arc::as_ref)
    }

    /// All datasets by present name.
    pub fn datasets(&self) -> impl Iterator<Item = &Dataset> {
        self.names.values().filter_map(|id| self.dataset_by_id(*id))
    }

    /// The version that a reference means. A plain view or external dataset has none.
    pub fn resolve(&self, name: &DatasetName, pin: Pin) -> Option<&Arc<VersionRecord>> {
        let dataset = self.dataset(name)?;
        match pin {
            Pin::Newest => dataset.newest_usable(self.at),
            Pin::Version(number) => dataset.version(number),
            Pin::At(time) => dataset.newest_usable(self.seq_at(time)),
        }
    }

    /// The position that a time means: before the first entry later than it, since wall time is never order.
    pub fn seq_at(&self, time: WallMicros) -> ControlSeq {
        let later = self.clock.partition_point(|(_, wall)| wall.micros() <= time);
        match self.clock.get(later) {
            Some((seq, _)) => ControlSeq(seq.0 - 1),
            None => self.at,
        }
    }

    /// The newest version of a dataset with this identity (of a source: this snapshot hash).
    pub fn version_by_identity(&self, dataset: DatasetId, identity: &Hash) -> Option<&Arc<VersionRecord>> {
        self.dataset_by_id(dataset)?.versions.iter().rev().find(|v| v.identity() == identity)
    }

    /// The version that the entry at a control position made.
    pub fn version_made_at(&self, seq: ControlSeq) -> Option<&Arc<VersionRecord>> {
        match self.made.get(&seq)? {
            MadeAt::Version(version) => Some(version),
            MadeAt::Draft(_) | MadeAt::View(_) | MadeAt::External(..) => None,
        }
    }

    /// The plain view that the entry at a control position recorded.
    pub fn view_made_at(&self, seq: ControlSeq) -> Option<&Arc<PlainView>> {
        match self.made.get(&seq)? {
            MadeAt::View(view) => Some(view),
            MadeAt::Version(_) | MadeAt::Draft(_) | MadeAt::External(..) => None,
        }
    }

    /// The draft that the entry at a control position made.
    pub fn draft_made_at(&self, seq: ControlSeq) -> Option<&Arc<Draft>> {
        match self.made.get(&seq)? {
            MadeAt::Draft(draft) => Some(draft),
            MadeAt::Version(_) | MadeAt::View(_) | MadeAt::External(..) => None,
        }
    }

    /// A principal's newest draft of the view that would be published under this name.
    pub fn draft(&self, principal: &Principal, name: &DatasetName) -> Option<&Arc<Draft>> {
        self.drafts.get(&(principal.clone(), name.clone()))?.last()
    }

    /// All drafts, by principal and name, oldest first.
    pub fn drafts(&self) -> impl Iterator<Item = &Arc<Draft>> {
        self.drafts.values().flatten()
    }

    /// What a node stands for: a version's column, a draft's, or an external dataset. System tables are not here.
    pub fn column_of(&self, node: Node) -> Option<ColumnAt<'_>> {
        let (made, ordinal) = (self.made.get(&node.made_at())?, node.ordinal());
        match made {
            MadeAt::Version(version) if ordinal >= QUARANTINE => {
                version.publish()?.quarantine_root?;
                let name = DatasetName::new("quarantine", version.table.name.name()).ok()?;
                column_at(TableVersion { name, ..version.table.clone() }, version.definition(), ordinal - QUARANTINE)
            }
            MadeAt::Version(version) => column_at(version.table.clone(), version.definition(), ordinal),
            MadeAt::Draft(draft) => column_at(draft.table.clone(), &draft.record.definition, ordinal),
            MadeAt::View(view) => column_at(view.table.clone(), &view.record.definition, ordinal),
            MadeAt::External(id, name) => (ordinal == 0).then(|| ColumnAt {
                table: TableVersion {
                    dataset: *id,
                    name: name.clone(),
                    version: 0,
                    made_at: node.made_at(),
                    content: Hash::default(),
                },
                ordinal,
                column: None,
            }),
        }
    }

    /// A token's newest record, also when it is revoked.
    pub fn token(&self, jti: &str) -> Option<&TokenRecord> {
        self.tokens.get(jti).map(Arc::as_ref)
    }

    /// All tokens by id.
    pub fn tokens(&self) -> impl Iterator<Item = &TokenRecord> {
        self.tokens.values().map(Arc::as_ref)
    }

    /// A principal's roles on this warehouse: those of the newest record.
    pub fn warehouse_roles(&self, principal: &Principal) -> BTreeSet<String> {
        self.admins.get(principal).cloned().unwrap_or_default()
    }

    /// The versions of a model, oldest first.
    pub fn model(&self, name: &str) -> &[Arc<Model>] {
        self.models.get(name).map(Vec::as_slice).unwrap_or_default()
    }

    /// All models by name, versions oldest first.
    pub fn models(&self) -> impl Iterator<Item = &Arc<Model>> {
        self.models.values().flatten()
    }

    /// What is approved of a dataset for a principal and purpose, at a control position and time.
    pub fn approvals(
        &self,
        principal: &Principal,
        purpose: &Purpose,
        dataset: DatasetId,
        at: ControlSeq,
        now: WallNanos,
    ) -> Approvals {
        self.access.approvals(principal, purpose, dataset, at, now)
    }

    /// Who asked for more access, by entry.
    pub fn access_asked(&self) -> &BTreeMap<EntryId, Arc<AskedAccess>> {
        self.access.asked()
    }

    /// What was given, by entry, also when it is over.
    pub fn access_given(&self) -> &BTreeMap<EntryId, Arc<GivenAccess>> {
        self.access.given()
    }

    /// The active policy bundle.
    pub fn bundle(&self) -> Option<&BundleEpoch> {
        self.bundles.last().map(Arc::as_ref)
    }

    /// All bundles, oldest first.
    pub fn bundles(&self) -> impl Iterator<Item = &BundleEpoch> {
        self.bundles.iter().map(Arc::as_ref)
    }

    /// The bundle that was active after the entry at this position.
    pub fn bundle_at(&self, seq: ControlSeq) -> Option<&BundleEpoch> {
        self.bundles.get(self.bundles.partition_point(|b| b.from <= seq).checked_sub(1)?).map(Arc::as_ref)
    }

    /// The id that a dataset gets whose first name this is. For a name that resolves, take the dataset's id instead.
    pub fn new_dataset_id(&self, name: &DatasetName) -> DatasetId {
        dataset_id(name, self.named.get(name).map_or(0, |ids| ids.len() as u64))
    }

    /// Field ids for columns declared under these names: a name in the dataset's present definition keeps its id, the
    /// others count on from the largest that any version used. For a renamed column give its present name.
    pub fn next_field_ids(&self, dataset: DatasetId, names: &[&str]) -> Vec<FieldId> {
        let known = self.dataset_by_id(dataset);
        let mut last = known.map_or(0, |d| d.last_field);
        names
            .iter()
            .map(|name| match known.and_then(|d| d.definition.column_named(name)) {
                Some(column) => column.field,
                None => {
                    last += 1;
                    FieldId(last)
                }
            })
            .collect()
    }
}

fn column_at(table: TableVersion, definition: &DatasetDefinition, ordinal: u16) -> Option<ColumnAt<'_>> {
    let column = match ordinal.checked_sub(1) {
        None => None,
        Some(index) => Some(definition.columns.get(usize::from(index))?),
    };
    Some(ColumnAt { table, ordinal, column })
}

// Folding. Each handler checks everything before it changes anything.
impl Catalog {
    /// Takes the next control entry. On an error nothing has changed.
    pub fn apply(&mut self, entry: &Entry) -> Result<(), FoldError> {
        if !entry.kind().is_control() {
            return Err(FoldError::NotControl(entry.kind()));
        }
        if entry.control_seq.0 != self.at.0 + 1 {
            return Err(FoldError::NotDense { at: self.at, found: entry.control_seq });
        }
        let header = Header {
            seq: entry.control_seq,
            id: entry.id,
            wall: entry.wall,
            principal: entry.actor.as_ref().map(|a| a.principal.clone()),
        };
        match &entry.payload {
            Payload::CatalogChange(change) => match change {
                CatalogChange::Source(snapshot) => self.source(&header, snapshot)?,
                CatalogChange::Draft(draft) => self.add_draft(&header, draft)?,
                CatalogChange::View(view) => self.plain_view(&header, view)?,
                CatalogChange::External { id, name } => self.external(&header, *id, name)?,
                CatalogChange::Attributes(change) => self.attributes(&header, change)?,
                CatalogChange::Token(token) => self.add_token(token),
                CatalogChange::Admin(admin) => self.admin(admin),
                CatalogChange::Status(status) => self.status(status)?,
                CatalogChange::Model(model) => self.add_model(&header, model)?,
            },
            Payload::PolicyBundle(bundle) => self.add_bundle(&header, bundle)?,
            Payload::Publish(publish) => self.publish(&header, publish)?,
            Payload::AccessRequest(asked) => {
                let requester = header.principal()?;
                Arc::make_mut(&mut self.access).ask(asked, header.id, requester, header.wall);
            }
            Payload::AccessGrant(given) => self.give(&header, given)?,
            Payload::AccessReview(review) => {
                let answer = header.answer(&review.because)?;
                Arc::make_mut(&mut self.access).review(review, answer)?;
            }
            Payload::Erasure(erasure) => self.erasure(erasure),
            Payload::Run(_)
            | Payload::Lineage(_)
            | Payload::Asserted(_)
            | Payload::ReadIntent(_)
            | Payload::ReadProgress(_)
            | Payload::ReadOutcome(_)
            | Payload::Read(..)
            | Payload::Denied(_)
            | Payload::Bypass(_)
            | Payload::Key(_)
            | Payload::Heads(_)
            | Payload::Writer(_) => return Err(FoldError::NotControl(entry.kind())),
        }
        self.at = header.seq;
        if self.clock.last().is_none_or(|(_, wall)| *wall < header.wall) {
            Arc::make_mut(&mut self.clock).push((header.seq, header.wall));
        }
        Ok(())
    }

    fn give(&mut self, header: &Header, given: &AccessGrant) -> Result<(), FoldError> {
        let answer = header.answer(&given.because)?;
        self.dataset_by_id(given.dataset).ok_or(FoldError::UnknownDataset(given.dataset))?;
        Arc::make_mut(&mut self.access).give(given, header.id, answer)
    }

    fn erasure(&mut self, erasure: &ErasureRecord) {
        let asked = Arc::make_mut(&mut self.asked);
        if erasure.agreed() {
            asked.remove(&erasure.subject);
            Arc::make_mut(&mut self.destroyed).extend(erasure.keys.iter().cloned());
        } else {
            asked.insert(erasure.subject, Arc::new(erasure.clone()));
        }
    }

    fn source(&mut self, header: &Header, snapshot: &SourceSnapshot) -> Result<(), FoldError> {
        let by = header.principal()?;
        self.check(&snapshot.definition, &[DatasetKind::Source])?;
        let table = TableVersion {
            dataset: snapshot.definition.id,
            name: snapshot.definition.name.clone(),
            version: snapshot.version,
            made_at: header.seq,
            content: snapshot.snapshot,
        };
        self.add_version(header, by, table, Made::Snapshot(Box::new(snapshot.clone())));
        Ok(())
    }

    fn publish(&mut self, header: &Header, publish: &Publish) -> Result<(), FoldError> {
        let (by, definition) = (header.principal()?, &publish.definition);
        self.check(definition, &[DatasetKind::FeatureView, DatasetKind::TrainingSet])?;
        check_labels(definition, publish.labels.len())?;
        let expected = self.dataset_by_id(definition.id).and_then(Dataset::newest).map_or(1, |v| v.table.version + 1);
        if publish.version != expected {
            return Err(FoldError::VersionNotNext { name: definition.name.clone(), expected, found: publish.version });
        }
        let table = TableVersion {
            dataset: definition.id,
            name: definition.name.clone(),
            version: publish.version,
            made_at: header.seq,
            content: publish.content_root,
        };
        self.add_version(header, by, table, Made::Published(Box::new(publish.clone())));
        Ok(())
    }

    fn add_draft(&mut self, header: &Header, record: &DraftRecord) -> Result<(), FoldError> {
        check_columns(&record.definition)?;
        check_labels(&record.definition, record.labels.len())?;
        let kind = record.definition.kind;
        if !matches!(kind, DatasetKind::FeatureView | DatasetKind::TrainingSet) {
            return Err(FoldError::WrongKind(kind));
        }
        let name = &record.definition.name;
        let Ok(shown) = DatasetName::new("draft", name.name()) else { return Err(FoldError::WrongKind(kind)) };
        let drafts = Arc::make_mut(&mut self.drafts).entry((record.principal.clone(), name.clone())).or_default();
        let draft = Arc::new(Draft {
            table: TableVersion {
                dataset: record.definition.id,
                name: shown,
                version: drafts.len() as u64 + 1,
                made_at: header.seq,
                content: record.content_root,
            },
            record: record.clone(),
            at: header.wall,
            entry: header.id,
        });
        drafts.push(draft.clone());
        Arc::make_mut(&mut self.made).insert(header.seq, MadeAt::Draft(draft));
        Ok(())
    }

    fn plain_view(&mut self, header: &Header, record: &ViewRecord) -> Result<(), FoldError> {
        let definition = &record.definition;
        self.check(definition, &[DatasetKind::View])?;
        if !record.labels.is_empty() {
            check_labels(definition, record.labels.len())?;
        }
        let before = self.dataset_by_id(definition.id).and_then(Dataset::view).map_or(0, |v| v.table.version);
        let view = Arc::new(PlainView {
            table: TableVersion {
                dataset: definition.id,
                name: definition.name.clone(),
                version: before + 1,
                made_at: header.seq,
                content: text_hash(&definition.sql),
            },
            record: record.clone(),
        });
        self.define(header, definition).view = Some(view.clone());
        Arc::make_mut(&mut self.made).insert(header.seq, MadeAt::View(view));
        Ok(())
    }

    fn external(&mut self, header: &Header, id: DatasetId, name: &DatasetName) -> Result<(), FoldError> {
        let definition = DatasetDefinition {
            id,
            name: name.clone(),
            kind: DatasetKind::External,
            columns: vec![],
            entity: None,
            keys: vec![],
            event_time: None,
            known_time: None,
            ttl: None,
            owner: String::new(),
            purposes: BTreeSet::new(),
            comment: None,
            sql: String::new(),
        };
        self.check(&definition, &[DatasetKind::External])?;
        self.define(header, &definition);
        Arc::make_mut(&mut self.made).insert(header.seq, MadeAt::External(id, name.clone()));
        Ok(())
    }

    fn attributes(&mut self, header: &Header, change: &AttributeChange) -> Result<(), FoldError> {
        let id = change.dataset;
        let known = self.dataset_by_id(id).ok_or(FoldError::UnknownDataset(id))?;
        if let Some(name) = &change.name
            && let Some(holder) = self.names.get(name).filter(|holder| **holder != id)
        {
            return Err(FoldError::NameTaken { name: name.clone(), holder: *holder, claimant: id });
        }
        let before = known.name().clone();
        if let Some(name) = &change.name {
            self.rename(id, Some(&before), name);
        }
        let datasets = Arc::make_mut(&mut self.datasets);
        let dataset = datasets.get_mut(&id).ok_or(FoldError::UnknownDataset(id))?;
        Arc::make_mut(dataset).change(change, header.id);
        Ok(())
    }

    fn add_token(&mut self, token: &TokenRecord) {
        Arc::make_mut(&mut self.tokens).insert(token.jti.clone(), Arc::new(token.clone()));
    }

    fn admin(&mut self, admin: &AdminRecord) {
        Arc::make_mut(&mut self.admins).insert(admin.principal.clone(), admin.roles.clone());
    }

    fn status(&mut self, status: &StatusRecord) -> Result<(), FoldError> {
        let known = self.version_made_at(status.made_at).filter(|v| v.table.dataset == status.dataset);
        let mut version = known.ok_or(FoldError::UnknownVersion(status.made_at))?.as_ref().clone();
        version.status = if status.revoked { VersionStatus::Revoked } else { VersionStatus::Deprecated };
        version.status_because = Some(status.because.as_str().into());
        self.replace(version);
        Ok(())
    }

    fn add_model(&mut self, header: &Header, record: &ModelRecord) -> Result<(), FoldError> {
        let by = header.principal()?;
        let training = &record.training;
        let known = self.version_made_at(training.made_at).filter(|v| {
            let table = &v.table;
            (table.dataset, table.version, table.content) == (training.dataset, training.version, training.content)
        });
        match known.map(|v| v.definition().kind) {
            Some(DatasetKind::TrainingSet) => {}
            Some(other) => return Err(FoldError::WrongKind(other)),
            None => return Err(FoldError::UnknownVersion(training.made_at)),
        }
        let versions = Arc::make_mut(&mut self.models).entry(record.name.clone()).or_default();
        let expected = versions.len() as u64 + 1;
        if record.version != expected {
            return Err(FoldError::ModelNotNext { name: record.name.clone(), expected, found: record.version });
        }
        versions.push(Arc::new(Model { record: record.clone(), at: header.wall, entry: header.id, by }));
        Ok(())
    }

    fn add_bundle(&mut self, header: &Header, record: &PolicyBundleRecord) -> Result<(), FoldError> {
        let by = header.principal()?;
        let expected = self.bundle().map_or(1, |b| b.record.epoch + 1);
        if record.epoch != expected {
            return Err(FoldError::EpochNotNext { expected, found: record.epoch });
        }
        for relabelled in &record.relabelled {
            let version = self.version_made_at(relabelled.made_at).filter(|v| v.publish().is_some());
            let version = version.ok_or(FoldError::UnknownVersion(relabelled.made_at))?;
            check_labels(version.definition(), relabelled.labels.len())?;
        }
        for relabelled in &record.relabelled {
            self.relabel(relabelled);
        }
        let bundles = Arc::make_mut(&mut self.bundles);
        if let Some(last) = bundles.last_mut() {
            Arc::make_mut(last).to = Some(ControlSeq(header.seq.0 - 1));
        }
        bundles.push(Arc::new(BundleEpoch {
            record: record.clone(),
            from: header.seq,
            to: None,
            at: header.wall,
            entry: header.id,
            by,
        }));
        Ok(())
    }

    /// Gives a version other classes.
    fn relabel(&mut self, relabelled: &Relabelled) {
        let Some(version) = self.version_made_at(relabelled.made_at) else { return };
        let mut version = version.as_ref().clone();
        version.relabelled = Some(Arc::new(relabelled.labels.clone()));
        self.replace(version);
    }

    /// Puts a version in the place of itself, wherever it stands.
    fn replace(&mut self, version: VersionRecord) {
        let made_at = version.table.made_at;
        let version = Arc::new(version);
        if let Some(dataset) = Arc::make_mut(&mut self.datasets).get_mut(&version.table.dataset) {
            let versions = &mut Arc::make_mut(dataset).versions;
            for known in versions.iter_mut().filter(|v| v.table.made_at == made_at) {
                *known = version.clone();
            }
        }
        Arc::make_mut(&mut self.made).insert(made_at, MadeAt::Version(version));
    }

    /// Whether a definition may stand in an entry of these kinds, beside what the catalog holds already.
    fn check(&self, definition: &DatasetDefinition, kinds: &[DatasetKind]) -> Result<(), FoldError> {
        let name = &definition.name;
        if !kinds.contains(&definition.kind) {
            return Err(FoldError::WrongKind(definition.kind));
        }
        if let Some(holder) = self.names.get(name).filter(|holder| **holder != definition.id) {
            return Err(FoldError::NameTaken { name: name.clone(), holder: *holder, claimant: definition.id });
        }
        if let Some(known) = self.dataset_by_id(definition.id)
            && known.kind() != definition.kind
            && known.kind() != DatasetKind::External
        {
            return Err(FoldError::KindChanged { name: name.clone(), was: known.kind(), becomes: definition.kind });
        }
        check_columns(definition)
    }

    fn add_version(&mut self, header: &Header, by: Principal, table: TableVersion, made: Made) {
        let version = Arc::new(VersionRecord {
            table,
            made,
            at: header.wall,
            entry: header.id,
            by,
            status: VersionStatus::Published,
            status_because: None,
            relabelled: None,
        });
        self.define(header, version.definition()).versions.push(version.clone());
        Arc::make_mut(&mut self.made).insert(header.seq, MadeAt::Version(version));
    }

    /// Gives a name to a dataset, instead of the one it had.
    fn rename(&mut self, id: DatasetId, before: Option<&DatasetName>, name: &DatasetName) {
        if self.names.get(name) == Some(&id) {
            return;
        }
        let names = Arc::make_mut(&mut self.names);
        if let Some(before) = before {
            names.remove(before);
        }
        names.insert(name.clone(), id);
        Arc::make_mut(&mut self.named).entry(name.clone()).or_default().insert(id);
    }

    /// Makes the dataset, or gives it a new definition and, where that differs, a new name.
    fn define(&mut self, header: &Header, definition: &DatasetDefinition) -> &mut Dataset {
        let (id, name) = (definition.id, &definition.name);
        let before = self.datasets.get(&id).map(|d| d.name().clone());
        self.rename(id, before.as_ref(), name);
        let definition = Arc::new(definition.clone());
        let dataset = Arc::make_mut(&mut self.datasets).entry(id).or_insert_with(|| {
            Arc::new(Dataset {
                definition: definition.clone(),
                versions: vec![],
                view: None,
                created_at: header.wall,
                created_by: header.id,
                entry: header.id,
                made_at: header.seq,
                last_field: 0,
            })
        });
        let dataset = Arc::make_mut(dataset);
        dataset.last_field = definition.columns.iter().map(|c| c.field.0).fold(dataset.last_field, u32::max);
        dataset.definition = definition;
        dataset.entry = header.id;
        dataset
    }
}

fn check_columns(definition: &DatasetDefinition) -> Result<(), FoldError> {
    let (mut fields, mut names) = (BTreeSet::new(), BTreeSet::new());
    match definition.columns.iter().find(|c| !fields.insert(c.field) || !names.insert(&c.name)) {
        None => Ok(()),
        Some(c) => Err(FoldError::RepeatedColumn { name: definition.name.clone(), column: c.name.clone() }),
    }
}

fn check_labels(definition: &DatasetDefinition, labels: usize) -> Result<(), FoldError> {
    let columns = definition.columns.len();
    if columns == labels {
        Ok(())
    } else {
        Err(FoldError::LabelCount { name: definition.name.clone(), columns, labels })
    }
}
