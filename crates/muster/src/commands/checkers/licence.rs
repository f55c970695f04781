//! `muster licence`.

use std::collections::BTreeMap;

use muster_chain::epochs::{EpochClient, EpochSettlement};
use muster_chain::settle::{ChainClient, MinedTx};
use muster_core::ids::{Address, NodeId};
use muster_core::units::TokenAmount;
use serde::Serialize;
use serde_json::json;

use super::rewards::{self, Rewards, Standing, Whose};
use crate::cli::LicenceCommand;
use crate::commands::wallet::paying;
use crate::commands::{Context, chain_failure};
use crate::failure::{Because, Code, Failure};
use crate::output::{table, tokens};
use crate::wallets;

/// Runs one of the commands.
pub(crate) async fn run(cx: &Context, command: LicenceCommand) -> Result<u8, Failure> {
    match command {
        LicenceCommand::Buy { count, max_price } => buy(cx, count, max_price).await,
        LicenceCommand::List { all } => list(cx, all).await,
        LicenceCommand::Delegate { licences, to } => delegate(cx, &licences, to).await,
        LicenceCommand::Undelegate { licences } => undelegate(cx, &licences).await,
        LicenceCommand::Rewards => Box::pin(rewards(cx)).await,
        LicenceCommand::Claim => Box::pin(claim(cx)).await,
    }
    .map(|()| 0)
}

/// A licence as `list` shows it.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Licence {
    /// Its number.
    pub(crate) id: u64,
    /// Whose it is.
    pub(crate) owner: Address,
    /// The Checker that it is delegated to.
    pub(crate) checker: Option<NodeId>,
}

/// All licences, by their numbers.
pub(crate) async fn all(reads: &EpochClient) -> Result<Vec<Licence>, Failure> {
    let found = reads.licences().await.map_err(|e| chain_failure(&e))?;
    Ok(found.into_iter().map(|l| Licence { id: l.id, owner: l.owner, checker: l.delegate }).collect())
}

/// The chain with the contracts of epochs, for those who need no outcome.
async fn reads(cx: &Context) -> Result<(EpochClient, ChainClient), Failure> {
    let contracts = cx.network()?.epoch_contracts().code(Code::Config)?;
    let client = cx.chain().await?;
    let reads = EpochClient::new(client.clone(), contracts.addresses());
    reads.check_deployed().await.map_err(|e| chain_failure(&e))?;
    Ok((reads, client))
}

/// The address of the wallet that was chosen; its passphrase is asked for only where the file does not tell.
fn own_address(cx: &Context) -> Result<Address, Failure> {
    let path = wallets::chosen(&cx.dirs, &cx.global)?;
    match path.exists().then(|| wallets::address_of(&path)).transpose()?.flatten() {
        Some(address) => Ok(address),
        None => Ok(cx.wallet()?.address()),
    }
}

/// Does something with the chosen wallet.
async fn with_wallet<T, F: Future<Output = Result<T, Failure>>>(
    cx: &Context,
    client: &ChainClient,
    act: impl FnOnce(EpochSettlement) -> F,
) -> Result<T, Failure> {
    let network = cx.network()?;
    let contracts = network.epoch_contracts().code(Code::Config)?.addresses();
    let wallet = cx.wallet()?;
    let outbox = paying::outbox(cx, &network, wallet.address())?;
    paying::pay(&outbox, wallet, client, |settlement| act(EpochSettlement::new(settlement, contracts))).await
}

/// A transaction that the chain refused is a failure.
fn accepted(mined: &MinedTx) -> Result<String, Failure> {
    match &mined.result {
        Ok(()) => Ok(mined.tx.to_string()),
        Err(why) => Err(Failure::new(Code::Reverted, why)),
    }
}

async fn buy(cx: &Context, count: u32, max_price: Option<TokenAmount>) -> Result<(), Failure> {
    let (reads, client) = reads(cx).await?;
    let price = reads.licence_price().await.map_err(|e| chain_failure(&e))?;
    let most = max_price.unwrap_or(price);
    if price > most {
        let why = format!("a licence costs {} now, more than {}; nothing was bought", tokens(price), tokens(most));
        return Err(Failure::new(Code::Balance, why));
    }
    let owner = own_address(cx)?;
    let cost = TokenAmount(price.0.saturating_mul(u128::from(count)));
    let have = client.token_balance(owner).await.map_err(|e| chain_failure(&e))?;
    if have < cost {
        let why = format!(
            "{count} licences cost {}, and the wallet {owner} holds {}; nothing was bought. On a development network `muster wallet faucet` gives tokens",
            tokens(cost),
            tokens(have)
        );
        return Err(Failure::new(Code::Balance, why));
    }
    let before: Vec<u64> = owned(&all(&reads).await?, owner);
    let intent = hex::encode(rand::random::<[u8; 16]>());
    let tx = with_wallet(cx, &client, |settlement| async move {
        let mined = paying::decided(cx, || settlement.buy_licences(&intent, count, most)).await?;
        accepted(&mined)
    })
    .await?;
    let mut bought = owned(&all(&reads).await?, owner);
    bought.retain(|id| !before.contains(id));
    let value = json!({ "licences": bought, "price": price, "cost": cost, "transaction": tx });
    cx.output.result(&value, || {
        format!(
            "bought {} for {}: {}\nDelegate with `muster licence delegate {} --to CHECKER`: an undelegated licence earns nothing.",
            many(bought.len()),
            tokens(cost),
            numbers(&bought),
            numbers(&bought)
        )
    });
    Ok(())
}

