//! What can go wrong with the embedded chain itself (not with one request: see `rpc::RpcError`).

use std::net::SocketAddr;
use std::path::PathBuf;

/// Why the embedded chain cannot be opened, served or extended.
#[derive(Debug, thiserror::Error)]
pub enum ChainError {
    /// Another process holds the folder.
    #[error(
        "the chain in {path} is in use by another process: stop that process (is `muster up` running?) or choose another folder"
    )]
    Busy {
        /// The data file.
        path: PathBuf,
    },
    /// Written by a newer version of this program.
    #[error(
        "the chain in {path} has layout {found}, and this version knows layouts up to {known}: use the newer version that wrote it, or another folder"
    )]
    Newer {
        /// The data file.
        path: PathBuf,
        /// The layout that was found.
        found: u32,
        /// The newest layout this version reads.
        known: u32,
    },
    /// A record does not match its checksum or its form.
    #[error(
        "the chain in {path} is damaged ({what}): restore the folder from a backup, or remove it to begin a new chain; nothing was changed"
    )]
    Corrupted {
        /// The data file.
        path: PathBuf,
        /// Which record, and how it was noticed.
        what: String,
    },
    /// The folder holds a chain with another id.
    #[error("the chain in {path} has chain id {found}, not {wanted}: choose another folder or chain id {found}")]
    OtherChain {
        /// The data file.
        path: PathBuf,
        /// The chain id in the folder.
        found: u64,
        /// The chain id that was asked for.
        wanted: u64,
    },
    /// The configuration makes no sense.
    #[error("the chain's configuration is wrong: {0}")]
    Config(String),
    /// A listener that strangers could reach, without leave.
    #[error(
        "{address} can be reached from other machines: listen on a loopback address such as 127.0.0.1, or allow remote access explicitly"
    )]
    NotLoopback {
        /// Where it would have listened.
        address: SocketAddr,
    },
    /// A folder or file cannot be used.
    #[error("cannot use {path}: {reason}")]
    Io {
        /// The folder or file.
        path: PathBuf,
        /// What the system said.
        reason: std::io::Error,
    },
    /// The database failed, for example because the disk is full.
    #[error("the chain's database in {path} failed: {reason}")]
    Storage {
        /// The data file.
        path: PathBuf,
        /// What the database said.
        reason: String,
    },
}
