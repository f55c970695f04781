//! The roles that serve: each a process of its own.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use muster_chain::embedded::{ChainConfig, ServerConfig, open_development, serve as serve_chain};
use muster_chain::settle::{ChainClient, ClientError};
use muster_client::Network;
use muster_container::{
    Cards, ChainLedger, ChainLedgerConfig, Cheat, ContainerConfig, ContainerNode, Engines, Joining, Processor, Provers,
    Substitute,
};
use muster_core::hardware::Gpu;
use muster_core::params::Params;
use muster_indexer::{Checked, IndexerConfig, IndexerNode};
use muster_net::{NodeSecret, PeerAddr, Relay, RelayConfig, RelayServerConfig, RelayUrl};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::{Context, chain_failure, stop_on_signals};
use crate::cli::{ChainCommand, ContainerRunArgs, RelayCommand, RoleArgs};
use crate::crashes;
use crate::dirs::{Lock, make_private};
use crate::engines;
use crate::failure::{Because, Code, Failure};
use crate::serve::{self, HealthCell};
use crate::supervise;
use crate::wallets;

/// Where a role leaves the address of its health page.
pub(crate) const HEALTH_NOTE: &str = "health";
/// How often figures are taken over to the health page.
const HEALTH_EVERY: Duration = Duration::from_millis(200);
/// How often an Indexer looks for a new outcome of Checkers, by the length of an epoch.
const CHECKED_EVERY_MIN: Duration = Duration::from_millis(500);
const CHECKED_EVERY_MAX: Duration = Duration::from_secs(30);
/// How long a role waits for the chain before it says so and tries again.
const CHAIN_RETRY: Duration = Duration::from_millis(500);

/// What all roles begin with: a folder of their own, its lock, signals, the health page.
pub(super) struct Begun {
    pub(super) stop: CancellationToken,
    pub(super) health: HealthCell,
    _lock: Lock,
}

pub(super) async fn begin(role: &str, dir: &Path, args: &RoleArgs) -> Result<Begun, Failure> {
    begin_with(role, dir, args, axum::Router::new()).await
}

/// The same with pages of its own beside the health page.
pub(super) async fn begin_with(role: &str, dir: &Path, args: &RoleArgs, pages: axum::Router) -> Result<Begun, Failure> {
    supervise::follow(args.supervisor)?;
    make_private(dir)?;
    let lock = Lock::take(&dir.join("lock"), &format!("the folder {}", dir.display()))?;
    let stop = stop_on_signals()?;
    let health = HealthCell::new(role);
    serve::health(args.health, &dir.join(HEALTH_NOTE), health.clone(), pages, stop.clone()).await?;
    Ok(Begun { stop, health, _lock: lock })
}

/// The embedded chain.
pub(super) async fn chain(cx: &Context, command: ChainCommand) -> Result<u8, Failure> {
    let ChainCommand::Run { role, listen, allow_remote, chain_id } = command;
    let dir = cx.dirs.root().to_owned();
    let begun = begin("chain", &dir, &role).await?;
    if !listen.ip().is_loopback() && !allow_remote {
        let why =
            format!("--listen {listen}: the JSON-RPC is for this machine only unless --allow-remote is given too");
        return Err(Failure::new(Code::Config, why));
    }
    let opened = open_development(&dir, ChainConfig::development(chain_id)).code(Code::Data)?;
    let listener = TcpListener::bind(listen)
        .await
        .because(Code::InUse, format!("cannot listen on {listen}; name another port with --listen"))?;
    let bound = listener.local_addr().because(Code::Internal, "the listener has no address")?;
    begun.health.set(|h| {
        h.ready = true;
        h.listen = Some(bound.to_string());
    });
    let config = ServerConfig { allow_remote, ..ServerConfig::default() };
    serve_chain(opened.chain, listener, config, begun.stop.cancelled_owned()).await.code(Code::Chain)?;
    Ok(0)
}

/// A relay.
pub(super) async fn relay(cx: &Context, command: RelayCommand) -> Result<u8, Failure> {
    let RelayCommand::Run { role, listen } = command;
    let begun = begin("relay", cx.dirs.root(), &role).await?;
    let relay = Relay::serve(RelayServerConfig::new(listen))
        .await
        .because(Code::InUse, format!("cannot listen on {listen}; name another port with --listen"))?;
    begun.health.set(|h| {
        h.ready = true;
        h.listen = Some(relay.listen_addr().to_string());
    });
    begun.stop.cancelled().await;
    relay.shutdown().await.code(Code::Internal)?;
    Ok(0)
}

