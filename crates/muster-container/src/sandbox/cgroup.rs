//! Control groups: which the machine has, and the one of a job.
//!
//! Machines have version 1 (a tree per controller), version 2 (one tree), or both at once (hybrid), so the choice is made
//! for each controller by itself. Jobs live in `PARENT/INSTANCE.JOB` below the top of each tree when the Container is root
//! (as container engines do), else below the Container's own control group if that was delegated to it.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use super::error::SandboxError;
use super::spec::SandboxLimits;
use super::{cgroup_v1, cgroup_v2};

/// Rounds of killing before a control group is given up as stubborn, and the pause between them: 4 s in all, which covers
/// a process that is busy in an uninterruptible write.
const KILL_ROUNDS_MAX: u32 = 400;
const KILL_PAUSE: Duration = Duration::from_millis(10);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Version {
    V1,
    V2,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Controller {
    Memory,
    Pids,
    Cpu,
    CpuAccounting,
}

impl Controller {
    const ALL: [Self; 4] = [Self::Memory, Self::Pids, Self::Cpu, Self::CpuAccounting];

    fn name(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Pids => "pids",
            Self::Cpu => "cpu",
            Self::CpuAccounting => "cpuacct",
        }
    }
}

/// A folder below which control groups with some controller can be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) version: Version,
    pub(super) base: PathBuf,
}

/// Where each controller is, if anywhere.
#[derive(Clone, Debug, Default)]
pub(super) struct Hierarchy {
    places: Vec<(Controller, Place)>,
    /// Why a controller that exists cannot be used, for the report.
    pub(super) refusals: Vec<String>,
}

impl Hierarchy {
    /// Looks at this process's mounts and makes the parent control groups.
    pub(super) fn detect(parent: &str) -> Self {
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        let mut hierarchy = Self::default();
        let mounts: Vec<Mount> = mounts.lines().filter_map(Mount::parse).collect();
        for mount in mounts.iter().filter(|mount| mount.version == Version::V1) {
            hierarchy.add_v1(mount, &own, parent);
        }
        if let Some(mount) = mounts.iter().find(|mount| mount.version == Version::V2) {
            hierarchy.add_v2(mount, &own, parent);
        }
        hierarchy
    }

    pub(super) fn find(&self, controller: Controller) -> Option<&Place> {
        self.places.iter().find(|(have, _)| *have == controller).map(|(_, place)| place)
    }

    /// Every distinct folder below which jobs' control groups lie.
    pub(super) fn places(&self) -> Vec<&Place> {
        let mut distinct: Vec<&Place> = Vec::new();
        for (_, place) in &self.places {
            if !distinct.contains(&place) {
                distinct.push(place);
            }
        }
        distinct
    }

    fn add_v1(&mut self, mount: &Mount, own: &str, parent: &str) {
        let wanted: Vec<Controller> = Controller::ALL
            .into_iter()
            .filter(|controller| {
                self.find(*controller).is_none() && mount.options.iter().any(|o| o == controller.name())
            })
            .collect();
        if wanted.is_empty() {
            return;
        }
        let own = own_path(own, |controllers| controllers.iter().any(|name| mount.options.iter().any(|o| o == name)));
        match cgroup_v1::open(&mount.candidates(own.as_deref()), parent) {
            Ok(base) => {
                let place = Place { version: Version::V1, base };
                self.places.extend(wanted.into_iter().map(|controller| (controller, place.clone())));
            }
            Err(error) => self.refusals.push(format!("{}: {error}", mount.point.display())),
        }
    }

    fn add_v2(&mut self, mount: &Mount, own: &str, parent: &str) {
        let missing: Vec<Controller> =
            Controller::ALL.into_iter().filter(|controller| self.find(*controller).is_none()).collect();
        let own = own_path(own, |controllers| controllers == [""]);
        let wanted: Vec<&str> =
            missing.iter().filter(|c| **c != Controller::CpuAccounting).map(|controller| controller.name()).collect();
        if wanted.is_empty() {
            return;
        }
        match cgroup_v2::open(&mount.candidates(own.as_deref()), parent, &wanted) {
            Ok((base, enabled)) => {
                let place = Place { version: Version::V2, base };
                for controller in missing {
                    // Version 2 counts processor time in every group, without a controller of that name.
                    let there =
                        controller == Controller::CpuAccounting || enabled.iter().any(|name| name == controller.name());
                    if there && !enabled.is_empty() {
                        self.places.push((controller, place.clone()));
                    }
                }
            }
            Err(error) => self.refusals.push(format!("{}: {error}", mount.point.display())),
        }
    }
}

