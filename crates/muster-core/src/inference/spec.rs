//! Which model a lease is for.

use core::fmt;
use core::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::packages::PackageSetId;
use crate::units::Bytes;

use super::{HubFile, ModelSource, TokenAsk, TokenCounts, TokenRates, WeightsPart};

/// The longest name of a model, in bytes.
pub const MODEL_NAME_LEN_MAX: usize = 128;
/// Places where weights can be had, at most.
pub const SOURCES_MAX: usize = 8;
/// The longest context, in tokens.
pub const CONTEXT_MAX: u32 = 1 << 20;
/// The most requests that one replica answers side by side.
pub const PARALLEL_MAX: u16 = 256;
/// The greatest file of weights: 2 TiB.
pub const WEIGHTS_MAX: Bytes = Bytes(2048 * Bytes::GIB);
/// The most tokens of each kind that a deposit shall pay for.
pub const DEPOSIT_TOKENS_MAX: u64 = 1 << 40;

/// Names a file of weights: its SHA-256, as hubs publish it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct WeightsId(pub [u8; 32]);

impl WeightsId {
    /// What stands for the weights of a model that owners' own engines serve: they are known by its name alone.
    #[must_use]
    pub fn of_endpoint(name: &str) -> Self {
        Self(blake3::derive_key("muster endpoint v1", name.as_bytes()))
    }

    /// By what Containers say that they have it, among the other things that they have warm.
    #[must_use]
    pub fn warm_id(&self) -> PackageSetId {
        let mut hasher = blake3::Hasher::new_derive_key("muster weights v1");
        hasher.update(&self.0);
        let hash = hasher.finalize();
        PackageSetId(hash.as_bytes().iter().take(8).fold(0, |word, byte| word << 8 | u64::from(*byte)))
    }
}

impl fmt::Display for WeightsId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for WeightsId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "WeightsId({self})")
    }
}

/// What is wrong with a [`ModelSpec`] or a [`ModelDemand`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ModelError {
    /// A field is outside its bounds.
    #[error("the model's {field} is {got}; it must be from {min} to {max}")]
    OutOfBounds {
        /// Which field.
        field: &'static str,
        /// What it holds.
        got: u64,
        /// The least.
        min: u64,
        /// The most.
        max: u64,
    },
    /// No name.
    #[error(
        "{0:?} is no name of a model: use 1 to {MODEL_NAME_LEN_MAX} of a-z, A-Z, 0-9, ., _, -, / and :, a letter or digit first"
    )]
    Name(String),
    /// No hash.
    #[error("{0:?} is no SHA-256; write its 64 hex digits")]
    Hash(String),
    /// Too many sources.
    #[error("a model's weights may come from {SOURCES_MAX} places; name fewer")]
    Sources,
    /// Several files that are not one model's.
    #[error("the model's files do not belong together: {0}")]
    Parts(String),
}

impl FromStr for WeightsId {
    type Err = ModelError;
    fn from_str(text: &str) -> Result<Self, ModelError> {
        let wrong = || ModelError::Hash(text.chars().take(80).collect());
        if text.len() != 64 || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(wrong());
        }
        let mut hash = [0; 32];
        for (at, byte) in hash.iter_mut().enumerate() {
            let digits = text.get(2 * at..2 * at + 2).ok_or_else(wrong)?;
            *byte = u8::from_str_radix(digits, 16).map_err(|_| wrong())?;
        }
        Ok(Self(hash))
    }
}

/// What a model is for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ModelKind {
    /// Conversations, and going on with texts.
    #[default]
    Chat,
    /// Going on with texts alone.
    Completion,
    /// Places in the space of meanings.
    Embedding,
}

impl fmt::Display for ModelKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Chat => "chat",
            Self::Completion => "completion",
            Self::Embedding => "embedding",
        })
    }
}

/// What matching has to know of a model.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelDemand {
    /// Its weights: who has them comes first.
    pub weights: WeightsId,
    /// How large they are: prices go by it. Of an endpoint its owner says it, and this counts for nothing.
    pub bytes: Bytes,
    /// Whether owners' own engines are asked for, which are known by name: who has none cannot serve it.
    #[serde(default)]
    pub endpoint: bool,
    /// The most that a million tokens may cost.
    pub price_max: Option<TokenAsk>,
    /// For so many tokens, of prompts and of answers each, the deposit shall pay at least.
    pub deposit_tokens: u64,
    /// So many tokens, of prompts and of answers each, may be answered before they are paid.
    pub credit_tokens: u64,
}

impl ModelDemand {
    /// Refuses what no Container could mean.
    ///
    /// # Errors
    /// The first field that is wrong.
    pub fn check(&self) -> Result<(), ModelError> {
        within("size in bytes", self.bytes.0, 1, WEIGHTS_MAX.0)?;
        within("deposit_tokens", self.deposit_tokens, 1, DEPOSIT_TOKENS_MAX)?;
        within("credit_tokens", self.credit_tokens, 1, self.deposit_tokens)
    }

