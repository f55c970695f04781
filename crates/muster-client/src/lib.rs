//! Renting as a library: demand, lease, vouchers, files.
//!
//! [`Network`] is what a machine must know to take part; [`Renter`] is what all leases of a process share; [`seek`]
//! finds a Container; [`Rental`](rental::Rental) drives one lease from the deposit to the refund, and
//! [`store`] keeps its record so that any later process can go on with it. Above them: [`job`] runs a command or an
//! array of tasks, [`agent`] drives what commands leave behind, [`leases`] lists, stops, tops up and shows logs,
//! [`live`] runs a job whose display is streamed, [`model`] one that is a model and answers requests.
#![cfg_attr(test, allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test"))]

pub mod agent;
pub mod chain;
mod durable;
pub mod files;
pub mod job;
pub mod leases;
pub mod ledger;
pub mod live;
pub mod model;
pub mod network;
pub mod reach;
pub mod rental;
mod renter;
mod seek;
mod session;
pub mod store;
pub mod weights;

pub use network::{Network, NetworkError};
pub use renter::{Renter, RenterError};
pub use seek::{ACCEPTANCE_CONTEXT, SeekError, seek};
pub use session::{NotASessionKey, SessionKey};
pub use store::{ClientDir, StoreError};
