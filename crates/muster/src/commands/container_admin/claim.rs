//! `muster container claim`: what was earned and is due goes to the owner.

use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use muster_chain::epochs::{EpochContracts, EpochSettlement};
use muster_chain::settle::{ChainClient, Claimable, NodeOnChain, Settlement};
use muster_client::Network;
use muster_core::ids::{Address, NodeId};
use muster_core::units::TokenAmount;
use muster_net::NodeSecret;
use serde::Serialize;

use crate::calibration;
use crate::cli::Global;
use crate::commands::checkers::Epochs;
use crate::commands::checkers::rewards::{self, Brought, Rewards, Standing, Whose};
use crate::commands::wallet::paying;
use crate::commands::{Context, chain_failure};
use crate::failure::{Code, Failure};
use crate::output::tokens;
use crate::wallets;

/// What came of one Container.
#[derive(Serialize)]
struct Claimed {
    dir: PathBuf,
    id: NodeId,
    owner: Address,
    /// Service fees that were paid out now.
    claimed: TokenAmount,
    /// Rewards that were paid out now.
    rewards: TokenAmount,
    /// Stake that came back now.
    withdrawn: TokenAmount,
    /// Service fees that can be claimed later.
    pending: TokenAmount,
    /// Stake that is not free yet, and when it will be, in Unix seconds.
    unbonding: TokenAmount,
    unbond_at: Option<u64>,
    /// Rewards of epochs as they stood before, and what of them was brought.
    epochs: Option<Rewards>,
    brought: Brought,
    /// Why rewards of epochs could not be looked at, if they could not.
    problem: Option<String>,
    transactions: Vec<String>,
}

/// Rewards of epochs that a Container can claim.
struct Earned {
    standing: Standing,
    rewards: Rewards,
    contracts: EpochContracts,
}

/// What Checkers found a Container worth; `None` on a network without them, or before its first outcome.
async fn earned(cx: &Context, network: &Network, client: &ChainClient, id: NodeId) -> Result<Option<Earned>, Failure> {
    if network.epochs.is_none() {
        return Ok(None);
    }
    let Some(epochs) = Epochs::begun(network, client.clone()).await? else { return Ok(None) };
    let archive = epochs.archive(network, calibration::table(&cx.dirs)?).await?;
    let found = async {
        let standing = Standing::of(&archive).await?;
        let rewards = standing.rewards(&epochs, Whose::Container(id)).await?;
        Ok(Some(Earned { standing, rewards, contracts: epochs.reads.contracts() }))
    };
    let found = found.await;
    archive.peer.close().await;
    found
}

/// What the chain has for a Container and its owner.
struct Due {
    fees: Claimable,
    node: Option<NodeOnChain>,
    now_s: u64,
}

impl Due {
    async fn of(client: &ChainClient, owner: Address, id: NodeId) -> Result<Self, Failure> {
        let fees = client.claimable(owner).await.map_err(|e| chain_failure(&e))?;
        let node = client.node(id).await.map_err(|e| chain_failure(&e))?.filter(|n| n.owner == owner);
        let now_s = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        Ok(Self { fees, node, now_s })
    }

    fn rewards(&self) -> TokenAmount {
        self.node.as_ref().map_or(TokenAmount::ZERO, |n| n.rewards)
    }

    /// Stake whose unbonding is over.
    fn stake(&self) -> TokenAmount {
        let free = self.node.as_ref().filter(|n| n.unbond_at_s > 0 && n.unbond_at_s <= self.now_s);
        free.map_or(TokenAmount::ZERO, |n| n.unbonding)
    }

    fn is_nothing(&self, earned: Option<&Earned>) -> bool {
        let epochs = earned.map_or([TokenAmount::ZERO; 2], |e| [e.rewards.claimable(), e.rewards.releasable]);
        [self.fees.now, self.rewards(), self.stake()].iter().chain(&epochs).all(|a| *a == TokenAmount::ZERO)
    }
}

/// Claims for every Container of the folder.
pub(super) async fn claim(cx: &Context) -> Result<(), Failure> {
    let mut all = Vec::new();
    for dir in super::containers(cx)? {
        all.push(claim_one(cx, &dir).await?);
    }
    cx.output.result(&serde_json::json!({ "containers": all }), || all.iter().map(text).collect::<Vec<_>>().join("\n"));
    Ok(())
}

/// The network of a node: --network, its own copy, or the file of the `muster up` that it belongs to.
pub(in crate::commands) fn network(cx: &Context, dir: &Path) -> Result<Network, Failure> {
    if cx.global.network.is_some() {
        return cx.network();
    }
    let file = [Some(dir), dir.parent()].into_iter().flatten().map(|d| d.join("network.toml")).find(|f| f.exists());
    let global = Global { network: file, ..cx.global.clone() };
    Context { global, ..cx.clone() }.network()
}

/// Flags with the passphrase of the folder's own wallets, where `muster up` made them and none was given.
pub(in crate::commands) fn with_own_passphrase(cx: &Context, dir: &Path) -> Global {
    let own = dir.parent().map(|parent| parent.join("wallets").join("passphrase")).filter(|path| path.exists());
    let given = cx.global.passphrase_file.is_some() || std::env::var_os("MUSTER_PASSPHRASE").is_some();
    match own {
        Some(own) if !given => Global { passphrase_file: Some(own), ..cx.global.clone() },
        _ => cx.global.clone(),
    }
}

