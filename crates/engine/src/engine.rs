//! A warehouse, opened: ledger, store, keys, the folded catalog and the active policies.
//!
//! What holds here: the fold is a function of the control entries alone and is brought up to date before each
//! statement; whatever another process has published is seen by the next one.

use crate::{
    audit::{Recorder, RecorderOptions},
    barrier,
    clock::Clock,
    functions,
    keys::Keys,
    known::KnownVersions,
    memory::Pool,
    pin::{PinnedTable, Storage},
    provider::NoCatalogs,
    session::Session,
    settings::Settings,
    system::SystemState,
};
use chrono::DateTime;
use custody_catalog::Catalog;
use custody_dialect::{AsOfRelations, Expectation, Relations};
use custody_model::{
    AdminRecord, CatalogChange, ControlSeq, DatasetDefinition, DatasetId, DatasetName, Declassification, FieldId, Hash,
    Outcome, Payload, Principal, Problem, Subject, TableVersion, Verb,
};
use custody_policy::{Bundle, Decisions, Tables};
use custody_store::{Place, SourceFiles, VersionTable, Warehouse};
use datafusion::{
    arrow::datatypes::DataType,
    catalog::TableProvider,
    datasource::{empty::EmptyTable, provider_as_source},
    execution::{
        SessionState, SessionStateBuilder, SessionStateDefaults,
        context::ExecutionProps,
        disk_manager::{DiskManagerBuilder, DiskManagerMode},
        runtime_env::{RuntimeEnv, RuntimeEnvBuilder},
    },
    logical_expr::planner::RelationPlanner,
    prelude::SessionConfig,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    num::NonZeroUsize,
    sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::AtomicU64},
};

/// A warehouse, opened by this process.
pub struct Engine {
    pub(crate) settings: Settings,
    pub(crate) recorder: Recorder,
    pub(crate) store: Warehouse,
    pub(crate) keys: Arc<Keys>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) decisions: Decisions,
    pub(crate) visible: Arc<barrier::Visible>,
    pub(crate) system: Mutex<SystemState>,
    /// Snapshots of sources that were found to hold what they promise, by who asked.
    pub(crate) kept_promises: Mutex<BTreeSet<(Principal, DatasetId, ControlSeq, Hash)>>,
    /// What the sources of the project at hand promise now: their recorded declaration is that of their newest snapshot.
    pub(crate) promised: Mutex<BTreeMap<DatasetName, Vec<Expectation>>>,
    /// Reads of which something has left, counted where it leaves: what the ledger's entries are held against.
    pub(crate) reads_released: AtomicU64,
    folded: Mutex<Folded>,
    base: SessionState,
}

/// What the control entries amount to.
#[derive(Clone)]
pub(crate) struct Folded {
    pub(crate) catalog: Arc<Catalog>,
    pub(crate) bundle: Option<Arc<Bundle>>,
    /// Versions of this catalog under this bundle.
    pub(crate) known: Arc<KnownVersions>,
}

impl Engine {
    /// Whether a ledger is there.
    pub fn exists(settings: &Settings) -> bool {
        settings.ledger().join("genesis").exists()
    }

    /// Makes a new warehouse: folders, keys, ledger; its first entry makes `admin` its administrator.
    pub async fn create(settings: Settings, clock: Arc<dyn Clock>, admin: Subject) -> Result<Arc<Self>, Problem> {
        if Self::exists(&settings) {
            return Err(Problem::new(
                1302,
                format!("there is a warehouse at `{}` already", settings.warehouse.display()),
            ));
        }
        Recorder::create(&settings.ledger(), &settings.keys(), &settings.name, Arc::clone(&clock)).await?;
        let engine = Self::open(settings, clock).await?;
        let record = AdminRecord {
            principal: admin.principal.clone(),
            roles: ["admin", "policy_admin"].map(String::from).into(),
        };
        let session = engine.session(admin);
        session.control(Verb::Admin, Payload::CatalogChange(CatalogChange::Admin(record)), vec![]).await?;
        Ok(engine)
    }

