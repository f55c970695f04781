//! Matches over many Containers, in one process on one core.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use muster_core::hardware::Free;
use muster_core::ids::NodeId;
use muster_core::matching::{Settings, View, synthetic};
use muster_core::units::TimeMs;
use serde_json::json;

use super::{Measured, per_second, percentile};
use crate::failure::{Because, Code, Failure};

/// The made-up world is the same on every machine.
const SEED: u64 = 1;
/// Different demands; they come round again.
const DEMANDS: u32 = 10_000;
/// Matches whose capacity is held at one time; each is given back when so many more were made.
const HELD: usize = 1_000;
/// Matches before the clock counts.
const WARM_UP: usize = 1_000;

pub(super) async fn run(containers: usize, matches: usize) -> Result<Measured, Failure> {
    // A thread of its own: the runtime's other work does not share it.
    tokio::task::spawn_blocking(move || measure(containers, matches))
        .await
        .because(Code::Internal, "the measurement failed")?
}

struct World {
    view: View,
    held: VecDeque<(NodeId, Free)>,
    now: TimeMs,
    found: usize,
}

impl World {
    /// One match as an Indexer does it: choose, with the report of reasons; then, as the Container's word comes, hold what
    /// was chosen and remember that it was. Gives the time of both.
    fn one(&mut self, demand: &muster_core::demand::Demand, seed: u64) -> (Duration, Duration) {
        let begun = Instant::now();
        let result = self.view.match_one(demand, seed, self.now);
        let matched = begun.elapsed();
        let begun = Instant::now();
        let chosen = result.choices.first();
        let before = chosen.and_then(|c| self.view.get(&c.node)).map(|p| p.free);
        if let (Some(choice), Some(before)) = (chosen, before)
            && self.view.hold(&choice.node, &choice.allocation)
        {
            self.view.note_chosen(&choice.node, self.now);
            self.found += 1;
            self.held.push_back((choice.node, before));
        }
        let held = begun.elapsed();
        // A heartbeat tells that the lease is over: another event.
        if self.held.len() > HELD
            && let Some((node, free)) = self.held.pop_front()
        {
            self.view.update_free(&node, free);
        }
        self.now = self.now.plus(1);
        (matched, held)
    }
}

fn measure(containers: usize, matches: usize) -> Result<Measured, Failure> {
    let count = u32::try_from(containers).because(Code::Config, "--containers")?;
    if count == 0 || matches == 0 {
        return Err(Failure::new(Code::Config, "--containers and --matches must be above zero"));
    }
    let begun = Instant::now();
    let mut view = View::new(Settings::default()).code(Code::Internal)?;
    for provider in synthetic::population(SEED, count) {
        view.upsert(provider).code(Code::Internal)?;
    }
    let filled = begun.elapsed();
    let demands = synthetic::demands(SEED, DEMANDS);
    let mut world = World { view, held: VecDeque::new(), now: TimeMs(1_000_000), found: 0 };
    for (demand, seed) in demands.iter().cycle().take(WARM_UP).zip(0..) {
        world.one(demand, seed);
    }
    world.found = 0;
    let (mut times, mut holds) = (Vec::with_capacity(matches), Vec::with_capacity(matches));
    let begun = Instant::now();
    for (demand, seed) in demands.iter().cycle().skip(WARM_UP).take(matches).zip(1_000_000..) {
        let (matched, held) = world.one(demand, seed);
        times.push(matched);
        holds.push(held);
    }
    let whole = begun.elapsed();
    let took = times.iter().sum();
    times.sort_unstable();
    holds.sort_unstable();
    let us = |percent| (percentile(&times, percent).as_secs_f64() * 1e7).round() / 10.0;
    let figures = json!({
        "matches_per_second": per_second(matches, took),
        "p50_us": us(50),
        "p99_us": us(99),
        "max_us": us(100),
        "matched": world.found,
        "hold_us_p50": (percentile(&holds, 50).as_secs_f64() * 1e7).round() / 10.0,
        "hold_us_p99": (percentile(&holds, 99).as_secs_f64() * 1e7).round() / 10.0,
        "leases_per_second": per_second(matches, whole),
        "fill_s": (filled.as_secs_f64() * 1_000.0).round() / 1_000.0,
    });
    let parameters =
        json!({ "containers": containers, "matches": matches, "demands": DEMANDS, "seed": SEED, "cores": 1 });
    Ok(("match", parameters, figures))
}
