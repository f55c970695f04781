//! Arguments of `muster gateway`, `muster api-key`, `muster app` and `muster session`.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Subcommand};
use muster_core::demand::{Place, Region};
use muster_core::hardware::Cores;
use muster_core::units::UsdMicro;

use super::{RoleArgs, TimeLimit};

/// `muster gateway`.
#[derive(Subcommand, Debug)]
pub(crate) enum GatewayCommand {
    /// Serve: pages, the API, live sessions.
    Run(GatewayRunArgs),
}

/// Arguments of `muster gateway run`.
#[derive(Args, Debug, Clone)]
pub(crate) struct GatewayRunArgs {
    #[command(flatten)]
    pub(crate) role: RoleArgs,
    /// Address and port of pages and API; port 0 takes any free one.
    #[arg(long, default_value = "127.0.0.1:8600", value_name = "ADDR:PORT")]
    pub(crate) listen: SocketAddr,
    /// The address that links begin with, where a proxy stands before it: `https://play.example`.
    #[arg(long, value_name = "URL")]
    pub(crate) origin: Option<String>,
    /// A STUN server for players, `stun:HOST:PORT`; may be given more than once.
    #[arg(long, value_name = "URL")]
    pub(crate) stun: Vec<String>,
    /// A TURN server for players, `turn:HOST:PORT`, with its user and password in MUSTER_TURN_USER and MUSTER_TURN_PASSWORD.
    #[arg(long, value_name = "URL")]
    pub(crate) turn: Vec<String>,
    /// Sessions that one account may run at once.
    #[arg(long, default_value_t = 4, value_name = "N")]
    pub(crate) sessions_max: usize,
    /// Take apps only from who stakes for them on the chain.
    #[arg(long)]
    pub(crate) app_stake: bool,
    /// Answer accounts only out of what they have paid in beforehand (`muster account top-up`).
    #[arg(long)]
    pub(crate) prepaid: bool,
}

/// `muster api-key`.
#[derive(Subcommand, Debug)]
pub(crate) enum ApiKeyCommand {
    /// Make a key; it is shown this one time.
    New(ApiKeyNewArgs),
    /// List keys.
    #[command(visible_alias = "list")]
    Ls {
        /// With what each may do, instead of its name alone.
        #[arg(long, short)]
        long: bool,
    },
    /// Take a key's rights away.
    Revoke {
        /// Which.
        name: String,
    },
    /// Show what keys have used of models this month.
    Usage {
        /// Which [default: all].
        name: Option<String>,
    },
}

/// Arguments of `muster api-key new`.
#[derive(Args, Debug, Clone)]
pub(crate) struct ApiKeyNewArgs {
    /// What to call it.
    pub(crate) name: String,
    /// Whose it is [default: an account of its own name].
    #[arg(long, value_name = "NAME")]
    pub(crate) account: Option<String>,
    /// What it opens; may be given more than once [default: all].
    #[arg(long, value_enum, value_name = "WHAT")]
    pub(crate) scope: Vec<KeyScope>,
    /// A model that it may ask; may be given more than once [default: all].
    #[arg(long, value_name = "NAME")]
    pub(crate) model: Vec<String>,
    /// The most that it may spend on models, ever, in US dollars.
    #[arg(long, value_name = "USD")]
    pub(crate) budget: Option<UsdMicro>,
    /// The most that it may spend on models in a calendar month (UTC), in US dollars.
    #[arg(long, value_name = "USD")]
    pub(crate) budget_month: Option<UsdMicro>,
    /// For how many days it is good.
    #[arg(long, value_name = "DAYS")]
    pub(crate) expires_days: Option<u32>,
    /// Requests to models that it may make in a minute.
    #[arg(long, value_name = "N")]
    pub(crate) requests_per_minute: Option<u32>,
    /// Tokens that it may read and draw in a minute.
    #[arg(long, value_name = "N")]
    pub(crate) tokens_per_minute: Option<u64>,
    /// Requests to models that it may have answered at once.
    #[arg(long, value_name = "N")]
    pub(crate) requests_at_once: Option<u32>,
}

/// What a key opens.
#[derive(clap::ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum KeyScope {
    /// Asking models: `/v1`.
    Models,
    /// Apps and live sessions: `/api/v1`.
    Sessions,
}

