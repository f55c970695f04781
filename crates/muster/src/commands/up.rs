//! `muster up`: a whole network on one machine.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use muster_chain::settle::{ChainClient, NodeStatus};
use muster_client::Network;
use muster_client::network::{Beacon, BeaconKind};

use super::roles::HEALTH_NOTE;
use super::setup::{self, Plan, wait_for};
use super::{Context, audited, chain_failure, live, model, rental, stop_on_signals};
use crate::cli::{Lie, UpArgs};
use crate::dirs::{Lock, make_private, write_private};
use crate::failure::{Because, Code, Failure};
use crate::serve::{self, Health};
use crate::supervise::{Role, Supervised};
use crate::wallets;

/// How long a role may take to be ready.
const READY_WITHIN: Duration = Duration::from_secs(60);
/// The chain id of a development network.
pub(crate) const CHAIN_ID: u64 = 31_337;
/// Marks that the first models were deployed.
const DEPLOYED: &str = "first-models";
/// How much of a picture the Container of --with-cheat leaves out.
const CHEAT_PERCENT: &str = "50";
/// What the cheat serves in place of every model: the tiny one, whose weights are random.
const CHEAT_MODEL: &str = "other.gguf";
/// Marks that the first rental was done, and where its receipt is.
const RENTED: &str = "first-rental.json";

/// A network that runs.
#[derive(Debug)]
pub(crate) struct Running {
    /// Its file.
    pub(crate) network: Network,
    roles: Vec<Supervised>,
    notes: BTreeMap<String, PathBuf>,
    _lock: Lock,
}

impl Running {
    /// Names and processes of the roles.
    pub(crate) fn pids(&self) -> Vec<(String, u32)> {
        self.roles.iter().map(|r| (r.name().to_owned(), r.pid())).collect()
    }

    /// Stops the roles, the chain last.
    pub(crate) async fn stop(mut self) {
        while let Some(role) = self.roles.pop() {
            role.stop().await;
        }
    }

    async fn ready(
        &self,
        name: &str,
        client: &reqwest::Client,
        enough: impl Fn(&Health) -> bool,
    ) -> Result<Health, Failure> {
        let note = self.notes.get(name).cloned().unwrap_or_default();
        let ask = || async {
            let ready = serve::ask(&note, client).await.filter(|h| h.ready && enough(h));
            ready.map(Ok).or_else(|| self.roles.iter().find_map(Supervised::failed).map(Err))
        };
        wait_for(READY_WITHIN, ask).await.unwrap_or_else(|| {
            let log = note.parent().map(|d| d.display().to_string()).unwrap_or_default();
            Err(Failure::new(
                Code::Unreachable,
                format!(
                    "{name} is not ready after {} s; its log says why (logs/{name}.log, folder {log})",
                    READY_WITHIN.as_secs()
                ),
            ))
        })
    }
}

/// Starts the network of a folder, making it when it is new.
pub(crate) async fn start(cx: &Context, plan: &Plan, rpc_port: u16) -> Result<Running, Failure> {
    cx.dirs.prepare()?;
    let lock = Lock::take(&cx.dirs.at("lock"), &format!("the folder {}", cx.dirs.root().display()))?;
    make_private(&cx.dirs.at("logs"))?;
    let client = reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(5)).build().code(Code::Internal)?;
    wallets::own_passphrase(&cx.dirs)?;
    let known = cx.dirs.network().exists().then(|| Network::load(&cx.dirs.network())).transpose().code(Code::Config)?;
    let mut running = Running {
        network: known.clone().unwrap_or_else(empty_network),
        roles: Vec::new(),
        notes: BTreeMap::new(),
        _lock: lock,
    };
    match bring_up(cx, plan, rpc_port, known, &client, &mut running).await {
        Ok(()) => Ok(running),
        Err(failure) => {
            running.stop().await;
            Err(failure)
        }
    }
}

fn empty_network() -> Network {
    use muster_core::ids::Address;
    let contracts =
        muster_client::network::Contracts { token: Address::ZERO, registry: Address::ZERO, escrow: Address::ZERO };
    let chain = muster_client::network::Chain { id: CHAIN_ID, rpc: String::new() };
    Network::new("development", chain, contracts, muster_core::params::Params::development())
}

