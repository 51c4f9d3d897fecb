//! Opening: whatever crashed processes left is finished first, then this process's chain begins.

use super::{NotAudited, RecorderOptions, WriterChoice, damaged, new_id, unreadable};
use crate::clock::Clock;
use custody_ledger::{
    COMMAND_SEGMENT_BYTES, Chain, ChainOptions, Disk, DiskBlobs, DiskError, EncodeError, EntryBytes, EpochSigner,
    Genesis, KeyError, KeySet, OpenRefused, Reader, Recovery, SERVER_SEGMENT_BYTES, Signer, control, encode,
};
use custody_model::{
    ControlSeq, Entry, Hash, Measure, OpenIntent, Outcome, Payload, Problem, ReadOutcome, Reason, Verb, WallNanos,
    WriterId,
};
use custody_store::FileDisk;
use std::{os::unix::fs::DirBuilderExt, path::Path, sync::Arc};

/// More commands than this never run side by side on one warehouse.
const MAX_COMMANDS: u64 = 1_000;

/// Makes keys and genesis of a new ledger.
pub(super) fn create(ledger: &Path, keys: &Path, name: &str) -> Result<(), Problem> {
    let private = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(keys);
    private.map_err(|e| Problem::new(7008, format!("`{}` cannot be made: {e}", keys.display())))?;
    let keys = KeySet::create(FileDisk::private(keys), name, random()?).map_err(|e| key_problem(&e))?;
    keys.genesis().store(&FileDisk::new(ledger)).map_err(|e| key_problem(&e))
}

/// What a recorder starts with.
pub(super) struct Opened {
    pub(super) disk: Arc<FileDisk>,
    pub(super) chain: Chain<Arc<FileDisk>>,
    pub(super) keys: KeySet<Arc<FileDisk>>,
    pub(super) signer: EpochSigner,
    pub(super) pending: Pending,
    /// Chains of other processes that were finished here.
    pub(super) finished: Vec<WriterId>,
}

/// Finishes what crashed processes left, and opens this process's chain.
pub(super) fn open(options: &RecorderOptions) -> Result<Opened, Problem> {
    let disk = Arc::new(FileDisk::new(&options.ledger));
    let genesis = Genesis::load(&disk).map_err(|e| key_problem(&e))?;
    let keys = KeySet::open(Arc::new(FileDisk::private(&options.keys)), &genesis).map_err(|e| key_problem(&e))?;
    let segment_bytes = options.segment_bytes;
    if segment_bytes < COMMAND_SEGMENT_BYTES {
        return Err(open_problem(OpenRefused::SegmentSize(segment_bytes)));
    }
    let opening = Opening { disk: Arc::clone(&disk), genesis, keys, clock: Arc::clone(&options.clock), segment_bytes };
    let reader = Reader::new(Arc::clone(&disk));
    let writers = reader.writers().map_err(|e| unreadable(&e))?;
    let mut finished = vec![];
    for writer in &writers {
        if opening.finish(&reader, writer, options.writer)? {
            finished.push(writer.clone());
        }
    }
    let (mut chain, recovery) = opening.own(options.writer)?;
    opening.end_reads(&mut chain, &recovery)?;
    opening.complete_claims(&reader, &mut chain)?;
    let signer = opening.signer(&chain)?;
    if chain.signed_size().0 == 0 {
        // Before the first checkpoint nothing proves that the ledger is whole.
        chain.checkpoint(&signer, opening.clock.now()).map_err(|e| Problem::from(NotAudited::from(e)))?;
    }
    Ok(Opened { disk, chain, keys: opening.keys, signer, pending: Pending::default(), finished })
}

/// Gives a writer that nobody has open a new key, recorded and signed with; `revoke`: an epoch distrusted from there on.
/// The new epoch.
pub(super) fn rotate(
    ledger: &Path,
    keys: &Path,
    writer: &WriterId,
    revoke: Option<u64>,
    clock: Arc<dyn Clock>,
) -> Result<u64, Problem> {
    let disk = Arc::new(FileDisk::new(ledger));
    let genesis = Genesis::load(&disk).map_err(|e| key_problem(&e))?;
    let keys = KeySet::open(Arc::new(FileDisk::private(keys)), &genesis).map_err(|e| key_problem(&e))?;
    let known = Reader::new(Arc::clone(&disk)).writers().map_err(|e| unreadable(&e))?.contains(writer);
    let opening = Opening { disk, genesis, keys, clock, segment_bytes: SERVER_SEGMENT_BYTES };
    let opened = if known { opening.chain(writer)? } else { None };
    let Some((mut chain, recovery)) = opened else {
        let why = if known { "is already open" } else { "has no chain" };
        return Err(
            Problem::new(7010, format!("writer {writer} {why}")).help("custody ledger verify lists the writers")
        );
    };
    opening.end_reads(&mut chain, &recovery)?;
    let now = opening.clock.now();
    let signer = opening.keys.rotate(writer, chain.key_epoch(), revoke, now, random()?).map_err(|e| key_problem(&e))?;
    let epoch = signer.record().epoch;
    close(&opening.disk, chain, &signer, now).map_err(Problem::from)?;
    Ok(epoch)
}

