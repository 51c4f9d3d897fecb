//! A publish that dies: no version or the whole version is visible, and the next publish completes.

use crate::support::{Ran, World};
use std::{
    fs,
    path::Path,
    process::Stdio,
    thread::sleep,
    time::{Duration, Instant},
};

/// What is published, in a form that does not depend on when: dataset, version, rows, content root.
fn published(world: &World) -> String {
    let text = "SELECT dataset, version, row_count, content_root FROM system.catalog.versions \
                WHERE dataset LIKE 'features.%' ORDER BY dataset, version";
    world.run(&["--format", "csv", "sql", "-c", text]).code(0)
}

/// How many files a folder holds, at any depth.
fn files(folder: &Path) -> usize {
    let Ok(entries) = fs::read_dir(folder) else { return 0 };
    entries
        .filter_map(Result::ok)
        .map(|e| if e.file_type().is_ok_and(|t| t.is_dir()) { files(&e.path()) } else { 1 })
        .sum()
}

const PUBLISH: &[&str] = &["-q", "publish", "-m", "to be killed"];

/// Runs a command and kills the process at a moment; `false`: it had ended before.
fn kill(world: &World, arguments: &[&str], mut now: impl FnMut() -> bool) -> bool {
    let mut child = world.command().args(arguments).spawn().unwrap();
    while child.try_wait().unwrap().is_none() {
        if now() {
            child.kill().unwrap();
            child.wait().unwrap();
            return true;
        }
        sleep(Duration::from_millis(1));
    }
    false
}

/// Whole versions only after a kill; then a publish completes to what an undisturbed one gives.
#[track_caller]
fn recovers(world: &World, complete: &str) -> usize {
    let left = published(world);
    for version in left.lines() {
        assert!(complete.contains(version), "after the kill there is {version}, which is not in\n{complete}");
    }
    for version in left.lines().skip(1) {
        let name = version.split(',').next().unwrap();
        world.run(&["verify", &format!("{name}@1"), "--deep"]).code(0);
    }
    world.run(&["publish", "-m", "again"]).code(0);
    assert_eq!(published(world), complete);
    let again = world.run(&["publish", "-m", "once more"]);
    assert!(again.err.contains("nothing changed"), "{}", again.err);
    world.run(&["ledger", "verify"]).code(8);
    left.lines().count() - 1
}

#[test]
fn a_killed_publish_leaves_whole_versions_only_whenever_it_dies() {
    let complete = published(&World::published());
    let began = Instant::now();
    World::fresh().run(&["publish", "-m", "undisturbed"]).code(0);
    let (whole, points) = (began.elapsed(), 12);
    let mut left = vec![];
    for point in 1..=points {
        let world = World::fresh();
        let began = Instant::now();
        let at = whole * point / (points + 1);
        kill(&world, PUBLISH, || began.elapsed() >= at);
        left.push(recovers(&world, &complete));
    }
    assert!(left.iter().any(|n| *n < 4), "no kill came before the last version: {left:?}");
}

#[test]
fn a_killed_publish_leaves_whole_versions_only_whatever_it_wrote_last() {
    let complete = published(&World::published());
    let (before, after) = (World::fresh(), World::published());
    let warehouse = |w: &World| w.project().join("warehouse");
    let (least, most) = (files(&warehouse(&before)), files(&warehouse(&after)));
    let mut killed = 0;
    for count in (least + 1..most).step_by(2) {
        let world = World::fresh();
        let folder = warehouse(&world);
        killed += usize::from(kill(&world, PUBLISH, || files(&folder) >= count));
        recovers(&world, &complete);
    }
    assert!(killed >= (most - least) / 4, "{killed} of {} were killed", (most - least) / 2);
}

/// Every system call that changes a file, as the one before which the process dies: a quarter of an hour. Needs strace.
/// `CUSTODY_SHARD=i/n` takes every n-th call.
#[test]
#[ignore = "takes a quarter of an hour; needs strace"]
fn a_killed_publish_leaves_whole_versions_only_at_every_system_call() {
    let complete = published(&World::published());
    at_every_system_call(PUBLISH, World::fresh, |world| {
        recovers(world, &complete);
    });
}

