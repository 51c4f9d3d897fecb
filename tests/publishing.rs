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

/// Publishes and kills the process at a moment; `false`: it had ended before.
fn kill_publish(world: &World, mut now: impl FnMut() -> bool) -> bool {
    let mut child = world.command().args(["-q", "publish", "-m", "to be killed"]).spawn().unwrap();
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
        kill_publish(&world, || began.elapsed() >= at);
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
        killed += usize::from(kill_publish(&world, || files(&folder) >= count));
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
            let world = World::fresh();
            let mut command = std::process::Command::new("strace");
            world.environment(&mut command);
            let inject = format!("inject={call}:signal=SIGKILL:when={number}");
            command.args(["-f", "-qq", "-o", "/dev/null", "-e", &inject, env!("CARGO_BIN_EXE_custody")]);
            let ended = command.args(["-q", "publish", "-m", "to be killed"]).output().unwrap().status;
            recovers(&world, &complete);
            if ended.success() {
                break;
            }
            killed += 1;
        }
        println!("{call}: killed before {killed} calls, each time whole versions only");
    }
}

/// One of two publishers of a view makes the version; the other finds it there, or is told who was first.
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
