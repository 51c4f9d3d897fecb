//! Chains on a disk that fails: what was acknowledged stays, whatever happens.

use crate::verify::{Outside, Source, TrustPolicy, Unreadable, Verdict, verify};
use crate::{
    Appended, Chain, ChainOptions, CommitFailed, Disk, EntryBytes, Genesis, KeySet, OpenRefused, Position, Reader,
    Sha3, SignedNote, TreeSize, control, root_of,
    samples::{encoded, intent, read_begins, read_ends, read_goes_on},
    sim::{FakeSigner, Fault, SimDisk, fake_genesis},
};
use custody_model::{
    ControlSeq, Durability, Entry, Hash, Kind, Payload, Reason, Seq, StoredEntry, WallNanos, WriterEvent, WriterId,
};
use std::collections::BTreeMap;

const NOW: WallNanos = WallNanos(1_800_000_000_000_000_000);

fn genesis() -> Genesis {
    fake_genesis("clinic")
}

fn writer() -> WriterId {
    WriterId::new("serve").unwrap()
}

fn fresh() -> SimDisk {
    let disk = SimDisk::new();
    genesis().store(&disk).unwrap();
    disk
}

fn options(seed: u8) -> ChainOptions {
    ChainOptions { writer: writer(), segment_bytes: 8 * 512, seed: [seed; 32] }
}

fn open(disk: &SimDisk, seed: u8) -> Result<(Chain<SimDisk>, crate::Recovery), OpenRefused> {
    Chain::open(disk.clone(), &genesis(), options(seed), NOW)
}

fn signer(epoch: u64) -> FakeSigner {
    FakeSigner::new(&genesis(), &writer(), epoch)
}

fn note(n: u8) -> EntryBytes {
    encoded(n, Payload::ReadProgress(u64::from(n)))
}

fn tail(disk: &SimDisk) -> Vec<StoredEntry> {
    Reader::new(disk.clone()).tail(&writer(), Position::default()).unwrap().0
}

fn segment(number: u64) -> String {
    format!("w/serve/seg/{number:012}.seg")
}

/// What a caller was told: entries by seq, and roots that were signed.
#[derive(Default, Debug)]
struct Told {
    entries: BTreeMap<u64, Vec<u8>>,
    signed: Vec<(TreeSize, Hash)>,
}

/// Opens, appends over several segments, signs, closes; goes on after errors.
fn story(disk: &SimDisk) -> Told {
    let mut told = Told::default();
    let Ok((mut chain, _)) = open(disk, 1) else { return told };
    for round in 0..6_u8 {
        let frame: Vec<_> = (0..3).map(|i| note(round * 10 + i)).collect();
        let frame = [vec![read_begins(round * 10 + 5, 100)], frame].concat();
        if let Ok(appended) = chain.commit(&frame, NOW) {
            assert_eq!(appended.len(), frame.len());
            for (appended, bytes) in appended.iter().zip(frame) {
                told.entries.insert(appended.entry_ref().seq.0, bytes.as_bytes().to_vec());
            }
        }
        if round % 2 == 0
            && let Ok(note) = chain.checkpoint(&signer(1), NOW)
        {
            let checkpoint = note.checkpoint().unwrap();
            told.signed.push((checkpoint.size, checkpoint.root));
        }
    }
    if let Ok(note) = chain.close(&signer(1), NOW) {
        let checkpoint = note.checkpoint().unwrap();
        told.signed.push((checkpoint.size, checkpoint.root));
    }
    told
}

