//! From a prepared folder and a spec to a running command.
//!
//! Bubblewrap makes the namespaces and then waits on a pipe. Meanwhile its child is put under the job's control group, the
//! network is connected and the record is written; only then is it let go. So no instruction of the job ever runs outside
//! its limits, and a crash at any point leaves a record or nothing.

use std::fs::{self, File};
use std::io::Write;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use rustix::fs::{Gid, MemfdFlags, Uid, fchown, memfd_create};
use rustix::pipe::{PipeFlags, pipe_with};
use serde::Deserialize;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::net::unix::pipe::{Receiver, Sender};
use tokio::process::{Child, Command};
use tokio::sync::{Notify, watch};
use tokio::time::timeout;

use super::cgroup::{Controller, JobCgroup};
use super::companion::Companion;
use super::egress::Uplink;
use super::error::{SandboxError, chain};
use super::gamepads::Gamepads;
use super::init::{Orders, Report, SANDBOX_INIT};
use super::job::{JobEnd, JobHandle, RunningJob, Shared};
use super::landlock::Rules;
use super::recover::Record;
use super::spec::JobSpec;
use super::supervise::{Reports, Supervisor};
use super::workdir::WorkDir;
use super::{Inner, bwrap, egress, gamepads, over, system};

/// How long each step of the start may take; generous, because a machine under load must not fail jobs.
const STEP_WAIT: Duration = Duration::from_secs(30);
const INFO_BYTES_MAX: usize = 4096;
const COMPLAINT_BYTES_MAX: u64 = 4096;
const PATH: &str = "/usr/local/bin:/usr/bin:/bin:/usr/local/games:/usr/games";

/// Ends and removes the control group unless the job got as far as having a supervisor.
struct Guard(Option<JobCgroup>);

impl Drop for Guard {
    fn drop(&mut self) {
        if let Some(cgroup) = self.0.take()
            && let Err(error) = cgroup.end()
        {
            tracing::warn!(%error, "a control group stays until the next recovery");
        }
    }
}

/// This process's ends of the job's pipes.
struct Ours {
    stdin: Option<Sender>,
    stdout: Receiver,
    stderr: Receiver,
    info: Receiver,
    reports: Reports,
    /// Closed or written to: bubblewrap goes on.
    release: OwnedFd,
}

pub(super) async fn start(inner: &Arc<Inner>, work: &WorkDir, spec: JobSpec) -> Result<RunningJob, SandboxError> {
    spec.check()?;
    if spec.limits.disk_bytes != work.disk_bytes() {
        let (asked, have) = (spec.limits.disk_bytes, work.disk_bytes());
        return Err(SandboxError::invalid(format!(
            "disk_bytes is {asked}, but the work folder was prepared with {have}"
        )));
    }
    if spec.egress && !inner.config.egress_allowed {
        let why = "this provider does not allow it: choose a Container that does".into();
        return Err(SandboxError::EgressRefused { why });
    }
    if spec.egress {
        egress::check(inner)?;
    }
    if spec.over.is_some() && !inner.capabilities.layers {
        return Err(SandboxError::setup(
            "lay packages over the system",
            "this machine does not let us; muster doctor says why",
        ));
    }
    let companions = match &spec.display {
        Some(display) => display.companions(&inner.capabilities)?,
        None => Vec::new(),
    };
    let display = spec.display.as_ref().map(|display| display.make(work, &inner.capabilities)).transpose()?;
    work.hand_over().await?;
    let name = inner.cgroup_name(work.id());
    let cgroup = JobCgroup::create(&inner.hierarchy, &name, &spec.limits)?;
    let mut guard = Guard(Some(cgroup.clone()));
    let gamepads = plug(&spec, &name, work.uid()).await;
    let binds = gamepads.as_ref().map(Gamepads::binds).unwrap_or_default();
    let (mut child, mut ours) = launch(inner, work, &spec, companions, &binds).await?;
    let begun = begin(inner, work, &spec, &cgroup, &mut ours).await;
    // The command may run already, so what it has made of its display is looked at with care.
    let gamepads = gamepads.map(Gamepads::into_pads).unwrap_or_default();
    let begun = begun.and_then(|uplink| Ok((uplink, display.map(|place| place.ends(gamepads)).transpose()?)));
    let (uplink, display) = match begun {
        Ok(begun) => begun,
        Err(error) => return Err(explain(error, &mut child, &mut ours, &cgroup, &spec).await),
    };
    let (ended, _) = watch::channel(None);
    let shared = Arc::new(Shared {
        id: work.id().clone(),
        cgroup,
        kill_reason: OnceLock::new(),
        kill: Notify::new(),
        final_usage: OnceLock::new(),
        ended,
    });
    guard.0 = None;
    let Ours { stdin, stdout, stderr, reports, .. } = ours;
    let data = work.data();
    let supervisor = Supervisor {
        inner: Arc::clone(inner),
        shared: Arc::clone(&shared),
        child,
        reports,
        uplink,
        limits: spec.limits,
        data,
        watch_disk: !work.mounted(),
    };
    tokio::spawn(supervisor.run());
    Ok(RunningJob { handle: JobHandle { shared }, stdin, stdout: Some(stdout), stderr: Some(stderr), display })
}

