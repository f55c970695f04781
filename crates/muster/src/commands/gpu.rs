//! `muster gpu`: cards, and proving what they are.

use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use muster_core::calibration::Table;
use muster_core::hardware::GpuModel;
use muster_core::ids::NodeId;
use muster_core::proof::{Challenge, Claim, Scale, Seal, Secrets, Transcript, Verdict};
use muster_core::units::{Bytes, Ob};
use muster_gpu::{Adapter, CardProver, GpuReport};
use serde::Serialize;

use super::Context;
use super::container_admin::init::probe_gpus;
use crate::calibration;
use crate::cli::{GpuCommand, GpuProveArgs};
use crate::failure::{Because, Code, Failure};
use crate::output::table;

/// How long drivers may take to list and to open their cards.
pub(super) const DRIVERS_WITHIN: Duration = Duration::from_secs(60);
/// What software proves of the processor's memory, unless told otherwise.
const SOFTWARE_VRAM: Bytes = Bytes(64 << 20);

/// Runs one of the commands.
pub(super) async fn run(cx: &Context, command: GpuCommand) -> Result<u8, Failure> {
    match command {
        GpuCommand::List => list(cx).await.map(|()| 0),
        GpuCommand::Prove(args) => prove(cx, args).await,
        GpuCommand::SignCalibration { table, key } => sign(cx, &table, &key).map(|()| 0),
    }
}

/// A picture: its side, and red, green, blue of each pixel.
type Picture = (u32, Vec<u8>);

/// One adapter as `list` tells of it.
#[derive(Debug, Serialize)]
struct Listed {
    adapter: Adapter,
    vram_bytes: u64,
    table_ob: Ob,
    uncertainty_percent: u8,
    known: bool,
}

async fn list(cx: &Context) -> Result<(), Failure> {
    let known = calibration::table(&cx.dirs)?;
    let report = probe_gpus().await;
    let adapters = blocking(|| start()?.adapters(DRIVERS_WITHIN).code(Code::Internal)).await?;
    let mut rows = Vec::new();
    for adapter in adapters {
        let model = model(&adapter)?;
        let found = known.find(&model);
        rows.push(Listed {
            vram_bytes: vram(&adapter, &report).0,
            table_ob: found.rates.table_ob,
            uncertainty_percent: found.rates.uncertainty_percent,
            known: found.card.is_some(),
            adapter,
        });
    }
    cx.output.result(&serde_json::json!({ "adapters": rows, "calibration_serial": known.serial }), || {
        let lines = rows.iter().map(|row| {
            let worth = if row.known {
                format!("{} ± {} %", row.table_ob, row.uncertainty_percent)
            } else {
                "not in the table: measured carefully".to_owned()
            };
            let memory = if row.vram_bytes == 0 { String::new() } else { Bytes(row.vram_bytes).to_string() };
            vec![row.adapter.index.to_string(), row.adapter.name.clone(), memory, row.adapter.driver.clone(), worth]
        });
        table(&["adapter", "name", "memory", "driver", "calibration"], lines.collect())
    });
    Ok(())
}

/// What a proof said, for programs.
#[derive(Debug, Serialize)]
pub(super) struct Proven {
    pub(super) adapter: Adapter,
    pub(super) model: GpuModel,
    pub(super) known: bool,
    pub(super) table_ob: Ob,
    pub(super) claimed_ob: Ob,
    /// What was measured; 0 where the proof did not pass.
    pub(super) ob: Ob,
    pub(super) uncertainty_percent: u8,
    pub(super) verdict: String,
    pub(super) passed: bool,
    pub(super) steps_per_second: u64,
    pub(super) stage_ms: [u32; 4],
    pub(super) picture_side: u32,
    pub(super) samples_per_pixel: u32,
    pub(super) product_side: u32,
    pub(super) pad_bytes: u64,
    pub(super) proof_bytes: usize,
    pub(super) verify_ms: u64,
    pub(super) transcript: String,
}

