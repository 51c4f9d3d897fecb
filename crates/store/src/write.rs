//! Writing a version: rows in order → Parquet files, content root, digests → one Delta commit.
//!
//! 1. [`Warehouse::stage`] opens `<place>/<run id>/`; nothing is visible.
//! 2. [`Staging::write`] takes rows in the order of keys and times, in batches of any size. They are cast to the declared
//!    schema, cut into batches of exactly 8,192 rows (page boundaries follow batch boundaries, so bytes would differ
//!    otherwise), hashed, counted ([`Staging::profiled`]) and encoded. Memory holds one row group and two blocks, whatever the number of rows.
//! 3. [`Staging::finish`] closes and syncs the files: root, digests, bounds.
//! 4. [`Staged::commit`] writes Delta commit 0, if there is none.
//!
//! Equal rows give equal files: one encoder, fixed settings, no time, no random name. A version is visible only by its
//! publish entry in the ledger; that is not this crate's business.

use crate::{
    Bounds, DataFile, Manifest, Place, StoreError, Warehouse, conform, field_id,
    locate::{LEAVES, leaves_text},
    manifest::{column_json, ordering},
    profile::Profiler,
    root::{Block, RootHasher, schema_hash},
    version_type,
};
use arrow::{
    array::{Array, RecordBatch},
    compute::{BatchCoalescer, SortOptions, cast},
    datatypes::{DataType, SchemaRef},
    row::{OwnedRow, RowConverter, SortField},
};
use bytes::Bytes;
use custody_model::{EntryId, FieldId, FileDigest, Hash, WallNanos, profile::Profile};
use datafusion::{
    functions_aggregate::min_max::{MaxAccumulator, MinAccumulator},
    logical_expr::Accumulator,
    scalar::ScalarValue,
};
use deltalake::{
    DeltaTableBuilder,
    kernel::{StructType, engine::arrow_conversion::TryIntoKernel, transaction::TransactionError},
    logstore::{CommitOrBytes, LogStoreRef},
};
use futures::{FutureExt, TryStreamExt, future::BoxFuture};
use object_store::{ObjectStoreExt, WriteMultipart, path::Path as ObjectPath};
use parquet::{
    arrow::{AsyncArrowWriter, async_writer::AsyncFileWriter},
    basic::{Compression, ZstdLevel},
    errors::ParquetError,
    file::{metadata::KeyValue, properties::WriterProperties},
};
use serde_json::{Map, Value, json};
use sha3::{Digest, Sha3_256};
use std::{collections::VecDeque, sync::Arc};
use tokio::{
    sync::mpsc::{Sender, channel},
    task::JoinHandle,
};

/// Rows in a batch given to the encoder.
const BATCH_ROWS: usize = 8_192;
/// Rows in a row group.
const GROUP_ROWS: usize = 1_048_576;
/// Encoded bytes after which a row group is closed early, so that wide rows do not fill memory.
const GROUP_BYTES: usize = 128 << 20;
/// Rows in a file: a multiple of a block.
const FILE_ROWS: u64 = 8 * 1_048_576;
/// Who wrote a file, for its footer: fixed, since it is part of the bytes.
const CREATED_BY: &str = "custody version 2";
/// Bytes in a part of an upload.
const PART_BYTES: usize = 8 << 20;

/// How pages are compressed. The content root does not depend on it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Codec {
    /// Zstandard, level 1.
    #[default]
    Zstd,
    /// Snappy.
    Snappy,
    /// Not at all.
    None,
}

/// What a version's rows look like.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Shape {
    /// Columns of version types ([`crate::version_schema`]), each with its field id ([`crate::with_field_id`]).
    pub schema: SchemaRef,
    /// Rows are ordered by these first,
    pub keys: Vec<FieldId>,
    /// then by event time, then known time. All ascending, NULLs last.
    pub times: Vec<FieldId>,
    /// How pages are compressed.
    pub codec: Codec,
}

/// What a commit records besides the data.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stamp {
    /// The publish entry to come, or the draft's entry.
    pub entry: EntryId,
    /// The time of that entry.
    pub at: WallNanos,
}

/// How a commit ended.
#[derive(Debug)]
pub enum Committed {
    /// The version is there now.
    New(Arc<Manifest>),
    /// A commit was there already: compare it with the `written` entry, adopt it or remove it, and discard ours.
    Exists {
        /// What is there.
        found: Arc<Manifest>,
        /// What was staged, still on disk.
        ours: Box<Staged>,
    },
}

