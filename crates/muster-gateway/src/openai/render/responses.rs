//! The Responses API: its object, and the events of its stream.

use muster_core::inference::{Finish, InferenceEvent, Part, TokenCounts, ToolCallPiece};

use super::{About, CALLS_MAX, number, quote};
use crate::openai::error::ApiError;
use crate::openai::json::escape;

/// What an answer is made of.
#[derive(Debug)]
struct Item {
    kind: Kind,
    text: String,
    done: bool,
}

#[derive(Debug)]
enum Kind {
    Message,
    Reasoning,
    /// Which call of the answer, its name in the conversation, and the tool.
    Call {
        index: u32,
        call_id: String,
        name: String,
    },
}

/// Writes a stream, or gathers what the object says at its end.
#[derive(Debug)]
pub(crate) struct Stream {
    about: About,
    repeated: String,
    items: Vec<Item>,
    sequence: u64,
    begun: bool,
    cut: bool,
}

impl Stream {
    pub(super) fn new(about: &About, repeated: &str) -> Self {
        let (about, repeated) = (about.clone(), repeated.to_owned());
        Self { about, repeated, items: Vec::new(), sequence: 0, begun: false, cut: false }
    }

    /// `event: …`, and the beginning of its data.
    fn open(&mut self, name: &str, to: &mut Vec<u8>) {
        to.extend_from_slice(b"event: ");
        to.extend_from_slice(name.as_bytes());
        to.extend_from_slice(b"\ndata: {\"type\":\"");
        to.extend_from_slice(name.as_bytes());
        to.extend_from_slice(b"\",\"sequence_number\":");
        number(to, self.sequence);
        self.sequence += 1;
    }

    fn begin(&mut self, to: &mut Vec<u8>) {
        if std::mem::replace(&mut self.begun, true) {
            return;
        }
        for name in ["response.created", "response.in_progress"] {
            self.open(name, to);
            to.extend_from_slice(b",\"response\":");
            self.response("in_progress", None, None, to);
            to.extend_from_slice(b"}\n\n");
        }
    }

    /// An event of an item: `,"item_id":…,"output_index":…`, and where it is a part of it `,"content_index":0`.
    fn of_item(&mut self, name: &str, at: usize, in_part: bool, to: &mut Vec<u8>) {
        self.open(name, to);
        to.extend_from_slice(b",\"item_id\":\"");
        self.item_id(at, to);
        to.extend_from_slice(b"\",\"output_index\":");
        number(to, u64::try_from(at).unwrap_or(0));
        if in_part {
            to.extend_from_slice(b",\"content_index\":0");
        }
    }

    fn item_id(&self, at: usize, to: &mut Vec<u8>) {
        let prefix: &[u8] = match self.items.get(at).map(|item| &item.kind) {
            Some(Kind::Reasoning) => b"rs_",
            Some(Kind::Call { .. }) => b"fc_",
            Some(Kind::Message) | None => b"msg_",
        };
        to.extend_from_slice(prefix);
        escape(to, &self.about.id);
        number(to, u64::try_from(at).unwrap_or(0));
    }

    /// An event that shows an item as it stands.
    fn shows_item(&mut self, name: &str, at: usize, to: &mut Vec<u8>) {
        self.open(name, to);
        to.extend_from_slice(b",\"output_index\":");
        number(to, u64::try_from(at).unwrap_or(0));
        to.extend_from_slice(b",\"item\":");
        self.item(at, to);
        to.extend_from_slice(b"}\n\n");
    }

    fn add(&mut self, kind: Kind, to: &mut Vec<u8>) -> usize {
        let at = self.items.len();
        let part: &[u8] = match kind {
            Kind::Message => b"{\"type\":\"output_text\",\"text\":\"\",\"annotations\":[]}",
            Kind::Reasoning | Kind::Call { .. } => b"",
        };
        self.items.push(Item { kind, text: String::new(), done: false });
        self.shows_item("response.output_item.added", at, to);
        if !part.is_empty() {
            self.of_item("response.content_part.added", at, true, to);
            to.extend_from_slice(b",\"part\":");
            to.extend_from_slice(part);
            to.extend_from_slice(b"}\n\n");
        }
        at
    }

