//! What nodes and consumers do on the chain, each a method.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use alloy::primitives::{Bytes, U256};
use alloy::sol_types::SolCall;
use futures::FutureExt;
use futures::future::join_all;
use muster_core::ids::{Address, LeaseId, NodeId};
use muster_core::units::TokenAmount;
use muster_core::voucher::SignedVoucher;

use super::batcher::Batcher;
use super::client::ChainClient;
use super::outbox::State;
use super::rpc::ClientError;
use super::sender::{SendError, TxSender};
use super::transaction::{Call, MinedTx, TxId, TxOutcome};
use super::types::{
    ChainEvent, LeaseOnChain, LeaseStatus, NodeStatus, OpenLease, Registration, SettleEntry, SettleResult, SkipReason,
};
use crate::contracts::abi::{LeaseEscrow, MusterToken, Registry};
use crate::convert::{lease_word, node_word, to_evm};

/// Leases in one transaction: its gas stays far below any chain's limit for one transaction.
const OPEN_GROUP_MAX: usize = 60;
const SETTLE_GROUP_MAX: usize = 100;
/// Groups under way at a time.
const LANES_MAX: usize = 3;
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

/// Everything an account does with the network's contracts. Clones share it.
#[derive(Clone, Debug)]
pub struct Settlement {
    core: Arc<Core>,
    opener: Arc<Batcher<OpenLease, Result<TxId, SettlementError>>>,
    settler: Arc<Batcher<SettleEntry, Result<(SettleResult, TxId), SettlementError>>>,
}

#[derive(Debug)]
struct Core {
    sender: TxSender,
    escrow_approved: AtomicBool,
    registry_approved: AtomicBool,
    approving: tokio::sync::Mutex<()>,
}

impl Settlement {
    /// Operations of a sender's account. [`TxSender::run`] must run for them to happen.
    #[must_use]
    pub fn new(sender: TxSender) -> Self {
        let core = Arc::new(Core {
            sender,
            escrow_approved: AtomicBool::new(false),
            registry_approved: AtomicBool::new(false),
            approving: tokio::sync::Mutex::new(()),
        });
        let (opening, settling) = (Arc::clone(&core), Arc::clone(&core));
        let opener = Batcher::new(
            OPEN_GROUP_MAX,
            LANES_MAX,
            Arc::new(move |group| {
                let core = Arc::clone(&opening);
                async move { core.open_group(group).await }.boxed()
            }),
        );
        let settler = Batcher::new(
            SETTLE_GROUP_MAX,
            LANES_MAX,
            Arc::new(move |group| {
                let core = Arc::clone(&settling);
                async move { core.settle_group(group).await }.boxed()
            }),
        );
        Self { core, opener, settler }
    }

    /// The account.
    #[must_use]
    pub fn address(&self) -> Address {
        self.core.sender.address()
    }

    /// The chain, for reading.
    #[must_use]
    pub fn client(&self) -> &ChainClient {
        self.core.client()
    }

    /// The sender below.
    #[must_use]
    pub fn sender(&self) -> &TxSender {
        &self.core.sender
    }

    /// Opens a lease and pays its deposit; the escrow is allowed to take tokens first, if need be.
    /// Opens that come together share a transaction. Asking again with the same salt never opens twice.
    ///
    /// # Errors
    /// See [`SettlementError`].
    pub async fn open_lease(&self, open: OpenLease) -> Result<(LeaseId, TxId), SettlementError> {
        let lease = self.client().lease_id(self.address(), open.salt);
        self.core.allow_escrow(open.deposit).await?;
        let opened = self.opener.carry(open).await.unwrap_or(Err(SendError::Stopped.into()));
        opened.map(|tx| (lease, tx))
    }

    /// Pays the last voucher of a lease and closes it, in the name of its Container's owner. Leases
    /// that are settled together share a transaction.
    ///
    /// # Errors
    /// See [`SettlementError`]; an entry that the escrow skips is a result, not an error.
    pub async fn settle(&self, entry: SettleEntry) -> Result<(SettleResult, TxId), SettlementError> {
        self.settler.carry(entry).await.unwrap_or(Err(SendError::Stopped.into()))
    }

    /// Adds to a lease's deposit. `intent` names this top-up.
    ///
    /// # Errors
    /// See [`SettlementError`].
    pub async fn top_up(&self, intent: &str, lease: LeaseId, amount: TokenAmount) -> Result<MinedTx, SettlementError> {
        self.core.allow_escrow(amount).await?;
        let call = LeaseEscrow::topUpCall { id: lease_word(lease), amount: amount.0 };
        self.core.once(&format!("top-up {intent}"), self.core.escrow(&call)).await
    }

