//! Mutations of a sound ledger, each of which the verifier must see, and changes that it must not mind.
//!
//! Covered by evidence is every byte of genesis, checkpoints, segments, edges, tiles, control objects and blobs that
//! entries name, but what a failed sync left behind in a segment. A ledger here has no such segment.

use super::{
    Files, Finding, Random,
    forge::{Own, Segment, fit_control, places, put_together, sign_stolen, take_apart},
    ledgers::{Shape, WAREHOUSE, Written, write, writer},
};
use crate::{
    Certificate, Checkpoint, Genesis, SignedNote, TreeSize,
    anchor::{AnchorKey, anchor, bundle},
    decode, encode,
    note::writer_origin,
    sim::fake_genesis,
    verify::{Kept, Outside, Report, TrustPolicy, Verdict, verify},
};
use custody_model::{Entry, Hash, KeyRecord, Payload, WallNanos};
use std::collections::BTreeMap;

/// How a ledger is mutated.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[expect(missing_docs, reason = "each is what its name says; `mutate` is the definition")]
pub enum Mutation {
    FlipBit,
    FlipBits,
    Overwrite,
    Truncate,
    Extend,
    InsertByte,
    RemoveByte,
    SwapSectors,
    CopySector,
    RemoveFile,
    ExchangeFiles,
    DoubleSegment,
    DropEntry,
    DoubleEntry,
    ReorderEntries,
    InsertEntry,
    AlterEntry,
    DropFrame,
    CutTail,
    RollBackWriter,
    RollBackLedger,
    RollBackCheckpoint,
    RemoveWriter,
    Fork,
    ForkCut,
    StripSignature,
    OldKey,
    OtherWritersKey,
    OwnKey,
    OwnRoot,
    RollBackAnchor,
    RemoveAnchor,
    ForkAnchor,
    OwnAnchorKey,
}

impl Mutation {
    /// Every one.
    pub const ALL: [Self; 34] = [
        Self::FlipBit,
        Self::FlipBits,
        Self::Overwrite,
        Self::Truncate,
        Self::Extend,
        Self::InsertByte,
        Self::RemoveByte,
        Self::SwapSectors,
        Self::CopySector,
        Self::RemoveFile,
        Self::ExchangeFiles,
        Self::DoubleSegment,
        Self::DropEntry,
        Self::DoubleEntry,
        Self::ReorderEntries,
        Self::InsertEntry,
        Self::AlterEntry,
        Self::DropFrame,
        Self::CutTail,
        Self::RollBackWriter,
        Self::RollBackLedger,
        Self::RollBackCheckpoint,
        Self::RemoveWriter,
        Self::Fork,
        Self::ForkCut,
        Self::StripSignature,
        Self::OldKey,
        Self::OtherWritersKey,
        Self::OwnKey,
        Self::OwnRoot,
        Self::RollBackAnchor,
        Self::RemoveAnchor,
        Self::ForkAnchor,
        Self::OwnAnchorKey,
    ];

    /// Whether only something that was kept elsewhere can show it: everything here may be as it once was, or signed.
    fn needs_memory(self) -> bool {
        matches!(
            self,
            Self::RollBackWriter
                | Self::RollBackLedger
                | Self::RollBackCheckpoint
                | Self::RemoveWriter
                | Self::Fork
                | Self::ForkCut
                | Self::OwnRoot
                | Self::RollBackAnchor
                | Self::RemoveAnchor
                | Self::ForkAnchor
        )
    }
}

/// What a search found, by mutation: runs, and how many of them ended in `tampered`; the rest could not be verified.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub struct Counts {
    /// Mutation → (runs, of which `tampered`).
    pub mutations: BTreeMap<Mutation, (u64, u64)>,
    /// Checks of sound ledgers and of changes that are none.
    pub sound: u64,
}

