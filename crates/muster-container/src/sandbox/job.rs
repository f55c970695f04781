//! A running job, and how jobs end.

use std::fmt;
use std::sync::{Arc, OnceLock};

use rustix::process::Signal;
use serde::{Deserialize, Serialize};
use tokio::net::unix::pipe;
use tokio::sync::{Notify, watch};

use super::cgroup::JobCgroup;
use super::display::DisplayEnds;
use super::spec::JobId;

/// Writes to the job's standard input; waits while the job does not read. Dropping it is end-of-file.
pub type StdinWriter = pipe::Sender;
/// Reads what the job writes; while nobody reads, the job waits once the pipe (64 KiB) is full.
pub type StdoutReader = pipe::Receiver;

/// How a job ended; its text is the sentence a consumer reads.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "end", rename_all = "snake_case")]
pub enum JobEnd {
    /// The command ended by itself.
    Exited {
        /// Its exit code, 0 to 255.
        code: i32,
    },
    /// The command was ended by a signal that did not come from the Container.
    Signaled {
        /// The signal's number.
        signal: i32,
    },
    /// A process of the job was killed because the memory limit was reached; the others were ended with it.
    OutOfMemory {
        /// The limit.
        limit_bytes: u64,
    },
    /// The job failed with its work folder full.
    DiskFull {
        /// The limit.
        limit_bytes: u64,
        /// The command's own exit code, when it ended by itself.
        code: Option<i32>,
    },
    /// The job failed after it was refused another process.
    ProcessLimit {
        /// The limit.
        processes_max: u32,
        /// The command's own exit code, when it ended by itself.
        code: Option<i32>,
    },
    /// A program that the job needs beside its command ended: its display, its sound. The job could have ended it.
    CompanionEnded {
        /// Which, and its last words.
        reason: String,
    },
    /// The Container ended the job.
    Killed {
        /// Why: as given to [`JobHandle::kill`].
        reason: String,
    },
    /// The command could not be run.
    FailedToStart {
        /// Why, and what to do.
        reason: String,
    },
    /// The Sandbox could not be built, or broke.
    SetupFailed {
        /// What failed; the provider's to mend.
        reason: String,
    },
}

impl JobEnd {
    /// The exit code that stands for this end, in the way of shells: the command's own where there is one, 128 and the
    /// signal's number, 137 for a job killed at a limit or by the Container, 127 and 125 for one that never ran.
    #[must_use]
    pub fn exit_code(&self) -> i32 {
        match self {
            Self::Exited { code } => *code,
            Self::Signaled { signal } => 128 + signal,
            Self::DiskFull { code, .. } | Self::ProcessLimit { code, .. } => code.unwrap_or(137),
            Self::OutOfMemory { .. } | Self::Killed { .. } => 137,
            Self::FailedToStart { .. } => 127,
            Self::SetupFailed { .. } | Self::CompanionEnded { .. } => 125,
        }
    }

    /// Whether the command ended by itself with code 0.
    #[must_use]
    pub fn is_success(&self) -> bool {
        *self == Self::Exited { code: 0 }
    }
}

impl fmt::Display for JobEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let code_text = |code: &Option<i32>| code.map_or_else(String::new, |code| format!(" (exit code {code})"));
        match self {
            Self::Exited { code } => write!(f, "the job ended with exit code {code}"),
            Self::Signaled { signal } => match signal_name(*signal) {
                Some(name) => write!(f, "the job was ended by signal {signal} ({name})"),
                None => write!(f, "the job was ended by signal {signal}"),
            },
            Self::OutOfMemory { limit_bytes } => {
                write!(f, "the job ran out of memory at its limit of {}: ask for more memory", Size(*limit_bytes))
            }
            Self::DiskFull { limit_bytes, code } => write!(
                f,
                "the job filled its disk at its limit of {}{}: ask for more disk",
                Size(*limit_bytes),
                code_text(code)
            ),
            Self::ProcessLimit { processes_max, code } => write!(
                f,
                "the job was refused another process at its limit of {processes_max}{}: start fewer at a time, or ask for more",
                code_text(code)
            ),
            Self::Killed { reason } | Self::CompanionEnded { reason } => write!(f, "the job was ended: {reason}"),
            Self::FailedToStart { reason } => write!(f, "the job could not start: {reason}"),
            Self::SetupFailed { reason } => write!(f, "the sandbox failed: {reason}"),
        }
    }
}

/// The names of the signals that end programs; their numbers are the same on every architecture that Linux jobs run on.
fn signal_name(signal: i32) -> Option<&'static str> {
    Some(match signal {
        libc::SIGHUP => "SIGHUP",
        libc::SIGINT => "SIGINT",
        libc::SIGQUIT => "SIGQUIT",
        libc::SIGILL => "SIGILL, an instruction this processor does not have",
        libc::SIGTRAP => "SIGTRAP",
        libc::SIGABRT => "SIGABRT, it gave up by itself",
        libc::SIGBUS => "SIGBUS",
        libc::SIGFPE => "SIGFPE",
        libc::SIGKILL => "SIGKILL",
        libc::SIGSEGV => "SIGSEGV, an access to memory that is not its own",
        libc::SIGPIPE => "SIGPIPE",
        libc::SIGALRM => "SIGALRM",
        libc::SIGTERM => "SIGTERM",
        libc::SIGXCPU => "SIGXCPU",
        libc::SIGXFSZ => "SIGXFSZ, a file larger than its limit",
        libc::SIGSYS => "SIGSYS, a system call that no job may make",
        _ => return None,
    })
}

