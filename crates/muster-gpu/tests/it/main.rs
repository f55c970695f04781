//! The prover against real drivers: lavapipe and SwiftShader, which compute on the processor, each in a child process.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod child;
mod equal;
mod setup;