fn check(disk: &SimDisk, told: &Told, what: &str) {
    let before = tail(disk);
    let (chain, recovery) = open(disk, 2).unwrap_or_else(|e| panic!("{what}: {e}"));
    let after = tail(disk);
    assert_eq!(after.len() as u64, chain.size().0, "{what}");
    let leaves: Vec<Hash> = after.iter().map(|e| e.leaf).collect();
    assert_eq!(chain.root(), root_of::<Sha3>(&leaves), "{what}");
    for (n, entry) in after.iter().enumerate() {
        assert_eq!(entry.seq, Seq(n as u64), "{what}");
    }
    for (seq, bytes) in &told.entries {
        assert_eq!(after.get(*seq as usize).map(|e| &e.raw), Some(bytes), "{what}: entry {seq} was acknowledged");
    }
    for (size, root) in &told.signed {
        assert_eq!(root_of::<Sha3>(&leaves[..size.0 as usize]), *root, "{what}: {size} entries were signed");
    }
    assert!(before.len() as u64 >= recovery.size.0, "{what}");
    // Each open read is one that began and did not end.
    let begun = after.iter().filter(|e| e.entry.kind() == Kind::ReadIntent).count();
    assert_eq!(recovery.open.len(), begun, "{what}");
    drop(chain);
    let (chain, _) = open(disk, 3).unwrap_or_else(|e| panic!("{what}, a second opening: {e}"));
    chain.close(&signer(1), NOW).unwrap();
    // The verifier, which shares no code with the writer, finds nothing to say.
    let report = verify(&Files(disk), &TrustPolicy::default(), &Outside::none(NOW));
    assert_eq!(report.verdict, Verdict::FreshnessUnproven, "{what}: {}", report.render());
}

pub(crate) struct Files<'a>(pub(crate) &'a SimDisk);

impl Source for Files<'_> {
    fn list(&self, folder: &str) -> Result<Vec<String>, Unreadable> {
        Ok(self.0.list(folder).unwrap())
    }
    fn read(&self, path: &str) -> Result<Option<Vec<u8>>, Unreadable> {
        Ok(self.0.read(path).unwrap())
    }
}

#[test]
fn every_step_fails_and_nothing_acknowledged_is_lost() {
    let clean = fresh();
    let start = clean.operations();
    let told = story(&clean);
    assert_eq!((told.entries.len(), told.signed.len()), (24, 4));
    let end = clean.operations();
    assert!(end - start > 15, "{start} to {end}");
    for operation in start..end {
        for fault in [Fault::Fail, Fault::FailButHappened, Fault::NoSpace, Fault::Half] {
            let disk = fresh();
            disk.fault(operation, fault);
            let told = story(&disk);
            let what = format!("{fault:?} at {operation}");
            check(&disk.process_killed(), &told, &what);
            check(&disk.power_loss(operation), &told, &what);
        }
        for fault in [Fault::StopBefore, Fault::StopAfter] {
            let disk = fresh();
            disk.fault(operation, fault);
            let told = story(&disk);
            check(&disk.process_killed(), &told, &format!("{fault:?} at {operation}"));
            for seed in 0..8 {
                check(&disk.power_loss(seed), &told, &format!("{fault:?} at {operation}, power loss {seed}"));
            }
        }
    }
}

#[test]
fn two_failures_in_a_row() {
    let clean = fresh();
    let start = clean.operations();
    story(&clean);
    for first in start..clean.operations() {
        for (one, two) in
            [(Fault::Fail, Fault::Fail), (Fault::FailButHappened, Fault::NoSpace), (Fault::NoSpace, Fault::Half)]
        {
            for gap in 1..4 {
                let disk = fresh();
                disk.fault(first, one);
                disk.fault(first + gap, two);
                let told = story(&disk);
                check(&disk.process_killed(), &told, &format!("{one:?} at {first}, {two:?} {gap} later"));
            }
        }
    }
}

