//! A relay of one's own: carries packets between peers that cannot reach each other. It sees keys and sizes, never
//! contents: connections are encrypted from peer to peer.

use std::fmt;
use std::net::SocketAddr;
use std::num::NonZeroU32;

use iroh_relay::server::{ClientRateLimit, Limits, RelayConfig, Server, ServerConfig};

use crate::{RelayUrl, install_crypto_provider};

/// What a [`Relay`] is made of.
#[derive(Debug, Clone)]
pub struct RelayServerConfig {
    /// The address to serve plain HTTP on; port 0 takes any free one. Packets are encrypted end to end as they are; a
    /// public relay still belongs behind a reverse proxy with TLS, where plain WebSockets do not pass.
    pub listen: SocketAddr,
    /// Bytes per second that one client may send through it.
    pub client_bytes_per_second: Option<NonZeroU32>,
}

impl RelayServerConfig {
    /// Without a limit on its clients.
    #[must_use]
    pub fn new(listen: SocketAddr) -> Self {
        Self { listen, client_bytes_per_second: None }
    }
}

/// A relay cannot be run.
#[derive(Debug, thiserror::Error)]
#[error("cannot run a relay on {listen}: {why}")]
pub struct RelayError {
    /// The address that was asked for.
    pub listen: SocketAddr,
    /// The reason.
    pub why: String,
}

/// A running relay; dropped, it stops.
pub struct Relay {
    server: Server,
    listen: SocketAddr,
}

impl Relay {
    /// Takes the address and serves.
    ///
    /// # Errors
    /// The address cannot be had.
    pub async fn serve(config: RelayServerConfig) -> Result<Self, RelayError> {
        install_crypto_provider();
        let listen = config.listen;
        let error = |why: String| RelayError { listen, why };
        let mut limits = Limits::default();
        limits.client_rx = config.client_bytes_per_second.map(ClientRateLimit::new);
        let mut relay = RelayConfig::new(listen);
        relay.limits = limits;
        let mut server = ServerConfig::default();
        server.relay = Some(relay);
        let server = Server::spawn(server).await.map_err(|spawn| error(spawn.to_string()))?;
        let listen = server.http_addr().ok_or_else(|| error("it has no address".to_owned()))?;
        Ok(Self { server, listen })
    }

    /// The address it serves, with the port that it got.
    #[must_use]
    pub fn listen_addr(&self) -> SocketAddr {
        self.listen
    }

    /// What peers on the same network as [`Relay::listen_addr`] configure.
    #[must_use]
    pub fn url(&self) -> Option<RelayUrl> {
        format!("http://{}", self.listen).parse().ok()
    }

    /// Stops serving and waits for the end.
    ///
    /// # Errors
    /// The relay had failed before.
    pub async fn shutdown(self) -> Result<(), RelayError> {
        let listen = self.listen;
        self.server.shutdown().await.map_err(|error| RelayError { listen, why: error.to_string() })
    }
}

impl fmt::Debug for Relay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Relay(on {})", self.listen)
    }
}
