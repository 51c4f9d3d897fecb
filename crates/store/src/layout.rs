//! Where things lie in a warehouse.
//!
//! ```text
//! <warehouse>/data/<dataset id>/<identity>/                one Delta table, written once
//!             draft/<principal>/<dataset id>/<identity>/   the same, private
//!             quarantine/<dataset id>/<identity>/          published with its view
//!             raw/…                                        sources that live here
//! ```
//!
//! A folder is named by the first 32 hexadecimal digits of the identity; the whole identity is in the commit.

use crate::{DurableLocal, Manifest, StoreError};
use custody_model::{DatasetId, Hash, Principal};
use datafusion::{datasource::object_store::ObjectStoreUrl, execution::runtime_env::RuntimeEnv};
use object_store::{ObjectStore, path::Path as ObjectPath};
use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};
use url::Url;

/// Folders of a warehouse that no source may read, whatever is allowed.
pub(crate) const CLOSED: [&str; 6] = ["ledger", "data", "draft", "quarantine", "projection", "keys"];

/// Where one version lies.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Place {
    /// A published version.
    Version {
        /// Of this dataset.
        dataset: DatasetId,
        /// SHA3-256 over plan, declaration, inputs, engine version and seed.
        identity: Hash,
    },
    /// A principal's private draft.
    Draft {
        /// Whose.
        principal: Principal,
        /// Of this dataset.
        dataset: DatasetId,
        /// As for a version.
        identity: Hash,
    },
    /// Rows that broke an expectation, published with their view.
    Quarantine {
        /// The view's dataset.
        dataset: DatasetId,
        /// The view's identity.
        identity: Hash,
    },
}

impl Place {
    /// The identity of the version.
    pub fn identity(&self) -> Hash {
        match self {
            Self::Version { identity, .. } | Self::Draft { identity, .. } | Self::Quarantine { identity, .. } => {
                *identity
            }
        }
    }

    /// The dataset.
    pub fn dataset(&self) -> DatasetId {
        match self {
            Self::Version { dataset, .. } | Self::Draft { dataset, .. } | Self::Quarantine { dataset, .. } => *dataset,
        }
    }

    /// The folder below the warehouse, `/` between its parts.
    pub fn folder(&self) -> String {
        let identity = &self.identity().to_string()[..32];
        match self {
            Self::Version { dataset, .. } => format!("data/{dataset}/{identity}"),
            Self::Draft { principal, dataset, .. } => {
                format!("draft/{}/{dataset}/{identity}", segment(&principal.0))
            }
            Self::Quarantine { dataset, .. } => format!("quarantine/{dataset}/{identity}"),
        }
    }
}

/// A principal's name as one folder name: what is not a letter, digit, `_`, `-`, `@` or an inner `.` becomes `=` and two
/// hexadecimal digits. No two principals share a name.
fn segment(name: &str) -> String {
    let plain = |i: usize, b: u8| b.is_ascii_alphanumeric() || b"_-@".contains(&b) || (b == b'.' && i > 0);
    name.bytes()
        .enumerate()
        .map(|(i, b)| if plain(i, b) { (b as char).to_string() } else { format!("={b:02x}") })
        .collect()
}

/// An open warehouse: its folder, and the object store through which all of its data is read and written.
#[derive(Clone, Debug)]
pub struct Warehouse {
    root: PathBuf,
    prefix: ObjectPath,
    store: Arc<dyn ObjectStore>,
    url: ObjectStoreUrl,
    manifests: Arc<Mutex<HashMap<Place, Arc<Manifest>>>>,
}

impl Warehouse {
    /// Opens the warehouse in a folder of this machine, given as a path or a `file://` url.
    pub fn open(location: &str) -> Result<Self, StoreError> {
        let refuse = |why: &str| StoreError::Location { location: location.to_string(), why: why.to_string() };
        let path = local_path(location).map_err(|why| refuse(&why))?;
        let root = path.canonicalize().map_err(|e| match e.kind() {
            std::io::ErrorKind::NotFound => refuse("there is no such folder"),
            _ => StoreError::io("opening", path.display(), e),
        })?;
        if !root.is_dir() {
            return Err(refuse("it is not a folder"));
        }
        let prefix = ObjectPath::from_absolute_path(&root).map_err(|e| refuse(&e.to_string()))?;
        Ok(Self {
            root,
            prefix,
            store: Arc::new(DurableLocal::new()),
            url: ObjectStoreUrl::local_filesystem(),
            manifests: Arc::default(),
        })
    }

