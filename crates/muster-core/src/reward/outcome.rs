//! What an epoch came to, as the chain is told.

use serde::{Deserialize, Serialize};

use super::merkle::{self, Hash, keccak256};
use crate::epoch::{Draw, EpochNo, Seats};
use crate::ids::{Address, ContentHash, NodeId};
use crate::units::TokenAmount;

/// What a leaf pays for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LeafKind {
    /// A Container: capacity and delivery.
    Container = 1,
    /// An Indexer: leases that it matched.
    Indexer = 2,
    /// An owner of licences: what their Checkers earned.
    LicenceOwner = 4,
}

/// All that an account has earned for something, since the network began.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct RewardLeaf {
    /// For what.
    pub kind: LeafKind,
    /// The node's key; of an owner of licences its address, padded with zeros on the left.
    pub key: [u8; 32],
    /// Who is paid.
    pub account: Address,
    /// In smallest units.
    pub cumulative: u128,
}

impl RewardLeaf {
    /// keccak256(keccak256(abi.encode(uint8 kind, bytes32 key, address account, uint128 cumulative))).
    #[must_use]
    pub fn hash(&self) -> Hash {
        let mut words = [0u8; 128];
        put(&mut words, 0, &[self.kind as u8]);
        put(&mut words, 1, &self.key);
        put(&mut words, 2, &self.account.0);
        put(&mut words, 3, &self.cumulative.to_be_bytes());
        keccak256(&keccak256(&words))
    }
}

/// The key of an owner of licences.
#[must_use]
pub fn owner_key(owner: &Address) -> [u8; 32] {
    let mut key = [0; 32];
    put(&mut key, 0, &owner.0);
    key
}

/// What is taken from a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct SlashLeaf {
    /// The last epoch of the outcome that says so.
    pub last_epoch: EpochNo,
    /// From whom.
    pub node: NodeId,
    /// How much: unclaimed rewards first, then stake, never more than there is.
    pub amount: TokenAmount,
    /// What for; never zero, and never the same twice for a node.
    pub evidence: ContentHash,
}

impl SlashLeaf {
    /// keccak256(keccak256(abi.encode(uint64 lastEpoch, bytes32 nodeKey, uint128 amount, bytes32 evidence))).
    #[must_use]
    pub fn hash(&self) -> Hash {
        let mut words = [0u8; 128];
        put(&mut words, 0, &self.last_epoch.0.to_be_bytes());
        put(&mut words, 1, &self.node.0);
        put(&mut words, 2, &self.amount.0.to_be_bytes());
        put(&mut words, 3, &self.evidence.0);
        keccak256(&keccak256(&words))
    }
}

/// Puts a value to the right of a word of 32 bytes, as `abi.encode` does with numbers and addresses.
fn put(words: &mut [u8], word: usize, value: &[u8]) {
    let end = word.saturating_add(1).saturating_mul(32);
    let start = end.saturating_sub(value.len());
    if let Some(slot) = words.get_mut(start..end) {
        slot.copy_from_slice(value);
    }
}

/// The root over reward leaves that are in order of (kind, key).
#[must_use]
pub fn reward_root(leaves: &[RewardLeaf]) -> Hash {
    merkle::root(&leaves.iter().map(RewardLeaf::hash).collect::<Vec<_>>())
}

/// The root over slash leaves that are in order of the nodes' keys.
#[must_use]
pub fn slash_root(leaves: &[SlashLeaf]) -> Hash {
    merkle::root(&leaves.iter().map(SlashLeaf::hash).collect::<Vec<_>>())
}

/// keccak256 over the members' addresses in draw order, each in a word of 32 bytes: `abi.encodePacked` of a list.
#[must_use]
pub fn committee_hash(members: &[Address]) -> Hash {
    let mut words = vec![0u8; members.len().saturating_mul(32)];
    for (at, member) in members.iter().enumerate() {
        put(&mut words, at, &member.0);
    }
    keccak256(&words)
}

/// The accounts that sign for the Checkers of these seats.
#[must_use]
pub fn signers(draw: &Draw, seats: &Seats) -> Vec<Address> {
    let of = |place: &u32| draw.view().checkers().get(usize::try_from(*place).ok()?).map(|c| c.signer);
    seats.as_slice().iter().filter_map(of).collect()
}

/// What two thirds of the committee sign, field for field as the contract has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    /// The first epoch that it settles: the one after the last outcome's last.
    pub first_epoch: EpochNo,
    /// The last epoch that it settles.
    pub last_epoch: EpochNo,
    /// [`reward_root`] over all leaves.
    pub reward_root: Hash,
    /// The sum over all leaves.
    pub cumulative_total: TokenAmount,
    /// [`slash_root`] over what these epochs take.
    pub slash_root: Hash,
    /// BLAKE3 of [`Settled::published`](super::Settled::published).
    pub data_hash: ContentHash,
    /// [`committee_hash`] of who signs the next outcome.
    pub next_committee: Hash,
    /// [`committee_hash`] of who decides when the next outcome is disputed.
    pub next_dispute_committee: Hash,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leaves_are_encoded_as_solidity_does() {
        let leaf = RewardLeaf { kind: LeafKind::Indexer, key: [7; 32], account: Address([9; 20]), cumulative: 258 };
        let mut words = vec![0u8; 31];
        words.push(2);
        words.extend([7; 32]);
        words.extend([0; 12]);
        words.extend([9; 20]);
        words.extend([0; 30]);
        words.extend([1, 2]);
        assert_eq!(leaf.hash(), keccak256(&keccak256(&words)));
        let slash = SlashLeaf {
            last_epoch: EpochNo(258),
            node: NodeId([7; 32]),
            amount: TokenAmount(3),
            evidence: ContentHash([8; 32]),
        };
        let mut words = vec![0u8; 30];
        words.extend([1, 2]);
        words.extend([7; 32]);
        words.extend([0; 31]);
        words.push(3);
        words.extend([8; 32]);
        assert_eq!(slash.hash(), keccak256(&keccak256(&words)));
        assert_eq!(owner_key(&Address([1; 20]))[..13], [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
    }
}
