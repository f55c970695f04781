//! What a server answers, as events.

use std::borrow::Cow;
use std::collections::BTreeSet;

use muster_core::inference::{
    Finish, InferenceError, InferenceEvent, InferenceRequest, InferenceTask, Part, TOP_LOGPROBS_MAX, TokenCounts,
    TokenLogprob, ToolCallPiece,
};
use serde::Deserialize;
use serde_json::Value;

use super::loose::{Choice, Piece, Usage};
use super::lost;

/// Reads one answer.
#[derive(Debug)]
pub(super) struct Reading {
    choices: u32,
    chat: bool,
    began: bool,
    usage: Option<TokenCounts>,
    /// Pieces that came, where no usage is told.
    pieces: u64,
    finished: BTreeSet<u32>,
}

fn number(value: &Value, path: &str) -> Option<u64> {
    value.pointer(path).and_then(Value::as_u64)
}

/// What the server counted, where it says so.
fn usage(usage: &Usage) -> Option<TokenCounts> {
    let input = usage.prompt_tokens.0?;
    let details = usage.prompt_tokens_details.0.as_ref();
    let cached = details.and_then(|details| details.cached_tokens.0).unwrap_or(0).min(input);
    Some(TokenCounts { input, cached, output: usage.completion_tokens.0.unwrap_or(0) })
}

impl Reading {
    pub(super) fn new(request: &InferenceRequest) -> Self {
        let n = request.sampling().map_or(1, |sampling| u32::from(sampling.n));
        let (choices, chat) = match &request.task {
            InferenceTask::Chat(_) => (n, true),
            InferenceTask::Completion(completion) => {
                (n.saturating_mul(u32::try_from(completion.prompts.len()).unwrap_or(u32::MAX)), false)
            }
            InferenceTask::Embedding(_) => (0, false),
        };
        Self { choices, chat, began: false, usage: None, pieces: 0, finished: BTreeSet::new() }
    }

    /// By the server's own count; where it told none, the pieces of the answer, which is a lower bound.
    pub(super) fn counts(&self) -> TokenCounts {
        self.usage.unwrap_or(TokenCounts { output: self.pieces, ..TokenCounts::ZERO })
    }

    /// Whether every choice is finished.
    pub(super) fn is_complete(&self) -> bool {
        u32::try_from(self.finished.len()).is_ok_and(|finished| finished == self.choices)
    }

    /// One piece of the stream.
    pub(super) fn piece(&mut self, piece: &Piece<'_>, events: &mut Vec<InferenceEvent>) {
        if let Some(counts) = piece.usage.0.as_ref().and_then(usage) {
            // A count that only grows; a server's mistake does not take back what was told.
            self.usage = Some(self.usage.map_or(counts, |before| before.max(counts)));
        }
        let choices = piece.choices.0.as_deref().unwrap_or_default();
        if !self.began && !choices.is_empty() {
            self.began = true;
            events.push(InferenceEvent::Began { counts: TokenCounts { output: 0, ..self.counts() } });
        }
        for one in choices.iter().filter_map(|one| one.0.as_ref()) {
            let choice = one.index.0.and_then(|index| u32::try_from(index).ok()).unwrap_or(0);
            if choice < self.choices && !self.finished.contains(&choice) {
                self.choice(choice, one, events);
            }
        }
    }

    fn choice(&mut self, choice: u32, one: &Choice<'_>, events: &mut Vec<InferenceEvent>) {
        let before = events.len();
        let delta = one.delta.0.as_ref();
        let said =
            |text: Option<&Cow<'_, str>>| text.filter(|text| !text.is_empty()).map(|text| text.clone().into_owned());
        let mut logprobs = one.logprobs.as_ref().map(|told| logprobs(told, self.chat)).unwrap_or_default();
        // vLLM says `reasoning` of late, and `reasoning_content` before.
        let thought = said(delta.and_then(|delta| delta.reasoning_content.0.as_ref()));
        let thought = thought.or_else(|| said(delta.and_then(|delta| delta.reasoning.0.as_ref())));
        let answer =
            said(if self.chat { delta.and_then(|delta| delta.content.0.as_ref()) } else { one.text.0.as_ref() });
        for (part, text) in [(Part::Reasoning, thought), (Part::Answer, answer)] {
            if let Some(text) = text {
                events.push(InferenceEvent::Text { choice, part, text, logprobs: std::mem::take(&mut logprobs) });
            }
        }
        if !logprobs.is_empty() {
            events.push(InferenceEvent::Text { choice, part: Part::Answer, text: String::new(), logprobs });
        }
        let calls = delta.and_then(|delta| delta.tool_calls.as_ref()).and_then(Value::as_array);
        for call in calls.into_iter().flatten() {
            let text = |path: &str| call.pointer(path).and_then(Value::as_str).map(str::to_owned);
            let name = text("/function/name").filter(|name| !name.is_empty());
            let index = number(call, "/index").and_then(|index| u32::try_from(index).ok()).unwrap_or(0);
            let id = text("/id").filter(|_| name.is_some());
            let arguments = text("/function/arguments").unwrap_or_default();
            events.push(InferenceEvent::ToolCall { choice, piece: ToolCallPiece { index, id, name, arguments } });
        }
        if events.len() > before {
            self.pieces += 1;
        }
        if let Some(why) = one.finish_reason.0.as_deref() {
            self.finished.insert(choice);
            let finish = match why {
                "length" => Finish::Length,
                "tool_calls" | "function_call" => Finish::ToolCalls,
                _ => Finish::Stop,
            };
            events.push(InferenceEvent::Finished { choice, finish });
        }
    }

