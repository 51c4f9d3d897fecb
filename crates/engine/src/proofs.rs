//! Proofs about the ledger's files, for someone who has neither them nor a server.
//!
//! Nothing here decides who may have a proof: an entry is read through a governed read first, by whoever calls.

use custody_ledger::{
    Genesis, Prover, SignedNote,
    verify::{NotProven, Proven, check_proof as check},
};
use custody_model::{Hash, Problem, WriterId};
use custody_store::FileDisk;
use std::path::Path;

/// Where an entry stands: `writer/seq`, or a receipt `log/writer/seq/leaf`.
pub fn entry_place(reference: &str) -> Result<(String, u64), Problem> {
    let parts: Vec<&str> = reference.split('/').collect();
    let (writer, seq) = match parts[..] {
        [writer, seq] => (writer, seq),
        [log, writer, seq, leaf] if [log, leaf].iter().all(|h| h.parse::<Hash>().is_ok()) => (writer, seq),
        _ => ("", ""),
    };
    let place = WriterId::new(writer).and_then(|w| Some((w.to_string(), seq.parse().ok()?)));
    place.ok_or_else(|| {
        Problem::new(1308, format!("`{reference}` names no entry")).help("writer/seq, or a receipt log/writer/seq/leaf")
    })
}

/// A proof that an entry with these stored bytes is in the ledger.
pub fn prove_entry(folder: &Path, writer: &str, seq: u64, entry: &[u8], anchored: bool) -> Result<Vec<u8>, Problem> {
    let disk = FileDisk::new(folder);
    let mut prover = prover(&disk, writer)?;
    if prover.bytes(seq).map_err(unproven)? != entry {
        return Err(Problem::new(4001, format!("the ledger has other bytes at {writer}/{seq} than were read"))
            .help("custody ledger verify"));
    }
    let proof = if anchored { prover.anchored(seq) } else { prover.entry(seq) };
    proof.map_err(unproven)
}

/// A proof that an entry is in the ledger, whatever its bytes: for what this process recorded itself.
pub(crate) fn prove_stored(folder: &Path, writer: &str, seq: u64) -> Result<Vec<u8>, Problem> {
    let disk = FileDisk::new(folder);
    prover(&disk, writer)?.entry(seq).map_err(unproven)
}

/// A proof that a writer's checkpoint continues an older one; without a newer one, its present checkpoint.
pub fn prove_consistency(folder: &Path, older: &str, newer: Option<&str>) -> Result<Vec<u8>, Problem> {
    let note = |text: &str| {
        SignedNote::parse(text.as_bytes()).and_then(|note| Ok((note.checkpoint()?.origin, note))).map_err(|e| {
            Problem::new(1308, format!("not a checkpoint: {e}")).help("one note of what `custody ledger keep` printed")
        })
    };
    let (origin, older) = note(older)?;
    let newer = newer.map(note).transpose()?.map(|(_, note)| note);
    let disk = FileDisk::new(folder);
    prover(&disk, origin.rsplit('/').next().unwrap_or_default())?.consistency(&older, newer.as_ref()).map_err(unproven)
}

/// The ledger's root key, which proofs are checked against: to be kept where proofs are checked.
pub fn root_key(folder: &Path) -> Result<String, Problem> {
    Genesis::load(&FileDisk::new(folder)).map(|g| g.root.to_string()).map_err(no_ledger)
}

/// Checks a proof: what it shows, in words, and an exit code (0 good, 4 false, 1 cannot check).
pub fn check_proof(proof: &[u8], root_key: &str) -> (String, u8) {
    match check(proof, root_key) {
        Ok(Proven::Entry { log, origin, seq, size, anchored, .. }) => {
            let anchored = anchored.map_or(String::new(), |n| format!(", anchored among {n} checkpoints"));
            (format!("entry {seq} of {size} in `{origin}` of ledger {log}{anchored}"), 0)
        }
        Ok(Proven::Consistency { log, origin, old, new }) => {
            (format!("`{origin}` of ledger {log}: {new} entries continue {old}"), 0)
        }
        Err(not @ (NotProven::False(_) | NotProven::CannotCheck(_))) => (not.to_string(), not.exit_code()),
    }
}

fn prover<'a>(disk: &'a FileDisk, writer: &str) -> Result<Prover<'a>, Problem> {
    let genesis = Genesis::load(disk).map_err(no_ledger)?;
    let writer = WriterId::new(writer).ok_or_else(|| Problem::new(1308, format!("`{writer}` is not a writer")))?;
    Prover::new(disk, &genesis, &writer).map_err(unproven)
}

fn no_ledger(e: custody_ledger::KeyError) -> Problem {
    Problem::new(1303, e.to_string())
}

fn unproven(e: custody_ledger::ProveFailed) -> Problem {
    Problem::new(1308, format!("no proof: {e}")).help("an entry can be proven once a checkpoint covers it")
}
