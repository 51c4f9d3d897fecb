//! What an expression depends on, by chapter "Expressions".
//!
//! INVARIANT: the match over `Expr` has no wildcard arm, so that an upgrade which adds a variant does not compile.

use crate::{
    Refusal,
    extract::{EnvId, Scope, Walk, lookup},
    flow::{Flow, Relation, SetId},
    rule::rule,
    text,
};
use custody_model::{DeclassificationTarget, Direct, Indirect, Part};
use datafusion_common::Column;
use datafusion_expr::{
    Expr, LogicalPlan, Volatility, WindowFrameBound, WindowFrameUnits, WindowFunctionDefinition,
    expr::{AggregateFunction, Case, GroupingSet, ScalarFunction, Sort, WindowFunction},
    utils::AggregateOrderSensitivity,
};
use std::rc::Rc;

/// Aggregates whose result does not depend on the order of their input, though they do not all say so.
const ANY_ORDER: [&str; 33] = [
    "approx_distinct",
    "approx_median",
    "approx_percentile_cont",
    "approx_percentile_cont_with_weight",
    "avg",
    "bit_and",
    "bit_or",
    "bit_xor",
    "bool_and",
    "bool_or",
    "corr",
    "count",
    "covar_pop",
    "covar_samp",
    "grouping",
    "max",
    "median",
    "min",
    "percentile_cont",
    "regr_avgx",
    "regr_avgy",
    "regr_count",
    "regr_intercept",
    "regr_r2",
    "regr_slope",
    "regr_sxx",
    "regr_sxy",
    "regr_syy",
    "stddev",
    "stddev_pop",
    "sum",
    "var",
    "var_pop",
];
/// Window functions that give peers the same value.
const PEERS_ALIKE: [&str; 4] = ["cume_dist", "dense_rank", "percent_rank", "rank"];

