//! What the seats say, and what follows.

use super::*;
use crate::epoch::AccusedOf;
use crate::ids::ContentHash;
use crate::units::Ob;

const BAD: ContentHash = ContentHash([0xbb; 32]);

fn seat(draw: &Draw, a: &Assignment) -> usize {
    draw.seats(a.task.kind, a.task.subject).seat_of(a.checker).unwrap()
}

#[test]
fn an_honest_epoch_proves_everybody_and_slashes_nobody() {
    let mut net = Net::new(small());
    for _ in 0..5 {
        let settled = net.honest_epoch();
        assert_eq!((settled.slashes.len(), settled.jailed.len(), settled.ignored.len()), (0, 0, 0));
        assert!(settled.containers.iter().all(|c| c.capacity > TokenAmount::ZERO));
        assert!(settled.checkers.iter().all(|c| c.due == c.done && c.wrong == 0));
        assert!(settled.licences.iter().all(|l| l.base > TokenAmount::ZERO && l.bonus > TokenAmount::ZERO));
    }
    assert!(net.state.containers.iter().all(|c| c.proved && c.quality_bps > 7_500 && c.accused.is_none()));
}

#[test]
fn one_honest_checker_with_a_bad_transcript_is_enough() {
    let mut net = Net::new(small());
    net.honest_epoch();
    net.state.containers[4].tested = None;
    let find = |draw: &Draw, a: &Assignment| {
        let caught = is_test(a) && a.task.subject == 4 && seat(draw, a) == 2;
        caught.then_some(Finding::Refuted { transcript: BAD })
    };
    let settled = net.epoch(find, |d| if d.transcript == BAD { Reexecution::Bad } else { Reexecution::Good });
    assert!(matches!(settled.containers[4].test, Some(Verdict::Fraud { evidence }) if evidence == BAD));
    assert_eq!(settled.slashes.len(), 1);
    assert_eq!((settled.slashes[0].amount, settled.jailed.len()), (STAKE, 1));
    assert_eq!(settled.containers[4].capacity, TokenAmount::ZERO);
    let record = &net.state.containers[4];
    assert!(!record.proved && record.tested.is_none());
    // A quarter of what was taken went to those who looked.
    let penalties: u128 = settled.licences.iter().map(|l| l.penalties.0).sum();
    assert!(penalties <= STAKE.0 / 4 && penalties > STAKE.0 / 4 - 1_000, "{penalties}");
}

#[test]
fn a_slanderer_is_wrong_and_barred_at_the_second_time() {
    let mut net = Net::new(small());
    net.honest_epoch();
    let mut barred = 0;
    for _ in 0..2 {
        net.state.containers.iter_mut().for_each(|c| c.tested = None);
        let find =
            |_: &Draw, a: &Assignment| (is_test(a) && a.checker == 3).then_some(Finding::Refuted { transcript: BAD });
        let settled = net.epoch(find, |_| Reexecution::Good);
        assert!(settled.slashes.is_empty());
        assert!(settled.checkers[3].wrong > 0);
        let signer = net.view.checkers()[3].signer;
        let mine = net.view.licences().iter().zip(&settled.licences).filter(|(l, _)| l.delegate == Some(signer));
        assert!(mine.into_iter().all(|(_, l)| l.base == TokenAmount::ZERO));
        barred = net.state.checkers[3].barred_until.0;
        if barred > 0 {
            break;
        }
    }
    assert!(barred >= net.next + 30 * 96 - 1, "{barred}");
    assert!(!net.draw().can_be_drawn(3));
}

#[test]
fn an_accusation_without_evidence_counts_for_nothing() {
    let mut net = Net::new(small());
    net.honest_epoch();
    for answer in [Reexecution::Unavailable, Reexecution::Forged] {
        net.state.containers.iter_mut().for_each(|c| c.tested = None);
        let find = |draw: &Draw, a: &Assignment| {
            (is_test(a) && seat(draw, a) == 0).then_some(Finding::Refuted { transcript: BAD })
        };
        let settled = net.epoch(find, |d| if d.transcript == BAD { answer } else { Reexecution::Good });
        assert!(settled.slashes.is_empty());
        assert!(settled.containers.iter().all(|c| matches!(c.test, Some(Verdict::Proved { .. }))));
        let wrong: u32 = settled.checkers.iter().map(|c| c.wrong).sum();
        assert_eq!(wrong > 0, answer == Reexecution::Forged);
    }
}

#[test]
fn a_false_good_proof_is_wrong_and_convicts_its_container() {
    let mut net = Net::new(small());
    net.honest_epoch();
    net.state.containers[1].tested = None;
    // All but one collude: the one that does not shows everybody.
    let find = |draw: &Draw, a: &Assignment| {
        let honest = is_test(a) && a.task.subject == 1 && seat(draw, a) == 6;
        honest.then_some(Finding::Refuted { transcript: BAD })
    };
    let settled = net.epoch(find, |d| if d.task.subject == 1 { Reexecution::Bad } else { Reexecution::Good });
    assert_eq!(settled.slashes.len(), 1);
    assert_eq!(settled.checkers.iter().filter(|c| c.wrong > 0).count(), 6);
}

