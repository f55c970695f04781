//! Rounds of a public beacon: when each comes. Their randomness is verified elsewhere.

/// When the rounds of a beacon come: round 1 at `genesis_s`, one more every `period_s` from then on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct BeaconSchedule {
    /// When round 1 came, in Unix seconds.
    pub genesis_s: u64,
    /// Seconds between rounds; never zero.
    pub period_s: u64,
}

impl BeaconSchedule {
    /// The last round that is due at a time in Unix seconds; `None` before the first.
    #[must_use]
    pub fn round_at(&self, now_s: u64) -> Option<u64> {
        let since = now_s.checked_sub(self.genesis_s)?;
        since.checked_div(self.period_s)?.checked_add(1)
    }

    /// The first round that comes at or after a time in Unix seconds: nobody knows its randomness before.
    #[must_use]
    pub fn first_at_or_after(&self, time_s: u64) -> Option<u64> {
        let Some(round) = self.round_at(time_s) else { return Some(1) };
        if self.time_of(round) == Some(time_s) { Some(round) } else { round.checked_add(1) }
    }

    /// When a round comes, in Unix seconds; `None` for round 0, which no beacon signs, and past the end of time.
    #[must_use]
    pub fn time_of(&self, round: u64) -> Option<u64> {
        round.checked_sub(1)?.checked_mul(self.period_s)?.checked_add(self.genesis_s)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUICKNET: BeaconSchedule = BeaconSchedule { genesis_s: 1_692_803_367, period_s: 3 };

    #[test]
    fn rounds_follow_the_clock() {
        assert_eq!(QUICKNET.round_at(1_692_803_366), None);
        assert_eq!(QUICKNET.round_at(1_692_803_367), Some(1));
        assert_eq!(QUICKNET.round_at(1_692_803_369), Some(1));
        assert_eq!(QUICKNET.round_at(1_692_803_370), Some(2));
        assert_eq!(QUICKNET.time_of(1000), Some(1_692_806_364));
        assert_eq!(QUICKNET.time_of(0), None);
        assert_eq!(QUICKNET.time_of(u64::MAX), None);
    }

    #[test]
    fn the_next_round_is_never_one_that_came_before() {
        assert_eq!(QUICKNET.first_at_or_after(0), Some(1));
        for time in 1_692_803_367..1_692_803_380 {
            let round = QUICKNET.first_at_or_after(time).unwrap();
            assert!(QUICKNET.time_of(round).unwrap() >= time);
            assert!(round == 1 || QUICKNET.time_of(round - 1).unwrap() < time);
        }
    }

    #[test]
    fn a_period_of_zero_has_no_rounds() {
        assert_eq!(BeaconSchedule { genesis_s: 1, period_s: 0 }.round_at(5), None);
    }
}
