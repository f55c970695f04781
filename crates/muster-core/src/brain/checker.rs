//! The brain of a Checker: it tests whom it was drawn for, says what it found, and settles epochs with others.
//!
//! # An epoch
//!
//! ```text
//! Event::Epoch ──► Effect::Perform at each task's instant ──► Event::Found
//!   commitments:  Effect::Vouch ──► Event::Vouched ──► Commit to every member of the committee ──► Receipt
//!   reveals:      Reveal, with the receipts, to every member ──► Taken
//! ```
//!
//! Members of the settlement committee (of the epoch after `e` it is drawn by `e`'s draw, so it is known before
//! anybody commits) keep what reaches them. Once reveals are over and the epoch before is settled, the member whose turn
//! it is proposes the [`Bundle`]; the others run again what is in doubt, recompute the outcome, and sign if it is the
//! same and nothing that they hold is missing. What is missing they send to the proposer, who proposes again. After a
//! while without an outcome it is the next member's turn. Two thirds of signatures are posted; who sees an outcome on
//! the chain that it did not compute fetches what was published with it.
//!
//! # What the body does
//!
//! It checks every signature before an event (commitments, receipts, outcomes), and that [`Event::Heard`] really
//! comes from the node that it names. It carries effects out in their order; what stands behind a [`Effect::Save`]
//! waits until that is durable. After a restart it gives [`Checker::restore`] what was saved, then the [`Event::Epoch`]
//! of every epoch that is not settled. Everything is asked for again until it is answered, so a lost answer is no harm
//! and a second one no news.

mod follow;
mod gather;
mod messages;
mod resolve;
mod settle;
#[cfg(test)]
#[allow(clippy::cast_possible_truncation, reason = "small numbers of a test's own")]
mod tests;
mod work;

use std::collections::BTreeMap;
use std::sync::Arc;

pub use messages::{Answer, ChainSeen, Disputed, Effect, Event, Message, Posted, Proposal, Saved, SignedOutcome, Span};

use crate::epoch::{Draw, EpochNo, EpochParams};
use crate::ids::{Address, ContentHash, NodeId};
use crate::params::Params;
use crate::reward::{Commitment, Doubt, Entry, Outcome, Reexecution, Settled, SlashLeaf, State};
use crate::units::TimeMs;

/// Epochs that may wait to be settled; beyond that new ones are not taken part in.
pub const EPOCHS_MAX: usize = 2_000;
/// How often something that was not answered is sent again.
const RETRY_MS: u64 = 1_000;
/// How often the chain is asked to do what it was asked before.
const CHAIN_RETRY_MS: u64 = 5_000;
/// Slashes that may wait to be executed.
const SLASHES_MAX: usize = 10_000;
/// Outcomes of which the whole computation is kept until one of them is on the chain.
const CANDIDATES_MAX: usize = 4;

/// A member of a settlement committee.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Member {
    /// Where it is reached.
    pub node: NodeId,
    /// What it signs outcomes with.
    pub signer: Address,
}

/// Who this Checker is.
#[derive(Clone, Debug)]
pub struct Config {
    /// Its node key.
    pub id: NodeId,
    /// The account that signs for it on the chain.
    pub signer: Address,
    /// The network's parameters.
    pub params: Params,
    /// Who settles the network's first epoch, in the order in which they propose.
    pub first_committee: Vec<Member>,
}

/// What this Checker does in an epoch of its own.
#[derive(Clone, Debug)]
struct Mine {
    salt: [u8; 32],
    secret: [u8; 32],
    /// Not begun yet, by instant.
    waiting: Vec<crate::epoch::Assignment>,
    found: BTreeMap<crate::epoch::Task, crate::reward::Finding>,
    /// What it will reveal, once it has committed.
    entry: Option<Entry>,
    vouched: bool,
    /// Members that have its commitment, and those that have its reveal.
    told: Vec<NodeId>,
    revealed_to: Vec<NodeId>,
    sent_at: TimeMs,
}

