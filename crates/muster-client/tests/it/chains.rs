//! The consumer's ledger on a real (embedded) chain.

use std::sync::Arc;
use std::time::Duration;

use muster_chain::contracts::{Contracts, DeployParams, deploy_development};
use muster_chain::embedded::{ChainConfig, ServerConfig, open_development, serve};
use muster_chain::keys::Wallet;
use muster_chain::settle::{ChainClient, NodeKind, Registration, SenderConfig, Settlement, TxSender};
use muster_client::chain::ChainLedger;
use muster_client::ledger::{Ledger, LedgerError};
use muster_client::network::Chain;
use muster_client::{Network, SessionKey};
use muster_core::hardware::Allocation;
use muster_core::ids::{Address, NodeId, RequestId};
use muster_core::lease::LeaseTerms;
use muster_core::params::Params;
use muster_core::protocol::EscrowStatus;
use muster_core::units::TokenAmount;
use muster_core::voucher::Voucher;

use crate::world::unheard;

const CHAIN_ID: u64 = 41_338;
const CONTAINER: NodeId = NodeId([8; 32]);

struct Served {
    network: Network,
    settlement: Settlement,
    temp: tempfile::TempDir,
}

fn tokens(whole: u128) -> TokenAmount {
    TokenAmount(whole * TokenAmount::ONE.0)
}

impl Served {
    /// A chain with contracts and one registered Container.
    async fn start() -> Self {
        let temp = tempfile::tempdir().unwrap();
        let opened = open_development(&temp.path().join("chain"), ChainConfig::development(CHAIN_ID)).unwrap();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let rpc = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(serve(opened.chain, listener, ServerConfig::default(), std::future::pending()));
        let nowhere = Contracts { token: Address::ZERO, registry: Address::ZERO, escrow: Address::ZERO };
        let bare = ChainClient::connect(&rpc, CHAIN_ID, nowhere).await.unwrap();
        let run = async |name: &str, client: &ChainClient, wallet: &Wallet| {
            let dir = temp.path().join(name);
            let sender = TxSender::open(&dir, wallet.clone(), client.clone(), SenderConfig::default()).await.unwrap();
            let runner = sender.clone();
            tokio::spawn(async move { runner.run(std::future::pending()).await });
            sender
        };
        let params = DeployParams {
            challenge_window_s: 1,
            service_fee_delay_s: 1,
            ..DeployParams::development(tokens(1_000), tokens(5_000), 2_000)
        };
        let deployer = run("deployer", &bare, &opened.faucet).await;
        let contracts = deploy_development(&deployer, &params).await.unwrap();
        let client = bare.with_contracts(contracts);
        // The faucet's key sends to these contracts from here on, from an outbox of its own.
        let settlement = Settlement::new(run("faucet", &client, &opened.faucet).await);
        let registration = Registration {
            kind: NodeKind::Container,
            node: CONTAINER,
            endpoint: "127.0.0.1:4000".to_owned(),
            fingerprint: [7; 32],
            stake: tokens(1_000),
        };
        settlement.register(&registration).await.unwrap();
        let contracts = muster_client::network::Contracts {
            token: contracts.token,
            registry: contracts.registry,
            escrow: contracts.escrow,
        };
        let chain = Chain { id: CHAIN_ID, rpc };
        let network = Network::new("test", chain, contracts, Params::development());
        Self { network, settlement, temp }
    }

    async fn wallet(&self, amount: TokenAmount) -> Wallet {
        let wallet = Wallet::random();
        self.settlement.send_ether("wallet", wallet.address(), TokenAmount::ONE.0).await.unwrap();
        self.settlement.send_tokens("wallet", wallet.address(), amount).await.unwrap();
        wallet
    }

    /// As another process with the same folder and wallet.
    async fn ledger(&self, wallet: Option<&Wallet>) -> Arc<ChainLedger> {
        Arc::new(ChainLedger::connect(&self.network, wallet.cloned(), &self.temp.path().join("data")).await.unwrap())
    }
}

