//! Making a network: contracts on a new chain, keys, wallets, stakes, and the file that names it all.

mod checkers;

use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::time::Duration;

use muster_chain::contracts::{DeployParams, deploy_development};
use muster_chain::epochs::{EpochParams, deploy_epochs, fund_rewards};
use muster_chain::keys::Wallet;
use muster_chain::settle::{ChainClient, NodeKind, Registration, SenderConfig, Settlement, TxSender};
use muster_client::Network;
use muster_client::network::{Beacon, BeaconKind, Chain, EpochContracts, IndexerEntry};
use muster_container::{AppsOffer, ContainerConfig, JobBounds, ModelsOffer, OfferConfig, SessionsOffer};
use muster_core::beacon::BeaconSchedule;
use muster_core::epoch::EpochNo;
use muster_core::ids::{Address, NodeId};
use muster_core::params::Params;
use muster_core::pricing::Ask;
use muster_core::units::{Bytes, TokenAmount, UsdMicro};
use muster_net::NodeSecret;
use tokio_util::sync::CancellationToken;

use super::{Context, chain_failure};
use crate::cli::Lie;
use crate::dirs::{make_private, write_private};
use crate::failure::{Because, Code, Failure};
use crate::wallets;

/// Tokens that each wallet of a development network begins with, whole tokens.
const WALLET_TOKENS: u128 = 1_000_000;
/// Ether for fees that each begins with, in wei.
const WALLET_WEI: u128 = 100_000_000_000_000_000_000;

/// What the rewards contract of a development network begins with, whole tokens: for the emission, for rewards of
/// delivery, for those who dispute rightly.
const REWARD_TOKENS: [u128; 3] = [1_000_000_000, 1_000_000, 100_000];
/// Account of whoever runs `muster up`.
const OWNER: &str = "owner";
/// Seconds between rounds of a development network's beacon, as of drand's quicknet.
const BEACON_PERIOD_S: u64 = 3;

/// What a new network looks like.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    /// Containers on this machine.
    pub(crate) containers: u16,
    /// Checkers that audit them.
    pub(crate) checkers: u16,
    /// A Container more, which lies.
    pub(crate) cheat: Option<Lie>,
    /// Where others reach it; loopback when absent.
    pub(crate) listen: Option<IpAddr>,
    /// Containers also run the empty job, for measuring leases alone.
    pub(crate) allow_empty: bool,
    /// Each Container offers so many thousandths of a core instead of its share of the machine.
    pub(crate) cpu_millis_each: Option<u32>,
    /// Port of the Gateway; 0 takes any free one.
    pub(crate) gateway_port: u16,
}

impl Plan {
    /// One Container that has the whole machine, and nobody else: for measurements.
    pub(crate) const fn single() -> Self {
        Self {
            containers: 1,
            checkers: 0,
            cheat: None,
            listen: None,
            allow_empty: false,
            cpu_millis_each: None,
            gateway_port: 0,
        }
    }
}

/// Where a network on this machine listens.
pub(crate) fn address(listen: Option<IpAddr>) -> IpAddr {
    listen.unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST))
}

/// A UDP port that is free now; written into the network file, so that it stays the same.
fn free_port(ip: IpAddr) -> Result<u16, Failure> {
    let socket = UdpSocket::bind(SocketAddr::new(ip, 0))
        .because(Code::Config, format!("{ip} is no address of this machine; name one with --listen"))?;
    Ok(socket.local_addr().because(Code::Internal, "a socket has no address")?.port())
}

/// A sender of transactions that runs until it is dropped.
pub(crate) struct Sending {
    /// What it can do.
    pub(crate) settlement: Settlement,
    stop: CancellationToken,
    task: tokio::task::JoinHandle<()>,
}

