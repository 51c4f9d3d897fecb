//! What a plan node's outputs and rows depend on, by chapter "Nodes".
//!
//! INVARIANT: the match over `LogicalPlan` has no wildcard arm, so that an upgrade which adds a variant does not
//! compile.

use crate::{
    Leaf, NodeRule, Refusal,
    expr::{distinct, set_direct, transformation},
    extract::{EnvId, Scope, Walk},
    flow::{Flow, Relation, SetId},
    rule::rule,
    text,
};
use custody_model::{Atom, DeclassificationTarget, Direct, FieldId, Indirect, Part, TableVersion};
use datafusion_common::{
    DFSchema, JoinType,
    tree_node::{TreeNode, TreeNodeRecursion},
};
use datafusion_expr::{
    Aggregate, DdlStatement, Distinct, DistinctOn, DmlStatement, Expr, Extension, Join, Limit, LogicalPlan,
    Partitioning, Projection, RecursiveQuery, Repartition, Sort, Statement, Subquery, TableScan, Union, Unnest, Values,
    Window, WriteOp,
    dml::InsertOp,
    logical_plan::{MergeIntoAction, MergeIntoOp, TableScanBuilder},
};
use std::{rc::Rc, sync::Arc};

/// Names of the outputs: of a write, the columns of what is written.
pub(crate) fn names(plan: &LogicalPlan) -> Vec<String> {
    match plan {
        LogicalPlan::Explain(e) => names(&e.plan),
        LogicalPlan::Analyze(a) => names(&a.input),
        LogicalPlan::Copy(c) => names(&c.input),
        LogicalPlan::Ddl(DdlStatement::CreateMemoryTable(c)) => names(&c.input),
        LogicalPlan::Ddl(DdlStatement::CreateView(c)) => names(&c.input),
        LogicalPlan::Dml(d) if d.op == WriteOp::Ctas => names(&d.input),
        LogicalPlan::Dml(d) => d.target.schema().fields().iter().map(|f| f.name().clone()).collect(),
        _ => plan.schema().fields().iter().map(|f| f.name().clone()).collect(),
    }
}

/// How many outputs there are.
pub(crate) fn width(plan: &LogicalPlan) -> usize {
    match plan {
        LogicalPlan::Explain(e) => width(&e.plan),
        LogicalPlan::Analyze(a) => width(&a.input),
        LogicalPlan::Copy(c) => width(&c.input),
        LogicalPlan::Ddl(DdlStatement::CreateMemoryTable(c)) => width(&c.input),
        LogicalPlan::Ddl(DdlStatement::CreateView(c)) => width(&c.input),
        LogicalPlan::Dml(d) if d.op == WriteOp::Ctas => width(&d.input),
        LogicalPlan::Dml(d) => d.target.schema().fields().len(),
        _ => plan.schema().fields().len(),
    }
}

