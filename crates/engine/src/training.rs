//! Training sets: a spine, with what each feature view could have told at the time of each of its rows.
//!
//! What holds here: a row sees no event after its time, and nothing that was not known by then unless the declaration
//! says otherwise and why; every spine row comes out once; a version is built from pinned versions, and a replay by what
//! the ledger says of it (inputs, subject, policies, catalog) gives the same bytes or says that it does not.

use crate::{
    asof::{Sight, point_in_time},
    entries::entry_id,
    governed::{Drafted, EngineLeaves, limits, nothing_dropped, plan_query},
    pin::{Found, PinnedTable, QUARANTINE, not_found},
    problem::from_datafusion,
    project::{Declared, Project},
    publish::{Contract, Declaration, Event, Prepared, PublishOptions, Published, Wrote, in_file, require_complete},
    replay::subject_of,
    session::{Session, Then},
    split,
};
use custody_dialect::{FeatureItem, KnownAt, Matching, Reference, Statement, TrainingDef, table_reference};
use custody_lineage::Text;
use custody_model::{
    ControlSeq, DatasetDefinition, DatasetKind, DatasetName, FieldId, FileDigest, Hash, Pin, Problem, SourceText,
    TableVersion,
};
use custody_policy::enforce;
use custody_store::Place;
use datafusion::{
    common::{Column, ScalarValue},
    datasource::provider_as_source,
    logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder, lit},
};
use std::{collections::BTreeSet, sync::Arc};

/// What a replay gave.
#[derive(Clone, Debug)]
pub struct Replayed {
    /// The version that was replayed.
    pub at: TableVersion,
    /// The content root of the rows computed now; `at.content` is that of the rows published.
    pub root: Hash,
    /// How many rows were computed.
    pub rows: u64,
    /// Whether the files computed now are those published, byte for byte.
    pub same_bytes: bool,
}

impl Session {
    /// Builds a training set, `training.x` or `x`, and publishes it as its next version, unless that is there already.
    pub async fn build_training_set(
        &self,
        project: &Project,
        name: &str,
        options: &PublishOptions,
        tell: &(dyn Fn(Event) + Send + Sync),
    ) -> Result<Option<Published>, Problem> {
        self.engine.refresh().await?;
        self.same_policies(project)?;
        let qualified = if name.contains('.') { name.to_string() } else { format!("training.{name}") };
        let name: DatasetName =
            qualified.parse().map_err(|e: custody_model::BadName| Problem::new(2101, e.to_string()))?;
        let declared = project
            .training
            .get(&name)
            .ok_or_else(|| Problem::new(6004, format!("no training set `{name}` in this project")))?;
        for reference in declared.def.spine.references() {
            if let Some(source) = project.sources.get(&reference.name) {
                self.snapshot(project, source, tell).await?;
            }
        }
        let find = |reference: &Reference| Ok(self.find(&reference.name, reference.pin));
        let text = project.text(declared.file);
        let prepared = self.prepare_training(declared, &find).await.map_err(|p| in_file(p, text))?;
        if let Some((at, _)) = &prepared.same {
            if prepared.contract == Contract::Metadata {
                self.change_attributes(&prepared.definition).await?;
            }
            tell(Event::Unchanged { view: name, version: Some(at.version) });
            return Ok(None);
        }
        if prepared.contract == Contract::Breaking && !options.accept_breaking {
            return Err(self.breaking(&prepared, Some(project)));
        }
        let published = self.publish_view(&prepared, options, tell).await?;
        tell(Event::Published(published.clone()));
        Ok(Some(published))
    }

