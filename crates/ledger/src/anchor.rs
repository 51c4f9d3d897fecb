//! The anchor: signed checkpoints of all chains as leaves of one small log that existing witnesses understand.
//!
//! `anchor/` is a C2SP tlog-tiles log over SHA-256 with origin `<warehouse>/anchor`: `checkpoint`, `tile/<L>/<N>` with 256
//! hashes each, `tile/entries/<N>` with 256 leaves each (u16 length, then the signed note), and `.p/<W>` for what is not
//! whole. `key` is a note in which the ledger's root vouches for the anchor's key. Witnesses see sizes and roots only.
//!
//! What holds here: a checkpoint is published after all that it covers; nothing is written over what an earlier one covers.
//! INVARIANT: whoever adds to it holds `anchor/LOCK`.

use crate::{
    disk::{Disk, DiskError},
    keys::Genesis,
    note::{BadNote, BadVerifierKey, Checkpoint, NoteSignature, SignedNote, VerifierKey},
    tiles::{TILE_HASHES, TILE_HEIGHT, numbered},
    tree::{Sha2, Tree, TreeHash, TreeSize, root_of},
};
use custody_model::Hash;
use ed25519_dalek::{Signer as _, SigningKey};

/// The lock of whoever adds to the anchor.
pub const ANCHOR_LOCK: &str = "anchor/LOCK";
pub(crate) const ANCHOR_CHECKPOINT: &str = "anchor/checkpoint";
pub(crate) const ANCHOR_KEY: &str = "anchor/key";

/// The origin of the anchor: `<warehouse>/anchor`.
pub fn anchor_origin(warehouse: &str) -> String {
    format!("{warehouse}/anchor")
}

/// The key that signs the anchor, with the root's word for it. It stays the same: witnesses know a log by its key.
pub struct AnchorKey {
    secret: SigningKey,
    key: VerifierKey,
    certificate: Vec<u8>,
}

impl AnchorKey {
    /// The key of this seed, vouched for by the root. The certificate's lines: `custody-anchor/1`, log id, verifier key.
    pub(crate) fn new(genesis: &Genesis, root: &SigningKey, seed: [u8; 32]) -> Result<Self, BadVerifierKey> {
        let secret = SigningKey::from_bytes(&seed);
        let key = VerifierKey::new(&anchor_origin(&genesis.warehouse), secret.verifying_key().as_bytes())?;
        let text = format!("custody-anchor/1\n{}\n{key}\n", genesis.log_id());
        let signature = root.sign(text.as_bytes()).to_bytes().to_vec();
        let by = &genesis.root;
        let line = NoteSignature { name: by.name().to_string(), id: by.id(), signature };
        Ok(Self { secret, key, certificate: SignedNote::new(text, vec![line]).to_bytes() })
    }

    /// The verifier's half.
    pub fn key(&self) -> &VerifierKey {
        &self.key
    }

    fn sign(&self, size: TreeSize, root: Hash) -> SignedNote {
        let text = Checkpoint { origin: self.key.name().to_string(), size, root }.to_string();
        let signature = self.secret.sign(text.as_bytes()).to_bytes().to_vec();
        SignedNote::new(text, vec![NoteSignature { name: self.key.name().to_string(), id: self.key.id(), signature }])
    }
}

/// An anchor that cannot grow.
#[derive(Debug, thiserror::Error)]
pub enum AnchorFailed {
    /// The disk.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// Its checkpoint cannot be read, or another key signed it.
    #[error("the anchor's checkpoint cannot be used: {0}")]
    Checkpoint(BadNote),
    /// What it should hold is not there.
    #[error("the anchor is damaged at `{0}`")]
    Damaged(String),
}

/// What a round did.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Anchored {
    /// Checkpoints in the anchor.
    pub size: TreeSize,
    /// Parts of tiles that later ones have replaced, and nobody reads: those of the checkpoint before stay.
    pub old: Vec<String>,
}

/// Whether there is an anchor: one that begins needs a key of its own.
pub fn is_anchored(disk: &dyn Disk) -> Result<bool, DiskError> {
    Ok(disk.len(ANCHOR_CHECKPOINT)?.is_some())
}

/// Adds these signed checkpoints, those of them that were not added lately, and signs the whole.
pub fn anchor(disk: &dyn Disk, key: &AnchorKey, notes: &[Vec<u8>]) -> Result<Anchored, AnchorFailed> {
    let mut log = match disk.read(ANCHOR_CHECKPOINT)? {
        Some(bytes) => Open::load(disk, key, &bytes)?,
        None => Open::begin(disk, key)?,
    };
    let before = log.tree.size();
    for note in notes {
        let fits = u16::try_from(note.len()).is_ok();
        if fits && !note.is_empty() && !log.lately.contains(note) {
            log.push(disk, note)?;
        }
    }
    let size = log.tree.size();
    if size > before {
        log.store_edge(disk)?;
        disk.publish(ANCHOR_CHECKPOINT, &key.sign(size, log.tree.root()).to_bytes())?;
    }
    Ok(Anchored { size, old: replaced(disk, before, size)? })
}

