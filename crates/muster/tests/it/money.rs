//! How models are paid: straight from a wallet, by x402, and out of accounts that pay beforehand; with everything real.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use muster_chain::keys::Wallet;
use muster_chain::settle::{Authorization, ChainClient, long_signature};
use muster_client::Network;
use muster_core::units::TokenAmount;
use serde_json::{Value, json};

use crate::network::{Net, code, muster, shown};
use crate::world::health;

const CHAT: &str = "/v1/chat/completions";

fn amount(value: &Value) -> u128 {
    value.as_str().and_then(|text| text.parse().ok()).unwrap_or_else(|| panic!("{value} is no amount"))
}

fn number(value: &Value, pointer: &str) -> u64 {
    value.pointer(pointer).and_then(Value::as_u64).unwrap_or_else(|| panic!("{pointer} of {value}"))
}

fn balance(net: &Net) -> u128 {
    amount(&net.json(&["wallet", "balance"])["tokens"])
}

/// What a lease has cost, by its counts and rates.
fn cost(tokens: &Value, rates: &Value) -> u128 {
    let part = |count: u64, rate: &str| u128::from(count) * amount(&rates[rate]) / 1_000_000;
    let (input, cached) = (number(tokens, "/input"), number(tokens, "/cached"));
    part(input - cached, "input_rate") + part(cached, "cached_rate") + part(number(tokens, "/output"), "output_rate")
}

#[test]
fn a_conversation_straight_from_a_wallet_is_paid_to_the_token() {
    let net = Net::start(1);
    let before = balance(&net);
    let mut chat = net.command(&["--json", "model", "chat", "tiny", "--wallet", "--max-tokens", "12"]);
    // There is no Gateway where this points: none is needed.
    chat.env("MUSTER_GATEWAY", "http://127.0.0.1:1").env_remove("MUSTER_API_KEY");
    let mut chat = chat.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    chat.stdin.take().unwrap().write_all(b"Good morning\nAnd what is new?\n\n").unwrap();
    let output = chat.wait_with_output().unwrap();
    assert_eq!(code(&output), 0, "{}\n{}", shown(&output), net.logs());
    let told: Value = serde_json::from_slice(&output.stdout).unwrap();
    let answers = told["answers"].as_array().unwrap();
    assert_eq!(answers.len(), 2, "{told}");
    let lease = &told["leases"][0];
    assert_eq!((lease["phase"].as_str(), told["leases"].as_array().unwrap().len()), (Some("closed"), 1), "{told}");
    // What the answers counted is what the lease counted, what that costs is what was billed, and what was billed is what
    // the wallet has lost.
    for kind in ["/input", "/cached", "/output"] {
        let said: u64 = answers.iter().map(|answer| number(&answer["usage"], kind)).sum();
        assert_eq!(number(&lease["tokens"], kind), said, "{kind} of {told}");
    }
    assert!(number(&told, "/usage/output") >= 2 && number(&told, "/usage/cached") > 0, "{told}");
    let billed = amount(&told["billed"]);
    assert_eq!(billed, cost(&lease["tokens"], lease), "{told}");
    assert!(billed > 0 && amount(&lease["deposit"]) == billed + amount(&lease["refunded"]), "{told}");
    assert_eq!(before - balance(&net), billed, "{told}");
    let kept = net.json(&["lease", "show", lease["id"].as_str().unwrap()]);
    assert_eq!((kept["phase"].as_str(), amount(&kept["billed"])), (Some("closed"), billed), "{kept}");
    // What cannot be is said before anything is rented.
    for (args, words) in [
        (&["model", "chat", "tyni", "--wallet", "hi"][..], "nearest are tiny"),
        (&["model", "chat", "tiny", "--wallet=nobody", "hi"][..], "there is no wallet"),
        (&["model", "chat", "file:/nowhere.gguf", "hi", "--wallet"][..], "cannot be read"),
        (&["model", "chat", "tiny", "hi", "--wallet", "--price-max", "0,0,0"][..], "more than was offered"),
    ] {
        let refused = net.run(args);
        assert_ne!(code(&refused), 0, "{}", shown(&refused));
        assert!(shown(&refused).contains(words), "{words:?}: {}", shown(&refused));
    }
    assert_eq!(before - balance(&net), billed, "nothing more was paid");
}