    /// What the deposit must be at least.
    #[must_use]
    pub fn deposit(&self, rates: &TokenRates) -> crate::units::TokenAmount {
        rates.cost(both(self.deposit_tokens))
    }

    /// What may be unpaid.
    #[must_use]
    pub fn credit(&self, rates: &TokenRates) -> crate::units::TokenAmount {
        rates.cost(both(self.credit_tokens))
    }
}

const fn both(tokens: u64) -> TokenCounts {
    TokenCounts { input: tokens, cached: 0, output: tokens }
}

/// What a Container is told to serve.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelSpec {
    /// Its name, for people and for answers.
    pub name: String,
    /// What it is for.
    pub kind: ModelKind,
    /// Its weights; of several files, [`WeightsId::of_parts`].
    pub weights: WeightsId,
    /// How large they are, all together.
    pub bytes: Bytes,
    /// Its files, where it comes in several; none where it is one.
    #[serde(default)]
    pub parts: Vec<WeightsPart>,
    /// Where they can be had, the best first; none where the consumer brings them. A hub's file is the first of several.
    pub sources: Vec<ModelSource>,
    /// Tokens that prompt and answer may have together.
    pub context: u32,
    /// Requests that are answered side by side.
    pub parallel: u16,
    /// The name under which owners' own engines serve it; `weights` is then [`WeightsId::of_endpoint`] of it.
    #[serde(default)]
    pub endpoint: Option<String>,
}

impl ModelSpec {
    /// Refuses what no engine can serve.
    ///
    /// # Errors
    /// The first field that is wrong.
    pub fn check(&self) -> Result<(), ModelError> {
        check_model_name(&self.name)?;
        within("size in bytes", self.bytes.0, 1, WEIGHTS_MAX.0)?;
        within("context", u64::from(self.context), 64, u64::from(CONTEXT_MAX))?;
        within("parallel", u64::from(self.parallel), 1, u64::from(PARALLEL_MAX))?;
        if self.sources.len() > SOURCES_MAX {
            return Err(ModelError::Sources);
        }
        self.check_parts()?;
        if let Some(endpoint) = &self.endpoint {
            check_model_name(endpoint)?;
            if self.weights != WeightsId::of_endpoint(endpoint) {
                return Err(ModelError::Hash(self.weights.to_string()));
            }
        }
        Ok(())
    }

    /// The file on a hub that it can be had from, and whether that wants a token.
    #[must_use]
    pub fn hub(&self) -> Option<(&HubFile, bool)> {
        self.sources.iter().find_map(|source| match source {
            ModelSource::Hub { file, private } => Some((file, *private)),
            ModelSource::Container(_) => None,
        })
    }
}

/// Whether a text can name a model.
///
/// # Errors
/// What a name may hold.
pub fn check_model_name(name: &str) -> Result<(), ModelError> {
    let good = |b: u8| b.is_ascii_alphanumeric() || b"._-/:".contains(&b);
    let first = name.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric());
    if !first || name.len() > MODEL_NAME_LEN_MAX || !name.bytes().all(good) {
        return Err(ModelError::Name(name.chars().take(MODEL_NAME_LEN_MAX).collect()));
    }
    Ok(())
}

fn within(field: &'static str, got: u64, min: u64, max: u64) -> Result<(), ModelError> {
    if got < min || got > max { Err(ModelError::OutOfBounds { field, got, min, max }) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::{TokenAmount, UsdMicro};

    #[test]
    fn names_and_hashes_are_bounded() {
        for good in ["qwen3-0.6b", "Qwen/Qwen3-0.6B", "a", "m:latest"] {
            assert_eq!(check_model_name(good), Ok(()), "{good}");
        }
        for wrong in ["", "-a", "a b", "ä", "../x", &"x".repeat(129)] {
            assert!(check_model_name(wrong).is_err(), "{wrong:?}");
        }
        let id = WeightsId([0xab; 32]);
        assert_eq!(id.to_string().parse(), Ok(id));
        assert!("abc".parse::<WeightsId>().is_err() && "g".repeat(64).parse::<WeightsId>().is_err());
        assert_ne!(id.warm_id(), WeightsId([0xac; 32]).warm_id());
    }

    #[test]
    fn deposits_pay_for_what_is_named() {
        let demand = ModelDemand {
            weights: WeightsId([1; 32]),
            bytes: Bytes(1),
            endpoint: false,
            price_max: None,
            deposit_tokens: 1_000_000,
            credit_tokens: 500_000,
        };
        let ask = TokenAsk { input: UsdMicro(1_000_000), cached: UsdMicro(0), output: UsdMicro(2_000_000) };
        let exchange = crate::pricing::Exchange { token_price: UsdMicro(1_000_000) };
        let rates = TokenRates::freeze(&ask, &exchange).unwrap();
        assert_eq!(demand.deposit(&rates), TokenAmount(3 * TokenAmount::ONE.0));
        assert_eq!(demand.credit(&rates), TokenAmount(3 * TokenAmount::ONE.0 / 2));
        assert!(demand.check().is_ok());
        assert!(ModelDemand { credit_tokens: 1_000_001, ..demand }.check().is_err());
    }
}
