//! Control groups version 1: the file names and units of its memory, cpu and cpuacct controllers.
//!
//! Source: the kernel's `Documentation/admin-guide/cgroup-v1/`.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::cgroup::{cpu_ration, keyed, number, write};
use super::error::SandboxError;

/// Makes `parent` below the first candidate that allows it.
pub(super) fn open(candidates: &[PathBuf], parent: &str) -> io::Result<PathBuf> {
    let mut refused = io::Error::from(io::ErrorKind::NotFound);
    for candidate in candidates {
        let base = candidate.join(parent);
        match make(&base) {
            Ok(()) => return Ok(base),
            Err(error) => refused = error,
        }
    }
    Err(refused)
}

fn make(base: &Path) -> io::Result<()> {
    fs::create_dir_all(base)?;
    // A group made earlier by somebody else may be readable only: see it now, not at the first job.
    fs::OpenOptions::new().write(true).open(base.join("cgroup.procs"))?;
    rustix::fs::access(base, rustix::fs::Access::WRITE_OK)?;
    if base.join("memory.use_hierarchy").exists() {
        // Always on in current kernels, which then accept the same value again; older ones refuse with children present.
        let _ = fs::write(base.join("memory.use_hierarchy"), "1");
    }
    Ok(())
}

pub(super) fn limit_memory(dir: &Path, bytes: u64) -> Result<(), SandboxError> {
    write(dir, "memory.limit_in_bytes", &bytes.to_string())?;
    if dir.join("memory.memsw.limit_in_bytes").exists() {
        // Memory and swap together: the same figure means no swap.
        write(dir, "memory.memsw.limit_in_bytes", &bytes.to_string())?;
    }
    Ok(())
}

pub(super) fn limit_cpu(dir: &Path, cpu_millis: u32) -> Result<(), SandboxError> {
    let (quota, period) = cpu_ration(cpu_millis);
    write(dir, "cpu.cfs_period_us", &period.to_string())?;
    write(dir, "cpu.cfs_quota_us", &quota.to_string())
}

pub(super) fn memory_peak(dir: &Path) -> u64 {
    number(dir, "memory.max_usage_in_bytes").unwrap_or(0)
}

pub(super) fn oom_kills(dir: &Path) -> u64 {
    keyed(dir, "memory.oom_control", "oom_kill").unwrap_or(0)
}

pub(super) fn cpu_ns(dir: &Path) -> u64 {
    number(dir, "cpuacct.usage").unwrap_or(0)
}
