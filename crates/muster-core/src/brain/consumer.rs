//! The brain of a consumer: [`Seek`] finds a Container through one of many Indexers; [`Renting`]
//! carries one lease from the deposit to the refund.

mod seek;

use serde::{Deserialize, Serialize};

use crate::inference::TokenCounts;
use crate::lease::{End, Fact, Lease, LeaseTerms, Phase};
use crate::params::Params;
use crate::protocol::{EscrowLease, EscrowStatus, Matched, NodeAddr, ToConsumer};
use crate::units::{TimeMs, TokenAmount};
use crate::voucher::SignedVoucher;

pub use self::seek::{Seek, SeekStep, check_matched};

/// How often the chain is asked while something is awaited from it, in milliseconds.
const CHAIN_POLL_MS: u64 = 1_000;
/// How often a lost Container is dialled again, in milliseconds.
const REDIAL_MS: u64 = 1_000;
/// How long a Container that is still attached may take to name the transaction in which it settled, after the chain
/// itself has shown the lease as closed.
const NAME_TX_MS: u64 = 3_000;
/// A lost Container is given up after so many voucher intervals.
const LOST_INTERVALS: u64 = 3;

/// The durable record of one lease on the consumer's side.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rented {
    /// The lease.
    pub lease: Lease,
    /// Where its Container is dialled.
    pub container: NodeAddr,
    /// When the go was given, by this side's clock: nothing ran before.
    pub go_at: Option<TimeMs>,
    /// The consumer wants it stopped.
    pub stop_asked: bool,
    /// Outputs are here, or were given up.
    pub outputs_taken: bool,
    /// The Container has given the lease up.
    pub gone: Option<String>,
    /// The transaction in which the Container settled, as it says.
    pub settle_tx: Option<[u8; 32]>,
    /// What its model's answers counted, as this side has seen them.
    pub answered: TokenCounts,
    /// What answers may have counted at most whose count was lost on its way.
    pub lost: TokenCounts,
}

impl Rented {
    /// A lease whose slot has just been taken.
    #[must_use]
    pub const fn new(terms: LeaseTerms, container: NodeAddr, now: TimeMs) -> Self {
        Self {
            lease: Lease::accepted(terms, now),
            container,
            go_at: None,
            stop_asked: false,
            outputs_taken: false,
            gone: None,
            settle_tx: None,
            answered: TokenCounts::ZERO,
            lost: TokenCounts::ZERO,
        }
    }
}

/// What happened.
#[derive(Clone, Debug)]
pub enum Event {
    /// Begin, or go on after a restart.
    Begin,
    /// The transaction that opens the lease is written down and on its way: it is sent until the chain has decided.
    OpenSent,
    /// The chain will never open this lease.
    OpenFailed {
        /// Why.
        why: String,
    },
    /// The chain's view.
    ChainSeen(EscrowLease),
    /// The control stream stands and `Attach` was sent.
    Connected,
    /// It broke, or could not be made.
    Lost {
        /// Why.
        why: String,
        /// The Container cut this side off for what it said, or still turns it away for that.
        cut_off: bool,
    },
    /// The Container says.
    Heard(ToConsumer),
    /// All inputs are at the Container.
    InputsSent,
    /// The inputs cannot be sent; the lease ends.
    InputsFailed {
        /// Why.
        why: String,
    },
    /// An answer of the lease's model has come to its end, and counted so much.
    Answered {
        /// By the engine's count, as it came.
        counts: TokenCounts,
    },
    /// The count of an answer was lost with its stream.
    AnswerLost {
        /// The most that it may have been.
        most: TokenCounts,
    },
    /// The session key has signed.
    Signed(SignedVoucher),
    /// The consumer wants it stopped.
    Stop,
    /// Outputs and logs are here, or cannot be had.
    OutputsTaken,
    /// Time passes.
    Tick,
}

