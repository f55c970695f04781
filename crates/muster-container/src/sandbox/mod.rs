//! The Sandbox: runs one process job so that it reaches nothing it did not rent.
//!
//! A job runs inside bubblewrap namespaces (processes, network, mounts, IPC, host name), as an unprivileged user without
//! capabilities, under a Landlock ruleset and a seccomp filter, in a control group of its own that bounds memory, processor
//! time and processes, with a work folder whose size is a property of the file system it lies on. This module knows
//! nothing of leases, peers or money.
//!
//! The life of a job: [`Sandbox::prepare`] makes the work folder, inputs are written through [`WorkDir::create_file`],
//! [`Sandbox::start`] returns once the command really runs, [`RunningJob::wait`] says how it ended, [`WorkDir::outputs`]
//! lists what it left, [`WorkDir::remove`] frees everything. After a crash of the process that owned the jobs,
//! [`Sandbox::recover`] ends and removes whatever is left.
//!
//! Layers that safety needs (bubblewrap, seccomp, a memory limit) are mandatory: without one, [`Sandbox::new`] refuses and
//! names the command that mends it. In particular an unprivileged user without a delegated control group is refused,
//! because resource limits per process do not bound the memory of a job that forks.

mod bwrap;
mod capabilities;
mod cgroup;
mod cgroup_v1;
mod cgroup_v2;
mod companion;
mod display;
mod egress;
mod error;
mod gamepads;
mod init;
mod job;
mod landlock;
mod launch;
mod outputs;
pub(crate) mod over;
mod recover;
mod seccomp;
mod spec;
mod start;
mod supervise;
mod system;
mod workdir;

use std::collections::BTreeSet;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

pub use capabilities::{Capabilities, DiskLimit, Finding, Severity};
pub use display::{Display, DisplayEnds};
pub use error::SandboxError;
pub use init::{SANDBOX_INIT, sandbox_init_main};
pub use job::{JobEnd, JobHandle, JobUsage, RunningJob, StdinWriter, StdoutReader};
pub use outputs::{Output, OutputLimits, Outputs, SkippedOutput};
pub use recover::RecoveredJob;
pub use spec::{JobId, JobSpec, SandboxConfig, SandboxLimits};
pub(crate) use system::find_program;
pub use workdir::WorkDir;

use tokio::process::{Child, Command};

use cgroup::Hierarchy;
use launch::Launcher;

/// Runs process jobs on this machine; cheap to clone, all clones share one state folder.
#[derive(Clone, Debug)]
pub struct Sandbox {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    config: SandboxConfig,
    capabilities: Capabilities,
    hierarchy: Hierarchy,
    launcher: Launcher,
    /// Names this state folder's control groups and users among those of other Containers on the machine.
    instance: String,
    /// Jobs of this process, which a recovery spares.
    active: Mutex<BTreeSet<JobId>>,
    /// Held for as long as the Sandbox lives, so that two processes never share a state folder.
    _lock: File,
}

impl Sandbox {
    /// Finds out what the machine has and readies the state folder (created with mode 0700 when absent).
    ///
    /// Runs a few short programs (bubblewrap, `mkfs.ext4`, `mount`) to see that they really work; expect some 50 ms.
    ///
    /// # Errors
    ///
    /// [`SandboxError::Unsafe`] when a mandatory layer of isolation is missing, [`SandboxError::InUse`] when another
    /// process holds the state folder, [`SandboxError::Io`] when the folder cannot be made.
    pub fn new(config: SandboxConfig) -> Result<Self, SandboxError> {
        let (state_dir, lock) = system::open_state_dir(&config.state_dir)?;
        let config = SandboxConfig { state_dir, ..config };
        let hierarchy = Hierarchy::detect(&config.cgroup_parent);
        let capabilities = Capabilities::detect(&config, &hierarchy);
        let missing = capabilities.missing();
        if !missing.is_empty() {
            return Err(SandboxError::Unsafe { missing });
        }
        let instance = system::instance_of(&config.state_dir);
        let launcher = Launcher::new();
        Ok(Self {
            inner: Arc::new(Inner {
                config,
                capabilities,
                hierarchy,
                launcher,
                instance,
                active: Mutex::default(),
                _lock: lock,
            }),
        })
    }

