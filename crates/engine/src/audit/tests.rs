use super::*;
use custody_ledger::{
    Position, Reader, SERVER_SEGMENT_BYTES,
    verify::{Kept, Outside, TrustPolicy, Verdict, keep, verify},
};
use custody_model::{
    CatalogChange, DatasetId, Denied, Kind, Measure, OpenIntent, ReadIntent, Reason, StoredEntry, Verb, WallNanos,
    WriterEvent,
};
use std::{os::unix::fs::PermissionsExt, sync::atomic::AtomicI64};

/// A clock that moves a millisecond each time it is asked.
struct Ticking(AtomicI64);

impl Clock for Ticking {
    fn now(&self) -> WallNanos {
        WallNanos(self.0.fetch_add(1_000_000, Relaxed))
    }
}

struct Fixture {
    folder: tempfile::TempDir,
    clock: Arc<Ticking>,
}

impl Fixture {
    async fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let fixture = Self { folder, clock: Arc::new(Ticking(AtomicI64::new(1_790_000_000_000_000_000))) };
        let (ledger, keys) = (fixture.folder.path().join("ledger"), fixture.folder.path().join("keys"));
        Recorder::create(&ledger, &keys, "clinic", fixture.clock.clone()).await.expect("a new ledger");
        fixture
    }

    fn options(&self, writer: WriterChoice) -> RecorderOptions {
        RecorderOptions {
            ledger: self.folder.path().join("ledger"),
            keys: self.folder.path().join("keys"),
            writer,
            clock: self.clock.clone(),
            segment_bytes: SERVER_SEGMENT_BYTES,
            max_open_reads: 4,
            patience: Duration::from_secs(20),
            peer: None,
        }
    }

    async fn open(&self, writer: WriterChoice) -> Recorder {
        Recorder::open(self.options(writer)).await.expect("a recorder")
    }

    fn source(&self) -> FolderSource {
        FolderSource::new(self.folder.path().join("ledger"))
    }

    fn entry(&self, payload: Payload) -> Entry {
        let now = self.clock.now();
        Entry {
            id: new_id(now),
            wall: now,
            reference: None,
            control_seq: ControlSeq(0),
            trace: None,
            actor: None,
            verb: Verb::Serve,
            targets: vec![],
            outcome: Outcome::Pending,
            reason: Reason::default(),
            measure: Measure::default(),
            payload,
        }
    }

    fn intent(&self, granted_bytes: u64) -> Entry {
        self.entry(Payload::ReadIntent(ReadIntent {
            statement: None,
            statement_hash: Hash([7; 32]),
            lineage_hash: None,
            plan: Hash([9; 32]),
            granted_bytes,
            prediction: None,
        }))
    }

    fn outcome(&self) -> Entry {
        self.entry(Payload::ReadOutcome(ReadOutcome { code: None, scans: vec![] }))
    }

    fn control(&self, seq: u64, name: &str) -> Entry {
        let id = DatasetId(Uuid::from_u128(u128::from(seq)));
        let change = CatalogChange::External { id, name: name.parse().expect("a name") };
        Entry { control_seq: ControlSeq(seq), ..self.entry(Payload::CatalogChange(change)) }
    }

    /// What a writer's chain holds, read as any other process would.
    fn entries(&self, writer: &str) -> Vec<StoredEntry> {
        let disk = FileDisk::new(self.folder.path().join("ledger"));
        let writer = WriterId::new(writer).expect("a writer");
        Reader::new(disk).tail(&writer, Position::default()).expect("a readable chain").0
    }

    /// Code and measure of every outcome of an intent, in all chains.
    fn outcomes(&self, intent: EntryId) -> Vec<(Option<String>, Measure)> {
        let chains = ["serve", "cli-0", "cli-1"].map(|w| self.entries(w));
        let of = |e: StoredEntry| match e.entry.payload {
            Payload::ReadOutcome(o) if e.entry.reference == Some(intent) => Some((o.code, e.entry.measure)),
            _ => None,
        };
        chains.into_iter().flatten().filter_map(of).collect()
    }

    fn verdict(&self) -> Verdict {
        let report = verify(&self.source(), &TrustPolicy::default(), &Outside::none(self.clock.now()));
        assert!(matches!(report.verdict, Verdict::FreshnessUnproven), "{report}");
        report.verdict
    }
}

