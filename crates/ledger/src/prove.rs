//! Proofs about a chain for someone who has neither the ledger nor a server: that an entry is in it, and that one
//! checkpoint continues another.
//!
//! Both are deterministic CBOR, and are checked by [`crate::verify::check_proof`], which shares nothing with this module.
//!
//! | proof of an entry | | proof between checkpoints | |
//! |---|---|---|---|
//! | 0 | `custody-proof/1` | 0 | `custody-consistency/1` |
//! | 1 | the entry's stored bytes | 1, 2 | older and newer note |
//! | 2 | hops | 3 | hashes |
//! | 3 | key certificates | 4 | key certificates |
//!
//! A hop is `{0: hash, 1: leaf hash, 2: index, 3: size, 4: hashes, 5: note}`, the hash by its name. The first leads from the
//! entry to a checkpoint of its chain; a second, if there is one, from that note to a checkpoint of the anchor. A proof costs the few
//! tiles on its path and the entries that no whole tile covers yet, at most 65,536.

use crate::{
    anchor::Leaves,
    disk::{Disk, DiskError},
    format::{Value, decode, peek_two, to_bytes},
    frames::Frames,
    keys::Genesis,
    note::{BadNote, Checkpoint, SignedNote, writer_origin},
    proof::{ProofInvalid, consistency_path, inclusion_path, prove_inclusion},
    segment::{BLOCK_BYTES, SegmentHeader, checkpoint_path, segment_number, segment_path, writer_folder},
    tiles::{TILE_HASHES, TILE_HEIGHT, tile_path},
    tree::{LeafIndex, Sha2, Sha3, TreeHash, TreeSize, root_of},
};
use custody_model::{Hash, Kind, Payload, WriterId};
use std::{collections::BTreeMap, ops::Range};

/// A proof that cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum ProveFailed {
    /// The disk.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// There is nothing to prove it with.
    #[error("no checkpoint signs the chain of writer {0} yet")]
    Unsigned(WriterId),
    /// The checkpoint, or a note that was given, cannot be read.
    #[error("the checkpoint of writer {writer} cannot be used: {why}")]
    Checkpoint {
        /// Whose.
        writer: WriterId,
        /// Why not.
        why: BadNote,
    },
    /// A note of another chain.
    #[error("the checkpoint is of `{0}`, which is not a writer of this ledger")]
    OtherLog(String),
    /// The entry is not there, or not signed yet.
    #[error(transparent)]
    Proof(#[from] ProofInvalid),
    /// The chain cannot be read where the proof needs it.
    #[error("ledger damaged at writer {writer}, entry {seq}: it cannot be read")]
    Damaged {
        /// Whose chain.
        writer: WriterId,
        /// From which entry on.
        seq: u64,
    },
    /// The hashes of the chain do not lead to the signed root.
    #[error("the chain of writer {0} is not the one that its checkpoint signs")]
    NotSigned(WriterId),
    /// No checkpoint above the entry is in the anchor.
    #[error("no checkpoint of writer {writer} above entry {seq} is anchored yet")]
    NotAnchored {
        /// Whose chain.
        writer: WriterId,
        /// Which entry.
        seq: u64,
    },
    /// The key that signed is not in the chain.
    #[error("the chain of writer {0} holds no certificate of the key that signs it")]
    NoCertificate(WriterId),
}

/// Makes proofs about one writer's chain. Reads files; needs no lock, no key and no clock.
pub struct Prover<'a> {
    disk: &'a dyn Disk,
    genesis: Genesis,
    writer: WriterId,
    headers: Vec<SegmentHeader>,
    tiles: BTreeMap<(u32, u64), Option<Vec<Hash>>>,
    /// Leaf hashes from an entry on.
    leaves: BTreeMap<u64, Vec<Hash>>,
}

