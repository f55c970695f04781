//! Two peers: dialing, sharing a connection, streams both ways, bulk data, the end and its reason.

use std::time::Duration;

use muster_net::{CloseCode, CloseReason, Limits, NetError, NodeSecret, Peer, PeerAddr, PeerConfig, StreamKind};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::{Note, chat, config, echo, echo_connection, loopback, note, peer, soon};

#[tokio::test]
async fn peers_talk_in_frames() {
    let (server, client) = (peer(Limits::control()).await, peer(Limits::bulk()).await);
    tokio::spawn(echo(server.clone()));
    let connection = client.connect(&server.addr()).await.unwrap();
    assert_eq!(connection.remote_id(), server.id());
    chat(&connection, 100).await;
    assert!(connection.path().is_some_and(|path| path.to_string() == server.listen_addr().to_string()));
    assert!(connection.rtt().is_some());
    let stats = server.stats();
    assert_eq!((stats.frames_in, stats.frames_out, stats.peers, stats.connections), (100, 100, 1, 1));
    assert_eq!(stats.cuts, [0; 5]);
}

#[tokio::test]
async fn whoever_wants_a_peer_shares_one_connection() {
    let (server, client) = (peer(Limits::control()).await, peer(Limits::bulk()).await);
    tokio::spawn(echo(server.clone()));
    let addr = server.addr();
    let connections = futures::future::join_all((0..16).map(|_| client.connect(&addr))).await;
    for connection in connections {
        chat(&connection.unwrap(), 1).await;
    }
    assert_eq!(client.stats().connections, 1);
    assert_eq!(server.stats().connections, 1);
    let fresh = client.connect_fresh(&addr).await.unwrap();
    chat(&fresh, 1).await;
    assert_eq!(client.stats().connections, 2);
}

#[tokio::test]
async fn who_dialled_out_is_reached_back() {
    // A Container behind NAT takes no connections: it dials the Indexer, which opens streams on that connection.
    let indexer = peer(Limits::control()).await;
    let container = Peer::bind(PeerConfig { accept: false, ..config(Limits::bulk()) }).await.unwrap();
    let dialled = container.connect(&indexer.addr()).await.unwrap();
    let echoing = tokio::spawn(echo_connection(dialled));
    soon("the Container's connection", indexer.accept()).await.unwrap();
    let back = indexer.connection(container.id()).unwrap();
    chat(&back, 10).await;
    // Asking for it by its key alone finds the same connection.
    chat(&indexer.connect(&PeerAddr::new(container.id())).await.unwrap(), 10).await;
    assert_eq!(indexer.stats().connections, 1);
    // A stranger cannot dial it.
    let stranger = peer(Limits::bulk()).await;
    let error = stranger.connect(&container.addr()).await.unwrap_err();
    assert!(matches!(error, NetError::Unreachable { .. }), "{error}");
    container.close().await;
    echoing.await.unwrap();
}

#[tokio::test]
async fn bulk_data_flows_with_backpressure() {
    let (server, client) = (peer(Limits::bulk()).await, peer(Limits::bulk()).await);
    let connection = client.connect(&server.addr()).await.unwrap();
    let (mut recv, mut send) = connection.open_bi(StreamKind::Files).await.unwrap().split();
    let incoming = soon("the connection", server.accept()).await.unwrap();
    let stream = soon("the stream", incoming.accept_bi()).await.unwrap();
    assert_eq!(stream.kind(), StreamKind::Files);

    // Nobody reads: the sender comes to a stop after what the windows take, and not after everything.
    let total = 64 * 1024 * 1024;
    let block = vec![7u8; 64 * 1024];
    let mut sent = 0;
    while let Ok(written) = tokio::time::timeout(Duration::from_secs(1), send.write(&block)).await {
        sent += written.unwrap();
        assert!(sent < total / 2, "no backpressure: {sent} bytes are on their way and nobody reads");
    }
    // Other streams of the connection are not held up by it.
    let mut other = connection.open_bi(StreamKind::Echo).await.unwrap().framed();
    other.send(&note(1)).await.unwrap();
    let mut other_there = soon("another stream", incoming.accept_bi()).await.unwrap().framed();
    assert_eq!(soon("a note", other_there.recv::<Note>()).await.unwrap(), Some(note(1)));

    let (mut reading, mut writing) = stream.split();
    let receiving = tokio::spawn(async move {
        let mut got = 0;
        while let Some(chunk) = reading.read_chunk(1 << 20).await.unwrap() {
            assert!(chunk.iter().all(|&byte| byte == 7));
            got += chunk.len();
        }
        writing.write_all(b"thanks").await.unwrap();
        writing.finish_acked().await.unwrap();
        got
    });
    while sent < total {
        let count = block.len().min(total - sent);
        send.write_all(&block[..count]).await.unwrap();
        sent += count;
    }
    send.finish().unwrap();
    let mut answer = String::new();
    soon("the answer", recv.read_to_string(&mut answer)).await.unwrap();
    assert_eq!((answer.as_str(), receiving.await.unwrap()), ("thanks", total));
}

