//! Sending with care: no intent twice, none lost, whatever the network does.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use muster_chain::embedded::ChainConfig;
use muster_chain::keys::Wallet;
use muster_chain::settle::{
    Call, ChainClient, ClientError, OutboxError, SendError, SenderConfig, TxId, TxOutcome, TxSender, VoucherError,
};
use muster_core::ids::{Address, LeaseId};
use muster_core::units::TokenAmount;
use muster_core::voucher::Voucher;
use serde_json::{Value, json};

use crate::flaky::{Fate, Proxy, bad_luck, holds};
use crate::txs::{Draft, signer};
use crate::world::{CHAIN_ID, NOWHERE, Network, Served, quick, result, run_sender, stop_sender};

const TO: Address = Address([0x42; 20]);

async fn client(url: &str) -> ChainClient {
    ChainClient::connect(url, CHAIN_ID, NOWHERE).await.unwrap()
}

async fn nonce(served: &Served) -> Value {
    let account = served.faucet.address().to_string();
    result(&served.url(), "eth_getTransactionCount", json!([account, "latest"])).await
}

/// Submits until the outcome is known.
async fn insist(sender: &TxSender, key: &str, call: Call) -> TxId {
    for _ in 0..200 {
        match sender.submit(key, call.clone()).await {
            Ok(TxOutcome::Mined(mined)) => {
                mined.result.unwrap();
                return mined.tx;
            }
            Ok(TxOutcome::Unknown { .. }) | Err(SendError::Client(_)) => {}
            Err(other) => panic!("{key}: {other}"),
        }
    }
    panic!("{key} was never mined");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_intent_is_carried_out_once_through_a_network_that_loses_half() {
    let served = Served::start().await;
    let proxy = Proxy::start(served.url(), |_| Fate::Pass).await;
    let dir = served.dir.path().join("outbox");
    let running = run_sender(&dir, served.faucet.clone(), client(&proxy.url()).await).await;
    let sender = running.settlement.sender().clone();
    proxy.set(bad_luck(7));
    let all = (0..30u128).map(|i| {
        let sender = sender.clone();
        async move { insist(&sender, &format!("pay {i}"), Call::transfer(TO, 1 << i)).await }
    });
    let hashes = futures::future::join_all(all).await;
    let client = client(&served.url()).await;
    assert_eq!(client.eth_balance(TO).await.unwrap(), (1 << 30) - 1, "each amount once");
    assert_eq!(nonce(&served).await, "0x1e");

    let again = insist(&sender, "pay 3", Call::transfer(TO, 8)).await;
    assert_eq!(again, hashes[3], "a known intent has its known outcome");
    let other = sender.submit("pay 3", Call::transfer(TO, 9)).await;
    assert!(matches!(other, Err(SendError::KeyReused { .. })), "{other:?}");
    assert_eq!(nonce(&served).await, "0x1e");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_written_but_not_sent_is_sent_at_the_next_start() {
    let served = Served::start().await;
    let proxy =
        Proxy::start(
            served.url(),
            |body| {
                if holds(body, "eth_sendRawTransaction") { Fate::LoseRequest } else { Fate::Pass }
            },
        )
        .await;
    let dir = served.dir.path().join("outbox");
    let config = SenderConfig { answer_within: Duration::from_millis(300), ..quick() };
    let sender = TxSender::open(&dir, served.faucet.clone(), client(&proxy.url()).await, config).await.unwrap();
    let runner = sender.clone();
    let task = tokio::spawn(async move { runner.run(std::future::pending()).await });
    let outcome = sender.submit("rent", Call::transfer(TO, 5)).await.unwrap();
    let TxOutcome::Unknown { tx } = outcome else { panic!("{outcome:?}") };
    assert_eq!(nonce(&served).await, "0x0");
    task.abort();
    assert!(task.await.is_err());
    drop(sender);

    let running = run_sender(&dir, served.faucet.clone(), client(&served.url()).await).await;
    let sender = running.settlement.sender();
    assert_eq!(insist(sender, "rent", Call::transfer(TO, 5)).await, tx, "the very transaction that was signed");
    insist(sender, "next", Call::transfer(TO, 6)).await;
    let balance = client(&served.url()).await.eth_balance(TO).await.unwrap();
    assert_eq!((balance, nonce(&served).await), (11, json!("0x2")));
    let known = sender.outcome("rent").await.unwrap();
    assert!(matches!(known, Some(TxOutcome::Mined(_))), "{known:?}");
    assert_eq!(sender.outcome("never asked for").await.unwrap(), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stuck_transaction_is_replaced_with_the_same_nonce() {
    let served = Served::start().await;
    let swallowed = Arc::new(AtomicU32::new(0));
    let count = Arc::clone(&swallowed);
    let proxy = Proxy::start(served.url(), move |body| {
        if holds(body, "eth_sendRawTransaction") && count.fetch_add(1, Ordering::SeqCst) < 3 {
            return Fate::Swallow;
        }
        Fate::Pass
    })
    .await;
    let dir = served.dir.path().join("outbox");
    let config = SenderConfig {
        stuck_after: Duration::from_millis(200),
        resend_after: Duration::from_secs(60),
        answer_within: Duration::from_millis(50),
        ..quick()
    };
    let sender = TxSender::open(&dir, served.faucet.clone(), client(&proxy.url()).await, config).await.unwrap();
    let runner = sender.clone();
    tokio::spawn(async move { runner.run(std::future::pending()).await });
    let TxOutcome::Unknown { tx: first } = sender.submit("stuck", Call::transfer(TO, 5)).await.unwrap() else {
        panic!("it was swallowed");
    };
    let mined = insist(&sender, "stuck", Call::transfer(TO, 5)).await;
    assert_ne!(mined, first, "another transaction, which pays more");
    assert_eq!(nonce(&served).await, "0x1");
    assert_eq!(client(&served.url()).await.eth_balance(TO).await.unwrap(), 5, "and it had effect once");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_displaced_transaction_is_told_apart_from_an_unknown_one() {
    let served = Served::start().await;
    let (tried, mut tries) = tokio::sync::mpsc::unbounded_channel();
    let proxy = Proxy::start(served.url(), move |body| {
        if !holds(body, "eth_sendRawTransaction") {
            return Fate::Pass;
        }
        tried.send(()).unwrap();
        Fate::LoseRequest
    })
    .await;
    let dir = served.dir.path().join("outbox");
    let running = run_sender(&dir, served.faucet.clone(), client(&proxy.url()).await).await;
    let sender = running.settlement.sender().clone();
    let pending = tokio::spawn(async move { sender.submit("mine", Call::transfer(TO, 5)).await });
    tries.recv().await.unwrap();
    // The same wallet, used by another program.
    let elsewhere = Draft::transfer(CHAIN_ID, 0, [9; 20].into(), 1).sign(&signer(&served.faucet));
    result(&served.url(), "eth_sendRawTransaction", json!([elsewhere.raw])).await;
    let outcome = pending.await.unwrap();
    assert!(matches!(outcome, Err(SendError::Superseded { nonce: 0, .. })), "{outcome:?}");
    proxy.set(|_| Fate::Pass);
    insist(running.settlement.sender(), "after", Call::transfer(TO, 6)).await;
    assert_eq!(client(&served.url()).await.eth_balance(TO).await.unwrap(), 6, "the displaced one had no effect");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_work_is_refused_before_it_costs_anything() {
    let served = Served::start().await;
    let dir = served.dir.path().join("outbox");
    let poor = Wallet::random();
    let running = run_sender(&dir, poor.clone(), client(&served.url()).await).await;
    let sender = running.settlement.sender();
    let broke = sender.submit("a", Call::transfer(TO, 5)).await.unwrap_err();
    assert!(matches!(broke, SendError::WouldFail(_)), "{broke}");
    let gas_only = Call { gas_limit: Some(21_000), ..Call::transfer(TO, 0) };
    let broke = sender.submit("b", gas_only).await.unwrap_err();
    assert!(matches!(broke, SendError::InsufficientFunds { have_wei: 0, .. }), "{broke}");
    assert!(matches!(sender.submit("", Call::transfer(TO, 0)).await, Err(SendError::BadKey { len: 0 })));
    let second = TxSender::open(&dir, poor.clone(), client(&served.url()).await, quick()).await;
    assert!(matches!(second, Err(SendError::Outbox(OutboxError::Busy { .. }))), "{second:?}");
    stop_sender(running).await;
    let other = TxSender::open(&dir, Wallet::random(), client(&served.url()).await, quick()).await;
    assert!(matches!(other, Err(SendError::Outbox(OutboxError::Foreign { .. }))), "{other:?}");
    let elsewhere = Served::start().await;
    let other = TxSender::open(&dir, poor, client(&elsewhere.url()).await, quick()).await;
    assert!(matches!(other, Err(SendError::Outbox(OutboxError::Foreign { .. }))), "{other:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chain_that_is_wrong_or_missing_is_told_in_a_sentence() {
    let served = Served::start().await;
    let url = served.url();
    let wrong = ChainClient::connect(&url, 42_161, NOWHERE).await.unwrap_err();
    assert!(matches!(wrong, ClientError::WrongChain { found: CHAIN_ID, expected: 42_161, .. }), "{wrong}");
    for bad in ["nonsense", "ftp://host", "http://"] {
        let error = ChainClient::connect(bad, CHAIN_ID, NOWHERE).await.unwrap_err();
        assert!(matches!(error, ClientError::BadUrl { .. }), "{error}");
    }
    let client = client(&url).await;
    let missing = client.token_balance(TO).await.unwrap_err();
    assert!(missing.to_string().contains("no such contract"), "{missing}");
    let missing = muster_chain::contracts::check_deployed(&client).await.unwrap_err();
    assert!(missing.to_string().contains("there is no contract at"), "{missing}");
    served.stop().await;
    let gone = client.block_number().await.unwrap_err();
    assert!(gone.to_string().contains("cannot be reached"), "{gone}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chain_that_comes_back_is_found_again() {
    let served = Served::start().await;
    let outbox = tempfile::tempdir().unwrap();
    let running = run_sender(outbox.path(), served.faucet.clone(), client(&served.url()).await).await;
    let sender = running.settlement.sender().clone();
    insist(&sender, "before", Call::transfer(TO, 1)).await;
    let address = served.address;
    let dir = served.stop().await;
    let meanwhile = tokio::spawn(async move { insist(&sender, "meanwhile", Call::transfer(TO, 2)).await });
    let served = Served::start_in(dir, address, ChainConfig::development(CHAIN_ID)).await;
    meanwhile.await.unwrap();
    insist(running.settlement.sender(), "after", Call::transfer(TO, 4)).await;
    let balance = client(&served.url()).await.eth_balance(TO).await.unwrap();
    assert_eq!((balance, nonce(&served).await), (7, json!("0x3")));
}

#[tokio::test(flavor = "multi_thread")]
async fn vouchers_are_signed_as_the_escrow_checks_them() {
    let network = Network::start().await;
    let session = Wallet::random();
    let voucher = Voucher { lease: LeaseId([3; 32]), amount: TokenAmount(u128::MAX - 5), as_of_s: u64::MAX - 7 };
    let domain = network.client.vouchers();
    let signature = "voucherDigest(bytes32,uint128,uint64)";
    let selector = &alloy::primitives::keccak256(signature)[..4];
    let mut data = selector.to_vec();
    data.extend_from_slice(&voucher.lease.0);
    data.extend_from_slice(&alloy::primitives::U256::from(voucher.amount.0).to_be_bytes::<32>());
    data.extend_from_slice(&alloy::primitives::U256::from(voucher.as_of_s).to_be_bytes::<32>());
    let call = json!([{"to": network.client.contracts().escrow.to_string(), "input": format!("0x{}", hex::encode(data))}, "latest"]);
    let digest = result(&network.served.url(), "eth_call", call).await;
    assert_eq!(digest, format!("0x{}", hex::encode(domain.digest(&voucher))));

    let signed = domain.sign(&session, voucher);
    assert_eq!(domain.verify(&signed, session.address()), Ok(()));
    let mut other = signed;
    other.voucher.amount = TokenAmount(1);
    assert!(matches!(domain.verify(&other, session.address()), Err(VoucherError::OtherSigner { .. })));
    let mut malformed = signed;
    malformed.signature.vs = [0xff; 32];
    assert_eq!(domain.verify(&malformed, session.address()), Err(VoucherError::Malformed));
    let elsewhere = muster_chain::settle::VoucherDomain::new(1, network.client.contracts().escrow);
    assert!(elsewhere.verify(&signed, session.address()).is_err(), "no replay on another chain");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_benchmark_measures_what_it_says() {
    let dir = tempfile::tempdir().unwrap();
    let figures = muster_chain::bench::bench_chain(dir.path(), 400).await.unwrap();
    assert_eq!(figures.transfers, 400);
    assert!(figures.blocks >= 1 && figures.transfers_per_second > 0.0 && figures.single_ms_p50 > 0.0, "{figures:?}");
}
