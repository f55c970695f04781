//! Finds the contracts' artefacts, which the bindings are made from, and says what to do where they are missing.

use std::env;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

const ARTEFACTS: [&str; 6] = [
    "MusterToken.sol/MusterToken.json",
    "Registry.sol/Registry.json",
    "LeaseEscrow.sol/LeaseEscrow.json",
    "CheckerLicence.sol/CheckerLicence.json",
    "EpochRewards.sol/EpochRewards.json",
    "DrandBeacon.sol/DrandBeacon.json",
];

fn main() -> ExitCode {
    let here = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets CARGO_MANIFEST_DIR"));
    let out = env::var_os("MUSTER_CONTRACTS_OUT").map_or_else(|| here.join("../../contracts/out"), PathBuf::from);
    emit("cargo::rerun-if-env-changed=MUSTER_CONTRACTS_OUT");
    for artefact in ARTEFACTS {
        let path = out.join(artefact);
        emit(&format!("cargo::rerun-if-changed={}", path.display()));
        if !path.is_file() {
            emit(&format!(
                "cargo::error=contract artefacts are missing ({}): run `make contracts` (contracts/build.sh), \
                 or set MUSTER_CONTRACTS_OUT to a folder that holds them",
                path.display()
            ));
            return ExitCode::FAILURE;
        }
    }
    let absolute = Path::canonicalize(&out).expect("the folder's files were just seen");
    emit(&format!("cargo::rustc-env=MUSTER_CONTRACTS_OUT={}", absolute.display()));
    ExitCode::SUCCESS
}

#[allow(clippy::print_stdout, reason = "a build script speaks to cargo through its output")]
fn emit(line: &str) {
    println!("{line}");
}
