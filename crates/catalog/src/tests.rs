//! Hand-made entries against the whole fold.
#![allow(clippy::unwrap_used)]

use crate::{Catalog, FoldError, Made};
use arrow_schema::DataType;
use custody_model::*;
use expect_test::{Expect, expect};
use std::{collections::BTreeSet, fmt::Write};

fn name(text: &str) -> DatasetName {
    text.parse().unwrap()
}

fn hash(byte: u8) -> Hash {
    Hash([byte; 32])
}

fn id(seq: u64) -> EntryId {
    EntryId(uuid::Uuid::from_u128(u128::from(seq)))
}

/// `a, b:7` gives columns `a` and `b` with the field ids 1 and 7.
fn definition(id: DatasetId, named: &str, kind: DatasetKind, columns: &[(&str, u32)]) -> DatasetDefinition {
    DatasetDefinition {
        id,
        name: name(named),
        kind,
        columns: columns
            .iter()
            .map(|(name, field)| ColumnDef {
                field: FieldId(*field),
                name: (*name).into(),
                data_type: DataType::Int64,
                nullable: true,
            })
            .collect(),
        entity: Some("patient".into()),
        keys: vec![FieldId(1)],
        event_time: None,
        known_time: None,
        ttl: None,
        owner: "clinic".into(),
        purposes: BTreeSet::from(["research".into()]),
        comment: None,
        sql: "…".into(),
    }
}

/// Entries made in order; second `n` of the epoch is the wall time of entry `n` unless said.
#[derive(Default)]
struct Script {
    catalog: Catalog,
    entries: Vec<Entry>,
}

impl Script {
    fn entry(&self, payload: Payload) -> Entry {
        let seq = self.catalog.at().0 + 1;
        Entry {
            id: id(seq),
            wall: WallNanos(seq as i64 * 1_000_000_000),
            reference: None,
            control_seq: ControlSeq(seq),
            trace: None,
            actor: Some(Actor {
                principal: "local/ann".into(),
                kind: "user".into(),
                roles: BTreeSet::new(),
                attributes: Default::default(),
                authentication: Authentication::Local,
                session: None,
                on_behalf_of: None,
                token: None,
                address: None,
            }),
            verb: Verb::Publish,
            targets: vec![],
            outcome: Outcome::Success,
            reason: Reason::default(),
            measure: Measure::default(),
            payload,
        }
    }

    fn add(&mut self, payload: Payload) -> Result<(), FoldError> {
        self.add_entry(self.entry(payload))
    }

    /// An entry that is refused leaves everything as it was.
    fn add_entry(&mut self, entry: Entry) -> Result<(), FoldError> {
        let before = self.catalog.clone();
        let result = self.catalog.apply(&entry);
        match &result {
            Ok(()) => self.entries.push(entry),
            Err(_) => assert_eq!(self.catalog, before),
        }
        result
    }

    fn id_of(&self, named: &str) -> DatasetId {
        self.catalog.dataset(&name(named)).map_or_else(|| self.catalog.new_dataset_id(&name(named)), |d| d.id())
    }

    fn source(&mut self, named: &str, version: u64, columns: &[(&str, u32)]) -> Result<(), FoldError> {
        self.add(Payload::CatalogChange(CatalogChange::Source(SourceSnapshot {
            definition: definition(self.id_of(named), named, DatasetKind::Source, columns),
            version,
            kind: SourceKind::Csv,
            url: "raw/x".into(),
            snapshot: hash(version as u8),
            files: BlobRef { hash: hash(0), length: 0 },
            bytes: 10,
        })))
    }

