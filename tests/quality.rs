//! Expectations by command: nothing published, rows in quarantine, a warning; and what policy makes of quarantined rows.

use crate::support::World;
use std::fs;

/// A published demo whose patient profiles promise something.
fn promising(clauses: &str) -> World {
    let world = World::fresh();
    let file = world.project().join("features/patient_profile.sql");
    let text = fs::read_to_string(&file).unwrap();
    fs::write(&file, text.replace("  OWNER hepatology\n", &format!("  OWNER hepatology\n{clauses}"))).unwrap();
    world
}

fn number(text: &str) -> u64 {
    text.lines().nth(1).unwrap().parse().unwrap()
}

const QUARANTINE: &str = "  EXPECT bmi < 27 ON VIOLATION QUARANTINE\n  EXPECT UNIQUE (id) ON VIOLATION FAIL\n";

#[test]
fn rows_that_break_an_expectation_are_set_aside_counted_and_governed_as_their_view() {
    let world = promising(QUARANTINE);
    let published = world.run(&["publish", "-m", "first"]);
    assert!(published.err.contains("rows break `bmi < 27` (quarantine)"), "{}", published.err);
    published.code(0);
    let ask = |text: &str| world.run(&["--format", "csv", "sql", "-c", text]).code(0);
    let (all, kept, aside) = (
        number(&ask("SELECT count(*) AS n FROM raw.patients")),
        number(&ask("SELECT count(*) AS n FROM features.patient_profile WHERE bmi < 27 OR bmi IS NULL")),
        number(&ask("SELECT count(*) AS n FROM quarantine.patient_profile VERSION 1 WHERE bmi >= 27")),
    );
    assert!(aside > 0 && kept > 0 && kept + aside == all, "{kept} + {aside} of {all}");
    assert_eq!(number(&ask("SELECT count(*) AS n FROM features.patient_profile")), kept);
    let results = ask(
        "SELECT version, ordinal, expectation, action, checked, violations, passed FROM system.quality.expectations ORDER BY ordinal",
    );
    let expected = format!(
        "version,ordinal,expectation,action,checked,violations,passed\n1,1,bmi < 27,quarantine,{all},{aside},false\n1,2,UNIQUE (id),fail,{all},0,true\n"
    );
    assert_eq!(results, expected);

    // Row sets, guards and masks of the view hold for what was set aside, read alone or beside the view.
    let regions = world.sql("researcher", "SELECT DISTINCT region, consent FROM quarantine.patient_profile");
    assert_eq!(regions, "region,consent\neu,true\n");
    let masked = "SELECT count(*) AS n FROM quarantine.patient_profile WHERE birth_date <> date_trunc('year', birth_date) OR length(national_id) < 20";
    assert_eq!(number(&world.sql("researcher", masked)), 0);
    let both =
        "SELECT count(*) AS n FROM quarantine.patient_profile AS q JOIN features.patient_profile AS f ON f.id = q.id";
    assert_eq!(number(&world.sql("researcher", both)), 0);
    let hidden = world.run(&["--as", "billing", "sql", "-c", "SELECT * FROM quarantine.patient_profile"]);
    let nowhere = world.run(&["--as", "billing", "sql", "-c", "SELECT * FROM quarantine.no_such_table_x"]);
    assert_eq!((hidden.code, nowhere.code), (6, 6));
    let plain = |ran: crate::support::Ran| ran.err.lines().next().unwrap().to_string();
    assert_eq!(plain(hidden), plain(nowhere));
    let seen =
        world.sql("researcher", "SELECT expectation, violations FROM system.quality.expectations ORDER BY ordinal");
    assert!(!seen.contains(&aside.to_string()), "{seen}");
    // The ledger tells one from the other.
    let audit = world.sql("auditor", 
        "SELECT DISTINCT dataset FROM system.access.audit WHERE principal LIKE '%researcher%' AND dataset LIKE '%profile' ORDER BY dataset",
    );
    assert_eq!(audit, "dataset\nfeatures.patient_profile\nquarantine.patient_profile\n");

    // No feature is made of it; verify and gc know it.
    let file = world.project().join("features/aside.sql");
    fs::write(&file, "CREATE FEATURE VIEW features.aside ENTITY patient (id) EVENT TIME ts AS SELECT id, ts FROM quarantine.patient_profile").unwrap();
    let refused = world.run(&["publish", "-m", "no", "-s", "aside"]);
    assert!(refused.code == 1 && refused.err.contains("cannot read `quarantine.patient_profile`"), "{}", refused.err);
    fs::remove_file(file).unwrap();
    world.run(&["verify", "features.patient_profile@1", "--deep"]).code(0);
    assert_eq!(world.run(&["gc", "--dry-run"]).code(0), "");
    // What decides about quarantine decides which rows there are.
    let decides = "SELECT count(*) AS n FROM system.lineage.edges AS e JOIN system.catalog.columns AS c ON c.node = e.source_node \
                   WHERE e.subtype = 'FILTER' AND c.dataset = 'raw.patients' AND c.column_name = 'weight'";
    assert!(number(&ask(decides)) > 0);
    let again = world.run(&["publish", "-m", "again"]);
    assert!(again.err.contains("nothing changed"), "{}", again.err);
    world.run(&["ledger", "verify"]).code(8);
    let folder = world.project().join("warehouse/quarantine");
    let part =
        std::process::Command::new("find").args([folder.to_str().unwrap(), "-name", "*.parquet"]).output().unwrap();
    fs::remove_file(String::from_utf8(part.stdout).unwrap().trim()).unwrap();
    let found = world.run(&["verify", "features.patient_profile@1"]);
    assert!(
        found.code == 4 && found.out.contains("quarantine/") && found.out.contains("the file is gone"),
        "{}",
        found.out
    );
}

