//! Requests, and what came of them.

use muster_core::inference::audit::{Commitment, Replayed, Transcript};
use muster_core::inference::{
    Chat, Completion, Content, Embedding, Finish, InferenceError, InferenceEvent, InferenceRequest, InferenceTask,
    Message, Part, Prompt, ResponseFormat, Role, Sampling, TokenCounts, TokenLogprob,
};
use muster_engine::{Answer, Engine};

/// What an answer was, put together.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Got {
    pub(crate) texts: Vec<String>,
    pub(crate) thoughts: String,
    pub(crate) logprobs: Vec<TokenLogprob>,
    /// Name and arguments.
    pub(crate) calls: Vec<(String, String)>,
    pub(crate) finishes: Vec<Option<Finish>>,
    pub(crate) vectors: Vec<Vec<f32>>,
    pub(crate) counts: TokenCounts,
    pub(crate) commitments: Vec<Commitment>,
    pub(crate) transcript: Option<Transcript>,
    pub(crate) replayed: Option<Replayed>,
    pub(crate) error: Option<InferenceError>,
    pub(crate) pieces: usize,
    pub(crate) over: bool,
}

impl Got {
    pub(crate) fn text(&self) -> &str {
        self.texts.first().map_or("", String::as_str)
    }

    pub(crate) fn finish(&self) -> Option<Finish> {
        self.finishes.first().copied().flatten()
    }

    pub(crate) fn take(&mut self, event: InferenceEvent) {
        assert!(!self.over, "{event:?} after the end");
        let place = |choice: u32| usize::try_from(choice).unwrap();
        match event {
            InferenceEvent::Began { .. } => {}
            InferenceEvent::Text { choice, part, text, logprobs } => {
                self.pieces += 1;
                self.texts.resize(self.texts.len().max(place(choice) + 1), String::new());
                match part {
                    Part::Answer => self.texts[place(choice)].push_str(&text),
                    Part::Reasoning => self.thoughts.push_str(&text),
                }
                self.logprobs.extend(logprobs);
            }
            InferenceEvent::ToolCall { piece, .. } => {
                if let Some(name) = piece.name {
                    self.calls.push((name, String::new()));
                }
                self.calls[place(piece.index)].1.push_str(&piece.arguments);
            }
            InferenceEvent::Finished { choice, finish } => {
                self.finishes.resize(self.finishes.len().max(place(choice) + 1), None);
                assert_eq!(self.finishes[place(choice)].replace(finish), None);
            }
            InferenceEvent::Embedding { index, vector } => {
                assert_eq!(self.vectors.len(), place(index));
                self.vectors.push(vector);
            }
            InferenceEvent::Committed { choice, commitment, .. } => {
                assert!(self.finishes.get(place(choice)).is_none_or(Option::is_none), "it comes before the end");
                self.commitments.push(commitment);
            }
            InferenceEvent::Transcript(transcript) => self.transcript = Some(*transcript),
            InferenceEvent::Replayed(replayed) => self.replayed = Some(*replayed),
            InferenceEvent::Done { counts } => (self.counts, self.over) = (counts, true),
            InferenceEvent::Failed { error, counts } => {
                (self.counts, self.error, self.over) = (counts, Some(error), true);
            }
        }
    }
}

pub(crate) async fn all(mut answer: Answer) -> Got {
    let mut got = Got::default();
    while let Some(events) = answer.next().await {
        events.into_iter().for_each(|event| got.take(event));
    }
    got
}

pub(crate) async fn ask(engine: &impl Engine, request: InferenceRequest) -> Got {
    all(engine.submit(request)).await
}

pub(crate) fn completion(prompt: &str, sampling: Sampling) -> InferenceRequest {
    formed(prompt, ResponseFormat::Text, sampling)
}

pub(crate) fn formed(prompt: &str, format: ResponseFormat, sampling: Sampling) -> InferenceRequest {
    let prompts = vec![Prompt::Text(prompt.to_owned())];
    let completion = Completion { prompts, echo: false, suffix: None, format, sampling };
    InferenceRequest { task: InferenceTask::Completion(Box::new(completion)), stream: true }
}

pub(crate) fn chat(text: &str, sampling: Sampling) -> Chat {
    let content = Content::Text(text.to_owned());
    let message = Message { role: Role::User, content, tool_calls: Vec::new(), tool_call_id: None, name: None };
    Chat { messages: vec![message], sampling, ..Chat::default() }
}

pub(crate) fn chatting(chat: Chat) -> InferenceRequest {
    InferenceRequest { task: InferenceTask::Chat(Box::new(chat)), stream: true }
}

pub(crate) fn embedding(inputs: &[&str], dimensions: Option<u32>) -> InferenceRequest {
    let inputs = inputs.iter().map(|text| Prompt::Text((*text).to_owned())).collect();
    InferenceRequest { task: InferenceTask::Embedding(Embedding { inputs, dimensions }), stream: false }
}

pub(crate) fn sampling(max: u32) -> Sampling {
    Sampling { max_tokens: Some(max), temperature: 0.0, seed: Some(1), ..Sampling::default() }
}
