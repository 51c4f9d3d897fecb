//! The Merkle tree of RFC 6962, over any hash.
//!
//! A tree is kept as a compact range: one root for each set bit of its size. That is enough to append and to know the
//! root; proofs are made from leaf hashes by [`crate::proof`]. Published versions use the same tree for content roots.

use custody_model::Hash;
use std::{fmt, marker::PhantomData};

/// How many leaves a tree has.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug)]
pub struct TreeSize(pub u64);

/// Which leaf, from 0.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug)]
pub struct LeafIndex(pub u64);

impl fmt::Display for TreeSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for LeafIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The hash of a tree. Leaf = H(0x00 ‖ entry), node = H(0x01 ‖ left ‖ right), empty root = H("").
pub trait TreeHash {
    /// H over the concatenation of parts.
    fn digest(parts: &[&[u8]]) -> Hash;

    /// The root of a tree without leaves.
    fn empty() -> Hash {
        Self::digest(&[])
    }

    /// The hash of one leaf.
    fn leaf(entry: &[u8]) -> Hash {
        Self::digest(&[&[0], entry])
    }

    /// The hash of one inner node.
    fn node(left: &Hash, right: &Hash) -> Hash {
        Self::digest(&[&[1], left.as_bytes(), right.as_bytes()])
    }

    /// Hashes many leaves; `out` has as many places as `entries`.
    fn leaves(entries: &[&[u8]], out: &mut [Hash]) {
        entries.iter().zip(out).for_each(|(entry, hash)| *hash = Self::leaf(entry));
    }

    /// Hashes many inner nodes; `out` has as many places as `pairs`.
    fn nodes(pairs: &[[Hash; 2]], out: &mut [Hash]) {
        pairs.iter().zip(out).for_each(|([left, right], hash)| *hash = Self::node(left, right));
    }
}

/// SHA3-256, the hash of chains and content.
#[derive(Clone, Copy, Debug)]
pub struct Sha3;

impl TreeHash for Sha3 {
    fn digest(parts: &[&[u8]]) -> Hash {
        use sha3::Digest;
        let mut hasher = sha3::Sha3_256::new();
        parts.iter().for_each(|part| hasher.update(part));
        Hash(hasher.finalize().into())
    }
}

/// SHA-256, the hash of the anchor log that witnesses know.
#[derive(Clone, Copy, Debug)]
pub struct Sha2;

impl TreeHash for Sha2 {
    fn digest(parts: &[&[u8]]) -> Hash {
        use sha2::Digest;
        let mut hasher = sha2::Sha256::new();
        parts.iter().for_each(|part| hasher.update(part));
        Hash(hasher.finalize().into())
    }
}

/// A tree that grows at its right edge.
#[derive(Debug)]
pub struct Tree<H> {
    size: u64,
    /// Roots of the complete subtrees, largest first: one for each set bit of `size`.
    peaks: Vec<Hash>,
    hash: PhantomData<H>,
}

impl<H> Clone for Tree<H> {
    fn clone(&self) -> Self {
        Self { size: self.size, peaks: self.peaks.clone(), hash: PhantomData }
    }
}

impl<H: TreeHash> Default for Tree<H> {
    fn default() -> Self {
        Self { size: 0, peaks: vec![], hash: PhantomData }
    }
}

impl<H: TreeHash> Tree<H> {
    /// A tree without leaves.
    pub fn new() -> Self {
        Self::default()
    }

    /// The tree over these leaf hashes.
    pub fn from_leaves(leaves: &[Hash]) -> Self {
        let mut tree = Self::new();
        leaves.iter().for_each(|leaf| tree.push(*leaf));
        tree
    }

    /// Adds one leaf hash at the right.
    pub fn push(&mut self, leaf: Hash) {
        self.push_seen(leaf, |_, _| ());
    }

    /// Adds one leaf hash, and shows the hash of every subtree that it completes, with the subtree's height.
    pub(crate) fn push_seen(&mut self, leaf: Hash, mut seen: impl FnMut(u32, Hash)) {
        let mut hash = leaf;
        seen(0, hash);
        for height in 1..=self.size.trailing_ones() {
            if let Some(left) = self.peaks.pop() {
                hash = H::node(&left, &hash);
                seen(height, hash);
            }
        }
        self.peaks.push(hash);
        self.size += 1;
    }

    /// The tree of `size` leaves whose complete subtrees have these roots, largest first; `None`: it has not so many.
    pub(crate) fn from_peaks(size: u64, peaks: Vec<Hash>) -> Option<Self> {
        (size.count_ones() as usize == peaks.len()).then_some(Self { size, peaks, hash: PhantomData })
    }

    /// Roots of the complete subtrees, largest first.
    pub(crate) fn peaks(&self) -> &[Hash] {
        &self.peaks
    }

    /// Hashes an entry and adds it; gives its leaf hash.
    pub fn append(&mut self, entry: &[u8]) -> Hash {
        let leaf = H::leaf(entry);
        self.push(leaf);
        leaf
    }

    /// How many leaves.
    pub fn size(&self) -> TreeSize {
        TreeSize(self.size)
    }

    /// The RFC 6962 root.
    pub fn root(&self) -> Hash {
        let mut peaks = self.peaks.iter().rev();
        let Some(last) = peaks.next() else { return H::empty() };
        peaks.fold(*last, |right, left| H::node(left, &right))
    }
}

/// The RFC 6962 root over leaf hashes.
pub fn root_of<H: TreeHash>(leaves: &[Hash]) -> Hash {
    Tree::<H>::from_leaves(leaves).root()
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// The definition of RFC 6962 §2.1, word for word.
    pub(crate) fn naive<H: TreeHash>(leaves: &[Hash]) -> Hash {
        match leaves {
            [] => H::empty(),
            [one] => *one,
            _ => {
                let k = leaves.len().next_power_of_two() / 2;
                H::node(&naive::<H>(&leaves[..k]), &naive::<H>(&leaves[k..]))
            }
        }
    }

    pub(crate) fn some_leaves<H: TreeHash>(n: usize) -> Vec<Hash> {
        (0..n).map(|i| H::leaf(format!("leaf {i}").as_bytes())).collect()
    }

    #[test]
    fn compact_range_agrees_with_the_definition() {
        let leaves = some_leaves::<Sha3>(200);
        let mut tree = Tree::<Sha3>::new();
        for n in 0..200 {
            assert_eq!(tree.root(), naive::<Sha3>(&leaves[..n]), "size {n}");
            assert_eq!(tree.size(), TreeSize(n as u64));
            tree.push(leaves[n]);
        }
    }

    /// Known roots of the Certificate Transparency reference test (SHA-256).
    #[test]
    fn known_roots() {
        let entries: [&[u8]; 8] = [
            b"",
            &[0x00],
            &[0x10],
            &[0x20, 0x21],
            &[0x30, 0x31],
            &[0x40, 0x41, 0x42, 0x43],
            &[0x50, 0x51, 0x52, 0x53, 0x54, 0x55, 0x56, 0x57],
            &[0x60, 0x61, 0x62, 0x63, 0x64, 0x65, 0x66, 0x67, 0x68, 0x69, 0x6a, 0x6b, 0x6c, 0x6d, 0x6e, 0x6f],
        ];
        assert_eq!(Sha2::empty().to_string(), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
        let mut tree = Tree::<Sha2>::new();
        for entry in entries {
            tree.append(entry);
        }
        assert_eq!(tree.root().to_string(), "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328");
    }
}
