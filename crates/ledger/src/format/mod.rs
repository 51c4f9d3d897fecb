//! The byte format of entries: deterministic CBOR, one encoding a value. Key numbers are frozen.
//!
//! | key | field |
//! |---|---|
//! | 0, 1 | schema (1), kind |
//! | 2, 3 | id (UUIDv7), wall nanoseconds |
//! | 4, 5 | reference, control position |
//! | 6 | actor |
//! | 7, 8, 9 | verb, targets, outcome |
//! | 10, 11 | reason, measure |
//! | 12 | payload of the kind |
//! | 13 | trace |
//! | 14 | the payload's blob `{0: hash, 1: length}`, in place of key 12 |
//!
//! Keys of nested maps are the numbers in `wire.rs`, `lineage.rs` and `asserted.rs`. What is empty is absent. An entry has at most
//! 65,535 bytes; when it would have more than 48 KiB its payload goes into a blob. Stored bytes are hashed, never a
//! re-encoding.

mod asserted;
mod cbor;
mod lineage;
mod wire;

pub(crate) use cbor::peek_two;
pub use cbor::{NotCanonical, Value, from_bytes, to_bytes};
pub use lineage::lineage_hash;
pub use wire::Unexpected;

use crate::{
    disk::{Disk, DiskError, put_blob},
    tree::{Sha3, TreeHash},
};
use custody_model::{
    BlobRef, CatalogChange, DatasetDefinition, Durability, Entry, EntryId, Hash, Kind, Lineage, Payload,
};
use wire::{MapIn, MapOut, payload_value, read_payload};

/// The schema number of entries.
pub const ENTRY_SCHEMA: u64 = 1;
/// The most bytes an entry has.
pub const MAX_ENTRY_BYTES: usize = 65_535;
/// From this size on the payload goes into a blob.
pub const BLOB_THRESHOLD_BYTES: usize = 48 * 1024;

/// The stored bytes of one entry, with what appending needs to know of them.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct EntryBytes {
    bytes: Vec<u8>,
    id: EntryId,
    kind: Kind,
    plan: Option<Hash>,
    durability: Durability,
    effect: Effect,
}

/// What an entry does to the set of reads that have begun and not ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Effect {
    /// Nothing.
    None,
    /// Begins one, up to these bytes.
    Begins(u64),
    /// Raises the byte grant of one.
    Extends(EntryId, u64),
    /// Ends one.
    Ends(EntryId),
}

impl Effect {
    pub(crate) fn of(entry: &Entry) -> Self {
        match (&entry.payload, entry.reference) {
            (Payload::ReadIntent(intent), _) => Self::Begins(intent.granted_bytes),
            (Payload::ReadProgress(granted), Some(intent)) => Self::Extends(intent, *granted),
            (Payload::ReadOutcome(_), Some(intent)) => Self::Ends(intent),
            _ => Self::None,
        }
    }
}

impl EntryBytes {
    /// The stored bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The entry's id.
    pub fn id(&self) -> EntryId {
        self.id
    }

    /// The entry's kind.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The fingerprint of the plan that the entry allows to run, where it allows one.
    pub fn plan(&self) -> Option<Hash> {
        self.plan
    }

    /// How safe the entry must be before what it allows may happen.
    pub fn durability(&self) -> Durability {
        self.durability
    }

    pub(crate) fn effect(&self) -> Effect {
        self.effect
    }

    /// The RFC 6962 leaf hash.
    pub fn leaf(&self) -> Hash {
        Sha3::leaf(&self.bytes)
    }

    /// Stored bytes of another place, such as a control object, ready to be appended unchanged. Such an entry allows
    /// no plan to run, whatever it says.
    pub fn copied(bytes: Vec<u8>, blobs: &dyn Blobs) -> Result<Self, DecodeError> {
        let entry = decode(&bytes, blobs)?;
        let (kind, durability, effect) = (entry.kind(), entry.reason.durability, Effect::of(&entry));
        Ok(Self { bytes, id: entry.id, kind, plan: None, durability, effect })
    }
}

/// An entry in bytes, and the blob that must be stored first.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Encoded {
    /// The entry.
    pub entry: EntryBytes,
    /// Its payload, where that does not fit.
    pub blob: Option<(BlobRef, Vec<u8>)>,
}

impl Encoded {
    /// Stores the blob, durably, where there is one; gives the entry, ready to be appended.
    pub fn store(self, disk: &dyn Disk) -> Result<EntryBytes, DiskError> {
        if let Some((_, bytes)) = &self.blob {
            put_blob(disk, bytes)?;
        }
        Ok(self.entry)
    }
}

