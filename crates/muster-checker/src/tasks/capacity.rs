//! The proof of a Container's cards, all at the same instant.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use muster_core::proof::{
    Challenge, Checker as Session, CheckerEffect, CheckerEvent, CheckerSays, Claim, End, Fault, Gap, ProverSays,
    Secrets, Stage, Transcript, Verdict,
};
use muster_core::reward::Finding;
use muster_core::units::{Ob, TimeMs};
use muster_net::{Connection, NetError, StreamKind};
use muster_wire::message::audit::SignedTranscript;
use tracing::warn;

use super::{Found, Job, unknown};
use crate::evidence::Kind;
use crate::examine::{TRANSCRIPT, challenge, is_sealed};
use crate::node::House;

/// How long a message may wait for a Container that does not read.
const SEND_WITHIN: Duration = Duration::from_secs(10);
/// Between two tries to reach a Container.
const RETRY: Duration = Duration::from_millis(250);

/// What came of one card.
#[derive(Clone, Debug)]
enum Card {
    Proved { ob: Ob, took_ms: u32 },
    Refuted(String),
    Absent(String),
    Unknown(String),
}

pub(super) async fn capacity(house: &Arc<House>, job: &Job) -> Found {
    let claims = house.claims(job.draw.epoch(), job.subject);
    if claims.is_empty() {
        return unknown("it names no card and no processor in the registry");
    }
    let first = prove_all(house, job, &claims).await;
    let (cards, transcripts) = match first {
        // A connection that was lost is no answer yet: once more, while there is time.
        Ok((cards, _)) if cards.iter().any(|card| matches!(card, (_, true))) => {
            match prove_all(house, job, &claims).await {
                Ok(second) => second,
                Err(why) => return (Finding::Absent, Some(why)),
            }
        }
        Ok(done) => done,
        Err(why) => return (Finding::Absent, Some(why)),
    };
    let cards: Vec<Card> = cards.into_iter().map(|(card, _)| card).collect();
    conclude(house, job, cards, transcripts)
}

/// Proves every card at once: one card that stands for several takes several times as long.
async fn prove_all(
    house: &Arc<House>,
    job: &Job,
    claims: &[Claim],
) -> Result<(Vec<(Card, bool)>, Vec<Transcript>), String> {
    let connection = loop {
        match house.connect(job.subject).await {
            Ok(connection) => break connection,
            Err(error) if job.left(house.clock.now()) <= RETRY.saturating_mul(4) => {
                return Err(format!("it cannot be reached: {error}"));
            }
            Err(_) => tokio::time::sleep(RETRY).await,
        }
    };
    job.missing.store(u32::try_from(claims.len()).unwrap_or(u32::MAX), Ordering::Relaxed);
    let proofs = claims.iter().zip(0u8..).map(|(claim, card)| one(house, job, &connection, card, claim));
    let mut cards = Vec::new();
    let mut transcripts = Vec::new();
    for proof in futures::future::join_all(proofs).await {
        match proof {
            Ok((card, lost, transcript)) => {
                cards.push((card, lost));
                transcripts.push(transcript);
            }
            Err(why) => return Err(why),
        }
    }
    Ok((cards, transcripts))
}

/// The proof of one card: what came of it, whether the connection was lost, and the transcript.
async fn one(
    house: &Arc<House>,
    job: &Job,
    connection: &Connection,
    card: u8,
    claim: &Claim,
) -> Result<(Card, bool, Transcript), String> {
    let secrets = Secrets { nonce: rand::random(), vector: rand::random() };
    let names = (house.id, job.subject);
    let asked = challenge(&job.draw, names, (card, claim), house.params.proof, &house.table, secrets.commitment());
    let transcript = talk(house, connection, asked, secrets).await?;
    job.missing.fetch_sub(1, Ordering::Relaxed);
    if is_sealed(&transcript) == Some(false) {
        return Ok((Card::Absent("it did not sign what it opened".to_owned()), false, transcript));
    }
    let lost = matches!(transcript.end, End::Lost { stage: Some(_) });
    let examined = transcript.clone();
    let verdict = house.compute(move || examined.verify()).await?;
    Ok((judge(&transcript, verdict), lost, transcript))
}

fn judge(transcript: &Transcript, verdict: Verdict) -> Card {
    match verdict {
        Verdict::Pass(measured) => Card::Proved {
            ob: measured.ob,
            took_ms: measured.stage_ms.iter().fold(0, |sum, ms| sum.saturating_add(*ms)),
        },
        Verdict::Fail(fault) if fault.is_provable() => Card::Refuted(fault.to_string()),
        // The work is right: how slow it was is for the committee's median.
        Verdict::Fail(Fault::Slow { .. }) | Verdict::Inconclusive(Gap::Slower { .. }) => slow(transcript),
        Verdict::Fail(fault) => Card::Absent(fault.to_string()),
        Verdict::Inconclusive(gap @ Gap::Lost { .. }) => Card::Absent(gap.to_string()),
        Verdict::Inconclusive(gap) => Card::Unknown(gap.to_string()),
    }
}