    /// Opens a warehouse: recovers what a crash left, folds the control entries, loads the active policies.
    pub async fn open(settings: Settings, clock: Arc<dyn Clock>) -> Result<Arc<Self>, Problem> {
        if !Self::exists(&settings) {
            return Err(Problem::new(1303, format!("there is no warehouse at `{}`", settings.warehouse.display()))
                .help("custody init NAME makes a project with one; `project.warehouse` in custody.toml names it"));
        }
        let recorder = Recorder::open(RecorderOptions {
            ledger: settings.ledger(),
            keys: settings.keys(),
            writer: settings.writer,
            clock: Arc::clone(&clock),
            segment_bytes: settings.segment_bytes,
            max_open_reads: settings.max_open_reads,
            patience: settings.patience,
            peer: settings.peer.clone(),
        })
        .await?;
        let store = Warehouse::open(&settings.warehouse.display().to_string()).map_err(|e| e.problem())?;
        let base = base_state(&settings)?;
        store.register(base.runtime_env());
        let engine = Arc::new(Self {
            keys: Arc::new(Keys::open(&settings.keys())?),
            system: Mutex::new(SystemState::new(&settings.ledger())?),
            kept_promises: Mutex::default(),
            promised: Mutex::default(),
            reads_released: AtomicU64::new(0),
            base,
            folded: Mutex::new(Folded { catalog: Arc::new(Catalog::new()), bundle: None, known: Arc::default() }),
            visible: Arc::default(),
            decisions: Decisions::new(NonZeroUsize::MIN.saturating_add(4095)),
            settings,
            recorder,
            store,
            clock,
        });
        engine.refresh().await?;
        Ok(engine)
    }

    /// What a subject may do here.
    pub fn session(self: &Arc<Self>, subject: Subject) -> Session {
        Session { engine: Arc::clone(self), subject: Arc::new(subject), then: None, prediction: None }
    }

    /// The settings it was opened with.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// The keys, for doors that issue tokens and seal tickets.
    pub fn keys(&self) -> &Keys {
        &self.keys
    }

    /// The clock.
    pub fn clock(&self) -> &Arc<dyn Clock> {
        &self.clock
    }

    /// The newest fold.
    pub fn catalog(&self) -> Arc<Catalog> {
        Arc::clone(&self.folded().catalog)
    }

    /// Ends in order: open reads are drained, the chain is closed and signed.
    pub async fn close(&self) -> Result<(), Problem> {
        self.recorder.close().await.map_err(Problem::from)
    }

    pub(crate) fn bundle(&self) -> Option<Arc<Bundle>> {
        self.folded().bundle.clone()
    }

    pub(crate) fn bundle_hash(&self) -> Option<Hash> {
        self.bundle().map(|b| b.hash())
    }

    pub(crate) fn declassifications(&self) -> Vec<Declassification> {
        let epoch = self.catalog().bundle().map_or(0, |b| b.record.epoch);
        self.bundle().map(|b| b.declassifications(epoch)).unwrap_or_default()
    }

    /// The newest control position this process has folded.
    pub(crate) fn seen(&self) -> ControlSeq {
        self.folded().catalog.at()
    }

    pub(crate) fn folded(&self) -> MutexGuard<'_, Folded> {
        self.folded.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Folds what was claimed since. A statement does this before it pins.
    pub async fn refresh(&self) -> Result<(), Problem> {
        let before = Folded::clone(&self.folded());
        let mut catalog: Option<Catalog> = None;
        loop {
            let next = ControlSeq(catalog.as_ref().map_or(before.catalog.at(), Catalog::at).0 + 1);
            let Some(entry) = self.recorder.control_entry(next)? else { break };
            let fold = catalog.get_or_insert_with(|| Catalog::clone(&before.catalog));
            fold.apply(&entry)
                .map_err(|e| Problem::new(4002, format!("control entry {next} cannot be folded: {e}")))?;
        }
        let Some(catalog) = catalog else { return Ok(()) };
        let catalog = Arc::new(catalog);
        self.destroy_keys(catalog.destroyed_keys().difference(before.catalog.destroyed_keys()))?;
        let bundle = self.active_bundle(&catalog, before.bundle.as_ref())?;
        let mut folded = self.folded();
        if folded.catalog.at() < catalog.at() {
            *folded = Folded { catalog, bundle, known: Arc::default() };
        }
        Ok(())
    }

