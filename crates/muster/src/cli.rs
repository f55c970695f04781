//! The command line, as clap sees it. `run.rs`, `lease.rs` … turn these low-level arguments into
//! high-level ones once.

mod account;
mod bench;
mod checkers;
mod live;
pub(crate) mod model;

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

pub(crate) use account::AccountCommand;
pub(crate) use bench::GatewayBenchArgs;
pub(crate) use checkers::{CheckerCommand, CheckerInitArgs, EpochChoice, EpochCommand, LicenceCommand};
use clap::{Args, Parser, Subcommand, ValueEnum};
pub(crate) use live::{
    ApiKeyCommand, ApiKeyNewArgs, AppCommand, AppWithdrawArgs, AtGateway, GatewayCommand, GatewayRunArgs, KeyScope,
    SessionCommand, SessionStartArgs,
};
use model::ModelCommand;
use muster_core::demand::{Objective, Place, Region};
use muster_core::hardware::{Cores, GpuModel};
use muster_core::ids::{Address, LeaseId};
use muster_core::pricing::UsdPerHour;
use muster_core::units::{Bytes, TokenAmount};

/// Muster: a cloud of GPUs that belong to many owners.
#[derive(Parser, Debug)]
#[command(name = "muster", version, propagate_version = true, max_term_width = 100)]
#[command(after_help = "Exit codes are listed in docs/exit-codes.md; every command takes --help.")]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What every command takes.
#[derive(Args, Debug, Clone)]
pub(crate) struct Global {
    /// Folder for everything Muster keeps [default: $XDG_DATA_HOME/muster or ~/.local/share/muster].
    #[arg(long, global = true, env = "MUSTER_DIR", value_name = "DIR")]
    pub(crate) dir: Option<PathBuf>,
    /// The network to use [default: DIR/network.toml].
    #[arg(long, global = true, env = "MUSTER_NETWORK", value_name = "FILE")]
    pub(crate) network: Option<PathBuf>,
    /// The chain's JSON-RPC address, instead of the one in the network file.
    #[arg(long, global = true, env = "MUSTER_RPC", value_name = "URL")]
    pub(crate) rpc: Option<String>,
    /// Which wallet pays: a name in DIR/wallets, or a keystore file (also: MUSTER_WALLET).
    #[arg(long, global = true, value_name = "NAME|FILE")]
    pub(crate) wallet: Option<String>,
    /// A file that holds the wallet's passphrase (also: MUSTER_PASSPHRASE, or a prompt).
    #[arg(long, global = true, env = "MUSTER_PASSPHRASE_FILE", value_name = "FILE")]
    pub(crate) passphrase_file: Option<PathBuf>,
    /// Print JSON for programs; field names are in docs/json.md.
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// How logs look on standard error.
    #[arg(long, global = true, env = "MUSTER_LOG_FORMAT", value_enum, default_value_t = LogFormat::Text)]
    pub(crate) log_format: LogFormat,
    /// Which logs to show, as in RUST_LOG: `warn`, `info`, `muster_container=debug`.
    #[arg(long, global = true, env = "MUSTER_LOG", value_name = "FILTER")]
    pub(crate) log: Option<String>,
}

