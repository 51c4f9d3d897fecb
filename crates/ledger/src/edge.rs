//! Where a segment began, so that opening reads the chain from there and not from its first entry.
//!
//! `w/<writer>/edge` is deterministic CBOR `{0: 1, 1: segment, 2: entries before it, 3: newest frame before it, 4: roots of
//! the complete subtrees, 5: hashes of tiles that are not whole, by level, 6: epoch, 7: verifier key}`, the last two of the
//! newest `key` entry before it. It is written after a checkpoint of the segment, so that opening finds the signed root
//! above it: an edge that does not lead there is not believed, and the chain is read from its beginning.

use crate::{
    format::{Value, from_bytes, to_bytes},
    tiles::Tiles,
    tree::{Sha3, Tree},
};
use custody_model::{Hash, WriterId};

/// The state of a chain before the first entry of a segment.
#[derive(Clone, Debug)]
pub(crate) struct Edge {
    pub(crate) segment: u64,
    pub(crate) frame: Hash,
    pub(crate) tree: Tree<Sha3>,
    pub(crate) tiles: Tiles,
    pub(crate) key: Option<(u64, String)>,
}

pub(crate) fn edge_path(writer: &WriterId) -> String {
    format!("w/{writer}/edge")
}

impl Edge {
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        let hash = |h: &Hash| Value::Bytes(h.0.to_vec());
        let hashes = |list: &[Hash]| Value::Array(list.iter().map(hash).collect());
        let mut map = vec![
            (0, Value::Uint(1)),
            (1, Value::Uint(self.segment)),
            (2, Value::Uint(self.tree.size().0)),
            (3, hash(&self.frame)),
            (4, hashes(self.tree.peaks())),
            (5, Value::Array(self.tiles.pending.iter().map(|list| hashes(list)).collect())),
        ];
        if let Some((epoch, key)) = &self.key {
            map.extend([(6, Value::Uint(*epoch)), (7, Value::Text(key.clone()))]);
        }
        to_bytes(&Value::Map(map))
    }

    /// Reads an edge; `None`: it is none.
    pub(crate) fn parse(bytes: &[u8]) -> Option<Self> {
        let Value::Map(map) = from_bytes(bytes).ok()? else { return None };
        let (first, key) = map.split_at_checked(6)?;
        let [
            (0, Value::Uint(1)),
            (1, Value::Uint(segment)),
            (2, Value::Uint(size)),
            (3, frame),
            (4, peaks),
            (5, Value::Array(pending)),
        ] = first
        else {
            return None;
        };
        let key = match key {
            [] => None,
            [(6, Value::Uint(epoch)), (7, Value::Text(key))] => Some((*epoch, key.clone())),
            _ => return None,
        };
        (*segment > 0).then_some(())?;
        let pending = pending.iter().map(hashes).collect::<Option<Vec<_>>>()?;
        let (tree, tiles) = (Tree::from_peaks(*size, hashes(peaks)?)?, Tiles::at(*size, pending)?);
        Some(Self { segment: *segment, frame: hash(frame)?, tree, tiles, key })
    }
}

fn hash(value: &Value) -> Option<Hash> {
    let Value::Bytes(bytes) = value else { return None };
    bytes.as_slice().try_into().ok().map(Hash)
}

