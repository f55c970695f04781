//! The machine around the cards: processor, memory, disk.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::thread::available_parallelism;

use serde::{Deserialize, Serialize};

/// Facts of the machine, as far as this process may use it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HostReport {
    /// Cores this process may use: affinity and processor quotas counted.
    pub cpus: u32,
    /// The processor's name; empty when the system does not tell.
    pub cpu_model: String,
    /// Memory this process may use: the machine's, or its control group's limit where that is less.
    pub memory_bytes: u64,
    /// What of it is free or can be freed now.
    pub memory_available_bytes: u64,
    /// Size of the file system that holds the given folder.
    pub disk_bytes: u64,
    /// What of it this user may still fill.
    pub disk_free_bytes: u64,
    /// Processor architecture, such as `x86_64`.
    pub architecture: String,
    /// Operating system's name and version, such as `Debian GNU/Linux 12 (bookworm)`.
    pub system: String,
    /// The kernel's version.
    pub kernel: String,
}

/// Why the machine could not be described.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HostError {
    /// A file of the system or the folder could not be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The system's own description of its memory is not understood.
    #[error("/proc/meminfo has no line {line}")]
    Memory {
        /// The missing line.
        line: &'static str,
    },
}

impl HostReport {
    /// Reads the facts; `folder` (which must exist) says which disk is meant.
    ///
    /// # Errors
    ///
    /// [`HostError`] when `/proc` or the folder cannot be read.
    pub fn read(folder: &Path) -> Result<Self, HostError> {
        let memory = read(Path::new("/proc/meminfo"))?;
        let total = meminfo(&memory, "MemTotal")?;
        let disk = rustix::fs::statvfs(folder)
            .map_err(|error| HostError::Read { path: folder.to_path_buf(), source: error.into() })?;
        let uname = rustix::system::uname();
        let limit = own_memory_limit().unwrap_or(u64::MAX);
        Ok(Self {
            cpus: available_parallelism().ok().and_then(|cpus| u32::try_from(cpus.get()).ok()).unwrap_or(1),
            cpu_model: field(&fs::read_to_string("/proc/cpuinfo").unwrap_or_default(), "model name", ':'),
            memory_bytes: total.min(limit),
            memory_available_bytes: meminfo(&memory, "MemAvailable")?.min(limit),
            disk_bytes: disk.f_blocks.saturating_mul(disk.f_frsize),
            disk_free_bytes: disk.f_bavail.saturating_mul(disk.f_frsize),
            architecture: std::env::consts::ARCH.to_owned(),
            system: field(&fs::read_to_string("/etc/os-release").unwrap_or_default(), "PRETTY_NAME", '='),
            kernel: uname.release().to_string_lossy().into_owned(),
        })
    }
}

fn read(path: &Path) -> Result<String, HostError> {
    fs::read_to_string(path).map_err(|source| HostError::Read { path: path.to_path_buf(), source })
}

/// A line such as `MemTotal:  24684084 kB`, in bytes.
fn meminfo(text: &str, line: &'static str) -> Result<u64, HostError> {
    let value = text.lines().find_map(|have| have.strip_prefix(line)?.strip_prefix(':'));
    let kib = value.and_then(|value| value.trim().trim_end_matches("kB").trim().parse::<u64>().ok());
    kib.map(|kib| kib.saturating_mul(1024)).ok_or(HostError::Memory { line })
}

/// The first value of a key in a file of `key<separator>value` lines, without blanks and quotes.
fn field(text: &str, key: &str, separator: char) -> String {
    let value = text.lines().filter_map(|line| line.split_once(separator)).find(|(name, _)| name.trim() == key);
    value.map_or_else(String::new, |(_, value)| value.trim().trim_matches('"').to_owned())
}

/// The memory limit of this process's own control group, version 2 or 1, when it has one.
fn own_memory_limit() -> Option<u64> {
    let groups = fs::read_to_string("/proc/self/cgroup").ok()?;
    let files = groups.lines().filter_map(|line| {
        let mut parts = line.splitn(3, ':').skip(1);
        let (controllers, path) = (parts.next()?, parts.next()?.trim_start_matches('/'));
        match controllers {
            "" => Some(Path::new("/sys/fs/cgroup").join(path).join("memory.max")),
            "memory" => Some(Path::new("/sys/fs/cgroup/memory").join(path).join("memory.limit_in_bytes")),
            _ => None,
        }
    });
    files.filter_map(|file| fs::read_to_string(file).ok()?.trim().parse().ok()).min()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_is_described() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let host = HostReport::read(dir.path()).expect("facts");
        assert!(host.cpus >= 1 && host.memory_bytes >= host.memory_available_bytes, "{host:?}");
        assert!(
            host.memory_available_bytes > 0 && host.disk_bytes >= host.disk_free_bytes && host.disk_bytes > 0,
            "{host:?}"
        );
        assert!(!host.kernel.is_empty() && !host.architecture.is_empty(), "{host:?}");
        assert!(matches!(HostReport::read(Path::new("/no/such/folder")), Err(HostError::Read { .. })));
    }

    #[test]
    fn lines_of_the_system_are_understood() {
        assert_eq!(meminfo("MemTotal:       16 kB\nMemFree: 1 kB\n", "MemTotal").expect("line"), 16 << 10);
        assert!(meminfo("", "MemTotal").is_err());
        assert_eq!(field("ID=debian\nPRETTY_NAME=\"Debian 12\"\n", "PRETTY_NAME", '='), "Debian 12");
        assert_eq!(field("vendor: x\nmodel name\t: A CPU @ 3\n", "model name", ':'), "A CPU @ 3");
        assert_eq!(field("", "x", '='), "");
    }
}
