//! What sqlparser reads as one thing only in its own dialects.

use sqlparser::ast::{self, ObjectNamePart, TableFactor, VisitMut, VisitorMut};
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
