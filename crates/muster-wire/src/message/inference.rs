//! A model's own streams, from a consumer to the Container of its lease: one for each request, and one to watch.
//!
//! A stream opens with [`InferenceOpen`]. For a request, the Container answers with frames of events, of which `Done` or
//! `Failed` is the last; the consumer may say [`ToInference::Cancel`]. A stream that breaks cancels the request as well;
//! what it counted is then known from the lease. Who watches is told how far the model is, until it is ready or over; a
//! token for the hub is given on a stream of its own.

use muster_core::ids::LeaseId;
use muster_core::inference::audit::TRANSCRIPT_TOKENS_MAX;
use muster_core::inference::{InferenceEvent, InferenceRequest, TEXT_LEN_MAX, TokenLogprob, WeightsId};
use serde::{Deserialize, Serialize};

use super::session::Sentence;
use crate::{BoundedVec, WireError, WireMessage};

/// Events of one frame.
pub const EVENTS_MAX: usize = 256;
/// Bytes of a sealed token.
pub const SEALED_LEN_MAX: usize = 1_024;
/// Bytes of a frame of events; the longest embedding fits.
pub const EVENTS_LEN_MAX: usize = 1024 * 1024;

/// The first frame: of which lease, and what is wanted.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum InferenceOpen {
    /// An answer.
    Ask {
        /// Of which lease.
        lease: LeaseId,
        /// To what.
        request: Box<InferenceRequest>,
    },
    /// To know whether these weights are there already, before they are sent.
    Has {
        /// Of which lease.
        lease: LeaseId,
        /// Which.
        weights: WeightsId,
    },
    /// To know how far the model is.
    Watch {
        /// Of which lease.
        lease: LeaseId,
    },
    /// To give the token that the model's weights need, sealed to the Container by whoever has it.
    Token {
        /// Of which lease.
        lease: LeaseId,
        /// The token, as nobody but the Container reads it.
        sealed: BoundedVec<u8, SEALED_LEN_MAX>,
    },
}

/// Consumer to Container.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToInference {
    /// No more is wanted: say what it counts.
    Cancel,
}

/// Container to consumer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum FromInference {
    /// What has come since the last frame, in order.
    Events(BoundedVec<InferenceEvent, EVENTS_MAX>),
    /// Whether the weights are there.
    Has(bool),
    /// The model does not answer yet: what is being done for it.
    Preparing {
        /// What, and how far it is.
        what: Sentence,
    },
    /// It answers.
    Ready(ModelReady),
    /// It is over, or never will be ready.
    Over {
        /// Why.
        why: Sentence,
    },
    /// The weights need a token, and nobody has given one yet: [`InferenceOpen::Token`].
    TokenWanted {
        /// For what.
        what: Sentence,
    },
    /// Whether a token could be opened and is used.
    TokenTaken {
        /// Why it is not.
        why_not: Option<Sentence>,
    },
}

/// What a Container says of a model that answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelReady {
    /// Tokens that prompt and answer may have together.
    pub context: u32,
    /// Requests that are answered side by side.
    pub parallel: u32,
    /// Requests that may wait for a place.
    pub queue: u32,
    /// Conversations.
    pub chat: bool,
    /// Going on with a text.
    pub completion: bool,
    /// Places in the space of meanings.
    pub embedding: bool,
    /// Calling tools.
    pub tools: bool,
    /// Looking at pictures.
    pub vision: bool,
    /// Numbers of an embedding.
    pub dimensions: u32,
    /// What runs it, for people.
    pub engine: Sentence,
}

impl WireMessage for InferenceOpen {
    // Beside the text: names, numbers, biases, and what separates them.
    const MAX_LEN: usize = TEXT_LEN_MAX + 512 * 1024;
    fn check(&self) -> Result<(), WireError> {
        match self {
            Self::Ask { request, .. } => {
                request.check().map_err(|_| WireError::field("request", "no request that any engine can answer"))
            }
            Self::Has { .. } | Self::Watch { .. } | Self::Token { .. } => Ok(()),
        }
    }
}

