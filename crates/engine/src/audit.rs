//! Audit before release: the queue in front of the ledger's one writer thread.
//!
//! What holds true here:
//! - An entry is durable when `intent`, `record` or `control` returns `Ok`, and not before.
//! - The slot of a read's outcome is reserved before its intent is queued, so an outcome always has room: whatever ends a
//!   read, success, error, a reader that goes away or a refusal for slowness, leaves its outcome behind.
//! - One `std` thread owns the chain. It takes what is queued, up to 4,096 entries or 1 MiB, writes one frame, syncs once
//!   and wakes the waiters; the running sync is the batching window. Checkpoints are signed on that thread after the
//!   waiters are woken.
//! - Nothing here decides what an entry says; that is the business of whoever acts.
//! - A disk that fails or is full refuses what asks for an entry; when it works again the same process goes on, and what it
//!   owes comes first.
//!
//! Deliberately absent: retries of a failed write (the chain does what can be done), and shared memory between processes:
//! a command and a server beside it share files only.

mod folder;
mod merge;
mod open;
mod peer;
mod writer;

pub use folder::FolderSource;

use crate::clock::Clock;
use custody_ledger::{
    AuditReceipt, Blobs, CommitFailed, DecodeError, DiskBlobs, DiskError, EncodeError, EntryBytes,
    control::{self, Claimed},
    decode, encode, fetch, put_blob,
};
use custody_model::{
    BlobRef, ControlSeq, Entry, EntryId, EntryRef, Hash, Measure, Outcome, Payload, Problem, ReadOutcome, Seq, WriterId,
};
use custody_store::FileDisk;
use open::Pending;
use peer::{Peer, Synced};
use std::{
    collections::VecDeque,
    path::{Path, PathBuf},
    sync::{
        Arc, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};
use tokio::{
    sync::{Mutex, OwnedSemaphorePermit, Semaphore, mpsc, oneshot},
    time::{error::Elapsed, timeout, timeout_at},
};
use uuid::Uuid;
use writer::{Job, Sort};

/// Queued entries besides the outcomes of open reads.
const QUEUE: usize = 4096;
/// Bytes of queued entries.
const QUEUE_BYTES: usize = 64 << 20;
/// Of how many of the newest entries it is kept how long they took.
const WAITS: usize = 1024;
/// How long an orderly end waits for reads that are still open.
const DRAIN: Duration = Duration::from_secs(10);

/// Which chain this process writes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum WriterChoice {
    /// The server's chain, `serve`.
    Serve,
    /// A command's chain: the lowest free `cli-<n>`.
    Cli,
}

/// How a recorder is opened.
#[derive(Clone)]
pub struct RecorderOptions {
    /// The ledger's folder.
    pub ledger: PathBuf,
    /// The keys' folder.
    pub keys: PathBuf,
    /// Which chain.
    pub writer: WriterChoice,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Size of a server's new segments; those of commands are of 1 MiB.
    pub segment_bytes: u64,
    /// Reads begun and not ended.
    pub max_open_reads: usize,
    /// How long an entry may wait to become durable.
    pub patience: Duration,
    /// The command that keeps a second copy: `custody ledger peer --into DIR`, here or on another machine.
    pub peer: Option<String>,
}

/// An entry that is not recorded, so that what it would have allowed may not happen.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum NotAudited {
    /// Queue or disk are too slow.
    #[error("read refused: the audit ledger cannot record it within {} ms", .0.as_millis())]
    Slow(Duration),
    /// The disk is full.
    #[error("read refused: the audit ledger cannot record it: {0}")]
    NoSpace(String),
    /// Writing failed; nothing is recorded before the disk works again.
    #[error("read refused: the audit ledger cannot record it: {0}")]
    Broken(String),
    /// The recorder has ended.
    #[error("read refused: the audit ledger cannot record it: this process is shutting down")]
    Closed,
    /// Policy asks for a safer place than this ledger has.
    #[error("read refused: the audit ledger cannot record it as safely as policy asks")]
    Durability,
    /// What the entry says has no place in an entry.
    #[error("{0}")]
    Encode(EncodeError),
}

impl From<CommitFailed> for NotAudited {
    fn from(failed: CommitFailed) -> Self {
        match failed {
            CommitFailed::NoSpace(e) => Self::NoSpace(e.to_string()),
            CommitFailed::Encode(e) => Self::Encode(e),
            other => Self::Broken(other.to_string()),
        }
    }
}

