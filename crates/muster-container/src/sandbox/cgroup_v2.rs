//! Control groups version 2: delegation, and the file names and units of its controllers.
//!
//! Source: the kernel's `Documentation/admin-guide/cgroup-v2.rst`. A group that hands controllers to its children may hold
//! no processes itself (except the tree's real top). Where the Container starts inside such a group, it moves itself into
//! a child named `supervisor` first; other people's processes are never moved.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::cgroup::{cpu_ration, keyed, number, write};
use super::error::SandboxError;

const SUPERVISOR: &str = "supervisor";

/// Makes `parent` below the first candidate that can give it the wanted controllers; says which of them it got.
pub(super) fn open(candidates: &[PathBuf], parent: &str, wanted: &[&str]) -> io::Result<(PathBuf, Vec<String>)> {
    let mut refused = io::Error::from(io::ErrorKind::NotFound);
    for candidate in candidates {
        // Started from inside the child it moved into earlier: the delegated group is the one above.
        let top = if candidate.ends_with(SUPERVISOR) { candidate.parent().unwrap_or(candidate) } else { candidate };
        match make(top, parent, wanted) {
            Ok(done) => return Ok(done),
            Err(error) => refused = error,
        }
    }
    Err(refused)
}

fn make(top: &Path, parent: &str, wanted: &[&str]) -> io::Result<(PathBuf, Vec<String>)> {
    let base = top.join(parent);
    fs::create_dir_all(&base)?;
    fs::OpenOptions::new().write(true).open(base.join("cgroup.procs"))?;
    enable(top, wanted)?;
    enable(&base, wanted)?;
    let enabled = fs::read_to_string(base.join("cgroup.subtree_control"))?;
    let enabled = enabled.split_whitespace().filter(|name| wanted.contains(name)).map(str::to_owned).collect();
    Ok((base, enabled))
}

/// Hands the wanted controllers that exist here to the children.
fn enable(dir: &Path, wanted: &[&str]) -> io::Result<()> {
    let available = fs::read_to_string(dir.join("cgroup.controllers"))?;
    let already = fs::read_to_string(dir.join("cgroup.subtree_control"))?;
    for name in available.split_whitespace().filter(|name| wanted.contains(name)) {
        if already.split_whitespace().any(|have| have == name) {
            continue;
        }
        let control = dir.join("cgroup.subtree_control");
        match fs::write(&control, format!("+{name}")) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::ResourceBusy => {
                leave(dir)?;
                fs::write(&control, format!("+{name}"))?;
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Moves this process out of a group that is to have children with controllers.
fn leave(dir: &Path) -> io::Result<()> {
    let supervisor = dir.join(SUPERVISOR);
    fs::create_dir_all(&supervisor)?;
    fs::write(supervisor.join("cgroup.procs"), std::process::id().to_string())
}

pub(super) fn limit_memory(dir: &Path, bytes: u64) -> Result<(), SandboxError> {
    write(dir, "memory.max", &bytes.to_string())?;
    // Absent on a kernel without swap accounting, where there is nothing to forbid.
    optional(write(dir, "memory.swap.max", "0"))?;
    optional(write(dir, "memory.oom.group", "1"))
}

fn optional(result: Result<(), SandboxError>) -> Result<(), SandboxError> {
    match result {
        Err(SandboxError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

pub(super) fn limit_cpu(dir: &Path, cpu_millis: u32) -> Result<(), SandboxError> {
    let (quota, period) = cpu_ration(cpu_millis);
    write(dir, "cpu.max", &format!("{quota} {period}"))
}

pub(super) fn memory_peak(dir: &Path) -> u64 {
    // The peak is kept since Linux 5.19; before, the present use is the best there is.
    number(dir, "memory.peak").or_else(|| number(dir, "memory.current")).unwrap_or(0)
}

pub(super) fn oom_kills(dir: &Path) -> u64 {
    keyed(dir, "memory.events", "oom_kill").unwrap_or(0)
}

pub(super) fn cpu_ns(dir: &Path) -> u64 {
    keyed(dir, "cpu.stat", "usage_usec").unwrap_or(0).saturating_mul(1000)
}
