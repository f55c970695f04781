//! A model of the escrow: the rules of the contract, without the machine that runs it.

use std::collections::{BTreeMap, BTreeSet};

use muster_core::ids::{Address, LeaseId, NodeId};
use muster_core::protocol::{EscrowLease, EscrowStatus};
use muster_core::units::{TimeMs, TokenAmount};
use muster_core::voucher::SignedVoucher;

use crate::container::container_index;
use crate::world::container_account;

/// Which kind an opening is.
pub(crate) const OPEN_KIND: u8 = 0;

/// Something that a node wants done on the chain, once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Op {
    /// Open a lease.
    Open(EscrowLease),
    /// Pay with the last voucher and close, as the Container.
    Settle(Option<SignedVoucher>),
    /// Ask to close, as the consumer.
    Close,
    /// Close after the challenge window.
    Finalize,
    /// Add to the deposit.
    TopUp(TokenAmount),
    /// Pay with a voucher; the lease stays as it is. Anybody may.
    Redeem(SignedVoucher),
}

impl Op {
    /// Which kind, for the name of the intent.
    #[must_use]
    pub(crate) const fn kind(&self) -> u8 {
        match self {
            Self::Open(_) => OPEN_KIND,
            Self::Settle(_) => 1,
            Self::Close => 2,
            Self::Finalize => 3,
            Self::TopUp(_) => 4,
            Self::Redeem(_) => 5,
        }
    }
}

/// The name of what somebody wants done: sender, lease, kind, attempt.
type Intent = (Address, LeaseId, u8, u64);

/// The escrow and the balances around it.
#[derive(Clone, Debug)]
pub(crate) struct Chain {
    leases: BTreeMap<LeaseId, (EscrowLease, Option<TimeMs>)>,
    balances: BTreeMap<Address, u128>,
    /// What Containers have earned, by their key.
    pub earned: BTreeMap<NodeId, u128>,
    /// What the network kept.
    pub fees: u128,
    escrow: u128,
    supply: u128,
    /// What was carried out, and whether it had an effect.
    done: BTreeMap<Intent, bool>,
    /// What waits for its block.
    waiting: BTreeSet<Intent>,
    /// When each lease was opened.
    opened_at: BTreeMap<LeaseId, TimeMs>,
    /// Leases that were closed without their Container.
    pub finalized: BTreeSet<LeaseId>,
    challenge_ms: u64,
    fee_bps: u128,
}

impl Chain {
    /// A chain on which each of these accounts has `balance`.
    #[must_use]
    pub(crate) fn new(accounts: &[Address], balance: u128, challenge_ms: u64, fee_bps: u16) -> Self {
        let balances: BTreeMap<Address, u128> = accounts.iter().map(|a| (*a, balance)).collect();
        let supply = balances.values().sum();
        Self {
            leases: BTreeMap::new(),
            balances,
            earned: BTreeMap::new(),
            fees: 0,
            escrow: 0,
            supply,
            done: BTreeMap::new(),
            waiting: BTreeSet::new(),
            opened_at: BTreeMap::new(),
            finalized: BTreeSet::new(),
            challenge_ms,
            fee_bps: u128::from(fee_bps),
        }
    }

    /// A lease as anybody reads it.
    #[must_use]
    pub(crate) fn read(&self, lease: LeaseId) -> EscrowLease {
        self.leases.get(&lease).map_or(
            EscrowLease {
                status: EscrowStatus::None,
                consumer: Address::ZERO,
                session_key: Address::ZERO,
                container: NodeId::ZERO,
                deposit: TokenAmount::ZERO,
                redeemed: TokenAmount::ZERO,
                rate_per_second: TokenAmount::ZERO,
                max_seconds: 0,
            },
            |(l, _)| l.clone(),
        )
    }

    /// All leases that were ever opened.
    pub(crate) fn leases(&self) -> impl Iterator<Item = (LeaseId, &EscrowLease)> {
        self.leases.iter().map(|(id, (l, _))| (*id, l))
    }

    /// When a lease was opened, if it was.
    pub(crate) fn opened_at(&self, lease: LeaseId) -> Option<TimeMs> {
        self.opened_at.get(&lease).copied()
    }

    /// An intent waits for its block; `false` where it did so already.
    pub(crate) fn wait(&mut self, intent: Intent) -> bool {
        self.waiting.insert(intent)
    }

    /// An intent waits no more: it is carried out now, or was lost.
    pub(crate) fn wait_no_more(&mut self, intent: Intent) {
        self.waiting.remove(&intent);
    }

    /// Whether the fate of an intent is known.
    pub(crate) fn is_done(&self, intent: Intent) -> bool {
        self.done.contains_key(&intent)
    }

    /// Executes an intent; the same intent of the same sender never twice. `false`: reverted.
    pub(crate) fn execute(&mut self, intent: Intent, op: &Op, refused: bool, now: TimeMs) -> bool {
        if let Some(ok) = self.done.get(&intent) {
            return *ok;
        }
        let ok = !refused && self.carry_out(intent, op, now);
        self.done.insert(intent, ok);
        ok
    }

