//! `muster-sim`: runs many seeds and stops at the first that breaks an invariant.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use muster_sim::audit::{self, AuditConfig};
use muster_sim::{Config, Outcome, World};

/// Simulates whole networks under virtual time and checks that nothing happens that must never happen.
#[derive(Parser, Debug)]
#[command(version, args_conflicts_with_subcommands = true)]
struct Args {
    #[command(subcommand)]
    what: Option<What>,
    /// How many seeds to run.
    #[arg(long, default_value_t = 100)]
    seeds: u64,
    /// The first seed; a failing seed is replayed with `--first SEED --seeds 1`.
    #[arg(long, default_value_t = 1)]
    first: u64,
    /// Virtual hours of faults per seed, beside the first minute.
    #[arg(long, default_value_t = 0)]
    hours: u64,
    /// Print one JSON object instead of text.
    #[arg(long)]
    json: bool,
}

/// What to simulate beside whole networks, which is what no subcommand means.
#[derive(Subcommand, Debug)]
enum What {
    /// Audits: bad Checkers and cheating Containers, with the formulas' values beside what is measured.
    Audit {
        /// Everything follows from it.
        #[arg(long, default_value_t = AuditConfig::default().seed)]
        seed: u64,
        /// Checkers.
        #[arg(long, default_value_t = AuditConfig::default().checkers, value_parser = clap::value_parser!(u32).range(30..))]
        checkers: u32,
        /// Containers.
        #[arg(long, default_value_t = AuditConfig::default().containers, value_parser = clap::value_parser!(u32).range(20..))]
        containers: u32,
        /// Days that honest Containers are audited for.
        #[arg(long, default_value_t = AuditConfig::default().days)]
        days: u64,
        /// Audits by which wrong verdicts are measured, at least.
        #[arg(long, default_value_t = AuditConfig::default().audits)]
        audits: u64,
        /// Print one JSON object instead of text.
        #[arg(long)]
        json: bool,
    },
}

#[allow(clippy::print_stdout, reason = "the output of a command-line tool")]
fn audits(config: &AuditConfig, json: bool) -> ExitCode {
    let report = audit::run(config);
    let complaints = report.complaints();
    if json {
        println!("{}", serde_json::json!({ "report": report, "complaints": complaints }));
    } else {
        print!("{report}");
        complaints.iter().for_each(|complaint| println!("not as it should be: {complaint}"));
    }
    if complaints.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

#[allow(clippy::print_stdout, reason = "the output of a command-line tool")]
fn main() -> ExitCode {
    let args = Args::parse();
    if let Some(What::Audit { seed, checkers, containers, days, audits: least, json }) = args.what {
        return audits(&AuditConfig { seed, checkers, containers, days, audits: least }, json);
    }
    let mut sum = Outcome::default();
    for seed in args.first..args.first.saturating_add(args.seeds) {
        let outcome = World::new(Config::drawn(seed, args.hours)).run();
        if !outcome.violations.is_empty() {
            if args.json {
                println!("{}", serde_json::json!({ "failed_seed": seed, "violations": outcome.violations }));
            } else {
                println!(
                    "seed {seed} broke an invariant; replay with: muster-sim --first {seed} --seeds 1 --hours {}",
                    args.hours
                );
                outcome.violations.iter().for_each(|v| println!("  {v}"));
            }
            return ExitCode::FAILURE;
        }
        sum.add(&outcome);
    }
    let seeds = args.seeds;
    if args.json {
        println!(
            "{}",
            serde_json::json!({ "seeds": seeds, "tasks_finished": sum.finished, "tasks_unmatched": sum.unmatched,
                "leases_retried": sum.retried, "leases": sum.leases, "crashes": sum.crashes, "burnt": sum.burnt,
                "failed_starts": sum.failed_starts, "time_limits": sum.time_limits, "top_ups": sum.top_ups,
                "deposits_used_up": sum.used_up, "early_starts": sum.early_starts, "early_unpaid": sum.early_unpaid, "closed_by_consumer": sum.closed_by_consumer, "tokens": sum.tokens, "steps": sum.steps })
        );
    } else {
        println!(
            "{seeds} seeds, no invariant broken: {} tasks finished, {} found no Container, {} leases ({} tried again, \
             {} closed by their consumer), {} begun before their deposit ({} of them never paid), {} failed starts, {} time limits, {} top-ups, {} deposits used up, \
             {} crashes ({} Containers for good), {} steps",
            sum.finished,
            sum.unmatched,
            sum.leases,
            sum.retried,
            sum.closed_by_consumer,
            sum.early_starts,
            sum.early_unpaid,
            sum.failed_starts,
            sum.time_limits,
            sum.top_ups,
            sum.used_up,
            sum.crashes,
            sum.burnt,
            sum.steps
        );
    }
    ExitCode::SUCCESS
}
