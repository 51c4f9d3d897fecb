//! Attacks as text: `testdata/attacks/*.slt`, statements that try to see more than policy shows.
//!
//! The files are of sqllogictest's form: `connection NAME` says who asks (`principals.txt`), each `query` has its answer
//! after `----`, rows sorted as they come, or the error. What `research` asks of `raw.patients` is asked again of
//! `raw.patients_research`, a stored copy of what `research` may see, which must give the same rows; `skipif reference`
//! leaves that out. `CUSTODY_UPDATE=1` writes the answers down anew, to be read in review.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod approvals;
mod mutations;

use crate::{Choice, Engine, Project, PublishOptions, ReadRequest, Settings, audit::WriterChoice, clock::SystemClock};
use custody_model::{Authentication, Principal, Problem, Purpose, Subject, WallNanos};
use datafusion::arrow::{
    array::RecordBatch,
    util::display::{ArrayFormatter, FormatOptions},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

fn data() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/attacks")
}

pub(crate) fn subject(name: &str, role: &str, purpose: &str) -> Subject {
    Subject {
        principal: Principal::from(name),
        kind: "user".into(),
        roles: BTreeSet::from([role.to_string()]),
        attributes: BTreeMap::new(),
        purpose: Purpose::from(purpose),
        environment: "prod".into(),
        stage: String::new(),
        region: None,
        model: None,
        model_version: None,
        authentication: Authentication::Impersonated,
        session: None,
        token: None,
    }
}

/// `principals.txt`: name, role, purpose.
fn principals() -> BTreeMap<String, Subject> {
    let text = fs::read_to_string(data().join("principals.txt")).unwrap();
    let lines = text.lines().filter(|l| !l.starts_with('#'));
    let one = |line: &str| match line.split_whitespace().collect::<Vec<_>>().as_slice() {
        [name, role, purpose] => (name.to_string(), subject(name, role, purpose)),
        other => panic!("{other:?}"),
    };
    lines.map(one).collect()
}

/// A warehouse with the project's sources recorded and its policies active.
pub(crate) struct Warehouse {
    pub(crate) engine: Arc<Engine>,
    pub(crate) folder: tempfile::TempDir,
    pub(crate) principals: BTreeMap<String, Subject>,
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
        let to = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &to)
        } else {
            let _ = fs::copy(entry.path(), to).unwrap();
        }
    }
}

impl Warehouse {
    pub(crate) async fn new() -> Self {
        Self::with(|_| {}).await
    }

    /// With other limits.
    pub(crate) async fn limited(limits: impl FnOnce(&mut Settings)) -> Self {
        Self::made(|_| {}, limits).await
    }

    /// With more in the project's folder.
    pub(crate) async fn with(more: impl FnOnce(&Path)) -> Self {
        Self::made(more, |_| {}).await
    }

    async fn made(more: impl FnOnce(&Path), limits: impl FnOnce(&mut Settings)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        copy(&data().join("project"), folder.path());
        more(folder.path());
        let principals = principals();
        let mut settings = Settings::new(folder.path().join("warehouse"), "attacks", WriterChoice::Cli);
        settings.environment = "prod".into();
        settings.sources_allow = vec![folder.path().to_path_buf()];
        settings.partitions = 1;
        limits(&mut settings);
        let engine = Engine::create(settings, Arc::new(SystemClock), principals["engineer"].clone()).await.unwrap();
        // Tokens are the same in every run.
        fs::write(folder.path().join("warehouse/keys/token-research.key"), [7; 32]).unwrap();
        let project = Project::load(folder.path()).unwrap_or_else(|p| panic!("{p:#?}"));
        let session = engine.session(principals["engineer"].clone());
        session.apply_policies(&project, "attacks", false).await.unwrap_or_else(|p| panic!("{p:#?}"));
        for source in project.sources.values() {
            session.snapshot(&project, source, &|_| {}).await.unwrap_or_else(|p| panic!("{p:#?}"));
        }
        Self { engine, folder, principals }
    }

