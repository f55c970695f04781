//! What the machine can isolate, found by trying, and what to do about what it cannot.

use std::fmt;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

use serde::{Deserialize, Serialize};

use super::cgroup::{Controller, Hierarchy, Version};
use super::error::{SandboxError, chain};
use super::spec::SandboxConfig;
use super::{gamepads, landlock, over, system, workdir};

/// How much a finding matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// The layer is there.
    Fine,
    /// Jobs run, with one layer less or a coarser limit.
    Degraded,
    /// Jobs are refused until it is mended.
    Missing,
}

/// One layer of isolation and its state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// The layer: `bubblewrap`, `memory limit`, `landlock`, …
    pub layer: String,
    /// How it stands.
    pub severity: Severity,
    /// What was found, as a sentence without a full stop.
    pub found: String,
    /// What to do, as a command or a sentence; empty when nothing needs doing.
    pub mend: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.layer, self.found)?;
        if self.mend.is_empty() { Ok(()) } else { write!(f, "; {}", self.mend) }
    }
}

/// How the size of a work folder is limited.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DiskLimit {
    /// A file system image per job: the kernel refuses the first byte too many.
    Image,
    /// The folder is measured four times a second: a job that passes the limit is ended.
    Watched,
}

/// What this machine can isolate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Capabilities {
    /// Path of bubblewrap, when installed.
    pub bwrap: Option<PathBuf>,
    /// Whether the Container runs as root, so that every job gets a user of its own.
    pub root: bool,
    /// How work folders are limited.
    pub disk_limit: DiskLimit,
    /// The kernel's Landlock version; 0 when it has none.
    pub landlock_abi: u32,
    /// Path of slirp4netns where jobs can get the internet through it.
    pub slirp4netns: Option<PathBuf>,
    /// Path of the X server, where jobs can have a display.
    pub xvfb: Option<PathBuf>,
    /// Path of the sound server, where jobs with a display can have sound.
    pub pulseaudio: Option<PathBuf>,
    /// Whether jobs with a display can have gamepads.
    pub gamepads: bool,
    /// Whether folders of packages can be laid over the system.
    pub layers: bool,
    /// Whether packages that jobs need can be fetched as well.
    pub packages: bool,
    /// Every layer and its state, most important first.
    pub findings: Vec<Finding>,
}

impl Capabilities {
    pub(super) fn detect(config: &SandboxConfig, hierarchy: &Hierarchy) -> Self {
        let root = system::is_root();
        let bwrap = system::find_program("bwrap");
        let mut findings = vec![namespaces(bwrap.as_ref(), root), seccomp(), helper(config)];
        findings
            .extend([Controller::Memory, Controller::Pids, Controller::Cpu].map(|c| controller(c, hierarchy, root)));
        let (disk_limit, finding) = disk(config, root);
        findings.push(finding);
        let landlock_abi = landlock::kernel_abi();
        findings.push(landlock_finding(landlock_abi));
        let slirp4netns = egress(&mut findings, root);
        let (xvfb, pulseaudio) = display(&mut findings);
        let gamepads = gamepads(&mut findings, config, root);
        let (layers, packages) = apps(&mut findings, config, root);
        Self {
            bwrap,
            root,
            disk_limit,
            landlock_abi,
            slirp4netns,
            xvfb,
            pulseaudio,
            gamepads,
            layers,
            packages,
            findings,
        }
    }

    /// The mandatory layers that are missing.
    #[must_use]
    pub fn missing(&self) -> Vec<Finding> {
        self.findings.iter().filter(|finding| finding.severity == Severity::Missing).cloned().collect()
    }
}

fn finding(layer: &str, severity: Severity, found: impl Into<String>, mend: &str) -> Finding {
    Finding { layer: layer.into(), severity, found: found.into(), mend: mend.into() }
}

