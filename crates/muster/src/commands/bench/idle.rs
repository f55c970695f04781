//! Memory of an idle network, and how long its second start takes.

use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

use super::Measured;
use super::own::Scratch;
use crate::commands::Context;
use crate::commands::roles::HEALTH_NOTE;
use crate::failure::{Because, Code, Failure};
use crate::serve;

/// The network rests for so long before its memory is looked at.
const REST: Duration = Duration::from_secs(10);
/// It must be ready within this.
const READY_WITHIN: Duration = Duration::from_secs(120);
/// It must have ended within this after it was asked to.
const ENDED_WITHIN: Duration = Duration::from_secs(40);
/// How the line of `muster up` begins that says that it is ready.
const READY: &str = "ready after";

/// What one process holds, in KiB.
#[derive(Clone, Debug)]
struct Held {
    role: String,
    rss_kib: u64,
    pss_kib: u64,
}

pub(super) async fn run(cx: &Context, containers: u16) -> Result<Measured, Failure> {
    if !(1..=64).contains(&containers) {
        return Err(Failure::new(Code::Config, "--containers must be from 1 to 64"));
    }
    let scratch = Scratch::new(cx)?;
    let measured = measure(cx, scratch.path(), containers).await;
    scratch.remove()?;
    let (held, first, second) = measured?;
    let rss_of = |name: &str| held.iter().filter(|h| h.role.starts_with(name)).map(|h| h.rss_kib).max().unwrap_or(0);
    let figures = json!({
        "indexer_rss_mib": mib(rss_of("indexer")),
        "container_rss_mib_max": mib(rss_of("container")),
        "chain_rss_mib": mib(rss_of("chain")),
        "supervisor_rss_mib": mib(rss_of("up")),
        "total_rss_mib": mib(held.iter().map(|h| h.rss_kib).sum()),
        "total_pss_mib": mib(held.iter().map(|h| h.pss_kib).sum()),
        "first_start_s": seconds(first),
        "second_start_s": seconds(second),
        "roles": held.iter().map(|h| json!({ "role": h.role, "rss_mib": mib(h.rss_kib), "pss_mib": mib(h.pss_kib) })).collect::<Value>(),
    });
    Ok(("idle", json!({ "containers": containers, "rest_s": REST.as_secs() }), figures))
}

async fn measure(cx: &Context, dir: &Path, containers: u16) -> Result<(Vec<Held>, Duration, Duration), Failure> {
    cx.output.note("starting a network …");
    let mut up = Up::start(dir, containers)?;
    let first = up.ready().await?;
    up.stop().await?;
    cx.output.note("starting it again …");
    let mut up = Up::start(dir, containers)?;
    let second = up.ready().await?;
    cx.output.note(&format!("letting it rest for {} s …", REST.as_secs()));
    tokio::time::sleep(REST).await;
    let held = up.held(dir, containers).await;
    up.stop().await?;
    Ok((held?, first, second))
}

/// `muster up` as a person starts it; killed if the measurement fails.
struct Up {
    child: Child,
    begun: Instant,
}