    /// Rows as lines, or the error with its help.
    pub(crate) async fn ask(&self, who: &str, sql: &str) -> Result<Vec<String>, String> {
        let session = self.engine.session(self.principals[who].clone());
        let told = |p: Problem| without_hash(&p.to_string());
        let read = session.read(ReadRequest::sql(sql)).await.map_err(told)?;
        let batches = read.collect().await.map_err(told)?;
        Ok(batches.iter().flat_map(lines).collect())
    }
}

pub(crate) fn lines(batch: &RecordBatch) -> Vec<String> {
    let options = FormatOptions::default().with_null("NULL");
    let cells: Vec<_> = batch.columns().iter().map(|c| ArrayFormatter::try_new(c, &options).unwrap()).collect();
    let cell = |text: String| {
        let text = if text.is_empty() { "(empty)".into() } else { text };
        let hash = text.len() == 8 && text.bytes().all(|b| b.is_ascii_hexdigit());
        if hash { "(hash)".into() } else { text }
    };
    let row = |i| cells.iter().map(|c| cell(c.value(i).to_string())).collect::<Vec<_>>().join(" ");
    (0..batch.num_rows()).flat_map(|i| row(i).lines().map(without_hash).collect::<Vec<_>>()).collect()
}

/// Grants have the random id of their table in their hash.
fn without_hash(line: &str) -> String {
    let named = ["grant=", "decision "].into_iter().find_map(|n| Some((n, line.split_once(n)?)));
    match named {
        Some((name, (before, after))) => format!("{before}{name}(hash){}", after.get(8..).unwrap_or_default()),
        None => line.to_string(),
    }
}

fn take<'a>(lines: &mut std::iter::Peekable<std::str::Lines<'a>>, end: fn(&str) -> bool) -> Vec<&'a str> {
    let mut taken = vec![];
    while let Some(next) = lines.next_if(|l| !end(l)) {
        taken.push(next);
    }
    taken
}

/// One file: its text with the answers as they are, and what is wrong.
async fn run(warehouse: &Warehouse, text: &str) -> (String, Vec<String>) {
    let (mut out, mut wrong) = (String::new(), vec![]);
    let (mut who, mut compare) = ("nobody".to_string(), true);
    let mut lines = text.lines().peekable();
    while let Some(line) = lines.next() {
        let _ = writeln!(out, "{line}");
        if let Some(name) = line.strip_prefix("connection ") {
            who = name.to_string();
        } else if line == "skipif reference" {
            compare = false;
        } else if line.starts_with("query") {
            out.truncate(out.len() - line.len() - 1);
            let sql = take(&mut lines, |l| l.is_empty() || l == "----").join("\n");
            let want = match lines.next_if_eq(&"----") {
                Some(_) => take(&mut lines, str::is_empty).join("\n"),
                None => String::new(),
            };
            let got = warehouse.ask(&who, &sql).await;
            let (kind, answer) = match &got {
                Ok(rows) => ("query", rows.join("\n")),
                Err(error) => ("query error", error.clone()),
            };
            let _ = writeln!(out, "{kind}\n{sql}\n----\n{answer}");
            if answer.is_empty() {
                out.pop();
            }
            if answer != want || line != kind {
                wrong.push(format!("{who}: {sql}\n  wanted {line}\n{want}\n  got {kind}\n{answer}"));
            }
            if compare && who == "research" {
                let stored = ["raw.patients", "views.invoked", "views.defined"];
                let copy = stored.iter().fold(sql.clone(), |sql, t| sql.replace(t, &format!("{t}_research")));
                let copy = warehouse.ask("reference", &copy).await.map_err(|e| e.replace("_research", ""));
                if copy != got {
                    wrong.push(format!("{who}: {sql}\n  answers {got:?}\n  the stored copy {copy:?}"));
                }
            }
            if answer.contains("HIDDEN") && who != "engineer" {
                wrong.push(format!("{who}: {sql}\n  shows a hidden value"));
            }
            compare = true;
        }
    }
    (out, wrong)
}

