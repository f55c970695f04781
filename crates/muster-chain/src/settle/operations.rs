//! What nodes and consumers do on the chain, each a method.

use std::sync::Arc;

use alloy::primitives::U256;
use alloy::sol_types::SolCall;
use futures::FutureExt;
use muster_core::ids::{Address, LeaseId, NodeId};
use muster_core::units::TokenAmount;
use muster_core::voucher::SignedVoucher;

use super::batcher::Batcher;
use super::client::ChainClient;
use super::groups::{Core, Opened, Settled, SettlementError, fresh, open_key, pack};
use super::sender::{SendError, TxSender};
use super::transaction::{Call, MinedTx, TxId};
use super::types::{NodeKind, NodeStatus, OpenLease, Registration, SettleEntry, SettleResult};
use crate::contracts::abi::{LeaseEscrow, MusterToken, Registry};
use crate::convert::{lease_word, node_word, to_evm};

/// Leases in one transaction: its gas stays far below any chain's limit for one transaction.
pub(super) const OPEN_GROUP_MAX: usize = 60;
pub(super) const SETTLE_GROUP_MAX: usize = 100;
/// Groups under way at a time.
const LANES_MAX: usize = 3;
/// Everything an account does with the network's contracts. Clones share it.
#[derive(Clone, Debug)]
pub struct Settlement {
    core: Arc<Core>,
    opener: Arc<Batcher<OpenLease, Opened>>,
    settler: Arc<Batcher<SettleEntry, Settled>>,
}

impl Settlement {
    /// Operations of a sender's account. [`TxSender::run`] must run for them to happen.
    #[must_use]
    pub fn new(sender: TxSender) -> Self {
        let core = Arc::new(Core::new(sender));
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

    /// Waits until the transaction that opens a lease is written down: from then on it is sent until the chain has
    /// decided. Never comes back where that does not happen: ask beside [`Settlement::open_lease`].
    pub async fn open_lease_sent(&self, open: &OpenLease) {
        self.core.sender.written(&open_key(open)).await;
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
        let mut key = format!("register {} after {before}", registration.node);
        if registration.kind == NodeKind::App {
            // Whoever was cut off may come back with another version: the registry lets one of the two in.
            key.push_str(&format!(" {} {:x}", hex::encode(registration.fingerprint), registration.stake.0));
        }
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

    /// Puts what is unbonding back to stake: a node that was leaving stays.
    ///
    /// # Errors
    /// See [`SettlementError`].
    pub async fn cancel_unbond(&self, node: NodeId) -> Result<MinedTx, SettlementError> {
        let call = Registry::cancelUnbondCall { nodeKey: node_word(node) };
        self.core.once(&fresh("cancel unbond"), self.core.registry(&call)).await
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

    /// Sends a call to a contract of this crate's, once for an intent.
    pub(crate) async fn send_once(
        &self,
        intent: &str,
        to: Address,
        call: &impl SolCall,
    ) -> Result<MinedTx, SettlementError> {
        self.core.once(intent, Call::to(to, call.abi_encode())).await
    }

    /// The same, for what may be tried anew where it failed on the chain.
    pub(crate) async fn send_again(
        &self,
        key: &str,
        to: Address,
        call: &impl SolCall,
    ) -> Result<MinedTx, SettlementError> {
        self.core.again(key, Call::to(to, call.abi_encode())).await
    }
}
