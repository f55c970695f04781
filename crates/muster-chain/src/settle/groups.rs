//! How operations reach the sender: alone, again after a failure, or many leases in one transaction.

use std::sync::atomic::{AtomicBool, Ordering};

use alloy::primitives::{Bytes, U256};
use alloy::sol_types::SolCall;
use futures::future::join_all;
use muster_core::ids::{Address, LeaseId};
use muster_core::units::TokenAmount;
use muster_core::voucher::SignedVoucher;

use super::client::ChainClient;
use super::gas;
use super::outbox::State;
use super::rpc::ClientError;
use super::sender::{GasLimits, SendError, TxSender};
use super::transaction::{Call, MinedTx, TxId, TxOutcome};
use super::types::{ChainEvent, LeaseOnChain, LeaseStatus, OpenLease, SettleEntry, SettleResult, SkipReason};
use crate::contracts::abi::{LeaseEscrow, MusterToken};
use crate::convert::to_evm;

/// How often an operation that failed on the chain may be tried anew.
const TRIES_MAX: u32 = 16;
/// From here on an allowance counts as without limit.
const ALLOWANCE_PLENTY: TokenAmount = TokenAmount(u128::MAX >> 1);

/// Why an operation did not happen.
#[derive(Debug, Clone, thiserror::Error)]
pub enum SettlementError {
    /// It was not sent, or cannot be.
    #[error(transparent)]
    Send(#[from] SendError),
    /// The chain cannot be read.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// It is in a block and had no effect; only its gas was paid.
    #[error("transaction {tx} failed: {reason}")]
    Failed {
        /// The transaction.
        tx: TxId,
        /// Why, as a sentence.
        reason: String,
    },
    /// It was sent and is not in a block yet. Asking again waits for it, and never pays twice.
    #[error("transaction {tx} is sent but not in a block yet: ask again to wait for it")]
    Unknown {
        /// The newest attempt.
        tx: TxId,
    },
}

pub(super) type Opened = Result<TxId, SettlementError>;
pub(super) type Settled = Result<(SettleResult, TxId), SettlementError>;

/// An account's sender, and which contracts may take its tokens.
#[derive(Debug)]
pub(super) struct Core {
    pub(super) sender: TxSender,
    escrow_approved: AtomicBool,
    registry_approved: AtomicBool,
    approving: tokio::sync::Mutex<()>,
}

/// A key for what may be repeated without harm.
pub(crate) fn fresh(what: &str) -> String {
    format!("{what} {:016x}", rand::random::<u64>())
}

/// One entry of a packed batch.
pub(super) fn pack(lease: LeaseId, voucher: Option<&SignedVoucher>) -> Vec<u8> {
    let mut entry = Vec::with_capacity(120);
    entry.extend_from_slice(&lease.0);
    match voucher {
        Some(signed) => {
            entry.extend_from_slice(&signed.voucher.amount.0.to_be_bytes());
            entry.extend_from_slice(&signed.voucher.as_of_s.to_be_bytes());
            entry.extend_from_slice(&signed.signature.r);
            entry.extend_from_slice(&signed.signature.vs);
        }
        None => entry.resize(120, 0),
    }
    entry
}

impl Core {
    pub(super) fn new(sender: TxSender) -> Self {
        Self {
            sender,
            escrow_approved: AtomicBool::new(false),
            registry_approved: AtomicBool::new(false),
            approving: tokio::sync::Mutex::new(()),
        }
    }

    pub(super) fn client(&self) -> &ChainClient {
        self.sender.client()
    }

    pub(super) fn escrow(&self, call: &impl SolCall) -> Call {
        Call::to(self.client().contracts().escrow, call.abi_encode())
    }

    pub(super) fn registry(&self, call: &impl SolCall) -> Call {
        Call::to(self.client().contracts().registry, call.abi_encode())
    }

    /// Carries out an intent once and for all: a failure stays its outcome.
    pub(super) async fn once(&self, key: &str, call: Call) -> Result<MinedTx, SettlementError> {
        judge(self.sender.submit(key, call).await?)
    }

    /// Carries out an operation that may be tried anew when it failed on the chain.
    pub(super) async fn again(&self, key: &str, call: Call) -> Result<MinedTx, SettlementError> {
        self.again_many(vec![key.to_owned()], call).await
    }

