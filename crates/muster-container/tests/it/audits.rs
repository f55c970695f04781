//! Proofs and signs of life for Checkers: who gets them, how often, and what a lie looks like.

use std::sync::Arc;
use std::time::Duration;

use muster_chain::settle::{NodeKind, Registration};
use muster_container::Cheat;
use muster_core::hardware::GpuModel;
use muster_core::ids::{ContentHash, NodeId};
use muster_core::proof::challenge::PROOF_VERSION;
use muster_core::proof::{
    Challenge, Checker, CheckerEffect, CheckerEvent, CheckerSays, Claim, End, Fault, Gap, ProverSays, Rates, Scale,
    Secrets, Transcript, Verdict,
};
use muster_core::units::{Bytes, Ob, TokenAmount};
use muster_net::{Connection, NodeSecret, Peer, PeerConfig, Signature64, StreamKind, verify};
use muster_wire::message::audit::{Alive, Question};

use crate::world::{PATIENCE, World, loopback, now};

/// A small test, with all the time in the world.
fn challenge(world: &World, checker: NodeId, container: NodeId, secrets: &Secrets) -> Challenge {
    let scale = Scale {
        picture_side: 256,
        spp_max: 1,
        bounces: 1,
        product_side_max: 64,
        pad_bytes_max: Bytes(1 << 20),
        walks: 64,
        walk_segments: 2,
        walk_steps: 8,
        chunks_opened: 1,
        segments_opened: 2,
        slack_ms: 300_000,
        opening_ms: 300_000,
        ..Scale::development()
    };
    let rates = Rates {
        table_ob: Ob(100),
        uncertainty_percent: 80,
        steps_per_ob: 1_000_000,
        products_per_ob: 1_000_000,
        reads_per_ob: 1_000_000,
    };
    Challenge {
        version: PROOF_VERSION,
        beacon: [3; 32],
        epoch: world.params.epoch.at(now()).0,
        container,
        checker,
        card: 0,
        claim: Claim { model: GpuModel::new("processor").unwrap(), ob: Ob(1), vram: Bytes(1 << 20) },
        rates,
        scale,
        commitment: secrets.commitment(),
    }
}

async fn prove(connection: &Connection, challenge: Challenge, secrets: Secrets) -> Transcript {
    let mut stream = connection.open_bi(StreamKind::Audit).await.unwrap().framed();
    let (mut session, mut effects) = Checker::begin(challenge, secrets, now()).unwrap();
    loop {
        for effect in std::mem::take(&mut effects) {
            match effect {
                CheckerEffect::Say(says) => stream.send::<CheckerSays>(&says).await.unwrap(),
                CheckerEffect::Wake(_) => {}
                CheckerEffect::Done(transcript) => return *transcript,
            }
        }
        let event = match tokio::time::timeout(PATIENCE * 5, stream.recv::<ProverSays>()).await.unwrap() {
            Ok(Some(said)) => CheckerEvent::Said(said),
            Ok(None) | Err(_) => CheckerEvent::Lost,
        };
        effects = session.handle(event, now());
    }
}

fn is_sealed(transcript: &Transcript) -> bool {
    let (digest, seal) = transcript.sealed().unwrap();
    let signature = Signature64([seal.0, seal.1].concat().try_into().unwrap());
    verify(transcript.challenge.container, "muster/proof/1", &digest, &signature).is_ok()
}

fn secrets() -> Secrets {
    Secrets { nonce: rand::random(), vector: rand::random() }
}

async fn checker(world: &World) -> Peer {
    let secret = NodeSecret::generate();
    let registration = Registration {
        kind: NodeKind::Checker,
        node: secret.id(),
        endpoint: String::new(),
        fingerprint: [0; 32],
        stake: TokenAmount(1_000 * TokenAmount::ONE.0),
    };
    world.consumer.register(&registration).await.unwrap();
    Peer::bind(PeerConfig::new(secret, loopback())).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn checkers_get_proofs_as_often_as_a_draw_can_ask_and_strangers_none() {
    let world = World::new().await;
    let running = world.start(world.config("attic"), &NodeSecret::generate()).await;
    let node = world.client.node(running.id).await.unwrap().unwrap();
    assert!(node.endpoint.contains("gpu=processor:1:16"), "what it claims is in the registry: {}", node.endpoint);

    let stranger = Peer::bind(PeerConfig::new(NodeSecret::generate(), loopback())).await.unwrap();
    let connection = stranger.connect(&running.addr).await.unwrap();
    let mut stream = connection.open_bi(StreamKind::Liveness).await.unwrap().framed();
    stream.send(&Question { epoch: 1, nonce: [1; 16] }).await.unwrap();
    let reason = tokio::time::timeout(PATIENCE, connection.closed()).await.unwrap();
    assert!(reason.to_string().contains("no active Checker"), "{reason}");

    let peer = checker(&world).await;
    // The list of Checkers is read again for somebody who is not on it, but not at once.
    let deadline = tokio::time::Instant::now() + PATIENCE;
    let (connection, alive) = loop {
        let connection = peer.connect(&running.addr).await.unwrap();
        let asked = async {
            let mut stream = connection.open_bi(StreamKind::Liveness).await?.framed();
            stream.ask::<Question, Alive>(&Question { epoch: 1, nonce: [7; 16] }, PATIENCE).await
        };
        match asked.await {
            Ok(alive) => break (connection, alive),
            Err(error) => assert!(tokio::time::Instant::now() < deadline, "{error}"),
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    };
    assert_eq!((alive.nonce, alive.work.len()), ([7; 16], 0));

    // A challenge for another epoch gets a reason, and no proof.
    let mine = secrets();
    let mut late = challenge(&world, peer.id(), running.id, &mine);
    late.epoch -= 5;
    let refused = prove(&connection, late, mine).await;
    assert!(matches!(&refused.end, End::Broken { why, .. } if why.contains("clock")), "{:?}", refused.end);

    let mut proofs = Vec::new();
    for _ in 0..6 {
        let mine = secrets();
        let transcript = prove(&connection, challenge(&world, peer.id(), running.id, &mine), mine).await;
        let over = matches!(&transcript.end, End::Broken { why, .. } if why.contains("as often"));
        proofs.push(transcript);
        if over {
            break;
        }
    }
    // Two an epoch; where one ended in between, two more.
    let last = proofs.pop().unwrap();
    assert!(matches!(last.end, End::Broken { .. }), "{:?}", last.end);
    assert!(proofs.len() >= 2, "{}", proofs.len());
    for transcript in &proofs {
        assert!(is_sealed(transcript));
        let verdict = transcript.verify();
        let right = matches!(
            verdict,
            Verdict::Pass(_) | Verdict::Fail(Fault::Slow { .. }) | Verdict::Inconclusive(Gap::Slower { .. })
        );
        assert!(right, "{verdict}");
    }
    assert_ne!(proofs[0].hash(), ContentHash::ZERO);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_container_that_was_told_to_cheat_convicts_itself() {
    let world = World::new().await;
    *world.provers.lock().unwrap() = Some(Arc::new(Cheat::skips(50, &world.params).unwrap()));
    let running = world.start(world.config("attic"), &NodeSecret::generate()).await;
    let peer = checker(&world).await;
    let connection = peer.connect(&running.addr).await.unwrap();
    let mine = secrets();
    let transcript = prove(&connection, challenge(&world, peer.id(), running.id, &mine), mine).await;
    assert!(is_sealed(&transcript));
    match transcript.verify() {
        Verdict::Fail(fault) => assert!(fault.is_provable(), "{fault}"),
        other => panic!("{other}"),
    }
    running.stop().await;
}
