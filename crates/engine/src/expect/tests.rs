//! Checks over batches of any size: what stays, what goes, what is counted.
#![allow(clippy::unwrap_used, reason = "tests")]

use super::*;
use custody_dialect::Statement;
use custody_model::{ColumnDef, DatasetId, DatasetKind, SourceText};
use datafusion::{
    arrow::{
        array::{ArrayRef, Int64Array, TimestampMicrosecondArray},
        datatypes::Int64Type,
    },
    execution::SessionStateBuilder,
};

fn definition() -> DatasetDefinition {
    let column =
        |n: u32, name: &str, data_type| ColumnDef { field: FieldId(n), name: name.into(), data_type, nullable: true };
    DatasetDefinition {
        id: DatasetId(Default::default()),
        name: "features.x".parse().unwrap(),
        kind: DatasetKind::FeatureView,
        columns: vec![
            column(1, "v", DataType::Int64),
            column(2, "id", DataType::Int64),
            column(3, "ts", custody_dialect::timestamp_type()),
        ],
        entity: Some("e".into()),
        keys: vec![FieldId(2)],
        event_time: Some(FieldId(3)),
        known_time: None,
        ttl: None,
        owner: "o".into(),
        purposes: Default::default(),
        comment: None,
        sql: String::new(),
    }
}

fn expectations(clauses: &str) -> Vec<Expectation> {
    let text =
        format!("CREATE FEATURE VIEW features.x ENTITY e (id) EVENT TIME ts {clauses} AS SELECT v, id, ts FROM raw.x");
    let statement = custody_dialect::parse(&SourceText::inline(text)).unwrap().pop().unwrap();
    let Statement::FeatureView(def) = statement.value else { unreachable!() };
    def.clauses.expectations
}

fn planned(clauses: &str) -> Result<Vec<Expected>, String> {
    let state = SessionStateBuilder::new().with_default_features().build();
    ready(&expectations(clauses), &state, &definition()).map_err(|p| {
        assert!(!p.labels.is_empty(), "{p}: no place");
        p.to_string()
    })
}

/// Rows (v, id, ts) in published order.
const ROWS: [(Option<i64>, Option<i64>, i64); 9] = [
    (Some(1), Some(1), 0),
    (Some(2), Some(1), 0),
    (Some(-3), Some(1), 5),
    (Some(4), Some(1), 5),
    (Some(5), Some(1), 5),
    (None, Some(2), 5),
    (Some(-6), Some(2), 6),
    (Some(7), None, 6),
    (Some(8), None, 6),
];

/// Kept, quarantined, violations, and whether nothing may be published.
type Checked = (Vec<Option<i64>>, Vec<Option<i64>>, Vec<u64>, bool);

/// The values kept and quarantined, and the violations, whatever the size of batches.
fn checked(clauses: &str) -> Checked {
    let schema = crate::schema_of(&definition());
    let of = |size: usize| {
        let mut checker = Checker::new(&planned(clauses).unwrap(), &schema).unwrap();
        let (mut kept, mut out) = (vec![], vec![]);
        for rows in ROWS.chunks(size) {
            let columns: Vec<ArrayRef> = vec![
                Arc::new(rows.iter().map(|r| r.0).collect::<Int64Array>()),
                Arc::new(rows.iter().map(|r| r.1).collect::<Int64Array>()),
                Arc::new(rows.iter().map(|r| Some(r.2)).collect::<TimestampMicrosecondArray>().with_timezone("UTC")),
            ];
            let divided = checker.divide(RecordBatch::try_new(schema.clone(), columns).unwrap()).unwrap();
            let values = |b: &RecordBatch| b.column(0).as_primitive::<Int64Type>().iter().collect::<Vec<_>>();
            kept.extend(values(&divided.kept));
            out.extend(divided.quarantined.iter().flat_map(values));
        }
        assert_eq!(kept.len() + out.len(), ROWS.len(), "no row is lost");
        let counts = checker.results().iter().map(|r| r.violations).collect();
        (kept, out, counts, checker.failure(&definition().name).is_some())
    };
    let whole = of(9);
    (1..9).for_each(|size| assert_eq!(of(size), whole, "{clauses}, batches of {size}"));
    whole
}

#[test]
fn rows_go_where_the_checks_say_and_null_passes() {
    let all: Vec<_> = ROWS.iter().map(|r| r.0).collect();
    let without =
        |gone: &[i64]| all.iter().filter(|v| v.is_none_or(|v| !gone.contains(&v))).copied().collect::<Vec<_>>();
    let some = |values: &[i64]| values.iter().copied().map(Some).collect::<Vec<_>>();
    assert_eq!(checked("EXPECT v > 0 ON VIOLATION WARN"), (all.clone(), vec![], vec![2], false));
    assert_eq!(checked("EXPECT v > 0 ON VIOLATION FAIL"), (all.clone(), vec![], vec![2], true));
    assert_eq!(checked("EXPECT v > -9 ON VIOLATION FAIL"), (all.clone(), vec![], vec![0], false));
    assert_eq!(checked("EXPECT v > 0 ON VIOLATION QUARANTINE"), (without(&[-3, -6]), some(&[-3, -6]), vec![2], false));
    // The first of equal rows stays; a key that is NULL equals nothing.
    assert_eq!(
        checked("EXPECT UNIQUE (ts, id) ON VIOLATION QUARANTINE"),
        (without(&[2, 4, 5]), some(&[2, 4, 5]), vec![3], false)
    );
    assert_eq!(checked("EXPECT UNIQUE (id, ts) ON VIOLATION FAIL"), (all.clone(), vec![], vec![3], true));
    // Of equal rows, one that goes for another reason leaves its place to the next.
    let both = "EXPECT UNIQUE (id, ts) ON VIOLATION QUARANTINE EXPECT v > 0 ON VIOLATION QUARANTINE";
    assert_eq!(checked(both), (without(&[2, -3, 5, -6]), some(&[2, -3, 5, -6]), vec![2, 2], false));
}

#[test]
fn what_cannot_be_checked_is_refused_at_its_place() {
    for (clauses, told) in [
        ("EXPECT v + 1 ON VIOLATION FAIL", "true or false"),
        ("EXPECT w > 0 ON VIOLATION FAIL", "w"),
        ("EXPECT v > random() ON VIOLATION WARN", "the same answer"),
        ("EXPECT UNIQUE (v) ON VIOLATION FAIL", "one pass"),
        ("EXPECT UNIQUE (w) ON VIOLATION FAIL", "not a column"),
        ("EXPECT sum(v) > 0 ON VIOLATION FAIL", "over one row"),
        ("EXPECT v > row_number() OVER () ON VIOLATION FAIL", ""),
    ] {
        let refused = planned(clauses).err().unwrap_or_else(|| unreachable!("{clauses}"));
        assert!(refused.contains(told), "{clauses}: {refused}");
    }
}
