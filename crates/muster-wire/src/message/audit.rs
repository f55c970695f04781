//! What Checkers ask of Containers and of each other, beside the proof itself (`CheckerSays`, `ProverSays`).

use muster_core::brain::checker::{Answer, Message};
use muster_core::ids::{ContentHash, LeaseId, NodeId};
use muster_core::proof::Transcript;
use muster_core::units::TokenAmount;
use serde::{Deserialize, Serialize};

use super::SENTENCE_LEN_MAX;
use crate::{BoundedBytes, BoundedVec, Signature64, WireError, WireMessage};

/// Leases that one answer lists.
pub const WORK_MAX: usize = 256;
/// Cards of one Container that one transcript is of.
pub const CARDS_MAX: usize = muster_core::hardware::GPUS_MAX;
/// Bytes of one piece of evidence on the wire.
pub const PIECE_LEN_MAX: usize = 32 * 1024;
/// A message between Checkers up to this size travels by itself; a longer one is fetched by its hash.
pub const INLINE_LEN_MAX: usize = 32 * 1024;
/// The longest message between Checkers, and the longest evidence.
pub const EVIDENCE_LEN_MAX: u64 = 1 << 30;

/// Checker to Container: do you live?
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Question {
    /// The epoch in which it is asked.
    pub epoch: u64,
    /// Comes back in the answer.
    pub nonce: [u8; 16],
}

/// A lease that a Container works on, by its own word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Work {
    /// Which.
    pub lease: LeaseId,
    /// Whether its workload runs now.
    pub running: bool,
    /// How long it has run.
    pub ran_ms: u64,
    /// The amount of the last voucher.
    pub vouched: TokenAmount,
}

/// A Container's answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Alive {
    /// The question's.
    pub nonce: [u8; 16],
    /// What it works on; of very many the first.
    pub work: BoundedVec<Work, WORK_MAX>,
}

/// Checker to Checker.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Gossip {
    /// A message as it is.
    Said(Box<Message>),
    /// A message that is too long for a frame: its bytes lie with the sender, under their hash.
    Held {
        /// The hash.
        hash: ContentHash,
        /// How many bytes.
        len: u64,
    },
}

/// What somebody wants of a Checker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Wanted {
    /// Bytes by their hash: a transcript, what was published with an outcome, a long message.
    Bytes {
        /// Their BLAKE3.
        hash: ContentHash,
    },
    /// The reports that an outcome is of, as a [`Bundle`](muster_core::reward::Bundle).
    Reports {
        /// [`Bundle::hash`](muster_core::reward::Bundle::hash), as it was published with the outcome.
        hash: ContentHash,
    },
    /// The proof that was set for the Checker that asks.
    SetProof {
        /// In which epoch.
        epoch: u64,
        /// Which of its rechecks.
        nth: u16,
    },
}

/// What comes back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Evidence {
    /// It is here, with so many bytes; pieces follow.
    Here {
        /// How many.
        len: u64,
    },
    /// It is not here.
    Absent,
    /// The next bytes.
    Piece(BoundedBytes<PIECE_LEN_MAX>),
}

/// A capacity test of one Container by one Checker, as it is kept and shown: a transcript of each card, all of them
/// challenged at the same instant.
///
/// What a Container opened it has signed (a seal in each transcript), and the Checker signs the whole: a Checker cannot
/// put words into a Container's mouth, and cannot deny its own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignedTranscript {
    /// The epoch.
    pub epoch: u64,
    /// Who tested.
    pub checker: NodeId,
    /// Who was tested.
    pub container: NodeId,
    /// By card, in the order in which the Container offers them.
    pub cards: Vec<Transcript>,
    /// The Checker's signature over [`SignedTranscript::digest`].
    pub signature: Signature64,
}

impl SignedTranscript {
    /// What the Checker signs.
    #[must_use]
    pub fn digest(&self) -> [u8; 32] {
        let mut hasher = blake3::Hasher::new_derive_key("muster 2026 signed transcript v1");
        hasher.update(&self.epoch.to_be_bytes()).update(&self.checker.0).update(&self.container.0);
        for card in &self.cards {
            hasher.update(&card.hash().0);
        }
        *hasher.finalize().as_bytes()
    }

