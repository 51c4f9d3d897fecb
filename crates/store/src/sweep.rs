//! Verifying versions and finding what ended runs left behind.
//!
//! Both read the folders themselves: a store's listing hides temporaries.

use crate::{Manifest, Place, StoreError, Warehouse, manifest::COMMIT};
use custody_model::Hash;
use futures::TryStreamExt;
use object_store::ObjectStoreExt;
use sha3::{Digest, Sha3_256};
use std::{
    collections::BTreeSet,
    io,
    path::{Path, PathBuf},
};

/// How thoroughly to verify.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Depth {
    /// The bytes of files against their digests.
    Files,
    /// Also the values against the content root.
    Deep,
}

/// What kind of difference.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FindingKind {
    /// A file of the version is gone.
    Missing,
    /// A file's bytes are not those that were written.
    Changed,
    /// A file that the version does not know, among its data or in its log.
    Foreign,
    /// The commit is not the one the manifest was read from.
    Commit,
    /// The values are not those of the content root.
    Values,
    /// What an ended run left; harmless.
    Leftover,
}

impl FindingKind {
    /// Whether it means that the version is not what was published.
    pub fn is_damage(self) -> bool {
        match self {
            Self::Missing | Self::Changed | Self::Foreign | Self::Commit | Self::Values => true,
            Self::Leftover => false,
        }
    }
}

/// One difference between a version and what was written.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Finding {
    /// What kind.
    pub kind: FindingKind,
    /// The file, below the warehouse.
    pub path: String,
    /// In words.
    pub message: String,
}

/// Something on disk that no committed version holds.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Leftover {
    /// Below the warehouse.
    pub path: String,
    /// Size.
    pub bytes: u64,
}

impl Warehouse {
    /// Everything that differs between a version's folder and its manifest, by name. Empty: as written.
    pub async fn verify(&self, manifest: &Manifest, depth: Depth) -> Result<Vec<Finding>, StoreError> {
        let place = &manifest.place;
        let folder = place.folder();
        let mut findings = vec![];
        let mut find = |kind, path: &str, message: String| {
            findings.push(Finding { kind, path: format!("{folder}/{path}"), message });
        };
        match self.load_version(place).await {
            Ok(found) if found == *manifest => {}
            Ok(_) => find(FindingKind::Commit, COMMIT, "the commit is not the one that was written".into()),
            Err(StoreError::NoVersion { .. }) => find(FindingKind::Missing, COMMIT, "the commit is gone".into()),
            Err(StoreError::Damaged { what, .. }) => {
                find(FindingKind::Commit, COMMIT, format!("the commit is damaged: {what}"));
            }
            Err(other) => return Err(other),
        }
        let mut sound = true;
        let mut changed = vec![];
        for (n, file) in manifest.files.iter().enumerate() {
            match self.digest(place, &file.path).await? {
                None => find(FindingKind::Missing, &file.path, "the file is gone".into()),
                Some((bytes, _)) if bytes != file.bytes => {
                    let what = format!("it has {bytes} bytes, written were {}", file.bytes);
                    changed.push(n);
                    find(FindingKind::Changed, &file.path, what);
                }
                Some((_, sha3)) if sha3 != file.sha3 => {
                    changed.push(n);
                    let what = format!("its SHA3-256 is {sha3}, written was {}", file.sha3);
                    find(FindingKind::Changed, &file.path, what);
                }
                Some(_) => continue,
            }
            sound = false;
        }
        let known: BTreeSet<&str> = manifest.files.iter().map(|f| f.path.as_str()).chain([COMMIT]).collect();
        for (path, _) in self.files_below(&self.folder(place))? {
            if known.contains(path.as_str()) {
                continue;
            }
            // Another run's folder, or a temporary: left by a run that lost or died. Beside our own files, or in the log, it
            // would be read by others as part of the version.
            let run = path.split_once('/').map_or("", |(run, _)| run);
            let in_log = path.starts_with("_delta_log/");
            let ours = run == manifest.run.to_string();
            match is_temporary(&path) || (!in_log && !ours && run.parse::<custody_model::EntryId>().is_ok()) {
                true => find(FindingKind::Leftover, &path, "left by a run that ended".into()),
                false if in_log => find(FindingKind::Foreign, &path, "the version's log has another entry".into()),
                false => find(FindingKind::Foreign, &path, "the file is not part of the version".into()),
            }
        }
        if depth == Depth::Deep {
            for n in changed {
                for what in self.locate(manifest, n).await? {
                    find(FindingKind::Values, manifest.files.get(n).map_or("", |f| &f.path), what);
                }
            }
            match self.recompute(manifest).await {
                Ok(root) if root == manifest.content_root => {}
                Ok(root) => find(
                    FindingKind::Values,
                    "",
                    format!("the content root of its values is {root}, published was {}", manifest.content_root),
                ),
                // Of a file with other bytes that much was told above.
                Err(StoreError::Damaged { .. }) if !sound => {}
                Err(StoreError::Damaged { what, .. }) => {
                    find(FindingKind::Values, "", format!("its files cannot be read: {what}"))
                }
                Err(_) if !sound => {}
                Err(other) => return Err(other),
            }
        }
        Ok(findings)
    }

    /// Size and SHA3-256 of a file; `None` where there is none.
    async fn digest(&self, place: &Place, file: &str) -> Result<Option<(u64, Hash)>, StoreError> {
        digest(self, &self.file(place, file)).await
    }

