//! Seeds that every change must survive.

mod audits;

use muster_core::params::Params;
use muster_sim::{Config, CrashAt, Faults, Outcome, RoleKind, World, run_seed};

/// Prints how to replay a failing seed.
fn survive(seed: u64, hours: u64) {
    let outcome = run_seed(seed, hours);
    assert!(
        outcome.violations.is_empty(),
        "seed {seed} broke an invariant; replay with `muster-sim --first {seed} --seeds 1 --hours {hours}`:\n{}",
        outcome.violations.join("\n")
    );
}

#[test]
fn seeds_1_to_150() {
    (1..=150).for_each(|seed| survive(seed, 0));
}

#[test]
fn seeds_151_to_300() {
    (151..=300).for_each(|seed| survive(seed, 0));
}

#[test]
fn a_seed_replays_exactly() {
    for seed in [3, 17] {
        let (a, b) = (run_seed(seed, 0), run_seed(seed, 0));
        assert_eq!((a.fingerprint, a.steps), (b.fingerprint, b.steps));
        assert_ne!(a.fingerprint, run_seed(seed + 1, 0).fingerprint);
    }
}

#[test]
fn without_faults_every_task_is_done_at_the_first_try() {
    for seed in 1..=20 {
        let config = Config { faults: Faults::none(), ..Config::drawn(seed, 0) };
        let wanted = u64::from(config.tasks_each) * config.consumers as u64;
        let outcome = World::new(config).run();
        assert_eq!(outcome.violations, Vec::<String>::new());
        assert_eq!((outcome.finished + outcome.unmatched, outcome.retried), (wanted, 0), "seed {seed}");
        assert!(outcome.leases > 0);
    }
}

/// Workloads that begin before their deposit, on chains that are slow, mine in any order and refuse openings, among
/// consumers who never pay: the invariants hold, and all of that does happen.
#[test]
fn sessions_begin_before_their_deposits_on_slow_and_refusing_chains() {
    let mut sum = Outcome::default();
    for seed in 301..=340 {
        let drawn = Config::drawn(seed, 0);
        let faults = Faults {
            chain_ms: (100, 500 + 700 * (seed % 20)),
            refused_ppm: 50_000,
            lying_consumers: 30,
            ..drawn.faults
        };
        let early_start_ms = drawn.params.early_start_ms.max(1_500);
        let params = Params { early_start_ms, ..drawn.params.clone() };
        let outcome = World::new(Config { sessions_percent: 100, models_percent: 0, faults, params, ..drawn }).run();
        assert!(outcome.violations.is_empty(), "seed {seed}:\n{}", outcome.violations.join("\n"));
        sum.add(&outcome);
    }
    assert!(sum.finished > 100 && sum.early_starts > 100 && sum.early_unpaid > 10, "{sum:?}");
}

/// Models whose tokens are paid, with Containers that multiply their counts and consumers who pay nothing, lost ends of
/// answers, and all other faults: nobody pays for what was not counted, and nobody answers unpaid for long.
#[test]
fn tokens_are_paid_as_they_were_counted() {
    let mut sum = Outcome::default();
    for seed in 501..=560 {
        let drawn = Config::drawn(seed, 0);
        let faults = Faults { lying_containers: 30, lying_consumers: 20, ..drawn.faults };
        let outcome = World::new(Config { models_percent: 100, faults, ..drawn }).run();
        assert!(outcome.violations.is_empty(), "seed {seed}:\n{}", outcome.violations.join("\n"));
        sum.add(&outcome);
    }
    assert!(sum.finished > 100 && sum.tokens > 100_000 && sum.used_up > 5 && sum.top_ups > 5, "{sum:?}");
}

/// Kinds of work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Job,
    Session,
    Model,
}

/// Two Containers, one Indexer, one consumer with one task, and nothing that goes wrong by itself.
fn quiet_world(seed: u64, kind: Kind) -> Config {
    let is_session = kind == Kind::Session;
    let drawn = Config::drawn(seed, 0);
    // A chain so slow that a session's workload begins, and often ends, before its deposit is seen.
    let chain_ms = if is_session { (300, 6_000) } else { (0, 0) };
    Config {
        containers: 2,
        indexers: 1,
        consumers: 1,
        tasks_each: 1,
        busy_ms: 1,
        calm_ms: 90_000,
        faults: Faults { chain_ms, ..Faults::none() },
        sessions_percent: if is_session { 100 } else { 0 },
        models_percent: if kind == Kind::Model { 100 } else { 0 },
        params: Params { early_start_ms: 10_000, ..drawn.params.clone() },
        ..drawn
    }
}

/// The matrix of crashes: every role is killed before its first effect, between any two, and after its last, one run
/// each; the network must come to rest with every task done.
fn crashes_are_survived(kind: Kind) {
    let mut worlds = 0;
    for seed in 1..=20 {
        let calm = World::new(quiet_world(seed, kind)).run();
        assert_eq!(calm.violations, Vec::<String>::new());
        // In some worlds the task fits no Container, and nothing is rented.
        let idle = calm.leases == 0 || (kind == Kind::Model && calm.tokens == 0);
        if idle || worlds == 1 {
            continue;
        }
        worlds += 1;
        assert_eq!(calm.early_starts > 0, kind == Kind::Session);
        let wanted = calm.finished + calm.unmatched;
        for role in RoleKind::ALL {
            let effects = calm.effects[role as usize];
            assert!(effects > 0, "{role:?} did nothing in seed {seed}");
            for effect in 0..=effects.min(70) {
                let config = Config { crash: Some(CrashAt { role, effect }), ..quiet_world(seed, kind) };
                let outcome = World::new(config).run();
                let place = format!("seed {seed}, {role:?} killed before effect {effect}");
                assert!(outcome.violations.is_empty(), "{place}:\n{}", outcome.violations.join("\n"));
                assert_eq!(outcome.finished + outcome.unmatched, wanted, "{place}");
            }
        }
    }
    assert_eq!(worlds, 1);
}

#[test]
fn a_crash_at_any_place_of_any_role_is_survived() {
    crashes_are_survived(Kind::Job);
}

#[test]
fn a_crash_at_any_place_of_any_role_is_survived_where_sessions_begin_before_their_deposit() {
    crashes_are_survived(Kind::Session);
}

#[test]
fn a_crash_at_any_place_of_any_role_is_survived_where_models_answer() {
    crashes_are_survived(Kind::Model);
}
