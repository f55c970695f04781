//! Renting over real sockets on loopback, against a Container that runs the core's own brain.
#![allow(
    clippy::unwrap_used,
    clippy::unwrap_in_result,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a test that cannot go on fails"
)]

mod agents;
mod chains;
mod rentals;
mod transfers;
mod world;
