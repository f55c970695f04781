//! Commands on a network that runs: money moves, Containers obey their owner.

use serde_json::Value;

use crate::world::{Running, User, eventually, refused};

const STRANGER: &str = "0x00000000000000000000000000000000000000aa";
const TOKEN: u128 = 1_000_000_000_000_000_000;

fn network(user: &User, containers: &str) -> Running {
    let ports = ["--rpc-port", "0", "--gateway-port", "0"];
    let mut command = user.command(&["up", "--no-rental", "--checkers", "0", "--containers", containers]);
    command.args(ports);
    // What a person set for commands must not reach the roles.
    command.env("MUSTER_RPC", "http://127.0.0.1:1").env("MUSTER_WALLET", "nobody");
    let mut up = Running::start(command);
    up.wait_for_line("ready after");
    up
}

fn tokens(value: &Value) -> u128 {
    value.as_str().unwrap().parse().unwrap()
}

fn status(user: &User) -> Vec<Value> {
    user.json(&["container", "status"])["containers"].as_array().unwrap().clone()
}

#[test]
fn money_moves_to_the_last_unit_and_containers_obey() {
    let user = User::of_network();
    let _up = network(&user, "2");
    // The network's own wallet is chosen, and its passphrase is the folder's.
    let run = |args: &[&str]| user.json(args);
    let before = tokens(&run(&["wallet", "balance"])["tokens"]);
    let sent = run(&["wallet", "send", STRANGER, "12.5"]);
    assert_eq!((sent["what"].as_str(), tokens(&sent["amount"])), (Some("tokens"), TOKEN * 25 / 2));
    assert_eq!(tokens(&run(&["wallet", "balance"])["tokens"]), before - TOKEN * 25 / 2);
    assert_eq!(tokens(&run(&["wallet", "balance", STRANGER])["tokens"]), TOKEN * 25 / 2);
    refused(
        user.command(&["wallet", "send", STRANGER, "99999999999"]),
        105,
        &["less than", "nothing was sent", "faucet"],
    );
    refused(user.command(&["wallet", "send", "--ether", STRANGER, "99999999999"]), 105, &["nothing was sent"]);
    refused(user.command(&["wallet", "send", STRANGER, "0"]), 105, &["nothing was sent"]);

    // A stranger's wallet gets tokens, and ether once.
    let pass = user.file("pass", "correct horse");
    let pass = ["--passphrase-file", pass.to_str().unwrap()];
    user.ok(&[&pass[..], &["wallet", "new", "second"]].concat());
    let given = run(&["wallet", "faucet", "second", "--amount", "7"]);
    assert_eq!((tokens(&given["tokens"]), tokens(&given["ether_wei"])), (7 * TOKEN, 10 * TOKEN));
    let given = run(&["wallet", "faucet", "second", "--amount", "1"]);
    assert_eq!((tokens(&given["tokens"]), &given["ether_tx"]), (8 * TOKEN, &Value::Null));
    user.ok(&[&pass[..], &["--wallet", "second", "wallet", "send", "--ether", STRANGER, "0.5"]].concat());
    assert_eq!(tokens(&run(&["wallet", "balance", STRANGER])["ether_wei"]), TOKEN / 2);

    containers_obey(&user);
}

