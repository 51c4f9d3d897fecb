//! The runs: goldens, generated statements, TPC-H; and the long search.
//!
//! `cargo test -p custody-lineage -p custody-cli --lib perturb::search::long -- --ignored --nocapture` runs
//! `PERTURB_RUNS` (1,000,000) changes in shards of one seed each, on `PERTURB_THREADS` (2), and writes a line a shard to
//! `PERTURB_STATE` (`target/perturb.tsv`); begun again, it goes on after the shards that are there.

use super::*;
use crate::{rule, tests::queries, tpc};
use statements::{Generator, SCHEMA};
use std::{
    fs::{self, OpenOptions},
    io::Write,
    path::PathBuf,
    sync::Mutex,
};

const FILES: [&str; 5] = ["combined", "nodes", "expressions", "subqueries", "recursion"];

fn generated_schema() -> Vec<String> {
    SCHEMA.map(String::from).to_vec()
}

/// Goldens are run once; what was seen is then judged by the extractor without each of its rules in turn.
#[tokio::test]
async fn whatever_differs_in_a_golden_is_claimed_and_planted_bugs_are_found() {
    let (mut count, mut seen) = (Count::default(), vec![]);
    for file in FILES {
        let (ddl, queries) = queries(file);
        let bench = Bench::new(&ddl).await;
        for sql in &queries {
            let Some(prepared) = bench.prepare(sql).await else { continue };
            let observations = bench.check(&prepared, 1, Effort { tries: 5, changes: WAYS }, &mut count).await;
            seen.push((prepared, observations));
        }
    }
    println!("goldens: {}", count.text());
    assert!(count.violations.is_empty(), "{:#?}", count.violations);
    assert!(count.statements > 100 && count.witnessed.len() * 10 > count.claimed.len() * 8, "{}", count.text());

    let world = World::single();
    let found = |id: &'static str| {
        let bad = |prepared: &Prepared, observations: &[Observation]| {
            let Ok(lineage) = rule::without(id, || world.extract(&prepared.plan)) else { return 0 };
            observations.iter().filter(|o| judge(&lineage, o).is_err()).count()
        };
        seen.iter().map(|(prepared, observations)| bad(prepared, observations)).sum::<usize>()
    };
    let all: Vec<_> = rule::IDS.iter().map(|id| (*id, found(id))).collect();
    println!("planted bugs: {all:?}");
    let missed: Vec<_> = all.iter().filter(|(_, runs)| *runs == 0).collect();
    assert!(missed.is_empty(), "not found: {missed:?}");
    assert!(rule::IDS.is_sorted() && found("nothing") == 0);
}

/// A shard of generated statements: of some seed, about so many runs.
async fn shard(bench: &Bench, seed: u64, runs: usize, count: &mut Count) {
    let mut generator = Generator::new(seed);
    let begun = count.runs;
    for statement in 0..2_000 {
        if count.runs >= begun + runs {
            break;
        }
        let sql = generator.statement();
        let Some(prepared) = bench.prepare(&sql).await else { continue };
        bench.check(&prepared, seed + statement, Effort { tries: 4, changes: WAYS }, count).await;
    }
}

#[tokio::test]
async fn whatever_differs_in_a_generated_statement_is_claimed() {
    let bench = Bench::new(&generated_schema()).await;
    let mut count = Count::default();
    shard(&bench, 1, 2_500, &mut count).await;
    println!("seed 1: {}", count.text());
    assert!(count.violations.is_empty(), "{:#?}", count.violations);
    assert!(count.runs >= 2_500 && count.witnessed.len() * 10 > count.claimed.len() * 3, "{}", count.text());
}

