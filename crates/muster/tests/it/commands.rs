//! Commands on a network that runs: money moves, Containers obey their owner.

use serde_json::Value;

use crate::world::{Running, User, eventually, refused};

const STRANGER: &str = "0x00000000000000000000000000000000000000aa";
const TOKEN: u128 = 1_000_000_000_000_000_000;

fn network(user: &User, containers: &str) -> Running {
    let args = ["up", "--no-rental", "--rpc-port", "0", "--containers", containers];
    let mut up = Running::start(user.command(&args));
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
    let user = User::new();
    let _up = network(&user, "2");
    // The network's own wallet is chosen, and its passphrase is the folder's.
    let run = |args: &[&str]| -> Value {
        let output = user.run(&[args, &["--json"]].concat());
        assert!(output.status.success(), "{args:?}: {output:?}");
        serde_json::from_slice(&output.stdout).unwrap()
    };
    let before = tokens(&run(&["wallet", "balance"])["tokens"]);
    let sent = run(&["wallet", "send", STRANGER, "12.5"]);
    assert_eq!((sent["what"].as_str(), tokens(&sent["amount"])), (Some("tokens"), TOKEN * 25 / 2));
    assert_eq!(tokens(&run(&["wallet", "balance"])["tokens"]), before - TOKEN * 25 / 2);
    assert_eq!(tokens(&run(&["wallet", "balance", STRANGER])["tokens"]), TOKEN * 25 / 2);
    refused(user.command(&["wallet", "send", STRANGER, "99999999999"]), 105, &["less than", "nothing was sent", "faucet"]);
    refused(user.command(&["wallet", "send", "--ether", STRANGER, "99999999999"]), 105, &["nothing was sent"]);
    refused(user.command(&["wallet", "send", STRANGER, "0"]), 105, &["nothing was sent"]);

    // A stranger's wallet gets tokens, and ether once.
    user.ok(&["wallet", "new", "second"]);
    let given = run(&["wallet", "faucet", "second", "--amount", "7"]);
    assert_eq!((tokens(&given["tokens"]), tokens(&given["ether_wei"])), (7 * TOKEN, 10 * TOKEN));
    let given = run(&["wallet", "faucet", "second", "--amount", "1"]);
    assert_eq!((tokens(&given["tokens"]), &given["ether_tx"]), (8 * TOKEN, &Value::Null));
    user.ok(&["--wallet", "second", "wallet", "send", "--ether", STRANGER, "0.5"]);
    assert_eq!(tokens(&run(&["wallet", "balance", STRANGER])["ether_wei"]), TOKEN / 2);

    containers_obey(&user);
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
