//! When a consumer says go.

use super::*;
use crate::hardware::Allocation;
use crate::ids::{Address, LeaseId, NodeId, RequestId};
use crate::inference::TokenRates;
use crate::lease::{End, TokenTerms};
use crate::units::Bytes;

const NOW: TimeMs = TimeMs(1_000_000);

fn rented() -> Rented {
    let terms = LeaseTerms {
        lease: LeaseId([1; 32]),
        salt: [1; 32],
        request: RequestId(1),
        consumer: Address([1; 20]),
        session_key: Address([2; 20]),
        container: NodeId([3; 32]),
        indexer: NodeId([4; 32]),
        rate_per_second: TokenAmount(1_000),
        deposit: TokenAmount(100_000),
        max_seconds: 60,
        interval_ms: 2_000,
        open_within_ms: 15_000,
        allocation: Allocation::default(),
        egress: false,
        tokens: None,
    };
    Rented::new(terms, NodeAddr { id: NodeId([3; 32]), direct: Vec::new(), relay: None }, NOW)
}

fn session() -> Renting {
    Renting::restore(rented(), Params::development(), NOW).with_early_start(true)
}

fn attached(phase: Phase) -> Event {
    Event::Heard(ToConsumer::Attached { phase, ran_ms: 0, paid: TokenAmount::ZERO })
}

fn opened() -> Event {
    let t = rented().lease.terms;
    Event::ChainSeen(EscrowLease {
        status: EscrowStatus::Open,
        consumer: t.consumer,
        session_key: t.session_key,
        container: t.container,
        deposit: t.deposit,
        redeemed: TokenAmount::ZERO,
        rate_per_second: t.rate_per_second,
        max_seconds: t.max_seconds,
    })
}

/// Feeds events ten milliseconds apart; gives what the last one led to.
fn last(renting: &mut Renting, events: Vec<Event>) -> Vec<Effect> {
    let mut did = Vec::new();
    for (event, tens) in events.into_iter().zip(1..) {
        did = renting.handle(event, NOW.plus(tens * 10));
    }
    did
}

#[test]
fn a_session_goes_once_it_is_attached_and_its_deposit_is_on_its_way() {
    for events in [
        vec![Event::Begin, Event::OpenSent, Event::Connected, attached(Phase::Accepted)],
        vec![Event::Begin, Event::Connected, attached(Phase::Accepted), Event::OpenSent],
        // Its own chain was quicker than the Container's.
        vec![Event::Begin, opened(), Event::Connected, attached(Phase::Accepted)],
    ] {
        let mut renting = session();
        assert_eq!(last(&mut renting, events), [Effect::Save, Effect::Go]);
        assert!(renting.rented().go_at.is_some());
        assert_eq!(renting.handle(Event::OpenSent, NOW.plus(100)), [], "once on a line");
    }
}

#[test]
fn a_job_goes_once_the_container_has_seen_its_deposit() {
    let mut job = Renting::restore(rented(), Params::development(), NOW);
    let before = vec![Event::Begin, Event::OpenSent, Event::Connected, attached(Phase::Accepted), opened()];
    assert!(!last(&mut job, before).contains(&Effect::Go));
    assert_eq!(job.handle(Event::Heard(ToConsumer::Open), NOW.plus(90)), [Effect::SendInputs]);
}

#[test]
fn nothing_goes_early_that_was_stopped_or_given_away_or_is_not_on_its_way() {
    let attach = || vec![Event::Begin, Event::Connected, attached(Phase::Accepted)];
    let go = |mut events: Vec<Event>, then: Vec<Event>| {
        events.extend(then);
        last(&mut session(), events).contains(&Effect::Go)
    };
    assert!(go(attach(), vec![Event::OpenSent]));
    assert!(!go(attach(), vec![Event::Tick]));
    assert!(!go(attach(), vec![Event::Stop, Event::OpenSent]));
    assert!(!go(attach(), vec![Event::Heard(ToConsumer::Gone { why: "void".into() }), Event::OpenSent]));
    let lost = Event::Lost { why: "cable".into(), cut_off: false };
    assert!(!go(attach(), vec![lost.clone(), Event::OpenSent]));
    // On the next line it is said again.
    let again = vec![Event::OpenSent, lost, Event::Connected, attached(Phase::Accepted)];
    assert!(go(attach(), again));
    // The Container has begun.
    let begun = vec![Event::Begin, Event::OpenSent, Event::Connected, attached(Phase::Starting)];
    assert!(!go(begun, vec![Event::Tick]));
}