/// One node.
pub(crate) fn walk(w: &mut Walk<'_>, plan: &LogicalPlan, env: EnvId) -> Result<Relation, Refusal> {
    let id = w.number(plan);
    match plan {
        LogicalPlan::TableScan(scan) => table_scan(w, scan, id, env),
        LogicalPlan::Projection(p) => projection(w, p, id, env),
        LogicalPlan::SubqueryAlias(a) => Ok((*w.walk(&a.input, env)?).clone()),
        LogicalPlan::Repartition(r) => repartition(w, r, id, env),
        LogicalPlan::Filter(f) => {
            let input = w.walk(&f.input, env)?;
            let scope = scope_of(&f.input, &input);
            let mut out = (*input).clone();
            if !rule!("filter") {
                return Ok(out);
            }
            let set = w.decides(&mut out, Indirect::Filter, &f.predicate, &scope, env)?;
            w.decider(id, 0, Indirect::Filter, set, |style| text::of_many(style, [&f.predicate]));
            Ok(out)
        }
        LogicalPlan::Join(j) => join(w, j, id, env),
        LogicalPlan::Aggregate(a) => aggregate(w, a, id, env),
        LogicalPlan::Window(x) => window(w, x, id, env),
        LogicalPlan::Distinct(Distinct::All(input)) => {
            let mut out = (*w.walk(input, env)?).clone();
            distinct_rows(w, &mut out);
            Ok(out)
        }
        LogicalPlan::Distinct(Distinct::On(d)) => distinct_on(w, d, id, env),
        LogicalPlan::Union(u) => union(w, u, env),
        LogicalPlan::Values(v) => values(w, v, id, env),
        LogicalPlan::EmptyRelation(e) => {
            Ok(Relation { cols: vec![Flow::default(); e.schema.fields().len()], ..Relation::default() })
        }
        LogicalPlan::Sort(s) => sort(w, s, id, env),
        LogicalPlan::Limit(l) => limit(w, l, id, env),
        LogicalPlan::Unnest(u) => unnest(w, u, id, env),
        LogicalPlan::RecursiveQuery(r) => recursive(w, r, env),
        LogicalPlan::Subquery(s) => lateral(w, s, env),
        LogicalPlan::Extension(e) => extension(w, e, plan, id, env),
        LogicalPlan::Copy(c) => Ok((*w.walk(&c.input, env)?).clone()),
        LogicalPlan::Explain(e) => Ok((*w.walk(&e.plan, env)?).clone()),
        LogicalPlan::Analyze(a) => Ok((*w.walk(&a.input, env)?).clone()),
        LogicalPlan::Ddl(ddl) => match ddl {
            DdlStatement::CreateMemoryTable(c) => Ok((*w.walk(&c.input, env)?).clone()),
            DdlStatement::CreateView(c) => Ok((*w.walk(&c.input, env)?).clone()),
            DdlStatement::CreateExternalTable(_) => none("CREATE EXTERNAL TABLE"),
            DdlStatement::CreateCatalogSchema(_) => none("CREATE SCHEMA"),
            DdlStatement::CreateCatalog(_) => none("CREATE DATABASE"),
            DdlStatement::CreateIndex(_) => none("CREATE INDEX"),
            DdlStatement::DropTable(_) => none("DROP TABLE"),
            DdlStatement::DropView(_) => none("DROP VIEW"),
            DdlStatement::DropCatalogSchema(_) => none("DROP SCHEMA"),
            DdlStatement::CreateFunction(_) => none("CREATE FUNCTION"),
            DdlStatement::DropFunction(_) => none("DROP FUNCTION"),
        },
        LogicalPlan::Statement(statement) => match statement {
            Statement::TransactionStart(_) => none("START TRANSACTION"),
            Statement::TransactionEnd(_) => none("END TRANSACTION"),
            Statement::SetVariable(_) => none("SET"),
            Statement::ResetVariable(_) => none("RESET"),
            Statement::Prepare(_) => none("PREPARE"),
            Statement::Execute(_) => none("EXECUTE"),
            Statement::Deallocate(_) => none("DEALLOCATE"),
        },
        LogicalPlan::DescribeTable(_) => none("DESCRIBE"),
        LogicalPlan::Dml(dml) => write(w, dml, env),
    }
}

fn none(statement: &str) -> Result<Relation, Refusal> {
    Err(Refusal::Statement(statement.into()))
}

fn scope_of(plan: &LogicalPlan, relation: &Rc<Relation>) -> Rc<Scope> {
    Scope::new(vec![(plan.schema().clone(), relation.clone())])
}

/// A relation with the rows of another and no columns yet.
fn rows_of(input: &Relation) -> Relation {
    Relation { cols: vec![], ..input.clone() }
}

/// Keys of the windows below, which set the physical order of rows.
fn order_below(w: &mut Walk<'_>, input: &Relation) -> SetId {
    let mut keys = input.windows;
    for flow in &input.cols {
        keys = w.sets.union(keys, flow.windows);
    }
    keys
}

/// Where a value was picked by physical order, what sets it decides the value.
fn ordered(w: &mut Walk<'_>, flow: &mut Flow, input: &Relation) -> bool {
    let picked = std::mem::take(&mut w.physical);
    if picked {
        let keys = order_below(w, input);
        w.sets.add(&mut flow.field, Indirect::Window, keys);
        flow.windows = w.sets.union(flow.windows, keys);
    }
    picked
}

/// Where rows are picked by physical order, what sets it decides them.
fn promote(w: &mut Walk<'_>, out: &mut Relation, input: &Relation) {
    if rule!("limit.promotion") {
        let keys = order_below(w, input);
        w.sets.add(&mut out.dataset, Indirect::Window, keys);
    }
}

/// All columns of all rows decide which rows are alike.
fn distinct_rows(w: &mut Walk<'_>, out: &mut Relation) {
    if !rule!("distinct.columns") {
        return;
    }
    for flow in out.cols.clone() {
        let sources = w.sets.sources(&flow);
        w.sets.add(&mut out.dataset, Indirect::GroupBy, sources);
        out.windows = w.sets.union(out.windows, flow.windows);
    }
}

// Leaves.