    fn active_bundle(&self, catalog: &Catalog, loaded: Option<&Arc<Bundle>>) -> Result<Option<Arc<Bundle>>, Problem> {
        let Some(epoch) = catalog.bundle() else { return Ok(None) };
        let appeared = |b: &Bundle| b.waits_for().iter().any(|table| catalog.dataset(table).is_some());
        if let Some(bundle) = loaded.filter(|b| b.hash() == epoch.record.hash && !appeared(b)) {
            return Ok(Some(Arc::clone(bundle)));
        }
        let damaged = |why: String| Problem::new(4003, format!("the active policy bundle cannot be read: {why}"));
        let bytes = self.recorder.get_blob(&epoch.record.blob)?.ok_or_else(|| damaged("its bytes are gone".into()))?;
        let files = crate::bundle_files::decode(&bytes).ok_or_else(|| damaged("its bytes are damaged".into()))?;
        let bundle = Bundle::load(&files, &CatalogTables { catalog, declared: &[] })
            .map_err(|problems| damaged(problems.first().map(ToString::to_string).unwrap_or_default()))?;
        if bundle.hash() == epoch.record.hash {
            Ok(Some(Arc::new(bundle)))
        } else {
            Err(damaged("its hash differs from the recorded one".into()))
        }
    }

    /// A planner and executor in which exactly these tables exist.
    pub(crate) fn state(&self, pinned: &[PinnedTable], _subject: &Subject) -> Result<SessionState, Problem> {
        let decided = Arc::new(barrier::Decisions::default());
        pinned.iter().for_each(|t| decided.record(&t.at, t.grant.hash));
        let tables =
            pinned.iter().filter_map(|t| t.reference.clone().map(|r| (r, provider_as_source(Arc::clone(&t.provider)))));
        let mut state = self.base.clone();
        state.config_mut().set_extension(decided);
        state.config_mut().set_extension(Arc::clone(&self.visible));
        // One statement, one time: `now()` and its kin are constants of the plan.
        let now = DateTime::from_timestamp_nanos(self.clock.now().0);
        *state.execution_props_mut() = ExecutionProps::new().with_query_execution_start_time(now);
        let planners: [Arc<dyn RelationPlanner>; 2] = [Arc::new(Relations::new(tables)), Arc::new(AsOfRelations)];
        for planner in planners {
            state.register_relation_planner(planner).map_err(|e| crate::problem::from_datafusion(&e))?;
        }
        Ok(state)
    }

    /// The rows of a version, as storage has them: what a barrier is put over.
    pub(crate) async fn open_storage(
        &self,
        at: &TableVersion,
        definition: &DatasetDefinition,
        storage: &Storage,
    ) -> Result<Arc<dyn TableProvider>, Problem> {
        let place = match storage {
            Storage::Version(identity) => Place::Version { dataset: at.dataset, identity: *identity },
            Storage::Draft(principal, identity) => {
                Place::Draft { principal: principal.clone(), dataset: at.dataset, identity: *identity }
            }
            Storage::Quarantine(identity) => Place::Quarantine { dataset: at.dataset, identity: *identity },
            Storage::View(_) => return Err(Problem::bug("a plain view stores nothing")),
            Storage::Planned => return Ok(Arc::new(EmptyTable::new(crate::schema_of(definition)))),
            Storage::Source(snapshot) => {
                let files = self
                    .recorder
                    .get_blob(&snapshot.files)?
                    .ok_or_else(|| Problem::new(4004, format!("the file list of `{at}` is gone")))?;
                let files = SourceFiles::from_json(&files).map_err(|e| e.problem())?;
                let table = self.store.open_source(&at.name.to_string(), &files, crate::schema_of(definition)).await;
                return Ok(table.map_err(|e| e.problem())?);
            }
        };
        let manifest = self.store.open_version(&place).await.map_err(|e| e.problem())?;
        if manifest.content_root != at.content {
            return Err(Problem::new(4005, format!("the data of `{at}` is not what the ledger recorded"))
                .help(format!("custody verify {at} --deep")));
        }
        Ok(Arc::new(VersionTable::new(self.store.clone(), manifest)))
    }
}

