//! Stakes of apps: paid where a Gateway asks for them, asked back, brought back.

use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::time::{SystemTime, UNIX_EPOCH};

use muster_chain::keys::Wallet;
use muster_chain::settle::{ChainClient, MinedTx, NodeKind, NodeOnChain, NodeStatus, Registration, Settlement};
use muster_client::Network;
use muster_core::apps::{AppStake, StakeStep, app_id, cost, next_step};
use muster_core::ids::{Address, NodeId};
use muster_core::units::TokenAmount;
use muster_gateway::{App, publish_message, signature_text};
use serde::Serialize;
use serde_json::{Value, json};

use crate::commands::wallet::paying;
use crate::commands::{Context, chain_failure};
use crate::failure::{Code, Failure};
use crate::output::{table, tokens};
use crate::wallets;

/// Steps until a stake stands: three, and as many that had been done under the same name before.
const STEPS_MAX: u32 = 12;
/// How often a step that failed on the chain is tried anew.
const TRIES_MAX: u32 = 3;

/// A stake that stands.
#[derive(Serialize)]
pub(in crate::commands) struct Staked {
    /// Its key in the registry.
    id: NodeId,
    /// Who staked.
    owner: Address,
    /// What stands.
    pub(super) stake: TokenAmount,
    /// What of it was paid now.
    added: TokenAmount,
    transactions: Vec<String>,
}

/// What shall stand.
struct Goal<'a> {
    app: &'a App,
    id: NodeId,
    owner: Address,
    need: TokenAmount,
    hash: [u8; 32],
}

impl Goal<'_> {
    fn next(&self, found: Option<&AppStake>) -> Result<Option<StakeStep>, Failure> {
        next_step(&self.app.name, found, self.owner, self.need, self.hash)
            .map_err(|lack| Failure::new(Code::InUse, lack))
    }

    async fn found(&self, client: &ChainClient) -> Result<Option<AppStake>, Failure> {
        client.app_stake(&self.app.name).await.map_err(|e| chain_failure(&e))
    }
}

/// Makes a stake stand for exactly this app, and signs for the account with this API key.
pub(super) async fn ensure(cx: &Context, app: &App, key: &str, yes: bool) -> Result<(Staked, String), Failure> {
    let network = cx.network().map_err(|failure| {
        let why = format!(
            "the Gateway asks for a stake, and its network is not known here: {}. Name the network's file with --network",
            failure.why
        );
        Failure::new(failure.code, why)
    })?;
    let client = cx.chain().await?;
    let need = need(app, &network, &client).await?;
    let wallet = cx.wallet()?;
    let goal = Goal { app, id: app_id(&app.name), owner: wallet.address(), need, hash: app.hash() };
    let found = goal.found(&client).await?;
    let added = cost(found.as_ref(), need);
    let transactions = match goal.next(found.as_ref())? {
        None => Vec::new(),
        Some(_) => {
            if added > TokenAmount::ZERO {
                affordable(&client, goal.owner, added).await?;
                confirm(cx, app, goal.owner, added, yes)?;
            }
            let outbox = paying::outbox(cx, &network, goal.owner)?;
            let goal = &goal;
            paying::pay(&outbox, wallet.clone(), &client, |settlement| async move {
                Box::pin(walk(cx, &settlement, goal)).await
            })
            .await?
        }
    };
    let stake = goal.found(&client).await?.map_or(need, |found| found.stake);
    let message = publish_message(app, client.chain_id(), client.contracts().registry, key);
    let signature = signature_text(&wallet.sign_message(message.as_bytes()));
    Ok((Staked { id: goal.id, owner: goal.owner, stake, added, transactions }, signature))
}

