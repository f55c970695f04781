//! Who is chosen how often.

use super::*;

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
fn the_report_tells_what_made_the_odds() {
    let mut providers: Vec<Provider> = (0..3).map(container).collect();
    providers[1].quality_bps = 4_000;
    let mut view = view_of(providers.clone());
    for _ in 0..2 {
        view.note_chosen(&providers[2].node, NOW);
    }
    let demand = Demand { objective: Objective::Cheapest, ..Demand::default() };
    let result = view.match_one(&demand, 5, NOW);
    let chosen: Vec<NodeId> = result.choices.iter().map(|choice| choice.node).collect();
    let odds = &result.report.odds;
    assert_eq!(odds.iter().map(|o| o.node).collect::<Vec<_>>(), chosen);
    assert!((999_990..=1_000_000).contains(&odds.iter().map(|o| o.share_ppm).sum::<u32>()));
    let of = |n: usize| odds.iter().find(|o| o.node == providers[n].node).unwrap();
    assert!(of(0).share_ppm > of(1).share_ppm && of(0).share_ppm > of(2).share_ppm);
    assert_eq!((of(1).quality_bps, of(2).chosen_lately_milli, of(0).chosen_lately_milli), (4_000, 2_000, 0));
    assert!(of(2).to_string().ends_with("chosen 2.00 times lately"), "{}", of(2));
}

#[test]
fn bad_results_lose_priority_where_quality_ranks() {
    for objective in [Objective::Balanced, Objective::Best] {
        let providers: Vec<Provider> = (0..2).map(container).collect();
        let mut view = view_of(providers.clone());
        assert!(view.set_quality(&providers[0].node, 2_000));
        let demand = Demand { objective, ..Demand::default() };
        for seed in 0..50 {
            assert_eq!(view.match_one(&demand, seed, NOW).choices[0].node, providers[1].node, "{objective}");
        }
    }
}

#[test]
fn packages_that_are_there_are_a_preference() {
    let (game, none) = (packages(7), PackageSet::default());
    let set = game.id().unwrap();
    let dear =
        Provider { ask: Ask { core_hour: UsdMicro(24_000), ..container(1).ask }, warm: vec![set], ..container(1) };
    let mut view = view_of([container(0), dear.clone(), container(2)]);
    let demand = |objective, packages: &PackageSet| Demand {
        objective,
        packages: packages.clone(),
        memory: Bytes(Bytes::GIB),
        ..Demand::default()
    };
    let chosen = |view: &View, demand: &Demand| -> BTreeSet<NodeId> {
        (0..200).map(|seed| view.match_one(demand, seed, NOW).choices[0].node).collect()
    };
    // A fifth dearer: worth it when something else than the price counts.
    assert_eq!(chosen(&view, &demand(Objective::Balanced, &game)), [dear.node].into());
    assert_eq!(chosen(&view, &demand(Objective::Balanced, &none)), [container(0).node, container(2).node].into());
    assert_eq!(chosen(&view, &demand(Objective::Cheapest, &game)), [container(0).node, container(2).node].into());
    let result = view.match_one(&demand(Objective::Balanced, &game), 1, NOW);
    assert_eq!(result.choices.iter().map(|c| c.warm).collect::<Vec<_>>(), [Some(true), Some(false), Some(false)]);
    assert!(result.report.odds[0].to_string().ends_with("the packages are there, which puts it first"));
    // One that no longer says so, or is gone, counts no more.
    assert_eq!(view.warm_count(set), 1);
    view.upsert(Provider { warm: Vec::new(), ..dear.clone() }).unwrap();
    assert_eq!(view.warm_count(set), 0);
    assert!(!chosen(&view, &demand(Objective::Balanced, &game)).contains(&dear.node));
    view.upsert(dear.clone()).unwrap();
    assert!(view.remove(&dear.node));
    assert_eq!(view.warm_count(set), 0);
}
