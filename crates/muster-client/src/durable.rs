//! Files that survive a crash: whole or not at all.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Condvar, Mutex, PoisonError};

/// Replaces `path` by a file of these bytes: other processes and a later start see the old file or the new one.
///
/// # Errors
/// The folder cannot be written.
pub(crate) fn replace(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let folder = parent(path);
    let temporary = temporary_beside(path);
    let written = (|| {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&temporary)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&temporary, path)?;
        sync_folder(folder)
    })();
    if written.is_err() {
        // The error that matters is the first one; a leftover is only untidy.
        let _ignored = fs::remove_file(&temporary);
    }
    written
}

/// Makes a folder of mode 0700 and those above it, unless they are there.
///
/// # Errors
/// It cannot be made.
pub(crate) fn private_folder(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// Writes the names in a folder to disk.
///
/// # Errors
/// As the system says.
pub(crate) fn sync_folder(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// Writes the names in one folder to disk for many at once: who comes while a write is under way shares the next one.
#[derive(Debug, Default)]
pub(crate) struct SharedSync {
    state: Mutex<Syncs>,
    over: Condvar,
}

#[derive(Debug, Default)]
struct Syncs {
    /// Writes that were begun, and the newest one that came to its end.
    begun: u64,
    done: u64,
    busy: bool,
    /// Which ones failed last, and how.
    failed: Option<(u64, io::ErrorKind, String)>,
}

impl SharedSync {
    /// As [`sync_folder`]: what was in the folder before the call is on the disk when it returns.
    pub(crate) fn sync(&self, path: &Path) -> io::Result<()> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        // One that is under way may have begun too early to see what the caller has made.
        let needed = state.begun.saturating_add(1);
        while state.done < needed {
            if state.busy {
                state = self.over.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            state.busy = true;
            state.begun = state.begun.saturating_add(1);
            let this = state.begun;
            drop(state);
            let synced = sync_folder(path);
            state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            state.busy = false;
            state.done = this;
            if let Err(error) = synced {
                state.failed = Some((this, error.kind(), error.to_string()));
            }
            self.over.notify_all();
        }
        match &state.failed {
            // A failure of a later one may have been of what this caller has made.
            Some((which, kind, why)) if *which >= needed => Err(io::Error::new(*kind, why.clone())),
            _ => Ok(()),
        }
    }
}

/// Reads a file of at most `max` bytes.
///
/// # Errors
/// As the system says; a longer file is refused.
pub(crate) fn read_bounded(path: &Path, max: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let read = File::open(path)?.take(max.saturating_add(1)).read_to_end(&mut bytes)?;
    if u64::try_from(read).unwrap_or(u64::MAX) > max {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("longer than {max} bytes")));
    }
    Ok(bytes)
}

pub(crate) fn parent(path: &Path) -> &Path {
    path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."))
}

fn temporary_beside(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    parent(path).join(format!(".{name}.{:016x}.tmp", rand::random::<u64>()))
}

/// Whether a full disk or a used-up quota is why it failed.
pub(crate) fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_shared_sync_ends_for_all_and_tells_all_of_a_failure() {
        let dir = tempfile::tempdir().unwrap();
        let (sync, missing) = (SharedSync::default(), dir.path().join("missing"));
        std::thread::scope(|scope| {
            let all: Vec<_> = (0..8).map(|_| scope.spawn(|| (0..20).all(|_| sync.sync(dir.path()).is_ok()))).collect();
            assert!(all.into_iter().all(|one| one.join().unwrap()));
        });
        assert!(sync.state.lock().unwrap().begun <= 160);
        assert_eq!(sync.sync(&missing).unwrap_err().kind(), io::ErrorKind::NotFound);
        sync.sync(dir.path()).unwrap();
    }

    #[test]
    fn a_file_is_replaced_whole_and_leaves_nothing_beside_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        replace(&path, b"one", 0o600).unwrap();
        replace(&path, b"two", 0o600).unwrap();
        assert_eq!(read_bounded(&path, 3).unwrap(), b"two");
        assert!(read_bounded(&path, 2).is_err());
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        assert!(replace(&dir.path().join("no/such/folder"), b"", 0o600).is_err());
    }
}