pub(crate) fn block_on<T: Send>(f: impl AsyncFnOnce() -> T + Send) -> T {
    let run = || {
        tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_stack_size(64 << 20)
            .enable_all()
            .build()
            .unwrap()
            .block_on(f())
    };
    std::thread::scope(|s| {
        std::thread::Builder::new().stack_size(64 << 20).spawn_scoped(s, run).unwrap().join().unwrap()
    })
}

#[test]
fn attacks_see_what_a_stored_copy_shows() {
    let wrong = block_on(async || {
        let warehouse = Warehouse::new().await;
        let mut all = vec![];
        for file in ["barrier.slt", "doors.slt", "floors.slt", "entitled.slt"] {
            let path = data().join(file);
            let (text, wrong) = run(&warehouse, &fs::read_to_string(&path).unwrap()).await;
            if std::env::var_os("CUSTODY_UPDATE").is_some() {
                fs::write(&path, text).unwrap();
            }
            all.extend(wrong.into_iter().map(|w| format!("{file}: {w}")));
        }
        warehouse.engine.close().await.unwrap();
        all
    });
    assert!(wrong.is_empty(), "{} findings\n{}", wrong.len(), wrong.join("\n\n"));
}

/// The plain views of `testdata/attacks/views`, and policies for them.
pub(crate) fn view(folder: &Path) {
    let more = data().join("views");
    fs::create_dir_all(folder.join("views")).unwrap();
    let _ = fs::copy(more.join("views.sql"), folder.join("views/views.sql")).unwrap();
    let _ = fs::copy(more.join("views.cedar"), folder.join("policies/views.cedar")).unwrap();
}

impl Warehouse {
    /// Records the plain views; then policies may speak of their rows.
    pub(crate) async fn record_views(&self) {
        let session = self.engine.session(self.principals["engineer"].clone());
        let project = Project::load(self.folder.path()).unwrap_or_else(|p| panic!("{p:#?}"));
        let options =
            PublishOptions { select: project.views.keys().map(ToString::to_string).collect(), ..Default::default() };
        session.publish(&project, &options, &|_| {}).await.unwrap_or_else(|p| panic!("{p:#?}"));
        for file in ["rows.sql", "rows.cedar"] {
            let to = self.folder.path().join("policies").join(file);
            let _ = fs::copy(data().join("views").join(file), to).unwrap();
        }
        let project = Project::load(self.folder.path()).unwrap_or_else(|p| panic!("{p:#?}"));
        session.apply_policies(&project, "rows of views", false).await.unwrap_or_else(|p| panic!("{p:#?}"));
    }
}

#[test]
fn plain_views_show_what_their_readers_may_see() {
    let wrong = block_on(async || {
        let warehouse = Warehouse::with(view).await;
        warehouse.record_views().await;
        let path = data().join("views.slt");
        let (text, wrong) = run(&warehouse, &fs::read_to_string(&path).unwrap()).await;
        if std::env::var_os("CUSTODY_UPDATE").is_some() {
            fs::write(&path, text).unwrap();
        }
        // Every decision comes out again, also those for owners and on views.
        let session = warehouse.engine.session(warehouse.principals["engineer"].clone());
        let project = Project::load(warehouse.folder.path()).unwrap();
        let replayed = session.replay(&project, &Choice::Epoch(2), &Choice::Epoch(2), WallNanos(0)).await.unwrap();
        assert_eq!((replayed.underived.len(), replayed.changes.len()), (0, 0), "{replayed:#?}");
        assert!(replayed.decisions > 50, "{replayed:#?}");
        warehouse.engine.close().await.unwrap();
        wrong
    });
    assert!(wrong.is_empty(), "{} findings\n{}", wrong.len(), wrong.join("\n\n"));
}

