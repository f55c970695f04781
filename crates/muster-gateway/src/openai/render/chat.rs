//! Chat completions.

use muster_core::inference::{InferenceEvent, Part, TokenCounts, TokenLogprob, ToolCallPiece};

use super::{About, Choice, escape, head, number, quote, token_logprob, usage};

/// Writes the chunks of a stream.
#[derive(Debug)]
pub(crate) struct Stream {
    /// What a chunk begins with: up to the number of its choice.
    head: Vec<u8>,
    /// What it ends with, behind its choices.
    tail: &'static [u8],
    include_usage: bool,
    logprobs: bool,
    /// Which choices have said whose role theirs is.
    begun: Vec<bool>,
}

impl Stream {
    pub(super) fn new(about: &About, choices: usize, include_usage: bool, logprobs: bool) -> Self {
        let mut start = b"data: ".to_vec();
        head(about, "chatcmpl-", "chat.completion.chunk", &mut start);
        start.extend_from_slice(b"\"choices\":[");
        let tail: &[u8] = if include_usage { b"],\"usage\":null}\n\n" } else { b"]}\n\n" };
        Self { head: start, tail, include_usage, logprobs, begun: vec![false; choices] }
    }

    /// `{"index":…,"delta":{`, with the role where it is the choice's first; `false` for a choice that was not asked for.
    fn open(&mut self, choice: u32, to: &mut Vec<u8>) -> Option<bool> {
        let begun = self.begun.get_mut(usize::try_from(choice).ok()?)?;
        let first = !std::mem::replace(begun, true);
        to.extend_from_slice(&self.head);
        to.extend_from_slice(b"{\"index\":");
        number(to, u64::from(choice));
        to.extend_from_slice(b",\"delta\":{");
        if first {
            to.extend_from_slice(b"\"role\":\"assistant\"");
        }
        Some(first)
    }

    fn close(&self, logprobs: &[TokenLogprob], finish: Option<&str>, to: &mut Vec<u8>) {
        to.extend_from_slice(b"},\"logprobs\":");
        content_logprobs(self.logprobs && !logprobs.is_empty(), logprobs, to);
        to.extend_from_slice(b",\"finish_reason\":");
        match finish {
            Some(word) => quote(to, word),
            None => to.extend_from_slice(b"null"),
        }
        to.push(b'}');
        to.extend_from_slice(self.tail);
    }

    pub(super) fn event(&mut self, event: &InferenceEvent, to: &mut Vec<u8>) {
        match event {
            InferenceEvent::Text { choice, part, text, logprobs } => {
                if text.is_empty() && logprobs.is_empty() {
                    return;
                }
                let Some(first) = self.open(*choice, to) else { return };
                if first {
                    to.push(b',');
                }
                let name: &[u8] = match part {
                    Part::Answer => b"\"content\":\"",
                    Part::Reasoning => b"\"reasoning_content\":\"",
                };
                to.extend_from_slice(name);
                escape(to, text);
                to.push(b'"');
                self.close(logprobs, None, to);
            }
            InferenceEvent::ToolCall { choice, piece } => {
                let Some(first) = self.open(*choice, to) else { return };
                to.extend_from_slice(if first { b",\"content\":null,\"tool_calls\":[" } else { b"\"tool_calls\":[" });
                call_piece(piece, to);
                to.push(b']');
                self.close(&[], None, to);
            }
            InferenceEvent::Finished { choice, finish } => {
                let Some(first) = self.open(*choice, to) else { return };
                if first {
                    to.extend_from_slice(b",\"content\":\"\"");
                }
                self.close(&[], Some(finish.word()), to);
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

fn call_piece(piece: &ToolCallPiece, to: &mut Vec<u8>) {
    to.extend_from_slice(b"{\"index\":");
    number(to, u64::from(piece.index));
    if let Some(id) = &piece.id {
        to.extend_from_slice(b",\"id\":");
        quote(to, id);
        to.extend_from_slice(b",\"type\":\"function\"");
    }
    to.extend_from_slice(b",\"function\":{");
    if let Some(name) = &piece.name {
        to.extend_from_slice(b"\"name\":");
        quote(to, name);
        to.push(b',');
    }
    to.extend_from_slice(b"\"arguments\":");
    quote(to, &piece.arguments);
    to.extend_from_slice(b"}}");
}

/// `{"content":[…],"refusal":null}`, or null.
fn content_logprobs(wanted: bool, logprobs: &[TokenLogprob], to: &mut Vec<u8>) {
    if !wanted {
        to.extend_from_slice(b"null");
        return;
    }
    to.extend_from_slice(b"{\"content\":[");
    for (at, one) in logprobs.iter().enumerate() {
        if at > 0 {
            to.push(b',');
        }
        token_logprob(&one.bytes, one.logprob, to);
        to.extend_from_slice(b",\"top_logprobs\":[");
        for (at, (_, bytes, logprob)) in one.top.iter().enumerate() {
            if at > 0 {
                to.push(b',');
            }
            token_logprob(bytes, *logprob, to);
            to.push(b'}');
        }
        to.extend_from_slice(b"]}");
    }
    to.extend_from_slice(b"],\"refusal\":null}");
}

/// A whole answer.
pub(super) fn whole(about: &About, choices: &[Choice], counts: TokenCounts, logprobs: bool, to: &mut Vec<u8>) {
    head(about, "chatcmpl-", "chat.completion", to);
    to.extend_from_slice(b"\"choices\":[");
    for (at, choice) in choices.iter().enumerate() {
        if at > 0 {
            to.push(b',');
        }
        to.extend_from_slice(b"{\"index\":");
        number(to, u64::try_from(at).unwrap_or(0));
        to.extend_from_slice(b",\"message\":{\"role\":\"assistant\",\"content\":");
        if choice.text.is_empty() && !choice.calls.is_empty() {
            to.extend_from_slice(b"null");
        } else {
            quote(to, &choice.text);
        }
        to.extend_from_slice(b",\"refusal\":null");
        if !choice.reasoning.is_empty() {
            to.extend_from_slice(b",\"reasoning_content\":");
            quote(to, &choice.reasoning);
        }
        if !choice.calls.is_empty() {
            to.extend_from_slice(b",\"tool_calls\":[");
            for (at, call) in choice.calls.iter().enumerate() {
                to.extend_from_slice(if at > 0 { b",{\"id\":" } else { b"{\"id\":" });
                quote(to, &call.id);
                to.extend_from_slice(b",\"type\":\"function\",\"function\":{\"name\":");
                quote(to, &call.name);
                to.extend_from_slice(b",\"arguments\":");
                quote(to, &call.arguments);
                to.extend_from_slice(b"}}");
            }
            to.push(b']');
        }
        to.extend_from_slice(b"},\"logprobs\":");
        content_logprobs(logprobs, &choice.logprobs, to);
        to.extend_from_slice(b",\"finish_reason\":");
        quote(to, choice.finish.map_or("stop", |finish| finish.word()));
        to.push(b'}');
    }
    to.extend_from_slice(b"],\"usage\":");
    usage(counts, to);
    to.push(b'}');
}
