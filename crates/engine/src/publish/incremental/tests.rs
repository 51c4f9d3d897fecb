//! Parts against the whole, root for root; and what is refused because it could differ.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use crate::{
    Engine, Event, Project, PublishOptions, Settings,
    attacks::{block_on, subject},
    audit::WriterChoice,
    clock::SystemClock,
};
use custody_model::{Hash, Problem, profile::mixed};
use std::{
    fs,
    sync::{Arc, Mutex},
};

const POLICY: &str = "permit (principal, action in [Action::\"up_to_raw\", Action::\"publish\", Action::\"see_rows\", \
                      Action::\"skip_guard\"], resource);";
const SOURCE: &str = "CREATE SOURCE raw.labs (id BIGINT NOT NULL, ts TIMESTAMP NOT NULL, test VARCHAR NOT NULL, value DOUBLE, \
                      loaded_at TIMESTAMP NOT NULL) FROM CSV 'raw/labs' ENTITY patient (id) EVENT TIME ts KNOWN TIME loaded_at;\n\
                      CREATE SOURCE raw.people (id BIGINT NOT NULL, height DOUBLE, seen TIMESTAMP) FROM CSV 'raw/people' \
                      ENTITY patient (id) EVENT TIME seen;";
const WINDOWS: &str =
    "SELECT DISTINCT id, ts, max(loaded_at) OVER w AS known_at, avg(value) FILTER (WHERE test = 'hdl') OVER w AS hdl,
  sum(value) OVER w AS total, count(*) OVER w AS n FROM raw.labs
  WINDOW w AS (PARTITION BY id ORDER BY ts RANGE BETWEEN INTERVAL '20 days' PRECEDING AND CURRENT ROW)";
const GROUPS: &str = "SELECT a.id, a.ts, max(greatest(a.loaded_at, b.loaded_at)) AS known_at, sum(a.value * b.value) AS total, count(*) AS n
  FROM raw.labs AS a LEFT JOIN raw.labs AS b ON b.ts = a.ts AND b.test = a.test GROUP BY a.id, a.ts";

/// What each statement of `what_could_differ…` is told.
const REFUSED: &[&str] = &[
    "a window reaches further back than LOOKBACK",
    "a window reaches further back than LOOKBACK",
    "a window reaches further back than LOOKBACK",
    "a window without a beginning",
    "a window that is not `ORDER BY` the time with a `RANGE`",
    "a window that looks forward",
    "`lag` reaches further back than LOOKBACK",
    "`stddev` may depend on the order of rows",
    "groups that span times",
    "`ts` is not the event time of every input, as it is",
    "`Limit: skip=0, fetch=3` is not bounded by LOOKBACK",
    "`seen` of `raw.people` may be NULL",
    "a join without the time column",
    "a subquery in an expression",
    "a subquery in an expression",
];

struct World {
    engine: Arc<Engine>,
    folder: tempfile::TempDir,
    told: Mutex<Vec<String>>,
}

impl World {
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let path = folder.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        write("policies/all.cedar", POLICY);
        write("policies/none.sql", "CREATE CLASSIFICATION pii;\n");
        write("sources/labs.sql", SOURCE);
        write("raw/people/p.csv", "id,height,seen\n1,1.8,2024-01-01T00:00:00Z\n");
        fs::create_dir_all(folder.path().join("raw/labs")).unwrap();
        fs::create_dir_all(folder.path().join("features")).unwrap();
        let mut settings = Settings::new(folder.path().join("warehouse"), "parts", WriterChoice::Cli);
        settings.sources_allow = vec![folder.path().to_path_buf()];
        settings.partitions = 3;
        let engine =
            Engine::create(settings, Arc::new(SystemClock), subject("eng", "engineer", "build")).await.unwrap();
        let world = Self { engine, folder, told: Mutex::default() };
        let project = Project::load(world.folder.path()).unwrap_or_else(|p| panic!("{p:#?}"));
        let session = world.engine.session(subject("eng", "engineer", "build"));
        session.apply_policies(&project, "parts", false).await.unwrap_or_else(|p| panic!("{p:#?}"));
        world
    }

    fn view(&self, clause: &str, query: &str) {
        let text = format!(
            "CREATE FEATURE VIEW features.x ENTITY patient (id) EVENT TIME ts KNOWN TIME known_at {clause} AS {query};"
        );
        fs::write(self.folder.path().join("features/x.sql"), text).unwrap();
    }

    fn file(&self, name: &str, rows: &[String]) {
        let text = format!("id,ts,test,value,loaded_at\n{}\n", rows.join("\n"));
        fs::write(self.folder.path().join("raw/labs").join(name), text).unwrap();
    }

    async fn publish(&self) -> Result<Hash, Problem> {
        let project = Project::load(self.folder.path())?;
        let session = self.engine.session(subject("eng", "engineer", "build"));
        let tell = |event: Event| match event {
            Event::Part { of, intervals, .. } => {
                self.told.lock().unwrap().push(format!("part of {of}, {} intervals", intervals.len()));
            }
            Event::Whole { why, .. } => self.told.lock().unwrap().push(format!("whole: {why}")),
            _ => {}
        };
        session.publish(&project, &PublishOptions::default(), &tell).await?;
        Ok(self.root())
    }

    fn root(&self) -> Hash {
        let catalog = self.engine.catalog();
        catalog.dataset(&"features.x".parse().unwrap()).unwrap().newest().unwrap().table.content
    }

    fn told(&self) -> Vec<String> {
        std::mem::take(&mut *self.told.lock().unwrap())
    }
}

