//! What every role serves on loopback: /metrics for Prometheus and /healthz for whoever waits.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::get;
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::dirs::write_private;
use crate::failure::{Because, Code, Failure};

/// How a role is doing, as /healthz tells it.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Health {
    /// Which role.
    pub(crate) role: String,
    /// Whether it does its work.
    pub(crate) ready: bool,
    /// Its process.
    pub(crate) pid: u32,
    /// Where it listens for its own protocol.
    pub(crate) listen: Option<String>,
    /// Containers that an Indexer offers; 0 for the other roles.
    pub(crate) peers: u64,
    /// What is wrong, if something is.
    pub(crate) problem: Option<String>,
}

/// A role's health, which it keeps up to date itself.
#[derive(Clone, Debug, Default)]
pub(crate) struct HealthCell(Arc<Mutex<Health>>);

impl HealthCell {
    /// The health of a role that has just begun.
    pub(crate) fn new(role: &str) -> Self {
        let health = Health { role: role.to_owned(), pid: std::process::id(), ..Health::default() };
        Self(Arc::new(Mutex::new(health)))
    }

    /// Changes it.
    pub(crate) fn set(&self, change: impl FnOnce(&mut Health)) {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// Reads it.
    pub(crate) fn get(&self) -> Health {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

#[derive(Clone)]
struct Served {
    health: HealthCell,
    metrics: PrometheusHandle,
}

/// Serves until cancelled, `more` beside it; writes the address into `note` (`health` in the role's folder) so that others
/// find it.
pub(crate) async fn health(
    addr: SocketAddr,
    note: &Path,
    health: HealthCell,
    more: Router,
    stop: CancellationToken,
) -> Result<tokio::task::JoinHandle<()>, Failure> {
    if !addr.ip().is_loopback() {
        let why = format!(
            "--health {addr}: metrics are served without authentication, so on loopback only; use 127.0.0.1:PORT"
        );
        return Err(Failure::new(Code::Config, why));
    }
    let metrics = PrometheusBuilder::new().install_recorder().because(Code::Internal, "cannot collect metrics")?;
    let listener = TcpListener::bind(addr)
        .await
        .because(Code::InUse, format!("cannot listen on {addr} for /healthz; name another port with --health"))?;
    let bound = listener.local_addr().because(Code::Internal, "the health listener has no address")?;
    write_private(note, format!("{bound}\n").as_bytes())?;
    let upkeep = metrics.clone();
    let app = Router::new()
        .route("/healthz", get(healthz))
        .route("/metrics", get(render))
        .with_state(Served { health, metrics })
        .merge(more);
    Ok(tokio::spawn(async move {
        let beat = stop.clone();
        tokio::spawn(async move {
            let mut every = tokio::time::interval(std::time::Duration::from_secs(5));
            loop {
                tokio::select! {
                    _ = every.tick() => upkeep.run_upkeep(),
                    () = beat.cancelled() => return,
                }
            }
        });
        if let Err(e) = axum::serve(listener, app).with_graceful_shutdown(stop.cancelled_owned()).await {
            tracing::error!(error = %e, "the health page cannot be served any more");
        }
    }))
}

async fn healthz(State(served): State<Served>) -> (StatusCode, axum::Json<Health>) {
    let health = served.health.get();
    let status = if health.ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, axum::Json(health))
}

async fn render(State(served): State<Served>) -> String {
    served.metrics.render()
}

/// Asks the role whose folder this is how it is doing; `None` while it does not answer.
pub(crate) async fn ask(note: &Path, client: &reqwest::Client) -> Option<Health> {
    let addr = tokio::fs::read_to_string(note).await.ok()?;
    let reply = client.get(format!("http://{}/healthz", addr.trim())).send().await.ok()?;
    reply.json().await.ok()
}
