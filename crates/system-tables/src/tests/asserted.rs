//! Claims of others: who sees them, from when on, and that nothing else comes of them.

use super::*;

/// `features.trend` at no version, of `raw.labs@1`: entry 300.
fn claimed() -> Fold {
    let table = |definition: DatasetDefinition, version| AssertedTable {
        dataset: definition.id,
        name: definition.name.clone(),
        namespace: "custody://w".into(),
        text: definition.name.to_string(),
        version,
    };
    let source = |column: Option<&str>, kind| AssertedSource {
        table: 1,
        column: column.map(str::to_string),
        kind,
        masking: column == Some("region"),
    };
    let from = vec![
        source(Some("region"), FlowKind::Indirect(Indirect::Conditional)),
        source(Some("value"), FlowKind::Direct(Direct::Identity)),
    ];
    let claim = AssertedLineage {
        event: hash(60),
        producer: "p".into(),
        job_namespace: "n".into(),
        job: "j".into(),
        run: String::new(),
        at: WallNanos(0),
        tables: vec![table(trend(), None), table(labs(), Some(1))],
        outputs: vec![AssertedOutput { name: "id".into(), from: vec![] }, AssertedOutput { name: "m".into(), from }],
        rows: vec![source(None, FlowKind::Indirect(Indirect::Filter))],
    };
    let mut chain = super::Chain { writer: "cli-1", first_id: 300, entries: vec![] };
    chain.add(4, Some("clinic/ann"), Verb::Admin, Payload::Asserted(Box::new(claim)));
    let mut fold = Fold::new();
    cli().into_iter().chain(serve()).chain(chain.entries).for_each(|e| fold.apply(e).unwrap());
    fold
}

fn rows(snapshot: &Snapshot, who: &str, table: &str, columns: &str, with: &str) -> String {
    let found = with_viewer(who, |v| lines(&snapshot.batches(&name(table), v, &facts()).unwrap(), columns));
    found.lines().filter(|l| l.contains(with)).map(|l| format!("{l}\n")).collect()
}

#[test]
fn a_row_needs_both_ends_to_be_visible() {
    let snapshot = claimed().freeze(&catalog(4)).unwrap();
    let columns = |who: &str| rows(&snapshot, who, "system.lineage.columns", "*", "asserted");
    let all = expect![[r#"
        #300 features.trend 0 0 * raw.labs 1 - INDIRECT FILTER false - [] - false asserted
        #300 features.trend 0 2 m raw.labs 1 region INDIRECT CONDITIONAL true - [] - false asserted
        #300 features.trend 0 2 m raw.labs 1 value DIRECT IDENTITY false - [] - false asserted
    "#]];
    all.assert_eq(&columns("auditor"));
    all.assert_eq(&columns("ann"));
    expect![[r#"
        #300 features.trend 0 0 * raw.labs 1 - INDIRECT FILTER false - [] - false asserted
        #300 features.trend 0 2 m raw.labs 1 value DIRECT IDENTITY false - [] - false asserted
    "#]]
    .assert_eq(&columns("engineer"));
    assert_eq!([columns("bob"), columns("nobody")], ["", ""]);
    let inputs = |who: &str| rows(&snapshot, who, "system.lineage.inputs", "*", "asserted");
    assert_eq!(inputs("engineer"), "#300 features.trend 0 asserted raw.labs 1\n");
    assert_eq!([inputs("bob"), inputs("nobody")], ["", ""]);
    let audit =
        rows(&snapshot, "ann", "system.access.audit", "entry_id action principal dataset dataset_version", "#300");
    assert_eq!(audit, "#300 admin clinic/ann features.trend -\n");
}

#[test]
fn nothing_else_comes_of_a_claim() {
    let mut fold = claimed();
    let (with, without) = (fold.freeze(&catalog(4)).unwrap(), snapshot());
    for table in ["edges", "labels", "hops", "runs"] {
        let all = |s: &Snapshot| rows(s, "auditor", &format!("system.lineage.{table}"), "*", "");
        assert_eq!(all(&with), all(&without), "{table}");
    }
    for table in ["columns", "inputs"] {
        let seen = |s: &Snapshot| rows(s, "auditor", &format!("system.lineage.{table}"), "*", "observed");
        assert!(!seen(&with).is_empty() && seen(&with) == seen(&without), "{table}");
    }
    let key = (hash(60), trend().id, None);
    assert!(fold.asserted().contains(&key) && fold.asserted().len() == 1);
    // It was made at position 4.
    let earlier = fold.freeze(&catalog(3)).unwrap();
    assert_eq!(rows(&earlier, "auditor", "system.lineage.columns", "*", "asserted"), "");
}
