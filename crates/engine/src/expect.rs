//! Expectations: what must hold of a view's rows, checked while they are written.
//!
//! What holds here: every row goes to the version or to quarantine, and each check's violations are counted, whatever they
//! do. NULL passes, as in `CHECK`. `UNIQUE` looks at the rows that no other check puts into quarantine, in their published
//! order: the first of equal rows stays.

use crate::{governed::dropped_calls, problem::from_datafusion};
use custody_dialect::{Check, Expectation, OnViolation, Place};
use custody_model::{DatasetDefinition, DatasetName, ExpectationResult, FieldId, Problem};
use datafusion::{
    arrow::{
        array::{Array, AsArray, BooleanArray, RecordBatch},
        compute::{filter_record_batch, not},
        datatypes::{DataType, SchemaRef},
        row::{OwnedRow, RowConverter, SortField},
    },
    common::{DFSchema, tree_node::TreeNode},
    execution::SessionState,
    logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder, col},
    physical_expr::PhysicalExpr,
    sql::sqlparser::ast,
};
use std::{collections::BTreeSet, sync::Arc};

/// One expectation, ready to be checked.
#[derive(Clone)]
pub(crate) struct Expected {
    text: String,
    action: OnViolation,
    place: Place,
    check: Ready,
}

#[derive(Clone)]
enum Ready {
    /// Over one row.
    Row(Arc<dyn PhysicalExpr>),
    /// Columns of which no two rows are equal, by position.
    Unique(Vec<usize>),
}

/// What of the expectations makes another version.
pub(crate) fn says(expectations: &[Expectation]) -> String {
    let check = |e: &Expectation| match &e.check {
        Check::Expr(expr) => expr.to_string(),
        Check::Unique(columns) => {
            format!("UNIQUE ({})", columns.iter().map(|c| c.value.as_str()).collect::<Vec<_>>().join(", "))
        }
    };
    expectations.iter().map(|e| format!("\nEXPECT {} ON VIOLATION {}", check(e), e.on_violation.word())).collect()
}

/// Plans the checks over the rows as they are published.
pub(crate) fn ready(
    expectations: &[Expectation],
    state: &SessionState,
    definition: &DatasetDefinition,
) -> Result<Vec<Expected>, Problem> {
    let schema = crate::schema_of(definition);
    expectations
        .iter()
        .map(|e| {
            let check = match &e.check {
                Check::Expr(expr) => Ready::Row(row_check(expr, e, state, &schema)?),
                Check::Unique(columns) => {
                    let names: Vec<&str> = columns.iter().map(|c| c.value.as_str()).collect();
                    Ready::Unique(unique_check(&names, e, definition)?)
                }
            };
            Ok(Expected { text: e.text.clone(), action: e.on_violation, place: e.place, check })
        })
        .collect()
}

/// Refuses what a source cannot be asked.
pub(crate) fn over_source(
    expectations: &[Expectation],
    state: &SessionState,
    definition: &DatasetDefinition,
) -> Result<(), Problem> {
    let schema = crate::schema_of(definition);
    for e in expectations {
        match &e.check {
            Check::Expr(expr) => row_check(expr, e, state, &schema).map(drop)?,
            Check::Unique(columns) => columns.iter().try_for_each(|c| present(&c.value, e, definition))?,
        }
    }
    Ok(())
}

fn present(name: &str, e: &Expectation, definition: &DatasetDefinition) -> Result<(), Problem> {
    match definition.column_named(name) {
        Some(_) => Ok(()),
        None => Err(Problem::new(1146, format!("`{name}` is not a column of `{}`", definition.name))
            .label(e.place.label("in this expectation"))),
    }
}

fn logical(expr: &ast::Expr, e: &Expectation, state: &SessionState, schema: &DFSchema) -> Result<Expr, Problem> {
    let here = |p: Problem| if p.labels.is_empty() { p.label(e.place.label("in this expectation")) } else { p };
    if let Some(dropped) = dropped_calls(state, &e.functions) {
        return Err(here(dropped));
    }
    let expr = ast::ExprWithAlias { expr: expr.clone(), alias: None };
    let expr = state.create_logical_expr_from_sql_expr(expr, schema).map_err(|e| here(from_datafusion(&e)))?;
    let many = |e: &Expr| matches!(e, Expr::AggregateFunction(_) | Expr::WindowFunction(_));
    if expr.exists(|e| Ok(many(e))).map_err(|e| here(from_datafusion(&e)))? {
        return Err(here(
            Problem::new(1145, "an expectation is over one row, not over many")
                .help("compute it as a column of the view, or write `UNIQUE (columns)`"),
        ));
    }
    if expr.is_volatile() {
        return Err(here(
            Problem::new(1145, "an expectation must give the same answer every time")
                .help("leave out now(), random(), uuid() and their kin"),
        ));
    }
    Ok(expr)
}

