//! The file list of a Delta table's newest version.

use super::{SourceFile, SourceFiles};
use crate::{StoreError, Warehouse};
use deltalake::{DeltaTableBuilder, DeltaTableError};
use serde_json::Value;
use std::path::Path;
use url::Url;

/// Reader features that do not change what the listed files mean to us. With `deletionVectors` and `columnMapping` only
/// being allowed, not used.
const UNDERSTOOD: [&str; 6] =
    ["columnMapping", "deletionVectors", "timestampNtz", "typeWidening", "v2Checkpoint", "vacuumProtocolCheck"];

pub(super) async fn list(
    warehouse: &Warehouse,
    url: &str,
    root: &Path,
    out: &mut SourceFiles,
) -> Result<(), StoreError> {
    let refuse = |why: String| StoreError::Source { url: url.to_string(), why };
    let io = |e: DeltaTableError| match e {
        DeltaTableError::NotATable(_) => refuse("it is not a Delta table".into()),
        other => StoreError::io("reading", url, Box::new(other)),
    };
    if !root.join("_delta_log").is_dir() {
        return Err(refuse("it is not a Delta table".into()));
    }
    let location = Url::from_directory_path(root).map_err(|()| refuse("it is not an absolute path".into()))?;
    let table = DeltaTableBuilder::from_url(location.clone())
        .map_err(io)?
        .with_storage_backend(warehouse.store().clone(), location)
        .load()
        .await
        .map_err(io)?;
    let state = table.snapshot().map_err(io)?;
    let protocol = serde_json::to_value(state.protocol()).map_err(|e| StoreError::io("reading", url, e))?;
    let features = protocol.get("readerFeatures").and_then(Value::as_array).cloned().unwrap_or_default();
    if let Some(feature) = features.iter().filter_map(Value::as_str).find(|f| !UNDERSTOOD.contains(f)) {
        return Err(refuse(format!("it uses the Delta feature `{feature}`, which sources cannot read")));
    }
    let mapping = state.metadata().configuration().get("delta.columnMapping.mode").map_or("none", String::as_str);
    if mapping != "none" {
        return Err(refuse(format!("it uses Delta column mapping by {mapping}, which sources cannot read")));
    }
    for file in state.log_data().iter() {
        let path = file.path().into_owned();
        if file.deletion_vector_descriptor().is_some() {
            return Err(refuse(format!("file `{path}` has a Delta deletion vector, which sources cannot read")));
        }
        if path.contains("://") || path.starts_with('/') {
            return Err(refuse(format!("file `{path}` lies outside the table")));
        }
        let bytes = u64::try_from(file.size()).map_err(|_| refuse(format!("file `{path}` has no size")))?;
        let partition = file.partition_values_map().into_iter().collect();
        out.files.push(SourceFile { path, bytes, etag: None, sha3: None, partition });
    }
    out.files.sort_by(|a, b| a.path.cmp(&b.path));
    out.delta = Some((state.metadata().id().to_string(), state.version()));
    Ok(())
}
