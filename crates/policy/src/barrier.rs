//! The logical barrier: what stands above a governed relation and lets nothing through that could show what it hides.
//!
//! INVARIANT: a closed barrier keeps every predicate and limit above it, and its schema is its own fields that are still
//! in its input, never more. Only `engine`'s `LeakproofPushdown` moves predicates below. An *open* barrier (all raw, all
//! rows) hides nothing and lets everything through. A *sealed* one, over a plain view's text, lets nothing through at all: what the
//! text computes may fail for rows that the reader does not see.

use crate::{
    enforce,
    floor::{Floor, KEY},
};
use custody_model::{FieldId, Hash, TableVersion, ViewId};
use datafusion_common::arrow::datatypes::{Field, FieldRef};
use datafusion_common::{DFSchema, DFSchemaRef, Result, TableReference, internal_err, plan_err};
use datafusion_expr::{
    Expr, Extension, InvariantLevel, LogicalPlan, Projection, UserDefinedLogicalNode, UserDefinedLogicalNodeCore,
};
use std::{cmp::Ordering, collections::HashSet, fmt, sync::Arc};

/// The top of a governed relation.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Barrier {
    at: TableVersion,
    grant: Hash,
    open: bool,
    /// Over the text of a plain view, below which other barriers stand: not even a leakproof predicate passes.
    sealed: bool,
    /// Whether conditions from above have crossed it.
    crossed: bool,
    fields: Vec<FieldId>,
    floor: Option<Floor>,
    schema: DFSchemaRef,
    input: Arc<LogicalPlan>,
}

impl Barrier {
    /// A barrier over `input`, whose columns are `fields`, in order. Fields that `masked` names are nullable.
    pub(crate) fn new(
        at: TableVersion,
        grant: Hash,
        open: bool,
        fields: Vec<FieldId>,
        masked: &HashSet<FieldId>,
        input: LogicalPlan,
    ) -> Result<Self> {
        if fields.len() != input.schema().fields().len() {
            return internal_err!("barrier of `{at}`: {} fields for {}", fields.len(), input.schema());
        }
        let columns = input.schema().iter().zip(&fields).map(|((qualifier, field), id)| {
            let nullable = field.is_nullable() || masked.contains(id);
            (qualifier.cloned(), with_nullability(field, nullable))
        });
        let schema = schema_of(columns.collect())?;
        Ok(Self { at, grant, open, sealed: false, crossed: false, fields, floor: None, schema, input: Arc::new(input) })
    }

    /// With columns that may only be aggregated.
    pub(crate) fn with_floor(self, floor: Option<Floor>) -> Self {
        Self { floor, ..self }
    }

    /// Over the text of a plain view.
    pub(crate) fn sealed_over(self) -> Self {
        Self { open: false, sealed: true, ..self }
    }

    /// With a condition from above in its input.
    pub fn crossed(self) -> Self {
        Self { crossed: true, ..self }
    }

    /// Whether conditions from above are in its input.
    pub fn is_crossed(&self) -> bool {
        self.crossed
    }

    /// Whether it stands over the text of a plain view: nothing passes it, and below it stand other barriers.
    pub fn sealed(&self) -> bool {
        self.sealed
    }

    /// The floor of its aggregate-only columns, where it has any.
    pub fn floor(&self) -> Option<&Floor> {
        self.floor.as_ref()
    }

    /// Whether the plan above keeps to its floor, as far as `floor::settle` has looked.
    pub fn is_settled(&self) -> bool {
        self.floor.as_ref().is_none_or(|f| f.settled)
    }

    pub(crate) fn settled(&self) -> Self {
        Self { floor: self.floor.clone().map(|f| Floor { settled: true, ..f }), ..self.clone() }
    }

    /// The same with the column that its floor counts as its last.
    pub(crate) fn with_key(&self) -> Result<Self> {
        let (Some(floor), LogicalPlan::Projection(p)) = (&self.floor, self.input.as_ref()) else {
            return internal_err!("barrier of `{}` has nothing to count", self.at);
        };
        let (column, field) = &floor.counting;
        let key = Expr::Column(column.clone()).alias_qualified(column.relation.clone(), KEY);
        let exprs = p.expr.iter().cloned().chain([key]).collect();
        let input = LogicalPlan::Projection(Projection::try_new(exprs, Arc::clone(&p.input))?);
        let mut columns: Vec<_> = self.schema.iter().map(|(q, f)| (q.cloned(), Arc::clone(f))).collect();
        columns.extend(input.schema().iter().last().map(|(q, f)| (q.cloned(), Arc::clone(f))));
        let fields = self.fields.iter().copied().chain([*field]).collect();
        Ok(Self { fields, schema: schema_of(columns)?, input: Arc::new(input), ..self.clone() })
    }

