//! Seeds that every change must survive.

use muster_sim::{Config, Faults, World, run_seed};

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
