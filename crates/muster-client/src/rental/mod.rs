//! One lease, driven from the deposit to the refund: the body of [`Renting`], which decides.

mod driver;
mod events;
mod line;
mod notes;
mod onchain;
mod stdio;
mod transfers;

pub use driver::{Rental, TopUp};
pub use events::{Command, RentalEnd, RentalEvent};
pub use line::LeaseLine;
pub use stdio::{LOG_BYTES_MAX, Stdio};

use crate::session::NotASessionKey;
use crate::store::StoreError;

/// Why a lease could not be driven on. Its record is as it was; another process, or a later start, can go on.
#[derive(Debug, thiserror::Error)]
pub enum RentalError {
    /// Its record cannot be written or read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Its record holds no usable key.
    #[error(transparent)]
    Key(#[from] NotASessionKey),
}

#[cfg(doc)]
use muster_core::brain::consumer::Renting;
