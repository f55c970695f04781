//! Proofs that Checkers set each other, some of them bad: who does not compute does not see which.

use std::sync::Arc;
use std::time::Duration;

use muster_core::calibration::Table;
use muster_core::epoch::Draw;
use muster_core::hardware::GpuModel;
use muster_core::ids::{ContentHash, NodeId};
use muster_core::proof::challenge::PROOF_VERSION;
use muster_core::proof::{
    Challenge, Claim, Device, Draw as Drawn, End, Plan, Rendering, Scale, Secrets, Stage, Timings, Transcript, Work,
};
use muster_core::render::{Scene, Tally, Tile};
use muster_core::reward::Finding;
use muster_core::units::{Bytes, Ob};
use muster_net::evidence::want;
use muster_net::verify;
use muster_wire::WireMessage;
use muster_wire::message::audit::{SetProof, Wanted};

use super::{Found, Job, unknown};
use crate::evidence::Kind;
use crate::examine::{SET_PROOF, is_right};
use crate::node::House;

/// Between two tries to get the proof.
const RETRY: Duration = Duration::from_millis(500);
/// In a bad proof one of so many tiles is wrong: whoever computes only a few of the opened ones may miss them all.
const WRONG_TILE_OF: u32 = 8;

/// Gets the proof that was set, verifies it, and reports what came of it.
pub(super) async fn recheck(house: &Arc<House>, job: &Job) -> Found {
    let nth = job.assignment.task.nth;
    let bytes = loop {
        let wanted = Wanted::SetProof { epoch: job.draw.epoch().0, nth };
        let got = match house.connect(job.subject).await {
            Ok(connection) => want(&connection, wanted, len_max()).await.map_err(|error| error.to_string()),
            Err(error) => Err(error.to_string()),
        };
        match got {
            Ok(bytes) => break bytes,
            Err(why) if job.left(house.clock.now()) <= RETRY.saturating_mul(2) => {
                return unknown(format!("the Checker that sets it does not give it: {why}"));
            }
            Err(_) => tokio::time::sleep(RETRY).await,
        }
    };
    let set = match SetProof::from_bytes(&bytes) {
        Ok(set) => set,
        Err(error) => return unknown(format!("the Checker that sets it gave something else: {error}")),
    };
    let named = (set.epoch, set.setter, set.checker, set.nth) == (job.draw.epoch().0, job.subject, house.id, nth);
    if !named || verify(job.subject, SET_PROOF, &set.digest(), &set.signature).is_err() {
        return unknown("the proof that was set is for somebody else, or not signed by who sets it");
    }
    let proof = match house.keep(Kind::Transcript, &bytes) {
        Ok(hash) => hash,
        Err(why) => return unknown(why),
    };
    match house.compute(move || is_right(&set.proof)).await {
        Ok(good) => (Finding::Rechecked { good, proof }, None),
        Err(why) => unknown(why),
    }
}

fn len_max() -> u64 {
    u64::try_from(<SetProof as WireMessage>::MAX_LEN).unwrap_or(u64::MAX)
}

/// The smallest work that has every part of a proof.
fn smallest() -> Scale {
    Scale {
        picture_side: muster_core::proof::plan::PROOF_SIDE_MIN,
        spp_max: 1,
        bounces: 2,
        tiles_opened: 64,
        product_side_max: 64,
        product_entries_opened: 256,
        pad_bytes_max: Bytes(1 << 20),
        chunks_opened: 1,
        walks: 64,
        walk_segments: 4,
        walk_steps: 8,
        segments_opened: 4,
        ..Scale::development()
    }
}

