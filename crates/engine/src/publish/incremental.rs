//! `INCREMENTAL BY … LOOKBACK`: a version is computed where its inputs changed, and taken from the one before elsewhere.
//!
//! 1. `local::prove` has shown that a row at time `t` is made of input rows in `[t − LOOKBACK, t]` alone.
//! 2. Which times have new input rows, is read from the files that were added since the version before. A file that is gone or
//!    changed, or an input that is itself a view with another version, means a computation in full.
//! 3. Output rows with times in `[e, e + LOOKBACK]` of such a time `e` are computed from input rows since `e − LOOKBACK`; the others
//!    are those of the version before.
//!
//! What holds here: the rows are those of a computation in full, so identity, content root and files are the same; nothing of an
//! earlier version is edited. Which way was taken is told, not recorded: it makes no difference.

use super::{ENGINE_VERSION, Event, Prepared, identity::definition_bytes, local::Local};
use crate::{
    entries::targets,
    exact::exactly,
    governed::{Drafted, EngineLeaves, limits},
    pin::{Asked, Found, PinnedTable, Statement, Storage},
    problem::from_datafusion,
    read::{Totals, execute},
    session::{ReadRequest, Session},
};
use custody_catalog::{VersionRecord, VersionStatus};
use custody_dialect::table_reference;
use custody_lineage::Text;
use custody_model::{EntryId, FieldId, Outcome, Pin, Problem, SourceSnapshot, Verb};
use custody_policy::Barrier;
use custody_store::SourceFiles;
use datafusion::{
    arrow::{
        array::{AsArray, RecordBatch},
        datatypes::{DataType, Date32Type, TimestampMicrosecondType},
    },
    common::{
        Column, ScalarValue,
        tree_node::{Transformed, TreeNode},
    },
    datasource::provider_as_source,
    logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder, cast, lit},
};
use futures::StreamExt;
use std::{collections::BTreeSet, sync::Arc, time::Instant};

/// More intervals than these are joined where the gaps are smallest: computing more than needed is right, too.
const MOST_INTERVALS: usize = 64;
const DAY: i64 = 86_400_000_000;

/// What is to be run, and over what.
pub(super) struct Part {
    pub(super) drafted: Drafted,
    pub(super) pinned: Vec<PinnedTable>,
}

/// Closed intervals of time, in microseconds, ascending, apart from each other.
type Intervals = Vec<(i64, i64)>;

impl Session {
    /// The part to compute, joined with the version before; `None`: all of it.
    pub(super) async fn part(
        &self,
        prepared: &Prepared,
        run: EntryId,
        tell: &(dyn Fn(Event) + Send + Sync),
    ) -> Result<Option<Part>, Problem> {
        let Some(local) = &prepared.local else { return Ok(None) };
        let view = || prepared.definition.name.clone();
        let whole = |why: String| {
            tell(Event::Whole { view: view(), why });
            Ok(None)
        };
        let base = match self.base(prepared) {
            Ok(base) => base,
            Err(why) => return whole(why),
        };
        let mut times = BTreeSet::new();
        for (at, field) in &local.inputs {
            let Some(table) = prepared.pinned.iter().find(|t| t.at == *at) else {
                return whole("an input is new".into());
            };
            match self.added(table, &base)? {
                Added::Nothing => {}
                Added::Unknown(why) => return whole(why),
                Added::Files(snapshot) => times.extend(self.times_of(table, *field, snapshot, run).await?),
            }
        }
        let dirty = joined(times.iter().map(|t| (*t, t.saturating_add(local.lookback))));
        let needed = joined(dirty.iter().map(|(from, to)| (from.saturating_sub(local.lookback), *to)));
        let found = self.find(&prepared.definition.name, Pin::Version(base.table.version));
        let Some(found) = found else { return whole("the version before cannot be read".into()) };
        let before = self.pin_found(found).await?;
        if !before.grant.open() {
            return whole("you do not see all of the version before".into());
        }
        tell(Event::Part { view: view(), of: base.table.version, intervals: dirty.clone() });
        let pinned: Vec<PinnedTable> = prepared.pinned.iter().cloned().chain([before.clone()]).collect();
        let state = self.engine.state(&pinned, &self.subject)?;
        let plan = joined_plan(prepared, local, &before, &dirty, &needed).map_err(|e| from_datafusion(&e))?;
        let (rules, limits) = (self.declassifications(), limits(Text::Shape));
        let lineage = custody_lineage::extract(&plan, &EngineLeaves, &rules, &limits)?;
        Ok(Some(Part { drafted: Drafted { plan, lineage, state }, pinned }))
    }

