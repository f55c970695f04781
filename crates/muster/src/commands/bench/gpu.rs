//! Speed of this machine's cards by the proof's own kernels.

use muster_core::proof::Scale;
use muster_core::units::ObMs;
use serde_json::{Value, json};

use super::super::gpu::{Asked, DRIVERS_WITHIN, blocking, proven, start};
use super::{Context, Measured};
use crate::calibration;
use crate::commands::container_admin::init::probe_gpus;
use crate::commands::setup::default_ask;
use crate::failure::{Because, Code, Failure};

pub(super) async fn run(cx: &Context, quick: bool) -> Result<Measured, Failure> {
    let table = calibration::table(&cx.dirs)?;
    let serial = table.serial;
    let report = probe_gpus().await;
    let scale = if quick { Scale::development() } else { Scale::production() };
    let rows = blocking(move || {
        let adapters = start()?.adapters(DRIVERS_WITHIN).code(Code::Internal)?;
        // The processor itself counts only where there is nothing better.
        let few = adapters.len() == 1;
        let wanted = adapters.into_iter().filter(|adapter| adapter.vulkan || few);
        let mut rows = Vec::new();
        for adapter in wanted {
            let asked = Asked { adapter: Some(adapter.index), scale, vram: None, epoch: 1, picture: false };
            let row = match proven(&table, &report, &asked) {
                Ok((proven, _, _)) => priced(&proven),
                Err(why) => json!({ "name": adapter.name, "problem": why.to_string() }),
            };
            rows.push(row);
        }
        Ok(rows)
    })
    .await?;
    let fastest = |field: &str| rows.iter().filter_map(|row| row[field].as_f64()).fold(0.0, f64::max);
    let figures = json!({
        "ob_max": fastest("ob"),
        "steps_per_second_max": fastest("steps_per_second"),
        "cards": rows,
    });
    Ok(("gpu", json!({ "quick": quick, "target_ms": scale.target_ms, "calibration_serial": serial }), figures))
}

/// A measured card, with what an hour of it is worth.
fn priced(proven: &super::super::gpu::Proven) -> Value {
    let obh = ObMs::of(proven.ob, 3_600_000).milli_obh() as f64 / 1_000.0;
    json!({
        "name": proven.adapter.name,
        "driver": proven.adapter.driver,
        "known": proven.known,
        "ob": f64::from(proven.ob.0) / 100.0,
        "uncertainty_percent": proven.uncertainty_percent,
        "table_ob": f64::from(proven.table_ob.0) / 100.0,
        "obh_per_hour": obh,
        "usd_per_hour": obh * f64::from(u32::try_from(default_ask().obh.0).unwrap_or(u32::MAX)) / 1e6,
        "steps_per_second": proven.steps_per_second,
        "render_ms": proven.stage_ms[0],
        "multiply_ms": proven.stage_ms[1],
        "fill_ms": proven.stage_ms[2],
        "walk_ms": proven.stage_ms[3],
        "verify_ms": proven.verify_ms,
        "proof_bytes": proven.proof_bytes,
        "verdict": proven.verdict,
    })
}