#[test]
fn a_failed_sync_moves_to_a_new_segment_once() {
    let disk = fresh();
    let (mut chain, _) = open(&disk, 1).unwrap();
    chain.commit(&[note(1)], NOW).unwrap();
    let next = disk.operations();
    disk.fault(next + 1, Fault::Fail); // write, sync
    let appended = chain.commit(&[note(2), read_begins(3, 7)], NOW).unwrap();
    assert_eq!(appended.iter().map(|a| a.entry_ref().seq.0).collect::<Vec<_>>(), [2, 3]);
    let kinds: Vec<_> = tail(&disk).iter().map(|e| e.entry.kind()).collect();
    // Entries appended again keep their seqs; the segment's `writer` entry follows them and lists the open read.
    assert_eq!(kinds, [Kind::Writer, Kind::ReadProgress, Kind::ReadProgress, Kind::ReadIntent, Kind::Writer]);
    let Payload::Writer(WriterEvent::Open { open: listed, .. }) = &tail(&disk)[4].entry.payload else { panic!() };
    assert_eq!((listed.len(), listed[0].seq, listed[0].granted_bytes), (1, Seq(3), 7));

    let next = disk.operations();
    for failing in [next + 1, next + 4] {
        disk.fault(failing, Fault::Fail); // write, sync; create, write, sync
    }
    assert!(matches!(chain.commit(&[note(4)], NOW), Err(CommitFailed::Poisoned(_))));
    assert!(matches!(chain.commit(&[note(5)], NOW), Err(CommitFailed::Poisoned(_))));
    drop(chain);
    assert_eq!(open(&disk, 2).unwrap().1.open.len(), 1);
}

#[test]
fn a_full_disk_leaves_the_chain_usable() {
    let disk = fresh();
    let (mut chain, _) = open(&disk, 1).unwrap();
    disk.set_full(true);
    let mut refused = 0;
    for n in 0..20 {
        match chain.commit(&[note(n)], NOW) {
            Ok(_) => assert_eq!(refused, 0, "nothing after the first refusal"),
            Err(CommitFailed::NoSpace(_)) => refused += 1,
            Err(other) => panic!("{other}"),
        }
    }
    assert!(refused > 5);
    let size = chain.size();
    disk.set_full(false);
    assert_eq!(chain.commit(&[note(99)], NOW).unwrap()[0].entry_ref().seq, Seq(size.0 + 2));
    let entries = tail(&disk);
    assert_eq!(entries.len() as u64, chain.size().0);
    assert_eq!(entries[size.0 as usize + 1].entry.payload, Payload::Writer(WriterEvent::NoSpace));
}

#[test]
fn a_torn_tail_is_put_aside_and_recorded() {
    let disk = fresh();
    let (mut chain, _) = open(&disk, 1).unwrap();
    chain.commit(&[note(1)], NOW).unwrap();
    let big: Vec<_> = (0..20).map(note).collect();
    disk.fault(disk.operations() + 1, Fault::StopBefore);
    assert!(chain.commit(&big, NOW).is_err());
    // A seed that keeps some sectors of the frame and not all.
    let torn = (0..64).map(|seed| disk.power_loss(seed)).find(|d| {
        let bytes = d.read(&segment(1)).unwrap().unwrap();
        bytes[512 * 3..].iter().any(|b| *b != 0) && tail(d).len() == 2
    });
    let disk = torn.unwrap();
    let (mut chain, recovery) = open(&disk, 2).unwrap();
    let found = recovery.torn.clone().unwrap();
    assert_eq!((found.segment, found.offset, recovery.closed, recovery.size), (1, 512 * 3, false, TreeSize(2)));
    let aside = disk.read(&format!("w/serve/quarantine/{:012}-{}", 1, found.offset)).unwrap().unwrap();
    assert_eq!(aside.len() as u64, found.length);
    let entries = tail(&disk);
    let expected =
        WriterEvent::Recovery { segment: found.segment, offset: found.offset, length: found.length, hash: found.hash };
    assert_eq!(entries[3].entry.payload, Payload::Writer(expected));
    chain.commit(&[note(2)], NOW).unwrap();
    drop(chain);
    // The torn bytes are still where they were, and no longer news.
    assert_eq!(open(&disk, 3).unwrap().1.torn, None);
}

