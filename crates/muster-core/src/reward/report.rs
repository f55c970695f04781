//! What Checkers commit to and reveal, and the bundle from which an outcome is computed.

use serde::{Deserialize, Serialize};

use super::bytes::Writer;
use crate::epoch::{EpochNo, Task, TaskKind};
use crate::ids::{ContentHash, NodeId};
use crate::protocol::NodeSignature;
use crate::units::Ob;

/// The most results of a report.
pub const RESULTS_MAX: usize = 4_000_000;
/// The most entries of a bundle.
pub const ENTRIES_MAX: usize = 200_000;

/// What a Checker found. Three-valued: [`Finding::Unknown`] is neither good nor bad.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Finding {
    /// The Checker could not tell: its own fault, or nothing to be had.
    Unknown,
    /// Liveness: how often it was asked, and how often it answered.
    Liveness {
        /// Answers in time.
        answered: u16,
        /// Questions.
        asked: u16,
    },
    /// Capacity, dispute: the proof is right.
    Proved {
        /// The speed that follows from how long it took.
        ob: Ob,
        /// How long it took.
        took_ms: u32,
        /// The signed transcript.
        transcript: ContentHash,
    },
    /// Capacity, dispute: the proof is wrong, as the transcript shows to everybody who runs it again.
    Refuted {
        /// The signed transcript.
        transcript: ContentHash,
    },
    /// Capacity, dispute: no proof came in time.
    Absent,
    /// Quality: it answers, and what it tells is plausible.
    Good,
    /// Quality: it answers, but badly.
    Poor,
    /// Quality: it broke work off.
    Interrupted,
    /// Quality: many of its answers together are not those of the model that it is paid for.
    Substituted {
        /// The weights of that model.
        weights: ContentHash,
    },
    /// Duplicate: the task that was run elsewhere gave the same.
    Same {
        /// The signed transcript.
        transcript: ContentHash,
    },
    /// Duplicate: it gave something else, as the transcript shows to everybody who runs it again.
    Differs {
        /// The signed transcript.
        transcript: ContentHash,
    },
    /// Recheck: whether the bare proof that was set is right.
    Rechecked {
        /// What came of verifying it.
        good: bool,
        /// The proof.
        proof: ContentHash,
    },
    /// Dispute over work: the evidence bears the accusation out.
    Upheld {
        /// What was looked at.
        evidence: ContentHash,
    },
    /// Dispute over work: the evidence does not.
    Dismissed,
}

impl Finding {
    /// Whether this can be the result of such a task.
    #[must_use]
    pub const fn fits(&self, kind: TaskKind) -> bool {
        match self {
            Self::Unknown => true,
            Self::Liveness { answered, asked } => matches!(kind, TaskKind::Liveness) && *answered <= *asked,
            Self::Proved { .. } | Self::Refuted { .. } | Self::Absent => {
                matches!(kind, TaskKind::Capacity | TaskKind::Dispute)
            }
            Self::Good | Self::Poor | Self::Interrupted | Self::Substituted { .. } => matches!(kind, TaskKind::Quality),
            Self::Same { .. } | Self::Differs { .. } => matches!(kind, TaskKind::Duplicate),
            Self::Rechecked { .. } => matches!(kind, TaskKind::Recheck),
            Self::Upheld { .. } | Self::Dismissed => matches!(kind, TaskKind::Dispute),
        }
    }

    /// What everybody can run again.
    #[must_use]
    pub const fn transcript(&self) -> Option<ContentHash> {
        match self {
            Self::Proved { transcript, .. }
            | Self::Refuted { transcript }
            | Self::Same { transcript }
            | Self::Differs { transcript } => Some(*transcript),
            Self::Rechecked { proof, .. } => Some(*proof),
            Self::Upheld { evidence } => Some(*evidence),
            Self::Unknown
            | Self::Liveness { .. }
            | Self::Absent
            | Self::Good
            | Self::Poor
            | Self::Interrupted
            | Self::Substituted { .. }
            | Self::Dismissed => None,
        }
    }

    fn write(&self, out: &mut Writer) {
        let (tag, a, b, hash) = match *self {
            Self::Unknown => (0, 0, 0, None),
            Self::Liveness { answered, asked } => (1, u32::from(answered), u32::from(asked), None),
            Self::Proved { ob, took_ms, transcript } => (2, ob.0, took_ms, Some(transcript)),
            Self::Refuted { transcript } => (3, 0, 0, Some(transcript)),
            Self::Absent => (4, 0, 0, None),
            Self::Good => (5, 0, 0, None),
            Self::Poor => (6, 0, 0, None),
            Self::Interrupted => (7, 0, 0, None),
            Self::Same { transcript } => (8, 0, 0, Some(transcript)),
            Self::Differs { transcript } => (9, 0, 0, Some(transcript)),
            Self::Rechecked { good, proof } => (10, u32::from(good), 0, Some(proof)),
            Self::Upheld { evidence } => (11, 0, 0, Some(evidence)),
            Self::Dismissed => (12, 0, 0, None),
            Self::Substituted { weights } => (13, 0, 0, Some(weights)),
        };
        out.u8(tag);
        out.u32(a);
        out.u32(b);
        out.bytes(&hash.unwrap_or(ContentHash::ZERO).0);
    }
}

