//! One message as bytes: `u32` length (little-endian) of what follows, a version byte, a postcard body.

use serde::Serialize;
use serde::de::DeserializeOwned;

/// The version of every message's shape that this build speaks.
pub const WIRE_VERSION: u8 = 1;

/// Bytes of the length in front of a frame.
pub const LENGTH_BYTES: usize = 4;

/// Bytes of a frame that are not body: length and version.
pub const OVERHEAD_BYTES: usize = LENGTH_BYTES + 1;

/// What is wrong with bytes that should be a message, or with a message that should become bytes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// The frame says that it is longer than its message may be.
    #[error("frame of {len} bytes, at most {max} are allowed here")]
    TooLong {
        /// Bytes after the length, as declared.
        len: usize,
        /// Bytes after the length that the message type allows.
        max: usize,
    },
    /// The frame is shorter than its version byte.
    #[error("empty frame")]
    Empty,
    /// The frame ends before it says it does.
    #[error("frame ends after {got} of {want} bytes")]
    Truncated {
        /// Bytes that are there.
        got: usize,
        /// Bytes that should be.
        want: usize,
    },
    /// A version that this build does not speak.
    #[error("message version {got}, this node speaks {WIRE_VERSION}")]
    Version {
        /// The version byte.
        got: u8,
    },
    /// The body is not a message of the expected type.
    #[error("malformed message")]
    Malformed(#[source] postcard::Error),
    /// The body goes on after the message.
    #[error("{count} bytes after the end of the message")]
    Trailing {
        /// Bytes too many.
        count: usize,
    },
    /// A field is out of its bounds.
    #[error("field {field}: {why}")]
    Field {
        /// The field, as a path (`offer.price`).
        field: &'static str,
        /// What is wrong with it.
        why: String,
    },
    /// The message cannot be written.
    #[error("message cannot be encoded")]
    Encode(#[source] postcard::Error),
}

impl WireError {
    /// A field that [`WireMessage::check`] turns down.
    pub fn field(field: &'static str, why: impl Into<String>) -> Self {
        Self::Field { field, why: why.into() }
    }
}

/// A message that travels between nodes.
///
/// # Example
/// ```
/// use muster_wire::{BoundedString, WireError, WireMessage, frame};
/// use serde::{Deserialize, Serialize};
///
/// #[derive(Debug, PartialEq, Serialize, Deserialize)]
/// struct Hello {
///     name: BoundedString<32>,
///     cores: u32,
/// }
///
/// impl WireMessage for Hello {
///     const MAX_LEN: usize = 64;
///     fn check(&self) -> Result<(), WireError> {
///         if self.cores == 0 { Err(WireError::field("cores", "at least one is needed")) } else { Ok(()) }
///     }
/// }
///
/// let hello = Hello { name: "a node".try_into()?, cores: 4 };
/// let bytes = frame::encode(&hello)?;
/// assert_eq!(frame::decode::<Hello>(&bytes)?, hello);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub trait WireMessage: Serialize + DeserializeOwned {
    /// The greatest length of the body in bytes; a longer frame is refused before anything is allocated for it.
    const MAX_LEN: usize;

    /// Checks what the types do not: ranges, relations between fields.
    ///
    /// # Errors
    /// Names the field and what is wrong with it.
    fn check(&self) -> Result<(), WireError>;
}

/// Bytes that a frame of `M` may have after its length.
#[must_use]
pub const fn payload_max<M: WireMessage>() -> usize {
    M::MAX_LEN + 1
}

/// Reads a frame's declared length and refuses it if `M` may not be that long. Gives the bytes that follow the length.
///
/// # Errors
/// The frame is empty or too long.
pub fn check_length<M: WireMessage>(header: [u8; LENGTH_BYTES]) -> Result<usize, WireError> {
    let max = payload_max::<M>();
    // A length beyond usize (on a 16-bit machine) is too long like any other.
    let len = usize::try_from(u32::from_le_bytes(header)).unwrap_or(usize::MAX);
    match len {
        0 => Err(WireError::Empty),
        _ if len > max => Err(WireError::TooLong { len, max }),
        _ => Ok(len),
    }
}

