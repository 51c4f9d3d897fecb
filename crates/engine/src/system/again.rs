//! Entries that the fold has put away, read from the ledger's files again.

use custody_ledger::{Position, Reader};
use custody_model::{StoredEntry, WriterId};
use custody_store::FileDisk;
use custody_system_tables::Entries;
use std::{
    collections::HashMap,
    fmt,
    ops::Range,
    sync::{PoisonError, RwLock},
};

/// A reader and where it has been.
pub(super) struct Again {
    reader: Reader<FileDisk>,
    /// Positions of each writer, in order.
    marks: RwLock<HashMap<WriterId, Vec<Position>>>,
}

impl fmt::Debug for Again {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Again")
    }
}

impl Again {
    pub(super) fn new(reader: Reader<FileDisk>) -> Self {
        Self { reader, marks: RwLock::default() }
    }

    pub(super) fn reader(&self) -> &Reader<FileDisk> {
        &self.reader
    }

    /// Notes that a writer's entries from here on have been taken.
    pub(super) fn mark(&self, writer: &WriterId, position: Position) {
        let mut marks = self.marks.write().unwrap_or_else(PoisonError::into_inner);
        let marks = marks.entry(writer.clone()).or_default();
        // A chain that grows by single entries would be marked at each of them.
        if marks.last().is_none_or(|last| last.next_seq().0 + 1024 <= position.next_seq().0) {
            marks.push(position);
        }
    }

    fn before(&self, writer: &WriterId, seq: u64) -> Position {
        let marks = self.marks.read().unwrap_or_else(PoisonError::into_inner);
        let Some(marks) = marks.get(writer) else { return Position::default() };
        let behind = marks.partition_point(|mark| mark.next_seq().0 <= seq);
        behind.checked_sub(1).and_then(|at| marks.get(at)).copied().unwrap_or_default()
    }
}

impl Entries for Again {
    fn load(
        &self,
        writer: &WriterId,
        seqs: Range<u64>,
    ) -> Result<Vec<StoredEntry>, Box<dyn std::error::Error + Send + Sync>> {
        let (mut found, mut position) = (vec![], self.before(writer, seqs.start));
        while position.next_seq().0 < seqs.end {
            let (entries, next) = self.reader.some(writer, position, 512)?;
            if entries.is_empty() {
                return Err(format!("entry {writer}/{} is gone", position.next_seq()).into());
            }
            found.extend(entries.into_iter().filter(|e| seqs.contains(&e.seq.0)));
            position = next;
        }
        Ok(found)
    }
}
