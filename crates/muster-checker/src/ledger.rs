//! What a Checker needs of the chain.

use std::collections::BTreeSet;
use std::fmt;

use futures::future::BoxFuture;
use muster_chain::settle::{LeaseOnChain, NodeOnChain};
use muster_core::brain::checker::{Posted, SignedOutcome};
use muster_core::epoch::EpochNo;
use muster_core::ids::{Address, LeaseId, NodeId};
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
    /// The last outcome that stood then; what has become of it since does not matter.
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

    /// Leases of a Container that their consumers gave up after an instant, in the chain's order.
    fn given_up(&self, container: NodeId, after: TimeMs) -> BoxFuture<'_, Result<Vec<LeaseId>, LedgerError>>;

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

    /// The first disputed outcome.
    fn disputed(&self) -> BoxFuture<'_, Result<Option<DisputedOutcome>, LedgerError>>;

    /// Brings what the dispute committee signed for the place of a disputed outcome; `committee` is whole and in the
    /// order of the draw.
    fn resolve(
        &self,
        posted: Outcome,
        right: Outcome,
        committee: Vec<Address>,
        signatures: Vec<(Address, CompactSignature)>,
    ) -> BoxFuture<'_, Result<(), LedgerError>>;

    /// Outcomes that were replaced by final ones, whose signers can be slashed: each with the one before it and its signers,
    /// bit by bit in the order of the committee.
    fn condemned(&self) -> BoxFuture<'_, Result<Vec<Condemned>, LedgerError>>;

    /// Slashes a member of a committee that signed a condemned outcome.
    fn slash_signer(
        &self,
        sequence: u64,
        committee: Vec<Address>,
        position: u8,
        checker: NodeId,
    ) -> BoxFuture<'_, Result<(), LedgerError>>;
}

/// An outcome that somebody names wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DisputedOutcome {
    /// What stands on the chain.
    pub posted: Outcome,
    /// The outcome before it, which names who decides; `None` where the first committees were named there.
    pub before: Option<Outcome>,
}

/// An outcome that was wrong, as the chain has decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Condemned {
    /// Its place.
    pub sequence: u64,
    /// The outcome before it, which names the committee; `None` where the first committees were named there.
    pub before: Option<Outcome>,
    /// Bit i is set where member i signed.
    pub signers: u32,
}