/// How logs look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// The commands.
#[derive(Subcommand, Debug)]
pub(crate) enum Command {
    /// Start a whole network on this machine and do a first rental.
    Up(UpArgs),
    /// Rent a Container and run a command on it.
    Run(Box<RunArgs>),
    /// Look at leases, read their logs, stop them, add to their deposit.
    #[command(subcommand)]
    Lease(LeaseCommand),
    /// Offer this machine's capacity.
    #[command(subcommand)]
    Container(ContainerCommand),
    /// Match demand to Containers.
    #[command(subcommand)]
    Indexer(IndexerCommand),
    /// Run the embedded chain of a development or private network.
    #[command(subcommand)]
    Chain(ChainCommand),
    /// Run a relay for nodes behind NAT.
    #[command(subcommand)]
    Relay(RelayCommand),
    /// Run the beacon of a development network: public randomness over drand's API, with a key of its own.
    #[command(subcommand)]
    Beacon(BeaconCommand),
    /// Test Containers and settle epochs, for the owners of licences.
    #[command(subcommand)]
    Checker(CheckerCommand),
    /// Licences of Checkers: buy, delegate, claim their rewards.
    #[command(subcommand)]
    Licence(LicenceCommand),
    /// Epochs: who was drawn and why, and whether the outcome is right.
    #[command(subcommand)]
    Epoch(EpochCommand),
    /// Play an app that runs on somebody else's machine, in the browser.
    #[command(subcommand)]
    Session(SessionCommand),
    /// Deploy open models, look after them, talk to them.
    #[command(subcommand)]
    Model(ModelCommand),
    /// Publish apps that others play.
    #[command(subcommand)]
    App(AppCommand),
    /// Serve customers: pages, the API, live sessions.
    #[command(subcommand)]
    Gateway(GatewayCommand),
    /// Keys of a Gateway's API.
    #[command(subcommand)]
    ApiKey(ApiKeyCommand),
    /// Accounts of a Gateway: pay in beforehand, see what is left.
    #[command(subcommand)]
    Account(AccountCommand),
    /// Keys and tokens.
    #[command(subcommand)]
    Wallet(WalletCommand),
    /// Cards: what is here, and proving what they are.
    #[command(subcommand)]
    Gpu(GpuCommand),
    /// What this machine can offer, what is missing, and the command that installs it.
    Doctor,
    /// Measure Muster on this machine.
    Bench(BenchArgs),
    /// Print a completion script for a shell.
    Completions {
        /// Which shell.
        shell: clap_complete::Shell,
    },
    /// Signs vouchers for detached work; started on demand.
    #[command(subcommand, hide = true)]
    Agent(AgentCommand),
}

/// Arguments of `muster up`.
#[derive(Args, Debug, Clone)]
pub(crate) struct UpArgs {
    /// How many Containers share this machine [default: 4, or two a core where it has only one].
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=64), value_name = "N")]
    pub(crate) containers: Option<u16>,
    /// How many Checkers audit them, each with a licence.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(0..=16), value_name = "N")]
    pub(crate) checkers: u16,
    /// Add a Container that lies: about its proofs, and watch it being caught, slashed and jailed; or in the pictures of
    /// live sessions, which Checkers find out as players.
    #[arg(long, value_enum, num_args = 0..=1, default_missing_value = "proofs", value_name = "WHAT")]
    pub(crate) with_cheat: Option<Lie>,
    /// Where other machines reach this network; loopback when absent.
    #[arg(long, value_name = "ADDR")]
    pub(crate) listen: Option<IpAddr>,
    /// Do the first rental, print its receipt and end.
    #[arg(long)]
    pub(crate) once: bool,
    /// Start the network without renting anything.
    #[arg(long, conflicts_with = "once")]
    pub(crate) no_rental: bool,
    /// Port of the chain's JSON-RPC when the folder is new; 0 takes any free one.
    #[arg(long, default_value_t = 8545, value_name = "PORT")]
    pub(crate) rpc_port: u16,
    /// Port of the Gateway's pages and API; 0 takes any free one.
    #[arg(long, default_value_t = 8600, value_name = "PORT")]
    pub(crate) gateway_port: u16,
    /// Width of the first rental's pictures.
    #[arg(long, hide = true, default_value_t = 640)]
    pub(crate) picture_width: u16,
}

