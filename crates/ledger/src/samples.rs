//! Entries of every kind, for tests: every optional field set in one, none in another.

use crate::format::EntryBytes;
use arrow_schema::{DataType, Field, TimeUnit};
use custody_model::*;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};
use uuid::Uuid;

fn id(n: u8) -> EntryId {
    EntryId(uuid::Builder::from_unix_timestamp_millis(1_800_000_000_000 + u64::from(n), &[n; 10]).into_uuid())
}

fn dataset(n: u8) -> DatasetId {
    DatasetId(Uuid::new_v8([n; 16]))
}

fn hash(n: u8) -> Hash {
    Hash([n; 32])
}

fn set<T: Ord + for<'a> From<&'a str>>(items: &[&str]) -> BTreeSet<T> {
    items.iter().map(|i| T::from(i)).collect()
}

fn classes(items: &[&str]) -> ClassSet {
    items.iter().map(|i| Class(i.to_string())).collect()
}

fn attributes() -> BTreeMap<String, BTreeSet<String>> {
    [("site".to_string(), set(&["north", "south"])), ("team".to_string(), BTreeSet::new())].into()
}

pub(crate) fn sealed(length: usize) -> SealedBox {
    SealedBox { key: "subject/ann".into(), nonce: [3; 12], ciphertext: vec![0xab; length] }
}

fn definition() -> DatasetDefinition {
    let utc = DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
    let list = DataType::List(Arc::new(Field::new("element", DataType::Float64, false)));
    let nested = Field::new("b", DataType::List(Arc::new(Field::new_list_field(DataType::Utf8, true))), false);
    let structure = DataType::Struct(vec![Field::new("a", DataType::Int32, true), nested].into());
    let types = [
        ("patient_id", DataType::Int64, false),
        ("at", utc, true),
        ("values", list, true),
        ("what", structure, true),
        ("cost", DataType::Decimal128(18, 4), true),
        ("day", DataType::Date32, true),
        ("key", DataType::Dictionary(Box::new(DataType::Int32), Box::new(DataType::Utf8)), true),
    ];
    let column = |(i, (name, data_type, nullable)): (usize, (&str, DataType, bool))| ColumnDef {
        field: FieldId(i as u32 + 1),
        name: name.into(),
        data_type,
        nullable,
    };
    DatasetDefinition {
        id: dataset(1),
        name: "features.labs".parse().unwrap(),
        kind: DatasetKind::FeatureView,
        columns: types.into_iter().enumerate().map(column).collect(),
        entity: Some("patient".into()),
        keys: vec![FieldId(1)],
        event_time: Some(FieldId(2)),
        known_time: None,
        ttl: Some("5 years".into()),
        owner: "local/ann".into(),
        purposes: set(&["care", "research"]),
        comment: Some(String::new()),
        sql: "CREATE FEATURE VIEW …".into(),
    }
}

fn bare_definition() -> DatasetDefinition {
    DatasetDefinition {
        columns: vec![],
        entity: None,
        keys: vec![],
        event_time: None,
        ttl: None,
        owner: String::new(),
        purposes: BTreeSet::new(),
        comment: None,
        sql: String::new(),
        ..definition()
    }
}

fn input() -> InputRef {
    InputRef { dataset: dataset(2), version: 7, made_at: ControlSeq(70_000), content: hash(2) }
}

