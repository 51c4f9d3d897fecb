//! Sources: data from elsewhere, read at exactly the files of a recorded snapshot.
//!
//! 1. [`Warehouse::snapshot`] resolves the url, refuses what lies outside the allowed folders (links and `..` resolved, each
//!    file anew), lists the files, hashes those that the previous snapshot does not vouch for, and checks the declared
//!    columns against them.
//! 2. [`snapshot_hash`] names the content: definition and files, never times.
//! 3. [`Warehouse::open_source`] gives a table over that list. Before a file is read and again when it ends, it is compared
//!    with the list: same size and etag, or else the same SHA3-256.
//!
//! The declared columns are the contract: files may have more (listed once as a warning) and may store them narrower or in
//! another layout, never wider; NULL in NOT NULL, a value of another type, a broken row are errors with file and, where it is
//! known, row. CSV columns are found by the header's names; an empty field is NULL.
//!
//! Delta tables are pinned by the file list of their newest version. Deletion vectors and column mapping are refused by name.

mod delta;
mod read;

use crate::{
    StoreError, Warehouse,
    layout::{CLOSED, local_path},
    root::sha3,
    sweep::digest,
};
use arrow::datatypes::{DataType, SchemaRef};
use custody_model::{DatasetDefinition, Hash, SourceKind};
use futures::{StreamExt, TryStreamExt};
use object_store::{ObjectMeta, ObjectStoreExt, path::Path as ObjectPath};
use serde_json::{Value, json};
use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    sync::Arc,
};

pub(crate) use read::SourceScan;
pub use read::SourceTable;

/// The folders that sources may read.
#[derive(Clone, Debug)]
pub struct Allow {
    project: Option<PathBuf>,
    open: Vec<PathBuf>,
    closed: Vec<PathBuf>,
}

/// What a source's declaration says about its files.
#[derive(Clone, Debug)]
pub struct SourceSpec<'a> {
    /// Their format.
    pub kind: SourceKind,
    /// As declared: a path below the warehouse or the project, an absolute path, a `file://` url; a folder or one file.
    pub url: &'a str,
    /// The declared columns.
    pub schema: SchemaRef,
}

/// One file of a snapshot.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SourceFile {
    /// Below the source's url; empty where the url is the file.
    pub path: String,
    /// Size.
    pub bytes: u64,
    /// What the object store says that changes with the object: on local folders, size, time and inode.
    pub etag: Option<String>,
    /// SHA3-256 of the bytes. Delta data files never change and have none.
    pub sha3: Option<Hash>,
    /// Values of partition columns, which Delta keeps outside the files.
    pub partition: BTreeMap<String, Option<String>>,
}

/// Where a source lies, in a form that outlives a move of the warehouse.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Base {
    /// Below the warehouse's folder.
    Warehouse(String),
    /// Anywhere else on this machine.
    Folder(PathBuf),
}

/// The files of a source at one moment.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SourceFiles {
    /// Their format.
    pub kind: SourceKind,
    pub(crate) base: Base,
    /// The Delta table's id and version.
    pub delta: Option<(String, u64)>,
    /// In the order of their paths.
    pub files: Vec<SourceFile>,
    /// What a user should know once: columns that are not declared, files of other formats. Not part of the snapshot.
    pub warnings: Vec<String>,
}

impl SourceFiles {
    /// Bytes of all files.
    pub fn bytes(&self) -> u64 {
        self.files.iter().map(|f| f.bytes).sum()
    }

    /// As recorded: the blob that a snapshot entry names.
    pub fn to_json(&self) -> Vec<u8> {
        let file = |f: &SourceFile| {
            json!({"path": f.path, "bytes": f.bytes, "etag": f.etag, "sha3": f.sha3.map(|h| h.to_string()),
                "partition": f.partition})
        };
        let base = match &self.base {
            Base::Warehouse(path) => json!({"warehouse": path}),
            Base::Folder(path) => json!({"folder": path}),
        };
        let delta = self.delta.as_ref().map(|(table, version)| json!({"table": table, "version": version}));
        let files: Vec<_> = self.files.iter().map(file).collect();
        json!({"format": 1, "kind": self.kind.word(), "base": base, "delta": delta, "files": files})
            .to_string()
            .into_bytes()
    }

