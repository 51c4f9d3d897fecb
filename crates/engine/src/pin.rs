//! Names become datasets at versions, and versions become governed relations.
//!
//! What holds after it: nothing can move underneath the statement; each reference has a grant; a name that does not
//! exist and one that the subject may not see give the same answer.

use crate::{
    Engine,
    entitled::Entitling,
    known::{Known, Labels},
    provider::{GovernedTable, Leaf},
    session::{ReadRequest, Session},
    view::Within,
};
use custody_catalog::{Catalog, Dataset, Made, PlainView, VersionRecord, VersionStatus};
use custody_dialect::{ExplainKind, GatedQuery, Reference, Statement as Gated};
use custody_model::{
    ControlSeq, DatasetDefinition, DatasetName, FieldId, Hash, Label, Pin, Principal, Problem, SourceText,
    TableVersion, UNCLASSIFIED,
};
use custody_policy::{ColumnFacts, Grant, TableFacts, enforce, govern, subject_key};
use datafusion::{
    catalog::TableProvider,
    datasource::provider_as_source,
    logical_expr::{LogicalPlan, LogicalPlanBuilder},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Display,
    sync::Arc,
};

/// The schema of rows that broke an expectation: `quarantine.x` of `features.x`, at the same version.
pub(crate) const QUARANTINE: &str = "quarantine";

/// A reference bound to a version, a grant and a governed relation.
#[derive(Clone)]
pub(crate) struct PinnedTable {
    /// How the statement names it; none for a request by name.
    pub(crate) reference: Option<Reference>,
    /// What it is.
    pub(crate) at: TableVersion,
    /// Its definition at that version.
    pub(crate) definition: Arc<DatasetDefinition>,
    /// The classes that its columns carry, in order.
    pub(crate) labels: Labels,
    /// What the subject gets of it.
    pub(crate) grant: Arc<Grant>,
    /// The governed relation.
    pub(crate) provider: Arc<dyn TableProvider>,
    /// With whose rights, where a plain view reads it with its owner's.
    pub(crate) owner: Option<Principal>,
    /// What a plain view reads, and what that reads; of all else: nothing.
    pub(crate) beneath: Vec<PinnedTable>,
    /// Tables that its row sets look into.
    pub(crate) entitlements: Vec<Entitling>,
}

impl PinnedTable {
    /// The table and what it reads, each once a reference.
    pub(crate) fn with_beneath(mut self) -> impl Iterator<Item = PinnedTable> {
        let beneath = std::mem::take(&mut self.beneath);
        std::iter::once(self).chain(beneath)
    }
}

/// What is asked of the pinned tables.
#[derive(Clone)]
pub(crate) enum Asked {
    /// A query over them.
    Query(GatedQuery),
    /// Columns of the one of them; none: all visible ones.
    Dataset(Vec<String>),
}

/// A request whose every name is pinned.
#[derive(Clone)]
pub(crate) struct Statement {
    pub(crate) asked: Asked,
    pub(crate) explain: Option<ExplainKind>,
    pub(crate) pinned: Vec<PinnedTable>,
    /// The control position at which names were resolved and decisions made.
    pub(crate) at: ControlSeq,
    /// Over the text with literals as `?`.
    pub(crate) hash: Hash,
}

impl Session {
    /// Gates the text, pins its names, decides on each.
    pub(crate) async fn pin(&self, request: &ReadRequest) -> Result<Statement, Problem> {
        self.engine.refresh().await?;
        let at = self.engine.seen();
        match request {
            ReadRequest::Sql { text, .. } => {
                let (query, explain) = one_query(text)?;
                let mut pinned = vec![];
                for reference in query.references() {
                    let table = self.pin_reference(reference).await.map_err(|p| located(p, reference, text))?;
                    pinned.extend(table.with_beneath());
                }
                let hash = crate::hash_text(&query.text_normalised());
                Ok(Statement { asked: Asked::Query(query), explain, pinned, at, hash })
            }
            ReadRequest::Dataset { name, pin, columns, .. } => {
                let pinned = self.pin_name(name, *pin).await?.with_beneath().collect();
                let hash = crate::hash_text(&request.text());
                Ok(Statement { asked: Asked::Dataset(columns.clone()), explain: None, pinned, at, hash })
            }
        }
    }

