//! From reports to an outcome.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::SettleError;
use super::bytes::{Reader, Writer};
use super::gather::{Gathered, Ignored};
use super::outcome::{Outcome, SlashLeaf, committee_hash, reward_root, signers, slash_root};
use super::params::RewardParams;
use super::pay::{self, Growth};
use super::report::Bundle;
use super::state::State;
use super::tally::{Tally, tally};
use super::{ContainerRecord, Verdict};
use crate::epoch::{Draw, EpochNo};
use crate::ids::{Address, ContentHash, LeaseId, NodeId};
use crate::units::TokenAmount;

/// Network fees that a Container's leases paid in an epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct FeesPaid {
    /// Whose leases.
    pub container: NodeId,
    /// What the escrow kept for the network.
    pub fee: TokenAmount,
}

/// A lease that ran to its end and was paid, in the epoch in which the chain closed it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct MatchedLease {
    /// Which; counted once.
    pub lease: LeaseId,
    /// Who matched it.
    pub indexer: NodeId,
    /// The network fee that it paid.
    pub fee: TokenAmount,
}

/// What the chain says of an epoch; in any order.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChainFacts {
    /// Fees, by Container; several entries of one add up.
    pub fees: Vec<FeesPaid>,
    /// Leases that were matched, ran to their end and were paid.
    pub matched: Vec<MatchedLease>,
}

/// What an epoch came to for one Container, in the order of the view.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerSummary {
    /// What its full test came to, where it had one.
    pub test: Option<Verdict>,
    /// How often it answered, where that is known.
    pub presence_bps: Option<u16>,
    /// Its quality now.
    pub quality_bps: u16,
    /// Paid for capacity.
    pub capacity: TokenAmount,
    /// Paid for delivery.
    pub delivery: TokenAmount,
}

/// What an epoch came to for one Checker, in the order of the view.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckerSummary {
    /// Tasks that it was drawn for.
    pub due: u32,
    /// Those of them that it did, and that were not outvoted.
    pub done: u32,
    /// Results that running again showed to be wrong.
    pub wrong: u32,
    /// Earned for the owners of its licences.
    pub earned: TokenAmount,
}

/// What an epoch came to for one licence, in the order of the view.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LicenceSummary {
    /// For tasks that were done.
    pub base: TokenAmount,
    /// For having been there nearly always.
    pub bonus: TokenAmount,
    /// Of what was taken from others.
    pub penalties: TokenAmount,
}

/// Everything that an outcome is, does and leaves behind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settled {
    /// What the committee signs.
    pub outcome: Outcome,
    /// What it leaves for the next one; holds all reward leaves.
    pub state: State,
    /// [`Bundle::hash`] of the reports that it is of.
    pub reports: ContentHash,
    /// What is taken, by node.
    pub slashes: Vec<SlashLeaf>,
    /// Nodes whose stake is less than it has to be after that.
    pub jailed: Vec<NodeId>,
    /// The accounts behind [`Outcome::next_committee`], in draw order.
    pub next_committee: Vec<Address>,
    /// The accounts behind [`Outcome::next_dispute_committee`], in draw order.
    pub next_dispute_committee: Vec<Address>,
    /// By place in the view; empty for epochs without reports.
    pub containers: Vec<ContainerSummary>,
    /// By place in the view; empty for epochs without reports.
    pub checkers: Vec<CheckerSummary>,
    /// By place in the view; empty for epochs without reports.
    pub licences: Vec<LicenceSummary>,
    /// What did not count.
    pub ignored: Vec<Ignored>,
    /// Issued by this outcome.
    pub growth: TokenAmount,
    /// The bytes behind [`Outcome::data_hash`]; [`Published::decode`] reads them.
    pub published: Vec<u8>,
}

