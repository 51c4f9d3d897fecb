//! `ASOF JOIN`: each left row with the newest right row of its key that is not younger.
//!
//! What holds here: every left row comes out exactly once, with NULLs where nothing matches; a match never looks
//! forward; NULL keys and times match nothing. Columns keep their qualifiers. The node is logical only: `engine`
//! executes it.

use crate::{Place, code, rewrite};
use arrow_schema::DataType;
use custody_model::{Position, Problem};
use datafusion_common::{DFSchema, DFSchemaRef, DataFusionError, JoinType, Result, internal_err};
use datafusion_expr::{
    Expr, ExprSchemable, Extension, LogicalPlan, Operator, UserDefinedLogicalNode, UserDefinedLogicalNodeCore,
    build_join_schema,
    planner::{PlannedRelation, RelationPlanner, RelationPlannerContext, RelationPlanning},
    type_coercion::binary::comparison_coercion,
    utils::split_conjunction_owned,
};
use sqlparser::ast::{self, Spanned, TableFactor};
use std::{cmp::Ordering, collections::HashSet, fmt, sync::Arc};

/// How rows match beyond the key.
#[derive(Clone, PartialEq, Eq, PartialOrd, Hash, Debug, Default)]
pub struct Matching {
    /// Whether the right time must lie before the left one, not at it.
    pub strict: bool,
    /// How old a match may be: older than or exactly this long before the left time, it counts as none. As in
    /// `INTERVAL '…'`.
    pub ttl: Option<String>,
}

/// The node.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct AsOfJoin {
    left: Arc<LogicalPlan>,
    right: Arc<LogicalPlan>,
    /// Over left and over right, of one type each.
    on: Vec<(Expr, Expr)>,
    left_time: Expr,
    right_time: Expr,
    /// Event and known time: of the right rows not after the left time the greatest by these matches, rather than the
    /// one with the greatest right time. `Matching::ttl` counts from the event.
    rank: Option<(Expr, Expr)>,
    matching: Matching,
    schema: DFSchemaRef,
    /// All of the expressions: keys of left, keys of right, times, rank.
    deciders: Vec<Expr>,
}

impl AsOfJoin {
    /// A join of two plans. Keys and times are brought to one type; those without one are refused.
    pub fn try_new(
        left: LogicalPlan,
        right: LogicalPlan,
        on: Vec<(Expr, Expr)>,
        (left_time, right_time): (Expr, Expr),
        rank: Option<(Expr, Expr)>,
        matching: Matching,
    ) -> Result<Self> {
        let on = on
            .into_iter()
            .map(|(l, r)| alike(l, left.schema(), r, right.schema(), |_| true))
            .collect::<Result<Vec<_>>>()?;
        let (left_time, right_time) = alike(left_time, left.schema(), right_time, right.schema(), is_time)?;
        let schema = Arc::new(build_join_schema(left.schema(), right.schema(), &JoinType::Left)?);
        let mut deciders: Vec<Expr> = on.iter().map(|(l, _)| l.clone()).collect();
        deciders.extend(on.iter().map(|(_, r)| r.clone()));
        deciders.extend([left_time.clone(), right_time.clone()]);
        deciders.extend(rank.iter().flat_map(|(event, known)| [event.clone(), known.clone()]));
        Ok(Self {
            deciders,
            left: Arc::new(left),
            right: Arc::new(right),
            on,
            left_time,
            right_time,
            rank,
            matching,
            schema,
        })
    }

    /// The rows that are kept.
    pub fn left(&self) -> &LogicalPlan {
        &self.left
    }

    /// The rows that are matched.
    pub fn right(&self) -> &LogicalPlan {
        &self.right
    }

    /// Keys, over left and over right.
    pub fn on(&self) -> &[(Expr, Expr)] {
        &self.on
    }

    /// The time of a left row.
    pub fn left_time(&self) -> &Expr {
        &self.left_time
    }

    /// The time from which a right row may match.
    pub fn right_time(&self) -> &Expr {
        &self.right_time
    }

    /// Event and known time, where the right time is not the event itself.
    pub fn rank(&self) -> Option<&(Expr, Expr)> {
        self.rank.as_ref()
    }

    /// How rows match beyond the key.
    pub fn matching(&self) -> &Matching {
        &self.matching
    }

    /// What decides which right row matches: keys and times of both sides.
    pub fn deciders(&self) -> &[Expr] {
        &self.deciders
    }

    /// The join in this node, where it is one.
    pub fn of(node: &dyn UserDefinedLogicalNode) -> Option<&Self> {
        node.as_any().downcast_ref()
    }

    /// As a plan.
    pub fn into_plan(self) -> LogicalPlan {
        LogicalPlan::Extension(Extension { node: Arc::new(self) })
    }
}

