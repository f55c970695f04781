//! Peers on real sockets: loopback, and network namespaces where the machine allows them.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod framing;
mod misbehaviour;
mod netns;
mod peers;
mod relayed;
mod support;
