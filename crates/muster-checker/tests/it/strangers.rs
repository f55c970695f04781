//! What bad input gets.

use std::time::Duration;

use muster_core::brain::checker::Message;
use muster_core::epoch::EpochNo;
use muster_core::ids::{ContentHash, NodeId};
use muster_core::protocol::NodeSignature;
use muster_core::reward::Commitment;
use muster_net::{NodeSecret, Peer, PeerConfig, StreamKind};
use muster_wire::message::audit::{Evidence, Gossip, Wanted};

use crate::container::Habits;
use crate::world::{World, loopback};

fn commitment(by: NodeId, epoch: EpochNo) -> Gossip {
    let signature = NodeSignature { r: [1; 32], s: [2; 32] };
    let commitment = Commitment { epoch, checker: by, hash: ContentHash([7; 32]), signature };
    Gossip::Said(Box::new(Message::Commit(commitment)))
}

/// Keys that are not registered are cut off; what a registered one has not signed is not heard; and nobody gets bytes
/// that are not there.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn strangers_and_false_signatures_are_refused() {
    let world = World::new().await;
    let _honest = world.container(Habits::default(), 1).await;
    let checker = world.checker(0).await;
    let second = world.checker(1).await;
    let second_addr = second.addr.clone();
    checker.until("the first draw", |status| status.view.is_some()).await;

    let stranger = Peer::bind(PeerConfig::new(NodeSecret::generate(), loopback())).await.unwrap();
    let connection = stranger.connect(&checker.addr).await.unwrap();
    let mut stream = connection.open_bi(StreamKind::Checkers).await.unwrap().framed();
    stream.send(&commitment(stranger.id(), world.genesis())).await.unwrap();
    let reason = tokio::time::timeout(Duration::from_secs(120), connection.closed()).await.unwrap();
    assert!(reason.to_string().contains("none that is active"), "{reason}");

    // Anybody may ask for evidence; what is not there is not there.
    let asker = Peer::bind(PeerConfig::new(NodeSecret::generate(), loopback())).await.unwrap();
    let connection = asker.connect(&checker.addr).await.unwrap();
    for wanted in [Wanted::Bytes { hash: ContentHash([9; 32]) }, Wanted::SetProof { epoch: 1, nth: 0 }] {
        let mut stream = connection.open_bi(StreamKind::Evidence).await.unwrap().framed();
        let answer: Evidence = stream.ask(&wanted, Duration::from_secs(120)).await.unwrap();
        assert_eq!(answer, Evidence::Absent);
    }

    // The second Checker's key, used by somebody who signs nothing.
    second.stop().await;
    let mut forger = PeerConfig::new(world.secrets[1].clone(), loopback());
    forger.accept = false;
    let forger = Peer::bind(forger).await.unwrap();
    assert_eq!(forger.id(), second_addr.id);
    let before = checker.status.borrow().counted.refused;
    let connection = forger.connect_fresh(&checker.addr).await.unwrap();
    let mut stream = connection.open_bi(StreamKind::Checkers).await.unwrap().framed();
    stream.send(&commitment(forger.id(), world.genesis())).await.unwrap();
    checker.until("the false signature is counted", |status| status.counted.refused > before).await;
    checker.stop().await;
}
