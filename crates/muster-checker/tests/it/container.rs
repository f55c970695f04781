//! A Container as its Checkers see it: it lives, and proves on the processor, honestly or not.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use muster_core::ids::NodeId;
use muster_core::proof::{
    CheckerSays, Device, Plan, Prover, ProverEffect, ProverEvent, ProverSays, Rendering, Seal, Work,
};
use muster_core::render::{Scene, Tally, Tile};
use muster_net::{FramedStream, NodeSecret, Peer, PeerConfig, StreamKind};
use muster_wire::BoundedVec;
use muster_wire::message::audit::{Alive, Question};

use crate::world::loopback;

/// What a Container does.
#[derive(Debug, Default)]
pub(crate) struct Habits {
    /// Renders every second tile only.
    pub(crate) skips: bool,
    /// Sends rubbish instead of openings.
    pub(crate) rubbish: AtomicBool,
    /// The next proofs break in the middle, as when a card resets.
    pub(crate) breaks: AtomicU32,
}

#[derive(Debug)]
pub(crate) struct Container {
    pub(crate) id: NodeId,
    pub(crate) peer: Peer,
    pub(crate) proved: Arc<AtomicU32>,
}

impl Container {
    pub(crate) async fn new(habits: Habits) -> Self {
        let secret = NodeSecret::generate();
        let peer = Peer::bind(PeerConfig::new(secret.clone(), loopback())).await.unwrap();
        let (habits, proved) = (Arc::new(habits), Arc::new(AtomicU32::new(0)));
        tokio::spawn(serve(peer.clone(), secret.clone(), habits, Arc::clone(&proved)));
        Self { id: secret.id(), peer, proved }
    }
}

async fn serve(peer: Peer, secret: NodeSecret, habits: Arc<Habits>, proved: Arc<AtomicU32>) {
    while let Ok(connection) = peer.accept().await {
        let (secret, habits, proved) = (secret.clone(), Arc::clone(&habits), Arc::clone(&proved));
        tokio::spawn(async move {
            while let Ok(stream) = connection.accept_bi().await {
                let (secret, habits, proved) = (secret.clone(), Arc::clone(&habits), Arc::clone(&proved));
                tokio::spawn(async move {
                    let kind = stream.kind();
                    let mut stream = stream.framed();
                    match kind {
                        StreamKind::Liveness => {
                            while let Ok(Some(question)) = stream.recv::<Question>().await {
                                let alive = Alive { nonce: question.nonce, work: BoundedVec::default() };
                                if stream.send(&alive).await.is_err() {
                                    return;
                                }
                            }
                        }
                        StreamKind::Audit => prove(stream, &secret, &habits, &proved).await,
                        other => panic!("nobody asks a Container for {other:?} here"),
                    }
                });
            }
        });
    }
}

async fn prove(mut stream: FramedStream, secret: &NodeSecret, habits: &Habits, proved: &AtomicU32) {
    let Ok(Some(CheckerSays::Challenge(challenge))) = stream.recv::<CheckerSays>().await else { return };
    let (plan, scene) = challenge.plan();
    let (mut session, mut effects) = Prover::begin(&challenge, &secret.id()).unwrap();
    let mut work = Work::new(plan);
    let mut device = half(habits.skips);
    loop {
        let mut events = Vec::new();
        for effect in std::mem::take(&mut effects) {
            match effect {
                ProverEffect::Compute { stage, walk_seed } => {
                    let breaks = habits.breaks.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1));
                    if breaks.is_ok() {
                        events.push(ProverEvent::Failed { why: "the card was reset".to_owned() });
                        continue;
                    }
                    let computed = tokio::task::block_in_place(|| work.compute(&mut device, &scene, stage, &walk_seed));
                    events.push(ProverEvent::Computed { stage, root: computed.unwrap() });
                }
                ProverEffect::Open(draw) => {
                    let mut openings = Box::new(work.open::<core::convert::Infallible>(&draw).unwrap());
                    if habits.rubbish.load(Ordering::SeqCst) {
                        openings.tiles.leaves.clear();
                    }
                    let signature = secret.sign("muster/proof/1", &session.digest(&openings)).0;
                    let half = |from: usize| <[u8; 32]>::try_from(&signature[from..from + 32]).unwrap();
                    events.push(ProverEvent::Opened { openings, seal: Seal(half(0), half(32)) });
                }
                ProverEffect::Say(says) => {
                    if matches!(says, ProverSays::Openings { .. }) {
                        proved.fetch_add(1, Ordering::SeqCst);
                    }
                    if stream.send(&says).await.is_err() {
                        return;
                    }
                }
                ProverEffect::Done { .. } => {
                    drop(stream.finish().await);
                    return;
                }
            }
        }
        if events.is_empty() {
            match stream.recv::<CheckerSays>().await {
                Ok(Some(said)) => events.push(ProverEvent::Said(said)),
                Ok(None) | Err(_) => return,
            }
        }
        effects = events.into_iter().flat_map(|event| session.handle(event)).collect();
    }
}

/// A processor that may do half of the work.
fn half(skips: bool) -> impl Device<Error = core::convert::Infallible> {
    Rendering::new(move |scene: &Scene, plan: &Plan, tiles: &mut dyn FnMut(&Tile)| {
        let mut tally = Tally::default();
        for at in 0..plan.tiles() {
            let tile = scene.tile(plan.picture_side, plan.spp, plan.bounces, at, &mut tally);
            tiles(if skips && at % 2 == 1 { &[[7; 2]; 64] } else { &tile });
        }
    })
}