#[test]
fn what_fails_publishes_nothing_and_a_warning_publishes_all() {
    let world = promising("  EXPECT bmi < 27 ON VIOLATION FAIL\n");
    let failed = world.run(&["publish", "-m", "first", "-s", "patient_profile"]);
    assert_eq!(failed.code, 1, "{}", failed.err);
    for told in ["C1147", "rows break `bmi < 27`", "patient_profile.sql:5"] {
        assert!(failed.err.contains(told), "{told}: {}", failed.err);
    }
    world.run(&["sql", "-c", "SELECT * FROM features.patient_profile"]).code(6);
    world.run(&["run", "-s", "patient_profile"]).code(1);

    let world = promising("  EXPECT bmi < 27 ON VIOLATION WARN\n");
    let warned = world.run(&["publish", "-m", "first", "-s", "patient_profile"]);
    assert!(warned.err.contains("warning: features.patient_profile: "), "{}", warned.err);
    warned.code(0);
    world.run(&["sql", "-c", "SELECT * FROM quarantine.patient_profile"]).code(6);
    let text = "SELECT count(*) AS n FROM features.patient_profile AS f FULL JOIN raw.patients AS p ON p.id = f.id WHERE f.id IS NULL OR p.id IS NULL";
    assert_eq!(number(&world.run(&["--format", "csv", "sql", "-c", text]).code(0)), 0);
}

/// What a source promises is asked of its snapshot before anything is computed of it, as whoever publishes.
#[test]
fn a_source_that_breaks_its_promise_is_published_from_no_more() {
    let world = World::fresh();
    let file = world.project().join("sources/clinic.sql");
    let declared = fs::read_to_string(&file).unwrap();
    let labs = declared.find("CREATE SOURCE raw.labs").unwrap();
    let owner = labs + declared[labs..].find("  OWNER").unwrap();
    let promising = |clauses: &str| {
        let mut text = declared.clone();
        text.insert_str(owner, &format!("  {clauses}\n"));
        fs::write(&file, text).unwrap();
        world.run(&["publish", "-m", "labs", "-s", "lab_trend"])
    };
    let broken = promising("EXPECT value < 10 ON VIOLATION FAIL EXPECT id > 0 ON VIOLATION FAIL");
    assert_eq!(broken.code, 1, "{}", broken.err);
    for told in ["C1147", "`raw.labs@1` does not hold", "rows break `value < 10`"] {
        assert!(broken.err.contains(told), "{told}: {}", broken.err);
    }
    assert!(!broken.err.contains("`id > 0`"), "{}", broken.err);
    world.run(&["sql", "-c", "SELECT * FROM features.lab_trend"]).code(6);
    world.run(&["run", "-s", "lab_trend"]).code(1);
    assert_eq!(promising("EXPECT UNIQUE (test) ON VIOLATION FAIL").code, 1);
    for (wrong, code) in [
        ("EXPECT value < 10 ON VIOLATION QUARANTINE", "C1124"),
        ("EXPECT value ON VIOLATION FAIL", "C1145"),
        ("EXPECT UNIQUE (nothing) ON VIOLATION FAIL", "C1146"),
    ] {
        let refused = promising(wrong);
        assert!(refused.code == 1 && refused.err.contains(code), "{wrong}: {}", refused.err);
    }
    let warned = promising(
        "EXPECT value < 10 ON VIOLATION WARN EXPECT UNIQUE (id, ts, test, value, loaded_at) ON VIOLATION WARN EXPECT value > -1 ON VIOLATION FAIL",
    );
    assert!(warned.err.contains("warning: raw.labs: ") && warned.err.contains("break `value < 10`"), "{}", warned.err);
    warned.code(0);
    // The questions are reads, and recorded as such.
    let asked = "SELECT count(*) AS n FROM system.access.audit WHERE dataset = 'raw.labs' AND action = 'read'";
    assert!(number(&world.run(&["--format", "csv", "sql", "-c", asked]).code(0)) >= 3);
}