pub(crate) fn lineage() -> Lineage {
    let table = |n: u8| TableVersion {
        dataset: dataset(n),
        name: "raw.labs".parse().unwrap(),
        version: 3,
        made_at: ControlSeq(9),
        content: hash(n),
    };
    let atom = |table, field| Atom { table, field, views: vec![], masks: vec![], by_policy: None, rules: vec![] };
    let governed = Atom {
        views: vec!["views.v".into()],
        masks: vec![("mask-year".into(), Rung::Partial)],
        by_policy: Some("rows-site".into()),
        rules: vec![RuleVersion { rule: "k-anonymous".into(), epoch: 2 }],
        ..atom(1, Some(FieldId(4)))
    };
    Lineage {
        exact: true,
        unknown: vec![],
        volatile: false,
        inputs: vec![table(1), table(2)],
        atoms: vec![atom(0, None), atom(0, Some(FieldId(2))), governed],
        outputs: vec![
            OutputFlow {
                name: "value".into(),
                direct: vec![(Direct::Identity, 1), (Direct::Aggregation, 1), (Direct::Aggregation, 2)],
                field: vec![Influence { kind: Indirect::Conditional, atom: 2 }],
                hops: vec![],
            },
            OutputFlow { name: "one".into(), direct: vec![], field: vec![], hops: vec![] },
        ],
        dataset: vec![
            Influence { kind: Indirect::Filter, atom: 0 },
            Influence { kind: Indirect::Filter, atom: 2 },
            Influence { kind: Indirect::Sort, atom: 1 },
        ],
        evaluated: vec![1, 2],
        hops: vec![],
        shapes: false,
    }
}

/// A foreign dataset, one of ours, and every way of taking part.
pub(crate) fn asserted() -> AssertedLineage {
    let table = |n: u8, name: &str, text: &str, version| AssertedTable {
        dataset: dataset(n),
        name: name.parse().unwrap(),
        namespace: "s3://lake".into(),
        text: text.into(),
        version,
    };
    let source = |table, column: Option<&str>, kind, masking| AssertedSource {
        table,
        column: column.map(str::to_string),
        kind,
        masking,
    };
    let flows = [Direct::Identity, Direct::Transformation, Direct::Aggregation].map(FlowKind::Direct);
    let decides = [Indirect::Filter, Indirect::Join, Indirect::GroupBy, Indirect::Sort, Indirect::Window];
    let decides = decides.into_iter().chain([Indirect::Conditional]).map(FlowKind::Indirect);
    AssertedLineage {
        event: hash(13),
        producer: "https://example.org/etl".into(),
        job_namespace: "airflow".into(),
        job: "nightly".into(),
        run: "01890000-0000-7000-8000-000000000000".into(),
        at: WallNanos(1_800_000_000_000_000_000),
        tables: vec![
            table(3, "external.out_00000001", "out", Some(0)),
            table(1, "features.labs", "features.labs", None),
        ],
        outputs: vec![
            AssertedOutput { name: "nothing".into(), from: vec![] },
            AssertedOutput {
                name: "value".into(),
                from: flows.into_iter().map(|kind| source(1, Some("value"), kind, true)).collect(),
            },
        ],
        rows: decides.map(|kind| source(1, None, kind, false)).collect(),
    }
}

pub(crate) fn intent(granted_bytes: u64) -> ReadIntent {
    ReadIntent {
        statement: Some(sealed(40)),
        statement_hash: hash(3),
        lineage_hash: Some(hash(4)),
        plan: hash(5),
        granted_bytes,
        prediction: Some("p-1".into()),
    }
}

fn run(state: RunState) -> RunRecord {
    let written = state != RunState::Started;
    RunRecord {
        state,
        job: "features.labs".parse().unwrap(),
        dataset: dataset(1),
        plan: hash(6),
        engine_version: 1,
        seed: written.then_some(42),
        identity: hash(7),
        inputs: vec![input()],
        content_root: written.then_some(hash(8)),
        files: if written {
            vec![FileDigest { path: "a.parquet".into(), bytes: 1 << 33, sha3: hash(9) }]
        } else {
            vec![]
        },
        publish_entry: written.then(|| id(9)),
        rows: written.then_some(0),
        error: (state == RunState::Failed).then(|| "C1001 out of memory".into()),
        git_commit: written.then(|| "abc".into()),
        git_dirty: written.then_some(false),
        quarantine_root: written.then_some(hash(12)),
        quarantine_files: if written {
            vec![FileDigest { path: "b.parquet".into(), bytes: 7, sha3: hash(13) }]
        } else {
            vec![]
        },
        expectations: if written { vec![expectation()] } else { vec![] },
        profile: None,
    }
}

fn expectation() -> ExpectationResult {
    ExpectationResult { check: "hdl > 5".into(), action: "quarantine".into(), checked: 400_125, violations: 2 }
}

