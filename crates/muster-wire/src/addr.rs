//! Where a node can be dialled, as it travels between nodes.

use std::net::SocketAddr;

use muster_core::ids::NodeId;
use serde::{Deserialize, Serialize};

use crate::{BoundedString, BoundedVec, WireError};

/// Direct addresses that one node may give.
pub const DIRECT_MAX: usize = 8;

/// A node's key and the ways to it. The key alone says who answers; addresses are hints.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct NodeAddr {
    /// The node's public key.
    pub id: NodeId,
    /// Addresses where it listens.
    pub direct: BoundedVec<SocketAddr, DIRECT_MAX>,
    /// The relay that reaches it (`http://` or `https://`).
    pub relay: Option<BoundedString<256>>,
}

impl NodeAddr {
    /// A node by its key alone: enough where a connection is open already.
    #[must_use]
    pub fn new(id: NodeId) -> Self {
        Self { id, direct: BoundedVec::default(), relay: None }
    }

    /// For [`WireMessage::check`](crate::WireMessage::check) of messages that hold an address.
    ///
    /// # Errors
    /// The key is zero, a direct address cannot be dialled, or the relay is no `http` or `https` address.
    pub fn check(&self) -> Result<(), WireError> {
        if self.id == NodeId::ZERO {
            return Err(WireError::field("addr.id", "the key is zero"));
        }
        if let Some(bad) =
            self.direct.iter().find(|addr| addr.port() == 0 || addr.ip().is_unspecified() || addr.ip().is_multicast())
        {
            return Err(WireError::field("addr.direct", format!("{bad} cannot be dialled")));
        }
        match self.relay.as_deref() {
            Some(url) if !(url.starts_with("http://") || url.starts_with("https://")) => {
                Err(WireError::field("addr.relay", "the address of a relay begins with http:// or https://"))
            }
            Some(_) | None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_can_be_dialled_passes() {
        let good = NodeAddr {
            id: NodeId([1; 32]),
            direct: vec!["192.0.2.1:7000".parse().unwrap()].try_into().unwrap(),
            relay: Some("http://192.0.2.2:80".try_into().unwrap()),
        };
        assert_eq!(good.check(), Ok(()));
        let bytes = postcard::to_allocvec(&good).unwrap();
        assert_eq!(postcard::from_bytes::<NodeAddr>(&bytes), Ok(good.clone()));

        for bad in ["0.0.0.0:7000", "192.0.2.1:0", "224.0.0.1:7000", "[::]:7000"] {
            let addr = NodeAddr { direct: vec![bad.parse().unwrap()].try_into().unwrap(), ..good.clone() };
            assert!(matches!(addr.check(), Err(WireError::Field { field: "addr.direct", .. })), "{bad}");
        }
        let relay = NodeAddr { relay: Some("file:///etc/passwd".try_into().unwrap()), ..good };
        assert!(matches!(relay.check(), Err(WireError::Field { field: "addr.relay", .. })));
        assert!(NodeAddr::new(NodeId::ZERO).check().is_err());
    }
}
