//! Chunks of a ledger that is read again, against the same entries kept in memory; conditions against rows.

use super::*;
use arrow::array::{Array, AsArray};
use arrow::datatypes::TimestampMicrosecondType;
use std::ops::Range;

const VIEWERS: &[&str] = &[
    "auditor",
    "investigator",
    "investigator with a ticket",
    "ann",
    "bob",
    "bob, open",
    "engineer",
    "operator",
    "nobody",
];

const ALL: std::ops::RangeInclusive<i64> = i64::MIN..=i64::MAX;

/// A ledger in memory.
#[derive(Debug)]
struct Kept(Vec<Arc<StoredEntry>>);

impl Entries for Kept {
    fn load(
        &self,
        writer: &WriterId,
        seqs: Range<u64>,
    ) -> Result<Vec<StoredEntry>, Box<dyn std::error::Error + Send + Sync>> {
        let mine = self.0.iter().filter(|e| e.writer == *writer && seqs.contains(&e.seq.0));
        let found: Vec<_> = mine.map(|e| StoredEntry::clone(e)).collect();
        if found.len() as u64 == seqs.end - seqs.start { Ok(found) } else { Err("gone".into()) }
    }
}

fn folded(mut fold: Fold, entries: &[Arc<StoredEntry>], at: u64) -> Snapshot {
    for some in entries.chunks(301) {
        // Who looks in between changes nothing.
        drop(fold.freeze(&catalog(at)).unwrap());
        some.iter().for_each(|e| fold.apply(e.clone()).unwrap());
    }
    fold.freeze(&catalog(at)).unwrap()
}

fn in_chunks(entries: &[Arc<StoredEntry>], rows: usize) -> Fold {
    Fold::in_chunks(Arc::new(Kept(entries.to_vec())), rows)
}

#[test]
fn tables_of_a_ledger_read_again_are_those_of_one_in_memory() {
    let entries: Vec<_> = cli().into_iter().chain(serve()).chain(busy(900, 7)).collect();
    // In another order of arrival chunks are sealed before the outcomes of another chain have come.
    let mut mixed = entries.clone();
    mixed.sort_by_key(|e| e.seq);
    for at in [3, 4] {
        let kept = folded(Fold::new(), &entries, at);
        for (order, rows) in [(&entries, 1), (&entries, 3), (&mixed, 4), (&mixed, 64)] {
            let again = folded(in_chunks(&entries, rows), order, at);
            for who in VIEWERS {
                let (again, kept) = (everything(&again, who), everything(&kept, who));
                let differs = again.lines().zip(kept.lines()).find(|(a, b)| a != b);
                assert_eq!(differs, None, "{who} at {at}, chunks of {rows} rows");
                assert_eq!(again.len(), kept.len());
            }
        }
    }
}

#[test]
fn an_outcome_that_comes_late_is_shown_from_then_on() {
    let entries = serve();
    let (before, after): (Vec<_>, Vec<_>) = entries.iter().cloned().partition(|e| e.seq.0 < 5);
    let mut fold = in_chunks(&entries, 1);
    before.iter().for_each(|e| fold.apply(e.clone()).unwrap());
    let old = fold.freeze(&catalog(4)).unwrap();
    after.iter().for_each(|e| fold.apply(e.clone()).unwrap());
    let new = fold.freeze(&catalog(4)).unwrap();
    let last = |snapshot: &Snapshot| {
        with_viewer("auditor", |viewer| {
            let batches = snapshot.batches(&name("system.access.audit"), viewer, &facts()).unwrap();
            lines(&batches, "entry_id outcome rows code").lines().find(|l| l.starts_with("#204")).map(str::to_owned)
        })
    };
    assert_eq!(last(&old).unwrap(), "#204 pending - -");
    assert_eq!(last(&new).unwrap(), "#204 failure 2 client_cancelled");
}

