//! The anchor, for the verifier only: a C2SP log over SHA-256 whose leaves are checkpoints of the chains.
//!
//! What holds true here: every leaf that its signed checkpoint covers is a signed checkpoint that its chain continues, and
//! every tile that it covers is what the leaves make it. Parts of tiles that a round left behind, cut off or replaced by a
//! later one, are no evidence. Nothing in the chains names the anchor: that it is gone, or older than
//! it was, shows only where someone outside has kept a checkpoint of it.

use super::{
    Kept, Place, Run,
    chain::{Chain, Log},
    keys::signatures,
    note::{Checkpoint, Note, Vkey, split_notes},
    report::Grade,
    tree::Digest32,
};
use custody_model::{Hash, WallNanos};
use sha2::{Digest, Sha256};
use std::{collections::BTreeMap, time::Duration};

const WHOLE: usize = 256;

pub(super) fn sha2(parts: &[&[u8]]) -> Digest32 {
    let mut hasher = Sha256::new();
    parts.iter().for_each(|part| hasher.update(part));
    hasher.finalize().into()
}

/// As RFC 6962 says.
fn root(leaves: &[Digest32]) -> Digest32 {
    match leaves {
        [] => sha2(&[]),
        [one] => *one,
        many => {
            let (left, right) = many.split_at(many.len().next_power_of_two() / 2);
            sha2(&[&[1], &root(left), &root(right)])
        }
    }
}

const CHECKPOINT: &str = "anchor/checkpoint";
/// So often is an anchor read that changes meanwhile.
const TRIES: usize = 3;

/// What is there.
pub(super) enum Found {
    None,
    Anchor(Anchor),
    /// A finding says why.
    Unusable,
}

/// What was read of the anchor.
pub(super) struct Anchor {
    key: Vkey,
    notes: Vec<Vec<u8>>,
    leaves: Vec<Digest32>,
}

/// What stops the reading of an anchor: how bad, where, why.
type Stopped = (Grade, Place, String);

fn tampered<T>(path: &str, why: impl Into<String>) -> Result<T, Stopped> {
    Err((Grade::Tampering, Place::file(path), why.into()))
}

