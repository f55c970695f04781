//! Versioned, bounded messages: untrusted bytes become core types here, and only here.
//!
//! A **frame** on a stream is a `u32` length (little-endian, of what follows it), one version byte and a postcard
//! body. Every message type states its greatest length ([`WireMessage::MAX_LEN`]) and checks its own fields
//! ([`WireMessage::check`]); fields whose size a peer declares are [`BoundedString`], [`BoundedVec`] or
//! [`BoundedBytes`], which refuse before they allocate.
//!
//! [`frame`] is pure: bytes in, messages out. Reading frames from a socket, deadlines and rates belong to `muster-net`.
#![cfg_attr(test, allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test"))]

pub mod addr;
pub mod audits;
pub mod beacon;
pub mod bounded;
pub mod calibration;
pub mod endpoint;
pub mod frame;
pub mod message;
pub mod signature;
pub mod stream;

pub use addr::NodeAddr;
pub use bounded::{BoundError, BoundedBytes, BoundedString, BoundedVec};
pub use frame::{WIRE_VERSION, WireError, WireMessage};
pub use signature::Signature64;
pub use stream::StreamKind;
