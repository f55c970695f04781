//! What a committee signs: the outcome of some epochs, after the one before.

use alloy::primitives::{B256, keccak256};
use alloy::sol_types::{Eip712Domain, SolStruct, SolValue, eip712_domain};
use muster_core::ids::Address;
use muster_core::units::TokenAmount;
use muster_core::voucher::CompactSignature;
use serde::{Deserialize, Serialize};

use crate::contracts::abi::EpochRewardsBase as abi;
use crate::convert::{from_evm, to_evm};
use crate::ecdsa;
use crate::keys::Wallet;

mod typed {
    alloy::sol! {
        /// The struct that is signed; name and order of the fields are part of the digest.
        struct Outcome {
            bytes32 parent;
            uint64 firstEpoch;
            uint64 lastEpoch;
            bytes32 rewardRoot;
            uint128 cumulativeTotal;
            bytes32 slashRoot;
            bytes32 dataHash;
            bytes32 nextCommittee;
            bytes32 nextDisputeCommittee;
        }
    }
}

/// The outcome of some epochs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    /// One more than the last epoch of the outcome before.
    pub first_epoch: u64,
    /// The last epoch that it settles.
    pub last_epoch: u64,
    /// Root of the tree of [`super::RewardLeaf`]s; zero for an empty one.
    pub reward_root: [u8; 32],
    /// Sum of all cumulative amounts of that tree.
    pub cumulative_total: TokenAmount,
    /// Root of the tree of [`super::SlashLeaf`]s; zero for an empty one.
    pub slash_root: [u8; 32],
    /// Hash of what the outcome was computed from.
    pub data_hash: [u8; 32],
    /// [`committee_hash`] of who signs the next outcome.
    pub next_committee: [u8; 32],
    /// [`committee_hash`] of who decides a dispute about the next outcome.
    pub next_dispute_committee: [u8; 32],
}

impl Outcome {
    /// The EIP-712 struct hash after `parent`, which names this outcome in its chain.
    #[must_use]
    pub fn digest(&self, parent: [u8; 32]) -> [u8; 32] {
        self.typed(parent).eip712_hash_struct().0
    }

    fn typed(&self, parent: [u8; 32]) -> typed::Outcome {
        typed::Outcome {
            parent: parent.into(),
            firstEpoch: self.first_epoch,
            lastEpoch: self.last_epoch,
            rewardRoot: self.reward_root.into(),
            cumulativeTotal: self.cumulative_total.0,
            slashRoot: self.slash_root.into(),
            dataHash: self.data_hash.into(),
            nextCommittee: self.next_committee.into(),
            nextDisputeCommittee: self.next_dispute_committee.into(),
        }
    }

    pub(super) fn to_abi(self) -> abi::Outcome {
        abi::Outcome {
            firstEpoch: self.first_epoch,
            lastEpoch: self.last_epoch,
            rewardRoot: self.reward_root.into(),
            cumulativeTotal: self.cumulative_total.0,
            slashRoot: self.slash_root.into(),
            dataHash: self.data_hash.into(),
            nextCommittee: self.next_committee.into(),
            nextDisputeCommittee: self.next_dispute_committee.into(),
        }
    }
}

/// An outcome as it stands, or stood, on the chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PostedOutcome {
    /// Its place; one more than that of the outcome before.
    pub sequence: u64,
    /// Digest of the outcome before.
    pub parent: [u8; 32],
    /// The outcome.
    pub outcome: Outcome,
    /// When it was posted, in Unix seconds.
    pub posted_at_s: u64,
    /// Bit i is set where member i of its committee signed.
    pub signers: u32,
}

impl PostedOutcome {
    /// Its EIP-712 struct hash: the parent of the next.
    #[must_use]
    pub fn digest(&self) -> [u8; 32] {
        self.outcome.digest(self.parent)
    }

    pub(super) fn to_abi(self) -> abi::Posted {
        abi::Posted {
            sequence: self.sequence,
            parent: self.parent.into(),
            outcome: self.outcome.to_abi(),
            postedAt: self.posted_at_s,
            signers: self.signers,
        }
    }

    /// What `EpochRewards.post` takes for `next` after this one.
    pub(super) fn pack(&self, next: &Outcome, signed: &CommitteeSignatures) -> Vec<u8> {
        let mut packed = Vec::with_capacity(264 + signed.packed.len());
        packed.extend_from_slice(&self.digest());
        packed.extend_from_slice(&self.sequence.to_be_bytes());
        packed.extend_from_slice(&self.posted_at_s.to_be_bytes());
        packed.extend_from_slice(&self.outcome.cumulative_total.0.to_be_bytes());
        packed.extend_from_slice(&self.signers.to_be_bytes());
        packed.extend_from_slice(&signed.signers.to_be_bytes());
        packed.extend_from_slice(&next.first_epoch.to_be_bytes());
        packed.extend_from_slice(&next.last_epoch.to_be_bytes());
        packed.extend_from_slice(&next.cumulative_total.0.to_be_bytes());
        for root in
            [next.reward_root, next.slash_root, next.data_hash, next.next_committee, next.next_dispute_committee]
        {
            packed.extend_from_slice(&root);
        }
        packed.extend_from_slice(&signed.packed);
        packed
    }
}