    /// Reads what [`SourceFiles::to_json`] wrote.
    pub fn from_json(bytes: &[u8]) -> Result<Self, StoreError> {
        let parse = || {
            let value: Value = serde_json::from_slice(bytes).ok()?;
            if value.get("format")?.as_u64()? != 1 {
                return None;
            }
            let word = value.get("kind")?.as_str()?;
            let base = value.get("base")?;
            let base = match (base.get("warehouse"), base.get("folder")) {
                (Some(path), None) => Base::Warehouse(path.as_str()?.to_string()),
                (None, Some(path)) => Base::Folder(path.as_str()?.into()),
                _ => return None,
            };
            let delta = match value.get("delta")? {
                Value::Null => None,
                delta => Some((delta.get("table")?.as_str()?.to_string(), delta.get("version")?.as_u64()?)),
            };
            let text = |value: &Value| match value {
                Value::Null => Some(None),
                other => other.as_str().map(|text| Some(text.to_string())),
            };
            let file = |value: &Value| {
                let sha3 = match text(value.get("sha3")?)? {
                    Some(text) => Some(text.parse().ok()?),
                    None => None,
                };
                let partition = value.get("partition")?.as_object()?;
                Some(SourceFile {
                    path: value.get("path")?.as_str()?.to_string(),
                    bytes: value.get("bytes")?.as_u64()?,
                    etag: text(value.get("etag")?)?,
                    sha3,
                    partition: partition.iter().map(|(k, v)| Some((k.clone(), text(v)?))).collect::<Option<_>>()?,
                })
            };
            Some(Self {
                kind: SourceKind::ALL.into_iter().find(|k| k.word() == word)?,
                base,
                delta,
                files: value.get("files")?.as_array()?.iter().map(file).collect::<Option<_>>()?,
                warnings: vec![],
            })
        };
        parse().ok_or_else(|| StoreError::Damaged {
            path: "a source's file list".into(),
            what: "it is not one that this binary wrote".into(),
        })
    }
}

/// What a snapshot holds, by content: the parts of the definition that decide what is read, and the files, never times.
/// Owner, purposes and comment are not among them: they change by themselves.
pub fn snapshot_hash(definition: &DatasetDefinition, files: &SourceFiles) -> Hash {
    let mut out = b"custody snapshot v1".to_vec();
    let mut put = |bytes: &[u8]| {
        out.extend((bytes.len() as u64).to_be_bytes());
        out.extend(bytes);
    };
    put(definition.id.0.as_bytes());
    put(files.kind.word().as_bytes());
    put(&(definition.columns.len() as u64).to_be_bytes());
    for column in &definition.columns {
        put(&column.field.0.to_be_bytes());
        put(column.name.as_bytes());
        put(column.data_type.to_string().as_bytes());
        put(&[u8::from(column.nullable)]);
    }
    put(definition.entity.as_deref().unwrap_or_default().as_bytes());
    put(&definition.keys.iter().flat_map(|k| k.0.to_be_bytes()).collect::<Vec<_>>());
    for time in [definition.event_time, definition.known_time] {
        put(&time.map(|id| id.0.to_be_bytes().to_vec()).unwrap_or_default());
    }
    put(definition.ttl.as_deref().unwrap_or_default().as_bytes());
    if let Some((table, version)) = &files.delta {
        put(table.as_bytes());
        put(&version.to_be_bytes());
    }
    put(&(files.files.len() as u64).to_be_bytes());
    for file in &files.files {
        put(file.path.as_bytes());
        put(&file.bytes.to_be_bytes());
        put(&file.sha3.map(|h| h.0.to_vec()).unwrap_or_default());
    }
    sha3(&out)
}

impl Allow {
    fn check(&self, path: &Path, shown: &str) -> Result<(), StoreError> {
        let inside = self.open.iter().any(|open| path.starts_with(open));
        let closed = self.closed.iter().any(|closed| path.starts_with(closed));
        match inside && !closed {
            true => Ok(()),
            false => Err(StoreError::NotAllowed { url: shown.to_string() }),
        }
    }

    /// A file below a source's folder, links resolved: it may lead elsewhere. A missing one is met when it is read.
    fn check_file(&self, root: &Path, file: &str, url: &str) -> Result<(), StoreError> {
        let path = if file.is_empty() { root.to_path_buf() } else { root.join(file) };
        match path.canonicalize() {
            Ok(real) => self.check(&real, &format!("{url}/{file}")),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(()),
            Err(e) => Err(StoreError::io("reading", path.display(), e)),
        }
    }
}

