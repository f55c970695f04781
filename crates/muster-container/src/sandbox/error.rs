//! What can go wrong before a job runs.

use std::io;
use std::path::{Path, PathBuf};

use super::capabilities::Finding;
use super::job::JobEnd;
use super::spec::JobId;

/// Why the Sandbox could not do what it was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SandboxError {
    /// A layer that safety needs is missing; each finding says what to do.
    #[error("jobs cannot be isolated on this machine: {}", sentences(missing))]
    Unsafe {
        /// The mandatory layers that are missing.
        missing: Vec<Finding>,
    },
    /// Another process uses the state folder.
    #[error("{} is in use by another process: stop it, or give this Container a folder of its own", path.display())]
    InUse {
        /// The state folder.
        path: PathBuf,
    },
    /// The job asks for something that cannot be.
    #[error("{why}")]
    Invalid {
        /// What is wrong and what would be right.
        why: String,
    },
    /// The job's folder is already there.
    #[error("the job {id} already has a work folder: remove it first, or choose another name")]
    JobExists {
        /// The job.
        id: JobId,
    },
    /// The machine's disk cannot hold the work folder.
    #[error("the disk under {} has no room for a work folder of {need_bytes} bytes: {free_bytes} are free", path.display())]
    DiskShort {
        /// The jobs' folder.
        path: PathBuf,
        /// What was asked for.
        need_bytes: u64,
        /// What is free.
        free_bytes: u64,
    },
    /// The job wants the internet and cannot have it.
    #[error("the job asks for the internet (egress), but {why}")]
    EgressRefused {
        /// Why not, and what would help.
        why: String,
    },
    /// The job wants a display and cannot have one.
    #[error("the job asks for a display, but {why}")]
    DisplayRefused {
        /// Why not, and what would help.
        why: String,
    },
    /// A program or step that builds the Sandbox failed.
    #[error("the sandbox could not be set up: {step}: {detail}")]
    Setup {
        /// What was being done.
        step: &'static str,
        /// What the program said.
        detail: String,
    },
    /// The Sandbox was ready but the command did not start, or ended before it ran.
    #[error("{end}")]
    NotStarted {
        /// How it ended.
        end: JobEnd,
    },
    /// A name of a file to be created in the work folder is not usable.
    #[error("the file name {name:?} cannot be used in a work folder: {why}")]
    FileName {
        /// The name as given.
        name: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// What the job left is more than may be taken out.
    #[error("{why}")]
    OutputsTooBig {
        /// Which bound was passed, and by what.
        why: String,
    },
    /// The operating system refused.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// What was being done, as a verb.
        action: &'static str,
        /// With what.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
}

impl SandboxError {
    pub(super) fn invalid(why: String) -> Self {
        Self::Invalid { why }
    }

    pub(super) fn setup(step: &'static str, detail: impl ToString) -> Self {
        Self::Setup { step, detail: detail.to_string() }
    }

    /// For `map_err`: names the action and the path of a failed system call.
    pub(super) fn io<E: Into<io::Error>>(action: &'static str, path: impl AsRef<Path>) -> impl FnOnce(E) -> Self {
        let path = path.as_ref().to_path_buf();
        move |source| Self::Io { action, path, source: source.into() }
    }

    /// The same failure as the end of a job, for a consumer who is told why nothing ran.
    #[must_use]
    pub fn into_job_end(self) -> JobEnd {
        match self {
            Self::NotStarted { end } => end,
            other => JobEnd::SetupFailed { reason: chain(&other) },
        }
    }
}

/// An error and its causes in one sentence.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(source) = cause {
        text.push_str(": ");
        text.push_str(&source.to_string());
        cause = source.source();
    }
    text
}

fn sentences(findings: &[Finding]) -> String {
    findings.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}
