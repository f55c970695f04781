//! What answers count and cost.

use core::ops::AddAssign;

use serde::{Deserialize, Serialize};

use crate::pricing::{Exchange, PricingError};
use crate::units::{Bytes, TokenAmount, UsdMicro};

/// The most that may be asked for a million tokens: $10,000.
pub const TOKEN_PRICE_MAX: UsdMicro = UsdMicro(10_000_000_000);

/// What a typical request has, of sixteen tokens: nine read anew, three remembered, four drawn. Asks are compared by it.
const TYPICAL: (u64, u64, u64) = (9, 3, 4);

/// Tokens of a model, as its engine counted them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct TokenCounts {
    /// Read from prompts, `cached` among them.
    pub input: u64,
    /// Those of `input` that were remembered from before and not read again.
    pub cached: u64,
    /// Drawn.
    pub output: u64,
}

impl TokenCounts {
    /// Nothing.
    pub const ZERO: Self = Self { input: 0, cached: 0, output: 0 };

    /// Both together.
    #[must_use]
    pub const fn plus(self, other: Self) -> Self {
        Self {
            input: self.input.saturating_add(other.input),
            cached: self.cached.saturating_add(other.cached),
            output: self.output.saturating_add(other.output),
        }
    }

    /// What came since `earlier`, where each count has only grown; `None` where one has not.
    #[must_use]
    pub fn since(self, earlier: Self) -> Option<Self> {
        Some(Self {
            input: self.input.checked_sub(earlier.input)?,
            cached: self.cached.checked_sub(earlier.cached)?,
            output: self.output.checked_sub(earlier.output)?,
        })
    }

    /// Each count at its greatest.
    #[must_use]
    pub fn max(self, other: Self) -> Self {
        Self {
            input: self.input.max(other.input),
            cached: self.cached.max(other.cached),
            output: self.output.max(other.output),
        }
    }

    /// Input and output together.
    #[must_use]
    pub const fn total(self) -> u64 {
        self.input.saturating_add(self.output)
    }
}

impl AddAssign for TokenCounts {
    fn add_assign(&mut self, other: Self) {
        *self = self.plus(other);
    }
}

/// What is asked for a million tokens of each kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenAsk {
    /// For a million tokens of prompts.
    pub input: UsdMicro,
    /// For a million of those that were remembered.
    pub cached: UsdMicro,
    /// For a million tokens drawn.
    pub output: UsdMicro,
}

impl TokenAsk {
    /// Refuses what this version does not count with.
    ///
    /// # Errors
    /// Names the field.
    pub fn check(&self) -> Result<(), PricingError> {
        let fields = [("input", self.input), ("cached", self.cached), ("output", self.output)];
        match fields.into_iter().find(|(_, ask)| *ask > TOKEN_PRICE_MAX) {
            Some((field, got)) => Err(PricingError::TokenAskTooHigh { field, got }),
            None => Ok(()),
        }
    }

    /// What a model of so many bytes is asked for, where this is the ask for each GiB of its weights: a token is read
    /// through all of them. Rounded up, and never more than [`TOKEN_PRICE_MAX`].
    #[must_use]
    pub fn for_weights(&self, bytes: Bytes) -> Self {
        let scaled = |ask: UsdMicro| {
            let exact = u128::from(ask.0).saturating_mul(u128::from(bytes.0)).div_ceil(u128::from(Bytes::GIB));
            UsdMicro(u64::try_from(exact).unwrap_or(u64::MAX).min(TOKEN_PRICE_MAX.0))
        };
        Self { input: scaled(self.input), cached: scaled(self.cached), output: scaled(self.output) }
    }

    /// What sixteen million tokens of typical requests cost, which is three of prompts to one of answers, a quarter of the
    /// prompts remembered: one number by which asks are compared.
    #[must_use]
    pub const fn typical(&self) -> u64 {
        let (fresh, cached, output) = TYPICAL;
        self.input
            .0
            .saturating_mul(fresh)
            .saturating_add(self.cached.0.saturating_mul(cached))
            .saturating_add(self.output.0.saturating_mul(output))
    }

    /// Whether each price is at most the one of `limit`.
    #[must_use]
    pub fn is_within(&self, limit: &Self) -> bool {
        self.input <= limit.input && self.cached <= limit.cached && self.output <= limit.output
    }

    /// What so many tokens cost, rounded up to the next micro-dollar.
    #[must_use]
    pub fn cost(&self, counts: TokenCounts) -> UsdMicro {
        let fresh = u128::from(counts.input.saturating_sub(counts.cached)).saturating_mul(u128::from(self.input.0));
        let cached = u128::from(counts.cached.min(counts.input)).saturating_mul(u128::from(self.cached.0));
        let output = u128::from(counts.output).saturating_mul(u128::from(self.output.0));
        let sum = fresh.saturating_add(cached).saturating_add(output).div_ceil(1_000_000);
        UsdMicro(u64::try_from(sum).unwrap_or(u64::MAX))
    }
}

