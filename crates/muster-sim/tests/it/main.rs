//! Seeds that every change must survive.

mod audits;

use muster_sim::{Config, CrashAt, Faults, RoleKind, World, run_seed};

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

/// Two Containers, one Indexer, one consumer with one task, and nothing that goes wrong by itself.
fn quiet_world(seed: u64) -> Config {
    let drawn = Config::drawn(seed, 0);
    Config {
        containers: 2,
        indexers: 1,
        consumers: 1,
        tasks_each: 1,
        busy_ms: 1,
        calm_ms: 90_000,
        faults: Faults::none(),
        ..drawn
    }
}

/// The matrix of crashes: every role is killed before its first effect, between any two, and after its last, one run
/// each; the network must come to rest with every task done.
#[test]
fn a_crash_at_any_place_of_any_role_is_survived() {
    let mut worlds = 0;
    for seed in 1..=20 {
        let calm = World::new(quiet_world(seed)).run();
        assert_eq!(calm.violations, Vec::<String>::new());
        // In some worlds the task fits no Container, and nothing is rented.
        if calm.leases == 0 || worlds == 1 {
            continue;
        }
        worlds += 1;
        let wanted = calm.finished + calm.unmatched;
        for role in RoleKind::ALL {
            let effects = calm.effects[role as usize];
            assert!(effects > 0, "{role:?} did nothing in seed {seed}");
            for effect in 0..=effects.min(70) {
                let config = Config { crash: Some(CrashAt { role, effect }), ..quiet_world(seed) };
                let outcome = World::new(config).run();
                let place = format!("seed {seed}, {role:?} killed before effect {effect}");
                assert!(outcome.violations.is_empty(), "{place}:\n{}", outcome.violations.join("\n"));
                assert_eq!(outcome.finished + outcome.unmatched, wanted, "{place}");
            }
        }
    }
    assert_eq!(worlds, 1);
}