    fn publish_as(
        &mut self,
        id: DatasetId,
        named: &str,
        version: u64,
        columns: &[(&str, u32)],
        labels: usize,
    ) -> Result<(), FoldError> {
        self.add(Payload::Publish(Box::new(Publish {
            identity: hash(100 + version as u8),
            definition: definition(id, named, DatasetKind::FeatureView, columns),
            version,
            because: "first".into(),
            content_root: hash(200 + version as u8),
            rows: 3,
            event_range: None,
            schema_hash: hash(9),
            inputs: vec![],
            labels: vec![
                ClassLabel { explicit: BTreeSet::from([Class("clinical".into())]), implicit: BTreeSet::new() };
                labels
            ],
            lineage: self::id(0),
            lineage_hash: hash(8),
            quarantine_root: (version == 2).then(|| hash(7)),
            run: self::id(0),
            plan: hash(6),
            engine_version: 1,
            seed: None,
            git_commit: None,
            git_dirty: None,
            quarantine_rows: None,
            expectations: vec![],
            profile: None,
        })))
    }

    fn publish(&mut self, named: &str, version: u64, columns: &[(&str, u32)]) -> Result<(), FoldError> {
        self.publish_as(self.id_of(named), named, version, columns, columns.len())
    }

    fn draft(&mut self, named: &str, columns: &[(&str, u32)]) -> Result<(), FoldError> {
        self.add(Payload::CatalogChange(CatalogChange::Draft(Box::new(DraftRecord {
            principal: "local/ann".into(),
            definition: definition(self.id_of(named), named, DatasetKind::FeatureView, columns),
            identity: hash(1),
            content_root: hash(2),
            rows: 1,
            labels: vec![ClassLabel::default(); columns.len()],
            inputs: vec![],
            lineage: Lineage::default(),
            run: id(0),
        }))))
    }

    fn bundle(&mut self, epoch: u64) -> Result<(), FoldError> {
        self.add(Payload::PolicyBundle(PolicyBundleRecord {
            epoch,
            hash: hash(epoch as u8),
            blob: BlobRef { hash: hash(0), length: 0 },
            approvers: vec![],
            because: "rules".into(),
            relabelled: vec![],
        }))
    }
}

/// Datasets, their versions with columns, drafts and bundles, one a line.
fn dump(catalog: &Catalog) -> String {
    let mut out = format!("at {}\n", catalog.at());
    for d in catalog.datasets() {
        let _ = writeln!(out, "{} {} owner={} entry={}", d.name(), d.kind().word(), d.owner(), d.entry().0.as_u128());
        for v in d.versions() {
            let columns: Vec<String> =
                v.definition().columns.iter().map(|c| format!("{}:{}", c.name, c.field)).collect();
            let made = match &v.made {
                Made::Published(p) => format!("published `{}`", p.because),
                Made::Snapshot(s) => format!("snapshot {}", s.kind.word()),
            };
            let _ =
                writeln!(out, "  {:?} made_at={} {made} by {} [{}]", v.table, v.table.made_at, v.by, columns.join(" "));
        }
    }
    for d in catalog.drafts() {
        let _ = writeln!(out, "{:?} of {}", d.table, d.record.principal);
    }
    for b in catalog.bundles() {
        let _ = writeln!(out, "bundle {} from {} to {:?}", b.record.epoch, b.from, b.to.map(|s| s.0));
    }
    out
}

fn check(script: &Script, expected: Expect) {
    expected.assert_eq(&dump(&script.catalog));
    // The fold has no other input than the entries.
    let mut again = Catalog::new();
    script.entries.iter().for_each(|e| again.apply(e).unwrap());
    assert_eq!(again, script.catalog);
}

fn refused(result: Result<(), FoldError>, expected: Expect) {
    expected.assert_eq(&result.unwrap_err().to_string());
}

fn clinic() -> Script {
    let mut s = Script::default();
    s.source("raw.labs", 1, &[("id", 1), ("value", 2)]).unwrap();
    s.bundle(1).unwrap();
    s.draft("features.x", &[("id", 1), ("m", 2)]).unwrap();
    s.publish("features.x", 1, &[("id", 1), ("m", 2)]).unwrap();
    s.source("raw.labs", 2, &[("id", 1), ("value", 2), ("test", 3)]).unwrap();
    s.publish("features.x", 2, &[("id", 1), ("n", 3)]).unwrap();
    s.bundle(2).unwrap();
    s
}

