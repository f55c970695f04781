//! Body of a Gateway: the face for customers. It rents like any other consumer and holds no power in the network.
//!
//! [`Gateway`] holds accounts and live sessions; [`Gateway::router`] is its HTTP side. What it rents, it rents through
//! [`muster_client`], so a session is a lease like any other.
#![cfg_attr(test, allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test"))]

mod api;
mod apps;
mod assets;
mod content;
mod keys;
mod limits;
mod receipts;
mod refusal;
mod saves;
mod sessions;

use std::path::PathBuf;
use std::sync::Arc;

use muster_client::Renter;

pub use api::{is_loopback_host, openapi};
pub use apps::{App, AppError, Keyboard, Needs, Pointer, size};
pub use content::{Content, ContentFile, PART_BYTES_MAX, gather};
pub use keys::{KeyError, KeyStore};
pub use sessions::IceServer;

/// What a Gateway is told at its start.
#[derive(Clone, Debug)]
pub struct GatewayConfig {
    /// Its folder: accounts, published apps, players' save folders.
    pub dir: PathBuf,
    /// The address that links begin with: `http://127.0.0.1:8600`.
    pub origin: String,
    /// Servers that help players through firewalls.
    pub ice_servers: Vec<IceServer>,
    /// Sessions that one account may run at once.
    pub sessions_max: usize,
    /// Whether it serves this machine alone, so that names of others for it are refused.
    pub loopback_only: bool,
}

/// Why a Gateway does not start.
#[derive(Debug, thiserror::Error)]
pub enum GatewayError {
    /// Its accounts cannot be read.
    #[error(transparent)]
    Keys(#[from] KeyError),
    /// Its apps cannot be read.
    #[error(transparent)]
    Apps(#[from] AppError),
}

/// A Gateway. Clones share it.
#[derive(Clone)]
pub struct Gateway {
    inner: Arc<Inner>,
}

struct Inner {
    config: GatewayConfig,
    renter: Renter,
    keys: KeyStore,
    apps: apps::Apps,
    sessions: sessions::Sessions,
    limits: limits::Limits,
}

impl std::fmt::Debug for Gateway {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Gateway").field("config", &self.inner.config).finish_non_exhaustive()
    }
}

impl Gateway {
    /// Opens what an earlier process has left, and is ready to serve.
    ///
    /// # Errors
    /// Its folder cannot be read, or what is in it is damaged.
    pub fn new(config: GatewayConfig, renter: Renter) -> Result<Self, GatewayError> {
        let keys = KeyStore::open(&config.dir.join("api-keys.json"))?;
        let apps = apps::Apps::open(&config.dir.join("apps"))?;
        let inner = Inner {
            config,
            renter,
            keys,
            apps,
            sessions: sessions::Sessions::default(),
            limits: limits::Limits::default(),
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Everything that it serves.
    pub fn router(&self) -> axum::Router {
        api::router(self.clone())
    }

    /// Stops all sessions and waits until they are settled, at most so long.
    pub async fn close(&self, within: std::time::Duration) {
        self.inner.sessions.stop_all();
        if tokio::time::timeout(within, self.inner.sessions.settled()).await.is_err() {
            tracing::warn!("some sessions are not settled yet; the next start settles them");
        }
    }
}
