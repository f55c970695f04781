//! The gas limits of groups, against what the chain really takes.

use muster_chain::keys::Wallet;
use muster_chain::settle::{Call, NodeKind, OpenLease, Registration, SettleEntry, SettleResult};
use muster_core::ids::NodeId;
use muster_core::units::TokenAmount;
use muster_core::voucher::Voucher;
use serde_json::{Value, json};

use crate::world::{Network, Running, result, tokens};

/// Leases that are opened at once, beside one that goes ahead alone: up to full groups.
const SIZES: [usize; 9] = [1, 2, 3, 5, 9, 17, 31, 45, 60];

/// Owners of two Containers each, so that neighbours in a group name different ones.
async fn owner(network: &Network, name: &str, keys: [u8; 2]) -> Running {
    let owner = network.account(name, tokens(10_000)).await;
    for key in keys {
        let registration = Registration {
            kind: NodeKind::Container,
            node: NodeId([key; 32]),
            endpoint: "127.0.0.1:4000".to_owned(),
            fingerprint: [7; 32],
            stake: tokens(1_000),
        };
        owner.settlement.register(&registration).await.unwrap();
    }
    owner
}

/// Whose votes are counted: each movement of its tokens writes a checkpoint.
async fn voter(network: &Network, name: &str) -> Running {
    let account = network.account(name, tokens(100_000)).await;
    let mut delegate = vec![0x5c, 0x19, 0xa9, 0x5c];
    delegate.extend_from_slice(&[0; 12]);
    delegate.extend_from_slice(&account.settlement.address().0);
    let call = Call::to(network.client.contracts().token, delegate);
    account.settlement.sender().submit("delegate", call).await.unwrap();
    account
}

fn hex(value: &Value) -> u64 {
    u64::from_str_radix(value.as_str().unwrap().trim_start_matches("0x"), 16).unwrap()
}

/// Gas limit and gas used of every transaction to the escrow from a block on; all have succeeded.
async fn escrow_gas(network: &Network, from: u64) -> Vec<(u64, u64)> {
    let url = network.served.url();
    let escrow = format!("0x{}", hex::encode(network.client.contracts().escrow.0));
    let mut found = Vec::new();
    for number in from..=network.client.block_number().await.unwrap() {
        let number = format!("{number:#x}");
        let block = result(&url, "eth_getBlockByNumber", json!([number, true])).await;
        let receipts = result(&url, "eth_getBlockReceipts", json!([number])).await;
        for (tx, receipt) in block["transactions"].as_array().unwrap().iter().zip(receipts.as_array().unwrap()) {
            if tx["to"].as_str().is_some_and(|to| to.eq_ignore_ascii_case(&escrow)) {
                assert_eq!(receipt["status"], "0x1", "{receipt}");
                found.push((hex(&tx["gas"]), hex(&receipt["gasUsed"])));
            }
        }
    }
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn the_limit_of_a_group_of_any_size_is_a_fifth_above_what_it_takes() {
    let network = Network::start().await;
    let owner = owner(&network, "owner", [1, 2]).await;
    let (one, other) = (voter(&network, "one").await, voter(&network, "other").await);
    let session = Wallet::random();
    let before = network.client.block_number().await.unwrap() + 1;
    let mut salt = 0u64;
    for size in SIZES {
        let mut wanted = Vec::new();
        for n in 0..=size {
            salt += 1;
            let mut bytes = [0; 32];
            bytes[..8].copy_from_slice(&salt.to_be_bytes());
            wanted.push(OpenLease {
                salt: bytes,
                container: NodeId([1 + u8::from(n % 2 == 0); 32]),
                indexer: NodeId([0x1d; 32]),
                session_key: session.address(),
                deposit: tokens(1),
                rate_per_second: TokenAmount(1_000),
                max_seconds: 3_600,
            });
        }
        let opens = |consumer: &Running| {
            let settlement = consumer.settlement.clone();
            let wanted = wanted.clone();
            async move {
                let opened = futures::future::join_all(wanted.iter().map(|open| settlement.open_lease(*open))).await;
                opened.into_iter().map(|opened| opened.unwrap().0).collect::<Vec<_>>()
            }
        };
        let (of_one, of_other) = tokio::join!(opens(&one), opens(&other));
        // Neighbours belong to different consumers: no refund travels with another.
        let entries = of_one.into_iter().zip(of_other).flat_map(|(a, b)| [a, b]).map(|lease| {
            let voucher = Voucher { lease, amount: TokenAmount(1_000), as_of_s: 1 };
            SettleEntry { lease, voucher: Some(network.client.vouchers().sign(&session, voucher)) }
        });
        let settled = futures::future::join_all(entries.map(|entry| owner.settlement.settle(entry))).await;
        assert!(settled.into_iter().all(|s| matches!(s.unwrap().0, SettleResult::Closed { .. })));
    }
    let gas = escrow_gas(&network, before).await;
    assert!(gas.len() < SIZES.len() * 10, "{} transactions: they were not grouped", gas.len());
    for (limit, used) in &gas {
        assert!(used + used / 5 <= *limit, "a limit of {limit}, and {used} used");
    }
    let largest = gas.iter().map(|(limit, _)| *limit).max().unwrap();
    assert!(largest > 10_000_000, "no full group was among them: {largest}");
}
