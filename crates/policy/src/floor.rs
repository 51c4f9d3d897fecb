//! Group floors: columns that may only be aggregated are read in groups of enough members, and in no other way.
//!
//! A governed relation with such columns says so (`Barrier::floor`). [`settle`] walks the plan before lineage, the
//! optimizer or anybody else has looked at it, and follows these columns:
//!
//! - They may pass bare through projections, aliases, views and `WITH`, and stand in a `WHERE` of comparisons with columns
//!   and literals. Which rows are left then depends on them, so the whole relation is bound for an aggregate.
//! - An aggregate that reads one, groups by one or stands over such a relation gets a [`FlooredGroups`] below it. It may call
//!   `count`, `sum`, `avg`, `stddev` and `corr` on bare columns and literals, without `FILTER`, order or grouping sets.
//! - Anything else is refused. What an aggregate over one gives is an answer like any other.
//!
//! INVARIANT: a plan whose barriers have columns of this rung and were not settled is refused before it runs.

mod node;

pub use node::FlooredGroups;

use crate::{barrier::Barrier, barrier::ViewBoundary, enforce};
use custody_model::FieldId;
use datafusion_common::arrow::datatypes::{DataType, Field};
use datafusion_common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion_common::{Column, DFSchema, DFSchemaRef, DataFusionError, ExprSchema, Result, internal_err, plan_err};
use datafusion_expr::expr::AggregateFunction;
use datafusion_expr::logical_plan::{Aggregate, Subquery, SubqueryAlias};
use datafusion_expr::{
    Between, BinaryExpr, Expr, Extension, Filter, Like, LogicalPlan, Operator, Projection, expr::InList,
};
use std::{collections::BTreeSet, fmt, sync::Arc};

/// The floor of a governed relation: what its aggregate-only columns ask for.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Floor {
    /// Distinct members that a group needs.
    pub least: u64,
    /// The columns that may only be aggregated.
    pub only: BTreeSet<FieldId>,
    /// Whose distinct values are members: a column of the projection's input, and its field.
    pub(crate) counting: (Column, FieldId),
    /// Whether the plan above was looked at.
    pub(crate) settled: bool,
}

/// An aggregate-only column is read in another way.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FloorRefusal {
    /// Which column.
    pub column: String,
    /// How large groups must be.
    pub least: u64,
}

impl fmt::Display for FloorRefusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "column `{}` is visible only in groups of at least {}", self.column, self.least)
    }
}

impl std::error::Error for FloorRefusal {}

/// The name under which the counted column travels to its floor.
pub(crate) const KEY: &str = "__custody_member";
/// The column that tells merged groups from others.
const REST: &str = "__custody_rest";

/// The functions that may read an aggregate-only column, or stand beside one that does.
const FUNCTIONS: &[&str] = &["avg", "corr", "count", "stddev", "stddev_pop", "sum"];

/// Puts a floor below each aggregate that needs one, and refuses every other use of aggregate-only columns.
pub fn settle(plan: LogicalPlan) -> Result<LogicalPlan> {
    if !has_floor(&plan)? {
        return Ok(plan);
    }
    let walked = walk(plan, &[])?;
    walked.released()?;
    Ok(walked.plan)
}

fn has_floor(plan: &LogicalPlan) -> Result<bool> {
    let mut found = false;
    plan.apply_with_subqueries(|node| {
        found |= Barrier::of_plan(node).is_some_and(|b| b.floor().is_some());
        Ok(if found { TreeNodeRecursion::Stop } else { TreeNodeRecursion::Continue })
    })?;
    Ok(found)
}

type Hidden = Arc<FloorRefusal>;

/// What may be done with a column.
#[derive(Clone, Debug)]
enum State {
    /// Anything.
    Free,
    /// It may reach an aggregate.
    Only(Hidden),
    /// Nothing: it went through a node that an aggregate-only column may not go through.
    Lost(Hidden),
}

impl State {
    fn hidden(&self) -> Option<&Hidden> {
        match self {
            Self::Free => None,
            Self::Only(hidden) | Self::Lost(hidden) => Some(hidden),
        }
    }

