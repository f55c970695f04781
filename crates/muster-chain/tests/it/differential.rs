//! The same random transactions through the embedded chain and through anvil: same outcome, same state.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

use alloy::primitives::{Address, B256, U256};
use alloy::signers::local::PrivateKeySigner;
use muster_chain::embedded::{BaseFee, ChainConfig};
use serde_json::{Value, json};

use crate::programs::{
    BORN_AND_GONE, BURNER, DESTROYER, FACTORY, FORWARDER, MODERN, PRECOMPILE_CALLER, REVERTER, STILLBORN, STORE,
    deployer,
};
use crate::tools::anvil;
use crate::txs::{Dice, Draft};
use crate::world::{CHAIN_ID, ETHER, Served, post, result, rpc};

const SEED: u64 = 0x4d75_7374_6572;
const TRANSACTIONS: u64 = 400;
const GAS_LIMIT: u64 = 30_000_000;

/// anvil on a free port; killed when dropped.
struct Anvil {
    child: Child,
    url: String,
}

impl Anvil {
    fn start() -> Self {
        let mut child = Command::new(anvil())
            .args(["--port", "0", "--hardfork", "prague", "--order", "fifo", "--accounts", "1"])
            .args(["--chain-id", &CHAIN_ID.to_string(), "--gas-limit", &GAS_LIMIT.to_string()])
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let url = lines
            .map_while(Result::ok)
            .find_map(|line| line.strip_prefix("Listening on ").map(|address| format!("http://{address}")))
            .expect("anvil says where it listens");
        Self { child, url }
    }

    /// A receipt; anvil answers a send a moment before it has mined it.
    async fn receipt(&self, hash: &B256) -> Value {
        for _ in 0..5_000 {
            let receipt = result(&self.url, "eth_getTransactionReceipt", json!([hash])).await;
            if receipt.is_object() {
                return receipt;
            }
            tokio::task::yield_now().await;
        }
        panic!("anvil never mined {hash}");
    }
}

