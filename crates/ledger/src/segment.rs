//! Segments and frames, byte for byte. Big-endian throughout.
//!
//! | segment header, 512 B | at, size | frame | at, size |
//! |---|---|---|---|
//! | magic `CSTDYSEG` | 0, 8 | magic `FRM1` | 0, 4 |
//! | format version 1 | 8, 2 | total length, × 512 | 4, 4 |
//! | reason | 10, 2 | first seq | 8, 8 |
//! | header length | 12, 4 | entries | 16, 4 |
//! | log id | 16, 32 | body length | 20, 4 |
//! | writer, zero padded | 48, 16 | wall ns | 24, 8 |
//! | incarnation | 64, 8 | previous hash | 32, 32 |
//! | segment number, from 1 | 72, 8 | leaves root | 64, 32 |
//! | first seq | 80, 8 | CRC32C(salt ‖ body) | 96, 4 |
//! | valid length of previous segment | 88, 8 | CRC32C(salt ‖ bytes 0..100) | 100, 4 |
//! | previous frame hash | 96, 32 | body: (u16 length ‖ entry)* | 104 |
//! | random salt | 128, 16 | zeros | to total |
//! | segment size | 144, 8 | | |
//! | zeros; CRC32C of 0..508 | 152; 508, 4 | | |
//!
//! Leaves root = RFC 6962 root over this frame's entries. Frame hash = SHA3-256(0x02 ‖ bytes 0..96). A segment's first
//! frame has as previous hash SHA3-256(0x03 ‖ header). The salt stops frames planted in SQL text. CRC finds accidents,
//! hashes find tampering.

use crate::tree::{Sha3, Tree, TreeHash};
use custody_model::{Hash, Seq, WallNanos, WriterId};
use std::ops::Range;

/// Frames and headers are multiples of this.
pub(crate) const BLOCK_BYTES: usize = 512;
/// Where a frame's body begins.
pub(crate) const FRAME_HEAD_BYTES: usize = 104;
/// The version in segment headers.
pub const SEGMENT_FORMAT: u16 = crate::keys::LEDGER_FORMAT;

const SEGMENT_MAGIC: &[u8; 8] = b"CSTDYSEG";
const FRAME_MAGIC: &[u8; 4] = b"FRM1";

/// The folder of a writer.
pub(crate) fn writer_folder(writer: &WriterId) -> String {
    format!("w/{writer}")
}

/// The path of a segment.
pub(crate) fn segment_path(writer: &WriterId, number: u64) -> String {
    format!("w/{writer}/seg/{number:012}.seg")
}

/// The number in a segment's file name.
pub(crate) fn segment_number(name: &str) -> Option<u64> {
    let digits = name.strip_suffix(".seg")?;
    let number = digits.parse().ok()?;
    (format!("{number:012}") == digits).then_some(number)
}

/// The path of a writer's newest checkpoint.
pub(crate) fn checkpoint_path(writer: &WriterId) -> String {
    format!("w/{writer}/checkpoint")
}

/// Why a segment begins.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u16)]
pub enum SegmentReason {
    /// The chain begins.
    First = 1,
    /// The one before is full.
    Full = 2,
    /// The writer was opened again.
    Restart = 3,
    /// The writer was opened again after a crash that tore its last frame.
    Torn = 4,
    /// The one before could not be written or synced.
    SyncFailed = 5,
    /// The disk was full and has room again.
    NoSpace = 6,
}

impl SegmentReason {
    fn from_number(number: u16) -> Option<Self> {
        [Self::First, Self::Full, Self::Restart, Self::Torn, Self::SyncFailed, Self::NoSpace]
            .into_iter()
            .find(|r| *r as u16 == number)
    }
}

/// A segment's first 512 bytes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SegmentHeader {
    /// Why it begins.
    pub reason: SegmentReason,
    /// Which ledger.
    pub log_id: Hash,
    /// Whose chain.
    pub writer: WriterId,
    /// Which opening, from 1.
    pub incarnation: u64,
    /// From 1.
    pub number: u64,
    /// The seq of its first entry.
    pub first_seq: Seq,
    /// How many bytes of the segment before count; what is beyond was torn, or never acknowledged. 0: none before.
    pub previous_length: u64,
    /// The hash of the newest frame before, zeros: none.
    pub previous_frame: Hash,
    /// Random.
    pub salt: [u8; 16],
    /// Size of the file.
    pub size: u64,
}

