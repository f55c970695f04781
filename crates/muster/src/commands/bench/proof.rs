//! What verifying a proof costs at production's parameters, on one core.
//!
//! Nobody has to prove for it: parts that are not opened do not matter to who verifies, so their places in the trees are
//! filled with other hashes, and only what is opened is computed. The draw is one without the roots for the same reason.

use std::time::{Duration, Instant};

use muster_core::epoch::EpochParams;
use muster_core::hardware::GpuModel;
use muster_core::ids::{ContentHash, NodeId};
use muster_core::proof::memory::{Pad, WalkKeys};
use muster_core::proof::merkle::{Tree, leaf_hash};
use muster_core::proof::multiply::Matrices;
use muster_core::proof::{
    Challenge, Claim, Draw, Leaf, Opening, Openings, Plan, ProverSays, Scale, Seal, Secrets, Stage, transcript,
};
use muster_core::render::{Scene, Tally};
use muster_core::units::{Bytes, Ob};
use serde_json::json;

use super::{Measured, ms, percentile};
use crate::failure::{Because, Code, Failure};

/// The card whose claim is verified.
const MODEL: &str = "RTX 4090";
/// Its memory.
const VRAM: Bytes = Bytes(24 << 30);
const WALK_SEED: [u8; 32] = [6; 32];

pub(super) async fn run(proofs: u32) -> Result<Measured, Failure> {
    if proofs == 0 {
        return Err(Failure::new(Code::Config, "--proofs must be above zero"));
    }
    tokio::task::spawn_blocking(move || measure(proofs)).await.because(Code::Internal, "the measurement failed")?
}

/// What one proof showed.
struct One {
    verify: Duration,
    /// Processor time of everything that was opened, computed the prover's way, and of the whole.
    prove_core: Duration,
    bytes: usize,
    peak_bytes: u64,
    steps_per_second: f64,
    plan: Plan,
}

fn measure(proofs: u32) -> Result<Measured, Failure> {
    let table = muster_wire::calibration::built_in().code(Code::Internal)?;
    let model = GpuModel::new(MODEL).code(Code::Internal)?;
    let rates = table.find(&model).rates;
    let mut all = Vec::new();
    for number in 0..proofs {
        let secrets = Secrets { nonce: *blake3::hash(&number.to_le_bytes()).as_bytes(), vector: [2; 32] };
        let challenge = Challenge {
            version: muster_core::proof::challenge::PROOF_VERSION,
            beacon: [3; 32],
            epoch: number.into(),
            container: NodeId([1; 32]),
            checker: NodeId([2; 32]),
            card: 0,
            claim: Claim { model: model.clone(), ob: rates.table_ob, vram: VRAM },
            rates,
            scale: Scale::production(),
            commitment: secrets.commitment(),
        };
        all.push(one(&challenge, &secrets)?);
    }
    let mut times: Vec<Duration> = all.iter().map(|one| one.verify).collect();
    times.sort_unstable();
    let verify = percentile(&times, 50);
    let median = |value: fn(&One) -> f64| {
        let mut values: Vec<f64> = all.iter().map(value).collect();
        values.sort_by(f64::total_cmp);
        values.get(values.len() / 2).copied().unwrap_or(0.0)
    };
    let prove_core_s = median(|one| one.prove_core.as_secs_f64());
    let prove_card_s = median(|one| one.plan.predicted_ms.iter().map(|ms| f64::from(*ms)).sum::<f64>() / 1_000.0);
    let Some(plan) = all.first().map(|one| one.plan) else { return Err(Failure::new(Code::Internal, "no proof")) };
    let figures = json!({
        "verify_ms_p50": ms(verify),
        "verify_ms_max": ms(percentile(&times, 100)),
        "proof_bytes": all.iter().map(|one| one.bytes).max(),
        "verify_peak_bytes": all.iter().map(|one| one.peak_bytes).max(),
        "verify_over_prove": verify.as_secs_f64() / prove_core_s,
        "prove_core_s_extrapolated": (prove_core_s * 10.0).round() / 10.0,
        "prove_card_s_extrapolated": prove_card_s,
        "checked_percent": checked_percent(prove_card_s, |epoch| epoch.audit_bps),
        "checked_percent_watched": checked_percent(prove_card_s, |epoch| epoch.audit_watched_bps),
        "core_steps_per_second": median(|one| one.steps_per_second).round(),
    });
    let parameters = json!({
        "model": MODEL, "claimed_ob": points(rates.table_ob), "vram_bytes": VRAM.0, "proofs": proofs, "cores": 1,
        "picture_side": plan.picture_side, "samples_per_pixel": plan.spp, "tiles": plan.tiles(),
        "tiles_opened": plan.tiles_opened, "product_side": plan.product_side, "rows_opened": plan.rows_opened,
        "pad_chunks": plan.chunks, "chunks_opened": plan.chunks_opened, "walks": plan.walks,
        "segments_opened": plan.segments_opened, "segment_reads": plan.walk_steps,
        "calibration_serial": table.serial, "calibration_uncertainty_percent": rates.uncertainty_percent,
    });
    Ok(("proof", parameters, figures))
}

/// How much of its time a Container's card spends on being tested, at production's parameters: each seat of its committee
/// asks for a proof of its own. Questions whether it lives cost a frame a minute each, and are left out.
fn checked_percent(prove_s: f64, share_bps: impl Fn(&EpochParams) -> u16) -> f64 {
    let epoch = EpochParams::production();
    let at_least = u128::from(epoch.epoch_ms) * 10_000 / u128::from(epoch.full_test_within_ms.max(1));
    let share = f64::from(share_bps(&epoch).max(u16::try_from(at_least).unwrap_or(10_000))) / 10_000.0;
    let epoch_s = Duration::from_millis(epoch.epoch_ms).as_secs_f64();
    (share * f64::from(epoch.committee_seats) * prove_s / epoch_s * 10_000.0).round() / 100.0
}

