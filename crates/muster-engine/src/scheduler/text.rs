//! From tokens' bytes to text that may be shown.

/// Puts characters together from bytes that come in any pieces.
#[derive(Clone, Debug, Default)]
pub struct Utf8 {
    held: Vec<u8>,
}

impl Utf8 {
    /// More bytes; what is whole comes back. What can be no character becomes U+FFFD.
    pub fn push(&mut self, bytes: &[u8]) -> String {
        self.held.extend_from_slice(bytes);
        let mut text = String::new();
        loop {
            match std::str::from_utf8(&self.held) {
                Ok(whole) => {
                    text.push_str(whole);
                    self.held.clear();
                    return text;
                }
                Err(error) => {
                    let valid = error.valid_up_to();
                    text.push_str(&String::from_utf8_lossy(self.held.get(..valid).unwrap_or_default()));
                    let wrong = error.error_len();
                    self.held.drain(..valid + wrong.unwrap_or(0));
                    if wrong.is_none() {
                        return text;
                    }
                    text.push(char::REPLACEMENT_CHARACTER);
                }
            }
        }
    }

    /// Nothing more comes: what was begun and is no character.
    pub fn finish(&mut self) -> String {
        let text = String::from_utf8_lossy(&self.held).into_owned();
        self.held.clear();
        text
    }
}

/// How many bytes at the end of `text` may be the beginning of `mark`.
pub(crate) fn overlap(text: &str, mark: &str) -> usize {
    let most = text.len().min(mark.len().saturating_sub(1));
    (1..=most).rev().find(|len| text.as_bytes().ends_with(mark.as_bytes().get(..*len).unwrap_or_default())).unwrap_or(0)
}

/// Holds text back for as long as it may be the beginning of a sequence at which the answer stops.
#[derive(Clone, Debug)]
pub struct Stops {
    stops: Vec<String>,
    held: String,
}

impl Stops {
    /// The sequences; an empty one is none.
    #[must_use]
    pub fn new(stops: &[String]) -> Self {
        Self { stops: stops.iter().filter(|stop| !stop.is_empty()).cloned().collect(), held: String::new() }
    }

    /// More text: what may be shown, and whether a sequence came. After one nothing more may be shown.
    pub fn push(&mut self, text: &str) -> (String, bool) {
        self.held.push_str(text);
        if let Some(at) = self.stops.iter().filter_map(|stop| self.held.find(stop.as_str())).min() {
            self.held.truncate(at);
            return (std::mem::take(&mut self.held), true);
        }
        let keep = self.stops.iter().map(|stop| overlap(&self.held, stop)).max().unwrap_or(0);
        let mut at = self.held.len() - keep;
        // A mark of several bytes a character may begin within one: the whole character waits.
        while !self.held.is_char_boundary(at) {
            at -= 1;
        }
        let rest = self.held.split_off(at);
        (std::mem::replace(&mut self.held, rest), false)
    }

    /// Nothing more comes: what was held back.
    pub fn finish(&mut self) -> String {
        std::mem::take(&mut self.held)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_stop_across_borders_is_never_shown_in_part() {
        let mut stops = Stops::new(&["END".to_owned(), "\n\n".to_owned()]);
        assert_eq!(stops.push("one E"), ("one ".to_owned(), false));
        assert_eq!(stops.push("N"), (String::new(), false));
        assert_eq!(stops.push("x E"), ("ENx ".to_owned(), false));
        assert_eq!(stops.push("ND and"), (String::new(), true));
    }

    #[test]
    fn broken_bytes_become_replacements() {
        let mut utf8 = Utf8::default();
        assert_eq!(utf8.push(&[0xe2, 0x82]), "");
        assert_eq!(utf8.push(&[0xac, b'a', 0xff]), "€a\u{fffd}");
        assert_eq!(utf8.push(&[0xc3]), "");
        assert_eq!(utf8.finish(), "\u{fffd}");
    }

    proptest! {
        #[test]
        fn text_comes_whole_in_whatever_pieces(text in "[aé€😀 ]{0,40}", cuts in prop::collection::vec(1usize..5, 1..60)) {
            let mut utf8 = Utf8::default();
            let (mut rest, mut got) = (text.as_bytes(), String::new());
            for cut in cuts.iter().cycle() {
                if rest.is_empty() { break; }
                let (head, tail) = rest.split_at((*cut).min(rest.len()));
                got.push_str(&utf8.push(head));
                rest = tail;
            }
            got.push_str(&utf8.finish());
            prop_assert_eq!(got, text);
        }

        #[test]
        fn what_is_shown_is_what_is_before_the_first_stop(
            text in "[ab€]{0,40}", stops in prop::collection::vec("[ab€]{1,4}", 0..4),
            cuts in prop::collection::vec(1usize..4, 1..60),
        ) {
            let end = stops.iter().filter_map(|stop| text.find(stop.as_str())).min();
            let mut matcher = Stops::new(&stops);
            let (mut got, mut hit) = (String::new(), false);
            let chars: Vec<char> = text.chars().collect();
            let mut at = 0;
            for cut in cuts.iter().cycle() {
                if at >= chars.len() || hit { break; }
                let piece: String = chars.iter().skip(at).take(*cut).collect();
                at += cut;
                let (shown, stopped) = matcher.push(&piece);
                got.push_str(&shown);
                hit = stopped;
            }
            if !hit { got.push_str(&matcher.finish()); }
            // A piece may hold a later stop wholly before an earlier one is complete; within one piece the first counts.
            prop_assert_eq!(hit, end.is_some());
            if let Some(end) = end { prop_assert!(got.len() >= end && !stops.iter().any(|s| got.contains(s.as_str()))); }
            else { prop_assert_eq!(got, text); }
        }
    }
}
