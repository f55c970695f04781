//! A whole proof between a Checker and a prover on this machine, by the real clock: how a card is measured.

use std::time::{Duration, Instant};

use muster_core::proof::{
    Challenge, ChallengeError, Checker, CheckerEffect, CheckerEvent, Plan, Prover, ProverEffect, ProverEvent, Seal,
    Secrets, Stage, Transcript,
};
use muster_core::units::TimeMs;

use crate::prove::{CardProver, ProveError};

/// Why there is no transcript.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LocalError {
    /// The challenge is none.
    #[error(transparent)]
    Challenge(#[from] ChallengeError),
    /// The prover failed.
    #[error(transparent)]
    Prove(#[from] ProveError),
    /// The two sides stopped talking: an error of ours.
    #[error("the proof came to no end")]
    Stuck,
}

/// How long a stage may take before its child counts as hung: far beyond any deadline, which is the Checker's business.
fn patience(plan: &Plan) -> Duration {
    let longest = plan.deadline_ms.into_iter().max().unwrap_or(0);
    Duration::from_millis(u64::from(longest).saturating_mul(2))
        .clamp(Duration::from_secs(60), Duration::from_secs(3_600))
}

/// How much work a card does in a time, found by rendering ever larger pictures: the challenge's own kernel. Gives the
/// challenge with a claim that is as much as was measured.
///
/// # Errors
/// [`LocalError`].
pub fn measure(prover: &mut CardProver, mut challenge: Challenge) -> Result<Challenge, LocalError> {
    // Each round asks at most 64 times as much as the one before; from a thousandth of a point to any card they suffice.
    const ROUNDS: usize = 6;
    challenge.claim.ob.0 = 1;
    for _ in 0..ROUNDS {
        challenge.check()?;
        let (plan, _) = challenge.plan();
        prover.begin(&challenge, patience(&plan))?;
        let (_, took_ms) = prover.compute(Stage::Render, [0; 32], patience(&plan))?;
        let worth = challenge.worth(&plan, Stage::Render, took_ms).0.clamp(1, challenge.rates.most().0.max(1));
        let done = took_ms.saturating_mul(2) >= challenge.scale.target_ms || worth <= challenge.claim.ob.0;
        challenge.claim.ob.0 = worth.min(challenge.claim.ob.0.saturating_mul(64));
        if done {
            break;
        }
    }
    Ok(challenge)
}

/// Plays one proof to its end.
///
/// # Errors
/// [`LocalError`] when the child cannot go on after the draw; before it the transcript tells of the interruption.
pub fn prove_locally(
    prover: &mut CardProver,
    challenge: &Challenge,
    secrets: Secrets,
    seal: &dyn Fn(&[u8; 32]) -> Seal,
) -> Result<Transcript, LocalError> {
    let begun = Instant::now();
    let now = || TimeMs(u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX));
    let (plan, _) = challenge.plan();
    let within = patience(&plan);
    prover.begin(challenge, within)?;
    let (mut checker, _) = Checker::begin(challenge.clone(), secrets, now())?;
    let _ = checker.handle(CheckerEvent::Latency(0), now());
    let (mut side, mut todo) = Prover::begin(challenge, &challenge.container)?;
    // Four roots, a walk, a draw and an opening: a bound for a conversation of two honest programs.
    for _ in 0..32 {
        let mut next = Vec::new();
        for effect in todo {
            let event = match effect {
                ProverEffect::Compute { stage, walk_seed } => match prover.compute(stage, walk_seed, within) {
                    Ok((root, _)) => ProverEvent::Computed { stage, root },
                    Err(why) => ProverEvent::Failed { why: why.to_string() },
                },
                ProverEffect::Open(draw) => {
                    let openings = Box::new(prover.open_draw(&draw, within)?);
                    let seal = seal(&side.digest(&openings));
                    ProverEvent::Opened { openings, seal }
                }
                ProverEffect::Say(said) => {
                    for effect in checker.handle(CheckerEvent::Said(said), now()) {
                        match effect {
                            CheckerEffect::Done(transcript) => return Ok(*transcript),
                            CheckerEffect::Say(said) => next.extend(side.handle(ProverEvent::Said(said))),
                            CheckerEffect::Wake(_) => {}
                        }
                    }
                    continue;
                }
                ProverEffect::Done { .. } => continue,
            };
            next.extend(side.handle(event));
        }
        todo = next;
    }
    Err(LocalError::Stuck)
}
