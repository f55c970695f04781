//! Files stay short, and nothing unfinished is left behind.

use super::{Finding, Workspace};
use crate::source::has_word;

/// Past 500 lines a file asks to be split; past this many it is refused.
const LINES_MAX: usize = 800;

/// Macros that stand for code somebody meant to write.
const UNFINISHED: [&str; 2] = ["todo!", "unimplemented!"];
/// Words in comments that say the same.
const MARKS: [&str; 4] = ["TODO", "FIXME", "HACK", "XXX"];

/// Complains about files that are too long and about what is unfinished.
pub(crate) fn check(workspace: &Workspace) -> Vec<Finding> {
    let mut findings = Vec::new();
    for file in &workspace.files {
        let mut complain =
            |line: Option<usize>, text: String| findings.push(Finding { file: file.path.clone(), line, text });
        if file.lines > LINES_MAX {
            complain(None, format!("{} lines, at most {LINES_MAX}: split it by interface", file.lines));
        }
        for (number, (code, comment)) in file.split.code.lines().zip(file.split.comments.lines()).enumerate() {
            for name in UNFINISHED.iter().filter(|name| holds_macro(code, name)) {
                complain(Some(number + 1), format!("`{name}` stands where code should: write it, or do not offer it"));
            }
            for mark in MARKS.iter().filter(|mark| has_word(comment, mark)) {
                complain(Some(number + 1), format!("`{mark}` is for an issue, not for a comment"));
            }
        }
    }
    findings
}

fn holds_macro(code: &str, name: &str) -> bool {
    let ident = |c: char| c.is_alphanumeric() || c == '_';
    code.match_indices(name).any(|(at, _)| !code.get(..at).unwrap_or_default().ends_with(ident))
}

#[cfg(test)]
mod tests {
    use super::super::workspace::File;
    use super::*;

    fn findings(text: &str) -> usize {
        check(&Workspace { crates: Vec::new(), files: vec![File::new("crates/x/src/lib.rs", text)] }).len()
    }

    #[test]
    fn long_files_are_refused() {
        assert_eq!(findings(&"let a;\n".repeat(LINES_MAX)), 0);
        assert_eq!(findings(&"let a;\n".repeat(LINES_MAX + 1)), 1);
    }

    #[test]
    fn unfinished_code_is_refused() {
        assert_eq!(findings("fn f() { todo!() }"), 1);
        assert_eq!(findings("fn f() { core::unimplemented!(\"later\") }"), 1);
        assert_eq!(findings("fn f() { not_a_todo!(); g(\"todo!()\") } // the word todo! in prose"), 0);
    }

    #[test]
    fn marks_in_comments_are_refused() {
        assert_eq!(findings("let a; // TODO: more"), 1);
        assert_eq!(findings("/* FIXME */ let b;"), 1);
        assert_eq!(findings("let todo = TODOS; // a list of TODOS"), 0);
    }
}