#[test]
fn a_fold() {
    check(
        &clinic(),
        expect![[r#"
        at 7
        features.x feature_view owner=clinic entry=6
          features.x@1 made_at=4 published `first` by local/ann [id:1 m:2]
          features.x@2 made_at=6 published `first` by local/ann [id:1 n:3]
        raw.labs source owner=clinic entry=5
          raw.labs@1 made_at=1 snapshot CSV by local/ann [id:1 value:2]
          raw.labs@2 made_at=5 snapshot CSV by local/ann [id:1 value:2 test:3]
        draft.x@1 of local/ann
        bundle 1 from 2 to Some(6)
        bundle 2 from 7 to None
    "#]],
    );
}

#[test]
fn pins() {
    let s = clinic();
    let at = |pin| s.catalog.resolve(&name("features.x"), pin).map(|v| v.table.version);
    assert_eq!(at(Pin::Newest), Some(2));
    assert_eq!(at(Pin::Version(1)), Some(1));
    assert_eq!(at(Pin::Version(3)), None);
    // Entry n was written at second n; versions of `features.x` are entries 4 and 6.
    assert_eq!(at(Pin::At(WallMicros(3_999_999))), None);
    assert_eq!(at(Pin::At(WallMicros(4_000_000))), Some(1));
    assert_eq!(at(Pin::At(WallMicros(99_000_000))), Some(2));
    assert_eq!(s.catalog.resolve(&name("raw.none"), Pin::Newest), None);
}

#[test]
fn wall_time_is_never_order() {
    let mut s = Script::default();
    let mut early = s.entry(Payload::CatalogChange(CatalogChange::External { id: s.id_of("a.a"), name: name("a.a") }));
    early.wall = WallNanos(9_000);
    s.add_entry(early).unwrap();
    let mut back = s.entry(Payload::CatalogChange(CatalogChange::External { id: s.id_of("a.b"), name: name("a.b") }));
    back.wall = WallNanos(5_000);
    s.add_entry(back).unwrap();
    assert_eq!(s.catalog.seq_at(WallMicros(5)), ControlSeq(0));
    assert_eq!(s.catalog.seq_at(WallMicros(9)), ControlSeq(2));
}

#[test]
fn nodes() {
    let s = clinic();
    let show = |made_at: u64, ordinal| {
        s.catalog
            .column_of(Node::new(ControlSeq(made_at), ordinal))
            .map(|c| format!("{} {}", c.table, c.column.map_or("*", |c| c.name.as_str())))
    };
    assert_eq!(show(1, 2).as_deref(), Some("raw.labs@1 value"));
    assert_eq!(show(4, 0).as_deref(), Some("features.x@1 *"));
    assert_eq!(show(3, 2).as_deref(), Some("draft.x@1 m"));
    assert_eq!(show(6, 32_770).as_deref(), Some("quarantine.x@2 n"));
    assert_eq!(show(4, 32_769), None); // nothing was quarantined
    assert_eq!(show(4, 3), None);
    assert_eq!(show(2, 1), None);
}

#[test]
fn field_ids_are_never_reused() {
    let s = clinic();
    let ids = |names: &[&str]| -> Vec<u32> {
        s.catalog.next_field_ids(s.id_of("features.x"), names).iter().map(|f| f.0).collect()
    };
    assert_eq!(ids(&["id", "n"]), [1, 3]);
    // `m` had 2 in version 1: gone, and its number with it.
    assert_eq!(ids(&["m", "n", "o"]), [4, 3, 5]);
    assert_eq!(s.catalog.next_field_ids(s.id_of("features.new"), &["a", "b"]), [FieldId(1), FieldId(2)]);
}

#[test]
fn renames_keep_the_id_and_free_the_name() {
    let mut s = clinic();
    let first = s.id_of("features.x");
    s.publish_as(first, "features.y", 3, &[("id", 1)], 1).unwrap();
    assert_eq!(s.catalog.dataset(&name("features.x")), None);
    assert_eq!(s.id_of("features.y"), first);
    let second = s.id_of("features.x");
    assert_ne!(second, first);
    s.publish("features.x", 1, &[("id", 1)]).unwrap();
    assert_eq!(s.id_of("features.x"), second);
    refused(
        s.publish_as(first, "features.x", 4, &[("id", 1)], 1),
        expect![
            "`features.x` is the name of dataset b0ef237f-5f5c-8126-97e7-e6e887fb2708 already, and cannot be that of 8e57a5b3-0cc8-83e0-ae57-96e4ee0a26ff"
        ],
    );
}

#[test]
fn ids_derive_from_the_first_name() {
    expect!["8e57a5b3-0cc8-83e0-ae57-96e4ee0a26ff"]
        .assert_eq(&Catalog::new().new_dataset_id(&name("features.x")).to_string());
}

#[test]
fn bundles_tokens_roles() {
    let mut s = clinic();
    let epoch = |s: &Script, seq| s.catalog.bundle_at(ControlSeq(seq)).map(|b| b.record.epoch);
    assert_eq!([1, 2, 6, 7, 9].map(|n| epoch(&s, n)), [None, Some(1), Some(1), Some(2), Some(2)]);
    let ann = Principal("local/ann".into());
    let admin = |roles: &[&str]| {
        Payload::CatalogChange(CatalogChange::Admin(AdminRecord {
            principal: "local/ann".into(),
            roles: roles.iter().map(|r| (*r).into()).collect(),
        }))
    };
    s.add(admin(&["admin", "policy_admin"])).unwrap();
    assert_eq!(s.catalog.warehouse_roles(&ann).len(), 2);
    s.add(admin(&[])).unwrap();
    assert!(s.catalog.warehouse_roles(&ann).is_empty());
    let token = |revoked| {
        Payload::CatalogChange(CatalogChange::Token(TokenRecord {
            jti: "t1".into(),
            revoked,
            principal: "service/train".into(),
            kind: "service".into(),
            roles: BTreeSet::new(),
            attributes: Default::default(),
            purposes: BTreeSet::new(),
            audience: "a".into(),
            expires: WallNanos(0),
        }))
    };
    s.add(token(false)).unwrap();
    let frozen = s.catalog.clone();
    s.add(token(true)).unwrap();
    assert_eq!(s.catalog.token("t1").map(|t| t.revoked), Some(true));
    assert_eq!(frozen.token("t1").map(|t| t.revoked), Some(false));
}

#[test]
fn a_name_is_an_attribute_and_no_two_datasets_have_one() {
    let mut s = clinic();
    let (id, other) = (s.id_of("features.x"), s.id_of("raw.labs"));
    let rename = |dataset, to: &str| {
        Payload::CatalogChange(CatalogChange::Attributes(AttributeChange {
            dataset,
            owner: None,
            purposes: None,
            comment: None,
            name: Some(name(to)),
        }))
    };
    assert!(s.add(rename(id, "raw.labs")).is_err());
    s.add(rename(id, "features.y")).unwrap();
    assert!(s.catalog.dataset(&name("features.x")).is_none());
    assert_eq!(s.catalog.dataset(&name("features.y")).unwrap().id(), id);
    s.add(rename(other, "features.x")).unwrap();
    assert_eq!(s.catalog.dataset(&name("features.x")).unwrap().id(), other);
    assert!(![id, other].contains(&s.catalog.new_dataset_id(&name("features.x"))));
}

#[test]
fn attributes_change_the_dataset_and_no_version() {
    let mut s = clinic();
    let change = |dataset| {
        Payload::CatalogChange(CatalogChange::Attributes(AttributeChange {
            dataset,
            owner: Some("hepatology".into()),
            purposes: Some(BTreeSet::new()),
            comment: None,
            name: None,
        }))
    };
    s.add(change(s.id_of("features.x"))).unwrap();
    let d = s.catalog.dataset(&name("features.x")).unwrap();
    assert_eq!((d.owner(), d.purposes().len()), ("hepatology", 0));
    assert_eq!(d.newest().unwrap().definition().owner, "clinic");
    refused(
        s.add(change(DatasetId(uuid::Uuid::nil()))),
        expect!["dataset 00000000-0000-0000-0000-000000000000 is not in the catalog"],
    );
}

#[test]
fn plain_views_and_external_datasets() {
    let mut s = Script::default();
    s.add(Payload::CatalogChange(CatalogChange::External { id: s.id_of("raw.x"), name: name("raw.x") })).unwrap();
    // What was known by name only may become a source.
    s.source("raw.x", 1, &[("id", 1)]).unwrap();
    s.add(Payload::CatalogChange(CatalogChange::View(ViewRecord {
        definition: definition(s.id_of("v.v"), "v.v", DatasetKind::View, &[("id", 1)]),
        definer: true,
        labels: vec![],
    })))
    .unwrap();
    check(
        &s,
        expect![[r#"
        at 3
        raw.x source owner=clinic entry=2
          raw.x@1 made_at=2 snapshot CSV by local/ann [id:1]
        v.v view owner=clinic entry=3
    "#]],
    );
    assert!(s.catalog.dataset(&name("v.v")).unwrap().view().unwrap().record.definer);
}

#[test]
fn refusals() {
    let mut s = clinic();
    refused(
        s.publish("features.x", 2, &[("id", 1)]),
        expect!["`features.x@2` cannot be published: the next version is 3"],
    );
    refused(
        s.publish("features.x", 4, &[("id", 1)]),
        expect!["`features.x@4` cannot be published: the next version is 3"],
    );
    refused(s.publish("raw.labs", 1, &[("id", 1)]), expect!["`raw.labs` is a source and cannot become a feature_view"]);
    refused(
        s.publish("features.x", 3, &[("id", 1), ("id", 2)]),
        expect!["column `id` of `features.x` is declared twice"],
    );
    refused(
        s.publish("features.x", 3, &[("id", 1), ("other", 1)]),
        expect!["column `other` of `features.x` is declared twice"],
    );
    refused(
        s.publish_as(s.id_of("features.x"), "features.x", 3, &[("id", 1)], 2),
        expect!["`features.x` has 1 columns and 2 labels"],
    );
    refused(s.bundle(2), expect!["policy bundle has epoch 2, expected 3"]);
    refused(s.add(Payload::ReadProgress(1)), expect!["entry of kind `read.progress` is not a control entry"]);
    let mut gap = s.entries[0].clone();
    gap.control_seq = ControlSeq(9);
    refused(s.add_entry(gap), expect!["control entry 9 follows 7: entry 8 is missing"]);
    let mut nobody = s.entries[1].clone();
    nobody.control_seq = ControlSeq(8);
    nobody.actor = None;
    refused(s.add_entry(nobody), expect!["control entry 8 names no principal"]);
}

/// Names and times resolve among ten thousand versions as among two.
#[test]
fn a_view_with_many_versions() {
    const MANY: u64 = 10_000;
    let mut s = Script::default();
    s.publish("features.x", 1, &[("id", 1), ("v", 2)]).unwrap();
    let first = s.entries.pop().unwrap();
    for version in 2..=MANY {
        let mut entry = first.clone();
        let Payload::Publish(publish) = &mut entry.payload else { unreachable!() };
        publish.version = version;
        publish.identity.0[..8].copy_from_slice(&version.to_be_bytes());
        publish.content_root.0[..8].copy_from_slice(&version.to_be_bytes());
        let seq = s.catalog.at().0 + 1;
        (entry.id, entry.control_seq, entry.wall) =
            (self::id(seq), ControlSeq(seq), WallNanos(seq as i64 * 1_000_000_000));
        s.catalog.apply(&entry).unwrap();
    }
    let at = |pin| s.catalog.resolve(&name("features.x"), pin).map(|v| (v.table.version, v.table.content.0[7]));
    assert_eq!(at(Pin::Newest), Some((MANY, 16)));
    assert_eq!(at(Pin::Version(258)), Some((258, 2)));
    assert_eq!(at(Pin::At(WallMicros(258_500_000))), Some((258, 2)));
    assert_eq!(at(Pin::At(WallMicros(i64::MAX / 1_000))).map(|v| v.0), Some(MANY));
    assert_eq!((at(Pin::Version(0)), at(Pin::Version(MANY + 1)), at(Pin::At(WallMicros(0)))), (None, None, None));
}