/// What must stand: what the network asks for, or more where the app's file promises it.
async fn need(app: &App, network: &Network, client: &ChainClient) -> Result<TokenAmount, Failure> {
    let least = client.min_stake(NodeKind::App).await.map_err(|e| chain_failure(&e))?.max(network.params.app_stake);
    let promised = app.promised();
    if app.stake.is_some() && promised < least {
        let why = format!(
            "stake: {} are less than the {} that an app takes on this network; raise or remove `stake`",
            tokens(promised),
            tokens(least)
        );
        return Err(Failure::new(Code::Config, why));
    }
    Ok(promised.max(least))
}

async fn affordable(client: &ChainClient, owner: Address, added: TokenAmount) -> Result<(), Failure> {
    let have = client.token_balance(owner).await.map_err(|e| chain_failure(&e))?;
    if have >= added {
        return Ok(());
    }
    let why = format!(
        "the wallet {owner} holds {}, and the stake takes {}; nothing was sent. Send tokens to it; on a development \
         network: `muster wallet faucet {owner}`",
        tokens(have),
        tokens(added)
    );
    Err(Failure::new(Code::Balance, why))
}

/// Asks whoever sits here, unless --yes was said. Without a terminal nobody can be asked, and only the wallet that `muster
/// up` made pays unasked: its tokens are a development network's.
fn confirm(cx: &Context, app: &App, owner: Address, added: TokenAmount, yes: bool) -> Result<(), Failure> {
    let what = format!(
        "Publishing {} takes a stake of {} from the wallet {owner}; it comes back after `muster app withdraw {}` and the \
         unbonding time",
        app.name,
        tokens(added),
        app.name
    );
    let asks = std::io::stdin().is_terminal() && !cx.output.is_json();
    if yes || (!asks && wallets::chosen(&cx.dirs, &cx.global).is_ok_and(|path| wallets::is_own(&cx.dirs, &path))) {
        cx.output.note(&format!("{what}."));
        return Ok(());
    }
    if !asks {
        return Err(Failure::new(Code::Config, format!("{what}. Say that you want it with --yes; nothing was sent")));
    }
    match cx.output.ask(&format!("{what}. Pay it?")) {
        Ok(true) => Ok(()),
        Ok(false) => Err(Failure::new(Code::Stopped, "nothing was staked and nothing published")),
        Err(error) => Err(Failure::new(Code::Io, format!("your answer cannot be read: {error}; use --yes"))),
    }
}

/// Goes from what the chain holds to what shall stand, a step at a time, and looks anew after each.
async fn walk(cx: &Context, settlement: &Settlement, goal: &Goal<'_>) -> Result<Vec<String>, Failure> {
    let (mut sent, mut before, mut again) = (Vec::new(), None, 0);
    let mut last = None;
    for _ in 0..STEPS_MAX {
        let found = goal.found(settlement.client()).await?;
        let Some(step) = goal.next(found.as_ref())? else { return Ok(sent) };
        // The same step on the same state: what was done under that name was done before, and is over.
        again = if before == Some((step, found)) { again + 1 } else { 0 };
        before = Some((step, found));
        match take(cx, settlement, goal, step, found.as_ref(), again).await {
            Ok(mined) => sent.extend(mined.map(|mined| mined.tx.to_string())),
            // Another process of this wallet's may have been faster: the chain is asked again.
            Err(failure) if failure.code == Code::Reverted && again < TRIES_MAX => last = Some(failure),
            Err(failure) => return Err(failure),
        }
    }
    let why = format!("the chain does not come to hold the stake of {}; publish it again", goal.app.name);
    Err(last.unwrap_or_else(|| Failure::new(Code::Chain, why)))
}