/// Settles one epoch in which Checkers reported.
///
/// Entries of a bundle that are wrong are left out, each with its reason; they change nothing else. Signatures are not
/// looked at: whoever hands a bundle over has checked them.
///
/// # Errors
/// An epoch that is not the next one, a bundle beyond its bounds, or amounts beyond all proportion.
pub fn settle(
    previous: &State,
    draw: &Draw,
    bundle: &Bundle,
    chain: &ChainFacts,
    params: &RewardParams,
) -> Result<Settled, SettleError> {
    let epoch = draw.epoch();
    next_is(previous, draw, epoch)?;
    let mut gathered = Gathered::new(draw, bundle)?;
    let tally = tally(draw, &mut gathered);
    let mut state = previous.clone();
    state.settled = Some(epoch);
    let records = merged(&state.containers, draw);
    let (records, slashes, jailed) = super::follow::containers(draw, params, &tally, records);
    let checkers = super::follow::checkers(draw, params, &tally, &state.checkers);
    let mut paid = pay::Paid::new(draw);
    let mut growth = Growth::default();
    {
        let epoch = pay::Epoch { draw, params, tally: &tally, records: &records, slashes: &slashes };
        epoch.containers(chain, &mut paid, &mut growth)?;
        epoch.indexers(chain, &mut growth)?;
        epoch.checkers(&checkers, &mut paid, &mut growth)?;
    }
    let containers = summaries(&tally, &records, &paid);
    keep(&mut state, draw, records, checkers);
    let grown = growth.into_leaves(&mut state.leaves)?;
    let mut settled = finish(state, draw, (epoch, epoch), slashes, bundle.hash())?;
    settled.jailed = jailed;
    settled.containers = containers;
    settled.checkers = paid.checkers(&tally);
    settled.licences = paid.licences;
    settled.ignored = gathered.ignored();
    settled.growth = TokenAmount(grown);
    Ok(settled)
}

/// Settles epochs of which nobody's report ever came: up to the draw's epoch, as one range. Nothing is paid or taken;
/// what was known stays known.
///
/// # Errors
/// The draw's epoch is settled already.
pub fn settle_silence(previous: &State, draw: &Draw) -> Result<Settled, SettleError> {
    let first = next_of(previous, draw);
    let last = draw.epoch();
    if last < first {
        return Err(SettleError::OutOfOrder { next: first, got: last });
    }
    let state = State { settled: Some(last), ..previous.clone() };
    finish(state, draw, (first, last), Vec::new(), Bundle::default().hash())
}

fn next_of(previous: &State, draw: &Draw) -> EpochNo {
    previous.settled.map_or(draw.view().genesis(), EpochNo::next)
}

fn next_is(previous: &State, draw: &Draw, got: EpochNo) -> Result<(), SettleError> {
    let next = next_of(previous, draw);
    if next == got { Ok(()) } else { Err(SettleError::OutOfOrder { next, got }) }
}

/// A record for each Container of the view, in its order.
fn merged(known: &[ContainerRecord], draw: &Draw) -> Vec<ContainerRecord> {
    let mut known = known.iter().peekable();
    let mut records = Vec::with_capacity(draw.view().containers().len());
    for entry in draw.view().containers() {
        while known.next_if(|record| record.node < entry.node).is_some() {}
        let record = known.next_if(|record| record.node == entry.node);
        records.push(record.cloned().unwrap_or_else(|| ContainerRecord::new(entry.node)));
    }
    records
}

/// Puts the records of a view's nodes in place of the old ones. Nodes that are no longer in the registry stay known:
/// a name that comes back brings its past along.
fn keep(state: &mut State, draw: &Draw, records: Vec<ContainerRecord>, checkers: Vec<super::CheckerRecord>) {
    let gone = |node: &NodeId| draw.view().container(node).is_none();
    let old = core::mem::take(&mut state.containers);
    state.containers = records;
    let before = state.containers.len();
    state.containers.extend(old.into_iter().filter(|record| gone(&record.node)));
    if state.containers.len() > before {
        state.containers.sort_unstable_by_key(|record| record.node);
    }
    let gone = |node: &NodeId| draw.view().checker(node).is_none();
    let old = core::mem::take(&mut state.checkers);
    state.checkers = checkers;
    state.checkers.extend(old.into_iter().filter(|record| gone(&record.node)));
    state.checkers.sort_unstable_by_key(|record| record.node);
}

fn summaries(tally: &Tally, records: &[ContainerRecord], paid: &pay::Paid) -> Vec<ContainerSummary> {
    let found = tally.containers.iter().zip(records);
    let amounts = paid.capacity.iter().zip(&paid.delivery);
    let summary = |((found, record), (capacity, delivery)): ((&super::tally::Found, &ContainerRecord), (_, _))| {
        let (capacity, delivery): (&u128, &u128) = (capacity, delivery);
        ContainerSummary {
            test: found.test,
            presence_bps: found.presence_bps,
            quality_bps: record.quality_bps,
            capacity: TokenAmount(*capacity),
            delivery: TokenAmount(*delivery),
        }
    };
    found.zip(amounts).map(summary).collect()
}

