//! What sqlparser reads as one thing only in its own dialects, and what DataFusion plans only as a table factor.

use sqlparser::ast::{self, ObjectNamePart, TableFactor, TableWithJoins, VisitMut, VisitorMut};
use std::ops::ControlFlow;

/// `unnest(…)` in `FROM` as the table factor that DataFusion plans.
pub(crate) fn unnest(query: &mut impl VisitMut) {
    let ControlFlow::Continue(()) = VisitMut::visit(query, &mut Unnest);
}

struct Unnest;

impl VisitorMut for Unnest {
    type Break = std::convert::Infallible;

    fn pre_visit_table_factor(&mut self, factor: &mut TableFactor) -> ControlFlow<Self::Break> {
        let TableFactor::Table { name, alias, args: Some(args), .. } = factor else {
            return ControlFlow::Continue(());
        };
        let [ObjectNamePart::Identifier(ident)] = name.0.as_slice() else { return ControlFlow::Continue(()) };
        if ident.quote_style.is_some() || !ident.value.eq_ignore_ascii_case("unnest") {
            return ControlFlow::Continue(());
        }
        let exprs: Option<Vec<ast::Expr>> = args
            .args
            .iter()
            .map(|arg| match arg {
                ast::FunctionArg::Unnamed(ast::FunctionArgExpr::Expr(expr)) => Some(expr.clone()),
                _ => None,
            })
            .collect();
        if let Some(array_exprs) = exprs {
            let alias = alias.take();
            *factor = TableFactor::UNNEST {
                alias,
                array_exprs,
                with_offset: false,
                with_offset_alias: None,
                with_ordinality: false,
            };
        }
        ControlFlow::Continue(())
    }
}

/// `a JOIN b … ASOF JOIN c …` as `((a JOIN b …) ASOF JOIN c …)`: each join by time becomes a table factor of its own,
/// which [`crate::AsOfRelations`] plans. What stands left of it stays left of it.
pub(crate) fn asof(query: &mut impl VisitMut) {
    let ControlFlow::Continue(()) = VisitMut::visit(query, &mut AsOf);
}

struct AsOf;

impl VisitorMut for AsOf {
    type Break = std::convert::Infallible;

    fn pre_visit_select(&mut self, select: &mut ast::Select) -> ControlFlow<Self::Break> {
        select.from.iter_mut().for_each(fold);
        ControlFlow::Continue(())
    }

    fn pre_visit_table_factor(&mut self, factor: &mut TableFactor) -> ControlFlow<Self::Break> {
        if let TableFactor::NestedJoin { table_with_joins, alias: _ } = factor
            && !is_folded(table_with_joins)
        {
            fold(table_with_joins);
        }
        ControlFlow::Continue(())
    }
}

fn is_asof(join: &ast::Join) -> bool {
    matches!(join.join_operator, ast::JoinOperator::AsOf { .. })
}

/// The one shape that is planned as a join by time.
pub(crate) fn is_folded(table: &TableWithJoins) -> bool {
    matches!(table.joins.as_slice(), [join] if is_asof(join))
}

fn fold(table: &mut TableWithJoins) {
    if !table.joins.iter().any(is_asof) {
        return;
    }
    let nest = |relation: TableFactor, joins: Vec<ast::Join>| TableFactor::NestedJoin {
        table_with_joins: Box::new(TableWithJoins { relation, joins }),
        alias: None,
    };
    let mut relation = table.relation.clone();
    let mut pending = vec![];
    for join in std::mem::take(&mut table.joins) {
        if is_asof(&join) {
            let before = std::mem::take(&mut pending);
            let left = if before.is_empty() { relation } else { nest(relation, before) };
            relation = nest(left, vec![join]);
        } else {
            pending.push(join);
        }
    }
    *table = TableWithJoins { relation, joins: pending };
}
