//! What bad input gets: a sentence with what was wrong and what to do, its exit code, and nothing changed.

use std::fs;
use std::net::TcpListener;

use crate::world::{PASSPHRASE, Running, User, contents, health, network, refused, texts};

/// Somebody's address.
const ADDRESS: &str = "0x00000000000000000000000000000000000000aa";
/// A private key that everybody knows, and its address.
const KEY: &str = "4c0883a69102937d6231471b5dbb6204fe5129617082792ae468d01a3f362318";
const KEY_ADDRESS: &str = "0x2c7536e3605d9c16a7a3d7b1898e529396a65c23";

/// An address where nobody listens.
fn nowhere() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    format!("http://{}", listener.local_addr().unwrap())
}

#[test]
fn a_wrong_command_line_is_named() {
    fn run<'a>(args: &[&'a str]) -> Vec<&'a str> {
        [&["run"], args, &["--", "true"]].concat()
    }
    let user = User::new();
    user.refused(&["wallet", "list", "--colour"], 2, &["--colour", "--help"]);
    user.refused(&["frobnicate"], 2, &["frobnicate"]);
    user.refused(&run(&["--array", "5-1"]), 2, &["5-1", "ends before it begins"]);
    user.refused(&run(&["--array", "x"]), 2, &["write for example 0-23"]);
    user.refused(&run(&["--array", "0-99999"]), 2, &["more than 10000 tasks"]);
    user.refused(&run(&["--time", "2 weeks"]), 2, &["2 weeks", "10m"]);
    user.refused(&run(&["--time", "0s"]), 2, &["0s"]);
    user.refused(&run(&["--memory", "12 parsecs"]), 2, &["12 parsecs", "512M"]);
    user.refused(&run(&["--cpus", "many"]), 2, &["many"]);
    user.refused(&run(&["--objective", "fastest"]), 2, &["fastest", "cheapest"]);
    user.refused(&run(&["--env", "=x"]), 2, &["NAME=VALUE"]);
    user.refused(&["run", "--cpus", "1"], 2, &["CMD"]);
    user.refused(&["up", "--containers", "0"], 2, &["0"]);
    user.refused(&["wallet", "send", "0x12", "1"], 2, &["40 hex digits"]);
    user.refused(&["wallet", "send", ADDRESS, "lots"], 2, &["12.5"]);
    user.refused(&["container", "stop", "0x12"], 2, &["64 hex digits"]);
    assert!(!user.dir().exists(), "nothing was made");
}

#[test]
fn a_missing_network_file_is_named() {
    let user = User::new();
    user.refused(&["wallet", "balance", ADDRESS], 101, &["network.toml", "muster up", "--network"]);
    let absent = user.dir().join("absent.toml");
    user.refused(&["--network", absent.to_str().unwrap(), "wallet", "balance", ADDRESS], 101, &["absent.toml"]);
    assert!(!user.dir().exists(), "nothing was made");
}

#[test]
fn a_wrong_network_file_is_named_with_its_key() {
    let user = User::new();
    let check = |text: &str, words: &[&str]| {
        let file = user.file("net.toml", text);
        user.refused(&["--network", file.to_str().unwrap(), "wallet", "balance", ADDRESS], 101, words);
    };
    let good = network(31_337, &nowhere());
    check(&good.replace("[chain]", "colour = 1\n[chain]"), &["net.toml", "unknown field `colour`"]);
    check(&good.replace("version = 1", "version = 9"), &["version 9", "update"]);
    check(&good.replace("http://", "ftp://"), &["chain.rpc", "http://"]);
    check(&good.replace(&"11".repeat(20), "11"), &["40 hex digits"]);
    check("this is not toml", &["net.toml", "not valid"]);
}

#[test]
fn an_unreachable_chain_is_not_an_empty_one() {
    let user = User::new();
    let rpc = nowhere();
    let file = user.file("net.toml", &network(31_337, &rpc));
    let args = ["--network", file.to_str().unwrap(), "wallet", "balance", ADDRESS];
    user.refused(&args, 102, &[&rpc, "cannot be reached", "is it running"]);
    let args = ["--network", file.to_str().unwrap(), "--rpc", "gopher://x", "wallet", "balance", ADDRESS];
    user.refused(&args, 102, &["gopher://x", "http://127.0.0.1:8545"]);
}