    /// The table version below.
    pub fn at(&self) -> &TableVersion {
        &self.at
    }

    /// The hash of the decision.
    pub fn grant(&self) -> Hash {
        self.grant
    }

    /// Whether it hides nothing.
    pub fn open(&self) -> bool {
        self.open
    }

    /// The field of each output column.
    pub fn fields(&self) -> &[FieldId] {
        &self.fields
    }

    /// Its columns.
    pub fn schema(&self) -> &DFSchemaRef {
        &self.schema
    }

    /// What is below.
    pub fn input(&self) -> &Arc<LogicalPlan> {
        &self.input
    }

    /// Where each output column is in the input, which may have more columns or another order.
    pub fn positions(&self) -> Result<Vec<usize>> {
        self.schema
            .iter()
            .enumerate()
            .map(|(near, (qualifier, field))| match position(self.input.schema(), near, qualifier, field) {
                Some(i) => Ok(i),
                None => internal_err!("barrier of `{}`: column `{}` left its input", self.at, field.name()),
            })
            .collect()
    }

    /// The same barrier over another input: its own fields that are still there, and no others.
    pub fn over(&self, input: LogicalPlan) -> Result<Self> {
        // Every rule of the optimizer puts every node anew over what is mostly the same.
        if enforce!("barrier.schema", true) && Arc::ptr_eq(input.schema(), self.input.schema()) {
            return Ok(Self { input: Arc::new(input), ..self.clone() });
        }
        let mut fields = vec![];
        let mut columns = vec![];
        for (near, ((qualifier, field), id)) in self.schema.iter().zip(&self.fields).enumerate() {
            if let Some(i) = position(input.schema(), near, qualifier, field) {
                let below = input.schema().field(i);
                fields.push(*id);
                columns.push((qualifier.cloned(), with_nullability(below, field.is_nullable() || below.is_nullable())));
            }
        }
        if !enforce!("barrier.schema", true) {
            for (i, (qualifier, field)) in input.schema().iter().enumerate() {
                if !columns.iter().any(|(q, f)| q.as_ref() == qualifier && f.name() == field.name()) {
                    fields.push(FieldId(i as u32));
                    columns.push((qualifier.cloned(), Arc::clone(field)));
                }
            }
        }
        let schema = schema_of(columns)?;
        Ok(Self { fields, schema, input: Arc::new(input), ..self.clone() })
    }

    /// The barrier in this node, where it is one.
    pub fn of(node: &dyn UserDefinedLogicalNode) -> Option<&Self> {
        node.as_any().downcast_ref()
    }

    /// The barrier in this plan's top node, where it is one.
    pub fn of_plan(plan: &LogicalPlan) -> Option<&Self> {
        match plan {
            LogicalPlan::Extension(e) => Self::of(e.node.as_ref()),
            _ => None,
        }
    }

    /// As a plan.
    pub fn into_plan(self) -> LogicalPlan {
        LogicalPlan::Extension(Extension { node: Arc::new(self) })
    }
}

/// Where a column is in a schema; most are where they were, `near`. A schema has a qualified name once.
fn position(schema: &DFSchema, near: usize, qualifier: Option<&TableReference>, field: &Field) -> Option<usize> {
    let is = |(q, f): (Option<&TableReference>, &FieldRef)| q == qualifier && f.name() == field.name();
    if near < schema.fields().len() && is(schema.qualified_field(near)) {
        return Some(near);
    }
    schema.iter().position(is)
}

fn with_nullability(field: &FieldRef, nullable: bool) -> FieldRef {
    if field.is_nullable() == nullable {
        Arc::clone(field)
    } else {
        Arc::new(field.as_ref().clone().with_nullable(nullable))
    }
}

/// Without functional dependencies and metadata: they would tell about rows that are not there.
fn schema_of(columns: Vec<(Option<TableReference>, FieldRef)>) -> Result<DFSchemaRef> {
    Ok(Arc::new(DFSchema::new_with_metadata(columns, Default::default())?))
}

impl fmt::Debug for Barrier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        UserDefinedLogicalNodeCore::fmt_for_explain(self, f)
    }
}