#[test]
fn entries_behind_a_cursor_come_with_their_requests() {
    let entries: Vec<_> = cli().into_iter().chain(busy(200, 3)).collect();
    let (kept, again) = (folded(Fold::new(), &entries, 4), folded(in_chunks(&entries, 4), &entries, 4));
    for from in [0, 1, 57, 150, 199, 200] {
        let cursor = BTreeMap::from([(WriterId::new("busy").unwrap(), Seq(from))]);
        let told = |snapshot: &Snapshot| {
            let mut told = vec![];
            let each = |stored: &StoredEntry, request: Option<&StoredEntry>| {
                told.push((stored.writer.clone(), stored.seq, request.map(|r| r.seq)));
                std::ops::ControlFlow::Continue(())
            };
            snapshot.entries_from(&cursor, each).unwrap();
            told
        };
        assert_eq!(told(&again), told(&kept), "from {from}");
        assert_eq!(
            again.reads_from(&WriterId::new("busy").unwrap(), Seq(from)),
            kept.reads_from(&WriterId::new("busy").unwrap(), Seq(from))
        );
    }
}

#[test]
fn a_row_takes_some_sixty_bytes_and_reads_that_ended_keep_no_entry() {
    let entries = busy(12_000, 9);
    let mut fold = in_chunks(&entries, 4_096);
    entries.iter().for_each(|e| fold.apply(e.clone()).unwrap());
    let (bytes, rows) = fold.memory();
    assert!(rows >= 4_096 && bytes / rows < 100, "{bytes} bytes for {rows} rows");
    // Reads end within a few thousand entries here; what is open when a chunk is sealed is in rows until the next one.
    let open = fold.unended();
    assert!(open < rows / 2, "{open} of {rows} rows keep their entry");
}

#[test]
fn entries_that_are_gone_are_an_error_not_a_gap() {
    let entries = serve();
    let mut fold = Fold::in_chunks(Arc::new(Kept(vec![])), 1);
    entries.iter().for_each(|e| fold.apply(e.clone()).unwrap());
    let snapshot = fold.freeze(&catalog(4)).unwrap();
    with_viewer("auditor", |viewer| {
        let failed = snapshot.batches(&name("system.ledger.entries"), viewer, &facts()).unwrap_err();
        assert_eq!(failed.to_string(), "gone");
        assert!(snapshot.batches(&name("system.access.audit"), viewer, &facts()).is_ok());
    });
}

#[test]
fn a_condition_answers_as_its_rows_do() {
    let entries: Vec<_> = cli().into_iter().chain(serve()).chain(busy(700, 11)).collect();
    let snapshots = [folded(Fold::new(), &entries, 4), folded(in_chunks(&entries, 100), &entries, 4)];
    let mut random = Random(5);
    let mut matched = 0;
    for round in 0..150 {
        let condition = random.condition(3);
        let who = VIEWERS[random.below(VIEWERS.len())];
        with_viewer(who, |viewer| {
            let all = snapshots[0].batches(&name("system.access.audit"), viewer, &facts()).unwrap();
            let expected: String = all.iter().map(|batch| keep(batch, &condition)).collect();
            matched += expected.lines().count();
            for snapshot in &snapshots {
                let scan = snapshot.audit(viewer, &facts()).unwrap().filter(&condition);
                let found: Vec<_> = (0..scan.chunks()).filter_map(|n| scan.batch(n, &ALL).unwrap()).collect();
                let found = lines(&found, "*");
                let differs = found.lines().zip(expected.lines()).find(|(a, b)| a != b);
                assert_eq!(differs, None, "round {round}, {who}: {condition:?}");
                assert_eq!(found.len(), expected.len());
                let some = scan.clone().project(&[13, 0]).unwrap();
                let found: Vec<_> = (0..some.chunks()).filter_map(|n| some.batch(n, &ALL).unwrap()).collect();
                assert_eq!(lines(&found, "*").lines().count(), expected.lines().count());
                let none = scan.project(&[]).unwrap();
                let rows: usize =
                    (0..none.chunks()).filter_map(|n| none.batch(n, &ALL).unwrap()).map(|b| b.num_rows()).sum();
                assert_eq!(rows, expected.lines().count());
                let early = 0..=random.below(700) as i64 * 1_000_000;
                let rows = |n: usize, times| none.batch(n, times).unwrap().map_or(0, |b| b.num_rows());
                let timed = Condition::All(vec![condition.clone(), Condition::Time(early.clone())]);
                let both = snapshot.audit(viewer, &facts()).unwrap().filter(&timed).project(&[]).unwrap();
                for n in 0..none.chunks() {
                    assert_eq!(rows(n, &early), both.batch(n, &ALL).unwrap().map_or(0, |b| b.num_rows()));
                }
            }
        });
    }
    assert!(matched > 5_000, "{matched} rows satisfied");
}

