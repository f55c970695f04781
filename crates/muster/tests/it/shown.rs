//! What a person sees while jobs run: arrays line by line, deposits that run low, leases found again after a reboot.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, Stdio};

use serde_json::Value;

use crate::network::{Net, code, muster, shown};

#[test]
fn arrays_are_shown_live_and_deposits_warn_before_they_are_used_up() {
    let net = Net::start(2);
    tasks_are_shown_while_they_run(&net);
    with_json_the_words_go_to_standard_error(&net);
    a_deposit_ends_the_job_when_it_is_used_up(&net);
    a_deposit_is_topped_up_in_time(&net);
    nothing_is_stuck(&net);
}

fn piped(command: &mut Command) -> Child {
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

fn tasks_are_shown_while_they_run(net: &Net) {
    let gate = tempfile::tempdir().unwrap();
    let script = "echo \"begun $MUSTER_TASK_INDEX\"; printf 'no end' >&2; sleep 4; echo over";
    let args = ["run", "--cpus", "0.2", "--memory", "64M", "--array", "9-10", "--", "sh", "-c", script];
    let mut job = piped(net.command(&args).current_dir(gate.path()));
    let mut lines = BufReader::new(job.stdout.take().unwrap()).lines().map(Result::unwrap);
    let first = lines.next().unwrap();
    assert!(first == " 9 | begun 9" || first == "10 | begun 10", "{first}");
    // Shown while it runs, not afterwards: nothing is over yet.
    let open = net.json(&["lease", "ls"]);
    assert!(open["leases"].as_array().unwrap().iter().any(|l| l["end"].is_null()), "{open}");
    assert!(job.try_wait().unwrap().is_none());
    let mut all: Vec<String> = std::iter::once(first).chain(lines).collect();
    all.sort();
    assert_eq!(all, [" 9 | begun 9", " 9 | over", "10 | begun 10", "10 | over"]);
    let mut said = String::new();
    job.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    assert!(job.wait().unwrap().success(), "{said}");
    // A last line without an end is shown, and ended.
    assert!(said.contains(" 9 | no end\n") && said.contains("10 | no end\n"), "{said}");
    assert!(said.contains("billed"), "{said}");
}

fn with_json_the_words_go_to_standard_error(net: &Net) {
    let args =
        ["--json", "run", "--cpus", "0.2", "--memory", "64M", "--array", "0-1", "--", "sh", "-c", "echo a; echo b >&2"];
    let output = net.run(&args);
    assert_eq!(code(&output), 0, "{}", shown(&output));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["tasks"].as_array().unwrap().len(), 2, "{report}");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let mut lines: Vec<&str> = said.lines().collect();
    lines.sort_unstable();
    assert_eq!(lines, ["0 | a", "0 | b", "1 | a", "1 | b"], "{said}");
}

/// Waits for a line of standard error that holds this; whoever reads on gets the rest.
fn warned(from: &mut impl BufRead, words: &str) -> String {
    let mut seen = String::new();
    loop {
        let mut line = String::new();
        assert!(from.read_line(&mut line).unwrap() > 0, "it never said {words:?}:\n{seen}");
        seen.push_str(&line);
        if line.contains(words) {
            return line;
        }
    }
}

fn a_deposit_ends_the_job_when_it_is_used_up(net: &Net) {
    let output = net.run(&["--json", "run", "--cpus", "0.2", "--deposit", "4s", "--", "sleep", "600"]);
    assert_eq!(code(&output), 125, "{}", shown(&output));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("the deposit lasts") && said.contains("muster lease top-up"), "{}", shown(&output));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let lease = &report["tasks"][0]["leases"][0];
    assert_eq!((&lease["phase"], &lease["billed"]), (&"closed".into(), &lease["deposit"]), "{report}");
    assert_eq!(lease["refunded"], "0", "{report}");
    assert!(report["tasks"][0]["outcome"].as_str().unwrap().contains("deposit"), "{report}");
}

fn a_deposit_is_topped_up_in_time(net: &Net) {
    let script = "sleep 18; echo finished";
    let mut job = piped(&mut net.command(&["run", "--cpus", "0.2", "--deposit", "14s", "--", "sh", "-c", script]));
    let mut said = BufReader::new(job.stderr.take().unwrap());
    warned(&mut said, "add to it with `muster lease top-up`");
    let leases = net.json(&["lease", "ls"]);
    let lease = &leases["leases"][0];
    assert!(lease["deposit_left_seconds"].as_f64().unwrap() < 14.0, "{lease}");
    let topped = net.json(&["lease", "top-up", lease["id"].as_str().unwrap(), "1"]);
    let (before, after) = (amount(&lease["deposit"]), amount(&topped["deposit"]));
    assert_eq!(after, before + 1_000_000_000_000_000_000, "{topped}");
    let mut words = String::new();
    job.stdout.take().unwrap().read_to_string(&mut words).unwrap();
    let mut rest = String::new();
    said.read_to_string(&mut rest).unwrap();
    assert!(job.wait().unwrap().success(), "{rest}");
    assert_eq!(words, "finished\n", "it outlived its first deposit: {rest}");
    let over = net.json(&["lease", "show", lease["id"].as_str().unwrap()]);
    assert_eq!(amount(&over["billed"]) + amount(&over["refunded"]), after, "to the last unit: {over}");
    assert!(amount(&over["billed"]) > before, "more than the first deposit was worth: {over}");
    assert_eq!(over["deposit_left_seconds"], Value::Null, "{over}");
}

