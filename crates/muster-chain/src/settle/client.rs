//! Reading the chain and the contracts.

use std::sync::Arc;
use std::time::Duration;

use alloy::primitives::{B256, Bytes, U64, U256};
use alloy::rpc::types::Log;
use alloy::sol_types::{SolCall, SolEventInterface, SolValue};
use futures::FutureExt;
use muster_core::apps::{AppStake, app_id};
use muster_core::ids::{Address, LeaseId, NodeId};
use muster_core::units::TokenAmount;
use serde_json::{Value, json};

use super::VoucherDomain;
use super::batcher::Batcher;
use super::rpc::{ClientError, Rpc};
use super::transaction::TxId;
use super::types::{ChainEvent, LeaseOnChain, NodeKind, NodeOnChain, SkipReason};
use crate::contracts::Contracts;
use crate::contracts::abi::LeaseEscrow::{self, LeaseEscrowEvents};
use crate::contracts::abi::MusterToken;
use crate::contracts::abi::Registry::{self, RegistryEvents};
use crate::convert::{amount, from_evm, lease_word, node_word, to_evm};

/// Nodes of one page of the registry.
const NODES_PAGE: u64 = 100;
/// Most nodes that are read of one kind.
const NODES_MAX: u64 = 1_000_000;
/// Blocks of one request for events.
const EVENT_BLOCKS: u64 = 5_000;

/// Questions about leases and about balances that share one request, and such requests under way at a time.
const READ_GROUP_MAX: usize = 200;
const READ_LANES_MAX: usize = 2;

/// A network's chain and contracts, for reading. Clones share the connection.
#[derive(Clone, Debug)]
pub struct ChainClient {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    rpc: Rpc,
    chain_id: u64,
    contracts: Contracts,
    vouchers: VoucherDomain,
    leases: Arc<Batcher<LeaseId, Result<Option<LeaseOnChain>, ClientError>>>,
    balances: Arc<Batcher<Address, Result<TokenAmount, ClientError>>>,
}

impl Inner {
    fn new(rpc: Rpc, chain_id: u64, contracts: Contracts) -> Self {
        let (asking, escrow) = (rpc.clone(), contracts.escrow);
        let leases = Batcher::new(
            READ_GROUP_MAX,
            READ_LANES_MAX,
            Arc::new(move |leases: Vec<LeaseId>| {
                let rpc = asking.clone();
                async move { read_leases(&rpc, escrow, &leases).await }.boxed()
            }),
        );
        let (asking, token) = (rpc.clone(), contracts.token);
        let balances = Batcher::new(
            READ_GROUP_MAX,
            READ_LANES_MAX,
            Arc::new(move |accounts: Vec<Address>| {
                let rpc = asking.clone();
                async move { read_balances(&rpc, token, &accounts).await }.boxed()
            }),
        );
        Self { rpc, chain_id, contracts, vouchers: VoucherDomain::new(chain_id, contracts.escrow), leases, balances }
    }

    fn stopped(&self, what: &str) -> ClientError {
        self.rpc.bad_answer(what, "the question was given up".to_owned())
    }
}

/// What a Container's owner has earned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Claimable {
    /// Can be claimed now.
    pub now: TokenAmount,
    /// Can be claimed after its delay.
    pub pending: TokenAmount,
}

/// Events of a range of blocks.
#[derive(Clone, Debug)]
pub struct EventPage {
    /// In the chain's order.
    pub events: Vec<ChainEvent>,
    /// Where to go on: the first block that was not looked at.
    pub next_block: u64,
    /// Whether that is the end of the chain for now.
    pub is_last: bool,
}

impl ChainClient {
    /// Connects to a node and checks that it serves the expected chain.
    ///
    /// # Errors
    /// A bad address, nobody there, or another chain.
    pub async fn connect(rpc_url: &str, expected_chain_id: u64, contracts: Contracts) -> Result<Self, ClientError> {
        let rpc = Rpc::new(rpc_url)?;
        let found: u64 = rpc.ask::<U64>("eth_chainId", json!([])).await?.to();
        if found != expected_chain_id {
            let url = rpc.shown_url().to_owned();
            return Err(ClientError::WrongChain { url, found, expected: expected_chain_id });
        }
        Ok(Self { inner: Arc::new(Inner::new(rpc, found, contracts)) })
    }

    /// The same connection for other contracts, such as those just deployed.
    #[must_use]
    pub fn with_contracts(&self, contracts: Contracts) -> Self {
        Self { inner: Arc::new(Inner::new(self.inner.rpc.clone(), self.inner.chain_id, contracts)) }
    }

