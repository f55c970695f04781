//! Foundry's cast and viem against the embedded chain, unchanged.

use std::path::PathBuf;
use std::process::Command;

use muster_chain::keys::Wallet;

use crate::programs::{STORE, deployer};
use crate::world::{CHAIN_ID, Served};

/// This crate's folder, asked for at run time: a binary kept from another checkout must not look there.
fn here() -> PathBuf {
    PathBuf::from(std::env::var_os("CARGO_MANIFEST_DIR").expect("cargo names the folder to tests"))
}

fn contracts() -> PathBuf {
    here().join("../../contracts")
}

/// A tool that contracts/build.sh installs.
#[track_caller]
fn tool(name: &str) -> PathBuf {
    let path = contracts().join("node_modules/.bin").join(name);
    assert!(path.exists(), "{name} is missing at {}: run contracts/build.sh, which installs it", path.display());
    path
}

#[track_caller]
pub(crate) fn cast() -> PathBuf {
    tool("cast")
}

#[track_caller]
pub(crate) fn anvil() -> PathBuf {
    tool("anvil")
}

struct Cast {
    url: String,
    key: String,
}

impl Cast {
    #[track_caller]
    fn run(&self, args: &[&str]) -> String {
        let mut command = Command::new(cast());
        let (subcommand, rest) = args.split_first().unwrap();
        command
            .arg(subcommand)
            .args(["--rpc-url", &self.url])
            .args(rest)
            .env_remove("ETH_RPC_URL")
            .env("FOUNDRY_DISABLE_NIGHTLY_WARNING", "1");
        let output = command.output().unwrap();
        let errors = String::from_utf8_lossy(&output.stderr);
        // The npm wrapper of cast hides its exit code; an error shows as text.
        assert!(output.status.success() && !errors.contains("rror:"), "cast {args:?}: {errors}");
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }

    #[track_caller]
    fn send(&self, args: &[&str]) -> serde_json::Value {
        let mut all = vec!["send", "--json", "--private-key", &self.key];
        all.extend(args);
        serde_json::from_str(&self.run(&all)).unwrap()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn cast_works_unchanged() {
    let served = Served::start().await;
    let cast = Cast { url: served.url(), key: hex::encode(served.faucet.secret()) };
    tokio::task::spawn_blocking(move || with_cast(&cast)).await.unwrap();
}

fn with_cast(cast: &Cast) {
    assert_eq!(cast.run(&["chain-id"]), CHAIN_ID.to_string());
    let to = Wallet::random().address().to_string();
    let receipt = cast.send(&[&to, "--value", "1.5ether"]);
    assert_eq!(receipt["status"], "0x1");
    assert_eq!(cast.run(&["balance", &to, "--ether"]), "1.500000000000000000");
    let hash = receipt["transactionHash"].as_str().unwrap();
    assert!(cast.run(&["receipt", hash]).contains("status               1 (success)"));
    assert!(cast.run(&["tx", hash]).to_lowercase().contains(&to[2..]));
    let legacy = cast.send(&["--legacy", &to, "--value", "1wei"]);
    assert_eq!(legacy["type"], "0x0");

    let code = hex::encode(deployer(STORE));
    let created = cast.send(&["--create", &code]);
    let contract = created["contractAddress"].as_str().unwrap();
    assert_eq!(cast.run(&["code", contract]), format!("0x{}", hex::encode(STORE)));
    let input = format!("0x{:064x}{:064x}", 4, 77);
    let estimate: u64 = cast.run(&["estimate", contract, &input]).parse().unwrap();
    let stored = cast.send(&[contract, &input]);
    let used = stored["gasUsed"].as_str().unwrap().trim_start_matches("0x");
    assert!(estimate >= u64::from_str_radix(used, 16).unwrap());
    assert_eq!(stored["logs"][0]["topics"][0], format!("0x{:064x}", 4));
    assert_eq!(cast.run(&["storage", contract, "4"]), format!("0x{:064x}", 77));
    assert!(cast.run(&["logs", "--from-block", "0", "--address", contract]).contains(hash_of(&stored)));
    assert_eq!(cast.run(&["call", contract, &input]), "0x");
    let block = cast.run(&["block", "latest"]);
    assert!(block.contains("transactionsRoot") && block.contains(hash_of(&stored)), "{block}");
    assert_eq!(cast.run(&["nonce", &cast_address(cast)]), "4");
    assert!(cast.run(&["client"]).starts_with("muster/"));
    assert!(cast.run(&["gas-price"]).parse::<u64>().unwrap() > 0);
}

fn hash_of(receipt: &serde_json::Value) -> &str {
    receipt["transactionHash"].as_str().unwrap()
}

fn cast_address(cast: &Cast) -> String {
    Wallet::from_hex(&cast.key).unwrap().address().to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn viem_works_unchanged() {
    let viem = contracts().join("node_modules/viem/_esm/index.js");
    assert!(viem.exists(), "viem is missing at {}: run contracts/build.sh, which installs it", viem.display());
    let served = Served::start().await;
    let mut node = Command::new("node");
    node.arg(here().join("tests/it/viem.mjs"))
        .env("VIEM", &viem)
        .env("RPC", served.url())
        .env("CHAIN_ID", CHAIN_ID.to_string())
        .env("KEY", format!("0x{}", hex::encode(served.faucet.secret())))
        .env("INITCODE", format!("0x{}", hex::encode(deployer(STORE))));
    let output = tokio::task::spawn_blocking(move || node.output()).await.unwrap();
    let output = output.unwrap_or_else(|error| panic!("node cannot be run ({error}): install Node.js"));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), "viem: ok");
}
