//! Who checks whom: from a public beacon and the registry, so that anybody can recompute it.
//!
//! An epoch begins with two inputs that nobody can choose: the registry as it was frozen at the epoch's start
//! ([`RegistryView`]) and 32 bytes of a beacon's round that came after ([`Seed`]). [`Draw::new`] makes of them which
//! Containers are tested, by which committees and at which instants. Everything is a function of the two: integers,
//! ordered lists and BLAKE3, so that every machine gets the same.
//!
//! - A **committee** is drawn seat by seat without replacement, by licences and stake, one seat per owner, and never
//!   for a Container of that owner.
//! - Containers that share an owner, an address block or a fingerprint share an **instant**: one card that serves
//!   several claims takes several times as long.
//! - What a committee found by vote is decided by a larger one in the next epoch, before anybody loses stake.

mod committee;
mod draw;
mod explain;
mod instants;
mod params;
#[cfg(test)]
#[allow(clippy::cast_possible_truncation, reason = "small numbers of a test's own")]
mod tests;
mod view;

pub use committee::Seats;
pub use draw::{Assignment, Draw, DrawnWhy, Task, TaskKind};
pub use params::{EpochParams, Phase};
pub use view::{
    Accusation, AccusedOf, AddressBlock, CONTAINERS_MAX, CheckerEntry, ContainerEntry, Fingerprint, IndexerEntry,
    Licence, OTHERS_MAX, RegistryStatus, RegistryView, ViewError,
};

use core::fmt;

use serde::{Deserialize, Serialize};

/// The most seats of a committee.
pub const SEATS_MAX: usize = 32;

/// The number of an epoch: Unix time in milliseconds over the epoch's length, rounded down.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct EpochNo(pub u64);

impl EpochNo {
    /// The one after.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }

    /// So many epochs later.
    #[must_use]
    pub const fn plus(self, epochs: u64) -> Self {
        Self(self.0.saturating_add(epochs))
    }

    /// How many epochs after `earlier` this is; 0 if it is not.
    #[must_use]
    pub const fn since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

impl fmt::Display for EpochNo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The randomness of one epoch: what the beacon's round came to, after it was verified.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Seed(pub [u8; 32]);
