//! `ASOF JOIN` executed.
//!
//! Both inputs come partitioned by key. Where the right one is sorted by key and time already, as published versions are,
//! the left one is sorted too and each partition is one pass over both sides (`merge`), which holds one best right row.
//! Elsewhere the left side is held and right rows are looked up in it (`index`); if that does not fit into memory, both
//! sides are sorted, which spills, and merged. One key with a million rows costs no more than a million keys with one.

mod index;
mod merge;
#[cfg(test)]
mod tests;

use async_trait::async_trait;
use custody_dialect::{AsOfJoin, Matching};
use datafusion::{
    arrow::{
        compute::SortOptions,
        datatypes::{DataType, IntervalMonthDayNano, SchemaRef},
    },
    catalog::Session,
    common::{Column, DFSchema, Result, ScalarValue, internal_err, plan_err, tree_node::TreeNodeRecursion},
    execution::{SendableRecordBatchStream, TaskContext},
    logical_expr::{
        Expr, ExprSchemable, LogicalPlan, LogicalPlanBuilder, UserDefinedLogicalNode, lit,
        physical_planning_context::PhysicalPlanningContext, when,
    },
    physical_expr::{
        Distribution, EquivalenceProperties, LexOrdering, OrderingRequirements, PhysicalExpr, PhysicalSortExpr,
    },
    physical_plan::{
        DisplayAs, DisplayFormatType, ExecutionPlan, ExecutionPlanProperties, InputDistributionRequirements,
        PlanProperties,
        execution_plan::{
            Boundedness, CardinalityEffect, ChildrenPropertiesMode, EmissionType, ReplaceChildrenOptions,
            apply_expression_roots,
        },
        metrics::{BaselineMetrics, ExecutionPlanMetricsSet, MetricsSet},
    },
    physical_planner::{ExtensionPlanner, PhysicalPlanner},
};
use std::{
    fmt,
    sync::{Arc, PoisonError},
};

/// NULLs last, as published versions are sorted, so that their order is recognised.
const ORDER: SortOptions = SortOptions { descending: false, nulls_first: false };

/// Plans [`AsOfJoin`].
#[derive(Debug, Default)]
pub(crate) struct AsOfPlanner;

#[async_trait]
impl ExtensionPlanner for AsOfPlanner {
    async fn plan_extension(
        &self,
        planner: &dyn PhysicalPlanner,
        node: &dyn UserDefinedLogicalNode,
        _: &[&LogicalPlan],
        physical: &[Arc<dyn ExecutionPlan>],
        session: &dyn Session,
        context: &PhysicalPlanningContext,
    ) -> Result<Option<Arc<dyn ExecutionPlan>>> {
        let Some(join) = AsOfJoin::of(node) else { return Ok(None) };
        let [left, right] = physical else { return internal_err!("`AsOfJoin` has two inputs") };
        let over = |expr, plan: &LogicalPlan| planner.create_physical_expr(expr, plan.schema(), session, context);
        let on = join
            .on()
            .iter()
            .map(|(l, r)| Ok((over(l, join.left())?, over(r, join.right())?)))
            .collect::<Result<Vec<_>>>()?;
        let rank = match join.rank() {
            Some((event, known)) => Some((over(event, join.right())?, over(known, join.right())?)),
            None => None,
        };
        let matching = join.matching();
        let spec = Spec {
            on,
            left_time: over(join.left_time(), join.left())?,
            right_time: over(join.right_time(), join.right())?,
            strict: matching.strict && rank.is_none(),
            rank,
            ttl: matching.ttl.as_deref().map(interval).transpose()?,
        };
        let schema = Arc::new(join.schema().as_arrow().clone());
        let order = AsOfJoinExec::order(spec.on.iter().map(|(_, r)| Arc::clone(r)), &spec.right_time);
        let sorted = match order {
            Some(order) => right.equivalence_properties().ordering_satisfy(order)?,
            None => false,
        };
        let by = if sorted { By::Merge } else { By::Index };
        Ok(Some(Arc::new(AsOfJoinExec::try_new(Arc::clone(left), Arc::clone(right), spec, schema, by)?)))
    }
}

/// `5 years`, in calendar units.
pub(crate) fn interval(text: &str) -> Result<IntervalMonthDayNano> {
    use datafusion::arrow::datatypes::IntervalUnit;
    let unit = DataType::Interval(IntervalUnit::MonthDayNano);
    match ScalarValue::Utf8(Some(text.to_string())).cast_to(&unit)? {
        ScalarValue::IntervalMonthDayNano(Some(value)) => Ok(value),
        _ => plan_err!("`{text}` is not an interval"),
    }
}

/// How a feature's rows are seen from a spine.
pub(crate) struct Sight {
    /// Keys: a column of the spine, one of the feature.
    pub(crate) on: Vec<(Column, Column)>,
    /// Time of a spine row.
    pub(crate) at: Column,
    /// When a feature row became true.
    pub(crate) event: Column,
    /// When it became known.
    pub(crate) known: Option<Column>,
    /// Whether a row must have been known at the spine's time to match.
    pub(crate) respect_known: bool,
    pub(crate) matching: Matching,
}

