//! Body of a Checker: it tests Containers as it is drawn to, and settles epochs with other Checkers.
//!
//! The brain (`muster_core::brain::checker`) decides what is said, signed and posted. This crate brings it what happens
//! and does what it says:
//!
//! | module | what it does |
//! | --- | --- |
//! | [`ledger`] | what is asked of the chain: a trait, so that a test can be one |
//! | [`beacon`] | where an epoch's randomness comes from |
//! | [`view`] | from the chain's logs to the view that an epoch is drawn from |
//! | `disputes` | deciding them, and slashing who signed what was wrong |
//! | `epochs` | every epoch's view, beacon and draw, in order, also those that were missed |
//! | `brain` | one thread: events in, durable records, effects out |
//! | `store` | the brain's records in redb |
//! | [`evidence`] | bytes by their hash, in files, within a limit |
//! | `accounts` | what Containers' answers came to, in one file |
//! | `tasks` | liveness, proofs of capacity, quality, rechecks |
//! | [`archive`] | any epoch again, by anybody: its draw, its transcripts, its outcome |
//! | [`examine`] | running again what another Checker shows |
//! | `gossip`, `serve` | what Checkers say to each other, and what others ask |
//! | `status` | what a page shows |
//! | `node` | wires all of it |
//!
//! # Clocks
//!
//! Strangers' clocks are compared only through epochs and their phases. A Checker whose clock is off by more than the
//! time left of a phase (on the public network: commitments last 90 seconds) gets no receipts, and its status says so.
#![cfg_attr(test, allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test"))]

mod accounts;
pub mod archive;
pub mod beacon;
mod brain;
mod chain_ledger;
mod clock;
mod disputes;
mod epochs;
pub mod evidence;
pub mod examine;
mod gossip;
pub mod ledger;
mod node;
mod serve;
mod status;
mod store;
mod tasks;
pub mod view;

pub use accounts::AccountsError;
pub use archive::{Archive, ArchiveError, Verification};
pub use beacon::{Beacon, BeaconError};
pub use chain_ledger::{ChainLedger, DrandBeacon};
pub use evidence::{EvidenceError, EvidenceLimits};
pub use ledger::{Condemned, DisputedOutcome, Ledger, LedgerError};
pub use muster_net::evidence::{FetchError, fetch};
pub use node::{CheckerConfig, CheckerError, CheckerNode};
pub use status::{CheckerStatus, Counted, TaskStatus};
pub use store::StoreError;
pub use tasks::{AnswersConfig, AskedThrough, AuditedError, AuditedFile, AuditedModel, PlayConfig};