impl Run<'_> {
    /// The anchor, against itself; none: there is none, or a finding says why it cannot be read.
    pub(super) fn anchor(&mut self, log: &Log) -> Found {
        for again in (0..TRIES).rev() {
            let before = self.ledger.read(CHECKPOINT).ok();
            let known = self.findings.len();
            match self.read_anchor(log) {
                Ok(None) => return Found::None,
                Ok(Some(anchor)) => {
                    self.check_anchor_files(&anchor);
                    if self.findings.len() == known {
                        return Found::Anchor(anchor);
                    }
                }
                Err((grade, place, why)) => self.find(grade, place, why),
            }
            // Beside a process that adds to it, what it replaces is gone soon.
            if again > 0 && self.ledger.read(CHECKPOINT).ok() != before {
                self.findings.truncate(known);
                continue;
            }
            break;
        }
        Found::Unusable
    }

    /// The anchor against the chains and what others kept of it; the age of the youngest of those.
    pub(super) fn check_anchor(
        &mut self,
        log: &Log,
        chains: &[Chain],
        anchor: Found,
        kept: &[Kept],
        now: WallNanos,
    ) -> Option<Duration> {
        let anchor = match anchor {
            Found::Anchor(anchor) => anchor,
            Found::Unusable => return None,
            Found::None => {
                for kept in kept {
                    self.tampered(Place::file("anchor"), format!("there is none, and `{}` is of one", kept.name));
                }
                return None;
            }
        };
        for (n, note) in anchor.notes.iter().enumerate() {
            self.check_anchored(log, chains, n, note);
        }
        kept.iter().filter_map(|kept| self.check_kept_anchor(log, chains, &anchor, kept, now)).min()
    }

    fn anchor_file(&self, path: &str) -> Result<Option<Vec<u8>>, Stopped> {
        self.ledger.read(path).map_err(|e| (Grade::Unverifiable, Place::file(path), e.to_string()))
    }

    /// Key, checkpoint and leaves; none: there is no anchor.
    fn read_anchor(&self, log: &Log) -> Result<Option<Anchor>, Stopped> {
        let tiles = self.ledger.list("anchor/tile");
        let tiles = tiles.map_err(|e| (Grade::Unverifiable, Place::file("anchor/tile"), e.to_string()))?;
        let (key, note) = (self.anchor_file("anchor/key")?, self.anchor_file(CHECKPOINT)?);
        let (Some(key), Some(note)) = (&key, &note) else {
            // A process that was killed as it began leaves a key alone.
            return match (key.is_some() || note.is_some() || !tiles.is_empty(), note.is_none() && tiles.is_empty()) {
                (false, _) | (true, true) => Ok(None),
                (true, false) => tampered("anchor", "its key or its checkpoint is missing"),
            };
        };
        let key = match anchor_key(log, key) {
            Ok(key) => key,
            Err(why) => return tampered("anchor/key", why),
        };
        let text = std::str::from_utf8(note).map_err(|e| e.to_string());
        let note = match text.and_then(Checkpoint::parse) {
            Ok(note) => note,
            Err(why) => return tampered(CHECKPOINT, format!("malformed: {why}")),
        };
        if note.origin != key.name {
            return tampered(CHECKPOINT, format!("of `{}`", note.origin));
        }
        if !matches!(&note.signatures[..], [one] if signs(&key, &note.text, one)) {
            return tampered(CHECKPOINT, "not signed by the anchor's key alone");
        }
        let (mut notes, mut number) = (vec![], 0);
        while (notes.len() as u64) < note.size {
            let count = (note.size - notes.len() as u64).min(WHOLE as u64) as usize;
            let path = path("entries", number, count % WHOLE);
            match self.anchor_file(&path)?.and_then(|bytes| bundle(&bytes)).filter(|found| found.len() == count) {
                Some(found) => notes.extend(found),
                None => return tampered(&path, "missing, or not the leaves that the anchor's checkpoint counts"),
            }
            number += 1;
        }
        let leaves: Vec<Digest32> = notes.iter().map(|note| sha2(&[&[0], note])).collect();
        if root(&leaves) != note.root {
            return tampered("anchor", format!("the root over {} checkpoints is not the one signed", note.size));
        }
        Ok(Some(Anchor { key, notes, leaves }))
    }

    /// All tiles are there and are what the leaves make them.
    fn check_anchor_files(&mut self, anchor: &Anchor) {
        // What a tile of each kind is made of: level 0 and up, the entries last.
        let mut kinds: Vec<(String, Vec<Vec<u8>>)> = vec![];
        let mut hashes = anchor.leaves.clone();
        while !hashes.is_empty() {
            kinds.push((kinds.len().to_string(), hashes.iter().map(|hash| hash.to_vec()).collect()));
            hashes = hashes.chunks_exact(WHOLE).map(root).collect();
        }
        let with_length = |note: &Vec<u8>| [&(note.len() as u16).to_be_bytes()[..], note].concat();
        kinds.push(("entries".into(), anchor.notes.iter().map(with_length).collect()));
        for (of, items) in &kinds {
            for (number, items) in items.chunks(WHOLE).enumerate() {
                let path = path(of, number as u64, items.len() % WHOLE);
                match self.ledger.read(&path) {
                    Ok(Some(bytes)) if bytes == items.concat() => {}
                    Ok(Some(_)) => self.tampered(Place::file(&path), "not what the anchor's leaves make it"),
                    Ok(None) => self.tampered(Place::file(&path), "missing from the anchor"),
                    Err(e) => self.unverifiable(Place::file(&path), e.to_string()),
                }
            }
        }
    }

    /// One leaf: a checkpoint that its chain continues.
    fn check_anchored(&mut self, log: &Log, chains: &[Chain], number: usize, note: &[u8]) {
        let place = Place::file("anchor");
        let note = std::str::from_utf8(note).map_err(|e| e.to_string()).and_then(Checkpoint::parse);
        let note = match note {
            Ok(note) => note,
            Err(why) => return self.tampered(place, format!("leaf {number} is no checkpoint: {why}")),
        };
        let Some(writer) = log.writer_of(&note.origin) else {
            return self.tampered(place, format!("leaf {number} is of `{}`", note.origin));
        };
        let Some(chain) = chains.iter().find(|chain| chain.writer == writer) else {
            return self.tampered(place, format!("writer {writer}, whose checkpoint leaf {number} is, is missing"));
        };
        if chain.damaged {
            return;
        }
        if chain.root_at(note.size) != Some(note.root) {
            let message = format!("not a continuation of its anchored checkpoint of size {}", note.size);
            self.tampered(Place::writer(&writer), message);
        } else if let Err(why) = signatures(log, chain, &note) {
            self.tampered(place, format!("leaf {number}: {why}"));
        }
    }

    /// Checkpoints of the anchor that were kept elsewhere: the anchor continues each.
    fn check_kept_anchor(
        &mut self,
        log: &Log,
        chains: &[Chain],
        anchor: &Anchor,
        kept: &Kept,
        now: WallNanos,
    ) -> Option<Duration> {
        let place = || Place::file(&kept.name);
        let notes = split_notes(&kept.notes);
        if notes.is_empty() {
            self.unverifiable(place(), "holds no checkpoint");
        }
        let mut most = None;
        for text in notes {
            let note = match Checkpoint::parse(&text) {
                Ok(note) => note,
                Err(why) => {
                    self.unverifiable(place(), format!("a note in it is malformed: {why}"));
                    continue;
                }
            };
            // Witnesses add lines of their own.
            if note.origin != anchor.key.name || !note.signatures.iter().any(|s| signs(&anchor.key, &note.text, s)) {
                self.unverifiable(place(), "not a checkpoint of this ledger's anchor");
                continue;
            }
            let held = anchor.leaves.len();
            let size = usize::try_from(note.size).ok().filter(|size| *size <= held);
            match size.map(|size| (size, root(&anchor.leaves[..size]))) {
                None => {
                    let message = format!("holds {held} checkpoints, the one in `{}` says {}", kept.name, note.size);
                    self.tampered(Place::file("anchor"), message);
                }
                Some((size, found)) if found != note.root => {
                    let message = format!("not a continuation of the checkpoint of size {size} in `{}`", kept.name);
                    self.tampered(Place::file("anchor"), message);
                }
                Some((size, _)) => most = most.max(Some(size)),
            }
        }
        let mut covered = BTreeMap::new();
        for note in &anchor.notes[..most?] {
            let note = std::str::from_utf8(note).ok().and_then(|text| Checkpoint::parse(text).ok())?;
            let chain = chains.iter().find(|chain| Some(&chain.writer) == log.writer_of(&note.origin).as_ref())?;
            let size = usize::try_from(note.size).ok().filter(|size| *size <= chain.walls.len())?;
            let most = covered.entry(&chain.writer).or_default();
            *most = size.max(*most);
        }
        self.age_of(chains, &covered, &kept.name, now)
    }
}

