//! Leases opened, vouchered and closed through real sockets, with empty workloads.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use muster_client::Renter;
use muster_client::job::{Job, JobRequest, TaskOutcome};
use muster_client::rental::Stdio;
use muster_core::demand::Demand;
use muster_core::units::Bytes;
use serde_json::{Value, json};
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
/// Leases before the clock runs, at least.
const WARM_UP: u32 = 64;
/// How long a deposit lasts, in seconds.
const DEPOSIT_SECONDS: u64 = 60;

pub(super) async fn run(cx: &Context, leases: u32, concurrency: u32) -> Result<Measured, Failure> {
    if leases == 0 || concurrency == 0 || concurrency > 1_000 {
        return Err(Failure::new(Code::Config, "--leases must be above zero and --concurrency from 1 to 1000"));
    }
    let plan = Plan {
        containers: CONTAINERS,
        checkers: 0,
        cheat: None,
        listen: None,
        allow_empty: true,
        cpu_millis_each: Some(CPU_MILLIS_EACH),
        gateway_port: 0,
    };
    let network = Box::pin(OwnNetwork::start(cx, &plan)).await?;
    cx.output.note(&format!("renting {leases} times, {concurrency} at a time …"));
    let measured = measure(&network, leases, concurrency).await;
    network.stop().await?;
    let Measures { took, times, cpu } = measured?;
    let each = |spent: Duration| ms(spent.div_f64(f64::from(leases)));
    let roles = cpu.iter().map(|(role, spent)| json!({ "role": role, "cpu_ms_per_lease": each(*spent) }));
    let figures = json!({
        "leases_per_second": per_second(times.len(), took),
        "p50_ms": ms(percentile(&times, 50)),
        "p90_ms": ms(percentile(&times, 90)),
        "p99_ms": ms(percentile(&times, 99)),
        "seconds": (took.as_secs_f64() * 1_000.0).round() / 1_000.0,
        "cpu_ms_per_lease": each(cpu.iter().map(|(_, spent)| *spent).sum()),
        "roles": roles.collect::<Value>(),
    });
    let parameters = json!({ "leases": leases, "concurrency": concurrency, "containers": CONTAINERS, "indexers": 1 });
    Ok(("lease", parameters, figures))
}

struct Measures {
    /// The whole time.
    took: Duration,
    /// The times from each request to its closing on the chain, the shortest first.
    times: Vec<Duration>,
    /// What each process has spent on a core meanwhile.
    cpu: Vec<(String, Duration)>,
}

async fn measure(network: &OwnNetwork, leases: u32, concurrency: u32) -> Result<Measures, Failure> {
    // Connections, allowances and caches are there before the clock runs.
    many(&network.renter, concurrency.max(WARM_UP), concurrency).await?;
    let (before, begun) = (network.cpu(), Instant::now());
    let mut times = many(&network.renter, leases, concurrency).await?;
    let took = begun.elapsed();
    let cpu = network.cpu().into_iter().zip(before);
    let cpu = cpu.map(|((role, after), (_, before))| (role, after.saturating_sub(before))).collect();
    times.sort_unstable();
    Ok(Measures { took, times, cpu })
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