impl Walk<'_> {
    /// What an expression depends on.
    pub(crate) fn expr(&mut self, expr: &Expr, scope: &Rc<Scope>, env: EnvId) -> Result<Flow, Refusal> {
        self.enter()?;
        let flow = self.dispatch(expr, scope, env)?;
        self.leave();
        Ok(flow)
    }

    fn dispatch(&mut self, expr: &Expr, scope: &Rc<Scope>, env: EnvId) -> Result<Flow, Refusal> {
        match expr {
            Expr::Alias(alias) => self.expr(&alias.expr, scope, env),
            Expr::Column(column) => lookup(column, scope).ok_or_else(|| unresolved(column)),
            Expr::OuterReferenceColumn(..) if !rule!("subquery.outer") => Ok(Flow::default()),
            Expr::OuterReferenceColumn(_, column) => self.outer(column, env).ok_or_else(|| unresolved(column)),
            Expr::Literal(..) | Expr::Placeholder(_) | Expr::LambdaVariable(_) => Ok(Flow::default()),
            Expr::ScalarVariable(..) => {
                self.volatile = true;
                Ok(Flow::default())
            }
            Expr::BinaryExpr(b) => self.operands([&*b.left, &*b.right], scope, env),
            Expr::Like(l) | Expr::SimilarTo(l) => self.operands([&*l.expr, &*l.pattern], scope, env),
            Expr::Between(b) => self.operands([&*b.expr, &*b.low, &*b.high], scope, env),
            Expr::InList(i) => self.operands([&*i.expr].into_iter().chain(&i.list), scope, env),
            Expr::Not(e)
            | Expr::IsNotNull(e)
            | Expr::IsNull(e)
            | Expr::IsTrue(e)
            | Expr::IsFalse(e)
            | Expr::IsUnknown(e)
            | Expr::IsNotTrue(e)
            | Expr::IsNotFalse(e)
            | Expr::IsNotUnknown(e)
            | Expr::Negative(e) => self.operands([&**e], scope, env),
            Expr::Cast(c) => self.operands([&*c.expr], scope, env),
            Expr::TryCast(c) => self.operands([&*c.expr], scope, env),
            Expr::Unnest(u) => self.operands([&*u.expr], scope, env),
            Expr::Lambda(l) => self.operands([&*l.body], scope, env),
            Expr::HigherOrderFunction(f) => {
                self.volatile |= f.func.signature().volatility == Volatility::Volatile;
                self.operands(&f.args, scope, env)
            }
            Expr::ScalarFunction(f) => self.scalar_function(f, scope, env),
            Expr::Case(case) => self.case(case, scope, env),
            Expr::AggregateFunction(f) => self.aggregate_function(f, scope, env),
            Expr::WindowFunction(f) => self.window_function(f, scope, env),
            Expr::ScalarSubquery(s) => {
                let relation = self.subquery(&s.subquery, scope, env)?;
                let mut flow = column(&relation, "scalar subquery")?;
                self.as_value(&mut flow, &relation);
                Ok(flow)
            }
            Expr::InSubquery(i) => self.membership(&i.expr, &i.subquery.subquery, scope, env),
            Expr::SetComparison(s) => self.membership(&s.expr, &s.subquery.subquery, scope, env),
            Expr::Exists(e) => {
                let relation = self.subquery(&e.subquery.subquery, scope, env)?;
                let mut flow = Flow::default();
                self.as_value(&mut flow, &relation);
                Ok(flow)
            }
            Expr::GroupingSet(sets) => self.operands(distinct(sets), scope, env),
            #[expect(deprecated, reason = "the match has no wildcard arm")]
            Expr::Wildcard { .. } => {
                self.not_understood("*");
                let mut all = self.outer_all(env);
                for (_, relation) in &scope.parts {
                    let sources = self.sources_of(relation);
                    all = self.sets.union(all, sources);
                }
                Ok(transformation(all))
            }
        }
    }

    /// Operands side by side, through an expression.
    pub(crate) fn operands<'e>(
        &mut self,
        exprs: impl IntoIterator<Item = &'e Expr>,
        scope: &Rc<Scope>,
        env: EnvId,
    ) -> Result<Flow, Refusal> {
        let mut all = Flow::default();
        for expr in exprs {
            let flow = self.expr(expr, scope, env)?;
            all = self.sets.merge(all, flow);
        }
        Ok(self.sets.transform(all))
    }

    fn scalar_function(&mut self, f: &ScalarFunction, scope: &Rc<Scope>, env: EnvId) -> Result<Flow, Refusal> {
        self.volatile |= f.func.signature().volatility == Volatility::Volatile;
        // Arguments whose value flows, and arguments that decide which one does.
        let (flows, decides) = match (f.name(), f.args.len()) {
            ("coalesce" | "nvl", n) => (0..n, 0..n.saturating_sub(1)),
            ("nvl2", 3) => (1..3, 0..1),
            ("nullif", 2) => (0..1, 0..2),
            (_, n) => (0..n, 0..0),
        };
        let mut all = Flow::default();
        for (i, arg) in f.args.iter().enumerate() {
            let flow = self.expr(arg, scope, env)?;
            if flows.contains(&i) {
                all = self.sets.merge(all, flow);
            }
            if rule!("function.deciders", decides.contains(&i)) {
                self.sets.decide(&mut all, Indirect::Conditional, &flow);
            }
        }
        let all = self.sets.transform(all);
        self.declassify(all, |target| matches!(target, DeclassificationTarget::Function(name) if name == f.name()))
    }

    fn case(&mut self, case: &Case, scope: &Rc<Scope>, env: EnvId) -> Result<Flow, Refusal> {
        let branches = case.when_then_expr.iter().map(|(_, then)| &**then).chain(case.else_expr.as_deref());
        let mut all = self.operands(branches, scope, env)?;
        for condition in case.expr.as_deref().into_iter().chain(case.when_then_expr.iter().map(|(when, _)| &**when)) {
            let flow = self.expr(condition, scope, env)?;
            if rule!("case.conditions") {
                self.sets.decide(&mut all, Indirect::Conditional, &flow);
            }
        }
        Ok(all)
    }

    fn aggregate_function(&mut self, f: &AggregateFunction, scope: &Rc<Scope>, env: EnvId) -> Result<Flow, Refusal> {
        self.volatile |= f.func.signature().volatility == Volatility::Volatile;
        // Even with ORDER BY: ties stand in physical order.
        self.physical |= picks_by_order(&f.func);
        let flow = self.aggregated(&f.params.args, f.params.filter.as_deref(), scope, env)?;
        let flow = self.sorted(flow, &f.params.order_by, Indirect::Sort, scope, env)?;
        self.declassify_aggregate(flow, f.func.name())
    }

    /// Arguments through an aggregate; without any that depends on a source, the existence of rows is counted.
    fn aggregated(
        &mut self,
        args: &[Expr],
        filter: Option<&Expr>,
        scope: &Rc<Scope>,
        env: EnvId,
    ) -> Result<Flow, Refusal> {
        let args = self.operands(args.iter().filter(|a| !is_wildcard(a)), scope, env)?;
        let mut flow = if rule!("aggregate.arguments") { self.sets.aggregate(args) } else { Flow::default() };
        if self.sets.sources(&flow).is_empty() {
            let rows = scope.parts.iter().map(|(_, relation)| relation.rows).collect::<Vec<_>>();
            let rows = self.sets.unite(rows);
            set_direct(&mut flow, Direct::Aggregation, rows);
        }
        if let Some(filter) = filter.filter(|_| rule!("aggregate.filter")) {
            let by = self.expr(filter, scope, env)?;
            self.sets.decide(&mut flow, Indirect::Conditional, &by);
        }
        Ok(flow)
    }

    fn sorted(
        &mut self,
        mut flow: Flow,
        sorts: &[Sort],
        kind: Indirect,
        scope: &Rc<Scope>,
        env: EnvId,
    ) -> Result<Flow, Refusal> {
        for sort in sorts.iter().filter(|_| rule!("aggregate.order")) {
            let by = self.expr(&sort.expr, scope, env)?;
            self.sets.decide(&mut flow, kind, &by);
        }
        Ok(flow)
    }

    fn window_function(&mut self, f: &WindowFunction, scope: &Rc<Scope>, env: EnvId) -> Result<Flow, Refusal> {
        let params = &f.params;
        let frame = &params.window_frame;
        let whole = matches!(&frame.start_bound, WindowFrameBound::Preceding(n) if n.is_null())
            && matches!(&frame.end_bound, WindowFrameBound::Following(n) if n.is_null());
        let by_position = frame.units == WindowFrameUnits::Rows && !whole;
        let (mut flow, volatility, picks) = match &f.fun {
            WindowFunctionDefinition::AggregateUDF(fun) => {
                let flow = self.aggregated(&params.args, params.filter.as_deref(), scope, env)?;
                (flow, fun.signature().volatility, by_position || picks_by_order(fun))
            }
            WindowFunctionDefinition::WindowUDF(fun) => {
                let mut flow = self.operands(&params.args, scope, env)?;
                if let Some(filter) = params.filter.as_deref() {
                    let by = self.expr(filter, scope, env)?;
                    self.sets.decide(&mut flow, Indirect::Conditional, &by);
                }
                (flow, fun.signature().volatility, !PEERS_ALIKE.contains(&fun.name()))
            }
        };
        self.volatile |= volatility == Volatility::Volatile;
        // Even with ORDER BY: ties stand in physical order.
        self.physical |= picks;
        let mut keys = SetId::EMPTY;
        for key in params.partition_by.iter().chain(params.order_by.iter().map(|sort| &sort.expr)) {
            let by = self.expr(key, scope, env)?;
            if rule!("window.keys") {
                self.sets.decide(&mut flow, Indirect::Window, &by);
            }
            let sources = self.sets.sources(&by);
            keys = self.sets.union(keys, sources);
        }
        flow.windows = self.sets.union(flow.windows, keys);
        Ok(flow)
    }

    fn membership(
        &mut self,
        operand: &Expr,
        plan: &LogicalPlan,
        scope: &Rc<Scope>,
        env: EnvId,
    ) -> Result<Flow, Refusal> {
        let operand = self.expr(operand, scope, env)?;
        let relation = self.subquery(plan, scope, env)?;
        let member = column(&relation, "subquery")?;
        let flow = if rule!("subquery.member") { self.sets.merge(operand, member) } else { operand };
        let mut flow = self.sets.transform(flow);
        self.as_value(&mut flow, &relation);
        Ok(flow)
    }

    /// A subquery inside an expression: its outer query is the scope the expression stands in.
    pub(crate) fn subquery(
        &mut self,
        plan: &LogicalPlan,
        scope: &Rc<Scope>,
        env: EnvId,
    ) -> Result<Rc<Relation>, Refusal> {
        let frame = self.frame(scope);
        let inner = self.env_with(env, |e| {
            e.frames.push(frame);
            e.lateral.clear();
        });
        self.walk(plan, inner)
    }

    /// A relation used as a value: what decides its rows decides the value.
    fn as_value(&mut self, flow: &mut Flow, relation: &Relation) {
        if !rule!("subquery.rows") {
            return;
        }
        let dataset = self.sets.unite(relation.dataset);
        let deciders = self.sets.union(dataset, relation.rows);
        self.sets.add(&mut flow.field, Indirect::Conditional, deciders);
        flow.windows = self.sets.union(flow.windows, relation.windows);
    }

    /// Applies the rules for an aggregate function.
    fn declassify_aggregate(&mut self, flow: Flow, name: &str) -> Result<Flow, Refusal> {
        self.declassify(
            flow,
            |target| matches!(target, DeclassificationTarget::Aggregates(names) if names.iter().any(|n| n == name)),
        )
    }

    /// Replaces the atoms of a matching expression by copies that carry the rule; which part of a label it lowers is
    /// for `labels` to say.
    fn declassify(
        &mut self,
        mut flow: Flow,
        matches: impl Fn(&DeclassificationTarget) -> bool,
    ) -> Result<Flow, Refusal> {
        for rule in self.rules.iter().filter(|r| matches(&r.target)) {
            for set in &mut flow.direct {
                *set = self.with_rule(*set, rule)?;
            }
            if rule.from.contains(&Part::Implicit) {
                for set in &mut flow.field {
                    *set = self.with_rule(*set, rule)?;
                }
            }
        }
        Ok(flow)
    }

    // An expression at a node.

    /// The value of an output of a node.
    pub(crate) fn value(
        &mut self,
        expr: &Expr,
        scope: &Rc<Scope>,
        env: EnvId,
        at: (u32, u32),
    ) -> Result<Flow, Refusal> {
        let mut flow = self.expr(expr, scope, env)?;
        self.evaluated_by(expr, &flow);
        if !text::is_plain(expr) && !is_literal(expr) {
            self.hop(&mut flow, at.0, at.1, |style| text::of(style, expr));
        }
        Ok(flow)
    }

    /// Makes an expression decide rows of a relation. Returns its sources.
    pub(crate) fn decides(
        &mut self,
        relation: &mut Relation,
        kind: Indirect,
        expr: &Expr,
        scope: &Rc<Scope>,
        env: EnvId,
    ) -> Result<SetId, Refusal> {
        let flow = self.expr(expr, scope, env)?;
        self.evaluated_by(expr, &flow);
        let sources = self.sets.sources(&flow);
        self.sets.add(&mut relation.dataset, kind, sources);
        relation.windows = self.sets.union(relation.windows, flow.windows);
        Ok(sources)
    }

    /// Columns inside an expression can make the statement fail; bare columns cannot, and policy's own are total.
    pub(crate) fn evaluated_by(&mut self, expr: &Expr, flow: &Flow) {
        if !text::is_plain(expr) {
            let sources = self.sets.sources(flow);
            let sources = self.only(sources, |atom| atom.by_policy.is_none() && atom.field.is_some());
            self.evaluate(sources);
        }
    }
}

