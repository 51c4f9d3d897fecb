//! `system.access.audit` over a long ledger, through the same door as any read.
//!
//! ```text
//! cargo bench --bench custody -- audit FOLDER [READS]
//! ```
//!
//! FOLDER is made anew: a warehouse whose ledger has READS reads (default 10,000,000), each an intent with its target and
//! columns and an outcome. Each query is gated, pinned, decided, recorded twice on disk, planned and run to its end.

use custody_engine::{
    Engine, Project, PublishOptions, ReadRequest, Session, Settings, audit::WriterChoice, clock::SystemClock,
};
use custody_ledger::{Chain, ChainOptions, EntryBytes, Genesis, KeySet, SERVER_SEGMENT_BYTES, Sha3, TreeHash, encode};
use custody_model::{
    Actor, Authentication, ColumnRole, ControlSeq, DatasetId, Entry, EntryId, Hash, Measure, Outcome, Payload,
    Principal, Purpose, ReadIntent, ReadOutcome, Reason, RoleSet, Rung, SealedBox, Subject, Target, TargetColumn, Verb,
    WallNanos, WriterId,
};
use custody_store::FileDisk;
use datafusion::arrow::array::{Array, AsArray};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

const DATASETS: u64 = 40;
const PRINCIPALS: u64 = 2_000;
const PURPOSES: [&str; 8] =
    ["research", "care", "billing", "audit", "fraud", "serving", "monitoring", "model_training"];
/// The ledger's reads are spread over so many days.
const DAYS: i64 = 90;
/// The first of them, 2026-01-01.
const BEGAN: i64 = 1_767_225_600;
const QUERIES: usize = 60;

/// Measures what `arguments` name.
pub(crate) fn main(arguments: &[String]) {
    let [folder, rest @ ..] = arguments else { panic!("audit FOLDER [READS]") };
    let reads = rest.first().map_or(10_000_000, |n| n.parse().expect("a number of reads"));
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(run(Path::new(folder), reads));
}

fn subject() -> Subject {
    Subject {
        principal: Principal("bench/auditor".into()),
        kind: "user".into(),
        roles: BTreeSet::from(["auditor".into()]),
        attributes: BTreeMap::new(),
        purpose: Purpose("audit".into()),
        environment: "dev".into(),
        stage: String::new(),
        region: None,
        model: None,
        model_version: None,
        authentication: Authentication::Local,
        session: None,
        token: None,
    }
}

async fn run(folder: &Path, reads: u64) {
    fs::create_dir(folder).expect("a new folder");
    let settings = || Settings::new(folder.join("warehouse"), "bench", WriterChoice::Serve);
    fs::create_dir(folder.join("warehouse")).expect("a folder");
    let engine = Engine::create(settings(), Arc::new(SystemClock), subject()).await.expect("an engine");
    let session = engine.session(subject());
    sources(folder);
    let project = Project::load(folder).expect("a project");
    session.apply_policies(&project, "bench", false).await.expect("policies");
    let options = PublishOptions { because: "bench".into(), ..PublishOptions::default() };
    session.publish(&project, &options, &|_| {}).await.expect("published");
    let targets = targets(&session).await;
    engine.close().await.expect("closed");
    let began = Instant::now();
    let bytes = append(folder, reads, &targets);
    println!("{reads} reads appended in {:.0?}, {} bytes an entry", began.elapsed(), bytes / (2 * reads).max(1));

    let before = resident();
    let began = Instant::now();
    let engine = Engine::open(settings(), Arc::new(SystemClock)).await.expect("an engine");
    println!("opened in {:.2?}", began.elapsed());
    let session = engine.session(subject());
    let began = Instant::now();
    let (rows, _) = ask(&session, "SELECT count(*) FROM system.access.audit").await;
    println!("first query, which reads the ledger: {:.1?}, {rows} row", began.elapsed());
    let memory = resident().saturating_sub(before);
    println!("memory since opening: {} MiB, {} bytes a row", memory >> 20, memory / reads.max(1));

    println!("\n| filter | asked for | rows or groups, mean | p50 | p95 |\n|---|---|---|---|---|");
    let counts = "count(*), sum(rows), max(event_time)";
    let (mut worst, kinds) = (Duration::ZERO, kinds());
    for (name, filter) in &kinds {
        for (what, select, end) in [
            ("counts", counts, ""),
            ("newest 100, all columns", "*", " ORDER BY event_time DESC LIMIT 100"),
            ("by outcome", "outcome, count(*), sum(bytes)", " GROUP BY outcome"),
        ] {
            let (mut times, mut rows) = (vec![], 0);
            for n in 0..QUERIES as u64 {
                let text = format!("SELECT {select} FROM system.access.audit WHERE {}{end}", filter(n));
                let (found, time) = ask(&session, &text).await;
                times.push(time);
                rows += found;
            }
            times.sort();
            let (p50, p95) = (times[QUERIES / 2], times[QUERIES * 95 / 100]);
            worst = worst.max(p95);
            println!("| {name} | {what} | {} | {p50:.1?} | {p95:.1?} |", rows / QUERIES);
        }
    }
    println!("\nlargest p95: {worst:.1?}");
    visible(&session).await;
    engine.close().await.expect("closed");
}

