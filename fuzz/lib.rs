//! What every fuzz target checks of its message type.

use std::fmt::Debug;

use muster_wire::{BoundedBytes, BoundedString, BoundedVec, NodeAddr, Signature64, WireError, WireMessage, frame};
use serde::{Deserialize, Serialize};

/// Any bytes give a message or a reason, never a panic; and what was taken once is sent and taken again as it was.
///
/// The bytes are tried as a whole frame and as a body, so that the fuzzer need not guess lengths to come to the fields.
pub fn check<M: WireMessage + PartialEq + Debug>(data: &[u8]) {
    if let Ok(message) = frame::decode::<M>(data) {
        again(&message);
    }
    let mut payload = Vec::with_capacity(data.len() + 1);
    payload.push(muster_wire::WIRE_VERSION);
    payload.extend_from_slice(data);
    if let Ok(message) = frame::decode_payload::<M>(&payload) {
        again(&message);
    }
}

fn again<M: WireMessage + PartialEq + Debug>(message: &M) {
    let bytes = frame::encode(message).expect("a message that was taken is fit to be sent");
    let back = frame::decode::<M>(&bytes).expect("what was sent is taken");
    assert_eq!(&back, message);
}

/// A message with every kind of field that the codec offers.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub enum Everything {
    /// Texts.
    Text(BoundedString<64>, Option<BoundedString<4>>),
    /// Lists of lists.
    Lists(BoundedVec<BoundedVec<u64, 8>, 16>),
    /// Bytes.
    Bytes {
        /// Few.
        few: BoundedBytes<16>,
        /// Many.
        many: BoundedBytes<4096>,
    },
    /// An address and a signature.
    Signed(NodeAddr, Signature64),
    /// Numbers at their edges.
    Numbers(u128, i128, u8, i64, bool, char),
}

impl WireMessage for Everything {
    const MAX_LEN: usize = 4_096 + 64;
    fn check(&self) -> Result<(), WireError> {
        match self {
            Self::Signed(addr, _) => addr.check(),
            Self::Numbers(a, b, ..) if a.checked_add_signed(*b).is_none() => {
                Err(WireError::field("numbers", "their sum is out of range"))
            }
            Self::Text(..) | Self::Lists(_) | Self::Bytes { .. } | Self::Numbers(..) => Ok(()),
        }
    }
}
