use super::*;
use crate::{
    Chain, ChainOptions, Position, Reader,
    samples::encoded,
    sim::{FakeSigner, SimDisk, fake_genesis},
    verify::{Outside, TrustPolicy, Verdict, verify},
};
use custody_model::{Payload, WallNanos};

const NOW: WallNanos = WallNanos(1_800_000_000_000_000_000);

fn writer() -> WriterId {
    WriterId::new("serve").unwrap()
}

fn first() -> SimDisk {
    let disk = SimDisk::new();
    fake_genesis("clinic").store(&disk).unwrap();
    disk
}

fn open(disk: &SimDisk, seed: u8) -> Chain<SimDisk> {
    let options = ChainOptions { writer: writer(), segment_bytes: 8 * 512, seed: [seed; 32] };
    Chain::open(disk.clone(), &fake_genesis("clinic"), options, NOW).unwrap().0
}

fn grow(chain: &mut Chain<SimDisk>, entries: std::ops::Range<u8>) {
    for n in entries {
        chain.commit(&[encoded(n, Payload::ReadProgress(u64::from(n)))], NOW).unwrap();
    }
    chain.checkpoint(&FakeSigner::new(&fake_genesis("clinic"), &writer(), 1), NOW).unwrap();
}

fn copy_of(disk: &SimDisk) -> Result<Copied<SimDisk>, CopyRefused> {
    Copied::open(disk.clone(), &fake_genesis("clinic").to_bytes(), &writer())
}

/// Brings a copy up to date, through bytes as two processes would.
fn follow(chain: &Chain<SimDisk>, copy: &mut Copied<SimDisk>) -> Result<u64, CopyRefused> {
    let mut changes = 0;
    catch_up(chain.disk(), &writer(), copy.held(), &|| chain.position(), &|_| false, &mut |change: Change| {
        changes += 1;
        let again = Change::parse(&change.to_bytes()).expect("a change");
        assert_eq!(again, change);
        copy.take(&again)
    })?;
    Ok(changes)
}

fn same(one: &SimDisk, other: &SimDisk) {
    let entries = |disk: &SimDisk| Reader::new(disk.clone()).tail(&writer(), Position::default()).unwrap().0;
    assert_eq!(entries(one), entries(other));
    let report = verify(&crate::tests::Files(other), &TrustPolicy::default(), &Outside::none(NOW));
    assert_eq!(report.verdict, Verdict::FreshnessUnproven, "{report}");
}

#[test]
fn a_copy_grows_as_the_chain_does_over_restarts_of_both() {
    let (disk, second) = (first(), SimDisk::new());
    for round in 1..6 {
        let mut chain = open(&disk, round);
        for part in 0..3 {
            let begin = round * 30 + part * 10;
            grow(&mut chain, begin..begin + 10);
            let mut copy = copy_of(&second).unwrap();
            follow(&chain, &mut copy).unwrap();
            assert_eq!(copy.held().size, chain.size().0);
            // What is there already is fine.
            follow(&chain, &mut copy).unwrap();
        }
        same(&disk, &second);
    }
}

#[test]
fn a_copy_takes_no_other_history() {
    let (disk, second) = (first(), SimDisk::new());
    let mut chain = open(&disk, 1);
    grow(&mut chain, 0..5);
    let before = disk.process_killed();
    grow(&mut chain, 5..10);
    let mut copy = copy_of(&second).unwrap();
    follow(&chain, &mut copy).unwrap();
    let held = copy.held();
    // The ledger is rolled back and goes another way.
    let mut other = open(&before, 2);
    for _ in 0..2 {
        let refused = follow(&other, &mut copy);
        assert!(matches!(refused, Err(CopyRefused::OtherHistory(_))), "{refused:?} {held:?} {:?}", other.position());
        grow(&mut other, 20..60);
    }
    assert_eq!(copy.held(), held);
    same(&disk, &second);
    drop(copy);
    let stranger = Copied::open(second.clone(), &fake_genesis("other").to_bytes(), &writer());
    assert!(matches!(stranger.map(|_| ()), Err(CopyRefused::OtherLedger)));
}