#[test]
fn another_chain_is_refused() {
    let user = User::new();
    let dir = user.dir().join("chain");
    let args = ["--dir", dir.to_str().unwrap(), "chain", "run", "--listen", "127.0.0.1:0", "--chain-id", "777"];
    let _chain = Running::start(user.command(&args));
    let listen = health(&dir)["listen"].as_str().unwrap().to_owned();
    let file = user.file("net.toml", &network(31_337, &format!("http://{listen}")));
    let with = |args: &[&str]| user.command(&[&["--network", file.to_str().unwrap()], args].concat());
    refused(with(&["wallet", "balance", ADDRESS]), 102, &["chain id 777", "expected 31337"]);

    // The same chain has no contracts: said, and not taken for an empty wallet.
    let file = user.file("right.toml", &network(777, &format!("http://{listen}")));
    user.refused(&["--network", file.to_str().unwrap(), "wallet", "balance", ADDRESS], 102, &["no such contract"]);

    // A second one on the same folder, and on the same port.
    user.refused(&args, 107, &["in use by another Muster", "--dir"]);
    let other = user.dir().join("other");
    let args = ["--dir", other.to_str().unwrap(), "chain", "run", "--listen", &listen];
    user.refused(&args, 107, &[&listen, "--listen"]);
}

#[test]
fn pages_without_a_password_stay_on_loopback() {
    let user = User::new();
    user.refused(
        &["chain", "run", "--listen", "127.0.0.1:0", "--health", "0.0.0.0:0"],
        101,
        &["0.0.0.0:0", "127.0.0.1"],
    );
    user.refused(&["chain", "run", "--listen", "0.0.0.0:0"], 101, &["--allow-remote"]);
}

#[test]
fn a_wallet_needs_its_passphrase() {
    let user = User::new();
    user.refused(&["wallet", "new"], 106, &["no passphrase", "--passphrase-file", "MUSTER_PASSPHRASE"]);
    assert!(!user.dir().exists(), "nothing was made");
    let empty = user.file("empty", "\n");
    user.refused(&["--passphrase-file", empty.to_str().unwrap(), "wallet", "new"], 106, &["is empty"]);
    user.refused(&["--passphrase-file", "/nonexistent", "wallet", "new"], 106, &["/nonexistent"]);

    user.ok(&["wallet", "new"]);
    let before = contents(&user.dir());
    let file = user.file("net.toml", &network(31_337, &nowhere()));
    let send = ["--network", file.to_str().unwrap(), "wallet", "send", ADDRESS, "1"];
    let mut wrong = user.command(&send);
    wrong.env("MUSTER_PASSPHRASE", "battery staple");
    refused(wrong, 106, &["wrong passphrase", "default.json", "nothing was done"]);
    user.refused(&send, 106, &["no passphrase"]);
    assert_eq!(contents(&user.dir()), before, "nothing was changed");
}

#[test]
fn a_missing_wallet_is_named() {
    let user = User::new();
    let file = user.file("net.toml", &network(31_337, &nowhere()));
    let net = file.to_str().unwrap();
    user.refused(&["--network", net, "wallet", "send", ADDRESS, "1"], 106, &["default.json", "muster wallet new"]);
    user.refused(
        &["--network", net, "--wallet", "nobody", "wallet", "balance"],
        106,
        &["nobody", "muster wallet list"],
    );
    user.refused(&["wallet", "balance", "../etc/passwd"], 106, &["there is no wallet ../etc/passwd"]);
    user.refused(&["wallet", "new", "a b"], 106, &["a b", "letters"]);
    user.refused(&["wallet", "balance", "0x1234"], 106, &["0x1234", "40 hex digits"]);
}

