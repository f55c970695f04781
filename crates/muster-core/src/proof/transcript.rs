//! All that was said in one proof: whoever holds it comes to the same verdict.

use serde::{Deserialize, Serialize};

use super::challenge::{Challenge, Secrets, Stage};
use super::openings::Openings;
use crate::ids::ContentHash;

/// How long things took, by the Checker's clock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Timings {
    /// The shortest way to the Container and back that the Checker saw.
    pub latency_ms: u32,
    /// From the beginning of each stage to its root; 0 for those that were not reached.
    pub stage_ms: [u32; 4],
}

/// How the conversation ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum End {
    /// Openings came; they may be wrong.
    Opened,
    /// The Container said that it cannot go on.
    Broken {
        /// During which stage; `None` after the draw.
        stage: Option<Stage>,
        /// What it said, cut to 200 bytes.
        why: String,
    },
    /// The connection was lost.
    Lost {
        /// During which stage; `None` after the draw.
        stage: Option<Stage>,
    },
    /// Nothing came by the deadline.
    Silent {
        /// During which stage; `None` after the draw.
        stage: Option<Stage>,
    },
    /// A message without a place in the conversation.
    Protocol {
        /// What was wrong, a sentence.
        what: String,
    },
}

/// One proof from challenge to end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Transcript {
    /// What was asked.
    pub challenge: Challenge,
    /// Roots of the stages that were reached.
    pub roots: Vec<ContentHash>,
    /// What draws the walks: told when the pad's root had come.
    pub walk_seed: [u8; 32],
    /// How long it took.
    pub timings: Timings,
    /// What the Checker had committed to.
    pub secrets: Secrets,
    /// What was opened, where the conversation came that far.
    pub openings: Option<Openings>,
    /// How it ended.
    pub end: End,
}