#[tokio::test]
async fn frames_then_raw_bytes_on_one_stream() {
    let (server, client) = (peer(Limits::bulk()).await, peer(Limits::bulk()).await);
    let connection = client.connect(&server.addr()).await.unwrap();
    let mut stream = connection.open_bi(StreamKind::Files).await.unwrap().framed();
    stream.send(&note(5)).await.unwrap();
    let (_, mut send) = stream.into_raw().await.unwrap();
    send.write_all(b"raw bytes that are already there when the frame is read").await.unwrap();
    send.finish().unwrap();

    let incoming = soon("the connection", server.accept()).await.unwrap();
    let mut stream = soon("the stream", incoming.accept_bi()).await.unwrap().framed();
    assert_eq!(stream.recv::<Note>().await.unwrap(), Some(note(5)));
    let (mut recv, _) = stream.into_raw().await.unwrap();
    let mut text = String::new();
    soon("the bytes", recv.read_to_string(&mut text)).await.unwrap();
    assert_eq!(text, "raw bytes that are already there when the frame is read");
}

#[tokio::test]
async fn a_part_is_never_taken_for_the_whole() {
    let (server, client) = (peer(Limits::bulk()).await, peer(Limits::bulk()).await);
    let connection = client.connect(&server.addr()).await.unwrap();
    let (_recv, mut send) = connection.open_bi(StreamKind::Files).await.unwrap().split();
    send.write_all(b"half of a fi").await.unwrap();
    let incoming = soon("the connection", server.accept()).await.unwrap();
    let (mut recv, _send) = soon("the stream", incoming.accept_bi()).await.unwrap().split();
    let mut start = [0; 4];
    recv.read_exact(&mut start).await.unwrap();
    drop(send);
    let error = soon("the end", recv.read_to_end(&mut Vec::new())).await.unwrap_err();
    let error = NetError::from(error);
    assert!(matches!(error, NetError::StreamReset { code: Some(CloseCode::Abandoned) }), "{error:?}");
}

#[tokio::test]
async fn the_end_is_said_in_words() {
    let (server, client) = (peer(Limits::bulk()).await, peer(Limits::bulk()).await);
    let connection = client.connect(&server.addr()).await.unwrap();
    let incoming = soon("the connection", server.accept()).await.unwrap();
    incoming.close("the lease is over");
    let reason = soon("the end", connection.closed()).await;
    assert_eq!(reason.to_string(), "closed by the peer: the lease is over");
    assert_eq!(incoming.close_reason(), Some(CloseReason::Here));
    let error = connection.open_bi(StreamKind::Echo).await.unwrap_err();
    assert!(error.is_connection_lost() && error.to_string().ends_with("the lease is over"), "{error}");

    // The next connect dials anew; and a node that goes down says so.
    let connection = client.connect(&server.addr()).await.unwrap();
    soon("the connection", server.accept()).await.unwrap();
    server.close().await;
    let reason = soon("the end", connection.closed()).await;
    assert_eq!(
        reason,
        CloseReason::There { code: Some(CloseCode::Shutdown), text: "the node is shutting down".to_owned() }
    );
    assert!(matches!(server.accept().await, Err(NetError::Closed)));
}