/// What to do, in order.
#[derive(Clone, Debug, PartialEq)]
pub enum Effect {
    /// Write the record durably before anything that follows.
    Save,
    /// Open the lease on the chain (the same lease never twice) and report `ChainSeen` or `OpenFailed`.
    OpenOnChain,
    /// Dial the Container and attach.
    Connect,
    /// Send the inputs.
    SendInputs,
    /// Send the job: begin.
    Go,
    /// Sign a voucher over this amount and report `Signed`.
    Sign(TokenAmount),
    /// Send a voucher.
    Pay(SignedVoucher),
    /// Ask the Container to stop.
    SayStop,
    /// Tell the Container that its copies may go.
    SayTaken,
    /// Tell the Container that the deposit grew.
    SayToppedUp,
    /// Fetch outputs and what is left of the logs.
    TakeOutputs,
    /// Ask the chain.
    AskChain,
    /// Hand the last voucher to the escrow, if there is one (anyone may), and once that is in a block close the lease
    /// there as its consumer: a Container that stays away for longer than the challenge window gets what was vouched.
    CloseOnChain,
    /// The challenge window may be over: finalise if so.
    Finalize,
    /// The deposit lasts only so long.
    DepositLow {
        /// Milliseconds of running that it still pays for.
        left_ms: u64,
    },
    /// The deposit of a model's lease pays only for so much more.
    TokensLow {
        /// What is left of it.
        left: TokenAmount,
    },
    /// The workload reports running.
    NowRunning,
    /// The workload is over, as far as this lease goes.
    NowEnded,
    /// The Container refused something.
    Complaint(String),
    /// Nothing more will happen.
    Finished,
}

/// One lease, seen from who pays.
#[derive(Clone, Debug)]
pub struct Renting {
    rented: Rented,
    params: Params,
    connected: bool,
    /// The work may begin while the deposit is on its way.
    starts_early: bool,
    open_sent: bool,
    /// The Container has said on this line that it waits for the deposit.
    awaits_deposit: bool,
    inputs_asked: bool,
    go_sent: bool,
    outputs_asked: bool,
    close_sent_at: Option<TimeMs>,
    /// The chain has shown the lease closing: what is signed from then on may come too late to be paid.
    closing_seen: bool,
    warned_at: TokenAmount,
    lost_at: Option<TimeMs>,
    lost_why: String,
    /// With which words the Container cut this side off before anything ran.
    turned_away: Option<String>,
    dialled_at: TimeMs,
    asked_chain_at: TimeMs,
    stop_said: bool,
    closed_at: Option<TimeMs>,
    /// The Container saw the deposit before this side did: what it said waits until this side has seen it too.
    early: Option<ToConsumer>,
    finished: bool,
    /// What the Container last said that its model has counted.
    claimed: TokenCounts,
    /// Answers may have come that were not written down before a restart.
    forgetful: bool,
}

impl Renting {
    /// A lease whose slot is held by a Container.
    #[must_use]
    pub fn new(matched: Matched, params: Params, now: TimeMs) -> Self {
        Self { forgetful: false, ..Self::restore(Rented::new(matched.terms, matched.container, now), params, now) }
    }

    /// A lease as it was saved.
    #[must_use]
    pub const fn restore(rented: Rented, params: Params, now: TimeMs) -> Self {
        Self {
            rented,
            params,
            connected: false,
            starts_early: false,
            open_sent: false,
            awaits_deposit: false,
            inputs_asked: false,
            go_sent: false,
            outputs_asked: false,
            close_sent_at: None,
            closing_seen: false,
            warned_at: TokenAmount::ZERO,
            lost_at: None,
            lost_why: String::new(),
            turned_away: None,
            dialled_at: now,
            asked_chain_at: now,
            stop_said: false,
            closed_at: None,
            early: None,
            finished: false,
            claimed: TokenCounts::ZERO,
            forgetful: true,
        }
    }

    /// Whether the work may begin while the deposit is on its way: for a live session, whose person waits, and without
    /// inputs, which a Container takes once it sees the deposit.
    #[must_use]
    pub const fn with_early_start(mut self, starts_early: bool) -> Self {
        self.starts_early = starts_early;
        self
    }

