//! Checks proofs that stand alone: that an entry is in a chain, that a checkpoint continues another. Needs the proof and
//! the ledger's root key, and nothing else.
//!
//! What holds true here: *false* means that the proof contradicts itself or the key; *cannot check* that it is no proof.
//! A good proof shows that the root's key holder vouched for the key that signed. Whether that key was revoked since, or
//! the ledger has grown, no proof that stands alone can say.

use super::{
    anchor::sha2,
    cbor::{self, Value},
    facts::facts,
    note::{Checkpoint, Note, Vkey},
    tree::{Digest32, leaf, sha3},
};
use custody_model::{Hash, WriterId};

/// What a proof shows.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Proven {
    /// An entry stands in a chain.
    Entry {
        /// The ledger.
        log: Hash,
        /// The tree: warehouse, hash, writer.
        origin: String,
        /// Where.
        seq: u64,
        /// Of how many entries.
        size: u64,
        /// When, by the writer's clock, in nanoseconds.
        wall: i64,
        /// How many checkpoints the anchor had when it held one above the entry; none: the proof does not say so.
        anchored: Option<u64>,
        /// Its kind.
        kind: u64,
        /// Its stored bytes.
        entry: Vec<u8>,
    },
    /// A checkpoint continues another.
    Consistency {
        /// The ledger.
        log: Hash,
        /// The tree.
        origin: String,
        /// The older size.
        old: u64,
        /// The newer size.
        new: u64,
    },
}

/// A proof that proves nothing.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum NotProven {
    /// It contradicts itself, or the root key.
    #[error("false proof: {0}")]
    False(String),
    /// It is no proof.
    #[error("cannot check: {0}")]
    CannotCheck(String),
}

impl NotProven {
    /// 4, 1.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::False(_) => 4,
            Self::CannotCheck(_) => 1,
        }
    }
}

/// Entries are stamped before they are appended, and keys end between two appends.
const EXPIRY_SLACK_NANOS: i64 = 3600 * 1_000_000_000;

fn wrong<T>(why: impl Into<String>) -> Result<T, NotProven> {
    Err(NotProven::False(why.into()))
}

fn unreadable(why: impl Into<String>) -> NotProven {
    NotProven::CannotCheck(why.into())
}

/// Checks a proof against the verifier string of a ledger's root key.
pub fn check_proof(proof: &[u8], root_key: &str) -> Result<Proven, NotProven> {
    let root = Vkey::parse(root_key.trim()).ok_or_else(|| unreadable("the root key is malformed"))?;
    let map = cbor::read(proof).map_err(|why| unreadable(format!("not canonical: {why}")))?;
    match (map.get(0).and_then(Value::text), &map) {
        (Some("custody-proof/1"), Value::Map(pairs)) if keys(pairs, 4) => entry(&map, &root),
        (Some("custody-consistency/1"), Value::Map(pairs)) if keys(pairs, 5) => consistency(&map, &root),
        _ => Err(unreadable("not a proof of a kind that is known here")),
    }
}

