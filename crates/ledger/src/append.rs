//! The chain of one writer: opened, appended to, checkpointed, closed.
//!
//! `commit` writes one frame and syncs once; what it returns is durable. A failed write or sync is never tried again
//! on the same file: the kernel may have dropped the dirty pages. The frame is appended once more, under the same seqs,
//! to a new segment that says how much of the old one counts; a second failure poisons the chain. A full disk leaves the
//! chain usable: a later commit begins a new segment.
//!
//! Each segment's first entry is a `writer` entry that lists open reads; after a failed sync the entries that are
//! appended again come before it, because a reader may have seen them under their seqs.
//!
//! Before a checkpoint, tiles that have become whole are stored; after the first checkpoint of a segment its edge, from
//! which the next opening reads.
//!
//! Deliberately absent: segments prepared ahead and the reserve; which heads are merged when is the caller's to say.

use crate::{
    disk::{Disk, DiskError, DiskLock},
    edge::{Edge, edge_path},
    format::{Effect, EncodeError, EntryBytes, MAX_ENTRY_BYTES, encode},
    keys::{Genesis, KeyError, SignFailed, Signer},
    note::{Checkpoint, NoteSignature, SignedNote, writer_origin},
    recover::scan,
    segment::{
        BLOCK_BYTES, SegmentHeader, SegmentReason, checkpoint_path, frame_bytes, frame_length, leaves_root,
        segment_path, writer_folder,
    },
    tiles::{Tiles, tile_path},
    tree::{Sha3, Tree, TreeHash, TreeSize},
};
use custody_model::{
    ControlSeq, Durability, Entry, EntryId, EntryRef, Hash, HeadRecord, Measure, OpenIntent, Outcome, Payload, Reason,
    Seq, Verb, WallNanos, WriterEvent, WriterId,
};
use std::{collections::BTreeMap, fmt};

/// Entries of one frame have at most this many bytes; a larger commit becomes several frames.
const MAX_FRAME_ENTRIES_BYTES: usize = 1 << 20;
/// No frame is longer: entries, a `writer` and a `clock_anomaly` entry, heads and padding.
pub(crate) const MAX_FRAME_BYTES: usize = MAX_FRAME_ENTRIES_BYTES + 4 * MAX_ENTRY_BYTES;
/// Segments of a server.
pub const SERVER_SEGMENT_BYTES: u64 = 64 << 20;
/// Segments of a command.
pub const COMMAND_SEGMENT_BYTES: u64 = 1 << 20;
/// A clock that goes back by more than this is recorded.
const CLOCK_TOLERANCE_NANOS: i64 = 1_000_000_000;

/// How a chain is opened.
#[derive(Clone, Debug)]
pub struct ChainOptions {
    /// Whose chain.
    pub writer: WriterId,
    /// Size of new segments, a multiple of 512: [`SERVER_SEGMENT_BYTES`] or [`COMMAND_SEGMENT_BYTES`].
    pub segment_bytes: u64,
    /// 32 fresh random bytes: salts and ids of the chain's own entries come from them.
    pub seed: [u8; 32],
}

/// A chain that cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenRefused {
    /// Another process writes it.
    #[error("writer {0} is already open")]
    WriterOpen(WriterId),
    /// The genesis is missing, unreadable or another one.
    #[error(transparent)]
    Genesis(KeyError),
    /// Written by a newer version.
    #[error("ledger format {0} is newer than this binary reads ({newest})", newest = crate::segment::SEGMENT_FORMAT)]
    Newer(u16),
    /// A segment size that cannot hold frames.
    #[error("a segment of {0} bytes cannot hold frames: expected a multiple of 512, at least 4096 (a server: 1 MiB)")]
    SegmentSize(u64),
    /// Something that no crash explains.
    #[error("ledger damaged at writer {writer}, segment {segment}, offset {offset}: {why}")]
    Damaged {
        /// Whose chain.
        writer: WriterId,
        /// Which segment.
        segment: u64,
        /// Which byte.
        offset: u64,
        /// What is wrong there.
        why: &'static str,
    },
    /// Entries are gone.
    #[error("ledger holds {holds} entries, its checkpoint says {says}")]
    BelowCheckpoint {
        /// What is there.
        holds: u64,
        /// What was signed.
        says: u64,
    },
    /// Entries are others than the ones signed.
    #[error("ledger and checkpoint of writer {writer} disagree on the first {size} entries")]
    CheckpointDisagrees {
        /// Whose chain.
        writer: WriterId,
        /// Up to where.
        size: u64,
    },
    /// The checkpoint cannot be read.
    #[error("the checkpoint of writer {0} is damaged")]
    CheckpointDamaged(WriterId),
    /// The disk.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// The opening could not be recorded.
    #[error(transparent)]
    Record(#[from] CommitFailed),
}

