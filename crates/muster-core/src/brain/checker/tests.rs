//! Checkers among themselves, with a chain that is a list.

mod net;

use net::{Net, STAKE};

use super::*;
use crate::epoch::{Phase, TaskKind};
use crate::ids::ContentHash;
use crate::reward::{Finding, IgnoredWhy};
use crate::units::TokenAmount;

/// The epochs of the outcomes on the chain.
fn spans(net: &Net) -> Vec<(u64, u64)> {
    net.chain
        .posted
        .iter()
        .map(|p| (p.outcome.first_epoch.0 - net.genesis, p.outcome.last_epoch.0 - net.genesis))
        .collect()
}

fn one_each(epochs: u64) -> Vec<(u64, u64)> {
    (0..epochs).map(|e| (e, e)).collect()
}

fn assert_agreed(net: &Net) {
    let state = net.checkers[0].state();
    assert!(net.checkers.iter().all(|checker| checker.state() == state));
    net.assert_chained();
}

#[test]
fn epochs_are_settled_one_after_the_other() {
    let mut net = Net::new(7);
    net.run_epochs(5);
    assert_eq!(spans(&net), one_each(5));
    assert_agreed(&net);
    let settled = net.checkers[0].state();
    assert!(settled.containers.iter().all(|c| c.proved));
    for checker in &settled.checkers {
        let duty = checker.week(net.params.epoch.day(EpochNo(net.genesis + 4)));
        assert!(duty.due > 0 && duty.done == duty.due, "{duty:?}");
    }
    // Each outcome was made final, once its window was over.
    net.run_ms(net.params.epoch.dispute_window_ms + 20_000);
    let due = net.chain.posted.iter().filter(|posted| posted.final_at.plus(15_000) <= net.time());
    assert!(due.clone().count() >= 5);
    assert!(due.into_iter().all(|posted| posted.finalized));
}

#[test]
fn a_member_that_is_away_delays_an_epoch_by_its_turn_only() {
    let mut net = Net::new(7);
    net.run_epochs(1);
    let first = net.checkers[0].committee(EpochNo(net.genesis + 1))[0].node;
    net.kill(first);
    net.run_epochs(3);
    assert_eq!(spans(&net), one_each(4));
    net.revive(first);
    net.run_epochs(1);
    assert_eq!(spans(&net), one_each(5));
    assert_agreed(&net);
}

#[test]
fn a_restart_reveals_what_was_committed() {
    for after_ms in [4_000, 17_500, 20_500, 22_000, 23_500, 24_500] {
        let mut net = Net::new(7);
        net.run_epochs(1);
        net.run_ms(after_ms);
        for at in 0..7 {
            net.restart(at);
        }
        net.run_to_epoch(3);
        assert_eq!(spans(&net), one_each(3), "restarted after {after_ms} ms");
        assert_agreed(&net);
        let wrong: usize = net.checkers[0].state().checkers.iter().map(|c| c.wrong.len()).sum();
        assert_eq!(wrong, 0);
    }
}

#[test]
fn epochs_while_the_chain_is_away_are_settled_late_in_their_order() {
    let mut net = Net::new(7);
    net.run_epochs(1);
    net.chain.up = false;
    net.run_epochs(4);
    assert_eq!(spans(&net), one_each(1));
    net.chain.up = true;
    net.run_epochs(2);
    assert_eq!(spans(&net), one_each(7));
    assert_agreed(&net);
    // Nothing was lost: every Checker did all that it was drawn for in every one of them.
    for checker in &net.checkers[0].state().checkers {
        assert!(checker.days.iter().all(|duty| duty.done == duty.due));
    }
}

#[test]
fn epochs_in_which_nobody_was_there_are_settled_as_one() {
    let mut net = Net::new(7);
    net.run_epochs(2);
    net.away = true;
    net.run_epochs(5);
    net.away = false;
    net.run_epochs(3);
    let spans = spans(&net);
    assert_eq!(spans[..2], one_each(2));
    assert_eq!((spans[2].0, spans[3].0), (2, 8), "{spans:?}");
    assert_agreed(&net);
}

#[test]
fn what_the_proposer_lacks_is_sent_to_it() {
    let mut net = Net::new(7);
    net.run_epochs(1);
    let epoch = EpochNo(net.genesis + 1);
    let proposer = net.checkers[0].committee(epoch)[0].node;
    let cut = net.ids().into_iter().find(|id| net.checkers[0].committee(epoch).iter().all(|m| m.node != *id)).unwrap();
    net.cut = vec![(cut, proposer)];
    net.run_epochs(1);
    net.cut.clear();
    assert_eq!(spans(&net), one_each(2));
    let record = net.checkers[0].state().checker(&cut).unwrap().clone();
    let duty = record.week(net.params.epoch.day(epoch));
    assert!(duty.due > 0 && duty.done == duty.due, "the report that did not reach the proposer counts: {duty:?}");
}