    /// Makes the folder where it is missing, durably, and opens it.
    pub fn create(location: &str) -> Result<Self, StoreError> {
        let refuse = |why: String| StoreError::Location { location: location.to_string(), why };
        let path = local_path(location).map_err(refuse)?;
        crate::durable::make_folders(&path).map_err(|e| StoreError::io("making", path.display(), e))?;
        Self::open(location)
    }

    /// The warehouse's folder, links resolved.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The object store, rooted at `/`.
    pub fn store(&self) -> &Arc<dyn ObjectStore> {
        &self.store
    }

    /// The url under which scans look for the object store.
    pub fn store_url(&self) -> &ObjectStoreUrl {
        &self.url
    }

    /// Registers the object store where scans will look for it.
    pub fn register(&self, runtime: &RuntimeEnv) {
        runtime.register_object_store(self.url.as_ref(), self.store.clone());
    }

    /// A place's folder on this machine.
    pub fn folder(&self, place: &Place) -> PathBuf {
        self.root.join(place.folder())
    }

    /// A place's folder in the object store.
    pub(crate) fn location(&self, place: &Place) -> ObjectPath {
        place.folder().split('/').fold(self.prefix.clone(), |path, part| path.join(part))
    }

    /// A file below a place's folder in the object store.
    pub(crate) fn file(&self, place: &Place, path: &str) -> ObjectPath {
        path.split('/').fold(self.location(place), |path, part| path.join(part))
    }

    /// A place's folder as the url of a Delta table.
    pub(crate) fn table_url(&self, place: &Place) -> Result<Url, StoreError> {
        let folder = self.folder(place);
        Url::from_directory_path(&folder)
            .map_err(|()| StoreError::io("naming", folder.display(), "the path is not absolute"))
    }

    pub(crate) fn cached(&self, place: &Place) -> Option<Arc<Manifest>> {
        self.manifests.lock().unwrap_or_else(PoisonError::into_inner).get(place).cloned()
    }

    pub(crate) fn forget(&self, place: &Place) {
        self.manifests.lock().unwrap_or_else(PoisonError::into_inner).remove(place);
    }

    /// Keeps a manifest. Drafts are not kept: they may be removed and computed again elsewhere.
    pub(crate) fn cache(&self, manifest: &Arc<Manifest>) {
        match manifest.place {
            Place::Version { .. } | Place::Quarantine { .. } => {
                let mut kept = self.manifests.lock().unwrap_or_else(PoisonError::into_inner);
                if kept.len() >= 10_000 {
                    kept.clear();
                }
                kept.insert(manifest.place.clone(), manifest.clone());
            }
            Place::Draft { .. } => {}
        }
    }
}

/// A path, or a `file` url, as a path.
pub(crate) fn local_path(location: &str) -> Result<PathBuf, String> {
    match Url::parse(location) {
        Ok(url) if url.scheme() == "file" => {
            url.to_file_path().map_err(|()| "it is not the url of a local file".to_string())
        }
        Ok(url) if location.contains("://") => Err(format!("`{}` urls are not supported", url.scheme())),
        _ if location.is_empty() => Err("it is empty".to_string()),
        _ => Ok(PathBuf::from(location)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn principals_are_one_folder_each() {
        let names = ["local/ann", "local=2fann", "..", ".", "a.b@c", "Ü"];
        let segments: Vec<_> = names.iter().map(|n| segment(n)).collect();
        assert_eq!(segments, ["local=2fann", "local=3d2fann", "=2e.", "=2e", "a.b@c", "=c3=9c"]);
    }

    #[test]
    fn other_schemes_are_refused_by_name() {
        let error = Warehouse::open("s3://bucket/x").unwrap_err();
        assert_eq!(error.to_string(), "`s3://bucket/x` cannot be a warehouse: `s3` urls are not supported");
        assert_eq!(error.problem().code.exit_code(), 1);
    }
}
