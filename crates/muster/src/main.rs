//! Muster: the one binary. It parses, calls, and turns failures into exit codes.
#![cfg_attr(test, allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test"))]

mod calibration;
mod cli;
mod commands;
mod crashes;
mod dirs;
mod engines;
mod failure;
mod hidden;
mod output;
mod serve;
mod streams;
mod supervise;
mod wallets;

use std::io::IsTerminal;
use std::process::ExitCode;

use clap::Parser;

use crate::cli::{Cli, Global, LogFormat};
use crate::failure::Failure;
use crate::output::Output;

fn main() -> ExitCode {
    // Re-executions of this binary inside a Sandbox and for driver probes come before everything else.
    if let Some(code) = hidden::dispatch() {
        return code;
    }
    let cli = Cli::parse();
    let output = Output::new(cli.global.json);
    match start(cli) {
        Ok(code) => ExitCode::from(code),
        Err(failure) => {
            report(output, &failure);
            ExitCode::from(failure.code as u8)
        }
    }
}

/// The sentence on standard error; with --json also one object on standard output.
fn report(output: Output, failure: &Failure) {
    if output.is_json() {
        let value = serde_json::json!({ "error": { "code": failure.code as u8, "name": format!("{:?}", failure.code), "message": failure.why } });
        output.result(&value, String::new);
    } else {
        output::warn(&format!("muster: {failure}"));
    }
}

fn start(cli: Cli) -> Result<u8, Failure> {
    muster_net::install_crypto_provider();
    let serves = commands::is_role(&cli.command);
    log(&cli.global, serves);
    // More threads than cores only hand work to one another.
    let cores = std::thread::available_parallelism().map_or(2, std::num::NonZero::get);
    let workers = if serves { 2 } else { cores.clamp(2, 4) };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(workers)
        .enable_all()
        .build()
        .map_err(|e| Failure::new(failure::Code::Internal, format!("cannot start the runtime: {e}")))?;
    let result = runtime.block_on(commands::dispatch(cli));
    runtime.shutdown_timeout(std::time::Duration::from_millis(300));
    result
}

/// Logs go to standard error: roles tell changes of state, commands only what is wrong.
fn log(global: &Global, serves: bool) {
    let default = if serves {
        "info,iroh=warn,noq=warn,quinn=warn,netwatch=warn,hyper=warn"
    } else {
        "error,muster=warn,iroh=off"
    };
    let text = global.log.clone().or_else(|| std::env::var("RUST_LOG").ok());
    let filter = tracing_subscriber::EnvFilter::try_new(text.as_deref().unwrap_or(default))
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new(default));
    // A terminal that was closed must not take the supervisor of a network with it: what cannot be written is dropped.
    let builder =
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).log_internal_errors(false);
    match global.log_format {
        LogFormat::Json => builder.json().flatten_event(true).init(),
        LogFormat::Text => builder.with_ansi(std::io::stderr().is_terminal()).init(),
    }
}