/// Kills a command before each system call that changes a file, in a world of its own, and looks at what is left.
fn at_every_system_call(arguments: &[&str], world: impl Fn() -> World, check: impl Fn(&World)) {
    let shard = std::env::var("CUSTODY_SHARD").unwrap_or_else(|_| "0/1".into());
    let (first, step) = shard.split_once('/').map(|(i, n)| (i.parse::<usize>().unwrap(), n.parse().unwrap())).unwrap();
    for call in [
        "fdatasync",
        "fsync",
        "rename,renameat,renameat2",
        "link,linkat",
        "mkdir,mkdirat",
        "unlink,unlinkat",
        "ftruncate",
        "openat",
        "pwrite64",
        "write",
    ] {
        let mut killed = 0;
        for number in (first + 1..).step_by(step) {
            let world = world();
            let mut command = std::process::Command::new("strace");
            world.environment(&mut command);
            let inject = format!("inject={call}:signal=SIGKILL:when={number}");
            command.args(["-f", "-qq", "-o", "/dev/null", "-e", &inject, env!("CARGO_BIN_EXE_custody")]);
            let ended = command.args(arguments).output().unwrap().status;
            check(&world);
            if ended.success() {
                break;
            }
            killed += 1;
        }
        println!("{call}: killed before {killed} calls, nothing half-visible after any");
    }
}

/// The demo with rows that go to quarantine.
fn quarantining() -> World {
    let world = World::fresh();
    let file = world.project().join("features/patient_profile.sql");
    let text = fs::read_to_string(&file).unwrap();
    let clause = "  OWNER hepatology\n  EXPECT bmi < 27 ON VIOLATION QUARANTINE\n";
    fs::write(&file, text.replace("  OWNER hepatology\n", clause)).unwrap();
    world
}

/// What is set aside, by value.
fn set_aside(world: &World) -> String {
    let text = "SELECT count(*) AS n, sum(id) AS ids, sum(bmi) AS bmi FROM quarantine.patient_profile VERSION 1";
    world.run(&["--format", "csv", "sql", "-c", text]).code(0)
}

/// A version that is visible has its quarantine, and a publish completes both.
#[track_caller]
fn recovers_with_quarantine(world: &World, complete: &str, aside: &str) {
    if published(world).contains("features.patient_profile,1") {
        assert_eq!(set_aside(world), aside);
    }
    recovers(world, complete);
    assert_eq!(set_aside(world), aside);
    world.run(&["verify", "features.patient_profile@1", "--deep"]).code(0);
}

#[test]
fn a_publish_killed_while_it_sets_rows_aside_shows_both_or_neither() {
    let undisturbed = quarantining();
    let folder = |w: &World, name: &str| w.project().join("warehouse").join(name);
    undisturbed.run(PUBLISH).code(0);
    let (complete, aside) = (published(&undisturbed), set_aside(&undisturbed));
    assert_eq!(files(&folder(&undisturbed, "quarantine")), 2);
    for count in 1..=2 {
        // After the rows' file, and after their commit: their view's commit and publish entry are still to come.
        let world = quarantining();
        let quarantine = folder(&world, "quarantine");
        kill(&world, PUBLISH, || files(&quarantine) >= count);
        recovers_with_quarantine(&world, &complete, &aside);
    }
}

#[test]
#[ignore = "takes a quarter of an hour; needs strace"]
fn a_publish_that_sets_rows_aside_killed_at_every_system_call() {
    let undisturbed = quarantining();
    undisturbed.run(PUBLISH).code(0);
    let (complete, aside) = (published(&undisturbed), set_aside(&undisturbed));
    at_every_system_call(PUBLISH, quarantining, |world| recovers_with_quarantine(world, &complete, &aside));
}

const REPLAY: &[&str] = &["-q", "train-set", "replay", "training.mortality@1"];

/// A demo with a training set, to be copied.
fn trained() -> World {
    let world = World::published();
    world.run(&["train-set", "build", "training.mortality", "-m", "first model"]).code(0);
    world
}