/// Two expressions over two inputs, cast to the type in which they compare.
fn alike(
    left: Expr,
    left_schema: &DFSchema,
    right: Expr,
    right_schema: &DFSchema,
    fits: impl Fn(&DataType) -> bool,
) -> Result<(Expr, Expr)> {
    let (l, r) = (left.get_type(left_schema)?, right.get_type(right_schema)?);
    let Some(common) = comparison_coercion(&l, &r).filter(fits) else {
        return refuse(
            Problem::new(code::TYPE, format!("`{left}` ({l}) and `{right}` ({r}) cannot be matched"))
                .help("keys have one type; times are both timestamps, both dates, or both integers: CAST one of them"),
        );
    };
    Ok((left.cast_to(&common, left_schema)?, right.cast_to(&common, right_schema)?))
}

fn is_time(t: &DataType) -> bool {
    matches!(
        t,
        DataType::Timestamp(..)
            | DataType::Date32
            | DataType::Int8
            | DataType::Int16
            | DataType::Int32
            | DataType::Int64
    )
}

fn refuse<T>(problem: Problem) -> Result<T> {
    Err(DataFusionError::External(Box::new(problem)))
}

impl fmt::Debug for AsOfJoin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        UserDefinedLogicalNodeCore::fmt_for_explain(self, f)
    }
}

impl PartialOrd for AsOfJoin {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        self.deciders.partial_cmp(&other.deciders)
    }
}

impl UserDefinedLogicalNodeCore for AsOfJoin {
    fn name(&self) -> &str {
        "AsOfJoin"
    }

    fn inputs(&self) -> Vec<&LogicalPlan> {
        vec![&self.left, &self.right]
    }

    fn schema(&self) -> &DFSchemaRef {
        &self.schema
    }

    fn expressions(&self) -> Vec<Expr> {
        self.deciders.clone()
    }

    fn fmt_for_explain(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let on: Vec<_> = self.on.iter().map(|(l, r)| format!("{l} = {r}")).collect();
        let sign = if self.matching.strict && self.rank.is_none() { ">" } else { ">=" };
        write!(f, "AsOfJoin: {}, {} {sign} {}", on.join(", "), self.left_time, self.right_time)?;
        if let Some((event, known)) = &self.rank {
            write!(f, ", newest by ({event}, {known})")?;
        }
        match &self.matching.ttl {
            Some(ttl) => write!(f, ", ttl {ttl}"),
            None => Ok(()),
        }
    }

    fn with_exprs_and_inputs(&self, exprs: Vec<Expr>, inputs: Vec<LogicalPlan>) -> Result<Self> {
        let (keys, ranked) = (self.on.len(), usize::from(self.rank.is_some()) * 2);
        let (Ok([left, right]), true) = (<[LogicalPlan; 2]>::try_from(inputs), exprs.len() == keys * 2 + 2 + ranked)
        else {
            return internal_err!("`AsOfJoin` has two inputs and as many expressions as before");
        };
        let mut exprs = exprs.into_iter();
        let lefts: Vec<Expr> = exprs.by_ref().take(keys).collect();
        let on = lefts.into_iter().zip(exprs.by_ref().take(keys)).collect();
        let mut pair = || exprs.next().zip(exprs.next());
        let (Some(times), rank) = (pair(), pair()) else {
            return internal_err!("`AsOfJoin` has two times");
        };
        Self::try_new(left, right, on, times, rank, self.matching.clone())
    }

    fn necessary_children_exprs(&self, output: &[usize]) -> Option<Vec<Vec<usize>>> {
        let width = self.left.schema().fields().len();
        let mut needed = [vec![], vec![]];
        for i in output {
            match i.checked_sub(width) {
                None => needed[0].push(*i),
                Some(right) => needed[1].push(right),
            }
        }
        let lefts = self.on.iter().map(|(l, _)| l).chain([&self.left_time]);
        let rights = self.on.iter().map(|(_, r)| r).chain([&self.right_time]);
        let rights = rights.chain(self.rank.iter().flat_map(|(event, known)| [event, known]));
        for column in lefts.flat_map(|e| e.column_refs()) {
            needed[0].push(self.left.schema().maybe_index_of_column(column)?);
        }
        for column in rights.flat_map(|e| e.column_refs()) {
            needed[1].push(self.right.schema().maybe_index_of_column(column)?);
        }
        for side in &mut needed {
            side.sort_unstable();
            side.dedup();
        }
        Some(needed.into())
    }
}

/// Plans the table factors into which [`crate::parse`] has folded each `ASOF JOIN`.
#[derive(Clone, Copy, Debug, Default)]
pub struct AsOfRelations;

