//! Reading JSON field by field, so that what is wrong is told by its name, and writing it without building it first.

use std::fmt;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;

use super::error::ApiError;

/// A field as it stands in the body; `None` where it is missing or null.
pub(crate) type Raw<'a> = Option<&'a RawValue>;

/// How deep the schemas and variables that are passed on may go.
const DEPTH_MAX: usize = 64;

/// Where in a body: written out only when it is told.
#[derive(Clone, Copy, Debug)]
pub(crate) enum At<'a> {
    Field(&'a str),
    Item(&'a At<'a>, usize),
    Of(&'a At<'a>, &'a str),
}

impl fmt::Display for At<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Field(name) => f.write_str(name),
            Self::Item(list, index) => write!(f, "{list}[{index}]"),
            Self::Of(object, name) => write!(f, "{object}.{name}"),
        }
    }
}

impl At<'_> {
    pub(crate) fn invalid(&self, what_it_must_be: &str, got: &RawValue) -> ApiError {
        let at = self.to_string();
        let message = format!("{at} is {}; it must be {what_it_must_be}", kind(got));
        ApiError::invalid(&at, message)
    }

    pub(crate) fn missing(&self) -> ApiError {
        let at = self.to_string();
        let message = format!("{at} is missing, and it is needed");
        ApiError::invalid(&at, message)
    }

    pub(crate) fn wrong(&self, why: impl fmt::Display) -> ApiError {
        let at = self.to_string();
        ApiError::invalid(&at, format!("{at} {why}"))
    }

    pub(crate) fn unserved(&self, why: impl fmt::Display) -> ApiError {
        let at = self.to_string();
        ApiError::unsupported(&at, format!("{at} {why}"))
    }
}

/// What a value is, for people.
fn kind(raw: &RawValue) -> String {
    let text = raw.get();
    match text.as_bytes().first() {
        Some(b'"') => "a string".to_owned(),
        Some(b'{') => "an object".to_owned(),
        Some(b'[') => "a list".to_owned(),
        _ => text.chars().take(24).collect(),
    }
}

/// A value of its own kind; `must_be` says which.
pub(crate) fn get<T: DeserializeOwned>(raw: Raw<'_>, at: &At<'_>, must_be: &str) -> Result<Option<T>, ApiError> {
    let Some(raw) = raw else { return Ok(None) };
    serde_json::from_str(raw.get()).map(Some).map_err(|_| at.invalid(must_be, raw))
}

pub(crate) fn string(raw: Raw<'_>, at: &At<'_>) -> Result<Option<String>, ApiError> {
    get(raw, at, "a string")
}

pub(crate) fn boolean(raw: Raw<'_>, at: &At<'_>) -> Result<Option<bool>, ApiError> {
    get(raw, at, "true or false")
}

/// The items of a list.
pub(crate) fn list<'a>(raw: &'a RawValue, at: &At<'_>) -> Result<Vec<&'a RawValue>, ApiError> {
    serde_json::from_str(raw.get()).map_err(|_| at.invalid("a list", raw))
}

/// An object, by its fields.
pub(crate) fn object<'a, T: Deserialize<'a>>(raw: &'a RawValue, at: &At<'_>) -> Result<T, ApiError> {
    // A list would be taken for an object's fields in their order.
    if !raw.get().starts_with('{') {
        return Err(at.invalid("an object", raw));
    }
    serde_json::from_str(raw.get()).map_err(|error| at.wrong(format_args!("cannot be read: {error}")))
}

/// An object that is passed on as text: of a bounded depth, and in one line.
pub(crate) fn text_of_object(raw: &RawValue, at: &At<'_>) -> Result<String, ApiError> {
    if !raw.get().starts_with('{') {
        return Err(at.invalid("an object", raw));
    }
    if depth(raw.get()) > DEPTH_MAX {
        return Err(at.wrong(format_args!("is nested more than {DEPTH_MAX} deep")));
    }
    Ok(one_line(raw))
}

/// The value in one line: line breaks between its parts are made spaces; there are none inside.
pub(crate) fn one_line(raw: &RawValue) -> String {
    raw.get().replace(['\n', '\r'], " ")
}