/// What to prove.
#[derive(Clone, Debug)]
pub(super) struct Asked {
    pub(super) adapter: Option<u32>,
    pub(super) scale: Scale,
    pub(super) vram: Option<Bytes>,
    pub(super) epoch: u64,
    pub(super) picture: bool,
}

/// Measures an adapter, has it prove what was measured, and verifies that; the picture as well, where it is asked for.
pub(super) fn proven(
    known: &Table,
    report: &GpuReport,
    asked: &Asked,
) -> Result<(Proven, Transcript, Option<Picture>), Failure> {
    let mut prover = start()?;
    let adapters = prover.adapters(DRIVERS_WITHIN).code(Code::Internal)?;
    let index = asked.adapter.unwrap_or(0);
    let count = adapters.len();
    let adapter = adapters.into_iter().find(|adapter| adapter.index == index).ok_or_else(|| {
        Failure::new(
            Code::NotFound,
            format!("there is no adapter {index} here, only {count}: `muster gpu list` shows them"),
        )
    })?;
    prover.open(index, DRIVERS_WITHIN).code(Code::Internal)?;
    let model = model(&adapter)?;
    let found = known.find(&model);
    let secrets = Secrets { nonce: rand::random(), vector: rand::random() };
    let claim = Claim { model: model.clone(), ob: Ob(1), vram: asked.vram.unwrap_or_else(|| vram(&adapter, report)) };
    let challenge = Challenge {
        version: muster_core::proof::challenge::PROOF_VERSION,
        beacon: rand::random(),
        epoch: asked.epoch,
        container: NodeId([1; 32]),
        checker: NodeId([2; 32]),
        card: u8::try_from(index).unwrap_or(u8::MAX),
        claim,
        rates: found.rates,
        scale: asked.scale,
        commitment: secrets.commitment(),
    };
    let challenge = muster_gpu::measure(&mut prover, challenge).code(Code::Internal)?;
    // This machine asks itself: there is nobody whom a signature would convince.
    let seal = |_: &[u8; 32]| Seal([0; 32], [0; 32]);
    let transcript = muster_gpu::prove_locally(&mut prover, &challenge, secrets, &seal).code(Code::Internal)?;
    let begun = Instant::now();
    let verdict = transcript.verify();
    let verify_ms = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
    let picture = if asked.picture { Some(prover.picture(DRIVERS_WITHIN).code(Code::Internal)?) } else { None };
    let (plan, _) = challenge.plan();
    let (ob, steps_per_second, stage_ms) = match &verdict {
        Verdict::Pass(measured) => (measured.ob, measured.steps_per_second, measured.stage_ms),
        Verdict::Fail(_) | Verdict::Inconclusive(_) => (Ob(0), 0, transcript.timings.stage_ms),
    };
    let proven = Proven {
        adapter,
        model,
        known: found.card.is_some(),
        table_ob: found.rates.table_ob,
        claimed_ob: challenge.claim.ob,
        ob,
        uncertainty_percent: found.rates.uncertainty_percent,
        verdict: verdict.to_string(),
        passed: matches!(verdict, Verdict::Pass(_)),
        steps_per_second,
        stage_ms,
        picture_side: plan.picture_side,
        samples_per_pixel: plan.spp,
        product_side: plan.product_side,
        pad_bytes: u64::from(plan.chunks) * muster_core::proof::challenge::CHUNK_BYTES,
        proof_bytes: transcript.bytes().len(),
        verify_ms,
        transcript: transcript.hash().to_string(),
    };
    Ok((proven, transcript, picture))
}

async fn prove(cx: &Context, args: GpuProveArgs) -> Result<u8, Failure> {
    let known = calibration::table(&cx.dirs)?;
    let report = probe_gpus().await;
    let scale = if args.quick { Scale::development() } else { Scale::production() };
    let asked = Asked { adapter: args.adapter, scale, vram: args.vram, epoch: args.epoch, picture: args.out.is_some() };
    let (proven, _, picture) = blocking(move || proven(&known, &report, &asked)).await?;
    if let (Some(path), Some((side, rgb))) = (&args.out, &picture) {
        muster_gpu::write_png(path, *side, rgb).code(Code::Io)?;
    }
    cx.output.result(&proven, || text(&proven, args.out.as_deref()));
    Ok(if proven.passed { 0 } else { Code::Unproven as u8 })
}

