//! The ledger's disk as files in a folder.
//!
//! What this holds: a file that `create_new`, `claim` or `publish` made is there whole after power loss, with every folder
//! above it; `sync` is `fdatasync` on the handle that wrote, and a handle whose sync failed is never used again. Locks are
//! `flock`s: they end with the process. Temporary files begin with a dot and do not show in `list`; so does the file of zeros
//! that `prepare` makes ahead, for the next `create_new` of its size.

use custody_ledger::{Disk, DiskError, DiskLock};
use rustix::fs::{FlockOperation, flock};
use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

/// A folder of files.
pub struct FileDisk {
    root: PathBuf,
    file_mode: u32,
    folder_mode: u32,
    /// The file being appended to. A failed write or sync takes it out.
    writing: Mutex<Option<Writing>>,
    /// Who is told of what has become durable.
    watcher: OnceLock<Watcher>,
}

/// Is told of each change, in order, by whoever made it.
pub type Watcher = Box<dyn Fn(Changed<'_>) + Send + Sync>;

/// What has become durable.
#[derive(Clone, Copy, Debug)]
pub enum Changed<'a> {
    /// A file was made that begins with these bytes and is zero from there on.
    Made {
        /// Which.
        path: &'a str,
        /// Its first bytes.
        head: &'a [u8],
    },
    /// Bytes were written into a file and synced.
    Synced {
        /// Which.
        path: &'a str,
        /// From which byte.
        offset: u64,
        /// The bytes.
        bytes: &'a [u8],
    },
    /// A whole file was made or replaced.
    Whole {
        /// Which.
        path: &'a str,
        /// What it holds.
        bytes: &'a [u8],
    },
}

#[derive(Debug)]
struct Writing {
    path: String,
    file: Arc<File>,
    /// Written and not synced yet; kept only for a watcher.
    unsynced: Vec<(u64, Vec<u8>)>,
}

impl std::fmt::Debug for FileDisk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("FileDisk").field(&self.root).finish()
    }
}

/// Numbers temporary files over all disks of the process: two may lie over one folder.
static TEMPORARY: AtomicU64 = AtomicU64::new(0);

