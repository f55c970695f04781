//! From what a Container asks, in US dollars, to the rate in tokens that a lease freezes.
//!
//! Integers only. The consumer's price per hour is exact in micro-dollars with each item rounded up to the next
//! one (at most four micro-dollars an hour above the exact sum); the rate per second is rounded up to the token's
//! next smallest unit, so that a Container never earns less than it asks.

use core::fmt;
use core::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::demand::Term;
use crate::hardware::{Allocation, Free, Gpu};
use crate::units::{Bytes, Ob, TokenAmount, UnitError, UsdMicro};

/// The most that may be asked for one unit and hour: $4,000.
pub const ASK_MAX: UsdMicro = UsdMicro(4_000_000_000);

/// What is wrong with an ask or an exchange rate.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PricingError {
    /// An ask beyond what this version counts with.
    #[error("the ask {field} is {got}, more than the greatest that is accepted, {ASK_MAX}")]
    AskTooHigh {
        /// The field.
        field: &'static str,
        /// What it holds.
        got: UsdMicro,
    },
    /// An ask for tokens beyond what this version counts with.
    #[error(
        "the ask for a million {field} tokens is {got}, more than the greatest that is accepted, {}",
        crate::inference::TOKEN_PRICE_MAX
    )]
    TokenAskTooHigh {
        /// Which tokens.
        field: &'static str,
        /// What is asked.
        got: UsdMicro,
    },
    /// A reserved term's share of the price is not between 1 and 10,000 ten-thousandths.
    #[error("reserved_bps is {got}; it must be from 1 to 10000 ten-thousandths of the on-demand price")]
    ReservedShare {
        /// What it holds.
        got: u16,
    },
    /// The network's parameters name no token price.
    #[error("the token price is zero; the network's parameters must name one above zero")]
    TokenPriceZero,
    /// The allocation names a card that the Container does not have.
    #[error("the allocation names GPU {index}, but the Container has {have}")]
    UnknownGpu {
        /// The card's number.
        index: usize,
        /// How many cards there are.
        have: usize,
    },
}

/// A price in micro-dollars per hour.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct UsdPerHour(pub u64);

impl fmt::Display for UsdPerHour {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} per hour", UsdMicro(self.0))
    }
}

impl FromStr for UsdPerHour {
    type Err = UnitError;
    /// Reads dollars per hour as [`UsdMicro`] does: `0.25`, `$1.50`.
    fn from_str(text: &str) -> Result<Self, UnitError> {
        text.parse::<UsdMicro>().map(|usd| Self(usd.0))
    }
}

/// What a Container asks for each unit and hour.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ask {
    /// For one OctaneBench point (100 [`Ob`]) of each card held.
    pub obh: UsdMicro,
    /// The least for each card held, whatever its OB.
    pub gpu_hour_min: UsdMicro,
    /// For one core.
    pub core_hour: UsdMicro,
    /// For one GiB of memory; counted by the MiB begun.
    pub memory_gib_hour: UsdMicro,
    /// For one GiB of disk; counted by the MiB begun.
    pub disk_gib_hour: UsdMicro,
    /// The share of the price, in ten-thousandths, for a reserved term; `None`: on demand only.
    pub reserved_bps: Option<u16>,
}

impl Ask {
    /// Refuses what this version does not count with.
    ///
    /// # Errors
    /// Names the field.
    pub fn check(&self) -> Result<(), PricingError> {
        let fields = [
            ("obh", self.obh),
            ("gpu_hour_min", self.gpu_hour_min),
            ("core_hour", self.core_hour),
            ("memory_gib_hour", self.memory_gib_hour),
            ("disk_gib_hour", self.disk_gib_hour),
        ];
        if let Some((field, got)) = fields.into_iter().find(|(_, ask)| *ask > ASK_MAX) {
            return Err(PricingError::AskTooHigh { field, got });
        }
        match self.reserved_bps {
            Some(got) if got == 0 || got > 10_000 => Err(PricingError::ReservedShare { got }),
            _ => Ok(()),
        }
    }

    /// One hour of one card: its OB at the asked price, rounded up, at least the floor.
    #[must_use]
    pub fn gpu_hour(&self, ob: Ob) -> UsdPerHour {
        let by_ob = u64::from(ob.0).saturating_mul(self.obh.0).div_ceil(100);
        UsdPerHour(by_ob.max(self.gpu_hour_min.0))
    }

    /// One hour of cores, memory and disk, each rounded up.
    #[must_use]
    pub fn amounts_hour(&self, cpu_millis: u32, memory: Bytes, disk: Bytes) -> UsdPerHour {
        let cpu = u64::from(cpu_millis).saturating_mul(self.core_hour.0).div_ceil(1000);
        let memory = mib_begun(memory).saturating_mul(self.memory_gib_hour.0).div_ceil(1024);
        let disk = mib_begun(disk).saturating_mul(self.disk_gib_hour.0).div_ceil(1024);
        UsdPerHour(cpu.saturating_add(memory).saturating_add(disk))
    }

