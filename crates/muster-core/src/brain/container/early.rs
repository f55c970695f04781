//! Programs of live sessions that begin while the deposit is on its way to the chain.
//!
//! Until the deposit is seen such a program runs for nothing, and whoever never pays costs its slot's time. Wallets are
//! free to make, and a lease's wallet has proved nothing before it pays, so counting by consumer would stop nobody: one
//! program in all runs like that at a time, for a short time, and after one whose deposit never came the next ones wait
//! for theirs for a long while. The worst that a stranger can do is that sessions begin as they would without this.

use crate::ids::LeaseId;
use crate::lease::{End, Fact, Lease, Phase};
use crate::protocol::ToConsumer;
use crate::units::TimeMs;

use super::{CHAIN_POLL_MS, Container, Effect};

/// After a program whose deposit never came, none begins before its deposit for so many times as long as it may have run:
/// who does that again and again has less than two hundredths of one slot's time for nothing.
const REST_TIMES: u64 = 60;

/// What a Container remembers of programs that began before their deposit was seen.
#[derive(Clone, Debug, Default)]
pub(super) struct Early {
    /// The last one.
    lease: Option<LeaseId>,
    /// Not another one before this.
    not_before: TimeMs,
}

impl Container {
    pub(super) fn on_go(&mut self, lease: LeaseId, early: bool, now: TimeMs, out: &mut Vec<Effect>) {
        let may_begin = early && self.may_begin_early(lease, now);
        let Some(slot) = self.slots.get_mut(&lease) else { return };
        slot.touched_at = now;
        match slot.held.lease.apply(&Fact::StartRequested { early: may_begin }, now) {
            Ok(true) => {
                slot.began_at = now;
                if slot.held.lease.is_early() {
                    self.early.lease = Some(lease);
                }
                out.push(Effect::Save(lease));
                out.push(Effect::Start(lease));
            }
            Ok(false) => {}
            // It begins with the deposit, without being told again.
            Err(_) if early && slot.held.lease.phase == Phase::Accepted => slot.go_waits = true,
            Err(why) => {
                if let Some(session) = slot.session {
                    out.push(Effect::Tell { session, message: ToConsumer::Refused { why: why.to_string() } });
                }
            }
        }
    }

    fn may_begin_early(&self, lease: LeaseId, now: TimeMs) -> bool {
        let last = self.early.lease.filter(|last| *last != lease).and_then(|last| self.slots.get(&last));
        self.config.params.early_start_ms > 0
            && now >= self.early.not_before
            && !last.is_some_and(|slot| slot.held.lease.is_early())
    }

    /// A lease whose program has begun before its deposit was seen, and was lost with an earlier process.
    pub(super) const fn note_early(&mut self, lease: LeaseId) {
        self.early.lease = Some(lease);
    }

    /// The deposit of a lease whose program had begun will not come.
    pub(super) fn rest_from_early(&mut self, now: TimeMs) {
        self.early.not_before = now.plus(self.config.params.early_start_ms.saturating_mul(REST_TIMES));
    }

    /// The deposit of a lease is seen for the first time: what waited for it goes on.
    pub(super) fn on_opened(&mut self, lease: LeaseId, now: TimeMs, out: &mut Vec<Effect>) {
        let Some(slot) = self.slots.get_mut(&lease) else { return };
        let session = slot.session;
        slot.touched_at = now;
        match slot.held.lease.phase {
            Phase::Open if core::mem::take(&mut slot.go_waits) => self.on_go(lease, false, now, out),
            Phase::Open => {
                out.push(Effect::Save(lease));
                out.extend(session.map(|session| Effect::Tell { session, message: ToConsumer::Open }));
            }
            Phase::Running => self.running(lease, now, out),
            // Over before its deposit was seen: all of that goes back.
            Phase::Ended => {
                out.push(Effect::Save(lease));
                out.push(self.report(lease));
                self.settle(lease, now, out);
            }
            Phase::Accepted | Phase::Starting | Phase::Settling | Phase::Closed | Phase::Void => {
                out.push(Effect::Save(lease));
            }
        }
    }

    /// Time passes for a lease that begins or began before its deposit was seen.
    pub(super) fn tick_early(&mut self, lease: LeaseId, now: TimeMs, out: &mut Vec<Effect>) {
        let limit_ms = self.config.params.early_start_ms;
        let Some(slot) = self.slots.get_mut(&lease) else { return };
        let lapsed = now > slot.held.lease.open_by();
        if slot.held.lease.phase == Phase::Ended && lapsed {
            self.void(lease, now, out);
            return;
        }
        if now.since(slot.asked_chain_at) >= CHAIN_POLL_MS {
            slot.asked_chain_at = now;
            out.push(Effect::AskChain(lease));
        }
        if lapsed || now.since(slot.began_at) > limit_ms {
            let why = not_seen(&slot.held.lease, limit_ms);
            self.stop(lease, End::FailedToStart(why), now, out);
        }
    }

    /// Ends a program that began before its deposit was seen, because the chain will not hold it.
    pub(super) fn stop_early(&mut self, lease: LeaseId, why: String, now: TimeMs, out: &mut Vec<Effect>) {
        if self.slots.get(&lease).is_some_and(|slot| slot.held.lease.is_early()) {
            self.stop(lease, End::FailedToStart(why), now, out);
        }
    }
}

fn not_seen(lease: &Lease, limit_ms: u64) -> String {
    let seconds = limit_ms.min(lease.terms.open_within_ms) / 1_000;
    format!(
        "its deposit was not on the chain within {seconds} s of the start, so the Container stopped the program and gave \
         the slot to others; nothing is billed, and a deposit that still comes goes back; try again when the chain is faster"
    )
}