fn owned(licences: &[Licence], owner: Address) -> Vec<u64> {
    licences.iter().filter(|l| l.owner == owner).map(|l| l.id).collect()
}

fn many(count: usize) -> String {
    if count == 1 { "1 licence".to_owned() } else { format!("{count} licences") }
}

fn numbers(licences: &[u64]) -> String {
    licences.iter().map(u64::to_string).collect::<Vec<_>>().join(" ")
}

async fn list(cx: &Context, everybodys: bool) -> Result<(), Failure> {
    let (reads, _) = reads(cx).await?;
    let mut licences = all(&reads).await?;
    let mut whose = "there are no licences yet".to_owned();
    if !everybodys {
        let owner = own_address(cx)?;
        licences.retain(|l| l.owner == owner);
        whose = format!("{owner} owns no licence; `muster licence buy` buys one, --all lists everybody's");
    }
    cx.output.result(&json!({ "licences": licences }), || {
        if licences.is_empty() {
            return whose;
        }
        let row = |l: &Licence| {
            let checker = l.checker.map_or_else(|| "none: earns nothing".to_owned(), |c| c.to_string());
            vec![l.id.to_string(), l.owner.to_string(), checker]
        };
        table(&["licence", "owner", "delegated to"], licences.iter().map(row).collect())
    });
    Ok(())
}

/// Refuses licences that are not this wallet's before anything is sent.
async fn check_owned(cx: &Context, reads: &EpochClient, wanted: &[u64]) -> Result<BTreeMap<u64, Licence>, Failure> {
    let owner = own_address(cx)?;
    let known: BTreeMap<u64, Licence> = all(reads).await?.into_iter().map(|l| (l.id, l)).collect();
    for id in wanted {
        let why = match known.get(id) {
            Some(licence) if licence.owner == owner => continue,
            Some(licence) => format!("licence {id} belongs to {}, not to {owner}", licence.owner),
            None => format!("there is no licence {id}"),
        };
        return Err(Failure::new(Code::NotFound, format!("{why}; nothing was sent (`muster licence list`)")));
    }
    Ok(known)
}

async fn delegate(cx: &Context, licences: &[u64], to: NodeId) -> Result<(), Failure> {
    let (reads, client) = reads(cx).await?;
    check_owned(cx, &reads, licences).await?;
    let found = client.node(to).await.map_err(|e| chain_failure(&e))?;
    if found.is_none_or(|node| node.kind != muster_chain::settle::NodeKind::Checker) {
        let why = format!(
            "{to} is not registered as a Checker; nothing was sent. A Checker registers at its first `muster checker run`"
        );
        return Err(Failure::new(Code::NotFound, why));
    }
    let tx = with_wallet(cx, &client, |settlement| async move {
        accepted(&paying::decided(cx, || settlement.delegate(licences, to)).await?)
    })
    .await?;
    let value = json!({ "licences": licences, "checker": to, "transaction": tx });
    cx.output.result(&value, || {
        format!(
            "{} {} delegated to {to}; it counts from the next epoch on",
            many(licences.len()),
            if licences.len() == 1 { "is" } else { "are" }
        )
    });
    Ok(())
}

async fn undelegate(cx: &Context, licences: &[u64]) -> Result<(), Failure> {
    let (reads, client) = reads(cx).await?;
    let known = check_owned(cx, &reads, licences).await?;
    if let Some(id) = licences.iter().find(|id| known.get(id).is_none_or(|l| l.checker.is_none())) {
        return Err(Failure::new(Code::NotFound, format!("licence {id} is delegated to nobody; nothing was sent")));
    }
    let tx = with_wallet(cx, &client, |settlement| async move {
        accepted(&paying::decided(cx, || settlement.undelegate(licences)).await?)
    })
    .await?;
    let value = json!({ "licences": licences, "transaction": tx });
    cx.output.result(&value, || format!("{} taken back; it counts from the next epoch on", many(licences.len())));
    Ok(())
}