fn table_scan(w: &mut Walk<'_>, scan: &TableScan, id: u32, env: EnvId) -> Result<Relation, Refusal> {
    let schema = scan.source.schema();
    let full = match w.leaves.scan(scan) {
        Leaf::Table(table, fields) if fields.len() == schema.fields().len() => {
            table_columns(w, &table, &fields, id, env)?
        }
        Leaf::WorkTable(name) => {
            let known = w.work(&name, env).ok_or_else(|| Refusal::Source(scan.table_name.to_string()))?;
            let mut full = (*known).clone();
            full.cols.resize(schema.fields().len(), Flow::default());
            full
        }
        Leaf::Function(tables) => {
            let mut out = Relation::default();
            for (table, fields) in tables {
                let one = table_columns(w, &table, &fields, id, env)?;
                out.all = w.sets.union(out.all, one.all);
                out.rows = w.sets.union(out.rows, one.rows);
            }
            let flow = transformation(out.all);
            w.sets.add(&mut out.dataset, Indirect::Filter, flow.direct[Direct::Transformation as usize]);
            out.cols = vec![flow; schema.fields().len()];
            out
        }
        Leaf::Table(..) | Leaf::Unknown => return Err(Refusal::Source(scan.table_name.to_string())),
    };
    let mut out = rows_of(&full);
    match &scan.projection {
        None => out.cols.clone_from(&full.cols),
        Some(projection) => {
            for i in projection {
                let flow = full.cols.get(*i).ok_or_else(|| Refusal::Malformed(scan.table_name.to_string()))?;
                out.cols.push(*flow);
            }
        }
    }
    if !scan.filters.is_empty() {
        let qualified = DFSchema::try_from_qualified_schema(scan.table_name.clone(), &schema)
            .map_err(|e| Refusal::Malformed(e.strip_backtrace()))?;
        let scope = Scope::new(vec![(Arc::new(qualified), Rc::new(full))]);
        for filter in &scan.filters {
            w.decides(&mut out, Indirect::Filter, filter, &scope, env)?;
        }
    }
    Ok(out)
}

/// A table as it is, read under an environment.
fn table_columns(
    w: &mut Walk<'_>,
    table: &TableVersion,
    fields: &[FieldId],
    node: u32,
    env: EnvId,
) -> Result<Relation, Refusal> {
    let here = w.env(env);
    let (by_policy, masks) = match &here.by {
        None => (None, vec![]),
        Some(by) => (Some(by.policy.clone()), by.mask.map(|rung| (by.policy.clone(), rung)).into_iter().collect()),
    };
    let atom = Atom { table: w.table(table), field: None, views: here.views.clone(), masks, by_policy, rules: vec![] };
    let mut out = Relation { rows: w.atom(atom.clone())?, ..Relation::default() };
    for (i, field) in fields.iter().enumerate() {
        let one = w.atom(Atom { field: Some(*field), ..atom.clone() })?;
        out.all = w.sets.union(out.all, one);
        let mut flow = Flow { origins: w.origin(node, i as u32), ..Flow::default() };
        set_direct(&mut flow, Direct::Identity, one);
        out.cols.push(flow);
    }
    Ok(out)
}

fn values(w: &mut Walk<'_>, v: &Values, id: u32, env: EnvId) -> Result<Relation, Refusal> {
    let scope = Scope::new(vec![]);
    let mut out = Relation { cols: vec![Flow::default(); v.schema.fields().len()], ..Relation::default() };
    for row in &v.values {
        if row.len() != out.cols.len() {
            return Err(Refusal::Malformed("VALUES".into()));
        }
        for (i, expr) in row.iter().enumerate() {
            let flow = w.value(expr, &scope, env, (id, i as u32))?;
            if let Some(slot) = out.cols.get_mut(i) {
                *slot = w.sets.merge(*slot, flow);
            }
        }
    }
    Ok(out)
}

// Nodes with one input.

fn projection(w: &mut Walk<'_>, p: &Projection, id: u32, env: EnvId) -> Result<Relation, Refusal> {
    let input = w.walk(&p.input, env)?;
    let scope = scope_of(&p.input, &input);
    let mut out = rows_of(&input);
    for (i, expr) in p.expr.iter().enumerate() {
        let mut flow = w.value(expr, &scope, env, (id, i as u32))?;
        ordered(w, &mut flow, &input);
        out.cols.push(flow);
    }
    Ok(out)
}

fn repartition(w: &mut Walk<'_>, r: &Repartition, id: u32, env: EnvId) -> Result<Relation, Refusal> {
    let input = w.walk(&r.input, env)?;
    let scope = scope_of(&r.input, &input);
    let mut out = (*input).clone();
    let keys: Vec<&Expr> = match &r.partitioning_scheme {
        Partitioning::RoundRobinBatch(_) => vec![],
        Partitioning::Hash(exprs, _) | Partitioning::DistributeBy(exprs) => exprs.iter().collect(),
        Partitioning::Range(range) => range.ordering().iter().map(|sort| &sort.expr).collect(),
    };
    for (i, key) in keys.into_iter().enumerate() {
        let set = w.decides(&mut out, Indirect::Sort, key, &scope, env)?;
        w.decider(id, i as u32, Indirect::Sort, set, |style| text::of_many(style, [key]));
    }
    Ok(out)
}