impl Sending {
    /// Opens the outbox of a wallet and begins to send.
    pub(crate) async fn begin(dir: &Path, wallet: Wallet, client: ChainClient) -> Result<Self, Failure> {
        make_private(dir)?;
        let sender = TxSender::open(dir, wallet, client, SenderConfig::default()).await.code(Code::Chain)?;
        let stop = CancellationToken::new();
        let (running, told) = (sender.clone(), stop.clone());
        let task = tokio::spawn(async move {
            if let Err(e) = running.run(told.cancelled_owned()).await {
                tracing::error!(error = %e, "transactions cannot be sent any more");
            }
        });
        Ok(Self { settlement: Settlement::new(sender), stop, task })
    }

    /// Lets what was sent be written down and ends.
    pub(crate) async fn end(self) -> Result<(), Failure> {
        self.stop.cancel();
        drop(self.settlement);
        self.task.await.because(Code::Internal, "the sender of transactions failed")
    }
}

/// Makes the network's file on a chain that answers at `rpc`; what exists already is kept, so that a first start
/// that was cut off is finished by the next.
pub(crate) async fn network(cx: &Context, plan: &Plan, rpc: &str, chain_id: u64) -> Result<Network, Failure> {
    let faucet = cx.faucet_key()?;
    let params = Params::development();
    let nowhere =
        muster_chain::contracts::Contracts { token: Address::ZERO, registry: Address::ZERO, escrow: Address::ZERO };
    let client = ChainClient::connect(rpc, chain_id, nowhere).await.map_err(|e| chain_failure(&e))?;
    let outbox = cx.dirs.at("faucet-outbox");
    let sending = Sending::begin(&outbox, faucet, client.clone()).await?;
    let deploy = DeployParams::development(params.container_stake, params.indexer_stake, params.fee_bps)
        .with_app_stake(params.app_stake);
    let contracts = deploy_development(sending.settlement.sender(), &deploy).await.code(Code::Chain)?;
    sending.end().await?;
    let ip = address(plan.listen);
    let (epochs, beacon) = epochs(cx, ip, client.with_contracts(contracts), &params).await?;
    let secret = NodeSecret::load_or_create(&indexer_dir(cx, 0)?.join("node.key")).code(Code::Wallet)?;
    let addresses = muster_client::network::Contracts {
        token: contracts.token,
        registry: contracts.registry,
        escrow: contracts.escrow,
    };
    let mut network = Network::new("development", Chain { id: chain_id, rpc: rpc.to_owned() }, addresses, params);
    (network.epochs, network.beacon) = (Some(epochs), Some(beacon));
    network.first_committee = checkers::committee(cx, plan)?;
    // Where others join, some of them will sit behind NAT.
    if plan.listen.is_some_and(|ip| !ip.is_loopback()) {
        let port = std::net::TcpListener::bind(SocketAddr::new(ip, 0))
            .and_then(|l| l.local_addr())
            .because(Code::Config, format!("cannot listen on {ip} for the relay"))?
            .port();
        network.relay = Some(format!("http://{}", SocketAddr::new(ip, port)));
    }
    network.indexers.push(IndexerEntry {
        id: secret.id(),
        direct: vec![SocketAddr::new(ip, free_port(ip)?)],
        relay: None,
    });
    Ok(network)
}

