//! Versions and sources on a real folder: written, read back by us and by others, damaged, raced.
#![allow(clippy::disallowed_methods, reason = "tables are queried here without an engine, which is above this crate")]

use crate::*;
use arrow::{
    array::{ArrayRef, AsArray, Float64Array, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray},
    compute::concat_batches,
    datatypes::{DataType, Field, Int64Type, Schema, SchemaRef, TimeUnit},
};
use custody_model::{DatasetId, EntryId, FieldId, Hash, Principal, SourceKind, WallNanos};
use datafusion::{
    physical_plan::{collect, displayable},
    prelude::{SessionConfig, SessionContext},
};
use parquet::file::reader::{FileReader, SerializedFileReader};
use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

const RUN: EntryId = EntryId(uuid::Uuid::from_u128(0x0190_0000_0000_7000_8000_0000_0000_0001));
const OTHER_RUN: EntryId = EntryId(uuid::Uuid::from_u128(0x0190_0000_0000_7000_8000_0000_0000_0002));

fn utc() -> DataType {
    DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()))
}

fn shape() -> Shape {
    let field = |id, name: &str, data_type, nullable| with_field_id(Field::new(name, data_type, nullable), FieldId(id));
    Shape {
        schema: Arc::new(Schema::new(vec![
            field(1, "id", DataType::Int64, false),
            field(2, "ts", utc(), false),
            field(3, "test", DataType::Utf8, true),
            field(4, "value", DataType::Float64, true),
        ])),
        keys: vec![FieldId(1)],
        times: vec![FieldId(2)],
        codec: Codec::default(),
    }
}

/// Rows `from..to` of one endless sorted table.
fn rows(schema: &SchemaRef, from: i64, to: i64) -> RecordBatch {
    let columns: Vec<ArrayRef> = vec![
        Arc::new(Int64Array::from_iter_values((from..to).map(|i| i / 10))),
        Arc::new(TimestampMicrosecondArray::from_iter_values((from..to).map(|i| i * 1_000_003)).with_timezone("UTC")),
        Arc::new(StringArray::from_iter((from..to).map(|i| (i % 7 != 0).then(|| format!("test {}", i % 5))))),
        Arc::new(Float64Array::from_iter((from..to).map(|i| (i % 11 != 0).then(|| i as f64 / 3.0)))),
    ];
    RecordBatch::try_new(schema.clone(), columns).unwrap()
}

fn place(n: u8) -> Place {
    Place::Version { dataset: DatasetId(uuid::Uuid::from_u128(7)), identity: Hash([n; 32]) }
}

fn draft(n: u8) -> Place {
    Place::Draft {
        principal: Principal("local/ann".into()),
        dataset: DatasetId(uuid::Uuid::from_u128(7)),
        identity: Hash([n; 32]),
    }
}

fn stamp() -> Stamp {
    Stamp { entry: EntryId(uuid::Uuid::from_u128(5)), at: WallNanos(1_700_000_000_000_000_000) }
}

struct Fixture {
    _folder: tempfile::TempDir,
    warehouse: Warehouse,
}

fn fixture() -> Fixture {
    let folder = tempfile::tempdir().unwrap();
    let warehouse = Warehouse::create(folder.path().join("warehouse").to_str().unwrap()).unwrap();
    Fixture { _folder: folder, warehouse }
}

async fn staged(w: &Warehouse, place: &Place, shape: &Shape, n: i64, batch: i64, run: EntryId) -> Staged {
    let mut staging = w.stage(place, shape, run).await.unwrap();
    let mut at = 0;
    while at < n {
        let end = (at + batch).min(n);
        staging.write(rows(&shape.schema, at, end)).await.unwrap();
        at = end;
    }
    staging.finish().await.unwrap()
}

async fn published(w: &Warehouse, place: &Place, n: i64) -> Arc<Manifest> {
    match staged(w, place, &shape(), n, 8192, RUN).await.commit(stamp()).await.unwrap() {
        Committed::New(manifest) => manifest,
        Committed::Exists { .. } => panic!("committed before"),
    }
}

fn session(partitions: usize) -> SessionContext {
    SessionContext::new_with_config(SessionConfig::new().with_target_partitions(partitions))
}

async fn read(w: &Warehouse, manifest: &Arc<Manifest>, sql: &str) -> RecordBatch {
    let session = session(2);
    session.register_table("t", Arc::new(VersionTable::new(w.clone(), manifest.clone()))).unwrap();
    let plan = session.sql(sql).await.unwrap().create_physical_plan().await.unwrap();
    let batches = collect(plan.clone(), session.task_ctx()).await.unwrap();
    concat_batches(&plan.schema(), &batches).unwrap()
}