fn aggregate(w: &mut Walk<'_>, a: &Aggregate, id: u32, env: EnvId) -> Result<Relation, Refusal> {
    let input = w.walk(&a.input, env)?;
    let scope = scope_of(&a.input, &input);
    let mut out = rows_of(&input);
    // As in `grouping_set_to_exprlist`: keys of all sets, each once, then the id of the set.
    let (keys, grouping_id): (Vec<&Expr>, bool) = match a.group_expr.as_slice() {
        [Expr::GroupingSet(sets)] => (distinct(sets), true),
        exprs => {
            let mut keys: Vec<&Expr> = vec![];
            for key in exprs {
                if !keys.contains(&key) {
                    keys.push(key);
                }
            }
            (keys, false)
        }
    };
    for (i, key) in keys.iter().enumerate() {
        let flow = w.value(key, &scope, env, (id, i as u32))?;
        let sources = w.sets.sources(&flow);
        if rule!("aggregate.keys") && (rule!("grouping_sets") || !grouping_id) {
            w.sets.add(&mut out.dataset, Indirect::GroupBy, sources);
        }
        w.decider(id, i as u32, Indirect::GroupBy, sources, |style| text::of_many(style, [*key]));
        out.windows = w.sets.union(out.windows, flow.windows);
        out.cols.push(flow);
    }
    if grouping_id {
        out.cols.push(Flow::default());
    }
    // An ORDER BY of one aggregate sorts the rows that another picks from.
    let mut picked = vec![];
    let mut sorts = SetId::EMPTY;
    for expr in &a.aggr_expr {
        let at = (id, out.cols.len() as u32);
        let mut flow = w.value(expr, &scope, env, at)?;
        if ordered(w, &mut flow, &input) {
            picked.push(out.cols.len());
            sorts = w.sets.union(sorts, flow.field[Indirect::Sort as usize]);
        }
        out.cols.push(flow);
    }
    for (at, flow) in out.cols.iter_mut().enumerate() {
        if picked.contains(&at) {
            w.sets.add(&mut flow.field, Indirect::Sort, sorts);
        }
    }
    // A rule lowers what decides the node's rows only where every aggregate of the node carries it.
    for rule in w.rules.iter().filter(|r| r.from.contains(&Part::Implicit)) {
        let DeclassificationTarget::Aggregates(names) = &rule.target else { continue };
        let carries = |e: &Expr| match e.clone().unalias_nested().data {
            Expr::AggregateFunction(f) => names.iter().any(|n| n == f.func.name()),
            _ => false,
        };
        if !a.aggr_expr.is_empty() && a.aggr_expr.iter().all(carries) {
            for set in &mut out.dataset {
                *set = w.with_rule(*set, rule)?;
            }
        }
    }
    Ok(out)
}

fn window(w: &mut Walk<'_>, x: &Window, id: u32, env: EnvId) -> Result<Relation, Refusal> {
    let input = w.walk(&x.input, env)?;
    let scope = scope_of(&x.input, &input);
    let mut out = (*input).clone();
    for expr in &x.window_expr {
        let at = (id, out.cols.len() as u32);
        let mut flow = w.value(expr, &scope, env, at)?;
        ordered(w, &mut flow, &input);
        out.cols.push(flow);
    }
    Ok(out)
}

fn distinct_on(w: &mut Walk<'_>, d: &DistinctOn, id: u32, env: EnvId) -> Result<Relation, Refusal> {
    let input = w.walk(&d.input, env)?;
    let scope = scope_of(&d.input, &input);
    let mut out = rows_of(&input);
    for (i, expr) in d.select_expr.iter().enumerate() {
        out.cols.push(w.value(expr, &scope, env, (id, i as u32))?);
    }
    let mut place = 0;
    for key in d.on_expr.iter().filter(|_| rule!("distinct_on.keys")) {
        let set = w.decides(&mut out, Indirect::GroupBy, key, &scope, env)?;
        w.decider(id, place, Indirect::GroupBy, set, |style| text::of_many(style, [key]));
        place += 1;
    }
    for key in d.sort_expr.iter().flatten() {
        let set = w.decides(&mut out, Indirect::Sort, &key.expr, &scope, env)?;
        w.decider(id, place, Indirect::Sort, set, |style| text::of_many(style, [&key.expr]));
        place += 1;
    }
    // Even with ORDER BY: ties stand in physical order.
    promote(w, &mut out, &input);
    Ok(out)
}

fn sort(w: &mut Walk<'_>, s: &Sort, id: u32, env: EnvId) -> Result<Relation, Refusal> {
    let input = w.walk(&s.input, env)?;
    let scope = scope_of(&s.input, &input);
    let mut out = (*input).clone();
    for (i, key) in s.expr.iter().enumerate().filter(|_| rule!("sort.keys")) {
        let set = w.decides(&mut out, Indirect::Sort, &key.expr, &scope, env)?;
        w.decider(id, i as u32, Indirect::Sort, set, |style| text::of_many(style, [&key.expr]));
    }
    if s.fetch.is_some() {
        promote(w, &mut out, &input);
    }
    Ok(out)
}