/// Deploys licences, rewards and beacon, with a key of the network's own. All that it depends on is written down or on
/// the chain, so that a second try makes the same.
async fn epochs(
    cx: &Context,
    ip: IpAddr,
    client: ChainClient,
    params: &Params,
) -> Result<(EpochContracts, Beacon), Failure> {
    let began_s = client.block_time_s(0).await.map_err(|e| chain_failure(&e))?;
    let schedule = BeaconSchedule { genesis_s: began_s, period_s: BEACON_PERIOD_S };
    let public_key = super::beacon::secret(&cx.dirs.at("beacon"))?.public_key();
    let verified = muster_wire::beacon::Beacon::new(&public_key, schedule).code(Code::Data)?;
    let params = contract_params(params, began_s)?;
    let contracts = client.contracts();
    let sending = Sending::begin(&cx.dirs.at("faucet-outbox"), cx.faucet_key()?, client).await?;
    let settlement = &sending.settlement;
    let found = deploy_epochs(settlement.sender(), &contracts, &params, &verified).await.code(Code::Chain)?;
    let pots = REWARD_TOKENS.map(|whole| TokenAmount(whole * TokenAmount::ONE.0));
    fund_rewards(settlement, &found, "genesis", pots).await.code(Code::Chain)?;
    sending.end().await?;
    let port = std::net::TcpListener::bind(SocketAddr::new(ip, 0))
        .and_then(|l| l.local_addr())
        .because(Code::Config, format!("cannot listen on {ip} for the beacon"))?
        .port();
    let beacon = Beacon {
        kind: BeaconKind::Development,
        public_key: hex::encode(public_key),
        genesis_s: schedule.genesis_s,
        period_s: schedule.period_s,
        urls: vec![format!("http://{}", SocketAddr::new(ip, port))],
    };
    let epochs =
        EpochContracts { licences: found.licences, rewards: found.rewards, beacon: found.beacon, from_block: 0 };
    Ok((epochs, beacon))
}

/// What the contracts enforce, in line with what Checkers compute: an epoch never grants more than its pools hold.
fn contract_params(params: &Params, began_s: u64) -> Result<EpochParams, Failure> {
    let epoch_s = params.epoch.epoch_ms / 1_000;
    let first = EpochNo(began_s / epoch_s.max(1));
    let defaults = EpochParams::development(first.0);
    // Pools are differences of sums that are rounded down, so one of them may be a unit more than the first is.
    let most = |amount: u128| TokenAmount(amount.saturating_add(1));
    let pools = muster_core::reward::pools(&params.reward, params.epoch.epoch_ms, first, first).code(Code::Config)?;
    let emission = [pools.capacity, pools.indexers, pools.checker_base, pools.checker_bonus].map(most);
    Ok(EpochParams {
        epoch_s,
        emission_per_epoch: emission.into_iter().fold(TokenAmount::ZERO, TokenAmount::saturating_add),
        delivery_per_epoch: most(pools.delivery),
        dispute_window_s: params.epoch.dispute_window_ms / 1_000,
        ..defaults
    })
}

/// Folder of the Gateway.
fn gateway_dir(cx: &Context) -> Result<PathBuf, Failure> {
    let dir = cx.dirs.at(super::live::GATEWAY);
    make_private(&dir)?;
    Ok(dir)
}

/// Makes the API key of whoever owns this folder, if it has none.
pub(crate) fn gateway(cx: &Context) -> Result<(), Failure> {
    let path = cx.dirs.at(super::live::KEY_FILE);
    if path.exists() {
        return Ok(());
    }
    let store = muster_gateway::KeyStore::open(&gateway_dir(cx)?.join("api-keys.json")).code(Code::Data)?;
    // A first start that was cut off between the two may have left a key that nobody knows.
    store.revoke(OWNER).code(Code::Io)?;
    let key = store.create(OWNER).code(Code::Config)?;
    write_private(&path, format!("{key}\n").as_bytes())
}

/// Folder of an Indexer.
pub(crate) fn indexer_dir(cx: &Context, index: u16) -> Result<PathBuf, Failure> {
    let dir = cx.dirs.at(format!("indexer-{index}"));
    make_private(&dir)?;
    Ok(dir)
}

/// What the Container that lies is called, and its folder.
pub(crate) const CHEAT: &str = "cheat";

/// Names of the Containers of a plan, which are those of their folders.
pub(crate) fn container_names(plan: &Plan) -> Vec<String> {
    let honest = (0..plan.containers).map(|index| format!("container-{index}"));
    honest.chain(plan.cheat.map(|_| CHEAT.to_owned())).collect()
}

