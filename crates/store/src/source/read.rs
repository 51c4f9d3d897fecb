//! Reading the files of a snapshot, one at a time, each compared with the list before and after.
//!
//! Parquet goes through DataFusion's own scan of one file at a time, so that it prunes; CSV and JSON through Arrow's streaming
//! decoders, the ones DataFusion uses. CSV fields are decoded as text and then cast, so that an error names file, row and
//! column and never the value.

use super::{SourceFile, SourceFiles, reads_as};
use crate::{
    StoreError, Warehouse, scan,
    scanned::{self, Groups},
    sweep::digest,
    types::version_type,
};
use arrow::{
    array::{Array, ArrayRef, AsArray, RecordBatch, RecordBatchOptions, StringArray, new_null_array},
    compute::{CastOptions, cast_with_options},
    csv,
    datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit, TimestampNanosecondType},
    error::ArrowError,
    json,
};
use async_trait::async_trait;
use bytes::{Buf, Bytes};
use custody_model::{ScannedFile, SourceKind};
use datafusion::{
    catalog::{Session, TableProvider},
    common::tree_node::TreeNodeRecursion,
    datasource::{
        TableType,
        listing::PartitionedFile,
        physical_plan::{FileScanConfigBuilder, ParquetSource},
        source::DataSourceExec,
    },
    error::{DataFusionError, Result as DataFusionResult},
    execution::{SendableRecordBatchStream, TaskContext},
    logical_expr::{Expr, TableProviderFilterPushDown},
    physical_expr::{
        EquivalenceProperties, Partitioning, PhysicalExpr,
        utils::{collect_columns, reassign_expr_columns},
    },
    physical_plan::{
        DisplayAs, DisplayFormatType, ExecutionPlan, PlanProperties,
        execution_plan::{Boundedness, EmissionType},
        stream::RecordBatchStreamAdapter,
    },
};
use futures::{FutureExt, StreamExt, TryStreamExt, future::BoxFuture, stream::BoxStream};
use object_store::{ObjectStore, ObjectStoreExt, path::Path as ObjectPath};
use parquet::{
    arrow::{async_reader::MetadataFetch, parquet_to_arrow_schema},
    errors::ParquetError,
    file::metadata::{ParquetMetaData, ParquetMetaDataReader},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    io::Cursor,
    ops::Range,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

/// Rows in a batch decoded from text.
const BATCH_ROWS: usize = 8_192;
/// A Parquet file is read in pieces of at least so many bytes, where there are more cores than files.
const PIECE_BYTES: u64 = 16 << 20;
/// The longest CSV header.
const HEADER_BYTES: u64 = 1 << 20;

/// How one file is read: what was learned from its footer or header.
#[derive(Clone, Debug)]
pub(super) enum Reading {
    /// The declared columns that it holds, in declared order, of the types they are read as.
    Parquet(SchemaRef),
    /// The names of its header.
    Csv(Arc<[String]>),
    /// Names are in each row.
    Json,
}

/// A file whose columns are as declared.
pub(super) struct Checked {
    reading: Reading,
    /// Columns that are not declared.
    pub(super) extra: BTreeSet<String>,
}

fn below(location: &ObjectPath, file: &SourceFile) -> ObjectPath {
    file.path.split('/').filter(|p| !p.is_empty()).fold(location.clone(), |path, part| path.join(part))
}

/// What a message calls a file.
fn shown(location: &ObjectPath, file: &SourceFile) -> String {
    match file.path.is_empty() {
        true => location.filename().unwrap_or_default().to_string(),
        false => file.path.clone(),
    }
}

/// Compares the declared columns with each file's footer or header.
pub(super) async fn check(
    warehouse: &Warehouse,
    location: &ObjectPath,
    files: &SourceFiles,
    schema: &SchemaRef,
) -> Result<Vec<Checked>, StoreError> {
    // Boxed: a closure over borrowed files is not general enough for the `Send` futures of doors.
    let checks: Vec<BoxFuture<'_, _>> =
        files.files.iter().map(|file| check_file(warehouse, location, files.kind, file, schema).boxed()).collect();
    futures::stream::iter(checks).buffered(8).try_collect().await
}

async fn check_file(
    warehouse: &Warehouse,
    location: &ObjectPath,
    kind: SourceKind,
    file: &SourceFile,
    schema: &SchemaRef,
) -> Result<Checked, StoreError> {
    let (path, name) = (below(location, file), shown(location, file));
    match kind {
        SourceKind::Delta | SourceKind::Parquet => check_parquet(warehouse, &path, &name, file, schema).await,
        SourceKind::Csv => {
            let header = csv_header(warehouse, &path, &name, file.bytes).await?;
            for field in schema.fields() {
                match header.iter().filter(|h| *h == field.name()).count() {
                    1 if !field.data_type().is_nested() => {}
                    1 => {
                        return Err(StoreError::OtherType {
                            file: name,
                            column: field.name().clone(),
                            found: DataType::Utf8,
                            declared: field.data_type().clone(),
                        });
                    }
                    0 => return Err(StoreError::MissingColumn { file: name, column: field.name().clone() }),
                    _ => {
                        return Err(StoreError::SourceFormat {
                            file: name,
                            format: "CSV: a name occurs twice in its header",
                            row: None,
                        });
                    }
                }
            }
            let extra = header.iter().filter(|h| schema.column_with_name(h).is_none()).cloned().collect();
            Ok(Checked { reading: Reading::Csv(header.into()), extra })
        }
        SourceKind::Json => Ok(Checked { reading: Reading::Json, extra: BTreeSet::new() }),
    }
}

async fn check_parquet(
    warehouse: &Warehouse,
    path: &ObjectPath,
    name: &str,
    file: &SourceFile,
    schema: &SchemaRef,
) -> Result<Checked, StoreError> {
    let footer = footer(warehouse.store(), path, name, file.bytes).await?;
    let broken = |_| StoreError::SourceFormat { file: name.to_string(), format: "PARQUET", row: None };
    let meta = footer.file_metadata();
    let have = parquet_to_arrow_schema(meta.schema_descr(), meta.key_value_metadata()).map_err(broken)?;
    let mut fields = vec![];
    for field in schema.fields() {
        if file.partition.contains_key(field.name()) {
            continue;
        }
        let Some((_, found)) = have.column_with_name(field.name()) else {
            return Err(StoreError::MissingColumn { file: name.to_string(), column: field.name().clone() });
        };
        if !reads_as(found.data_type(), field.data_type()) {
            return Err(StoreError::OtherType {
                file: name.to_string(),
                column: field.name().clone(),
                found: found.data_type().clone(),
                declared: field.data_type().clone(),
            });
        }
        // Layouts are the reader's business; narrower types are read as they are and cast here, checked.
        let layout = version_type(field.name(), found.data_type()).is_ok_and(|t| t == *field.data_type())
            && !matches!(found.data_type(), DataType::UInt8 | DataType::UInt16 | DataType::UInt32 | DataType::UInt64);
        let read_as = if layout { field.data_type() } else { found.data_type() };
        fields.push(Field::new(field.name(), read_as.clone(), true));
        if !field.is_nullable() && holds_null(&footer, field.name()) {
            return Err(StoreError::SourceNull { file: name.to_string(), column: field.name().clone(), row: None });
        }
    }
    let extra = have.fields().iter().map(|f| f.name()).filter(|n| schema.column_with_name(n).is_none()).cloned();
    Ok(Checked { extra: extra.collect(), reading: Reading::Parquet(Arc::new(Schema::new(fields))) })
}

/// Whether a footer says that a column holds NULL.
fn holds_null(footer: &ParquetMetaData, column: &str) -> bool {
    footer.row_groups().iter().flat_map(|group| group.columns()).any(|chunk| {
        chunk.column_path().parts() == [column]
            && chunk.statistics().and_then(|s| s.null_count_opt()).is_some_and(|nulls| nulls > 0)
    })
}

struct Fetch {
    store: Arc<dyn ObjectStore>,
    path: ObjectPath,
}

impl MetadataFetch for Fetch {
    fn fetch(&mut self, range: Range<u64>) -> BoxFuture<'_, Result<Bytes, ParquetError>> {
        async move { self.store.get_range(&self.path, range).await.map_err(|e| ParquetError::External(Box::new(e))) }
            .boxed()
    }
}

