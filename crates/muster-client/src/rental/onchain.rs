//! What the driver asks of the chain, each question once at a time.

use std::sync::Arc;
use std::time::Duration;

use muster_core::brain::consumer::Event;
use muster_core::ids::LeaseId;
use muster_core::lease::Phase;
use muster_core::protocol::{EscrowLease, EscrowStatus, ToContainer};
use muster_core::units::TokenAmount;
use muster_core::voucher::SignedVoucher;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::driver::{Driver, TopUp};
use super::notes::Note;
use super::{RentalError, RentalEvent};
use crate::ledger::{Ledger, LedgerError};

/// A deposit that is not on the chain so long after its slot has lapsed will not come, in milliseconds.
const OPEN_GRACE_MS: u64 = 10_000;
/// Pause between two looks whether a challenge window is over.
const FINALIZE_EVERY: Duration = Duration::from_secs(2);

/// What is asked of the chain just now.
#[derive(Debug, Default)]
#[allow(clippy::struct_excessive_bools, reason = "four independent questions that are each asked once at a time")]
pub(super) struct ChainState {
    opening: bool,
    open_again_at: Option<Instant>,
    asking: bool,
    /// Asked for while a question was under way, whose answer may be older than what is asked about.
    ask_again: bool,
    closing: bool,
    finalizing: bool,
    finalized_at: Option<Instant>,
}

/// Pays what was vouched, then closes: closing lets the challenge window run, and a Container that is away for longer
/// would lose what it has earned.
async fn redeem_and_close(
    ledger: &dyn Ledger,
    lease: LeaseId,
    voucher: Option<SignedVoucher>,
) -> Result<(), LedgerError> {
    if let Some(voucher) = voucher {
        match ledger.redeem(voucher).await {
            Ok(()) => {}
            // The Container was quicker, or the escrow never takes this voucher: the rest must come back all the same.
            Err(LedgerError::Refused(why)) => tracing::debug!(lease = %lease.short(), %why, "nothing to redeem"),
            // Closing before it is known to be paid could cost the Container what it has earned.
            Err(error) => return Err(error),
        }
    }
    ledger.close(lease).await
}

impl Driver {
    pub(super) fn open(&mut self) {
        let terms = self.lease_now().terms.clone();
        if self.chain.opening || self.now() > self.lease_now().open_by() || self.lease_now().phase != Phase::Accepted {
            return;
        }
        self.chain.opening = true;
        self.tell(RentalEvent::Opening { deposit: terms.deposit });
        let (ledger, notes) = (Arc::clone(self.renter.ledger()), self.notes.clone());
        self.tasks.spawn(async move {
            let (sent, on_its_way) = oneshot::channel();
            let mut opening = ledger.open(terms, sent);
            let opened = tokio::select! {
                biased;
                opened = &mut opening => opened,
                Ok(()) = on_its_way => {
                    notes.send(Note::OpenSent).await;
                    opening.await
                }
            };
            notes.send(Note::Opened(opened)).await;
        });
    }

    pub(super) fn on_opened(&mut self, result: Result<(), LedgerError>) {
        self.chain.opening = false;
        match result {
            Ok(()) => {
                self.tell(RentalEvent::Opened);
                let terms = self.lease_now().terms.clone();
                let view = EscrowLease {
                    status: EscrowStatus::Open,
                    consumer: terms.consumer,
                    session_key: terms.session_key,
                    container: terms.container,
                    deposit: terms.deposit,
                    redeemed: TokenAmount::ZERO,
                    rate_per_second: terms.rate_per_second,
                    max_seconds: terms.max_seconds,
                };
                // The Container looks by itself, but not at this very moment.
                self.say(ToContainer::ToppedUp);
                self.feed(Event::ChainSeen(view));
            }
            Err(LedgerError::Refused(why)) => self.feed(Event::OpenFailed { why }),
            Err(LedgerError::NoWallet(_)) => {}
            Err(LedgerError::Unknown(why)) => {
                tracing::warn!(lease = %self.lease.short(), %why, "whether the deposit is paid is unknown; asking again");
                self.chain.open_again_at = Some(Instant::now() + Duration::from_secs(1));
            }
        }
    }

    pub(super) fn ask_chain(&mut self) {
        if std::mem::replace(&mut self.chain.asking, true) {
            self.chain.ask_again = true;
            return;
        }
        let (ledger, lease, notes) = (Arc::clone(self.renter.ledger()), self.lease, self.notes.clone());
        self.tasks.spawn(async move {
            let seen = ledger.lease(lease).await;
            notes.send(Note::Seen(seen)).await;
        });
    }

    pub(super) fn on_seen(&mut self, result: Result<EscrowLease, LedgerError>) {
        self.chain.asking = false;
        if std::mem::take(&mut self.chain.ask_again) {
            self.ask_chain();
        }
        let view = match result {
            Ok(view) => view,
            Err(why) => {
                tracing::debug!(lease = %self.lease.short(), %why, "the chain does not answer; the brain asks again");
                return;
            }
        };
        let lapsed = self.now() > self.lease_now().open_by().plus(OPEN_GRACE_MS);
        if view.status == EscrowStatus::None
            && self.lease_now().phase == Phase::Accepted
            && lapsed
            && !self.chain.opening
        {
            let why = "the deposit did not get onto the chain while the slot was held".to_owned();
            // It may still come: nobody has said no.
            let short = self.lease.short();
            self.state.needs = Some(format!(
                "whether its deposit still reached the chain is not known: `muster lease stop {short}` looks, and gets it back if so"
            ));
            return self.feed(Event::OpenFailed { why });
        }
        let closed = view.status == EscrowStatus::Closed && self.lease_now().phase != Phase::Closed;
        self.feed(Event::ChainSeen(view));
        if closed {
            let lease = self.lease_now();
            let (redeemed, refunded) = (lease.redeemed, lease.refunded);
            self.tell(RentalEvent::Settled { redeemed, refunded, tx: self.brain.rented().settle_tx });
        }
    }

