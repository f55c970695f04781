//! Peers that send garbage, stall and flood: cut off, counted, banned, and nobody else is harmed.

use std::time::Duration;

use iroh::endpoint::Connection as Quic;
use muster_net::{CutReason, Limits, Peer, Rate, StreamKind};
use muster_wire::frame;
use tokio::task::JoinHandle;

use crate::support::{Raw, chat, echo, note, peer, soon};

fn strict() -> Limits {
    Limits {
        frames: Rate::new(200, 400),
        streams: Rate::new(50, 100),
        connections: Rate::new(1, 8),
        header_deadline: Duration::from_secs(1),
        frame_deadline: Duration::from_secs(1),
        ban: Duration::from_secs(600),
        ..Limits::control()
    }
}

/// A server, and an honest peer that talks to it until it is told to stop; gives how often it was answered.
struct Scene {
    server: Peer,
    honest: JoinHandle<u64>,
    stop: tokio::sync::oneshot::Sender<()>,
    talked: tokio::sync::watch::Receiver<u64>,
}

impl Scene {
    async fn new() -> Self {
        let (server, client) = (peer(strict()).await, peer(Limits::bulk()).await);
        tokio::spawn(echo(server.clone()));
        let connection = client.connect(&server.addr()).await.unwrap();
        let (stop, mut stopped) = tokio::sync::oneshot::channel();
        let (told, talked) = tokio::sync::watch::channel(0);
        let honest = tokio::spawn(async move {
            let mut count = 0;
            while stopped.try_recv().is_err() {
                chat(&connection, 1).await;
                count += 1;
                told.send_replace(count);
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            drop(client);
            count
        });
        Self { server, honest, stop, talked }
    }

    /// The attacker has lost its connection, was counted once for this reason, and does not get back in; the honest
    /// peer has been served before, meanwhile and after.
    async fn ends_with(mut self, attacker: &Raw, attack: &Quic, reason: CutReason) {
        soon("the cut", attack.closed()).await;
        let stats = self.server.stats();
        assert_eq!(stats.cut_for(reason), 1, "{stats:?}");
        assert_eq!(stats.cuts.iter().sum::<u64>(), 1, "{stats:?}");
        assert!(self.server.connection(attacker.id()).is_none());
        assert_banned(attacker, &self.server).await;
        let before = *self.talked.borrow();
        soon("the honest peer", self.talked.wait_for(|&now| now >= before + 3)).await.unwrap();
        self.stop.send(()).unwrap();
        assert!(self.honest.await.unwrap() > before);
        // A second honest peer gets in.
        let second = peer(Limits::bulk()).await;
        chat(&second.connect(&self.server.addr()).await.unwrap(), 5).await;
        assert_eq!(self.server.stats().cuts.iter().sum::<u64>(), 1);
    }
}

async fn assert_banned(attacker: &Raw, server: &Peer) {
    if let Ok(again) = attacker.try_connect(server).await {
        let reason = soon("the refusal", again.closed()).await.to_string();
        assert!(reason.contains("is banned for another"), "{reason}");
    }
}

async fn write(attack: &Quic, bytes: &[u8]) -> (iroh::endpoint::SendStream, iroh::endpoint::RecvStream) {
    let (mut send, recv) = attack.open_bi().await.unwrap();
    // The peer may be cut off while it still writes.
    send.write_all(bytes).await.ok();
    (send, recv)
}

#[tokio::test]
async fn garbage() {
    let good = frame::encode(&note(1)).unwrap();
    let huge = [&u32::MAX.to_le_bytes()[..], &good[4..]].concat();
    let noise: Vec<u8> = (0..4096u32).map(|i| i.wrapping_mul(2_654_435_761).to_be_bytes()[0]).collect();
    let field = [&[13, 0, 0, 0, 1, 4][..], b"note", &[0xff, 0xff, 0xff, 0xff, 0x7f, 0, 0]].concat();
    for bytes in [huge, noise, field, vec![0; 64]] {
        let (scene, attacker) = (Scene::new().await, Raw::new().await);
        let attack = attacker.connect(&scene.server).await;
        let _stream = write(&attack, &[&[StreamKind::Echo.byte()], &bytes[..]].concat()).await;
        scene.ends_with(&attacker, &attack, CutReason::Garbage).await;
    }
}

#[tokio::test]
async fn a_frame_that_stalls() {
    let (scene, attacker) = (Scene::new().await, Raw::new().await);
    let attack = attacker.connect(&scene.server).await;
    let good = frame::encode(&note(1)).unwrap();
    let _stream = write(&attack, &[&[StreamKind::Echo.byte()], &good[..good.len() - 1]].concat()).await;
    scene.ends_with(&attacker, &attack, CutReason::Stall).await;
}

#[tokio::test]
async fn a_stream_that_never_says_what_it_is() {
    let (scene, attacker) = (Scene::new().await, Raw::new().await);
    let attack = attacker.connect(&scene.server).await;
    // Streams are known to the other side once something is sent on a later one.
    let _silent = attack.open_bi().await.unwrap();
    let _later = write(&attack, &[StreamKind::Echo.byte()]).await;
    scene.ends_with(&attacker, &attack, CutReason::Stall).await;
}

#[tokio::test]
async fn a_flood_of_frames() {
    let (scene, attacker) = (Scene::new().await, Raw::new().await);
    let attack = attacker.connect(&scene.server).await;
    let many = frame::encode(&note(1)).unwrap().repeat(10_000);
    let (_send, mut recv) = write(&attack, &[&[StreamKind::Echo.byte()], &many[..]].concat()).await;
    // It reads the answers, so that nothing but the rate stops it.
    while let Ok(Some(_)) = recv.read_chunk(1 << 16).await {}
    scene.ends_with(&attacker, &attack, CutReason::FrameFlood).await;
}

#[tokio::test]
async fn a_flood_of_streams() {
    let (scene, attacker) = (Scene::new().await, Raw::new().await);
    let attack = attacker.connect(&scene.server).await;
    for _ in 0..10_000 {
        let Ok((mut send, _recv)) = attack.open_bi().await else { break };
        send.write_all(&[StreamKind::Echo.byte()]).await.ok();
        send.finish().ok();
    }
    scene.ends_with(&attacker, &attack, CutReason::StreamFlood).await;
}

#[tokio::test]
async fn a_flood_of_connections() {
    let (scene, attacker) = (Scene::new().await, Raw::new().await);
    let first = attacker.connect(&scene.server).await;
    for _ in 0..64 {
        match attacker.try_connect(&scene.server).await {
            Ok(another) => drop(another),
            Err(_) => break,
        }
        if first.close_reason().is_some() && scene.server.stats().cut_for(CutReason::ConnectionFlood) > 0 {
            break;
        }
    }
    scene.ends_with(&attacker, &first, CutReason::ConnectionFlood).await;
}

#[tokio::test]
async fn streams_held_open_do_not_pile_up() {
    // As many as are allowed, and no more: the transport itself refuses further ones.
    let limits = Limits { streams_max: 8, ..Limits::control() };
    let (server, attacker) = (peer(limits).await, Raw::new().await);
    tokio::spawn(echo(server.clone()));
    let attack = attacker.connect(&server).await;
    let mut held = Vec::new();
    while let Ok(opened) = tokio::time::timeout(Duration::from_secs(1), attack.open_bi()).await {
        let (mut send, recv) = opened.unwrap();
        send.write_all(&[StreamKind::Echo.byte()]).await.unwrap();
        held.push((send, recv));
        assert!(held.len() <= 8);
    }
    assert_eq!(held.len(), 8);
    let honest = peer(Limits::bulk()).await;
    chat(&honest.connect(&server.addr()).await.unwrap(), 5).await;
}

#[tokio::test]
async fn a_ban_ends() {
    let limits = Limits { ban: Duration::from_millis(700), ..strict() };
    let (server, attacker) = (peer(limits).await, Raw::new().await);
    tokio::spawn(echo(server.clone()));
    let attack = attacker.connect(&server).await;
    let _stream = write(&attack, &[StreamKind::Echo.byte(), 0, 0, 0, 0]).await;
    soon("the cut", attack.closed()).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let again = attacker.connect(&server).await;
    let bytes = [&[StreamKind::Echo.byte()], &frame::encode(&note(1)).unwrap()[..]].concat();
    let (_send, mut recv) = write(&again, &bytes).await;
    let mut answer = vec![0; bytes.len() - 1];
    soon("the echo", recv.read_exact(&mut answer)).await.unwrap();
    assert_eq!(answer, bytes[1..]);
}

#[tokio::test]
async fn a_node_takes_no_more_peers_than_it_says() {
    let server = peer(Limits { peers_max: 2, ..Limits::control() }).await;
    tokio::spawn(echo(server.clone()));
    let mut inside = Vec::new();
    for _ in 0..2 {
        let client = peer(Limits::bulk()).await;
        let connection = client.connect(&server.addr()).await.unwrap();
        chat(&connection, 1).await;
        inside.push((client, connection));
    }
    let third = peer(Limits::bulk()).await;
    let reason = match third.connect(&server.addr()).await {
        Ok(connection) => soon("the refusal", connection.closed()).await.to_string(),
        Err(error) => error.to_string(),
    };
    assert!(reason.contains("has 2 peers already"), "{reason}");
    // Who is in, stays and is served; when one leaves, the next may come.
    let (client, connection) = inside.pop().unwrap();
    chat(&connection, 1).await;
    client.close().await;
    soon("a free place", async {
        while server.stats().peers > 1 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    chat(&peer(Limits::bulk()).await.connect(&server.addr()).await.unwrap(), 1).await;
}

#[tokio::test]
async fn a_peer_has_no_more_connections_than_it_may() {
    let limits = Limits { connections_per_peer_max: 3, ..Limits::control() };
    let (server, greedy) = (peer(limits).await, Raw::new().await);
    tokio::spawn(echo(server.clone()));
    let mut kept = Vec::new();
    for _ in 0..3 {
        kept.push(greedy.connect(&server).await);
    }
    let fourth = greedy.connect(&server).await;
    let reason = soon("the refusal", fourth.closed()).await.to_string();
    assert!(reason.contains("has 3 connections already"), "{reason}");
    assert!(kept.iter().all(|connection| connection.close_reason().is_none()));
    assert_eq!((server.stats().connections, server.stats().refused), (3, 1));
}

#[tokio::test]
async fn noise_on_the_port() {
    let scene = Scene::new().await;
    let noise = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let mut state = 1u64;
    for round in 0..5_000usize {
        let mut packet = vec![0; round % 1_400];
        for byte in &mut packet {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            *byte = state.to_be_bytes()[0];
        }
        // As the start of a handshake looks, every other time.
        if let Some(first) = packet.first_mut().filter(|_| round % 2 == 0) {
            *first |= 0xc0;
        }
        noise.send_to(&packet, scene.server.listen_addr()).await.unwrap();
    }
    let mut talked = scene.talked.clone();
    let before = *talked.borrow();
    soon("the honest peer", talked.wait_for(|&now| now >= before + 3)).await.unwrap();
    scene.stop.send(()).unwrap();
    scene.honest.await.unwrap();
    assert_eq!(scene.server.stats().cuts, [0; 5]);
}
