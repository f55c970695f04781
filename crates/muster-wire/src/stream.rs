//! What a stream between two nodes is for: its first byte.

/// The protocol spoken on a stream. The byte is part of the wire format: a number is never given to something else.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
#[non_exhaustive]
pub enum StreamKind {
    /// Is anybody there: each frame is sent back. For latency and for tests.
    Echo = 0,
    /// A Container to an Indexer: hello, heartbeats, its leases; the Indexer's offers come back on it.
    Presence = 1,
    /// A consumer to an Indexer: a demand, answered by a match and its report.
    Demand = 2,
    /// An Indexer to a Container: an offer, answered by an acceptance or a rejection.
    Offer = 3,
    /// A consumer to a Container: the running agreement: prepare, begin, vouchers, close.
    Lease = 4,
    /// A consumer to a Container: a job's input, output and end.
    Job = 5,
    /// Files to or from a Container: headers as frames, contents as raw bytes.
    Files = 6,
    /// Somebody with a right to it asks a node how it is doing.
    Status = 7,
    /// A Checker to a Container: the proof of one card, from challenge to openings.
    Audit = 8,
    /// A Checker to a Container: does it live, and what does it work on.
    Liveness = 9,
    /// A Checker to a Checker: commitments, receipts, reveals, proposals.
    Checkers = 10,
    /// Anybody to a Checker: bytes by their hash, and a Checker to another: the proof that it set.
    Evidence = 11,
    /// A consumer to a Container: a live session's offers, answers and figures.
    Session = 12,
    /// A consumer to an Indexer: who would serve a demand, so that the way to them can be measured.
    Candidates = 13,
    /// A consumer to an Indexer: what was delivered on a lease that it found.
    Delivery = 14,
    /// A consumer to a Container: one request to the model of a lease, and its answer.
    Inference = 15,
    /// A Container to another: weights by their hash, from a byte on, as raw bytes.
    Weights = 16,
}

/// A first byte that names no protocol of this build.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no protocol has the number {0}")]
pub struct UnknownStream(pub u8);

impl StreamKind {
    /// All kinds, in order of their bytes.
    pub const ALL: [Self; 17] = [
        Self::Echo,
        Self::Presence,
        Self::Demand,
        Self::Offer,
        Self::Lease,
        Self::Job,
        Self::Files,
        Self::Status,
        Self::Audit,
        Self::Liveness,
        Self::Checkers,
        Self::Evidence,
        Self::Session,
        Self::Candidates,
        Self::Delivery,
        Self::Inference,
        Self::Weights,
    ];

    /// Whether it carries a job's data, as much as the path takes: a fast sender is then slowed down, where on other
    /// streams it would be flooding.
    #[must_use]
    pub const fn carries_data(self) -> bool {
        matches!(self, Self::Job | Self::Files | Self::Evidence | Self::Inference | Self::Weights)
    }

    /// The byte that opens a stream of this kind.
    #[must_use]
    pub const fn byte(self) -> u8 {
        self as u8
    }
}

impl TryFrom<u8> for StreamKind {
    type Error = UnknownStream;
    fn try_from(byte: u8) -> Result<Self, UnknownStream> {
        Self::ALL.into_iter().find(|kind| kind.byte() == byte).ok_or(UnknownStream(byte))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_and_kinds_are_one_to_one() {
        for byte in 0..=u8::MAX {
            match StreamKind::try_from(byte) {
                Ok(kind) => assert_eq!(kind.byte(), byte),
                Err(unknown) => assert_eq!(unknown, UnknownStream(byte)),
            }
        }
        for (place, kind) in StreamKind::ALL.into_iter().enumerate() {
            assert_eq!(usize::from(kind.byte()), place);
        }
    }
}
