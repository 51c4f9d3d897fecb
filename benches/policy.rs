//! What a decision costs, and a replay of a million recorded ones.
//!
//! The bundle has 1,000 policies of 40 roles over 32 classes and 40 tables, with conditions on purpose, environment and
//! attributes; the table has 500 columns, each of one class, one in ten of a second one too, so 48 sets of classes.

use custody_model::{
    Actor, Authentication, Class, ControlSeq, DatasetName, Entry, EntryId, FieldId, Hash, Measure, Outcome, Payload,
    Pin, Principal, Purpose, ReadIntent, Reason, Rung, Subject, Target, Verb, WallNanos,
};
use custody_policy::{
    Bundle, ColumnFacts, Decisions, Grounds, Recorded, TableFacts, Tables, VersionRead, decide, facts_hash, subject_key,
};
use datafusion::arrow::datatypes::DataType;
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    num::NonZeroUsize,
    time::Instant,
};

const POLICIES: usize = 1_000;
const COLUMNS: usize = 500;
const CLASSES: usize = 32;

/// No dataset is known before the first decision.
struct Nothing;

impl Tables for Nothing {
    fn columns(&self, _: &DatasetName) -> Option<Vec<(FieldId, String, DataType)>> {
        None
    }
}

fn files(policies: usize, later: bool) -> Vec<(String, Vec<u8>)> {
    let mut sql = String::new();
    for class in 0..CLASSES {
        let _ = writeln!(sql, "CREATE CLASSIFICATION c{class};");
        let _ = writeln!(
            sql,
            "CREATE MASK PARAMETERS FOR c{class} (token = hmac(key 'k', domain 'd'), partial = first(2));"
        );
    }
    for table in 0..40 {
        let _ = writeln!(sql, "CREATE ROW SET own ON lake.t{table} AS name IN (@region);");
        let _ = writeln!(sql, "CREATE GUARD kept ON lake.t{table} AS name IS NOT NULL;");
    }
    let rungs = ["raw", "partial", "token", "redact"];
    let mut cedar = String::new();
    for i in 0..policies {
        let (role, class, table, rung) = (i % 40, (i * 7) % CLASSES, (i * 3) % 40, rungs[(i / 3) % 4]);
        let _ = match i % 10 {
            0..=5 => writeln!(
                cedar,
                "@id(\"p{i}\") permit (principal in Role::\"r{role}\", action in Action::\"up_to_{rung}\", resource in Class::\"c{class}\") when {{ context.purpose == \"research\" }};"
            ),
            6 => writeln!(
                cedar,
                "@id(\"p{i}\") permit (principal in Role::\"r{role}\", action in Action::\"up_to_redact\", resource in Table::\"lake.t{table}\");"
            ),
            7 => writeln!(
                cedar,
                "@id(\"p{i}\") permit (principal in Role::\"r{role}\", action == Action::\"see_rows\", resource == RowSet::\"lake.t{table}/own\") when {{ principal.hasTag(\"region\") && principal.getTag(\"region\").contains(\"eu\") }};"
            ),
            8 => writeln!(
                cedar,
                "@id(\"p{i}\") forbid (principal, action in Action::\"from_{}\", resource in Class::\"c{class}\") unless {{ context.environment == \"{}\" }};",
                if later { "token" } else { "partial" },
                if i.is_multiple_of(3) { "prod" } else { "dev" }
            ),
            _ => writeln!(
                cedar,
                "@id(\"p{i}\") permit (principal in Role::\"r{role}\", action in [Action::\"publish\", Action::\"explain_raw\"], resource == Table::\"lake.t{table}\");"
            ),
        };
    }
    // Every role reads some of every class and some rows of every table.
    cedar.push_str(
        "permit (principal, action in Action::\"up_to_token\", resource) when { context.purpose == \"research\" };",
    );
    cedar.push_str("permit (principal, action == Action::\"see_rows\", resource) when { principal.kind == \"user\" };");
    vec![("policies/p.cedar".into(), cedar.into()), ("policies/p.sql".into(), sql.into())]
}

fn bundle(later: bool) -> Bundle {
    Bundle::load(&files(POLICIES - 2, later), &Nothing).unwrap_or_else(|p| panic!("{p:#?}"))
}

fn subject(i: usize) -> Subject {
    Subject {
        principal: Principal(format!("user{i}")),
        kind: "user".into(),
        roles: BTreeSet::from([format!("r{}", i % 40), format!("r{}", (i * 3 + 1) % 40)]),
        attributes: BTreeMap::from([("region".into(), BTreeSet::from(["eu".into()]))]),
        purpose: Purpose::from("research"),
        environment: "prod".into(),
        stage: String::new(),
        region: None,
        model: None,
        model_version: None,
        authentication: Authentication::Local,
        session: None,
        token: None,
    }
}