/// The leaves of a block, and what was counted of it.
type Hashed = Result<(Vec<Hash>, Option<Profiler>), StoreError>;

/// A version being written.
pub struct Staging {
    warehouse: Warehouse,
    place: Place,
    shape: Shape,
    run: EntryId,
    order: Vec<usize>,
    sorter: Option<RowConverter>,
    last: Option<OwnedRow>,
    even: BatchCoalescer,
    root: RootHasher,
    hashing: VecDeque<JoinHandle<Hashed>>,
    /// Of the open file's blocks.
    leaves: Vec<Hash>,
    profiler: Option<Profiler>,
    taken: u64,
    open: Option<OpenFile>,
    files: Vec<DataFile>,
}

/// A version whose files are closed and synced, not yet committed.
#[derive(Debug)]
pub struct Staged {
    warehouse: Warehouse,
    place: Place,
    shape: Shape,
    run: EntryId,
    files: Vec<DataFile>,
    rows: u64,
    content_root: Hash,
    event_range: Option<(i64, i64)>,
    profile: Option<Profile>,
}

impl Warehouse {
    /// Begins a version at a place, on behalf of a run. A run writes one version to a place.
    pub async fn stage(&self, place: &Place, shape: &Shape, run: EntryId) -> Result<Staging, StoreError> {
        for field in shape.schema.fields() {
            field_id(field)?;
            let becomes = version_type(field.name(), field.data_type())?;
            if becomes != *field.data_type() {
                return Err(StoreError::Columns {
                    found: format!("column `{}` declared as `{}`", field.name(), field.data_type()),
                    declared: format!("`{becomes}`"),
                });
            }
        }
        let order = ordering(&shape.schema, &shape.keys, &shape.times)?;
        let ascending = SortOptions { descending: false, nulls_first: false };
        let fields: Vec<_> = order
            .iter()
            .map(|i| SortField::new_with_options(shape.schema.field(*i).data_type().clone(), ascending))
            .collect();
        let sorter = match fields.is_empty() {
            true => None,
            false => Some(RowConverter::new(fields).map_err(|e| StoreError::Columns {
                found: e.to_string(),
                declared: "keys and times that have an order".into(),
            })?),
        };
        Ok(Staging {
            warehouse: self.clone(),
            place: place.clone(),
            run,
            order,
            sorter,
            last: None,
            even: BatchCoalescer::new(shape.schema.clone(), BATCH_ROWS),
            root: RootHasher::new(&shape.schema)?,
            hashing: VecDeque::new(),
            leaves: vec![],
            profiler: None,
            taken: 0,
            open: None,
            files: vec![],
            shape: shape.clone(),
        })
    }

    /// Copies a draft to the place of a version, not yet committed. The draft's commit must state `root`, its files must
    /// have their digests, and the root is computed again from the copied values.
    pub async fn adopt_draft(
        &self,
        draft: &Place,
        place: &Place,
        root: Hash,
        run: EntryId,
    ) -> Result<Staged, StoreError> {
        let found = self.load_version(draft).await?;
        let damaged = |path: String, what: &str| StoreError::Damaged { path, what: what.to_string() };
        if found.content_root != root {
            return Err(damaged(draft.folder(), "its content root is not the one on record"));
        }
        let shape = Shape {
            schema: found.schema.clone(),
            keys: found.keys.clone(),
            times: found.times.clone(),
            codec: Codec::default(),
        };
        let mut staged = Staged {
            warehouse: self.clone(),
            place: place.clone(),
            shape,
            run,
            files: vec![],
            rows: found.rows,
            content_root: root,
            event_range: found.event_range,
            profile: None,
        };
        for (n, file) in found.files.iter().enumerate() {
            let from = self.file(draft, &file.path);
            let path = part_path(run, n);
            let mut sink = Sink::create(self, place, &path).await?;
            let read = |e: object_store::Error| StoreError::io("reading", &from, e);
            let mut bytes = self.store().get(&from).await.map_err(read)?.into_stream();
            while let Some(part) = bytes.try_next().await.map_err(read)? {
                sink.put(part).await?;
            }
            let (size, sha3) = sink.close().await?;
            staged.files.push(DataFile { path, bytes: size, sha3, ..file.clone() });
            if (size, sha3) != (file.bytes, file.sha3) {
                staged.discard().await?;
                return Err(damaged(from.to_string(), "its SHA3-256 is not the one it was written with"));
            }
        }
        let recomputed = self.recompute(&staged.manifest(found.entry)).await;
        if !matches!(recomputed, Ok(computed) if computed == root) {
            staged.discard().await?;
            recomputed?;
            return Err(damaged(draft.folder(), "its values are not those of its content root"));
        }
        Ok(staged)
    }

