//! Statistics of what a grant shows of a version, so that joins over it are planned as over a stored copy of it.
//!
//! A closed barrier stops the statistics of storage, which count hidden rows. These are counted above it: how many rows
//! there are, and between which values join keys lie. INVARIANT: they are a function of visible rows and cells alone,
//! made by a query over the governed relation, and never exact to the optimizer, so that no answer is read off them.
//!
//! They are made when a join first meets a version under a grant, which reads its join keys once, and kept by both.

use custody_model::{Hash, TableVersion};
use custody_policy::Barrier;
use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::datatypes::{DataType, Schema};
use datafusion::common::stats::Precision;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{ColumnStatistics, Result, ScalarValue, Statistics, internal_err};
use datafusion::execution::SessionState;
use datafusion::functions_aggregate::expr_fn::{count, max, min};
use datafusion::logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder, lit};
use datafusion::physical_plan::collect;
use lru::LruCache;
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    num::NonZeroUsize,
    sync::{Arc, Mutex, PoisonError},
};

/// Of conditions that cross a barrier, the rows that are expected to meet them: one in this many, as DataFusion expects
/// of a condition that it knows nothing of.
const SELECTED: usize = 5;

/// What was counted, by version and grant. An extension of the session's config.
pub struct Visible(Mutex<LruCache<(TableVersion, Hash), Arc<Figures>>>);

impl Default for Visible {
    fn default() -> Self {
        Self(Mutex::new(LruCache::new(NonZeroUsize::MIN.saturating_add(4095))))
    }
}

impl fmt::Debug for Visible {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Visible(..)")
    }
}

/// What is visible of a version under a grant.
#[derive(Debug)]
pub struct Figures {
    rows: usize,
    /// The least and the greatest value, by column; none where there is no value.
    ranges: BTreeMap<String, Option<(ScalarValue, ScalarValue)>>,
}

impl Figures {
    /// As statistics of columns of the version; `filtered`: where conditions have crossed the barrier.
    pub(super) fn statistics(&self, schema: &Schema, filtered: bool) -> Statistics {
        let column = |name: &String| {
            let Some(Some((least, greatest))) = self.ranges.get(name) else { return ColumnStatistics::new_unknown() };
            ColumnStatistics {
                min_value: Precision::Inexact(least.clone()),
                max_value: Precision::Inexact(greatest.clone()),
                ..ColumnStatistics::new_unknown()
            }
        };
        let rows = if filtered { self.rows.div_ceil(SELECTED) } else { self.rows };
        Statistics {
            num_rows: Precision::Inexact(rows),
            column_statistics: schema.fields().iter().map(|f| column(f.name())).collect(),
            ..Statistics::new_unknown(schema)
        }
    }
}

impl Visible {
    /// What was counted under a grant.
    pub(super) fn get(&self, at: &TableVersion, grant: Hash) -> Option<Arc<Figures>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(&(at.clone(), grant)).cloned()
    }

    /// How many versions and grants were counted under.
    #[cfg(test)]
    pub(crate) fn counted(&self) -> usize {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Counts what joins of `optimised` need and was not counted before, in the governed relations of `plan`, which is
    /// the same plan before it was optimised.
    pub async fn look(&self, plan: &LogicalPlan, optimised: &LogicalPlan, state: &SessionState) -> Result<()> {
        let keys = join_keys(optimised)?;
        if keys.is_empty() {
            return Ok(());
        }
        for barrier in barriers(plan)? {
            let ranged = |t: &DataType| {
                t.is_integer() || matches!(t, DataType::Date32 | DataType::Date64 | DataType::Timestamp(..))
            };
            let columns = barrier.schema().iter().filter(|(_, f)| keys.contains(f.name()) && ranged(f.data_type()));
            let mut wanted: Vec<Expr> = columns.map(|(q, f)| Expr::from((q, f))).collect();
            let known = self.get(barrier.at(), barrier.grant());
            wanted.retain(|e| known.as_ref().is_none_or(|k| !k.ranges.contains_key(&name(e))));
            if known.is_some() && wanted.is_empty() {
                continue;
            }
            let (rows, mut ranges) = figures(&barrier, &wanted, state).await?;
            ranges.extend(known.iter().flat_map(|k| k.ranges.clone()));
            let key = (barrier.at().clone(), barrier.grant());
            let figures = Arc::new(Figures { rows, ranges });
            self.0.lock().unwrap_or_else(PoisonError::into_inner).put(key, figures);
        }
        Ok(())
    }
}