/// A filter by the number of the query.
type Filter = Box<dyn Fn(u64) -> String>;

fn kinds() -> Vec<(&'static str, Filter)> {
    let principal = |n: u64| format!("principal = '{}'", person(n * 37 % PRINCIPALS));
    let dataset = |n: u64| format!("dataset = 'features.f{}'", n % DATASETS);
    let purpose = |n: u64| format!("purpose = '{}'", PURPOSES[n as usize % PURPOSES.len()]);
    let window = |n: u64, days: i64| {
        let from = BEGAN + (n as i64 * 7 % (DAYS - days)) * 86_400;
        let at = |seconds: i64| {
            let time = chrono_text(seconds);
            format!("TIMESTAMP '{time}'")
        };
        format!("event_time >= {} AND event_time < {}", at(from), at(from + days * 86_400))
    };
    vec![
        ("principal", Box::new(principal)),
        ("dataset", Box::new(dataset)),
        ("purpose", Box::new(purpose)),
        ("one day", Box::new(move |n| window(n, 1))),
        ("seven days", Box::new(move |n| window(n, 7))),
        ("principal, seven days", Box::new(move |n| format!("{} AND {}", principal(n), window(n, 7)))),
        ("dataset, purpose", Box::new(move |n| format!("{} AND {}", dataset(n), purpose(n)))),
        (
            "principal, dataset, purpose, thirty days",
            Box::new(move |n| format!("{} AND {} AND {} AND {}", principal(n), dataset(n), purpose(n), window(n, 30))),
        ),
    ]
}

/// Seconds since 1970 as a date and time of 2026.
fn chrono_text(seconds: i64) -> String {
    let days = (seconds - BEGAN).div_euclid(86_400);
    let (mut month, mut day) = (1, days);
    for length in [31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30] {
        if day < length {
            break;
        }
        day -= length;
        month += 1;
    }
    format!("2026-{month:02}-{:02}T00:00:00Z", day + 1)
}

async fn ask(session: &Session, text: &str) -> (usize, Duration) {
    let began = Instant::now();
    let mut read = session.read(ReadRequest::sql(text)).await.expect(text);
    let mut rows = 0;
    while let Some(batch) = read.next().await {
        let batch = batch.expect("a batch");
        rows += batch.num_rows();
        read.release(batch.num_rows() as u64, batch.get_array_memory_size() as u64).await.expect("released");
    }
    read.finish().await.expect("finished");
    (rows, began.elapsed())
}

/// From the acknowledgement of an entry to the first row that shows it.
async fn visible(session: &Session) {
    let (mut seen, mut synced) = (vec![], vec![]);
    for _ in 0..200 {
        let began = Instant::now();
        let read = session.read(ReadRequest::sql("SELECT 1")).await.expect("a read");
        synced.push(began.elapsed());
        let acknowledged = Instant::now();
        let seq = read.receipt().seq;
        // Its own position is frozen before its own entries are written.
        let text = format!(
            "SELECT seq FROM system.access.audit WHERE writer = 'serve' AND seq = {seq} AND event_time > TIMESTAMP '2026-06-01T00:00:00Z'"
        );
        let mut next = session.read(ReadRequest::sql(text)).await.expect("a read");
        let batch = next.next().await.expect("a batch").expect("rows");
        seen.push(acknowledged.elapsed());
        assert_eq!(batch.column(0).len(), 1, "entry {seq} is not to be seen");
        drop(next);
        drop(read);
    }
    seen.sort();
    synced.sort();
    println!(
        "durable to visible in SQL, 200 times, the second query's own entry included: p50 {:.1?}, p95 {:.1?}; \
         a read whose entry is durable: p50 {:.1?}",
        seen[100], seen[190], synced[100]
    );
}

