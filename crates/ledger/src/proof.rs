//! Proofs that an entry is in a tree, and that a tree grew out of another.
//!
//! Made per RFC 6962 §2.1, checked per RFC 9162 §2.1.3–2.1.4: exact length, index below size.

use crate::tree::{LeafIndex, TreeHash, TreeSize, root_of};
use custody_model::Hash;
use std::ops::Range;

/// A proof that does not hold.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ProofInvalid {
    /// The index is not below the size.
    #[error("leaf {index} is not in a tree of {size}")]
    OutOfRange {
        /// Which leaf.
        index: u64,
        /// Size of the tree.
        size: u64,
    },
    /// The old tree is larger than the new one.
    #[error("a tree of {new} cannot have grown out of one of {old}")]
    Shrunk {
        /// Old size.
        old: u64,
        /// New size.
        new: u64,
    },
    /// Too few or too many hashes.
    #[error("the proof has a wrong number of hashes")]
    Length,
    /// The hashes lead to another root.
    #[error("the proof leads to another root")]
    Root,
}

/// The hashes that prove leaf `index` in the tree over `leaves`.
pub fn prove_inclusion<H: TreeHash>(leaves: &[Hash], index: LeafIndex) -> Result<Vec<Hash>, ProofInvalid> {
    inclusion_path(index, TreeSize(leaves.len() as u64), |range| Ok(of_range::<H>(leaves, range)))
}

/// The hashes that prove that the tree over `leaves` grew out of its first `old` leaves.
pub fn prove_consistency<H: TreeHash>(leaves: &[Hash], old: TreeSize) -> Result<Vec<Hash>, ProofInvalid> {
    consistency_path(old, TreeSize(leaves.len() as u64), |range| Ok(of_range::<H>(leaves, range)))
}

fn of_range<H: TreeHash>(leaves: &[Hash], range: Range<u64>) -> Hash {
    let at = |n: u64| usize::try_from(n).unwrap_or(usize::MAX).min(leaves.len());
    root_of::<H>(&leaves[at(range.start)..at(range.end)])
}

/// As [`prove_inclusion`], from the roots over ranges of leaves, however they are had.
pub(crate) fn inclusion_path<E: From<ProofInvalid>>(
    index: LeafIndex,
    size: TreeSize,
    mut root: impl FnMut(Range<u64>) -> Result<Hash, E>,
) -> Result<Vec<Hash>, E> {
    let (mut low, mut high, at) = (0, size.0, index.0);
    if at >= high {
        return Err(ProofInvalid::OutOfRange { index: at, size: high }.into());
    }
    let mut proof = vec![];
    while high - low > 1 {
        let middle = low + (high - low).next_power_of_two() / 2;
        if at < middle {
            proof.push(root(middle..high)?);
            high = middle;
        } else {
            proof.push(root(low..middle)?);
            low = middle;
        }
    }
    proof.reverse();
    Ok(proof)
}

/// As [`prove_consistency`], from the roots over ranges of leaves, however they are had.
pub(crate) fn consistency_path<E: From<ProofInvalid>>(
    old: TreeSize,
    new: TreeSize,
    mut root: impl FnMut(Range<u64>) -> Result<Hash, E>,
) -> Result<Vec<Hash>, E> {
    let m = old.0;
    if m > new.0 {
        return Err(ProofInvalid::Shrunk { old: m, new: new.0 }.into());
    }
    if m == 0 || m == new.0 {
        return Ok(vec![]);
    }
    let (mut low, mut high, mut whole) = (0, new.0, true);
    let mut proof = vec![];
    while m != high {
        let middle = low + (high - low).next_power_of_two() / 2;
        if m <= middle {
            proof.push(root(middle..high)?);
            high = middle;
        } else {
            proof.push(root(low..middle)?);
            low = middle;
            whole = false;
        }
    }
    if !whole {
        proof.push(root(low..high)?);
    }
    proof.reverse();
    Ok(proof)
}

/// Checks that leaf hash `leaf` is leaf `index` of the tree of `size` with this root (RFC 9162 §2.1.3.2).
pub fn verify_inclusion<H: TreeHash>(
    leaf: &Hash,
    index: LeafIndex,
    size: TreeSize,
    proof: &[Hash],
    root: &Hash,
) -> Result<(), ProofInvalid> {
    if index.0 >= size.0 {
        return Err(ProofInvalid::OutOfRange { index: index.0, size: size.0 });
    }
    let (mut node, mut last, mut hash) = (index.0, size.0 - 1, *leaf);
    for step in proof {
        if last == 0 {
            return Err(ProofInvalid::Length);
        }
        if node & 1 == 1 || node == last {
            hash = H::node(step, &hash);
            while node & 1 == 0 && node != 0 {
                node >>= 1;
                last >>= 1;
            }
        } else {
            hash = H::node(&hash, step);
        }
        node >>= 1;
        last >>= 1;
    }
    if last != 0 {
        return Err(ProofInvalid::Length);
    }
    if hash == *root { Ok(()) } else { Err(ProofInvalid::Root) }
}

