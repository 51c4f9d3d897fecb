//! The life of a publish, the mirror of a read.
//!
//! 1. Sources are recorded at what their files are now (`snapshot`).
//! 2. Each view is prepared: names pinned, grants decided, nothing that policy would drop (`require_complete`), plan,
//!    exact lineage, labels, identity (`prepare`).
//! 3. Same identity as a published version: nothing to do.
//! 4. A run entry `started`, the intent of the reads, then the sorted stream is written (`compute`), or a draft or a
//!    leftover of a crash with the same identity is adopted.
//! 5. A run entry `written`, Delta commit 0, the lineage entry, and last the publish entry: only now is it visible.
//!
//! What holds here: a crash between any two of these leaves either nothing visible or the whole version.

use crate::{
    entries::{entry_id, targets},
    governed::Drafted,
    pin::{Asked, Found, PinnedTable, Statement, Storage, all_classes, not_found, present},
    problem::from_datafusion,
    project::{Declared, Project},
    read::{Totals, execute},
    session::{ReadRequest, Session},
};
use custody_catalog::{Catalog, Dataset};
use custody_dialect::{AsOfJoin, Placed, SourceDef, SourceFormat, ViewDef};
use custody_model::{
    CatalogChange, Class, ClassLabel, ColumnDef, ControlSeq, DatasetDefinition, DatasetKind, DatasetName, DraftRecord,
    EntryId, EntryRef, FieldId, Hash, InputRef, Lineage, LineageRecord, Outcome, Payload, Pin, Problem, Publish,
    Purpose, RunRecord, RunState, SourceKind, SourceSnapshot, SourceText, TableVersion, Verb,
};
use custody_policy::RowGrant;
use custody_store::{
    Codec, Committed, Manifest, Place, Shape, SourceFiles, SourceSpec, Staged, Stamp, StoreError, snapshot_hash,
};
use datafusion::{
    common::Column,
    logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder},
};
use futures::StreamExt;
use sha3::{Digest, Sha3_256};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Instant,
};

/// Changes whenever the same plan over the same inputs may give other values.
pub const ENGINE_VERSION: u64 = 1;

/// What happens while a project is run or published, for whoever shows progress.
#[derive(Clone, Debug)]
pub enum Event {
    /// A source was recorded at a new snapshot.
    Snapshot {
        /// Which source, at which version.
        at: TableVersion,
        /// How many bytes its files have.
        bytes: u64,
    },
    /// A source is as it was recorded.
    SnapshotUnchanged {
        /// Which source, at which version.
        at: TableVersion,
    },
    /// Something a user should know once.
    Warning(String),
    /// A view is being computed.
    Computing {
        /// Which view.
        view: DatasetName,
        /// Rows so far.
        rows: u64,
    },
    /// A view has no need of computing.
    Unchanged {
        /// Which view.
        view: DatasetName,
        /// The version that already has this identity; `None`: a draft has.
        version: Option<u64>,
    },
    /// A draft was made.
    Drafted {
        /// Which view.
        view: DatasetName,
        /// Its rows.
        rows: u64,
        /// Its content root.
        root: Hash,
    },
    /// A version became visible.
    Published(Published),
}

/// A version that a publish made visible, or found visible.
#[derive(Clone, Debug)]
pub struct Published {
    /// Which version.
    pub at: TableVersion,
    /// Its rows.
    pub rows: u64,
    /// The entry that made it visible.
    pub entry: EntryRef,
    /// Whether the draft's files were taken over.
    pub adopted: bool,
}

/// How to publish.
#[derive(Clone, Debug, Default)]
pub struct PublishOptions {
    /// Why; recorded.
    pub because: String,
    /// Which views, as `x`, `+x`, `x+`; none: all.
    pub select: Vec<String>,
    /// Whether consumers may break.
    pub accept_breaking: bool,
    /// The commit of the project's git repository.
    pub git_commit: Option<String>,
    /// Whether it has uncommitted changes.
    pub git_dirty: Option<bool>,
}

/// How a view's declaration relates to its newest version.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Contract {
    /// Same identity and same attributes.
    None,
    /// Same identity; owner, purposes or comment differ.
    Metadata,
    /// Same columns, other values.
    Data,
    /// New columns.
    Additive,
    /// Columns gone or changed, or another key.
    Breaking,
    /// There is no version yet.
    New,
}

impl Contract {
    /// The word in `custody plan`.
    pub fn word(self) -> &'static str {
        match self {
            Self::None => "unchanged",
            Self::Metadata => "metadata",
            Self::Data => "data",
            Self::Additive => "additive",
            Self::Breaking => "breaking",
            Self::New => "new",
        }
    }
}

/// A view that is ready to be computed.
pub(crate) struct Prepared {
    pub(crate) definition: DatasetDefinition,
    pub(crate) identity: Hash,
    pub(crate) plan_hash: Hash,
    pub(crate) inputs: Vec<InputRef>,
    pub(crate) labels: Vec<ClassLabel>,
    pub(crate) pinned: Vec<PinnedTable>,
    pub(crate) drafted: Drafted,
    pub(crate) contract: Contract,
    /// The newest version, where there is one.
    pub(crate) newest: Option<u64>,
    /// The version with this identity.
    pub(crate) same: Option<(TableVersion, u64)>,
    /// Whether some input is not computed yet, so that the identity is not final.
    pub(crate) provisional: bool,
}

/// What a definition says of its output.
pub(crate) struct Declaration<'a> {
    pub(crate) kind: DatasetKind,
    pub(crate) name: &'a DatasetName,
    pub(crate) key: &'a custody_dialect::Key,
    pub(crate) ttl: Option<String>,
    pub(crate) clauses: &'a custody_dialect::Clauses,
    pub(crate) text: &'a str,
}

/// Versions of this run that stand in for the catalog's.
pub(crate) type Overrides = BTreeMap<DatasetName, Found>;