impl From<DiskError> for NotAudited {
    fn from(failed: DiskError) -> Self {
        if failed.is_no_space() { Self::NoSpace(failed.to_string()) } else { Self::Broken(failed.to_string()) }
    }
}

impl From<NotAudited> for Problem {
    fn from(not: NotAudited) -> Self {
        let (code, help) = match &not {
            NotAudited::Slow(_) => (7001, "try again; `SELECT * FROM system.metrics.slo` shows how long entries take"),
            NotAudited::NoSpace(_) => (7002, "free space on the disk that holds the warehouse, then try again"),
            NotAudited::Broken(_) => {
                (7004, "check the disk that holds the warehouse; the ledger goes on when it works again")
            }
            NotAudited::Closed => (7005, "try again once the server is up"),
            NotAudited::Durability => {
                (7006, "check the process that keeps the second copy; `[ledger] peer` in custody.toml names it")
            }
            NotAudited::Encode(_) => (1306, "make the statement or declaration smaller or simpler"),
        };
        Problem::new(code, not.to_string()).help(help)
    }
}

/// A control act that did not take its place.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ControlFailed {
    /// Somebody else has the place: fold what is new, then try the next one.
    #[error("control position {0} is already taken")]
    Taken(ControlSeq),
    /// The place was not claimed, and nothing happened.
    #[error(transparent)]
    NotAudited(#[from] NotAudited),
    /// The place is claimed, so the act holds; its entry is appended when a process next opens the warehouse.
    #[error("control position {seq} is claimed, its entry not appended yet: {why}")]
    Unappended {
        /// Which place.
        seq: ControlSeq,
        /// Why not.
        why: NotAudited,
    },
}

impl ControlFailed {
    /// Whether somebody else was faster.
    pub fn taken(&self) -> bool {
        matches!(self, Self::Taken(_))
    }
}

impl From<ControlFailed> for Problem {
    fn from(failed: ControlFailed) -> Self {
        match failed {
            ControlFailed::Taken(_) => Self::new(7003, failed.to_string()).help("try again"),
            ControlFailed::NotAudited(not) => not.into(),
            ControlFailed::Unappended { .. } => Self::new(7007, failed.to_string())
                .help("the change holds; check the disk that holds the warehouse before the next one"),
        }
    }
}

/// Where an entry stands.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Recorded {
    /// Its place.
    pub entry: EntryRef,
    /// Its id.
    pub id: EntryId,
}

/// Records entries in this process's chain.
pub struct Recorder {
    shared: Arc<Shared>,
    reads: Arc<Semaphore>,
    /// Control acts of this process, one after the other; holds what is claimed and not appended.
    control: Mutex<Pending>,
}

struct Shared {
    queue: mpsc::Sender<Job>,
    queue_bytes: Arc<Semaphore>,
    disk: Arc<FileDisk>,
    clock: Arc<dyn Clock>,
    patience: Duration,
    writer: WriterId,
    log_id: Hash,
    peer: Option<Peer>,
    /// The first seq of this process.
    began: Seq,
    /// How long the newest entries took to become durable, in microseconds.
    waits: std::sync::Mutex<VecDeque<u64>>,
}

impl Recorder {
    /// Makes keys and genesis of a new ledger, whose origin is `name`. The keys' folder is made for its owner only.
    pub async fn create(ledger: &Path, keys: &Path, name: &str, clock: Arc<dyn Clock>) -> Result<(), Problem> {
        let (ledger, keys, name) = (ledger.to_path_buf(), keys.to_path_buf(), name.to_string());
        // The clock is not needed yet: a genesis has no time. It is asked for so that a later one may have.
        drop(clock);
        blocking(move || open::create(&ledger, &keys, &name)).await?
    }

    /// Gives a writer that nobody has open a new key; `revoke`: an epoch that is distrusted from there on. The new epoch.
    pub fn rotate_key(
        ledger: &Path,
        keys: &Path,
        writer: &str,
        revoke: Option<u64>,
        clock: Arc<dyn Clock>,
    ) -> Result<u64, Problem> {
        let id = WriterId::new(writer);
        let id = id.ok_or_else(|| Problem::new(7010, format!("`{writer}` is not a writer")))?;
        open::rotate(ledger, keys, &id, revoke, clock)
    }

