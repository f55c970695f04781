//! A folder that is damaged, or from a newer version, is refused with a sentence by `muster up`, at once and by name, and
//! nothing in it is changed; mended, it goes on with what it had, also at another path.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::network::{code, muster, shown, start_and_stop};

fn up(dir: &Path) -> Command {
    let mut up = muster();
    up.arg("--dir").arg(dir).args(["up", "--no-rental", "--checkers", "0", "--gateway-port", "0"]);
    up
}

#[test]
fn a_damaged_folder_is_refused_by_name_and_goes_on_when_it_is_mended() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path();
    // One rental, so that every database holds something.
    let before = start_and_stop(dir, leases);
    let network = fs::read_to_string(dir.join("network.toml")).unwrap();
    for (file, words) in [
        ("chain/chain.redb", &["chain.redb", "damaged", "backup"][..]),
        ("indexer-0/records.sqlite", &["records.sqlite", "damaged", "backup"]),
        ("container-0/container.redb", &["container.redb", "backup"]),
        ("container-0/node.key", &["node.key", "backup"]),
        ("wallets/consumer.json", &["consumer.json", "keystore"]),
    ] {
        let path = dir.join(file);
        let good = fs::read(&path).unwrap();
        let bad: Vec<u8> = good.iter().enumerate().map(|(at, b)| if at < 200 { b ^ 0x5a } else { *b }).collect();
        fs::write(&path, &bad).unwrap();
        // What SQLite wrote last lies beside it, and would mend the page that is spoilt.
        let beside = path.with_file_name("records.sqlite-wal");
        let log = fs::read(&beside).ok();
        if log.is_some() {
            fs::remove_file(&beside).unwrap();
        }
        refused(dir, if file.ends_with("key") || file.ends_with("json") { 106 } else { 108 }, words);
        assert_eq!(fs::read(&path).unwrap(), bad, "{file} was changed");
        fs::write(&path, good).unwrap();
        if let Some(log) = log {
            fs::write(&beside, log).unwrap();
        }
    }
    let config = dir.join("container-0/container.toml");
    let good = fs::read_to_string(&config).unwrap();
    fs::write(&config, format!("colour = 1\n{good}")).unwrap();
    refused(dir, 101, &["container-0", "container.toml", "colour"]);
    fs::write(&config, good).unwrap();
    fs::write(dir.join("version"), "2\n").unwrap();
    refused(dir, 108, &["newer Muster", "update Muster"]);
    fs::write(dir.join("version"), "1\n").unwrap();

    // Moved as a whole, as a backup that is restored elsewhere: nothing in it names its old path.
    let elsewhere = tempfile::tempdir().unwrap();
    let moved = elsewhere.path().join("restored");
    assert!(Command::new("cp").arg("-a").arg(dir).arg(&moved).status().unwrap().success());
    drop(folder);
    let dir = moved.as_path();
    let after = start_and_stop(dir, leases);
    assert_eq!(after["leases"], before["leases"], "what was rented is still known");
    assert_eq!(fs::read_to_string(dir.join("network.toml")).unwrap(), network, "the same network");
}

fn refused(dir: &Path, wanted: i32, words: &[&str]) {
    let output = up(dir).output().unwrap();
    assert_eq!(code(&output), wanted, "{}", shown(&output));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let last = said.split("\nmuster: ").last().unwrap();
    assert!(words.iter().all(|word| last.contains(word)), "{words:?}: {}", shown(&output));
}

/// Rents on the first call, and tells what is known of leases.
fn leases(dir: &Path) -> Value {
    let run = |args: &[&str]| {
        let output = muster().arg("--json").arg("--dir").arg(dir).args(args).output().unwrap();
        assert_eq!(code(&output), 0, "{}", shown(&output));
        serde_json::from_slice::<Value>(&output.stdout).unwrap()
    };
    let known = run(&["lease", "ls", "--all"]);
    if known["leases"].as_array().unwrap().is_empty() {
        run(&["run", "--cpus", "0.2", "--", "echo", "kept"]);
    }
    run(&["lease", "ls", "--all"])
}