impl Session {
    /// Computes drafts, private to this principal, of the views that changed.
    pub async fn run(
        &self,
        project: &Project,
        options: &PublishOptions,
        tell: &(dyn Fn(Event) + Send + Sync),
    ) -> Result<(), Problem> {
        let chosen = self.open_project(project, options, tell).await?;
        let mut overrides = Overrides::new();
        for name in &project.order {
            let declared = feature(project, name)?;
            if !chosen.contains(name) && self.find(name, Pin::Newest).is_some() {
                continue;
            }
            let prepared = self.prepare(project, declared, &overrides).await?;
            if let Some((at, _)) = &prepared.same {
                tell(Event::Unchanged { view: name.clone(), version: Some(at.version) });
                continue;
            }
            let found = match self.own_draft(&prepared) {
                Some(found) => {
                    tell(Event::Unchanged { view: name.clone(), version: None });
                    found
                }
                None => self.make_draft(&prepared, options, tell).await?,
            };
            overrides.insert(name.clone(), found);
        }
        Ok(())
    }

    /// Publishes the views that changed, each after what it reads. Gives the versions that became visible.
    pub async fn publish(
        &self,
        project: &Project,
        options: &PublishOptions,
        tell: &(dyn Fn(Event) + Send + Sync),
    ) -> Result<Vec<Published>, Problem> {
        let chosen = self.open_project(project, options, tell).await?;
        let mut published = vec![];
        for name in &chosen {
            let declared = feature(project, name)?;
            let prepared = self.prepare(project, declared, &Overrides::new()).await?;
            if let Some((at, _)) = &prepared.same {
                if prepared.contract == Contract::Metadata {
                    self.change_attributes(&prepared.definition).await?;
                }
                tell(Event::Unchanged { view: name.clone(), version: Some(at.version) });
                continue;
            }
            if prepared.contract == Contract::Breaking && !options.accept_breaking {
                return Err(Problem::new(
                    1116,
                    format!("publishing `{name}` would break its readers: a column is gone or changed"),
                )
                .help("custody plan shows the change; --accept-breaking publishes it"));
            }
            let version = self.publish_view(&prepared, options, tell).await?;
            tell(Event::Published(version.clone()));
            published.push(version);
        }
        Ok(published)
    }

    /// Policies are those of the active bundle, sources are recorded, the selection is understood.
    async fn open_project(
        &self,
        project: &Project,
        options: &PublishOptions,
        tell: &(dyn Fn(Event) + Send + Sync),
    ) -> Result<Vec<DatasetName>, Problem> {
        self.engine.refresh().await?;
        self.same_policies(project)?;
        let chosen = project.select(&options.select)?;
        let mut needed = BTreeSet::new();
        for name in &project.order {
            needed.extend(Project::reads(&feature(project, name)?.def.query));
        }
        for (name, declared) in &project.sources {
            if needed.contains(name) || options.select.is_empty() {
                self.snapshot(project, declared, tell).await?;
            }
        }
        Ok(chosen)
    }

    /// Records a source as its files are now. A subject without `publish` on it goes on with the newest recorded.
    pub(crate) async fn snapshot(
        &self,
        project: &Project,
        declared: &Declared<SourceDef>,
        tell: &(dyn Fn(Event) + Send + Sync),
    ) -> Result<(), Problem> {
        let def = &declared.def;
        let name = &def.name.value;
        let catalog = self.engine.catalog();
        let known = renamed(&catalog, name, &def.clauses)?;
        if let Some(known) = known
            && known.kind() != DatasetKind::Source
        {
            return Err(Problem::new(1117, format!("`{name}` is a {} already", known.kind().word())));
        }
        let definition = self.source_definition(declared, known)?;
        // Whose it is, not whose it says it is.
        let grant = self.decide(&present(&catalog, &definition), &[])?;
        if !grant.publish {
            return match known.and_then(Dataset::newest) {
                Some(_) if grant.visible() => Ok(()),
                _ => Err(not_found(name)),
            };
        }
        let newest = known.and_then(Dataset::newest).and_then(|v| v.snapshot().cloned());
        let previous = match &newest {
            Some(snapshot) => self.engine.recorder.get_blob(&snapshot.files)?,
            None => None,
        };
        let previous = previous.map(|json| SourceFiles::from_json(&json)).transpose().map_err(|e| e.problem())?;
        let kind = source_kind(def.format);
        let store = &self.engine.store;
        let keys = self.engine.settings.keys();
        let more: Vec<String> = self.engine.settings.sources_allow.iter().map(|p| p.display().to_string()).collect();
        let allow = store.allow(Some(&project.root), &more, &[keys]).map_err(|e| e.problem())?;
        let spec = SourceSpec { kind, url: &def.location.value, schema: crate::schema_of(&definition) };
        let files = store
            .snapshot(&allow, &spec, previous.as_ref())
            .await
            .map_err(|e| at_place(e.problem(), &def.location, project.text(declared.file)))?;
        for warning in &files.warnings {
            tell(Event::Warning(warning.clone()));
        }
        let hash = snapshot_hash(&definition, &files);
        if let Some(newest) = &newest
            && newest.snapshot == hash
        {
            if known.is_some_and(|d| d.name() != name) {
                self.change_attributes(&definition).await?;
            }
            let at = known.and_then(Dataset::newest).map(|v| v.table.clone());
            if let Some(at) = at {
                tell(Event::SnapshotUnchanged { at });
            }
            return Ok(());
        }
        let version = match &files.delta {
            Some((_, version)) => *version,
            None => newest.map_or(1, |n| n.version + 1),
        };
        let bytes = files.bytes();
        let blob = self.engine.recorder.put_blob(files.to_json()).await?;
        let snapshot = SourceSnapshot {
            definition,
            version,
            kind,
            url: def.location.value.clone(),
            snapshot: hash,
            files: blob,
            bytes,
        };
        self.control(Verb::Publish, Payload::CatalogChange(CatalogChange::Source(snapshot)), vec![]).await?;
        if let Some(found) = self.find(name, Pin::Newest) {
            tell(Event::Snapshot { at: found.at, bytes });
        }
        Ok(())
    }