/// Names of all Containers that were ever made in this folder.
pub(crate) fn known_containers(cx: &Context) -> Vec<String> {
    let plan = Plan { containers: 64, cheat: Some(Lie::Proofs), ..Plan::single() };
    let mut names = container_names(&plan);
    names.retain(|name| cx.dirs.at(name).join("wallet.json").exists());
    names
}

/// Folder of a Container.
fn container_dir(cx: &Context, name: &str) -> Result<PathBuf, Failure> {
    let dir = cx.dirs.at(name);
    make_private(&dir)?;
    Ok(dir)
}

/// The key of a Container of this folder, made on the first call.
pub(crate) fn container_id(cx: &Context, name: &str) -> Result<NodeId, Failure> {
    let secret = NodeSecret::load_or_create(&container_dir(cx, name)?.join("node.key")).code(Code::Wallet)?;
    Ok(secret.id())
}

/// Gives the network's own wallets what they need, stakes for the Indexer and the Checkers, and names the first committee.
/// Idempotent.
pub(crate) async fn fund(cx: &Context, plan: &Plan, network: &Network) -> Result<(), Failure> {
    let client = ChainClient::connect(&network.chain.rpc, network.chain.id, network.contracts.into())
        .await
        .map_err(|e| chain_failure(&e))?;
    let mut addresses = vec![wallets::own(&cx.dirs, "consumer")?.1.address()];
    let indexer = indexer_wallet(cx)?;
    addresses.push(indexer.address());
    for name in container_names(plan) {
        addresses.push(container_wallet(cx, &name)?.address());
    }
    for index in 0..plan.checkers {
        addresses.push(checkers::wallet(cx, index)?.address());
        addresses.push(checkers::player(cx, index)?.address());
    }
    addresses.push(folder_wallet(cx, &gateway_dir(cx)?)?.address());
    let mut poor = Vec::new();
    for address in addresses {
        let wei = client.eth_balance(address).await.map_err(|e| chain_failure(&e))?;
        if wei == 0 {
            poor.push(address);
        }
    }
    if !poor.is_empty() {
        let faucet = Sending::begin(&cx.dirs.at("faucet-outbox"), cx.faucet_key()?, client.clone()).await?;
        for address in poor {
            give(&faucet.settlement, address, TokenAmount(WALLET_TOKENS * TokenAmount::ONE.0), "genesis").await?;
        }
        faucet.end().await?;
    }
    register_indexer(cx, network, client.clone(), indexer).await?;
    checkers::begin(cx, plan, network, client).await
}

/// Tokens and ether from the faucet; the same intent is never paid twice.
pub(crate) async fn give(faucet: &Settlement, to: Address, amount: TokenAmount, intent: &str) -> Result<(), Failure> {
    let mined = faucet.send_tokens(&format!("{intent}:tokens:{to}"), to, amount).await.code(Code::Chain)?;
    mined.result.map_err(|why| Failure::new(Code::Reverted, why))?;
    let mined = faucet.send_ether(&format!("{intent}:ether:{to}"), to, WALLET_WEI).await.code(Code::Chain)?;
    mined.result.map_err(|why| Failure::new(Code::Reverted, why))
}

async fn register_indexer(cx: &Context, network: &Network, client: ChainClient, wallet: Wallet) -> Result<(), Failure> {
    let dir = indexer_dir(cx, 0)?;
    let secret = NodeSecret::load(&dir.join("node.key")).code(Code::Wallet)?;
    let Some(entry) = network.indexers.iter().find(|i| i.id == secret.id()) else { return Ok(()) };
    let known = client.node(secret.id()).await.map_err(|e| chain_failure(&e))?;
    if known.is_some() {
        return Ok(());
    }
    let sending = Sending::begin(&dir.join("outbox"), wallet, client).await?;
    let registration = Registration {
        kind: NodeKind::Indexer,
        node: secret.id(),
        endpoint: entry.direct.first().map(ToString::to_string).unwrap_or_default(),
        fingerprint: [0; 32],
        stake: network.params.indexer_stake,
    };
    let registered = sending.settlement.register(&registration).await.code(Code::Chain)?;
    sending.end().await?;
    match registered.map(|mined| mined.result) {
        Some(Err(why)) => Err(Failure::new(Code::Reverted, format!("the registry refused the Indexer: {why}"))),
        Some(Ok(())) | None => Ok(()),
    }
}

