//! What a crash leaves, and how it is cleared away.
//!
//! Every name is derived from the job's: its folder, its control groups, its mount. So a record that is missing, half
//! written or from another version costs only the answer to "had it begun?", never a leftover.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use super::cgroup::{Place, end_group, remove_group};
use super::error::{SandboxError, chain};
use super::spec::JobId;
use super::{Inner, gamepads, workdir};

const FILE: &str = "job.json";
const BYTES_MAX: u64 = 64 << 10;

/// What is written about a job while it exists.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Record {
    pub(super) id: JobId,
    /// When the command was about to run, in milliseconds since 1970; absent while the job is only prepared.
    pub(super) started_at_unix_ms: Option<u64>,
    /// The job's first process, as the host counts.
    pub(super) pid: Option<u32>,
    pub(super) cgroups: Vec<PathBuf>,
}

impl Record {
    pub(super) fn prepared(id: &JobId) -> Self {
        Self { id: id.clone(), started_at_unix_ms: None, pid: None, cgroups: Vec::new() }
    }

    pub(super) fn running(id: &JobId, pid: u32, cgroups: Vec<PathBuf>) -> Self {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let now = u64::try_from(since.as_millis()).unwrap_or(u64::MAX);
        Self { id: id.clone(), started_at_unix_ms: Some(now), pid: Some(pid), cgroups }
    }

    /// Replaces the record in one step. Not flushed to the disk: after a power cut the processes are gone anyway.
    pub(super) fn write(&self, dir: &Path) -> Result<(), SandboxError> {
        let (path, fresh) = (dir.join(FILE), dir.join("job.json.new"));
        let text = serde_json::to_vec_pretty(self).map_err(SandboxError::io("encode the record", &path))?;
        fs::write(&fresh, text).map_err(SandboxError::io("write the record", &fresh))?;
        fs::rename(&fresh, &path).map_err(SandboxError::io("replace the record", &path))
    }

    fn read(dir: &Path) -> Option<Self> {
        let path = dir.join(FILE);
        let small = fs::metadata(&path).is_ok_and(|meta| meta.len() <= BYTES_MAX);
        let record = small.then(|| fs::read(&path).ok()).flatten().and_then(|text| serde_json::from_slice(&text).ok());
        if record.is_none() {
            tracing::warn!(path = %path.display(), "a job's record cannot be read; the job is cleared away all the same");
        }
        record
    }
}

/// A job of an earlier process that was ended and removed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecoveredJob {
    /// Its name.
    pub id: JobId,
    /// When its command began, in milliseconds since 1970; `None` when it never did, or when its record was damaged.
    pub started_at_unix_ms: Option<u64>,
    /// What could not be removed, and why; `None` when nothing is left.
    pub remains: Option<String>,
}

pub(super) fn recover(inner: &Inner) -> Result<Vec<RecoveredJob>, SandboxError> {
    let jobs = inner.jobs_dir();
    let mut recovered = Vec::new();
    for entry in fs::read_dir(&jobs).map_err(SandboxError::io("list", &jobs))? {
        let entry = entry.map_err(SandboxError::io("list", &jobs))?;
        let Ok(id) = JobId::new(entry.file_name().to_string_lossy()) else {
            tracing::warn!(path = %entry.path().display(), "not a job's folder; left alone");
            continue;
        };
        if inner.is_active(&id) {
            continue;
        }
        let started_at_unix_ms = Record::read(&entry.path()).and_then(|record| record.started_at_unix_ms);
        let remains = clear(inner, &id, &entry.path()).err().map(|error| chain(&error));
        recovered.push(RecoveredJob { id, started_at_unix_ms, remains });
    }
    clear_stray_groups(inner);
    workdir::remove_probes(&inner.config.state_dir);
    recovered.sort_by(|a, b| a.id.cmp(&b.id));
    Ok(recovered)
}

/// Processes first, then the folder they might be writing to.
fn clear(inner: &Inner, id: &JobId, dir: &Path) -> Result<(), SandboxError> {
    clear_groups(inner, id)?;
    workdir::remove_job_dir(dir)
}

/// Ends what is left of a job's processes, and takes away what they saw their gamepads by.
pub(super) fn clear_groups(inner: &Inner, id: &JobId) -> Result<(), SandboxError> {
    let name = inner.cgroup_name(id);
    for place in inner.hierarchy.places() {
        clear_group(&Place { version: place.version, base: place.base.join(&name) })?;
    }
    gamepads::clear(&name)
}

fn clear_group(group: &Place) -> Result<(), SandboxError> {
    end_group(group)?;
    remove_group(&group.base)
}

/// Control groups of this state folder whose job folder is gone.
fn clear_stray_groups(inner: &Inner) {
    let prefix = format!("{}.", inner.instance);
    for place in inner.hierarchy.places() {
        let entries: io::Result<fs::ReadDir> = fs::read_dir(&place.base);
        for entry in entries.into_iter().flatten().flatten() {
            let name = entry.file_name();
            let Some(id) = name.to_str().and_then(|name| name.strip_prefix(&prefix)) else { continue };
            if JobId::new(id).is_ok_and(|id| inner.is_active(&id)) {
                continue;
            }
            let group = Place { version: place.version, base: entry.path() };
            if let Err(error) = clear_group(&group) {
                tracing::warn!(group = %group.base.display(), %error, "a control group stays");
            }
        }
    }
}
