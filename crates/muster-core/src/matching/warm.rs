//! Containers on which the packages that a demand names are there already.
//!
//! A session on one of these draws at once; elsewhere its player waits for a fetch. So they come first, among those that
//! are about as good as the best: having packages is a preference, and never decides whether somebody serves.

use std::collections::{BTreeMap, BTreeSet};

use crate::demand::{Demand, Objective};
use crate::ids::NodeId;
use crate::packages::PackageSetId;

use super::View;
use super::query::Query;
use super::record::Provider;
use super::search::{Found, mix};

/// So many Containers that have a set are looked at for one demand; of more, those next to a place that the seed draws.
const LOOKED_AT_MAX: usize = 64;

/// Who has which set of packages.
#[derive(Clone, Debug, Default)]
pub(super) struct Warm(BTreeMap<PackageSetId, BTreeSet<NodeId>>);

impl Warm {
    pub(super) fn add(&mut self, provider: &Provider) {
        for set in &provider.warm {
            self.0.entry(*set).or_default().insert(provider.node);
        }
    }

    pub(super) fn remove(&mut self, provider: &Provider) {
        for set in &provider.warm {
            if let Some(nodes) = self.0.get_mut(set) {
                nodes.remove(&provider.node);
                if nodes.is_empty() {
                    self.0.remove(set);
                }
            }
        }
    }

    /// How many have a set.
    pub(super) fn count(&self, set: PackageSetId) -> usize {
        self.0.get(&set).map_or(0, BTreeSet::len)
    }

    /// Some who have a set, each with the same odds; all, if they are few.
    fn some(&self, set: PackageSetId, seed: u64) -> impl Iterator<Item = &NodeId> {
        let mut from = [0; 32];
        let bytes = (0..4u64).flat_map(|n| mix(seed ^ n << 56).to_be_bytes());
        from.iter_mut().zip(bytes).for_each(|(to, byte)| *to = byte);
        let from = NodeId(from);
        let nodes = self.0.get(&set).into_iter();
        nodes.flat_map(move |nodes| nodes.range(from..).chain(nodes.range(..from))).take(LOOKED_AT_MAX)
    }
}

impl View {
    /// How many Containers have a set of packages.
    #[must_use]
    pub fn warm_count(&self, set: PackageSetId) -> usize {
        self.warm.count(set)
    }

    /// Those that fit, have the packages, and are hardly worse than the best; the best first.
    pub(super) fn warm_ones(&self, demand: &Demand, query: &Query, best: u64, seed: u64) -> Vec<Found> {
        let Some(set) = query.packages else { return Vec::new() };
        let worst = worst(demand.objective, best);
        let mut found: Vec<(u64, NodeId, Found)> = self
            .warm
            .some(set, seed)
            .filter_map(|node| {
                let slot = self.slot(node)?;
                if self.first_why(slot, demand, query).is_some() {
                    return None;
                }
                let fit = query.check(slot, self.record(slot)?, &self.latencies).ok()?;
                (fit.badness <= worst).then_some((fit.badness, *node, Found { slot, fit }))
            })
            .collect();
        found.sort_unstable_by_key(|(badness, node, _)| (*badness, *node));
        found.into_iter().map(|(_, _, found)| found).collect()
    }
}

/// How bad one that has the packages may be against the best: `cheapest` keeps its promise on the price.
pub(super) const fn worst(objective: Objective, best: u64) -> u64 {
    best.saturating_add(match objective {
        Objective::Cheapest => best / 100,
        Objective::Best | Objective::Balanced => best / 4,
    })
}