fn limit(w: &mut Walk<'_>, l: &Limit, id: u32, env: EnvId) -> Result<Relation, Refusal> {
    let input = w.walk(&l.input, env)?;
    let scope = scope_of(&l.input, &input);
    let mut out = (*input).clone();
    let mut set = SetId::EMPTY;
    for expr in l.skip.iter().chain(&l.fetch) {
        let one = w.decides(&mut out, Indirect::Filter, expr, &scope, env)?;
        set = w.sets.union(set, one);
    }
    let text = |style| text::limit(style, l.skip.as_deref(), l.fetch.as_deref());
    w.decider(id, 0, Indirect::Filter, set, text);
    promote(w, &mut out, &input);
    w.decider(id, 1, Indirect::Window, out.dataset[Indirect::Window as usize], text);
    Ok(out)
}

fn unnest(w: &mut Walk<'_>, u: &Unnest, id: u32, env: EnvId) -> Result<Relation, Refusal> {
    let input = w.walk(&u.input, env)?;
    let mut out = rows_of(&input);
    let lists: Vec<usize> = u.list_type_columns.iter().map(|(i, _)| *i).collect();
    for (place, from) in u.dependency_indices.iter().enumerate() {
        let mut flow = *input.cols.get(*from).ok_or_else(|| Refusal::Malformed("Unnest".into()))?;
        if lists.contains(from) || u.struct_type_columns.contains(from) {
            flow = w.sets.transform(flow);
            let name = u.input.schema().field(*from).name();
            w.hop(&mut flow, id, place as u32, |_| unnest_text(name));
        }
        out.cols.push(flow);
    }
    for (place, from) in lists.iter().enumerate() {
        let flow = *input.cols.get(*from).ok_or_else(|| Refusal::Malformed("Unnest".into()))?;
        let sources = w.sets.sources(&flow);
        if rule!("unnest.lengths") {
            w.sets.add(&mut out.dataset, Indirect::Join, sources);
        }
        out.windows = w.sets.union(out.windows, flow.windows);
        let name = u.input.schema().field(*from).name();
        w.decider(id, place as u32, Indirect::Join, sources, |_| unnest_text(name));
        w.evaluate(sources);
    }
    Ok(out)
}

/// The planner names the column that it unnests `__unnest_placeholder(xs)`.
fn unnest_text(name: &str) -> String {
    match name.strip_prefix("__unnest_placeholder(") {
        Some(rest) => format!("unnest({rest}"),
        None => format!("unnest({name})"),
    }
}

// Nodes with several inputs.

fn join(w: &mut Walk<'_>, j: &Join, id: u32, env: EnvId) -> Result<Relation, Refusal> {
    let left = w.walk(&j.left, env)?;
    let left_scope = scope_of(&j.left, &left);
    let frame = w.frame(&left_scope);
    let inner = w.env_with(env, |e| e.lateral.push(frame));
    let right = w.walk(&j.right, inner)?;
    let left_part = (j.left.schema().clone(), left.clone());
    let right_part = (j.right.schema().clone(), right.clone());

    let mut by = Relation::default();
    let mut keys = SetId::EMPTY;
    let left_first = Scope::new(vec![left_part.clone(), right_part.clone()]);
    let right_first = Scope::new(vec![right_part, left_part]);
    for (l, r) in &j.on {
        for (key, scope) in [(l, &left_first), (r, &right_first)] {
            let set = w.decides(&mut by, Indirect::Join, key, scope, env)?;
            if rule!("join.keys") {
                keys = w.sets.union(keys, set);
            }
        }
    }
    if let Some(filter) = &j.filter {
        let set = w.decides(&mut by, Indirect::Join, filter, &left_first, env)?;
        keys = w.sets.union(keys, set);
    }
    let rows = w.sets.union(left.rows, right.rows);
    if j.on.is_empty() && j.filter.is_none() {
        keys = w.sets.union(keys, rows);
    }

    let mut out = Relation {
        rows,
        all: w.sets.union(left.all, right.all),
        windows: w.sets.unite([left.windows, right.windows, by.windows]),
        ..Relation::default()
    };
    let text = |style| text::join(style, &j.on, j.filter.as_ref());
    let (kept, dropped) = match j.join_type {
        JoinType::Inner | JoinType::Left | JoinType::Right | JoinType::Full => {
            out.cols = if rule!("join.positions") {
                left.cols.iter().chain(&right.cols).copied().collect()
            } else {
                right.cols.iter().chain(&left.cols).copied().collect()
            };
            out.dataset = w.sets.merge_deciders(left.dataset, right.dataset);
            w.sets.add(&mut out.dataset, Indirect::Join, keys);
            w.decider(id, 0, Indirect::Join, keys, text);
            return Ok(out);
        }
        JoinType::LeftSemi | JoinType::LeftAnti | JoinType::LeftMark => (&left, &right),
        JoinType::RightSemi | JoinType::RightAnti | JoinType::RightMark => (&right, &left),
    };
    out.cols.clone_from(&kept.cols);
    out.dataset = kept.dataset;
    if rule!("semi_join.dropped") {
        let others = w.sets.unite(dropped.dataset);
        keys = w.sets.union(keys, others);
    }
    if matches!(j.join_type, JoinType::LeftMark | JoinType::RightMark) {
        keys = w.sets.union(keys, dropped.rows);
        let mut mark = Flow::default();
        w.sets.add(&mut mark.field, Indirect::Conditional, keys);
        out.cols.push(mark);
    } else {
        w.sets.add(&mut out.dataset, Indirect::Join, keys);
        w.decider(id, 0, Indirect::Join, keys, text);
    }
    Ok(out)
}

