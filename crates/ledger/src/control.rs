//! Control claims: the one order of catalog, policy and publish entries, across writers.
//!
//! `control/<seq:020>` holds the bytes of the entry that took the place. Claiming it commits the entry; its writer then
//! appends the same bytes to its chain, and whoever finds a claim that no chain holds completes the append.

use crate::{
    disk::{Disk, DiskError},
    format::EntryBytes,
};
use custody_model::ControlSeq;

/// A place that was not taken.
#[derive(Debug, thiserror::Error)]
pub enum Claimed {
    /// Another entry has it.
    #[error("control position {0} is already taken")]
    Taken(ControlSeq),
    /// The disk. The claim may have happened all the same: read it back.
    #[error(transparent)]
    Disk(#[from] DiskError),
}

fn path(seq: ControlSeq) -> String {
    format!("control/{:020}", seq.0)
}

/// Takes a place for an entry, durably; that commits the entry. Taking it again with the same bytes is fine.
pub fn claim(disk: &dyn Disk, seq: ControlSeq, entry: &EntryBytes) -> Result<(), Claimed> {
    if disk.claim(&path(seq), entry.as_bytes())? || read(disk, seq)?.as_deref() == Some(entry.as_bytes()) {
        Ok(())
    } else {
        Err(Claimed::Taken(seq))
    }
}

/// The bytes of the entry that has a place; `None`: nobody has it.
pub fn read(disk: &dyn Disk, seq: ControlSeq) -> Result<Option<Vec<u8>>, DiskError> {
    disk.read(&path(seq))
}

/// The newest place taken, looking from `known` on; places are dense.
pub fn newest(disk: &dyn Disk, known: ControlSeq) -> Result<ControlSeq, DiskError> {
    let mut seq = known;
    while disk.len(&path(ControlSeq(seq.0 + 1)))?.is_some() {
        seq.0 += 1;
    }
    Ok(seq)
}
