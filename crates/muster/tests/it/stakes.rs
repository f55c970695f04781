//! Stakes of apps: asked for by a real Gateway, held by a real chain, paid once and brought back to the last unit.

use std::path::PathBuf;
use std::process::{Command, Output};

use serde_json::Value;

use crate::network::{Net, code, file, muster, shown};
use crate::world::health;

const TOKEN: u128 = 1_000_000_000_000_000_000;

fn amount(value: &Value) -> u128 {
    value.as_str().and_then(|text| text.parse().ok()).unwrap_or_else(|| panic!("{value} is no amount"))
}

/// The file of an app; `more` are further lines of it.
fn app(net: &Net, version: &str, more: &str) -> PathBuf {
    let text = format!(
        "name = \"game\"\nversion = \"{version}\"\ntitle = \"Game\"\ncommand = [\"true\"]\nresolutions = [\"640x360\"]\n\
         fps = [30]\n{more}\n[needs]\ncpu_millis = 100\nmemory_mib = 128\ndisk_mib = 16\n"
    );
    file(&net.role(""), "game.toml", text.as_bytes())
}

fn publish(net: &Net, version: &str, more: &str) -> Output {
    net.run(&["--json", "app", "publish", app(net, version, more).to_str().unwrap()])
}

/// Published: what was staked for it.
fn staked(output: &Output) -> Value {
    assert_eq!(code(output), 0, "{}", shown(output));
    let value: Value = serde_json::from_slice(&output.stdout).unwrap();
    value["staked"].clone()
}

fn refused(output: &Output, with: i32, words: &[&str]) {
    let said = shown(output);
    assert_eq!(code(output), with, "{said}");
    words.iter().for_each(|word| assert!(said.contains(word), "{word:?}: {said}"));
}

fn balance(net: &Net) -> u128 {
    amount(&net.json(&["wallet", "balance"])["tokens"])
}

/// Somebody else with a wallet and an API key of their own, on the same machine.
struct Other<'a> {
    net: &'a Net,
    key: String,
}

impl<'a> Other<'a> {
    fn join(net: &'a Net) -> Self {
        let key = net.json(&["api-key", "new", "other"])["key"].as_str().unwrap().to_owned();
        let other = Self { net, key };
        for args in [&["wallet", "new", "other"][..], &["wallet", "faucet", "other", "--amount", "1000"]] {
            let done = other.command(args).output().unwrap();
            assert_eq!(code(&done), 0, "{}", shown(&done));
        }
        other
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = self.net.command(args);
        command.env("MUSTER_PASSPHRASE", "correct horse").env("MUSTER_API_KEY", &self.key);
        command
    }

    fn run(&self, args: &[&str]) -> Output {
        self.command(&[&["--wallet", "other"], args].concat()).output().unwrap()
    }

    fn balance(&self) -> u128 {
        amount(&self.net.json(&["wallet", "balance", "other"])["tokens"])
    }
}

#[test]
fn an_app_takes_a_stake_that_is_paid_once_and_comes_back() {
    let net = Net::start_with_plans(1);
    let before = balance(&net);
    // Killed between the chain and the Gateway: the stake stands, the app is not there.
    std::fs::write(net.plan("app-staked"), "").unwrap();
    let killed = publish(&net, "1", "");
    assert!(killed.status.code().is_none(), "{}", shown(&killed));
    assert_eq!(balance(&net), before - 100 * TOKEN);
    refused(&net.run(&["app", "show", "game"]), 112, &["there is no app"]);
    // The same again goes on from there, and once more changes nothing.
    for _ in 0..2 {
        let staked = staked(&publish(&net, "1", ""));
        assert_eq!((amount(&staked["added"]), amount(&staked["stake"])), (0, 100 * TOKEN), "{staked}");
        assert_eq!(staked["transactions"].as_array().unwrap().len(), 0, "{staked}");
    }
    assert_eq!(balance(&net), before - 100 * TOKEN);
    let shown_stake = |current: bool| {
        let one = net.json(&["app", "show", "game"]);
        let staked = &one["staked"];
        assert_eq!((&staked["status"], &staked["current"]), (&"active".into(), &current.into()), "{one}");
        assert_eq!(staked["owner"], one["publisher"], "{one}");
    };
    shown_stake(true);

    // More is promised, less than the least is refused; a version that never came leaves the one that is there playable.
    let staked_more = staked(&publish(&net, "2", "stake = 150\n"));
    assert_eq!((amount(&staked_more["added"]), amount(&staked_more["stake"])), (50 * TOKEN, 150 * TOKEN));
    refused(&publish(&net, "3", "stake = 99\n"), 101, &["99", "100", "raise or remove"]);
    std::fs::write(net.plan("app-staked"), "").unwrap();
    assert!(publish(&net, "4", "stake = 150\n").status.code().is_none());
    shown_stake(false);
    let listed = net.run(&["app", "ls"]);
    assert!(String::from_utf8_lossy(&listed.stdout).contains("150.0000 MUST"), "{}", shown(&listed));
    assert_eq!(balance(&net), before - 150 * TOKEN);
    staked(&publish(&net, "4", "stake = 150\n"));
    shown_stake(true);

    asked_back_it_is_not_played(&net, before);
    anothers_name_is_not_to_be_had(&net);
    it_comes_back(&net, before);
}

