//! What a proof says about a card: three values, each with a sentence.

use core::fmt;

use serde::{Deserialize, Serialize};

use super::challenge::Stage;
use crate::units::Ob;

/// What a transcript proves.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// The card did the work in the time that its claim promises.
    Pass(Measured),
    /// It did not.
    Fail(Fault),
    /// Nothing is proven either way; it counts as an interruption.
    Inconclusive(Gap),
}

/// What was measured on a card that did the work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Measured {
    /// Its speed, never above 1.1 times the table's value for the claimed model.
    pub ob: Ob,
    /// How far the speed may be off, in per cent.
    pub uncertainty_percent: u8,
    /// What it claims.
    pub claimed_ob: Ob,
    /// Steps of rays in a second.
    pub steps_per_second: u64,
    /// Times of the four stages, the way between the nodes taken off.
    pub stage_ms: [u32; 4],
}

/// Why a card failed. Whether anybody can prove it by computing again, or it rests on a Checker's clock, is
/// [`Fault::is_provable`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "snake_case")]
pub enum Fault {
    /// The set of openings is not the one that was drawn.
    #[error("the opened {what} are not those that were drawn: {got} came, {want} were drawn, or their order differs")]
    Openings {
        /// What was opened.
        what: Opened,
        /// How many came.
        got: u32,
        /// How many were drawn.
        want: u32,
    },
    /// An opened part is not under the root that was sent before.
    #[error("an opened part of {what} does not belong to the root that was sent before the draw")]
    Path {
        /// What was opened.
        what: Opened,
    },
    /// An opened part holds other data than the work gives.
    #[error("{what} {index} holds other data than the work gives: it was not computed")]
    Wrong {
        /// What was opened.
        what: Opened,
        /// Which.
        index: u64,
    },
    /// A root came after its deadline.
    #[error("the root of {stage} came after {took_ms} ms; the deadline for the claimed card was {deadline_ms} ms")]
    Late {
        /// Which.
        stage: Stage,
        /// How long it took.
        took_ms: u32,
        /// How long it may take.
        deadline_ms: u32,
    },
    /// Nothing came by the deadline.
    #[error("no root of {stage} came within {deadline_ms} ms")]
    Silent {
        /// Which stage.
        stage: Stage,
        /// How long it may take.
        deadline_ms: u32,
    },
    /// The nonce was revealed and the openings did not come: what a cheat does whose gaps were drawn.
    #[error("the openings did not come within {deadline_ms} ms after the draw was revealed")]
    Withheld {
        /// How long they may take.
        deadline_ms: u32,
    },
    /// The work was right but far slower than the claim promises.
    #[error("{stage} is worth {measured}; the claim is {claimed}, and below {least} it fails")]
    Slow {
        /// Which stage.
        stage: Stage,
        /// What the time is worth.
        measured: Ob,
        /// What was claimed.
        claimed: Ob,
        /// The least that does not fail.
        least: Ob,
    },
    /// A claim above what the table allows for the model.
    #[error("the claim of {claimed} is above the most that the calibration allows for the model, {most}")]
    Claim {
        /// What was claimed.
        claimed: Ob,
        /// The most that can be claimed.
        most: Ob,
    },
    /// A message that has no place in the conversation.
    #[error("the prover said something that has no place there: {what}")]
    Protocol {
        /// What, a sentence.
        what: String,
    },
}

impl Fault {
    /// Whether whoever computes the transcript again sees it: then one honest Checker proves it to everybody. What rests
    /// on a clock counts by the committee's median instead.
    #[must_use]
    pub const fn is_provable(&self) -> bool {
        matches!(self, Self::Openings { .. } | Self::Path { .. } | Self::Wrong { .. } | Self::Claim { .. })
    }
}

/// Why nothing is proven.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "snake_case")]
pub enum Gap {
    /// The Container said that its card or driver failed before the draw: an interruption, not a lie.
    #[error("the proof was interrupted during {stage}: {why}")]
    Interrupted {
        /// During which stage.
        stage: Stage,
        /// What the Container said.
        why: String,
    },
    /// The connection was lost before the draw.
    #[error("the connection was lost during {stage}")]
    Lost {
        /// During which stage.
        stage: Stage,
    },
    /// Slower than claimed, within what load, heat or the table's own uncertainty can explain.
    #[error(
        "{stage} is worth {measured}, less than the claim of {claimed}, within what heat, load or the table's uncertainty explains"
    )]
    Slower {
        /// Which stage.
        stage: Stage,
        /// What the time is worth.
        measured: Ob,
        /// What was claimed.
        claimed: Ob,
    },
    /// The transcript does not stand: the Checker, not the card, did something wrong.
    #[error("the transcript proves nothing: {why}")]
    Checker {
        /// What is wrong, a sentence.
        why: String,
    },
}

/// What of the work is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Opened {
    /// Tiles of the picture.
    Tiles,
    /// Rows of the product.
    Rows,
    /// Chunks of the pad.
    Chunks,
    /// Walks through the pad, and of each a segment.
    Segments,
}

impl fmt::Display for Opened {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tiles => "tiles",
            Self::Rows => "rows",
            Self::Chunks => "chunks",
            Self::Segments => "segments",
        })
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pass(measured) => write!(
                f,
                "passed: {} measured (± {} %), {} claimed",
                measured.ob, measured.uncertainty_percent, measured.claimed_ob
            ),
            Self::Fail(fault) => write!(f, "failed: {fault}"),
            Self::Inconclusive(gap) => write!(f, "inconclusive: {gap}"),
        }
    }
}
