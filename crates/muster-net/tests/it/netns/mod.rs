//! Peers on hosts of their own: nobody is contacted unasked; NAT, relay, delay, loss, and the pulled cable.

mod net;

use std::net::SocketAddr;
use std::thread::JoinHandle;
use std::time::Duration;

use muster_net::{
    CloseReason, Connection, Limits, NetError, NodeSecret, PathKind, Peer, PeerAddr, PeerConfig, Relay, RelayConfig,
    RelayServerConfig, RelayUrl, StreamKind,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::{mpsc, oneshot};

use crate::support::{PATIENCE, chat, echo, echo_connection, soon};
use net::{Host, Net};

/// Runs a future on a host, in a thread and a runtime of its own.
fn on<T, F>(host: &Host, work: impl FnOnce() -> F + Send + 'static) -> JoinHandle<T>
where
    T: Send + 'static,
    F: Future<Output = T>,
{
    host.thread(move || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work()))
}

async fn bind(port: u16, relay: Option<&RelayUrl>) -> Peer {
    let peer = Peer::bind(PeerConfig {
        relay: relay.map(|url| RelayConfig { urls: vec![url.clone()] }),
        limits: Limits::bulk(),
        ..PeerConfig::new(NodeSecret::generate(), SocketAddr::new([0, 0, 0, 0].into(), port))
    })
    .await
    .unwrap();
    if relay.is_some() {
        peer.online(PATIENCE).await.unwrap();
    }
    peer
}

/// A node on a host that echoes until it is told to stop; gives its key.
struct Echoing {
    id: muster_core::ids::NodeId,
    stop: oneshot::Sender<()>,
    thread: JoinHandle<()>,
}

impl Echoing {
    fn on(host: &Host, port: u16, relay: Option<RelayUrl>) -> Self {
        let (stop, stopped) = oneshot::channel();
        let (told, id) = std::sync::mpsc::channel();
        let thread = on(host, move || async move {
            let peer = bind(port, relay.as_ref()).await;
            told.send(peer.id()).unwrap();
            tokio::spawn(echo(peer.clone()));
            stopped.await.ok();
            peer.close().await;
        });
        let id = id.recv_timeout(PATIENCE).expect("the node is up");
        Self { id, stop, thread }
    }

    fn stop(self) {
        self.stop.send(()).unwrap();
        self.thread.join().unwrap();
    }
}

struct Relaying {
    url: RelayUrl,
    stop: oneshot::Sender<()>,
    thread: JoinHandle<()>,
}

impl Relaying {
    fn on(host: &Host) -> Self {
        let (stop, stopped) = oneshot::channel();
        let (told, up) = std::sync::mpsc::channel();
        let listen = SocketAddr::new(host.addr(), 80);
        let thread = on(host, move || async move {
            let relay = Relay::serve(RelayServerConfig::new(listen)).await.unwrap();
            told.send(relay.url().unwrap()).unwrap();
            stopped.await.ok();
            relay.shutdown().await.unwrap();
        });
        let url = up.recv_timeout(PATIENCE).expect("the relay is up");
        Self { url, stop, thread }
    }

    fn stop(self) {
        self.stop.send(()).unwrap();
        self.thread.join().unwrap();
    }
}

/// Sends `len` bytes through the other side's echo and expects them back.
async fn round_trip(connection: &Connection, len: usize) -> Result<(), NetError> {
    let bytes: Vec<u8> = (0..len).map(|i| u8::try_from(i % 251).unwrap()).collect();
    let (mut recv, mut send) = connection.open_bi(StreamKind::Files).await?.split();
    let sending = async {
        send.write_all(&bytes).await?;
        send.finish()
    };
    let mut back = Vec::with_capacity(len);
    let receiving = async { Ok::<_, NetError>(recv.read_to_end(&mut back).await?) };
    tokio::try_join!(sending, receiving)?;
    assert!(back == bytes, "{} bytes came back of {len}", back.len());
    Ok(())
}

/// UDP and TCP packets that left the host for anywhere but the addresses it may speak to.
fn strays(host: &Host) -> u64 {
    let listing = host.output("iptables -L OUTPUT -v -x -n");
    let rules = listing.lines().filter(|line| line.contains("DROP") && !line.contains("Chain"));
    rules.map(|line| line.split_whitespace().next().unwrap().parse::<u64>().unwrap()).sum()
}

fn allow_only(host: &Host, others: &[(std::net::IpAddr, &str)]) {
    for (addr, protocol) in others {
        host.output(&format!("iptables -A OUTPUT -p {protocol} -d {addr} -j ACCEPT"));
    }
    for protocol in ["udp", "tcp", "icmp"] {
        host.output(&format!("iptables -A OUTPUT -p {protocol} -j DROP"));
    }
}

#[test]
fn nobody_is_contacted_unasked() {
    let Some(mut net) = Net::new() else { return };
    let (near, far, relay_host) = (net.host("near"), net.host("far"), net.host("relay"));
    for host in [&near, &far] {
        // A way to the whole world, so that whoever wants to be contacted would be.
        host.output("ip route add default dev eth0");
    }
    let relay = Relaying::on(&relay_host);
    for with_relay in [false, true] {
        near.output("iptables -F OUTPUT");
        let mut allowed = vec![(far.addr(), "udp")];
        if with_relay {
            allowed.push((relay_host.addr(), "tcp"));
        }
        allow_only(&near, &allowed);
        let url = with_relay.then(|| relay.url.clone());
        let there = Echoing::on(&far, 7000, url.clone());
        let addr = PeerAddr::new(there.id).with_direct(SocketAddr::new(far.addr(), 7000));
        on(&near, move || async move {
            let peer = bind(0, url.as_ref()).await;
            let connection = peer.connect(&addr).await.unwrap();
            chat(&connection, 20).await;
            // Long enough for what a library does by itself after its start.
            tokio::time::sleep(Duration::from_secs(6)).await;
            chat(&connection, 20).await;
            peer.close().await;
        })
        .join()
        .unwrap();
        assert_eq!(strays(&near), 0, "with a relay: {with_relay}");
        there.stop();
    }
    // The counter does count.
    near.thread(|| std::net::UdpSocket::bind("0.0.0.0:0").unwrap().send_to(b"x", "192.0.2.1:53").ok()).join().unwrap();
    assert_eq!(strays(&near), 1);
    relay.stop();
}

#[test]
fn a_container_behind_nat_serves() {
    let Some(mut net) = Net::new() else { return };
    let (relay_host, indexer_host, consumer_host) = (net.host("relay"), net.host("indexer"), net.host("consumer"));
    let (home, other_home) = (net.host_behind_nat("home"), net.host_behind_nat("other"));
    net.shape(&home, Duration::from_millis(20), 20);
    let relay = Relaying::on(&relay_host);

    // The Container dials out to the Indexer and echoes on that connection; others come through the relay.
    let (url, indexer) = (relay.url.clone(), SocketAddr::new(indexer_host.addr(), 7000));
    let (tell_indexer, mut indexer_ids) = mpsc::channel(1);
    let (tell_container, container_ids) = oneshot::channel();
    let (stop, mut stopped) = tokio::sync::watch::channel(false);
    let container = on(&home, move || async move {
        let peer = bind(0, Some(&url)).await;
        let indexer = PeerAddr::new(indexer_ids.recv().await.unwrap()).with_direct(indexer);
        let connection = peer.connect(&indexer).await.unwrap();
        tokio::spawn(echo_connection(connection));
        tokio::spawn(echo(peer.clone()));
        tell_container.send(peer.id()).unwrap();
        stopped.wait_for(|stop| *stop).await.unwrap();
        peer.close().await;
    });
    let seen_from = home.outside();
    let container_id = on(&indexer_host, move || async move {
        let peer = bind(7000, None).await;
        tell_indexer.send(peer.id()).await.unwrap();
        let connection = soon("the Container", peer.accept()).await.unwrap();
        // Reached back over the connection that it dialled, and seen at its router's address.
        assert!(matches!(connection.path(), Some(PathKind::Direct(addr)) if addr.ip() == seen_from));
        let id = container_ids.await.unwrap();
        chat(&peer.connect(&PeerAddr::new(id)).await.unwrap(), 20).await;
        round_trip(&connection, 1 << 18).await.unwrap();
        assert!(connection.rtt().unwrap() >= Duration::from_millis(40), "{:?}", connection.rtt());
        peer.close().await;
        id
    })
    .join()
    .unwrap();

    for consumer in [&consumer_host, &other_home] {
        let (url, router) = (relay.url.clone(), SocketAddr::new(home.outside(), 7000));
        on(consumer, move || async move {
            let peer = bind(0, Some(&url)).await;
            // Its router lets nobody in.
            let direct = peer.connect(&PeerAddr::new(container_id).with_direct(router)).await;
            assert!(matches!(direct, Err(NetError::Unreachable { .. })), "{direct:?}");
            let addr = PeerAddr::new(container_id).with_relay(url);
            let connection = peer.connect(&addr).await.unwrap();
            chat(&connection, 20).await;
            round_trip(&connection, 1 << 18).await.unwrap();
            peer.close().await;
        })
        .join()
        .unwrap();
    }
    stop.send(true).unwrap();
    container.join().unwrap();
    relay.stop();
}

/// A cable is pulled in the middle of a transfer: both sides see silence; it is plugged in again: all goes on.
fn pulled_cable(net: &mut Net, near: &Host, far: &Host, pulled: &Host) {
    net.shape(far, Duration::from_millis(5), 5);
    let (tell, ended) = std::sync::mpsc::channel();
    let (told_id, ids) = std::sync::mpsc::channel();
    let (stop, stopped) = oneshot::channel::<()>();
    let there = on(far, move || async move {
        let peer = bind(7000, None).await;
        told_id.send(peer.id()).unwrap();
        let first = peer.accept().await.unwrap();
        tokio::spawn(echo(peer.clone()));
        tokio::spawn(echo_connection(first.clone()));
        tell.send(first.closed().await).unwrap();
        stopped.await.ok();
        peer.close().await;
    });
    let addr = PeerAddr::new(ids.recv_timeout(PATIENCE).unwrap()).with_direct(SocketAddr::new(far.addr(), 7000));
    let (progress, moving) = std::sync::mpsc::channel();
    let (replugged, again) = oneshot::channel::<()>();
    let here = on(near, move || async move {
        let peer = bind(0, None).await;
        let connection = peer.connect(&addr).await.unwrap();
        let mut transfer = connection.open_bi(StreamKind::Files).await.unwrap();
        let error = loop {
            // The echo's bytes come back, so that the transfer never ends by itself.
            let mut back = [0; 4096];
            let step = async {
                transfer.write_all(&[7; 4096]).await?;
                transfer.read_exact(&mut back).await
            };
            match step.await {
                Ok(_) => progress.send(()).unwrap(),
                Err(error) => break NetError::from(error),
            }
        };
        assert!(
            matches!(&error, NetError::Lost { reason: CloseReason::Silence, .. }),
            "the dialler should see silence: {error}"
        );
        drop(progress);
        again.await.unwrap();
        // The way back takes as long as the network takes to notice.
        let connection = soon("the way back", async {
            loop {
                match peer.connect(&addr).await {
                    Ok(connection) => return connection,
                    Err(NetError::Unreachable { .. }) => tokio::time::sleep(Duration::from_millis(200)).await,
                    Err(other) => panic!("{other}"),
                }
            }
        })
        .await;
        chat(&connection, 10).await;
        round_trip(&connection, 1 << 18).await.unwrap();
        peer.close().await;
    });
    for _ in 0..20 {
        moving.recv_timeout(PATIENCE).expect("the transfer moves");
    }
    pulled.unplug();
    let start = std::time::Instant::now();
    assert_eq!(ended.recv_timeout(PATIENCE).unwrap(), CloseReason::Silence, "the other side");
    while moving.recv_timeout(PATIENCE).is_ok() {}
    eprintln!("both sides noticed within {} ms", start.elapsed().as_millis());
    pulled.plug();
    // A dialler that has failed already is not there to be told; joining says why.
    replugged.send(()).ok();
    here.join().unwrap();
    stop.send(()).unwrap();
    there.join().unwrap();
}

#[test]
fn a_cable_pulled_in_the_middle_of_a_transfer() {
    let Some(mut net) = Net::new() else { return };
    let (near, far) = (net.host("near"), net.host("far"));
    pulled_cable(&mut net, &near, &far, &near);
}

#[test]
fn a_cable_pulled_behind_the_router_where_only_silence_tells() {
    let Some(mut net) = Net::new() else { return };
    let (near, far) = (net.host_behind_nat("near"), net.host("far"));
    pulled_cable(&mut net, &near, &far, &near);
}