/// A chain just opened, and what opening it found.
type Begun = (Chain<Arc<FileDisk>>, Recovery);

struct Opening {
    disk: Arc<FileDisk>,
    genesis: Genesis,
    keys: KeySet<Arc<FileDisk>>,
    clock: Arc<dyn Clock>,
    /// Of a server's chain.
    segment_bytes: u64,
}

impl Opening {
    /// Recovers and closes a chain that nobody holds and that did not end in order, except one that this process is
    /// about to open as its own anyway. Whether there was anything to do.
    fn finish(&self, reader: &Reader<Arc<FileDisk>>, writer: &WriterId, choice: WriterChoice) -> Result<bool, Problem> {
        if choice == WriterChoice::Serve && writer.as_str() == "serve" {
            return Ok(false);
        }
        let lock = self.disk.lock(&lock_path(writer)).map_err(|e| unreadable(&e))?;
        let Some(lock) = lock else { return Ok(false) };
        let closed = match Closed::load(&self.disk, writer) {
            Ok(true) => true,
            Ok(false) => reader.is_closed(writer).map_err(|e| damaged(e.to_string()))?,
            Err(e) => return Err(unreadable(&e)),
        };
        drop(lock);
        if closed {
            return Ok(false);
        }
        let Some((mut chain, recovery)) = self.chain(writer)? else { return Ok(false) };
        self.end_reads(&mut chain, &recovery)?;
        let signer = self.signer(&chain)?;
        close(&self.disk, chain, &signer, self.clock.now()).map_err(Problem::from)?;
        Ok(true)
    }

    /// This process's chain.
    fn own(&self, choice: WriterChoice) -> Result<Begun, Problem> {
        let in_use = |name: &str| Problem::new(7010, format!("writer {name} is already open"));
        match choice {
            WriterChoice::Serve => self.chain(&writer_id("serve")?)?.ok_or_else(|| {
                in_use("serve").help("one server writes a warehouse; commands run beside it without further ado")
            }),
            WriterChoice::Cli => {
                for n in 0..MAX_COMMANDS {
                    if let Some(opened) = self.chain(&writer_id(&format!("cli-{n}"))?)? {
                        return Ok(opened);
                    }
                }
                Err(in_use("cli-*").help("wait until other commands on this warehouse have ended"))
            }
        }
    }

    /// Opens a chain; `None`: another process has it.
    fn chain(&self, writer: &WriterId) -> Result<Option<Begun>, Problem> {
        let server = writer.as_str() == "serve";
        let segment_bytes = if server { self.segment_bytes } else { COMMAND_SEGMENT_BYTES };
        let options = ChainOptions { writer: writer.clone(), segment_bytes, seed: random()? };
        match Chain::open(Arc::clone(&self.disk), &self.genesis, options, self.clock.now()) {
            Ok(opened) => Ok(Some(opened)),
            Err(OpenRefused::WriterOpen(_)) => Ok(None),
            Err(refused) => Err(open_problem(refused)),
        }
    }

    fn signer(&self, chain: &Chain<Arc<FileDisk>>) -> Result<EpochSigner, Problem> {
        let signer = self.keys.signer(chain.writer(), chain.key_epoch(), self.clock.now(), random()?);
        signer.map_err(|e| key_problem(&e))
    }

    /// Gives every read that a crash cut off its outcome: at most the last byte grant has left.
    fn end_reads(&self, chain: &mut Chain<Arc<FileDisk>>, recovery: &Recovery) -> Result<(), Problem> {
        if recovery.open.is_empty() {
            return Ok(());
        }
        let entries: Result<Vec<_>, _> = recovery.open.iter().map(|open| self.unknown(open)).collect();
        let entries = entries?;
        chain.commit(&entries, self.clock.now()).map_err(|e| Problem::from(NotAudited::from(e)))?;
        Ok(())
    }

    fn unknown(&self, open: &OpenIntent) -> Result<EntryBytes, Problem> {
        let entry = outcome_of(open, Outcome::Unknown, "unknown_crash", Some(open.granted_bytes), self.clock.now());
        entry.map_err(|e| Problem::from(NotAudited::Encode(e)))
    }

