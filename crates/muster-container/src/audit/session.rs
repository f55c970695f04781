//! One proof, from challenge to openings: the core says what to do, a thread computes, the stream speaks.

use std::sync::Arc;
use std::time::Duration;

use muster_core::ids::{ContentHash, NodeId};
use muster_core::proof::{
    Challenge, CheckerSays, Draw, Openings, Prover as Session, ProverEffect, ProverEvent, ProverSays, Seal, Stage,
};
use muster_net::{FrameReader, FrameWriter, NetError, NodeSecret};
use tokio::sync::mpsc;
use tracing::{debug, info};

use super::prover::Provers;

/// What a Container's seal under its openings is for.
const PROOF: &str = "muster/proof/1";
/// Beyond all deadlines of a challenge: then the Checker has given up long ago.
const SLACK: Duration = Duration::from_secs(30);
/// How long a message may wait for a Checker that does not read.
const SEND_WITHIN: Duration = Duration::from_secs(10);
/// Proofs step back behind jobs by so much ("nice").
const NICE: i32 = 5;

enum Order {
    Compute { stage: Stage, walk_seed: [u8; 32] },
    Open(Box<Draw>),
}

enum Done {
    Root { stage: Stage, root: ContentHash },
    Openings(Box<Openings>),
    Failed(String),
}

/// Proves a card on a stream whose challenge has been admitted.
pub(crate) async fn prove(
    provers: Arc<dyn Provers>,
    secret: &NodeSecret,
    node: NodeId,
    challenge: Challenge,
    reader: &mut FrameReader,
    writer: &mut FrameWriter,
) -> Result<(), NetError> {
    let (mut session, effects) = match Session::begin(&challenge, &node) {
        Ok(begun) => begun,
        Err(why) => return refuse(writer, &why.to_string()).await,
    };
    let plan = *session.plan();
    let stages: u64 = plan.deadline_ms.iter().map(|ms| u64::from(*ms)).sum();
    let within = Duration::from_millis(stages.saturating_add(challenge.scale.opening_ms.into())).saturating_add(SLACK);
    let checker = challenge.checker;
    info!(checker = %checker.short(), epoch = challenge.epoch, card = challenge.card, "proving");
    let (orders, mut done) = match start(provers, challenge) {
        Ok(started) => started,
        Err(error) => return refuse(writer, &format!("no thread for the proof: {error}")).await,
    };
    let talk = async {
        let mut effects = effects;
        loop {
            for effect in std::mem::take(&mut effects) {
                match effect {
                    ProverEffect::Compute { stage, walk_seed } => {
                        // A thread that is gone has said why, or says nothing, which is heard below.
                        drop(orders.send(Order::Compute { stage, walk_seed }));
                    }
                    ProverEffect::Open(draw) => drop(orders.send(Order::Open(draw))),
                    ProverEffect::Say(says) => writer.send_within(&says, SEND_WITHIN).await?,
                    ProverEffect::Done { refused } => {
                        if let Some(why) = refused {
                            debug!(checker = %checker.short(), %why, "a proof was broken off");
                        }
                        return writer.finish().await;
                    }
                }
            }
            let event = tokio::select! {
                said = reader.recv::<CheckerSays>() => match said? {
                    Some(said) => ProverEvent::Said(said),
                    None => return Ok(()),
                },
                computed = done.recv() => match computed {
                    Some(Done::Root { stage, root }) => ProverEvent::Computed { stage, root },
                    Some(Done::Openings(openings)) => {
                        let seal = seal(secret, &session.digest(&openings));
                        ProverEvent::Opened { openings, seal }
                    }
                    Some(Done::Failed(why)) => ProverEvent::Failed { why },
                    None => ProverEvent::Failed { why: "the prover has ended".to_owned() },
                },
            };
            effects = session.handle(event);
        }
    };
    match tokio::time::timeout(within, talk).await {
        Ok(outcome) => outcome,
        Err(_) => Err(NetError::Timeout { what: "the end of a proof", after: within }),
    }
}

/// Says why there is no proof.
pub(crate) async fn refuse(writer: &mut FrameWriter, why: &str) -> Result<(), NetError> {
    let why = why.get(..why.floor_char_boundary(200)).unwrap_or_default().to_owned();
    writer.send_within(&ProverSays::Broken { why }, SEND_WITHIN).await?;
    writer.finish().await
}

fn seal(secret: &NodeSecret, digest: &[u8; 32]) -> Seal {
    let signature = secret.sign(PROOF, digest).0;
    let (mut r, mut s) = ([0; 32], [0; 32]);
    let (first, second) = signature.split_at(32);
    r.copy_from_slice(first);
    s.copy_from_slice(second);
    Seal(r, s)
}

type Started = (std::sync::mpsc::Sender<Order>, mpsc::Receiver<Done>);

/// A thread of its own, so that its politeness dies with it.
fn start(provers: Arc<dyn Provers>, challenge: Challenge) -> std::io::Result<Started> {
    let (orders, inbox) = std::sync::mpsc::channel();
    let (answers, done) = mpsc::channel(4);
    std::thread::Builder::new().name("prover".to_owned()).spawn(move || {
        if let Err(error) = rustix::process::nice(NICE) {
            debug!(%error, "a proof runs with the priority of everything else");
        }
        let mut prover = match provers.begin(&challenge) {
            Ok(prover) => prover,
            Err(why) => {
                // Whoever asked may have gone.
                drop(answers.blocking_send(Done::Failed(why)));
                return;
            }
        };
        while let Ok(order) = inbox.recv() {
            let answer = match order {
                Order::Compute { stage, walk_seed } => {
                    prover.compute(stage, &walk_seed).map(|root| Done::Root { stage, root })
                }
                Order::Open(draw) => prover.open(&draw).map(|openings| Done::Openings(Box::new(openings))),
            };
            if answers.blocking_send(answer.unwrap_or_else(Done::Failed)).is_err() {
                return;
            }
        }
    })?;
    Ok((orders, done))
}
