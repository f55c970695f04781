//! The brains of Muster: every decision, and nothing that acts.
//!
//! No clock, no IO, no randomness of its own and no chain: time, seeds and policy are arguments,
//! and what should happen comes back as values. The same code runs in the real processes and in
//! the simulator.
#![cfg_attr(test, allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test"))]

pub mod apps;
pub mod beacon;
pub mod brain;
pub mod calibration;
pub mod delivery;
pub mod demand;
pub mod epoch;
pub mod hardware;
pub mod ids;
pub mod inference;
pub mod lease;
pub mod live;
pub mod matching;
pub mod packages;
pub mod params;
pub mod pricing;
pub mod proof;
pub mod protocol;
pub mod render;
pub mod reward;
pub mod step;
pub mod units;
pub mod voucher;