/// Rewards by licence in the last epoch, and the owner's in all: they are granted by owner.
pub(crate) async fn by_licence(
    archive: &muster_checker::Archive,
    standing: &Standing,
) -> Result<BTreeMap<u64, serde_json::Value>, Failure> {
    let Some(last) = standing.settled() else { return Ok(BTreeMap::new()) };
    let (draw, settled) = archive.settled(last).await.map_err(|e| super::epoch::archive_failure(&e))?;
    let licences = draw.view().licences().iter().zip(&settled.licences);
    let of = |(licence, paid): (&muster_core::epoch::Licence, &muster_core::reward::LicenceSummary)| {
        let value = json!({ "epoch": last, "base": paid.base, "bonus": paid.bonus, "penalties": paid.penalties });
        (u64::from(licence.id), value)
    };
    Ok(licences.map(of).collect())
}

#[derive(Serialize)]
struct Shown {
    owner: Address,
    settled: Option<muster_core::epoch::EpochNo>,
    #[serde(flatten)]
    rewards: Rewards,
    claimable: TokenAmount,
    licences: Vec<ShownLicence>,
}

#[derive(Serialize)]
struct ShownLicence {
    #[serde(flatten)]
    licence: Licence,
    /// What it earned in the last settled epoch; absent where nothing was reported.
    last_epoch: Option<serde_json::Value>,
}

async fn rewards(cx: &Context) -> Result<(), Failure> {
    let (_, epochs, archive) = cx.epochs().await?;
    let owner = own_address(cx)?;
    let standing = Standing::of(&archive).await?;
    let rewards = standing.rewards(&epochs, Whose::Owner(owner)).await?;
    let last = by_licence(&archive, &standing).await?;
    let licences = all(&epochs.reads).await?.into_iter().filter(|l| l.owner == owner);
    let licences: Vec<ShownLicence> =
        licences.map(|licence| ShownLicence { last_epoch: last.get(&licence.id).cloned(), licence }).collect();
    let shown = Shown { owner, settled: standing.settled(), claimable: rewards.claimable(), rewards, licences };
    cx.output.result(&shown, || text(&shown));
    archive.peer.close().await;
    Ok(())
}

fn text(shown: &Shown) -> String {
    let Some(settled) = shown.settled else {
        return "no epoch is settled yet; outcomes come a little after their epoch's end".to_owned();
    };
    let amount = |value: &Option<serde_json::Value>, what: &str| {
        let text = value.as_ref().and_then(|v| v.get(what)).and_then(serde_json::Value::as_str);
        tokens(TokenAmount(text.and_then(|t| t.parse().ok()).unwrap_or(0)))
    };
    let row = |l: &ShownLicence| {
        let checker = l.licence.checker.map_or_else(|| "none".to_owned(), |c| c.short());
        let of = |what: &str| amount(&l.last_epoch, what);
        vec![l.licence.id.to_string(), checker, of("base"), of("bonus"), of("penalties")]
    };
    let rows = shown.licences.iter().map(row).collect();
    format!(
        "{}\n\nThe last three columns are of epoch {settled}. Of {} in all:\n  granted    {} (final)\n  pending    {} (the dispute window runs)\n  claimed    {}\n  vesting    {}, of which {} can be released now\n  claimable  {} (`muster licence claim`)",
        table(&["licence", "checker", "base", "bonus", "penalties"], rows),
        shown.owner,
        tokens(shown.rewards.granted),
        tokens(shown.rewards.pending),
        tokens(shown.rewards.claimed),
        tokens(shown.rewards.vesting),
        tokens(shown.rewards.releasable),
        tokens(shown.claimable)
    )
}

async fn claim(cx: &Context) -> Result<(), Failure> {
    let (_, epochs, archive) = cx.epochs().await?;
    let owner = own_address(cx)?;
    let standing = Standing::of(&archive).await?;
    let due = standing.rewards(&epochs, Whose::Owner(owner)).await?;
    let nothing = due.claimable() == TokenAmount::ZERO && due.releasable == TokenAmount::ZERO;
    let brought = if nothing {
        rewards::Brought::default()
    } else {
        let client = epochs.reads.client().clone();
        let standing = &standing;
        with_wallet(cx, &client, |settlement| async move {
            rewards::claim(cx, &settlement, standing, (Whose::Owner(owner), due)).await
        })
        .await?
    };
    cx.output.result(&json!({ "owner": owner, "brought": brought }), || {
        if nothing {
            return format!("nothing is due to {owner} yet; {} are pending", tokens(due.pending));
        }
        format!(
            "claimed {} for {owner}: a part is paid, the rest vests; {} that had vested is paid too",
            tokens(brought.claimed),
            tokens(brought.released)
        )
    });
    archive.peer.close().await;
    Ok(())
}
