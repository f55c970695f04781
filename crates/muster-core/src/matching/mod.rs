//! Who serves a demand: feasible, then rank, then choose, over what is known of all Containers.
//!
//! A [`View`] holds every [`Provider`] in trees that carry, at each branch, the best of every property below
//! it. A search goes through branches in order of what they could cost at best and leaves out those in which
//! nobody can serve, so that a match looks at some dozens of a million Containers and still finds the best.
//!
//! - **Feasible**: state, region, policy, hardware, kind of work, term, compliance, latency, price, exclusion.
//! - **Rank**: by the demand's [`Objective`](crate::demand::Objective). The price in it is that of an hour; of a model, what
//!   typical tokens cost ([`TokenAsk::typical`](crate::inference::TokenAsk::typical)). The trees are ordered by capacity, so
//!   that a demand for a model opens some more branches.
//! - **Warm**: those on which the packages that the demand names are there come first, if they are at most a quarter
//!   worse than the best (1 % on `cheapest`).
//! - **Choose**: at random among the near-best (within 1 % of the best price on `cheapest`, else within 5 % of
//!   the best rank), a Container's odds rising with match, quality and stake and falling with how often it was
//!   chosen lately. Equals have equal odds, and nobody near the best has none.
//!
//! Everything here is a function of its arguments: the same Containers, demand, seed and time give the same answer
//! on every machine, in whatever order the Containers came to be known. Only integers are used.

mod choose;
mod explain;
mod geo;
mod group;
mod miss;
mod query;
mod record;
mod search;
mod summary;
pub mod synthetic;
#[cfg(test)]
mod tests;
mod tree;
mod view;
mod warm;
mod why;

pub use choose::{Choice, MatchResult};
pub use explain::Explained;
pub use group::GroupResult;
pub use record::{ContainerState, Provider, QUALITY_BPS_MAX, SiteId};
pub use view::{Policy, PolicyRule, Settings, View};
pub use why::{Miss, Odds, Reason, Rejection, Report, Why};

use std::collections::{BTreeMap, BTreeSet};

use crate::demand::{NetworkId, Region};
use crate::hardware::HardwareError;
use crate::pricing::PricingError;

/// The most Containers that a report names one by one.
pub const SAMPLE_MAX: usize = 8;
/// Up to so many Containers, a report counts every one under the first check that it fails.
pub const EXACT_REPORT_MAX: usize = 64;
/// The most pairs of networks of which a latency is kept.
pub const LATENCIES_MAX: usize = 1_000_000;
/// The most regions that Containers of one view can name.
pub const REGIONS_MAX: usize = 512;
/// The most rules of a policy.
pub const POLICY_RULES_MAX: usize = 1_024;

/// Why a Container or a setting cannot be taken into a view.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MatchingError {
    /// Its hardware.
    #[error("the Container's hardware cannot be offered")]
    Hardware(#[from] HardwareError),
    /// Its ask.
    #[error("the Container's ask cannot be offered")]
    Pricing(#[from] PricingError),
    /// As many Containers as a view can number.
    #[error("the view holds {have} Containers, which is as many as it can")]
    Full {
        /// How many it holds.
        have: usize,
    },
    /// A region that is one too many: names of regions are the operator's to limit.
    #[error("region {region} is not known here, and {REGIONS_MAX} others are, which is as many as are kept apart")]
    TooManyRegions {
        /// The region.
        region: Region,
    },
    /// Too many rules.
    #[error("the policy has {got} rules; at most {POLICY_RULES_MAX} are taken")]
    PolicyTooLong {
        /// How many there are.
        got: usize,
    },
}

/// Round trips that were measured between networks, in microseconds; and those networks.
#[derive(Clone, Debug, Default)]
struct Latencies(BTreeMap<(NetworkId, NetworkId), u64>, BTreeSet<NetworkId>);

impl Latencies {
    fn get(&self, a: NetworkId, b: NetworkId) -> Option<u64> {
        self.0.get(&(a.min(b), a.max(b))).copied()
    }

    /// Whether anything is known of a network.
    fn knows(&self, network: NetworkId) -> bool {
        self.1.contains(&network)
    }

    /// Whether it was noted: a new pair is not once there are [`LATENCIES_MAX`].
    fn note(&mut self, a: NetworkId, b: NetworkId, round_trip_us: u64) -> bool {
        let pair = (a.min(b), a.max(b));
        if self.0.len() >= LATENCIES_MAX && !self.0.contains_key(&pair) {
            return false;
        }
        self.0.insert(pair, round_trip_us);
        self.1.extend([a, b]);
        true
    }
}