/// The gamepads that a job with a display asks for. Without them it runs all the same, and its player is told.
async fn plug(spec: &JobSpec, name: &str, uid: Option<u32>) -> Option<Gamepads> {
    let count = spec.display.as_ref().map_or(0, |display| display.gamepads);
    if count == 0 {
        return None;
    }
    let name = name.to_owned();
    let plugged = tokio::task::spawn_blocking(move || gamepads::plug(count, &name, uid)).await;
    match plugged {
        Ok(Ok(gamepads)) => Some(gamepads),
        Ok(Err(refusal)) => {
            tracing::warn!(why = %chain(&refusal), mend = refusal.mend(uid.is_some()), "a live session runs without gamepads");
            None
        }
        Err(error) => {
            tracing::warn!(%error, "a live session runs without gamepads");
            None
        }
    }
}

/// Starts bubblewrap, which waits before it runs anything.
async fn launch(
    inner: &Inner,
    work: &WorkDir,
    spec: &JobSpec,
    companions: Vec<Companion>,
    gamepads: &[(PathBuf, PathBuf)],
) -> Result<(Child, Ours), SandboxError> {
    let failed = |error: rustix::io::Errno| SandboxError::setup("make pipes", error);
    let pipe = || pipe_with(PipeFlags::CLOEXEC).map_err(failed);
    let (info_read, info_write) = pipe()?;
    let (block_read, block_write) = pipe()?;
    let (report_read, report_write) = pipe()?;
    let (stdout_read, stdout_write) = pipe()?;
    let (stderr_read, stderr_write) = pipe()?;
    let stdin = if spec.stdin { Some(pipe()?) } else { None };
    if let Some(uid) = work.uid() {
        // So that the job can open /dev/stdout and its like by name, as shell scripts do.
        for end in [&stdout_write, &stderr_write].into_iter().chain(stdin.as_ref().map(|(read, _)| read)) {
            fchown(end, Some(Uid::from_raw(uid)), Some(Gid::from_raw(uid))).map_err(failed)?;
        }
    }
    let orders = serde_json::to_vec(&orders(inner, work, spec, companions, gamepads))
        .map_err(|error| SandboxError::setup("encode the orders", error))?;
    let orders = memory_file("muster-orders", &orders)?;
    let mut inherited = vec![info_write, block_read, report_write, orders];
    let mut files = Vec::new();
    for (path, text) in system::etc_files(work.uid().unwrap_or(bwrap::INNER_UID), spec.egress) {
        let file = memory_file("muster-etc", text.as_bytes())?;
        files.push((file.as_raw_fd(), path));
        inherited.push(file);
    }
    let (info_fd, block_fd) = (inherited[0].as_raw_fd(), inherited[1].as_raw_fd());
    let options = bwrap::options(&bwrap::View {
        work: &work.path(),
        tmp: &work.tmp(),
        init_exe: &inner.config.init_exe,
        root: work.uid().is_some(),
        files: &files,
        memory_bytes: spec.limits.memory_bytes,
        devices: &spec.devices,
        gamepads,
        over: spec.over.as_deref(),
        lent: &spec.lent,
        info_fd,
        block_fd,
    });
    let options =
        options.iter().flat_map(|arg| arg.as_encoded_bytes().iter().chain([&0])).copied().collect::<Vec<u8>>();
    let options = memory_file("muster-options", &options)?;
    let mut command = bubblewrap(inner, work, spec, [&options, &inherited[3], &inherited[2]]);
    command.stdout(Stdio::from(stdout_write)).stderr(Stdio::from(stderr_write));
    let (stdin_ours, stdin_theirs) = match stdin {
        Some((read, write)) => (Some(write), Stdio::from(read)),
        None => (None, Stdio::null()),
    };
    command.stdin(stdin_theirs);
    inherited.push(options);
    let child = inner.launcher.start(command, inherited).await?;
    let receiver = |end| Receiver::from_owned_fd(end).map_err(|error| SandboxError::setup("make pipes", error));
    let stdin =
        stdin_ours.map(Sender::from_owned_fd).transpose().map_err(|error| SandboxError::setup("make pipes", error))?;
    let ours = Ours {
        stdin,
        stdout: receiver(stdout_read)?,
        stderr: receiver(stderr_read)?,
        info: receiver(info_read)?,
        reports: Reports::new(receiver(report_read)?),
        release: block_write,
    };
    Ok((child, ours))
}

