//! Proof of capacity: a card is what it says.
//!
//! A Checker and a Container talk as [`session`] says: the Checker commits to its secrets and sends a [`Challenge`]; the
//! Container computes and sends a Merkle root a [`Stage`]; **then** the Checker reveals its nonce, which draws what has to
//! be opened; the Container opens exactly that, and the Checker computes the opened parts again. What both said is a
//! [`Transcript`], from which anybody gets the same [`Verdict`].
//!
//! Everything here is a function of its arguments, in whole numbers. `docs/proof-of-rendering.md` explains the protocol,
//! its formulas and its limits.

pub mod challenge;
pub mod memory;
pub mod merkle;
pub mod multiply;
pub mod openings;
pub mod plan;
pub mod session;
pub mod transcript;
pub mod verdict;
pub mod work;

pub use challenge::{Challenge, ChallengeError, Claim, Plan, Rates, Scale, Secrets, Stage};
pub use openings::{Draw, Leaf, Opening, Openings};
pub use session::{Checker, CheckerEffect, CheckerEvent, CheckerSays, Prover, ProverEffect, ProverEvent, ProverSays};
pub use transcript::{End, Seal, Timings, Transcript, sealed};
pub use verdict::{Fault, Gap, Measured, Opened, Verdict};
pub use work::{Device, Reference, Rendering, WalkShape, Work, WorkError};
