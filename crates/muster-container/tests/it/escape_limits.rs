//! Jobs that try to take more than they rented, and what a crash of the Container leaves.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use muster_container::sandbox::{JobEnd, JobId, Sandbox, SandboxError};

use crate::harness::{self, MIB, host, host_with, perl, script};

#[tokio::test]
async fn filling_memory_ends_the_job_and_says_so() {
    let Some(host) = host() else { return };
    let mut job = perl("my @a; push @a, 'x' x (8 << 20) while 1;");
    job.limits.memory_bytes = 64 * MIB;
    let ran = host.run(job).await;
    assert_eq!(ran.end, JobEnd::OutOfMemory { limit_bytes: 64 * MIB }, "{ran:?}");
    assert!(ran.end.to_string().contains("out of memory at its limit of 64 MiB"));
    // Shared memory counts, and so does a child whose parent survives it.
    let mut job =
        script("head -c 200M /dev/zero > /dev/shm/x; perl -e 'my @a; push @a, \"x\" x (8 << 20) while 1'; sleep 1000");
    job.limits.memory_bytes = 64 * MIB;
    let ran = host.run(job).await;
    assert_eq!(ran.end, JobEnd::OutOfMemory { limit_bytes: 64 * MIB }, "{ran:?}");
}

#[tokio::test]
async fn a_small_memory_limit_does_not_hinder_large_files() {
    let Some(host) = host() else { return };
    let mut job = script("head -c 300M /dev/zero > big && cat big | wc -c");
    job.limits.memory_bytes = 64 * MIB;
    job.limits.disk_bytes = 400 * MIB;
    let ran = host.run(job).await;
    assert_eq!(ran.stdout.trim(), "314572800", "{ran:?}");
    assert!(ran.end.is_success(), "{ran:?}");
}

#[tokio::test]
async fn a_fork_bomb_stays_inside() {
    let Some(host) = host() else { return };
    let mut job =
        perl("$SIG{CHLD} = 'IGNORE'; my $failed = 0; while ($failed < 200) { defined fork or $failed++ } exit 4;");
    job.limits.processes_max = 40;
    let ran = host.run(job).await;
    let ProcessEnd::Limited = ProcessEnd::of(&ran.end, 40) else { panic!("{ran:?}") };
    assert!(ran.end.to_string().contains("another process"), "{}", ran.end);
    // One that never gives up is ended with its lease, all of it.
    let mut job = perl("while (1) { fork }");
    job.limits.processes_max = 30;
    let work = host.prepare("bomb", &job).await;
    let running = host.sandbox.start(&work, job).await.expect("start");
    running.kill("the lease ended");
    assert_eq!(running.wait().await, JobEnd::Killed { reason: "the lease ended".into() });
    work.remove().await.expect("remove");
}

enum ProcessEnd {
    Limited,
    Other,
}

impl ProcessEnd {
    fn of(end: &JobEnd, limit: u32) -> Self {
        match end {
            JobEnd::ProcessLimit { processes_max, code: Some(4) } if *processes_max == limit => Self::Limited,
            _ => Self::Other,
        }
    }
}

#[tokio::test]
async fn processes_and_files_up_to_the_limit_are_given() {
    let Some(host) = host() else { return };
    // The shell and nine sleeps are ten.
    let mut job = script("for i in 1 2 3 4 5 6 7 8 9; do sleep 0.3 & done; wait; echo all");
    job.limits.processes_max = 10;
    let ran = host.run(job).await;
    assert_eq!((ran.stdout.as_str(), ran.stderr.as_str()), ("all\n", ""), "{ran:?}");
    let mut job = script("ulimit -n; ulimit -Hn; ulimit -c");
    job.limits.open_files_max = 99;
    assert_eq!(host.run(job).await.stdout, "99\n99\n0\n");
}

