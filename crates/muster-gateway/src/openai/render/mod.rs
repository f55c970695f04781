//! Events become OpenAI's JSON, here and nowhere else.
//!
//! What all pieces of a stream have in common is written once; for each piece only its text is escaped, into a buffer
//! that is used again. No JSON is built before it is written.

mod chat;
mod native;
mod responses;
mod text;

use muster_core::inference::{Finish, InferenceEvent, Part, TokenCounts, TokenLogprob};

use super::error::ApiError;
use super::json::{escape, float, number, quote};
use super::parse::Form;

/// What every piece of an answer says.
#[derive(Clone, Debug)]
pub(crate) struct About {
    /// Without what it begins with.
    pub(crate) id: String,
    pub(crate) model: String,
    pub(crate) created_s: u64,
}

/// Writes a stream.
#[derive(Debug)]
pub(crate) enum Writer {
    Chat(chat::Stream),
    Text(text::Stream),
    Responses(Box<responses::Stream>),
    Native,
}

impl Writer {
    /// Of an answer with so many choices. Embeddings are not streamed.
    pub(crate) fn new(form: &Form, about: &About, choices: usize, include_usage: bool) -> Self {
        match form {
            Form::Chat { logprobs } => Self::Chat(chat::Stream::new(about, choices, include_usage, *logprobs)),
            Form::Text { logprobs } => Self::Text(text::Stream::new(about, choices, include_usage, *logprobs)),
            Form::Embedding { .. } => Self::Text(text::Stream::new(about, 0, include_usage, false)),
            Form::Responses { repeated } => Self::Responses(Box::new(responses::Stream::new(about, repeated))),
            Form::Native => Self::Native,
        }
    }

    /// What it writes, as a head says it.
    pub(crate) const fn content_type(&self) -> &'static str {
        match self {
            Self::Chat(_) | Self::Text(_) | Self::Responses(_) => "text/event-stream; charset=utf-8",
            Self::Native => "application/x-ndjson",
        }
    }

    /// A piece.
    pub(crate) fn event(&mut self, event: &InferenceEvent, to: &mut Vec<u8>) {
        match self {
            Self::Chat(stream) => stream.event(event, to),
            Self::Text(stream) => stream.event(event, to),
            Self::Responses(stream) => stream.event(event, to),
            Self::Native => native::event(event, to),
        }
    }

    /// The end.
    pub(crate) fn done(&mut self, counts: TokenCounts, to: &mut Vec<u8>) {
        match self {
            Self::Chat(stream) => stream.done(counts, to),
            Self::Text(stream) => stream.done(counts, to),
            Self::Responses(stream) => stream.done(counts, to),
            Self::Native => native::event(&InferenceEvent::Done { counts }, to),
        }
    }

    /// The end, where it failed after it had begun.
    pub(crate) fn failed(&mut self, error: &ApiError, to: &mut Vec<u8>) {
        match self {
            Self::Chat(_) | Self::Text(_) => {
                to.extend_from_slice(b"data: ");
                error.write(to);
                to.extend_from_slice(b"\n\n");
            }
            Self::Responses(stream) => stream.failed(error, to),
            Self::Native => {
                error.write(to);
                to.push(b'\n');
            }
        }
    }
}

/// An answer that is given as a whole.
#[derive(Debug)]
pub(crate) struct Whole {
    gathered: Gathered,
}

#[derive(Debug)]
enum Gathered {
    Choices { choices: Vec<Choice>, chat: bool, logprobs: bool },
    Vectors { vectors: Vec<Vec<f32>>, base64: bool },
    Responses(Box<responses::Stream>, Vec<u8>),
}

/// One answer of several.
#[derive(Debug, Default)]
struct Choice {
    text: String,
    reasoning: String,
    calls: Vec<Call>,
    logprobs: Vec<TokenLogprob>,
    finish: Option<Finish>,
}

/// A call of a tool, put together.
#[derive(Debug, Default)]
struct Call {
    id: String,
    name: String,
    arguments: String,
}

/// Calls of one answer, at most; what an engine says beyond is left out.
const CALLS_MAX: usize = 128;

impl Whole {
    /// Of an answer with so many choices, or vectors.
    pub(crate) fn new(form: &Form, about: &About, choices: usize) -> Self {
        let of = |chat, logprobs| Gathered::Choices {
            choices: std::iter::repeat_with(Choice::default).take(choices).collect(),
            chat,
            logprobs,
        };
        let gathered = match form {
            Form::Chat { logprobs } => of(true, *logprobs),
            Form::Text { logprobs } => of(false, *logprobs),
            // Always given as it comes.
            Form::Native => of(false, false),
            Form::Embedding { base64 } => Gathered::Vectors { vectors: vec![Vec::new(); choices], base64: *base64 },
            Form::Responses { repeated } => {
                Gathered::Responses(Box::new(responses::Stream::new(about, repeated)), Vec::new())
            }
        };
        Self { gathered }
    }

