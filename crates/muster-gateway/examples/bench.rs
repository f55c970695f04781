//! `muster bench gateway` without the rest of the binary.
//!
//! ```text
//! cargo run --release -p muster-gateway --example bench -- [--seconds N] [--rounds N] [--upstream-port N] [--peer PEER]…
//! ```

use std::error::Error;
use std::path::{Path, PathBuf};
use std::time::Duration;

use muster_gateway::bench::{Plan, run, serve};
use tokio::process::Command;

fn main() -> Result<(), Box<dyn Error>> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(Box::pin(measure(std::env::args().skip(1).collect())))
}

async fn measure(args: Vec<String>) -> Result<(), Box<dyn Error>> {
    let (mut plan, mut dir, mut from) = (Plan::default(), None, None);
    let mut args = args.into_iter();
    while let Some(name) = args.next() {
        if name == "--apart" {
            plan.apart = true;
            continue;
        }
        let value = args.next().ok_or_else(|| format!("{name} needs a value"))?;
        match name.as_str() {
            "--serve" => dir = Some(PathBuf::from(value)),
            "--from" => from = Some(value),
            "--seconds" => plan.ran = Duration::try_from_secs_f64(value.parse()?)?,
            "--rounds" => plan.rounds = value.parse()?,
            "--connections" => plan.connections = value.parse()?,
            "--streams" => plan.streams = value.parse()?,
            "--tokens" => plan.tokens = value.parse()?,
            "--upstream-port" => plan.upstream_port = value.parse()?,
            "--peer" => plan.peers.push(value.parse()?),
            _ => return Err(format!("{name} is not known").into()),
        }
    }
    if let Some(dir) = dir {
        return Ok(serve(&dir, from.as_deref()).await?);
    }
    let exe = std::env::current_exe()?;
    let command = |dir: &Path, from: Option<&str>| {
        let mut command = Command::new(&exe);
        command.arg("--serve").arg(dir);
        command.args(from.into_iter().flat_map(|from| ["--from", from]));
        command
    };
    let folder = tempfile::tempdir()?;
    let figures = run(&plan, folder.path(), command, |note| eprintln!("{note}")).await?;
    serde_json::to_writer_pretty(std::io::stdout(), &figures.json())?;
    eprintln!();
    Ok(())
}