async fn bring_up(
    cx: &Context,
    plan: &Plan,
    rpc_port: u16,
    known: Option<Network>,
    client: &reqwest::Client,
    running: &mut Running,
) -> Result<(), Failure> {
    let listen = rpc_address(plan, rpc_port, known.as_ref())?;
    refuse_used_port(listen)?;
    start_chain(cx, plan, listen, running)?;
    let health = running.ready("chain", client, |_| true).await?;
    let bound: SocketAddr = health.listen.unwrap_or_default().parse().because(Code::Internal, "the chain's address")?;
    let network = match known {
        Some(network) => network,
        None => {
            cx.output.note("deploying contracts …");
            let network = setup::network(cx, plan, &format!("http://{bound}"), CHAIN_ID).await?;
            network.save(&cx.dirs.network()).code(Code::Io)?;
            network
        }
    };
    if let Some(url) = &network.relay {
        start_relay(cx, plan, url, running)?;
    }
    if let Some(beacon) = network.beacon.as_ref().filter(|b| b.kind == BeaconKind::Development) {
        start_beacon(cx, plan, beacon, running)?;
    }
    running.network = network.clone();
    setup::fund(cx, plan, &network).await?;
    start_role(cx, running, "indexer-0", &["indexer", "run"])?;
    let names = setup::container_names(plan);
    for name in &names {
        setup::container(cx, plan, name)?;
        let other = cx.dirs.at(name).join(CHEAT_MODEL);
        let other_model = other.display().to_string();
        let lies: &[&str] = match plan.cheat.filter(|_| name == setup::CHEAT) {
            Some(Lie::Proofs) => &["--cheat", CHEAT_PERCENT],
            Some(Lie::Frames) => &["--cheat-frames"],
            Some(Lie::Answers) => {
                muster_engine::tiny::write(&other).because(Code::Io, format!("cannot write {other_model}"))?;
                &["--cheat-answers", &other_model]
            }
            None => &[],
        };
        start_role(cx, running, name, &[&["container", "run"], lies].concat())?;
    }
    for index in 0..plan.checkers {
        start_role(cx, running, &format!("checker-{index}"), &["checker", "run"])?;
    }
    setup::gateway(cx)?;
    let listen = gateway_address(plan)?.to_string();
    let mut args = vec!["gateway", "run", "--listen", &listen];
    if takes_apps(cx, &network).await? {
        args.push("--app-stake");
    }
    start_role(cx, running, live::GATEWAY, &args)?;
    let wanted = free_containers(cx, &network, &names).await?;
    running.ready("indexer-0", client, |h| h.peers >= wanted).await?;
    for index in 0..plan.checkers {
        running.ready(&format!("checker-{index}"), client, |_| true).await?;
    }
    running.ready(live::GATEWAY, client, |_| true).await?;
    Ok(())
}

/// Whether the Gateway asks for stakes of apps: where the network's registry holds such, which older ones do not.
async fn takes_apps(cx: &Context, network: &Network) -> Result<bool, Failure> {
    let client = ChainClient::connect(&network.chain.rpc, network.chain.id, network.contracts.into())
        .await
        .map_err(|e| chain_failure(&e))?;
    let takes = client.takes_apps().await.map_err(|e| chain_failure(&e))?;
    if !takes {
        cx.output.note("This network is from before apps were staked for: the Gateway asks for no stake.");
    }
    Ok(takes)
}

/// How many of these Containers an Indexer will offer: all but those that were slashed, jailed, and not topped up since.
async fn free_containers(cx: &Context, network: &Network, names: &[String]) -> Result<u64, Failure> {
    let client = ChainClient::connect(&network.chain.rpc, network.chain.id, network.contracts.into())
        .await
        .map_err(|e| chain_failure(&e))?;
    let mut free = 0;
    for name in names {
        let node = client.node(setup::container_id(cx, name)?).await.map_err(|e| chain_failure(&e))?;
        if node.is_none_or(|node| node.status == NodeStatus::Active) {
            free += 1;
        } else if name != setup::CHEAT {
            cx.output.note(&format!(
                "{name} is jailed, or has left: no work is offered to it. `muster --dir {} container top-up` makes its stake whole",
                cx.dirs.at(name).display()
            ));
        }
    }
    Ok(free)
}

