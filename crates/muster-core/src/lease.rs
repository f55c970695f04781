//! The lease: one state machine that consumer, Indexer and Container all run.
//!
//! ```text
//!             Opened          StartRequested       Started          Ended          SettleSent        Closed
//!  Accepted ---------> Open ----------------> Starting ------> Running -----> Ended ----------> Settling ------> Closed
//!     | | StartRequested, early                   ^ |                           ^
//!     | +-----------------------------------------+ |                           |
//!     |                  +--------------------------+---------- Ended ----------+
//!     | Voided                                                                  |
//!     v                                     Voided, where no deposit was seen   |
//!   Void <----------------------------------------------------------------------+
//! ```
//!
//! Where the consumer and the Container want it so, the workload begins while the deposit is on its way: the lease is then
//! starting before it was ever open. It runs, and is billed, from when both hold: the workload reported running, and the
//! deposit is seen ([`Lease::deposit_seen`]). One that is over before leaves the lease ended without a deposit, until the
//! deposit is seen and given back, or never comes.
//!
//! A body applies a fact to the lease, writes the lease down durably, and only then acts on it. Facts
//! that arrive twice change nothing; facts that cannot follow are refused and change nothing.
//! Billing counts the milliseconds that the workload ran, never the wall clock of the lease.

use core::fmt;

use serde::{Deserialize, Serialize};

use crate::hardware::Allocation;
use crate::ids::{Address, LeaseId, NodeId, RequestId};
use crate::inference::{TokenCounts, TokenRates};
use crate::units::{Bytes, TimeMs, TokenAmount};
use crate::voucher::{SignedVoucher, VoucherRefused};

/// What both sides agreed on before any money moved. Never changes afterwards.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaseTerms {
    /// Its name, derived from consumer and salt as the escrow does.
    pub lease: LeaseId,
    /// Drawn by the consumer; makes the name unique.
    pub salt: [u8; 32],
    /// The request that led here.
    pub request: RequestId,
    /// The wallet that pays the deposit.
    pub consumer: Address,
    /// The key that signs vouchers, and can spend this lease's deposit only.
    pub session_key: Address,
    /// Who runs the work.
    pub container: NodeId,
    /// Who proposed it.
    pub indexer: NodeId,
    /// Price of a second of running, frozen for the life of the lease.
    pub rate_per_second: TokenAmount,
    /// The least deposit with which the Container begins.
    pub deposit: TokenAmount,
    /// The longest that the workload may run, in seconds.
    pub max_seconds: u64,
    /// At most so much running time may be unpaid, in milliseconds.
    pub interval_ms: u64,
    /// So long the Container holds the slot for the deposit to appear, by its own clock: the clocks of
    /// strangers may differ by hours.
    pub open_within_ms: u64,
    /// What is set aside for the workload.
    pub allocation: Allocation,
    /// Whether the workload may reach the network.
    pub egress: bool,
    /// What its tokens cost, where it is a model's; the rate per second is then zero.
    pub tokens: Option<TokenTerms>,
}

/// How the tokens of a model's lease are paid.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenTerms {
    /// How large the model's weights are, for which the Container asks.
    pub weights: Bytes,
    /// What they cost, frozen for the life of the lease.
    pub rates: TokenRates,
    /// So much may be unpaid.
    pub credit: TokenAmount,
}

/// How a workload came to its end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum End {
    /// It exited by itself with this code.
    Exited(i32),
    /// A signal that it caused itself ended it.
    Signaled(i32),
    /// It wanted more memory than it rented.
    OutOfMemory,
    /// It wanted more disk than it rented.
    DiskFull,
    /// It could not be started at all; the sentence says why.
    FailedToStart(String),
    /// The consumer stopped it.
    StoppedByConsumer,
    /// It ran as long as it was allowed to.
    TimeLimit,
    /// The deposit was used up to the last interval.
    DepositUsedUp,
    /// More than one interval was unpaid.
    Unpaid,
    /// The Container failed it: stopped by its owner, crashed, lost; the sentence says which.
    Interrupted(String),
    /// The consumer never came to start it.
    NeverStarted,
    /// Nobody used it any more.
    Idle,
}

impl End {
    /// Whether the fault is the Container's: the period it hit is not billed, and the work may be
    /// tried elsewhere.
    #[must_use]
    pub const fn is_interruption(&self) -> bool {
        matches!(self, Self::Interrupted(_))
    }

