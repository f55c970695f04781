//! The brain of a Container: it alone owns its capacity.
//!
//! It takes offers, watches for deposits, starts and stops workloads, meters them, asks for
//! vouchers, and settles. The body performs the [`Effect`]s in order and reports back with
//! [`Event`]s; every event may come twice, late or never.

mod early;
mod messages;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use crate::hardware::{Capacity, Free, HardwareError, Inventory};
use crate::ids::{Address, LeaseId, NodeId};
use crate::inference::{TokenCounts, TokenRates};

use crate::lease::{End, Fact, Lease, LeaseTerms, Phase};
use crate::pricing::Exchange;
use crate::protocol::{EscrowLease, EscrowStatus, LeaseReport, OfferRejected, ToConsumer};
use crate::units::{TimeMs, TokenAmount};
use crate::voucher::SignedVoucher;

use early::Early;
pub use messages::{Config, Effect, Event, Held, StopBy};

/// Leases that a Container keeps in memory at most, finished ones included.
const LEASES_MAX: usize = 100_000;

/// A lease with what need not survive a restart.
#[derive(Clone, Debug)]
struct Slot {
    held: Held,
    /// The consumer's control stream, newest.
    session: Option<u64>,
    /// Last sign of the consumer before the start.
    touched_at: TimeMs,
    /// When it was told to begin.
    began_at: TimeMs,
    /// It was told to begin, and does once the deposit is seen.
    go_waits: bool,
    /// The job is being killed for this reason.
    killing: Option<(End, u64)>,
    /// When usage was last told.
    told_at: TimeMs,
    /// When the chain was last asked.
    asked_chain_at: TimeMs,
    /// Its share of the capacity is set aside.
    reserved: bool,
    /// When its model last had something to do.
    asked_at: TimeMs,
}

/// The brain of a Container.
#[derive(Clone, Debug)]
pub struct Container {
    config: Config,
    inventory: Inventory,
    slots: BTreeMap<LeaseId, Slot>,
    early: Early,
    draining: bool,
    problem: Option<String>,
}

impl Container {
    /// A Container without leases.
    ///
    /// # Errors
    /// The capacity is out of bounds.
    pub fn new(config: Config) -> Result<Self, HardwareError> {
        let inventory = Inventory::new(config.total.clone())?;
        Ok(Self { config, inventory, slots: BTreeMap::new(), early: Early::default(), draining: false, problem: None })
    }

    /// A Container after a restart, with the records it had saved. Workloads did not survive the
    /// restart: what ran is an interruption; what had not begun goes on.
    ///
    /// # Errors
    /// The capacity is out of bounds.
    pub fn restore(config: Config, records: Vec<Held>, now: TimeMs) -> Result<(Self, Vec<Effect>), HardwareError> {
        let mut this = Self::new(config)?;
        let mut effects = Vec::new();
        for held in records {
            let id = held.lease.id();
            let phase = held.lease.phase;
            let reserved = phase.holds_capacity() && this.inventory.take(&held.lease.terms.allocation).is_ok();
            this.slots.insert(id, Slot { reserved, ..Slot::new(held, now) });
            if phase.holds_capacity() && !reserved {
                // The owner offers less than before: the lease cannot go on.
                this.end(id, End::Interrupted("the Container came back with less capacity".into()), now, &mut effects);
                continue;
            }
            match phase {
                Phase::Starting | Phase::Running => {
                    this.end(id, End::Interrupted("the Container restarted".into()), now, &mut effects);
                    this.look_for_early(id, &mut effects);
                }
                Phase::Accepted | Phase::Open => {
                    effects.push(Effect::Prepare(id));
                    effects.push(Effect::AskChain(id));
                }
                Phase::Settling => effects.push(this.settle_effect(id)),
                Phase::Ended => this.look_for_early(id, &mut effects),
                Phase::Closed | Phase::Void => {}
            }
        }
        Ok((this, effects))
    }

    /// What is free now.
    #[must_use]
    pub const fn free(&self) -> Free {
        self.inventory.free()
    }

    /// All that is offered.
    #[must_use]
    pub const fn total(&self) -> &Capacity {
        &self.config.total
    }

    /// Whether nothing new is taken.
    #[must_use]
    pub const fn draining(&self) -> bool {
        self.draining
    }

