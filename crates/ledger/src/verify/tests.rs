#![allow(clippy::expect_used, clippy::panic)]

use super::*;
use crate::{
    Chain, ChainOptions, Disk, Signer, blob_ref, control, encode, put_blob,
    segment::frame_bytes,
    sim::{FakeSigner, Fault, SimDisk, fake_genesis},
    tree::{Sha3, Tree, TreeHash},
};
use custody_model::{
    CatalogChange, ControlSeq, DatasetId, Denied, Entry, EntryId, Measure, Outcome, Payload, PolicyBundleRecord,
    Reason, Verb,
};
use uuid::Uuid;

const START: i64 = 1_790_000_000_000_000_000;
const SECOND: i64 = 1_000_000_000;
const SEGMENT: u64 = 4 * 1024;

/// The verifier's view of a disk.
struct Files(SimDisk);

fn files(disk: &SimDisk) -> Files {
    Files(disk.clone())
}

impl Source for Files {
    fn list(&self, folder: &str) -> Result<Vec<String>, Unreadable> {
        self.0.list(folder).map_err(|e| Unreadable { path: folder.into(), why: e.to_string() })
    }

    fn read(&self, path: &str) -> Result<Option<Vec<u8>>, Unreadable> {
        self.0.read(path).map_err(|e| Unreadable { path: path.into(), why: e.to_string() })
    }
}

fn writer(name: &str) -> WriterId {
    WriterId::new(name).expect("a writer")
}

fn at(second: i64) -> WallNanos {
    WallNanos(START + second * SECOND)
}

fn entry(number: u64, wall: WallNanos, payload: Payload) -> Entry {
    Entry {
        id: EntryId(Uuid::from_u128(u128::from(number) | 7 << 76 | 2 << 62)),
        wall,
        reference: None,
        control_seq: ControlSeq(0),
        trace: None,
        actor: None,
        verb: Verb::Read,
        targets: vec![],
        outcome: Outcome::Denied,
        reason: Reason::default(),
        measure: Measure::default(),
        payload,
    }
}

fn denied(number: u64, wall: WallNanos) -> Entry {
    let code = format!("C{number:04}");
    entry(number, wall, Payload::Denied(Denied { code, statement_hash: None, targets: vec![], count: 1 }))
}

fn change(number: u64, seq: u64, wall: WallNanos) -> Entry {
    let change =
        CatalogChange::External { id: DatasetId(Uuid::from_u128(seq.into())), name: "raw.a".parse().expect("a name") };
    Entry { control_seq: ControlSeq(seq), ..entry(number, wall, Payload::CatalogChange(change)) }
}

/// Writes a small ledger, each step as a real writer does; stops at the first failure, as a process would.
fn write(disk: &SimDisk) -> Result<(), String> {
    let genesis = fake_genesis("clinic");
    genesis.store(disk).map_err(|e| e.to_string())?;
    for (n, name) in ["serve", "cli-0"].into_iter().enumerate() {
        write_chain(disk, name, n as u64 * 1_000).map_err(|e| format!("{name}: {e}"))?;
    }
    Ok(())
}