fn union(w: &mut Walk<'_>, u: &Union, env: EnvId) -> Result<Relation, Refusal> {
    let mut out = Relation { cols: vec![Flow::default(); u.schema.fields().len()], ..Relation::default() };
    for input in &u.inputs {
        let one = w.walk(input, env)?;
        if one.cols.len() != out.cols.len() {
            return Err(Refusal::Malformed("Union".into()));
        }
        unite(w, &mut out, &one);
    }
    Ok(out)
}

/// Rows of both, by position.
fn unite(w: &mut Walk<'_>, out: &mut Relation, one: &Relation) {
    for (to, from) in out.cols.iter_mut().zip(&one.cols) {
        *to = w.sets.merge(*to, *from);
    }
    out.dataset = w.sets.merge_deciders(out.dataset, one.dataset);
    out.rows = w.sets.union(out.rows, one.rows);
    out.all = w.sets.union(out.all, one.all);
    out.windows = w.sets.union(out.windows, one.windows);
}

fn recursive(w: &mut Walk<'_>, r: &RecursiveQuery, env: EnvId) -> Result<Relation, Refusal> {
    let mut known = w.walk(&r.static_term, env)?;
    loop {
        if w.steps > w.limits.nodes.saturating_mul(100) {
            return Err(Refusal::Rounds(r.name.clone()));
        }
        let work = w.new_work(known.clone());
        let inner = w.env_with(env, |e| e.work.push((r.name.clone(), work)));
        let step = w.walk(&r.recursive_term, inner)?;
        if step.cols.len() != known.cols.len() {
            return Err(Refusal::Malformed("RecursiveQuery".into()));
        }
        let mut next = (*known).clone();
        unite(w, &mut next, &step);
        if r.is_distinct {
            distinct_rows(w, &mut next);
        }
        if next == *known || !rule!("recursive.fixpoint") {
            return Ok(next);
        }
        known = Rc::new(next);
    }
}

fn lateral(w: &mut Walk<'_>, s: &Subquery, env: EnvId) -> Result<Relation, Refusal> {
    let inner = w.env_with(env, |e| {
        let lateral = std::mem::take(&mut e.lateral);
        e.frames.extend(lateral);
    });
    let mut out = (*w.walk(&s.subquery, inner)?).clone();
    for expr in &s.outer_ref_columns {
        let Expr::OuterReferenceColumn(_, column) = expr else { continue };
        // Also lists references of subqueries further in, which need not reach this far.
        if let Some(flow) = w.outer(column, inner) {
            let sources = w.sets.sources(&flow);
            w.sets.add(&mut out.dataset, Indirect::Join, sources);
            out.windows = w.sets.union(out.windows, flow.windows);
        }
    }
    Ok(out)
}

// Extensions.