#[test]
fn damage_is_refused() {
    let disk = fresh();
    let (mut chain, _) = open(&disk, 1).unwrap();
    for n in 0..3 {
        chain.commit(&[note(n)], NOW).unwrap();
    }
    drop(chain);
    let refusal = |change: &dyn Fn(&SimDisk)| {
        let copy = disk.process_killed();
        change(&copy);
        open(&copy, 2).map(|_| ()).unwrap_err().to_string()
    };
    let flip =
        |number: u64, at: usize| move |disk: &SimDisk| assert!(disk.tamper(&segment(number), |bytes| bytes[at] ^= 1));
    let at = "ledger damaged at writer serve, segment 1, offset";
    assert_eq!(refusal(&flip(1, 512 + 110)), format!("{at} 512: a valid frame follows"));
    assert_eq!(refusal(&flip(1, 1024 + 511)), format!("{at} 1024: a valid frame follows"));
    assert_eq!(refusal(&flip(1, 200)), format!("{at} 0: the segment header is damaged"));
    let short = |disk: &SimDisk| assert!(disk.tamper(&segment(1), |bytes| bytes.truncate(2048)));
    assert_eq!(refusal(&short), format!("{at} 0: the segment has another size than its header says"));
    let gone = |disk: &SimDisk| assert!(disk.remove(&segment(1)));
    let mut more = open(&disk, 2).unwrap().0;
    more.commit(&[note(4)], NOW).unwrap();
    drop(more);
    // The first frame of the last segment is no less than any other.
    let second = "ledger damaged at writer serve, segment 2, offset";
    assert_eq!(refusal(&flip(2, 512 + 110)), format!("{second} 512: a valid frame follows"));
    assert_eq!(refusal(&gone), format!("{at} 0: the segment is missing"));
    assert_eq!(refusal(&flip(1, 512 * 4 + 300)), format!("{at} 2048: a frame is damaged"));
    let newer = |disk: &SimDisk| {
        let renumber = |bytes: &mut Vec<u8>| {
            bytes[9] = 2;
            let crc = crc32c::crc32c(&bytes[..508]);
            bytes[508..512].copy_from_slice(&crc.to_be_bytes());
        };
        assert!(disk.tamper(&segment(1), renumber));
    };
    assert_eq!(refusal(&newer), "ledger format 2 is newer than this binary reads (1)");
    let other = |disk: &SimDisk| assert!(disk.tamper("genesis", |bytes| *bytes = fake_genesis("other").to_bytes()));
    assert_eq!(refusal(&other), "the ledger here has another genesis");
    assert_eq!(refusal(&|disk| assert!(disk.remove("genesis"))), "there is no ledger here");
}

#[test]
fn a_rewritten_frame_does_not_fit_the_chain() {
    let disk = fresh();
    let (mut chain, _) = open(&disk, 1).unwrap();
    for n in 0..3 {
        chain.commit(&[note(n)], NOW).unwrap();
    }
    drop(chain);
    // The forger recomputes every CRC, but not the hashes that follow.
    let forge = |bytes: &mut Vec<u8>| {
        let salt: [u8; 16] = bytes[128..144].try_into().unwrap();
        let forged = note(77);
        let entries = [forged.as_bytes()];
        let previous = Hash(bytes[1024 + 32..1024 + 64].try_into().unwrap());
        let root = root_of::<Sha3>(&[forged.leaf()]);
        let (frame, _) = crate::segment::frame_bytes(&entries, 1, NOW, &previous, &root, &salt).unwrap();
        bytes[1024..1024 + frame.len()].copy_from_slice(&frame);
    };
    assert!(disk.tamper(&segment(1), forge));
    let error = open(&disk, 2).map(|_| ()).unwrap_err();
    assert_eq!(error.to_string(), "ledger damaged at writer serve, segment 1, offset 1536: wrong previous hash");
    assert_eq!(error.help(), Some("custody ledger replicate --from URL"));
}

