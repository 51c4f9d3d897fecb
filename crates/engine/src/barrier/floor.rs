//! Runs a group floor: rows of groups with enough members pass, the others lose their group, and where together they
//! are still too few they are dropped.
//!
//! It holds all of its input, under the memory pool, since the last row may bring the member that a group lacks.

use async_trait::async_trait;
use custody_policy::FlooredGroups;
use datafusion::arrow::array::{Array, ArrayRef, BooleanArray, RecordBatch};
use datafusion::arrow::compute::{concat_batches, filter_record_batch, nullif};
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::arrow::row::{OwnedRow, RowConverter, SortField};
use datafusion::catalog::Session;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{DataFusionError, Result, internal_err};
use datafusion::execution::memory_pool::MemoryConsumer;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::logical_expr::physical_planning_context::PhysicalPlanningContext;
use datafusion::logical_expr::{LogicalPlan, UserDefinedLogicalNode};
use datafusion::physical_expr::{EquivalenceProperties, PhysicalExpr};
use datafusion::physical_plan::execution_plan::{
    Boundedness, ChildrenPropertiesMode, EmissionType, ReplaceChildrenOptions,
};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, Distribution, ExecutionPlan, Partitioning, PlanProperties,
};
use datafusion::physical_planner::{ExtensionPlanner, PhysicalPlanner};
use futures::{StreamExt, TryStreamExt};
use std::{
    collections::{HashMap, HashSet},
    fmt,
    sync::Arc,
};

/// Plans [`FlooredGroups`].
#[derive(Debug, Default)]
pub(super) struct FloorPlanner;

#[async_trait]
impl ExtensionPlanner for FloorPlanner {
    async fn plan_extension(
        &self,
        _: &dyn PhysicalPlanner,
        node: &dyn UserDefinedLogicalNode,
        _: &[&LogicalPlan],
        physical: &[Arc<dyn ExecutionPlan>],
        _: &dyn Session,
        _: &PhysicalPlanningContext,
    ) -> Result<Option<Arc<dyn ExecutionPlan>>> {
        let Some(floor) = FlooredGroups::of(node) else { return Ok(None) };
        let [input] = physical else { return internal_err!("a group floor has one input") };
        let (groups, key, values) = floor.positions()?;
        let schema = Arc::new(floor.schema().as_arrow().clone());
        let rule = Rule { least: floor.least(), groups, key, values };
        Ok(Some(Arc::new(GroupFloorExec::new(rule, schema, Arc::clone(input)))))
    }
}

/// Which columns make a group, a member and a value, and how many members a group needs.
#[derive(Clone, Debug)]
pub(super) struct Rule {
    pub(super) least: u64,
    pub(super) groups: Vec<usize>,
    pub(super) key: usize,
    /// For each aggregate the columns that must have a value for a member to count.
    pub(super) values: Vec<Vec<usize>>,
}

/// The floor of one aggregate.
#[derive(Debug)]
pub(super) struct GroupFloorExec {
    rule: Rule,
    input: Arc<dyn ExecutionPlan>,
    schema: SchemaRef,
    properties: Arc<PlanProperties>,
}

impl GroupFloorExec {
    fn new(rule: Rule, schema: SchemaRef, input: Arc<dyn ExecutionPlan>) -> Self {
        let properties = PlanProperties::new(
            EquivalenceProperties::new(Arc::clone(&schema)),
            Partitioning::UnknownPartitioning(1),
            EmissionType::Final,
            Boundedness::Bounded,
        );
        Self { rule, input, schema, properties: Arc::new(properties) }
    }
}

impl DisplayAs for GroupFloorExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "GroupFloorExec: at least {}", self.rule.least)
    }
}

impl ExecutionPlan for GroupFloorExec {
    fn name(&self) -> &str {
        "GroupFloorExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn required_input_distribution(&self) -> Vec<Distribution> {
        vec![Distribution::SinglePartition]
    }

    fn benefits_from_input_partitioning(&self) -> Vec<bool> {
        vec![false]
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![&self.input]
    }

    fn replace_children(
        self: Arc<Self>,
        children: Vec<Arc<dyn ExecutionPlan>>,
        _: ReplaceChildrenOptions,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        match <[_; 1]>::try_from(children) {
            Ok([input]) => Ok(Arc::new(Self::new(self.rule.clone(), self.schema(), input))),
            Err(_) => internal_err!("a group floor has one input"),
        }
    }