    /// Opens this process's chain, after finishing what crashed processes left: their chains are closed, their open reads
    /// get outcomes, their claims are appended.
    pub async fn open(options: RecorderOptions) -> Result<Self, Problem> {
        let RecorderOptions { clock, max_open_reads, patience, peer, .. } = options.clone();
        let opened = blocking(move || open::open(&options)).await??;
        let (queue, jobs) = mpsc::channel(max_open_reads + QUEUE);
        let (disk, writer, position) = (&opened.disk, opened.chain.writer(), opened.chain.position());
        let peer = match peer {
            Some(command) => {
                let (of, disk, finished) = (command.clone(), Arc::clone(disk), opened.finished.clone());
                blocking(move || finished.iter().for_each(|writer| peer::bring_up(&of, &disk, writer))).await?;
                Some(Peer::start(command, &opened.disk, writer, position)?)
            }
            None => None,
        };
        let shared = Shared {
            queue,
            queue_bytes: Arc::new(Semaphore::new(QUEUE_BYTES)),
            disk: opened.disk,
            clock: Arc::clone(&clock),
            patience,
            writer: opened.chain.writer().clone(),
            log_id: opened.chain.log_id(),
            peer: peer.clone(),
            began: Seq(opened.chain.size().0),
            waits: std::sync::Mutex::default(),
        };
        writer::start(opened.chain, opened.keys, opened.signer, clock, jobs, peer)?;
        Ok(Self {
            shared: Arc::new(shared),
            reads: Arc::new(Semaphore::new(max_open_reads)),
            control: Mutex::new(opened.pending),
        })
    }

    /// Whose chain this process writes.
    pub fn writer(&self) -> &WriterId {
        &self.shared.writer
    }

    /// Which ledger.
    pub fn log_id(&self) -> Hash {
        self.shared.log_id
    }

    /// The first seq that this process has written to its chain, after what opening it took.
    pub fn began(&self) -> Seq {
        self.shared.began
    }

    /// How long the slowest but one percent of the newest entries took to become durable.
    pub fn durable_p99_micros(&self) -> u64 {
        let waits = self.shared.waits.lock().unwrap_or_else(PoisonError::into_inner);
        let mut sorted: Vec<u64> = waits.iter().copied().collect();
        sorted.sort_unstable();
        sorted.get((sorted.len() * 99 / 100).min(sorted.len().saturating_sub(1))).copied().unwrap_or(0)
    }

    /// How many of this chain's entries the second copy holds; `None`: there is none, or it is away.
    pub fn peer_held(&self) -> Option<u64> {
        self.shared.peer.as_ref()?.held()
    }

    /// The ledger's files.
    pub fn disk(&self) -> &Arc<FileDisk> {
        &self.shared.disk
    }

    /// Records that a read may begin. The receipt lets the one plan that the entry names run once; the slot takes the
    /// read's outcome, and writes one itself when it is dropped.
    ///
    /// Where the entry takes longer than the patience, the read is refused, and so says its outcome.
    pub async fn intent(&self, entry: Entry) -> Result<(AuditReceipt, OutcomeSlot), NotAudited> {
        let shared = &self.shared;
        let deadline = tokio::time::Instant::now() + shared.patience;
        let slow = |_: Elapsed| NotAudited::Slow(shared.patience);
        let open = timeout_at(deadline, Arc::clone(&self.reads).acquire_owned()).await.map_err(slow)?;
        let open = open.map_err(|_| NotAudited::Closed)?;
        let permit = timeout_at(deadline, shared.queue.clone().reserve_owned()).await.map_err(slow)?;
        let permit = permit.map_err(|_| NotAudited::Closed)?;
        let template = outcome_template(&entry);
        let bytes = shared.encode(entry).await?;
        let mut slot = OutcomeSlot {
            shared: Arc::clone(shared),
            permit: None,
            template,
            released: Arc::default(),
            began: Instant::now(),
            _open: open,
        };
        let wait = timeout_at(deadline, shared.enqueue(bytes, Sort::Entry)).await.map_err(slow)??;
        // From here on the intent may become durable, whoever still waits for it.
        slot.permit = Some(permit);
        let began = Instant::now();
        let answer = timeout_at(deadline, wait).await;
        shared.took(began);
        let appended = match answer {
            Ok(answer) => answer.unwrap_or(Err(NotAudited::Closed)),
            Err(_) => {
                slot.give_up("refused");
                return Err(NotAudited::Slow(shared.patience));
            }
        };
        match appended.map(|synced| synced.appended.settle(synced.reached)) {
            Ok(Ok(receipt)) => Ok((receipt, slot)),
            Ok(Err(_)) => {
                slot.give_up("refused");
                Err(NotAudited::Durability)
            }
            Err(not) => {
                slot.permit = None;
                Err(not)
            }
        }
    }

