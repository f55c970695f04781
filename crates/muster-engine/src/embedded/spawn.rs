//! How a child is started.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::Stdio;

use tokio::io::{AsyncRead, AsyncWrite};

use crate::Later;

/// A child that was started.
pub struct Child {
    /// Its standard input.
    pub stdin: Box<dyn AsyncWrite + Send + Unpin>,
    /// Its standard output.
    pub stdout: Box<dyn AsyncRead + Send + Unpin>,
    /// Done when it ended, with how, in words for people. Dropping this ends the child.
    pub exit: Later<'static, String>,
}

impl std::fmt::Debug for Child {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Child").finish_non_exhaustive()
    }
}

/// Starts children. A Container starts them in its Sandbox.
pub trait Spawn: Send + Sync {
    /// Starts one. Whatever it writes to its standard error is the starter's to keep. With `GGML_NO_BACKTRACE=1` in its
    /// environment a broken assertion of llama.cpp ends it at once.
    fn spawn(&self) -> Later<'_, Result<Child, String>>;
}

/// Starts children as plain processes, without any sandbox: for tests and benches.
#[derive(Clone, Debug)]
pub struct Process {
    /// What to run.
    pub program: PathBuf,
    /// With what arguments.
    pub arguments: Vec<OsString>,
}

impl Spawn for Process {
    fn spawn(&self) -> Later<'_, Result<Child, String>> {
        Box::pin(async move {
            let mut command = tokio::process::Command::new(&self.program);
            command.args(&self.arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
            // A broken assertion of llama.cpp ends the child at once, without a debugger to be asked first.
            command.env("GGML_NO_BACKTRACE", "1");
            let started = command.spawn();
            let mut child =
                started.map_err(|error| format!("{} cannot be started: {error}", self.program.display()))?;
            let pipes = child.stdin.take().zip(child.stdout.take());
            let (stdin, stdout) = pipes.ok_or("the child has no pipes")?;
            let exit = Box::pin(async move {
                match child.wait().await {
                    Ok(status) => format!("the engine's process ended: {status}"),
                    Err(error) => format!("the engine's process is lost: {error}"),
                }
            });
            Ok(Child { stdin: Box::new(stdin), stdout: Box::new(stdout), exit })
        })
    }
}