/// What a member of the committee holds of an epoch.
#[derive(Clone, Debug, Default)]
struct Held {
    /// Commitments that it gave a receipt for.
    commitments: BTreeMap<NodeId, Commitment>,
    /// Entries by Checker and commitment: of a Checker that committed twice both are evidence.
    entries: BTreeMap<(NodeId, ContentHash), Entry>,
    answers: BTreeMap<Doubt, Reexecution>,
    asked_at: BTreeMap<Doubt, TimeMs>,
    facts: Option<crate::reward::ChainFacts>,
    facts_asked_at: Option<TimeMs>,
}

/// An epoch that is not settled.
#[derive(Clone, Debug)]
struct Open {
    draw: Arc<Draw>,
    mine: Option<Mine>,
    held: Held,
}

/// Where the settlement of the next span stands.
#[derive(Clone, Debug)]
struct Settling {
    /// Since when it could be settled.
    since: TimeMs,
    /// What this Checker computed.
    candidates: Vec<Settled>,
    /// The last proposal of another member: it waits for answers, or is signed and its answer may have been lost.
    heard: Option<(NodeId, Proposal)>,
    /// Whose proposal it signs just now.
    answering: Option<(NodeId, Outcome)>,
    /// What it proposed, and who signed it.
    proposed: Option<Proposed>,
    /// What is in doubt, of how many entries and reveals.
    doubts: Option<((usize, usize), Vec<Doubt>)>,
}

#[derive(Clone, Debug)]
struct Proposed {
    proposal: Proposal,
    /// Of how many entries and reveals it is.
    of: (usize, usize),
    signatures: BTreeMap<Address, crate::voucher::CompactSignature>,
    sent_at: TimeMs,
    posted_at: Option<TimeMs>,
}

/// The brain of a Checker.
#[derive(Debug)]
pub struct Checker {
    config: Config,
    state: State,
    /// Committees by the epoch that they settle (or begin to settle).
    committees: BTreeMap<EpochNo, Vec<Member>>,
    open: BTreeMap<EpochNo, Open>,
    restored: BTreeMap<EpochNo, Vec<Saved>>,
    settling: Option<Settling>,
    /// Outcomes on the chain whose window is open, and slashes of those whose window is over.
    posted: BTreeMap<EpochNo, Posted>,
    slashes: BTreeMap<(EpochNo, NodeId), follow::DueSlash>,
    /// What outcomes take that are not final yet.
    leaves: BTreeMap<EpochNo, Vec<SlashLeaf>>,
    finalize_asked_at: Option<TimeMs>,
    fetch_asked_at: Option<TimeMs>,
    /// The outcome whose published data is awaited, and how often it was asked for.
    fetching: Option<Posted>,
    fetches: u32,
    /// Whether an outcome on the chain is disputed, and what this Checker does to decide it.
    disputed: bool,
    resolving: Option<resolve::Resolving>,
}

impl Checker {
    /// A Checker that knows of no epoch yet.
    #[must_use]
    pub fn new(config: Config) -> Self {
        Self {
            config,
            state: State::default(),
            committees: BTreeMap::new(),
            open: BTreeMap::new(),
            restored: BTreeMap::new(),
            settling: None,
            posted: BTreeMap::new(),
            slashes: BTreeMap::new(),
            leaves: BTreeMap::new(),
            finalize_asked_at: None,
            fetch_asked_at: None,
            fetching: None,
            fetches: 0,
            disputed: false,
            resolving: None,
        }
    }

    /// Takes back what was saved before a restart, in the order in which it was saved. Epochs that are settled are left
    /// out; the others go on once their [`Event::Epoch`] comes again.
    pub fn restore(&mut self, saved: Vec<Saved>) {
        for one in saved {
            match one {
                Saved::Settled(state) => self.state = *state,
                Saved::Mine { epoch, .. } => self.restored.entry(epoch).or_default().push(one),
                Saved::Commitment(commitment) => {
                    self.restored.entry(commitment.epoch).or_default().push(Saved::Commitment(commitment));
                }
                Saved::Entry(entry) => {
                    self.restored.entry(entry.commitment.epoch).or_default().push(Saved::Entry(entry));
                }
            }
        }
        let settled = self.state.settled;
        self.restored.retain(|epoch, _| settled.is_none_or(|last| *epoch > last));
    }

