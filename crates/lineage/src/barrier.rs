//! A governed relation: the column behind each output, its mask, and what policy reads on its own.
//!
//! INVARIANT: `mask(policy, rung, expr)` and `rows(name, expr)` are told by name below a barrier only; a user's function
//! of that name means nothing.

use crate::{
    Refusal,
    expr::set_direct,
    extract::{By, EnvId, Scope, Walk},
    flow::{Flow, Relation},
    text,
};
use custody_model::{Atom, DeclassificationTarget, Direct, FieldId, Indirect, RuleVersion, Rung, TableVersion};
use datafusion_common::ScalarValue;
use datafusion_expr::{Expr, Filter, LogicalPlan, Operator, Projection};
use std::rc::Rc;

/// The outputs of a barrier over a Projection (masks) over Filters (row sets) over a scan, each of the first two left out
/// where there is nothing to do. `None`: it does not look like that.
pub(crate) fn governed(
    w: &mut Walk<'_>,
    table: &TableVersion,
    fields: &[FieldId],
    input: &LogicalPlan,
    node: u32,
    env: EnvId,
) -> Result<Option<Relation>, Refusal> {
    let Some(below) = Below::of(input) else { return Ok(None) };
    let mut masks = vec![None; fields.len()];
    if let Some(projection) = below.masks {
        if projection.expr.len() != fields.len() {
            return Ok(None);
        }
        for (slot, expr) in masks.iter_mut().zip(&projection.expr) {
            match Output::of(expr) {
                Some(output) => *slot = Some(output),
                None => return Ok(None),
            }
        }
    }

    let here = w.env(env);
    // Policy's own reading of a governed table is no reading by the user, wherever it happens.
    let by_policy = here.by.as_ref().map(|by| by.policy.clone());
    let plain =
        Atom { table: w.table(table), field: None, views: here.views.clone(), masks: vec![], by_policy, rules: vec![] };
    let mut out = Relation { rows: w.atom(plain.clone())?, ..Relation::default() };
    for (i, (field, output)) in fields.iter().zip(&masks).enumerate() {
        let mut atom = Atom { field: Some(*field), ..plain.clone() };
        let mut flow = Flow { origins: w.origin(node, i as u32), ..Flow::default() };
        if let Some(Output::Masked { policy, rung, .. }) = output {
            atom.masks = vec![(policy.to_string(), *rung)];
            atom.rules = rules_for(w, *rung);
        }
        let one = w.atom(atom)?;
        out.all = w.sets.union(out.all, one);
        set_direct(&mut flow, Direct::Identity, one);
        if let (Some(Output::Masked { policy, rung, expr }), Some(projection)) = (output, below.masks) {
            let by = By { policy: policy.to_string(), mask: Some(*rung) };
            let read = read(w, &projection.input, expr, by, env)?;
            let others = w.only(read, |atom| atom.field != Some(*field));
            set_direct(&mut flow, Direct::Transformation, others);
            w.hop(&mut flow, node, i as u32, |_| text::mask(policy, rung.word()));
        }
        out.cols.push(flow);
    }
    let mut place = 0;
    for filter in below.rows {
        let mut sets = vec![];
        if !row_sets(&filter.predicate, &mut sets) {
            return Ok(None);
        }
        for (name, expr) in sets {
            let by = By { policy: name.to_string(), mask: None };
            let read = read(w, &filter.input, expr, by, env)?;
            w.sets.add(&mut out.dataset, Indirect::Filter, read);
            w.decider(node, place, Indirect::Filter, read, |style| text::row_set(style, name, expr));
            place += 1;
        }
    }
    Ok(Some(out))
}

/// What an expression of policy reads: columns of its input and, in subqueries, rows of entitlement tables.
fn read(w: &mut Walk<'_>, input: &LogicalPlan, expr: &Expr, by: By, env: EnvId) -> Result<crate::flow::SetId, Refusal> {
    let env = w.env_with(env, |e| {
        e.by = Some(by);
        e.frames.clear();
        e.lateral.clear();
        e.work.clear();
    });
    let relation = w.walk(base(input), env)?;
    let scope = Scope::new(vec![(input.schema().clone(), Rc::new((*relation).clone()))]);
    let flow = w.expr(expr, &scope, env)?;
    Ok(w.sets.sources(&flow))
}