    /// Whether the workload itself came to its own end.
    #[must_use]
    pub const fn is_own(&self) -> bool {
        matches!(self, Self::Exited(_) | Self::Signaled(_) | Self::OutOfMemory | Self::DiskFull)
    }
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exited(0) => f.write_str("the job finished"),
            Self::Exited(code) => write!(f, "the job exited with code {code}"),
            Self::Signaled(signal) => write!(f, "the job was ended by signal {signal}"),
            Self::OutOfMemory => f.write_str("the job needed more memory than it rented; ask for more with --memory"),
            Self::DiskFull => f.write_str("the job needed more disk than it rented; ask for more with --disk"),
            Self::FailedToStart(why) => write!(f, "the job could not be started: {why}"),
            Self::StoppedByConsumer => f.write_str("stopped on request"),
            Self::TimeLimit => f.write_str("the time limit was reached; ask for more with --time"),
            Self::DepositUsedUp => {
                f.write_str("the deposit was used up; add to it with `muster lease top-up` when the warning comes")
            }
            Self::Unpaid => f.write_str("the Container stopped: more than one interval was unpaid"),
            Self::Interrupted(why) => {
                write!(f, "interrupted by the Container: {why}; the interrupted interval is not billed")
            }
            Self::NeverStarted => f.write_str("the job was never started by the consumer"),
            Self::Idle => f.write_str("it ended because nobody used it any more; start another one"),
        }
    }
}

/// Where a lease stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Phase {
    /// The Container holds the slot; the deposit is not seen yet, and nothing has begun.
    Accepted,
    /// The deposit is on the chain; inputs may be on their way.
    Open,
    /// The Container was told to begin and has written that down. The deposit may still be on its way.
    Starting,
    /// The workload runs; billing counts.
    Running,
    /// The workload is over; the last voucher may be on its way.
    Ended,
    /// The Container has sent the settlement to the chain.
    Settling,
    /// Settled: the money is where it belongs.
    Closed,
    /// The deposit never came, or the offer was taken back: nothing happened, nothing is owed.
    Void,
}

impl Phase {
    /// Whether the Container's capacity is held.
    #[must_use]
    pub const fn holds_capacity(self) -> bool {
        matches!(self, Self::Accepted | Self::Open | Self::Starting | Self::Running)
    }

    /// Whether nothing more will happen.
    #[must_use]
    pub const fn is_final(self) -> bool {
        matches!(self, Self::Closed | Self::Void)
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Accepted => "accepted",
            Self::Open => "open",
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Ended => "ended",
            Self::Settling => "settling",
            Self::Closed => "closed",
            Self::Void => "void",
        })
    }
}

/// A fact about a lease.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Fact {
    /// The escrow holds this deposit.
    Opened {
        /// Deposit in the token's smallest unit.
        deposit: TokenAmount,
    },
    /// The escrow holds more now.
    ToppedUp {
        /// The whole deposit.
        deposit: TokenAmount,
    },
    /// The consumer said go; nothing has been started yet.
    StartRequested {
        /// The workload may begin before the deposit is seen.
        early: bool,
    },
    /// The workload reported that it runs.
    Started,
    /// It has run so long.
    Ran {
        /// Milliseconds since it started.
        ran_ms: u64,
    },
    /// A model has read and drawn so many tokens since the lease began.
    Counted {
        /// By the engine's count.
        tokens: TokenCounts,
    },
    /// The consumer signed, or the Container took, a voucher.
    Paid(SignedVoucher),
    /// The workload is over, or never will be.
    Ended {
        /// How.
        end: End,
        /// Milliseconds that it ran in all.
        ran_ms: u64,
    },
    /// The settlement was handed to the chain.
    SettleSent,
    /// The chain has closed the lease.
    Closed {
        /// Paid out in all.
        redeemed: TokenAmount,
        /// Given back to the consumer.
        refunded: TokenAmount,
    },
    /// The lease will never open.
    Voided,
}

/// Why a fact was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FactRefused {
    /// It cannot follow on the present phase.
    #[error("{fact} cannot follow while the lease is {phase}")]
    OutOfOrder {
        /// What was said.
        fact: &'static str,
        /// Where the lease stands.
        phase: Phase,
    },
    /// The deposit on the chain is less than agreed.
    #[error("the deposit is {got}, agreed was {agreed}")]
    DepositShort {
        /// On the chain.
        got: TokenAmount,
        /// In the terms.
        agreed: TokenAmount,
    },
    /// The voucher is no good.
    #[error(transparent)]
    Voucher(#[from] VoucherRefused),
}

