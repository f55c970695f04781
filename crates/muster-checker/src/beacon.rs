//! Where an epoch's randomness comes from.

use std::fmt;

use futures::future::BoxFuture;
use muster_core::epoch::{EpochNo, Seed};

/// Why there is no randomness.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BeaconError {
    /// The round is not out yet, or nobody who has it answers: ask again.
    #[error("{0}")]
    NotYet(String),
    /// Somebody gave a round that is not the beacon's.
    #[error("{0}")]
    Wrong(String),
}

/// A public beacon whose rounds are verified by whoever asks.
pub trait Beacon: fmt::Debug + Send + Sync + 'static {
    /// The verified randomness of an epoch: that of the first round that is due once the epoch's inputs are frozen.
    fn seed(&self, epoch: EpochNo) -> BoxFuture<'_, Result<Seed, BeaconError>>;
}
