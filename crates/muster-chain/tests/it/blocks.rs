//! What anybody can verify of a block from its JSON alone.

use alloy::consensus::proofs::{calculate_receipt_root, calculate_transaction_root};
use alloy::consensus::{ReceiptEnvelope, TxEnvelope, TxReceipt};
use alloy::primitives::{Address, Bloom};
use alloy::rpc::types::{Block, Transaction, TransactionReceipt};
use serde_json::json;

use crate::programs::{STORE, deployer};
use crate::txs::{Draft, signer};
use crate::world::{CHAIN_ID, Served, post, result};

#[tokio::test(flavor = "multi_thread")]
async fn hashes_roots_and_blooms_are_the_real_ones() {
    let served = Served::start().await;
    let url = served.url();
    let faucet = signer(&served.faucet);
    let contract = faucet.address().create(0);
    let mut drafts =
        vec![Draft { to: None, gas: 300_000, data: deployer(STORE), ..Draft::transfer(CHAIN_ID, 0, Address::ZERO, 0) }];
    for nonce in 1..20 {
        let mut data = vec![0; 64];
        data[31] = u8::try_from(nonce).unwrap();
        data[63] = 1;
        let kind = u8::try_from(nonce % 3).unwrap();
        drafts.push(Draft { kind, data, gas: 90_000, ..Draft::transfer(CHAIN_ID, nonce, contract, 0) });
    }
    let batch: Vec<_> = drafts
        .iter()
        .enumerate()
        .map(|(id, draft)| {
            let raw = draft.sign(&faucet).raw;
            json!({"jsonrpc": "2.0", "id": id, "method": "eth_sendRawTransaction", "params": [raw]})
        })
        .collect();
    let answers = post(&url, &json!(batch)).await;
    assert!(answers.as_array().unwrap().iter().all(|a| a["result"].is_string()), "{answers}");
    let head = served.chain.block_number();
    assert!(head < 20, "a batch shares blocks");

    let mut parent = None;
    let mut logs_of_last = 0;
    for number in 0..=head {
        let value = result(&url, "eth_getBlockByNumber", json!([format!("0x{number:x}"), true])).await;
        let block: Block = serde_json::from_value(value.clone()).unwrap();
        let header = &block.header;
        assert_eq!(header.inner.hash_slow(), header.hash, "block {number}");
        assert_eq!(Some(header.parent_hash), parent.or(Some(header.parent_hash)));
        parent = Some(header.hash);
        let transactions: Vec<Transaction> = block.transactions.as_transactions().unwrap_or(&[]).to_vec();
        let envelopes: Vec<TxEnvelope> = transactions.iter().map(|tx| tx.inner.inner().clone()).collect();
        assert_eq!(calculate_transaction_root(&envelopes), header.transactions_root);

        let receipts = result(&url, "eth_getBlockReceipts", json!([format!("0x{number:x}")])).await;
        let receipts: Vec<TransactionReceipt> = serde_json::from_value(receipts).unwrap();
        logs_of_last = check_receipts(&receipts, &block);
        let by_hash = result(&url, "eth_getBlockByHash", json!([header.hash, true])).await;
        assert_eq!(by_hash, value);
        let count = result(&url, "eth_getBlockTransactionCountByNumber", json!([format!("0x{number:x}")])).await;
        assert_eq!(count, format!("0x{:x}", transactions.len()));
    }
    assert!(logs_of_last > 0, "the last block has logs");
}

/// Checks a block's receipts against its header; the number of its logs.
fn check_receipts(receipts: &[TransactionReceipt], block: &Block) -> u64 {
    let mut log_index = 0;
    let plain: Vec<ReceiptEnvelope> =
        receipts.iter().map(|r| r.inner.clone().map_logs(|log: alloy::rpc::types::Log| log.inner)).collect();
    assert_eq!(calculate_receipt_root(&plain), block.header.receipts_root);
    let bloom = plain.iter().fold(Bloom::ZERO, |bloom, r| bloom | r.bloom());
    assert_eq!(bloom, block.header.logs_bloom);
    let mut gas = 0;
    for receipt in receipts {
        gas += receipt.gas_used;
        assert_eq!(receipt.inner.cumulative_gas_used(), gas);
        for log in receipt.inner.logs() {
            assert_eq!(log.log_index, Some(log_index));
            log_index += 1;
        }
    }
    assert_eq!(gas, block.header.gas_used);
    log_index
}
