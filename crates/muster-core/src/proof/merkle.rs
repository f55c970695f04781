//! BLAKE3 Merkle trees whose leaves are bound to their place, and proofs of several leaves at once.
//!
//! A leaf's hash covers its index; leaves and inner nodes are hashed under different keys, and the root covers the number
//! of leaves. A node without a sibling moves up unchanged. A proof lists the hashes that are missing, level by level from
//! the leaves, left to right; it has exactly one form.

use crate::ids::ContentHash;

const LEAF_KEY: &[u8; 32] = b"muster proof v1: merkle leaf    ";
const NODE_KEY: &[u8; 32] = b"muster proof v1: merkle node    ";
const ROOT_KEY: &[u8; 32] = b"muster proof v1: merkle root    ";

/// Why leaves are not proven.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MerkleError {
    /// No leaf at all: that proves nothing.
    #[error("no leaf is opened")]
    Empty,
    /// The leaves are not in ascending order, or one comes twice, or lies outside of the tree.
    #[error("the opened leaves are not distinct, ascending and inside of the tree")]
    Order,
    /// The path has too few or too many hashes.
    #[error("the path has another length than these leaves need")]
    Length,
    /// The leaves and the path give another root.
    #[error("the leaves and their path give another root")]
    Root,
}

/// Hash of a leaf at its place.
#[must_use]
pub fn leaf_hash(index: u32, data: &[u8]) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new_keyed(LEAF_KEY);
    hasher.update(&index.to_le_bytes());
    hasher.update(data);
    *hasher.finalize().as_bytes()
}

fn node_hash(left: &[u8; 32], right: &[u8; 32]) -> [u8; 32] {
    let mut both = [0; 64];
    both[..32].copy_from_slice(left);
    both[32..].copy_from_slice(right);
    *blake3::keyed_hash(NODE_KEY, &both).as_bytes()
}

fn root_hash(count: u32, top: &[u8; 32]) -> ContentHash {
    let mut hasher = blake3::Hasher::new_keyed(ROOT_KEY);
    hasher.update(&count.to_le_bytes());
    hasher.update(top);
    ContentHash(*hasher.finalize().as_bytes())
}

/// A whole tree, as its maker keeps it: 64 bytes a leaf.
#[derive(Clone, Debug)]
pub struct Tree {
    /// From the leaves to the single top.
    levels: Vec<Vec<[u8; 32]>>,
    root: ContentHash,
}

impl Tree {
    /// The tree over the hashes of leaves, in order; `None` for no leaf or more than `u32` counts.
    #[must_use]
    pub fn new(leaves: Vec<[u8; 32]>) -> Option<Self> {
        let count = u32::try_from(leaves.len()).ok().filter(|count| *count > 0)?;
        let mut levels = vec![leaves];
        while let Some(below) = levels.last().filter(|level| level.len() > 1) {
            let above = below
                .chunks(2)
                .map(|pair| match pair {
                    [left, right] => node_hash(left, right),
                    [alone, ..] => *alone,
                    [] => [0; 32],
                })
                .collect();
            levels.push(above);
        }
        let root = root_hash(count, levels.last()?.first()?);
        Some(Self { levels, root })
    }

    /// The root.
    #[must_use]
    pub const fn root(&self) -> ContentHash {
        self.root
    }

    /// How many leaves.
    #[must_use]
    pub fn count(&self) -> u32 {
        self.levels.first().and_then(|leaves| u32::try_from(leaves.len()).ok()).unwrap_or(0)
    }

    /// The path of some leaves.
    ///
    /// # Errors
    /// [`MerkleError::Empty`] and [`MerkleError::Order`].
    pub fn path(&self, indices: &[u32]) -> Result<Vec<[u8; 32]>, MerkleError> {
        check_order(indices, self.count())?;
        let mut known = indices.to_vec();
        let mut path = Vec::new();
        for level in self.levels.iter().take_while(|level| level.len() > 1) {
            let mut above = Vec::with_capacity(known.len());
            let mut at = 0;
            while let Some(&index) = known.get(at) {
                let sibling = index ^ 1;
                at += if known.get(at + 1) == Some(&sibling) { 2 } else { 1 };
                if known.get(at.wrapping_sub(1)) != Some(&sibling)
                    && let Some(hash) = level.get(usize::try_from(sibling).unwrap_or(usize::MAX))
                {
                    path.push(*hash);
                }
                above.push(index / 2);
            }
            known = above;
        }
        Ok(path)
    }
}

fn check_order(indices: &[u32], count: u32) -> Result<(), MerkleError> {
    let last = indices.last().ok_or(MerkleError::Empty)?;
    if *last >= count || !indices.is_sorted_by(|a, b| a < b) {
        return Err(MerkleError::Order);
    }
    Ok(())
}

