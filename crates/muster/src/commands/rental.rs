//! The first rental: an animation, rendered as an array over the Containers, paid for, joined and accounted for.

use std::path::{Path, PathBuf};
use std::process::Stdio as ProcessStdio;

use muster_chain::settle::ChainClient;
use muster_client::Network;
use muster_client::job::{AttemptReport, Job, JobReport, JobRequest};
use muster_client::rental::Stdio;
use muster_core::demand::Demand;
use muster_core::ids::{Address, NodeId};
use muster_core::lease::Phase;
use muster_core::pricing::Exchange;
use muster_core::units::{Bytes, TokenAmount};
use serde::Serialize;
use tokio::sync::mpsc;

use super::audited::{self, Audit, Caught};
use super::checkers::epoch::now;
use super::{Context, chain_failure, run, setup};
use crate::dirs::make_private;
use crate::failure::{Because, Code, Failure};
use crate::output::{table, tokens};

/// Frames of the animation.
const FRAMES: u32 = 24;
/// The scene, and what renders a frame of it inside the Sandbox.
const SCENE: &str = include_str!("../../../../scene/muster.pov");
const FRAME_SH: &str = include_str!("../../../../scene/frame.sh");
/// Joins the frames on this machine.
const JOIN_SH: &str = include_str!("../../../../scene/join.sh");

/// What that makes: the film, a picture of it, a sheet of some frames.
const JOINED: [&str; 3] = ["animation.mp4", "still.png", "poster.png"];

/// The receipt of the first rental; docs/json.md explains each field. Amounts are in the token's smallest unit.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Receipt {
    leases: Vec<LeaseLine>,
    outputs: Vec<String>,
    balances: Balances,
    totals: Totals,
    /// In which epoch each Container that worked was audited, and what it was rewarded; empty without Checkers.
    audits: Vec<Audit>,
    /// What became of the Container that lies, where there is one.
    pub(super) cheat: Option<Caught>,
}

#[derive(Clone, Debug, Serialize)]
struct LeaseLine {
    id: String,
    task: Option<u32>,
    container: String,
    end: String,
    ran_seconds: f64,
    core_hours: f64,
    obh: f64,
    rate_per_second: String,
    billed: String,
    vouchers: u32,
    redeem_tx: Option<String>,
}

#[derive(Clone, Debug, Serialize)]
struct Balances {
    consumer_before: String,
    consumer_after: String,
    container_before: String,
    container_after: String,
    fee: String,
}

#[derive(Clone, Debug, Serialize)]
struct Totals {
    billed: String,
    billed_usd: String,
    ran_seconds: f64,
    core_hours: f64,
    tasks: usize,
    retries: usize,
}

/// Tokens of all sides at one moment.
#[derive(Clone, Copy, Debug)]
struct Standing {
    consumer: u128,
    containers: u128,
    fees: u128,
}

/// What everybody has: consumers in their wallet, Containers in wallets and in what they can or will be able to claim.
async fn standing(client: &ChainClient, consumer: Address, containers: &[Address]) -> Result<Standing, Failure> {
    let failed = |e| chain_failure(&e);
    let mut all = 0u128;
    for owner in containers {
        let claimable = client.claimable(*owner).await.map_err(failed)?;
        let held = client.token_balance(*owner).await.map_err(failed)?;
        all = all.saturating_add(held.0).saturating_add(claimable.now.0).saturating_add(claimable.pending.0);
    }
    Ok(Standing {
        consumer: client.token_balance(consumer).await.map_err(failed)?.0,
        containers: all,
        fees: client.network_fees().await.map_err(failed)?.0,
    })
}

/// Owners of the Containers of this folder.
fn owners(cx: &Context) -> Result<Vec<Address>, Failure> {
    setup::known_containers(cx).iter().map(|name| setup::container_wallet(cx, name).map(|w| w.address())).collect()
}