/// Columns as the bundle loader asks for them: from the catalog, or from definitions not yet in it.
pub(crate) struct CatalogTables<'a> {
    pub(crate) catalog: &'a Catalog,
    pub(crate) declared: &'a [DatasetDefinition],
}

impl Tables for CatalogTables<'_> {
    fn columns(&self, name: &DatasetName) -> Option<Vec<(FieldId, String, DataType)>> {
        let declared = self.declared.iter().find(|d| d.name == *name);
        let definition = declared.or_else(|| self.catalog.dataset(name).map(|d| d.definition().as_ref()))?;
        Some(definition.columns.iter().map(|c| (c.field, c.name.clone(), c.data_type.clone())).collect())
    }
}

/// Functions, rules and limits common to all sessions. Tables come per statement.
fn base_state(settings: &Settings) -> Result<SessionState, Problem> {
    let wrong = |e: datafusion::error::DataFusionError| Problem::new(7104, format!("no place for spilling: {e}"));
    let mut config = SessionConfig::new()
        .with_target_partitions(settings.partitions)
        .with_information_schema(false)
        .with_create_default_catalog_and_schema(false);
    let options = config.options_mut();
    options.sql_parser.collect_spans = true;
    options.sql_parser.enable_subquery_sort_elimination = false;
    options.sql_parser.map_string_types_to_utf8view = false;
    options.execution.time_zone = Some("UTC".into());
    options.execution.parquet.schema_force_view_types = false;
    options.execution.parquet.pushdown_filters = true;
    // The pool keeps room for merges.
    options.execution.sort_spill_reservation_bytes = 0;
    options.catalog.default_catalog = "data".into();
    options.catalog.default_schema = "none".into();
    let runtime: Arc<RuntimeEnv> = RuntimeEnvBuilder::new()
        .with_memory_pool(Arc::new(Pool::new(settings.memory_bytes)))
        .with_disk_manager_builder(
            DiskManagerBuilder::default().with_mode(DiskManagerMode::Directories(vec![settings.spill()])),
        )
        .build_arc()
        .map_err(wrong)?;
    let builder = SessionStateBuilder::new()
        .with_config(config)
        .with_runtime_env(runtime)
        .with_catalog_list(Arc::new(NoCatalogs))
        .with_expr_planners(SessionStateDefaults::default_expr_planners())
        .with_type_planner(Arc::new(custody_dialect::Types))
        .with_scalar_functions(functions::scalar())
        .with_aggregate_functions(functions::aggregate())
        .with_window_functions(functions::window())
        .with_table_function_list(SessionStateDefaults::default_table_functions());
    Ok(barrier::barrier_session_state(builder).build())
}

impl Session {
    /// Appends a control entry at the next free position, folding what others claimed meanwhile.
    pub(crate) async fn control(
        &self,
        verb: Verb,
        payload: Payload,
        targets: Vec<custody_model::Target>,
    ) -> Result<crate::audit::Recorded, Problem> {
        let mut entry = self.entry(verb, Outcome::Success, payload);
        entry.targets = targets;
        self.control_entry(entry).await
    }

    pub(crate) async fn control_entry(
        &self,
        mut entry: custody_model::Entry,
    ) -> Result<crate::audit::Recorded, Problem> {
        for _ in 0..1_000 {
            self.engine.refresh().await?;
            entry.control_seq = ControlSeq(self.engine.seen().0 + 1);
            match self.engine.recorder.control(entry.clone()).await {
                Ok(recorded) => {
                    self.engine.refresh().await?;
                    return Ok(recorded);
                }
                Err(failed) if failed.taken() => {}
                Err(failed) => return Err(failed.into()),
            }
        }
        Err(Problem::new(7003, "the catalog changes too fast to add to it").help("try again"))
    }
}
