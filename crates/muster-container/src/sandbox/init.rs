//! The helper inside the Sandbox: process 1 of the job's own process namespace.
//!
//! Bubblewrap has made the namespaces and runs this as its command. The helper takes its orders from a descriptor (so that
//! neither command nor environment show in the host's process list), sets the limits of a process, fences itself in with
//! Landlock and seccomp, starts the command under the same fences as the job's own user, and reports to the Container in lines of
//! JSON: that it runs, then how it ended. When the helper ends, the kernel ends every process of the namespace with it.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, exit};

use rustix::process::{DumpableBehavior, Gid, Resource, Rlimit, Signal, Uid, WaitOptions, setrlimit};
use rustix::thread::{
    CapabilitySet, CapabilitySets, set_capabilities, set_thread_groups, set_thread_res_gid, set_thread_res_uid,
};
use serde::{Deserialize, Serialize};

use super::companion::{Companion, Staying, start_all};
use super::error::chain;
use super::landlock::{self, Rules};
use super::seccomp;

/// First argument with which the helper program must call [`sandbox_init_main`].
pub const SANDBOX_INIT: &str = "__sandbox-init";

/// Longest orders that are read: arguments and environment are bounded to 1 MiB, JSON may double them.
const ORDERS_BYTES_MAX: u64 = 8 << 20;
/// A program steps back behind the display that it draws on by so much ("nice").
const BEHIND_DISPLAY: i32 = 5;
const NO_CAPABILITIES: CapabilitySets = CapabilitySets {
    effective: CapabilitySet::empty(),
    permitted: CapabilitySet::empty(),
    inheritable: CapabilitySet::empty(),
};
/// Exit code of the helper when it could not start the command; the report says why.
const NOT_STARTED: i32 = 125;

/// What the Container orders.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Orders {
    pub(super) command: Vec<String>,
    pub(super) env: Vec<(String, String)>,
    /// User and group to change to; `None` when the namespace has settled that.
    pub(super) uid: Option<u32>,
    /// What is there before the command is, in order.
    pub(super) companions: Vec<Companion>,
    /// Groups that own the devices the job may use.
    pub(super) device_groups: Vec<u32>,
    pub(super) open_files_max: u64,
    /// A second bound on processes, where the user is the job's alone.
    pub(super) processes_max: Option<u64>,
    /// A bound on the size of one file, where the work folder has no limit of its own.
    pub(super) file_bytes_max: Option<u64>,
    pub(super) landlock: Rules,
    /// Whether the kernel is known to have Landlock, so that doing without is an error.
    pub(super) landlock_required: bool,
}

/// What the helper reports, one JSON object a line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Report {
    /// The command runs.
    Running,
    /// The command cannot be run: the consumer's to mend.
    NotStarted {
        reason: String,
    },
    /// The Sandbox is not as it should be: the provider's to mend.
    SetupFailed {
        reason: String,
    },
    Exited {
        code: i32,
    },
    Signaled {
        signal: i32,
    },
    /// One of the companions ended, and the job with it.
    CompanionEnded {
        reason: String,
    },
}

/// Body of the helper; `args` are the program's arguments after [`SANDBOX_INIT`]. Never returns.
///
/// Call it first thing in `main`, before threads, logging or a runtime exist: it sets limits and filters
/// for the calling thread.
pub fn sandbox_init_main(args: impl IntoIterator<Item = OsString>) -> ! {
    let mut args = args.into_iter().map(|arg| arg.to_str().and_then(|text| text.parse::<RawFd>().ok()));
    let (Some(Some(orders)), Some(Some(report))) = (args.next(), args.next()) else {
        eprintln!("{SANDBOX_INIT} is started by the Sandbox only, with the numbers of two descriptors");
        exit(NOT_STARTED);
    };
    let (Some(orders), Some(report)) = (take(orders), take(report)) else {
        eprintln!("{SANDBOX_INIT}: the two descriptors are not open");
        exit(NOT_STARTED);
    };
    let mut report = File::from(report);
    let code = match run(File::from(orders), &mut report) {
        Ok(code) => code,
        Err(failure) => {
            tell(&mut report, &failure);
            NOT_STARTED
        }
    };
    exit(code)
}

/// Takes over a descriptor that was inherited by number, and keeps it from the command.
fn take(number: RawFd) -> Option<OwnedFd> {
    if number < 3 || !Path::new("/proc/self/fd").join(number.to_string()).exists() {
        return None;
    }
    // SAFETY: the descriptor is open (looked up just now), this process is single-threaded, and nothing else in it knows
    // the number, which was inherited for this use.
    #[allow(unsafe_code, reason = "a descriptor inherited by number has no safe constructor")]
    let fd = unsafe { OwnedFd::from_raw_fd(number) };
    rustix::io::fcntl_setfd(&fd, rustix::io::FdFlags::CLOEXEC).ok()?;
    Some(fd)
}

