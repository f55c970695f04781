//! Body of a Container: sandboxes, metering, leases.
//!
//! The brain (`muster_core::brain::container`) decides everything. This crate brings it what happens and does what it
//! says:
//!
//! | module | what it does |
//! | --- | --- |
//! | `brain` | one thread: events in, one durable commit a batch, effects out |
//! | `store` | records, history, sums in redb |
//! | `board` | what is durable, for everybody in the process to read |
//! | `streams` | what others open: offers, leases, jobs, files |
//! | `sessions` | who is attached to which lease |
//! | `jobs`, `spool` | work folders, jobs in the Sandbox, their streams |
//! | `audit` | proofs of the cards for Checkers |
//! | `apps` | packages that apps need, fetched and kept warm |
//! | `models`, `engines` | weights of models, and what they run on |
//! | `presence` | heartbeats to the Indexers |
//! | `desk`, `ledger`, `chain_ledger` | what is asked of the chain |
//! | `admin`, `status` | what the owner asks |
//! | `node` | wires all of it |
#![cfg_attr(test, allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test"))]

mod admin;
mod apps;
mod audit;
mod board;
mod brain;
mod chain_ledger;
mod clock;
mod config;
mod control;
mod desk;
mod ends;
mod engines;
mod error;
mod jobs;
mod ledger;
mod models;
mod node;
mod presence;
pub mod sandbox;
mod sessions;
mod spool;
mod status;
mod store;
mod streams;

pub use admin::{AdminAnswer, AdminError, AdminRequest, ask};
pub use audit::{Cards, Cheat, CheatError, PROCESSOR, Processor, Prover, Provers};
pub use chain_ledger::{ChainLedger, ChainLedgerConfig};
pub use config::{
    AppsOffer, ConfigError, ContainerConfig, EndpointConfig, GpuOffer, JobBounds, ModelsOffer, OfferConfig,
    SessionsOffer, socket_path,
};
pub use engines::{EngineInput, EngineOutput, EngineSetup, Engines, Substitute};
pub use error::ContainerError;
pub use ledger::{Earnings, Ledger, LedgerError, Settled, Standing};
pub use node::{ContainerNode, Joining, Ready};
pub use status::{
    CapacityStatus, ContainerStatus, EarnedStatus, HistoryStatus, IndexerStatus, LeaseStatus, NodeIdText,
};
pub use store::{HistoryRow, Intent, StoreError, Totals};
