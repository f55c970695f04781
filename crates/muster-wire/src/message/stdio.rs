//! A job's standard streams.
//!
//! The Container keeps a bounded spool of each output stream. A watcher says from where it wants to read; when it
//! is slower than the job, the job waits (backpressure); when nobody watches, the oldest bytes give way and a later
//! watcher is told how many it missed.

use muster_core::ids::LeaseId;
use serde::{Deserialize, Serialize};

use crate::{BoundedBytes, WireError, WireMessage};

/// Bytes of one piece of output or input.
pub const STDIO_LEN_MAX: usize = 32 * 1024;

/// The first frame: what the watcher wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Watch {
    /// Of which lease.
    pub lease: LeaseId,
    /// Standard output from this byte on.
    pub out_from: u64,
    /// Standard error from this byte on.
    pub err_from: u64,
    /// Go on until the job ends; otherwise only what is there.
    pub follow: bool,
    /// Whether the watcher will send standard input.
    pub stdin: bool,
}

/// Which output stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Stream {
    /// Standard output.
    Out,
    /// Standard error.
    Err,
}

/// Container to watcher.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Output {
    /// The next bytes of a stream.
    Data {
        /// Which.
        stream: Stream,
        /// The bytes.
        bytes: BoundedBytes<STDIO_LEN_MAX>,
    },
    /// Bytes that are no longer there.
    Missed {
        /// Of which stream.
        stream: Stream,
        /// How many.
        count: u64,
    },
    /// Nothing more will come.
    End,
}

/// Watcher to Container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Input {
    /// The next bytes of standard input.
    Data(BoundedBytes<STDIO_LEN_MAX>),
    /// Standard input is over.
    End,
}

impl WireMessage for Watch {
    const MAX_LEN: usize = 64;
    fn check(&self) -> Result<(), WireError> {
        Ok(())
    }
}

impl WireMessage for Output {
    const MAX_LEN: usize = STDIO_LEN_MAX + 16;
    fn check(&self) -> Result<(), WireError> {
        Ok(())
    }
}

impl WireMessage for Input {
    const MAX_LEN: usize = STDIO_LEN_MAX + 16;
    fn check(&self) -> Result<(), WireError> {
        Ok(())
    }
}
