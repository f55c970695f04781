//! `muster run` and `muster lease` against a network of real processes.

use std::io::Write;
use std::process::Stdio;

use crate::network::{Net, code, file, shown};

#[test]
fn jobs_run_and_say_how_they_ended() {
    let net = Net::start(2);
    hello(&net);
    exit_codes(&net);
    standard_input(&net);
    files_go_in_and_come_back(&net);
    demands_that_cannot_be_met(&net);
    a_second_up_is_refused(&net);
    detached_work_is_found_again(&net);
}

fn hello(net: &Net) {
    let output = net.run(&["run", "--cpus", "0.2", "--", "echo", "hello, world"]);
    assert_eq!(code(&output), 0, "{}", shown(&output));
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim_end(), "hello, world");
    assert!(String::from_utf8_lossy(&output.stderr).contains("billed"), "{}", shown(&output));
}

fn exit_codes(net: &Net) {
    for (script, wanted) in [("exit 7", 7), ("kill -9 $$", 137), ("no-such-command-here", 127)] {
        let output = net.run(&["run", "--cpus", "0.2", "--", "sh", "-c", script]);
        assert_eq!(code(&output), wanted, "{script}: {}", shown(&output));
    }
    let output = net.run(&["run", "--cpus", "0.2", "--", "no-such-program"]);
    assert_eq!(code(&output), 127, "{}", shown(&output));
    assert!(String::from_utf8_lossy(&output.stderr).contains("command not found"), "{}", shown(&output));
    // More memory than was rented: said as such.
    let hog = "x=$(head -c 300000000 /dev/zero | tr '\\0' a); echo ${#x}";
    let output = net.run(&["run", "--cpus", "0.5", "--memory", "64M", "--", "sh", "-c", hog]);
    assert_eq!(code(&output), 137, "{}", shown(&output));
    assert!(String::from_utf8_lossy(&output.stderr).contains("more memory than it rented"), "{}", shown(&output));
    let output = net.run(&["run", "--cpus", "0.2", "--time", "2s", "--", "sleep", "60"]);
    assert_eq!(code(&output), 124, "{}", shown(&output));
}

fn standard_input(net: &Net) {
    let mut child = net
        .command(&["run", "--cpus", "0.2", "-i", "--", "sort"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(b"pear\napple\nfig\n").unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "apple\nfig\npear\n", "{}", shown(&output));
}

fn files_go_in_and_come_back(net: &Net) {
    let work = tempfile::tempdir().unwrap();
    let input = file(work.path(), "numbers.txt", b"3\n1\n2\n");
    let out = work.path().join("out");
    let script = "mkdir -p result && sort numbers.txt > result/sorted.txt && ln -s /etc/passwd result/trap";
    let args = [
        "run",
        "--cpus",
        "0.2",
        "--input",
        input.to_str().unwrap(),
        "--output",
        out.to_str().unwrap(),
        "--",
        "sh",
        "-c",
        script,
    ];
    let output = net.run(&args);
    assert_eq!(code(&output), 0, "{}", shown(&output));
    assert_eq!(std::fs::read_to_string(out.join("result/sorted.txt")).unwrap(), "1\n2\n3\n");
    assert!(!out.join("result/trap").exists(), "a link out of the Sandbox came back");

    let vanished = net.run(&["run", "--input", "/nonexistent/file", "--", "true"]);
    assert_eq!(code(&vanished), 109, "{}", shown(&vanished));
}

fn demands_that_cannot_be_met(net: &Net) {
    let output = net.run(&["run", "--gpu", "rtx 4090", "--", "true"]);
    assert_eq!(code(&output), 104, "{}", shown(&output));
    let output = net.run(&["run", "--memory", "900G", "--", "true"]);
    assert_eq!(code(&output), 104, "{}", shown(&output));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("900 GiB"), "the nearest miss is not named: {said}");
    let output = net.run(&["run", "--egress", "--", "true"]);
    assert_eq!(code(&output), 104, "{}", shown(&output));
}

fn a_second_up_is_refused(net: &Net) {
    let output = net.run(&["up", "--no-rental"]);
    assert_eq!(code(&output), 107, "{}", shown(&output));
    assert!(String::from_utf8_lossy(&output.stderr).contains("in use by another Muster"), "{}", shown(&output));
}

fn detached_work_is_found_again(net: &Net) {
    let output = net.run(&["run", "--cpus", "0.2", "--detach", "--", "sh", "-c", "echo begun; sleep 3; echo done"]);
    assert_eq!(code(&output), 0, "{}", shown(&output));
    let lease = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    assert!(lease.starts_with("0x"), "{}", shown(&output));
    let closed = net.wait_for("the detached lease to be closed", || {
        let shown = net.json(&["lease", "show", &lease]);
        (shown["phase"] == "closed").then_some(shown)
    });
    assert_ne!(closed["billed"], "0", "{closed}");
    let logs = net.run(&["lease", "logs", &lease]);
    assert_eq!(String::from_utf8_lossy(&logs.stdout), "begun\ndone\n", "{}", shown(&logs));
}