#[test]
fn the_checkpoint_is_a_floor() {
    let disk = fresh();
    let (mut chain, _) = open(&disk, 1).unwrap();
    chain.commit(&[note(1), note(2)], NOW).unwrap();
    let early = disk.process_killed();
    let signed = chain.checkpoint(&signer(1), NOW).unwrap();
    assert_eq!(signed.checkpoint().unwrap().size, TreeSize(4)); // open, two, key
    assert_eq!((chain.signed_size(), chain.size(), chain.key_epoch()), (TreeSize(4), TreeSize(4), Some(1)));
    let refusal = |disk: &SimDisk| open(disk, 2).map(|_| ()).unwrap_err().to_string();
    early.publish("w/serve/checkpoint", &signed.to_bytes()).unwrap();
    assert_eq!(refusal(&early), "ledger holds 3 entries, its checkpoint says 4");
    drop(chain);
    let lied = SignedNote::new(
        crate::Checkpoint { root: Hash([1; 32]), ..signed.checkpoint().unwrap() }.to_string(),
        signed.signatures().to_vec(),
    );
    for (bytes, message) in [
        (lied.to_bytes(), "ledger and checkpoint of writer serve disagree on the first 4 entries"),
        (b"nonsense".to_vec(), "the checkpoint of writer serve is damaged"),
    ] {
        let copy = disk.process_killed();
        copy.publish("w/serve/checkpoint", &bytes).unwrap();
        assert_eq!(refusal(&copy), message);
    }
    assert_eq!(open(&disk, 2).unwrap().0.signed_size(), TreeSize(4));
}

#[test]
fn one_process_at_a_time() {
    let disk = fresh();
    let held = open(&disk, 1).unwrap();
    assert_eq!(open(&disk, 2).map(|_| ()).unwrap_err().to_string(), "writer serve is already open");
    drop(held);
    assert!(open(&disk, 2).is_ok());
    let odd = ChainOptions { segment_bytes: 5000, ..options(1) };
    assert!(matches!(Chain::open(disk, &genesis(), odd, NOW), Err(OpenRefused::SegmentSize(5000))));
}

#[test]
fn open_reads_survive_openings_until_they_end() {
    let disk = fresh();
    let (mut chain, recovery) = open(&disk, 1).unwrap();
    assert!(recovery.closed && recovery.open.is_empty() && recovery.incarnation == 1);
    chain.commit(&[read_begins(10, 100), read_begins(11, 200), read_goes_on(12, 11, 400)], NOW).unwrap();
    chain.commit(&[read_begins(13, 300), read_ends(14, 13)], NOW).unwrap();
    for n in 0..12 {
        chain.commit(&[note(n)], NOW).unwrap(); // over into further segments
    }
    drop(chain);
    for incarnation in 2..4 {
        let (chain, recovery) = open(&disk, incarnation as u8).unwrap();
        let listed: Vec<_> = recovery.open.iter().map(|o| (o.seq.0, o.granted_bytes)).collect();
        assert_eq!((listed, recovery.incarnation, recovery.closed), (vec![(1, 100), (2, 400)], incarnation, false));
        assert_eq!(chain.open_intents().count(), 2);
    }
    let (mut chain, _) = open(&disk, 9).unwrap();
    chain.commit(&[read_ends(20, 10), read_ends(21, 11)], NOW).unwrap();
    chain.close(&signer(1), NOW).unwrap();
    let (_, recovery) = open(&disk, 10).unwrap();
    assert!(recovery.closed && recovery.open.is_empty());
}

#[test]
fn a_receipt_needs_the_durability_that_its_entry_asks_for() {
    let disk = fresh();
    let (mut chain, _) = open(&disk, 1).unwrap();
    let reason = Reason { durability: Durability::Peer, ..Reason::default() };
    let entry = Entry { reason, ..crate::samples::bare(1, Payload::ReadIntent(intent(5))) };
    let entry = crate::encode(&entry).unwrap().entry;
    let mut settle = |reached| chain.commit(std::slice::from_ref(&entry), NOW).unwrap().remove(0).settle(reached);
    let waiting: Appended = settle(Durability::Local).unwrap_err();
    assert_eq!(waiting.durability(), Durability::Peer);
    let receipt = waiting.settle(Durability::Object).unwrap();
    assert_eq!((receipt.plan(), receipt.entry_id()), (Some(Hash([5; 32])), entry.id()));
    assert_eq!((receipt.entry_ref().to_string(), receipt.leaf()), ("serve/1".to_string(), entry.leaf()));
    assert_eq!(receipt.to_string(), format!("{}/serve/1/{}", genesis().log_id(), entry.leaf()));
    assert!(settle(Durability::Peer).is_ok());
}

