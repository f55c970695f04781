//! `true` from request to exit, through the real Sandbox of a Container that is warm.

use std::time::{Duration, Instant};

use muster_client::Renter;
use muster_client::job::{Job, JobRequest, JobStep, TaskOutcome};
use muster_client::rental::{RentalEvent, Stdio};
use muster_core::demand::Demand;
use muster_core::units::Bytes;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::own::OwnNetwork;
use super::{Measured, ms, percentile};
use crate::commands::Context;
use crate::commands::setup::Plan;
use crate::failure::{Because, Code, Failure};

/// Jobs before the clock counts.
const WARM_UP: u32 = 3;
/// What each job rents, as `muster run` does without flags.
const MEMORY: Bytes = Bytes(512 * Bytes::MIB);
const DISK: Bytes = Bytes(Bytes::GIB);

/// When a job's steps were seen, from the request on.
#[derive(Clone, Copy, Debug, Default)]
struct Steps {
    /// A Container holds a slot.
    matched: Duration,
    /// The escrow holds the deposit.
    opened: Duration,
    /// The workload reports running.
    running: Duration,
    /// The exit is known.
    exited: Duration,
    /// The chain has closed the lease.
    settled: Duration,
}

pub(super) async fn run(cx: &Context, jobs: u32) -> Result<Measured, Failure> {
    if jobs == 0 {
        return Err(Failure::new(Code::Config, "--jobs must be above zero"));
    }
    let network = Box::pin(OwnNetwork::start(cx, &Plan::single())).await?;
    cx.output.note(&format!("running {jobs} jobs, one after the other …"));
    let measured = measure(&network.renter, jobs).await;
    network.stop().await?;
    let all = measured?;
    let sorted = |step: fn(&Steps) -> Duration| {
        let mut times: Vec<Duration> = all.iter().map(step).collect();
        times.sort_unstable();
        times
    };
    let exited = sorted(|s| s.exited);
    let p50 = |step| ms(percentile(&sorted(step), 50));
    let figures: Value = json!({
        "p50_ms": ms(percentile(&exited, 50)),
        "p90_ms": ms(percentile(&exited, 90)),
        "p99_ms": ms(percentile(&exited, 99)),
        "matched_p50_ms": p50(|s| s.matched),
        "opened_p50_ms": p50(|s| s.opened),
        "running_p50_ms": p50(|s| s.running),
        "settled_p50_ms": p50(|s| s.settled),
    });
    let parameters = json!({
        "jobs": jobs,
        "command": "true",
        "containers": 1,
        "memory_bytes": MEMORY.0,
        "disk_bytes": DISK.0,
    });
    Ok(("job", parameters, figures))
}

async fn measure(renter: &Renter, jobs: u32) -> Result<Vec<Steps>, Failure> {
    for _ in 0..WARM_UP {
        one(renter).await?;
    }
    let mut all = Vec::new();
    for _ in 0..jobs {
        all.push(one(renter).await?);
    }
    Ok(all)
}

async fn one(renter: &Renter) -> Result<Steps, Failure> {
    let demand = Demand { memory: MEMORY, disk: DISK, time_limit_s: 60, ..Demand::default() };
    let request = JobRequest::new(demand, vec!["true".to_owned()]);
    let (events, mut told) = mpsc::channel(256);
    let begun = Instant::now();
    let job = Job::new(renter.clone(), request, Box::new(|_, _| Stdio::default()), events).code(Code::Internal)?;
    let watch = async {
        let mut steps = Steps::default();
        while let Some(event) = told.recv().await {
            let now = begun.elapsed();
            match event.step {
                JobStep::Matched { .. } => steps.matched = now,
                JobStep::Lease { event: RentalEvent::Opened, .. } => steps.opened = now,
                JobStep::Lease { event: RentalEvent::Running, .. } => steps.running = now,
                JobStep::Lease { event: RentalEvent::Ended { .. }, .. } => steps.exited = now,
                JobStep::Lease { event: RentalEvent::Settled { .. }, .. } => steps.settled = now,
                _ => {}
            }
        }
        steps
    };
    let (report, steps) = tokio::join!(job.run(), watch);
    if report.succeeded() && steps.exited > Duration::ZERO {
        return Ok(steps);
    }
    let why = report.tasks.first().map_or_else(
        || "it has no task".to_owned(),
        |task| match &task.outcome {
            TaskOutcome::Failed(error) => error.to_string(),
            outcome => format!("{outcome:?}"),
        },
    );
    Err(Failure::new(Code::Internal, format!("a job of the measurement failed: {why}")))
}
