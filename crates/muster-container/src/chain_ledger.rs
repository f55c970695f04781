//! The chain of a real network, through its settlement client.

use std::path::PathBuf;

use futures::FutureExt;
use futures::future::BoxFuture;
use muster_chain::contracts::{Contracts, check_deployed};
use muster_chain::keys::Wallet;
use muster_chain::settle::{
    ChainClient, ClientError, LeaseOnChain, NodeKind, NodeStatus, Registration, SendError, SenderConfig, SettleEntry,
    SettleResult, Settlement, SettlementError, SkipReason, TxSender, VoucherDomain,
};
use muster_core::ids::{Address, LeaseId, NodeId};
use muster_core::protocol::EscrowLease;
use muster_core::units::TokenAmount;
use muster_core::voucher::{CompactSignature, SignedVoucher};
use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::warn;

use crate::ledger::{Earnings, Ledger, LedgerError, Settled, Standing};

/// Where the chain is and what this Container does there.
#[derive(Clone, Debug)]
pub struct ChainLedgerConfig {
    /// JSON-RPC of a node of the chain.
    pub rpc_url: String,
    /// The chain's id; another chain is refused.
    pub chain_id: u64,
    /// The network's contracts.
    pub contracts: Contracts,
    /// Folder of the outbox of transactions: one process per wallet and folder.
    pub outbox_dir: PathBuf,
    /// The Container's key.
    pub node: NodeId,
    /// What it stakes when it registers, at least the registry's minimum.
    pub stake: TokenAmount,
    /// Commitment to its hardware.
    pub fingerprint: [u8; 32],
}

