//! Which crate may stand on which: an arrow only ever points down.

use super::{Finding, Workspace};

/// The two lowest floors.
const FLOOR: &[&str] = &["muster-core", "muster-wire"];
/// Every floor below the client and the roles.
const BASE: &[&str] =
    &["muster-core", "muster-wire", "muster-net", "muster-chain", "muster-gpu", "muster-stream", "muster-engine"];

/// What the client stands on.
const CLIENT: &[&str] = &["muster-core", "muster-wire", "muster-net", "muster-chain", "muster-engine"];
/// The roles stand on everything below them, and never on each other.
const ROLES: [&str; 4] = ["muster-container", "muster-indexer", "muster-checker", "muster-gateway"];

/// Arrows of tests that point elsewhere, each with its reason.
const DEV_EXCEPTIONS: &[(&str, &str, &str)] = &[];

/// Whether `from` may need `to`; `None` when `from` is not on the map.
fn allowed(from: &str, to: &str) -> Option<bool> {
    Some(match from {
        "muster-core" | "muster-h264" | "xtask" => false,
        "muster-wire" => to == "muster-core",
        "muster-stream" => FLOOR.contains(&to) || to == "muster-h264",
        "muster-net" | "muster-chain" | "muster-gpu" | "muster-engine" | "muster-sim" => FLOOR.contains(&to),
        "muster-client" => CLIENT.contains(&to),
        role if ROLES.contains(&role) => BASE.contains(&to) || to == "muster-client",
        "muster" => to != "xtask",
        _ => return None,
    })
}

/// Complains about every arrow that does not point down.
pub(crate) fn check(workspace: &Workspace) -> Vec<Finding> {
    let ours = |name: &String| name == "muster" || name == "xtask" || name.starts_with("muster-");
    let mut findings = Vec::new();
    for from in &workspace.crates {
        let mut complain =
            |text: String| findings.push(Finding { file: format!("{}/Cargo.toml", from.folder), line: None, text });
        if allowed(&from.name, "").is_none() {
            complain(format!("{} is not on the map of crates: add it to xtask/src/tidy/arrows.rs", from.name));
            continue;
        }
        let excepted = |to: &str| DEV_EXCEPTIONS.iter().any(|(a, b, _)| *a == from.name && *b == to);
        let dev = from.dev_dependencies.iter().filter(|to| !excepted(to) && **to != from.name);
        for to in from.dependencies.iter().chain(dev).filter(|to| ours(to)) {
            if allowed(&from.name, to) == Some(false) {
                complain(format!("{} may not need {to}: see the map in ARCHITECTURE.md", from.name));
            }
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::super::workspace::Crate;
    use super::*;

    fn findings(name: &str, dependencies: &[&str], dev: &[&str]) -> usize {
        let strings = |names: &[&str]| names.iter().map(|n| (*n).to_owned()).collect();
        let one = Crate {
            name: name.to_owned(),
            folder: format!("crates/{name}"),
            dependencies: strings(dependencies),
            dev_dependencies: strings(dev),
            workspace_lints: true,
        };
        check(&Workspace { crates: vec![one], files: Vec::new() }).len()
    }

    #[test]
    fn arrows_down_pass() {
        assert_eq!(findings("muster-core", &["serde"], &["proptest"]), 0);
        assert_eq!(findings("muster-net", &["muster-core", "muster-wire", "iroh"], &[]), 0);
        assert_eq!(findings("muster-client", &["muster-net", "muster-chain"], &[]), 0);
        assert_eq!(findings("muster-container", &["muster-gpu", "muster-client"], &[]), 0);
        assert_eq!(findings("muster", &["muster-indexer", "muster-container", "muster-sim"], &[]), 0);
    }

    #[test]
    fn arrows_up_or_sideways_fail() {
        assert_eq!(findings("muster-core", &["muster-wire"], &[]), 1);
        assert_eq!(findings("muster-wire", &["muster-net"], &[]), 1);
        assert_eq!(findings("muster-net", &["muster-chain"], &[]), 1);
        assert_eq!(findings("muster-client", &["muster-gpu"], &[]), 1);
        assert_eq!(findings("muster-container", &["muster-indexer"], &[]), 1);
        assert_eq!(findings("muster-sim", &["muster-net", "muster-indexer"], &[]), 2);
        assert_eq!(findings("xtask", &["muster-core"], &[]), 1);
        assert_eq!(findings("muster", &["xtask"], &[]), 1);
    }

    #[test]
    fn tests_are_bound_too() {
        assert_eq!(findings("muster-indexer", &[], &["muster-container"]), 1);
    }

    #[test]
    fn an_unknown_crate_is_no_loophole() {
        assert_eq!(findings("muster-helpers", &[], &[]), 1);
    }
}