impl Drop for Anvil {
    fn drop(&mut self) {
        // It may have ended by itself; then there is nothing to kill.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Makes transactions at random, and remembers what they touch.
struct Maker {
    dice: Dice,
    senders: Vec<PrivateKeySigner>,
    nonces: Vec<u64>,
    contracts: Vec<Address>,
    known: BTreeSet<Address>,
}

impl Maker {
    fn new(seed: u64) -> Self {
        let mut dice = Dice::new(seed);
        let senders: Vec<_> = (0..5)
            .map(|_| {
                let mut secret = [0u8; 32];
                secret.chunks_mut(8).for_each(|part| part.copy_from_slice(&dice.next().to_be_bytes()));
                PrivateKeySigner::from_slice(&secret).unwrap()
            })
            .collect();
        let known = senders.iter().map(PrivateKeySigner::address).chain([Address::ZERO]).collect();
        Self { dice, nonces: vec![0; senders.len()], senders, contracts: Vec::new(), known }
    }

    fn word(&mut self) -> [u8; 32] {
        let choice = self.dice.below(4);
        let number = match choice {
            0 => U256::from(self.dice.below(16)),
            1 => U256::from(self.dice.next()),
            2 => U256::ZERO,
            _ => U256::MAX >> self.dice.below(256),
        };
        number.to_be_bytes()
    }

    fn address(&mut self) -> Address {
        let address = match self.dice.below(5) {
            0 => Address::with_last_byte(u8::try_from(self.dice.below(18)).unwrap()),
            1 => self.dice.pick(&self.senders).address(),
            2 if !self.contracts.is_empty() => *self.dice.pick(&self.contracts),
            _ => Address::left_padding_from(&(0x1_0000 + self.dice.below(50)).to_be_bytes()),
        };
        self.known.insert(address);
        address
    }

    /// Input for a contract: often an address or a number first, then some words.
    fn input(&mut self) -> Vec<u8> {
        let mut data = Vec::new();
        if self.dice.below(2) == 0 {
            data.extend_from_slice(self.address().into_word().as_slice());
        }
        for _ in 0..self.dice.below(5) {
            data.extend_from_slice(&self.word());
        }
        let cut = self.dice.below(data.len() as u64 + 1);
        if self.dice.below(5) == 0 {
            data.truncate(usize::try_from(cut).unwrap());
        }
        data
    }

    fn code(&mut self) -> Vec<u8> {
        let runtimes = [STORE, REVERTER, BURNER, FORWARDER, DESTROYER, FACTORY, PRECOMPILE_CALLER, MODERN];
        match self.dice.below(10) {
            0 => BORN_AND_GONE.to_vec(),
            1 => self.dice.pick(STILLBORN).to_vec(),
            _ => deployer(self.dice.pick::<&[u8]>(&runtimes)),
        }
    }

    fn draft(&mut self) -> (usize, Draft) {
        let who = usize::try_from(self.dice.below(self.senders.len() as u64)).unwrap();
        let mut draft = Draft {
            kind: u8::try_from(self.dice.below(3)).unwrap(),
            tip: u128::from(self.dice.below(3) * 1_000_000),
            max_fee: 3_000_000_000,
            gas: 30_000 + self.dice.below(400_000),
            ..Draft::transfer(CHAIN_ID, self.nonces[who], Address::ZERO, 0)
        };
        match self.dice.below(12) {
            0..=2 => draft = Draft { to: Some(self.address()), value: U256::from(self.dice.next()), ..draft },
            3..=5 => {
                let data = self.code();
                draft = Draft { to: None, data, gas: 300_000, value: U256::from(self.dice.below(3)), ..draft };
            }
            6..=10 if !self.contracts.is_empty() => {
                let to = Some(*self.dice.pick(&self.contracts));
                draft = Draft { to, data: self.input(), value: U256::from(self.dice.below(1_000)), ..draft };
            }
            _ => self.spoil(&mut draft),
        }
        (who, draft)
    }

    /// A transaction that no node takes, or that runs out of gas.
    fn spoil(&mut self, draft: &mut Draft) {
        draft.to = Some(self.address());
        match self.dice.below(6) {
            0 => draft.nonce = draft.nonce.wrapping_sub(1).min(draft.nonce),
            1 => draft.gas = 20_000,
            2 => draft.value = U256::MAX >> 1,
            // Only typed: anvil takes a legacy one of another chain, which no other node does.
            3 => (draft.kind, draft.chain_id) = (2, 1),
            4 => draft.max_fee = 1,
            _ => {
                draft.data = self.input();
                draft.gas = 21_000 + self.dice.below(3_000);
            }
        }
    }
}

async fn send(url: &str, raw: &alloy::primitives::Bytes) -> Value {
    rpc(url, "eth_sendRawTransaction", json!([raw])).await
}

/// What both nodes must agree on of a receipt.
fn essence(receipt: &Value) -> Value {
    let logs: Vec<Value> = receipt["logs"]
        .as_array()
        .unwrap()
        .iter()
        .map(|log| json!([log["address"], log["topics"], log["data"], log["logIndex"]]))
        .collect();
    json!({
        "status": receipt["status"],
        "gas": receipt["gasUsed"],
        "cumulative": receipt["cumulativeGasUsed"],
        "price": receipt["effectiveGasPrice"],
        "contract": receipt["contractAddress"],
        "type": receipt["type"],
        "block": receipt["blockNumber"],
        "bloom": receipt["logsBloom"],
        "from": receipt["from"],
        "to": receipt["to"],
        "logs": logs,
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn random_transactions_have_the_same_outcome_as_on_anvil() {
    let peer = Anvil::start();
    let base_fee = BaseFee::Eip1559 { initial: 1_000_000_000 };
    let mut maker = Maker::new(SEED);
    let mut config = ChainConfig::development(CHAIN_ID);
    config.base_fee = base_fee;
    config.block_gas_limit = GAS_LIMIT;
    config.genesis = maker.senders.iter().map(|s| (s.address(), U256::from(100 * ETHER))).collect();
    let served = Served::start_with(config).await;
    let url = served.url();
    for sender in &maker.senders {
        result(&peer.url, "anvil_setBalance", json!([sender.address(), U256::from(100 * ETHER)])).await;
    }

    let mut seen = BTreeMap::<String, u32>::new();
    for number in 0..TRANSACTIONS {
        let (who, draft) = maker.draft();
        let tx = draft.sign(&maker.senders[who]);
        let (ours, theirs) = (send(&url, &tx.raw).await, send(&peer.url, &tx.raw).await);
        let context = format!("seed {SEED:#x}, transaction {number}: {draft:?}\nours: {ours}\nanvil: {theirs}");
        assert_eq!(ours["error"].is_null(), theirs["error"].is_null(), "{context}");
        if !ours["error"].is_null() {
            *seen.entry("refused".to_owned()).or_default() += 1;
            continue;
        }
        maker.nonces[who] += 1;
        let ours = essence(&result(&url, "eth_getTransactionReceipt", json!([tx.hash])).await);
        let theirs = essence(&peer.receipt(&tx.hash).await);
        assert_eq!(ours, theirs, "{context}");
        let kind = format!("{} {}", if draft.to.is_some() { "call" } else { "create" }, ours["status"]);
        *seen.entry(kind).or_default() += 1;
        if let Some(created) = ours["contract"].as_str() {
            let address = created.parse().unwrap();
            maker.known.insert(address);
            if ours["status"] == "0x1" {
                maker.contracts.push(address);
                (0..3).for_each(|nonce| _ = maker.known.insert(address.create(nonce)));
            }
        }
    }
    for kind in ["refused", "call \"0x1\"", "call \"0x0\"", "create \"0x1\"", "create \"0x0\""] {
        assert!(seen.get(kind).is_some_and(|count| *count >= 5), "too few of {kind}: {seen:?}");
    }
    for address in &maker.known {
        compare_state(&url, &peer.url, *address).await;
    }
}

/// Balance, nonce, code and the storage that the programs use.
async fn compare_state(ours: &str, theirs: &str, address: Address) {
    let mut requests = vec![("eth_getBalance", json!([address, "latest"]))];
    requests.push(("eth_getTransactionCount", json!([address, "latest"])));
    requests.push(("eth_getCode", json!([address, "latest"])));
    for slot in 0..17u64 {
        requests.push(("eth_getStorageAt", json!([address, U256::from(slot), "latest"])));
    }
    requests.push(("eth_getStorageAt", json!([address, U256::MAX, "latest"])));
    let batch: Vec<Value> = requests
        .iter()
        .enumerate()
        .map(|(id, (method, params))| json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params}))
        .collect();
    let (ours, theirs) = (post(ours, &json!(batch)).await, post(theirs, &json!(batch)).await);
    for ((method, params), id) in requests.iter().zip(0..) {
        let of = |all: &Value| {
            let all = all.as_array().unwrap();
            all.iter().find(|answer| answer["id"] == json!(id)).map(|answer| answer["result"].clone())
        };
        assert_eq!(of(&ours), of(&theirs), "seed {SEED:#x}: {method} {params}");
    }
}