async fn take(
    cx: &Context,
    settlement: &Settlement,
    goal: &Goal<'_>,
    step: StakeStep,
    found: Option<&AppStake>,
    again: u32,
) -> Result<Option<MinedTx>, Failure> {
    let id = goal.id;
    match step {
        StakeStep::Register(stake) => {
            let (endpoint, fingerprint) = (goal.app.name.clone(), goal.hash);
            let registration = Registration { kind: NodeKind::App, node: id, endpoint, fingerprint, stake };
            paying::decided(cx, || settlement.register(&registration)).await
        }
        StakeStep::Return => paying::decided(cx, || settlement.cancel_unbond(id)).await.map(Some),
        StakeStep::Add(amount) => {
            // Named by what it starts from: whoever was cut off after sending it asks for the same one.
            let there = found.map_or(TokenAmount::ZERO, |found| found.stake);
            let intent = format!("app {id} {:x} {:x} {again}", there.0, amount.0);
            paying::decided(cx, || settlement.add_stake(&intent, id, amount)).await.map(Some)
        }
        StakeStep::Update => {
            paying::decided(cx, || settlement.update_node(id, &goal.app.name, goal.hash)).await.map(Some)
        }
    }
}

/// The stake of an app of the chosen wallet.
pub(super) struct Own {
    network: Network,
    client: ChainClient,
    node: NodeOnChain,
}

/// The chosen wallet's address, without its passphrase where the file tells it; `None` where there is no wallet.
fn address(cx: &Context) -> Result<Option<Address>, Failure> {
    let path = wallets::chosen(&cx.dirs, &cx.global)?;
    if !path.exists() {
        return Ok(None);
    }
    match wallets::address_of(&path)? {
        Some(address) => Ok(Some(address)),
        None => Ok(Some(cx.wallet()?.address())),
    }
}

fn knows_network(cx: &Context) -> bool {
    cx.global.network.is_some() || cx.dirs.network().exists()
}

/// What of a stake the chosen wallet has not got back; `None` too where no network or wallet is known.
pub(super) async fn own(cx: &Context, name: &str) -> Result<Option<Own>, Failure> {
    if !knows_network(cx) {
        return Ok(None);
    }
    let Some(me) = address(cx)? else { return Ok(None) };
    let (network, client) = (cx.network()?, cx.chain().await?);
    let node = client.node(app_id(name)).await.map_err(|e| chain_failure(&e))?;
    let mine = |node: &NodeOnChain| {
        let holds = node.status != NodeStatus::Left || node.unbonding > TokenAmount::ZERO;
        node.kind == NodeKind::App && node.owner == me && holds
    };
    Ok(node.filter(mine).map(|node| Own { network, client, node }))
}

/// A stake on its way back.
#[derive(Serialize)]
pub(super) struct Leaving {
    name: String,
    id: NodeId,
    /// What came back now.
    withdrawn: TokenAmount,
    /// What is not free yet, and when it will be, in Unix seconds.
    unbonding: TokenAmount,
    unbond_at: Option<u64>,
    /// Absent where nothing had to be sent.
    transaction: Option<String>,
}

impl Leaving {
    fn of(node: &NodeOnChain, withdrawn: TokenAmount, transaction: Option<String>) -> Self {
        let unbond_at = (node.unbonding > TokenAmount::ZERO).then_some(node.unbond_at_s);
        let (name, id, unbonding) = (node.endpoint.clone(), node.node, node.unbonding);
        Self { name, id, withdrawn, unbonding, unbond_at, transaction }
    }

    pub(super) fn text(&self) -> String {
        match self.unbond_at.map(|at| at.saturating_sub(now_s())) {
            None => format!("{} of stake were paid back", tokens(self.withdrawn)),
            Some(0) => format!("its stake of {} is free: `muster app claim` brings it", tokens(self.unbonding)),
            Some(s) => {
                format!("its stake of {} is free in {s} s: `muster app claim` brings it then", tokens(self.unbonding))
            }
        }
    }
}

fn now_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// Asks the stake back; one that was asked back already is only told of.
pub(super) async fn leave(cx: &Context, own: Own) -> Result<Leaving, Failure> {
    if own.node.status == NodeStatus::Left {
        return Ok(Leaving::of(&own.node, TokenAmount::ZERO, None));
    }
    let (id, wallet) = (own.node.node, cx.wallet()?);
    let outbox = paying::outbox(cx, &own.network, wallet.address())?;
    let mined = paying::pay(&outbox, wallet, &own.client, |settlement| async move {
        paying::decided(cx, || settlement.leave(id)).await
    })
    .await?;
    let node = own.client.node(id).await.map_err(|e| chain_failure(&e))?.unwrap_or(own.node);
    Ok(Leaving::of(&node, TokenAmount::ZERO, Some(mined.tx.to_string())))
}

