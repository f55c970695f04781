//! The prover against real drivers: lavapipe and SwiftShader, which compute on the processor, each in a child process.

mod child;
mod equal;
mod setup;