    /// What all settled epochs left behind; what the next view is frozen with once it is posted.
    #[must_use]
    pub const fn state(&self) -> &State {
        &self.state
    }

    /// The draw of an epoch that is not settled.
    #[must_use]
    pub fn draw(&self, epoch: EpochNo) -> Option<&Draw> {
        self.open.get(&epoch).map(|open| &*open.draw)
    }

    /// Epochs that are not settled.
    pub fn open_epochs(&self) -> impl Iterator<Item = EpochNo> {
        self.open.keys().copied()
    }

    /// Who settles from an epoch on; nobody where that is not known yet.
    #[must_use]
    pub fn committee(&self, epoch: EpochNo) -> &[Member] {
        self.committees.get(&epoch).map_or(&[], Vec::as_slice)
    }

    /// Takes in what happened and says what to do.
    pub fn handle(&mut self, event: Event, now: TimeMs) -> Vec<Effect> {
        let mut out = Vec::new();
        match event {
            Event::Epoch { draw, chance } => self.on_epoch(draw, chance, &mut out),
            Event::Found { epoch, task, finding } => self.on_found(epoch, task, finding),
            Event::Vouched(commitment) => self.on_vouched(&commitment, now, &mut out),
            Event::Heard { from, message } => self.on_heard(from, *message, now, &mut out),
            Event::Reexecuted { epoch, doubt, result } => self.on_reexecuted(epoch, doubt, result),
            Event::Facts { epoch, facts } => {
                if let Some(open) = self.open.get_mut(&epoch) {
                    open.held.facts = Some(*facts);
                }
            }
            Event::Signed(signed) => self.on_signed(*signed, now, &mut out),
            Event::Chain(seen) => self.on_chain(*seen, now, &mut out),
            Event::Published(bytes) => self.on_published(&bytes, &mut out),
            Event::Disputed(disputed) => self.on_disputed(disputed.map(|d| *d), now),
            Event::Reexamined { posted, right, published } => {
                self.on_reexamined(&posted, *right, published, &mut out);
            }
            Event::SlashExecuted { epoch, node } => {
                self.slashes.remove(&(epoch, node));
            }
            Event::Tick => {}
        }
        self.tick(now, &mut out);
        out
    }

    fn tick(&mut self, now: TimeMs, out: &mut Vec<Effect>) {
        let epochs: Vec<EpochNo> = self.open.keys().copied().collect();
        for epoch in epochs {
            self.tick_mine(epoch, now, out);
        }
        self.tick_settling(now, out);
        self.tick_resolving(now, out);
        self.tick_chain(now, out);
    }

    const fn epochs(&self) -> &EpochParams {
        &self.config.params.epoch
    }

    /// The epoch that is settled next, where any epoch is known.
    fn next(&self) -> Option<EpochNo> {
        let genesis = || self.open.values().next().map(|open| open.draw.view().genesis());
        self.state.settled.map(EpochNo::next).or_else(genesis)
    }

    fn is_member(&self, epoch: EpochNo) -> bool {
        self.committee(epoch).iter().any(|member| member.node == self.config.id)
    }

    fn others(&self, epoch: EpochNo) -> Vec<NodeId> {
        self.committee(epoch).iter().map(|member| member.node).filter(|node| *node != self.config.id).collect()
    }

    /// Receipts that show that a commitment was in time: more than a third of the committee.
    fn receipts_needed(&self, epoch: EpochNo) -> usize {
        (self.committee(epoch).len() / 3).saturating_add(1)
    }

    /// Signatures that an outcome needs: two thirds of the committee, rounded up.
    fn signatures_needed(&self, epoch: EpochNo) -> usize {
        self.committee(epoch).len().saturating_mul(2).div_ceil(3)
    }

    /// The span and the outcome that this Checker computed, by outcome.
    fn candidate(&self, outcome: &Outcome) -> Option<&Settled> {
        self.settling.as_ref()?.candidates.iter().find(|settled| settled.outcome == *outcome)
    }
}