fn publish() -> Publish {
    Publish {
        identity: hash(7),
        definition: definition(),
        version: 5,
        because: "later labs".into(),
        content_root: hash(8),
        rows: 400_123,
        event_range: Some((-1, 1_700_000_000_000_000)),
        schema_hash: hash(10),
        inputs: vec![input()],
        labels: vec![
            ClassLabel { explicit: classes(&["clinical", "pii"]), implicit: classes(&[]) },
            ClassLabel::default(),
        ],
        lineage: id(4),
        lineage_hash: hash(11),
        quarantine_root: Some(hash(12)),
        run: id(3),
        plan: hash(6),
        engine_version: 1,
        seed: None,
        git_commit: Some("abc".into()),
        git_dirty: Some(true),
        quarantine_rows: Some(2),
        expectations: vec![expectation()],
        profile: None,
    }
}

fn catalog_changes() -> Vec<CatalogChange> {
    vec![
        CatalogChange::Source(SourceSnapshot {
            definition: bare_definition(),
            version: 1,
            kind: SourceKind::Parquet,
            url: "sources/labs".into(),
            snapshot: hash(1),
            files: BlobRef { hash: hash(2), length: 1000 },
            bytes: 12_345_678,
        }),
        CatalogChange::Draft(Box::new(DraftRecord {
            principal: "local/ann".into(),
            definition: definition(),
            identity: hash(7),
            content_root: hash(8),
            rows: 3,
            labels: vec![ClassLabel::default()],
            inputs: vec![input()],
            lineage: lineage(),
            run: id(3),
        })),
        CatalogChange::View(ViewRecord { definition: definition(), definer: true, labels: vec![] }),
        CatalogChange::External { id: dataset(3), name: "other.t".parse().unwrap() },
        CatalogChange::Attributes(AttributeChange {
            dataset: dataset(1),
            owner: Some("role/x".into()),
            purposes: Some(BTreeSet::new()),
            comment: None,
            name: None,
        }),
        CatalogChange::Attributes(AttributeChange {
            dataset: dataset(1),
            owner: None,
            purposes: None,
            comment: None,
            name: None,
        }),
        CatalogChange::Token(TokenRecord {
            jti: "t-1".into(),
            revoked: false,
            principal: "service/train".into(),
            kind: "service".into(),
            roles: set(&["trainer"]),
            attributes: attributes(),
            purposes: set(&["model_training"]),
            audience: "clinic".into(),
            expires: WallNanos(1_900_000_000_000_000_000),
        }),
        CatalogChange::Admin(AdminRecord { principal: "local/ann".into(), roles: set(&["admin", "policy_admin"]) }),
    ]
}