/// Arguments of `muster run`.
#[derive(Args, Debug, Clone)]
pub(crate) struct RunArgs {
    /// Cores, to a thousandth: `2`, `0.5`.
    #[arg(long, default_value = "0.5", value_name = "N", value_parser = parse_cores)]
    pub(crate) cpus: Cores,
    /// Memory: `512M`, `2G`.
    #[arg(long, default_value = "512M", value_name = "SIZE")]
    pub(crate) memory: Bytes,
    /// Disk for the work folder: `1G`.
    #[arg(long, default_value = "1G", value_name = "SIZE")]
    pub(crate) disk: Bytes,
    /// A model of GPU (`rtx 4090`), or `any`.
    #[arg(long, value_name = "MODEL")]
    pub(crate) gpu: Option<GpuChoice>,
    /// How many GPUs.
    #[arg(long, value_name = "N", requires = "gpu")]
    pub(crate) gpus: Option<u8>,
    /// The least memory of each GPU: `16G`.
    #[arg(long, value_name = "SIZE")]
    pub(crate) vram: Option<Bytes>,
    /// The least speed of each GPU in OctaneBench points (a GTX 980 has 100).
    #[arg(long, value_name = "N")]
    pub(crate) ob: Option<u32>,
    /// Where: a region as its owner names it, `ca` or `ca-east`.
    #[arg(long, value_name = "R")]
    pub(crate) region: Option<Region>,
    /// The most that an hour of one task may cost, in US dollars.
    #[arg(long, value_name = "USD")]
    pub(crate) max_price: Option<UsdPerHour>,
    /// What matters most.
    #[arg(long, default_value = "balanced", value_name = "cheapest|best|balanced")]
    pub(crate) objective: Objective,
    /// Let the job reach the internet, where the provider allows it.
    #[arg(long)]
    pub(crate) egress: bool,
    /// A file or folder to send along; may be given more than once.
    #[arg(long, value_name = "PATH")]
    pub(crate) input: Vec<PathBuf>,
    /// Where to put what the job leaves in its work folder.
    #[arg(long, value_name = "DIR")]
    pub(crate) output: Option<PathBuf>,
    /// Split into tasks A to B, each with its own MUSTER_TASK_INDEX, over as many Containers as fit.
    #[arg(long, value_name = "A-B")]
    pub(crate) array: Option<ArrayRange>,
    /// The longest that each task may run: `90s`, `10m`, `2h`.
    #[arg(long, default_value = "1h", value_name = "LIMIT")]
    pub(crate) time: TimeLimit,
    /// For how long the deposit of each task lasts, where that is less than --time: `10m`. When it is nearly used up you
    /// are warned; `muster lease top-up` adds to it, otherwise the task ends there.
    #[arg(long, value_name = "LENGTH")]
    pub(crate) deposit: Option<TimeLimit>,
    /// A variable for the job, NAME=VALUE; may be given more than once.
    #[arg(long, short = 'e', value_name = "NAME=VALUE")]
    pub(crate) env: Vec<EnvVar>,
    /// Feed standard input to the job.
    #[arg(long, short)]
    pub(crate) interactive: bool,
    /// Hand the lease to the local agent and return at once.
    #[arg(long, short)]
    pub(crate) detach: bool,
    /// The command and its arguments.
    #[arg(last = true, required = true, value_name = "CMD ARG")]
    pub(crate) command: Vec<String>,
}

/// `muster lease`.
#[derive(Subcommand, Debug)]
pub(crate) enum LeaseCommand {
    /// List leases.
    Ls {
        /// Also those that are over.
        #[arg(long, short)]
        all: bool,
    },
    /// Everything that is known of a lease.
    Show {
        /// The lease, or the first digits of its name.
        lease: String,
    },
    /// What the job wrote.
    Logs {
        /// The lease, or the first digits of its name.
        lease: String,
        /// Go on until the job ends.
        #[arg(long, short)]
        follow: bool,
    },
    /// Stop a job; what ran is billed.
    Stop {
        /// The lease, or the first digits of its name.
        lease: String,
    },
    /// Add to a deposit.
    TopUp {
        /// The lease, or the first digits of its name.
        lease: String,
        /// So many tokens.
        amount: TokenAmount,
    },
    /// Bring back deposits that are stuck: of Containers that vanished, and of leases given up before the chain
    /// answered.
    Reclaim,
}

/// `muster container`.
#[derive(Subcommand, Debug)]
pub(crate) enum ContainerCommand {
    /// Write a configuration for this machine, with a node key and a wallet.
    Init(ContainerInitArgs),
    /// Serve.
    Run(ContainerRunArgs),
    /// What runs and what it earned.
    Status,
    /// Finish what runs, take nothing new.
    Drain,
    /// Take offers again.
    Resume,
    /// Stop a job; counts as an interruption.
    Stop {
        /// The lease.
        lease: LeaseId,
    },
    /// Drain, then take the stake back.
    Leave,
    /// Claim what was earned and is due: fees of leases, rewards of epochs, stake that is free again.
    Claim,
    /// Add to the stake: lets a Container that was slashed and jailed serve again, once it has proved itself.
    TopUp {
        /// So many tokens [default: what is missing].
        amount: Option<TokenAmount>,
    },
}

