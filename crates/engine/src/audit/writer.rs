//! The one thread that owns the chain: group commit, checkpoints, the end.

use super::{
    NotAudited,
    merge::Merger,
    open::{close, random, refused},
    peer::{Peer, Reply, Synced},
};
use crate::clock::Clock;
use custody_ledger::{Chain, CommitFailed, EntryBytes, EpochSigner, KeySet, Signer};
use custody_model::{Durability, Problem, WallNanos};
use custody_store::FileDisk;
use std::{
    collections::VecDeque,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::{
    sync::{OwnedSemaphorePermit, mpsc, oneshot},
    time::timeout,
};

/// Entries of one commit.
const BATCH: usize = 4096;
/// Bytes of one commit.
const BATCH_BYTES: usize = 1 << 20;
/// A checkpoint follows growth within this time.
const CHECKPOINT_EVERY: Duration = Duration::from_secs(1);
/// A checkpoint follows this many entries at once.
const CHECKPOINT_ENTRIES: u64 = 65_536;
/// A writer that has nothing to say says so within this time.
const BEAT_EVERY: Duration = Duration::from_secs(10);
/// A key this close to its end is replaced before it signs again.
const KEY_MARGIN_NANOS: i64 = 60 * 1_000_000_000;

/// How long an orderly end waits for the second copy.
const PEER_END: Duration = Duration::from_secs(10);

/// A chain that gave up is read anew no more often than this.
const REVIVE_EVERY: Duration = Duration::from_secs(1);

/// What becomes of an entry that the disk has no room for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Sort {
    /// Its act is refused.
    Entry,
    /// It is owed, and tried again: its read has happened.
    Outcome,
}

/// What the thread is asked to do.
pub(super) enum Job {
    /// Make an entry durable.
    Append {
        entry: EntryBytes,
        sort: Sort,
        reply: Option<Reply>,
        /// Its share of the queue's bytes, given back once it is written.
        room: Option<OwnedSemaphorePermit>,
    },
    /// Take no more, record what is promised, close the chain.
    Close { reply: oneshot::Sender<Result<(), NotAudited>>, drain: Duration },
    /// Stop as a crash would.
    #[cfg(test)]
    Crash { reply: oneshot::Sender<()> },
}

type Waiter = Option<Reply>;

struct Worker {
    chain: Chain<Arc<FileDisk>>,
    keys: KeySet<Arc<FileDisk>>,
    signer: EpochSigner,
    clock: Arc<dyn Clock>,
    jobs: mpsc::Receiver<Job>,
    /// Outcomes that the disk did not take.
    owed: VecDeque<EntryBytes>,
    /// When a chain that gave up was last read anew.
    last_revival: Option<Instant>,
    last_checkpoint: Instant,
    /// When the chain last grew.
    last_entry: Instant,
    /// When the other writers were last looked at.
    last_merge: Instant,
    /// The segment behind which the next one is made ahead; `None`: by none.
    ahead_of: Option<u64>,
    peer: Option<Peer>,
    merger: Merger,
}

/// How the thread was told to end.
enum End {
    /// Every sender is gone.
    Dropped,
    Asked(oneshot::Sender<Result<(), NotAudited>>, Duration),
    #[cfg(test)]
    Crashed(oneshot::Sender<()>),
}

/// Starts the thread. It ends, and closes the chain, when it is asked to or when every sender is gone.
pub(super) fn start(
    chain: Chain<Arc<FileDisk>>,
    keys: KeySet<Arc<FileDisk>>,
    signer: EpochSigner,
    clock: Arc<dyn Clock>,
    jobs: mpsc::Receiver<Job>,
    peer: Option<Peer>,
) -> Result<(), Problem> {
    let failed = |e: std::io::Error| Problem::new(7009, format!("the ledger's thread cannot start: {e}"));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().map_err(failed)?;
    let owed = VecDeque::new();
    let merger = Merger::new(keys.clone());
    // A command is over before it fills its segment.
    let ahead_of = (chain.writer().as_str() == "serve").then_some(0);
    let mut worker = Worker {
        chain,
        keys,
        signer,
        clock,
        jobs,
        owed,
        last_revival: None,
        last_checkpoint: Instant::now(),
        last_entry: Instant::now(),
        last_merge: Instant::now(),
        ahead_of,
        peer,
        merger,
    };
    let run = move || {
        let end = runtime.block_on(worker.serve());
        match end {
            End::Dropped => {
                if let Err(e) = worker.close() {
                    tracing::error!("the ledger's chain was not closed: {e}");
                }
            }
            End::Asked(reply, drain) => {
                worker.jobs.close();
                let drained = runtime.block_on(worker.drain(drain));
                let closed = if drained { worker.close() } else { worker.leave() };
                let _ = reply.send(closed);
            }
            #[cfg(test)]
            End::Crashed(reply) => {
                drop(worker);
                let _ = reply.send(());
            }
        }
    };
    std::thread::Builder::new().name("ledger-writer".into()).spawn(run).map(|_| ()).map_err(failed)
}

