//! Properties of matching, held against an oracle that looks at every Container with the plain rules.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::search::Random;
use super::{
    Choice, ContainerState, Explained, Policy, PolicyRule, Provider, Reason, Settings, SiteId, View, synthetic,
};
use crate::demand::{ComplianceTier, Demand, Grouping, NetworkId, Objective, Place, Region, Term};
use crate::hardware::{Allocation, Capacity, Free, Gpu, GpuModel, GpuSet, GpuVendor, Inventory, pick_gpus};
use crate::ids::NodeId;
use crate::pricing::{Ask, UsdPerHour};
use crate::units::{Bytes, Ob, TimeMs, TokenAmount, UsdMicro};

const NOW: TimeMs = TimeMs(1_000_000);

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

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn the_chosen_serves_and_none_is_cheaper(seed in any::<u64>(), count in 0u32..120) {
        let providers = little_world(seed, count);
        let mut view = view_of(providers.clone());
        measured(&mut view);
        for round in 0..8u64 {
            let demand = little_demand(seed ^ round << 20, &providers);
            let result = view.match_one(&demand, seed ^ round, NOW);
            let prices: Vec<UsdPerHour> = providers.iter().filter_map(|p| oracle(p, &demand, &view)).collect();
            prop_assert_eq!(result.choices.is_empty(), prices.is_empty(), "{:?}", &demand);
            prop_assert_eq!(result.report.nearest_miss.is_some(), prices.is_empty());
            prop_assert_eq!(result.choices.len(), prices.len().min(5), "as many to fall back on as there are");
            let names: BTreeSet<NodeId> = result.choices.iter().map(|c| c.node).collect();
            prop_assert_eq!(names.len(), result.choices.len(), "nobody is named twice");
            for choice in &result.choices {
                check_choice(choice, &demand, &view);
            }
            if let (Some(least), Some(chosen), Objective::Cheapest) =
                (prices.iter().min(), result.choices.first(), demand.objective)
            {
                prop_assert!(chosen.price.0 <= least.0 + least.0 / 100);
            }
        }
    }

    #[test]
    fn the_answer_does_not_depend_on_history(seed in any::<u64>(), count in 1u32..200) {
        let providers = little_world(seed, count);
        let mut straight = view_of(providers.clone());
        measured(&mut straight);
        // Around: everybody comes in another order, with other properties first; strangers come and go.
        let mut shuffled = providers.clone();
        shuffled.sort_by_key(|p| p.node);
        let mut around = View::new(Settings::default()).unwrap();
        for (n, provider) in shuffled.iter().enumerate() {
            let mut early = provider.clone();
            early.ask.core_hour = UsdMicro(u64::try_from(n).unwrap() * 7);
            early.free = Free::default();
            early.state = ContainerState::Registered;
            around.upsert(early).unwrap();
            around.upsert(container(1_000_000 + u32::try_from(n).unwrap())).unwrap();
        }
        measured(&mut around);
        for (n, provider) in providers.iter().enumerate() {
            let mut later = provider.clone();
            later.free = Free::default();
            later.quality_bps = 1;
            around.upsert(later).unwrap();
            prop_assert!(around.set_state(&provider.node, provider.state));
            prop_assert!(around.update_free(&provider.node, provider.free));
            prop_assert!(around.set_quality(&provider.node, provider.quality_bps));
            prop_assert!(around.remove(&container(1_000_000 + u32::try_from(n).unwrap()).node));
        }
        prop_assert_eq!(straight.len(), around.len());
        for round in 0..8u64 {
            let mut demand = little_demand(seed ^ round << 20, &providers);
            let first = straight.match_one(&demand, round, NOW);
            prop_assert_eq!(&first, &straight.match_one(&demand, round, NOW), "asking twice changes nothing");
            prop_assert_eq!(&first, &around.match_one(&demand, round, NOW));
            demand.count = 1 + u32::try_from(round).unwrap() * 5;
            demand.grouping = [Grouping::Array, Grouping::GangInOneSite, Grouping::GangAnywhere][usize::try_from(round % 3).unwrap()];
            prop_assert_eq!(straight.match_group(&demand, round, NOW), around.match_group(&demand, round, NOW));
        }
    }

    #[test]
    fn reports_add_up_and_are_true(seed in any::<u64>(), count in 0u32..300) {
        let providers = little_world(seed, count);
        let mut view = view_of(providers.clone());
        measured(&mut view);
        for round in 0..4u64 {
            let demand = little_demand(seed ^ round << 20, &providers);
            let report = view.match_one(&demand, seed, NOW).report;
            let explained = view.explain(&demand);
            let sum: u64 = report.turned_down.iter().map(|(_, count)| *count).sum();
            prop_assert_eq!(report.considered, u64::from(count));
            prop_assert_eq!(sum + report.fit + report.not_compared, report.considered);
            let mut holds: BTreeMap<Reason, u64> = BTreeMap::new();
            for Explained { node, verdict } in &explained {
                let serves = oracle(view.get(node).unwrap(), &demand, &view);
                prop_assert_eq!(verdict.as_ref().ok().map(|choice| choice.price), serves);
                for why in verdict.as_ref().err().into_iter().flatten() {
                    *holds.entry(why.reason()).or_default() += 1;
                }
            }
            let without_cards: u64 = [Reason::Vram, Reason::Ob, Reason::GpuCount].iter().filter_map(|r| holds.get(r)).sum();
            *holds.entry(Reason::Price).or_default() += without_cards;
            for (reason, counted) in report.turned_down {
                prop_assert!(holds.get(&reason).is_some_and(|most| counted <= *most), "{}: {} of {:?}", reason, counted, holds);
            }
            for rejection in report.sample {
                let whys = explained.iter().find(|e| e.node == rejection.node).unwrap().verdict.clone().unwrap_err();
                prop_assert_eq!(whys.first(), Some(&rejection.why));
            }
        }
    }

    #[test]
    fn the_nearest_miss_is_true(seed in any::<u64>(), count in 1u32..60) {
        let providers = little_world(seed, count);
        let mut view = view_of(providers.clone());
        measured(&mut view);
        for round in 0..12u64 {
            let demand = little_demand(seed ^ round << 20, &providers);
            let Some(miss) = view.match_one(&demand, seed, NOW).report.nearest_miss else { continue };
            let idle: Vec<Provider> = providers
                .iter()
                .map(|p| Provider { free: Free::all_of(&p.capacity), ..p.clone() })
                .collect();
            prop_assert_eq!(miss.busy, idle.iter().any(|p| oracle(p, &demand, &view).is_some()), "{}", &miss);
            let world = if miss.busy { &providers } else { &idle };
            // Those that count: ready, in the region, with such a card.
            let mut counted = world.clone();
            counted.retain(|p| {
                let mut cards = p.capacity.gpus.iter();
                p.state.takes_work()
                    && demand.region.as_ref().is_none_or(|want| p.region.as_ref().is_some_and(|r| want.contains(r)))
                    && (demand.gpu_count == 0
                        || cards.any(|card| demand.gpu_model.as_ref().is_none_or(|want| *want == card.model)))
            });
            check_miss(&miss, &demand, &counted, &view);
        }
    }
}

