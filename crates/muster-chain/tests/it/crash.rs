//! `kill -9` in the middle of a thousand transactions: what had a receipt is there at the next start.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use alloy::primitives::{Address, B256, U256};
use muster_chain::embedded::{ChainConfig, ServerConfig, open_development, serve};
use muster_chain::keys::{Wallet, read_or_create_raw};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::mpsc;

use crate::txs::{Dice, Draft, Signed, signer};
use crate::world::{CHAIN_ID, ETHER, http};

const DIR: &str = "MUSTER_TEST_CRASH_DIR";
const LANES: usize = 4;
const EACH: u64 = 250;

/// The process that gets killed: this test binary again.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "a child process of the crash test"]
async fn child_chain() {
    let Ok(dir) = std::env::var(DIR) else { return };
    let dir = Path::new(&dir);
    let opened = open_development(dir, ChainConfig::development(CHAIN_ID)).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    std::fs::write(dir.join("address.new"), listener.local_addr().unwrap().to_string()).unwrap();
    std::fs::rename(dir.join("address.new"), dir.join("address")).unwrap();
    serve(opened.chain, listener, ServerConfig::default(), std::future::pending()).await.unwrap();
}

struct Victim(Child);

impl Victim {
    async fn start(dir: &Path) -> (Self, SocketAddr) {
        let file = dir.join("address");
        let _ = std::fs::remove_file(&file);
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "crash::child_chain", "--ignored", "--nocapture"])
            .env(DIR, dir)
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let mut victim = Self(child);
        for _ in 0..3_000 {
            if let Ok(text) = std::fs::read_to_string(&file) {
                return (victim, text.parse().unwrap());
            }
            assert!(victim.0.try_wait().unwrap().is_none(), "the chain ended before it listened");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("the chain did not come up");
    }

    /// SIGKILL: nothing is flushed, no destructor runs.
    fn kill(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

impl Drop for Victim {
    fn drop(&mut self) {
        // Killed already in the good case.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// One JSON-RPC request to a node that may die at any moment.
async fn ask(http: &reqwest::Client, url: &str, method: &str, params: Value) -> Option<Value> {
    let body = json!({ "jsonrpc": "2.0", "id": 1, "method": method, "params": params });
    let answer: Value = http.post(url).json(&body).send().await.ok()?.json().await.ok()?;
    answer.get("result").cloned()
}

/// Sends a lane's transactions one after the other, and reports each receipt as it is returned.
async fn lane(url: String, txs: Vec<Signed>, receipts: mpsc::UnboundedSender<(B256, Value)>) {
    let http = http();
    for tx in txs {
        if ask(&http, &url, "eth_sendRawTransaction", json!([tx.raw])).await.is_none() {
            return;
        }
        let Some(receipt) = ask(&http, &url, "eth_getTransactionReceipt", json!([tx.hash])).await else { return };
        assert!(receipt.is_object(), "answered, so it has a receipt");
        if receipts.send((tx.hash, receipt)).is_err() {
            return;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_receipt_survives_kill_9() {
    let dir = tempfile::tempdir().unwrap();
    let faucet = read_or_create_raw(&dir.path().join("faucet.key")).unwrap();
    let accounts: Vec<Wallet> = (0..LANES).map(|_| Wallet::random()).collect();
    let target = Address::repeat_byte(0x77);
    let (mut victim, address) = Victim::start(dir.path()).await;
    let client = http();
    let url = format!("http://{address}");
    for (nonce, account) in (0..).zip(&accounts) {
        let tx = Draft::transfer(CHAIN_ID, nonce, signer(account).address(), 10 * ETHER).sign(&signer(&faucet));
        ask(&client, &url, "eth_sendRawTransaction", json!([tx.raw])).await.unwrap();
    }

    let mut known: BTreeMap<B256, Value> = BTreeMap::new();
    let mut dice = Dice::new(9);
    for round in 0..3 {
        let url = format!("http://{}", if round == 0 { address } else { restart(&mut victim, dir.path()).await });
        let (receipts, mut reported) = mpsc::unbounded_channel();
        for account in &accounts {
            let from = signer(account);
            let next = ask(&client, &url, "eth_getTransactionCount", json!([from.address(), "latest"])).await.unwrap();
            let next = u64::from_str_radix(next.as_str().unwrap().trim_start_matches("0x"), 16).unwrap();
            let txs =
                (next..next + EACH).map(|nonce| Draft::transfer(CHAIN_ID, nonce, target, 1).sign(&from)).collect();
            tokio::spawn(lane(url.clone(), txs, receipts.clone()));
        }
        drop(receipts);
        let until = 100 + dice.below(300);
        for _ in 0..until {
            known.extend(reported.recv().await);
        }
        victim.kill();
        while let Some(late) = reported.recv().await {
            known.insert(late.0, late.1);
        }
        assert!(known.len() as u64 >= until);
    }

    let url = format!("http://{}", restart(&mut victim, dir.path()).await);
    for (hash, receipt) in &known {
        let found = ask(&client, &url, "eth_getTransactionReceipt", json!([hash])).await.unwrap();
        assert_eq!(found, *receipt, "a receipt that had been returned");
    }
    let balance = ask(&client, &url, "eth_getBalance", json!([target, "latest"])).await.unwrap();
    let balance: U256 = serde_json::from_value(balance).unwrap();
    let mut mined = 0;
    for account in &accounts {
        let count = ask(&client, &url, "eth_getTransactionCount", json!([signer(account).address(), "latest"])).await;
        mined += u64::from_str_radix(count.unwrap().as_str().unwrap().trim_start_matches("0x"), 16).unwrap();
    }
    assert_eq!(balance, U256::from(mined), "every transaction that is counted was carried out, and no other");
    assert!(mined >= known.len() as u64);
}

async fn restart(victim: &mut Victim, dir: &Path) -> SocketAddr {
    let (next, address) = Victim::start(dir).await;
    *victim = next;
    address
}