    async fn again_many(&self, keys: Vec<String>, call: Call) -> Result<MinedTx, SettlementError> {
        let mut keys = keys;
        for attempt in 2..=TRIES_MAX {
            let known = self.sender.find(&keys[0])?;
            match known.map(|record| record.state) {
                Some(State::Superseded | State::Mined { revert: Some(_), .. }) => {
                    keys = keys.iter().map(|key| retry_key(key, attempt)).collect();
                }
                Some(State::Mined { revert: None, .. } | State::Pending) | None => break,
            }
        }
        judge(self.sender.submit_many(keys, call).await?)
    }

    pub(super) async fn allow_escrow(&self, needed: TokenAmount) -> Result<(), SettlementError> {
        self.allow_cached(&self.escrow_approved, self.client().contracts().escrow, needed).await
    }

    pub(super) async fn allow_registry(&self, needed: TokenAmount) -> Result<(), SettlementError> {
        self.allow_cached(&self.registry_approved, self.client().contracts().registry, needed).await
    }

    async fn allow_cached(
        &self,
        approved: &AtomicBool,
        spender: Address,
        needed: TokenAmount,
    ) -> Result<(), SettlementError> {
        if approved.load(Ordering::Acquire) {
            return Ok(());
        }
        let _one_at_a_time = self.approving.lock().await;
        if !approved.load(Ordering::Acquire) && self.allow(spender, needed).await? {
            approved.store(true, Ordering::Release);
        }
        Ok(())
    }

    /// Makes sure that `spender` may take `needed`; true where it may take any amount from now on.
    pub(super) async fn allow(&self, spender: Address, needed: TokenAmount) -> Result<bool, SettlementError> {
        let allowed = self.client().allowance(self.sender.address(), spender).await?;
        if allowed >= needed {
            return Ok(allowed >= ALLOWANCE_PLENTY);
        }
        let call = MusterToken::approveCall { spender: to_evm(spender), value: U256::MAX };
        let token = self.client().contracts().token;
        self.once(&fresh("approve"), Call::to(token, call.abi_encode())).await.map(|_| true)
    }

    pub(super) async fn open_group(&self, group: Vec<OpenLease>) -> Vec<Opened> {
        let mut fresh = Vec::new();
        let mut results: Vec<Option<Opened>> = Vec::with_capacity(group.len());
        for open in &group {
            // One that was written before goes on under its own record.
            match self.sender.find(&open_key(open)) {
                Ok(None) => {
                    fresh.push(*open);
                    results.push(None);
                }
                Ok(Some(_)) => results.push(Some(self.open_known(open).await)),
                Err(error) => results.push(Some(Err(error.into()))),
            }
        }
        let mut opened = self.open_fresh(&fresh).await.into_iter();
        let stopped = || Err(SettlementError::Send(SendError::Stopped));
        results.into_iter().map(|known| known.unwrap_or_else(|| opened.next().unwrap_or_else(stopped))).collect()
    }

    async fn open_fresh(&self, group: &[OpenLease]) -> Vec<Opened> {
        // Where nobody has to be asked for its gas, one lease goes the quick way as well.
        let quick = self.sender.limits() == GasLimits::Computed && !group.is_empty();
        if group.len() > 1 || quick {
            let keys = group.iter().map(open_key).collect();
            let batch = group.iter().map(|open| open.to_abi()).collect();
            let gas_limit = self.sender.limits().computed(gas::open_batch(group.len()));
            let call = Call { gas_limit, ..self.escrow(&LeaseEscrow::openBatchCall { batch }) };
            match self.sender.submit_many(keys, call).await.map_err(SettlementError::from).and_then(judge) {
                Ok(mined) => return group.iter().map(|_| Ok(mined.tx)).collect(),
                // One bad lease fails the whole group, and one that another group has just written down keeps its own
                // record: each for itself, then, and asked about beforehand.
                Err(
                    SettlementError::Failed { .. }
                    | SettlementError::Send(SendError::WouldFail(_) | SendError::KeyReused { .. }),
                ) => {}
                Err(error) => return group.iter().map(|_| Err(error.clone())).collect(),
            }
        }
        join_all(group.iter().map(|open| self.open_one(open))).await
    }