    /// Records an entry that allows nothing to leave: runs, lineage, denials, reads of metadata.
    pub async fn record(&self, entry: Entry) -> Result<Recorded, NotAudited> {
        let id = entry.id;
        let bytes = self.shared.encode(entry).await?;
        let entry = self.shared.append(bytes, Sort::Entry).await?.entry_ref().clone();
        Ok(Recorded { entry, id })
    }

    /// Takes the place `entry.control_seq` in the control order, then appends the same bytes. The claim commits.
    pub async fn control(&self, entry: Entry) -> Result<Recorded, ControlFailed> {
        let (id, seq) = (entry.id, entry.control_seq);
        let bytes = self.shared.encode(entry).await?;
        let mut pending = self.control.lock().await;
        let (disk, claimed, mut noted) = (Arc::clone(&self.shared.disk), bytes.clone(), pending.clone());
        let writer = self.shared.writer.clone();
        // INVARIANT: a claim is noted before it is made, so that whoever opens the ledger next knows what to look for.
        *pending = blocking(move || {
            noted.add(seq, claimed.leaf());
            noted.store(&disk, &writer).map_err(NotAudited::from)?;
            match control::claim(&disk, seq, &claimed) {
                Ok(()) => Ok(noted),
                Err(Claimed::Taken(seq)) => Err(ControlFailed::Taken(seq)),
                Err(Claimed::Disk(e)) => Err(ControlFailed::NotAudited(e.into())),
            }
        })
        .await
        .map_err(|_| NotAudited::Closed)??;
        let appended = self.shared.append(bytes, Sort::Entry).await;
        let entry = match appended {
            Ok(appended) => appended.entry_ref().clone(),
            Err(why) => return Err(ControlFailed::Unappended { seq, why }),
        };
        let (disk, writer) = (Arc::clone(&self.shared.disk), self.shared.writer.clone());
        let mut settled = pending.clone();
        settled.remove(seq);
        *pending = settled.clone();
        // Where this fails the note stays, and the next opening finds the entry appended.
        if let Ok(Err(e)) = blocking(move || settled.store(&disk, &writer)).await {
            tracing::warn!("the note of a finished claim stays behind: {e}");
        }
        Ok(Recorded { entry, id })
    }

    /// The entry that holds a place in the control order, whichever process claimed it; `None`: nobody did.
    pub fn control_entry(&self, seq: ControlSeq) -> Result<Option<Entry>, Problem> {
        let disk = &self.shared.disk;
        let Some(bytes) = control::read(disk, seq).map_err(|e| unreadable(&e))? else { return Ok(None) };
        decode(&bytes, &DiskBlobs(disk))
            .map(Some)
            .map_err(|e| damaged(format!("control entry {seq} cannot be read: {e}")))
    }

    /// Stores bytes beside the ledger under their hash, durable when this returns.
    pub async fn put_blob(&self, bytes: Vec<u8>) -> Result<BlobRef, NotAudited> {
        let disk = Arc::clone(&self.shared.disk);
        let stored = blocking(move || put_blob(&disk, &bytes)).await.map_err(|_| NotAudited::Closed)?;
        Ok(stored?)
    }

    /// The bytes of a blob, checked against its hash; `None`: there is no such blob.
    pub fn get_blob(&self, blob: &BlobRef) -> Result<Option<Vec<u8>>, Problem> {
        let blobs = DiskBlobs(&self.shared.disk);
        if blobs.get(blob).is_none() {
            return Ok(None);
        }
        fetch(blob, &blobs).map(Some).map_err(|e: DecodeError| damaged(e.to_string()))
    }

