//! Arguments of `muster gateway`, `muster api-key`, `muster app` and `muster session`.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Subcommand};
use muster_core::demand::{Place, Region};
use muster_core::hardware::Cores;

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
}

/// `muster api-key`.
#[derive(Subcommand, Debug)]
pub(crate) enum ApiKeyCommand {
    /// Make a key; it is shown this one time.
    New {
        /// What to call it.
        name: String,
    },
    /// List the names of keys.
    Ls,
    /// Take a key's rights away.
    Revoke {
        /// Which.
        name: String,
    },
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
    /// Withdraw an app; sessions that run go on.
    Withdraw {
        /// Which.
        name: String,
        #[command(flatten)]
        at: AtGateway,
    },
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
