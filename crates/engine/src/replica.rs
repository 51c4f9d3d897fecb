//! A second copy of the ledger: made, grown, held against the first, and restored from.
//!
//! What holds here: a copy is verified from its own bytes after it is written, against what it held before; a ledger that
//! does not continue the copy is not copied over it; a copy that does not continue what is left of a ledger is not restored
//! over that. Files are copied whole and durably, checkpoints last, so that a copy that was cut short is an older copy.
//!
//! Deliberately absent: notes for opening quickly, locks, keys. Who restores a ledger restores its keys from elsewhere.

use crate::{audit::FolderSource, clock::Clock};
use custody_ledger::{
    Disk,
    verify::{Kept, Mirror, Outside, Report, Source, TrustPolicy, Unreadable, Verdict, keep, verify},
};
use custody_model::Problem;
use custody_store::FileDisk;
use std::{
    path::Path,
    time::{Duration, Instant},
};

/// What copying did, and what the copy is worth.
#[derive(Debug)]
pub struct Replicated {
    /// Files that were new or had grown.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// The verdict about the copy; about the original where that was not copied.
    pub report: Report,
    /// Whether anything was copied.
    pub copied: bool,
}

/// Grows a copy of the ledger by what is new. Where the ledger does not continue the copy nothing is copied, and the
/// report says what differs.
pub fn replicate(ledger: &Path, copy: &Path, clock: &dyn Clock) -> Result<Replicated, Problem> {
    let (from, to) = (FolderSource::new(ledger), FolderSource::new(copy));
    let held = held(&to)?;
    let name = copy.display().to_string();
    let mirrors = if held.is_some() { vec![Mirror { name: &name, files: &to }] } else { vec![] };
    let report = verify(&from, &TrustPolicy::default(), &Outside { mirrors, ..Outside::none(clock.now()) });
    if matches!(report.verdict, Verdict::Tampered | Verdict::CannotVerify) {
        return Ok(Replicated { files: 0, bytes: 0, report, copied: false });
    }
    let (files, bytes) = copy_files(&from, &to, &FileDisk::new(copy))?;
    // The copy is judged by its own bytes, and by what it held before.
    let since = held.into_iter().map(|notes| Kept { name: name.clone(), notes }).collect();
    let report = verify(&to, &TrustPolicy::default(), &Outside { since, ..Outside::none(clock.now()) });
    Ok(Replicated { files, bytes, report, copied: true })
}

/// Keeps a copy in a folder, as the process at the other end of `input` and `output` tells it to.
pub fn keep_copy(into: &Path, input: &mut dyn std::io::Read, output: &mut dyn std::io::Write) -> std::io::Result<()> {
    custody_ledger::keep_copy(FileDisk::new(into), input, output)
}

/// Restores a ledger from a copy. What is left of the ledger must be an earlier state of the copy, or nothing.
pub fn restore(copy: &Path, ledger: &Path, clock: &dyn Clock) -> Result<Replicated, Problem> {
    let left = FolderSource::new(ledger);
    if left.read("genesis").map_err(unreadable)?.is_some() && held(&left)?.is_none() {
        return Err(Problem::new(1309, format!("`{}` holds a ledger without checkpoints", ledger.display()))
            .help("move it away, then restore into the empty place"));
    }
    replicate(copy, ledger, clock)
}

/// What a drill measured.
#[derive(Debug)]
pub struct Drilled {
    /// How long copying and verifying took.
    pub took: Duration,
    /// Entries in the copy.
    pub restored: u64,
    /// Entries of the ledger that the copy lacks.
    pub behind: u64,
    /// The verdict about what was restored.
    pub report: Report,
}

/// Restores a copy into a folder that is made for it and removed again, and says how long that took and what would lack.
pub fn drill(ledger: &Path, copy: &Path, scratch: &Path, clock: &dyn Clock) -> Result<Drilled, Problem> {
    if scratch.exists() {
        return Err(Problem::new(1309, format!("`{}` is there already", scratch.display())).help("choose a new folder"));
    }
    let present = verify(&FolderSource::new(ledger), &TrustPolicy::default(), &Outside::none(clock.now()));
    let began = Instant::now();
    let restored = restore(copy, scratch, clock);
    let took = began.elapsed();
    let removed = std::fs::remove_dir_all(scratch);
    let report = restored?.report;
    removed.map_err(|e| Problem::new(7008, format!("`{}` cannot be removed: {e}", scratch.display())))?;
    let restored = report.entries();
    Ok(Drilled { took, restored, behind: present.entries().saturating_sub(restored), report })
}

/// The checkpoints that a copy holds; `None`: there is none yet.
fn held(copy: &FolderSource) -> Result<Option<String>, Problem> {
    let notes = keep(copy).map_err(unreadable)?;
    Ok((!notes.is_empty()).then_some(notes))
}

fn unreadable(e: Unreadable) -> Problem {
    Problem::new(7008, e.to_string())
}

/// Copies what differs. Checkpoints and edges are read first and written last: what they say is then there.
fn copy_files(from: &FolderSource, to: &FolderSource, disk: &FileDisk) -> Result<(u64, u64), Problem> {
    let mut copying = Copying { from, to, disk, files: 0, bytes: 0 };
    let mut last = vec![];
    let writers = from.list("w").map_err(unreadable)?;
    for writer in &writers {
        for name in ["edge", "checkpoint"] {
            let path = format!("w/{writer}/{name}");
            last.extend(from.read(&path).map_err(unreadable)?.map(|bytes| (path, bytes)));
        }
    }
    // The anchor covers nothing that the segments, which are read after it, lack.
    let anchor = "anchor/checkpoint".to_string();
    last.extend(from.read(&anchor).map_err(unreadable)?.map(|bytes| (anchor, bytes)));
    copying.file("genesis")?;
    copying.file("anchor/key")?;
    copying.folder("anchor/tile")?;
    for writer in &writers {
        for folder in ["seg", "quarantine", "tile"] {
            copying.folder(&format!("w/{writer}/{folder}"))?;
        }
    }
    copying.folder("control")?;
    copying.folder("blob")?;
    for (path, bytes) in last {
        copying.write(&path, bytes)?;
    }
    Ok((copying.files, copying.bytes))
}

struct Copying<'a> {
    from: &'a FolderSource,
    to: &'a FolderSource,
    disk: &'a FileDisk,
    files: u64,
    bytes: u64,
}

impl Copying<'_> {
    fn folder(&mut self, folder: &str) -> Result<(), Problem> {
        for name in self.from.list(folder).map_err(unreadable)? {
            let path = format!("{folder}/{name}");
            match self.from.path().join(&path).is_dir() {
                true => self.folder(&path)?,
                false => self.file(&path)?,
            }
        }
        Ok(())
    }

    fn file(&mut self, path: &str) -> Result<(), Problem> {
        match self.from.read(path).map_err(unreadable)? {
            Some(bytes) => self.write(path, bytes),
            None => Ok(()),
        }
    }

    fn write(&mut self, path: &str, bytes: Vec<u8>) -> Result<(), Problem> {
        if self.to.read(path).map_err(unreadable)?.as_ref() == Some(&bytes) {
            return Ok(());
        }
        self.disk.publish(path, &bytes).map_err(|e| Problem::new(7008, format!("the copy cannot be written: {e}")))?;
        self.files += 1;
        self.bytes += bytes.len() as u64;
        Ok(())
    }
}