    /// Redeems a voucher; the lease stays open.
    ///
    /// # Errors
    /// See [`SettlementError`].
    pub async fn redeem(&self, signed: &SignedVoucher) -> Result<MinedTx, SettlementError> {
        let voucher = &signed.voucher;
        let call = LeaseEscrow::redeemCall {
            id: lease_word(voucher.lease),
            amount: voucher.amount.0,
            asOf: voucher.as_of_s,
            r: signed.signature.r.into(),
            vs: signed.signature.vs.into(),
        };
        let key = format!("redeem {} {}", voucher.lease, voucher.amount.0);
        self.core.again(&key, self.core.escrow(&call)).await
    }

    /// Redeems many vouchers in one transaction; bad ones are skipped, as its events tell.
    ///
    /// # Errors
    /// See [`SettlementError`].
    pub async fn redeem_batch(&self, vouchers: &[SignedVoucher]) -> Result<MinedTx, SettlementError> {
        let packed: Vec<u8> = vouchers.iter().flat_map(|v| pack(v.voucher.lease, Some(v))).collect();
        let key = format!("redeem-batch {}", hex::encode(alloy::primitives::keccak256(&packed)));
        let call = LeaseEscrow::redeemBatchCall { packed: packed.into() };
        self.core.again(&key, self.core.escrow(&call)).await
    }

    /// Closes a lease as its consumer (or with its session key): the challenge window begins.
    ///
    /// # Errors
    /// See [`SettlementError`].
    pub async fn close_by_consumer(&self, lease: LeaseId) -> Result<MinedTx, SettlementError> {
        let call = LeaseEscrow::closeByConsumerCall { id: lease_word(lease) };
        self.core.again(&format!("close {lease}"), self.core.escrow(&call)).await
    }

    /// Gives the rest of a lease's deposit back, after its challenge window or its term.
    ///
    /// # Errors
    /// See [`SettlementError`].
    pub async fn finalize(&self, lease: LeaseId) -> Result<MinedTx, SettlementError> {
        let call = LeaseEscrow::finalizeCall { id: lease_word(lease) };
        self.core.again(&format!("finalize {lease}"), self.core.escrow(&call)).await
    }

    /// Lets another account settle in this account's name, or no longer.
    ///
    /// # Errors
    /// See [`SettlementError`].
    pub async fn set_operator(&self, operator: Address, allowed: bool) -> Result<MinedTx, SettlementError> {
        let call = LeaseEscrow::setOperatorCall { operator: to_evm(operator), allowed };
        self.core.once(&fresh("operator"), self.core.escrow(&call)).await
    }

    /// Claims what an owner of Containers has earned and may have now; the tokens go to the owner.
    ///
    /// # Errors
    /// See [`SettlementError`]; among them that there is nothing to claim yet.
    pub async fn claim_service_fee(&self, payee: Address) -> Result<MinedTx, SettlementError> {
        let call = LeaseEscrow::claimServiceFeeCall { payee: to_evm(payee), maxEntries: U256::from(256) };
        self.core.once(&fresh("claim"), self.core.escrow(&call)).await
    }

    /// Sends the network's fees to their recipient.
    ///
    /// # Errors
    /// See [`SettlementError`].
    pub async fn claim_network_fee(&self) -> Result<MinedTx, SettlementError> {
        let call = LeaseEscrow::claimNetworkFeeCall {};
        self.core.once(&fresh("claim network fee"), self.core.escrow(&call)).await
    }

    /// Registers a node with its stake; `None` where it is registered already by this account.
    ///
    /// # Errors
    /// See [`SettlementError`].
    pub async fn register(&self, registration: &Registration) -> Result<Option<MinedTx>, SettlementError> {
        let known = self.client().node(registration.node).await?;
        let before = match known {
            Some(node) if node.owner == self.address() && node.status != NodeStatus::Left => return Ok(None),
            Some(node) => node.registered_at_s,
            None => 0,
        };
        self.core.allow_registry(registration.stake).await?;
        let call = Registry::registerCall {
            kind: registration.kind.code(),
            nodeKey: node_word(registration.node),
            endpoint: registration.endpoint.clone(),
            fingerprint: registration.fingerprint.into(),
            stake: registration.stake.0,
        };
        // A node that left may come back: each registration is an intent of its own.
        let key = format!("register {} after {before}", registration.node);
        self.core.again(&key, self.core.registry(&call)).await.map(Some)
    }