fn nothing_is_stuck(net: &Net) {
    assert_eq!(net.json(&["lease", "reclaim"]), serde_json::json!({ "leases": [], "refunded": "0" }));
}

fn amount(value: &Value) -> u128 {
    value.as_str().unwrap_or_else(|| panic!("{value} is no amount")).parse().unwrap()
}

/// A consumer with a folder and a wallet of its own, as on another machine.
struct Consumer<'a> {
    net: &'a Net,
    home: tempfile::TempDir,
}

impl<'a> Consumer<'a> {
    fn new(net: &'a Net) -> Self {
        let consumer = Self { net, home: tempfile::tempdir().unwrap() };
        let made = told(&mut consumer.with_wallet(&["--json", "wallet", "new"]));
        net.json(&["wallet", "faucet", made["address"].as_str().unwrap()]);
        consumer
    }

    /// A process that knows nothing but the folder: no network file, no passphrase.
    fn command(&self, args: &[&str]) -> Command {
        let mut command = muster();
        command.arg("--dir").arg(self.home.path()).args(args);
        command
    }

    fn with_wallet(&self, args: &[&str]) -> Command {
        let mut command = self.command(args);
        command.env("MUSTER_PASSPHRASE", "consumer").env("MUSTER_NETWORK", self.net.file());
        command
    }

    /// A job that says where it is, detached once it runs; gives its lease.
    fn detached(&self, script: &str) -> String {
        let args = ["run", "--cpus", "0.2", "--memory", "64M", "--detach", "--", "sh", "-c", script];
        let output = self.with_wallet(&args).output().unwrap();
        assert_eq!(code(&output), 0, "{}", shown(&output));
        let lease = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        assert!(lease.starts_with("0x"), "{}", shown(&output));
        lease
    }

    /// The machine loses its power: nothing of this consumer is left but its folder.
    fn lose_power(&self) -> u32 {
        let lock = self.home.path().join("client/agent.lock");
        let pid = self.net.wait_for("the agent", || std::fs::read_to_string(&lock).ok()?.trim().parse::<u32>().ok());
        assert!(Command::new("kill").args(["-9", &pid.to_string()]).status().unwrap().success());
        let process = std::path::PathBuf::from(format!("/proc/{pid}"));
        // Its parent, the command that started it, is gone; whoever inherits it may leave a zombie, which holds nothing.
        let gone = || {
            let status = std::fs::read_to_string(process.join("status")).unwrap_or_default();
            (status.is_empty() || status.contains("State:\tZ")).then_some(())
        };
        self.net.wait_for("the agent's end", gone);
        pid
    }
}

fn told(command: &mut Command) -> Value {
    let output = command.output().unwrap();
    serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{e}: {}", shown(&output)))
}

#[test]
fn detached_jobs_are_found_again_after_a_reboot() {
    let net = Net::start(2);
    let consumer = Consumer::new(&net);
    a_short_reboot_costs_nothing(&consumer);
    a_long_one_ends_the_job_by_its_last_voucher(&consumer);
}

fn a_short_reboot_costs_nothing(consumer: &Consumer<'_>) {
    let lease = consumer.detached("echo begun; sleep 12; echo done; exit 5");
    let first = consumer.lose_power();
    // Looking at the lease is enough for an agent to take it up again.
    let shown = told(&mut consumer.command(&["--json", "lease", "show", &lease]));
    assert_eq!(shown["over"], false, "{shown}");
    let logs = consumer.command(&["lease", "logs", "--follow", &lease]).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&logs.stdout), "begun\ndone\n", "{}", crate::network::shown(&logs));
    let closed = consumer.net.wait_for("the lease to be closed", || {
        let shown = told(&mut consumer.command(&["--json", "lease", "show", &lease]));
        (shown["phase"] == "closed").then_some(shown)
    });
    assert_eq!((&closed["exit_code"], &closed["interrupted"]), (&5.into(), &false.into()), "{closed}");
    assert_eq!(amount(&closed["billed"]) + amount(&closed["refunded"]), amount(&closed["deposit"]), "{closed}");
    let second = std::fs::read_to_string(consumer.home.path().join("client/agent.lock")).unwrap();
    assert_ne!(second.trim(), first.to_string(), "another agent");
}

/// Nobody signs for longer than an interval, so the Container stops: what was vouched for is paid, and all of it is told.
fn a_long_one_ends_the_job_by_its_last_voucher(consumer: &Consumer<'_>) {
    let lease = consumer.detached("echo begun; sleep 600");
    consumer.lose_power();
    consumer.net.wait_for("the Containers to be free again", || {
        let status = consumer.net.json(&["container", "status"]);
        let all = status["containers"].as_array()?.clone();
        let free = |c: &Value| c["status"]["free"]["cpu_millis"] == c["status"]["total"]["cpu_millis"];
        all.iter().all(free).then_some(())
    });
    let closed = consumer.net.wait_for("the lease to be closed", || {
        let shown = told(&mut consumer.command(&["--json", "lease", "show", &lease]));
        (shown["phase"] == "closed").then_some(shown)
    });
    assert!(closed["end"].as_str().unwrap().contains("paid"), "it says why it ended: {closed}");
    assert_eq!(closed["interrupted"], false, "the Container did nothing wrong: {closed}");
    assert_eq!(amount(&closed["billed"]) + amount(&closed["refunded"]), amount(&closed["deposit"]), "{closed}");
    let logs = consumer.command(&["lease", "logs", &lease]).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&logs.stdout), "begun\n", "{}", shown(&logs));
}
