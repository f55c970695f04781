//! Money: single requests that are paid by x402, and accounts that pay beforehand, on a real chain.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use muster_chain::contracts::{Contracts, DeployParams, deploy_development};
use muster_chain::embedded::{ChainConfig, ServerConfig, open_development, serve};
use muster_chain::keys::Wallet;
use muster_chain::settle::{
    Authorization, ChainClient, SenderConfig, Settlement, SignedAuthorization, TokenDomain, TxSender, long_signature,
};
use muster_client::chain::ChainLedger;
use muster_client::network::Chain as ChainAt;
use muster_client::{ClientDir, Network, Renter};
use muster_core::ids::Address;
use muster_core::inference::{InferenceErrorKind, TokenAsk, TokenCounts};
use muster_core::params::Params;
use muster_core::pricing::Exchange;
use muster_core::units::{TokenAmount, UsdMicro};
use muster_gateway::{
    Access, Deployment, Gateway, GatewayConfig, KeyStore, KeyTerms, ReplicaId, TAKES_WITHIN, Till, Whence,
    credit_message, patient, signature_text,
};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use crate::clients::run_client;
use crate::rig::{PRICE, PROMPT, Reply, Scripted, Seen, Step, deployment, hello, info, read_reply, request};

const CHAIN_ID: u64 = 41_338;
const ETHER: u128 = 1_000_000_000_000_000_000;

/// A chain with the network's contracts, a faucet that owns all tokens, and a Gateway with a wallet.
struct World {
    dir: TempDir,
    rpc: String,
    client: ChainClient,
    faucet: Settlement,
    wallet: Wallet,
    tasks: Vec<JoinHandle<()>>,
    gateway: Option<Served>,
    replicas: AtomicU32,
    /// The network's token is from before there were authorized transfers. (The escrow stands for it.)
    older: bool,
}

/// A Gateway that is served until it is dropped.
struct Served {
    gateway: Gateway,
    till: Option<Till>,
    renter: Renter,
    at: SocketAddr,
    task: JoinHandle<()>,
}

impl Drop for World {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
        self.gateway.iter().for_each(|served| served.task.abort());
    }
}

async fn sender(
    world: &mut Vec<JoinHandle<()>>,
    dir: &std::path::Path,
    wallet: &Wallet,
    client: &ChainClient,
) -> Settlement {
    let sender = TxSender::open(dir, wallet.clone(), client.clone(), SenderConfig::default()).await.unwrap();
    let runner = sender.clone();
    world.push(tokio::spawn(async move { runner.run(std::future::pending()).await.unwrap() }));
    Settlement::new(sender)
}

impl World {
    async fn start(prepaid: bool) -> Self {
        let mut world = Self::bare().await;
        world.serve(prepaid).await;
        world
    }

