//! A node on the network: its key, bound to an address.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use iroh::dns::DnsResolver;
use iroh::endpoint::{ConnectError, PortmapperConfig, QuicTransportConfig, VarInt, presets};
use iroh::{Endpoint, NetReportConfig, RelayMap, RelayMode};
use muster_core::ids::NodeId;
use muster_wire::Signature64;
use tokio::sync::{Mutex, mpsc};
use tokio::task::AbortHandle;
use tokio::time::{Instant, timeout};
use tracing::{debug, info};

use crate::accept::Acceptor;
use crate::account::{Account, Book};
use crate::addr::{PeerAddr, RelayUrl};
use crate::connection::Connection;
use crate::key::NodeSecret;
use crate::stats::{NetStats, Stats};
use crate::{ALPN, CloseCode, Limits, NetError, install_crypto_provider};

/// Connections that wait for [`Peer::accept`].
const ACCEPT_QUEUE: usize = 256;

/// The relays that a node may be reached through. They are contacted; nobody else is.
#[derive(Debug, Clone)]
pub struct RelayConfig {
    /// The nearest of them becomes the node's own.
    pub urls: Vec<RelayUrl>,
}

/// What a [`Peer`] is made of.
#[derive(Debug, Clone)]
pub struct PeerConfig {
    /// The node's key.
    pub secret: NodeSecret,
    /// The address to listen on; port 0 takes any free one.
    pub listen: SocketAddr,
    /// Relays, if any.
    pub relay: Option<RelayConfig>,
    /// Whether others may dial this node. One that only dials still takes streams on its own connections.
    pub accept: bool,
    /// What it takes from others.
    pub limits: Limits,
}

impl PeerConfig {
    /// Without relays, taking connections, with the limits of a node that moves files.
    #[must_use]
    pub fn new(secret: NodeSecret, listen: SocketAddr) -> Self {
        Self { secret, listen, relay: None, accept: true, limits: Limits::bulk() }
    }
}

struct Inner {
    secret: NodeSecret,
    endpoint: Endpoint,
    listen: SocketAddr,
    limits: Arc<Limits>,
    stats: Arc<Stats>,
    book: Arc<Book>,
    accepted: Mutex<mpsc::Receiver<Connection>>,
    acceptor: AbortHandle,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.acceptor.abort();
    }
}

/// A node on the network. Cheap to clone; the network is left when [`Peer::close`] is called or the last clone dropped.
#[derive(Clone)]
pub struct Peer(Arc<Inner>);

impl Peer {
    /// Takes the address and begins to take connections (in a task that ends with the peer).
    ///
    /// # Errors
    /// The address cannot be had.
    pub async fn bind(config: PeerConfig) -> Result<Self, NetError> {
        install_crypto_provider();
        let PeerConfig { secret, listen, relay, accept, limits } = config;
        let (limits, stats) = (Arc::new(limits), Arc::new(Stats::new()));
        let book = Arc::new(Book::new(Arc::clone(&limits), Arc::clone(&stats)));
        let endpoint = bind_endpoint(&secret, listen, relay.as_ref(), &limits).await?;
        let listen = endpoint.bound_sockets().into_iter().next().unwrap_or(listen);
        let (sender, accepted) = mpsc::channel(ACCEPT_QUEUE);
        let acceptor = Acceptor {
            endpoint: endpoint.clone(),
            limits: Arc::clone(&limits),
            stats: Arc::clone(&stats),
            book: Arc::clone(&book),
            accepted: accept.then_some(sender),
        };
        let acceptor = tokio::spawn(acceptor.run()).abort_handle();
        info!(id = %secret.id().short(), %listen, relays = relay.map_or(0, |relay| relay.urls.len()), "peer bound");
        Ok(Self(Arc::new(Inner {
            secret,
            endpoint,
            listen,
            limits,
            stats,
            book,
            accepted: Mutex::new(accepted),
            acceptor,
        })))
    }

    /// The node's key.
    #[must_use]
    pub fn id(&self) -> NodeId {
        self.0.secret.id()
    }

    /// The address it listens on, with the port that it got.
    #[must_use]
    pub fn listen_addr(&self) -> SocketAddr {
        self.0.listen
    }

