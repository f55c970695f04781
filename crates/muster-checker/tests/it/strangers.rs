//! What bad input gets.

use std::time::Duration;

use muster_core::brain::checker::Message;
use muster_core::epoch::{EpochNo, Phase};
use muster_core::ids::{ContentHash, NodeId};
use muster_core::protocol::NodeSignature;
use muster_core::reward::{Commitment, Entry, Report, Reveal};
use muster_net::{Connection, NodeSecret, Peer, PeerConfig, StreamKind};
use muster_wire::message::audit::{Evidence, Gossip, Wanted};
use tokio::sync::mpsc;

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

fn sign(secret: &NodeSecret, epoch: EpochNo, hash: ContentHash) -> Commitment {
    let bytes = [&epoch.0.to_be_bytes()[..], &secret.id().0, &hash.0].concat();
    let signature = secret.sign("muster/commitment/1", &bytes);
    Commitment { epoch, checker: secret.id(), hash, signature: signature.into() }
}

async fn say(to: &Connection, message: Message) {
    let mut stream = to.open_bi(StreamKind::Checkers).await.unwrap().framed();
    stream.send(&Gossip::Said(Box::new(message))).await.unwrap();
    stream.finish().await.unwrap();
}

/// Listens to what others say on a connection, whoever dialled it.
fn listen(connection: Connection, ears: mpsc::UnboundedSender<Message>) {
    tokio::spawn(async move {
        while let Ok(stream) = connection.accept_bi().await {
            if stream.kind() != StreamKind::Checkers {
                continue;
            }
            let mut stream = stream.framed();
            while let Ok(Some(Gossip::Said(message))) = stream.recv::<Gossip>().await {
                ears.send(*message).unwrap();
            }
        }
    });
}

/// What was said until nothing more comes for a while.
async fn told(ears: &mut mpsc::UnboundedReceiver<Message>, quiet: Duration) -> Vec<Message> {
    let mut all = Vec::new();
    while let Ok(Some(message)) = tokio::time::timeout(quiet, ears.recv()).await {
        all.push(message);
    }
    all
}

/// A Checker of the registry that promises twice and reveals something else: the second promise gets no receipt, the
/// reveal is not taken, the epoch is settled without it, and it has done nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn promises_that_contradict_and_reveals_that_do_not_match_count_for_nothing() {
    let world = World::new().await;
    let _honest = world.container(Habits::default(), 1).await;
    let checkers = [world.checker(0).await, world.checker(1).await];
    let rogue = world.secrets[2].clone();
    let peer = Peer::bind(PeerConfig::new(rogue.clone(), loopback())).await.unwrap();
    world.join(2, peer.listen_addr());
    let (mouth, mut ears) = mpsc::unbounded_channel();
    let (accepting, heard) = (peer.clone(), mouth.clone());
    tokio::spawn(async move {
        while let Ok(connection) = accepting.accept().await {
            listen(connection, heard.clone());
        }
    });
    let epoch = world.genesis();
    checkers[0].until("commitments", |status| status.epoch == epoch && status.phase == Phase::Commit).await;
    let connection = peer.connect(&checkers[0].addr).await.unwrap();
    listen(connection.clone(), mouth);
    let report =
        Report { epoch, checker: rogue.id(), view: ContentHash([1; 32]), secret: [2; 32], results: Vec::new() };
    let reveal = Reveal { report, salt: [3; 32] };
    let first = sign(&rogue, epoch, ContentHash([4; 32]));
    say(&connection, Message::Commit(first)).await;
    let of = |hash: ContentHash| move |message: &Message| matches!(message, Message::Receipt { hash: got, .. } if *got == hash);
    let mut receipts = Vec::new();
    while !receipts.iter().any(of(first.hash)) {
        let said = tokio::time::timeout(Duration::from_secs(60), ears.recv()).await;
        receipts.push(said.expect("a receipt for the first promise").unwrap());
    }
    let second = sign(&rogue, epoch, reveal.commitment_hash());
    say(&connection, Message::Commit(second)).await;
    let receipts = told(&mut ears, Duration::from_millis(500)).await;
    assert!(!receipts.iter().any(of(second.hash)), "{receipts:?}");

    checkers[0].until("reveals", |status| status.epoch == epoch && status.phase >= Phase::Reveal).await;
    let entry = |commitment| Entry { commitment, receipts: Vec::new(), reveal: Some(reveal.clone()) };
    // Not what was committed to; and what was, but not in time.
    for commitment in [first, second] {
        say(&connection, Message::Reveal(Box::new(entry(commitment)))).await;
    }
    let answers = told(&mut ears, Duration::from_millis(700)).await;
    assert!(!answers.iter().any(|message| matches!(message, Message::Taken { .. })), "{answers:?}");

    world.until("the outcome of that epoch", |town| !town.posted().is_empty()).await;
    assert_eq!(world.town.posted()[0].outcome.first_epoch, epoch);
    let state = world.state(&checkers[0]).await;
    let done = |node: NodeId| {
        let record = state.checker(&node).unwrap_or_else(|| panic!("{} is not in {state:#?}", node.short()));
        record.days.iter().map(|duty| duty.done).sum::<u32>()
    };
    assert_eq!(done(rogue.id()), 0, "{state:#?}");
    assert!(done(world.secrets[0].id()) > 0 && done(world.secrets[1].id()) > 0, "{state:#?}");
    for checker in checkers {
        checker.stop().await;
    }
}