    /// The Delta log of a place.
    fn log(&self, place: &Place) -> Result<LogStoreRef, StoreError> {
        let url = self.table_url(place)?;
        let io = |e| StoreError::io("opening", place.folder(), Box::new(e));
        let builder = DeltaTableBuilder::from_url(url.clone()).map_err(io)?;
        // The builder ignores the url's path when a store is given: the store is rooted at `/`.
        builder.with_storage_backend(self.store().clone(), url).build_storage().map_err(io)
    }
}

fn part_path(run: EntryId, n: usize) -> String {
    format!("{run}/part-{n:05}.parquet")
}

impl Staging {
    /// Counts the values too, in the same pass.
    #[must_use]
    pub fn profiled(mut self) -> Self {
        self.profiler = Some(Profiler::new(&self.shape.schema));
        self
    }

    /// Takes the next rows, in order.
    pub async fn write(&mut self, rows: RecordBatch) -> Result<(), StoreError> {
        if rows.num_rows() == 0 {
            return Ok(());
        }
        let rows = conform(&rows, &self.shape.schema, self.taken)?;
        self.check_order(&rows)?;
        self.taken += rows.num_rows() as u64;
        self.even.push_batch(rows).map_err(|_| self.too_large())?;
        self.drain().await
    }

    /// Closes and syncs the files.
    pub async fn finish(mut self) -> Result<Staged, StoreError> {
        self.even.finish_buffered_batch().map_err(|_| self.too_large())?;
        self.drain().await?;
        if let Some(block) = self.root.rest() {
            self.hash(block).await?;
        }
        if let Some(file) = self.open.take() {
            self.close(file).await?;
        }
        let time = (!self.shape.times.is_empty()).then_some(self.shape.keys.len());
        Ok(Staged {
            event_range: time.and_then(|at| event_range(&self.files, at)),
            warehouse: self.warehouse,
            place: self.place,
            shape: self.shape,
            run: self.run,
            files: self.files,
            rows: self.root.rows(),
            content_root: self.root.finish(),
            profile: self.profiler.map(Profiler::finish),
        })
    }

    /// Gives up: removes what was written. Dropping leaves it to sweeping.
    pub async fn abort(mut self) -> Result<(), StoreError> {
        let open = self.open.take();
        if let Some(file) = open {
            file.writer.into_inner().abort().await?;
        }
        delete(&self.warehouse, &self.place, &self.files).await
    }

    /// Bytes held: encoded pages of the open row group. Blocks add at most three times 65,536 rows.
    #[cfg(test)]
    pub(crate) fn memory(&self) -> usize {
        self.open.as_ref().map_or(0, |file| file.writer.memory_size())
    }

    fn too_large(&self) -> StoreError {
        StoreError::TooLarge { column: "(any)".into(), what: "bytes" }
    }

    /// INVARIANT: scans declare this order, and answers would be wrong if it did not hold.
    fn check_order(&mut self, rows: &RecordBatch) -> Result<(), StoreError> {
        let Some(sorter) = &self.sorter else { return Ok(()) };
        let columns: Vec<_> = self.order.iter().map(|i| rows.column(*i).clone()).collect();
        let keys = sorter.convert_columns(&columns).map_err(|_| self.too_large())?;
        let wrong = |i: usize| StoreError::Order { row: self.taken + i as u64 + 1 };
        if let Some(last) = &self.last
            && last.row() > keys.row(0)
        {
            return Err(wrong(0));
        }
        if let Some(i) = (1..keys.num_rows()).find(|i| keys.row(i - 1) > keys.row(*i)) {
            return Err(wrong(i));
        }
        self.last = Some(keys.row(keys.num_rows() - 1).owned());
        Ok(())
    }

    async fn drain(&mut self) -> Result<(), StoreError> {
        while let Some(batch) = self.even.next_completed_batch() {
            for block in self.root.push(batch.clone()) {
                self.hash(block).await?;
            }
            let mut file = match self.open.take() {
                Some(file) => file,
                None => {
                    let path = part_path(self.run, self.files.len());
                    OpenFile::create(&self.warehouse, &self.place, &self.shape, self.order.clone(), path).await?
                }
            };
            file.write(&batch).await?;
            match file.rows >= FILE_ROWS {
                true => self.close(file).await?,
                false => self.open = Some(file),
            }
        }
        Ok(())
    }

