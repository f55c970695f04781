use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::ids::{Address, NodeId};
use crate::reward::synthetic::{self, Sizes};
use crate::units::{Ob, TimeMs, TokenAmount};

const SIZES: Sizes = Sizes { containers: 60, checkers: 30, licences: 90, indexers: 2 };
const STAKE: TokenAmount = TokenAmount(1_000 * TokenAmount::ONE.0);

fn view(seed: u64) -> RegistryView {
    synthetic::view(seed, SIZES, EpochNo(500), STAKE).unwrap()
}

fn draw(view: RegistryView, seed: u8) -> Draw {
    Draw::new(Arc::new(view), EpochParams::production(), Seed([seed; 32]))
}

/// A view with its parts changed.
fn changed(view: &RegistryView, change: impl FnOnce(&mut Vec<ContainerEntry>, &mut Vec<CheckerEntry>)) -> RegistryView {
    let (mut containers, mut checkers) = (view.containers().to_vec(), view.checkers().to_vec());
    change(&mut containers, &mut checkers);
    let (indexers, licences) = (view.indexers().to_vec(), view.licences().to_vec());
    RegistryView::new(view.epoch(), view.genesis(), containers, checkers, indexers, licences).unwrap()
}

#[test]
fn the_order_in_which_a_view_is_given_does_not_matter() {
    let one = view(1);
    let other = changed(&one, |containers, checkers| {
        containers.reverse();
        checkers.rotate_left(7);
    });
    assert_eq!(one.hash(), other.hash());
    let (one, other) = (draw(one, 9), draw(other, 9));
    assert_eq!(one.assignments().collect::<Vec<_>>(), other.assignments().collect::<Vec<_>>());
    assert_eq!(one.next_committee(), other.next_committee());
    assert_ne!(one.next_committee(), draw(view(1), 10).next_committee());
}

#[test]
fn every_part_of_a_view_is_in_its_hash() {
    let one = view(1);
    let mut hashes = BTreeSet::from([one.hash(), one.at(EpochNo(501)).hash()]);
    type Change = fn(&mut ContainerEntry);
    let changes: [Change; 13] = [
        |c| c.owner = Address::ZERO,
        |c| c.stake = TokenAmount(1),
        |c| c.stake_due = TokenAmount(1),
        |c| c.status = RegistryStatus::Jailed,
        |c| c.registered_at = TimeMs(1),
        |c| c.fingerprint = None,
        |c| c.block = None,
        |c| c.ob_claimed = Ob(1),
        |c| c.ob_cap = Ob(1),
        |c| c.serving = !c.serving,
        |c| c.tested = Some(EpochNo(0)),
        |c| c.again = true,
        |c| c.accused = Some(Accusation { of: AccusedOf::Absence, epoch: EpochNo(0) }),
    ];
    for change in changes {
        hashes.insert(changed(&one, |containers, _| change(&mut containers[0])).hash());
    }
    type Other = fn(&mut CheckerEntry);
    let others: [Other; 3] =
        [|c| c.signer = Address::ZERO, |c| c.stake = TokenAmount(1), |c| c.barred_until = EpochNo(9)];
    for change in others {
        hashes.insert(changed(&one, |_, checkers| change(&mut checkers[0])).hash());
    }
    assert_eq!(hashes.len(), 18);
}

#[test]
fn names_are_there_once() {
    let one = view(1);
    let mut containers = one.containers().to_vec();
    containers.push(containers[3].clone());
    let wrong = RegistryView::new(EpochNo(1), EpochNo(0), containers, Vec::new(), Vec::new(), Vec::new());
    assert!(wrong.unwrap_err().to_string().starts_with("the Container "));
    let mut checkers = one.checkers().to_vec();
    checkers[1].signer = checkers[0].signer;
    let wrong = RegistryView::new(EpochNo(1), EpochNo(0), Vec::new(), checkers, Vec::new(), Vec::new());
    assert!(wrong.unwrap_err().to_string().contains("signer"));
}

proptest! {
    #[test]
    fn committees_have_one_seat_an_owner_and_none_of_the_containers(
        seed in any::<u8>(),
        owners in 1u8..12,
        own in 0u8..12,
    ) {
        let one = changed(&view(u64::from(seed)), |containers, checkers| {
            for (checker, i) in checkers.iter_mut().zip(0u8..) {
                checker.owner = Address([i % owners; 20]);
            }
            containers.iter_mut().for_each(|c| c.owner = Address([own; 20]));
        });
        let draw = draw(one, seed);
        let free = usize::from(owners) - usize::from(own < owners);
        for container in 0..60 {
            for kind in TaskKind::ALL {
                let seats = draw.seats(kind, container);
                let owners: BTreeSet<Address> =
                    seats.as_slice().iter().map(|c| draw.view().checkers()[*c as usize].owner).collect();
                prop_assert_eq!(owners.len(), seats.len());
                prop_assert!(!owners.contains(&Address([own; 20])));
                if kind == TaskKind::Capacity && draw.tested(container).is_some() {
                    prop_assert_eq!(seats.len(), free.min(7));
                }
            }
        }
    }

    #[test]
    fn a_checkers_tasks_are_its_part_of_all(seed in any::<u8>(), checker in 0u32..30) {
        let draw = draw(view(u64::from(seed)), seed);
        let mut part: Vec<Assignment> = draw.assignments().filter(|a| a.checker == checker).collect();
        part.sort_by_key(|a| a.task);
        prop_assert_eq!(draw.loads()[checker as usize] as usize, part.len());
        prop_assert_eq!(draw.tasks_of(checker), part);
    }
}