/// Both sides of a join have columns of one name: no filter comes to mean the other's, whoever reads, over files and over
/// published versions.
#[test]
fn columns_of_one_name_are_told_apart() {
    let tables = |folder: &Path| {
        for (name, rows) in [
            ("m", "id,amount,secret,seen\n1,1,0,2026-01-01T00:00:00Z\n2,2,0,2026-01-01T00:00:00Z\n"),
            (
                "t",
                "id,amount,secret,seen\n1,1,1957,2026-01-01T00:00:00Z\n2,2,1958,2026-01-01T00:00:00Z\n\
                 3,,1959,2026-01-01T00:00:00Z\n4,9,1960,2026-01-01T00:00:00Z\n",
            ),
        ] {
            fs::create_dir_all(folder.join("raw").join(name)).unwrap();
            fs::create_dir_all(folder.join("features")).unwrap();
            fs::write(folder.join(format!("raw/{name}/a.csv")), rows).unwrap();
            let source = format!(
                "CREATE SOURCE raw.{name} (id BIGINT, amount BIGINT, secret BIGINT, seen TIMESTAMP) FROM CSV 'raw/{name}' \
                 ENTITY e (id) EVENT TIME seen;"
            );
            fs::write(folder.join(format!("sources/{name}.sql")), source).unwrap();
            let view = format!(
                "CREATE FEATURE VIEW features.{name} ENTITY e (id) EVENT TIME seen AS SELECT id, amount, secret, seen FROM \
                 raw.{name};"
            );
            fs::write(folder.join(format!("features/{name}.sql")), view).unwrap();
        }
    };
    block_on(async || {
        let warehouse = Warehouse::with(tables).await;
        let session = warehouse.engine.session(warehouse.principals["engineer"].clone());
        let project = Project::load(warehouse.folder.path()).unwrap_or_else(|p| panic!("{p:#?}"));
        session.publish(&project, &PublishOptions::default(), &|_| {}).await.unwrap_or_else(|p| panic!("{p:#?}"));
        let joined = "$.m AS a RIGHT JOIN $.t AS b ON a.amount = b.amount AND a.secret < b.amount";
        let unmatched = format!("SELECT b.id FROM {joined} WHERE a.amount IS NULL AND 49 / b.secret <> b.id");
        let in_or = "(a.amount IN (SELECT amount FROM $.t) OR b.secret > 0)";
        let newest = "SELECT b.secret FROM $.t AS b JOIN $.m AS a ON a.id = b.id JOIN $.t AS c ON a.id = c.id \
                      ORDER BY a.secret, b.secret DESC LIMIT 1";
        for (sql, want) in [
            (format!("{unmatched} ORDER BY b.id"), "3 4"),
            (format!("{unmatched} AND {in_or} ORDER BY b.id"), "3 4"),
            (newest.to_string(), "1958"),
        ] {
            for schema in ["raw", "features"] {
                let sql = sql.replace('$', schema);
                assert_eq!(warehouse.ask("engineer", &sql).await.map(|rows| rows.join(" ")), Ok(want.into()), "{sql}");
            }
        }
        warehouse.engine.close().await.unwrap();
    });
}

/// Views of classified columns.
fn launder(folder: &Path) {
    fs::create_dir_all(folder.join("features")).unwrap();
    let derived = "SELECT id, seen, mrn || 'x' AS code, hba1c * 2 AS doubled, upper(note) AS words, \
                   CASE WHEN birth < DATE '1960-01-01' THEN 1 ELSE 0 END AS old FROM raw.patients";
    let further = "SELECT id, seen, substr(code, 1, 2) AS part, doubled / 2 AS halved FROM features.derived";
    let once = "SELECT id, seen, code, doubled, words, old FROM features.derived WHERE id <> 3";
    for (name, query) in [("derived", derived), ("further", further), ("once", once)] {
        let text = format!("CREATE FEATURE VIEW features.{name} ENTITY person (id) EVENT TIME seen AS {query};");
        fs::write(folder.join(format!("features/{name}.sql")), text).unwrap();
    }
    let set = "CREATE TRAINING SET training.washed SPINE ENTITY person (id) EVENT TIME seen LABEL cost AS (SELECT id, seen, cost FROM \
               raw.visits) FEATURES features.once.* IGNORING KNOWN TIME BECAUSE 'it is an attack' SPLIT BY HASH (id) INTO train 1 SEED 1;";
    fs::create_dir_all(folder.join("training")).unwrap();
    fs::write(folder.join("training/washed.sql"), set).unwrap();
}

