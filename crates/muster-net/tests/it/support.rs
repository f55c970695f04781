//! Peers, messages and an echo to test with.

use std::net::SocketAddr;
use std::time::Duration;

use muster_net::{Connection, Limits, Peer, PeerConfig, Stream, StreamKind, WireError, WireMessage};
use muster_wire::BoundedString;
use serde::{Deserialize, Serialize};

/// Long enough for anything that happens at all on a busy machine; no test passes by waiting for it.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Note {
    pub(crate) text: BoundedString<1024>,
    pub(crate) number: u64,
}

impl WireMessage for Note {
    const MAX_LEN: usize = 1100;
    fn check(&self) -> Result<(), WireError> {
        if self.number > 1_000_000 { Err(WireError::field("number", "at most 1000000")) } else { Ok(()) }
    }
}

pub(crate) fn note(number: u64) -> Note {
    Note { text: "note".try_into().unwrap(), number }
}

pub(crate) fn loopback() -> SocketAddr {
    "127.0.0.1:0".parse().unwrap()
}

pub(crate) fn config(limits: Limits) -> PeerConfig {
    PeerConfig { limits, ..PeerConfig::new(muster_net::NodeSecret::generate(), loopback()) }
}

pub(crate) async fn peer(limits: Limits) -> Peer {
    Peer::bind(config(limits)).await.unwrap()
}

/// Fails the test instead of letting it hang.
pub(crate) async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.unwrap_or_else(|_| panic!("{what}: waited in vain"))
}

/// Takes every connection and every stream, and sends every note back, until the peer is closed.
pub(crate) async fn echo(peer: Peer) {
    while let Ok(connection) = peer.accept().await {
        tokio::spawn(echo_connection(connection));
    }
}

pub(crate) async fn echo_connection(connection: Connection) {
    while let Ok(stream) = connection.accept_bi().await {
        tokio::spawn(echo_stream(stream));
    }
}

async fn echo_stream(stream: Stream) {
    if stream.kind() == StreamKind::Files {
        let (mut recv, mut send) = tokio::io::split(stream);
        if tokio::io::copy(&mut recv, &mut send).await.is_ok() {
            tokio::io::AsyncWriteExt::shutdown(&mut send).await.ok();
        }
        return;
    }
    let mut stream = stream.framed();
    while let Ok(Some(note)) = stream.recv::<Note>().await {
        if stream.send(&note).await.is_err() {
            return;
        }
    }
}

/// Asks `count` times over one stream and expects each note back.
pub(crate) async fn chat(connection: &Connection, count: u64) {
    let mut stream = connection.open_bi(StreamKind::Echo).await.unwrap().framed();
    for number in 0..count {
        let answer: Note = stream.ask(&note(number), PATIENCE).await.unwrap();
        assert_eq!(answer, note(number));
    }
    stream.finish().await.unwrap();
    assert_eq!(stream.recv::<Note>().await.unwrap(), None);
}

/// A UDP path to a peer that can be pulled like a cable.
pub(crate) struct Cable {
    addr: SocketAddr,
    task: tokio::task::JoinHandle<()>,
}

impl Cable {
    pub(crate) async fn to(target: SocketAddr) -> Self {
        let near = tokio::net::UdpSocket::bind(loopback()).await.unwrap();
        let far = tokio::net::UdpSocket::bind(loopback()).await.unwrap();
        let addr = near.local_addr().unwrap();
        let task = tokio::spawn(async move {
            let (mut out, mut back, mut dialler) = (vec![0; 65_536], vec![0; 65_536], None);
            loop {
                tokio::select! {
                    Ok((count, from)) = near.recv_from(&mut out) => {
                        dialler = Some(from);
                        far.send_to(&out[..count], target).await.ok();
                    }
                    Ok((count, _)) = far.recv_from(&mut back) => {
                        if let Some(dialler) = dialler {
                            near.send_to(&back[..count], dialler).await.ok();
                        }
                    }
                }
            }
        });
        Self { addr, task }
    }

    pub(crate) fn addr(&self) -> SocketAddr {
        self.addr
    }

    pub(crate) fn pull(&self) {
        self.task.abort();
    }
}

/// Somebody with a key who keeps to no rules above the transport.
pub(crate) struct Raw {
    pub(crate) endpoint: iroh::Endpoint,
}

impl Raw {
    pub(crate) async fn new() -> Self {
        let endpoint = iroh::Endpoint::builder(iroh::endpoint::presets::Minimal)
            .relay_mode(iroh::RelayMode::Disabled)
            .clear_ip_transports()
            .bind_addr(loopback())
            .unwrap()
            .bind()
            .await
            .unwrap();
        Self { endpoint }
    }

    pub(crate) fn id(&self) -> muster_core::ids::NodeId {
        muster_core::ids::NodeId(*self.endpoint.id().as_bytes())
    }

    pub(crate) async fn try_connect(&self, peer: &Peer) -> Result<iroh::endpoint::Connection, String> {
        let key = iroh::PublicKey::from_bytes(&peer.id().0).unwrap();
        let addr = iroh::EndpointAddr::new(key).with_ip_addr(peer.listen_addr());
        self.endpoint.connect(addr, muster_net::ALPN).await.map_err(|error| error.to_string())
    }

    pub(crate) async fn connect(&self, peer: &Peer) -> iroh::endpoint::Connection {
        self.try_connect(peer).await.unwrap()
    }
}
