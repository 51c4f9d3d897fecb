//! The verifier's view of a folder of files.

use custody_ledger::verify::{Source, Unreadable};
use std::{
    fs,
    io::{self, Read},
    path::{Path, PathBuf},
};

/// A `ledger/` folder, or a copy of one, as the verifier reads it: nothing is written, nothing is locked.
#[derive(Clone, Debug)]
pub struct FolderSource(PathBuf);

impl FolderSource {
    /// The folder that holds `genesis` and `w/`.
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        Self(folder.into())
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

/// `None` where there is no such file or folder.
fn found<T>(path: &str, result: io::Result<T>) -> Result<Option<T>, Unreadable> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(Unreadable { path: path.to_string(), why: e.to_string() }),
    }
}

impl Source for FolderSource {
    fn list(&self, folder: &str) -> Result<Vec<String>, Unreadable> {
        let names = |entries: fs::ReadDir| {
            entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect::<io::Result<Vec<_>>>()
        };
        let all = found(folder, fs::read_dir(self.0.join(folder)).and_then(names))?;
        // Files under construction are nobody's evidence.
        Ok(all.unwrap_or_default().into_iter().filter(|name| !name.starts_with('.')).collect())
    }

    fn read(&self, path: &str) -> Result<Option<Vec<u8>>, Unreadable> {
        found(path, fs::read(self.0.join(path)))
    }

    fn read_into(&self, path: &str, buffer: &mut Vec<u8>) -> Result<bool, Unreadable> {
        buffer.clear();
        let read = fs::File::open(self.0.join(path)).and_then(|mut file| file.read_to_end(buffer));
        found(path, read).map(|read| read.is_some())
    }

    fn read_start(&self, path: &str, length: usize) -> Result<Option<Vec<u8>>, Unreadable> {
        let start = || {
            let mut bytes = vec![];
            fs::File::open(self.0.join(path))?.take(length as u64).read_to_end(&mut bytes)?;
            Ok(bytes)
        };
        found(path, start())
    }
}