    pub(crate) fn source_definition(
        &self,
        declared: &Declared<SourceDef>,
        known: Option<&Dataset>,
    ) -> Result<DatasetDefinition, Problem> {
        let def = &declared.def;
        unsupported(&def.clauses)?;
        let catalog = self.engine.catalog();
        let id = known.map_or_else(|| catalog.new_dataset_id(&def.name.value), Dataset::id);
        let names: Vec<&str> = def.columns.iter().map(|c| c.name.as_str()).collect();
        let fields = catalog.next_field_ids(id, &earlier_names(known, &names, &def.clauses)?);
        let columns: Vec<ColumnDef> = def
            .columns
            .iter()
            .zip(fields)
            .map(|(c, field)| ColumnDef {
                field,
                name: c.name.clone(),
                data_type: c.data_type.clone(),
                nullable: c.nullable,
            })
            .collect();
        self.definition(DatasetKind::Source, id, &def.name.value, columns, &def.key, None, &def.clauses, &declared.text)
    }

    /// Everything about a view that can be known before it is computed.
    pub(crate) async fn prepare(
        &self,
        project: &Project,
        declared: &Declared<ViewDef>,
        overrides: &Overrides,
    ) -> Result<Prepared, Problem> {
        let text = project.text(declared.file);
        self.prepare_inner(declared, overrides).await.map_err(|p| in_file(p, text))
    }

    async fn prepare_inner(&self, declared: &Declared<ViewDef>, overrides: &Overrides) -> Result<Prepared, Problem> {
        let def = &declared.def;
        let name = &def.name.value;
        refuse_undone(def)?;
        let mut pinned = vec![];
        let mut provisional = false;
        for reference in def.query.references() {
            let found = match overrides.get(&reference.name) {
                Some(found) if reference.pin == Pin::Newest => Some(found.clone()),
                _ => self.find(&reference.name, reference.pin),
            };
            let here = |p: Problem| {
                p.label(custody_model::Label { start: reference.start, end: reference.end, text: "here".into() })
            };
            if reference.name.is_system() {
                return Err(here(Problem::new(1118, format!("a feature cannot read `{}`", reference.name))));
            }
            let found = found.ok_or_else(|| here(not_found(&reference.name)))?;
            provisional |= matches!(found.storage, Storage::Planned);
            let mut table = self.pin_found(found).await.map_err(here)?;
            require_complete(&table).map_err(here)?;
            table.reference = Some(reference.clone());
            pinned.push(table);
        }
        let statement = Statement {
            asked: Asked::Query(def.query.clone()),
            explain: None,
            pinned,
            at: self.engine.seen(),
            hash: crate::hash_text(&def.query.text_normalised()),
        };
        let drafted = self.draft(&statement, true).await?;
        let declaration = Declaration {
            kind: DatasetKind::FeatureView,
            name,
            key: &def.key,
            ttl: def.ttl.as_ref().map(|t| t.value.clone()),
            clauses: &def.clauses,
            text: &declared.text,
        };
        let mut says = def.query.ast().to_string();
        if def.match_strict.is_some() {
            says.push_str("\nMATCH STRICT");
        }
        self.ready(&declaration, &says, drafted, statement.pinned, provisional)
    }

    /// What is drafted, with its definition, identity, classes and contract. `says` is what else makes another version.
    pub(crate) fn ready(
        &self,
        declaration: &Declaration<'_>,
        says: &str,
        drafted: Drafted,
        pinned: Vec<PinnedTable>,
        provisional: bool,
    ) -> Result<Prepared, Problem> {
        let name = declaration.name;
        exact(name, &drafted.lineage)?;
        let catalog = self.engine.catalog();
        let known = renamed(&catalog, name, declaration.clauses)?;
        let definition = self.output_definition(declaration, known, &drafted, &pinned)?;
        // Whose it is, not whose it says it is.
        let grant = self.decide(&present(&catalog, &definition), &[])?;
        if !grant.publish {
            return Err(Problem::new(3102, format!("you may not publish `{name}`"))
                .help("a policy must permit action `publish` on it: custody policy decide"));
        }
        let labels = self.labels(&drafted.lineage, &pinned);
        let inputs = inputs(&pinned);
        let plan = plan_text(&drafted.plan)?;
        let plan_hash = digest("custody plan v1", &[says.as_bytes(), plan.as_bytes()]);
        let identity = identity(&plan_hash, &definition, &inputs);
        let newest = known.and_then(Dataset::newest);
        let same = known
            .and_then(|d| catalog.version_by_identity(d.id(), &identity))
            .filter(|v| newest.is_some_and(|n| n.table == v.table))
            .map(|v| (v.table.clone(), v.publish().map_or(0, |p| p.rows)));
        let contract = contract(newest.map(|v| v.definition()), known, &definition, same.is_some());
        Ok(Prepared {
            newest: newest.map(|v| v.table.version),
            definition,
            identity,
            plan_hash,
            inputs,
            labels,
            pinned,
            drafted,
            contract,
            same,
            provisional,
        })
    }

    fn output_definition(
        &self,
        declaration: &Declaration<'_>,
        known: Option<&Dataset>,
        drafted: &Drafted,
        pinned: &[PinnedTable],
    ) -> Result<DatasetDefinition, Problem> {
        let catalog = self.engine.catalog();
        let schema = custody_store::version_schema(drafted.plan.schema().as_arrow()).map_err(|e| e.problem())?;
        let id = known.map_or_else(|| catalog.new_dataset_id(declaration.name), Dataset::id);
        let names: Vec<&str> = schema.fields().iter().map(|f| f.name().as_str()).collect();
        if let Some(twice) = names.iter().enumerate().find(|(i, n)| names[..*i].contains(n)) {
            return Err(
                Problem::new(1119, format!("column `{}` appears twice", twice.1)).help("give one of them an alias")
            );
        }
        let fields = catalog.next_field_ids(id, &earlier_names(known, &names, declaration.clauses)?);
        let columns = schema
            .fields()
            .iter()
            .zip(fields)
            .map(|(f, field)| ColumnDef {
                field,
                name: f.name().clone(),
                data_type: f.data_type().clone(),
                nullable: f.is_nullable(),
            })
            .collect();
        let mut definition = self.definition(
            declaration.kind,
            id,
            declaration.name,
            columns,
            declaration.key,
            declaration.ttl.clone(),
            declaration.clauses,
            declaration.text,
        )?;
        definition.purposes = purposes(declaration.name, &definition.purposes, pinned)?;
        Ok(definition)
    }