/// Runs the smallest Sandbox: whatever forbids namespaces on this machine shows here.
fn namespaces(bwrap: Option<&PathBuf>, root: bool) -> Finding {
    let layer = "bubblewrap";
    let Some(bwrap) = bwrap else {
        return finding(layer, Severity::Missing, "it is not installed", "run: apt-get install bubblewrap");
    };
    let mut command = Command::new(bwrap);
    command.args([
        "--unshare-ipc",
        "--unshare-pid",
        "--unshare-net",
        "--unshare-uts",
        "--die-with-parent",
        "--as-pid-1",
    ]);
    if !root {
        command.args(["--unshare-user", "--uid", "1000", "--gid", "1000"]);
    }
    command.args(["--ro-bind", "/", "/", "--proc", "/proc", "--dev", "/dev", "--", "/bin/true"]);
    match system::run_program("try a sandbox", &mut command) {
        Ok(_) => finding(layer, Severity::Fine, format!("{} works", bwrap.display()), ""),
        Err(error) => {
            let mend = if root {
                "inside an OCI container, start that one with the rights to make namespaces and mounts (--privileged)"
            } else {
                "allow unprivileged user namespaces (sysctl kernel.unprivileged_userns_clone=1, or \
                 kernel.apparmor_restrict_unprivileged_userns=0), or run the Container as root"
            };
            finding(layer, Severity::Missing, format!("it cannot make namespaces: {}", chain(&error)), mend)
        }
    }
}

fn seccomp() -> Finding {
    let actions = fs::read_to_string("/proc/sys/kernel/seccomp/actions_avail").unwrap_or_default();
    if !actions.split_whitespace().any(|action| action == "errno") {
        let mend = "boot a kernel with CONFIG_SECCOMP_FILTER";
        return finding("seccomp", Severity::Missing, "the kernel cannot filter system calls", mend);
    }
    match super::seccomp::programs() {
        Ok(_) => finding("seccomp", Severity::Fine, "the kernel filters system calls", ""),
        Err(error) => {
            let mend = "use an x86-64 or 64-bit ARM machine";
            finding("seccomp", Severity::Missing, format!("no filter for this machine: {error}"), mend)
        }
    }
}

fn helper(config: &SandboxConfig) -> Finding {
    if config.init_exe.is_absolute() && config.init_exe.is_file() {
        return finding("helper", Severity::Fine, format!("{} is there", config.init_exe.display()), "");
    }
    let found = format!("the program {} is gone or not absolute", config.init_exe.display());
    finding("helper", Severity::Missing, found, "start this program again from where it is installed")
}

fn controller(controller: Controller, hierarchy: &Hierarchy, root: bool) -> Finding {
    let (layer, absent) = match controller {
        Controller::Memory => ("memory limit", Severity::Missing),
        // A user per job makes the system's own limit of processes per user count for one job.
        Controller::Pids => ("process limit", if root { Severity::Degraded } else { Severity::Missing }),
        Controller::Cpu | Controller::CpuAccounting => ("processor limit", Severity::Degraded),
    };
    if let Some(place) = hierarchy.find(controller) {
        let version = match place.version {
            Version::V1 => 1,
            Version::V2 => 2,
        };
        return finding(
            layer,
            Severity::Fine,
            format!("control groups version {version} at {}", place.base.display()),
            "",
        );
    }
    let mut found = "no control group for it can be made".to_owned();
    if !hierarchy.refusals.is_empty() {
        found = format!("{found} ({})", hierarchy.refusals.join("; "));
    }
    let mend = if root {
        "mount control groups writable (mount -t cgroup2 none /sys/fs/cgroup) and boot without cgroup_disable"
    } else {
        "run the Container as root, or start it with: systemd-run --user --scope -p Delegate=yes muster container run"
    };
    finding(layer, absent, found, mend)
}

fn disk(config: &SandboxConfig, root: bool) -> (DiskLimit, Finding) {
    let watched = |found: String, mend: &str| {
        let found = format!("{found}; work folders are measured while a job runs");
        (DiskLimit::Watched, finding("disk limit", Severity::Degraded, found, mend))
    };
    if config.disk_watch_only {
        return watched("file system images are switched off".into(), "");
    }
    if !root {
        return watched(
            "not root, so no file system can be mounted".into(),
            "run the Container as root for an exact limit",
        );
    }
    for (program, package) in [("mkfs.ext4", "e2fsprogs"), ("mount", "mount")] {
        if system::find_program(program).is_none() {
            return watched(format!("{program} is not installed"), &format!("run: apt-get install {package}"));
        }
    }
    match try_image(config) {
        Ok(()) => (DiskLimit::Image, finding("disk limit", Severity::Fine, "a file system image per job works", "")),
        Err(error) => watched(chain(&error), "give the Container loop devices (/dev/loop-control)"),
    }
}

fn try_image(config: &SandboxConfig) -> Result<(), SandboxError> {
    workdir::try_image(&config.state_dir)
}

