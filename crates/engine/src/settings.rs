//! What an engine is opened with: plain data, validated by whoever read it.

use crate::audit::WriterChoice;
use custody_ledger::SERVER_SEGMENT_BYTES;
use std::{path::PathBuf, time::Duration};

/// Settings of an engine.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The warehouse's folder.
    pub warehouse: PathBuf,
    /// Its name: the origin of its ledger. Letters, digits, `-`, `_`, `.`.
    pub name: String,
    /// Which chain this process writes.
    pub writer: WriterChoice,
    /// `prod`, `dev`: what policies see, never the client's word.
    pub environment: String,
    /// Where this server stands.
    pub region: Option<String>,
    /// Folders that sources may lie in, besides `<warehouse>/raw`.
    pub sources_allow: Vec<PathBuf>,
    /// Memory of all queries together, in bytes; more spills to disk.
    pub memory_bytes: usize,
    /// How long a statement may compute, not counting the time its reader takes.
    pub statement_time: Duration,
    /// Partitions of a plan.
    pub partitions: usize,
    /// Encoded bytes that one ledger entry lets out.
    pub granted_bytes: u64,
    /// Size of a server's segments of the ledger: a multiple of 512, at least 1 MiB.
    pub segment_bytes: u64,
    /// Reads begun and not ended.
    pub max_open_reads: usize,
    /// How long a read waits for its entry.
    pub patience: Duration,
    /// The command that keeps a second copy of the ledger.
    pub peer: Option<String>,
}

impl Settings {
    /// The defaults over one folder: two GiB, a partition a core, 64 MiB a grant.
    pub fn new(warehouse: impl Into<PathBuf>, name: impl Into<String>, writer: WriterChoice) -> Self {
        Self {
            warehouse: warehouse.into(),
            name: name.into(),
            writer,
            environment: "dev".into(),
            region: None,
            sources_allow: vec![],
            memory_bytes: 2 << 30,
            statement_time: Duration::from_secs(3600),
            partitions: std::thread::available_parallelism().map_or(2, Into::into),
            granted_bytes: 64 << 20,
            segment_bytes: SERVER_SEGMENT_BYTES,
            max_open_reads: 1024,
            patience: Duration::from_secs(2),
            peer: None,
        }
    }

    /// Where the ledger lies.
    pub fn ledger(&self) -> PathBuf {
        self.warehouse.join("ledger")
    }

    /// Where the keys lie.
    pub fn keys(&self) -> PathBuf {
        self.warehouse.join("keys")
    }

    /// Where queries spill.
    pub fn spill(&self) -> PathBuf {
        self.warehouse.join("spill")
    }
}
