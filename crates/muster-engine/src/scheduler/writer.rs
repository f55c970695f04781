//! From the tokens of one answer to its events.

use muster_core::inference::{Choice, Finish, InferenceEvent, Part, TokenLogprob};

use super::text::{Stops, Utf8};
use crate::reasoning::Splitter;
use crate::tools::{Found, Parser};

/// How an answer is written.
#[derive(Clone, Debug)]
pub struct WriterConfig {
    /// Which answer.
    pub choice: Choice,
    /// Sequences at which it stops.
    pub stop: Vec<String>,
    /// Tokens that it may have.
    pub tokens_max: usize,
    /// Splits off what the model thinks.
    pub thoughts: Splitter,
    /// Finds calls of tools.
    pub tools: Option<Parser>,
    /// Whether the answer is complete with its first call.
    pub one_call: bool,
}

/// A token of the answer.
#[derive(Clone, Debug, Default)]
pub struct Piece {
    /// Its bytes; none for a token of control.
    pub bytes: Vec<u8>,
    /// How likely it was, where that was asked for.
    pub logprob: Option<TokenLogprob>,
}

/// Writes one answer.
#[derive(Debug)]
pub struct Writer {
    config: WriterConfig,
    utf8: Utf8,
    stops: Stops,
    tokens: usize,
    /// Bytes that came, and that the stop sequences let pass.
    came: usize,
    passed: usize,
    /// With where the token's bytes end.
    logprobs: Vec<(usize, TokenLogprob)>,
}

impl Writer {
    /// A new answer.
    #[must_use]
    pub fn new(config: WriterConfig) -> Self {
        let stops = Stops::new(&config.stop);
        Self { config, utf8: Utf8::default(), stops, tokens: 0, came: 0, passed: 0, logprobs: Vec::new() }
    }

    /// Tokens that the answer may have.
    #[must_use]
    pub const fn tokens_max(&self) -> usize {
        self.config.tokens_max
    }

    /// Whether what comes next belongs to a thought.
    #[must_use]
    pub fn is_thinking(&self) -> bool {
        self.config.thoughts.is_thinking()
    }

    /// A text that stands before the answer (`echo`).
    pub fn echo(&self, text: String) -> InferenceEvent {
        self.text(Part::Answer, text, Vec::new())
    }

    /// A token. Events, and why the answer is complete, if it is.
    pub fn push(&mut self, piece: Piece) -> (Vec<InferenceEvent>, Option<Finish>) {
        self.tokens += 1;
        self.came += piece.bytes.len();
        self.logprobs.extend(piece.logprob.map(|logprob| (self.came, logprob)));
        let text = self.utf8.push(&piece.bytes);
        let (shown, stopped) = self.stops.push(&text);
        let mut events = self.show(&shown);
        let called = self.config.one_call && self.config.tools.as_ref().is_some_and(Parser::called);
        let finish = match (stopped || called, self.tokens >= self.config.tokens_max) {
            (true, _) => Some(Finish::Stop),
            (false, true) => Some(Finish::Length),
            (false, false) => None,
        };
        if let Some(finish) = finish {
            self.finish(&mut events, finish, stopped);
        }
        (events, finish)
    }

    /// The model says that it is done (that token counts), or there is no room for more.
    pub fn end(&mut self, finish: Finish) -> Vec<InferenceEvent> {
        let mut events = Vec::new();
        self.finish(&mut events, finish, false);
        events
    }

    fn finish(&mut self, events: &mut Vec<InferenceEvent>, finish: Finish, stopped: bool) {
        if !stopped {
            let begun = self.utf8.finish();
            let (mut shown, hit) = self.stops.push(&begun);
            if !hit {
                shown.push_str(&self.stops.finish());
            }
            self.passed = self.came;
            events.extend(self.show(&shown));
        }
        for (part, text) in self.config.thoughts.finish() {
            events.extend(self.part(part, text));
        }
        if let Some(tools) = &mut self.config.tools {
            let found = tools.finish();
            events.extend(self.found(found));
        }
        // Tokens without any text of their own, and those whose text came before: nothing is lost.
        let left: Vec<_> = self.logprobs.drain(..).filter(|(end, _)| *end <= self.passed).map(|(_, l)| l).collect();
        if !left.is_empty() {
            events.push(self.text(Part::Answer, String::new(), left));
        }
        let called = self.config.tools.as_ref().is_some_and(Parser::called);
        let finish = if called && finish == Finish::Stop { Finish::ToolCalls } else { finish };
        events.push(InferenceEvent::Finished { choice: self.config.choice, finish });
    }