async fn footer(
    store: &Arc<dyn ObjectStore>,
    path: &ObjectPath,
    name: &str,
    bytes: u64,
) -> Result<ParquetMetaData, StoreError> {
    let fetch = Fetch { store: store.clone(), path: path.clone() };
    ParquetMetaDataReader::new().load_and_finish(fetch, bytes).await.map_err(|e| match e {
        ParquetError::External(source) => StoreError::Io { step: "reading", path: name.to_string(), source },
        _ => StoreError::SourceFormat { file: name.to_string(), format: "PARQUET", row: None },
    })
}

async fn csv_header(
    warehouse: &Warehouse,
    path: &ObjectPath,
    name: &str,
    bytes: u64,
) -> Result<Vec<String>, StoreError> {
    let start = match bytes {
        0 => Bytes::new(),
        _ => {
            let range = 0..bytes.min(HEADER_BYTES);
            warehouse.store().get_range(path, range).await.map_err(|e| StoreError::io("reading", path, e))?
        }
    };
    let broken = |_: ArrowError| StoreError::SourceFormat { file: name.to_string(), format: "CSV", row: None };
    let format = csv::reader::Format::default().with_header(true);
    let (schema, _) = format.infer_schema(Cursor::new(start), Some(0)).map_err(broken)?;
    // A byte order mark is no part of the first name.
    Ok(schema.fields().iter().map(|f| f.name().trim_start_matches('\u{feff}').to_string()).collect())
}