    /// The record of a lease.
    #[must_use]
    pub fn held(&self, lease: LeaseId) -> Option<&Held> {
        self.slots.get(&lease).map(|s| &s.held)
    }

    /// All records, by name.
    pub fn all(&self) -> impl Iterator<Item = &Held> {
        self.slots.values().map(|s| &s.held)
    }

    /// How many leases hold capacity.
    #[must_use]
    pub fn busy(&self) -> usize {
        self.slots.values().filter(|s| s.held.lease.phase.holds_capacity()).count()
    }

    /// Takes in what happened and says what to do.
    pub fn handle(&mut self, event: Event, now: TimeMs) -> Vec<Effect> {
        let mut out = Vec::new();
        match event {
            Event::Offered { reply, terms } => self.on_offer(reply, *terms, now, &mut out),
            Event::Withdrawn { lease, from } => self.on_withdrawn(lease, from, &mut out, now),
            Event::ChainSeen { lease, view } => self.on_chain(lease, &view, now, &mut out),
            Event::Attached { lease, session } => self.on_attached(lease, session, now, &mut out),
            Event::Detached { lease, session } => {
                if let Some(slot) = self.slots.get_mut(&lease)
                    && slot.session == Some(session)
                {
                    slot.session = None;
                }
            }
            Event::Touched { lease } => {
                if let Some(slot) = self.slots.get_mut(&lease) {
                    slot.touched_at = now;
                }
            }
            Event::Go { lease, early } => self.on_go(lease, early, now, &mut out),
            Event::JobStarted { lease } => self.on_started(lease, now, &mut out),
            Event::Counted { lease, tokens } => {
                if let Some(slot) = self.slots.get_mut(&lease) {
                    // In memory only, as the time that a job ran: what matters after a crash is the voucher.
                    let _known = slot.held.lease.apply(&Fact::Counted { tokens }, now);
                    slot.asked_at = now;
                }
            }
            Event::JobEnded { lease, end } => self.on_job_ended(lease, end, now, &mut out),
            Event::Paid { voucher, signer } => self.on_paid(&voucher, signer, now, &mut out),
            Event::ToppedUp { lease } => {
                if self.slots.contains_key(&lease) {
                    out.push(Effect::AskChain(lease));
                }
            }
            Event::Stop { lease, by } => self.on_stop(lease, by, now, &mut out),
            Event::Taken { lease } => self.on_taken(lease, &mut out),
            Event::Settled { lease, redeemed, refunded, tx } => {
                self.on_settled(lease, redeemed, refunded, tx, now, &mut out);
            }
            Event::Drain => self.draining = true,
            Event::Resume => self.draining = false,
            Event::Standing { problem } => self.problem = problem,
            Event::Tick => self.on_tick(now, &mut out),
        }
        out
    }

    fn on_offer(&mut self, reply: u64, terms: LeaseTerms, now: TimeMs, out: &mut Vec<Effect>) {
        let id = terms.lease;
        if let Some(slot) = self.slots.get(&id) {
            // The same offer again is answered the same: its first answer may have been lost.
            let same = slot.held.lease.terms == terms && slot.held.lease.phase == Phase::Accepted;
            let result = if same { Ok(Box::new(terms)) } else { Err(OfferRejected::KnownLease) };
            out.push(Effect::Answer { reply, result });
            return;
        }
        if let Err(why) = self.check_terms(&terms) {
            out.push(Effect::Answer { reply, result: Err(why) });
            return;
        }
        if let Err(why) = self.inventory.take(&terms.allocation) {
            out.push(Effect::Answer { reply, result: Err(OfferRejected::NoCapacity(why.to_string())) });
            return;
        }
        let held = Held { lease: Lease::accepted(terms.clone(), now), taken: false, settle_tx: None };
        self.slots.insert(id, Slot { reserved: true, ..Slot::new(held, now) });
        out.push(Effect::Save(id));
        out.push(Effect::Answer { reply, result: Ok(Box::new(terms)) });
        out.push(Effect::Beat);
        out.push(Effect::Prepare(id));
    }

