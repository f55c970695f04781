//! Draw and settlement of one epoch of a made-up network: outcome, root and published bytes.

use std::sync::Arc;
use std::time::Instant;

use muster_core::epoch::{Draw, EpochNo, EpochParams, Seed};
use muster_core::reward::synthetic::{self, Sizes};
use muster_core::reward::{ChainFacts, Reexecution, RewardParams, State, doubts, settle};
use muster_core::units::TokenAmount;
use serde_json::json;

use super::Measured;
use crate::failure::{Because, Code, Failure};

/// The made-up network is the same on every machine.
const SEED: u64 = 1;
/// Licences that one Checker serves on average.
const LICENCES_EACH: u32 = 10;
/// The first epoch tests everybody and is not measured; the second one is as all later ones are.
const EPOCHS: u64 = 2;

pub(super) async fn run(containers: u32, licences: u32) -> Result<Measured, Failure> {
    tokio::task::spawn_blocking(move || measure(containers, licences))
        .await
        .because(Code::Internal, "the measurement failed")?
}

fn measure(containers: u32, licences: u32) -> Result<Measured, Failure> {
    if containers == 0 || licences == 0 {
        return Err(Failure::new(Code::Config, "--containers and --licences must be above zero"));
    }
    let checkers = licences.div_ceil(LICENCES_EACH);
    let sizes = Sizes { containers, checkers, licences, indexers: 100 };
    let (epochs, rewards) = (EpochParams::production(), RewardParams::production());
    let view = synthetic::view(SEED, sizes, EpochNo(0), TokenAmount::ONE).because(Code::Config, "the network")?;
    let mut state = State::default();
    let mut figures = json!({});
    for epoch in 0..EPOCHS {
        let frozen = Arc::new(state.freeze(view.at(EpochNo(epoch))));
        let begun = Instant::now();
        let draw = Draw::new(frozen, epochs.clone(), Seed([7; 32]));
        let drawn = begun.elapsed().as_secs_f64();
        // What Checkers report is made up, and no part of the measurement.
        let mut bundle = synthetic::bundle(&draw, |a| Some(synthetic::honest(&draw, a)));
        let results: usize =
            bundle.entries.iter().filter_map(|e| e.reveal.as_ref()).map(|r| r.report.results.len()).sum();
        let begun = Instant::now();
        let list = doubts(&draw, &bundle).code(Code::Internal)?;
        let doubted = begun.elapsed().as_secs_f64();
        bundle.reexecuted = list.into_iter().map(|doubt| (doubt, Reexecution::Good)).collect();
        let begun = Instant::now();
        let settled = settle(&state, &draw, &bundle, &ChainFacts::default(), &rewards).code(Code::Internal)?;
        let took = begun.elapsed().as_secs_f64();
        let round = |seconds: f64| (seconds * 1_000.0).round() / 1_000.0;
        figures = json!({
            "seconds": round(drawn + doubted + took),
            "peak_bytes": peak_bytes(),
            "draw_seconds": round(drawn),
            "doubts_seconds": round(doubted),
            "settle_seconds": round(took),
            "results": results,
            "leaves": settled.state.leaves.len(),
            "published_bytes": settled.published.len(),
        });
        state = settled.state;
    }
    let parameters =
        json!({ "containers": containers, "licences": licences, "checkers": checkers, "epochs": EPOCHS, "seed": SEED });
    Ok(("epoch", parameters, figures))
}

/// The most memory that this process ever held, as Linux counts it; 0 where it does not tell.
fn peak_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.and_then(|rest| rest.trim().trim_end_matches("kB").trim().parse::<u64>().ok());
    kib.unwrap_or(0).saturating_mul(1_024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_small_network_is_measured() {
        let (name, parameters, figures) = measure(50, 30).unwrap();
        assert_eq!((name, &parameters["containers"]), ("epoch", &json!(50)));
        assert!(figures["peak_bytes"].as_u64().unwrap() > 1 << 20);
        assert!(figures["leaves"].as_u64().unwrap() >= 50);
        assert!(figures["seconds"].is_f64());
        assert!(measure(0, 1).is_err());
    }
}