/// A source at a snapshot, as a table. The engine hides it beneath its governed relation.
#[derive(Debug)]
pub struct SourceTable {
    core: Arc<Core>,
}

#[derive(Debug)]
struct Core {
    warehouse: Warehouse,
    name: String,
    location: ObjectPath,
    files: SourceFiles,
    schema: SchemaRef,
    readings: Vec<Reading>,
}

impl SourceTable {
    pub(super) async fn open(
        warehouse: &Warehouse,
        name: &str,
        location: ObjectPath,
        files: SourceFiles,
        schema: SchemaRef,
    ) -> Result<Self, StoreError> {
        let mut core =
            Core { warehouse: warehouse.clone(), name: name.to_string(), location, files, schema, readings: vec![] };
        // What was listed is compared first: a footer or header of another file would give a misleading error.
        for file in &core.files.files {
            core.before(file).await?;
        }
        let checked = check(warehouse, &core.location, &core.files, &core.schema).await?;
        core.readings = checked.into_iter().map(|c| c.reading).collect();
        Ok(Self { core: Arc::new(core) })
    }

    /// The files it reads.
    pub fn files(&self) -> &SourceFiles {
        &self.core.files
    }
}

#[async_trait]
impl TableProvider for SourceTable {
    fn schema(&self) -> SchemaRef {
        self.core.schema.clone()
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    async fn scan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        _limit: Option<usize>,
    ) -> DataFusionResult<Arc<dyn ExecutionPlan>> {
        let core = self.core.clone();
        let predicate = match core.files.kind {
            SourceKind::Delta | SourceKind::Parquet => scan::predicate(state, &core.schema, filters)?,
            SourceKind::Csv | SourceKind::Json => None,
        };
        let columns = projection.cloned().unwrap_or_else(|| (0..core.schema.fields().len()).collect());
        let schema = Arc::new(core.schema.project(&columns)?);
        let groups = core.groups(state.config_options().execution.target_partitions.max(1));
        let properties = PlanProperties::new(
            EquivalenceProperties::new(schema.clone()),
            Partitioning::UnknownPartitioning(groups.len()),
            EmissionType::Incremental,
            Boundedness::Bounded,
        );
        Ok(Arc::new(SourceScan {
            core,
            columns,
            schema,
            predicate,
            groups,
            properties: Arc::new(properties),
            opened: Arc::default(),
        }))
    }

