//! Nothing enforces unseen: each line that does has an id that can be switched off, and then a test fails; or it is in
//! `testdata/enforcement.txt` with the test that shows it.
//!
//! - `no_point_is_unlisted` reads the sources: refusals in the name of policy, looks at a grant, methods by which the
//!   optimizer asks a barrier. A new one without an id fails until somebody has listed it.
//! - `every_id_outside_the_barrier_is_seen` switches off what `barrier/tests.rs` and `policy` do not.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use crate::attacks::{Warehouse, block_on, subject};
use crate::{Project, PublishOptions, ReadRequest, read::execute};
use custody_model::{Hash, Problem};
use custody_policy::enforce;
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

// ---- the list is complete ------------------------------------------------------------------------------------------

/// Traits by which DataFusion asks the nodes and tables of policy.
const ASKS: &[&str] = &[
    "CatalogProviderList",
    "ExecutionPlan",
    "ExtensionPlanner",
    "OptimizerRule",
    "QueryPlanner",
    "Sees",
    "TableProvider",
    "UserDefinedLogicalNodeCore",
];

/// Looks at a decision.
const LOOKS: &[&str] = &[
    ".visible()",
    ".open()",
    ".explain_raw",
    ".publish ",
    ".publish)",
    ".publish{",
    ".declassify",
    "Rung::None",
    "RowGrant::",
    ".floor",
    ".failed.",
    ".needs(",
];

/// Files whose every refusal is policy's.
fn is_barrier(path: &str) -> bool {
    path.contains("engine/src/barrier/")
        || ["policy/src/barrier.rs", "policy/src/floor.rs", "policy/src/govern.rs", "engine/src/provider.rs"]
            .iter()
            .any(|end| path.ends_with(end))
}

/// The Rust files below a folder, tests aside.
fn sources(folder: &Path, out: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_string_lossy().into_owned();
        let aside = ["tests", "twins", "attacks", "mutations", "perturb", "campaign", "samples"];
        if aside.contains(&name.as_str()) {
            continue;
        }
        match path.is_dir() {
            true => sources(&path, out),
            false if path.extension().is_some_and(|e| e == "rs") => out.push(path),
            false => {}
        }
    }
}

/// What enforces something in a text: function and kind, and whether an id is in the same function.
fn points(path: &str, text: &str) -> BTreeMap<(String, String), bool> {
    let text = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
    let ours = is_barrier(path) || path.ends_with("engine/src/system.rs");
    // Within `policy` and the barrier it is the grant that is made and carried out, under ids.
    let looks = path.starts_with("engine/src") && !is_barrier(path);
    let (mut found, mut guarded) = (vec![], BTreeSet::new());
    let (mut function, mut asked): (String, Option<String>) = (String::new(), None);
    let lines: Vec<&str> = text.lines().collect();
    for (i, line) in lines.iter().enumerate() {
        let code = line.split("//").next().unwrap_or_default();
        if line.starts_with("impl") {
            let words: Vec<&str> = line.split_whitespace().collect();
            let of = words.iter().position(|w| *w == "for").filter(|at| ASKS.contains(&words[at - 1]));
            asked = of.map(|at| words[at + 1].trim_end_matches("<'_>").to_string());
        } else if line.starts_with('}') {
            asked = None;
        }
        if let Some(at) =
            code.find("fn ").filter(|at| code[..*at].chars().all(|c| c.is_alphanumeric() || " ()_".contains(c)))
        {
            let name = code[at + 3..].split(|c: char| !(c.is_alphanumeric() || c == '_')).next().unwrap_or_default();
            function = name.to_string();
            if let Some(of) = asked.as_ref().filter(|_| ours) {
                found.push((function.clone(), format!("asked of {of}")));
            }
        }
        if code.contains("enforce!(") {
            guarded.insert(function.clone());
        }
        let both = format!("{} {}", code.trim(), lines.get(i + 1).map_or("", |l| l.trim()));
        for (at, _) in both.match_indices("Problem::new(").filter(|(at, _)| *at < code.trim().len()) {
            let digits: String = both[at + 13..].trim_start().chars().take_while(char::is_ascii_digit).collect();
            if digits.len() == 4 && (digits.starts_with('3') || digits == "6001") {
                found.push((function.clone(), format!("C{digits}")));
            }
        }
        if looks && LOOKS.iter().any(|look| code.contains(look)) {
            found.push((function.clone(), "looks at a grant".into()));
        }
        let refusals = ["internal_err!(", "plan_err!(", "Err(DataFusionError::", "FloorRefusal {"];
        if is_barrier(path) && refusals.iter().any(|r| code.contains(r)) {
            found.push((function.clone(), "refuses".into()));
        }
    }
    found.into_iter().map(|(f, what)| ((f.clone(), what), guarded.contains(&f))).collect()
}