    fn lost(self) -> Self {
        match self {
            Self::Only(hidden) => Self::Lost(hidden),
            other => other,
        }
    }
}

/// A plan with the state of each of its columns.
struct Walked {
    plan: LogicalPlan,
    columns: Vec<State>,
    /// Which rows there are depends on this column.
    bound: Option<Hidden>,
    /// Only projections, filters and aliases stand between here and one barrier with a floor.
    chain: bool,
    /// Something in the chain refers to an outer query.
    outer: bool,
    /// Something in the chain is computed, and could fail for a row.
    computed: bool,
}

impl Walked {
    fn of(plan: LogicalPlan, columns: Vec<State>) -> Self {
        Self { plan, columns, bound: None, chain: false, outer: false, computed: false }
    }

    /// Nothing of it still needs an aggregate.
    fn released(&self) -> Result<()> {
        self.bound.iter().chain(self.columns.iter().filter_map(State::hidden)).try_for_each(refuse)
    }

    fn state(&self, column: &Column) -> Option<&State> {
        self.columns.get(self.plan.schema().index_of_column(column).ok()?)
    }
}

fn refuse(hidden: &Hidden) -> Result<()> {
    if enforce!("floor.refused", true) {
        return Err(DataFusionError::External(Box::new(hidden.as_ref().clone())));
    }
    Ok(())
}

/// The columns that an enclosing query offers to a subquery.
#[derive(Clone)]
struct Scope {
    schema: DFSchemaRef,
    columns: Vec<State>,
}

impl Scope {
    fn of(walked: &Walked) -> Self {
        Self { schema: Arc::clone(walked.plan.schema()), columns: walked.columns.clone() }
    }
}

fn walk(plan: LogicalPlan, scopes: &[Scope]) -> Result<Walked> {
    if let Some(barrier) = Barrier::of_plan(&plan) {
        return barrier_below(barrier);
    }
    let mut inputs = plan.inputs().into_iter().cloned().map(|i| walk(i, scopes)).collect::<Result<Vec<_>>>()?;
    let here: Vec<Scope> = inputs.iter().map(Scope::of).collect();
    let outer = check_outer(&plan, scopes)?;
    let within: Vec<Scope> = scopes.iter().cloned().chain(here.iter().cloned()).collect();
    let plan = over(plan, &inputs)?.map_subqueries(|subquery| walk_subquery(subquery, &within))?.data;
    match (plan, inputs.as_mut_slice()) {
        (LogicalPlan::SubqueryAlias(a), [input]) => {
            let plan = LogicalPlan::SubqueryAlias(SubqueryAlias::try_new(a.input, a.alias)?);
            Ok(Walked { plan, outer: outer || input.outer, ..take(input) })
        }
        (LogicalPlan::Extension(e), [input]) if ViewBoundary::of(e.node.as_ref()).is_some() => {
            Ok(Walked { plan: LogicalPlan::Extension(e), ..take(input) })
        }
        (LogicalPlan::Projection(p), [input]) => projection(p, take(input), outer),
        (LogicalPlan::Filter(f), [input]) => filter(f, take(input), outer),
        (LogicalPlan::Aggregate(a), [input]) => aggregate(a, take(input), outer),
        (plan, inputs) => other(plan, inputs),
    }
}

fn take(input: &mut Walked) -> Walked {
    Walked {
        plan: input.plan.clone(),
        columns: std::mem::take(&mut input.columns),
        bound: input.bound.take(),
        chain: input.chain,
        outer: input.outer,
        computed: input.computed,
    }
}

/// The node over its walked inputs.
fn over(plan: LogicalPlan, inputs: &[Walked]) -> Result<LogicalPlan> {
    let mut next = inputs.iter();
    let plan = plan.map_children(|child| match next.next() {
        Some(walked) => Ok(Transformed::yes(walked.plan.clone())),
        None => Ok(Transformed::no(child)),
    })?;
    match &plan.data {
        LogicalPlan::SubqueryAlias(_) | LogicalPlan::Extension(_) => Ok(plan.data),
        _ => plan.data.recompute_schema(),
    }
}

