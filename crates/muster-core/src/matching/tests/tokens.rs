//! Demands for models: Containers are compared by what their tokens cost.

use super::super::choose::near_best;
use super::super::query::Query;
use super::*;
use crate::demand::{WorkloadKind, WorkloadKinds};
use crate::inference::{ModelDemand, TokenAsk, WeightsId};
use crate::protocol::EndpointOffer;

fn ask(input: u64, cached: u64, output: u64) -> TokenAsk {
    TokenAsk { input: UsdMicro(input), cached: UsdMicro(cached), output: UsdMicro(output) }
}

fn serving(provider: Provider, models: Option<TokenAsk>) -> Provider {
    let kinds = WorkloadKinds::PROCESS.with(WorkloadKind::Model).with(WorkloadKind::Endpoint);
    Provider { models, kinds, ..provider }
}

fn model(demand: Demand, weights: WeightsId, endpoint: bool) -> Demand {
    let kind = if endpoint { WorkloadKind::Endpoint } else { WorkloadKind::Model };
    let bytes = Bytes(Bytes::GIB);
    let model = ModelDemand { weights, bytes, endpoint, price_max: None, deposit_tokens: 2, credit_tokens: 1 };
    let demand = Demand { kind, model: Some(model), ..demand };
    assert_eq!(demand.check(), Ok(()));
    demand
}

fn tiny(objective: Objective) -> Demand {
    model(Demand { objective, ..Demand::default() }, WeightsId([7; 32]), false)
}

const OBJECTIVES: [Objective; 3] = [Objective::Cheapest, Objective::Balanced, Objective::Best];

#[test]
fn of_two_equals_the_one_with_cheaper_tokens_is_chosen() {
    let cheap = serving(container(1), Some(ask(100, 10, 400)));
    let dear = serving(container(2), Some(ask(400, 10, 400)));
    // What an hour of its cores costs plays no part.
    let cheap = Provider { ask: Ask { core_hour: UsdMicro(90_000), ..cheap.ask }, ..cheap };
    let view = view_of([cheap.clone(), dear.clone()]);
    for objective in [Objective::Cheapest, Objective::Balanced] {
        for seed in 0..40 {
            let found = view.match_one(&tiny(objective), seed, NOW);
            assert_eq!(found.choices[0].node, cheap.node, "{objective:?}");
            assert_eq!(found.choices[1].node, dear.node, "the other is to fall back on");
        }
        // By the hour it is the other way round.
        let hour = Demand { objective, ..Demand::default() };
        assert_eq!(view.match_one(&hour, 1, NOW).choices[0].node, dear.node);
    }
    // `best` looks at the price only among those who are about as good, where it makes the odds.
    let chosen =
        (0..200).filter(|seed| view.match_one(&tiny(Objective::Best), *seed, NOW).choices[0].node == cheap.node);
    assert!(chosen.count() > 115);
}

#[test]
fn answers_prompts_and_what_is_remembered_weigh_as_in_a_typical_request() {
    let one = ask(100, 100, 400);
    let cases =
        [(ask(100, 100, 300), true), (ask(80, 100, 400), true), (ask(100, 0, 400), true), (ask(200, 0, 300), false)];
    for (other, is_cheaper) in cases {
        let (a, b) = (serving(container(1), Some(one)), serving(container(2), Some(other)));
        let view = view_of([a.clone(), b.clone()]);
        let chosen = view.match_one(&tiny(Objective::Cheapest), 3, NOW).choices[0].node;
        assert_eq!(chosen == b.node, is_cheaper, "{other:?}");
    }
}

#[test]
fn who_asks_nothing_for_tokens_runs_no_models() {
    let none = serving(container(1), None);
    let some = serving(container(2), Some(ask(1_000_000, 1_000_000, 1_000_000)));
    let view = view_of([none.clone()]);
    for objective in OBJECTIVES {
        let found = view.match_one(&tiny(objective), 1, NOW);
        assert!(found.choices.is_empty());
        assert_eq!(found.report.turned_down, [(Reason::Kind, 1)]);
        assert_eq!(view.match_one(&Demand { objective, ..Demand::default() }, 1, NOW).choices.len(), 1);
        let both = view_of([none.clone(), some.clone()]).match_one(&tiny(objective), 1, NOW);
        assert_eq!(both.choices.iter().map(|choice| choice.node).collect::<Vec<_>>(), [some.node]);
    }
}

