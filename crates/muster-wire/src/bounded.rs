//! Fields whose size a peer declares: the bound is part of the type, and holds on every way in.

use core::fmt;
use core::ops::Deref;

use serde::de::{Error as _, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Something is longer than its type allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{len} {unit}, at most {max} are allowed")]
pub struct BoundError {
    /// What was given.
    pub len: usize,
    /// What is allowed.
    pub max: usize,
    /// What is counted.
    pub unit: &'static str,
}

fn within(len: usize, max: usize, unit: &'static str) -> Result<(), BoundError> {
    if len <= max { Ok(()) } else { Err(BoundError { len, max, unit }) }
}

/// UTF-8 text of at most `N` bytes.
#[derive(Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct BoundedString<const N: usize>(String);

impl<const N: usize> BoundedString<N> {
    /// Takes the text if it fits.
    ///
    /// # Errors
    /// The text has more than `N` bytes.
    pub fn new(text: impl Into<String>) -> Result<Self, BoundError> {
        let text = text.into();
        within(text.len(), N, "bytes of text")?;
        Ok(Self(text))
    }

    /// As much of the text as fits, cut between characters: for reasons and logs, where the rest is no loss.
    #[must_use]
    pub fn truncated(text: &str) -> Self {
        Self(text.get(..text.floor_char_boundary(N)).unwrap_or_default().to_owned())
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Gives the text away.
    #[must_use]
    pub fn into_string(self) -> String {
        self.0
    }
}

impl<const N: usize> Deref for BoundedString<N> {
    type Target = str;
    fn deref(&self) -> &str {
        &self.0
    }
}

impl<const N: usize> AsRef<str> for BoundedString<N> {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl<const N: usize> fmt::Display for BoundedString<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl<const N: usize> fmt::Debug for BoundedString<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl<const N: usize> TryFrom<String> for BoundedString<N> {
    type Error = BoundError;
    fn try_from(text: String) -> Result<Self, BoundError> {
        Self::new(text)
    }
}

impl<const N: usize> TryFrom<&str> for BoundedString<N> {
    type Error = BoundError;
    fn try_from(text: &str) -> Result<Self, BoundError> {
        within(text.len(), N, "bytes of text")?;
        Ok(Self(text.to_owned()))
    }
}

impl<'de, const N: usize> Deserialize<'de> for BoundedString<N> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text<const N: usize>;
        impl<const N: usize> Visitor<'_> for Text<N> {
            type Value = BoundedString<N>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "text of at most {N} bytes")
            }
            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Self::Value, E> {
                BoundedString::try_from(text).map_err(E::custom)
            }
            fn visit_string<E: serde::de::Error>(self, text: String) -> Result<Self::Value, E> {
                BoundedString::new(text).map_err(E::custom)
            }
        }
        // `deserialize_str`, not `_string`: a decoder that can lend the text has then allocated nothing yet.
        deserializer.deserialize_str(Text::<N>)
    }
}

/// A list of at most `N` items.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct BoundedVec<T, const N: usize>(Vec<T>);

impl<T, const N: usize> BoundedVec<T, N> {
    /// Takes the list if it fits.
    ///
    /// # Errors
    /// The list has more than `N` items.
    pub fn new(items: Vec<T>) -> Result<Self, BoundError> {
        within(items.len(), N, "items")?;
        Ok(Self(items))
    }

    /// Adds an item at the end.
    ///
    /// # Errors
    /// The list is full already.
    pub fn push(&mut self, item: T) -> Result<(), BoundError> {
        within(self.0.len().saturating_add(1), N, "items")?;
        self.0.push(item);
        Ok(())
    }

    /// Gives the list away.
    #[must_use]
    pub fn into_vec(self) -> Vec<T> {
        self.0
    }
}

impl<T, const N: usize> Default for BoundedVec<T, N> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T: fmt::Debug, const N: usize> fmt::Debug for BoundedVec<T, N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl<T, const N: usize> Deref for BoundedVec<T, N> {
    type Target = [T];
    fn deref(&self) -> &[T] {
        &self.0
    }
}

impl<T, const N: usize> TryFrom<Vec<T>> for BoundedVec<T, N> {
    type Error = BoundError;
    fn try_from(items: Vec<T>) -> Result<Self, BoundError> {
        Self::new(items)
    }
}

impl<T, const N: usize> IntoIterator for BoundedVec<T, N> {
    type Item = T;
    type IntoIter = std::vec::IntoIter<T>;
    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

impl<'a, T, const N: usize> IntoIterator for &'a BoundedVec<T, N> {
    type Item = &'a T;
    type IntoIter = core::slice::Iter<'a, T>;
    fn into_iter(self) -> Self::IntoIter {
        self.0.iter()
    }
}

impl<'de, T: Deserialize<'de>, const N: usize> Deserialize<'de> for BoundedVec<T, N> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Items<T, const N: usize>(core::marker::PhantomData<T>);
        impl<'de, T: Deserialize<'de>, const N: usize> Visitor<'de> for Items<T, N> {
            type Value = BoundedVec<T, N>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "a list of at most {N} items")
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
                // The declared length is refused before anything is reserved for it; what is reserved otherwise stays
                // small, because a peer can declare `N` items and send none.
                const RESERVE_MAX: usize = 64;
                let declared = seq.size_hint().unwrap_or(0);
                within(declared, N, "items").map_err(A::Error::custom)?;
                let mut items = Vec::with_capacity(declared.min(RESERVE_MAX));
                while let Some(item) = seq.next_element()? {
                    within(items.len().saturating_add(1), N, "items").map_err(A::Error::custom)?;
                    items.push(item);
                }
                Ok(BoundedVec(items))
            }
        }
        deserializer.deserialize_seq(Items::<T, N>(core::marker::PhantomData))
    }
}

