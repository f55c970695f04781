//! Reduced populations: the figures of the whole ones come from `muster-sim audit`.

use muster_sim::audit::{self, AuditConfig};

const SMALL: AuditConfig = AuditConfig { seed: 1, checkers: 60, containers: 60, days: 1, audits: 1_500 };

#[test]
fn wrong_verdicts_are_as_rare_as_the_formula_says() {
    for (bad_percent, seats) in [(20, 7), (30, 7), (30, 21)] {
        let found = audit::measure_verdicts(&SMALL, bad_percent, seats);
        assert!(found.audits >= SMALL.audits);
        // Committees are few and the chance is small, so the measured share scatters: four deviations are allowed.
        let expected = found.formula * found.audits as f64;
        let apart = (found.wrong as f64 - expected).abs();
        assert!(apart <= 4.0 * expected.max(1.0).sqrt(), "{found:?}");
    }
}

#[test]
fn cheats_are_caught_about_when_the_formula_says() {
    for percent in [10, 50] {
        let found = audit::measure_catching(&SMALL, percent);
        assert!(found.caught > u64::from(SMALL.containers) / 5, "{found:?}");
        let ratio = found.hours_measured / found.hours_formula;
        assert!((0.5..2.0).contains(&ratio), "{found:?}");
    }
}

#[test]
fn no_honest_container_is_slashed_by_slander() {
    for bad_percent in [10, 20] {
        let found = audit::measure_honest(&SMALL, bad_percent);
        assert_eq!((found.container_days, found.slashed), (60, 0), "{found:?}");
    }
}

#[test]
fn every_dishonest_strategy_earns_less() {
    let (checkers, containers) = audit::measure_rewards(&SMALL);
    assert_eq!((checkers.len(), containers.len()), (5, 3));
    for row in checkers.iter().chain(&containers).filter(|row| row.strategy != "honest") {
        assert!(row.of_honest < 0.95, "{row:?}");
    }
}