#[test]
fn seats_follow_licences_and_stake() {
    let one = view(1);
    // Every Checker has three licences; the first one gets twelve more, the second ten times the stake.
    let mut licences = one.licences().to_vec();
    let favoured = one.checkers()[0].signer;
    licences.extend((90..102).map(|id| Licence { id, owner: Address([7; 20]), delegate: Some(favoured) }));
    let mut checkers = one.checkers().to_vec();
    checkers[1].stake = TokenAmount(STAKE.0 * 10);
    let parts = (one.containers().to_vec(), one.indexers().to_vec());
    let one = Arc::new(RegistryView::new(EpochNo(500), EpochNo(0), parts.0, checkers, parts.1, licences).unwrap());
    let mut firsts = [0u32; 30];
    for seed in 0..200u8 {
        let draw = Draw::new(Arc::clone(&one), EpochParams::production(), Seed([seed; 32]));
        assert_eq!([0, 1, 2].map(|c| draw.weight(c).0), [16_000, 6_000, 4_000]);
        for container in 0..60 {
            firsts[draw.seats(TaskKind::Liveness, container).as_slice()[0] as usize] += 1;
        }
    }
    let total: u32 = firsts.iter().sum();
    let expected = |weight: u32| total * weight / (16_000 + 6_000 + 28 * 4_000);
    for (checker, weight) in [(0, 16_000), (1, 6_000), (2, 4_000), (17, 4_000)] {
        let apart = firsts[checker].abs_diff(expected(weight));
        assert!(apart < expected(weight) / 5, "{checker}: {} of {}", firsts[checker], expected(weight));
    }
}

#[test]
fn who_is_not_in_good_standing_is_never_drawn() {
    let one = changed(&view(1), |_, checkers| {
        checkers[0].status = RegistryStatus::Jailed;
        checkers[1].stake = TokenAmount(STAKE.0 - 1);
        checkers[2].barred_until = EpochNo(501);
        checkers[3].barred_until = EpochNo(500);
    });
    let mut licences = one.licences().to_vec();
    let idle = one.checkers()[4].signer;
    licences.retain(|licence| licence.delegate != Some(idle));
    let parts = (one.containers().to_vec(), one.checkers().to_vec(), one.indexers().to_vec());
    let one = RegistryView::new(EpochNo(500), EpochNo(0), parts.0, parts.1, parts.2, licences).unwrap();
    let draw = draw(one, 3);
    let drawn: BTreeSet<u32> = draw.assignments().map(|a| a.checker).collect();
    assert_eq!((0..5).filter(|c| drawn.contains(c)).collect::<Vec<_>>(), vec![3]);
    assert_eq!(draw.drawable().count(), 26);
}

#[test]
fn every_container_is_tested_daily_and_suspects_more_often() {
    let params = EpochParams::production();
    let mut one = changed(&view(1), |containers, _| {
        for (c, i) in containers.iter_mut().zip(0u64..) {
            c.tested = Some(EpochNo(499));
            c.suspect_until = EpochNo(if i < 20 { 10_000 } else { 0 });
        }
    });
    let mut tests: BTreeMap<NodeId, Vec<u64>> = BTreeMap::new();
    let mut reasons = BTreeSet::new();
    for epoch in 500..1_100u64 {
        let draw = Draw::new(Arc::new(one.at(EpochNo(epoch))), params.clone(), Seed([(epoch % 251) as u8; 32]));
        one = changed(draw.view(), |containers, _| {
            for (c, place) in containers.iter_mut().zip(0u32..) {
                if let Some(why) = draw.tested(place) {
                    reasons.insert(why);
                    c.tested = Some(EpochNo(epoch));
                    tests.entry(c.node).or_default().push(epoch);
                }
            }
        });
    }
    let counts: Vec<usize> = one.containers().iter().map(|c| tests[&c.node].len()).collect();
    for all in tests.values() {
        assert!(all.windows(2).all(|pair| pair[1] - pair[0] <= 96));
    }
    let (suspects, others) = counts.split_at(20);
    assert!(suspects.iter().all(|count| (230..370).contains(count)), "{suspects:?}");
    assert!(others.iter().all(|count| (30..110).contains(count)), "{others:?}");
    assert_eq!(reasons, BTreeSet::from([DrawnWhy::Suspect, DrawnWhy::Lot]));
}

#[test]
fn an_overdue_test_is_drawn_for_certain() {
    let params = EpochParams { audit_bps: 0, ..EpochParams::production() };
    let one = |last: u64| {
        changed(&view(1), |containers, _| containers.iter_mut().for_each(|c| c.tested = Some(EpochNo(last))))
    };
    let why = |last: u64| Draw::new(Arc::new(one(last)), params.clone(), Seed([1; 32])).tested(0);
    assert_eq!((why(405), why(404)), (None, Some(DrawnWhy::Overdue)));
}