/// A lease as one side knows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// What was agreed.
    pub terms: LeaseTerms,
    /// Where it stands.
    pub phase: Phase,
    /// What the escrow holds, as last seen.
    pub deposit: TokenAmount,
    /// When the slot was taken.
    pub accepted_at: TimeMs,
    /// When the deposit was seen.
    pub opened_at: Option<TimeMs>,
    /// Since when the workload counts as running, by this side's clock: it reported so, and the deposit was seen. Before
    /// the deposit is seen, when it reported so.
    pub started_at: Option<TimeMs>,
    /// When the workload was over, by this side's clock.
    pub ended_at: Option<TimeMs>,
    /// Milliseconds that the workload ran, as last reported.
    pub ran_ms: u64,
    /// Tokens that its model has read and drawn, as last reported.
    pub tokens: TokenCounts,
    /// How it ended.
    pub end: Option<End>,
    /// The last voucher.
    pub voucher: Option<SignedVoucher>,
    /// How many vouchers were signed or taken.
    pub vouchers: u32,
    /// Paid out by the escrow, once closed.
    pub redeemed: TokenAmount,
    /// Given back by the escrow, once closed.
    pub refunded: TokenAmount,
}

impl Lease {
    /// A lease whose slot has just been taken.
    #[must_use]
    pub const fn accepted(terms: LeaseTerms, now: TimeMs) -> Self {
        Self {
            terms,
            phase: Phase::Accepted,
            deposit: TokenAmount::ZERO,
            accepted_at: now,
            opened_at: None,
            started_at: None,
            ended_at: None,
            ran_ms: 0,
            tokens: TokenCounts::ZERO,
            end: None,
            voucher: None,
            vouchers: 0,
            redeemed: TokenAmount::ZERO,
            refunded: TokenAmount::ZERO,
        }
    }

    /// Until when, by this side's clock, the slot is held for the deposit.
    #[must_use]
    pub const fn open_by(&self) -> TimeMs {
        self.accepted_at.plus(self.terms.open_within_ms)
    }

    /// Its name.
    #[must_use]
    pub const fn id(&self) -> LeaseId {
        self.terms.lease
    }

    /// Whether the escrow was seen to hold the deposit. Nothing is billed before.
    #[must_use]
    pub const fn deposit_seen(&self) -> bool {
        self.opened_at.is_some()
    }

    /// Whether the workload has begun, and may be over, while the deposit is not seen.
    #[must_use]
    pub const fn is_early(&self) -> bool {
        !self.deposit_seen() && matches!(self.phase, Phase::Starting | Phase::Ended)
    }

    /// What has been promised so far.
    #[must_use]
    pub fn paid(&self) -> TokenAmount {
        self.voucher.map_or(TokenAmount::ZERO, |v| v.voucher.amount)
    }

    /// What `ran_ms` of running and the tokens so far cost: rate × time, rounded down, and each token by its rate; never
    /// above the deposit.
    #[must_use]
    pub fn cost_of(&self, ran_ms: u64) -> TokenAmount {
        self.full_cost_of(ran_ms).min(self.deposit)
    }

    fn full_cost_of(&self, ran_ms: u64) -> TokenAmount {
        let tokens = self.terms.tokens.map_or(TokenAmount::ZERO, |terms| terms.rates.cost(self.tokens));
        self.terms.rate_per_second.per_second_for_ms(ran_ms).saturating_add(tokens)
    }

    /// Whether more is unpaid than may be.
    #[must_use]
    pub fn is_unpaid(&self) -> bool {
        match &self.terms.tokens {
            None => self.unpaid_ms() > self.terms.interval_ms,
            Some(terms) => self.cost_of(self.ran_ms).saturating_sub(self.paid()) > terms.credit,
        }
    }

    /// Whether the deposit pays for no more.
    #[must_use]
    pub fn is_used_up(&self) -> bool {
        match &self.terms.tokens {
            None => self.deposit_left_ms() == 0,
            Some(_) => self.full_cost_of(self.ran_ms) >= self.deposit,
        }
    }