    /// EIP-155 chain id.
    #[must_use]
    pub fn chain_id(&self) -> u64 {
        self.inner.chain_id
    }

    /// The network's contracts.
    #[must_use]
    pub fn contracts(&self) -> Contracts {
        self.inner.contracts
    }

    /// Signs and checks vouchers of this network's escrow.
    #[must_use]
    pub fn vouchers(&self) -> &VoucherDomain {
        &self.inner.vouchers
    }

    pub(crate) fn rpc(&self) -> &Rpc {
        &self.inner.rpc
    }

    /// Hash of the genesis block, which tells a chain that was begun anew from the one before, and whether the node is
    /// an embedded chain, as it says itself.
    pub(crate) async fn genesis(&self) -> Result<(B256, bool), ClientError> {
        let (block, version) = ("eth_getBlockByNumber", "web3_clientVersion");
        let asked = vec![(block, json!(["0x0", false])), (version, json!([]))];
        let mut answers = self.inner.rpc.ask_all(asked).await?.into_iter();
        let missing = || self.inner.rpc.bad_answer(block, "too few answers".to_owned());
        let genesis = answers.next().unwrap_or_else(|| Err(missing()))?;
        // Nodes need not say what they are.
        let is_embedded = matches!(answers.next(), Some(Ok(Value::String(name))) if is_embedded(&name));
        Ok((self.inner.rpc.decode(block, genesis["hash"].clone())?, is_embedded))
    }

    /// Number of the latest block.
    ///
    /// # Errors
    /// The chain does not answer.
    pub async fn block_number(&self) -> Result<u64, ClientError> {
        Ok(self.inner.rpc.ask::<U64>("eth_blockNumber", json!([])).await?.to())
    }

    /// Ether of an account, in wei.
    ///
    /// # Errors
    /// The chain does not answer.
    pub async fn eth_balance(&self, account: Address) -> Result<u128, ClientError> {
        let balance: U256 = self.inner.rpc.ask("eth_getBalance", json!([to_evm(account), "latest"])).await?;
        Ok(balance.saturating_to())
    }

    /// Tokens of an account. Questions that come together share a request.
    ///
    /// # Errors
    /// The chain does not answer.
    pub async fn token_balance(&self, account: Address) -> Result<TokenAmount, ClientError> {
        let answer = self.inner.balances.carry(account).await;
        answer.unwrap_or_else(|| Err(self.inner.stopped("balanceOf")))
    }

    /// Tokens that `spender` may take from `owner`.
    ///
    /// # Errors
    /// The chain does not answer.
    pub async fn allowance(&self, owner: Address, spender: Address) -> Result<TokenAmount, ClientError> {
        let call = MusterToken::allowanceCall { owner: to_evm(owner), spender: to_evm(spender) };
        Ok(amount(self.call(self.inner.contracts.token, &call).await?))
    }

    /// Whether there is a contract at an address.
    ///
    /// # Errors
    /// The chain does not answer.
    pub async fn has_code(&self, address: Address) -> Result<bool, ClientError> {
        let code: Bytes = self.inner.rpc.ask("eth_getCode", json!([to_evm(address), "latest"])).await?;
        Ok(!code.is_empty())
    }

    /// A node of the registry; `None` where it is not registered.
    ///
    /// # Errors
    /// The chain does not answer.
    pub async fn node(&self, node: NodeId) -> Result<Option<NodeOnChain>, ClientError> {
        let call = Registry::nodeCall { nodeKey: node_word(node) };
        let found = self.call(self.inner.contracts.registry, &call).await?;
        Ok(NodeOnChain::from_abi(node, found))
    }

    /// All nodes of a kind, those that left included, read page by page.
    ///
    /// # Errors
    /// The chain does not answer.
    pub async fn nodes(&self, kind: NodeKind) -> Result<Vec<NodeOnChain>, ClientError> {
        let registry = self.inner.contracts.registry;
        let count = self.call(registry, &Registry::nodeCountCall { kind: kind.code() }).await?;
        let count = count.saturating_to::<u64>().min(NODES_MAX);
        let mut all = Vec::new();
        for from in (0..count).step_by(usize::try_from(NODES_PAGE).expect("100 fits")) {
            let call = Registry::nodesCall { kind: kind.code(), from: U256::from(from), count: U256::from(NODES_PAGE) };
            let page = self.call(registry, &call).await?;
            let nodes = page.keys.into_iter().zip(page.page);
            all.extend(nodes.filter_map(|(key, node)| NodeOnChain::from_abi(NodeId(key.0), node)));
        }
        Ok(all)
    }

