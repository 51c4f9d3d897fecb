//! Tiles of hashes (C2SP tlog-tiles): each 256 hashes of one level in a file of 8 KiB, so that a proof needs a few files
//! and not the chain.
//!
//! `tile/<L>/<N>` holds hashes `N·256` and on of level `L`, whose leaves are the roots over 256^L entries. A writer stores
//! whole tiles of level 1 and above, one for each 65,536 entries: level 0 is the entries themselves, hashed, and a file
//! for each 256 of them would cost more than writing them. Partial tiles are not stored.

use crate::tree::{Sha3, Tree};
use custody_model::{Hash, WriterId};

/// Hashes in a tile.
pub(crate) const TILE_HASHES: usize = 256;
/// A tile's hashes are this many levels of the tree above those of the level below.
pub(crate) const TILE_HEIGHT: u32 = 8;

/// The path of a whole tile.
pub(crate) fn tile_path(writer: &WriterId, level: u32, number: u64) -> String {
    format!("w/{writer}/tile/{level}/{}", numbered(number))
}

/// A tile's number in groups of three digits, all but the last with an `x`.
pub(crate) fn numbered(number: u64) -> String {
    let mut path = format!("{:03}", number % 1000);
    let mut rest = number / 1000;
    while rest > 0 {
        path = format!("x{:03}/{path}", rest % 1000);
        rest /= 1000;
    }
    path
}

/// A whole tile that is not stored yet.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct DueTile {
    pub(crate) level: u32,
    pub(crate) number: u64,
    pub(crate) hashes: Vec<Hash>,
}

impl DueTile {
    pub(crate) fn bytes(&self) -> Vec<u8> {
        self.hashes.iter().flat_map(|hash| hash.0).collect()
    }
}

/// The right edge of a tree's tiles, from level 1 on.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Tiles {
    /// Hashes of the tile that is not whole yet, for each level from 1 on.
    pub(crate) pending: Vec<Vec<Hash>>,
    /// Whole tiles of each level before that.
    pub(crate) whole: Vec<u64>,
    /// Whole tiles not stored yet.
    pub(crate) due: Vec<DueTile>,
}

impl Tiles {
    /// The right edge of a tree of `size` entries, of which `pending` are the hashes. `None`: it has not so many.
    pub(crate) fn at(size: u64, pending: Vec<Vec<Hash>>) -> Option<Self> {
        let mut whole = vec![];
        for level in 1..=pending.len() as u32 {
            let hashes = size.checked_shr(TILE_HEIGHT * level)?;
            let held = pending.get(level as usize - 1)?.len() as u64;
            (hashes % TILE_HASHES as u64 == held).then_some(())?;
            whole.push(hashes / TILE_HASHES as u64);
        }
        // No level is left out.
        let above = size.checked_shr(TILE_HEIGHT * (pending.len() as u32 + 1)).unwrap_or(0);
        (above == 0).then_some(Self { pending, whole, due: vec![] })
    }

    /// Adds a leaf hash to a tree, and notes what it completes.
    pub(crate) fn push(&mut self, tree: &mut Tree<Sha3>, leaf: Hash) {
        tree.push_seen(leaf, |height, hash| {
            if height > 0 && height.is_multiple_of(TILE_HEIGHT) {
                self.add(height / TILE_HEIGHT, hash);
            }
        });
    }

    fn add(&mut self, level: u32, hash: Hash) {
        let at = level as usize - 1;
        if self.pending.len() <= at {
            self.pending.resize(at + 1, vec![]);
            self.whole.resize(at + 1, 0);
        }
        self.pending[at].push(hash);
        if self.pending[at].len() == TILE_HASHES {
            let hashes = std::mem::take(&mut self.pending[at]);
            self.due.push(DueTile { level, number: self.whole[at], hashes });
            self.whole[at] += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::{TreeHash, root_of};

    #[test]
    fn paths() {
        let writer = WriterId::new("serve").unwrap();
        assert_eq!(tile_path(&writer, 1, 7), "w/serve/tile/1/007");
        assert_eq!(tile_path(&writer, 2, 1_234_067), "w/serve/tile/2/x001/x234/067");
    }

    #[test]
    fn tiles_hold_the_roots_of_their_entries() {
        let leaves: Vec<Hash> = (0..70_000_u32).map(|n| Sha3::leaf(&n.to_be_bytes())).collect();
        let (mut tree, mut tiles) = (Tree::new(), Tiles::default());
        leaves.iter().for_each(|leaf| tiles.push(&mut tree, *leaf));
        assert_eq!(tree.root(), root_of::<Sha3>(&leaves));
        let [tile] = &tiles.due[..] else { panic!("{}", tiles.due.len()) };
        assert_eq!((tile.level, tile.number, tile.bytes().len()), (1, 0, 8192));
        for (hash, of) in tile.hashes.iter().zip(leaves.chunks(256)) {
            assert_eq!(*hash, root_of::<Sha3>(of));
        }
        assert_eq!(tiles.pending[1], [root_of::<Sha3>(&leaves[..65_536])]);
        assert_eq!(tiles.pending[0].len(), (70_000 - 65_536) / 256);
        let again = Tiles::at(70_000, tiles.pending.clone()).unwrap();
        assert_eq!((again.whole, again.pending), (tiles.whole.clone(), tiles.pending.clone()));
        assert_eq!(Tiles::at(70_000, vec![]), None);
        assert_eq!(Tiles::at(70_256, tiles.pending), None);
        assert_eq!(Tiles::at(255, vec![]), Some(Tiles::default()));
    }
}
