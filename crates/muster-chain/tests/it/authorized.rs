//! Transfers that a payer signs and somebody else brings.

use std::time::{SystemTime, UNIX_EPOCH};

use muster_chain::keys::Wallet;
use muster_chain::settle::{Authorization, ClientError, Moved, SendError, SettlementError};
use muster_core::ids::Address;

use crate::world::{Network, tokens};

fn now_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

fn authorization(from: Address, to: Address) -> Authorization {
    let now = now_s();
    Authorization {
        from,
        to,
        value: tokens(3),
        valid_after_s: now - 600,
        valid_before_s: now + 600,
        nonce: rand::random(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_authorized_moves_once_whoever_brings_it() {
    let network = Network::start().await;
    let payee = network.account("payee", tokens(0)).await;
    let (payer, client) = (Wallet::random(), &network.client);
    let to = payee.settlement.address();
    network.faucet.settlement.send_tokens("payer", payer.address(), tokens(5)).await.unwrap();
    let domain = client.token_domain().await.unwrap().expect("the token takes authorizations");
    assert_eq!((domain.name(), domain.version()), ("Muster", "1"));

    let wanted = authorization(payer.address(), to);
    let signed = domain.sign(&payer, wanted);
    client.try_authorized(&signed).await.unwrap();
    assert!(!client.authorization_used(payer.address(), wanted.nonce).await.unwrap());
    let mined = payee.settlement.bring_authorized(&signed).await.unwrap();
    assert_eq!(mined.transfers, [(payer.address(), to, tokens(3))]);
    let again = payee.settlement.bring_authorized(&signed).await.unwrap();
    assert_eq!(again.tx, mined.tx, "brought once");
    assert!(client.authorization_used(payer.address(), wanted.nonce).await.unwrap());
    assert_eq!(client.token_balance(payer.address()).await.unwrap(), tokens(2));
    let moved = Moved { transfers: mined.transfers, authorized: vec![payer.address()] };
    assert_eq!(client.moved(mined.tx).await.unwrap(), Some(moved));
    assert_eq!(client.moved(muster_chain::settle::TxId([1; 32])).await.unwrap(), None);

    // Brought by somebody else after that, it moves nothing; one that the payer cannot pay neither.
    let Err(ClientError::Reverted(why)) = client.try_authorized(&signed).await else { panic!("it would move again") };
    assert!(why.contains("used already"), "{why}");
    let poor = domain.sign(&payer, authorization(payer.address(), to));
    let refused = payee.settlement.bring_authorized(&poor).await;
    let Err(SettlementError::Send(SendError::WouldFail(why))) = refused else { panic!("{refused:?}") };
    assert!(why.contains("are needed"), "{why}");
    let late = Authorization { valid_before_s: now_s() - 1, ..authorization(payer.address(), to) };
    let Err(ClientError::Reverted(why)) = client.try_authorized(&domain.sign(&payer, late)).await else {
        panic!("it is too late")
    };
    assert!(why.contains("good after"), "{why}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_without_authorizations_is_known_as_one() {
    let network = Network::start().await;
    let contracts = network.client.contracts();
    // The escrow is no token: it stands for one that knows no authorizations.
    let older = muster_chain::contracts::Contracts { token: contracts.escrow, ..contracts };
    assert!(network.client.with_contracts(older).token_domain().await.unwrap().is_none());
}