impl Warehouse {
    /// The folders that sources may read: `<warehouse>/raw/`, the project's folder, and `more` (`sources.allow`). The
    /// warehouse's own folders and `closed` (keys that lie elsewhere) never are, whatever is allowed.
    pub fn allow(&self, project: Option<&Path>, more: &[String], closed: &[PathBuf]) -> Result<Allow, StoreError> {
        let real = |path: &Path| path.canonicalize().unwrap_or_else(|_| path.to_path_buf());
        let mut open = vec![self.root().join("raw")];
        open.extend(project.map(real));
        for prefix in more {
            let path = local_path(prefix).map_err(|why| StoreError::Source { url: prefix.clone(), why })?;
            open.push(real(&self.root().join(path)));
        }
        // A folder named twice, by a link, is closed under both names.
        let own = CLOSED.iter().map(|name| self.root().join(name));
        let closed: Vec<PathBuf> = own.chain(closed.iter().cloned()).flat_map(|p| [real(&p), p]).collect();
        Ok(Allow { project: project.map(real), open, closed })
    }

    /// A source's files at this moment. `previous`: the newest recorded snapshot, whose digests hold for files of equal size
    /// and etag.
    pub async fn snapshot(
        &self,
        allow: &Allow,
        source: &SourceSpec<'_>,
        previous: Option<&SourceFiles>,
    ) -> Result<SourceFiles, StoreError> {
        let root = self.resolve(allow, source.url)?;
        let base = match root.strip_prefix(self.root()) {
            Ok(below) => Base::Warehouse(below.to_string_lossy().into_owned()),
            Err(_) => Base::Folder(root.clone()),
        };
        let mut out = SourceFiles { kind: source.kind, base, delta: None, files: vec![], warnings: vec![] };
        match source.kind {
            SourceKind::Delta => {
                delta::list(self, source.url, &root, &mut out).await?;
                for file in &out.files {
                    allow.check_file(&root, &file.path, source.url)?;
                }
            }
            SourceKind::Parquet | SourceKind::Csv | SourceKind::Json => {
                self.list(allow, source, &root, previous, &mut out).await?;
            }
        }
        let location = self.object_path(&root)?;
        let checked = read::check(self, &location, &out, &source.schema).await?;
        let extra: BTreeSet<String> = checked.into_iter().flat_map(|file| file.extra).collect();
        if !extra.is_empty() {
            let names = extra.iter().map(|n| format!("`{n}`")).collect::<Vec<_>>().join(", ");
            out.warnings.push(format!("columns of `{}` that are not declared: {names}", source.url));
        }
        Ok(out)
    }

    /// A table over exactly the files of a snapshot. `name` is for messages.
    pub async fn open_source(
        &self,
        name: &str,
        files: &SourceFiles,
        schema: SchemaRef,
    ) -> Result<Arc<SourceTable>, StoreError> {
        let root = match &files.base {
            Base::Warehouse(below) => self.root().join(below),
            Base::Folder(path) => path.clone(),
        };
        let own = CLOSED.iter().map(|closed| self.root().join(closed));
        if own.into_iter().any(|closed| root.starts_with(closed)) {
            return Err(StoreError::NotAllowed { url: root.display().to_string() });
        }
        let location = self.object_path(&root)?;
        SourceTable::open(self, name, location, files.clone(), schema).await.map(Arc::new)
    }

    fn object_path(&self, path: &Path) -> Result<ObjectPath, StoreError> {
        ObjectPath::from_absolute_path(path).map_err(|e| StoreError::io("naming", path.display(), e))
    }

    /// The real path of a url, allowed.
    fn resolve(&self, allow: &Allow, url: &str) -> Result<PathBuf, StoreError> {
        let refuse = |why: String| StoreError::Source { url: url.to_string(), why };
        let path = local_path(url).map_err(refuse)?;
        let mut candidates = vec![self.root().join(&path)];
        if path.is_relative() {
            candidates.extend(allow.project.as_ref().map(|project| project.join(&path)));
        }
        match candidates.iter().find_map(|c| c.canonicalize().ok()) {
            Some(real) => allow.check(&real, url).map(|()| real),
            None => Err(refuse("there is no such file or folder".into())),
        }
    }