    /// The record.
    #[must_use]
    pub const fn rented(&self) -> &Rented {
        &self.rented
    }

    /// The lease.
    #[must_use]
    pub const fn lease(&self) -> &Lease {
        &self.rented.lease
    }

    /// Whether nothing is left for this side but to see the chain close the lease.
    #[must_use]
    pub fn only_settlement_left(&self) -> bool {
        let l = &self.rented.lease;
        matches!(l.phase, Phase::Ended | Phase::Settling | Phase::Closed | Phase::Void)
            // What the chain has closed can be paid no more.
            && (l.phase.is_final() || l.paid() >= l.due())
            && (self.rented.outputs_taken || !self.wants_outputs())
    }

    /// Takes in what happened and says what to do.
    pub fn handle(&mut self, event: Event, now: TimeMs) -> Vec<Effect> {
        let mut out = Vec::new();
        match event {
            Event::Begin => self.begin(&mut out),
            Event::OpenSent => {
                self.open_sent = true;
                self.go_early(now, &mut out);
            }
            Event::OpenFailed { why } => self.on_open_failed(why, now, &mut out),
            Event::ChainSeen(view) => self.on_chain(&view, now, &mut out),
            Event::Connected => {
                self.connected = true;
                self.lost_at = None;
                self.stop_said = false;
                self.awaits_deposit = false;
                self.go_sent = false;
                self.inputs_asked = false;
                self.outputs_asked = false;
            }
            Event::Lost { why, cut_off } => {
                if self.connected || self.lost_at.is_none() {
                    self.lost_at = self.lost_at.or(Some(now));
                }
                self.connected = false;
                if cut_off && self.rented.lease.phase <= Phase::Starting {
                    self.turned_away = Some(why.clone());
                }
                self.lost_why = why;
                self.leave(now, &mut out);
            }
            Event::Heard(message) => self.on_heard(message, now, &mut out),
            Event::InputsSent => self.on_inputs_sent(now, &mut out),
            Event::InputsFailed { why } => {
                out.push(Effect::Complaint(why));
                self.on_stop(&mut out);
            }
            Event::Answered { counts } => {
                self.rented.answered += counts;
                self.take_claim(now, &mut out);
            }
            Event::AnswerLost { most } => {
                self.rented.lost += most;
                self.take_claim(now, &mut out);
            }
            Event::Signed(voucher) => self.on_signed(voucher, now, &mut out),
            Event::Stop => self.on_stop(&mut out),
            Event::OutputsTaken => {
                if !self.rented.outputs_taken {
                    self.rented.outputs_taken = true;
                    out.push(Effect::Save);
                    out.push(Effect::SayTaken);
                }
            }
            Event::Tick => self.on_tick(now, &mut out),
        }
        if self.rented.lease.phase.is_final() && !self.finished && self.only_settlement_left() && !self.awaits_tx(now) {
            self.finished = true;
            out.push(Effect::Finished);
        }
        out
    }

    /// Whether the Container is about to say in which transaction it was paid.
    fn awaits_tx(&mut self, now: TimeMs) -> bool {
        let closed_at = *self.closed_at.get_or_insert(now);
        self.connected
            && self.rented.settle_tx.is_none()
            && self.rented.lease.paid() > TokenAmount::ZERO
            && now.since(closed_at) < NAME_TX_MS
    }

    fn begin(&mut self, out: &mut Vec<Effect>) {
        out.push(Effect::Save);
        match self.rented.lease.phase {
            Phase::Accepted => {
                out.push(Effect::OpenOnChain);
                out.push(Effect::Connect);
            }
            Phase::Open | Phase::Starting | Phase::Running => out.push(Effect::Connect),
            Phase::Ended | Phase::Settling | Phase::Closed => {
                out.push(Effect::AskChain);
                if !self.only_settlement_left() {
                    out.push(Effect::Connect);
                }
            }
            Phase::Void => {}
        }
    }

