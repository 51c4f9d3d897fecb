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

/// Everything that decided the build moves on: late data, columns of views and sources, policies, owners, who asks.
#[test]
fn a_replay_goes_by_the_record() {
    let world = World::published();
    world.run(&["train-set", "build", "training.mortality", "-m", "first model"]).code(0);
    let replays = |by: &[&str]| {
        let replayed = world.run(&[by, &["train-set", "replay", "training.mortality@1"]].concat());
        assert!(replayed.err.contains("byte for byte the files published"), "{}", replayed.err);
        replayed.code(0);
    };
    let edit = |file: &str, pairs: &[(&str, &str)]| {
        let file = world.project().join(file);
        let mut text = fs::read_to_string(&file).unwrap();
        for (from, to) in pairs {
            assert!(text.contains(from), "{from}: {text}");
            text = text.replace(from, to);
        }
        fs::write(&file, text).unwrap();
    };
    // Late data, and landmarks that were not there.
    for (source, text) in [
        (
            "labs",
            "SELECT id, ts + INTERVAL '1 hour' AS ts, test, value * 2 AS value, loaded_at FROM raw.labs LIMIT 900",
        ),
        ("landmarks", "SELECT id, ts + INTERVAL '1 hour' AS ts, NOT died_2y AS died_2y FROM raw.landmarks LIMIT 90"),
    ] {
        let file = world.project().join(format!("warehouse/raw/{source}/late.parquet"));
        world.run(&["--format", "parquet", "sql", "-c", text, "--output", file.to_str().unwrap()]).code(0);
    }
    world.run(&["publish", "-m", "late data"]).code(0);
    replays(&[]);
    // Another schema, of the view, the training set and a source.
    edit(
        "features/lab_trend.sql",
        &[("hdl_mean_2y", "hdl_mean"), ("  COMMENT", "  COLUMN hdl_mean RENAMED FROM hdl_mean_2y\n  COMMENT")],
    );
    edit("features/risk_inputs.sql", &[("hdl_mean_2y", "hdl_mean")]);
    edit(
        "training/mortality.sql",
        &[("lab_trend.*", "lab_trend (hdl_mean AS good, chol_mean_2y)"), ("OWNER hepatology", "OWNER cardiology")],
    );
    edit(
        "sources/clinic.sql",
        &[("  consent BOOLEAN,\n", "  consent BOOLEAN NOT NULL,\n"), ("OWNER clinic", "OWNER registry")],
    );
    world.run(&["publish", "-m", "other columns", "--accept-breaking"]).code(0);
    world.run(&["train-set", "build", "training.mortality", "-m", "second model", "--accept-breaking"]).code(0);
    replays(&[]);
    // Policies under which nobody could build it.
    let policies = world.project().join("policies/clinic.cedar");
    let forbidden = "@id(\"closed\")\nforbid (principal, action, resource in Table::\"raw.landmarks\");\n";
    fs::write(&policies, fs::read_to_string(&policies).unwrap() + forbidden).unwrap();
    world.run(&["policy", "apply", "-m", "landmarks are closed"]).code(0);
    world.run(&["sql", "-c", "SELECT * FROM raw.landmarks LIMIT 1"]).code(6);
    replays(&[]);
    replays(&["--as", "trainer", "--purpose", "model_training"]);
    // Whoever replays stands in the ledger beside whom it was replayed as, and no such grant is asked of the replayer.
    let differences = world.run(&["policy", "diff", "1", "2"]);
    assert!(!differences.err.contains("does not come out again"), "{}", differences.err);
    world.run(&["ledger", "verify"]).code(8);
}