/// One line of `/proc/self/mountinfo` that is a control group tree.
#[derive(Debug)]
struct Mount {
    version: Version,
    /// Which part of the tree is mounted, as the tree names it.
    root: String,
    point: PathBuf,
    options: Vec<String>,
}

impl Mount {
    fn parse(line: &str) -> Option<Self> {
        let (left, right) = line.split_once(" - ")?;
        let mut left = left.split(' ').skip(3);
        let (root, point) = (left.next()?, left.next()?);
        let mut right = right.split(' ');
        let version = match right.next()? {
            "cgroup" => Version::V1,
            "cgroup2" => Version::V2,
            _ => return None,
        };
        let options = right.nth(1)?.split(',').map(str::to_owned).collect();
        Some(Self { version, root: root.to_owned(), point: PathBuf::from(point), options })
    }

    /// Where to try making the parent group: the top of what is mounted, then this process's own group.
    fn candidates(&self, own: Option<&str>) -> Vec<PathBuf> {
        let mut candidates = vec![self.point.clone()];
        if let Some(own) = own {
            let below = if self.root == "/" { Some(own) } else { own.strip_prefix(self.root.as_str()) };
            let below = below.unwrap_or("").trim_matches('/');
            if !below.is_empty() && !below.contains("..") {
                candidates.push(self.point.join(below));
            }
        }
        candidates
    }
}

/// This process's path in the tree that `picks` chooses by its controllers, from the text of `/proc/self/cgroup`.
fn own_path(text: &str, picks: impl Fn(&[&str]) -> bool) -> Option<String> {
    text.lines().find_map(|line| {
        let mut parts = line.splitn(3, ':').skip(1);
        let controllers: Vec<&str> = parts.next()?.split(',').collect();
        let path = parts.next()?;
        picks(&controllers).then(|| path.to_owned())
    })
}

/// What a job has used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counters {
    pub(super) cpu_ns: u64,
    pub(super) memory_peak_bytes: u64,
    /// Processes killed because the memory limit was reached.
    pub(super) oom_kills: u64,
    /// Processes refused because the process limit was reached.
    pub(super) processes_refused: u64,
}

/// The control groups of one job, one folder per distinct tree.
#[derive(Clone, Debug)]
pub(super) struct JobCgroup {
    dirs: Vec<Place>,
    memory: Option<Place>,
    pids: Option<Place>,
    cpu_accounting: Option<Place>,
}

impl JobCgroup {
    /// Makes the groups and sets the limits; on an error nothing is left behind.
    pub(super) fn create(hierarchy: &Hierarchy, name: &str, limits: &SandboxLimits) -> Result<Self, SandboxError> {
        let here = |place: &Place| Place { version: place.version, base: place.base.join(name) };
        let group = Self {
            dirs: hierarchy.places().into_iter().map(here).collect(),
            memory: hierarchy.find(Controller::Memory).map(here),
            pids: hierarchy.find(Controller::Pids).map(here),
            cpu_accounting: hierarchy.find(Controller::CpuAccounting).map(here),
        };
        let made = group.make(hierarchy.find(Controller::Cpu).map(here), limits);
        if made.is_err() {
            // The first error is the one worth telling; a group that stays is found again by the next recovery.
            let _ = group.remove();
        }
        made.map(|()| group)
    }

    fn make(&self, cpu: Option<Place>, limits: &SandboxLimits) -> Result<(), SandboxError> {
        for dir in &self.dirs {
            fs::create_dir(&dir.base).map_err(SandboxError::io("make the control group", &dir.base))?;
        }
        if let Some(Place { version, base }) = &self.memory {
            match version {
                Version::V1 => cgroup_v1::limit_memory(base, limits.memory_bytes)?,
                Version::V2 => cgroup_v2::limit_memory(base, limits.memory_bytes)?,
            }
        }
        if let Some(Place { base, .. }) = &self.pids {
            // One more than rented: the helper that supervises the command inside the Sandbox is a process too.
            write(base, "pids.max", &(u64::from(limits.processes_max) + 1).to_string())?;
        }
        if let Some(Place { version, base }) = &cpu {
            match version {
                Version::V1 => cgroup_v1::limit_cpu(base, limits.cpu_millis)?,
                Version::V2 => cgroup_v2::limit_cpu(base, limits.cpu_millis)?,
            }
        }
        Ok(())
    }

