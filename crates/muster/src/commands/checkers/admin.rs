//! `muster checker status`, `top-up` and `leave`.

use std::path::{Path, PathBuf};
use std::time::Duration;

use muster_chain::settle::{ChainClient, NodeOnChain, NodeStatus};
use muster_core::units::TokenAmount;
use muster_net::NodeSecret;
use serde_json::{Value, json};

use super::config;
use crate::commands::container_admin::claim;
use crate::commands::roles::HEALTH_NOTE;
use crate::commands::wallet::paying;
use crate::commands::{Context, chain_failure};
use crate::failure::{Because, Code, Failure};
use crate::output::{table, tokens};
use crate::wallets;

/// How long a Checker may take to answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);
/// Checkers that are looked for below a folder of `muster up`.
const CHECKERS_MAX: u16 = 64;
/// Tasks that people are shown.
const TASKS_SHOWN: usize = 12;

/// Folders of the Checkers of this folder: itself, the one of `checker init`, or all of `muster up`.
fn checkers(cx: &Context) -> Result<Vec<PathBuf>, Failure> {
    let root = cx.dirs.root();
    let one = config::dir(root);
    if one.join(config::FILE).exists() {
        return Ok(vec![one]);
    }
    let dirs = (0..CHECKERS_MAX).map(|index| cx.dirs.at(format!("checker-{index}")));
    let found: Vec<PathBuf> = dirs.filter(|dir| dir.join(config::FILE).exists()).collect();
    if found.is_empty() {
        let why = format!(
            "there is no Checker in {}: `muster checker init` makes one, `muster up` a whole network, and --dir names another folder",
            root.display()
        );
        return Err(Failure::new(Code::NotFound, why));
    }
    Ok(found)
}

/// The only Checker of the folder.
fn only(cx: &Context) -> Result<PathBuf, Failure> {
    let mut found = checkers(cx)?;
    match (found.pop(), found.is_empty()) {
        (Some(one), true) => Ok(one),
        _ => {
            let why = format!(
                "{} holds several Checkers; name the folder of one, for example --dir {}",
                cx.dirs.root().display(),
                cx.dirs.at("checker-0").display()
            );
            Err(Failure::new(Code::Config, why))
        }
    }
}

async fn ask(dir: &Path, client: &reqwest::Client) -> Result<(String, Value), String> {
    let note = dir.join(HEALTH_NOTE);
    let away = || format!("the Checker of {} does not run (`muster checker run`)", dir.display());
    let addr = tokio::fs::read_to_string(&note).await.map_err(|_| away())?;
    let page = format!("http://{}/", addr.trim());
    let answer = client.get(format!("{page}api/v1/status")).send().await.map_err(|_| away())?;
    let good = answer.status().is_success();
    let value: Value =
        answer.json().await.map_err(|e| format!("the Checker of {} answers nonsense: {e}", dir.display()))?;
    if good {
        return Ok((page, value));
    }
    let why = value["error"]["message"].as_str().unwrap_or("it gives no reason");
    Err(format!("the Checker of {}: {why}", dir.display()))
}

pub(super) async fn status(cx: &Context) -> Result<u8, Failure> {
    let client = reqwest::Client::builder().no_proxy().timeout(ANSWER_WITHIN).build().code(Code::Internal)?;
    let (mut values, mut texts, mut answered) = (Vec::new(), Vec::new(), false);
    for dir in checkers(cx)? {
        match ask(&dir, &client).await {
            Ok((page, mut value)) => {
                answered = true;
                texts.push(text(&page, &value));
                if let Some(fields) = value.as_object_mut() {
                    fields.insert("page".to_owned(), json!(page));
                    fields.insert("dir".to_owned(), json!(dir));
                }
                values.push(value);
            }
            Err(why) => {
                texts.push(why.clone());
                values.push(json!({ "dir": dir, "problem": why }));
            }
        }
    }
    cx.output.result(&json!({ "checkers": values }), || texts.join("\n\n"));
    Ok(if answered { 0 } else { Code::Unreachable as u8 })
}