    #[expect(clippy::too_many_arguments, reason = "one place builds definitions, from two kinds of declaration")]
    fn definition(
        &self,
        kind: DatasetKind,
        id: custody_model::DatasetId,
        name: &DatasetName,
        columns: Vec<ColumnDef>,
        key: &custody_dialect::Key,
        ttl: Option<String>,
        clauses: &custody_dialect::Clauses,
        text: &str,
    ) -> Result<DatasetDefinition, Problem> {
        let field = |wanted: &Placed<String>, what: &str| -> Result<FieldId, Problem> {
            columns.iter().find(|c| c.name == wanted.value).map(|c| c.field).ok_or_else(|| {
                let names: Vec<_> = columns.iter().map(|c| format!("`{}`", c.name)).collect();
                Problem::new(1120, format!("{what} `{}` is not a column of `{name}`", wanted.value))
                    .help(format!("there are {}", names.join(", ")))
                    .label(wanted.place.label("no such column"))
            })
        };
        let keys = key.columns.iter().map(|c| field(c, "key")).collect::<Result<Vec<_>, _>>()?;
        let event_time = field(&key.event_time, "event time")?;
        let known_time = key.known_time.as_ref().map(|c| field(c, "known time")).transpose()?;
        for (time, place) in [(Some(event_time), Some(&key.event_time)), (known_time, key.known_time.as_ref())] {
            let Some((column, place)) = time.and_then(|t| columns.iter().find(|c| c.field == t)).zip(place) else {
                continue;
            };
            use datafusion::arrow::datatypes::{DataType, TimeUnit};
            if !matches!(column.data_type, DataType::Timestamp(TimeUnit::Microsecond, Some(_)) | DataType::Date32) {
                return Err(Problem::new(1121, format!("time `{}` has type `{}`", column.name, column.data_type))
                    .help("a time is a TIMESTAMP (microseconds, UTC) or a DATE: CAST it")
                    .label(place.place.label("not a time")));
            }
        }
        Ok(DatasetDefinition {
            id,
            name: name.clone(),
            kind,
            entity: Some(key.entity.value.clone()),
            keys,
            event_time: Some(event_time),
            known_time,
            ttl,
            owner: clauses.owner.as_ref().map_or_else(|| self.subject.principal.0.clone(), |o| o.value.clone()),
            purposes: clauses.purposes.iter().map(|p| p.value.clone()).collect(),
            comment: clauses.comment.clone(),
            sql: text.to_string(),
            columns,
        })
    }

    /// The classes of each output, by lineage from the classes of what it reads.
    fn labels(&self, lineage: &Lineage, pinned: &[PinnedTable]) -> Vec<ClassLabel> {
        let bundle = self.engine.bundle();
        let mut classes: BTreeMap<(TableVersion, FieldId), BTreeSet<Class>> = BTreeMap::new();
        for table in pinned {
            let Some(bundle) = &bundle else { continue };
            for column in crate::pin::facts(bundle, &table.definition, &table.labels).columns {
                classes.insert((table.at.clone(), column.field), column.classes);
            }
        }
        let rules = self.engine.declassifications();
        custody_lineage::labels(
            lineage,
            &|table, field| classes.get(&(table.clone(), field)).cloned().unwrap_or_default(),
            &|version| rules.iter().find(|r| r.version == *version).cloned(),
        )
    }

    fn own_draft(&self, prepared: &Prepared) -> Option<Found> {
        let catalog = self.engine.catalog();
        let draft = catalog.draft(&self.subject.principal, &prepared.definition.name)?;
        (draft.record.identity == prepared.identity).then(|| Found {
            at: draft.table.clone(),
            definition: Arc::new(draft.record.definition.clone()),
            labels: draft.record.labels.iter().map(all_classes).collect(),
            storage: Storage::Draft(draft.record.principal.clone(), draft.record.identity),
        })
    }

    async fn make_draft(
        &self,
        prepared: &Prepared,
        options: &PublishOptions,
        tell: &(dyn Fn(Event) + Send + Sync),
    ) -> Result<Found, Problem> {
        let place = Place::Draft {
            principal: self.subject.principal.clone(),
            dataset: prepared.definition.id,
            identity: prepared.identity,
        };
        let publish_entry = entry_id(self.engine.clock.now());
        let made = self.compute(prepared, &place, options, publish_entry, tell).await?;
        let record = DraftRecord {
            principal: self.subject.principal.clone(),
            definition: prepared.definition.clone(),
            identity: prepared.identity,
            content_root: made.manifest.content_root,
            rows: made.manifest.rows,
            labels: prepared.labels.clone(),
            inputs: prepared.inputs.clone(),
            lineage: recorded(&prepared.drafted.lineage),
            run: made.run,
        };
        let change = CatalogChange::Draft(Box::new(record));
        self.control(Verb::Publish, Payload::CatalogChange(change), vec![]).await?;
        self.run_state(prepared, made.run, RunState::Ended, options, |_| {}).await?;
        tell(Event::Drafted {
            view: prepared.definition.name.clone(),
            rows: made.manifest.rows,
            root: made.manifest.content_root,
        });
        self.own_draft(prepared).ok_or_else(|| Problem::bug("a draft vanished while it was made"))
    }

