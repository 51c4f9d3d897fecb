//! A second copy of one writer's chain, growing change by change as the first one does.
//!
//! What holds here: a copy takes what continues it and nothing else: every frame is parsed, its entries are hashed anew and
//! its place is checked before it is written; what is taken is durable when `take` returns, so that an entry acknowledged by
//! a copy survives the loss of the first one. A change that is there already is fine; one that says otherwise is refused,
//! and the copy stays as it was.
//!
//! Absent: the way between the two processes, and judging signatures, which `verify` does to a copy as to any ledger.

use crate::{
    append::OpenRefused,
    disk::{Disk, DiskError, DiskLock},
    edge::edge_path,
    format::{Value, blob_ref, from_bytes, to_bytes},
    frames::Frames,
    keys::{BadGenesis, Genesis, KeyError},
    note::{SignedNote, writer_origin},
    recover::scan,
    segment::{BLOCK_BYTES, SegmentHeader, checkpoint_path, leaves_root, parse_frame, segment_path, writer_folder},
    tree::{Sha3, Tree, TreeHash},
};
use custody_model::{Hash, WriterId};

/// Bytes of frames that are sent at once, unless one frame is longer.
const STEP_BYTES: usize = 1 << 20;

/// One step of growth.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Change {
    /// A segment begins.
    Begin {
        /// Its first 512 bytes.
        header: Vec<u8>,
    },
    /// Whole frames of the newest segment, durable at the first copy.
    Frames {
        /// Which segment.
        number: u64,
        /// From which byte.
        offset: u64,
        /// The frames.
        bytes: Vec<u8>,
    },
    /// A whole file: a control entry, a blob, a checkpoint, an edge, a tile, a torn tail.
    File {
        /// Below the ledger's folder.
        path: String,
        /// What it holds.
        bytes: Vec<u8>,
    },
}

impl Change {
    /// `[0, header]`, `[1, number, offset, frames]`, `[2, path, bytes]`.
    pub fn to_bytes(&self) -> Vec<u8> {
        let bytes = |b: &Vec<u8>| Value::Bytes(b.clone());
        to_bytes(&Value::Array(match self {
            Self::Begin { header } => vec![Value::Uint(0), bytes(header)],
            Self::Frames { number, offset, bytes: frames } => {
                vec![Value::Uint(1), Value::Uint(*number), Value::Uint(*offset), bytes(frames)]
            }
            Self::File { path, bytes: file } => vec![Value::Uint(2), Value::Text(path.clone()), bytes(file)],
        }))
    }

    /// Reads what `to_bytes` writes, and nothing else.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let Value::Array(items) = from_bytes(bytes).ok()? else { return None };
        let mut items = items.into_iter();
        let change = match (items.next()?, items.next()?, items.next(), items.next()) {
            (Value::Uint(0), Value::Bytes(header), None, None) => Self::Begin { header },
            (Value::Uint(1), Value::Uint(number), Some(Value::Uint(offset)), Some(Value::Bytes(bytes))) => {
                Self::Frames { number, offset, bytes }
            }
            (Value::Uint(2), Value::Text(path), Some(Value::Bytes(bytes)), None) => Self::File { path, bytes },
            _ => return None,
        };
        items.next().is_none().then_some(change)
    }
}

/// How far a copy has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Held {
    /// The newest segment; 0: none.
    pub number: u64,
    /// How many bytes of it.
    pub length: u64,
    /// How many entries in all.
    pub size: u64,
}