fn write_chain(disk: &SimDisk, name: &str, base: u64) -> Result<(), String> {
    let genesis = fake_genesis("clinic");
    let first_second = base as i64 / 100;
    let options = ChainOptions { writer: writer(name), segment_bytes: SEGMENT, seed: [base as u8 ^ 5; 32] };
    let opened = Chain::open(disk.clone(), &genesis, options, at(first_second));
    let (mut chain, _) = opened.map_err(|e| e.to_string())?;
    let signer = FakeSigner::new(&genesis, &writer(name), chain.key_epoch().unwrap_or(1));
    let mut number = base + chain.size().0 * 10_000;
    for round in 0..10u64 {
        let now = at(first_second + round as i64);
        let mut frame = vec![];
        for _ in 0..=round % 4 {
            number += 1;
            frame.push(encode(&denied(number, now)).map_err(|e| e.to_string())?.entry);
        }
        if name == "serve" && round % 3 == 1 {
            number += 1;
            let next = control::newest(disk, ControlSeq(0)).map_err(|e| e.to_string())?.0 + 1;
            let change = encode(&change(number, next, now)).map_err(|e| e.to_string())?.entry;
            control::claim(disk, ControlSeq(next), &change).map_err(|e| e.to_string())?;
            frame.push(change);
        }
        if name == "cli-0" && round == 5 {
            number += 1;
            let blob = put_blob(disk, b"a policy bundle").map_err(|e| e.to_string())?;
            let next = control::newest(disk, ControlSeq(0)).map_err(|e| e.to_string())?.0 + 1;
            let record = PolicyBundleRecord {
                epoch: 1,
                hash: blob_ref(b"x").hash,
                blob,
                approvers: vec![],
                because: "why not".into(),
                relabelled: vec![],
            };
            let bundle = Entry { control_seq: ControlSeq(next), ..entry(number, now, Payload::PolicyBundle(record)) };
            let bundle = encode(&bundle).map_err(|e| e.to_string())?.entry;
            control::claim(disk, ControlSeq(next), &bundle).map_err(|e| e.to_string())?;
            frame.push(bundle);
        }
        chain.commit(&frame, now).map_err(|e| e.to_string())?;
        if round % 4 == 3 {
            chain.checkpoint(&signer, now).map_err(|e| e.to_string())?;
        }
    }
    chain.close(&signer, at(first_second + 10)).map_err(|e| e.to_string())?;
    Ok(())
}

/// Puts the present checkpoints into the anchor.
fn anchored(disk: &SimDisk) {
    let notes: Vec<_> =
        ["serve", "cli-0"].iter().filter_map(|w| disk.read(&format!("w/{w}/checkpoint")).ok()?).collect();
    crate::anchor(disk, &crate::sim::fake_anchor(&fake_genesis("clinic")), &notes).expect("an anchor");
}

fn ledger() -> SimDisk {
    let disk = SimDisk::new();
    write(&disk).expect("a sound disk");
    disk
}

fn check(disk: &SimDisk) -> Report {
    verify(&files(disk), &TrustPolicy::default(), &Outside::none(at(60)))
}

fn check_since(disk: &SimDisk, notes: &str) -> Report {
    let since = vec![Kept { name: "kept.txt".into(), notes: notes.into() }];
    verify(&files(disk), &TrustPolicy::default(), &Outside { since, ..Outside::none(at(60)) })
}

/// A copy that can be tampered with.
fn copy(disk: &SimDisk) -> SimDisk {
    disk.process_killed()
}

fn tampered(disk: &SimDisk, path: &str, change: impl FnOnce(&mut Vec<u8>)) -> SimDisk {
    let other = copy(disk);
    assert!(other.tamper(path, change), "{path}");
    other
}

const SERVE: &str = "w/serve/seg/000000000001.seg";

#[test]
fn a_sound_ledger_is_consistent_and_fresh_only_from_outside() {
    let disk = ledger();
    let report = check(&disk);
    assert_eq!((report.verdict, report.findings.as_slice()), (Verdict::FreshnessUnproven, &[][..]), "{report}");
    let first = report.render().lines().next().map(str::to_string);
    assert_eq!(first, Some(format!("consistent up to {} entries; freshness unproven", report.entries())));
    assert!(report.writers.iter().all(|w| w.closed && w.signed == Some(w.size)), "{report}");
    assert!(report.writers.iter().any(|w| w.segments > 1), "{report}");
    let kept = keep(&files(&disk)).expect("notes");
    assert_eq!(check_since(&disk, &kept).verdict, Verdict::Fresh);
    let mirror = files(&copy(&disk));
    let mirrors = vec![Mirror { name: "mirror", files: &mirror }];
    let outside = Outside { mirrors, ..Outside::none(at(60)) };
    assert_eq!(verify(&files(&disk), &TrustPolicy::default(), &outside).verdict, Verdict::Fresh);
    let old = Outside { now: at(100_000), ..outside };
    let report = verify(&files(&disk), &TrustPolicy::default(), &old);
    assert_eq!(report.verdict, Verdict::FreshnessUnproven);
    assert!(report.render().contains("freshness unproven: outside memory is 27 h old"), "{report}");
    let early = Outside { now: at(-100_000), ..old };
    assert_eq!(verify(&files(&disk), &TrustPolicy::default(), &early).verdict, Verdict::FreshnessUnproven);
}