/// Brings back what is free of the stakes of this wallet's apps, or of one.
pub(super) async fn claim(cx: &Context, name: Option<&str>) -> Result<(), Failure> {
    let (network, client) = (cx.network()?, cx.chain().await?);
    let Some(me) = address(cx)? else {
        return Err(Failure::new(Code::Wallet, "there is no wallet here; name the one that staked with --wallet"));
    };
    let mut nodes = match name {
        Some(name) => client.node(app_id(name)).await.map(|node| node.into_iter().collect()),
        None => client.nodes(NodeKind::App).await,
    }
    .map_err(|e| chain_failure(&e))?;
    nodes.retain(|node| node.kind == NodeKind::App && node.owner == me && node.unbonding > TokenAmount::ZERO);
    let free = |node: &NodeOnChain| node.unbond_at_s <= now_s();
    let wallet = if nodes.iter().any(free) { Some(cx.wallet()?) } else { None };
    let mut all = Vec::new();
    for node in &nodes {
        all.push(match &wallet {
            Some(wallet) if free(node) => Box::pin(bring(cx, &network, &client, wallet, node)).await?,
            _ => Leaving::of(node, TokenAmount::ZERO, None),
        });
    }
    cx.output.result(&json!({ "apps": all }), || {
        if all.is_empty() {
            return "no stake of an app of this wallet is unbonding; `muster app withdraw` asks one back".to_owned();
        }
        let row = |one: &Leaving| vec![one.name.clone(), one.text()];
        table(&["name", "stake"], all.iter().map(row).collect())
    });
    Ok(())
}

async fn bring(
    cx: &Context,
    network: &Network,
    client: &ChainClient,
    wallet: &Wallet,
    node: &NodeOnChain,
) -> Result<Leaving, Failure> {
    let (id, outbox) = (node.node, paying::outbox(cx, network, wallet.address())?);
    let mined = paying::pay(&outbox, wallet.clone(), client, |settlement| async move {
        paying::decided(cx, || settlement.withdraw(id)).await
    })
    .await?;
    let paid = NodeOnChain { unbonding: TokenAmount::ZERO, unbond_at_s: 0, ..node.clone() };
    Ok(Leaving::of(&paid, node.unbonding, Some(mined.tx.to_string())))
}

/// Adds `staked` to apps as a Gateway lists them: what the chain holds for each, read here and not believed of the Gateway.
pub(super) async fn shown(cx: &Context, apps: &mut [Value]) {
    let found = match staked(cx).await {
        Ok(found) => found,
        Err(failure) => {
            cx.output.note(&format!("Stakes are not known: {failure}"));
            BTreeMap::new()
        }
    };
    for one in apps {
        let stake = look(one, &found);
        if let Some(fields) = one.as_object_mut() {
            fields.insert("staked".to_owned(), stake);
        }
    }
}

async fn staked(cx: &Context) -> Result<BTreeMap<NodeId, NodeOnChain>, Failure> {
    if !knows_network(cx) {
        return Ok(BTreeMap::new());
    }
    let nodes = cx.chain().await?.nodes(NodeKind::App).await.map_err(|e| chain_failure(&e))?;
    Ok(nodes.into_iter().map(|node| (node.node, node)).collect())
}