impl<'a> Prover<'a> {
    /// Proofs about a writer's chain.
    pub fn new(disk: &'a dyn Disk, genesis: &Genesis, writer: &WriterId) -> Result<Self, ProveFailed> {
        let mut headers = vec![];
        for name in disk.list(&format!("{}/seg", writer_folder(writer)))? {
            let Some(number) = segment_number(&name) else { continue };
            let start = disk.read_at(&segment_path(writer, number), 0, BLOCK_BYTES)?;
            let header = SegmentHeader::parse(&start);
            headers.push(header.map_err(|_| ProveFailed::Damaged { writer: writer.clone(), seq: 0 })?);
        }
        let (tiles, leaves) = (BTreeMap::new(), BTreeMap::new());
        Ok(Self { disk, genesis: genesis.clone(), writer: writer.clone(), headers, tiles, leaves })
    }

    /// The proof that entry `seq` is in the chain, up to its newest checkpoint.
    pub fn entry(&mut self, seq: u64) -> Result<Vec<u8>, ProveFailed> {
        let (note, checkpoint) = self.signed()?;
        self.proof(seq, &note, &checkpoint, None)
    }

    /// The same up to the first checkpoint above it that is in the anchor, with the proof that it is there.
    pub fn anchored(&mut self, seq: u64) -> Result<Vec<u8>, ProveFailed> {
        let missing = || ProveFailed::NotAnchored { writer: self.writer.clone(), seq };
        let found = Leaves::load(self.disk)?.ok_or_else(missing)?;
        let own = |note: &[u8]| {
            let note = SignedNote::parse(note).ok()?;
            let checkpoint = self.checkpoint_of(&note).ok().filter(|checkpoint| checkpoint.size.0 > seq)?;
            Some((note, checkpoint))
        };
        let place = found.notes.iter().enumerate().find_map(|(n, note)| Some((n, own(note)?)));
        let (place, (note, checkpoint)) = place.ok_or_else(missing)?;
        self.proof(seq, &note, &checkpoint, Some((&found, place as u64)))
    }

    fn proof(
        &mut self,
        seq: u64,
        note: &SignedNote,
        checkpoint: &Checkpoint,
        anchor: Option<(&Leaves, u64)>,
    ) -> Result<Vec<u8>, ProveFailed> {
        let size = checkpoint.size;
        let path = inclusion_path(LeafIndex(seq), size, |range| self.root(range, size.0))?;
        let entry = self.bytes(seq)?;
        let leaf = Sha3::leaf(&entry);
        crate::proof::verify_inclusion::<Sha3>(&leaf, LeafIndex(seq), size, &path, &checkpoint.root)
            .map_err(|_| ProveFailed::NotSigned(self.writer.clone()))?;
        let mut hops = vec![hop("sha3-256", &leaf, seq, size, &path, note.to_bytes())];
        let mut certificates = self.certificates(&[note])?;
        if let Some((anchor, place)) = anchor {
            let leaves: Vec<Hash> = anchor.notes.iter().map(|note| Sha2::leaf(note)).collect();
            let path = prove_inclusion::<Sha2>(&leaves, LeafIndex(place))?;
            let size = TreeSize(leaves.len() as u64);
            hops.push(hop("sha-256", &Sha2::leaf(&note.to_bytes()), place, size, &path, anchor.checkpoint.clone()));
            certificates.push(Value::Bytes(anchor.key.clone()));
        }
        Ok(to_bytes(&Value::Map(vec![
            (0, Value::Text("custody-proof/1".into())),
            (1, Value::Bytes(entry)),
            (2, Value::Array(hops)),
            (3, Value::Array(certificates)),
        ])))
    }