const VISIBLE: &str = "__visible_from";

/// Each spine row with the newest feature row that it could see: by event, of equal events the one known later; after
/// that, one older than the TTL counts as none.
///
/// One ASOF join does it. A row is visible at T where event ≤ T and known ≤ T, so from the later of the two on: in the
/// order of that time, what is visible is a prefix, and the join keeps the greatest (event, known) of the prefix. Strictly
/// before T means event + 1 µs ≤ T.
pub(crate) fn point_in_time(spine: LogicalPlan, feature: LogicalPlan, sight: Sight) -> Result<LogicalPlan> {
    let time = custody_dialect::timestamp_type();
    let micros = |column: &Column, schema: &DFSchema| Expr::Column(column.clone()).cast_to(&time, schema);
    let at = micros(&sight.at, spine.schema())?;
    let event = micros(&sight.event, feature.schema())?;
    let known = sight.known.as_ref().map(|k| micros(k, feature.schema())).transpose()?;
    let mut visible = event.clone();
    if sight.matching.strict {
        visible = visible + lit(ScalarValue::new_interval_mdn(0, 0, 1_000));
    }
    if let Some(known) = known.clone().filter(|_| sight.respect_known) {
        visible = when(known.clone().gt(visible.clone()), known).otherwise(visible)?;
    }
    let mut columns: Vec<Expr> = feature.schema().columns().into_iter().map(Expr::Column).collect();
    columns.push(visible.alias(VISIBLE));
    let feature = LogicalPlanBuilder::from(feature).project(columns)?.build()?;
    let on = sight.on.into_iter().map(|(l, r)| (Expr::Column(l), Expr::Column(r))).collect();
    let rank = Some((event.clone(), known.unwrap_or(event)));
    let from = Expr::Column(Column::from_name(VISIBLE));
    let joined = AsOfJoin::try_new(spine, feature, on, (at, from), rank, sight.matching)?.into_plan();
    let columns: Vec<Expr> =
        joined.schema().columns().into_iter().filter(|c| c.name != VISIBLE).map(Expr::Column).collect();
    LogicalPlanBuilder::from(joined).project(columns)?.build()
}

/// What matches what.
#[derive(Clone, Debug)]
pub(crate) struct Spec {
    /// Keys, over left and over right.
    on: Vec<(Arc<dyn PhysicalExpr>, Arc<dyn PhysicalExpr>)>,
    left_time: Arc<dyn PhysicalExpr>,
    right_time: Arc<dyn PhysicalExpr>,
    /// Whether the right time must lie before the left one.
    strict: bool,
    /// Event and known time of a right row, where the right time is not the event.
    rank: Option<(Arc<dyn PhysicalExpr>, Arc<dyn PhysicalExpr>)>,
    ttl: Option<IntervalMonthDayNano>,
}

impl Spec {
    fn exprs(&self) -> impl Iterator<Item = &Arc<dyn PhysicalExpr>> {
        let keys = self.on.iter().flat_map(|(l, r)| [l, r]);
        let rank = self.rank.iter().flat_map(|(event, known)| [event, known]);
        keys.chain([&self.left_time, &self.right_time]).chain(rank)
    }
}

/// How a partition is joined.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum By {
    /// Both sides sorted.
    Merge,
    /// Right rows looked up among the left ones.
    Index,
}

/// The operator.
#[derive(Debug, Clone)]
pub(crate) struct AsOfJoinExec {
    left: Arc<dyn ExecutionPlan>,
    right: Arc<dyn ExecutionPlan>,
    spec: Arc<Spec>,
    schema: SchemaRef,
    by: By,
    properties: Arc<PlanProperties>,
    metrics: ExecutionPlanMetricsSet,
    sorts: index::Sorts,
}

impl AsOfJoinExec {
    fn try_new(
        left: Arc<dyn ExecutionPlan>,
        right: Arc<dyn ExecutionPlan>,
        spec: impl Into<Arc<Spec>>,
        schema: SchemaRef,
        by: By,
    ) -> Result<Self> {
        let width = left.schema().fields().len() + right.schema().fields().len();
        if schema.fields().len() != width {
            return internal_err!("`AsOfJoinExec`: {} columns for {width}", schema.fields().len());
        }
        // Left columns come first, and merged left rows in their order: what is known of them stays true.
        let of_left = left.equivalence_properties();
        let mut known = EquivalenceProperties::new(Arc::clone(&schema));
        known.add_equivalence_group(of_left.eq_group().clone())?;
        if by == By::Merge {
            known.add_orderings(of_left.oeq_class().clone());
        }
        let properties = PlanProperties::new(
            known,
            left.output_partitioning().clone(),
            EmissionType::Incremental,
            Boundedness::Bounded,
        );
        Ok(Self {
            left,
            right,
            spec: spec.into(),
            schema,
            by,
            properties: Arc::new(properties),
            metrics: ExecutionPlanMetricsSet::new(),
            sorts: index::Sorts::default(),
        })
    }