    fn check_terms(&self, terms: &LeaseTerms) -> Result<(), OfferRejected> {
        if let Some(problem) = &self.problem {
            return Err(OfferRejected::NotRegistered(problem.clone()));
        }
        if self.draining {
            return Err(OfferRejected::Draining);
        }
        let bad = |why: &str| Err(OfferRejected::BadTerms(why.to_owned()));
        if terms.container != self.config.id {
            return bad("they name another Container");
        }
        if terms.open_within_ms == 0 || terms.open_within_ms > self.config.params.open_timeout_ms {
            return bad("the slot would be held too long, or not at all, before the deposit comes");
        }
        if terms.interval_ms == 0 || terms.interval_ms > self.config.params.voucher_interval_ms {
            return bad("the voucher interval is longer than the network allows");
        }
        if terms.max_seconds == 0 {
            return bad("the longest run is zero");
        }
        if terms.egress && !self.config.egress {
            return Err(OfferRejected::NoEgress);
        }
        if self.slots.len() >= LEASES_MAX {
            return Err(OfferRejected::NoCapacity("it keeps too many finished leases".to_owned()));
        }
        let exchange = Exchange { token_price: self.config.params.token_price };
        let asked = self
            .config
            .ask
            .allocation_hour(&terms.allocation, &self.config.total.gpus)
            .and_then(|hour| exchange.rate_per_second(hour))
            .map_err(|why| OfferRejected::BadTerms(why.to_string()))?;
        match &terms.tokens {
            Some(tokens) => {
                let ask = self.config.models.ok_or(OfferRejected::NoModels)?.for_weights(tokens.weights);
                let asked = TokenRates::freeze(&ask, &exchange).map_err(|e| OfferRejected::BadTerms(e.to_string()))?;
                if !asked.is_within(&tokens.rates) {
                    return Err(OfferRejected::TokensTooCheap);
                }
                if terms.deposit < tokens.credit {
                    return bad("the deposit does not pay for what may be unpaid");
                }
            }
            None if terms.rate_per_second < asked => {
                return Err(OfferRejected::TooCheap { asked, offered: terms.rate_per_second });
            }
            None => {}
        }
        if terms.deposit < terms.rate_per_second.per_second_for_ms(terms.interval_ms) {
            return bad("the deposit does not pay for one interval");
        }
        Ok(())
    }

    fn on_withdrawn(&mut self, lease: LeaseId, from: NodeId, out: &mut Vec<Effect>, now: TimeMs) {
        let ours = self
            .slots
            .get(&lease)
            .is_some_and(|s| s.held.lease.phase == Phase::Accepted && s.held.lease.terms.indexer == from);
        if ours {
            self.void(lease, now, out);
        }
    }

    fn void(&mut self, lease: LeaseId, now: TimeMs, out: &mut Vec<Effect>) {
        let why = "the deposit did not appear on the chain in time; the slot was given to others";
        self.void_because(lease, why.to_owned(), now, out);
    }

    fn void_because(&mut self, lease: LeaseId, why: String, now: TimeMs, out: &mut Vec<Effect>) {
        let Some(slot) = self.slots.get_mut(&lease) else { return };
        let was_early = slot.held.lease.is_early();
        if slot.held.lease.apply(&Fact::Voided, now) == Ok(true) {
            slot.give_back(&mut self.inventory);
            slot.held.taken = true;
            let session = slot.session;
            out.push(Effect::Save(lease));
            out.push(Effect::CleanUp(lease));
            out.push(Effect::Beat);
            out.extend(session.map(|session| Effect::Tell { session, message: ToConsumer::Gone { why } }));
            out.push(self.report(lease));
            if was_early {
                self.rest_from_early(now);
            }
        }
    }