    /// Least stake of a kind of node.
    ///
    /// # Errors
    /// The chain does not answer.
    pub async fn min_stake(&self, kind: NodeKind) -> Result<TokenAmount, ClientError> {
        let call = Registry::minStakeCall { kind: kind.code() };
        self.call(self.inner.contracts.registry, &call).await.map(TokenAmount)
    }

    /// The stake of an app; `None` where none was ever registered under its name.
    ///
    /// # Errors
    /// The chain does not answer.
    pub async fn app_stake(&self, name: &str) -> Result<Option<AppStake>, ClientError> {
        Ok(self.node(app_id(name)).await?.and_then(|node| node.app_stake()))
    }

    /// Whether the network's registry takes apps: those from before there were stakes for apps do not.
    ///
    /// # Errors
    /// The chain does not answer.
    pub async fn takes_apps(&self) -> Result<bool, ClientError> {
        match self.call(self.inner.contracts.registry, &Registry::KIND_APPCall {}).await {
            Ok(_) => Ok(true),
            Err(ClientError::Reverted(_)) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// The name that the escrow will give to a lease of this consumer with this salt.
    #[must_use]
    pub fn lease_id(&self, consumer: Address, salt: [u8; 32]) -> LeaseId {
        let parts =
            (U256::from(self.inner.chain_id), to_evm(self.inner.contracts.escrow), to_evm(consumer), B256::from(salt));
        LeaseId(alloy::primitives::keccak256(parts.abi_encode()).0)
    }

    /// A lease of the escrow; `None` where it was never opened. Questions that come together share a request.
    ///
    /// # Errors
    /// The chain does not answer.
    pub async fn lease(&self, lease: LeaseId) -> Result<Option<LeaseOnChain>, ClientError> {
        let answer = self.inner.leases.carry(lease).await;
        answer.unwrap_or_else(|| Err(self.inner.stopped("lease")))
    }

    /// Many leases at once, in the order of `leases`.
    ///
    /// # Errors
    /// The chain does not answer.
    pub async fn leases(&self, leases: &[LeaseId]) -> Result<Vec<Option<LeaseOnChain>>, ClientError> {
        read_leases(&self.inner.rpc, self.inner.contracts.escrow, leases).await.into_iter().collect()
    }

    /// Waits until a lease is on the chain; `None` when it is not there after `patience`.
    ///
    /// # Errors
    /// The chain does not answer.
    pub async fn await_lease(&self, lease: LeaseId, patience: Duration) -> Result<Option<LeaseOnChain>, ClientError> {
        let deadline = tokio::time::Instant::now() + patience;
        let mut pause = Duration::from_millis(10);
        loop {
            if let Some(found) = self.lease(lease).await? {
                return Ok(Some(found));
            }
            if tokio::time::Instant::now() + pause > deadline {
                return Ok(None);
            }
            tokio::time::sleep(pause).await;
            pause = pause.saturating_mul(2).min(Duration::from_millis(250));
        }
    }

    /// What an owner of Containers has earned.
    ///
    /// # Errors
    /// The chain does not answer.
    pub async fn claimable(&self, payee: Address) -> Result<Claimable, ClientError> {
        let call = LeaseEscrow::claimableCall { payee: to_evm(payee) };
        let found = self.call(self.inner.contracts.escrow, &call).await?;
        Ok(Claimable { now: amount(found.now_), pending: amount(found.pending) })
    }

    /// Network fees that wait in the escrow for their recipient.
    ///
    /// # Errors
    /// The chain does not answer.
    pub async fn network_fees(&self) -> Result<TokenAmount, ClientError> {
        self.call(self.inner.contracts.escrow, &LeaseEscrow::networkFeesCall {}).await.map(TokenAmount)
    }

    /// Seconds in which vouchers count after a consumer has closed a lease.
    ///
    /// # Errors
    /// The chain does not answer.
    pub async fn challenge_window_s(&self) -> Result<u64, ClientError> {
        self.call(self.inner.contracts.escrow, &LeaseEscrow::challengeWindowCall {}).await
    }

    /// What happened in the contracts from block `from` on, up to some thousands of blocks at a time.
    ///
    /// # Errors
    /// The chain does not answer.
    pub async fn events(&self, from: u64) -> Result<EventPage, ClientError> {
        let head = self.block_number().await?;
        if from > head {
            return Ok(EventPage { events: Vec::new(), next_block: from, is_last: true });
        }
        let to = head.min(from.saturating_add(EVENT_BLOCKS - 1));
        let contracts = self.inner.contracts;
        let filter = json!([{
            "fromBlock": U64::from(from),
            "toBlock": U64::from(to),
            "address": [to_evm(contracts.escrow), to_evm(contracts.registry)],
        }]);
        let logs: Vec<Log> = self.inner.rpc.ask("eth_getLogs", filter).await?;
        let events = logs.iter().filter_map(|log| event(&log.inner)).collect();
        Ok(EventPage { events, next_block: to + 1, is_last: to == head })
    }

    /// Whether a transaction is in a block, and whether it succeeded.
    ///
    /// # Errors
    /// The chain does not answer.
    pub async fn transaction_succeeded(&self, tx: TxId) -> Result<Option<bool>, ClientError> {
        let receipt: Value = self.inner.rpc.ask("eth_getTransactionReceipt", json!([B256::from(tx.0)])).await?;
        Ok(receipt["status"].as_str().map(|status| status == "0x1"))
    }

    /// When a block was made, in Unix seconds.
    ///
    /// # Errors
    /// The chain does not answer, or has no such block.
    pub async fn block_time_s(&self, block: u64) -> Result<u64, ClientError> {
        let method = "eth_getBlockByNumber";
        let found: Value = self.inner.rpc.ask(method, json!([U64::from(block), false])).await?;
        let time: U64 = self.inner.rpc.decode(method, found["timestamp"].clone())?;
        Ok(time.to())
    }

    /// The last block that was made at or before a time in Unix seconds; `None` where even the first came later.
    ///
    /// # Errors
    /// The chain does not answer.
    pub async fn block_at(&self, time_s: u64) -> Result<Option<u64>, ClientError> {
        if self.block_time_s(0).await? > time_s {
            return Ok(None);
        }
        let (mut low, mut high) = (0, self.block_number().await?);
        while low < high {
            let middle = high - (high - low) / 2;
            if self.block_time_s(middle).await? <= time_s { low = middle } else { high = middle - 1 }
        }
        Ok(Some(low))
    }

    /// All logs of some contracts in a range of blocks, in the chain's order, read some thousands of blocks at a time.
    pub(crate) async fn logs(&self, of: &[Address], from: u64, to: u64) -> Result<Vec<Log>, ClientError> {
        let addresses: Vec<_> = of.iter().copied().map(to_evm).collect();
        let mut all = Vec::new();
        let mut next = from;
        while next <= to {
            let until = to.min(next.saturating_add(EVENT_BLOCKS - 1));
            let filter = json!([{ "fromBlock": U64::from(next), "toBlock": U64::from(until), "address": addresses }]);
            let page: Vec<Log> = self.inner.rpc.ask("eth_getLogs", filter).await?;
            all.extend(page);
            next = until.saturating_add(1);
        }
        Ok(all)
    }

    /// Calls a contract without a transaction.
    pub(crate) async fn call<C: SolCall>(&self, to: Address, call: &C) -> Result<C::Return, ClientError> {
        let (method, params) = request(to, call);
        let value: Value = self.inner.rpc.ask(method, params).await?;
        returned::<C>(&self.inner.rpc, value)
    }
}

/// Whether a node calls itself an embedded chain.
fn is_embedded(version: &str) -> bool {
    version.starts_with("muster/") && version.ends_with("/embedded")
}

fn request<C: SolCall>(to: Address, call: &C) -> (&'static str, Value) {
    let data = Bytes::from(call.abi_encode());
    ("eth_call", json!([{ "to": to_evm(to), "input": data }, "latest"]))
}

fn returned<C: SolCall>(rpc: &Rpc, value: Value) -> Result<C::Return, ClientError> {
    let data: Bytes = rpc.decode("eth_call", value)?;
    C::abi_decode_returns(&data).map_err(|error| {
        let reason = if data.is_empty() {
            "nothing: there is no such contract at the address of the network file".to_owned()
        } else {
            error.to_string()
        };
        rpc.bad_answer(C::SIGNATURE, reason)
    })
}

/// Makes many calls in one request; an answer, or why there is none, for each.
async fn call_all<C: SolCall>(rpc: &Rpc, to: Address, calls: Vec<C>) -> Vec<Result<C::Return, ClientError>> {
    let count = calls.len();
    match rpc.ask_all(calls.iter().map(|call| request(to, call)).collect()).await {
        Ok(answers) => answers.into_iter().map(|answer| returned::<C>(rpc, answer?)).collect(),
        Err(error) => (0..count).map(|_| Err(error.clone())).collect(),
    }
}

async fn read_leases(rpc: &Rpc, escrow: Address, leases: &[LeaseId]) -> Vec<Result<Option<LeaseOnChain>, ClientError>> {
    let calls = leases.iter().map(|lease| LeaseEscrow::leaseCall { id: lease_word(*lease) }).collect();
    let found = call_all(rpc, escrow, calls).await;
    leases.iter().zip(found).map(|(lease, found)| Ok(LeaseOnChain::from_abi(*lease, found?))).collect()
}

/// An account that was asked about more than once is read once.
async fn read_balances(rpc: &Rpc, token: Address, accounts: &[Address]) -> Vec<Result<TokenAmount, ClientError>> {
    let mut different = accounts.to_vec();
    different.sort_unstable();
    different.dedup();
    let calls = different.iter().map(|account| MusterToken::balanceOfCall { account: to_evm(*account) }).collect();
    let found = call_all(rpc, token, calls).await;
    let of = |account: &Address| different.binary_search(account).ok().and_then(|at| found.get(at).cloned());
    let missing = || rpc.bad_answer("balanceOf", "too few answers".to_owned());
    accounts.iter().map(|account| of(account).unwrap_or_else(|| Err(missing())).map(amount)).collect()
}

/// One log as an event; `None` for logs that no node acts on.
pub(crate) fn event(log: &alloy::primitives::Log) -> Option<ChainEvent> {
    if let Ok(event) = LeaseEscrowEvents::decode_log(log) {
        return escrow_event(event.data);
    }
    let node = match RegistryEvents::decode_log(log).ok()?.data {
        RegistryEvents::NodeRegistered(e) => e.nodeKey,
        RegistryEvents::NodeUpdated(e) => e.nodeKey,
        RegistryEvents::NodeJailed(e) => e.nodeKey,
        RegistryEvents::NodeLeft(e) => e.nodeKey,
        RegistryEvents::NodeReinstated(e) => e.nodeKey,
        RegistryEvents::NodeSlashed(e) => e.nodeKey,
        RegistryEvents::StakeAdded(e) => e.nodeKey,
        RegistryEvents::UnbondRequested(e) => e.nodeKey,
        RegistryEvents::UnbondCancelled(e) => e.nodeKey,
        RegistryEvents::Withdrawn(e) => e.nodeKey,
        RegistryEvents::RewardCredited(e) => e.nodeKey,
        RegistryEvents::RewardClaimed(e) => e.nodeKey,
        _ => return None,
    };
    Some(ChainEvent::NodeChanged { node: NodeId(node.0) })
}

fn escrow_event(event: LeaseEscrowEvents) -> Option<ChainEvent> {
    Some(match event {
        LeaseEscrowEvents::LeaseOpened(e) => ChainEvent::LeaseOpened {
            lease: LeaseId(e.lease.0),
            consumer: from_evm(e.consumer),
            container: NodeId(e.container.0),
            indexer: NodeId(e.indexer.0),
            session_key: from_evm(e.sessionKey),
            deposit: TokenAmount(e.deposit),
            rate_per_second: TokenAmount(e.ratePerSecond),
            max_seconds: e.maxSeconds,
        },
        LeaseEscrowEvents::LeaseToppedUp(e) => ChainEvent::LeaseToppedUp {
            lease: LeaseId(e.lease.0),
            amount: TokenAmount(e.amount),
            deposit: TokenAmount(e.deposit),
        },
        LeaseEscrowEvents::VoucherRedeemed(e) => ChainEvent::VoucherRedeemed {
            lease: LeaseId(e.lease.0),
            amount: TokenAmount(e.amount),
            delta: TokenAmount(e.delta),
            fee: TokenAmount(e.fee),
        },
        LeaseEscrowEvents::VoucherSkipped(e) => {
            ChainEvent::VoucherSkipped { lease: LeaseId(e.lease.0), reason: SkipReason::from_code(e.reason) }
        }
        LeaseEscrowEvents::LeaseClosing(e) => {
            ChainEvent::LeaseClosing { lease: LeaseId(e.lease.0), redeemable_until_s: e.redeemableUntil }
        }
        LeaseEscrowEvents::LeaseClosed(e) => ChainEvent::LeaseClosed {
            lease: LeaseId(e.lease.0),
            redeemed: TokenAmount(e.redeemed),
            refunded: TokenAmount(e.refunded),
        },
        _ => return None,
    })
}