#[test]
fn a_wallet_is_never_overwritten() {
    let user = User::new();
    user.ok(&["wallet", "new", "mine"]);
    let before = contents(&user.dir());
    let key = user.file("key", KEY);
    for args in [&["wallet", "new", "mine"][..], &["wallet", "import", key.to_str().unwrap(), "mine"]] {
        let mut command = user.command(args);
        command.env("MUSTER_PASSPHRASE", PASSPHRASE);
        refused(command, 106, &["mine.json", "already", "Nothing was changed"]);
    }
    assert_eq!(contents(&user.dir()), before, "nothing was changed");
}

#[test]
fn wallets_are_made_imported_and_listed() {
    let user = User::new();
    let made = user.json(&["wallet", "new"]);
    let key = user.file("key", &format!("0x{KEY}\n"));
    let imported = user.json(&["wallet", "import", key.to_str().unwrap(), "known"]);
    assert_eq!(imported["address"], KEY_ADDRESS);
    // A keystore is imported with the passphrase that opens it.
    let keystore = imported["keystore"].as_str().unwrap().to_owned();
    let again = user.json(&["wallet", "import", &keystore, "again"]);
    assert_eq!(again["address"], KEY_ADDRESS);
    let list = user.json(&["wallet", "list"]);
    let names: Vec<_> = list["wallets"].as_array().unwrap().iter().map(|w| w["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["again", "default", "known"]);
    assert_eq!(list["wallets"][1]["address"], made["address"]);
    assert_eq!(list["wallets"][1]["chosen"], true);

    let bad = user.file("bad", "not a key");
    let mut command = user.command(&["wallet", "import", bad.to_str().unwrap(), "bad"]);
    command.env("MUSTER_PASSPHRASE", PASSPHRASE);
    let said = refused(command, 106, &["64 hex digits"]);
    assert!(!said.contains("not a key\""), "the text is not repeated: {said}");
    user.refused(&["wallet", "import", "/nonexistent", "bad"], 109, &["/nonexistent"]);
}

#[test]
fn a_newer_folder_is_left_alone() {
    let user = User::new();
    user.ok(&["wallet", "new"]);
    fs::write(user.dir().join("version"), "2\n").unwrap();
    let before = contents(&user.dir());
    for args in [&["wallet", "new", "other"][..], &["lease", "ls"], &["container", "init"]] {
        let mut command = user.command(args);
        command.env("MUSTER_PASSPHRASE", PASSPHRASE);
        refused(command, 108, &["newer Muster", "layout 2", "update Muster"]);
    }
    assert_eq!(contents(&user.dir()), before, "nothing was changed");
    fs::write(user.dir().join("version"), "garbage").unwrap();
    user.refused(&["lease", "ls"], 108, &["damaged", "version"]);
}

#[test]
fn leases_are_found_by_their_beginning_and_damage_is_named() {
    let user = User::new();
    user.refused(&["lease", "show", "0xabc"], 112, &["0xabc", "muster lease ls --all"]);
    assert_eq!(user.json(&["lease", "ls"])["leases"], serde_json::json!([]));
    for digit in ["0", "1"] {
        let folder = user.dir().join("client/leases").join(format!("abc{}", digit.repeat(61)));
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("record"), "this is no record\n").unwrap();
    }
    let before = contents(&user.dir());
    for command in ["show", "logs", "stop"] {
        user.refused(&["lease", command, "0xabc"], 112, &["2 leases begin with \"0xabc\"", "write more"]);
        user.refused(&["lease", command, "fff"], 112, &["fff"]);
        user.refused(&["lease", command, "abc0"], 108, &["damaged", "record", "move its folder away"]);
    }
    user.refused(&["lease", "top-up", "abc0", "1"], 108, &["damaged"]);
    user.refused(&["lease", "top-up", "abc0", "0"], 105, &["adds nothing"]);
    // One damaged record does not hide the others.
    let list = user.json(&["lease", "ls", "--all"]);
    assert_eq!(list["damaged"].as_array().unwrap().len(), 2, "{list}");
    assert_eq!(contents(&user.dir()), before, "nothing was changed");
}

#[test]
fn the_faucet_is_where_the_development_chain_is() {
    let user = User::new();
    let file = user.file("net.toml", &network(31_337, &nowhere()));
    let args = ["--network", file.to_str().unwrap(), "wallet", "faucet", ADDRESS];
    user.refused(&args, 112, &["no faucet here", "development chain", "muster up"]);
    assert!(!user.dir().exists(), "nothing was made");
}

#[test]
fn a_container_says_what_is_wrong_with_its_folder() {
    let user = User::new();
    user.refused(&["container", "status"], 112, &["no Container", "muster container init"]);
    user.refused(&["container", "run"], 101, &["container.toml", "muster container init"]);
    user.refused(&["container", "init"], 101, &["network.toml"]);
    assert!(!user.dir().join("container").exists(), "nothing was made");

    let file = user.file("net.toml", &network(31_337, &nowhere()));
    let net = file.to_str().unwrap();
    user.refused(&["--network", net, "container", "init", "--cpus", "100000"], 101, &["--cpus 100000", "offer less"]);
    user.refused(&["--network", net, "container", "init", "--memory", "9000T"], 101, &["--memory", "offer less"]);
    user.refused(&["--network", net, "container", "init"], 106, &["no passphrase"]);
    assert!(!user.dir().exists(), "nothing was made");

    let made = user.json(&["--network", net, "container", "init", "--cpus", "0.5", "--memory", "256M"]);
    assert_eq!((&made["cpu_millis"], &made["memory_bytes"]), (&500.into(), &(256 << 20).into()));
    let before = contents(&user.dir());
    user.refused(&["--network", net, "container", "init"], 107, &["already", "container.toml", "Nothing was changed"]);
    assert_eq!(contents(&user.dir()), before, "nothing was changed");

    let status = user.run(&["container", "status"]);
    assert_eq!(status.status.code(), Some(103), "{status:?}");
    assert!(texts(&status).0.contains("muster container run"), "{status:?}");
    let lease = format!("0x{}", "ab".repeat(32));
    user.refused(&["container", "stop", &lease], 112, &[&lease, "muster container status"]);

    let config = user.dir().join("container/container.toml");
    let text = fs::read_to_string(&config).unwrap();
    fs::write(&config, format!("colour = 1\n{text}")).unwrap();
    for command in ["run", "status"] {
        user.refused(&["container", command], 101, &["container.toml", "colour"]);
    }
    fs::write(&config, text.replace("cpu_millis = 500", "cpu_millis = 0")).unwrap();
    user.refused(&["container", "run"], 101, &["container.toml", "cpu_millis"]);
}

#[test]
fn programs_get_the_failure_as_an_object() {
    let user = User::new();
    let output = user.run(&["wallet", "balance", ADDRESS, "--json"]);
    assert_eq!(output.status.code(), Some(101));
    let value: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&value["error"]["code"], &value["error"]["name"]), (&101.into(), &"Config".into()));
    assert!(value["error"]["message"].as_str().unwrap().contains("network.toml"), "{value}");
}