fn facts(table: usize, columns: usize) -> TableFacts {
    let column = |i: usize| {
        let mut classes = BTreeSet::from([Class(format!("c{}", (i * 5 + table) % CLASSES))]);
        if i.is_multiple_of(10) {
            classes.insert(Class(format!("c{}", (i / 10 % 16) + 1)));
        }
        ColumnFacts {
            field: FieldId(i as u32 + 1),
            name: if i == 0 { "name".into() } else { format!("column_{i}") },
            data_type: if i.is_multiple_of(3) { DataType::Utf8 } else { DataType::Int64 },
            classes,
            approved: BTreeMap::new(),
        }
    };
    TableFacts {
        dataset: format!("00000000-0000-8000-8000-{table:012x}").parse().unwrap(),
        name: format!("lake.t{table}").parse().unwrap(),
        owner: Principal::from("lake"),
        purposes: BTreeSet::new(),
        columns: (0..columns).map(column).collect(),
        token_keys: BTreeMap::from([("k".to_string(), Hash([1; 32]))]),
    }
}

/// A decision that was made before: bundle, subject and facts by their hashes.
#[divan::bench]
fn warm(bencher: divan::Bencher) {
    let (bundle, subject, facts) = (bundle(false), subject(1), facts(1, COLUMNS));
    let cache = Decisions::new(NonZeroUsize::new(1_024).unwrap());
    let (key, hash) = (subject_key(&subject), facts_hash(&facts));
    cache.decide_keyed(&bundle, &subject, key, &facts, hash);
    bencher.bench(|| cache.decide_keyed(&bundle, &subject, key, &facts, hash));
}

/// The same where subject and facts are hashed anew.
#[divan::bench]
fn warm_hashing(bencher: divan::Bencher) {
    let (bundle, subject, facts) = (bundle(false), subject(1), facts(1, COLUMNS));
    let cache = Decisions::new(NonZeroUsize::new(1_024).unwrap());
    bencher.bench(|| cache.decide(&bundle, &subject, &facts));
}

/// A decision that was made before, as a read asks for it: the name resolved, the subject hashed, facts kept.
#[divan::bench]
fn warm_in_the_engine(bencher: divan::Bencher) {
    let folder = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let session = runtime.block_on(wide(folder.path()));
    let name: DatasetName = "features.wide".parse().unwrap();
    let grant = session.grant_of(&name, Pin::Newest).unwrap().unwrap();
    assert_eq!(grant.columns.len(), COLUMNS);
    bencher.bench(|| session.grant_of(&name, Pin::Newest).unwrap());
}

/// A published view of 500 columns.
async fn wide(folder: &std::path::Path) -> custody_engine::Session {
    use custody_engine::{Engine, Project, PublishOptions, Settings, audit::WriterChoice, clock::SystemClock};
    use datafusion::arrow::{
        array::{ArrayRef, Int64Array, RecordBatch, TimestampMicrosecondArray},
        datatypes::{Field, Schema},
    };
    let write = |path: &str, text: &str| {
        let path = folder.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    };
    let time: ArrayRef = std::sync::Arc::new(TimestampMicrosecondArray::from(vec![0]).with_timezone("UTC"));
    let number: ArrayRef = std::sync::Arc::new(Int64Array::from(vec![1]));
    let names: Vec<String> = (2..COLUMNS).map(|i| format!("c{i}")).collect();
    let mut columns = vec![("id".to_string(), number.clone()), ("ts".to_string(), time)];
    columns.extend(names.iter().map(|name| (name.clone(), number.clone())));
    let field = |(name, array): &(String, ArrayRef)| Field::new(name, array.data_type().clone(), false);
    let schema = std::sync::Arc::new(Schema::new(columns.iter().map(field).collect::<Vec<_>>()));
    let batch = RecordBatch::try_new(schema.clone(), columns.into_iter().map(|(_, array)| array).collect()).unwrap();
    write("data/none", "");
    let file = std::fs::File::create(folder.join("data/wide.parquet")).unwrap();
    std::fs::remove_file(folder.join("data/none")).unwrap();
    let mut writer = datafusion::parquet::arrow::ArrowWriter::try_new(file, schema, None).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
    let typed = names.iter().map(|name| format!(", {name} BIGINT NOT NULL")).collect::<String>();
    write(
        "sources/wide.sql",
        &format!(
            "CREATE SOURCE raw.wide (id BIGINT NOT NULL, ts TIMESTAMP NOT NULL{typed}) FROM PARQUET '{}' \
             ENTITY thing (id) EVENT TIME ts;\n",
            folder.join("data").display()
        ),
    );
    write(
        "features/wide.sql",
        &format!(
            "CREATE FEATURE VIEW features.wide ENTITY thing (id) EVENT TIME ts AS SELECT id, ts, {} FROM raw.wide;\n",
            names.join(", ")
        ),
    );
    write(
        "policies/all.cedar",
        "permit (principal, action in [Action::\"up_to_raw\", Action::\"publish\", Action::\"see_rows\", \
         Action::\"skip_guard\"], resource);",
    );
    write("policies/none.sql", "CREATE CLASSIFICATION pii;\n");
    std::fs::create_dir(folder.join("warehouse")).unwrap();
    let mut settings = Settings::new(folder.join("warehouse"), "bench", WriterChoice::Cli);
    settings.sources_allow = vec![folder.to_path_buf()];
    let who = Subject { roles: BTreeSet::from(["engineer".to_string()]), ..subject(1) };
    let engine = Engine::create(settings, std::sync::Arc::new(SystemClock), who.clone()).await.unwrap();
    let session = engine.session(who);
    let project = Project::load(folder).unwrap();
    session.apply_policies(&project, "bench", false).await.unwrap();
    let options = PublishOptions { because: "bench".into(), ..PublishOptions::default() };
    session.publish(&project, &options, &|_| {}).await.unwrap();
    session
}