impl FileDisk {
    /// Files readable by whoever the process's umask allows.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self::with_modes(root.into(), 0o666, 0o777)
    }

    /// Files readable by their owner only: for keys.
    pub fn private(root: impl Into<PathBuf>) -> Self {
        Self::with_modes(root.into(), 0o600, 0o700)
    }

    fn with_modes(root: PathBuf, file_mode: u32, folder_mode: u32) -> Self {
        Self { root, file_mode, folder_mode, writing: Mutex::new(None), watcher: OnceLock::new() }
    }

    /// From now on every change is told, after it is durable and before whoever made it goes on. The first watcher stays.
    pub fn watch(&self, watcher: Watcher) {
        let _ = self.watcher.set(watcher);
    }

    fn tell(&self, changed: Changed<'_>) {
        if let Some(watcher) = self.watcher.get() {
            watcher(changed);
        }
    }

    /// The folder.
    pub fn root(&self) -> &Path {
        &self.root
    }

    fn at(&self, path: &str) -> PathBuf {
        self.root.join(path)
    }

    /// Makes the folders above a file, each durable in the one above it.
    fn make_parent(&self, file: &Path) -> io::Result<()> {
        let Some(parent) = file.parent().filter(|p| !p.as_os_str().is_empty()) else { return Ok(()) };
        if parent.is_dir() {
            return Ok(());
        }
        self.make_parent(parent)?;
        match DirBuilder::new().mode(self.folder_mode).create(parent) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            Err(error) => Err(error),
            Ok(()) => sync_folder_of(parent),
        }
    }

    /// Writes a temporary file beside `file` and hands it to `place`; removes it if anything fails.
    fn place(
        &self,
        file: &Path,
        parts: &[&[u8]],
        size: u64,
        suffix: &str,
        place: impl FnOnce(&Path, &Path) -> io::Result<()>,
    ) -> io::Result<()> {
        self.make_parent(file)?;
        let name = file.file_name().unwrap_or_default().to_string_lossy();
        let temporary = file.with_file_name(format!(".{name}.{}", suffix));
        let taken = match parts {
            [head] if size > 0 => self.take_ahead(file, &temporary, head, size),
            _ => Ok(false),
        };
        let filled = taken.and_then(|taken| if taken { Ok(()) } else { self.fill(&temporary, parts, size) });
        let done = filled.and_then(|()| place(&temporary, file));
        if done.is_err() {
            // It may be gone already, or the disk may be beyond help; the first error is the one that tells.
            let _ = fs::remove_file(&temporary);
        }
        done?;
        sync_folder_of(file)
    }

    /// For temporary files: not shared with any other process, disk or call.
    fn suffix(&self) -> String {
        format!("{}.{}", std::process::id(), TEMPORARY.fetch_add(1, Ordering::Relaxed))
    }

    /// Makes a durable file of zeros beside `path`, which the next `create_new` of this size there takes instead of writing
    /// its own. Written slowly: other files of the disk are synced meanwhile.
    pub fn prepare(&self, path: &str, size: u64) -> Result<(), DiskError> {
        const STEP: u64 = 1 << 20;
        let ahead = ahead(&self.at(path), size);
        let temporary = ahead.with_extension(self.suffix());
        let make = || {
            self.make_parent(&ahead)?;
            let mut out =
                OpenOptions::new().write(true).create(true).truncate(true).mode(self.file_mode).open(&temporary)?;
            for from in (0..size).step_by(STEP as usize) {
                out.write_all(&vec![0; usize::try_from(STEP.min(size - from)).unwrap_or_default()])?;
                out.sync_data()?;
            }
            out.sync_all()?;
            fs::rename(&temporary, &ahead)
        };
        if ahead.exists() {
            return Ok(());
        }
        let made = make();
        if made.is_err() {
            let _ = fs::remove_file(&temporary);
        }
        made.map_err(failed("prepare", path))
    }

    /// The file made ahead under another name, with this head; `false`: there is none.
    fn take_ahead(&self, file: &Path, temporary: &Path, head: &[u8], size: u64) -> io::Result<bool> {
        if absent(fs::rename(ahead(file, size), temporary))?.is_none() {
            return Ok(false);
        }
        let out = OpenOptions::new().write(true).open(temporary)?;
        if out.metadata()?.len() != size {
            return Ok(false);
        }
        out.write_all_at(head, 0)?;
        out.sync_all()?;
        Ok(true)
    }

    fn fill(&self, file: &Path, parts: &[&[u8]], size: u64) -> io::Result<()> {
        const ZEROS: &[u8] = &[0; 1 << 18];
        let mut out = OpenOptions::new().write(true).create(true).truncate(true).mode(self.file_mode).open(file)?;
        let mut written = 0;
        for part in parts {
            out.write_all(part)?;
            written += part.len() as u64;
        }
        while written < size {
            let step = usize::try_from(size - written).unwrap_or(usize::MAX).min(ZEROS.len());
            out.write_all(&ZEROS[..step])?;
            written += step as u64;
        }
        out.sync_all()
    }

    fn writing(&self, path: &str) -> io::Result<Arc<File>> {
        let mut writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(open) = &*writing
            && open.path == path
        {
            return Ok(open.file.clone());
        }
        let file = Arc::new(OpenOptions::new().write(true).open(self.at(path))?);
        *writing = Some(Writing { path: path.to_string(), file: file.clone(), unsynced: vec![] });
        Ok(file)
    }

    fn give_up(&self, path: &str) {
        let mut writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        writing.take_if(|open| open.path == path);
    }
}

/// The file of zeros made ahead for files of this size in the folder of `file`.
fn ahead(file: &Path, size: u64) -> PathBuf {
    file.with_file_name(format!(".ahead-{size}"))
}

fn sync_folder_of(file: &Path) -> io::Result<()> {
    let parent = file.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(parent)?.sync_all()
}

fn failed(operation: &'static str, path: &str) -> impl FnOnce(io::Error) -> DiskError {
    let path = path.to_string();
    move |source| DiskError { operation, path, source }
}

fn absent<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

impl Disk for FileDisk {
    fn create_new(&self, path: &str, head: &[u8], size: u64) -> Result<(), DiskError> {
        // Whoever makes segments holds the writer's lock, so nobody comes in between; and what a crash left of a large
        // temporary file has the same name and is overwritten.
        let rename = |from: &Path, to: &Path| match to.exists() {
            true => Err(io::ErrorKind::AlreadyExists.into()),
            false => fs::rename(from, to),
        };
        self.place(&self.at(path), &[head], size, "new", rename).map_err(failed("create", path))?;
        self.tell(Changed::Made { path, head });
        Ok(())
    }

