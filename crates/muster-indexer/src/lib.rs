//! The body of an Indexer: it listens, keeps its records in SQLite, and performs what
//! [`muster_core::brain::indexer`] decides.
#![cfg_attr(test, allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test"))]

mod actor;
mod checked;
mod listen;
mod registry;
mod store;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use muster_chain::settle::ChainClient;
use muster_core::params::Params;
use muster_net::{Limits, NetError, NodeSecret, Peer, PeerAddr, PeerConfig, RelayConfig};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

pub use checked::Checked;
pub use store::StoreError;

/// Events that may wait for the actor.
const EVENTS_MAX: usize = 16_384;

/// What an Indexer is made of.
#[derive(Debug)]
pub struct IndexerConfig {
    /// Its folder.
    pub dir: PathBuf,
    /// Its key.
    pub secret: NodeSecret,
    /// Where it listens.
    pub listen: SocketAddr,
    /// The relays through which it can be reached.
    pub relay: Option<RelayConfig>,
    /// The network's parameters.
    pub params: Params,
    /// The chain, whose registry says who is a Container.
    pub chain: ChainClient,
}

/// Why an Indexer could not begin or go on.
#[derive(Debug, thiserror::Error)]
pub enum IndexerError {
    /// Its records.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Its address.
    #[error(transparent)]
    Net(#[from] NetError),
    /// A task of it failed: a bug.
    #[error("a task of the Indexer failed: {0}")]
    Task(String),
}

/// Figures that a health page shows.
#[derive(Clone, Debug, Default)]
pub struct Gauges(Arc<[AtomicU64; 2]>);

impl Gauges {
    /// Containers that are offered work.
    #[must_use]
    pub fn listed(&self) -> u64 {
        self.0[0].load(Ordering::Relaxed)
    }

    /// Requests that wait.
    #[must_use]
    pub fn waiting(&self) -> u64 {
        self.0[1].load(Ordering::Relaxed)
    }

    fn set(&self, listed: u64, waiting: u64) {
        self.0[0].store(listed, Ordering::Relaxed);
        self.0[1].store(waiting, Ordering::Relaxed);
    }
}

/// An Indexer that has its address and its records, and does not run yet.
#[derive(Debug)]
pub struct IndexerNode {
    peer: Peer,
    store: store::Store,
    params: Params,
    chain: ChainClient,
    gauges: Gauges,
    checked: Option<Checked>,
}

impl IndexerNode {
    /// Opens the records and takes the address.
    ///
    /// # Errors
    /// The records cannot be used, or the address cannot be had.
    pub async fn new(config: IndexerConfig) -> Result<Self, IndexerError> {
        let store = store::Store::open(&config.dir.join("records.sqlite")).await?;
        let peer = Peer::bind(PeerConfig {
            relay: config.relay,
            limits: Limits::control(),
            ..PeerConfig::new(config.secret, config.listen)
        })
        .await?;
        Ok(Self { peer, store, params: config.params, chain: config.chain, gauges: Gauges::default(), checked: None })
    }

    /// Follows what Checkers find: quality in the ranking, and proof where it is demanded.
    #[must_use]
    pub fn with_checked(mut self, checked: Checked) -> Self {
        self.checked = Some(checked);
        self
    }

    /// Where it can be dialled.
    #[must_use]
    pub fn addr(&self) -> PeerAddr {
        self.peer.addr()
    }

    /// Figures for a health page; they stay up to date while it runs.
    #[must_use]
    pub fn gauges(&self) -> Gauges {
        self.gauges.clone()
    }

    /// Serves until told to stop.
    ///
    /// # Errors
    /// The records cannot be written any more, or a task failed.
    pub async fn run(self, stop: CancellationToken) -> Result<(), IndexerError> {
        let (events, inbox) = mpsc::channel(EVENTS_MAX);
        let routes = listen::Routes::default();
        let actor =
            actor::Actor::new(self.peer.id(), self.params.clone(), self.store, routes.clone(), self.gauges).await?;
        let (tell, proved) = watch::channel(None);
        let following = self.checked.map(|checked| {
            let (chain, peer) = (self.chain.clone(), self.peer.clone());
            tokio::spawn(checked::follow(checked, chain, peer, events.clone(), tell, stop.clone()))
        });
        let watching = registry::watch(self.chain, self.params.clone(), events.clone(), proved, stop.clone());
        let registry = tokio::spawn(watching);
        let listener = tokio::spawn(listen::accept(self.peer.clone(), routes, events.clone(), stop.clone()));
        let result = actor.run(inbox, events, stop.clone()).await;
        stop.cancel();
        for task in [registry, listener].into_iter().chain(following) {
            task.await.map_err(|e| IndexerError::Task(e.to_string()))?;
        }
        self.peer.close().await;
        result
    }
}