/// Holds a miss against all Containers: with the requirement that it names lowered to the best that one of them has,
/// that one fits, and with one more it does not; or nobody at all has what is needed.
fn check_miss(miss: &super::Miss, demand: &Demand, world: &[Provider], view: &View) {
    let fits = |demand: &Demand| world.iter().any(|p| oracle(p, demand, view).is_some());
    match miss.reason {
        Some(Reason::Cpu) => {
            let set = |d: &mut Demand, v: u64| d.cpu_millis = u32::try_from(v).unwrap();
            let values = world.iter().map(|p| u64::from(p.free.cpu_millis)).collect();
            check_nearest(miss, demand, &fits, set, values, |v| (v / 1000).to_string());
        }
        Some(Reason::Memory) => {
            let values = world.iter().map(|p| p.free.memory.0).collect();
            check_nearest(miss, demand, &fits, |d, v| d.memory = Bytes(v), values, |v| Bytes(v).to_string());
        }
        Some(Reason::Disk) => {
            let values = world.iter().map(|p| p.free.disk.0).collect();
            check_nearest(miss, demand, &fits, |d, v| d.disk = Bytes(v), values, |v| Bytes(v).to_string());
        }
        Some(Reason::Vram) => {
            let mut lowered = demand.clone();
            lowered.vram = Bytes(0);
            assert!(fits(&lowered) || miss.sentence.contains("not all that is missing"), "{miss}");
        }
        Some(Reason::Price) => {
            let unlimited = Demand { price_max: None, ..demand.clone() };
            let least = world.iter().filter_map(|p| oracle(p, &unlimited, view)).min().unwrap();
            assert!(miss.sentence.ends_with(&format!(" is {least}")), "{miss}: {least}");
        }
        Some(Reason::Excluded) => assert!(fits(&Demand { exclude: Vec::new(), ..demand.clone() }), "{miss}"),
        Some(Reason::Egress) => assert!(fits(&Demand { egress: false, ..demand.clone() }), "{miss}"),
        Some(Reason::Term) => {
            let any = |p: &Provider| {
                let ask = Ask { reserved_bps: p.ask.reserved_bps.or(Some(10_000)), ..p.ask };
                oracle(&Provider { ask, ..p.clone() }, demand, view)
            };
            assert!(world.iter().any(|p| any(p).is_some()), "{miss}");
        }
        Some(Reason::GpuModel | Reason::Region | Reason::NotReady) => assert!(world.is_empty(), "{miss}"),
        _ => {}
    }
}

