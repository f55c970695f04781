//! The embedded chain and the settlement client, over real sockets.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod authorized;
mod blocks;
mod crash;
mod differential;
mod epochs;
mod flaky;
mod folder;
mod gas;
mod keystores;
mod programs;
mod rpc;
mod sending;
mod settlement;
mod tools;
mod txs;
mod world;
