//! Entitlement tables that row sets look into: read at their newest version, by policy and for nobody else.
//!
//! What holds here: where one is not as the bundle knew it, nothing of the governed table is granted, and operators learn
//! why; each is a target of the read's entry, without a grant.

use crate::{pin::not_found, problem::from_datafusion, provider::Leaf, session::Session};
use custody_model::{DatasetDefinition, DatasetKind, FieldId, Pin, Problem, TableVersion};
use custody_policy::{Entitlement, Grant, RowGrant, RowPredicate, resolved};
use datafusion::{
    arrow::datatypes::DataType,
    common::{
        Column, Result as DfResult, ScalarValue,
        tree_node::{Transformed, TreeNode},
    },
    datasource::provider_as_source,
    logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder},
};
use std::{borrow::Cow, sync::Arc};

/// A table that a row set looks into.
#[derive(Clone)]
pub(crate) struct Entitling {
    pub(crate) at: TableVersion,
    pub(crate) definition: Arc<DatasetDefinition>,
}

impl Session {
    /// The grant with its entitlements as subqueries, and the tables that those read.
    pub(crate) async fn entitled<'g>(
        &self,
        at: &TableVersion,
        grant: &'g Grant,
    ) -> Result<(Cow<'g, Grant>, Vec<Entitling>), Problem> {
        let RowGrant::Where(predicate) = &grant.rows else { return Ok((Cow::Borrowed(grant), vec![])) };
        let wrong = |e| from_datafusion(&e);
        let mut asked: Vec<(String, Entitlement)> = vec![];
        for (name, expr) in predicate.sets.iter().chain(&predicate.guards) {
            asked.extend(Entitlement::all_in(expr).map_err(wrong)?.into_iter().map(|e| (name.clone(), e)));
        }
        if asked.is_empty() {
            return Ok((Cow::Borrowed(grant), vec![]));
        }
        let (mut plans, mut read) = (vec![], vec![]);
        for (name, entitlement) in asked {
            let Some((plan, entitling)) = self.entitlement(&entitlement).await? else {
                // Default deny: as for a row set that does not fit.
                self.alert(at, &Grant { failed: vec![name], ..grant.clone() }).await?;
                return Err(not_found(&at.name));
            };
            plans.push((entitlement, Arc::new(plan)));
            read.push(entitling);
        }
        let plan = |of: &Entitlement| plans.iter().find(|(e, _)| e == of).map(|(_, plan)| Arc::clone(plan));
        let put = |named: &[(String, Expr)]| {
            let one = |(name, e): &(String, Expr)| Ok((name.clone(), resolved(e.clone(), &plan)?));
            named.iter().map(one).collect::<DfResult<Vec<_>>>().map_err(wrong)
        };
        let rows = RowPredicate { sets: put(&predicate.sets)?, guards: put(&predicate.guards)? };
        Ok((Cow::Owned(Grant { rows: RowGrant::Where(rows), ..grant.clone() }), read))
    }

    /// The values that an entitlement gives; none where its table is not as the bundle knew it.
    async fn entitlement(&self, of: &Entitlement) -> Result<Option<(LogicalPlan, Entitling)>, Problem> {
        let found = self.find(&of.table, Pin::Newest);
        let Some(found) = found.filter(|f| f.revoked.is_none() && f.definition.kind != DatasetKind::View) else {
            return Ok(None);
        };
        let fits = |name: &str, data_type: &DataType| {
            found.definition.column_named(name).is_some_and(|c| c.data_type == *data_type)
        };
        if !fits(&of.column, &of.data_type) || !compared(&of.condition, &fits) {
            return Ok(None);
        }
        let storage = self.engine.open_storage(&found.at, &found.definition, &found.storage).await?;
        let fields: Vec<FieldId> = found.definition.columns.iter().map(|c| c.field).collect();
        let leaf = Leaf::new(found.at.clone(), fields, storage);
        let table = of.table.to_string();
        let scan = LogicalPlanBuilder::scan(table.as_str(), provider_as_source(Arc::new(leaf)), None);
        let build = || -> DfResult<LogicalPlan> {
            let scan = scan?;
            let qualifier = scan.schema().iter().next().and_then(|(q, _)| q.cloned());
            let own = |e: Expr| {
                Ok(match e {
                    Expr::Column(c) => Transformed::yes(Expr::Column(Column::new(qualifier.clone(), c.name))),
                    other => Transformed::no(other),
                })
            };
            let condition = of.condition.clone().transform(own)?.data;
            scan.filter(condition)?.project([Expr::Column(Column::new(qualifier.clone(), &of.column))])?.build()
        };
        let plan = build().map_err(|e| from_datafusion(&e))?;
        Ok(Some((plan, Entitling { at: found.at, definition: found.definition })))
    }
}

/// Whether each column in a condition is still of the type of what it is compared with.
fn compared(condition: &Expr, fits: &dyn Fn(&str, &DataType) -> bool) -> bool {
    let mut all = true;
    let literal = |e: &Expr| match e {
        Expr::Literal(value, _) if *value != ScalarValue::Null => Some(value.data_type()),
        _ => None,
    };
    let column = |e: &Expr| match e {
        Expr::Column(c) => Some(c.name.clone()),
        _ => None,
    };
    let mut pair = |a: &Expr, b: &Expr| {
        if let (Some(name), Some(data_type)) = (column(a), literal(b)) {
            all &= fits(&name, &data_type);
        }
        if let (Some(name), Some(data_type)) = (column(b), literal(a)) {
            all &= fits(&name, &data_type);
        }
    };
    let walked = condition.apply(|e| {
        match e {
            Expr::BinaryExpr(b) => pair(&b.left, &b.right),
            Expr::InList(i) => i.list.iter().for_each(|member| pair(&i.expr, member)),
            Expr::Between(b) => [&b.low, &b.high].into_iter().for_each(|bound| pair(&b.expr, bound)),
            Expr::Like(l) => pair(&l.expr, &l.pattern),
            _ => {}
        }
        Ok(datafusion::common::tree_node::TreeNodeRecursion::Continue)
    });
    walked.is_ok() && all
}
