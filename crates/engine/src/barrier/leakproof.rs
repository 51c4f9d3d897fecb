//! Predicates that no hidden row can make fail: they may run below a barrier.
//!
//! Comparisons, IS [NOT] NULL, IS DISTINCT FROM, IN, BETWEEN and LIKE between bare scalar columns and literals of one
//! type, under AND, OR, NOT; dynamic filters over bare columns. Casts, arithmetic, functions, subqueries and predicates
//! without a column are not among them. Scans prune by nothing else anyway.

use custody_policy::enforce;
use datafusion::arrow::datatypes::{DataType, Schema};
use datafusion::common::{DFSchema, ExprSchema, ScalarValue};
use datafusion::logical_expr::{Between, BinaryExpr, Expr, Like, Operator, expr::InList};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::expressions as physical;
use std::sync::Arc;

/// Longer patterns could exceed the size limit of a compiled expression.
const LONGEST_PATTERN: usize = 256;

/// Whether this predicate over the columns of `schema` is leakproof.
pub(crate) fn logical(predicate: &Expr, schema: &DFSchema) -> bool {
    let has_column = !predicate.column_refs().is_empty();
    !enforce!("leakproof.columns", !has_column) && !enforce!("leakproof.conjuncts", !condition(predicate, schema))
}

fn condition(e: &Expr, schema: &DFSchema) -> bool {
    match e {
        Expr::Alias(a) => condition(&a.expr, schema),
        Expr::BinaryExpr(BinaryExpr { left, op: Operator::And | Operator::Or, right }) => {
            condition(left, schema) && condition(right, schema)
        }
        Expr::BinaryExpr(BinaryExpr { left, op, right }) => is_comparison(*op) && same(schema, [&**left, &**right]),
        Expr::Not(inner)
        | Expr::IsTrue(inner)
        | Expr::IsFalse(inner)
        | Expr::IsUnknown(inner)
        | Expr::IsNotTrue(inner)
        | Expr::IsNotFalse(inner)
        | Expr::IsNotUnknown(inner) => condition(inner, schema),
        Expr::IsNull(inner) | Expr::IsNotNull(inner) => is_column(inner, schema),
        Expr::Between(Between { expr, low, high, .. }) => same(schema, [&**expr, &**low, &**high]),
        Expr::InList(InList { expr, list, .. }) => {
            is_column(expr, schema)
                && list.iter().all(|e| matches!(e, Expr::Literal(..)))
                && same(schema, std::iter::once(&**expr).chain(list))
        }
        Expr::Like(Like { expr, pattern, escape_char: None, case_insensitive: false, .. }) => {
            is_column(expr, schema)
                && matches!(&**pattern, Expr::Literal(p, _) if is_pattern(p))
                && same(schema, [&**expr, &**pattern])
        }
        Expr::Column(_) => operand(e, schema) == Some(DataType::Boolean),
        Expr::Literal(ScalarValue::Boolean(_) | ScalarValue::Null, _) => true,
        _ => false,
    }
}

fn is_column(e: &Expr, schema: &DFSchema) -> bool {
    matches!(e, Expr::Column(_)) && operand(e, schema).is_some()
}

/// The type of a bare scalar column or a literal.
fn operand(e: &Expr, schema: &DFSchema) -> Option<DataType> {
    let data_type = match e {
        Expr::Column(c) => schema.field_from_column(c).ok()?.data_type().clone(),
        Expr::Literal(value, _) => value.data_type(),
        _ => return None,
    };
    is_scalar(&data_type).then_some(data_type)
}

/// Bare columns and literals, all of one type (a NULL has any).
fn same<'a>(schema: &DFSchema, operands: impl IntoIterator<Item = &'a Expr>) -> bool {
    let types: Option<Vec<_>> = operands.into_iter().map(|e| operand(e, schema)).collect();
    types.is_some_and(one_type)
}

fn one_type(types: Vec<DataType>) -> bool {
    let mut known = types.into_iter().filter(|t| *t != DataType::Null);
    let first = known.next();
    known.all(|t| Some(t) == first)
}

/// Whether this predicate over the columns of `schema` is leakproof.
pub(crate) fn physical(predicate: &Arc<dyn PhysicalExpr>, schema: &Schema) -> bool {
    !enforce!("leakproof.columns", !has_column(predicate))
        && !enforce!("leakproof.conjuncts", !physical_condition(predicate, schema))
}

fn has_column(e: &Arc<dyn PhysicalExpr>) -> bool {
    e.is::<physical::Column>() || e.children().into_iter().any(has_column)
}