fn asked_back_it_is_not_played(net: &Net, before: u128) {
    let left = net.json(&["app", "withdraw", "game", "--stake-only"]);
    assert_eq!(amount(&left["staked"]["unbonding"]), 150 * TOKEN, "{left}");
    refused(&net.run(&["session", "start", "game"]), 107, &["asked back", "muster app publish"]);
    // Publishing again puts it back instead of paying anew.
    let back = staked(&publish(net, "4", "stake = 150\n"));
    assert_eq!((amount(&back["added"]), amount(&back["stake"])), (0, 150 * TOKEN), "{back}");
    assert_eq!(balance(net), before - 150 * TOKEN);
}

fn anothers_name_is_not_to_be_had(net: &Net) {
    let other = Other::join(net);
    let path = app(net, "1", "");
    let publish = |more: &[&str]| other.run(&[&["app", "publish", path.to_str().unwrap()], more].concat());
    refused(&publish(&["--yes"]), 106, &["belongs to another account"]);
    // The name is free at the Gateway now, and still not on the chain.
    let withdrawn = net.json(&["app", "withdraw", "game"]);
    assert_eq!(amount(&withdrawn["staked"]["unbonding"]), 150 * TOKEN, "{withdrawn}");
    refused(&publish(&["--yes"]), 107, &["staked on the chain by", "choose another name"]);
    assert_eq!(other.balance(), 1_000 * TOKEN);
    // Nobody's tokens are staked unasked.
    let text = std::fs::read_to_string(&path).unwrap().replace("name = \"game\"", "name = \"other-game\"");
    std::fs::write(&path, text).unwrap();
    refused(&publish(&[]), 101, &["100.0000 MUST", "--yes", "nothing was sent"]);
    assert_eq!(other.balance(), 1_000 * TOKEN);
    assert_eq!(code(&publish(&["--yes"])), 0);
    assert_eq!(other.balance(), 900 * TOKEN);
}

fn it_comes_back(net: &Net, before: u128) {
    // Cut off between the Gateway and the chain it would be the same: withdrawn again, it only says when.
    let again = net.json(&["app", "withdraw", "game"]);
    assert_eq!(again["staked"]["transaction"], Value::Null, "{again}");
    refused(&net.run(&["app", "withdraw", "never-there"]), 112, &["there is no app"]);
    let brought = net.wait_for("the stake to be free", || {
        let claimed = net.json(&["app", "claim", "game"]);
        let one = claimed["apps"][0].clone();
        (amount(&one["withdrawn"]) > 0).then_some(one)
    });
    assert_eq!(amount(&brought["withdrawn"]), 150 * TOKEN, "{brought}");
    assert_eq!(balance(net), before, "to the last unit");
    assert_eq!(net.json(&["app", "claim"])["apps"].as_array().unwrap().len(), 0);
    // The name stays its owner's, who may come back.
    assert_eq!(amount(&staked(&publish(net, "5", ""))["added"]), 100 * TOKEN);
}

#[test]
fn a_gateway_that_asks_for_no_stake_takes_apps_without() {
    let net = Net::start(1);
    let dir = net.role("second-gateway");
    let (file, wallet) = (net.file(), net.role("wallets/consumer.json"));
    let second = || {
        let mut command = muster();
        command.arg("--dir").arg(&dir).arg("--network").arg(&file).arg("--wallet").arg(&wallet);
        command.arg("--passphrase-file").arg(net.role("wallets/passphrase"));
        command
    };
    std::fs::create_dir_all(&dir).unwrap();
    let made = second().args(["--json", "api-key", "new", "me"]).output().unwrap();
    assert_eq!(code(&made), 0, "{}", shown(&made));
    let key = serde_json::from_slice::<Value>(&made.stdout).unwrap()["key"].as_str().unwrap().to_owned();
    let mut gateway = second().args(["gateway", "run", "--listen", "127.0.0.1:0"]).spawn().unwrap();
    let listen = health(&dir)["listen"].as_str().unwrap().to_owned();
    let before = balance(&net);
    let path = app(&net, "1", "stake = 500\n");
    let mut command = net.command(&["--json", "app", "publish", path.to_str().unwrap()]);
    let published =
        command.env("MUSTER_API_KEY", &key).env("MUSTER_GATEWAY", format!("http://{listen}")).output().unwrap();
    gateway.kill().unwrap();
    gateway.wait().unwrap();
    assert_eq!(staked(&published), Value::Null, "{}", shown(&published));
    assert_eq!(balance(&net), before);
}
