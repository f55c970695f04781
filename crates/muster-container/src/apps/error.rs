//! Why an app's packages are not there.

use std::io;
use std::path::Path;

use muster_core::packages::PackageSet;
use muster_core::units::Bytes;

/// Why a set of packages cannot be had. Clones, because many may wait for one fetch.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum AppsError {
    /// No such package.
    #[error("package {name:?} is not known to the Container's Debian sources")]
    Unknown {
        /// Its name.
        name: String,
    },
    /// What is asked for and what is installed do not go together.
    #[error("the packages {set} do not go together with what is installed on the Container: {why}")]
    Unsolvable {
        /// The packages.
        set: PackageSet,
        /// apt's words.
        why: String,
    },
    /// The owner wants nothing fetched, or the machine cannot.
    #[error("the Container lacks the packages {missing} and fetches none: {why}")]
    Off {
        /// The packages that are missing.
        missing: String,
        /// Why none are fetched.
        why: &'static str,
    },
    /// More than may lie on the disk.
    #[error("the packages {set} need {need} of disk, and {why}")]
    NoRoom {
        /// The packages.
        set: PackageSet,
        /// With what they need.
        need: Bytes,
        /// What there is.
        why: String,
    },
    /// The sources do not answer, or not rightly.
    #[error("the packages {set} could not be fetched: {why}")]
    Download {
        /// The packages.
        set: PackageSet,
        /// apt's words.
        why: String,
    },
    /// A file is not where its list said; the lists are new since.
    #[error(
        "the packages {set} could not be fetched: {why}; the lists of packages were old and are new now, so try again"
    )]
    Stale {
        /// The packages.
        set: PackageSet,
        /// apt's words.
        why: String,
    },
    /// A package cannot be unpacked.
    #[error("the package file {file} could not be unpacked: {why}")]
    Unpack {
        /// Which file.
        file: String,
        /// Why not.
        why: String,
    },
    /// A program cannot be run.
    #[error("{program} could not be run: {why}")]
    Program {
        /// Which.
        program: &'static str,
        /// Why not.
        why: String,
    },
    /// The folder of packages fails.
    #[error("cannot {action} {path}: {why}")]
    Io {
        /// What was being done, as a verb.
        action: &'static str,
        /// With what.
        path: String,
        /// The system's reason.
        why: String,
    },
}

impl AppsError {
    /// Whether another Container may do better: the app is not at fault.
    pub(crate) const fn is_ours(&self) -> bool {
        !matches!(self, Self::Unknown { .. })
    }

    /// For `map_err`: names the action and the path of a failed system call.
    pub(super) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.display().to_string();
        move |error| Self::Io { action, path, why: error.to_string() }
    }

    pub(super) fn program(program: &'static str, why: impl ToString) -> Self {
        Self::Program { program, why: why.to_string() }
    }
}
