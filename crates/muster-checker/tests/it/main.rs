//! Checkers as whole nodes: real sockets, real records, real proofs; the chain is a town's notice board in memory, and
//! Containers are a few lines around the core's own prover.
#![allow(clippy::unwrap_used, clippy::unwrap_in_result, missing_docs, reason = "a failed unwrap is a failed test")]

mod chain;
mod container;
mod epochs;
mod strangers;
mod town;
mod world;