    fn on_open_failed(&mut self, why: String, now: TimeMs, out: &mut Vec<Effect>) {
        if self.rented.lease.apply(&Fact::Voided, now) == Ok(true) {
            self.rented.gone = Some(why);
            self.rented.outputs_taken = true;
            out.push(Effect::Save);
            out.push(Effect::SayStop);
            out.push(Effect::NowEnded);
        }
    }

    fn on_chain(&mut self, view: &EscrowLease, now: TimeMs, out: &mut Vec<Effect>) {
        match view.status {
            EscrowStatus::None => {}
            EscrowStatus::Open => {
                let grown = view.deposit > self.rented.lease.deposit && self.rented.lease.phase >= Phase::Running;
                if self.rented.lease.apply(&Fact::Opened { deposit: view.deposit }, now) == Ok(true) {
                    out.push(Effect::Save);
                    if grown {
                        out.push(Effect::SayToppedUp);
                    }
                }
                if let Some(message) = self.early.take() {
                    self.on_heard(message, now, out);
                }
                if self.rented.gone.is_some() {
                    self.give_up("the Container gave the slot away", now, out);
                }
            }
            EscrowStatus::Closing => {
                self.closing_seen = true;
                out.push(Effect::Finalize);
            }
            EscrowStatus::Closed => {
                let was_over = self.rented.lease.end.is_some();
                let refunded = view.deposit.saturating_sub(view.redeemed);
                let fact = Fact::Closed { redeemed: view.redeemed, refunded };
                if self.rented.lease.apply(&fact, now) == Ok(true) {
                    out.push(Effect::Save);
                    if !was_over {
                        out.push(Effect::NowEnded);
                    }
                }
            }
        }
    }

    fn on_heard(&mut self, message: ToConsumer, now: TimeMs, out: &mut Vec<Effect>) {
        match message {
            ToConsumer::Attached { phase, ran_ms, paid } => self.on_attached(phase, ran_ms, paid, now, out),
            ToConsumer::Open => self.want_inputs(out),
            ToConsumer::Refused { why } => out.push(Effect::Complaint(why)),
            ToConsumer::Started => self.on_started(now, out),
            ToConsumer::Usage { ran_ms } => self.on_usage(ran_ms, now, out),
            ToConsumer::Counted { tokens } => {
                self.claimed = tokens;
                self.take_claim(now, out);
            }
            ToConsumer::Ended { end, ran_ms } => self.on_ended(end, ran_ms, now, out),
            ToConsumer::Settled { tx, .. } => {
                self.rented.settle_tx = tx.or(self.rented.settle_tx);
                out.push(Effect::Save);
                out.push(Effect::AskChain);
            }
            ToConsumer::Gone { why } => self.on_gone(why, now, out),
            ToConsumer::Pong => {}
        }
    }

    fn on_attached(&mut self, phase: Phase, ran_ms: u64, paid: TokenAmount, now: TimeMs, out: &mut Vec<Effect>) {
        if self.rented.stop_asked {
            self.say_stop(out);
        }
        match phase {
            Phase::Open => {
                // It has not begun, as it says itself: a go that was lost with the line bounds nothing.
                self.rented.go_at = None;
                self.want_inputs(out);
            }
            Phase::Running => {
                self.on_started(now, out);
                self.on_usage(ran_ms, now, out);
            }
            Phase::Accepted => {
                self.awaits_deposit = true;
                self.go_early(now, out);
            }
            Phase::Starting | Phase::Ended | Phase::Settling | Phase::Closed | Phase::Void => {}
        }
        // A voucher that was signed may not have arrived before the line broke.
        if let Some(voucher) = self.rented.lease.voucher
            && voucher.voucher.amount > paid
        {
            out.push(Effect::Pay(voucher));
        }
    }

    fn want_inputs(&mut self, out: &mut Vec<Effect>) {
        if self.rented.lease.started_at.is_none() && !self.inputs_asked && !self.rented.stop_asked {
            self.inputs_asked = true;
            out.push(Effect::SendInputs);
        }
    }