    /// The groups' folders, for the job's record.
    pub(super) fn paths(&self) -> Vec<PathBuf> {
        self.dirs.iter().map(|dir| dir.base.clone()).collect()
    }

    /// Puts a process, and so all its later children, under the limits.
    pub(super) fn add(&self, pid: u32) -> Result<(), SandboxError> {
        self.dirs.iter().try_for_each(|dir| write(&dir.base, "cgroup.procs", &pid.to_string()))
    }

    /// Reads the counters; one that the machine does not keep is zero.
    pub(super) fn counters(&self) -> Counters {
        let mut counters = Counters::default();
        if let Some(Place { version, base }) = &self.memory {
            (counters.memory_peak_bytes, counters.oom_kills) = match version {
                Version::V1 => (cgroup_v1::memory_peak(base), cgroup_v1::oom_kills(base)),
                Version::V2 => (cgroup_v2::memory_peak(base), cgroup_v2::oom_kills(base)),
            };
        }
        if let Some(Place { base, .. }) = &self.pids {
            counters.processes_refused = keyed(base, "pids.events", "max").unwrap_or(0);
        }
        if let Some(Place { version, base }) = &self.cpu_accounting {
            counters.cpu_ns = match version {
                Version::V1 => cgroup_v1::cpu_ns(base),
                Version::V2 => cgroup_v2::cpu_ns(base),
            };
        }
        counters
    }

    /// Sends a signal to every process of the job; those that end meanwhile are no error.
    pub(super) fn signal(&self, signal: Signal) {
        for pid in self.dirs.iter().flat_map(|dir| processes(&dir.base)) {
            let _ = kill_process(pid, signal);
        }
    }

    /// Kills every process of the job and waits until none is left, then removes the groups. Blocks, for 4 s at most.
    pub(super) fn end(&self) -> Result<(), SandboxError> {
        self.dirs.iter().try_for_each(end_group)?;
        self.remove()
    }

    fn remove(&self) -> Result<(), SandboxError> {
        self.dirs.iter().try_for_each(|dir| remove_group(&dir.base))
    }
}

/// Kills all processes of one group and waits until it is empty.
pub(super) fn end_group(group: &Place) -> Result<(), SandboxError> {
    if !group.base.exists() {
        return Ok(());
    }
    // No more forks: without this a fork bomb in a tree without a pids controller could outrun the killing.
    let _ = fs::write(group.base.join("pids.max"), "0");
    if group.version == Version::V2 {
        // Absent before Linux 5.14; the loop below does the same, only slower.
        let _ = fs::write(group.base.join("cgroup.kill"), "1");
    }
    for _ in 0..KILL_ROUNDS_MAX {
        let pids = processes(&group.base);
        if pids.is_empty() {
            return Ok(());
        }
        for pid in pids {
            let _ = kill_process(pid, Signal::KILL);
        }
        sleep(KILL_PAUSE);
    }
    Err(SandboxError::setup("end a job's processes", format!("some in {} survive SIGKILL", group.base.display())))
}

/// Removes an empty group; one that is gone already is no error.
pub(super) fn remove_group(base: &Path) -> Result<(), SandboxError> {
    for _ in 0..KILL_ROUNDS_MAX {
        match fs::remove_dir(base) {
            Ok(()) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            // The kernel takes the last processes out of the group a moment after they are gone.
            Err(error) if error.kind() == io::ErrorKind::ResourceBusy => sleep(KILL_PAUSE),
            Err(error) => return Err(SandboxError::io("remove the control group", base)(error)),
        }
    }
    Err(SandboxError::setup("remove a control group", format!("{} stays busy", base.display())))
}

/// The processes in a group, never this one.
fn processes(base: &Path) -> Vec<Pid> {
    let text = fs::read_to_string(base.join("cgroup.procs")).unwrap_or_default();
    let own = rustix::process::getpid();
    // A zero stands for a process of another pid namespace; such a one is not ours to name.
    text.lines().filter_map(|line| line.parse().ok().and_then(Pid::from_raw)).filter(|pid| *pid != own).collect()
}