    /// Closes a file, which ends where a block ends: its footer says what the leaves of its blocks are.
    async fn close(&mut self, mut file: OpenFile) -> Result<(), StoreError> {
        while !self.hashing.is_empty() {
            self.await_hash().await?;
        }
        file.note(&std::mem::take(&mut self.leaves));
        self.files.push(file.close().await?);
        Ok(())
    }

    /// Hashes a block and counts its values on another core; at most two wait.
    async fn hash(&mut self, block: Block) -> Result<(), StoreError> {
        if self.hashing.len() >= 2 {
            self.await_hash().await?;
        }
        let counting = self.profiler.as_ref().map(Profiler::beside);
        self.hashing.push_back(tokio::task::spawn_blocking(move || {
            let counted = counting.map(|mut profiler| {
                block.rows().iter().for_each(|rows| profiler.add(rows));
                profiler
            });
            Ok((block.leaves()?, counted))
        }));
        Ok(())
    }

    async fn await_hash(&mut self) -> Result<(), StoreError> {
        if let Some(task) = self.hashing.pop_front() {
            let (leaves, counted) = task.await.map_err(|e| StoreError::io("hashing", self.place.folder(), e))??;
            self.leaves.extend(&leaves);
            self.root.add(leaves);
            if let (Some(profiler), Some(next)) = (&mut self.profiler, counted) {
                profiler.merge(next);
            }
        }
        Ok(())
    }
}

fn event_range(files: &[DataFile], at: usize) -> Option<(i64, i64)> {
    let micros = |value: &Option<ScalarValue>| match value {
        Some(ScalarValue::TimestampMicrosecond(v, _)) => *v,
        Some(ScalarValue::Date32(days)) => days.map(|d| i64::from(d) * 86_400_000_000),
        _ => None,
    };
    let bounds = || files.iter().filter_map(|file| file.bounds.get(at));
    Some((bounds().filter_map(|b| micros(&b.min)).min()?, bounds().filter_map(|b| micros(&b.max)).max()?))
}

impl Staged {
    /// Merkle root over the values.
    pub fn content_root(&self) -> Hash {
        self.content_root
    }

    /// Rows.
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// Smallest and largest value of the first time column, microseconds.
    pub fn event_range(&self) -> Option<(i64, i64)> {
        self.event_range
    }

    /// What the values look like, cells of few rows too; where [`Staging::profiled`] asked for it.
    pub fn profile(&self) -> Option<&Profile> {
        self.profile.as_ref()
    }

    /// The files as the ledger records them.
    pub fn digests(&self) -> Vec<FileDigest> {
        self.files.iter().map(DataFile::digest).collect()
    }

    /// Hash of the schema, as the publish entry records it.
    pub fn schema_hash(&self) -> Result<Hash, StoreError> {
        schema_hash(&self.shape.schema)
    }

    fn manifest(&self, entry: EntryId) -> Manifest {
        Manifest {
            place: self.place.clone(),
            schema: self.shape.schema.clone(),
            keys: self.shape.keys.clone(),
            times: self.shape.times.clone(),
            files: self.files.clone(),
            rows: self.rows,
            content_root: self.content_root,
            event_range: self.event_range,
            entry,
            run: self.run,
        }
    }

    /// Writes Delta commit 0: one put-if-absent.
    pub async fn commit(self, stamp: Stamp) -> Result<Committed, StoreError> {
        let manifest = self.manifest(stamp.entry);
        let bytes = commit_bytes(&manifest, stamp)?;
        let log = self.warehouse.log(&self.place)?;
        let written = log.write_commit_entry(0, CommitOrBytes::LogBytes(bytes.into()), stamp.entry.0).await;
        match written {
            Ok(()) => {
                let manifest = Arc::new(manifest);
                self.warehouse.cache(&manifest);
                Ok(Committed::New(manifest))
            }
            Err(TransactionError::VersionAlreadyExists(_)) => {
                let found = Arc::new(self.warehouse.load_version(&self.place).await?);
                Ok(Committed::Exists { found, ours: Box::new(self) })
            }
            Err(e) => Err(StoreError::io("committing", self.place.folder(), e)),
        }
    }