#[test]
fn classes_cannot_be_washed_off() {
    let wrong = block_on(async || {
        let warehouse = Warehouse::with(launder).await;
        let session = warehouse.engine.session(warehouse.principals["engineer"].clone());
        let project = Project::load(warehouse.folder.path()).unwrap_or_else(|p| panic!("{p:#?}"));
        session.publish(&project, &PublishOptions::default(), &|_| {}).await.unwrap_or_else(|p| panic!("{p:#?}"));
        session
            .build_training_set(&project, "washed", &PublishOptions::default(), &|_| {})
            .await
            .unwrap_or_else(|p| panic!("{p:#?}"));
        let path = data().join("laundering.slt");
        let (text, wrong) = run(&warehouse, &fs::read_to_string(&path).unwrap()).await;
        if std::env::var_os("CUSTODY_UPDATE").is_some() {
            fs::write(&path, text).unwrap();
        }
        // Declassifying is a named act: a rule of the bundle, whose entry has what it changed.
        let classes = "SELECT array_to_string(classes, ' + ') FROM system.catalog.columns WHERE dataset = 'features.derived' AND column_name = 'words'";
        assert_eq!(warehouse.ask("engineer", classes).await.unwrap(), ["hidden"]);
        let policies = warehouse.folder.path().join("policies/attacks.sql");
        let rule = "CREATE DECLASSIFICATION shouting FOR FUNCTION upper REMOVES hidden FROM EXPLICIT;";
        fs::write(&policies, fs::read_to_string(&policies).unwrap() + rule).unwrap();
        let text = "CREATE FEATURE VIEW features.shouted ENTITY person (id) EVENT TIME seen AS SELECT id, seen, upper(note) AS \
                    loud, lower(note) AS low FROM raw.patients;";
        fs::write(warehouse.folder.path().join("features/shouted.sql"), text).unwrap();
        let project = Project::load(warehouse.folder.path()).unwrap();
        session
            .apply_policies(&project, "shouted notes are no secret", false)
            .await
            .unwrap_or_else(|p| panic!("{p:#?}"));
        session.publish(&project, &PublishOptions::default(), &|_| {}).await.unwrap_or_else(|p| panic!("{p:#?}"));
        let classes = "SELECT column_name, array_to_string(classes, ' + ') FROM system.catalog.columns WHERE column_name \
                       IN ('loud', 'low') ORDER BY column_name";
        assert_eq!(warehouse.ask("engineer", classes).await.unwrap(), ["loud (empty)", "low hidden"]);
        let named = "SELECT kind FROM system.policy.policies WHERE text LIKE '%shouting%'";
        assert_eq!(warehouse.ask("engineer", named).await.unwrap(), ["declassification"]);
        warehouse.engine.close().await.unwrap();
        wrong
    });
    assert!(wrong.is_empty(), "{} findings\n{}", wrong.len(), wrong.join("\n\n"));
}