fn barrier_below(barrier: &Barrier) -> Result<Walked> {
    let Some(floor) = barrier.floor() else {
        let columns = vec![State::Free; barrier.fields().len()];
        return Ok(Walked::of(barrier.clone().into_plan(), columns));
    };
    let state = |(field, column): (&FieldId, &Arc<Field>)| match floor.only.contains(field) {
        true => State::Only(Arc::new(FloorRefusal { column: column.name().clone(), least: floor.least })),
        false => State::Free,
    };
    let columns = barrier.fields().iter().zip(barrier.schema().fields()).map(state).collect();
    Ok(Walked { chain: true, ..Walked::of(barrier.settled().into_plan(), columns) })
}

/// A subquery gives its rows and values to the query around it, so nothing of it may still need an aggregate.
fn walk_subquery(subquery: LogicalPlan, scopes: &[Scope]) -> Result<Transformed<LogicalPlan>> {
    let LogicalPlan::Subquery(s) = subquery else { return plan_err!("a subquery is a subquery") };
    let walked = walk(s.subquery.as_ref().clone(), scopes)?;
    walked.released()?;
    Ok(Transformed::yes(LogicalPlan::Subquery(Subquery { subquery: Arc::new(walked.plan), ..s })))
}

/// References to enclosing queries are to free columns; whether there are any.
fn check_outer(plan: &LogicalPlan, scopes: &[Scope]) -> Result<bool> {
    let mut found = false;
    let mut look = |e: &Expr| {
        let Expr::OuterReferenceColumn(_, column) = e else { return Ok(TreeNodeRecursion::Continue) };
        found = true;
        for scope in scopes {
            if let Some(i) = scope.schema.maybe_index_of_column(column) {
                scope.columns.get(i).and_then(State::hidden).map_or(Ok(()), refuse)?;
            }
        }
        Ok(TreeNodeRecursion::Continue)
    };
    for expr in plan.expressions() {
        expr.apply(&mut look)?;
    }
    if let LogicalPlan::Subquery(s) = plan {
        s.outer_ref_columns.iter().try_for_each(|e| look(e).map(|_| ()))?;
    }
    Ok(found)
}

/// The columns that an expression reads of an input that are not free.
fn reads<'a>(expr: &Expr, input: &'a Walked) -> Result<Vec<&'a State>> {
    let mut found = vec![];
    expr.apply(|e| {
        if let Expr::Column(column) = e
            && let Some(state) = input.state(column).filter(|s| s.hidden().is_some())
        {
            found.push(state);
        }
        Ok(TreeNodeRecursion::Continue)
    })?;
    Ok(found)
}

fn bare(expr: &Expr) -> Option<&Column> {
    match expr {
        Expr::Alias(alias) => bare(&alias.expr),
        Expr::Column(column) => Some(column),
        _ => None,
    }
}

fn literal(expr: &Expr) -> bool {
    match expr {
        Expr::Alias(alias) => literal(&alias.expr),
        other => matches!(other, Expr::Literal(..)),
    }
}

fn has_subquery(expr: &Expr) -> Result<bool> {
    expr.exists(|e| {
        let is = matches!(
            e,
            Expr::Exists(_)
                | Expr::InSubquery(_)
                | Expr::ScalarSubquery(_)
                | Expr::SetComparison(_)
                | Expr::OuterReferenceColumn(..)
        );
        Ok(is)
    })
}

fn projection(p: Projection, input: Walked, outer: bool) -> Result<Walked> {
    let mut columns = vec![];
    let mut computed = input.computed;
    for expr in &p.expr {
        if let Some(column) = bare(expr) {
            columns.push(input.state(column).cloned().unwrap_or(State::Free));
            continue;
        }
        reads(expr, &input)?.into_iter().filter_map(State::hidden).try_for_each(refuse)?;
        // What is computed from rows that were chosen by the column could fail for one of them.
        input.bound.iter().filter(|_| !literal(expr)).try_for_each(refuse)?;
        computed |= !literal(expr);
        columns.push(State::Free);
    }
    let chain = input.chain && !p.expr.iter().map(has_subquery).collect::<Result<Vec<_>>>()?.contains(&true);
    let columns = if chain { columns } else { columns.into_iter().map(State::lost).collect() };
    let outer = outer || input.outer;
    Ok(Walked { plan: LogicalPlan::Projection(p), columns, bound: input.bound, chain, outer, computed })
}

