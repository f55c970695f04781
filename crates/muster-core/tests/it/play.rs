//! One proof between two sides in virtual time: a prover that computes on the processor, and whatever it does wrong.

use std::convert::Infallible;

use muster_core::hardware::GpuModel;
use muster_core::ids::{ContentHash, NodeId};
use muster_core::proof::{
    Challenge, Checker, CheckerEffect, CheckerEvent, CheckerSays, Claim, Device, Draw, Openings, Plan, Prover,
    ProverEffect, ProverEvent, ProverSays, Rates, Scale, Seal, Secrets, Stage, Transcript, Work,
};
use muster_core::render::Scene;
use muster_core::units::{Bytes, Ob, TimeMs};

pub(crate) const CONTAINER: NodeId = NodeId([7; 32]);

/// The smallest scale that exercises everything.
pub(crate) fn scale() -> Scale {
    Scale {
        picture_side: 256,
        spp_max: 1,
        bounces: 2,
        product_side_max: 64,
        pad_bytes_max: Bytes(1 << 20),
        chunks_opened: 1,
        walks: 64,
        walk_segments: 2,
        walk_steps: 8,
        segments_opened: 4,
        ..Scale::development()
    }
}

/// A challenge for a card whose claim predicts a second of rendering or so.
pub(crate) fn challenge(secrets: &Secrets, epoch: u64) -> Challenge {
    Challenge {
        version: muster_core::proof::challenge::PROOF_VERSION,
        beacon: [3; 32],
        epoch,
        container: CONTAINER,
        checker: NodeId([9; 32]),
        card: 0,
        claim: Claim { model: GpuModel::new("rtx 4090").unwrap(), ob: Ob::points(100), vram: Bytes(1 << 30) },
        rates: Rates {
            table_ob: Ob::points(100),
            uncertainty_percent: 3,
            steps_per_ob: 150_000,
            products_per_ob: 3_000,
            reads_per_ob: 10,
        },
        scale: scale(),
        commitment: secrets.commitment(),
    }
}

pub(crate) fn secrets(number: u64) -> Secrets {
    let mut nonce = [1; 32];
    nonce[..8].copy_from_slice(&number.to_le_bytes());
    Secrets { nonce, vector: [2; 32] }
}

/// What a prover does besides computing.
pub(crate) struct Manner<'a> {
    /// How long each stage takes.
    pub(crate) stage_ms: [u64; 4],
    /// Says nothing any more from this stage on; 4 is the opening.
    pub(crate) silent_from: usize,
    /// What happens instead of silence.
    pub(crate) instead: Option<CheckerEvent>,
    /// Changes what is opened.
    pub(crate) opens: &'a mut dyn FnMut(&mut Openings, &Draw, &Work),
    /// How long the opening takes.
    pub(crate) opening_ms: u64,
}

/// The times that the claim predicts.
pub(crate) fn as_claimed(plan: &Plan) -> [u64; 4] {
    plan.predicted_ms.map(u64::from)
}

/// Plays a proof to its end.
pub(crate) fn play<D: Device<Error = Infallible>>(
    challenge: &Challenge,
    secrets: Secrets,
    device: &mut D,
    manner: &mut Manner<'_>,
) -> Transcript {
    let mut now = TimeMs(1_000_000);
    let (plan, scene) = challenge.plan();
    let (mut checker, begun) = Checker::begin(challenge.clone(), secrets, now).unwrap();
    let (mut prover, first) = Prover::begin(challenge, &CONTAINER).unwrap();
    let mut work = Work::new(plan);
    let mut wake = begun.iter().find_map(wake_of).unwrap();
    let mut todo = first;
    loop {
        let mut said = Vec::new();
        while let Some(effect) = (!todo.is_empty()).then(|| todo.remove(0)) {
            match effect {
                ProverEffect::Compute { stage, walk_seed } if stage.index() < manner.silent_from => {
                    now = now.plus(manner.stage_ms[stage.index()]);
                    let root = compute(&mut work, device, &scene, stage, &walk_seed);
                    todo.extend(prover.handle(ProverEvent::Computed { stage, root }));
                }
                ProverEffect::Open(draw) if manner.silent_from > 4 => {
                    now = now.plus(manner.opening_ms);
                    let mut openings = work.open::<Infallible>(&draw).unwrap();
                    (manner.opens)(&mut openings, &draw, &work);
                    let seal = seal(&prover, &openings);
                    todo.extend(prover.handle(ProverEvent::Opened { openings: Box::new(openings), seal }));
                }
                ProverEffect::Say(what) => {
                    // Told at once, so that its time counts.
                    let effects = checker.handle(CheckerEvent::Said(what), now);
                    if let Some(transcript) = effects.iter().find_map(done_of) {
                        return transcript;
                    }
                    wake = effects.iter().find_map(wake_of).unwrap_or(wake);
                    said.extend(effects.into_iter().filter_map(say_of));
                }
                ProverEffect::Compute { .. } | ProverEffect::Open(_) | ProverEffect::Done { .. } => {}
            }
        }
        if said.is_empty() {
            let event = manner.instead.take().unwrap_or(CheckerEvent::Tick);
            now = if event == CheckerEvent::Tick { wake } else { now };
            let effects = checker.handle(event, now);
            return effects.iter().find_map(done_of).expect("the wait has an end");
        }
        todo = said.into_iter().flat_map(|said| prover.handle(ProverEvent::Said(said))).collect();
    }
}

/// Stands for a signature; keys are not the core's.
fn seal(prover: &Prover, openings: &Openings) -> Seal {
    Seal(prover.digest(openings), [0; 32])
}

fn compute<D: Device<Error = Infallible>>(
    work: &mut Work,
    device: &mut D,
    scene: &Scene,
    stage: Stage,
    walk_seed: &[u8; 32],
) -> ContentHash {
    work.compute(device, scene, stage, walk_seed).unwrap()
}

fn wake_of(effect: &CheckerEffect) -> Option<TimeMs> {
    if let CheckerEffect::Wake(at) = effect { Some(*at) } else { None }
}

fn say_of(effect: CheckerEffect) -> Option<CheckerSays> {
    if let CheckerEffect::Say(says) = effect { Some(says) } else { None }
}

fn done_of(effect: &CheckerEffect) -> Option<Transcript> {
    if let CheckerEffect::Done(transcript) = effect { Some((**transcript).clone()) } else { None }
}

/// Plays with times as claimed and nothing wrong but the device.
pub(crate) fn play_plainly<D: Device<Error = Infallible>>(
    challenge: &Challenge,
    secrets: Secrets,
    device: &mut D,
) -> Transcript {
    play_opening(challenge, secrets, device, &mut |_, _, _| {})
}

/// Plays with times as claimed and openings changed.
pub(crate) fn play_opening<D: Device<Error = Infallible>>(
    challenge: &Challenge,
    secrets: Secrets,
    device: &mut D,
    opens: &mut dyn FnMut(&mut Openings, &Draw, &Work),
) -> Transcript {
    let stage_ms = as_claimed(&challenge.plan().0);
    let mut manner = Manner { stage_ms, silent_from: 5, instead: None, opens, opening_ms: 1 };
    play(challenge, secrets, device, &mut manner)
}

/// Says something on behalf of nobody in particular.
pub(crate) fn broken(why: &str) -> CheckerEvent {
    CheckerEvent::Said(ProverSays::Broken { why: why.to_owned() })
}