/// A committee's name on the chain: the hash of its members, in the order of the draw, as words of 32 bytes
/// (`keccak256(abi.encodePacked(members))` of an `address[]`).
#[must_use]
pub fn committee_hash(members: &[Address]) -> [u8; 32] {
    let words: Vec<u8> = members.iter().flat_map(|member| to_evm(*member).abi_encode()).collect();
    keccak256(words).0
}

/// Signatures of a committee as the contract takes them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CommitteeSignatures {
    /// Bit i is set where member i signed.
    pub signers: u32,
    /// Per member its signature, or its address where it did not sign.
    pub packed: Vec<u8>,
}

impl CommitteeSignatures {
    /// The largest committee.
    pub const MEMBERS_MAX: usize = 32;

    /// Of the members in the order of the draw, each with its signature if there is one; `None` for more than 32.
    #[must_use]
    pub fn new(members: &[(Address, Option<CompactSignature>)]) -> Option<Self> {
        if members.len() > Self::MEMBERS_MAX {
            return None;
        }
        let (mut signers, mut packed) = (0u32, Vec::new());
        for (index, (member, signature)) in members.iter().enumerate() {
            match signature {
                Some(signature) => {
                    signers |= 1 << index;
                    packed.extend_from_slice(&signature.r);
                    packed.extend_from_slice(&signature.vs);
                }
                None => packed.extend_from_slice(&member.0),
            }
        }
        Some(Self { signers, packed })
    }
}

/// Where outcomes count: one contract on one chain.
#[derive(Clone, Debug)]
pub struct OutcomeDomain {
    domain: Eip712Domain,
}

impl OutcomeDomain {
    /// The domain of a rewards contract.
    #[must_use]
    pub fn new(chain_id: u64, rewards: Address) -> Self {
        let domain = eip712_domain! {
            name: "Muster EpochRewards",
            version: "1",
            chain_id: chain_id,
            verifying_contract: to_evm(rewards),
        };
        Self { domain }
    }

    /// What a member signs: an outcome after `parent`.
    #[must_use]
    pub fn signing_digest(&self, parent: [u8; 32], outcome: &Outcome) -> [u8; 32] {
        outcome.typed(parent).eip712_signing_hash(&self.domain).0
    }

    /// A member's signature.
    #[must_use]
    pub fn sign(&self, member: &Wallet, parent: [u8; 32], outcome: &Outcome) -> CompactSignature {
        ecdsa::compact(member.sign(B256::from(self.signing_digest(parent, outcome))))
    }

    /// Who signed; `None` for what is no signature.
    #[must_use]
    pub fn signer(&self, parent: [u8; 32], outcome: &Outcome, signature: &CompactSignature) -> Option<Address> {
        let digest = B256::from(self.signing_digest(parent, outcome));
        ecdsa::recover(&ecdsa::expand(signature), digest).map(from_evm)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_committee_is_named_by_its_members_as_words() {
        let member = Address([0x11; 20]);
        let mut word = [0; 32];
        word[12..].copy_from_slice(&member.0);
        assert_eq!(committee_hash(&[member]), keccak256(word).0);
        let other = Address([0x22; 20]);
        assert_ne!(committee_hash(&[member, other]), committee_hash(&[other, member]), "the order counts");
    }

    #[test]
    fn who_did_not_sign_is_named() {
        let signature = CompactSignature { r: [1; 32], vs: [2; 32] };
        let members = [(Address([3; 20]), None), (Address([4; 20]), Some(signature)), (Address([5; 20]), None)];
        let signed = CommitteeSignatures::new(&members).unwrap();
        assert_eq!(signed.signers, 0b010);
        assert_eq!(signed.packed.len(), 20 + 64 + 20);
        assert_eq!(CommitteeSignatures::new(&[(Address([3; 20]), None); 33]), None);
    }

    #[test]
    fn a_signature_counts_after_its_parent_only() {
        let domain = OutcomeDomain::new(1, Address([9; 20]));
        let outcome = Outcome {
            first_epoch: 1,
            last_epoch: 2,
            reward_root: [1; 32],
            cumulative_total: TokenAmount(3),
            slash_root: [0; 32],
            data_hash: [4; 32],
            next_committee: [5; 32],
            next_dispute_committee: [6; 32],
        };
        let member = Wallet::random();
        let signature = domain.sign(&member, [7; 32], &outcome);
        assert_eq!(domain.signer([7; 32], &outcome, &signature), Some(member.address()));
        assert_ne!(domain.signer([8; 32], &outcome, &signature), Some(member.address()));
    }
}