    fn on_chain(&mut self, lease: LeaseId, view: &EscrowLease, now: TimeMs, out: &mut Vec<Effect>) {
        let Some(slot) = self.slots.get_mut(&lease) else { return };
        if view.status != EscrowStatus::None
            && let Err(why) = view.matches(&slot.held.lease.terms)
        {
            // Our answer may have been lost, and the same lease is another Container's now: nothing of it is ours.
            self.stop_early(lease, why.clone(), now, out);
            self.void_because(lease, why, now, out);
            return;
        }
        match view.status {
            EscrowStatus::None => {}
            EscrowStatus::Open => {
                if slot.held.lease.phase == Phase::Void {
                    // Opened after we gave the slot away: give the money back at once.
                    out.push(Effect::Settle { lease, voucher: None });
                    return;
                }
                let seen_before = slot.held.lease.deposit_seen();
                match slot.held.lease.apply(&Fact::Opened { deposit: view.deposit }, now) {
                    Ok(true) if !seen_before => self.on_opened(lease, now, out),
                    Ok(true) => {
                        slot.touched_at = now;
                        out.push(Effect::Save(lease));
                    }
                    Ok(false) => {}
                    Err(why) => {
                        let (session, why) = (slot.session, why.to_string());
                        let message = ToConsumer::Refused { why: why.clone() };
                        out.extend(session.map(|session| Effect::Tell { session, message }));
                        self.stop_early(lease, why, now, out);
                    }
                }
            }
            EscrowStatus::Closing => {
                // The consumer closes: whatever runs has to stop, and our voucher must be in before the window ends.
                let opened = Fact::Opened { deposit: view.deposit };
                if (slot.held.lease.phase == Phase::Accepted || slot.held.lease.is_early())
                    && let Err(why) = slot.held.lease.apply(&opened, now)
                {
                    self.stop_early(lease, why.to_string(), now, out);
                    return;
                }
                self.stop(lease, End::StoppedByConsumer, now, out);
            }
            // What runs without its deposit is stopped before its slot is anybody else's; its end looks here again.
            EscrowStatus::Closed if slot.held.lease.phase == Phase::Starting && slot.held.lease.is_early() => {
                self.stop(lease, End::StoppedByConsumer, now, out);
            }
            EscrowStatus::Closed => {
                let refunded = view.deposit.saturating_sub(view.redeemed);
                self.on_settled(lease, view.redeemed, refunded, None, now, out);
            }
        }
    }

    fn on_attached(&mut self, lease: LeaseId, session: u64, now: TimeMs, out: &mut Vec<Effect>) {
        let Some(slot) = self.slots.get_mut(&lease) else {
            let why = "this Container knows no such lease".to_owned();
            out.push(Effect::Tell { session, message: ToConsumer::Gone { why } });
            return;
        };
        slot.touched_at = now;
        slot.session = Some(session);
        let l = &slot.held.lease;
        if l.phase == Phase::Void {
            let why = "the slot was given to others because the deposit did not appear in time".to_owned();
            out.push(Effect::Tell { session, message: ToConsumer::Gone { why } });
            out.push(Effect::AskChain(lease));
            return;
        }
        // Before the rest, so that it is known when that is answered.
        if l.terms.tokens.is_some() && l.tokens != TokenCounts::ZERO {
            out.push(Effect::Tell { session, message: ToConsumer::Counted { tokens: l.tokens } });
        }
        let message = ToConsumer::Attached { phase: l.phase, ran_ms: l.ran_ms, paid: l.paid() };
        out.push(Effect::Tell { session, message });
        if l.phase == Phase::Accepted || l.is_early() {
            out.push(Effect::AskChain(lease));
        }
        if let Some(end) = &l.end {
            let message = ToConsumer::Ended { end: end.clone(), ran_ms: l.ran_ms };
            out.push(Effect::Tell { session, message });
        }
        if l.phase == Phase::Closed {
            let message = ToConsumer::Settled { redeemed: l.redeemed, refunded: l.refunded, tx: slot.held.settle_tx };
            out.push(Effect::Tell { session, message });
        }
    }

    fn on_started(&mut self, lease: LeaseId, now: TimeMs, out: &mut Vec<Effect>) {
        let Some(slot) = self.slots.get_mut(&lease) else { return };
        if slot.held.lease.apply(&Fact::Started, now) == Ok(true) {
            if slot.held.lease.phase == Phase::Running {
                self.running(lease, now, out);
            } else {
                // The rest follows when the deposit is seen.
                out.push(Effect::Save(lease));
            }
        }
    }

    /// The workload runs, and billing begins.
    fn running(&mut self, lease: LeaseId, now: TimeMs, out: &mut Vec<Effect>) {
        let Some(slot) = self.slots.get_mut(&lease) else { return };
        (slot.told_at, slot.asked_at) = (now, now);
        out.push(Effect::Save(lease));
        out.extend(slot.session.map(|session| Effect::Tell { session, message: ToConsumer::Started }));
        out.push(self.report(lease));
    }