fn extension(w: &mut Walk<'_>, e: &Extension, plan: &LogicalPlan, id: u32, env: EnvId) -> Result<Relation, Refusal> {
    let inputs = e.node.inputs();
    match (w.leaves.node(e.node.as_ref()), inputs.as_slice()) {
        (NodeRule::Barrier(table, fields), [input]) => {
            if let Some(out) = crate::barrier::governed(w, &table, fields, input, id, env)? {
                return Ok(out);
            }
            // Not as `policy` builds it: what is governed, and everything below.
            let mut out = table_columns(w, &table, fields, id, env)?;
            let below = top(w, e, env)?;
            for flow in &mut out.cols {
                *flow = w.sets.merge(*flow, below.flow);
            }
            out.dataset = below.relation.dataset;
            out.all = w.sets.union(out.all, below.relation.all);
            out.rows = w.sets.union(out.rows, below.relation.rows);
            Ok(out)
        }
        (NodeRule::Source(table, fields), _) if plan.schema().fields().len() == fields.len() => {
            table_columns(w, &table, fields, id, env)
        }
        (NodeRule::View(view), [input]) => {
            let inner = w.env_with(env, |e| e.views.push(view));
            Ok((*w.walk(input, inner)?).clone())
        }
        (NodeRule::AsOf(keys), [left, right]) => {
            let l = w.walk(left, env)?;
            let r = w.walk(right, env)?;
            if plan.schema().fields().len() != l.cols.len() + r.cols.len() {
                return Err(Refusal::Malformed(e.node.name().into()));
            }
            let scope = Scope::new(vec![(left.schema().clone(), l.clone()), (right.schema().clone(), r.clone())]);
            let mut by = w.sets.unite(r.dataset);
            for key in keys {
                let flow = w.expr(key, &scope, env)?;
                w.evaluated_by(key, &flow);
                let sources = w.sets.sources(&flow);
                by = w.sets.union(by, sources);
            }
            let mut out = Relation {
                cols: l.cols.clone(),
                dataset: l.dataset,
                rows: w.sets.union(l.rows, r.rows),
                all: w.sets.union(l.all, r.all),
                windows: w.sets.union(l.windows, r.windows),
            };
            for flow in &r.cols {
                let mut flow = *flow;
                w.sets.add(&mut flow.field, Indirect::Join, by);
                out.cols.push(flow);
            }
            Ok(out)
        }
        (NodeRule::Floor { by, groups }, [input])
            if plan.schema().fields().len() == input.schema().fields().len() + 1 =>
        {
            let below = w.walk(input, env)?;
            let scope = scope_of(input, &below);
            let mut out = (*below).clone();
            let mut decided = SetId::EMPTY;
            for expr in &by {
                let sources = w.decides(&mut out, Indirect::Filter, expr, &scope, env)?;
                decided = w.sets.union(decided, sources);
            }
            out.cols.push(Flow::default());
            let last = out.cols.len() - 1;
            for (i, flow) in out.cols.iter_mut().enumerate().filter(|(i, _)| *i == last || groups.contains(i)) {
                w.sets.add(&mut flow.field, Indirect::Conditional, decided);
                flow.origins = if i == last { w.origin(id, i as u32) } else { flow.origins };
            }
            Ok(out)
        }
        (
            NodeRule::Barrier(..)
            | NodeRule::Source(..)
            | NodeRule::View(_)
            | NodeRule::AsOf(_)
            | NodeRule::Floor { .. }
            | NodeRule::Unknown,
            _,
        ) => {
            let below = top(w, e, env)?;
            let mut out = below.relation;
            out.cols = vec![below.flow; plan.schema().fields().len()];
            Ok(out)
        }
    }
}

/// What a node that is not understood could depend on.
struct Top {
    flow: Flow,
    relation: Relation,
}

fn top(w: &mut Walk<'_>, e: &Extension, env: EnvId) -> Result<Top, Refusal> {
    w.not_understood(e.node.name());
    let mut all = w.outer_all(env);
    let mut out = Relation::default();
    let mut below = |w: &mut Walk<'_>, plan: &LogicalPlan, env: EnvId| -> Result<(), Refusal> {
        let one = w.walk(plan, env)?;
        let sources = w.sources_of(&one);
        all = w.sets.unite([all, sources, one.rows]);
        out.all = w.sets.union(out.all, one.all);
        out.rows = w.sets.union(out.rows, one.rows);
        out.windows = w.sets.union(out.windows, one.windows);
        Ok(())
    };
    let mut parts = vec![];
    for input in e.node.inputs() {
        below(w, input, env)?;
        parts.push((input.schema().clone(), w.walk(input, env)?));
    }
    // Subqueries in its expressions read too.
    let scope = Scope::new(parts);
    let frame = w.frame(&scope);
    let inner = w.env_with(env, |e| e.frames.push(frame));
    let exprs = w.keep(e.node.expressions());
    for expr in exprs.iter() {
        let mut plans = vec![];
        expr.apply(|e| {
            plans.extend(crate::extract::subquery(e));
            Ok(TreeNodeRecursion::Continue)
        })
        .map_err(|e| Refusal::Malformed(e.strip_backtrace()))?;
        for plan in plans {
            below(w, plan, inner)?;
        }
    }
    w.sets.add(&mut out.dataset, Indirect::Filter, all);
    let evaluated = w.only(all, |atom| atom.field.is_some() && atom.by_policy.is_none());
    w.evaluate(evaluated);
    let columns = w.only(all, |atom| atom.field.is_some());
    Ok(Top { flow: transformation(columns), relation: out })
}

// Writes. The gate refuses most of them; their rules make opening it safe.

/// The target of a write as it is before.
fn target(w: &mut Walk<'_>, dml: &DmlStatement, env: EnvId) -> Result<Relation, Refusal> {
    let scan = TableScanBuilder::new(dml.table_name.clone(), dml.target.clone())
        .build()
        .map_err(|e| Refusal::Malformed(e.strip_backtrace()))?;
    match w.leaves.scan(&scan) {
        Leaf::Table(table, fields) if fields.len() == dml.target.schema().fields().len() => {
            table_columns(w, &table, &fields, 0, env)
        }
        _ => Err(Refusal::Source(dml.table_name.to_string())),
    }
}