/// Arguments of `muster container run`.
#[derive(Args, Debug, Clone)]
pub(crate) struct ContainerRunArgs {
    #[command(flatten)]
    pub(crate) role: RoleArgs,
    /// Lies in its proofs: leaves out so many per cent of the picture. Development networks only, to see it caught.
    #[arg(long, hide = true, value_name = "PERCENT")]
    pub(crate) cheat: Option<u8>,
    /// Lies in live sessions: shows players pictures that do not answer them. Development networks only.
    #[arg(long, hide = true)]
    pub(crate) cheat_frames: bool,
    /// Lies in answers: serves this GGUF file in place of every model. Development networks only.
    #[arg(long, hide = true, value_name = "FILE")]
    pub(crate) cheat_answers: Option<PathBuf>,
}

/// What the Container of `muster up --with-cheat` lies about.
#[derive(clap::ValueEnum, Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lie {
    /// Leaves out half of what it has to prove.
    Proofs,
    /// Shows players of live sessions a picture that is not made for them.
    Frames,
    /// Answers with another model than it is paid for.
    Answers,
}

/// Arguments of `muster container init`.
#[derive(Args, Debug, Clone)]
pub(crate) struct ContainerInitArgs {
    /// Cores to offer [default: all].
    #[arg(long, value_name = "N", value_parser = parse_cores)]
    pub(crate) cpus: Option<Cores>,
    /// Memory to offer [default: three quarters].
    #[arg(long, value_name = "SIZE")]
    pub(crate) memory: Option<Bytes>,
    /// Disk to offer [default: half of what is free].
    #[arg(long, value_name = "SIZE")]
    pub(crate) disk: Option<Bytes>,
    /// Disk for packages of apps, which are fetched from this machine's Debian sources; 0: none are fetched.
    #[arg(long, default_value = "8G", value_name = "SIZE")]
    pub(crate) apps_disk: Bytes,
    /// Disk for weights of models; 0: no models are served.
    #[arg(long, default_value = "20G", value_name = "SIZE")]
    pub(crate) models_disk: Bytes,
    #[command(flatten)]
    pub(crate) endpoint: model::EndpointArgs,
    /// Let jobs reach the internet.
    #[arg(long)]
    pub(crate) egress: bool,
    /// Where this machine is, as you name it: `ca-east`.
    #[arg(long, value_name = "R")]
    pub(crate) region: Option<Region>,
    /// Where that is, in degrees north and east: `45.508,-73.587`.
    #[arg(long, value_name = "LAT,LON", allow_hyphen_values = true)]
    pub(crate) place: Option<Place>,
    /// Address and port to listen on.
    #[arg(long, default_value = "0.0.0.0:0", value_name = "ADDR:PORT")]
    pub(crate) listen: SocketAddr,
}

/// Arguments of the roles that serve.
#[derive(Args, Debug, Clone)]
pub(crate) struct RoleArgs {
    /// Where /metrics and /healthz are served; loopback only.
    #[arg(long, default_value = "127.0.0.1:0", value_name = "ADDR:PORT")]
    pub(crate) health: SocketAddr,
    /// The supervisor; this process ends when it does.
    #[arg(long, hide = true, value_name = "PID")]
    pub(crate) supervisor: Option<i32>,
}

/// `muster indexer`.
#[derive(Subcommand, Debug)]
pub(crate) enum IndexerCommand {
    /// Serve.
    Run {
        #[command(flatten)]
        role: RoleArgs,
        /// Address and port to listen on.
        #[arg(long, value_name = "ADDR:PORT")]
        listen: Option<SocketAddr>,
    },
    /// Claim what it was rewarded for leases that it matched and that ran to their end.
    Claim,
}