/// A draft leaves out what goes to quarantine; its publish computes again rather than lose those rows. Partitions decide nothing.
#[test]
fn a_draft_never_hides_what_its_publish_sets_aside() {
    let roots = |world: &World| {
        let text =
            "SELECT dataset, content_root FROM system.catalog.versions WHERE dataset = 'features.patient_profile'";
        let read = "SELECT count(*) AS n, sum(id) AS ids FROM quarantine.patient_profile";
        [text, read].map(|text| world.run(&["--format", "csv", "sql", "-c", text]).code(0))
    };
    let (drafted, straight) = (promising(QUARANTINE), promising(QUARANTINE));
    drafted.run(&["run", "-s", "patient_profile"]).code(0);
    drafted.run(&["publish", "-m", "first", "-s", "patient_profile"]).code(0);
    let settings = straight.project().join("custody.toml");
    fs::write(&settings, fs::read_to_string(&settings).unwrap() + "\n[limits]\npartitions = 8\n").unwrap();
    straight.run(&["publish", "-m", "first", "-s", "patient_profile"]).code(0);
    assert_eq!(roots(&drafted), roots(&straight));
}

/// The profile of a version is made while it is written: its counts are those of the rows, no cell is of few rows, and it
/// is told to whoever could count them.
#[test]
fn profiles_count_what_is_published_and_are_governed_as_the_columns() {
    let world = promising(QUARANTINE);
    world.run(&["publish", "-m", "first"]).code(0);
    let ask = |text: &str| world.run(&["--format", "csv", "sql", "-c", text]).code(0);
    let profile = "SELECT row_count, null_count, distinct_count, round(mean, 6) AS mean FROM system.quality.profiles WHERE dataset = 'features.patient_profile' AND column_name = 'bmi'";
    let counted = "SELECT count(*) AS row_count, count(*) - count(bmi) AS null_count, count(DISTINCT bmi) AS distinct_count, round(avg(bmi), 6) AS mean FROM features.patient_profile";
    assert_eq!(ask(profile), ask(counted));
    let few = "SELECT count(*) AS n FROM system.quality.profile_cells WHERE row_count < 10";
    assert_eq!(number(&ask(few)), 0);
    // Every row is in a cell, is NULL, or is one of a few.
    let whole = "SELECT count(*) AS n FROM system.quality.profiles AS p LEFT JOIN (SELECT dataset, version, ordinal, sum(row_count) AS n \
                 FROM system.quality.profile_cells GROUP BY dataset, version, ordinal) AS c USING (dataset, version, ordinal) \
                 WHERE coalesce(c.n, 0) + coalesce(p.null_count, 0) + p.small_rows <> p.row_count";
    assert_eq!(number(&ask(whole)), 0);
    let cells = "SELECT count(*) AS n FROM system.quality.profile_cells WHERE column_name = 'region'";
    assert!(number(&ask(cells)) > 1, "{}", ask(cells));
    // Quarantined rows are not in it.
    let quarantined = "SELECT count(*) AS n FROM system.quality.profile_cells WHERE dataset = 'features.patient_profile' AND column_name = 'bmi' AND CAST(from_value AS DOUBLE) >= 27";
    assert_eq!(number(&ask(quarantined)), 0);
    // By column and rung; an auditor sees counts and no values.
    for principal in ["researcher", "billing", "auditor"] {
        let seen = world.sql(
            principal,
            "SELECT DISTINCT column_name FROM system.quality.profiles WHERE dataset = 'features.patient_profile'",
        );
        assert_eq!(seen, "column_name\n", "{principal}");
    }
    let shown = world.run(&["--format", "csv", "show", "features.patient_profile@1"]).code(0);
    assert!(shown.contains("bmi < 27,quarantine") && shown.contains("distinct_count"), "{shown}");
    world.run(&["show", "features.none"]).code(6);
    world.run(&["ledger", "verify"]).code(8);

    // A draft that is adopted, and any number of partitions, give the same.
    let cells = "SELECT dataset, version, ordinal, from_value, to_value, row_count FROM system.quality.profile_cells ORDER BY dataset, version, ordinal, cell";
    let first = ask(cells);
    let other = promising(QUARANTINE);
    let settings = other.project().join("custody.toml");
    fs::write(&settings, fs::read_to_string(&settings).unwrap() + "\n[limits]\npartitions = 8\n").unwrap();
    other.run(&["run"]).code(0);
    other.run(&["publish", "-m", "first"]).code(0);
    assert_eq!(other.run(&["--format", "csv", "sql", "-c", cells]).code(0), first);
}

