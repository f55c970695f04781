//! What `muster bench gateway` is told.

use std::path::PathBuf;

use clap::Args;
use muster_gateway::bench::Peer;

/// Arguments of `muster bench gateway`.
#[derive(Args, Debug, Clone)]
pub(crate) struct GatewayBenchArgs {
    /// Rounds; everything is measured once in each, in turn.
    #[arg(long, default_value_t = 3, value_name = "N")]
    pub(crate) rounds: usize,
    /// Seconds of each measurement of a round.
    #[arg(long, default_value_t = 3, value_name = "N")]
    pub(crate) seconds: u64,
    /// Connections that ask for whole answers.
    #[arg(long, default_value_t = 64, value_name = "N")]
    pub(crate) connections: usize,
    /// Connections that ask for streamed answers.
    #[arg(long, default_value_t = 1_000, value_name = "N")]
    pub(crate) streams: usize,
    /// Tokens of a streamed answer.
    #[arg(long, default_value_t = 100, value_name = "N")]
    pub(crate) tokens: u64,
    /// The played model sends each token by itself, in turn with those of all other streams, as an engine does that draws
    /// one for each answer at a time; otherwise whatever is taken at once.
    #[arg(long)]
    pub(crate) apart: bool,
    /// Where the played model listens on this machine, so that peers can be told before; 0 takes any free port.
    #[arg(long, default_value_t = 0, value_name = "PORT")]
    pub(crate) upstream_port: u16,
    /// Another server before the played model, measured in turn: NAME=HOST:PORT, with KEY@ before the host where it wants
    /// one. Its model is called `bench`.
    #[arg(long = "peer", value_name = "PEER")]
    pub(crate) peers: Vec<Peer>,
    /// Serve as the Gateway that is measured, in this folder.
    #[arg(long, hide = true, value_name = "DIR")]
    pub(crate) serve: Option<PathBuf>,
    /// What that Gateway asks; a played engine in its process otherwise.
    #[arg(long, hide = true, value_name = "URL", requires = "serve")]
    pub(crate) from: Option<String>,
}
