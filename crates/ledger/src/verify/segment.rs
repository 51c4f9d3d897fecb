//! Segment headers and frames from the byte tables of the format, for the verifier only.
//!
//! What holds true here: a frame is handed out only where every one of its bytes is what the format allows: magic,
//! lengths, both checksums, dense entries, zero padding. What frames say to each other (chain, seqs, roots) is judged by
//! the caller.

use super::tree::{Digest32, sha3};

/// Segments and frames begin at multiples of this.
pub(super) const SECTOR: usize = 512;
const FRAME_HEADER: usize = 104;
const FORMAT: u16 = 1;

/// No frame is longer: 1 MiB of entries, a few of the writer's own, rounded up.
pub(super) const MAX_FRAME: usize = (1 << 20) + 5 * (1 << 16);

/// Why a segment was begun.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Reason {
    First,
    Full,
    Restart,
    Torn,
    SyncFailed,
    NoSpace,
}

/// The header of a segment.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Header {
    pub(super) reason: Reason,
    pub(super) log: Digest32,
    pub(super) writer: String,
    pub(super) incarnation: u64,
    pub(super) number: u64,
    pub(super) first_seq: u64,
    pub(super) previous_length: u64,
    pub(super) previous_hash: Digest32,
    pub(super) salt: [u8; 16],
    pub(super) size: u64,
    /// What the segment's first frame names as its previous hash.
    pub(super) hash: Digest32,
}

/// What stands where a header should.
#[derive(Debug)]
pub(super) enum FoundHeader {
    Header(Box<Header>),
    /// A segment prepared ahead.
    Zeros,
    /// A format this verifier does not read.
    Newer(u16),
    Bad(String),
}

/// One frame.
#[derive(Debug)]
pub(super) struct Frame<'a> {
    pub(super) total: usize,
    pub(super) first_seq: u64,
    pub(super) entries: Vec<&'a [u8]>,
    pub(super) previous: Digest32,
    pub(super) leaves_root: Digest32,
    pub(super) hash: Digest32,
}

/// What stands where a frame should.
#[derive(Debug)]
pub(super) enum FoundFrame<'a> {
    Frame(Frame<'a>),
    /// Nothing but zeros to the end.
    Zeros,
    /// `entries` are those that can still be told apart where only the body is damaged, with the seq of the first.
    Bad {
        why: String,
        entries: Option<(u64, Vec<&'a [u8]>)>,
    },
}

fn be<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let mut out = [0; N];
    if let Some(found) = bytes.get(at..at + N) {
        out.copy_from_slice(found);
    }
    out
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes(be(bytes, at))
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(be(bytes, at))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_be_bytes(be(bytes, at))
}

/// Whether all bytes are zero.
pub(super) fn zeros(bytes: &[u8]) -> bool {
    const ZEROS: [u8; 4096] = [0; 4096];
    bytes.chunks(ZEROS.len()).all(|chunk| *chunk == ZEROS[..chunk.len()])
}

/// Reads the header of a segment.
pub(super) fn header(segment: &[u8]) -> FoundHeader {
    let Some(bytes) = segment.get(..SECTOR) else {
        return FoundHeader::Bad("the file is shorter than a header".into());
    };
    if zeros(bytes) {
        return FoundHeader::Zeros;
    }
    let bad = |why: &str| FoundHeader::Bad(why.to_string());
    if &bytes[..8] != b"CSTDYSEG" {
        return bad("the header has no magic");
    }
    if u32_at(bytes, 508) != crc32c::crc32c(&bytes[..508]) {
        return bad("the header does not match its checksum");
    }
    match u16_at(bytes, 8) {
        FORMAT => {}
        0 => return bad("the header names format 0"),
        newer => return FoundHeader::Newer(newer),
    }
    let reason = match u16_at(bytes, 10) {
        1 => Reason::First,
        2 => Reason::Full,
        3 => Reason::Restart,
        4 => Reason::Torn,
        5 => Reason::SyncFailed,
        6 => Reason::NoSpace,
        _ => return bad("the header names no known reason"),
    };
    let name = &bytes[48..64];
    let length = name.iter().position(|b| *b == 0).unwrap_or(16);
    let Ok(writer) = std::str::from_utf8(&name[..length]) else { return bad("the header names no writer") };
    if u32_at(bytes, 12) != SECTOR as u32 || !zeros(&name[length..]) || !zeros(&bytes[152..508]) {
        return bad("the header has bytes where none belong");
    }
    FoundHeader::Header(Box::new(Header {
        reason,
        log: be(bytes, 16),
        writer: writer.to_string(),
        incarnation: u64_at(bytes, 64),
        number: u64_at(bytes, 72),
        first_seq: u64_at(bytes, 80),
        previous_length: u64_at(bytes, 88),
        previous_hash: be(bytes, 96),
        salt: be(bytes, 128),
        size: u64_at(bytes, 144),
        hash: sha3(&[&[3], bytes]),
    }))
}