#[test]
fn lost_doubled_and_late_messages_change_nothing() {
    for seed in 1..=6 {
        let mut net = Net::new(7);
        net.loss = Some((seed, 25));
        net.run_epochs(6);
        net.loss = None;
        net.run_epochs(2);
        assert_eq!(spans(&net), one_each(8), "seed {seed}");
        assert_agreed(&net);
    }
}

#[test]
fn a_clock_that_is_off_costs_its_checker_only() {
    let mut net = Net::new(7);
    net.skew[3] = 20_000;
    net.run_epochs(4);
    assert_eq!(spans(&net), one_each(4));
    let id = net.ids()[3];
    let day = net.params.epoch.day(EpochNo(net.genesis + 3));
    let state = net.checkers[0].state();
    assert_eq!(state.checker(&id).unwrap().week(day).done, 0);
    assert!(state.checkers.iter().filter(|c| c.node != id).all(|c| c.week(day).done > 0));
}

#[test]
fn a_cheat_is_slashed_on_the_chain() {
    let mut net = Net::new(7);
    let cheat = net.view.containers()[2].node;
    net.find = |draw, assignment| {
        let bad = ContentHash([0xbb; 32]);
        let test = matches!(assignment.task.kind, TaskKind::Capacity | TaskKind::Dispute);
        (test
            && assignment.task.subject == 2
            && draw.seats(assignment.task.kind, 2).seat_of(assignment.checker) == Some(0))
        .then_some(Finding::Refuted { transcript: bad })
    };
    net.run_epochs(1);
    net.find = |_, _| None;
    net.run_ms(net.params.epoch.dispute_window_ms + 40_000);
    assert_eq!(net.chain.executed.len(), 1);
    let (leaf, root) = net.chain.executed[0];
    assert_eq!((leaf.node, leaf.amount), (cheat, STAKE));
    assert_ne!(root, [0; 32]);
    // Once is enough.
    net.run_epochs(1);
    assert_eq!(net.chain.executed.len(), 1);
}

#[test]
fn nobody_signs_what_it_does_not_compute() {
    let mut net = Net::new(7);
    net.run_epochs(1);
    // The first proposer of the next epoch doubles the sum of all rewards in whatever it proposes.
    net.liar = Some(net.checkers[0].committee(EpochNo(net.genesis + 1))[0].node);
    net.run_epochs(2);
    assert_eq!(spans(&net), one_each(3));
    assert!(net.refused > 0);
    assert_agreed(&net);
    let total: u128 = net.checkers[0].state().leaves.iter().map(|leaf| leaf.cumulative).sum();
    assert_eq!(net.chain.posted.last().unwrap().outcome.cumulative_total, TokenAmount(total));
}

#[test]
fn who_commits_twice_is_not_heard() {
    let mut net = Net::new(7);
    net.run_epochs(1);
    let epoch = EpochNo(net.genesis + 1);
    let two_faced =
        net.ids().into_iter().find(|id| net.checkers[0].committee(epoch).iter().all(|m| m.node != *id)).unwrap();
    net.two_faced = Some(two_faced);
    net.run_epochs(1);
    assert_eq!(spans(&net), one_each(2));
    let twice = net.ignored(epoch).into_iter().filter(|i| i.checker == two_faced).map(|i| i.why).collect::<Vec<_>>();
    assert_eq!(twice, vec![IgnoredWhy::Twice]);
    let record = net.checkers[0].state().checker(&two_faced).unwrap().clone();
    let duty = record.week(net.params.epoch.day(epoch));
    assert!(duty.done > 0 && duty.done < duty.due, "{duty:?}");
}

#[test]
fn tasks_begin_at_their_instants_and_not_after_the_tests() {
    let mut net = Net::new(7);
    net.run_epochs(2);
    assert!(!net.performed.is_empty());
    for (at, epoch, assignment) in &net.performed {
        assert!(*at >= assignment.begin && at.since(assignment.begin) <= 500);
        assert!(*at < net.params.epoch.begin_of(*epoch, Phase::Commit));
    }
}

#[test]
fn what_is_open_is_bounded() {
    let net = Net::new(4);
    let mut checker = Checker::new(net.config(0));
    for epoch in 0..EPOCHS_MAX as u64 + 50 {
        let draw = net.draw_of(EpochNo(net.genesis + epoch));
        checker.handle(Event::Epoch { draw, chance: [1; 64] }, TimeMs(0));
    }
    assert_eq!(checker.open_epochs().count(), EPOCHS_MAX);
}