/// Each line of the list: `path function what = why | file of a test: words in it`.
fn listed() -> BTreeMap<String, (String, String)> {
    let text = fs::read_to_string(root().join("testdata/enforcement.txt")).unwrap();
    let lines = text.lines().filter(|l| !l.is_empty() && !l.starts_with('#'));
    lines
        .map(|line| {
            let (point, why) = line.split_once(" = ").unwrap_or_else(|| panic!("{line}"));
            let (why, test) = why.split_once(" | ").unwrap_or((why, ""));
            (point.to_string(), (why.to_string(), test.to_string()))
        })
        .collect()
}

#[test]
fn no_point_is_unlisted() {
    let mut files = vec![];
    for name in ["cli", "engine", "flight", "policy"] {
        sources(&root().join("crates").join(name).join("src"), &mut files);
    }
    let (mut unguarded, mut ids) = (BTreeSet::new(), BTreeSet::new());
    for file in &files {
        let path = file.strip_prefix(root()).unwrap().display().to_string();
        let path = path.strip_prefix("crates/").unwrap();
        let text = fs::read_to_string(file).unwrap();
        for ((function, what), guarded) in points(path, &text) {
            if !guarded {
                unguarded.insert(format!("{path} {function} {what}"));
            }
        }
        if !path.ends_with("enforce.rs") {
            let uses = text.split("enforce!(").skip(1).filter_map(|rest| rest.trim_start().strip_prefix('"'));
            ids.extend(uses.map(|rest| rest.split('"').next().unwrap().to_string()));
        }
    }
    assert!(enforce::IDS.iter().map(ToString::to_string).eq(ids.iter().cloned()), "an id is listed and not used");
    let listed = listed();
    let new: Vec<_> = unguarded.iter().filter(|p| !listed.contains_key(*p)).collect();
    assert!(new.is_empty(), "give these an id of `enforce!`, or list them:\n{new:#?}");
    let stale: Vec<_> = listed.keys().filter(|p| !unguarded.contains(*p)).collect();
    assert!(stale.is_empty(), "these are gone or have an id: {stale:#?}");
    for (point, (why, test)) in &listed {
        assert!(why.len() > 5, "{point}: why?");
        if let Some((file, words)) = test.split_once(": ") {
            let text = fs::read_to_string(root().join(file)).unwrap_or_else(|e| panic!("{point}: {file}: {e}"));
            assert!(text.contains(words), "{point}: `{file}` does not say `{words}`");
        }
    }
    // It would see a new one.
    let text = "impl ExecutionPlan for BarrierExec {\n    fn new_way(&self) -> bool {\n        true\n    }\n}\n\
                fn ask(g: &Grant) {\n    if !g.visible() {\n        return Err(Problem::new(\n            3199, \"no\"));\n    }\n}\n";
    let seen = points("engine/src/barrier/new.rs", text);
    let seen: Vec<_> = seen.keys().map(|(f, what)| format!("{f} {what}")).collect();
    assert_eq!(seen, ["ask C3199", "new_way asked of BarrierExec"]);
    let seen = points("engine/src/new.rs", text);
    assert!(seen.contains_key(&("ask".into(), "looks at a grant".into())), "{seen:?}");
}

