//! The made-up world: that it is sound, and how well matching does in it.

use super::super::query::Query;
use super::*;

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

/// The chosen against the best of all, found by looking at each.
#[test]
fn the_chosen_is_near_the_best_in_a_large_world() {
    let providers = synthetic::population(5, 3_000);
    let view = view_of(providers.clone());
    let mut worse = 0;
    let demands = synthetic::demands(5, 150);
    for (seed, demand) in (0u64..).zip(&demands) {
        let query = Query::new(demand, &view);
        let badness_of = |node: &NodeId| {
            let slot = view.slot(node).unwrap();
            query.check(slot, view.record(slot).unwrap(), &view.latencies).unwrap().badness
        };
        let serving = providers.iter().filter(|p| oracle(p, demand, &view).is_some());
        let best = serving.map(|p| badness_of(&p.node)).min();
        let chosen = view.match_one(demand, seed, NOW).choices.first().map(|choice| badness_of(&choice.node));
        assert_eq!(chosen.is_some(), best.is_some());
        let (Some(best), Some(chosen)) = (best, chosen) else { continue };
        match demand.objective {
            Objective::Cheapest => assert!(chosen <= best + best / 100, "{chosen} against {best}: {demand:?}"),
            // The effort for these is limited, but in a world like this it is enough.
            Objective::Balanced | Objective::Best => worse += u32::from(chosen > best + best / 20),
        }
    }
    assert_eq!(worse, 0, "so many of {} demands were served by somebody not near the best", demands.len());
}
