//! A second process that keeps a copy of this process's chain, synced before an entry of class `peer` counts.
//!
//! What holds here: the first copy is durable before the second one is told, so the second never holds more; an entry that
//! asks for class `peer` is answered once the second copy says that it has synced it, and where it cannot, the entry does
//! not reach that class. The second process is a command, run by `sh -c`: what stands between the two machines, `ssh` for
//! one, is that command's business. It dies of nothing that this process dies of: what was written into its pipe it still
//! syncs.
//!
//! When the second copy is away, this thread tries again each second and brings it up to date from files first.

use super::NotAudited;
use custody_ledger::{
    Appended, Change, CopyRefused, Disk, Held, PeerAnswer, PeerHello, catch_up, end_of, is_copied, read_message,
    segment_of, write_message,
};
use custody_model::{Durability, Problem, WriterId};
use custody_store::{Changed, FileDisk};
use std::{
    io::{BufReader, BufWriter, Write},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::SeqCst},
        mpsc::{Receiver, RecvTimeoutError, Sender, channel},
    },
    time::Duration,
};
use tokio::sync::oneshot;

/// Changes that wait for the second copy; more, and it is brought up to date from files instead.
const QUEUE_BYTES: usize = 64 << 20;
/// How often a second copy that is away is looked for.
const RETRY: Duration = Duration::from_secs(1);

/// An entry that is durable, and how safely.
#[derive(Debug)]
pub(super) struct Synced {
    pub(super) appended: Appended,
    pub(super) reached: Durability,
}

/// Whoever waits for an entry.
pub(super) type Reply = oneshot::Sender<Result<Synced, NotAudited>>;

enum Item {
    Change(Change),
    /// To be answered when all before it is synced there.
    Waiter(Reply, Box<Appended>),
    /// Nothing follows.
    End(Sender<()>),
}

/// What both sides of the queue know.
#[derive(Default)]
struct Shared {
    queued: AtomicUsize,
    /// Changes were left out: only files tell what lacks.
    overrun: AtomicBool,
    /// Where the first copy is durable: segment and offset.
    durable: Mutex<(u64, u64)>,
    /// Entries that the second copy holds.
    held: AtomicU64,
    connected: AtomicBool,
}

/// The way to the second copy.
#[derive(Clone)]
pub(super) struct Peer {
    queue: Sender<Item>,
    shared: Arc<Shared>,
}

impl Peer {
    /// Starts the thread. `durable`: where the chain stands now. Every change of `disk` from now on goes to the copy.
    pub(super) fn start(
        command: String,
        disk: &Arc<FileDisk>,
        writer: &WriterId,
        durable: (u64, u64),
    ) -> Result<Self, Problem> {
        let (queue, items) = channel();
        let shared = Arc::new(Shared { durable: Mutex::new(durable), ..Shared::default() });
        let peer = Self { queue, shared: Arc::clone(&shared) };
        let (observer, of) = (peer.clone(), writer.clone());
        disk.watch(Box::new(move |changed| observer.changed(&of, changed)));
        let link = Link { command, disk: Arc::clone(disk), writer: writer.clone(), items, shared };
        let thread = std::thread::Builder::new().name("ledger-peer".into()).spawn(move || link.run());
        thread.map(|_| peer).map_err(|e| Problem::new(7009, format!("the ledger's thread cannot start: {e}")))
    }

    /// How many entries the second copy holds; `None`: it is away.
    pub(super) fn held(&self) -> Option<u64> {
        self.shared.connected.load(SeqCst).then(|| self.shared.held.load(SeqCst))
    }

    /// Answers once everything before is synced at the second copy, or cannot be.
    pub(super) fn answer(&self, reply: Reply, appended: Appended) {
        if let Err(back) = self.queue.send(Item::Waiter(reply, Box::new(appended)))
            && let Item::Waiter(reply, appended) = back.0
        {
            let _ = reply.send(Ok(Synced { appended: *appended, reached: Durability::Local }));
        }
    }

    /// Ends in order: what is queued is synced at the second copy, as far as that is there, before this returns.
    pub(super) fn end(&self, patience: Duration) {
        let (done, wait) = channel();
        if self.queue.send(Item::End(done)).is_ok() && wait.recv_timeout(patience).is_err() {
            tracing::warn!("the second copy lacks the last entries: it is brought up to date at the next start");
        }
    }