#[test]
fn versions_are_compared_and_readers_of_a_breaking_change_are_named() {
    let world = World::published();
    let file = world.project().join("features/lab_trend.sql");
    let text = fs::read_to_string(&file).unwrap();
    fs::write(&file, text.replace("'730 days'", "'30 days'")).unwrap();
    world.run(&["publish", "-m", "shorter windows"]).code(0);
    let told = world.run(&["diff", "features.lab_trend@1..@2"]).code(5);
    assert!(told.starts_with("features.lab_trend 1 -> 2  data\n  rows "), "{told}");
    assert!(told.contains("hdl_mean_2y") && told.contains("(PSI ") && told.contains("mean "), "{told}");
    let id = told.lines().find(|l| l.trim_start().starts_with("id ")).unwrap();
    assert!(id.ends_with("stable (PSI 0.000, KS 0.000)"), "{told}");
    let drift = "SELECT version, base_version, column_name, state FROM system.quality.drift WHERE dataset = 'features.lab_trend' AND column_name = 'id'";
    let drift = world.run(&["--format", "csv", "sql", "-c", drift]).code(0);
    assert_eq!(drift, "version,base_version,column_name,state\n2,1,id,stable\n");
    // Whoever sees part of the rows, or a column masked, is told which columns there are, and not what is in them.
    let profile = world.project().join("features/patient_profile.sql");
    let before = fs::read_to_string(&profile).unwrap();
    fs::write(&profile, before.replace("AS bmi", "AS bmi, weight * 2 AS twice")).unwrap();
    world.run(&["publish", "-m", "more", "-s", "patient_profile"]).code(0);
    let all = world.run(&["diff", "features.patient_profile@1..@2"]).code(5);
    assert!(all.contains("additive\n  rows ") && all.contains("+ twice") && all.contains("PSI"), "{all}");
    let part = world.run(&["--as", "researcher", "diff", "features.patient_profile@1..@2"]).code(5);
    assert!(part.contains("  bmi ") && !part.contains("  rows ") && !part.contains("PSI"), "{part}");
    world.run(&["--as", "billing", "diff", "features.lab_trend@1..@2"]).code(6);
    world.run(&["diff", "features.lab_trend@2..@2"]).code(0);
    world.run(&["diff", "features.lab_trend"]).code(2);

    let renamed = text.replace("AS hdl_mean_2y", "AS hdl_mean").replace("AS chol_mean_2y", "AS chol");
    fs::write(&file, renamed).unwrap();
    let refused = world.run(&["publish", "-m", "breaks", "-s", "lab_trend"]);
    for told in
        ["C1116", "would break its readers `features.risk_inputs`, `training.mortality`", "`hdl_mean_2y` is gone"]
    {
        assert!(refused.err.contains(told), "{told}: {}", refused.err);
    }
    assert_eq!(refused.code, 1);
    let planned = world.run(&["plan", "-s", "lab_trend"]).out;
    assert!(planned.contains("consumers features.risk_inputs, training.mortality"), "{planned}");
}

#[test]
fn tests_of_a_project_ask_as_stand_ins_and_say_what_is_otherwise() {
    let world = World::published();
    let file = world.project().join("tests/profile.slt");
    let text = "# Who sees which regions.\nconnection researcher\n\nquery\nSELECT DISTINCT region, consent\nFROM features.patient_profile\n----\neu true\n\n\
                connection billing\n\nquery error\nSELECT * FROM features.patient_profile\n----\nC6001 table `features.patient_profile` not found\n";
    fs::write(&file, text).unwrap();
    let ran = world.run(&["test"]);
    assert!(ran.err.contains("2 queries in 1 files: 0 answer otherwise"), "{}", ran.err);
    ran.code(0);
    fs::write(&file, text.replace("eu true", "us true").replace("query error", "query")).unwrap();
    let ran = world.run(&["test"]);
    assert_eq!(ran.code, 1, "{}", ran.err);
    for told in ["C1806", "row 1 is `eu true`, should be `us true`", "profile.slt:4", "the query fails: C6001"] {
        assert!(ran.err.contains(told), "{told}: {}", ran.err);
    }
    let user = world.beside("home/custody/config.toml");
    let allowed = fs::read_to_string(&user).unwrap();
    fs::write(&user, allowed.replace("impersonate = true", "impersonate = false")).unwrap();
    let ran = world.run(&["test"]);
    assert!(ran.code == 3 && ran.err.contains("you may not act as others, which these tests do"), "{}", ran.err);
    fs::write(&user, allowed).unwrap();
    fs::write(&file, "select 1\n").unwrap();
    let ran = world.run(&["test"]);
    assert!(ran.code == 1 && ran.err.contains("C1807") && ran.err.contains("profile.slt:1"), "{}", ran.err);
    let reads = world.sql("auditor", "SELECT count(*) AS n FROM system.access.audit WHERE principal = 'researcher' AND action = 'read' AND dataset = 'features.patient_profile'");
    assert_eq!(number(&reads), 2);
}
