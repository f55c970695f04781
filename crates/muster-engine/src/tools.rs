//! Calls of tools in what a model writes.
//!
//! Models write them in a few ways, which their templates tell apart: Hermes and Qwen
//! (`<tool_call>{"name": …, "arguments": {…}}</tool_call>`), Llama 3 (the answer is the JSON itself), Mistral
//! (`[TOOL_CALLS][{…}]`, or `[TOOL_CALLS]name[ARGS]{…}`). Arguments are passed on as they come, as the model wrote them.

mod call;

use muster_core::inference::ToolCallPiece;

use self::call::{Call, Step};
use crate::scheduler::overlap;

/// Calls in one answer, at most; what comes after them is not looked at.
pub const CALLS_MAX: u32 = 64;

/// How a model writes its calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// `<tool_call>{"name": …, "arguments": {…}}</tool_call>`.
    Hermes,
    /// `{"name": …, "parameters": {…}}`, after `<|python_tag|>` or alone.
    Llama3,
    /// `[TOOL_CALLS][{"name": …, "arguments": {…}}]`.
    Mistral,
}

impl Style {
    /// What a template speaks of; `None`: it knows no tools.
    #[must_use]
    pub fn of_template(template: &str) -> Option<Self> {
        let has = |mark: &str| template.contains(mark);
        if !has("tools") {
            None
        } else if has("[TOOL_CALLS]") {
            Some(Self::Mistral)
        } else if has("<tool_call>") {
            Some(Self::Hermes)
        } else if has("python_tag") || has("\"parameters\"") {
            Some(Self::Llama3)
        } else {
            None
        }
    }

    /// Where the call's arguments are, in its JSON.
    #[must_use]
    pub const fn arguments_key(self) -> &'static str {
        match self {
            Self::Hermes | Self::Mistral => "arguments",
            Self::Llama3 => "parameters",
        }
    }

    /// What is written around one call.
    #[must_use]
    pub const fn around(self) -> (&'static str, &'static str) {
        match self {
            Self::Hermes => ("<tool_call>\n", "\n</tool_call>"),
            Self::Llama3 => ("", ""),
            Self::Mistral => ("[TOOL_CALLS][", "]"),
        }
    }

    const fn marks(self) -> &'static [&'static str] {
        match self {
            Self::Hermes => &["<tool_call>"],
            Self::Llama3 => &["<|python_tag|>"],
            Self::Mistral => &["[TOOL_CALLS]"],
        }
    }

    /// Tokens that are part of how calls are written, although the vocabulary says that they are for control.
    #[must_use]
    pub fn is_mark(text: &[u8]) -> bool {
        const MARKS: [&str; 8] = [
            "<tool_call>",
            "</tool_call>",
            "<|python_tag|>",
            "[TOOL_CALLS]",
            "[ARGS]",
            "[CALL_ID]",
            "<think>",
            "</think>",
        ];
        MARKS.iter().any(|mark| mark.as_bytes() == text)
    }

    /// A name for a call that none was given for. Mistral's templates take nine letters and figures and nothing else.
    fn id(self, seed: u64, index: u32) -> String {
        let mut z = seed ^ u64::from(index).wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let hex = format!("{:016x}", z ^ (z >> 31));
        match self {
            Self::Mistral => hex.chars().take(9).collect(),
            Self::Hermes | Self::Llama3 => format!("call_{hex}"),
        }
    }
}

/// What an answer holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// Text.
    Text(String),
    /// Some of a call.
    Call(ToolCallPiece),
}

#[derive(Clone, Debug)]
enum At {
    /// Nothing but white space came: a Llama 3 call may begin.
    Start,
    Text,
    /// In a call; what was read of it, in case it is none.
    Call(Box<Call>, String),
    /// After a call: more may come, and what stands between is not shown.
    After,
}

/// Finds calls in an answer that comes in pieces.
#[derive(Clone, Debug)]
pub struct Parser {
    style: Style,
    at: At,
    held: String,
    index: u32,
    seed: u64,
}