    fn supports_filters_pushdown(&self, filters: &[&Expr]) -> DataFusionResult<Vec<TableProviderFilterPushDown>> {
        Ok(match self.core.files.kind {
            SourceKind::Delta | SourceKind::Parquet => scan::pushdown(filters),
            SourceKind::Csv | SourceKind::Json => vec![TableProviderFilterPushDown::Unsupported; filters.len()],
        })
    }
}

/// A file, or a piece of one, by its place in the list.
#[derive(Clone, Debug)]
struct Piece {
    file: usize,
    range: Option<(i64, i64)>,
}

impl Core {
    /// Files shared out over at most so many partitions, in order, about equal in bytes.
    fn groups(&self, partitions: usize) -> Vec<Vec<Piece>> {
        let splits = match self.files.kind {
            SourceKind::Delta | SourceKind::Parquet => self.files.files.len() < partitions,
            SourceKind::Csv | SourceKind::Json => false,
        };
        let mut pieces = vec![];
        for (file, listed) in self.files.files.iter().enumerate() {
            let parts = if splits { (listed.bytes / PIECE_BYTES).clamp(1, partitions as u64) } else { 1 };
            match parts {
                1 => pieces.push((listed.bytes, Piece { file, range: None })),
                _ => pieces.extend((0..parts).map(|i| {
                    let (start, end) = (listed.bytes * i / parts, listed.bytes * (i + 1) / parts);
                    (end - start, Piece { file, range: Some((start as i64, end as i64)) })
                })),
            }
        }
        let total: u64 = pieces.iter().map(|(bytes, _)| bytes + 1).sum();
        let mut groups = vec![vec![]; partitions];
        let mut before = 0;
        for (bytes, piece) in pieces {
            // The group that the piece's first byte falls into.
            let at = (u128::from(before) * partitions as u128 / u128::from(total.max(1))) as usize;
            before += bytes + 1;
            groups[at.min(partitions - 1)].push(piece);
        }
        groups.retain(|group| !group.is_empty());
        if groups.is_empty() {
            groups.push(vec![]);
        }
        groups
    }

    /// The file is the one listed; its etag now.
    async fn before(&self, file: &SourceFile) -> Result<Option<String>, StoreError> {
        let path = below(&self.location, file);
        let changed = || StoreError::SourceChanged { file: shown(&self.location, file) };
        let now = match self.warehouse.store().head(&path).await {
            Ok(now) => now,
            Err(object_store::Error::NotFound { .. }) => return Err(self.gone(file)),
            Err(e) => return Err(StoreError::io("reading", &path, e)),
        };
        if now.size != file.bytes {
            return Err(changed());
        }
        if let Some(sha3) = file.sha3
            && (file.etag.is_none() || file.etag != now.e_tag)
        {
            // Copied, restored or touched: the bytes decide.
            match digest(&self.warehouse, &path).await? {
                Some((_, found)) if found == sha3 => {}
                _ => return Err(changed()),
            }
        }
        Ok(now.e_tag)
    }

    /// The file is still the one that was opened.
    async fn after(&self, file: &SourceFile, etag: &Option<String>) -> Result<(), StoreError> {
        let now = self.warehouse.store().head(&below(&self.location, file)).await;
        match now.is_ok_and(|now| now.size == file.bytes && now.e_tag == *etag) {
            true => Ok(()),
            false => Err(StoreError::SourceChanged { file: shown(&self.location, file) }),
        }
    }

    fn gone(&self, file: &SourceFile) -> StoreError {
        match &self.files.delta {
            Some((_, version)) => StoreError::SourceLost { name: self.name.clone(), version: *version },
            None => StoreError::SourceChanged { file: shown(&self.location, file) },
        }
    }
}