    /// Lists and hashes the files of a folder, or one file.
    async fn list(
        &self,
        allow: &Allow,
        source: &SourceSpec<'_>,
        root: &Path,
        previous: Option<&SourceFiles>,
        out: &mut SourceFiles,
    ) -> Result<(), StoreError> {
        let location = self.object_path(root)?;
        let listing = |e: object_store::Error| StoreError::io("listing", root.display(), e);
        let metas: Vec<ObjectMeta> = match root.is_dir() {
            true => self.store().list(Some(&location)).try_collect().await.map_err(listing)?,
            false => vec![self.store().head(&location).await.map_err(listing)?],
        };
        let mut found: Vec<(String, ObjectMeta)> = vec![];
        for meta in metas {
            let parts: Vec<_> = match meta.location.prefix_match(&location) {
                Some(parts) => parts.map(|p| p.as_ref().to_string()).collect(),
                None => continue,
            };
            // As other readers have it: names with a leading `.` or `_` are a tool's own.
            if parts.iter().any(|p| p.starts_with(['.', '_'])) {
                continue;
            }
            let path = parts.join("/");
            allow.check_file(root, &path, source.url)?;
            match path.is_empty() || has_extension(source.kind, &path) {
                true => found.push((path, meta)),
                false => out.warnings.push(format!(
                    "file `{path}` of `{}` is not {} and is not read",
                    source.url,
                    source.kind.word()
                )),
            }
        }
        found.sort_by(|a, b| a.0.cmp(&b.0));
        if found.is_empty() {
            let why = format!("it holds no {} files", source.kind.word());
            return Err(StoreError::Source { url: source.url.to_string(), why });
        }
        let known: BTreeMap<&str, &SourceFile> = match previous {
            Some(p) if p.kind == out.kind && p.base == out.base => {
                p.files.iter().map(|f| (f.path.as_str(), f)).collect()
            }
            _ => BTreeMap::new(),
        };
        let hashed = futures::stream::iter(found.into_iter().map(|(path, meta)| {
            let vouched =
                known.get(path.as_str()).filter(|f| f.bytes == meta.size && f.etag.is_some() && f.etag == meta.e_tag);
            let vouched = vouched.and_then(|f| f.sha3);
            async move {
                let sha3 = match vouched {
                    Some(sha3) => sha3,
                    None => match digest(self, &meta.location).await? {
                        Some((bytes, sha3)) if bytes == meta.size => sha3,
                        _ => return Err(StoreError::SourceChanged { file: path }),
                    },
                };
                let now = self.store().head(&meta.location).await;
                if !now.is_ok_and(|now| now.size == meta.size && now.e_tag == meta.e_tag) {
                    return Err(StoreError::SourceChanged { file: path });
                }
                Ok(SourceFile {
                    path,
                    bytes: meta.size,
                    etag: meta.e_tag,
                    sha3: Some(sha3),
                    partition: BTreeMap::new(),
                })
            }
        }));
        out.files = hashed.buffered(4).try_collect().await?;
        Ok(())
    }
}

fn has_extension(kind: SourceKind, path: &str) -> bool {
    let extensions: &[&str] = match kind {
        SourceKind::Parquet | SourceKind::Delta => &["parquet"],
        SourceKind::Csv => &["csv"],
        SourceKind::Json => &["json", "jsonl", "ndjson"],
    };
    let extension = path.rsplit_once('.').map(|(_, e)| e.to_ascii_lowercase());
    extension.is_some_and(|e| extensions.contains(&e.as_str()))
}

/// Whether a value of a file's type always, or by a checked cast, is one of the declared type.
pub(crate) fn reads_as(file: &DataType, declared: &DataType) -> bool {
    use DataType::{
        Binary, BinaryView, Date32, Decimal128, Dictionary, FixedSizeBinary, Float32, Float64, Int8, Int16, Int32,
        Int64, LargeBinary, LargeUtf8, List, Null, Struct, Timestamp, UInt8, UInt16, UInt32, UInt64, Utf8, Utf8View,
    };
    match (file, declared) {
        (a, b) if a == b => true,
        (Dictionary(_, values), b) => reads_as(values, b),
        (Null, _) => true,
        (Utf8View | LargeUtf8, Utf8) | (BinaryView | LargeBinary | FixedSizeBinary(_), Binary) => true,
        (Int8 | UInt8, Int16 | Int32 | Int64) | (Int16 | UInt16, Int32 | Int64) | (Int32 | UInt32 | UInt64, Int64) => {
            true
        }
        (Float32 | Int8 | Int16 | Int32 | UInt8 | UInt16 | UInt32, Float64) => true,
        (Int8 | Int16 | UInt8 | UInt16, Float32) => true,
        (Timestamp(..), Timestamp(..)) | (Date32, Timestamp(..)) => true,
        (Decimal128(p, s), Decimal128(q, t)) => {
            s <= t && i16::from(*p) - i16::from(*s) <= i16::from(*q) - i16::from(*t)
        }
        (List(a), List(b)) => reads_as(a.data_type(), b.data_type()),
        (Struct(a), Struct(b)) => {
            a.len() == b.len()
                && a.iter().zip(b).all(|(a, b)| a.name() == b.name() && reads_as(a.data_type(), b.data_type()))
        }
        _ => false,
    }
}