    /// Says go although the Container does not see the deposit yet: the program starts while the chain works.
    fn go_early(&mut self, now: TimeMs, out: &mut Vec<Effect>) {
        let on_its_way = match self.rented.lease.phase {
            Phase::Accepted => self.open_sent,
            phase => phase == Phase::Open,
        };
        let wanted = self.starts_early && self.rented.gone.is_none() && !self.go_sent && self.turned_away.is_none();
        if wanted && on_its_way && self.connected && self.awaits_deposit {
            self.on_inputs_sent(now, out);
        }
    }

    fn on_inputs_sent(&mut self, now: TimeMs, out: &mut Vec<Effect>) {
        if self.rented.stop_asked {
            return;
        }
        // Before the go nothing can have run: this is the bound of what may ever be billed.
        self.rented.go_at = self.rented.go_at.or(Some(now));
        self.go_sent = true;
        out.push(Effect::Save);
        out.push(Effect::Go);
    }

    fn on_started(&mut self, now: TimeMs, out: &mut Vec<Effect>) {
        if self.rented.go_at.is_none() {
            out.push(Effect::Complaint("the Container says that the job runs, but it was never told to begin".into()));
            return;
        }
        // The Container may have seen the deposit before this side did.
        if self.rented.lease.phase == Phase::Accepted {
            self.early.get_or_insert(ToConsumer::Started);
            out.push(Effect::AskChain);
            return;
        }
        if self.rented.lease.apply(&Fact::Started, now) == Ok(true) {
            out.push(Effect::Save);
            out.push(Effect::NowRunning);
        }
    }

    /// What of a Container's claim can be true: nothing runs longer than since the go, give or take
    /// 200 millionths for two clocks that differ, nor longer than was agreed.
    fn believable(&self, ran_ms: u64, now: TimeMs) -> u64 {
        let elapsed = self.rented.go_at.map_or(0, |at| now.since(at));
        let limit_ms = self.rented.lease.terms.max_seconds.saturating_mul(1_000);
        ran_ms.min(elapsed.saturating_add(elapsed / 5_000)).min(limit_ms)
    }

    /// Takes as much of the Container's count as can be true. It is paid with the usage that follows, or with the end.
    fn take_claim(&mut self, now: TimeMs, out: &mut Vec<Effect>) {
        if self.rented.lease.terms.tokens.is_none() || self.rented.lease.phase < Phase::Running {
            return;
        }
        let tokens = self.believable_tokens(self.claimed);
        let _known = self.rented.lease.apply(&Fact::Counted { tokens }, now);
        let due = self.rented.lease.due();
        self.sign_rest(due, out);
    }

    /// What of a Container's count can be true: no more than the answers that came, and those that were lost. After a
    /// restart this side may have forgotten some: within what may be unpaid the Container is believed then, once.
    fn believable_tokens(&mut self, claim: TokenCounts) -> TokenCounts {
        let known = self.rented.answered.plus(self.rented.lost);
        if core::mem::take(&mut self.forgetful)
            && let Some(terms) = &self.rented.lease.terms.tokens
            && terms.rates.cost(claim).saturating_sub(self.rented.lease.paid()) <= terms.credit
        {
            self.rented.answered = known.max(claim);
            return claim;
        }
        let input = claim.input.min(known.input);
        // Remembered tokens are the cheaper ones: fewer of them would cost more.
        let cached = claim.cached.max(self.rented.answered.cached).min(input);
        TokenCounts { input, cached, output: claim.output.min(known.output) }
    }

