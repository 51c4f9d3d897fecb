//! Looks at the finished plan, after the last physical rule, and refuses it where a barrier failed.
//!
//! Each storage leaf stands under exactly one barrier, whose decision was recorded; below a closed barrier stand only
//! nodes and expressions that are listed here. The text of a plain view, below a sealed barrier, is a plan of its own and is looked
//! at as one.

use super::{exec::BarrierExec, leakproof};
use custody_model::{Hash, TableVersion};
use custody_policy::{enforce, mask::is_mask_function};
use datafusion::arrow::datatypes::{DataType, Schema};
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{Result, internal_err};
use datafusion::datasource::memory::MemorySourceConfig;
use datafusion::datasource::source::DataSourceExec;
use datafusion::physical_expr::expressions as physical;
use datafusion::physical_expr::{PhysicalExpr, ScalarFunctionExpr};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::joins::HashJoinExec;
use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, PoisonError},
};

/// Decisions recorded for a statement: only under these may it read storage. An extension of the session's config.
#[derive(Debug, Default)]
pub struct Decisions(Mutex<BTreeSet<(TableVersion, Hash)>>);

impl Decisions {
    /// Notes that `grant` was decided for `at`.
    pub fn record(&self, at: &TableVersion, grant: Hash) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert((at.clone(), grant));
    }

    fn has(&self, at: &TableVersion, grant: Hash) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).contains(&(at.clone(), grant))
    }
}

/// Nodes that may stand below a closed barrier: they move, filter or project rows.
const BELOW: &[&str] = &[
    "BufferExec",
    "CoalesceBatchesExec",
    "CoalescePartitionsExec",
    "CooperativeExec",
    "DeltaScan",
    "DeltaScanExec",
    "FilterExec",
    "HashJoinExec",
    "ProjectionExec",
    "RepartitionExec",
    "SortExec",
    "SortPreservingMergeExec",
    "UnionExec",
];

/// Leaves that read tables.
const STORAGE: &[&str] = &["AuditExec", "DataSourceExec", "SourceScan", "StreamingTableExec"];

/// Leaves that make rows from the statement alone, or none.
const FREE: &[&str] = &["EmptyExec", "ExplainExec", "LazyMemoryExec", "PlaceholderRowExec", "WorkTableExec"];

/// Refuses the plan where a leaf is not under exactly one barrier, a barrier's decision is not among `decisions`, or
/// something unknown is below a closed barrier.
pub fn check(plan: &Arc<dyn ExecutionPlan>, decisions: &Decisions) -> Result<()> {
    if !settled(plan) {
        return internal_err!("a filter that still changes passes a closed barrier");
    }
    check_node(plan, decisions, &[])
}

/// Whether every dynamic filter that passes a closed barrier is a hash join's, which is complete before the other side
/// is read.
///
/// INVARIANT: what a filter lets through depends on visible rows only. That of a TopK or an aggregate tightens while
/// rows are read, and how far it has come when a visible row is looked at depends on the hidden rows before it: which of
/// several equal rows is kept, and which row meets a fallible expression, would tell.
pub(super) fn settled(plan: &Arc<dyn ExecutionPlan>) -> bool {
    let (mut joins, mut passed) = (BTreeSet::new(), vec![]);
    dynamic_filters(plan, &mut joins, &mut passed);
    !enforce!("check.settled", !passed.iter().all(|id| id.is_some_and(|id| joins.contains(&id))))
}

fn dynamic_filters(plan: &Arc<dyn ExecutionPlan>, joins: &mut BTreeSet<u64>, passed: &mut Vec<Option<u64>>) {
    if plan.is::<HashJoinExec>() {
        joins.extend(plan.dynamic_expressions_produced().iter().filter_map(|e| e.expression_id()));
    }
    if let Some(barrier) = plan.downcast_ref::<BarrierExec>().filter(|b| !b.open()) {
        barrier.filters().iter().for_each(|filter| identities(filter, passed));
    }
    plan.children().into_iter().for_each(|child| dynamic_filters(child, joins, passed));
}

fn identities(e: &Arc<dyn PhysicalExpr>, out: &mut Vec<Option<u64>>) {
    if e.is::<physical::DynamicFilterPhysicalExpr>() {
        out.push(e.expression_id());
    }
    e.children().into_iter().for_each(|child| identities(child, out));
}