/// A [`Ledger`] over JSON-RPC. It connects when first asked and again when its sender has stopped, so that a Container
/// starts and stays up while the chain is away.
#[derive(Debug)]
pub struct ChainLedger {
    config: ChainLedgerConfig,
    wallet: Wallet,
    vouchers: VoucherDomain,
    connected: Mutex<Option<Settlement>>,
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl ChainLedger {
    /// A ledger that is not connected yet.
    #[must_use]
    pub fn new(config: ChainLedgerConfig, wallet: Wallet) -> Self {
        let vouchers = VoucherDomain::new(config.chain_id, config.contracts.escrow);
        let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
        Self { config, wallet, vouchers, connected: Mutex::new(None), stop, tasks }
    }

    /// Stops sending transactions, and waits until the outbox is closed. What it holds is sent at the next start.
    pub async fn close(&self) {
        self.stop.cancel();
        *self.connected.lock().await = None;
        self.tasks.close();
        self.tasks.wait().await;
    }

    async fn settlement(&self) -> Result<Settlement, LedgerError> {
        let mut connected = self.connected.lock().await;
        if let Some(settlement) = connected.as_ref() {
            return Ok(settlement.clone());
        }
        if self.stop.is_cancelled() {
            return Err(LedgerError::Unknown("the Container is going down".to_owned()));
        }
        let config = &self.config;
        let client =
            ChainClient::connect(&config.rpc_url, config.chain_id, config.contracts).await.map_err(client_error)?;
        check_deployed(&client).await.map_err(client_error)?;
        let sender = TxSender::open(&config.outbox_dir, self.wallet.clone(), client, SenderConfig::default())
            .await
            .map_err(send_error)?;
        let (running, stop) = (sender.clone(), self.stop.clone());
        self.tasks.spawn(async move {
            if let Err(error) = running.run(stop.cancelled_owned()).await {
                warn!(%error, "the sender of transactions has stopped; it is started again when needed");
            }
        });
        let settlement = Settlement::new(sender);
        *connected = Some(settlement.clone());
        Ok(settlement)
    }

    /// An error as the Container takes it; a sender that has stopped is made anew next time.
    async fn failed(&self, error: SettlementError) -> LedgerError {
        match error {
            SettlementError::Client(error) => client_error(error),
            SettlementError::Send(error) => {
                if matches!(error, SendError::Stopped | SendError::Outbox(_)) {
                    *self.connected.lock().await = None;
                }
                send_error(error)
            }
            SettlementError::Failed { .. } => LedgerError::Refused(error.to_string()),
            SettlementError::Unknown { .. } => LedgerError::Unknown(error.to_string()),
        }
    }

    async fn try_standing(&self) -> Result<Standing, LedgerError> {
        let settlement = self.settlement().await?;
        let found = settlement.client().node(self.config.node).await.map_err(client_error)?;
        let Some(node) = found else { return Ok(Standing::Absent) };
        let owner = self.wallet.address();
        Ok(match node.status {
            NodeStatus::Left => Standing::Left,
            _ if node.kind != NodeKind::Container => {
                let why = "its key is registered as another kind of node; give the Container a key of its own";
                Standing::NotOurs { why: why.to_owned() }
            }
            _ if node.owner != owner => {
                let why = format!("its key is registered by {}, and the wallet given is {owner}", node.owner);
                Standing::NotOurs { why }
            }
            NodeStatus::Active => Standing::Active { stake: node.stake },
            NodeStatus::Jailed => Standing::Jailed { stake: node.stake },
        })
    }

    async fn try_register(&self, endpoint: String) -> Result<(), LedgerError> {
        let settlement = self.settlement().await?;
        let client = settlement.client();
        let known = client.node(self.config.node).await.map_err(client_error)?;
        if known.is_some_and(|node| node.status == NodeStatus::Left && node.unbonding > TokenAmount::ZERO) {
            // It was leaving, and its stake is still on the way out: it goes back in.
            return match settlement.cancel_unbond(self.config.node).await {
                Ok(_) => Ok(()),
                Err(error) => Err(self.failed(error).await),
            };
        }
        let least = client.min_stake(NodeKind::Container).await.map_err(client_error)?;
        let stake = self.config.stake.max(least);
        let owner = self.wallet.address();
        let have = client.token_balance(owner).await.map_err(client_error)?;
        if have < stake {
            let how = "send tokens to it; on a development network: `muster wallet faucet`";
            let why = format!("the wallet {owner} holds {have} tokens, and a Container stakes {stake}: {how}");
            return Err(LedgerError::Refused(why));
        }
        let registration = Registration {
            kind: NodeKind::Container,
            node: self.config.node,
            endpoint,
            fingerprint: self.config.fingerprint,
            stake,
        };
        match settlement.register(&registration).await {
            Ok(_) => Ok(()),
            Err(error) => Err(self.failed(error).await),
        }
    }

    async fn try_announce(&self, endpoint: String) -> Result<(), LedgerError> {
        let settlement = self.settlement().await?;
        let known = settlement.client().node(self.config.node).await.map_err(client_error)?;
        let Some(node) = known.filter(|node| node.status != NodeStatus::Left) else { return Ok(()) };
        if node.owner != self.wallet.address() || node.endpoint == endpoint {
            return Ok(());
        }
        match settlement.update_node(self.config.node, &endpoint, node.fingerprint).await {
            Ok(_) => Ok(()),
            Err(error) => Err(self.failed(error).await),
        }
    }

    async fn try_checkers(&self) -> Result<Vec<NodeId>, LedgerError> {
        let settlement = self.settlement().await?;
        let found = settlement.client().nodes(NodeKind::Checker).await.map_err(client_error)?;
        Ok(found.into_iter().filter(|node| node.status == NodeStatus::Active).map(|node| node.node).collect())
    }

    async fn try_settle(&self, entry: SettleEntry) -> Result<Settled, LedgerError> {
        let settlement = self.settlement().await?;
        let (result, tx) = match settlement.settle(entry).await {
            Ok(done) => done,
            // Money that was earned is asked for again and again, whatever the chain says today.
            Err(error) => return Err(LedgerError::Unknown(self.failed(error).await.to_string())),
        };
        match result {
            SettleResult::Closed { redeemed, refunded } => Ok(Settled::Closed { redeemed, refunded, tx: Some(tx.0) }),
            SettleResult::Skipped(why) => match why {
                SkipReason::UnknownLease | SkipReason::NotOpen => Ok(Settled::Skipped),
                SkipReason::WindowOver
                | SkipReason::BelowRedeemed
                | SkipReason::AboveDeposit
                | SkipReason::BadSignature => Ok(Settled::Worthless { why: why.to_string() }),
                SkipReason::NotPayee => Err(LedgerError::Refused(why.to_string())),
                SkipReason::Other(_) => Err(LedgerError::Unknown(why.to_string())),
            },
        }
    }
}

impl Ledger for ChainLedger {
    fn leases(&self, leases: Vec<LeaseId>) -> BoxFuture<'_, Result<Vec<EscrowLease>, LedgerError>> {
        async move {
            let settlement = self.settlement().await?;
            let found = settlement.client().leases(&leases).await.map_err(client_error)?;
            Ok(found.into_iter().map(LeaseOnChain::escrow_view).collect())
        }
        .boxed()
    }