    pub(crate) async fn publish_view(
        &self,
        prepared: &Prepared,
        options: &PublishOptions,
        tell: &(dyn Fn(Event) + Send + Sync),
    ) -> Result<Published, Problem> {
        let place = Place::Version { dataset: prepared.definition.id, identity: prepared.identity };
        let (made, adopted) = match self.leftover(prepared, &place).await? {
            Some(made) => (made, false),
            None => match self.adopt_draft(prepared, &place, options).await? {
                Some(made) => (made, true),
                None => {
                    let publish_entry = entry_id(self.engine.clock.now());
                    (self.compute(prepared, &place, options, publish_entry, tell).await?, false)
                }
            },
        };
        let recorded = recorded(&prepared.drafted.lineage);
        let lineage_hash = custody_ledger::lineage_hash(&recorded);
        let mut lineage = self.entry(
            Verb::Publish,
            Outcome::Success,
            Payload::Lineage(LineageRecord { identity: prepared.identity, hash: lineage_hash, lineage: recorded }),
        );
        lineage.reference = Some(made.run);
        let lineage = self.engine.recorder.record(lineage).await?;
        let entry = self.claim_version(prepared, options, &made, lineage.id, lineage_hash).await?;
        self.run_state(prepared, made.run, RunState::Ended, options, |_| {}).await?;
        let catalog = self.engine.catalog();
        let version = catalog
            .version_by_identity(prepared.definition.id, &prepared.identity)
            .ok_or_else(|| Problem::bug("a version vanished while it was published"))?;
        Ok(Published { at: version.table.clone(), rows: made.manifest.rows, entry, adopted })
    }

    /// Claims the publish entry: the last act. A lost claim looks at what came between and tries again only if
    /// nothing it decided on has changed.
    async fn claim_version(
        &self,
        prepared: &Prepared,
        options: &PublishOptions,
        made: &Made,
        lineage: EntryId,
        lineage_hash: Hash,
    ) -> Result<EntryRef, Problem> {
        let name = &prepared.definition.name;
        for _ in 0..1_000 {
            self.engine.refresh().await?;
            let catalog = self.engine.catalog();
            let known = catalog.dataset_by_id(prepared.definition.id);
            if let Some(winner) = known.and_then(Dataset::newest)
                && Some(winner.table.version) != prepared.newest
            {
                return Err(Problem::new(
                    7105,
                    format!("`{name}` was published by `{}` meanwhile, as version {}", winner.by, winner.table.version),
                )
                .help("custody publish again"));
            }
            for table in &prepared.pinned {
                if self.decide(&table.definition, &table.labels)?.hash != table.grant.hash {
                    return Err(Problem::new(7106, "policy changed while publishing").help("custody publish again"));
                }
            }
            let publish = Publish {
                identity: prepared.identity,
                definition: prepared.definition.clone(),
                version: prepared.newest.unwrap_or(0) + 1,
                because: options.because.clone(),
                content_root: made.manifest.content_root,
                rows: made.manifest.rows,
                event_range: made.manifest.event_range,
                schema_hash: made.schema_hash,
                inputs: prepared.inputs.clone(),
                labels: prepared.labels.clone(),
                lineage,
                lineage_hash,
                quarantine_root: None,
                run: made.run,
                plan: prepared.plan_hash,
                engine_version: ENGINE_VERSION,
                seed: None,
                git_commit: options.git_commit.clone(),
                git_dirty: options.git_dirty,
            };
            let mut entry = self.entry(Verb::Publish, Outcome::Success, Payload::Publish(Box::new(publish)));
            entry.id = made.publish_entry;
            entry.reference = Some(made.run);
            entry.measure.rows = Some(made.manifest.rows);
            entry.control_seq = ControlSeq(self.engine.seen().0 + 1);
            match self.engine.recorder.control(entry).await {
                Ok(recorded) => {
                    self.engine.refresh().await?;
                    return Ok(recorded.entry);
                }
                Err(failed) if failed.taken() => {}
                Err(failed) => return Err(failed.into()),
            }
        }
        Err(Problem::new(7003, "the catalog changes too fast to add to it").help("try again"))
    }

    /// What a crash left at this place: adopted where a `written` entry vouches for it, else removed.
    async fn leftover(&self, prepared: &Prepared, place: &Place) -> Result<Option<Made>, Problem> {
        let manifest = match self.engine.store.open_version(place).await {
            Ok(manifest) => manifest,
            Err(StoreError::NoVersion { .. }) => return Ok(None),
            Err(error) => return Err(error.problem()),
        };
        let written = self.engine.written(&prepared.identity)?;
        if let Some((run, record)) = written
            && record.content_root == Some(manifest.content_root)
            && let Some(publish_entry) = record.publish_entry
        {
            let schema_hash = custody_store::schema_hash(&manifest.schema).map_err(|e| e.problem())?;
            return Ok(Some(Made { manifest, run, publish_entry, schema_hash }));
        }
        self.engine.store.remove(place).await.map_err(|e| e.problem())?;
        Ok(None)
    }

    async fn adopt_draft(
        &self,
        prepared: &Prepared,
        place: &Place,
        options: &PublishOptions,
    ) -> Result<Option<Made>, Problem> {
        let Some(found) = self.own_draft(prepared) else { return Ok(None) };
        let catalog = self.engine.catalog();
        let Some(draft) = catalog.draft(&self.subject.principal, &prepared.definition.name) else { return Ok(None) };
        let run = draft.record.run;
        let publish_entry = entry_id(self.engine.clock.now());
        let from = Place::Draft {
            principal: self.subject.principal.clone(),
            dataset: prepared.definition.id,
            identity: prepared.identity,
        };
        let staged =
            self.engine.store.adopt_draft(&from, place, found.at.content, run).await.map_err(|e| e.problem())?;
        Ok(Some(self.commit(prepared, staged, options, run, publish_entry).await?))
    }

    /// Runs the plan under an intent and writes its rows, sorted.
    async fn compute(
        &self,
        prepared: &Prepared,
        place: &Place,
        options: &PublishOptions,
        publish_entry: EntryId,
        tell: &(dyn Fn(Event) + Send + Sync),
    ) -> Result<Made, Problem> {
        let name = &prepared.definition.name;
        tell(Event::Computing { view: name.clone(), rows: 0 });
        let started = self.run_entry(prepared, RunState::Started, options, |_| {});
        let run = started.id;
        self.engine.recorder.record(started).await?;
        match self.write(prepared, place, options, run, publish_entry, tell).await {
            Ok(made) => Ok(made),
            Err(problem) => {
                // The rows are not visible whatever happens to this entry; a lost one is closed at the next opening.
                let told = problem.clone();
                self.run_state(prepared, run, RunState::Failed, options, |r| r.error = Some(told.code.to_string()))
                    .await?;
                Err(problem)
            }
        }
    }