    async fn pin_reference(&self, reference: &Reference) -> Result<PinnedTable, Problem> {
        let mut table = self.pin_name(&reference.name, reference.pin).await?;
        table.reference = Some(reference.clone());
        Ok(table)
    }

    /// One name at one version, as this subject may see it.
    pub(crate) async fn pin_name(&self, name: &DatasetName, pin: Pin) -> Result<PinnedTable, Problem> {
        if name.is_system() {
            self.engine.follow_whole().await?;
            return self.pin_system(name, pin);
        }
        if name.schema() == crate::system::information_schema::SCHEMA {
            return self.pin_information_schema(name, pin);
        }
        let Some(found) = self.find(name, pin) else {
            let catalog = self.catalog();
            return Err(match catalog.dataset(name) {
                Some(dataset) if !enforce!("pin.alike", !self.sees_dataset(dataset)?) => no_such_version(dataset, pin),
                _ => not_found(name),
            });
        };
        self.pin_found(found).await
    }

    /// The version a name and pin mean, before any decision.
    pub(crate) fn find(&self, name: &DatasetName, pin: Pin) -> Option<Found> {
        let catalog = self.catalog();
        if name.schema() == "draft" {
            let view = DatasetName::new("features", name.name()).ok()?;
            let draft = catalog.draft(&self.subject.principal, &view).filter(|_| pin == Pin::Newest)?;
            return Some(Found {
                at: draft.table.clone(),
                definition: Arc::new(draft.record.definition.clone()),
                labels: draft.record.labels.iter().map(all_classes).collect(),
                known: None,
                storage: Storage::Draft(draft.record.principal.clone(), draft.record.identity),
                revoked: None,
            });
        }
        if name.schema() == QUARANTINE {
            let view = DatasetName::new("features", name.name()).ok()?;
            let version = catalog.resolve(&view, pin)?;
            let publish = version.publish()?;
            return Some(Found {
                at: TableVersion { name: name.clone(), content: publish.quarantine_root?, ..version.table.clone() },
                // The view's own facts decide: its owner, purposes, classes, row sets and guards.
                definition: Arc::new(present(&catalog, version.definition())),
                labels: version.labels().unwrap_or_default().iter().map(all_classes).collect(),
                known: None,
                storage: Storage::Quarantine(publish.identity),
                revoked: revoked(version),
            });
        }
        if let Some(view) = catalog.dataset(name).and_then(Dataset::view) {
            return (pin == Pin::Newest).then(|| Found::view(view, present(&catalog, &view.record.definition)));
        }
        let version = catalog.resolve(name, pin)?;
        let known = self.known(&catalog, version);
        let (definition, labels) = match &known {
            Some(known) => (Arc::clone(&known.definition), Arc::clone(&known.labels)),
            None => {
                let labels = version.labels().unwrap_or_default().iter().map(all_classes).collect();
                (Arc::new(present(&catalog, version.definition())), labels)
            }
        };
        Some(Found {
            at: version.table.clone(),
            definition,
            labels,
            known,
            storage: match &version.made {
                Made::Published(publish) => Storage::Version(publish.identity),
                Made::Snapshot(snapshot) => Storage::Source(snapshot.as_ref().clone()),
            },
            revoked: revoked(version),
        })
    }

    /// A version as this subject may see it.
    pub(crate) async fn pin_found(&self, found: Found) -> Result<PinnedTable, Problem> {
        self.pin_within(found, &Within::default()).await
    }