impl OpenRefused {
    /// The next step, where there is one.
    pub fn help(&self) -> Option<&'static str> {
        match self {
            Self::Damaged { .. } | Self::BelowCheckpoint { .. } | Self::CheckpointDisagrees { .. } => {
                Some("custody ledger replicate --from URL")
            }
            _ => None,
        }
    }
}

/// Entries that were not made durable.
#[derive(Debug, thiserror::Error)]
pub enum CommitFailed {
    /// The disk is full; nothing was recorded, and the chain stays usable.
    #[error("the audit ledger has no space: {0}")]
    NoSpace(#[source] DiskError),
    /// Writing failed twice; nothing more can be recorded before the chain is opened again.
    #[error("the audit ledger cannot be written: {0}")]
    Poisoned(String),
    /// A frame that no segment of this size can hold.
    #[error("entries of {bytes} bytes do not fit a segment of {segment}")]
    TooLarge {
        /// What they take.
        bytes: usize,
        /// What there is.
        segment: u64,
    },
    /// An entry of the chain's own cannot be encoded.
    #[error(transparent)]
    Encode(#[from] EncodeError),
    /// The checkpoint, or a blob, could not be stored. The entries are durable.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// A signer of another writer.
    #[error("key `{key}` cannot sign for `{origin}`")]
    WrongSigner {
        /// Its name.
        key: String,
        /// The tree's origin.
        origin: String,
    },
    /// A key of the past.
    #[error("key epoch {epoch} is over: the chain is in epoch {current}")]
    OldKey {
        /// The signer's.
        epoch: u64,
        /// The chain's.
        current: u64,
    },
    /// The signer.
    #[error(transparent)]
    Sign(#[from] SignFailed),
}

/// What opening a chain found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Recovery {
    /// Which opening this is, from 1.
    pub incarnation: u64,
    /// Entries before this opening.
    pub size: TreeSize,
    /// Whether the writer had ended in order; true for a new chain.
    pub closed: bool,
    /// Reads that began and never ended, with their last byte grants. Whoever opens the chain closes them.
    pub open: Vec<OpenIntent>,
    /// A torn tail that was put aside.
    pub torn: Option<TornTail>,
}

/// What reviving a chain found of commits that had failed.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Revived {
    /// Leaf hashes of entries that are durable although their commit failed; they must not be appended again.
    pub leaves: Vec<Hash>,
    /// Reads among them that began and were refused: whoever revives the chain ends them.
    pub begun: Vec<OpenIntent>,
}

/// Bytes of a frame that was being written when the machine stopped.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TornTail {
    /// In which segment.
    pub segment: u64,
    /// From which byte.
    pub offset: u64,
    /// How many bytes.
    pub length: u64,
    /// SHA3-256 of them.
    pub hash: Hash,
}

/// A durable entry: proof that it was recorded, for one plan to be run once.
///
/// Made only by [`Appended::settle`]; neither cloned nor built from parts.
#[derive(PartialEq, Eq, Debug)]
pub struct AuditReceipt {
    log_id: Hash,
    entry: EntryRef,
    id: EntryId,
    leaf: Hash,
    plan: Option<Hash>,
}

impl AuditReceipt {
    /// The ledger.
    pub fn log_id(&self) -> Hash {
        self.log_id
    }

    /// Where the entry stands.
    pub fn entry_ref(&self) -> &EntryRef {
        &self.entry
    }

    /// The entry's id.
    pub fn entry_id(&self) -> EntryId {
        self.id
    }

    /// The entry's leaf hash.
    pub fn leaf(&self) -> Hash {
        self.leaf
    }

    /// The fingerprint of the one plan that may run on this receipt; `None`: none may.
    pub fn plan(&self) -> Option<Hash> {
        self.plan
    }
}