    fn show(&mut self, shown: &str) -> Vec<InferenceEvent> {
        self.passed = self.came.min(self.passed + shown.len());
        let parts = self.config.thoughts.push(shown);
        parts.into_iter().flat_map(|(part, text)| self.part(part, text)).collect()
    }

    fn part(&mut self, part: Part, text: String) -> Vec<InferenceEvent> {
        if part == Part::Answer
            && let Some(tools) = &mut self.config.tools
        {
            let found = tools.push(&text);
            return self.found(found);
        }
        let logprobs = self.told();
        vec![self.text(part, text, logprobs)]
    }

    fn found(&mut self, found: Vec<Found>) -> Vec<InferenceEvent> {
        let event = |found| match found {
            Found::Text(text) => {
                let logprobs = self.told();
                self.text(Part::Answer, text, logprobs)
            }
            Found::Call(piece) => InferenceEvent::ToolCall { choice: self.config.choice, piece },
        };
        found.into_iter().map(event).collect()
    }

    /// The log-probabilities of the tokens whose text has passed.
    fn told(&mut self) -> Vec<TokenLogprob> {
        let count = self.logprobs.iter().take_while(|(end, _)| *end <= self.passed).count();
        self.logprobs.drain(..count).map(|(_, logprob)| logprob).collect()
    }

    fn text(&self, part: Part, text: String, logprobs: Vec<TokenLogprob>) -> InferenceEvent {
        InferenceEvent::Text { choice: self.config.choice, part, text, logprobs }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tools::Style;

    fn writer(stop: &[&str], tokens_max: usize, tools: bool) -> Writer {
        Writer::new(WriterConfig {
            choice: 0,
            stop: stop.iter().map(|s| (*s).to_owned()).collect(),
            tokens_max,
            thoughts: Splitter::new(""),
            tools: tools.then(|| Parser::new(Style::Hermes, 1)),
            one_call: false,
        })
    }

    fn piece(id: u32, bytes: &[u8]) -> Piece {
        let logprob = TokenLogprob { id, bytes: bytes.to_vec(), logprob: -1.0, top: Vec::new() };
        Piece { bytes: bytes.to_vec(), logprob: Some(logprob) }
    }

    fn said(events: &[InferenceEvent]) -> (String, Vec<u32>) {
        let (mut said, mut ids) = (String::new(), Vec::new());
        for event in events {
            if let InferenceEvent::Text { text, logprobs, .. } = event {
                said.push_str(text);
                ids.extend(logprobs.iter().map(|l| l.id));
            }
        }
        (said, ids)
    }

    #[test]
    fn a_stop_cuts_text_and_log_probabilities() {
        let mut writer = writer(&["END"], 100, false);
        let mut all = Vec::new();
        for (id, bytes) in [(1, "a "), (2, "E"), (3, "x"), (4, "b"), (5, "EN")] {
            all.extend(writer.push(piece(id, bytes.as_bytes())).0);
        }
        let (events, finish) = writer.push(piece(6, b"D z"));
        all.extend(events);
        assert_eq!(finish, Some(Finish::Stop));
        assert_eq!(said(&all), ("a Exb".to_owned(), vec![1, 2, 3, 4]));
        assert_eq!(all.last(), Some(&InferenceEvent::Finished { choice: 0, finish: Finish::Stop }));
    }

    #[test]
    fn the_last_token_counts_and_halves_of_characters_are_told() {
        let mut writer = writer(&[], 2, false);
        assert_eq!(writer.push(piece(1, &[0xe2])), (Vec::new(), None));
        let (events, finish) = writer.push(piece(2, &[0x82]));
        assert_eq!((said(&events), finish), (("\u{fffd}".to_owned(), vec![1, 2]), Some(Finish::Length)));
    }

    #[test]
    fn an_answer_that_calls_ends_so() {
        let mut writer = writer(&[], 100, true);
        let text = b"<think>hm</think>\n<tool_call>{\"name\":\"f\",\"arguments\":{}}</tool_call>";
        let mut events = writer.push(Piece { bytes: text.to_vec(), logprob: None }).0;
        events.extend(writer.end(Finish::Stop));
        assert!(events.iter().any(|e| matches!(e, InferenceEvent::Text { part: Part::Reasoning, .. })));
        assert!(events.iter().any(|e| matches!(e, InferenceEvent::ToolCall { .. })));
        assert_eq!(events.last(), Some(&InferenceEvent::Finished { choice: 0, finish: Finish::ToolCalls }));
    }
}