    /// The proof that one checkpoint continues another; without a newer one, the chain's own newest does.
    pub fn consistency(&mut self, older: &SignedNote, newer: Option<&SignedNote>) -> Result<Vec<u8>, ProveFailed> {
        let old = self.checkpoint_of(older)?;
        let (note, new) = match newer {
            Some(note) => (note.clone(), self.checkpoint_of(note)?),
            None => self.signed()?,
        };
        let path = consistency_path(old.size, new.size, |range| self.root(range, new.size.0))?;
        crate::proof::verify_consistency::<Sha3>(old.size, new.size, &path, [&old.root, &new.root])
            .map_err(|_| ProveFailed::NotSigned(self.writer.clone()))?;
        let certificates = self.certificates(&[older, &note])?;
        Ok(to_bytes(&Value::Map(vec![
            (0, Value::Text("custody-consistency/1".into())),
            (1, Value::Bytes(older.to_bytes())),
            (2, Value::Bytes(note.to_bytes())),
            (3, Value::Array(path.iter().map(hash).collect())),
            (4, Value::Array(certificates)),
        ])))
    }

    /// The stored bytes of an entry.
    pub fn bytes(&self, seq: u64) -> Result<Vec<u8>, ProveFailed> {
        let mut found = None;
        self.walk(seq..seq + 1, |entry| found = Some(entry.to_vec()))?;
        found.ok_or_else(|| self.damaged(seq))
    }

    fn damaged(&self, seq: u64) -> ProveFailed {
        ProveFailed::Damaged { writer: self.writer.clone(), seq }
    }

    fn checkpoint_of(&self, note: &SignedNote) -> Result<Checkpoint, ProveFailed> {
        let checkpoint = note.checkpoint();
        let checkpoint = checkpoint.map_err(|why| ProveFailed::Checkpoint { writer: self.writer.clone(), why })?;
        match checkpoint.origin == writer_origin(&self.genesis.warehouse, &self.writer) {
            true => Ok(checkpoint),
            false => Err(ProveFailed::OtherLog(checkpoint.origin)),
        }
    }

    fn signed(&self) -> Result<(SignedNote, Checkpoint), ProveFailed> {
        let bytes = self.disk.read(&checkpoint_path(&self.writer))?;
        let bytes = bytes.ok_or_else(|| ProveFailed::Unsigned(self.writer.clone()))?;
        let note = SignedNote::parse(&bytes);
        let note = note.map_err(|why| ProveFailed::Checkpoint { writer: self.writer.clone(), why })?;
        let checkpoint = self.checkpoint_of(&note)?;
        Ok((note, checkpoint))
    }

    /// Hands out the bytes of some entries, in order.
    fn walk(&self, range: Range<u64>, mut visit: impl FnMut(&[u8])) -> Result<(), ProveFailed> {
        let mut next = range.start;
        let first = self.headers.partition_point(|h| h.first_seq.0 <= next).saturating_sub(1);
        for (n, header) in self.headers.iter().enumerate().skip(first) {
            let limit = self.headers.get(n + 1).map_or(header.size, |h| h.previous_length);
            let mut frames = Frames::new(self.disk, header, BLOCK_BYTES as u64, limit);
            while next < range.end
                && let Some(found) = frames.next()?
            {
                for (entry, seq) in found.entries().zip(found.frame.first_seq..) {
                    if seq == next && next < range.end {
                        visit(entry);
                        next += 1;
                    }
                }
            }
        }
        if next == range.end { Ok(()) } else { Err(self.damaged(next)) }
    }

    /// The root over a range of entries that is a node of the tree of `size` entries.
    fn root(&mut self, range: Range<u64>, size: u64) -> Result<Hash, ProveFailed> {
        let length = range.end - range.start;
        if let Some(hash) = self.tile_root(&range)? {
            return Ok(hash);
        }
        if length <= TILE_HASHES as u64 {
            return self.leaves_root(range, size);
        }
        let middle = range.start + length.next_power_of_two() / 2;
        let (left, right) = (self.root(range.start..middle, size)?, self.root(middle..range.end, size)?);
        Ok(Sha3::node(&left, &right))
    }