    fn on_job_ended(&mut self, lease: LeaseId, end: End, now: TimeMs, out: &mut Vec<Effect>) {
        let Some(slot) = self.slots.get_mut(&lease) else { return };
        let ran_now = slot.ran_ms(now);
        let (end, ran_ms) = match slot.killing.take() {
            // A job that came to its own end while the axe was falling keeps its own end.
            Some((_, ran)) if end.is_own() && matches!(end, End::Exited(_)) => (end, ran.min(ran_now)),
            Some((why, ran)) => (why, ran.min(ran_now)),
            None => (end, ran_now),
        };
        self.end_with(lease, end, ran_ms, now, out);
    }

    fn on_paid(&mut self, voucher: &SignedVoucher, signer: Address, now: TimeMs, out: &mut Vec<Effect>) {
        let lease = voucher.voucher.lease;
        let Some(slot) = self.slots.get_mut(&lease) else { return };
        if signer != slot.held.lease.terms.session_key {
            if let Some(session) = slot.session {
                let why = "the voucher is not signed by the session key of this lease".to_owned();
                out.push(Effect::Tell { session, message: ToConsumer::Refused { why } });
            }
            return;
        }
        match slot.held.lease.apply(&Fact::Paid(*voucher), now) {
            Ok(true) => out.push(Effect::Save(lease)),
            Ok(false) => {}
            Err(why) => {
                if let Some(session) = slot.session {
                    out.push(Effect::Tell { session, message: ToConsumer::Refused { why: why.to_string() } });
                }
                return;
            }
        }
        if slot.held.lease.phase == Phase::Ended && slot.held.lease.paid() >= slot.held.lease.due() {
            self.settle(lease, now, out);
        }
    }

    fn on_stop(&mut self, lease: LeaseId, by: StopBy, now: TimeMs, out: &mut Vec<Effect>) {
        let end = match by {
            StopBy::Consumer => End::StoppedByConsumer,
            StopBy::Provider => End::Interrupted("its provider stopped the job".to_owned()),
        };
        match self.slots.get(&lease).map(|s| s.held.lease.phase) {
            Some(Phase::Accepted) => self.void(lease, now, out),
            Some(_) => self.stop(lease, end, now, out),
            None => {}
        }
    }

    fn on_taken(&mut self, lease: LeaseId, out: &mut Vec<Effect>) {
        let Some(slot) = self.slots.get_mut(&lease) else { return };
        let over = matches!(slot.held.lease.phase, Phase::Ended | Phase::Settling | Phase::Closed);
        if over && !slot.held.taken {
            slot.held.taken = true;
            out.push(Effect::Save(lease));
            out.push(Effect::CleanUp(lease));
        }
    }

    fn on_settled(
        &mut self,
        lease: LeaseId,
        redeemed: TokenAmount,
        refunded: TokenAmount,
        tx: Option<[u8; 32]>,
        now: TimeMs,
        out: &mut Vec<Effect>,
    ) {
        let Some(slot) = self.slots.get_mut(&lease) else { return };
        let held_capacity = slot.held.lease.phase.holds_capacity();
        if slot.held.lease.phase == Phase::Running || slot.held.lease.phase == Phase::Starting {
            // Closed under a running job (only a chain that was rolled back or a bug of the escrow does this).
            out.push(Effect::Kill(lease));
        }
        if slot.held.lease.apply(&Fact::Closed { redeemed, refunded }, now) != Ok(true) {
            return;
        }
        slot.held.settle_tx = tx;
        if held_capacity {
            slot.give_back(&mut self.inventory);
            out.push(Effect::Beat);
        }
        out.push(Effect::Save(lease));
        let message = ToConsumer::Settled { redeemed, refunded, tx };
        out.extend(slot.session.map(|session| Effect::Tell { session, message }));
        out.push(self.report(lease));
    }

    fn on_tick(&mut self, now: TimeMs, out: &mut Vec<Effect>) {
        let ids: Vec<LeaseId> = self.slots.keys().copied().collect();
        for id in ids {
            self.tick_one(id, now, out);
        }
    }

