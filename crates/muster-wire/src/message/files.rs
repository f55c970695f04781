//! Files and folders on their way to or from a Container.
//!
//! The sender walks what it was told to send and writes [`Piece`]s: an entry, then the chunks of a file and its
//! BLAKE3 hash; at the end `Done` with the totals, or `Abort` with the reason. The receiver answers with one
//! [`Outcome`]. Names are relative, of at most [`PATH_LEN_MAX`] bytes, without `..`, without control characters:
//! [`check_path`] is called on every one by the decoder.

use muster_core::ids::{ContentHash, LeaseId};
use serde::{Deserialize, Serialize};

use super::{SENTENCE_LEN_MAX, clip_sentence};
use crate::{BoundedBytes, WireError, WireMessage};

/// Bytes of one chunk.
pub const CHUNK_LEN_MAX: usize = 64 * 1024;
/// Bytes of a relative path.
pub const PATH_LEN_MAX: usize = 1_024;
/// Parts of a relative path.
pub const PATH_DEPTH_MAX: usize = 64;
/// Entries of one transfer.
pub const ENTRIES_MAX: u64 = 1_000_000;

/// The first frame of a stream of files.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Transfer {
    /// The consumer sends inputs; pieces follow from it.
    Inputs {
        /// For which lease.
        lease: LeaseId,
    },
    /// The consumer wants what the job left in its work folder; pieces come back.
    Outputs {
        /// Of which lease.
        lease: LeaseId,
    },
}

/// One step of a transfer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Piece {
    /// A folder.
    Folder {
        /// Relative path, `/` between parts.
        path: String,
    },
    /// A file; its chunks follow, then its `End`.
    File {
        /// Relative path, `/` between parts.
        path: String,
        /// Bytes that will follow; a progress bar may count with them, a receiver checks them.
        len: u64,
        /// Whether it may be executed.
        executable: bool,
    },
    /// The next bytes of the file.
    Chunk(BoundedBytes<CHUNK_LEN_MAX>),
    /// The file is complete.
    End {
        /// BLAKE3 of all its bytes.
        hash: ContentHash,
    },
    /// Everything was sent.
    Done {
        /// Files and folders.
        entries: u64,
        /// Bytes of all files.
        bytes: u64,
        /// Entries that were left out (links, devices, names that cannot travel), the first few by name.
        left_out: Vec<String>,
    },
    /// The sender gives up: a file vanished, a disk failed.
    Abort {
        /// Why.
        why: String,
    },
}

/// The receiver's answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// All there, all hashes right.
    Received {
        /// Files and folders.
        entries: u64,
        /// Bytes of all files.
        bytes: u64,
    },
    /// Not taken; what had come was removed.
    Refused {
        /// What was wrong and what to do.
        why: String,
    },
}

/// Refuses a path that could lead out of the folder it is meant for, or that people could not read.
///
/// # Errors
/// What is wrong with it.
pub fn check_path(path: &str) -> Result<(), WireError> {
    let bad = |why: &str| Err(WireError::field("path", format!("{:?}: {why}", clip_sentence(path))));
    if path.is_empty() || path.len() > PATH_LEN_MAX {
        return bad("empty or longer than 1024 bytes");
    }
    if path.chars().any(char::is_control) || path.contains('\\') {
        return bad("holds a control character or a backslash");
    }
    if path.split('/').count() > PATH_DEPTH_MAX {
        return bad("more than 64 folders deep");
    }
    if path.split('/').any(|part| part.is_empty() || part == "." || part == ".." || part.len() > 255) {
        return bad("it must be relative, without '.', '..' or empty parts, each part at most 255 bytes");
    }
    Ok(())
}

impl WireMessage for Transfer {
    const MAX_LEN: usize = 64;
    fn check(&self) -> Result<(), WireError> {
        Ok(())
    }
}

impl WireMessage for Piece {
    const MAX_LEN: usize = CHUNK_LEN_MAX + 64;
    fn check(&self) -> Result<(), WireError> {
        match self {
            Self::Folder { path } | Self::File { path, .. } => check_path(path),
            Self::Done { entries, left_out, .. } => {
                if *entries > ENTRIES_MAX || left_out.len() > 16 || left_out.iter().any(|n| n.len() > SENTENCE_LEN_MAX)
                {
                    return Err(WireError::field("done", "too many entries, or a name too long"));
                }
                Ok(())
            }
            Self::Abort { why } if why.len() > SENTENCE_LEN_MAX => Err(WireError::field("abort", "too long")),
            Self::Abort { .. } | Self::Chunk(_) | Self::End { .. } => Ok(()),
        }
    }
}

impl WireMessage for Outcome {
    const MAX_LEN: usize = SENTENCE_LEN_MAX + 64;
    fn check(&self) -> Result<(), WireError> {
        match self {
            Self::Refused { why } if why.len() > SENTENCE_LEN_MAX => Err(WireError::field("refused", "too long")),
            Self::Refused { .. } | Self::Received { .. } => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_paths_that_stay_inside_pass() {
        for good in ["a", "a/b.txt", "a b/ü.png", ".hidden", "..a"] {
            assert!(check_path(good).is_ok(), "{good}");
        }
        let deep = ["a"; PATH_DEPTH_MAX + 1].join("/");
        for bad in
            ["", "/a", "a/", "a//b", "../a", "a/../b", ".", "a/.", "a\nb", "a\0b", "c:\\x", &deep, &"x".repeat(256)]
        {
            assert!(check_path(bad).is_err(), "{bad:?}");
        }
    }
}
