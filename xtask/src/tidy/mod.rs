//! What no compiler checks. Every rule is a pure function over a [`Workspace`] in memory, so that each has a test in
//! which it fails.

mod arrows;
mod core_purity;
mod files;
mod lints;
mod owners;
mod workspace;

use std::fmt;
use std::path::Path;

pub(crate) use workspace::Workspace;

/// One thing to mend.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Finding {
    /// The file, relative to the workspace's root.
    pub(crate) file: String,
    /// The line, counted from 1; absent when the finding is about the whole file.
    pub(crate) line: Option<usize>,
    /// What is wrong and what to do.
    pub(crate) text: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            Some(line) => write!(f, "{}:{line}: {}", self.file, self.text),
            None => write!(f, "{}: {}", self.file, self.text),
        }
    }
}

/// Reads the workspace under `root` and applies every rule. The findings are sorted.
///
/// # Errors
/// When a manifest or a source file cannot be read.
pub(crate) fn check(root: &Path) -> anyhow::Result<Vec<Finding>> {
    Ok(apply(&Workspace::read(root)?))
}

fn apply(workspace: &Workspace) -> Vec<Finding> {
    let rules = [arrows::check, owners::check, lints::check, files::check, core_purity::check];
    let mut findings: Vec<Finding> = rules.iter().flat_map(|rule| rule(workspace)).collect();
    findings.sort();
    findings.dedup();
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_workspace_is_tidy() {
        let findings = check(&crate::root()).unwrap();
        let text: Vec<String> = findings.iter().map(ToString::to_string).collect();
        assert!(findings.is_empty(), "tidy complains:\n{}", text.join("\n"));
    }

    #[test]
    fn this_workspace_was_really_read() {
        let workspace = Workspace::read(&crate::root()).unwrap();
        assert!(workspace.crates.iter().any(|c| c.name == "muster-core"), "{:?}", workspace.crates.len());
        assert!(workspace.files.iter().any(|f| f.path == "crates/muster-core/src/lib.rs"));
    }
}
