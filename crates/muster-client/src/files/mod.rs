//! Inputs on their way to a Container, outputs on their way back.

mod gather;
mod receive;
mod send;
mod walk;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

pub use gather::{Claims, Placed};
pub use receive::{FetchError, Fetched, fetch, prepare_output};
pub use send::{SendFailed, Sent, send};
pub use walk::{Source, plan};

use crate::durable;

/// Why files cannot be read or written here.
#[derive(Debug, thiserror::Error)]
pub enum FilesError {
    /// An input that was named is not there.
    #[error("the input {0} does not exist; check the path given with --input")]
    NoInput(PathBuf),
    /// An input that was named is neither a file nor a folder.
    #[error("the input {0} is neither a file nor a folder")]
    NotAFile(PathBuf),
    /// Two inputs would have the same name in the job's folder.
    #[error("two inputs would both be {name:?} in the job's work folder: {first} and {second}; rename one of them")]
    SameName {
        /// The name.
        name: String,
        /// The first.
        first: PathBuf,
        /// The second.
        second: PathBuf,
    },
    /// The name of an input that was named cannot travel.
    #[error("the input {path} cannot be sent: {what}")]
    BadName {
        /// The input.
        path: PathBuf,
        /// Why.
        what: String,
    },
    /// There are more than may travel at once.
    #[error("the inputs are more than {max} files and folders; pack them into an archive")]
    TooMany {
        /// The limit.
        max: u64,
    },
    /// An input vanished while it was sent.
    #[error("the input {0} vanished while it was sent; nothing has run and nothing is billed")]
    Vanished(PathBuf),
    /// An input changed while it was sent.
    #[error("the input {0} changed while it was sent; nothing has run and nothing is billed")]
    Changed(PathBuf),
    /// The output disk is full.
    #[error(
        "the disk that holds {path} is full; free some space: the outputs stay at the Container for a while and are fetched again"
    )]
    Full {
        /// What could not be written.
        path: PathBuf,
    },
    /// Something other than a folder, or a link, stands where a folder is needed.
    #[error("{path} is in the way: {what}; move it, or name another folder with --output")]
    InTheWay {
        /// What.
        path: PathBuf,
        /// What it is.
        what: &'static str,
    },
    /// Reading or writing failed otherwise.
    #[error("cannot use {path}: {reason}")]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        reason: io::Error,
    },
}

impl FilesError {
    /// An error of the system, with a full disk told apart.
    pub(crate) fn io(path: &Path) -> impl FnOnce(io::Error) -> Self + '_ {
        move |reason| {
            if durable::is_full(&reason) {
                Self::Full { path: path.to_owned() }
            } else {
                Self::Io { path: path.to_owned(), reason }
            }
        }
    }
}

/// How far a transfer has come; whoever likes reads it while it runs.
#[derive(Debug, Default)]
pub struct Meter {
    bytes: AtomicU64,
    total: AtomicU64,
}

impl Meter {
    /// Bytes so far, and bytes in all as far as that is known (0: it is not).
    #[must_use]
    pub fn read(&self) -> (u64, u64) {
        (self.bytes.load(Ordering::Relaxed), self.total.load(Ordering::Relaxed))
    }

    pub(crate) fn expect(&self, total: u64) {
        self.total.store(total, Ordering::Relaxed);
    }

    pub(crate) fn add(&self, bytes: usize) {
        self.bytes.fetch_add(u64::try_from(bytes).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    pub(crate) fn restart(&self) {
        self.bytes.store(0, Ordering::Relaxed);
    }
}
