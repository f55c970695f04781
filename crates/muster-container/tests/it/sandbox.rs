//! Ordinary jobs: what they get, how they end, and what is left of them.

use std::fs;
use std::io::{Read, Write};

use muster_container::sandbox::{JobEnd, JobId, OutputLimits, Sandbox, SandboxError};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::harness::{self, MIB, finish, host, perl, script, spec};

const OUTPUTS: OutputLimits = OutputLimits { entries_max: 1000, bytes_max: 1 << 30, depth_max: 16 };

#[tokio::test]
async fn exit_codes_signals_and_both_outputs_come_back() {
    let Some(host) = host() else { return };
    let ran = host.run(script("echo out; echo err >&2; exit 7")).await;
    assert_eq!((ran.stdout.as_str(), ran.stderr.as_str()), ("out\n", "err\n"));
    assert_eq!(ran.end, JobEnd::Exited { code: 7 });
    assert_eq!(host.run(script("kill -SEGV $$")).await.end, JobEnd::Signaled { signal: 11 });
    // The code 137 of a job's own is no kill.
    assert_eq!(host.run(script("exit 137")).await.end, JobEnd::Exited { code: 137 });
    assert!(host.run(spec(&["true"])).await.end.is_success());
    let by_name = host.run(script("echo a > /dev/stdout; echo b > /dev/stderr")).await;
    assert_eq!((by_name.stdout.as_str(), by_name.stderr.as_str()), ("a\n", "b\n"));
}

#[tokio::test]
async fn a_job_finds_a_small_clean_system() {
    let Some(host) = host() else { return };
    let mut job =
        script("pwd; echo $HOME $USER $TMPDIR; hostname; whoami; id -u; echo $GIVEN; ls -A /work /tmp; env | wc -l");
    job.env.insert("GIVEN".into(), "a b".into());
    let ran = host.run(job).await;
    let lines: Vec<&str> = ran.stdout.lines().collect();
    assert_eq!(lines[..4], ["/work", "/work job /tmp", "sandbox", "job"], "{ran:?}");
    assert_ne!(lines[4], "0", "a job is never root");
    assert_eq!(lines[5..8], ["a b", "/tmp:", ""], "{ran:?}");
    // PATH, HOME, LANG, TMPDIR, USER, GIVEN, and what the shell adds itself (PWD).
    assert_eq!(lines.last().and_then(|line| line.parse::<u32>().ok()), Some(7), "{ran:?}");
}

#[tokio::test]
async fn what_cannot_run_says_why_and_what_to_do() {
    let Some(host) = host() else { return };
    let check = async |command: &[&str], input: Option<(&str, u32)>, needle: &str| {
        let work = host.prepare("job", &spec(command)).await;
        if let Some((text, mode)) = input {
            work.create_file("tool", mode).expect("input").write_all(text.as_bytes()).expect("write");
        }
        let ran = host.run_in(&work, spec(command)).await;
        work.remove().await.expect("remove");
        assert!(matches!(ran.end, JobEnd::FailedToStart { .. }), "{ran:?}");
        assert!(ran.end.to_string().contains(needle), "{}", ran.end);
        assert_eq!(ran.end.exit_code(), 127);
    };
    check(&["no-such-program"], None, "command not found: no-such-program").await;
    check(&["./missing"], None, "given as an input").await;
    check(&["./tool"], Some(("#!/bin/sh\n", 0o644)), "chmod +x").await;
    check(&["./tool"], Some(("#!/no/such/interpreter\n", 0o755)), "interpreter").await;
    check(&["./tool"], Some(("garbage", 0o755)), "not a program for this machine").await;
}

#[tokio::test]
async fn inputs_go_in_and_outputs_come_out() {
    let Some(host) = host() else { return };
    let job = script("./scene/tool < scene/data > out/frame.txt && ln -s /etc/passwd out/link && mkfifo out/pipe");
    let work = host.prepare("job", &job).await;
    work.create_file("scene/tool", 0o755).expect("tool").write_all(b"#!/bin/sh\ntr a-z A-Z\n").expect("write");
    work.create_file("scene/data", 0o644).expect("data").write_all(b"frame").expect("write");
    work.create_dir("out").expect("folder");
    for name in ["../x", "/etc/x", "a/../../x", ""] {
        assert!(matches!(work.create_file(name, 0o644), Err(SandboxError::FileName { .. })), "{name}");
    }
    let ran = host.run_in(&work, job).await;
    assert!(ran.end.is_success(), "{ran:?}");
    let outputs = work.outputs(&OUTPUTS).expect("outputs");
    let paths: Vec<&str> = outputs.files.iter().map(|file| file.path.as_str()).collect();
    assert_eq!(paths, ["out/frame.txt", "scene/data", "scene/tool"]);
    assert_eq!(outputs.skipped_total, 2);
    let mut text = String::new();
    work.open_output(&outputs.files[0]).expect("open").read_to_string(&mut text).expect("read");
    assert_eq!(text, "FRAME");
    work.remove().await.expect("remove");
}