/// Where the Gateway is, and the key that opens it.
#[derive(Args, Debug, Clone)]
pub(crate) struct AtGateway {
    /// The Gateway's address [default: that of this folder's `muster up`].
    #[arg(long, env = "MUSTER_GATEWAY", value_name = "URL")]
    pub(crate) gateway: Option<String>,
    /// A file that holds the API key (also: MUSTER_API_KEY) [default: DIR/gateway.key].
    #[arg(long, env = "MUSTER_API_KEY_FILE", value_name = "FILE")]
    pub(crate) key_file: Option<PathBuf>,
}

/// `muster app`.
#[derive(Subcommand, Debug)]
pub(crate) enum AppCommand {
    /// Publish an app, or a new version of it.
    Publish {
        /// Its file; docs/apps.md explains each field.
        file: PathBuf,
        /// Pay the stake that the Gateway asks for, without a question.
        #[arg(long, short)]
        yes: bool,
        #[command(flatten)]
        at: AtGateway,
    },
    /// List apps.
    #[command(visible_alias = "list")]
    Ls {
        #[command(flatten)]
        at: AtGateway,
    },
    /// Show an app.
    Show {
        /// Which.
        name: String,
        #[command(flatten)]
        at: AtGateway,
    },
    /// Withdraw an app and ask its stake back; sessions that run go on.
    Withdraw(AppWithdrawArgs),
    /// Bring back stakes of withdrawn apps whose unbonding time is over.
    Claim {
        /// Of this app only [default: all of the wallet's].
        name: Option<String>,
    },
}

/// Arguments of `muster app withdraw`.
#[derive(Args, Debug, Clone)]
pub(crate) struct AppWithdrawArgs {
    /// Which.
    pub(crate) name: String,
    /// Withdraw it from this Gateway alone: the stake stands on for others.
    #[arg(long)]
    pub(crate) keep_stake: bool,
    /// Ask the stake back without a Gateway: one that is gone cannot be told.
    #[arg(long, conflicts_with = "keep_stake")]
    pub(crate) stake_only: bool,
    #[command(flatten)]
    pub(crate) at: AtGateway,
}

/// `muster session`.
#[derive(Subcommand, Debug)]
pub(crate) enum SessionCommand {
    /// Start an app on a Container and print the link to play it.
    Start(SessionStartArgs),
    /// List sessions.
    #[command(visible_alias = "list")]
    Ls {
        #[command(flatten)]
        at: AtGateway,
    },
    /// Show a session.
    Show {
        /// Which.
        id: String,
        #[command(flatten)]
        at: AtGateway,
    },
    /// Make a new link to a session; the one before it is good no more.
    Link {
        /// Which.
        id: String,
        #[command(flatten)]
        at: AtGateway,
    },
    /// End a session; what has run is billed, the rest of the deposit comes back.
    Stop {
        /// Which.
        id: String,
        #[command(flatten)]
        at: AtGateway,
    },
}

/// Arguments of `muster session start`.
#[derive(Args, Debug, Clone)]
pub(crate) struct SessionStartArgs {
    /// Name of a published app; `muster app ls` lists them.
    pub(crate) app: String,
    /// Where: a region, as owners name it.
    #[arg(long, value_name = "NAME")]
    pub(crate) region: Option<Region>,
    /// The player's place in degrees north and east, `45.508,-73.587`: the nearest Containers are looked at first.
    #[arg(long, value_name = "LAT,LON", allow_hyphen_values = true)]
    pub(crate) near: Option<Place>,
    /// The greatest round trip to the Container, in milliseconds.
    #[arg(long, value_name = "MS")]
    pub(crate) max_latency: Option<u32>,
    /// Size of the picture [default: the app's usual one].
    #[arg(long, value_name = "WxH")]
    pub(crate) resolution: Option<String>,
    /// Frames a second [default: the app's usual one].
    #[arg(long, value_name = "N")]
    pub(crate) fps: Option<u8>,
    /// Cores to rent, where that shall be more than the app needs at least.
    #[arg(long, value_name = "N", value_parser = super::parse_cores)]
    pub(crate) cpus: Option<Cores>,
    /// The longest that it may last: `30m`, `2h`.
    #[arg(long, default_value = "1h", value_name = "LIMIT")]
    pub(crate) time: TimeLimit,
    /// The keyboard's layout, as XKB names it.
    #[arg(long, default_value = "us", value_name = "NAME")]
    pub(crate) layout: String,
    /// Open the link in a browser of this machine.
    #[arg(long)]
    pub(crate) open: bool,
    #[command(flatten)]
    pub(crate) at: AtGateway,
}
