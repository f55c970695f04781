//! Signed transfers through JSON-RPC, durable.

use serde_json::json;

use super::Measured;
use super::own::Scratch;
use crate::commands::Context;
use crate::failure::{Because, Code, Failure};

pub(super) async fn run(cx: &Context, transfers: u32) -> Result<Measured, Failure> {
    let scratch = Scratch::new(cx)?;
    cx.output.note(&format!("sending {transfers} transfers …"));
    let count = usize::try_from(transfers).because(Code::Config, "--transfers")?;
    let measured = muster_chain::bench::bench_chain(scratch.path(), count).await.code(Code::Chain);
    scratch.remove()?;
    let found = measured?;
    let rounded = |x: f64| (x * 1_000.0).round() / 1_000.0;
    let figures = json!({
        "transfers_per_second": rounded(found.transfers_per_second),
        "single_ms_p50": rounded(found.single_ms_p50),
        "single_ms_p99": rounded(found.single_ms_p99),
        "blocks": found.blocks,
    });
    Ok(("chain", json!({ "transfers": found.transfers, "durable": true }), figures))
}
