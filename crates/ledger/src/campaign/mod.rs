//! Random searches for what must not exist: a mutation that the verifier does not see, a schedule of faults that loses
//! an entry or lets a byte out unaudited.
//!
//! What holds here: everything follows from a seed, so that a failure is a number that anyone can run again; a search
//! is cut into shards that need nothing of each other. Built for tests and with feature `sim` only. The command that
//! runs shards and remembers which are done is `examples/campaign.rs`.

mod forge;
mod ledgers;
pub mod mutations;
pub mod schedules;

use crate::{
    disk::{Disk, DiskError},
    format::{EntryBytes, encode},
    sim::SimDisk,
    tree::{Sha3, TreeHash},
    verify::{Source, Unreadable},
};
use custody_model::{ControlSeq, Entry, EntryId, Measure, Outcome, Payload, Reason, Verb, WallNanos};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

/// Something that a search found, with what is needed to see it again.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{0}")]
pub struct Finding(pub String);

impl From<String> for Finding {
    fn from(text: String) -> Self {
        Self(text)
    }
}

/// Random numbers out of a seed: SHA3-256 in counter mode, eight bytes at a time.
#[derive(Clone, Debug)]
pub struct Random {
    seed: [u8; 32],
    drawn: u64,
    block: [u8; 32],
}

impl Random {
    /// The numbers of a search, a shard and a run.
    pub fn new(search: &str, shard: u64, run: u64) -> Self {
        let seed = Sha3::digest(&[search.as_bytes(), &shard.to_be_bytes(), &run.to_be_bytes()]).0;
        Self { seed, drawn: 0, block: [0; 32] }
    }

    /// Any number.
    pub fn number(&mut self) -> u64 {
        let at = (self.drawn % 4) as usize * 8;
        if at == 0 {
            self.block = Sha3::digest(&[&self.seed, &self.drawn.to_be_bytes()]).0;
        }
        self.drawn += 1;
        self.block.iter().skip(at).take(8).fold(0, |n, b| n << 8 | u64::from(*b))
    }

    /// A number below `end`; 0 where there is none.
    pub fn below(&mut self, end: usize) -> usize {
        (self.number() % (end.max(1) as u64)) as usize
    }

    /// True once in `n` times.
    pub fn once_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    /// 32 bytes.
    pub fn bytes(&mut self) -> [u8; 32] {
        let parts = [self.number(), self.number(), self.number(), self.number()].map(u64::to_be_bytes);
        Sha3::digest(&[&parts.concat()]).0
    }
}

/// An entry with little in it, ready to be appended.
fn entry(
    random: &mut Random,
    wall: WallNanos,
    payload: Payload,
    reference: Option<EntryId>,
    control: u64,
) -> Result<EntryBytes, Finding> {
    let mut id = [0; 16];
    id.copy_from_slice(&random.bytes()[..16]);
    let entry = Entry {
        id: EntryId(uuid::Builder::from_random_bytes(id).into_uuid()),
        wall,
        reference,
        control_seq: ControlSeq(control),
        trace: None,
        actor: None,
        verb: Verb::Read,
        targets: vec![],
        outcome: Outcome::Success,
        reason: Reason::default(),
        measure: Measure::default(),
        payload,
    };
    encode(&entry).map(|e| e.entry).map_err(|e| Finding(e.to_string()))
}

/// Files in memory, cheap to copy and to alter.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub struct Files(pub BTreeMap<String, Arc<Vec<u8>>>);

impl Files {
    /// What a disk holds.
    pub fn of(disk: &SimDisk) -> Result<Self, DiskError> {
        let mut files = BTreeMap::new();
        for path in disk.paths() {
            let bytes = disk.read(&path)?.unwrap_or_default();
            files.insert(path, Arc::new(bytes));
        }
        Ok(Self(files))
    }

    /// A copy with another content of one file.
    fn with(&self, path: &str, bytes: Vec<u8>) -> Self {
        let mut other = self.clone();
        other.0.insert(path.to_string(), Arc::new(bytes));
        other
    }

    /// The content of a file; none where it does not exist.
    fn bytes(&self, path: &str) -> &[u8] {
        self.0.get(path).map_or(&[], |bytes| bytes.as_slice())
    }

    /// The paths below a folder.
    fn below(&self, folder: &str) -> Vec<String> {
        self.0.keys().filter(|path| path.starts_with(folder)).cloned().collect()
    }
}

impl Source for Files {
    fn list(&self, folder: &str) -> Result<Vec<String>, Unreadable> {
        let inside = format!("{folder}/");
        let names = self.0.keys().filter_map(|path| path.strip_prefix(&inside)?.split('/').next());
        Ok(names.map(str::to_string).collect::<BTreeSet<_>>().into_iter().collect())
    }

    fn read(&self, path: &str) -> Result<Option<Vec<u8>>, Unreadable> {
        Ok(self.0.get(path).map(|bytes| bytes.to_vec()))
    }

    fn read_start(&self, path: &str, length: usize) -> Result<Option<Vec<u8>>, Unreadable> {
        Ok(self.0.get(path).map(|bytes| bytes[..length.min(bytes.len())].to_vec()))
    }
}
