//! The core has no clock, no files, no network, no threads, no environment: whoever calls it brings them as arguments.

use super::{Finding, Workspace};
use crate::source::has_word;

/// Paths that product code of the core may not hold, and what to do instead.
const FORBIDDEN: [(&str, &str); 9] = [
    ("std::fs", "files belong to the roles"),
    ("std::env", "settings are arguments"),
    ("std::process", "processes belong to the roles"),
    ("std::thread", "threads belong to the roles"),
    ("Instant::now", "take `now` as an argument"),
    ("SystemTime::now", "take `now` as an argument"),
    ("TcpStream", "the network belongs to muster-net"),
    ("UdpSocket", "the network belongs to muster-net"),
    ("tokio", "the core is synchronous"),
];

/// Complains about every such path in `crates/muster-core/src`.
pub(crate) fn check(workspace: &Workspace) -> Vec<Finding> {
    let mut findings = Vec::new();
    for file in workspace.files.iter().filter(|file| file.path.starts_with("crates/muster-core/src/")) {
        for (number, line) in file.split.code.lines().enumerate() {
            for (path, instead) in FORBIDDEN.iter().filter(|(path, _)| has_word(line, path)) {
                findings.push(Finding {
                    file: file.path.clone(),
                    line: Some(number + 1),
                    text: format!("the core may not use {path}: {instead}"),
                });
            }
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::super::workspace::File;
    use super::*;

    fn findings(path: &str, text: &str) -> usize {
        check(&Workspace { crates: Vec::new(), files: vec![File::new(path, text)] }).len()
    }

    #[test]
    fn a_clock_in_the_core_is_refused() {
        assert_eq!(findings("crates/muster-core/src/lease.rs", "let t = Instant::now();"), 1);
        assert_eq!(findings("crates/muster-core/src/lease.rs", "use std::fs::File;"), 1);
        assert_eq!(findings("crates/muster-core/src/lease.rs", "use std::fmt; // not std::fs"), 0);
    }

    #[test]
    fn its_examples_and_other_crates_are_free() {
        assert_eq!(findings("crates/muster-core/examples/bench.rs", "let t = Instant::now();"), 0);
        assert_eq!(findings("crates/muster-net/src/lib.rs", "let t = Instant::now();"), 0);
    }
}