#[test]
fn what_the_container_says_before_the_deposit_is_seen_waits_for_it_and_costs_nothing() {
    let mut renting = session();
    let go = vec![Event::Begin, Event::OpenSent, Event::Connected, attached(Phase::Accepted)];
    assert_eq!(last(&mut renting, go), [Effect::Save, Effect::Go]);
    let ended = ToConsumer::Ended { end: End::FailedToStart("no screen".into()), ran_ms: 0 };
    assert_eq!(renting.handle(Event::Heard(ended), NOW.plus(100)), [Effect::AskChain]);
    let did = renting.handle(opened(), NOW.plus(200));
    assert!(did.contains(&Effect::NowEnded) && !did.iter().any(|e| matches!(e, Effect::Sign(_))), "{did:?}");
    assert_eq!((renting.lease().phase, renting.lease().due()), (Phase::Ended, TokenAmount::ZERO));
}

#[test]
fn a_deposit_that_the_chain_refuses_stops_what_has_begun() {
    let mut renting = session();
    let refused = Event::OpenFailed { why: "the wallet is empty".into() };
    let events = vec![Event::Begin, Event::OpenSent, Event::Connected, attached(Phase::Accepted), refused];
    let did = last(&mut renting, events);
    assert!(did.contains(&Effect::SayStop) && did.contains(&Effect::NowEnded), "{did:?}");
    assert_eq!(renting.lease().phase, Phase::Void);
}

/// A Container that cannot read what it is told cuts the line, whether the deposit is seen by then or not.
#[test]
fn a_container_that_turns_this_side_away_is_left_once_the_deposit_is_seen() {
    let cut = || Event::Lost { why: "cut off: garbage".into(), cut_off: true };
    let gone = |did: &[Effect]| did.contains(&Effect::NowEnded) && did.contains(&Effect::CloseOnChain);
    let go = || vec![Event::Begin, Event::OpenSent, Event::Connected, attached(Phase::Accepted)];
    let mut renting = session();
    let did = last(&mut renting, [go(), vec![cut()]].concat());
    assert!(!gone(&did), "{did:?}");
    let again = vec![Event::Connected, attached(Phase::Accepted)];
    assert!(!last(&mut renting, again).contains(&Effect::Go), "it would not understand it the next time either");
    let did = last(&mut renting, vec![opened(), Event::Tick]);
    assert!(gone(&did), "{did:?}");
    let Some(End::Interrupted(why)) = &renting.lease().end else { panic!("{:?}", renting.lease()) };
    assert!(why.contains("turned this side away") && why.contains("garbage"), "{why}");
    // Seen before: left at once.
    let did = last(&mut session(), [go(), vec![opened(), cut()]].concat());
    assert!(gone(&did), "{did:?}");
}

#[test]
fn a_restart_in_between_goes_on() {
    let mut renting = session();
    let go = vec![Event::Begin, Event::OpenSent, Event::Connected, attached(Phase::Accepted)];
    assert_eq!(last(&mut renting, go), [Effect::Save, Effect::Go]);
    // The Container has not heard it, or has begun.
    for (phase, goes) in [(Phase::Accepted, true), (Phase::Starting, false)] {
        let mut back =
            Renting::restore(renting.rented().clone(), Params::development(), NOW.plus(500)).with_early_start(true);
        let began = back.handle(Event::Begin, NOW.plus(500));
        assert_eq!(began, [Effect::Save, Effect::OpenOnChain, Effect::Connect]);
        let did = last(&mut back, vec![Event::OpenSent, Event::Connected, attached(phase)]);
        assert_eq!(did.contains(&Effect::Go), goes);
        assert_eq!(back.rented().go_at, renting.rented().go_at, "what may be billed is bounded by the first go");
    }
}