fn indexer_wallet(cx: &Context) -> Result<Wallet, Failure> {
    Ok(wallets::own(&cx.dirs, "indexer")?.1)
}

/// The wallet of a Container of this folder: one each, since a wallet's transactions go out from one process.
pub(crate) fn container_wallet(cx: &Context, name: &str) -> Result<Wallet, Failure> {
    folder_wallet(cx, &container_dir(cx, name)?)
}

/// The wallet in a folder of this network's own, made on the first call.
fn folder_wallet(cx: &Context, dir: &Path) -> Result<Wallet, Failure> {
    wallets::open_or_make(&dir.join("wallet.json"), &wallets::own_passphrase(&cx.dirs)?)
}

/// Writes the configuration of a Container of this folder, if it has none.
pub(crate) fn container(cx: &Context, plan: &Plan, name: &str) -> Result<(), Failure> {
    let dir = container_dir(cx, name)?;
    let path = dir.join("container.toml");
    if path.exists() {
        return Ok(());
    }
    let ip = address(plan.listen);
    let config = ContainerConfig {
        name: name.to_owned(),
        listen: SocketAddr::new(ip, free_port(ip)?),
        announce: Vec::new(),
        data_dir: PathBuf::from("."),
        egress: false,
        region: None,
        place: None,
        allow_empty: plan.allow_empty,
        offer: share(cx, plan)?,
        ask: default_ask(),
        job: JobBounds::default(),
        sessions: SessionsOffer::default(),
        apps: AppsOffer::default(),
        models: ModelsOffer { disk: Bytes(8 * Bytes::GIB), ..ModelsOffer::default() },
    };
    let text = toml::to_string(&config).because(Code::Internal, "the configuration cannot be written")?;
    let head = "# What this Container offers and asks; every key is explained in docs/providers.md.\n";
    write_private(&path, format!("{head}{text}").as_bytes())
}

/// Two cents for a core-hour, a tenth of a cent for an OBh.
pub(crate) const fn default_ask() -> Ask {
    Ask {
        obh: UsdMicro(1_000),
        gpu_hour_min: UsdMicro(20_000),
        core_hour: UsdMicro(20_000),
        memory_gib_hour: UsdMicro(2_000),
        disk_gib_hour: UsdMicro(100),
        reserved_bps: Some(7_000),
    }
}

/// One Container's share of this machine.
fn share(cx: &Context, plan: &Plan) -> Result<OfferConfig, Failure> {
    let host = muster_gpu::HostReport::read(cx.dirs.root()).code(Code::Internal)?;
    let count = u64::from(plan.containers.max(1));
    let cores = u64::from(host.cpus).saturating_mul(1_000) / count;
    let cpu_millis = plan.cpu_millis_each.unwrap_or_else(|| u32::try_from(cores.max(100)).unwrap_or(u32::MAX));
    Ok(OfferConfig {
        cpu_millis,
        memory: Bytes((host.memory_bytes / 4 * 3 / count).max(256 * Bytes::MIB)),
        disk: Bytes((host.disk_free_bytes / 2 / count).max(Bytes::GIB)),
        gpus: Vec::new(),
    })
}

/// Asks again and again until it is `Some`, or the patience is over.
pub(crate) async fn wait_for<T, F: Future<Output = Option<T>>>(
    patience: Duration,
    mut ask: impl FnMut() -> F,
) -> Option<T> {
    let until = tokio::time::Instant::now() + patience;
    loop {
        if let Some(found) = ask().await {
            return Some(found);
        }
        if tokio::time::Instant::now() >= until {
            return None;
        }
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
}
