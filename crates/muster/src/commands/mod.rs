//! The commands, and what they share.

mod account;
pub(crate) mod agent;
mod apps;
mod audited;
mod beacon;
mod bench;
mod checkers;
mod completions;
mod container_admin;
mod doctor;
mod gateway;
mod gpu;
mod indexer_claim;
mod lease;
mod live;
mod model;
mod rental;
mod roles;
mod run;
mod setup;
mod up;
mod wallet;

use std::path::PathBuf;
use std::sync::Arc;

use muster_chain::keys::{self, Wallet};
use muster_chain::settle::{ChainClient, ClientError};
use muster_client::chain::ChainLedger;
use muster_client::{ClientDir, Network, Renter};
use tokio_util::sync::CancellationToken;

use crate::cli::{CheckerCommand, Cli, Command, ContainerCommand, Global, IndexerCommand};
use crate::crashes;
use crate::dirs::{Dirs, make_private};
use crate::failure::{Because, Code, Failure};
use crate::output::Output;
use crate::wallets;

/// What every command works with.
#[derive(Clone, Debug)]
pub(crate) struct Context {
    /// The folder.
    pub(crate) dirs: Dirs,
    /// Flags that every command takes.
    pub(crate) global: Global,
    /// Where results go.
    pub(crate) output: Output,
    /// Where tests plan crashes; none in real life.
    pub(crate) crash_plans: Option<PathBuf>,
}

/// Whether a command is a role that serves: then it logs what it does.
pub(crate) const fn is_role(command: &Command) -> bool {
    matches!(
        command,
        Command::Container(ContainerCommand::Run(_))
            | Command::Indexer(IndexerCommand::Run { .. })
            | Command::Chain(_)
            | Command::Relay(_)
            | Command::Beacon(_)
            | Command::Checker(CheckerCommand::Run(_))
            | Command::Gateway(_)
            | Command::Agent(_)
    )
}

/// Runs a command and gives its exit code.
pub(crate) async fn dispatch(cli: Cli) -> Result<u8, Failure> {
    let dirs = Dirs::resolve(cli.global.dir.as_deref())?;
    let output = Output::new(cli.global.json);
    let wallet = wallets::named(cli.global.wallet.clone());
    let cx = Context { dirs, global: Global { wallet, ..cli.global }, output, crash_plans: crashes::plans() };
    match cli.command {
        Command::Up(args) => Box::pin(up::run(&cx, args)).await,
        Command::Run(args) => Box::pin(run::run(&cx, *args)).await,
        Command::Lease(command) => Box::pin(lease::run(&cx, command)).await,
        Command::Container(ContainerCommand::Run(role)) => Box::pin(roles::container(&cx, role)).await,
        Command::Container(command) => Box::pin(container_admin::run(&cx, command)).await,
        Command::Indexer(IndexerCommand::Claim) => Box::pin(indexer_claim::claim(&cx)).await,
        Command::Indexer(IndexerCommand::Run { role, listen }) => Box::pin(roles::indexer(&cx, role, listen)).await,
        Command::Chain(command) => Box::pin(roles::chain(&cx, command)).await,
        Command::Relay(command) => Box::pin(roles::relay(&cx, command)).await,
        Command::Beacon(command) => Box::pin(beacon::run(&cx, command)).await,
        Command::Checker(command) => Box::pin(checkers::run(&cx, command)).await,
        Command::Licence(command) => Box::pin(checkers::licence::run(&cx, command)).await,
        Command::Epoch(command) => Box::pin(checkers::epoch::run(&cx, command)).await,
        Command::Session(command) => Box::pin(live::session(&cx, command)).await,
        Command::Model(command) => Box::pin(model::run(&cx, command)).await,
        Command::App(command) => Box::pin(apps::run(&cx, command)).await,
        Command::Gateway(command) => Box::pin(gateway::run(&cx, command)).await,
        Command::ApiKey(command) => gateway::api_key(&cx, command),
        Command::Account(command) => Box::pin(account::run(&cx, command)).await,
        Command::Wallet(command) => Box::pin(wallet::run(&cx, command)).await,
        Command::Gpu(command) => Box::pin(gpu::run(&cx, command)).await,
        Command::Doctor => Box::pin(doctor::run(&cx)).await,
        Command::Bench(args) => Box::pin(bench::run(&cx, args)).await,
        Command::Completions { shell } => completions::run(shell),
        Command::Agent(_) => Box::pin(agent::run(&cx)).await,
    }
}

/// A settlement client's error as a failure of a command.
pub(crate) fn chain_failure(error: &ClientError) -> Failure {
    Failure::new(Code::Chain, error)
}

impl Context {
    /// The network: --network or the folder's own, with --rpc in place of the file's address.
    pub(crate) fn network(&self) -> Result<Network, Failure> {
        let path = self.global.network.clone().unwrap_or_else(|| self.dirs.network());
        let mut network = Network::load(&path).code(Code::Config)?;
        if let Some(rpc) = &self.global.rpc {
            network.chain.rpc.clone_from(rpc);
        }
        Ok(network)
    }

    /// The network's chain, for reading.
    pub(crate) async fn chain(&self) -> Result<ChainClient, Failure> {
        let network = self.network()?;
        ChainClient::connect(&network.chain.rpc, network.chain.id, network.contracts.into())
            .await
            .map_err(|e| chain_failure(&e))
    }

    /// The wallet that was chosen.
    pub(crate) fn wallet(&self) -> Result<Wallet, Failure> {
        let path = wallets::chosen(&self.dirs, &self.global)?;
        wallets::open(&self.dirs, &self.global, &path)
    }

    /// Records of leases.
    pub(crate) fn client_dir(&self) -> Result<ClientDir, Failure> {
        self.dirs.prepare()?;
        let root = self.dirs.at("client");
        make_private(&root)?;
        let watcher = crashes::watcher(self.crash_plans.as_deref(), "consumer");
        Ok(ClientDir::open(&root).code(Code::Data)?.watched_by(watcher))
    }

    /// All that renting needs.
    pub(crate) async fn renter(&self, wallet: Option<Wallet>) -> Result<Renter, Failure> {
        let network = self.network()?;
        let dir = self.client_dir()?;
        let ledger = ChainLedger::connect(&network, wallet, dir.root()).await.map_err(|e| chain_failure(&e))?;
        Renter::new(network, Arc::new(ledger), dir).await.code(Code::Unreachable)
    }

    /// The key that gives out ether and tokens on a development chain of this folder.
    pub(crate) fn faucet_key(&self) -> Result<Wallet, Failure> {
        let path = self.dirs.at("chain").join("faucet.key");
        if !path.exists() {
            let why = format!(
                "there is no faucet here ({} does not exist): it belongs to a development chain, on the machine and in the folder of its `muster up`",
                path.display()
            );
            return Err(Failure::new(Code::NotFound, why));
        }
        keys::read_or_create_raw(&path).code(Code::Wallet)
    }
}

/// Cancelled by Ctrl-C, SIGTERM or SIGHUP.
pub(crate) fn stop_on_signals() -> Result<CancellationToken, Failure> {
    use tokio::signal::unix::{SignalKind, signal};
    let stop = CancellationToken::new();
    let mut interrupt = signal(SignalKind::interrupt()).because(Code::Internal, "cannot listen for Ctrl-C")?;
    let mut terminate = signal(SignalKind::terminate()).because(Code::Internal, "cannot listen for SIGTERM")?;
    let mut hangup = signal(SignalKind::hangup()).because(Code::Internal, "cannot listen for SIGHUP")?;
    let told = stop.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = hangup.recv() => {}
        }
        told.cancel();
    });
    Ok(stop)
}