/// Checks that the tree of size `new` with root `roots[1]` grew out of the tree of size `old` with root `roots[0]`
/// (RFC 9162 §2.1.4.2). Equal sizes want an empty proof and equal roots; from size 0 an empty proof and the empty root.
pub fn verify_consistency<H: TreeHash>(
    old: TreeSize,
    new: TreeSize,
    proof: &[Hash],
    roots: [&Hash; 2],
) -> Result<(), ProofInvalid> {
    let [old_root, new_root] = roots;
    if old > new {
        return Err(ProofInvalid::Shrunk { old: old.0, new: new.0 });
    }
    if old == new || old.0 == 0 {
        if !proof.is_empty() {
            return Err(ProofInvalid::Length);
        }
        let expected = if old == new { *new_root } else { H::empty() };
        return if *old_root == expected { Ok(()) } else { Err(ProofInvalid::Root) };
    }
    let mut steps = proof.iter();
    // A complete old tree is itself the first node of the path.
    let first = if old.0.is_power_of_two() { old_root } else { steps.next().ok_or(ProofInvalid::Length)? };
    let (mut node, mut last) = (old.0 - 1, new.0 - 1);
    while node & 1 == 1 {
        node >>= 1;
        last >>= 1;
    }
    let (mut from_old, mut from_new) = (*first, *first);
    for step in steps {
        if last == 0 {
            return Err(ProofInvalid::Length);
        }
        if node & 1 == 1 || node == last {
            from_old = H::node(step, &from_old);
            from_new = H::node(step, &from_new);
            while node & 1 == 0 && node != 0 {
                node >>= 1;
                last >>= 1;
            }
        } else {
            from_new = H::node(&from_new, step);
        }
        node >>= 1;
        last >>= 1;
    }
    if last != 0 {
        return Err(ProofInvalid::Length);
    }
    if from_old == *old_root && from_new == *new_root { Ok(()) } else { Err(ProofInvalid::Root) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::{
        Sha2, Sha3,
        tests::{naive, some_leaves},
    };

    #[test]
    fn every_proof_of_small_trees_holds_and_no_altered_one() {
        let leaves = some_leaves::<Sha3>(33);
        for n in 1..=leaves.len() {
            let (tree, size) = (&leaves[..n], TreeSize(n as u64));
            let root = naive::<Sha3>(tree);
            for (i, leaf) in tree.iter().enumerate() {
                let index = LeafIndex(i as u64);
                let proof = prove_inclusion::<Sha3>(tree, index).unwrap();
                let check = |leaf: &Hash, index, size, proof: &[Hash], root: &Hash| {
                    verify_inclusion::<Sha3>(leaf, index, size, proof, root)
                };
                assert_eq!(check(leaf, index, size, &proof, &root), Ok(()), "{i} of {n}");
                assert!(check(&Hash([9; 32]), index, size, &proof, &root).is_err());
                assert!(check(leaf, index, size, &proof, &Hash([9; 32])).is_err());
                assert!(check(leaf, index, size, &[&proof[..], &[root]].concat(), &root).is_err());
                for gone in 0..proof.len() {
                    let mut short = proof.clone();
                    short.remove(gone);
                    assert!(check(leaf, index, size, &short, &root).is_err());
                }
                for other in (0..n).filter(|o| *o != i) {
                    assert!(check(leaf, LeafIndex(other as u64), size, &proof, &root).is_err());
                }
            }
            for m in 0..=n {
                let (old, old_root) = (TreeSize(m as u64), naive::<Sha3>(&tree[..m]));
                let proof = prove_consistency::<Sha3>(tree, old).unwrap();
                assert_eq!(verify_consistency::<Sha3>(old, size, &proof, [&old_root, &root]), Ok(()), "{m} to {n}");
                let bad = Hash([9; 32]);
                assert!(verify_consistency::<Sha3>(old, size, &proof, [&bad, &root]).is_err());
                if m > 0 {
                    assert!(verify_consistency::<Sha3>(old, size, &proof, [&old_root, &bad]).is_err());
                }
                assert!(
                    verify_consistency::<Sha3>(old, size, &[&proof[..], &[bad]].concat(), [&old_root, &root]).is_err()
                );
                if !proof.is_empty() {
                    assert!(verify_consistency::<Sha3>(old, size, &proof[1..], [&old_root, &root]).is_err());
                }
            }
        }
    }

    #[test]
    fn refuses_what_no_tree_has() {
        let leaves = some_leaves::<Sha2>(5);
        let root = naive::<Sha2>(&leaves);
        assert!(prove_inclusion::<Sha2>(&leaves, LeafIndex(5)).is_err());
        assert!(prove_inclusion::<Sha2>(&[], LeafIndex(0)).is_err());
        assert!(prove_consistency::<Sha2>(&leaves, TreeSize(6)).is_err());
        let zero = TreeSize(0);
        assert!(verify_inclusion::<Sha2>(&root, LeafIndex(0), zero, &[], &root).is_err());
        assert_eq!(verify_consistency::<Sha2>(zero, TreeSize(5), &[], [&root, &root]), Err(ProofInvalid::Root));
        assert_eq!(verify_consistency::<Sha2>(zero, TreeSize(5), &[], [&Sha2::empty(), &root]), Ok(()));
        assert!(verify_consistency::<Sha2>(TreeSize(5), TreeSize(4), &[], [&root, &root]).is_err());
    }
}