/// `log/writer/seq/leaf`, the value of the header `x-audit-receipt`.
impl fmt::Display for AuditReceipt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.log_id, self.entry, self.leaf)
    }
}

/// An entry synced on this machine, which may still have to reach further.
#[derive(PartialEq, Eq, Debug)]
pub struct Appended {
    /// Boxed, so that a `Result` with an `Appended` as error stays small.
    receipt: Box<AuditReceipt>,
    durability: Durability,
}

impl Appended {
    /// Where the entry stands.
    pub fn entry_ref(&self) -> &EntryRef {
        &self.receipt.entry
    }

    /// How safe it must be.
    pub fn durability(&self) -> Durability {
        self.durability
    }

    /// The receipt, once the entry is as safe as it asks for; itself otherwise.
    pub fn settle(self, reached: Durability) -> Result<AuditReceipt, Self> {
        if reached >= self.durability { Ok(*self.receipt) } else { Err(self) }
    }
}

/// One writer's chain, open for appending.
pub struct Chain<D> {
    disk: D,
    _lock: DiskLock,
    genesis: Genesis,
    log_id: Hash,
    options: ChainOptions,
    drawn: u64,
    incarnation: u64,
    /// The segment being written; 0: none yet.
    number: u64,
    salt: [u8; 16],
    /// How many bytes of the segment count.
    offset: u64,
    /// What the next frame has as previous hash.
    previous: Hash,
    /// The newest frame.
    frame: Hash,
    tree: Tree<Sha3>,
    tiles: Tiles,
    /// How things stood when the present segment began, until it is stored.
    begun: Option<Edge>,
    open: BTreeMap<Seq, OpenIntent>,
    /// Epoch and verifier key of the newest `key` entry.
    key: Option<(u64, String)>,
    signed: TreeSize,
    wall: WallNanos,
    /// Set while the segment must not be written to any more.
    roll: Option<SegmentReason>,
    poisoned: Option<String>,
    /// What attempts to revive the chain found before one of them succeeds.
    unheard: Revived,
}

impl<D: Disk> Chain<D> {
    /// Opens a writer's chain, recovering from whatever stopped it, and records the opening.
    ///
    /// The lock is held until the chain is dropped. Refuses what no crash explains; nothing is written then.
    pub fn open(
        disk: D,
        genesis: &Genesis,
        options: ChainOptions,
        now: WallNanos,
    ) -> Result<(Self, Recovery), OpenRefused> {
        let size = options.segment_bytes;
        if size < 4096 || !size.is_multiple_of(BLOCK_BYTES as u64) {
            return Err(OpenRefused::SegmentSize(size));
        }
        if Genesis::load(&disk).map_err(OpenRefused::Genesis)? != *genesis {
            return Err(OpenRefused::Genesis(KeyError::OtherLedger));
        }
        let writer = &options.writer;
        let lock = disk.lock(&format!("{}/LOCK", writer_folder(writer)))?;
        let lock = lock.ok_or_else(|| OpenRefused::WriterOpen(writer.clone()))?;
        let found = scan(&disk, writer, genesis, None)?;
        found.settle(&disk, writer)?;
        let torn = found.torn.as_ref().map(|torn| torn.put_aside(&disk, writer)).transpose()?;
        let reason = match (&torn, found.number) {
            (Some(_), _) => SegmentReason::Torn,
            (None, 0) => SegmentReason::First,
            (None, _) => SegmentReason::Restart,
        };
        let recovery = Recovery {
            incarnation: found.incarnation + 1,
            size: found.tree.size(),
            closed: found.closed,
            open: found.open.values().cloned().collect(),
            torn: torn.clone(),
        };
        let log_id = genesis.log_id();
        let mut chain = Self {
            disk,
            _lock: lock,
            genesis: genesis.clone(),
            log_id,
            options,
            drawn: 0,
            incarnation: recovery.incarnation,
            number: found.number,
            salt: [0; 16],
            offset: found.length,
            previous: Hash::default(),
            frame: found.frame,
            tree: found.tree,
            tiles: found.tiles,
            begun: None,
            open: found.open,
            key: found.key,
            signed: found.signed,
            wall: found.wall,
            roll: Some(reason),
            poisoned: None,
            unheard: Revived::default(),
        };
        let event = torn.map(|t| WriterEvent::Recovery {
            segment: t.segment,
            offset: t.offset,
            length: t.length,
            hash: t.hash,
        });
        let own = event.map(|e| chain.own_entry(Payload::Writer(e), now)).transpose()?;
        chain.append(own.as_slice(), now)?;
        Ok((chain, recovery))
    }

