//! Quantities with their units; arithmetic is checked or saturating, never wrapping.

use core::fmt;
use core::str::FromStr;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// What is wrong with a quantity that was given as text.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UnitError {
    /// Not a number with a unit that is known here.
    #[error("{text:?} is not {what}; write for example {example}")]
    Malformed {
        /// What was given.
        text: String,
        /// What was expected, with its article.
        what: &'static str,
        /// A good value.
        example: &'static str,
    },
    /// More than the unit can hold.
    #[error("{text:?} is too large for {what}")]
    TooLarge {
        /// What was given.
        text: String,
        /// What was expected, with its article.
        what: &'static str,
    },
}

/// An instant: milliseconds since the Unix epoch, of whichever clock the caller keeps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct TimeMs(pub u64);

impl TimeMs {
    /// This instant plus some milliseconds; stays at the greatest instant.
    #[must_use]
    pub const fn plus(self, ms: u64) -> Self {
        Self(self.0.saturating_add(ms))
    }

    /// Milliseconds from `earlier` to this; 0 if `earlier` is later.
    #[must_use]
    pub const fn since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }

    /// Whole seconds since the Unix epoch, rounded down.
    #[must_use]
    pub const fn secs(self) -> u64 {
        self.0 / 1000
    }
}

/// An amount of the network token in its smallest unit (10⁻¹⁸ token).
///
/// Serialised as a decimal string of smallest units where people and programs read it (TOML and many JSON readers
/// hold no integer of that size), as a number between nodes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TokenAmount(pub u128);

impl Serialize for TokenAmount {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() { serializer.collect_str(&self.0) } else { self.0.serialize(serializer) }
    }
}

impl<'de> Deserialize<'de> for TokenAmount {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        if deserializer.is_human_readable() {
            let text = String::deserialize(deserializer)?;
            text.parse().map(Self).map_err(|_| D::Error::custom("not a decimal string of the token's smallest units"))
        } else {
            u128::deserialize(deserializer).map(Self)
        }
    }
}

impl TokenAmount {
    /// Nothing.
    pub const ZERO: Self = Self(0);
    /// One whole token.
    pub const ONE: Self = Self(1_000_000_000_000_000_000);

    /// The sum, or `None` past `u128`.
    #[must_use]
    pub const fn checked_add(self, other: Self) -> Option<Self> {
        match self.0.checked_add(other.0) {
            Some(sum) => Some(Self(sum)),
            None => None,
        }
    }

    /// The sum, at most `u128::MAX`.
    #[must_use]
    pub const fn saturating_add(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }

    /// The difference, at least zero.
    #[must_use]
    pub const fn saturating_sub(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0))
    }

    /// The price of `ms` milliseconds at this rate per second, rounded down; at most `u128::MAX`.
    #[must_use]
    pub const fn per_second_for_ms(self, ms: u64) -> Self {
        #[allow(clippy::cast_lossless, reason = "u128::from is not const")]
        let ms = ms as u128;
        match self.0.checked_mul(ms) {
            Some(product) => Self(product / 1000),
            None => Self((self.0 / 1000).saturating_mul(ms)),
        }
    }

    /// Whole milliseconds that this amount pays at `rate_per_second`, rounded down; `None` when the rate is zero.
    #[must_use]
    pub fn ms_at_rate(self, rate_per_second: Self) -> Option<u64> {
        if rate_per_second.0 == 0 {
            return None;
        }
        let whole = (self.0 / rate_per_second.0).saturating_mul(1000);
        let rest = (self.0 % rate_per_second.0).saturating_mul(1000) / rate_per_second.0;
        Some(u64::try_from(whole.saturating_add(rest)).unwrap_or(u64::MAX))
    }
}

impl fmt::Display for TokenAmount {
    /// Whole tokens with up to 18 decimals, without trailing zeros: `12.5`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let whole = self.0 / Self::ONE.0;
        let fraction = self.0 % Self::ONE.0;
        if fraction == 0 {
            return write!(f, "{whole}");
        }
        let digits = format!("{fraction:018}");
        write!(f, "{whole}.{}", digits.trim_end_matches('0'))
    }
}

impl FromStr for TokenAmount {
    type Err = UnitError;
    /// Reads whole tokens with up to 18 decimals: `12.5`.
    fn from_str(text: &str) -> Result<Self, UnitError> {
        let what = "an amount of tokens";
        parse_decimal(text, 18)
            .ok_or_else(|| UnitError::Malformed { text: text.to_owned(), what, example: "12.5" })?
            .map(Self)
            .ok_or(UnitError::TooLarge { text: text.to_owned(), what })
    }
}

/// US dollars in millionths.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct UsdMicro(pub u64);

impl fmt::Display for UsdMicro {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = format!("{:06}", self.0 % 1_000_000);
        let shown = digits.trim_end_matches('0');
        let whole = self.0 / 1_000_000;
        match shown.len() {
            0 => write!(f, "${whole}.00"),
            1 => write!(f, "${whole}.{shown}0"),
            _ => write!(f, "${whole}.{shown}"),
        }
    }
}

impl FromStr for UsdMicro {
    type Err = UnitError;
    /// Reads dollars with up to six decimals: `0.25`, `$1.50`.
    fn from_str(text: &str) -> Result<Self, UnitError> {
        let what = "an amount in US dollars";
        let bare = text.strip_prefix('$').unwrap_or(text);
        parse_decimal(bare, 6)
            .ok_or_else(|| UnitError::Malformed { text: text.to_owned(), what, example: "0.25" })?
            .and_then(|v| u64::try_from(v).ok())
            .map(Self)
            .ok_or(UnitError::TooLarge { text: text.to_owned(), what })
    }
}