fn points(ob: Ob) -> f64 {
    f64::from(ob.0) / 100.0
}

/// Builds a proof in which all that is opened is true, then verifies it.
fn one(challenge: &Challenge, secrets: &Secrets) -> Result<One, Failure> {
    let (plan, scene) = challenge.plan();
    let draw = Draw::new(&plan, &secrets.nonce, &[]);
    let (openings, roots, prove_core, steps_per_second) = build(&plan, &scene, &draw)?;
    let says = ProverSays::Openings { openings: Box::new(openings.clone()), seal: Seal([0; 32], [0; 32]) };
    let bytes = muster_wire::frame::encode(&says).because(Code::Internal, "the proof cannot be sent")?.len();
    drop((says, scene));
    forget_peak();
    let begun = Instant::now();
    // From the challenge on: a Checker makes the scene as well.
    let (plan, scene) = challenge.plan();
    openings.check(&plan, &draw, &roots).code(Code::Internal)?;
    transcript::recompute(&plan, &scene, secrets, &WALK_SEED, &draw, &openings).code(Code::Internal)?;
    Ok(One { verify: begun.elapsed(), peak_bytes: status("VmHWM"), prove_core, bytes, steps_per_second, plan })
}

type Built = (Openings, [ContentHash; 4], Duration, f64);

fn build(plan: &Plan, scene: &Scene, draw: &Draw) -> Result<Built, Failure> {
    let mut tally = Tally::default();
    let begun = Instant::now();
    let tile = |index: u32, tally: &mut Tally| {
        let tile = scene.tile(plan.picture_side, plan.spp, plan.bounces, index, tally);
        tile.iter().flatten().flat_map(|word| word.to_le_bytes()).collect::<Vec<u8>>()
    };
    let tiles: Vec<_> = draw.tiles.iter().map(|index| (*index, tile(*index, &mut tally))).collect();
    let render = begun.elapsed();
    let matrices = Matrices::new(&plan.seed, plan.product_side);
    let begun = Instant::now();
    let row = |index: u32| matrices.row(index).into_iter().flat_map(u32::to_le_bytes).collect::<Vec<u8>>();
    let rows: Vec<_> = draw.rows.iter().map(|index| (*index, row(*index))).collect();
    let multiply = begun.elapsed();
    let pad = Pad::new(&plan.seed, plan.chunks);
    let begun = Instant::now();
    let chunks: Vec<_> = draw.chunks.iter().map(|index| (*index, pad.chunk_leaf(*index))).collect();
    let fill = begun.elapsed();
    let keys = WalkKeys::new(&WALK_SEED);
    let walk = |(walk, segment): (u32, u32)| {
        let mut states = vec![0; plan.walk_segments as usize + 1];
        states[0] = keys.start(walk);
        let end = pad.segment(keys, walk, segment, plan.walk_steps, states[segment as usize]);
        states[segment as usize + 1] = end;
        (walk, states.into_iter().flat_map(u32::to_le_bytes).collect::<Vec<u8>>())
    };
    let walks: Vec<_> = draw.segments.iter().copied().map(walk).collect();
    let whole = |part: Duration, of: usize, count: u32| part.as_secs_f64() * f64::from(count) / of.max(1) as f64;
    // Walks cost a prover that holds the pad next to nothing on a core.
    let prove = whole(render, tiles.len(), plan.tiles())
        + whole(multiply, rows.len(), plan.product_side)
        + whole(fill, chunks.len(), plan.chunks);
    let steps_per_second = tally.steps as f64 / render.as_secs_f64();
    let (tiles, a) = opening(plan.tiles(), tiles)?;
    let (rows, b) = opening(plan.product_side, rows)?;
    let (chunks, c) = opening(plan.chunks, chunks)?;
    let (walks, d) = opening(plan.walks, walks)?;
    let openings = Openings { tiles, rows, chunks, walks, hint: vec![0; 48] };
    let mut roots = [a; 4];
    roots[Stage::Multiply.index()] = b;
    roots[Stage::Fill.index()] = c;
    roots[Stage::Walk.index()] = d;
    Ok((openings, roots, Duration::from_secs_f64(prove), steps_per_second))
}

/// A tree whose other leaves are anything, and these leaves opened.
fn opening(count: u32, leaves: Vec<(u32, Vec<u8>)>) -> Result<(Opening, ContentHash), Failure> {
    let mut hashes: Vec<[u8; 32]> = (0..count).map(|index| leaf_hash(index, &[])).collect();
    for (index, data) in &leaves {
        hashes[*index as usize] = leaf_hash(*index, data);
    }
    let tree = Tree::new(hashes).ok_or_else(|| Failure::new(Code::Internal, "a tree without leaves"))?;
    let indices: Vec<u32> = leaves.iter().map(|(index, _)| *index).collect();
    let path = tree.path(&indices).code(Code::Internal)?;
    let leaves = leaves.into_iter().map(|(index, data)| Leaf { index, data }).collect();
    Ok((Opening { leaves, path }, tree.root()))
}

/// The most memory that this process held while it verified; what it held before counts too, so that the figure is a bound.
fn forget_peak() {
    // Sets the system's own high-water mark back; where it cannot, the mark of the whole run stays, which is more.
    let _ = std::fs::write("/proc/self/clear_refs", "5");
}

fn status(line: &str) -> u64 {
    let text = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let value = text.lines().find_map(|have| have.strip_prefix(line)?.strip_prefix(':'));
    let kib = value.and_then(|value| value.trim().trim_end_matches("kB").trim().parse::<u64>().ok());
    kib.unwrap_or(0).saturating_mul(1_024)
}