#[test]
fn a_conversation_that_is_broken_off_ends_its_lease_and_pays_what_was_drawn() {
    let net = Net::start(1);
    let before = balance(&net);
    let chat = net
        .command(&["model", "chat", "tiny", "--wallet", "Tell me everything", "--max-tokens", "1900"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let mut chat = chat.unwrap();
    let mut some = [0; 16];
    chat.stdout.as_mut().unwrap().read_exact(&mut some).unwrap();
    assert!(Command::new("kill").args(["-INT", &chat.id().to_string()]).status().unwrap().success());
    let output = chat.wait_with_output().unwrap();
    // The model may have come to its end by itself in the same moment.
    assert!(matches!(code(&output), 0 | 130), "{}", shown(&output));
    let closed = net.wait_for("the lease to be settled", || {
        let all = net.json(&["lease", "ls", "--all"]);
        let lease = all["leases"].as_array()?.first()?.clone();
        (lease["phase"] == "closed").then_some(lease)
    });
    let billed = amount(&closed["billed"]);
    assert_eq!(billed, cost(&closed["tokens"], &closed["tokens"]), "{closed}");
    assert!(number(&closed["tokens"], "/output") > 0, "{closed}");
    assert_eq!(before - balance(&net), billed, "{closed}");
}

/// One request to a Gateway: its status and body.
fn ask(listen: &str, method: &str, path: &str, headers: &[(&str, &str)], body: &Value) -> (u16, Value) {
    try_ask(listen, method, path, headers, body).unwrap_or_else(|| panic!("{method} {path}: no answer"))
}

/// The same, of a Gateway that may be down.
fn try_ask(listen: &str, method: &str, path: &str, headers: &[(&str, &str)], body: &Value) -> Option<(u16, Value)> {
    let body = if body.is_null() { String::new() } else { body.to_string() };
    let headers: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    let request = format!(
        "{method} {path} HTTP/1.0\r\nHost: {listen}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\
         {headers}\r\n{body}",
        body.len()
    );
    let mut stream = TcpStream::connect(listen).ok()?;
    stream.write_all(request.as_bytes()).ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    Some((head.split(' ').nth(1)?.parse().ok()?, serde_json::from_str(body).unwrap_or(Value::Null)))
}

/// The header that pays what is asked, out of this wallet.
fn payment(net: &Net, payer: &Wallet, required: &Value) -> String {
    let network = Network::load(&net.file()).unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let domain = runtime.block_on(async {
        let client =
            ChainClient::connect(&network.chain.rpc, network.chain.id, network.contracts.into()).await.unwrap();
        client.token_domain().await.unwrap().expect("the token takes authorized transfers")
    });
    let accepts = &required["accepts"][0];
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let authorization = Authorization {
        from: payer.address(),
        to: accepts["payTo"].as_str().unwrap().parse().unwrap(),
        value: TokenAmount(amount(&accepts["amount"])),
        valid_after_s: now - 600,
        valid_before_s: now + 600,
        nonce: rand::random(),
    };
    let signed = domain.sign(payer, authorization);
    let sent = json!({
        "x402Version": 2, "accepted": accepts,
        "payload": {
            "signature": format!("0x{}", hex::encode(long_signature(&signed.signature))),
            "authorization": {
                "from": payer.address().to_string(), "to": authorization.to.to_string(),
                "value": authorization.value.0.to_string(), "validAfter": authorization.valid_after_s.to_string(),
                "validBefore": authorization.valid_before_s.to_string(),
                "nonce": format!("0x{}", hex::encode(authorization.nonce)),
            },
        },
    });
    STANDARD.encode(sent.to_string())
}

fn gateway_of(net: &Net) -> String {
    let origin = std::fs::read_to_string(net.role("gateway-0").join("origin")).unwrap();
    origin.trim().strip_prefix("http://").unwrap().to_owned()
}

#[test]
fn whoever_pays_by_x402_is_answered_by_a_real_model_once() {
    let net = Net::start(1);
    let deployed = net.run(&["--json", "model", "deploy", "tiny", "--offered"]);
    assert_eq!(code(&deployed), 0, "{}\n{}", shown(&deployed), net.logs());
    let listen = gateway_of(&net);
    let body = json!({ "model": "tiny", "messages": [{ "role": "user", "content": "hi" }], "max_tokens": 8 });
    let (status, required) = ask(&listen, "POST", CHAT, &[], &body);
    assert_eq!(status, 402, "{required}");
    let payer = Wallet::random();
    let funded = net.run(&["wallet", "send", &payer.address().to_string(), "1"]);
    assert_eq!(code(&funded), 0, "{}", shown(&funded));
    let paid = payment(&net, &payer, &required);
    let pay = |listen: &str| ask(listen, "POST", CHAT, &[("PAYMENT-SIGNATURE", &paid)], &body);
    let (status, answer) = pay(&listen);
    assert_eq!(status, 200, "{answer}\n{}", net.logs());
    assert!(number(&answer, "/usage/completion_tokens") > 0, "{answer}");
    let left = net.json(&["wallet", "balance", &payer.address().to_string()]);
    assert_eq!(amount(&left["tokens"]), TokenAmount::ONE.0 - amount(&required["accepts"][0]["amount"]), "{left}");
    let (status, again) = pay(&listen);
    assert_eq!(status, 402, "{again}");
    let usage = net.wait_for("the usage of who paid", || {
        let usage = net.run(&["api-key", "usage"]);
        shown(&usage).contains("paid by x402").then_some(usage)
    });
    assert_eq!(code(&usage), 0, "{}", shown(&usage));
    // A Gateway that was killed knows what was used.
    net.kill("gateway-0");
    let (status, again) = net.wait_for("the next Gateway", || {
        // Before the deployment is read again, nothing is offered, and before its replica is up nobody knows for how much.
        let told = try_ask(&gateway_of(&net), "POST", CHAT, &[("PAYMENT-SIGNATURE", &paid)], &body);
        told.filter(|told| told.0 != 401 && told.0 != 503)
    });
    assert_eq!(status, 402, "{again}");
    assert!(again["error"].as_str().unwrap().contains("used already"), "{again}");
}

#[test]
fn an_account_is_topped_up_by_a_transfer_and_answered_out_of_it() {
    let net = Net::start(1);
    let before = balance(&net);
    let state = net.json(&["account", "top-up", "2"]);
    let worth = number(&state, "/balance_usd_micro");
    assert!(worth > 0 && state["prepaid"] == false, "{state}");
    assert_eq!(before - balance(&net), 2 * TokenAmount::ONE.0);
    let tx = state["credits"][0]["tx"].as_str().unwrap().to_owned();
    let again = net.run(&["account", "claim", &tx]);
    assert!(code(&again) != 0 && shown(&again).contains("credited already"), "{}", shown(&again));
    assert_eq!(number(&net.json(&["account", "show"]), "/credited_usd_micro"), worth);
    for (args, words) in [
        (&["account", "top-up", "0"][..], "pays nothing in"),
        (&["account", "top-up", "900000000000"][..], "nothing was sent"),
        (&["account", "claim", "0x12"][..], "64 hex digits"),
        (&["account", "claim", &format!("0x{}", "7".repeat(64))][..], "in no block"),
        (&["account", "claim", &tx, "--account", "nobody"][..], "no key of this Gateway belongs"),
    ] {
        let refused = net.run(args);
        assert!(code(&refused) != 0 && shown(&refused).contains(words), "{words:?}: {}", shown(&refused));
    }

    // A Gateway of its own that asks accounts to pay beforehand, with a wallet of its own.
    let dir = net.role("second-gateway");
    std::fs::create_dir_all(&dir).unwrap();
    let keyed = |args: &[&str]| {
        let mut command = net.command(args);
        command.env("MUSTER_PASSPHRASE", "correct horse");
        command
    };
    for args in [&["wallet", "new", "till"][..], &["wallet", "faucet", "till", "--amount", "50"]] {
        let done = keyed(args).output().unwrap();
        assert_eq!(code(&done), 0, "{}", shown(&done));
    }
    let second = || {
        let mut command = muster();
        command
            .arg("--dir")
            .arg(&dir)
            .arg("--network")
            .arg(net.file())
            .arg("--wallet")
            .arg(net.role("wallets/till.json"));
        command.env("MUSTER_PASSPHRASE", "correct horse");
        command
    };
    let made = second().args(["--json", "api-key", "new", "studio"]).output().unwrap();
    let key = serde_json::from_slice::<Value>(&made.stdout).unwrap()["key"].as_str().unwrap().to_owned();
    let mut gateway = second().args(["gateway", "run", "--prepaid", "--listen", "127.0.0.1:0"]).spawn().unwrap();
    let listen = health(&dir)["listen"].as_str().unwrap().to_owned();
    let there = |args: &[&str]| {
        let mut command = net.command(args);
        command.env("MUSTER_API_KEY", &key).env("MUSTER_GATEWAY", format!("http://{listen}")).output().unwrap()
    };
    let told = there(&["--json", "account", "show"]);
    let told: Value = serde_json::from_slice(&told.stdout).unwrap();
    assert_eq!((told["account"].as_str(), told["prepaid"].as_bool()), (Some("studio"), Some(true)), "{told}");
    // The transfer to the first Gateway is none to this one.
    let elsewhere = there(&["account", "claim", &tx]);
    assert!(shown(&elsewhere).contains("moves nothing that counts"), "{}", shown(&elsewhere));
    let deployed = there(&["model", "deploy", "tiny"]);
    // The first token of a deployment is a request like any other: without a balance it is refused before the work.
    assert!(code(&deployed) != 0 && shown(&deployed).contains("muster account top-up"), "{}", shown(&deployed));
    let topped = there(&["--json", "account", "top-up", "3", "--account", "studio"]);
    assert_eq!(code(&topped), 0, "{}", shown(&topped));
    let answered = there(&["--json", "model", "chat", "tiny", "hello", "--max-tokens", "8"]);
    assert_eq!(code(&answered), 0, "{}", shown(&answered));
    let state: Value = serde_json::from_slice(&there(&["--json", "account", "show"]).stdout).unwrap();
    let usage = ask(&listen, "GET", "/v1/usage", &[("Authorization", &format!("Bearer {key}"))], &Value::Null).1;
    let spent: u64 = usage["data"].as_array().unwrap().iter().map(|row| number(row, "/usd_micro")).sum();
    assert!(spent > 0, "{usage}");
    assert_eq!(number(&state, "/spent_usd_micro"), spent, "{state}");
    assert_eq!(number(&state, "/balance_usd_micro"), number(&state, "/credited_usd_micro") - spent);
    // Removed in order, so that its lease is settled before the network goes.
    assert_eq!(code(&there(&["model", "rm", "tiny"])), 0);
    assert!(Command::new("kill").args(["-TERM", &gateway.id().to_string()]).status().unwrap().success());
    gateway.wait().unwrap();
}