/// What was opened so far: by file, the plans that read Parquet of it.
type Opened = Mutex<BTreeMap<usize, Vec<Arc<dyn ExecutionPlan>>>>;

/// The leaf that reads a source.
#[derive(Debug)]
pub(crate) struct SourceScan {
    core: Arc<Core>,
    columns: Vec<usize>,
    schema: SchemaRef,
    predicate: Option<Arc<dyn PhysicalExpr>>,
    groups: Vec<Vec<Piece>>,
    properties: Arc<PlanProperties>,
    opened: Arc<(Opened, AtomicU64)>,
}

impl SourceScan {
    /// Rows read, and the files opened so far.
    pub(crate) fn taken(&self) -> (u64, Vec<ScannedFile>) {
        let (opened, rows) = self.opened.as_ref();
        let opened = opened.lock().unwrap_or_else(PoisonError::into_inner);
        let file = |(file, plans): (&usize, &Vec<Arc<dyn ExecutionPlan>>)| {
            let mut groups = Groups::default();
            for metrics in plans.iter().filter_map(|plan| plan.metrics()) {
                let mut counted = BTreeMap::new();
                scanned::count(&metrics, &mut counted);
                counted.into_values().for_each(|one| groups.add(one));
            }
            Some(groups.of(self.core.files.files.get(*file)?.path.clone()))
        };
        (rows.load(Ordering::Relaxed), opened.iter().filter_map(file).collect())
    }
}

impl DisplayAs for SourceScan {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self.schema.fields().iter().map(|field| field.name().as_str()).collect();
        write!(
            f,
            "SourceScan: {}, files={}, columns=[{}]",
            self.core.name,
            self.core.files.files.len(),
            names.join(", ")
        )?;
        match &self.predicate {
            Some(predicate) => write!(f, ", prune={predicate}"),
            None => Ok(()),
        }
    }
}

impl ExecutionPlan for SourceScan {
    fn name(&self) -> &str {
        "SourceScan"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![]
    }

    fn apply_expressions(
        &self,
        f: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> DataFusionResult<TreeNodeRecursion>,
    ) -> DataFusionResult<TreeNodeRecursion> {
        match &self.predicate {
            Some(predicate) => f(predicate),
            None => Ok(TreeNodeRecursion::Continue),
        }
    }

    fn with_new_children(self: Arc<Self>, _: Vec<Arc<dyn ExecutionPlan>>) -> DataFusionResult<Arc<dyn ExecutionPlan>> {
        Ok(self)
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> DataFusionResult<SendableRecordBatchStream> {
        let pieces = self.groups.get(partition).cloned().unwrap_or_default();
        let task = Task {
            core: self.core.clone(),
            columns: self.columns.clone(),
            schema: self.schema.clone(),
            predicate: self.predicate.clone(),
            context,
            opened: self.opened.clone(),
        };
        let rows = futures::stream::iter(pieces)
            .then(move |piece| {
                let task = task.clone();
                async move { task.open(piece).await }
            })
            .try_flatten();
        Ok(Box::pin(RecordBatchStreamAdapter::new(self.schema.clone(), rows.map_err(DataFusionError::from))))
    }
}

#[derive(Clone)]
struct Task {
    core: Arc<Core>,
    columns: Vec<usize>,
    schema: SchemaRef,
    predicate: Option<Arc<dyn PhysicalExpr>>,
    context: Arc<TaskContext>,
    opened: Arc<(Opened, AtomicU64)>,
}

type Rows = BoxStream<'static, Result<RecordBatch, StoreError>>;

impl Task {
    /// The rows of one piece, as declared; the file is compared before the first and after the last.
    async fn open(self, piece: Piece) -> Result<Rows, StoreError> {
        let file = self.core.files.files[piece.file].clone();
        let etag = self.core.before(&file).await?;
        let name = shown(&self.core.location, &file);
        // With no column asked for, one is read for its row count.
        let wanted: Vec<usize> = if self.columns.is_empty() { vec![0] } else { self.columns.clone() };
        let stored: Vec<usize> = wanted
            .iter()
            .copied()
            .filter(|i| !file.partition.contains_key(self.core.schema.field(*i).name()))
            .collect();
        let reading = self.core.readings[piece.file].clone();
        let mut plan = None;
        let (rows, counted) = match &reading {
            Reading::Parquet(schema) => self.parquet(&file, &name, &piece, schema, &stored, &mut plan)?,
            Reading::Csv(header) => (self.csv(&file, &name, header, &stored).await?, true),
            Reading::Json => (self.json(&file, &name, &stored).await?, true),
        };
        self.opened.0.lock().unwrap_or_else(PoisonError::into_inner).entry(piece.file).or_default().extend(plan);
        let (core, opened) = (self.core.clone(), self.opened.clone());
        let mut seen = 0u64;
        let (declared_file, declared_name) = (file.clone(), name.clone());
        let declared = rows.map(move |rows| {
            let rows = rows?;
            let first = counted.then_some(seen);
            seen += rows.num_rows() as u64;
            opened.1.fetch_add(rows.num_rows() as u64, Ordering::Relaxed);
            self.declare(&rows, &declared_file, &declared_name, &stored, first)
        });
        let end = futures::stream::once(async move { core.after(&file, &etag).await })
            .filter_map(|end| async move { end.err().map(Err) });
        Ok(declared.chain(end).boxed())
    }

