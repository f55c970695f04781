//! Completions of texts, and embeddings.

use base64::Engine as _;
use muster_core::inference::{InferenceEvent, TokenCounts, TokenLogprob};

use super::{About, Choice, escape, float, head, number, quote, token, usage};

/// Writes the chunks of a stream.
#[derive(Debug)]
pub(crate) struct Stream {
    head: Vec<u8>,
    tail: &'static [u8],
    include_usage: bool,
    logprobs: bool,
    /// Characters that came before, of each choice.
    offsets: Vec<u64>,
}

impl Stream {
    pub(super) fn new(about: &About, choices: usize, include_usage: bool, logprobs: bool) -> Self {
        let mut start = b"data: ".to_vec();
        head(about, "cmpl-", "text_completion", &mut start);
        start.extend_from_slice(b"\"choices\":[");
        let tail: &[u8] = if include_usage { b"}],\"usage\":null}\n\n" } else { b"}]}\n\n" };
        Self { head: start, tail, include_usage, logprobs, offsets: vec![0; choices] }
    }

    fn piece(&mut self, choice: u32, text: &str, logprobs: &[TokenLogprob], finish: Option<&str>, to: &mut Vec<u8>) {
        let Some(offset) = usize::try_from(choice).ok().and_then(|at| self.offsets.get_mut(at)) else { return };
        to.extend_from_slice(&self.head);
        to.extend_from_slice(b"{\"index\":");
        number(to, u64::from(choice));
        to.extend_from_slice(b",\"text\":\"");
        escape(to, text);
        to.extend_from_slice(b"\",\"logprobs\":");
        text_logprobs(self.logprobs && !logprobs.is_empty(), logprobs, *offset, to);
        *offset = offset.saturating_add(characters(text));
        to.extend_from_slice(b",\"finish_reason\":");
        match finish {
            Some(word) => quote(to, word),
            None => to.extend_from_slice(b"null"),
        }
        to.extend_from_slice(self.tail);
    }

    pub(super) fn event(&mut self, event: &InferenceEvent, to: &mut Vec<u8>) {
        match event {
            InferenceEvent::Text { choice, text, logprobs, .. } if !text.is_empty() || !logprobs.is_empty() => {
                self.piece(*choice, text, logprobs, None, to);
            }
            InferenceEvent::Finished { choice, finish } => self.piece(*choice, "", &[], Some(finish.word()), to),
            InferenceEvent::Text { .. }
            | InferenceEvent::ToolCall { .. }
            | InferenceEvent::Began { .. }
            | InferenceEvent::Embedding { .. }
            | InferenceEvent::Done { .. }
            | InferenceEvent::Failed { .. }
            | InferenceEvent::Committed { .. }
            | InferenceEvent::Transcript(_)
            | InferenceEvent::Replayed(_) => {}
        }
    }

    pub(super) fn done(&mut self, counts: TokenCounts, to: &mut Vec<u8>) {
        if self.include_usage {
            to.extend_from_slice(&self.head);
            to.extend_from_slice(b"],\"usage\":");
            usage(counts, to);
            to.extend_from_slice(b"}\n\n");
        }
        to.extend_from_slice(b"data: [DONE]\n\n");
    }
}

fn characters(text: &str) -> u64 {
    u64::try_from(text.chars().count()).unwrap_or(u64::MAX)
}

fn listed<T>(items: impl Iterator<Item = T>, to: &mut Vec<u8>, mut write: impl FnMut(T, &mut Vec<u8>)) {
    to.push(b'[');
    for (at, item) in items.enumerate() {
        if at > 0 {
            to.push(b',');
        }
        write(item, to);
    }
    to.push(b']');
}

/// `{"tokens":[…],"token_logprobs":[…],"top_logprobs":[…],"text_offset":[…]}`, or null.
fn text_logprobs(wanted: bool, logprobs: &[TokenLogprob], offset: u64, to: &mut Vec<u8>) {
    if !wanted {
        to.extend_from_slice(b"null");
        return;
    }
    to.extend_from_slice(b"{\"tokens\":");
    listed(logprobs.iter(), to, |one, to| token(&one.bytes, to));
    to.extend_from_slice(b",\"token_logprobs\":");
    listed(logprobs.iter(), to, |one, to| float(to, one.logprob));
    to.extend_from_slice(b",\"top_logprobs\":");
    listed(logprobs.iter(), to, |one, to| {
        to.push(b'{');
        for (at, (_, bytes, logprob)) in one.top.iter().enumerate() {
            if at > 0 {
                to.push(b',');
            }
            token(bytes, to);
            to.push(b':');
            float(to, *logprob);
        }
        to.push(b'}');
    });
    to.extend_from_slice(b",\"text_offset\":");
    let mut offset = offset;
    listed(logprobs.iter(), to, |one, to| {
        number(to, offset);
        offset = offset.saturating_add(characters(&String::from_utf8_lossy(&one.bytes)));
    });
    to.push(b'}');
}

/// A whole answer.
pub(super) fn whole(about: &About, choices: &[Choice], counts: TokenCounts, logprobs: bool, to: &mut Vec<u8>) {
    head(about, "cmpl-", "text_completion", to);
    to.extend_from_slice(b"\"choices\":");
    listed(choices.iter().enumerate(), to, |(at, choice), to| {
        to.extend_from_slice(b"{\"index\":");
        number(to, u64::try_from(at).unwrap_or(0));
        to.extend_from_slice(b",\"text\":");
        quote(to, &choice.text);
        to.extend_from_slice(b",\"logprobs\":");
        text_logprobs(logprobs, &choice.logprobs, 0, to);
        to.extend_from_slice(b",\"finish_reason\":");
        quote(to, choice.finish.map_or("stop", |finish| finish.word()));
        to.push(b'}');
    });
    to.extend_from_slice(b",\"usage\":");
    usage(counts, to);
    to.push(b'}');
}

/// Vectors: as numbers, or as the base64 of 32 bit floats, little end first.
pub(super) fn embeddings(about: &About, vectors: &[Vec<f32>], counts: TokenCounts, base64: bool, to: &mut Vec<u8>) {
    to.extend_from_slice(b"{\"object\":\"list\",\"data\":");
    listed(vectors.iter().enumerate(), to, |(at, vector), to| {
        to.extend_from_slice(b"{\"object\":\"embedding\",\"index\":");
        number(to, u64::try_from(at).unwrap_or(0));
        to.extend_from_slice(b",\"embedding\":");
        if base64 {
            let bytes: Vec<u8> = vector.iter().flat_map(|number| number.to_le_bytes()).collect();
            to.push(b'"');
            to.extend_from_slice(base64::engine::general_purpose::STANDARD.encode(bytes).as_bytes());
            to.push(b'"');
        } else {
            listed(vector.iter(), to, |number, to| float(to, *number));
        }
        to.push(b'}');
    });
    to.extend_from_slice(b",\"model\":");
    quote(to, &about.model);
    to.extend_from_slice(b",\"usage\":{\"prompt_tokens\":");
    number(to, counts.input);
    to.extend_from_slice(b",\"total_tokens\":");
    number(to, counts.total());
    to.extend_from_slice(b"}}");
}
