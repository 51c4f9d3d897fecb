use super::*;
use crate::{
    Chain, ChainOptions, proof,
    sim::{FakeSigner, Fault, SimDisk, fake_anchor, fake_genesis},
    verify::{Kept, Outside, Report, TrustPolicy, Verdict, verify},
};
use custody_model::{WallNanos, WriterId};

const NOW: WallNanos = WallNanos(1_800_000_000_000_000_000);

fn key() -> AnchorKey {
    fake_anchor(&fake_genesis("clinic"))
}

/// A chain, and what signs it.
fn chain(disk: &SimDisk, name: &str) -> (Chain<SimDisk>, FakeSigner) {
    let genesis = fake_genesis("clinic");
    genesis.store(disk).unwrap();
    let writer = WriterId::new(name).unwrap();
    let options =
        ChainOptions { writer: writer.clone(), segment_bytes: 64 * 512, seed: Sha2::digest(&[name.as_bytes()]).0 };
    (Chain::open(disk.clone(), &genesis, options, NOW).unwrap().0, FakeSigner::new(&genesis, &writer, 1))
}

/// Grows a chain by a round and gives its signed checkpoint.
fn grown((chain, signer): &mut (Chain<SimDisk>, FakeSigner)) -> Vec<u8> {
    chain.beat(NOW).unwrap();
    chain.checkpoint(signer, NOW).unwrap().to_bytes()
}

fn judged(disk: &SimDisk, anchors: &[&[u8]]) -> Report {
    let kept = |notes: &&[u8]| Kept { name: "kept".into(), notes: String::from_utf8(notes.to_vec()).unwrap() };
    let outside = Outside { anchors: anchors.iter().map(kept).collect(), ..Outside::none(NOW) };
    verify(&crate::tests::Files(disk), &TrustPolicy::default(), &outside)
}

fn checkpoint(disk: &SimDisk) -> Vec<u8> {
    disk.read(ANCHOR_CHECKPOINT).unwrap().unwrap()
}

#[test]
fn paths_are_those_of_tlog_tiles() {
    assert_eq!(tile("entries", 0, 0), "anchor/tile/entries/000");
    assert_eq!(tile("0", 1_234_067, 5), "anchor/tile/0/x001/x234/067.p/5");
}

#[test]
fn an_anchor_of_more_than_one_tile_is_a_tree_of_its_notes() {
    let disk = SimDisk::new();
    let mut one = chain(&disk, "serve");
    let (mut leaves, mut notes, mut kept) = (vec![], vec![], vec![]);
    for n in 0..600u64 {
        let note = grown(&mut one);
        leaves.push(Sha2::leaf(&note));
        notes.push(note);
        // In rounds of different lengths; what was added lately comes again.
        if n % 7 == 0 || n > 590 {
            let from = notes.len().saturating_sub(9);
            let done = anchor(&disk, &key(), &notes[from..]).unwrap();
            assert_eq!(done.size.0, n + 1);
            done.old.iter().for_each(|path| assert!(disk.remove(path)));
            let note = SignedNote::parse(&checkpoint(&disk)).unwrap();
            note.verify(key().key()).unwrap();
            let signed = note.checkpoint().unwrap();
            assert_eq!((signed.origin.as_str(), signed.root), ("clinic/anchor", root_of::<Sha2>(&leaves)));
            kept.push(checkpoint(&disk));
        }
    }
    let partial = disk.paths().into_iter().filter(|path| path.contains(".p/")).count();
    assert!(partial <= 12, "{partial} parts of tiles are left");
    let report = judged(&disk, &[&kept[3], &kept[40]]);
    assert!(report.verdict == Verdict::Fresh && report.findings.is_empty(), "{report}");
    // Whoever has a note, its place and the tiles can prove it to someone with a checkpoint.
    let proof = proof::prove_inclusion::<Sha2>(&leaves, crate::LeafIndex(300)).unwrap();
    let root = root_of::<Sha2>(&leaves);
    proof::verify_inclusion::<Sha2>(&leaves[300], crate::LeafIndex(300), TreeSize(600), &proof, &root).unwrap();
}

