//! Body of a Gateway: the face for customers. It rents like any other consumer and holds no power in the network.
//!
//! [`Gateway`] holds accounts and live sessions; [`ModelApi`] is its OpenAI-compatible side, over the replicas of
//! [`Models`]; [`Gateway::router`] is the HTTP side of both. What it rents, it rents through
//! [`muster_client`], so a session is a lease like any other.
#![cfg_attr(test, allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test"))]

mod account_api;
mod api;
mod apps;
mod assets;
pub mod bench;
mod catalog;
mod content;
mod deployments;
mod keys;
mod keys_api;
mod limits;
mod logs;
mod models;
mod models_api;
mod needs;
mod openai;
mod patient;
mod receipts;
mod refusal;
mod saves;
mod sessions;
mod stakes;
mod till;
mod usage;
mod weights;

use std::path::PathBuf;
use std::sync::Arc;

use muster_client::Renter;

pub use account_api::credit_message;
pub use api::{is_loopback_host, openapi};
pub use apps::{App, AppError, Keyboard, Needs, Pointer, distance, size};
pub use catalog::{CatalogEntry, CatalogError, CatalogSource, HubSource, Recipe, Runs, catalog, in_catalog};
pub use content::{Content, ContentFile, PART_BYTES_MAX, gather};
pub use keys::{KeyError, KeyShown, KeyStore, KeyTerms, Scope};
pub use models::{Access, Deployment, Models, ModelsError, ReplicaId, Whence};
pub use needs::model_needs;
pub use openai::{ModelApi, ModelApiConfig};
pub use patient::{Patient, PatientListener, Patiently, TAKES_WITHIN, allow_many_connections, patient};
pub use sessions::IceServer;
pub use stakes::{AppStakes, PUBLISHER_HEADER, STAKE_NEEDED, publish_message, signature_text};
pub use till::Till;
pub use usage::{PAYERS, UsageError, UsageRow, Used, read_snapshot};
pub use weights::WEIGHTS_PART_MAX;

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
    /// Whether apps are taken only with a stake on the chain, and which; `None` asks for none.
    pub app_stakes: Option<AppStakes>,
    /// How it is paid in the network's token; `None` where it cannot be.
    pub till: Option<Till>,
    /// Whether accounts must have paid in beforehand what a request to a model may cost.
    pub prepaid: bool,
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
    /// What was deployed cannot be read.
    #[error("{0}")]
    Deployments(String),
    /// What was used cannot be read or kept.
    #[error(transparent)]
    Usage(#[from] UsageError),
}

/// A Gateway. Clones share it.
#[derive(Clone)]
pub struct Gateway {
    inner: Arc<Inner>,
}

struct Inner {
    config: GatewayConfig,
    renter: Renter,
    keys: Arc<KeyStore>,
    apps: apps::Apps,
    sessions: sessions::Sessions,
    limits: Arc<limits::Limits>,
    model_api: ModelApi,
    weights: weights::Weights,
    deployments: deployments::Deployments,
}

impl std::fmt::Debug for Gateway {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Gateway").field("config", &self.inner.config).finish_non_exhaustive()
    }
}

impl Gateway {
    /// Opens what an earlier process has left, and is ready to serve; what was deployed is started. Needs a runtime.
    ///
    /// # Errors
    /// Its folder cannot be read, or what is in it is damaged.
    pub fn new(config: GatewayConfig, renter: Renter) -> Result<Self, GatewayError> {
        let keys = Arc::new(KeyStore::open(&config.dir.join("api-keys.json"))?);
        let limits = Arc::<limits::Limits>::default();
        let model_config = ModelApiConfig {
            loopback_only: config.loopback_only,
            till: config.till.clone(),
            prepaid: config.prepaid,
            ..ModelApiConfig::default()
        };
        let (dir, models) = (&config.dir, Models::default());
        let model_api =
            ModelApi::with_limits(dir, model_config, Arc::clone(&keys), models.clone(), Arc::clone(&limits))?;
        let apps = apps::Apps::open(&config.dir.join("apps"))?;
        let weights = weights::Weights::new(config.dir.join("weights"));
        let deployed = config.dir.join("deployments.json");
        let deployments = deployments::Deployments::open(deployed, models, renter.clone(), weights.clone())
            .map_err(|error| GatewayError::Deployments(error.to_string()))?;
        deployments.begin();
        let sessions = sessions::Sessions::default();
        let inner = Inner { config, renter, keys, apps, sessions, limits, model_api, weights, deployments };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Everything that it serves.
    pub fn router(&self) -> axum::Router {
        api::router(self.clone())
    }

    /// The models that it serves: whoever rents for them adds and removes their replicas here.
    #[must_use]
    pub fn models(&self) -> &Models {
        self.inner.model_api.models()
    }

    /// Stops all sessions and waits until they are settled and requests are answered, at most so long.
    pub async fn close(&self, within: std::time::Duration) {
        self.inner.sessions.stop_all();
        // Requests first: what they counted is paid.
        self.inner.model_api.close(within).await;
        self.inner.deployments.stop_all();
        if tokio::time::timeout(within, self.inner.deployments.settled()).await.is_err() {
            tracing::warn!("some replicas are not settled yet; the next start settles them");
        }
        if tokio::time::timeout(within, self.inner.sessions.settled()).await.is_err() {
            tracing::warn!("some sessions are not settled yet; the next start settles them");
        }
    }
}