fn hashes(value: &Value) -> Option<Vec<Hash>> {
    let Value::Array(list) = value else { return None };
    list.iter().map(hash).collect()
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::{
        Chain, ChainOptions, Disk, EntryBytes, Recovery,
        samples::encoded,
        sim::{FakeSigner, SimDisk, fake_genesis},
    };
    use custody_model::{Payload, WallNanos};

    const NOW: WallNanos = WallNanos(1_800_000_000_000_000_000);

    fn writer() -> WriterId {
        WriterId::new("serve").unwrap()
    }

    fn open(disk: &SimDisk, segment_bytes: u64) -> (Chain<SimDisk>, Recovery) {
        let options = ChainOptions { writer: writer(), segment_bytes, seed: [1; 32] };
        Chain::open(disk.clone(), &fake_genesis("clinic"), options, NOW).unwrap()
    }

    fn signer() -> FakeSigner {
        FakeSigner::new(&fake_genesis("clinic"), &writer(), 1)
    }

    /// A disk that counts what is read of segments.
    fn bytes_read(disk: &SimDisk, work: impl FnOnce()) -> u64 {
        let before = disk.bytes_read();
        work();
        disk.bytes_read() - before
    }

    /// A chain of many segments, signed, its writer gone without a word.
    fn long() -> SimDisk {
        let disk = SimDisk::new();
        fake_genesis("clinic").store(&disk).unwrap();
        let (mut chain, _) = open(&disk, 8192);
        let frame: Vec<EntryBytes> = (0..20).map(|n| encoded(n, Payload::ReadProgress(n.into()))).collect();
        for round in 0..200 {
            chain.commit(&frame, NOW).unwrap();
            if round % 7 == 0 {
                chain.checkpoint(&signer(), NOW).unwrap();
            }
        }
        disk
    }

    /// The bytes of a sound edge.
    pub(crate) fn some_edge() -> Vec<u8> {
        long().read("w/serve/edge").unwrap().unwrap()
    }

    #[test]
    fn opening_reads_from_the_edge_and_finds_the_same() {
        let disk = long();
        let without = disk.process_killed();
        assert!(without.remove("w/serve/edge"));
        let few = bytes_read(&disk, || drop(open(&disk.process_killed(), 8192)));
        assert_eq!(few, 0, "a copy counts for itself");
        let (with, many) = (disk.process_killed(), without.process_killed());
        let few = bytes_read(&with, || drop(open(&with, 8192)));
        let all = bytes_read(&many, || drop(open(&many, 8192)));
        assert!(few * 4 < all, "{few} of {all}");
        let ((one, found), (other, again)) = (open(&with, 8192), open(&many, 8192));
        assert_eq!((found, one.root(), one.key_epoch()), (again, other.root(), other.key_epoch()));
        assert_eq!(
            (one.size(), one.signed_size(), one.frame_hash()),
            (other.size(), other.signed_size(), other.frame_hash())
        );
    }

    #[test]
    fn an_edge_that_does_not_lead_to_what_is_signed_is_not_believed() {
        let disk = long();
        let whole = disk.read("w/serve/edge").unwrap().unwrap();
        let edge = Edge::parse(&whole).unwrap();
        assert_eq!(edge.to_bytes(), whole);
        let sound = open(&disk.process_killed(), 8192).0.root();
        let changes: [&dyn Fn(&mut Edge); 5] = [
            &|e| e.segment = 1_000,
            &|e| e.segment -= 1,
            &|e| e.frame = Hash([1; 32]),
            &|e| e.tree = Tree::from_peaks(e.tree.size().0, vec![Hash([1; 32]); e.tree.peaks().len()]).unwrap(),
            &|e| e.key = Some((7, "x".into())),
        ];
        for (n, change) in changes.into_iter().enumerate() {
            let copy = disk.process_killed();
            let mut other = edge.clone();
            change(&mut other);
            copy.publish("w/serve/edge", &other.to_bytes()).unwrap();
            let (chain, _) = open(&copy, 8192);
            assert_eq!((chain.root(), chain.key_epoch()), (sound, Some(1)), "change {n}");
        }
        for at in 0..whole.len() {
            let copy = disk.process_killed();
            assert!(copy.tamper("w/serve/edge", |bytes| bytes[at] ^= 1));
            assert_eq!(open(&copy, 8192).0.root(), sound, "byte {at}");
        }
    }

    /// What lies before the edge is for `verify`; what opening reads it judges as ever.
    #[test]
    fn damage_behind_the_edge_is_refused() {
        let disk = long();
        let edge = Edge::parse(&disk.read("w/serve/edge").unwrap().unwrap()).unwrap();
        let path = crate::segment::segment_path(&writer(), edge.segment);
        assert!(disk.tamper(&path, |bytes| bytes[512 + 120] ^= 1));
        let options = ChainOptions { writer: writer(), segment_bytes: 8192, seed: [1; 32] };
        let refused = Chain::open(disk, &fake_genesis("clinic"), options, NOW).map(|_| ()).unwrap_err();
        assert!(matches!(refused, crate::OpenRefused::Damaged { .. }), "{refused}");
    }
}
