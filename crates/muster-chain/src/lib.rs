//! The chain: contract bindings, the settlement client, and the embedded EVM chain.
//!
//! The only crate that names alloy and revm; what crosses its border are the core's own types.
#![cfg_attr(test, allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test"))]

pub mod beacon;
pub mod bench;
pub mod contracts;
mod convert;
mod ecdsa;
pub mod embedded;
pub mod epochs;
pub mod keys;
pub mod message;
pub mod settle;
