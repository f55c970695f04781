//! Leases opened, vouchered and closed through real sockets, with empty workloads.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use muster_client::Renter;
use muster_client::job::{Job, JobRequest, TaskOutcome};
use muster_client::rental::Stdio;
use muster_core::demand::Demand;
use muster_core::units::Bytes;
use serde_json::json;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::own::OwnNetwork;
use super::{Measured, ms, per_second, percentile};
use crate::commands::Context;
use crate::commands::setup::Plan;
use crate::failure::{Because, Code, Failure};

/// Containers of the network.
const CONTAINERS: u16 = 2;
/// The command that a Container with `allow_empty` ends at once, without a Sandbox.
const EMPTY: &str = "muster:empty";
/// What each Container says it has, so that capacity is not what is measured.
const CPU_MILLIS_EACH: u32 = 1_000_000;
/// How long a deposit lasts, in seconds.
const DEPOSIT_SECONDS: u64 = 60;

pub(super) async fn run(cx: &Context, leases: u32, concurrency: u32) -> Result<Measured, Failure> {
    if leases == 0 || concurrency == 0 || concurrency > 1_000 {
        return Err(Failure::new(Code::Config, "--leases must be above zero and --concurrency from 1 to 1000"));
    }
    let plan = Plan { containers: CONTAINERS, listen: None, allow_empty: true, cpu_millis_each: Some(CPU_MILLIS_EACH) };
    let network = OwnNetwork::start(cx, &plan).await?;
    cx.output.note(&format!("renting {leases} times, {concurrency} at a time …"));
    let measured = measure(&network.renter, leases, concurrency).await;
    network.stop().await?;
    let (took, times) = measured?;
    let figures = json!({
        "leases_per_second": per_second(times.len(), took),
        "p50_ms": ms(percentile(&times, 50)),
        "p90_ms": ms(percentile(&times, 90)),
        "p99_ms": ms(percentile(&times, 99)),
        "seconds": (took.as_secs_f64() * 1_000.0).round() / 1_000.0,
    });
    let parameters = json!({ "leases": leases, "concurrency": concurrency, "containers": CONTAINERS, "indexers": 1 });
    Ok(("lease", parameters, figures))
}

/// The whole time, and the sorted times from each request to its closing on the chain.
async fn measure(renter: &Renter, leases: u32, concurrency: u32) -> Result<(Duration, Vec<Duration>), Failure> {
    // Connections, allowances and caches are there before the clock runs.
    many(renter, concurrency, concurrency).await?;
    let begun = Instant::now();
    let mut times = many(renter, leases, concurrency).await?;
    let took = begun.elapsed();
    times.sort_unstable();
    Ok((took, times))
}

async fn many(renter: &Renter, leases: u32, concurrency: u32) -> Result<Vec<Duration>, Failure> {
    let begun = Arc::new(AtomicU32::new(0));
    let mut workers = JoinSet::new();
    for _ in 0..concurrency.min(leases) {
        let (renter, begun) = (renter.clone(), Arc::clone(&begun));
        workers.spawn(async move {
            let mut times = Vec::new();
            while begun.fetch_add(1, Ordering::Relaxed) < leases {
                times.push(one(&renter).await?);
            }
            Ok::<_, Failure>(times)
        });
    }
    let mut all = Vec::new();
    while let Some(done) = workers.join_next().await {
        all.extend(done.because(Code::Internal, "the measurement failed")??);
    }
    Ok(all)
}

async fn one(renter: &Renter) -> Result<Duration, Failure> {
    let demand = Demand {
        cpu_millis: 10,
        memory: Bytes(4 * Bytes::MIB),
        disk: Bytes(4 * Bytes::MIB),
        time_limit_s: DEPOSIT_SECONDS,
        ..Demand::default()
    };
    let request = JobRequest { keep_logs: false, ..JobRequest::new(demand, vec![EMPTY.to_owned()]) };
    // Nobody watches the steps.
    let (events, _) = mpsc::channel(1);
    let begun = Instant::now();
    let job = Job::new(renter.clone(), request, Box::new(|_, _| Stdio::default()), events).code(Code::Internal)?;
    let report = job.run().await;
    let took = begun.elapsed();
    if report.succeeded() && report.leases().all(|l| l.phase.is_final()) {
        return Ok(took);
    }
    let why = report.tasks.first().map_or_else(
        || "it has no task".to_owned(),
        |task| match &task.outcome {
            TaskOutcome::Failed(error) => error.to_string(),
            outcome => format!("{outcome:?}"),
        },
    );
    Err(Failure::new(Code::Internal, format!("a lease of the measurement failed: {why}")))
}
