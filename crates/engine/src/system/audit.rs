//! `system.access.audit` as a table that answers filters itself.
//!
//! What holds here: the scan shows the viewer's rows and no others before any filter is looked at. A filter is taken where
//! it is a comparison of columns with literals that no row can make fail, and then answered exactly; all others stay
//! above. What leaves a partition, and where its batches end, depends on rows that the viewer may see.

use super::audit_exec::AuditExec;
use async_trait::async_trait;
use custody_system_tables::{AuditColumn, AuditScan, Condition};
use datafusion::{
    arrow::datatypes::SchemaRef,
    catalog::{Session, TableProvider},
    common::{DataFusionError, Result, ScalarValue},
    logical_expr::{BinaryExpr, Expr, Operator, TableProviderFilterPushDown, TableType, expr::InList},
    physical_plan::ExecutionPlan,
};
use std::{collections::BTreeSet, sync::Arc};

/// The table for one viewer at one position.
#[derive(Debug)]
pub(super) struct AuditTable(AuditScan);

impl AuditTable {
    pub(super) fn new(scan: AuditScan) -> Self {
        Self(scan)
    }
}

#[async_trait]
impl TableProvider for AuditTable {
    fn schema(&self) -> SchemaRef {
        Arc::clone(self.0.schema())
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    fn supports_filters_pushdown(&self, filters: &[&Expr]) -> Result<Vec<TableProviderFilterPushDown>> {
        let answer = |filter: &&Expr| match condition(filter) {
            Some(_) => TableProviderFilterPushDown::Exact,
            None => TableProviderFilterPushDown::Unsupported,
        };
        Ok(filters.iter().map(answer).collect())
    }

    async fn scan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let mut scan = self.0.clone();
        let conditions = filters.iter().map(|filter| {
            condition(filter).ok_or_else(|| DataFusionError::Internal(format!("not a filter of this table: {filter}")))
        });
        let conditions = conditions.collect::<Result<Vec<_>>>()?;
        if !conditions.is_empty() {
            scan = scan.filter(&Condition::All(conditions));
        }
        if let Some(columns) = projection {
            scan = scan.project(columns).map_err(|e| DataFusionError::External(e.into()))?;
        }
        Ok(Arc::new(AuditExec::new(scan, state.config().target_partitions(), limit)))
    }
}

/// What the scan can answer itself.
fn condition(filter: &Expr) -> Option<Condition> {
    match filter {
        Expr::BinaryExpr(BinaryExpr { left, op: Operator::And, right }) => {
            Some(Condition::All(vec![condition(left)?, condition(right)?]))
        }
        Expr::BinaryExpr(BinaryExpr { left, op: Operator::Or, right }) => {
            Some(Condition::Any(vec![condition(left)?, condition(right)?]))
        }
        Expr::BinaryExpr(BinaryExpr { left, op, right }) => match (left.as_ref(), right.as_ref()) {
            (Expr::Column(column), Expr::Literal(value, _)) => comparison(&column.name, *op, value),
            (Expr::Literal(value, _), Expr::Column(column)) => comparison(&column.name, op.swap()?, value),
            _ => None,
        },
        Expr::InList(InList { expr, list, negated }) => {
            let Expr::Column(column) = expr.as_ref() else { return None };
            let texts: Option<BTreeSet<String>> = list.iter().map(|e| text(literal(e)?)).collect();
            one_of(&column.name, texts?, *negated)
        }
        Expr::IsNull(inner) => match inner.as_ref() {
            Expr::Column(column) => Some(Condition::Null(AuditColumn::named(&column.name)?)),
            _ => None,
        },
        Expr::IsNotNull(inner) => match inner.as_ref() {
            Expr::Column(column) => Some(Condition::IsNot(AuditColumn::named(&column.name)?, BTreeSet::new())),
            _ => None,
        },
        _ => None,
    }
}

fn literal(e: &Expr) -> Option<&ScalarValue> {
    match e {
        Expr::Literal(value, _) => Some(value),
        _ => None,
    }
}

fn text(value: &ScalarValue) -> Option<String> {
    value.try_as_str().flatten().map(str::to_owned)
}

fn comparison(column: &str, op: Operator, value: &ScalarValue) -> Option<Condition> {
    if column == "event_time" {
        let ScalarValue::TimestampMicrosecond(Some(at), _) = value else { return None };
        let nothing = Condition::Any(vec![]);
        return Some(match op {
            Operator::Eq => Condition::Time(*at..=*at),
            Operator::GtEq => Condition::Time(*at..=i64::MAX),
            Operator::LtEq => Condition::Time(i64::MIN..=*at),
            Operator::Gt => at.checked_add(1).map_or(nothing, |at| Condition::Time(at..=i64::MAX)),
            Operator::Lt => at.checked_sub(1).map_or(nothing, |at| Condition::Time(i64::MIN..=at)),
            _ => return None,
        });
    }
    match op {
        Operator::Eq => one_of(column, BTreeSet::from([text(value)?]), false),
        Operator::NotEq => one_of(column, BTreeSet::from([text(value)?]), true),
        _ => None,
    }
}

fn one_of(column: &str, values: BTreeSet<String>, negated: bool) -> Option<Condition> {
    if column == "entry_id" && !negated {
        // Ids stand in the table in one form; a text in another is equal to none of them.
        let canonical = |text: &String| {
            let id = uuid::Uuid::try_parse(text).ok()?;
            (id.hyphenated().to_string() == *text).then(|| id.as_u128())
        };
        return Some(Condition::Entry(values.iter().filter_map(canonical).collect()));
    }
    let column = AuditColumn::named(column)?;
    Some(if negated { Condition::IsNot(column, values) } else { Condition::Is(column, values) })
}