    /// Rows with the declared columns that were asked for. `first`: rows that went before, where known.
    fn declare(
        &self,
        rows: &RecordBatch,
        file: &SourceFile,
        name: &str,
        stored: &[usize],
        first: Option<u64>,
    ) -> Result<RecordBatch, StoreError> {
        let mut columns = Vec::with_capacity(self.columns.len());
        for i in &self.columns {
            let field = self.core.schema.field(*i);
            let column: ArrayRef = match file.partition.get(field.name()) {
                Some(Some(value)) => Arc::new(StringArray::from(vec![value.as_str(); rows.num_rows()])),
                Some(None) => new_null_array(&DataType::Utf8, rows.num_rows()),
                None => {
                    let at = stored.iter().position(|s| s == i);
                    let column = at.and_then(|at| rows.columns().get(at));
                    column.cloned().ok_or_else(|| StoreError::MissingColumn {
                        file: name.to_string(),
                        column: field.name().clone(),
                    })?
                }
            };
            columns.push(declare(&column, field, name, first)?);
        }
        let options = RecordBatchOptions::new().with_row_count(Some(rows.num_rows()));
        RecordBatch::try_new_with_options(self.schema.clone(), columns, &options)
            .map_err(|e| StoreError::io("reading", name, e))
    }

    fn parquet(
        &self,
        file: &SourceFile,
        name: &str,
        piece: &Piece,
        schema: &SchemaRef,
        stored: &[usize],
        running: &mut Option<Arc<dyn ExecutionPlan>>,
    ) -> Result<(Rows, bool), StoreError> {
        let failed = |name: &str, e: DataFusionError| match e {
            DataFusionError::ParquetError(_) => {
                StoreError::SourceFormat { file: name.to_string(), format: "PARQUET", row: None }
            }
            other => StoreError::io("reading", name, other),
        };
        let path = below(&self.core.location, file);
        let mut source = ParquetSource::new(schema.clone());
        let predicate = self.predicate.as_ref().and_then(|predicate| self.predicate_of(predicate, schema));
        let counted = predicate.is_none() && piece.range.is_none();
        if let Some(predicate) = predicate {
            source = source.with_predicate(predicate);
        }
        let mut listed = PartitionedFile::new(path.to_string(), file.bytes);
        if let Some((start, end)) = piece.range {
            listed = listed.with_range(start, end);
        }
        let positions = stored
            .iter()
            .map(|i| schema.index_of(self.core.schema.field(*i).name()))
            .collect::<Result<Vec<_>, _>>()
            .map_err(|e| StoreError::io("planning", name, e))?;
        let config = FileScanConfigBuilder::new(self.core.warehouse.store_url().clone(), Arc::new(source))
            .with_file(listed)
            .with_preserve_order(true)
            .with_projection_indices(Some(positions))
            .map_err(|e| failed(name, e))?
            .build();
        let plan = DataSourceExec::from_data_source(config);
        let rows = plan.execute(0, self.context.clone()).map_err(|e| failed(name, e))?;
        *running = Some(plan);
        let name = name.to_string();
        Ok((rows.map_err(move |e| failed(&name, e)).boxed(), counted))
    }