#[test]
fn what_is_changed_or_gone_is_named_and_what_is_referenced_is_never_swept() {
    let world = World::published();
    let folder = world.project().join("warehouse/data");
    let files = || {
        let listed =
            std::process::Command::new("find").args([folder.to_str().unwrap(), "-type", "f"]).output().unwrap();
        let mut files: Vec<_> =
            String::from_utf8(listed.stdout).unwrap().lines().map(std::path::PathBuf::from).collect();
        files.sort();
        files
    };
    let swept = || world.run(&["gc", "--dry-run"]).code(0);
    assert_eq!(swept(), "");
    let before = files();
    world.run(&["train-set", "build", "training.mortality", "-m", "first model"]).code(0);
    let ours: Vec<_> = files().into_iter().filter(|f| !before.contains(f)).collect();
    let (commit, data) = (
        ours.iter().find(|f| f.ends_with("00000000000000000000.json")),
        ours.iter().find(|f| f.extension().is_some_and(|e| e == "parquet")),
    );
    let (commit, data) = (commit.unwrap(), data.unwrap());
    let verify = || {
        let ran = world.run(&["train-set", "verify", "training.mortality@1"]);
        assert_eq!(ran.code, 4, "{}{}", ran.out, ran.err);
        ran.out
    };
    let (bytes, text) = (fs::read(data).unwrap(), fs::read_to_string(commit).unwrap());
    let mut changed = bytes.clone();
    changed[bytes.len() / 2] ^= 1;
    fs::write(data, &changed).unwrap();
    assert!(verify().contains("part-00000.parquet: its SHA3-256 is"));
    // A commit that vouches for the changed file is held against the ledger.
    let digest = |bytes: &[u8]| custody_store::sha3(bytes).to_string();
    fs::write(commit, text.replace(&digest(&bytes), &digest(&changed))).unwrap();
    assert!(verify().contains("part-00000.parquet: commit 0 says of it what no run recorded"));
    fs::write(commit, &text).unwrap();
    fs::remove_file(data).unwrap();
    assert!(verify().contains("part-00000.parquet: the file is gone"));
    fs::write(data, &bytes).unwrap();
    world.run(&["train-set", "verify", "training.mortality@1", "--deep"]).code(0);
    // Without its commit the folder holds nothing that a version's log names. The ledger does.
    fs::remove_file(commit).unwrap();
    assert_eq!(swept(), "");
    assert!(verify().contains("no version"));
    fs::write(commit, &text).unwrap();
    // What nobody recorded is listed once it is old enough, or its run has ended.
    let beside = data.parent().unwrap().parent().unwrap().join("01900000-0000-7000-8000-000000000001");
    fs::create_dir(&beside).unwrap();
    fs::write(beside.join("part-00000.parquet"), "left").unwrap();
    let listed = swept();
    assert!(
        listed.starts_with("4 data/")
            && listed.trim().ends_with("-000000000001/part-00000.parquet")
            && listed.lines().count() == 1,
        "{listed}"
    );
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

/// A sample is by hash: the same rows every time, whole patients where it is by patient, and another seed another sample.
#[test]
fn a_sample_is_the_same_every_time() {
    let world = World::published();
    let file = world.project().join("training/mortality.sql");
    let text = fs::read_to_string(&file).unwrap();
    let build = |clause: &str| {
        fs::write(&file, text.replace("SPLIT BY", &format!("{clause}\n  SPLIT BY"))).unwrap();
        world.run(&["train-set", "build", "training.mortality", "-m", "a sample"]).code(0);
        let counts = "SELECT count(*) AS n, count(DISTINCT id) AS ids, sum(CASE WHEN split = 'train' THEN 1 ELSE 0 END) AS train FROM training.mortality";
        let counts = world.run(&["--format", "csv", "sql", "-c", counts]).code(0);
        counts.lines().nth(1).unwrap().split(',').map(|n| n.parse().unwrap()).collect::<Vec<u64>>()
    };
    let all = build("");
    let third = build("SAMPLE BY HASH (id) 1 IN 3 SEED 3");
    assert!(all[0] / 5 < third[0] && third[0] < all[0] / 2, "{third:?} of {all:?}");
    assert!(third[2] * 10 > third[0] * 6 && third[2] < third[0], "the split of a sample is even: {third:?}");
    // Every landmark of a patient, or none.
    let parts = "SELECT count(*) AS n FROM training.mortality AS m FULL JOIN (SELECT DISTINCT id FROM training.mortality) AS s ON s.id = m.id \
                 FULL JOIN raw.landmarks AS l ON l.id = s.id AND l.ts = m.ts WHERE s.id IS NOT NULL AND l.id IS NULL";
    assert_eq!(world.run(&["--format", "csv", "sql", "-c", parts]).code(0), "n\n0\n");
    world.run(&["train-set", "replay", "training.mortality@2"]).code(0);
    let other = build("SAMPLE BY HASH (id) 1 IN 3 SEED 4");
    assert_ne!(third, other);
    let whole = "SELECT count(*) AS n FROM training.mortality VERSION 2 AS a JOIN training.mortality VERSION 3 AS b ON a.id = b.id AND a.ts = b.ts";
    let both: u64 =
        world.run(&["--format", "csv", "sql", "-c", whole]).code(0).lines().nth(1).unwrap().parse().unwrap();
    assert!(both < third[0] * 2 / 3, "{both}");
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