/// Checks that leaves with these hashes, by ascending index, are under `root` in a tree of `count` leaves.
///
/// # Errors
/// [`MerkleError`]; no leaf at all is an error too.
pub fn verify(
    root: &ContentHash,
    count: u32,
    leaves: &[(u32, [u8; 32])],
    path: &[[u8; 32]],
) -> Result<(), MerkleError> {
    let indices: Vec<u32> = leaves.iter().map(|(index, _)| *index).collect();
    check_order(&indices, count)?;
    let mut known = leaves.to_vec();
    let mut path = path.iter();
    let mut width = count;
    while width > 1 {
        let mut above: Vec<(u32, [u8; 32])> = Vec::with_capacity(known.len());
        let mut left_over = known.iter().peekable();
        while let Some((index, hash)) = left_over.next() {
            let sibling = index ^ 1;
            let other = match left_over.next_if(|(next, _)| *next == sibling) {
                Some((_, other)) => Some(other),
                // The last node of an odd level has no sibling.
                None if sibling >= width => None,
                None => Some(path.next().ok_or(MerkleError::Length)?),
            };
            let hash = match other {
                None => *hash,
                Some(other) if index & 1 == 0 => node_hash(hash, other),
                Some(other) => node_hash(other, hash),
            };
            above.push((index / 2, hash));
        }
        known = above;
        width = width.div_ceil(2);
    }
    if path.next().is_some() {
        return Err(MerkleError::Length);
    }
    match known.first() {
        Some((_, top)) if root_hash(count, top) == *root => Ok(()),
        _ => Err(MerkleError::Root),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    use super::*;

    fn tree(count: u32) -> (Tree, Vec<[u8; 32]>) {
        let leaves: Vec<_> = (0..count).map(|i| leaf_hash(i, &i.to_le_bytes())).collect();
        (Tree::new(leaves.clone()).unwrap(), leaves)
    }

    #[test]
    fn no_leaf_is_no_tree_and_no_proof() {
        assert!(Tree::new(Vec::new()).is_none());
        let (tree, _) = tree(4);
        assert_eq!(tree.path(&[]), Err(MerkleError::Empty));
        assert_eq!(verify(&tree.root(), 4, &[], &[]), Err(MerkleError::Empty));
    }

    #[test]
    fn a_leaf_and_a_node_never_look_alike() {
        let (tree, leaves) = tree(2);
        let mut both = leaves[0].to_vec();
        both.extend(leaves[1]);
        let forged = [(0, leaf_hash(0, &both))];
        assert_eq!(verify(&tree.root(), 1, &forged, &[]), Err(MerkleError::Root));
    }

    proptest! {
        #[test]
        fn exactly_the_drawn_leaves_are_proven(count in 1u32..70, picks in prop::collection::btree_set(0u32..70, 1..12)) {
            let picks: BTreeSet<u32> = picks.into_iter().map(|p| p % count).collect();
            let picks: Vec<u32> = picks.into_iter().collect();
            let (tree, leaves) = tree(count);
            let path = tree.path(&picks).unwrap();
            let open = |at: &[u32]| at.iter().map(|i| (*i, leaves[*i as usize])).collect::<Vec<_>>();
            prop_assert_eq!(verify(&tree.root(), count, &open(&picks), &path), Ok(()));

            // One bit of a leaf or of the path, one hash more or less, another count, order or place: refused.
            let mut bad = open(&picks);
            bad[0].1[5] ^= 1;
            prop_assert!(verify(&tree.root(), count, &bad, &path).is_err());
            let mut long = path.clone();
            long.push([0; 32]);
            prop_assert_eq!(verify(&tree.root(), count, &open(&picks), &long), Err(MerkleError::Length));
            if let Some((_, short)) = path.split_last() {
                prop_assert!(verify(&tree.root(), count, &open(&picks), short).is_err());
                let mut bent = path.clone();
                bent[0][0] ^= 1;
                prop_assert_eq!(verify(&tree.root(), count, &open(&picks), &bent), Err(MerkleError::Root));
            }
            prop_assert!(verify(&tree.root(), count + 1, &open(&picks), &path).is_err());
            let mut twice = open(&picks);
            twice.push(twice[0]);
            prop_assert_eq!(verify(&tree.root(), count, &twice, &path), Err(MerkleError::Order));
            if picks.len() > 1 {
                let mut swapped = open(&picks);
                swapped.swap(0, 1);
                prop_assert_eq!(verify(&tree.root(), count, &swapped, &path), Err(MerkleError::Order));
            }
        }
    }
}