    /// Removes the staged files, but none that a commit names: two publishers may adopt one draft.
    pub async fn discard(mut self) -> Result<(), StoreError> {
        match self.warehouse.load_version(&self.place).await {
            Ok(found) => self.files.retain(|ours| found.files.iter().all(|file| file.path != ours.path)),
            Err(StoreError::NoVersion { .. }) => {}
            Err(e) => return Err(e),
        }
        delete(&self.warehouse, &self.place, &self.files).await
    }
}

async fn delete(warehouse: &Warehouse, place: &Place, files: &[DataFile]) -> Result<(), StoreError> {
    for file in files {
        let path = warehouse.file(place, &file.path);
        match warehouse.store().delete(&path).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => {}
            Err(e) => return Err(StoreError::io("removing", &path, e)),
        }
    }
    Ok(())
}

/// Sorted keys (`serde_json` without `preserve_order`), the entry's time: equal but for entry, run and time.
fn commit_bytes(manifest: &Manifest, stamp: Stamp) -> Result<String, StoreError> {
    let ms = stamp.at.0.div_euclid(1_000_000);
    let identity = manifest.place.identity();
    let order = manifest.ordering()?;
    let names: Vec<_> = order.iter().map(|i| manifest.schema.field(*i).name().clone()).collect();
    let quoted: Vec<_> = names.iter().map(|name| quote(name)).collect();
    let delta: StructType = manifest
        .schema
        .as_ref()
        .try_into_kernel()
        .map_err(|e| StoreError::Columns { found: format!("{e}"), declared: "columns that Delta can hold".into() })?;
    let mut configuration = Map::from_iter([
        ("delta.appendOnly".into(), json!("true")),
        ("delta.deletedFileRetentionDuration".into(), json!("interval 36500 days")),
        ("delta.enableExpiredLogCleanup".into(), json!("false")),
        ("delta.logRetentionDuration".into(), json!("interval 36500 days")),
    ]);
    match quoted.is_empty() {
        true => configuration.insert("delta.dataSkippingNumIndexedCols".into(), json!("0")),
        false => configuration.insert("delta.dataSkippingStatsColumns".into(), json!(quoted.join(","))),
    };
    let ids = |ids: &[FieldId]| ids.iter().map(|id| id.0).collect::<Vec<_>>();
    let mut lines = vec![
        json!({"commitInfo": {
            "timestamp": ms,
            "operation": "WRITE",
            "isBlindAppend": true,
            "engineInfo": CREATED_BY,
            "custody.identity": identity.to_string(),
            "custody.content_root": manifest.content_root.to_string(),
            "custody.entry": stamp.entry.to_string(),
            "custody.run": manifest.run.to_string(),
            "custody.columns": manifest.schema.fields().iter().map(|f| column_json(f)).collect::<Result<Vec<_>, _>>()?,
            "custody.keys": ids(&manifest.keys),
            "custody.times": ids(&manifest.times),
            "custody.event_range": manifest.event_range.map(|(min, max)| [min, max]),
            "custody.files": manifest.files.iter().map(DataFile::to_json).collect::<Vec<_>>(),
        }}),
        json!({"protocol": {"minReaderVersion": 1, "minWriterVersion": 2}}),
        json!({"metaData": {
            // From the identity, so that the same version has the same table id everywhere.
            "id": uuid::Builder::from_custom_bytes(first_16(&identity)).into_uuid().to_string(),
            "format": {"provider": "parquet", "options": {}},
            "partitionColumns": [],
            "schemaString": serde_json::to_string(&delta).map_err(|e| StoreError::io("encoding", "schema", e))?,
            "createdTime": ms,
            "configuration": configuration,
        }}),
    ];
    for file in &manifest.files {
        lines.push(json!({"add": {
            "path": file.path,
            "partitionValues": {},
            "size": file.bytes,
            "modificationTime": ms,
            "dataChange": true,
            "stats": stats(file, &names).to_string(),
        }}));
    }
    Ok(lines.iter().map(Value::to_string).collect::<Vec<_>>().join("\n"))
}

fn first_16(hash: &Hash) -> [u8; 16] {
    let mut out = [0; 16];
    out.copy_from_slice(&hash.0[..16]);
    out
}

fn quote(name: &str) -> String {
    match name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') {
        true => name.to_string(),
        false => format!("`{}`", name.replace('`', "``")),
    }
}