/// An entry that cannot be recorded.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum EncodeError {
    /// Too long even with its payload in a blob.
    #[error("entry of {bytes} bytes exceeds {MAX_ENTRY_BYTES}")]
    EntryTooLong {
        /// How long it would be.
        bytes: usize,
    },
    /// A column type whose text does not give the type back.
    #[error("the type `{data_type}` of column `{column}` cannot be recorded: remove the metadata of its fields")]
    ColumnType {
        /// Which column.
        column: String,
        /// Its type.
        data_type: String,
    },
    /// Hops hold literals in the clear.
    #[error("lineage whose expressions hold literals cannot be recorded")]
    LiteralHops,
}

/// Bytes that are not an entry.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum DecodeError {
    /// Not the one encoding of a value.
    #[error(transparent)]
    NotCanonical(#[from] NotCanonical),
    /// Canonical, but not an entry.
    #[error(transparent)]
    Unexpected(#[from] Unexpected),
    /// Written by a newer version.
    #[error("entry schema {0} is newer than this binary reads ({ENTRY_SCHEMA})")]
    Newer(u64),
    /// The blob is not there.
    #[error("blob `{0}` is missing")]
    BlobMissing(Hash),
    /// The blob is not what the entry names.
    #[error("blob `{0}` does not match its hash")]
    BlobDamaged(Hash),
}

/// Where blobs are found.
pub trait Blobs {
    /// The bytes under a reference; whoever asks checks their hash.
    fn get(&self, blob: &BlobRef) -> Option<Vec<u8>>;
}

/// No blobs at all.
#[derive(Clone, Copy, Debug)]
pub struct NoBlobs;

impl Blobs for NoBlobs {
    fn get(&self, _: &BlobRef) -> Option<Vec<u8>> {
        None
    }
}

/// The reference of a blob.
pub fn blob_ref(bytes: &[u8]) -> BlobRef {
    BlobRef { hash: Sha3::digest(&[bytes]), length: bytes.len() as u64 }
}

enum Body {
    Payload(Value),
    Blob(BlobRef),
}

fn entry_bytes(entry: &Entry, body: Body) -> Vec<u8> {
    let Entry { id, wall, reference, control_seq, trace, actor, verb, targets, outcome, reason, measure, payload } =
        entry;
    let mut map = MapOut::default();
    map.put(0, &ENTRY_SCHEMA);
    map.put(1, &u64::from(payload.kind() as u16));
    map.put(2, id);
    map.put(3, wall);
    map.put(4, reference);
    map.put(5, control_seq);
    map.put(6, actor);
    map.put(7, verb);
    map.put(8, targets);
    map.put(9, outcome);
    map.put(10, reason);
    map.put(11, measure);
    match body {
        Body::Payload(value) => {
            map.put_value(12, value);
            map.put(13, trace);
        }
        Body::Blob(blob) => {
            map.put(13, trace);
            map.put(14, &blob);
        }
    }
    to_bytes(&map.done())
}

/// The bytes of an entry.
pub fn encode(entry: &Entry) -> Result<Encoded, EncodeError> {
    check_recordable(&entry.payload)?;
    let payload = payload_value(&entry.payload);
    let mut bytes = entry_bytes(entry, Body::Payload(payload.clone()));
    let mut blob = None;
    if bytes.len() > BLOB_THRESHOLD_BYTES {
        let content = to_bytes(&payload);
        let reference = blob_ref(&content);
        bytes = entry_bytes(entry, Body::Blob(reference));
        blob = Some((reference, content));
    }
    if bytes.len() > MAX_ENTRY_BYTES {
        return Err(EncodeError::EntryTooLong { bytes: bytes.len() });
    }
    let plan = match &entry.payload {
        Payload::ReadIntent(intent) | Payload::Read(intent, _) => Some(intent.plan),
        _ => None,
    };
    let (kind, durability, effect) = (entry.kind(), entry.reason.durability, Effect::of(entry));
    Ok(Encoded { entry: EntryBytes { bytes, id: entry.id, kind, plan, durability, effect }, blob })
}

/// The entry that stored bytes say.
pub fn decode(bytes: &[u8], blobs: &dyn Blobs) -> Result<Entry, DecodeError> {
    let mut map = MapIn::new(from_bytes(bytes)?)?;
    let schema: u64 = map.get(0)?;
    if schema != ENTRY_SCHEMA {
        return Err(DecodeError::Newer(schema));
    }
    let number: u16 = map.get(1)?;
    let kind = Kind::from_number(number)
        .ok_or_else(|| Unexpected { path: "1".into(), why: format!("unknown kind {number}") })?;
    let (id, wall, reference, control_seq) = (map.get(2)?, map.get(3)?, map.get(4)?, map.get(5)?);
    let (actor, verb, targets, outcome) = (map.get(6)?, map.get(7)?, map.get(8)?, map.get(9)?);
    let (reason, measure) = (map.get(10)?, map.get(11)?);
    let inline = map.take(12);
    let trace = map.get(13)?;
    let blob: Option<BlobRef> = map.get(14)?;
    map.end()?;
    let payload = match (inline, blob) {
        (Some(value), None) => read_payload(kind, value)?,
        (None, Some(blob)) => read_payload(kind, from_bytes(&fetch(&blob, blobs)?)?)?,
        (Some(_), Some(_)) | (None, None) => {
            Err(Unexpected { path: "12".into(), why: "expected either a payload or its blob".into() })?
        }
    };
    Ok(Entry { id, wall, reference, control_seq, trace, actor, verb, targets, outcome, reason, measure, payload })
}

/// The bytes of a blob, checked.
pub fn fetch(blob: &BlobRef, blobs: &dyn Blobs) -> Result<Vec<u8>, DecodeError> {
    let bytes = blobs.get(blob).ok_or(DecodeError::BlobMissing(blob.hash))?;
    if blob_ref(&bytes) == *blob { Ok(bytes) } else { Err(DecodeError::BlobDamaged(blob.hash)) }
}

fn check_recordable(payload: &Payload) -> Result<(), EncodeError> {
    let (definition, lineage) = match payload {
        Payload::CatalogChange(CatalogChange::Source(p)) => (Some(&p.definition), None),
        Payload::CatalogChange(CatalogChange::Draft(p)) => (Some(&p.definition), Some(&p.lineage)),
        Payload::CatalogChange(CatalogChange::View(p)) => (Some(&p.definition), None),
        Payload::Publish(p) => (Some(&p.definition), None),
        Payload::Lineage(p) => (None, Some(&p.lineage)),
        Payload::CatalogChange(
            CatalogChange::External { .. }
            | CatalogChange::Attributes(_)
            | CatalogChange::Token(_)
            | CatalogChange::Admin(_)
            | CatalogChange::Status(_)
            | CatalogChange::Model(_),
        )
        | Payload::PolicyBundle(_)
        | Payload::AccessGrant(_)
        | Payload::AccessRequest(_)
        | Payload::AccessReview(_)
        | Payload::Run(_)
        | Payload::Asserted(_)
        | Payload::ReadIntent(_)
        | Payload::ReadProgress(_)
        | Payload::ReadOutcome(_)
        | Payload::Read(..)
        | Payload::Denied(_)
        | Payload::Bypass(_)
        | Payload::Key(_)
        | Payload::Heads(_)
        | Payload::Writer(_)
        | Payload::Erasure(_) => (None, None),
    };
    definition.map_or(Ok(()), check_columns)?;
    lineage.map_or(Ok(()), check_hops)
}

fn check_columns(definition: &DatasetDefinition) -> Result<(), EncodeError> {
    match definition.columns.iter().find(|c| !wire::recordable(&c.data_type)) {
        None => Ok(()),
        Some(c) => Err(EncodeError::ColumnType { column: c.name.clone(), data_type: c.data_type.to_string() }),
    }
}

fn check_hops(lineage: &Lineage) -> Result<(), EncodeError> {
    let none = lineage.hops.is_empty() && lineage.outputs.iter().all(|o| o.hops.is_empty());
    if none || lineage.shapes { Ok(()) } else { Err(EncodeError::LiteralHops) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{samples, sim::SimDisk, tree::TreeHash};
    use custody_model::{FieldId, Hop, RunState};
    use std::{collections::HashMap, sync::Arc};

    struct One(BlobRef, Vec<u8>);

    impl Blobs for One {
        fn get(&self, blob: &BlobRef) -> Option<Vec<u8>> {
            (blob.hash == self.0.hash).then(|| self.1.clone())
        }
    }

    #[test]
    fn every_kind_there_and_back() {
        let mut kinds = std::collections::BTreeSet::new();
        for entry in samples::entries() {
            let Encoded { entry: bytes, blob } = encode(&entry).unwrap();
            assert!(blob.is_none());
            assert_eq!(decode(bytes.as_bytes(), &NoBlobs).as_ref(), Ok(&entry));
            assert_eq!(bytes.leaf(), Sha3::digest(&[&[0], bytes.as_bytes()]));
            assert_eq!(peek_two(bytes.as_bytes()), Some((1, entry.kind() as u64)));
            let plan = matches!(entry.kind(), Kind::ReadIntent | Kind::Read).then_some(Hash([5; 32]));
            assert_eq!((bytes.id(), bytes.kind(), bytes.plan()), (entry.id, entry.kind(), plan));
            let copy = EntryBytes::copied(bytes.as_bytes().to_vec(), &NoBlobs).unwrap();
            assert_eq!((copy.as_bytes(), copy.plan()), (bytes.as_bytes(), None));
            kinds.insert(entry.kind());
        }
        assert_eq!(kinds, Kind::ALL.into_iter().collect());
    }

    /// The bytes of every sample are frozen. `UPDATE_GOLDEN=1` writes the file anew; read the difference.
    #[test]
    fn golden_bytes() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../testdata/ledger/entries.hex");
        let hex = |bytes: &[u8]| bytes.iter().map(|b| format!("{b:02x}")).collect::<String>();
        let line = |e: Entry| format!("{} {}\n", e.kind().word(), hex(encode(&e).unwrap().entry.as_bytes()));
        let found: String = samples::entries().into_iter().map(line).collect();
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            std::fs::write(path, &found).unwrap();
        }
        let golden = std::fs::read_to_string(path).unwrap();
        for (found, golden) in found.lines().zip(golden.lines()) {
            assert_eq!(found, golden);
        }
        assert_eq!(found.len(), golden.len());
    }

    /// No single changed, added or removed byte gives the same entry, and what still decodes is itself canonical.
    #[test]
    fn one_entry_one_encoding() {
        for entry in samples::entries().iter().step_by(7) {
            let bytes = encode(entry).unwrap().entry;
            let bytes = bytes.as_bytes();
            let check = |changed: Vec<u8>| {
                if let Ok(other) = decode(&changed, &NoBlobs) {
                    assert_ne!(&other, entry);
                    let again = encode(&other).unwrap();
                    assert_eq!(again.entry.as_bytes(), changed, "two encodings of one entry");
                }
            };
            for at in 0..bytes.len() {
                for bit in 0..8 {
                    let mut changed = bytes.to_vec();
                    changed[at] ^= 1 << bit;
                    check(changed);
                }
                check(bytes[..at].to_vec());
                check([&bytes[..at], &[0], &bytes[at..]].concat());
            }
        }
    }

    #[test]
    fn refuses_what_absence_says() {
        let map = |pairs: Vec<(u64, Value)>| to_bytes(&Value::Map(pairs));
        let Value::Map(sound) = from_bytes(samples::encoded(1, Payload::ReadProgress(1)).as_bytes()).unwrap() else {
            panic!("an entry is a map")
        };
        let with = |key: u64, value: Option<Value>| {
            let mut pairs: Vec<_> = sound.iter().filter(|(k, _)| *k != key).cloned().collect();
            pairs.extend(value.map(|v| (key, v)));
            pairs.sort_by_key(|(k, _)| *k);
            decode(&map(pairs), &NoBlobs).unwrap_err().to_string()
        };
        let empty = Value::Array(vec![]);
        assert_eq!(with(8, Some(empty)), "unexpected content at key 8: empty where absence says it");
        assert_eq!(
            with(11, Some(Value::Map(vec![(4, Value::Bool(false))]))),
            "unexpected content at key 11.4: false where absence says it"
        );
        assert_eq!(
            with(10, Some(Value::Map(vec![(9, Value::Uint(0))]))),
            "unexpected content at key 10.9: the default where absence says it"
        );
        assert_eq!(
            with(10, Some(Value::Map(vec![(3, Value::Text(String::new()))]))),
            "unexpected content at key 10.3: empty where absence says it"
        );
        assert_eq!(with(99, Some(Value::Uint(0))), "unexpected content at key 99: unknown key");
        assert_eq!(with(7, None), "unexpected content at key 7: missing");
        assert_eq!(with(12, None), "unexpected content at key 12: expected either a payload or its blob");
        assert_eq!(with(1, Some(Value::Uint(99))), "unexpected content at key 1: unknown kind 99");
        assert_eq!(with(0, Some(Value::Uint(2))), "entry schema 2 is newer than this binary reads (1)");
        assert!(from_bytes(&[0xa1, 0x18, 0x01, 0x00]).is_err());
    }

    #[test]
    fn long_payloads_become_blobs() {
        let mut intent = samples::intent(1);
        intent.statement = Some(samples::sealed(60_000));
        let entry = samples::full(1, Payload::ReadIntent(intent));
        let Encoded { entry: bytes, blob } = encode(&entry).unwrap();
        let (reference, content) = blob.unwrap();
        assert!(bytes.as_bytes().len() < 2000 && reference.length == content.len() as u64);
        assert_eq!((bytes.plan(), bytes.kind()), (Some(Hash([5; 32])), Kind::ReadIntent));
        let read = |blobs: &dyn Blobs| decode(bytes.as_bytes(), blobs);
        assert_eq!(read(&NoBlobs), Err(DecodeError::BlobMissing(reference.hash)));
        let mut damaged = content.clone();
        damaged[9] ^= 1;
        assert_eq!(read(&One(reference, damaged)), Err(DecodeError::BlobDamaged(reference.hash)));
        assert_eq!(read(&One(reference, content.clone())), Ok(entry.clone()));
        let disk = SimDisk::new();
        assert_eq!(crate::put_blob(&disk, &content).unwrap(), reference);
        assert!(disk.tamper(&crate::blob_path(&reference), |b| b.truncate(4)));
        assert_eq!(crate::put_blob(&disk, &content).unwrap(), reference);
        assert_eq!(read(&crate::DiskBlobs(&disk)), Ok(entry.clone()));

        let mut endless = entry;
        endless.trace = Some("x".repeat(70_000));
        let error = encode(&endless).unwrap_err();
        assert!(error.to_string().ends_with("exceeds 65535"), "{error}");
    }

    #[test]
    fn refuses_to_record_what_would_not_come_back() {
        let field = arrow_schema::Field::new("x", arrow_schema::DataType::Int32, true)
            .with_metadata(HashMap::from([("PARQUET:field_id".to_string(), "1".to_string())]));
        let mut publish = samples::payloads().into_iter().find_map(|p| match p {
            Payload::Publish(publish) => Some(publish),
            _ => None,
        });
        let publish = publish.as_mut().unwrap();
        publish.definition.columns[0].data_type = arrow_schema::DataType::List(Arc::new(field));
        assert_eq!(publish.definition.columns[0].field, FieldId(1));
        let error = encode(&samples::bare(1, Payload::Publish(publish.clone()))).unwrap_err();
        assert!(matches!(error, EncodeError::ColumnType { .. }), "{error}");

        let mut lineage = samples::lineage();
        lineage.hops = vec![Hop { node: 0, output: 0, from: vec![], text: "x = 'secret'".into() }];
        let record = custody_model::LineageRecord { identity: Hash([1; 32]), hash: lineage_hash(&lineage), lineage };
        let error = encode(&samples::bare(1, Payload::Lineage(record))).unwrap_err();
        assert_eq!(error, EncodeError::LiteralHops);
        assert_eq!(RunState::ALL.len(), 4);
    }

    #[test]
    fn hops_without_literals_come_back() {
        let mut lineage = samples::lineage();
        lineage.shapes = true;
        lineage.hops = vec![
            Hop { node: 3, output: 1, from: vec![(4, 0)], text: "sum(x + ?)".into() },
            Hop { node: 2, output: Hop::DECIDES, from: vec![(Hop::ATOMS, 2)], text: "x > ?".into() },
        ];
        lineage.outputs[0].hops = vec![0];
        let of = |lineage: Lineage| {
            let record =
                custody_model::LineageRecord { identity: Hash([1; 32]), hash: lineage_hash(&lineage), lineage };
            samples::bare(1, Payload::Lineage(record))
        };
        let entry = of(lineage.clone());
        let read = |entry: &Entry| decode(encode(entry).unwrap().entry.as_bytes(), &NoBlobs);
        assert_eq!(read(&entry).unwrap(), entry);
        lineage.outputs[0].hops = vec![2];
        assert!(read(&of(lineage.clone())).is_err(), "a hop that is not there");
        lineage.outputs[0].hops = vec![];
        lineage.hops[1].from = vec![(Hop::ATOMS, 3)];
        assert!(read(&of(lineage)).is_err(), "an atom that is not there");
    }

    #[test]
    fn lineage_hash_ignores_order_and_hops_only() {
        let one = samples::lineage();
        let mut other = one.clone();
        other.dataset.reverse();
        other.evaluated.reverse();
        other.outputs[0].direct.reverse();
        other.outputs[0].hops = vec![0];
        other.hops = vec![Hop { node: 0, output: 0, from: vec![], text: "x".into() }];
        assert_eq!(lineage_hash(&one), lineage_hash(&other));
        other.exact = false;
        assert_ne!(lineage_hash(&one), lineage_hash(&other));
    }
}