#[tokio::test]
async fn filling_the_disk_hits_the_limit_and_not_the_host() {
    let Some(host) = host() else { return };
    let free = || {
        let stat = rustix::fs::statvfs(host.state.path()).expect("statvfs");
        stat.f_bavail * stat.f_frsize
    };
    let before = free();
    let mut job = script("head -c 8M /dev/zero > /tmp/a; head -c 100M /dev/zero > b");
    job.limits.disk_bytes = 32 * MIB;
    let work = host.prepare("job", &job).await;
    let ran = host.run_in(&work, job).await;
    let JobEnd::DiskFull { limit_bytes, .. } = ran.end else { panic!("{ran:?}") };
    assert_eq!(limit_bytes, 32 * MIB);
    if rustix::process::geteuid().is_root() {
        assert!(ran.stderr.contains("No space left on device"), "{ran:?}");
        let taken = fs::metadata(work.path().join("b")).expect("b").len() + 8 * MIB;
        assert!(taken <= 32 * MIB && taken > 24 * MIB, "{taken}");
    }
    assert!(ran.end.to_string().contains("filled its disk at its limit of 32 MiB"), "{}", ran.end);
    let drop_of_host = before.saturating_sub(free());
    assert!(drop_of_host < 600 * MIB, "{drop_of_host}");
    work.remove().await.expect("remove");
}

#[tokio::test]
async fn endless_small_files_hit_the_limit_too() {
    let Some(host) = host() else { return };
    let mut job = perl("my $n = 0; while (open(my $f, '>', \"f$n\")) { $n++ } print \"$!\"; exit 1;");
    job.limits.disk_bytes = 8 * MIB;
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: without root a folder of empty files is bounded by their number only");
        return;
    }
    let ran = host.run(job).await;
    assert_eq!(ran.stdout, "No space left on device", "{ran:?}");
    assert!(matches!(ran.end, JobEnd::DiskFull { code: Some(1), .. }), "{ran:?}");
}

#[tokio::test]
async fn a_measured_folder_ends_the_job_that_overfills_it() {
    let Some(host) = host_with(|config| config.disk_watch_only = true) else { return };
    let mut job = script("for i in 1 2 3 4 5 6 7 8; do head -c 6M /dev/zero > f$i; done; sleep 1000");
    job.limits.disk_bytes = 32 * MIB;
    let ran = host.run(job).await;
    assert_eq!(ran.end, JobEnd::DiskFull { limit_bytes: 32 * MIB, code: None }, "{ran:?}");
    // One file alone cannot even be begun past the limit.
    let mut job = script("head -c 100M /dev/zero > f");
    job.limits.disk_bytes = 32 * MIB;
    let ran = host.run(job).await;
    assert!(matches!(ran.end, JobEnd::DiskFull { .. }), "{ran:?}");
    let mut job = script("mkdir -p a/b; chmod 000 a/b; chmod 000 a; echo fine");
    job.limits.disk_bytes = 32 * MIB;
    assert_eq!(host.run(job).await.stdout, "fine\n");
}

#[tokio::test]
async fn processor_time_is_rationed() {
    let Some(host) = host() else { return };
    let mut job = perl("my $t = time; my $end = (times)[0] + 0.3; 1 while (times)[0] < $end; print 'spent';");
    job.limits.cpu_millis = 100;
    let work = host.prepare("job", &job).await;
    let running = host.sandbox.start(&work, job).await.expect("start");
    let handle = running.handle();
    let ran = harness::finish(running).await;
    assert_eq!(ran.stdout, "spent");
    let stat = handle.usage();
    assert!(stat.cpu_ns >= 250_000_000, "{stat:?}");
    work.remove().await.expect("remove");
}