impl WireMessage for ToInference {
    const MAX_LEN: usize = 8;
    fn check(&self) -> Result<(), WireError> {
        Ok(())
    }
}

impl WireMessage for FromInference {
    const MAX_LEN: usize = EVENTS_LEN_MAX;
    fn check(&self) -> Result<(), WireError> {
        let logprob = |l: &TokenLogprob| !l.logprob.is_nan() && l.top.iter().all(|(_, _, x)| !x.is_nan());
        let finite = |event: &InferenceEvent| match event {
            InferenceEvent::Embedding { vector, .. } => vector.iter().all(|x| x.is_finite()),
            InferenceEvent::Text { logprobs, .. } => logprobs.iter().all(logprob),
            _ => true,
        };
        let long = |event: &InferenceEvent| match event {
            InferenceEvent::Transcript(transcript) => transcript.tokens.len() > TRANSCRIPT_TOKENS_MAX,
            InferenceEvent::Replayed(replayed) => replayed.rows.len() > TRANSCRIPT_TOKENS_MAX,
            _ => false,
        };
        match self {
            Self::Events(events) if events.iter().any(long) => {
                Err(WireError::field("events", "a transcript of more tokens than one may have"))
            }
            Self::Events(events) if !events.iter().all(finite) => {
                Err(WireError::field("events", "a figure is no number"))
            }
            Self::Events(_)
            | Self::Has(_)
            | Self::Preparing { .. }
            | Self::Ready(_)
            | Self::Over { .. }
            | Self::TokenWanted { .. }
            | Self::TokenTaken { .. } => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame;
    use muster_core::inference::audit::{
        Claimed, Commitment, LIKELY, Likely, PromptHash, Replay, Replayable, Replayed, Row, Transcript,
    };
    use muster_core::inference::{
        Chat, Content, Embedding, Finish, InferenceError, InferenceErrorKind, InferenceTask, Message, Part, Prompt,
        Role, TokenCounts, ToolCallPiece,
    };
    use muster_core::protocol::NodeSignature;

    fn chat(text: &str) -> InferenceRequest {
        let content = Content::Text(text.to_owned());
        let message = Message { role: Role::User, content, tool_calls: Vec::new(), tool_call_id: None, name: None };
        let chat = Chat { messages: vec![message], ..Chat::default() };
        InferenceRequest { task: InferenceTask::Chat(Box::new(chat)), stream: true }
    }

    #[test]
    fn requests_come_back_as_they_went() {
        let embedding = Embedding { inputs: vec![Prompt::Tokens(vec![1, 2, 3])], dimensions: None };
        let embedding = InferenceRequest { task: InferenceTask::Embedding(embedding), stream: false };
        let reveal = InferenceRequest { task: InferenceTask::Reveal(Commitment([7; 32])), stream: false };
        let replay = |text: &str, tokens: usize| {
            let InferenceTask::Chat(to) = chat(text).seeded(u64::MAX).task else { panic!("a chat") };
            let replay = Replay { to: Replayable::Chat(to), choice: 0, tokens: vec![u32::MAX; tokens] };
            InferenceRequest { task: InferenceTask::Replay(Box::new(replay)), stream: false }
        };
        let longest = replay(&"x".repeat(TEXT_LEN_MAX), TRANSCRIPT_TOKENS_MAX);
        for request in [chat("Hello."), chat(&"x".repeat(TEXT_LEN_MAX)), embedding, reveal, longest] {
            let open = InferenceOpen::Ask { lease: LeaseId([1; 32]), request: Box::new(request) };
            assert_eq!(frame::decode::<InferenceOpen>(&frame::encode(&open).unwrap()).unwrap(), open);
        }
        let too_long = Box::new(replay("x", TRANSCRIPT_TOKENS_MAX + 1));
        assert!(frame::encode(&InferenceOpen::Ask { lease: LeaseId([1; 32]), request: too_long }).is_err());
        let empty = Embedding { inputs: Vec::new(), dimensions: None };
        let request = InferenceRequest { task: InferenceTask::Embedding(empty), stream: false };
        assert!(frame::encode(&InferenceOpen::Ask { lease: LeaseId([1; 32]), request: Box::new(request) }).is_err());
        let request = Box::new(chat(&"x".repeat(TEXT_LEN_MAX + 1)));
        let long = InferenceOpen::Ask { lease: LeaseId([1; 32]), request };
        assert!(frame::encode(&long).is_err());
    }

    #[test]
    fn events_come_back_as_they_went() {
        let counts = TokenCounts { input: 7, cached: 3, output: u64::MAX };
        let logprob = TokenLogprob { id: 9, bytes: vec![0xf0], logprob: -0.5, top: vec![(9, vec![0xf0], -0.5)] };
        let piece = ToolCallPiece { id: Some("call_1".into()), name: Some("f".into()), ..ToolCallPiece::default() };
        let error = InferenceError::new(InferenceErrorKind::QueueFull { retry_after_ms: 5 }, "full").of("messages");
        let events = vec![
            InferenceEvent::Began { counts },
            InferenceEvent::Text { choice: 0, part: Part::Answer, text: "ä".into(), logprobs: vec![logprob] },
            InferenceEvent::ToolCall { choice: 1, piece },
            InferenceEvent::Finished { choice: 0, finish: Finish::ToolCalls },
            InferenceEvent::Embedding { index: 0, vector: vec![0.25, -1.0] },
            InferenceEvent::Done { counts },
            InferenceEvent::Failed { error, counts },
            InferenceEvent::Committed { choice: 1, commitment: Commitment([9; 32]), signature: None },
            InferenceEvent::Committed {
                choice: 0,
                commitment: Commitment([9; 32]),
                signature: Some(NodeSignature { r: [1; 32], s: [2; 32] }),
            },
        ];
        let message = FromInference::Events(events.try_into().unwrap());
        assert_eq!(frame::decode::<FromInference>(&frame::encode(&message).unwrap()).unwrap(), message);
        // The longest of each: all numbers at their longest.
        let likely = [Likely::NONE; LIKELY];
        let transcript = |count| Transcript {
            seed: u64::MAX,
            choice: u32::MAX,
            prompt: PromptHash([1; 32]),
            prompt_tokens: u32::MAX,
            tokens: vec![Claimed { id: u32::MAX, likely }; count],
        };
        let replayed = |count| {
            let rows = vec![Row { own: u32::MAX, margin: u16::MAX, likely }; count];
            Replayed { prompt: PromptHash([1; 32]), prompt_tokens: u32::MAX, rows }
        };
        for (count, fits) in [(TRANSCRIPT_TOKENS_MAX, true), (TRANSCRIPT_TOKENS_MAX + 1, false)] {
            let transcript = InferenceEvent::Transcript(Box::new(transcript(count)));
            let replayed = InferenceEvent::Replayed(Box::new(replayed(count)));
            for event in [transcript, replayed] {
                let message = FromInference::Events(vec![event].try_into().unwrap());
                let frame = frame::encode(&message);
                assert_eq!(frame.is_ok(), fits);
                assert!(frame.is_err() || frame::decode::<FromInference>(&frame.unwrap()).unwrap() == message);
            }
        }
        let text = |logprob, of_another| {
            let logprobs = vec![TokenLogprob { id: 9, bytes: vec![], logprob, top: vec![(9, vec![], of_another)] }];
            InferenceEvent::Text { choice: 0, part: Part::Answer, text: String::new(), logprobs }
        };
        let embedding = InferenceEvent::Embedding { index: 0, vector: vec![f32::NAN] };
        for no_number in [embedding, text(f32::NAN, -0.5), text(-0.5, f32::NAN)] {
            assert!(frame::encode(&FromInference::Events(vec![no_number].try_into().unwrap())).is_err());
        }
    }
}