/// The result of one task.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskResult {
    /// Which.
    pub task: Task,
    /// What came of it.
    pub finding: Finding,
}

/// All that one Checker found in one epoch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// The epoch.
    pub epoch: EpochNo,
    /// The Checker.
    pub checker: NodeId,
    /// The view that its draw was made from: places in `results` are places in it.
    pub view: ContentHash,
    /// What decided which of the rechecks that it set are bad ([`Draw::planted`](crate::epoch::Draw::planted)).
    pub secret: [u8; 32],
    /// In strictly ascending order of their tasks; at most [`RESULTS_MAX`].
    pub results: Vec<TaskResult>,
}

/// A report with what hid it until now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reveal {
    /// The report.
    pub report: Report,
    /// 32 random bytes.
    pub salt: [u8; 32],
}

impl Reveal {
    /// What its Checker commits to: BLAKE3 of the report's canonical bytes, the salt and the Checker's key, so that
    /// nobody can commit to what another one committed to.
    #[must_use]
    pub fn commitment_hash(&self) -> ContentHash {
        let report = &self.report;
        let mut out = Writer::with_capacity(report.results.len().saturating_mul(48).saturating_add(200));
        out.u64(report.epoch.0);
        out.bytes(&report.view.0);
        out.bytes(&report.secret);
        out.length(report.results.len());
        for result in &report.results {
            out.u8(result.task.kind as u8);
            out.u32(result.task.subject);
            out.u16(result.task.nth);
            result.finding.write(&mut out);
        }
        let mut hasher = blake3::Hasher::new_derive_key("muster 2026 checker commitment v1");
        hasher.update(out.as_slice()).update(&self.salt).update(&report.checker.0);
        ContentHash(*hasher.finalize().as_bytes())
    }
}

/// A Checker's promise of what it will reveal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Commitment {
    /// The epoch.
    pub epoch: EpochNo,
    /// Who.
    pub checker: NodeId,
    /// [`Reveal::commitment_hash`].
    pub hash: ContentHash,
    /// By the Checker's node key over all of the above.
    pub signature: NodeSignature,
}

/// A committee member's word that a commitment reached it before commitments ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Receipt {
    /// The member's node key.
    pub member: NodeId,
    /// By that key over the commitment.
    pub signature: NodeSignature,
}

/// One Checker's part of a bundle.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// The promise.
    pub commitment: Commitment,
    /// Members that had it in time.
    pub receipts: Vec<Receipt>,
    /// What came of it; `None`: it never came.
    pub reveal: Option<Reveal>,
}

/// What came of running something again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reexecution {
    /// The proof is right (or, of a duplicate: both gave the same).
    Good,
    /// The proof is wrong, and the Container signed it.
    Bad,
    /// It is not of this Checker, this task or this epoch, or a signature on it is wrong.
    Forged,
    /// It could not be had from anybody.
    Unavailable,
}

/// Something to be run again: which Checker's result, and the transcript that it names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Doubt {
    /// The Checker's place in the view.
    pub checker: u32,
    /// The task.
    pub task: Task,
    /// What to run.
    pub transcript: ContentHash,
}

/// All that the outcome of an epoch with reports is computed from, beside what the chain says.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bundle {
    /// In any order; at most [`ENTRIES_MAX`].
    pub entries: Vec<Entry>,
    /// Answers to [`doubts`](super::doubts), in any order. Who signs an outcome has run them as well.
    pub reexecuted: Vec<(Doubt, Reexecution)>,
}

impl Bundle {
    /// BLAKE3 of what in it has a part in the outcome, whatever its order: who reported what, what of it was revealed,
    /// and what came of running things again. Published with the outcome, so that everybody knows of which reports it
    /// is.
    #[must_use]
    pub fn hash(&self) -> ContentHash {
        let mut entries: Vec<(NodeId, ContentHash, bool)> =
            self.entries.iter().map(|e| (e.commitment.checker, e.commitment.hash, e.reveal.is_some())).collect();
        entries.sort_unstable();
        entries.dedup();
        let mut answers = self.reexecuted.clone();
        answers.sort_unstable();
        answers.dedup();
        let mut out = Writer::default();
        out.length(entries.len());
        for (checker, hash, revealed) in entries {
            out.bytes(&checker.0);
            out.bytes(&hash.0);
            out.u8(u8::from(revealed));
        }
        out.length(answers.len());
        for (doubt, answer) in answers {
            out.u32(doubt.checker);
            out.u8(doubt.task.kind as u8);
            out.u32(doubt.task.subject);
            out.u16(doubt.task.nth);
            out.bytes(&doubt.transcript.0);
            out.u8(answer as u8);
        }
        let mut hasher = blake3::Hasher::new_derive_key("muster 2026 bundle v1");
        hasher.update(out.as_slice());
        ContentHash(*hasher.finalize().as_bytes())
    }
}
