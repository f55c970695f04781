//! Parameters of audits.

use serde::{Deserialize, Serialize};

use super::{EpochNo, SEATS_MAX};
use crate::units::{TimeMs, TokenAmount};

/// When an epoch is, what is audited in it, and by how many; `[params.epoch]` in `network.toml`.
///
/// Shares are in ten-thousandths (`_bps`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct EpochParams {
    /// Length of an epoch.
    pub epoch_ms: u64,
    /// When the draw must be known: the share of the epoch at which tests begin.
    pub draw_until_bps: u16,
    /// The share at which tests end and commitments begin.
    pub tests_until_bps: u16,
    /// The share at which commitments end and reveals begin.
    pub commit_until_bps: u16,
    /// The share at which reveals end and settlement begins.
    pub reveal_until_bps: u16,
    /// How long a proposer of an outcome has before it is the next one's turn.
    pub proposer_timeout_ms: u64,
    /// How often a Container is asked whether it lives.
    pub liveness_every_ms: u64,
    /// How often a Container at work is looked at.
    pub quality_every_ms: u64,
    /// Share of Containers that are tested in full in an epoch.
    pub audit_bps: u16,
    /// The same for new and suspect ones.
    pub audit_watched_bps: u16,
    /// A full test is never longer ago than this.
    pub full_test_within_ms: u64,
    /// How long a Container counts as new after its registration.
    pub new_for_ms: u64,
    /// How long a Container stays suspect.
    pub suspect_for_ms: u64,
    /// Checkers that ask one Container whether it lives.
    pub liveness_seats: u8,
    /// Seats of a committee that audits or settles.
    pub committee_seats: u8,
    /// Seats of a committee that decides what another one found.
    pub dispute_seats: u8,
    /// Rechecks for each Checker, as a share of its audits; at least one.
    pub recheck_bps: u16,
    /// Share of the rechecks that are known to be bad.
    pub planted_bps: u16,
    /// Share of Containers at work of whose tasks one is run twice.
    pub duplicate_bps: u16,
    /// Share of good proofs that the settlement committee runs again.
    pub spot_check_bps: u16,
    /// Least stake of a Checker that is drawn.
    pub checker_stake: TokenAmount,
    /// How long an outcome can be disputed.
    pub dispute_window_ms: u64,
    /// A day: the grain of histories.
    pub day_ms: u64,
}

const DAY_MS: u64 = 86_400_000;

impl EpochParams {
    /// Parameters of a development network.
    #[must_use]
    pub const fn development() -> Self {
        Self {
            epoch_ms: 30_000,
            proposer_timeout_ms: 2_000,
            liveness_every_ms: 5_000,
            quality_every_ms: 5_000,
            audit_bps: 2_500,
            audit_watched_bps: 10_000,
            full_test_within_ms: 120_000,
            new_for_ms: 120_000,
            suspect_for_ms: 120_000,
            committee_seats: 3,
            dispute_seats: 7,
            checker_stake: TokenAmount(1_000 * TokenAmount::ONE.0),
            dispute_window_ms: 15_000,
            day_ms: 120_000,
            ..Self::production()
        }
    }

    /// Parameters of the public network.
    #[must_use]
    pub const fn production() -> Self {
        Self {
            epoch_ms: 900_000,
            draw_until_bps: 500,
            tests_until_bps: 6_000,
            commit_until_bps: 7_000,
            reveal_until_bps: 8_000,
            proposer_timeout_ms: 45_000,
            liveness_every_ms: 60_000,
            quality_every_ms: 60_000,
            audit_bps: 1_000,
            audit_watched_bps: 5_000,
            full_test_within_ms: DAY_MS,
            new_for_ms: DAY_MS,
            suspect_for_ms: DAY_MS,
            liveness_seats: 3,
            committee_seats: 7,
            dispute_seats: 21,
            recheck_bps: 1_000,
            planted_bps: 5_000,
            duplicate_bps: 300,
            spot_check_bps: 100,
            checker_stake: TokenAmount(1_000 * TokenAmount::ONE.0),
            dispute_window_ms: 3 * DAY_MS,
            day_ms: DAY_MS,
        }
    }

    /// The epoch of an instant.
    #[must_use]
    pub const fn at(&self, now: TimeMs) -> EpochNo {
        EpochNo(now.0 / if self.epoch_ms == 0 { 1 } else { self.epoch_ms })
    }

    /// When an epoch begins.
    #[must_use]
    pub const fn begin(&self, epoch: EpochNo) -> TimeMs {
        TimeMs(epoch.0.saturating_mul(self.epoch_ms))
    }

    /// When an epoch is over.
    #[must_use]
    pub const fn end(&self, epoch: EpochNo) -> TimeMs {
        self.begin(EpochNo(epoch.0.saturating_add(1)))
    }

    /// When a phase of an epoch begins.
    #[must_use]
    pub fn begin_of(&self, epoch: EpochNo, phase: Phase) -> TimeMs {
        let bps = match phase {
            Phase::Draw => 0,
            Phase::Tests => self.draw_until_bps,
            Phase::Commit => self.tests_until_bps,
            Phase::Reveal => self.commit_until_bps,
            Phase::Settle => self.reveal_until_bps,
        };
        let offset = u128::from(self.epoch_ms).saturating_mul(u128::from(bps)) / 10_000;
        self.begin(epoch).plus(u64::try_from(offset).unwrap_or(u64::MAX))
    }