/// `muster chain`.
#[derive(Subcommand, Debug)]
pub(crate) enum ChainCommand {
    /// Serve JSON-RPC.
    Run {
        #[command(flatten)]
        role: RoleArgs,
        /// Address and port of the JSON-RPC.
        #[arg(long, default_value = "127.0.0.1:8545", value_name = "ADDR:PORT")]
        listen: SocketAddr,
        /// Serve on an address that is not loopback.
        #[arg(long)]
        allow_remote: bool,
        /// The chain id of a new chain.
        #[arg(long, default_value_t = 31_337)]
        chain_id: u64,
    },
}

/// `muster relay`.
#[derive(Subcommand, Debug)]
pub(crate) enum RelayCommand {
    /// Serve.
    Run {
        #[command(flatten)]
        role: RoleArgs,
        /// Address and port to listen on.
        #[arg(long, default_value = "127.0.0.1:3340", value_name = "ADDR:PORT")]
        listen: SocketAddr,
    },
}

/// `muster beacon`.
#[derive(Subcommand, Debug)]
pub(crate) enum BeaconCommand {
    /// Serve rounds when they are due; the key is made on the first start, in this folder.
    Run {
        #[command(flatten)]
        role: RoleArgs,
        /// Address and port of the API.
        #[arg(long, default_value = "127.0.0.1:3350", value_name = "ADDR:PORT")]
        listen: SocketAddr,
        /// Serve on an address that is not loopback.
        #[arg(long)]
        allow_remote: bool,
        /// When round 1 came, in Unix seconds, as the network file says.
        #[arg(long, value_name = "SECONDS")]
        genesis: u64,
        /// Seconds between rounds.
        #[arg(long, default_value_t = 3, value_name = "SECONDS")]
        period: u64,
    },
}

/// `muster agent`.
#[derive(Subcommand, Debug)]
pub(crate) enum AgentCommand {
    /// Drive all leases that nobody else drives; ends when none is open.
    Run,
}

/// `muster wallet`.
#[derive(Subcommand, Debug)]
pub(crate) enum WalletCommand {
    /// Make a new wallet.
    New {
        /// Its name.
        #[arg(default_value = "default")]
        name: String,
    },
    /// Import a private key (64 hex digits) from a file or standard input, or a keystore file.
    Import {
        /// A file; `-` for standard input.
        file: PathBuf,
        /// Its name.
        #[arg(default_value = "default")]
        name: String,
    },
    /// List wallets.
    List,
    /// Tokens and ether of a wallet or address.
    Balance {
        /// A wallet's name or an address [default: the wallet of --wallet].
        who: Option<String>,
    },
    /// Send tokens.
    Send {
        /// To whom.
        to: Address,
        /// How many tokens.
        amount: TokenAmount,
        /// Send ether (for fees) instead of tokens.
        #[arg(long)]
        ether: bool,
    },
    /// Get tokens and ether on a development chain.
    Faucet {
        /// A wallet's name or an address [default: the wallet of --wallet].
        who: Option<String>,
        /// How many tokens.
        #[arg(long, default_value = "100000")]
        amount: TokenAmount,
    },
}

/// `muster gpu`.
#[derive(Subcommand, Debug)]
pub(crate) enum GpuCommand {
    /// What can prove on this machine, and what the calibration table says of it.
    List,
    /// Prove a card as a Checker would ask it, and verify the proof.
    Prove(GpuProveArgs),
    /// Sign a calibration table, for whoever issues one.
    SignCalibration {
        /// The table.
        table: PathBuf,
        /// A file with the issuer's secret key, 64 hex digits; made when it is not there.
        #[arg(long, value_name = "FILE")]
        key: PathBuf,
    },
}

/// Arguments of `muster gpu prove`.
#[derive(Args, Debug, Clone)]
pub(crate) struct GpuProveArgs {
    /// Which adapter of `muster gpu list` [default: the first].
    #[arg(long, value_name = "N")]
    pub(crate) adapter: Option<u32>,
    /// Write the proof's picture here, as PNG.
    #[arg(long, value_name = "FILE")]
    pub(crate) out: Option<PathBuf>,
    /// A development network's proof: about a second instead of five, and little memory.
    #[arg(long)]
    pub(crate) quick: bool,
    /// How much memory to prove [default: all of a card's, 64 MiB of software].
    #[arg(long, value_name = "SIZE")]
    pub(crate) vram: Option<Bytes>,
    /// The epoch of the challenge: another one is another picture.
    #[arg(long, default_value_t = 1, value_name = "N")]
    pub(crate) epoch: u64,
}

