//! What a model thinks before it answers, between `<think>` and `</think>`, apart from the answer.

use muster_core::inference::Part;

use crate::scheduler::overlap;

const OPEN: &str = "<think>";
const CLOSE: &str = "</think>";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum At {
    Start,
    /// Line breaks before a thought do not belong to it.
    Opened,
    Thinking,
    /// Line breaks between thought and answer belong to neither.
    Between,
    Answer,
}

/// Splits a text, in whatever pieces it comes.
#[derive(Clone, Debug)]
pub struct Splitter {
    at: At,
    held: String,
}

impl Splitter {
    /// For a model that may think. `prompt` is what it goes on with: templates may have opened the thought already.
    #[must_use]
    pub fn new(prompt: &str) -> Self {
        let at = if prompt.trim_end().ends_with(OPEN) { At::Opened } else { At::Start };
        Self { at, held: String::new() }
    }

    /// For a model that does not.
    #[must_use]
    pub fn off() -> Self {
        Self { at: At::Answer, held: String::new() }
    }

    /// Whether the answer itself cannot begin yet.
    #[must_use]
    pub fn is_thinking(&self) -> bool {
        matches!(self.at, At::Start | At::Opened | At::Thinking)
    }

    /// More text.
    pub fn push(&mut self, text: &str) -> Vec<(Part, String)> {
        self.held.push_str(text);
        let mut out = Vec::new();
        loop {
            let begun = self.at;
            match self.at {
                At::Start => {
                    let text = self.held.trim_start();
                    if let Some(rest) = text.strip_prefix(OPEN) {
                        (self.held, self.at) = (rest.to_owned(), At::Opened);
                    } else if !OPEN.starts_with(text) {
                        self.at = At::Answer;
                    }
                }
                At::Opened => {
                    self.held = self.held.trim_start_matches('\n').to_owned();
                    if !self.held.is_empty() {
                        self.at = At::Thinking;
                    }
                }
                At::Thinking => {
                    if let Some((thought, rest)) = self.held.split_once(CLOSE) {
                        let thought = thought.trim_end_matches('\n').to_owned();
                        self.held = rest.to_owned();
                        self.at = At::Between;
                        out.push((Part::Reasoning, thought));
                    } else {
                        let sure = self.held.len() - overlap(&self.held, CLOSE);
                        let sure = self.held.get(..sure).unwrap_or_default().trim_end_matches('\n').len();
                        let rest = self.held.split_off(sure);
                        out.push((Part::Reasoning, std::mem::replace(&mut self.held, rest)));
                    }
                }
                At::Between => {
                    self.held = self.held.trim_start_matches('\n').to_owned();
                    if !self.held.is_empty() {
                        self.at = At::Answer;
                    }
                }
                At::Answer => out.push((Part::Answer, std::mem::take(&mut self.held))),
            }
            if begun == self.at {
                out.retain(|(_, text)| !text.is_empty());
                return out;
            }
        }
    }

    /// Nothing more comes: what was held back.
    pub fn finish(&mut self) -> Vec<(Part, String)> {
        let part = if self.at == At::Thinking { Part::Reasoning } else { Part::Answer };
        let rest = std::mem::take(&mut self.held);
        if rest.is_empty() { Vec::new() } else { vec![(part, rest)] }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(prompt: &str, text: &str, by: usize) -> (String, String) {
        let mut splitter = Splitter::new(prompt);
        let chars: Vec<char> = text.chars().collect();
        let mut all: Vec<_> = chars.chunks(by).flat_map(|c| splitter.push(&c.iter().collect::<String>())).collect();
        all.extend(splitter.finish());
        let of = |part| all.iter().filter(|(p, _)| *p == part).map(|(_, t)| t.as_str()).collect::<String>();
        (of(Part::Reasoning), of(Part::Answer))
    }

    #[test]
    fn thoughts_are_apart_in_whatever_pieces() {
        for by in [1, 2, 3, 7, 100] {
            let both = |a: &str, b: &str| (a.to_owned(), b.to_owned());
            assert_eq!(split("", "<think>\na <b>\n\nc\n</think>\n\nyes", by), both("a <b>\n\nc", "yes"), "{by}");
            assert_eq!(split("<think>\n", "so</think>yes", by), both("so", "yes"));
            assert_eq!(split("", " <thin air", by), both("", " <thin air"));
            assert_eq!(split("", "a <think> later", by), both("", "a <think> later"));
            assert_eq!(split("", "<think>unfinished", by), both("unfinished", ""));
        }
    }
}