    /// The same where versions of a run stand in for the catalog's, or a plain view asks.
    pub(crate) async fn pin_within(&self, found: Found, within: &Within<'_>) -> Result<PinnedTable, Problem> {
        if let Storage::View(view) = &found.storage {
            return Box::pin(self.pin_view(Arc::clone(view), &found, within)).await;
        }
        let grant = self.decide_found(&found)?;
        if !grant.failed.is_empty() {
            self.alert(&found.at, &grant).await?;
        }
        if enforce!("pin.visible", !grant.visible()) {
            let quarantined = found.at.name.schema() == QUARANTINE;
            return Err(not_found(if quarantined { &found.at.name } else { &found.definition.name }));
        }
        if let Some(why) = &found.revoked {
            return Err(Problem::new(3108, format!("`{}` is revoked: {why}", found.at))
                .help("read another version: custody log lists them"));
        }
        let storage = self.engine.open_storage(&found.at, &found.definition, &found.storage).await?;
        let fields: Vec<FieldId> = found.definition.columns.iter().map(|c| c.field).collect();
        let (resolved, entitlements) = self.entitled(&found.at, &grant).await?;
        let plan = self.govern_table(&found.at, fields, storage, &resolved)?;
        Ok(PinnedTable {
            reference: None,
            at: found.at,
            definition: found.definition,
            labels: found.labels,
            grant,
            provider: Arc::new(GovernedTable::new(plan)),
            owner: None,
            beneath: vec![],
            entitlements,
        })
    }

    /// The governed relation of a table: policy's filter, masks and barrier over its storage.
    pub(crate) fn govern_table(
        &self,
        at: &TableVersion,
        fields: Vec<FieldId>,
        storage: Arc<dyn TableProvider>,
        grant: &Grant,
    ) -> Result<LogicalPlan, Problem> {
        let leaf = Leaf::new(at.clone(), fields.clone(), storage);
        let wrong = |e| crate::problem::from_datafusion(&e);
        let scan = LogicalPlanBuilder::scan(at.name.name(), provider_as_source(Arc::new(leaf)), None)
            .and_then(LogicalPlanBuilder::build)
            .map_err(wrong)?;
        let keys: Arc<dyn custody_policy::TokenKeys> = Arc::clone(&self.engine.keys) as _;
        govern(scan, at, &fields, grant, &keys).map_err(wrong)
    }

    /// What this subject gets of a version under the policies of now, as a read of it would decide; none where there is
    /// no such version. Records nothing: for those who embed the engine and measure it.
    pub fn grant_of(&self, name: &DatasetName, pin: Pin) -> Result<Option<Arc<Grant>>, Problem> {
        self.find(name, pin).map(|found| self.decide_found(&found)).transpose()
    }

    /// The version as kept with the newest fold, where this session decides by that.
    fn known(&self, catalog: &Arc<Catalog>, version: &VersionRecord) -> Option<Arc<Known>> {
        if self.then.is_some() {
            return None;
        }
        let (versions, bundle) = {
            let folded = self.engine.folded();
            if !Arc::ptr_eq(&folded.catalog, catalog) {
                return None;
            }
            (Arc::clone(&folded.known), folded.bundle.clone()?)
        };
        Some(versions.get(&self.engine, catalog, &bundle, version))
    }

    /// What this subject gets of a version.
    pub(crate) fn decide_found(&self, found: &Found) -> Result<Arc<Grant>, Problem> {
        let Some(known) = &found.known else { return self.decide(&found.definition, &found.labels) };
        let approvals = self.approvals(found.definition.id);
        if !approvals.is_empty() {
            let facts = known.facts.clone().with_approvals(&approvals);
            return Ok(self.engine.decisions.decide(&known.bundle, &self.subject, &facts));
        }
        let key = subject_key(&self.subject);
        Ok(self.engine.decisions.decide_keyed(&known.bundle, &self.subject, key, &known.facts, known.hash))
    }