    /// The version before, where it was computed by the same query; or why it is of no use.
    fn base(&self, prepared: &Prepared) -> Result<Arc<VersionRecord>, String> {
        let catalog = self.catalog();
        let newest = catalog.dataset_by_id(prepared.definition.id).and_then(|d| d.newest().cloned());
        let newest = newest.ok_or("there is no version before")?;
        let publish = newest.publish().ok_or("there is no version before")?;
        let same = publish.plan == prepared.plan_hash
            && publish.engine_version == ENGINE_VERSION
            && definition_bytes(&publish.definition) == definition_bytes(&prepared.definition);
        if !same {
            return Err("the query changed".into());
        }
        if newest.status == VersionStatus::Revoked {
            return Err(format!("version {} is revoked", newest.table.version));
        }
        if publish.quarantine_rows.is_some() {
            return Err(format!("version {} has rows in quarantine", newest.table.version));
        }
        Ok(newest)
    }

    /// What an input has that it did not have when the version before was made.
    fn added(&self, table: &PinnedTable, base: &VersionRecord) -> Result<Added, Problem> {
        let name = &table.at.name;
        let inputs = base.publish().map(|p| p.inputs.as_slice()).unwrap_or_default();
        let Some(input) = inputs.iter().find(|i| i.dataset == table.at.dataset) else {
            return Ok(Added::Unknown(format!("`{name}` was not read before")));
        };
        if input.content == table.at.content {
            return Ok(Added::Nothing);
        }
        let catalog = self.catalog();
        let snapshot = |made_at| catalog.version_made_at(made_at).and_then(|v| v.snapshot().cloned());
        let (Some(before), Some(now)) = (snapshot(input.made_at), snapshot(table.at.made_at)) else {
            return Ok(Added::Unknown(format!("`{name}` has another version")));
        };
        if before.definition.columns != now.definition.columns || before.kind != now.kind {
            return Ok(Added::Unknown(format!("`{name}` is declared otherwise")));
        }
        let (old, mut new) = (self.files(&before)?, self.files(&now)?);
        let same = |a: &custody_store::SourceFile, b: &custody_store::SourceFile| {
            (&a.path, a.bytes, a.sha3, &a.partition) == (&b.path, b.bytes, b.sha3, &b.partition)
        };
        if let Some(gone) = old.files.iter().find(|file| !new.files.iter().any(|n| same(file, n))) {
            return Ok(Added::Unknown(format!("`{}` of `{name}` changed or is gone", gone.path)));
        }
        new.files.retain(|file| !old.files.iter().any(|o| same(o, file)));
        Ok(Added::Files(Box::new((now, new))))
    }

    fn files(&self, snapshot: &SourceSnapshot) -> Result<SourceFiles, Problem> {
        let gone = || Problem::new(4004, format!("the file list of `{}` is gone", snapshot.definition.name));
        let json = self.engine.recorder.get_blob(&snapshot.files)?.ok_or_else(gone)?;
        SourceFiles::from_json(&json).map_err(|e| e.problem())
    }

