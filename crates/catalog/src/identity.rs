//! Ids that another folder derives too: datasets from their first name, columns from the order of declaration.

use custody_model::{DatasetId, DatasetName, Hash};
use sha3::{Digest, Sha3_256};

/// The id of the dataset that is the `earlier + 1`-th to have this as its first name.
pub(crate) fn dataset_id(name: &DatasetName, earlier: u64) -> DatasetId {
    let mut hash = Sha3_256::new();
    hash.update(b"custody dataset v1");
    hash.update(name.to_string().as_bytes());
    hash.update(earlier.to_be_bytes());
    let digest = hash.finalize();
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&digest[..16]);
    DatasetId(uuid::Uuid::new_v8(bytes))
}

/// The hash of a plain view's text: what it holds.
pub(crate) fn text_hash(sql: &str) -> Hash {
    let mut hash = Sha3_256::new();
    hash.update(b"custody view v1");
    hash.update(sql.as_bytes());
    Hash(hash.finalize().into())
}