impl Parser {
    /// `seed` makes the names of the calls.
    #[must_use]
    pub fn new(style: Style, seed: u64) -> Self {
        Self { style, at: At::Start, held: String::new(), index: 0, seed }
    }

    /// Whether a call was found.
    #[must_use]
    pub fn called(&self) -> bool {
        self.index > 0
    }

    /// More text.
    pub fn push(&mut self, text: &str) -> Vec<Found> {
        self.held.push_str(text);
        let mut out = Vec::new();
        while self.step(&mut out) {}
        out
    }

    /// Nothing more comes: what was held back.
    pub fn finish(&mut self) -> Vec<Found> {
        let rest = match std::mem::replace(&mut self.at, At::After) {
            At::Start | At::Text => std::mem::take(&mut self.held),
            At::Call(call, read) if !call.is_named() => read + &std::mem::take(&mut self.held),
            At::Call(..) | At::After => String::new(),
        };
        if rest.is_empty() { Vec::new() } else { vec![Found::Text(rest)] }
    }

    fn begin(&mut self, rest: String, read: String) {
        let list = self.style == Style::Mistral;
        self.at = At::Call(Box::new(Call::new(list)), read);
        self.held = rest;
    }

    /// One step; `false` where more text is needed.
    fn step(&mut self, out: &mut Vec<Found>) -> bool {
        match &mut self.at {
            At::Start => {
                let text = self.held.trim_start();
                if text.is_empty() {
                    return false;
                }
                if self.style == Style::Llama3 && text.starts_with('{') {
                    let (rest, before) = (text.to_owned(), self.held.len() - text.len());
                    let read = self.held.get(..before).unwrap_or_default().to_owned();
                    self.begin(rest, read);
                } else {
                    self.at = At::Text;
                }
                true
            }
            At::Text => {
                let mark = self.style.marks().iter().filter_map(|mark| Some((self.held.find(mark)?, *mark))).min();
                if let Some((at, mark)) = mark {
                    let rest = self.held.split_off(at + mark.len());
                    self.held.truncate(at);
                    let before = self.held.trim_end().to_owned();
                    if !before.is_empty() {
                        out.push(Found::Text(before));
                    }
                    self.begin(rest, mark.to_owned());
                    return true;
                }
                let keep = self.style.marks().iter().map(|mark| overlap(&self.held, mark)).max().unwrap_or(0);
                let sure = self.held.len() - keep;
                let sure = self.held.get(..sure).unwrap_or_default().trim_end().len();
                let rest = self.held.split_off(sure);
                let text = std::mem::replace(&mut self.held, rest);
                if !text.is_empty() {
                    out.push(Found::Text(text));
                }
                false
            }
            At::Call(call, read) => {
                let text = std::mem::take(&mut self.held);
                if !call.is_named() {
                    read.push_str(&text);
                }
                let (step, used) = call.push(&text);
                self.held = text.get(used..).unwrap_or_default().to_owned();
                let (style, seed, index) = (self.style, self.seed, self.index);
                for (name, id, arguments) in call.take() {
                    let id = name.is_some().then(|| id.unwrap_or_else(|| style.id(seed, index)));
                    out.push(Found::Call(ToolCallPiece { index, id, name, arguments }));
                }
                match step {
                    Step::More => return false,
                    Step::Done => {
                        self.index += 1;
                        self.at = At::After;
                    }
                    Step::None => {
                        out.push(Found::Text(std::mem::take(read)));
                        self.held.clear();
                        self.at = At::Text;
                    }
                }
                true
            }
            At::After => self.after(),
        }
    }

