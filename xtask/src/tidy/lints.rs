//! Every member takes the workspace's lints.

use super::{Finding, Workspace};

/// Complains about every manifest without `[lints] workspace = true`.
pub(crate) fn check(workspace: &Workspace) -> Vec<Finding> {
    let without = workspace.crates.iter().filter(|one| !one.workspace_lints);
    without
        .map(|one| Finding {
            file: format!("{}/Cargo.toml", one.folder),
            line: None,
            text: "add `[lints]` with `workspace = true`: the workspace's lints hold everywhere".to_owned(),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::super::workspace::Crate;
    use super::*;

    #[test]
    fn a_member_without_lints_is_named() {
        let parse = |text: &str| Crate::parse("crates/x", text).unwrap();
        let with = parse("[package]\nname = \"x\"\n[lints]\nworkspace = true");
        let without = parse("[package]\nname = \"x\"");
        assert!(check(&Workspace { crates: vec![with], files: Vec::new() }).is_empty());
        assert_eq!(check(&Workspace { crates: vec![without], files: Vec::new() }).len(), 1);
    }
}