    /// The epoch and phase of an instant. Settlement may go on when its epoch is over; this tells of the clock only.
    #[must_use]
    pub fn phase(&self, now: TimeMs) -> (EpochNo, Phase) {
        let epoch = self.at(now);
        let phases = [Phase::Settle, Phase::Reveal, Phase::Commit, Phase::Tests];
        let phase = phases.into_iter().find(|phase| now >= self.begin_of(epoch, *phase));
        (epoch, phase.unwrap_or(Phase::Draw))
    }

    /// How many epochs fill a span; at least one.
    #[must_use]
    pub const fn epochs_in(&self, span_ms: u64) -> u64 {
        let length = if self.epoch_ms == 0 { 1 } else { self.epoch_ms };
        let count = span_ms.div_ceil(length);
        if count == 0 { 1 } else { count }
    }

    /// The day of an epoch, by this network's length of a day.
    #[must_use]
    pub const fn day(&self, epoch: EpochNo) -> u64 {
        self.begin(epoch).0 / if self.day_ms == 0 { 1 } else { self.day_ms }
    }

    /// Whether the parameters make sense together.
    ///
    /// # Errors
    /// The field, and what is wrong with it.
    pub fn check(&self) -> Result<(), (&'static str, String)> {
        let times = [
            ("epoch_ms", self.epoch_ms),
            ("proposer_timeout_ms", self.proposer_timeout_ms),
            ("liveness_every_ms", self.liveness_every_ms),
            ("quality_every_ms", self.quality_every_ms),
            ("full_test_within_ms", self.full_test_within_ms),
            ("day_ms", self.day_ms),
        ];
        if let Some((field, _)) = times.into_iter().find(|(_, ms)| *ms == 0) {
            return Err((field, "is zero".to_owned()));
        }
        let order = [
            ("tests_until_bps", self.draw_until_bps, self.tests_until_bps),
            ("commit_until_bps", self.tests_until_bps, self.commit_until_bps),
            ("reveal_until_bps", self.commit_until_bps, self.reveal_until_bps),
        ];
        if let Some((field, before, _)) = order.into_iter().find(|(_, before, this)| this <= before) {
            return Err((field, format!("must be more than {before}, where the phase before begins")));
        }
        if self.reveal_until_bps >= 10_000 {
            return Err(("reveal_until_bps", "must leave time to settle: less than 10000".to_owned()));
        }
        let seats = [
            ("liveness_seats", self.liveness_seats),
            ("committee_seats", self.committee_seats),
            ("dispute_seats", self.dispute_seats),
        ];
        let wrong = seats.into_iter().find(|(_, count)| *count == 0 || usize::from(*count) > SEATS_MAX);
        if let Some((field, _)) = wrong {
            return Err((field, format!("must be from 1 to {SEATS_MAX}")));
        }
        let shares = [
            ("audit_bps", self.audit_bps),
            ("audit_watched_bps", self.audit_watched_bps),
            ("recheck_bps", self.recheck_bps),
            ("planted_bps", self.planted_bps),
            ("duplicate_bps", self.duplicate_bps),
            ("spot_check_bps", self.spot_check_bps),
        ];
        match shares.into_iter().find(|(_, share)| *share > 10_000) {
            Some((field, _)) => Err((field, "is more than 10000, the whole".to_owned())),
            None => Ok(()),
        }
    }
}

impl Default for EpochParams {
    fn default() -> Self {
        Self::development()
    }
}

/// Part of an epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// The beacon's round is awaited; who tests whom follows from it.
    Draw,
    /// Checkers test Containers, each at its instant.
    Tests,
    /// Checkers commit to what they found.
    Commit,
    /// Checkers tell what they found.
    Reveal,
    /// The committee computes the outcome, signs it and posts it.
    Settle,
}

impl core::fmt::Display for Phase {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(match self {
            Self::Draw => "draw",
            Self::Tests => "tests",
            Self::Commit => "commit",
            Self::Reveal => "reveal",
            Self::Settle => "settle",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn phases_follow_each_other() {
        for params in [EpochParams::development(), EpochParams::production()] {
            assert_eq!(params.check(), Ok(()));
            let epoch = EpochNo(1_000);
            let mut before = params.begin(epoch);
            assert_eq!(params.phase(before), (epoch, Phase::Draw));
            for phase in [Phase::Tests, Phase::Commit, Phase::Reveal, Phase::Settle] {
                let begin = params.begin_of(epoch, phase);
                assert!(begin > before);
                assert_eq!(params.phase(begin), (epoch, phase));
                assert!(params.phase(TimeMs(begin.0 - 1)).1 < phase);
                before = begin;
            }
            assert_eq!(params.phase(TimeMs(params.end(epoch).0 - 1)), (epoch, Phase::Settle));
            assert_eq!(params.phase(params.end(epoch)), (EpochNo(1_001), Phase::Draw));
        }
    }

    #[test]
    fn wrong_parameters_name_their_field() {
        let good = EpochParams::production();
        let wrong = |params: EpochParams| params.check().unwrap_err().0;
        assert_eq!(wrong(EpochParams { epoch_ms: 0, ..good.clone() }), "epoch_ms");
        assert_eq!(wrong(EpochParams { commit_until_bps: 6_000, ..good.clone() }), "commit_until_bps");
        assert_eq!(wrong(EpochParams { reveal_until_bps: 10_000, ..good.clone() }), "reveal_until_bps");
        assert_eq!(wrong(EpochParams { dispute_seats: 33, ..good.clone() }), "dispute_seats");
        assert_eq!(wrong(EpochParams { audit_bps: 10_001, ..good }), "audit_bps");
    }
}