#[tokio::test]
async fn standard_input_streams_with_backpressure() {
    let Some(host) = host() else { return };
    let mut job = spec(&["cat"]);
    job.stdin = true;
    let work = host.prepare("job", &job).await;
    let mut running = host.sandbox.start(&work, job).await.expect("start");
    let (mut stdin, mut stdout) = (running.stdin.take().expect("stdin"), running.stdout.take().expect("stdout"));
    // Nobody reads: the pipes and cat's buffer fill, and then the writer waits instead of the memory growing.
    let block = vec![b'x'; 64 << 10];
    let mut written = 0_usize;
    while let Ok(result) = tokio::time::timeout(std::time::Duration::from_millis(300), stdin.write(&block)).await {
        written += result.expect("write");
        assert!(written < 8 << 20, "nothing holds the writer back");
    }
    let reader = tokio::spawn(async move {
        let mut all = Vec::new();
        stdout.read_to_end(&mut all).await.expect("read");
        all.len()
    });
    stdin.write_all(&block).await.expect("write on");
    drop(stdin);
    assert_eq!(reader.await.expect("reader"), written + block.len());
    assert!(finish_quietly(running).await.is_success());
    work.remove().await.expect("remove");
}

async fn finish_quietly(running: muster_container::sandbox::RunningJob) -> JobEnd {
    running.wait().await
}

#[tokio::test]
async fn usage_counts_processor_time_and_memory() {
    let Some(host) = host() else { return };
    let job = perl("my $a = 'x' x (60 << 20); my $n = 0; $n += $_ for 1..3_000_000;");
    let work = host.prepare("job", &job).await;
    let running = host.sandbox.start(&work, job).await.expect("start");
    let handle = running.handle();
    assert!(finish(running).await.end.is_success());
    let usage = handle.usage();
    assert!(usage.cpu_ns > 10_000_000, "{usage:?}");
    assert!((60 * MIB..200 * MIB).contains(&usage.memory_peak_bytes), "{usage:?}");
    work.remove().await.expect("remove");
}

#[tokio::test]
async fn the_kill_reason_reaches_the_consumer_and_later_ones_do_not() {
    let Some(host) = host() else { return };
    let job = spec(&["sleep", "1000"]);
    let work = host.prepare("job", &job).await;
    let running = host.sandbox.start(&work, job).await.expect("start");
    running.kill("the lease ended");
    running.kill("something else");
    let ran = finish(running).await;
    assert_eq!(ran.end, JobEnd::Killed { reason: "the lease ended".into() });
    work.remove().await.expect("remove");
}

#[tokio::test]
async fn a_polite_request_lets_the_job_finish() {
    let Some(host) = host() else { return };
    let job = script("trap 'echo saved; exit 3' TERM; echo ready; while :; do sleep 0.05; done");
    let work = host.prepare("job", &job).await;
    let mut running = host.sandbox.start(&work, job).await.expect("start");
    let mut stdout = running.stdout.take().expect("stdout");
    let mut ready = [0_u8; 6];
    stdout.read_exact(&mut ready).await.expect("ready");
    running.handle().ask_to_end();
    let mut rest = String::new();
    stdout.read_to_string(&mut rest).await.expect("read");
    assert_eq!((rest.as_str(), running.wait().await), ("saved\n", JobEnd::Exited { code: 3 }));
    work.remove().await.expect("remove");
}

#[tokio::test]
async fn many_jobs_at_once_do_not_mix() {
    let Some(host) = host() else { return };
    let mut tasks = tokio::task::JoinSet::new();
    for n in 0..8 {
        let sandbox = host.sandbox.clone();
        tasks.spawn(async move {
            let job = script(&format!("echo {n} > file; sleep 0.1; cat file"));
            let id = JobId::new(format!("job-{n}")).expect("name");
            let work = sandbox.prepare(&id, job.limits.disk_bytes).await.expect("prepare");
            let ran = finish(sandbox.start(&work, job).await.expect("start")).await;
            work.remove().await.expect("remove");
            (n.to_string() + "\n", ran)
        });
    }
    while let Some(done) = tasks.join_next().await {
        let (expected, ran) = done.expect("task");
        assert_eq!(ran.stdout, expected, "{ran:?}");
        assert!(ran.end.is_success());
    }
    assert_eq!(fs::read_dir(host.state.path().join("state/jobs")).expect("jobs").count(), 0);
}