    /// Where others can try to reach it: its own addresses as far as it knows them, and its relay.
    #[must_use]
    pub fn addr(&self) -> PeerAddr {
        let mut addr = PeerAddr::from_quic(&self.0.endpoint.addr());
        if !self.0.listen.ip().is_unspecified() {
            addr.direct.insert(self.0.listen);
        }
        addr
    }

    /// Adds an address at which others see this node (a forwarded port, or what a peer says that it sees).
    pub async fn add_external_addr(&self, addr: SocketAddr) {
        self.0.endpoint.add_external_addr(addr).await;
    }

    /// Waits until a configured relay has taken this node.
    ///
    /// # Errors
    /// None did within `limit`.
    pub async fn online(&self, limit: Duration) -> Result<(), NetError> {
        timeout(limit, self.0.endpoint.online())
            .await
            .map_err(|_| NetError::Timeout { what: "reaching a relay", after: limit })
    }

    /// Signs `bytes` as a `context` with the node's key; [`verify`](crate::verify) checks it.
    #[must_use]
    pub fn sign(&self, context: &'static str, bytes: &[u8]) -> Signature64 {
        self.0.secret.sign(context, bytes)
    }

    /// The open connection to the peer (whoever dialled it), or a new one. Callers that ask at once share it.
    ///
    /// # Errors
    /// The peer cannot be reached in time, turns this node down, or is banned.
    pub async fn connect(&self, addr: &PeerAddr) -> Result<Connection, NetError> {
        let account = self.0.book.open(addr.id, Instant::now());
        account.check_ban(Instant::now())?;
        if let Some(connection) = account.live() {
            return Ok(connection);
        }
        let _dialing = account.dialing.lock().await;
        match account.live() {
            Some(connection) => Ok(connection),
            None => self.dial(addr, &account).await,
        }
    }

    /// A new connection, and the end of the older ones: for when the peer is thought to have restarted, which the old
    /// connection would only notice after its idle timeout.
    ///
    /// # Errors
    /// As [`Peer::connect`].
    pub async fn connect_fresh(&self, addr: &PeerAddr) -> Result<Connection, NetError> {
        let account = self.0.book.open(addr.id, Instant::now());
        account.check_ban(Instant::now())?;
        let _dialing = account.dialing.lock().await;
        let older = account.open();
        let connection = self.dial(addr, &account).await?;
        for old in older {
            old.close_with(CloseCode::Done, "replaced by a new connection");
        }
        Ok(connection)
    }

    async fn dial(&self, addr: &PeerAddr, account: &Arc<Account>) -> Result<Connection, NetError> {
        // Two ways through a relay, and often a slow one: it gets twice the time.
        let ways = if addr.relay.is_some() { 2 } else { 1 };
        let (id, after) = (addr.id, self.0.limits.connect_deadline.saturating_mul(ways));
        let unreachable = |why: String| NetError::Unreachable { id, tried: addr.to_string(), why };
        if addr.direct.is_empty() && addr.relay.is_none() {
            return Err(NetError::NoAddress(id));
        }
        let dialled = timeout(after, self.0.endpoint.connect(addr.to_quic()?, ALPN)).await;
        let quic = dialled
            .map_err(|_| unreachable(format!("no answer within {} ms", after.as_millis())))?
            .map_err(|error| unreachable(words(&error)))?;
        debug!(peer = %id.short(), "connected");
        Connection::new(quic, Arc::clone(account)).register()
    }

    /// The open connection to a peer, if there is one. This is how a Container behind NAT is reached: over the
    /// connection that it dialled.
    #[must_use]
    pub fn connection(&self, id: NodeId) -> Option<Connection> {
        self.0.book.get(id)?.live()
    }

    /// The next connection that another node dialled. May be cancelled.
    ///
    /// # Errors
    /// The peer is closed, or was bound without `accept`.
    pub async fn accept(&self) -> Result<Connection, NetError> {
        self.0.accepted.lock().await.recv().await.ok_or(NetError::Closed)
    }

    /// Bans a node for a while, by its key, and closes its connections with these words.
    pub fn ban(&self, id: NodeId, length: Duration, why: &str) {
        self.0.book.open(id, Instant::now()).ban(length, why, Instant::now());
    }

