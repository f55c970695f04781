//! Proofs from challenge to verdict, honest and otherwise.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod attacks;
mod honest;
mod play;
