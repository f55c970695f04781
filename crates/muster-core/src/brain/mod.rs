//! One brain a role: `(state, event, now) → effects`.
//!
//! Effects are performed in their order. Where a list holds a `Save`, all that stands behind it waits
//! until the record is durable: that is what makes a `kill -9` at any instant survivable.

pub mod checker;
pub mod consumer;
pub mod container;
pub mod indexer;