fn text(page: &str, value: &Value) -> String {
    let checker = &value["checker"];
    let word = |field: &str| match &checker[field] {
        Value::String(text) => text.clone(),
        Value::Null => "-".to_owned(),
        other => other.to_string(),
    };
    let amount = |text: &str| tokens(TokenAmount(text.parse().unwrap_or(0)));
    let counted = &checker["counted"];
    let mut out = format!(
        "{} {}\n  page      {page}\n  epoch     {} ({}); settled up to {}, {} open\n  serves    {} licences, whose owners earned {} in all{}\n  tasks     {} done, {} without result, {} lies found, {} run again for others",
        value["name"].as_str().unwrap_or("checker"),
        word("id"),
        word("epoch"),
        word("phase"),
        word("settled"),
        word("open"),
        word("licences"),
        amount(&word("earned")),
        if checker["drawable"] == json!(true) {
            ""
        } else {
            "; NOT drawn: it needs a licence, its stake and a full epoch"
        },
        counted["tasks"],
        counted["unknown"],
        counted["refuted"],
        counted["reexecuted"],
    );
    for problem in checker["problems"].as_array().into_iter().flatten() {
        out.push_str(&format!("\n  problem   {}", problem.as_str().unwrap_or_default()));
    }
    let tasks = checker["tasks"].as_array().cloned().unwrap_or_default();
    let rows: Vec<Vec<String>> = tasks
        .iter()
        .rev()
        .take(TASKS_SHOWN)
        .map(|task| {
            vec![
                task["epoch"].to_string(),
                task["kind"].as_str().unwrap_or_default().to_owned(),
                task["subject"].as_str().unwrap_or_default().chars().take(8).collect(),
                finding(&task["finding"]),
                task["why"].as_str().unwrap_or_default().to_owned(),
            ]
        })
        .collect();
    if !rows.is_empty() {
        out.push_str("\n\n");
        out.push_str(&table(&["epoch", "task", "of", "result", "why"], rows));
    }
    out
}

/// A finding in a word or two.
fn finding(value: &Value) -> String {
    match value {
        Value::Null => "under way".to_owned(),
        Value::String(word) => word.clone(),
        Value::Object(fields) => {
            let Some((kind, of)) = fields.iter().next() else { return String::new() };
            match kind.as_str() {
                "liveness" => format!("answered {} of {}", of["answered"], of["asked"]),
                "proved" => {
                    let ob = of["ob"].as_f64().unwrap_or(0.0) / 100.0;
                    format!("proved {ob:.2} OB in {} ms", of["took_ms"])
                }
                "rechecked" => format!("rechecked: {}", if of["good"] == json!(true) { "right" } else { "wrong" }),
                other => other.to_owned(),
            }
        }
        other => other.to_string(),
    }
}

/// What owns a Checker, and how the chain has it.
struct Owned {
    dir: PathBuf,
    client: ChainClient,
    node: NodeOnChain,
    due: TokenAmount,
}

async fn owned(cx: &Context) -> Result<Owned, Failure> {
    let dir = only(cx)?;
    let network = claim::network(cx, &dir)?;
    let secret = NodeSecret::load(&dir.join("node.key")).code(Code::Wallet)?;
    let client = ChainClient::connect(&network.chain.rpc, network.chain.id, network.contracts.into())
        .await
        .map_err(|e| chain_failure(&e))?;
    let node = client.node(secret.id()).await.map_err(|e| chain_failure(&e))?;
    let Some(node) = node else {
        return Err(Failure::new(Code::NotFound, "this Checker is not registered yet: `muster checker run` does that"));
    };
    Ok(Owned { dir, client, node, due: network.params.epoch.checker_stake })
}

