//! Whether rows of a view at one time depend only on input rows shortly before it: what `INCREMENTAL BY … LOOKBACK` promises.
//!
//! What holds here: a plan that passes gives, for output rows with times in any interval, the same rows over all input as over the
//! input from LOOKBACK before that interval to its end. What is not proved is refused (C1157), with the reason.

use crate::{asof::interval, pin::PinnedTable};
use custody_dialect::Incremental;
use custody_model::{FieldId, Problem, Rung, TableVersion};
use custody_policy::Barrier;
use datafusion::{
    arrow::datatypes::IntervalMonthDayNano,
    common::{Column, DFSchema, ScalarValue, tree_node::TreeNode},
    logical_expr::{
        Distinct, Expr, JoinType, LogicalPlan, Operator, WindowFrameBound, WindowFrameUnits, WindowFunctionDefinition,
        utils::split_conjunction,
    },
};
use std::collections::BTreeSet;

/// Functions whose value depends on which rows there are, not on their order, once sums of floats are exact.
const ORDER_FREE: &[&str] = &["sum", "avg", "min", "max", "count", "bool_and", "bool_or"];

/// How a view may be computed in parts.
#[derive(Clone, Debug)]
pub(crate) struct Local {
    /// The output column that is the time.
    pub(crate) column: String,
    /// The longest that LOOKBACK can be, in microseconds: a month has 31 days here.
    pub(crate) lookback: i64,
    /// Inputs, with the column of each that is the time.
    pub(crate) inputs: Vec<(TableVersion, FieldId)>,
}

const DAY: i64 = 86_400_000_000;

/// In microseconds, with months of so many days.
fn micros(text: &str, month: i64) -> Result<i64, String> {
    let IntervalMonthDayNano { months, days, nanoseconds } = interval(text).map_err(|e| e.to_string())?;
    let whole = i64::from(months).checked_mul(month).and_then(|m| m.checked_add(days.into()));
    let whole = whole.and_then(|d| d.checked_mul(DAY)).and_then(|d| d.checked_add(nanoseconds / 1_000));
    whole.filter(|w| *w >= 0).ok_or_else(|| format!("`{text}` is not an interval that looks back"))
}

/// Proves it, or says why not.
pub(crate) fn prove(plan: &LogicalPlan, clause: &Incremental, pinned: &[PinnedTable]) -> Result<Local, Problem> {
    let refuse = |why: String| {
        Problem::new(1157, format!("INCREMENTAL would not equal a full computation: {why}"))
            .help("leave the clause out: the view is then computed in full")
            .label(clause.place.label("here"))
    };
    let short = micros(&clause.lookback, 28).map_err(refuse)?;
    let lookback = micros(&clause.lookback, 31).map_err(refuse)?;
    let mut walk = Walk { short, pinned, inputs: vec![] };
    let times = walk.bounded(plan).map_err(refuse)?.times;
    let column = &clause.column.value;
    match plan.schema().index_of_column_by_name(None, column) {
        Some(i) if times.contains(&i) => {}
        Some(_) => return Err(refuse(format!("`{column}` is not the event time of every input, as it is"))),
        None => return Err(refuse(format!("there is no column `{column}`"))),
    }
    if walk.inputs.is_empty() {
        return Err(refuse("it reads nothing".into()));
    }
    Ok(Local { column: column.clone(), lookback, inputs: walk.inputs })
}

struct Walk<'a> {
    /// The shortest that LOOKBACK can be.
    short: i64,
    pinned: &'a [PinnedTable],
    inputs: Vec<(TableVersion, FieldId)>,
}

type Times = BTreeSet<usize>;

/// What a row of a plan is made of lies in `reach` microseconds before any of its `times`: windows over windows add up.
#[derive(Clone, Default)]
struct Bounded {
    /// Output columns that are the time of the row.
    times: Times,
    reach: i64,
}

impl Bounded {
    fn with(self, times: Times) -> Self {
        Self { times, ..self }
    }

    fn some(self, otherwise: &str) -> Result<Self, String> {
        if self.times.is_empty() { Err(otherwise.to_string()) } else { Ok(self) }
    }
}