/// Processor time for each period, and the period, both in microseconds. The period is short, so that a group that has used
/// its time up stands still for a few milliseconds, which a picture or an answer can wait; the kernel takes no ration under
/// a millisecond.
pub(super) fn cpu_ration(cpu_millis: u32) -> (u64, u64) {
    let period = if cpu_millis < 100 { 100_000 } else { 10_000 };
    (u64::from(cpu_millis) * period / 1000, period)
}

/// Writes one control file.
pub(super) fn write(dir: &Path, file: &str, value: &str) -> Result<(), SandboxError> {
    let path = dir.join(file);
    fs::write(&path, value).map_err(SandboxError::io("write the control file", &path))
}

/// Reads a control file that holds one number; `None` when it is absent.
pub(super) fn number(dir: &Path, file: &str) -> Option<u64> {
    fs::read_to_string(dir.join(file)).ok()?.trim().parse().ok()
}

/// Reads one number of a control file with a `key value` on each line; `None` when it is absent.
pub(super) fn keyed(dir: &Path, file: &str, key: &str) -> Option<u64> {
    let text = fs::read_to_string(dir.join(file)).ok()?;
    text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' ')?.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mountinfo_lines_are_understood() {
        let v1 = "33 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:9 - cgroup cgroup rw,cpu,cpuacct";
        let mount = Mount::parse(v1).expect("a version 1 tree");
        assert_eq!((mount.version, mount.root.as_str()), (Version::V1, "/"));
        assert!(mount.options.contains(&"cpuacct".to_owned()));
        let v2 = "30 23 0:26 /docker/abc /sys/fs/cgroup ro,nosuid - cgroup2 cgroup2 rw,nsdelegate";
        let mount = Mount::parse(v2).expect("a version 2 tree");
        assert_eq!(
            mount.candidates(Some("/docker/abc/x")),
            [PathBuf::from("/sys/fs/cgroup"), "/sys/fs/cgroup/x".into()]
        );
        assert!(Mount::parse("22 1 254:0 / / rw - ext4 /dev/vda rw").is_none());
    }

    #[test]
    fn own_paths_are_picked_by_controller() {
        let text = "5:cpu,cpuacct:/a\n4:memory:/b\n0::/c\n";
        assert_eq!(own_path(text, |c| c.contains(&"memory")).as_deref(), Some("/b"));
        assert_eq!(own_path(text, |c| c == [""]).as_deref(), Some("/c"));
        assert_eq!(own_path(text, |c| c.contains(&"pids")), None);
    }

    #[test]
    fn a_version_2_job_gets_every_limit_in_one_folder() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let place = Place { version: Version::V2, base: dir.path().to_path_buf() };
        let places = Controller::ALL.into_iter().map(|controller| (controller, place.clone())).collect();
        let hierarchy = Hierarchy { places, refusals: Vec::new() };
        let limits = SandboxLimits {
            cpu_millis: 1500,
            memory_bytes: 64 << 20,
            disk_bytes: 0,
            processes_max: 7,
            open_files_max: 9,
        };
        let group = JobCgroup::create(&hierarchy, "x.job", &limits).expect("ordinary files stand in for control files");
        let read = |file: &str| fs::read_to_string(dir.path().join("x.job").join(file)).expect(file);
        assert_eq!(group.paths(), [dir.path().join("x.job")]);
        assert_eq!(read("memory.max"), "67108864");
        assert_eq!(read("memory.swap.max"), "0");
        assert_eq!(read("memory.oom.group"), "1");
        assert_eq!(read("pids.max"), "8");
        assert_eq!(read("cpu.max"), "15000 10000");
        assert_eq!((cpu_ration(100), cpu_ration(99)), ((1_000, 10_000), (9_900, 100_000)));
        for (file, text) in [
            ("cpu.stat", "usage_usec 1234\nuser_usec 1000\n"),
            ("memory.events", "low 0\nmax 9\noom 2\noom_kill 3\noom_group_kill 1\n"),
            ("memory.peak", "4096\n"),
            ("pids.events", "max 5\n"),
        ] {
            fs::write(dir.path().join("x.job").join(file), text).expect(file);
        }
        let expected = Counters { cpu_ns: 1_234_000, memory_peak_bytes: 4096, oom_kills: 3, processes_refused: 5 };
        assert_eq!(group.counters(), expected);
    }
}
