//! Merkle trees as OpenZeppelin's `MerkleProof` verifies them: keccak256, each pair sorted, level by level, an odd
//! last node promoted as it is.

use sha3::{Digest, Keccak256};

/// A hash of the EVM.
pub type Hash = [u8; 32];

/// keccak256.
#[must_use]
pub fn keccak256(bytes: &[u8]) -> Hash {
    Keccak256::digest(bytes).into()
}

/// The root over leaves in their order; 32 zero bytes for none, the leaf itself for one.
#[must_use]
pub fn root(leaves: &[Hash]) -> Hash {
    let mut level = leaves.to_vec();
    while level.len() > 1 {
        level = above(&level);
    }
    level.first().copied().unwrap_or([0; 32])
}

/// The proof for the leaf at `index`: its sisters from below to above; `None` where there is no such leaf.
#[must_use]
pub fn proof(leaves: &[Hash], index: usize) -> Option<Vec<Hash>> {
    leaves.get(index)?;
    let mut path = Vec::new();
    let (mut level, mut at) = (leaves.to_vec(), index);
    while level.len() > 1 {
        path.extend(level.get(at ^ 1).copied());
        level = above(&level);
        at /= 2;
    }
    Some(path)
}

/// Whether a proof leads from a leaf to a root.
#[must_use]
pub fn verify(leaf: Hash, proof: &[Hash], root: Hash) -> bool {
    proof.iter().fold(leaf, |node, sister| pair(&node, sister)) == root
}

fn above(level: &[Hash]) -> Vec<Hash> {
    level
        .chunks(2)
        .map(|both| match both {
            [left, right] => pair(left, right),
            [alone] => *alone,
            _ => [0; 32],
        })
        .collect()
}

fn pair(a: &Hash, b: &Hash) -> Hash {
    let (low, high) = if a <= b { (a, b) } else { (b, a) };
    Keccak256::new().chain_update(low).chain_update(high).finalize().into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn keccak_is_ethereums() {
        let hex: String = keccak256(b"").iter().map(|b| format!("{b:02x}")).collect();
        assert_eq!(hex, "c5d2460186f7233c927e7db2dcc703c0e500b653ca82273b7bfad8045d85a470");
    }

    #[test]
    fn odd_nodes_are_promoted() {
        let leaves: Vec<Hash> = (1..=3u8).map(|i| [i; 32]).collect();
        assert_eq!(root(&[]), [0; 32]);
        assert_eq!(root(&leaves[..1]), leaves[0]);
        assert_eq!(root(&leaves), pair(&pair(&leaves[0], &leaves[1]), &leaves[2]));
        assert_eq!(proof(&leaves, 2).unwrap(), vec![pair(&leaves[0], &leaves[1])]);
        assert_eq!(proof(&leaves, 3), None);
    }

    proptest! {
        #[test]
        fn every_leaf_has_a_proof(count in 1usize..70, index in 0usize..70, other in 0usize..70) {
            let leaves: Vec<Hash> = (0..count).map(|i| keccak256(&i.to_be_bytes())).collect();
            let (index, other) = (index % count, other % count);
            let path = proof(&leaves, index).unwrap();
            prop_assert!(verify(leaves[index], &path, root(&leaves)));
            prop_assert_eq!(verify(leaves[other], &path, root(&leaves)), index == other);
        }
    }
}