fn check_node(plan: &Arc<dyn ExecutionPlan>, decisions: &Decisions, above: &[&BarrierExec]) -> Result<()> {
    if let Some(barrier) = plan.downcast_ref::<BarrierExec>() {
        if enforce!("check.decisions", !decisions.has(barrier.at(), barrier.grant())) {
            return internal_err!("no decision is recorded for `{}`", barrier.at());
        }
        if barrier.sealed() {
            return check_node(barrier.input(), decisions, &[]);
        }
        let inner: Vec<_> = above.iter().copied().chain([barrier]).collect();
        return check_node(barrier.input(), decisions, &inner);
    }
    let leaf = plan.children().is_empty();
    if leaf {
        check_leaf(plan, above)?;
    }
    if above.iter().any(|b| !b.open()) {
        if !leaf && enforce!("check.expressions", !BELOW.contains(&plan.name())) {
            return internal_err!("`{}` is not known below a barrier", plan.name());
        }
        check_expressions(plan)?;
    }
    plan.children().into_iter().try_for_each(|child| check_node(child, decisions, above))
}

fn check_leaf(plan: &Arc<dyn ExecutionPlan>, above: &[&BarrierExec]) -> Result<()> {
    let name = plan.name();
    if FREE.contains(&name) {
        return Ok(());
    }
    if enforce!("check.leaves", !STORAGE.contains(&name)) {
        return internal_err!("`{name}` is not a known leaf");
    }
    match above.len() {
        1 => Ok(()),
        0 if holds_values(plan) || !enforce!("check.leaves", true) => Ok(()),
        n => internal_err!("`{name}` is under {n} barriers, not one"),
    }
}

/// `VALUES` is rows in memory too; that no table in memory comes without a barrier is checked on the logical plan.
fn holds_values(plan: &Arc<dyn ExecutionPlan>) -> bool {
    plan.downcast_ref::<DataSourceExec>().is_some_and(|e| e.data_source().is::<MemorySourceConfig>())
}

fn check_expressions(plan: &Arc<dyn ExecutionPlan>) -> Result<()> {
    let schemas: Vec<_> = match plan.children().as_slice() {
        [] => vec![plan.schema()],
        children => children.iter().map(|c| c.schema()).collect(),
    };
    plan.apply_expressions(&mut |e| {
        if enforce!("check.expressions", !schemas.iter().any(|s| known(e, s))) {
            return internal_err!("an expression of `{}` is not known below a barrier", plan.name());
        }
        Ok(TreeNodeRecursion::Continue)
    })?;
    Ok(())
}

/// Total on every row: leakproof operators, masks, casts that cannot fail, TRY_CAST.
fn known(e: &Arc<dyn PhysicalExpr>, schema: &Schema) -> bool {
    let itself = if let Some(cast) = e.downcast_ref::<physical::CastExpr>() {
        cast.expr().data_type(schema).is_ok_and(|from| cannot_fail(&from, cast.cast_type()))
    } else if let Some(f) = e.downcast_ref::<ScalarFunctionExpr>() {
        is_mask_function(f.fun())
    } else if let Some(b) = e.downcast_ref::<physical::BinaryExpr>() {
        leakproof::is_total(*b.op())
    } else {
        e.is::<physical::Column>()
            || e.is::<physical::Literal>()
            || e.is::<physical::NotExpr>()
            || e.is::<physical::IsNullExpr>()
            || e.is::<physical::IsNotNullExpr>()
            || e.is::<physical::InListExpr>()
            || e.is::<physical::LikeExpr>()
            || e.is::<physical::TryCastExpr>()
            || e.is::<physical::DynamicFilterPhysicalExpr>()
    };
    itself && e.children().into_iter().all(|c| known(c, schema))
}

/// Casts between text types, to wider integers and from integers to floats have a result for every value.
fn cannot_fail(from: &DataType, to: &DataType) -> bool {
    let text = |t: &DataType| matches!(t, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View);
    let float = |t: &DataType| matches!(t, DataType::Float32 | DataType::Float64);
    let wider = |from: &DataType, to: &DataType| match (from.primitive_width(), to.primitive_width()) {
        (Some(a), Some(b)) => {
            let signs = (from.is_signed_integer(), to.is_signed_integer());
            (signs.0 == signs.1 && a <= b) || (!signs.0 && signs.1 && a < b)
        }
        _ => false,
    };
    from == to
        || (text(from) && text(to))
        || (from.is_integer() && to.is_integer() && wider(from, to))
        || ((from.is_integer() || float(from)) && float(to))
        || *from == DataType::Null
}