    pub(super) fn event(&mut self, event: &InferenceEvent, to: &mut Vec<u8>) {
        match event {
            InferenceEvent::Text { choice: 0, part, text, .. } => {
                if text.is_empty() {
                    return;
                }
                self.begin(to);
                let at = self.open_text(*part, to);
                let name = match part {
                    Part::Answer => "response.output_text.delta",
                    Part::Reasoning => "response.reasoning_text.delta",
                };
                self.of_item(name, at, true, to);
                to.extend_from_slice(b",\"delta\":\"");
                escape(to, text);
                let rest: &[u8] = if *part == Part::Answer { b"\",\"logprobs\":[]}\n\n" } else { b"\"}\n\n" };
                to.extend_from_slice(rest);
                if let Some(item) = self.items.get_mut(at) {
                    item.text.push_str(text);
                }
            }
            InferenceEvent::ToolCall { choice: 0, piece } => {
                self.begin(to);
                self.call(piece, to);
            }
            InferenceEvent::Finished { choice: 0, finish } => {
                self.begin(to);
                self.cut = *finish == Finish::Length;
                self.close(to);
            }
            InferenceEvent::Text { .. }
            | InferenceEvent::ToolCall { .. }
            | InferenceEvent::Finished { .. }
            | InferenceEvent::Began { .. }
            | InferenceEvent::Embedding { .. }
            | InferenceEvent::Done { .. }
            | InferenceEvent::Failed { .. }
            | InferenceEvent::Committed { .. }
            | InferenceEvent::Transcript(_)
            | InferenceEvent::Replayed(_) => {}
        }
    }

    /// The item that takes this text: the last one, where it is of the kind.
    fn open_text(&mut self, part: Part, to: &mut Vec<u8>) -> usize {
        let fits = |item: &Item| {
            !item.done
                && matches!((&item.kind, part), (Kind::Message, Part::Answer) | (Kind::Reasoning, Part::Reasoning))
        };
        match self.items.last() {
            Some(last) if fits(last) => self.items.len() - 1,
            _ => {
                self.close(to);
                self.add(if part == Part::Answer { Kind::Message } else { Kind::Reasoning }, to)
            }
        }
    }

    fn call(&mut self, piece: &ToolCallPiece, to: &mut Vec<u8>) {
        let known = self
            .items
            .iter()
            .position(|item| matches!(&item.kind, Kind::Call { index, .. } if *index == piece.index && !item.done));
        let at = match known {
            Some(at) => at,
            None if self.items.len() >= CALLS_MAX => return,
            None => {
                // What was said before the calls is complete; calls stay open beside each other.
                self.close_texts(to);
                let (call_id, name) = (piece.id.clone().unwrap_or_default(), piece.name.clone().unwrap_or_default());
                self.add(Kind::Call { index: piece.index, call_id, name }, to)
            }
        };
        if piece.arguments.is_empty() {
            return;
        }
        self.of_item("response.function_call_arguments.delta", at, false, to);
        to.extend_from_slice(b",\"delta\":");
        quote(to, &piece.arguments);
        to.extend_from_slice(b"}\n\n");
        if let Some(item) = self.items.get_mut(at) {
            item.text.push_str(&piece.arguments);
        }
    }

    fn close_texts(&mut self, to: &mut Vec<u8>) {
        for at in 0..self.items.len() {
            if self.items.get(at).is_some_and(|item| !item.done && !matches!(item.kind, Kind::Call { .. })) {
                self.finish(at, to);
            }
        }
    }

    /// Completes what is open.
    pub(super) fn close(&mut self, to: &mut Vec<u8>) {
        for at in 0..self.items.len() {
            if self.items.get(at).is_some_and(|item| !item.done) {
                self.finish(at, to);
            }
        }
    }

    fn finish(&mut self, at: usize, to: &mut Vec<u8>) {
        let Some(item) = self.items.get_mut(at) else { return };
        item.done = true;
        let text = item.text.clone();
        match &item.kind {
            Kind::Message => {
                self.of_item("response.output_text.done", at, true, to);
                to.extend_from_slice(b",\"text\":");
                quote(to, &text);
                to.extend_from_slice(b",\"logprobs\":[]}\n\n");
                self.of_item("response.content_part.done", at, true, to);
                to.extend_from_slice(b",\"part\":{\"type\":\"output_text\",\"text\":");
                quote(to, &text);
                to.extend_from_slice(b",\"annotations\":[]}}\n\n");
            }
            Kind::Reasoning => {
                self.of_item("response.reasoning_text.done", at, true, to);
                to.extend_from_slice(b",\"text\":");
                quote(to, &text);
                to.extend_from_slice(b"}\n\n");
            }
            Kind::Call { name, .. } => {
                let name = name.clone();
                self.of_item("response.function_call_arguments.done", at, false, to);
                to.extend_from_slice(b",\"name\":");
                quote(to, &name);
                to.extend_from_slice(b",\"arguments\":");
                quote(to, &text);
                to.extend_from_slice(b"}\n\n");
            }
        }
        self.shows_item("response.output_item.done", at, to);
    }

