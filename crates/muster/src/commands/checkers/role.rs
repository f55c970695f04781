//! `muster checker run`.

use std::num::NonZeroU32;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use muster_chain::epochs::EpochSettlement;
use muster_chain::keys::Wallet;
use muster_chain::settle::{ChainClient, NodeKind, NodeStatus, Registration, SenderConfig, Settlement, TxSender};
use muster_checker::{AnswersConfig, ChainLedger, CheckerConfig, CheckerError, CheckerNode, PlayConfig};
use muster_client::chain::ChainLedger as RenterLedger;
use muster_client::{ClientDir, Network, Renter};
use muster_core::ids::NodeId;
use muster_core::inference::TokenAsk;
use muster_core::pricing::UsdPerHour;
use muster_core::units::UsdMicro;
use muster_net::{NodeSecret, PeerAddr, RelayConfig};
use muster_wire::endpoint::Endpoint;
use tokio_util::sync::CancellationToken;

use super::config::{self, CheckerFile};
use super::page::{Facts, Pages};
use super::{Epochs, beacon, first_committee};
use crate::calibration;
use crate::cli::RoleArgs;
use crate::commands::gateway::settle_left_over;
use crate::commands::roles::{self, Begun};
use crate::commands::wallet::paying;
use crate::commands::{Context, chain_failure};
use crate::dirs::make_private;
use crate::failure::{Because, Code, Failure};
use crate::output::tokens;
use crate::wallets;

/// How often it is looked whether the network's first committee was named, or a problem of the chain is over.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// How often problems and figures are taken over to the health page.
const HEALTH_EVERY: Duration = Duration::from_secs(1);

pub(super) async fn run(cx: &Context, args: RoleArgs) -> Result<u8, Failure> {
    let dir = config::dir(cx.dirs.root());
    let file = CheckerFile::load(&dir.join(config::FILE))?;
    let pages = Pages::default();
    let begun = roles::begin_with("checker", &dir, &args, pages.router()).await?;
    let network = roles::network_of(cx, &dir)?;
    network.epoch_contracts().code(Code::Config)?;
    let secret = NodeSecret::load_or_create(&dir.join("node.key")).code(Code::Wallet)?;
    let wallet_path = match &cx.global.wallet {
        Some(name) => wallets::keystore_path(&cx.dirs, name)?,
        None => dir.join("wallet.json"),
    };
    let wallet = wallets::open(&cx.dirs, &cx.global, &wallet_path)?;
    let table = calibration::table(&cx.dirs)?;
    let Some(chain) = roles::await_chain(&network, &begun).await? else { return Ok(0) };
    let Some(epochs) = await_epochs(&network, &chain, &begun).await? else { return Ok(0) };
    let sending = Sending::begin(&dir, wallet.clone(), chain).await?;
    let player = player(cx, &network, &dir, &file, &begun).await?;
    let renter = player.as_ref().map(|player| player.renter.clone());
    let answers = answers(&dir, &file, player.as_ref())?;
    let own = Own { dir: &dir, secret, player, answers };
    let node = Box::pin(node(&network, &file, own, &epochs, (&sending, wallet), table.clone())).await?;
    registered(&network, &file, &node.addr(), &sending.settlement).await?;
    let archive = epochs.archive(&network, table).await?;
    pages.open(Facts { name: file.name.clone(), status: node.status(), epochs, archive });
    tell_health(&begun, &node);
    let running = node.run(begun.stop.clone());
    let outcome = sending.while_it_sends(running).await;
    begun.stop.cancel();
    if let Some(renter) = renter {
        renter.close().await;
    }
    outcome?.map_err(|error| checker_failure(&error))?;
    Ok(0)
}

/// What is this Checker's own.
struct Own<'a> {
    dir: &'a Path,
    secret: NodeSecret,
    player: Option<PlayConfig>,
    answers: Option<AnswersConfig>,
}

/// How it plays, where it has a wallet for that. Sessions of an earlier life are stopped and settled.
async fn player(
    cx: &Context,
    network: &Network,
    dir: &Path,
    file: &CheckerFile,
    begun: &Begun,
) -> Result<Option<PlayConfig>, Failure> {
    let dir = dir.join(config::PLAYER);
    let wallet_path = dir.join("wallet.json");
    let Some(every) = NonZeroU32::new(file.play_every).filter(|_| wallet_path.exists()) else { return Ok(None) };
    let wallet = wallets::open(&cx.dirs, &cx.global, &wallet_path)?;
    let client_dir = dir.join("client");
    make_private(&client_dir)?;
    let records = ClientDir::open(&client_dir).code(Code::Data)?;
    let ledger = RenterLedger::connect(network, Some(wallet), records.root()).await.map_err(|e| chain_failure(&e))?;
    let renter = Renter::new(network.clone(), Arc::new(ledger), records.clone()).await.code(Code::Unreachable)?;
    // It runs until this Checker is told to stop.
    drop(settle_left_over(records, begun.stop.clone())?);
    Ok(Some(PlayConfig { renter, every, price_max: UsdPerHour(file.play_usd_micro_per_hour) }))
}