/// A file's statistics as Delta has them.
fn stats(file: &DataFile, names: &[String]) -> Value {
    let (mut min, mut max, mut nulls) = (Map::new(), Map::new(), Map::new());
    for (name, bounds) in names.iter().zip(&file.bounds) {
        nulls.insert(name.clone(), json!(bounds.nulls));
        if let (Some(low), Some(high)) =
            (bounds.min.as_ref().and_then(delta_value), bounds.max.as_ref().and_then(delta_value))
        {
            min.insert(name.clone(), low);
            max.insert(name.clone(), high);
        }
    }
    json!({"numRecords": file.rows, "minValues": min, "maxValues": max, "nullCount": nulls})
}

fn delta_value(value: &ScalarValue) -> Option<Value> {
    match value {
        ScalarValue::Int8(v) => v.map(Value::from),
        ScalarValue::Int16(v) => v.map(Value::from),
        ScalarValue::Int32(v) => v.map(Value::from),
        ScalarValue::Int64(v) => v.map(Value::from),
        ScalarValue::Utf8(v) => v.as_ref().filter(|v| v.len() <= 32).map(|v| json!(v)),
        ScalarValue::Date32(_) | ScalarValue::TimestampMicrosecond(..) => {
            let text = cast(&value.to_array().ok()?, &DataType::Utf8).ok()?;
            match ScalarValue::try_from_array(&text, 0).ok()? {
                ScalarValue::Utf8(text) => text.map(Value::from),
                _ => None,
            }
        }
        _ => None,
    }
}

/// Bytes on their way to an object, with their digest, which is taken on another core.
struct Sink {
    path: ObjectPath,
    upload: Option<WriteMultipart>,
    hashing: Sender<Bytes>,
    sha3: JoinHandle<Hash>,
    bytes: u64,
}

impl Sink {
    async fn create(warehouse: &Warehouse, place: &Place, file: &str) -> Result<Self, StoreError> {
        let path = warehouse.file(place, file);
        let upload = warehouse.store().put_multipart(&path).await.map_err(|e| StoreError::io("writing", &path, e))?;
        let upload = WriteMultipart::new_with_chunk_size(upload, PART_BYTES);
        let (hashing, mut parts) = channel::<Bytes>(4);
        let sha3 = tokio::task::spawn_blocking(move || {
            let mut sha3 = Sha3_256::new();
            while let Some(part) = parts.blocking_recv() {
                sha3.update(&part);
            }
            Hash(sha3.finalize().into())
        });
        Ok(Self { path, upload: Some(upload), hashing, sha3, bytes: 0 })
    }

    async fn put(&mut self, bytes: Bytes) -> Result<(), StoreError> {
        let upload = self.upload.as_mut().ok_or_else(|| StoreError::io("writing", &self.path, "the file is closed"))?;
        self.bytes += bytes.len() as u64;
        self.hashing.send(bytes.clone()).await.map_err(|e| StoreError::io("hashing", &self.path, e))?;
        upload.wait_for_capacity(2).await.map_err(|e| StoreError::io("writing", &self.path, e))?;
        upload.put(bytes);
        Ok(())
    }

    /// Synced and named.
    async fn close(mut self) -> Result<(u64, Hash), StoreError> {
        self.end().await?;
        drop(self.hashing);
        let sha3 = self.sha3.await.map_err(|e| StoreError::io("hashing", &self.path, e))?;
        Ok((self.bytes, sha3))
    }

    async fn end(&mut self) -> Result<(), StoreError> {
        match self.upload.take() {
            Some(upload) => upload.finish().await.map(drop).map_err(|e| StoreError::io("syncing", &self.path, e)),
            None => Ok(()),
        }
    }

    async fn abort(mut self) -> Result<(), StoreError> {
        match self.upload.take() {
            Some(upload) => upload.abort().await.map_err(|e| StoreError::io("removing", &self.path, e)),
            None => Ok(()),
        }
    }
}

impl AsyncFileWriter for Sink {
    fn write(&mut self, bytes: Bytes) -> BoxFuture<'_, Result<(), ParquetError>> {
        async move { self.put(bytes).await.map_err(|e| ParquetError::External(Box::new(e))) }.boxed()
    }

    fn complete(&mut self) -> BoxFuture<'_, Result<(), ParquetError>> {
        async move { self.end().await.map_err(|e| ParquetError::External(Box::new(e))) }.boxed()
    }
}