/// A bundle that is refused says where and why, and the one before stays in force.
#[test]
fn a_refused_bundle_leaves_the_running_one() {
    block_on(async || {
        let warehouse = Warehouse::new().await;
        let session = warehouse.engine.session(warehouse.principals["engineer"].clone());
        let before = warehouse.ask("research", "SELECT count(*), count(DISTINCT mrn) FROM raw.patients").await;
        assert!(before.is_ok(), "{before:?}");
        let row_set = "CREATE ROW SET eu ON raw.patients AS region = 'eu'";
        for (file, from, to, want) in [
            ("attacks.sql", row_set, "CREATE ROW SET eu ON raw.patients AS area = 'eu'", "column `area`"),
            ("attacks.sql", row_set, "CREATE ROW SET eu ON raw.patients AS 1 / score > 0", "C1605"),
            ("attacks.sql", row_set, "CREATE ROW SET eu ON raw.patients AS score = 'eu'", "C1604"),
            (
                "attacks.sql",
                row_set,
                "CREATE ROW SET eu ON raw.patients AS id IN (SELECT id FROM raw.patients)",
                "C1603",
            ),
            ("attacks.sql", "partial = year", "partial = first(2)", "`first` needs text"),
            ("attacks.sql", "CREATE CLASSIFICATION quasi;", "CREATE CLASSIFICATION hidden;", "declared twice"),
            ("attacks.cedar", "resource in Class::\"plain\"", "resource in Class::\"plane\"", "C1602"),
            (
                "attacks.cedar",
                "@id(\"visits\") permit (principal in Role::\"research\", action in Action::\"up_to_raw\", resource in \
                 Table::\"raw.visits\");",
                "permit (principal, action in Action::\"up_to_raw\", resource in Table::\"raw.visits\") when { \
                 principal.rank > 3 };",
                "C16",
            ),
            (
                "attacks.cedar",
                "@id(\"visits\") permit (principal in Role::\"research\", action in Action::\"up_to_raw\", resource in \
                 Table::\"raw.visits\");",
                "permit (principal, action in Action::\"up_to_raw\", resource in Table::\"raw.visits\") when { \
                 principal.getTag(\"rank\").contains(\"3\") };",
                "C16",
            ),
        ] {
            let path = warehouse.folder.path().join("policies").join(file);
            let text = fs::read_to_string(&path).unwrap();
            assert!(text.contains(from), "{from}");
            fs::write(&path, text.replace(from, to)).unwrap();
            let project = Project::load(warehouse.folder.path()).unwrap();
            let refused = session.apply_policies(&project, "bad", false).await.unwrap_err();
            let all = std::iter::once(&refused).chain(&refused.related);
            let told: Vec<_> = all.map(|p| (p.to_string(), p.file.clone(), p.labels.len())).collect();
            assert!(
                told.iter().any(|(text, place, labels)| {
                    text.contains(want) && *labels > 0 && place.as_ref().is_some_and(|f| f.ends_with(file))
                }),
                "{to}: {told:#?}"
            );
            fs::write(&path, text).unwrap();
            let after = warehouse.ask("research", "SELECT count(*), count(DISTINCT mrn) FROM raw.patients").await;
            assert_eq!(before, after, "{to}");
        }
        warehouse.engine.close().await.unwrap();
    });
}

/// Who may not publish a dataset may not advise against it or revoke it; who may not see it cannot learn from it.
#[test]
fn acts_need_their_rights() {
    block_on(async || {
        let warehouse = Warehouse::new().await;
        let research = warehouse.engine.session(warehouse.principals["research"].clone());
        let (now, code) = (custody_model::Pin::Newest, |p: Problem| p.code.to_string());
        for (name, want) in [("raw.visits", "C3102"), ("raw.staff", "C6001"), ("raw.nothing", "C6001")] {
            for revoked in [false, true] {
                let refused = research.set_status(&name.parse().unwrap(), now, revoked, "mine").await;
                assert_eq!(refused.map(|_| ()).map_err(code), Err(want.into()), "{name}");
            }
        }
        for name in ["raw.staff", "raw.nothing"] {
            let refused = research.register_model("m", &name.parse().unwrap(), now, b"artifact", "mine").await;
            assert_eq!(refused.map(|_| ()).map_err(code), Err("C6001".into()), "{name}");
        }
        warehouse.engine.close().await.unwrap();
    });
}

