//! Training sets by command: built, held against brute force in SQL, replayed after what they read has moved on.

use crate::support::World;
use std::fs;

const ROWS: &str = "SELECT count(*) AS n, count(hdl_mean_2y) AS with_value, sum(CASE WHEN split = 'train' THEN 1 ELSE 0 END) * 10 / count(*) AS tenths \
                    FROM training.mortality";

/// Each landmark with the newest mean known by then, by looking at all of them.
const DIFFERENCES: &str = "WITH seen AS (
  SELECT l.id, l.ts, t.hdl_mean_2y, t.chol_mean_2y
  FROM raw.landmarks AS l LEFT JOIN features.lab_trend VERSION 1 AS t ON t.id = l.id AND t.ts <= l.ts AND t.known_at <= l.ts
  QUALIFY row_number() OVER (PARTITION BY l.id, l.ts ORDER BY t.ts DESC NULLS LAST) = 1)
SELECT count(*) AS differences FROM seen AS s FULL JOIN training.mortality VERSION 1 AS m ON m.id = s.id AND m.ts = s.ts
WHERE m.id IS NULL OR s.id IS NULL OR (m.hdl_mean_2y IS DISTINCT FROM s.hdl_mean_2y)
  OR (m.chol_mean_2y IS DISTINCT FROM s.chol_mean_2y)";

#[test]
fn a_training_set_is_exact_and_replays_after_its_inputs_moved_on() {
    let world = World::published();
    let built = world.run(&["train-set", "build", "training.mortality", "-m", "first model"]);
    assert!(built.err.contains("Published training.mortality@1"), "{}", built.err);
    built.code(0);
    let again = world.run(&["train-set", "build", "mortality", "-m", "again"]);
    assert!(again.err.contains("nothing changed"), "{}", again.err);
    assert_eq!(world.run(&["--format", "csv", "sql", "-c", DIFFERENCES]).code(0).trim(), "differences\n0");
    let counts = world.run(&["--format", "csv", "sql", "-c", ROWS]).code(0);
    let counts: Vec<u64> = counts.lines().nth(1).unwrap().split(',').map(|n| n.parse().unwrap()).collect();
    assert!(counts[0] > 500 && counts[1] > 0 && (7..=8).contains(&counts[2]), "{counts:?}");
    world.run(&["train-set", "verify", "training.mortality@1", "--deep"]).code(0);
    world.run(&["train-set", "replay", "training.mortality@1"]).code(0);

    let view = world.project().join("features/lab_trend.sql");
    let text = fs::read_to_string(&view).unwrap();
    fs::write(&view, text.replace("'730 days'", "'365 days'").replace("two-year", "one-year")).unwrap();
    world.run(&["publish", "-m", "shorter windows", "--accept-breaking"]).code(0);
    let replayed = world.run(&["train-set", "replay", "training.mortality@1"]);
    assert!(replayed.err.contains("training.mortality@1: "), "{}", replayed.err);
    replayed.code(0);
    let second = world.run(&["train-set", "build", "training.mortality", "-m", "second model"]);
    assert!(second.err.contains("Published training.mortality@2"), "{}", second.err);
    world.run(&["train-set", "replay", "training.mortality@2"]).code(0);

    let lineage = world.run(&["--format", "ndjson", "lineage", "training.mortality.hdl_mean_2y", "--up"]).code(0);
    assert!(lineage.contains("raw.labs"), "{lineage}");
}

#[test]
fn a_replay_does_not_depend_on_partitions_and_names_a_source_file_that_is_gone() {
    let world = World::published();
    world.run(&["train-set", "build", "training.mortality", "-m", "first model"]).code(0);
    let settings = world.project().join("custody.toml");
    let text = fs::read_to_string(&settings).unwrap();
    for partitions in [1, 2, 8] {
        fs::write(&settings, format!("{text}\n[limits]\npartitions = {partitions}\n")).unwrap();
        world.run(&["train-set", "replay", "training.mortality@1"]).code(0);
    }
    fs::write(&settings, text).unwrap();
    let folder = world.project().join("warehouse/raw/landmarks");
    let file = fs::read_dir(&folder).unwrap().next().unwrap().unwrap().path();
    fs::remove_file(&file).unwrap();
    let gone = world.run(&["train-set", "replay", "training.mortality@1"]);
    let name = file.file_name().unwrap().to_str().unwrap();
    assert!(gone.code == 4 && gone.err.contains(name), "{}: {}", gone.code, gone.err);
}

#[test]
fn what_cannot_be_a_training_set_is_refused_where_it_stands() {
    let world = World::published();
    let file = world.project().join("training/mortality.sql");
    let text = fs::read_to_string(&file).unwrap();
    let refused = |from: &str, to: &str| {
        assert!(text.contains(from));
        fs::write(&file, text.replace(from, to)).unwrap();
        let ran = world.run(&["train-set", "build", "training.mortality", "-m", "no"]);
        assert_eq!(ran.code, 1, "{to}: {}", ran.err);
        ran.err
    };
    for (from, to, told) in [
        ("features.lab_trend.*", "features.patient_profile (bmi)", "does not say when its rows became known"),
        ("features.lab_trend.*", "features.lab_trend (id)", "column `id` appears twice"),
        ("LABEL died_2y", "LABEL died_3y", "`died_3y` is not a column of the spine"),
        ("features.lab_trend.*", "raw.labs (value)", "is not a feature view"),
        ("ENTITY patient", "ENTITY visit", "is about `patient`, the spine about `visit`"),
        ("train 80, test 20", "train 0", "a weight is from 1"),
    ] {
        let err = refused(from, to);
        assert!(err.contains(told), "{to}: {err}");
    }
    let ran = world.run(&["train-set", "replay", "features.lab_trend@1"]);
    assert!(ran.err.contains("is not a training set"), "{}", ran.err);
}