/// The stake of one app of a Gateway; null where none stands for this publisher's, or for exactly what is published.
fn look(one: &Value, found: &BTreeMap<NodeId, NodeOnChain>) -> Value {
    let name = one.pointer("/app/name").and_then(Value::as_str).unwrap_or_default();
    let Some(node) = found.get(&app_id(name)) else { return Value::Null };
    let app: Option<App> = one.get("app").and_then(|app| serde_json::from_value(app.clone()).ok());
    let current = app.is_some_and(|app| app.hash() == node.fingerprint);
    let publisher = one.pointer("/publisher").and_then(Value::as_str);
    if !publisher.map_or(current, |publisher| publisher == node.owner.to_string()) {
        return Value::Null;
    }
    let status = match node.status {
        NodeStatus::Active => "active",
        NodeStatus::Jailed => "jailed",
        NodeStatus::Left => "left",
    };
    json!({
        "id": node.node, "owner": node.owner, "status": status, "stake": node.stake, "unbonding": node.unbonding,
        "unbond_at": (node.unbonding > TokenAmount::ZERO).then_some(node.unbond_at_s),
        "hash": hex::encode(node.fingerprint), "current": current,
    })
}

/// The same in a word or two.
pub(super) fn word(one: &Value) -> String {
    let field = |name: &str| one.pointer(&format!("/staked/{name}")).and_then(Value::as_str);
    let amount = || tokens(TokenAmount(field("stake").and_then(|text| text.parse().ok()).unwrap_or(0)));
    match field("status") {
        None => "-".to_owned(),
        Some("active") => amount(),
        Some("jailed") => format!("{}, jailed", amount()),
        Some(_) => "asked back".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(name: &str, owner: u8, fingerprint: [u8; 32]) -> NodeOnChain {
        NodeOnChain {
            node: app_id(name),
            kind: NodeKind::App,
            status: NodeStatus::Active,
            owner: Address([owner; 20]),
            stake: TokenAmount(100 * TokenAmount::ONE.0),
            unbonding: TokenAmount::ZERO,
            unbond_at_s: 0,
            rewards: TokenAmount::ZERO,
            registered_at_s: 1,
            fingerprint,
            endpoint: name.to_owned(),
        }
    }

    #[test]
    fn a_stake_is_shown_for_its_publisher_only() {
        let text = "name = \"game\"\nversion = \"1\"\ntitle = \"Game\"\ncommand = [\"game\"]\n\
                    resolutions = [\"640x360\"]\nfps = [30]\n";
        let app = App::parse(text).unwrap();
        let by = |publisher: Option<Address>| json!({ "app": app, "account": "me", "publisher": publisher });
        let on = |owner, hash| BTreeMap::from([(app_id("game"), node("game", owner, hash))]);
        let mine = look(&by(Some(Address([1; 20]))), &on(1, app.hash()));
        assert_eq!((&mine["current"], &mine["status"]), (&json!(true), &json!("active")));
        assert_eq!(word(&json!({ "staked": mine })), "100.0000 MUST");
        // A version ahead is the publisher's all the same; another's stake for the same name is not shown.
        assert_eq!(look(&by(Some(Address([1; 20]))), &on(1, [0; 32]))["current"], json!(false));
        assert_eq!(look(&by(Some(Address([1; 20]))), &on(2, app.hash())), Value::Null);
        // A Gateway that asks for none says no publisher: then only what it publishes tells.
        assert_eq!(look(&by(None), &on(2, [0; 32])), Value::Null);
        assert_eq!(look(&by(None), &on(2, app.hash()))["current"], json!(true));
        assert_eq!(word(&json!({ "staked": null })), "-");
    }

    #[test]
    fn a_stake_on_its_way_back_says_when() {
        let leaving = NodeOnChain { unbonding: TokenAmount::ONE, unbond_at_s: 1, ..node("game", 1, [0; 32]) };
        assert!(Leaving::of(&leaving, TokenAmount::ZERO, None).text().contains("is free: `muster app claim`"));
        let later = NodeOnChain { unbond_at_s: u64::MAX, ..leaving };
        assert!(Leaving::of(&later, TokenAmount::ZERO, None).text().contains("brings it then"));
        let paid = Leaving::of(&node("game", 1, [0; 32]), TokenAmount::ONE, None);
        assert_eq!((paid.text().as_str(), paid.unbond_at), ("1.0000 MUST of stake were paid back", None));
    }
}
