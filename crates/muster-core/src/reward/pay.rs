//! Who is paid what. Every share is rounded down.

use std::collections::{BTreeMap, BTreeSet};

use super::SettleError;
use super::emission::{Pools, mul_div, pools};
use super::gather::at;
use super::outcome::{LeafKind, RewardLeaf, SlashLeaf, owner_key};
use super::params::RewardParams;
use super::settle::{ChainFacts, CheckerSummary, LicenceSummary};
use super::state::{CheckerRecord, ContainerRecord};
use super::tally::Tally;
use crate::epoch::{Draw, RegistryStatus};
use crate::ids::{Address, LeaseId};
use crate::units::TokenAmount;

/// What an epoch adds to leaves.
#[derive(Debug, Default)]
pub(super) struct Growth(Vec<RewardLeaf>);

impl Growth {
    fn add(&mut self, kind: LeafKind, key: [u8; 32], account: Address, amount: u128) {
        if amount > 0 {
            self.0.push(RewardLeaf { kind, key, account, cumulative: amount });
        }
    }

    /// Adds it to leaves that are in order, and keeps them so; a node's new owner takes the leaf over. Gives the sum.
    pub(super) fn into_leaves(mut self, leaves: &mut Vec<RewardLeaf>) -> Result<u128, SettleError> {
        const OVERFLOW: SettleError = SettleError::Overflow("the rewards of one account");
        self.0.sort_unstable_by_key(|leaf| (leaf.kind, leaf.key));
        let old = core::mem::take(leaves);
        leaves.reserve(old.len().saturating_add(self.0.len()));
        let mut sum = 0u128;
        let mut old = old.into_iter().peekable();
        for same in self.0.chunk_by(|a, b| (a.kind, a.key) == (b.kind, b.key)) {
            let Some(first) = same.first() else { continue };
            let name = (first.kind, first.key);
            while let Some(leaf) = old.next_if(|leaf| (leaf.kind, leaf.key) < name) {
                leaves.push(leaf);
            }
            let before = old.next_if(|leaf| (leaf.kind, leaf.key) == name).map_or(0, |leaf| leaf.cumulative);
            let mut cumulative = before;
            for leaf in same {
                cumulative = cumulative.checked_add(leaf.cumulative).ok_or(OVERFLOW)?;
                sum = sum.checked_add(leaf.cumulative).ok_or(OVERFLOW)?;
            }
            leaves.push(RewardLeaf { cumulative, ..*first });
        }
        leaves.extend(old);
        Ok(sum)
    }
}

/// What each was paid, by place in the view.
#[derive(Debug)]
pub(super) struct Paid {
    pub(super) capacity: Vec<u128>,
    pub(super) delivery: Vec<u128>,
    pub(super) licences: Vec<LicenceSummary>,
    checkers: Vec<u128>,
}

impl Paid {
    pub(super) fn new(draw: &Draw) -> Self {
        let view = draw.view();
        Self {
            capacity: vec![0; view.containers().len()],
            delivery: vec![0; view.containers().len()],
            licences: vec![LicenceSummary::default(); view.licences().len()],
            checkers: vec![0; view.checkers().len()],
        }
    }

    pub(super) fn checkers(&self, tally: &Tally) -> Vec<CheckerSummary> {
        let of = tally.duties.iter().zip(&tally.wrong).zip(&self.checkers);
        of.map(|((duty, wrong), earned)| CheckerSummary {
            due: duty.due,
            done: duty.done,
            wrong: *wrong,
            earned: TokenAmount(*earned),
        })
        .collect()
    }
}

/// All that payment depends on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Epoch<'a> {
    pub(super) draw: &'a Draw,
    pub(super) params: &'a RewardParams,
    pub(super) tally: &'a Tally,
    /// By place in the view.
    pub(super) records: &'a [ContainerRecord],
    pub(super) slashes: &'a [SlashLeaf],
}

