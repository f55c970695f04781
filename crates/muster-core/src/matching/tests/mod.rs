//! Properties of matching, held against an oracle that looks at every Container with the plain rules.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::search::Random;
use super::{
    Choice, ContainerState, Explained, Policy, PolicyRule, Provider, Reason, Settings, SiteId, View, synthetic,
};
use crate::demand::{ComplianceTier, Demand, Grouping, NetworkId, ONLY_MAX, Objective, Place, Reach, Region, Term};
use crate::hardware::{Allocation, Capacity, Free, Gpu, GpuModel, GpuSet, GpuVendor, Inventory, pick_gpus};
use crate::ids::NodeId;
use crate::packages::PackageSet;
use crate::pricing::{Ask, UsdPerHour};
use crate::units::{Bytes, Ob, TimeMs, TokenAmount, UsdMicro};

mod fairness;
mod groups;
mod properties;
mod sentences;
mod synthetic_world;
mod tokens;

const NOW: TimeMs = TimeMs(1_000_000);

/// One of a few sets.
fn packages(n: u64) -> PackageSet {
    PackageSet::new([format!("package-{n}")]).unwrap()
}

fn region(text: &str) -> Region {
    Region::new(text).unwrap()
}

fn gpu(model: &str, vram_gib: u64, points: u32) -> Gpu {
    Gpu {
        model: GpuModel::new(model).unwrap(),
        vendor: GpuVendor::Nvidia,
        vram: Bytes(vram_gib * Bytes::GIB),
        ob: Ob::points(points),
    }
}

/// An idle Container of eight cores for two cents a core; its name follows from `n`.
fn container(n: u32) -> Provider {
    let capacity =
        Capacity { cpu_millis: 8_000, memory: Bytes(16 * Bytes::GIB), disk: Bytes(100 * Bytes::GIB), gpus: Vec::new() };
    Provider {
        node: NodeId(*blake3::hash(&n.to_be_bytes()).as_bytes()),
        state: ContainerState::Standby,
        free: Free::all_of(&capacity),
        capacity,
        ask: Ask { core_hour: UsdMicro(20_000), ..Ask::default() },
        region: None,
        origin: Default::default(),
        site: None,
        bandwidth_mbps: 100,
        kinds: Default::default(),
        egress: false,
        compliance: ComplianceTier::Open,
        time_limit_s_max: 86_400,
        quality_bps: 10_000,
        stake: TokenAmount(1_000 * TokenAmount::ONE.0),
        warm: Vec::new(),
        models: None,
        endpoints: Vec::new(),
    }
}

fn with_gpus(n: u32, gpus: Vec<Gpu>) -> Provider {
    let mut provider = container(n);
    provider.capacity.gpus = gpus;
    provider.free = Free::all_of(&provider.capacity);
    provider.ask.obh = UsdMicro(400);
    provider
}

fn view_of(providers: impl IntoIterator<Item = Provider>) -> View {
    let mut view = View::new(Settings::default()).unwrap();
    for provider in providers {
        view.upsert(provider).unwrap();
    }
    view
}

/// A crowded little world: few values of each property, so that ties, gaps and near misses are common.
fn little_world(seed: u64, count: u32) -> Vec<Provider> {
    let mut random = Random::new(seed);
    let mut below = move |bound: u64| random.below(bound);
    (0..count)
        .map(|n| {
            let mut provider = container(n ^ u32::try_from(seed % 1000).unwrap() << 16);
            let models = [("a", 8, 100), ("a", 8, 110), ("b", 24, 300), ("c", 80, 300)];
            let gpus = below(4);
            provider.capacity.gpus = (0..gpus)
                .map(|_| {
                    let (name, vram, points) = models[usize::try_from(below(4)).unwrap()];
                    gpu(name, vram, points)
                })
                .collect();
            provider.free = Free {
                cpu_millis: u32::try_from(below(9)).unwrap() * 1000,
                memory: Bytes(below(17) * Bytes::GIB),
                disk: Bytes(below(3) * 50 * Bytes::GIB),
                gpus: GpuSet(below(16)),
            }
            .within(&provider.capacity);
            provider.ask = Ask {
                obh: UsdMicro(300 + below(3) * 50),
                gpu_hour_min: UsdMicro(below(2) * 60_000),
                core_hour: UsdMicro(20_000 + below(60) * 100),
                memory_gib_hour: UsdMicro(below(2) * 1_000),
                disk_gib_hour: UsdMicro(below(2) * 10),
                reserved_bps: (below(2) == 0).then(|| 5_000 + u16::try_from(below(5_000)).unwrap()),
            };
            let regions = ["eu-west", "eu-east", "eur", "us"];
            provider.region = regions.get(usize::try_from(below(5)).unwrap()).map(|name| region(name));
            let places = [(53_000, -6_000), (52_000, 21_000), (40_000, -74_000)];
            provider.origin.place =
                places.get(usize::try_from(below(4)).unwrap()).map(|(n, e)| Place::new(*n, *e).unwrap());
            provider.origin.network = (below(2) == 0).then(|| NetworkId(u32::try_from(below(3)).unwrap()));
            provider.site = (below(2) == 0).then(|| SiteId(below(4)));
            provider.bandwidth_mbps = u32::try_from(below(3)).unwrap() * 100;
            provider.egress = below(2) == 0;
            provider.compliance = [ComplianceTier::Open, ComplianceTier::Verified][usize::try_from(below(2)).unwrap()];
            provider.quality_bps = u16::try_from(below(5)).unwrap() * 2_500;
            provider.warm = (0..4).filter(|_| below(4) == 0).filter_map(|n| packages(n).id()).collect();
            provider.state = match below(8) {
                0 => ContainerState::Draining,
                1..=3 => ContainerState::Serving,
                _ => ContainerState::Standby,
            };
            provider
        })
        .collect()
}