fn landlock_finding(abi: u32) -> Finding {
    if abi == 0 {
        let found = "the kernel has none; namespaces and the seccomp filter stand alone";
        return finding("landlock", Severity::Degraded, found, "boot with lsm=landlock,... on Linux 5.13 or newer");
    }
    finding("landlock", Severity::Fine, format!("version {abi}"), "")
}

/// Jobs with egress get a network of their own through slirp4netns; `ip` and `nsenter` close it towards the host.
fn egress(findings: &mut Vec<Finding>, root: bool) -> Option<PathBuf> {
    let mut refuse = |found: &str, mend: &str| {
        let found = format!("jobs that ask for the internet are refused: {found}");
        findings.push(finding("egress", Severity::Degraded, found, mend));
        None
    };
    let programs = [("slirp4netns", "slirp4netns"), ("ip", "iproute2"), ("nsenter", "util-linux")];
    let absent: Vec<&str> =
        programs.iter().filter(|(name, _)| system::find_program(name).is_none()).map(|(_, package)| *package).collect();
    if !absent.is_empty() {
        return refuse("programs are missing", &format!("run: apt-get install {}", absent.join(" ")));
    }
    if !root {
        // Bubblewrap hides the user namespace that owns the job's network inside another one, where nobody can enter it.
        return refuse("not root, so no network can be joined to a job's", "run the Container as root");
    }
    findings.push(finding("egress", Severity::Fine, "slirp4netns is installed", ""));
    system::find_program("slirp4netns")
}

/// Live sessions need an X server; sound and software rendering beside it are a matter of what is installed.
fn display(findings: &mut Vec<Finding>) -> (Option<PathBuf>, Option<PathBuf>) {
    let layer = "live sessions";
    let (xvfb, pulseaudio) = (system::find_program("Xvfb"), system::find_program("pulseaudio"));
    findings.push(match (&xvfb, &pulseaudio) {
        (None, _) => {
            let found = "jobs that ask for a display are refused: the X server is not installed";
            finding(layer, Severity::Degraded, found, "run: apt-get install xvfb libgl1-mesa-dri pulseaudio")
        }
        (Some(_), None) => {
            let found = "jobs can have a display, without sound: PulseAudio is not installed";
            finding(layer, Severity::Degraded, found, "run: apt-get install pulseaudio")
        }
        (Some(_), Some(_)) => finding(layer, Severity::Fine, "jobs can have a display and sound", ""),
    });
    (xvfb, pulseaudio)
}

/// Gamepads of live sessions are virtual devices of the kernel. One is plugged in, and out again.
fn gamepads(findings: &mut Vec<Finding>, config: &SandboxConfig, root: bool) -> bool {
    let layer = "gamepads";
    let name = format!("{}.try-{}", system::instance_of(&config.state_dir), std::process::id());
    // Any user will do for a node that nobody opens but us.
    let tried = gamepads::plug(1, &name, root.then_some(0));
    let there = tried.is_ok();
    findings.push(match tried {
        Ok(_) => finding(layer, Severity::Fine, "live sessions can have virtual gamepads", ""),
        Err(refusal) => {
            let found = format!("live sessions run without gamepads: {}", chain(&refusal));
            finding(layer, Severity::Degraded, found, refusal.mend(root))
        }
    });
    there
}

/// Apps need packages that the machine may not have: fetched by apt, laid over the system by the kernel.
fn apps(findings: &mut Vec<Finding>, config: &SandboxConfig, root: bool) -> (bool, bool) {
    let layer = "apps";
    let layers = over::try_layers(&config.state_dir, root);
    let absent = ["apt-get", "dpkg-deb"].iter().find(|program| system::find_program(program).is_none());
    let degraded = |found: String, mend: &str| {
        let found = format!("packages that apps need are not fetched: {found}");
        finding(layer, Severity::Degraded, found, mend)
    };
    findings.push(match (&layers, absent) {
        (Err(error), _) => degraded(
            chain(error),
            "use Linux 5.11 or newer with overlayfs (modprobe overlay), or install what apps need on this machine",
        ),
        (Ok(()), Some(absent)) => {
            degraded(format!("{absent} is not installed"), "use Debian, or install what apps need on this machine")
        }
        (Ok(()), None) => finding(layer, Severity::Fine, "packages that apps need can be fetched", ""),
    });
    (layers.is_ok(), layers.is_ok() && absent.is_none())
}
