//! Which crate alone may name a library, so that swapping one touches one crate.

use super::{Finding, Workspace};
use crate::source::has_word;

/// A library's first name (`iroh` covers `iroh-relay` too) and the one crate that may name it.
const OWNERS: [(&str, &str); 10] = [
    ("iroh", "muster-net"),
    ("alloy", "muster-chain"),
    ("revm", "muster-chain"),
    ("wgpu", "muster-gpu"),
    ("ash", "muster-gpu"),
    ("nvml", "muster-gpu"),
    ("str0m", "muster-stream"),
    ("openh264", "muster-stream"),
    ("x11rb", "muster-stream"),
    ("llama", "muster-engine"),
];

/// Whether a package or a path's first segment is `library` or one of its companions.
fn belongs(name: &str, library: &str) -> bool {
    name.strip_prefix(library).is_some_and(|rest| rest.is_empty() || rest.starts_with(['-', '_']))
}

/// Complains about every manifest and every path that names a library which another crate owns.
pub(crate) fn check(workspace: &Workspace) -> Vec<Finding> {
    let mut findings = Vec::new();
    for one in &workspace.crates {
        for name in one.dependencies.iter().chain(&one.dev_dependencies) {
            for (_, owner) in OWNERS.iter().filter(|(library, owner)| belongs(name, library) && *owner != one.name) {
                findings.push(Finding {
                    file: format!("{}/Cargo.toml", one.folder),
                    line: None,
                    text: format!("only {owner} may name {name}: use what {owner} offers"),
                });
            }
        }
    }
    for file in workspace.files.iter().filter(|file| file.path.ends_with(".rs")) {
        let Some(member) = workspace.owner(file) else { continue };
        for (number, line) in file.split.code.lines().enumerate() {
            for (library, owner) in OWNERS.iter().filter(|(_, owner)| *owner != member.name) {
                if names_library(line, library) {
                    findings.push(Finding {
                        file: file.path.clone(),
                        line: Some(number + 1),
                        text: format!("only {owner} may name {library}: use what {owner} offers"),
                    });
                }
            }
        }
    }
    findings
}

/// Whether a line of code holds a path that begins with the library: `iroh::X`, `iroh_relay::X`, `use iroh as p`.
fn names_library(line: &str, library: &str) -> bool {
    let trimmed = line.trim_start();
    let imports = ["use ", "pub use ", "pub(crate) use ", "extern crate "]
        .iter()
        .filter_map(|start| trimmed.strip_prefix(start))
        .any(|rest| {
            let first = rest.trim_start_matches("::").split(|c: char| !c.is_alphanumeric() && c != '_').next();
            first.is_some_and(|first| belongs(first, library))
        });
    imports
        || line.match_indices("::").any(|(at, _)| {
            let before = line.get(..at).unwrap_or_default();
            let start = before.rfind(|c: char| !c.is_alphanumeric() && c != '_').map_or(0, |i| i + 1);
            let segment = before.get(start..).unwrap_or_default();
            // `x::iroh::y` is a module of ours; `(iroh::y` and `::iroh::y` are the library.
            let path_before = before.get(..start).unwrap_or_default();
            let inner =
                path_before.strip_suffix("::").is_some_and(|b| b.ends_with(|c: char| c.is_alphanumeric() || c == '_'));
            belongs(segment, library) && !inner && has_word(line, segment)
        })
}

#[cfg(test)]
mod tests {
    use super::super::workspace::{Crate, File};
    use super::*;

    fn findings(member: &str, dependency: Option<&str>, code: &str) -> usize {
        let one = Crate {
            name: member.to_owned(),
            folder: format!("crates/{member}"),
            dependencies: dependency.map(str::to_owned).into_iter().collect(),
            ..Crate::default()
        };
        let file = File::new(&format!("crates/{member}/src/lib.rs"), code);
        check(&Workspace { crates: vec![one], files: vec![file] }).len()
    }

    #[test]
    fn an_owner_may() {
        assert_eq!(findings("muster-net", Some("iroh-relay"), "use iroh::Endpoint;"), 0);
        assert_eq!(findings("muster-chain", Some("revm"), "fn f() { alloy::x(); }"), 0);
    }

    #[test]
    fn others_may_not() {
        assert_eq!(findings("muster", Some("iroh"), ""), 1);
        assert_eq!(findings("muster", Some("nvml-wrapper"), ""), 1);
        assert_eq!(findings("muster", Some("alloy-primitives"), ""), 1);
        assert_eq!(findings("muster", None, "use iroh::Endpoint;"), 1);
        assert_eq!(findings("muster", None, "    let x = alloy_primitives::U256::ZERO;"), 1);
        assert_eq!(findings("muster", None, "use iroh as peers;"), 1);
        assert_eq!(findings("muster", None, "pub use ::revm::Evm;"), 1);
    }

    #[test]
    fn words_that_only_look_alike_pass() {
        assert_eq!(findings("muster", Some("ashpd"), "use crate::flash::Flash; // iroh::Endpoint"), 0);
        assert_eq!(findings("muster", Some("bash-completions"), "let s = \"use iroh::X\"; crash::now();"), 0);
        assert_eq!(findings("muster", None, "use crate::revm::thing;"), 0);
    }
}