    /// Ends in order: what is queued is recorded, open reads are waited for, the chain is closed and signed. Reads still
    /// open after ten seconds get their outcome from the next opening.
    pub async fn close(&self) -> Result<(), NotAudited> {
        self.reads.close();
        let (reply, wait) = oneshot::channel();
        let job = Job::Close { reply, drain: DRAIN };
        self.shared.queue.send(job).await.map_err(|_| NotAudited::Closed)?;
        wait.await.unwrap_or(Err(NotAudited::Closed))
    }

    /// Stops as a crash would: nothing more is written, nothing is closed.
    #[cfg(test)]
    pub(crate) async fn crash(&self) {
        let (reply, wait) = oneshot::channel();
        let _ = self.shared.queue.send(Job::Crash { reply }).await;
        let _ = wait.await;
    }
}

impl Shared {
    /// An entry's bytes; a payload that does not fit is stored first.
    async fn encode(&self, entry: Entry) -> Result<EntryBytes, NotAudited> {
        let encoded = encode(&entry).map_err(NotAudited::Encode)?;
        if let Some((_, bytes)) = encoded.blob {
            let disk = Arc::clone(&self.disk);
            blocking(move || put_blob(&disk, &bytes)).await.map_err(|_| NotAudited::Closed)??;
        }
        Ok(encoded.entry)
    }

    /// Counts how long an entry took, or was waited for.
    fn took(&self, began: Instant) {
        let mut waits = self.waits.lock().unwrap_or_else(PoisonError::into_inner);
        if waits.len() == WAITS {
            waits.pop_front();
        }
        waits.push_back(u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX));
    }

    /// Queues an entry; the receiver tells what became of it.
    async fn enqueue(&self, entry: EntryBytes, sort: Sort) -> Result<Answer, NotAudited> {
        let length = u32::try_from(entry.as_bytes().len()).unwrap_or(u32::MAX);
        let room = Arc::clone(&self.queue_bytes).acquire_many_owned(length).await.map_err(|_| NotAudited::Closed)?;
        let (reply, wait) = oneshot::channel();
        let job = Job::Append { entry, sort, reply: Some(reply), room: Some(room) };
        self.queue.send(job).await.map_err(|_| NotAudited::Closed)?;
        Ok(wait)
    }

    /// Makes an entry as durable as it asks for, or gives up waiting.
    async fn append(&self, entry: EntryBytes, sort: Sort) -> Result<AuditReceipt, NotAudited> {
        let began = Instant::now();
        let work = async { self.enqueue(entry, sort).await?.await.unwrap_or(Err(NotAudited::Closed)) };
        let synced = timeout(self.patience, work).await.unwrap_or(Err(NotAudited::Slow(self.patience)));
        self.took(began);
        let synced = synced?;
        synced.appended.settle(synced.reached).map_err(|_| NotAudited::Durability)
    }
}

type Answer = oneshot::Receiver<Result<Synced, NotAudited>>;

/// What a running read has let out, counted by whoever hands it over.
#[derive(Debug, Default)]
pub struct Released {
    rows: AtomicU64,
    batches: AtomicU64,
    bytes: AtomicU64,
}

impl Released {
    /// Counts one batch, before it is handed over.
    pub fn add(&self, rows: u64, bytes: u64) {
        self.rows.fetch_add(rows, Relaxed);
        self.batches.fetch_add(1, Relaxed);
        self.bytes.fetch_add(bytes, Relaxed);
    }

    /// Rows so far.
    pub fn rows(&self) -> u64 {
        self.rows.load(Relaxed)
    }

    /// Batches so far.
    pub fn batches(&self) -> u64 {
        self.batches.load(Relaxed)
    }

    /// Encoded bytes so far.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Relaxed)
    }
}

/// The reserved place of a read's outcome. Dropped without `close`, it records `client_cancelled` with what was released.
#[must_use = "a read that ends leaves its outcome here"]
pub struct OutcomeSlot {
    shared: Arc<Shared>,
    /// `None` once the outcome is sent, or where there is no intent to close.
    permit: Option<mpsc::OwnedPermit<Job>>,
    template: Entry,
    released: Arc<Released>,
    began: Instant,
    _open: OwnedSemaphorePermit,
}

impl std::fmt::Debug for OutcomeSlot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OutcomeSlot").field("intent", &self.template.reference).finish_non_exhaustive()
    }
}