fn little_demand(seed: u64, nodes: &[Provider]) -> Demand {
    let mut random = Random::new(!seed);
    let mut below = move |bound: u64| random.below(bound);
    let mut demand = Demand {
        cpu_millis: 1000 + u32::try_from(below(9)).unwrap() * 1000,
        memory: Bytes((1 + below(16)) * Bytes::GIB),
        disk: Bytes(below(3) * 50 * Bytes::GIB),
        objective: [Objective::Cheapest, Objective::Balanced, Objective::Best][usize::try_from(below(3)).unwrap()],
        term: [Term::OnDemand, Term::OnDemand, Term::Reserved][usize::try_from(below(3)).unwrap()],
        egress: below(4) == 0,
        bandwidth_mbps: u32::try_from(below(4)).unwrap() / 2 * 100,
        compliance: if below(5) == 0 { ComplianceTier::Verified } else { ComplianceTier::Open },
        ..Demand::default()
    };
    if below(2) == 0 {
        demand.gpu_count = 1 + u8::try_from(below(2)).unwrap();
        demand.gpu_model =
            ["a", "b", "c", "d"].get(usize::try_from(below(6)).unwrap()).map(|m| GpuModel::new(m).unwrap());
        demand.vram = Bytes([0, 8, 24, 80][usize::try_from(below(4)).unwrap()] * Bytes::GIB);
        demand.ob = Ob::points([0, 105, 300, 400][usize::try_from(below(4)).unwrap()]);
    }
    demand.region = ["eu", "eu-west", "us"].get(usize::try_from(below(8)).unwrap()).map(|name| region(name));
    if below(2) == 0 {
        demand.origin.place = Some(Place::new(52_000, 0).unwrap());
        demand.origin.network = Some(NetworkId(u32::try_from(below(3)).unwrap()));
        demand.latency_ms_max = (below(2) == 0).then(|| 5 + u32::try_from(below(60)).unwrap());
    }
    if below(3) == 0 {
        demand.price_max = Some(UsdPerHour(20_000 + below(300_000)));
    }
    if below(2) == 0 {
        demand.packages = packages(below(5));
    }
    for _ in 0..below(3) {
        demand.exclude.extend(nodes.get(usize::try_from(below(8)).unwrap()).map(|p| p.node));
    }
    assert_eq!(demand.check(), Ok(()));
    demand
}

/// What a demand would cost on a Container, if it serves: the rules in the plainest form.
fn oracle(provider: &Provider, demand: &Demand, view: &View) -> Option<UsdPerHour> {
    let free = &provider.free;
    let in_region =
        demand.region.as_ref().is_none_or(|want| provider.region.as_ref().is_some_and(|r| want.contains(r)));
    let near = demand.latency_ms_max.is_none_or(|max| {
        let query = super::query::Query::new(demand, view);
        let record = view.record(view.slot(&provider.node).unwrap()).unwrap();
        query.latency_us(record, &view.latencies).is_some_and(|us| us <= u64::from(max) * 1000)
    });
    let serves = provider.state.takes_work()
        && in_region
        && near
        && provider.kinds.contains(demand.kind)
        && (provider.egress || !demand.egress)
        && provider.compliance >= demand.compliance
        && u64::from(provider.time_limit_s_max) >= demand.time_limit_s
        && provider.bandwidth_mbps >= demand.bandwidth_mbps
        && free.cpu_millis >= demand.cpu_millis
        && free.memory >= demand.memory
        && free.disk >= demand.disk
        && !demand.exclude.contains(&provider.node);
    if !serves {
        return None;
    }
    let gpus = pick_gpus(&provider.capacity.gpus, free.gpus, &demand.need()).ok()?;
    let allocation = Allocation { cpu_millis: demand.cpu_millis, memory: demand.memory, disk: demand.disk, gpus };
    let on_demand = provider.ask.allocation_hour(&allocation, &provider.capacity.gpus).unwrap();
    provider.ask.under_term(on_demand, demand.term).filter(|price| demand.price_max.is_none_or(|max| *price <= max))
}

fn measured(view: &mut View) {
    for (a, b, us) in [(0, 1, 12_000), (1, 1, 900), (0, 2, 40_000)] {
        assert!(view.note_latency(NetworkId(a), NetworkId(b), us));
    }
}

fn check_choice(choice: &Choice, demand: &Demand, view: &View) {
    let provider = view.get(&choice.node).unwrap();
    assert_eq!(oracle(provider, demand, view), Some(choice.price), "{} does not serve", choice.node.short());
    let mut inventory = Inventory::new(provider.capacity.clone()).unwrap();
    let all = Free::all_of(&provider.capacity);
    let taken = Allocation {
        cpu_millis: all.cpu_millis - provider.free.cpu_millis,
        memory: Bytes(all.memory.0 - provider.free.memory.0),
        disk: Bytes(all.disk.0 - provider.free.disk.0),
        gpus: all.gpus.without(provider.free.gpus),
    };
    inventory.take(&taken).unwrap();
    inventory.take(&choice.allocation).expect("what is chosen is free");
}
