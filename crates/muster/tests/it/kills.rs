//! Every role is killed with -9 while it works; the network goes on, and nobody pays for what did not run.

use crate::network::{Net, code, shown};

/// What must hold after any crash: no Container holds a slot, every lease is closed, and the accounts add up.
fn all_is_settled(net: &Net) {
    net.wait_for("every lease to be closed", || {
        let leases = net.json(&["lease", "ls", "--all"]);
        let all = leases["leases"].as_array()?.clone();
        all.iter().all(|l| l["phase"] == "closed" || l["phase"] == "void").then_some(())
    });
    net.wait_for("every slot to be free", || {
        let status = net.json(&["container", "status"]);
        let containers = status["containers"].as_array()?.clone();
        let free = |c: &serde_json::Value| c["status"]["free"]["cpu_millis"] == c["status"]["total"]["cpu_millis"];
        (containers.len() == 2 && containers.iter().all(free)).then_some(())
    });
}

/// Waits until a Container says that a job runs, and names the Container.
fn where_it_runs(net: &Net) -> String {
    net.wait_for("the job to run", || {
        let status = net.json(&["container", "status"]);
        let runs = |c: &&serde_json::Value| {
            c["status"]["leases"].as_array().is_some_and(|leases| leases.iter().any(|l| l["phase"] == "running"))
        };
        Some(status["containers"].as_array()?.iter().find(runs)?["status"]["name"].as_str()?.to_owned())
    })
}

#[test]
fn a_killed_container_interrupts_and_the_job_is_done_elsewhere() {
    let net = Net::start(2);
    let job = net
        .command(&["--json", "run", "--cpus", "0.2", "--", "sh", "-c", "sleep 6; echo finished"])
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let victim = where_it_runs(&net);
    net.kill(&victim);
    let output = job.wait_with_output().unwrap();
    assert_eq!(code(&output), 0, "{}", shown(&output));
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let leases = report["tasks"][0]["leases"].as_array().unwrap();
    assert_eq!(leases.len(), 2, "{report}");
    assert!(leases[0]["end"].as_str().unwrap().contains("interrupted"), "{report}");
    all_is_settled(&net);
}

#[test]
fn a_killed_chain_and_a_killed_indexer_are_survived() {
    let net = Net::start(2);
    let mut job = net
        .command(&["run", "--cpus", "0.2", "--", "sh", "-c", "sleep 5; echo survived"])
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    where_it_runs(&net);
    net.kill("chain");
    net.kill("indexer-0");
    assert!(job.try_wait().unwrap().is_none(), "the job ended with the chain");
    let output = job.wait_with_output().unwrap();
    assert_eq!(code(&output), 0, "{}", shown(&output));
    assert_eq!(String::from_utf8_lossy(&output.stdout), "survived\n");
    all_is_settled(&net);
    // And the network takes new work.
    let again = net.wait_for("new work to be taken", || {
        let output = net.run(&["run", "--cpus", "0.2", "--", "echo", "again"]);
        (code(&output) == 0).then_some(output)
    });
    assert_eq!(String::from_utf8_lossy(&again.stdout), "again\n");
}

#[test]
fn a_killed_consumer_is_taken_over_by_the_agent() {
    let net = Net::start(2);
    let mut job = net
        .command(&["run", "--cpus", "0.2", "--", "sh", "-c", "echo begun; sleep 8; echo done"])
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    where_it_runs(&net);
    job.kill().unwrap();
    job.wait().unwrap();
    // The next command finds what was left behind and has the agent go on with it.
    let leases = net.json(&["lease", "ls", "--all"]);
    assert_eq!(leases["leases"].as_array().unwrap().len(), 1, "{leases}");
    all_is_settled(&net);
}
