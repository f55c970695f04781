//! Every role is killed with -9 at every step of a lease; the network goes on, and nobody pays for what did not run.
//!
//! The matrix: a column for each role, a row for each step of a lease, once just before the step is written down and once
//! just after. Each cell is exact, because the process that writes the step carries out the kill (`MUSTER_CRASH_AT`,
//! docs/adr/0016-planned-crashes.md). One network serves a whole column.

use std::collections::BTreeMap;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Output, Stdio};

use serde_json::Value;

use crate::network::{Net, code, shown};
use crate::world::health;

/// The steps of a lease, as its two sides write them down.
const STEPS: [&str; 8] = ["accepted", "open", "starting", "running", "voucher", "ended", "settling", "closed"];
/// The sides of a write.
const WHENS: [&str; 2] = ["before", "after"];
/// Long enough for a voucher while it runs.
const JOB: &str = "sleep 1.6; echo the job is done";
const CONTAINERS: usize = 3;

/// Every cell of a column: the step, and the side of its write.
fn cells() -> impl Iterator<Item = (&'static str, &'static str)> {
    STEPS.into_iter().flat_map(|step| WHENS.map(|when| (step, when)))
}

/// Plans the death of the process whose id is in `victim` (nothing: whoever gets there itself).
fn plan(net: &Net, place: &str, victim: Option<&Path>) {
    let draft = net.plan("draft");
    std::fs::write(&draft, victim.map(|v| v.display().to_string()).unwrap_or_default()).unwrap();
    std::fs::rename(draft, net.plan(place)).unwrap();
}

/// A job on the network, with the id of its process where plans look for it.
fn run_job(net: &Net) -> Output {
    let pid_file = net.plan("consumer.pid");
    drop(std::fs::remove_file(&pid_file));
    let args = ["--json", "run", "--cpus", "0.1", "--memory", "32M", "--disk", "32M", "--time", "60", "--"];
    let job = net
        .command(&[&args[..], &["sh", "-c", JOB]].concat())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let draft = net.plan("draft");
    std::fs::write(&draft, job.id().to_string()).unwrap();
    std::fs::rename(draft, pid_file).unwrap();
    job.wait_with_output().unwrap()
}

/// The planned death has happened.
fn must_have_died(net: &Net, place: &str, output: &Output) {
    let died = !net.plan(place).exists() && net.plan(&format!("{place}.taken")).exists();
    assert!(died, "nobody died at {place}: {}\n{}", shown(output), net.logs());
}

/// A job of the Container's, the Indexer's or the chain's column, whose victim dies at each of these steps: its consumer
/// must get what it wants.
fn row(net: &Net, role: Option<&str>, steps: &[&str], when: &str) -> Value {
    let lock = role.map(|role| net.role(role).join("lock"));
    let place = |step: &&str| format!("container-{step}-{when}");
    steps.iter().for_each(|step| plan(net, &place(step), lock.as_deref()));
    let output = run_job(net);
    steps.iter().for_each(|step| must_have_died(net, &place(step), &output));
    let place = format!("{steps:?} {when}");
    assert_eq!(code(&output), 0, "{place}: {}\n{}", shown(&output), net.logs());
    assert!(String::from_utf8_lossy(&output.stderr).contains("the job is done"), "{place}: {}", shown(&output));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let leases = report["tasks"][0]["leases"].as_array().unwrap();
    let (last, earlier) = leases.split_last().unwrap();
    assert_eq!(last["end"], "the job finished", "{place}: {report}");
    for lease in earlier {
        // Every try but the last is accounted for: broken off by its Container, or never opened.
        let interrupted = lease["end"].as_str().is_some_and(|end| end.contains("interrupted"));
        assert!(interrupted || lease["phase"] == "void" || lease["ran_ms"] == 0, "{place}: {report}");
    }
    for role in role.into_iter().map(str::to_owned).chain((0..CONTAINERS).map(|i| format!("container-{i}"))) {
        health(&net.role(&role));
    }
    report
}