/// Results over 300 days, several at one time, some NULL; by the order in which they arrive.
fn rows(seed: u64, n: u64) -> Vec<String> {
    let time = |hours: u64| {
        let days = hours / 24;
        format!("2024-{:02}-{:02}T{:02}:00:00Z", days / 28 + 1, days % 28 + 1, hours % 24)
    };
    let row = |i: u64| {
        let r = mixed(seed * 100_000 + i);
        let hours = (r >> 8) % (300 * 24) / 6 * 6;
        let value = if r.is_multiple_of(13) {
            String::new()
        } else {
            format!("{:.3}", ((r >> 20) % 1_000_000) as f64 / 7_919.0)
        };
        let test = ["hdl", "chol", "sbp"][(r >> 40) as usize % 3];
        format!("{},{},{test},{value},{}", r % 9, time(hours), time((hours + (r >> 50) % 48).min(300 * 24)))
    };
    (0..n).map(row).collect()
}

/// Late data everywhere, or in the order of time.
fn chunks(seed: u64, mut rows: Vec<String>) -> Vec<Vec<String>> {
    if seed.is_multiple_of(2) {
        rows.sort_by_key(|row| row.split(',').nth(1).unwrap().to_string());
    }
    let parts = 2 + seed as usize % 4;
    let mut out = vec![vec![]; parts];
    let all = rows.len();
    for (i, row) in rows.into_iter().enumerate() {
        // Unequal ones.
        let at = if seed.is_multiple_of(2) {
            (i * i * parts) / (all * all)
        } else {
            mixed(seed * 7 + i as u64) as usize % parts
        };
        out[at.min(parts - 1)].push(row);
    }
    out.retain(|c| !c.is_empty());
    out
}

#[test]
fn parts_give_the_root_of_the_whole() {
    let (parts, wholes) = block_on(async || {
        let (mut parts, mut wholes) = (0, 0);
        for seed in 0..10 {
            let query = if seed % 5 == 4 { GROUPS } else { WINDOWS };
            let all = rows(seed, 400);
            let whole = World::new().await;
            whole.view("", query);
            whole.file("all.csv", &all);
            let expected = whole.publish().await.unwrap_or_else(|p| panic!("{p:#?}"));
            let world = World::new().await;
            world.view("INCREMENTAL BY ts LOOKBACK INTERVAL '20 days'", query);
            let mut last = None;
            for (n, chunk) in chunks(seed, all).iter().enumerate() {
                world.file(&format!("{n}.csv"), chunk);
                last = Some(world.publish().await.unwrap_or_else(|p| panic!("{p:#?}")));
            }
            assert_eq!(last, Some(expected), "seed {seed}: {:?}", world.told());
            let told = world.told();
            parts += told.iter().filter(|t| t.starts_with("part of")).count();
            wholes += told.iter().filter(|t| t.starts_with("whole")).count();
            whole.engine.close().await.unwrap();
            world.engine.close().await.unwrap();
        }
        (parts, wholes)
    });
    assert!(parts > 20 && wholes == 10, "only the first of each is computed whole: {parts} {wholes}");
}