#[test]
fn timings_count_by_their_median() {
    let mut net = Net::new(small());
    net.honest_epoch();
    net.state.containers[2].tested = None;
    let find = |draw: &Draw, a: &Assignment| {
        let mine = is_test(a) && a.task.subject == 2;
        let ob = Ob([1, 1, 1, 50_000, 50_100, 9_999_999, 9_999_999][seat_or_zero(draw, a)]);
        mine.then_some(Finding::Proved { ob, took_ms: 1_000, transcript: ContentHash([a.checker as u8; 32]) })
    };
    let settled = net.epoch(find, |_| Reexecution::Good);
    assert!(matches!(settled.containers[2].test, Some(Verdict::Proved { ob: Ob(50_000), .. })));
}

fn seat_or_zero(draw: &Draw, a: &Assignment) -> usize {
    draw.seats(a.task.kind, a.task.subject).seat_of(a.checker).unwrap_or(0).min(6)
}

#[test]
fn far_below_the_promise_is_accused_first_and_slashed_by_the_larger_committee() {
    let mut net = Net::new(small());
    net.honest_epoch();
    net.state.containers[5].tested = None;
    let slow = |draw: &Draw, a: &Assignment| {
        let entry = &draw.view().containers()[a.task.subject.min(19) as usize];
        let ob = Ob(entry.ob_claimed.0 / 3);
        let transcript = synthetic::transcript(draw, a);
        (is_test(a) && a.task.subject == 5).then_some(Finding::Proved { ob, took_ms: 15_000, transcript })
    };
    let first = net.epoch(slow, |_| Reexecution::Good);
    assert!(first.slashes.is_empty());
    assert_eq!(net.state.containers[5].accused.unwrap().of, AccusedOf::FarBelow);
    let second = net.epoch(slow, |_| Reexecution::Good);
    assert_eq!(second.slashes.len(), 1);
    assert_eq!(second.slashes[0].node, net.view.containers()[5].node);
    // Had the larger committee found it as fast as it says, nothing would have come of it.
    let mut net = Net::new(small());
    net.honest_epoch();
    net.state.containers[5].tested = None;
    net.epoch(slow, |_| Reexecution::Good);
    let second = net.honest_epoch();
    assert!(second.slashes.is_empty() && net.state.containers[5].accused.is_none());
}

#[test]
fn silence_at_a_test_is_a_fault_only_for_who_is_there() {
    for (answered, slashed) in [(8u16, 1usize), (0, 0)] {
        let mut net = Net::new(small());
        net.honest_epoch();
        net.state.containers[6].tested = None;
        let silent = |_: &Draw, a: &Assignment| match a.task.kind {
            TaskKind::Capacity | TaskKind::Dispute if a.task.subject == 6 => Some(Finding::Absent),
            TaskKind::Liveness if a.task.subject == 6 => Some(Finding::Liveness { answered, asked: 8 }),
            _ => None,
        };
        let first = net.epoch(silent, |_| Reexecution::Good);
        assert!(first.slashes.is_empty());
        assert_eq!(first.containers[6].capacity, TokenAmount::ZERO);
        let second = net.epoch(silent, |_| Reexecution::Good);
        assert_eq!(second.slashes.len(), slashed);
    }
}

#[test]
fn no_verdict_is_neither_good_nor_bad_and_is_repeated() {
    let mut net = Net::new(small());
    net.honest_epoch();
    net.state.containers[3].tested = Some(EpochNo(0));
    net.epochs.audit_watched_bps = 10_000;
    let before = net.state.containers[3].clone();
    let unknown = |draw: &Draw, a: &Assignment| {
        (is_test(a) && a.task.subject == 3 && seat(draw, a) > 3).then_some(Finding::Unknown)
    };
    let settled = net.epoch(unknown, |_| Reexecution::Good);
    assert_eq!(settled.containers[3].test, Some(Verdict::Unknown));
    let after = &net.state.containers[3];
    assert!(after.again && after.proved && after.accused.is_none());
    assert_eq!(after.tested, before.tested);
    assert!(settled.containers[3].capacity > TokenAmount::ZERO);
    assert_eq!(net.draw().tested(3), Some(crate::epoch::DrawnWhy::Again));
}