/// The program and its few open arguments: everything that tells of the job is read from descriptors.
fn bubblewrap(inner: &Inner, work: &WorkDir, spec: &JobSpec, [options, orders, report]: [&OwnedFd; 3]) -> Command {
    let bwrap = inner.capabilities.bwrap.as_deref().unwrap_or(Path::new("bwrap"));
    let layered =
        spec.over.as_ref().map(|over| over::prefix(over, &inner.jobs_dir(), work.dir(), inner.capabilities.root));
    let mut command = match layered.as_deref().and_then(<[_]>::split_first) {
        Some((program, rest)) => {
            let mut command = Command::new(program);
            command.args(rest).arg(bwrap);
            command
        }
        None => Command::new(bwrap),
    };
    command
        .arg("--args")
        .arg(options.as_raw_fd().to_string())
        .args(["--", bwrap::HELPER, SANDBOX_INIT])
        .arg(orders.as_raw_fd().to_string())
        .arg(report.as_raw_fd().to_string())
        .env_clear()
        .current_dir("/")
        .kill_on_drop(true);
    command
}

/// Puts the waiting child under its limits, lets it go, and waits for the command to run.
async fn begin(
    inner: &Inner,
    work: &WorkDir,
    spec: &JobSpec,
    cgroup: &JobCgroup,
    ours: &mut Ours,
) -> Result<Option<Uplink>, SandboxError> {
    let pid = timeout(STEP_WAIT, child_pid(&mut ours.info))
        .await
        .map_err(|_| SandboxError::setup("make namespaces", "bubblewrap does not answer"))??;
    cgroup.add(pid)?;
    let uplink = if spec.egress { Some(egress::connect(inner, pid).await?) } else { None };
    Record::running(work.id(), pid, cgroup.paths()).write(work.dir())?;
    // A broken pipe here means that bubblewrap has failed; the missing report tells, with its words.
    let _ = rustix::io::write(&ours.release, b"1");
    let report = timeout(STEP_WAIT, ours.reports.next())
        .await
        .map_err(|_| SandboxError::setup("start the command", "the helper does not answer"))?;
    match report {
        Some(Report::Running) => Ok(uplink),
        Some(Report::NotStarted { reason }) => Err(SandboxError::NotStarted { end: JobEnd::FailedToStart { reason } }),
        Some(Report::SetupFailed { reason }) => Err(SandboxError::NotStarted { end: JobEnd::SetupFailed { reason } }),
        Some(other) => Err(SandboxError::setup("start the command", format!("the helper says {other:?} too early"))),
        None => Err(SandboxError::setup("start the command", "the sandbox ended before the command ran")),
    }
}

