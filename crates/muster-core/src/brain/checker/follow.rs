//! What the chain says of outcomes, and what follows.

use std::sync::Arc;

use super::{CHAIN_RETRY_MS, ChainSeen, Checker, EPOCHS_MAX, Effect, Posted, SLASHES_MAX, Saved};
use crate::epoch::EpochNo;
use crate::ids::ContentHash;
use crate::reward::merkle::{self, Hash};
use crate::reward::{Outcome, Published, SlashLeaf, State};
use crate::units::TimeMs;

/// An outcome whose data nobody gave after more tries than this is named wrong.
const FETCHES_MAX: u32 = 1;

/// A slash of a final outcome that is not executed yet.
#[derive(Clone, Debug)]
pub(super) struct DueSlash {
    leaf: SlashLeaf,
    proof: Vec<Hash>,
    asked_at: Option<TimeMs>,
}

impl Checker {
    pub(super) fn on_chain(&mut self, seen: ChainSeen, now: TimeMs, out: &mut Vec<Effect>) {
        let mut posted = seen.posted;
        posted.truncate(EPOCHS_MAX);
        posted.sort_unstable_by_key(|one| one.outcome.last_epoch);
        for one in &posted {
            let ours = self.candidate(&one.outcome).cloned();
            if let Some(ours) = ours
                && self.next() == Some(one.outcome.first_epoch)
            {
                out.push(Effect::Publish(Arc::new(ours.published)));
                self.adopt(ours.state, one.outcome.last_epoch, ours.slashes, out);
            }
        }
        // Whatever is not ours is fetched: the last one holds all that those before left. One that took another's place
        // after a dispute counts as not ours.
        if let Some(last) = posted.last() {
            let settled = self.state.settled.is_some_and(|mine| mine >= last.outcome.last_epoch);
            let replaced = self
                .posted
                .get(&last.outcome.last_epoch)
                .is_some_and(|have| have.outcome.data_hash != last.outcome.data_hash);
            let due = self.fetch_asked_at.is_none_or(|at| now.since(at) >= CHAIN_RETRY_MS);
            if (!settled || replaced) && due {
                self.fetch_asked_at = Some(now);
                let same = self.fetching.is_some_and(|wanted| wanted.outcome == last.outcome);
                self.fetches = if same { self.fetches.saturating_add(1) } else { 1 };
                out.push(Effect::Fetch(last.outcome.data_hash));
                // Data that nobody gives hides what is wrong. Half of the window is left to give it.
                let half = TimeMs(last.final_at.0.saturating_sub(self.epochs().dispute_window_ms / 2));
                if self.fetches > FETCHES_MAX && now >= half && !last.finalized {
                    self.dispute(&last.outcome, out);
                }
            }
            // Until it was fetched, the one that was replaced stays on record as ours.
            if replaced {
                self.fetching = Some(*last);
                posted.pop();
            } else {
                self.fetching = (!settled).then_some(*last);
            }
        }
        for one in posted {
            if one.finalized {
                self.due_slashes(one.outcome.last_epoch);
            }
            self.posted.insert(one.outcome.last_epoch, one);
        }
        self.posted.retain(|_, one| !one.finalized || Some(one.outcome.last_epoch) == self.state.settled);
        while self.posted.len() > EPOCHS_MAX {
            self.posted.pop_first();
        }
    }

    pub(super) fn on_published(&mut self, bytes: &Arc<Vec<u8>>, out: &mut Vec<Effect>) {
        let Some(wanted) = self.fetching else { return };
        if ContentHash(*blake3::hash(bytes).as_bytes()) != wanted.outcome.data_hash {
            return;
        }
        let Ok(published) = Published::decode(bytes) else { return };
        let span = (published.first, published.last);
        let said = (wanted.outcome.first_epoch, wanted.outcome.last_epoch);
        if span != said || published.outcome(bytes) != Ok(wanted.outcome) {
            // What was published says something else than what was signed: everybody sees that it is wrong.
            if !wanted.finalized {
                self.dispute(&wanted.outcome, out);
            }
            return;
        }
        // Of the very same reports this Checker computed something else: two thirds signed what is wrong.
        let ours = self.settling.as_ref().and_then(|settling| {
            let same = |s: &&crate::reward::Settled| s.reports == published.reports && s.outcome.first_epoch == span.0;
            settling.candidates.iter().find(same).map(|settled| settled.outcome)
        });
        if ours.is_some_and(|ours: Outcome| ours != wanted.outcome && ours.last_epoch == span.1) {
            self.dispute(&wanted.outcome, out);
        }
        self.fetching = None;
        out.push(Effect::Publish(Arc::clone(bytes)));
        self.posted.insert(span.1, wanted);
        self.adopt(published.state, span.1, published.slashes, out);
    }