impl Walk<'_> {
    fn bounded(&mut self, plan: &LogicalPlan) -> Result<Bounded, String> {
        for e in plan.expressions() {
            plain(&e)?;
        }
        match plan {
            LogicalPlan::Projection(p) => {
                let below = self.bounded(&p.input)?;
                let is_time = |e: &Expr| position(e, p.input.schema()).is_some_and(|i| below.times.contains(&i));
                let times = (0..p.expr.len()).filter(|i| is_time(&p.expr[*i])).collect();
                Ok(below.with(times))
            }
            LogicalPlan::Filter(f) => self.bounded(&f.input),
            LogicalPlan::SubqueryAlias(a) => self.bounded(&a.input),
            LogicalPlan::Sort(s) if s.fetch.is_none() => self.bounded(&s.input),
            LogicalPlan::Distinct(Distinct::All(input)) => self.bounded(input)?.some("`DISTINCT` without the time"),
            LogicalPlan::Window(w) => {
                let below = self.bounded(&w.input)?;
                let mut longest = 0;
                for e in &w.window_expr {
                    longest = longest.max(self.window(e, w.input.schema(), &below.times)?);
                }
                let reach = below.reach.saturating_add(longest);
                match reach <= self.short {
                    true => Ok(Bounded { reach, ..below }),
                    false => Err("a window reaches further back than LOOKBACK".into()),
                }
            }
            LogicalPlan::Aggregate(a) => {
                let below = self.bounded(&a.input)?;
                let is_time = |e: &Expr| position(e, a.input.schema()).is_some_and(|i| below.times.contains(&i));
                let out: Times = (0..a.group_expr.len()).filter(|i| is_time(&a.group_expr[*i])).collect();
                for e in &a.aggr_expr {
                    let Expr::AggregateFunction(f) = bare(e) else { return Err(format!("`{e}`")) };
                    order_free(f.func.name())?;
                }
                below.with(out).some("groups that span times")
            }
            LogicalPlan::Join(j) => {
                if !matches!(j.join_type, JoinType::Inner | JoinType::Left | JoinType::LeftSemi | JoinType::LeftAnti) {
                    return Err(format!("a {} join", j.join_type));
                }
                let (left, right) = (self.bounded(&j.left)?, self.bounded(&j.right)?);
                let both = |a: &Expr, b: &Expr| {
                    position(a, j.left.schema()).is_some_and(|i| left.times.contains(&i))
                        && position(b, j.right.schema()).is_some_and(|i| right.times.contains(&i))
                };
                let filters: Vec<&Expr> = j.filter.iter().flat_map(split_conjunction).collect();
                let equal = filters.iter().any(|e| match e {
                    Expr::BinaryExpr(b) if b.op == Operator::Eq => both(&b.left, &b.right) || both(&b.right, &b.left),
                    _ => false,
                });
                if !equal && !j.on.iter().any(|(a, b)| both(a, b)) {
                    return Err("a join without the time column".into());
                }
                let width = j.left.schema().fields().len();
                let times = match j.join_type {
                    JoinType::Inner => left.times.into_iter().chain(right.times.iter().map(|i| i + width)).collect(),
                    _ => left.times,
                };
                Ok(Bounded { times, reach: left.reach.max(right.reach) })
            }
            LogicalPlan::Union(u) => {
                let mut all: Option<Bounded> = None;
                for input in &u.inputs {
                    let one = self.bounded(input)?;
                    all = Some(match all {
                        Some(a) => Bounded { times: &a.times & &one.times, reach: a.reach.max(one.reach) },
                        None => one,
                    });
                }
                all.unwrap_or_default().some("a union of rows without a common time")
            }
            LogicalPlan::Extension(e) => match Barrier::of(e.node.as_ref()) {
                Some(barrier) => self.input(barrier),
                None => Err(format!("`{}` is not bounded by LOOKBACK", e.node.name())),
            },
            other => Err(format!("`{}` is not bounded by LOOKBACK", other.display())),
        }
    }

    fn input(&mut self, barrier: &Barrier) -> Result<Bounded, String> {
        let table = self.pinned.iter().find(|t| t.at == *barrier.at()).ok_or("an input that is not pinned")?;
        let name = &table.at.name;
        let event = table.definition.event_time.ok_or_else(|| format!("`{name}` has no event time"))?;
        let column = table.definition.column(event).ok_or_else(|| format!("`{name}` has no event time"))?;
        if column.nullable {
            return Err(format!("`{}` of `{name}` may be NULL", column.name));
        }
        if !table.grant.columns.iter().any(|c| c.field == event && c.rung == Rung::Raw) {
            return Err(format!("you see the event time of `{name}` masked"));
        }
        let input = (table.at.clone(), event);
        if !self.inputs.contains(&input) {
            self.inputs.push(input);
        }
        let at = |i: &usize| barrier.fields().get(*i) == Some(&event);
        Ok(Bounded { times: (0..barrier.fields().len()).filter(at).collect(), reach: 0 })
    }

    /// How far back a window reaches.
    fn window(&self, e: &Expr, schema: &DFSchema, times: &Times) -> Result<i64, String> {
        let Expr::WindowFunction(w) = bare(e) else { return Err(format!("`{e}`")) };
        let is_time = |e: &Expr| position(e, schema).is_some_and(|i| times.contains(&i));
        if let WindowFunctionDefinition::AggregateUDF(f) = &w.fun {
            order_free(f.name())?;
        }
        let p = &w.params;
        if p.partition_by.iter().any(is_time) {
            return match &w.fun {
                WindowFunctionDefinition::AggregateUDF(_) => Ok(0),
                WindowFunctionDefinition::WindowUDF(f) => {
                    Err(format!("`{}` depends on the order of equal rows", f.name()))
                }
            };
        }
        if let WindowFunctionDefinition::WindowUDF(f) = &w.fun {
            return Err(format!("`{}` reaches further back than LOOKBACK", f.name()));
        }
        let by_time = matches!(p.order_by.as_slice(), [only] if only.asc && is_time(&only.expr));
        if !by_time || p.window_frame.units != WindowFrameUnits::Range {
            return Err("a window that is not `ORDER BY` the time with a `RANGE`".into());
        }
        let reach = |bound: &WindowFrameBound| match bound {
            WindowFrameBound::CurrentRow => Ok(0),
            WindowFrameBound::Following(_) => Err("a window that looks forward".to_string()),
            WindowFrameBound::Preceding(value) if value.is_null() => Err("a window without a beginning".to_string()),
            WindowFrameBound::Preceding(value) => length(value),
        };
        reach(&p.window_frame.end_bound)?;
        reach(&p.window_frame.start_bound)
    }
}

