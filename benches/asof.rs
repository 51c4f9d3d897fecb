//! `ASOF JOIN` through the engine over Parquet files, for `benches/asof/compare.py`, which runs other engines in turns.
//!
//! ```text
//! cargo bench --bench custody -- asof FOLDER [MIB]
//! ```
//!
//! FOLDER holds `<case>/spine/*.parquet` (id, ts) and `<case>/feature/*.parquet` (id, ts, value); MIB is the memory pool. Each
//! line of standard input names a case: it is joined once, all rows are taken, and a JSON object says what that took.
//! `published <case>` joins against a published feature view of the same rows. The path is that of any read: gate, pins,
//! policy, barrier, ledger.

use custody_engine::{
    Engine, Project, PublishOptions, ReadRequest, Session, Settings, audit::WriterChoice, clock::SystemClock,
};
use custody_model::{Authentication, Principal, Purpose, Subject};
use datafusion::arrow::{array::AsArray, datatypes::Float64Type};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::{BufRead, Write},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

const POLICY: &str = "permit (principal, action in [Action::\"up_to_raw\", Action::\"publish\", Action::\"see_rows\", \
                      Action::\"skip_guard\"], resource);";

/// Reads cases from standard input until it ends.
pub(crate) fn main(arguments: &[String]) {
    let [folder, rest @ ..] = arguments else { panic!("asof FOLDER [MIB]") };
    let mib = rest.first().map_or(2048, |m| m.parse().expect("a number of MiB"));
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(serve(&fs::canonicalize(folder).expect("a folder"), mib));
}

async fn serve(folder: &Path, mib: usize) {
    let scratch = tempfile::tempdir_in(folder).expect("a folder");
    let cases: Vec<String> = fs::read_dir(folder)
        .expect("a folder")
        .map(|e| e.expect("an entry").path())
        .filter(|p| p.join("spine").is_dir())
        .map(|p| p.file_name().expect("a name").to_str().expect("text").to_string())
        .collect();
    let write = |path: &str, text: &str| {
        let path = scratch.path().join(path);
        fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
        fs::write(path, text).expect("a file");
    };
    write("policies/all.cedar", POLICY);
    write("policies/none.sql", "CREATE CLASSIFICATION pii;\n");
    for case in &cases {
        let at = |side: &str| folder.join(case).join(side).display().to_string();
        let (spine, feature) = (at("spine"), at("feature"));
        write(
            &format!("sources/{case}.sql"),
            &format!(
                "CREATE SOURCE raw.{case}_spine (id BIGINT NOT NULL, ts TIMESTAMP NOT NULL) FROM PARQUET '{spine}' \
                 ENTITY thing (id) EVENT TIME ts;\n\
                 CREATE SOURCE raw.{case}_feature (id BIGINT NOT NULL, ts TIMESTAMP NOT NULL, value DOUBLE) \
                 FROM PARQUET '{feature}' ENTITY thing (id) EVENT TIME ts;\n"
            ),
        );
        write(
            &format!("features/{case}.sql"),
            &format!(
                "CREATE FEATURE VIEW features.{case} ENTITY thing (id) EVENT TIME ts \
                 AS SELECT id, ts, value FROM raw.{case}_feature;\n"
            ),
        );
    }
    fs::create_dir(scratch.path().join("warehouse")).expect("a folder");
    let mut settings = Settings::new(scratch.path().join("warehouse"), "bench", WriterChoice::Cli);
    settings.sources_allow = vec![folder.to_path_buf()];
    let spill = settings.spill();
    let engine = Engine::create(settings.clone(), Arc::new(SystemClock), subject()).await.expect("an engine");
    let session = engine.session(subject());
    let project = Project::load(scratch.path()).expect("a project");
    session.apply_policies(&project, "bench", false).await.expect("policies");
    let options = PublishOptions { because: "bench".into(), ..PublishOptions::default() };
    session.publish(&project, &options, &|_| {}).await.expect("published");
    engine.close().await.expect("closed");
    // The joins alone are held to the pool.
    settings.memory_bytes = mib << 20;
    let engine = Engine::open(settings, Arc::new(SystemClock)).await.expect("an engine");
    let session = engine.session(subject());
    say("{\"ready\":true}");
    for line in std::io::stdin().lock().lines() {
        let line = line.expect("a line");
        let (case, right) = match line.strip_prefix("published ") {
            Some(case) => (case, format!("features.{case}")),
            None => (line.as_str(), format!("raw.{line}_feature")),
        };
        assert!(cases.iter().any(|c| c == case), "no case {case}");
        let text = format!(
            "SELECT s.id, s.ts, f.value FROM raw.{case}_spine AS s \
             ASOF JOIN {right} AS f MATCH_CONDITION (s.ts >= f.ts) ON f.id = s.id"
        );
        say(&measured(&session, text, &spill).await);
    }
    engine.close().await.expect("closed");
}

async fn measured(session: &Session, text: String, spill: &Path) -> String {
    let watched = Watched::start(spill.to_path_buf());
    let begun = Instant::now();
    let mut read = session.read(ReadRequest::sql(text)).await.expect("a read");
    let (mut rows, mut matched, mut sum) = (0, 0, 0.0);
    while let Some(batch) = read.next().await {
        let batch = batch.expect("a batch");
        let values = batch.column(2).as_primitive::<Float64Type>();
        rows += batch.num_rows();
        matched += values.iter().flatten().count();
        sum += values.iter().flatten().sum::<f64>();
        read.release(batch.num_rows() as u64, batch.get_array_memory_size() as u64).await.expect("released");
    }
    read.finish().await.expect("finished");
    let seconds = begun.elapsed().as_secs_f64();
    let (spilled, resident) = watched.stop();
    format!(
        "{{\"seconds\":{seconds:.4},\"rows\":{rows},\"matched\":{matched},\"sum\":{sum:.3},\
         \"spill_peak_bytes\":{spilled},\"resident_bytes\":{resident}}}"
    )
}

/// How much lies in the spill folder at most, while a join runs.
struct Watched {
    done: Arc<AtomicBool>,
    most: Arc<AtomicU64>,
    thread: std::thread::JoinHandle<()>,
}

impl Watched {
    fn start(folder: PathBuf) -> Self {
        let (done, most) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (ended, largest) = (Arc::clone(&done), Arc::clone(&most));
        let thread = std::thread::spawn(move || {
            while !ended.load(Ordering::Relaxed) {
                largest.fetch_max(bytes_below(&folder), Ordering::Relaxed);
                std::thread::sleep(Duration::from_millis(50));
            }
        });
        Self { done, most, thread }
    }

    fn stop(self) -> (u64, u64) {
        self.done.store(true, Ordering::Relaxed);
        self.thread.join().expect("the watcher");
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        let resident = status.lines().find_map(|l| l.strip_prefix("VmHWM:")?.split_whitespace().next()?.parse().ok());
        (self.most.load(Ordering::Relaxed), resident.unwrap_or(0_u64) << 10)
    }
}

fn bytes_below(folder: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(folder) else { return 0 };
    let size = |e: fs::DirEntry| match e.metadata() {
        Ok(m) if m.is_dir() => bytes_below(&e.path()),
        Ok(m) => m.len(),
        Err(_) => 0,
    };
    entries.flatten().map(size).sum()
}

fn say(line: &str) {
    println!("{line}");
    std::io::stdout().flush().expect("standard output");
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
