//! What one process of all does for the whole ledger, whoever holds `anchor/LOCK`: it writes down how far the other
//! writers have got, and puts their signed checkpoints, and its own, into the anchor.
//!
//! Nothing waits for either: a failure is a warning, and the next round makes up for it.

use super::open::random;
use custody_ledger::{
    ANCHOR_LOCK, Anchored, Disk, DiskError, DiskLock, KeySet, Reader, anchor, is_anchored, signed_head,
};
use custody_model::{HeadRecord, WriterId};
use custody_store::FileDisk;
use std::{
    collections::BTreeMap,
    fs,
    sync::Arc,
    thread::{Builder, JoinHandle},
    time::{Duration, Instant},
};

/// A signed checkpoint is in the anchor within this time.
const ANCHOR_EVERY: Duration = Duration::from_secs(60);

/// The holder of the lock, or who may become it.
pub(super) struct Merger {
    lock: Option<DiskLock>,
    /// Checkpoints seen last, by writer.
    seen: BTreeMap<WriterId, Vec<u8>>,
    keys: KeySet<Arc<FileDisk>>,
    /// When the last round of the anchor began.
    anchored: Instant,
    running: Option<JoinHandle<()>>,
}

impl Merger {
    /// With the keys that hold the anchor's.
    pub(super) fn new(keys: KeySet<Arc<FileDisk>>) -> Self {
        Self { lock: None, seen: BTreeMap::new(), keys, anchored: Instant::now(), running: None }
    }

    fn holds(&mut self, disk: &FileDisk) -> Result<bool, DiskError> {
        if self.lock.is_none() {
            self.lock = disk.lock(ANCHOR_LOCK)?;
        }
        Ok(self.lock.is_some())
    }

    /// Heads of all other writers, if one of them has a new checkpoint and this process holds the lock.
    pub(super) fn heads(&mut self, disk: &Arc<FileDisk>, own: &WriterId) -> Result<Vec<HeadRecord>, DiskError> {
        if !self.holds(disk)? {
            return Ok(vec![]);
        }
        let reader = Reader::new(Arc::clone(disk));
        let (mut heads, mut grown) = (vec![], false);
        for writer in reader.writers()?.into_iter().filter(|writer| writer != own) {
            let note = reader.checkpoint(&writer)?.unwrap_or_default();
            grown |= self.seen.insert(writer.clone(), note.clone()) != Some(note);
            heads.push(writer);
        }
        if !grown {
            return Ok(vec![]);
        }
        let heads: Result<Vec<_>, _> = heads.iter().map(|writer| signed_head(disk, writer)).collect();
        Ok(heads?.into_iter().flatten().collect())
    }

    /// A round of the anchor beside the chain, once a minute.
    pub(super) fn anchor(&mut self, disk: &Arc<FileDisk>) {
        let busy = self.running.as_ref().is_some_and(|running| !running.is_finished());
        if busy || self.anchored.elapsed() < ANCHOR_EVERY || !self.holds(disk).unwrap_or(false) {
            return;
        }
        self.anchored = Instant::now();
        let (disk, keys) = (Arc::clone(disk), self.keys.clone());
        let round = move || told(round(&disk, &keys));
        match Builder::new().name("ledger-anchor".into()).spawn(round) {
            Ok(running) => self.running = Some(running),
            Err(e) => tracing::warn!("the ledger's checkpoints are not anchored: {e}"),
        }
    }

    /// The last round, of whoever holds the lock.
    pub(super) fn end(mut self, disk: &FileDisk) {
        if let Some(running) = self.running.take() {
            let _ = running.join();
        }
        if self.holds(disk).unwrap_or(false) {
            told(round(disk, &self.keys));
        }
    }
}

fn told(done: Result<Anchored, String>) {
    match done {
        Ok(anchored) => tracing::debug!(size = anchored.size.0, "anchored"),
        Err(e) => tracing::warn!("the ledger's checkpoints are not anchored: {e}"),
    }
}

/// Adds every writer's newest checkpoint, and removes what it replaces.
fn round(disk: &FileDisk, keys: &KeySet<Arc<FileDisk>>) -> Result<Anchored, String> {
    let failed = |e: &dyn std::error::Error| e.to_string();
    let anew = if is_anchored(disk).map_err(|e| failed(&e))? {
        None
    } else {
        Some(random().map_err(|problem| problem.to_string())?)
    };
    let key = keys.anchor(anew).map_err(|e| failed(&e))?;
    let reader = Reader::new(disk);
    let mut notes = vec![];
    for writer in reader.writers().map_err(|e| failed(&e))? {
        notes.extend(reader.checkpoint(&writer).map_err(|e| failed(&e))?);
    }
    let anchored = anchor(disk, &key, &notes).map_err(|e| failed(&e))?;
    for path in &anchored.old {
        // What stays is no evidence, and is found again.
        let _ = fs::remove_file(disk.root().join(path));
    }
    Ok(anchored)
}