    /// Whether writing failed twice, so that nothing is recorded before [`Chain::revive`] succeeds.
    pub fn is_poisoned(&self) -> bool {
        self.poisoned.is_some()
    }

    /// Reads a chain that gave up anew, as another process would, and goes on where the disk stands; the lock is kept
    /// throughout. Entries of the commits that failed may be durable all the same: they are in what this gives.
    pub fn revive(&mut self, now: WallNanos) -> Result<Revived, OpenRefused> {
        if self.poisoned.is_none() {
            return Ok(Revived::default());
        }
        let writer = self.options.writer.clone();
        let found = scan(&self.disk, &writer, &self.genesis, Some((self.size(), self.root())))?;
        found.settle(&self.disk, &writer)?;
        let torn = found.torn.as_ref().map(|torn| torn.put_aside(&self.disk, &writer)).transpose()?;
        let begun = found.open.values().filter(|o| !self.open.contains_key(&o.seq)).cloned();
        self.unheard.begun.extend(begun);
        self.unheard.leaves.extend(found.above);
        self.incarnation = found.incarnation + 1;
        (self.number, self.offset, self.frame) = (found.number, found.length, found.frame);
        (self.tree, self.tiles, self.open, self.key) = (found.tree, found.tiles, found.open, found.key);
        (self.signed, self.wall) = (found.signed, self.wall.max(found.wall));
        self.begun = None;
        self.roll = Some(if torn.is_some() { SegmentReason::Torn } else { SegmentReason::Restart });
        self.poisoned = None;
        let event = torn.map(|t| WriterEvent::Recovery {
            segment: t.segment,
            offset: t.offset,
            length: t.length,
            hash: t.hash,
        });
        // Where this fails the chain has given up again, and the next attempt finds what there is.
        let own = event.map(|e| self.own_entry(Payload::Writer(e), now)).transpose();
        let appended = own.and_then(|own| self.append(own.as_slice(), now));
        if let Err(failed) = appended {
            self.poisoned.get_or_insert_with(|| failed.to_string());
            return Err(failed.into());
        }
        Ok(std::mem::take(&mut self.unheard))
    }

    /// Makes entries durable, in order, and gives one `Appended` each. All of one frame or none is recorded; a commit
    /// larger than a frame becomes several, and those before the one that failed stay, unacknowledged.
    pub fn commit(&mut self, frame: &[EntryBytes], now: WallNanos) -> Result<Vec<Appended>, CommitFailed> {
        let limit = usize::try_from(self.options.segment_bytes / 2).unwrap_or(usize::MAX).min(MAX_FRAME_ENTRIES_BYTES);
        let mut appended = Vec::with_capacity(frame.len());
        let mut rest = frame;
        while !rest.is_empty() {
            let mut bytes = 0;
            let fits = rest.iter().take_while(|e| {
                bytes += 2 + e.as_bytes().len();
                bytes <= limit
            });
            let (now_first, later) = rest.split_at(fits.count().max(1));
            appended.extend(self.append(now_first, now)?);
            rest = later;
        }
        Ok(appended)
    }

    /// Signs the chain as it stands, all of it durable. A key that is new to the chain is recorded first.
    pub fn checkpoint(&mut self, signer: &dyn Signer, now: WallNanos) -> Result<SignedNote, CommitFailed> {
        let origin = writer_origin(&self.genesis.warehouse, &self.options.writer);
        let key = signer.key();
        if key.name() != origin {
            return Err(CommitFailed::WrongSigner { key: key.name().to_string(), origin });
        }
        let record = signer.record();
        if self.key.as_ref().is_none_or(|(epoch, vkey)| *epoch != record.epoch || *vkey != record.vkey) {
            let current = self.key.as_ref().map_or(0, |k| k.0);
            if record.epoch <= current {
                return Err(CommitFailed::OldKey { epoch: record.epoch, current });
            }
            let entry = self.own_entry(Payload::Key(record.clone()), now)?;
            self.append(&[entry], now)?;
            self.key = Some((record.epoch, record.vkey.clone()));
        }
        let text = Checkpoint { origin, size: self.size(), root: self.root() }.to_string();
        let signature = signer.sign(text.as_bytes())?.to_vec();
        let line = NoteSignature { name: key.name().to_string(), id: key.id(), signature };
        let note = SignedNote::new(text, vec![line]);
        self.store_tiles()?;
        self.disk.publish(&checkpoint_path(&self.options.writer), &note.to_bytes())?;
        self.signed = self.size();
        // Whoever opens the chain next reads from here, where this succeeds.
        let size = self.size();
        if let Some(edge) = self.begun.take_if(|edge| edge.key.is_some() && edge.tree.size() < size) {
            self.disk.publish(&edge_path(&self.options.writer), &edge.to_bytes())?;
        }
        Ok(note)
    }