/// Reads what follows a frame's length: version byte and body, nothing more.
///
/// # Errors
/// Anything that is not exactly one message of this type and version, with every field in bounds.
pub fn decode_payload<M: WireMessage>(payload: &[u8]) -> Result<M, WireError> {
    let max = payload_max::<M>();
    if payload.len() > max {
        return Err(WireError::TooLong { len: payload.len(), max });
    }
    let (&version, body) = payload.split_first().ok_or(WireError::Empty)?;
    if version != WIRE_VERSION {
        return Err(WireError::Version { got: version });
    }
    let (message, rest) = postcard::take_from_bytes::<M>(body).map_err(WireError::Malformed)?;
    if !rest.is_empty() {
        return Err(WireError::Trailing { count: rest.len() });
    }
    message.check()?;
    Ok(message)
}

/// Reads one whole frame.
///
/// # Errors
/// As [`decode_payload`]; also a frame whose length is not that of the bytes given.
pub fn decode<M: WireMessage>(frame: &[u8]) -> Result<M, WireError> {
    let (header, payload) =
        frame.split_first_chunk().ok_or(WireError::Truncated { got: frame.len(), want: LENGTH_BYTES })?;
    let want = check_length::<M>(*header)?;
    if payload.len() < want {
        return Err(WireError::Truncated { got: payload.len(), want });
    }
    if payload.len() > want {
        return Err(WireError::Trailing { count: payload.len() - want });
    }
    decode_payload(payload)
}

/// Writes one whole frame after what `out` already holds; on an error `out` is as it was.
///
/// # Errors
/// The message does not pass its own check, or is longer than its type allows: what the other side would refuse is
/// not sent.
pub fn encode_into<M: WireMessage>(message: &M, out: &mut Vec<u8>) -> Result<(), WireError> {
    message.check()?;
    let start = out.len();
    let result = encode_unchecked(message, out, start);
    if result.is_err() {
        out.truncate(start);
    }
    result
}

fn encode_unchecked<M: WireMessage>(message: &M, out: &mut Vec<u8>, start: usize) -> Result<(), WireError> {
    out.extend_from_slice(&[0; LENGTH_BYTES]);
    out.push(WIRE_VERSION);
    postcard::to_io(message, &mut *out).map_err(WireError::Encode)?;
    let (len, max) = (out.len() - start - LENGTH_BYTES, payload_max::<M>());
    if len > max {
        return Err(WireError::TooLong { len, max });
    }
    let header = u32::try_from(len).map_err(|_| WireError::TooLong { len, max })?.to_le_bytes();
    if let Some(slot) = out.get_mut(start..start + LENGTH_BYTES) {
        slot.copy_from_slice(&header);
    }
    Ok(())
}