fn depth(text: &str) -> usize {
    let (mut now, mut most, mut quoted, mut escaped) = (0_usize, 0, false, false);
    for byte in text.bytes() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            b'{' | b'[' if !quoted => {
                now += 1;
                most = most.max(now);
            }
            b'}' | b']' if !quoted => now = now.saturating_sub(1),
            _ => {}
        }
    }
    most
}

/// Which bytes cannot stand in a JSON string as they are.
const ESCAPED: [bool; 256] = {
    let mut table = [false; 256];
    let mut at = 0;
    while at < 32 {
        table[at] = true;
        at += 1;
    }
    table[b'"' as usize] = true;
    table[b'\\' as usize] = true;
    table
};

/// Writes a text as a JSON string.
pub(crate) fn quote(to: &mut Vec<u8>, text: &str) {
    to.push(b'"');
    escape(to, text);
    to.push(b'"');
}

/// Writes a text as it stands inside a JSON string.
pub(crate) fn escape(to: &mut Vec<u8>, text: &str) {
    let mut rest = text.as_bytes();
    while let Some(at) = rest.iter().position(|byte| ESCAPED.get(usize::from(*byte)).copied().unwrap_or(false)) {
        let (plain, from) = rest.split_at(at);
        to.extend_from_slice(plain);
        let Some((special, after)) = from.split_first() else { return };
        match special {
            b'"' => to.extend_from_slice(b"\\\""),
            b'\\' => to.extend_from_slice(b"\\\\"),
            b'\n' => to.extend_from_slice(b"\\n"),
            b'\r' => to.extend_from_slice(b"\\r"),
            b'\t' => to.extend_from_slice(b"\\t"),
            other => {
                let hex = |digit: u8| if digit < 10 { b'0' + digit } else { b'a' + digit - 10 };
                to.extend_from_slice(b"\\u00");
                to.push(hex(other >> 4));
                to.push(hex(other & 15));
            }
        }
        rest = after;
    }
    to.extend_from_slice(rest);
}

/// Writes a whole number.
pub(crate) fn number(to: &mut Vec<u8>, number: u64) {
    let mut digits = [0_u8; 20];
    let mut rest = number;
    let mut from = digits.len();
    for (at, place) in digits.iter_mut().enumerate().rev() {
        *place = b'0' + u8::try_from(rest % 10).unwrap_or(0);
        from = at;
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    to.extend_from_slice(digits.get(from..).unwrap_or_default());
}

/// Writes a number with a fraction; what is no number becomes 0, which JSON can hold.
pub(crate) fn float(to: &mut Vec<u8>, number: f32) {
    let number = if number.is_finite() { number } else { 0.0 };
    // Writing to memory does not fail.
    let _ = serde_json::to_writer(to, &number);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_is_quoted_reads_the_same(text in any::<String>(), count: u64, value: f32) {
            let mut out = Vec::new();
            quote(&mut out, &text);
            prop_assert_eq!(serde_json::from_slice::<String>(&out).unwrap(), text);
            out.clear();
            number(&mut out, count);
            prop_assert_eq!(String::from_utf8(out.clone()).unwrap(), count.to_string());
            out.clear();
            float(&mut out, value);
            let read: f32 = serde_json::from_slice(&out).unwrap();
            prop_assert_eq!(read, if value.is_finite() { value } else { 0.0 });
        }
    }

    #[test]
    fn all_control_characters_are_escaped() {
        let text: String = (0_u8..128).map(char::from).collect();
        let mut out = Vec::new();
        quote(&mut out, &text);
        assert!(out.iter().all(|byte| *byte >= 32));
        assert_eq!(serde_json::from_slice::<String>(&out).unwrap(), text);
    }

    #[test]
    fn depth_looks_past_strings() {
        assert_eq!(depth(r#"{"a":[{"b":"]}}[[\"[["}]}"#), 3);
        let at = At::Item(&At::Field("messages"), 2);
        assert_eq!(At::Of(&at, "content").to_string(), "messages[2].content");
    }
}