    /// Removes an uncommitted place, or a draft; the folder of a committed version is refused.
    pub async fn remove(&self, place: &Place) -> Result<(), StoreError> {
        let folder = self.folder(place);
        let committed = folder.join(COMMIT).exists();
        match place {
            Place::Version { .. } | Place::Quarantine { .. } if committed => {
                return Err(StoreError::Committed { path: place.folder() });
            }
            Place::Version { .. } | Place::Quarantine { .. } | Place::Draft { .. } => {}
        }
        self.remove_folder(&folder)
    }

    /// Removes a committed table that is not, and never was, on record: what a run committed whose `written` entry names
    /// something else. The caller has looked; `entry` must be the one in the commit.
    pub async fn remove_unlisted(&self, manifest: &Manifest) -> Result<(), StoreError> {
        let found = self.load_version(&manifest.place).await?;
        if found != *manifest {
            return Err(StoreError::Committed { path: manifest.place.folder() });
        }
        self.forget(&manifest.place);
        self.remove_folder(&self.folder(&manifest.place))
    }

    fn remove_folder(&self, folder: &Path) -> Result<(), StoreError> {
        let failed = |e: io::Error| StoreError::io("removing", folder.display(), e);
        // The commit goes first: a crash leaves files without a version, never a version without files.
        let commit = folder.join(COMMIT);
        if commit.exists() {
            std::fs::remove_file(&commit).map_err(failed)?;
            if let Some(log) = commit.parent() {
                crate::durable::sync_folder(log).map_err(failed)?;
            }
        }
        match std::fs::remove_dir_all(folder) {
            Ok(()) => {}
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(e) => return Err(failed(e)),
        }
        match folder.parent() {
            Some(above) => crate::durable::sync_folder(above).map_err(failed),
            None => Ok(()),
        }
    }

    /// Files under `data`, `draft` and `quarantine` that no committed version holds: what `gc` may offer, once the runs that
    /// wrote them have ended.
    pub async fn leftovers(&self) -> Result<Vec<Leftover>, StoreError> {
        let mut out = vec![];
        for (top, depth) in [("data", 2), ("quarantine", 2), ("draft", 3)] {
            for place in folders(&self.root().join(top), depth)? {
                let known = match std::fs::read_to_string(place.join(COMMIT)) {
                    Ok(text) => committed_paths(&text),
                    Err(_) => BTreeSet::new(),
                };
                for (path, bytes) in self.files_below(&place)? {
                    if !known.contains(&path) {
                        let full = place.join(&path);
                        let below = full.strip_prefix(self.root()).unwrap_or(&full).display().to_string();
                        out.push(Leftover { path: below, bytes });
                    }
                }
            }
        }
        out.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(out)
    }

    /// Every file below a folder: path below it, size.
    fn files_below(&self, folder: &Path) -> Result<Vec<(String, u64)>, StoreError> {
        let mut out = vec![];
        let mut open = vec![folder.to_path_buf()];
        let failed = |path: &Path, e: io::Error| StoreError::io("listing", path.display(), e);
        while let Some(at) = open.pop() {
            let entries = match std::fs::read_dir(&at) {
                Ok(entries) => entries,
                Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
                Err(e) => return Err(failed(&at, e)),
            };
            for entry in entries {
                let entry = entry.map_err(|e| failed(&at, e))?;
                let meta = entry.metadata().map_err(|e| failed(&at, e))?;
                match meta.is_dir() {
                    true => open.push(entry.path()),
                    false => {
                        let path = entry.path();
                        let below = path.strip_prefix(folder).unwrap_or(&path).to_string_lossy().into_owned();
                        out.push((below, meta.len()));
                    }
                }
            }
        }
        out.sort();
        Ok(out)
    }
}

pub(crate) async fn digest(
    warehouse: &Warehouse,
    path: &object_store::path::Path,
) -> Result<Option<(u64, Hash)>, StoreError> {
    let read = |e: object_store::Error| StoreError::io("reading", path, e);
    let mut bytes = match warehouse.store().get(path).await {
        Ok(found) => found.into_stream(),
        Err(object_store::Error::NotFound { .. }) => return Ok(None),
        Err(e) => return Err(read(e)),
    };
    let (mut size, mut hash) = (0, Sha3_256::new());
    while let Some(part) = bytes.try_next().await.map_err(read)? {
        size += part.len() as u64;
        hash.update(&part);
    }
    Ok(Some((size, Hash(hash.finalize().into()))))
}

/// A name as [`crate::DurableLocal`] gives it to a file that is not finished.
fn is_temporary(path: &str) -> bool {
    path.rsplit_once('#').is_some_and(|(_, n)| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()))
}

fn folders(top: &Path, depth: usize) -> Result<Vec<PathBuf>, StoreError> {
    let mut level = vec![top.to_path_buf()];
    for _ in 0..depth {
        let mut next = vec![];
        for folder in level {
            match std::fs::read_dir(&folder) {
                Ok(entries) => {
                    let entries = entries.collect::<Result<Vec<_>, _>>();
                    let entries = entries.map_err(|e| StoreError::io("listing", folder.display(), e))?;
                    next.extend(entries.into_iter().map(|e| e.path()).filter(|p| p.is_dir()));
                }
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                Err(e) => return Err(StoreError::io("listing", folder.display(), e)),
            }
        }
        level = next;
    }
    level.sort();
    Ok(level)
}

fn committed_paths(commit: &str) -> BTreeSet<String> {
    let path = |line: &str| {
        let action: serde_json::Value = serde_json::from_str(line).ok()?;
        action.get("add")?.get("path")?.as_str().map(str::to_string)
    };
    commit.lines().filter_map(path).chain([COMMIT.to_string()]).collect()
}
