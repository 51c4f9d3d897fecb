//! The only tables a session ever sees.
//!
//! A name resolves to a [`GovernedTable`]: a plan made by policy (filter, mask, barrier), inlined by the planner.
//! Beneath its barrier stands a [`Leaf`]: the storage, marked with what it is, so that lineage can name it and the
//! barrier check can find it. Asking a governed table to scan is an error: there is no way around its plan.

use async_trait::async_trait;
use custody_model::{FieldId, TableVersion};
use datafusion::{
    arrow::datatypes::SchemaRef,
    catalog::{CatalogProvider, CatalogProviderList, Session, TableProvider},
    common::{DataFusionError, Result},
    logical_expr::{Expr, LogicalPlan, TableProviderFilterPushDown, TableType},
    physical_plan::ExecutionPlan,
};
use std::{borrow::Cow, sync::Arc};

/// Storage with its identity. Stands below a barrier, never in a catalog.
#[derive(Debug)]
pub(crate) struct Leaf {
    /// What this is.
    pub(crate) at: TableVersion,
    /// The identity of each column of the schema.
    pub(crate) fields: Vec<FieldId>,
    inner: Arc<dyn TableProvider>,
}

impl Leaf {
    pub(crate) fn new(at: TableVersion, fields: Vec<FieldId>, inner: Arc<dyn TableProvider>) -> Self {
        Self { at, fields, inner }
    }
}

#[async_trait]
impl TableProvider for Leaf {
    fn schema(&self) -> SchemaRef {
        self.inner.schema()
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    fn supports_filters_pushdown(&self, filters: &[&Expr]) -> Result<Vec<TableProviderFilterPushDown>> {
        self.inner.supports_filters_pushdown(filters)
    }

    async fn scan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        self.inner.scan(state, projection, filters, limit).await
    }
}

/// A table as its reader may see it.
#[derive(Debug)]
pub(crate) struct GovernedTable {
    plan: LogicalPlan,
    schema: SchemaRef,
}

impl GovernedTable {
    pub(crate) fn new(plan: LogicalPlan) -> Self {
        let schema = Arc::clone(plan.schema().inner());
        Self { plan, schema }
    }
}

#[async_trait]
impl TableProvider for GovernedTable {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn table_type(&self) -> TableType {
        TableType::View
    }

    fn get_logical_plan(&self) -> Option<Cow<'_, LogicalPlan>> {
        Some(Cow::Borrowed(&self.plan))
    }

    async fn scan(
        &self,
        _state: &dyn Session,
        _projection: Option<&Vec<usize>>,
        _filters: &[Expr],
        _limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        Err(DataFusionError::Internal("a governed table was scanned around its plan".into()))
    }
}

/// The catalogs of a session: none. Names reach their governed tables through `custody_dialect::Relations` alone, so a
/// name that was not pinned and decided upon resolves to nothing.
#[derive(Debug)]
pub(crate) struct NoCatalogs;

impl CatalogProviderList for NoCatalogs {
    fn register_catalog(&self, _: String, _: Arc<dyn CatalogProvider>) -> Option<Arc<dyn CatalogProvider>> {
        None
    }

    fn catalog_names(&self) -> Vec<String> {
        vec![]
    }

    fn catalog(&self, _: &str) -> Option<Arc<dyn CatalogProvider>> {
        None
    }
}
