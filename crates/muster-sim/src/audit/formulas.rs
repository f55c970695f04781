//! What probability theory says of committees.

/// The chance that two thirds of the seats are bad, drawn without replacement among equals: the tail of the
/// hypergeometric distribution.
#[must_use]
pub fn wrong_verdict(checkers: u32, bad: u32, seats: u32) -> f64 {
    let seats = seats.min(checkers);
    let need = (seats * 2).div_ceil(3);
    (need..=seats).map(|k| exactly(checkers, bad, seats, k)).sum()
}

/// The chance of exactly `k` bad seats.
fn exactly(checkers: u32, bad: u32, seats: u32, k: u32) -> f64 {
    let good = checkers - bad;
    if k > bad || seats - k > good {
        return 0.0;
    }
    (choose_ln(bad, k) + choose_ln(good, seats - k) - choose_ln(checkers, seats)).exp()
}

fn choose_ln(n: u32, k: u32) -> f64 {
    (1..=k).map(|i| (f64::from(n - k + i) / f64::from(i)).ln()).sum()
}

/// Epochs until 99.9 % of cheats are caught: in each epoch a cheat is tested with the chance `audit` (and for certain
/// when it was not for `day` epochs), and is caught when it cheats at that time. One honest seat is enough.
#[must_use]
pub fn epochs_to_catch(audit: f64, day: u64, cheating: f64) -> f64 {
    // The mean time between tests is the sum of the chances that no test came in so many epochs.
    let between: f64 = (0..day).map(|epochs| (1.0 - audit).powf(epochs as f64)).sum();
    0.001f64.ln() / (1.0 - cheating / between).ln()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tails_are_right() {
        // Of 4 Checkers 2 are bad, 3 seats: two of three bad in half of all cases.
        assert!((wrong_verdict(4, 2, 3) - 0.5).abs() < 1e-12);
        assert!(wrong_verdict(100, 0, 7) == 0.0);
        assert!((wrong_verdict(10, 10, 7) - 1.0).abs() < 1e-9);
        // Of very many it is the binomial tail: of 7 with 20 % at least 5.
        assert!((wrong_verdict(1_000_000, 200_000, 7) - 0.004_672).abs() < 1e-5);
    }

    #[test]
    fn certain_tests_and_certain_cheats_are_caught_at_once() {
        assert!(epochs_to_catch(1.0, 96, 0.999_999) < 1.0);
        let rare = epochs_to_catch(0.1, 96, 0.01);
        assert!((6_800.0..7_000.0).contains(&rare), "{rare}");
    }
}