/// A file being written.
struct OpenFile {
    path: String,
    writer: AsyncArrowWriter<Sink>,
    rows: u64,
    order: Vec<usize>,
    bounds: Vec<Option<(MinAccumulator, MaxAccumulator)>>,
    nulls: Vec<u64>,
}

impl OpenFile {
    async fn create(
        warehouse: &Warehouse,
        place: &Place,
        shape: &Shape,
        order: Vec<usize>,
        path: String,
    ) -> Result<Self, StoreError> {
        let sink = Sink::create(warehouse, place, &path).await?;
        let schema = shape.schema.clone();
        let properties = properties(shape.codec)?;
        let bounds = order.iter().map(|i| {
            let data_type = schema.field(*i).data_type();
            Some((MinAccumulator::try_new(data_type).ok()?, MaxAccumulator::try_new(data_type).ok()?))
        });
        Ok(Self {
            bounds: bounds.collect(),
            nulls: vec![0; order.len()],
            order,
            writer: AsyncArrowWriter::try_new(sink, schema, Some(properties)).map_err(|e| encoding(&path, e))?,
            path,
            rows: 0,
        })
    }

    async fn write(&mut self, batch: &RecordBatch) -> Result<(), StoreError> {
        self.rows += batch.num_rows() as u64;
        for (n, column) in self.order.iter().map(|i| batch.column(*i)).enumerate() {
            self.nulls[n] += column.logical_null_count() as u64;
            if let Some((min, max)) = &mut self.bounds[n] {
                let update =
                    min.update_batch(std::slice::from_ref(column)).and(max.update_batch(std::slice::from_ref(column)));
                if update.is_err() {
                    self.bounds[n] = None;
                }
            }
        }
        self.writer.write(batch).await.map_err(|e| encoding(&self.path, e))
    }

    fn note(&mut self, leaves: &[Hash]) {
        self.writer.append_key_value_metadata(KeyValue::new(LEAVES.to_string(), leaves_text(leaves)));
    }

    async fn close(mut self) -> Result<DataFile, StoreError> {
        self.writer.finish().await.map_err(|e| encoding(&self.path, e))?;
        let (bytes, sha3) = self.writer.into_inner().close().await?;
        let bounds = self.bounds.iter_mut().zip(&self.nulls).map(|(bounds, nulls)| {
            let mut ends = [None, None];
            if let Some((min, max)) = bounds {
                let keep = |value: Result<ScalarValue, _>| value.ok().filter(|v: &ScalarValue| !v.is_null() && kept(v));
                ends = [keep(min.evaluate()), keep(max.evaluate())];
            }
            let [min, max] = ends;
            Bounds { min, max, nulls: *nulls }
        });
        Ok(DataFile { path: self.path, bytes, rows: self.rows, sha3, bounds: bounds.collect() })
    }
}

/// Whether a bound is kept: the manifest holds it as text.
fn kept(value: &ScalarValue) -> bool {
    match value {
        ScalarValue::Utf8(Some(text)) => text.len() <= 256,
        other => !matches!(
            other,
            ScalarValue::Float32(_)
                | ScalarValue::Float64(_)
                | ScalarValue::Binary(_)
                | ScalarValue::List(_)
                | ScalarValue::Struct(_)
        ),
    }
}

/// The store's own error where the encoder carried one, else the encoder's.
fn encoding(path: &str, error: ParquetError) -> StoreError {
    match error {
        ParquetError::External(inner) => match inner.downcast::<StoreError>() {
            Ok(ours) => *ours,
            Err(other) => match other.downcast::<ParquetError>() {
                Ok(nested) => encoding(path, *nested),
                Err(other) => StoreError::Io { step: "encoding", path: path.to_string(), source: other },
            },
        },
        other => StoreError::io("encoding", path, other),
    }
}

fn properties(codec: Codec) -> Result<WriterProperties, StoreError> {
    let compression = match codec {
        Codec::Zstd => Compression::ZSTD(ZstdLevel::try_new(1).map_err(|e| encoding("zstd", e))?),
        Codec::Snappy => Compression::SNAPPY,
        Codec::None => Compression::UNCOMPRESSED,
    };
    Ok(WriterProperties::builder()
        .set_created_by(CREATED_BY.to_string())
        .set_compression(compression)
        .set_max_row_group_row_count(Some(GROUP_ROWS))
        .set_max_row_group_bytes(Some(GROUP_BYTES))
        .build())
}