    async fn write(
        &self,
        prepared: &Prepared,
        place: &Place,
        options: &PublishOptions,
        run: EntryId,
        publish_entry: EntryId,
        tell: &(dyn Fn(Event) + Send + Sync),
    ) -> Result<Made, Problem> {
        let staged = self.stage_rows(prepared, place, run, tell).await?;
        self.commit(prepared, staged, options, run, publish_entry).await
    }

    /// The rows of a view, sorted, under an intent, in files that nothing names yet.
    pub(crate) async fn stage_rows(
        &self,
        prepared: &Prepared,
        place: &Place,
        run: EntryId,
        tell: &(dyn Fn(Event) + Send + Sync),
    ) -> Result<Staged, Problem> {
        let began = Instant::now();
        let sorted = sorted(&prepared.drafted.plan, &prepared.definition)?;
        let plan = self
            .finish(Drafted {
                plan: sorted,
                lineage: prepared.drafted.lineage.clone(),
                state: prepared.drafted.state.clone(),
            })
            .await?;
        let request = ReadRequest::sql(prepared.definition.sql.clone());
        let statement = Statement {
            asked: Asked::Dataset(vec![]),
            explain: None,
            pinned: prepared.pinned.clone(),
            at: self.engine.seen(),
            hash: crate::hash_text(&prepared.definition.sql),
        };
        let mut intent = self.intent_entry(&request, &statement, &plan)?;
        intent.verb = Verb::Publish;
        intent.reference = Some(run);
        intent.targets = targets(&prepared.pinned, plan.uses());
        let (receipt, slot) = self.engine.recorder.intent(intent).await?;
        let mut totals = Totals::default();
        let staged = async {
            let mut stream = execute(plan, receipt)?;
            let definition = &prepared.definition;
            let shape = Shape {
                schema: crate::schema_of(definition),
                keys: definition.keys.clone(),
                times: definition.event_time.into_iter().chain(definition.known_time).collect(),
                codec: Codec::default(),
            };
            let mut staging = self.engine.store.stage(place, &shape, run).await.map_err(|e| e.problem())?;
            while let Some(batch) = stream.next().await {
                let batch = batch.map_err(|e| from_datafusion(&e))?;
                totals.rows += batch.num_rows() as u64;
                totals.batches += 1;
                totals.bytes += batch.get_array_memory_size() as u64;
                staging.write(batch).await.map_err(|e| e.problem())?;
                tell(Event::Computing { view: prepared.definition.name.clone(), rows: totals.rows });
            }
            staging.finish().await.map_err(|e| e.problem())
        }
        .await;
        let outcome = if staged.is_ok() { Outcome::Success } else { Outcome::Failure };
        slot.close(self.outcome_entry(outcome, staged.as_ref().err(), totals, began)).await?;
        staged
    }

    /// The `written` entry, then Delta commit 0. Of two who wrote the same version, the later one takes what is there.
    async fn commit(
        &self,
        prepared: &Prepared,
        staged: Staged,
        options: &PublishOptions,
        run: EntryId,
        publish_entry: EntryId,
    ) -> Result<Made, Problem> {
        self.run_state(prepared, run, RunState::Written, options, |r| {
            r.content_root = Some(staged.content_root());
            r.rows = Some(staged.rows());
            r.files = staged.digests();
            r.publish_entry = Some(publish_entry);
        })
        .await?;
        let root = staged.content_root();
        let schema_hash = staged.schema_hash().map_err(|e| e.problem())?;
        let stamp = Stamp { entry: publish_entry, at: self.engine.clock.now() };
        match staged.commit(stamp).await.map_err(|e| e.problem())? {
            Committed::New(manifest) => Ok(Made { manifest, run, publish_entry, schema_hash }),
            Committed::Exists { found, ours } => {
                ours.discard().await.map_err(|e| e.problem())?;
                if found.content_root != root {
                    return Err(Problem::new(
                        4008,
                        format!("two runs of `{}` gave different values", prepared.definition.name),
                    )
                    .help("a query whose values depend on the order of rows cannot be published"));
                }
                Ok(Made { publish_entry: found.entry, run: found.run, manifest: found, schema_hash })
            }
        }
    }

    pub(crate) fn run_entry(
        &self,
        prepared: &Prepared,
        state: RunState,
        options: &PublishOptions,
        fill: impl FnOnce(&mut RunRecord),
    ) -> custody_model::Entry {
        let mut record = RunRecord {
            state,
            job: prepared.definition.name.clone(),
            dataset: prepared.definition.id,
            plan: prepared.plan_hash,
            engine_version: ENGINE_VERSION,
            seed: None,
            identity: prepared.identity,
            inputs: prepared.inputs.clone(),
            content_root: None,
            files: vec![],
            publish_entry: None,
            rows: None,
            error: None,
            git_commit: options.git_commit.clone(),
            git_dirty: options.git_dirty,
        };
        fill(&mut record);
        let outcome = match state {
            RunState::Started | RunState::Written => Outcome::Pending,
            RunState::Ended => Outcome::Success,
            RunState::Failed => Outcome::Failure,
        };
        self.entry(Verb::Publish, outcome, Payload::Run(record))
    }

    async fn run_state(
        &self,
        prepared: &Prepared,
        run: EntryId,
        state: RunState,
        options: &PublishOptions,
        fill: impl FnOnce(&mut RunRecord),
    ) -> Result<(), Problem> {
        let mut entry = self.run_entry(prepared, state, options, fill);
        entry.reference = Some(run);
        self.engine.recorder.record(entry).await?;
        Ok(())
    }

    pub(crate) async fn change_attributes(&self, d: &DatasetDefinition) -> Result<(), Problem> {
        let change = custody_model::AttributeChange {
            dataset: d.id,
            owner: Some(d.owner.clone()),
            purposes: Some(d.purposes.clone()),
            comment: d.comment.clone(),
            name: Some(d.name.clone()),
        };
        self.control(Verb::Admin, Payload::CatalogChange(CatalogChange::Attributes(change)), vec![]).await?;
        Ok(())
    }
}

