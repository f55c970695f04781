//! Peers: keys, dialing, streams. The only crate that names iroh.
//!
//! A [`Peer`] is a node's key bound to one UDP address. It dials others by key ([`Peer::connect`]), takes connections
//! ([`Peer::accept`]), and talks on streams whose first byte names their protocol ([`StreamKind`]). A stream carries
//! either frames ([`Stream::framed`]) or raw bytes with backpressure (it is `AsyncRead` and `AsyncWrite`), or first
//! one and then the other ([`FramedStream::into_raw`]).
//!
//! Three promises:
//!
//! * **Nobody is contacted who was not named.** No public relay, no discovery, no DNS server, no port mapping: packets
//!   go to the addresses given and to the relays configured.
//! * **A peer that misbehaves harms nobody else.** Garbage, a frame that stalls, floods of frames, streams or
//!   connections: it is cut off, counted (`net_peers_cut_total{reason}`) and banned for a while by its key.
//! * **A vanished peer is noticed** within about ten seconds ([`Limits::idle`]), on both sides, and the reason is said
//!   in words ([`CloseReason`]).
#![cfg_attr(test, allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test"))]

mod accept;
mod account;
mod addr;
mod connection;
mod error;
pub mod evidence;
mod frames;
mod key;
mod limits;
mod peer;
mod relay;
mod sealed;
mod stats;
mod stream;

pub use addr::{PeerAddr, RelayUrl, RelayUrlError};
pub use connection::{Connection, PathKind};
pub use error::{CloseCode, CloseReason, CutReason, NetError};
pub use frames::{FrameReader, FrameRules, FrameWriter, FramedStream};
pub use key::{BadSignature, KeyError, NodeSecret, verify};
pub use limits::{Limits, Rate};
pub use muster_wire::{Signature64, StreamKind, WireError, WireMessage};
pub use peer::{Peer, PeerConfig, RelayConfig};
pub use relay::{Relay, RelayError, RelayServerConfig};
pub use sealed::{SEALED_MORE, SealError, seal};
pub use stats::NetStats;
pub use stream::{RecvHalf, SendHalf, Stream};

/// What both sides of a connection must speak.
pub const ALPN: &[u8] = b"muster/1";

/// Makes ring the process's provider of cryptography for TLS. Idempotent; a provider that somebody else has installed
/// stays. [`Peer::bind`] and [`Relay::serve`] call it; a program that uses TLS before that calls it itself.
pub fn install_crypto_provider() {
    // The error says that there is a provider already, which is what is wanted.
    drop(rustls::crypto::ring::default_provider().install_default());
}