/// One shard: a ledger of about `entries` entries, `runs` mutations of it, and what must raise no alarm.
///
/// The first mutation that is not detected, or alarm that is false, ends it.
pub fn shard(shard: u64, entries: u64, runs: u64) -> Result<Counts, Finding> {
    let mut random = Random::new("mutations", shard, 0);
    let segment_bytes = [8, 16, 64][random.below(3)] * 1024;
    let ledger = write(&mut random, Shape { entries, segment_bytes, crashes: true })?;
    let mut counts =
        Counts { sound: sound(&ledger).map_err(|f| Finding(format!("shard {shard}: {f}")))?, ..Counts::default() };
    for run in 1..=runs {
        let mut random = Random::new("mutations", shard, run);
        let mutation = Mutation::ALL[random.below(Mutation::ALL.len())];
        let place = |what: String| Finding(format!("shard {shard}, run {run}, {mutation:?}: {what}"));
        let (files, how) = mutate(&ledger, mutation, &mut random).map_err(|f| place(f.0))?;
        let with_memory = mutation.needs_memory() || random.once_in(2);
        let report = check(&ledger, &files, with_memory);
        let count = counts.mutations.entry(mutation).or_default();
        count.0 += 1;
        match report.verdict {
            Verdict::Tampered => count.1 += 1,
            Verdict::CannotVerify => {}
            Verdict::Fresh | Verdict::FreshnessUnproven => return Err(place(format!("{how}: not detected: {report}"))),
        }
    }
    Ok(counts)
}

/// What must raise no alarm: the ledger alone, with what was kept of it now and earlier, as a copy of itself.
fn sound(ledger: &Written) -> Result<u64, Finding> {
    let early = crate::verify::keep(&ledger.half).map_err(|e| e.to_string())?;
    let late = &ledger.kept;
    let cases = [
        (&ledger.files, None, Verdict::FreshnessUnproven),
        (&ledger.files, Some(late), Verdict::Fresh),
        (&ledger.files, Some(&early), Verdict::Fresh),
        (&ledger.half, None, Verdict::FreshnessUnproven),
        (&ledger.half, Some(&early), Verdict::Fresh),
    ];
    let count = cases.len() as u64;
    for (n, (files, kept, expected)) in cases.into_iter().enumerate() {
        let since = kept.map(|notes| Kept { name: "kept".into(), notes: notes.clone() });
        // Receipts of the second half are not in the first.
        let receipts = if n < 3 { ledger.receipts.clone() } else { vec![] };
        let outside = Outside {
            since: since.into_iter().collect(),
            receipts,
            max_age: std::time::Duration::from_secs(1 << 30),
            ..Outside::none(ledger.now)
        };
        let report = verify(files, &TrustPolicy::default(), &outside);
        if report.verdict != expected || report.findings.iter().any(|f| f.grade > crate::verify::Grade::Notice) {
            return Err(Finding(format!("false alarm in case {n}: {report}")));
        }
    }
    Ok(count)
}

fn check(ledger: &Written, files: &Files, memory: bool) -> Report {
    let mut outside = Outside::none(ledger.now);
    if memory {
        outside.since.push(Kept { name: "kept".into(), notes: ledger.kept.clone() });
        outside.anchors.push(Kept { name: "anchored".into(), notes: ledger.anchored.clone() });
    }
    verify(files, &TrustPolicy::default(), &outside)
}

/// Every bit of a small ledger flipped, byte by byte of the files that `part` of `parts` says; each must be detected.
pub fn exhaustive(entries: u64, segment_bytes: u64, part: u64, parts: u64) -> Result<u64, Finding> {
    let mut random = Random::new("exhaustive", 0, 0);
    let ledger = write(&mut random, Shape { entries, segment_bytes, crashes: false })?;
    sound(&ledger)?;
    let mut done = 0;
    let mut number = 0;
    let parts_left = anchor_parts(&ledger.files);
    for (path, bytes) in &ledger.files.0 {
        if parts_left.contains(path) {
            continue;
        }
        for at in 0..bytes.len() {
            number += 1;
            if number % parts != part {
                continue;
            }
            for bit in 0..8 {
                let mut changed = bytes.to_vec();
                changed[at] ^= 1 << bit;
                let report = check(&ledger, &ledger.files.with(path, changed), false);
                if !matches!(report.verdict, Verdict::Tampered | Verdict::CannotVerify) {
                    return Err(Finding(format!("{path}, byte {at}, bit {bit}: not detected: {report}")));
                }
                done += 1;
            }
        }
    }
    Ok(done)
}

const WRITERS: [&str; 3] = ["serve", "cli-0", "cli-1"];

/// Alters a copy of a ledger; never into itself. The text says how.
fn mutate(ledger: &Written, mutation: Mutation, random: &mut Random) -> Result<(Files, String), Finding> {
    // A draw that changes nothing, swapping equal sectors for one, is drawn again.
    for _ in 0..1_000 {
        if let Some((files, how)) = attempt(ledger, mutation, random)?
            && files != ledger.files
        {
            return Ok((files, how));
        }
    }
    Err(Finding("no such mutation of this ledger was found".into()))
}