    /// Goes on under the record that is there, or makes one. Between the look and the making somebody else may have
    /// made it, in a group with others: then that record counts.
    async fn open_one(&self, open: &OpenLease) -> Result<TxId, SettlementError> {
        if self.sender.find(&open_key(open))?.is_some() {
            return self.open_known(open).await;
        }
        match self.open_alone(open).await {
            Err(SettlementError::Send(SendError::KeyReused { .. })) => self.open_known(open).await,
            done => done,
        }
    }

    async fn open_alone(&self, open: &OpenLease) -> Result<TxId, SettlementError> {
        let call = self.escrow(&LeaseEscrow::openCall { p: open.to_abi() });
        let key = match self.sender.find(&open_key(open))? {
            None => open_key(open),
            Some(_) => format!("{} alone", open_key(open)),
        };
        match self.again(&key, call).await {
            Ok(mined) => Ok(mined.tx),
            Err(error) => self.opened_already(open, error).await,
        }
    }

    /// An open whose key is in the outbox: it is under way, done, or failed together with its group.
    async fn open_known(&self, open: &OpenLease) -> Result<TxId, SettlementError> {
        match self.sender.outcome(&open_key(open)).await {
            Ok(Some(TxOutcome::Mined(mined))) if mined.result.is_ok() => Ok(mined.tx),
            Ok(Some(TxOutcome::Unknown { tx })) => Err(SettlementError::Unknown { tx }),
            Ok(_) | Err(SendError::Superseded { .. }) => self.open_alone(open).await,
            Err(error) => Err(error.into()),
        }
    }

    /// An open that fails because the lease is there already is done, if it is the same lease.
    async fn opened_already(&self, open: &OpenLease, error: SettlementError) -> Result<TxId, SettlementError> {
        if !matches!(error, SettlementError::Failed { .. } | SettlementError::Send(SendError::WouldFail(_))) {
            return Err(error);
        }
        let lease = self.client().lease_id(self.sender.address(), open.salt);
        match self.client().lease(lease).await? {
            Some(found) if found.container == open.container && found.session_key == open.session_key => {
                let known = self.sender.find(&open_key(open))?;
                Ok(known.map_or(TxId([0; 32]), |record| record.tx()))
            }
            _ => Err(error),
        }
    }

    pub(super) async fn settle_group(&self, group: Vec<SettleEntry>) -> Vec<Settled> {
        let mut results: Vec<Option<Settled>> = Vec::with_capacity(group.len());
        let mut entries = Vec::new();
        let mut keys = Vec::new();
        for entry in &group {
            match self.settled_before(entry).await {
                Ok(Before::Settled(result, tx)) => results.push(Some(Ok((result, tx)))),
                Ok(Before::Not { key }) => {
                    entries.push(*entry);
                    keys.push(key);
                    results.push(None);
                }
                Err(error) => results.push(Some(Err(error))),
            }
        }
        let mut settled = self.settle_fresh(&entries, keys).await.into_iter();
        let stopped = || Err(SettlementError::Send(SendError::Stopped));
        results.into_iter().map(|known| known.unwrap_or_else(|| settled.next().unwrap_or_else(stopped))).collect()
    }

    async fn settle_fresh(&self, entries: &[SettleEntry], keys: Vec<String>) -> Vec<Settled> {
        if entries.is_empty() {
            return Vec::new();
        }
        match self.settle_under(entries, keys).await {
            Ok(settled) => settled,
            // Another group has just written one of them down: each for itself, then.
            Err(SettlementError::Send(SendError::KeyReused { .. })) => {
                join_all(entries.iter().map(|entry| self.settle_one(entry))).await
            }
            Err(error) => entries.iter().map(|_| Err(error.clone())).collect(),
        }
    }

    /// Settles all of them in one transaction that these keys name.
    async fn settle_under(&self, entries: &[SettleEntry], keys: Vec<String>) -> Result<Vec<Settled>, SettlementError> {
        let packed: Vec<u8> = entries.iter().flat_map(|entry| pack(entry.lease, entry.voucher.as_ref())).collect();
        // An entry that cannot be settled is skipped, so that there is nothing to find out beforehand.
        let gas_limit = self.sender.limits().computed(gas::settle_batch(entries.len()));
        let call = Call { gas_limit, ..self.escrow(&LeaseEscrow::settleBatchCall { packed: Bytes::from(packed) }) };
        let mined = judge(self.sender.submit_many(keys, call).await?)?;
        Ok(self.settled(entries, &mined).await)
    }