#[test]
fn no_flipped_bit_goes_unnoticed() {
    let disk = ledger();
    let everything = std::env::var_os("CUSTODY_EXHAUSTIVE").is_some();
    let mut checked = 0;
    for path in disk.paths().into_iter().filter(|p| !p.ends_with("LOCK")) {
        let length = disk.read(&path).ok().flatten().map_or(0, |b| b.len());
        let (step, first) = if everything { (1, 0) } else { (37, path.len() % 37) };
        for byte in (first..length).step_by(step) {
            let report = check(&tampered(&disk, &path, |b| b[byte] ^= 1 << (byte % 8)));
            let caught = matches!(report.verdict, Verdict::Tampered | Verdict::CannotVerify);
            assert!(caught, "{path} byte {byte}: {report}");
            checked += 1;
        }
    }
    assert!(checked > 400, "{checked}");
}

#[test]
fn findings_say_where() {
    let disk = ledger();
    // The first frame after the header holds one entry of the writer's own.
    let flipped = tampered(&disk, SERVE, |b| b[512 + 104 + 2 + 20] ^= 1);
    let report = check(&flipped);
    assert_eq!(report.verdict.exit_code(), 4);
    let first = report.render().lines().next().map(str::to_string);
    assert_eq!(first.as_deref(), Some("tampered: writer serve seq 0: entry does not match its leaf"));
    let header = check(&tampered(&disk, SERVE, |b| b[20] ^= 1)).render();
    assert!(header.contains("writer serve segment 1 offset 0: the header does not match its checksum"), "{header}");
    let newer = check(&tampered(&disk, SERVE, |b| {
        b[9] = 2;
        let crc = crc32c::crc32c(&b[..508]);
        b[508..512].copy_from_slice(&crc.to_be_bytes());
    }));
    assert_eq!(newer.verdict, Verdict::CannotVerify);
    assert!(newer.render().contains("ledger format 2 is newer than this verifier reads (1)"), "{newer}");
}

#[test]
fn cutting_removing_and_replacing_is_tampering() {
    let disk = ledger();
    let gone = |path: &str| {
        let other = copy(&disk);
        assert!(other.remove(path), "{path}");
        other
    };
    // A ledger may be without edges, which only say where opening begins to read.
    for path in disk.paths().into_iter().filter(|p| !p.ends_with("LOCK") && !p.ends_with("edge") && p != "genesis") {
        let report = check(&gone(&path));
        assert_eq!(report.verdict, Verdict::Tampered, "{path}: {report}");
    }
    assert_eq!(check(&gone("genesis")).verdict, Verdict::CannotVerify);
    let shorter = check(&tampered(&disk, SERVE, |b| b.truncate(2048)));
    assert_eq!(shorter.verdict, Verdict::Tampered, "{shorter}");
    let signature = check(&tampered(&disk, "w/serve/checkpoint", |b| {
        let text = String::from_utf8_lossy(b).into_owned();
        *b = text.as_bytes()[..text.rfind("\n\n").expect("a note") + 2].to_vec();
    }));
    assert_eq!(signature.verdict, Verdict::Tampered, "{signature}");
}