/// A replay that died changed nothing that anybody sees; another one gives the same bytes.
#[track_caller]
fn replays_after(world: &World, complete: &str) {
    assert_eq!(published(world), complete);
    world.run(&["verify", "training.mortality@1", "--deep"]).code(0);
    // What it left is its own, and may be another's that still runs: `gc` waits for a day.
    assert_eq!(world.run(&["gc", "--dry-run"]).code(0), "");
    world.run(REPLAY).code(0);
    world.run(&["ledger", "verify"]).code(8);
}

#[test]
fn a_killed_replay_leaves_nothing_that_is_seen() {
    let first = trained();
    let complete = published(&first);
    let began = Instant::now();
    first.run(REPLAY).code(0);
    let (whole, points, mut killed) = (began.elapsed(), 6, 0);
    for point in 1..=points {
        let world = trained();
        let began = Instant::now();
        let at = whole * point / (points + 1);
        killed += usize::from(kill(&world, REPLAY, || began.elapsed() >= at));
        replays_after(&world, &complete);
    }
    // While the file it computes again is open.
    let world = trained();
    let drafts = world.project().join("warehouse/draft");
    let least = files(&drafts);
    killed += usize::from(kill(&world, REPLAY, || files(&drafts) > least));
    replays_after(&world, &complete);
    assert!(killed > 3, "{killed} replays were killed");
}

#[test]
#[ignore = "takes a quarter of an hour; needs strace"]
fn a_replay_killed_at_every_system_call() {
    let complete = published(&trained());
    at_every_system_call(REPLAY, trained, |world| replays_after(world, &complete));
}

/// One of two publishers of a view makes the version; the other finds it there, or is told who was first.
/// A publish sorts by every column: it has to spill, and to find room for the merges, in a pool far smaller than its rows.
#[test]
fn rows_many_times_the_memory_are_published_to_the_same_root() {
    let roots: Vec<String> = ["", "\n[limits]\nmemory_bytes = 16000000\n"]
        .into_iter()
        .map(|limits| {
            let world = World::fresh();
            let settings = world.project().join("custody.toml");
            let text = fs::read_to_string(&settings).unwrap();
            assert!(!text.contains("[limits]"));
            fs::write(&settings, text + limits).unwrap();
            let view = "CREATE FEATURE VIEW features.wide ENTITY patient (id) EVENT TIME ts KNOWN TIME known_at AS \
                        SELECT (id * 7919 + n.value * 104729) % 100003 AS id, ts, loaded_at AS known_at, test, l.value, \
                        n.value AS n, test || ' of ' || n.value AS name, l.value / 7 AS part \
                        FROM raw.labs AS l CROSS JOIN generate_series(1, 45) AS n;";
            fs::write(world.project().join("features/wide.sql"), view).unwrap();
            world.run(&["-q", "publish", "-s", "features.wide", "-m", "much"]).code(0);
            published(&world)
        })
        .collect();
    assert!(roots[0].contains("features.wide,1,"), "{}", roots[0]);
    assert_eq!(roots[0], roots[1]);
}

#[test]
fn of_two_publishers_at_once_one_wins_and_the_other_says_so() {
    let complete = published(&World::published());
    let world = World::fresh();
    let publish = || world.command().args(["publish", "-m", "at once"]).stderr(Stdio::piped()).spawn().unwrap();
    let ended = [publish(), publish(), publish()].map(|child| Ran::from(child.wait_with_output().unwrap()));
    assert_eq!(published(&world), complete);
    let winners = ended.iter().map(|ran| ran.err.matches("Published ").count()).sum::<usize>();
    assert_eq!(winners, 4, "each version is published once: {ended:?}");
    for ran in &ended {
        let lost = ran.code == 7 && ran.err.contains("C7105") && ran.err.contains("was published by `local/tester`");
        assert!(ran.code == 0 || lost, "{ran:?}");
    }
    world.run(&["ledger", "verify"]).code(8);
    let again = world.run(&["publish", "-m", "once more"]);
    assert!(again.err.contains("nothing changed"), "{}", again.err);
}