    /// Changes where a node can be reached, and its fingerprint.
    ///
    /// # Errors
    /// See [`SettlementError`].
    pub async fn update_node(
        &self,
        node: NodeId,
        endpoint: &str,
        fingerprint: [u8; 32],
    ) -> Result<MinedTx, SettlementError> {
        let call = Registry::updateCall {
            nodeKey: node_word(node),
            endpoint: endpoint.to_owned(),
            fingerprint: fingerprint.into(),
        };
        self.core.once(&fresh("update"), self.core.registry(&call)).await
    }

    /// Adds to a node's stake. `intent` names this addition.
    ///
    /// # Errors
    /// See [`SettlementError`].
    pub async fn add_stake(&self, intent: &str, node: NodeId, amount: TokenAmount) -> Result<MinedTx, SettlementError> {
        self.core.allow_registry(amount).await?;
        let call = Registry::addStakeCall { nodeKey: node_word(node), amount: amount.0 };
        self.core.once(&format!("stake {intent}"), self.core.registry(&call)).await
    }

    /// Asks for a part of a node's stake back. `intent` names this request.
    ///
    /// # Errors
    /// See [`SettlementError`].
    pub async fn request_unbond(
        &self,
        intent: &str,
        node: NodeId,
        amount: TokenAmount,
    ) -> Result<MinedTx, SettlementError> {
        let call = Registry::requestUnbondCall { nodeKey: node_word(node), amount: amount.0 };
        self.core.once(&format!("unbond {intent}"), self.core.registry(&call)).await
    }

    /// Takes stake out whose unbonding is over.
    ///
    /// # Errors
    /// See [`SettlementError`]; among them that it is not over yet.
    pub async fn withdraw(&self, node: NodeId) -> Result<MinedTx, SettlementError> {
        let call = Registry::withdrawCall { nodeKey: node_word(node) };
        self.core.once(&fresh("withdraw"), self.core.registry(&call)).await
    }

    /// Takes a node out of the network; its whole stake begins to unbond.
    ///
    /// # Errors
    /// See [`SettlementError`].
    pub async fn leave(&self, node: NodeId) -> Result<MinedTx, SettlementError> {
        let call = Registry::leaveCall { nodeKey: node_word(node) };
        self.core.once(&fresh("leave"), self.core.registry(&call)).await
    }

    /// Claims a node's rewards.
    ///
    /// # Errors
    /// See [`SettlementError`].
    pub async fn claim_reward(&self, node: NodeId) -> Result<MinedTx, SettlementError> {
        let call = Registry::claimRewardCall { nodeKey: node_word(node) };
        self.core.once(&fresh("claim reward"), self.core.registry(&call)).await
    }

    /// Sends tokens. `intent` names this payment: the same one is never paid twice.
    ///
    /// # Errors
    /// See [`SettlementError`].
    pub async fn send_tokens(
        &self,
        intent: &str,
        to: Address,
        amount: TokenAmount,
    ) -> Result<MinedTx, SettlementError> {
        let call = MusterToken::transferCall { to: to_evm(to), value: U256::from(amount.0) };
        let token = self.client().contracts().token;
        self.core.once(&format!("send {intent}"), Call::to(token, call.abi_encode())).await
    }

    /// Sends ether, in wei. `intent` names this payment.
    ///
    /// # Errors
    /// See [`SettlementError`].
    pub async fn send_ether(&self, intent: &str, to: Address, wei: u128) -> Result<MinedTx, SettlementError> {
        self.core.once(&format!("ether {intent}"), Call::transfer(to, wei)).await
    }

    /// Lets `spender` take any amount of this account's tokens, unless it may take `needed` already.
    ///
    /// # Errors
    /// See [`SettlementError`].
    pub async fn approve(&self, spender: Address, needed: TokenAmount) -> Result<(), SettlementError> {
        self.core.allow(spender, needed).await.map(|_| ())
    }
}

/// A key for what may be repeated without harm.
fn fresh(what: &str) -> String {
    format!("{what} {:016x}", rand::random::<u64>())
}

