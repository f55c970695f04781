//! What all leases of one process share.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use muster_core::params::Params;
use muster_core::protocol::NodeAddr;
use muster_core::units::TimeMs;
use muster_net::{
    Limits, NetError, NodeSecret, Peer, PeerAddr, PeerConfig, Rate, RelayConfig, RelayUrlError, StreamKind,
};
use muster_wire::WireMessage;
use tokio_util::task::TaskTracker;

use crate::ledger::Ledger;
use crate::network::Network;
use crate::store::{ClientDir, StoreError};

/// What was said last must reach the Containers within this.
const FAREWELL: Duration = Duration::from_secs(2);

/// Why this process cannot rent.
#[derive(Debug, thiserror::Error)]
pub enum RenterError {
    /// The line to others cannot be had.
    #[error(transparent)]
    Net(#[from] NetError),
    /// The network's relay has an address that is none.
    #[error(transparent)]
    Relay(#[from] RelayUrlError),
    /// The data folder cannot be used.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// A network, the chain, the line to other nodes, and the folder of records: what every lease of this process uses.
/// Clones share all of it.
#[derive(Clone)]
pub struct Renter {
    inner: Arc<Inner>,
}

struct Inner {
    network: Network,
    ledger: Arc<dyn Ledger>,
    peer: Peer,
    dir: ClientDir,
    started: (TimeMs, Instant),
    /// Lines to Containers, which may still carry their last words when the driver of the lease has ended.
    lines: TaskTracker,
}

impl fmt::Debug for Renter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Renter").field("network", &self.inner.network.name).field("dir", &self.inner.dir).finish()
    }
}

impl Renter {
    /// Binds a line of its own (any free port, a key drawn for this process) and keeps a copy of the network for
    /// whoever drives its leases later.
    ///
    /// # Errors
    /// No port can be had, or the folder cannot be written.
    pub async fn new(network: Network, ledger: Arc<dyn Ledger>, dir: ClientDir) -> Result<Self, RenterError> {
        dir.keep_network(&network)?;
        let peer = Peer::bind(peer_config(&network)?).await?;
        let started = (wall_clock(), Instant::now());
        let lines = TaskTracker::new();
        Ok(Self { inner: Arc::new(Inner { network, ledger, peer, dir, started, lines }) })
    }

    /// The network.
    #[must_use]
    pub fn network(&self) -> &Network {
        &self.inner.network
    }

    /// What the network's nodes agree on.
    #[must_use]
    pub fn params(&self) -> &Params {
        &self.inner.network.params
    }

    /// The chain.
    #[must_use]
    pub fn ledger(&self) -> &Arc<dyn Ledger> {
        &self.inner.ledger
    }

    /// The line to other nodes.
    #[must_use]
    pub fn peer(&self) -> &Peer {
        &self.inner.peer
    }

    /// The folder of records.
    #[must_use]
    pub fn dir(&self) -> &ClientDir {
        &self.inner.dir
    }

    /// Now: the wall clock of this process's start, and the time since; it never goes back.
    #[must_use]
    pub fn now(&self) -> TimeMs {
        let (wall, at) = self.inner.started;
        wall.plus(u64::try_from(at.elapsed().as_millis()).unwrap_or(u64::MAX))
    }

    /// One question to a node and its answer, dialling included, within a time.
    ///
    /// # Errors
    /// Why there is no answer, as a sentence.
    pub(crate) async fn ask<Q: WireMessage, A: WireMessage>(
        &self,
        addr: &NodeAddr,
        kind: StreamKind,
        question: &Q,
        within: Duration,
    ) -> Result<A, String> {
        let asked = async {
            let connection = self.peer().connect(&dialable(addr)?).await.map_err(|e| e.to_string())?;
            let mut line = connection.open_bi(kind).await.map_err(|e| e.to_string())?.framed();
            line.ask::<Q, A>(question, within).await.map_err(|e| e.to_string())
        };
        let late = |_| Err(format!("no answer within {} ms", within.as_millis()));
        tokio::time::timeout(within, asked).await.unwrap_or_else(late)
    }

    pub(crate) fn lines(&self) -> &TaskTracker {
        &self.inner.lines
    }

    /// Leaves the network, once what was said last has arrived; every line is closed.
    pub async fn close(&self) {
        self.inner.lines.close();
        if tokio::time::timeout(FAREWELL, self.inner.lines.wait()).await.is_err() {
            tracing::debug!("some Containers did not take the last words in time");
        }
        self.inner.peer.close().await;
    }
}

pub(crate) fn wall_clock() -> TimeMs {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    TimeMs(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

fn peer_config(network: &Network) -> Result<PeerConfig, RelayUrlError> {
    let relay = match &network.relay {
        Some(url) => Some(RelayConfig { urls: vec![url.parse()?] }),
        None => None,
    };
    // On a network of this machine alone nothing listens beyond it.
    let on_loopback =
        |i: &crate::network::IndexerEntry| !i.direct.is_empty() && i.direct.iter().all(|a| a.ip().is_loopback());
    let ip = if relay.is_none() && !network.indexers.is_empty() && network.indexers.iter().all(on_loopback) {
        if network.indexers.iter().flat_map(|i| &i.direct).all(SocketAddr::is_ipv6) {
            Ipv6Addr::LOCALHOST.into()
        } else {
            Ipv4Addr::LOCALHOST.into()
        }
    } else {
        Ipv4Addr::UNSPECIFIED.into()
    };
    let limits = Limits {
        // Outputs of many small files come as fast as the Container can read them.
        frames: Rate::new(200_000, 400_000),
        ..Limits::bulk()
    };
    // A key of this process alone: two processes with one key would take each other's place at a Container.
    let secret = NodeSecret::generate();
    Ok(PeerConfig { relay, accept: false, limits, ..PeerConfig::new(secret, SocketAddr::new(ip, 0)) })
}

/// An address as it came over the line, for dialling.
pub(crate) fn dialable(addr: &NodeAddr) -> Result<PeerAddr, String> {
    let wire = muster_wire::NodeAddr::try_from(addr.clone()).map_err(|e| e.to_string())?;
    PeerAddr::try_from(&wire).map_err(|e| e.to_string())
}