    /// Goes on under the record that is there, or makes one. Between the look and the making somebody else may have made
    /// it, in a group with others: then that record counts.
    async fn settle_one(&self, entry: &SettleEntry) -> Settled {
        let mut reused = SendError::Stopped;
        for _ in 0..TRIES_MAX {
            let key = match self.settled_before(entry).await? {
                Before::Settled(result, tx) => return Ok((result, tx)),
                Before::Not { key } => key,
            };
            match self.settle_under(std::slice::from_ref(entry), vec![key]).await {
                Ok(mut settled) => return settled.pop().unwrap_or(Err(SendError::Stopped.into())),
                Err(SettlementError::Send(error @ SendError::KeyReused { .. })) => reused = error,
                Err(error) => return Err(error),
            }
        }
        Err(reused.into())
    }

    /// Whether an earlier transaction, perhaps of an earlier run, settled the lease already. If not, the
    /// key for the next one.
    async fn settled_before(&self, entry: &SettleEntry) -> Result<Before, SettlementError> {
        let mut key = settle_key(entry);
        for attempt in 2..=TRIES_MAX {
            match self.sender.outcome(&key).await {
                Ok(None) => break,
                Ok(Some(TxOutcome::Unknown { tx })) => return Err(SettlementError::Unknown { tx }),
                Ok(Some(TxOutcome::Mined(mined))) => {
                    let lease = self.client().lease(entry.lease).await?;
                    if let Some(lease) = lease.filter(|lease| lease.status == LeaseStatus::Closed) {
                        return Ok(Before::Settled(closed(&lease), mined.tx));
                    }
                }
                Err(SendError::Superseded { .. }) => {}
                Err(error) => return Err(error.into()),
            }
            key = retry_key(&key, attempt);
        }
        Ok(Before::Not { key })
    }

    async fn settled(&self, entries: &[SettleEntry], mined: &MinedTx) -> Vec<Settled> {
        let mut results = Vec::with_capacity(entries.len());
        for entry in entries {
            let told = mined.events.iter().find_map(|event| match event {
                ChainEvent::LeaseClosed { lease, redeemed, refunded } if *lease == entry.lease => {
                    Some(SettleResult::Closed { redeemed: *redeemed, refunded: *refunded })
                }
                ChainEvent::VoucherSkipped { lease, reason } if *lease == entry.lease => {
                    Some(SettleResult::Skipped(*reason))
                }
                _ => None,
            });
            let result = match told {
                // Somebody else closed it, or the events are not at hand: the lease itself tells.
                None | Some(SettleResult::Skipped(SkipReason::NotOpen)) => {
                    self.client().lease(entry.lease).await.map(|lease| match lease {
                        Some(lease) if lease.status == LeaseStatus::Closed => closed(&lease),
                        Some(_) => told.unwrap_or(SettleResult::Skipped(SkipReason::Other(0))),
                        None => SettleResult::Skipped(SkipReason::UnknownLease),
                    })
                }
                Some(result) => Ok(result),
            };
            results.push(result.map(|result| (result, mined.tx)).map_err(SettlementError::from));
        }
        results
    }
}

/// What became of a lease before it is settled (again).
enum Before {
    Settled(SettleResult, TxId),
    Not { key: String },
}

/// How a closed lease ended.
fn closed(lease: &LeaseOnChain) -> SettleResult {
    SettleResult::Closed { redeemed: lease.redeemed, refunded: lease.deposit.saturating_sub(lease.redeemed) }
}

pub(super) fn open_key(open: &OpenLease) -> String {
    format!("open {}", hex::encode(open.salt))
}

fn settle_key(entry: &SettleEntry) -> String {
    let amount = entry.voucher.map_or(0, |signed| signed.voucher.amount.0);
    format!("settle {} {amount}", entry.lease)
}

/// `key`, then `key #2`, `key #3` …
fn retry_key(key: &str, attempt: u32) -> String {
    let base = key.rsplit_once(" #").map_or(key, |(base, _)| base);
    format!("{base} #{attempt}")
}

fn judge(outcome: TxOutcome) -> Result<MinedTx, SettlementError> {
    match outcome {
        TxOutcome::Mined(mined) => match &mined.result {
            Ok(()) => Ok(mined),
            Err(reason) => Err(SettlementError::Failed { tx: mined.tx, reason: reason.clone() }),
        },
        TxOutcome::Unknown { tx } => Err(SettlementError::Unknown { tx }),
    }
}