#[test]
fn a_reader_beside_a_writer() {
    let disk = fresh();
    let reader = Reader::new(disk.clone());
    assert_eq!(reader.writers().unwrap(), []);
    let mut at = Position::default();
    assert!(reader.tail(&writer(), at).unwrap().0.is_empty());
    let (mut chain, _) = open(&disk, 1).unwrap();
    assert_eq!(reader.writers().unwrap(), [writer()]);
    let mut seen = vec![];
    for n in 0..40_u8 {
        let frame: Vec<_> = (0..n % 4 + 1).map(|_| note(n)).collect();
        if n % 13 == 5 {
            // The frame is written, its sync fails, and a reader that looks in between sees it twice under one seq.
            let next = disk.operations();
            disk.fault(next + 1, Fault::FailButHappened);
        }
        chain.commit(&frame, NOW).unwrap();
        if n % 3 == 0 {
            let (entries, next) = reader.tail(&writer(), at).unwrap();
            seen.extend(entries);
            at = next;
            assert_eq!((seen.len() as u64, at.next_seq()), (chain.size().0, Seq(chain.size().0)));
        }
        if n == 20 {
            drop(chain);
            chain = open(&disk, 2).unwrap().0;
        }
    }
    seen.extend(reader.tail(&writer(), at).unwrap().0);
    assert_eq!(seen, tail(&disk));
    let leaves = reader.leaves(&writer()).unwrap();
    assert_eq!(root_of::<Sha3>(&leaves), chain.root());
    assert!(!reader.is_closed(&writer()).unwrap());
    chain.close(&signer(1), NOW).unwrap();
    assert!(reader.is_closed(&writer()).unwrap());
    let note = reader.checkpoint_note(&writer()).unwrap().unwrap();
    assert_eq!(note.verify(crate::Signer::key(&signer(1))), Ok(()));
}

#[test]
fn a_reader_stops_at_half_a_frame() {
    let disk = fresh();
    let (mut chain, _) = open(&disk, 1).unwrap();
    let big: Vec<_> = (0..20).map(note).collect();
    disk.fault(disk.operations(), Fault::Half);
    disk.fault(disk.operations() + 1, Fault::StopBefore);
    assert!(chain.commit(&big, NOW).is_err());
    let disk = disk.process_killed();
    let reader = Reader::new(disk.clone());
    let (entries, at) = reader.tail(&writer(), Position::default()).unwrap();
    assert_eq!(entries.len(), 1);
    let (_chain, recovery) = open(&disk, 2).unwrap();
    assert!(recovery.torn.is_some());
    let (entries, _) = reader.tail(&writer(), at).unwrap();
    assert_eq!(entries.len(), 2); // the new segment's `open` and `recovery`
}

#[test]
fn large_commits_become_several_frames() {
    let disk = fresh();
    let options = ChainOptions { segment_bytes: crate::COMMAND_SEGMENT_BYTES, ..options(1) };
    let (mut chain, _) = Chain::open(disk.clone(), &genesis(), options.clone(), NOW).unwrap();
    let mut long = intent(1);
    long.statement = Some(crate::samples::sealed(40_000));
    let frame: Vec<_> = (0..60).map(|n| encoded(n, Payload::ReadIntent(long.clone()))).collect();
    let appended = chain.commit(&frame, NOW).unwrap();
    assert_eq!(appended.len(), 60);
    let read = tail(&disk);
    for (appended, bytes) in appended.iter().zip(&frame) {
        assert_eq!(read[appended.entry_ref().seq.0 as usize].raw, bytes.as_bytes());
    }
    assert!(disk.paths().contains(&segment(3)));
    drop(chain);
    let (mut chain, recovery) = open(&disk, 2).unwrap();
    assert_eq!(recovery.open.len(), 60);
    // A segment of eight blocks cannot hold such an entry; nothing was recorded, and others still fit.
    assert!(matches!(chain.commit(&frame[..1], NOW), Err(CommitFailed::TooLarge { .. })));
    assert!(chain.commit(&[note(1)], NOW).is_ok());
}