    /// The event times in some files of a source: a governed read under an intent of its own.
    async fn times_of(
        &self,
        table: &PinnedTable,
        field: FieldId,
        added: Box<(SourceSnapshot, SourceFiles)>,
        run: EntryId,
    ) -> Result<BTreeSet<i64>, Problem> {
        let (mut snapshot, files) = *added;
        snapshot.files = self.engine.recorder.put_blob(files.to_json()).await?;
        let found = Found {
            at: table.at.clone(),
            definition: Arc::clone(&table.definition),
            labels: table.labels.clone(),
            storage: Storage::Source(snapshot),
            revoked: None,
            known: None,
        };
        let pinned = vec![self.pin_found(found).await?];
        let name = table.definition.column(field).map(|c| c.name.clone()).unwrap_or_default();
        let source = provider_as_source(Arc::clone(&pinned[0].provider));
        let plan = LogicalPlanBuilder::scan(table_reference(&table.at.name), source, None)
            .and_then(|b| b.project([Expr::Column(Column::new(Some(table_reference(&table.at.name)), name))]))
            .and_then(LogicalPlanBuilder::distinct)
            .and_then(LogicalPlanBuilder::build)
            .map_err(|e| from_datafusion(&e))?;
        let state = self.engine.state(&pinned, &self.subject)?;
        let (rules, limits) = (self.declassifications(), limits(Text::None));
        let lineage = custody_lineage::extract(&plan, &EngineLeaves, &rules, &limits)?;
        let batches = self.collected(Drafted { plan, lineage, state }, pinned, run).await?;
        let mut times = BTreeSet::new();
        for batch in &batches {
            let column = batch.column(0);
            match column.data_type() {
                DataType::Date32 => {
                    times.extend(column.as_primitive::<Date32Type>().iter().flatten().map(|d| i64::from(d) * DAY));
                }
                _ => times.extend(column.as_primitive::<TimestampMicrosecondType>().iter().flatten()),
            }
        }
        Ok(times)
    }

    /// All rows of a plan that a run needs, under an intent.
    async fn collected(
        &self,
        drafted: Drafted,
        pinned: Vec<PinnedTable>,
        run: EntryId,
    ) -> Result<Vec<RecordBatch>, Problem> {
        let began = Instant::now();
        let plan = self.finish(drafted).await?;
        let statement = Statement {
            asked: Asked::Dataset(vec![]),
            explain: None,
            pinned,
            at: self.engine.seen(),
            hash: crate::hash_text("times of added files"),
        };
        let request = ReadRequest::sql("times of added files");
        let mut intent = self.intent_entry(&request, &statement, &plan)?;
        Self::unexpired(&statement.pinned, &intent)?;
        intent.verb = Verb::Publish;
        intent.reference = Some(run);
        intent.targets = targets(&statement.pinned, plan.uses());
        let (receipt, slot) = self.engine.recorder.intent(intent).await?;
        let (mut totals, mut scans) = (Totals::default(), vec![]);
        let rows = async {
            let mut running = execute(plan, receipt)?;
            let mut rows = vec![];
            while let Some(batch) = running.stream.next().await {
                let batch = batch.map_err(|e| from_datafusion(&e))?;
                totals.rows += batch.num_rows() as u64;
                totals.batches += 1;
                totals.bytes += batch.get_array_memory_size() as u64;
                rows.push(batch);
            }
            scans = running.scans();
            Ok(rows)
        }
        .await;
        let outcome = if rows.is_ok() { Outcome::Success } else { Outcome::Failure };
        slot.close(self.outcome_entry(outcome, rows.as_ref().err(), totals, scans, began)).await?;
        rows
    }
}

enum Added {
    Nothing,
    /// It cannot be told, and why.
    Unknown(String),
    /// These, of this snapshot.
    Files(Box<(SourceSnapshot, SourceFiles)>),
}

