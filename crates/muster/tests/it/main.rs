//! The real binary: bad input, whole networks, crashes.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod answers;
mod bench;
mod checkers;
mod cli;
mod commands;
mod damage;
mod described;
mod gpu;
mod hub;
mod join;
mod kills;
mod live;
mod models;
mod money;
mod network;
mod real;
mod rental;
mod run;
mod shown;
mod stakes;
mod world;
