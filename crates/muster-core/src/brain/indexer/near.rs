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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::brain::indexer::Known;
    use crate::demand::{Place, WorkloadKind};
    use crate::hardware::{Capacity, Free};
    use crate::inference::{ModelDemand, TokenAsk, WeightsId};
    use crate::params::Params;
    use crate::pricing::Ask;
    use crate::units::{Bytes, TimeMs};

    const WEIGHTS: WeightsId = WeightsId([7; 32]);

    fn node(number: u8) -> NodeId {
        NodeId([number; 32])
    }

    fn beat(number: u8, east_mdeg: i32) -> Heartbeat {
        Heartbeat {
            seq: 1,
            addr: NodeAddr { id: node(number), direct: Vec::new(), relay: None },
            total: Capacity::default(),
            free: Free::default(),
            ask: Ask::default(),
            draining: false,
            egress: false,
            sessions: false,
            region: None,
            place: Place::new(0, east_mdeg).ok(),
            leases: 0,
            fetches: false,
            warm: Vec::new(),
            models: Some(TokenAsk::default()),
            endpoints: Vec::new(),
        }
    }

    fn indexer(beats: Vec<Heartbeat>) -> Indexer {
        let mut indexer = Indexer::new(node(99), Params::default(), 1);
        for beat in beats {
            let (id, beat) = (beat.addr.id, Some((beat, TimeMs(0))));
            let known = Known { registered: None, beat, quality_bps: 10_000, checked_bps: None, listed: true };
            indexer.known.insert(id, known);
        }
        indexer
    }

    fn demand(weights: WeightsId, endpoint: bool) -> Demand {
        let model =
            ModelDemand { weights, bytes: Bytes(1), endpoint, price_max: None, deposit_tokens: 2, credit_tokens: 1 };
        let kind = if endpoint { WorkloadKind::Endpoint } else { WorkloadKind::Model };
        Demand { kind, model: Some(model), ..Demand::default() }
    }

    #[test]
    fn those_who_have_the_weights_are_named_the_nearest_first() {
        let has = |number, east| Heartbeat { warm: vec![WEIGHTS.warm_id()], ..beat(number, east) };
        // The short way from 179 degrees east leads over the date line.
        let beats =
            vec![beat(1, 179_000), has(2, 0), has(3, 170_000), has(4, -179_000), has(5, 90_000), beat(6, 179_000)];
        let indexer = indexer(beats);
        let names = |chosen| -> Vec<NodeId> {
            indexer.holders(&demand(WEIGHTS, false), node(chosen)).into_iter().map(|addr| addr.id).collect()
        };
        assert_eq!(names(1), [node(4), node(3), node(5)]);
        assert_eq!(names(2), [], "the chosen one has them");
        assert_eq!(indexer.holders(&demand(WeightsId([8; 32]), false), node(1)), []);
        assert_eq!(indexer.holders(&Demand::default(), node(1)), []);
    }

    #[test]
    fn an_endpoint_is_looked_for_among_those_who_have_it() {
        let id = WeightsId::of_endpoint("big");
        let offer = EndpointOffer { id: id.warm_id(), bytes: Bytes(1), ask: TokenAsk::default() };
        let offers = |number| Heartbeat { endpoints: vec![offer], ..beat(number, 0) };
        let indexer = indexer(vec![beat(1, 0), offers(2), offers(3)]);
        let only = |demand: &Demand| -> Option<Vec<NodeId>> {
            Some(indexer.narrowed(demand)?.only.iter().map(|reach| reach.node).collect())
        };
        assert_eq!(only(&demand(id, true)), Some(vec![node(2), node(3)]));
        let reach = |node| Reach { node, round_trip_us: Some(5) };
        let picked = Demand { only: vec![reach(node(1)), reach(node(3))], ..demand(id, true) };
        let narrowed = indexer.narrowed(&picked).map(|demand| demand.only.clone());
        assert_eq!(narrowed, Some(vec![reach(node(3))]), "what was measured stays");
        assert_eq!(only(&demand(WeightsId::of_endpoint("small"), true)), None);
        assert_eq!(only(&demand(WEIGHTS, false)), Some(Vec::new()), "weights can be brought to anybody");
    }
}