/// The chain, as soon as it answers: a role that comes up before its chain waits for it.
pub(super) async fn await_chain(network: &Network, begun: &Begun) -> Result<Option<ChainClient>, Failure> {
    let mut told = false;
    loop {
        match ChainClient::connect(&network.chain.rpc, network.chain.id, network.contracts.into()).await {
            Ok(client) => return Ok(Some(client)),
            Err(e @ ClientError::Unreachable { .. }) => {
                if !std::mem::replace(&mut told, true) {
                    tracing::warn!(error = %e, "waiting for the chain");
                    begun.health.set(|h| h.problem = Some(e.to_string()));
                }
            }
            Err(e) => return Err(chain_failure(&e)),
        }
        tokio::select! {
            () = tokio::time::sleep(CHAIN_RETRY) => {}
            () = begun.stop.cancelled() => return Ok(None),
        }
    }
}

pub(super) fn relays(network: &Network) -> Result<Vec<RelayUrl>, Failure> {
    network.relay.iter().map(|url| url.parse::<RelayUrl>().because(Code::Config, "the network's relay")).collect()
}

/// An Indexer.
pub(super) async fn indexer(cx: &Context, role: RoleArgs, listen: Option<SocketAddr>) -> Result<u8, Failure> {
    let dir = cx.dirs.root().to_owned();
    let begun = begin("indexer", &dir, &role).await?;
    let network = cx.network()?;
    let secret = NodeSecret::load_or_create(&dir.join("node.key")).code(Code::Wallet)?;
    let own = network.indexers.iter().find(|i| i.id == secret.id());
    let listen =
        listen.or_else(|| own.and_then(|i| i.direct.first().copied())).unwrap_or_else(|| ([127, 0, 0, 1], 0).into());
    let Some(chain) = await_chain(&network, &begun).await? else { return Ok(0) };
    let urls = relays(&network)?;
    let node = IndexerNode::new(IndexerConfig {
        dir,
        secret,
        listen,
        relay: (!urls.is_empty()).then_some(RelayConfig { urls }),
        params: network.params.clone(),
        chain,
    })
    .await
    .map_err(indexer_failure)?;
    let node = match checked(&network) {
        Some(checked) => node.with_checked(checked),
        None => node,
    };
    let addr = node.addr();
    let gauges = node.gauges();
    begun.health.set(|h| {
        h.ready = true;
        h.problem = None;
        h.listen = addr.direct.iter().next().map(ToString::to_string);
    });
    let health = begun.health.clone();
    let watched = begun.stop.clone();
    tokio::spawn(async move {
        while !watched.is_cancelled() {
            health.set(|h| h.peers = gauges.listed());
            tokio::time::sleep(HEALTH_EVERY).await;
        }
    });
    node.run(begun.stop.clone()).await.map_err(indexer_failure)?;
    Ok(0)
}

/// What Checkers find is followed where the network has any.
fn checked(network: &Network) -> Option<Checked> {
    let epochs = network.epochs?;
    Some(Checked {
        contracts: epochs.addresses(),
        from_block: epochs.from_block,
        demands_proof: !network.params.offer_unproved,
        every: Duration::from_millis(network.params.epoch.epoch_ms / 30).clamp(CHECKED_EVERY_MIN, CHECKED_EVERY_MAX),
    })
}

fn indexer_failure(error: muster_indexer::IndexerError) -> Failure {
    use muster_indexer::IndexerError as E;
    let code = match &error {
        E::Store(_) => Code::Data,
        E::Net(_) => Code::InUse,
        E::Task(_) => Code::Internal,
    };
    Failure::new(code, error)
}

/// Reads a Container's configuration. A relative `data_dir` counts from the folder of the file, so that a folder can be
/// moved, or restored elsewhere, as a whole.
pub(crate) fn container_config(path: &Path) -> Result<ContainerConfig, Failure> {
    let text = std::fs::read_to_string(path).map_err(|e| {
        let hint = if e.kind() == std::io::ErrorKind::NotFound { "; `muster container init` writes one" } else { "" };
        Failure::new(Code::Config, format!("{}: {e}{hint}", path.display()))
    })?;
    let mut config: ContainerConfig = toml::from_str(&text).because(Code::Config, path.display())?;
    config.check().because(Code::Config, path.display())?;
    let folder = std::path::absolute(path).because(Code::Config, path.display())?;
    config.data_dir = folder.parent().unwrap_or(Path::new("/")).join(&config.data_dir).components().collect();
    Ok(config)
}

/// The folder of a Container: the one that is given, if a configuration is in it, else `container` below it.
pub(crate) fn container_dir(root: &Path) -> PathBuf {
    if root.join("container.toml").exists() { root.to_owned() } else { root.join("container") }
}

