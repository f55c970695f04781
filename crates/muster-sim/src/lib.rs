//! The simulator: the same brains as in the real processes, under a virtual clock.
//!
//! One seed draws the world (sizes, loads, faults), and everything that happens in it. Messages are
//! lost, doubled, delayed and overtaken; control streams break; processes die between any two effects
//! and come back with what they had saved; clocks are off; some Containers, consumers and Indexers
//! lie. The invariants of the design are checked at each step; a failing seed replays exactly.
#![allow(
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "a test instrument over its own vectors: an index that is wrong is a bug that should stop the run"
)]

pub mod audit;
mod chain;
mod check;
mod config;
mod consumer;
mod container;
mod indexer;
mod models;
mod rng;
mod world;

pub use config::{Config, CrashAt, Faults, RoleKind};
pub use rng::Rng;
pub use world::{Outcome, World};

/// Runs the world of a seed.
#[must_use]
pub fn run_seed(seed: u64, hours: u64) -> Outcome {
    World::new(Config::drawn(seed, hours)).run()
}