/// The wallet of a node's folder; that of a folder of `muster up` opens with its own passphrase.
pub(crate) fn wallet_of(cx: &Context, dir: &Path) -> Result<muster_chain::keys::Wallet, Failure> {
    let path = match &cx.global.wallet {
        Some(name) => wallets::keystore_path(&cx.dirs, name)?,
        None => dir.join("wallet.json"),
    };
    wallets::open(&cx.dirs, &claim::with_own_passphrase(cx, dir), &path)
}

/// Adds to a node's stake; gives how much, and the transaction.
pub(crate) async fn add_stake(
    cx: &Context,
    dir: &Path,
    client: &ChainClient,
    (node, due): (&NodeOnChain, TokenAmount),
    amount: Option<TokenAmount>,
) -> Result<(TokenAmount, String), Failure> {
    let amount = amount.unwrap_or_else(|| due.saturating_sub(node.stake));
    if amount == TokenAmount::ZERO {
        let why =
            format!("its stake of {} is whole; nothing was sent. Name an amount to add to it", tokens(node.stake));
        return Err(Failure::new(Code::NotFound, why));
    }
    let wallet = wallet_of(cx, dir)?;
    let have = client.token_balance(wallet.address()).await.map_err(|e| chain_failure(&e))?;
    if have < amount {
        let why = format!(
            "the wallet {} holds {}, and {} are to be added; nothing was sent",
            wallet.address(),
            tokens(have),
            tokens(amount)
        );
        return Err(Failure::new(Code::Balance, why));
    }
    let intent = hex::encode(rand::random::<[u8; 16]>());
    let id = node.node;
    let mined = paying::pay(&dir.join("outbox-claims"), wallet, client, |settlement| async move {
        paying::decided(cx, || settlement.add_stake(&intent, id, amount)).await
    })
    .await?;
    mined.result.map_err(|why| Failure::new(Code::Reverted, why))?;
    Ok((amount, mined.tx.to_string()))
}

pub(super) async fn top_up(cx: &Context, amount: Option<TokenAmount>) -> Result<u8, Failure> {
    let own = owned(cx).await?;
    let (added, tx) = add_stake(cx, &own.dir, &own.client, (&own.node, own.due), amount).await?;
    let stake = own.node.stake.saturating_add(added);
    cx.output.result(&json!({ "id": own.node.node, "added": added, "stake": stake, "transaction": tx }), || {
        format!("{} of stake were added; it is {} now", tokens(added), tokens(stake))
    });
    Ok(0)
}

pub(super) async fn leave(cx: &Context) -> Result<u8, Failure> {
    let own = owned(cx).await?;
    let wallet = wallet_of(cx, &own.dir)?;
    let (id, left) = (own.node.node, own.node.status == NodeStatus::Left);
    let now_s = super::epoch::now().0 / 1_000;
    if left && (own.node.unbonding == TokenAmount::ZERO || own.node.unbond_at_s > now_s) {
        let (unbonding, at) = (own.node.unbonding, own.node.unbond_at_s);
        cx.output.result(
            &json!({ "id": id, "left": true, "unbonding": unbonding, "unbond_at": at }),
            || match unbonding {
                TokenAmount::ZERO => "it has left, and its stake was paid back".to_owned(),
                _ => format!("it has left; {} of stake are free in {} s", tokens(unbonding), at.saturating_sub(now_s)),
            },
        );
        return Ok(0);
    }
    let mined = paying::pay(&own.dir.join("outbox-claims"), wallet, &own.client, |settlement| async move {
        match left {
            true => paying::decided(cx, || settlement.withdraw(id)).await,
            false => paying::decided(cx, || settlement.leave(id)).await,
        }
    })
    .await?;
    mined.result.map_err(|why| Failure::new(Code::Reverted, why))?;
    let value = json!({ "id": id, "left": true, "withdrawn": left, "transaction": mined.tx.to_string() });
    cx.output.result(&value, || match left {
        true => format!("{} of stake were paid back", tokens(own.node.unbonding)),
        false => "it leaves the network: it is drawn no more, and its stake is free after the unbonding time; run the same command then".to_owned(),
    });
    Ok(0)
}