    fn item(&self, at: usize, to: &mut Vec<u8>) {
        let Some(item) = self.items.get(at) else { return };
        to.extend_from_slice(b"{\"id\":\"");
        self.item_id(at, to);
        let cut = self.cut && at + 1 == self.items.len();
        let status: &[u8] = match (item.done, cut) {
            (false, _) => b"\",\"status\":\"in_progress\",",
            (true, true) => b"\",\"status\":\"incomplete\",",
            (true, false) => b"\",\"status\":\"completed\",",
        };
        to.extend_from_slice(status);
        match &item.kind {
            Kind::Message => {
                to.extend_from_slice(b"\"type\":\"message\",\"role\":\"assistant\",\"content\":[");
                if item.done {
                    to.extend_from_slice(b"{\"type\":\"output_text\",\"text\":");
                    quote(to, &item.text);
                    to.extend_from_slice(b",\"annotations\":[]}");
                }
                to.extend_from_slice(b"]}");
            }
            Kind::Reasoning => {
                to.extend_from_slice(b"\"type\":\"reasoning\",\"summary\":[],\"content\":[");
                if item.done {
                    to.extend_from_slice(b"{\"type\":\"reasoning_text\",\"text\":");
                    quote(to, &item.text);
                    to.push(b'}');
                }
                to.extend_from_slice(b"]}");
            }
            Kind::Call { call_id, name, .. } => {
                to.extend_from_slice(b"\"type\":\"function_call\",\"call_id\":");
                quote(to, call_id);
                to.extend_from_slice(b",\"name\":");
                quote(to, name);
                to.extend_from_slice(b",\"arguments\":");
                quote(to, &item.text);
                to.push(b'}');
            }
        }
    }

    /// The object as it stands.
    fn response(&self, status: &str, counts: Option<TokenCounts>, error: Option<&ApiError>, to: &mut Vec<u8>) {
        to.extend_from_slice(b"{\"id\":\"resp_");
        escape(to, &self.about.id);
        to.extend_from_slice(b"\",\"object\":\"response\",\"created_at\":");
        number(to, self.about.created_s);
        to.extend_from_slice(b",\"status\":");
        quote(to, status);
        to.extend_from_slice(b",\"background\":false,\"error\":");
        match error {
            Some(error) => {
                let (code, message) = error.told();
                to.extend_from_slice(b"{\"code\":");
                quote(to, code);
                to.extend_from_slice(b",\"message\":");
                quote(to, message);
                to.push(b'}');
            }
            None => to.extend_from_slice(b"null"),
        }
        let details: &[u8] = if status == "incomplete" { b"{\"reason\":\"max_output_tokens\"}" } else { b"null" };
        to.extend_from_slice(b",\"incomplete_details\":");
        to.extend_from_slice(details);
        to.extend_from_slice(b",\"model\":");
        quote(to, &self.about.model);
        to.extend_from_slice(b",\"output\":[");
        let done = self.items.iter().enumerate().filter(|(_, item)| item.done);
        for (count, (at, _)) in done.enumerate() {
            if count > 0 {
                to.push(b',');
            }
            self.item(at, to);
        }
        to.push(b']');
        to.extend_from_slice(self.repeated.as_bytes());
        to.extend_from_slice(b",\"usage\":");
        match counts {
            Some(counts) => usage(counts, to),
            None => to.extend_from_slice(b"null"),
        }
        to.push(b'}');
    }

    /// The object at its end.
    pub(super) fn object(&self, counts: TokenCounts, to: &mut Vec<u8>) {
        self.response(self.status(), Some(counts), None, to);
    }

    fn status(&self) -> &'static str {
        if self.cut { "incomplete" } else { "completed" }
    }

    pub(super) fn done(&mut self, counts: TokenCounts, to: &mut Vec<u8>) {
        self.begin(to);
        self.close(to);
        self.open(if self.cut { "response.incomplete" } else { "response.completed" }, to);
        to.extend_from_slice(b",\"response\":");
        self.object(counts, to);
        to.extend_from_slice(b"}\n\n");
    }

    pub(super) fn failed(&mut self, error: &ApiError, to: &mut Vec<u8>) {
        self.begin(to);
        self.open("response.failed", to);
        to.extend_from_slice(b",\"response\":");
        self.response("failed", None, Some(error), to);
        to.extend_from_slice(b"}\n\n");
    }
}

fn usage(counts: TokenCounts, to: &mut Vec<u8>) {
    to.extend_from_slice(b"{\"input_tokens\":");
    number(to, counts.input);
    to.extend_from_slice(b",\"input_tokens_details\":{\"cached_tokens\":");
    number(to, counts.cached);
    to.extend_from_slice(b"},\"output_tokens\":");
    number(to, counts.output);
    to.extend_from_slice(b",\"output_tokens_details\":{\"reasoning_tokens\":0},\"total_tokens\":");
    number(to, counts.total());
    to.push(b'}');
}