    /// Computes a published training set again: from the versions it was built from, as whoever built it, by the
    /// policies and the catalog of that moment. Hands out no rows.
    pub async fn replay_training_set(
        &self,
        name: &DatasetName,
        pin: Pin,
        tell: &(dyn Fn(Event) + Send + Sync),
    ) -> Result<Replayed, Problem> {
        self.engine.refresh().await?;
        let found = self.find(name, pin).ok_or_else(|| not_found(name))?;
        if enforce!("training.replay", !self.decide(&found.definition, &found.labels)?.visible()) {
            return Err(not_found(name));
        }
        let version = self.engine.catalog().resolve(name, pin).and_then(|v| v.publish().cloned());
        let Some(publish) = version.filter(|_| found.definition.kind == DatasetKind::TrainingSet) else {
            return Err(Problem::new(1141, format!("`{name}` is not a training set"))
                .help("replay takes a version such as training.x@1"));
        };
        let text = SourceText::inline(found.definition.sql.clone());
        let mut statements = custody_dialect::parse(&text).map_err(crate::refused)?;
        let Some(Statement::TrainingSet(def)) = statements.pop().map(|s| s.value) else {
            return Err(Problem::bug("a training set's declaration became another statement"));
        };
        let declared = Declared { def: *def, text: found.definition.sql.clone(), file: 0 };
        let recorded = self.as_published(&found.at)?;
        let find = |reference: &Reference| recorded.as_recorded(reference, &publish.inputs);
        let mut prepared = recorded.prepare_training(&declared, &find).await.map_err(moved)?;
        prepared.recorded = recorded.bundle().map(|b| (recorded.subject.principal.clone(), b.hash()));
        let run = entry_id(self.engine.clock.now());
        let place = Place::Draft {
            principal: self.subject.principal.clone(),
            dataset: prepared.definition.id,
            identity: crate::hash_text(&format!("replay {} {run}", prepared.identity)),
        };
        let Wrote { staged, .. } = self.stage_rows(&prepared, &place, run, tell).await.map_err(moved)?;
        let digests = |files: Vec<FileDigest>| files.into_iter().map(|f| (f.bytes, f.sha3)).collect::<Vec<_>>();
        let written = self.engine.written(&publish.identity)?.map(|(_, record)| digests(record.files));
        let replayed = Replayed {
            at: found.at,
            root: staged.content_root(),
            rows: staged.rows(),
            same_bytes: written.is_some_and(|files| files == digests(staged.digests())),
        };
        staged.discard().await.map_err(|e| e.problem())?;
        Ok(replayed)
    }

    /// A session of whoever published a version, over the catalog and the policies that decided then.
    fn as_published(&self, at: &TableVersion) -> Result<Self, Problem> {
        let gone = |what: &str| Problem::new(4011, format!("{what} of `{at}` is not in the ledger"));
        let entry = self.engine.recorder.control_entry(at.made_at)?.ok_or_else(|| gone("the publish entry"))?;
        let subject = subject_of(&entry).ok_or_else(|| gone("who published, and what for,"))?;
        let hash = entry.reason.bundle.ok_or_else(|| gone("the policy bundle"))?;
        let catalog = self.engine.catalog_at(ControlSeq(at.made_at.0.saturating_sub(1)))?;
        let bundle = self.engine.bundle_of(&catalog, |e| e.record.hash == hash)?;
        let bundle = Arc::new(bundle.ok_or_else(|| gone("the policy bundle"))?);
        let epoch = catalog.bundles().filter(|e| e.record.hash == hash).map(|e| e.record.epoch).max().unwrap_or(0);
        Ok(Session {
            engine: Arc::clone(&self.engine),
            subject: Arc::new(subject),
            then: Some(Arc::new(Then { catalog, bundle, epoch, wall: entry.wall })),
            prediction: None,
        })
    }

    /// The version that a recorded build read under this name.
    fn as_recorded(&self, reference: &Reference, inputs: &[custody_model::InputRef]) -> Result<Option<Found>, Problem> {
        let catalog = self.catalog();
        let Some(dataset) = catalog.dataset(&reference.name) else { return Ok(None) };
        if dataset.view().is_some() {
            // As it was then; what its text reads is found in the same catalog.
            return Ok(self.find(&reference.name, reference.pin));
        }
        let of = |input: &&custody_model::InputRef| {
            input.dataset == dataset.id() && !matches!(reference.pin, Pin::Version(n) if n != input.version)
        };
        let Some(input) = inputs.iter().find(of) else { return Ok(None) };
        let found = self.find(&reference.name, Pin::Version(input.version));
        match found {
            Some(found) if found.at.content == input.content => Ok(Some(found)),
            _ => Err(Problem::new(
                4009,
                format!(
                    "version {} of `{}` is not the one the training set was built from",
                    input.version, reference.name
                ),
            )),
        }
    }

