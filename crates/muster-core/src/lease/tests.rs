//! What must hold of a lease whatever it is told, in whatever order.

use proptest::prelude::*;

use super::*;
use crate::hardware::Allocation;
use crate::voucher::{CompactSignature, Voucher};

const DEPOSIT: u128 = 10_000;

fn terms() -> LeaseTerms {
    LeaseTerms {
        lease: LeaseId([1; 32]),
        salt: [1; 32],
        request: RequestId(1),
        consumer: Address::ZERO,
        session_key: Address::ZERO,
        container: NodeId::ZERO,
        indexer: NodeId::ZERO,
        rate_per_second: TokenAmount(100),
        deposit: TokenAmount(DEPOSIT),
        max_seconds: 100,
        interval_ms: 1_000,
        open_within_ms: 15_000,
        allocation: Allocation::default(),
        egress: false,
        tokens: None,
    }
}

fn voucher(amount: u128) -> Fact {
    let voucher = Voucher { lease: LeaseId([1; 32]), amount: TokenAmount(amount), as_of_s: 0 };
    Fact::Paid(SignedVoucher { voucher, signature: CompactSignature { r: [0; 32], vs: [0; 32] } })
}

/// Applies facts a second apart; each must be news.
fn after(facts: &[Fact]) -> Lease {
    let mut lease = Lease::accepted(terms(), TimeMs(0));
    for (fact, second) in facts.iter().zip(1..) {
        assert_eq!(lease.apply(fact, TimeMs(second * 1_000)), Ok(true), "{fact:?} after {}", lease.phase);
    }
    lease
}

const GO: Fact = Fact::StartRequested { early: true };
const OPENED: Fact = Fact::Opened { deposit: TokenAmount(DEPOSIT) };

fn ended(ran_ms: u64) -> Fact {
    Fact::Ended { end: End::Exited(0), ran_ms }
}

#[test]
fn what_runs_before_its_deposit_is_seen_is_not_billed() {
    let lease = after(&[GO, Fact::Started, OPENED]);
    assert_eq!(
        (lease.phase, lease.started_at, lease.opened_at),
        (Phase::Running, Some(TimeMs(3_000)), Some(TimeMs(3_000)))
    );
    // The other way round it runs once it reports so.
    let lease = after(&[GO, OPENED, Fact::Started]);
    assert_eq!((lease.phase, lease.started_at), (Phase::Running, Some(TimeMs(3_000))));
    let lease = after(&[GO, Fact::Started, ended(9_000), OPENED]);
    assert_eq!((lease.phase, lease.ran_ms, lease.started_at, lease.due()), (Phase::Ended, 0, None, TokenAmount::ZERO));
    assert_eq!(after(&[GO, Fact::Started, ended(9_000), OPENED, Fact::SettleSent]).phase, Phase::Settling);
}

#[test]
fn a_slot_in_which_something_may_run_is_not_given_away() {
    let mut lease = after(&[GO, Fact::Started]);
    let refused = |phase| Err(FactRefused::OutOfOrder { fact: "void", phase });
    assert_eq!(lease.apply(&Fact::Voided, TimeMs(9)), refused(Phase::Starting));
    assert_eq!(after(&[GO, Fact::Started, ended(5), Fact::Voided]).phase, Phase::Void);
    // With its deposit a lease is settled.
    let mut lease = after(&[GO, ended(5), OPENED]);
    assert_eq!(lease.apply(&Fact::Voided, TimeMs(9)), refused(Phase::Ended));
}

#[test]
fn without_its_deposit_nothing_is_paid_settled_or_begun_by_itself() {
    let mut accepted = after(&[]);
    assert!(accepted.apply(&Fact::StartRequested { early: false }, TimeMs(1)).is_err());
    let mut early = after(&[GO, Fact::Started]);
    for fact in
        [voucher(0), voucher(5), Fact::Ran { ran_ms: 5 }, Fact::SettleSent, Fact::ToppedUp { deposit: TokenAmount(9) }]
    {
        assert!(early.apply(&fact, TimeMs(1)).is_err(), "{fact:?}");
    }
    let mut over = after(&[GO, Fact::Started, ended(5)]);
    assert!(over.is_early());
    for fact in [voucher(0), Fact::SettleSent, Fact::ToppedUp { deposit: TokenAmount(9) }] {
        assert!(over.apply(&fact, TimeMs(1)).is_err(), "{fact:?}");
    }
    let short = Fact::Opened { deposit: TokenAmount(DEPOSIT - 1) };
    assert!(matches!(early.apply(&short, TimeMs(1)), Err(FactRefused::DepositShort { .. })));
}

fn any_fact() -> impl Strategy<Value = Fact> {
    prop_oneof![
        (DEPOSIT - 1..DEPOSIT * 2).prop_map(|deposit| Fact::Opened { deposit: TokenAmount(deposit) }),
        (DEPOSIT - 1..DEPOSIT * 2).prop_map(|deposit| Fact::ToppedUp { deposit: TokenAmount(deposit) }),
        any::<bool>().prop_map(|early| Fact::StartRequested { early }),
        Just(Fact::Started),
        (0u64..200_000).prop_map(|ran_ms| Fact::Ran { ran_ms }),
        (0u128..DEPOSIT * 2).prop_map(voucher),
        (0u64..200_000).prop_map(ended),
        Just(Fact::SettleSent),
        Just(Fact::Closed { redeemed: TokenAmount(1), refunded: TokenAmount(2) }),
        Just(Fact::Voided),
    ]
}