    fn on_usage(&mut self, ran_ms: u64, now: TimeMs, out: &mut Vec<Effect>) {
        let ran_ms = self.believable(ran_ms, now);
        if self.rented.lease.phase != Phase::Running {
            return;
        }
        let _known = self.rented.lease.apply(&Fact::Ran { ran_ms }, now);
        let cost = self.rented.lease.cost_of(ran_ms);
        if cost > self.rented.lease.paid() {
            out.push(Effect::Sign(cost));
        }
        if let Some(left) = self.rented.lease.tokens_left_low() {
            if self.warned_at != self.rented.lease.deposit {
                self.warned_at = self.rented.lease.deposit;
                out.push(Effect::TokensLow { left });
            }
            return;
        }
        let left_ms = self.rented.lease.deposit_left_ms();
        let low_ms = (self.rented.lease.terms.interval_ms.saturating_mul(5)).max(ran_ms / 10);
        // A deposit that outlasts the time limit is not low.
        let limit_ms = self.rented.lease.terms.max_seconds.saturating_mul(1_000);
        if left_ms <= low_ms && left_ms < limit_ms.saturating_sub(ran_ms) && self.warned_at != self.rented.lease.deposit
        {
            self.warned_at = self.rented.lease.deposit;
            out.push(Effect::DepositLow { left_ms });
        }
    }

    fn on_ended(&mut self, end: End, ran_ms: u64, now: TimeMs, out: &mut Vec<Effect>) {
        let ran_ms = self.believable(ran_ms, now);
        if self.rented.lease.phase == Phase::Accepted {
            self.early = Some(ToConsumer::Ended { end, ran_ms });
            out.push(Effect::AskChain);
            return;
        }
        // A very short job may be over before this side heard that it began.
        if ran_ms > 0 && self.rented.go_at.is_some() {
            let _known = self.rented.lease.apply(&Fact::Started, now);
        }
        match self.rented.lease.apply(&Fact::Ended { end, ran_ms }, now) {
            Ok(true) => {
                out.push(Effect::Save);
                out.push(Effect::NowEnded);
            }
            Ok(false) => {}
            Err(why) => {
                out.push(Effect::Complaint(why.to_string()));
                return;
            }
        }
        let due = self.rented.lease.due();
        self.sign_rest(due, out);
        if self.rented.outputs_taken {
            out.push(Effect::SayTaken);
        } else if self.wants_outputs() {
            if !self.outputs_asked {
                self.outputs_asked = true;
                out.push(Effect::TakeOutputs);
            }
        } else {
            self.rented.outputs_taken = true;
            out.push(Effect::Save);
            out.push(Effect::SayTaken);
        }
    }

    /// Signs what is due at the end. Not once the lease closes on the chain, where this side handed in what it had signed
    /// because the Container stayed away: nobody could be sure any more that the voucher is paid.
    fn sign_rest(&self, due: TokenAmount, out: &mut Vec<Effect>) {
        if self.rented.lease.phase == Phase::Ended && due > self.rented.lease.paid() && !self.closing_seen {
            out.push(Effect::Sign(due));
        }
    }

    const fn wants_outputs(&self) -> bool {
        match &self.rented.lease.end {
            Some(End::NeverStarted | End::FailedToStart(_)) => false,
            Some(_) => self.rented.gone.is_none(),
            None => false,
        }
    }

    fn on_signed(&mut self, voucher: SignedVoucher, now: TimeMs, out: &mut Vec<Effect>) {
        match self.rented.lease.apply(&Fact::Paid(voucher), now) {
            Ok(true) => {
                out.push(Effect::Save);
                out.push(Effect::Pay(voucher));
            }
            Ok(false) => {}
            Err(why) => out.push(Effect::Complaint(why.to_string())),
        }
    }

    fn on_stop(&mut self, out: &mut Vec<Effect>) {
        if self.rented.lease.end.is_some() || self.rented.lease.phase.is_final() {
            return;
        }
        self.rented.stop_asked = true;
        out.push(Effect::Save);
        self.say_stop(out);
    }

    fn say_stop(&mut self, out: &mut Vec<Effect>) {
        if !self.stop_said && self.connected {
            self.stop_said = true;
            out.push(Effect::SayStop);
        }
    }