    /// The predicate over a file's columns, where they all are of the declared types.
    fn predicate_of(&self, predicate: &Arc<dyn PhysicalExpr>, schema: &SchemaRef) -> Option<Arc<dyn PhysicalExpr>> {
        let same = collect_columns(predicate).iter().all(|column| {
            let declared = self.core.schema.field_with_name(column.name());
            let stored = schema.field_with_name(column.name());
            matches!((declared, stored), (Ok(a), Ok(b)) if a.data_type() == b.data_type())
        });
        same.then(|| reassign_expr_columns(predicate.clone(), schema).ok()).flatten()
    }

    async fn bytes(&self, file: &SourceFile) -> Result<BoxStream<'static, Result<Bytes, StoreError>>, StoreError> {
        let path = below(&self.core.location, file);
        let bytes = self.core.warehouse.store().get(&path).await.map_err(|e| StoreError::io("reading", &path, e))?;
        Ok(bytes.into_stream().map_err(move |e| StoreError::io("reading", &path, e)).boxed())
    }

    async fn csv(
        &self,
        file: &SourceFile,
        name: &str,
        header: &[String],
        stored: &[usize],
    ) -> Result<Rows, StoreError> {
        let fields: Vec<_> = header.iter().map(|name| Field::new(name, DataType::Utf8, true)).collect();
        let at = |i: &usize| header.iter().position(|h| h == self.core.schema.field(*i).name());
        let positions: Vec<usize> = stored.iter().filter_map(at).collect();
        let decoder = csv::ReaderBuilder::new(Arc::new(Schema::new(fields)))
            .with_header(true)
            .with_batch_size(BATCH_ROWS)
            .with_projection(positions)
            .build_decoder();
        Ok(decode(self.bytes(file).await?, Decoder::Csv(Box::new(decoder)), name.to_string()))
    }

    async fn json(&self, file: &SourceFile, name: &str, stored: &[usize]) -> Result<Rows, StoreError> {
        let fields: Vec<_> = stored
            .iter()
            .map(|i| self.core.schema.field(*i))
            .map(|f| Field::new(f.name(), f.data_type().clone(), true))
            .collect();
        let decoder = json::ReaderBuilder::new(Arc::new(Schema::new(fields)))
            .with_batch_size(BATCH_ROWS)
            .build_decoder()
            .map_err(|e| StoreError::io("reading", name, e))?;
        Ok(decode(self.bytes(file).await?, Decoder::Json(decoder), name.to_string()))
    }
}

enum Decoder {
    Csv(Box<csv::reader::Decoder>),
    Json(json::reader::Decoder),
}

impl Decoder {
    fn decode(&mut self, bytes: &[u8]) -> Result<usize, ArrowError> {
        match self {
            Self::Csv(decoder) => decoder.decode(bytes),
            Self::Json(decoder) => decoder.decode(bytes),
        }
    }

    fn flush(&mut self) -> Result<Option<RecordBatch>, ArrowError> {
        match self {
            Self::Csv(decoder) => decoder.flush(),
            Self::Json(decoder) => decoder.flush(),
        }
    }

    fn format(&self) -> &'static str {
        match self {
            Self::Csv(_) => "CSV",
            Self::Json(_) => "JSON of the declared types",
        }
    }
}

