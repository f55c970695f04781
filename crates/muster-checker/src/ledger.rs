//! What a Checker needs of the chain.

use std::collections::BTreeSet;
use std::fmt;

use futures::future::BoxFuture;
use muster_chain::settle::{LeaseOnChain, NodeOnChain};
use muster_core::brain::checker::{Posted, SignedOutcome};
use muster_core::epoch::EpochNo;
use muster_core::ids::{Address, NodeId};
use muster_core::reward::merkle::Hash;
use muster_core::reward::{ChainFacts, Outcome, SlashLeaf};
use muster_core::units::TimeMs;
use muster_core::voucher::CompactSignature;

/// The chain did not answer, or not so that the answer can be believed. Never to be read as "no".
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LedgerError {
    /// Unknown for now: ask again.
    #[error("{0}")]
    Unknown(String),
    /// The chain has said no, for good; the sentence says why and what to do.
    #[error("{0}")]
    Refused(String),
}

/// A licence as the chain has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct LicenceOnChain {
    /// Its number.
    pub id: u32,
    /// Who owns it.
    pub owner: Address,
    /// The node key of the Checker that it is delegated to.
    pub delegate: Option<NodeId>,
}

/// The contracts as of the last block before an instant. Whoever asks gets the same, whenever it is asked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// That block.
    pub block: u64,
    /// Every node that ever registered, in any order.
    pub nodes: Vec<NodeOnChain>,
    /// Every licence, in any order.
    pub licences: Vec<LicenceOnChain>,
    /// Containers with open leases.
    pub serving: BTreeSet<NodeId>,
    /// The last outcome that was posted by then and had not fallen.
    pub outcome: Option<Outcome>,
}

/// The chain as a Checker sees it.
///
/// What changes the chain (`post`, `finalize`, `slash`, `dispute`) may be asked twice and counts once: where the chain
/// has it already, the answer is `Ok`.
pub trait Ledger: fmt::Debug + Send + Sync + 'static {
    /// The account that signs outcomes and pays for transactions: the owner of this Checker's key in the registry.
    fn signer(&self) -> Address;

    /// The first epoch that is settled, as the rewards contract has it.
    fn genesis(&self) -> EpochNo;

    /// The contracts as of the last block before an instant.
    fn snapshot(&self, before: TimeMs) -> BoxFuture<'_, Result<Snapshot, LedgerError>>;

    /// Fees and matched leases of the blocks from one instant to another.
    fn facts(&self, from: TimeMs, to: TimeMs) -> BoxFuture<'_, Result<ChainFacts, LedgerError>>;

    /// The outcomes that are not final yet, and the last one that is.
    fn outcomes(&self) -> BoxFuture<'_, Result<Vec<Posted>, LedgerError>>;

    /// Every outcome that stands, in their order.
    fn history(&self) -> BoxFuture<'_, Result<Vec<Outcome>, LedgerError>>;

    /// Open leases of a Container, now.
    fn leases(&self, container: NodeId) -> BoxFuture<'_, Result<Vec<LeaseOnChain>, LedgerError>>;

    /// Signs an outcome as the contract checks it: after the one that is posted before it.
    fn sign(&self, outcome: Outcome) -> BoxFuture<'_, Result<SignedOutcome, LedgerError>>;

    /// Whether a signature under an outcome is its signer's.
    fn is_signed(&self, signed: SignedOutcome) -> BoxFuture<'_, Result<bool, LedgerError>>;

    /// Posts an outcome; `committee` is whole and in the order of the draw, `signatures` are some of its members'.
    fn post(
        &self,
        outcome: Outcome,
        committee: Vec<Address>,
        signatures: Vec<(Address, CompactSignature)>,
    ) -> BoxFuture<'_, Result<(), LedgerError>>;

    /// Makes an outcome final.
    fn finalize(&self, posted: Posted) -> BoxFuture<'_, Result<(), LedgerError>>;

    /// Executes a slash of a final outcome.
    fn slash(&self, leaf: SlashLeaf, proof: Vec<Hash>) -> BoxFuture<'_, Result<(), LedgerError>>;

    /// Names an outcome wrong.
    fn dispute(&self, posted: Outcome) -> BoxFuture<'_, Result<(), LedgerError>>;
}