/// A policy that cannot be evaluated denies, and operators learn which; its readers do not.
#[test]
fn a_policy_that_does_not_fit_raises_an_alert() {
    block_on(async || {
        let mut warehouse = Warehouse::new().await;
        warehouse.principals.insert("auditor".into(), subject("auditor", "auditor", "audit"));
        let path = warehouse.folder.path().join("sources/sources.sql");
        let text = fs::read_to_string(&path).unwrap().replace("consent BOOLEAN", "agreed BOOLEAN");
        fs::write(&path, text).unwrap();
        let csv = warehouse.folder.path().join("raw/patients/p.csv");
        fs::write(&csv, fs::read_to_string(&csv).unwrap().replace("consent", "agreed")).unwrap();
        let project = Project::load(warehouse.folder.path()).unwrap();
        let session = warehouse.engine.session(warehouse.principals["engineer"].clone());
        session.publish(&project, &PublishOptions::default(), &|_| {}).await.unwrap_or_else(|p| panic!("{p:#?}"));
        let refused = warehouse.ask("research", "SELECT id FROM raw.patients").await.unwrap_err();
        assert!(refused.starts_with("C6001 table `raw.patients` not found"), "{refused}");
        let alerts = "SELECT dataset, decision FROM system.access.audit WHERE code = 'C3302'";
        assert_eq!(warehouse.ask("auditor", alerts).await.unwrap(), ["raw.patients deny"]);
        assert_eq!(warehouse.ask("research", alerts).await.unwrap(), Vec::<String>::new());
        let denials = "SELECT count(*) FROM system.policy.denials WHERE principal IS NULL";
        assert_eq!(warehouse.ask("research", denials).await.unwrap(), ["0"]);
        warehouse.engine.close().await.unwrap();
    });
}

/// A statement that computes too long ends, and its entry says so.
#[test]
fn a_statement_that_takes_too_long_ends() {
    block_on(async || {
        let warehouse = Warehouse::limited(|s| s.statement_time = std::time::Duration::from_millis(300)).await;
        let endless = "SELECT count(*) FROM raw.visits, range(1, 100000000) AS a, range(1, 100000000) AS b";
        let refused = warehouse.ask("research", endless).await.unwrap_err();
        assert!(refused.starts_with("C7108 the statement took more than 0 s"), "{refused}");
        assert_eq!(warehouse.ask("research", "SELECT count(*) FROM raw.visits").await.unwrap(), ["7"]);
        let told = "SELECT decision, outcome FROM system.access.audit WHERE code = 'C7108'";
        assert_eq!(warehouse.ask("engineer", told).await.unwrap().len(), 1);
        warehouse.engine.close().await.unwrap();
    });
}

/// Where an entitlement table is not what the bundle knew, nothing is granted, and operators learn why.
#[test]
fn an_entitlement_that_does_not_fit_gives_nothing() {
    block_on(async || {
        let mut warehouse = Warehouse::new().await;
        warehouse.principals.insert("auditor".into(), subject("auditor", "auditor", "audit"));
        assert_eq!(warehouse.ask("nurse", "SELECT count(*) FROM raw.patients").await.unwrap(), ["3"]);
        // What a grant shows by entitlements changes with their table: no figures are kept of it.
        let join = "SELECT count(*) FROM raw.patients AS p JOIN raw.visits AS v ON p.id = v.id";
        warehouse.ask("nurse", join).await.unwrap();
        assert_eq!(warehouse.engine.visible.counted(), 0);
        warehouse.ask("research", join).await.unwrap();
        assert_eq!(warehouse.engine.visible.counted(), 1);
        let path = warehouse.folder.path().join("sources/sources.sql");
        let text = fs::read_to_string(&path).unwrap().replace("nurse VARCHAR", "who VARCHAR");
        fs::write(&path, text).unwrap();
        let csv = warehouse.folder.path().join("raw/care/c.csv");
        fs::write(&csv, fs::read_to_string(&csv).unwrap().replace("nurse,patient", "who,patient")).unwrap();
        let project = Project::load(warehouse.folder.path()).unwrap();
        let session = warehouse.engine.session(warehouse.principals["engineer"].clone());
        let care = &project.sources[&"raw.care".parse().unwrap()];
        session.snapshot(&project, care, &|_| {}).await.unwrap_or_else(|p| panic!("{p:#?}"));
        let refused = warehouse.ask("nurse", "SELECT count(*) FROM raw.patients").await.unwrap_err();
        assert!(refused.starts_with("C6001 table `raw.patients` not found"), "{refused}");
        let alerts = "SELECT dataset, decision FROM system.access.audit WHERE code = 'C3302'";
        assert_eq!(warehouse.ask("auditor", alerts).await.unwrap(), ["raw.patients deny"]);
        warehouse.engine.close().await.unwrap();
        // A bundle that reads what is not there is refused.
        let policies = warehouse.folder.path().join("policies/attacks.sql");
        let text = fs::read_to_string(&policies).unwrap().replace("FROM raw.care", "FROM raw.cares");
        fs::write(&policies, text).unwrap();
        let project = Project::load(warehouse.folder.path()).unwrap();
        let refused = session.check_policies(&project).await.unwrap_err();
        assert!(refused.to_string().contains("`raw.cares`, which is not there"), "{refused}");
    });
}