/// Where the chain listens: as the network file says, so that it stays the same.
fn rpc_address(plan: &Plan, port: u16, known: Option<&Network>) -> Result<SocketAddr, Failure> {
    let Some(network) = known else {
        let ip = setup::address(plan.listen);
        if port != 0 {
            return Ok(SocketAddr::new(ip, port));
        }
        // A number, not "any": a chain that is started again must come back where the network file says.
        let free = std::net::TcpListener::bind(SocketAddr::new(ip, 0)).and_then(|l| l.local_addr());
        return free
            .because(Code::Config, format!("cannot listen on {ip}; name an address of this machine with --listen"));
    };
    let text = network.chain.rpc.trim_start_matches("http://").trim_end_matches('/');
    text.parse().map_err(|_| {
        let why = format!(
            "the network file {} names the chain {}, which is not one that `muster up` runs; name another folder with --dir",
            "network.toml", network.chain.rpc
        );
        Failure::new(Code::Config, why)
    })
}

/// Where the Gateway listens. A number, not "any": one that is started again must be where its links say.
fn gateway_address(plan: &Plan) -> Result<SocketAddr, Failure> {
    let asked = SocketAddr::new(setup::address(plan.listen), plan.gateway_port);
    if plan.gateway_port != 0 {
        return Ok(asked);
    }
    let free = std::net::TcpListener::bind(asked).and_then(|l| l.local_addr());
    free.because(
        Code::Config,
        format!("cannot listen on {}; name an address of this machine with --listen", asked.ip()),
    )
}

fn refuse_used_port(listen: SocketAddr) -> Result<(), Failure> {
    if listen.port() == 0 {
        return Ok(());
    }
    match std::net::TcpListener::bind(listen) {
        Ok(_free) => Ok(()),
        Err(e) if e.kind() == std::io::ErrorKind::AddrInUse => {
            let why = format!(
                "port {} on {} is in use by another program: stop that one, or begin a new folder (--dir) with another --rpc-port",
                listen.port(),
                listen.ip()
            );
            Err(Failure::new(Code::InUse, why))
        }
        Err(e) => Err(Failure::new(
            Code::Config,
            format!("cannot listen on {listen}: {e}; name an address of this machine with --listen"),
        )),
    }
}

fn role(cx: &Context, name: &str, dir: PathBuf, args: Vec<String>) -> Role {
    let mut all = vec!["--dir".to_owned(), dir.display().to_string()];
    all.extend(args);
    let format = if cx.global.log_format == crate::cli::LogFormat::Json { "json" } else { "text" };
    let passphrase = cx.dirs.wallets().join("passphrase").display().to_string();
    Role {
        name: name.to_owned(),
        args: all,
        env: vec![
            ("MUSTER_PASSPHRASE_FILE".to_owned(), passphrase),
            ("MUSTER_NETWORK".to_owned(), cx.dirs.network().display().to_string()),
            ("MUSTER_LOG_FORMAT".to_owned(), format.to_owned()),
        ],
        log: cx.dirs.at("logs").join(format!("{name}.log")),
    }
}

fn supervise(running: &mut Running, role: Role, dir: &std::path::Path) -> Result<(), Failure> {
    let note = dir.join(HEALTH_NOTE);
    // What a former life left there would be believed.
    if let Err(e) = std::fs::remove_file(&note)
        && e.kind() != std::io::ErrorKind::NotFound
    {
        return Err(Failure::new(Code::Io, format!("{}: {e}", note.display())));
    }
    running.notes.insert(role.name.clone(), note);
    running.roles.push(Supervised::start(role)?);
    Ok(())
}

fn start_chain(cx: &Context, plan: &Plan, listen: SocketAddr, running: &mut Running) -> Result<(), Failure> {
    let dir = cx.dirs.at("chain");
    make_private(&dir)?;
    let mut args = vec!["chain".to_owned(), "run".to_owned(), "--listen".to_owned(), listen.to_string()];
    args.extend(["--chain-id".to_owned(), CHAIN_ID.to_string()]);
    if plan.listen.is_some_and(|ip| !ip.is_loopback()) {
        args.push("--allow-remote".to_owned());
    }
    let role = role(cx, "chain", dir.clone(), args);
    supervise(running, role, &dir)
}

