//! A plan run under an intent, its rows written in order to files that nothing names yet.

use super::{ENGINE_VERSION, Event, Prepared, PublishOptions, commit::Made};
use crate::{
    entries::targets,
    exact::exactly,
    expect::{Checker, Divided},
    governed::Drafted,
    pin::{Asked, Statement},
    problem::from_datafusion,
    read::{Totals, execute},
    session::{ReadRequest, Session},
};
use custody_model::{
    BlobRef, DatasetDefinition, EntryId, ExpectationResult, FieldId, Outcome, Payload, Problem, RunRecord, RunState,
    Verb,
};
use custody_store::{Codec, Place, Shape, Staged, Staging};
use datafusion::common::Column;
use datafusion::logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder};
use futures::StreamExt;
use std::collections::BTreeSet;
use std::time::Instant;

/// Rows in files that nothing names yet.
pub(crate) struct Wrote {
    pub(crate) staged: Staged,
    /// Rows that broke an expectation.
    pub(crate) quarantine: Option<Staged>,
    /// What each expectation found.
    pub(crate) expectations: Vec<ExpectationResult>,
    /// What the rows of `staged` look like.
    pub(crate) profile: Option<BlobRef>,
}

impl Session {
    /// Runs the plan under an intent and writes its rows, sorted.
    pub(super) async fn compute(
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

    pub(super) async fn write(
        &self,
        prepared: &Prepared,
        place: &Place,
        options: &PublishOptions,
        run: EntryId,
        publish_entry: EntryId,
        tell: &(dyn Fn(Event) + Send + Sync),
    ) -> Result<Made, Problem> {
        let wrote = self.stage_rows(prepared, place, run, tell).await?;
        for result in wrote.expectations.iter().filter(|r| r.violations > 0) {
            tell(Event::Violated { view: prepared.definition.name.clone(), result: result.clone() });
        }
        self.commit(prepared, wrote, options, run, publish_entry).await
    }

    /// The rows of a view, sorted, under an intent, in files that nothing names yet.
    pub(crate) async fn stage_rows(
        &self,
        prepared: &Prepared,
        place: &Place,
        run: EntryId,
        tell: &(dyn Fn(Event) + Send + Sync),
    ) -> Result<Wrote, Problem> {
        if prepared.recorded.is_none() {
            self.ask_sources(&prepared.pinned, tell).await?;
        }
        let began = Instant::now();
        let (drafted, pinned) = match self.part(prepared, run, tell).await? {
            Some(part) => (part.drafted, part.pinned),
            None => {
                let plan = exactly(prepared.drafted.plan.clone()).map_err(|e| from_datafusion(&e))?;
                let (lineage, state) = (prepared.drafted.lineage.clone(), prepared.drafted.state.clone());
                (Drafted { plan, lineage, state }, prepared.pinned.clone())
            }
        };
        let plan = sorted(&drafted.plan, &prepared.definition)?;
        let plan = self.finish(Drafted { plan, ..drafted }).await?;
        let request = ReadRequest::sql(prepared.definition.sql.clone());
        let statement = Statement {
            asked: Asked::Dataset(vec![]),
            explain: None,
            pinned,
            at: self.engine.seen(),
            hash: crate::hash_text(&prepared.definition.sql),
        };
        let mut intent = self.intent_entry(&request, &statement, &plan)?;
        if prepared.recorded.is_none() {
            Self::unexpired(&statement.pinned, &intent)?;
        }
        intent.verb = Verb::Publish;
        intent.reference = Some(run);
        intent.targets = targets(&statement.pinned, plan.uses());
        if let Some((principal, bundle)) = &prepared.recorded {
            intent.reason.bundle = Some(*bundle);
            if let Some(actor) = &mut intent.actor {
                actor.on_behalf_of = Some(principal.clone());
            }
        }
        let (receipt, slot) = self.engine.recorder.intent(intent).await?;
        let (mut totals, mut scans) = (Totals::default(), vec![]);
        let wrote = async {
            let mut running = execute(plan, receipt)?;
            let definition = &prepared.definition;
            let shape = Shape {
                schema: crate::schema_of(definition),
                keys: definition.keys.clone(),
                times: definition.event_time.into_iter().chain(definition.known_time).collect(),
                codec: Codec::default(),
            };
            let mut checker = Checker::new(&prepared.expected, &shape.schema)?;
            let mut staging = self.engine.store.stage(place, &shape, run).await.map_err(|e| e.problem())?;
            if prepared.recorded.is_none() {
                staging = staging.profiled();
            }
            let mut aside: Option<Staging> = None;
            while let Some(batch) = running.stream.next().await {
                let batch = batch.map_err(|e| from_datafusion(&e))?;
                let batch = custody_store::conform(&batch, &shape.schema, totals.rows).map_err(|e| e.problem())?;
                totals.rows += batch.num_rows() as u64;
                totals.batches += 1;
                totals.bytes += batch.get_array_memory_size() as u64;
                let Divided { kept, quarantined } = checker.divide(batch)?;
                staging.write(kept).await.map_err(|e| e.problem())?;
                // A draft has no quarantine: what it leaves out is counted, and published by its publish.
                if let (Some(rows), Place::Version { dataset, identity }) = (quarantined, place) {
                    let place = Place::Quarantine { dataset: *dataset, identity: *identity };
                    let mut to = match aside.take() {
                        Some(open) => open,
                        None => self.engine.store.stage(&place, &shape, run).await.map_err(|e| e.problem())?,
                    };
                    to.write(rows).await.map_err(|e| e.problem())?;
                    aside = Some(to);
                }
                tell(Event::Computing { view: prepared.definition.name.clone(), rows: totals.rows });
            }
            scans = running.scans();
            if let Some(failure) = checker.failure(&prepared.definition.name) {
                for staging in [Some(staging), aside].into_iter().flatten() {
                    staging.abort().await.map_err(|e| e.problem())?;
                }
                return Err(failure);
            }
            let quarantine = match aside {
                Some(staging) => Some(staging.finish().await.map_err(|e| e.problem())?),
                None => None,
            };
            let staged = staging.finish().await.map_err(|e| e.problem())?;
            let profile = match staged.profile() {
                Some(profile) => {
                    let profile = profile.clone().without_small_cells(least_rows(prepared));
                    let json = custody_store::profile_to_json(&profile);
                    Some(self.engine.recorder.put_blob(json).await?)
                }
                None => None,
            };
            Ok(Wrote { staged, quarantine, expectations: checker.results(), profile })
        }
        .await;
        let outcome = if wrote.is_ok() { Outcome::Success } else { Outcome::Failure };
        slot.close(self.outcome_entry(outcome, wrote.as_ref().err(), totals, scans, began)).await?;
        wrote
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
            quarantine_root: None,
            quarantine_files: vec![],
            expectations: vec![],
            profile: None,
        };
        fill(&mut record);
        let outcome = match state {
            RunState::Started | RunState::Written => Outcome::Pending,
            RunState::Ended => Outcome::Success,
            RunState::Failed => Outcome::Failure,
        };
        self.entry(Verb::Publish, outcome, Payload::Run(record))
    }

    pub(super) async fn run_state(
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
}

/// The fewest rows that a cell of the profile may have: the largest group floor on what the rows are made of.
fn least_rows(prepared: &Prepared) -> u64 {
    let floors = prepared.pinned.iter().filter_map(|t| t.grant.floor.as_ref().map(|f| f.least));
    floors.chain(prepared.floor).max().unwrap_or(0)
}

/// By keys, event time, known time, then the remaining columns, so that equal inputs give equal files.
pub(super) fn sorted(plan: &LogicalPlan, definition: &DatasetDefinition) -> Result<LogicalPlan, Problem> {
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
