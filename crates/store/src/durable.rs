//! A local object store whose writes survive power loss.
//!
//! `object_store`'s own local store never syncs, and a sync afterwards comes too late: another process may see a commit,
//! and record it, that power loss then empties. Here an object is written under a temporary name, synced, given its name,
//! and its folder is synced; folders made on the way are synced too. Reads and listings are the local store's own.
//!
//! Temporaries are called `name#<number>`; listings hide them, as the local store does, and sweeping finds them.

use async_trait::async_trait;
use futures::{FutureExt, StreamExt, TryStreamExt, stream::BoxStream};
use object_store::{
    CopyMode, CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, PutMode,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, RenameOptions, RenameTargetMode, Result, UploadPart,
    local::LocalFileSystem, path::Path,
};
use std::{
    fmt,
    fs::{File, OpenOptions},
    io::{self, Write},
    ops::Range,
    path::{Path as FilePath, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

const STORE: &str = "DurableLocal";

fn failed(source: io::Error, path: &FilePath) -> Error {
    match source.kind() {
        io::ErrorKind::AlreadyExists => {
            Error::AlreadyExists { path: path.display().to_string(), source: source.into() }
        }
        io::ErrorKind::NotFound => Error::NotFound { path: path.display().to_string(), source: source.into() },
        io::ErrorKind::PermissionDenied => {
            Error::PermissionDenied { path: path.display().to_string(), source: source.into() }
        }
        _ => Error::Generic {
            store: STORE,
            source: io::Error::new(source.kind(), format!("{}: {source}", path.display())).into(),
        },
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    match tokio::runtime::Handle::try_current() {
        Ok(runtime) => runtime
            .spawn_blocking(work)
            .await
            .unwrap_or_else(|e| Err(Error::Generic { store: STORE, source: Box::new(e) })),
        Err(_) => work(),
    }
}

/// Syncs a folder, so that the names in it survive.
pub(crate) fn sync_folder(path: &FilePath) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// Makes a folder and those above it, each synced into the one above.
pub(crate) fn make_folders(path: &FilePath) -> io::Result<()> {
    if path.as_os_str().is_empty() || path.is_dir() {
        return Ok(());
    }
    let above = path.parent().filter(|p| !p.as_os_str().is_empty());
    if let Some(above) = above {
        make_folders(above)?;
    }
    match std::fs::create_dir(path) {
        Ok(()) => {}
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => {}
        Err(e) => return Err(e),
    }
    sync_folder(above.unwrap_or(FilePath::new(".")))
}

/// A file being written under a temporary name beside its own; removed unless it was given its name.
#[derive(Debug)]
struct Temporary {
    file: File,
    path: PathBuf,
    target: PathBuf,
}

impl Temporary {
    fn new(target: PathBuf) -> io::Result<Self> {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let folder = target.parent().ok_or(io::ErrorKind::InvalidInput)?;
        make_folders(folder)?;
        loop {
            // Processes differ by their number, threads by the counter; a leftover of an earlier process is passed over.
            let n = (u64::from(std::process::id()) << 32) | NEXT.fetch_add(1, Ordering::Relaxed);
            let mut path = target.clone().into_os_string();
            path.push(format!("#{n}"));
            match OpenOptions::new().write(true).create_new(true).open(&path) {
                Ok(file) => return Ok(Self { file, path: path.into(), target }),
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
                Err(e) => return Err(e),
            }
        }
    }

    /// Syncs the bytes, gives them their name, syncs the folder. `create`: only where the name is free.
    fn publish(&mut self, create: bool) -> io::Result<()> {
        self.file.sync_all()?;
        match create {
            true => std::fs::hard_link(&self.path, &self.target)?,
            false => std::fs::rename(&self.path, &self.target)?,
        }
        sync_folder(self.target.parent().ok_or(io::ErrorKind::InvalidInput)?)
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        // After a rename it is gone already; a failure leaves a temporary that sweeping finds.
        let _ = std::fs::remove_file(&self.path);
    }
}

/// See the module.
#[derive(Clone, Debug)]
pub struct DurableLocal {
    inner: Arc<LocalFileSystem>,
}

impl Default for DurableLocal {
    fn default() -> Self {
        Self::new()
    }
}

impl DurableLocal {
    /// A store rooted at `/`.
    pub fn new() -> Self {
        Self { inner: Arc::new(LocalFileSystem::new()) }
    }

    async fn place(&self, location: &Path, payload: PutPayload, create: bool) -> Result<PutResult> {
        let path = self.inner.path_to_filesystem(location)?;
        blocking(move || {
            let write = || {
                let mut temporary = Temporary::new(path.clone())?;
                payload.iter().try_for_each(|part| temporary.file.write_all(part))?;
                temporary.publish(create)
            };
            write().map_err(|e| failed(e, &path))
        })
        .await?;
        Ok(PutResult { e_tag: None, version: None })
    }
}

impl fmt::Display for DurableLocal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        STORE.fmt(f)
    }
}

#[async_trait]
impl ObjectStore for DurableLocal {
    async fn put_opts(&self, location: &Path, payload: PutPayload, opts: PutOptions) -> Result<PutResult> {
        let create = match opts.mode {
            PutMode::Create => true,
            PutMode::Overwrite => false,
            PutMode::Update(_) => {
                return Err(Error::NotImplemented {
                    operation: "`put_opts` with mode `PutMode::Update`".into(),
                    implementer: STORE.into(),
                });
            }
        };
        self.place(location, payload, create).await
    }

    async fn put_multipart_opts(&self, location: &Path, _: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        let path = self.inner.path_to_filesystem(location)?;
        let temporary = blocking(move || Temporary::new(path.clone()).map_err(|e| failed(e, &path))).await?;
        Ok(Box::new(Upload { offset: 0, state: Arc::new(Mutex::new(Some(temporary))) }))
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.inner.get_opts(location, options).await
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> Result<Vec<bytes::Bytes>> {
        self.inner.get_ranges(location, ranges).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let inner = self.inner.clone();
        self.inner
            .delete_stream(locations)
            .and_then(move |location| {
                let folder = inner.path_to_filesystem(&location).map(|p| p.parent().map(FilePath::to_path_buf));
                async move {
                    if let Some(folder) = folder? {
                        blocking(move || sync_folder(&folder).map_err(|e| failed(e, &folder))).await?;
                    }
                    Ok(location)
                }
            })
            .boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list(prefix)
    }

    fn list_with_offset(&self, prefix: Option<&Path>, offset: &Path) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list_with_offset(prefix, offset)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    /// Copies the bytes: a link would let a change of one object change the other.
    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        let (source, target) = (self.inner.path_to_filesystem(from)?, self.inner.path_to_filesystem(to)?);
        let create = match options.mode {
            CopyMode::Create => true,
            CopyMode::Overwrite => false,
        };
        blocking(move || {
            let mut bytes = File::open(&source).map_err(|e| failed(e, &source))?;
            let mut copy = || {
                let mut temporary = Temporary::new(target.clone())?;
                io::copy(&mut bytes, &mut temporary.file)?;
                temporary.publish(create)
            };
            copy().map_err(|e| failed(e, &target))
        })
        .await
    }

    async fn rename_opts(&self, from: &Path, to: &Path, options: RenameOptions) -> Result<()> {
        let (source, target) = (self.inner.path_to_filesystem(from)?, self.inner.path_to_filesystem(to)?);
        blocking(move || {
            let folder = |path: &FilePath| path.parent().map(FilePath::to_path_buf).ok_or(io::ErrorKind::InvalidInput);
            let rename = || {
                File::open(&source)?.sync_all()?;
                make_folders(&folder(&target)?)?;
                match options.target_mode {
                    RenameTargetMode::Overwrite => std::fs::rename(&source, &target)?,
                    RenameTargetMode::Create => {
                        std::fs::hard_link(&source, &target)?;
                        sync_folder(&folder(&target)?)?;
                        std::fs::remove_file(&source)?;
                    }
                }
                sync_folder(&folder(&target)?)?;
                sync_folder(&folder(&source)?)
            };
            rename().map_err(|e| failed(e, &target))
        })
        .await
    }
}

/// An upload in parts: each part is written where it belongs; completing syncs and names the file, where the name is free.
#[derive(Debug)]
struct Upload {
    offset: u64,
    state: Arc<Mutex<Option<Temporary>>>,
}

fn ended() -> Error {
    Error::Generic { store: STORE, source: "the upload has ended".into() }
}

#[async_trait]
impl MultipartUpload for Upload {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        let (at, state) = (self.offset, self.state.clone());
        self.offset += data.content_length() as u64;
        blocking(move || {
            let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
            let temporary = state.as_mut().ok_or_else(ended)?;
            let write = |file: &mut File| {
                io::Seek::seek(file, io::SeekFrom::Start(at))?;
                data.iter().try_for_each(|part| file.write_all(part))
            };
            write(&mut temporary.file).map_err(|e| failed(e, &temporary.target))
        })
        .boxed()
    }

    async fn complete(&mut self) -> Result<PutResult> {
        let state = self.state.clone();
        blocking(move || {
            let mut temporary = state.lock().unwrap_or_else(PoisonError::into_inner).take().ok_or_else(ended)?;
            temporary.publish(true).map_err(|e| failed(e, &temporary.target))
        })
        .await?;
        Ok(PutResult { e_tag: None, version: None })
    }

    async fn abort(&mut self) -> Result<()> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).take().map(drop).ok_or_else(ended)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use object_store::ObjectStoreExt;

    fn at(folder: &FilePath, name: &str) -> Path {
        Path::from_absolute_path(folder.join(name)).unwrap()
    }

    #[tokio::test]
    async fn the_second_create_is_refused_and_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let (store, path) = (DurableLocal::new(), at(folder.path(), "a/b/c"));
        let create = || PutOptions { mode: PutMode::Create, ..Default::default() };
        store.put_opts(&path, "one".into(), create()).await.unwrap();
        let error = store.put_opts(&path, "two".into(), create()).await.unwrap_err();
        assert!(matches!(error, Error::AlreadyExists { .. }), "{error}");
        assert_eq!(store.get(&path).await.unwrap().bytes().await.unwrap(), "one");
        store.put(&path, "three".into()).await.unwrap();
        assert_eq!(store.get(&path).await.unwrap().bytes().await.unwrap(), "three");
        assert_eq!(std::fs::read_dir(folder.path().join("a/b")).unwrap().count(), 1);
    }

    #[tokio::test]
    async fn parts_become_one_object_or_none() {
        let folder = tempfile::tempdir().unwrap();
        let (store, path) = (DurableLocal::new(), at(folder.path(), "x"));
        let mut upload = store.put_multipart(&path).await.unwrap();
        let (a, b) = (upload.put_part("hello ".into()), upload.put_part("world".into()));
        b.await.unwrap();
        a.await.unwrap();
        assert!(store.head(&path).await.is_err());
        upload.complete().await.unwrap();
        assert_eq!(store.get(&path).await.unwrap().bytes().await.unwrap(), "hello world");
        let mut upload = store.put_multipart(&at(folder.path(), "y")).await.unwrap();
        upload.put_part("gone".into()).await.unwrap();
        upload.abort().await.unwrap();
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[tokio::test]
    async fn a_copy_is_not_a_link() {
        let folder = tempfile::tempdir().unwrap();
        let store = DurableLocal::new();
        let (a, b) = (at(folder.path(), "a"), at(folder.path(), "b"));
        store.put(&a, "one".into()).await.unwrap();
        store.copy(&a, &b).await.unwrap();
        std::fs::write(folder.path().join("a"), "two").unwrap();
        assert_eq!(store.get(&b).await.unwrap().bytes().await.unwrap(), "one");
        assert!(store.rename_if_not_exists(&a, &b).await.is_err());
        store.rename(&a, &b).await.unwrap();
        assert_eq!(store.get(&b).await.unwrap().bytes().await.unwrap(), "two");
    }
}