/// Rents, renders, joins, and adds up.
pub(super) async fn first(cx: &Context, network: &Network, width: u16) -> Result<Receipt, Failure> {
    let (_, wallet) = crate::wallets::own(&cx.dirs, "consumer")?;
    let consumer = wallet.address();
    let client = ChainClient::connect(&network.chain.rpc, network.chain.id, network.contracts.into())
        .await
        .map_err(|e| chain_failure(&e))?;
    let owners = owners(cx)?;
    let before = standing(&client, consumer, &owners).await?;
    let begun = network.params.epoch.at(now());
    let folder = fresh_folder(cx)?;
    cx.output.note(&format!("first rental: {FRAMES} frames of an animation, a task each, into {}", folder.display()));
    let report = Box::pin(render(cx, wallet, &folder, width)).await?;
    let code = run::exit_code(&report);
    if code != 0 {
        let why = report.tasks.iter().find(|t| !t.succeeded()).map(|t| format!("{:?}", t.outcome)).unwrap_or_default();
        return Err(Failure::new(Code::Interrupted, format!("the animation was not rendered (code {code}): {why}")));
    }
    settled(&report)?;
    let after = standing(&client, consumer, &owners).await?;
    let outputs = join(&folder, &report).await?;
    let mut receipt = receipt(network, &report, before, after, outputs)?;
    let mut worked: Vec<NodeId> = report.leases().filter(|l| l.phase != Phase::Void).map(|l| l.container).collect();
    worked.sort_unstable();
    worked.dedup();
    receipt.audits = audited::audits(cx, network, &worked, begun).await?;
    Ok(receipt)
}

/// Every lease must be closed before balances are compared.
fn settled(report: &JobReport) -> Result<(), Failure> {
    match report.leases().find(|l| !l.phase.is_final()) {
        Some(open) => Err(Failure::new(
            Code::Interrupted,
            format!("lease {} is still {}; `muster lease show {}` tells more", open.lease, open.phase, open.lease),
        )),
        None => Ok(()),
    }
}

/// A folder for this rental's pictures: `rentals/1`, `rentals/2` …
fn fresh_folder(cx: &Context) -> Result<PathBuf, Failure> {
    let root = cx.dirs.at("rentals");
    make_private(&root)?;
    let number = (1u32..).find(|n| !root.join(n.to_string()).exists()).unwrap_or(u32::MAX);
    let folder = root.join(number.to_string());
    make_private(&folder.join("input"))?;
    for (name, text) in [("muster.pov", SCENE), ("frame.sh", FRAME_SH)] {
        let path = folder.join("input").join(name);
        std::fs::write(&path, text).because(Code::Io, path.display())?;
    }
    Ok(folder)
}

async fn render(
    cx: &Context,
    wallet: muster_chain::keys::Wallet,
    folder: &Path,
    width: u16,
) -> Result<JobReport, Failure> {
    let smallest = smallest_offer(cx)?;
    let demand = Demand {
        cpu_millis: smallest.0,
        memory: Bytes(smallest.1.0.min(512 * Bytes::MIB)),
        disk: Bytes(smallest.2.0.min(256 * Bytes::MIB)),
        time_limit_s: 600,
        ..Demand::default()
    };
    let request = JobRequest {
        inputs: vec![folder.join("input").join("muster.pov"), folder.join("input").join("frame.sh")],
        output: Some(folder.join("frames")),
        array: Some(0..=FRAMES - 1),
        env: vec![("MUSTER_SCENE_WIDTH".to_owned(), width.to_string())],
        retries: 5,
        busy_patience: std::time::Duration::from_secs(600),
        ..JobRequest::new(demand, vec!["sh".to_owned(), "frame.sh".to_owned()])
    };
    let renter = cx.renter(Some(wallet)).await?;
    let (events, inbox) = mpsc::channel(1_024);
    let stdio = Box::new(|_task, _attempt| Stdio { out: None, err: None, input: None });
    let job = Job::new(renter.clone(), request, stdio, events).map_err(|e| run::job_failure(&e))?;
    let shown = tokio::spawn(show(cx.output, inbox));
    let report = Box::pin(job.run()).await;
    shown.await.because(Code::Internal, "the progress display failed")?;
    renter.close().await;
    Ok(report)
}

