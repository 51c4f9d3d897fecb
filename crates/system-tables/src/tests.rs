//! A small ledger of two writers, and every table of it as different viewers see it.
#![allow(clippy::unwrap_used)]

mod asserted;
mod audit;

use crate::*;
use arrow::{
    array::RecordBatch,
    datatypes::DataType,
    util::display::{ArrayFormatter, FormatOptions},
};
use custody_catalog::Catalog;
use custody_model::*;
use expect_test::{Expect, expect};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

fn name(text: &str) -> DatasetName {
    text.parse().unwrap()
}

fn hash(byte: u8) -> Hash {
    Hash([byte; 32])
}

fn id(number: u128) -> EntryId {
    EntryId(uuid::Uuid::from_u128(number))
}

fn dataset(first_name: &str) -> DatasetId {
    Catalog::new().new_dataset_id(&name(first_name))
}

fn actor(principal: &str) -> Actor {
    Actor {
        principal: principal.into(),
        kind: "user".into(),
        roles: BTreeSet::from([principal.split('/').next().unwrap().to_string()]),
        attributes: BTreeMap::new(),
        authentication: Authentication::Token,
        session: None,
        on_behalf_of: None,
        token: None,
        address: Some(SealedBox { key: "k".into(), nonce: [0; 12], ciphertext: vec![1] }),
    }
}

fn definition(named: &str, kind: DatasetKind, owner: &str, columns: &[(&str, DataType)]) -> DatasetDefinition {
    DatasetDefinition {
        id: dataset(named),
        name: name(named),
        kind,
        columns: (1..)
            .zip(columns)
            .map(|(field, (name, data_type))| ColumnDef {
                field: FieldId(field),
                name: (*name).into(),
                data_type: data_type.clone(),
                nullable: true,
            })
            .collect(),
        entity: Some("patient".into()),
        keys: vec![FieldId(1)],
        event_time: Some(FieldId(1)),
        known_time: None,
        ttl: None,
        owner: owner.into(),
        purposes: BTreeSet::from(["research".into()]),
        comment: None,
        sql: "SELECT 'literal'".into(),
    }
}

fn labs() -> DatasetDefinition {
    let columns = [("id", DataType::Int64), ("value", DataType::Float64), ("region", DataType::Utf8)];
    definition("raw.labs", DatasetKind::Source, "clinic", &columns)
}

fn trend() -> DatasetDefinition {
    let columns = [("id", DataType::Int64), ("m", DataType::Float64)];
    definition("features.trend", DatasetKind::FeatureView, "hepatology", &columns)
}

/// Control positions in the ledger below.
const LABS: ControlSeq = ControlSeq(2);
const TREND: ControlSeq = ControlSeq(4);

fn table(definition: &DatasetDefinition, made_at: ControlSeq, content: u8) -> TableVersion {
    TableVersion { dataset: definition.id, name: definition.name.clone(), version: 1, made_at, content: hash(content) }
}

/// `avg(value)` by `id`, `value` masked; policy keeps region `eu`.
fn lineage() -> Lineage {
    let atom = |field, masks: &[(&str, Rung)], by_policy: Option<&str>| Atom {
        table: 0,
        field: Some(FieldId(field)),
        views: vec![],
        masks: masks.iter().map(|(p, r)| ((*p).into(), *r)).collect(),
        by_policy: by_policy.map(Into::into),
        rules: vec![],
    };
    Lineage {
        exact: true,
        inputs: vec![table(&labs(), LABS, 12)],
        atoms: vec![
            atom(1, &[], None),
            atom(2, &[("research.policy1", Rung::Partial)], None),
            atom(3, &[], Some("eu")),
        ],
        outputs: vec![
            OutputFlow { name: "id".into(), direct: vec![(Direct::Identity, 0)], field: vec![], hops: vec![] },
            OutputFlow { name: "m".into(), direct: vec![(Direct::Aggregation, 1)], field: vec![], hops: vec![0] },
        ],
        dataset: vec![Influence { kind: Indirect::Filter, atom: 2 }, Influence { kind: Indirect::GroupBy, atom: 0 }],
        hops: vec![custody_model::Hop { node: 1, output: 1, from: vec![(0, 1)], text: "avg(value)".into() }],
        ..Lineage::default()
    }
}

fn run(state: RunState) -> Payload {
    let written = state == RunState::Written;
    Payload::Run(RunRecord {
        state,
        job: name("features.trend"),
        dataset: trend().id,
        plan: hash(6),
        engine_version: 1,
        seed: None,
        identity: hash(5),
        inputs: vec![],
        content_root: written.then(|| hash(14)),
        files: vec![],
        publish_entry: None,
        rows: written.then_some(3),
        error: None,
        git_commit: Some("abc".into()),
        git_dirty: Some(false),
        quarantine_root: None,
        quarantine_files: vec![],
        expectations: vec![],
        profile: None,
    })
}

fn publish() -> Payload {
    let clinical = ClassSet::from([Class("clinical".into())]);
    Payload::Publish(Box::new(Publish {
        identity: hash(5),
        definition: trend(),
        version: 1,
        because: "first".into(),
        content_root: hash(14),
        rows: 3,
        event_range: Some((0, 1_000_000)),
        schema_hash: hash(9),
        inputs: vec![],
        labels: vec![ClassLabel::default(), ClassLabel { explicit: clinical.clone(), implicit: clinical }],
        lineage: id(109),
        lineage_hash: hash(8),
        quarantine_root: None,
        run: id(105),
        plan: hash(6),
        engine_version: 1,
        seed: Some(7),
        git_commit: Some("abc".into()),
        git_dirty: Some(false),
        quarantine_rows: None,
        expectations: vec![ExpectationResult {
            check: "hdl > 5".into(),
            action: "warn".into(),
            checked: 3,
            violations: 1,
        }],
        profile: Some(BlobRef { hash: hash(5), length: 60 }),
    }))
}

fn intent() -> ReadIntent {
    ReadIntent {
        statement: None,
        statement_hash: hash(3),
        lineage_hash: None,
        plan: hash(4),
        granted_bytes: 1 << 26,
        prediction: None,
    }
}