async fn claim_one(cx: &Context, dir: &Path) -> Result<Claimed, Failure> {
    let network = network(cx, dir)?;
    let id = NodeSecret::load(&dir.join("node.key")).map_err(|e| Failure::new(Code::Wallet, super::sentence(&e)))?.id();
    let path = match &cx.global.wallet {
        Some(name) => wallets::keystore_path(&cx.dirs, name)?,
        None => dir.join("wallet.json"),
    };
    let client = ChainClient::connect(&network.chain.rpc, network.chain.id, network.contracts.into())
        .await
        .map_err(|e| chain_failure(&e))?;
    // The passphrase is asked for only when there is something to sign.
    let told = if path.exists() { wallets::address_of(&path)? } else { None };
    let opened = match told {
        Some(_) => None,
        None => Some(wallets::open(&cx.dirs, &with_own_passphrase(cx, dir), &path)?),
    };
    let owner = told.or_else(|| opened.as_ref().map(muster_chain::keys::Wallet::address)).unwrap_or(Address::ZERO);
    let due = Due::of(&client, owner, id).await?;
    // The Checkers may be away: fees of leases are due all the same.
    let (earned, problem) = match Box::pin(earned(cx, &network, &client, id)).await {
        Ok(earned) => (earned, None),
        Err(failure) => (None, Some(failure.why)),
    };
    let (transactions, brought) = if due.is_nothing(earned.as_ref()) {
        (Vec::new(), Brought::default())
    } else {
        let wallet = match opened {
            Some(wallet) => wallet,
            None => wallets::open(&cx.dirs, &with_own_passphrase(cx, dir), &path)?,
        };
        // Not the Container's own outbox, which it holds while it runs: a claim that meets one of its transactions is
        // displaced without effect, and said so.
        let outbox = dir.join("outbox-claims");
        paying::pay(&outbox, wallet, &client, |settlement| send(cx, settlement, (&due, earned.as_ref()), owner, id))
            .await?
    };
    let left = due.node.as_ref().filter(|n| n.unbonding > TokenAmount::ZERO && due.stake() == TokenAmount::ZERO);
    Ok(Claimed {
        dir: dir.to_owned(),
        id,
        owner,
        claimed: due.fees.now,
        rewards: due.rewards(),
        withdrawn: due.stake(),
        pending: due.fees.pending,
        unbonding: left.map_or(TokenAmount::ZERO, |n| n.unbonding),
        unbond_at: left.map(|n| n.unbond_at_s),
        epochs: earned.map(|earned| earned.rewards),
        brought,
        problem,
        transactions,
    })
}

async fn send(
    cx: &Context,
    settlement: Settlement,
    (due, earned): (&Due, Option<&Earned>),
    owner: Address,
    id: NodeId,
) -> Result<(Vec<String>, Brought), Failure> {
    let mut sent = Vec::new();
    if due.fees.now > TokenAmount::ZERO {
        sent.push(paying::decided(cx, || settlement.claim_service_fee(owner)).await?.tx.to_string());
    }
    if due.rewards() > TokenAmount::ZERO {
        sent.push(paying::decided(cx, || settlement.claim_reward(id)).await?.tx.to_string());
    }
    if due.stake() > TokenAmount::ZERO {
        sent.push(paying::decided(cx, || settlement.withdraw(id)).await?.tx.to_string());
    }
    let Some(earned) = earned else { return Ok((sent, Brought::default())) };
    let settlement = EpochSettlement::new(settlement, earned.contracts);
    let whose = (Whose::Container(id), earned.rewards);
    let brought = rewards::claim(cx, &settlement, &earned.standing, whose).await?;
    sent.extend(brought.transactions.iter().cloned());
    Ok((sent, brought))
}

fn text(c: &Claimed) -> String {
    let mut parts = Vec::new();
    for (what, amount) in [
        ("fees", c.claimed),
        ("rewards", c.rewards),
        ("stake", c.withdrawn),
        ("rewards that had vested", c.brought.released),
    ] {
        if amount > TokenAmount::ZERO {
            parts.push(format!("{} of {what}", tokens(amount)));
        }
    }
    let name = c.dir.file_name().unwrap_or_default().to_string_lossy();
    let mut text = match parts.is_empty() {
        true => format!("{name}: nothing is due yet"),
        false => format!("{name}: {} went to {}", parts.join(", "), c.owner),
    };
    if c.brought.claimed > TokenAmount::ZERO {
        text.push_str(&format!(
            "; {} of epochs' rewards were claimed: a part is paid, the rest vests",
            tokens(c.brought.claimed)
        ));
    }
    if let Some(epochs) = c.epochs.filter(|epochs| epochs.pending > TokenAmount::ZERO) {
        text.push_str(&format!("; {} of rewards wait for their dispute window", tokens(epochs.pending)));
    }
    if let Some(problem) = &c.problem {
        text.push_str(&format!("; rewards of epochs could not be looked at: {problem}"));
    }
    if c.pending > TokenAmount::ZERO {
        text.push_str(&format!("; {} can be claimed later", tokens(c.pending)));
    }
    if c.unbonding > TokenAmount::ZERO {
        text.push_str(&format!("; {} of stake is still unbonding", tokens(c.unbonding)));
    }
    text
}