impl OutcomeSlot {
    /// The intent that the outcome will belong to.
    pub fn intent(&self) -> Option<EntryId> {
        self.template.reference
    }

    /// The counters that an outcome written by `Drop` reports. Count before handing over: released, not delivered.
    pub fn released(&self) -> &Arc<Released> {
        &self.released
    }

    /// Raises the byte grant to a new total; no byte beyond the old one may leave before this returns.
    pub async fn progress(&self, granted_total: u64) -> Result<(), NotAudited> {
        let now = self.shared.clock.now();
        let entry = Entry {
            id: new_id(now),
            wall: now,
            outcome: Outcome::Pending,
            payload: Payload::ReadProgress(granted_total),
            ..self.template.clone()
        };
        let bytes = self.shared.encode(entry).await?;
        self.shared.append(bytes, Sort::Entry).await.map(|_| ())
    }

    /// Records how the read ended, durable when this returns. The entry is tied to the intent, and takes its verb.
    ///
    /// Where it takes too long the outcome stays queued, but the reader must not be told that all is well.
    pub async fn close(mut self, entry: Entry) -> Result<(), NotAudited> {
        let mut entry = Entry { reference: self.template.reference, verb: self.template.verb, ..entry };
        // As safe as what allowed the read.
        entry.reason.durability = self.template.reason.durability;
        let bytes = self.shared.encode(entry).await?;
        let (reply, wait) = oneshot::channel();
        let permit = self.permit.take().ok_or(NotAudited::Closed)?;
        permit.send(Job::Append { entry: bytes, sort: Sort::Outcome, reply: Some(reply), room: None });
        let patience = self.shared.patience;
        match timeout(patience, wait).await {
            Ok(answer) => {
                let synced = answer.unwrap_or(Err(NotAudited::Closed))?;
                synced.appended.settle(synced.reached).map(|_| ()).map_err(|_| NotAudited::Durability)
            }
            Err(_) => Err(NotAudited::Slow(patience)),
        }
    }

    /// Queues the prepared outcome; nobody waits for it.
    fn give_up(&mut self, code: &str) {
        let Some(permit) = self.permit.take() else { return };
        let now = self.shared.clock.now();
        let released = &self.released;
        let entry = Entry {
            id: new_id(now),
            wall: now,
            measure: Measure {
                rows: Some(released.rows()),
                batches: Some(released.batches()),
                bytes: Some(released.bytes()),
                micros: u64::try_from(self.began.elapsed().as_micros()).ok(),
                upper_bound: true,
            },
            payload: Payload::ReadOutcome(ReadOutcome { code: Some(code.to_string()), scans: vec![] }),
            ..self.template.clone()
        };
        match encode(&entry) {
            Ok(encoded) => {
                permit.send(Job::Append { entry: encoded.entry, sort: Sort::Outcome, reply: None, room: None });
            }
            Err(e) => tracing::error!("the outcome `{code}` of a read cannot be recorded: {e}"),
        }
    }
}

impl Drop for OutcomeSlot {
    fn drop(&mut self) {
        self.give_up("client_cancelled");
    }
}

/// The outcome that an intent gets if nobody says better. It names who and why again, not to what: the intent does.
fn outcome_template(intent: &Entry) -> Entry {
    Entry {
        id: intent.id,
        reference: Some(intent.id),
        targets: vec![],
        outcome: Outcome::Failure,
        payload: Payload::ReadOutcome(ReadOutcome { code: None, scans: vec![] }),
        ..intent.clone()
    }
}

/// A UUIDv7 at this moment.
fn new_id(now: custody_model::WallNanos) -> EntryId {
    let nanos = u64::try_from(now.0).unwrap_or(0);
    let subsecond = u32::try_from(nanos % 1_000_000_000).unwrap_or(0);
    EntryId(Uuid::new_v7(uuid::Timestamp::from_unix(uuid::NoContext, nanos / 1_000_000_000, subsecond)))
}

/// Runs file work off the async threads.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Problem> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|e| Problem::new(7005, format!("the ledger's work was stopped: {e}")))
}

fn unreadable(e: &DiskError) -> Problem {
    Problem::new(7008, format!("the ledger cannot be read: {e}"))
}

fn damaged(what: String) -> Problem {
    Problem::new(4001, what).help("custody ledger verify")
}

#[cfg(test)]
mod tests;