    /// What this subject gets of a dataset with these columns and inherited classes.
    pub(crate) fn decide(
        &self,
        definition: &DatasetDefinition,
        labels: &[BTreeSet<custody_model::Class>],
    ) -> Result<Arc<Grant>, Problem> {
        let bundle = self.bundle().ok_or_else(|| {
            Problem::new(1301, "no policy bundle is active").help("custody policy apply -m 'first policies'")
        })?;
        let facts = facts(&bundle, definition, labels).with_approvals(&self.approvals(definition.id));
        let facts = self.engine.with_token_keys(&bundle, facts);
        Ok(self.engine.decisions.decide(&bundle, &self.subject, &facts))
    }

    fn sees_dataset(&self, dataset: &Dataset) -> Result<bool, Problem> {
        let labels = dataset.readable().map(|(.., labels)| labels).unwrap_or_default();
        let labels: Vec<_> = labels.iter().map(all_classes).collect();
        Ok(self.decide(dataset.definition(), &labels)?.visible())
    }
}

fn revoked(version: &VersionRecord) -> Option<String> {
    (version.status == VersionStatus::Revoked)
        .then(|| version.status_because.as_deref().unwrap_or_default().to_string())
}

fn no_such_version(dataset: &Dataset, pin: Pin) -> Problem {
    let name = dataset.name();
    if dataset.view().is_some() {
        return Problem::new(6003, format!("`{name}` is a plain view and has no versions"))
            .help("leave out the pin; it reads the newest versions of what its text names, or those pinned there");
    }
    let newest = dataset.newest().map(|v| v.table.version);
    let help = match newest {
        Some(n) => format!("the newest is version {n}: `custody log {name}`"),
        None => format!("nothing is published yet: `custody publish -m … -s {name}`"),
    };
    let what = match pin {
        Pin::Version(n) => return version_not_found(name, n).help(help),
        Pin::At(_) => format!("`{name}` had no version at that time"),
        Pin::Newest => format!("`{name}` has no version yet"),
    };
    Problem::new(6003, what).help(help)
}

/// A version that is not there.
pub fn version_not_found(name: &DatasetName, version: impl Display) -> Problem {
    Problem::new(6003, format!("version {version} of `{name}` not found"))
}

/// A version before any decision about it.
#[derive(Clone)]
pub(crate) struct Found {
    pub(crate) at: TableVersion,
    pub(crate) definition: Arc<DatasetDefinition>,
    pub(crate) labels: Labels,
    /// What is kept of the version with the fold that it was found in.
    pub(crate) known: Option<Arc<Known>>,
    pub(crate) storage: Storage,
    /// Why it may no longer be used.
    pub(crate) revoked: Option<String>,
}

impl Found {
    /// A plain view as it is now.
    pub(crate) fn view(view: &Arc<PlainView>, definition: DatasetDefinition) -> Self {
        Self {
            at: TableVersion { name: definition.name.clone(), ..view.table.clone() },
            definition: Arc::new(definition),
            labels: view.record.labels.iter().map(all_classes).collect(),
            known: None,
            storage: Storage::View(Arc::clone(view)),
            revoked: None,
        }
    }
}

/// Where the rows of a version lie.
#[derive(Clone)]
pub(crate) enum Storage {
    Version(Hash),
    Draft(Principal, Hash),
    Source(custody_model::SourceSnapshot),
    /// Rows that broke an expectation, published with this version.
    Quarantine(Hash),
    /// Nowhere: the text of a plain view.
    View(Arc<PlainView>),
    /// Nowhere yet: a plan over it can be made, not run.
    Planned,
}

/// A version's definition with the name, owner and purposes that its dataset has now: they govern old versions too.
pub(crate) fn present(catalog: &Catalog, definition: &DatasetDefinition) -> DatasetDefinition {
    let mut definition = definition.clone();
    if let Some(dataset) = catalog.dataset_by_id(definition.id) {
        definition.name = dataset.name().clone();
        definition.owner = dataset.owner().to_string();
        definition.purposes = dataset.purposes().clone();
    }
    definition
}