#[test]
fn quality_distance_and_fairness_weigh_as_they_do_by_the_hour() {
    let cheap = Provider { quality_bps: 5_000, ..serving(container(1), Some(ask(100, 10, 400))) };
    let good = serving(container(2), Some(ask(120, 12, 480)));
    let view = view_of([cheap.clone(), good.clone()]);
    let first = |view: &View, demand: &Demand, seed| view.match_one(demand, seed, NOW).choices[0].node;
    assert_eq!(first(&view, &tiny(Objective::Balanced), 1), good.node, "half of the quality costs twice as much");
    assert_eq!(first(&view, &tiny(Objective::Cheapest), 1), cheap.node);
    let mut far = serving(container(3), Some(ask(100, 10, 400)));
    far.origin.place = Some(Place::new(-36_000, 174_000).unwrap());
    let mut near = serving(container(4), Some(ask(110, 11, 440)));
    near.origin.place = Some(Place::new(53_000, -6_000).unwrap());
    let view = view_of([far, near.clone()]);
    let mut here = tiny(Objective::Balanced);
    here.origin.place = Some(Place::new(52_000, 0).unwrap());
    assert_eq!(first(&view, &here, 1), near.node);
    // Of many who are about as cheap, each has its turn, wherever the hour's price puts it.
    let alike = |n: u32| {
        let provider = serving(container(n), Some(ask(1_000 + u64::from(n) % 40, 100, 4_000)));
        Provider { ask: Ask { core_hour: UsdMicro(20_000 + u64::from(n) * 977), ..provider.ask }, ..provider }
    };
    let view = view_of((0..64).map(alike));
    let chosen: BTreeSet<NodeId> = (0..2_000).map(|seed| first(&view, &tiny(Objective::Balanced), seed)).collect();
    assert_eq!(chosen.len(), 64);
}

#[test]
fn endpoints_are_compared_by_what_their_own_size_makes_of_the_ask() {
    let id = WeightsId([9; 32]);
    let offer = |gib: u64, price: u64| EndpointOffer {
        id: id.warm_id(),
        bytes: Bytes(gib * Bytes::GIB),
        ask: ask(price, price, price),
    };
    let with = |n, offers: Vec<EndpointOffer>| Provider { endpoints: offers, ..serving(container(n), None) };
    let other = EndpointOffer { id: WeightsId([8; 32]).warm_id(), ..offer(1, 1) };
    let (large, small) = (with(1, vec![offer(10, 20)]), with(2, vec![other, offer(1, 150)]));
    let view = view_of([large, small.clone()]);
    for objective in [Objective::Cheapest, Objective::Balanced] {
        let only = view.iter().map(|provider| Reach { node: provider.node, round_trip_us: None }).collect();
        let demand = model(Demand { objective, ..Demand::default() }, id, true);
        assert_eq!(view.match_one(&demand, 5, NOW).choices[0].node, small.node);
        assert_eq!(view.match_one(&Demand { only, ..demand }, 5, NOW).choices[0].node, small.node);
    }
    let nobody = view_of([serving(container(3), Some(ask(1, 1, 1)))]);
    assert!(nobody.match_one(&model(Demand::default(), id, true), 1, NOW).choices.is_empty());
}

/// A crowded little world, most of which runs models.
fn world(seed: u64, count: u32) -> Vec<Provider> {
    let mut random = Random::new(seed ^ 77);
    let mut asks = move |provider: Provider| {
        let price = random.below(60) * 5;
        let models = (random.below(5) > 0).then(|| ask(100 + price, random.below(50), 400 + random.below(3) * price));
        serving(provider, models)
    };
    little_world(seed, count).into_iter().map(&mut asks).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn the_best_by_tokens_is_found_and_none_near_it_is_missed_for_good(seed in any::<u64>(), count in 0u32..160) {
        let providers = world(seed, count);
        let mut view = view_of(providers.clone());
        measured(&mut view);
        for round in 0..8u64 {
            let demand = model(little_demand(seed ^ round << 20, &providers), WeightsId([7; 32]), false);
            let query = Query::new(&demand, &view);
            let result = view.match_one(&demand, seed ^ round, NOW);
            let badness = |node: &NodeId| {
                let slot = view.slot(node)?;
                let serves = view.first_why(slot, &demand, &query).is_none();
                serves.then(|| query.check(slot, view.record(slot)?, &view.latencies).ok()).flatten().map(|fit| fit.badness)
            };
            let all: Vec<(u64, &Provider)> = providers.iter().filter_map(|p| Some((badness(&p.node)?, p))).collect();
            prop_assert_eq!(result.choices.is_empty(), all.is_empty(), "{:?}", &demand);
            prop_assert!(all.iter().all(|(_, p)| p.models.is_some() && oracle(p, &demand, &view).is_some()));
            let Some(least) = all.iter().map(|(badness, _)| *badness).min() else { continue };
            let first = result.choices.first().unwrap();
            check_choice(first, &demand, &view);
            prop_assert!(badness(&first.node).unwrap() <= near_best(demand.objective, least), "{:?}", &demand);
            if demand.objective == Objective::Cheapest {
                let price = |p: &Provider| p.models.unwrap().typical();
                let cheapest = all.iter().map(|(_, p)| price(p)).min().unwrap();
                let chosen = price(view.get(&first.node).unwrap());
                prop_assert!(chosen <= cheapest + cheapest / 100, "{} beside {}", chosen, cheapest);
            }
        }
    }
}