    /// In its one form.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn bytes(&self) -> Result<Vec<u8>, WireError> {
        postcard::to_allocvec(self).map_err(WireError::Encode)
    }

    /// Reads [`SignedTranscript::bytes`]; refuses any other form of the same.
    ///
    /// # Errors
    /// Bytes that are no transcript, or none in its one form.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, WireError> {
        let read: Self = decode_all(bytes)?;
        read.check()?;
        if read.bytes()? != bytes {
            return Err(WireError::field("transcript", "written in another form than the one there is"));
        }
        Ok(read)
    }
}

/// A proof that a Checker sets another one to verify, small enough to be made on a processor.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SetProof {
    /// The epoch.
    pub epoch: u64,
    /// Who sets it.
    pub setter: NodeId,
    /// For whom.
    pub checker: NodeId,
    /// Which of that Checker's rechecks.
    pub nth: u16,
    /// The bare proof: nobody's seal says who made it.
    pub proof: Transcript,
    /// The setter's signature over [`SetProof::digest`].
    pub signature: Signature64,
}

impl SetProof {
    /// What the setter signs.
    #[must_use]
    pub fn digest(&self) -> [u8; 32] {
        let mut hasher = blake3::Hasher::new_derive_key("muster 2026 proof set for a recheck v1");
        hasher.update(&self.epoch.to_be_bytes()).update(&self.setter.0).update(&self.checker.0);
        hasher.update(&self.nth.to_be_bytes()).update(&self.proof.hash().0);
        *hasher.finalize().as_bytes()
    }

    /// In its one form.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn bytes(&self) -> Result<Vec<u8>, WireError> {
        postcard::to_allocvec(self).map_err(WireError::Encode)
    }

    /// Reads [`SetProof::bytes`]; refuses any other form of the same.
    ///
    /// # Errors
    /// Bytes that are no such proof, or none in its one form.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, WireError> {
        let read: Self = decode_all(bytes)?;
        read.check()?;
        if read.bytes()? != bytes {
            return Err(WireError::field("proof", "written in another form than the one there is"));
        }
        Ok(read)
    }
}

/// The bytes of a message between Checkers.
///
/// # Errors
/// It cannot be written, or no Checker would take it.
pub fn message_bytes(message: &Message) -> Result<Vec<u8>, WireError> {
    check_message(message)?;
    postcard::to_allocvec(message).map_err(WireError::Encode)
}

/// Reads [`message_bytes`].
///
/// # Errors
/// Bytes that are no message.
pub fn read_message(bytes: &[u8]) -> Result<Message, WireError> {
    let message: Message = decode_all(bytes)?;
    check_message(&message)?;
    Ok(message)
}

fn decode_all<'b, T: Deserialize<'b>>(bytes: &'b [u8]) -> Result<T, WireError> {
    let (read, rest) = postcard::take_from_bytes::<T>(bytes).map_err(WireError::Malformed)?;
    if rest.is_empty() { Ok(read) } else { Err(WireError::Trailing { count: rest.len() }) }
}

fn check_message(message: &Message) -> Result<(), WireError> {
    use muster_core::epoch::SEATS_MAX;
    use muster_core::reward::{ENTRIES_MAX, Entry, RESULTS_MAX};
    let entry = |entry: &Entry| {
        if entry.receipts.len() > SEATS_MAX {
            return Err(WireError::field("receipts", format!("more than {SEATS_MAX}")));
        }
        match &entry.reveal {
            Some(reveal) if reveal.report.results.len() > RESULTS_MAX => {
                Err(WireError::field("results", format!("more than {RESULTS_MAX}")))
            }
            Some(_) | None => Ok(()),
        }
    };
    match message {
        Message::Commit(_) | Message::Receipt { .. } | Message::Taken { .. } | Message::Decide(_) => Ok(()),
        Message::Reveal(one) => entry(one),
        Message::Propose(proposal) => {
            let Some(bundle) = &proposal.bundle else { return Ok(()) };
            if bundle.entries.len() > ENTRIES_MAX || bundle.reexecuted.len() > RESULTS_MAX {
                return Err(WireError::field("bundle", "more than a bundle may hold"));
            }
            bundle.entries.iter().try_for_each(entry)
        }
        Message::Answer(answer) => match &**answer {
            Answer::Signed(_) => Ok(()),
            Answer::Missing { checkers, .. } if checkers.len() > ENTRIES_MAX => {
                Err(WireError::field("checkers", format!("more than {ENTRIES_MAX}")))
            }
            Answer::Missing { .. } => Ok(()),
            Answer::Differs { why, .. } if why.len() > SENTENCE_LEN_MAX => {
                Err(WireError::field("why", format!("longer than {SENTENCE_LEN_MAX} bytes")))
            }
            Answer::Differs { .. } => Ok(()),
        },
    }
}