impl Engine {
    /// The facts with the versions of the token keys that masks of the table may use.
    pub(crate) fn with_token_keys(&self, bundle: &custody_policy::Bundle, mut facts: TableFacts) -> TableFacts {
        let version = |key: String| self.keys.token_key_version(&key).map(|version| (key, version));
        facts.token_keys = bundle.token_keys(&facts.name).into_iter().filter_map(version).collect();
        facts
    }
}

/// The facts of a table: its columns with their tags (closed under `UNDER`) and inherited classes; without approvals and
/// token keys.
pub(crate) fn facts(
    bundle: &custody_policy::Bundle,
    definition: &DatasetDefinition,
    labels: &[BTreeSet<custody_model::Class>],
) -> TableFacts {
    let columns = definition
        .columns
        .iter()
        .enumerate()
        .map(|(i, c)| {
            let mut classes = bundle.tags_of_field(&definition.name, c.field, &c.name);
            if let Some(inherited) = labels.get(i) {
                // A tag of its own classifies what comes from columns without any.
                let tagged = !classes.is_empty();
                let inherited = inherited.iter().filter(|class| !(tagged && class.0 == UNCLASSIFIED));
                classes.extend(inherited.flat_map(|class| bundle.classes_under(class)));
            }
            ColumnFacts {
                field: c.field,
                name: c.name.clone(),
                data_type: c.data_type.clone(),
                classes,
                approved: BTreeMap::new(),
            }
        })
        .collect();
    TableFacts {
        dataset: definition.id,
        name: definition.name.clone(),
        owner: Principal(definition.owner.clone()),
        purposes: definition.purposes.clone(),
        columns,
        token_keys: BTreeMap::new(),
    }
}

/// Explicit and implicit classes alike: both protect.
pub(crate) fn all_classes(label: &custody_model::ClassLabel) -> BTreeSet<custody_model::Class> {
    label.explicit.union(&label.implicit).cloned().collect()
}

/// A table that is not there or not visible: both read alike.
pub fn not_found(name: &DatasetName) -> Problem {
    Problem::new(6001, format!("table `{name}` not found"))
        .help("SELECT dataset FROM system.catalog.datasets lists what you may see")
}

fn located(mut problem: Problem, reference: &Reference, text: &SourceText) -> Problem {
    if problem.labels.is_empty() {
        problem.labels.push(Label { start: reference.start, end: reference.end, text: "here".into() });
        problem.file = Some(text.name.clone());
    }
    problem
}

/// A request is one query, or one EXPLAIN of a query.
pub(crate) fn one_query(text: &SourceText) -> Result<(GatedQuery, Option<ExplainKind>), Problem> {
    let mut statements = custody_dialect::parse(text).map_err(crate::refused)?;
    if let [_, second, ..] = statements.as_slice() {
        let place = custody_dialect::Place { start: second.start, end: second.end }.label("the second is here");
        return Err(Problem::new(1113, format!("one statement at a time: this text has {}", statements.len()))
            .help("send each on its own")
            .label(place));
    }
    let Some(statement) = statements.pop() else {
        return Err(Problem::new(1113, "there is no statement here").help("SELECT … FROM schema.name"));
    };
    match &statement.value {
        Gated::Query(query) => Ok((query.clone(), None)),
        Gated::Explain(kind, query) => Ok((query.clone(), Some(*kind))),
        Gated::Prepare(_) | Gated::Execute(_) => Err(Problem::new(1114, "prepared statements are made by the client")
            .help("use the driver's `prepare`; PREPARE and EXECUTE as text are not supported yet")),
        Gated::Source(_) | Gated::FeatureView(_) | Gated::TrainingSet(_) | Gated::View(_) => Err(statement
            .refused_in_session()
            .unwrap_or_else(|| Problem::new(1115, "a definition belongs in a project file"))),
    }
}
