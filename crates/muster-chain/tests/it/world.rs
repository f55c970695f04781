//! A chain on a free port of loopback, with contracts, for one test.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use muster_chain::contracts::{Contracts, DeployParams, deploy_development};
use muster_chain::embedded::{Chain, ChainConfig, ServerConfig, open_development, serve};
use muster_chain::keys::Wallet;
use muster_chain::settle::{ChainClient, SenderConfig, Settlement, TxSender};
use muster_core::ids::Address;
use muster_core::units::TokenAmount;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

pub(crate) const CHAIN_ID: u64 = 41_337;
pub(crate) const ETHER: u128 = 1_000_000_000_000_000_000;

/// A served development chain; stopped when dropped.
pub(crate) struct Served {
    pub(crate) dir: TempDir,
    pub(crate) chain: Chain,
    pub(crate) faucet: Wallet,
    pub(crate) address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    server: JoinHandle<()>,
}

impl Served {
    pub(crate) async fn start() -> Self {
        Self::start_with(ChainConfig::development(CHAIN_ID)).await
    }

    pub(crate) async fn start_with(config: ChainConfig) -> Self {
        Self::start_in(tempfile::tempdir().unwrap(), "127.0.0.1:0".parse().unwrap(), config).await
    }

    /// Serves the chain of a folder at an address.
    pub(crate) async fn start_in(dir: TempDir, address: SocketAddr, config: ChainConfig) -> Self {
        let opened = open_development(dir.path(), config).unwrap();
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = oneshot::channel();
        let chain = opened.chain.clone();
        let server = tokio::spawn(async move {
            let shutdown = async {
                let _ = stopped.await;
            };
            serve(chain, listener, ServerConfig::default(), shutdown).await.unwrap();
        });
        Self { dir, chain: opened.chain, faucet: opened.faucet, address, stop: Some(stop), server }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub(crate) async fn stop(mut self) -> TempDir {
        self.stop.take().unwrap().send(()).unwrap();
        self.server.await.unwrap();
        self.chain.close().await;
        self.dir
    }
}

/// One JSON-RPC request; the whole answer.
pub(crate) async fn rpc(url: &str, method: &str, params: Value) -> Value {
    post(url, &json!({ "jsonrpc": "2.0", "id": 1, "method": method, "params": params })).await
}

/// The result of one JSON-RPC request.
pub(crate) async fn result(url: &str, method: &str, params: Value) -> Value {
    let answer = rpc(url, method, params).await;
    assert!(answer.get("error").is_none(), "{method}: {answer}");
    answer["result"].clone()
}

pub(crate) async fn post(url: &str, body: &Value) -> Value {
    http().post(url).json(body).send().await.unwrap().json().await.unwrap()
}

pub(crate) fn http() -> reqwest::Client {
    let _ = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::builder().no_proxy().build().unwrap()
}

/// Contracts that stand in for real ones until they are deployed.
pub(crate) const NOWHERE: Contracts =
    Contracts { token: Address::ZERO, registry: Address::ZERO, escrow: Address::ZERO };

/// A sender that runs until it is dropped.
pub(crate) struct Running {
    pub(crate) settlement: Settlement,
    task: JoinHandle<()>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Patience for tests: quick looks, quick resends.
pub(crate) fn quick() -> SenderConfig {
    SenderConfig {
        poll: (Duration::from_millis(20), Duration::from_millis(200)),
        resend_after: Duration::from_millis(300),
        displaced_after: Duration::from_secs(1),
        ..SenderConfig::default()
    }
}

pub(crate) async fn run_sender(dir: &Path, wallet: Wallet, client: ChainClient) -> Running {
    let sender = TxSender::open(dir, wallet, client, quick()).await.unwrap();
    let runner = sender.clone();
    let task = tokio::spawn(async move { runner.run(std::future::pending()).await.unwrap() });
    Running { settlement: Settlement::new(sender), task }
}

/// A chain with contracts, whose faucet owns the whole supply of tokens.
pub(crate) struct Network {
    pub(crate) served: Served,
    pub(crate) faucet: Running,
    pub(crate) client: ChainClient,
}

impl Network {
    pub(crate) async fn start() -> Self {
        let served = Served::start().await;
        let bare = ChainClient::connect(&served.url(), CHAIN_ID, NOWHERE).await.unwrap();
        let outbox = served.dir.path().join("faucet");
        let deployer = run_sender(&outbox, served.faucet.clone(), bare.clone()).await;
        let params = DeployParams {
            unbonding_s: 1,
            service_fee_delay_s: 1,
            challenge_window_s: 1,
            ..DeployParams::development(tokens(1_000), tokens(5_000), 2_000)
        };
        let contracts = deploy_development(deployer.settlement.sender(), &params).await.unwrap();
        stop_sender(deployer).await;
        let client = bare.with_contracts(contracts);
        let faucet = run_sender(&outbox, served.faucet.clone(), client.clone()).await;
        Self { served, faucet, client }
    }

    /// A new account with ether and tokens, and its sender.
    pub(crate) async fn account(&self, name: &str, amount: TokenAmount) -> Running {
        let wallet = Wallet::random();
        let to = wallet.address();
        self.faucet.settlement.send_ether(name, to, 10 * ETHER).await.unwrap();
        self.faucet.settlement.send_tokens(name, to, amount).await.unwrap();
        run_sender(&self.served.dir.path().join(name), wallet, self.client.clone()).await
    }
}

/// Stops a sender and waits until its outbox is free.
pub(crate) async fn stop_sender(running: Running) {
    running.task.abort();
    while !running.task.is_finished() {
        tokio::task::yield_now().await;
    }
}

pub(crate) fn tokens(whole: u128) -> TokenAmount {
    TokenAmount(whole * TokenAmount::ONE.0)
}
