//! One writer's chain from its segments, for the verifier only: what each entry must say, and that frames, segments,
//! tiles and keys agree with each other.

use super::{
    CONTROL_KINDS, Place, Run, WriterReport,
    cbor::{self, Value},
    facts::{Blob, Facts, Head, Key, Recovery, Special, facts},
    note::{Checkpoint, Vkey},
    segment::{
        FoundFrame, FoundHeader, Header, MAX_FRAME, Reason, SECTOR, frame, frame_follows, frame_length, header, zeros,
    },
    tree::{Digest32, Part, leaf, node, parts, root, root_of_parts, sha3},
};
use crate::verify::report::Grade;
use custody_model::WriterId;

const WRITER: u64 = 42;
const FIRST_SEGMENT: u64 = 1;
const HASHES_IN_A_TILE: usize = 256;
const BLOCK: usize = 256;

/// Who the ledger is, from its genesis.
pub(super) struct Log {
    pub(super) id: Digest32,
    pub(super) origin: String,
    pub(super) root_text: String,
    pub(super) root: Vkey,
}

impl Log {
    pub(super) fn read(bytes: &[u8]) -> Result<Self, String> {
        let genesis = cbor::read(bytes).map_err(|why| format!("not canonical: {why}"))?;
        let text = |key| genesis.get(key).and_then(Value::text).map(str::to_string);
        match genesis.get(0).and_then(Value::unsigned) {
            Some(1) => {}
            Some(n) => return Err(format!("ledger format {n} is newer than this verifier reads (1)")),
            None => return Err("names no format".into()),
        }
        let (origin, root_text) = (text(1).ok_or("names no origin")?, text(3).ok_or("names no root key")?);
        let root = Vkey::parse(&root_text).ok_or("its root key is malformed")?;
        Ok(Self { id: sha3(&[bytes]), origin, root_text, root })
    }

    pub(super) fn origin_of(&self, writer: &WriterId) -> String {
        format!("{}/sha3-256/{writer}", self.origin)
    }

    pub(super) fn writer_of(&self, origin: &str) -> Option<WriterId> {
        WriterId::new(origin.strip_prefix(&self.origin)?.strip_prefix("/sha3-256/")?)
    }
}

/// A blob that an entry names; where the blob is the entry's payload, `payload_of` is the entry's kind.
pub(super) struct BlobName {
    pub(super) seq: u64,
    pub(super) blob: Blob,
    pub(super) payload_of: Option<u64>,
}

/// What was read of a writer.
pub(super) struct Chain {
    pub(super) writer: WriterId,
    pub(super) leaves: Vec<Digest32>,
    /// Roots over each 256 leaves: worked out once, so that many roots cost little more than one.
    blocks: Vec<Digest32>,
    /// Whole subtrees of the block that is not full yet, in falling sizes.
    open: Vec<Part>,
    pub(super) walls: Vec<i64>,
    pub(super) ids: Vec<[u8; 16]>,
    /// Control number and seq of each control entry.
    pub(super) control: Vec<(u64, usize)>,
    /// `key` entries with their seqs.
    pub(super) keys: Vec<(u64, Key)>,
    pub(super) blobs: Vec<BlobName>,
    /// Heads that entries hold, with the seqs of the entries.
    pub(super) heads: Vec<(u64, Head)>,
    pub(super) signed: Option<u64>,
    pub(super) segments: u64,
    /// The last entry is `writer close`.
    pub(super) closed: bool,
    /// The walk stopped at tampering: sizes and roots beyond that point mean nothing.
    pub(super) damaged: bool,
}

impl Chain {
    fn new(writer: &WriterId) -> Self {
        Self {
            writer: writer.clone(),
            leaves: vec![],
            blocks: vec![],
            open: vec![],
            walls: vec![],
            ids: vec![],
            control: vec![],
            keys: vec![],
            blobs: vec![],
            heads: vec![],
            signed: None,
            segments: 0,
            closed: false,
            damaged: false,
        }
    }

