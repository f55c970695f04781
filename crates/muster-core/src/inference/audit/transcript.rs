//! What a Container commits to with an answer, and what is asked of another one to check it.

use core::fmt;

use serde::{Deserialize, Serialize};

use super::compare::Row;
use crate::inference::{Chat, Completion, InferenceRequest, InferenceTask, RequestError, Sampling, WeightsId};

/// Of how many of the likeliest tokens log-probabilities are committed.
pub const LIKELY: usize = 5;
/// Tokens of a transcript at most: what an answer has beyond is not committed.
pub const TRANSCRIPT_TOKENS_MAX: usize = 16_384;

macro_rules! hash {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub struct $name(pub [u8; 32]);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({self})", stringify!($name))
            }
        }
    };
}

hash!(
    /// Names a [`Transcript`]: its BLAKE3.
    Commitment
);
hash!(
    /// The BLAKE3 of a prompt's tokens.
    PromptHash
);

/// What a Container's signature over a commitment is for.
pub const COMMITMENT_CONTEXT: &str = "muster answer commitment v1";

impl Commitment {
    /// What a Container signs: that it drew this answer with these weights, on this engine as it describes it.
    #[must_use]
    pub fn signed(&self, weights: WeightsId, engine: &str) -> Vec<u8> {
        [&weights.0, &self.0, engine.as_bytes()].concat()
    }
}

impl PromptHash {
    /// Of these tokens.
    #[must_use]
    pub fn of(tokens: &[u32]) -> Self {
        let mut hasher = blake3::Hasher::new_derive_key("muster prompt v1");
        tokens.iter().for_each(|token| {
            hasher.update(&token.to_le_bytes());
        });
        Self(*hasher.finalize().as_bytes())
    }
}

/// A token that was likely at some position.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Likely {
    /// Its number; [`Likely::NONE`]'s where the vocabulary has no more.
    pub id: u32,
    /// How much less than sure it was: its log-probability by the model alone, times -1,000.
    pub millinats: u16,
}

impl Likely {
    /// No token.
    pub const NONE: Self = Self { id: u32::MAX, millinats: u16::MAX };

    /// A token with its log-probability.
    #[must_use]
    pub fn new(id: u32, logprob: f32) -> Self {
        Self { id, millinats: millinats(-f64::from(logprob)) }
    }
}

/// So many thousandths, from 0 to 65,534.
#[must_use]
pub(super) fn millinats(nats: f64) -> u16 {
    // Bounded on this line; what is no number becomes 0.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "from 0 to 65,534")]
    let whole = (nats * 1_000.0).round().clamp(0.0, 65_534.0) as u16;
    whole
}

/// A token of an answer, and what was likely in its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claimed {
    /// The token.
    pub id: u32,
    /// What was likely, the likeliest first.
    pub likely: [Likely; LIKELY],
}

/// An answer as it was drawn.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Transcript {
    /// The seed it was drawn with.
    pub seed: u64,
    /// Which of the request's answers.
    pub choice: u32,
    /// Its prompt.
    pub prompt: PromptHash,
    /// Tokens of its prompt.
    pub prompt_tokens: u32,
    /// Its tokens, with the one that ended it.
    pub tokens: Vec<Claimed>,
}

impl Transcript {
    /// What a Container says of it before anybody asks. The hash is over its one form, that between nodes.
    #[must_use]
    pub fn commitment(&self) -> Commitment {
        let mut hasher = blake3::Hasher::new_derive_key("muster transcript v1");
        hasher.update(&self.seed.to_le_bytes());
        hasher.update(&self.choice.to_le_bytes());
        hasher.update(&self.prompt.0);
        hasher.update(&self.prompt_tokens.to_le_bytes());
        for token in &self.tokens {
            hasher.update(&token.id.to_le_bytes());
            for likely in &token.likely {
                hasher.update(&likely.id.to_le_bytes());
                hasher.update(&likely.millinats.to_le_bytes());
            }
        }
        Commitment(*hasher.finalize().as_bytes())
    }
}

/// What a replayed answer was an answer to.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Replayable {
    /// A conversation.
    Chat(Box<Chat>),
    /// A text.
    Completion(Box<Completion>),
}

impl Replayable {
    /// How its tokens are drawn.
    #[must_use]
    pub fn sampling(&self) -> &Sampling {
        match self {
            Self::Chat(chat) => &chat.sampling,
            Self::Completion(completion) => &completion.sampling,
        }
    }