fn terms(ledger: &ChainLedger, key: &SessionKey, salt: u8) -> LeaseTerms {
    let consumer = ledger.consumer().unwrap();
    LeaseTerms {
        lease: ledger.lease_id(consumer, [salt; 32]),
        salt: [salt; 32],
        request: RequestId(1),
        consumer,
        session_key: key.address(),
        container: CONTAINER,
        indexer: NodeId([9; 32]),
        rate_per_second: TokenAmount(1_000),
        deposit: tokens(1),
        max_seconds: 60,
        interval_ms: 2_000,
        open_within_ms: 15_000,
        allocation: Allocation::default(),
        egress: false,
        tokens: None,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_processes_share_a_wallet_and_each_lease_is_paid_once() {
    let served = Served::start().await;
    let wallet = served.wallet(tokens(100)).await;
    let (one, two) = (served.ledger(Some(&wallet)).await, served.ledger(Some(&wallet)).await);
    let key = SessionKey::random();
    let mut opening = tokio::task::JoinSet::new();
    for salt in 0..12 {
        // The same lease is asked for twice, by both processes for half of them.
        for ledger in [if salt % 2 == 0 { &one } else { &two }, &one] {
            let (ledger, terms) = (Arc::clone(ledger), terms(ledger, &key, salt));
            opening.spawn(async move { ledger.open(terms, unheard()).await });
        }
    }
    while let Some(opened) = opening.join_next().await {
        opened.unwrap().unwrap();
    }
    assert_eq!(one.balance().await.unwrap(), tokens(88));
    for salt in 0..12 {
        let terms = terms(&one, &key, salt);
        let view = two.lease(terms.lease).await.unwrap();
        assert_eq!(view.status, EscrowStatus::Open);
        view.matches(&terms).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_that_never_pauses_lets_one_that_waits_have_the_wallet() {
    let served = Served::start().await;
    let wallet = served.wallet(tokens(10)).await;
    let (busy, other) = (served.ledger(Some(&wallet)).await, served.ledger(Some(&wallet)).await);
    let key = SessionKey::random();
    busy.open(terms(&busy, &key, 1), unheard()).await.unwrap();
    let restless = tokio::spawn({
        let terms = terms(&busy, &key, 1);
        async move {
            loop {
                busy.open(terms.clone(), unheard()).await.unwrap();
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
    });
    other.open(terms(&other, &key, 2), unheard()).await.unwrap();
    assert!(!restless.is_finished(), "the other one never failed");
    restless.abort();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lease_is_topped_up_closed_and_finalised() {
    let served = Served::start().await;
    let wallet = served.wallet(tokens(10)).await;
    let ledger = served.ledger(Some(&wallet)).await;
    let key = SessionKey::random();
    let terms = terms(&ledger, &key, 1);
    assert_eq!(ledger.lease(terms.lease).await.unwrap().status, EscrowStatus::None);
    ledger.open(terms.clone(), unheard()).await.unwrap();
    for _ in 0..2 {
        ledger.top_up(terms.lease, tokens(2), "the same wish".to_owned()).await.unwrap();
    }
    assert_eq!(ledger.lease(terms.lease).await.unwrap().deposit, tokens(3));
    let early = ledger.finalize(terms.lease).await;
    assert!(matches!(early, Err(LedgerError::Refused(_))), "{early:?}");
    // What was vouched is paid before, by the consumer itself, and once however often it is asked for.
    let voucher = ledger.sign_voucher(&key, Voucher { lease: terms.lease, amount: tokens(1), as_of_s: 1 });
    for _ in 0..2 {
        ledger.redeem(voucher).await.unwrap();
    }
    let less = ledger.sign_voucher(&key, Voucher { lease: terms.lease, amount: TokenAmount(5), as_of_s: 2 });
    assert!(matches!(ledger.redeem(less).await, Err(LedgerError::Refused(_))));
    ledger.close(terms.lease).await.unwrap();
    assert_eq!(ledger.lease(terms.lease).await.unwrap().status, EscrowStatus::Closing);
    while ledger.finalize(terms.lease).await.is_err() {
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let closed = ledger.lease(terms.lease).await.unwrap();
    assert_eq!((closed.status, closed.redeemed), (EscrowStatus::Closed, tokens(1)));
    assert_eq!(ledger.balance().await.unwrap(), tokens(9), "what was not promised came back");
    assert!(matches!(ledger.redeem(voucher).await, Ok(())), "known as paid");
    ledger.client().vouchers().verify(&voucher, key.address()).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_done_is_refused_and_what_is_not_known_is_not_no() {
    let served = Served::start().await;
    let poor = served.wallet(TokenAmount(5)).await;
    let ledger = served.ledger(Some(&poor)).await;
    let key = SessionKey::random();
    let refused = ledger.open(terms(&ledger, &key, 1), unheard()).await;
    assert!(matches!(&refused, Err(LedgerError::Refused(_))), "{refused:?}");
    assert_eq!(ledger.balance().await.unwrap(), TokenAmount(5));
    let without = served.ledger(None).await;
    assert!(matches!(without.open(terms(&ledger, &key, 1), unheard()).await, Err(LedgerError::NoWallet(_))));
    let elsewhere =
        Network { chain: Chain { id: CHAIN_ID + 1, ..served.network.chain.clone() }, ..served.network.clone() };
    let said = ChainLedger::connect(&elsewhere, None, served.temp.path()).await.unwrap_err().to_string();
    assert!(said.contains("41338") && said.contains("41339"), "{said}");
    let down =
        Network { chain: Chain { id: CHAIN_ID, rpc: "http://127.0.0.1:1".to_owned() }, ..served.network.clone() };
    let said = ChainLedger::connect(&down, None, served.temp.path()).await.unwrap_err().to_string();
    assert!(said.contains("is it running"), "{said}");
}