    fn tick_one(&mut self, id: LeaseId, now: TimeMs, out: &mut Vec<Effect>) {
        let params = &self.config.params;
        let Some(slot) = self.slots.get_mut(&id) else { return };
        match slot.held.lease.phase {
            Phase::Accepted => {
                if now > slot.held.lease.open_by() {
                    self.void(id, now, out);
                } else if now.since(slot.asked_chain_at) >= CHAIN_POLL_MS {
                    slot.asked_chain_at = now;
                    out.push(Effect::AskChain(id));
                }
            }
            Phase::Open => {
                if now.since(slot.touched_at) > params.start_timeout_ms {
                    self.end_with(id, End::NeverStarted, 0, now, out);
                }
            }
            Phase::Starting | Phase::Ended if slot.held.lease.is_early() => self.tick_early(id, now, out),
            Phase::Starting => {}
            Phase::Running => self.tick_running(id, now, out),
            Phase::Ended => {
                let ended = slot.held.lease.ended_at.unwrap_or(now);
                if slot.held.lease.paid() >= slot.held.lease.due() || now.since(ended) > params.settle_grace_ms {
                    self.settle(id, now, out);
                }
            }
            Phase::Settling => {
                if now.since(slot.asked_chain_at) >= SETTLE_POLL_MS {
                    slot.asked_chain_at = now;
                    out.push(Effect::AskChain(id));
                }
            }
            Phase::Closed | Phase::Void => {
                let over = slot.held.lease.ended_at.unwrap_or(slot.held.lease.accepted_at);
                let stale = now.since(over) > params.keep_outputs_ms;
                // The body keeps the history; what is settled and fetched need not be walked at each tick.
                let done = slot.held.lease.phase == Phase::Closed && slot.held.taken;
                if slot.held.lease.phase == Phase::Closed && stale && !slot.held.taken {
                    slot.held.taken = true;
                    out.push(Effect::Save(id));
                    out.push(Effect::CleanUp(id));
                } else if stale || (done && now.since(over) > FORGET_MS) {
                    self.slots.remove(&id);
                    out.push(Effect::Forget(id));
                }
            }
        }
    }

    fn tick_running(&mut self, id: LeaseId, now: TimeMs, out: &mut Vec<Effect>) {
        let Some(slot) = self.slots.get_mut(&id) else { return };
        if slot.killing.is_some() {
            return;
        }
        let ran_ms = slot.ran_ms(now);
        // In memory only: what matters after a crash is the voucher, and that is saved when it comes.
        let _known = slot.held.lease.apply(&Fact::Ran { ran_ms }, now);
        let l = &slot.held.lease;
        let limit_ms = l.terms.max_seconds.saturating_mul(1000);
        let end = if ran_ms >= limit_ms {
            Some((End::TimeLimit, limit_ms))
        } else if l.is_used_up() {
            Some((End::DepositUsedUp, ran_ms))
        } else if l.is_unpaid() {
            Some((End::Unpaid, ran_ms))
        } else if l.terms.tokens.is_some() && now.since(slot.asked_at) > self.config.model_idle_ms {
            // It is paid by the token alone: its place is better given to somebody who uses it.
            Some((End::Idle, ran_ms))
        } else {
            None
        };
        if let Some((end, ran)) = end {
            slot.killing = Some((end, ran));
            out.push(Effect::Kill(id));
            return;
        }
        // Asking at half the interval leaves the other half for the answer to arrive.
        if now.since(slot.told_at) >= l.terms.interval_ms / 2 {
            slot.told_at = now;
            let tokens = l.terms.tokens.map(|_| l.tokens);
            out.extend(slot.session.into_iter().flat_map(|session| {
                let counted = tokens.map(|tokens| ToConsumer::Counted { tokens });
                let messages = counted.into_iter().chain([ToConsumer::Usage { ran_ms }]);
                messages.map(move |message| Effect::Tell { session, message })
            }));
        }
    }

    /// Ends a lease whatever it is doing: kills a running job first.
    fn stop(&mut self, lease: LeaseId, end: End, now: TimeMs, out: &mut Vec<Effect>) {
        let Some(slot) = self.slots.get_mut(&lease) else { return };
        match slot.held.lease.phase {
            Phase::Running | Phase::Starting => {
                if slot.killing.is_none() {
                    let ran = slot.ran_ms(now);
                    slot.killing = Some((end, ran));
                    out.push(Effect::Kill(lease));
                }
            }
            Phase::Open => self.end_with(lease, end, 0, now, out),
            Phase::Accepted | Phase::Ended | Phase::Settling | Phase::Closed | Phase::Void => {}
        }
    }

    fn end(&mut self, lease: LeaseId, end: End, now: TimeMs, out: &mut Vec<Effect>) {
        let ran = self.slots.get(&lease).map_or(0, |s| s.held.lease.ran_ms);
        if self.slots.get(&lease).is_some_and(|s| s.held.lease.phase == Phase::Accepted) {
            self.void(lease, now, out);
        } else {
            self.end_with(lease, end, ran, now, out);
        }
    }

