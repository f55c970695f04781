//! Keystores: ours open in other wallets, theirs open here.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use muster_chain::keys::{KeyError, Wallet};

use crate::tools::cast;

#[test]
fn a_keystore_opens_with_its_passphrase_only() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("wallet.json");
    let wallet = Wallet::random();
    assert!(matches!(wallet.save_keystore(&path, ""), Err(KeyError::EmptyPassphrase)));
    wallet.save_keystore(&path, "correct horse").unwrap();
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "nothing is left lying about");

    let opened = Wallet::open_keystore(&path, "correct horse").unwrap();
    assert_eq!((opened.address(), opened.secret()), (wallet.address(), wallet.secret()));
    let wrong = Wallet::open_keystore(&path, "battery staple").unwrap_err();
    assert!(wrong.to_string().starts_with("wrong passphrase for"), "{wrong}");

    let before = fs::read(&path).unwrap();
    assert!(matches!(Wallet::random().save_keystore(&path, "x"), Err(KeyError::Exists { .. })));
    assert_eq!(fs::read(&path).unwrap(), before, "an existing key is never overwritten");
    assert!(!format!("{wallet:?}").contains(&hex::encode(wallet.secret())), "no secret in logs");
}

#[test]
fn what_is_no_keystore_is_refused_with_a_reason() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("wallet.json");
    Wallet::random().save_keystore(&path, "x").unwrap();
    let good: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    let check = |change: &dyn Fn(&mut serde_json::Value), words: &str| {
        let mut json = good.clone();
        change(&mut json);
        let bad = dir.path().join("bad.json");
        fs::write(&bad, json.to_string()).unwrap();
        let error = Wallet::open_keystore(&bad, "x").unwrap_err().to_string();
        assert!(error.contains(words), "{error}");
    };
    check(&|json| json["version"] = 1.into(), "version is not 3");
    check(&|json| json["crypto"]["kdfparams"]["n"] = (1u64 << 40).into(), "out of bounds");
    check(&|json| json["crypto"]["kdfparams"]["dklen"] = 8.into(), "derived key");
    check(&|json| json["crypto"]["cipherparams"]["iv"] = "00".into(), "initialisation vector");
    check(&|json| *json = serde_json::json!([1]), "version");
    assert!(matches!(Wallet::from_hex("12"), Err(KeyError::NotAKey)));
    assert!(matches!(Wallet::from_hex(&"0".repeat(64)), Err(KeyError::NotAKey)));
    assert!(matches!(Wallet::from_hex(&"f".repeat(64)), Err(KeyError::NotAKey)));
}

#[test]
fn other_wallets_read_ours_and_we_read_theirs() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("ours.json");
    let wallet = Wallet::from_hex("0x4c0883a69102937d6231471b5dbb6204fe5129617082792ae468d01a3f362318").unwrap();
    wallet.save_keystore(&path, "pass word").unwrap();
    let output = Command::new(cast())
        .args(["wallet", "address", "--keystore"])
        .arg(&path)
        .args(["--password", "pass word"])
        .output()
        .unwrap();
    let shown = String::from_utf8_lossy(&output.stdout).trim().to_lowercase();
    assert_eq!(shown, "0x2c7536e3605d9c16a7a3d7b1898e529396a65c23", "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(shown, wallet.address().to_string());

    let theirs = Command::new(cast())
        .args(["wallet", "new"])
        .arg(dir.path())
        .args(["theirs", "--unsafe-password", "other words"])
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&theirs.stdout).to_lowercase();
    let opened = Wallet::open_keystore(&dir.path().join("theirs"), "other words").unwrap();
    assert!(text.contains(&opened.address().to_string()), "{text}");
}
