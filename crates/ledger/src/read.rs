//! Reading chains, without a lock and beside live writers in other processes.
//!
//! A reader gives entries up to the last whole valid frame, in order, each once. It checks CRCs, seqs and the chain of
//! frames; what a tamperer may have done is for `verify` to find.

use crate::{
    disk::{Disk, DiskBlobs, DiskError},
    format::{DecodeError, decode},
    frames::Frames,
    note::SignedNote,
    segment::{BLOCK_BYTES, BadHeader, SegmentHeader, checkpoint_path, segment_path, writer_folder},
    tree::{Sha3, TreeHash},
};
use custody_model::{Hash, Seq, StoredEntry, WriterId};

/// Where a reader stands in one chain. The default is before its first entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Position {
    /// The segment read last; 0: none.
    segment: u64,
    /// How far into it.
    offset: u64,
    /// The seq of the next entry.
    seq: u64,
}

impl Position {
    /// The seq of the next entry.
    pub fn next_seq(&self) -> Seq {
        Seq(self.seq)
    }
}

/// A chain that cannot be read on.
#[derive(Debug, thiserror::Error)]
pub enum ReadFailed {
    /// The disk.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// An entry that says nothing readable.
    #[error("entry {writer}/{seq}: {source}")]
    Entry {
        /// Whose chain.
        writer: WriterId,
        /// Which entry.
        seq: Seq,
        /// What is wrong.
        source: DecodeError,
    },
    /// Written by a newer version.
    #[error("ledger format {0} is newer than this binary reads ({newest})", newest = crate::segment::SEGMENT_FORMAT)]
    Newer(u16),
    /// Something that no writer leaves behind.
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
}

/// A reader of every chain of a ledger.
pub struct Reader<D> {
    disk: D,
}

impl<D: Disk> Reader<D> {
    /// A reader over the ledger's folder.
    pub fn new(disk: D) -> Self {
        Self { disk }
    }

    /// The disk.
    pub fn disk(&self) -> &D {
        &self.disk
    }

    /// Every writer that has ever been opened, by name.
    pub fn writers(&self) -> Result<Vec<WriterId>, DiskError> {
        Ok(self.disk.list("w")?.iter().filter_map(|name| WriterId::new(name)).collect())
    }

    /// A writer's newest checkpoint, as stored.
    pub fn checkpoint(&self, writer: &WriterId) -> Result<Option<Vec<u8>>, DiskError> {
        self.disk.read(&checkpoint_path(writer))
    }

    /// A writer's newest checkpoint as a note; `None`: there is none, or it cannot be read.
    pub fn checkpoint_note(&self, writer: &WriterId) -> Result<Option<SignedNote>, DiskError> {
        Ok(self.checkpoint(writer)?.and_then(|bytes| SignedNote::parse(&bytes).ok()))
    }

    /// The entries of a chain from a position on, and the position behind them.
    pub fn tail(&self, writer: &WriterId, from: Position) -> Result<(Vec<StoredEntry>, Position), ReadFailed> {
        self.some(writer, from, usize::MAX)
    }

    /// The next entries of a chain, about `most` of them: whole frames. Where there are none, none are left.
    pub fn some(
        &self,
        writer: &WriterId,
        from: Position,
        most: usize,
    ) -> Result<(Vec<StoredEntry>, Position), ReadFailed> {
        self.before(writer, from, most, u64::MAX)
    }

    /// Where the segments behind a position begin: from each of them entries can be read apart from the others.
    pub fn starts(&self, writer: &WriterId, from: Position) -> Result<Vec<Position>, ReadFailed> {
        let (mut starts, mut number) = (vec![], from.segment + 1);
        while let Some(header) = self.header(writer, number)? {
            starts.push(Position { segment: number, offset: BLOCK_BYTES as u64, seq: header.first_seq.0 });
            number += 1;
        }
        Ok(starts)
    }

    /// The same as [`Reader::some`] up to where another segment begins, and not beyond.
    pub fn some_before(
        &self,
        writer: &WriterId,
        from: Position,
        most: usize,
        end: Position,
    ) -> Result<(Vec<StoredEntry>, Position), ReadFailed> {
        self.before(writer, from, most, end.segment)
    }