type Attempt = Result<Option<(Files, String)>, Finding>;

fn attempt(ledger: &Written, mutation: Mutation, random: &mut Random) -> Attempt {
    use Mutation as M;
    match mutation {
        M::FlipBit
        | M::FlipBits
        | M::Overwrite
        | M::Truncate
        | M::Extend
        | M::InsertByte
        | M::RemoveByte
        | M::SwapSectors
        | M::CopySector => Ok(bytes(&ledger.files, mutation, random)),
        M::RemoveFile | M::ExchangeFiles | M::DoubleSegment | M::RemoveWriter => {
            Ok(whole(&ledger.files, mutation, random))
        }
        M::DropEntry
        | M::DoubleEntry
        | M::ReorderEntries
        | M::InsertEntry
        | M::AlterEntry
        | M::DropFrame
        | M::CutTail
        | M::Fork
        | M::ForkCut => recomputed(&ledger.files, mutation, random),
        M::RollBackWriter | M::RollBackLedger | M::RollBackCheckpoint => Ok(rolled_back(ledger, mutation, random)),
        M::StripSignature | M::OldKey | M::OtherWritersKey => signatures(&ledger.files, mutation, random),
        M::OwnKey | M::OwnRoot => own(&ledger.files, mutation, random),
        M::RollBackAnchor | M::RemoveAnchor | M::ForkAnchor | M::OwnAnchorKey => anchored(ledger, mutation, random),
    }
}

/// Parts of the anchor's tiles that a later round has replaced: no evidence.
fn anchor_parts(files: &Files) -> Vec<String> {
    let size = |name: &str| name.rsplit('/').next().and_then(|part| part.parse::<u64>().ok()).unwrap_or(0);
    let parts: Vec<String> = files.below("anchor/").into_iter().filter(|path| path.contains(".p/")).collect();
    // A ledger here has fewer notes than a tile.
    let newest = parts.iter().map(|path| size(path)).max();
    parts.into_iter().filter(|path| Some(size(path)) != newest).collect()
}

/// Files that evidence covers; small ones come as often as large ones.
fn some_file(files: &Files, random: &mut Random) -> (String, Vec<u8>) {
    let kinds = ["w/", "w/", "genesis", "control/", "blob/", "anchor/"];
    let parts = anchor_parts(files);
    let covered = |mut paths: Vec<String>| {
        paths.retain(|path| !parts.contains(path));
        paths
    };
    let below = covered(files.below(kinds[random.below(kinds.len())]));
    let paths = if below.is_empty() { covered(files.below("")) } else { below };
    let path = paths[random.below(paths.len())].clone();
    let bytes = files.bytes(&path).to_vec();
    (path, bytes)
}

fn bytes(files: &Files, mutation: Mutation, random: &mut Random) -> Option<(Files, String)> {
    let (path, mut bytes) = some_file(files, random);
    let length = bytes.len();
    let used = bytes.iter().rposition(|b| *b != 0).map_or(1, |n| n + 1);
    // Mostly where something is written, zeros behind it now and then.
    let place = |random: &mut Random| if random.once_in(8) { random.below(length) } else { random.below(used) };
    let (at, other) = (place(random), place(random));
    match mutation {
        Mutation::FlipBit => bytes[at] ^= 1 << random.below(8),
        Mutation::FlipBits => {
            for _ in 0..2 + random.below(30) {
                let at = place(random);
                bytes[at] ^= 1 << random.below(8);
            }
        }
        Mutation::Overwrite => {
            let end = (at + 1 + random.below(600)).min(length);
            let zero = random.once_in(2);
            bytes[at..end].fill_with(|| if zero { 0 } else { random.number() as u8 });
        }
        Mutation::Truncate => bytes.truncate(at),
        Mutation::Extend => bytes.extend((0..1 + random.below(600)).map(|_| random.number() as u8)),
        Mutation::InsertByte => bytes.insert(at, [b'\n', b'\r', b' ', 0, random.number() as u8][random.below(5)]),
        Mutation::RemoveByte => drop(bytes.remove(at)),
        Mutation::SwapSectors | Mutation::CopySector => {
            let (a, b) = (at / 512 * 512, other / 512 * 512);
            if a == b || length < 1024 || length % 512 != 0 {
                return None;
            }
            let (one, two) = (bytes[a..a + 512].to_vec(), bytes[b..b + 512].to_vec());
            bytes[a..a + 512].copy_from_slice(&two);
            if mutation == Mutation::SwapSectors {
                bytes[b..b + 512].copy_from_slice(&one);
            }
        }
        _ => return None,
    }
    let how = format!("{path} at {at}, {other} of {length}");
    Some((files.with(&path, bytes), how))
}