    /// What the deposit of a model's lease still pays for, once that is less than a quarter of it or than twice what may be
    /// unpaid.
    #[must_use]
    pub fn tokens_left_low(&self) -> Option<TokenAmount> {
        let terms = self.terms.tokens.as_ref()?;
        let left = self.deposit.saturating_sub(self.cost_of(self.ran_ms));
        (left.0 < self.deposit.0 / 4 || left.0 < terms.credit.0.saturating_mul(2)).then_some(left)
    }

    /// Whether a model may take another request: half of what may be unpaid is left for those that are in hand, and the
    /// deposit is not used up.
    #[must_use]
    pub fn takes_requests(&self) -> bool {
        let Some(terms) = &self.terms.tokens else { return false };
        let unpaid = self.cost_of(self.ran_ms).saturating_sub(self.paid());
        self.phase == Phase::Running && !self.is_used_up() && unpaid.0 <= terms.credit.0 / 2
    }

    /// What is owed for good once the workload is over. An interruption is not billed for the
    /// interval it hit: what was promised before stays, nothing is added.
    #[must_use]
    pub fn due(&self) -> TokenAmount {
        match &self.end {
            Some(end) if end.is_interruption() => self.paid(),
            _ => self.cost_of(self.ran_ms).max(self.paid()),
        }
    }

    /// Milliseconds of running that no voucher covers.
    #[must_use]
    pub fn unpaid_ms(&self) -> u64 {
        match self.paid().ms_at_rate(self.terms.rate_per_second) {
            // Vouchers round down to the smallest unit, so a paid millisecond may read one short.
            Some(paid_ms) => self.ran_ms.saturating_sub(paid_ms.saturating_add(1)),
            None => 0,
        }
    }

    /// Milliseconds of running that the deposit can still pay for.
    #[must_use]
    pub fn deposit_left_ms(&self) -> u64 {
        match self.deposit.ms_at_rate(self.terms.rate_per_second) {
            Some(ms) => ms.saturating_sub(self.ran_ms),
            None => u64::MAX,
        }
    }

    /// Takes in a fact. `Ok(true)`: something changed and must be written down; `Ok(false)`: known
    /// already.
    ///
    /// # Errors
    /// The fact cannot be true of this lease; nothing changed.
    pub fn apply(&mut self, fact: &Fact, now: TimeMs) -> Result<bool, FactRefused> {
        match fact {
            Fact::Opened { deposit } => self.on_opened(*deposit, now),
            Fact::ToppedUp { deposit } => self.on_topped_up(*deposit),
            Fact::StartRequested { early } => match self.phase {
                Phase::Open => self.go_to(Phase::Starting),
                Phase::Accepted if *early => self.go_to(Phase::Starting),
                Phase::Starting | Phase::Running => Ok(false),
                _ => Err(self.out_of_order("start")),
            },
            Fact::Started => self.on_started(now),
            Fact::Ran { ran_ms } => match self.phase {
                Phase::Running => {
                    let more = *ran_ms > self.ran_ms;
                    self.ran_ms = self.ran_ms.max(*ran_ms);
                    Ok(more)
                }
                _ => Err(self.out_of_order("ran")),
            },
            Fact::Counted { tokens } => match self.phase {
                // After the end what was on its way may still be learned.
                Phase::Running | Phase::Ended if self.terms.tokens.is_some() && self.started_at.is_some() => {
                    let grown = self.tokens.max(*tokens);
                    let more = grown != self.tokens;
                    self.tokens = grown;
                    Ok(more)
                }
                _ => Err(self.out_of_order("counted")),
            },
            Fact::Paid(voucher) => self.on_paid(voucher),
            Fact::Ended { end, ran_ms } => self.on_ended(end, *ran_ms, now),
            Fact::SettleSent => match self.phase {
                Phase::Ended if self.deposit_seen() => self.go_to(Phase::Settling),
                Phase::Settling | Phase::Closed => Ok(false),
                _ => Err(self.out_of_order("settle")),
            },
            Fact::Closed { redeemed, refunded } => self.on_closed(*redeemed, *refunded, now),
            Fact::Voided => match self.phase {
                Phase::Accepted => self.go_to(Phase::Void),
                // A slot in which something may still run is not given away.
                Phase::Ended if !self.deposit_seen() => self.go_to(Phase::Void),
                Phase::Void => Ok(false),
                _ => Err(self.out_of_order("void")),
            },
        }
    }

