//! What a writer's folder holds, and whether a crash explains it.
//!
//! Everything up to the last whole frame must be in order: numbers, headers, seqs, previous hashes, leaves roots. Behind
//! it there may be zeros, or the torn rest of one frame. Anything else is damage. Nothing is changed here but the copy
//! in `quarantine/`; nothing is ever truncated, so that a tamperer cannot pass for a crash. Before anything is built upon
//! what was found, it is made durable.

use crate::{
    append::{MAX_FRAME_BYTES, OpenRefused, TornTail, apply},
    disk::{Disk, DiskBlobs, DiskError},
    edge::{Edge, edge_path},
    format::{Effect, decode, peek_two},
    frames::Frames,
    keys::Genesis,
    note::{Checkpoint, SignedNote, VerifierKey, writer_origin},
    segment::{
        BLOCK_BYTES, BadHeader, SegmentHeader, checkpoint_path, leaves_root, parse_frame, segment_number, segment_path,
        writer_folder,
    },
    tiles::Tiles,
    tree::{Sha3, Tree, TreeHash, TreeSize},
};
use custody_model::{Hash, Kind, OpenIntent, Payload, Seq, WallNanos, WriterEvent, WriterId};
use std::collections::{BTreeMap, BTreeSet};

/// A chain as it was found.
pub(crate) struct Scanned {
    /// The last segment; 0: none.
    pub number: u64,
    /// How many bytes of it count.
    pub length: u64,
    pub incarnation: u64,
    /// The newest frame; zeros: none.
    pub frame: Hash,
    /// Where it is: segment, offset, length.
    newest: Option<(u64, u64, usize)>,
    pub tree: Tree<Sha3>,
    pub tiles: Tiles,
    pub open: BTreeMap<Seq, OpenIntent>,
    pub key: Option<(u64, String)>,
    /// What the newest checkpoint covers.
    pub signed: TreeSize,
    pub wall: WallNanos,
    /// Whether it ends with a `close` entry, or has no entries.
    pub closed: bool,
    pub torn: Option<Torn>,
    /// Leaf hashes above the size that was known to be durable.
    pub above: Vec<Hash>,
}

/// A torn tail, not yet put aside.
pub(crate) struct Torn {
    segment: u64,
    offset: u64,
    bytes: Vec<u8>,
}

impl Torn {
    /// Copies the bytes to `quarantine/`, durably.
    pub(crate) fn put_aside(&self, disk: &dyn Disk, writer: &WriterId) -> Result<TornTail, DiskError> {
        let Self { segment, offset, bytes } = self;
        disk.publish(&format!("{}/quarantine/{segment:012}-{offset}", writer_folder(writer)), bytes)?;
        let hash = Sha3::digest(&[bytes]);
        Ok(TornTail { segment: *segment, offset: *offset, length: bytes.len() as u64, hash })
    }
}

impl Torn {
    /// Writes zeros over the bytes, durably: for a copy, which has acknowledged them to nobody.
    pub(crate) fn wipe(&self, disk: &dyn Disk, writer: &WriterId) -> Result<(), DiskError> {
        let path = segment_path(writer, self.segment);
        disk.write_at(&path, self.offset, &vec![0; self.bytes.len()])?;
        disk.sync(&path)
    }
}

impl Scanned {
    /// Makes durable what may only be written: the newest frame, and a torn tail whose hash will be recorded. The
    /// process that wrote them may have ended before its sync, or after a failed one, and then the system may hold them
    /// for synced: so they are written again first.
    pub(crate) fn settle(&self, disk: &dyn Disk, writer: &WriterId) -> Result<(), DiskError> {
        let mut touched = BTreeSet::new();
        // What is signed was synced before.
        if let Some((segment, offset, length)) = self.newest.filter(|_| self.tree.size() > self.signed) {
            let path = segment_path(writer, segment);
            let bytes = disk.read_at(&path, offset, length)?;
            disk.write_at(&path, offset, &bytes)?;
            touched.insert(path);
        }
        if let Some(torn) = &self.torn {
            let path = segment_path(writer, torn.segment);
            disk.write_at(&path, torn.offset, &torn.bytes)?;
            touched.insert(path);
        }
        touched.iter().try_for_each(|path| disk.sync(path))
    }
}

/// What most of a segment's tail looks like.
const TAIL_WINDOW: &[u8] = &[0; 1 << 18];

