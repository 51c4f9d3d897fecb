//! The few things that a ledger needs of a disk. Synchronous; paths are relative, with `/` between names.
//!
//! The file-backed one lives in crate `store`, one in memory in `sim`.

use crate::format::{Blobs, blob_ref, fetch};
use custody_model::BlobRef;
use std::{any::Any, fmt, io, sync::Arc};

/// An operation of the disk that failed.
#[derive(Debug, thiserror::Error)]
#[error("cannot {operation} `{path}`: {source}")]
pub struct DiskError {
    /// What was tried: `sync`, `write`, …
    pub operation: &'static str,
    /// On which path.
    pub path: String,
    /// Why not.
    pub source: io::Error,
}

impl DiskError {
    /// Whether the disk, or the quota, is full.
    pub fn is_no_space(&self) -> bool {
        matches!(self.source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
    }
}

/// A lock held; dropping it lets go.
pub struct DiskLock(#[expect(dead_code, reason = "held for its `Drop`")] Box<dyn Any + Send + Sync>);

impl DiskLock {
    /// Wraps whatever lets go of the lock when dropped.
    pub fn new(guard: impl Any + Send + Sync) -> Self {
        Self(Box::new(guard))
    }
}

impl fmt::Debug for DiskLock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DiskLock")
    }
}

/// A place for files. Parent folders are made as needed.
///
/// After `Ok`, what `create_new`, `claim`, `publish` and `sync` did survives power loss. After an error, it may or may
/// not have happened.
pub trait Disk: Send + Sync {
    /// Makes a file of `size` bytes that begins with `head` and is zero from there on, whole or not at all:
    /// temporary file, sync, rename, directory sync. An existing file is an error of kind `AlreadyExists`.
    fn create_new(&self, path: &str, head: &[u8], size: u64) -> Result<(), DiskError>;

    /// Makes a file with these bytes unless it exists, whole or not at all: temporary file, sync, hard link, directory
    /// sync. `false`: the file was there before.
    fn claim(&self, path: &str, bytes: &[u8]) -> Result<bool, DiskError>;

    /// Makes or replaces a file with these bytes, whole or not at all: temporary file, sync, rename, directory sync.
    fn publish(&self, path: &str, bytes: &[u8]) -> Result<(), DiskError>;

    /// Writes into an existing file. Not durable before `sync`.
    fn write_at(&self, path: &str, offset: u64, bytes: &[u8]) -> Result<(), DiskError>;

    /// Makes what was written into a file durable. INVARIANT: never called again on a file where it failed.
    fn sync(&self, path: &str) -> Result<(), DiskError>;

    /// Up to `length` bytes from `offset`; fewer at the end of the file.
    fn read_at(&self, path: &str, offset: u64, length: usize) -> Result<Vec<u8>, DiskError>;

    /// A file's size; `None`: no such file.
    fn len(&self, path: &str) -> Result<Option<u64>, DiskError>;

    /// The names in a folder, sorted; none where there is no such folder. Temporary files do not show.
    fn list(&self, folder: &str) -> Result<Vec<String>, DiskError>;

    /// Takes an exclusive lock on a file, made as needed, without waiting. `None`: someone else holds it.
    fn lock(&self, path: &str) -> Result<Option<DiskLock>, DiskError>;

    /// A whole file; `None`: no such file.
    fn read(&self, path: &str) -> Result<Option<Vec<u8>>, DiskError> {
        match self.len(path)? {
            None => Ok(None),
            Some(length) => self.read_at(path, 0, usize::try_from(length).unwrap_or(usize::MAX)).map(Some),
        }
    }
}

macro_rules! forward {
    ($($ty:ty),*) => {$(
        impl<D: Disk + ?Sized> Disk for $ty {
            fn create_new(&self, path: &str, head: &[u8], size: u64) -> Result<(), DiskError> {
                (**self).create_new(path, head, size)
            }
            fn claim(&self, path: &str, bytes: &[u8]) -> Result<bool, DiskError> {
                (**self).claim(path, bytes)
            }
            fn publish(&self, path: &str, bytes: &[u8]) -> Result<(), DiskError> {
                (**self).publish(path, bytes)
            }
            fn write_at(&self, path: &str, offset: u64, bytes: &[u8]) -> Result<(), DiskError> {
                (**self).write_at(path, offset, bytes)
            }
            fn sync(&self, path: &str) -> Result<(), DiskError> {
                (**self).sync(path)
            }
            fn read_at(&self, path: &str, offset: u64, length: usize) -> Result<Vec<u8>, DiskError> {
                (**self).read_at(path, offset, length)
            }
            fn len(&self, path: &str) -> Result<Option<u64>, DiskError> {
                (**self).len(path)
            }
            fn list(&self, folder: &str) -> Result<Vec<String>, DiskError> {
                (**self).list(folder)
            }
            fn lock(&self, path: &str) -> Result<Option<DiskLock>, DiskError> {
                (**self).lock(path)
            }
            fn read(&self, path: &str) -> Result<Option<Vec<u8>>, DiskError> {
                (**self).read(path)
            }
        }
    )*};
}
forward!(Arc<D>, &D, Box<D>);

/// The path of a blob.
pub fn blob_path(blob: &BlobRef) -> String {
    format!("blob/{}", blob.hash)
}

/// Stores bytes under their hash, durable when this returns. Storing them twice is fine.
pub fn put_blob(disk: &dyn Disk, bytes: &[u8]) -> Result<BlobRef, DiskError> {
    let blob = blob_ref(bytes);
    let path = blob_path(&blob);
    // A damaged file under this name is replaced by the right bytes; a sound one stays.
    if !disk.claim(&path, bytes)? && fetch(&blob, &DiskBlobs(disk)).is_err() {
        disk.publish(&path, bytes)?;
    }
    Ok(blob)
}

/// The blobs of a disk.
#[derive(Clone, Copy)]
pub struct DiskBlobs<'a>(pub &'a dyn Disk);

impl Blobs for DiskBlobs<'_> {
    fn get(&self, blob: &BlobRef) -> Option<Vec<u8>> {
        self.0.read(&blob_path(blob)).ok().flatten()
    }
}
