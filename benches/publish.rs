//! What a publish costs beside a plain Parquet write of the same rows, how much memory it takes, and what many versions and many
//! views cost.
//!
//! ```text
//! cargo bench --bench custody -- publish [ROWS] [PART…]     default: 4,000,000 rows, every part
//! ```
//!
//! | part | ours | beside it |
//! |---|---|---|
//! | `stream` | rows in published order through [`Staging`]: root, profile, digests, bounds, sync | `AsyncArrowWriter`, zstd 1, sync |
//! | `publish` | a view with expectations: sorted, checked, counted, hashed, committed | the same query, sorted, read and written plainly |
//! | `memory` | 10,000,000 rows sorted and published under a pool of 512 MiB | |
//! | `versions` | newest and an old one of 10,000 versions, with its manifest from disk | |
//! | `plan` | a project of 1,000 views over each other's source | |

use custody_catalog::Catalog;
use custody_engine::{
    Engine, Project, PublishOptions, ReadRequest, Session, Settings, audit::WriterChoice, clock::SystemClock,
};
use custody_ledger::{Position, Reader};
use custody_model::{
    Authentication, ControlSeq, DatasetId, EntryId, FieldId, Hash, Payload, Pin, Principal, Purpose, Subject,
    WallMicros, WallNanos,
};
use custody_store::{Codec, FileDisk, Place, Shape, Stamp, Warehouse, with_field_id};
use datafusion::arrow::{
    array::{ArrayRef, Float64Array, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray},
    datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit},
};
use parquet::{
    arrow::{ArrowWriter, AsyncArrowWriter},
    basic::{Compression, ZstdLevel},
    file::properties::WriterProperties,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

const POLICY: &str = "permit (principal, action in [Action::\"up_to_raw\", Action::\"publish\", Action::\"see_rows\", \
                      Action::\"skip_guard\"], resource);";
const ROUNDS: usize = 3;

pub(crate) fn main(arguments: &[String]) {
    let rows = arguments.first().map_or(4_000_000, |n| n.parse().expect("a number of rows"));
    let asked = |part: &str| arguments.len() < 2 || arguments[1..].iter().any(|a| a == part);
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(async {
        if asked("versions") {
            versions().await;
        }
        if asked("plan") {
            plan().await;
        }
        if asked("stream") {
            stream(rows).await;
        }
        if asked("publish") {
            publish(rows).await;
        }
        if asked("memory") {
            memory().await;
        }
    });
}

fn schema() -> SchemaRef {
    let time = DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
    let columns = [
        ("id", DataType::Int64, false),
        ("ts", time, false),
        ("test", DataType::Utf8, false),
        ("value", DataType::Float64, true),
        ("mean", DataType::Float64, true),
        ("n", DataType::Int64, false),
        ("ward", DataType::Utf8, true),
        ("score", DataType::Float64, true),
    ];
    let field = |(i, (name, data_type, nullable)): (u32, (&str, DataType, bool))| {
        with_field_id(Field::new(name, data_type, nullable), FieldId(i))
    };
    Arc::new(Schema::new((1..).zip(columns).map(field).collect::<Vec<_>>()))
}

fn mixed(n: u64) -> u64 {
    custody_model::profile::mixed(n)
}

/// Rows in published order: fifty results a patient.
fn batches(from: usize, rows: usize) -> impl Iterator<Item = RecordBatch> {
    let schema = schema();
    (from..from + rows).step_by(8_192).map(move |start| {
        let at: Vec<u64> = (start..(start + 8_192).min(from + rows)).map(|i| i as u64).collect();
        let float = |salt: u64, unit: f64| -> ArrayRef {
            let value = |i: &u64| {
                let r = mixed(*i ^ (salt << 40));
                (!r.is_multiple_of(17)).then_some((r >> 40) as f64 / unit)
            };
            Arc::new(at.iter().map(value).collect::<Float64Array>())
        };
        let columns: Vec<ArrayRef> = vec![
            Arc::new(at.iter().map(|i| Some((i / 50) as i64)).collect::<Int64Array>()),
            Arc::new(
                at.iter()
                    .map(|i| {
                        Some(
                            1_600_000_000_000_000 + (i % 50) as i64 * 86_400_000_000 * 30 + (mixed(*i) % 86_400) as i64,
                        )
                    })
                    .collect::<TimestampMicrosecondArray>()
                    .with_timezone("UTC"),
            ),
            Arc::new(
                at.iter()
                    .map(|i| Some(["hdl", "chol", "sbp", "dbp", "fib4"][mixed(*i) as usize % 5]))
                    .collect::<StringArray>(),
            ),
            float(1, 65_536.0),
            float(2, 1_000.0),
            Arc::new(at.iter().map(|i| Some((mixed(i / 3) % 40) as i64)).collect::<Int64Array>()),
            Arc::new(
                at.iter()
                    .map(|i| (!i.is_multiple_of(11)).then(|| format!("ward {:05}", mixed(i / 50) % 20_000)))
                    .collect::<StringArray>(),
            ),
            float(3, 7.0),
        ];
        RecordBatch::try_new(Arc::clone(&schema), columns).expect("a batch")
    })
}

fn plain_properties() -> WriterProperties {
    let zstd = Compression::ZSTD(ZstdLevel::try_new(1).expect("a level"));
    WriterProperties::builder().set_compression(zstd).set_max_row_group_row_count(Some(1_048_576)).build()
}

/// What the plain side does: encode, write, sync.
async fn write_plainly(path: &Path, rows: impl Iterator<Item = RecordBatch>) {
    let file = tokio::fs::File::create(path).await.expect("a file");
    let mut writer = AsyncArrowWriter::try_new(file, schema(), Some(plain_properties())).expect("a writer");
    for batch in rows {
        writer.write(&batch).await.expect("written");
    }
    writer.finish().await.expect("finished");
    writer.into_inner().sync_all().await.expect("synced");
}

fn said(what: &str, rows: usize, ours: Duration, theirs: Duration) {
    let rate = |t: Duration| rows as f64 / t.as_secs_f64() / 1e6;
    println!(
        "  {what:<10} {:>7.2} M rows/s against {:>7.2} M rows/s: {:.3} of the plain rate",
        rate(ours),
        rate(theirs),
        theirs.as_secs_f64() / ours.as_secs_f64()
    );
}

async fn stream(rows: usize) {
    println!("\nstream: {rows} rows of 8 columns, in published order, sort excluded; best of {ROUNDS} in turns");
    let folder = tempfile::tempdir().expect("a folder");
    // In memory, so that making rows is nobody's cost.
    let ready: Vec<RecordBatch> = batches(0, rows).collect();
    let warehouse = Warehouse::open(&folder.path().display().to_string()).expect("a warehouse");
    let shape = Shape { schema: schema(), keys: vec![FieldId(1)], times: vec![FieldId(2)], codec: Codec::default() };
    let (mut ours, mut rooted, mut theirs) = (Duration::MAX, Duration::MAX, Duration::MAX);
    for round in 0..ROUNDS * 2 {
        let place = Place::Version { dataset: DatasetId(uuid::Uuid::from_u128(1)), identity: Hash([round as u8; 32]) };
        let run = EntryId(uuid::Uuid::from_u128(round as u128 + 1));
        let begun = Instant::now();
        let mut staging = warehouse.stage(&place, &shape, run).await.expect("staged");
        if round.is_multiple_of(2) {
            staging = staging.profiled();
        }
        for batch in &ready {
            staging.write(batch.clone()).await.expect("written");
        }
        let staged = staging.finish().await.expect("finished");
        let _ = staged.commit(Stamp { entry: run, at: WallNanos(1) }).await.expect("committed");
        let best = if round.is_multiple_of(2) { &mut ours } else { &mut rooted };
        *best = (*best).min(begun.elapsed());
        let path = folder.path().join("plain.parquet");
        let begun = Instant::now();
        write_plainly(&path, ready.iter().cloned()).await;
        theirs = theirs.min(begun.elapsed());
        fs::remove_dir_all(folder.path().join("data")).expect("removed");
    }
    said("root only", rows, rooted, theirs);
    said("profiled", rows, ours, theirs);
}

fn subject() -> Subject {
    Subject {
        principal: Principal("bench".into()),
        kind: "user".into(),
        roles: BTreeSet::from(["engineer".to_string()]),
        attributes: BTreeMap::new(),
        purpose: Purpose("bench".into()),
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

fn write(folder: &Path, path: &str, text: &str) {
    let path = folder.join(path);
    fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
    fs::write(path, text).expect("a file");
}

const SOURCE: &str = "CREATE SOURCE raw.labs (id BIGINT NOT NULL, ts TIMESTAMP NOT NULL, test VARCHAR NOT NULL, value DOUBLE, \
                      mean DOUBLE, n BIGINT NOT NULL, ward VARCHAR, score DOUBLE) FROM PARQUET 'raw/labs' \
                      ENTITY patient (id) EVENT TIME ts;";
const CHECKS: &str = "EXPECT value < 1000 ON VIOLATION WARN EXPECT n BETWEEN 0 AND 39 ON VIOLATION QUARANTINE \
                      EXPECT test IN ('hdl', 'chol', 'sbp', 'dbp', 'fib4') ON VIOLATION FAIL \
                      EXPECT UNIQUE (id, ts) ON VIOLATION WARN";
const QUERY: &str = "SELECT id, ts, test, value, mean, n, ward, score FROM raw.labs";

/// A project over `files` source files, and a session.
async fn project(folder: &Path, rows: usize, memory: usize) -> (Arc<Engine>, Session) {
    write(folder, "policies/all.cedar", POLICY);
    write(folder, "policies/none.sql", "CREATE CLASSIFICATION pii;\n");
    write(folder, "sources/labs.sql", SOURCE);
    fs::create_dir_all(folder.join("features")).expect("a folder");
    fs::create_dir_all(folder.join("raw/labs")).expect("a folder");
    let part = rows.div_ceil(8).max(1);
    for n in 0..8 {
        // Files of every patient: the sort has something to do.
        let file = fs::File::create(folder.join(format!("raw/labs/{n}.parquet"))).expect("a file");
        let mut writer = ArrowWriter::try_new(file, schema(), Some(plain_properties())).expect("a writer");
        for batch in batches(n * part, part.min(rows.saturating_sub(n * part))) {
            writer.write(&batch).expect("written");
        }
        writer.close().expect("closed");
    }
    let mut settings = Settings::new(folder.join("warehouse"), "bench", WriterChoice::Cli);
    settings.memory_bytes = memory;
    settings.sources_allow = vec![folder.to_path_buf()];
    let engine = Engine::create(settings, Arc::new(SystemClock), subject()).await.expect("an engine");
    let session = engine.session(subject());
    let project = Project::load(folder).expect("a project");
    session.apply_policies(&project, "bench", false).await.expect("policies");
    (engine, session)
}

fn view(folder: &Path, clauses: &str, query: &str) -> Project {
    let text = format!("CREATE FEATURE VIEW features.x ENTITY patient (id) EVENT TIME ts {clauses} AS {query};");
    write(folder, "features/x.sql", &text);
    Project::load(folder).expect("a project")
}

async fn published(session: &Session, project: &Project) -> Duration {
    let begun = Instant::now();
    let made = session.publish(project, &PublishOptions::default(), &|_| {}).await.expect("published");
    assert_eq!(made.len(), 1);
    begun.elapsed()
}

async fn publish(rows: usize) {
    println!(
        "\npublish: {rows} rows of 8 columns and four expectations, sort included on both sides; best of {ROUNDS} in turns"
    );
    let folder = tempfile::tempdir().expect("a folder");
    let (engine, session) = project(folder.path(), rows, 4 << 30).await;
    // The source is recorded before anything is timed.
    published(&session, &view(folder.path(), "", QUERY)).await;
    let (mut ours, mut theirs) = (Duration::MAX, Duration::MAX);
    for round in 0..ROUNDS {
        let query = format!("{QUERY} WHERE n > {}", -1 - round as i64);
        ours = ours.min(published(&session, &view(folder.path(), CHECKS, &query)).await);
        let begun = Instant::now();
        let text = format!("{query} ORDER BY id, ts, test, value, mean, n, ward, score");
        let mut read = session.read(ReadRequest::sql(text)).await.expect("a read");
        let file = tokio::fs::File::create(folder.path().join("plain.parquet")).await.expect("a file");
        let mut writer = AsyncArrowWriter::try_new(file, read.schema(), Some(plain_properties())).expect("a writer");
        while let Some(batch) = read.next().await {
            let batch = batch.expect("a batch");
            writer.write(&batch).await.expect("written");
            read.release(batch.num_rows() as u64, batch.get_array_memory_size() as u64).await.expect("released");
        }
        read.finish().await.expect("finished");
        writer.finish().await.expect("finished");
        writer.into_inner().sync_all().await.expect("synced");
        theirs = theirs.min(begun.elapsed());
    }
    said("publish", rows, ours, theirs);
    engine.close().await.expect("closed");
}

async fn memory() {
    const ROWS: usize = 10_000_000;
    println!("\nmemory: {ROWS} rows, sorted by what they do not come in, pool of 512 MiB");
    let folder = tempfile::tempdir().expect("a folder");
    let (engine, session) = project(folder.path(), ROWS, 512 << 20).await;
    let query = "SELECT n * 1000000 + id AS id, ts, test, value, mean, n, ward, score FROM raw.labs";
    let took = published(&session, &view(folder.path(), CHECKS, query)).await;
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let peak = status.lines().find_map(|l| l.strip_prefix("VmHWM:")).unwrap_or("?").trim().to_string();
    println!("  published in {took:.1?}; the process held at most {peak}, all parts before included");
    engine.close().await.expect("closed");
}

async fn versions() {
    const MANY: u64 = 10_000;
    println!("\nversions: a view with {MANY}");
    let folder = tempfile::tempdir().expect("a folder");
    let (engine, session) = project(folder.path(), 1_000, 1 << 30).await;
    published(&session, &view(folder.path(), "", QUERY)).await;
    let catalog = engine.catalog();
    let name = "features.x".parse().expect("a name");
    let first = catalog.resolve(&name, Pin::Newest).expect("a version");
    let publish = first.publish().expect("a publish").clone();
    // The same publish again and again, under other identities, in a catalog of its own.
    let mut many = Catalog::clone(&catalog);
    let reader = Reader::new(FileDisk::new(folder.path().join("warehouse/ledger")));
    let writers = reader.writers().expect("writers");
    let entries = writers.iter().flat_map(|w| reader.tail(w, Position::default()).expect("entries").0);
    let like = entries.map(|e| e.entry.clone()).find(|e| e.control_seq == first.table.made_at).expect("an entry");
    for version in 2..=MANY {
        let (seq, mut entry, mut publish) = (many.at().0 + 1, like.clone(), publish.clone());
        publish.version = version;
        publish.identity.0[..8].copy_from_slice(&version.to_be_bytes());
        (entry.id, entry.control_seq) = (EntryId(uuid::Uuid::from_u128(u128::from(seq) << 64)), ControlSeq(seq));
        entry.wall = WallNanos(entry.wall.0 + version as i64 * 1_000_000);
        entry.payload = Payload::Publish(Box::new(publish));
        many.apply(&entry).expect("applied");
    }
    let place = Place::Version { dataset: first.table.dataset, identity: *first.identity() };
    let location = folder.path().join("warehouse").display().to_string();
    let at = WallMicros(like.wall.0 / 1_000 + 5_000_000);
    for (what, pin) in [("newest", Pin::Newest), ("version 77", Pin::Version(77)), ("of an earlier time", Pin::At(at))]
    {
        let mut best = Duration::MAX;
        for _ in 0..20 {
            let begun = Instant::now();
            let found = many.resolve(&name, pin).expect("a version");
            assert!(found.table.version >= 77);
            // Each with a cold manifest: another warehouse handle has nothing cached.
            let warehouse = Warehouse::open(&location).expect("a warehouse");
            assert_eq!(warehouse.open_version(&place).await.expect("a manifest").rows, 1_000);
            best = best.min(begun.elapsed());
        }
        println!("  {what:<20} {best:.3?} with its manifest from disk");
    }
    engine.close().await.expect("closed");
}

async fn plan() {
    const VIEWS: usize = 1_000;
    println!("\nplan: a project of {VIEWS} views, every tenth over another one");
    let folder = tempfile::tempdir().expect("a folder");
    let (engine, session) = project(folder.path(), 1_000, 1 << 30).await;
    for i in 0..VIEWS {
        let from = if i % 10 == 9 { format!("features.v{}", i - 1) } else { "raw.labs".into() };
        let text = format!(
            "CREATE FEATURE VIEW features.v{i} ENTITY patient (id) EVENT TIME ts AS \
             SELECT id, ts, value * {} AS value, n FROM {from} WHERE n > {};",
            i + 1,
            i % 40
        );
        write(folder.path(), &format!("features/v{i}.sql"), &text);
    }
    let begun = Instant::now();
    let project = Project::load(folder.path()).expect("a project");
    let loaded = begun.elapsed();
    let planned = session.plan(&project, &[], &[]).await.expect("planned");
    assert_eq!(planned.len(), VIEWS);
    println!("  {:.2?}, of which {loaded:.2?} to read the files", begun.elapsed());
    engine.close().await.expect("closed");
}