struct Scan<'a> {
    disk: &'a dyn Disk,
    writer: &'a WriterId,
    log_id: Hash,
    checkpoint: Option<Checkpoint>,
    known: Option<(TreeSize, Hash)>,
    found: Scanned,
    /// The last entry's bytes.
    last: Vec<u8>,
    /// Entries about reads since the newest `writer open`, which says how things stood.
    reads: Vec<(Seq, Vec<u8>)>,
}

/// Reads a writer's folder: from its newest edge where that leads to what is signed, else from the first entry.
/// `known`: a size and root that the caller knows to be durable.
pub(crate) fn scan(
    disk: &dyn Disk,
    writer: &WriterId,
    genesis: &Genesis,
    known: Option<(TreeSize, Hash)>,
) -> Result<Scanned, OpenRefused> {
    let checkpoint = load_checkpoint(disk, writer, genesis)?;
    let Some((checkpoint, note)) = checkpoint else { return scan_from(disk, writer, genesis, None, known, None) };
    let edge = disk.read(&edge_path(writer))?.and_then(|bytes| Edge::parse(&bytes));
    // The key that the edge names has signed, and the signed root is above the edge.
    let key = |edge: &Edge| edge.key.as_ref().is_some_and(|(_, key)| signed_by(&note, key));
    let edge = edge.filter(|edge| edge.tree.size() <= checkpoint.size && key(edge));
    if let Some(edge) = edge {
        match scan_from(disk, writer, genesis, Some(checkpoint.clone()), known, Some(edge)) {
            Err(OpenRefused::CheckpointDisagrees { .. } | OpenRefused::Damaged { .. }) => {}
            scanned => return scanned,
        }
    }
    scan_from(disk, writer, genesis, Some(checkpoint), known, None)
}

fn signed_by(note: &SignedNote, key: &str) -> bool {
    key.parse::<VerifierKey>().is_ok_and(|key| note.verify(&key).is_ok())
}

fn scan_from(
    disk: &dyn Disk,
    writer: &WriterId,
    genesis: &Genesis,
    checkpoint: Option<Checkpoint>,
    known: Option<(TreeSize, Hash)>,
    edge: Option<Edge>,
) -> Result<Scanned, OpenRefused> {
    let found = Scanned {
        number: 0,
        length: 0,
        incarnation: 0,
        frame: Hash::default(),
        newest: None,
        tree: Tree::new(),
        tiles: Tiles::default(),
        open: BTreeMap::new(),
        key: None,
        signed: TreeSize(0),
        wall: WallNanos(0),
        closed: true,
        torn: None,
        above: vec![],
    };
    let log_id = genesis.log_id();
    let mut scan = Scan { disk, writer, log_id, checkpoint, known, found, last: vec![], reads: vec![] };
    let headers = scan.headers()?;
    let mut begin = 0;
    if let Some(edge) = edge {
        // Numbers begin with 1 and are dense. An edge without its segment is not believed.
        begin = usize::try_from(edge.segment - 1).unwrap_or(usize::MAX);
        if begin >= headers.len() {
            return scan.damaged(edge.segment, 0, "the segment is missing");
        }
        (scan.found.frame, scan.found.tree, scan.found.tiles, scan.found.key) =
            (edge.frame, edge.tree, edge.tiles, edge.key);
        scan.check_signed()?;
    }
    let mut ends = vec![];
    for (index, header) in headers.iter().enumerate().skip(begin) {
        let limit = headers.get(index + 1).map(|next| next.previous_length);
        let has_frames = scan.segment(header, limit)?;
        ends.push((header, scan.found.length, has_frames));
    }
    // The newest bytes behind frames are the torn ones. A last segment without any frame may stem from an opening that
    // went no further: what it found behind an earlier segment is then not recorded yet.
    for (index, (header, end, has_frames)) in ends.iter().enumerate().rev() {
        scan.tail(header, *end, index + 1 == ends.len())?;
        if *has_frames || scan.found.torn.is_some() {
            break;
        }
    }
    scan.finish()
}

fn load_checkpoint(
    disk: &dyn Disk,
    writer: &WriterId,
    genesis: &Genesis,
) -> Result<Option<(Checkpoint, SignedNote)>, OpenRefused> {
    let Some(bytes) = disk.read(&checkpoint_path(writer))? else { return Ok(None) };
    let checkpoint = SignedNote::parse(&bytes).and_then(|note| Ok((note.checkpoint()?, note))).ok();
    let origin = writer_origin(&genesis.warehouse, writer);
    match checkpoint.filter(|(c, _)| c.origin == origin) {
        Some(checkpoint) => Ok(Some(checkpoint)),
        None => Err(OpenRefused::CheckpointDamaged(writer.clone())),
    }
}