/// The whole tile with this number, or the first `part` of it.
pub(crate) fn tile(of: &str, number: u64, part: usize) -> String {
    let whole = format!("anchor/tile/{of}/{}", numbered(number));
    if part == 0 { whole } else { format!("{whole}.p/{part}") }
}

/// The leaves of a bundle; `None`: it is malformed.
pub(crate) fn bundle(mut bytes: &[u8]) -> Option<Vec<Vec<u8>>> {
    let mut leaves = vec![];
    while let Some((length, rest)) = bytes.split_first_chunk::<2>() {
        let (leaf, rest) = rest.split_at_checked(usize::from(u16::from_be_bytes(*length)))?;
        leaves.push(leaf.to_vec());
        bytes = rest;
    }
    bytes.is_empty().then_some(leaves)
}

/// Everything that a proof needs of an anchor.
pub(crate) struct Leaves {
    pub(crate) notes: Vec<Vec<u8>>,
    /// The signed checkpoint over them.
    pub(crate) checkpoint: Vec<u8>,
    /// The note in which the root vouches for its key.
    pub(crate) key: Vec<u8>,
}

impl Leaves {
    /// What is there; `None`: nothing, or what cannot be read, which is for `verify` to judge.
    pub(crate) fn load(disk: &dyn Disk) -> Result<Option<Self>, DiskError> {
        let (Some(key), Some(checkpoint)) = (disk.read(ANCHOR_KEY)?, disk.read(ANCHOR_CHECKPOINT)?) else {
            return Ok(None);
        };
        let signed = SignedNote::parse(&checkpoint).and_then(|note| note.checkpoint());
        let Ok(Checkpoint { size, .. }) = signed else { return Ok(None) };
        let mut notes: Vec<Vec<u8>> = vec![];
        while (notes.len() as u64) < size.0 {
            let number = notes.len() as u64 / TILE_HASHES as u64;
            let count = (size.0 - notes.len() as u64).min(TILE_HASHES as u64) as usize;
            let bytes = disk.read(&tile("entries", number, count % TILE_HASHES))?;
            let Some(found) = bytes.and_then(|bytes| bundle(&bytes)).filter(|found| found.len() == count) else {
                return Ok(None);
            };
            notes.extend(found);
        }
        Ok(Some(Self { notes, checkpoint, key }))
    }
}

/// The log at its right edge.
struct Open {
    tree: Tree<Sha2>,
    /// Of each level, the hashes of the tile that is not whole.
    edge: Vec<Vec<Hash>>,
    /// Leaves of the bundle that is not whole.
    leaves: Vec<Vec<u8>>,
    /// Those and the ones of the bundle before.
    lately: Vec<Vec<u8>>,
}

impl Open {
    /// A new log: its key, then a checkpoint of nothing, so that a later one that is missing is missed.
    fn begin(disk: &dyn Disk, key: &AnchorKey) -> Result<Self, AnchorFailed> {
        disk.publish(ANCHOR_KEY, &key.certificate)?;
        let tree = Tree::new();
        disk.publish(ANCHOR_CHECKPOINT, &key.sign(tree.size(), tree.root()).to_bytes())?;
        Ok(Self { tree, edge: vec![], leaves: vec![], lately: vec![] })
    }

