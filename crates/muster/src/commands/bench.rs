//! `muster bench`: figures of this machine, each told with the machine and the parameters that it was measured with.

mod chain;
mod epoch;
mod gateway;
mod gpu;
mod idle;
mod job;
mod lease;
mod matching;
mod model;
mod own;
mod proof;
mod stream;

use std::time::Duration;

use muster_gpu::HostReport;
use serde::Serialize;
use serde_json::Value;

use super::container_admin::init::existing;
use super::{Context, stop_on_signals};
use crate::cli::{BenchArgs, BenchCommand};
use crate::failure::{Because, Code, Failure};

/// The one object that a measurement prints.
#[derive(Debug, Serialize)]
struct Report {
    bench: &'static str,
    machine: Machine,
    parameters: Value,
    figures: Value,
}

/// What it was measured on.
#[derive(Debug, Serialize)]
struct Machine {
    cpu_model: String,
    cores: u32,
    memory_bytes: u64,
    kernel: String,
    os: String,
    architecture: String,
    /// What holds the folder of the measurement: a durable write on `tmpfs` costs nothing, on a disk it does.
    file_system: String,
    /// `release` or `debug`: figures of the latter say little.
    build: &'static str,
}

/// What one measurement gives: its name, parameters and figures.
type Measured = (&'static str, Value, Value);

/// Measures and prints.
pub(super) async fn run(cx: &Context, args: BenchArgs) -> Result<u8, Failure> {
    if let BenchCommand::Gateway(args) = &args.what
        && let Some(dir) = &args.serve
    {
        return Box::pin(gateway::serve_part(args, dir)).await.map(|()| 0);
    }
    let machine = Machine::read(cx)?;
    let stop = stop_on_signals()?;
    let measured = async {
        match args.what {
            BenchCommand::Chain { transfers } => chain::run(cx, transfers).await,
            BenchCommand::Epoch { containers, licences } => epoch::run(containers, licences).await,
            BenchCommand::Job { jobs } => job::run(cx, jobs).await,
            BenchCommand::Lease { leases, concurrency } => lease::run(cx, leases, concurrency).await,
            BenchCommand::Match { containers, matches } => matching::run(containers, matches).await,
            BenchCommand::Model(args) => {
                let choice = model::Choice {
                    file: args.file,
                    prompt: args.prompt,
                    drawn: args.drawn,
                    threads: args.threads,
                    rounds: args.rounds,
                    deploys: args.deploys,
                };
                Box::pin(model::run(cx, choice)).await
            }
            BenchCommand::Gateway(args) => Box::pin(gateway::run(cx, args)).await,
            BenchCommand::Gpu { quick } => gpu::run(cx, quick).await,
            BenchCommand::Proof { proofs } => proof::run(proofs).await,
            BenchCommand::Idle { containers } => idle::run(cx, containers).await,
            BenchCommand::Stream { seconds, clicks, starts, game, modules } => {
                let choice = stream::Choice { seconds, clicks, starts, game, modules };
                Box::pin(stream::run(cx, choice)).await
            }
        }
    };
    // Whichever way it ends, processes and folders of the measurement go with what is dropped here.
    let (bench, parameters, figures) = tokio::select! {
        measured = Box::pin(measured) => measured?,
        () = stop.cancelled() => return Err(Failure::new(Code::Stopped, "stopped before the measurement was done")),
    };
    let report = Report { bench, machine, parameters, figures };
    cx.output.result(&report, || text(&report));
    Ok(0)
}

impl Machine {
    fn read(cx: &Context) -> Result<Self, Failure> {
        let folder = existing(cx.dirs.root());
        let host = HostReport::read(folder).because(Code::Internal, "the machine cannot be looked at")?;
        Ok(Self {
            cpu_model: host.cpu_model,
            cores: host.cpus,
            memory_bytes: host.memory_bytes,
            kernel: host.kernel,
            os: host.system,
            architecture: host.architecture,
            file_system: file_system(folder),
            build: if cfg!(debug_assertions) { "debug" } else { "release" },
        })
    }
}

/// The type of the mount that holds a folder, as the system names it; `unknown` where it does not tell.
fn file_system(folder: &std::path::Path) -> String {
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let folder = folder.canonicalize().unwrap_or_else(|_| folder.to_owned());
    let fields = mounts.lines().filter_map(|line| {
        let mut words = line.split(' ').skip(1);
        Some((words.next()?, words.next()?))
    });
    let holding = fields.filter(|(at, _)| folder.starts_with(at)).max_by_key(|(at, _)| at.len());
    holding.map_or("unknown", |(_, kind)| kind).to_owned()
}

fn text(report: &Report) -> String {
    let m = &report.machine;
    let mut lines = vec![format!("{} ({})", report.bench, plain(&report.parameters))];
    for (name, value) in report.figures.as_object().into_iter().flatten() {
        match value.as_array() {
            None => lines.push(format!("  {name:<24} {}", short(value))),
            Some(rows) => lines.extend(rows.iter().map(|row| format!("  {name:<24} {}", plain(row)))),
        }
    }
    lines.push(format!("  on {} cores {}, {}, {}, {} build", m.cores, m.cpu_model, m.os, m.file_system, m.build));
    lines.join("\n")
}

fn plain(parameters: &Value) -> String {
    let pairs = parameters.as_object().into_iter().flatten().map(|(name, value)| format!("{name} {}", short(value)));
    pairs.collect::<Vec<_>>().join(", ")
}

fn short(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Number(number) if number.is_f64() => format!("{:.2}", number.as_f64().unwrap_or(f64::NAN)),
        other => other.to_string(),
    }
}

/// The value below which so many of a hundred lie, by the nearest rank; 0 of nothing.
fn percentile(sorted: &[Duration], percent: usize) -> Duration {
    let rank = (sorted.len() * percent).div_ceil(100).max(1);
    sorted.get(rank - 1).copied().unwrap_or_default()
}

/// Milliseconds, to the microsecond.
fn ms(time: Duration) -> f64 {
    (time.as_secs_f64() * 1_000_000.0).round() / 1_000.0
}

/// How many in a second, to a tenth.
fn per_second(count: usize, time: Duration) -> f64 {
    #[allow(clippy::cast_precision_loss, reason = "counts of a measurement are far below 2^53")]
    let rate = count as f64 / time.as_secs_f64();
    (rate * 10.0).round() / 10.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_of_the_nearest_rank() {
        let times: Vec<Duration> = (1..=200).map(Duration::from_millis).collect();
        assert_eq!(percentile(&times, 50), Duration::from_millis(100));
        assert_eq!(percentile(&times, 99), Duration::from_millis(198));
        assert_eq!(percentile(&times[..1], 99), Duration::from_millis(1));
        assert_eq!(percentile(&[], 50), Duration::ZERO);
    }

    #[test]
    fn figures_are_rounded_and_shown() {
        assert_eq!(ms(Duration::from_nanos(1_234_567)), 1.235);
        assert_eq!(per_second(1, Duration::from_secs(3)), 0.3);
        assert_eq!(short(&serde_json::json!(1.5)), "1.50");
        assert_eq!(plain(&serde_json::json!({ "a": 1, "b": "x" })), "a 1, b x");
    }

    #[test]
    fn the_file_system_of_proc_is_known() {
        assert_eq!(file_system(std::path::Path::new("/proc/self")), "proc");
    }
}