/// The keys of a map are 0 to `count`.
fn keys(pairs: &[(u64, Value<'_>)], count: u64) -> bool {
    pairs.iter().map(|(key, _)| *key).eq(0..count)
}

fn entry(map: &Value<'_>, root: &Vkey) -> Result<Proven, NotProven> {
    let no = || unreadable("a part of the proof is missing");
    let entry = map.get(1).and_then(Value::bytes).ok_or_else(no)?;
    let hops = map.get(2).and_then(Value::items).ok_or_else(no)?;
    let (hop, beyond) = match hops {
        [hop] => (hop, None),
        [hop, beyond] => (hop, Some(beyond)),
        _ => return Err(unreadable("it has another number of hops than one or two")),
    };
    if !matches!(hop, Value::Map(pairs) if keys(pairs, 6)) || hop.get(0).and_then(Value::text) != Some("sha3-256") {
        return Err(unreadable("its hop is not over SHA3-256"));
    }
    let (named, path) = (hop.get(1).and_then(Value::hash).ok_or_else(no)?, hashes(hop.get(4)).ok_or_else(no)?);
    let number = |key| hop.get(key).and_then(Value::unsigned).ok_or_else(no);
    let (seq, size) = (number(2)?, number(3)?);
    let note = checkpoint(hop.get(5).ok_or_else(no)?)?;
    let facts = facts(entry).map_err(|why| unreadable(format!("its entry is not canonical: {why}")))?;
    if leaf(entry) != named {
        return wrong("the entry does not match its leaf");
    }
    if note.size != size {
        return wrong("the checkpoint is of another size");
    }
    if included(node, &named, seq, size, &path) != Some(note.root) {
        return wrong("its hashes do not lead to the signed root");
    }
    let signed = signed(&note, map.get(3), root)?;
    if facts.wall > signed.expires.saturating_add(EXPIRY_SLACK_NANOS) {
        return wrong("the entry is from after the key expired");
    }
    let noted = hop.get(5).and_then(Value::bytes).unwrap_or_default();
    let anchored =
        beyond.map(|beyond| anchored(beyond, noted, &note.origin, map.get(3), root, signed.log)).transpose()?;
    let (log, origin, entry) = (signed.log, note.origin, entry.to_vec());
    Ok(Proven::Entry { log, origin, seq, size, wall: facts.wall, anchored, kind: facts.kind, entry })
}

/// The hop from a note to a checkpoint of the anchor: of how many notes.
fn anchored(
    hop: &Value<'_>,
    noted: &[u8],
    origin: &str,
    certificates: Option<&Value<'_>>,
    root: &Vkey,
    log: Hash,
) -> Result<u64, NotProven> {
    let no = || unreadable("a part of the proof is missing");
    if !matches!(hop, Value::Map(pairs) if keys(pairs, 6)) || hop.get(0).and_then(Value::text) != Some("sha-256") {
        return Err(unreadable("its second hop is not over SHA-256"));
    }
    let (named, path) = (hop.get(1).and_then(Value::hash).ok_or_else(no)?, hashes(hop.get(4)).ok_or_else(no)?);
    let number = |key| hop.get(key).and_then(Value::unsigned).ok_or_else(no);
    let (index, size) = (number(2)?, number(3)?);
    let note = checkpoint(hop.get(5).ok_or_else(no)?)?;
    if sha2(&[&[0], noted]) != named {
        return wrong("the checkpoint is not the leaf of the anchor");
    }
    if note.size != size {
        return wrong("the anchor's checkpoint is of another size");
    }
    if included(node_of_anchor, &named, index, size, &path) != Some(note.root) {
        return wrong("its hashes do not lead to the anchor's signed root");
    }
    let warehouse = origin.split_once("/sha3-256/").map_or("", |(warehouse, _)| warehouse);
    let name = format!("{warehouse}/anchor");
    if note.origin != name {
        return wrong("the anchor is of another ledger");
    }
    let key = certificates.and_then(Value::items).unwrap_or_default().iter().find_map(|certificate| {
        let certificate = Note::parse(std::str::from_utf8(certificate.bytes()?).ok()?).ok()?;
        let [line] = &certificate.signatures[..] else { return None };
        let by_root = line.name == root.name && line.key_id == root.id;
        if !by_root || !root.verifies(certificate.text.as_bytes(), &line.signature) {
            return None;
        }
        match certificate.text.split('\n').collect::<Vec<_>>()[..] {
            ["custody-anchor/1", id, key, ""] if id == log.to_string() => {
                Vkey::parse(key).filter(|key| key.name == name)
            }
            _ => None,
        }
    });
    let Some(key) = key else { return wrong("the root does not vouch for the anchor's key") };
    // Witnesses add lines of their own.
    let own = note.signatures.iter().find(|line| line.name == key.name && line.key_id == key.id);
    match own {
        Some(line) if key.verifies(note.text.as_bytes(), &line.signature) => Ok(size),
        _ => wrong("the anchor's checkpoint does not match its signature"),
    }
}

fn consistency(map: &Value<'_>, root: &Vkey) -> Result<Proven, NotProven> {
    let no = || unreadable("a part of the proof is missing");
    let (older, newer) = (checkpoint(map.get(1).ok_or_else(no)?)?, checkpoint(map.get(2).ok_or_else(no)?)?);
    let path = hashes(map.get(3)).ok_or_else(no)?;
    if older.origin != newer.origin {
        return wrong("the checkpoints are of different chains");
    }
    let (one, two) = (signed(&older, map.get(4), root)?, signed(&newer, map.get(4), root)?);
    if one.log != two.log {
        return wrong("the checkpoints are of different ledgers");
    }
    if !continues(&older, &newer, &path) {
        return wrong(format!("the checkpoint of size {} does not continue that of size {}", newer.size, older.size));
    }
    Ok(Proven::Consistency { log: one.log, origin: newer.origin, old: older.size, new: newer.size })
}

fn hashes(value: Option<&Value<'_>>) -> Option<Vec<Digest32>> {
    value?.items()?.iter().map(Value::hash).collect()
}

fn checkpoint(value: &Value<'_>) -> Result<Checkpoint, NotProven> {
    let text = value.bytes().and_then(|b| std::str::from_utf8(b).ok());
    let text = text.ok_or_else(|| unreadable("its checkpoint is not text"))?;
    Checkpoint::parse(text).map_err(|why| unreadable(format!("its checkpoint is malformed: {why}")))
}

/// What the certificate of a signing key says.
struct Signed {
    log: Hash,
    expires: i64,
}

/// Every signature of a checkpoint is by a key that the root vouches for; there is one at least.
fn signed(note: &Checkpoint, certificates: Option<&Value<'_>>, root: &Vkey) -> Result<Signed, NotProven> {
    let list = certificates.and_then(Value::items).ok_or_else(|| unreadable("it has no key certificates"))?;
    let mut known = vec![];
    for certificate in list {
        let text = certificate.bytes().and_then(|b| std::str::from_utf8(b).ok());
        let text = text.ok_or_else(|| unreadable("a key certificate is not text"))?;
        let certificate = Note::parse(text);
        known.push(certificate.map_err(|why| unreadable(format!("a key certificate is malformed: {why}")))?);
    }
    let mut found = None;
    for line in &note.signatures {
        let by = known.iter().find_map(|certificate| {
            let (key, signed) = certified(certificate, &note.origin, root)?;
            (key.id == line.key_id && key.name == line.name).then_some((key, signed))
        });
        let Some((key, signed)) = by else { return wrong("a key signed that the root does not vouch for") };
        if !key.verifies(note.text.as_bytes(), &line.signature) {
            return wrong("the checkpoint does not match its signature");
        }
        found = Some(signed);
    }
    found.ok_or_else(|| NotProven::False("nobody signed the checkpoint".into()))
}

/// The key of a certificate for this tree; `None`: the root did not sign it, or it is for another.
fn certified(certificate: &Note, origin: &str, root: &Vkey) -> Option<(Vkey, Signed)> {
    let [line] = &certificate.signatures[..] else { return None };
    let by_root = line.name == root.name && line.key_id == root.id;
    if !by_root || !root.verifies(certificate.text.as_bytes(), &line.signature) {
        return None;
    }
    let lines: Vec<&str> = certificate.text.split_terminator('\n').collect();
    let ["custody-key/1", log, writer, epoch, key, expires] = &lines[..] else { return None };
    let writer = WriterId::new(writer)?;
    let (warehouse, of) = origin.split_once("/sha3-256/")?;
    let vouched = of == writer.as_str() && root.name == format!("{warehouse}/root") && epoch.parse::<u64>().is_ok();
    let key = Vkey::parse(key).filter(|key| vouched && key.name == origin)?;
    Some((key, Signed { log: log.parse().ok()?, expires: expires.parse().ok()? }))
}

fn node(left: &Digest32, right: &Digest32) -> Digest32 {
    sha3(&[&[1], left, right])
}

fn node_of_anchor(left: &Digest32, right: &Digest32) -> Digest32 {
    sha2(&[&[1], left, right])
}

/// The hash of an inner node.
type NodeHash = fn(&Digest32, &Digest32) -> Digest32;

/// The root that a path leads to from a leaf, by the recursive definition of RFC 6962; `None`: wrong length.
fn included(node: NodeHash, leaf: &Digest32, index: u64, size: u64, path: &[Digest32]) -> Option<Digest32> {
    if index >= size {
        return None;
    }
    if size == 1 {
        return path.is_empty().then_some(*leaf);
    }
    let (top, below) = path.split_last()?;
    let middle = size.checked_next_power_of_two()? / 2;
    if index < middle {
        Some(node(&included(node, leaf, index, middle, below)?, top))
    } else {
        Some(node(top, &included(node, leaf, index - middle, size - middle, below)?))
    }
}

/// Whether a path leads from the older root to both roots.
fn continues(older: &Checkpoint, newer: &Checkpoint, path: &[Digest32]) -> bool {
    if older.size == newer.size {
        return path.is_empty() && older.root == newer.root;
    }
    if older.size == 0 {
        return path.is_empty() && older.root == sha3(&[]);
    }
    older.size < newer.size && roots(older.size, newer.size, path, true, &older.root) == Some((older.root, newer.root))
}

/// Both roots over the subtree of `new` leaves whose first `old` are in the older tree. `whole`: the older tree begins
/// with this subtree's left edge and is known.
fn roots(old: u64, new: u64, path: &[Digest32], whole: bool, known: &Digest32) -> Option<(Digest32, Digest32)> {
    if old == new {
        return match (whole, path) {
            (true, []) => Some((*known, *known)),
            (false, [one]) => Some((*one, *one)),
            _ => None,
        };
    }
    let (top, below) = path.split_last()?;
    let middle = new.checked_next_power_of_two()? / 2;
    if old <= middle {
        let (before, after) = roots(old, middle, below, whole, known)?;
        Some((before, node(&after, top)))
    } else {
        let (before, after) = roots(old - middle, new - middle, below, false, known)?;
        Some((node(top, &before), node(top, &after)))
    }
}
