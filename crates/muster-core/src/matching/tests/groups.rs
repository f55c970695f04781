//! Arrays and gangs.

use super::*;

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