    fn go_to(&mut self, phase: Phase) -> Result<bool, FactRefused> {
        self.phase = phase;
        Ok(true)
    }

    const fn out_of_order(&self, fact: &'static str) -> FactRefused {
        FactRefused::OutOfOrder { fact, phase: self.phase }
    }

    fn on_opened(&mut self, deposit: TokenAmount, now: TimeMs) -> Result<bool, FactRefused> {
        if deposit < self.terms.deposit {
            return Err(FactRefused::DepositShort { got: deposit, agreed: self.terms.deposit });
        }
        match self.phase {
            Phase::Accepted | Phase::Starting | Phase::Ended if !self.deposit_seen() => {
                self.deposit = deposit;
                self.opened_at = Some(now);
                match (self.phase, self.started_at) {
                    (Phase::Starting, Some(_)) => {
                        // What ran until now is nobody's debt.
                        self.started_at = Some(now);
                        self.go_to(Phase::Running)
                    }
                    (Phase::Accepted, _) => self.go_to(Phase::Open),
                    _ => Ok(true),
                }
            }
            Phase::Void => Err(self.out_of_order("opened")),
            _ => self.on_topped_up(deposit),
        }
    }

    fn on_started(&mut self, now: TimeMs) -> Result<bool, FactRefused> {
        match self.phase {
            Phase::Open | Phase::Starting if self.deposit_seen() => {
                self.started_at = Some(now);
                self.go_to(Phase::Running)
            }
            // It counts as running once the deposit is seen.
            Phase::Starting => {
                let news = self.started_at.is_none();
                self.started_at = self.started_at.or(Some(now));
                Ok(news)
            }
            Phase::Running => Ok(false),
            _ => Err(self.out_of_order("started")),
        }
    }

    fn on_topped_up(&mut self, deposit: TokenAmount) -> Result<bool, FactRefused> {
        match self.phase {
            Phase::Accepted | Phase::Void => Err(self.out_of_order("topped up")),
            Phase::Starting | Phase::Ended if !self.deposit_seen() => Err(self.out_of_order("topped up")),
            _ => {
                let more = deposit > self.deposit;
                self.deposit = self.deposit.max(deposit);
                Ok(more)
            }
        }
    }

    fn on_paid(&mut self, signed: &SignedVoucher) -> Result<bool, FactRefused> {
        if !self.deposit_seen() || !matches!(self.phase, Phase::Running | Phase::Ended) {
            return if self.voucher.as_ref() == Some(signed) { Ok(false) } else { Err(self.out_of_order("paid")) };
        }
        let earlier = self.voucher.map(|v| v.voucher);
        signed.voucher.check(self.id(), self.deposit, earlier.as_ref())?;
        if earlier.is_some_and(|e| e.amount == signed.voucher.amount) {
            return Ok(false);
        }
        self.voucher = Some(*signed);
        self.vouchers = self.vouchers.saturating_add(1);
        Ok(true)
    }

    fn on_ended(&mut self, end: &End, ran_ms: u64, now: TimeMs) -> Result<bool, FactRefused> {
        match self.phase {
            Phase::Open | Phase::Starting | Phase::Running => {
                // What never started never ran, and what ran before the deposit was seen does not count.
                if self.phase == Phase::Running {
                    self.ran_ms = self.ran_ms.max(ran_ms);
                } else {
                    self.started_at = None;
                }
                self.end = Some(end.clone());
                self.ended_at = Some(now);
                self.go_to(Phase::Ended)
            }
            Phase::Ended | Phase::Settling | Phase::Closed => Ok(false),
            Phase::Accepted | Phase::Void => Err(self.out_of_order("ended")),
        }
    }

    fn on_closed(&mut self, redeemed: TokenAmount, refunded: TokenAmount, now: TimeMs) -> Result<bool, FactRefused> {
        match self.phase {
            Phase::Closed => Ok(false),
            Phase::Void => Err(self.out_of_order("closed")),
            _ => {
                if self.end.is_none() {
                    self.end = Some(End::NeverStarted);
                    self.ended_at = Some(now);
                }
                if !self.deposit_seen() {
                    self.started_at = None;
                }
                self.redeemed = redeemed;
                self.refunded = refunded;
                self.go_to(Phase::Closed)
            }
        }
    }
}

#[cfg(test)]
mod tests;