/// A process of its own that runs jobs until it is killed: see `a_killed_container_leaves_nothing`.
#[test]
fn child_that_is_killed() {
    let Some(state) = std::env::var_os("MUSTER_TEST_STATE") else { return };
    let runtime = tokio::runtime::Runtime::new().expect("runtime");
    runtime.block_on(async {
        let mut config = harness::config(&tempfile::tempdir().expect("unused"));
        config.state_dir = state.into();
        let sandbox = Sandbox::new(config).expect("sandbox");
        let daemon = leftover_name(std::os::unix::process::parent_id());
        let job = script(&format!(
            "setsid bash -c 'trap \"\" TERM HUP; exec -a {daemon} sleep 1000' & echo x > file; sleep 1000"
        ));
        let running_id = JobId::new("running").expect("name");
        let work = sandbox.prepare(&running_id, job.limits.disk_bytes).await.expect("prepare");
        let prepared_id = JobId::new("prepared").expect("name");
        let _prepared = sandbox.prepare(&prepared_id, job.limits.disk_bytes).await.expect("prepare");
        let running = sandbox.start(&work, job).await.expect("start");
        while !leftover_lives(&daemon) {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
        fs::write(work.path().join("../../../../ready"), "").expect("say that it runs");
        running.wait().await;
    });
}

#[tokio::test]
async fn a_killed_container_leaves_nothing() {
    let Some(host) = host() else { return };
    let state = host.state.path().join("other");
    let daemon = leftover_name(std::process::id());
    let mut child = Killed(
        Command::new(std::env::current_exe().expect("this program"))
            .args(["--exact", "escape_limits::child_that_is_killed", "--nocapture"])
            .env("MUSTER_TEST_STATE", &state)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("start"),
    );
    for _ in 0..600 {
        if state.join("ready").exists() {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
    assert!(state.join("ready").exists(), "the other process got its job running");
    assert!(leftover_lives(&daemon), "and its daemon");
    child.0.kill().expect("kill -9");
    child.0.wait().expect("reaped");
    // The job ends with its Container by itself, before anybody comes to clear up. (It may take the kernel a moment.)
    for _ in 0..600 {
        if !leftover_lives(&daemon) {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
    assert!(!leftover_lives(&daemon), "the job outlives its Container");
    let mut config = harness::config(&host.state);
    config.state_dir = state.clone();
    let sandbox = Sandbox::new(config).expect("the lock went with the process");
    let recovered = sandbox.recover().await.expect("recover");
    let names: Vec<(&str, bool)> =
        recovered.iter().map(|job| (job.id.as_str(), job.started_at_unix_ms.is_some())).collect();
    assert_eq!(names, [("prepared", false), ("running", true)]);
    assert!(recovered.iter().all(|job| job.remains.is_none()), "{recovered:?}");
    assert_eq!(fs::read_dir(state.join("jobs")).expect("jobs").count(), 0);
    let mounts = fs::read_to_string("/proc/self/mounts").expect("mounts");
    assert!(!mounts.contains(&state.display().to_string()), "a mount stays");
    assert_eq!(groups_with_processes(&state), 0);
    assert_eq!(sandbox.recover().await.expect("again"), []);
}

/// A child that does not outlive its test, however that ends.
struct Killed(std::process::Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What the job's daemon calls itself, for the test in process `test`.
fn leftover_name(test: u32) -> String {
    format!("muster-leftover-{test}")
}

fn leftover_lives(name: &str) -> bool {
    let mut processes = fs::read_dir("/proc").expect("/proc").flatten();
    processes.any(|entry| fs::read(entry.path().join("cmdline")).is_ok_and(|text| text.starts_with(name.as_bytes())))
}

/// Counts control groups of a state folder, by asking for one to be made with the same name.
fn groups_with_processes(state: &Path) -> usize {
    let instance = {
        let hash = blake3::hash(state.canonicalize().expect("folder").as_os_str().as_encoded_bytes());
        hex::encode(&hash.as_bytes()[..6])
    };
    let tops = ["memory", "pids", "cpu", "cpuacct", "unified", "."].map(|name| Path::new("/sys/fs/cgroup").join(name));
    let groups = tops.iter().flat_map(|top| fs::read_dir(top.join("muster-test")).into_iter().flatten().flatten());
    groups.filter(|entry| entry.file_name().to_string_lossy().starts_with(&instance)).count()
}

#[tokio::test]
async fn a_damaged_record_hides_nothing() {
    let Some(host) = host() else { return };
    let jobs = host.state.path().join("state/jobs");
    for (name, text) in [("empty", ""), ("garbage", "{\"id\":"), ("foreign", "{\"version\":99}")] {
        fs::create_dir(jobs.join(name)).expect("folder");
        fs::write(jobs.join(name).join("job.json"), text).expect("record");
    }
    fs::create_dir(jobs.join("no-record")).expect("folder");
    let recovered = host.sandbox.recover().await.expect("recover");
    assert_eq!(recovered.len(), 4, "{recovered:?}");
    assert!(recovered.iter().all(|job| job.remains.is_none() && job.started_at_unix_ms.is_none()));
    assert_eq!(fs::read_dir(&jobs).expect("jobs").count(), 0);
}

#[test]
fn a_machine_that_lacks_a_layer_is_told_what_to_do() {
    let state = tempfile::tempdir().expect("temporary folder");
    let mut config = harness::config(&state);
    config.init_exe = "/no/such/program".into();
    let error = Sandbox::new(config).expect_err("no helper");
    assert!(
        matches!(&error, SandboxError::Unsafe { missing } if missing.iter().any(|f| f.layer == "helper")),
        "{error}"
    );
    assert!(error.to_string().contains("/no/such/program"), "{error}");
}