// ---- every id is seen ----------------------------------------------------------------------------------------------

/// Policies and views for those who may read and not publish, and for what was collected for one purpose.
fn extend(folder: &Path) {
    crate::attacks::view(folder);
    let cedar = folder.join("policies/attacks.cedar");
    let more = r#"
        permit (principal in Role::"chief", action in [Action::"up_to_raw", Action::"publish", Action::"see_rows", Action::"skip_guard"], resource);
        permit (principal, action in Action::"up_to_raw", resource in Table::"raw.patients") when { resource.approved.contains("raw") };
        permit (principal in Role::"analyst", action in [Action::"up_to_raw", Action::"see_rows", Action::"skip_guard"], resource);"#;
    fs::write(&cedar, fs::read_to_string(&cedar).unwrap() + more).unwrap();
    let sources = folder.join("sources/sources.sql");
    let more =
        "CREATE SOURCE raw.limited (id BIGINT NOT NULL, name VARCHAR, seen TIMESTAMP NOT NULL) FROM CSV 'raw/staff'
                ENTITY person (id) EVENT TIME seen PURPOSE build;";
    fs::write(&sources, fs::read_to_string(&sources).unwrap() + more).unwrap();
    fs::create_dir_all(folder.join("features")).unwrap();
}

/// Makes this the only view of the project.
fn only(folder: &Path, name: &str, purpose: &str, of: &str) {
    let folder = folder.join("features");
    fs::remove_dir_all(&folder).unwrap();
    fs::create_dir_all(&folder).unwrap();
    let text = format!(
        "CREATE FEATURE VIEW features.{name} ENTITY person (id) EVENT TIME seen {purpose} AS SELECT id, seen FROM {of};"
    );
    fs::write(folder.join(format!("{name}.sql")), text).unwrap();
}

