//! Engines from outside: a child that is played, a real child with a real model, a server that is played.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod asked;
#[cfg(feature = "llama")]
mod audits;
#[cfg(feature = "llama")]
mod llama;
mod played;
mod upstream;