/// Bytes for people, in binary units.
struct Size(u64);

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (shift, unit) in [(30, "GiB"), (20, "MiB"), (10, "KiB")] {
            let one = 1_u64 << shift;
            if self.0 >= one {
                let tenths = (u128::from(self.0) * 10 + u128::from(one) / 2) / u128::from(one);
                return match tenths % 10 {
                    0 => write!(f, "{} {unit}", tenths / 10),
                    rest => write!(f, "{}.{rest} {unit}", tenths / 10),
                };
            }
        }
        write!(f, "{} bytes", self.0)
    }
}

/// What a job has used so far, or in all once it has ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobUsage {
    /// Processor time of all processes, in nanoseconds.
    pub cpu_ns: u64,
    /// Greatest memory use of all processes together, page cache included.
    pub memory_peak_bytes: u64,
}

#[derive(Debug)]
pub(super) struct Shared {
    pub(super) id: JobId,
    pub(super) cgroup: JobCgroup,
    /// Why the Container wants the job ended; the first reason stays.
    pub(super) kill_reason: OnceLock<String>,
    pub(super) kill: Notify,
    /// What was used in all, set when the control group is about to be removed.
    pub(super) final_usage: OnceLock<JobUsage>,
    pub(super) ended: watch::Sender<Option<JobEnd>>,
}

/// Controls a job from anywhere; cheap to clone, harmless after the end.
#[derive(Clone, Debug)]
pub struct JobHandle {
    pub(super) shared: Arc<Shared>,
}

impl JobHandle {
    /// Ends the job and every process of it at once. `reason` reaches the consumer; the first one given stays.
    pub fn kill(&self, reason: impl Into<String>) {
        // A second reason is dropped: the job is ending for the first one.
        let _ = self.shared.kill_reason.set(reason.into());
        self.shared.kill.notify_one();
    }

    /// Asks every process of the job to end (SIGTERM); pair it with a later [`JobHandle::kill`].
    pub fn ask_to_end(&self) {
        if self.shared.ended.borrow().is_none() {
            self.shared.cgroup.signal(Signal::TERM);
        }
    }

    /// What the job has used so far; the last figures once it has ended.
    #[must_use]
    pub fn usage(&self) -> JobUsage {
        self.shared.final_usage.get().copied().unwrap_or_else(|| self.shared.usage_now())
    }

    /// Waits until every process of the job is gone, and says how it ended. Any number of callers may wait.
    pub async fn wait(&self) -> JobEnd {
        let mut ended = self.shared.ended.subscribe();
        match ended.wait_for(Option::is_some).await.map(|end| end.clone()) {
            Ok(Some(end)) => end,
            // The supervisor ends only after sending; without it the runtime is being torn down.
            Ok(None) | Err(_) => JobEnd::SetupFailed { reason: "the job's supervisor was stopped".into() },
        }
    }
}

impl Shared {
    pub(super) fn usage_now(&self) -> JobUsage {
        let counters = self.cgroup.counters();
        JobUsage { cpu_ns: counters.cpu_ns, memory_peak_bytes: counters.memory_peak_bytes }
    }
}

/// A job whose command runs. Dropping it ends the job.
#[derive(Debug)]
pub struct RunningJob {
    pub(super) handle: JobHandle,
    /// The job's standard input, when the spec asked for it; take it to use it.
    pub stdin: Option<StdinWriter>,
    /// The job's standard output; take it to use it. It ends when the last process of the job has ended.
    pub stdout: Option<StdoutReader>,
    /// The job's standard error; take it to use it.
    pub stderr: Option<StdoutReader>,
    /// The ends of the job's display, when the spec asked for one; take them to use them.
    pub display: Option<DisplayEnds>,
}

impl RunningJob {
    /// A handle for other tasks; it does not keep the job alive.
    #[must_use]
    pub fn handle(&self) -> JobHandle {
        self.handle.clone()
    }

    /// See [`JobHandle::kill`].
    pub fn kill(&self, reason: impl Into<String>) {
        self.handle.kill(reason);
    }

    /// See [`JobHandle::usage`].
    #[must_use]
    pub fn usage(&self) -> JobUsage {
        self.handle.usage()
    }

    /// See [`JobHandle::wait`]. Read the outputs at the same time: a job that fills its pipe waits for its reader.
    pub async fn wait(&self) -> JobEnd {
        self.handle.wait().await
    }
}

impl Drop for RunningJob {
    fn drop(&mut self) {
        if self.handle.shared.ended.borrow().is_none() {
            self.handle.kill("the Container gave it up");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_read_as_sentences() {
        let check = |end: JobEnd, text: &str, code: i32| {
            assert_eq!(end.to_string(), text);
            assert_eq!(end.exit_code(), code);
        };
        check(JobEnd::Exited { code: 3 }, "the job ended with exit code 3", 3);
        check(
            JobEnd::Signaled { signal: 11 },
            "the job was ended by signal 11 (SIGSEGV, an access to memory that is not its own)",
            139,
        );
        check(
            JobEnd::OutOfMemory { limit_bytes: 64 << 20 },
            "the job ran out of memory at its limit of 64 MiB: ask for more memory",
            137,
        );
        check(
            JobEnd::DiskFull { limit_bytes: 3 << 29, code: Some(1) },
            "the job filled its disk at its limit of 1.5 GiB (exit code 1): ask for more disk",
            1,
        );
        let end = JobEnd::Killed { reason: "the lease ended".into() };
        assert_eq!(serde_json::from_str::<JobEnd>(&serde_json::to_string(&end).expect("JSON")).expect("JSON"), end);
    }
}