    fn claim(&self, path: &str, bytes: &[u8]) -> Result<bool, DiskError> {
        let mut taken = false;
        let link = |from: &Path, to: &Path| match fs::hard_link(from, to) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                taken = true;
                fs::remove_file(from)
            }
            Err(error) => Err(error),
            Ok(()) => fs::remove_file(from),
        };
        self.place(&self.at(path), &[bytes], 0, &self.suffix(), link).map_err(failed("claim", path))?;
        if !taken {
            self.tell(Changed::Whole { path, bytes });
        }
        Ok(!taken)
    }

    fn publish(&self, path: &str, bytes: &[u8]) -> Result<(), DiskError> {
        let rename = |from: &Path, to: &Path| fs::rename(from, to);
        self.place(&self.at(path), &[bytes], 0, &self.suffix(), rename).map_err(failed("publish", path))?;
        self.tell(Changed::Whole { path, bytes });
        Ok(())
    }

    fn write_at(&self, path: &str, offset: u64, bytes: &[u8]) -> Result<(), DiskError> {
        let written = self.writing(path).and_then(|file| file.write_all_at(bytes, offset));
        written.inspect_err(|_| self.give_up(path)).map_err(failed("write", path))?;
        if self.watcher.get().is_some()
            && let Some(open) = &mut *self.writing.lock().unwrap_or_else(PoisonError::into_inner)
            && open.path == path
        {
            open.unsynced.push((offset, bytes.to_vec()));
        }
        Ok(())
    }

    fn sync(&self, path: &str) -> Result<(), DiskError> {
        let synced = self.writing(path).and_then(|file| file.sync_data());
        synced.inspect_err(|_| self.give_up(path)).map_err(failed("sync", path))?;
        let mut writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let open = writing.as_mut().filter(|open| open.path == path);
        let told = open.map(|open| std::mem::take(&mut open.unsynced)).unwrap_or_default();
        drop(writing);
        for (offset, bytes) in &told {
            self.tell(Changed::Synced { path, offset: *offset, bytes });
        }
        Ok(())
    }

    fn read_at(&self, path: &str, offset: u64, length: usize) -> Result<Vec<u8>, DiskError> {
        let read = || {
            let file = File::open(self.at(path))?;
            let there = usize::try_from(file.metadata()?.len().saturating_sub(offset)).unwrap_or(usize::MAX);
            let mut out = vec![0; length.min(there)];
            let mut done = 0;
            while done < out.len() {
                match file.read_at(&mut out[done..], offset + done as u64) {
                    Ok(0) => break,
                    Ok(n) => done += n,
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) => return Err(error),
                }
            }
            out.truncate(done);
            Ok(out)
        };
        read().map_err(failed("read", path))
    }

    fn len(&self, path: &str) -> Result<Option<u64>, DiskError> {
        let metadata = absent(fs::metadata(self.at(path))).map_err(failed("look at", path))?;
        Ok(metadata.map(|m| m.len()))
    }

    fn list(&self, folder: &str) -> Result<Vec<String>, DiskError> {
        let names = || {
            let Some(entries) = absent(fs::read_dir(self.at(folder)))? else { return Ok(vec![]) };
            let mut names = vec![];
            for entry in entries {
                let name = entry?.file_name().to_string_lossy().into_owned();
                if !name.starts_with('.') {
                    names.push(name);
                }
            }
            names.sort();
            Ok(names)
        };
        names().map_err(failed("list", folder))
    }

    fn lock(&self, path: &str) -> Result<Option<DiskLock>, DiskError> {
        let lock = || {
            let file = self.at(path);
            self.make_parent(&file)?;
            let options = OpenOptions::new().write(true).create(true).truncate(false).mode(self.file_mode).clone();
            let file = options.open(file)?;
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => Ok(Some(DiskLock::new(file))),
                Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
                Err(error) => Err(error.into()),
            }
        };
        lock().map_err(failed("lock", path))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use custody_ledger::{
        COMMAND_SEGMENT_BYTES, Chain, ChainOptions, KeySet, OpenRefused, Position, Reader, SignedNote,
    };
    use custody_model::{WallNanos, WriterId};
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_chain_in_files() {
        let folder = tempfile::tempdir().unwrap();
        let keys = FileDisk::private(folder.path().join("keys"));
        let disk = Arc::new(FileDisk::new(folder.path().join("ledger")));
        let keys = KeySet::create(keys, "clinic", [7; 32]).unwrap();
        keys.genesis().store(&disk).unwrap();
        let writer = WriterId::new("cli-0").unwrap();
        let options = ChainOptions { writer: writer.clone(), segment_bytes: COMMAND_SEGMENT_BYTES, seed: [1; 32] };
        let now = WallNanos(1_800_000_000_000_000_000);
        for incarnation in 1..=3 {
            let open = |seed| Chain::open(disk.clone(), keys.genesis(), ChainOptions { seed, ..options.clone() }, now);
            let (chain, recovery) = open([incarnation as u8; 32]).unwrap();
            assert_eq!((recovery.incarnation, recovery.closed), (incarnation, true));
            assert!(matches!(open([9; 32]), Err(OpenRefused::WriterOpen(_))));
            let signer = keys.signer(&writer, chain.key_epoch(), now, [8; 32]).unwrap();
            let note = chain.close(&signer, now).unwrap();
            let stored = SignedNote::parse(&disk.read("w/cli-0/checkpoint").unwrap().unwrap()).unwrap();
            assert_eq!(stored, note);
        }
        let (entries, _) = Reader::new(disk.clone()).tail(&writer, Position::default()).unwrap();
        assert_eq!(entries.len(), 7); // open, key, close; open, close; open, close
        assert_eq!(disk.list("w/cli-0/seg").unwrap(), ["000000000001.seg", "000000000002.seg", "000000000003.seg"]);
        let mode = |path: &str| fs::metadata(folder.path().join(path)).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode("keys/root"), mode("keys/w/cli-0"), mode("keys")), (0o600, 0o600, 0o700));
    }

    #[test]
    fn a_file_made_ahead_is_taken_by_the_next_of_its_size() {
        let folder = tempfile::tempdir().unwrap();
        let disk = FileDisk::new(folder.path());
        disk.prepare("seg/1", 2048).unwrap();
        disk.prepare("seg/1", 2048).unwrap();
        assert_eq!(disk.list("seg").unwrap(), [""; 0]);
        let inode = |path: &str| std::os::unix::fs::MetadataExt::ino(&fs::metadata(folder.path().join(path)).unwrap());
        let ahead = inode("seg/.ahead-2048");
        disk.create_new("seg/1", b"head", 1024).unwrap();
        disk.create_new("seg/2", b"head", 2048).unwrap();
        disk.create_new("seg/3", b"head", 2048).unwrap();
        assert_eq!(inode("seg/2"), ahead);
        assert_eq!(disk.list("seg").unwrap(), ["1", "2", "3"]);
        for path in ["seg/2", "seg/3"] {
            let bytes = disk.read(path).unwrap().unwrap();
            assert!(bytes.starts_with(b"head\0") && bytes.len() == 2048 && bytes[4..].iter().all(|b| *b == 0));
        }
        // One that is cut short is not taken.
        disk.prepare("seg/4", 2048).unwrap();
        fs::write(folder.path().join("seg/.ahead-2048"), [7; 9]).unwrap();
        disk.create_new("seg/4", b"head", 2048).unwrap();
        assert_eq!(disk.read("seg/4").unwrap(), disk.read("seg/3").unwrap());
    }

    #[test]
    fn whole_files_or_none() {
        let folder = tempfile::tempdir().unwrap();
        let disk = FileDisk::new(folder.path());
        assert!(disk.claim("control/1", b"one").unwrap());
        assert!(!disk.claim("control/1", b"two").unwrap());
        disk.publish("checkpoint", b"a").unwrap();
        disk.publish("checkpoint", b"b").unwrap();
        disk.create_new("seg/1", b"head", 1024).unwrap();
        let error = disk.create_new("seg/1", b"head", 1024).unwrap_err();
        assert_eq!(error.source.kind(), io::ErrorKind::AlreadyExists);
        disk.write_at("seg/1", 1020, b"tail").unwrap();
        disk.sync("seg/1").unwrap();
        assert!(disk.write_at("seg/2", 0, b"x").is_err());
        assert_eq!(disk.read("control/1").unwrap().unwrap(), b"one");
        assert_eq!(disk.read("checkpoint").unwrap().unwrap(), b"b");
        assert_eq!(disk.read("nothing").unwrap(), None);
        assert_eq!(disk.len("seg/1").unwrap(), Some(1024));
        assert_eq!(disk.read_at("seg/1", 1016, 100).unwrap(), b"\0\0\0\0tail");
        assert_eq!(disk.list("control").unwrap(), ["1"]);
        assert_eq!(disk.list("none").unwrap(), [""; 0]);
        let held = disk.lock("LOCK").unwrap();
        assert!(held.is_some() && disk.lock("LOCK").unwrap().is_none());
        drop(held);
        assert!(disk.lock("LOCK").unwrap().is_some());
        let leftovers = fs::read_dir(folder.path().join("control")).unwrap().count();
        assert_eq!(leftovers, 1);
    }
}
