//! Where a peer is found.

use std::collections::BTreeSet;
use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;

use iroh::{EndpointAddr, TransportAddr};
use muster_core::ids::NodeId;
use muster_wire::endpoint::Endpoint;
use muster_wire::{BoundError, NodeAddr};

use crate::NetError;

/// The address of a relay: `http://…` or `https://…`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RelayUrl(pub(crate) iroh::RelayUrl);

/// A text that is no relay's address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not the address of a relay; write http://HOST:PORT or https://HOST")]
pub struct RelayUrlError(pub String);

impl RelayUrl {
    /// Whether finding this relay needs DNS, because its host is a name and not a number.
    #[must_use]
    pub fn needs_dns(&self) -> bool {
        // A bracketed IPv6 address is the only host with brackets.
        self.0.host_str().is_none_or(|host| host.trim_matches(['[', ']']).parse::<std::net::IpAddr>().is_err())
    }
}

impl FromStr for RelayUrl {
    type Err = RelayUrlError;
    fn from_str(text: &str) -> Result<Self, RelayUrlError> {
        let wrong = || RelayUrlError(text.to_owned());
        let url = text.parse::<iroh::RelayUrl>().map_err(|_| wrong())?;
        if matches!(url.scheme(), "http" | "https") && url.host_str().is_some_and(|host| !host.is_empty()) {
            Ok(Self(url))
        } else {
            Err(wrong())
        }
    }
}

impl fmt::Display for RelayUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl fmt::Debug for RelayUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// A peer's key and the ways to it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PeerAddr {
    /// The key: whoever answers proves that it holds it.
    pub id: NodeId,
    /// Addresses to try.
    pub direct: BTreeSet<SocketAddr>,
    /// The relay that reaches it.
    pub relay: Option<RelayUrl>,
}

impl PeerAddr {
    /// A peer by its key alone: enough where a connection is open already.
    #[must_use]
    pub fn new(id: NodeId) -> Self {
        Self { id, direct: BTreeSet::new(), relay: None }
    }

    /// A node where the registry says that it is; a relay that is none is left out.
    #[must_use]
    pub fn registered(id: NodeId, endpoint: &Endpoint) -> Self {
        let relay = endpoint.relay.as_deref().and_then(|relay| relay.parse().ok());
        Self { id, direct: endpoint.direct.iter().copied().collect(), relay }
    }

    /// With an address to try.
    #[must_use]
    pub fn with_direct(mut self, addr: SocketAddr) -> Self {
        self.direct.insert(addr);
        self
    }

    /// With the relay that reaches it.
    #[must_use]
    pub fn with_relay(mut self, relay: RelayUrl) -> Self {
        self.relay = Some(relay);
        self
    }

    /// As it travels in messages: the first addresses, as many as a message takes.
    ///
    /// # Errors
    /// The relay's address is too long for a message.
    pub fn to_wire(&self) -> Result<NodeAddr, BoundError> {
        let direct: Vec<_> = self.direct.iter().copied().take(muster_wire::addr::DIRECT_MAX).collect();
        Ok(NodeAddr {
            id: self.id,
            direct: direct.try_into()?,
            relay: self.relay.as_ref().map(|url| url.to_string().try_into()).transpose()?,
        })
    }

    pub(crate) fn to_quic(&self) -> Result<EndpointAddr, NetError> {
        let id = iroh::PublicKey::from_bytes(&self.id.0).map_err(|_| NetError::BadKey(self.id))?;
        let direct = self.direct.iter().copied().map(TransportAddr::Ip);
        let relay = self.relay.iter().map(|url| TransportAddr::Relay(url.0.clone()));
        Ok(EndpointAddr::from_parts(id, direct.chain(relay)))
    }

    pub(crate) fn from_quic(addr: &EndpointAddr) -> Self {
        Self {
            id: node_id(addr.id),
            direct: addr.ip_addrs().copied().collect(),
            relay: addr.relay_urls().next().cloned().map(RelayUrl),
        }
    }
}

impl TryFrom<&NodeAddr> for PeerAddr {
    type Error = RelayUrlError;
    fn try_from(addr: &NodeAddr) -> Result<Self, RelayUrlError> {
        Ok(Self {
            id: addr.id,
            direct: addr.direct.iter().copied().collect(),
            relay: addr.relay.as_deref().map(str::parse).transpose()?,
        })
    }
}

impl fmt::Display for PeerAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut first = true;
        for addr in &self.direct {
            write!(f, "{}{addr}", if first { "" } else { ", " })?;
            first = false;
        }
        match &self.relay {
            Some(url) => write!(f, "{}relay {url}", if first { "" } else { ", " }),
            None if first => f.write_str("no address"),
            None => Ok(()),
        }
    }
}

pub(crate) fn node_id(key: iroh::PublicKey) -> NodeId {
    NodeId(*key.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_http_addresses_name_a_relay() {
        for good in ["http://192.0.2.1:80", "https://relay.example"] {
            assert!(good.parse::<RelayUrl>().is_ok(), "{good}");
        }
        for bad in ["", "relay.example", "ftp://relay.example", "file:///tmp"] {
            let error = bad.parse::<RelayUrl>().unwrap_err().to_string();
            assert!(error.contains("write http://HOST:PORT"), "{error}");
        }
    }

    #[test]
    fn a_number_needs_no_dns() {
        let needs = |url: &str| url.parse::<RelayUrl>().unwrap().needs_dns();
        assert!(!needs("http://192.0.2.1:80"));
        assert!(!needs("http://[2001:db8::1]:80"));
        assert!(needs("https://relay.example"));
    }

    #[test]
    fn an_address_survives_the_wire() {
        let addr = PeerAddr::new(NodeId([3; 32]))
            .with_direct("192.0.2.1:7000".parse().unwrap())
            .with_relay("http://192.0.2.2:80".parse().unwrap());
        assert_eq!(PeerAddr::try_from(&addr.to_wire().unwrap()), Ok(addr.clone()));
        assert_eq!(addr.to_string(), "192.0.2.1:7000, relay http://192.0.2.2/");
        assert_eq!(PeerAddr::new(NodeId([3; 32])).to_string(), "no address");
    }
}
