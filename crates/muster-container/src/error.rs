//! Why a Container does not start, or stopped.

use std::io;
use std::path::PathBuf;

use muster_core::hardware::HardwareError;
use muster_net::NetError;

use crate::apps::AppsError;
use crate::config::ConfigError;
use crate::models::ModelsError;
use crate::sandbox::SandboxError;
use crate::store::StoreError;

/// Why a Container does not start, or stopped.
#[derive(Debug, thiserror::Error)]
pub enum ContainerError {
    /// The configuration cannot work.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The offer is out of bounds.
    #[error("the offer cannot be counted with")]
    Offer(#[from] HardwareError),
    /// The records cannot be used.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Jobs cannot be isolated.
    #[error(transparent)]
    Sandbox(#[from] SandboxError),
    /// The folder of packages cannot be used.
    #[error("the packages of apps: {0}")]
    Apps(String),
    /// The folder of weights cannot be used.
    #[error("the weights of models: {0}")]
    Models(String),
    /// The network cannot be joined.
    #[error(transparent)]
    Net(#[from] NetError),
    /// The chain has refused this Container, for a reason that time does not mend.
    #[error("the chain: {0}")]
    Chain(String),
    /// The admin socket cannot be opened.
    #[error("cannot open the admin socket {}: {source}; a shorter data folder helps where the path is too long", path.display())]
    Socket {
        /// The socket.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The data folder cannot be made.
    #[error("cannot create the data folder {}", path.display())]
    DataDir {
        /// The folder.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A thread cannot be had.
    #[error("cannot start a thread")]
    Thread(#[source] io::Error),
    /// Our own fault.
    #[error("the brain's thread panicked")]
    Panicked,
}

impl From<ModelsError> for ContainerError {
    fn from(error: ModelsError) -> Self {
        Self::Models(error.to_string())
    }
}

impl From<AppsError> for ContainerError {
    fn from(error: AppsError) -> Self {
        Self::Apps(error.to_string())
    }
}