fn row_check(
    expr: &ast::Expr,
    e: &Expectation,
    state: &SessionState,
    schema: &SchemaRef,
) -> Result<Arc<dyn PhysicalExpr>, Problem> {
    let here = |p: Problem| if p.labels.is_empty() { p.label(e.place.label("in this expectation")) } else { p };
    let over = DFSchema::try_from(Arc::clone(schema)).map_err(|e| from_datafusion(&e))?;
    let expr = logical(expr, e, state, &over)?;
    let check = state.create_physical_expr(expr, &over).map_err(|e| here(from_datafusion(&e)))?;
    let found = check.data_type(schema).map_err(|e| here(from_datafusion(&e)))?;
    if found != DataType::Boolean {
        return Err(here(
            Problem::new(1145, format!("an expectation is true or false, this one is `{found}`"))
                .help("compare it with something"),
        ));
    }
    Ok(check)
}

/// Rows come in the order of keys, times, then the rest: equal rows stand together where the columns begin that order.
fn unique_check(names: &[&str], e: &Expectation, definition: &DatasetDefinition) -> Result<Vec<usize>, Problem> {
    let wanted: BTreeSet<&str> = names.iter().copied().collect();
    let order = published_order(definition);
    let first: BTreeSet<&str> = order.iter().take(wanted.len()).map(|i| definition.columns[*i].name.as_str()).collect();
    names.iter().try_for_each(|name| present(name, e, definition))?;
    if first != wanted {
        let whole: Vec<&str> = order.iter().map(|i| definition.columns[*i].name.as_str()).collect();
        return Err(Problem::new(1146, format!("`UNIQUE ({})` cannot be checked in one pass", names.join(", ")))
            .help(format!("name the first of these, in any order: {}", whole.join(", ")))
            .label(e.place.label("here")));
    }
    Ok(order.into_iter().take(wanted.len()).collect())
}

/// Positions of the columns that rows are sorted by: keys, times, then the rest.
fn published_order(definition: &DatasetDefinition) -> Vec<usize> {
    let fields = definition.keys.iter().copied().chain(definition.event_time).chain(definition.known_time);
    let mut seen = BTreeSet::new();
    let all: Vec<FieldId> = fields.chain(definition.columns.iter().map(|c| c.field)).collect();
    all.into_iter()
        .filter(|field| seen.insert(*field))
        .filter_map(|field| definition.columns.iter().position(|c| c.field == field))
        .collect()
}

/// The plan with what decides about quarantine in a filter: for lineage, which must know that it decides which rows there
/// are. Never run.
pub(crate) fn deciding(
    plan: &LogicalPlan,
    expectations: &[Expectation],
    state: &SessionState,
) -> Result<LogicalPlan, Problem> {
    let mut builder = LogicalPlanBuilder::from(plan.clone());
    for e in expectations.iter().filter(|e| e.on_violation == OnViolation::Quarantine) {
        let decides = match &e.check {
            Check::Expr(expr) => logical(expr, e, state, plan.schema())?.is_not_false(),
            Check::Unique(columns) => columns
                .iter()
                .map(|c| col(&c.value).is_not_null())
                .reduce(Expr::or)
                .ok_or_else(|| Problem::bug("`UNIQUE` without columns"))?,
        };
        builder = builder.filter(decides).map_err(|e| from_datafusion(&e))?;
    }
    builder.build().map_err(|e| from_datafusion(&e))
}

/// The checks of one run.
pub(crate) struct Checker {
    checks: Vec<Running>,
    checked: u64,
}

struct Running {
    of: Expected,
    violations: u64,
    /// For `UNIQUE`: how rows are compared, and the last one that stays.
    rows: Option<RowConverter>,
    last: Option<OwnedRow>,
}

/// Rows that stay and rows that do not.
pub(crate) struct Divided {
    pub(crate) kept: RecordBatch,
    pub(crate) quarantined: Option<RecordBatch>,
}

impl Checker {
    pub(crate) fn new(expected: &[Expected], schema: &SchemaRef) -> Result<Self, Problem> {
        let checks = expected.iter().map(|of| {
            let rows = match &of.check {
                Ready::Row(_) => None,
                Ready::Unique(columns) => {
                    let fields = columns.iter().map(|i| SortField::new(schema.field(*i).data_type().clone()));
                    Some(RowConverter::new(fields.collect()).map_err(|e| Problem::bug(format!("UNIQUE: {e}")))?)
                }
            };
            Ok(Running { of: of.clone(), violations: 0, rows, last: None })
        });
        Ok(Self { checks: checks.collect::<Result<_, Problem>>()?, checked: 0 })
    }

