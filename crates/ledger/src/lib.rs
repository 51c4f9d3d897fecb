//! The ledger: entries in one byte format, appended to hash-chained, Merkle-committed chains, one a writer.
//!
//! What holds here: an `Appended` is durable; an [`AuditReceipt`] can only come from one; a chain that no crash explains
//! is refused; stored bytes are hashed, never a re-encoding. What is absent: clocks, files, randomness, threads. Time and
//! seeds are passed in, files are behind [`Disk`], keys behind [`Signer`].
#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking"))]

mod anchor;
mod append;
#[cfg(any(test, feature = "sim"))]
pub mod campaign;
pub mod control;
mod copy;
mod disk;
mod edge;
pub mod format;
mod frames;
#[cfg(test)]
mod fuzz;
mod heads;
mod keys;
mod note;
mod peer;
mod proof;
mod prove;
mod read;
mod recover;
#[cfg(test)]
mod samples;
mod segment;
#[cfg(any(test, feature = "sim"))]
pub mod sim;
#[cfg(test)]
mod tests;
mod tiles;
mod tree;
pub mod verify;

pub use anchor::{ANCHOR_LOCK, AnchorFailed, AnchorKey, Anchored, anchor, anchor_origin, is_anchored};
pub use append::{
    Appended, AuditReceipt, COMMAND_SEGMENT_BYTES, Chain, ChainOptions, CommitFailed, OpenRefused, Recovery, Revived,
    SERVER_SEGMENT_BYTES, TornTail,
};
pub use copy::{Change, Copied, CopyRefused, Held, catch_up, end_of, is_copied, segment_of};
pub use disk::{Disk, DiskBlobs, DiskError, DiskLock, blob_path, put_blob};
pub use format::{
    Blobs, DecodeError, EncodeError, Encoded, EntryBytes, NoBlobs, blob_ref, decode, encode, fetch, lineage_hash,
};
pub use heads::signed_head;
pub use keys::{
    BadGenesis, Certificate, EPOCH_NANOS, EpochSigner, GENESIS_PATH, Genesis, KeyError, KeySet, LEDGER_FORMAT,
    SignFailed, Signer,
};
pub use note::{BadNote, BadVerifierKey, Checkpoint, NoteSignature, SignedNote, VerifierKey, writer_origin};
pub use peer::{PeerAnswer, PeerHello, keep_copy, read_message, write_message};
pub use proof::{ProofInvalid, prove_consistency, prove_inclusion, verify_consistency, verify_inclusion};
pub use prove::{ProveFailed, Prover};
pub use read::{Position, ReadFailed, Reader};
pub use segment::{SEGMENT_FORMAT, SegmentHeader, SegmentReason};
pub use tree::{LeafIndex, Sha2, Sha3, Tree, TreeHash, TreeSize, root_of};
