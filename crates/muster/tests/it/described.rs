//! The API's description against the API: schemathesis, a stranger that believes what it reads there.

use std::path::PathBuf;
use std::process::Command;

use crate::network::{Net, code, shown};

/// How long it may try, in seconds.
const SECONDS: &str = "25";

#[test]
fn a_stranger_who_believes_the_description_is_content() {
    // Asked for at run time: a binary kept from another checkout must not look there.
    let here = PathBuf::from(std::env::var_os("CARGO_MANIFEST_DIR").expect("cargo names the folder to tests"));
    let requirements = here.join("tests/schemathesis/requirements.txt");
    let install = Command::new(here.join("../../scripts/venv.sh")).arg("schemathesis").arg(requirements).output();
    let install = install.unwrap();
    assert_eq!(code(&install), 0, "{}", shown(&install));
    let python = PathBuf::from(String::from_utf8(install.stdout).unwrap().trim());
    let net = Net::start(1);
    let deploy = || {
        let deployed = net.run(&["--json", "model", "deploy", "tiny"]);
        assert_eq!(code(&deployed), 0, "{}\n{}", shown(&deployed), net.logs());
    };
    deploy();
    let key = std::fs::read_to_string(net.role("gateway.key")).unwrap();
    let origin = std::fs::read_to_string(net.role("gateway-0").join("origin")).unwrap();
    let tried = Command::new(python.join("bin/schemathesis"))
        .args(["run", &format!("{}/api/openapi.json", origin.trim())])
        .args(["-H", &format!("Authorization: Bearer {}", key.trim())])
        .args(["--phases", "coverage,fuzzing", "--seed", "7", "--max-time", SECONDS, "--no-color"])
        .args(["--request-timeout", "30", "--continue-on-failure", "--workers", "1", "--warnings", "off"])
        // What a schema cannot say is refused as well: names that exist, prices that can be paid.
        .args(["--exclude-checks", "positive_data_acceptance"])
        .current_dir(net.role(""))
        .env("NO_PROXY", "*")
        .output()
        .unwrap();
    assert_eq!(code(&tried), 0, "{}", shown(&tried));
    assert!(shown(&tried).contains("generated"), "{}", shown(&tried));
    // It is as well as before; what the stranger has read of, it may have removed.
    deploy();
    let chat = net.run(&["model", "chat", "tiny", "hello", "--max-tokens", "4"]);
    assert_eq!(code(&chat), 0, "{}\n{}", shown(&chat), net.logs());
}