/// Columns as (ordinal, role, rung); `None` as role: read by policy, as a filter.
fn target(dataset: DatasetId, made_at: ControlSeq, columns: &[(u16, Option<ColumnRole>, Rung)]) -> Target {
    Target {
        dataset,
        version: if made_at == ControlSeq(0) { 4 } else { 1 },
        made_at,
        grant: Some(hash(40)),
        row_sets: vec!["eu".into(), "consented".into()],
        columns: columns
            .iter()
            .map(|(ordinal, role, rung)| {
                let mut roles = RoleSet::default();
                roles.insert(role.unwrap_or(ColumnRole::Filter));
                TargetColumn {
                    ordinal: *ordinal,
                    requested: role.is_some(),
                    roles,
                    rung: *rung,
                    policies: vec!["research.policy1".into()],
                }
            })
            .collect(),
        owner: None,
        classes: vec![],
    }
}

/// One writer's chain in the making.
struct Chain {
    writer: &'static str,
    first_id: u128,
    entries: Vec<Arc<StoredEntry>>,
}

impl Chain {
    fn add(&mut self, at: u64, who: Option<&str>, verb: Verb, payload: Payload) -> &mut Entry {
        self.add_after(at, who, verb, payload, None)
    }

    fn add_after(
        &mut self,
        at: u64,
        who: Option<&str>,
        verb: Verb,
        payload: Payload,
        reference: Option<u128>,
    ) -> &mut Entry {
        let seq = self.entries.len() as u64;
        let number = self.first_id + u128::from(seq);
        self.entries.push(Arc::new(StoredEntry {
            writer: WriterId::new(self.writer).unwrap(),
            seq: Seq(seq),
            leaf: hash(number as u8),
            raw: vec![number as u8],
            entry: Entry {
                id: id(number),
                wall: WallNanos(number as i64 * 1_000_000_000),
                reference: reference.map(id),
                control_seq: ControlSeq(at),
                trace: None,
                actor: who.map(actor),
                verb,
                targets: vec![],
                outcome: Outcome::Success,
                reason: Reason {
                    purpose: Some("research".into()),
                    environment: "prod".into(),
                    bundle: Some(hash(1)),
                    ..Reason::default()
                },
                measure: Measure::default(),
                payload,
            },
        }));
        &mut Arc::get_mut(self.entries.last_mut().unwrap()).unwrap().entry
    }
}

/// A publish by ann: entries 100 to 112.
fn cli() -> Vec<Arc<StoredEntry>> {
    let mut c = Chain { writer: "cli-0", first_id: 100, entries: vec![] };
    let ann = Some("clinic/ann");
    c.add(0, None, Verb::Maintain, Payload::Writer(WriterEvent::Open { incarnation: 1, open: vec![] }));
    let key = KeyRecord { epoch: 1, vkey: "v1".into(), certificate: vec![], revoke: None };
    c.add(0, None, Verb::Maintain, Payload::Key(key));
    let admin = AdminRecord { principal: "clinic/ann".into(), roles: BTreeSet::from(["admin".into()]) };
    c.add(1, ann, Verb::Admin, Payload::CatalogChange(CatalogChange::Admin(admin)));
    let source = SourceSnapshot {
        definition: labs(),
        version: 1,
        kind: SourceKind::Csv,
        url: "raw/labs".into(),
        snapshot: hash(12),
        files: BlobRef { hash: hash(0), length: 0 },
        bytes: 10,
    };
    c.add(2, ann, Verb::Publish, Payload::CatalogChange(CatalogChange::Source(source)));
    let bundle = PolicyBundleRecord {
        epoch: 1,
        hash: hash(1),
        blob: BlobRef { hash: hash(0), length: 0 },
        approvers: vec!["clinic/ann".into()],
        because: "rules".into(),
        relabelled: vec![],
    };
    c.add(3, ann, Verb::Admin, Payload::PolicyBundle(bundle));
    c.add(3, ann, Verb::Publish, run(RunState::Started));
    let read = c.add(3, ann, Verb::Publish, Payload::ReadIntent(intent()));
    read.outcome = Outcome::Pending;
    read.targets = vec![target(
        labs().id,
        LABS,
        &[
            (1, Some(ColumnRole::GroupBy), Rung::Raw),
            (2, Some(ColumnRole::Project), Rung::Partial),
            (3, None, Rung::None),
        ],
    )];
    c.add_after(3, ann, Verb::Publish, Payload::ReadOutcome(ReadOutcome { code: None, scans: vec![] }), Some(106))
        .measure
        .rows = Some(9);
    c.add_after(3, ann, Verb::Publish, run(RunState::Written), Some(105));
    let record = LineageRecord { identity: hash(5), hash: hash(8), lineage: lineage() };
    c.add(3, ann, Verb::Publish, Payload::Lineage(record));
    c.add(4, ann, Verb::Publish, publish());
    c.add_after(4, ann, Verb::Publish, run(RunState::Ended), Some(105));
    c.add(4, None, Verb::Maintain, Payload::Writer(WriterEvent::Close));
    c.entries
}

