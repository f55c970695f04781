//! Watching over a running job: limits that must be measured, the order to end, and the clearing up.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader, Take};
use tokio::net::unix::pipe::Receiver;
use tokio::process::Child;
use tokio::time::{MissedTickBehavior, interval, timeout};

use super::cgroup::Counters;
use super::egress::Uplink;
use super::error::chain;
use super::init::Report;
use super::job::{JobEnd, JobUsage, Shared};
use super::spec::SandboxLimits;
use super::{Inner, system};

/// How often the counters are looked at while a job runs.
const LOOK_INTERVAL: Duration = Duration::from_millis(250);
/// How long the last report may take after bubblewrap has ended; it lies in the pipe already.
const LAST_REPORT_WAIT: Duration = Duration::from_secs(1);
const REPORT_BYTES_MAX: u64 = 64 << 10;
/// Files counted when a folder is measured; a job with more is treated as one that has filled its disk.
const MEASURED_FILES_MAX: usize = 1_000_000;
/// A measurement may take at most this share of the time between two of them.
const MEASURE_SHARE: u32 = 5;

/// The helper's reports, line by line.
#[derive(Debug)]
pub(super) struct Reports {
    lines: BufReader<Take<Receiver>>,
    partial: Vec<u8>,
}

impl Reports {
    pub(super) fn new(pipe: Receiver) -> Self {
        Self { lines: BufReader::new(pipe.take(REPORT_BYTES_MAX)), partial: Vec::new() }
    }

    /// The next report; `None` when there are no more. Safe to drop and call again.
    pub(super) async fn next(&mut self) -> Option<Report> {
        match self.lines.read_until(b'\n', &mut self.partial).await {
            Ok(0) | Err(_) => None,
            Ok(_) => {
                let line = std::mem::take(&mut self.partial);
                serde_json::from_slice(&line).ok()
            }
        }
    }
}

/// Why the supervisor itself ended the job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    OutOfMemory,
    DiskFull,
}

/// Owns a running job until its last trace is gone.
#[derive(Debug)]
pub(super) struct Supervisor {
    pub(super) inner: Arc<Inner>,
    pub(super) shared: Arc<Shared>,
    pub(super) child: Child,
    pub(super) reports: Reports,
    pub(super) uplink: Option<Uplink>,
    pub(super) limits: SandboxLimits,
    pub(super) data: PathBuf,
    pub(super) watch_disk: bool,
}

impl Supervisor {
    pub(super) async fn run(mut self) {
        let verdict = self.watch().await;
        // Bubblewrap has ended, so the process namespace is gone; the group is emptied all the same before it is removed.
        drop(self.uplink.take());
        let shared = Arc::clone(&self.shared);
        let cleared = system::blocking(move || {
            let counters = shared.cgroup.counters();
            let usage = JobUsage { cpu_ns: counters.cpu_ns, memory_peak_bytes: counters.memory_peak_bytes };
            // Only the supervisor sets it, once.
            let _ = shared.final_usage.set(usage);
            shared.cgroup.end().map(|()| counters).or_else(|error| {
                tracing::warn!(job = %shared.id, error = %chain(&error), "a control group stays until the next recovery");
                Ok(counters)
            })
        })
        .await;
        let counters = cleared.unwrap_or_default();
        let report = self.last_report().await;
        let end = self.judge(verdict, report, &counters);
        tracing::debug!(job = %self.shared.id, %end, "job ended");
        self.shared.ended.send_replace(Some(end));
        // Held until here so that the launching thread, whose end would kill the job, outlives it.
        drop(self.inner);
    }

    /// Waits for the end, and brings it about where a limit or an order demands it.
    async fn watch(&mut self) -> Option<Verdict> {
        let mut look = interval(LOOK_INTERVAL);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut next_measure = Instant::now();
        let mut verdict = None;
        let mut killed = false;
        loop {
            tokio::select! {
                biased;
                ended = self.child.wait() => {
                    if let Err(error) = ended {
                        tracing::warn!(job = %self.shared.id, %error, "bubblewrap cannot be waited for");
                    }
                    return verdict;
                }
                () = self.shared.kill.notified(), if !killed => {
                    killed = true;
                    self.kill_all().await;
                }
                _ = look.tick(), if !killed => {
                    verdict = self.look(&mut next_measure).await;
                    if verdict.is_some() {
                        killed = true;
                        self.kill_all().await;
                    }
                }
            }
        }
    }

