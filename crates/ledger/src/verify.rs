//! Checks a ledger from its bytes alone, and against what others remember of it.
//!
//! What holds true here:
//! - Nothing is shared with the writer: frames, entries, roots, notes and certificates are read by this module's own
//!   parsers, written from the byte tables of the format. Agreement of the two is evidence; a shared bug is not possible.
//! - Every file is read at most twice, nothing is written, no clock is asked: the time is passed in.
//! - Beside a live writer the check stops at what it found when it began; a frame being written is a notice.
//! - A finding is graded once: tampering (bytes contradict signed or chained evidence), unverifiable (evidence cannot be
//!   read), or notice. The verdict is the worst grade, then freshness.
//!
//! Deliberately absent: repair, file access (see [`Source`]), and any opinion about what entries say beyond their place,
//! identity and what the ledger's own bookkeeping needs.

mod anchor;
mod bundle;
mod cbor;
mod chain;
mod facts;
mod keys;
mod note;
mod report;
mod segment;
mod tree;

pub use bundle::{NotProven, Proven, check_proof};
pub use report::{Finding, Grade, Place, Report, Verdict, WriterReport};

use chain::{Chain, Log};
use custody_model::{Hash, WallNanos, WriterId};
use facts::{Blob, facts, named_blobs};
use keys::signatures;
use note::Checkpoint;
pub use note::split_notes;
use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};
use tree::{Digest32, sha3};

/// Read access to the files below one `ledger/` folder, or to a copy of them. Paths use `/` and are relative to it.
pub trait Source {
    /// Names of the files and folders directly in a folder; none where the folder does not exist.
    fn list(&self, folder: &str) -> Result<Vec<String>, Unreadable>;

    /// A whole file; `None` where it does not exist.
    fn read(&self, path: &str) -> Result<Option<Vec<u8>>, Unreadable>;

    /// A whole file into a buffer that is there already; `false` where it does not exist.
    fn read_into(&self, path: &str, buffer: &mut Vec<u8>) -> Result<bool, Unreadable> {
        let found = self.read(path)?;
        Ok(found.map(|bytes| *buffer = bytes).is_some())
    }

    /// The first bytes of a file, fewer where it is shorter; `None` where it does not exist.
    fn read_start(&self, path: &str, length: usize) -> Result<Option<Vec<u8>>, Unreadable> {
        Ok(self.read(path)?.map(|mut bytes| {
            bytes.truncate(length);
            bytes
        }))
    }
}

/// A file or folder that exists and cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{path}` cannot be read: {why}")]
pub struct Unreadable {
    /// Relative to the ledger folder.
    pub path: String,
    /// What the system said.
    pub why: String,
}

/// What is believed about the ledger's identity from elsewhere. Empty: what its genesis says is taken.
#[derive(Clone, Debug, Default)]
pub struct TrustPolicy {
    /// SHA3-256 of the genesis.
    pub log: Option<Hash>,
    /// The root key's verifier string.
    pub root: Option<String>,
}

/// A file of checkpoint notes that was kept at some earlier moment, as [`keep`] writes it.
#[derive(Clone, Debug)]
pub struct Kept {
    /// For messages: where it came from.
    pub name: String,
    /// Signed notes, one a writer, one after the other.
    pub notes: String,
}

/// A copy of the ledger folder in other hands.
#[derive(Clone, Copy)]
pub struct Mirror<'a> {
    /// For messages: where it is.
    pub name: &'a str,
    /// Its files.
    pub files: &'a dyn Source,
}

/// What the world outside the ledger folder remembers, and how old it may be to prove freshness.
pub struct Outside<'a> {
    /// Kept checkpoints.
    pub since: Vec<Kept>,
    /// Mirrors.
    pub mirrors: Vec<Mirror<'a>>,
    /// Kept checkpoints of the anchor.
    pub anchors: Vec<Kept>,
    /// Audit receipts, one `log/writer/seq/leaf` each.
    pub receipts: Vec<String>,
    /// How old the newest outside memory may be.
    pub max_age: Duration,
    /// The time that ages are counted from.
    pub now: WallNanos,
}