/// One entry of a packed batch.
fn pack(lease: LeaseId, voucher: Option<&SignedVoucher>) -> Vec<u8> {
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
    fn client(&self) -> &ChainClient {
        self.sender.client()
    }

    fn escrow(&self, call: &impl SolCall) -> Call {
        Call::to(self.client().contracts().escrow, call.abi_encode())
    }

    fn registry(&self, call: &impl SolCall) -> Call {
        Call::to(self.client().contracts().registry, call.abi_encode())
    }

    /// Carries out an intent once and for all: a failure stays its outcome.
    async fn once(&self, key: &str, call: Call) -> Result<MinedTx, SettlementError> {
        judge(self.sender.submit(key, call).await?)
    }

    /// Carries out an operation that may be tried anew when it failed on the chain.
    async fn again(&self, key: &str, call: Call) -> Result<MinedTx, SettlementError> {
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

    async fn allow_escrow(&self, needed: TokenAmount) -> Result<(), SettlementError> {
        self.allow_cached(&self.escrow_approved, self.client().contracts().escrow, needed).await
    }

    async fn allow_registry(&self, needed: TokenAmount) -> Result<(), SettlementError> {
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
    async fn allow(&self, spender: Address, needed: TokenAmount) -> Result<bool, SettlementError> {
        let allowed = self.client().allowance(self.sender.address(), spender).await?;
        if allowed >= needed {
            return Ok(allowed >= ALLOWANCE_PLENTY);
        }
        let call = MusterToken::approveCall { spender: to_evm(spender), value: U256::MAX };
        let token = self.client().contracts().token;
        self.once(&fresh("approve"), Call::to(token, call.abi_encode())).await.map(|_| true)
    }

    async fn open_group(&self, group: Vec<OpenLease>) -> Vec<Result<TxId, SettlementError>> {
        let mut fresh = Vec::new();
        let mut results: Vec<Option<Result<TxId, SettlementError>>> = Vec::with_capacity(group.len());
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

    async fn open_fresh(&self, group: &[OpenLease]) -> Vec<Result<TxId, SettlementError>> {
        if group.len() > 1 {
            let keys = group.iter().map(open_key).collect();
            let batch = group.iter().map(|open| open.to_abi()).collect();
            let call = self.escrow(&LeaseEscrow::openBatchCall { batch });
            match self.sender.submit_many(keys, call).await.map_err(SettlementError::from).and_then(judge) {
                Ok(mined) => return group.iter().map(|_| Ok(mined.tx)).collect(),
                // One bad lease fails the whole group: each for itself, then.
                Err(SettlementError::Failed { .. } | SettlementError::Send(SendError::WouldFail(_))) => {}
                Err(error) => return group.iter().map(|_| Err(error.clone())).collect(),
            }
        }
        join_all(group.iter().map(|open| self.open_alone(open))).await
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

    async fn settle_group(&self, group: Vec<SettleEntry>) -> Vec<Result<(SettleResult, TxId), SettlementError>> {
        let keys = group.iter().map(settle_key).collect();
        let packed: Vec<u8> = group.iter().flat_map(|entry| pack(entry.lease, entry.voucher.as_ref())).collect();
        let call = self.escrow(&LeaseEscrow::settleBatchCall { packed: Bytes::from(packed) });
        match self.settle_once(keys, call).await {
            Ok(mined) => self.settled(&group, &mined).await,
            Err(error) => group.iter().map(|_| Err(error.clone())).collect(),
        }
    }

    /// Settling again what was settled is skipped by the escrow, so a known key simply gets a new one.
    async fn settle_once(&self, keys: Vec<String>, call: Call) -> Result<MinedTx, SettlementError> {
        let mut fresh = Vec::with_capacity(keys.len());
        for key in keys {
            let mut key = key;
            for attempt in 2..=TRIES_MAX {
                if self.sender.find(&key)?.is_none() {
                    break;
                }
                key = retry_key(&key, attempt);
            }
            fresh.push(key);
        }
        judge(self.sender.submit_many(fresh, call).await?)
    }

    async fn settled(
        &self,
        group: &[SettleEntry],
        mined: &MinedTx,
    ) -> Vec<Result<(SettleResult, TxId), SettlementError>> {
        let mut results = Vec::with_capacity(group.len());
        for entry in group {
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
                Some(result) => Ok(result),
                None => self.client().lease(entry.lease).await.map(|lease| from_lease(lease.as_ref())),
            };
            results.push(result.map(|result| (result, mined.tx)).map_err(SettlementError::from));
        }
        results
    }
}

/// What a lease says about how it was settled, where the events are not at hand.
fn from_lease(lease: Option<&LeaseOnChain>) -> SettleResult {
    match lease {
        Some(lease) if lease.status == LeaseStatus::Closed => {
            SettleResult::Closed { redeemed: lease.redeemed, refunded: lease.deposit.saturating_sub(lease.redeemed) }
        }
        Some(_) => SettleResult::Skipped(SkipReason::Other(0)),
        None => SettleResult::Skipped(SkipReason::UnknownLease),
    }
}

fn open_key(open: &OpenLease) -> String {
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
