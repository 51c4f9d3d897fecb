//! What the verifier must know of an entry, read from its canonical bytes: key numbers are those of the byte format.

use super::{
    cbor::{self, Value},
    tree::Digest32,
};

/// What an entry's own place, identity and bookkeeping need.
pub(super) struct Facts {
    pub(super) kind: u64,
    pub(super) id: [u8; 16],
    pub(super) wall: i64,
    pub(super) control: u64,
    /// The payload itself is this blob.
    pub(super) payload_blob: Option<Blob>,
    /// Blobs that the payload names.
    pub(super) blobs: Vec<Blob>,
    pub(super) special: Special,
}

/// A blob's name.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Blob {
    pub(super) hash: Digest32,
    pub(super) length: u64,
}

/// A `key` entry.
#[derive(Clone)]
pub(super) struct Key {
    pub(super) epoch: u64,
    pub(super) vkey: String,
    pub(super) certificate: Vec<u8>,
    pub(super) revoke: Option<u64>,
}

/// A writer's head in a `heads` entry.
pub(super) struct Head {
    pub(super) writer: String,
    pub(super) size: u64,
    pub(super) root: Digest32,
}

/// Where a torn tail was put aside.
#[derive(Clone, Copy)]
pub(super) struct Recovery {
    pub(super) segment: u64,
    pub(super) offset: u64,
    pub(super) length: u64,
    pub(super) hash: Digest32,
}

/// The ledger's own bookkeeping.
pub(super) enum Special {
    None,
    Key(Key),
    Heads(Vec<Head>),
    Close,
    Recovery(Recovery),
}

/// Reads an entry; the error says what it is not.
pub(super) fn facts(entry: &[u8]) -> Result<Facts, String> {
    let (mut schema, mut kind, mut id, mut wall, mut control) = (None, None, None, None, None);
    let (mut payload, mut has_payload, mut payload_blob) = (None, false, None);
    cbor::each(entry, |key, reader| {
        match key {
            0 => schema = reader.value(1)?.unsigned(),
            1 => kind = reader.value(1)?.unsigned(),
            2 => id = reader.value(1)?.bytes().and_then(|b| b.try_into().ok()),
            3 => wall = reader.value(1)?.signed(),
            5 => control = reader.value(1)?.unsigned(),
            12 => {
                has_payload = true;
                // It is read only where one of these kinds has something to say to a verifier.
                match kind {
                    Some(1 | 2 | 12 | 40..=42) => payload = Some(reader.value(1)?),
                    _ => reader.skip(1)?,
                }
            }
            14 => payload_blob = Some(blob(&reader.value(1)?).ok_or("its payload's blob is malformed")?),
            _ => reader.skip(1)?,
        }
        Ok(())
    })?;
    match schema {
        Some(1) => {}
        Some(n) => return Err(format!("schema {n} is newer than this verifier reads (1)")),
        None => return Err("it has no schema".into()),
    }
    let kind = kind.ok_or("it has no kind")?;
    let id = id.ok_or("it has no id")?;
    let wall = wall.ok_or("it has no time")?;
    let control = control.ok_or("it has no control position")?;
    let payload = payload.as_ref();
    if has_payload == payload_blob.is_some() {
        return Err("it has not exactly one of payload and blob".into());
    }
    let blobs = payload.map_or(Ok(vec![]), |p| named_blobs(kind, p))?;
    let special = special(kind, payload).ok_or("its payload is not one of its kind")?;
    Ok(Facts { kind, id, wall, control, payload_blob, blobs, special })
}

fn blob(value: &Value<'_>) -> Option<Blob> {
    Some(Blob { hash: value.get(0)?.hash()?, length: value.get(1)?.unsigned()? })
}

/// The blobs that a payload names: a bundle's files (kind 2), a source's file list (kind 1, case 1), a version's profile
/// (kind 12) where it has one.
pub(super) fn named_blobs(kind: u64, payload: &Value<'_>) -> Result<Vec<Blob>, String> {
    let named = match (kind, payload.items()) {
        (2, _) => payload.get(2),
        (1, Some([Value::Unsigned(1), snapshot])) => snapshot.get(5),
        (12, _) if payload.get(21).is_some() => payload.get(21),
        _ => return Ok(vec![]),
    };
    named.and_then(blob).map(|b| vec![b]).ok_or_else(|| "its payload names no blob".to_string())
}

fn special(kind: u64, payload: Option<&Value<'_>>) -> Option<Special> {
    match kind {
        40 => {
            let p = payload?;
            Some(Special::Key(Key {
                epoch: p.get(0)?.unsigned()?,
                vkey: p.get(1)?.text()?.to_string(),
                certificate: p.get(2)?.bytes()?.to_vec(),
                revoke: p.get(3).map(|v| v.unsigned().ok_or(())).transpose().ok()?,
            }))
        }
        41 => {
            let head = |h: &Value<'_>| {
                Some(Head { writer: h.get(0)?.text()?.into(), size: h.get(2)?.unsigned()?, root: h.get(3)?.hash()? })
            };
            payload?.items()?.iter().map(head).collect::<Option<_>>().map(Special::Heads)
        }
        42 => match payload?.items()? {
            [Value::Unsigned(2)] => Some(Special::Close),
            [Value::Unsigned(4), Value::Array(recovery)] => match &recovery[..] {
                [segment, offset, length, hash] => Some(Special::Recovery(Recovery {
                    segment: segment.unsigned()?,
                    offset: offset.unsigned()?,
                    length: length.unsigned()?,
                    hash: hash.hash()?,
                })),
                _ => None,
            },
            _ => Some(Special::None),
        },
        _ => Some(Special::None),
    }
}