impl Outside<'_> {
    /// No memory at all: the best verdict is *freshness unproven*.
    pub fn none(now: WallNanos) -> Self {
        Self {
            since: vec![],
            mirrors: vec![],
            anchors: vec![],
            receipts: vec![],
            max_age: Duration::from_secs(300),
            now,
        }
    }
}

/// Control kinds: their entries have a place in the one control order and an object in `control/`.
const CONTROL_KINDS: [u64; 9] = [1, 2, 3, 4, 5, 12, 30, 50, 51];

/// After this long an unfinished claim is no longer explained by a process at work.
const CLAIM_PATIENCE_NANOS: i64 = 600 * 1_000_000_000;

/// A clock this far ahead of `now` proves nothing about age.
const CLOCK_SLACK_NANOS: i64 = 60 * 1_000_000_000;

/// Checks every writer of a ledger, what they share, and what the outside remembers.
pub fn verify(ledger: &dyn Source, trust: &TrustPolicy, outside: &Outside<'_>) -> Report {
    let mut run = Run { ledger, findings: vec![], buffer: vec![] };
    let Some(log) = run.genesis(trust) else {
        return Report::new(vec![], run.findings, None, outside.max_age);
    };
    // INVARIANT: the anchor is read before checkpoints, those before segments, segments before control objects and blobs. Writers write in the
    // opposite order, so a live ledger never seems to lack anything.
    let anchor = run.anchor(&log);
    let notes = run.checkpoints();
    let mut chains: Vec<Chain> = run.writers().iter().map(|w| run.walk(&log, w, notes.get(w))).collect();
    for chain in &mut chains {
        run.check_checkpoint(&log, chain, notes.get(&chain.writer));
    }
    run.check_ids(&chains);
    run.check_control(&chains);
    run.check_blobs(&chains);
    run.check_heads(&chains);
    let anchored = run.check_anchor(&log, &chains, anchor, &outside.anchors, outside.now);
    let memory = run.check_outside(&log, &chains, outside).into_iter().chain(anchored).min();
    let writers = chains.iter().map(Chain::report).collect();
    Report::new(writers, run.findings, memory, outside.max_age)
}

/// The current checkpoints of all writers, one signed note after the other, to be kept outside for a later
/// [`Outside::since`].
pub fn keep(ledger: &dyn Source) -> Result<String, Unreadable> {
    let mut kept = String::new();
    for writer in sorted(ledger.list("w")?) {
        let path = format!("w/{writer}/checkpoint");
        if let Some(bytes) = ledger.read(&path)? {
            let note = String::from_utf8(bytes).map_err(|_| Unreadable { path, why: "it is not text".into() })?;
            kept.push_str(&note);
        }
    }
    Ok(kept)
}

fn sorted(mut names: Vec<String>) -> Vec<String> {
    names.sort();
    names
}

/// One check in progress: where it reads and what it found.
struct Run<'a> {
    ledger: &'a dyn Source,
    findings: Vec<Finding>,
    /// For segments, one after the other: they are large, and fresh memory is slow.
    buffer: Vec<u8>,
}