    /// Names an outcome wrong; once is enough, and nobody pays a second bond.
    fn dispute(&mut self, wrong: &Outcome, out: &mut Vec<Effect>) {
        if !self.is_disputed() {
            out.push(Effect::Dispute { posted: Box::new(*wrong) });
        }
    }

    /// Goes on from what an outcome on the chain left.
    fn adopt(&mut self, state: State, last: EpochNo, slashes: Vec<SlashLeaf>, out: &mut Vec<Effect>) {
        self.state = state;
        self.settling = None;
        self.fetching = None;
        self.leaves.insert(last, slashes);
        while self.leaves.len() > EPOCHS_MAX {
            self.leaves.pop_first();
        }
        out.push(Effect::Save(Box::new(Saved::Settled(Box::new(self.state.clone())))));
        let still_open = self.open.split_off(&last.next());
        out.extend(core::mem::replace(&mut self.open, still_open).into_keys().map(Effect::Forget));
        self.restored.retain(|epoch, _| *epoch > last);
    }

    /// Slashes of an outcome that is final now.
    fn due_slashes(&mut self, last: EpochNo) {
        let Some(leaves) = self.leaves.remove(&last) else { return };
        let hashes: Vec<Hash> = leaves.iter().map(SlashLeaf::hash).collect();
        for (index, leaf) in leaves.into_iter().enumerate() {
            if self.slashes.len() >= SLASHES_MAX {
                return;
            }
            if let Some(proof) = merkle::proof(&hashes, index) {
                self.slashes.insert((last, leaf.node), DueSlash { leaf, proof, asked_at: None });
            }
        }
    }

    /// Makes outcomes final and executes what they take: the members of the next committee one after the other, each
    /// a turn later than the one before, so that usually one of them pays for the transaction.
    pub(super) fn tick_chain(&mut self, now: TimeMs, out: &mut Vec<Effect>) {
        let turn_ms = self.epochs().proposer_timeout_ms;
        let rank_in = |checker: &Self, last: EpochNo| {
            let of = checker.committee(last.next());
            let rank = of.iter().position(|member| member.node == checker.config.id)?;
            u64::try_from(rank).ok()
        };
        let due: Vec<Posted> = self
            .posted
            .values()
            .filter(|one| !one.finalized && !self.is_disputed())
            .filter(|one| {
                let rank = rank_in(self, one.outcome.last_epoch);
                rank.is_some_and(|rank| now >= one.final_at.plus(rank.saturating_mul(turn_ms)))
            })
            .take(1)
            .copied()
            .collect();
        if self.finalize_asked_at.is_none_or(|at| now.since(at) >= CHAIN_RETRY_MS) && !due.is_empty() {
            self.finalize_asked_at = Some(now);
            out.extend(due.into_iter().map(Effect::Finalize));
        }
        let committees = &self.committees;
        let me = self.config.id;
        for ((last, _), slash) in &mut self.slashes {
            let of = committees.get(&last.next()).map_or(&[][..], Vec::as_slice);
            let Some(rank) = of.iter().position(|member| member.node == me) else { continue };
            // The first asking is only noted, so that whoever comes later waits for those before.
            let since = *slash.asked_at.get_or_insert(now);
            let wait = turn_ms.saturating_mul(u64::try_from(rank).unwrap_or(u64::MAX));
            if now >= since.plus(wait) {
                slash.asked_at = Some(TimeMs(now.0.saturating_add(CHAIN_RETRY_MS).saturating_sub(wait)));
                out.push(Effect::Slash { leaf: slash.leaf, proof: slash.proof.clone() });
            }
        }
    }
}
