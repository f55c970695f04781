//! What a model answers.

use core::fmt;

use serde::{Deserialize, Serialize};

use super::TokenCounts;
use super::audit::{Commitment, Replayed, Transcript};
use crate::protocol::NodeSignature;

/// Of how many of the likeliest tokens log-probabilities are told.
pub const TOP_LOGPROBS_MAX: u8 = 20;

/// Which of the answers to one request, from 0.
pub type Choice = u32;

/// A piece of an answer. `Began` comes first where tokens are drawn, `Done` or `Failed` last, each once; nothing comes
/// after it. Whoever takes no more events has cancelled the request; to learn its count, it says so and waits for `Done`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum InferenceEvent {
    /// The request has a place, and its prompt was read.
    Began {
        /// What the prompt counts; `output` is 0.
        counts: TokenCounts,
    },
    /// Some text.
    Text {
        /// Of which answer.
        choice: Choice,
        /// As what.
        part: Part,
        /// It; whole characters.
        text: String,
        /// Of each of its tokens, where that was asked for.
        logprobs: Vec<TokenLogprob>,
    },
    /// Some of a call of a tool.
    ToolCall {
        /// Of which answer.
        choice: Choice,
        /// What.
        piece: ToolCallPiece,
    },
    /// An answer is complete.
    Finished {
        /// Which.
        choice: Choice,
        /// Why.
        finish: Finish,
    },
    /// Where a text lies.
    Embedding {
        /// Which text, from 0.
        index: u32,
        /// Its numbers.
        vector: Vec<f32>,
    },
    /// All is answered, or the request was cancelled: this is what it counts.
    Done {
        /// By the engine's own count, and no other.
        counts: TokenCounts,
    },
    /// It cannot be answered further.
    Failed {
        /// Why.
        error: InferenceError,
        /// What was done before, by the engine's own count.
        counts: TokenCounts,
    },
    /// Comes before an answer's `Finished`, where the engine commits to what it draws.
    Committed {
        /// Which answer.
        choice: Choice,
        /// Names its transcript, which can be asked for.
        commitment: Commitment,
        /// The Container's, over [`Commitment::signed`]; an engine by itself signs nothing.
        signature: Option<NodeSignature>,
    },
    /// What was committed to.
    Transcript(Box<Transcript>),
    /// What a replay came to.
    Replayed(Box<Replayed>),
}

/// What a text is, in an answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Part {
    /// The answer itself.
    #[default]
    Answer,
    /// What the model thinks before it answers.
    Reasoning,
}

/// A token and how likely it was.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TokenLogprob {
    /// Its number in the model's vocabulary.
    pub id: u32,
    /// Its bytes; several tokens may make up one character.
    pub bytes: Vec<u8>,
    /// The natural logarithm of its probability.
    pub logprob: f32,
    /// The likeliest tokens in its place, the likeliest first: number, bytes, log-probability.
    pub top: Vec<(u32, Vec<u8>, f32)>,
}

/// Some of a call of a tool: `id` and `name` with its first piece.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ToolCallPiece {
    /// Which call of this answer, from 0.
    pub index: u32,
    /// Its name in the conversation.
    pub id: Option<String>,
    /// Which tool.
    pub name: Option<String>,
    /// Some more of its arguments.
    pub arguments: String,
}

/// Why an answer is complete.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Finish {
    /// The model is done, or a stop sequence came.
    Stop,
    /// It has as many tokens as were allowed.
    Length,
    /// It calls for tools.
    ToolCalls,
}

impl Finish {
    /// Its word in the OpenAI API.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Stop => "stop",
            Self::Length => "length",
            Self::ToolCalls => "tool_calls",
        }
    }
}

/// Why a request is not answered, or not further.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{why}")]
pub struct InferenceError {
    /// What kind of failure.
    pub kind: InferenceErrorKind,
    /// The request's field that is at fault, as the OpenAI API calls it, where one is.
    pub param: Option<String>,
    /// A sentence: what was wrong, and what to do.
    pub why: String,
}

/// Kinds of failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum InferenceErrorKind {
    /// The request is wrong: it fails everywhere.
    BadRequest,
    /// Prompt and answer do not fit into the model's context; the sentence has the counts.
    ContextOverflow,
    /// The model or this engine cannot do that: pictures, tools, embeddings.
    Unsupported,
    /// All places are taken and the queue is full.
    QueueFull {
        /// When it is worth while to come back.
        retry_after_ms: u64,
    },
    /// The engine broke; it is being started again.
    EngineLost,
    /// The Container does not go on: drained, stopped, unpaid, gone.
    Unavailable,
    /// It took longer than allowed.
    TimedOut,
}

impl InferenceErrorKind {
    /// Whether another replica may do better, as long as nothing of the answer was seen.
    #[must_use]
    pub const fn is_worth_another(self) -> bool {
        matches!(self, Self::QueueFull { .. } | Self::EngineLost | Self::Unavailable)
    }
}

impl InferenceError {
    /// A kind and its sentence.
    #[must_use]
    pub fn new(kind: InferenceErrorKind, why: impl Into<String>) -> Self {
        Self { kind, param: None, why: why.into() }
    }

    /// The same, of a field.
    #[must_use]
    pub fn of(mut self, param: &str) -> Self {
        self.param = Some(param.to_owned());
        self
    }
}

impl fmt::Display for Finish {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}