fn start_relay(cx: &Context, plan: &Plan, url: &str, running: &mut Running) -> Result<(), Failure> {
    let dir = cx.dirs.at("relay");
    make_private(&dir)?;
    let ip = setup::address(plan.listen);
    let port = url.rsplit(':').next().and_then(|p| p.trim_end_matches('/').parse::<u16>().ok()).unwrap_or(3340);
    let args = ["relay", "run", "--listen", &SocketAddr::new(ip, port).to_string()].map(str::to_owned).to_vec();
    let role = role(cx, "relay", dir.clone(), args);
    supervise(running, role, &dir)
}

/// The network's own beacon, where its file says; in a folder that holds its key.
fn start_beacon(cx: &Context, plan: &Plan, beacon: &Beacon, running: &mut Running) -> Result<(), Failure> {
    let dir = cx.dirs.at("beacon");
    make_private(&dir)?;
    let url = beacon.urls.first().map_or("", String::as_str).trim_start_matches("http://").trim_end_matches('/');
    let listen: SocketAddr = url.parse().map_err(|_| {
        Failure::new(Code::Config, format!("the network file names the beacon {url}, which is no address"))
    })?;
    let mut args = vec!["beacon".to_owned(), "run".to_owned(), "--listen".to_owned(), listen.to_string()];
    args.extend(["--genesis".to_owned(), beacon.genesis_s.to_string()]);
    args.extend(["--period".to_owned(), beacon.period_s.to_string()]);
    if plan.listen.is_some_and(|ip| !ip.is_loopback()) {
        args.push("--allow-remote".to_owned());
    }
    let role = role(cx, "beacon", dir.clone(), args);
    supervise(running, role, &dir)
}

fn start_role(cx: &Context, running: &mut Running, name: &str, args: &[&str]) -> Result<(), Failure> {
    let dir = cx.dirs.at(name);
    let role = role(cx, name, dir.clone(), args.iter().map(|a| (*a).to_owned()).collect());
    supervise(running, role, &dir)
}

/// The command itself.
pub(super) async fn run(cx: &Context, args: UpArgs) -> Result<u8, Failure> {
    let begun = Instant::now();
    let stop = stop_on_signals()?;
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    // Half a core each at least: what `muster run` asks for when it is not told otherwise.
    let containers = args.containers.unwrap_or_else(|| u16::try_from(cores.saturating_mul(2).min(4)).unwrap_or(4));
    let plan = Plan {
        containers,
        checkers: args.checkers,
        cheat: args.with_cheat,
        listen: args.listen,
        allow_empty: false,
        cpu_millis_each: None,
        gateway_port: args.gateway_port,
    };
    let fresh = !cx.dirs.network().exists();
    cx.output.note(&format!("starting a network in {} …", cx.dirs.root().display()));
    let running = tokio::select! {
        running = start(cx, &plan, args.rpc_port) => running?,
        () = stop.cancelled() => return Err(Failure::new(Code::Stopped, "stopped before the network was ready; the next start goes on from here")),
    };
    cx.output.note(&ready_text(cx, &running, begun.elapsed()));
    let watching = (args.with_cheat == Some(Lie::Proofs)).then(|| {
        let (cx, network) = (cx.clone(), running.network.clone());
        tokio::spawn(async move { Box::pin(audited::cheat(&cx, &network)).await })
    });
    let mark = cx.dirs.at(RENTED);
    let rents = args.once || (!args.no_rental && !mark.exists());
    let mut code = 0;
    if rents {
        let outcome = tokio::select! {
            outcome = rented(cx, &running.network, args.picture_width, watching) => outcome,
            () = stop.cancelled() => Err(Failure::new(Code::Stopped, "stopped in the first rental; `muster lease ls` shows what became of it")),
        };
        match outcome {
            Ok(receipt) => {
                let text = serde_json::to_string_pretty(&receipt).because(Code::Internal, "the receipt")?;
                write_private(&mark, text.as_bytes())?;
                cx.output.result(&receipt, || rental::receipt_text(&receipt));
                Box::pin(first_session(cx, args.once)).await;
            }
            Err(failure) if args.once || stop.is_cancelled() => {
                running.stop().await;
                return Err(failure);
            }
            Err(failure) => {
                cx.output.note(&format!("muster: the first rental failed: {failure}\nThe network stays up; `muster up` tries the rental again at its next start."));
                code = failure.code as u8;
            }
        }
    } else if !args.no_rental && !fresh {
        cx.output.note(&format!("The first rental was done before; its receipt: {}", mark.display()));
    }
    if !args.no_rental {
        tokio::select! {
            () = Box::pin(first_models(cx)) => {}
            () = stop.cancelled() => {}
        }
    }
    if args.once {
        running.stop().await;
        return Ok(0);
    }
    cx.output.note("Ctrl-C stops the network; its data stays.");
    stop.cancelled().await;
    cx.output.note("stopping …");
    running.stop().await;
    Ok(if code == 0 { 0 } else { code })
}