impl WireMessage for Question {
    const MAX_LEN: usize = 64;
    fn check(&self) -> Result<(), WireError> {
        Ok(())
    }
}

impl WireMessage for Alive {
    const MAX_LEN: usize = 64 + WORK_MAX * 80;
    fn check(&self) -> Result<(), WireError> {
        Ok(())
    }
}

impl WireMessage for Gossip {
    const MAX_LEN: usize = INLINE_LEN_MAX + 64;
    fn check(&self) -> Result<(), WireError> {
        match self {
            Self::Said(message) => check_message(message),
            Self::Held { len, .. } if *len > EVIDENCE_LEN_MAX => {
                Err(WireError::field("len", format!("more than {EVIDENCE_LEN_MAX} bytes")))
            }
            Self::Held { .. } => Ok(()),
        }
    }
}

impl WireMessage for Wanted {
    const MAX_LEN: usize = 64;
    fn check(&self) -> Result<(), WireError> {
        Ok(())
    }
}

impl WireMessage for Evidence {
    const MAX_LEN: usize = PIECE_LEN_MAX + 64;
    fn check(&self) -> Result<(), WireError> {
        match self {
            Self::Here { len } if *len > EVIDENCE_LEN_MAX => {
                Err(WireError::field("len", format!("more than {EVIDENCE_LEN_MAX} bytes")))
            }
            Self::Piece(bytes) if bytes.is_empty() => Err(WireError::field("piece", "empty")),
            Self::Here { .. } | Self::Piece(_) | Self::Absent => Ok(()),
        }
    }
}

impl WireMessage for SignedTranscript {
    // A card's share as its own message has it; most Containers have one to eight.
    const MAX_LEN: usize = 16 * <Transcript as WireMessage>::MAX_LEN;
    fn check(&self) -> Result<(), WireError> {
        if self.cards.len() > CARDS_MAX {
            return Err(WireError::field("cards", format!("more than {CARDS_MAX}")));
        }
        self.cards.iter().try_for_each(WireMessage::check)
    }
}

impl WireMessage for SetProof {
    const MAX_LEN: usize = <Transcript as WireMessage>::MAX_LEN + 256;
    fn check(&self) -> Result<(), WireError> {
        self.proof.check()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame;
    use muster_core::brain::checker::Span;
    use muster_core::epoch::EpochNo;

    #[test]
    fn small_messages_come_back_as_they_were() {
        let said = Gossip::Said(Box::new(Message::Taken { epoch: EpochNo(7) }));
        assert_eq!(frame::decode::<Gossip>(&frame::encode(&said).unwrap()), Ok(said));
        let wanted = Wanted::SetProof { epoch: 7, nth: 1 };
        assert_eq!(frame::decode::<Wanted>(&frame::encode(&wanted).unwrap()), Ok(wanted));
        let work = Work { lease: LeaseId([1; 32]), running: true, ran_ms: 5, vouched: TokenAmount(u128::MAX) };
        let full = Alive { nonce: [1; 16], work: vec![work; WORK_MAX].try_into().unwrap() };
        assert_eq!(frame::decode::<Alive>(&frame::encode(&full).unwrap()), Ok(full));
    }

    #[test]
    fn what_nobody_sends_is_refused() {
        let span = Span { first: EpochNo(1), last: EpochNo(1) };
        let long = Answer::Differs { span, why: "x".repeat(SENTENCE_LEN_MAX + 1) };
        assert!(message_bytes(&Message::Answer(Box::new(long))).is_err());
        assert!(frame::encode(&Evidence::Here { len: EVIDENCE_LEN_MAX + 1 }).is_err());
        assert!(frame::encode(&Evidence::Piece(BoundedBytes::new(Vec::new()).unwrap())).is_err());
        assert!(frame::encode(&Gossip::Held { hash: ContentHash([1; 32]), len: u64::MAX }).is_err());
        let bytes = message_bytes(&Message::Taken { epoch: EpochNo(7) }).unwrap();
        assert!(read_message(&[&bytes[..], &[0]].concat()).is_err());
        assert!(read_message(&bytes[..bytes.len() - 1]).is_err());
        assert!(SignedTranscript::from_bytes(&[0xff; 100]).is_err());
    }
}