fn resident() -> u64 {
    let status = fs::read_to_string("/proc/self/status").expect("a process");
    let line = status.lines().find(|l| l.starts_with("VmRSS:")).expect("VmRSS");
    line.split_whitespace().nth(1).expect("a number").parse::<u64>().expect("kB") << 10
}

/// Feature views to read.
fn sources(folder: &Path) {
    let write = |path: String, text: String| {
        let path = folder.join(path);
        fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
        fs::write(path, text).expect("a file");
    };
    write(
        "policies/all.cedar".into(),
        "permit (principal, action in [Action::\"up_to_raw\", Action::\"publish\", Action::\"see_rows\", \
         Action::\"skip_guard\"], resource);"
            .into(),
    );
    write("policies/none.sql".into(), "CREATE CLASSIFICATION pii;\n".into());
    write("warehouse/raw/t.csv".into(), "id,ts,value\n1,2026-01-01T00:00:00,1.5\n".into());
    write(
        "sources/t.sql".into(),
        "CREATE SOURCE raw.t (id BIGINT NOT NULL, ts TIMESTAMP NOT NULL, value DOUBLE) FROM CSV 'raw/t.csv' \
         ENTITY thing (id) EVENT TIME ts;\n"
            .into(),
    );
    for n in 0..DATASETS {
        write(
            format!("features/f{n}.sql"),
            format!(
                "CREATE FEATURE VIEW features.f{n} ENTITY thing (id) EVENT TIME ts \
                 AS SELECT id, ts, value FROM raw.t;\n"
            ),
        );
    }
}

/// Dataset and control position of each feature view.
async fn targets(session: &Session) -> Vec<(DatasetId, ControlSeq)> {
    let text = "SELECT d.dataset_id, c.node FROM system.catalog.datasets AS d JOIN system.catalog.columns AS c \
                ON c.dataset = d.dataset WHERE d.kind = 'feature_view' AND c.ordinal = 1 ORDER BY d.dataset";
    let mut read = session.read(ReadRequest::sql(text)).await.expect("datasets");
    let mut found = vec![];
    while let Some(batch) = read.next().await {
        let batch = batch.expect("a batch");
        let nodes = batch.column(1).as_primitive::<datafusion::arrow::datatypes::Int64Type>();
        for (id, node) in batch.column(0).as_string::<i32>().iter().flatten().zip(nodes.values()) {
            found.push((DatasetId(id.parse().expect("an id")), ControlSeq((*node as u64) >> 16)));
        }
        read.release(batch.num_rows() as u64, 1 << 16).await.expect("released");
    }
    read.finish().await.expect("finished");
    assert_eq!(found.len() as u64, DATASETS);
    found
}

/// Appends reads to the server's chain; how many bytes their entries have.
fn append(folder: &Path, reads: u64, targets: &[(DatasetId, ControlSeq)]) -> u64 {
    let disk = Arc::new(FileDisk::new(folder.join("warehouse/ledger")));
    let genesis = Genesis::load(disk.as_ref()).expect("a genesis");
    let keys = KeySet::open(FileDisk::private(folder.join("warehouse/keys")), &genesis).expect("keys");
    let writer = WriterId::new("serve").expect("a writer");
    let options = ChainOptions { writer: writer.clone(), segment_bytes: SERVER_SEGMENT_BYTES, seed: [3; 32] };
    let (mut chain, _) = Chain::open(disk, &genesis, options, now()).expect("a chain");
    let signer = keys.signer(&writer, chain.key_epoch(), now(), [9; 32]).expect("a key");
    let at = targets.iter().map(|t| t.1).max().expect("a target");
    let (mut bytes, mut done) = (0, 0);
    while done < reads {
        let upto = reads.min(done + 2048);
        let frame: Vec<EntryBytes> = (done..upto)
            .flat_map(|n| [intent(n, reads, targets, at), outcome(n, reads, at)])
            .map(|entry| encode(&entry).expect("an entry").entry)
            .collect();
        bytes += frame.iter().map(|e| e.as_bytes().len() as u64).sum::<u64>();
        chain.commit(&frame, now()).expect("committed");
        done = upto;
        if chain.size().0 - chain.signed_size().0 >= 65_536 {
            chain.checkpoint(&signer, now()).expect("signed");
        }
    }
    chain.checkpoint(&signer, now()).expect("signed");
    bytes
}

fn now() -> WallNanos {
    let since = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
    WallNanos(i64::try_from(since.as_nanos()).unwrap_or(i64::MAX))
}

