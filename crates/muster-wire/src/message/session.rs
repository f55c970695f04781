//! A live session's own stream: the way of offers, answers and figures between a player's Gateway and the Container.
//!
//! Pictures, sound and input never come this way: they go between the player and the Container directly. The stream may
//! be opened before the session is up, and again after the line broke; each one that opens is told how things stand.

use muster_core::ids::LeaseId;
use serde::{Deserialize, Serialize};

use super::protocol::SENTENCE_LEN_MAX;
use crate::{BoundedString, WireError, WireMessage};

/// Bytes of a description of a connection (SDP).
pub const SDP_LEN_MAX: usize = 32 * 1024;
/// Bytes of a word for programs.
pub const CODE_LEN_MAX: usize = 32;
/// Offers that may wait for their answers at one time.
pub const OFFERS_MAX: usize = 16;

/// A description of a connection.
pub type Sdp = BoundedString<SDP_LEN_MAX>;
/// A word for programs.
pub type Word = BoundedString<CODE_LEN_MAX>;
/// A sentence for people.
pub type Sentence = BoundedString<SENTENCE_LEN_MAX>;

/// The first frame: whose session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionOpen {
    /// Of which lease.
    pub lease: LeaseId,
}

/// Consumer to Container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToSession {
    /// A player wants in; one that is known already replaces its earlier connection. Waits until the session is up.
    Offer {
        /// Repeated in the answer.
        request: u64,
        /// Which player.
        player: u64,
        /// What it offers.
        sdp: Sdp,
    },
    /// A player has gone for good.
    Drop {
        /// Which.
        player: u64,
    },
    /// All players are to be told something.
    Note {
        /// For programs.
        code: Word,
        /// For people.
        text: Sentence,
        /// In how many seconds it happens, where it is something to come.
        seconds: Option<u64>,
    },
}

/// Container to consumer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FromSession {
    /// The display is up and offers are taken.
    Ready,
    /// The program has drawn something: the session runs and is billed.
    Drawing,
    /// The answer to an offer.
    Answer {
        /// Of which offer.
        request: u64,
        /// For the player.
        sdp: Sdp,
    },
    /// An offer that cannot be met.
    Refused {
        /// Of which offer.
        request: u64,
        /// For programs: `no_codec`, `bad_offer`, `too_many_players`, `too_many_requests`, `session_ended`.
        code: Word,
        /// For people.
        why: Sentence,
    },
    /// A player is connected, or no longer.
    Player {
        /// Which.
        player: u64,
        /// Whether it is.
        connected: bool,
    },
    /// Nobody has used the session for long: it ends.
    Idle {
        /// How long, in milliseconds.
        ms: u64,
    },
    /// How the stream does, each second while somebody looks on.
    Stats(SessionStats),
    /// It cannot go on.
    Failed {
        /// Why.
        why: Sentence,
    },
    /// It is over; the lease says how.
    Over,
    /// The program has not begun: what it needs is being fetched.
    Preparing {
        /// What, and how far it is.
        what: Sentence,
    },
}

/// How a stream does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionStats {
    /// Frames sent in the last second, in thousandths.
    pub fps_milli: u32,
    /// Bits sent in the last second.
    pub bps: u64,
    /// Packets lost of each million, as the player reports.
    pub loss_ppm: u32,
    /// Round trip in microseconds, as the player's reports show.
    pub rtt_us: u32,
    /// Microseconds that a frame took to encode, at the median.
    pub encode_us: u32,
    /// Width that is sent.
    pub width: u16,
    /// Height that is sent.
    pub height: u16,
}

impl WireMessage for SessionOpen {
    const MAX_LEN: usize = 64;
    fn check(&self) -> Result<(), WireError> {
        Ok(())
    }
}

impl WireMessage for ToSession {
    const MAX_LEN: usize = SDP_LEN_MAX + 64;
    fn check(&self) -> Result<(), WireError> {
        match self {
            Self::Note { code, .. } => check_code(code.as_str()),
            Self::Offer { .. } | Self::Drop { .. } => Ok(()),
        }
    }
}

impl WireMessage for FromSession {
    const MAX_LEN: usize = SDP_LEN_MAX + 64;
    fn check(&self) -> Result<(), WireError> {
        match self {
            Self::Refused { code, .. } => check_code(code.as_str()),
            Self::Ready
            | Self::Drawing
            | Self::Answer { .. }
            | Self::Player { .. }
            | Self::Idle { .. }
            | Self::Stats(_)
            | Self::Failed { .. }
            | Self::Preparing { .. }
            | Self::Over => Ok(()),
        }
    }
}

fn check_code(code: &str) -> Result<(), WireError> {
    if code.is_empty() || !code.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_') {
        return Err(WireError::field("code", "not a word of a-z, 0-9 and _"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame;

    #[test]
    fn messages_come_back_as_they_went() {
        let offer =
            ToSession::Offer { request: u64::MAX, player: u64::MAX, sdp: Sdp::new("v".repeat(SDP_LEN_MAX)).unwrap() };
        let code = || Word::new("too_many_players").unwrap();
        let note = ToSession::Note { code: code(), text: Sentence::new("Soon.").unwrap(), seconds: Some(60) };
        for message in [offer, ToSession::Drop { player: 1 }, note] {
            assert_eq!(frame::decode::<ToSession>(&frame::encode(&message).unwrap()).unwrap(), message);
        }
        let sdp = Sdp::new("v".repeat(SDP_LEN_MAX)).unwrap();
        let why = || Sentence::new("x".repeat(SENTENCE_LEN_MAX)).unwrap();
        let stats = SessionStats { fps_milli: 59_940, bps: 1 << 40, width: 3840, ..SessionStats::default() };
        for message in [
            FromSession::Ready,
            FromSession::Drawing,
            FromSession::Answer { request: u64::MAX, sdp },
            FromSession::Refused { request: 1, code: code(), why: why() },
            FromSession::Player { player: 1, connected: true },
            FromSession::Idle { ms: 1 },
            FromSession::Stats(stats),
            FromSession::Failed { why: why() },
            FromSession::Over,
            FromSession::Preparing { what: why() },
        ] {
            assert_eq!(frame::decode::<FromSession>(&frame::encode(&message).unwrap()).unwrap(), message);
        }
    }

    #[test]
    fn codes_are_words() {
        let refused = |code: &str| {
            let (code, why) = (Word::new(code).unwrap(), Sentence::new("no").unwrap());
            frame::encode(&FromSession::Refused { request: 1, code, why })
        };
        assert!(refused("no_codec").is_ok());
        assert!(refused("").is_err());
        assert!(refused("No codec").is_err());
        assert!(Word::new("x".repeat(CODE_LEN_MAX + 1)).is_err() && Sdp::new("x".repeat(SDP_LEN_MAX + 1)).is_err());
    }
}
