//! Runs the searches of `custody_ledger::campaign` for long, in shards, and goes on where it stopped.
//!
//! ```text
//! cargo run --release -p custody-ledger --features sim --example campaign -- SEARCH FILE SHARDS [JOBS]
//! ```
//!
//! SEARCH is one of those in `SEARCHES`; FILE takes a line for each shard that is done, and a shard that has one is not
//! run again. Ends with a sum over all shards in FILE, or with the first finding and exit code 1.
#![forbid(unsafe_code)]

use custody_ledger::campaign::{Finding, mutations, schedules};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{File, OpenOptions},
    io::Write,
    process::ExitCode,
    sync::{Mutex, PoisonError},
    time::Instant,
};

/// What a shard counted, by name.
type Counts = BTreeMap<String, u64>;

/// A search: its name, and how it runs one shard out of so many.
type Search = (&'static str, fn(u64, u64) -> Result<Counts, Finding>);

const SEARCHES: [Search; 4] = [
    // 200 mutations of each ledger of 1,000 entries.
    ("mutations", |shard, _| Ok(mutation_counts(&mutations::shard(shard, 1_000, 200)?))),
    // 1,000 schedules of reads, faults and crashes.
    ("schedules", |shard, _| {
        let counts = schedules::shard(shard, 1_000)?;
        Ok(counts.named().into_iter().map(|(name, n)| (name.to_string(), n)).collect())
    }),
    // Every bit of a ledger of 64 entries in segments of 64 KiB, cut into so many parts.
    ("exhaustive", |shard, shards| {
        let flipped = mutations::exhaustive(64, 64 * 1024, shard, shards)?;
        Ok([("bits flipped".to_string(), flipped)].into())
    }),
    // The same with segments of 4 KiB: nearly no zeros.
    ("exhaustive-small", |shard, shards| {
        let flipped = mutations::exhaustive(64, 4 * 1024, shard, shards)?;
        Ok([("bits flipped".to_string(), flipped)].into())
    }),
];

fn mutation_counts(counts: &mutations::Counts) -> Counts {
    let mut out = Counts::from([("sound ledgers, no alarm".to_string(), counts.sound)]);
    for (mutation, (runs, tampered)) in &counts.mutations {
        *out.entry("mutations detected".into()).or_default() += runs;
        out.insert(format!("{mutation:?}"), *runs);
        out.insert(format!("{mutation:?}, tampered"), *tampered);
    }
    out
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            let _ = writeln!(std::io::stderr(), "{why}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), String> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let usage = "campaign SEARCH FILE SHARDS [JOBS]";
    let [search, path, shards, jobs @ ..] = &arguments[..] else { return Err(usage.into()) };
    let (_, search) = SEARCHES.iter().find(|(name, _)| name == search).ok_or("no such search")?;
    let number = |text: &String| text.parse::<u64>().map_err(|e| format!("`{text}`: {e}"));
    let (shards, jobs) = (number(shards)?, jobs.first().map_or(Ok(1), number)?);

    let before = std::fs::read_to_string(path).unwrap_or_default();
    let mut total = Counts::new();
    let mut done = BTreeSet::new();
    for line in before.lines() {
        // A line that was being written when the machine stopped is run again.
        if let Some((shard, counts)) = read_line(line) {
            done.insert(shard);
            add(&mut total, counts);
        }
    }
    let fail = |e: std::io::Error| format!("`{path}`: {e}");
    let mut file = OpenOptions::new().create(true).append(true).open(path).map_err(fail)?;
    if !before.is_empty() && !before.ends_with('\n') {
        file.write_all(b"\n").map_err(fail)?;
    }
    let open: Vec<u64> = (0..shards).filter(|shard| !done.contains(shard)).rev().collect();
    let (began, count) = (Instant::now(), open.len());
    let shared = Mutex::new((open, file, total, None::<String>));
    std::thread::scope(|scope| {
        for _ in 0..jobs {
            scope.spawn(|| work(*search, shards, &shared));
        }
    });
    let (_, _, total, failed) = shared.into_inner().unwrap_or_else(PoisonError::into_inner);
    let mut out = std::io::stdout();
    for (name, number) in &total {
        let _ = writeln!(out, "{number:>12}  {name}");
    }
    let _ = writeln!(out, "{count} shards in {} s", began.elapsed().as_secs());
    failed.map_or(Ok(()), Err)
}

/// Shards still to run, the file, the sum, and what was found.
type Shared = Mutex<(Vec<u64>, File, Counts, Option<String>)>;

fn work(search: fn(u64, u64) -> Result<Counts, Finding>, shards: u64, shared: &Shared) {
    loop {
        let shard = {
            let mut state = shared.lock().unwrap_or_else(PoisonError::into_inner);
            let Some(shard) = state.0.pop().filter(|_| state.3.is_none()) else { return };
            shard
        };
        let counted = search(shard, shards);
        let mut state = shared.lock().unwrap_or_else(PoisonError::into_inner);
        match counted {
            Ok(counts) => {
                let fields: Vec<String> = counts.iter().map(|(name, n)| format!("{name}={n}")).collect();
                let written = writeln!(state.1, "{shard}\t{}\t.", fields.join("\t"));
                if let Err(e) = written {
                    state.3 = Some(e.to_string());
                }
                add(&mut state.2, counts);
            }
            Err(finding) => state.3 = Some(finding.to_string()),
        }
    }
}

/// `shard TAB name=count TAB … TAB .`
fn read_line(line: &str) -> Option<(u64, Counts)> {
    let mut fields = line.strip_suffix("\t.")?.split('\t');
    let shard = fields.next()?.parse().ok()?;
    let count = |field: &str| field.rsplit_once('=').and_then(|(name, n)| Some((name.to_string(), n.parse().ok()?)));
    Some((shard, fields.map(count).collect::<Option<Counts>>()?))
}

fn add(total: &mut Counts, counts: Counts) {
    counts.into_iter().for_each(|(name, n)| *total.entry(name).or_default() += n);
}
