//! `muster-sim`: runs many seeds and stops at the first that breaks an invariant.

use std::process::ExitCode;

use clap::Parser;
use muster_sim::{Config, World};

/// Simulates whole networks under virtual time and checks that nothing happens that must never happen.
#[derive(Parser, Debug)]
#[command(version)]
struct Args {
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

#[allow(clippy::print_stdout, reason = "the output of a command-line tool")]
fn main() -> ExitCode {
    let args = Args::parse();
    let (mut finished, mut unmatched, mut retried, mut leases, mut crashes, mut steps) = (0, 0, 0, 0, 0, 0);
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
        finished += outcome.finished;
        unmatched += outcome.unmatched;
        retried += outcome.retried;
        leases += outcome.leases;
        crashes += outcome.crashes;
        steps += outcome.steps;
    }
    let seeds = args.seeds;
    if args.json {
        println!(
            "{}",
            serde_json::json!({ "seeds": seeds, "tasks_finished": finished, "tasks_unmatched": unmatched,
                "leases_retried": retried, "leases": leases, "crashes": crashes, "steps": steps })
        );
    } else {
        println!(
            "{seeds} seeds, no invariant broken: {finished} tasks finished, {unmatched} found no Container, \
             {leases} leases ({retried} tried again), {crashes} crashes, {steps} steps"
        );
    }
    ExitCode::SUCCESS
}