#[test]
fn an_interruption_needs_two_committees_and_costs_a_third() {
    let mut net = Net::new(small());
    net.honest_epoch();
    let serving = net.view.containers().iter().position(|c| c.serving).unwrap() as u32;
    let broken = |_: &Draw, a: &Assignment| match a.task.kind {
        TaskKind::Quality if a.task.subject == serving => Some(Finding::Interrupted),
        TaskKind::Dispute if a.task.subject == serving => Some(Finding::Upheld { evidence: BAD }),
        _ => None,
    };
    assert!(net.epoch(broken, |_| Reexecution::Good).slashes.is_empty());
    let second = net.epoch(broken, |_| Reexecution::Good);
    assert_eq!(second.slashes[0].amount, TokenAmount(STAKE.0 / 3));
    let mut net = Net::new(small());
    net.honest_epoch();
    net.epoch(broken, |_| Reexecution::Good);
    assert!(net.honest_epoch().slashes.is_empty());
    assert!(net.state.containers[serving as usize].accused.is_none());
}

#[test]
fn another_model_needs_one_voice_and_then_the_larger_committee() {
    let mut net = Net::new(small());
    net.honest_epoch();
    let serving = net.view.containers().iter().position(|c| c.serving).unwrap() as u32;
    let weights = ContentHash([5; 32]);
    // One of the committee has seen enough of its answers; the others have not asked, and find it good.
    let said = core::cell::Cell::new(0);
    let one_voice = |draw: &Draw, a: &Assignment| {
        let first = a.task.kind == TaskKind::Quality && a.task.subject == serving && seat(draw, a) == 0;
        first.then_some(Finding::Substituted { weights })
    };
    let settled = net.epoch(one_voice, |_| Reexecution::Good);
    assert!(settled.slashes.is_empty(), "one voice takes nothing");
    assert_eq!(net.state.containers[serving as usize].accused.unwrap().of, AccusedOf::Substitution { weights });
    assert_ne!(net.draw().tested(serving), Some(crate::epoch::DrawnWhy::Disputed), "another test decides nothing");
    // The larger committee cannot tell at first: the accusation stays, and nothing is taken.
    let unsure = |_: &Draw, a: &Assignment| {
        let asked = a.task.kind == TaskKind::Dispute && a.task.subject == serving;
        asked.then_some(Finding::Unknown)
    };
    assert!(net.epoch(unsure, |_| Reexecution::Good).slashes.is_empty());
    assert!(net.state.containers[serving as usize].accused.is_some());
    let upheld = |_: &Draw, a: &Assignment| {
        let asked = a.task.kind == TaskKind::Dispute && a.task.subject == serving;
        said.set(said.get() + u32::from(asked));
        asked.then_some(Finding::Upheld { evidence: BAD })
    };
    let settled = net.epoch(upheld, |_| Reexecution::Good);
    assert!(said.get() >= 3, "{} were asked", said.get());
    assert_eq!(settled.slashes[0].amount, STAKE, "as for whoever lies");
    // Where the larger committee does not find it, nothing is taken, and the accusation is over.
    let mut net = Net::new(small());
    net.honest_epoch();
    net.epoch(one_voice, |_| Reexecution::Good);
    assert!(net.honest_epoch().slashes.is_empty());
    assert!(net.state.containers[serving as usize].accused.is_none());
}

#[test]
fn lazy_checkers_show_at_planted_proofs() {
    let mut net = Net::new(small());
    let lazy = |draw: &Draw, a: &Assignment| {
        let proof = synthetic::transcript(draw, a);
        (a.task.kind == TaskKind::Recheck && a.checker == 9).then_some(Finding::Rechecked { good: true, proof })
    };
    let mut epochs = 0;
    while net.state.checkers.get(9).is_none_or(|c| c.barred_until.0 == 0) {
        let settled =
            net.epoch(lazy, |d| if d.task.kind == TaskKind::Recheck { Reexecution::Bad } else { Reexecution::Good });
        assert!((0..25).all(|c| c == 9 || settled.checkers[c].wrong == 0));
        epochs += 1;
        assert!(epochs < 40, "a lazy Checker was not caught in 40 epochs");
    }
}

#[test]
fn a_setter_that_lies_about_what_it_set_convicts_nobody() {
    let mut net = Net::new(small());
    // What was set as bad is in truth good, and the other way round: everybody answers the truth.
    let truthful = |draw: &Draw, a: &Assignment| {
        let Finding::Rechecked { good, proof } = synthetic::honest(draw, a) else { return None };
        Some(Finding::Rechecked { good: !good, proof })
    };
    let draw = net.draw();
    let planted = |d: &Doubt| draw.planted(&synthetic::secret_and_salt(&draw, d.task.subject).0, d.checker, d.task.nth);
    let settled = net.epoch(truthful, |d| {
        let good = d.task.kind != TaskKind::Recheck || planted(d);
        if good { Reexecution::Good } else { Reexecution::Bad }
    });
    assert!(settled.checkers.iter().all(|c| c.wrong == 0 && c.done == c.due));
}