    fn changed(&self, writer: &WriterId, changed: Changed<'_>) {
        let change = match changed {
            Changed::Made { path, head } => {
                let Some(number) = segment_of(path, writer) else { return };
                self.shared.durable_at(number, head.len() as u64);
                Change::Begin { header: head.to_vec() }
            }
            Changed::Synced { path, offset, bytes } => {
                let Some(number) = segment_of(path, writer) else { return };
                self.shared.durable_at(number, offset + bytes.len() as u64);
                Change::Frames { number, offset, bytes: bytes.to_vec() }
            }
            Changed::Whole { path, bytes } if is_copied(path, writer) => {
                Change::File { path: path.to_string(), bytes: bytes.to_vec() }
            }
            Changed::Whole { .. } => return,
        };
        let length = length(&change);
        if self.shared.queued.fetch_add(length, SeqCst) + length > QUEUE_BYTES {
            self.shared.queued.fetch_sub(length, SeqCst);
            self.shared.overrun.store(true, SeqCst);
            return;
        }
        let _ = self.queue.send(Item::Change(change));
    }
}

impl Shared {
    fn durable_at(&self, number: u64, offset: u64) {
        *self.durable.lock().unwrap_or_else(PoisonError::into_inner) = (number, offset);
    }
}

fn length(change: &Change) -> usize {
    match change {
        Change::Begin { header } => header.len(),
        Change::Frames { bytes, .. } | Change::File { bytes, .. } => bytes.len(),
    }
}