impl Worker {
    async fn serve(&mut self) -> End {
        loop {
            let due = CHECKPOINT_EVERY.saturating_sub(self.last_checkpoint.elapsed());
            match timeout(due, self.jobs.recv()).await {
                Ok(None) => return End::Dropped,
                Ok(Some(job)) => {
                    if let Some(end) = self.batch(job) {
                        return end;
                    }
                }
                Err(_) => {
                    self.commit(vec![], vec![]);
                    self.beat();
                    match self.unsigned() {
                        0 => self.last_checkpoint = Instant::now(),
                        _ => self.checkpoint(),
                    }
                }
            }
            self.prepare();
            if self.last_merge.elapsed() >= CHECKPOINT_EVERY {
                self.last_merge = Instant::now();
                self.merge();
                self.merger.anchor(self.chain.disk());
            }
            let due = self.unsigned() > 0 && self.last_checkpoint.elapsed() >= CHECKPOINT_EVERY;
            if due || self.unsigned() >= CHECKPOINT_ENTRIES {
                self.checkpoint();
            }
        }
    }

    /// Records what is still queued or promised. `false`: some read never ended.
    async fn drain(&mut self, patience: Duration) -> bool {
        let began = Instant::now();
        loop {
            match timeout(patience.saturating_sub(began.elapsed()), self.jobs.recv()).await {
                Ok(None) => return true,
                Ok(Some(job)) => {
                    self.batch(job);
                }
                Err(_) => return false,
            }
        }
    }

    /// One commit: this job and what is queued behind it. The job that ends everything comes last, if there is one.
    fn batch(&mut self, first: Job) -> Option<End> {
        let (mut entries, mut waiters, mut bytes) = (vec![], vec![], 0);
        let mut rooms = vec![];
        let mut next = Some(first);
        let mut end = None;
        while let Some(job) = next {
            match job {
                Job::Append { entry, sort, reply, room } => {
                    bytes += entry.as_bytes().len();
                    entries.push(entry);
                    waiters.push((sort, reply));
                    rooms.extend(room);
                }
                Job::Close { reply, drain } => {
                    end = Some(End::Asked(reply, drain));
                    break;
                }
                #[cfg(test)]
                Job::Crash { reply } => {
                    end = Some(End::Crashed(reply));
                    break;
                }
            }
            next = if entries.len() < BATCH && bytes < BATCH_BYTES { self.jobs.try_recv().ok() } else { None };
        }
        self.commit(entries, waiters);
        end
    }

    /// Makes entries durable, after those that are owed, and tells each waiter.
    fn commit(&mut self, entries: Vec<EntryBytes>, waiters: Vec<(Sort, Waiter)>) {
        self.revive();
        let owed: Vec<EntryBytes> = self.owed.drain(..).collect();
        let first = owed.len();
        let all: Vec<EntryBytes> = owed.into_iter().chain(entries).collect();
        if all.is_empty() {
            return;
        }
        match self.chain.commit(&all, self.clock.now()) {
            Ok(appended) => {
                self.last_entry = Instant::now();
                for ((_, waiter), appended) in waiters.into_iter().zip(appended.into_iter().skip(first)) {
                    // Whoever stopped waiting has said so to the ledger itself.
                    let Some(waiter) = waiter else { continue };
                    match &self.peer {
                        Some(peer) if appended.durability() > Durability::Local => peer.answer(waiter, appended),
                        _ => drop(waiter.send(Ok(Synced { appended, reached: Durability::Local }))),
                    }
                }
            }
            Err(failed) => self.refuse(all, first, waiters, failed),
        }
    }

    /// Reads a chain that gave up anew, at most once a second: when the disk works again, so does the ledger, without a
    /// restart. What is durable although its commit failed is not owed any more; a read among it was refused, and its
    /// outcome says so.
    fn revive(&mut self) {
        let again = self.last_revival.is_none_or(|last| last.elapsed() >= REVIVE_EVERY);
        if !self.chain.is_poisoned() || !again {
            return;
        }
        self.last_revival = Some(Instant::now());
        let revived = match self.chain.revive(self.clock.now()) {
            Ok(revived) => revived,
            Err(e) => return tracing::error!("the ledger cannot go on yet: {e}"),
        };
        tracing::warn!("the ledger goes on: its disk works again");
        self.owed.retain(|entry| !revived.leaves.contains(&entry.leaf()));
        for open in &revived.begun {
            match refused(open, self.clock.now()) {
                Ok(entry) => self.owed.push_back(entry),
                Err(e) => tracing::error!("the outcome of a refused read cannot be recorded: {e}"),
            }
        }
    }