    /// Records the heads of other writers, durably; the next checkpoint covers them.
    pub fn heads(&mut self, heads: Vec<HeadRecord>, now: WallNanos) -> Result<(), CommitFailed> {
        let entry = self.own_entry(Payload::Heads(heads), now)?;
        self.append(&[entry], now).map(|_| ())
    }

    /// Records, durably, that the writer lives and has nothing else to say.
    pub fn beat(&mut self, now: WallNanos) -> Result<(), CommitFailed> {
        let entry = self.own_entry(Payload::Writer(WriterEvent::Heartbeat), now)?;
        self.append(&[entry], now).map(|_| ())
    }

    /// Stores tiles that have become whole. One that is there already, from before a crash, has the same bytes.
    fn store_tiles(&mut self) -> Result<(), DiskError> {
        while let Some(tile) = self.tiles.due.last() {
            let (path, bytes) = (tile_path(&self.options.writer, tile.level, tile.number), tile.bytes());
            if self.disk.len(&path)? != Some(bytes.len() as u64) {
                self.disk.publish(&path, &bytes)?;
            }
            self.tiles.due.pop();
        }
        Ok(())
    }

    /// Ends the chain in order: a `writer close` entry, then a last checkpoint.
    pub fn close(mut self, signer: &dyn Signer, now: WallNanos) -> Result<SignedNote, CommitFailed> {
        // The key's entry goes before the close, which is to be the last.
        if self
            .key
            .as_ref()
            .is_none_or(|(epoch, vkey)| (*epoch, vkey) != (signer.record().epoch, &signer.record().vkey))
        {
            self.checkpoint(signer, now)?;
        }
        let entry = self.own_entry(Payload::Writer(WriterEvent::Close), now)?;
        self.append(&[entry], now)?;
        self.checkpoint(signer, now)
    }

    /// Whose chain.
    pub fn writer(&self) -> &WriterId {
        &self.options.writer
    }

    /// Which opening, from 1.
    pub fn incarnation(&self) -> u64 {
        self.incarnation
    }

    /// The ledger.
    pub fn log_id(&self) -> Hash {
        self.log_id
    }

    /// Durable entries.
    pub fn size(&self) -> TreeSize {
        self.tree.size()
    }

    /// Their RFC 6962 root.
    pub fn root(&self) -> Hash {
        self.tree.root()
    }

    /// The hash of the newest frame; zeros: none.
    pub fn frame_hash(&self) -> Hash {
        self.frame
    }

    /// How many entries the newest checkpoint covers.
    pub fn signed_size(&self) -> TreeSize {
        self.signed
    }

    /// The epoch of the newest key in the chain.
    pub fn key_epoch(&self) -> Option<u64> {
        self.key.as_ref().map(|(epoch, _)| *epoch)
    }

    /// Reads that have begun and not ended, in order.
    pub fn open_intents(&self) -> impl Iterator<Item = &OpenIntent> {
        self.open.values()
    }

    /// Up to where the chain is durable: segment and offset in it.
    pub fn position(&self) -> (u64, u64) {
        (self.number, self.offset)
    }

    /// The segment that is written to.
    pub fn segment_path(&self) -> String {
        segment_path(&self.options.writer, self.number)
    }

    /// How large segments are.
    pub fn segment_bytes(&self) -> u64 {
        self.options.segment_bytes
    }

    /// The disk.
    pub fn disk(&self) -> &D {
        &self.disk
    }

