//! What an epoch pays, takes and finds: a pure function from the set of reports to the outcome.
//!
//! [`settle`] is given the state that the epochs before left, the epoch's [`Draw`], the [`Bundle`] of what Checkers
//! committed to and revealed, and what the chain says of fees ([`ChainFacts`]). Any two nodes that are given the same
//! get the same [`Settled`], byte for byte, whatever the order of the bundle's entries.
//!
//! # Verdicts
//!
//! - What is deterministic counts by re-execution: one Checker that shows a bad transcript proves it to all, and a
//!   majority that says otherwise does not change it. [`doubts`] names what has to be run again.
//! - What is not (silence, speed) counts by two thirds of the seats that were drawn; those who are missing or do not
//!   know agree with nobody. Timings count by their median. A vote never takes stake by itself: it accuses, and a
//!   larger committee of the next epoch decides.
//! - No verdict is neither good nor bad: the test is repeated.
//!
//! # Rounding
//!
//! Every share is rounded down to the smallest unit; what is left over is not issued. So the sum of what is paid is
//! never more than the pool, and less by fewer units than there are shares.

mod bytes;
mod emission;
mod follow;
mod gather;
mod judge;
pub mod merkle;
mod outcome;
mod params;
mod pay;
mod report;
mod settle;
mod state;
pub mod synthetic;
mod tally;
#[cfg(test)]
#[allow(clippy::cast_possible_truncation, reason = "small numbers of a test's own")]
mod tests;

pub use emission::{Pools, pools};
pub use gather::{Ignored, IgnoredWhy, doubts};
pub use judge::Verdict;
pub use outcome::{
    LeafKind, Outcome, RewardLeaf, SlashLeaf, committee_hash, owner_key, reward_root, signers, slash_root,
};
pub use params::RewardParams;
pub use report::{
    Bundle, Commitment, Doubt, ENTRIES_MAX, Entry, Finding, RESULTS_MAX, Receipt, Reexecution, Report, Reveal,
    TaskResult,
};
pub use settle::{
    ChainFacts, CheckerSummary, ContainerSummary, FeesPaid, LicenceSummary, MatchedLease, Published, Settled, settle,
    settle_silence,
};
pub use state::{CheckerRecord, ContainerRecord, Duty, QUALITY_NEW_BPS, State};

/// Why there is no outcome.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SettleError {
    /// Not the epoch after the last settled one.
    #[error("epoch {got} cannot be settled now: the next one is {next}", next = next.0, got = got.0)]
    OutOfOrder {
        /// The epoch that comes next.
        next: crate::epoch::EpochNo,
        /// The one that was given.
        got: crate::epoch::EpochNo,
    },
    /// More than a bundle or a report may hold.
    #[error("{got} {what}; at most {max} are taken")]
    TooMany {
        /// What there is too much of.
        what: &'static str,
        /// How many there are.
        got: usize,
        /// The most.
        max: usize,
    },
    /// Sums past what a number holds: a parameter or a fee is out of all proportion.
    #[error("an amount is past what can be counted: {0}")]
    Overflow(&'static str),
    /// Published bytes end too early.
    #[error("the published data of an outcome is cut off")]
    Truncated,
    /// Published bytes that no outcome has.
    #[error("the published data of an outcome is malformed at {0}")]
    Malformed(&'static str),
}
