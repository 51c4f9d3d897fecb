//! Walks the frames of a segment through a window, so that a segment is never in memory as a whole.

use crate::{
    disk::{Disk, DiskError},
    segment::{FRAME_HEAD_BYTES, Frame, SegmentHeader, frame_total, parse_frame, segment_path},
};

const WINDOW_BYTES: usize = 256 * 1024;

/// Whole valid frames, one after another.
pub(crate) struct Frames<'a> {
    disk: &'a dyn Disk,
    path: String,
    salt: [u8; 16],
    /// Where the next frame begins.
    at: u64,
    end: u64,
    window: Vec<u8>,
    /// Where the window begins.
    start: u64,
}

/// A frame and its bytes.
pub(crate) struct Found<'a> {
    pub(crate) offset: u64,
    pub(crate) frame: Frame,
    bytes: &'a [u8],
}

impl<'a> Found<'a> {
    /// The frame's own bytes.
    pub(crate) fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// The stored bytes of its entries.
    pub(crate) fn entries(&self) -> impl Iterator<Item = &'a [u8]> {
        let bytes = self.bytes;
        self.frame.entries.iter().map(move |range| &bytes[range.clone()])
    }
}

impl<'a> Frames<'a> {
    /// The frames of a segment from one offset to another.
    pub(crate) fn new(disk: &'a dyn Disk, header: &SegmentHeader, from: u64, end: u64) -> Self {
        let path = segment_path(&header.writer, header.number);
        Self { disk, path, salt: header.salt, at: from, end, window: vec![], start: from }
    }

    /// Where the next frame begins, or would.
    pub(crate) fn offset(&self) -> u64 {
        self.at
    }

    /// The next frame; `None`: no whole valid one is there.
    pub(crate) fn next(&mut self) -> Result<Option<Found<'_>>, DiskError> {
        self.cover(FRAME_HEAD_BYTES)?;
        let Some(total) = frame_total(self.rest(), &self.salt) else { return Ok(None) };
        self.cover(total)?;
        let Some(frame) = parse_frame(self.rest(), &self.salt) else { return Ok(None) };
        let offset = self.at;
        self.at += frame.total as u64;
        let begin = usize::try_from(offset - self.start).unwrap_or(usize::MAX);
        Ok(Some(Found { offset, bytes: &self.window[begin..begin + frame.total], frame }))
    }

    fn rest(&self) -> &[u8] {
        let begin = usize::try_from(self.at - self.start).unwrap_or(usize::MAX);
        self.window.get(begin..).unwrap_or_default()
    }

    /// Makes the window hold so many bytes from `at` on, where the segment has them before `end`.
    fn cover(&mut self, wanted: usize) -> Result<(), DiskError> {
        let left = usize::try_from(self.end.saturating_sub(self.at)).unwrap_or(usize::MAX);
        if self.rest().len() < wanted.min(left) {
            self.window = self.disk.read_at(&self.path, self.at, wanted.max(WINDOW_BYTES).min(left))?;
            self.start = self.at;
        }
        Ok(())
    }
}