    /// Appends entries as one frame, beginning a segment where needed.
    fn append(&mut self, entries: &[EntryBytes], now: WallNanos) -> Result<Vec<Appended>, CommitFailed> {
        if let Some(why) = &self.poisoned {
            return Err(CommitFailed::Poisoned(why.clone()));
        }
        let mut all: Vec<EntryBytes> = vec![];
        let back = self.wall.0.saturating_sub(now.0);
        if back > CLOCK_TOLERANCE_NANOS {
            let back = u64::try_from(back).unwrap_or(0);
            all.push(self.own_entry(Payload::Writer(WriterEvent::ClockAnomaly { back }), now)?);
        }
        let length = |own: &[EntryBytes]| frame_length(own.iter().chain(entries).map(EntryBytes::as_bytes)) as u64;
        if self.roll.is_none() && self.offset + length(&all) > self.options.segment_bytes {
            self.roll = Some(SegmentReason::Full);
        }
        let reason = self.roll;
        if reason.is_some() {
            if reason == Some(SegmentReason::NoSpace) {
                all.insert(0, self.own_entry(Payload::Writer(WriterEvent::NoSpace), now)?);
            }
            let open = self.open_entry(&[], now)?;
            all.insert(0, open);
        }
        if length(&all) > self.options.segment_bytes - BLOCK_BYTES as u64 {
            let bytes = usize::try_from(length(&all)).unwrap_or(usize::MAX);
            return Err(CommitFailed::TooLarge { bytes, segment: self.options.segment_bytes });
        }
        if let Some(reason) = reason {
            self.begin_segment(reason)?;
        }
        let own = all.len();
        all.extend_from_slice(entries);
        let error = match self.write_frame(&all, now) {
            Ok(appended) => return Ok(appended.into_iter().skip(own).collect()),
            Err(error) => error,
        };
        // INVARIANT: from here on nothing is written to this segment any more.
        if error.is_no_space() {
            self.roll = Some(SegmentReason::NoSpace);
            return Err(CommitFailed::NoSpace(error));
        }
        self.roll = Some(SegmentReason::SyncFailed);
        self.begin_segment(SegmentReason::SyncFailed)?;
        let count = all.len();
        if reason.is_none() {
            let open = self.open_entry(&all, now)?;
            all.push(open);
        }
        match self.write_frame(&all, now) {
            Ok(appended) => Ok(appended.into_iter().take(count).skip(own).collect()),
            Err(second) => Err(self.poison(&second)),
        }
    }

    /// Makes the next segment's file, whose header chains on to what counts of the present one.
    fn begin_segment(&mut self, reason: SegmentReason) -> Result<(), CommitFailed> {
        let writer = self.options.writer.clone();
        let (mut number, mut previous_length) = (self.number + 1, self.offset);
        // An attempt that failed may have happened all the same: its file has a header and nothing else.
        while self.disk.len(&segment_path(&writer, number))?.is_some() {
            (number, previous_length) = (number + 1, BLOCK_BYTES as u64);
        }
        let mut salt = [0; 16];
        salt.copy_from_slice(&self.draw()[..16]);
        let header = SegmentHeader {
            reason,
            log_id: self.log_id,
            writer: writer.clone(),
            incarnation: self.incarnation,
            number,
            first_seq: Seq(self.tree.size().0),
            previous_length,
            previous_frame: self.frame,
            salt,
            size: self.options.segment_bytes,
        };
        // Until the file is there nothing may be written to the old one, whose length this header states.
        self.roll = Some(reason);
        match self.disk.create_new(&segment_path(&writer, number), &header.to_bytes(), self.options.segment_bytes) {
            Ok(()) => {}
            Err(error) if error.is_no_space() => {
                self.roll = Some(SegmentReason::NoSpace);
                return Err(CommitFailed::NoSpace(error));
            }
            Err(error) => return Err(self.poison(&error)),
        }
        self.begun = Some(Edge {
            segment: number,
            frame: self.frame,
            tree: self.tree.clone(),
            tiles: Tiles { due: vec![], ..self.tiles.clone() },
            key: self.key.clone(),
        });
        (self.number, self.salt, self.offset, self.previous) = (number, salt, BLOCK_BYTES as u64, header.hash());
        Ok(())
    }

