//! `muster gpu`: what is here, and proofs of it.

use crate::world::User;

#[test]
fn a_machine_without_a_card_proves_itself() {
    let user = User::new();
    let listed = user.json(&["gpu", "list"]);
    let adapters = listed["adapters"].as_array().unwrap();
    let last = &adapters.last().unwrap()["adapter"];
    assert_eq!(last["vulkan"], false, "the processor itself is the last: {listed}");
    let picture = tempfile::tempdir().unwrap();
    let file = picture.path().join("picture.png");
    let index = last["index"].to_string();
    // How fast a busy machine is today is not tested, so either end will do; that there is a proof is.
    let output = user.run(&["gpu", "prove", "--quick", "--json", "--adapter", &index, "--out", file.to_str().unwrap()]);
    let proven: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(proven["proof_bytes"].as_u64().unwrap() > 10_000, "{proven}");
    assert_eq!(proven["known"], false, "{proven}");
    assert_eq!(output.status.code(), Some(if proven["passed"] == true { 0 } else { 115 }), "{proven}");
    assert!(std::fs::read(&file).unwrap().starts_with(b"\x89PNG"));
    user.refused(&["gpu", "prove", "--quick", "--adapter", "99"], 112, &["adapter 99", "gpu list"]);
}

#[test]
fn tables_are_signed_by_whoever_holds_the_key() {
    let user = User::new();
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    std::fs::write(at("t.toml"), include_str!("../../../../calibration/calibration.toml")).unwrap();
    let made = user.json(&["gpu", "sign-calibration", &at("t.toml"), "--key", &at("key")]);
    assert_eq!(std::fs::read_to_string(at("t.sig")).unwrap().trim().len(), 128);
    let again = user.json(&["gpu", "sign-calibration", &at("t.toml"), "--key", &at("key")]);
    assert_eq!(made["issuer"], again["issuer"], "the key is kept");
    std::fs::write(at("t.toml"), "serial = 1").unwrap();
    user.refused(&["gpu", "sign-calibration", &at("t.toml"), "--key", &at("key")], 101, &["t.toml"]);
}