/// Reads the frame that begins `bytes`, which run to the end of what may hold frames.
pub(super) fn frame<'a>(bytes: &'a [u8], salt: &[u8; 16]) -> FoundFrame<'a> {
    let bad = |why: &str| FoundFrame::Bad { why: why.to_string(), entries: None };
    let Some(head) = bytes.get(..FRAME_HEADER) else {
        return if zeros(bytes) { FoundFrame::Zeros } else { bad("bytes too few for a frame") };
    };
    if &head[..4] != b"FRM1" {
        return if zeros(bytes) { FoundFrame::Zeros } else { bad("no frame begins here") };
    }
    let salted = crc32c::crc32c(salt);
    if u32_at(head, 100) != crc32c::crc32c_append(salted, &head[..100]) {
        return bad("the frame's header does not match its checksum");
    }
    let (total, count, length) = (u32_at(head, 4) as usize, u32_at(head, 16), u32_at(head, 20) as usize);
    let end = FRAME_HEADER + length;
    if total != end.next_multiple_of(SECTOR) || total > MAX_FRAME || total > bytes.len() || count == 0 {
        return bad("the frame's lengths do not fit");
    }
    let (body, first_seq) = (&bytes[FRAME_HEADER..end], u64_at(head, 8));
    // The checksum reads the body in order, so that what follows finds it in the processor's cache.
    if u32_at(head, 96) != crc32c::crc32c_append(salted, body) {
        let entries = split(body, count).map(|e| (first_seq, e));
        return FoundFrame::Bad { why: "the frame's body does not match its checksum".into(), entries };
    }
    let Some(entries) = split(body, count) else { return bad("the frame's entries do not fill its body") };
    if !zeros(&bytes[end..total]) {
        return bad("the frame's padding is not zero");
    }
    FoundFrame::Frame(Frame {
        total,
        first_seq,
        entries,
        previous: be(head, 32),
        leaves_root: be(head, 64),
        hash: sha3(&[&[2], &head[..96]]),
    })
}

/// How long the frame that begins `bytes` says it is, where its header matches its checksum.
pub(super) fn frame_length(bytes: &[u8], salt: &[u8; 16]) -> Option<usize> {
    let head = bytes.get(..FRAME_HEADER).filter(|head| head.starts_with(b"FRM1"))?;
    let total = u32_at(head, 4) as usize;
    let sound = u32_at(head, 100) == crc32c::crc32c_append(crc32c::crc32c(salt), &head[..100]);
    (sound && total >= SECTOR && total <= bytes.len()).then_some(total)
}

fn split(mut body: &[u8], count: u32) -> Option<Vec<&[u8]>> {
    // No entry is shorter than its length.
    let mut entries = Vec::with_capacity((count as usize).min(body.len() / 2));
    for _ in 0..count {
        let length = usize::from(u16_at(body.get(..2)?, 0));
        entries.push(body.get(2..2 + length)?);
        body = &body[2 + length..];
    }
    body.is_empty().then_some(entries)
}

/// Whether a whole frame begins at any later sector of `bytes`.
pub(super) fn frame_follows(bytes: &[u8], salt: &[u8; 16]) -> Option<usize> {
    (SECTOR..bytes.len())
        .step_by(SECTOR)
        .find(|at| bytes[*at..].starts_with(b"FRM1") && matches!(frame(&bytes[*at..], salt), FoundFrame::Frame(_)))
}