/// Cores, memory and disk of the smallest Container of this folder: a task that fits everywhere.
fn smallest_offer(cx: &Context) -> Result<(u32, Bytes, Bytes), Failure> {
    let mut smallest: Option<(u32, Bytes, Bytes)> = None;
    for name in setup::known_containers(cx) {
        let path = cx.dirs.at(name).join("container.toml");
        if !path.exists() {
            continue;
        }
        let offer = super::roles::container_config(&path)?.offer;
        let this = (offer.cpu_millis, offer.memory, offer.disk);
        smallest = Some(smallest.map_or(this, |s| (s.0.min(this.0), s.1.min(this.1), s.2.min(this.2))));
    }
    smallest.ok_or_else(|| Failure::new(Code::Config, "no Container is configured in this folder"))
}

/// A bar on a terminal, a line every few frames elsewhere.
async fn show(output: crate::output::Output, mut inbox: mpsc::Receiver<muster_client::job::JobEvent>) {
    use muster_client::job::JobStep;
    let bar = if output.shows_progress() {
        indicatif::ProgressBar::new(u64::from(FRAMES))
    } else {
        indicatif::ProgressBar::hidden()
    };
    if let Ok(style) = indicatif::ProgressStyle::with_template("{bar:24} {pos}/{len} frames  {msg}") {
        bar.set_style(style);
    }
    let mut done = 0;
    while let Some(event) = inbox.recv().await {
        match event.step {
            JobStep::Matched { container, .. } => {
                bar.set_message(format!("frame {} on {}", event.task.unwrap_or(0), container.short()))
            }
            JobStep::Retrying { why } => {
                output.note(&format!("frame {}: trying another Container: {why}", event.task.unwrap_or(0)))
            }
            JobStep::Over { .. } => {
                done += 1;
                bar.inc(1);
                if !output.shows_progress() && done % 6 == 0 {
                    output.note(&format!("  {done} of {FRAMES} frames"));
                }
            }
            JobStep::Settling { leases } => {
                output.note(&format!("waiting until the chain has settled {leases} leases that were broken off"));
            }
            JobStep::Matching | JobStep::Waiting { .. } | JobStep::Lease { .. } => {}
        }
    }
    bar.finish_and_clear();
}

/// The film, a still, a sheet of frames, and the frames themselves, by path.
async fn join(folder: &Path, report: &JobReport) -> Result<Vec<String>, Failure> {
    let script = folder.join("join.sh");
    std::fs::write(&script, JOIN_SH).because(Code::Io, script.display())?;
    let done = tokio::process::Command::new("sh")
        .arg(&script)
        .arg(folder.join("frames"))
        .arg(folder)
        .stdin(ProcessStdio::null())
        .output()
        .await
        .because(Code::Missing, "cannot run sh")?;
    if !done.status.success() {
        let why = String::from_utf8_lossy(&done.stderr);
        return Err(Failure::new(Code::Missing, format!("the frames could not be joined: {}", why.trim())));
    }
    let frames = report.tasks.iter().flat_map(|task| &task.outputs).map(|placed| placed.path.clone());
    let frames = frames.filter(|path| path.extension().is_some_and(|e| e == "png"));
    Ok(JOINED.iter().map(|name| folder.join(name)).chain(frames).map(|path| path.display().to_string()).collect())
}

fn line(task: Option<u32>, a: &AttemptReport) -> LeaseLine {
    // Thousandths of a core × milliseconds, shown in core-hours to nine places.
    let core_ms = u128::from(a.allocation.cpu_millis) * u128::from(a.ran_ms);
    LeaseLine {
        id: a.lease.to_string(),
        task,
        container: a.container.to_string(),
        end: a.end.as_ref().map(ToString::to_string).unwrap_or_default(),
        ran_seconds: seconds(a.ran_ms),
        core_hours: core_hours(core_ms),
        // No card was rented: the animation is rendered on cores.
        obh: 0.0,
        rate_per_second: a.rate_per_second.0.to_string(),
        billed: a.billed.0.to_string(),
        vouchers: a.vouchers,
        redeem_tx: a.redeem_tx.clone(),
    }
}

/// Milliseconds as seconds.
fn seconds(ms: u64) -> f64 {
    std::time::Duration::from_millis(ms).as_secs_f64()
}