    fn order(keys: impl Iterator<Item = Arc<dyn PhysicalExpr>>, time: &Arc<dyn PhysicalExpr>) -> Option<LexOrdering> {
        LexOrdering::new(keys.chain([Arc::clone(time)]).map(|expr| PhysicalSortExpr { expr, options: ORDER }))
    }
}

impl DisplayAs for AsOfJoinExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let on: Vec<_> = self.spec.on.iter().map(|(l, r)| format!("{l} = {r}")).collect();
        let sign = if self.spec.strict { ">" } else { ">=" };
        write!(f, "AsOfJoinExec: {}, {} {sign} {}", on.join(", "), self.spec.left_time, self.spec.right_time)?;
        match self.by {
            By::Merge => write!(f, ", merged")?,
            By::Index => write!(f, ", looked up")?,
        }
        if let Some((event, known)) = &self.spec.rank {
            write!(f, ", newest by ({event}, {known})")?;
        }
        match &self.spec.ttl {
            Some(t) => write!(f, ", ttl {}m {}d {}ns", t.months, t.days, t.nanoseconds),
            None => Ok(()),
        }
    }
}

impl ExecutionPlan for AsOfJoinExec {
    fn name(&self) -> &str {
        "AsOfJoinExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn required_input_distribution(&self) -> Vec<Distribution> {
        self.input_distribution_requirements().into_per_child()
    }

    fn input_distribution_requirements(&self) -> InputDistributionRequirements {
        let (left, right) = self.spec.on.iter().map(|(l, r)| (Arc::clone(l), Arc::clone(r))).unzip();
        InputDistributionRequirements::co_partitioned(vec![
            Distribution::KeyPartitioned(left),
            Distribution::KeyPartitioned(right),
        ])
    }

    fn required_input_ordering(&self) -> Vec<Option<OrderingRequirements>> {
        if self.by == By::Index {
            return vec![None, None];
        }
        let left = Self::order(self.spec.on.iter().map(|(l, _)| Arc::clone(l)), &self.spec.left_time);
        let right = Self::order(self.spec.on.iter().map(|(_, r)| Arc::clone(r)), &self.spec.right_time);
        vec![left.map(OrderingRequirements::from), right.map(OrderingRequirements::from)]
    }

    fn maintains_input_order(&self) -> Vec<bool> {
        vec![self.by == By::Merge, false]
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![&self.left, &self.right]
    }

    fn apply_expressions(
        &self,
        f: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        apply_expression_roots(self.spec.exprs(), f)
    }

    fn replace_children(
        self: Arc<Self>,
        children: Vec<Arc<dyn ExecutionPlan>>,
        _: ReplaceChildrenOptions,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        match <[_; 2]>::try_from(children) {
            Ok([left, right]) => {
                Ok(Arc::new(Self::try_new(left, right, Arc::clone(&self.spec), Arc::clone(&self.schema), self.by)?))
            }
            Err(_) => internal_err!("`AsOfJoinExec` has two inputs"),
        }
    }

    fn with_new_children(self: Arc<Self>, children: Vec<Arc<dyn ExecutionPlan>>) -> Result<Arc<dyn ExecutionPlan>> {
        self.replace_children(children, ReplaceChildrenOptions::new(ChildrenPropertiesMode::Recompute))
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let counts = [&self.left, &self.right].map(|side| side.output_partitioning().partition_count());
        if counts[0] != counts[1] {
            return internal_err!("`AsOfJoinExec`: {} partitions against {}", counts[0], counts[1]);
        }
        let left = self.left.execute(partition, Arc::clone(&context))?;
        let right = self.right.execute(partition, Arc::clone(&context))?;
        let measured = BaselineMetrics::new(&self.metrics, partition);
        let (spec, schema) = (Arc::clone(&self.spec), Arc::clone(&self.schema));
        match self.by {
            By::Merge => merge::stream(left, right, spec, schema, measured),
            By::Index => {
                let join = index::Join { spec, schema, measured, context, sorts: Arc::clone(&self.sorts) };
                Ok(index::stream(left, right, join))
            }
        }
    }

    fn metrics(&self) -> Option<MetricsSet> {
        let mut metrics = self.metrics.clone_inner();
        for sort in self.sorts.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            let of_sort = sort.metrics().unwrap_or_default();
            of_sort.iter().filter(|m| m.value().name().starts_with("spill")).for_each(|m| metrics.push(Arc::clone(m)));
        }
        Some(metrics)
    }

    fn cardinality_effect(&self) -> CardinalityEffect {
        CardinalityEffect::Equal
    }
}