fn model() -> Renting {
    let mut rented = rented();
    let rates = TokenRates { input: TokenAmount(1_000_000), cached: TokenAmount(0), output: TokenAmount(1_000_000) };
    rented.lease.terms.rate_per_second = TokenAmount::ZERO;
    rented.lease.terms.tokens = Some(TokenTerms { weights: Bytes(1), rates, credit: TokenAmount(500) });
    let mut renting = Renting::restore(rented, Params::development(), NOW);
    renting.forgetful = false;
    let begun = vec![Event::Begin, opened(), Event::Connected, attached(Phase::Open), Event::InputsSent];
    last(&mut renting, begun);
    renting.handle(Event::Heard(ToConsumer::Started), NOW.plus(100));
    renting
}

fn counts(input: u64, cached: u64, output: u64) -> TokenCounts {
    TokenCounts { input, cached, output }
}

/// What the Container says that it counted; gives what is signed for it.
fn claim(renting: &mut Renting, tokens: TokenCounts) -> Option<TokenAmount> {
    renting.handle(Event::Heard(ToConsumer::Counted { tokens }), NOW.plus(200));
    let did = renting.handle(Event::Heard(ToConsumer::Usage { ran_ms: 100 }), NOW.plus(200));
    did.iter().find_map(|effect| if let Effect::Sign(amount) = effect { Some(*amount) } else { None })
}

#[test]
fn tokens_are_paid_as_far_as_they_came() {
    let mut renting = model();
    assert_eq!(claim(&mut renting, counts(10, 0, 10)), None, "nothing has come yet");
    renting.handle(Event::Answered { counts: counts(10, 4, 10) }, NOW.plus(210));
    // Remembered tokens cost nothing here, and the Container must not forget them.
    assert_eq!(claim(&mut renting, counts(10, 0, 10)), Some(TokenAmount(16)));
    renting.handle(Event::Answered { counts: counts(10, 0, 10) }, NOW.plus(220));
    renting.handle(Event::AnswerLost { most: counts(100, 0, 20) }, NOW.plus(220));
    assert_eq!(
        claim(&mut renting, counts(60, 4, 500)),
        Some(TokenAmount(56 + 40)),
        "of a lost answer at most its bound"
    );
}

#[test]
fn what_comes_after_the_end_is_still_paid() {
    let mut renting = model();
    renting.handle(Event::Heard(ToConsumer::Counted { tokens: counts(5, 0, 5) }), NOW.plus(200));
    let ended = ToConsumer::Ended { end: End::StoppedByConsumer, ran_ms: 100 };
    let did = renting.handle(Event::Heard(ended), NOW.plus(300));
    assert!(!did.iter().any(|e| matches!(e, Effect::Sign(_))), "{did:?}");
    let did = renting.handle(Event::Answered { counts: counts(5, 0, 5) }, NOW.plus(310));
    assert!(did.contains(&Effect::Sign(TokenAmount(10))), "{did:?}");
}

/// Met by the simulator: a voucher was signed after the challenge window was over, and its Container was gone for good.
#[test]
fn nothing_is_signed_once_the_lease_closes_on_the_chain() {
    let mut renting = model();
    let ended = ToConsumer::Ended { end: End::StoppedByConsumer, ran_ms: 100 };
    renting.handle(Event::Heard(ended), NOW.plus(300));
    let Event::ChainSeen(view) = opened() else { panic!("no view") };
    let closing = Event::ChainSeen(EscrowLease { status: EscrowStatus::Closing, ..view });
    assert!(renting.handle(closing, NOW.plus(310)).contains(&Effect::Finalize));
    renting.handle(Event::Heard(ToConsumer::Counted { tokens: counts(5, 0, 5) }), NOW.plus(320));
    let did = renting.handle(Event::Answered { counts: counts(5, 0, 5) }, NOW.plus(330));
    assert!(!did.iter().any(|e| matches!(e, Effect::Sign(_))), "{did:?}");
}

#[test]
fn one_that_forgot_believes_once_and_not_more_than_may_be_unpaid() {
    let mut renting = model();
    renting.forgetful = true;
    assert_eq!(claim(&mut renting, counts(200, 0, 200)), Some(TokenAmount(400)));
    assert_eq!(claim(&mut renting, counts(300, 0, 200)), Some(TokenAmount(400)), "once");
    let mut renting = model();
    renting.forgetful = true;
    assert_eq!(claim(&mut renting, counts(300, 0, 300)), None, "more than may be unpaid");
}