fn run(orders: File, report: &mut File) -> Result<i32, Report> {
    let orders = read_orders(orders).map_err(|error| broken("read the orders", &error))?;
    // The end of bubblewrap, which ends with the Container, is the end of the namespace. Had it ended before this line,
    // telling would fail below.
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))
        .map_err(|error| broken("bind its life", &error))?;
    set_limits(&orders).map_err(|error| broken("set the limits", &error))?;
    // Shuts /proc/1 to a job that runs as the same user: the report is not the job's to write.
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable).map_err(|error| broken("hide", &error))?;
    std::env::set_current_dir("/work").map_err(|error| broken("enter the work folder", &error))?;
    rustix::thread::set_no_new_privs(true).map_err(|error| broken("renounce privileges", &error))?;
    close_others().map_err(|error| broken("close descriptors", &error))?;
    let fenced = landlock::restrict(&orders.landlock).map_err(|error| broken("apply landlock", &error))?;
    if orders.landlock_required && !fenced {
        return Err(Report::SetupFailed { reason: "the kernel did not apply the landlock ruleset".into() });
    }
    for program in seccomp::programs().map_err(|error| broken("build the system call filter", &error))? {
        seccompiler::apply_filter(&program).map_err(|error| broken("apply the system call filter", &error))?;
    }
    keep_capabilities(&orders).map_err(|error| broken("renounce capabilities", &error))?;
    let user = orders.uid.map(|uid| (uid, orders.device_groups.as_slice()));
    let companions = start_all(&orders.companions, user).map_err(|reason| Report::SetupFailed { reason })?;
    if !companions.is_empty() {
        // The command inherits it: its display is shown while it draws the next picture, however busy it is.
        rustix::process::nice(BEHIND_DISPLAY).map_err(|error| broken("step back behind the display", &error))?;
    }
    let pid = start(&orders)?;
    set_capabilities(None, NO_CAPABILITIES).map_err(|error| broken("renounce capabilities", &error))?;
    if !tell(report, &Report::Running) {
        return Err(Report::SetupFailed { reason: "the Container is gone".into() });
    }
    Ok(supervise(pid, companions, report))
}

fn read_orders(mut file: File) -> io::Result<Orders> {
    file.rewind()?;
    let mut text = Vec::new();
    file.take(ORDERS_BYTES_MAX).read_to_end(&mut text)?;
    serde_json::from_slice(&text).map_err(io::Error::from)
}

/// Keeps what it takes to start the command as another user, and only if that is to be done; nothing can be inherited.
fn keep_capabilities(orders: &Orders) -> rustix::io::Result<()> {
    let change_user = CapabilitySet::SETUID | CapabilitySet::SETGID;
    let kept = if orders.uid.is_some() { change_user } else { CapabilitySet::empty() };
    let inheritable = CapabilitySet::empty();
    set_capabilities(None, CapabilitySets { effective: kept, permitted: kept, inheritable })
}

fn set_limits(orders: &Orders) -> rustix::io::Result<()> {
    let set = |resource, most: u64| setrlimit(resource, Rlimit { current: Some(most), maximum: Some(most) });
    set(Resource::Core, 0)?;
    let ceiling = rustix::process::getrlimit(Resource::Nofile).maximum.unwrap_or(u64::MAX);
    set(Resource::Nofile, orders.open_files_max.min(ceiling))?;
    if let Some(most) = orders.processes_max {
        let ceiling = rustix::process::getrlimit(Resource::Nproc).maximum.unwrap_or(u64::MAX);
        set(Resource::Nproc, most.min(ceiling))?;
    }
    if let Some(most) = orders.file_bytes_max {
        set(Resource::Fsize, most)?;
    }
    Ok(())
}