    /// An answer in one piece.
    pub(super) fn embeddings(&mut self, value: &Value) -> Result<Vec<InferenceEvent>, InferenceError> {
        let told = value.get("usage").and_then(|told| Usage::deserialize(told).ok());
        self.usage = told.as_ref().and_then(usage);
        let mut events = vec![InferenceEvent::Began { counts: self.counts() }];
        let data =
            value.get("data").and_then(Value::as_array).ok_or_else(|| lost("the server's answer has no data"))?;
        for (nth, one) in (0u32..).zip(data) {
            let index = number(one, "/index").and_then(|index| u32::try_from(index).ok()).unwrap_or(nth);
            let numbers = one.get("embedding").and_then(Value::as_array);
            let numbers = numbers.ok_or_else(|| lost("an embedding of the server's answer has no numbers"))?;
            // Embeddings are told in 32 bits.
            #[allow(clippy::cast_possible_truncation, reason = "the interface's numbers have 32 bits")]
            let vector = numbers.iter().map(|number| number.as_f64().unwrap_or(0.0) as f32).collect();
            events.push(InferenceEvent::Embedding { index, vector });
        }
        Ok(events)
    }
}

#[allow(clippy::cast_possible_truncation, reason = "log-probabilities are told in 32 bits")]
fn logprob(value: &Value) -> f32 {
    value.get("logprob").and_then(Value::as_f64).unwrap_or(-9_999.0) as f32
}

fn bytes(value: &Value) -> Vec<u8> {
    let listed = value.get("bytes").and_then(Value::as_array);
    match listed {
        Some(list) => list.iter().filter_map(|byte| u8::try_from(byte.as_u64()?).ok()).collect(),
        None => value.get("token").and_then(Value::as_str).unwrap_or_default().as_bytes().to_vec(),
    }
}

/// Log-probabilities; the API names tokens by their text, so their numbers are 0.
fn logprobs(told: &Value, chat: bool) -> Vec<TokenLogprob> {
    if !chat {
        return legacy(told);
    }
    let content = told.get("content").and_then(Value::as_array);
    let token = |one: &Value| {
        let top = one.get("top_logprobs").and_then(Value::as_array).into_iter().flatten();
        let top = top.take(TOP_LOGPROBS_MAX.into()).map(|one| (0, bytes(one), logprob(one))).collect();
        TokenLogprob { id: 0, bytes: bytes(one), logprob: logprob(one), top }
    };
    content.into_iter().flatten().map(token).collect()
}

fn legacy(told: &Value) -> Vec<TokenLogprob> {
    let list = |name: &str| told.get(name).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let (tokens, numbers) = (list("tokens"), list("token_logprobs"));
    let tops = list("top_logprobs");
    let token = |(nth, (token, number)): (usize, (&Value, &Value))| {
        // As above.
        #[allow(clippy::cast_possible_truncation, reason = "log-probabilities are told in 32 bits")]
        let small = |value: &Value| value.as_f64().unwrap_or(-9_999.0) as f32;
        let text = |text: &str| text.as_bytes().to_vec();
        let top = tops.get(nth).and_then(Value::as_object).into_iter().flatten();
        let mut top: Vec<_> = top.map(|(token, number)| (0, text(token), small(number))).collect();
        top.sort_by(|a, b| b.2.total_cmp(&a.2));
        top.truncate(TOP_LOGPROBS_MAX.into());
        TokenLogprob { id: 0, bytes: text(token.as_str().unwrap_or_default()), logprob: small(number), top }
    };
    tokens.iter().zip(numbers).enumerate().map(token).collect()
}