fn filter(f: Filter, input: Walked, outer: bool) -> Result<Walked> {
    let read = reads(&f.predicate, &input)?;
    let mut bound = input.bound.clone();
    let total = comparison(&f.predicate, f.input.schema());
    for state in &read {
        match state {
            // What is computed could be spared a row that the column does not choose, and then not fail.
            State::Only(hidden) if input.chain && total && !input.computed => bound = Some(Arc::clone(hidden)),
            other => other.hidden().map_or(Ok(()), refuse)?,
        }
    }
    if !total {
        input.bound.iter().try_for_each(refuse)?;
    }
    let computed = input.computed || !total;
    let chain = input.chain && !has_subquery(&f.predicate)?;
    let columns = if chain { input.columns } else { input.columns.into_iter().map(State::lost).collect() };
    if !chain {
        bound.iter().try_for_each(refuse)?;
    }
    Ok(Walked { plan: LogicalPlan::Filter(f), columns, bound, chain, outer: outer || input.outer, computed })
}

/// Comparisons that fail for no row: of columns and literals of one family of types.
fn comparison(e: &Expr, schema: &DFSchema) -> bool {
    let alike = |operands: &[&Expr]| {
        let families: Option<Vec<_>> = operands.iter().map(|e| family(e, schema)).collect();
        let Some(families) = families else { return false };
        let mut known = families.into_iter().flatten();
        let first = known.next();
        first.is_some() && known.all(|f| Some(f) == first)
    };
    match e {
        Expr::Alias(a) => comparison(&a.expr, schema),
        Expr::BinaryExpr(BinaryExpr { left, op: Operator::And | Operator::Or, right }) => {
            comparison(left, schema) && comparison(right, schema)
        }
        Expr::BinaryExpr(BinaryExpr { left, op, right }) => {
            let total = matches!(
                op,
                Operator::Eq
                    | Operator::NotEq
                    | Operator::Lt
                    | Operator::LtEq
                    | Operator::Gt
                    | Operator::GtEq
                    | Operator::IsDistinctFrom
                    | Operator::IsNotDistinctFrom
            );
            total && alike(&[left, right])
        }
        Expr::Not(inner)
        | Expr::IsTrue(inner)
        | Expr::IsFalse(inner)
        | Expr::IsNotTrue(inner)
        | Expr::IsNotFalse(inner) => comparison(inner, schema),
        Expr::IsNull(inner) | Expr::IsNotNull(inner) => bare(inner).is_some(),
        Expr::Between(Between { expr, low, high, .. }) => alike(&[expr, low, high]),
        Expr::InList(InList { expr, list, .. }) => {
            bare(expr).is_some() && alike(&std::iter::once(&**expr).chain(list).collect::<Vec<_>>())
        }
        Expr::Like(Like { expr, pattern, escape_char: None, case_insensitive: false, .. }) => {
            bare(expr).is_some() && literal(pattern) && alike(&[expr, pattern])
        }
        Expr::Column(_) => family(e, schema) == Some(Some(Family::Bool)),
        _ => false,
    }
}

/// Types whose values are compared without a cast that could fail.
#[derive(Clone, PartialEq, Eq)]
enum Family {
    Number,
    Text,
    Bool,
    /// This type only.
    Exactly(DataType),
}