async fn plan(w: &Warehouse, manifest: &Arc<Manifest>, sql: &str) -> String {
    let session = session(2);
    session.register_table("t", Arc::new(VersionTable::new(w.clone(), manifest.clone()))).unwrap();
    let plan = session.sql(sql).await.unwrap().create_physical_plan().await.unwrap();
    displayable(plan.as_ref()).indent(false).to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn equal_rows_give_equal_roots_and_bytes() {
    let n = 70_000;
    let whole = content_root(&shape().schema, [&rows(&shape().schema, 0, n)]).unwrap();
    let first = fixture();
    let first = staged(&first.warehouse, &place(1), &shape(), n, 8192, RUN).await;
    for (batch, codec) in
        [(1_000, Codec::Zstd), (n, Codec::Zstd), (7, Codec::Zstd), (8192, Codec::Snappy), (8192, Codec::None)]
    {
        let fixture = fixture();
        let staged = staged(&fixture.warehouse, &place(1), &Shape { codec, ..shape() }, n, batch, RUN).await;
        assert_eq!(staged.content_root(), whole);
        assert_eq!(staged.rows(), n as u64);
        assert_eq!(staged.digests() == first.digests(), codec == Codec::Zstd, "{batch} {codec:?}");
    }
    assert_eq!(first.event_range(), Some((0, (n - 1) * 1_000_003)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_reads_as_it_was_written() {
    let f = fixture();
    let n = 20_000;
    let manifest = published(&f.warehouse, &place(1), n).await;
    let again = Warehouse::open(f.warehouse.root().to_str().unwrap()).unwrap();
    let opened = again.open_version(&place(1)).await.unwrap();
    assert_eq!(opened, manifest);
    assert_eq!(opened.schema, shape().schema);
    let all = read(&again, &opened, "SELECT * FROM t ORDER BY id, ts").await;
    assert_eq!(all, rows(&all.schema(), 0, n));
    let some =
        read(&again, &opened, "SELECT ts, id FROM t WHERE id BETWEEN 100 AND 101 AND test IS NOT NULL ORDER BY ts")
            .await;
    assert_eq!(some.num_rows(), (1000..1020).filter(|i| i % 7 != 0).count());
    let count = read(&again, &opened, "SELECT count(*) FROM t").await;
    assert_eq!(count.column(0).as_primitive::<Int64Type>().value(0), n);
    // The declared order is believed, the statistics are used, and a plan can be executed again.
    assert!(!plan(&again, &opened, "SELECT * FROM t ORDER BY id, ts").await.contains("SortExec"));
    assert!(!plan(&again, &opened, "SELECT count(*), min(id), max(ts) FROM t").await.contains("DataSourceExec"));
    let twice = scan(&again, &opened, &ScanArgs { projection: Some(vec![0]), ..Default::default() }).unwrap();
    for _ in 0..2 {
        let rows: usize =
            collect(twice.clone(), session(1).task_ctx()).await.unwrap().iter().map(|b| b.num_rows()).sum();
        assert_eq!(rows, n as usize);
    }
}

#[tokio::test]
async fn a_version_may_be_empty_and_without_keys() {
    let f = fixture();
    let shape = Shape { keys: vec![], times: vec![], ..shape() };
    let staged = staged(&f.warehouse, &place(1), &shape, 0, 1, RUN).await;
    assert_eq!((staged.rows(), staged.event_range(), staged.digests().len()), (0, None, 0));
    let Committed::New(manifest) = staged.commit(stamp()).await.unwrap() else { panic!() };
    assert_eq!(read(&f.warehouse, &manifest, "SELECT id FROM t").await.num_rows(), 0);
    assert_eq!(f.warehouse.verify(&manifest, Depth::Deep).await.unwrap(), vec![]);
}

#[tokio::test(flavor = "multi_thread")]
async fn other_delta_readers_open_the_folder() {
    let f = fixture();
    let n = 3_000;
    published(&f.warehouse, &place(1), n).await;
    let url = url::Url::from_directory_path(f.warehouse.folder(&place(1))).unwrap();
    let table = deltalake::open_table(url).await.unwrap();
    assert_eq!(table.version(), Some(0));
    let session = session(1);
    session.register_table("t", table.table_provider().await.unwrap()).unwrap();
    let count = session
        .sql("SELECT count(*) FROM t WHERE id >= 100 AND ts <= TIMESTAMP '1970-01-01 00:33:20Z'")
        .await
        .unwrap()
        .collect()
        .await
        .unwrap();
    let expected = (1_000..n).filter(|i| i * 1_000_003 <= 2_000_000_000).count() as i64;
    assert_eq!(count[0].column(0).as_primitive::<Int64Type>().value(0), expected);
    let all = session.sql("SELECT * FROM t ORDER BY id, ts").await.unwrap().collect().await.unwrap();
    let all = concat_batches(&all[0].schema(), &all).unwrap();
    let all = conform(&all, &shape().schema, 0).unwrap();
    assert_eq!(all, rows(&shape().schema, 0, n));
    let properties = table.snapshot().unwrap().metadata().configuration().clone();
    let expected = [
        ("delta.appendOnly", "true"),
        ("delta.dataSkippingStatsColumns", "id,ts"),
        ("delta.deletedFileRetentionDuration", "interval 36500 days"),
        ("delta.enableExpiredLogCleanup", "false"),
        ("delta.logRetentionDuration", "interval 36500 days"),
    ];
    let mut properties: Vec<_> = properties.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
    properties.sort_unstable();
    assert_eq!(properties, expected);
}

/// delta-rs, told to remove whatever it may, at once.
#[tokio::test(flavor = "multi_thread")]
async fn a_vacuum_finds_nothing_of_a_version_to_remove() {
    use deltalake::operations::vacuum::VacuumMode;
    let f = fixture();
    let manifest = published(&f.warehouse, &place(1), 3_000).await;
    for mode in [VacuumMode::Lite, VacuumMode::Full] {
        let url = url::Url::from_directory_path(f.warehouse.folder(&place(1))).unwrap();
        let vacuum = deltalake::open_table(url).await.unwrap().vacuum().with_mode(mode);
        let vacuum = vacuum.with_retention_period(Default::default()).with_enforce_retention_duration(false);
        let (_, done) = vacuum.await.unwrap();
        assert_eq!(done.files_deleted, Vec::<String>::new());
    }
    let damage: Vec<_> = f.warehouse.verify(&manifest, Depth::Deep).await.unwrap();
    let damage: Vec<_> =
        damage.iter().filter(|x| matches!(x.kind, FindingKind::Missing | FindingKind::Changed)).collect();
    assert!(damage.is_empty(), "{damage:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_commits_one_wins() {
    let f = fixture();
    for round in 0..8 {
        let a = staged(&f.warehouse, &place(round), &shape(), 100, 100, RUN).await;
        let b = staged(&f.warehouse, &place(round), &shape(), 100, 100, OTHER_RUN).await;
        let (a, b) = tokio::join!(tokio::spawn(a.commit(stamp())), tokio::spawn(b.commit(stamp())));
        let (new, old): (Vec<_>, Vec<_>) =
            [a, b].into_iter().map(|r| r.unwrap().unwrap()).partition(|c| matches!(c, Committed::New(_)));
        assert_eq!((new.len(), old.len()), (1, 1));
        let Some(Committed::New(winner)) = new.into_iter().next() else { panic!() };
        let Some(Committed::Exists { found, ours }) = old.into_iter().next() else { panic!() };
        assert_eq!(found, winner);
        assert_eq!(ours.content_root(), winner.content_root);
        ours.discard().await.unwrap();
        let kinds: Vec<_> = f.warehouse.verify(&winner, Depth::Deep).await.unwrap();
        assert_eq!(kinds, vec![]);
        assert!(matches!(f.warehouse.remove(&place(round)).await, Err(StoreError::Committed { .. })));
    }
}

#[tokio::test]
async fn rows_that_are_not_as_declared_are_refused() {
    let f = fixture();
    let shape = shape();
    let error = async |batches: Vec<RecordBatch>| {
        let mut staging = f.warehouse.stage(&place(1), &shape, RUN).await.unwrap();
        for batch in batches {
            if let Err(e) = staging.write(batch).await {
                staging.abort().await.unwrap();
                return e.problem().to_string();
            }
        }
        "written".to_string()
    };
    let batch = |from, to| rows(&shape.schema, from, to);
    assert_eq!(error(vec![batch(10, 20), batch(19, 30)]).await, "written", "equal keys and times are in order");
    assert_eq!(
        error(vec![batch(10, 20), batch(18, 30)]).await,
        "C1706 row 11 sorts before its predecessor: versions are written in the order of their keys and times"
    );
    assert_eq!(
        error(vec![batch(0, 5).project(&[0, 1]).unwrap()]).await,
        "C1704 the rows have (id, ts), the version declares (id, ts, test, value)"
    );
    let wrong = Shape {
        schema: Arc::new(Schema::new(vec![with_field_id(Field::new("x", DataType::UInt32, true), FieldId(1))])),
        ..shape.clone()
    };
    let refused = f.warehouse.stage(&place(1), &wrong, RUN).await.err().unwrap();
    assert_eq!(refused.to_string(), "the rows have column `x` declared as `UInt32`, the version declares `Int64`");
}

#[tokio::test(flavor = "multi_thread")]
async fn verify_names_what_differs() {
    let f = fixture();
    let manifest = published(&f.warehouse, &place(1), 20_000).await;
    let folder = f.warehouse.folder(&place(1));
    let data = folder.join(&manifest.files[0].path);
    let commit = folder.join("_delta_log/00000000000000000000.json");
    let findings = async |depth| {
        let found = f.warehouse.verify(&manifest, depth).await.unwrap();
        found.iter().map(|x| (x.kind, x.path.rsplit('/').next().unwrap().to_string())).collect::<Vec<_>>()
    };
    assert_eq!(findings(Depth::Deep).await, vec![]);
    let original = std::fs::read(&data).unwrap();
    for at in [0, 4, original.len() / 2, original.len() - 20, original.len() - 1] {
        let mut bytes = original.clone();
        bytes[at] ^= 1;
        std::fs::write(&data, &bytes).unwrap();
        assert_eq!(findings(Depth::Files).await, vec![(FindingKind::Changed, "part-00000.parquet".into())]);
        let deep = findings(Depth::Deep).await;
        assert!(deep.len() > 1 && deep[0].1 == "part-00000.parquet" && deep[1].1 == "part-00000.parquet", "{deep:?}");
    }
    std::fs::write(&data, &original[1..]).unwrap();
    assert_eq!(findings(Depth::Files).await, vec![(FindingKind::Changed, "part-00000.parquet".into())]);
    std::fs::remove_file(&data).unwrap();
    assert_eq!(findings(Depth::Files).await, vec![(FindingKind::Missing, "part-00000.parquet".into())]);
    std::fs::write(&data, &original).unwrap();

    let put = |name: &str| {
        let path = folder.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, "x").unwrap();
        path
    };
    for (name, kind) in [
        (format!("{RUN}/part-00001.parquet"), FindingKind::Foreign),
        ("more.parquet".to_string(), FindingKind::Foreign),
        ("_delta_log/00000000000000000001.json".to_string(), FindingKind::Foreign),
        (format!("{OTHER_RUN}/part-00000.parquet"), FindingKind::Leftover),
        (format!("{RUN}/part-00000.parquet#17"), FindingKind::Leftover),
    ] {
        let path = put(&name);
        assert_eq!(findings(Depth::Files).await, vec![(kind, name.rsplit('/').next().unwrap().to_string())]);
        let leftovers = f.warehouse.leftovers().await.unwrap();
        assert_eq!(leftovers.len(), 1);
        assert!(leftovers[0].path.ends_with(&name), "{leftovers:?}");
        std::fs::remove_file(path).unwrap();
    }

    let text = std::fs::read_to_string(&commit).unwrap();
    for (from, to) in [
        ("\"rows\":20000", "\"rows\":20001"),
        (&manifest.content_root.to_string()[..], &Hash([9; 32]).to_string()[..]),
        ("{\"add\"", "{\"cdc\""),
        ("custody.files", "custody.filez"),
        (&Hash([1; 32]).to_string()[..], &Hash([2; 32]).to_string()[..]),
    ] {
        std::fs::write(&commit, text.replace(from, to)).unwrap();
        assert_eq!(
            findings(Depth::Files).await,
            vec![(FindingKind::Commit, "00000000000000000000.json".into())],
            "{from}"
        );
    }
    std::fs::remove_file(&commit).unwrap();
    assert_eq!(findings(Depth::Files).await, vec![(FindingKind::Missing, "00000000000000000000.json".into())]);

    // Values of another root under digests that fit: only decoding shows it.
    std::fs::write(&commit, text.replace(&manifest.content_root.to_string(), &Hash([9; 32]).to_string())).unwrap();
    let forged = Manifest { content_root: Hash([9; 32]), ..(*manifest).clone() };
    assert_eq!(f.warehouse.verify(&forged, Depth::Files).await.unwrap(), vec![]);
    let deep = f.warehouse.verify(&forged, Depth::Deep).await.unwrap();
    assert_eq!(deep.iter().map(|x| x.kind).collect::<Vec<_>>(), [FindingKind::Values]);
}

#[tokio::test(flavor = "multi_thread")]
async fn verify_names_block_and_column() {
    let f = fixture();
    let manifest = published(&f.warehouse, &place(1), 150_000).await;
    let data = f.warehouse.folder(&place(1)).join(&manifest.files[0].path);
    let original = std::fs::read(&data).unwrap();
    let told = async |bytes: &[u8]| {
        std::fs::write(&data, bytes).unwrap();
        let found = f.warehouse.verify(&manifest, Depth::Deep).await.unwrap();
        assert_eq!(found[0].kind, FindingKind::Changed);
        assert!(found.iter().all(|x| x.path.ends_with("/part-00000.parquet") || x.message.contains("content root")));
        found[1..].iter().map(|x| x.message.clone()).collect::<Vec<_>>()
    };
    let reader = SerializedFileReader::new(bytes::Bytes::from(original.clone())).unwrap();
    for (ordinal, name) in ["id", "ts", "test", "value"].into_iter().enumerate() {
        let (from, size) = reader.metadata().row_group(0).column(ordinal).byte_range();
        // Wherever a byte of a column is another one, that column is named, and no other.
        for at in [size / 10, size / 2, size - 10] {
            let mut bytes = original.clone();
            bytes[(from + at) as usize] ^= 0x10;
            let told = told(&bytes).await;
            let column = format!("column `{name}`: ");
            let blocks = told.iter().filter(|t| t.starts_with("block "));
            assert!(
                blocks.clone().count() > 0 && blocks.clone().all(|t| t.contains(&column)),
                "{name}, {at}: {told:?}"
            );
        }
    }
    // A file of the right form with one other value: the same length, another digest.
    let other = {
        let mut changed: Vec<ArrayRef> = rows(&manifest.schema, 0, 150_000).columns().to_vec();
        let values = changed[3].as_primitive::<arrow::datatypes::Float64Type>();
        changed[3] = Arc::new(
            values.iter().enumerate().map(|(i, v)| if i == 70_000 { Some(0.25) } else { v }).collect::<Float64Array>(),
        );
        let mut staging = f.warehouse.stage(&place(2), &shape(), RUN).await.unwrap();
        staging.write(RecordBatch::try_new(manifest.schema.clone(), changed).unwrap()).await.unwrap();
        let Committed::New(other) = staging.finish().await.unwrap().commit(stamp()).await.unwrap() else { panic!() };
        std::fs::read(f.warehouse.folder(&place(2)).join(&other.files[0].path)).unwrap()
    };
    // With the footer it was written with, nothing in it contradicts itself; its digest does.
    assert_eq!(told(&other).await, ["all blocks have the values that its footer was written with"]);
    // With another footer's leaves of the same length, the block and column are named.
    let [mine, theirs] = [&original, &other].map(|bytes| {
        let reader = SerializedFileReader::new(bytes::Bytes::from(bytes.clone())).unwrap();
        let all = reader.metadata().file_metadata().key_value_metadata().unwrap();
        all.iter().find(|kv| kv.key == crate::locate::LEAVES).unwrap().value.clone().unwrap()
    });
    assert_eq!(mine.len(), 3 * 4 * 16);
    let at = other.windows(theirs.len()).position(|w| w == theirs.as_bytes()).unwrap();
    let mut forged = other.clone();
    forged[at..at + mine.len()].copy_from_slice(mine.as_bytes());
    let block = "block 1 (rows 65537 to 131072), column `value`: its values are not those that were written";
    assert_eq!(told(&forged).await, [block]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_draft_is_adopted_only_as_recorded() {
    let f = fixture();
    let drafted = staged(&f.warehouse, &draft(1), &shape(), 10_000, 8192, RUN).await;
    let root = drafted.content_root();
    drafted.commit(stamp()).await.unwrap();
    let adopted = f.warehouse.adopt_draft(&draft(1), &place(1), root, OTHER_RUN).await.unwrap();
    let Committed::New(manifest) = adopted.commit(stamp()).await.unwrap() else { panic!() };
    assert_eq!((manifest.content_root, manifest.rows, manifest.run), (root, 10_000, OTHER_RUN));
    assert_eq!(f.warehouse.verify(&manifest, Depth::Deep).await.unwrap(), vec![]);
    // Adopted twice at once, by one run: the second cannot write, and takes nothing away.
    let again = f.warehouse.adopt_draft(&draft(1), &place(1), root, OTHER_RUN).await;
    assert!(matches!(again, Err(StoreError::Io { .. })), "{again:?}");
    // The version does not depend on the draft.
    let drafted = f.warehouse.open_version(&draft(1)).await.unwrap();
    let data = f.warehouse.folder(&draft(1)).join(&drafted.files[0].path);
    let mut bytes = std::fs::read(&data).unwrap();
    bytes[100] ^= 1;
    std::fs::write(&data, bytes).unwrap();
    assert_eq!(f.warehouse.verify(&manifest, Depth::Deep).await.unwrap(), vec![]);
    let error =
        async |root| f.warehouse.adopt_draft(&draft(1), &place(2), root, OTHER_RUN).await.unwrap_err().to_string();
    assert!(error(root).await.ends_with("is damaged: its SHA3-256 is not the one it was written with"));
    assert!(error(Hash([3; 32])).await.ends_with("its content root is not the one on record"));
    assert!(matches!(f.warehouse.open_version(&place(2)).await, Err(StoreError::NoVersion { .. })));
    f.warehouse.remove(&draft(1)).await.unwrap();
    assert!(matches!(f.warehouse.open_version(&draft(1)).await, Err(StoreError::NoVersion { .. })));
}

/// Doors run these on any thread: what stops compiling here would stop compiling there, with a longer message.
#[test]
fn futures_are_send() {
    fn check(_: impl Send) {}
    #[expect(clippy::too_many_arguments, reason = "one of everything")]
    fn all(
        w: &Warehouse,
        place: &Place,
        shape: &Shape,
        staging: (Staging, Staging),
        staged: (Staged, Staged),
        spec: &SourceSpec<'_>,
        allow: &Allow,
        files: &SourceFiles,
        manifest: &Manifest,
    ) {
        check(w.stage(place, shape, RUN));
        check(w.adopt_draft(place, place, Hash([0; 32]), RUN));
        check(w.open_version(place));
        check(w.verify(manifest, Depth::Deep));
        check(w.remove(place));
        check(w.leftovers());
        check(w.snapshot(allow, spec, None));
        check(w.open_source("x", files, shape.schema.clone()));
        let (mut a, b) = staging;
        check(a.write(RecordBatch::new_empty(shape.schema.clone())));
        check(b.finish());
        check(staged.0.commit(stamp()));
        check(staged.1.discard());
    }
    let _ = all;
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_does_not_grow_with_rows() {
    let f = fixture();
    let field = with_field_id(Field::new("id", DataType::Int64, false), FieldId(1));
    let shape = Shape { schema: Arc::new(Schema::new(vec![field])), times: vec![], ..shape() };
    let mut staging = f.warehouse.stage(&place(1), &shape, RUN).await.unwrap();
    let (mut peak, mut early) = (0, 0);
    for i in 0..300i64 {
        let ids: ArrayRef = Arc::new(Int64Array::from_iter_values(i * 8192..(i + 1) * 8192));
        staging.write(RecordBatch::try_new(shape.schema.clone(), vec![ids]).unwrap()).await.unwrap();
        peak = peak.max(staging.memory());
        if i == 140 {
            early = peak;
        }
    }
    // Two and a half row groups: the second and third take no more than the first did.
    assert!(peak <= early + early / 10, "{early} {peak}");
    assert_eq!(staging.finish().await.unwrap().rows(), 300 * 8192);
}

mod sources {
    use super::*;

    struct Source {
        fixture: Fixture,
        project: PathBuf,
    }

    fn source() -> Source {
        let fixture = fixture();
        let project = fixture.warehouse.root().parent().unwrap().join("project");
        std::fs::create_dir_all(fixture.warehouse.root().join("raw")).unwrap();
        std::fs::create_dir_all(&project).unwrap();
        Source { project, fixture }
    }

    fn declared(columns: &[(&str, DataType, bool)]) -> SchemaRef {
        let field = |(i, (n, t, null)): (usize, &(&str, DataType, bool))| {
            with_field_id(Field::new(*n, t.clone(), *null), FieldId(i as u32 + 1))
        };
        Arc::new(Schema::new(columns.iter().enumerate().map(field).collect::<Vec<_>>()))
    }

    fn labs() -> SchemaRef {
        declared(&[
            ("id", DataType::Int64, false),
            ("ts", utc(), false),
            ("test", DataType::Utf8, false),
            ("value", DataType::Float64, true),
        ])
    }

    impl Source {
        fn write(&self, path: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
            let path = self.fixture.warehouse.root().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(&path, bytes).unwrap();
            path
        }

        async fn snapshot(
            &self,
            kind: SourceKind,
            url: &str,
            schema: &SchemaRef,
            previous: Option<&SourceFiles>,
        ) -> Result<SourceFiles, StoreError> {
            let allow = self.fixture.warehouse.allow(Some(&self.project), &[], &[]).unwrap();
            self.fixture.warehouse.snapshot(&allow, &SourceSpec { kind, url, schema: schema.clone() }, previous).await
        }

        async fn open(&self, files: &SourceFiles, schema: &SchemaRef) -> Result<SessionContext, StoreError> {
            // By way of the ledger.
            let files = SourceFiles::from_json(&files.to_json()).unwrap();
            let table = self.fixture.warehouse.open_source("raw.labs", &files, schema.clone()).await?;
            let session = session(2);
            session.register_table("t", table).unwrap();
            Ok(session)
        }

        async fn query(&self, kind: SourceKind, url: &str, schema: &SchemaRef, sql: &str) -> String {
            let run = async || {
                let files = self.snapshot(kind, url, schema, None).await?;
                let session = self.open(&files, schema).await?;
                rows_of(&session, sql).await
            };
            run().await.unwrap_or_else(|e| e.problem().to_string())
        }
    }

    async fn rows_of(session: &SessionContext, sql: &str) -> Result<String, StoreError> {
        match session.sql(sql).await.unwrap().collect().await {
            Ok(batches) => Ok(arrow::util::pretty::pretty_format_batches(&batches)
                .unwrap()
                .to_string()
                .lines()
                .filter(|l| l.starts_with('|'))
                .skip(1)
                .map(|l| l.trim_matches('|').split('|').map(str::trim).collect::<Vec<_>>().join("|"))
                .collect::<Vec<_>>()
                .join("; ")),
            Err(e) => Err(StoreError::inside(&e).map_or_else(
                || StoreError::io("querying", "t", e.to_string()),
                |found| StoreError::io("querying", "t", found.problem().to_string()),
            )),
        }
    }

    const ALL: &str = "SELECT id, ts, test, value FROM t ORDER BY id";

    #[tokio::test(flavor = "multi_thread")]
    async fn csv_is_read_by_its_header() {
        let s = source();
        s.write("raw/labs/a.csv", "\u{feff}test,note,value,id,ts\r\nhdl,x,1.5,1,2020-01-01T00:00:00Z\r\n\"a \"\"b\"\"\nc\",\"y,z\",,2,2020-01-02 03:04:05.000006\r\n");
        s.write("raw/labs/b/c.csv", "id,ts,test,value\n3,2020-01-03,chol,2\n");
        s.write("raw/labs/_tmp.csv", "no");
        s.write("raw/labs/readme.txt", "no");
        let files = s.snapshot(SourceKind::Csv, "raw/labs", &labs(), None).await.unwrap();
        assert_eq!(files.files.iter().map(|f| f.path.as_str()).collect::<Vec<_>>(), ["a.csv", "b/c.csv"]);
        assert_eq!(
            files.warnings,
            [
                "file `readme.txt` of `raw/labs` is not CSV and is not read",
                "columns of `raw/labs` that are not declared: `note`"
            ]
        );
        let session = s.open(&files, &labs()).await.unwrap();
        let all = session.sql(ALL).await.unwrap().collect().await.unwrap();
        let all = concat_batches(&all[0].schema(), &all).unwrap();
        assert_eq!(all.schema().fields(), labs().fields());
        assert_eq!(
            all.column(2).as_string::<i32>().iter().flatten().collect::<Vec<_>>(),
            ["hdl", "a \"b\"\nc", "chol"]
        );
        assert_eq!(all.column(3).null_count(), 1);
        let sql = "SELECT count(*), max(ts) FROM t";
        assert_eq!(rows_of(&session, sql).await.unwrap(), "3|2020-01-03T00:00:00Z");
        assert_eq!(rows_of(&session, "SELECT count(*) FROM t").await.unwrap(), "3");
        assert_eq!(s.query(SourceKind::Csv, "raw/labs/b/c.csv", &labs(), "SELECT id, test FROM t").await, "3|chol");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn csv_errors_name_file_and_row_and_no_value() {
        let s = source();
        let head = "id,ts,test,value\n";
        let check = async |text: &str, expected: &str| {
            s.write("raw/x/x.csv", text);
            assert_eq!(s.query(SourceKind::Csv, "raw/x", &labs(), ALL).await, expected);
        };
        let io = |inner: &str| {
            format!(
                "C7702 querying `t` failed: {inner}; help: nothing became visible; correct the cause and run the command again"
            )
        };
        check(&format!("{head}1,2020-01-01,a,1\n2,2020-01-01,b,secret\n"), &io("C1715 column `value` of source file `x.csv` holds a value that is not a `Float64` in row 2; help: correct the file")).await;
        check(&format!("{head}1,2020-01-01,,1\n"), &io("C1714 column `test` of source file `x.csv` is declared NOT NULL and holds NULL in row 1; help: declare `test` without NOT NULL, or correct the file")).await;
        check(
            &format!("{head}1,2020-01-01,a,1\n1,2\n"),
            &io("C1716 source file `x.csv` is not valid CSV in row 2; help: correct the file"),
        )
        .await;
        check("id,ts,value\n", "C1712 source file `x.csv` has no column `test`; help: declare the columns as the files have them in `CREATE SOURCE`").await;
        check(
            "id,ts,test,value,id\n",
            "C1716 source file `x.csv` is not valid CSV: a name occurs twice in its header; help: correct the file",
        )
        .await;
        check("", "C1712 source file `x.csv` has no column `id`; help: declare the columns as the files have them in `CREATE SOURCE`").await;
        check(head, "").await;
        assert_eq!(
            s.query(SourceKind::Csv, "raw/none", &labs(), ALL).await,
            "C1711 source `raw/none` cannot be read: there is no such file or folder"
        );
        assert_eq!(
            s.query(SourceKind::Json, "raw/x", &labs(), ALL).await,
            "C1711 source `raw/x` cannot be read: it holds no JSON files"
        );
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn json_lines() {
        let s = source();
        s.write("raw/x/x.jsonl", "{\"test\":\"a\",\"id\":1,\"ts\":\"2020-01-01T00:00:00Z\",\"more\":[1]}\n\n{\"id\":2,\"ts\":\"2020-01-02T00:00:00Z\",\"test\":\"b\",\"value\":2.5}");
        assert_eq!(
            s.query(SourceKind::Json, "raw/x", &labs(), "SELECT id, test, value FROM t ORDER BY id").await,
            "1|a|; 2|b|2.5"
        );
        s.write("raw/x/x.jsonl", "{\"id\":1,\"ts\":\"2020-01-01T00:00:00Z\"}\n");
        assert!(
            s.query(SourceKind::Json, "raw/x", &labs(), ALL)
                .await
                .contains("column `test` of source file `x.jsonl` is declared NOT NULL and holds NULL in row 1")
        );
        for bad in ["{\"id\":\"secret\"}", "{\"id\":1", "[1]"] {
            s.write("raw/x/x.jsonl", bad);
            let error = s.query(SourceKind::Json, "raw/x", &labs(), ALL).await;
            assert!(
                error.contains("C1716 source file `x.jsonl` is not valid JSON of the declared types")
                    && !error.contains("secret"),
                "{error}"
            );
        }
    }

    fn parquet(path: &Path, batch: &RecordBatch) {
        let file = std::fs::File::create(path).unwrap();
        let mut writer = parquet::arrow::ArrowWriter::try_new(file, batch.schema(), None).unwrap();
        writer.write(batch).unwrap();
        writer.close().unwrap();
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn parquet_of_compatible_types() {
        use arrow::array::{Int32Array, LargeStringArray, StringViewArray, TimestampNanosecondArray};
        let s = source();
        let folder = s.fixture.warehouse.root().join("raw/p");
        std::fs::create_dir_all(&folder).unwrap();
        let batch = |id: ArrayRef, ts: ArrayRef, test: ArrayRef, value: ArrayRef| {
            RecordBatch::try_from_iter_with_nullable([
                ("value", value, true),
                ("id", id, true),
                ("ts", ts, true),
                ("test", test, true),
            ])
            .unwrap()
        };
        let value = || Arc::new(Float64Array::from(vec![Some(0.5), None])) as ArrayRef;
        let nanos = |v: Vec<i64>| Arc::new(TimestampNanosecondArray::from(v)) as ArrayRef;
        parquet(
            &folder.join("a.parquet"),
            &batch(
                Arc::new(Int32Array::from(vec![1, 2])),
                nanos(vec![0, 1000]),
                Arc::new(LargeStringArray::from(vec!["a", "b"])),
                value(),
            ),
        );
        let micros = TimestampMicrosecondArray::from(vec![2, 3]).with_timezone("+00:00");
        parquet(
            &folder.join("b.parquet"),
            &batch(
                Arc::new(Int64Array::from(vec![3, 4])),
                Arc::new(micros),
                Arc::new(StringViewArray::from(vec!["c", "d"])),
                value(),
            ),
        );
        let sql = "SELECT id, ts, test, value FROM t WHERE id > 1 AND test <> 'c' ORDER BY id";
        assert_eq!(
            s.query(SourceKind::Parquet, "raw/p", &labs(), sql).await,
            "2|1970-01-01T00:00:00.000001Z|b|; 4|1970-01-01T00:00:00.000003Z|d|"
        );
        assert_eq!(s.query(SourceKind::Parquet, "raw/p", &labs(), "SELECT count(*) FROM t").await, "4");

        let error = async |batch: RecordBatch| {
            parquet(&folder.join("b.parquet"), &batch);
            s.query(SourceKind::Parquet, "raw/p", &labs(), ALL).await
        };
        let (id, test): (ArrayRef, ArrayRef) =
            (Arc::new(Int64Array::from(vec![3, 4])), Arc::new(StringArray::from(vec!["a", "b"])));
        let found = error(batch(id.clone(), nanos(vec![1000, 1001]), test.clone(), value())).await;
        assert!(
            found.contains(
                "column `ts` of source file `b.parquet` holds a value that is not a `Timestamp(µs, \"UTC\")` in row 2"
            ),
            "{found}"
        );
        let found = error(batch(value(), nanos(vec![0, 0]), test.clone(), value())).await;
        assert!(
            found.starts_with("C1713 column `id` of source file `b.parquet` has type `Float64`, declared is `Int64`"),
            "{found}"
        );
        let found =
            error(batch(id.clone(), nanos(vec![0, 0]), Arc::new(StringArray::from(vec![Some("a"), None])), value()))
                .await;
        assert!(
            found.starts_with("C1714 column `test` of source file `b.parquet` is declared NOT NULL and holds NULL"),
            "{found}"
        );
        std::fs::write(folder.join("b.parquet"), "no parquet at all").unwrap();
        assert!(
            s.query(SourceKind::Parquet, "raw/p", &labs(), ALL)
                .await
                .starts_with("C1716 source file `b.parquet` is not valid PARQUET")
        );
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn delta_is_pinned_by_its_list() {
        let s = source();
        let w = &s.fixture.warehouse;
        let manifest = published(w, &place(1), 5_000).await;
        let root = w.root().join("raw/d");
        std::fs::create_dir_all(root.parent().unwrap()).unwrap();
        std::fs::rename(w.folder(&place(1)), &root).unwrap();
        let schema =
            declared(&[("id", DataType::Int64, false), ("ts", utc(), false), ("value", DataType::Float64, true)]);
        let files = s.snapshot(SourceKind::Delta, "raw/d", &schema, None).await.unwrap();
        assert_eq!(files.delta.as_ref().unwrap().1, 0);
        assert_eq!(files.files.len(), 1);
        assert!(files.files[0].sha3.is_none());
        let session = s.open(&files, &schema).await.unwrap();
        assert_eq!(rows_of(&session, "SELECT count(*), max(id) FROM t WHERE id >= 10").await.unwrap(), "4900|499");
        // A later version of the table does not show.
        let data = root.join(&manifest.files[0].path);
        std::fs::rename(&data, root.join("gone")).unwrap();
        let error = rows_of(&session, "SELECT sum(value) FROM t").await.unwrap_err().to_string();
        assert!(error.contains("C4701 source `raw.labs` lost files of version 0"), "{error}");
        std::fs::rename(root.join("gone"), &data).unwrap();

        let commit = root.join("_delta_log/00000000000000000000.json");
        let text = std::fs::read_to_string(&commit).unwrap();
        let error = async |from: &str, to: &str| {
            std::fs::write(&commit, text.replace(from, to)).unwrap();
            s.snapshot(SourceKind::Delta, "raw/d", &schema, None).await.unwrap_err().to_string()
        };
        assert_eq!(
            error("\"delta.appendOnly\":\"true\"", "\"delta.columnMapping.mode\":\"name\"").await,
            "source `raw/d` cannot be read: it uses Delta column mapping by name, which sources cannot read"
        );
        std::fs::remove_dir_all(root.join("_delta_log")).unwrap();
        assert_eq!(
            error_of(s.snapshot(SourceKind::Delta, "raw/d", &schema, None).await),
            "source `raw/d` cannot be read: it is not a Delta table"
        );
    }

    fn error_of<T>(result: Result<T, StoreError>) -> String {
        result.err().map(|e| e.to_string()).unwrap_or_default()
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn delta_deletion_vectors_and_partitions() {
        let s = source();
        let root = s.fixture.warehouse.root().join("raw/d");
        std::fs::create_dir_all(root.join("_delta_log")).unwrap();
        let batch = RecordBatch::try_from_iter([("id", Arc::new(Int64Array::from(vec![1, 2])) as ArrayRef)]).unwrap();
        parquet(&root.join("x y.parquet"), &batch);
        let size = std::fs::metadata(root.join("x y.parquet")).unwrap().len();
        let schema = r#"{\"type\":\"struct\",\"fields\":[{\"name\":\"id\",\"type\":\"long\",\"nullable\":true,\"metadata\":{}},{\"name\":\"day\",\"type\":\"date\",\"nullable\":true,\"metadata\":{}}]}"#;
        let log = |protocol: &str, more: &str| {
            let lines = [
                format!(r#"{{"protocol":{protocol}}}"#),
                format!(
                    r#"{{"metaData":{{"id":"5fba94ed-9794-4965-ba6e-6ee3c0d22af9","format":{{"provider":"parquet","options":{{}}}},"schemaString":"{schema}","partitionColumns":["day"],"configuration":{{}},"createdTime":0}}}}"#
                ),
                format!(
                    r#"{{"add":{{"path":"x%20y.parquet","partitionValues":{{"day":"2020-02-03"}},"size":{size},"modificationTime":0,"dataChange":true{more}}}}}"#
                ),
            ];
            std::fs::write(root.join("_delta_log/00000000000000000000.json"), lines.join("\n")).unwrap();
        };
        let schema = declared(&[("day", DataType::Date32, false), ("id", DataType::Int64, false)]);
        log(r#"{"minReaderVersion":1,"minWriterVersion":2}"#, "");
        assert_eq!(
            s.query(SourceKind::Delta, "raw/d", &schema, "SELECT day, id FROM t WHERE id > 1").await,
            "2020-02-03|2"
        );
        let wrong = declared(&[("day", DataType::Int64, false), ("id", DataType::Int64, false)]);
        assert!(
            s.query(SourceKind::Delta, "raw/d", &wrong, "SELECT day FROM t")
                .await
                .contains("column `day` of source file `x y.parquet` holds a value that is not a `Int64`")
        );
        log(
            r#"{"minReaderVersion":3,"minWriterVersion":7,"readerFeatures":["deletionVectors"],"writerFeatures":["deletionVectors"]}"#,
            "",
        );
        assert_eq!(s.query(SourceKind::Delta, "raw/d", &schema, "SELECT id FROM t WHERE id > 1").await, "2");
        log(
            r#"{"minReaderVersion":3,"minWriterVersion":7,"readerFeatures":["deletionVectors"],"writerFeatures":["deletionVectors"]}"#,
            r#","deletionVector":{"storageType":"u","pathOrInlineDv":"vBn[lx{q8@P<9BNH/isA","offset":1,"sizeInBytes":36,"cardinality":2}"#,
        );
        assert_eq!(
            s.query(SourceKind::Delta, "raw/d", &schema, "SELECT id FROM t").await,
            "C1711 source `raw/d` cannot be read: file `x y.parquet` has a Delta deletion vector, which sources cannot read"
        );
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_snapshot_is_named_by_content() {
        use custody_model::{ColumnDef, DatasetDefinition, DatasetKind};
        let s = source();
        let text = "id,ts,test,value\n1,2020-01-01,a,1\n";
        let path = s.write("raw/x/x.csv", text);
        let column = |(i, f): (usize, &Arc<Field>)| ColumnDef {
            field: FieldId(i as u32 + 1),
            name: f.name().clone(),
            data_type: f.data_type().clone(),
            nullable: f.is_nullable(),
        };
        let definition = DatasetDefinition {
            id: DatasetId(uuid::Uuid::from_u128(9)),
            name: "raw.labs".parse().unwrap(),
            kind: DatasetKind::Source,
            columns: labs().fields().iter().enumerate().map(column).collect(),
            entity: Some("patient".into()),
            keys: vec![FieldId(1)],
            event_time: Some(FieldId(2)),
            known_time: None,
            ttl: None,
            owner: "clinic".into(),
            purposes: Default::default(),
            comment: None,
            sql: "CREATE SOURCE".into(),
        };
        let hash = async |definition: &DatasetDefinition| {
            snapshot_hash(definition, &s.snapshot(SourceKind::Csv, "raw/x", &labs(), None).await.unwrap())
        };
        let first = hash(&definition).await;
        std::fs::write(&path, text).unwrap();
        assert_eq!(hash(&definition).await, first);
        let other_owner = DatasetDefinition { owner: "else".into(), comment: Some("x".into()), ..definition.clone() };
        assert_eq!(hash(&other_owner).await, first);
        let other_time = DatasetDefinition { event_time: None, known_time: Some(FieldId(2)), ..definition.clone() };
        assert_ne!(hash(&other_time).await, first);
        std::fs::write(&path, text.replace(",1\n", ",2\n")).unwrap();
        assert_ne!(hash(&definition).await, first);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_change_underneath_is_an_error() {
        let s = source();
        let text = "id,ts,test,value\n1,2020-01-01,a,1\n";
        let path = s.write("raw/x/x.csv", text);
        let files = s.snapshot(SourceKind::Csv, "raw/x", &labs(), None).await.unwrap();
        let same = s.snapshot(SourceKind::Csv, "raw/x", &labs(), Some(&files)).await.unwrap();
        assert_eq!(files, same);
        let session = s.open(&files, &labs()).await.unwrap();
        // Written anew with the same bytes: nothing changed.
        std::fs::write(&path, text).unwrap();
        assert_eq!(rows_of(&session, "SELECT id FROM t").await.unwrap(), "1");
        std::fs::write(&path, text.replace("a,1", "b,1")).unwrap();
        let error = rows_of(&session, "SELECT id FROM t").await.unwrap_err().to_string();
        assert!(error.contains("C7701 source file changed while it was read: `x.csv`"), "{error}");
        assert_eq!(error_of(s.open(&files, &labs()).await), "source file changed while it was read: `x.csv`");
        let anew = s.snapshot(SourceKind::Csv, "raw/x", &labs(), Some(&files)).await.unwrap();
        assert_ne!(anew.files[0].sha3, files.files[0].sha3);
        // A file that comes later is not read; one that goes is missed.
        s.write("raw/x/y.csv", text);
        assert_eq!(rows_of(&s.open(&anew, &labs()).await.unwrap(), "SELECT id FROM t").await.unwrap(), "1");
        std::fs::remove_file(&path).unwrap();
        assert_eq!(error_of(s.open(&anew, &labs()).await), "source file changed while it was read: `x.csv`");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn only_allowed_folders_are_read() {
        let s = source();
        let root = s.fixture.warehouse.root().to_path_buf();
        let text = "id,ts,test,value\n1,2020-01-01,a,1\n";
        s.write("raw/x/x.csv", text);
        s.write("data/x/x.csv", text);
        s.write("keys/x.csv", text);
        let outside = root.parent().unwrap().join("outside");
        std::fs::create_dir_all(&outside).unwrap();
        std::fs::write(outside.join("x.csv"), text).unwrap();
        std::fs::create_dir_all(s.project.join("mine")).unwrap();
        std::fs::write(s.project.join("mine/x.csv"), text).unwrap();
        let link = |from: &Path, to: PathBuf| std::os::unix::fs::symlink(from, to).unwrap();
        link(&outside, root.join("raw/link"));
        link(&root.join("data"), s.project.join("data"));
        std::fs::create_dir_all(root.join("raw/mixed")).unwrap();
        link(&root.join("keys/x.csv"), root.join("raw/mixed/x.csv"));
        link(&root.join("raw/x"), s.project.join("fine"));

        let check = async |url: &str, fine: bool| {
            let found = s.snapshot(SourceKind::Csv, url, &labs(), None).await;
            match fine {
                true => assert_eq!(found.unwrap().files.len(), 1, "{url}"),
                false => assert!(matches!(found, Err(StoreError::NotAllowed { .. })), "{url}: {found:?}"),
            }
        };
        check("raw/x", true).await;
        check("mine", true).await;
        check("fine", true).await;
        check(root.join("raw/x/x.csv").to_str().unwrap(), true).await;
        check(url::Url::from_directory_path(root.join("raw/x")).unwrap().as_str(), true).await;
        for url in
            ["data/x", "keys", "raw/../data/x", "../outside", "raw/link", "raw/mixed", "data", "raw/../keys/x.csv", "."]
        {
            check(url, false).await;
        }
        check(s.project.join("data/x").to_str().unwrap(), false).await;
        check(outside.to_str().unwrap(), false).await;
        assert_eq!(
            error_of(s.snapshot(SourceKind::Csv, "s3://x/y", &labs(), None).await),
            "source `s3://x/y` cannot be read: `s3` urls are not supported"
        );

        let w = &s.fixture.warehouse;
        let spec = |url| SourceSpec { kind: SourceKind::Csv, url, schema: labs() };
        let outside = outside.to_str().unwrap();
        let allow = w.allow(None, &[outside.to_string(), root.to_str().unwrap().to_string()], &[]).unwrap();
        assert!(w.snapshot(&allow, &spec(outside), None).await.is_ok());
        assert!(matches!(w.snapshot(&allow, &spec("data/x"), None).await, Err(StoreError::NotAllowed { .. })));
        let allow = w.allow(None, &[outside.to_string()], &[outside.into()]).unwrap();
        assert!(matches!(w.snapshot(&allow, &spec(outside), None).await, Err(StoreError::NotAllowed { .. })));
    }
}