#[test]
fn the_newest_come_first_whatever_the_order_of_chunks() {
    let mut entries: Vec<_> = cli().into_iter().chain(serve()).chain(busy(700, 11)).collect();
    // Clocks go back, and stand.
    for (n, stored) in entries.iter_mut().enumerate() {
        let step = [7, -90, 0, 3, 40][n % 5] * 1_000_000_000;
        Arc::make_mut(stored).entry.wall.0 += step;
    }
    let snapshot = folded(in_chunks(&entries, 16), &entries, 4);
    let mut random = Random(23);
    for round in 0..60 {
        let condition = random.condition(2);
        with_viewer(VIEWERS[random.below(VIEWERS.len())], |viewer| {
            let scan = snapshot.audit(viewer, &facts()).unwrap().filter(&condition);
            let all: Vec<_> = (0..scan.chunks()).filter_map(|n| scan.batch(n, &ALL).unwrap()).collect();
            let mut newest = Newest::new(scan.clone(), (0..scan.chunks()).collect(), 200);
            let mut found = vec![];
            while let Some(batch) = newest.next(|| ALL).unwrap() {
                assert!(batch.num_rows() <= if found.is_empty() { 128 } else { 200 }, "round {round}");
                found.push(batch);
            }
            let sorted = |text: String| {
                let mut rows: Vec<_> = text.lines().map(str::to_owned).collect();
                rows.sort();
                rows
            };
            assert_eq!(sorted(lines(&found, "*")), sorted(lines(&all, "*")), "round {round}: {condition:?}");
            let times = found.iter().flat_map(|batch| {
                let times = batch.column_by_name("event_time").unwrap().as_primitive::<TimestampMicrosecondType>();
                times.values().to_vec()
            });
            let times: Vec<_> = times.collect();
            assert!(times.is_sorted_by(|a, b| a >= b), "round {round}");
        });
    }
}

/// The rows of a batch that satisfy a condition, looked at one by one.
fn keep(batch: &RecordBatch, condition: &Condition) -> String {
    let keep: Vec<bool> = (0..batch.num_rows()).map(|row| satisfies(batch, row, condition)).collect();
    let kept = arrow::compute::filter_record_batch(batch, &keep.into()).unwrap();
    lines(&[kept], "*")
}

fn satisfies(batch: &RecordBatch, row: usize, condition: &Condition) -> bool {
    let text = |column: &AuditColumn| {
        let name = format!("{column:?}").to_lowercase();
        assert_eq!(AuditColumn::named(&name), Some(*column));
        let values = batch.column_by_name(&name).unwrap().as_string::<i32>();
        values.is_valid(row).then(|| values.value(row).to_owned())
    };
    match condition {
        Condition::All(of) => of.iter().all(|c| satisfies(batch, row, c)),
        Condition::Any(of) => of.iter().any(|c| satisfies(batch, row, c)),
        Condition::Is(column, values) => text(column).is_some_and(|v| values.contains(&v)),
        Condition::IsNot(column, values) => text(column).is_some_and(|v| !values.contains(&v)),
        Condition::Null(column) => text(column).is_none(),
        Condition::Time(range) => {
            let times = batch.column_by_name("event_time").unwrap().as_primitive::<TimestampMicrosecondType>();
            range.contains(&times.value(row))
        }
        Condition::Entry(ids) => {
            let id = batch.column_by_name("entry_id").unwrap().as_string::<i32>().value(row);
            ids.contains(&uuid::Uuid::parse_str(id).unwrap().as_u128())
        }
    }
}

struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % n
    }

    fn one<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len())]
    }

    fn condition(&mut self, depth: usize) -> Condition {
        if depth > 0 && self.below(2) == 0 {
            let of = (0..self.below(3)).map(|_| self.condition(depth - 1)).collect();
            return if self.below(2) == 0 { Condition::All(of) } else { Condition::Any(of) };
        }
        let (column, values): (_, &[&str]) = self.one(&[
            (AuditColumn::Principal, PRINCIPALS),
            (AuditColumn::Purpose, &["research", "care", "billing", "none"]),
            (AuditColumn::Dataset, &["features.trend", "raw.labs", "system.access.audit", "quarantine.trend"]),
            (AuditColumn::Action, &["read", "serve", "deny", "publish", "admin"]),
            (AuditColumn::Ticket, &["INC-1", "INC-2"]),
            (AuditColumn::Session, &["s0", "s1", "s9"]),
            (AuditColumn::Environment, &["prod", "dev"]),
            (AuditColumn::Stage, &["serving"]),
            (AuditColumn::Model, &["mortality"]),
            (AuditColumn::Decision, &["allow", "deny"]),
        ]);
        let some = (0..=self.below(2)).map(|_| self.one(values).to_string()).collect();
        match self.below(8) {
            0..=2 => Condition::Is(column, some),
            3 => Condition::IsNot(column, some),
            4 => Condition::Null(column),
            5 => Condition::Entry([100, 203, 300 + self.below(700) as u128, 9].into()),
            _ => {
                let from = self.below(1_000) as i64 * 1_000_000;
                Condition::Time(from..=from + self.below(300) as i64 * 1_000_000)
            }
        }
    }
}

const PRINCIPALS: &[&str] = &["research/bob", "care/eve", "clinic/ann", "eng/dev", "x/y"];

/// A writer with reads of every kind, of which some end late and some never: entries 300 and up.
fn busy(entries: usize, seed: u64) -> Vec<Arc<StoredEntry>> {
    let mut c = Chain { writer: "busy", first_id: 300, entries: vec![] };
    let mut random = Random(seed);
    let mut open: Vec<u128> = vec![];
    while c.entries.len() < entries {
        let who = Some(random.one(PRINCIPALS));
        let at = if c.entries.len() < entries / 3 { 3 } else { 4 };
        let number = 300 + c.entries.len() as u128;
        let outcome =
            ReadOutcome { code: Some("client_cancelled".to_string()).filter(|_| random.below(4) == 0), scans: vec![] };
        if !open.is_empty() && random.below(3) > 0 {
            let request = open.remove(random.below(open.len()));
            let end = c.add_after(at, who, Verb::Read, Payload::ReadOutcome(outcome), Some(request));
            end.outcome = Outcome::Failure;
            end.measure = Measure { rows: Some(number as u64), bytes: Some(1 << 33), ..Measure::default() };
            continue;
        }
        let (verb, payload) = match random.below(6) {
            0 => (Verb::Metadata, Payload::Read(intent(), outcome)),
            1 => {
                let targets = vec![hash(random.below(3) as u8)];
                (Verb::Read, Payload::Denied(Denied { code: "C6001".into(), statement_hash: None, targets, count: 1 }))
            }
            2 => (Verb::Maintain, Payload::ReadProgress(1)),
            _ => {
                open.push(number);
                (random.one(&[Verb::Read, Verb::Serve]), Payload::ReadIntent(intent()))
            }
        };
        let entry = c.add(at, who, verb, payload);
        entry.reason.purpose = [None, Some("research"), Some("care")][random.below(3)].map(Into::into);
        entry.reason.ticket = [None, Some("INC-1"), Some("INC-2")][random.below(3)].map(Into::into);
        entry.reason.model = [None, Some("mortality")][random.below(2)].map(Into::into);
        entry.reason.environment = random.one(&["prod", "dev"]).into();
        entry.reason.stage = random.one(&["", "serving"]).into();
        if let Some(actor) = &mut entry.actor {
            actor.session = [None, Some("s0"), Some("s1")][random.below(3)].map(Into::into);
            actor.roles.extend((0..random.below(3)).map(|n| format!("role{n}")));
        }
        for _ in 0..random.below(3) {
            let (dataset, made_at) = random.one(&[(trend().id, TREND), (labs().id, LABS), (trend().id, ControlSeq(9))]);
            let ordinal = random.one(&[1, 2, 32_769]);
            entry.targets.push(target(dataset, made_at, &[(ordinal, Some(ColumnRole::Project), Rung::Raw)]));
        }
    }
    c.entries
}
