//! Marker functions: they put into the plan who masks and who filters, for lineage and `EXPLAIN`, and cost nothing.
//!
//! `mask('policy', 'rung', expr)` and `rows('name', expr)` give way to `expr` in the optimizer's first pass. Names and
//! argument order are a contract with `lineage`, which tells them by name and only below a barrier. They are not
//! registered anywhere, so no statement can call them.

use custody_model::Rung;
use datafusion_common::arrow::datatypes::{DataType, Field, FieldRef};
use datafusion_common::{DataFusionError, Result, ScalarValue, exec_err};
use datafusion_expr::simplify::{ExprSimplifyResult, SimplifyContext};
use datafusion_expr::{
    ColumnarValue, Expr, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
    expr::ScalarFunction, lit,
};
use std::sync::{Arc, LazyLock};

/// Name of the marker around a masked column: `mask('policy', 'rung', expr)`.
pub const MASK: &str = "mask";
/// Name of the marker around a row set or guard: `rows('name', expr)`.
pub const ROWS: &str = "rows";

/// What a marker says.
#[derive(Clone, PartialEq, Debug)]
pub enum Marker<'a> {
    /// A masked column: which policy, which rung, and how.
    Mask(&'a str, Rung, &'a Expr),
    /// A row set or guard: its name and predicate.
    Rows(&'a str, &'a Expr),
}

/// `mask('policy', 'rung', expr)`.
pub fn mask(policy: &str, rung: Rung, expr: Expr) -> Expr {
    call(&MASK_UDF, vec![lit(policy), lit(rung.word()), expr])
}

/// `rows('name', expr)`.
pub fn rows(name: &str, expr: Expr) -> Expr {
    call(&ROWS_UDF, vec![lit(name), expr])
}

/// What this expression says, where it is a marker.
pub fn marker_of(expr: &Expr) -> Option<Marker<'_>> {
    let Expr::ScalarFunction(f) = expr else { return None };
    match (f.name(), f.args.as_slice()) {
        (MASK, [policy, rung, inner]) => {
            let rung = text(rung)?;
            Some(Marker::Mask(text(policy)?, Rung::ALL.into_iter().find(|r| r.word() == rung)?, inner))
        }
        (ROWS, [name, inner]) => Some(Marker::Rows(text(name)?, inner)),
        _ => None,
    }
}

fn text(expr: &Expr) -> Option<&str> {
    match expr {
        Expr::Literal(ScalarValue::Utf8(Some(s)), _) => Some(s),
        _ => None,
    }
}

fn call(udf: &LazyLock<Arc<ScalarUDF>>, args: Vec<Expr>) -> Expr {
    Expr::ScalarFunction(ScalarFunction::new_udf(Arc::clone(udf), args))
}

static MASK_UDF: LazyLock<Arc<ScalarUDF>> = LazyLock::new(|| Arc::new(Transparent::new(MASK, 3).into()));
static ROWS_UDF: LazyLock<Arc<ScalarUDF>> = LazyLock::new(|| Arc::new(Transparent::new(ROWS, 2).into()));

/// A function that is its last argument.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Transparent {
    name: &'static str,
    signature: Signature,
}

impl Transparent {
    fn new(name: &'static str, arguments: usize) -> Self {
        Self { name, signature: Signature::any(arguments, Volatility::Immutable) }
    }
}

impl From<Transparent> for Arc<ScalarUDF> {
    fn from(t: Transparent) -> Self {
        Arc::new(t.into())
    }
}

impl ScalarUDFImpl for Transparent {
    fn name(&self) -> &str {
        self.name
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        types.last().cloned().ok_or_else(|| no_argument(self.name))
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs) -> Result<FieldRef> {
        let last = args.arg_fields.last().ok_or_else(|| no_argument(self.name))?;
        Ok(Arc::new(Field::new(self.name, last.data_type().clone(), true)))
    }

    fn simplify(&self, mut args: Vec<Expr>, _: &SimplifyContext) -> Result<ExprSimplifyResult> {
        Ok(match args.pop() {
            Some(inner) => ExprSimplifyResult::Simplified(inner),
            None => ExprSimplifyResult::Original(args),
        })
    }

    fn invoke_with_args(&self, mut args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        match args.args.pop() {
            Some(value) => Ok(value),
            None => exec_err!("`{}` needs an argument", self.name),
        }
    }
}

fn no_argument(name: &str) -> DataFusionError {
    DataFusionError::Plan(format!("`{name}` needs an argument"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use datafusion_expr::{col, lit};

    #[test]
    fn markers_read_back() {
        let e = mask("research.policy1", Rung::Partial, col("a"));
        assert_eq!(marker_of(&e), Some(Marker::Mask("research.policy1", Rung::Partial, &col("a"))));
        assert_eq!(e.to_string(), r#"mask(Utf8("research.policy1"), Utf8("partial"), a)"#);
        let e = rows("eu", col("region").eq(lit("eu")));
        assert_eq!(marker_of(&e), Some(Marker::Rows("eu", &col("region").eq(lit("eu")))));
        assert_eq!(marker_of(&col("a")), None);
    }
}