/// The frames of a segment: offset and length.
fn frames(bytes: &[u8]) -> Vec<(usize, usize)> {
    let mut at = 512;
    let mut out = vec![];
    while bytes.get(at..at + 4) == Some(b"FRM1") {
        let total = u32::from_be_bytes([bytes[at + 4], bytes[at + 5], bytes[at + 6], bytes[at + 7]]) as usize;
        out.push((at, total));
        at += total;
    }
    out
}

/// What a tamperer does to the frames of a segment: lists of entries.
type Change = fn(&mut Vec<Vec<Vec<u8>>>);

/// Writes a segment anew from lists of entries, with every checksum, hash and root as a writer would make them.
fn rewritten(bytes: &[u8], lists: &[Vec<Vec<u8>>]) -> Vec<u8> {
    let salt: [u8; 16] = bytes[128..144].try_into().expect("a salt");
    let mut out = bytes[..512].to_vec();
    let mut previous = Hash(sha3(&[&[3], &bytes[..512]]));
    let mut seq = 0;
    for list in lists {
        let entries: Vec<&[u8]> = list.iter().map(Vec::as_slice).collect();
        let mut leaves = vec![Hash::default(); entries.len()];
        Sha3::leaves(&entries, &mut leaves);
        let root = Tree::<Sha3>::from_leaves(&leaves).root();
        let (frame, hash) = frame_bytes(&entries, seq, at(1), &previous, &root, &salt).expect("a frame");
        seq += entries.len() as u64;
        previous = hash;
        out.extend(frame);
    }
    out.resize(bytes.len().max(out.len()), 0);
    out.truncate(bytes.len());
    out
}

fn lists(bytes: &[u8]) -> Vec<Vec<Vec<u8>>> {
    let entries = |(at, total): (usize, usize)| {
        let length = u32::from_be_bytes([bytes[at + 20], bytes[at + 21], bytes[at + 22], bytes[at + 23]]) as usize;
        let mut body = &bytes[at + 104..(at + 104 + length).min(at + total)];
        let mut out = vec![];
        while let [a, b, rest @ ..] = body {
            let (entry, after) = rest.split_at(usize::from(u16::from_be_bytes([*a, *b])));
            out.push(entry.to_vec());
            body = after;
        }
        out
    };
    frames(bytes).into_iter().map(entries).collect()
}

#[test]
fn a_chain_that_was_recomputed_does_not_fit_its_checkpoint() {
    let disk = ledger();
    let bytes = disk.read(SERVE).ok().flatten().expect("a segment");
    assert_eq!(rewritten(&bytes, &lists(&bytes)).len(), bytes.len());
    let variants: [(&str, Change); 4] = [
        ("dropped", |l| drop(l.remove(2))),
        ("reordered", |l| l.swap(2, 3)),
        ("doubled", |l| l.insert(2, l[2].clone())),
        ("altered", |l| l[2][0][30] ^= 1),
    ];
    for (what, change) in variants {
        let mut changed = lists(&bytes);
        change(&mut changed);
        changed.retain(|l| !l.is_empty());
        let report = check(&tampered(&disk, SERVE, |b| *b = rewritten(&bytes, &changed)));
        assert_eq!(report.verdict, Verdict::Tampered, "{what}: {report}");
    }
    let cut = tampered(&disk, SERVE, |b| {
        if let Some((at, _)) = frames(b).get(3).copied() {
            b[at..].fill(0);
        }
    });
    assert_eq!(check(&cut).verdict, Verdict::Tampered);
}

