//! Repository chores that are easier to get right in Rust than in a shell.
//!
//! `cargo run -p xtask -- tidy` checks what no compiler checks: the arrows between crates, who may name which
//! library, the length of files, and that nothing unfinished is left behind. The workspace's tests run it too.

mod source;
mod tidy;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

const USAGE: &str = "usage: cargo run -p xtask -- tidy";

fn main() -> ExitCode {
    let mut args = std::env::args().skip(1);
    match (args.next().as_deref(), args.next()) {
        (Some("tidy"), None) => match tidy::check(&root()) {
            Ok(findings) if findings.is_empty() => {
                eprintln!("tidy: nothing to complain about");
                ExitCode::SUCCESS
            }
            Ok(findings) => {
                for finding in &findings {
                    eprintln!("{finding}");
                }
                eprintln!("tidy: {} to mend", findings.len());
                ExitCode::FAILURE
            }
            Err(error) => {
                eprintln!("tidy could not look at the workspace: {error:#}");
                ExitCode::from(2)
            }
        },
        _ => {
            eprintln!("{USAGE}");
            ExitCode::from(2)
        }
    }
}

/// The workspace's root: the folder above this crate.
fn root() -> PathBuf {
    // Cargo names the folder at run time too; a binary kept from another checkout must not look there.
    let here = std::env::var_os("CARGO_MANIFEST_DIR").map_or_else(|| env!("CARGO_MANIFEST_DIR").into(), PathBuf::from);
    here.parent().map_or_else(|| PathBuf::from("."), Path::to_path_buf)
}