impl Run<'_> {
    fn find(&mut self, grade: Grade, place: Place, message: impl Into<String>) {
        self.findings.push(Finding { grade, place, message: message.into() });
    }

    fn tampered(&mut self, place: Place, message: impl Into<String>) {
        self.find(Grade::Tampering, place, message);
    }

    fn unverifiable(&mut self, place: Place, message: impl Into<String>) {
        self.find(Grade::Unverifiable, place, message);
    }

    /// A listing, empty with a finding where it cannot be had.
    fn list(&mut self, folder: &str) -> Vec<String> {
        self.ledger.list(folder).map(sorted).unwrap_or_else(|e| {
            self.unverifiable(Place::file(folder), e.to_string());
            vec![]
        })
    }

    /// A file, `None` with a finding where it cannot be had.
    fn read(&mut self, path: &str) -> Option<Vec<u8>> {
        self.ledger.read(path).unwrap_or_else(|e| {
            self.unverifiable(Place::file(path), e.to_string());
            None
        })
    }

    /// Reads who this ledger is, and compares it with who it should be.
    fn genesis(&mut self, trust: &TrustPolicy) -> Option<Log> {
        let place = Place::file("genesis");
        let Some(bytes) = self.read("genesis") else {
            if self.findings.is_empty() {
                self.unverifiable(place, "there is no genesis");
            }
            return None;
        };
        let log = match Log::read(&bytes) {
            Ok(log) => log,
            Err(why) => {
                self.unverifiable(place, why);
                return None;
            }
        };
        if trust.log.is_some_and(|id| id.0 != log.id) {
            self.tampered(place.clone(), "the genesis is not that of the ledger that is trusted");
        }
        if trust.root.as_ref().is_some_and(|r| *r != log.root_text) {
            self.tampered(place, "the genesis names another root key than the one that is trusted");
        }
        Some(log)
    }

    fn writers(&mut self) -> Vec<WriterId> {
        let mut writers = vec![];
        for name in self.list("w") {
            match WriterId::new(&name) {
                Some(writer) => writers.push(writer),
                None => self.find(Grade::Notice, Place::file(&format!("w/{name}")), "not a writer's folder"),
            }
        }
        writers
    }

    fn checkpoints(&mut self) -> BTreeMap<WriterId, Checkpoint> {
        let mut notes = BTreeMap::new();
        for writer in self.writers() {
            let path = format!("w/{writer}/checkpoint");
            let Some(bytes) = self.read(&path) else { continue };
            match String::from_utf8(bytes).map_err(|_| "not text".to_string()).and_then(|t| Checkpoint::parse(&t)) {
                Ok(note) => {
                    notes.insert(writer, note);
                }
                Err(why) => self.tampered(Place::writer(&writer), format!("the checkpoint is malformed: {why}")),
            }
        }
        notes
    }

    /// Size, root and signatures of a writer's own checkpoint.
    fn check_checkpoint(&mut self, log: &Log, chain: &mut Chain, note: Option<&Checkpoint>) {
        let place = Place::writer(&chain.writer);
        let Some(note) = note else {
            let malformed = self.findings.iter().any(|f| f.place == place && f.message.starts_with("the checkpoint"));
            if !chain.leaves.is_empty() && !malformed {
                let grade = if chain.closed { Grade::Tampering } else { Grade::Unverifiable };
                self.find(grade, place, format!("no checkpoint signs its {} entries", chain.leaves.len()));
            }
            return;
        };
        if note.origin != log.origin_of(&chain.writer) {
            return self.tampered(place, format!("the checkpoint is of `{}`", note.origin));
        }
        chain.signed = Some(note.size);
        if chain.damaged {
            // The walk has said what is wrong; sizes and roots beyond that point are consequences.
            return;
        }
        let Some(signed) = chain.root_at(note.size) else {
            let held = chain.leaves.len();
            return self.tampered(place, format!("ledger holds {held} entries, its checkpoint says {}", note.size));
        };
        if signed != note.root {
            return self.tampered(place, format!("the root over {} entries is not the one signed", note.size));
        }
        if let Err(why) = signatures(log, chain, note) {
            self.tampered(place, why);
        }
    }

    /// Entry ids occur once. A control entry may be appended again, byte for byte, by whoever completed its claim.
    fn check_ids(&mut self, chains: &[Chain]) {
        let of = |c: usize| chains[c].ids.iter().enumerate().map(move |(seq, id)| (u128::from_be_bytes(*id), c, seq));
        let mut all: Vec<(u128, usize, usize)> = (0..chains.len()).flat_map(of).collect();
        // Ids begin with their time: of one writer they nearly stand in order.
        all.sort();
        for group in all.chunk_by(|a, b| a.0 == b.0).filter(|group| group.len() > 1) {
            let (_, other, first) = group[0];
            for (_, c, seq) in &group[1..] {
                let chain = &chains[*c];
                let same = chains[other].leaves[first] == chain.leaves[*seq];
                if !(same && chain.is_control(*seq)) {
                    let message = format!("entry has the id of {}/{first}", chains[other].writer);
                    self.tampered(Place::seq(&chain.writer, *seq as u64), message);
                }
            }
        }
    }

    /// The control order is dense, and claims and appended entries are the same bytes.
    fn check_control(&mut self, chains: &[Chain]) {
        let mut appended: BTreeMap<u64, (Digest32, Place)> = BTreeMap::new();
        let mut newest = i64::MIN;
        for chain in chains {
            newest = newest.max(chain.walls.iter().copied().max().unwrap_or(i64::MIN));
            for (control, seq) in &chain.control {
                let (leaf, place) = (chain.leaves[*seq], Place::seq(&chain.writer, *seq as u64));
                if let Some((other, at)) = appended.insert(*control, (leaf, place.clone()))
                    && other != leaf
                {
                    self.tampered(place, format!("control number {control} is also that of {at}"));
                }
            }
        }
        let damaged = chains.iter().any(|c| c.damaged);
        let mut claimed = BTreeSet::new();
        for name in self.list("control") {
            let path = format!("control/{name}");
            let number = name.parse::<u64>().ok().filter(|n| format!("{n:020}") == name);
            let Some(number) = number else {
                self.find(Grade::Notice, Place::file(&path), "not a control object");
                continue;
            };
            let Some(bytes) = self.read(&path) else { continue };
            claimed.insert(number);
            match appended.get(&number) {
                Some((leaf, _)) if *leaf == tree::leaf(&bytes) => {}
                Some((_, at)) => self.tampered(Place::file(&path), format!("not the bytes of its entry, {at}")),
                None if damaged => {}
                None => self.unappended(&path, number, &bytes, appended.last_key_value().map(|(n, _)| *n), newest),
            }
        }
        for (number, (_, at)) in &appended {
            if !claimed.contains(number) {
                self.tampered(at.clone(), format!("control number {number} has no object in `control/`"));
            }
        }
        let last = appended.keys().chain(&claimed).max().copied().unwrap_or(0);
        let missing = (1..=last).find(|n| !appended.contains_key(n) && !claimed.contains(n));
        if let Some(missing) = missing.filter(|_| !damaged) {
            self.tampered(Place::file("control"), format!("control number {missing} of {last} is missing"));
        }
    }

    /// A claim without its append: at work, crashed just now, or planted.
    fn unappended(&mut self, path: &str, number: u64, bytes: &[u8], last: Option<u64>, newest: i64) {
        let place = Place::file(path);
        match facts(bytes) {
            Err(why) => self.tampered(place, format!("claimed entry is not canonical: {why}")),
            Ok(f) if f.control != number || !CONTROL_KINDS.contains(&f.kind) => {
                self.tampered(place, "claimed entry is not the one that its name says");
            }
            Ok(f) => {
                let old = newest.saturating_sub(f.wall) > CLAIM_PATIENCE_NANOS && last.is_some_and(|l| l > number);
                let grade = if old { Grade::Tampering } else { Grade::Notice };
                self.find(grade, place, "claimed and not appended yet");
            }
        }
    }

    /// Blobs that entries name exist and have the bytes they are named for; a payload that is a blob names further ones.
    fn check_blobs(&mut self, chains: &[Chain]) {
        let mut checked = BTreeSet::new();
        for chain in chains {
            for name in &chain.blobs {
                let place = Place::seq(&chain.writer, name.seq);
                let Some(bytes) = self.check_blob(&mut checked, &place, name.blob) else { continue };
                let Some(kind) = name.payload_of else { continue };
                match cbor::read(&bytes).and_then(|payload| named_blobs(kind, &payload)) {
                    Ok(further) => further.into_iter().for_each(|blob| {
                        self.check_blob(&mut checked, &place, blob);
                    }),
                    Err(why) => self.tampered(place, format!("the entry's payload is not canonical: {why}")),
                }
            }
        }
    }

    /// The bytes of a blob that was not checked before and is what its name says.
    fn check_blob(&mut self, checked: &mut BTreeSet<Digest32>, place: &Place, blob: Blob) -> Option<Vec<u8>> {
        if !checked.insert(blob.hash) {
            return None;
        }
        let path = format!("blob/{}", Hash(blob.hash));
        let bytes = match self.ledger.read(&path) {
            Ok(Some(bytes)) => bytes,
            Ok(None) => {
                self.tampered(place.clone(), format!("`{path}`, which the entry names, is missing"));
                return None;
            }
            Err(why) => {
                self.unverifiable(place.clone(), why.to_string());
                return None;
            }
        };
        if sha3(&[&bytes]) != blob.hash || bytes.len() as u64 != blob.length {
            self.tampered(place.clone(), format!("`{path}` does not have the bytes that the entry names"));
            return None;
        }
        Some(bytes)
    }

    /// Every head that some writer recorded of another still lies on that one's chain.
    fn check_heads(&mut self, chains: &[Chain]) {
        for chain in chains {
            for (seq, head) in &chain.heads {
                let place = Place::seq(&chain.writer, *seq);
                let Some(other) = chains.iter().find(|c| c.writer.as_str() == head.writer) else {
                    self.tampered(place, format!("writer {}, whose head the entry holds, is missing", head.writer));
                    continue;
                };
                if !other.damaged && other.root_at(head.size) != Some(head.root) {
                    let message = format!("not a continuation of its head of size {} in {place}", head.size);
                    self.tampered(Place::writer(&other.writer), message);
                }
            }
        }
    }

    /// Compares all outside memory; the result is the age of the newest that proves anything.
    fn check_outside(&mut self, log: &Log, chains: &[Chain], outside: &Outside<'_>) -> Option<Duration> {
        let mut youngest: Option<Duration> = None;
        for kept in &outside.since {
            let notes = split_notes(&kept.notes);
            if notes.is_empty() {
                self.unverifiable(Place::file(&kept.name), "holds no checkpoint");
            }
            let age = self.check_memory(log, chains, &kept.name, &notes, outside.now);
            youngest = age.into_iter().chain(youngest).min();
        }
        for mirror in &outside.mirrors {
            match mirror_notes(mirror.files, log) {
                Ok(notes) => {
                    let age = self.check_memory(log, chains, mirror.name, &notes, outside.now);
                    youngest = age.into_iter().chain(youngest).min();
                }
                Err(why) => self.unverifiable(Place::file(mirror.name), why),
            }
        }
        for receipt in &outside.receipts {
            self.check_receipt(log, chains, receipt);
        }
        youngest
    }

    /// One outside memory: each of its notes must lie on the chain of its writer. Its age is that of the newest entry it
    /// covers, or of the oldest that it should cover and does not.
    fn check_memory(
        &mut self,
        log: &Log,
        chains: &[Chain],
        name: &str,
        notes: &[String],
        now: WallNanos,
    ) -> Option<Duration> {
        let mut covered: BTreeMap<&WriterId, usize> = BTreeMap::new();
        let mut proven = true;
        for text in notes {
            match self.check_kept(log, chains, name, text) {
                Some((chain, size)) => {
                    let most = covered.entry(&chain.writer).or_default();
                    *most = size.max(*most);
                }
                None => proven = false,
            }
        }
        if proven { self.age_of(chains, &covered, name, now) } else { None }
    }

    /// The age of a memory that covers so many entries of each writer.
    fn age_of(
        &mut self,
        chains: &[Chain],
        covered: &BTreeMap<&WriterId, usize>,
        name: &str,
        now: WallNanos,
    ) -> Option<Duration> {
        let size = |c: &Chain| covered.get(&c.writer).copied().unwrap_or(0);
        let newest = chains.iter().filter_map(|c| c.walls[..size(c)].last()).max()?;
        let uncovered = chains.iter().filter_map(|c| c.walls.get(size(c))).min();
        let moment = uncovered.map_or(*newest, |u| *u.min(newest));
        let age = now.0.saturating_sub(moment);
        if age < -CLOCK_SLACK_NANOS {
            self.find(Grade::Notice, Place::file(name), "its newest entry is from the future; it proves no freshness");
            return None;
        }
        Some(Duration::from_nanos(age.max(0).unsigned_abs()))
    }

    /// A kept note against its writer's chain: `None` where it proves nothing, said why.
    fn check_kept<'c>(&mut self, log: &Log, chains: &'c [Chain], name: &str, text: &str) -> Option<(&'c Chain, usize)> {
        let note = match Checkpoint::parse(text) {
            Ok(note) => note,
            Err(why) => {
                self.unverifiable(Place::file(name), format!("a note in it is malformed: {why}"));
                return None;
            }
        };
        let Some(writer) = log.writer_of(&note.origin) else {
            self.unverifiable(Place::file(name), format!("`{}` is not a writer of this ledger", note.origin));
            return None;
        };
        let place = Place::writer(&writer);
        let Some(chain) = chains.iter().find(|c| c.writer == writer) else {
            self.tampered(place, format!("writer is missing; `{name}` holds its checkpoint of size {}", note.size));
            return None;
        };
        if chain.damaged {
            return None;
        }
        let held = chain.leaves.len();
        let Some(size) = usize::try_from(note.size).ok().filter(|n| *n <= held) else {
            self.tampered(place, format!("ledger holds {held} entries, the checkpoint in `{name}` says {}", note.size));
            return None;
        };
        if chain.root_at(note.size) != Some(note.root) {
            self.tampered(place, format!("not a continuation of the checkpoint of size {size} in `{name}`"));
            return None;
        }
        if let Err(why) = signatures(log, chain, &note) {
            self.unverifiable(Place::file(name), format!("checkpoint of writer {writer}: {why}"));
            return None;
        }
        if chain.signed.is_some_and(|signed| signed < note.size) {
            // The entries are those that were signed; what signed them here is gone.
            let message = format!("its checkpoint signs fewer entries than the one of size {size} in `{name}`");
            self.unverifiable(place, message);
        }
        Some((chain, size))
    }

    /// A receipt names a leaf that must stand where it says.
    fn check_receipt(&mut self, log: &Log, chains: &[Chain], receipt: &str) {
        let mut parts = receipt.split('/');
        let parsed = (|| {
            let id: Hash = parts.next()?.parse().ok()?;
            let writer = WriterId::new(parts.next()?)?;
            let (seq, leaf) = (parts.next()?.parse::<u64>().ok()?, parts.next()?.parse::<Hash>().ok()?);
            parts.next().is_none().then_some((id, writer, seq, leaf))
        })();
        let Some((_, writer, seq, leaf)) = parsed.filter(|(id, ..)| id.0 == log.id) else {
            return self.unverifiable(Place::default(), format!("`{receipt}` is not a receipt of this ledger"));
        };
        let found = chains.iter().find(|c| c.writer == writer);
        if found.is_some_and(|c| c.damaged) {
            return;
        }
        if found.and_then(|c| c.leaves.get(usize::try_from(seq).ok()?)) != Some(&leaf.0) {
            self.tampered(Place::seq(&writer, seq), "a receipt was given for another entry here");
        }
    }
}

/// The checkpoints of a mirror, which must be of the same ledger.
fn mirror_notes(files: &dyn Source, log: &Log) -> Result<Vec<String>, String> {
    match files.read("genesis").map_err(|e| e.to_string())? {
        Some(bytes) if sha3(&[&bytes]) == log.id => {}
        Some(_) => return Err("mirror is of another ledger".into()),
        None => return Err("mirror has no genesis".into()),
    }
    let notes = split_notes(&keep(files).map_err(|e| e.to_string())?);
    if notes.is_empty() { Err("mirror holds no checkpoint".into()) } else { Ok(notes) }
}

#[cfg(test)]
pub(crate) use anchor::bundle as anchor_bundle;
#[cfg(test)]
pub(crate) use tests::has_python;

#[cfg(test)]
mod tests;