#[tokio::test]
async fn a_peer_that_vanishes_is_noticed() {
    let quick =
        || Limits { idle: Duration::from_millis(1500), keep_alive: Duration::from_millis(300), ..Limits::bulk() };
    let (server, client) = (peer(quick()).await, peer(quick()).await);
    // A cable: a UDP relay between the two, which the test can pull.
    let cable = crate::support::Cable::to(server.listen_addr()).await;
    let addr = PeerAddr::new(server.id()).with_direct(cable.addr());
    tokio::spawn(echo(server.clone()));
    let connection = client.connect(&addr).await.unwrap();
    chat(&connection, 3).await;
    let there = server.connection(client.id()).unwrap();
    // An idle connection is kept alive for longer than the idle timeout.
    tokio::time::sleep(Duration::from_secs(4)).await;
    assert_eq!((connection.close_reason(), there.close_reason()), (None, None));

    let mut transfer = connection.open_bi(StreamKind::Files).await.unwrap();
    transfer.write_all(&[1; 1000]).await.unwrap();
    cable.pull();
    assert_eq!(soon("the dialler's end", connection.closed()).await, CloseReason::Silence);
    assert_eq!(soon("the other end", there.closed()).await, CloseReason::Silence);
    let error = transfer.read_to_end(&mut Vec::new()).await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::TimedOut);
    assert!(error.to_string().contains("fell silent"), "{error}");
}

#[tokio::test]
async fn what_cannot_be_reached_is_said() {
    let client = Peer::bind(PeerConfig {
        limits: Limits { connect_deadline: Duration::from_millis(300), ..Limits::bulk() },
        ..PeerConfig::new(NodeSecret::generate(), loopback())
    })
    .await
    .unwrap();
    let nobody = NodeSecret::generate().id();
    let error = client.connect(&PeerAddr::new(nobody)).await.unwrap_err();
    assert!(matches!(error, NetError::NoAddress(_)), "{error}");
    // A port where nobody listens.
    let closed = tokio::net::UdpSocket::bind(loopback()).await.unwrap().local_addr().unwrap();
    let error = client.connect(&PeerAddr::new(nobody).with_direct(closed)).await.unwrap_err().to_string();
    assert!(error.contains(&closed.to_string()) && error.contains("no answer within 300 ms"), "{error}");
    // Somebody else's key answers there.
    let other = peer(Limits::bulk()).await;
    let wrong = PeerAddr::new(nobody).with_direct(other.listen_addr());
    assert!(matches!(client.connect(&wrong).await, Err(NetError::Unreachable { .. })));
    // A port that is taken.
    let taken = PeerConfig::new(NodeSecret::generate(), other.listen_addr());
    let error = Peer::bind(taken).await.unwrap_err().to_string();
    assert!(error.contains("cannot listen on") && error.contains("in use"), "{error}");
}

#[tokio::test]
async fn a_stream_of_an_unknown_protocol_is_refused_and_the_rest_goes_on() {
    let (server, client) = (peer(Limits::bulk()).await, crate::support::Raw::new().await);
    tokio::spawn(echo(server.clone()));
    let connection = client.connect(&server).await;
    let (mut send, mut recv) = connection.open_bi().await.unwrap();
    send.write_all(&[250]).await.unwrap();
    assert!(soon("the refusal", recv.read_to_end(16)).await.is_err());
    let (mut send, mut recv) = connection.open_bi().await.unwrap();
    let mut frame = vec![StreamKind::Echo.byte()];
    muster_wire::frame::encode_into(&note(3), &mut frame).unwrap();
    send.write_all(&frame).await.unwrap();
    let mut answer = vec![0; frame.len() - 1];
    soon("the echo", recv.read_exact(&mut answer)).await.unwrap();
    assert_eq!(answer, frame[1..]);
    assert_eq!((server.stats().unknown_streams, server.stats().cuts), (1, [0; 5]));
}

#[tokio::test]
async fn two_programs_with_one_key_do_not_disturb_each_other() {
    let server = peer(Limits::control()).await;
    tokio::spawn(echo(server.clone()));
    let secret = NodeSecret::generate();
    let bind = async || Peer::bind(PeerConfig::new(secret.clone(), loopback())).await.unwrap();
    let (one, two) = (bind().await, bind().await);
    let (first, second) = (one.connect(&server.addr()).await.unwrap(), two.connect(&server.addr()).await.unwrap());
    tokio::join!(chat(&first, 200), chat(&second, 200));
    one.close().await;
    chat(&second, 200).await;
    assert_eq!((server.stats().connections, server.stats().frames_in), (2, 600));
}
