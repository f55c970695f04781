//! A piece of a stream, read without building a tree of it: a server may say anything in a field, and what is not of its
//! kind is as if it were not there.

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;

use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor, value::MapAccessDeserializer};
use serde_json::Value;

/// A piece: what is read of it.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Piece<'a> {
    pub(super) usage: Loose<Usage>,
    #[serde(borrow)]
    pub(super) choices: Loose<Vec<Loose<Choice<'a>>>>,
    pub(super) error: Option<Value>,
}

impl<'a> Piece<'a> {
    /// `None` for what is no JSON.
    pub(super) fn read(text: &'a str) -> Option<Self> {
        let piece: Loose<Self> = serde_json::from_str(text).ok()?;
        Some(piece.0.unwrap_or_default())
    }
}

/// What a server has counted.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Usage {
    pub(super) prompt_tokens: Loose<u64>,
    pub(super) completion_tokens: Loose<u64>,
    pub(super) prompt_tokens_details: Loose<Details>,
}

/// Of the prompt.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Details {
    pub(super) cached_tokens: Loose<u64>,
}

/// What is new of one answer.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Choice<'a> {
    pub(super) index: Loose<u64>,
    #[serde(borrow)]
    pub(super) delta: Loose<Delta<'a>>,
    #[serde(borrow)]
    pub(super) text: Loose<Cow<'a, str>>,
    pub(super) logprobs: Option<Value>,
    #[serde(borrow)]
    pub(super) finish_reason: Loose<Cow<'a, str>>,
}

/// The same of a conversation.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Delta<'a> {
    #[serde(borrow)]
    pub(super) content: Loose<Cow<'a, str>>,
    #[serde(borrow)]
    pub(super) reasoning_content: Loose<Cow<'a, str>>,
    #[serde(borrow)]
    pub(super) reasoning: Loose<Cow<'a, str>>,
    pub(super) tool_calls: Option<Value>,
}

/// A value of its kind, or nothing.
#[derive(Debug)]
pub(super) struct Loose<T>(pub(super) Option<T>);

impl<T> Default for Loose<T> {
    fn default() -> Self {
        Self(None)
    }
}

/// What can be taken of what is met; whoever does not override one has nothing of it.
pub(super) trait Kind<'de>: Sized {
    fn of_number(_: u64) -> Option<Self> {
        None
    }
    fn of_text(_: Cow<'de, str>) -> Option<Self> {
        None
    }
    fn of_list<A: SeqAccess<'de>>(mut list: A) -> Result<Option<Self>, A::Error> {
        while list.next_element::<IgnoredAny>()?.is_some() {}
        Ok(None)
    }
    fn of_object<A: MapAccess<'de>>(mut object: A) -> Result<Option<Self>, A::Error> {
        while object.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(None)
    }
}

impl Kind<'_> for u64 {
    fn of_number(number: u64) -> Option<Self> {
        Some(number)
    }
}

impl<'de: 'a, 'a> Kind<'de> for Cow<'a, str> {
    fn of_text(text: Cow<'de, str>) -> Option<Self> {
        Some(text)
    }
}

impl<'de, T: Kind<'de>> Kind<'de> for Vec<Loose<T>> {
    fn of_list<A: SeqAccess<'de>>(mut list: A) -> Result<Option<Self>, A::Error> {
        let mut all = Self::new();
        while let Some(one) = list.next_element()? {
            all.push(one);
        }
        Ok(Some(all))
    }
}

/// What is an object of known fields.
macro_rules! object {
    ($($kind:ident $(<$life:lifetime>)?),*) => {$(
        impl<'de $(: $life, $life)?> Kind<'de> for $kind$(<$life>)? {
            fn of_object<A: MapAccess<'de>>(object: A) -> Result<Option<Self>, A::Error> {
                Self::deserialize(MapAccessDeserializer::new(object)).map(Some)
            }
        }
    )*};
}

object!(Usage, Details, Piece<'a>, Choice<'a>, Delta<'a>);

impl<'de, T: Kind<'de>> Deserialize<'de> for Loose<T> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(Anything(PhantomData)).map(Self)
    }
}

struct Anything<T>(PhantomData<T>);

impl<'de, T: Kind<'de>> Visitor<'de> for Anything<T> {
    type Value = Option<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("anything")
    }

    fn visit_unit<E>(self) -> Result<Option<T>, E> {
        Ok(None)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Option<T>, E> {
        Ok(None)
    }

    fn visit_u64<E>(self, number: u64) -> Result<Option<T>, E> {
        Ok(T::of_number(number))
    }

    fn visit_i64<E>(self, _: i64) -> Result<Option<T>, E> {
        Ok(None)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Option<T>, E> {
        Ok(None)
    }

    fn visit_str<E>(self, text: &str) -> Result<Option<T>, E> {
        Ok(T::of_text(Cow::Owned(text.to_owned())))
    }

    fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Option<T>, E> {
        Ok(T::of_text(Cow::Borrowed(text)))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<Option<T>, A::Error> {
        T::of_list(list)
    }

    fn visit_map<A: MapAccess<'de>>(self, object: A) -> Result<Option<T>, A::Error> {
        T::of_object(object)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_of_another_kind_is_not_there() {
        let text = r#"{"choices":[{"index":1,"delta":{"content":"a\nb","role":"assistant","reasoning":[1,{"x":2}]},"finish_reason":null},
            7, "x", null, {"index":"one","delta":"none","text":-1,"finish_reason":{"a":1}}],"usage":{"prompt_tokens":3,"completion_tokens":-1,
            "prompt_tokens_details":null},"other":{"deep":[[[]]]}}"#;
        let piece = Piece::read(text).unwrap();
        let choices = piece.choices.0.unwrap();
        assert_eq!(choices.len(), 5);
        let first = choices[0].0.as_ref().unwrap();
        let delta = first.delta.0.as_ref().unwrap();
        assert_eq!((first.index.0, delta.content.0.as_deref()), (Some(1), Some("a\nb")));
        assert!(first.finish_reason.0.is_none() && delta.reasoning.0.is_none() && delta.tool_calls.is_none());
        assert!(choices[1].0.is_none() && choices[2].0.is_none() && choices[3].0.is_none());
        let last = choices[4].0.as_ref().unwrap();
        assert!(last.index.0.is_none() && last.delta.0.is_none() && last.text.0.is_none());
        let usage = piece.usage.0.unwrap();
        assert_eq!((usage.prompt_tokens.0, usage.completion_tokens.0), (Some(3), None));
        for nothing in ["{}", "[1]", "7", r#"{"choices":null}"#, r#"{"choices":{"a":1},"usage":[]}"#] {
            let piece = Piece::read(nothing).unwrap();
            assert!(piece.choices.0.is_none() && piece.usage.0.is_none(), "{nothing}");
        }
        assert!(Piece::read(r#"{"choices":["#).is_none());
    }
}