/// A decision that was never made, hashes included.
#[divan::bench(args = [12, COLUMNS])]
fn cold(bencher: divan::Bencher, columns: usize) {
    let (bundle, subject, facts) = (bundle(false), subject(1), facts(1, columns));
    let grant = decide(&bundle, &subject, &facts);
    assert!(grant.failed.is_empty() && grant.columns.iter().any(|c| c.rung > Rung::Redact));
    bencher.bench(|| decide(&bundle, &subject, &facts));
}

/// Reading and checking a bundle.
#[divan::bench(sample_count = 10)]
fn load() -> Bundle {
    bundle(false)
}

/// A million recorded decisions of 500 subjects over 20 versions of tables of 12 columns, made again under their own
/// bundle and compared with another: prints what the parts take.
pub(crate) fn replay() {
    const DECISIONS: usize = 1_000_000;
    const SUBJECTS: usize = 500;
    const VERSIONS: usize = 20;
    let (old, new) = (bundle(false), bundle(true));
    let facts: Vec<TableFacts> = (0..VERSIONS).map(|table| facts(table, 12)).collect();
    let recorded_by = old.hash();
    let subjects: Vec<Subject> = (0..SUBJECTS).map(subject).collect();
    let grants: Vec<Vec<Hash>> =
        subjects.iter().map(|s| facts.iter().map(|f| decide(&old, s, f).hash).collect()).collect();
    let entry = |i: usize| {
        let (who, what) = (i * 31 % SUBJECTS, i / 7 % VERSIONS);
        entry(&subjects[who], recorded_by, &facts[what], ControlSeq(what as u64 + 1), grants[who][what])
    };
    let begun = Instant::now();
    for i in 0..DECISIONS {
        std::hint::black_box(entry(i));
    }
    let generated = begun.elapsed();

    let begun = Instant::now();
    let mut recorded = Recorded::default();
    for i in 0..DECISIONS {
        recorded.add(&entry(i), || format!("serve/{i}"), |_, _| Default::default());
    }
    let decisions = recorded.decisions();
    let groups = recorded.groups();
    let grouped = begun.elapsed().saturating_sub(generated);
    let begun = Instant::now();
    let (before, after) = (old.hash(), new.hash());
    let mut grounds = Grounds::default();
    grounds.bundle(old);
    grounds.bundle(new);
    let versions = (1..=VERSIONS as u64).map(|n| VersionRead { made_at: ControlSeq(n), classes: vec![] });
    grounds.versions(versions, |_, read| facts.get(read.made_at.0 as usize - 1).cloned());
    let threads = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
    let replay = grounds.replay(&groups, before, after, threads);
    let redecided = begun.elapsed();
    assert!(decisions == DECISIONS as u64 && replay.underived.is_empty() && !replay.changes.is_empty());
    println!(
        "  {decisions} decisions, {} different ones, {} changes, {threads} threads",
        groups.len(),
        replay.changes.len()
    );
    println!(
        "  grouping {grouped:.2?}, deciding twice and comparing {redecided:.2?}, together {:.2?}",
        grouped + redecided
    );
}

fn entry(subject: &Subject, bundle: Hash, facts: &TableFacts, made_at: ControlSeq, grant: Hash) -> Entry {
    Entry {
        id: EntryId(Default::default()),
        wall: WallNanos(1),
        reference: None,
        trace: None,
        measure: Measure::default(),
        control_seq: ControlSeq(100),
        verb: Verb::Read,
        outcome: Outcome::Pending,
        actor: Some(Actor {
            principal: subject.principal.clone(),
            kind: subject.kind.clone(),
            roles: subject.roles.clone(),
            attributes: subject.attributes.clone(),
            authentication: subject.authentication,
            session: None,
            on_behalf_of: None,
            address: None,
            token: None,
        }),
        targets: vec![Target {
            dataset: facts.dataset,
            version: 1,
            made_at,
            grant: Some(grant),
            row_sets: vec!["own".into()],
            columns: vec![],
            owner: None,
            classes: vec![],
        }],
        reason: Reason {
            purpose: Some(subject.purpose.clone()),
            environment: subject.environment.clone(),
            bundle: Some(bundle),
            ..Reason::default()
        },
        payload: Payload::ReadIntent(ReadIntent {
            statement: None,
            statement_hash: Hash::default(),
            lineage_hash: None,
            plan: Hash::default(),
            granted_bytes: 0,
            prediction: None,
        }),
    }
}