/// Arguments of `muster bench`.
#[derive(Args, Debug, Clone)]
pub(crate) struct BenchArgs {
    /// What to measure.
    #[command(subcommand)]
    pub(crate) what: BenchCommand,
}

/// `muster bench`.
#[derive(Subcommand, Debug, Clone)]
pub(crate) enum BenchCommand {
    /// Signed transfers through JSON-RPC, durable.
    Chain {
        /// How many transfers.
        #[arg(long, default_value_t = 20_000)]
        transfers: u32,
    },
    /// Draw and settlement of one epoch: outcome, Merkle root and published data, in one process.
    Epoch {
        /// How many Containers.
        #[arg(long, default_value_t = 100_000)]
        containers: u32,
        /// How many licences.
        #[arg(long, default_value_t = 10_000)]
        licences: u32,
    },
    /// What a Gateway adds to a request of a model, and how many it carries, over a model that answers at once.
    Gateway(GatewayBenchArgs),
    /// Live sessions in a real browser: how old the picture is, how fast input shows, what a frame costs.
    Stream {
        /// Seconds of each run.
        #[arg(long, default_value_t = 8, value_name = "N")]
        seconds: u32,
        /// Clicks of each run.
        #[arg(long, default_value_t = 24, value_name = "N")]
        clicks: u32,
        /// Sessions that are started to measure the first frame.
        #[arg(long, default_value_t = 10, value_name = "N")]
        starts: u32,
        /// Play a level of Neverball as well; its Debian packages are fetched first.
        #[arg(long)]
        game: bool,
        /// Folder that holds playwright-core, which drives the browser.
        #[arg(long, default_value = "console/node_modules", value_name = "DIR")]
        modules: PathBuf,
    },
    /// `true` from request to exit, on a network of its own.
    Job {
        /// How many jobs.
        #[arg(long, default_value_t = 100)]
        jobs: u32,
    },
    /// Leases opened, vouchered and closed through real sockets, with empty workloads.
    Lease {
        /// How many leases.
        #[arg(long, default_value_t = 5_000)]
        leases: u32,
        /// How many at a time. More of them make the rate higher and each lease slower: what is under way is the rate
        /// times the time that a lease takes.
        #[arg(long, default_value_t = 16)]
        concurrency: u32,
    },
    /// Matches a second over many Containers, in one process on one core.
    Match {
        /// How many Containers.
        #[arg(long, default_value_t = 100_000)]
        containers: usize,
        /// How many matches.
        #[arg(long, default_value_t = 200_000)]
        matches: usize,
    },
    /// The engine of models beside llama.cpp by itself, and a deployment from the request to its first token.
    Model(model::BenchModelArgs),
    /// Speed of this machine's cards by the proof's own kernels, in OctaneBench points.
    Gpu {
        /// A development network's amount of work.
        #[arg(long)]
        quick: bool,
    },
    /// What verifying a proof costs at production's parameters, on one core.
    Proof {
        /// How many proofs.
        #[arg(long, default_value_t = 5)]
        proofs: u32,
    },
    /// Memory of an idle network, and how long a second start takes.
    Idle {
        /// How many Containers.
        #[arg(long, default_value_t = 4)]
        containers: u16,
    },
}

/// `--cpus`: cores to a thousandth.
fn parse_cores(text: &str) -> Result<Cores, String> {
    let help = || format!("{text:?} is not a number of cores; write for example 2 or 0.5");
    let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
    if fraction.is_empty() || fraction.len() > 3 || !fraction.bytes().all(|b| b.is_ascii_digit()) {
        return Err(help());
    }
    let whole: u32 = whole.parse().map_err(|_| help())?;
    let millis: u32 = format!("{fraction:0<3}").parse().map_err(|_| help())?;
    whole.checked_mul(1_000).and_then(|w| w.checked_add(millis)).filter(|m| *m > 0).map(Cores).ok_or_else(help)
}

/// `--gpu`: a model, or any.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum GpuChoice {
    /// Whatever model.
    Any,
    /// This one.
    Model(GpuModel),
}