fn slow(transcript: &Transcript) -> Card {
    let challenge = &transcript.challenge;
    let way = transcript.timings.latency_ms.min(challenge.scale.latency_ms_max);
    let stage_ms = transcript.timings.stage_ms.map(|ms| ms.saturating_sub(way).max(1));
    let (plan, _) = challenge.plan();
    // The slowest of what was asked for tells what the card is worth.
    let worth = [Stage::Render, Stage::Multiply, Stage::Walk]
        .into_iter()
        .filter(|stage| plan.predicted_ms[stage.index()] >= challenge.scale.target_ms / 50)
        .map(|stage| challenge.worth(&plan, stage, stage_ms[stage.index()]))
        .min();
    let ob = worth.unwrap_or(Ob(0)).min(challenge.rates.most());
    Card::Proved { ob, took_ms: stage_ms.iter().fold(0, |sum, ms| sum.saturating_add(*ms)) }
}

/// Drives the core's conversation over a stream of its own.
async fn talk(
    house: &House,
    connection: &Connection,
    challenge: Challenge,
    secrets: Secrets,
) -> Result<Transcript, String> {
    let opened = connection.open_bi(StreamKind::Audit).await;
    let stream = opened.map_err(|error: NetError| format!("it takes no proof: {error}"))?;
    let (mut reader, mut writer) = stream.framed().split();
    let now = house.clock.stopwatch();
    let (mut session, mut effects) = Session::begin(challenge, secrets, now()).map_err(|error| error.to_string())?;
    let mut wake = now();
    loop {
        for effect in std::mem::take(&mut effects) {
            match effect {
                CheckerEffect::Say(says) => {
                    // What cannot be said is noticed when no answer comes.
                    if let Err(error) = writer.send_within::<CheckerSays>(&says, SEND_WITHIN).await {
                        tracing::debug!(%error, "a Container does not hear its Checker");
                    }
                }
                CheckerEffect::Wake(at) => wake = at,
                CheckerEffect::Done(transcript) => return Ok(*transcript),
            }
        }
        let pause = Duration::from_millis(wake.since(now()));
        let event = tokio::select! {
            said = reader.recv::<ProverSays>() => match said {
                Ok(Some(said)) => CheckerEvent::Said(said),
                Ok(None) | Err(_) => CheckerEvent::Lost,
            },
            () = tokio::time::sleep(pause) => CheckerEvent::Tick,
        };
        let at: TimeMs = now();
        if let Some(rtt) = connection.rtt() {
            let ms = u32::try_from(rtt.as_millis()).unwrap_or(u32::MAX);
            effects.extend(session.handle(CheckerEvent::Latency(ms), at));
        }
        effects.extend(session.handle(event, at));
    }
}

/// Puts the cards together, and keeps the transcript.
fn conclude(house: &House, job: &Job, cards: Vec<Card>, transcripts: Vec<Transcript>) -> Found {
    let (mut ob, mut took_ms) = (Ob(0), 0u32);
    let (mut refuted, mut absent, mut open) = (None, None, None);
    for card in cards {
        match card {
            Card::Proved { ob: one, took_ms: ms } => {
                ob = Ob(ob.0.saturating_add(one.0));
                took_ms = took_ms.max(ms);
            }
            Card::Refuted(why) => refuted = Some(why),
            Card::Absent(why) => absent = Some(why),
            Card::Unknown(why) => open = Some(why),
        }
    }
    if refuted.is_none() {
        if let Some(why) = absent {
            return (Finding::Absent, Some(why));
        }
        if let Some(why) = open {
            return unknown(why);
        }
    }
    let mut shown = SignedTranscript {
        epoch: job.draw.epoch().0,
        checker: house.id,
        container: job.subject,
        cards: transcripts,
        signature: muster_net::Signature64([0; 64]),
    };
    shown.signature = house.secret.sign(TRANSCRIPT, &shown.digest());
    let kept = match shown.bytes() {
        Ok(bytes) => house.keep(Kind::Transcript, &bytes),
        Err(error) => Err(error.to_string()),
    };
    let transcript = match kept {
        Ok(hash) => hash,
        Err(why) => {
            // What cannot be shown cannot be reported.
            warn!(%why, "a transcript cannot be kept");
            return unknown(why);
        }
    };
    match refuted {
        Some(why) => (Finding::Refuted { transcript }, Some(why)),
        None => (Finding::Proved { ob, took_ms, transcript }, None),
    }
}