#[test]
fn a_lease_is_shown_stopped_and_paid_for() {
    let user = User::of_network();
    let _up = network(&user, "1");
    let ran = user.run(&["run", "--", "sh", "-c", "echo out; echo err >&2; exit 3"]);
    assert_eq!(ran.status.code(), Some(3), "the job's own code: {ran:?}");
    let leases = user.json(&["lease", "ls", "--all"])["leases"].clone();
    let first = &leases[0];
    assert_eq!((&first["phase"], &first["exit_code"], &first["over"]), (&"closed".into(), &3.into(), &true.into()));
    let id = first["id"].as_str().unwrap();
    let logs = user.json(&["lease", "logs", &id[..10]]);
    assert_eq!((&logs["stdout"], &logs["stderr"]), (&"out\n".into(), &"err\n".into()));
    refused(user.command(&["lease", "stop", id]), 112, &["over already", "code 3"]);
    refused(user.command(&["lease", "top-up", id, "1"]), 112, &["over already"]);

    // Detached work goes on by itself; a top-up and a stop reach it.
    user.ok(&["run", "--detach", "--", "sleep", "600"]);
    let leases = user.json(&["lease", "ls"])["leases"].clone();
    assert_eq!(leases.as_array().unwrap().len(), 1, "{leases}");
    let id = leases[0]["id"].as_str().unwrap().to_owned();
    let running = || {
        let shown = user.json(&["lease", "show", &id]);
        (shown["phase"] == "running" && shown["driven"] == true).then_some(shown)
    };
    let shown = eventually("the detached job", running);
    let topped = user.json(&["lease", "top-up", &id, "1.5"]);
    assert_eq!(tokens(&topped["deposit"]), tokens(&shown["deposit"]) + TOKEN * 3 / 2);
    let works = &status(&user)[0]["status"]["leases"][0];
    assert_eq!((&works["lease"], &works["phase"]), (&id.as_str().into(), &"running".into()));

    let stopped = user.json(&["lease", "stop", &id]);
    assert_eq!((&stopped["phase"], &stopped["interrupted"]), (&"closed".into(), &false.into()), "{stopped}");
    let (billed, refunded) = (tokens(&stopped["billed"]), tokens(&stopped["refunded"]));
    assert_eq!(billed + refunded, tokens(&topped["deposit"]), "to the last unit: {stopped}");
    assert!(billed > 0, "{stopped}");

    // An owner's stop interrupts: the consumer reads why.
    user.ok(&["run", "--detach", "--", "sleep", "600"]);
    let id = user.json(&["lease", "ls"])["leases"][0]["id"].as_str().unwrap().to_owned();
    eventually("the detached job", || (user.json(&["lease", "show", &id])["phase"] == "running").then_some(()));
    user.ok(&["container", "stop", &id]);
    let over = eventually("its settlement", || {
        let shown = user.json(&["lease", "show", &id]);
        (shown["phase"] == "closed").then_some(shown)
    });
    assert_eq!(over["interrupted"], true, "{over}");

    earned(&user, &leases[0]["container"]);
}

fn earned(user: &User, container: &Value) {
    let status = status(user)[0]["status"].clone();
    assert_eq!(&status["id"], container);
    assert_eq!((&status["earned"]["leases"], &status["earned"]["interrupted"]), (&3.into(), &1.into()), "{status}");
    let history = status["history"].as_array().unwrap();
    let paid: u128 = history.iter().map(|h| tokens(&h["redeemed"])).sum();
    assert_eq!(paid, tokens(&status["earned"]["redeemed"]));
    // A fifth is the network's; the rest waits for its delay.
    let claimed = user.json(&["container", "claim"])["containers"][0].clone();
    let due = tokens(&claimed["claimed"]) + tokens(&claimed["pending"]);
    assert!(due > 0 && due <= paid - paid / 5 + 3, "{due} of {paid}: {claimed}");
}

fn containers_obey(user: &User) {
    let all = status(user);
    assert_eq!(all.len(), 2);
    assert!(all.iter().all(|c| c["running"] == true && c["status"]["intent"] == "serving"), "{all:?}");
    user.ok(&["container", "drain"]);
    assert!(status(user).iter().all(|c| c["status"]["intent"] == "draining"));
    // Draining, nobody takes work; the reason reaches whoever asks.
    user.ok(&["container", "resume"]);
    eventually("serving", || status(user).iter().all(|c| c["status"]["intent"] == "serving").then_some(()));
    let text = user.ok(&["container", "status"]);
    assert!(text.starts_with("NAME") && text.contains("container-1"), "{text}");

    // One of them by its own folder.
    let one = user.dir().join("container-1");
    let dir = ["--dir", one.to_str().unwrap()];
    let full = user.ok(&[&dir[..], &["container", "status"]].concat());
    assert!(full.contains("container-1") && full.contains("claimable"), "{full}");
    let claimed = user.json(&[&dir[..], &["container", "claim"]].concat());
    assert_eq!(claimed["containers"][0]["claimed"], "0", "nothing was earned: {claimed}");

    user.ok(&[&dir[..], &["container", "leave"]].concat());
    eventually("the Container's leaving", || {
        let all = status(user);
        (all[1]["status"]["standing"] == "left").then_some(())
    });
    assert_eq!(status(user)[0]["status"]["intent"], "serving", "the other one stays");
    let claimed = user.json(&[&dir[..], &["container", "claim"]].concat());
    let stake = tokens(&claimed["containers"][0]["unbonding"]) + tokens(&claimed["containers"][0]["withdrawn"]);
    assert_eq!(stake, 1_000 * TOKEN, "the stake unbonds: {claimed}");
}