    /// Takes a piece in.
    pub(crate) fn event(&mut self, event: InferenceEvent) {
        match &mut self.gathered {
            Gathered::Choices { choices, .. } => gather(choices, event),
            Gathered::Vectors { vectors, .. } => {
                if let InferenceEvent::Embedding { index, vector } = event
                    && let Some(place) = usize::try_from(index).ok().and_then(|index| vectors.get_mut(index))
                {
                    *place = vector;
                }
            }
            Gathered::Responses(stream, aside) => {
                aside.clear();
                stream.event(&event, aside);
            }
        }
    }

    /// Writes the answer.
    pub(crate) fn write(mut self, about: &About, counts: TokenCounts, to: &mut Vec<u8>) {
        match &mut self.gathered {
            Gathered::Choices { choices, chat: true, logprobs } => chat::whole(about, choices, counts, *logprobs, to),
            Gathered::Choices { choices, chat: false, logprobs } => text::whole(about, choices, counts, *logprobs, to),
            Gathered::Vectors { vectors, base64 } => text::embeddings(about, vectors, counts, *base64, to),
            Gathered::Responses(stream, aside) => {
                stream.close(aside);
                stream.object(counts, to);
            }
        }
    }
}

fn nth(choices: &mut [Choice], choice: u32) -> Option<&mut Choice> {
    usize::try_from(choice).ok().and_then(|choice| choices.get_mut(choice))
}

fn gather(choices: &mut [Choice], event: InferenceEvent) {
    match event {
        InferenceEvent::Text { choice, part, text, logprobs } => {
            let Some(choice) = nth(choices, choice) else { return };
            let whole = if part == Part::Answer { &mut choice.text } else { &mut choice.reasoning };
            if whole.is_empty() {
                *whole = text;
            } else {
                whole.push_str(&text);
            }
            choice.logprobs.extend(logprobs);
        }
        InferenceEvent::ToolCall { choice, piece } => {
            let Some(choice) = nth(choices, choice) else { return };
            let index = usize::try_from(piece.index).unwrap_or(usize::MAX);
            if index >= CALLS_MAX {
                return;
            }
            if choice.calls.len() <= index {
                choice.calls.resize_with(index + 1, Call::default);
            }
            if let Some(call) = choice.calls.get_mut(index) {
                call.id.push_str(piece.id.as_deref().unwrap_or_default());
                call.name.push_str(piece.name.as_deref().unwrap_or_default());
                call.arguments.push_str(&piece.arguments);
            }
        }
        InferenceEvent::Finished { choice, finish } => {
            if let Some(choice) = nth(choices, choice) {
                choice.finish = Some(finish);
            }
        }
        InferenceEvent::Began { .. }
        | InferenceEvent::Embedding { .. }
        | InferenceEvent::Done { .. }
        | InferenceEvent::Failed { .. }
        | InferenceEvent::Committed { .. }
        | InferenceEvent::Transcript(_)
        | InferenceEvent::Replayed(_) => {}
    }
}

/// `{"prompt_tokens":…}`.
fn usage(counts: TokenCounts, to: &mut Vec<u8>) {
    to.extend_from_slice(b"{\"prompt_tokens\":");
    number(to, counts.input);
    to.extend_from_slice(b",\"completion_tokens\":");
    number(to, counts.output);
    to.extend_from_slice(b",\"total_tokens\":");
    number(to, counts.total());
    to.extend_from_slice(b",\"prompt_tokens_details\":{\"cached_tokens\":");
    number(to, counts.cached);
    to.extend_from_slice(b"}}");
}

/// `"id":…,"object":…,"created":…,"model":…,`, as both kinds of answers begin.
fn head(about: &About, prefix: &str, object: &str, to: &mut Vec<u8>) {
    to.extend_from_slice(b"{\"id\":\"");
    escape(to, prefix);
    escape(to, &about.id);
    to.extend_from_slice(b"\",\"object\":");
    quote(to, object);
    to.extend_from_slice(b",\"created\":");
    number(to, about.created_s);
    to.extend_from_slice(b",\"model\":");
    quote(to, &about.model);
    to.push(b',');
}

/// A token as text; bytes that are no whole character are shown as such.
fn token(bytes: &[u8], to: &mut Vec<u8>) {
    quote(to, &String::from_utf8_lossy(bytes));
}

/// `"token":…,"logprob":…,"bytes":[…]`.
fn token_logprob(bytes: &[u8], logprob: f32, to: &mut Vec<u8>) {
    to.extend_from_slice(b"{\"token\":");
    token(bytes, to);
    to.extend_from_slice(b",\"logprob\":");
    float(to, logprob);
    to.extend_from_slice(b",\"bytes\":[");
    for (at, byte) in bytes.iter().enumerate() {
        if at > 0 {
            to.push(b',');
        }
        number(to, u64::from(*byte));
    }
    to.push(b']');
}