/// Data that is written and committed, not yet visible.
struct Made {
    manifest: Arc<Manifest>,
    run: EntryId,
    publish_entry: EntryId,
    schema_hash: Hash,
}

fn feature<'a>(project: &'a Project, name: &DatasetName) -> Result<&'a Declared<ViewDef>, Problem> {
    project.features.get(name).ok_or_else(|| Problem::new(6004, format!("no feature view `{name}` in this project")))
}

/// A feature over rows that policy would silently drop is refused, naming what drops them.
pub(crate) fn require_complete(table: &PinnedTable) -> Result<(), Problem> {
    let by = match &table.grant.rows {
        RowGrant::All => return Ok(()),
        RowGrant::Nothing => "no row set permits any of them".to_string(),
        RowGrant::Where(p) => {
            let names: Vec<_> = p
                .sets
                .iter()
                .map(|(id, _)| format!("row set `{id}`"))
                .chain(p.guards.iter().map(|(id, _)| format!("guard `{id}`")))
                .collect();
            format!("by {}", names.join(", "))
        }
    };
    Err(Problem::new(3103, format!("would be filtered: `{}` {by}", table.at.name)).help(
        "a feature must see all rows of what it reads: ask for `see_rows` and `skip_guard`, or read another dataset",
    ))
}

fn exact(name: &DatasetName, lineage: &Lineage) -> Result<(), Problem> {
    if !lineage.exact {
        let nodes = lineage.unknown.iter().map(|n| format!("`{n}`")).collect::<Vec<_>>().join(", ");
        return Err(Problem::new(1122, format!("lineage of `{name}` is not exact: {nodes} is not understood")));
    }
    if lineage.volatile {
        return Err(Problem::new(1123, format!("a volatile function makes `{name}` irreproducible"))
            .help("leave out now(), random(), uuid() and their kin; take times from the data"));
    }
    Ok(())
}

/// Lineage as the ledger holds it: without the texts of expressions, which hold literals. The declaration, which the
/// publish entry has, gives them back.
fn recorded(lineage: &Lineage) -> Lineage {
    let mut lineage = lineage.clone();
    lineage.hops.clear();
    lineage.outputs.iter_mut().for_each(|output| output.hops.clear());
    lineage
}

/// What the declaration may say and this version of the engine does not do yet.
fn refuse_undone(def: &ViewDef) -> Result<(), Problem> {
    unsupported(&def.clauses)?;
    if let Some(incremental) = &def.incremental {
        return Err(Problem::new(1124, "INCREMENTAL BY is not supported yet")
            .help("leave it out: the view is then computed in full, which gives the same rows")
            .label(incremental.place.label("here")));
    }
    Ok(())
}

fn unsupported(clauses: &custody_dialect::Clauses) -> Result<(), Problem> {
    if let Some(e) = clauses.expectations.first() {
        return Err(Problem::new(1124, "EXPECT is not supported yet").label(e.place.label("here")));
    }
    Ok(())
}

/// The dataset that a definition speaks of: that of its name, or the one it says it is renamed from. Once renamed, the
/// clause has nothing left to do.
pub(crate) fn renamed<'a>(
    catalog: &'a Catalog,
    name: &DatasetName,
    clauses: &custody_dialect::Clauses,
) -> Result<Option<&'a Dataset>, Problem> {
    match (catalog.dataset(name), &clauses.renamed_from) {
        (Some(known), _) => Ok(Some(known)),
        (None, None) => Ok(None),
        (None, Some(old)) => match catalog.dataset(&old.value) {
            Some(known) => Ok(Some(known)),
            None => Err(Problem::new(1128, format!("there is no `{}` to be renamed", old.value))
                .help("leave `RENAMED FROM` out of a new definition")
                .label(old.place.label("here"))),
        },
    }
}

/// The names under which the catalog knows these columns: of a renamed one, its old name. Once renamed, the clause has
/// nothing left to do.
fn earlier_names<'a>(
    known: Option<&Dataset>,
    names: &[&'a str],
    clauses: &'a custody_dialect::Clauses,
) -> Result<Vec<&'a str>, Problem> {
    let mut earlier = names.to_vec();
    for renamed in &clauses.renamed_columns {
        let (new, old) = (renamed.new.value.as_str(), renamed.old.value.as_str());
        let knows = |name: &str| known.is_some_and(|d| d.definition().column_named(name).is_some());
        let wrong = |what: String, help: &str, place: custody_dialect::Place| {
            Err(Problem::new(1128, what).help(help).label(place.label("here")))
        };
        let Some(at) = names.iter().position(|n| *n == new) else {
            return wrong(format!("there is no column `{new}`"), "name a column of the definition", renamed.new.place);
        };
        if names.contains(&old) {
            return wrong(format!("column `{old}` is still there"), "give one of them another name", renamed.old.place);
        }
        match (knows(new), knows(old)) {
            (true, _) => {}
            (false, true) => earlier[at] = old,
            (false, false) => {
                let help = "leave `RENAMED FROM` out where nothing was published yet";
                return wrong(format!("there is no column `{old}` to be renamed"), help, renamed.old.place);
            }
        }
    }
    Ok(earlier)
}

/// A version may be read for no purpose that one of its inputs excludes.
fn purposes(
    name: &DatasetName,
    declared: &BTreeSet<Purpose>,
    pinned: &[PinnedTable],
) -> Result<BTreeSet<Purpose>, Problem> {
    let mut allowed: Option<BTreeSet<Purpose>> = None;
    for table in pinned.iter().filter(|t| !t.definition.purposes.is_empty()) {
        if let Some(outside) = declared.iter().find(|p| !table.definition.purposes.contains(p))
            && !table.grant.declassify
        {
            return Err(Problem::new(3104, format!("purpose `{outside}` is not among those of `{}`", table.at.name))
                .help(format!("leave it out of the PURPOSE of `{name}`, or ask for `declassify` on the input")));
        }
        allowed = Some(match allowed {
            None => table.definition.purposes.clone(),
            Some(so_far) => so_far.intersection(&table.definition.purposes).cloned().collect(),
        });
    }
    match allowed {
        Some(allowed) if declared.is_empty() && allowed.is_empty() => {
            Err(Problem::new(3105, format!("no purpose is common to all inputs of `{name}`")))
        }
        Some(allowed) if declared.is_empty() => Ok(allowed),
        _ => Ok(declared.clone()),
    }
}