/// What is taken from the version before is not computed: a part reads less.
#[test]
fn a_part_reads_what_it_needs_and_anything_else_is_computed_whole() {
    block_on(async || {
        let world = World::new().await;
        world.view("INCREMENTAL BY ts LOOKBACK INTERVAL '20 days'", WINDOWS);
        let mut all = rows(1, 300);
        all.sort_by_key(|row| row.split(',').nth(1).unwrap().to_string());
        world.file("0.csv", &all[..280]);
        world.publish().await.unwrap();
        assert_eq!(world.told(), ["whole: there is no version before"]);
        world.file("1.csv", &all[280..]);
        world.publish().await.unwrap();
        assert_eq!(world.told(), ["part of 1, 1 intervals"]);
        // Nothing new is no version; a file that changed could have changed any row.
        world.publish().await.unwrap();
        assert_eq!(world.told(), Vec::<String>::new());
        world.file("0.csv", &all[..270]);
        let root = world.publish().await.unwrap();
        assert_eq!(world.told(), ["whole: `0.csv` of `raw.labs` changed or is gone"]);
        // Another query is another view.
        world.view("INCREMENTAL BY ts LOOKBACK INTERVAL '20 days'", &WINDOWS.replace("'20 days'", "'10 days'"));
        assert_ne!(world.publish().await.unwrap(), root);
        assert_eq!(world.told(), ["whole: the query changed"]);
        world.engine.close().await.unwrap();
    });
}

#[test]
fn what_could_differ_from_the_whole_is_refused() {
    let told = block_on(async || {
        let world = World::new().await;
        world.file("0.csv", &rows(2, 20));
        let mut told = vec![];
        let known = "max(loaded_at) OVER (PARTITION BY id, ts) AS known_at";
        let frame = |frame: &str| {
            format!(
                "SELECT DISTINCT id, ts, max(loaded_at) OVER w AS known_at FROM raw.labs WINDOW w AS (PARTITION BY id ORDER BY ts {frame})"
            )
        };
        for query in [
            // Windows over windows add up.
            "SELECT DISTINCT id, ts, max(loaded_at) OVER w AS known_at, max(n) OVER w AS n FROM (SELECT id, ts, loaded_at, \
             count(*) OVER (PARTITION BY id ORDER BY ts RANGE BETWEEN INTERVAL '11 days' PRECEDING AND CURRENT ROW) AS n \
             FROM raw.labs) WINDOW w AS (PARTITION BY id ORDER BY ts RANGE BETWEEN INTERVAL '10 days' PRECEDING AND CURRENT ROW)"
                .into(),
            frame("RANGE BETWEEN INTERVAL '21 days' PRECEDING AND CURRENT ROW"),
            frame("RANGE BETWEEN INTERVAL '1 month' PRECEDING AND CURRENT ROW"),
            frame(""),
            frame("ROWS BETWEEN 3 PRECEDING AND CURRENT ROW"),
            frame("RANGE BETWEEN CURRENT ROW AND INTERVAL '1 day' FOLLOWING"),
            format!("SELECT id, ts, {known}, lag(value) OVER (PARTITION BY id ORDER BY ts) AS v FROM raw.labs"),
            format!("SELECT id, ts, {known}, stddev(value) OVER (PARTITION BY ts) AS v FROM raw.labs"),
            "SELECT id, max(ts) AS ts, max(loaded_at) AS known_at FROM raw.labs GROUP BY id".into(),
            "SELECT id, ts + INTERVAL '1 day' AS ts, loaded_at AS known_at FROM raw.labs".into(),
            "SELECT id, ts, loaded_at AS known_at FROM raw.labs ORDER BY id LIMIT 3".into(),
            "SELECT l.id, l.ts, l.loaded_at AS known_at, p.height FROM raw.labs AS l JOIN raw.people AS p ON p.id = l.id".into(),
            "SELECT a.id, a.ts, greatest(a.loaded_at, b.loaded_at) AS known_at FROM raw.labs AS a JOIN raw.labs AS b ON b.id = a.id".into(),
            "SELECT id, ts, loaded_at AS known_at FROM raw.labs WHERE value > (SELECT avg(value) FROM raw.labs)".into(),
            "SELECT id, ts, loaded_at AS known_at FROM raw.labs WHERE id IN (SELECT id FROM raw.people)".into(),
        ] {
            world.view("INCREMENTAL BY ts LOOKBACK INTERVAL '20 days'", &query);
            let refused = world.publish().await.map(|_| ()).unwrap_err();
            assert_eq!(refused.code.to_string(), "C1157", "{query}: {refused:?}");
            told.push(refused.message.replace("INCREMENTAL would not equal a full computation: ", ""));
        }
        world.engine.close().await.unwrap();
        told.join("\n")
    });
    assert_eq!(told, REFUSED.join("\n"));
}