/// The key that the root vouches for.
fn anchor_key(log: &Log, bytes: &[u8]) -> Result<Vkey, String> {
    let note = std::str::from_utf8(bytes).map_err(|e| e.to_string()).and_then(Note::parse)?;
    if !matches!(&note.signatures[..], [one] if signs(&log.root, &note.text, one)) {
        return Err("not signed by the root key".into());
    }
    let (id, name) = (Hash(log.id).to_string(), format!("{}/anchor", log.origin));
    match note.text.split('\n').collect::<Vec<_>>()[..] {
        ["custody-anchor/1", log, key, ""] if log == id => {
            Vkey::parse(key).filter(|key| key.name == name).ok_or_else(|| "names no key of the anchor".into())
        }
        _ => Err("vouches for something else".into()),
    }
}

fn signs(key: &Vkey, text: &str, line: &super::note::SignatureLine) -> bool {
    line.name == key.name && line.key_id == key.id && key.verifies(text.as_bytes(), &line.signature)
}

/// Where a tile of this kind lies; `part` 0: the whole.
fn path(of: &str, number: u64, part: usize) -> String {
    let digits = number.to_string();
    let padded = format!("{}{digits}", "0".repeat((3 - digits.len() % 3) % 3));
    // Groups of three digits, all but the last with an `x`.
    let (groups, last) = padded.split_at(padded.len() - 3);
    let groups: String =
        groups.as_bytes().chunks(3).map(|group| format!("x{}/", String::from_utf8_lossy(group))).collect();
    let whole = format!("anchor/tile/{of}/{groups}{last}");
    if part == 0 { whole } else { format!("{whole}.p/{part}") }
}

/// u16 length, then the leaf, again and again.
pub(crate) fn bundle(bytes: &[u8]) -> Option<Vec<Vec<u8>>> {
    let (mut at, mut leaves) = (0, vec![]);
    while at < bytes.len() {
        let length = usize::from(u16::from_be_bytes([*bytes.get(at)?, *bytes.get(at + 1)?]));
        leaves.push(bytes.get(at + 2..at + 2 + length)?.to_vec());
        at += 2 + length;
    }
    Some(leaves)
}