    async fn prepare_training(
        &self,
        declared: &Declared<TrainingDef>,
        find: &(dyn Fn(&Reference) -> Result<Option<Found>, Problem> + Send + Sync),
    ) -> Result<Prepared, Problem> {
        let def = &declared.def;
        let mut pinned = vec![];
        for reference in def.spine.references().iter().chain(def.features.iter().map(|f| &f.reference)) {
            let here = |p: Problem| p.label(reference.place().label("here"));
            if reference.name.is_system() || reference.name.schema() == QUARANTINE {
                return Err(here(Problem::new(1118, format!("a training set cannot read `{}`", reference.name))));
            }
            let found = find(reference)?.ok_or_else(|| here(not_found(&reference.name)))?;
            let mut table = self.pin_found(found).await.map_err(here)?;
            table.reference = Some(reference.clone());
            for table in table.with_beneath() {
                require_complete(&table).map_err(here)?;
                pinned.push(table);
            }
        }
        let drafted = self.draft_training(def, &pinned).await?;
        let declaration = Declaration {
            kind: DatasetKind::TrainingSet,
            name: &def.name.value,
            key: &def.key,
            ttl: None,
            clauses: &def.clauses,
            text: &declared.text,
        };
        let says = format!("{}\nLABEL {}\n{:?}", def.spine.ast(), def.label.value, def.known_at);
        self.ready(&declaration, &says, drafted, pinned, false)
    }

    async fn draft_training(&self, def: &TrainingDef, pinned: &[PinnedTable]) -> Result<Drafted, Problem> {
        let wrong = |e| from_datafusion(&e);
        let state = self.engine.state(pinned, &self.subject)?;
        nothing_dropped(&state, &def.spine)?;
        let spine = plan_query(&state, def.spine.clone().into_ast()).await?;
        let mut plan =
            LogicalPlanBuilder::from(spine).alias("spine").and_then(LogicalPlanBuilder::build).map_err(wrong)?;
        let mut output: Vec<(Expr, String)> = vec![];
        for field in plan.schema().fields() {
            output.push((Expr::Column(Column::new(Some("spine"), field.name())), field.name().clone()));
        }
        let names: Vec<String> = output.iter().map(|(_, name)| name.clone()).collect();
        let sampled = def.sample.iter().flat_map(|s| &s.columns);
        for needed in
            def.key.columns.iter().chain([&def.key.event_time, &def.label]).chain(&def.split.columns).chain(sampled)
        {
            if !names.contains(&needed.value) {
                return Err(Problem::new(1142, format!("`{}` is not a column of the spine", needed.value))
                    .help(format!(
                        "there are {}",
                        names.iter().map(|n| format!("`{n}`")).collect::<Vec<_>>().join(", ")
                    ))
                    .label(needed.place.label("no such column")));
            }
        }
        if let Some(sample) = &def.sample {
            let by = sample.columns.iter().map(|c| Expr::Column(Column::new(Some("spine"), &c.value))).collect();
            plan = LogicalPlanBuilder::from(plan)
                .filter(split::sampled(sample, by))
                .and_then(LogicalPlanBuilder::build)
                .map_err(wrong)?;
        }
        for (i, item) in def.features.iter().enumerate() {
            let table = pinned
                .iter()
                .find(|t| t.reference.as_ref() == Some(&item.reference))
                .ok_or_else(|| Problem::bug("a feature was not pinned"))?;
            let alias = format!("feature_{}", i + 1);
            plan = look_up(plan, def, item, table, &alias)?;
            for (column, name) in chosen(item, &table.definition)? {
                output.push((Expr::Column(Column::new(Some(alias.clone()), column)), name));
            }
        }
        let by = def.split.columns.iter().map(|c| Expr::Column(Column::new(Some("spine"), &c.value))).collect();
        output.push((split::part(&def.split, by), "split".into()));
        let mut seen = BTreeSet::new();
        if let Some((_, twice)) = output.iter().find(|(_, name)| !seen.insert(name.clone())) {
            return Err(Problem::new(1119, format!("column `{twice}` appears twice"))
                .help(format!("give one of them another name: `features.x ({twice} AS {twice}_2)`"))
                .label(def.name.place.label("in this training set")));
        }
        let columns: Vec<Expr> = output.into_iter().map(|(expr, name)| expr.alias(name)).collect();
        let plan =
            LogicalPlanBuilder::from(plan).project(columns).and_then(LogicalPlanBuilder::build).map_err(wrong)?;
        let lineage = custody_lineage::extract(&plan, &EngineLeaves, &self.declassifications(), &limits(Text::Shape))
            .map_err(Problem::from)?;
        Ok(Drafted { plan, lineage, state })
    }
}