/// The family of a bare column, of a literal, or of a literal whose cast succeeds; a NULL has any.
fn family(e: &Expr, schema: &DFSchema) -> Option<Option<Family>> {
    let data_type = match e {
        Expr::Column(c) => schema.field_from_column(c).ok()?.data_type().clone(),
        Expr::Literal(value, _) => value.data_type(),
        Expr::Cast(cast) => match cast.expr.as_ref() {
            Expr::Literal(value, _) => value.cast_to(cast.field.data_type()).ok()?.data_type(),
            _ => return None,
        },
        _ => return None,
    };
    Some(Some(match data_type {
        DataType::Null => return Some(None),
        DataType::Boolean => Family::Bool,
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => Family::Text,
        t if t.is_integer() || t.is_floating() => Family::Number,
        t if t.is_temporal() || matches!(t, DataType::Decimal128(..) | DataType::Decimal256(..)) => Family::Exactly(t),
        _ => return None,
    }))
}

fn aggregate(a: Aggregate, input: Walked, outer: bool) -> Result<Walked> {
    let mut read = vec![];
    for expr in a.group_expr.iter().chain(&a.aggr_expr) {
        read.extend(reads(expr, &input)?);
    }
    let columns = vec![State::Free; a.schema.fields().len()];
    let Some(hidden) = read.iter().find_map(|s| s.hidden()).or(input.bound.as_ref()).cloned() else {
        return Ok(Walked::of(LogicalPlan::Aggregate(a), columns));
    };
    let lost = read.iter().any(|s| matches!(s, State::Lost(_)));
    if lost || outer || input.outer || !input.chain {
        refuse(&hidden)?;
    }
    let plan = match enforce!("floor.groups", true) {
        true => floored(&a, &input, &hidden)?,
        false => LogicalPlan::Aggregate(a),
    };
    Ok(Walked::of(plan, columns))
}

/// The aggregate over a floor, with the names it had.
fn floored(a: &Aggregate, input: &Walked, hidden: &Hidden) -> Result<LogicalPlan> {
    let below = with_key(&input.plan)?;
    let key = Column::from(below.schema().qualified_field(below.schema().fields().len() - 1));
    let mut out = vec![];
    let mut groups = vec![];
    for (i, expr) in a.group_expr.iter().enumerate() {
        // A computed group could fail for a row that the column chose.
        let computed = bare(expr).is_none() && (input.bound.is_some() || has_subquery(expr)?);
        let reads = bare(expr).is_none() && !reads(expr, input)?.is_empty();
        if computed || reads || matches!(expr, Expr::GroupingSet(_)) {
            refuse(hidden)?;
        }
        let name = format!("__custody_group_{i}");
        out.push(expr.clone().unalias().alias(&name));
        groups.push(Column::from_name(name));
    }
    let (mut arguments, mut values): (BTreeSet<Column>, Vec<Vec<Column>>) = Default::default();
    for expr in &a.aggr_expr {
        let Some(call) = allowed(expr) else {
            refuse(hidden)?;
            continue;
        };
        let used: Vec<&Column> = call.params.args.iter().filter_map(bare).collect();
        arguments.extend(used.iter().map(|c| (*c).clone()));
        let only = |c: &&&Column| matches!(input.state(c), Some(State::Only(_)));
        let only: Vec<Column> = used.iter().filter(only).map(|c| (*c).clone()).collect();
        if !only.is_empty() {
            values.push(only);
        }
    }
    out.extend(arguments.into_iter().map(Expr::Column));
    out.push(Expr::Column(key.clone()).alias(KEY));
    let below = LogicalPlan::Projection(Projection::try_new(out, Arc::new(below))?);
    let floor = FlooredGroups::new(hidden.least, groups.clone(), Column::from_name(KEY), values, below)?;
    let floor = LogicalPlan::Extension(Extension { node: Arc::new(floor) });
    let by = std::iter::once(Column::from_name(REST)).chain(groups).map(Expr::Column).collect::<Vec<_>>();
    let over = Aggregate::try_new(Arc::new(floor), by, a.aggr_expr.clone())?;
    let names = a.schema.iter().enumerate().map(|(i, (qualifier, field))| match i < a.group_expr.len() {
        true => Expr::Column(Column::from_name(format!("__custody_group_{i}")))
            .alias_qualified(qualifier.cloned(), field.name()),
        false => Expr::Column(Column::from((qualifier, field))),
    });
    let names = names.collect();
    Ok(LogicalPlan::Projection(Projection::try_new(names, Arc::new(LogicalPlan::Aggregate(over)))?))
}