fn whole(files: &Files, mutation: Mutation, random: &mut Random) -> Option<(Files, String)> {
    let mut changed = files.clone();
    let how = match mutation {
        Mutation::RemoveFile => {
            let (path, _) = some_file(files, random);
            // A ledger may be without it.
            if path.ends_with("/edge") {
                return None;
            }
            changed.0.remove(&path);
            path
        }
        Mutation::ExchangeFiles => {
            let (one, bytes) = some_file(files, random);
            let (two, others) = some_file(files, random);
            changed = changed.with(&one, others).with(&two, bytes);
            format!("{one} and {two}")
        }
        Mutation::DoubleSegment => {
            let name = WRITERS[random.below(WRITERS.len())];
            let segments = files.below(&format!("w/{name}/seg/"));
            let copied = &segments[random.below(segments.len())];
            let next = format!("w/{name}/seg/{:012}.seg", segments.len() + 1);
            changed = changed.with(&next, files.bytes(copied).to_vec());
            format!("{copied} as {next}")
        }
        Mutation::RemoveWriter => {
            let name = WRITERS[random.below(WRITERS.len())];
            files.below(&format!("w/{name}/")).iter().for_each(|path| drop(changed.0.remove(path)));
            name.to_string()
        }
        _ => return None,
    };
    Some((changed, how))
}

/// Entries altered and everything computed anew, but for signatures; with `Fork` and `ForkCut` those as well.
fn recomputed(files: &Files, mutation: Mutation, random: &mut Random) -> Attempt {
    let name = WRITERS[random.below(WRITERS.len())];
    let mut segments = take_apart(files, name)?;
    let all = places(&segments);
    let at = random.below(all.len());
    let (s, f, e) = all[at];
    let (os, of, oe) = all[random.below(all.len())];
    let other = segments[os].frames[of].entries[oe].clone();
    match mutation {
        Mutation::DropEntry => drop(segments[s].frames[f].entries.remove(e)),
        Mutation::DoubleEntry => {
            let entry = segments[s].frames[f].entries[e].clone();
            segments[s].frames[f].entries.insert(e + random.below(2), entry);
        }
        Mutation::ReorderEntries => {
            let entry = std::mem::replace(&mut segments[s].frames[f].entries[e], other);
            segments[os].frames[of].entries[oe] = entry;
        }
        Mutation::InsertEntry => {
            let entry = another(&other, random)?;
            segments[s].frames[f].entries.insert(e, entry);
        }
        Mutation::AlterEntry | Mutation::Fork => {
            let entry = another(&segments[s].frames[f].entries[e], random)?;
            segments[s].frames[f].entries[e] = entry;
        }
        Mutation::DropFrame => drop(segments[s].frames.remove(f)),
        Mutation::CutTail | Mutation::ForkCut => cut(&mut segments, s, f, e),
        _ => return Ok(None),
    }
    let mut changed = files.clone();
    let (size, root) = put_together(&mut changed, name, &segments, fake_genesis(WAREHOUSE).log_id())?;
    if size == 0 {
        return Ok(None);
    }
    if random.once_in(2) || mutation == Mutation::Fork {
        fit_control(&mut changed)?;
    }
    if matches!(mutation, Mutation::Fork | Mutation::ForkCut) {
        sign_stolen(&mut changed, name, size, root)?;
    }
    Ok(Some((changed, format!("writer {name}, entry {at} of {}", all.len()))))
}

/// Everything from an entry on is gone.
fn cut(segments: &mut Vec<Segment>, s: usize, f: usize, e: usize) {
    segments.truncate(s + 1);
    if let Some(segment) = segments.last_mut() {
        segment.frames.truncate(f + 1);
        if let Some(frame) = segment.frames.last_mut() {
            frame.entries.truncate(e);
        }
    }
}