    fn with_new_children(self: Arc<Self>, children: Vec<Arc<dyn ExecutionPlan>>) -> Result<Arc<dyn ExecutionPlan>> {
        self.replace_children(children, ReplaceChildrenOptions::new(ChildrenPropertiesMode::Recompute))
    }

    fn apply_expressions(
        &self,
        _: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let reservation = MemoryConsumer::new("GroupFloorExec").register(context.memory_pool());
        let mut below = self.input.execute(partition, context)?;
        let (rule, schema, out) = (self.rule.clone(), self.schema(), self.schema());
        let batches = async move {
            let mut batches = vec![];
            while let Some(batch) = below.next().await.transpose()? {
                // The batch, and as much again for what is counted of it.
                reservation.try_grow(2 * batch.get_array_memory_size())?;
                batches.push(batch);
            }
            let floored = floored(&rule, &schema, &batches)?;
            let held = Arc::new(reservation);
            let kept = floored.into_iter().map(move |batch| {
                let _until_the_last = Arc::clone(&held);
                Ok(batch)
            });
            Ok::<_, DataFusionError>(futures::stream::iter(kept))
        };
        let batches = futures::stream::once(batches).try_flatten();
        Ok(Box::pin(RecordBatchStreamAdapter::new(out, batches)))
    }
}

/// Values as small numbers, equal where the values are.
struct Interned {
    converter: Option<RowConverter>,
    known: HashMap<OwnedRow, usize>,
}

impl Interned {
    fn of(schema: &SchemaRef, columns: &[usize]) -> Result<Self> {
        let fields: Vec<_> = columns.iter().map(|i| SortField::new(schema.field(*i).data_type().clone())).collect();
        let converter = if fields.is_empty() { None } else { Some(RowConverter::new(fields)?) };
        Ok(Self { converter, known: HashMap::new() })
    }

    fn numbers(&mut self, batch: &RecordBatch, columns: &[usize]) -> Result<Vec<usize>> {
        let Some(converter) = &self.converter else { return Ok(vec![0; batch.num_rows()]) };
        let arrays: Vec<ArrayRef> = columns.iter().map(|i| Arc::clone(batch.column(*i))).collect();
        let rows = converter.convert_columns(&arrays)?;
        let number = |row: datafusion::arrow::row::Row<'_>| {
            let next = self.known.len();
            *self.known.entry(row.owned()).or_insert(next)
        };
        Ok(rows.iter().map(number).collect())
    }
}