/// The miss must end with the most of those values with which somebody fits, or with the most of all.
fn check_nearest(
    miss: &super::Miss,
    demand: &Demand,
    fits: &dyn Fn(&Demand) -> bool,
    set: impl Fn(&mut Demand, u64),
    values: Vec<u64>,
    show: impl Fn(u64) -> String,
) {
    let lowered = |value: u64| {
        // A demand is priced by what it asks for, so a lowered one may fit where the true one would be too dear.
        let mut lowered = Demand { price_max: None, ..demand.clone() };
        set(&mut lowered, value);
        lowered
    };
    let best = values.iter().copied().filter(|value| fits(&lowered(*value))).max();
    let most = values.iter().copied().max();
    let ends = |value: Option<u64>| value.is_some_and(|v| miss.sentence.ends_with(&format!(" is {}", show(v))));
    let told = ends(most) || miss.sentence.contains("not all that is missing") || demand.price_max.is_some();
    assert!(ends(best) || told, "{miss}: the best is {best:?}, the most {most:?} of {values:?}");
}

/// How often each is chosen over so many seeds.
fn counts(view: &View, demand: &Demand, seeds: u64) -> BTreeMap<NodeId, u64> {
    let mut counts: BTreeMap<NodeId, u64> = view.iter().map(|p| (p.node, 0)).collect();
    for seed in 0..seeds {
        let result = view.match_one(demand, seed.wrapping_mul(0x9e37_79b9_7f4a_7c15), NOW);
        *counts.get_mut(&result.choices[0].node).unwrap() += 1;
    }
    counts
}

/// Pearson's chi-squared against equal shares; its mean is n - 1 and its deviation the root of twice that.
fn assert_equal_shares(counts: &BTreeMap<NodeId, u64>) {
    let n = counts.len() as f64;
    let expected = counts.values().sum::<u64>() as f64 / n;
    let chi: f64 = counts.values().map(|c| (*c as f64 - expected).powi(2) / expected).sum();
    assert!(chi < (n - 1.0) + 5.0 * (2.0 * (n - 1.0)).sqrt(), "chi-squared {chi} for {n}");
}

#[test]
fn equals_share() {
    // Few: all take part in the draw. Many: a sample does.
    assert_equal_shares(&counts(&view_of((0..10).map(container)), &Demand::default(), 4_000));
    assert_equal_shares(&counts(&view_of((0..300).map(container)), &Demand::default(), 30_000));
}

#[test]
fn equals_share_among_others_that_do_not_fit() {
    // Full ones and dear ones stand among a hundred equals: they must not shift the odds of their neighbours.
    let providers = (0..600).map(|n| {
        let mut provider = container(n);
        match n % 6 {
            0 => {}
            1..=4 => provider.free.cpu_millis = 0,
            _ => provider.ask.core_hour = UsdMicro(25_000),
        }
        provider
    });
    let counts = counts(&view_of(providers), &Demand::default(), 20_000);
    let equals: BTreeMap<NodeId, u64> =
        (0..600).step_by(6).map(|n| container(n).node).map(|node| (node, counts[&node])).collect();
    assert_eq!(equals.values().sum::<u64>(), 20_000);
    assert_equal_shares(&equals);
}