/// All that a reader can see of these answers.
async fn told(warehouse: &Warehouse) -> String {
    let mut text = vec![];
    for sql in [
        "SELECT name FROM raw.staff",
        "SELECT id FROM raw.staff VERSION 99",
        "EXPLAIN SELECT id FROM raw.patients",
        "EXPLAIN LINEAGE SELECT id FROM raw.patients",
        "EXPLAIN POLICY SELECT id FROM raw.patients",
        "SELECT length(repeat('x', 67108870))",
        "SELECT dataset FROM system.catalog.datasets",
        "SELECT dataset, column_name FROM system.catalog.columns",
        "SELECT * FROM system.catalog.versions",
        "SELECT table_name, column_name FROM information_schema.columns WHERE table_schema = 'raw'",
        "SELECT table_name FROM information_schema.tables WHERE table_schema = 'raw'",
        "SELECT * FROM system.policy.row_sets",
        "SELECT column_name, row_count, cells FROM system.quality.profiles ORDER BY dataset, column_name",
        "SELECT count(*) FROM system.access.audit WHERE principal = 'engineer'",
    ] {
        text.push(format!("{sql}: {:?}", warehouse.ask("research", sql).await));
    }
    for sql in [
        "SELECT hba1c FROM raw.cohort",
        "SELECT max(hba1c) FROM raw.cohort",
        "SELECT avg(hba1c) FROM raw.cohort WHERE id = 11",
        "SELECT count(*) FROM raw.cohort WHERE hba1c > 900 HAVING 1 / 0 > 0",
    ] {
        text.push(format!("{sql}: {:?}", warehouse.ask("statistician", sql).await));
    }
    for (who, sql) in [
        ("research", "SELECT mrn FROM views.defined"),
        ("research", "SELECT id FROM views.private"),
        ("research", "EXPLAIN LINEAGE SELECT hba1c FROM views.defined"),
        ("research", "EXPLAIN POLICY SELECT hba1c FROM views.defined"),
        ("engineer", "EXPLAIN SELECT id FROM views.defined WHERE score > 5"),
        ("engineer", "EXPLAIN LINEAGE SELECT hba1c FROM views.defined"),
    ] {
        text.push(format!("{sql}: {:?}", warehouse.ask(who, sql).await));
    }
    let project = Project::load(warehouse.folder.path()).unwrap();
    let (defined, private) = ("views.defined".parse().unwrap(), "views.private".parse().unwrap());
    for (who, view) in [("analyst", &private), ("analyst", &defined), ("chief", &defined)] {
        let session = warehouse.engine.session(warehouse.principals[who].clone());
        let prepared = session.prepare_view(&project, &project.views[view], &Default::default()).await;
        text.push(format!("{who} {view}: {:?}", prepared.map(|p| p.same).map_err(|p| p.code)));
    }
    let research = warehouse.engine.session(warehouse.principals["research"].clone());
    text.push(format!("{:?}", research.needs("policy_admin").is_ok()));
    let listed = research.datasets().await.unwrap();
    text.push(format!("{:?}", listed.iter().map(|l| (&l.name, &l.schema)).collect::<Vec<_>>()));
    let (staff, now) = ("raw.staff".parse().unwrap(), custody_model::Pin::Newest);
    let code = |p: Problem| p.code;
    text.push(format!("{:?}", research.decide_for(&staff, research.subject(), None).await.map_err(code)));
    text.push(format!("{:?}", research.verify_version(&staff, now, false).await.map_err(code)));
    text.push(format!("{:?}", research.replay_training_set(&staff, now, &|_| {}).await.map(|r| r.rows).map_err(code)));
    let told = research.outbox(&crate::Cursor::new(), 1_000).await.unwrap().events.join("");
    assert_eq!(["raw.staff", "secret"].map(|hidden| told.contains(hidden)), [false, false]);
    // Access: asked for by one, answered by those who may, held until it ends.
    let [asked, held] = [
        warehouse.asks("raw.staff", &["name"], custody_model::Rung::Raw).await,
        warehouse.given("raw.staff", &["name"], custody_model::Rung::Raw).await,
    ];
    let nobody = warehouse.engine.session(warehouse.principals["nobody"].clone());
    text.push(format!("{:?}", nobody.deny_access(asked, "no").await.map(|_| ()).map_err(code)));
    text.push(format!("{:?}", nobody.revoke_access(held, "no").await.map(|_| ()).map_err(code)));
    let own = research.approve_access(asked, &Default::default(), "mine").await;
    text.push(format!("{:?}", own.map(|_| ()).map_err(code)));
    text.push(format!("{:?}", warehouse.ask("research", "SELECT mrn, hba1c FROM raw.patients ORDER BY id").await));
    let catalog = warehouse.engine.catalog();
    let patients = catalog.dataset(&"raw.patients".parse().unwrap()).unwrap().id();
    let owner = research.subject().as_owner(&"research".into());
    let now = warehouse.engine.clock().now();
    text.push(format!("{}", crate::access::approvals(&catalog, &owner, patients, catalog.at(), now).len()));
    let late = ReadRequest::sql("SELECT mrn FROM raw.patients");
    let statement = research.pin(&late).await.unwrap();
    let plan = research.govern(&late, &statement).await.unwrap();
    let mut intent = research.intent_entry(&late, &statement, &plan).unwrap();
    intent.wall = custody_model::WallNanos(i64::MAX);
    text.push(format!("{:?}", crate::Session::unexpired(&statement.pinned, &intent).map_err(code)));
    let request = ReadRequest::sql("SELECT id FROM raw.visits");
    assert!(research.read_granted(request.clone(), &[Hash::default()]).await.is_err(), "decided otherwise");
    let statement = research.pin(&request).await.unwrap();
    let (one, other) =
        (research.govern(&request, &statement).await.unwrap(), research.govern(&request, &statement).await.unwrap());
    let intent = research.intent_entry(&request, &statement, &one).unwrap();
    let (receipt, slot) = warehouse.engine.recorder.intent(intent).await.unwrap();
    assert!(execute(other, receipt).is_err(), "a receipt is good for its own plan");
    drop(slot);
    text.push(format!(
        "{:?}",
        crate::functions::scalar().iter().map(|f| f.name().to_string()).collect::<BTreeSet<_>>()
    ));
    text.join("\n")
}

