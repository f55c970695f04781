//! Names of things: fixed-width byte strings, shown as lower-case hex.

use core::fmt;
use core::str::FromStr;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// What is wrong with a name that was given as text.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    /// Not the right number of hex digits.
    #[error("expected {expected} hex digits, got {got}")]
    Length {
        /// Digits that the name has.
        expected: usize,
        /// Digits that were given.
        got: usize,
    },
    /// A character that is no hex digit.
    #[error("{found:?} at place {at} is not a hex digit")]
    Digit {
        /// The character.
        found: char,
        /// Its place, from 0, without a leading `0x`.
        at: usize,
    },
}

fn write_hex(bytes: &[u8], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    for byte in bytes {
        write!(f, "{byte:02x}")?;
    }
    Ok(())
}

fn parse_hex<const N: usize>(text: &str) -> Result<[u8; N], IdError> {
    let digits = text.strip_prefix("0x").unwrap_or(text);
    let mut out = [0u8; N];
    let mut count = 0usize;
    for (at, found) in digits.chars().enumerate() {
        let value = found.to_digit(16).ok_or(IdError::Digit { found, at })?;
        if let Some(slot) = out.get_mut(at / 2) {
            *slot = (*slot << 4) | u8::try_from(value).unwrap_or(0);
        }
        count = count.saturating_add(1);
    }
    if count == N.saturating_mul(2) {
        Ok(out)
    } else {
        Err(IdError::Length { expected: N.saturating_mul(2), got: count })
    }
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $len:literal, $prefix:literal) => {
        $(#[$doc])*
        ///
        /// Serialised as hex where people read it (TOML, JSON), as plain bytes between nodes.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub [u8; $len]);

        impl $name {
            /// All bytes zero: never a real name.
            pub const ZERO: Self = Self([0; $len]);

            /// The first eight hex digits: enough for a person to tell two apart.
            #[must_use]
            pub fn short(&self) -> String {
                self.0.iter().take(4).map(|b| format!("{b:02x}")).collect()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str($prefix)?;
                write_hex(&self.0, f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({})", stringify!($name), self.short())
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                if serializer.is_human_readable() { serializer.collect_str(self) } else { self.0.serialize(serializer) }
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                if deserializer.is_human_readable() {
                    String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
                } else {
                    <[u8; $len]>::deserialize(deserializer).map(Self)
                }
            }
        }

        impl FromStr for $name {
            type Err = IdError;
            fn from_str(text: &str) -> Result<Self, IdError> {
                parse_hex::<$len>(text).map(Self)
            }
        }
    };
}

id!(
    /// A node's public key (ed25519): Container, Indexer or Checker, and where it is dialled.
    NodeId, 32, ""
);
id!(
    /// A lease, as the escrow names it: keccak256(chain id, escrow, consumer, salt).
    LeaseId, 32, "0x"
);
id!(
    /// An account on the chain.
    Address, 20, "0x"
);
id!(
    /// A BLAKE3 hash of some content.
    ContentHash, 32, ""
);

/// One request of a consumer, answered once; drawn at random by the consumer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct RequestId(pub u128);

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_survive_text() {
        let id = LeaseId([0xab; 32]);
        assert_eq!(id.to_string().parse::<LeaseId>(), Ok(id));
        assert_eq!(NodeId([1; 32]).to_string().parse::<NodeId>(), Ok(NodeId([1; 32])));
    }

    #[test]
    fn wrong_names_say_why() {
        assert_eq!("0x12".parse::<Address>(), Err(IdError::Length { expected: 40, got: 2 }));
        assert_eq!("zz".parse::<Address>(), Err(IdError::Digit { found: 'z', at: 0 }));
    }
}