    pub(super) fn report(&self) -> WriterReport {
        WriterReport {
            writer: self.writer.clone(),
            size: self.leaves.len() as u64,
            signed: self.signed,
            segments: self.segments,
            closed: self.closed,
        }
    }

    pub(super) fn is_control(&self, seq: usize) -> bool {
        self.control.iter().any(|(_, s)| *s == seq)
    }

    /// The root over the first entries; `None`: there are not so many.
    pub(super) fn root_at(&self, size: u64) -> Option<Digest32> {
        usize::try_from(size).ok().filter(|n| *n <= self.leaves.len()).map(|n| self.range_root(0, n))
    }

    /// The root over some entries: the recursive definition, down to whole blocks.
    fn range_root(&self, from: usize, to: usize) -> Digest32 {
        let length = to - from;
        if length == BLOCK
            && from.is_multiple_of(BLOCK)
            && let Some(known) = self.blocks.get(from / BLOCK)
        {
            return *known;
        }
        if length <= BLOCK {
            return root(&self.leaves[from..to]);
        }
        let middle = from + length.next_power_of_two() / 2;
        node(&self.range_root(from, middle), &self.range_root(middle, to))
    }

    /// Takes the subtrees of a frame, whose leaves are pushed: their hashes need not be worked out twice.
    fn grow(&mut self, parts: impl IntoIterator<Item = Part>) {
        for (mut level, mut hash) in parts {
            while let Some((_, left)) = self.open.pop_if(|(l, _)| *l == level) {
                (level, hash) = (level + 1, node(&left, &hash));
            }
            match 1 << level == BLOCK {
                true => self.blocks.push(hash),
                false => self.open.push((level, hash)),
            }
        }
    }

    fn push(&mut self, leaf: Digest32, facts: Facts) {
        let seq = self.leaves.len();
        let at = seq as u64;
        self.leaves.push(leaf);
        self.walls.push(facts.wall);
        self.ids.push(facts.id);
        if CONTROL_KINDS.contains(&facts.kind) {
            self.control.push((facts.control, seq));
        }
        self.closed = matches!(facts.special, Special::Close);
        let named = facts.blobs.into_iter().map(|blob| (blob, None));
        let payload = facts.payload_blob.into_iter().map(|blob| (blob, Some(facts.kind)));
        self.blobs.extend(named.chain(payload).map(|(blob, payload_of)| BlobName { seq: at, blob, payload_of }));
        match facts.special {
            Special::Key(key) => self.keys.push((at, key)),
            Special::Heads(heads) => self.heads.extend(heads.into_iter().map(|h| (at, h))),
            Special::None | Special::Close | Special::Recovery(_) => {}
        }
    }
}

/// One segment that has a header.
struct Opened {
    number: u64,
    header: Header,
}

/// Where the walk stands.
#[derive(Default)]
struct Cursor {
    /// Where the last frame ends in the segment just read.
    end: usize,
    /// The newest frame; zeros: none.
    newest: Digest32,
    /// What the next frame names as previous hash: the newest frame of its segment, or the segment's header.
    previous: Digest32,
    incarnation: u64,
    /// What lies beyond the frames of segments that were left in the middle, since the last frame.
    left: Vec<Left>,
}

/// Bytes beyond the last frame that counts.
struct Left {
    segment: u64,
    at: usize,
    bytes: Vec<u8>,
    /// Whether an entry must tell of them: a crash tore them, not a failed sync.
    torn: bool,
}