/// How it audits answers, where its operator names models and it has a wallet to rent from.
fn answers(dir: &Path, file: &CheckerFile, player: Option<&PlayConfig>) -> Result<Option<AnswersConfig>, Failure> {
    let Some((player, every)) = player.zip(NonZeroU32::new(file.answers_every)) else { return Ok(None) };
    if file.answers.is_empty() {
        return Ok(None);
    }
    let models = file
        .answers
        .iter()
        .map(|one| one.open(&dir.join("answers")))
        .collect::<Result<Vec<_>, _>>()
        .code(Code::Config)?;
    let each = UsdMicro(file.answers_usd_micro_per_million);
    let price_max = TokenAsk { input: each, cached: each, output: each };
    let limits = muster_wire::audits::built_in().code(Code::Internal)?;
    let through = file.answers_through.iter().map(|gateway| gateway.open(dir)).collect::<Result<_, _>>()?;
    Ok(Some(AnswersConfig { renter: player.renter.clone(), every, price_max, models, limits, through }))
}

async fn node(
    network: &Network,
    file: &CheckerFile,
    own: Own<'_>,
    epochs: &Epochs,
    (sending, wallet): (&Sending, Wallet),
    table: muster_core::calibration::Table,
) -> Result<CheckerNode, Failure> {
    let contracts = network.epoch_contracts().code(Code::Config)?;
    let settlement = EpochSettlement::new(sending.settlement.clone(), contracts.addresses());
    let params = network.params.clone();
    let ledger = ChainLedger::new(settlement, wallet, params.epoch.clone(), epochs.genesis, epochs.from_block);
    let urls = roles::relays(network)?;
    CheckerNode::new(CheckerConfig {
        dir: own.dir.to_owned(),
        secret: own.secret,
        player: own.player,
        answers: own.answers,
        listen: file.listen,
        relay: (!urls.is_empty()).then_some(RelayConfig { urls }),
        params,
        table,
        ledger: Arc::new(ledger),
        beacon: Arc::new(beacon(network)?),
        first_committee: first_committee(network),
        evidence: file.limits(),
    })
    .await
    .map_err(|error| checker_failure(&error))
}

fn checker_failure(error: &CheckerError) -> Failure {
    let code = match error {
        CheckerError::Dir { .. } | CheckerError::Evidence(_) => Code::Io,
        CheckerError::Store(_) | CheckerError::Accounts(_) => Code::Data,
        CheckerError::Net(_) => Code::InUse,
        CheckerError::Task(_) => Code::Internal,
    };
    Failure::new(code, crate::commands::container_admin::sentence(error))
}

/// The network's epochs, as soon as its first committee was named.
async fn await_epochs(network: &Network, chain: &ChainClient, begun: &Begun) -> Result<Option<Epochs>, Failure> {
    loop {
        let why = match Epochs::begun(network, chain.clone()).await {
            Ok(Some(epochs)) => return Ok(Some(epochs)),
            Ok(None) => "waiting for the network's first committee of Checkers to be named".to_owned(),
            Err(failure) if failure.code == Code::Chain => failure.why,
            Err(failure) => return Err(failure),
        };
        begun.health.set(|h| h.problem = Some(why));
        tokio::select! {
            () = tokio::time::sleep(LOOK_EVERY) => {}
            () = begun.stop.cancelled() => return Ok(None),
        }
    }
}

/// The Checker's own transactions, on their way until it ends.
struct Sending {
    settlement: Settlement,
    stop: CancellationToken,
    task: tokio::task::JoinHandle<Result<(), muster_chain::settle::SendError>>,
}

impl Sending {
    async fn begin(dir: &Path, wallet: Wallet, chain: ChainClient) -> Result<Self, Failure> {
        let sender = TxSender::open(&dir.join("outbox"), wallet, chain, SenderConfig::default())
            .await
            .map_err(|error| paying::settlement_failure(&error.into()))?;
        let stop = CancellationToken::new();
        let (running, told) = (sender.clone(), stop.clone());
        let task = tokio::spawn(async move { running.run(told.cancelled_owned()).await });
        Ok(Self { settlement: Settlement::new(sender), stop, task })
    }