/// Makes the proof that a Checker sets for another one. Takes a part of a second of one core; `bad` follows from the
/// setter's secret.
pub(crate) fn set_proof(
    draw: &Draw,
    secret: &[u8; 32],
    (setter, checker): (NodeId, NodeId),
    nth: u16,
    bad: bool,
    table: &Table,
) -> Result<SetProof, String> {
    let keyed = |what: &str| {
        let mut hasher = blake3::Hasher::new_keyed(secret);
        hasher.update(what.as_bytes()).update(&checker.0).update(&nth.to_be_bytes());
        *hasher.finalize().as_bytes()
    };
    let secrets = Secrets { nonce: keyed("nonce"), vector: keyed("vector") };
    let model = GpuModel::new("processor").map_err(|error| error.to_string())?;
    let rates = table.find(&model).rates;
    let challenge = Challenge {
        version: PROOF_VERSION,
        beacon: draw.seed().0,
        epoch: draw.epoch().0,
        container: NodeId::ZERO,
        checker: setter,
        card: 0,
        claim: Claim { model, ob: Ob(1), vram: Bytes(1 << 20) },
        rates,
        scale: smallest(),
        commitment: secrets.commitment(),
    };
    challenge.check().map_err(|error| error.to_string())?;
    let (plan, scene) = challenge.plan();
    let mut work = Work::new(plan);
    let mut device = setting(bad);
    let mut roots: Vec<ContentHash> = Vec::new();
    let mut walk_seed = [0; 32];
    for stage in Stage::ALL {
        if let (Stage::Walk, Some(fill)) = (stage, roots.get(Stage::Fill.index())) {
            walk_seed = muster_core::proof::transcript::walk_seed(&secrets, &plan.seed, fill);
        }
        roots.push(work.compute(&mut device, &scene, stage, &walk_seed).map_err(|error| error.to_string())?);
    }
    let drawn = Drawn::new(&plan, &secrets.nonce, &roots);
    let openings = work.open::<core::convert::Infallible>(&drawn).map_err(|error| error.to_string())?;
    let timings = Timings { latency_ms: 0, stage_ms: plan.predicted_ms.map(|ms| ms.max(1)) };
    let proof = Transcript {
        challenge,
        roots,
        walk_seed,
        timings,
        secrets,
        openings: Some(openings),
        seal: None,
        end: End::Opened,
    };
    let signature = muster_net::Signature64([0; 64]);
    Ok(SetProof { epoch: draw.epoch().0, setter, checker, nth, proof, signature })
}

/// Renders as it should be done; where a bad proof is wanted, with a single bit of a single pixel wrong in some tiles: only
/// who computes such a tile sees it.
fn setting(bad: bool) -> impl Device<Error = core::convert::Infallible> {
    Rendering::new(move |scene: &Scene, plan: &Plan, tiles: &mut dyn FnMut(&Tile)| {
        let mut tally = Tally::default();
        for at in 0..plan.tiles() {
            let mut tile = scene.tile(plan.picture_side, plan.spp, plan.bounces, at, &mut tally);
            if bad && at % WRONG_TILE_OF == 0 {
                tile[17][0] ^= 1;
            }
            tiles(&tile);
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use muster_core::epoch::{EpochNo, EpochParams, RegistryView, Seed};

    #[test]
    fn only_who_computes_sees_which_proof_is_bad() {
        let view = RegistryView::new(EpochNo(7), EpochNo(1), vec![], vec![], vec![], vec![]).unwrap();
        let draw = Draw::new(Arc::new(view), EpochParams::development(), Seed([3; 32]));
        let make = |bad| {
            let names = (NodeId([1; 32]), NodeId([2; 32]));
            set_proof(&draw, &[9; 32], names, 0, bad, &crate::view::tests::table()).unwrap()
        };
        let (good, bad) = (make(false), make(true));
        assert!(is_right(&good.proof));
        assert!(!is_right(&bad.proof));
        assert_eq!(make(false), good, "asked twice, the same is set");
        let shape = |set: &SetProof| set.proof.openings.as_ref().map(|o| o.tiles.leaves.len());
        assert_eq!(shape(&good), shape(&bad));
        assert_eq!(SetProof::from_bytes(&bad.bytes().unwrap()).unwrap(), bad);
    }
}