/// Marks whatever else was inherited to be closed when the command is run.
fn close_others() -> io::Result<()> {
    // SAFETY: with this flag the call only sets a mark on descriptors; it touches no memory and closes nothing here.
    #[allow(unsafe_code, reason = "no safe wrapper of close_range is at hand")]
    let result = unsafe { libc::syscall(libc::SYS_close_range, 3_u32, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn start(orders: &Orders) -> Result<i32, Report> {
    let Some((program, args)) = orders.command.split_first() else {
        return Err(Report::NotStarted { reason: "the command is empty".into() });
    };
    if let Some(found) = find(program, &orders.env)
        && !is_program(&found)
    {
        let reason = format!(
            "{program} is not a program for this machine: check its architecture, or add a first line such as #!/bin/sh"
        );
        return Err(Report::NotStarted { reason });
    }
    let mut command = Command::new(program);
    command.arg0(program).args(args).env_clear().envs(orders.env.iter().map(|(name, value)| (name, value)));
    if let Some(id) = orders.uid {
        become_user(&mut command, id, &orders.device_groups);
    }
    match command.spawn() {
        // Waited for by `supervise`, which reaps every process of the namespace.
        Ok(child) => i32::try_from(child.id()).map_err(|error| broken("read the process id", &error)),
        Err(error) => Err(Report::NotStarted { reason: explain(program, &error, &orders.env) }),
    }
}

/// Has the command run as a user of its own. The helper itself stays what bubblewrap is, root without power: the job can
/// neither signal nor trace it, and bubblewrap's end can end it, which the kernel refuses across users.
pub(super) fn become_user(command: &mut Command, id: u32, device_groups: &[u32]) {
    let groups: Vec<Gid> = device_groups.iter().copied().map(Gid::from_raw).collect();
    let (uid, gid) = (Uid::from_raw(id), Gid::from_raw(id));
    let change = move || {
        set_thread_groups(&groups)?;
        set_thread_res_gid(gid, gid, gid)?;
        set_thread_res_uid(uid, uid, uid)?;
        Ok(())
    };
    // SAFETY: between fork and exec the closure makes three bare system calls on values made before the fork; it neither
    // allocates nor takes a lock.
    #[allow(unsafe_code, reason = "the standard library's own change of user clears the groups of devices")]
    unsafe {
        command.pre_exec(change)
    };
}

/// The file a program's name stands for, as the system looks it up.
fn find(program: &str, env: &[(String, String)]) -> Option<PathBuf> {
    if program.contains('/') {
        return Some(PathBuf::from(program)).filter(|path| path.exists());
    }
    let path = env.iter().find(|(name, _)| name == "PATH").map_or("", |(_, value)| value.as_str());
    path.split(':').map(|dir| Path::new(dir).join(program)).find(|path| path.is_file())
}

/// Whether a file is a script that names its interpreter, or a program of the kind this helper is. The system would hand
/// anything else to a shell, whose complaints help nobody. A file that cannot be read is left to the system's judgement.
fn is_program(path: &Path) -> bool {
    let head = |path: &Path| {
        let mut head = Vec::new();
        File::open(path).and_then(|file| file.take(20).read_to_end(&mut head)).is_ok().then_some(head)
    };
    let (Some(theirs), Some(ours)) = (head(path), head(Path::new("/proc/self/exe"))) else { return true };
    // ELF: the first six bytes are the mark, the word size and the byte order; bytes 18 and 19 name the processor.
    theirs.starts_with(b"#!") || (theirs.get(..6) == ours.get(..6) && theirs.get(18..20) == ours.get(18..20))
}

/// Why a program could not be run, and what to do.
fn explain(program: &str, error: &io::Error, env: &[(String, String)]) -> String {
    let path = env.iter().find(|(name, _)| name == "PATH").map_or("", |(_, value)| value.as_str());
    let there = find(program, env).is_some();
    match error.raw_os_error() {
        Some(libc::ENOENT) if there => format!(
            "the interpreter that {program} names in its first line (or its program loader) does not exist in the sandbox"
        ),
        Some(libc::ENOENT) if program.contains('/') => {
            format!("command not found: {program}; paths start in the work folder: was the file given as an input?")
        }
        Some(libc::ENOENT) => format!(
            "command not found: {program}; it is in none of {path}: give it as an input, or choose a Container that has it"
        ),
        Some(libc::EACCES) => {
            format!("{program} is not executable: set its mode (chmod +x) before giving it as an input")
        }
        Some(libc::E2BIG) => "the command and its environment are too long: put long data into an input file".into(),
        Some(libc::EAGAIN) => "the process limit leaves no room for the command: ask for more processes".into(),
        _ => format!("{program} could not be run: {error}"),
    }
}

/// Reaps until the command itself or a companion of it has ended; the rest of the namespace ends with this process.
fn supervise(command: i32, mut companions: Vec<Staying>, report: &mut File) -> i32 {
    loop {
        match rustix::process::wait(WaitOptions::empty()) {
            Ok(Some((pid, status))) if pid.as_raw_nonzero().get() == command => {
                if let Some(code) = status.exit_status() {
                    tell(report, &Report::Exited { code });
                    return code;
                }
                if let Some(signal) = status.terminating_signal() {
                    tell(report, &Report::Signaled { signal });
                    return 128 + signal;
                }
            }
            Ok(Some((pid, status))) => {
                let pid = pid.as_raw_nonzero().get();
                let Some(companion) = companions.iter_mut().find(|one| one.pid == pid) else { continue };
                let how = match (status.exit_status(), status.terminating_signal()) {
                    (Some(code), _) => format!("code {code}"),
                    (None, Some(signal)) => format!("signal {signal}"),
                    // Stopped, not ended.
                    (None, None) => continue,
                };
                tell(report, &Report::CompanionEnded { reason: companion.farewell(&how) });
                return NOT_STARTED;
            }
            Ok(None) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => {
                tell(report, &broken("wait for the command", &error));
                return NOT_STARTED;
            }
        }
    }
}

fn broken(step: &str, error: &dyn std::error::Error) -> Report {
    Report::SetupFailed { reason: format!("could not {step}: {}", chain(error)) }
}

/// Says whether anybody listens.
fn tell(report: &mut File, what: &Report) -> bool {
    let mut line = serde_json::to_vec(what).expect("a report of plain fields serialises");
    line.push(b'\n');
    report.write_all(&line).is_ok()
}