    /// The price of an hour under a term; `None` when the Container does not offer that term.
    #[must_use]
    pub fn under_term(&self, on_demand: UsdPerHour, term: Term) -> Option<UsdPerHour> {
        match term {
            Term::OnDemand => Some(on_demand),
            Term::Reserved => self.reserved_bps.map(|bps| share(on_demand, bps)),
        }
    }

    /// One hour of an allocation on demand, `gpus` being the Container's cards in their order.
    ///
    /// # Errors
    /// [`PricingError::UnknownGpu`] when the allocation names a card beyond `gpus`.
    pub fn allocation_hour(&self, allocation: &Allocation, gpus: &[Gpu]) -> Result<UsdPerHour, PricingError> {
        let mut sum = self.amounts_hour(allocation.cpu_millis, allocation.memory, allocation.disk).0;
        for index in allocation.gpus.iter() {
            let gpu = gpus.get(index).ok_or(PricingError::UnknownGpu { index, have: gpus.len() })?;
            sum = sum.saturating_add(self.gpu_hour(gpu.ob).0);
        }
        Ok(UsdPerHour(sum))
    }

    /// One hour of everything that is free, on demand: what an idle machine could earn.
    ///
    /// # Errors
    /// As [`Ask::allocation_hour`].
    pub fn free_hour(&self, free: &Free, gpus: &[Gpu]) -> Result<UsdPerHour, PricingError> {
        let Free { cpu_millis, memory, disk, gpus: cards } = *free;
        self.allocation_hour(&Allocation { cpu_millis, memory, disk, gpus: cards }, gpus)
    }
}

/// So many ten-thousandths of a price, rounded up.
#[must_use]
pub(crate) fn share(price: UsdPerHour, bps: u16) -> UsdPerHour {
    UsdPerHour(price.0.saturating_mul(u64::from(bps)).div_ceil(10_000))
}

/// Whole MiB, a begun one counting.
#[must_use]
pub(crate) const fn mib_begun(bytes: Bytes) -> u64 {
    bytes.0.div_ceil(Bytes::MIB)
}

/// What a token is worth, from the network's parameters. It counts when a lease opens and is frozen with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Exchange {
    /// The price of one whole token.
    pub token_price: UsdMicro,
}

impl Exchange {
    /// The rate per second, in the token's smallest unit, that pays `price`; rounded up.
    ///
    /// # Errors
    /// [`PricingError::TokenPriceZero`].
    pub fn rate_per_second(&self, price: UsdPerHour) -> Result<TokenAmount, PricingError> {
        let divisor = u128::from(self.token_price.0).saturating_mul(3600);
        if divisor == 0 {
            return Err(PricingError::TokenPriceZero);
        }
        // At most 2^64 * 10^18 < 2^124.
        Ok(TokenAmount(u128::from(price.0).saturating_mul(TokenAmount::ONE.0).div_ceil(divisor)))
    }

    /// Network tokens, in their smallest unit, that are worth `price`; rounded up.
    ///
    /// # Errors
    /// [`PricingError::TokenPriceZero`].
    pub fn tokens_for(&self, price: UsdMicro) -> Result<TokenAmount, PricingError> {
        if self.token_price.0 == 0 {
            return Err(PricingError::TokenPriceZero);
        }
        // At most 2^64 * 10^18 < 2^124.
        Ok(TokenAmount(u128::from(price.0).saturating_mul(TokenAmount::ONE.0).div_ceil(u128::from(self.token_price.0))))
    }

    /// Micro-dollars that an amount of tokens is worth, rounded down; for showing, never for settling.
    ///
    /// # Errors
    /// [`PricingError::TokenPriceZero`].
    pub fn worth(&self, amount: TokenAmount) -> Result<UsdMicro, PricingError> {
        if self.token_price.0 == 0 {
            return Err(PricingError::TokenPriceZero);
        }
        let price = u128::from(self.token_price.0);
        let whole = (amount.0 / TokenAmount::ONE.0).saturating_mul(price);
        let rest = (amount.0 % TokenAmount::ONE.0).saturating_mul(price) / TokenAmount::ONE.0;
        Ok(UsdMicro(u64::try_from(whole.saturating_add(rest)).unwrap_or(u64::MAX)))
    }
}

/// The price of a lease, fixed when it opens: later changes of ask or exchange do not touch it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FrozenRate {
    /// What the consumer was quoted.
    pub usd_per_hour: UsdPerHour,
    /// What it is in tokens, smallest unit per second.
    pub rate_per_second: TokenAmount,
}