    fn end_with(&mut self, lease: LeaseId, end: End, ran_ms: u64, now: TimeMs, out: &mut Vec<Effect>) {
        let Some(slot) = self.slots.get_mut(&lease) else { return };
        if slot.held.lease.apply(&Fact::Ended { end, ran_ms }, now) != Ok(true) {
            return;
        }
        slot.give_back(&mut self.inventory);
        let l = &slot.held.lease;
        let message = ToConsumer::Ended { end: l.end.clone().unwrap_or(End::NeverStarted), ran_ms: l.ran_ms };
        out.push(Effect::Save(lease));
        let counted = l.terms.tokens.map(|_| ToConsumer::Counted { tokens: l.tokens });
        let told = slot.session.into_iter();
        out.extend(told.flat_map(|session| {
            let messages = counted.clone().into_iter().chain([message.clone()]);
            messages.map(move |message| Effect::Tell { session, message })
        }));
        out.push(Effect::Beat);
        let (paid_up, seen) = (l.paid() >= l.due(), l.deposit_seen());
        // Of what nobody may ever have meant to pay for, the Indexer hears nothing.
        if seen {
            out.push(self.report(lease));
        }
        if paid_up {
            self.settle(lease, now, out);
        }
    }

    /// After a restart: a lease without its deposit, whose program had begun.
    fn look_for_early(&mut self, lease: LeaseId, out: &mut Vec<Effect>) {
        if self.slots.get(&lease).is_some_and(|slot| slot.held.lease.is_early()) {
            self.note_early(lease);
            out.push(Effect::AskChain(lease));
        }
    }

    fn settle(&mut self, lease: LeaseId, now: TimeMs, out: &mut Vec<Effect>) {
        let Some(slot) = self.slots.get_mut(&lease) else { return };
        if slot.held.lease.apply(&Fact::SettleSent, now) == Ok(true) {
            slot.asked_chain_at = now;
            out.push(Effect::Save(lease));
            out.push(self.settle_effect(lease));
        }
    }

    fn settle_effect(&self, lease: LeaseId) -> Effect {
        Effect::Settle { lease, voucher: self.slots.get(&lease).and_then(|s| s.held.lease.voucher) }
    }

    fn report(&self, lease: LeaseId) -> Effect {
        let l = self.slots.get(&lease).map(|s| &s.held.lease);
        Effect::Report {
            indexer: l.map_or(NodeId::ZERO, |l| l.terms.indexer),
            report: LeaseReport {
                lease,
                phase: l.map_or(Phase::Void, |l| l.phase),
                // What nobody paid for says nothing of this Container's work.
                end: l.filter(|l| l.phase != Phase::Void).and_then(|l| l.end.clone()),
                ran_ms: l.map_or(0, |l| l.ran_ms),
            },
        }
    }
}

/// How often the chain is asked for a deposit that has not appeared, in milliseconds.
const CHAIN_POLL_MS: u64 = 500;
/// How long a lease that is settled and fetched stays known, in milliseconds: for whoever asks again.
const FORGET_MS: u64 = 30_000;
/// How often the chain is asked about a settlement that was sent, in milliseconds.
const SETTLE_POLL_MS: u64 = 10_000;

impl Slot {
    const fn new(held: Held, now: TimeMs) -> Self {
        Self {
            held,
            session: None,
            touched_at: now,
            began_at: now,
            go_waits: false,
            killing: None,
            told_at: now,
            asked_chain_at: now,
            reserved: false,
            asked_at: now,
        }
    }

    /// How long the workload has run since its deposit was seen. Time beyond the agreed limit is what noticing and killing take: it is not billed.
    fn ran_ms(&self, now: TimeMs) -> u64 {
        let limit_ms = self.held.lease.terms.max_seconds.saturating_mul(1_000);
        let since = self.held.lease.started_at.filter(|_| self.held.lease.deposit_seen());
        since.map_or(0, |at| now.since(at)).min(limit_ms)
    }

    fn give_back(&mut self, inventory: &mut Inventory) {
        if core::mem::take(&mut self.reserved) {
            let given = inventory.release(&self.held.lease.terms.allocation);
            debug_assert!(given.is_ok(), "what was taken can be given back: {given:?}");
        }
    }
}