impl PartialOrd for Barrier {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        if self == other {
            return Some(Ordering::Equal);
        }
        let key = |b: &Self| (b.at.clone(), b.grant, b.open, b.sealed, b.fields.clone());
        match key(self).cmp(&key(other)) {
            Ordering::Equal => self.input.partial_cmp(&other.input).filter(|o| o.is_ne()),
            unequal => Some(unequal),
        }
    }
}

impl UserDefinedLogicalNodeCore for Barrier {
    fn name(&self) -> &str {
        "Barrier"
    }

    fn inputs(&self) -> Vec<&LogicalPlan> {
        vec![&self.input]
    }

    fn schema(&self) -> &DFSchemaRef {
        &self.schema
    }

    fn check_invariants(&self, _: InvariantLevel) -> Result<()> {
        if self.fields.len() != self.schema.fields().len() {
            return internal_err!("barrier of `{}`: fields and columns differ", self.at);
        }
        self.positions().map(|_| ())
    }

    fn expressions(&self) -> Vec<Expr> {
        vec![]
    }

    fn prevent_predicate_push_down_columns(&self) -> HashSet<String> {
        if enforce!("barrier.predicates", !self.open) {
            self.schema.fields().iter().map(|f| f.name().clone()).collect()
        } else {
            HashSet::new()
        }
    }

    fn fmt_for_explain(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Barrier: {} grant={}", self.at, self.grant.short())
    }

    fn with_exprs_and_inputs(&self, exprs: Vec<Expr>, inputs: Vec<LogicalPlan>) -> Result<Self> {
        match <[LogicalPlan; 1]>::try_from(inputs) {
            Ok([input]) if exprs.is_empty() => self.over(input),
            _ => plan_err!("a barrier has one input and no expressions"),
        }
    }

    fn necessary_children_exprs(&self, output_columns: &[usize]) -> Option<Vec<Vec<usize>>> {
        let positions = self.positions().ok()?;
        output_columns.iter().map(|i| positions.get(*i).copied()).collect::<Option<_>>().map(|needed| vec![needed])
    }

    fn supports_limit_pushdown(&self) -> bool {
        !enforce!("barrier.limit", !self.open)
    }
}

/// The top of a plain view's text: an identity that lineage reads and the physical plan does not have.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Debug)]
pub struct ViewBoundary {
    view: ViewId,
    input: Arc<LogicalPlan>,
}

impl ViewBoundary {
    /// The boundary of `view` over its planned text.
    pub fn new(view: ViewId, input: LogicalPlan) -> Self {
        Self { view, input: Arc::new(input) }
    }

    /// The view.
    pub fn view(&self) -> &ViewId {
        &self.view
    }

    /// Its planned text.
    pub fn input(&self) -> &LogicalPlan {
        &self.input
    }

    pub(crate) fn over(&self, input: LogicalPlan) -> Self {
        Self::new(self.view.clone(), input)
    }

    /// The boundary in this node, where it is one.
    pub fn of(node: &dyn UserDefinedLogicalNode) -> Option<&Self> {
        node.as_any().downcast_ref()
    }

    /// As a plan.
    pub fn into_plan(self) -> LogicalPlan {
        LogicalPlan::Extension(Extension { node: Arc::new(self) })
    }
}

impl UserDefinedLogicalNodeCore for ViewBoundary {
    fn name(&self) -> &str {
        "View"
    }

    fn inputs(&self) -> Vec<&LogicalPlan> {
        vec![&self.input]
    }

    fn schema(&self) -> &DFSchemaRef {
        self.input.schema()
    }

    fn expressions(&self) -> Vec<Expr> {
        vec![]
    }

    fn prevent_predicate_push_down_columns(&self) -> HashSet<String> {
        HashSet::new()
    }

    fn fmt_for_explain(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "View: {}", self.view)
    }

    fn with_exprs_and_inputs(&self, exprs: Vec<Expr>, inputs: Vec<LogicalPlan>) -> Result<Self> {
        match <[LogicalPlan; 1]>::try_from(inputs) {
            Ok([input]) if exprs.is_empty() => Ok(Self::new(self.view.clone(), input)),
            _ => plan_err!("a view has one input and no expressions"),
        }
    }

    fn necessary_children_exprs(&self, output_columns: &[usize]) -> Option<Vec<Vec<usize>>> {
        Some(vec![output_columns.to_vec()])
    }

    fn supports_limit_pushdown(&self) -> bool {
        true
    }
}
