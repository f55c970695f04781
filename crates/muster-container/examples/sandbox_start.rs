//! Prints how long a job of the program `true` takes in the Sandbox, from nothing to nothing left, step by step.
//!
//! `cargo run -p muster-container --example sandbox_start -- [RUNS]`, as root for the file system image.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use muster_container::sandbox::{
    JobId, JobSpec, SANDBOX_INIT, Sandbox, SandboxConfig, SandboxLimits, sandbox_init_main,
};

#[allow(clippy::print_stdout, reason = "printing is what this example is for")]
fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args_os().skip(1).peekable();
    if args.peek().is_some_and(|first| first == SANDBOX_INIT) {
        sandbox_init_main(args.skip(1));
    }
    let runs: usize = args.next().and_then(|text| text.to_str().and_then(|text| text.parse().ok())).unwrap_or(50);
    let state = tempfile::tempdir()?;
    let sandbox = Sandbox::new(SandboxConfig::new(state.path())?)?;
    for finding in &sandbox.capabilities().findings {
        println!("{finding}");
    }
    let steps = tokio::runtime::Runtime::new()?.block_on(measure(&sandbox, runs))?;
    for (name, mut times) in ["prepare", "start", "run", "remove", "all"].into_iter().zip(steps) {
        times.sort();
        let at = |share: usize| times[(times.len() * share / 100).min(times.len() - 1)].as_secs_f64() * 1e3;
        println!("{name:8} p50 {:7.2} ms   p99 {:7.2} ms", at(50), at(99));
    }
    Ok(())
}

async fn measure(sandbox: &Sandbox, runs: usize) -> Result<[Vec<Duration>; 5], Box<dyn std::error::Error>> {
    let limits = SandboxLimits {
        cpu_millis: 1000,
        memory_bytes: 256 << 20,
        disk_bytes: 1 << 30,
        processes_max: 64,
        open_files_max: 256,
    };
    let spec = JobSpec {
        command: vec!["true".into()],
        env: BTreeMap::new(),
        egress: false,
        limits,
        stdin: false,
        devices: Vec::new(),
        display: None,
        over: None,
        lent: Vec::new(),
    };
    let mut steps: [Vec<Duration>; 5] = Default::default();
    for run in 0..runs.max(1) {
        let begun = Instant::now();
        let work = sandbox.prepare(&JobId::new(format!("run-{run}"))?, limits.disk_bytes).await?;
        let prepared = Instant::now();
        let job = sandbox.start(&work, spec.clone()).await?;
        let started = Instant::now();
        let end = job.wait().await;
        let ended = Instant::now();
        work.remove().await?;
        let removed = Instant::now();
        if !end.is_success() {
            return Err(end.to_string().into());
        }
        let marks = [begun, prepared, started, ended, removed];
        for (step, pair) in steps.iter_mut().zip(marks.windows(2)) {
            step.push(pair[1] - pair[0]);
        }
        steps[4].push(removed - begun);
    }
    Ok(steps)
}