/// Recorded decisions come out again, and a change of policy is told by what it would mean to recorded readers.
#[test]
fn recorded_decisions_are_replayed() {
    block_on(async || {
        let warehouse = Warehouse::new().await;
        for (who, sql) in [
            ("research", "SELECT id FROM raw.patients"),
            ("research", "SELECT mrn FROM raw.patients WHERE id > 2"),
            ("research", "SELECT * FROM raw.visits"),
            ("engineer", "SELECT * FROM raw.patients"),
        ] {
            warehouse.ask(who, sql).await.unwrap();
        }
        let path = warehouse.folder.path().join("policies/attacks.cedar");
        let text = fs::read_to_string(&path).unwrap();
        let text = text.replace(
            "up_to_token\", resource in Class::\"identifier\"",
            "up_to_redact\", resource in Class::\"identifier\"",
        );
        let text = text.replace(
            "action in Action::\"up_to_redact\", resource in Class::\"hidden\"",
            "action in Action::\"up_to_raw\", resource in Class::\"hidden\"",
        );
        fs::write(&path, text).unwrap();
        let guard = "CREATE GUARD consented ON raw.patients AS consent IS TRUE;";
        let path = warehouse.folder.path().join("policies/attacks.sql");
        fs::write(&path, fs::read_to_string(&path).unwrap().replace(guard, "")).unwrap();
        let project = Project::load(warehouse.folder.path()).unwrap();
        let session = warehouse.engine.session(warehouse.principals["engineer"].clone());
        let replayed = session.replay(&project, &Choice::Epoch(1), &Choice::Project, WallNanos(0)).await.unwrap();
        assert_eq!((replayed.decisions, replayed.distinct, replayed.underived.len()), (4, 3, 0));
        let told: Vec<_> = replayed
            .changes
            .iter()
            .map(|c| {
                format!("{} {} {}: {} -> {} ({})", c.principal, c.direction.word(), c.what, c.before, c.after, c.reads)
            })
            .collect();
        assert_eq!(
            told,
            [
                "research loses mrn: token hmac(key 'research', domain 'person') -> redact null (2)",
                "research gains note: redact null -> raw (2)",
                "research differs rows: region = 'eu' AND (consent IS TRUE) -> region = 'eu' (2)",
            ]
        );
        let same = session.replay(&project, &Choice::Epoch(1), &Choice::Epoch(1), WallNanos(0)).await.unwrap();
        assert_eq!(same.changes, []);
        let research = warehouse.engine.session(warehouse.principals["research"].clone());
        assert!(research.replay(&project, &Choice::Epoch(1), &Choice::Project, WallNanos(0)).await.is_err());
        warehouse.engine.close().await.unwrap();
    });
}