    /// From one tile, where the range is a complete subtree of some of its hashes.
    fn tile_root(&mut self, range: &Range<u64>) -> Result<Option<Hash>, ProveFailed> {
        let length = range.end - range.start;
        let level = length.checked_ilog2().unwrap_or(0) / TILE_HEIGHT;
        if level == 0 || !length.is_power_of_two() || !range.start.is_multiple_of(length) {
            return Ok(None);
        }
        let (first, count) = (range.start >> (TILE_HEIGHT * level), (length >> (TILE_HEIGHT * level)) as usize);
        let (number, at) = (first / TILE_HASHES as u64, (first % TILE_HASHES as u64) as usize);
        let tile = match self.tiles.get(&(level, number)) {
            Some(known) => known,
            None => {
                let bytes = self.disk.read(&tile_path(&self.writer, level, number))?;
                let whole = bytes.filter(|b| b.len() == TILE_HASHES * 32);
                let hashes = whole.map(|b| b.chunks(32).filter_map(|h| h.try_into().ok().map(Hash)).collect());
                self.tiles.entry((level, number)).or_insert(hashes)
            }
        };
        Ok(tile.as_ref().and_then(|hashes| hashes.get(at..at + count)).map(root_of::<Sha3>))
    }

    /// From entries: those of one tile's hash, or all that no whole tile covers.
    fn leaves_root(&mut self, range: Range<u64>, size: u64) -> Result<Hash, ProveFailed> {
        let per_tile = (TILE_HASHES * TILE_HASHES) as u64;
        let covered = self.tiles.get(&(1, range.start / per_tile)).is_some_and(Option::is_some);
        let step = if covered { TILE_HASHES as u64 } else { per_tile };
        let from = range.start / step * step;
        let end = (from + step).min(size);
        // Read before for a smaller tree, they may be too few.
        if self.leaves.get(&from).is_none_or(|known| (known.len() as u64) < end - from) {
            let mut leaves = vec![];
            self.walk(from..end, |entry| leaves.push(Sha3::leaf(entry)))?;
            self.leaves.insert(from, leaves);
        }
        let at = |n: u64| usize::try_from(n - from).unwrap_or(usize::MAX);
        let leaves = self.leaves.get(&from).and_then(|l| l.get(at(range.start)..at(range.end)));
        leaves.map(root_of::<Sha3>).ok_or_else(|| self.damaged(range.start))
    }

    /// The certificates of the keys that signed some notes, from the `key` entries; newest segments first.
    fn certificates(&self, notes: &[&SignedNote]) -> Result<Vec<Value>, ProveFailed> {
        let mut certificates: Vec<Vec<u8>> = vec![];
        let mut missing: Vec<&SignedNote> = notes.to_vec();
        for (n, header) in self.headers.iter().enumerate().rev() {
            if missing.is_empty() {
                break;
            }
            let limit = self.headers.get(n + 1).map_or(header.size, |h| h.previous_length);
            let mut frames = Frames::new(self.disk, header, BLOCK_BYTES as u64, limit);
            while let Some(found) = frames.next()? {
                for entry in found.entries().filter(|e| peek_two(e).is_some_and(|(_, kind)| kind == Kind::Key as u64)) {
                    let Ok(Payload::Key(record)) = decode(entry, &crate::format::NoBlobs).map(|e| e.payload) else {
                        continue;
                    };
                    let Ok(key) = record.vkey.parse() else { continue };
                    let before = missing.len();
                    missing.retain(|note| note.verify(&key).is_err());
                    if missing.len() < before {
                        certificates.push(record.certificate);
                    }
                }
            }
        }
        match missing.is_empty() {
            true => Ok(certificates.into_iter().map(Value::Bytes).collect()),
            false => Err(ProveFailed::NoCertificate(self.writer.clone())),
        }
    }
}

fn hop(of: &str, leaf: &Hash, index: u64, size: TreeSize, path: &[Hash], note: Vec<u8>) -> Value {
    Value::Map(vec![
        (0, Value::Text(of.into())),
        (1, hash(leaf)),
        (2, Value::Uint(index)),
        (3, Value::Uint(size.0)),
        (4, Value::Array(path.iter().map(hash).collect())),
        (5, Value::Bytes(note)),
    ])
}