    /// Appends what crashed processes claimed in the control order and did not append.
    fn complete_claims(&self, reader: &Reader<Arc<FileDisk>>, chain: &mut Chain<Arc<FileDisk>>) -> Result<(), Problem> {
        for writer in reader.writers().map_err(|e| unreadable(&e))? {
            // A writer at work completes its own.
            let own = writer == *chain.writer();
            let lock = if own { None } else { self.disk.lock(&lock_path(&writer)).map_err(|e| unreadable(&e))? };
            if !own && lock.is_none() {
                continue;
            }
            let pending = Pending::load(&self.disk, &writer).map_err(|e| unreadable(&e))?;
            if pending.is_empty() {
                continue;
            }
            let leaves = reader.leaves(&writer).map_err(|e| damaged(e.to_string()))?;
            for (seq, leaf) in pending.claims() {
                let bytes = control::read(&self.disk, *seq).map_err(|e| unreadable(&e))?;
                let Some(bytes) = bytes.filter(|_| !leaves.contains(leaf)) else { continue };
                let entry = EntryBytes::copied(bytes, &DiskBlobs(&self.disk))
                    .map_err(|e| damaged(format!("control entry {seq} cannot be read: {e}")))?;
                // Another process may have been faster at this place; its own chain has the entry then.
                if entry.leaf() == *leaf {
                    // Seen is not durable yet: whoever claimed it may have ended before its folder was synced.
                    match control::claim(&self.disk, *seq, &entry) {
                        Ok(()) | Err(control::Claimed::Taken(_)) => {}
                        Err(control::Claimed::Disk(e)) => return Err(NotAudited::from(e).into()),
                    }
                    chain.commit(&[entry], self.clock.now()).map_err(|e| Problem::from(NotAudited::from(e)))?;
                }
            }
            Pending::default().store(&self.disk, &writer).map_err(|e| Problem::from(NotAudited::from(e)))?;
        }
        Ok(())
    }
}

/// The outcome of a read that began and was refused: nothing left.
pub(super) fn refused(open: &OpenIntent, now: WallNanos) -> Result<EntryBytes, EncodeError> {
    outcome_of(open, Outcome::Failure, "refused", None, now)
}

/// An outcome for a read of which no more is known than its intent.
fn outcome_of(
    open: &OpenIntent,
    outcome: Outcome,
    code: &str,
    bytes: Option<u64>,
    now: WallNanos,
) -> Result<EntryBytes, EncodeError> {
    let entry = Entry {
        id: new_id(now),
        wall: now,
        reference: Some(open.intent),
        control_seq: ControlSeq(0),
        trace: None,
        actor: None,
        verb: Verb::Read,
        targets: vec![],
        outcome,
        reason: Reason::default(),
        measure: Measure { bytes, upper_bound: true, ..Measure::default() },
        payload: Payload::ReadOutcome(ReadOutcome { code: Some(code.into()), scans: vec![] }),
    };
    Ok(encode(&entry)?.entry)
}

/// The orderly end of a chain: `writer close` is the last entry, and signed. Lets go of the chain's lock.
pub(super) fn close(
    disk: &FileDisk,
    chain: Chain<Arc<FileDisk>>,
    signer: &EpochSigner,
    now: WallNanos,
) -> Result<(), NotAudited> {
    let writer = chain.writer().clone();
    let segment = Closed::segment(disk, &writer)?;
    let note = chain.close(signer, now)?;
    // Where the close began another segment the note is stale from the start, and the chain is read instead.
    if let Err(e) = Closed::store(disk, &writer, &segment, &note.to_bytes()) {
        tracing::warn!("the next opening reads the whole chain of {writer}: {e}");
    }
    Ok(())
}

/// A note that a chain ended in order, so that the next opening need not read all of it: name of the newest segment and
/// last checkpoint, in `w/<writer>/closed`. Opening the chain again begins a segment, which makes the note stale.
struct Closed;

impl Closed {
    fn path(writer: &WriterId) -> String {
        format!("{}/closed", Reader::<Arc<FileDisk>>::folder(writer))
    }

    fn segment(disk: &FileDisk, writer: &WriterId) -> Result<String, DiskError> {
        let names = disk.list(&format!("{}/seg", Reader::<Arc<FileDisk>>::folder(writer)))?;
        Ok(names.into_iter().max().unwrap_or_default())
    }

    fn bytes(segment: &str, checkpoint: &[u8]) -> Vec<u8> {
        [segment.as_bytes(), b"\n", checkpoint].concat()
    }