/// A file of a recorded snapshot that is not as it was: a build would take a new snapshot, a replay cannot.
fn moved(problem: Problem) -> Problem {
    if problem.code == custody_model::Code(7701) {
        return Problem::new(4010, format!("a snapshot it was built from is not there as it was: {}", problem.message))
            .help("restore the file; what is published itself is intact: custody train-set verify");
    }
    problem
}

/// The spine so far with one view looked up.
fn look_up(
    spine: LogicalPlan,
    def: &TrainingDef,
    item: &FeatureItem,
    table: &PinnedTable,
    alias: &str,
) -> Result<LogicalPlan, Problem> {
    let view = &table.definition;
    let here = |p: Problem| p.label(item.reference.place().label("here"));
    let wrong = |e| from_datafusion(&e);
    let column = |field: FieldId| view.column(field).map(|c| Column::new(Some(alias), &c.name));
    let (Some(event), true) = (view.event_time.and_then(column), view.kind == DatasetKind::FeatureView) else {
        return Err(here(Problem::new(1143, format!("`{}` is not a feature view", view.name))));
    };
    if view.entity.as_deref() != Some(def.key.entity.value.as_str()) || view.keys.len() != def.key.columns.len() {
        let entity = view.entity.clone().unwrap_or_default();
        return Err(here(
            Problem::new(
                1143,
                format!("`{}` is about `{entity}`, the spine about `{}`", view.name, def.key.entity.value),
            )
            .help("features are looked up by the keys of one entity"),
        ));
    }
    let on = def
        .key
        .columns
        .iter()
        .zip(&view.keys)
        .filter_map(|(spine, key)| Some((Column::new(Some("spine"), &spine.value), column(*key)?)))
        .collect();
    let known = view.known_time.and_then(column);
    if known.is_none() && !matches!(def.known_at, KnownAt::Ignored(_)) {
        return Err(here(
            Problem::new(1144, format!("`{}` does not say when its rows became known", view.name))
                .help("declare its KNOWN TIME, or write IGNORING KNOWN TIME BECAUSE '…', which is recorded"),
        ));
    }
    let source = provider_as_source(Arc::clone(&table.provider));
    let mut feature = LogicalPlanBuilder::scan(table_reference(&view.name), source, None)
        .and_then(|b| b.alias(alias))
        .map_err(wrong)?;
    if let (KnownAt::Instant(at), Some(known)) = (&def.known_at, &known) {
        let at = lit(ScalarValue::TimestampMicrosecond(Some(at.0), Some("UTC".into())));
        feature = feature.filter(Expr::Column(known.clone()).lt_eq(at)).map_err(wrong)?;
    }
    let sight = Sight {
        on,
        at: Column::new(Some("spine"), &def.key.event_time.value),
        event,
        known,
        respect_known: def.known_at == KnownAt::EventTime,
        matching: Matching { strict: is_strict(view)?, ttl: view.ttl.clone() },
    };
    point_in_time(spine, feature.build().map_err(wrong)?, sight).map_err(wrong)
}

/// Whether the view's declaration says `MATCH STRICT`.
fn is_strict(view: &DatasetDefinition) -> Result<bool, Problem> {
    let mut statements = custody_dialect::parse(&SourceText::inline(view.sql.clone())).map_err(crate::refused)?;
    match statements.pop().map(|s| s.value) {
        Some(Statement::FeatureView(def)) => Ok(def.match_strict.is_some()),
        _ => Err(Problem::bug(format!("the declaration of `{}` is not a feature view's", view.name))),
    }
}

/// Columns of the view and their names in the training set.
fn chosen(item: &FeatureItem, view: &DatasetDefinition) -> Result<Vec<(String, String)>, Problem> {
    let Some(columns) = &item.columns else {
        let roles: BTreeSet<FieldId> =
            view.keys.iter().copied().chain(view.event_time).chain(view.known_time).collect();
        let values = view.columns.iter().filter(|c| !roles.contains(&c.field));
        return Ok(values.map(|c| (c.name.clone(), c.name.clone())).collect());
    };
    columns
        .iter()
        .map(|(column, alias)| match view.column_named(&column.value) {
            Some(_) => Ok((column.value.clone(), alias.value.clone())),
            None => Err(Problem::new(6002, format!("column `{}` of `{}` not found", column.value, view.name))
                .label(column.place.label("no such column"))),
        })
        .collect()
}