    /// Looks at what only measuring tells.
    async fn look(&self, next_measure: &mut Instant) -> Option<Verdict> {
        if self.shared.cgroup.counters().oom_kills > 0 {
            return Some(Verdict::OutOfMemory);
        }
        if !self.watch_disk || Instant::now() < *next_measure {
            return None;
        }
        let (data, begun) = (self.data.clone(), Instant::now());
        let used = system::blocking(move || Ok(used_bytes(&data))).await.ok()?;
        *next_measure = Instant::now() + begun.elapsed() * MEASURE_SHARE;
        (used > self.limits.disk_bytes).then_some(Verdict::DiskFull)
    }

    async fn kill_all(&mut self) {
        let shared = Arc::clone(&self.shared);
        let killed = system::blocking(move || {
            shared.cgroup.signal(rustix::process::Signal::KILL);
            Ok(())
        })
        .await;
        // Bubblewrap takes its whole process namespace with it.
        if let Err(error) =
            killed.map_err(|error| chain(&error)).and(self.child.start_kill().map_err(|e| e.to_string()))
        {
            tracing::warn!(job = %self.shared.id, %error, "the job could not be killed at once");
        }
    }

    async fn last_report(&mut self) -> Option<Report> {
        let mut last = None;
        while let Ok(Some(report)) = timeout(LAST_REPORT_WAIT, self.reports.next()).await {
            last = Some(report);
            if !matches!(last, Some(Report::Running)) {
                break;
            }
        }
        last
    }

    fn judge(&self, verdict: Option<Verdict>, report: Option<Report>, counters: &Counters) -> JobEnd {
        let limit_bytes = self.limits.disk_bytes;
        let out_of_memory = JobEnd::OutOfMemory { limit_bytes: self.limits.memory_bytes };
        if let Some(Report::Exited { code: 0 }) = report {
            return JobEnd::Exited { code: 0 };
        }
        match verdict {
            Some(Verdict::OutOfMemory) => return out_of_memory,
            Some(Verdict::DiskFull) => return JobEnd::DiskFull { limit_bytes, code: None },
            None => {}
        }
        let code = if let Some(Report::Exited { code }) = report { Some(code) } else { None };
        if code.is_none()
            && let Some(reason) = self.shared.kill_reason.get()
        {
            return JobEnd::Killed { reason: reason.clone() };
        }
        if counters.oom_kills > 0 {
            return out_of_memory;
        }
        if is_full(&self.data, self.watch_disk, limit_bytes) {
            return JobEnd::DiskFull { limit_bytes, code };
        }
        if counters.processes_refused > 0 {
            return JobEnd::ProcessLimit { processes_max: self.limits.processes_max, code };
        }
        match report {
            Some(Report::Exited { code }) => JobEnd::Exited { code },
            Some(Report::Signaled { signal }) => JobEnd::Signaled { signal },
            Some(Report::CompanionEnded { reason }) => JobEnd::CompanionEnded { reason },
            Some(Report::NotStarted { reason }) => JobEnd::FailedToStart { reason },
            Some(Report::SetupFailed { reason }) => JobEnd::SetupFailed { reason },
            Some(Report::Running) | None => {
                JobEnd::SetupFailed { reason: "the sandbox ended without saying how the command ended".into() }
            }
        }
    }
}

/// Whether the work folder has no room left: less than a thousandth of it or than 64 KiB, or no file more.
fn is_full(data: &Path, watched: bool, limit_bytes: u64) -> bool {
    let little = (limit_bytes / 1000).max(64 << 10);
    if watched {
        return used_bytes(data).saturating_add(little) >= limit_bytes;
    }
    rustix::fs::statvfs(data)
        .is_ok_and(|stat| stat.f_bavail.saturating_mul(stat.f_frsize) <= little || stat.f_favail == 0)
}

/// What a folder takes on the disk; hard links count once, nothing is followed. A folder of absurdly many files counts as
/// endless.
pub(super) fn used_bytes(root: &Path) -> u64 {
    let (mut used, mut seen) = (0_u64, 0_usize);
    let mut linked = BTreeSet::new();
    let mut pending = vec![root.to_path_buf()];
    while let Some(folder) = pending.pop() {
        // Files vanish while the job works; what cannot be looked at is not counted now.
        for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
            let Ok(meta) = entry.metadata() else { continue };
            seen += 1;
            if seen > MEASURED_FILES_MAX {
                return u64::MAX;
            }
            if meta.is_dir() {
                pending.push(entry.path());
            } else if meta.nlink() > 1 && !linked.insert((meta.dev(), meta.ino())) {
                continue;
            }
            used = used.saturating_add(meta.blocks().saturating_mul(512));
        }
    }
    used
}