/// Ends what was begun, and adds bubblewrap's own words where they say more.
async fn explain(
    error: SandboxError,
    child: &mut Child,
    ours: &mut Ours,
    cgroup: &JobCgroup,
    spec: &JobSpec,
) -> SandboxError {
    if cgroup.counters().oom_kills > 0 {
        let end = JobEnd::OutOfMemory { limit_bytes: spec.limits.memory_bytes };
        return SandboxError::NotStarted { end };
    }
    let SandboxError::Setup { step, detail } = error else { return error };
    // Ended already, or to be ended: either way its words are complete after this.
    let _ = child.start_kill();
    let _ = timeout(STEP_WAIT, child.wait()).await;
    let mut words = Vec::new();
    let _ = timeout(Duration::from_secs(1), (&mut ours.stderr).take(COMPLAINT_BYTES_MAX).read_to_end(&mut words)).await;
    let words = system::tail(&String::from_utf8_lossy(&words));
    if words.is_empty() {
        SandboxError::Setup { step, detail }
    } else {
        SandboxError::setup(step, format!("{detail}: {words}"))
    }
}

/// Reads bubblewrap's report on its child: the process id as the host counts.
async fn child_pid(info: &mut Receiver) -> Result<u32, SandboxError> {
    #[derive(Deserialize)]
    struct Info {
        #[serde(rename = "child-pid")]
        child_pid: u32,
    }
    let mut text = Vec::new();
    let mut reader = BufReader::new(info.take(INFO_BYTES_MAX as u64));
    reader.read_until(b'}', &mut text).await.map_err(|error| SandboxError::setup("make namespaces", error))?;
    if text.is_empty() {
        return Err(SandboxError::setup("make namespaces", "bubblewrap failed"));
    }
    let info: Info = serde_json::from_slice(&text).map_err(|error| SandboxError::setup("make namespaces", error))?;
    Ok(info.child_pid)
}

fn memory_file(name: &str, content: &[u8]) -> Result<OwnedFd, SandboxError> {
    let failed = |error: std::io::Error| SandboxError::setup("make a file in memory", error);
    let mut file = File::from(memfd_create(name, MemfdFlags::CLOEXEC).map_err(|error| failed(error.into()))?);
    file.write_all(content).map_err(failed)?;
    std::io::Seek::rewind(&mut file).map_err(failed)?;
    Ok(file.into())
}

fn orders(
    inner: &Inner,
    work: &WorkDir,
    spec: &JobSpec,
    companions: Vec<Companion>,
    gamepads: &[(PathBuf, PathBuf)],
) -> Orders {
    let text = |list: &[&str]| list.iter().map(ToString::to_string).collect::<Vec<String>>();
    let mut env: Vec<(String, String)> =
        [("PATH", PATH), ("HOME", "/work"), ("LANG", "C.UTF-8"), ("TMPDIR", "/tmp"), ("USER", "job")]
            .iter()
            .filter(|(name, _)| !spec.env.contains_key(*name))
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect();
    let mut screen = spec.display.as_ref().map(|display| display.env(&inner.capabilities)).unwrap_or_default();
    screen.extend(gamepads::env(gamepads));
    let own = spec.env.iter().map(|(name, value)| (name.clone(), value.clone()));
    env.extend(own.filter(|(name, _)| !screen.iter().any(|(known, _)| known == name)));
    env.extend(screen);
    let mut read = text(&bwrap::SYSTEM_DIRS);
    read.extend(text(&["/etc", "/sys", "/.muster", "/opt", "/var"]));
    // The control group is the limit, and counts refusals; the system's own only stands behind it, or in for it.
    let spare = if inner.hierarchy.find(Controller::Pids).is_some() { 16 } else { 1 };
    let device_groups = spec.devices.iter().filter_map(|device| fs::metadata(device).ok()).map(|meta| meta.gid());
    Orders {
        command: spec.command.clone(),
        env,
        uid: work.uid(),
        companions,
        device_groups: device_groups.filter(|group| *group != 0).collect(),
        open_files_max: u64::from(spec.limits.open_files_max),
        processes_max: work.uid().map(|_| u64::from(spec.limits.processes_max) + spare),
        file_bytes_max: (!work.mounted()).then_some(spec.limits.disk_bytes),
        landlock: Rules {
            list: text(&["/"]),
            read,
            use_existing: text(&["/proc", "/dev"]),
            write: text(&["/work", "/tmp", "/dev/shm", "/dev/pts"]),
        },
        landlock_required: inner.capabilities.landlock_abi > 0,
    }
}