fn text(proven: &Proven, out: Option<&Path>) -> String {
    let p = proven;
    let [render, multiply, fill, walk] = p.stage_ms;
    let mut text = format!(
        "{} ({})\n  {}\n  render    {render} ms: {} × {} pixels, {} samples each, {:.1} million steps a second\n  \
         multiply  {multiply} ms: {} × {} modulo 2^31 - 1\n  fill      {fill} ms: {} \n  walk      {walk} ms\n  \
         verified  {} ms on one core; the proof has {} bytes; transcript {}",
        p.adapter.name,
        if p.adapter.vulkan { p.adapter.driver.as_str() } else { "no driver" },
        p.verdict,
        p.picture_side,
        p.picture_side,
        p.samples_per_pixel,
        p.steps_per_second as f64 / 1e6,
        p.product_side,
        p.product_side,
        Bytes(p.pad_bytes),
        p.verify_ms,
        p.proof_bytes,
        p.transcript.get(..16).unwrap_or_default(),
    );
    if !p.known {
        text.push_str("\n  the model is not in the calibration table: it is measured carefully, never too high");
    }
    if let Some(path) = out {
        text.push_str(&format!("\n  picture   {}", path.display()));
    }
    text
}

fn sign(cx: &Context, table: &Path, key: &Path) -> Result<(), Failure> {
    let text = calibration::read(table)?;
    let secret = issuer_key(key)?;
    let (signature, issuer) = muster_wire::calibration::sign(&text, &secret).because(Code::Config, table.display())?;
    let path = table.with_extension("sig");
    std::fs::write(&path, signature).because(Code::Io, path.display())?;
    let issuer = NodeId(issuer);
    cx.output.result(&serde_json::json!({ "signature": path, "issuer": issuer }), || {
        format!("{} signed by {issuer}", path.display())
    });
    Ok(())
}

/// The issuer's secret key: 64 hex digits in a file of its owner's.
fn issuer_key(path: &Path) -> Result<[u8; 32], Failure> {
    if !path.exists() {
        let secret = NodeId(rand::random());
        let mut options = std::fs::OpenOptions::new();
        let mut file = options.write(true).create_new(true).mode(0o600).open(path).because(Code::Io, path.display())?;
        writeln!(file, "{secret}").because(Code::Io, path.display())?;
        return Ok(secret.0);
    }
    let digits = calibration::read(path)?;
    digits.trim().parse::<NodeId>().map(|secret| secret.0).because(Code::Wallet, path.display())
}

/// Starts a prover of this program.
pub(super) fn start() -> Result<CardProver, Failure> {
    let exe = std::env::current_exe().because(Code::Internal, "this program's own file")?;
    CardProver::start(&exe, &[]).code(Code::Internal)
}

/// Runs what waits for drivers beside the runtime.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Failure> + Send + 'static,
) -> Result<T, Failure> {
    tokio::task::spawn_blocking(work).await.because(Code::Internal, "the prover")?
}

/// The model that an adapter's name says; software drivers and the processor have names that no table knows.
fn model(adapter: &Adapter) -> Result<GpuModel, Failure> {
    let short: String = adapter.name.chars().take(48).collect();
    GpuModel::new(&short).or_else(|_| GpuModel::new("unknown")).code(Code::Internal)
}

/// The memory of an adapter: a card's own as its driver reports it, else a little of the processor's.
fn vram(adapter: &Adapter, report: &GpuReport) -> Bytes {
    let place = |gpu: &muster_gpu::GpuDevice| gpu.pci.map(|pci| pci.to_string());
    let card = report.gpus.iter().find(|gpu| !adapter.pci.is_empty() && place(gpu).as_deref() == Some(&adapter.pci));
    let card = card.or_else(|| report.gpus.iter().find(|gpu| gpu.name == adapter.name));
    card.map_or(SOFTWARE_VRAM, |gpu| Bytes(gpu.vram_bytes))
}