    fn store(disk: &FileDisk, writer: &WriterId, segment: &str, checkpoint: &[u8]) -> Result<(), DiskError> {
        disk.publish(&Self::path(writer), &Self::bytes(segment, checkpoint))
    }

    /// Whether the note fits what is there; `false` says nothing.
    fn load(disk: &FileDisk, writer: &WriterId) -> Result<bool, DiskError> {
        let Some(note) = disk.read(&Self::path(writer))? else { return Ok(false) };
        let checkpoint = disk.read(&format!("{}/checkpoint", Reader::<Arc<FileDisk>>::folder(writer)))?;
        let segment = Self::segment(disk, writer)?;
        Ok(checkpoint.is_some_and(|checkpoint| note == Self::bytes(&segment, &checkpoint)))
    }
}

/// Claims of a writer that may lack their append: place and leaf hash, a line each, in `w/<writer>/pending`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Pending(Vec<(ControlSeq, Hash)>);

impl Pending {
    pub(super) fn add(&mut self, seq: ControlSeq, leaf: Hash) {
        self.0.push((seq, leaf));
    }

    pub(super) fn remove(&mut self, seq: ControlSeq) {
        self.0.retain(|(s, _)| *s != seq);
    }

    fn claims(&self) -> &[(ControlSeq, Hash)] {
        &self.0
    }

    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn store(&self, disk: &FileDisk, writer: &WriterId) -> Result<(), DiskError> {
        let text: String = self.0.iter().map(|(seq, leaf)| format!("{seq} {leaf}\n")).collect();
        disk.publish(&pending_path(writer), text.as_bytes())
    }

    /// A note is written whole or not at all, so that a line that does not read is not one of ours.
    fn load(disk: &FileDisk, writer: &WriterId) -> Result<Self, DiskError> {
        let bytes = disk.read(&pending_path(writer))?.unwrap_or_default();
        let line = |line: &str| {
            let (seq, leaf) = line.split_once(' ')?;
            Some((ControlSeq(seq.parse().ok()?), leaf.parse().ok()?))
        };
        Ok(Self(String::from_utf8_lossy(&bytes).lines().filter_map(line).collect()))
    }
}

fn pending_path(writer: &WriterId) -> String {
    format!("{}/pending", Reader::<Arc<FileDisk>>::folder(writer))
}

fn lock_path(writer: &WriterId) -> String {
    format!("{}/LOCK", Reader::<Arc<FileDisk>>::folder(writer))
}

fn writer_id(name: &str) -> Result<WriterId, Problem> {
    WriterId::new(name).ok_or_else(|| Problem::bug(format!("`{name}` is not a writer")))
}

/// 32 bytes that nobody can guess.
pub(super) fn random() -> Result<[u8; 32], Problem> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).map_err(|e| Problem::new(7009, format!("the system gives no randomness: {e}")))?;
    Ok(bytes)
}

fn key_problem(e: &KeyError) -> Problem {
    match e {
        KeyError::Disk(e) => unreadable(e),
        KeyError::NoLedger => Problem::new(1303, e.to_string()).help("custody init NAME makes a warehouse"),
        KeyError::OtherLedger => Problem::new(1302, e.to_string()),
        KeyError::Name(_) => {
            Problem::new(1304, e.to_string()).help("choose a name of letters, digits, `-`, `_` and `.`")
        }
        KeyError::NoEpoch(_) => {
            Problem::new(1312, e.to_string()).help("the `key` entries of the writer hold its epochs")
        }
        KeyError::Genesis(_) | KeyError::NoKey(_) | KeyError::Damaged(_) | KeyError::OtherRoot => {
            damaged(e.to_string())
        }
    }
}

fn open_problem(refused: OpenRefused) -> Problem {
    let (text, help) = (refused.to_string(), refused.help());
    match refused {
        OpenRefused::WriterOpen(_) => Problem::new(7010, text),
        OpenRefused::Genesis(e) => key_problem(&e),
        OpenRefused::Newer(_) => Problem::new(1305, text).help("use the newer binary"),
        OpenRefused::SegmentSize(_) => Problem::new(1314, text).help("`[ledger] segment_bytes` in custody.toml"),
        OpenRefused::Disk(e) => unreadable(&e),
        OpenRefused::Record(e) => NotAudited::from(e).into(),
        OpenRefused::Damaged { .. }
        | OpenRefused::BelowCheckpoint { .. }
        | OpenRefused::CheckpointDisagrees { .. }
        | OpenRefused::CheckpointDamaged(_) => {
            let problem = Problem::new(4001, text);
            problem.help(help.unwrap_or("custody ledger verify"))
        }
    }
}