/// Waits until something queued without a waiter is durable.
async fn until(what: impl Fn() -> bool) {
    for _ in 0..500 {
        if what() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("it never happened");
}

#[tokio::test]
async fn an_intent_is_durable_before_its_receipt_and_an_outcome_before_the_end() {
    let f = Fixture::new().await;
    let recorder = f.open(WriterChoice::Serve).await;
    let (intent, outcome) = (f.intent(64), f.outcome());
    let id = intent.id;
    let (receipt, slot) = recorder.intent(intent).await.expect("a receipt");
    assert_eq!(f.entries("serve").last().map(|e| (e.entry.id, e.seq)), Some((id, receipt.entry_ref().seq)));
    assert_eq!((receipt.plan(), slot.intent()), (Some(Hash([9; 32])), Some(id)));
    slot.progress(128).await.expect("more bytes");
    slot.close(outcome).await.expect("an outcome");
    let tail: Vec<_> = f.entries("serve").iter().rev().take(2).map(|e| (e.entry.kind(), e.entry.reference)).collect();
    assert_eq!(tail, [(Kind::ReadOutcome, Some(id)), (Kind::ReadProgress, Some(id))]);
    recorder.close().await.expect("an orderly end");
    let end = f.entries("serve").pop().expect("an entry");
    assert_eq!(end.entry.payload, Payload::Writer(WriterEvent::Close));
    f.verdict();
    assert_eq!(recorder.record(f.outcome()).await, Err(NotAudited::Closed));
}

#[tokio::test]
async fn a_reader_that_goes_away_leaves_its_numbers_behind() {
    let f = Fixture::new().await;
    let recorder = f.open(WriterChoice::Cli).await;
    let intent = f.intent(64);
    let id = intent.id;
    let (_, slot) = recorder.intent(intent).await.expect("a receipt");
    slot.released().add(100, 4_000);
    slot.released().add(20, 800);
    drop(slot);
    until(|| !f.outcomes(id).is_empty()).await;
    let (code, measure) = f.outcomes(id).remove(0);
    assert_eq!(code.as_deref(), Some("client_cancelled"));
    assert_eq!((measure.rows, measure.batches, measure.bytes), (Some(120), Some(2), Some(4_800)));
    recorder.close().await.expect("an orderly end");
    f.verdict();
}

#[tokio::test]
async fn after_a_crash_the_next_opening_ends_open_reads() {
    let f = Fixture::new().await;
    // Both ended in order once; that must not hide what happens now.
    for writer in [WriterChoice::Serve, WriterChoice::Cli] {
        f.open(writer).await.close().await.expect("an orderly end");
    }
    let server = f.open(WriterChoice::Serve).await;
    let command = f.open(WriterChoice::Cli).await;
    let intents = [f.intent(64), f.intent(32)];
    let [served, commanded] = [intents[0].id, intents[1].id];
    let [a, b] = intents;
    let (_, slot) = server.intent(a).await.expect("a receipt");
    slot.progress(4096).await.expect("more bytes");
    let (_, other) = command.intent(b).await.expect("a receipt");
    server.crash().await;
    command.crash().await;
    drop((slot, other));
    let next = f.open(WriterChoice::Cli).await;
    assert_eq!(next.writer().as_str(), "cli-0");
    for (intent, bytes) in [(served, 4096), (commanded, 32)] {
        let outcomes = f.outcomes(intent);
        let expected = Measure { bytes: Some(bytes), upper_bound: true, ..Measure::default() };
        assert_eq!(outcomes, [(Some("unknown_crash".to_string()), expected)]);
    }
    next.close().await.expect("an orderly end");
    for writer in ["serve", "cli-0"] {
        let last = f.entries(writer).pop().expect("an entry").entry.payload;
        assert_eq!(last, Payload::Writer(WriterEvent::Close), "{writer}");
    }
    f.verdict();
}

#[tokio::test]
async fn commands_and_a_server_run_side_by_side() {
    let f = Fixture::new().await;
    let server = f.open(WriterChoice::Serve).await;
    let first = f.open(WriterChoice::Cli).await;
    let second = f.open(WriterChoice::Cli).await;
    assert_eq!([&server, &first, &second].map(|r| r.writer().as_str().to_string()), ["serve", "cli-0", "cli-1"]);
    let again = Recorder::open(f.options(WriterChoice::Serve)).await.map(drop).expect_err("a refusal");
    assert_eq!(again.to_string().split(';').next(), Some("C7010 writer serve is already open"));
    first.close().await.expect("an orderly end");
    let third = f.open(WriterChoice::Cli).await;
    assert_eq!(third.writer().as_str(), "cli-0");
    for recorder in [server, second, third] {
        recorder.close().await.expect("an orderly end");
    }
    f.verdict();
}

#[tokio::test]
async fn one_of_two_takes_a_control_position() {
    let f = Fixture::new().await;
    let (a, b) = (f.open(WriterChoice::Serve).await, f.open(WriterChoice::Cli).await);
    let (mine, yours) = (f.control(1, "raw.a"), f.control(1, "raw.b"));
    let fast = b.control(yours.clone()).await.expect("a place");
    assert_eq!((fast.entry.writer.as_str(), fast.id), ("cli-0", yours.id));
    assert_eq!(a.control(mine).await, Err(ControlFailed::Taken(ControlSeq(1))));
    let winner = yours;
    for recorder in [&a, &b] {
        assert_eq!(recorder.control_entry(ControlSeq(1)), Ok(Some(winner.clone())));
        assert_eq!(recorder.control_entry(ControlSeq(2)), Ok(None));
    }
    b.control(f.control(2, "raw.c")).await.expect("the next place");
    a.close().await.expect("an orderly end");
    b.close().await.expect("an orderly end");
    f.verdict();
}

#[tokio::test]
async fn a_claim_without_its_entry_is_completed() {
    let f = Fixture::new().await;
    let command = f.open(WriterChoice::Cli).await;
    command.control(f.control(1, "raw.a")).await.expect("a place");
    // What a crash between claim and append leaves: the note, and the claim.
    let lost = f.control(2, "raw.b");
    let bytes = encode(&lost).expect("an entry").entry;
    let mut pending = Pending::default();
    pending.add(ControlSeq(2), bytes.leaf());
    let writer = command.writer().clone();
    pending.store(command.disk(), &writer).expect("a note");
    control::claim(command.disk(), ControlSeq(2), &bytes).expect("a claim");
    command.crash().await;
    let server = f.open(WriterChoice::Serve).await;
    assert!(f.entries("serve").iter().any(|e| e.entry == lost));
    server.close().await.expect("an orderly end");
    f.open(WriterChoice::Cli).await.close().await.expect("an orderly end");
    let all = ["serve", "cli-0"].map(|w| f.entries(w)).concat();
    assert_eq!(all.iter().filter(|e| e.entry.id == lost.id).count(), 1);
    f.verdict();
}

#[tokio::test]
async fn too_many_open_reads_wait_and_are_refused() {
    let f = Fixture::new().await;
    let options =
        RecorderOptions { max_open_reads: 1, patience: Duration::from_millis(300), ..f.options(WriterChoice::Cli) };
    let recorder = Recorder::open(options).await.expect("a recorder");
    let (_, slot) = recorder.intent(f.intent(64)).await.expect("a receipt");
    let refused = recorder.intent(f.intent(64)).await.expect_err("a refusal");
    let problem = Problem::from(refused);
    assert_eq!(problem.message, "read refused: the audit ledger cannot record it within 300 ms");
    assert_eq!(problem.code.exit_code(), 7);
    slot.close(f.outcome()).await.expect("an outcome");
    recorder.intent(f.intent(64)).await.map(|(_, slot)| slot.intent()).expect("room again");
    recorder.close().await.expect("an orderly end");
}

#[tokio::test]
async fn an_intent_nobody_waits_for_is_closed_as_well() {
    let f = Fixture::new().await;
    let recorder = f.open(WriterChoice::Cli).await;
    let intent = f.intent(64);
    let id = intent.id;
    // The caller goes away while the entry is on its way.
    let waiting = tokio::time::timeout(Duration::ZERO, recorder.intent(intent)).await;
    drop(waiting);
    recorder.close().await.expect("an orderly end");
    let recorded = f.entries("cli-0").iter().any(|e| e.entry.id == id);
    let codes: Vec<_> = f.outcomes(id).into_iter().map(|(code, _)| code).collect();
    assert_eq!(codes, vec![Some("client_cancelled".to_string()); usize::from(recorded)]);
}

#[tokio::test]
async fn many_at_once_share_frames() {
    let f = Fixture::new().await;
    let recorder = Arc::new(f.open(WriterChoice::Serve).await);
    let tasks: Vec<_> = (0..200)
        .map(|_| {
            let denied = Denied { code: "C6001".into(), statement_hash: None, targets: vec![], count: 1 };
            let (recorder, entry) = (Arc::clone(&recorder), f.entry(Payload::Denied(denied)));
            tokio::spawn(async move { recorder.record(entry).await })
        })
        .collect();
    let mut seqs = vec![];
    for task in tasks {
        seqs.push(task.await.expect("a task").expect("an entry").entry.seq);
    }
    seqs.sort();
    seqs.dedup();
    assert_eq!(seqs.len(), 200);
    recorder.close().await.expect("an orderly end");
    f.verdict();
}

#[tokio::test]
async fn blobs_and_long_payloads_lie_beside_the_ledger() {
    let f = Fixture::new().await;
    let recorder = f.open(WriterChoice::Cli).await;
    let blob = recorder.put_blob(b"many files".to_vec()).await.expect("a blob");
    assert_eq!(recorder.get_blob(&blob), Ok(Some(b"many files".to_vec())));
    let none = BlobRef { hash: Hash([1; 32]), length: 3 };
    assert_eq!(recorder.get_blob(&none), Ok(None));
    let targets = (0..4_000u64).map(|n| Hash([n as u8; 32])).collect();
    let denied = Denied { code: "C6001".into(), statement_hash: None, targets, count: 4_000 };
    let long = f.entry(Payload::Denied(denied));
    recorder.record(long.clone()).await.expect("a long entry");
    assert!(f.entries("cli-0").iter().any(|e| e.entry == long));
    recorder.close().await.expect("an orderly end");
    f.verdict();
    let path = f.folder.path().join("ledger/blob");
    let file = std::fs::read_dir(path)
        .expect("blobs")
        .filter_map(Result::ok)
        .map(|e| e.path())
        .find(|p| std::fs::metadata(p).is_ok_and(|m| m.len() > 100));
    std::fs::write(file.expect("the payload"), b"other").expect("tampering");
    let report = verify(&f.source(), &TrustPolicy::default(), &Outside::none(f.clock.now()));
    assert_eq!(report.verdict, Verdict::Tampered, "{report}");
}

#[tokio::test]
async fn freshness_comes_from_outside() {
    let f = Fixture::new().await;
    let recorder = f.open(WriterChoice::Serve).await;
    let (_, slot) = recorder.intent(f.intent(64)).await.expect("a receipt");
    slot.close(f.outcome()).await.expect("an outcome");
    recorder.close().await.expect("an orderly end");
    let since = vec![Kept { name: "kept".into(), notes: keep(&f.source()).expect("notes") }];
    let outside = Outside { since, ..Outside::none(f.clock.now()) };
    let report = verify(&f.source(), &TrustPolicy::default(), &outside);
    assert_eq!(report.verdict, Verdict::Fresh, "{report}");
    std::fs::remove_dir_all(f.folder.path().join("ledger/w/serve")).expect("tampering");
    let report = verify(&f.source(), &TrustPolicy::default(), &outside);
    assert_eq!(report.verdict, Verdict::Tampered, "{report}");
}

#[tokio::test]
async fn keys_are_their_owners_only() {
    let f = Fixture::new().await;
    f.open(WriterChoice::Serve).await.close().await.expect("an orderly end");
    let mode = |path: &str| {
        let metadata = std::fs::metadata(f.folder.path().join(path)).expect("it exists");
        metadata.permissions().mode() & 0o777
    };
    assert_eq!([mode("keys"), mode("keys/root"), mode("keys/w/serve")], [0o700, 0o600, 0o600]);
    let open: Vec<OpenIntent> = vec![];
    let first = f.entries("serve").remove(0).entry.payload;
    assert_eq!(first, Payload::Writer(WriterEvent::Open { incarnation: 1, open }));
}

/// The folder of segments is taken away: the file being written still works, the next segment cannot be made, and
/// nothing is recorded any more. When it is back, the same recorder goes on: what is owed comes first, and nothing lacks.
#[tokio::test]
async fn a_disk_that_works_again_needs_no_restart() {
    let f = Fixture::new().await;
    let recorder = f.open(WriterChoice::Cli).await;
    let (receipt, slot) = recorder.intent(f.intent(64)).await.expect("a receipt");
    let (folder, away) = (f.folder.path().join("ledger/w/cli-0/seg"), f.folder.path().join("away"));
    std::fs::rename(&folder, &away).expect("the folder goes");
    std::fs::write(&folder, "not a folder").expect("a file in its place");
    let long = || {
        f.entry(Payload::Denied(Denied { code: "C".repeat(40_000), statement_hash: None, targets: vec![], count: 1 }))
    };
    let mut recorded = vec![];
    let refused = loop {
        match recorder.record(long()).await {
            Ok(entry) => recorded.push(entry.entry.seq.0),
            Err(not) => break not,
        }
        assert!(recorded.len() < 100, "a segment of 1 MiB took everything");
    };
    assert!(matches!(refused, NotAudited::Broken(_)), "{refused}");
    let no_read = recorder.intent(f.intent(64)).await.map(|_| ()).expect_err("no read begins");
    assert!(matches!(no_read, NotAudited::Broken(_)), "{no_read}");
    slot.close(f.outcome()).await.expect_err("not durable, so not well");
    std::fs::remove_file(&folder).expect("the file goes");
    std::fs::rename(&away, &folder).expect("the folder is back");
    let again = loop {
        match recorder.intent(f.intent(64)).await {
            Ok((receipt, slot)) => break (receipt.entry_ref().seq.0, slot),
            Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    };
    again.1.close(f.outcome()).await.expect("an outcome");
    assert_eq!(f.outcomes(receipt.entry_id()).len(), 1, "what was owed is recorded, once");
    let entries = f.entries("cli-0");
    assert_eq!(entries.iter().map(|e| e.seq.0).collect::<Vec<_>>(), (0..entries.len() as u64).collect::<Vec<_>>());
    assert!(recorded.iter().all(|seq| *seq < again.0));
    recorder.close().await.expect("an orderly end");
    f.verdict();
}
