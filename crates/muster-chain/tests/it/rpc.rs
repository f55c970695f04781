//! JSON-RPC as other programs expect it: answers, errors and their codes, bounds.

use alloy::primitives::{Address, U256};
use muster_chain::embedded::{ChainError, ServerConfig, serve};
use muster_chain::keys::Wallet;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::programs::{REVERTER, STORE, deployer};
use crate::txs::{Draft, Signed, signer};
use crate::world::{CHAIN_ID, Served, http, post, result, rpc};

fn error_of(answer: &Value) -> (i64, String) {
    let error = &answer["error"];
    (error["code"].as_i64().unwrap(), error["message"].as_str().unwrap().to_owned())
}

#[track_caller]
fn assert_error(answer: &Value, code: i64, part: &str) {
    let (found, message) = error_of(answer);
    assert!(found == code && message.contains(part), "{found}: {message}");
}

async fn send(url: &str, tx: &Signed) -> Value {
    rpc(url, "eth_sendRawTransaction", json!([tx.raw])).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_has_its_receipt_as_soon_as_it_is_answered() {
    let served = Served::start().await;
    let url = served.url();
    let to = Address::repeat_byte(0x55);
    let tx = Draft::transfer(CHAIN_ID, 0, to, 1_234).sign(&signer(&served.faucet));
    assert_eq!(send(&url, &tx).await["result"], json!(tx.hash));
    let receipt = result(&url, "eth_getTransactionReceipt", json!([tx.hash])).await;
    assert_eq!(receipt["status"], "0x1");
    assert_eq!(receipt["gasUsed"], "0x5208");
    assert_eq!(receipt["blockNumber"], "0x1");
    assert_eq!(result(&url, "eth_getBalance", json!([to, "latest"])).await, "0x4d2");
    assert_eq!(result(&url, "eth_blockNumber", json!([])).await, "0x1");
    assert_eq!(result(&url, "eth_getTransactionByHash", json!([tx.hash])).await["type"], "0x2");
    let count = result(&url, "eth_getTransactionCount", json!([signer(&served.faucet).address(), "pending"])).await;
    assert_eq!(count, "0x1");
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_have_the_words_and_codes_of_other_nodes() {
    let served = Served::start().await;
    let url = served.url();
    let faucet = signer(&served.faucet);
    let to = Address::repeat_byte(0x55);
    let base = Draft::transfer(CHAIN_ID, 0, to, 1);
    let first = base.sign(&faucet);
    assert_eq!(send(&url, &first).await["result"], json!(first.hash));

    assert_error(&send(&url, &first).await, -32000, "nonce too low: next nonce 1, tx nonce 0");
    let next = Draft { nonce: 1, ..base };
    let cases = [
        (Draft { chain_id: 5, ..next.clone() }, "invalid chain id for signer: have 5 want"),
        (Draft { gas: 20_999, ..next.clone() }, "intrinsic gas too low: gas 20999, minimum needed 21000"),
        (Draft { max_fee: 1, ..next.clone() }, "max fee per gas less than block base fee"),
        (Draft { tip: 20_000_000_000, ..next.clone() }, "max priority fee per gas higher than max fee per gas"),
        (Draft { gas: 500_000_000, ..next.clone() }, "exceeds block gas limit"),
        (Draft { value: U256::MAX, ..next.clone() }, "insufficient funds for gas * price + value"),
        (Draft { to: None, gas: 10_000_000, data: vec![0; 49_153], ..next.clone() }, "max initcode size exceeded"),
        (Draft { data: vec![1; 140_000], gas: 10_000_000, ..next.clone() }, "oversized data"),
    ];
    for (draft, words) in cases {
        assert_error(&send(&url, &draft.sign(&faucet)).await, -32000, words);
    }
    let poor = signer(&Wallet::random());
    let broke = Draft { nonce: 0, ..next.clone() }.sign(&poor);
    assert_error(&send(&url, &broke).await, -32000, "insufficient funds for gas * price + value: balance 0, tx cost");
    assert_error(&rpc(&url, "eth_sendRawTransaction", json!(["0x03c0"])).await, -32000, "type not supported");
    assert_error(&rpc(&url, "eth_sendRawTransaction", json!(["0x02f8"])).await, -32000, "cannot decode");
    assert_error(&rpc(&url, "eth_sendRawTransaction", json!(["0x04c0"])).await, -32000, "type not supported");
    let mut tampered = next.sign(&faucet).raw.to_vec();
    let last = tampered.len() - 1;
    tampered[last] ^= 0x40;
    let raw = format!("0x{}", alloy::hex::encode(tampered));
    let (code, _) = error_of(&rpc(&url, "eth_sendRawTransaction", json!([raw])).await);
    assert_eq!(code, -32000);
    assert_eq!(result(&url, "eth_blockNumber", json!([])).await, "0x1", "no refusal made a block");
}

#[tokio::test(flavor = "multi_thread")]
async fn malformed_requests_get_the_standard_codes() {
    let served = Served::start().await;
    let url = served.url();
    let raw = |body: &'static str| {
        let url = url.clone();
        async move {
            let request = http().post(&url).header("content-type", "application/json").body(body);
            request.send().await.unwrap().json::<Value>().await.unwrap()
        }
    };
    assert_error(&raw("{ this is no json").await, -32700, "parse error");
    assert_error(&raw("[]").await, -32600, "empty batch");
    assert_error(&raw("17").await, -32600, "invalid request");
    assert_error(&raw(r#"{"id":1,"method":"eth_chainId"}"#).await, -32600, "jsonrpc");
    assert_error(&raw(r#"{"jsonrpc":"2.0","id":1,"method":5}"#).await, -32600, "method");
    assert_error(&raw(r#"{"jsonrpc":"2.0","id":1,"method":"eth_chainId","params":{}}"#).await, -32602, "array");
    assert_error(&rpc(&url, "eth_frobnicate", json!([])).await, -32601, "the method eth_frobnicate does not exist");
    assert_error(&rpc(&url, "eth_getBalance", json!([])).await, -32602, "missing value for required argument 0");
    assert_error(&rpc(&url, "eth_getBalance", json!(["0x12"])).await, -32602, "invalid argument 0");
    assert_error(&rpc(&url, "eth_call", json!([{}, "latest", {"0x00": {}}])).await, -32602, "state overrides");
    assert_error(&rpc(&url, "eth_feeHistory", json!(["0x1", "latest", [90, 10]])).await, -32602, "percentile");

    let batch = json!([
        {"jsonrpc": "2.0", "id": "a", "method": "eth_chainId"},
        {"jsonrpc": "2.0", "method": "eth_chainId"},
        {"jsonrpc": "2.0", "id": null, "method": "nope"},
        5,
    ]);
    let answers = post(&url, &batch).await;
    let answers = answers.as_array().unwrap();
    assert_eq!(answers.len(), 3, "a notification gets no answer: {answers:?}");
    assert_eq!(answers[0]["id"], "a");
    assert_error(&answers[1], -32601, "nope");
    assert_error(&answers[2], -32600, "invalid request");

    let long: Vec<Value> = (0..1_001).map(|id| json!({"jsonrpc": "2.0", "id": id, "method": "eth_chainId"})).collect();
    assert_error(&post(&url, &json!(long)).await, -32600, "batch too large");
}

#[tokio::test(flavor = "multi_thread")]
async fn strangers_are_kept_out_and_bodies_are_bounded() {
    let served = Served::start().await;
    let url = served.url();
    let body = r#"{"jsonrpc":"2.0","id":1,"method":"eth_chainId"}"#;
    let plain = http().post(&url).header("content-type", "text/plain").body(body).send().await.unwrap();
    assert_eq!(plain.status(), 415);
    let foreign = http().post(&url).header("content-type", "application/json").header("host", "evil.example");
    assert_eq!(foreign.body(body).send().await.unwrap().status(), 403);
    let local = http().post(&url).header("content-type", "application/json").header("host", "localhost:1");
    assert_eq!(local.body(body).send().await.unwrap().status(), 200);
    assert_eq!(http().get(&url).send().await.unwrap().status(), 405);
    let huge = http().post(&url).header("content-type", "application/json").body(vec![b' '; 9 << 20]);
    match huge.send().await {
        Ok(answer) => assert_eq!(answer.status(), 413),
        Err(error) => assert!(error.is_request() || error.is_body(), "{error:?}"),
    }

    let open = TcpListener::bind("0.0.0.0:0").await.unwrap();
    let refused = serve(served.chain.clone(), open, ServerConfig::default(), std::future::pending()).await;
    assert!(matches!(refused, Err(ChainError::NotLoopback { .. })), "{refused:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_and_estimates_tell_reverts_with_their_reason() {
    let served = Served::start().await;
    let url = served.url();
    let faucet = signer(&served.faucet);
    let deploy = |nonce, runtime| Draft {
        to: None,
        gas: 500_000,
        data: deployer(runtime),
        value: U256::ZERO,
        ..Draft::transfer(CHAIN_ID, nonce, Address::ZERO, 0)
    };
    let mut created = Vec::new();
    for (nonce, runtime) in [(0, REVERTER), (1, STORE)] {
        let tx = deploy(nonce, runtime).sign(&faucet);
        assert_eq!(send(&url, &tx).await["result"], json!(tx.hash));
        let receipt = result(&url, "eth_getTransactionReceipt", json!([tx.hash])).await;
        created.push(receipt["contractAddress"].as_str().unwrap().to_owned());
    }
    let code = result(&url, "eth_getCode", json!([created[0], "latest"])).await;
    assert_eq!(code, format!("0x{}", alloy::hex::encode(REVERTER)));

    // Error(string) whose selector's first byte is even, so the odd one of Panic(uint256) is used for the other case.
    let panic = "0x4e487b710000000000000000000000000000000000000000000000000000000000000011";
    assert_eq!(rpc(&url, "eth_call", json!([{"to": created[0], "data": panic}, "latest"])).await["result"], panic);
    let odd = "0x0100";
    let reverted = rpc(&url, "eth_call", json!([{"to": created[0], "input": odd}, "latest"])).await;
    assert_error(&reverted, 3, "execution reverted");
    assert_eq!(reverted["error"]["data"], odd);
    let estimate = rpc(&url, "eth_estimateGas", json!([{"to": created[0], "data": odd}])).await;
    assert_error(&estimate, 3, "execution reverted");

    let write = format!("0x{:064x}{:064x}", 5, 99);
    let gas = result(&url, "eth_estimateGas", json!([{"to": created[1], "data": write}])).await;
    let gas = u64::from_str_radix(gas.as_str().unwrap().trim_start_matches("0x"), 16).unwrap();
    let to = Some(created[1].parse().unwrap());
    let data = alloy::hex::decode(&write).unwrap();
    let tx = Draft { to, gas, data, nonce: 2, value: U256::ZERO, ..deploy(2, STORE) }.sign(&faucet);
    assert_eq!(send(&url, &tx).await["result"], json!(tx.hash));
    let receipt = result(&url, "eth_getTransactionReceipt", json!([tx.hash])).await;
    assert_eq!(receipt["status"], "0x1", "the estimate suffices: {receipt}");
    let used = u64::from_str_radix(receipt["gasUsed"].as_str().unwrap().trim_start_matches("0x"), 16).unwrap();
    assert!(gas < used + used / 20 + 3_000, "the estimate {gas} is near what is used, {used}");
    let slot = result(&url, "eth_getStorageAt", json!([created[1], "0x5", "latest"])).await;
    assert_eq!(slot, format!("0x{:064x}", 99));
    let logs = result(&url, "eth_getLogs", json!([{"fromBlock": "0x0", "address": created[1]}])).await;
    assert_eq!(logs.as_array().unwrap().len(), 1);
    assert_eq!(logs[0]["topics"][0], format!("0x{:064x}", 5));
    let none = result(&url, "eth_getLogs", json!([{"fromBlock": "0x0", "topics": [format!("0x{:064x}", 6)]}])).await;
    assert_eq!(none, json!([]));
    let rich = json!([{"from": Address::repeat_byte(9), "to": created[1], "value": "0x1"}]);
    assert_error(&rpc(&url, "eth_estimateGas", rich).await, -32000, "insufficient funds");
    let little = json!([{"to": created[1], "data": write, "gas": "0x5300"}]);
    assert_error(&rpc(&url, "eth_estimateGas", little).await, -32000, "");
}

#[tokio::test(flavor = "multi_thread")]
async fn old_state_is_refused_with_a_reason() {
    let served = Served::start().await;
    let url = served.url();
    let to = Address::repeat_byte(1);
    assert_eq!(result(&url, "eth_getBalance", json!([to, "earliest"])).await, "0x0");
    let tx = Draft::transfer(CHAIN_ID, 0, to, 5).sign(&signer(&served.faucet));
    send(&url, &tx).await;
    assert_error(&rpc(&url, "eth_getBalance", json!([to, "0x0"])).await, -32000, "state of block 0 is not kept");
    assert_error(&rpc(&url, "eth_call", json!([{"to": to}, "0x9"])).await, -32000, "header not found");
    assert_eq!(result(&url, "eth_getBalance", json!([to, "0x1"])).await, "0x5");
    let hash = result(&url, "eth_getBlockByNumber", json!(["latest", false])).await["hash"].clone();
    assert_eq!(result(&url, "eth_getBalance", json!([to, {"blockHash": hash}])).await, "0x5");
    let wide = json!([{"fromBlock": "0x9", "toBlock": "0x1"}]);
    assert_error(&rpc(&url, "eth_getLogs", wide).await, -32602, "invalid block range");
}

#[tokio::test(flavor = "multi_thread")]
async fn transactions_out_of_order_wait_for_one_another() {
    let served = Served::start().await;
    let url = served.url();
    let faucet = signer(&served.faucet);
    let to = Address::repeat_byte(2);
    let txs: Vec<Signed> = (0..5).map(|nonce| Draft::transfer(CHAIN_ID, nonce, to, 1).sign(&faucet)).collect();
    let late = txs[1..].iter().rev().map(|tx| send(&url, tx));
    let late = futures::future::join_all(late);
    let first = async {
        // Later nonces are there first; the pool tells them apart from mined ones.
        while result(&url, "eth_getTransactionByHash", json!([txs[4].hash])).await.is_null() {
            tokio::task::yield_now().await;
        }
        assert_eq!(result(&url, "eth_getTransactionReceipt", json!([txs[4].hash])).await, Value::Null);
        send(&url, &txs[0]).await
    };
    let (late, first) = tokio::join!(late, first);
    assert_eq!(first["result"], json!(txs[0].hash));
    assert!(late.iter().all(|answer| answer["result"].is_string()), "{late:?}");
    for tx in &txs {
        assert_eq!(result(&url, "eth_getTransactionReceipt", json!([tx.hash])).await["status"], "0x1");
    }
    let far = Draft::transfer(CHAIN_ID, 9, to, 1).sign(&faucet);
    assert_eq!(send(&url, &far).await["result"], json!(far.hash), "accepted, as on other nodes, but not mined");
    assert_eq!(result(&url, "eth_getTransactionReceipt", json!([far.hash])).await, Value::Null);
    assert_error(&send(&url, &far).await, -32000, "already known");
    let cheap = Draft { value: U256::from(7), ..Draft::transfer(CHAIN_ID, 9, to, 1) }.sign(&faucet);
    assert_error(&send(&url, &cheap).await, -32000, "replacement transaction underpriced");
    for nonce in 100..164 {
        served_parks(&url, &Draft::transfer(CHAIN_ID, nonce, to, 1).sign(&faucet)).await;
    }
    let full = Draft::transfer(CHAIN_ID, 500, to, 1).sign(&faucet);
    assert_error(&send(&url, &full).await, -32000, "nonce too high");
}

/// Sends without waiting for the answer that a parked transaction gets late.
async fn served_parks(url: &str, tx: &Signed) {
    let (url, raw) = (url.to_owned(), tx.raw.clone());
    let hash = tx.hash;
    let sending = tokio::spawn({
        let url = url.clone();
        async move { rpc(&url, "eth_sendRawTransaction", json!([raw])).await }
    });
    for _ in 0..2_000 {
        if sending.is_finished() || !result(&url, "eth_getTransactionByHash", json!([hash])).await.is_null() {
            return;
        }
    }
    panic!("a transaction with a later nonce was not parked");
}