#[test]
fn what_the_anchor_holds_can_neither_be_taken_back_nor_changed() {
    let disk = SimDisk::new();
    let (mut one, mut two) = (chain(&disk, "serve"), chain(&disk, "cli-0"));
    let mut round = |disk: &SimDisk| {
        let notes = [grown(&mut one), grown(&mut two)];
        anchor(disk, &key(), &notes).unwrap();
    };
    round(&disk);
    let early = disk.process_killed();
    let old = checkpoint(&disk);
    (2..5).for_each(|_| round(&disk));
    let new = checkpoint(&disk);
    assert_eq!(judged(&disk, &[&old, &new]).verdict, Verdict::Fresh);
    // Every bit of what its checkpoint covers.
    let evidence = |path: &String| path.starts_with("anchor/") && (!path.contains(".p/") || path.ends_with("/8"));
    for path in disk.paths().into_iter().filter(evidence) {
        let bytes = disk.read(&path).unwrap().unwrap();
        for at in (0..bytes.len()).step_by(7) {
            let other = disk.process_killed();
            other.tamper(&path, |bytes| bytes[at] ^= 1 << (at % 8));
            assert_eq!(judged(&other, &[]).verdict, Verdict::Tampered, "{path} at {at}");
        }
        let other = disk.process_killed();
        other.remove(&path);
        assert_eq!(judged(&other, &[]).verdict, Verdict::Tampered, "without {path}");
    }
    // A writer rolled back with its checkpoint, or removed, does not fit the anchor.
    for from in [Some(&early), None] {
        let other = disk.process_killed();
        for path in disk.paths().into_iter().filter(|path| path.starts_with("w/cli-0/")) {
            other.remove(&path);
            if let Some(bytes) = from.and_then(|early| early.read(&path).unwrap()) {
                other.publish(&path, &bytes).unwrap();
            }
        }
        assert_eq!(judged(&other, &[]).verdict, Verdict::Tampered);
    }
    // The whole of an earlier moment fits itself; who kept a later checkpoint of the anchor sees it.
    assert_eq!(judged(&early, &[&old]).verdict, Verdict::Fresh);
    assert_eq!(judged(&early, &[&new]).verdict, Verdict::Tampered);
    let gone = disk.process_killed();
    disk.paths().iter().filter(|path| path.starts_with("anchor/")).for_each(|path| assert!(gone.remove(path)));
    assert_eq!(judged(&gone, &[]).verdict, Verdict::FreshnessUnproven);
    assert_eq!(judged(&gone, &[&old]).verdict, Verdict::Tampered);
    // A note of another log proves nothing.
    assert_eq!(judged(&disk, &[&grown(&mut one)]).verdict, Verdict::CannotVerify);
}

#[test]
fn another_key_or_a_false_leaf_is_not_taken() {
    let genesis = fake_genesis("clinic");
    let forge = |root: [u8; 32], seed: [u8; 32], notes: &[Vec<u8>]| {
        let disk = SimDisk::new();
        let mut one = chain(&disk, "serve");
        let note = grown(&mut one);
        let key = AnchorKey::new(&genesis, &SigningKey::from_bytes(&root), seed).unwrap();
        anchor(&disk, &key, &[std::slice::from_ref(&note), notes].concat()).unwrap();
        (judged(&disk, &[]).verdict, note)
    };
    let own = Sha2::digest(&[b"own"]).0;
    let (verdict, note) = forge(own, own, &[]);
    assert_eq!(verdict, Verdict::Tampered, "the root did not sign that key");
    let other = String::from_utf8(note).unwrap().replace("\n3\n", "\n2\n");
    for leaf in [other.into_bytes(), b"no note".to_vec(), key().certificate] {
        let disk = SimDisk::new();
        let note = grown(&mut chain(&disk, "serve"));
        anchor(&disk, &key(), &[note]).unwrap();
        assert_eq!(judged(&disk, &[]).verdict, Verdict::FreshnessUnproven);
        anchor(&disk, &key(), &[leaf]).unwrap();
        assert_eq!(judged(&disk, &[]).verdict, Verdict::Tampered);
    }
}

#[test]
fn a_round_that_is_cut_off_anywhere_is_made_good_by_the_next() {
    // The round completes a tile.
    let base = SimDisk::new();
    let mut one = chain(&base, "serve");
    let mut notes: Vec<_> = (0..257).map(|_| grown(&mut one)).collect();
    let new = notes.split_off(254);
    for fault in [Fault::Fail, Fault::StopBefore, Fault::StopAfter] {
        // A new log, and one that grows.
        for begun in [false, true] {
            let before = base.process_killed();
            if begun {
                anchor(&before, &key(), &notes).unwrap();
            }
            let mut step = 0;
            loop {
                let disk = before.process_killed();
                disk.fault(disk.operations() + step, fault);
                let cut = anchor(&disk, &key(), &new);
                let disk = if step % 2 == 0 { disk.process_killed() } else { disk.power_loss(step) };
                let report = judged(&disk, &[]);
                assert_eq!(report.verdict, Verdict::FreshnessUnproven, "step {step}, {fault:?}: {report}");
                // Others come first next time.
                let notes = [&notes[..2], &new[1..]].concat();
                anchor(&disk, &key(), &notes).unwrap();
                let report = judged(&disk, &[&checkpoint(&disk)]);
                assert_eq!(report.verdict, Verdict::Fresh, "step {step}, {fault:?}: {report}");
                step += 1;
                if cut.is_ok() {
                    break;
                }
            }
            assert!(step > 5, "{step} steps");
        }
    }
}

/// The bytes of an anchor are frozen. `UPDATE_GOLDEN=1` writes them anew.
#[test]
fn golden_anchor() {
    let disk = SimDisk::new();
    let mut one = chain(&disk, "serve");
    let notes: Vec<_> = (0..257).map(|_| grown(&mut one)).collect();
    anchor(&disk, &key(), &notes[..3]).unwrap();
    anchor(&disk, &key(), &notes[3..]).unwrap();
    let line = |path: &String| format!("{path} {}\n", Sha2::digest(&[&disk.read(path).unwrap().unwrap()]));
    let found: String = disk.paths().iter().filter(|path| path.starts_with("anchor/")).map(line).collect();
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/ledger/anchor.sha256");
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, &found).unwrap();
    }
    assert_eq!(std::fs::read_to_string(&path).unwrap(), found);
}