    /// What this machine can isolate, for `muster doctor`, without opening a state folder for jobs.
    ///
    /// `config.state_dir` must exist: the report covers the kind of disk limit that works there.
    #[must_use]
    pub fn probe(config: &SandboxConfig) -> Capabilities {
        Capabilities::detect(config, &Hierarchy::detect(&config.cgroup_parent))
    }

    /// What was found when this Sandbox was made.
    #[must_use]
    pub fn capabilities(&self) -> &Capabilities {
        &self.inner.capabilities
    }

    /// Makes the private work folder of a job, with a hard limit of `disk_bytes` for it and its `/tmp` together.
    ///
    /// # Errors
    ///
    /// [`SandboxError::JobExists`] when the job already has a folder, [`SandboxError::DiskShort`] when the machine cannot
    /// hold `disk_bytes` more, [`SandboxError::Invalid`] for a limit that is too small, [`SandboxError::Setup`] or
    /// [`SandboxError::Io`] when the file system cannot be made.
    pub async fn prepare(&self, id: &JobId, disk_bytes: u64) -> Result<WorkDir, SandboxError> {
        let inner = Arc::clone(&self.inner);
        let id = id.clone();
        system::blocking(move || WorkDir::create(&inner, &id, disk_bytes)).await
    }

    /// Starts a job in its prepared folder and returns once its command runs.
    ///
    /// # Errors
    ///
    /// [`SandboxError::NotStarted`] when the command could not be run (not found, not executable), and every other reason
    /// for which no job exists afterwards; [`SandboxError::into_job_end`] turns any of them into a [`JobEnd`].
    pub async fn start(&self, work: &WorkDir, spec: JobSpec) -> Result<RunningJob, SandboxError> {
        start::start(&self.inner, work, spec).await
    }

    /// Starts a program outside that uses a job's display; it inherits the descriptors under the numbers they have here.
    ///
    /// # Errors
    ///
    /// [`SandboxError::Setup`] when it cannot be started.
    pub(crate) async fn start_beside(&self, command: Command, inherited: Vec<OwnedFd>) -> Result<Child, SandboxError> {
        self.inner.launcher.start(command, inherited).await
    }

    /// Runs a script of the system's own tools where `folder` is laid over the system; it writes to `out`, as `/out`.
    ///
    /// # Errors
    ///
    /// [`SandboxError::Setup`] with the script's own words when it fails.
    pub(crate) async fn run_over(&self, folder: PathBuf, out: PathBuf, script: String) -> Result<String, SandboxError> {
        let inner = Arc::clone(&self.inner);
        system::blocking(move || over::run(&inner, &folder, &out, &script)).await
    }

    /// Takes over the work folder of a job of an earlier process: ends what is left of its processes, and keeps its files.
    /// Folders that were taken over are spared by a later [`Sandbox::recover`].
    ///
    /// # Errors
    ///
    /// [`SandboxError::Io`] or [`SandboxError::Setup`] when there is no such folder, or when its file system cannot be
    /// mounted again.
    pub async fn reopen(&self, id: &JobId, disk_bytes: u64) -> Result<WorkDir, SandboxError> {
        let inner = Arc::clone(&self.inner);
        let id = id.clone();
        system::blocking(move || {
            recover::clear_groups(&inner, &id)?;
            WorkDir::reopen(&inner, &id, disk_bytes)
        })
        .await
    }

    /// Ends and removes what jobs of an earlier process left: processes, control groups, mounts, folders.
    ///
    /// Call it once, before the first [`Sandbox::prepare`]. Calling it again is harmless: jobs of this process are spared.
    ///
    /// # Errors
    ///
    /// [`SandboxError::Io`] when the state folder cannot be read; a leftover that resists is reported in its
    /// [`RecoveredJob::remains`] instead, so that one stubborn folder never hides the others.
    pub async fn recover(&self) -> Result<Vec<RecoveredJob>, SandboxError> {
        let inner = Arc::clone(&self.inner);
        system::blocking(move || recover::recover(&inner)).await
    }
}

impl Inner {
    fn jobs_dir(&self) -> PathBuf {
        self.config.state_dir.join("jobs")
    }
    /// The name of a job's control group, in every tree.
    fn cgroup_name(&self, id: &JobId) -> String {
        format!("{}.{id}", self.instance)
    }

    fn is_active(&self, id: &JobId) -> bool {
        self.active().contains(id)
    }

    /// Changes to the set are single calls, so one that panicked half-way cannot have left it wrong.
    fn active(&self) -> MutexGuard<'_, BTreeSet<JobId>> {
        self.active.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