/// A header that cannot be read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum BadHeader {
    /// Not a header.
    Damaged,
    /// Of a newer format.
    Newer(u16),
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    bytes.iter().skip(at).take(8).fold(0, |n, b| n << 8 | u64::from(*b))
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes.iter().skip(at).take(4).fold(0, |n, b| n << 8 | u32::from(*b))
}

fn hash_at(bytes: &[u8], at: usize) -> Hash {
    let mut hash = Hash::default();
    hash.0.iter_mut().zip(bytes.iter().skip(at)).for_each(|(h, b)| *h = *b);
    hash
}

impl SegmentHeader {
    /// The 512 bytes.
    pub fn to_bytes(&self) -> [u8; BLOCK_BYTES] {
        let mut out = [0; BLOCK_BYTES];
        let mut set = |at: usize, bytes: &[u8]| out[at..at + bytes.len()].copy_from_slice(bytes);
        set(0, SEGMENT_MAGIC);
        set(8, &SEGMENT_FORMAT.to_be_bytes());
        set(10, &(self.reason as u16).to_be_bytes());
        set(12, &(BLOCK_BYTES as u32).to_be_bytes());
        set(16, &self.log_id.0);
        set(48, self.writer.as_str().as_bytes());
        set(64, &self.incarnation.to_be_bytes());
        set(72, &self.number.to_be_bytes());
        set(80, &self.first_seq.0.to_be_bytes());
        set(88, &self.previous_length.to_be_bytes());
        set(96, &self.previous_frame.0);
        set(128, &self.salt);
        set(144, &self.size.to_be_bytes());
        let crc = crc32c::crc32c(&out[..508]);
        out[508..].copy_from_slice(&crc.to_be_bytes());
        out
    }

    /// Reads the 512 bytes; only what `to_bytes` writes is accepted.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, BadHeader> {
        let whole = bytes.len() == BLOCK_BYTES && bytes.starts_with(SEGMENT_MAGIC);
        if !whole || u32_at(bytes, 508) != crc32c::crc32c(&bytes[..508]) {
            return Err(BadHeader::Damaged);
        }
        let format = (u32_at(bytes, 8) >> 16) as u16;
        if format > SEGMENT_FORMAT {
            return Err(BadHeader::Newer(format));
        }
        let reason = SegmentReason::from_number((u32_at(bytes, 8) & 0xffff) as u16).ok_or(BadHeader::Damaged)?;
        let name = std::str::from_utf8(&bytes[48..64]).map_err(|_| BadHeader::Damaged)?;
        let writer = WriterId::new(name.trim_end_matches('\0')).ok_or(BadHeader::Damaged)?;
        let mut salt = [0; 16];
        salt.copy_from_slice(&bytes[128..144]);
        let header = Self {
            reason,
            log_id: hash_at(bytes, 16),
            writer,
            incarnation: u64_at(bytes, 64),
            number: u64_at(bytes, 72),
            first_seq: Seq(u64_at(bytes, 80)),
            previous_length: u64_at(bytes, 88),
            previous_frame: hash_at(bytes, 96),
            salt,
            size: u64_at(bytes, 144),
        };
        if header.to_bytes() == bytes { Ok(header) } else { Err(BadHeader::Damaged) }
    }

    /// What the segment's first frame has as previous hash.
    pub fn hash(&self) -> Hash {
        Sha3::digest(&[&[3], &self.to_bytes()])
    }
}

/// A frame as it is read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Frame {
    /// Length in the file, zeros included.
    pub total: usize,
    /// The seq of its first entry.
    pub first_seq: u64,
    /// When, by the writer's clock.
    pub wall: WallNanos,
    /// The hash of the frame before, or of the segment header.
    pub previous: Hash,
    /// RFC 6962 root over its entries.
    pub leaves_root: Hash,
    /// Its own hash.
    pub hash: Hash,
    /// Where its entries are, from the frame's first byte.
    pub entries: Vec<Range<usize>>,
}

/// How many bytes a frame with these entries takes.
pub(crate) fn frame_length<'a>(entries: impl Iterator<Item = &'a [u8]>) -> usize {
    (FRAME_HEAD_BYTES + entries.map(|e| 2 + e.len()).sum::<usize>()).next_multiple_of(BLOCK_BYTES)
}

