//! What a job asks for, and how the Sandbox is configured.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::display::Display;
use super::error::SandboxError;

/// Smallest memory limit: below it not even the helper that applies the limits runs reliably.
const MEMORY_BYTES_MIN: u64 = 16 << 20;
/// Smallest work folder: below it ext4 has no room for its own tables.
const DISK_BYTES_MIN: u64 = 4 << 20;
/// Smallest processor share the kernel's bandwidth controller accepts (1 ms in every 100 ms).
const CPU_MILLIS_MIN: u32 = 10;
/// Arguments and environment together; the kernel's own bound is 2 MiB with default stacks.
const ARGUMENT_BYTES_MAX: usize = 1 << 20;
const ID_LEN_MAX: usize = 80;

/// Names a job: its folder, its control group and its record.
///
/// One to 80 characters of `A-Z a-z 0-9 - _`, so that it is safe as a file name everywhere.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct JobId(String);

impl JobId {
    /// Checks and wraps a name.
    ///
    /// # Errors
    ///
    /// [`SandboxError::Invalid`] when the name is empty, too long or has another character.
    pub fn new(name: impl Into<String>) -> Result<Self, SandboxError> {
        let name = name.into();
        let fits = (1..=ID_LEN_MAX).contains(&name.len())
            && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
        if fits {
            Ok(Self(name))
        } else {
            Err(SandboxError::invalid(format!(
                "the job name {name:?} must be 1 to {ID_LEN_MAX} letters, digits, '-' or '_'"
            )))
        }
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for JobId {
    type Error = SandboxError;

    fn try_from(name: String) -> Result<Self, SandboxError> {
        Self::new(name)
    }
}

impl From<JobId> for String {
    fn from(id: JobId) -> Self {
        id.0
    }
}

/// How much of the machine one job may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SandboxLimits {
    /// Processor time: 1000 is one core.
    pub cpu_millis: u32,
    /// Memory of all processes together, page cache included; swap is not given where the machine can tell.
    pub memory_bytes: u64,
    /// Size of the work folder and `/tmp` together, as given to [`super::Sandbox::prepare`].
    pub disk_bytes: u64,
    /// Processes and threads at one time.
    pub processes_max: u32,
    /// Open files of one process.
    pub open_files_max: u32,
}

impl SandboxLimits {
    pub(super) fn check(&self) -> Result<(), SandboxError> {
        if self.cpu_millis < CPU_MILLIS_MIN {
            return Err(SandboxError::invalid(format!(
                "cpu_millis is {}, the least is {CPU_MILLIS_MIN}",
                self.cpu_millis
            )));
        }
        if self.memory_bytes < MEMORY_BYTES_MIN {
            return Err(SandboxError::invalid(format!(
                "memory_bytes is {}, the least is {MEMORY_BYTES_MIN} (16 MiB)",
                self.memory_bytes
            )));
        }
        if self.processes_max == 0 {
            return Err(SandboxError::invalid("processes_max is 0, so not even the command could run".into()));
        }
        if self.open_files_max < 8 {
            return Err(SandboxError::invalid(format!("open_files_max is {}, the least is 8", self.open_files_max)));
        }
        check_disk(self.disk_bytes)
    }
}

pub(super) fn check_disk(disk_bytes: u64) -> Result<(), SandboxError> {
    if disk_bytes < DISK_BYTES_MIN {
        return Err(SandboxError::invalid(format!(
            "disk_bytes is {disk_bytes}, the least is {DISK_BYTES_MIN} (4 MiB)"
        )));
    }
    Ok(())
}

/// One process job.
#[derive(Clone, Debug)]
pub struct JobSpec {
    /// Program and arguments; the program is looked up in the Sandbox's `PATH`, or relative to the work folder when it
    /// holds a slash.
    pub command: Vec<String>,
    /// Variables added to (or replacing) the Sandbox's own `PATH`, `HOME`, `LANG`, `TMPDIR` and `USER`.
    pub env: BTreeMap<String, String>,
    /// Whether the job may open connections to the internet; the provider must allow it too.
    pub egress: bool,
    /// What the job may use at most.
    pub limits: SandboxLimits,
    /// Whether a pipe is opened to the job's standard input; else it reads end-of-file at once.
    pub stdin: bool,
    /// Device files the job may use (`/dev/dri/renderD128`, `/dev/nvidia0`): the Container names them, never a consumer.
    pub devices: Vec<PathBuf>,
    /// A private display, up before the command begins; its ends come with the running job.
    pub display: Option<Display>,
    /// A folder of unpacked packages that the job sees laid over the system: the Container's own, never a consumer's.
    pub over: Option<PathBuf>,
    /// Files of the Container's own that the job reads, and where below `/.muster` it sees them; never a consumer's.
    pub lent: Vec<(PathBuf, PathBuf)>,
}

impl JobSpec {
    pub(super) fn check(&self) -> Result<(), SandboxError> {
        self.limits.check()?;
        let Some(program) = self.command.first() else {
            return Err(SandboxError::invalid("the command is empty: give a program and its arguments".into()));
        };
        if program.is_empty() {
            return Err(SandboxError::invalid("the program's name is empty".into()));
        }
        if self.command.iter().any(|arg| arg.contains('\0')) {
            return Err(SandboxError::invalid("an argument of the command holds a zero byte".into()));
        }
        for (name, value) in &self.env {
            if name.is_empty() || name.contains('=') || name.contains('\0') || value.contains('\0') {
                return Err(SandboxError::invalid(format!("the environment variable {name:?} cannot be set")));
            }
        }
        let bytes: usize = self.command.iter().map(String::len).sum::<usize>()
            + self.env.iter().map(|(name, value)| name.len() + value.len() + 2).sum::<usize>();
        if bytes > ARGUMENT_BYTES_MAX {
            return Err(SandboxError::invalid(format!(
                "command and environment take {bytes} bytes, the most is {ARGUMENT_BYTES_MAX}: put long data into an input file"
            )));
        }
        self.display.as_ref().map_or(Ok(()), Display::check)?;
        for (_, inside) in &self.lent {
            if !inside.starts_with("/.muster") {
                return Err(SandboxError::invalid(format!("{} is not below /.muster", inside.display())));
            }
        }
        for device in &self.devices {
            if !device.starts_with("/dev") {
                return Err(SandboxError::invalid(format!("{} is not a device file under /dev", device.display())));
            }
        }
        Ok(())
    }
}

/// Where a Sandbox keeps its state and what the provider allows.
#[derive(Clone, Debug)]
pub struct SandboxConfig {
    /// Folder for jobs, records and the lock; no job can see it.
    pub state_dir: PathBuf,
    /// Program that calls [`super::sandbox_init_main`] when its first argument is [`super::SANDBOX_INIT`]; it is made
    /// visible, read-only, inside every Sandbox.
    pub init_exe: PathBuf,
    /// Whether jobs that ask for the internet get it.
    pub egress_allowed: bool,
    /// Name of the control group that holds those of all jobs.
    pub cgroup_parent: String,
    /// Never use a file system image per job, even where it works: the limit is then enforced by measuring.
    pub disk_watch_only: bool,
}

impl SandboxConfig {
    /// The defaults for a state folder: this very program as the helper, no internet for jobs.
    ///
    /// # Errors
    ///
    /// [`SandboxError::Io`] when the path of the running program cannot be found out.
    pub fn new(state_dir: impl Into<PathBuf>) -> Result<Self, SandboxError> {
        let init_exe =
            std::env::current_exe().map_err(SandboxError::io("find the running program", "/proc/self/exe"))?;
        Ok(Self {
            state_dir: state_dir.into(),
            init_exe,
            egress_allowed: false,
            cgroup_parent: "muster".into(),
            disk_watch_only: false,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec() -> JobSpec {
        JobSpec {
            command: vec!["true".into()],
            env: BTreeMap::new(),
            egress: false,
            limits: SandboxLimits {
                cpu_millis: 1000,
                memory_bytes: 64 << 20,
                disk_bytes: 64 << 20,
                processes_max: 8,
                open_files_max: 64,
            },
            stdin: false,
            devices: Vec::new(),
            display: None,
            over: None,
            lent: Vec::new(),
        }
    }

    #[test]
    fn names_that_leave_the_folder_are_refused() {
        for name in ["", "..", "a/b", "a b", "ä", &"x".repeat(81)] {
            assert!(JobId::new(name).is_err(), "{name:?}");
        }
        assert!(JobId::new("lease-0_A").is_ok());
        assert!(serde_json::from_str::<JobId>("\"../../etc\"").is_err());
    }

    #[test]
    fn impossible_jobs_are_refused_with_the_reason() {
        let check = |change: fn(&mut JobSpec), needle: &str| {
            let mut spec = spec();
            change(&mut spec);
            let text = spec.check().expect_err(needle).to_string();
            assert!(text.contains(needle), "{text}");
        };
        assert!(spec().check().is_ok());
        check(|s| s.command.clear(), "command is empty");
        check(|s| s.command = vec!["a\0b".into()], "zero byte");
        check(|s| s.command.push("x".repeat(2 << 20)), "input file");
        check(|s| drop(s.env.insert("A=B".into(), String::new())), "A=B");
        check(|s| s.limits.memory_bytes = 1, "memory_bytes");
        check(|s| s.limits.disk_bytes = 1, "disk_bytes");
        check(|s| s.limits.cpu_millis = 0, "cpu_millis");
        check(|s| s.limits.processes_max = 0, "processes_max");
        check(|s| s.limits.open_files_max = 0, "open_files_max");
        check(|s| s.devices.push("/etc/shadow".into()), "/etc/shadow");
    }
}