/// A sound entry that says something else.
fn another(bytes: &[u8], random: &mut Random) -> Result<Vec<u8>, Finding> {
    let entry = decode(bytes, &crate::NoBlobs).map_err(|e| e.to_string())?;
    let wall = WallNanos(entry.wall.0 + 1 + random.below(1_000) as i64);
    Ok(encode(&Entry { wall, ..entry }).map_err(|e| e.to_string())?.entry.as_bytes().to_vec())
}

fn rolled_back(ledger: &Written, mutation: Mutation, random: &mut Random) -> Option<(Files, String)> {
    let name = WRITERS[random.below(WRITERS.len())];
    let files = match mutation {
        Mutation::RollBackLedger => ledger.half.clone(),
        Mutation::RollBackWriter => {
            let folder = format!("w/{name}/");
            let mut files = ledger.files.clone();
            files.0.retain(|path, _| !path.starts_with(&folder));
            let old = ledger.half.0.iter().filter(|(path, _)| path.starts_with(&folder));
            files.0.extend(old.map(|(path, bytes)| (path.clone(), bytes.clone())));
            files
        }
        Mutation::RollBackCheckpoint => {
            let path = format!("w/{name}/checkpoint");
            let old = ledger.half.0.get(&path)?;
            ledger.files.with(&path, old.to_vec())
        }
        _ => return None,
    };
    Some((files, format!("writer {name}")))
}

fn signatures(files: &Files, mutation: Mutation, random: &mut Random) -> Attempt {
    let name = WRITERS[random.below(WRITERS.len())];
    let path = format!("w/{name}/checkpoint");
    let note = SignedNote::parse(files.bytes(&path)).map_err(|e| e.to_string())?;
    let genesis = fake_genesis(WAREHOUSE);
    let by = |signer: crate::sim::FakeSigner| -> Result<Vec<u8>, Finding> {
        use crate::Signer;
        let signature = signer.sign(note.text().as_bytes()).map_err(|e| e.to_string())?.to_vec();
        let line = crate::NoteSignature { name: signer.key().name().into(), id: signer.key().id(), signature };
        Ok(SignedNote::new(note.text().to_string(), vec![line]).to_bytes())
    };
    let bytes = match mutation {
        Mutation::StripSignature => {
            let mut doubled = note.signatures().to_vec();
            let lines = if random.once_in(2) {
                doubled.extend(note.signatures().to_vec());
                doubled
            } else {
                vec![]
            };
            SignedNote::new(note.text().to_string(), lines).to_bytes()
        }
        Mutation::OldKey => {
            use crate::Signer;
            let keys = (1..100).map(|epoch| Ok((epoch, crate::sim::FakeSigner::new(&genesis, &writer(name)?, epoch))));
            let keys = keys.collect::<Result<Vec<_>, Finding>>()?;
            let unused = keys.iter().filter(|(_, k)| note.signatures().iter().all(|line| line.id != k.key().id()));
            let used: Vec<u64> = unused.map(|(epoch, _)| *epoch).collect();
            by(crate::sim::FakeSigner::new(&genesis, &writer(name)?, used[random.below(used.len())]))?
        }
        Mutation::OtherWritersKey => {
            let other = WRITERS[random.below(WRITERS.len())];
            if other == name {
                return Ok(None);
            }
            by(crate::sim::FakeSigner::new(&genesis, &writer(other)?, 1 + random.below(9) as u64))?
        }
        _ => return Ok(None),
    };
    Ok(Some((files.with(&path, bytes), path)))
}