fn name(column: &Expr) -> String {
    match column {
        Expr::Column(c) => c.name.clone(),
        other => other.to_string(),
    }
}

/// Names of columns that joins compare; empty where nothing is joined.
fn join_keys(plan: &LogicalPlan) -> Result<BTreeSet<String>> {
    let mut keys = BTreeSet::new();
    plan.apply_with_subqueries(|node| {
        if let LogicalPlan::Join(join) = node {
            for (left, right) in &join.on {
                keys.extend(left.column_refs().into_iter().chain(right.column_refs()).map(|c| c.name.clone()));
            }
        }
        Ok(TreeNodeRecursion::Continue)
    })?;
    Ok(keys)
}

/// The closed barriers over tables, but those with columns that may only be aggregated, and those whose rows depend on an
/// entitlement table: what it holds is not in the grant that figures are kept by.
fn barriers(plan: &LogicalPlan) -> Result<Vec<Barrier>> {
    let mut found: Vec<Barrier> = vec![];
    plan.apply_with_subqueries(|node| {
        let Some(barrier) = Barrier::of_plan(node) else { return Ok(TreeNodeRecursion::Continue) };
        if barrier.sealed() {
            return Ok(TreeNodeRecursion::Continue);
        }
        let seen = found.iter().any(|b| b.at() == barrier.at() && b.grant() == barrier.grant());
        if !barrier.open() && barrier.floor().is_none() && !seen && !asks_elsewhere(barrier)? {
            found.push(barrier.clone());
        }
        Ok(TreeNodeRecursion::Jump)
    })?;
    Ok(found)
}

/// Whether a row set below looks into another table.
fn asks_elsewhere(barrier: &Barrier) -> Result<bool> {
    let mut asks = false;
    barrier.input().apply_with_subqueries(|node| {
        node.apply_subqueries(|_| {
            asks = true;
            Ok(TreeNodeRecursion::Stop)
        })
    })?;
    Ok(asks)
}

type Counted = (usize, BTreeMap<String, Option<(ScalarValue, ScalarValue)>>);

async fn figures(barrier: &Barrier, columns: &[Expr], state: &SessionState) -> Result<Counted> {
    let ends = columns.iter().flat_map(|c| [min(c.clone()), max(c.clone())]);
    let wanted: Vec<Expr> = std::iter::once(count(lit(1_i64))).chain(ends).collect();
    let plan = LogicalPlanBuilder::from(barrier.clone().into_plan()).aggregate(Vec::<Expr>::new(), wanted)?.build()?;
    let physical = state.create_physical_plan(&plan).await?;
    let batches = collect(physical, state.task_ctx()).await?;
    let Some(batch) = batches.iter().find(|b| b.num_rows() == 1) else { return internal_err!("a count has one row") };
    let cell = |i: usize| ScalarValue::try_from_array(batch.column(i), 0);
    let ScalarValue::Int64(Some(rows)) = cell(0)? else { return internal_err!("a count is a number") };
    let mut ranges = BTreeMap::new();
    for (i, column) in columns.iter().enumerate() {
        let (least, greatest) = (cell(1 + 2 * i)?, cell(2 + 2 * i)?);
        ranges.insert(name(column), (!least.is_null()).then_some((least, greatest)));
    }
    debug_assert!(batches.iter().map(RecordBatch::num_rows).sum::<usize>() == 1);
    Ok((usize::try_from(rows).unwrap_or(usize::MAX), ranges))
}