/// A call that may read aggregate-only columns.
fn allowed(expr: &Expr) -> Option<&AggregateFunction> {
    let call = match expr {
        Expr::Alias(alias) => return allowed(&alias.expr),
        Expr::AggregateFunction(call) => call,
        _ => return None,
    };
    let p = &call.params;
    let plain = p.filter.is_none() && p.order_by.is_empty() && p.null_treatment.is_none();
    let simple = p.args.iter().all(|e| matches!(e, Expr::Column(_) | Expr::Literal(..)));
    let named = FUNCTIONS.contains(&call.func.name()) && (!p.distinct || call.func.name() == "count");
    (!enforce!("floor.functions", !(plain && simple && named))).then_some(call)
}

/// The chain with the counted column as its last.
fn with_key(plan: &LogicalPlan) -> Result<LogicalPlan> {
    if let Some(barrier) = Barrier::of_plan(plan) {
        return Ok(barrier.with_key()?.into_plan());
    }
    match plan {
        LogicalPlan::SubqueryAlias(a) => {
            let input = Arc::new(with_key(&a.input)?);
            Ok(LogicalPlan::SubqueryAlias(SubqueryAlias::try_new(input, a.alias.clone())?))
        }
        LogicalPlan::Projection(p) => {
            let input = with_key(&p.input)?;
            let key = Column::from(input.schema().qualified_field(input.schema().fields().len() - 1));
            let exprs = p.expr.iter().cloned().chain([Expr::Column(key)]).collect();
            Ok(LogicalPlan::Projection(Projection::try_new(exprs, Arc::new(input))?))
        }
        LogicalPlan::Filter(f) => {
            Ok(LogicalPlan::Filter(Filter::try_new(f.predicate.clone(), Arc::new(with_key(&f.input)?))?))
        }
        LogicalPlan::Extension(e) => match ViewBoundary::of(e.node.as_ref()) {
            Some(view) => Ok(view.over(with_key(view.input())?).into_plan()),
            None => internal_err!("`{}` is no part of a chain", e.node.name()),
        },
        other => internal_err!("`{}` is no part of a chain", other.display()),
    }
}

/// Any other node: it may carry the columns along, not read them.
fn other(plan: LogicalPlan, inputs: &[Walked]) -> Result<Walked> {
    for expr in plan.expressions() {
        for input in inputs {
            reads(&expr, input)?.into_iter().filter_map(State::hidden).try_for_each(refuse)?;
        }
    }
    for input in inputs {
        input.bound.iter().try_for_each(refuse)?;
    }
    let all = || inputs.iter().flat_map(|i| i.columns.iter().cloned()).map(State::lost);
    let width = plan.schema().fields().len();
    let columns: Vec<State> = match &plan {
        LogicalPlan::Sort(_) | LogicalPlan::Limit(_) | LogicalPlan::Repartition(_) => all().collect(),
        LogicalPlan::Join(_) => {
            let named = |column: Column| {
                let state = inputs.iter().find_map(|i| i.state(&column)).cloned();
                state.unwrap_or(State::Free).lost()
            };
            plan.schema().columns().into_iter().map(named).collect()
        }
        LogicalPlan::Window(_) => {
            let before: Vec<State> = all().collect();
            let added = width.saturating_sub(before.len());
            before.into_iter().chain(std::iter::repeat_n(State::Free, added)).collect()
        }
        LogicalPlan::Union(_) => {
            let at = |i: usize| {
                let states = inputs.iter().filter_map(|input| input.columns.get(i));
                let mut hidden = states.filter(|s| s.hidden().is_some());
                hidden.next().cloned().unwrap_or(State::Free).lost()
            };
            (0..width).map(at).collect()
        }
        _ => {
            // Which rows a DISTINCT keeps, and what a node that is not known does, may depend on every column.
            inputs.iter().flat_map(|i| &i.columns).filter_map(State::hidden).try_for_each(refuse)?;
            vec![State::Free; width]
        }
    };
    Ok(Walked::of(plan, columns))
}
