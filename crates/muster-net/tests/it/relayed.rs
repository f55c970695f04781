//! Through a relay of one's own.

use std::net::SocketAddr;

use muster_net::{Limits, PathKind, Peer, PeerAddr, PeerConfig, Relay, RelayConfig, RelayServerConfig};

use crate::support::{PATIENCE, chat, config, echo, loopback, soon};

/// Peers on different loopback addresses are as good as neighbours, so these dial with the relay alone and the test
/// looks at the path they first took.
async fn relayed(relay: &Relay, listen: &str) -> Peer {
    let urls = vec![relay.url().unwrap()];
    let listen: SocketAddr = listen.parse().unwrap();
    let peer =
        Peer::bind(PeerConfig { relay: Some(RelayConfig { urls }), listen, ..config(Limits::bulk()) }).await.unwrap();
    peer.online(PATIENCE).await.unwrap();
    peer
}

#[tokio::test]
async fn peers_without_addresses_meet_through_the_relay() {
    let relay = Relay::serve(RelayServerConfig::new(loopback())).await.unwrap();
    let (server, client) = (relayed(&relay, "127.0.0.1:0").await, relayed(&relay, "127.0.0.1:0").await);
    assert_eq!(server.addr().relay, relay.url());
    tokio::spawn(echo(server.clone()));
    let addr = PeerAddr::new(server.id()).with_relay(relay.url().unwrap());
    let connection = soon("the connection", client.connect(&addr)).await.unwrap();
    let first = connection.path().unwrap();
    assert!(matches!(&first, PathKind::Relayed(url) if *url == relay.url().unwrap()), "{first}");
    chat(&connection, 20).await;
    client.close().await;
    server.close().await;
    relay.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_relay_that_is_gone_is_said() {
    let relay = Relay::serve(RelayServerConfig::new(loopback())).await.unwrap();
    let url = relay.url().unwrap();
    relay.shutdown().await.unwrap();
    let urls = vec![url.clone()];
    let peer = Peer::bind(PeerConfig { relay: Some(RelayConfig { urls }), ..config(Limits::bulk()) }).await.unwrap();
    let error = peer.online(std::time::Duration::from_millis(500)).await.unwrap_err().to_string();
    assert!(error.contains("reaching a relay"), "{error}");
    let nobody = PeerAddr::new(muster_net::NodeSecret::generate().id()).with_relay(url.clone());
    let error = soon("the failure", peer.connect(&nobody)).await.unwrap_err().to_string();
    assert!(error.contains(&url.to_string()), "{error}");
}

#[tokio::test]
async fn a_taken_port_is_said() {
    let relay = Relay::serve(RelayServerConfig::new(loopback())).await.unwrap();
    let error = Relay::serve(RelayServerConfig::new(relay.listen_addr())).await.unwrap_err().to_string();
    assert!(error.contains(&relay.listen_addr().to_string()), "{error}");
}