#[test]
fn odds_rise_with_quality_and_stake_and_fall_with_use() {
    let mut providers: Vec<Provider> = (0..4).map(container).collect();
    providers[1].quality_bps = 5_000;
    providers[2].stake = TokenAmount(64_000 * TokenAmount::ONE.0);
    let mut view = view_of(providers.clone());
    for _ in 0..3 {
        view.note_chosen(&providers[3].node, NOW);
    }
    let demand = Demand { objective: Objective::Cheapest, ..Demand::default() };
    let counts = counts(&view, &demand, 8_000);
    let of = |n: usize| counts[&providers[n].node];
    assert!(of(2) > of(0) && of(0) > of(1) && of(1) > of(3) && of(3) > 0, "{counts:?}");
    // What was long ago no longer counts: an hour is six half-lives.
    let later = TimeMs(NOW.0 + 3_600_000);
    let chosen =
        (0..4_000u64).filter(|seed| view.match_one(&demand, *seed, later).choices[0].node == providers[3].node);
    assert!(chosen.count() > 800);
}

#[test]
fn nobody_starves() {
    // The best of everything against the worst of everything that is still near the best price.
    let mut providers: Vec<Provider> = (0..200).map(container).collect();
    for provider in providers.iter_mut().skip(1) {
        provider.stake = TokenAmount(1_000_000 * TokenAmount::ONE.0);
    }
    providers[0].quality_bps = 0;
    providers[0].ask.core_hour = UsdMicro(20_200);
    let mut view = view_of(providers.clone());
    let demand = Demand { objective: Objective::Cheapest, ..Demand::default() };
    let mut served = BTreeSet::new();
    for round in 0..6_000u64 {
        let chosen = view.match_one(&demand, round, NOW).choices[0].node;
        view.note_chosen(&chosen, NOW);
        served.insert(chosen);
    }
    assert_eq!(served.len(), 200);
}

#[test]
fn being_chosen_evens_out() {
    let providers: Vec<Provider> = (0..20).map(container).collect();
    let mut view = view_of(providers);
    let mut counts: BTreeMap<NodeId, u32> = BTreeMap::new();
    for round in 0..400u64 {
        let chosen = view.match_one(&Demand::default(), round, NOW).choices[0].node;
        view.note_chosen(&chosen, NOW);
        *counts.entry(chosen).or_default() += 1;
    }
    // Chance alone would spread them by 4.4 around 20; being held back by each choice keeps them closer.
    assert_eq!(counts.len(), 20);
    assert!(counts.values().all(|count| (12..=28).contains(count)), "{counts:?}");
}

#[test]
fn nearest_misses_read_well() {
    let check = |providers: Vec<Provider>, change: &dyn Fn(&mut Demand)| {
        let mut demand = Demand::default();
        change(&mut demand);
        view_of(providers).match_one(&demand, 1, NOW).report.nearest_miss.unwrap()
    };
    let cards = || vec![with_gpus(1, vec![gpu("rtx 4090", 24, 1300)]), with_gpus(2, vec![gpu("rtx 3060", 12, 380)])];
    let miss = check(cards(), &|d| (d.gpu_count, d.vram) = (1, Bytes(80 * Bytes::GIB)));
    assert_eq!(miss.sentence, "needs 80 GiB of VRAM; the largest is 24 GiB");
    assert!(!miss.busy);
    let mut busy = cards();
    busy[0].free.gpus = GpuSet::NONE;
    let miss = check(busy, &|d| (d.gpu_count, d.vram) = (1, Bytes(16 * Bytes::GIB)));
    assert_eq!(miss.sentence, "needs 16 GiB of VRAM; the largest free is 12 GiB");
    assert!(miss.busy);
    let miss = check(cards(), &|d| (d.gpu_count, d.gpu_model) = (1, Some(GpuModel::new("h100").unwrap())));
    assert_eq!(miss.sentence, "needs a GPU h100; no Container offers one; offered: rtx3060, rtx4090");
    let miss = check(vec![container(1)], &|d| d.gpu_count = 1);
    assert_eq!(miss.sentence, "needs a GPU; no Container that takes work has one");
    let miss = check(vec![container(1)], &|d| d.cpu_millis = 9_500);
    assert_eq!(miss.sentence, "needs 9.5 cores; the most is 8");
    let miss = check(vec![container(1)], &|d| d.price_max = Some(UsdPerHour(10_000)));
    assert_eq!(
        miss.sentence,
        "needs a price of at most $0.01 per hour; the least where all else fits is $0.02 per hour"
    );
    let miss = check(vec![container(1)], &|d| d.exclude = vec![container(1).node]);
    assert_eq!(miss.sentence, "every Container that fits is excluded by the demand");
    let miss = check(vec![container(1)], &|d| d.region = Some(region("eu")));
    assert_eq!(miss.sentence, "no Container in eu takes work now; those that do are in of no named region");
    assert_eq!(check(vec![], &|_| ()).sentence, "no Container is known here yet; try again once one has joined");
    let offline = Provider { state: ContainerState::Offline, ..container(1) };
    assert_eq!(check(vec![offline], &|_| ()).sentence, "no Container takes work now: 1 offline");
    let (mut cores, mut memory) = (container(1), container(2));
    cores.capacity.memory = Bytes(Bytes::GIB);
    memory.capacity.cpu_millis = 1_000;
    let miss = check(vec![cores, memory], &|d| (d.cpu_millis, d.memory) = (4_000, Bytes(8 * Bytes::GIB)));
    assert_eq!(miss.sentence, "needs 4 cores; the most where all else fits is 1");
}