/// A change that a copy does not take, or a copy that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CopyRefused {
    /// Another ledger.
    #[error("the copy is of another ledger")]
    OtherLedger,
    /// Another process keeps it.
    #[error("the copy of writer {0} is already open")]
    Open(WriterId),
    /// It does not continue what the copy holds.
    #[error("the copy holds another history: {0}")]
    OtherHistory(&'static str),
    /// Bytes that are none of a ledger.
    #[error("not a change of a ledger: {0}")]
    Malformed(&'static str),
    /// What the copy holds is damaged.
    #[error("the copy is damaged: {0}")]
    Damaged(String),
    /// The disk.
    #[error(transparent)]
    Disk(#[from] DiskError),
}

/// A copy of one writer's chain, open for growing.
pub struct Copied<D> {
    disk: D,
    _lock: DiskLock,
    warehouse: String,
    log_id: Hash,
    writer: WriterId,
    number: u64,
    length: u64,
    salt: [u8; 16],
    /// What the next frame has as previous hash.
    previous: Hash,
    /// The newest frame.
    frame: Hash,
    tree: Tree<Sha3>,
}

impl<D: Disk> Copied<D> {
    /// Opens, and where needed begins, the copy of a writer's chain. A tail that was being written when the copy stopped was
    /// acknowledged to nobody: it is written over with zeros.
    pub fn open(disk: D, genesis: &[u8], writer: &WriterId) -> Result<Self, CopyRefused> {
        let parsed = Genesis::parse(genesis).map_err(|_: BadGenesis| CopyRefused::Malformed("no genesis"))?;
        match parsed.store(&disk) {
            Ok(()) => {}
            Err(KeyError::Disk(e)) => return Err(e.into()),
            Err(_) => return Err(CopyRefused::OtherLedger),
        }
        let lock = disk.lock(&format!("{}/LOCK", writer_folder(writer)))?;
        let lock = lock.ok_or_else(|| CopyRefused::Open(writer.clone()))?;
        let found = scan(&disk, writer, &parsed, None).map_err(|e| match e {
            OpenRefused::Disk(e) => CopyRefused::Disk(e),
            other => CopyRefused::Damaged(other.to_string()),
        })?;
        found.settle(&disk, writer)?;
        if let Some(torn) = &found.torn {
            torn.wipe(&disk, writer)?;
        }
        let (mut salt, mut previous) = ([0; 16], found.frame);
        if found.number > 0 {
            let header = disk.read_at(&segment_path(writer, found.number), 0, BLOCK_BYTES)?;
            let header = SegmentHeader::parse(&header).map_err(|_| CopyRefused::Damaged("a segment header".into()))?;
            salt = header.salt;
            if found.length == BLOCK_BYTES as u64 {
                previous = header.hash();
            }
        }
        Ok(Self {
            disk,
            _lock: lock,
            log_id: parsed.log_id(),
            warehouse: parsed.warehouse,
            writer: writer.clone(),
            number: found.number,
            length: found.length,
            salt,
            previous,
            frame: found.frame,
            tree: found.tree,
        })
    }

    /// How far the copy has come.
    pub fn held(&self) -> Held {
        Held { number: self.number, length: self.length, size: self.tree.size().0 }
    }

    /// Takes a change, durably.
    pub fn take(&mut self, change: &Change) -> Result<(), CopyRefused> {
        match change {
            Change::Begin { header } => self.begin(header),
            Change::Frames { number, offset, bytes } => self.frames(*number, *offset, bytes),
            Change::File { path, bytes } => self.file(path, bytes),
        }
    }

    fn begin(&mut self, bytes: &[u8]) -> Result<(), CopyRefused> {
        let header = SegmentHeader::parse(bytes).map_err(|_| CopyRefused::Malformed("a segment header"))?;
        if header.log_id != self.log_id || header.writer != self.writer {
            return Err(CopyRefused::OtherLedger);
        }
        let path = segment_path(&self.writer, header.number);
        if header.number <= self.number {
            return match self.disk.read_at(&path, 0, BLOCK_BYTES)? == bytes {
                true => Ok(()),
                false => Err(CopyRefused::OtherHistory("another segment has this number")),
            };
        }
        let continues = header.number == self.number + 1
            && header.first_seq.0 == self.tree.size().0
            && header.previous_frame == self.frame
            && header.previous_length == self.length;
        if !continues {
            return Err(CopyRefused::OtherHistory("the segment does not continue the one before"));
        }
        self.disk.create_new(&path, bytes, header.size)?;
        (self.number, self.length) = (header.number, BLOCK_BYTES as u64);
        (self.salt, self.previous) = (header.salt, header.hash());
        Ok(())
    }

    fn frames(&mut self, number: u64, offset: u64, bytes: &[u8]) -> Result<(), CopyRefused> {
        let path = segment_path(&self.writer, number);
        let end = offset.saturating_add(bytes.len() as u64);
        if number > self.number || (number == self.number && offset > self.length) {
            return Err(CopyRefused::OtherHistory("the frames do not continue those before"));
        }
        let known = if number < self.number { end } else { end.min(self.length) };
        let known = usize::try_from(known - offset).unwrap_or(usize::MAX);
        let (before, mut rest) = bytes.split_at(known);
        if self.disk.read_at(&path, offset, known)? != before {
            return Err(CopyRefused::OtherHistory("other frames are there"));
        }
        while !rest.is_empty() {
            let frame = parse_frame(rest, &self.salt).ok_or(CopyRefused::Malformed("a frame"))?;
            let entries: Vec<&[u8]> = frame.entries.iter().map(|range| &rest[range.clone()]).collect();
            let mut leaves = vec![Hash::default(); entries.len()];
            Sha3::leaves(&entries, &mut leaves);
            if frame.first_seq != self.tree.size().0 || frame.previous != self.previous {
                return Err(CopyRefused::OtherHistory("a frame does not continue the one before"));
            }
            if leaves_root(&leaves) != frame.leaves_root {
                return Err(CopyRefused::Malformed("a frame whose entries are not those of its root"));
            }
            // INVARIANT: one frame at most is unsynced, so that what a power failure leaves is a torn tail.
            self.disk.write_at(&path, self.length, &rest[..frame.total])?;
            self.disk.sync(&path)?;
            leaves.into_iter().for_each(|leaf| self.tree.push(leaf));
            (self.previous, self.frame) = (frame.hash, frame.hash);
            self.length += frame.total as u64;
            rest = &rest[frame.total..];
        }
        Ok(())
    }

    fn file(&mut self, path: &str, bytes: &[u8]) -> Result<(), CopyRefused> {
        match kind_of(path, &self.writer) {
            Some(FileKind::Once) => {
                if path.starts_with("blob/") && path != format!("blob/{}", blob_ref(bytes).hash) {
                    return Err(CopyRefused::Malformed("a blob under another name"));
                }
                let taken = !self.disk.claim(path, bytes)?;
                if taken && self.disk.read(path)?.as_deref() != Some(bytes) {
                    return Err(CopyRefused::OtherHistory("another file has this name"));
                }
                Ok(())
            }
            Some(FileKind::Checkpoint) => self.checkpoint(path, bytes),
            Some(FileKind::Newest) => Ok(self.disk.publish(path, bytes)?),
            None => Err(CopyRefused::Malformed("a file of another kind")),
        }
    }

    /// A checkpoint that covers exactly what is here is stored; one of less is a past that a newer one follows.
    fn checkpoint(&mut self, path: &str, bytes: &[u8]) -> Result<(), CopyRefused> {
        let note = SignedNote::parse(bytes).and_then(|note| note.checkpoint());
        let note = note.map_err(|_| CopyRefused::Malformed("a checkpoint"))?;
        if note.origin != writer_origin(&self.warehouse, &self.writer) || note.size > self.tree.size() {
            return Err(CopyRefused::OtherHistory("the checkpoint is of other entries"));
        }
        if note.size < self.tree.size() {
            return Ok(());
        }
        if note.root != self.tree.root() {
            return Err(CopyRefused::OtherHistory("the checkpoint has another root"));
        }
        Ok(self.disk.publish(path, bytes)?)
    }
}

/// How a file of a copy comes about.
#[derive(Clone, Copy, PartialEq, Eq)]
enum FileKind {
    /// Made once, never changed.
    Once,
    /// The newest checkpoint.
    Checkpoint,
    /// What helps opening; the newest counts.
    Newest,
}

/// What may be in a copy of a writer's chain besides segments.
fn kind_of(path: &str, writer: &WriterId) -> Option<FileKind> {
    let plain = |name: &str| !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    if let Some(name) = path.strip_prefix("control/").or_else(|| path.strip_prefix("blob/")) {
        return plain(name).then_some(FileKind::Once);
    }
    if path == checkpoint_path(writer) {
        return Some(FileKind::Checkpoint);
    }
    if path == edge_path(writer) {
        return Some(FileKind::Newest);
    }
    let rest = path.strip_prefix(&format!("{}/", writer_folder(writer)))?;
    let below = rest.strip_prefix("tile/").or_else(|| rest.strip_prefix("quarantine/"))?;
    below.split('/').all(plain).then_some(FileKind::Newest)
}

/// Whether a file that changed at the first copy belongs into the copy of this writer's chain.
pub fn is_copied(path: &str, writer: &WriterId) -> bool {
    kind_of(path, writer).is_some()
}

/// The number of a segment, if a path is one of this writer's.
pub fn segment_of(path: &str, writer: &WriterId) -> Option<u64> {
    let name = path.strip_prefix(&format!("{}/seg/", writer_folder(writer)))?;
    crate::segment::segment_number(name)
}

/// Gives `take` what a copy lacks of a chain, up to `end`, which says where the first copy is durable: segment and offset.
/// Control entries and blobs that it does not have come first, the checkpoint last.
///
/// Refuses a copy that holds more than the chain.
pub fn catch_up<E: From<CopyRefused>>(
    disk: &dyn Disk,
    writer: &WriterId,
    held: Held,
    end: &dyn Fn() -> (u64, u64),
    has: &dyn Fn(&str) -> bool,
    take: &mut dyn FnMut(Change) -> Result<(), E>,
) -> Result<(), E> {
    let read = |path: String| disk.read(&path).map(|bytes| bytes.map(|bytes| Change::File { path, bytes }));
    // INVARIANT: read before the end is asked for, so that it covers no entry beyond the end.
    let newest = [read(edge_path(writer)), read(checkpoint_path(writer))].map(|file| file.map_err(CopyRefused::Disk));
    let end = end();
    if (held.number, held.length) > end {
        return Err(CopyRefused::OtherHistory("the copy holds more than the ledger").into());
    }
    for folder in ["blob".to_string(), "control".to_string(), format!("{}/quarantine", writer_folder(writer))] {
        for name in disk.list(&folder).map_err(CopyRefused::Disk)? {
            let path = format!("{folder}/{name}");
            if !has(&path)
                && let Some(file) = read(path).map_err(CopyRefused::Disk)?
            {
                take(file)?;
            }
        }
    }
    for number in held.number.max(1)..=end.0 {
        segment(disk, writer, number, held, end, take)?;
    }
    for file in newest {
        file?.map(&mut *take).transpose()?;
    }
    Ok(())
}

/// Up to where a chain that nobody writes is whole: its newest segment, and the end of the frames in it.
pub fn end_of(disk: &dyn Disk, writer: &WriterId) -> Result<(u64, u64), CopyRefused> {
    let names = disk.list(&format!("{}/seg", writer_folder(writer)))?;
    let Some(number) = names.iter().filter_map(|name| crate::segment::segment_number(name)).max() else {
        return Ok((0, 0));
    };
    let header = disk.read_at(&segment_path(writer, number), 0, BLOCK_BYTES)?;
    let header = SegmentHeader::parse(&header).map_err(|_| CopyRefused::Damaged("a segment header".into()))?;
    let mut frames = Frames::new(disk, &header, BLOCK_BYTES as u64, header.size);
    while frames.next()?.is_some() {}
    Ok((number, frames.offset()))
}

fn segment<E: From<CopyRefused>>(
    disk: &dyn Disk,
    writer: &WriterId,
    number: u64,
    held: Held,
    end: (u64, u64),
    take: &mut dyn FnMut(Change) -> Result<(), E>,
) -> Result<(), E> {
    let head = |number| -> Result<(Vec<u8>, SegmentHeader), CopyRefused> {
        let bytes = disk.read_at(&segment_path(writer, number), 0, BLOCK_BYTES)?;
        let header = SegmentHeader::parse(&bytes).map_err(|_| CopyRefused::Damaged("a segment header".into()))?;
        Ok((bytes, header))
    };
    let (bytes, header) = head(number)?;
    // Of the segment that the copy has, too: another history has another header.
    take(Change::Begin { header: bytes })?;
    let until = if number == end.0 { end.1 } else { head(number + 1)?.1.previous_length };
    let from = if number == held.number { held.length } else { BLOCK_BYTES as u64 };
    if from > until {
        return Err(CopyRefused::OtherHistory("the copy holds more than the ledger").into());
    }
    let mut frames = Frames::new(disk, &header, from, until);
    let (mut offset, mut step): (u64, Vec<u8>) = (from, vec![]);
    while let Some(found) = frames.next().map_err(CopyRefused::Disk)? {
        if !step.is_empty() && step.len() + found.bytes().len() > STEP_BYTES {
            let bytes = std::mem::take(&mut step);
            let next = offset + bytes.len() as u64;
            take(Change::Frames { number, offset, bytes })?;
            offset = next;
        }
        step.extend(found.bytes());
    }
    if frames.offset() != until {
        return Err(CopyRefused::Damaged(format!("segment {number} of writer {writer} lacks frames")).into());
    }
    if step.is_empty() { Ok(()) } else { take(Change::Frames { number, offset, bytes: step }) }
}

#[cfg(test)]
mod tests;