impl Run<'_> {
    /// Reads a writer's segments in order, up to the first contradiction.
    pub(super) fn walk(&mut self, log: &Log, writer: &WriterId, note: Option<&Checkpoint>) -> Chain {
        let mut chain = Chain::new(writer);
        let before = self.findings.len();
        let opened = self.headers(log, writer);
        let mut cursor = Cursor::default();
        for (i, segment) in opened.iter().enumerate() {
            if self.worst_since(before) > Grade::Notice {
                break;
            }
            chain.segments += 1;
            let next = opened.get(i + 1).map(|o| &o.header);
            self.segment(&mut chain, &mut cursor, segment, next, note.map_or(0, |n| n.size));
        }
        chain.damaged = self.worst_since(before) > Grade::Notice;
        if !chain.damaged {
            self.check_tiles(&chain);
            self.check_edge(&chain, &opened);
            chain.damaged = self.worst_since(before) > Grade::Notice;
        }
        chain
    }

    fn worst_since(&self, before: usize) -> Grade {
        self.findings[before..].iter().map(|f| f.grade).max().unwrap_or(Grade::Notice)
    }

    /// The headers of all segments that have one: dense from the first, and nothing but zeros ahead of the last.
    fn headers(&mut self, log: &Log, writer: &WriterId) -> Vec<Opened> {
        let mut opened: Vec<Opened> = vec![];
        let mut ahead = false;
        for name in self.list(&format!("w/{writer}/seg")) {
            let path = format!("w/{writer}/seg/{name}");
            let number = name.strip_suffix(".seg").and_then(|n| n.parse::<u64>().ok());
            let Some(number) = number.filter(|n| format!("{n:012}.seg") == name) else {
                self.find(Grade::Notice, Place::file(&path), "not a segment");
                continue;
            };
            let place = Place::segment(writer, number, 0);
            let start = match self.ledger.read_start(&path, SECTOR) {
                Ok(start) => start.unwrap_or_default(),
                Err(why) => {
                    self.unverifiable(place, why.to_string());
                    break;
                }
            };
            let header = match header(&start) {
                FoundHeader::Zeros => {
                    ahead = true;
                    continue;
                }
                FoundHeader::Newer(n) => {
                    self.unverifiable(place, format!("ledger format {n} is newer than this verifier reads (1)"));
                    break;
                }
                FoundHeader::Bad(why) => {
                    self.tampered(place, why);
                    break;
                }
                FoundHeader::Header(header) => *header,
            };
            let expected = opened.last().map_or(FIRST_SEGMENT, |o| o.number + 1);
            if number != expected || ahead {
                self.tampered(place, format!("segment {expected} is missing"));
                break;
            }
            if header.log != log.id || header.writer != writer.as_str() || header.number != number {
                self.tampered(place, "the header is of another segment");
                break;
            }
            opened.push(Opened { number, header });
        }
        opened
    }

    /// Reads one segment: its header against what came before, then its frames, then what lies beyond them.
    fn segment(
        &mut self,
        chain: &mut Chain,
        cursor: &mut Cursor,
        segment: &Opened,
        next: Option<&Header>,
        signed: u64,
    ) {
        let path = format!("w/{}/seg/{:012}.seg", chain.writer, segment.number);
        let place = Place::segment(&chain.writer, segment.number, 0);
        let header = &segment.header;
        // A segment whose first frame was never written is followed by another one for the same reason.
        let follows = header.first_seq == chain.leaves.len() as u64
            && header.previous_length == cursor.end as u64
            && header.previous_hash == cursor.newest
            && (header.reason == Reason::First || chain.segments > 1)
            && (header.reason != Reason::First || chain.leaves.is_empty())
            && header.incarnation >= cursor.incarnation;
        if !follows {
            return self.tampered(place, "the header does not continue the segment before");
        }
        let mut bytes = std::mem::take(&mut self.buffer);
        match self.ledger.read_into(&path, &mut bytes) {
            Ok(true) => self.frames_of(chain, cursor, segment, next, signed, &mut bytes),
            Ok(false) => {}
            Err(why) => self.unverifiable(Place::file(&path), why.to_string()),
        }
        self.buffer = bytes;
    }

    /// The frames of one segment, and what lies beyond them.
    fn frames_of(
        &mut self,
        chain: &mut Chain,
        cursor: &mut Cursor,
        segment: &Opened,
        next: Option<&Header>,
        signed: u64,
        bytes: &mut Vec<u8>,
    ) {
        let path = format!("w/{}/seg/{:012}.seg", chain.writer, segment.number);
        let place = Place::segment(&chain.writer, segment.number, 0);
        let header = &segment.header;
        if next.is_none() {
            self.settle(&path, bytes, &header.salt);
        }
        if bytes.len() as u64 != header.size || bytes[..SECTOR.min(bytes.len())] != self.start_of(&path)[..] {
            let held = bytes.len();
            return self.tampered(place, format!("the file has {held} bytes, its header says {}", header.size));
        }
        let limit = match next.map(|n| usize::try_from(n.previous_length)) {
            None => bytes.len(),
            Some(Ok(limit)) if (SECTOR..=bytes.len()).contains(&limit) => limit,
            Some(_) => return self.tampered(place, "the next segment's header says that this one holds nothing"),
        };
        (cursor.end, cursor.previous, cursor.incarnation) = (SECTOR, header.hash, header.incarnation);
        self.frames(chain, cursor, segment, &bytes[..limit], next.is_none(), signed);
        let beyond = &bytes[limit..];
        // A segment without frames or bytes behind them changes nothing about what an earlier one left.
        let Some(next) = next.filter(|_| limit > SECTOR || !zeros(beyond)) else { return };
        match next.reason {
            Reason::Torn | Reason::SyncFailed | Reason::NoSpace => {
                let torn = next.reason == Reason::Torn;
                cursor.left.push(Left { segment: segment.number, at: limit, bytes: beyond.to_vec(), torn });
            }
            Reason::First | Reason::Full | Reason::Restart if zeros(beyond) => {}
            Reason::First | Reason::Full | Reason::Restart => {
                let place = Place::segment(&chain.writer, segment.number, limit);
                self.tampered(place, "bytes follow the last frame of a finished segment");
            }
        }
    }

    fn start_of(&self, path: &str) -> Vec<u8> {
        self.ledger.read_start(path, SECTOR).ok().flatten().unwrap_or_default()
    }

    /// A live writer may have been between two sectors while the file was read: where the last frame looks unfinished, the
    /// file is read again. Those before it were durable before it was begun.
    fn settle(&self, path: &str, bytes: &mut Vec<u8>, salt: &[u8; 16]) {
        let (mut last, mut at) = (SECTOR, SECTOR);
        while let Some(length) = bytes.get(at..).and_then(|rest| frame_length(rest, salt)) {
            (last, at) = (at, at + length);
        }
        let whole = |at: usize| match bytes.get(at..) {
            None => true,
            Some(rest) => !matches!(frame(rest, salt), FoundFrame::Bad { .. }),
        };
        if whole(last) && whole(at) {
            return;
        }
        if let Some(again) = self.ledger.read(path).ok().flatten().filter(|again| again.len() == bytes.len()) {
            *bytes = again;
        }
    }

    fn frames(
        &mut self,
        chain: &mut Chain,
        cursor: &mut Cursor,
        segment: &Opened,
        bytes: &[u8],
        last: bool,
        signed: u64,
    ) {
        let mut leaves = vec![];
        while cursor.end < bytes.len() {
            let (at, seq) = (cursor.end, chain.leaves.len() as u64);
            let place = Place::segment(&chain.writer, segment.number, at);
            let rest = &bytes[at..];
            let frame = match frame(rest, &segment.header.salt) {
                FoundFrame::Zeros if last => return,
                FoundFrame::Zeros => return self.tampered(place, "the segment lacks frames that the next one counts"),
                FoundFrame::Bad { why, entries } => {
                    return self.bad_frame(chain, segment, at, rest, &why, entries, last && seq >= signed);
                }
                FoundFrame::Frame(frame) => frame,
            };
            if chain.closed && at > SECTOR {
                return self.tampered(place, "a frame follows the entry that closed the writer");
            }
            if frame.first_seq != seq {
                return self.tampered(place, format!("the frame begins with seq {}, expected {seq}", frame.first_seq));
            }
            if frame.previous != cursor.previous {
                return self.tampered(place, "the frame does not continue the one before");
            }
            leaves.clear();
            leaves.extend(frame.entries.iter().map(|e| leaf(e)));
            // A frame that begins at an odd place shares no node with the tree.
            let shared = seq.is_multiple_of(2).then(|| parts(&leaves, seq, BLOCK.ilog2()));
            let found = shared.as_ref().map_or_else(|| root(&leaves), |parts| root_of_parts(parts));
            if found != frame.leaves_root {
                let (place, message) = self.mismatch(chain, seq, &leaves);
                return self.tampered(place, message);
            }
            let mut recovery = None;
            for (i, (entry, leaf)) in frame.entries.iter().zip(&leaves).enumerate() {
                let place = Place::seq(&chain.writer, seq + i as u64);
                let facts = match facts(entry) {
                    Ok(facts) => facts,
                    Err(why) => return self.tampered(place, format!("entry is not canonical: {why}")),
                };
                // After a failed sync, entries that a reader may have seen keep their seqs and come first.
                if at == SECTOR && i == 0 && facts.kind != WRITER && segment.header.reason != Reason::SyncFailed {
                    return self.tampered(place, "a segment begins with another entry than its writer's");
                }
                if let Special::Recovery(found) = facts.special {
                    recovery = Some(found);
                }
                chain.push(*leaf, facts);
            }
            match shared {
                Some(parts) => chain.grow(parts),
                None => chain.grow(leaves.iter().map(|leaf| (0, *leaf))),
            }
            if let Err(why) = check_torn(&std::mem::take(&mut cursor.left), recovery) {
                return self.tampered(place, why);
            }
            if let Some(told) = recovery {
                self.check_quarantine(&chain.writer, told);
            }
            cursor.end = at + frame.total;
            (cursor.newest, cursor.previous) = (frame.hash, frame.hash);
        }
    }

    /// What an entry says was put aside is there.
    fn check_quarantine(&mut self, writer: &WriterId, told: Recovery) {
        let path = format!("w/{writer}/quarantine/{:012}-{}", told.segment, told.offset);
        match self.ledger.read(&path) {
            Ok(Some(bytes)) if sha3(&[&bytes]) == told.hash => {}
            Ok(Some(_)) => self.tampered(Place::file(&path), "not the torn bytes that an entry tells of"),
            Ok(None) => self.tampered(Place::file(&path), "the torn bytes that an entry tells of are missing"),
            Err(why) => self.unverifiable(Place::file(&path), why.to_string()),
        }
    }

    /// A frame that is not whole: what a crash leaves at the very end of what nobody signed, or tampering.
    #[expect(clippy::too_many_arguments, reason = "one place, called once, straight from the walk")]
    fn bad_frame(
        &mut self,
        chain: &Chain,
        segment: &Opened,
        at: usize,
        rest: &[u8],
        why: &str,
        entries: Option<(u64, Vec<&[u8]>)>,
        may_be_torn: bool,
    ) {
        let place = Place::segment(&chain.writer, segment.number, at);
        if chain.closed {
            return self.tampered(place, "bytes follow the entry that closed the writer");
        }
        if may_be_torn && frame_follows(rest, &segment.header.salt).is_none() && rest.get(MAX_FRAME..).is_none_or(zeros)
        {
            return self.find(Grade::Notice, place, "a frame was being written: not durable, not counted");
        }
        if let Some((_, entries)) = entries.filter(|(first, _)| *first == chain.leaves.len() as u64) {
            let leaves: Vec<_> = entries.iter().map(|e| leaf(e)).collect();
            let (place, message) = self.mismatch(chain, chain.leaves.len() as u64, &leaves);
            return self.tampered(place, message);
        }
        let follows = if may_be_torn { "; a valid frame or other bytes follow" } else { "" };
        self.tampered(place, format!("{why}{follows}"));
    }

    /// Says which of these entries, from `first` on, is not what it was: by the tiles, or because there is only one.
    fn mismatch(&self, chain: &Chain, first: u64, leaves: &[Digest32]) -> (Place, String) {
        let tiles: Vec<_> = self.tile_paths(chain.writer.as_str()).into_iter().filter(|t| t.level == 0).collect();
        let known = |seq: u64| {
            let (number, at) = (seq / HASHES_IN_A_TILE as u64, (seq % HASHES_IN_A_TILE as u64) as usize);
            let tile = tiles.iter().find(|t| t.number == number && t.width > at)?;
            let bytes = self.ledger.read(&tile.path).ok()??;
            Digest32::try_from(bytes.get(at * 32..at * 32 + 32)?).ok()
        };
        let different = |(seq, leaf): &(u64, &Digest32)| known(*seq).is_some_and(|k| k != **leaf);
        let found = (first..).zip(leaves).find(different).map(|(seq, _)| seq);
        let others = leaves.len().saturating_sub(1);
        let message = match (found, others) {
            (Some(_), _) | (None, 0) => "entry does not match its leaf".to_string(),
            (None, n) => format!("entry, or one of the {n} after it in its frame, does not match its leaf"),
        };
        (Place::seq(&chain.writer, found.unwrap_or(first)), message)
    }

    /// Tiles are copies of hashes: those that lie within the chain must be equal to it.
    fn check_tiles(&mut self, chain: &Chain) {
        let tiles = self.tile_paths(chain.writer.as_str());
        for tile in tiles {
            let per_hash = HASHES_IN_A_TILE.pow(tile.level).try_into().unwrap_or(u64::MAX);
            let first = tile.number.saturating_mul(HASHES_IN_A_TILE as u64).saturating_mul(per_hash);
            let end = (tile.width as u64).saturating_mul(per_hash).saturating_add(first);
            if end > chain.leaves.len() as u64 {
                // Written by a live writer after its segments were read, or about entries a crash took.
                continue;
            }
            let Some(bytes) = self.read(&tile.path) else { continue };
            if bytes.len() != tile.width * 32 {
                self.tampered(Place::file(&tile.path), "the tile does not have the length that its name says");
                continue;
            }
            for (i, hash) in bytes.chunks(32).enumerate() {
                let (from, step) = (first as usize + i * per_hash as usize, per_hash as usize);
                if chain.range_root(from, from + step) != hash {
                    if tile.level == 0 {
                        self.tampered(Place::seq(&chain.writer, from as u64), "entry does not match its leaf");
                    } else {
                        self.tampered(
                            Place::file(&tile.path),
                            format!("hash {i} of the tile is not that of its entries"),
                        );
                    }
                    break;
                }
            }
        }
    }

    /// Where the next opening begins to read is as the chain says. A ledger may be without.
    fn check_edge(&mut self, chain: &Chain, opened: &[Opened]) {
        let path = format!("w/{}/edge", chain.writer);
        let Some(bytes) = self.read(&path) else { return };
        let fine = cbor::read(&bytes).is_ok_and(|edge| is_edge(&edge, chain, opened));
        if !fine {
            self.tampered(Place::file(&path), "not an edge of the chain");
        }
    }

    /// Every tile of a writer by its path: `tile/<L>/<N>[.p/<W>]`, N in groups of three digits, all but the last with `x`.
    fn tile_paths(&self, writer: &str) -> Vec<Tile> {
        let mut found = vec![];
        let base = format!("w/{writer}/tile");
        for level in self.ledger.list(&base).unwrap_or_default() {
            if let Ok(number) = level.parse() {
                self.tiles_below(&format!("{base}/{level}"), number, 0, &mut found);
            }
        }
        found.sort_by(|a, b| a.path.cmp(&b.path));
        found
    }

    fn tiles_below(&self, folder: &str, level: u32, above: u64, found: &mut Vec<Tile>) {
        for name in self.ledger.list(folder).unwrap_or_default() {
            let path = format!("{folder}/{name}");
            let group = |digits: &str| {
                let three = digits.len() == 3 && digits.bytes().all(|b| b.is_ascii_digit());
                digits.parse::<u64>().ok().filter(|_| three).map(|n| above.saturating_mul(1000).saturating_add(n))
            };
            if let Some(next) = name.strip_prefix('x').and_then(group) {
                self.tiles_below(&path, level, next, found);
            } else if let Some(number) = name.strip_suffix(".p").and_then(group) {
                for width in self.ledger.list(&path).unwrap_or_default() {
                    if let Some(w) = width.parse().ok().filter(|w| (1..HASHES_IN_A_TILE).contains(w)) {
                        found.push(Tile { path: format!("{path}/{width}"), level, number, width: w });
                    }
                }
            } else if let Some(number) = group(&name) {
                found.push(Tile { path, level, number, width: HASHES_IN_A_TILE });
            }
        }
    }
}

