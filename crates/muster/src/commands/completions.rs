//! `muster completions`: what a shell needs to complete the command line.

use std::io::Write;

use clap::CommandFactory;

use crate::cli::Cli;
use crate::failure::{Because, Code, Failure};

/// Prints the script.
pub(super) fn run(shell: clap_complete::Shell) -> Result<u8, Failure> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "muster", &mut script);
    match std::io::stdout().lock().write_all(&script) {
        // Whoever reads has enough.
        Err(e) if e.kind() == std::io::ErrorKind::BrokenPipe => Ok(0),
        written => written.because(Code::Io, "cannot print the script").map(|()| 0),
    }
}