#[test]
fn outside_memory_shows_rollback_forks_and_missing_writers() {
    let young = SimDisk::new();
    fake_genesis("clinic").store(&young).expect("a genesis");
    write_chain(&young, "serve", 0).expect("a chain");
    let old = copy(&young);
    write_chain(&young, "serve", 1_000).expect("more of the chain");
    write_chain(&young, "cli-0", 2_000).expect("another chain");
    let (kept, before) = (keep(&files(&young)).expect("notes"), keep(&files(&old)).expect("notes"));
    assert_eq!(check_since(&young, &kept).verdict, Verdict::Fresh);
    assert_eq!(check_since(&young, &before).verdict, Verdict::Fresh, "a longer chain continues an old note");
    let rolled_back = check_since(&old, &kept);
    assert_eq!(rolled_back.verdict, Verdict::Tampered);
    assert!(rolled_back.render().contains("writer cli-0: writer is missing"), "{rolled_back}");
    assert!(rolled_back.render().contains("writer serve: ledger holds"), "{rolled_back}");
    assert_eq!(check(&old).verdict, Verdict::FreshnessUnproven, "nothing here can show it");
    // A fork: the same key signs another story of the same length.
    let fork = SimDisk::new();
    fake_genesis("clinic").store(&fork).expect("a genesis");
    write_chain(&fork, "serve", 3_000).expect("a chain");
    assert_eq!(check(&fork).verdict, Verdict::FreshnessUnproven);
    let report = check_since(&fork, &before);
    assert_eq!(report.verdict, Verdict::Tampered);
    assert!(report.render().contains("not a continuation of the checkpoint of size"), "{report}");
    // Receipts are outside memory as well.
    let receipt = |log: &str, leaf: Hash| format!("{log}/serve/1/{leaf}");
    let log = Hash(fake_genesis("clinic").log_id().0).to_string();
    for (receipts, verdict) in [
        (receipt(&log, Hash([1; 32])), Verdict::Tampered),
        (receipt(&Hash([1; 32]).to_string(), Hash([1; 32])), Verdict::CannotVerify),
    ] {
        let outside = Outside { receipts: vec![receipts], ..Outside::none(at(60)) };
        assert_eq!(verify(&files(&young), &TrustPolicy::default(), &outside).verdict, verdict);
    }
}

#[test]
fn kept_notes_that_prove_nothing_are_said_to() {
    let disk = ledger();
    let kept = keep(&files(&disk)).expect("notes");
    for (notes, verdict) in [
        (String::new(), Verdict::CannotVerify),
        ("nonsense\n".to_string(), Verdict::CannotVerify),
        (kept.replace("clinic/", "other/"), Verdict::CannotVerify),
        (
            kept.replacen("\u{2014} clinic/sha3-256/cli-0 ", "\u{2014} clinic/sha3-256/cli-0 A", 1),
            Verdict::CannotVerify,
        ),
    ] {
        assert_eq!(check_since(&disk, &notes).verdict, verdict, "{notes}");
    }
    // Only one writer's note: the other might have been rolled back to nothing.
    let one = split_notes(&kept).swap_remove(0);
    let report = check_since(&disk, &one);
    assert_eq!(report.verdict, Verdict::Fresh, "{report}");
    assert!(report.memory_age.is_some_and(|age| age >= Duration::from_secs(59)), "{report}");
}

#[test]
fn keys_count_only_if_committed_and_certified() {
    let disk = ledger();
    let genesis = fake_genesis("clinic");
    let sign = |signer: &FakeSigner| {
        tampered(&disk, "w/serve/checkpoint", |b| {
            let text = String::from_utf8_lossy(b).into_owned();
            let text = &text[..text.rfind("\n\n").expect("a note") + 1];
            let signature = signer.sign(text.as_bytes()).expect("a signature").to_vec();
            let line = crate::NoteSignature { name: signer.key().name().into(), id: signer.key().id(), signature };
            *b = crate::SignedNote::new(text.into(), vec![line]).to_bytes();
        })
    };
    assert_eq!(check(&sign(&FakeSigner::new(&genesis, &writer("serve"), 1))).verdict, Verdict::FreshnessUnproven);
    for other in [FakeSigner::new(&genesis, &writer("serve"), 2), FakeSigner::new(&genesis, &writer("cli-0"), 1)] {
        assert_eq!(check(&sign(&other)).verdict, Verdict::Tampered);
    }
    let trust = TrustPolicy { log: Some(Hash([3; 32])), root: None };
    assert_eq!(verify(&files(&disk), &trust, &Outside::none(at(60))).verdict, Verdict::Tampered);
    let trust = TrustPolicy { log: Some(genesis.log_id()), root: Some(genesis.root.to_string()) };
    assert_eq!(verify(&files(&disk), &trust, &Outside::none(at(60))).verdict, Verdict::FreshnessUnproven);
}