/// At most `N` bytes of anything.
#[derive(Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BoundedBytes<const N: usize>(Vec<u8>);

impl<const N: usize> BoundedBytes<N> {
    /// Takes the bytes if they fit.
    ///
    /// # Errors
    /// There are more than `N`.
    pub fn new(bytes: impl Into<Vec<u8>>) -> Result<Self, BoundError> {
        let bytes = bytes.into();
        within(bytes.len(), N, "bytes")?;
        Ok(Self(bytes))
    }

    /// Gives the bytes away.
    #[must_use]
    pub fn into_vec(self) -> Vec<u8> {
        self.0
    }
}

impl<const N: usize> Deref for BoundedBytes<N> {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl<const N: usize> AsRef<[u8]> for BoundedBytes<N> {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl<const N: usize> fmt::Debug for BoundedBytes<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}

impl<const N: usize> TryFrom<Vec<u8>> for BoundedBytes<N> {
    type Error = BoundError;
    fn try_from(bytes: Vec<u8>) -> Result<Self, BoundError> {
        Self::new(bytes)
    }
}

impl<const N: usize> TryFrom<&[u8]> for BoundedBytes<N> {
    type Error = BoundError;
    fn try_from(bytes: &[u8]) -> Result<Self, BoundError> {
        within(bytes.len(), N, "bytes")?;
        Ok(Self(bytes.to_vec()))
    }
}

impl<const N: usize> Serialize for BoundedBytes<N> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(&self.0)
    }
}

impl<'de, const N: usize> Deserialize<'de> for BoundedBytes<N> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Raw<const N: usize>;
        impl<'de, const N: usize> Visitor<'de> for Raw<N> {
            type Value = BoundedBytes<N>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "at most {N} bytes")
            }
            fn visit_bytes<E: serde::de::Error>(self, bytes: &[u8]) -> Result<Self::Value, E> {
                BoundedBytes::try_from(bytes).map_err(E::custom)
            }
            fn visit_byte_buf<E: serde::de::Error>(self, bytes: Vec<u8>) -> Result<Self::Value, E> {
                BoundedBytes::new(bytes).map_err(E::custom)
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
                // Formats without a byte string (JSON) give a list of numbers.
                let mut bytes = Vec::new();
                while let Some(byte) = seq.next_element()? {
                    within(bytes.len().saturating_add(1), N, "bytes").map_err(A::Error::custom)?;
                    bytes.push(byte);
                }
                Ok(BoundedBytes(bytes))
            }
        }
        deserializer.deserialize_bytes(Raw::<N>)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn bounds_hold_at_the_edge() {
        assert_eq!(BoundedString::<4>::new("four").unwrap().as_str(), "four");
        assert_eq!(BoundedString::<4>::new("fives").unwrap_err().to_string(), "5 bytes of text, at most 4 are allowed");
        assert!(BoundedVec::<u8, 2>::new(vec![1, 2]).is_ok());
        assert!(BoundedVec::<u8, 2>::new(vec![1, 2, 3]).is_err());
        assert!(BoundedBytes::<2>::new([1, 2]).is_ok());
        assert!(BoundedBytes::<2>::new([1, 2, 3]).is_err());
        let mut list = BoundedVec::<u8, 1>::default();
        assert!(list.push(1).is_ok());
        assert!(list.push(2).is_err());
        assert_eq!(&*list, [1]);
    }

    #[test]
    fn text_is_cut_between_characters() {
        assert_eq!(BoundedString::<4>::truncated("aäöü").as_str(), "aä");
        assert_eq!(BoundedString::<4>::truncated("ab").as_str(), "ab");
    }

    #[test]
    fn a_declared_length_is_refused_before_the_items_are_read() {
        // A list that declares 2^35 items and holds none.
        let huge = [0x80, 0x80, 0x80, 0x80, 0x80, 0x01];
        assert!(postcard::from_bytes::<BoundedVec<u64, 1024>>(&huge).is_err());
        assert!(postcard::from_bytes::<BoundedBytes<1024>>(&huge).is_err());
        assert!(postcard::from_bytes::<BoundedString<1024>>(&huge).is_err());
    }

    proptest! {
        #[test]
        fn what_fits_survives_and_what_does_not_is_refused(items in proptest::collection::vec(any::<u16>(), 0..12)) {
            let bytes = postcard::to_allocvec(&items).unwrap();
            let back = postcard::from_bytes::<BoundedVec<u16, 8>>(&bytes);
            prop_assert_eq!(back.is_ok(), items.len() <= 8);
            if let Ok(back) = back {
                prop_assert_eq!(postcard::to_allocvec(&back).unwrap(), bytes);
                prop_assert_eq!(back.into_vec(), items);
            }
        }

        #[test]
        fn text_and_bytes_keep_their_bound(text in ".{0,12}") {
            let bytes = postcard::to_allocvec(&text).unwrap();
            prop_assert_eq!(postcard::from_bytes::<BoundedString<16>>(&bytes).is_ok(), text.len() <= 16);
            prop_assert_eq!(postcard::from_bytes::<BoundedBytes<16>>(&bytes).is_ok(), text.len() <= 16);
            prop_assert!(BoundedString::<16>::truncated(&text).len() <= 16);
        }
    }
}
