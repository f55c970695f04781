//! Parameters of rewards and slashes.

use serde::{Deserialize, Serialize};

use crate::units::TokenAmount;

/// What an epoch pays and takes; `[params.reward]` in `network.toml`. Shares are in ten-thousandths (`_bps`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RewardParams {
    /// All tokens that there will be.
    pub supply: TokenAmount,
    /// How long emission goes on, from the network's first epoch.
    pub emission_ms: u64,
    /// Share of the supply that is paid for capacity over that time.
    pub capacity_bps: u16,
    /// Share for delivery, at most.
    pub delivery_bps: u16,
    /// Share for Indexers, at most.
    pub indexer_bps: u16,
    /// Share for Checkers that do their tasks.
    pub checker_base_bps: u16,
    /// Share for Checkers that are nearly always there.
    pub checker_bonus_bps: u16,
    /// A Container's reward for delivery is at most this share of the network fees that its leases paid.
    pub delivery_of_fees_bps: u16,
    /// An Indexer's reward is at most this share of the network fees of the leases that it matched.
    pub indexer_of_fees_bps: u16,
    /// Share of what is slashed that goes to the Checkers that found it.
    pub penalty_share_bps: u16,
    /// The bonus needs more uptime than this.
    pub bonus_uptime_bps: u16,
    /// So many wrong results within `week_ms` bar a Checker.
    pub wrong_max: u8,
    /// How long a wrong result counts, and the span of uptimes and of the OB that is paid, in seven days of the network.
    pub week_ms: u64,
    /// How long a Checker is barred.
    pub month_ms: u64,
    /// Proved speed below this share of what is claimed is far below the promise.
    pub far_below_bps: u16,
    /// Proved speed below this share of what is claimed makes suspect.
    pub suspect_below_bps: u16,
}

const DAY_MS: u64 = 86_400_000;

impl RewardParams {
    /// Parameters of a development network: the same ratios, weeks and months that pass while one watches.
    #[must_use]
    pub const fn development() -> Self {
        Self { week_ms: 7 * 120_000, month_ms: 30 * 120_000, ..Self::production() }
    }

    /// Parameters of the public network.
    #[must_use]
    pub const fn production() -> Self {
        Self {
            supply: TokenAmount(42_000_000_000 * TokenAmount::ONE.0),
            // Four years of 365.25 days.
            emission_ms: 1_461 * DAY_MS,
            capacity_bps: 3_000,
            delivery_bps: 1_000,
            indexer_bps: 200,
            checker_base_bps: 1_000,
            checker_bonus_bps: 500,
            delivery_of_fees_bps: 5_000,
            indexer_of_fees_bps: 2_000,
            penalty_share_bps: 2_500,
            bonus_uptime_bps: 9_500,
            wrong_max: 2,
            week_ms: 7 * DAY_MS,
            month_ms: 30 * DAY_MS,
            far_below_bps: 5_000,
            suspect_below_bps: 9_000,
        }
    }

    /// Whether the parameters make sense together.
    ///
    /// # Errors
    /// The field, and what is wrong with it.
    pub fn check(&self) -> Result<(), (&'static str, String)> {
        for (field, ms) in [("emission_ms", self.emission_ms), ("week_ms", self.week_ms), ("month_ms", self.month_ms)] {
            if ms == 0 {
                return Err((field, "is zero".to_owned()));
            }
        }
        if self.wrong_max == 0 {
            return Err(("wrong_max", "is zero: every Checker would be barred".to_owned()));
        }
        let shares = [self.capacity_bps, self.delivery_bps, self.indexer_bps, self.checker_base_bps];
        let sum: u32 = shares.into_iter().chain([self.checker_bonus_bps]).map(u32::from).sum();
        if sum > 10_000 {
            return Err(("capacity_bps", format!("and the other shares of the supply come to {sum}, more than 10000")));
        }
        // Whoever rents from himself through his own Indexer pays the fee once and gets both.
        if u32::from(self.delivery_of_fees_bps).saturating_add(u32::from(self.indexer_of_fees_bps)) > 10_000 {
            let why = "and indexer_of_fees_bps come to more than 10000: renting from oneself would earn";
            return Err(("delivery_of_fees_bps", why.to_owned()));
        }
        let rest = [
            ("penalty_share_bps", self.penalty_share_bps),
            ("bonus_uptime_bps", self.bonus_uptime_bps),
            ("far_below_bps", self.far_below_bps),
            ("suspect_below_bps", self.suspect_below_bps),
        ];
        match rest.into_iter().find(|(_, share)| *share > 10_000) {
            Some((field, _)) => Err((field, "is more than 10000, the whole".to_owned())),
            None => Ok(()),
        }
    }
}

impl Default for RewardParams {
    fn default() -> Self {
        Self::development()
    }
}