/// What a crash, a power loss or a failing disk leaves is never called tampering: not before the chain is opened again,
/// and not after.
#[test]
fn no_fault_of_the_disk_passes_for_tampering() {
    let operations = {
        let disk = SimDisk::new();
        write(&disk).expect("a sound disk");
        disk.operations()
    };
    let faults =
        [Fault::Fail, Fault::FailButHappened, Fault::NoSpace, Fault::Half, Fault::StopBefore, Fault::StopAfter];
    let everything = std::env::var_os("CUSTODY_EXHAUSTIVE").is_some();
    for operation in (0..operations).step_by(if everything { 1 } else { 3 }) {
        for fault in faults {
            let disk = SimDisk::new();
            disk.fault(operation, fault);
            let written = write(&disk);
            let after = [disk.process_killed(), disk.power_loss(operation), disk.power_loss(operation + 1_000)];
            for (n, left) in after.into_iter().enumerate() {
                let place = format!("{fault:?} at operation {operation}, variant {n}, {written:?}");
                if left.len("genesis").ok().flatten().is_none() {
                    continue;
                }
                let report = check(&left);
                let unsigned = |f: &Finding| f.message.starts_with("no checkpoint signs");
                let explained = match report.verdict {
                    Verdict::FreshnessUnproven => true,
                    Verdict::CannotVerify => report.findings.iter().all(|f| f.grade == Grade::Notice || unsigned(f)),
                    Verdict::Tampered | Verdict::Fresh => false,
                };
                assert!(explained, "{place}: {report}");
                for (name, base) in [("serve", 4_000), ("cli-0", 5_000)] {
                    if let Err(e) = write_chain(&left, name, base) {
                        panic!("{place}: {e}");
                    }
                }
                let report = check(&left);
                assert_eq!(report.verdict, Verdict::FreshnessUnproven, "{place}, opened again: {report}");
            }
        }
    }
}

#[test]
fn a_torn_tail_that_was_put_aside_is_still_evidence() {
    let disk = SimDisk::new();
    let genesis = fake_genesis("clinic");
    genesis.store(&disk).expect("a genesis");
    let options = ChainOptions { writer: writer("serve"), segment_bytes: SEGMENT, seed: [1; 32] };
    let (mut chain, _) = Chain::open(disk.clone(), &genesis, options, at(0)).expect("a chain");
    let signer = FakeSigner::new(&genesis, &writer("serve"), 1);
    chain.checkpoint(&signer, at(0)).expect("a checkpoint");
    let many: Vec<_> = (1..20).map(|n| encode(&denied(n, at(1))).expect("an entry").entry).collect();
    disk.fault(disk.operations(), Fault::Half);
    disk.fault(disk.operations() + 1, Fault::StopBefore);
    assert!(chain.commit(&many, at(1)).is_err());
    let left = disk.process_killed();
    let report = check(&left);
    assert_eq!(report.verdict, Verdict::FreshnessUnproven, "{report}");
    assert!(report.render().contains("a frame was being written"), "{report}");
    write_chain(&left, "serve", 1_000).expect("the chain goes on");
    assert_eq!(check(&left).findings, []);
    let torn = frames(&left.read(SERVE).ok().flatten().expect("a segment")).last().map(|(at, _)| *at);
    let flipped = tampered(&left, SERVE, |b| b[torn.expect("a frame") + 300] ^= 1);
    let report = check(&flipped);
    assert_eq!(report.verdict, Verdict::Tampered, "{report}");
}