/// Reads by bob and eve, then by an investigator: entries 200 to 207.
fn serve() -> Vec<Arc<StoredEntry>> {
    let mut c = Chain { writer: "serve", first_id: 200, entries: vec![] };
    let (bob, eve) = (Some("research/bob"), Some("care/eve"));
    let m = |rung| vec![target(trend().id, TREND, &[(2, Some(ColumnRole::Project), rung)])];
    c.add(4, None, Verb::Maintain, Payload::Writer(WriterEvent::Open { incarnation: 3, open: vec![] }));
    let read = c.add(4, bob, Verb::Read, Payload::Read(intent(), ReadOutcome { code: None, scans: vec![] }));
    read.targets = m(Rung::Token);
    read.measure = Measure { rows: Some(3), batches: None, bytes: Some(100), micros: Some(50), upper_bound: true };
    let denied = Denied { code: "C4001".into(), statement_hash: None, targets: vec![hash(70)], count: 1 };
    let denied = c.add(4, bob, Verb::Read, Payload::Denied(denied));
    denied.outcome = Outcome::Denied;
    denied.reason.purpose = Some("billing".into());
    let read = c.add(4, eve, Verb::Serve, Payload::ReadIntent(intent()));
    read.targets = m(Rung::Raw);
    read.reason.ticket = Some("INC-1".into());
    let read = c.add(4, eve, Verb::Serve, Payload::ReadIntent(intent()));
    read.targets = m(Rung::Raw);
    let end = ReadOutcome { code: Some("client_cancelled".into()), scans: vec![] };
    let end = c.add_after(4, eve, Verb::Serve, Payload::ReadOutcome(end), Some(204));
    end.outcome = Outcome::Failure;
    end.measure = Measure { rows: Some(2), batches: Some(1), bytes: Some(64), micros: Some(70), upper_bound: true };
    let read = c.add(
        4,
        Some("investigator/ira"),
        Verb::Read,
        Payload::Read(intent(), ReadOutcome { code: None, scans: vec![] }),
    );
    let audit = system_table(&name("system.access.audit")).unwrap();
    let field = audit.definition.column_named("principal").unwrap().field;
    read.targets = vec![target(
        audit.definition.id,
        ControlSeq(0),
        &[(system_node(field).ordinal(), Some(ColumnRole::Project), Rung::Raw)],
    )];
    let bypass = BypassRecord { technique: "foreign_ticket".into(), evidence: vec![hash(71)] };
    c.add(4, eve, Verb::Serve, Payload::Bypass(bypass)).outcome = Outcome::Denied;
    c.entries
}

fn catalog(until: u64) -> Catalog {
    let mut catalog = Catalog::new();
    cli()
        .iter()
        .filter(|e| e.entry.kind().is_control() && e.entry.control_seq.0 <= until)
        .for_each(|e| catalog.apply(&e.entry).unwrap());
    catalog
}

fn snapshot() -> Snapshot {
    let mut fold = Fold::new();
    cli().into_iter().chain(serve()).for_each(|e| fold.apply(e).unwrap());
    fold.freeze(&catalog(4)).unwrap()
}

/// What a viewer may see, listed.
#[derive(Default)]
struct Known {
    datasets: Vec<DatasetId>,
    columns: Vec<Node>,
    explained: Vec<DatasetId>,
    owned: Vec<DatasetId>,
    open: bool,
}

impl Sees for Known {
    fn dataset(&self, dataset: DatasetId) -> bool {
        self.datasets.contains(&dataset)
    }
    fn column(&self, node: Node) -> bool {
        self.columns.contains(&node)
    }
    fn explain_raw(&self, dataset: DatasetId) -> bool {
        self.explained.contains(&dataset)
    }
    fn owned(&self, dataset: DatasetId) -> bool {
        self.owned.contains(&dataset)
    }
    fn raw(&self, node: Node) -> bool {
        self.open && self.columns.contains(&node)
    }
    fn open(&self, _: &TableVersion) -> bool {
        self.open
    }
}

struct Fixed(PolicyRows, WallNanos);

impl Facts for Fixed {
    fn classes(&self, _: &TableVersion, field: FieldId) -> Vec<String> {
        if field == FieldId(2) { vec!["clinical".into()] } else { vec![] }
    }
    fn policies(&self) -> &PolicyRows {
        &self.0
    }
    fn checkpoints(&self) -> Result<Vec<CheckpointRow>, Box<dyn std::error::Error + Send + Sync>> {
        Ok(vec![CheckpointRow {
            origin: "w/sha3-256/cli-0".into(),
            tree_size: 13,
            root: hash(2),
            note: "note".into(),
            signed_at: WallNanos(0),
        }])
    }
    fn slo(&self, snapshot: &Snapshot) -> Result<Vec<SloRow>, Box<dyn std::error::Error + Send + Sync>> {
        let entries = snapshot.heads().map(|(_, seq)| seq.0 + 1).sum();
        Ok(vec![SloRow { metric: "entries", value: Some(entries), target: 1, ok: true }])
    }
    fn now(&self) -> WallNanos {
        self.1
    }

    fn profile(&self, blob: &BlobRef) -> Result<profile::Profile, Box<dyn std::error::Error + Send + Sync>> {
        let (rows, cell) = (blob.length, profile::ordered_key(64) >> 3);
        let column =
            |cells| profile::ColumnProfile { nulls: None, distinct: Some(7), mean: Some(66.5), cells, small: 2 };
        let numbers = profile::Cells::Ordered { shift: 3, rows: BTreeMap::from([(cell, 20), (cell + 1, rows - 22)]) };
        let texts = profile::Cells::Values(BTreeMap::from([("eu".into(), rows - 2)]));
        Ok(profile::Profile { rows, least: 10, columns: vec![column(numbers), column(texts)] })
    }
    fn subject_key(&self, subject: &Subject) -> Hash {
        hash(subject.principal.0.len() as u8)
    }
    fn unsealer(&self) -> Unseal {
        Arc::new(|_| Some("10.0.0.1".into()))
    }
}

fn facts() -> Fixed {
    let set = |name: &str, guard| RowSetRow {
        name: name.into(),
        dataset: labs().id,
        predicate: "region = 'eu'".into(),
        guard,
    };
    let rows = PolicyRows {
        policies: vec![PolicyRow {
            policy_id: "research.policy1".into(),
            kind: "permit".into(),
            text: "permit …".into(),
        }],
        row_sets: vec![set("consented", true), set("eu", false)],
        tags: vec![TagRow { dataset: labs().id, field: FieldId(2), class: "clinical".into() }],
    };
    Fixed(rows, WallNanos(0))
}

#[test]
fn a_writer_that_says_nothing_is_silent_until_it_ends() {
    let told = |seconds: i64| {
        let facts = Fixed(facts().0, WallNanos(seconds * 1_000_000_000));
        with_viewer("operator", |viewer| {
            let rows = snapshot().batches(&name("system.ledger.writers"), viewer, &facts).unwrap();
            lines(&rows, "writer last_beat state")
        })
    };
    assert!(told(230).ends_with(" open\n") && told(260).ends_with(" silent\n"), "{}", told(260));
    assert!(told(1_000_000).starts_with("cli-0 1970-01-01T00:01:52Z closed\n"));
}