/// The first rental, and what became of the Container that lies.
async fn rented(
    cx: &Context,
    network: &Network,
    width: u16,
    watching: Option<tokio::task::JoinHandle<Result<audited::Caught, Failure>>>,
) -> Result<rental::Receipt, Failure> {
    let mut receipt = Box::pin(rental::first(cx, network, width)).await?;
    if let Some(watching) = watching {
        receipt.cheat = Some(watching.await.because(Code::Internal, "watching the cheat")??);
    }
    Ok(receipt)
}

/// A live session to look at, right after the first rental. What goes wrong is told and harms nothing.
async fn first_session(cx: &Context, once: bool) {
    match Box::pin(live::first(cx, once)).await {
        Ok(text) => cx.output.note(&text),
        Err(failure) => cx.output.note(&format!("muster: no live session was started: {failure}")),
    }
}

/// The small models that a new network has, and how to talk to them.
async fn first_models(cx: &Context) {
    let mark = cx.dirs.at(DEPLOYED);
    // Whoever removed them later does not get them back.
    let deploys = !mark.exists();
    match model::first(cx, deploys).await.and_then(|text| write_private(&mark, b"").map(|()| text)) {
        Ok(text) if text.is_empty() => {}
        Ok(text) => cx.output.note(&text),
        Err(failure) => cx.output.note(&format!("muster: no model was deployed: {failure}")),
    }
}

fn ready_text(cx: &Context, running: &Running, took: Duration) -> String {
    let mut text = String::new();
    let dir = default_dir_flag(cx);
    let roles = running.pids().len();
    // Writing into a string cannot fail.
    let _ = writeln!(
        text,
        "ready after {:.1} s: {roles} processes, chain {} (id {})",
        took.as_secs_f64(),
        running.network.chain.rpc,
        running.network.chain.id
    );
    let _ = writeln!(text, "  rent:    muster{dir} run -- echo hello");
    let _ = writeln!(text, "  look:    muster{dir} lease ls --all; muster{dir} container status; muster{dir} epoch ls");
    let _ = writeln!(text, "  play:    muster{dir} session start {}; muster{dir} app ls", live::first_app());
    let gateway = running.notes.iter().find(|(name, _)| *name == live::GATEWAY).map(|(_, note)| note);
    if let Some(origin) = gateway.and_then(|note| std::fs::read_to_string(note.with_file_name(live::ORIGIN)).ok()) {
        let _ = writeln!(text, "  pages:   {}/ (API: {0}/api/openapi.json)", origin.trim());
    }
    for (name, note) in running.notes.iter().filter(|(name, _)| name.starts_with("checker-")).take(1) {
        if let Ok(addr) = std::fs::read_to_string(note) {
            let _ = writeln!(text, "  page:    http://{}/ ({name}: tests, results, earnings)", addr.trim());
        }
    }
    let _ = write!(text, "  network: {}", cx.dirs.network().display());
    text
}

/// `--dir` where it is needed to find the folder again.
fn default_dir_flag(cx: &Context) -> String {
    match crate::dirs::Dirs::resolve(None) {
        Ok(own) if own.root() == cx.dirs.root() => String::new(),
        _ => format!(" --dir {}", cx.dirs.root().display()),
    }
}
