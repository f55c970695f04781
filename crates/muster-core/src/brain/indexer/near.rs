//! Who has what a demand for a model needs: endpoints by their name, weights by their hash.

use std::borrow::Cow;

use crate::demand::{Demand, ONLY_MAX, Reach};
use crate::ids::NodeId;
use crate::packages::PackageSetId;
use crate::protocol::{EndpointOffer, HOLDERS_MAX, Heartbeat, NodeAddr};

use super::Indexer;

impl Indexer {
    /// The same demand, of an endpoint only among those who have it.
    pub(super) fn narrowed<'a>(&self, demand: &'a Demand) -> Option<Cow<'a, Demand>> {
        let Some(id) = demand.model.as_ref().filter(|model| model.endpoint).map(|model| model.weights.warm_id()) else {
            return Some(Cow::Borrowed(demand));
        };
        let beats = self.known.iter().filter_map(|(node, known)| Some((node, &known.beat.as_ref()?.0)));
        let have = beats.filter(|(_, beat)| endpoint(beat, id).is_some()).map(|(node, _)| *node);
        let wanted = |node: &NodeId| demand.only.is_empty() || demand.only.iter().any(|reach| reach.node == *node);
        let reach = |node: NodeId| Reach {
            node,
            round_trip_us: demand.only.iter().find(|reach| reach.node == node).and_then(|reach| reach.round_trip_us),
        };
        let only: Vec<Reach> = have.filter(wanted).map(reach).take(ONLY_MAX).collect();
        (!only.is_empty()).then(|| Cow::Owned(Demand { only, ..demand.clone() }))
    }

    /// Others that have a demand's weights, where the chosen one lacks them: the nearest to it first.
    pub(super) fn holders(&self, demand: &Demand, chosen: NodeId) -> Vec<NodeAddr> {
        let wanted = demand.model.as_ref().filter(|model| !model.endpoint).map(|model| model.weights.warm_id());
        let here = self.known.get(&chosen).and_then(|known| known.beat.as_ref()).map(|(beat, _)| beat);
        let (Some(id), Some(here)) = (wanted, here) else { return Vec::new() };
        if here.warm.contains(&id) {
            return Vec::new();
        }
        let beats = self.known.values().filter(|known| known.listed).filter_map(|known| known.beat.as_ref());
        let mut have: Vec<(u64, &Heartbeat)> = beats
            .map(|(beat, _)| beat)
            .filter(|beat| beat.addr.id != chosen && beat.warm.contains(&id))
            .map(|beat| (apart(here, beat), beat))
            .collect();
        have.sort_by_key(|(apart, beat)| (*apart, beat.addr.id));
        have.into_iter().take(HOLDERS_MAX).map(|(_, beat)| beat.addr.clone()).collect()
    }
}

/// What a Container offers of an endpoint.
pub(super) fn endpoint(beat: &Heartbeat, id: PackageSetId) -> Option<&EndpointOffer> {
    beat.endpoints.iter().find(|offer| offer.id == id)
}

/// How far two Containers are apart, as far as their owners say: good for putting some in order.
fn apart(a: &Heartbeat, b: &Heartbeat) -> u64 {
    match (a.place, b.place) {
        (Some(a), Some(b)) => {
            let north = a.latitude_mdeg().abs_diff(b.latitude_mdeg());
            let east = a.longitude_mdeg().abs_diff(b.longitude_mdeg());
            // The short way round the globe.
            u64::from(north).saturating_add(u64::from(east.min(360_000u32.abs_diff(east))))
        }
        _ if a.region.is_some() && a.region == b.region => 10_000,
        _ => u64::MAX,
    }
}