    pub(super) fn close(&mut self) {
        if std::mem::replace(&mut self.chain.closing, true) {
            return;
        }
        let (ledger, lease, notes) = (Arc::clone(self.renter.ledger()), self.lease, self.notes.clone());
        let voucher = self.lease_now().voucher;
        self.tasks.spawn(async move {
            let closed = redeem_and_close(ledger.as_ref(), lease, voucher).await;
            notes.send(Note::Closed(closed)).await;
        });
    }

    pub(super) async fn on_closed(&mut self, result: Result<(), LedgerError>) -> Result<(), RentalError> {
        self.chain.closing = false;
        match result {
            Ok(()) => {
                self.state.needs = None;
                self.save().await?;
            }
            Err(LedgerError::NoWallet(_)) => {
                let short = self.lease.short();
                let why = format!(
                    "its Container cannot be reached: run `muster lease stop {short}` to close it on the chain with your wallet and get the rest of the deposit back"
                );
                self.need_wallet(why).await?;
            }
            // Its Container may have closed it meanwhile, which is as good.
            Err(why) => tracing::info!(lease = %self.lease.short(), %why, "closing on the chain"),
        }
        self.ask_chain();
        Ok(())
    }

    pub(super) fn finalize(&mut self) {
        let early = self.chain.finalized_at.is_some_and(|at| at.elapsed() < FINALIZE_EVERY);
        if early || std::mem::replace(&mut self.chain.finalizing, true) {
            return;
        }
        self.chain.finalized_at = Some(Instant::now());
        let (ledger, lease, notes) = (Arc::clone(self.renter.ledger()), self.lease, self.notes.clone());
        self.tasks.spawn(async move {
            let finalized = ledger.finalize(lease).await;
            notes.send(Note::Finalized(finalized)).await;
        });
    }

    async fn need_wallet(&mut self, why: String) -> Result<(), RentalError> {
        if self.state.needs.as_ref() != Some(&why) {
            self.state.needs = Some(why.clone());
            self.save().await?;
            self.tell(RentalEvent::NeedsWallet(why));
        }
        Ok(())
    }

    pub(super) fn only_chain_left(&self) -> bool {
        matches!(self.lease_now().phase, Phase::Ended | Phase::Settling)
            && (self.brain.rented().outputs_taken || self.brain.rented().gone.is_some())
    }

    pub(super) fn add_to_deposit(&mut self) {
        let Some(TopUp { seconds }) = self.top_up else { return };
        let lease = self.lease_now();
        let rate = lease.terms.rate_per_second;
        let amount = if lease.terms.tokens.is_some() {
            // What its tokens will cost nobody knows: as much again as was agreed at first.
            lease.terms.deposit
        } else {
            let most = rate.per_second_for_ms(lease.terms.max_seconds.saturating_mul(1000));
            rate.per_second_for_ms(seconds.saturating_mul(1000)).min(most.saturating_sub(lease.deposit))
        };
        if amount == TokenAmount::ZERO {
            return;
        }
        // The deposit that is added to names the wish: asked again, it pays once.
        let intent = format!("top-up {} {}", self.lease, lease.deposit.0);
        let (ledger, lease, notes) = (Arc::clone(self.renter.ledger()), self.lease, self.notes.clone());
        self.tasks.spawn(async move {
            let added = ledger.top_up(lease, amount, intent).await;
            notes.send(Note::ToppedUp(amount, added)).await;
        });
    }

    pub(super) async fn on_finalized(&mut self, result: Result<(), LedgerError>) -> Result<(), RentalError> {
        self.chain.finalizing = false;
        match result {
            Ok(()) => self.ask_chain(),
            Err(LedgerError::NoWallet(_)) => {
                let short = self.lease.short();
                let why = format!(
                    "it is being closed: when the chain's challenge window is over, `muster lease stop {short}` brings the rest of the deposit back to your wallet"
                );
                self.need_wallet(why).await?;
            }
            Err(why) => tracing::debug!(lease = %self.lease.short(), %why, "not finalised yet"),
        }
        Ok(())
    }

    pub(super) fn on_topped_up(&mut self, amount: TokenAmount, result: Result<(), LedgerError>) {
        match result {
            Ok(()) => self.ask_chain(),
            Err(why) => {
                let told = format!("the deposit could not be topped up by {amount}: {why}");
                self.tell(RentalEvent::Complaint(told));
            }
        }
    }

    /// Asks again whether the deposit is paid, once the pause is over.
    pub(super) fn open_again(&mut self) {
        if self.chain.open_again_at.is_some_and(|at| Instant::now() >= at) {
            self.chain.open_again_at = None;
            self.open();
        }
    }
}