/// One whole frame.
///
/// # Errors
/// As [`encode_into`].
pub fn encode<M: WireMessage>(message: &M) -> Result<Vec<u8>, WireError> {
    let mut out = Vec::new();
    encode_into(message, &mut out)?;
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{BoundedBytes, BoundedString, BoundedVec};
    use proptest::prelude::*;
    use serde::Deserialize;

    #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
    enum Sample {
        Text { text: BoundedString<16>, amount: u128 },
        List(BoundedVec<u32, 8>),
        Raw(BoundedBytes<32>),
    }

    impl WireMessage for Sample {
        const MAX_LEN: usize = 48;
        fn check(&self) -> Result<(), WireError> {
            match self {
                Self::Text { amount, .. } if *amount > 1_000 => Err(WireError::field("amount", "at most 1000")),
                Self::Text { .. } | Self::List(_) | Self::Raw(_) => Ok(()),
            }
        }
    }

    fn sample() -> Sample {
        Sample::Text { text: "hello".try_into().unwrap(), amount: 7 }
    }

    #[test]
    fn a_frame_is_length_version_body() {
        let frame = encode(&sample()).unwrap();
        assert_eq!(frame, [9, 0, 0, 0, 1, 0, 5, b'h', b'e', b'l', b'l', b'o', 7]);
        assert_eq!(decode::<Sample>(&frame), Ok(sample()));
    }

    #[test]
    fn every_wrong_frame_has_its_own_reason() {
        let good = encode(&sample()).unwrap();
        let wrong = |change: &dyn Fn(&mut Vec<u8>)| {
            let mut frame = good.clone();
            change(&mut frame);
            decode::<Sample>(&frame).unwrap_err()
        };
        assert_eq!(wrong(&|f| f.truncate(3)), WireError::Truncated { got: 3, want: 4 });
        assert_eq!(wrong(&|f| f.truncate(12)), WireError::Truncated { got: 8, want: 9 });
        assert_eq!(wrong(&|f| f.push(0)), WireError::Trailing { count: 1 });
        assert_eq!(
            wrong(&|f| {
                f.push(0);
                f[0] += 1;
            }),
            WireError::Trailing { count: 1 }
        );
        assert_eq!(wrong(&|f| f[4] = 2), WireError::Version { got: 2 });
        assert_eq!(wrong(&|f| f[0] = 0), WireError::Empty);
        assert_eq!(wrong(&|f| f[3] = 0xff), WireError::TooLong { len: 0xff00_0009, max: 49 });
        assert!(matches!(wrong(&|f| f[5] = 9), WireError::Malformed(_)));
        assert!(matches!(wrong(&|f| f[7] = 0xff), WireError::Malformed(_)));
    }

    #[test]
    fn a_field_out_of_bounds_is_neither_sent_nor_taken() {
        let bad = Sample::Text { text: "".try_into().unwrap(), amount: 1_001 };
        assert_eq!(encode(&bad).unwrap_err().to_string(), "field amount: at most 1000");
        let mut frame = vec![0, 0, 0, 0, 1];
        postcard::to_io(&bad, &mut frame).unwrap();
        frame[0] = u8::try_from(frame.len() - 4).unwrap();
        assert!(matches!(decode::<Sample>(&frame), Err(WireError::Field { field: "amount", .. })));
    }

    #[test]
    fn a_message_longer_than_its_type_allows_is_not_sent() {
        #[derive(Debug, Serialize, Deserialize)]
        struct Long(BoundedBytes<32>);
        impl WireMessage for Long {
            const MAX_LEN: usize = 8;
            fn check(&self) -> Result<(), WireError> {
                Ok(())
            }
        }
        let mut out = vec![1, 2, 3];
        let error = encode_into(&Long(BoundedBytes::new([0; 20]).unwrap()), &mut out).unwrap_err();
        assert_eq!(error, WireError::TooLong { len: 22, max: 9 });
        assert_eq!(out, [1, 2, 3]);
    }

    proptest! {
        #[test]
        fn any_bytes_give_a_message_or_a_reason(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            // What decodes at all must encode to the same message again.
            if let Ok(message) = decode::<Sample>(&bytes) {
                prop_assert_eq!(decode::<Sample>(&encode(&message).unwrap()), Ok(message));
            }
        }

        #[test]
        fn bodies_after_a_good_header_give_a_message_or_a_reason(body in proptest::collection::vec(any::<u8>(), 0..48)) {
            let mut frame = u32::try_from(body.len() + 1).unwrap().to_le_bytes().to_vec();
            frame.push(WIRE_VERSION);
            frame.extend_from_slice(&body);
            if let Ok(message) = decode::<Sample>(&frame) {
                prop_assert_eq!(decode::<Sample>(&encode(&message).unwrap()), Ok(message));
            }
        }
    }
}