/// A frame's bytes and hash. Every entry has at most 65,535 bytes, and the whole fits 32 bits: `None` otherwise.
pub(crate) fn frame_bytes(
    entries: &[&[u8]],
    first_seq: u64,
    wall: WallNanos,
    previous: &Hash,
    leaves_root: &Hash,
    salt: &[u8; 16],
) -> Option<(Vec<u8>, Hash)> {
    let total = frame_length(entries.iter().copied());
    let mut out = Vec::with_capacity(total);
    out.resize(FRAME_HEAD_BYTES, 0);
    for entry in entries {
        out.extend(u16::try_from(entry.len()).ok()?.to_be_bytes());
        out.extend(*entry);
    }
    let body = out.len() - FRAME_HEAD_BYTES;
    let mut set = |at: usize, bytes: &[u8]| out[at..at + bytes.len()].copy_from_slice(bytes);
    set(0, FRAME_MAGIC);
    set(4, &u32::try_from(total).ok()?.to_be_bytes());
    set(8, &first_seq.to_be_bytes());
    set(16, &u32::try_from(entries.len()).ok()?.to_be_bytes());
    set(20, &u32::try_from(body).ok()?.to_be_bytes());
    set(24, &wall.0.to_be_bytes());
    set(32, &previous.0);
    set(64, &leaves_root.0);
    let body_crc = crc32c::crc32c_append(crc32c::crc32c(salt), &out[FRAME_HEAD_BYTES..]);
    out[96..100].copy_from_slice(&body_crc.to_be_bytes());
    let head_crc = crc32c::crc32c_append(crc32c::crc32c(salt), &out[..100]);
    out[100..104].copy_from_slice(&head_crc.to_be_bytes());
    out.resize(total, 0);
    let hash = Sha3::digest(&[&[2], &out[..96]]);
    Some((out, hash))
}

/// The length that a frame's head announces, if its own CRC is right.
pub(crate) fn frame_total(bytes: &[u8], salt: &[u8; 16]) -> Option<usize> {
    let head = bytes.get(..FRAME_HEAD_BYTES)?;
    if !head.starts_with(FRAME_MAGIC) || u32_at(head, 100) != crc32c::crc32c_append(crc32c::crc32c(salt), &head[..100])
    {
        return None;
    }
    let (total, body) = (u32_at(head, 4) as usize, u32_at(head, 20) as usize);
    (total == (FRAME_HEAD_BYTES + body).next_multiple_of(BLOCK_BYTES)).then_some(total)
}

/// Reads the frame that `bytes` begin with: CRCs, lengths, padding. `None`: no whole valid frame is there. Whether
/// seq, previous hash and leaves root are the right ones is for the caller to say.
pub(crate) fn parse_frame(bytes: &[u8], salt: &[u8; 16]) -> Option<Frame> {
    let total = frame_total(bytes, salt)?;
    let frame = bytes.get(..total)?;
    let end = FRAME_HEAD_BYTES + u32_at(frame, 20) as usize;
    let body_crc = crc32c::crc32c_append(crc32c::crc32c(salt), &frame[FRAME_HEAD_BYTES..end]);
    if u32_at(frame, 96) != body_crc || frame[end..].iter().any(|b| *b != 0) {
        return None;
    }
    let mut entries = vec![];
    let mut at = FRAME_HEAD_BYTES;
    while at < end {
        let length = usize::from(u16::from_be_bytes([*frame.get(at)?, *frame.get(at + 1)?]));
        let range = at + 2..at + 2 + length;
        at = range.end;
        entries.push(range);
    }
    if at != end || entries.is_empty() || entries.len() != u32_at(frame, 16) as usize {
        return None;
    }
    Some(Frame {
        total,
        first_seq: u64_at(frame, 8),
        wall: WallNanos(u64_at(frame, 24) as i64),
        previous: hash_at(frame, 32),
        leaves_root: hash_at(frame, 64),
        hash: Sha3::digest(&[&[2], &frame[..96]]),
        entries,
    })
}

/// The RFC 6962 root over these leaf hashes.
pub(crate) fn leaves_root(leaves: &[Hash]) -> Hash {
    Tree::<Sha3>::from_leaves(leaves).root()
}