    fn settle(&self, lease: LeaseId, voucher: Option<SignedVoucher>) -> BoxFuture<'_, Result<Settled, LedgerError>> {
        self.try_settle(SettleEntry { lease, voucher }).boxed()
    }

    fn standing(&self) -> BoxFuture<'_, Result<Standing, LedgerError>> {
        self.try_standing().boxed()
    }

    fn register(&self, endpoint: String) -> BoxFuture<'_, Result<(), LedgerError>> {
        self.try_register(endpoint).boxed()
    }

    fn announce(&self, endpoint: String) -> BoxFuture<'_, Result<(), LedgerError>> {
        self.try_announce(endpoint).boxed()
    }

    fn checkers(&self) -> BoxFuture<'_, Result<Vec<NodeId>, LedgerError>> {
        self.try_checkers().boxed()
    }

    fn leave(&self) -> BoxFuture<'_, Result<(), LedgerError>> {
        async move {
            if matches!(self.try_standing().await?, Standing::Left | Standing::Absent) {
                return Ok(());
            }
            match self.settlement().await?.leave(self.config.node).await {
                Ok(_) => Ok(()),
                Err(error) => Err(self.failed(error).await),
            }
        }
        .boxed()
    }

    fn earnings(&self) -> BoxFuture<'_, Result<Earnings, LedgerError>> {
        async move {
            let settlement = self.settlement().await?;
            let found = settlement.client().claimable(self.wallet.address()).await.map_err(client_error)?;
            Ok(Earnings { claimable: found.now, pending: found.pending })
        }
        .boxed()
    }

    fn owner(&self) -> Address {
        self.wallet.address()
    }

    fn voucher_signer(&self, voucher: &SignedVoucher) -> Option<Address> {
        self.vouchers.signer(voucher).ok()
    }

    fn message_signer(&self, bytes: &[u8], signature: CompactSignature) -> Option<Address> {
        muster_chain::message::message_signer(bytes, &signature)
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        Self::close(self).boxed()
    }
}

fn client_error(error: ClientError) -> LedgerError {
    let text = error.to_string();
    match error {
        ClientError::BadUrl { .. } | ClientError::WrongChain { .. } | ClientError::NoContract { .. } => {
            LedgerError::Refused(text)
        }
        _ => LedgerError::Unknown(text),
    }
}

fn send_error(error: SendError) -> LedgerError {
    let text = error.to_string();
    match error {
        SendError::Client(error) => client_error(error),
        SendError::WouldFail(_)
        | SendError::InsufficientFunds { .. }
        | SendError::KeyReused { .. }
        | SendError::BadKey { .. } => LedgerError::Refused(text),
        SendError::Outbox(_) | SendError::Superseded { .. } | SendError::Stopped => LedgerError::Unknown(text),
    }
}