    /// Checks the next rows, in published order.
    pub(crate) fn divide(&mut self, rows: RecordBatch) -> Result<Divided, Problem> {
        self.checked += rows.num_rows() as u64;
        let mut out = vec![false; rows.num_rows()];
        for running in self.checks.iter_mut().filter(|r| r.rows.is_none()) {
            running.row_check(&rows, &mut out)?;
        }
        for running in self.checks.iter_mut().filter(|r| r.rows.is_some()) {
            running.unique(&rows, &mut out)?;
        }
        if !out.contains(&true) {
            return Ok(Divided { kept: rows, quarantined: None });
        }
        let wrong = |e| Problem::bug(format!("rows could not be divided: {e}"));
        let out = BooleanArray::from(out);
        let kept = filter_record_batch(&rows, &not(&out).map_err(wrong)?).map_err(wrong)?;
        Ok(Divided { kept, quarantined: Some(filter_record_batch(&rows, &out).map_err(wrong)?) })
    }

    /// What each check found, in the order of the declaration.
    pub(crate) fn results(&self) -> Vec<ExpectationResult> {
        let result = |r: &Running| ExpectationResult {
            check: r.of.text.clone(),
            action: r.of.action.word().to_lowercase(),
            checked: self.checked,
            violations: r.violations,
        };
        self.checks.iter().map(result).collect()
    }

    /// Why nothing may be published, where a `FAIL` was violated.
    pub(crate) fn failure(&self, name: &DatasetName) -> Option<Problem> {
        let failed: Vec<&Running> =
            self.checks.iter().filter(|r| r.of.action == OnViolation::Fail && r.violations > 0).collect();
        let first = failed.first()?;
        let told: Vec<String> =
            failed.iter().map(|r| format!("{} of {} rows break `{}`", r.violations, self.checked, r.of.text)).collect();
        let problem = Problem::new(1147, format!("`{name}` does not hold what it promises: {}", told.join("; ")))
            .help("correct the query or its sources; ON VIOLATION QUARANTINE publishes the other rows")
            .label(first.of.place.label("violated"));
        Some(failed.iter().skip(1).fold(problem, |p, r| p.label(r.of.place.label("violated too"))))
    }
}

impl Running {
    fn violated(&mut self, row: usize, out: &mut [bool]) {
        self.violations += 1;
        if self.of.action == OnViolation::Quarantine {
            out[row] = true;
        }
    }

    fn row_check(&mut self, rows: &RecordBatch, out: &mut [bool]) -> Result<(), Problem> {
        let Ready::Row(check) = self.of.check.clone() else { return Ok(()) };
        let values = check.evaluate(rows).and_then(|v| v.into_array(rows.num_rows()));
        let values = values.map_err(|e| from_datafusion(&e))?;
        let values = values.as_boolean();
        if values.null_count() == 0 && values.false_count() == 0 {
            return Ok(());
        }
        for row in 0..rows.num_rows() {
            if values.is_valid(row) && !values.value(row) {
                self.violated(row, out);
            }
        }
        Ok(())
    }

    fn unique(&mut self, rows: &RecordBatch, out: &mut [bool]) -> Result<(), Problem> {
        let (Ready::Unique(columns), Some(converter)) = (&self.of.check, &self.rows) else { return Ok(()) };
        let columns: Vec<_> = columns.iter().map(|i| Arc::clone(rows.column(*i))).collect();
        let keys = converter.convert_columns(&columns).map_err(|e| Problem::bug(format!("UNIQUE: {e}")))?;
        // The newest row that stays: before this batch, or in it.
        let (mut last, mut equals): (Option<usize>, Vec<usize>) = (None, vec![]);
        for (row, gone) in out.iter().enumerate() {
            if *gone || columns.iter().any(|c| c.is_null(row)) {
                continue;
            }
            let equal = match (last, &self.last) {
                (Some(before), _) => keys.row(before) == keys.row(row),
                (None, Some(before)) => before.row() == keys.row(row),
                (None, None) => false,
            };
            match equal {
                true => equals.push(row),
                false => last = Some(row),
            }
        }
        if let Some(last) = last {
            self.last = Some(keys.row(last).owned());
        }
        equals.into_iter().for_each(|row| self.violated(row, out));
        Ok(())
    }
}

#[cfg(test)]
mod tests;