/// `bob` may see `features.trend` but nothing of `raw.labs`; `ann` owns all; the others are roles.
fn with_viewer<T>(who: &str, then: impl FnOnce(&Viewer<'_>) -> T) -> T {
    let trend_nodes = (0..=2).map(|o| Node::new(TREND, o));
    let (who, ticket) = who.strip_suffix(" with a ticket").map_or((who, None), |w| (w, Some("INC-1".to_string())));
    let (principal, known) = match who {
        "bob" => {
            ("research/bob", Known { datasets: vec![trend().id], columns: trend_nodes.collect(), ..Known::default() })
        }
        "bob, open" => (
            "research/bob",
            Known { datasets: vec![trend().id], columns: trend_nodes.collect(), open: true, ..Known::default() },
        ),
        "engineer" => (
            "eng/dev",
            Known {
                datasets: vec![trend().id, labs().id],
                columns: trend_nodes.chain((0..=2).map(|o| Node::new(LABS, o))).collect(),
                ..Known::default()
            },
        ),
        "ann" => ("clinic/ann", Known { owned: vec![trend().id, labs().id], ..Known::default() }),
        other => (other, Known::default()),
    };
    let viewer = Viewer { principal: principal.into(), roles: BTreeSet::from([who.to_string()]), ticket, sees: &known };
    then(&viewer)
}

fn lines(batches: &[RecordBatch], columns: &str) -> String {
    let options = FormatOptions::new().with_null("-");
    let mut out = String::new();
    for batch in batches {
        let all: Vec<usize> = match columns {
            "*" => (0..batch.num_columns()).collect(),
            names => names.split(' ').map(|n| batch.schema().index_of(n).unwrap()).collect(),
        };
        let arrays: Vec<_> =
            all.iter().map(|at| ArrayFormatter::try_new(batch.column(*at), &options).unwrap()).collect();
        for row in 0..batch.num_rows() {
            let cells: Vec<String> = arrays.iter().map(|a| short(&a.value(row).to_string())).collect();
            out.push_str(cells.join(" ").trim_end());
            out.push('\n');
        }
    }
    out
}

/// Ids made of small numbers as `#n`, digests of one byte as `byte…`.
fn short(cell: &str) -> String {
    if let Ok(id) = uuid::Uuid::parse_str(cell)
        && id.as_u128() < 1000
    {
        return format!("#{}", id.as_u128());
    }
    if cell.len() == 64 && cell.is_ascii() && cell.bytes().all(|b| b.is_ascii_hexdigit()) {
        return format!("{}…", &cell[..2]);
    }
    cell.to_string()
}

fn check(who: &str, table: &str, columns: &str, expected: Expect) {
    check_at(&snapshot(), who, table, columns, expected);
}

fn check_at(snapshot: &Snapshot, who: &str, table: &str, columns: &str, expected: Expect) {
    with_viewer(who, |viewer| {
        expected.assert_eq(&lines(&snapshot.batches(&name(table), viewer, &facts()).unwrap(), columns));
    });
}

fn everything(snapshot: &Snapshot, who: &str) -> String {
    with_viewer(who, |viewer| {
        tables()
            .iter()
            .map(|t| {
                let rows = snapshot.batches(&t.definition.name, viewer, &facts()).unwrap();
                format!("{}\n{}", t.definition.name, lines(&rows, "*"))
            })
            .collect()
    })
}

#[test]
fn numbers_of_columns_are_frozen() {
    let first: Vec<String> = tables()
        .iter()
        .map(|t| {
            let columns = &t.definition.columns;
            assert_eq!(columns.len(), t.schema.fields().len());
            assert!(columns.len() < 64);
            format!("{} {}+{}", t.definition.name, columns[0].field, columns.len())
        })
        .collect();
    expect![[r#"
        system.catalog.datasets 65+15
        system.catalog.columns 129+12
        system.catalog.versions 193+20
        system.lineage.runs 257+19
        system.lineage.columns 321+16
        system.lineage.inputs 385+6
        system.lineage.hops 449+9
        system.lineage.labels 513+8
        system.lineage.edges 577+8
        system.access.audit 641+31
        system.access.column_reads 705+7
        system.policy.bundles 769+5
        system.policy.policies 833+3
        system.policy.row_sets 897+3
        system.policy.tags 961+3
        system.policy.grants 1025+10
        system.policy.denials 1089+5
        system.ledger.entries 1153+8
        system.ledger.checkpoints 1217+5
        system.ledger.writers 1281+5
        system.ledger.keys 1345+5
        system.quality.expectations 1409+9
        system.catalog.models 1473+10
        system.lineage.scans 1665+9
        system.metrics.slo 1729+4
        system.quality.profiles 1793+12
        system.quality.profile_cells 1857+8
        system.quality.drift 1921+8
        system.access.requests 1985+13
        system.access.grants 2049+13
        system.ml.predictions 2113+9
        system.ml.drift 2177+12"#]]
    .assert_eq(&first.join("\n"));
}

#[test]
fn expectation_tables() {
    let t = "system.quality.expectations";
    check(
        "auditor",
        t,
        "*",
        expect![[r#"
            #110 features.trend 1 1 hdl > 5 warn 3 1 false
        "#]],
    );
    check("nobody", t, "*", expect![[""]]);
}

/// Values of a column are for whoever could count them: no role gives them.
#[test]
fn profile_tables() {
    let t = "system.quality.profiles";
    check(
        "bob, open",
        t,
        "*",
        expect![[r#"
        #110 features.trend 1 1 id 60 - 7 66.5 2 2 10
        #110 features.trend 1 2 m 60 - 7 66.5 1 2 10
    "#]],
    );
    check(
        "bob, open",
        "system.quality.profile_cells",
        "*",
        expect![[r#"
        features.trend 1 1 id 1 64 71 20
        features.trend 1 1 id 2 72 79 38
        features.trend 1 2 m 1 eu eu 58
    "#]],
    );
    check("bob, open", "system.quality.drift", "*", expect![[""]]);
    for who in ["bob", "auditor", "engineer", "nobody"] {
        check(who, t, "*", expect![[""]]);
        check(who, "system.quality.profile_cells", "*", expect![[""]]);
    }
}

#[test]
fn any_interleaving_of_writers_gives_the_same_tables() {
    let expected = everything(&snapshot(), "auditor");
    let (cli, serve) = (cli(), serve());
    for step in 0..=cli.len() {
        let mut fold = Fold::new();
        // Some of one, all of the other, the rest; frozen in between, so that later entries come on top.
        cli[..step].iter().for_each(|e| fold.apply(e.clone()).unwrap());
        fold.freeze(&catalog(1)).unwrap();
        serve.iter().for_each(|e| fold.apply(e.clone()).unwrap());
        let behind = fold.freeze(&catalog(4)).unwrap();
        cli[step..].iter().for_each(|e| fold.apply(e.clone()).unwrap());
        assert_eq!(everything(&fold.freeze(&catalog(4)).unwrap(), "auditor"), expected, "after {step}");
        // What was frozen stays as it was, and never shows a version without its lineage.
        assert_eq!(behind.complete().is_err(), step < 10);
    }
}

#[test]
fn a_frozen_snapshot_does_not_see_later_outcomes() {
    let mut fold = Fold::new();
    cli().into_iter().for_each(|e| fold.apply(e).unwrap());
    let mut serve = serve().into_iter();
    serve.by_ref().take(5).for_each(|e| fold.apply(e).unwrap());
    let before = fold.freeze(&catalog(4)).unwrap();
    serve.for_each(|e| fold.apply(e).unwrap());
    check_at(
        &before,
        "auditor",
        "system.access.audit",
        "entry_id action outcome rows",
        expect![[r#"
        #102 admin success -
        #103 publish success -
        #104 admin success -
        #106 publish success 9
        #110 publish success -
        #201 read success 3
        #202 deny denied -
        #203 serve pending -
        #204 serve pending -
    "#]],
    );
}

#[test]
fn as_of_an_earlier_position() {
    let mut fold = Fold::new();
    cli().into_iter().chain(serve()).for_each(|e| fold.apply(e).unwrap());
    fold.freeze(&catalog(4)).unwrap();
    let then = fold.freeze(&catalog(3)).unwrap();
    check_at(
        &then,
        "auditor",
        "system.access.audit",
        "entry_id action dataset outcome",
        expect![[r#"
        #102 admin - success
        #103 publish raw.labs success
        #104 admin - success
        #106 publish raw.labs success
    "#]],
    );
    check_at(&then, "auditor", "system.lineage.edges", "*", expect![[""]]);
    check_at(
        &then,
        "auditor",
        "system.lineage.runs",
        "run_id job state",
        expect![[r#"
        #105 features.trend written
    "#]],
    );
    check_at(
        &then,
        "auditor",
        "system.ledger.writers",
        "*",
        expect![[r#"
        cli-0 1 9 1970-01-01T00:01:49Z open
    "#]],
    );
}

#[test]
fn a_completed_append_counts_once() {
    let mut fold = Fold::new();
    cli().into_iter().chain(serve()).for_each(|e| fold.apply(e).unwrap());
    let mut twice = cli()[10].as_ref().clone();
    (twice.writer, twice.seq) = (WriterId::new("anchor").unwrap(), Seq(7));
    fold.apply(Arc::new(twice)).unwrap();
    let doubled = fold.freeze(&catalog(4)).unwrap();
    let publishes = |s: &Snapshot, table: &str, columns| {
        with_viewer("auditor", |v| lines(&s.batches(&name(table), v, &facts()).unwrap(), columns))
            .lines()
            .filter(|l| l.starts_with("#110"))
            .map(str::to_string)
            .collect::<Vec<_>>()
    };
    assert_eq!(publishes(&doubled, "system.access.audit", "entry_id writer seq"), ["#110 anchor 7"]);
    assert_eq!(publishes(&doubled, "system.ledger.entries", "entry_id writer seq"), ["#110 anchor 7", "#110 cli-0 10"]);
}

#[test]
fn gaps_are_refused_and_repeats_passed_over() {
    let mut fold = Fold::new();
    let cli = cli();
    fold.apply(cli[0].clone()).unwrap();
    fold.apply(cli[0].clone()).unwrap();
    assert_eq!(fold.head(&cli[0].writer), Some(Seq(0)));
    expect!["entry cli-0/2 follows cli-0/0: the entries between are missing"]
        .assert_eq(&fold.apply(cli[2].clone()).unwrap_err().to_string());
}

#[test]
fn lineage_that_is_missing_or_foreign_is_refused() {
    let mut fold = Fold::new();
    let cli = cli();
    cli[..9].iter().for_each(|e| fold.apply(e.clone()).unwrap());
    let behind = fold.freeze(&catalog(4)).unwrap();
    with_viewer("auditor", |viewer| {
        let refused = behind.batches(&name("system.lineage.edges"), viewer, &facts()).unwrap_err();
        expect!["lineage of `features.trend@1` is not in the entries read so far; help: try again, another process is still writing it"].assert_eq(&refused.to_string());
        let refused = behind.batches(&name("system.access.nothing"), viewer, &facts()).unwrap_err();
        expect!["table `system.access.nothing` not found"].assert_eq(&refused.to_string());
    });
    let mut foreign = cli[9].as_ref().clone();
    foreign.entry.payload = Payload::Lineage(LineageRecord { identity: hash(55), hash: hash(8), lineage: lineage() });
    fold.apply(Arc::new(foreign)).unwrap();
    expect!["lineage of `features.trend@1` does not belong to it"]
        .assert_eq(&fold.freeze(&catalog(4)).unwrap_err().to_string());
}

#[test]
fn catalog_tables() {
    let t = "system.catalog.datasets";
    check(
        "ann",
        t,
        "dataset kind owner purposes entity event_time status entry_id",
        expect![[r#"
        features.trend feature_view hepatology [research] patient id active #110
        raw.labs source clinic [research] patient id active #103
    "#]],
    );
    check(
        "bob",
        t,
        "dataset",
        expect![[r#"
        features.trend
    "#]],
    );
    check("nobody", t, "dataset", expect![[""]]);
    let t = "system.catalog.versions";
    check(
        "auditor",
        t,
        "*",
        expect![[r#"
        features.trend 1 0 05… 0e… 09… SELECT 'literal' abc false 1 7 3 1970-01-01T00:00:00Z 1970-01-01T00:00:01Z - 1970-01-01T00:01:50Z clinic/ann first published #110
        raw.labs 1 - 0c… 0c… - SELECT 'literal' - - - - - - - - 1970-01-01T00:01:43Z clinic/ann - published #103
    "#]],
    );
    let some = "dataset version content_root sql_text row_count event_max published_by because";
    check(
        "bob",
        t,
        some,
        expect![[r#"
        features.trend 1 - - - - - first
    "#]],
    );
    check(
        "bob, open",
        t,
        some,
        expect![[r#"
        features.trend 1 0e… - 3 1970-01-01T00:00:01Z - first
    "#]],
    );
    check(
        "investigator",
        t,
        some,
        expect![[r#"
        features.trend 1 - - - - clinic/ann first
        raw.labs 1 - - - - clinic/ann -
    "#]],
    );
    check(
        "ann",
        t,
        some,
        expect![[r#"
        features.trend 1 - SELECT 'literal' - - clinic/ann first
        raw.labs 1 - SELECT 'literal' - - clinic/ann -
    "#]],
    );
    let columns = |who: &str| {
        with_viewer(who, |v| {
            lines(&snapshot().batches(&name("system.catalog.columns"), v, &facts()).unwrap(), "*")
                .lines()
                .filter(|l| !l.contains(" system."))
                .map(|l| format!("{l}\n"))
                .collect::<String>()
        })
    };
    expect![[r#"
        262145 features.trend 1 1 1 id Int64 true [] declared hepatology #110
        262146 features.trend 1 2 2 m Float64 true [clinical] propagated hepatology #110
        131073 raw.labs 1 1 1 id Int64 true [] declared clinic #103
        131074 raw.labs 1 2 2 value Float64 true [clinical] declared clinic #103
    "#]]
    .assert_eq(&columns("engineer"));
    expect![[r#"
        262145 features.trend 1 1 1 id Int64 true [] declared hepatology #110
        262146 features.trend 1 2 2 m Float64 true [clinical] propagated hepatology #110
    "#]]
    .assert_eq(&columns("bob"));
}

#[test]
fn system_columns_are_in_the_catalog() {
    let found = with_viewer("nobody", |v| {
        lines(&snapshot().batches(&name("system.catalog.columns"), v, &facts()).unwrap(), "*")
            .lines()
            .filter(|l| l.contains("system.access.audit 0 8 "))
            .map(str::to_string)
            .collect::<String>()
    });
    expect!["648 system.access.audit 0 8 648 principal Utf8 true [] declared - -"].assert_eq(&found);
}

#[test]
fn lineage_tables() {
    let t = "system.lineage.edges";
    check(
        "auditor",
        t,
        "*",
        expect![[r#"
        131072 262144 INDIRECT ROWS false true observed #109
        131073 262144 INDIRECT GROUP_BY false true observed #109
        131073 262145 DIRECT IDENTITY false true observed #109
        131074 262146 DIRECT AGGREGATION true true observed #109
        131075 262144 INDIRECT FILTER false true observed #109
        262144 262145 INDIRECT ROWS false true observed #109
        262144 262146 INDIRECT ROWS false true observed #109
    "#]],
    );
    check(
        "engineer",
        t,
        "source_node target_node kind subtype masking",
        expect![[r#"
        131072 262144 INDIRECT ROWS false
        131073 262144 INDIRECT GROUP_BY false
        131073 262145 DIRECT IDENTITY false
        131074 262146 DIRECT AGGREGATION true
        262144 262145 INDIRECT ROWS false
        262144 262146 INDIRECT ROWS false
    "#]],
    );
    check(
        "bob",
        t,
        "source_node target_node kind subtype",
        expect![[r#"
        262144 262145 INDIRECT ROWS
        262144 262146 INDIRECT ROWS
    "#]],
    );
    let t = "system.lineage.columns";
    check(
        "auditor",
        t,
        "*",
        expect![[r#"
        #109 features.trend 1 0 * raw.labs 1 region INDIRECT FILTER false - [] eu true observed
        #109 features.trend 1 0 * raw.labs 1 id INDIRECT GROUP_BY false - [] - true observed
        #109 features.trend 1 1 id raw.labs 1 id DIRECT IDENTITY false - [] - true observed
        #109 features.trend 1 2 m raw.labs 1 value DIRECT AGGREGATION true avg(value) [] research.policy1 true observed
    "#]],
    );
    let some = "output_column source_dataset source_column subtype expression policy_id";
    check(
        "engineer",
        t,
        some,
        expect![[r#"
        * raw.labs id GROUP_BY - -
        id raw.labs id IDENTITY - -
        m raw.labs value AGGREGATION mask(research.policy1, partial) research.policy1
    "#]],
    );
    check(
        "investigator",
        t,
        some,
        expect![[r#"
            * raw.labs region FILTER - eu
            * raw.labs id GROUP_BY - -
            id raw.labs id IDENTITY - -
            m raw.labs value AGGREGATION avg(value) research.policy1
        "#]],
    );
    check(
        "investigator with a ticket",
        t,
        some,
        expect![[r#"
        * raw.labs region FILTER - eu
        * raw.labs id GROUP_BY - -
        id raw.labs id IDENTITY - -
        m raw.labs value AGGREGATION avg(value) research.policy1
    "#]],
    );
    check("bob", t, some, expect![[""]]);
    check(
        "auditor",
        "system.lineage.inputs",
        "*",
        expect![[r#"
        #109 features.trend 1 observed raw.labs 1
    "#]],
    );
    check("bob", "system.lineage.inputs", "*", expect![[""]]);
    check(
        "auditor",
        "system.lineage.hops",
        "*",
        expect![[r#"
        #109 features.trend 1 observed 0 1 1 [0.1] avg(value)
    "#]],
    );
    check("engineer", "system.lineage.hops", "*", expect![[""]]);
    check(
        "bob",
        "system.lineage.labels",
        "*",
        expect![[r#"
        #110 features.trend 1 observed 2 explicit clinical -
        #110 features.trend 1 observed 2 implicit clinical -
    "#]],
    );
    check(
        "auditor",
        "system.lineage.runs",
        "*",
        expect![[r#"
        #105 features.trend - ended clinic/ann - research prod - - 06… abc 1 1970-01-01T00:01:45Z 1970-01-01T00:01:51Z - 3 - #111
    "#]],
    );
    check(
        "bob",
        "system.lineage.runs",
        "run_id job state principal rows_out",
        expect![[r#"
        #105 features.trend ended - -
    "#]],
    );
}

#[test]
fn access_tables() {
    let t = "system.access.audit";
    check(
        "auditor",
        t,
        "*",
        expect![[r#"
        #102 0 cli-0 2 1 1970-01-01T00:01:42Z admin clinic/ann [clinic] - - - research - prod - - - - - - allow 01… - - - false success - - -
        #103 0 cli-0 3 2 1970-01-01T00:01:43Z publish clinic/ann [clinic] - - - research - prod - - - - raw.labs 1 allow 01… - - - false success - - -
        #104 0 cli-0 4 3 1970-01-01T00:01:44Z admin clinic/ann [clinic] - - - research - prod - - - - - - allow 01… - - - false success - - -
        #106 0 cli-0 6 3 1970-01-01T00:01:46Z publish clinic/ann [clinic] - - - research - prod - - - - raw.labs 1 allow 01… 28… 9 - false success - - 03…
        #110 0 cli-0 10 4 1970-01-01T00:01:50Z publish clinic/ann [clinic] - - - research - prod - - - - features.trend 1 allow 01… - - - false success - - -
        #201 0 serve 1 4 1970-01-01T00:03:21Z read research/bob [research] - - - research - prod - - - - features.trend 1 allow 01… 28… 3 100 true success - 50 03…
        #202 0 serve 2 4 1970-01-01T00:03:22Z deny research/bob [research] - - - billing - prod - - - - - - deny 01… - - - false denied C4001 - -
        #203 0 serve 3 4 1970-01-01T00:03:23Z serve care/eve [care] - - - research INC-1 prod - - - - features.trend 1 allow 01… 28… - - false pending - - 03…
        #204 0 serve 4 4 1970-01-01T00:03:24Z serve care/eve [care] - - - research - prod - - - - features.trend 1 allow 01… 28… 2 64 true failure client_cancelled 70 03…
        #206 0 serve 6 4 1970-01-01T00:03:26Z read investigator/ira [investigator] - - - research - prod - - - - system.access.audit 4 allow 01… 28… - - false success - - 03…
        #207 0 serve 7 4 1970-01-01T00:03:27Z bypass care/eve [care] - - - research - prod - - - - - - deny 01… - - - false denied foreign_ticket - -
    "#]],
    );
    let some = "entry_id action principal client_addr dataset decision outcome rows code";
    check(
        "bob",
        t,
        some,
        expect![[r#"
        #201 read research/bob - features.trend allow success 3 -
        #202 deny research/bob - - deny denied - C4001
    "#]],
    );
    check(
        "ann",
        t,
        some,
        expect![[r#"
        #102 admin clinic/ann - - allow success - -
        #103 publish clinic/ann - raw.labs allow success - -
        #104 admin clinic/ann - - allow success - -
        #106 publish clinic/ann - raw.labs allow success 9 -
        #110 publish clinic/ann - features.trend allow success - -
        #201 read research/bob - features.trend allow success 3 -
        #203 serve care/eve - features.trend allow pending - -
        #204 serve care/eve - features.trend allow failure 2 client_cancelled
    "#]],
    );
    check(
        "investigator with a ticket",
        t,
        "entry_id client_addr",
        expect![[r#"
        #102 10.0.0.1
        #103 10.0.0.1
        #104 10.0.0.1
        #106 10.0.0.1
        #110 10.0.0.1
        #201 10.0.0.1
        #202 10.0.0.1
        #203 10.0.0.1
        #204 10.0.0.1
        #206 10.0.0.1
        #207 10.0.0.1
    "#]],
    );
    check("operator", t, some, expect![[""]]);
    let t = "system.access.column_reads";
    check(
        "auditor",
        t,
        "*",
        expect![[r#"
        #106 131073 GROUP_BY true raw false [research.policy1]
        #106 131074 PROJECT true partial true [research.policy1]
        #106 131075 FILTER false none true [research.policy1]
        #201 262146 PROJECT true token true [research.policy1]
        #203 262146 PROJECT true raw false [research.policy1]
        #204 262146 PROJECT true raw false [research.policy1]
        #206 648 PROJECT true raw false [research.policy1]
    "#]],
    );
    check(
        "bob",
        t,
        "*",
        expect![[r#"
        #201 262146 PROJECT true token true [research.policy1]
    "#]],
    );
}

#[test]
fn policy_tables() {
    check(
        "auditor",
        "system.policy.bundles",
        "*",
        expect![[r#"
        1 01… [clinic/ann] 3 -
    "#]],
    );
    check(
        "bob",
        "system.policy.bundles",
        "epoch approvers",
        expect![[r#"
        1 -
    "#]],
    );
    check(
        "admin",
        "system.policy.policies",
        "*",
        expect![[r#"
        research.policy1 permit permit …
    "#]],
    );
    check("bob", "system.policy.policies", "*", expect![[""]]);
    check(
        "ann",
        "system.policy.row_sets",
        "*",
        expect![[r#"
        consented raw.labs region = 'eu'
        eu raw.labs region = 'eu'
    "#]],
    );
    check("engineer", "system.policy.row_sets", "*", expect![[""]]);
    check(
        "engineer",
        "system.policy.tags",
        "*",
        expect![[r#"
        raw.labs 2 clinical
    "#]],
    );
    check("bob", "system.policy.tags", "*", expect![[""]]);
    check(
        "auditor",
        "system.policy.grants",
        "*",
        expect![[r#"
        28… 01… 10… system.access.audit 648 raw [eu] [consented] [research.policy1] -
        28… 01… 0a… raw.labs 131073 raw [eu] [consented] [research.policy1] -
        28… 01… 0a… raw.labs 131074 partial [eu] [consented] [research.policy1] -
        28… 01… 0a… raw.labs 131075 none [eu] [consented] [research.policy1] -
        28… 01… 0c… features.trend 262146 token [eu] [consented] [research.policy1] -
    "#]],
    );
    check(
        "bob",
        "system.policy.grants",
        "*",
        expect![[r#"
        28… 01… 0c… features.trend 262146 token [] [] [research.policy1] -
    "#]],
    );
    check(
        "auditor",
        "system.policy.denials",
        "*",
        expect![[r#"
        #202 research/bob billing 46… [C4001]
    "#]],
    );
    check("ann", "system.policy.denials", "*", expect![[""]]);
}

#[test]
fn ledger_tables() {
    check(
        "auditor",
        "system.ledger.entries",
        "*",
        expect![[r#"
        #100 cli-0 0 42 1970-01-01T00:01:40Z 0 64… 64
        #101 cli-0 1 40 1970-01-01T00:01:41Z 0 65… 65
        #102 cli-0 2 1 1970-01-01T00:01:42Z 1 66… 66
        #103 cli-0 3 1 1970-01-01T00:01:43Z 2 67… 67
        #104 cli-0 4 2 1970-01-01T00:01:44Z 3 68… 68
        #105 cli-0 5 10 1970-01-01T00:01:45Z 3 69… 69
        #106 cli-0 6 20 1970-01-01T00:01:46Z 3 6a… 6a
        #107 cli-0 7 22 1970-01-01T00:01:47Z 3 6b… 6b
        #108 cli-0 8 10 1970-01-01T00:01:48Z 3 6c… 6c
        #109 cli-0 9 11 1970-01-01T00:01:49Z 3 6d… 6d
        #110 cli-0 10 12 1970-01-01T00:01:50Z 4 6e… 6e
        #111 cli-0 11 10 1970-01-01T00:01:51Z 4 6f… 6f
        #112 cli-0 12 42 1970-01-01T00:01:52Z 4 70… 70
        #200 serve 0 42 1970-01-01T00:03:20Z 4 c8… c8
        #201 serve 1 23 1970-01-01T00:03:21Z 4 c9… c9
        #202 serve 2 24 1970-01-01T00:03:22Z 4 ca… ca
        #203 serve 3 20 1970-01-01T00:03:23Z 4 cb… cb
        #204 serve 4 20 1970-01-01T00:03:24Z 4 cc… cc
        #205 serve 5 22 1970-01-01T00:03:25Z 4 cd… cd
        #206 serve 6 23 1970-01-01T00:03:26Z 4 ce… ce
        #207 serve 7 25 1970-01-01T00:03:27Z 4 cf… cf
    "#]],
    );
    check(
        "investigator",
        "system.ledger.entries",
        "entry_id raw",
        expect![[r#"
        #100 -
        #101 -
        #102 -
        #103 -
        #104 -
        #105 -
        #106 -
        #107 -
        #108 -
        #109 -
        #110 -
        #111 -
        #112 -
        #200 -
        #201 -
        #202 -
        #203 -
        #204 -
        #205 -
        #206 -
        #207 -
    "#]],
    );
    check(
        "bob",
        "system.ledger.entries",
        "entry_id",
        expect![[r#"
        #201
        #202
    "#]],
    );
    check("operator", "system.ledger.entries", "*", expect![[""]]);
    check(
        "operator",
        "system.ledger.writers",
        "*",
        expect![[r#"
        cli-0 1 12 1970-01-01T00:01:52Z closed
        serve 3 7 1970-01-01T00:03:27Z open
    "#]],
    );
    check(
        "operator",
        "system.ledger.keys",
        "*",
        expect![[r#"
        1 v1 2 - active
    "#]],
    );
    check(
        "operator",
        "system.metrics.slo",
        "*",
        expect![[r#"
        entries 21 1 true
    "#]],
    );
    check(
        "operator",
        "system.ledger.checkpoints",
        "*",
        expect![[r#"
        w/sha3-256/cli-0 13 02… note 1970-01-01T00:00:00Z
    "#]],
    );
    check("bob", "system.ledger.checkpoints", "*", expect![[""]]);
}

#[test]
fn closure() {
    let s = snapshot();
    let walk = |who: &str, column: &str, way, depth| {
        with_viewer(who, |v| {
            let from = s.node(column, Some(1)).unwrap();
            lines(
                &[s.lineage_closure(v, from, way, depth).unwrap()],
                "dataset version column_name hop kind subtype masking exact",
            )
        })
    };
    expect![[r#"
        raw.labs 1 value 1 DIRECT AGGREGATION true true
        features.trend 1 * 1 INDIRECT ROWS false true
        raw.labs 1 * 2 INDIRECT ROWS false true
        raw.labs 1 id 2 INDIRECT GROUP_BY false true
        raw.labs 1 region 2 INDIRECT FILTER false true
    "#]]
    .assert_eq(&walk("auditor", "features.trend.m", Direction::Upstream, 9));
    expect![[r#"
        raw.labs 1 value 1 DIRECT AGGREGATION true true
        features.trend 1 * 1 INDIRECT ROWS false true
    "#]]
    .assert_eq(&walk("auditor", "features.trend.m", Direction::Upstream, 1));
    expect![[r#"
        raw.labs 1 value 1 DIRECT AGGREGATION true true
        features.trend 1 * 1 INDIRECT ROWS false true
        raw.labs 1 * 2 INDIRECT ROWS false true
        raw.labs 1 id 2 INDIRECT GROUP_BY false true
    "#]]
    .assert_eq(&walk("engineer", "features.trend.m", Direction::Upstream, 9));
    expect![[r#"
        features.trend 1 * 1 INDIRECT ROWS false true
    "#]]
    .assert_eq(&walk("bob", "features.trend.m", Direction::Upstream, 9));
    expect![[r#"
        features.trend 1 m 1 DIRECT AGGREGATION true true
    "#]]
    .assert_eq(&walk("auditor", "raw.labs.value", Direction::Downstream, 9));
    assert_eq!(walk("bob", "raw.labs.value", Direction::Downstream, 9), "");
    assert_eq!(s.node("features.trend.none", None), None);
    assert_eq!(s.node("features.trend.*", None), Some(Node::new(TREND, 0)));
}