struct Decoding {
    bytes: BoxStream<'static, Result<Bytes, StoreError>>,
    buffer: Bytes,
    ended: bool,
    decoder: Decoder,
    name: String,
}

fn decode(bytes: BoxStream<'static, Result<Bytes, StoreError>>, decoder: Decoder, name: String) -> Rows {
    let state = Decoding { bytes, buffer: Bytes::new(), ended: false, decoder, name };
    futures::stream::try_unfold(state, |mut state| async move {
        let batch = state.next().await?;
        Ok(batch.map(|batch| (batch, state)))
    })
    .boxed()
}

impl Decoding {
    async fn next(&mut self) -> Result<Option<RecordBatch>, StoreError> {
        loop {
            if self.buffer.is_empty() && !self.ended {
                match self.bytes.try_next().await? {
                    Some(bytes) if bytes.is_empty() => continue,
                    Some(bytes) => self.buffer = bytes,
                    None => self.ended = true,
                }
            }
            let n = self.decoder.decode(&self.buffer).map_err(|e| self.broken(&e))?;
            self.buffer.advance(n);
            let full = n == 0 && !self.buffer.is_empty();
            if full || self.ended {
                let batch = self.decoder.flush().map_err(|e| self.broken(&e))?;
                if batch.is_none() && full {
                    return Err(self.broken(&ArrowError::ParseError(String::new())));
                }
                return Ok(batch);
            }
        }
    }

    /// The decoder's message holds values; only a line number is taken from it.
    fn broken(&self, error: &ArrowError) -> StoreError {
        let text = error.to_string();
        let line = text.split("line ").nth(1).and_then(|rest| {
            rest.split(|c: char| !c.is_ascii_digit()).next().and_then(|digits| digits.parse::<u64>().ok())
        });
        let row = match &self.decoder {
            Decoder::Csv(_) => line.map(|line| line.saturating_sub(1)),
            Decoder::Json(_) => None,
        };
        StoreError::SourceFormat { file: self.name.clone(), format: self.decoder.format(), row }
    }
}

/// A stored column as the declared one: cast where it is of another type, every value checked.
fn declare(column: &ArrayRef, field: &Field, file: &str, first: Option<u64>) -> Result<ArrayRef, StoreError> {
    let row = |i: usize| first.map(|n| n + i as u64 + 1);
    let value = |i: usize| StoreError::SourceValue {
        file: file.to_string(),
        column: field.name().clone(),
        declared: field.data_type().clone(),
        row: row(i),
    };
    let declared = match column.data_type() == field.data_type() {
        true => column.clone(),
        false => {
            if let DataType::Timestamp(TimeUnit::Nanosecond, _) = column.data_type() {
                let nanos = column.as_primitive::<TimestampNanosecondType>();
                if let Some(i) = (0..nanos.len()).find(|i| nanos.is_valid(*i) && nanos.value(*i) % 1000 != 0) {
                    return Err(value(i));
                }
            }
            let lenient = CastOptions { safe: true, ..Default::default() };
            let cast = cast_with_options(column, field.data_type(), &lenient).map_err(|_| value(0))?;
            if cast.logical_null_count() != column.logical_null_count()
                && let Some(i) = (0..cast.len()).find(|i| is_null(&cast, *i) && !is_null(column, *i))
            {
                return Err(value(i));
            }
            cast
        }
    };
    if !field.is_nullable()
        && declared.logical_null_count() > 0
        && let Some(i) = (0..declared.len()).find(|i| is_null(&declared, *i))
    {
        return Err(StoreError::SourceNull { file: file.to_string(), column: field.name().clone(), row: row(i) });
    }
    Ok(declared)
}

fn is_null(array: &ArrayRef, i: usize) -> bool {
    match array.data_type() {
        DataType::Null => true,
        DataType::Dictionary(..) => array.logical_nulls().is_some_and(|nulls| nulls.is_null(i)),
        _ => array.is_null(i),
    }
}