fn amount(value: &Value) -> u128 {
    value.as_str().and_then(|text| text.parse().ok()).unwrap_or_else(|| panic!("{value} is no amount"))
}

fn leases(net: &Net) -> Vec<Value> {
    net.json(&["lease", "ls", "--all"])["leases"].as_array().unwrap().clone()
}

/// What the consumer has.
fn wallet(net: &Net) -> u128 {
    amount(&net.json(&["wallet", "balance"])["tokens"])
}

/// The status of every Container; nothing while one does not answer.
fn containers(net: &Net) -> Option<Vec<Value>> {
    let status = net.json(&["container", "status"]);
    let all: Vec<Value> = status["containers"].as_array()?.iter().map(|c| c["status"].clone()).collect();
    all.iter().all(Value::is_object).then_some(all)
}

/// What must hold after any crash: every lease is closed, no Container holds a slot, the consumer has lost what was
/// billed and nothing else, each Container has been paid what was billed for what ran there and can claim it. Of a
/// consumer that lives, each finished job is paid to the last unit.
fn all_is_settled(net: &Net, wallet_before: u128, count: usize, consumer_lives: bool) {
    let all = net.wait_for("every lease to be closed", || {
        let all = leases(net);
        // What only the wallet can do is said, and the command that is named does it.
        for lease in all.iter().filter(|l| l["needs"].is_string()) {
            net.run(&["lease", "stop", lease["id"].as_str().unwrap()]);
        }
        let over = |l: &Value| (l["phase"] == "closed" || l["phase"] == "void") && l["needs"].is_null();
        all.iter().all(over).then_some(all)
    });
    let containers = net.wait_for("every slot to be free", || {
        let all = containers(net)?;
        let free =
            |c: &Value| c["free"]["cpu_millis"] == c["total"]["cpu_millis"] && c["leases"] == Value::Array(vec![]);
        (all.len() == count && all.iter().all(free)).then_some(all)
    });
    let history: BTreeMap<&str, &Value> = containers
        .iter()
        .flat_map(|c| c["history"].as_array().unwrap())
        .map(|row| (row["lease"].as_str().unwrap(), row))
        .collect();
    let (mut billed, mut earned) = (0, 0);
    for lease in &all {
        let paid = amount(&lease["billed"]);
        billed += paid;
        earned += paid - paid / 5;
        let ran = history.get(lease["id"].as_str().unwrap());
        assert_eq!(paid, ran.map_or(0, |row| amount(&row["redeemed"])), "{lease} {ran:?}");
        let ran_ms = ran.map_or(0, |row| u128::from(row["ran_ms"].as_u64().unwrap()));
        let cost = amount(&lease["rate_per_second"]) * ran_ms / 1_000;
        let exact = consumer_lives && lease["end"] == "the job finished";
        assert!(if exact { paid == cost } else { paid <= cost }, "{lease} {ran:?}");
    }
    assert_eq!(wallet_before - wallet(net), billed, "{all:#?}");
    net.wait_for("the Containers to know what they have earned", || {
        let of = |c: &Value| amount(&c["earned"]["claimable"]) + amount(&c["earned"]["pending"]);
        let known: u128 = self::containers(net)?.iter().map(of).sum();
        (known == earned).then_some(())
    });
}

#[test]
fn a_container_killed_at_any_step_interrupts_at_most_and_the_job_is_done() {
    let net = Net::start_with_plans(3);
    let before = wallet(&net);
    for (step, when) in cells() {
        let report = row(&net, None, &[step], when);
        if step == "running" {
            // The work was begun and lost: it is done again, by another Container, without waiting for the chain.
            let leases = report["tasks"][0]["leases"].as_array().unwrap();
            assert_eq!(leases.len(), 2, "{report}");
            assert_ne!(leases[0]["container"], leases[1]["container"], "{report}");
        }
    }
    all_is_settled(&net, before, CONTAINERS, true);
}

