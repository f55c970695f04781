//! Whole epochs.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use muster_chain::settle::NodeStatus;
use muster_core::ids::Address;
use muster_core::reward::{LeafKind, owner_key};

use crate::container::Habits;
use crate::world::World;

/// Three Checkers, an honest Container and one that renders every second tile: the honest one is proved and rewarded, the
/// other one is convicted by its own signature, slashed and jailed; a Checker that is stopped in the middle comes back.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn an_honest_container_is_paid_and_a_cheat_is_slashed() {
    let world = World::new().await;
    let honest = world.container(Habits { breaks: AtomicU32::new(1), ..Habits::default() }, 1).await;
    let cheat = world.container(Habits { skips: true, ..Habits::default() }, 2).await;
    let rubbish = world.container(Habits { rubbish: AtomicBool::new(true), ..Habits::default() }, 3).await;
    let mut checkers = Vec::new();
    for at in 0..3 {
        checkers.push(world.checker(at).await);
    }
    world.until("the first outcome", |town| !town.posted().is_empty()).await;
    assert_eq!(world.town.posted()[0].outcome.first_epoch, world.genesis());

    // One of three is gone for a while; two thirds go on.
    checkers.pop().unwrap().stop().await;
    world.until("a slash", |town| town.node(cheat.id).status == NodeStatus::Jailed).await;
    checkers.push(world.checker(2).await);
    world
        .until("what opens too little is slashed too", |town| town.node(rubbish.id).status == NodeStatus::Jailed)
        .await;
    assert_eq!(world.town.node(honest.id).status, NodeStatus::Active);
    assert!(honest.proved.load(Ordering::SeqCst) > 0 && cheat.proved.load(Ordering::SeqCst) > 0);

    let settled = world.town.posted().last().unwrap().outcome.last_epoch;
    world.until("two more outcomes", |town| town.posted().last().unwrap().outcome.last_epoch.since(settled) >= 2).await;
    let state = world.state(&checkers[0]).await;
    let paid = |kind, key: &[u8; 32]| state.leaf(kind, key).map_or(0, |(_, leaf)| leaf.cumulative);
    assert!(paid(LeafKind::Container, &honest.id.0) > 0, "{state:#?}");
    assert_eq!(paid(LeafKind::Container, &cheat.id.0), 0, "{state:#?}");
    assert!(paid(LeafKind::LicenceOwner, &owner_key(&Address([0xee; 20]))) > 0, "{state:#?}");
    let record = state.container(&honest.id).unwrap();
    assert!(record.proved, "{record:?}");
    assert!(!state.container(&cheat.id).unwrap().proved);
    for checker in &checkers {
        checker.until("it has seen what was settled", |status| status.settled >= state.settled).await;
    }
    assert!(state.checkers.iter().all(|record| record.wrong.is_empty()), "nobody honest is called wrong: {state:#?}");
    for checker in checkers {
        checker.stop().await;
    }
}