    /// The request that it is.
    #[must_use]
    pub fn request(&self, stream: bool) -> InferenceRequest {
        let task = match self {
            Self::Chat(chat) => InferenceTask::Chat(chat.clone()),
            Self::Completion(completion) => InferenceTask::Completion(completion.clone()),
        };
        InferenceRequest { task, stream }
    }
}

/// An answer that somebody gave, to be drawn again by whoever has the same weights.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Replay {
    /// To what; with a seed.
    pub to: Replayable,
    /// Which of the request's answers.
    pub choice: u32,
    /// The answer.
    pub tokens: Vec<u32>,
}

impl Replay {
    /// Refuses what cannot be replayed.
    ///
    /// # Errors
    /// The first field that is wrong.
    pub fn check(&self) -> Result<(), RequestError> {
        let answers = match &self.to {
            Replayable::Chat(chat) => {
                chat.check()?;
                usize::from(chat.sampling.n)
            }
            Replayable::Completion(completion) => {
                completion.check()?;
                completion.prompts.len().saturating_mul(usize::from(completion.sampling.n))
            }
        };
        if self.to.sampling().seed.is_none() {
            return Err(RequestError::new("seed", "an answer without a seed cannot be replayed; name the one it has"));
        }
        if usize::try_from(self.choice).is_ok_and(|choice| choice < answers) {
            let (got, max) = (self.tokens.len(), TRANSCRIPT_TOKENS_MAX);
            if (1..=max).contains(&got) {
                return Ok(());
            }
            return Err(RequestError::new(
                "tokens",
                format!("{got} tokens to be replayed; it must be from 1 to {max}"),
            ));
        }
        let why = format!("the answer {} is to be replayed, and the request has {answers}, from 0", self.choice);
        Err(RequestError::new("choice", why))
    }
}

/// What a replay came to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Replayed {
    /// The prompt, as the one who replayed made it.
    pub prompt: PromptHash,
    /// Its tokens.
    pub prompt_tokens: u32,
    /// For each token of the answer.
    pub rows: Vec<Row>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inference::{Prompt, ResponseFormat};
    use proptest::prelude::*;

    fn transcript(ids: &[u32]) -> Transcript {
        let tokens = ids.iter().map(|id| Claimed { id: *id, likely: [Likely::new(*id, -0.25); LIKELY] }).collect();
        Transcript { seed: 1, choice: 0, prompt: PromptHash::of(&[1, 2]), prompt_tokens: 2, tokens }
    }

    #[test]
    fn log_probabilities_in_thousandths() {
        assert_eq!(Likely::new(1, -0.693_4), Likely { id: 1, millinats: 693 });
        assert_eq!(Likely::new(1, 0.0).millinats, 0);
        assert_eq!((Likely::new(1, -9_999.0).millinats, Likely::new(1, f32::NAN).millinats), (65_534, 0));
    }

    #[test]
    fn what_cannot_be_replayed_is_refused() {
        let completion = |seed, tokens: &[u32], choice| {
            let sampling = Sampling { seed, n: 2, ..Sampling::default() };
            let (prompts, format) = (vec![Prompt::Tokens(vec![1])], ResponseFormat::Text);
            let completion = Completion { prompts, echo: false, suffix: None, format, sampling };
            Replay { to: Replayable::Completion(Box::new(completion)), choice, tokens: tokens.to_vec() }.check()
        };
        assert_eq!(completion(Some(1), &[1], 1), Ok(()));
        let param = |result: Result<(), RequestError>| result.unwrap_err().param;
        assert_eq!(param(completion(None, &[1], 0)), "seed");
        assert_eq!(param(completion(Some(1), &[1], 2)), "choice");
        assert_eq!(param(completion(Some(1), &[], 0)), "tokens");
        assert_eq!(param(completion(Some(1), &[0; TRANSCRIPT_TOKENS_MAX + 1], 0)), "tokens");
    }

    proptest! {
        #[test]
        fn each_change_changes_the_commitment(ids in prop::collection::vec(0u32..9, 1..9), at: usize, which in 0u8..7) {
            let before = transcript(&ids);
            let mut after = before.clone();
            let at = at % ids.len();
            match which {
                0 => after.seed += 1,
                1 => after.choice += 1,
                2 => after.prompt = PromptHash::of(&[1]),
                3 => after.prompt_tokens += 1,
                4 => after.tokens[at].id += 1,
                5 => after.tokens[at].likely[at % LIKELY].millinats += 1,
                _ => after.tokens.truncate(ids.len() - 1),
            }
            prop_assert_ne!(before.commitment(), after.commitment());
            prop_assert_eq!(before.commitment(), transcript(&ids).commitment());
        }
    }
}
