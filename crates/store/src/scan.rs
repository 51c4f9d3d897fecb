//! Reading a version: a pinned list of Parquet files as a physical plan.
//!
//! The list comes from the manifest, so nothing is listed and nothing can move underneath. Each file is a partition of its
//! own, and its order is declared with the bounds that DataFusion wants before it believes it. Predicates only prune: what
//! they let through is filtered above.
//!
//! Pitfall: without an order to preserve, sibling partitions steal files from each other, and a plan executed twice gives no
//! rows the second time. Order is always preserved here.

use crate::{Bounds, Manifest, StoreError, Warehouse, root::RootHasher};
use arrow::{
    compute::SortOptions,
    datatypes::{Schema, SchemaRef},
};
use async_trait::async_trait;
use custody_model::Hash;
use datafusion::{
    catalog::{Session, TableProvider},
    common::{ColumnStatistics, DFSchema, Statistics, stats::Precision},
    datasource::{
        TableType,
        listing::PartitionedFile,
        physical_plan::{FileGroup, FileScanConfigBuilder, ParquetSource},
        source::DataSourceExec,
    },
    error::{DataFusionError, Result as DataFusionResult},
    execution::TaskContext,
    logical_expr::{Expr, Operator, TableProviderFilterPushDown, expr::InList, utils::conjunction},
    physical_expr::{LexOrdering, PhysicalExpr, PhysicalSortExpr, expressions::Column},
    physical_plan::{ExecutionPlan, empty::EmptyExec},
    scalar::ScalarValue,
};
use futures::TryStreamExt;
use std::sync::Arc;

/// What to read of a version.
#[derive(Clone, Debug, Default)]
pub struct ScanArgs {
    /// Positions of columns; `None`: all.
    pub projection: Option<Vec<usize>>,
    /// Over the version's whole schema. It prunes files, row groups and pages; rows are not filtered exactly.
    pub predicate: Option<Arc<dyn PhysicalExpr>>,
    /// At least so many rows suffice. Ignored beside a predicate, which lets rows through that do not count.
    pub limit: Option<usize>,
}

/// A plan that reads a version. Plan anew for each execution.
pub fn scan(warehouse: &Warehouse, manifest: &Manifest, args: &ScanArgs) -> Result<Arc<dyn ExecutionPlan>, StoreError> {
    let planning = |e: DataFusionError| StoreError::io("planning", manifest.place.folder(), e);
    let schema = &manifest.schema;
    if manifest.files.is_empty() {
        let projected = match &args.projection {
            Some(columns) => Arc::new(schema.project(columns).map_err(|e| planning(e.into()))?),
            None => schema.clone(),
        };
        return Ok(Arc::new(EmptyExec::new(projected)));
    }
    let order = manifest.ordering()?;
    let groups = manifest
        .files
        .iter()
        .map(|file| {
            let path = warehouse.file(&manifest.place, &file.path);
            let statistics = Arc::new(statistics(schema, &order, file.rows, &file.bounds));
            let file = PartitionedFile::new(path.to_string(), file.bytes).with_statistics(statistics.clone());
            FileGroup::new(vec![file]).with_statistics(statistics)
        })
        .collect();
    let mut source = ParquetSource::new(schema.clone());
    if let Some(predicate) = &args.predicate {
        source = source.with_predicate(predicate.clone());
    }
    let mut config = FileScanConfigBuilder::new(warehouse.store_url().clone(), Arc::new(source))
        .with_file_groups(groups)
        .with_statistics(statistics(schema, &order, manifest.rows, &whole(manifest)?))
        .with_preserve_order(true);
    if args.predicate.is_none() {
        config = config.with_limit(args.limit);
    }
    if let Some(projection) = &args.projection {
        config = config.with_projection_indices(Some(projection.clone())).map_err(planning)?;
    }
    let ascending = SortOptions { descending: false, nulls_first: false };
    let sorted = order.iter().map(|i| {
        PhysicalSortExpr::new(Arc::new(Column::new(schema.field(*i).name(), *i)) as Arc<dyn PhysicalExpr>, ascending)
    });
    if let Some(ordering) = LexOrdering::new(sorted) {
        config = config.with_output_ordering(vec![ordering]);
    }
    Ok(DataSourceExec::from_data_source(config.build()))
}

fn statistics(schema: &Schema, order: &[usize], rows: u64, bounds: &[Bounds]) -> Statistics {
    let mut columns = vec![ColumnStatistics::new_unknown(); schema.fields().len()];
    for (i, bounds) in order.iter().zip(bounds) {
        let exact = |value: &Option<ScalarValue>| value.clone().map_or(Precision::Absent, Precision::Exact);
        columns[*i].min_value = exact(&bounds.min);
        columns[*i].max_value = exact(&bounds.max);
        columns[*i].null_count = Precision::Exact(bounds.nulls as usize);
    }
    Statistics {
        num_rows: Precision::Exact(rows as usize),
        total_byte_size: Precision::Absent,
        column_statistics: columns,
    }
}