/// Payloads that show every kind and every case of it.
pub(crate) fn payloads() -> Vec<Payload> {
    let mut all: Vec<Payload> = catalog_changes().into_iter().map(Payload::CatalogChange).collect();
    all.push(Payload::PolicyBundle(PolicyBundleRecord {
        epoch: 1,
        hash: hash(1),
        blob: BlobRef { hash: hash(2), length: 70_000 },
        approvers: vec!["local/ann".into(), "local/bob".into()],
        because: "first".into(),
        relabelled: vec![],
    }));
    all.extend(RunState::ALL.map(|state| Payload::Run(run(state))));
    let lineage = LineageRecord { identity: hash(7), hash: crate::lineage_hash(&lineage()), lineage: lineage() };
    let bare = ReadIntent { statement: None, lineage_hash: None, prediction: None, ..intent(0) };
    let ended = |code: Option<&str>| ReadOutcome { code: code.map(str::to_string), scans: vec![] };
    let denied = |statement_hash, targets| Denied { code: "C2001".into(), statement_hash, targets, count: 1 };
    let key = |revoke| KeyRecord { epoch: 2, vkey: "w+00000000+AQ==".into(), certificate: vec![1, 2, 3], revoke };
    let writer = WriterId::new("serve").unwrap();
    let head = HeadRecord { writer, incarnation: 1, size: 10, root: hash(1), frame: hash(2) };
    let open = OpenIntent { intent: id(1), seq: Seq(5), granted_bytes: 64 << 20 };
    all.extend([
        Payload::Lineage(lineage),
        Payload::Publish(Box::new(publish())),
        Payload::ReadIntent(intent(64 << 20)),
        Payload::ReadIntent(bare.clone()),
        Payload::ReadProgress(128 << 20),
        Payload::ReadOutcome(ended(None)),
        Payload::ReadOutcome(ended(Some("client_cancelled"))),
        Payload::Read(bare, ended(None)),
        Payload::Denied(denied(Some(hash(3)), vec![hash(4), hash(5)])),
        Payload::Denied(denied(None, vec![])),
        Payload::Bypass(BypassRecord { technique: "foreign_ticket".into(), evidence: vec![hash(1)] }),
        Payload::Key(key(None)),
        Payload::Key(key(Some(1))),
        Payload::Heads(vec![head]),
        Payload::Heads(vec![]),
        Payload::Writer(WriterEvent::Open { incarnation: 2, open: vec![open] }),
        Payload::Writer(WriterEvent::Open { incarnation: 1, open: vec![] }),
        Payload::Writer(WriterEvent::Close),
        Payload::Writer(WriterEvent::Heartbeat),
        Payload::Writer(WriterEvent::Recovery { segment: 1, offset: 512, length: 1024, hash: hash(1) }),
        Payload::Writer(WriterEvent::NoSpace),
        Payload::Writer(WriterEvent::ClockAnomaly { back: 3_600_000_000_000 }),
        Payload::Erasure(ErasureRecord {
            subject: hash(8),
            keys: ["subject-00".to_string(), "subject-01".to_string()].into(),
            approvers: vec!["local/ann".into(), "local/bob".into()],
            because: "asked for".into(),
        }),
        Payload::Asserted(Box::new(asserted())),
    ]);
    all
}

/// An entry with nothing optional.
pub(crate) fn bare(n: u8, payload: Payload) -> Entry {
    Entry {
        id: id(n),
        wall: WallNanos(1_800_000_000_000_000_000),
        reference: None,
        control_seq: ControlSeq(0),
        trace: None,
        actor: None,
        verb: Verb::Maintain,
        targets: vec![],
        outcome: Outcome::Success,
        reason: Reason::default(),
        measure: Measure::default(),
        payload,
    }
}

/// An entry with everything optional.
pub(crate) fn full(n: u8, payload: Payload) -> Entry {
    let mut roles = RoleSet::default();
    roles.insert(ColumnRole::Project);
    roles.insert(ColumnRole::Conditional);
    let column =
        TargetColumn { ordinal: 3, requested: true, roles, rung: Rung::Raw, policies: vec!["allow-all".into()] };
    let hidden = TargetColumn { ordinal: 0, requested: false, roles, rung: Rung::None, policies: vec![] };
    Entry {
        reference: Some(id(200)),
        control_seq: ControlSeq(184_213),
        trace: Some("00-4bf9".into()),
        actor: Some(Actor {
            principal: "local/ann".into(),
            kind: "user".into(),
            roles: set(&["analyst", "owner"]),
            attributes: attributes(),
            authentication: Authentication::Token,
            session: Some("s-1".into()),
            on_behalf_of: Some("local/bob".into()),
            token: Some("t-1".into()),
            address: Some(sealed(20)),
        }),
        verb: Verb::Read,
        targets: vec![Target {
            dataset: dataset(1),
            version: 5,
            made_at: ControlSeq(12),
            grant: Some(hash(1)),
            row_sets: vec!["rows-site".into()],
            columns: vec![column, hidden],
            owner: None,
            classes: vec![],
        }],
        outcome: Outcome::Pending,
        reason: Reason {
            purpose: Some("research".into()),
            ticket: Some("JIRA-1".into()),
            environment: "prod".into(),
            stage: "training".into(),
            region: Some("eu".into()),
            model: Some("risk".into()),
            model_version: Some(3),
            bundle: Some(hash(2)),
            exact: Some(false),
            durability: Durability::Peer,
        },
        measure: Measure {
            rows: Some(0),
            batches: Some(1),
            bytes: Some(1 << 40),
            micros: Some(900),
            upper_bound: true,
        },
        ..bare(n, payload)
    }
}