/// A Container.
pub(super) async fn container(cx: &Context, args: ContainerRunArgs) -> Result<u8, Failure> {
    let ContainerRunArgs { role, cheat, cheat_frames, cheat_answers } = args;
    let dir = container_dir(cx.dirs.root());
    let config = container_config(&dir.join("container.toml"))?;
    let begun = begin("container", &dir, &role).await?;
    let network = network_of(cx, &dir)?;
    let secret = NodeSecret::load_or_create(&dir.join("node.key")).code(Code::Wallet)?;
    let wallet_path = match &cx.global.wallet {
        Some(name) => wallets::keystore_path(&cx.dirs, name)?,
        None => dir.join("wallet.json"),
    };
    let wallet = wallets::open(&cx.dirs, &cx.global, &wallet_path)?;
    let ledger = ChainLedger::new(
        ChainLedgerConfig {
            rpc_url: network.chain.rpc.clone(),
            chain_id: network.chain.id,
            contracts: network.contracts.into(),
            outbox_dir: dir.join("outbox"),
            node: secret.id(),
            stake: network.params.container_stake,
            fingerprint: fingerprint(&config),
        },
        wallet,
    );
    let provers = provers(&config, cheat, &network.params).await?;
    let engines = engines(cheat_answers, &network.params)?;
    let joining = Joining { params: network.params.clone(), indexers: indexers(&network)?, relays: relays(&network)? };
    let mut node = ContainerNode::new(config, joining, secret, Arc::new(ledger))
        .code(Code::Config)?
        .with_provers(provers)
        .with_engines(Some(engines))
        .watched_by(crashes::watcher(cx.crash_plans.as_deref(), "container"));
    if cheat_frames {
        tracing::warn!("this Container was told to lie in live sessions");
        node = node.with_stale_frames().code(Code::Config)?;
    }
    let ready = node.ready();
    let health = begun.health.clone();
    tokio::spawn(async move {
        if let Ok(ready) = ready.await {
            health.set(|h| {
                h.ready = true;
                h.listen = ready.addr.direct.first().map(ToString::to_string);
            });
        }
    });
    node.run(begun.stop.cancelled_owned()).await.map_err(|e| Failure::new(container_code(&e), e))?;
    Ok(0)
}

/// What models run on.
fn engines(cheat: Option<PathBuf>, params: &Params) -> Result<Arc<dyn Engines>, Failure> {
    let own = Arc::new(engines::Own::new().because(Code::Internal, "this program cannot run engines")?);
    let Some(model) = cheat else { return Ok(own) };
    tracing::warn!(model = %model.display(), "this Container was told to lie in its answers");
    Ok(Arc::new(Substitute::new(own, model, params).code(Code::Config)?))
}

/// What proves what this Container offers: its cards, each in a child process; the processor where there is none.
async fn provers(config: &ContainerConfig, cheat: Option<u8>, params: &Params) -> Result<Arc<dyn Provers>, Failure> {
    if let Some(percent) = cheat {
        tracing::warn!(percent, "this Container was told to lie in its proofs");
        return Ok(Arc::new(Cheat::skips(percent, params).code(Code::Config)?));
    }
    let offered: Vec<Gpu> = config.offer.gpus.iter().map(|gpu| gpu.card.clone()).collect();
    let exe = std::env::current_exe().because(Code::Internal, "cannot find this program's own file")?;
    let found = tokio::task::spawn_blocking(move || Cards::of(&exe, Vec::new(), &offered)).await;
    match found.because(Code::Internal, "looking for cards")? {
        Ok(cards) => Ok(Arc::new(cards)),
        Err(error) if config.offer.gpus.is_empty() => {
            tracing::warn!(%error, "the graphics drivers do not answer: the processor proves without them, slower");
            Ok(Arc::new(Processor))
        }
        Err(error) => Err(Failure::new(
            Code::Missing,
            format!("the offered cards cannot be proved: {error}; `muster doctor` says what is missing"),
        )),
    }
}

/// The network file: --network, the Container's own copy, or the one beside it.
pub(super) fn network_of(cx: &Context, dir: &Path) -> Result<Network, Failure> {
    let copy = dir.join("network.toml");
    if cx.global.network.is_none() && copy.exists() {
        let mut network = Network::load(&copy).code(Code::Config)?;
        if let Some(rpc) = &cx.global.rpc {
            network.chain.rpc.clone_from(rpc);
        }
        return Ok(network);
    }
    cx.network()
}

const fn container_code(error: &muster_container::ContainerError) -> Code {
    use muster_container::ContainerError as E;
    match error {
        E::Config(_) => Code::Config,
        E::Store(_) => Code::Data,
        E::Sandbox(_) => Code::Missing,
        _ => Code::Internal,
    }
}

/// The network's Indexers as peers.
pub(crate) fn indexers(network: &Network) -> Result<Vec<PeerAddr>, Failure> {
    network
        .indexer_addrs()
        .into_iter()
        .map(|addr| {
            let wire: muster_wire::NodeAddr =
                addr.try_into().because(Code::Config, "an Indexer of the network file")?;
            PeerAddr::try_from(&wire).because(Code::Config, "an Indexer of the network file")
        })
        .collect()
}

/// A commitment to what is offered: a salted hash is not needed, for the fingerprint says no more than a heartbeat does.
fn fingerprint(config: &ContainerConfig) -> [u8; 32] {
    let capacity = config.capacity();
    let text = format!("{} {} {} {:?}", capacity.cpu_millis, capacity.memory.0, capacity.disk.0, capacity.gpus);
    *blake3::hash(text.as_bytes()).as_bytes()
}
