//! What a Gateway adds to a request of a model, and how many it carries: a Gateway in a process of its own, a model that
//! answers at once, and whoever else stands before that model.

use std::path::Path;
use std::time::Duration;

use muster_gateway::bench::{BenchError, Plan, run as measure, serve};
use serde_json::json;
use tokio::process::Command;

use super::Measured;
use super::own::Scratch;
use crate::cli::GatewayBenchArgs;
use crate::commands::Context;
use crate::failure::{Because, Code, Failure};

/// The process that is measured.
pub(super) async fn serve_part(args: &GatewayBenchArgs, dir: &Path) -> Result<(), Failure> {
    serve(dir, args.from.as_deref()).await.code(Code::Internal)
}

pub(super) async fn run(cx: &Context, args: GatewayBenchArgs) -> Result<Measured, Failure> {
    let plan = Plan {
        rounds: args.rounds,
        ran: Duration::from_secs(args.seconds),
        connections: args.connections,
        streams: args.streams,
        tokens: args.tokens,
        apart: args.apart,
        upstream_port: args.upstream_port,
        peers: args.peers,
    };
    plan.check().map_err(failure)?;
    let exe = std::env::current_exe().because(Code::Internal, "cannot find this program's own file")?;
    let command = |dir: &Path, from: Option<&str>| {
        let mut command = Command::new(&exe);
        command.args(["bench", "gateway", "--serve"]).arg(dir);
        command.args(from.into_iter().flat_map(|from| ["--from", from]));
        command
    };
    let scratch = Scratch::new(cx)?;
    let figures = Box::pin(measure(&plan, scratch.path(), command, |note| cx.output.note(note))).await;
    scratch.remove()?;
    let figures = figures.map_err(failure)?;
    let parameters = json!({
        "rounds": plan.rounds, "seconds": plan.ran.as_secs(), "connections": plan.connections, "streams": plan.streams,
        "tokens": plan.tokens, "apart": plan.apart, "network": "loopback",
        "peers": plan.peers.iter().map(|peer| peer.name.as_str()).collect::<Vec<_>>().join(" "),
    });
    Ok(("gateway", parameters, figures.json()))
}

fn failure(error: BenchError) -> Failure {
    let code = match &error {
        BenchError::Zero(_) | BenchError::Peer(_) => Code::Config,
        BenchError::Load(_) => Code::Unreachable,
        BenchError::Io { .. } => Code::Io,
        BenchError::Gateway(_) | BenchError::Miscounted { .. } => Code::Internal,
    };
    Failure::new(code, error.to_string())
}