fn hash(hash: &Hash) -> Value {
    Value::Bytes(hash.0.to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Chain, ChainOptions, EntryBytes,
        samples::{encoded, read_begins},
        sim::{FakeSigner, SimDisk, fake_genesis},
        verify::{NotProven, Proven, check_proof},
    };
    use custody_model::WallNanos;

    const NOW: WallNanos = WallNanos(1_800_000_000_000_000_000);

    fn writer() -> WriterId {
        WriterId::new("serve").unwrap()
    }

    /// A chain with one checkpoint after each of some sizes.
    fn chain(disk: &SimDisk, rounds: &[usize], per_frame: usize) -> Vec<SignedNote> {
        let genesis = fake_genesis("clinic");
        genesis.store(disk).unwrap();
        let options = ChainOptions { writer: writer(), segment_bytes: 1 << 20, seed: [1; 32] };
        let (mut chain, _) = Chain::open(disk.clone(), &genesis, options, NOW).unwrap();
        let mut notes = vec![];
        for (n, round) in rounds.iter().enumerate() {
            let signer = FakeSigner::new(&genesis, &writer(), 1 + n as u64 / 2);
            for first in (0..*round).step_by(per_frame) {
                let count = per_frame.min(round - first) as u64;
                let frame: Vec<EntryBytes> =
                    (0..count).map(|i| encoded(i as u8, Payload::ReadProgress(first as u64 + i))).collect();
                chain.commit(&frame, NOW).unwrap();
            }
            notes.push(chain.checkpoint(&signer, NOW).unwrap());
        }
        notes
    }

    fn root_key() -> String {
        fake_genesis("clinic").root.to_string()
    }

    #[test]
    fn every_entry_and_every_pair_of_checkpoints() {
        let disk = SimDisk::new();
        let notes = chain(&disk, &[1, 2, 3, 5, 40, 300], 7);
        let mut prover = Prover::new(&disk, &fake_genesis("clinic"), &writer()).unwrap();
        let sizes: Vec<u64> = notes.iter().map(|n| n.checkpoint().unwrap().size.0).collect();
        let last = sizes[5];
        for seq in 0..last {
            let proof = prover.entry(seq).unwrap();
            let Ok(Proven::Entry { log, origin, seq: at, size, entry, .. }) = check_proof(&proof, &root_key()) else {
                panic!("{seq}: {:?}", check_proof(&proof, &root_key()))
            };
            assert_eq!((log, origin.as_str()), (fake_genesis("clinic").log_id(), "clinic/sha3-256/serve"));
            assert_eq!((at, size, entry), (seq, last, prover.bytes(seq).unwrap()));
        }
        assert!(matches!(prover.entry(last), Err(ProveFailed::Proof(ProofInvalid::OutOfRange { .. }))));
        for (a, older) in notes.iter().enumerate() {
            for (b, newer) in notes.iter().enumerate() {
                let proof = prover.consistency(older, Some(newer));
                if a > b {
                    assert!(matches!(proof, Err(ProveFailed::Proof(ProofInvalid::Shrunk { .. }))), "{a} to {b}");
                    continue;
                }
                let Ok(Proven::Consistency { old, new, .. }) = check_proof(&proof.unwrap(), &root_key()) else {
                    panic!("{a} to {b}")
                };
                assert_eq!((old, new), (sizes[a], sizes[b]));
            }
            assert!(prover.consistency(older, None).is_ok());
        }
    }

    #[test]
    fn proofs_from_tiles() {
        let disk = SimDisk::new();
        let notes = chain(&disk, &[30_000, 40_000, 5_000], 2_000);
        assert!(disk.paths().contains(&"w/serve/tile/1/000".to_string()));
        let size = notes[2].checkpoint().unwrap().size.0;
        let mut prover = Prover::new(&disk, &fake_genesis("clinic"), &writer()).unwrap();
        for seq in [0, 255, 256, 30_001, 65_535, 65_536, 70_000, size - 1] {
            let proof = prover.entry(seq).unwrap();
            assert!(check_proof(&proof, &root_key()).is_ok(), "{seq}");
            // Whoever has no tiles makes the same proof.
            let without = disk.process_killed();
            assert!(without.remove("w/serve/tile/1/000"));
            let mut slow = Prover::new(&without, &fake_genesis("clinic"), &writer()).unwrap();
            assert_eq!(slow.entry(seq).unwrap(), proof);
        }
        assert!(check_proof(&prover.consistency(&notes[0], Some(&notes[2])).unwrap(), &root_key()).is_ok());
    }

    #[test]
    fn no_altered_proof_holds() {
        let disk = SimDisk::new();
        let notes = chain(&disk, &[40, 40], 7);
        let mut prover = Prover::new(&disk, &fake_genesis("clinic"), &writer()).unwrap();
        for proof in [prover.entry(33).unwrap(), prover.consistency(&notes[0], None).unwrap()] {
            assert!(check_proof(&proof, &root_key()).is_ok());
            for at in 0..proof.len() {
                for bit in 0..8 {
                    let mut other = proof.clone();
                    other[at] ^= 1 << bit;
                    assert!(check_proof(&other, &root_key()).is_err(), "byte {at}, bit {bit}");
                }
                assert!(check_proof(&proof[..at], &root_key()).is_err());
            }
            // Another ledger's root of the same name, and of another.
            let stranger = crate::VerifierKey::new("clinic/root", &[2; 32]);
            let stranger = stranger.unwrap_or(fake_genesis("other").root).to_string();
            assert!(matches!(check_proof(&proof, &stranger), Err(NotProven::False(_) | NotProven::CannotCheck(_))));
            assert!(matches!(check_proof(&proof, &fake_genesis("other").root.to_string()), Err(NotProven::False(_))));
            assert!(matches!(check_proof(&proof, "nonsense"), Err(NotProven::CannotCheck(_))));
        }
    }

    #[test]
    fn what_cannot_be_proven_is_said_so() {
        let disk = SimDisk::new();
        let genesis = fake_genesis("clinic");
        genesis.store(&disk).unwrap();
        let options = ChainOptions { writer: writer(), segment_bytes: 8192, seed: [1; 32] };
        let (mut chain, _) = Chain::open(disk.clone(), &genesis, options, NOW).unwrap();
        chain.commit(&[read_begins(1, 7)], NOW).unwrap();
        let prove =
            |disk: &SimDisk| Prover::new(disk, &genesis, &writer()).unwrap().entry(1).map_err(|e| e.to_string());
        assert_eq!(prove(&disk), Err("no checkpoint signs the chain of writer serve yet".into()));
        let note = chain.checkpoint(&FakeSigner::new(&genesis, &writer(), 1), NOW).unwrap();
        chain.commit(&[read_begins(2, 7)], NOW).unwrap();
        assert!(prove(&disk).is_ok());
        let mut prover = Prover::new(&disk, &genesis, &writer()).unwrap();
        assert_eq!(prover.entry(3).unwrap_err().to_string(), "leaf 3 is not in a tree of 3");
        let other = Prover::new(&disk, &fake_genesis("other"), &writer()).unwrap().consistency(&note, None);
        assert!(matches!(other, Err(ProveFailed::OtherLog(_))));
        let forged = Checkpoint { root: Hash([1; 32]), ..note.checkpoint().unwrap() };
        let forged = SignedNote::new(forged.to_string(), note.signatures().to_vec());
        disk.publish("w/serve/checkpoint", &forged.to_bytes()).unwrap();
        assert_eq!(prove(&disk), Err("the chain of writer serve is not the one that its checkpoint signs".into()));
        assert!(disk.tamper("w/serve/seg/000000000001.seg", |bytes| bytes[700] ^= 1));
        assert_eq!(prove(&disk), Err("ledger damaged at writer serve, entry 0: it cannot be read".into()));
    }

    #[test]
    fn an_anchored_proof_leads_on_to_the_anchor() {
        let disk = SimDisk::new();
        let notes: Vec<_> = chain(&disk, &[40, 300, 40], 7).iter().map(SignedNote::to_bytes).collect();
        let key = crate::sim::fake_anchor(&fake_genesis("clinic"));
        let mut prover = Prover::new(&disk, &fake_genesis("clinic"), &writer()).unwrap();
        let told = |e: ProveFailed| e.to_string();
        let missing = "no checkpoint of writer serve above entry 33 is anchored yet";
        assert_eq!(prover.anchored(33).map_err(told), Err(missing.into()));
        crate::anchor(&disk, &key, &notes[..2]).unwrap();
        for seq in [0, 33, 60, 300] {
            let proof = prover.anchored(seq).unwrap();
            let Ok(Proven::Entry { seq: at, anchored, .. }) = check_proof(&proof, &root_key()) else {
                panic!("{seq}: {:?}", check_proof(&proof, &root_key()))
            };
            assert_eq!((at, anchored), (seq, Some(2)));
            // No bit of it can be another.
            for n in (0..proof.len()).step_by(11) {
                let mut other = proof.clone();
                other[n] ^= 1 << (n % 8);
                assert!(check_proof(&other, &root_key()).is_err(), "{seq}, byte {n}");
            }
        }
        assert!(matches!(prover.anchored(360), Err(ProveFailed::NotAnchored { .. })));
        assert!(matches!(
            check_proof(&prover.entry(33).unwrap(), &root_key()),
            Ok(Proven::Entry { anchored: None, .. })
        ));
    }

    /// The bytes of proofs are frozen, and `python/verify_ledger.py` checks the same files. `UPDATE_GOLDEN=1` writes
    /// them anew.
    #[test]
    fn golden_proofs() {
        let disk = SimDisk::new();
        let notes = chain(&disk, &[40, 40], 7);
        let (before, above) = (notes[0].to_bytes(), notes[1].to_bytes());
        crate::anchor(&disk, &crate::sim::fake_anchor(&fake_genesis("clinic")), &[before, above]).unwrap();
        let mut prover = Prover::new(&disk, &fake_genesis("clinic"), &writer()).unwrap();
        let found = [
            ("root.key", root_key().into_bytes()),
            ("entry.proof", prover.entry(33).unwrap()),
            ("consistency.proof", prover.consistency(&notes[0], None).unwrap()),
            ("anchored.proof", prover.anchored(33).unwrap()),
        ];
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/ledger/proofs");
        for (name, bytes) in found {
            let path = folder.join(name);
            if std::env::var_os("UPDATE_GOLDEN").is_some() {
                std::fs::create_dir_all(&folder).unwrap();
                std::fs::write(&path, &bytes).unwrap();
            }
            assert_eq!(std::fs::read(&path).unwrap(), bytes, "{name}");
        }
    }

    /// The other verifier comes to the same answer about bits all over.
    #[test]
    fn the_other_verifier_agrees_on_proofs() {
        if !crate::verify::has_python() {
            return;
        }
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../../python/verify_ledger.py");
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/ledger/proofs");
        let key = std::fs::read_to_string(folder.join("root.key")).unwrap();
        let file = std::env::temp_dir().join(format!("custody-proof-{}", std::process::id()));
        for name in ["entry.proof", "consistency.proof", "anchored.proof"] {
            let proof = std::fs::read(folder.join(name)).unwrap();
            for n in (0..=proof.len()).rev().step_by(29) {
                let mut other = proof.clone();
                if let Some(byte) = other.get_mut(n) {
                    *byte ^= 1 << (n % 8);
                }
                std::fs::write(&file, &other).unwrap();
                let mut python = std::process::Command::new("python3");
                let answer = python.args(["-B", script, "--root-key", &key, "--check-proof"]).arg(&file).output();
                let code = check_proof(&other, &key).map_or_else(|e| e.exit_code(), |_| 0);
                let answer = answer.unwrap();
                let said = String::from_utf8_lossy(&answer.stdout).into_owned();
                assert_eq!(answer.status.code(), Some(code.into()), "{name}, byte {n}: {said}");
            }
        }
        let _ = std::fs::remove_file(&file);
    }
}