/// TPC-H on data made for its queries; `seeds` data sets each.
async fn tpch(seeds: u64, changes: usize) -> Count {
    let (ddl, queries) = tpc::files("tpch");
    let bench = Bench::new(&ddl).await;
    let mut count = Count::default();
    for (name, sql) in &queries {
        let prepared = bench.prepare(sql).await.unwrap();
        let before = (count.claimed.len(), count.witnessed.len(), count.direct.len(), count.witnessed_direct());
        for seed in 1..=seeds {
            bench.check(&prepared, seed * 1_000, Effort { tries: 60, changes }, &mut count).await;
        }
        let now = (count.claimed.len(), count.witnessed.len(), count.direct.len(), count.witnessed_direct());
        println!(
            "{name}: {}/{} pairs, {}/{} direct",
            now.1 - before.1,
            now.0 - before.0,
            now.3 - before.3,
            now.2 - before.2
        );
    }
    count
}

#[tokio::test]
async fn claims_of_tpch_are_witnessed() {
    let count = tpch(2, 4).await;
    println!("TPC-H: {}", count.text());
    assert!(count.violations.is_empty(), "{:#?}", count.violations);
    assert!(count.witnessed_direct() * 10 >= count.direct.len() * 9, "{}", count.text());
    assert!(count.claimed.len() * 2 <= count.witnessed.len() * 3, "{}", count.text());
}

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|n| n.parse().ok()).unwrap_or(default)
}

/// Runs of one shard of the long search.
const SHARD: usize = 2_000;

#[test]
#[ignore = "the long search; see the module's header"]
fn long() {
    // DataFusion's panics are answers here.
    std::panic::set_hook(Box::new(|_| {}));
    let path = std::env::var_os("PERTURB_STATE").map_or_else(|| PathBuf::from("target/perturb.tsv"), PathBuf::from);
    let wanted = setting("PERTURB_RUNS", 1_000_000);
    let done: Vec<Vec<u64>> = fs::read_to_string(&path)
        .unwrap_or_default()
        .lines()
        .map(|l| l.split('\t').map(|n| n.parse().unwrap()).collect())
        .collect();
    let seeds: BTreeSet<u64> = done.iter().map(|l| l[0]).collect();
    let left: Vec<u64> = (1..=wanted.div_ceil(SHARD as u64)).filter(|s| !seeds.contains(s)).rev().collect();
    println!("{} shards are there, {} to do", seeds.len(), left.len());
    let left = Mutex::new(left);
    let file = Mutex::new(OpenOptions::new().create(true).append(true).open(&path).unwrap());
    std::thread::scope(|scope| {
        for _ in 0..setting("PERTURB_THREADS", 2) {
            let work = || {
                let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
                let bench = runtime.block_on(Bench::new(&generated_schema()));
                loop {
                    let Some(seed) = left.lock().unwrap().pop() else { break };
                    let mut count = Count::default();
                    runtime.block_on(shard(&bench, seed, SHARD, &mut count));
                    println!("seed {seed}: {}", count.text());
                    count.violations.iter().for_each(|v| println!("VIOLATION {v}"));
                    let numbers = [
                        seed,
                        count.statements as u64,
                        count.runs as u64,
                        count.claimed.len() as u64,
                        count.witnessed.len() as u64,
                        count.direct.len() as u64,
                        count.witnessed_direct() as u64,
                        count.violations.len() as u64,
                    ];
                    let line = numbers.map(|n| n.to_string()).join("\t");
                    writeln!(file.lock().unwrap(), "{line}").unwrap();
                }
            };
            std::thread::Builder::new().stack_size(16 << 20).spawn_scoped(scope, work).unwrap();
        }
    });
    let total = fs::read_to_string(&path).unwrap().lines().fold([0u64; 8], |mut sum, line| {
        sum.iter_mut().zip(line.split('\t')).for_each(|(s, n)| *s += n.parse::<u64>().unwrap());
        sum
    });
    println!(
        "in all: {} statements, {} runs: {} of {} pairs witnessed, {} of {} direct ones, {} violations",
        total[1], total[2], total[4], total[3], total[6], total[5], total[7]
    );
    assert_eq!(total[7], 0);
}