/// Reads an unsigned decimal number as an integer of `decimals` decimal places.
/// Outer `None`: not such a number. Inner `None`: too large.
fn parse_decimal(text: &str, decimals: usize) -> Option<Option<u128>> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let digits_only = |s: &str| s.bytes().all(|b| b.is_ascii_digit());
    if whole.is_empty() && fraction.is_empty()
        || !digits_only(whole)
        || !digits_only(fraction)
        || fraction.len() > decimals
    {
        return None;
    }
    let joined = format!("{whole}{fraction:0<decimals$}");
    Some(
        joined
            .trim_start_matches('0')
            .parse::<u128>()
            .or_else(|e| if joined.bytes().all(|b| b == b'0') { Ok(0) } else { Err(e) })
            .ok(),
    )
}

/// A size in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Bytes(pub u64);

impl Bytes {
    /// 2²⁰ bytes.
    pub const MIB: u64 = 1 << 20;
    /// 2³⁰ bytes.
    pub const GIB: u64 = 1 << 30;
}

impl fmt::Display for Bytes {
    /// The largest binary unit that leaves at least 1, one decimal when it is not whole: `1.5 GiB`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let units = [("TiB", 1u64 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];
        for (name, size) in units {
            if self.0 >= size {
                let whole = self.0 / size;
                let tenths = (self.0 % size).saturating_mul(10) / size;
                return if tenths == 0 { write!(f, "{whole} {name}") } else { write!(f, "{whole}.{tenths} {name}") };
            }
        }
        write!(f, "{} B", self.0)
    }
}

impl FromStr for Bytes {
    type Err = UnitError;
    /// Reads `512M`, `2G`, `1.5GiB`, `1000`; units are binary (K = 1024), as in `docker run --memory`.
    fn from_str(text: &str) -> Result<Self, UnitError> {
        let what = "a size";
        let malformed = || UnitError::Malformed { text: text.to_owned(), what, example: "512M or 2G" };
        let trimmed = text.trim();
        let split = trimmed.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(trimmed.len());
        let (number, unit) = trimmed.split_at(split);
        let shift = match unit.trim().to_ascii_lowercase().as_str() {
            "" | "b" => 0u32,
            "k" | "kb" | "kib" => 10,
            "m" | "mb" | "mib" => 20,
            "g" | "gb" | "gib" => 30,
            "t" | "tb" | "tib" => 40,
            _ => return Err(malformed()),
        };
        let thousandths = parse_decimal(number, 3).ok_or_else(malformed)?;
        thousandths
            .and_then(|t| t.checked_mul(1u128 << shift))
            .and_then(|t| u64::try_from(t / 1000).ok())
            .map(Self)
            .ok_or(UnitError::TooLarge { text: text.to_owned(), what })
    }
}

/// OctaneBench points in hundredths: a GTX 980 has 10,000.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Ob(pub u32);

impl Ob {
    /// So many whole points.
    #[must_use]
    pub const fn points(points: u32) -> Self {
        Self(points.saturating_mul(100))
    }
}

impl fmt::Display for Ob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 % 100 {
            0 => write!(f, "{} OB", self.0 / 100),
            rest => write!(f, "{}.{rest:02} OB", self.0 / 100),
        }
    }
}

/// OctaneBench points × milliseconds, from which OBh are shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ObMs(pub u128);

impl ObMs {
    /// Work of `ob` over `ms` milliseconds.
    #[must_use]
    pub fn of(ob: Ob, ms: u64) -> Self {
        Self(u128::from(ob.0).saturating_mul(u128::from(ms)))
    }

    /// Thousandths of an OBh, rounded down.
    #[must_use]
    pub const fn milli_obh(self) -> u128 {
        self.0 / (100 * 3_600)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn texts() {
        assert_eq!("1.5".parse::<TokenAmount>().unwrap().0, 1_500_000_000_000_000_000);
        assert_eq!("0".parse::<TokenAmount>().unwrap().0, 0);
        assert_eq!("0.000000000000000001".parse::<TokenAmount>().unwrap().0, 1);
        assert!("0.0000000000000000001".parse::<TokenAmount>().is_err());
        assert!("-1".parse::<TokenAmount>().is_err());
        assert_eq!("$0.25".parse::<UsdMicro>().unwrap().0, 250_000);
        assert_eq!(UsdMicro(1_500_000).to_string(), "$1.50");
        assert_eq!("1.5G".parse::<Bytes>().unwrap().0, 1_610_612_736);
        assert_eq!(Bytes(1_610_612_736).to_string(), "1.5 GiB");
        assert!("12 parsecs".parse::<Bytes>().is_err());
        assert!(".".parse::<Bytes>().is_err());
        assert_eq!(
            "99999999999T".parse::<Bytes>().unwrap_err().to_string(),
            "\"99999999999T\" is too large for a size"
        );
    }

    proptest! {
        #[test]
        fn amounts_survive_text(v in any::<u128>()) {
            prop_assert_eq!(TokenAmount(v).to_string().parse::<TokenAmount>(), Ok(TokenAmount(v)));
        }

        #[test]
        fn price_never_exceeds_what_pays_for_it(rate in 1u128..1u128 << 80, ms in 0u64..1 << 40) {
            let price = TokenAmount(rate).per_second_for_ms(ms);
            prop_assert!(price.ms_at_rate(TokenAmount(rate)).unwrap() <= ms);
            prop_assert!(TokenAmount(rate).per_second_for_ms(ms + 1) >= price);
        }
    }
}
