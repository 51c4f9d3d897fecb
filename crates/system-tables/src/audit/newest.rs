//! Rows of `system.access.audit` newest first.
//!
//! What holds here: rows leave in the order of their time, whatever the order in which chunks were sealed: one leaves only
//! when no chunk that is still to be read reaches its time. The first batch is small, so that a reader of few rows waits
//! for few, and only rows that leave are made.

use crate::{SystemError, audit::AuditScan};
use arrow::{array::RecordBatch, compute::interleave_record_batch};
use std::{
    collections::{BTreeMap, BinaryHeap},
    ops::RangeInclusive,
};

/// Rows of the first batch; each next one has twice as many, up to the session's size.
const FIRST: usize = 128;

/// The rows of some chunks, newest first.
#[derive(Debug)]
pub struct Newest {
    scan: AuditScan,
    /// Those still to be read, the newest last.
    chunks: Vec<usize>,
    /// Rows of those that were read: time, chunk, place.
    rows: BinaryHeap<(i64, usize, usize)>,
    size: usize,
    most: usize,
}

impl Newest {
    /// Over these chunks, in batches of `most` rows and fewer.
    pub fn new(scan: AuditScan, mut chunks: Vec<usize>, most: usize) -> Self {
        chunks.sort_by_key(|chunk| (*scan.times(*chunk).end(), *chunk));
        Self { scan, chunks, rows: BinaryHeap::new(), size: FIRST.min(most), most }
    }

    /// The next rows; those outside of `times` may be left out.
    pub fn next(&mut self, times: impl Fn() -> RangeInclusive<i64>) -> Result<Option<RecordBatch>, SystemError> {
        let mut places = vec![];
        while places.len() < self.size {
            let unread = self.chunks.last().map(|chunk| *self.scan.times(*chunk).end());
            match (self.rows.peek(), unread) {
                (None, None) => break,
                (Some((time, chunk, row)), unread) if unread.is_none_or(|unread| unread <= *time) => {
                    places.push((*chunk, *row));
                    self.rows.pop();
                }
                (_, _) => {
                    let Some(chunk) = self.chunks.pop() else { break };
                    let found = self.scan.places(chunk, &times());
                    self.rows.extend(found.into_iter().map(|(time, row)| (time, chunk, row)));
                }
            }
        }
        self.size = (self.size * 2).min(self.most);
        if places.is_empty() { Ok(None) } else { self.made(&places).map(Some) }
    }

    /// The rows at these places, in this order.
    fn made(&self, places: &[(usize, usize)]) -> Result<RecordBatch, SystemError> {
        let mut wanted: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
        places.iter().for_each(|(chunk, row)| wanted.entry(*chunk).or_default().push(*row));
        let (mut batches, mut at) = (vec![], BTreeMap::new());
        for (chunk, rows) in &mut wanted {
            rows.sort_unstable();
            at.extend(rows.iter().enumerate().map(|(n, row)| ((*chunk, *row), (batches.len(), n))));
            batches.push(self.scan.rows(*chunk, rows)?);
        }
        let order: Vec<(usize, usize)> = places.iter().filter_map(|place| at.get(place).copied()).collect();
        Ok(interleave_record_batch(&batches.iter().collect::<Vec<_>>(), &order)?)
    }
}