/// Thousandths of a core × milliseconds as core-hours, to nine places.
fn core_hours(core_ms: u128) -> f64 {
    decimal(core_ms * 1_000_000_000 / (1_000 * 3_600_000), 9).parse().unwrap_or(f64::NAN)
}

/// An integer with so many of its digits behind the point.
fn decimal(value: u128, places: usize) -> String {
    let scale = 10u128.pow(u32::try_from(places).unwrap_or(0));
    format!("{}.{:0places$}", value / scale, value % scale)
}

fn receipt(
    network: &Network,
    report: &JobReport,
    before: Standing,
    after: Standing,
    outputs: Vec<String>,
) -> Result<Receipt, Failure> {
    let billed = report.billed();
    let lost = before.consumer.saturating_sub(after.consumer);
    let gained = after.containers.saturating_sub(before.containers);
    let fee = after.fees.saturating_sub(before.fees);
    if lost != billed.0 || billed.0 != fee.saturating_add(gained) {
        let why = format!(
            "the accounts do not add up: the consumer lost {lost}, {} were billed, the Containers gained {gained} and the network {fee}",
            billed.0
        );
        return Err(Failure::new(Code::Internal, why));
    }
    let leases: Vec<LeaseLine> = report
        .tasks
        .iter()
        .flat_map(|t| t.attempts.iter().filter(|a| a.phase != Phase::Void).map(|a| line(t.index, a)))
        .collect();
    let core_ms: u128 = report.leases().map(|a| u128::from(a.allocation.cpu_millis) * u128::from(a.ran_ms)).sum();
    let usd = Exchange { token_price: network.params.token_price }.worth(billed).code(Code::Config)?;
    Ok(Receipt {
        totals: Totals {
            billed: billed.0.to_string(),
            billed_usd: decimal(u128::from(usd.0), 6),
            ran_seconds: seconds(report.ran_ms()),
            core_hours: core_hours(core_ms),
            tasks: report.tasks.len(),
            retries: leases.len().saturating_sub(report.tasks.len()),
        },
        leases,
        outputs,
        audits: Vec::new(),
        cheat: None,
        balances: Balances {
            consumer_before: before.consumer.to_string(),
            consumer_after: after.consumer.to_string(),
            container_before: before.containers.to_string(),
            container_after: after.containers.to_string(),
            fee: fee.to_string(),
        },
    })
}

/// The receipt for people.
pub(super) fn receipt_text(receipt: &Receipt) -> String {
    let amount = |text: &str| tokens(TokenAmount(text.parse().unwrap_or(0)));
    let rows = receipt
        .leases
        .iter()
        .map(|l| {
            vec![
                l.task.map(|t| t.to_string()).unwrap_or_default(),
                l.container.chars().take(8).collect(),
                format!("{:.3}", l.ran_seconds),
                format!("{:.9}", l.core_hours),
                amount(&l.billed),
                l.vouchers.to_string(),
                l.redeem_tx.as_ref().map(|t| t.chars().take(12).collect()).unwrap_or_default(),
            ]
        })
        .collect();
    let b = &receipt.balances;
    let audits = audited::text(&receipt.audits, receipt.cheat.as_ref());
    format!(
        "{}\n\n{} tasks ran {} in all ({} core-hours) and cost {} (${}).\n\n  consumer    {} -> {}\n  Containers  {} -> {} (in wallets and claimable)\n  network fee {}\n{audits}\n{}",
        table(&["frame", "container", "seconds", "core-hours", "billed", "vouchers", "redeemed in"], rows),
        receipt.totals.tasks,
        format_args!("{:.1} s", receipt.totals.ran_seconds),
        receipt.totals.core_hours,
        amount(&receipt.totals.billed),
        receipt.totals.billed_usd,
        amount(&b.consumer_before),
        amount(&b.consumer_after),
        amount(&b.container_before),
        amount(&b.container_after),
        amount(&b.fee),
        receipt.outputs.iter().take(JOINED.len()).cloned().collect::<Vec<_>>().join("\n"),
    )
}
