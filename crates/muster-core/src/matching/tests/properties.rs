//! What holds for every world and demand.

use super::super::query::Query;
use super::super::warm;
use super::*;

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
            // The search for the best compromise ends early: it may name fewer to fall back on than there are.
            let most = prices.len().min(5);
            prop_assert!(result.choices.len() <= most);
            if demand.objective == Objective::Cheapest {
                prop_assert_eq!(result.choices.len(), most, "as many to fall back on as there are");
            }
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
    fn who_has_the_packages_comes_first_and_nobody_is_turned_down_for_them(seed in any::<u64>(), count in 1u32..60) {
        let providers = little_world(seed, count);
        let mut view = view_of(providers.clone());
        measured(&mut view);
        for round in 0..8u64 {
            let demand = Demand { packages: packages(round % 5), ..little_demand(seed ^ round << 20, &providers) };
            let plain = Demand { packages: PackageSet::default(), ..demand.clone() };
            let (with, without) = (view.match_one(&demand, seed, NOW), view.match_one(&plain, seed, NOW));
            prop_assert_eq!(with.choices.is_empty(), without.choices.is_empty());
            prop_assert_eq!(with.report.turned_down, without.report.turned_down);
            let query = Query::new(&demand, &view);
            let badness = |node: &NodeId| {
                let slot = view.slot(node)?;
                let serves = view.first_why(slot, &demand, &query).is_none();
                serves.then(|| query.check(slot, view.record(slot)?, &view.latencies).ok()).flatten().map(|fit| fit.badness)
            };
            let has = |node: &NodeId| view.get(node).is_some_and(|p| demand.packages.id().is_some_and(|set| p.warm.contains(&set)));
            let Some(first) = with.choices.first() else { continue };
            prop_assert_eq!(first.warm, Some(has(&first.node)));
            let least = providers.iter().filter_map(|p| badness(&p.node)).min().unwrap();
            let worst = warm::worst(demand.objective, least);
            let fitting = providers.iter().filter(|p| has(&p.node)).filter_map(|p| badness(&p.node)).min();
            prop_assert_eq!(fitting.is_some_and(|badness| badness <= worst), has(&first.node), "{:?}", &demand);
            prop_assert!(badness(&first.node).unwrap() <= worst);
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

    /// Among Containers that are picked out, by the round trips that were measured.
    #[test]
    fn picked_out_ones_are_chosen_by_what_was_measured(seed in any::<u64>(), count in 1u32..60) {
        let world = little_world(seed, count);
        let mut view = view_of(world.clone());
        measured(&mut view);
        let mut demand = little_demand(seed, &world);
        let mut random = Random::new(seed ^ 9);
        let picked = world.iter().filter(|_| random.below(4) == 0).take(ONLY_MAX);
        demand.only = picked
            .zip((1..).map(|n| n * 4_000))
            .map(|(p, us)| Reach { node: p.node, round_trip_us: Some(us) })
            .collect();
        prop_assume!(!demand.only.is_empty());
        prop_assert_eq!(demand.check(), Ok(()));
        let found = view.match_one(&demand, seed, NOW);
        let is_picked = |node: &NodeId| demand.only.iter().any(|reach| reach.node == *node);
        let serves = |p: &&Provider| is_picked(&p.node) && oracle(p, &demand, &view).is_some();
        let able = world.iter().filter(serves).count();
        prop_assert_eq!(found.report.fit, u64::try_from(able).unwrap());
        prop_assert_eq!(found.choices.is_empty(), able == 0);
        prop_assert_eq!(found.report.nearest_miss.is_some(), able == 0);
        for choice in &found.choices {
            let provider = world.iter().find(|p| p.node == choice.node).unwrap();
            prop_assert!(serves(&provider));
            let reach = demand.only.iter().find(|reach| reach.node == choice.node).unwrap();
            prop_assert_eq!(choice.latency_us, reach.round_trip_us.map(u64::from));
        }
        // Whom one would measure the way to: those who serve but for the distance.
        let anywhere = Demand { only: Vec::new(), latency_ms_max: None, ..demand.clone() };
        for node in view.candidates(&Demand { only: Vec::new(), ..demand.clone() }, 8, seed, NOW) {
            let provider = world.iter().find(|p| p.node == node).unwrap();
            prop_assert!(oracle(provider, &anywhere, &view).is_some());
        }
    }
}

/// Holds a miss against all Containers: with the requirement that it names lowered to the best that one of them has,
/// that one fits, and with one more it does not; or nobody at all has what is needed.
fn check_miss(miss: &super::super::Miss, demand: &Demand, world: &[Provider], view: &View) {
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
    miss: &super::super::Miss,
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