    /// The chain alone.
    async fn bare() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let opened = open_development(&dir.path().join("chain"), ChainConfig::development(CHAIN_ID)).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let rpc = format!("http://{}", listener.local_addr().unwrap());
        let mut tasks = vec![tokio::spawn(async move {
            serve(opened.chain, listener, ServerConfig::default(), std::future::pending::<()>()).await.unwrap();
        })];
        let none = Contracts { token: Address::ZERO, registry: Address::ZERO, escrow: Address::ZERO };
        let bare = ChainClient::connect(&rpc, CHAIN_ID, none).await.unwrap();
        let deployer = sender(&mut tasks, &dir.path().join("deployer"), &opened.faucet, &bare).await;
        let params = DeployParams::development(TokenAmount::ONE, TokenAmount::ONE, 2_000);
        let contracts = deploy_development(deployer.sender(), &params).await.unwrap();
        let client = bare.with_contracts(contracts);
        tasks.pop().unwrap().abort();
        let faucet = sender(&mut tasks, &dir.path().join("faucet"), &opened.faucet, &client).await;
        let wallet = Wallet::random();
        faucet.send_ether("gateway", wallet.address(), 10 * ETHER).await.unwrap();
        let (gateway, replicas) = (None, AtomicU32::new(0));
        Self { dir, rpc, client, faucet, wallet, tasks, gateway, replicas, older: false }
    }

    /// Serves the Gateway of this folder: the first one, or the one after it.
    async fn serve(&mut self, prepaid: bool) {
        let contracts = self.client.contracts();
        let network = Network {
            version: 1,
            name: "paid".to_owned(),
            relay: None,
            chain: ChainAt { id: CHAIN_ID, rpc: self.rpc.clone() },
            contracts: muster_client::network::Contracts {
                token: if self.older { contracts.escrow } else { contracts.token },
                registry: contracts.registry,
                escrow: contracts.escrow,
            },
            params: Params::default(),
            beacon: None,
            epochs: None,
            first_committee: Vec::new(),
            indexers: Vec::new(),
        };
        let records = ClientDir::open(&self.dir.path().join("client")).unwrap();
        let ledger = ChainLedger::connect(&network, Some(self.wallet.clone()), records.root()).await.unwrap();
        let ledger = Arc::new(ledger);
        let till = Till::open(Arc::clone(&ledger), network.params.token_price).await.unwrap();
        let renter = Renter::new(network, Arc::<ChainLedger>::clone(&ledger), records).await.unwrap();
        let config = GatewayConfig {
            dir: self.dir.path().join("gateway"),
            origin: "http://127.0.0.1".to_owned(),
            ice_servers: Vec::new(),
            sessions_max: 1,
            loopback_only: true,
            app_stakes: None,
            till: till.clone(),
            prepaid,
        };
        // A connection of the Gateway before this one may take a moment to let go of the folder.
        let gateway = loop {
            match Gateway::new(config.clone(), renter.clone()) {
                Ok(gateway) => break gateway,
                Err(error) if error.to_string().contains("in use") => tokio::task::yield_now().await,
                Err(error) => panic!("{error}"),
            }
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = listener.local_addr().unwrap();
        let service = gateway.router().into_make_service_with_connect_info::<SocketAddr>();
        let task = tokio::spawn(async move { axum::serve(patient(listener, TAKES_WITHIN), service).await.unwrap() });
        self.gateway = Some(Served { gateway, till, renter, at, task });
    }

    /// The Gateway's process is gone without a word; its folder stays.
    async fn kill(&mut self) {
        let Served { gateway, till, renter, task, .. } = self.gateway.take().unwrap();
        task.abort();
        while !task.is_finished() {
            tokio::task::yield_now().await;
        }
        renter.close().await;
        drop((gateway, renter, till));
    }

    fn gateway(&self) -> &Served {
        self.gateway.as_ref().unwrap()
    }

    fn offer(&self, access: Access, engine: Scripted) -> Arc<Seen> {
        let (seen, models) = (engine.seen(), self.gateway().gateway.models());
        models.deploy(Deployment { access, ..deployment("tiny") }).unwrap();
        let id = ReplicaId(self.replicas.fetch_add(1, Ordering::Relaxed).to_string());
        models.add("tiny", id, Arc::new(engine), &info(), Whence::default()).unwrap();
        seen
    }

    fn key(&self, name: &str, terms: KeyTerms) -> String {
        let keys = KeyStore::open(&self.dir.path().join("gateway/api-keys.json")).unwrap();
        keys.create_with(name, terms).unwrap()
    }

    async fn payer(&self, tokens: TokenAmount) -> Wallet {
        let payer = Wallet::random();
        self.faucet.send_tokens(&payer.address().to_string(), payer.address(), tokens).await.unwrap();
        payer
    }

    async fn call(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &Value) -> Reply {
        let at = self.gateway().at;
        let body = if method == "GET" { String::new() } else { body.to_string() };
        read_reply(TcpStream::connect(at).await.unwrap(), &request(at, method, path, headers, body.as_bytes())).await
    }

    async fn with_key(&self, key: &str, method: &str, path: &str, body: &Value) -> Reply {
        self.call(method, path, &[("authorization", &format!("Bearer {key}"))], body).await
    }

    async fn chat(&self, headers: &[(&str, &str)], more: &Value) -> Reply {
        self.call("POST", "/v1/chat/completions", headers, &chat(more)).await
    }

    async fn balance(&self, who: Address) -> TokenAmount {
        self.client.token_balance(who).await.unwrap()
    }

    /// What a request is asked to pay.
    async fn asked(&self, more: &Value) -> Value {
        let reply = self.chat(&[], more).await;
        assert_eq!(reply.status, 402, "{}", reply.body);
        let required = decoded(&reply, "payment-required");
        assert_eq!(required, reply.json(), "header and body say the same");
        required
    }
}