fn contract(
    before: Option<&DatasetDefinition>,
    known: Option<&Dataset>,
    now: &DatasetDefinition,
    same: bool,
) -> Contract {
    let Some(before) = before else { return Contract::New };
    let broken = before.keys != now.keys
        || before.event_time != now.event_time
        || before.known_time != now.known_time
        || before.ttl != now.ttl
        || before.columns.iter().any(|c| now.column(c.field).is_none_or(|n| n != c));
    let attributes = before.comment != now.comment
        || known.is_some_and(|d| d.owner() != now.owner || *d.purposes() != now.purposes || *d.name() != now.name);
    match (same, broken, now.columns.len() > before.columns.len()) {
        (true, ..) if attributes => Contract::Metadata,
        (true, ..) => Contract::None,
        (false, true, _) => Contract::Breaking,
        (false, false, true) => Contract::Additive,
        (false, false, false) => Contract::Data,
    }
}

fn inputs(pinned: &[PinnedTable]) -> Vec<InputRef> {
    let mut inputs: Vec<InputRef> = pinned
        .iter()
        .map(|t| InputRef {
            dataset: t.at.dataset,
            version: t.at.version,
            made_at: t.at.made_at,
            content: t.at.content,
        })
        .collect();
    inputs.sort_by_key(|i| (i.dataset, i.content));
    inputs.dedup();
    inputs
}

/// SHA3-256 over plan, declaration, inputs and engine version: no version numbers, so drafts and publishes agree.
fn identity(plan: &Hash, definition: &DatasetDefinition, inputs: &[InputRef]) -> Hash {
    let mut parts: Vec<Vec<u8>> = vec![plan.as_bytes().to_vec(), definition_bytes(definition)];
    for input in inputs {
        parts.push([input.dataset.0.as_bytes().as_slice(), input.content.as_bytes()].concat());
    }
    parts.push(ENGINE_VERSION.to_be_bytes().to_vec());
    digest("custody version v1", &parts.iter().map(Vec::as_slice).collect::<Vec<_>>())
}

/// What of a declaration makes another version: not its name, owner, purposes, comment or text.
fn definition_bytes(d: &DatasetDefinition) -> Vec<u8> {
    let mut text = format!("{}|{:?}|{:?}", d.kind.word(), d.entity, d.ttl);
    for c in &d.columns {
        let role = [
            d.keys.iter().position(|k| *k == c.field).map(|i| format!("key{i}")),
            (d.event_time == Some(c.field)).then(|| "event".into()),
            (d.known_time == Some(c.field)).then(|| "known".into()),
        ];
        let role: Vec<String> = role.into_iter().flatten().collect();
        text.push_str(&format!("|{:?} {} {} {} {}", c.name, c.field, c.data_type, c.nullable, role.join(",")));
    }
    text.into_bytes()
}

fn digest(domain: &str, parts: &[&[u8]]) -> Hash {
    let mut hasher = Sha3_256::new();
    for part in std::iter::once(domain.as_bytes()).chain(parts.iter().copied()) {
        hasher.update((part.len() as u64).to_be_bytes());
        hasher.update(part);
    }
    Hash(hasher.finalize().into())
}

/// Every node of the plan and of its subqueries, in pre-order. A barrier is left out: its text names the reader's
/// grant and the version's number, and what it does to the rows stands below it.
fn plan_text(plan: &LogicalPlan) -> Result<String, Problem> {
    use datafusion::common::tree_node::TreeNodeRecursion;
    let mut text = String::new();
    plan.apply_with_subqueries(|node| {
        match node {
            LogicalPlan::Extension(e) if AsOfJoin::of(e.node.as_ref()).is_none() => text.push_str("node\n"),
            other => text.push_str(&format!("{}\n", other.display())),
        }
        Ok(TreeNodeRecursion::Continue)
    })
    .map_err(|e| from_datafusion(&e))?;
    Ok(text)
}

/// By keys, event time, known time, then the remaining columns, so that equal inputs give equal files.
fn sorted(plan: &LogicalPlan, definition: &DatasetDefinition) -> Result<LogicalPlan, Problem> {
    let mut order: Vec<FieldId> = definition.keys.clone();
    order.extend(definition.event_time);
    order.extend(definition.known_time);
    order.extend(definition.columns.iter().map(|c| c.field));
    let mut seen = BTreeSet::new();
    let keys: Vec<_> = order
        .into_iter()
        .filter(|field| seen.insert(*field))
        .filter_map(|field| definition.column(field))
        .filter_map(|c| plan.schema().index_of_column_by_name(None, &c.name))
        .map(|i| Expr::Column(Column::from(plan.schema().qualified_field(i))).sort(true, false))
        .collect();
    LogicalPlanBuilder::from(plan.clone())
        .sort(keys)
        .and_then(LogicalPlanBuilder::build)
        .map_err(|e| from_datafusion(&e))
}

fn source_kind(format: SourceFormat) -> SourceKind {
    match format {
        SourceFormat::Delta => SourceKind::Delta,
        SourceFormat::Parquet => SourceKind::Parquet,
        SourceFormat::Csv => SourceKind::Csv,
        SourceFormat::Json => SourceKind::Json,
    }
}

fn at_place(problem: Problem, place: &Placed<String>, text: Option<&SourceText>) -> Problem {
    in_file(problem.label(place.place.label("declared here")), text)
}

pub(crate) fn in_file(mut problem: Problem, text: Option<&SourceText>) -> Problem {
    if problem.file.is_none() && !problem.labels.is_empty() {
        problem.file = text.map(|t| t.name.clone());
    }
    problem
}
