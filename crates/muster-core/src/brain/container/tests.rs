//! Programs that begin before their deposit is seen: at most one, not for long, and never billed for it.

use super::*;
use crate::hardware::{Allocation, GpuSet};
use crate::ids::RequestId;
use crate::params::Params;
use crate::pricing::Ask;
use crate::units::Bytes;
use crate::voucher::{CompactSignature, Voucher};

const NODE: NodeId = NodeId([7; 32]);

fn terms(name: u8) -> LeaseTerms {
    LeaseTerms {
        lease: LeaseId([name; 32]),
        salt: [name; 32],
        request: RequestId(u128::from(name)),
        consumer: Address([name; 20]),
        session_key: Address([name; 20]),
        container: NODE,
        indexer: NodeId([9; 32]),
        rate_per_second: TokenAmount(1_000),
        deposit: TokenAmount(100_000),
        max_seconds: 60,
        interval_ms: 2_000,
        open_within_ms: 15_000,
        allocation: Allocation { cpu_millis: 500, memory: Bytes(1 << 28), disk: Bytes(1 << 28), gpus: GpuSet::NONE },
        egress: false,
        tokens: None,
    }
}

fn config(params: Params) -> Config {
    let total =
        Capacity { cpu_millis: 2_000, memory: Bytes(4 * Bytes::GIB), disk: Bytes(4 * Bytes::GIB), gpus: Vec::new() };
    Config { id: NODE, total, ask: Ask::default(), models: None, model_idle_ms: 60_000, egress: true, params }
}

/// A Container under a clock that the test moves.
struct House {
    brain: Container,
    now: u64,
    /// What it did since the test looked.
    did: Vec<Effect>,
}

impl House {
    /// With leases of these names, whose consumers are attached on streams of the same number.
    fn with(names: &[u8]) -> Self {
        Self::of(Params::development(), names)
    }

    fn of(params: Params, names: &[u8]) -> Self {
        let brain = Container::new(config(params)).unwrap();
        let mut this = Self { brain, now: 1_000_000, did: Vec::new() };
        names.iter().for_each(|name| this.offer(*name));
        this
    }

    fn offer(&mut self, name: u8) {
        self.feed(Event::Offered { reply: 0, terms: Box::new(terms(name)) });
        self.feed(Event::Attached { lease: LeaseId([name; 32]), session: u64::from(name) });
        self.did.clear();
    }

    fn feed(&mut self, event: Event) {
        self.did.extend(self.brain.handle(event, TimeMs(self.now)));
    }

    fn pass(&mut self, ms: u64) {
        for _ in 0..ms / 100 {
            self.now += 100;
            self.feed(Event::Tick);
        }
    }

    fn go(&mut self, name: u8) {
        self.feed(Event::Go { lease: LeaseId([name; 32]), early: true });
    }

    fn started(&mut self, name: u8) {
        self.feed(Event::JobStarted { lease: LeaseId([name; 32]) });
    }

    fn job_ended(&mut self, name: u8, end: End) {
        self.feed(Event::JobEnded { lease: LeaseId([name; 32]), end });
    }

    fn seen(&mut self, name: u8, status: EscrowStatus) {
        let t = terms(name);
        let view = EscrowLease {
            status,
            consumer: t.consumer,
            session_key: t.session_key,
            container: t.container,
            deposit: t.deposit,
            redeemed: TokenAmount::ZERO,
            rate_per_second: t.rate_per_second,
            max_seconds: t.max_seconds,
        };
        self.feed(Event::ChainSeen { lease: t.lease, view });
    }

    fn lease(&self, name: u8) -> &Lease {
        &self.brain.held(LeaseId([name; 32])).unwrap().lease
    }

    fn did(&mut self) -> Vec<Effect> {
        core::mem::take(&mut self.did)
    }

    /// How it told the consumer that the lease is over.
    fn told_end(&mut self, name: u8) -> Option<(End, u64)> {
        self.did().into_iter().find_map(|effect| match effect {
            Effect::Tell { session, message: ToConsumer::Ended { end, ran_ms } } if session == u64::from(name) => {
                Some((end, ran_ms))
            }
            _ => None,
        })
    }
}

fn starts(did: &[Effect]) -> Vec<LeaseId> {
    did.iter().filter_map(|e| if let Effect::Start(lease) = e { Some(*lease) } else { None }).collect()
}

fn tells(did: &[Effect]) -> Vec<&ToConsumer> {
    did.iter().filter_map(|e| if let Effect::Tell { message, .. } = e { Some(message) } else { None }).collect()
}

fn asks_for_pay(did: &[Effect]) -> bool {
    tells(did).into_iter().any(|message| matches!(message, ToConsumer::Usage { .. }))
}