    fn after(&mut self) -> bool {
        if self.index >= CALLS_MAX {
            self.held.clear();
            return false;
        }
        let brace = self.held.find('{');
        let mark = self.style.marks().iter().filter_map(|mark| Some(self.held.find(mark)? + mark.len())).min();
        let at = match (mark, brace) {
            (Some(mark), brace) if brace.is_none_or(|brace| mark <= brace) => Some(mark),
            (_, brace) if self.style != Style::Hermes => brace,
            _ => None,
        };
        let Some(rest) = at.map(|at| self.held.split_off(at)) else { return false };
        self.begin(rest, String::new());
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(style: Style, text: &str, by: usize) -> (String, Vec<(String, String)>) {
        let mut parser = Parser::new(style, 1);
        let chars: Vec<char> = text.chars().collect();
        let mut all: Vec<Found> = chars.chunks(by).flat_map(|c| parser.push(&c.iter().collect::<String>())).collect();
        all.extend(parser.finish());
        let (mut said, mut calls) = (String::new(), Vec::<(String, String)>::new());
        for found in all {
            match found {
                Found::Text(text) => said.push_str(&text),
                Found::Call(piece) => {
                    let index = usize::try_from(piece.index).unwrap();
                    if let Some(name) = piece.name {
                        assert_eq!(index, calls.len());
                        assert!(piece.id.is_some());
                        calls.push((name, String::new()));
                    }
                    calls[index].1.push_str(&piece.arguments);
                }
            }
        }
        (said, calls)
    }

    fn check(style: Style, text: &str, said: &str, calls: &[(&str, &str)]) {
        for by in [1, 2, 3, 5, 1_000] {
            let calls = calls.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect::<Vec<_>>();
            assert_eq!(parse(style, text, by), (said.to_owned(), calls), "{text:?} by {by}");
        }
    }

    #[test]
    fn hermes() {
        let call = "<tool_call>\n{\"name\": \"f\", \"arguments\": {\"a\": \"}<\\\"\"}}\n</tool_call>";
        check(Style::Hermes, call, "", &[("f", "{\"a\": \"}<\\\"\"}")]);
        check(Style::Hermes, &format!("I call.\n{call}\n{call}"), "I call.", &[("f", "{\"a\": \"}<\\\"\"}"); 2]);
        check(Style::Hermes, "a < b <tool", "a < b <tool", &[]);
        check(Style::Hermes, "<tool_call>{\"arguments\": {}, \"name\": \"g\"}</tool_call>", "", &[("g", "{}")]);
        check(Style::Hermes, "<tool_call>{\"name\": \"g\"}</tool_call>", "", &[("g", "{}")]);
        check(Style::Hermes, "<tool_call>no</tool_call>", "<tool_call>no</tool_call>", &[]);
    }

    #[test]
    fn llama_3() {
        check(Style::Llama3, " {\"name\": \"f\", \"parameters\": {\"x\": 1}}", "", &[("f", "{\"x\": 1}")]);
        check(
            Style::Llama3,
            "<|python_tag|>{\"name\":\"f\",\"parameters\":{}}; {\"name\":\"g\",\"parameters\":{}}",
            "",
            &[("f", "{}"), ("g", "{}")],
        );
        check(Style::Llama3, "{\"answer\": 1}", "{\"answer\": 1}", &[]);
        check(Style::Llama3, "plain", "plain", &[]);
    }

    #[test]
    fn mistral() {
        let two = "[TOOL_CALLS][{\"name\": \"f\", \"arguments\": {\"a\": [1]}, \"id\": \"abcdefghi\"}, {\"name\": \"g\", \"arguments\": {}}]";
        check(Style::Mistral, two, "", &[("f", "{\"a\": [1]}"), ("g", "{}")]);
        check(
            Style::Mistral,
            "[TOOL_CALLS]f[ARGS]{\"a\": 1}[TOOL_CALLS]g[ARGS]{}",
            "",
            &[("f", "{\"a\": 1}"), ("g", "{}")],
        );
        check(Style::Mistral, "text [1]", "text [1]", &[]);
    }

    #[test]
    fn arguments_that_are_a_string_are_what_it_holds() {
        check(
            Style::Hermes,
            r#"<tool_call>{"name":"f","arguments":"{\"a\":1}"}</tool_call>"#,
            "",
            &[("f", "{\"a\":1}")],
        );
    }
}