/// A value made of everything in a set.
pub(crate) fn transformation(set: SetId) -> Flow {
    let mut flow = Flow::default();
    set_direct(&mut flow, Direct::Transformation, set);
    flow
}

/// Sets one kind of DIRECT.
pub(crate) fn set_direct(flow: &mut Flow, kind: Direct, set: SetId) {
    if let Some(slot) = flow.direct.get_mut(kind as usize) {
        *slot = set;
    }
}

/// The expressions of all grouping sets, each once, in the order of the aggregate's outputs.
pub(crate) fn distinct(sets: &GroupingSet) -> Vec<&Expr> {
    sets.distinct_expr()
}

fn picks_by_order(f: &datafusion_expr::AggregateUDF) -> bool {
    f.order_sensitivity() != AggregateOrderSensitivity::Insensitive && !ANY_ORDER.contains(&f.name())
}

fn column(relation: &Relation, what: &str) -> Result<Flow, Refusal> {
    relation.cols.first().copied().ok_or_else(|| Refusal::Malformed(what.into()))
}

fn unresolved(column: &Column) -> Refusal {
    Refusal::Column { name: column.flat_name(), spans: column.spans.clone() }
}

fn is_literal(expr: &Expr) -> bool {
    match expr {
        Expr::Alias(alias) => is_literal(&alias.expr),
        Expr::Literal(..) => true,
        _ => false,
    }
}

#[expect(deprecated, reason = "`count(*)` of old plans")]
fn is_wildcard(expr: &Expr) -> bool {
    matches!(expr, Expr::Wildcard { .. })
}
