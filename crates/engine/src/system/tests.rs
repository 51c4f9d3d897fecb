//! `system.access.audit` through whole reads.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use crate::{
    ReadRequest,
    attacks::{Warehouse, subject},
};
use custody_model::EntryRef;

async fn reads(warehouse: &Warehouse) {
    for (who, purpose) in [("research", "research"), ("engineer", "build"), ("statistician", "research")] {
        let session = warehouse.engine.session(subject(who, who, purpose));
        for text in ["SELECT count(*) FROM raw.patients", "SELECT 1", "SELECT nothing FROM nowhere.at_all"] {
            if let Ok(read) = session.read(ReadRequest::sql(text)).await {
                read.collect().await.unwrap();
            }
        }
    }
}

/// What a filter keeps, and what the same filter keeps in a form that no scan answers.
const FILTERS: &[(&str, &str)] = &[
    ("principal = 'research'", "concat(principal, '') = 'research'"),
    ("principal <> 'research'", "concat(principal, '') <> 'research'"),
    ("'research' = principal", "concat(principal, '') = 'research'"),
    ("principal IN ('research', 'engineer', 'x', 'y', 'z')", "concat(principal, '') IN ('research', 'engineer')"),
    ("principal NOT IN ('research', 'a', 'b', 'c')", "concat(principal, '') <> 'research'"),
    ("purpose = 'research' OR action = 'admin'", "concat(purpose, '') = 'research' OR concat(action, '') = 'admin'"),
    ("dataset IS NULL", "coalesce(dataset, '-') = '-'"),
    ("dataset IS NOT NULL", "coalesce(dataset, '-') <> '-'"),
    ("dataset = 'raw.patients' AND decision = 'allow'", "concat(dataset, decision) = 'raw.patientsallow'"),
    ("NOT (principal = 'research')", "concat(principal, '') <> 'research'"),
    ("session IS NULL", "coalesce(session, '-') = '-'"),
    ("event_time > TIMESTAMP '2020-01-01T00:00:00Z'", "date_part('year', event_time) + 0 >= 2020"),
    ("event_time < TIMESTAMP '2020-01-01T00:00:00Z'", "date_part('year', event_time) + 0 < 2020"),
    (
        "event_time BETWEEN TIMESTAMP '2020-01-01T00:00:00Z' AND TIMESTAMP '9999-01-01T00:00:00Z'",
        "date_part('year', event_time) + 0 >= 2020",
    ),
    ("entry_id = 'no id'", "concat(entry_id, '') = 'no id'"),
    ("principal = 'research' AND rows > 0", "concat(principal, '') = 'research' AND rows > 0"),
];

#[tokio::test]
async fn a_filter_keeps_what_it_keeps_above_the_scan() {
    let warehouse = Warehouse::new().await;
    reads(&warehouse).await;
    for who in ["auditor", "research"] {
        let session = warehouse.engine.session(subject(who, who, "audit"));
        for (pushed, above) in FILTERS {
            let mut counts = vec![];
            for filter in [pushed, above] {
                // Each query is a row of the next: only rows before all of them are counted.
                let text = format!(
                    "SELECT dataset, principal, outcome, seq FROM system.access.audit \
                     WHERE coalesce(dataset, '-') <> 'system.access.audit' AND ({filter}) ORDER BY seq"
                );
                let batches = session.read(ReadRequest::sql(&text)).await.unwrap().collect().await.unwrap();
                counts.push(batches.iter().flat_map(crate::attacks::lines).collect::<Vec<_>>());
            }
            assert_eq!(counts[0], counts[1], "{who}: {pushed}");
        }
    }
}

#[tokio::test]
async fn comparisons_with_literals_are_answered_by_the_scan_and_others_are_not() {
    let warehouse = Warehouse::new().await;
    let session = warehouse.engine.session(subject("auditor", "auditor", "audit"));
    for (pushed, above) in FILTERS {
        for (filter, stays) in [(pushed, pushed.contains("rows > 0")), (above, true)] {
            let text = format!("EXPLAIN SELECT entry_id FROM system.access.audit WHERE {filter}");
            let batches = session.read(ReadRequest::sql(&text)).await.unwrap().collect().await.unwrap();
            let plan: String = batches.iter().flat_map(crate::attacks::lines).collect::<Vec<_>>().join("\n");
            assert!(plan.contains("AuditExec"), "{plan}");
            assert_eq!(plan.contains("FilterExec"), stays, "{filter}\n{plan}");
        }
    }
}

#[tokio::test]
async fn the_newest_rows_are_those_of_a_query_that_sorts_all() {
    for partitions in [1, 3] {
        let warehouse = Warehouse::limited(|settings| settings.partitions = partitions).await;
        newest_rows(&warehouse).await;
    }
}