impl FrozenRate {
    /// Freezes a quoted price at an exchange rate.
    ///
    /// # Errors
    /// [`PricingError::TokenPriceZero`].
    pub fn freeze(usd_per_hour: UsdPerHour, exchange: &Exchange) -> Result<Self, PricingError> {
        Ok(Self { usd_per_hour, rate_per_second: exchange.rate_per_second(usd_per_hour)? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hardware::{GpuModel, GpuSet, GpuVendor};
    use proptest::prelude::*;

    fn ask() -> Ask {
        Ask {
            obh: UsdMicro(300),
            gpu_hour_min: UsdMicro(100_000),
            core_hour: UsdMicro(10_000),
            memory_gib_hour: UsdMicro(2_000),
            disk_gib_hour: UsdMicro(100),
            reserved_bps: Some(7_000),
        }
    }

    #[test]
    fn hours_are_priced_by_item() {
        assert_eq!(ask().gpu_hour(Ob::points(1000)), UsdPerHour(300_000));
        assert_eq!(ask().gpu_hour(Ob::points(100)), UsdPerHour(100_000), "the floor counts");
        assert_eq!(ask().amounts_hour(1500, Bytes(Bytes::GIB), Bytes(1)), UsdPerHour(15_000 + 2_000 + 1));
        let gpu = Gpu {
            model: GpuModel::new("rtx 4090").unwrap(),
            vendor: GpuVendor::Nvidia,
            vram: Bytes(1),
            ob: Ob::points(1000),
        };
        let allocation = Allocation { cpu_millis: 1000, gpus: GpuSet(1), ..Allocation::default() };
        assert_eq!(ask().allocation_hour(&allocation, core::slice::from_ref(&gpu)), Ok(UsdPerHour(310_000)));
        assert_eq!(ask().allocation_hour(&allocation, &[]), Err(PricingError::UnknownGpu { index: 0, have: 0 }));
        assert_eq!(ask().under_term(UsdPerHour(101), Term::Reserved), Some(UsdPerHour(71)));
        let on_demand_only = Ask { reserved_bps: None, ..ask() };
        assert_eq!(on_demand_only.under_term(UsdPerHour(101), Term::Reserved), None);
    }

    #[test]
    fn a_dollar_an_hour_at_a_dollar_a_token() {
        let exchange = Exchange { token_price: UsdMicro(1_000_000) };
        let rate = exchange.rate_per_second(UsdPerHour(1_000_000)).unwrap();
        assert_eq!(rate.0, 277_777_777_777_778, "one token in 3,600 parts, rounded up");
        assert_eq!(
            Exchange { token_price: UsdMicro(0) }.rate_per_second(UsdPerHour(1)),
            Err(PricingError::TokenPriceZero)
        );
        assert_eq!("$0.25".parse::<UsdPerHour>().unwrap().to_string(), "$0.25 per hour");
    }

    #[test]
    fn wrong_asks_are_named() {
        let high = Ask { core_hour: UsdMicro(ASK_MAX.0 + 1), ..ask() };
        assert_eq!(
            high.check().unwrap_err().to_string(),
            "the ask core_hour is $4000.000001, more than the greatest that is accepted, $4000.00"
        );
        assert!(Ask { reserved_bps: Some(0), ..ask() }.check().is_err());
        assert!(ask().check().is_ok());
    }

    proptest! {
        #[test]
        fn a_container_never_earns_less_than_it_asks(price in 0u64..1 << 50, token in 1u64..1 << 40, hours in 1u64..1000) {
            let exchange = Exchange { token_price: UsdMicro(token) };
            let rate = exchange.rate_per_second(UsdPerHour(price)).unwrap();
            let paid = rate.per_second_for_ms(hours * 3_600_000);
            // In token units times token price: paid * token >= price * hours * 10^18, and no more than one unit a second above.
            let exact = u128::from(price) * u128::from(hours) * TokenAmount::ONE.0 / u128::from(token);
            prop_assert!(paid.0 >= exact);
            prop_assert!(paid.0 <= exact + 1 + u128::from(hours) * 3600);
        }

        #[test]
        fn more_never_costs_less(cpu in 0u32..1 << 20, memory in 0u64..1 << 40, disk in 0u64..1 << 40, more in 0u64..1 << 30) {
            let least = ask().amounts_hour(cpu, Bytes(memory), Bytes(disk));
            prop_assert!(ask().amounts_hour(cpu, Bytes(memory + more), Bytes(disk)) >= least);
            prop_assert!(ask().amounts_hour(cpu, Bytes(memory), Bytes(disk + more)) >= least);
        }
    }
}