#[test]
fn a_session_begins_before_its_deposit_and_is_billed_from_it_on() {
    let mut house = House::with(&[1]);
    house.go(1);
    let did = house.did();
    assert_eq!((starts(&did), house.lease(1).phase), (vec![LeaseId([1; 32])], Phase::Starting));
    assert!(matches!(did.as_slice(), [Effect::Save(_), Effect::Start(_)]), "written, then done: {did:?}");
    house.pass(500);
    house.started(1);
    house.pass(5_000);
    let did = house.did();
    assert!(tells(&did).is_empty(), "nobody is asked to pay: {did:?}");
    assert!(!did.iter().any(|e| matches!(e, Effect::Report { .. } | Effect::Kill(_))), "{did:?}");
    let signature = CompactSignature { r: [0; 32], vs: [0; 32] };
    let early = Voucher { lease: LeaseId([1; 32]), amount: TokenAmount(10), as_of_s: 0 };
    house.feed(Event::Paid { voucher: SignedVoucher { voucher: early, signature }, signer: Address([1; 20]) });
    assert!(matches!(tells(&house.did()).as_slice(), [ToConsumer::Refused { .. }]), "no voucher is taken");

    house.seen(1, EscrowStatus::Open);
    assert_eq!(tells(&house.did()), [&ToConsumer::Started]);
    assert_eq!(house.lease(1).phase, Phase::Running);
    house.pass(1_000);
    assert!(asks_for_pay(&house.did()));
    house.feed(Event::Stop { lease: LeaseId([1; 32]), by: StopBy::Consumer });
    house.job_ended(1, End::Signaled(9));
    assert_eq!(house.told_end(1), Some((End::StoppedByConsumer, 1_000)));
}

#[test]
fn the_deposit_may_be_seen_before_the_program_reports() {
    let mut house = House::with(&[1]);
    house.go(1);
    house.pass(300);
    house.seen(1, EscrowStatus::Open);
    assert!(tells(&house.did()).is_empty(), "it has begun already, so it is not told to");
    house.pass(300);
    house.go(1);
    house.started(1);
    let did = house.did();
    assert_eq!((tells(&did), starts(&did)), (vec![&ToConsumer::Started], vec![]));
}

#[test]
fn a_job_waits_for_its_deposit() {
    let mut house = House::with(&[1]);
    house.feed(Event::Go { lease: LeaseId([1; 32]), early: false });
    let did = house.did();
    assert!(matches!(tells(&did).as_slice(), [ToConsumer::Refused { .. }]), "{did:?}");
    house.seen(1, EscrowStatus::Open);
    let did = house.did();
    assert_eq!((tells(&did), starts(&did)), (vec![&ToConsumer::Open], vec![]));
}

#[test]
fn a_deposit_that_does_not_come_ends_the_program_and_frees_the_slot() {
    let mut house = House::with(&[1]);
    let free = house.brain.free().cpu_millis;
    house.go(1);
    house.started(1);
    house.pass(10_000);
    assert!(!house.did().iter().any(|e| matches!(e, Effect::Kill(_))));
    house.pass(100);
    assert!(house.did().contains(&Effect::Kill(LeaseId([1; 32]))));
    assert_eq!(house.brain.free().cpu_millis, free, "not before the program is gone");
    house.job_ended(1, End::Signaled(9));
    assert_eq!(house.brain.free().cpu_millis, free + 500);
    let did = house.did();
    assert!(!did.iter().any(|e| matches!(e, Effect::Report { .. } | Effect::Settle { .. })), "{did:?}");
    let [ToConsumer::Ended { end: End::FailedToStart(why), ran_ms: 0 }] = tells(&did).as_slice() else {
        panic!("{did:?}")
    };
    assert!(why.contains("was not on the chain within 10 s"), "{why}");
    house.pass(6_000);
    assert_eq!(house.lease(1).phase, Phase::Void);
    // Too late: it goes back.
    house.seen(1, EscrowStatus::Open);
    assert!(house.did().contains(&Effect::Settle { lease: LeaseId([1; 32]), voucher: None }));
}

#[test]
fn a_program_that_ends_before_its_deposit_is_seen_costs_nothing() {
    let mut house = House::with(&[1]);
    house.go(1);
    house.started(1);
    house.pass(200);
    house.job_ended(1, End::Exited(3));
    assert_eq!(house.told_end(1), Some((End::Exited(3), 0)));
    assert_eq!(house.brain.busy(), 0);
    house.pass(2_000);
    assert!(house.did().contains(&Effect::AskChain(LeaseId([1; 32]))));
    house.seen(1, EscrowStatus::Open);
    let did = house.did();
    assert!(did.contains(&Effect::Settle { lease: LeaseId([1; 32]), voucher: None }), "{did:?}");
    assert_eq!(house.lease(1).phase, Phase::Settling);
}