/// What a million tokens of each kind cost on a lease, in the network token's smallest unit; frozen when it opens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct TokenRates {
    /// A million tokens of prompts.
    pub input: TokenAmount,
    /// A million of those that were remembered.
    pub cached: TokenAmount,
    /// A million tokens drawn.
    pub output: TokenAmount,
}

impl TokenRates {
    /// Freezes what is asked at an exchange rate; each rounded up.
    ///
    /// # Errors
    /// [`PricingError::TokenPriceZero`].
    pub fn freeze(ask: &TokenAsk, exchange: &Exchange) -> Result<Self, PricingError> {
        let rate = |price: UsdMicro| exchange.tokens_for(price);
        Ok(Self { input: rate(ask.input)?, cached: rate(ask.cached)?, output: rate(ask.output)? })
    }

    /// Whether each rate is at most the one of `limit`.
    #[must_use]
    pub fn is_within(&self, limit: &Self) -> bool {
        self.input <= limit.input && self.cached <= limit.cached && self.output <= limit.output
    }

    /// What so many tokens cost, rounded down to the smallest unit.
    #[must_use]
    pub fn cost(&self, counts: TokenCounts) -> TokenAmount {
        let part = |count: u64, rate: TokenAmount| {
            // Rates are at most 10^10 micro-dollars in units of 10^-18: apart, so that the product does not overflow.
            let (whole, rest) = (rate.0 / 1_000_000, rate.0 % 1_000_000);
            let count = u128::from(count);
            let whole = count.saturating_mul(whole);
            whole.saturating_add(count.saturating_mul(rest) / 1_000_000)
        };
        let fresh = part(counts.input.saturating_sub(counts.cached), self.input);
        let cached = part(counts.cached.min(counts.input), self.cached);
        TokenAmount(fresh.saturating_add(cached).saturating_add(part(counts.output, self.output)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ASK: TokenAsk = TokenAsk { input: UsdMicro(100_000), cached: UsdMicro(10_000), output: UsdMicro(400_000) };

    fn counts(input: u64, cached: u64, output: u64) -> TokenCounts {
        TokenCounts { input, cached, output }
    }

    #[test]
    fn a_million_costs_what_is_asked_for_it() {
        assert_eq!(ASK.cost(counts(1_000_000, 0, 0)), UsdMicro(100_000));
        assert_eq!(ASK.cost(counts(1_000_000, 1_000_000, 0)), UsdMicro(10_000));
        assert_eq!(ASK.cost(counts(0, 0, 1_000_000)), UsdMicro(400_000));
        assert_eq!(ASK.cost(counts(1, 0, 0)), UsdMicro(1), "rounded up");
        let rates = TokenRates::freeze(&ASK, &Exchange { token_price: UsdMicro(500_000) }).unwrap();
        assert_eq!(rates.cost(counts(1_000_000, 0, 0)), TokenAmount(TokenAmount::ONE.0 / 5));
        assert!(TokenRates::freeze(&ASK, &Exchange { token_price: UsdMicro(0) }).is_err());
        let dear = TokenAsk { output: UsdMicro(TOKEN_PRICE_MAX.0 + 1), ..ASK };
        assert!(dear.check().unwrap_err().to_string().contains("output"), "{}", dear.check().unwrap_err());
        let half = ASK.for_weights(Bytes(Bytes::GIB / 2));
        assert_eq!((half.input, half.cached), (UsdMicro(50_000), UsdMicro(5_000)));
        assert_eq!(ASK.for_weights(Bytes(1)).output, UsdMicro(1), "rounded up");
        assert_eq!(ASK.typical(), ASK.cost(counts(12_000_000, 3_000_000, 4_000_000)).0);
        assert!(ASK.check().is_ok() && ASK.is_within(&ASK) && !dear.is_within(&ASK));
    }

    proptest! {
        #[test]
        fn more_tokens_never_cost_less(
            input in 0u64..1 << 40, cached in 0u64..1 << 40, output in 0u64..1 << 40, more in 0u64..1 << 20,
            rate in 0u128..1 << 100,
        ) {
            let cached = cached.min(input);
            let rates = TokenRates { input: TokenAmount(rate), cached: TokenAmount(rate / 10), output: TokenAmount(rate) };
            let before = rates.cost(counts(input, cached, output));
            prop_assert!(rates.cost(counts(input + more, cached, output)) >= before);
            prop_assert!(rates.cost(counts(input, cached, output + more)) >= before);
            // A prompt that was remembered never costs more than one that was not.
            prop_assert!(before <= rates.cost(counts(input, 0, output)));
        }

        #[test]
        fn counts_come_apart_as_they_went_together(a in 0u64..1 << 60, b in 0u64..1 << 60, c in 0u64..1 << 60) {
            let (one, two) = (counts(a, b, c), counts(c, a, b));
            prop_assert_eq!(one.plus(two).since(two), Some(one));
            prop_assert!(one.since(one.plus(counts(1, 0, 0))).is_none());
        }
    }
}
