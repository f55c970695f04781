//! Licences, outcomes of epochs, their rewards and slashes, and the beacon, as the contracts have them.
//!
//! - [`EpochContracts`] says where they are; [`deploy_epochs`] makes them for a development network.
//! - [`Outcome`] and [`OutcomeDomain`]: what a committee signs; [`MerkleTree`], [`RewardLeaf`], [`SlashLeaf`]: the trees
//!   that its roots are of.
//! - [`EpochClient`] reads; [`EpochSettlement`] sends.
//! - [`history`] rebuilds who was registered, and who owned and delegated which licence, at a time.

mod client;
mod deploy;
pub mod history;
mod leases;
mod operations;
mod outcome;
mod tree;

pub use client::{EpochClient, OutcomeLog, OutcomeStatus, RewardState};
pub use deploy::{EpochParams, deploy_epochs, fund_rewards};
pub use leases::{LeaseLog, MatchedLeaseAt, OpenLeaseAt};
pub use operations::EpochSettlement;
pub use outcome::{CommitteeSignatures, Outcome, OutcomeDomain, PostedOutcome, committee_hash};
pub use tree::{MerkleTree, RewardKind, RewardLeaf, SlashLeaf};

use muster_core::ids::Address;
use serde::{Deserialize, Serialize};

/// Where the contracts of epochs are; part of `network.toml`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EpochContracts {
    /// Licences of Checkers (ERC-721).
    pub licences: Address,
    /// Outcomes of epochs, rewards, slashes.
    pub rewards: Address,
    /// Rounds of the beacon.
    pub beacon: Address,
}