#[tokio::test]
async fn a_state_folder_and_a_job_name_have_one_owner() {
    let Some(host) = host() else { return };
    let again = Sandbox::new(harness::config(&host.state));
    assert!(matches!(again, Err(SandboxError::InUse { .. })), "{again:?}");
    let id = JobId::new("job").expect("name");
    let work = host.sandbox.prepare(&id, 8 * MIB).await.expect("prepare");
    assert!(matches!(host.sandbox.prepare(&id, 8 * MIB).await, Err(SandboxError::JobExists { .. })));
    // A recovery spares what this process holds.
    assert_eq!(host.sandbox.recover().await.expect("recover"), []);
    assert!(work.path().exists());
    work.remove().await.expect("remove");
    assert!(host.sandbox.prepare(&id, 8 * MIB).await.is_ok());
}

#[tokio::test]
async fn a_limit_that_cannot_be_is_refused_before_anything_is_made() {
    let Some(host) = host() else { return };
    let id = JobId::new("job").expect("name");
    assert!(matches!(host.sandbox.prepare(&id, 1).await, Err(SandboxError::Invalid { .. })));
    if rustix::process::geteuid().is_root() {
        let huge = host.sandbox.prepare(&id, 1 << 50).await.expect_err("a pebibyte is not there");
        assert!(!huge.to_string().is_empty());
    }
    let work = host.sandbox.prepare(&id, 8 * MIB).await.expect("nothing was left of the refused ones");
    let mismatch = host.sandbox.start(&work, spec(&["true"])).await.expect_err("64 MiB asked, 8 MiB prepared");
    assert!(mismatch.to_string().contains("was prepared with"), "{mismatch}");
}

#[tokio::test]
async fn a_device_is_there_for_the_job_that_was_given_it_and_no_other() {
    let Some(host) = host() else { return };
    // Stands for a graphics card: a device in a folder of its own.
    let device = std::path::Path::new("/dev/net/tun");
    if !device.exists() || !rustix::process::geteuid().is_root() {
        eprintln!("skipped: no /dev/net/tun that could be given");
        return;
    }
    let look = "ls -A /dev/net /sys 2>/dev/null | tr '\\n' ' '; test -c /dev/net/tun && echo device; test -d /sys/class/net && echo sys";
    let mut job = script(look);
    job.devices.push(device.into());
    let ran = host.run(job).await;
    assert_eq!(ran.stdout, "/dev/net: tun  /sys: bus class dev devices device\nsys\n", "{ran:?}");
    assert_eq!(host.run(script(look)).await.stdout, "", "no device, no folder of it, no /sys");
}

#[tokio::test]
async fn packages_lie_over_the_system_of_their_job_alone() {
    let Some(host) = host() else { return };
    if !host.sandbox.capabilities().layers {
        eprintln!("skipped: this machine lays no folders over the system; muster doctor says why");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let write = |path: &str, text: &str| {
        let path = dir.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    };
    for place in ["empty", "mnt/usr", "mnt/etc", "mnt/opt", "mnt/var"] {
        std::fs::create_dir_all(dir.path().join(place)).unwrap();
    }
    let brought = ["usr/share/layer/a", "etc/layer-of-a-test/b", "opt/layer/c", "var/lib/layer/d"];
    brought.iter().for_each(|path| write(&format!("root/{path}"), path));
    // Something secret of the host's has the same name: neither shows.
    write("root/etc/shadow", "mine");
    let mut over = script(
        "cd /; cat usr/share/layer/a etc/layer-of-a-test/b opt/layer/c var/lib/layer/d; test -x /usr/bin/env; echo $?; \
         ls -A /opt /var; cat /etc/shadow; touch /usr/share/layer/new",
    );
    over.over = Some(dir.path().to_owned());
    let ran = host.run(over).await;
    let all = brought.concat();
    assert_eq!(ran.stdout, format!("{all}0\n/opt:\nlayer\n\n/var:\nlib\n"), "{ran:?}");
    assert!(ran.stderr.contains("Read-only") && !ran.stderr.contains("Permission"), "{ran:?}");
    assert!(ran.stderr.contains("/etc/shadow: No such file"), "{ran:?}");
    let mounts = std::fs::read_to_string("/proc/mounts").unwrap();
    assert!(!mounts.contains("root/usr:/usr") && !std::path::Path::new("/usr/share/layer").exists());
    let without = host.run(script("ls /usr/share/layer; cat /proc/self/mountinfo")).await;
    assert!(without.stderr.contains("No such file"), "{without:?}");
}
