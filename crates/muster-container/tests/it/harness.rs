//! Runs commands in the real Sandbox and gathers what they say.

use std::collections::BTreeMap;
use std::path::PathBuf;

use muster_container::sandbox::{
    JobEnd, JobId, JobSpec, RunningJob, Sandbox, SandboxConfig, SandboxError, SandboxLimits, WorkDir,
};
use tempfile::TempDir;
use tokio::io::AsyncReadExt;

pub(crate) const MIB: u64 = 1 << 20;

/// A Sandbox with a state folder of its own.
pub(crate) struct Host {
    pub(crate) sandbox: Sandbox,
    pub(crate) state: TempDir,
}

/// What a finished job said and how it ended.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) end: JobEnd,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

pub(crate) fn config(state: &TempDir) -> SandboxConfig {
    SandboxConfig {
        state_dir: state.path().join("state"),
        init_exe: PathBuf::from(env!("CARGO_BIN_EXE_muster-sandbox-init")),
        egress_allowed: true,
        cgroup_parent: "muster-test".into(),
        disk_watch_only: false,
    }
}

/// A Sandbox on this machine, or `None` (said aloud) where the machine lacks what safety needs and the test's user is not
/// root: as root everything must work.
pub(crate) fn host() -> Option<Host> {
    host_with(|_| {})
}

pub(crate) fn host_with(change: impl FnOnce(&mut SandboxConfig)) -> Option<Host> {
    let state = tempfile::tempdir().expect("temporary folder");
    let mut config = config(&state);
    change(&mut config);
    match Sandbox::new(config) {
        Ok(sandbox) => Some(Host { sandbox, state }),
        Err(error @ SandboxError::Unsafe { .. }) if !rustix::process::geteuid().is_root() => {
            eprintln!("skipped: {error}");
            None
        }
        Err(error) => panic!("as root the sandbox must work: {error}"),
    }
}

pub(crate) fn limits() -> SandboxLimits {
    SandboxLimits {
        cpu_millis: 2000,
        memory_bytes: 256 * MIB,
        disk_bytes: 64 * MIB,
        processes_max: 64,
        open_files_max: 256,
    }
}

pub(crate) fn spec(command: &[&str]) -> JobSpec {
    JobSpec {
        command: command.iter().map(ToString::to_string).collect(),
        env: BTreeMap::new(),
        egress: false,
        limits: limits(),
        stdin: false,
        devices: Vec::new(),
        display: None,
        over: None,
        lent: Vec::new(),
    }
}

/// A shell script as a job.
pub(crate) fn script(text: &str) -> JobSpec {
    spec(&["/bin/sh", "-c", text])
}

/// A Perl program as a job: every Debian has Perl, and Perl can make any system call.
pub(crate) fn perl(text: &str) -> JobSpec {
    spec(&["/usr/bin/perl", "-e", text])
}

impl Host {
    pub(crate) async fn prepare(&self, name: &str, spec: &JobSpec) -> WorkDir {
        self.sandbox.prepare(&JobId::new(name).expect("name"), spec.limits.disk_bytes).await.expect("prepare")
    }

    /// Runs a job to its end and removes its folder.
    pub(crate) async fn run(&self, spec: JobSpec) -> Ran {
        let work = self.prepare("job", &spec).await;
        let ran = self.run_in(&work, spec).await;
        work.remove().await.expect("remove");
        ran
    }

    pub(crate) async fn run_in(&self, work: &WorkDir, spec: JobSpec) -> Ran {
        match self.sandbox.start(work, spec).await {
            Ok(job) => finish(job).await,
            Err(error) => Ran { end: error.into_job_end(), stdout: String::new(), stderr: String::new() },
        }
    }
}

/// Reads a job's outputs to their end and waits for it.
pub(crate) async fn finish(mut job: RunningJob) -> Ran {
    let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
    let mut out = job.stdout.take().expect("standard output");
    let mut err = job.stderr.take().expect("standard error");
    let (read_out, read_err, end) =
        tokio::join!(out.read_to_end(&mut stdout), err.read_to_end(&mut stderr), job.wait());
    read_out.expect("read standard output");
    read_err.expect("read standard error");
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    Ran { end, stdout: text(stdout), stderr: text(stderr) }
}