/// Whether a writer's `edge` says how its chain stood when a segment began: every field follows from the chain.
fn is_edge(edge: &Value<'_>, chain: &Chain, opened: &[Opened]) -> bool {
    let number = |key| edge.get(key).and_then(Value::unsigned);
    let Some(at) = opened.iter().find(|o| Some(o.number) == number(1)).map(|o| &o.header) else { return false };
    let Some(size) = usize::try_from(at.first_seq).ok().filter(|n| *n <= chain.leaves.len()) else { return false };
    // Roots over the largest powers of two, then of what is left.
    let mut peaks = vec![];
    let mut from = 0;
    for power in (0..usize::BITS).rev().map(|bit| 1 << bit).filter(|power| size & power != 0) {
        peaks.push(chain.range_root(from, from + power));
        from += power;
    }
    let mut levels = vec![];
    for level in 1.. {
        let each = HASHES_IN_A_TILE.pow(level);
        let count = size / each;
        if count == 0 {
            break;
        }
        let held = count - count % HASHES_IN_A_TILE..count;
        levels.push(held.map(|n| chain.range_root(n * each, (n + 1) * each)).collect::<Vec<_>>());
    }
    let hashes = |value: &Value<'_>| value.items()?.iter().map(Value::hash).collect::<Option<Vec<_>>>();
    let key = chain.keys.iter().rev().find(|(seq, _)| *seq < at.first_seq).map(|(_, key)| key);
    number(0) == Some(1)
        && number(2) == Some(at.first_seq)
        && edge.get(3).and_then(Value::hash) == Some(at.previous_hash)
        && edge.get(4).and_then(hashes) == Some(peaks)
        && edge.get(5).and_then(Value::items).and_then(|l| l.iter().map(hashes).collect::<Option<Vec<_>>>())
            == Some(levels)
        && number(6) == key.map(|k| k.epoch)
        && edge.get(7).and_then(Value::text) == key.map(|k| k.vkey.as_str())
        && matches!(edge, Value::Map(pairs) if pairs.len() == if key.is_some() { 8 } else { 6 })
}

struct Tile {
    path: String,
    level: u32,
    number: u64,
    width: usize,
}

/// What a torn segment held beyond its frames is what the next frame says was put aside. Where writing that frame failed,
/// or the machine stopped meanwhile, several segments were left: the entry tells of one.
fn check_torn(left: &[Left], told: Option<Recovery>) -> Result<(), &'static str> {
    let Some(told) = told else {
        return match left.iter().any(|l| l.torn) {
            true => Err("the segment follows a torn one without telling of it"),
            false => Ok(()),
        };
    };
    let is_told = |left: &Left| {
        let length = usize::try_from(told.length).ok().filter(|n| *n <= left.bytes.len());
        let said = (told.segment, told.offset) == (left.segment, left.at as u64);
        said && length.is_some_and(|n| sha3(&[&left.bytes[..n]]) == told.hash && zeros(&left.bytes[n..]))
    };
    match left {
        [] => Err("an entry tells of a torn tail, its segment does not"),
        some if some.iter().any(is_told) => Ok(()),
        _ => Err("an entry tells of another torn tail than the segment before has"),
    }
}
