//! What Checker and Container say to each other.

use serde::{Deserialize, Serialize};

use super::challenge::{Challenge, Stage};
use super::openings::Openings;
use crate::ids::ContentHash;

/// What a Checker says, in this order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CheckerSays {
    /// Begin.
    Challenge(Box<Challenge>),
    /// The pad's root came: walk through it from here.
    Walk {
        /// Where the walks begin.
        seed: [u8; 32],
    },
    /// All roots came: this draws what is opened.
    Reveal {
        /// The nonce that the challenge is committed to.
        nonce: [u8; 32],
    },
}

/// What a Container says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ProverSays {
    /// A stage is computed.
    Root {
        /// Which.
        stage: Stage,
        /// Its root.
        root: ContentHash,
    },
    /// What was drawn.
    Openings(Box<Openings>),
    /// The card or its driver failed.
    Broken {
        /// How, a sentence of at most 200 bytes.
        why: String,
    },
}