impl Epoch<'_> {
    fn pools(&self) -> Result<Pools, SettleError> {
        let genesis = self.draw.view().genesis();
        pools(self.params, self.draw.params().epoch_ms, genesis, self.draw.epoch())
    }

    fn slashed(&self, node: &crate::ids::NodeId) -> bool {
        self.slashes.binary_search_by_key(node, |slash| slash.node).is_ok()
    }

    /// Capacity by OB, presence and quality; delivery by fees and quality.
    pub(super) fn containers(
        &self,
        chain: &ChainFacts,
        paid: &mut Paid,
        growth: &mut Growth,
    ) -> Result<(), SettleError> {
        let pools = self.pools()?;
        let day = self.draw.params().day(self.draw.epoch());
        let entries = self.draw.view().containers();
        let weight = |(entry, record): (&crate::epoch::ContainerEntry, &ContainerRecord)| {
            let earns = entry.status == RegistryStatus::Active && record.proved && !self.slashed(&entry.node);
            if !earns {
                return 0;
            }
            let ob = record.ob_median(day).min(entry.ob_cap);
            u128::from(ob.0)
                .saturating_mul(u128::from(record.presence_bps))
                .saturating_mul(u128::from(record.quality_bps))
        };
        let weights: Vec<u128> = entries.iter().zip(self.records).map(weight).collect();
        paid.capacity = shares(pools.capacity, &weights)?;
        paid.delivery = self.delivery(chain, pools.delivery)?;
        for (entry, amounts) in entries.iter().zip(paid.capacity.iter().zip(&paid.delivery)) {
            let sum = amounts.0.checked_add(*amounts.1).ok_or(SettleError::Overflow("a Container's reward"))?;
            growth.add(LeafKind::Container, entry.node.0, entry.owner, sum);
        }
        Ok(())
    }

    fn delivery(&self, chain: &ChainFacts, pool: u128) -> Result<Vec<u128>, SettleError> {
        let mut earned = vec![0u128; self.draw.view().containers().len()];
        let mut fees: BTreeMap<u32, u128> = BTreeMap::new();
        for paid in &chain.fees {
            let Some(place) = self.draw.view().container(&paid.container) else { continue };
            let sum = fees.entry(place).or_insert(0);
            *sum = sum.checked_add(paid.fee.0).ok_or(SettleError::Overflow("the fees of a Container"))?;
        }
        for (place, fee) in fees {
            let (Some(entry), Some(record)) =
                (self.draw.view().containers().get(at(place)), self.records.get(at(place)))
            else {
                continue;
            };
            if entry.status != RegistryStatus::Active || self.slashed(&entry.node) {
                continue;
            }
            let most = part(fee, self.params.delivery_of_fees_bps)?;
            if let Some(slot) = earned.get_mut(at(place)) {
                *slot = part(most, record.quality_bps)?;
            }
        }
        capped(pool, earned)
    }

    /// Indexers by the fees of the leases that they matched.
    pub(super) fn indexers(&self, chain: &ChainFacts, growth: &mut Growth) -> Result<(), SettleError> {
        let view = self.draw.view();
        let mut leases: Vec<_> = chain.matched.clone();
        // Whatever is told twice counts once, and the least of what is told.
        leases.sort_unstable_by_key(|lease| (lease.lease, lease.fee, lease.indexer));
        let mut seen: BTreeSet<LeaseId> = BTreeSet::new();
        let mut earned = vec![0u128; view.indexers().len()];
        for lease in leases {
            let Some(place) = view.indexer(&lease.indexer) else { continue };
            if !seen.insert(lease.lease) {
                continue;
            }
            let active = view.indexers().get(at(place)).is_some_and(|i| i.status == RegistryStatus::Active);
            if let Some(sum) = earned.get_mut(at(place)).filter(|_| active) {
                let part = part(lease.fee.0, self.params.indexer_of_fees_bps)?;
                *sum = sum.checked_add(part).ok_or(SettleError::Overflow("an Indexer's reward"))?;
            }
        }
        let earned = capped(self.pools()?.indexers, earned)?;
        for (entry, amount) in view.indexers().iter().zip(earned) {
            growth.add(LeafKind::Indexer, entry.node.0, entry.owner, amount);
        }
        Ok(())
    }

    /// Licences by what their Checkers did; `checkers` are the new records, by place.
    pub(super) fn checkers(
        &self,
        checkers: &[CheckerRecord],
        paid: &mut Paid,
        growth: &mut Growth,
    ) -> Result<(), SettleError> {
        let view = self.draw.view();
        let serving = view.serving_checkers();
        let pools = self.pools()?;
        let day = self.draw.params().day(self.draw.epoch());
        let base: Vec<u128> =
            view.checkers().iter().zip(0u32..).map(|(_, place)| self.base_weight(place, checkers, day)).collect();
        let bonus: Vec<u128> =
            (0u32..).take(view.checkers().len()).map(|place| self.bonus_weight(place, checkers, day)).collect();
        let by_licence = |weights: &[u128]| -> Vec<u128> {
            serving.iter().map(|c| c.and_then(|c| weights.get(at(c)).copied()).unwrap_or(0)).collect()
        };
        let base = shares(pools.checker_base, &by_licence(&base))?;
        let bonus = shares(pools.checker_bonus, &by_licence(&bonus))?;
        let penalties = self.penalties(&serving)?;
        for ((summary, base), (bonus, penalty)) in
            paid.licences.iter_mut().zip(base).zip(bonus.into_iter().zip(penalties))
        {
            summary.base = TokenAmount(base);
            summary.bonus = TokenAmount(bonus);
            summary.penalties = TokenAmount(penalty);
        }
        for ((licence, summary), checker) in view.licences().iter().zip(&paid.licences).zip(&serving) {
            let sum = summary.base.saturating_add(summary.bonus).saturating_add(summary.penalties).0;
            growth.add(LeafKind::LicenceOwner, owner_key(&licence.owner), licence.owner, sum);
            if let Some(slot) = checker.and_then(|c| paid.checkers.get_mut(at(c))) {
                *slot = slot.saturating_add(sum);
            }
        }
        Ok(())
    }

    /// The share of its tasks that a Checker did in this epoch, or in the last seven days where it had none. Nothing
    /// for one that was wrong or cannot be drawn.
    fn base_weight(&self, place: u32, checkers: &[CheckerRecord], day: u64) -> u128 {
        let (Some(duty), Some(record)) = (self.tally.duties.get(at(place)), checkers.get(at(place))) else { return 0 };
        if !self.draw.can_be_drawn(place) || self.tally.wrong.get(at(place)).is_some_and(|wrong| *wrong > 0) {
            return 0;
        }
        let share = if duty.due > 0 { duty.share_bps() } else { record.week(day).share_bps() };
        u128::from(share)
    }

    fn bonus_weight(&self, place: u32, checkers: &[CheckerRecord], day: u64) -> u128 {
        let week = checkers.get(at(place)).map(|record| record.week(day)).unwrap_or_default();
        let up = u64::from(week.done).saturating_mul(10_000);
        let enough = up > u64::from(week.due).saturating_mul(u64::from(self.params.bonus_uptime_bps));
        u128::from(enough && self.base_weight(place, checkers, day) > 0)
    }

    /// The Checkers' share of what is taken, by licence: of each slash equal parts to the Checkers that found it, and
    /// of each part equal parts to the licences that the Checker works for. What was at stake in the view is the most
    /// that is counted as taken.
    fn penalties(&self, serving: &[Option<u32>]) -> Result<Vec<u128>, SettleError> {
        let mut earned = vec![0u128; serving.len()];
        if self.slashes.is_empty() {
            return Ok(earned);
        }
        let mut licences: BTreeMap<u32, Vec<usize>> = BTreeMap::new();
        for (licence, checker) in serving.iter().enumerate() {
            if let Some(checker) = checker {
                licences.entry(*checker).or_default().push(licence);
            }
        }
        for slash in self.slashes {
            let Some(place) = self.draw.view().container(&slash.node) else { continue };
            let stake = self.draw.view().containers().get(at(place)).map_or(0, |c| c.stake.0);
            let share = part(slash.amount.0.min(stake), self.params.penalty_share_bps)?;
            let mut finders = self.tally.finders.get(&place).cloned().unwrap_or_default();
            finders.sort_unstable();
            finders.dedup();
            let Some(each) = share.checked_div(u128::try_from(finders.len()).unwrap_or(0)) else { continue };
            for held in finders.iter().filter_map(|checker| licences.get(checker)) {
                let amount = each.checked_div(u128::try_from(held.len()).unwrap_or(0)).unwrap_or(0);
                for licence in held {
                    if let Some(slot) = earned.get_mut(*licence) {
                        *slot = slot.saturating_add(amount);
                    }
                }
            }
        }
        Ok(earned)
    }
}

/// So many ten-thousandths of an amount, rounded down.
fn part(amount: u128, bps: u16) -> Result<u128, SettleError> {
    mul_div(amount, u128::from(bps), 10_000).ok_or(SettleError::Overflow("a share"))
}

/// Splits a pool by weights, each share rounded down; nothing where nobody has weight.
fn shares(pool: u128, weights: &[u128]) -> Result<Vec<u128>, SettleError> {
    let mut sum = 0u128;
    for weight in weights {
        sum = sum.checked_add(*weight).ok_or(SettleError::Overflow("the weights of a pool"))?;
    }
    if sum == 0 {
        return Ok(vec![0; weights.len()]);
    }
    let share = |weight: &u128| mul_div(pool, *weight, sum).ok_or(SettleError::Overflow("a share of a pool"));
    weights.iter().map(share).collect()
}

/// What was earned; where that is more than there is in the pool, in proportion less.
fn capped(pool: u128, earned: Vec<u128>) -> Result<Vec<u128>, SettleError> {
    let sum = earned.iter().try_fold(0u128, |sum, amount| sum.checked_add(*amount));
    if sum.is_some_and(|sum| sum <= pool) {
        return Ok(earned);
    }
    shares(pool, &earned)
}