#[test]
fn rejections_read_well() {
    let mut provider = with_gpus(1, vec![gpu("rtx 4090", 24, 1300)]);
    provider.free.cpu_millis = 500;
    provider.region = Some(region("us-east"));
    let demand = Demand {
        region: Some(region("eu")),
        gpu_count: 1,
        vram: Bytes(80 * Bytes::GIB),
        egress: true,
        ..Demand::default()
    };
    let view = view_of([provider]);
    let whys = view.explain(&demand).remove(0).verdict.unwrap_err();
    let sentences: Vec<String> = whys.iter().map(ToString::to_string).collect();
    assert_eq!(
        sentences,
        [
            "is in us-east, not in eu",
            "lets no work reach the internet",
            "needs 1 cores; 0.5 are free",
            "needs 80 GiB of VRAM; the largest free is 24 GiB",
        ]
    );
}

#[test]
fn policy_bars_cards_and_regions() {
    let rules = vec![
        PolicyRule { region: region("xx"), model: None },
        PolicyRule { region: region("yy"), model: Some(GpuModel::new("h100").unwrap()) },
    ];
    let mut view = View::new(Settings { policy: Policy { rules }, ..Settings::default() }).unwrap();
    let mut add = |n: u32, place: &str| {
        let mut provider = with_gpus(n, vec![gpu("h100", 80, 1000)]);
        provider.region = (!place.is_empty()).then(|| region(place));
        view.upsert(provider.clone()).unwrap();
        provider.node
    };
    let (barred, card_barred, free, unknown) = (add(1, "xx-east"), add(2, "yy"), add(3, "zz"), add(4, ""));
    let cpu = Demand::default();
    let card = Demand { gpu_count: 1, gpu_model: Some(GpuModel::new("H100").unwrap()), ..Demand::default() };
    let chosen = |view: &View, demand: &Demand| -> BTreeSet<NodeId> {
        view.match_one(demand, 1, NOW).choices.iter().map(|c| c.node).collect()
    };
    assert_eq!(chosen(&view, &cpu), BTreeSet::from([card_barred, free]));
    assert_eq!(chosen(&view, &card), BTreeSet::from([free]));
    let whys: BTreeMap<NodeId, String> =
        view.explain(&card).into_iter().filter_map(|e| Some((e.node, e.verdict.err()?.first()?.to_string()))).collect();
    assert_eq!(whys[&barred], "may not be used in xx-east under the network's policy");
    assert_eq!(whys[&card_barred], "may not use its h100 in yy under the network's policy");
    assert_eq!(whys[&unknown], "may not be used in an unknown region under the network's policy");
}

#[test]
fn what_is_held_is_not_offered_again() {
    let mut view = view_of([container(1)]);
    let demand = Demand { cpu_millis: 5_000, ..Demand::default() };
    let choice = view.match_one(&demand, 1, NOW).choices.remove(0);
    assert!(view.hold(&choice.node, &choice.allocation));
    assert!(!view.hold(&choice.node, &choice.allocation), "only 3 cores are left");
    let miss = view.match_one(&demand, 1, NOW).report.nearest_miss.unwrap();
    assert_eq!((miss.sentence.as_str(), miss.busy), ("needs 5 cores; the most free is 3", true));
    assert!(view.update_free(&choice.node, Free::all_of(&container(1).capacity)));
    assert_eq!(view.match_one(&demand, 2, NOW).choices.len(), 1);
    assert!(view.remove(&choice.node));
    assert!(!view.update_free(&choice.node, Free::default()));
    assert!(view.is_empty());
}