#[test]
fn shells_get_their_completions() {
    let user = User::new();
    for shell in ["bash", "zsh", "fish"] {
        let script = user.ok(&["completions", shell]);
        assert!(script.contains("top-up") && script.contains("passphrase-file"), "{shell}");
    }
    user.refused(&["completions", "abacus"], 2, &["abacus", "bash"]);
}

#[test]
fn the_doctor_describes_this_machine_and_what_does_not_answer() {
    let user = User::new();
    let rpc = nowhere();
    let file = user.file("net.toml", &network(31_337, &rpc));
    let output = user.run(&["--network", file.to_str().unwrap(), "doctor", "--json"]);
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    // Whether this machine can serve is its own matter; the code, the word and the reasons must agree.
    let can_serve = report["can_serve"].as_bool().unwrap();
    assert_eq!(output.status.code(), Some(if can_serve { 0 } else { 114 }));
    assert_eq!(can_serve, report["missing"].as_array().unwrap().is_empty(), "{report}");
    assert!(report["machine"]["cpus"].as_u64().unwrap() >= 1);
    assert!(report["sandbox"]["findings"].as_array().unwrap().len() >= 8, "{report}");
    assert_eq!(report["network"]["chain"]["reachable"], false);
    assert!(report["network"]["chain"]["problem"].as_str().unwrap().contains(&rpc), "{report}");
    assert!(!user.dir().exists(), "nothing was made");
}