/// Intervals that meet or overlap as one, and no more than there may be.
fn joined(intervals: impl IntoIterator<Item = (i64, i64)>) -> Intervals {
    let mut sorted: Intervals = intervals.into_iter().collect();
    sorted.sort_unstable();
    let mut out: Intervals = vec![];
    for (from, to) in sorted {
        match out.last_mut() {
            Some(last) if from <= last.1.saturating_add(1) => last.1 = last.1.max(to),
            _ => out.push((from, to)),
        }
    }
    while out.len() > MOST_INTERVALS {
        let gap = |i: &usize| out[i + 1].0.saturating_sub(out[*i].1);
        let Some(at) = (0..out.len() - 1).min_by_key(gap) else { break };
        out[at].1 = out[at + 1].1;
        let _ = out.remove(at + 1);
    }
    out
}

/// Whether a time lies in one of the intervals; a day of `DATE` whole.
fn within(column: Expr, data_type: &DataType, intervals: &Intervals) -> Expr {
    let at = |micros: i64| match data_type {
        DataType::Date32 => lit(ScalarValue::Date32(Some(i32::try_from(micros.div_euclid(DAY)).unwrap_or(i32::MAX)))),
        _ => lit(ScalarValue::TimestampMicrosecond(Some(micros), Some("UTC".into()))),
    };
    let one = |(from, to): &(i64, i64)| column.clone().gt_eq(at(*from)).and(column.clone().lt_eq(at(*to)));
    intervals.iter().map(one).reduce(Expr::or).unwrap_or_else(|| lit(false))
}

/// New rows where inputs changed, and the earlier ones elsewhere.
fn joined_plan(
    prepared: &Prepared,
    local: &Local,
    before: &PinnedTable,
    dirty: &Intervals,
    needed: &Intervals,
) -> datafusion::common::Result<LogicalPlan> {
    let definition = &prepared.definition;
    let plan = exactly(prepared.drafted.plan.clone())?;
    let bounded = plan.transform_down(|node| {
        let Some(barrier) = Barrier::of_plan(&node) else { return Ok(Transformed::no(node)) };
        let field = local.inputs.iter().find(|(at, _)| at == barrier.at()).map(|(_, field)| *field);
        let Some(i) = field.and_then(|f| barrier.fields().iter().position(|b| *b == f)) else {
            return Ok(Transformed::no(node));
        };
        let (qualifier, column) = node.schema().qualified_field(i);
        let data_type = column.data_type().clone();
        let time = Expr::Column(Column::new(qualifier.cloned(), column.name()));
        let filtered = LogicalPlanBuilder::from(node).filter(within(time, &data_type, needed))?.build()?;
        Ok(Transformed::new(filtered, true, datafusion::common::tree_node::TreeNodeRecursion::Jump))
    })?;
    // Both sides have the declared columns, in their order and types.
    let shaped = |plan: LogicalPlan| {
        let schema = Arc::clone(plan.schema());
        let columns = definition.columns.iter().map(|c| {
            let at = schema.index_of_column_by_name(None, &c.name);
            let column = match at {
                Some(i) => Expr::Column(Column::from(schema.qualified_field(i))),
                None => return datafusion::common::internal_err!("`{}` is not a column of the plan", c.name),
            };
            Ok(cast(column, c.data_type.clone()).alias(&c.name))
        });
        let columns = columns.collect::<datafusion::common::Result<Vec<_>>>()?;
        LogicalPlanBuilder::from(plan).project(columns)?.build()
    };
    let time = Expr::Column(Column::new_unqualified(&local.column));
    let data_type = definition.column_named(&local.column).map(|c| c.data_type.clone()).unwrap_or(DataType::Null);
    let changed = within(time, &data_type, dirty);
    let new = LogicalPlanBuilder::from(shaped(bounded.data)?).filter(changed.clone())?.build()?;
    let source = provider_as_source(Arc::clone(&before.provider));
    let old = LogicalPlanBuilder::scan(table_reference(&before.at.name), source, None)?.build()?;
    let old = LogicalPlanBuilder::from(shaped(old)?).filter(changed.is_not_true())?.build()?;
    LogicalPlanBuilder::from(old).union(new)?.build()
}

#[cfg(test)]
mod tests;