/// Sixteen bytes that look random.
fn noise(n: u64, what: u8) -> [u8; 32] {
    let mut text = [0; 9];
    text[..8].copy_from_slice(&n.to_be_bytes());
    text[8] = what;
    Sha3::leaf(&text).0
}

fn id(n: u64, reads: u64, what: u8) -> EntryId {
    let millis = wall(n, reads).0 as u64 / 1_000_000;
    let random = noise(n, what)[..10].try_into().expect("ten bytes");
    EntryId(uuid::Builder::from_unix_timestamp_millis(millis, &random).into_uuid())
}

fn wall(n: u64, reads: u64) -> WallNanos {
    let step = i128::from(DAYS) * 86_400 * 1_000_000_000 * i128::from(n) / i128::from(reads);
    WallNanos(BEGAN * 1_000_000_000 + i64::try_from(step).expect("a time"))
}

fn person(n: u64) -> String {
    format!("clinic/person-{n:04}")
}

fn intent(n: u64, reads: u64, targets: &[(DatasetId, ControlSeq)], at: ControlSeq) -> Entry {
    let random = noise(n, 0);
    let pick = |from: usize, of: u64| {
        u64::from(u32::from_be_bytes([random[from], random[from + 1], random[from + 2], random[from + 3]])) % of
    };
    // A few principals and purposes have most of the reads.
    let who = pick(0, PRINCIPALS).min(pick(4, PRINCIPALS)).min(pick(8, PRINCIPALS));
    let purpose = PURPOSES[pick(12, 8).min(pick(16, 8)) as usize];
    let dataset = pick(20, DATASETS);
    let (target, made_at) = targets[dataset as usize];
    let mut roles = RoleSet::default();
    roles.insert(ColumnRole::Project);
    let column = |ordinal| TargetColumn {
        ordinal,
        requested: true,
        roles,
        rung: Rung::Raw,
        policies: vec!["all.policy0".into()],
    };
    Entry {
        id: id(n, reads, 1),
        wall: wall(n, reads),
        reference: None,
        control_seq: at,
        trace: None,
        actor: Some(Actor {
            principal: Principal(person(who)),
            kind: "user".into(),
            roles: BTreeSet::from([format!("role{}", who % 40), "reader".into()]),
            attributes: BTreeMap::new(),
            authentication: Authentication::Token,
            session: Some(format!("{who:04}-{}", n / 200_000)),
            on_behalf_of: None,
            token: None,
            address: Some(SealedBox { key: person(who), nonce: [1; 12], ciphertext: vec![2; 27] }),
        }),
        verb: if pick(24, 3) == 0 { Verb::Read } else { Verb::Serve },
        targets: vec![Target {
            dataset: target,
            version: 1,
            made_at,
            grant: Some(Hash(noise(who * DATASETS + dataset, 2))),
            row_sets: vec![],
            columns: vec![column(1), column(2), column(3)],
            owner: None,
            classes: vec![],
        }],
        outcome: Outcome::Pending,
        reason: Reason {
            purpose: Some(purpose.into()),
            environment: "prod".into(),
            stage: "serving".into(),
            bundle: Some(Hash([1; 32])),
            exact: Some(true),
            ..Reason::default()
        },
        measure: Measure::default(),
        payload: Payload::ReadIntent(ReadIntent {
            statement: None,
            statement_hash: Hash(noise(pick(28, 500), 3)),
            lineage_hash: Some(Hash([3; 32])),
            plan: Hash(random),
            granted_bytes: 1 << 26,
            prediction: None,
        }),
    }
}

fn outcome(n: u64, reads: u64, at: ControlSeq) -> Entry {
    let random = noise(n, 4);
    let rows = u64::from(random[0]) * 16;
    let failed = random[1] == 0;
    Entry {
        id: id(n, reads, 5),
        wall: wall(n, reads),
        reference: Some(id(n, reads, 1)),
        control_seq: at,
        trace: None,
        actor: None,
        verb: Verb::Serve,
        targets: vec![],
        outcome: if failed { Outcome::Failure } else { Outcome::Success },
        reason: Reason { environment: "prod".into(), ..Reason::default() },
        measure: Measure {
            rows: Some(rows),
            batches: Some(1),
            bytes: Some(rows * 64),
            micros: Some(u64::from(random[2]) * 100),
            upper_bound: false,
        },
        payload: Payload::ReadOutcome(ReadOutcome { code: failed.then(|| "client_cancelled".into()), scans: vec![] }),
    }
}