/// Rules that lower what a mask at this rung leaves.
fn rules_for(w: &Walk<'_>, rung: Rung) -> Vec<RuleVersion> {
    let mut rules: Vec<_> =
        w.rules.iter().filter(|r| r.target == DeclassificationTarget::Mask(rung)).map(|r| r.version.clone()).collect();
    rules.sort();
    rules.dedup();
    rules
}

/// The scan under filters and aliases, which keep positions.
fn base(plan: &LogicalPlan) -> &LogicalPlan {
    match plan {
        LogicalPlan::Filter(f) => base(&f.input),
        LogicalPlan::SubqueryAlias(a) => base(&a.input),
        other => other,
    }
}

/// What lies between a barrier and its scan.
struct Below<'p> {
    masks: Option<&'p Projection>,
    rows: Vec<&'p Filter>,
}

impl<'p> Below<'p> {
    fn of(plan: &'p LogicalPlan) -> Option<Self> {
        let mut below = Self { masks: None, rows: vec![] };
        let mut at = plan;
        loop {
            at = match at {
                LogicalPlan::Projection(p) if below.masks.is_none() && below.rows.is_empty() => {
                    below.masks = Some(p);
                    &p.input
                }
                LogicalPlan::Filter(f) => {
                    below.rows.push(f);
                    &f.input
                }
                LogicalPlan::SubqueryAlias(a) => &a.input,
                LogicalPlan::TableScan(_) | LogicalPlan::EmptyRelation(_) => return Some(below),
                _ => return None,
            };
        }
    }
}

/// An output of the governed relation.
#[derive(Clone)]
enum Output<'p> {
    /// The column itself.
    Column,
    /// Behind a mask.
    Masked { policy: &'p str, rung: Rung, expr: &'p Expr },
}

impl<'p> Output<'p> {
    fn of(expr: &'p Expr) -> Option<Self> {
        match expr {
            Expr::Alias(alias) => Self::of(&alias.expr),
            Expr::Cast(cast) => Self::of(&cast.expr),
            Expr::Column(_) => Some(Self::Column),
            Expr::ScalarFunction(f) if f.name() == "mask" => match f.args.as_slice() {
                [policy, rung, expr] => {
                    let word = string(rung)?;
                    let rung = Rung::ALL.into_iter().find(|r| r.word() == word)?;
                    Some(Self::Masked { policy: string(policy)?, rung, expr })
                }
                _ => None,
            },
            _ => None,
        }
    }
}

/// Collects `rows(name, expr)`; false where something else reads columns.
fn row_sets<'p>(predicate: &'p Expr, out: &mut Vec<(&'p str, &'p Expr)>) -> bool {
    match predicate {
        Expr::Alias(alias) => row_sets(&alias.expr, out),
        Expr::Literal(..) => true,
        Expr::BinaryExpr(b) if matches!(b.op, Operator::And | Operator::Or) => {
            row_sets(&b.left, out) && row_sets(&b.right, out)
        }
        Expr::Not(e) | Expr::IsTrue(e) | Expr::IsNotTrue(e) => row_sets(e, out),
        Expr::ScalarFunction(f) if f.name() == "rows" => match f.args.as_slice() {
            [name, expr] => match string(name) {
                Some(name) => {
                    out.push((name, expr));
                    true
                }
                None => false,
            },
            _ => false,
        },
        _ => false,
    }
}

fn string(expr: &Expr) -> Option<&str> {
    match expr {
        Expr::Literal(
            ScalarValue::Utf8(Some(text)) | ScalarValue::Utf8View(Some(text)) | ScalarValue::LargeUtf8(Some(text)),
            _,
        ) => Some(text),
        _ => None,
    }
}