fn physical_condition(e: &Arc<dyn PhysicalExpr>, schema: &Schema) -> bool {
    if let Some(b) = e.downcast_ref::<physical::BinaryExpr>() {
        return match b.op() {
            Operator::And | Operator::Or => {
                physical_condition(b.left(), schema) && physical_condition(b.right(), schema)
            }
            op => is_comparison(*op) && physical_same(schema, [b.left(), b.right()]),
        };
    }
    if let Some(n) = e.downcast_ref::<physical::NotExpr>() {
        return physical_condition(n.arg(), schema);
    }
    if let Some(n) = e.downcast_ref::<physical::IsNullExpr>() {
        return is_physical_column(n.arg(), schema);
    }
    if let Some(n) = e.downcast_ref::<physical::IsNotNullExpr>() {
        return is_physical_column(n.arg(), schema);
    }
    if let Some(i) = e.downcast_ref::<physical::InListExpr>() {
        return is_physical_column(i.expr(), schema)
            && i.list().iter().all(|e| e.is::<physical::Literal>())
            && physical_same(schema, std::iter::once(i.expr()).chain(i.list()));
    }
    if let Some(l) = e.downcast_ref::<physical::LikeExpr>() {
        return !l.case_insensitive()
            && is_physical_column(l.expr(), schema)
            && l.pattern().downcast_ref::<physical::Literal>().is_some_and(|p| is_pattern(p.value()))
            && physical_same(schema, [l.expr(), l.pattern()]);
    }
    if let Some(d) = e.downcast_ref::<physical::DynamicFilterPhysicalExpr>() {
        return d.children().into_iter().all(|c| is_physical_column(c, schema));
    }
    if e.is::<physical::Column>() {
        return physical_operand(e, schema) == Some(DataType::Boolean);
    }
    if let Some(l) = e.downcast_ref::<physical::Literal>() {
        return matches!(l.value(), ScalarValue::Boolean(_) | ScalarValue::Null);
    }
    false
}

fn is_physical_column(e: &Arc<dyn PhysicalExpr>, schema: &Schema) -> bool {
    e.is::<physical::Column>() && physical_operand(e, schema).is_some()
}

fn physical_operand(e: &Arc<dyn PhysicalExpr>, schema: &Schema) -> Option<DataType> {
    let data_type = if let Some(c) = e.downcast_ref::<physical::Column>() {
        schema.fields().get(c.index())?.data_type().clone()
    } else {
        e.downcast_ref::<physical::Literal>()?.value().data_type()
    };
    is_scalar(&data_type).then_some(data_type)
}

fn physical_same<'a>(schema: &Schema, operands: impl IntoIterator<Item = &'a Arc<dyn PhysicalExpr>>) -> bool {
    let types: Option<Vec<_>> = operands.into_iter().map(|e| physical_operand(e, schema)).collect();
    types.is_some_and(one_type)
}

fn is_comparison(op: Operator) -> bool {
    matches!(
        op,
        Operator::Eq
            | Operator::NotEq
            | Operator::Lt
            | Operator::LtEq
            | Operator::Gt
            | Operator::GtEq
            | Operator::IsDistinctFrom
            | Operator::IsNotDistinctFrom
    )
}

fn is_pattern(value: &ScalarValue) -> bool {
    match value.try_as_str() {
        Some(Some(text)) => text.len() <= LONGEST_PATTERN,
        Some(None) => true,
        None => false,
    }
}

/// Types whose comparison is total.
fn is_scalar(t: &DataType) -> bool {
    matches!(
        t,
        DataType::Null
            | DataType::Boolean
            | DataType::Int8
            | DataType::Int16
            | DataType::Int32
            | DataType::Int64
            | DataType::UInt8
            | DataType::UInt16
            | DataType::UInt32
            | DataType::UInt64
            | DataType::Float32
            | DataType::Float64
            | DataType::Utf8
            | DataType::LargeUtf8
            | DataType::Utf8View
            | DataType::Binary
            | DataType::LargeBinary
            | DataType::BinaryView
            | DataType::Date32
            | DataType::Date64
            | DataType::Time32(_)
            | DataType::Time64(_)
            | DataType::Timestamp(..)
            | DataType::Decimal128(..)
            | DataType::Decimal256(..)
    )
}

/// Whether this operator has a result for every pair of scalars.
pub(crate) fn is_total(op: Operator) -> bool {
    is_comparison(op) || matches!(op, Operator::And | Operator::Or)
}