/// Roots, committees and the published bytes.
fn finish(
    state: State,
    draw: &Draw,
    (first, last): (EpochNo, EpochNo),
    slashes: Vec<SlashLeaf>,
    reports: ContentHash,
) -> Result<Settled, SettleError> {
    let next_committee = signers(draw, &draw.next_committee());
    let next_dispute_committee = signers(draw, &draw.next_dispute_committee());
    let mut total = 0u128;
    for leaf in &state.leaves {
        total = total.checked_add(leaf.cumulative).ok_or(SettleError::Overflow("the sum of all rewards"))?;
    }
    let published = Published { first, last, reports, slashes, next_committee, next_dispute_committee, state };
    let bytes = published.encode();
    let outcome = published.outcome_of(total, &bytes);
    let Published { reports, slashes, next_committee, next_dispute_committee, state, .. } = published;
    Ok(Settled {
        outcome,
        state,
        reports,
        slashes,
        jailed: Vec::new(),
        next_committee,
        next_dispute_committee,
        containers: Vec::new(),
        checkers: Vec::new(),
        licences: Vec::new(),
        ignored: Vec::new(),
        growth: TokenAmount::ZERO,
        published: bytes,
    })
}

/// What is published beside an outcome, so that claims and the next epochs depend on nobody's servers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Published {
    /// The first epoch.
    pub first: EpochNo,
    /// The last one.
    pub last: EpochNo,
    /// [`Bundle::hash`] of the reports that the outcome is of.
    pub reports: ContentHash,
    /// What is taken.
    pub slashes: Vec<SlashLeaf>,
    /// Who signs the next outcome.
    pub next_committee: Vec<Address>,
    /// Who decides when it is disputed.
    pub next_dispute_committee: Vec<Address>,
    /// All that is known now, all reward leaves among it.
    pub state: State,
}

const MAGIC: [u8; 8] = *b"MUSTERO1";

impl Published {
    fn encode(&self) -> Vec<u8> {
        let records = self.state.containers.len().saturating_add(self.state.leaves.len());
        let mut out = Writer::with_capacity(records.saturating_mul(96).saturating_add(4_096));
        out.bytes(&MAGIC);
        out.u64(self.first.0);
        out.u64(self.last.0);
        out.bytes(&self.reports.0);
        out.length(self.slashes.len());
        for slash in &self.slashes {
            out.bytes(&slash.node.0);
            out.u128(slash.amount.0);
            out.bytes(&slash.evidence.0);
        }
        for members in [&self.next_committee, &self.next_dispute_committee] {
            out.length(members.len());
            members.iter().for_each(|member| out.bytes(&member.0));
        }
        self.state.write(&mut out);
        out.done()
    }

    /// Reads published bytes. Whether they are the right ones, their hash says.
    ///
    /// # Errors
    /// Bytes that nobody published.
    pub fn decode(bytes: &[u8]) -> Result<Self, SettleError> {
        let mut from = Reader::new(bytes);
        if from.array::<8>()? != MAGIC {
            return Err(SettleError::Malformed("its first bytes"));
        }
        let (first, last) = (EpochNo(from.u64()?), EpochNo(from.u64()?));
        let reports = ContentHash(from.array()?);
        let count = from.length(80)?;
        let slash = |from: &mut Reader<'_>| {
            let (node, amount) = (NodeId(from.array()?), TokenAmount(from.u128()?));
            Ok(SlashLeaf { last_epoch: last, node, amount, evidence: ContentHash(from.array()?) })
        };
        let slashes = (0..count).map(|_| slash(&mut from)).collect::<Result<Vec<_>, _>>()?;
        let mut members = || {
            let count = from.length(20)?;
            (0..count).map(|_| from.array().map(Address)).collect::<Result<Vec<_>, SettleError>>()
        };
        let (next_committee, next_dispute_committee) = (members()?, members()?);
        let state = State::read(&mut from)?;
        from.end()?;
        Ok(Self { first, last, reports, slashes, next_committee, next_dispute_committee, state })
    }

    /// The outcome that these bytes belong to.
    ///
    /// # Errors
    /// Rewards whose sum is beyond all proportion.
    pub fn outcome(&self, bytes: &[u8]) -> Result<Outcome, SettleError> {
        let mut total = 0u128;
        for leaf in &self.state.leaves {
            total = total.checked_add(leaf.cumulative).ok_or(SettleError::Overflow("the sum of all rewards"))?;
        }
        Ok(self.outcome_of(total, bytes))
    }

    fn outcome_of(&self, total: u128, bytes: &[u8]) -> Outcome {
        Outcome {
            first_epoch: self.first,
            last_epoch: self.last,
            reward_root: reward_root(&self.state.leaves),
            cumulative_total: TokenAmount(total),
            slash_root: slash_root(&self.slashes),
            data_hash: ContentHash(*blake3::hash(bytes).as_bytes()),
            next_committee: committee_hash(&self.next_committee),
            next_dispute_committee: committee_hash(&self.next_dispute_committee),
        }
    }
}

/// Amounts by place of a node in the view.
pub(super) type ByPlace<T> = BTreeMap<u32, T>;