async fn newest_rows(warehouse: &Warehouse) {
    reads(warehouse).await;
    for who in ["auditor", "research"] {
        let session = warehouse.engine.session(subject(who, who, "audit"));
        let ask = async |text: String| {
            let batches = session.read(ReadRequest::sql(&text)).await.unwrap().collect().await.unwrap();
            batches.iter().flat_map(crate::attacks::lines).collect::<Vec<_>>()
        };
        let rows = "SELECT event_time, seq, principal FROM system.access.audit \
                    WHERE dataset IS NULL OR dataset <> 'system.access.audit' ORDER BY event_time DESC, seq";
        for limit in [1, 3, 7] {
            let all = ask(rows.to_string()).await;
            assert_eq!(ask(format!("{rows} LIMIT {limit}")).await, all[..limit.min(all.len())], "{who}");
        }
        let plan = ask(format!("EXPLAIN {rows} LIMIT 3")).await.join("\n");
        assert_eq!(plan.contains("newest first"), who == "auditor", "{plan}");
        // By the time alone no sort runs for whoever sees every row; rows of one time may come in any order.
        let times = "SELECT event_time FROM system.access.audit \
                     WHERE dataset IS NULL OR dataset <> 'system.access.audit' ORDER BY event_time DESC";
        let all = ask(times.to_string()).await;
        assert!(all.is_sorted_by(|a, b| a >= b) && !all.is_empty(), "{all:?}");
        assert_eq!(ask(format!("{times} LIMIT 5")).await, all[..5.min(all.len())], "{who}");
        let plan = ask(format!("EXPLAIN {times} LIMIT 5")).await.join("\n");
        assert_eq!(plan.contains("SortExec"), who != "auditor", "{plan}");
        assert_eq!(ask("SELECT 1 FROM system.access.audit LIMIT 2".into()).await.len(), 2);
    }
}

#[tokio::test]
async fn an_acknowledged_entry_is_in_the_next_query() {
    let warehouse = Warehouse::new().await;
    let session = warehouse.engine.session(subject("auditor", "auditor", "audit"));
    for _ in 0..20 {
        let read = session.read(ReadRequest::sql("SELECT 1")).await.unwrap();
        // The intent is durable and the read has not ended.
        let EntryRef { writer, seq } = read.receipt().clone();
        let text = format!(
            "SELECT outcome FROM system.access.audit WHERE seq = {seq} AND writer = '{writer}' AND action = 'read'"
        );
        let ask = || warehouse.engine.session(subject("auditor", "auditor", "audit"));
        let told = |batches: Vec<_>| batches.iter().flat_map(crate::attacks::lines).collect::<Vec<_>>();
        let found = ask().read(ReadRequest::sql(&text)).await.unwrap().collect().await.unwrap();
        assert_eq!(told(found), ["pending"]);
        read.collect().await.unwrap();
        let found = ask().read(ReadRequest::sql(&text)).await.unwrap().collect().await.unwrap();
        assert_eq!(told(found), ["success"]);
    }
}

#[tokio::test]
async fn a_ledger_of_many_segments_is_read_as_it_was_written() {
    let mut warehouse = Warehouse::limited(|settings| settings.writer = crate::audit::WriterChoice::Serve).await;
    let text = "SELECT writer, seq, entry_id, outcome, rows FROM system.access.audit \
                WHERE coalesce(dataset, '-') <> 'system.access.audit' ORDER BY writer, seq, part";
    let mut before: Vec<String> = vec![];
    // Each opening begins a segment.
    for round in 0..7 {
        let auditor = warehouse.engine.session(subject("auditor", "auditor", "audit"));
        warehouse.engine.follow_ahead();
        let read = auditor.read(ReadRequest::sql(text)).await.unwrap();
        let told: Vec<_> = read.collect().await.unwrap().iter().flat_map(crate::attacks::lines).collect();
        assert_eq!(told[..before.len()], before, "round {round}");
        reads(&warehouse).await;
        let read = auditor.read(ReadRequest::sql(text)).await.unwrap();
        before = read.collect().await.unwrap().iter().flat_map(crate::attacks::lines).collect();
        assert!(before.len() >= told.len() + 9, "round {round}: {} rows", before.len());
        warehouse.engine.close().await.unwrap();
        let settings = warehouse.engine.settings().clone();
        let clock = std::sync::Arc::new(crate::clock::SystemClock);
        warehouse.engine = crate::Engine::open(settings, clock).await.unwrap();
    }
    warehouse.engine.close().await.unwrap();
}