/// Whether there is a Python to run the other verifier with; in continuous integration there must be.
pub(crate) fn has_python() -> bool {
    let found = std::process::Command::new("python3").arg("--version").output().is_ok();
    assert!(found || std::env::var_os("CI").is_none(), "there is no python3");
    found
}

/// The verifier in `python/` shares no code with this one; both must come to the same exit code. `CUSTODY_MUTATIONS` says
/// for how many changes, 100 if unset.
#[test]
fn the_other_verifier_agrees() {
    if !has_python() {
        return;
    }
    let count = std::env::var("CUSTODY_MUTATIONS").ok().and_then(|n| n.parse().ok()).unwrap_or(100u64);
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../../python/verify_ledger.py");
    let folder = std::env::temp_dir().join(format!("custody-verifiers-{}", std::process::id()));
    let disk = ledger();
    anchored(&disk);
    let kept = keep(&files(&disk)).expect("notes");
    let anchor = disk.read("anchor/checkpoint").expect("bytes").expect("an anchor");
    let paths: Vec<_> = disk.paths().into_iter().filter(|p| !p.ends_with("LOCK")).collect();
    for n in 0..count {
        let draw = sha3(&[&n.to_be_bytes()]);
        let number = |at: usize| usize::from(u16::from_be_bytes([draw[at], draw[at + 1]]));
        let (path, other) = (&paths[number(0) % paths.len()], copy(&disk));
        let changed = |b: &mut Vec<u8>| {
            let (at, to) = (number(2) % b.len(), number(6) % b.len());
            match draw[4] % 8 {
                0 => b.truncate(at),
                1 => b[at..].fill(0),
                2 => b.swap(at, to),
                _ => b[at] ^= 1 << (draw[5] % 8),
            }
        };
        if n > 0 && draw[8].is_multiple_of(16) {
            other.remove(path);
        } else if n > 0 {
            other.tamper(path, changed);
        }
        let _ = std::fs::remove_dir_all(&folder);
        for path in other.paths() {
            let (file, bytes) = (folder.join(&path), other.read(&path).expect("bytes").unwrap_or_default());
            std::fs::create_dir_all(file.parent().expect("a folder")).expect("a folder");
            std::fs::write(file, bytes).expect("a file");
        }
        let note = folder.with_extension("kept");
        std::fs::write(&note, &kept).expect("a file");
        let (since, by_anchor) = (n % 2 == 0, n % 3 == 0);
        let memory = |text: String| Kept { name: "kept".into(), notes: text };
        let outside = Outside {
            since: since.then(|| memory(kept.clone())).into_iter().collect(),
            anchors: by_anchor.then(|| memory(String::from_utf8_lossy(&anchor).into())).into_iter().collect(),
            ..Outside::none(at(60))
        };
        let report = verify(&files(&other), &TrustPolicy::default(), &outside);
        let noted = folder.with_extension("anchor");
        std::fs::write(&noted, &anchor).expect("a file");
        let mut python = std::process::Command::new("python3");
        python.args(["-B", script]).arg(&folder).args(["--now", &(at(60).0 / SECOND).to_string()]);
        if since {
            python.arg("--since").arg(&note);
        }
        if by_anchor {
            python.arg("--anchor").arg(&noted);
        }
        let answer = python.output().expect("python3");
        let said = String::from_utf8_lossy(&answer.stdout).into_owned();
        let code = answer.status.code();
        assert_eq!(code, Some(report.verdict.exit_code().into()), "mutation {n} of {path}: {report}\n{said}");
        let _ = (std::fs::remove_file(&note), std::fs::remove_file(&noted));
    }
    let _ = std::fs::remove_dir_all(&folder);
}