fn chat(more: &Value) -> Value {
    let mut body = json!({ "model": "tiny", "messages": [{ "role": "user", "content": "hi" }], "max_tokens": 10 });
    body.as_object_mut().unwrap().extend(more.as_object().cloned().unwrap_or_default());
    body
}

fn now_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

#[track_caller]
fn decoded(reply: &Reply, header: &str) -> Value {
    let header = reply.raw_header(header).unwrap_or_else(|| panic!("no {header}: {reply:?}"));
    serde_json::from_slice(&STANDARD.decode(header).unwrap()).unwrap()
}

/// What a wallet allows for what is asked: `change` may spoil it before it is signed.
fn allowed(payer: &Wallet, required: &Value, change: impl FnOnce(&mut Authorization)) -> Authorization {
    let accepts = &required["accepts"][0];
    let mut authorization = Authorization {
        from: payer.address(),
        to: accepts["payTo"].as_str().unwrap().parse().unwrap(),
        value: TokenAmount(accepts["amount"].as_str().unwrap().parse().unwrap()),
        valid_after_s: now_s() - 600,
        valid_before_s: now_s() + accepts["maxTimeoutSeconds"].as_u64().unwrap(),
        nonce: rand::random(),
    };
    change(&mut authorization);
    authorization
}

/// The header of a payment.
fn payment(required: &Value, signed: &SignedAuthorization) -> Value {
    let SignedAuthorization { authorization: a, signature } = signed;
    json!({
        "x402Version": 2,
        "resource": required["resource"],
        "accepted": required["accepts"][0],
        "payload": {
            "signature": format!("0x{}", hex::encode(long_signature(signature))),
            "authorization": {
                "from": a.from.to_string(), "to": a.to.to_string(), "value": a.value.0.to_string(),
                "validAfter": a.valid_after_s.to_string(), "validBefore": a.valid_before_s.to_string(),
                "nonce": format!("0x{}", hex::encode(a.nonce)),
            },
        },
        "extensions": {},
    })
}

fn header(payment: &Value) -> String {
    STANDARD.encode(payment.to_string())
}