    /// Writes one frame and syncs it; the chain moves on only when both succeed.
    fn write_frame(&mut self, entries: &[EntryBytes], now: WallNanos) -> Result<Vec<Appended>, DiskError> {
        let path = segment_path(&self.options.writer, self.number);
        let first = self.tree.size().0;
        let bytes: Vec<&[u8]> = entries.iter().map(EntryBytes::as_bytes).collect();
        let mut leaves = vec![Hash::default(); bytes.len()];
        Sha3::leaves(&bytes, &mut leaves);
        let frame = frame_bytes(&bytes, first, now, &self.previous, &leaves_root(&leaves), &self.salt);
        let frame = frame.filter(|(f, _)| self.offset + f.len() as u64 <= self.options.segment_bytes);
        let (frame, hash) = frame.ok_or_else(|| DiskError {
            operation: "write",
            path: path.clone(),
            source: std::io::Error::other("the frame does not fit the segment"),
        })?;
        self.disk.write_at(&path, self.offset, &frame)?;
        self.disk.sync(&path)?;
        self.offset += frame.len() as u64;
        (self.previous, self.frame, self.roll) = (hash, hash, None);
        self.wall = self.wall.max(now);
        let mut appended = Vec::with_capacity(entries.len());
        for ((entry, leaf), seq) in entries.iter().zip(leaves).zip(first..) {
            self.tiles.push(&mut self.tree, leaf);
            apply(&mut self.open, Seq(seq), entry.id(), entry.effect());
            let receipt = AuditReceipt {
                log_id: self.log_id,
                entry: EntryRef { writer: self.options.writer.clone(), seq: Seq(seq) },
                id: entry.id(),
                leaf,
                plan: entry.plan(),
            };
            appended.push(Appended { receipt: Box::new(receipt), durability: entry.durability() });
        }
        Ok(appended)
    }

    fn poison(&mut self, error: &DiskError) -> CommitFailed {
        let why = error.to_string();
        self.poisoned = Some(why.clone());
        CommitFailed::Poisoned(why)
    }

    /// The entry that begins a segment, listing reads open after the entries that come before it in the frame.
    fn open_entry(&mut self, before: &[EntryBytes], now: WallNanos) -> Result<EntryBytes, CommitFailed> {
        let mut open = self.open.clone();
        for (entry, seq) in before.iter().zip(self.tree.size().0..) {
            apply(&mut open, Seq(seq), entry.id(), entry.effect());
        }
        let open = open.into_values().collect();
        self.own_entry(Payload::Writer(WriterEvent::Open { incarnation: self.incarnation, open }), now)
    }

    fn own_entry(&mut self, payload: Payload, now: WallNanos) -> Result<EntryBytes, CommitFailed> {
        let mut random = [0; 10];
        random.copy_from_slice(&self.draw()[..10]);
        let millis = u64::try_from(now.0).unwrap_or(0) / 1_000_000;
        let entry = Entry {
            id: EntryId(uuid::Builder::from_unix_timestamp_millis(millis, &random).into_uuid()),
            wall: now,
            reference: None,
            control_seq: ControlSeq(0),
            trace: None,
            actor: None,
            verb: Verb::Maintain,
            targets: vec![],
            outcome: Outcome::Success,
            reason: Reason::default(),
            measure: Measure::default(),
            payload,
        };
        encode(&entry)?.store(&self.disk).map_err(|e| match e.is_no_space() {
            true => CommitFailed::NoSpace(e),
            false => CommitFailed::Disk(e),
        })
    }

    /// The next 32 bytes out of the seed.
    fn draw(&mut self) -> [u8; 32] {
        self.drawn += 1;
        Sha3::digest(&[&self.options.seed, &self.drawn.to_be_bytes()]).0
    }
}

/// What an entry does to the set of open reads.
pub(crate) fn apply(open: &mut BTreeMap<Seq, OpenIntent>, seq: Seq, id: EntryId, effect: Effect) {
    match effect {
        Effect::None => {}
        Effect::Begins(granted_bytes) => {
            open.insert(seq, OpenIntent { intent: id, seq, granted_bytes });
        }
        Effect::Extends(intent, granted_bytes) => {
            open.values_mut().filter(|o| o.intent == intent).for_each(|o| o.granted_bytes = granted_bytes);
        }
        Effect::Ends(intent) => open.retain(|_, o| o.intent != intent),
    }
}
