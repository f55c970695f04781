//! One connection to one peer: streams opened and taken, and how it ended.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use iroh::TransportAddr;
use iroh::endpoint::{RecvStream, SendStream};
use muster_core::ids::NodeId;
use muster_wire::StreamKind;
use tokio::time::{Instant, timeout};
use tracing::debug;

use crate::account::Account;
use crate::addr::RelayUrl;
use crate::stream::Stream;
use crate::{CloseCode, CloseReason, CutReason, NetError};

/// How bytes travel to a peer at the moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PathKind {
    /// Straight to this address: as this node sees it, which behind NAT is the router's.
    Direct(SocketAddr),
    /// Through a relay.
    Relayed(RelayUrl),
}

impl fmt::Display for PathKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Direct(addr) => write!(f, "{addr}"),
            Self::Relayed(url) => write!(f, "relay {url}"),
        }
    }
}

/// What became of a stream whose first byte was awaited.
enum Header {
    Named(Box<Stream>),
    /// Refused or given up: not the connection's problem.
    Gone,
    Stalled,
}

struct Inner {
    quic: iroh::endpoint::Connection,
    account: Arc<Account>,
    /// Streams whose first byte is not there yet. Here and not in a caller, so that a cancelled `accept_bi` loses none.
    headers: tokio::sync::Mutex<FuturesUnordered<BoxFuture<'static, Header>>>,
}

/// A connection to a peer. Cheap to clone; both sides may open streams on it, whoever dialled.
#[derive(Clone)]
pub struct Connection(Arc<Inner>);

impl Connection {
    pub(crate) fn new(quic: iroh::endpoint::Connection, account: Arc<Account>) -> Self {
        Self(Arc::new(Inner { quic, account, headers: tokio::sync::Mutex::default() }))
    }

    /// The other side's key, which it has proved to hold.
    #[must_use]
    pub fn remote_id(&self) -> NodeId {
        self.0.account.id()
    }

    /// How bytes travel to it at the moment; `None` when no path is known.
    #[must_use]
    pub fn path(&self) -> Option<PathKind> {
        let paths = self.0.quic.paths();
        let path = paths.iter().find(iroh::endpoint::Path::is_selected).or_else(|| paths.iter().next())?;
        match path.remote_addr() {
            TransportAddr::Ip(addr) => Some(PathKind::Direct(*addr)),
            TransportAddr::Relay(url) => Some(PathKind::Relayed(RelayUrl(url.clone()))),
            _ => None,
        }
    }

    /// Round trip on the path in use, smoothed.
    #[must_use]
    pub fn rtt(&self) -> Option<Duration> {
        let paths = self.0.quic.paths();
        paths.iter().find(iroh::endpoint::Path::is_selected).or_else(|| paths.iter().next()).map(|path| path.rtt())
    }

    /// Opens a stream for a protocol. Waits while the peer has as many open as it takes.
    ///
    /// # Errors
    /// The connection is lost, or the wait was too long.
    pub async fn open_bi(&self, kind: StreamKind) -> Result<Stream, NetError> {
        let after = self.0.account.limits().open_deadline;
        let open = async {
            let (mut send, recv) = self.0.quic.open_bi().await.map_err(|error| self.lost(&error))?;
            let header = send.write_all(&[kind.byte()]).await;
            header.map_err(|error| NetError::write(self.remote_id(), &error))?;
            Ok(Stream::new(kind, recv, send, Arc::clone(&self.0.account)))
        };
        timeout(after, open).await.unwrap_or(Err(NetError::Timeout { what: "opening a stream", after }))
    }

    /// The next stream that the peer opened. May be cancelled; call it in one place per connection.
    ///
    /// # Errors
    /// The connection is lost, or the peer misbehaved and was cut off.
    pub async fn accept_bi(&self) -> Result<Stream, NetError> {
        let mut headers = self.0.headers.lock().await;
        loop {
            tokio::select! {
                accepted = self.0.quic.accept_bi() => {
                    let (send, recv) = accepted.map_err(|error| self.lost(&error))?;
                    self.0.account.stream(Instant::now())?;
                    headers.push(Box::pin(read_kind(recv, send, Arc::clone(&self.0.account))));
                }
                Some(header) = headers.next() => match header {
                    Header::Named(stream) => return Ok(*stream),
                    Header::Gone => {}
                    Header::Stalled => {
                        let detail = "a stream was opened and its protocol never named";
                        return Err(self.0.account.cut(CutReason::Stall, detail, Instant::now()));
                    }
                },
            }
        }
    }

    /// Waits until the connection is over.
    pub async fn closed(&self) -> CloseReason {
        CloseReason::from_quic(&self.0.quic.closed().await)
    }

    /// Why the connection is over, if it is.
    #[must_use]
    pub fn close_reason(&self) -> Option<CloseReason> {
        self.0.quic.close_reason().as_ref().map(CloseReason::from_quic)
    }

    /// Closes the connection with some words for the peer. What has not been acknowledged is lost:
    /// [`SendHalf::finish_acked`](crate::SendHalf::finish_acked) first where it matters.
    pub fn close(&self, why: &str) {
        self.close_with(CloseCode::Done, why);
    }

    /// Cuts the peer off because it broke a protocol above the framing, with all its connections. Gives the error to
    /// return.
    pub fn cut(&self, detail: &str) -> NetError {
        self.0.account.cut(CutReason::Garbage, detail, Instant::now())
    }

    pub(crate) fn close_with(&self, code: CloseCode, why: &str) {
        self.0.quic.close(code.quic(), why.as_bytes());
    }

    pub(crate) fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// Keeps the connection in its account until it closes.
    ///
    /// # Errors
    /// This node has enough peers, or this peer enough connections; it is closed then.
    pub(crate) fn register(self) -> Result<Self, NetError> {
        self.0.account.opened(self.clone()).inspect_err(|error| {
            self.close_with(CloseCode::Busy, &error.to_string());
        })?;
        let connection = self.clone();
        tokio::spawn(async move {
            let reason = connection.closed().await;
            debug!(peer = %connection.remote_id().short(), %reason, "connection closed");
            connection.0.account.closed(&connection);
        });
        Ok(self)
    }

    fn lost(&self, error: &iroh::endpoint::ConnectionError) -> NetError {
        NetError::lost(self.remote_id(), error)
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Connection(to {})", self.remote_id().short())
    }
}

async fn read_kind(mut recv: RecvStream, mut send: SendStream, account: Arc<Account>) -> Header {
    let mut byte = [0];
    match timeout(account.limits().header_deadline, recv.read_exact(&mut byte)).await {
        Err(_) => return Header::Stalled,
        Ok(Err(_)) => return Header::Gone,
        Ok(Ok(())) => {}
    }
    let [byte] = byte;
    match StreamKind::try_from(byte) {
        Ok(kind) => Header::Named(Box::new(Stream::new(kind, recv, send, account))),
        Err(unknown) => {
            // A newer peer may speak more protocols: it is told, not cut off.
            debug!(peer = %account.id().short(), %unknown, "stream refused");
            account.stats().unknown_streams.add_one();
            recv.stop(CloseCode::UnknownStream.quic()).ok();
            send.reset(CloseCode::UnknownStream.quic()).ok();
            Header::Gone
        }
    }
}