/// What a publish of the project's view says.
async fn published(warehouse: &Warehouse, who: &str) -> String {
    let project = Project::load(warehouse.folder.path()).unwrap();
    let options =
        PublishOptions { select: project.features.keys().map(ToString::to_string).collect(), ..Default::default() };
    let session = warehouse.engine.session(warehouse.principals[who].clone());
    let made: Result<_, Problem> = session.publish(&project, &options, &|_| {}).await;
    let versions = warehouse
        .ask("engineer", "SELECT dataset, version FROM system.catalog.versions ORDER BY dataset, version")
        .await;
    format!("{:?} {versions:?}", made.map(|p| p.len()).map_err(|p| p.to_string()))
}

#[test]
fn every_id_outside_the_barrier_is_seen() {
    let outside = |id: &&&str| {
        let (part, _) = id.split_once('.').unwrap();
        let inside = ["barrier", "check", "decide", "exec", "govern", "leakproof"].contains(&part);
        !inside && !["floor.settled", "push.guarded"].contains(id)
    };
    let (publishing, reading): (Vec<&'static str>, Vec<&'static str>) =
        enforce::IDS.iter().filter(outside).partition(|id| id.starts_with("publish."));
    let unseen = block_on(async || {
        let mut warehouse = Warehouse::with(extend).await;
        warehouse.principals.insert("analyst".into(), subject("analyst", "analyst", "build"));
        warehouse.principals.insert("chief".into(), subject("chief", "chief", "build"));
        warehouse.record_views().await;
        let _ = warehouse.given("raw.patients", &["mrn"], custody_model::Rung::Raw).await;
        warehouse.over("raw.patients", &["hba1c"]).await;
        warehouse.ask("engineer", "SELECT secret, name FROM raw.patients JOIN raw.staff USING (id)").await.unwrap();
        let profiled = "CREATE FEATURE VIEW features.profiled ENTITY person (id) EVENT TIME seen AS SELECT id, seen, hba1c FROM raw.patients;";
        fs::write(warehouse.folder.path().join("features/profiled.sql"), profiled).unwrap();
        assert!(published(&warehouse, "engineer").await.starts_with("Ok(1)"), "a view with a profile");
        let right = told(&warehouse).await;
        assert_eq!(right, told(&warehouse).await, "the answers are always the same");
        let mut unseen = vec![];
        for id in reading {
            if off(id, told(&warehouse)).await == right {
                unseen.push(id);
            }
        }
        // What is published stays, so each is tried once with its id and once without.
        let tried = [
            ("publish.complete", "research", "scores", "", "raw.patients"),
            ("publish.permitted", "analyst", "scores", "", "raw.patients"),
            ("publish.purposes", "engineer", "names", "PURPOSE sale", "raw.limited"),
            ("publish.source", "analyst", "visits", "", "raw.visits"),
        ];
        assert!(publishing.iter().eq(tried.iter().map(|(id, ..)| id)), "{publishing:?}");
        let changed = warehouse.folder.path().join("raw/visits/v.csv");
        fs::write(&changed, fs::read_to_string(&changed).unwrap() + "13,c,1,2026-01-01T00:00:00Z\n").unwrap();
        for (id, who, view, purpose, of) in tried {
            only(warehouse.folder.path(), view, purpose, of);
            if published(&warehouse, who).await == off(id, published(&warehouse, who)).await {
                unseen.push(id);
            }
        }
        warehouse.engine.close().await.unwrap();
        unseen
    });
    assert_eq!(unseen, Vec::<&str>::new(), "these can be switched off unnoticed");
}

/// Polls with an id switched off on the polling thread.
async fn off<T>(id: &'static str, future: impl Future<Output = T>) -> T {
    let mut future = std::pin::pin!(future);
    std::future::poll_fn(|context| enforce::without(id, || future.as_mut().poll(context))).await
}