impl Scan<'_> {
    fn damaged<T>(&self, segment: u64, offset: u64, why: &'static str) -> Result<T, OpenRefused> {
        Err(OpenRefused::Damaged { writer: self.writer.clone(), segment, offset, why })
    }

    /// All headers, in order.
    fn headers(&mut self) -> Result<Vec<SegmentHeader>, OpenRefused> {
        let mut headers: Vec<SegmentHeader> = vec![];
        for name in self.disk.list(&format!("{}/seg", writer_folder(self.writer)))? {
            let expected = headers.len() as u64 + 1;
            if segment_number(&name) != Some(expected) {
                return self.damaged(expected, 0, "the segment is missing");
            }
            let path = segment_path(self.writer, expected);
            let header = match SegmentHeader::parse(&self.disk.read_at(&path, 0, BLOCK_BYTES)?) {
                Ok(header) => header,
                Err(BadHeader::Newer(format)) => return Err(OpenRefused::Newer(format)),
                Err(BadHeader::Damaged) => return self.damaged(expected, 0, "the segment header is damaged"),
            };
            if header.log_id != self.log_id || header.writer != *self.writer || header.number != expected {
                return self.damaged(expected, 0, "the segment belongs elsewhere");
            }
            if self.disk.len(&path)? != Some(header.size) {
                return self.damaged(expected, 0, "the segment has another size than its header says");
            }
            if headers.last().is_some_and(|last| last.incarnation > header.incarnation) {
                return self.damaged(expected, 0, "wrong incarnation");
            }
            headers.push(header);
        }
        Ok(headers)
    }

    /// Reads one segment's frames, up to `limit` if the next segment says it. Whether it has any.
    fn segment(&mut self, header: &SegmentHeader, limit: Option<u64>) -> Result<bool, OpenRefused> {
        let number = header.number;
        let size = self.found.tree.size().0;
        if header.first_seq.0 != size || header.previous_frame != self.found.frame {
            return self.damaged(number, 0, "the segment does not continue the one before");
        }
        if number == 1 && header.previous_length != 0 {
            return self.damaged(number, 0, "the first segment says that there is one before");
        }
        let mut frames = Frames::new(self.disk, header, BLOCK_BYTES as u64, limit.unwrap_or(header.size));
        let mut previous = header.hash();
        while let Some(found) = frames.next()? {
            let (offset, frame) = (found.offset, &found.frame);
            if frame.first_seq != self.found.tree.size().0 {
                return self.damaged(number, offset, "wrong seq");
            }
            if frame.previous != previous {
                return self.damaged(number, offset, "wrong previous hash");
            }
            let entries: Vec<&[u8]> = found.entries().collect();
            let mut leaves = vec![Hash::default(); entries.len()];
            Sha3::leaves(&entries, &mut leaves);
            if leaves_root(&leaves) != frame.leaves_root {
                return self.damaged(number, offset, "wrong leaves root");
            }
            for (entry, leaf) in entries.into_iter().zip(leaves) {
                self.entry(entry, leaf, number, offset)?;
            }
            (previous, self.found.frame) = (frame.hash, frame.hash);
            self.found.newest = Some((number, offset, frame.total));
            self.found.wall = self.found.wall.max(frame.wall);
        }
        let at = frames.offset();
        if limit.is_some_and(|limit| limit != at) {
            return self.damaged(number, at, "a frame is damaged");
        }
        (self.found.number, self.found.length) = (number, at);
        self.found.incarnation = header.incarnation;
        Ok(at > BLOCK_BYTES as u64)
    }

    /// At the size that is signed, the root is the one that is signed.
    fn check_signed(&self) -> Result<(), OpenRefused> {
        if let Some(checkpoint) = self.checkpoint.as_ref().filter(|c| c.size == self.found.tree.size())
            && self.found.tree.root() != checkpoint.root
        {
            return Err(OpenRefused::CheckpointDisagrees { writer: self.writer.clone(), size: checkpoint.size.0 });
        }
        if let Some((size, root)) = self.known.filter(|(size, _)| *size == self.found.tree.size())
            && self.found.tree.root() != root
        {
            return Err(OpenRefused::CheckpointDisagrees { writer: self.writer.clone(), size: size.0 });
        }
        Ok(())
    }

    fn entry(&mut self, bytes: &[u8], leaf: Hash, segment: u64, offset: u64) -> Result<(), OpenRefused> {
        let seq = Seq(self.found.tree.size().0);
        self.found.tiles.push(&mut self.found.tree, leaf);
        if self.known.is_some_and(|(size, _)| size < self.found.tree.size()) {
            self.found.above.push(leaf);
        }
        self.last.clear();
        self.last.extend(bytes);
        self.check_signed()?;
        let kind = peek_two(bytes).and_then(|(_, kind)| u16::try_from(kind).ok()).and_then(Kind::from_number);
        match kind {
            Some(Kind::ReadIntent | Kind::ReadProgress | Kind::ReadOutcome) => {
                self.reads.push((seq, bytes.to_vec()));
                return Ok(());
            }
            Some(Kind::Key | Kind::Writer) => {}
            _ => return Ok(()),
        }
        let Ok(entry) = decode(bytes, &DiskBlobs(self.disk)) else {
            return self.damaged(segment, offset, "an entry cannot be read");
        };
        match entry.payload {
            Payload::Key(record) => self.found.key = Some((record.epoch, record.vkey)),
            Payload::Writer(WriterEvent::Open { open, .. }) => {
                // It says which reads are open at that moment: nothing before it matters any more.
                self.reads.clear();
                self.found.open = open.into_iter().map(|o| (o.seq, o)).collect();
            }
            _ => {}
        }
        Ok(())
    }

    /// What comes after a segment's newest frame.
    fn tail(&mut self, header: &SegmentHeader, offset: u64, is_last: bool) -> Result<(), OpenRefused> {
        let (number, path) = (header.number, segment_path(self.writer, header.number));
        let mut used = 0;
        for at in (offset..header.size).step_by(TAIL_WINDOW.len()) {
            let window = self.disk.read_at(&path, at, TAIL_WINDOW.len())?;
            // Whole windows of zeros, which is nearly all of them, are told by one comparison.
            if TAIL_WINDOW.get(..window.len()) != Some(&window[..]) {
                let last = window.iter().rposition(|b| *b != 0).unwrap_or(0) as u64;
                used = (at - offset + last + 1).next_multiple_of(BLOCK_BYTES as u64);
            }
        }
        if used == 0 {
            return Ok(());
        }
        if used > MAX_FRAME_BYTES as u64 && !is_last {
            return self.damaged(number, offset, "more than one frame follows");
        }
        let used = usize::try_from(used).unwrap_or(usize::MAX);
        let rest = self.disk.read_at(&path, offset, used)?;
        // Behind a segment that a later one has cut short there may be whole frames that nobody was told of.
        let later = |at: usize| parse_frame(&rest[at..], &header.salt).is_some();
        if is_last && (BLOCK_BYTES..used).step_by(BLOCK_BYTES).any(later) {
            return self.damaged(number, offset, "a valid frame follows");
        }
        if used > MAX_FRAME_BYTES {
            return self.damaged(number, offset, "more than one frame follows");
        }
        self.found.torn = Some(Torn { segment: number, offset, bytes: rest });
        Ok(())
    }

    fn finish(mut self) -> Result<Scanned, OpenRefused> {
        let holds = self.found.tree.size();
        if let Some(checkpoint) = &self.checkpoint {
            if checkpoint.size > holds {
                return Err(OpenRefused::BelowCheckpoint { holds: holds.0, says: checkpoint.size.0 });
            }
            self.found.signed = checkpoint.size;
        }
        if let Some((known, _)) = self.known.filter(|(known, _)| *known > holds) {
            return Err(OpenRefused::BelowCheckpoint { holds: holds.0, says: known.0 });
        }
        for (seq, bytes) in std::mem::take(&mut self.reads) {
            let Ok(entry) = decode(&bytes, &DiskBlobs(self.disk)) else {
                return self.damaged(self.found.number, 0, "an entry cannot be read");
            };
            apply(&mut self.found.open, seq, entry.id, Effect::of(&entry));
        }
        if holds.0 > 0 {
            let close = decode(&self.last, &DiskBlobs(self.disk)).map(|e| e.payload);
            self.found.closed = close == Ok(Payload::Writer(WriterEvent::Close));
        }
        Ok(self.found)
    }
}