#[test]
fn a_clock_that_goes_back_is_recorded() {
    let disk = fresh();
    let (mut chain, _) = open(&disk, 1).unwrap();
    chain.commit(&[note(1)], WallNanos(NOW.0 - 500_000_000)).unwrap();
    assert_eq!(tail(&disk).len(), 2);
    let appended = chain.commit(&[note(2)], WallNanos(NOW.0 - 3_600_000_000_000)).unwrap();
    assert_eq!(appended[0].entry_ref().seq, Seq(3));
    let anomaly = WriterEvent::ClockAnomaly { back: 3_600_000_000_000 };
    assert_eq!(tail(&disk)[2].entry.payload, Payload::Writer(anomaly));
}

#[test]
fn keys_are_recorded_before_they_sign_and_end_after_a_day() {
    let keys = SimDisk::new();
    let set = KeySet::create(keys.clone(), "clinic", [7; 32]).unwrap();
    let disk = SimDisk::new();
    set.genesis().store(&disk).unwrap();
    assert_eq!(Genesis::load(&disk).unwrap(), *set.genesis());
    // A second creation keeps the root.
    assert_eq!(KeySet::create(keys.clone(), "clinic", [8; 32]).unwrap().genesis(), set.genesis());
    assert!(KeySet::open(keys.clone(), &fake_genesis("clinic")).is_err());
    let set = KeySet::open(keys.clone(), &set.genesis().clone()).unwrap();

    let (mut chain, _) = Chain::open(disk.clone(), set.genesis(), options(1), NOW).unwrap();
    let first = set.signer(&writer(), chain.key_epoch(), NOW, [1; 32]).unwrap();
    let note = chain.checkpoint(&first, NOW).unwrap();
    assert_eq!(note.verify(crate::Signer::key(&first)), Ok(()));
    let record = crate::Signer::record(&first).clone();
    assert_eq!(tail(&disk)[1].entry.payload, Payload::Key(record.clone()));
    let certificate = SignedNote::parse(&record.certificate).unwrap();
    assert_eq!(certificate.verify(&set.genesis().root), Ok(()));
    assert!(certificate.text().ends_with(&format!("\n{}\n{}\n", record.vkey, first.expires())));

    let soon = WallNanos(NOW.0 + crate::EPOCH_NANOS - 1);
    let same = set.signer(&writer(), chain.key_epoch(), soon, [2; 32]).unwrap();
    assert_eq!(crate::Signer::record(&same), &record);
    chain.checkpoint(&same, NOW).unwrap();
    assert_eq!(chain.size(), TreeSize(2));

    let later = WallNanos(NOW.0 + crate::EPOCH_NANOS);
    let second = set.signer(&writer(), chain.key_epoch(), later, [3; 32]).unwrap();
    assert_eq!(crate::Signer::record(&second).epoch, 2);
    chain.checkpoint(&second, later).unwrap();
    assert_eq!((chain.size(), chain.key_epoch()), (TreeSize(3), Some(2)));
    assert!(matches!(chain.checkpoint(&first, later), Err(CommitFailed::OldKey { epoch: 1, current: 2 })));
    let stranger = FakeSigner::new(&genesis(), &WriterId::new("cli-0").unwrap(), 9);
    assert!(matches!(chain.checkpoint(&stranger, later), Err(CommitFailed::WrongSigner { .. })));
    let mut failing = signer(3);
    failing.fails = true;
    assert!(matches!(chain.checkpoint(&failing, later), Err(CommitFailed::Sign(_))));
    assert!(keys.tamper("w/serve", |bytes| bytes.truncate(10)));
    assert!(set.signer(&writer(), None, later, [4; 32]).is_err());
}