#[test]
fn an_indexer_killed_at_any_step_costs_nobody_anything() {
    let net = Net::start_with_plans(3);
    let before = wallet(&net);
    // Containers take seconds to notice a new Indexer at the old address, and no job is matched before: so steps that are
    // a second apart share a job.
    let shared: [&[&str]; 5] =
        [&["accepted"], &["open", "voucher"], &["starting", "ended"], &["running", "settling"], &["closed"]];
    assert_eq!(shared.iter().map(|steps| steps.len()).sum::<usize>(), STEPS.len());
    for steps in shared {
        for when in WHENS {
            row(&net, Some("indexer-0"), steps, when);
        }
    }
    all_is_settled(&net, before, CONTAINERS, true);
}

#[test]
fn a_chain_killed_at_any_step_costs_nobody_anything() {
    let net = Net::start_with_plans(3);
    let before = wallet(&net);
    for (step, when) in cells() {
        row(&net, Some("chain"), &[step], when);
    }
    all_is_settled(&net, before, CONTAINERS, true);
}

#[test]
fn a_consumer_killed_at_any_step_finds_its_job_again() {
    let net = Net::start_with_plans(3);
    let before = wallet(&net);
    for (step, when) in cells() {
        // Two steps are the Container's alone: it has them written down, and then there is no consumer.
        let containers_own = matches!(step, "starting" | "settling");
        let place = format!("{}-{step}-{when}", if containers_own { "container" } else { "consumer" });
        let known = leases(&net).len();
        if containers_own {
            // What the agent still carries to its end must not walk into the plan.
            net.wait_for("earlier leases to be settled", || {
                let waits = |l: &Value| l["phase"] == "accepted";
                containers(&net)?.iter().all(|c| c["leases"].as_array().unwrap().iter().all(waits)).then_some(())
            });
        }
        let pid_file = net.plan("consumer.pid");
        plan(&net, &place, containers_own.then_some(pid_file.as_path()));
        let output = run_job(&net);
        must_have_died(&net, &place, &output);
        assert_eq!(output.status.signal(), Some(9), "{place}: {}", shown(&output));
        // The next command finds what was left behind, and has the agent go on with it. What was never written down was
        // never paid for either.
        let written = (step, when) != ("accepted", "before");
        assert_eq!(leases(&net).len(), known + usize::from(written), "{place}");
    }
    all_is_settled(&net, before, CONTAINERS, false);
    for lease in leases(&net) {
        let end = lease["end"].as_str().unwrap_or("");
        let reported = end == "the job finished" || end.contains("unpaid") || end.contains("never started");
        assert!(reported || lease["phase"] == "void", "{lease}");
    }
}

/// Waits until a Container says that a job runs.
fn wait_until_it_runs(net: &Net) {
    net.wait_for("the job to run", || {
        let runs = |c: &Value| c["leases"].as_array().unwrap().iter().any(|l| l["phase"] == "running");
        containers(net)?.iter().any(runs).then_some(())
    });
}

#[test]
fn a_killed_chain_and_a_killed_indexer_are_survived() {
    let net = Net::start(2);
    let before = wallet(&net);
    let mut job = net
        .command(&["run", "--cpus", "0.2", "--", "sh", "-c", "sleep 5; echo survived"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    wait_until_it_runs(&net);
    net.kill("chain");
    net.kill("indexer-0");
    assert!(job.try_wait().unwrap().is_none(), "the job ended with the chain");
    let output = job.wait_with_output().unwrap();
    assert_eq!(code(&output), 0, "{}", shown(&output));
    assert_eq!(String::from_utf8_lossy(&output.stdout), "survived\n");
    // And the network takes new work.
    let again = net.wait_for("new work to be taken", || {
        let output = net.run(&["run", "--cpus", "0.2", "--", "echo", "again"]);
        (code(&output) == 0).then_some(output)
    });
    assert_eq!(String::from_utf8_lossy(&again.stdout), "again\n");
    all_is_settled(&net, before, 2, true);
}