    fn load(disk: &dyn Disk, key: &AnchorKey, bytes: &[u8]) -> Result<Self, AnchorFailed> {
        let note = SignedNote::parse(bytes).map_err(AnchorFailed::Checkpoint)?;
        note.verify(&key.key).map_err(AnchorFailed::Checkpoint)?;
        let checkpoint = note.checkpoint().map_err(AnchorFailed::Checkpoint)?;
        let size = checkpoint.size.0;
        let damaged = || AnchorFailed::Damaged(ANCHOR_CHECKPOINT.into());
        let read = |path: String| disk.read(&path)?.ok_or(AnchorFailed::Damaged(path));
        let whole = TILE_HASHES as u64;
        let (mut edge, mut level) = (vec![], 0);
        while let Some(hashes) = size.checked_shr(TILE_HEIGHT * level).filter(|hashes| *hashes > 0) {
            let part = (hashes % whole) as usize;
            let held = match part {
                0 => vec![],
                part => {
                    let path = tile(&level.to_string(), hashes / whole, part);
                    let bytes = read(path.clone())?;
                    let (hashes, rest) = bytes.as_chunks::<32>();
                    if hashes.len() != part || !rest.is_empty() {
                        return Err(AnchorFailed::Damaged(path));
                    }
                    hashes.iter().map(|hash| Hash(*hash)).collect()
                }
            };
            edge.push(held);
            level += 1;
        }
        // The tree's complete subtrees lie side by side in the tiles of its edge.
        let peaks = (0..u64::BITS).rev().filter(|bit| size >> bit & 1 == 1).map(|bit| {
            let (level, bit) = (bit / TILE_HEIGHT, bit % TILE_HEIGHT);
            let held: &Vec<Hash> = edge.get(level as usize)?;
            let from = held.len() >> (bit + 1) << (bit + 1);
            held.get(from..from + (1 << bit)).map(root_of::<Sha2>)
        });
        let tree = peaks.collect::<Option<_>>().and_then(|peaks| Tree::from_peaks(size, peaks)).ok_or_else(damaged)?;
        if tree.root() != checkpoint.root {
            return Err(damaged());
        }
        let leaves = |number: u64, count: usize| {
            let path = tile("entries", number, count % TILE_HASHES);
            let found = bundle(&read(path.clone())?).filter(|leaves| leaves.len() == count);
            found.ok_or(AnchorFailed::Damaged(path))
        };
        let (number, part) = (size / whole, (size % whole) as usize);
        let open = if part > 0 { leaves(number, part)? } else { vec![] };
        let before = if number > 0 { leaves(number - 1, TILE_HASHES)? } else { vec![] };
        let lately = before.into_iter().chain(open.iter().cloned()).collect();
        Ok(Self { tree, edge, leaves: open, lately })
    }

    fn push(&mut self, disk: &dyn Disk, note: &[u8]) -> Result<(), AnchorFailed> {
        let number = self.tree.size().0 / TILE_HASHES as u64;
        self.leaves.push(note.to_vec());
        self.lately.push(note.to_vec());
        if self.leaves.len() == TILE_HASHES {
            disk.publish(&tile("entries", number, 0), &bundled(&std::mem::take(&mut self.leaves)))?;
        }
        let edge = &mut self.edge;
        self.tree.push_seen(Sha2::leaf(note), |height, hash| {
            if height.is_multiple_of(TILE_HEIGHT) {
                let level = (height / TILE_HEIGHT) as usize;
                edge.resize(edge.len().max(level + 1), vec![]);
                edge[level].push(hash);
            }
        });
        for (level, hashes) in self.edge.iter_mut().enumerate().filter(|(_, hashes)| hashes.len() == TILE_HASHES) {
            let number = (self.tree.size().0 >> (TILE_HEIGHT * level as u32)) / TILE_HASHES as u64 - 1;
            disk.publish(&tile(&level.to_string(), number, 0), &flat(&std::mem::take(hashes)))?;
        }
        Ok(())
    }

    fn store_edge(&self, disk: &dyn Disk) -> Result<(), AnchorFailed> {
        let size = self.tree.size().0;
        let number = |level: usize| (size >> (TILE_HEIGHT * level as u32)) / TILE_HASHES as u64;
        if !self.leaves.is_empty() {
            disk.publish(&tile("entries", number(0), self.leaves.len()), &bundled(&self.leaves))?;
        }
        for (level, hashes) in self.edge.iter().enumerate().filter(|(_, hashes)| !hashes.is_empty()) {
            disk.publish(&tile(&level.to_string(), number(level), hashes.len()), &flat(hashes))?;
        }
        Ok(())
    }
}

fn flat(hashes: &[Hash]) -> Vec<u8> {
    hashes.iter().flat_map(|hash| hash.0).collect()
}

fn bundled(leaves: &[Vec<u8>]) -> Vec<u8> {
    // INVARIANT: a leaf's length fits; longer notes are not pushed.
    leaves.iter().flat_map(|leaf| [&(leaf.len() as u16).to_be_bytes()[..], leaf].concat()).collect()
}

/// Parts of the newest tiles that are those of neither checkpoint.
fn replaced(disk: &dyn Disk, before: TreeSize, size: TreeSize) -> Result<Vec<String>, DiskError> {
    let (mut old, whole) = (vec![], TILE_HASHES as u64);
    for (of, level) in [("entries", 0), ("0", 0), ("1", 1), ("2", 2), ("3", 3)] {
        let [before, size] = [before.0, size.0].map(|size| size >> (TILE_HEIGHT * level));
        let newest = size / whole;
        for number in newest.saturating_sub(1)..=newest {
            let folder = format!("{}.p", tile(of, number, 0));
            for name in disk.list(&folder)? {
                let used = |size: u64| size / whole == number && (size % whole).to_string() == name;
                if !used(before) && !used(size) {
                    old.push(format!("{folder}/{name}"));
                }
            }
        }
    }
    Ok(old)
}

#[cfg(test)]
mod tests;