/// A distrusted key signs nothing more; what it signed before stands.
#[test]
fn a_revoked_key_is_distrusted_from_an_index_on() {
    let set = KeySet::create(SimDisk::new(), "clinic", [7; 32]).unwrap();
    let disk = SimDisk::new();
    set.genesis().store(&disk).unwrap();
    let (mut chain, _) = Chain::open(disk.clone(), set.genesis(), options(1), NOW).unwrap();
    let first = set.signer(&writer(), chain.key_epoch(), NOW, [1; 32]).unwrap();
    let before = chain.checkpoint(&first, NOW).unwrap();
    assert!(set.rotate(&writer(), chain.key_epoch(), Some(9), NOW, [2; 32]).is_err());
    let second = set.rotate(&writer(), chain.key_epoch(), Some(1), NOW, [2; 32]).unwrap();
    chain.commit(&[note(1)], NOW).unwrap();
    let after = chain.checkpoint(&second, NOW).unwrap();
    assert_eq!(chain.key_epoch(), Some(2));
    let kept = |notes: &[&SignedNote]| {
        let notes = notes.iter().map(|n| n.to_string()).collect();
        let since = vec![crate::verify::Kept { name: "kept".into(), notes }];
        verify(&Files(&disk), &TrustPolicy::default(), &Outside { since, ..Outside::none(NOW) })
    };
    assert_eq!(kept(&[&before, &after]).verdict, Verdict::Fresh);
    // The thief of the first key signs what is there.
    let signature = crate::Signer::sign(&first, after.text().as_bytes()).unwrap().to_vec();
    let key = crate::Signer::key(&first);
    let line = crate::NoteSignature { name: key.name().into(), id: key.id(), signature };
    let forged = SignedNote::new(after.text().into(), vec![line]);
    assert_eq!(kept(&[&forged]).verdict, Verdict::CannotVerify);
    disk.publish("w/serve/checkpoint", &forged.to_bytes()).unwrap();
    assert_eq!(kept(&[&after]).verdict, Verdict::Tampered);
}

#[test]
fn control_positions_are_taken_once() {
    let disk = SimDisk::new();
    let (one, two) = (note(1), note(2));
    let at = ControlSeq(1);
    assert_eq!(control::newest(&disk, ControlSeq(0)).unwrap(), ControlSeq(0));
    control::claim(&disk, at, &one).unwrap();
    control::claim(&disk, at, &one).unwrap();
    assert!(matches!(control::claim(&disk, at, &two), Err(control::Claimed::Taken(ControlSeq(1)))));
    disk.fault(disk.operations(), Fault::FailButHappened);
    assert!(matches!(control::claim(&disk, ControlSeq(2), &two), Err(control::Claimed::Disk(_))));
    assert_eq!(control::read(&disk, ControlSeq(2)).unwrap().as_deref(), Some(two.as_bytes()));
    assert_eq!(control::newest(&disk, ControlSeq(0)).unwrap(), ControlSeq(2));
    assert_eq!(control::read(&disk, ControlSeq(3)).unwrap(), None);
    assert_eq!(disk.list("control").unwrap()[0], "00000000000000000001");
}

/// Every byte of a small ledger is frozen. `UPDATE_GOLDEN=1` writes the file anew; read the difference.
#[test]
fn golden_ledger() {
    let disk = fresh();
    let (mut chain, _) = open(&disk, 1).unwrap();
    chain.commit(&[read_begins(10, 100), note(1)], NOW).unwrap();
    chain.commit(&[read_ends(11, 10)], WallNanos(NOW.0 + 1)).unwrap();
    chain.close(&signer(1), NOW).unwrap();
    drop(open(&disk, 2).unwrap());
    let mut found = String::new();
    for path in disk.paths() {
        let bytes = disk.read(&path).unwrap().unwrap();
        found += &format!("{path} {}\n", bytes.len());
        // A line for each block of 512 bytes that is not zero.
        for (n, block) in bytes.chunks(512).enumerate().filter(|(_, block)| block.iter().any(|b| *b != 0)) {
            let hex: String = block.iter().map(|b| format!("{b:02x}")).collect();
            found += &format!("  {} {}\n", n * 512, hex);
        }
    }
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../testdata/ledger/ledger.hex");
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(path, &found).unwrap();
    }
    let golden = std::fs::read_to_string(path).unwrap();
    for (found, golden) in found.lines().zip(golden.lines()) {
        assert_eq!(found, golden);
    }
    assert_eq!(found.len(), golden.len());
}