async fn domain(world: &World) -> TokenDomain {
    world.client.token_domain().await.unwrap().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wallet_that_pays_is_served_once() {
    let mut world = World::start(false).await;
    let seen = world.offer(Access::Offered, Scripted::new(|_| hello()));
    let (to, domain) = (world.wallet.address(), domain(&world).await);

    let required = world.asked(&json!({})).await;
    assert_eq!(required["x402Version"], 2);
    assert!(required["resource"]["url"].as_str().unwrap().ends_with("/v1/chat/completions"), "{required}");
    let accepts = &required["accepts"][0];
    let token = world.client.contracts().token.to_string();
    assert_eq!(accepts["scheme"], "exact");
    assert_eq!(accepts["network"], format!("eip155:{CHAIN_ID}"));
    assert_eq!((accepts["asset"].as_str(), accepts["payTo"].as_str()), (Some(token.as_str()), Some(&*to.to_string())));
    assert_eq!(accepts["extra"], json!({ "assetTransferMethod": "eip3009", "name": "Muster", "version": "1" }));
    // A token for each three bytes of the prompt, and all of max_tokens.
    let most = TokenCounts { input: 4, cached: 0, output: 10 };
    let price = Exchange { token_price: Params::default().token_price }.tokens_for(PRICE.cost(most)).unwrap();
    assert_eq!(accepts["amount"], price.0.to_string());
    let longer = world.asked(&json!({ "max_tokens": 20 })).await;
    let usual = world.asked(&json!({ "max_tokens": null })).await;
    let amount = |required: &Value| required["accepts"][0]["amount"].as_str().unwrap().parse::<u128>().unwrap();
    assert!(amount(&longer) > amount(&required) && amount(&usual) > amount(&longer));
    assert!(seen.asked.lock().unwrap().is_empty(), "nothing was done for it");

    let payer = world.payer(TokenAmount(3 * price.0)).await;
    let signed = domain.sign(&payer, allowed(&payer, &required, |_| {}));
    let paid = header(&payment(&required, &signed));
    let reply = world.chat(&[("payment-signature", &paid)], &json!({})).await;
    assert_eq!(reply.status, 200, "{}", reply.body);
    assert_eq!(reply.json()["usage"]["completion_tokens"], 3);
    let told = decoded(&reply, "payment-response");
    assert_eq!((&told["success"], &told["network"]), (&json!(true), &accepts["network"]));
    assert_eq!(told["payer"], payer.address().to_string());
    assert_eq!((world.balance(to).await, world.balance(payer.address()).await), (price, TokenAmount(2 * price.0)));
    let tx = told["transaction"].as_str().unwrap().to_owned();

    // The same payment again, here and in the process after this one: told which transaction it was.
    for _ in 0..2 {
        let reply = world.chat(&[("payment-signature", &paid)], &json!({})).await;
        assert_eq!(reply.status, 402, "{}", reply.body);
        let told = decoded(&reply, "payment-response");
        assert_eq!(told["errorReason"], "invalid_exact_evm_nonce_already_used");
        assert!(decoded(&reply, "payment-required")["error"].as_str().unwrap().contains(&tx), "{reply:?}");
        world.kill().await;
        world.serve(false).await;
        world.offer(Access::Offered, Scripted::new(|_| hello()));
    }
    assert_eq!(world.balance(to).await, price, "nothing more was taken");

    // Streamed, the payer is told before the first token.
    let stream = json!({ "stream": true });
    let signed = domain.sign(&payer, allowed(&payer, &required, |_| {}));
    let reply = world.chat(&[("payment-signature", &header(&payment(&required, &signed)))], &stream).await;
    assert_eq!(reply.events().last().unwrap(), "[DONE]");
    assert_eq!(decoded(&reply, "payment-response")["success"], true);
    assert_eq!(world.balance(to).await.0, 2 * price.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_payment_that_is_not_good_is_told_why_and_takes_nothing() {
    let world = World::start(false).await;
    let seen = world.offer(Access::Offered, Scripted::new(|_| hello()));
    let required = world.asked(&json!({})).await;
    let domain = domain(&world).await;
    let price: u128 = required["accepts"][0]["amount"].as_str().unwrap().parse().unwrap();
    let payer = world.payer(TokenAmount(price)).await;
    let sign = |change: &dyn Fn(&mut Authorization)| domain.sign(&payer, allowed(&payer, &required, change));
    let good = sign(&|_| {});
    let send = async |payment: Value| world.chat(&[("payment-signature", &header(&payment))], &json!({})).await;
    let with = |pointer: &str, value: Value| {
        let mut payment = payment(&required, &good);
        *payment.pointer_mut(pointer).unwrap() = value;
        payment
    };

    let poor = Wallet::random();
    let others = domain.sign(&Wallet::random(), good.authorization);
    for (reason, payment) in [
        ("insufficient_funds", payment(&required, &domain.sign(&poor, allowed(&poor, &required, |_| {})))),
        ("invalid_exact_evm_payload_signature", payment(&required, &others)),
        ("invalid_exact_evm_payload_signature", with("/payload/authorization/value", json!("1"))),
        (
            "invalid_exact_evm_payload_authorization_value_mismatch",
            payment(&required, &sign(&|a| a.value = TokenAmount(price - 1))),
        ),
        (
            "invalid_exact_evm_payload_authorization_value_mismatch",
            payment(&required, &sign(&|a| a.value = TokenAmount(price + 1))),
        ),
        ("invalid_exact_evm_payload_authorization_valid_before", payment(&required, &sign(&|a| a.valid_before_s = 9))),
        (
            "invalid_exact_evm_payload_authorization_valid_after",
            payment(&required, &sign(&|a| a.valid_after_s = now_s() + 500)),
        ),
        ("invalid_exact_evm_payload_recipient_mismatch", payment(&required, &sign(&|a| a.to = Address([9; 20])))),
        ("invalid_network", with("/accepted/network", json!("eip155:1"))),
        ("unsupported_scheme", with("/accepted/scheme", json!("upto"))),
        ("unsupported_scheme", with("/accepted/extra/assetTransferMethod", json!("permit2"))),
        ("invalid_payment_requirements", with("/accepted/asset", json!(Address([7; 20]).to_string()))),
    ] {
        let reply = send(payment).await;
        assert_eq!(reply.status, 402, "{reason}: {}", reply.body);
        let told = decoded(&reply, "payment-response");
        assert_eq!((&told["success"], &told["errorReason"]), (&json!(false), &json!(reason)), "{reply:?}");
        assert_eq!((&told["transaction"], &told["network"]), (&json!(""), &required["accepts"][0]["network"]));
        assert_eq!(decoded(&reply, "payment-required")["accepts"], required["accepts"]);
    }
    for (code, wrong) in [
        ("invalid_x402_version", with("/x402Version", json!(1))),
        ("invalid_payload", with("/payload/signature", json!("0x12"))),
        ("invalid_payload", with("/payload/authorization/nonce", json!("0x12"))),
        ("invalid_payload", with("/payload/authorization/from", json!("me"))),
        ("invalid_payload", with("/payload/authorization/value", json!(5))),
        ("invalid_payload", with("/payload/authorization/validBefore", json!("281474976710656"))),
        ("invalid_payload", json!({ "x402Version": 2 })),
        ("invalid_payload", json!("what")),
    ] {
        send(wrong).await.error(400, code);
    }
    world.chat(&[("payment-signature", "~~~")], &json!({})).await.error(400, "invalid_payload");
    world.chat(&[("payment-signature", &"A".repeat(9_000))], &json!({})).await.error(400, "invalid_payload");
    assert!(seen.asked.lock().unwrap().is_empty(), "nothing was done for any of them");
    assert_eq!(world.balance(payer.address()).await.0, price, "nothing was taken");
    // The good one is good as long as its payer has the tokens.
    world.faucet.bring_authorized(&sign(&|_| {})).await.unwrap();
    let reply = send(payment(&required, &good)).await;
    assert_eq!(decoded(&reply, "payment-response")["errorReason"], "insufficient_funds");
    world.faucet.send_tokens("again", payer.address(), TokenAmount(price)).await.unwrap();
    assert_eq!(send(payment(&required, &good)).await.status, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_payment_without_an_answer_is_good_for_another_try_also_after_a_kill() {
    let mut world = World::start(false).await;
    world.offer(Access::Offered, Scripted::new(|_| vec![Step::Fail(InferenceErrorKind::EngineLost)]));
    let (required, domain) = (world.asked(&json!({})).await, domain(&world).await);
    let price = TokenAmount(required["accepts"][0]["amount"].as_str().unwrap().parse().unwrap());
    let payer = world.payer(price).await;
    let signed = domain.sign(&payer, allowed(&payer, &required, |_| {}));
    let paid = header(&payment(&required, &signed));
    // It is paid, the engine breaks: said, with the transaction.
    let reply = world.chat(&[("payment-signature", &paid)], &json!({})).await;
    assert_eq!(reply.status, 503, "{}", reply.body);
    let first = decoded(&reply, "payment-response");
    assert_eq!(first["success"], true);
    assert_eq!(world.balance(world.wallet.address()).await, price);
    // A dearer request is not answered for it.
    let reply = world.chat(&[("payment-signature", &paid)], &json!({ "max_tokens": 11 })).await;
    assert_eq!(reply.status, 402, "{}", reply.body);
    world.kill().await;
    world.serve(false).await;
    world.offer(Access::Offered, Scripted::new(|_| hello()));
    let again = world.chat(&[("payment-signature", &paid)], &json!({})).await;
    assert_eq!(again.status, 200, "{}", again.body);
    assert_eq!(decoded(&again, "payment-response")["transaction"], first["transaction"]);
    assert_eq!(world.balance(world.wallet.address()).await, price, "taken once");
    assert_eq!(world.chat(&[("payment-signature", &paid)], &json!({})).await.status, 402, "and used once");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_at_once_with_one_payment_are_one_answer() {
    let world = World::start(false).await;
    let seen = world.offer(Access::Offered, Scripted::new(|_| hello()));
    let (required, domain) = (world.asked(&json!({})).await, domain(&world).await);
    let payer = world.payer(TokenAmount(u128::MAX >> 40)).await;
    let signed = domain.sign(&payer, allowed(&payer, &required, |_| {}));
    let paid = header(&payment(&required, &signed));
    let (headers, more) = ([("payment-signature", paid.as_str())], json!({}));
    let replies = futures::future::join_all((0..8).map(|_| world.chat(&headers, &more))).await;
    let good = replies.iter().filter(|reply| reply.status == 200).count();
    assert_eq!(good, 1, "{replies:?}");
    assert!(replies.iter().all(|reply| matches!(reply.status, 200 | 402)), "{replies:?}");
    assert_eq!(seen.asked.lock().unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_payment_in_its_form_keys_are_what_counts() {
    let world = World::start(false).await;
    world.offer(Access::Keys, Scripted::new(|_| hello()));
    world.chat(&[], &json!({})).await.error(401, "invalid_api_key");
    world.offer(Access::Offered, Scripted::new(|_| hello()));
    // A key pays by its account, as ever; a wrong one is told so.
    let key = world.key("one", KeyTerms::default());
    assert_eq!(world.with_key(&key, "POST", "/v1/chat/completions", &chat(&json!({}))).await.status, 200);
    world.with_key("mk_no", "POST", "/v1/chat/completions", &chat(&json!({}))).await.error(401, "invalid_api_key");
    // Version 1 is told what is spoken here.
    let reply = world.chat(&[("x-payment", "e30=")], &json!({})).await;
    assert!(decoded(&reply, "payment-required")["error"].as_str().unwrap().contains("version 2"), "{reply:?}");
    world
        .call(
            "POST",
            "/v1/chat/completions",
            &[],
            &json!({ "model": "other", "messages": [{ "role": "user", "content": "x" }] }),
        )
        .await
        .error(404, "model_not_found");
    // Nothing is offered for nothing because nobody knows yet what it costs.
    let unpriced = Deployment { access: Access::Offered, price: TokenAsk::default(), ..deployment("unpriced") };
    world.gateway().gateway.models().deploy(unpriced).unwrap();
    let body = chat(&json!({ "model": "unpriced" }));
    let error = world.call("POST", "/v1/chat/completions", &[], &body).await.error(503, "service_unavailable");
    assert!(error["message"].as_str().unwrap().contains("not known before its first replica"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_network_whose_token_is_older_offers_nothing_and_says_so() {
    let mut world = World::bare().await;
    world.older = true;
    world.serve(false).await;
    let till = world.gateway().till.as_ref().unwrap();
    assert!(!till.takes_single_payments());
    world.offer(Access::Offered, Scripted::new(|_| hello()));
    world.chat(&[], &json!({})).await.error(401, "invalid_api_key");
    let key = world.key("one", KeyTerms::default());
    let deploy = json!({ "catalog": "tiny", "offered": true });
    let refused = world.with_key(&key, "POST", "/api/v1/models", &deploy).await;
    assert_eq!((refused.status, refused.json()["error"]["code"].as_str()), (409, Some("no_payments")), "{refused:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn x402_s_own_client_is_content() {
    let world = World::start(false).await;
    world.offer(Access::Offered, Scripted::new(|_| hello()));
    let payer = world.payer(TokenAmount(u128::MAX >> 40)).await;
    let base = format!("http://{}/v1", world.gateway().at);
    let (secret, network) = (format!("0x{}", hex::encode(payer.secret())), format!("eip155:{CHAIN_ID}"));
    run_client("x402.mjs", &[&base, &secret, &network, &world.client.contracts().token.to_string()]).await;
    assert!(world.balance(world.wallet.address()).await > TokenAmount::ZERO);
}

/// Sends tokens to the Gateway; the transaction.
async fn pay_in(world: &World, from: &Wallet, to: Address, amount: TokenAmount) -> String {
    let mut tasks = Vec::new();
    world.faucet.send_ether(&from.address().to_string(), from.address(), ETHER).await.unwrap();
    let dir = world.dir.path().join(from.address().to_string());
    let settlement = sender(&mut tasks, &dir, from, &world.client).await;
    let mined = settlement.send_tokens(&format!("{to} {}", amount.0), to, amount).await.unwrap();
    tasks.iter().for_each(JoinHandle::abort);
    while !tasks.iter().all(JoinHandle::is_finished) {
        tokio::task::yield_now().await;
    }
    mined.tx.to_string()
}

fn claim(world: &World, by: &Wallet, tx: &str, account: &str) -> Value {
    let message = credit_message(tx, account, world.wallet.address(), CHAIN_ID);
    json!({ "tx": tx, "account": account, "signature": signature_text(&by.sign_message(message.as_bytes())) })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_account_pays_in_and_spends_that_and_no_more() {
    let mut world = World::start(true).await;
    world.offer(Access::Keys, Scripted::new(|_| hello()));
    let terms = KeyTerms { account: Some("studio".into()), ..KeyTerms::default() };
    let (key, second) = (world.key("one", terms.clone()), world.key("two", terms));
    let ask =
        async |world: &World, key: &str| world.with_key(key, "POST", "/v1/chat/completions", &chat(&json!({}))).await;
    let error = ask(&world, &key).await.error(429, "insufficient_quota");
    let why = error["message"].as_str().unwrap();
    assert!(why.contains("muster account top-up") && why.contains("$0.00"), "{why}");

    // What one answer may cost at most is about 1,110 micro-dollars, what it costs 12.
    let sum = 2_000;
    let exchange = Exchange { token_price: Params::default().token_price };
    let amount = exchange.tokens_for(UsdMicro(sum)).unwrap();
    let sender = world.payer(TokenAmount(2 * amount.0)).await;
    let tx = pay_in(&world, &sender, world.wallet.address(), amount).await;
    let post = async |world: &World, body: &Value| world.with_key(&key, "POST", "/api/v1/account/credits", body).await;
    let refused = async |world: &World, body: &Value, status: u16, code: &str| {
        let reply = post(world, body).await;
        assert_eq!((reply.status, reply.json()["error"]["code"].as_str()), (status, Some(code)), "{}", reply.body);
    };
    let good = claim(&world, &sender, &tx, "studio");
    refused(&world, &claim(&world, &Wallet::random(), &tx, "studio"), 403, "no_transfer").await;
    refused(&world, &claim(&world, &world.wallet, &tx, "studio"), 409, "no_transfer").await;
    refused(&world, &claim(&world, &sender, &tx, "nobody"), 404, "unknown_account").await;
    let elsewhere = world.key("elsewhere", KeyTerms::default());
    let turned = json!({ "tx": tx, "account": "elsewhere", "signature": good["signature"] });
    refused(&world, &turned, 403, "no_transfer").await;
    let none = format!("0x{}", "5".repeat(64));
    refused(&world, &claim(&world, &sender, &none, "studio"), 404, "unknown_transaction").await;
    refused(&world, &json!({ "tx": "0x1", "signature": good["signature"] }), 400, "bad_transaction").await;
    refused(&world, &json!({ "tx": tx, "signature": "00" }), 400, "bad_signature").await;
    let aside = pay_in(&world, &sender, Address([8; 20]), TokenAmount(1)).await;
    refused(&world, &claim(&world, &sender, &aside, "studio"), 403, "no_transfer").await;
    assert_eq!(world.call("POST", "/api/v1/account/credits", &[], &good).await.status, 401);

    let reply = post(&world, &good).await;
    assert_eq!(reply.status, 201, "{}", reply.body);
    let state = reply.json();
    assert_eq!((&state["balance_usd_micro"], &state["prepaid"]), (&json!(sum), &json!(true)), "{state}");
    assert_eq!(state["credits"][0]["tx"], tx);
    refused(&world, &good, 409, "credited_already").await;
    refused(&world, &claim(&world, &sender, &tx, "elsewhere"), 409, "credited_already").await;

    // Killed and begun anew, it is taken no second time; two keys spend one purse, to the last answer that fits.
    world.kill().await;
    world.serve(true).await;
    world.offer(Access::Keys, Scripted::new(|_| hello()));
    refused(&world, &good, 409, "credited_already").await;
    let cost = PRICE.cost(TokenCounts { input: PROMPT, cached: 2, output: 3 }).0;
    // A token for each byte, and what a template may add to a conversation and to a message.
    let reserved = PRICE.cost(TokenCounts { input: 2 + 1_024 + 64, cached: 0, output: 10 }).0;
    let mut answers = 0;
    while ask(&world, if answers % 2 == 0 { &key } else { &second }).await.status == 200 {
        answers += 1;
        assert!(answers < 100, "it never ends");
    }
    assert_eq!(answers, (sum - reserved) / cost + 1);
    let state = world.with_key(&second, "GET", "/api/v1/account", &Value::Null).await.json();
    assert_eq!(state["spent_usd_micro"], answers * cost, "{state}");
    assert_eq!(state["balance_usd_micro"], sum - answers * cost);
    assert_eq!((&state["account"], &state["reserved_usd_micro"]), (&json!("studio"), &json!(0)));
    let other = world.with_key(&elsewhere, "GET", "/api/v1/account", &Value::Null).await.json();
    assert_eq!((&other["account"], &other["credited_usd_micro"]), (&json!("elsewhere"), &json!(0)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_paid_a_request_pays_nothing_in() {
    let world = World::start(true).await;
    world.offer(Access::Offered, Scripted::new(|_| hello()));
    let key = world.key("one", KeyTerms::default());
    let (required, domain) = (world.asked(&json!({})).await, domain(&world).await);
    let payer = world.payer(TokenAmount(u128::MAX >> 40)).await;
    let signed = domain.sign(&payer, allowed(&payer, &required, |_| {}));
    // Who pays by itself needs no account, also where accounts pay beforehand.
    let reply = world.chat(&[("payment-signature", &header(&payment(&required, &signed)))], &json!({})).await;
    assert_eq!(reply.status, 200, "{}", reply.body);
    let tx = decoded(&reply, "payment-response")["transaction"].as_str().unwrap().to_owned();
    let reply = world.with_key(&key, "POST", "/api/v1/account/credits", &claim(&world, &payer, &tx, "one")).await;
    assert_eq!((reply.status, reply.json()["error"]["code"].as_str()), (409, Some("no_transfer")), "{}", reply.body);
}