    fn carry_out(&mut self, (from, lease, ..): Intent, op: &Op, now: TimeMs) -> bool {
        match op {
            Op::Open(terms) => self.open(lease, terms, now),
            Op::Settle(voucher) => self.is_payee(from, lease) && self.settle(lease, voucher.as_ref(), now),
            Op::Redeem(voucher) => self.redeem(lease, voucher, now),
            Op::Close => self.close(lease, now),
            Op::Finalize => self.finalize(lease, now),
            Op::TopUp(amount) => self.top_up(from, lease, *amount),
        }
    }

    fn pay_in(&mut self, from: Address, amount: u128) -> bool {
        let balance = self.balances.entry(from).or_default();
        let Some(rest) = balance.checked_sub(amount) else { return false };
        *balance = rest;
        self.escrow += amount;
        true
    }

    fn open(&mut self, lease: LeaseId, terms: &EscrowLease, now: TimeMs) -> bool {
        if self.leases.contains_key(&lease) || !self.pay_in(terms.consumer, terms.deposit.0) {
            return false;
        }
        let opened = EscrowLease { status: EscrowStatus::Open, redeemed: TokenAmount::ZERO, ..terms.clone() };
        self.leases.insert(lease, (opened, None));
        self.opened_at.insert(lease, now);
        true
    }

    fn top_up(&mut self, from: Address, lease: LeaseId, amount: TokenAmount) -> bool {
        if self.read(lease).status != EscrowStatus::Open || !self.pay_in(from, amount.0) {
            return false;
        }
        if let Some((l, _)) = self.leases.get_mut(&lease) {
            l.deposit = l.deposit.saturating_add(amount);
        }
        true
    }

    /// Whether this account owns the Container of a lease: nobody else may settle it.
    fn is_payee(&self, from: Address, lease: LeaseId) -> bool {
        container_index(self.read(lease).container).is_some_and(|i| container_account(i) == from)
    }

    fn settle(&mut self, lease: LeaseId, voucher: Option<&SignedVoucher>, now: TimeMs) -> bool {
        if !self.leases.get(&lease).is_some_and(|(l, _)| l.status != EscrowStatus::Closed) {
            return false;
        }
        if let Some(v) = voucher
            && !self.redeem(lease, v, now)
        {
            return false;
        }
        self.end(lease);
        true
    }

    fn redeem(&mut self, lease: LeaseId, v: &SignedVoucher, now: TimeMs) -> bool {
        let Some((l, window_end)) = self.leases.get_mut(&lease) else { return false };
        let takes_vouchers = match l.status {
            EscrowStatus::Open => true,
            EscrowStatus::Closing => window_end.is_some_and(|end| now < end),
            EscrowStatus::None | EscrowStatus::Closed => false,
        };
        let signer_ok = v.signature.r[..20] == l.session_key.0;
        let amount = v.voucher.amount;
        if !takes_vouchers || !signer_ok || v.voucher.lease != lease || amount > l.deposit || amount < l.redeemed {
            return false;
        }
        let delta = amount.0 - l.redeemed.0;
        let fee = delta * self.fee_bps / 10_000;
        l.redeemed = amount;
        self.fees += fee;
        *self.earned.entry(l.container).or_default() += delta - fee;
        self.escrow -= delta;
        true
    }

    fn close(&mut self, lease: LeaseId, now: TimeMs) -> bool {
        match self.leases.get_mut(&lease) {
            Some((l, at)) if l.status == EscrowStatus::Open => {
                l.status = EscrowStatus::Closing;
                *at = Some(now.plus(self.challenge_ms));
                true
            }
            _ => false,
        }
    }

    fn finalize(&mut self, lease: LeaseId, now: TimeMs) -> bool {
        match self.leases.get(&lease) {
            Some((l, Some(at))) if l.status == EscrowStatus::Closing && *at <= now => {
                self.finalized.insert(lease);
                self.end(lease);
                true
            }
            _ => false,
        }
    }

    fn end(&mut self, lease: LeaseId) {
        if let Some((l, _)) = self.leases.get_mut(&lease) {
            let rest = l.deposit.0 - l.redeemed.0;
            l.status = EscrowStatus::Closed;
            self.escrow -= rest;
            *self.balances.entry(l.consumer).or_default() += rest;
        }
    }

    /// Whether every unit is where it can be accounted for.
    ///
    /// # Errors
    /// The difference, as a sentence.
    pub(crate) fn audit(&self) -> Result<(), String> {
        let held: u128 = self
            .leases
            .values()
            .filter(|(l, _)| l.status != EscrowStatus::Closed)
            .map(|(l, _)| l.deposit.0 - l.redeemed.0)
            .sum();
        if held != self.escrow {
            return Err(format!("the escrow holds {}, its leases {held}", self.escrow));
        }
        let all = self.balances.values().sum::<u128>() + self.earned.values().sum::<u128>() + self.fees + self.escrow;
        if all != self.supply {
            return Err(format!("{all} units exist, {} were made", self.supply));
        }
        Ok(())
    }
}