    fn on_gone(&mut self, why: String, now: TimeMs, out: &mut Vec<Effect>) {
        if self.rented.gone.is_none() {
            self.rented.gone = Some(why.clone());
            out.push(Effect::Save);
            out.push(Effect::Complaint(why.clone()));
        }
        match self.rented.lease.phase {
            Phase::Accepted => out.push(Effect::AskChain),
            Phase::Open | Phase::Starting | Phase::Running => self.give_up(&why, now, out),
            Phase::Ended | Phase::Settling | Phase::Closed | Phase::Void => {}
        }
    }

    /// The Container cannot be counted on any more: end the lease here and get the rest back.
    fn give_up(&mut self, why: &str, now: TimeMs, out: &mut Vec<Effect>) {
        let ran_ms = self.rented.lease.ran_ms;
        let end = if self.rented.stop_asked { End::StoppedByConsumer } else { End::Interrupted(why.to_owned()) };
        if self.rented.lease.apply(&Fact::Ended { end, ran_ms }, now) == Ok(true) {
            // Only what was signed is owed: the Container is not there to show more.
            self.rented.lease.ran_ms = ran_ms
                .min(self.rented.lease.paid().ms_at_rate(self.rented.lease.terms.rate_per_second).unwrap_or(ran_ms));
            self.rented.outputs_taken = true;
            self.close_sent_at = Some(now);
            out.push(Effect::Save);
            out.push(Effect::NowEnded);
            out.push(Effect::CloseOnChain);
        }
    }

    /// What a Container did not understand it would be told again on the next line: somebody else is better. Work that runs
    /// already may outlast the ban, and a deposit on its way has to be seen first.
    fn leave(&mut self, now: TimeMs, out: &mut Vec<Effect>) {
        if matches!(self.rented.lease.phase, Phase::Open | Phase::Starting)
            && let Some(words) = &self.turned_away
        {
            let why = format!(
                "the Container turned this side away before the start (it may run another version of muster): {words}"
            );
            self.give_up(&why, now, out);
        }
    }

    fn on_tick(&mut self, now: TimeMs, out: &mut Vec<Effect>) {
        self.leave(now, out);
        let over = self.rented.lease.end.is_some();
        let params_lost = self.params.voucher_interval_ms.saturating_mul(LOST_INTERVALS);
        if let Some(at) = self.lost_at
            && !over
            && self.rented.lease.phase >= Phase::Open
            && now.since(at) > params_lost
        {
            let why = format!("the Container cannot be reached any more: {}", self.lost_why);
            self.give_up(&why, now, out);
        }
        // Also when closed on the chain: outputs may still be on their way. And until then although all is signed: a
        // Container that crashed may have lost the last voucher, and settles with what it has.
        let unsettled = self.rented.lease.phase == Phase::Ended && self.rented.lease.voucher.is_some();
        let needs_line = (unsettled || !self.only_settlement_left()) && self.rented.gone.is_none();
        if !self.connected && needs_line && now.since(self.dialled_at) >= REDIAL_MS {
            self.dialled_at = now;
            out.push(Effect::Connect);
        }
        let awaits_chain = matches!(self.rented.lease.phase, Phase::Accepted | Phase::Ended | Phase::Settling);
        if awaits_chain && now.since(self.asked_chain_at) >= CHAIN_POLL_MS {
            self.asked_chain_at = now;
            out.push(Effect::AskChain);
        }
        let ended = self.rented.lease.ended_at.unwrap_or(now);
        let patient = now.since(ended) <= self.params.close_patience_ms;
        if matches!(self.rented.lease.phase, Phase::Ended | Phase::Settling) && !patient {
            let again = self.close_sent_at.is_none_or(|at| now.since(at) > self.params.close_patience_ms);
            if again {
                self.close_sent_at = Some(now);
                let due = self.rented.lease.due();
                // A crash came between the end and the last voucher, and the Container asks for it no more.
                self.sign_rest(due, out);
                out.push(Effect::CloseOnChain);
            }
            if !self.rented.outputs_taken {
                // Nobody answers any more.
                self.rented.outputs_taken = true;
                out.push(Effect::Save);
            }
        }
    }
}

#[cfg(test)]
mod tests;