impl Up {
    fn start(dir: &Path, containers: u16) -> Result<Self, Failure> {
        let exe = std::env::current_exe().because(Code::Internal, "cannot find this program's own file")?;
        let mut command = Command::new(exe);
        command.arg("--dir").arg(dir).args(["up", "--no-rental", "--containers"]);
        command.arg(containers.to_string()).args(["--rpc-port", "0", "--gateway-port", "0"]);
        for name in ["MUSTER_DIR", "MUSTER_NETWORK", "MUSTER_RPC", "MUSTER_WALLET", "MUSTER_PASSPHRASE_FILE"] {
            command.env_remove(name);
        }
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).kill_on_drop(true);
        let begun = Instant::now();
        let child = command.spawn().because(Code::Internal, "cannot start `muster up`")?;
        Ok(Self { child, begun })
    }

    /// Waits until it says that it is ready; gives the time since it was started.
    async fn ready(&mut self) -> Result<Duration, Failure> {
        let stderr = self.child.stderr.take();
        let Some(stderr) = stderr else {
            return Err(Failure::new(Code::Internal, "`muster up` has no standard error"));
        };
        let mut lines = BufReader::new(stderr).lines();
        let mut last = String::new();
        let wait = async {
            while let Ok(Some(line)) = lines.next_line().await {
                if line.starts_with(READY) {
                    return true;
                }
                last = line;
            }
            false
        };
        let ready = tokio::time::timeout(READY_WITHIN, wait).await.unwrap_or(false);
        let took = self.begun.elapsed();
        if !ready {
            return Err(Failure::new(Code::Unreachable, format!("`muster up` was not ready: {last}")));
        }
        // What it says later must not fill the pipe.
        tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        Ok(took)
    }

    /// What every process of the network holds.
    async fn held(&self, dir: &Path, containers: u16) -> Result<Vec<Held>, Failure> {
        let client =
            reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(5)).build().code(Code::Internal)?;
        let mut roles = vec!["chain".to_owned(), "beacon".to_owned(), "indexer-0".to_owned()];
        roles.extend((0..containers).map(|index| format!("container-{index}")));
        let own = self.child.id().unwrap_or_default();
        let mut all = vec![memory("up", own)?];
        for role in roles {
            let health = serve::ask(&dir.join(&role).join(HEALTH_NOTE), &client).await;
            let pid = health.map(|h| h.pid);
            let pid = pid.ok_or_else(|| Failure::new(Code::Unreachable, format!("{role} does not answer any more")))?;
            all.push(memory(&role, pid)?);
        }
        Ok(all)
    }

    async fn stop(mut self) -> Result<(), Failure> {
        let pid = self.child.id().and_then(|id| i32::try_from(id).ok()).and_then(rustix::process::Pid::from_raw);
        if let Some(pid) = pid {
            rustix::process::kill_process(pid, rustix::process::Signal::TERM)
                .because(Code::Internal, "cannot stop `muster up`")?;
        }
        match tokio::time::timeout(ENDED_WITHIN, self.child.wait()).await {
            Ok(ended) => ended.because(Code::Internal, "`muster up`").map(|_| ()),
            Err(_) => Err(Failure::new(Code::Internal, "`muster up` did not end when it was asked to")),
        }
    }
}

/// Resident and proportional memory of a process.
fn memory(role: &str, pid: u32) -> Result<Held, Failure> {
    let read = |file: &str| {
        let path = format!("/proc/{pid}/{file}");
        std::fs::read_to_string(&path).because(Code::Io, path)
    };
    let rss_kib = field(&read("status")?, "VmRSS:");
    let pss_kib = field(&read("smaps_rollup")?, "Pss:");
    Ok(Held { role: role.to_owned(), rss_kib, pss_kib })
}

/// A line such as `VmRSS:  1234 kB`.
fn field(text: &str, name: &str) -> u64 {
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    line.and_then(|rest| rest.trim().trim_end_matches("kB").trim().parse().ok()).unwrap_or(0)
}

/// MiB to a tenth.
#[allow(clippy::cast_precision_loss, reason = "memory of a process is far below 2^53 KiB")]
fn mib(kib: u64) -> f64 {
    (kib as f64 / 102.4).round() / 10.0
}

fn seconds(time: Duration) -> f64 {
    (time.as_secs_f64() * 1_000.0).round() / 1_000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_of_this_process_is_read() {
        let held = memory("test", std::process::id()).unwrap();
        assert!(held.rss_kib > 0 && held.pss_kib > 0 && held.pss_kib <= held.rss_kib * 2, "{held:?}");
        assert_eq!(field("VmRSS:\t  2048 kB\n", "VmRSS:"), 2_048);
        assert_eq!(mib(2_048), 2.0);
    }
}
