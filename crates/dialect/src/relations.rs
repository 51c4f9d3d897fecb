//! How pinned references reach the planner.
//!
//! DataFusion's own relation planning reads a table factor's name and drops its version, hints and sample.
//! [`Relations`] stands before it: a name of two or three parts is one of the pinned tables or an error, never left
//! to DataFusion; a name of one part is a `WITH` name and left to it. Tables keep their names, so `labs.value`
//! and `raw.labs.value` both resolve. Everything that DataFusion would drop is refused again, without `..`.

use crate::reference::{self, Named, Reference, Unreadable};
use custody_model::{DatasetName, Pin};
use datafusion_common::{Result, TableReference, plan_err};
use datafusion_expr::{
    LogicalPlanBuilder, TableSource,
    planner::{PlannedRelation, RelationPlanner, RelationPlannerContext, RelationPlanning},
};
use sqlparser::ast::TableFactor;
use std::{collections::HashMap, fmt, sync::Arc};

/// The tables that one statement's references are pinned to. Registered for the planning of that statement only.
#[derive(Clone, Default)]
pub struct Relations {
    tables: HashMap<(DatasetName, Pin), Arc<dyn TableSource>>,
}

impl Relations {
    /// Pinned tables, by the references of [`crate::GatedQuery::references`]. Positions do not matter; references
    /// to the same dataset at the same pin share the last table given.
    pub fn new(tables: impl IntoIterator<Item = (Reference, Arc<dyn TableSource>)>) -> Self {
        Self { tables: tables.into_iter().map(|(r, table)| ((r.name, r.pin), table)).collect() }
    }
}

impl fmt::Debug for Relations {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut keys: Vec<_> = self.tables.keys().collect();
        keys.sort();
        f.debug_tuple("Relations").field(&keys).finish()
    }
}

/// The table reference that columns of a dataset are qualified with: `raw.labs`, `system.access.reads`.
pub fn table_reference(name: &DatasetName) -> TableReference {
    match name.schema().split_once('.') {
        Some((catalog, schema)) => {
            TableReference::full(catalog.to_string(), schema.to_string(), name.name().to_string())
        }
        None => TableReference::partial(name.schema().to_string(), name.name().to_string()),
    }
}

impl RelationPlanner for Relations {
    fn plan_relation(
        &self,
        relation: TableFactor,
        _context: &mut dyn RelationPlannerContext,
    ) -> Result<RelationPlanning> {
        let TableFactor::Table {
            ref name,
            ref alias,
            ref args,
            ref with_hints,
            ref version,
            with_ordinality,
            ref partitions,
            ref json_path,
            ref sample,
            ref index_hints,
        } = relation
        else {
            return Ok(RelationPlanning::Original(Box::new(relation)));
        };
        if !with_hints.is_empty()
            || with_ordinality
            || !partitions.is_empty()
            || json_path.is_some()
            || sample.is_some()
            || !index_hints.is_empty()
        {
            return plan_err!("a clause of `{name}` is not part of the dialect");
        }
        let dataset = match reference::named(name) {
            Ok(Named::Dataset(dataset)) => dataset,
            Ok(Named::Bare(bare)) if version.is_some() => {
                return plan_err!("`{bare}` has no versions");
            }
            Ok(Named::Bare(_)) => return Ok(RelationPlanning::Original(Box::new(relation))),
            Err(Unreadable { message, help: _ }) => return plan_err!("{message}"),
        };
        let pin = match reference::pin(version.as_ref()) {
            Some(Ok(pin)) => pin,
            Some(Err(Unreadable { message, help: _ })) => return plan_err!("{message}"),
            None => return plan_err!("the version clause of `{name}` is not part of the dialect"),
        };
        if args.is_some() {
            return plan_err!("`{dataset}` is not a table function");
        }
        let Some(table) = self.tables.get(&(dataset.clone(), pin)) else {
            return plan_err!("table `{dataset}` not found");
        };
        let plan = LogicalPlanBuilder::scan(table_reference(&dataset), Arc::clone(table), None)?.build()?;
        let alias = alias.clone();
        Ok(RelationPlanning::Planned(Box::new(PlannedRelation::new(plan, alias))))
    }
}
