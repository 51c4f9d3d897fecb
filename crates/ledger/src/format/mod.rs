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
//! Keys of nested maps are the numbers in `wire.rs` and `lineage.rs`. What is empty is absent. An entry has at most
//! 65,535 bytes; when it would have more than 48 KiB its payload goes into a blob. Stored bytes are hashed, never a
//! re-encoding.

mod cbor;
mod lineage;
mod wire;

pub(crate) use cbor::peek_two;
pub use cbor::{NotCanonical, Value, from_bytes, to_bytes};
pub use lineage::lineage_hash;
pub use wire::Unexpected;

use crate::tree::{Sha3, TreeHash};
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
    #[error("a lineage with hops cannot be recorded: its expressions hold literals")]
    UnsealedHops,
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
            | CatalogChange::Admin(_),
        )
        | Payload::PolicyBundle(_)
        | Payload::Run(_)
        | Payload::ReadIntent(_)
        | Payload::ReadProgress(_)
        | Payload::ReadOutcome(_)
        | Payload::Read(..)
        | Payload::Denied(_)
        | Payload::Bypass(_)
        | Payload::Key(_)
        | Payload::Heads(_)
        | Payload::Writer(_) => (None, None),
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
    if none { Ok(()) } else { Err(EncodeError::UnsealedHops) }
}
