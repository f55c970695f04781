//! The embedded chain and the settlement client, over real sockets.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod settlement;
mod world;