    fn before(
        &self,
        writer: &WriterId,
        from: Position,
        most: usize,
        end: u64,
    ) -> Result<(Vec<StoredEntry>, Position), ReadFailed> {
        let (mut out, mut at) = (vec![], from);
        let mut header = match at.segment {
            0 => None,
            number => self.header(writer, number)?,
        };
        loop {
            // INVARIANT: the next header is read before the frames of the present segment, so that its length of the
            // present one, once it is there, is final.
            let next = self.header(writer, at.segment + 1)?;
            if let Some(header) = &header {
                let limit = next.as_ref().map_or(header.size, |n| n.previous_length);
                self.frames(header, limit, most, &mut at, &mut out)?;
                if out.len() >= most {
                    return Ok((out, at));
                }
                if next.is_some() && at.offset < limit {
                    return self.damaged(writer, &at, "a frame is damaged");
                }
            }
            let Some(next) = next.filter(|next| next.number < end) else { return Ok((out, at)) };
            if next.first_seq.0 > at.seq {
                return self.damaged(writer, &at, "the next segment begins later");
            }
            (at.segment, at.offset) = (next.number, BLOCK_BYTES as u64);
            header = Some(next);
        }
    }

    fn damaged<T>(&self, writer: &WriterId, at: &Position, why: &'static str) -> Result<T, ReadFailed> {
        Err(ReadFailed::Damaged { writer: writer.clone(), segment: at.segment, offset: at.offset, why })
    }

    fn header(&self, writer: &WriterId, number: u64) -> Result<Option<SegmentHeader>, ReadFailed> {
        let path = segment_path(writer, number);
        if self.disk.len(&path)?.is_none() {
            return Ok(None);
        }
        match SegmentHeader::parse(&self.disk.read_at(&path, 0, BLOCK_BYTES)?) {
            Ok(header) if header.number == number && header.writer == *writer => Ok(Some(header)),
            Err(BadHeader::Newer(format)) => Err(ReadFailed::Newer(format)),
            Ok(_) | Err(BadHeader::Damaged) => {
                let at = Position { segment: number, offset: 0, seq: 0 };
                self.damaged(writer, &at, "the segment header is damaged")
            }
        }
    }

    /// Reads whole valid frames up to `limit`, or until `most` entries are there.
    fn frames(
        &self,
        header: &SegmentHeader,
        limit: u64,
        most: usize,
        at: &mut Position,
        out: &mut Vec<StoredEntry>,
    ) -> Result<(), ReadFailed> {
        let mut frames = Frames::new(&self.disk, header, at.offset, limit);
        while out.len() < most
            && let Some(found) = frames.next()?
        {
            // After a failed sync entries come again under their seqs; a reader that has seen them passes over them.
            let first = found.frame.first_seq;
            if first > at.seq {
                return self.damaged(&header.writer, at, "wrong seq");
            }
            for (raw, seq) in found.entries().zip(first..).skip_while(|(_, seq)| *seq < at.seq) {
                out.push(self.stored(&header.writer, Seq(seq), raw.to_vec())?);
            }
            at.seq = at.seq.max(first + found.frame.entries.len() as u64);
            at.offset = found.offset + found.frame.total as u64;
        }
        Ok(())
    }

    fn stored(&self, writer: &WriterId, seq: Seq, raw: Vec<u8>) -> Result<StoredEntry, ReadFailed> {
        let entry = decode(&raw, &DiskBlobs(&self.disk));
        let entry = entry.map_err(|source| ReadFailed::Entry { writer: writer.clone(), seq, source })?;
        Ok(StoredEntry { writer: writer.clone(), seq, leaf: Sha3::leaf(&raw), raw, entry })
    }

    /// The leaf hashes of a chain, in order: what proofs are made from.
    pub fn leaves(&self, writer: &WriterId) -> Result<Vec<Hash>, ReadFailed> {
        Ok(self.tail(writer, Position::default())?.0.into_iter().map(|e| e.leaf).collect())
    }

    /// Whether a writer's chain ends in order; so does one without entries.
    pub fn is_closed(&self, writer: &WriterId) -> Result<bool, ReadFailed> {
        use custody_model::{Payload, WriterEvent};
        let (entries, _) = self.tail(writer, Position::default())?;
        Ok(entries.last().is_none_or(|e| e.entry.payload == Payload::Writer(WriterEvent::Close)))
    }

    /// The folder of a writer, below the ledger's.
    pub fn folder(writer: &WriterId) -> String {
        writer_folder(writer)
    }
}
