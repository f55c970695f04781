//! What a Checker asks, to see how a model is answered for: never a consumer's text.

use super::transcript::Replayable;
use crate::inference::{Chat, Completion, Content, Message, Prompt, ResponseFormat, Role, Sampling};

/// Tokens of an answer to a question, at least and at most: sixteen answers are two thousand tokens or fewer.
pub const ANSWER_TOKENS: (u32, u32) = (80, 125);

const ASKS: [&str; 12] = [
    "Explain {a} to {w} in a few sentences.",
    "Write a short story about {a} and {b}.",
    "What is the difference between {a} and {b}?",
    "Give me five ideas for {a}, for {w}.",
    "Summarise what is important about {a}.",
    "I have to talk about {a} tomorrow. Where should I begin?",
    "Write an email to {w} about {a}.",
    "How would {w} go about {b}? List the steps.",
    "Why does {a} matter to {w}?",
    "Translate this to French: {w} asked about {a} and {b}.",
    "Make a table of the advantages and disadvantages of {a}.",
    "Continue: it began with {a}, and nobody thought of {b}.",
];
const THINGS: [&str; 32] = [
    "a garden in winter",
    "the tides",
    "sourdough bread",
    "a bicycle chain",
    "compound interest",
    "the French revolution",
    "solar panels",
    "a hash table",
    "learning the violin",
    "the moons of Jupiter",
    "antibiotics",
    "a small claims court",
    "rain barrels",
    "the printing press",
    "chess openings",
    "a night train",
    "vaccines",
    "black holes",
    "a marathon",
    "the price of coffee",
    "glaciers",
    "binary search",
    "an old lighthouse",
    "tax returns",
    "honey bees",
    "sleep",
    "the stock market",
    "a leaking tap",
    "photosynthesis",
    "city traffic",
    "a job interview",
    "the violin concerto",
];
const PEOPLE: [&str; 12] = [
    "a ten-year-old",
    "my grandmother",
    "a new colleague",
    "a farmer",
    "a nurse",
    "students",
    "an engineer",
    "our landlord",
    "a tourist",
    "somebody in a hurry",
    "a sceptic",
    "the team",
];
const NOTES: [&str; 10] = [
    "{w} said that {a} was not what anybody had expected.",
    "In the end {a} turned out to depend on {b}.",
    "There are three reports on {a}, and two of them mention {b}.",
    "Nobody had told {w} about {a} before.",
    "The budget for {a} was cut in spring.",
    "{b} came up again when {w} asked.",
    "It is not clear whether {a} or {b} came first.",
    "Half of those who were asked preferred {a}.",
    "{w} wrote down every detail of {b}.",
    "By the autumn there was little left of {a}.",
];
const SYSTEMS: [&str; 4] = [
    "You are a helpful assistant.",
    "You are a careful assistant. Answer briefly.",
    "Answer in plain words.",
    "You help people at work. Be precise.",
];

/// Numbers from a seed (splitmix64).
struct Chance(u64);

impl Chance {
    fn below(&mut self, count: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        let z = (z ^ (z >> 31)) >> 16;
        let count = u64::try_from(count).unwrap_or(1).max(1);
        usize::try_from(z % count).unwrap_or(0)
    }

    fn one<'a>(&mut self, of: &[&'a str]) -> &'a str {
        let at = self.below(of.len());
        of.get(at).copied().unwrap_or_default()
    }

    fn filled(&mut self, frames: &[&str]) -> String {
        let (a, b, w) = (self.one(&THINGS), self.one(&THINGS), self.one(&PEOPLE));
        self.one(frames).replace("{a}", a).replace("{b}", b).replace("{w}", w)
    }

    fn text(&mut self) -> String {
        let ask = self.filled(&ASKS);
        if self.below(2) == 0 {
            return ask;
        }
        let notes: Vec<String> = (0..2 + self.below(9)).map(|_| self.filled(&NOTES)).collect();
        format!("{}\n\n{ask}", notes.join(" "))
    }
}

/// The question of this number: a text of everyday words, options as people set them, and a seed of its own. Numbers are
/// drawn by who asks, so that nobody foresees them; 2⁶⁴ questions are too many to have answers ready.
#[must_use]
pub fn question(number: u64, chat: bool) -> Replayable {
    let mut chance = Chance(number);
    let text = chance.text();
    let (least, most) = ANSWER_TOKENS;
    let more = chance.below(usize::try_from(most - least).unwrap_or(0) + 1);
    let sampling = Sampling {
        max_tokens: Some(least + u32::try_from(more).unwrap_or(0)),
        temperature: [0.6, 0.7, 0.8, 1.0, 1.0].get(chance.below(5)).copied().unwrap_or(1.0),
        top_p: [1.0, 1.0, 0.95, 0.9].get(chance.below(4)).copied().unwrap_or(1.0),
        seed: Some(u64::try_from(chance.below(1 << 40)).unwrap_or(0) ^ number.rotate_left(17)),
        ..Sampling::default()
    };
    if !chat {
        let (prompts, format) = (vec![Prompt::Text(text)], ResponseFormat::Text);
        return Replayable::Completion(Box::new(Completion { prompts, echo: false, suffix: None, format, sampling }));
    }
    let message = |role, text: String| {
        let content = Content::Text(text);
        Message { role, content, tool_calls: Vec::new(), tool_call_id: None, name: None }
    };
    let mut messages = vec![message(Role::User, text)];
    if chance.below(3) > 0 {
        messages.insert(0, message(Role::System, chance.one(&SYSTEMS).to_owned()));
    }
    Replayable::Chat(Box::new(Chat { messages, parallel_tool_calls: true, sampling, ..Chat::default() }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inference::audit::Replay;

    #[test]
    fn questions_are_many_and_can_be_replayed() {
        let mut seen = std::collections::BTreeSet::new();
        for number in 0..2_000 {
            for chat in [true, false] {
                let to = question(number, chat);
                assert_eq!(to, question(number, chat));
                let max = to.sampling().max_tokens.unwrap();
                assert!((ANSWER_TOKENS.0..=ANSWER_TOKENS.1).contains(&max));
                assert_eq!(Replay { to: to.clone(), choice: 0, tokens: vec![1] }.check(), Ok(()));
                if let Replayable::Completion(completion) = to {
                    let Prompt::Text(text) = &completion.prompts[0] else { panic!("a text") };
                    assert!(!text.contains('{'), "{text}");
                    seen.insert(text.clone());
                }
            }
        }
        assert!(seen.len() > 1_800, "{}", seen.len());
    }
}