/// The bounds of each ordering column over all files.
fn whole(manifest: &Manifest) -> Result<Vec<Bounds>, StoreError> {
    let mut out: Vec<Bounds> = vec![];
    for file in &manifest.files {
        if out.is_empty() {
            out = file.bounds.clone();
            continue;
        }
        for (all, one) in out.iter_mut().zip(&file.bounds) {
            let pick = |a: &Option<ScalarValue>, b: &Option<ScalarValue>, larger: bool| match (a, b) {
                (Some(a), Some(b)) => a.partial_cmp(b).map(|o| if o.is_gt() == larger { a.clone() } else { b.clone() }),
                _ => None,
            };
            *all = Bounds {
                min: pick(&all.min, &one.min, false),
                max: pick(&all.max, &one.max, true),
                nulls: all.nulls + one.nulls,
            };
        }
    }
    Ok(out)
}

impl Warehouse {
    /// The content root of a version's values as its files hold them now.
    pub(crate) async fn recompute(&self, manifest: &Manifest) -> Result<Hash, StoreError> {
        let decoding = |e: DataFusionError| StoreError::Damaged { path: manifest.place.folder(), what: e.to_string() };
        let mut root = RootHasher::new(&manifest.schema)?;
        for file in &manifest.files {
            let one = Manifest { files: vec![file.clone()], ..manifest.clone() };
            let plan = scan(self, &one, &ScanArgs::default())?;
            let context = Arc::new(TaskContext::default());
            self.register(&context.runtime_env());
            let mut rows = plan.execute(0, context).map_err(decoding)?;
            while let Some(batch) = rows.try_next().await.map_err(decoding)? {
                for block in root.push(batch) {
                    root.add(hashed(block).await?);
                }
            }
        }
        if let Some(block) = root.rest() {
            root.add(hashed(block).await?);
        }
        Ok(root.finish())
    }
}

async fn hashed(block: crate::root::Block) -> Result<Vec<Hash>, StoreError> {
    tokio::task::spawn_blocking(move || block.leaves()).await.map_err(|e| StoreError::io("hashing", "a block", e))?
}

/// A version as a table. The engine hides it beneath its governed relation; no session resolves a name to it.
#[derive(Clone, Debug)]
pub struct VersionTable {
    warehouse: Warehouse,
    manifest: Arc<Manifest>,
}

impl VersionTable {
    /// Of a committed version.
    pub fn new(warehouse: Warehouse, manifest: Arc<Manifest>) -> Self {
        Self { warehouse, manifest }
    }

    /// What it reads.
    pub fn manifest(&self) -> &Arc<Manifest> {
        &self.manifest
    }
}

#[async_trait]
impl TableProvider for VersionTable {
    fn schema(&self) -> SchemaRef {
        self.manifest.schema.clone()
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    async fn scan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> DataFusionResult<Arc<dyn ExecutionPlan>> {
        let predicate = predicate(state, &self.manifest.schema, filters)?;
        Ok(scan(&self.warehouse, &self.manifest, &ScanArgs { projection: projection.cloned(), predicate, limit })?)
    }

    fn supports_filters_pushdown(&self, filters: &[&Expr]) -> DataFusionResult<Vec<TableProviderFilterPushDown>> {
        Ok(pushdown(filters))
    }
}

/// Simple predicates prune; others stay above alone.
pub(crate) fn pushdown(filters: &[&Expr]) -> Vec<TableProviderFilterPushDown> {
    let decide = |filter: &&Expr| match is_simple(filter) {
        true => TableProviderFilterPushDown::Inexact,
        false => TableProviderFilterPushDown::Unsupported,
    };
    filters.iter().map(decide).collect()
}

/// The simple ones among some filters, as one physical predicate.
pub(crate) fn predicate(
    state: &dyn Session,
    schema: &Schema,
    filters: &[Expr],
) -> DataFusionResult<Option<Arc<dyn PhysicalExpr>>> {
    match conjunction(filters.iter().filter(|f| is_simple(f)).cloned()) {
        Some(filter) => {
            let schema = DFSchema::try_from(schema.clone())?;
            state.create_physical_expr(filter, &schema).map(Some)
        }
        None => Ok(None),
    }
}

/// Comparisons of a column with literals, and what AND, OR and NOT make of them. Nothing that can fail on a value.
fn is_simple(filter: &Expr) -> bool {
    let column = |e: &Expr| matches!(e, Expr::Column(_));
    let literal = |e: &Expr| matches!(e, Expr::Literal(..));
    match filter {
        Expr::BinaryExpr(b) => match b.op {
            Operator::And | Operator::Or => is_simple(&b.left) && is_simple(&b.right),
            Operator::Eq | Operator::NotEq | Operator::Lt | Operator::LtEq | Operator::Gt | Operator::GtEq => {
                (column(&b.left) && literal(&b.right)) || (literal(&b.left) && column(&b.right))
            }
            _ => false,
        },
        Expr::Between(b) => column(&b.expr) && literal(&b.low) && literal(&b.high),
        Expr::InList(InList { expr, list, .. }) => column(expr) && list.iter().all(literal),
        Expr::IsNull(e) | Expr::IsNotNull(e) => column(e),
        Expr::Not(e) => is_simple(e) || column(e),
        Expr::Column(_) => true,
        _ => false,
    }
}
