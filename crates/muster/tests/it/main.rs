//! The real binary: bad input, whole networks, crashes.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod bench;
mod cli;
mod commands;
mod gpu;
mod join;
mod kills;
mod network;
mod rental;
mod run;
mod world;