/// Every payload, bare and full.
pub(crate) fn entries() -> Vec<Entry> {
    let numbered = || (0_u8..).zip(payloads());
    numbered()
        .map(|(n, p)| bare(n, p))
        .chain(numbered().map(|(n, p)| full(100 + n, p)))
        .chain([with_a_view()])
        .chain(later().into_iter().zip((251..=255).chain(50..)).map(|(payload, n)| full(n, payload)))
        .collect()
}

/// Cases that came after the golden file: a new one goes to the end, so that no line of it changes.
fn later() -> Vec<Payload> {
    let profile = Some(BlobRef { hash: hash(14), length: 4_000 });
    vec![
        Payload::CatalogChange(CatalogChange::Status(StatusRecord {
            dataset: dataset(1),
            made_at: ControlSeq(7),
            revoked: true,
            because: "wrong unit".into(),
        })),
        Payload::CatalogChange(CatalogChange::Model(ModelRecord {
            name: "mortality".into(),
            version: 2,
            training: input(),
            artifact: hash(14),
            artifact_bytes: 1 << 33,
            receipt_key: "clinic/receipts+00000000+AQ".into(),
            because: "better".into(),
        })),
        Payload::Run(RunRecord { profile, ..run(RunState::Written) }),
        Payload::Publish(Box::new(Publish { profile, ..publish() })),
        Payload::AccessRequest(AccessRequest {
            dataset: "raw.labs".parse().unwrap(),
            columns: ["hdl".to_string(), "note".to_string()].into(),
            rung: Rung::Raw,
            purpose: "research".into(),
            seconds: 30 * 86_400,
            because: "study 12".into(),
        }),
        Payload::AccessGrant(AccessGrant {
            request: id(53),
            principal: "clinic/ann".into(),
            dataset: dataset(1),
            columns: [FieldId(2), FieldId(5)].into(),
            rung: Rung::Partial,
            purpose: "research".into(),
            expires: WallNanos(1_900_000_000_000_000_000),
            because: "agreed".into(),
        }),
        Payload::AccessReview(AccessReview { of: id(53), verdict: Verdict::Denied, because: "no need".into() }),
        Payload::AccessReview(AccessReview { of: id(54), verdict: Verdict::Revoked, because: "study ended".into() }),
    ]
}

/// A plain view with its owner's rights, and a target that was read with them.
fn with_a_view() -> Entry {
    let labels = publish().labels;
    let classes = labels.iter().map(|l| l.explicit.clone()).collect();
    let view = ViewRecord { definition: definition(), definer: true, labels };
    let mut entry = full(250, Payload::CatalogChange(CatalogChange::View(view)));
    entry.targets.iter_mut().for_each(|t| (t.owner, t.classes) = (Some("role/clinic".into()), Vec::clone(&classes)));
    entry
}

/// A small entry, encoded.
pub(crate) fn encoded(n: u8, payload: Payload) -> EntryBytes {
    crate::encode(&bare(n, payload)).unwrap().entry
}

/// A read's beginning, byte grant and end.
pub(crate) fn read_begins(n: u8, granted: u64) -> EntryBytes {
    encoded(n, Payload::ReadIntent(intent(granted)))
}

pub(crate) fn read_goes_on(n: u8, intent: u8, granted: u64) -> EntryBytes {
    let entry = Entry { reference: Some(id(intent)), ..bare(n, Payload::ReadProgress(granted)) };
    crate::encode(&entry).unwrap().entry
}

pub(crate) fn read_ends(n: u8, intent: u8) -> EntryBytes {
    let entry = Entry {
        reference: Some(id(intent)),
        ..bare(n, Payload::ReadOutcome(ReadOutcome { code: None, scans: vec![] }))
    };
    crate::encode(&entry).unwrap().entry
}