#[test]
fn a_copy_takes_no_altered_change() {
    let (disk, second) = (first(), SimDisk::new());
    let mut chain = open(&disk, 1);
    grow(&mut chain, 0..12);
    let mut changes = vec![];
    let mut copy = copy_of(&second).unwrap();
    catch_up(&disk, &writer(), copy.held(), &|| chain.position(), &|_| false, &mut |change: Change| {
        changes.push(change);
        Ok::<(), CopyRefused>(())
    })
    .unwrap();
    for change in &changes {
        if let Change::Begin { header: bytes } | Change::Frames { bytes, .. } = change {
            for at in 0..bytes.len() {
                let mut bytes = bytes.clone();
                bytes[at] ^= 1;
                let altered = match change {
                    Change::Frames { number, offset, .. } => Change::Frames { number: *number, offset: *offset, bytes },
                    _ => Change::Begin { header: bytes },
                };
                assert!(copy.take(&altered).is_err(), "byte {at}");
            }
        }
        copy.take(change).unwrap();
    }
    for path in
        ["../genesis", "genesis", "w/serve/LOCK", "w/other/checkpoint", "control/../x", "blob/00", "w/serve/seg/1"]
    {
        assert!(copy.take(&Change::File { path: path.into(), bytes: vec![1] }).is_err(), "{path}");
    }
    same(&disk, &second);
}

/// The copy's machine stops at every step of its disk: what it acknowledged is there afterwards, and it goes on.
#[test]
fn what_a_copy_acknowledged_survives_its_own_power_loss() {
    let disk = first();
    let mut chain = open(&disk, 1);
    grow(&mut chain, 0..20);
    let mut steps = 0;
    for operation in 1.. {
        let second = SimDisk::new();
        second.fault(operation, crate::sim::Fault::StopAfter);
        let mut acknowledged = 0;
        let grown = copy_of(&second).and_then(|mut copy| {
            catch_up(&disk, &writer(), copy.held(), &|| chain.position(), &|_| false, &mut |change: Change| {
                copy.take(&change)?;
                acknowledged = copy.held().size;
                Ok::<(), CopyRefused>(())
            })
        });
        let after = second.power_loss(operation);
        let mut copy = copy_of(&after).unwrap();
        assert!(copy.held().size >= acknowledged, "step {operation}");
        follow(&chain, &mut copy).unwrap();
        same(&disk, &after);
        steps += 1;
        if grown.is_ok() {
            break;
        }
    }
    assert!(steps > 10, "{steps}");
}

#[test]
fn two_processes_talk_through_pipes() {
    use crate::{PeerAnswer, PeerHello, keep_copy, write_message};
    let (disk, second) = (first(), SimDisk::new());
    let mut chain = open(&disk, 1);
    grow(&mut chain, 0..20);
    let mut input = vec![];
    let hello = PeerHello { writer: writer(), genesis: fake_genesis("clinic").to_bytes() };
    write_message(&mut input, &hello.to_bytes()).unwrap();
    catch_up(&disk, &writer(), Held::default(), &|| chain.position(), &|_| false, &mut |change: Change| {
        write_message(&mut input, &change.to_bytes()).unwrap();
        Ok::<(), CopyRefused>(())
    })
    .unwrap();
    // The first process dies while it writes the next message.
    input.extend([0, 0, 1, 0, 7]);
    let mut output = vec![];
    keep_copy(second.clone(), &mut &input[..], &mut output).unwrap();
    same(&disk, &second);
    let (mut rest, mut newest) = (&output[..], None);
    while let Some(message) = crate::read_message(&mut rest).unwrap() {
        newest = Some(PeerAnswer::parse(&message).unwrap().unwrap());
    }
    assert_eq!(newest.unwrap().held.size, chain.size().0);
    let mut output = vec![];
    assert!(keep_copy(second, &mut &[0, 0, 0, 1, 9][..], &mut output).is_err());
    assert!(PeerAnswer::parse(&output[4..]).unwrap().is_err());
}
