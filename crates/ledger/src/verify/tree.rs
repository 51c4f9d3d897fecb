//! RFC 6962 roots with SHA3-256 by plain recursion, for the verifier only.

use sha3::{Digest, Sha3_256};

/// A digest.
pub(super) type Digest32 = [u8; 32];

/// SHA3-256 of some bytes.
pub(super) fn sha3(parts: &[&[u8]]) -> Digest32 {
    let mut hasher = Sha3_256::new();
    parts.iter().for_each(|p| hasher.update(p));
    hasher.finalize().into()
}

/// The hash of an inner node.
pub(super) fn node(left: &Digest32, right: &Digest32) -> Digest32 {
    let mut bytes = [1; 65];
    bytes[1..33].copy_from_slice(left);
    bytes[33..].copy_from_slice(right);
    Sha3_256::digest(bytes).into()
}

/// The leaf hash of an entry.
pub(super) fn leaf(entry: &[u8]) -> Digest32 {
    sha3(&[&[0], entry])
}

/// The root over leaf hashes: H("") of none, the leaf of one, else the node over the roots of the largest power of two
/// below their number and of the rest.
pub(super) fn root(leaves: &[Digest32]) -> Digest32 {
    match leaves {
        [] => sha3(&[]),
        [one] => *one,
        many => {
            let (left, right) = many.split_at(many.len().next_power_of_two() / 2);
            node(&root(left), &root(right))
        }
    }
}

/// A whole subtree: over how many levels, and its hash.
pub(super) type Part = (u32, Digest32);

/// Leaves cut into whole subtrees of a tree in which the first of them is leaf `first`: as large as `levels` and that place
/// allow, the rest in falling sizes. Hashes of these are the same in the tree of the leaves alone and in the larger one.
pub(super) fn parts(leaves: &[Digest32], first: u64, levels: u32) -> Vec<Part> {
    let level = first.trailing_zeros().min(levels);
    let mut whole = leaves.chunks_exact(1 << level);
    let mut parts: Vec<Part> = whole.by_ref().map(|group| (level, root(group))).collect();
    let mut rest = whole.remainder();
    while let Some(below) = rest.len().checked_ilog2() {
        let (part, behind) = rest.split_at(1 << below);
        parts.push((below, root(part)));
        rest = behind;
    }
    parts
}

/// The root over the leaves that were cut: subtrees of one size make a tree of their own, of which the falling rest is the
/// last leaf.
pub(super) fn root_of_parts(parts: &[Part]) -> Digest32 {
    let Some((level, _)) = parts.first() else { return root(&[]) };
    let same = parts.iter().take_while(|(l, _)| l == level).count();
    let mut hashes: Vec<Digest32> = parts[..same].iter().map(|(_, hash)| *hash).collect();
    hashes.extend(parts[same..].iter().rev().map(|(_, hash)| *hash).reduce(|right, left| node(&left, &right)));
    root(&hashes)
}

#[cfg(test)]
mod tests {
    use super::{leaf, parts, root, root_of_parts, sha3};

    #[test]
    fn shape_of_rfc_6962() {
        let l: Vec<_> = (0u8..7).map(|i| leaf(&[i])).collect();
        let node = |a: &[u8; 32], b: &[u8; 32]| sha3(&[&[1], a, b]);
        let left = node(&node(&l[0], &l[1]), &node(&l[2], &l[3]));
        assert_eq!(root(&l), node(&left, &node(&node(&l[4], &l[5]), &l[6])));
        assert_eq!(root(&l[..4]), left);
        assert_eq!(root(&[]), sha3(&[b""]));
    }

    #[test]
    fn parts_have_the_root_of_their_leaves() {
        let leaves: Vec<_> = (0u8..200).map(|i| leaf(&[i])).collect();
        for first in [0, 1, 2, 3, 4, 6, 8, 12, 48, 64, 255, 256] {
            for count in 0..leaves.len() {
                for levels in [0, 3, 8] {
                    let cut = parts(&leaves[..count], first, levels);
                    assert_eq!(root_of_parts(&cut), root(&leaves[..count]), "{count} leaves from {first}");
                    assert_eq!(cut.iter().map(|(level, _)| 1 << level).sum::<usize>(), count);
                }
            }
        }
    }
}