#[test]
fn owner_block_and_fingerprint_share_an_instant() {
    let one = changed(&view(1), |containers, _| {
        for (c, i) in containers.iter_mut().zip(0u64..) {
            c.owner = Address([i as u8 + 100; 20]);
            c.block = Some(AddressBlock(i));
            c.fingerprint = Some(Fingerprint([i as u8; 32]));
        }
        // 5 - 9 by owner, 9 - 2 by block, 2 - 30 by fingerprint: one chain.
        containers[9].owner = containers[5].owner;
        containers[2].block = containers[9].block;
        containers[30].fingerprint = containers[2].fingerprint;
        containers[7].block = None;
        containers[8].block = None;
    });
    let draw = draw(one, 4);
    for container in [2, 5, 9, 30] {
        assert_eq!(draw.group(container), 2);
        assert_eq!(draw.instant(container, 3, 7), draw.instant(2, 3, 7));
    }
    assert_eq!((draw.group(7), draw.group(8)), (7, 8));
    let alone: BTreeSet<TimeMs> = (0..60).map(|c| draw.instant(c, 0, 7)).collect();
    assert_eq!(alone.len(), 57);
    let params = draw.params();
    for seat in 0..7 {
        assert!(draw.instant(2, seat, 7) >= params.begin_of(EpochNo(500), Phase::Tests));
        assert!(draw.instant(2, seat, 7) < params.begin_of(EpochNo(500), Phase::Commit));
        assert!(seat == 0 || draw.instant(2, seat, 7) > draw.instant(2, seat - 1, 7));
    }
}

#[test]
fn blocks_are_of_neighbours() {
    let block = |text: &str| AddressBlock::of(text.parse().unwrap());
    assert_eq!(block("192.0.2.1"), block("192.0.2.254"));
    assert_eq!(block("192.0.2.1"), block("::ffff:192.0.2.7"));
    assert_ne!(block("192.0.2.1"), block("192.0.3.1"));
    assert_eq!(block("2001:db8:1:2::1"), block("2001:db8:1:ffff::1"));
    assert_ne!(block("2001:db8:1::1"), block("2001:db8:2::1"));
}

#[test]
fn accusations_go_to_the_larger_committee() {
    let one = changed(&view(1), |containers, _| {
        let accuse = |of| Some(Accusation { of, epoch: EpochNo(499) });
        containers[0].accused = accuse(AccusedOf::FarBelow);
        containers[1].accused = accuse(AccusedOf::Interruption);
    });
    let draw = draw(one, 5);
    assert_eq!(draw.tested(0), Some(DrawnWhy::Disputed));
    assert_eq!((draw.seats(TaskKind::Dispute, 0).len(), draw.seats(TaskKind::Capacity, 0).len()), (21, 0));
    // What lies in the past is decided by evidence, beside the test that it has anyway.
    assert_eq!((draw.seats(TaskKind::Dispute, 1).len(), draw.seats(TaskKind::Capacity, 1).len()), (21, 7));
    assert_eq!(draw.seats(TaskKind::Dispute, 2).len(), 0);
}

#[test]
fn about_half_of_the_rechecks_are_planted_and_only_the_secret_tells_which() {
    let draw = draw(view(1), 6);
    let planted = |secret: u8| -> Vec<bool> {
        (0..30)
            .flat_map(|c| (0..64).map(move |nth| (c, nth)))
            .map(|(c, nth)| draw.planted(&[secret; 32], c, nth))
            .collect()
    };
    let bad = planted(1).into_iter().filter(|p| *p).count();
    assert!((800..1_120).contains(&bad), "{bad} of 1920");
    assert_ne!(planted(1), planted(2));
    assert!((0..30).all(|c| draw.setter(c, 0) != Some(c) && draw.setter(c, 0).is_some()));
}

#[test]
fn the_draw_explains_itself() {
    let one = changed(&view(1), |containers, _| {
        containers[0].tested = Some(EpochNo(300));
        containers[1].status = RegistryStatus::Jailed;
        containers[2].accused = Some(Accusation { of: AccusedOf::Absence, epoch: EpochNo(498) });
    });
    let draw = draw(one, 7);
    let text = |place: usize| draw.explain(&draw.view().containers()[place].node).join("\n");
    assert!(text(0).starts_with("it is tested in full because its last test was 200 epochs ago, and 96 is the most"));
    assert!(text(0).contains("capacity: 7 of 30 drawable Checkers"), "{}", text(0));
    assert!(text(0).contains("it shares that instant with"), "{}", text(0));
    assert!(text(1).starts_with("it is jailed"));
    assert!(text(2).contains("in epoch 498 it was accused of not answering the test"));
    assert!(text(3).starts_with("it is tested in full because it has not been proved yet"));
    assert!(draw.explain(&NodeId([1; 32]))[0].starts_with("no Container"));
    assert!(draw.explain_epoch()[0].starts_with("epoch 500: 60 Containers, 30 Checkers of which 30 can be drawn"));
}
