//! The trees of rewards and slashes: what a root is of, and the proofs that the contract takes.

use alloy::primitives::{B256, Keccak256, U256, keccak256};
use alloy::sol_types::SolValue;
use muster_core::ids::{Address, NodeId};
use muster_core::units::TokenAmount;
use serde::{Deserialize, Serialize};

use crate::contracts::abi::EpochRewardsBase as abi;
use crate::convert::{node_word, to_evm};

/// Whose reward it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum RewardKind {
    /// A Container's; the key is its node key.
    Container,
    /// An Indexer's; the key is its node key.
    Indexer,
    /// A licence owner's; the key is the owner's address.
    Licences,
}

impl RewardKind {
    /// The contract's number.
    #[must_use]
    pub const fn code(self) -> u8 {
        match self {
            Self::Container => 1,
            Self::Indexer => 2,
            Self::Licences => 4,
        }
    }
}

/// A leaf of the tree of rewards.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct RewardLeaf {
    /// Whose.
    pub kind: RewardKind,
    /// Node key, or the owner's address in the last twenty bytes.
    pub key: [u8; 32],
    /// Who is paid.
    pub account: Address,
    /// Everything ever rewarded under this key.
    pub cumulative: TokenAmount,
}

impl RewardLeaf {
    /// A node's reward.
    #[must_use]
    pub const fn node(kind: RewardKind, node: NodeId, account: Address, cumulative: TokenAmount) -> Self {
        Self { kind, key: node.0, account, cumulative }
    }

    /// A licence owner's reward.
    #[must_use]
    pub fn owner(owner: Address, cumulative: TokenAmount) -> Self {
        Self { kind: RewardKind::Licences, key: owner_key(owner), account: owner, cumulative }
    }

    /// The leaf's hash.
    #[must_use]
    pub fn hash(&self) -> [u8; 32] {
        twice(&self.to_abi().abi_encode())
    }

    pub(super) fn to_abi(self) -> abi::Reward {
        abi::Reward {
            kind: self.kind.code(),
            key: self.key.into(),
            account: to_evm(self.account),
            cumulative: self.cumulative.0,
        }
    }
}

/// The key of an owner's rewards.
fn owner_key(owner: Address) -> [u8; 32] {
    let mut key = [0; 32];
    key[12..].copy_from_slice(&owner.0);
    key
}

/// A leaf of the tree of slashes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct SlashLeaf {
    /// Last epoch of the outcome that it stands in.
    pub last_epoch: u64,
    /// Who is slashed.
    pub node: NodeId,
    /// By how much at most.
    pub amount: TokenAmount,
    /// What for; serves against a node once.
    pub evidence: [u8; 32],
}

impl SlashLeaf {
    /// The leaf's hash.
    #[must_use]
    pub fn hash(&self) -> [u8; 32] {
        twice(&self.to_abi().abi_encode())
    }

    pub(super) fn to_abi(self) -> abi::Slash {
        abi::Slash {
            lastEpoch: self.last_epoch,
            nodeKey: node_word(self.node),
            amount: self.amount.0,
            evidence: self.evidence.into(),
        }
    }
}

/// Hashed twice, so that no inner node of a tree can pass for a leaf.
fn twice(encoded: &[u8]) -> [u8; 32] {
    keccak256(keccak256(encoded)).0
}

/// A tree as OpenZeppelin's `MerkleProof` checks it: pairs hashed in order of size, level by level; an odd last node
/// goes up unchanged. The root of no leaves is zero.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MerkleTree {
    levels: Vec<Vec<[u8; 32]>>,
}

impl MerkleTree {
    /// The tree above these leaves' hashes, in their order.
    #[must_use]
    pub fn new(leaves: Vec<[u8; 32]>) -> Self {
        let mut levels = vec![leaves];
        while let Some(level) = levels.last().filter(|level| level.len() > 1) {
            let up = level
                .chunks(2)
                .map(|pair| match pair {
                    [left, right] => join(left, right),
                    alone => alone.first().copied().unwrap_or_default(),
                })
                .collect();
            levels.push(up);
        }
        Self { levels }
    }

    /// The root; zero for an empty tree.
    #[must_use]
    pub fn root(&self) -> [u8; 32] {
        self.levels.last().and_then(|top| top.first()).copied().unwrap_or_default()
    }

    /// The siblings on the way up from a leaf; `None` where there is no such leaf.
    #[must_use]
    pub fn proof(&self, index: usize) -> Option<Vec<[u8; 32]>> {
        self.levels.first()?.get(index)?;
        let siblings = self.levels.iter().enumerate().filter_map(|(height, level)| {
            let place = index.checked_shr(u32::try_from(height).ok()?).unwrap_or(0);
            // The top has no sibling, nor has an odd last node.
            if level.len() > 1 { level.get(place ^ 1).copied() } else { None }
        });
        Some(siblings.collect())
    }
}

fn join(left: &[u8; 32], right: &[u8; 32]) -> [u8; 32] {
    let (small, great) = if left < right { (left, right) } else { (right, left) };
    let mut hasher = Keccak256::new();
    hasher.update(small);
    hasher.update(great);
    hasher.finalize().0
}

pub(super) fn words(proof: &[[u8; 32]]) -> Vec<B256> {
    proof.iter().map(|word| B256::from(*word)).collect()
}

pub(super) fn numbers<const N: usize>(words: [[u8; 32]; N]) -> [U256; N] {
    words.map(U256::from_be_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn climb(leaf: [u8; 32], proof: &[[u8; 32]]) -> [u8; 32] {
        proof.iter().fold(leaf, |hash, sibling| join(&hash, sibling))
    }

    #[test]
    fn every_leaf_of_every_size_leads_to_the_root() {
        for size in 1..40u8 {
            let leaves: Vec<[u8; 32]> = (0..size).map(|i| keccak256([i]).0).collect();
            let tree = MerkleTree::new(leaves.clone());
            for (index, leaf) in leaves.iter().enumerate() {
                assert_eq!(climb(*leaf, &tree.proof(index).unwrap()), tree.root(), "{index} of {size}");
            }
            assert_eq!(tree.proof(usize::from(size)), None);
        }
    }

    #[test]
    fn the_empty_tree_has_no_root_and_one_leaf_is_its_own() {
        assert_eq!(MerkleTree::new(Vec::new()).root(), [0; 32]);
        assert_eq!(MerkleTree::new(vec![[7; 32]]).root(), [7; 32]);
        assert_eq!(MerkleTree::new(vec![[7; 32]]).proof(0), Some(Vec::new()));
    }
}