fn write(w: &mut Walk<'_>, dml: &DmlStatement, env: EnvId) -> Result<Relation, Refusal> {
    let by_position = |w: &mut Walk<'_>| -> Result<Relation, Refusal> {
        let input = w.walk(&dml.input, env)?;
        if input.cols.len() == dml.target.schema().fields().len() {
            Ok((*input).clone())
        } else {
            Err(Refusal::Malformed(dml.op.name().into()))
        }
    };
    match &dml.op {
        WriteOp::Ctas => Ok((*w.walk(&dml.input, env)?).clone()),
        WriteOp::Insert(op) => {
            let mut out = by_position(w)?;
            match op {
                InsertOp::Overwrite => {}
                InsertOp::Append => {
                    let old = target(w, dml, env)?;
                    unite(w, &mut out, &old);
                }
                InsertOp::Replace => {
                    // Which old rows go is decided by keys that the plan does not name.
                    let new = out.clone();
                    let old = target(w, dml, env)?;
                    unite(w, &mut out, &old);
                    for flow in new.cols.iter().chain(&old.cols) {
                        let sources = w.sets.sources(flow);
                        w.sets.add(&mut out.dataset, Indirect::Filter, sources);
                    }
                }
            }
            Ok(out)
        }
        WriteOp::Update => {
            let new = by_position(w)?;
            let mut out = target(w, dml, env)?;
            let rows = w.sets.unite(new.dataset);
            for (old, new) in out.cols.iter_mut().zip(&new.cols) {
                // A column assigned to itself is not assigned.
                if old.direct == new.direct && old.field == new.field {
                    continue;
                }
                *old = w.sets.merge(*old, *new);
                w.sets.add(&mut old.field, Indirect::Conditional, rows);
            }
            Ok(out)
        }
        WriteOp::Delete => {
            let gone = w.walk(&dml.input, env)?;
            let mut out = target(w, dml, env)?;
            let rows = w.sets.unite(gone.dataset);
            w.sets.add(&mut out.dataset, Indirect::Filter, rows);
            Ok(out)
        }
        WriteOp::Truncate => {
            Ok(Relation { cols: vec![Flow::default(); dml.target.schema().fields().len()], ..Relation::default() })
        }
        WriteOp::MergeInto(op) => merge_into(w, dml, op, env),
        other => Err(Refusal::Statement(other.name().to_uppercase())),
    }
}

fn merge_into(w: &mut Walk<'_>, dml: &DmlStatement, op: &MergeIntoOp, env: EnvId) -> Result<Relation, Refusal> {
    let schema = dml.target.schema();
    let qualified = DFSchema::try_from_qualified_schema(dml.table_name.clone(), &schema)
        .map_err(|e| Refusal::Malformed(e.strip_backtrace()))?;
    let old = target(w, dml, env)?;
    let source = w.walk(&dml.input, env)?;
    let scope =
        Scope::new(vec![(Arc::new(qualified), Rc::new(old.clone())), (dml.input.schema().clone(), source.clone())]);
    let position = |name: &str| schema.index_of(name).map_err(|_| Refusal::Malformed(format!("MERGE of `{name}`")));

    let mut on = Relation::default();
    let on_keys = w.decides(&mut on, Indirect::Join, &op.on, &scope, env)?;
    let which = w.sets.unite(source.dataset);
    let which = w.sets.union(which, on_keys);
    let mut out = old;
    out.rows = w.sets.union(out.rows, source.rows);
    out.all = w.sets.union(out.all, source.all);
    // A clause fires only where none before it did.
    let mut predicates = SetId::EMPTY;
    for clause in &op.clauses {
        if let Some(predicate) = &clause.predicate {
            let mut by = Relation::default();
            let set = w.decides(&mut by, Indirect::Filter, predicate, &scope, env)?;
            predicates = w.sets.union(predicates, set);
        }
        let assigned: Vec<(usize, &Expr)> = match &clause.action {
            MergeIntoAction::Update(assignments) => {
                assignments.iter().map(|(name, expr)| Ok((position(name)?, expr))).collect::<Result<_, Refusal>>()?
            }
            MergeIntoAction::Insert { columns, values } if columns.is_empty() => values.iter().enumerate().collect(),
            MergeIntoAction::Insert { columns, values } => columns
                .iter()
                .zip(values)
                .map(|(name, expr)| Ok((position(name)?, expr)))
                .collect::<Result<_, Refusal>>()?,
            MergeIntoAction::Delete => vec![],
        };
        let update = matches!(clause.action, MergeIntoAction::Update(_));
        for (at, expr) in assigned {
            let flow = w.expr(expr, &scope, env)?;
            w.evaluated_by(expr, &flow);
            let slot = out.cols.get_mut(at).ok_or_else(|| Refusal::Malformed("MERGE".into()))?;
            *slot = w.sets.merge(*slot, flow);
            if update {
                let deciders = w.sets.union(which, predicates);
                w.sets.add(&mut slot.field, Indirect::Conditional, deciders);
            }
        }
        if !update {
            w.sets.add(&mut out.dataset, Indirect::Join, which);
            w.sets.add(&mut out.dataset, Indirect::Filter, predicates);
        }
    }
    Ok(out)
}