/// Takes every task from its Container's ledger: nothing is promised twice.
fn check_group(choices: &[Choice], demand: &Demand, view: &View) {
    let mut ledgers: BTreeMap<NodeId, Inventory> = BTreeMap::new();
    for choice in choices {
        let provider = view.get(&choice.node).unwrap();
        let ledger = ledgers.entry(choice.node).or_insert_with(|| {
            let mut capacity = provider.capacity.clone();
            (capacity.cpu_millis, capacity.memory, capacity.disk) =
                (provider.free.cpu_millis, provider.free.memory, provider.free.disk);
            Inventory::new(capacity).unwrap()
        });
        assert!(provider.free.gpus.contains_all(choice.allocation.gpus));
        ledger.take(&choice.allocation).expect("the Container has room for all its tasks");
        assert!(oracle(provider, demand, view).is_some());
        assert!(demand.price_max.is_none_or(|max| choice.price <= max));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn groups_conserve_capacity(seed in any::<u64>(), count in 0u32..80, wanted in 1u32..60) {
        let providers = little_world(seed, count);
        let view = view_of(providers.clone());
        for grouping in [Grouping::Array, Grouping::GangAnywhere, Grouping::GangInOneSite] {
            let mut demand = Demand { count: wanted, grouping, ..little_demand(seed, &providers) };
            demand.cpu_millis = demand.cpu_millis.min(2_000);
            demand.memory = Bytes(Bytes::GIB);
            let result = view.match_group(&demand, seed, NOW);
            let placed = u32::try_from(result.choices.len()).unwrap();
            prop_assert_eq!(placed + result.unplaced, wanted);
            check_group(&result.choices, &demand, &view);
            prop_assert_eq!(result.report.nearest_miss.is_some(), placed == 0);
            let serving = providers.iter().filter(|p| oracle(p, &demand, &view).is_some()).count();
            let used: BTreeSet<NodeId> = result.choices.iter().map(|c| c.node).collect();
            match grouping {
                Grouping::Array => prop_assert_eq!(used.len(), serving.min(usize::try_from(wanted).unwrap())),
                Grouping::GangAnywhere => prop_assert!(placed == 0 || placed == wanted),
                Grouping::GangInOneSite => {
                    prop_assert!(placed == 0 || placed == wanted);
                    let sites: BTreeSet<_> = used.iter().map(|node| view.get(node).unwrap().site).collect();
                    prop_assert!(sites.len() <= 1 && (used.len() <= 1 || !sites.contains(&None)));
                }
            }
        }
    }
}

#[test]
fn arrays_spread_and_gangs_stay_together() {
    let demand = Demand { count: 24, disk: Bytes(0), ..Demand::default() };
    let view = view_of((0..4).map(container));
    let result = view.match_group(&demand, 7, NOW);
    assert_eq!((result.choices.len(), result.unplaced), (24, 0));
    let mut counts: BTreeMap<NodeId, u32> = BTreeMap::new();
    result.choices.iter().for_each(|c| *counts.entry(c.node).or_default() += 1);
    assert!(counts.values().all(|count| *count == 6), "{counts:?}");
    let more = view.match_group(&Demand { count: 40, ..demand.clone() }, 7, NOW);
    assert_eq!((more.choices.len(), more.unplaced), (32, 8), "the rest waits");
    let gang = Demand { count: 12, grouping: Grouping::GangInOneSite, ..demand.clone() };
    let miss = view.match_group(&gang, 7, NOW).report.nearest_miss.unwrap();
    assert_eq!(miss.sentence, "needs room for 12 tasks at once; the site with the most room takes 8 now");
    let housed = view_of((0..4).map(|n| Provider { site: Some(SiteId(u64::from(n / 2))), ..container(n) }));
    assert_eq!(housed.match_group(&gang, 7, NOW).choices.len(), 12);
    let anywhere = Demand { count: 33, grouping: Grouping::GangAnywhere, ..demand };
    let miss = view.match_group(&anywhere, 7, NOW).report.nearest_miss.unwrap();
    assert_eq!(miss.sentence, "needs room for 33 tasks at once; all Containers together take 32 now");
}

#[test]
fn the_synthetic_world_is_sound_and_lasting() {
    let small = synthetic::population(3, 50);
    assert_eq!(small, synthetic::population(3, 200)[..50]);
    let demands = synthetic::demands(3, 500);
    assert!(demands.iter().all(|d| d.check().is_ok()));
    let view = view_of(synthetic::population(3, 3_000));
    let met = demands.iter().filter(|d| !view.match_one(d, 1, NOW).choices.is_empty()).count();
    assert!((350..495).contains(&met), "{met} of 500 demands were met");
}