impl RelationPlanner for AsOfRelations {
    fn plan_relation(
        &self,
        relation: TableFactor,
        context: &mut dyn RelationPlannerContext,
    ) -> Result<RelationPlanning> {
        let TableFactor::NestedJoin { table_with_joins, alias } = relation else {
            return Ok(RelationPlanning::Original(Box::new(relation)));
        };
        if !rewrite::is_folded(&table_with_joins) {
            let relation = TableFactor::NestedJoin { table_with_joins, alias };
            return Ok(RelationPlanning::Original(Box::new(relation)));
        }
        let ast::TableWithJoins { relation, joins } = *table_with_joins;
        let Some(ast::Join {
            relation: other,
            global: _,
            join_operator: ast::JoinOperator::AsOf { match_condition, constraint: ast::JoinConstraint::On(constraint) },
        }) = joins.into_iter().next()
        else {
            return internal_err!("an `ASOF JOIN` without `ON` passed the gate");
        };
        let left = context.plan(relation)?;
        let right = context.plan(other)?;
        let both = build_join_schema(left.schema(), right.schema(), &JoinType::Left)?;
        let sides = Sides { left: left.schema(), right: right.schema() };

        let place = match_condition.span();
        let condition = context.sql_to_expr(match_condition, &both)?;
        let (times, strict) = sides.times(condition).map_err(|p| located(p, place))?;
        let place = constraint.span();
        let mut on = vec![];
        for conjunct in split_conjunction_owned(context.sql_to_expr(constraint, &both)?) {
            on.push(sides.key(conjunct).map_err(|p| located(p, place))?);
        }
        let matching = Matching { strict, ttl: None };
        let plan = AsOfJoin::try_new(left, right, on, times, None, matching).map_err(|e| match e {
            DataFusionError::External(inner) => match inner.downcast::<Problem>() {
                Ok(problem) => located(*problem, place),
                Err(inner) => DataFusionError::External(inner),
            },
            other => other,
        })?;
        Ok(RelationPlanning::Planned(Box::new(PlannedRelation::new(plan.into_plan(), alias))))
    }
}

/// A problem of a condition, at the condition.
fn located(problem: Problem, span: sqlparser::tokenizer::Span) -> DataFusionError {
    if span.start.line == 0 || !problem.labels.is_empty() {
        return DataFusionError::External(Box::new(problem));
    }
    let position = |l: sqlparser::tokenizer::Location| Position { line: l.line, column: l.column };
    let place = Place { start: position(span.start), end: position(span.end) };
    DataFusionError::External(Box::new(problem.label(place.label("here"))))
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    Left,
    Right,
}

struct Sides<'a> {
    left: &'a DFSchema,
    right: &'a DFSchema,
}

impl Sides<'_> {
    /// The one side whose columns this names.
    fn of(&self, expr: &Expr) -> Option<Side> {
        let columns: HashSet<_> = expr.column_refs();
        if columns.is_empty() || expr.is_volatile() || !subqueries_absent(expr) {
            return None;
        }
        if columns.iter().all(|c| self.left.has_column(c)) {
            return Some(Side::Left);
        }
        columns.iter().all(|c| self.right.has_column(c)).then_some(Side::Right)
    }

    fn times(&self, condition: Expr) -> Result<((Expr, Expr), bool), Problem> {
        let shape = || {
            Problem::new(code::CLAUSE, "`MATCH_CONDITION` compares one time of each side")
                .help("write `MATCH_CONDITION (left.time >= right.time)`, or `>` to leave out the same instant")
        };
        let Expr::BinaryExpr(binary) = condition else { return Err(shape()) };
        let (a, b) = (*binary.left, *binary.right);
        let (left, right, op) = match (self.of(&a), self.of(&b)) {
            (Some(Side::Left), Some(Side::Right)) => (a, b, binary.op),
            (Some(Side::Right), Some(Side::Left)) => (b, a, binary.op.swap().ok_or_else(shape)?),
            _ => return Err(shape()),
        };
        match op {
            Operator::GtEq => Ok(((left, right), false)),
            Operator::Gt => Ok(((left, right), true)),
            Operator::Lt | Operator::LtEq => Err(Problem::new(code::CLAUSE, "an ASOF match may not look forward")
                .help(format!("what is matched lies before what it is matched to: `{left} >= {right}`"))),
            _ => Err(shape()),
        }
    }

    fn key(&self, conjunct: Expr) -> Result<(Expr, Expr), Problem> {
        if let Expr::BinaryExpr(binary) = &conjunct
            && binary.op == Operator::Eq
        {
            let (a, b) = (&*binary.left, &*binary.right);
            match (self.of(a), self.of(b)) {
                (Some(Side::Left), Some(Side::Right)) => return Ok((a.clone(), b.clone())),
                (Some(Side::Right), Some(Side::Left)) => return Ok((b.clone(), a.clone())),
                _ => {}
            }
        }
        Err(Problem::new(code::CLAUSE, format!("`ON` of an `ASOF JOIN` is equalities between its sides, not `{conjunct}`"))
            .help("write `ON r.key = l.key AND …`; filter what is matched in a query of its own: `ASOF JOIN (SELECT … WHERE …) AS r`"))
    }
}

fn subqueries_absent(expr: &Expr) -> bool {
    use datafusion_common::tree_node::TreeNode;
    !expr
        .exists(|e| {
            Ok(matches!(
                e,
                Expr::Exists(_)
                    | Expr::InSubquery(_)
                    | Expr::ScalarSubquery(_)
                    | Expr::SetComparison(_)
                    | Expr::OuterReferenceColumn(..)
                    | Expr::Placeholder(_)
            ))
        })
        .unwrap_or(true)
}
