//! Weights from one Container to another, named by their hash: who asks counts it, so that who gives need not be believed.
//!
//! A stream opens with [`WeightsWanted`]; the answer is a [`WeightsGiven`], and behind one that has them the bytes, as they
//! are, to the end of the stream.

use muster_core::inference::{WEIGHTS_MAX, WeightsId};
use muster_core::units::Bytes;
use serde::{Deserialize, Serialize};

use super::session::Sentence;
use crate::{WireError, WireMessage};

/// Which weights, and from where on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WeightsWanted {
    /// Which.
    pub weights: WeightsId,
    /// How long they are in all.
    pub bytes: Bytes,
    /// The first byte that is wanted.
    pub from: u64,
}

/// Whether they come.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum WeightsGiven {
    /// They follow.
    Here,
    /// They do not.
    Not {
        /// Why.
        why: Sentence,
    },
}

impl WireMessage for WeightsWanted {
    const MAX_LEN: usize = 64;
    fn check(&self) -> Result<(), WireError> {
        if self.bytes == Bytes(0) || self.bytes > WEIGHTS_MAX || self.from >= self.bytes.0 {
            return Err(WireError::field("from", "no byte of any weights"));
        }
        Ok(())
    }
}

impl WireMessage for WeightsGiven {
    const MAX_LEN: usize = 2 * 1024;
    fn check(&self) -> Result<(), WireError> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame;

    #[test]
    fn only_bytes_that_weights_have_can_be_asked_for() {
        let wanted = |bytes, from| WeightsWanted { weights: WeightsId([0xff; 32]), bytes: Bytes(bytes), from };
        let good = wanted(WEIGHTS_MAX.0, WEIGHTS_MAX.0 - 1);
        assert_eq!(frame::decode::<WeightsWanted>(&frame::encode(&good).unwrap()).unwrap(), good);
        for wrong in [wanted(0, 0), wanted(1, 1), wanted(WEIGHTS_MAX.0 + 1, 0)] {
            assert!(frame::encode(&wrong).is_err());
        }
        let not = WeightsGiven::Not { why: Sentence::truncated(&"x".repeat(5_000)) };
        assert_eq!(frame::decode::<WeightsGiven>(&frame::encode(&not).unwrap()).unwrap(), not);
    }
}