    /// What some work came to. A Checker that cannot send any more ends, and is started again.
    async fn while_it_sends<T>(mut self, work: impl Future<Output = T>) -> Result<T, Failure> {
        let done = tokio::select! {
            done = work => done,
            ended = &mut self.task => {
                let why = match ended {
                    Ok(Ok(())) => "it was stopped".to_owned(),
                    Ok(Err(error)) => error.to_string(),
                    Err(error) => error.to_string(),
                };
                return Err(Failure::new(Code::Data, format!("transactions cannot be sent any more: {why}")));
            }
        };
        self.stop.cancel();
        drop(self.settlement);
        // What it was sending is in the outbox, and is sent on at the next start.
        if let Ok(Err(error)) = self.task.await {
            tracing::warn!(%error, "the sender of transactions stopped");
        }
        Ok(done)
    }
}

/// What is told to others of where it is.
pub(crate) fn endpoint(file: &CheckerFile, addr: &PeerAddr) -> String {
    let direct = match file.announce.is_empty() {
        true => addr.direct.iter().copied().collect(),
        false => file.announce.clone(),
    };
    Endpoint { direct, relay: addr.relay.as_ref().map(ToString::to_string), cards: Vec::new() }.text()
}

/// Registers, or says where it is now.
async fn registered(
    network: &Network,
    file: &CheckerFile,
    addr: &PeerAddr,
    settlement: &Settlement,
) -> Result<(), Failure> {
    let endpoint = endpoint(file, addr);
    let client = settlement.client();
    let known = client.node(addr.id).await.map_err(|e| chain_failure(&e))?;
    let Some(node) = known.filter(|node| node.status != NodeStatus::Left) else {
        return register(network, addr.id, endpoint, settlement).await;
    };
    if node.kind != NodeKind::Checker || node.owner != settlement.address() {
        let why = format!(
            "the key {} is registered as another node, or by another wallet ({}): give the Checker a node.key of its own, or name the right wallet with --wallet",
            addr.id, node.owner
        );
        return Err(Failure::new(Code::Wallet, why));
    }
    if node.status == NodeStatus::Jailed {
        tracing::warn!(stake = %tokens(node.stake), "this Checker was slashed and is jailed: `muster checker top-up` adds to its stake");
    }
    if node.endpoint != endpoint {
        settlement
            .update_node(addr.id, &endpoint, node.fingerprint)
            .await
            .map_err(|error| paying::settlement_failure(&error))?;
    }
    Ok(())
}

/// Registers a Checker with the stake that it needs.
pub(crate) async fn register(
    network: &Network,
    node: NodeId,
    endpoint: String,
    settlement: &Settlement,
) -> Result<(), Failure> {
    let client = settlement.client();
    let least = client.min_stake(NodeKind::Checker).await.map_err(|e| chain_failure(&e))?;
    let stake = network.params.epoch.checker_stake.max(least);
    let have = client.token_balance(settlement.address()).await.map_err(|e| chain_failure(&e))?;
    if have < stake {
        let why = format!(
            "the wallet {} holds {}, and a Checker stakes {}: send tokens to it; on a development network: `muster wallet faucet {}`",
            settlement.address(),
            tokens(have),
            tokens(stake),
            settlement.address()
        );
        return Err(Failure::new(Code::Balance, why));
    }
    let registration = Registration { kind: NodeKind::Checker, node, endpoint, fingerprint: [0; 32], stake };
    let done = settlement.register(&registration).await.map_err(|error| paying::settlement_failure(&error))?;
    match done.map(|mined| mined.result) {
        Some(Err(why)) => Err(Failure::new(Code::Reverted, format!("the registry refused the Checker: {why}"))),
        Some(Ok(())) | None => Ok(()),
    }
}

/// Keeps the health page and the metrics true.
fn tell_health(begun: &Begun, node: &CheckerNode) {
    let (health, stop, status, addr) = (begun.health.clone(), begun.stop.clone(), node.status(), node.addr());
    let listen = addr.direct.iter().next().map(ToString::to_string);
    health.set(|h| (h.ready, h.problem, h.listen) = (true, None, listen));
    tokio::spawn(async move {
        while !stop.is_cancelled() {
            let told = status.borrow().clone();
            metrics::gauge!("muster_checker_licences").set(f64::from(told.licences));
            metrics::gauge!("muster_checker_open_epochs").set(count(told.open));
            metrics::counter!("muster_checker_tasks_total").absolute(told.counted.tasks);
            metrics::counter!("muster_checker_unknown_total").absolute(told.counted.unknown);
            metrics::counter!("muster_checker_refuted_total").absolute(told.counted.refuted);
            metrics::counter!("muster_checker_reexecuted_total").absolute(told.counted.reexecuted);
            metrics::counter!("muster_checker_refused_messages_total").absolute(told.counted.refused);
            health.set(|h| h.problem = told.problems.first().cloned());
            tokio::select! {
                () = tokio::time::sleep(HEALTH_EVERY) => {}
                () = stop.cancelled() => {}
            }
        }
    });
}

fn count(number: u64) -> f64 {
    f64::from(u32::try_from(number).unwrap_or(u32::MAX))
}