/// The longest that a frame's bound can be.
fn length(value: &ScalarValue) -> Result<i64, String> {
    match value {
        ScalarValue::Utf8(Some(text)) => micros(text, 31),
        ScalarValue::IntervalMonthDayNano(Some(v)) => {
            micros(&format!("{} months {} days {} nanoseconds", v.months, v.days, v.nanoseconds), 31)
        }
        ScalarValue::IntervalDayTime(Some(v)) => {
            micros(&format!("{} days {} milliseconds", v.days, v.milliseconds), 31)
        }
        ScalarValue::IntervalYearMonth(Some(months)) => micros(&format!("{months} months"), 31),
        other => Err(format!("a window of `{other}`")),
    }
}

fn order_free(function: &str) -> Result<(), String> {
    match ORDER_FREE.contains(&function) {
        true => Ok(()),
        false => Err(format!("`{function}` may depend on the order of rows")),
    }
}

/// No subqueries: they read what no time bounds.
fn plain(e: &Expr) -> Result<(), String> {
    let deep = |e: &Expr| {
        matches!(
            e,
            Expr::ScalarSubquery(_)
                | Expr::Exists(_)
                | Expr::InSubquery(_)
                | Expr::SetComparison(_)
                | Expr::OuterReferenceColumn(..)
        )
    };
    match e.exists(|e| Ok(deep(e))) {
        Ok(false) => Ok(()),
        _ => Err("a subquery in an expression".into()),
    }
}

/// Without its name.
fn bare(e: &Expr) -> &Expr {
    match e {
        Expr::Alias(a) => bare(&a.expr),
        other => other,
    }
}

/// The column that an expression is, as it is.
fn position(e: &Expr, schema: &DFSchema) -> Option<usize> {
    let Expr::Column(Column { relation, name, .. }) = bare(e) else { return None };
    schema.index_of_column_by_name(relation.as_ref(), name)
}