impl std::str::FromStr for GpuChoice {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        if text == "any" {
            return Ok(Self::Any);
        }
        GpuModel::new(text).map(Self::Model).map_err(|why| why.to_string())
    }
}

/// `--array A-B`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ArrayRange {
    /// The first index.
    pub(crate) first: u32,
    /// The last index.
    pub(crate) last: u32,
}

impl std::str::FromStr for ArrayRange {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let help = || format!("{text:?} is not a range; write for example 0-23");
        let (first, last) = text.split_once('-').ok_or_else(help)?;
        let first: u32 = first.parse().map_err(|_| help())?;
        let last: u32 = last.parse().map_err(|_| help())?;
        if last < first {
            return Err(format!("{text:?} ends before it begins"));
        }
        if last - first >= 10_000 {
            return Err(format!("{text:?} has more than 10000 tasks"));
        }
        Ok(Self { first, last })
    }
}

/// `--time`: seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TimeLimit(pub(crate) u64);

impl std::str::FromStr for TimeLimit {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let help = || format!("{text:?} is not a length of time; write for example 90s, 10m, 2h or 1d");
        let split = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        let (number, unit) = text.split_at(split);
        let number: u64 = number.parse().map_err(|_| help())?;
        let factor = match unit {
            "" | "s" => 1,
            "m" | "min" => 60,
            "h" => 3_600,
            "d" => 86_400,
            _ => return Err(help()),
        };
        number.checked_mul(factor).filter(|s| *s > 0).map(Self).ok_or_else(help)
    }
}

/// `--env NAME=VALUE`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct EnvVar {
    /// The name.
    pub(crate) name: String,
    /// The value.
    pub(crate) value: String,
}

impl std::str::FromStr for EnvVar {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once('=') {
            Some((name, value)) if !name.is_empty() => Ok(Self { name: name.to_owned(), value: value.to_owned() }),
            _ => Err(format!("{text:?} is not NAME=VALUE")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_wallet_of_a_conversation_needs_no_name() {
        let chat = |args: &[&str]| {
            let cli = Cli::try_parse_from([&["muster"], args].concat()).unwrap();
            let Command::Model(ModelCommand::Chat(chat)) = cli.command else { panic!("no conversation: {args:?}") };
            (chat.wallet, chat.name, chat.prompt)
        };
        let (tiny, hi) = ("tiny".to_owned(), Some("hi".to_owned()));
        assert_eq!(chat(&["model", "chat", "tiny", "hi"]), (None, tiny.clone(), hi.clone()));
        let bare = (Some(String::new()), tiny.clone(), hi.clone());
        assert_eq!(chat(&["model", "chat", "--wallet", "tiny", "hi"]), bare);
        assert_eq!(chat(&["model", "chat", "tiny", "hi", "--wallet"]), bare);
        let named = (Some("other".to_owned()), tiny, hi);
        assert_eq!(chat(&["model", "chat", "tiny", "--wallet=other", "hi"]), named);
        assert_eq!(chat(&["--wallet", "other", "model", "chat", "tiny", "hi"]), named);
    }

    #[test]
    fn values_say_what_is_wrong() {
        assert_eq!(parse_cores("0.25"), Ok(Cores(250)));
        assert_eq!(parse_cores("2"), Ok(Cores(2_000)));
        assert!(["", "0", "-1", "1.", "0.0001", "x"].into_iter().all(|bad| parse_cores(bad).is_err()));
        assert_eq!("0-23".parse(), Ok(ArrayRange { first: 0, last: 23 }));
        assert_eq!("5-1".parse::<ArrayRange>(), Err("\"5-1\" ends before it begins".to_owned()));
        assert!("x".parse::<ArrayRange>().is_err());
        assert_eq!("2h".parse(), Ok(TimeLimit(7_200)));
        assert!("0s".parse::<TimeLimit>().is_err());
        assert!("2 weeks".parse::<TimeLimit>().is_err());
        assert_eq!("A=b=c".parse(), Ok(EnvVar { name: "A".into(), value: "b=c".into() }));
        assert!("=x".parse::<EnvVar>().is_err());
    }
}
