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
            sha3(&[&[1], &root(left), &root(right)])
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{leaf, root, sha3};

    #[test]
    fn shape_of_rfc_6962() {
        let l: Vec<_> = (0u8..7).map(|i| leaf(&[i])).collect();
        let node = |a: &[u8; 32], b: &[u8; 32]| sha3(&[&[1], a, b]);
        let left = node(&node(&l[0], &l[1]), &node(&l[2], &l[3]));
        assert_eq!(root(&l), node(&left, &node(&node(&l[4], &l[5]), &l[6])));
        assert_eq!(root(&l[..4]), left);
        assert_eq!(root(&[]), sha3(&[b""]));
    }
}