    /// What was counted so far.
    #[must_use]
    pub fn stats(&self) -> NetStats {
        self.0.stats.snapshot()
    }

    /// Leaves the network: tells every peer, and waits until that is said.
    pub async fn close(&self) {
        for account in self.0.book.all() {
            for connection in account.open() {
                connection.close_with(CloseCode::Shutdown, "the node is shutting down");
            }
        }
        self.0.acceptor.abort();
        self.0.accepted.lock().await.close();
        self.0.endpoint.close().await;
    }
}

impl fmt::Debug for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Peer({} on {})", self.id().short(), self.0.listen)
    }
}

/// What a refused or failed dial means, in words.
fn words(error: &ConnectError) -> String {
    let closed = match error {
        ConnectError::Connection { source, .. } => Some(source),
        ConnectError::Connecting {
            source: iroh::endpoint::ConnectingError::ConnectionError { source, .. }, ..
        } => Some(source),
        _ => None,
    };
    closed.map_or_else(|| error.to_string(), |error| crate::CloseReason::from_quic(error).to_string())
}

async fn bind_endpoint(
    secret: &NodeSecret,
    listen: SocketAddr,
    relay: Option<&RelayConfig>,
    limits: &Limits,
) -> Result<Endpoint, NetError> {
    let bind_error = |why: String| NetError::Bind { addr: listen, why };
    let urls = relay.map_or(&[][..], |relay| &relay.urls);
    // `Minimal` names only the provider of cryptography: no relays, no lookup of addresses.
    Endpoint::builder(presets::Minimal)
        .secret_key(secret.quic())
        .alpns(vec![ALPN.to_vec()])
        .relay_mode(relay_mode(urls))
        .clear_address_lookup()
        .dns_resolver(resolver(urls))
        .portmapper_config(PortmapperConfig::Disabled)
        .net_report_config(net_report(urls))
        .transport_config(transport(limits))
        .clear_ip_transports()
        .bind_addr(listen)
        .map_err(|error| bind_error(error.to_string()))?
        .bind()
        .await
        .map_err(|error| bind_error(innermost(&error)))
}

/// The system's own words ("address in use"), below the library's.
fn innermost(error: &dyn std::error::Error) -> String {
    let mut inner = error;
    while let Some(source) = inner.source() {
        inner = source;
    }
    inner.to_string()
}

fn relay_mode(urls: &[RelayUrl]) -> RelayMode {
    if urls.is_empty() {
        return RelayMode::Disabled;
    }
    // Without the relay's own UDP service: it needs a certificate, and an own relay may have none.
    let relays = urls.iter().map(|url| iroh::RelayConfig::new(url.0.clone(), None));
    RelayMode::Custom(RelayMap::from_iter(relays))
}

/// The latency of a relay is measured only at relays that were configured.
fn net_report(urls: &[RelayUrl]) -> NetReportConfig {
    let mut config = NetReportConfig::minimal();
    config.https_probes = !urls.is_empty();
    config
}

/// The system's DNS servers for a relay with a name; otherwise none at all. Never the public ones that the library
/// falls back to by itself.
fn resolver(urls: &[RelayUrl]) -> DnsResolver {
    let builder = DnsResolver::builder().disable_fallback();
    if urls.iter().any(RelayUrl::needs_dns) { builder.with_system_defaults().build() } else { builder.build() }
}

fn transport(limits: &Limits) -> QuicTransportConfig {
    let idle = VarInt::from_u32(u32::try_from(limits.idle.as_millis()).unwrap_or(u32::MAX));
    QuicTransportConfig::builder()
        .max_concurrent_bidi_streams(VarInt::from_u32(limits.streams_max))
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .datagram_receive_buffer_size(None)
        .stream_receive_window(VarInt::from_u32(limits.stream_window_bytes))
        .receive_window(VarInt::from_u32(limits.connection_window_bytes))
        .send_window(u64::from(limits.send_window_bytes))
        .keep_alive_interval(limits.keep_alive)
        .max_idle_timeout(Some(idle.into()))
        .default_path_keep_alive_interval(limits.keep_alive)
        .default_path_max_idle_timeout(limits.idle)
        .build()
}