/// The rows that remain, with the groups that remain to them.
pub(super) fn floored(rule: &Rule, schema: &SchemaRef, batches: &[RecordBatch]) -> Result<Vec<RecordBatch>> {
    let Some(first) = batches.first() else { return Ok(vec![]) };
    let below = first.schema();
    let (mut groups, mut members) = (Interned::of(&below, &rule.groups)?, Interned::of(&below, &[rule.key])?);
    // One set of pairs for all rows, and one for each aggregate.
    let sets: Vec<Vec<usize>> = std::iter::once(vec![]).chain(rule.values.iter().cloned()).collect();
    let mut pairs: Vec<HashSet<(usize, usize)>> = vec![HashSet::new(); sets.len()];
    let mut of_row = vec![];
    for batch in batches {
        let (group, member) = (groups.numbers(batch, &rule.groups)?, members.numbers(batch, &[rule.key])?);
        for (needs, pairs) in sets.iter().zip(&mut pairs) {
            let columns: Vec<_> = needs.iter().chain([&rule.key]).map(|i| batch.column(*i)).collect();
            let counts = |row: &usize| columns.iter().all(|c| c.is_valid(*row));
            pairs.extend((0..batch.num_rows()).filter(counts).map(|row| (group[row], member[row])));
        }
        of_row.push(group);
    }
    let many = |counted: &HashMap<usize, u64>, group: usize| counted.get(&group).is_some_and(|n| *n >= rule.least);
    let mut counted = vec![];
    for pairs in &pairs {
        let mut count: HashMap<usize, u64> = HashMap::new();
        pairs.iter().for_each(|(group, _)| *count.entry(*group).or_default() += 1);
        counted.push(count);
    }
    let large = |group: usize| counted.iter().all(|count| many(count, group));
    let together = |pairs: &HashSet<(usize, usize)>| {
        let members: HashSet<usize> = pairs.iter().filter(|(group, _)| !large(*group)).map(|(_, m)| *m).collect();
        members.len() as u64 >= rule.least
    };
    let merged = pairs.iter().all(together);
    let mut out = vec![];
    for (batch, group) in batches.iter().zip(&of_row) {
        let rest: BooleanArray = group.iter().map(|g| Some(!large(*g))).collect();
        let column = |(i, array): (usize, &ArrayRef)| match rule.groups.contains(&i) {
            true => nullif(array, &rest),
            false => Ok(Arc::clone(array)),
        };
        let mut columns = batch.columns().iter().enumerate().map(column).collect::<Result<Vec<_>, _>>()?;
        columns.push(Arc::new(rest.clone()));
        let keep: BooleanArray = rest.iter().map(|r| Some(merged || r == Some(false))).collect();
        out.push(filter_record_batch(&RecordBatch::try_new(Arc::clone(schema), columns)?, &keep)?);
    }
    // One batch or none: where batches end, or that one is empty, would tell of rows that are gone.
    let one = concat_batches(schema, &out)?;
    Ok(if one.num_rows() > 0 { vec![one] } else { vec![] })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;
    use crate::barrier::twins::Random;
    use datafusion::arrow::array::Int64Array;
    use datafusion::arrow::datatypes::{DataType, Field, Schema};
    use std::collections::BTreeSet;

    type Row = [Option<i64>; 4];

    /// What remains of rows `(group, group, member, value)`, by plain loops.
    fn plainly(least: usize, rows: &[Row]) -> Vec<(Row, bool)> {
        let members = |of: &dyn Fn(&Row) -> bool, with_value: bool| {
            let counts = |r: &&Row| of(r) && (!with_value || r[3].is_some());
            rows.iter().filter(counts).filter_map(|r| r[2]).collect::<BTreeSet<_>>().len()
        };
        let enough = |of: &dyn Fn(&Row) -> bool| members(of, false) >= least && members(of, true) >= least;
        let large = |r: &Row| enough(&|o: &Row| o[..2] == r[..2]);
        let merged = enough(&|r: &Row| !large(r));
        let keep = |r: &Row| match (large(r), merged) {
            (true, _) => Some((*r, false)),
            (false, true) => Some(([None, None, r[2], r[3]], true)),
            (false, false) => None,
        };
        rows.iter().filter_map(keep).collect()
    }

    #[test]
    fn groups_are_merged_or_dropped_as_by_plain_loops() {
        let field = |name: &str| Field::new(name, DataType::Int64, true);
        let below = Arc::new(Schema::new(["g", "h", "k", "v"].map(field).to_vec()));
        let with_rest: Vec<Field> =
            ["g", "h", "k", "v"].map(field).into_iter().chain([Field::new("rest", DataType::Boolean, false)]).collect();
        let schema = Arc::new(Schema::new(with_rest));
        let mut random = Random(7);
        let (mut merged, mut dropped) = (0, 0);
        for _ in 0..300 {
            let least = 1 + random.below(5);
            let cell = |random: &mut Random, n: usize| random.chance(85).then(|| random.below(n) as i64);
            let rows: Vec<Row> = (0..random.below(40))
                .map(|_| [cell(&mut random, 4), cell(&mut random, 3), cell(&mut random, 9), cell(&mut random, 5)])
                .collect();
            let batch = |rows: &[Row]| {
                let column = |i: usize| Arc::new(rows.iter().map(|r| r[i]).collect::<Int64Array>()) as ArrayRef;
                RecordBatch::try_new(Arc::clone(&below), (0..4).map(column).collect()).unwrap()
            };
            let cut = random.below(rows.len() + 1);
            let batches = [batch(&rows[..cut]), batch(&rows[cut..])];
            let rule = Rule { least: least as u64, groups: vec![0, 1], key: 2, values: vec![vec![3]] };
            let got = floored(&rule, &schema, &batches).unwrap();
            let got = got.iter().flat_map(|b| {
                let cell = |i: usize, row: usize| {
                    let array = b.column(i).as_any().downcast_ref::<Int64Array>().unwrap();
                    array.is_valid(row).then(|| array.value(row))
                };
                let rest = b.column(4).as_any().downcast_ref::<BooleanArray>().unwrap().clone();
                (0..b.num_rows())
                    .map(|row| ([0, 1, 2, 3].map(|i| cell(i, row)), rest.value(row)))
                    .collect::<Vec<(Row, bool)>>()
            });
            let got: Vec<(Row, bool)> = got.collect();
            let want = plainly(least, &rows);
            assert_eq!(got, want, "{least} {rows:?}");
            merged += usize::from(want.iter().any(|(_, rest)| *rest));
            dropped += usize::from(want.len() < rows.len());
        }
        assert!(merged > 30 && dropped > 30, "{merged} merged, {dropped} dropped");
    }
}