    fn refuse(&mut self, all: Vec<EntryBytes>, first: usize, waiters: Vec<(Sort, Waiter)>, failed: CommitFailed) {
        tracing::error!("{failed}");
        // What the disk refuses now it may take later; what it can never take is dropped.
        let later = matches!(failed, CommitFailed::NoSpace(_) | CommitFailed::Poisoned(_) | CommitFailed::Disk(_));
        let not = NotAudited::from(failed);
        let mut all = all.into_iter();
        if later {
            self.owed.extend(all.by_ref().take(first));
        } else {
            all.by_ref().take(first).for_each(drop);
        }
        for ((sort, waiter), entry) in waiters.into_iter().zip(all) {
            if later && sort == Sort::Outcome {
                self.owed.push_back(entry);
            }
            waiter.map(|w| w.send(Err(not.clone())));
        }
    }

    /// Says that this writer lives, where nothing else has for a while.
    fn beat(&mut self) {
        if self.last_entry.elapsed() < BEAT_EVERY || self.chain.is_poisoned() {
            return;
        }
        self.last_entry = Instant::now();
        if let Err(e) = self.chain.beat(self.clock.now()) {
            tracing::warn!("the ledger's heartbeat is not recorded: {e}");
        }
    }

    /// Has the next segment made while this one is written to. Where that fails it is made when it is needed.
    fn prepare(&mut self) {
        let (segment, _) = self.chain.position();
        if self.ahead_of.is_none_or(|of| of == segment) {
            return;
        }
        self.ahead_of = Some(segment);
        let (disk, path, size) = (Arc::clone(self.chain.disk()), self.chain.segment_path(), self.chain.segment_bytes());
        let make = move || {
            if let Err(e) = disk.prepare(&path, size) {
                tracing::warn!("no segment of the ledger is made ahead: {e}");
            }
        };
        if let Err(e) = std::thread::Builder::new().name("ledger-ahead".into()).spawn(make) {
            tracing::warn!("no segment of the ledger is made ahead: {e}");
        }
    }

    fn unsigned(&self) -> u64 {
        self.chain.size().0.saturating_sub(self.chain.signed_size().0)
    }

    /// Records how far the other writers have got, if this process is the one that does so and any has got further.
    fn merge(&mut self) {
        if let Err(e) = self.try_merge() {
            tracing::warn!("the heads of other writers are not recorded: {e}");
        }
    }

    fn try_merge(&mut self) -> Result<(), NotAudited> {
        if self.chain.is_poisoned() {
            return Ok(());
        }
        let disk = Arc::clone(self.chain.disk());
        let heads = self.merger.heads(&disk, self.chain.writer())?;
        if heads.is_empty() {
            return Ok(());
        }
        self.chain.heads(heads, self.clock.now())?;
        Ok(())
    }

    /// Signs the chain as it stands, with a fresh key where the old one ends.
    fn checkpoint(&mut self) {
        self.last_checkpoint = Instant::now();
        if let Err(e) = self.try_checkpoint() {
            tracing::error!("the ledger is not signed: {e}");
        }
    }

    fn try_checkpoint(&mut self) -> Result<(), NotAudited> {
        let now = self.clock.now();
        self.renew(now)?;
        self.chain.checkpoint(&self.signer, now)?;
        Ok(())
    }

    fn renew(&mut self, now: WallNanos) -> Result<(), NotAudited> {
        if now.0.saturating_add(KEY_MARGIN_NANOS) < self.signer.expires().0 {
            return Ok(());
        }
        let broken = |e: String| NotAudited::Broken(e);
        let seed = random().map_err(|e| broken(e.to_string()))?;
        let epoch = self.chain.key_epoch().max(Some(self.signer.record().epoch));
        // Asked for as of the margin, so that a key about to end is not handed out again.
        let later = WallNanos(now.0.saturating_add(KEY_MARGIN_NANOS));
        let signer = self.keys.signer(self.chain.writer(), epoch, later, seed);
        self.signer = signer.map_err(|e| broken(e.to_string()))?;
        Ok(())
    }

    /// The orderly end, with what is owed and a last round of heads.
    fn close(mut self) -> Result<(), NotAudited> {
        self.commit(vec![], vec![]);
        self.merge();
        let now = self.clock.now();
        self.renew(now)?;
        let disk = Arc::clone(self.chain.disk());
        let closed = close(&disk, self.chain, &self.signer, now);
        self.merger.end(&disk);
        if let Some(peer) = self.peer {
            peer.end(PEER_END);
        }
        closed
    }

    /// An end with reads still open: signed, not closed, so that the next opening gives them their outcomes.
    fn leave(mut self) -> Result<(), NotAudited> {
        let signed = self.try_checkpoint();
        if let Some(peer) = self.peer {
            peer.end(PEER_END);
        }
        signed
    }
}