/// Why the second copy is away.
#[derive(Debug, thiserror::Error)]
enum Away {
    #[error("it cannot be reached: {0}")]
    Io(#[from] std::io::Error),
    #[error(transparent)]
    Refused(#[from] CopyRefused),
    #[error("it says: {0}")]
    Said(String),
}

/// Brings the copy of a chain that this process has just finished up to date, once.
pub(super) fn bring_up(command: &str, disk: &FileDisk, writer: &WriterId) {
    let brought = || -> Result<(), Away> {
        // Whoever has opened the chain meanwhile tells the copy themselves.
        let lock = disk.lock(&format!("w/{writer}/LOCK")).map_err(CopyRefused::Disk)?;
        if lock.is_none() {
            return Ok(());
        }
        let end = end_of(disk, writer)?;
        connect(command, disk, writer, &|| end, &mut |_| {}).map(drop)
    };
    if let Err(away) = brought() {
        tracing::warn!("the second copy of writer {writer} is not up to date: {away}");
    }
}

struct Link {
    command: String,
    disk: Arc<FileDisk>,
    writer: WriterId,
    items: Receiver<Item>,
    shared: Arc<Shared>,
}

/// What came while the second copy was away.
enum Waited {
    Again,
    /// Nobody will ask any more.
    Gone,
    End(Sender<()>),
}

/// The second process, while it is there.
struct Process {
    child: Child,
    input: Option<BufWriter<ChildStdin>>,
    output: BufReader<ChildStdout>,
}

impl Drop for Process {
    /// Its input ends; it syncs what it has and ends as well.
    fn drop(&mut self) {
        drop(self.input.take());
        let _ = self.child.wait();
    }
}

impl Process {
    fn send(&mut self, change: &Change) -> Result<Held, Away> {
        let input = self.input.as_mut().ok_or_else(|| std::io::Error::other("its input has ended"))?;
        write_message(input, &change.to_bytes())?;
        input.flush()?;
        self.answer().map(|answer| answer.held)
    }

    fn answer(&mut self) -> Result<PeerAnswer, Away> {
        let bytes = read_message(&mut self.output)?.ok_or_else(|| std::io::Error::other("it has ended"))?;
        match PeerAnswer::parse(&bytes) {
            Some(Ok(answer)) => Ok(answer),
            Some(Err(why)) => Err(Away::Said(why)),
            None => Err(Away::Said("nothing that is an answer".into())),
        }
    }
}

impl Link {
    fn run(self) {
        let mut process: Option<Process> = None;
        let mut told = String::new();
        loop {
            if process.is_none() {
                match self.connect() {
                    Ok(connected) => {
                        tracing::info!("the second copy of writer {} is up to date", self.writer);
                        told.clear();
                        self.shared.connected.store(true, SeqCst);
                        process = Some(connected);
                    }
                    Err(away) => {
                        let why = away.to_string();
                        if why != told {
                            tracing::error!("the second copy of writer {} is away: {why}", self.writer);
                            told = why;
                        }
                        match self.refuse_for(RETRY) {
                            Waited::Again => {}
                            Waited::Gone => return,
                            Waited::End(done) => {
                                // A last time, from files: what a short command wrote meanwhile is all there.
                                if let Err(away) = self.connect() {
                                    tracing::warn!("the second copy of writer {} lacks entries: {away}", self.writer);
                                }
                                let _ = done.send(());
                                return;
                            }
                        }
                    }
                }
                continue;
            }
            let Ok(item) = self.items.recv() else { return };
            let done = match (item, process.as_mut()) {
                (Item::Change(change), Some(there)) => {
                    self.shared.queued.fetch_sub(length(&change), SeqCst);
                    there.send(&change).map(|held| self.shared.held.store(held.size, SeqCst))
                }
                (Item::Waiter(reply, appended), Some(_)) if !self.shared.overrun.load(SeqCst) => {
                    let _ = reply.send(Ok(Synced { appended: *appended, reached: Durability::Peer }));
                    Ok(())
                }
                (Item::Waiter(reply, appended), _) => {
                    let _ = reply.send(Ok(Synced { appended: *appended, reached: Durability::Local }));
                    Err(Away::Said("it is too slow".into()))
                }
                (Item::Change(_), None) => Ok(()),
                (Item::End(done), _) => {
                    drop(process.take());
                    let _ = done.send(());
                    return;
                }
            };
            if let Err(away) = done {
                tracing::error!("the second copy of writer {} is away: {away}", self.writer);
                self.shared.connected.store(false, SeqCst);
                process = None;
            }
        }
    }

    /// Nothing reaches the second copy for a while.
    fn refuse_for(&self, time: Duration) -> Waited {
        let until = std::time::Instant::now() + time;
        loop {
            match self.items.recv_timeout(until.saturating_duration_since(std::time::Instant::now())) {
                Ok(Item::Change(change)) => {
                    self.shared.queued.fetch_sub(length(&change), SeqCst);
                }
                Ok(Item::Waiter(reply, appended)) => {
                    let _ = reply.send(Ok(Synced { appended: *appended, reached: Durability::Local }));
                }
                Ok(Item::End(done)) => return Waited::End(done),
                Err(RecvTimeoutError::Timeout) => return Waited::Again,
                Err(RecvTimeoutError::Disconnected) => return Waited::Gone,
            }
        }
    }

    /// Changes queued meanwhile are sent again afterwards, which a copy minds not.
    fn connect(&self) -> Result<Process, Away> {
        let end = || {
            self.shared.overrun.store(false, SeqCst);
            *self.shared.durable.lock().unwrap_or_else(PoisonError::into_inner)
        };
        let mut told = |held: Held| self.shared.held.store(held.size, SeqCst);
        connect(&self.command, &self.disk, &self.writer, &end, &mut told)
    }
}

/// Starts the second process and brings it up to date from files, up to where `end` says that the first copy is durable.
fn connect(
    command: &str,
    disk: &FileDisk,
    writer: &WriterId,
    end: &dyn Fn() -> (u64, u64),
    told: &mut dyn FnMut(Held),
) -> Result<Process, Away> {
    let mut shell = Command::new("sh");
    let mut child = shell.args(["-c", command]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    let (input, output) = (child.stdin.take(), child.stdout.take());
    let (Some(input), Some(output)) = (input, output) else {
        return Err(std::io::Error::other("it has no input or output").into());
    };
    let mut process = Process { child, input: Some(BufWriter::new(input)), output: BufReader::new(output) };
    let genesis = disk.read(custody_ledger::GENESIS_PATH).map_err(CopyRefused::Disk)?.unwrap_or_default();
    let hello = PeerHello { writer: writer.clone(), genesis };
    if let Some(input) = process.input.as_mut() {
        write_message(input, &hello.to_bytes())?;
        input.flush()?;
    }
    let PeerAnswer { held, names } = process.answer()?;
    let has = |path: &str| names.contains(path);
    let mut take = |change: Change| -> Result<(), Away> {
        told(process.send(&change)?);
        Ok(())
    };
    catch_up(disk, writer, held, end, &has, &mut take)?;
    Ok(process)
}