/// The forger's own key in place of a writer's, or the forger's own root in place of the ledger's.
fn own(files: &Files, mutation: Mutation, random: &mut Random) -> Attempt {
    let root = Own::new(&format!("{WAREHOUSE}/root"), random.bytes())?;
    let mut changed = files.clone();
    let mut genesis = fake_genesis(WAREHOUSE);
    let mut names = vec![WRITERS[random.below(WRITERS.len())]];
    if mutation == Mutation::OwnRoot {
        genesis = Genesis { warehouse: WAREHOUSE.to_string(), root: root.key.clone() };
        changed = changed.with(crate::GENESIS_PATH, genesis.to_bytes());
        names = WRITERS.to_vec();
    }
    for name in &names {
        let mut segments = take_apart(files, name)?;
        let key = Own::new(&writer_origin(WAREHOUSE, &writer(name)?), random.bytes())?;
        for (s, f, e) in places(&segments) {
            let entry = &mut segments[s].frames[f].entries[e];
            let decoded = decode(entry, &crate::NoBlobs);
            let Ok(Entry { payload: Payload::Key(old), .. }) = &decoded else { continue };
            let (log_id, epoch) = (genesis.log_id(), old.epoch);
            let key = key.key.clone();
            let expires = WallNanos(i64::MAX);
            let vkey = key.to_string();
            let certificate = Certificate { log_id, writer: writer(name)?, epoch, key, expires }.to_string();
            let certificate = root.note(certificate).to_bytes();
            let payload = Payload::Key(KeyRecord { epoch, vkey, certificate, revoke: None });
            let decoded = decoded.map_err(|e| e.to_string())?;
            *entry = encode(&Entry { payload, ..decoded }).map_err(|e| e.to_string())?.entry.as_bytes().to_vec();
        }
        let (size, tree) = put_together(&mut changed, name, &segments, genesis.log_id())?;
        let text = checkpoint(name, size, tree)?;
        changed = changed.with(&format!("w/{name}/checkpoint"), key.note(text).to_bytes());
    }
    Ok(Some((changed, names.join(", "))))
}

/// The anchor as it once was, gone, made anew of some of its leaves with its own key, or under the forger's key.
fn anchored(ledger: &Written, mutation: Mutation, random: &mut Random) -> Attempt {
    let mut changed = ledger.files.clone();
    let all = changed.below("anchor/");
    let parts = anchor_parts(&changed);
    let bundle_at = all.iter().find(|path| path.contains("/entries/") && !parts.contains(path));
    let leaves = bundle_at.and_then(|path| bundle(changed.bytes(path))).unwrap_or_default();
    // What is no evidence stays, so that a draw that changes nothing is seen to be none.
    all.iter().filter(|path| !parts.contains(path)).for_each(|path| drop(changed.0.remove(path)));
    let remade = |key: &AnchorKey, leaves: &[Vec<u8>]| -> Result<Files, Finding> {
        let disk = crate::sim::SimDisk::new();
        anchor(&disk, key, leaves).map_err(|e| e.to_string())?;
        Ok(Files::of(&disk).map_err(|e| e.to_string())?)
    };
    let genesis = fake_genesis(WAREHOUSE);
    let files = match mutation {
        Mutation::RollBackAnchor => ledger.half.clone(),
        Mutation::RemoveAnchor => Files::default(),
        Mutation::ForkAnchor => {
            let mut leaves = leaves;
            let at = random.below(leaves.len());
            match random.below(3) {
                0 => drop(leaves.remove(at)),
                1 => leaves.swap(0, at),
                _ => leaves.truncate(at),
            }
            remade(&crate::sim::fake_anchor(&genesis), &leaves)?
        }
        _ => {
            let root = ed25519_dalek::SigningKey::from_bytes(&random.bytes());
            let own = AnchorKey::new(&genesis, &root, random.bytes()).map_err(|e| e.to_string())?;
            remade(&own, &leaves)?
        }
    };
    let taken = files.below("anchor/");
    for path in &taken {
        changed = changed.with(path, files.bytes(path).to_vec());
    }
    Ok(Some((changed, format!("{} files", taken.len()))))
}

fn checkpoint(name: &str, size: u64, root: Hash) -> Result<String, Finding> {
    let origin = writer_origin(WAREHOUSE, &writer(name)?);
    Ok(Checkpoint { origin, size: TreeSize(size), root }.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_mutation_of_small_and_large_ledgers_is_detected() {
        let mut all = Counts::default();
        for (number, entries, runs) in [(0, 1_000, 200), (1, 1_000, 200), (2, 100, 800), (3, 60, 800)] {
            let counts = shard(number, entries, runs).unwrap_or_else(|f| panic!("{f}"));
            all.sound += counts.sound;
            for (mutation, count) in counts.mutations {
                let sum = all.mutations.entry(mutation).or_default();
                *sum = (sum.0 + count.0, sum.1 + count.1);
            }
        }
        assert_eq!(all.mutations.len(), Mutation::ALL.len(), "{all:?}");
        assert_eq!(all.mutations.values().map(|(runs, _)| runs).sum::<u64>(), 2_000);
    }

    #[test]
    fn a_bit_anywhere_in_a_small_ledger() {
        let done = exhaustive(20, 4096, 7, 311).unwrap_or_else(|f| panic!("{f}"));
        assert!(done > 500, "{done}");
    }
}
