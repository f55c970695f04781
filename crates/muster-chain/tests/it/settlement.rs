//! Leases from opening to the last unit, through the contracts.

use muster_chain::contracts::Contracts;
use muster_chain::keys::Wallet;
use muster_chain::settle::{
    ChainEvent, LeaseStatus, NodeKind, NodeStatus, OpenLease, Registration, SendError, SettleEntry, SettleResult,
    SettlementError, SkipReason,
};
use muster_core::apps::{AppStake, StakeStatus, app_id};
use muster_core::ids::NodeId;
use muster_core::units::TokenAmount;
use muster_core::voucher::Voucher;

use crate::world::{Network, Running, tokens};

async fn container(network: &Network, name: &str, key: u8) -> (Running, NodeId) {
    let owner = network.account(name, tokens(2_000)).await;
    let node = NodeId([key; 32]);
    let registration = Registration {
        kind: NodeKind::Container,
        node,
        endpoint: "127.0.0.1:4000".to_owned(),
        fingerprint: [7; 32],
        stake: tokens(1_000),
    };
    assert!(owner.settlement.register(&registration).await.unwrap().is_some());
    assert!(owner.settlement.register(&registration).await.unwrap().is_none(), "registered already");
    (owner, node)
}

fn lease(container: NodeId, session: &Wallet, salt: u8) -> OpenLease {
    OpenLease {
        salt: [salt; 32],
        container,
        indexer: NodeId([0x1d; 32]),
        session_key: session.address(),
        deposit: tokens(10),
        rate_per_second: TokenAmount(1_000),
        max_seconds: 3_600,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_is_opened_vouchered_and_settled_to_the_last_unit() {
    let network = Network::start().await;
    let (owner, node) = container(&network, "owner", 1).await;
    let consumer = network.account("consumer", tokens(100)).await;
    let client = &network.client;
    let session = Wallet::random();

    let (id, _) = consumer.settlement.open_lease(lease(node, &session, 1)).await.unwrap();
    let again = consumer.settlement.open_lease(lease(node, &session, 1)).await.unwrap();
    assert_eq!(again.0, id);
    let opened = client.lease(id).await.unwrap().unwrap();
    assert_eq!((opened.status, opened.deposit), (LeaseStatus::Open, tokens(10)));
    assert_eq!(opened.payee, owner.settlement.address());
    assert_eq!(client.token_balance(consumer.settlement.address()).await.unwrap(), tokens(90));

    let voucher = client.vouchers().sign(&session, Voucher { lease: id, amount: TokenAmount(12_345_677), as_of_s: 9 });
    client.vouchers().verify(&voucher, session.address()).unwrap();
    let (result, _) = owner.settlement.settle(SettleEntry { lease: id, voucher: Some(voucher) }).await.unwrap();
    let refunded = TokenAmount(tokens(10).0 - 12_345_677);
    assert_eq!(result, SettleResult::Closed { redeemed: TokenAmount(12_345_677), refunded });
    let (second, _) = owner.settlement.settle(SettleEntry { lease: id, voucher: Some(voucher) }).await.unwrap();
    assert_eq!(second, result, "settling again tells how it ended");

    let closed = client.lease(id).await.unwrap().unwrap();
    assert_eq!((closed.status, closed.redeemed), (LeaseStatus::Closed, TokenAmount(12_345_677)));
    let consumer_after = client.token_balance(consumer.settlement.address()).await.unwrap();
    assert_eq!(consumer_after, TokenAmount(tokens(100).0 - 12_345_677));
    let earned = client.claimable(owner.settlement.address()).await.unwrap();
    let fees = client.network_fees().await.unwrap();
    assert_eq!(earned.now.0 + earned.pending.0 + fees.0, 12_345_677, "nothing is lost and nothing made");
    assert_eq!(fees, TokenAmount(12_345_677 / 5));

    let events = client.events(0).await.unwrap();
    assert!(events.is_last);
    assert!(events.events.iter().any(|e| matches!(e, ChainEvent::LeaseOpened { lease, .. } if *lease == id)));
    assert!(events.events.contains(&ChainEvent::LeaseClosed {
        lease: id,
        redeemed: TokenAmount(12_345_677),
        refunded
    }));
}

#[tokio::test(flavor = "multi_thread")]
async fn leases_that_come_together_share_transactions_and_each_gets_its_own_answer() {
    let network = Network::start().await;
    let (owner, node) = container(&network, "owner", 1).await;
    let consumer = network.account("consumer", tokens(1_000)).await;
    let session = Wallet::random();
    let before = network.client.block_number().await.unwrap();

    let mut wanted: Vec<OpenLease> = (1..=40).map(|salt| lease(node, &session, salt)).collect();
    wanted[17].container = NodeId([99; 32]);
    let opens = wanted.iter().map(|open| consumer.settlement.open_lease(*open));
    let opened = futures::future::join_all(opens).await;
    let failed: Vec<usize> = (0..40).filter(|i| opened[*i].is_err()).collect();
    assert_eq!(failed, [17]);
    let Err(SettlementError::Send(SendError::WouldFail(reason))) = &opened[17] else { panic!("{:?}", opened[17]) };
    assert!(reason.contains("is not registered"), "{reason}");

    let good: Vec<_> = opened.into_iter().flatten().map(|(lease, _)| lease).collect();
    let found = network.client.leases(&good).await.unwrap();
    assert!(found.iter().all(|lease| lease.as_ref().is_some_and(|l| l.status == LeaseStatus::Open)));

    let bad_key = Wallet::random();
    let settles = good.iter().enumerate().map(|(i, lease)| {
        let voucher = Voucher { lease: *lease, amount: TokenAmount(1_000 + i as u128), as_of_s: 1 };
        let signer = if i == 5 { &bad_key } else { &session };
        owner
            .settlement
            .settle(SettleEntry { lease: *lease, voucher: Some(network.client.vouchers().sign(signer, voucher)) })
    });
    let settled = futures::future::join_all(settles).await;
    for (i, result) in settled.iter().enumerate() {
        let (result, _) = result.as_ref().unwrap();
        if i == 5 {
            assert_eq!(*result, SettleResult::Skipped(SkipReason::BadSignature));
        } else {
            let redeemed = TokenAmount(1_000 + i as u128);
            let refunded = TokenAmount(tokens(10).0 - redeemed.0);
            assert_eq!(*result, SettleResult::Closed { redeemed, refunded });
        }
    }
    let blocks = network.client.block_number().await.unwrap() - before;
    assert!(blocks < 60, "{blocks} blocks for 39 leases: they were not batched");
}

/// More than one group at a time looks for the same settlement before either has written it down.
#[tokio::test(flavor = "multi_thread")]
async fn a_lease_that_two_groups_settle_at_once_is_settled_once_and_both_are_told() {
    let network = Network::start().await;
    let (owner, node) = container(&network, "owner", 1).await;
    let consumer = network.account("consumer", tokens(2_000)).await;
    let session = Wallet::random();
    let opens = (1..=104).map(|salt| consumer.settlement.open_lease(lease(node, &session, salt)));
    let opened: Vec<_> = futures::future::join_all(opens).await.into_iter().map(|o| o.unwrap().0).collect();

    // A group holds 100: the second one begins with a lease of the first, and has another one in its middle.
    let mut order: Vec<usize> = (0..100).collect();
    order.extend([5, 100, 101, 99, 102, 103]);
    let entry = |at: usize| {
        let voucher = Voucher { lease: opened[at], amount: TokenAmount(1_000 + at as u128), as_of_s: 1 };
        SettleEntry { lease: opened[at], voucher: Some(network.client.vouchers().sign(&session, voucher)) }
    };
    let settles = order.iter().map(|at| owner.settlement.settle(entry(*at)));
    let settled = futures::future::join_all(settles).await;
    for (at, result) in order.iter().zip(settled) {
        let redeemed = TokenAmount(1_000 + *at as u128);
        let refunded = TokenAmount(tokens(10).0 - redeemed.0);
        assert_eq!(result.unwrap().0, SettleResult::Closed { redeemed, refunded }, "lease {at}");
    }
    let due: u128 = (0..104).map(|at| 1_000 + at).sum();
    let earned = network.client.claimable(owner.settlement.address()).await.unwrap();
    let fees = network.client.network_fees().await.unwrap();
    assert_eq!(earned.now.0 + earned.pending.0 + fees.0, due, "each is paid once");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_closes_and_gets_the_rest_after_the_window() {
    let network = Network::start().await;
    let (owner, node) = container(&network, "owner", 1).await;
    let consumer = network.account("consumer", tokens(100)).await;
    let session = Wallet::random();
    let (id, _) = consumer.settlement.open_lease(lease(node, &session, 1)).await.unwrap();
    consumer.settlement.top_up("first", id, tokens(5)).await.unwrap();
    consumer.settlement.top_up("first", id, tokens(5)).await.unwrap();
    assert_eq!(network.client.lease(id).await.unwrap().unwrap().deposit, tokens(15), "one intent, one top-up");

    let voucher = Voucher { lease: id, amount: tokens(3), as_of_s: 1 };
    owner.settlement.redeem(&network.client.vouchers().sign(&session, voucher)).await.unwrap();
    consumer.settlement.close_by_consumer(id).await.unwrap();
    let early = consumer.settlement.finalize(id).await;
    if let Err(error) = early {
        assert!(error.to_string().contains("from"), "{error}");
        tokio::time::sleep(std::time::Duration::from_millis(2_100)).await;
        consumer.settlement.finalize(id).await.unwrap();
    }
    assert_eq!(network.client.token_balance(consumer.settlement.address()).await.unwrap(), tokens(97));

    tokio::time::sleep(std::time::Duration::from_millis(2_100)).await;
    let before = network.client.token_balance(owner.settlement.address()).await.unwrap();
    owner.settlement.claim_service_fee(owner.settlement.address()).await.unwrap();
    let after = network.client.token_balance(owner.settlement.address()).await.unwrap();
    assert_eq!(after.0 - before.0, tokens(3).0 / 10 * 8);

    owner.settlement.leave(node).await.unwrap();
    assert_eq!(network.client.node(node).await.unwrap().unwrap().status, NodeStatus::Left);
    assert_eq!(network.client.nodes(NodeKind::Container).await.unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_app_is_staked_for_under_its_name_and_the_stake_comes_back() {
    let network = Network::start().await;
    let publisher = network.account("publisher", tokens(300)).await;
    let (client, settlement) = (&network.client, &publisher.settlement);
    assert!(client.takes_apps().await.unwrap());
    // A registry from before knows nothing of apps; here another contract that does not.
    let before = Contracts { registry: client.contracts().token, ..client.contracts() };
    assert!(!client.with_contracts(before).takes_apps().await.unwrap());
    assert_eq!(client.app_stake("game").await.unwrap(), None);
    let id = app_id("game");
    let registration = Registration {
        kind: NodeKind::App,
        node: id,
        endpoint: "game".to_owned(),
        fingerprint: [1; 32],
        stake: tokens(100),
    };
    // The registry knows the key of the name itself, and lets no node have it.
    for wrong in [
        Registration { node: NodeId([9; 32]), ..registration.clone() },
        Registration { endpoint: "another".to_owned(), ..registration.clone() },
        Registration { kind: NodeKind::Container, stake: tokens(1_000), ..registration.clone() },
    ] {
        let told = settlement.register(&wrong).await.unwrap_err().to_string();
        assert!(told.contains("an app has that of its name"), "{told}");
    }
    settlement.register(&registration).await.unwrap().unwrap();
    assert!(settlement.register(&registration).await.unwrap().is_none(), "once");
    settlement.update_node(id, "game", [2; 32]).await.unwrap();
    settlement.add_stake("more", id, tokens(50)).await.unwrap();
    let stands = AppStake {
        owner: settlement.address(),
        status: StakeStatus::Active,
        stake: tokens(150),
        unbonding: TokenAmount::ZERO,
        hash: [2; 32],
    };
    assert_eq!(client.app_stake("game").await.unwrap(), Some(stands));
    assert_eq!(client.nodes(NodeKind::App).await.unwrap()[0].endpoint, "game");
    assert!(client.nodes(NodeKind::Container).await.unwrap().is_empty());

    settlement.leave(id).await.unwrap();
    let left = AppStake { status: StakeStatus::Left, stake: TokenAmount::ZERO, unbonding: tokens(150), ..stands };
    assert_eq!(client.app_stake("game").await.unwrap(), Some(left));
    tokio::time::sleep(std::time::Duration::from_millis(2_100)).await;
    settlement.withdraw(id).await.unwrap();
    assert_eq!(client.token_balance(settlement.address()).await.unwrap(), tokens(300));
    settlement.register(&registration).await.unwrap().unwrap();
}
