//! How the ledger gets into memory.
//!
//! What holds here: entries of a writer are taken in order, each once, however many threads read them. A server begins as
//! it starts; a statement that comes earlier waits for the rest, off the threads that serve others.

use super::{SystemState, again::Again, unreadable};
use crate::Engine;
use custody_ledger::{Position, ReadFailed};
use custody_model::{Problem, StoredEntry, WriterId};
use std::{
    num::NonZeroUsize,
    sync::{
        Arc, PoisonError,
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    thread,
};

/// So many entries are taken at once.
const BATCH: usize = 4096;
/// So many batches of one reader wait to be taken.
const WAITING: usize = 4;

/// What a reader found: entries, and where they began and ended; nothing: the end of its segment.
type Found = Result<Option<(Vec<StoredEntry>, Position, Position)>, ReadFailed>;

impl SystemState {
    /// Takes what was appended since, by any process.
    pub(super) fn follow(&mut self) -> Result<(), Problem> {
        let ledger = Arc::clone(&self.ledger);
        for writer in ledger.reader().writers().map_err(|e| unreadable(&e))? {
            self.follow_segments(&ledger, &writer)?;
            loop {
                let from = self.position(&writer);
                let (entries, position) = ledger.reader().some(&writer, from, BATCH).map_err(|e| unreadable(&e))?;
                if entries.is_empty() {
                    break;
                }
                self.take_all(&writer, entries, from, position)?;
            }
        }
        self.whole = true;
        Ok(())
    }

    fn position(&self, writer: &WriterId) -> Position {
        self.positions.get(writer).copied().unwrap_or_default()
    }

    fn take_all(
        &mut self,
        writer: &WriterId,
        entries: Vec<StoredEntry>,
        from: Position,
        to: Position,
    ) -> Result<(), Problem> {
        self.ledger.mark(writer, from);
        // After a failed sync a segment begins with entries that its predecessor has too.
        let known = self.position(writer).next_seq();
        entries.into_iter().filter(|entry| entry.seq >= known).try_for_each(|entry| self.take(entry))?;
        self.positions.insert(writer.clone(), to);
        Ok(())
    }

    /// The first time, takes all segments but the last, read by as many threads as there are cores.
    fn follow_segments(&mut self, ledger: &Again, writer: &WriterId) -> Result<(), Problem> {
        if self.whole {
            return Ok(());
        }
        let starts = ledger.reader().starts(writer, self.position(writer)).map_err(|e| unreadable(&e))?;
        let segments: Vec<(Position, Position)> = starts.iter().copied().zip(starts.iter().skip(1).copied()).collect();
        // A position within a segment is read on from there.
        if segments.len() < 2 || self.position(writer) != Position::default() {
            return Ok(());
        }
        let readers = thread::available_parallelism().map_or(1, NonZeroUsize::get).min(segments.len());
        thread::scope(|scope| {
            let found: Vec<Receiver<Found>> = (0..readers)
                .map(|nth| {
                    let (give, take) = sync_channel(WAITING);
                    let mine: Vec<_> = segments.iter().skip(nth).step_by(readers).copied().collect();
                    scope.spawn(move || read(ledger, writer, &mine, &give));
                    take
                })
                .collect();
            for nth in 0..segments.len() {
                let Some(found) = found.get(nth % readers) else { continue };
                // INVARIANT: a reader that is gone without having said that its segment ends has said why.
                while let Ok(batch) = found.recv() {
                    let Some((entries, from, to)) = batch.map_err(|e| unreadable(&e))? else { break };
                    self.take_all(writer, entries, from, to)?;
                }
            }
            Ok(())
        })
    }
}

/// Reads segments one after the other, until nobody wants them or one cannot be read.
fn read(ledger: &Again, writer: &WriterId, segments: &[(Position, Position)], give: &SyncSender<Found>) {
    for (start, end) in segments {
        let mut from = *start;
        loop {
            let found = match ledger.reader().some_before(writer, from, BATCH, *end) {
                Ok((entries, _)) if entries.is_empty() => Ok(None),
                Ok((entries, to)) => Ok(Some((entries, std::mem::replace(&mut from, to), to))),
                Err(failed) => Err(failed),
            };
            let (ended, failed) = (matches!(found, Ok(None)), found.is_err());
            if give.send(found).is_err() || failed {
                return;
            }
            if ended {
                break;
            }
        }
    }
}

impl Engine {
    /// Begins to take the whole ledger, beside whatever else runs.
    pub fn follow_ahead(self: &Arc<Self>) {
        let engine = Arc::clone(self);
        let following = thread::Builder::new().name("fold".into()).spawn(move || {
            let began = std::time::Instant::now();
            // The next statement that needs it tells whoever asked.
            match engine.follow_now() {
                Ok(()) => tracing::info!(micros = began.elapsed().as_micros(), "the ledger has been read"),
                Err(problem) => tracing::warn!(%problem, "the ledger could not be read"),
            }
        });
        if let Err(error) = following {
            tracing::warn!(%error, "the ledger is read at its first use");
        }
    }

    fn follow_now(&self) -> Result<(), Problem> {
        self.system.lock().unwrap_or_else(PoisonError::into_inner).follow()
    }

    /// Waits until the whole ledger has been taken once, away from the threads that serve others.
    pub(crate) async fn follow_whole(self: &Arc<Self>) -> Result<(), Problem> {
        if self.system.try_lock().is_ok_and(|system| system.whole) {
            return Ok(());
        }
        let engine = Arc::clone(self);
        let followed = tokio::task::spawn_blocking(move || engine.follow_now()).await;
        followed.map_err(|e| Problem::bug(format!("the ledger's reader ended: {e}")))?
    }
}