#[test]
fn one_program_at_a_time_runs_without_its_deposit() {
    let mut house = House::with(&[1, 2, 3]);
    house.go(1);
    house.go(2);
    let did = house.did();
    assert_eq!((starts(&did), tells(&did)), (vec![LeaseId([1; 32])], vec![]));
    // The other one begins with its deposit, without a word more.
    house.seen(2, EscrowStatus::Open);
    let did = house.did();
    assert_eq!((starts(&did), tells(&did)), (vec![LeaseId([2; 32])], vec![]));
    // One that is over is one until its deposit is seen.
    house.job_ended(1, End::Exited(0));
    house.go(3);
    assert_eq!(starts(&house.did()), []);
    house.seen(1, EscrowStatus::Open);
    house.go(3);
    assert_eq!(starts(&house.did()), [LeaseId([3; 32])]);
}

#[test]
fn who_never_pays_does_not_do_it_again_and_again() {
    let mut house = House::with(&[1]);
    let (mut begun, mut name) = (0, 1);
    // An hour of strangers who never pay, each under another name.
    while house.now < 1_000_000 + 3_600_000 {
        house.go(name);
        for lease in starts(&house.did()) {
            begun += 1;
            house.pass(10_100);
            assert!(house.did().contains(&Effect::Kill(lease)));
            house.job_ended(name, End::Signaled(9));
        }
        house.pass(20_000);
        assert_eq!(house.lease(name).phase, Phase::Void);
        name = name % 200 + 1;
        house.offer(name);
    }
    assert!((5..=7).contains(&begun), "{begun} programs have run for ten seconds each in an hour");
}

#[test]
fn a_network_may_have_all_programs_wait() {
    let mut house = House::of(Params { early_start_ms: 0, ..Params::development() }, &[1]);
    house.go(1);
    assert_eq!(starts(&house.did()), []);
    house.seen(1, EscrowStatus::Open);
    assert_eq!(starts(&house.did()), [LeaseId([1; 32])]);
}

#[test]
fn a_restart_ends_what_had_begun_and_gives_the_deposit_back() {
    for with_report in [false, true] {
        let mut house = House::with(&[1]);
        house.go(1);
        if with_report {
            house.started(1);
        }
        let records = vec![house.brain.held(LeaseId([1; 32])).unwrap().clone()];
        let now = TimeMs(house.now + 500);
        let (brain, did) = Container::restore(config(Params::development()), records, now).unwrap();
        assert_eq!(brain.busy(), 0);
        assert!(did.contains(&Effect::AskChain(LeaseId([1; 32]))), "{did:?}");
        assert!(!did.iter().any(|e| matches!(e, Effect::Start(_) | Effect::Settle { .. })), "{did:?}");
        house.brain = brain;
        house.feed(Event::Attached { lease: LeaseId([1; 32]), session: 1 });
        assert!(matches!(house.told_end(1), Some((End::Interrupted(_), 0))));
        house.go(1);
        assert_eq!(starts(&house.did()), [], "nothing is started twice");
        house.seen(1, EscrowStatus::Open);
        assert!(house.did().contains(&Effect::Settle { lease: LeaseId([1; 32]), voucher: None }));
    }
}

#[test]
fn a_program_without_its_deposit_is_stopped_when_the_chain_has_another_lease_or_closes_it() {
    for status in [EscrowStatus::Closing, EscrowStatus::Closed] {
        let mut house = House::with(&[1]);
        house.go(1);
        house.started(1);
        house.did();
        house.seen(1, status);
        assert!(house.did().contains(&Effect::Kill(LeaseId([1; 32]))), "{status:?}");
        assert_eq!(house.brain.busy(), 1, "its slot is held until it is gone");
        house.job_ended(1, End::Signaled(9));
        assert_eq!(house.told_end(1), Some((End::StoppedByConsumer, 0)));
        assert_eq!(house.brain.busy(), 0);
        house.seen(1, EscrowStatus::Closed);
        assert_eq!(house.lease(1).phase, Phase::Closed);
    }
    let mut house = House::with(&[1]);
    house.go(1);
    let none = TokenAmount::ZERO;
    let view = EscrowLease {
        status: EscrowStatus::Open,
        consumer: Address::ZERO,
        session_key: Address::ZERO,
        container: NodeId::ZERO,
        deposit: none,
        redeemed: none,
        rate_per_second: none,
        max_seconds: 0,
    };
    house.feed(Event::ChainSeen { lease: LeaseId([1; 32]), view: view.clone() });
    assert!(house.did().contains(&Effect::Kill(LeaseId([1; 32]))));
    house.job_ended(1, End::Signaled(9));
    house.feed(Event::ChainSeen { lease: LeaseId([1; 32]), view });
    assert_eq!((house.lease(1).phase, house.brain.busy()), (Phase::Void, 0));
}

#[test]
fn a_consumer_whose_opening_failed_says_stop_and_the_slot_is_free() {
    let mut house = House::with(&[1]);
    house.go(1);
    house.feed(Event::Stop { lease: LeaseId([1; 32]), by: StopBy::Consumer });
    assert!(house.did().contains(&Effect::Kill(LeaseId([1; 32]))));
    house.job_ended(1, End::Signaled(9));
    assert_eq!(house.told_end(1), Some((End::StoppedByConsumer, 0)));
    assert_eq!(house.brain.busy(), 0);
}
