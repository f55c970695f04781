//! The lease: one state machine that consumer, Indexer and Container all run.
//!
//! ```text
//!             Opened          StartRequested       Started          Ended          SettleSent        Closed
//!  Accepted ---------> Open ----------------> Starting ------> Running -----> Ended ----------> Settling ------> Closed
//!     |                  |                        |                             ^
//!     | Voided           +------------------------+---------- Ended ------------+
//!     v
//!   Void
//! ```
//!
//! A body applies a fact to the lease, writes the lease down durably, and only then acts on it. Facts
//! that arrive twice change nothing; facts that cannot follow are refused and change nothing.
//! Billing counts the milliseconds that the workload ran, never the wall clock of the lease.

use core::fmt;

use serde::{Deserialize, Serialize};

use crate::hardware::Allocation;
use crate::ids::{Address, LeaseId, NodeId, RequestId};
use crate::units::{TimeMs, TokenAmount};
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
    /// Nobody used the session any more.
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
            Self::Idle => f.write_str("the session ended because nobody used it any more; start another one"),
        }
    }
}

/// Where a lease stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Phase {
    /// The Container holds the slot; the deposit is not seen yet.
    Accepted,
    /// The deposit is on the chain; inputs may be on their way.
    Open,
    /// The Container was told to begin and has written that down.
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
    StartRequested,
    /// The workload reported that it runs.
    Started,
    /// It has run so long.
    Ran {
        /// Milliseconds since it started.
        ran_ms: u64,
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
    /// When the workload reported running, by this side's clock.
    pub started_at: Option<TimeMs>,
    /// When the workload was over, by this side's clock.
    pub ended_at: Option<TimeMs>,
    /// Milliseconds that the workload ran, as last reported.
    pub ran_ms: u64,
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

    /// What has been promised so far.
    #[must_use]
    pub fn paid(&self) -> TokenAmount {
        self.voucher.map_or(TokenAmount::ZERO, |v| v.voucher.amount)
    }

    /// What `ran_ms` of running cost: rate × time, rounded down, never above the deposit.
    #[must_use]
    pub fn cost_of(&self, ran_ms: u64) -> TokenAmount {
        self.terms.rate_per_second.per_second_for_ms(ran_ms).min(self.deposit)
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
            Fact::StartRequested => match self.phase {
                Phase::Open => self.go_to(Phase::Starting),
                Phase::Starting | Phase::Running => Ok(false),
                _ => Err(self.out_of_order("start")),
            },
            Fact::Started => match self.phase {
                Phase::Open | Phase::Starting => {
                    self.started_at = Some(now);
                    self.go_to(Phase::Running)
                }
                Phase::Running => Ok(false),
                _ => Err(self.out_of_order("started")),
            },
            Fact::Ran { ran_ms } => match self.phase {
                Phase::Running => {
                    let more = *ran_ms > self.ran_ms;
                    self.ran_ms = self.ran_ms.max(*ran_ms);
                    Ok(more)
                }
                _ => Err(self.out_of_order("ran")),
            },
            Fact::Paid(voucher) => self.on_paid(voucher),
            Fact::Ended { end, ran_ms } => self.on_ended(end, *ran_ms, now),
            Fact::SettleSent => match self.phase {
                Phase::Ended => self.go_to(Phase::Settling),
                Phase::Settling | Phase::Closed => Ok(false),
                _ => Err(self.out_of_order("settle")),
            },
            Fact::Closed { redeemed, refunded } => self.on_closed(*redeemed, *refunded, now),
            Fact::Voided => match self.phase {
                Phase::Accepted => self.go_to(Phase::Void),
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
            Phase::Accepted => {
                self.deposit = deposit;
                self.opened_at = Some(now);
                self.go_to(Phase::Open)
            }
            Phase::Void => Err(self.out_of_order("opened")),
            _ => self.on_topped_up(deposit),
        }
    }

    fn on_topped_up(&mut self, deposit: TokenAmount) -> Result<bool, FactRefused> {
        match self.phase {
            Phase::Accepted | Phase::Void => Err(self.out_of_order("topped up")),
            _ => {
                let more = deposit > self.deposit;
                self.deposit = self.deposit.max(deposit);
                Ok(more)
            }
        }
    }

    fn on_paid(&mut self, signed: &SignedVoucher) -> Result<bool, FactRefused> {
        if !matches!(self.phase, Phase::Running | Phase::Ended) {
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
                // What never started never ran.
                if self.started_at.is_some() {
                    self.ran_ms = self.ran_ms.max(ran_ms);
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
                self.redeemed = redeemed;
                self.refunded = refunded;
                self.go_to(Phase::Closed)
            }
        }
    }
}