proptest! {
    #[test]
    fn whatever_is_said_in_whatever_order(facts in prop::collection::vec(any_fact(), 0..40)) {
        let mut lease = Lease::accepted(terms(), TimeMs(0));
        for (fact, now) in facts.iter().zip(1..) {
            let (before, now) = (lease.clone(), TimeMs(now));
            match lease.apply(fact, now) {
                Ok(true) => {
                    let again = lease.clone().apply(fact, now.plus(1));
                    prop_assert!(again != Ok(true), "{fact:?} is no news the second time");
                }
                Ok(false) | Err(_) => prop_assert_eq!(&lease, &before),
            }
            prop_assert!(lease.phase >= before.phase);
            let seen = lease.deposit_seen();
            prop_assert!(seen == (lease.deposit > TokenAmount::ZERO) || lease.phase == Phase::Closed);
            prop_assert!(seen || !matches!(lease.phase, Phase::Open | Phase::Running | Phase::Settling));
            prop_assert!(seen || (lease.ran_ms == 0 && lease.voucher.is_none() && lease.due() == TokenAmount::ZERO));
            prop_assert!(lease.ran_ms == 0 || lease.started_at >= lease.opened_at);
            prop_assert!(lease.paid() <= lease.deposit && lease.due() <= lease.deposit);
            if lease.phase == Phase::Void {
                prop_assert!(!seen && before.phase != Phase::Starting);
            }
        }
    }
}

fn model_terms() -> LeaseTerms {
    let rates = TokenRates { input: TokenAmount(1_000_000), cached: TokenAmount(0), output: TokenAmount(4_000_000) };
    let tokens = Some(TokenTerms { weights: Bytes(1), rates, credit: TokenAmount(1_000) });
    LeaseTerms { rate_per_second: TokenAmount::ZERO, tokens, ..terms() }
}

#[test]
fn a_model_is_paid_by_the_token() {
    let mut lease = Lease::accepted(model_terms(), TimeMs(0));
    let deposit = TokenAmount(10_000);
    let counted = |input, cached, output| Fact::Counted { tokens: TokenCounts { input, cached, output } };
    assert!(lease.apply(&counted(1, 0, 0), TimeMs(1)).is_err(), "nothing is counted before it runs");
    for fact in [Fact::Opened { deposit }, Fact::StartRequested { early: false }, Fact::Started] {
        assert_eq!(lease.apply(&fact, TimeMs(1)), Ok(true));
    }
    assert!(lease.takes_requests());
    assert_eq!(lease.apply(&Fact::Ran { ran_ms: 1_000_000 }, TimeMs(2)), Ok(true));
    assert_eq!(lease.cost_of(lease.ran_ms), TokenAmount::ZERO, "time alone costs nothing");
    assert_eq!(lease.apply(&counted(100, 40, 100), TimeMs(2)), Ok(true));
    assert_eq!(lease.cost_of(lease.ran_ms), TokenAmount(460));
    assert_eq!(lease.apply(&counted(100, 40, 50), TimeMs(2)), Ok(false), "counts only grow");
    assert!(lease.takes_requests() && !lease.is_unpaid());
    assert_eq!(lease.apply(&counted(100, 40, 200), TimeMs(3)), Ok(true));
    assert!(!lease.takes_requests() && !lease.is_unpaid(), "new ones wait before those in hand are hurt");
    assert_eq!(lease.apply(&counted(100, 40, 300), TimeMs(3)), Ok(true));
    assert!(lease.is_unpaid());
    let voucher = Voucher { lease: lease.id(), amount: TokenAmount(1_260), as_of_s: 1 };
    let signature = CompactSignature { r: [1; 32], vs: [2; 32] };
    assert_eq!(lease.apply(&Fact::Paid(SignedVoucher { voucher, signature }), TimeMs(3)), Ok(true));
    assert!(lease.takes_requests() && !lease.is_unpaid() && !lease.is_used_up());
    assert_eq!(lease.tokens_left_low(), None);
    assert_eq!(lease.apply(&counted(100, 40, 2_000), TimeMs(3)), Ok(true));
    assert_eq!(lease.tokens_left_low(), Some(TokenAmount(1_940)));
    assert_eq!(lease.apply(&counted(10_000, 0, 2_000), TimeMs(3)), Ok(true));
    assert!(lease.is_used_up() && lease.cost_of(lease.ran_ms) == deposit, "never above the deposit");
    let ended = Fact::Ended { end: End::StoppedByConsumer, ran_ms: 1_000_001 };
    assert_eq!(lease.apply(&ended, TimeMs(4)), Ok(true));
    assert_eq!(lease.due(), deposit);
    assert_eq!(lease.apply(&counted(10_000, 0, 2_001), TimeMs(5)), Ok(true), "the last count may come late");
}
