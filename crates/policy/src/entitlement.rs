//! Entitlement tables: who may see which rows, kept as rows of a dataset.
//!
//! A decision holds `of IN (SELECT column FROM table WHERE condition)` as a function of `of` that cannot be called: whoever
//! governs a scan puts the subquery over the table's newest version in its place ([`resolved`]), or nothing runs.

use crate::rows::sql;
use custody_model::DatasetName;
use datafusion_common::arrow::datatypes::DataType;
use datafusion_common::tree_node::{Transformed, TreeNode};
use datafusion_common::{Result, ScalarValue, Spans, exec_err};
use datafusion_expr::{
    ColumnarValue, Expr, LogicalPlan, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Subquery, Volatility,
    expr::{InSubquery, ScalarFunction},
};
use std::{fmt, sync::Arc};

/// What a row set asks of an entitlement table.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Entitlement {
    /// The table.
    pub table: DatasetName,
    /// The column whose values are entitled to, by its name in the bundle.
    pub column: String,
    /// Its type, which is that of the column that it is compared with.
    pub data_type: DataType,
    /// Which rows count: over unqualified columns, attributes bound as literals.
    pub condition: Expr,
}

impl Entitlement {
    /// `of IN (…)`.
    pub(crate) fn of(self, of: Expr) -> Expr {
        let function = Function { entitlement: self, signature: Signature::any(1, Volatility::Stable) };
        Expr::ScalarFunction(ScalarFunction::new_udf(Arc::new(ScalarUDF::from(function)), vec![of]))
    }

    /// The entitlement in this expression and what is compared with it, where it is one.
    pub fn in_expr(expr: &Expr) -> Option<(&Self, &Expr)> {
        let Expr::ScalarFunction(f) = expr else { return None };
        let function = f.func.inner().downcast_ref::<Function>()?;
        Some((&function.entitlement, f.args.first()?))
    }

    /// The entitlements in an expression, each once.
    pub fn all_in(expr: &Expr) -> Result<Vec<Self>> {
        let mut found: Vec<Self> = vec![];
        expr.apply(|e| {
            if let Some((entitlement, _)) = Self::in_expr(e)
                && !found.contains(entitlement)
            {
                found.push(entitlement.clone());
            }
            Ok(datafusion_common::tree_node::TreeNodeRecursion::Continue)
        })?;
        Ok(found)
    }
}

/// The expression with each entitlement as a subquery over the plan that `plan` gives for it: one column, its values.
pub fn resolved(expr: Expr, plan: &dyn Fn(&Entitlement) -> Option<Arc<LogicalPlan>>) -> Result<Expr> {
    let put = |e: Expr| {
        let Some((entitlement, of)) = Entitlement::in_expr(&e) else { return Ok(Transformed::no(e)) };
        let Some(subquery) = plan(entitlement) else {
            return exec_err!("entitlements in `{}` cannot be read", entitlement.table);
        };
        let subquery = Subquery { subquery, outer_ref_columns: vec![], spans: Spans::new() };
        Ok(Transformed::yes(Expr::InSubquery(InSubquery::new(Box::new(of.clone()), subquery, false))))
    };
    expr.transform(put).map(|t| t.data)
}

impl fmt::Display for Entitlement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SELECT {} FROM {}", self.column, self.table)?;
        match &self.condition {
            Expr::Literal(ScalarValue::Boolean(Some(true)), _) => Ok(()),
            condition => write!(f, " WHERE {}", sql(condition)),
        }
    }
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Function {
    entitlement: Entitlement,
    signature: Signature,
}

impl ScalarUDFImpl for Function {
    fn name(&self) -> &str {
        "entitled"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(DataType::Boolean)
    }

    fn invoke_with_args(&self, _: ScalarFunctionArgs) -> Result<ColumnarValue> {
        exec_err!("entitlements in `{}` were not read", self.entitlement.table)
    }
}
