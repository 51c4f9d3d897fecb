//! The ledger on this machine's disk, with the disk's own figures and the raw hash rate beside it.
//!
//! ```text
//! cargo bench --bench custody -- ledger FOLDER [ENTRIES]
//! ```
//!
//! FOLDER is made anew and holds a ledger of ENTRIES (default 1,000,000) afterwards; one that is there is verified only. Every
//! number is of this run.

use custody_ledger::{
    Chain, ChainOptions, Disk, EntryBytes, Genesis, KeySet, Prover, Sha3, TreeHash, encode,
    verify::{Outside, Source, TrustPolicy, Unreadable, check_proof, verify},
};
use custody_model::{
    ControlSeq, Entry, EntryId, Hash, Measure, Outcome, Payload, ReadIntent, ReadOutcome, Reason, Verb, WallNanos,
    WriterId,
};
use custody_store::FileDisk;
use std::{
    io::{Read, Write},
    path::Path,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

type Failed = Box<dyn std::error::Error>;

/// The verifier's view of a folder.
struct Files(FileDisk);

impl Source for Files {
    fn list(&self, folder: &str) -> Result<Vec<String>, Unreadable> {
        self.0.list(folder).map_err(|e| Unreadable { path: folder.into(), why: e.to_string() })
    }
    fn read(&self, path: &str) -> Result<Option<Vec<u8>>, Unreadable> {
        self.0.read(path).map_err(|e| Unreadable { path: path.into(), why: e.to_string() })
    }
    fn read_into(&self, path: &str, buffer: &mut Vec<u8>) -> Result<bool, Unreadable> {
        buffer.clear();
        let read = std::fs::File::open(self.0.root().join(path)).and_then(|mut file| file.read_to_end(buffer));
        read.map(|_| true).map_err(|e| Unreadable { path: path.into(), why: e.to_string() })
    }
    fn read_start(&self, path: &str, length: usize) -> Result<Option<Vec<u8>>, Unreadable> {
        match self.0.len(path) {
            Ok(None) => Ok(None),
            _ => self
                .0
                .read_at(path, 0, length)
                .map(Some)
                .map_err(|e| Unreadable { path: path.into(), why: e.to_string() }),
        }
    }
}

fn now() -> WallNanos {
    let since = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
    WallNanos(i64::try_from(since.as_nanos()).unwrap_or(i64::MAX))
}

/// Half intents of usual size, half outcomes.
fn entry(n: u64) -> Result<EntryBytes, Failed> {
    let id = |n: u64| {
        EntryId(
            uuid::Builder::from_unix_timestamp_millis(
                n,
                &Sha3::leaf(&n.to_be_bytes()).0[..10].try_into().unwrap_or_default(),
            )
            .into_uuid(),
        )
    };
    let payload = match n % 2 {
        0 => Payload::ReadIntent(ReadIntent {
            statement: None,
            statement_hash: Hash([n as u8; 32]),
            lineage_hash: Some(Hash([3; 32])),
            plan: Hash([4; 32]),
            granted_bytes: 1 << 26,
            prediction: None,
        }),
        _ => Payload::ReadOutcome(ReadOutcome { code: None, scans: vec![] }),
    };
    let entry = Entry {
        id: id(n),
        wall: now(),
        reference: (n % 2 == 1).then(|| id(n - 1)),
        control_seq: ControlSeq(7),
        trace: None,
        actor: None,
        verb: Verb::Read,
        targets: vec![],
        outcome: Outcome::Success,
        reason: Reason { environment: "prod".into(), stage: "serve".into(), ..Reason::default() },
        measure: Measure { rows: Some(n), bytes: Some(n * 100), ..Measure::default() },
        payload,
    };
    Ok(encode(&entry)?.entry)
}

fn percentile(sorted: &[Duration], of: usize) -> Duration {
    sorted.get((sorted.len() * of / 100).min(sorted.len().saturating_sub(1))).copied().unwrap_or_default()
}

/// Measures what `arguments` name.
pub(crate) fn main(arguments: &[String]) {
    run(arguments).unwrap();
}

fn run(arguments: &[String]) -> Result<(), Failed> {
    let mut arguments = arguments.iter();
    let folder = arguments.next().ok_or("ledger FOLDER [ENTRIES]")?.clone();
    let total: u64 = arguments.next().map_or(Ok(1_000_000), |n| n.parse())?;
    let mut out = std::io::stdout();
    if Path::new(&folder).exists() {
        return judge(&folder, &mut out);
    }
    std::fs::create_dir(&folder)?;

    let device = device(Path::new(&folder))?;
    let (device_p50, device_p99) = (percentile(&device, 50), percentile(&device, 99));
    writeln!(
        out,
        "device: write of 512 B + fdatasync: p50 {device_p50:?}, p99 {device_p99:?}, {} of them",
        device.len()
    )?;

    let keys = KeySet::create(FileDisk::private(format!("{folder}/keys")), "clinic", [7; 32])?;
    let disk = Arc::new(FileDisk::new(format!("{folder}/ledger")));
    let genesis: Genesis = keys.genesis().clone();
    genesis.store(&disk)?;
    let writer = WriterId::new("serve").ok_or("a writer")?;
    let open = |seed: u8| {
        let options = ChainOptions {
            writer: writer.clone(),
            segment_bytes: custody_ledger::SERVER_SEGMENT_BYTES,
            seed: [seed; 32],
        };
        Chain::open(disk.clone(), &genesis, options, now())
    };
    let (mut chain, _) = open(1)?;
    let signer = keys.signer(&writer, chain.key_epoch(), now(), [9; 32])?;

    writeln!(
        out,
        "| in flight | durable entries/s | p50 | p99 | p50 of device | p99 of device | commits |\n|---|---|---|---|---|---|---|"
    )?;
    let mut number = 0;
    for in_flight in [1_u64, 16, 256, 1_024] {
        let entries = (0..in_flight).map(|n| entry(number + n)).collect::<Result<Vec<_>, _>>()?;
        number += in_flight;
        chain.commit(&entries, now())?;
        let (mut times, began) = (vec![], Instant::now());
        let mut encoding = Duration::ZERO;
        while began.elapsed() - encoding < Duration::from_secs(3) && number < total.max(50_000) {
            let encode = Instant::now();
            let entries = (0..in_flight).map(|n| entry(number + n)).collect::<Result<Vec<_>, _>>()?;
            encoding += encode.elapsed();
            number += in_flight;
            let one = Instant::now();
            chain.commit(&entries, now())?;
            times.push(one.elapsed());
        }
        let rate = (times.len() as u64 * in_flight) as f64 / times.iter().sum::<Duration>().as_secs_f64();
        times.sort();
        let (p50, p99) = (percentile(&times, 50), percentile(&times, 99));
        writeln!(
            out,
            "| {in_flight} | {rate:.0} | {p50:?} | {p99:?} | {device_p50:?} | {device_p99:?} | {} |",
            times.len()
        )?;
    }
    while chain.size().0 < total {
        let entries = (0..4096).map(|n| entry(number + n)).collect::<Result<Vec<_>, _>>()?;
        number += 4096;
        chain.commit(&entries, now())?;
        if chain.size().0 - chain.signed_size().0 >= 65_536 {
            chain.checkpoint(&signer, now())?;
        }
    }
    chain.checkpoint(&signer, now())?;
    let (size, root) = (chain.size(), chain.root());
    drop(chain);

    let began = Instant::now();
    let (chain, _) = open(2)?;
    writeln!(out, "open, {size} entries, by the edge: {:?}", began.elapsed())?;
    drop(chain);
    let _ = root;

    let began = Instant::now();
    let mut prover = Prover::new(&disk, &genesis, &writer)?;
    let proof = prover.entry(size.0 / 3)?;
    writeln!(
        out,
        "prove entry {} of {size}: {:?}, {} bytes, its entry {} of them",
        size.0 / 3,
        began.elapsed(),
        proof.len(),
        prover.bytes(size.0 / 3)?.len()
    )?;
    let began = Instant::now();
    check_proof(&proof, &genesis.root.to_string())?;
    writeln!(out, "check that proof: {:?}", began.elapsed())?;

    judge(&folder, &mut out)
}

/// How fast a ledger is verified, beside the hash rate of the same moment.
fn judge(folder: &str, out: &mut impl Write) -> Result<(), Failed> {
    // By the processor's time, not the wall's: other work on the machine would decide otherwise.
    let hashes = hash_rate()?;
    writeln!(out, "raw leaf + node rate of such entries, one core: {hashes:.0}/s")?;
    let began = cpu()?;
    let report =
        verify(&Files(FileDisk::new(format!("{folder}/ledger"))), &TrustPolicy::default(), &Outside::none(now()));
    let seconds = cpu()? - began;
    let rate = report.entries() as f64 / seconds;
    writeln!(
        out,
        "full verify: {seconds:.2} s, {rate:.0} entries/s, {:.2} of the raw rate; {}",
        rate / hashes,
        report.render().lines().next().unwrap_or_default()
    )?;
    Ok(())
}

/// Seconds that this thread has had a processor.
fn cpu() -> Result<f64, Failed> {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat")?;
    let nanos: f64 = text.split(' ').next().unwrap_or_default().parse()?;
    Ok(nanos / 1e9)
}

/// What the device itself takes, written as the ledger writes: into zeros that are there already.
fn device(folder: &Path) -> Result<Vec<Duration>, Failed> {
    use std::os::unix::fs::FileExt;
    let file = std::fs::File::create(folder.join("device"))?;
    for _ in 0..64 {
        (&file).write_all(&[0; 1 << 16])?;
    }
    file.sync_all()?;
    let mut times = vec![];
    for n in 0..2_000_u64 {
        let began = Instant::now();
        file.write_all_at(&[n as u8; 512], n * 512)?;
        file.sync_data()?;
        times.push(began.elapsed());
    }
    std::fs::remove_file(folder.join("device"))?;
    times.sort();
    Ok(times)
}

/// Leaf hash and inner node, for one entry after the other.
fn hash_rate() -> Result<f64, Failed> {
    let entries = [entry(0)?, entry(1)?];
    let began = cpu()?;
    let mut node = Hash::default();
    for n in 0..1_000_000 {
        node = Sha3::node(&node, &Sha3::leaf(entries[n % 2].as_bytes()));
    }
    let rate = 1_000_000.0 / (cpu()? - began);
    if node == Hash::default() { Err("no hash".into()) } else { Ok(rate) }
}
