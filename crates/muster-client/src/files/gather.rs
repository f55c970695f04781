//! Putting outputs in their place, those of an array's tasks side by side.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use muster_core::ids::ContentHash;
use rustix::fs::{AtFlags, Mode, OFlags, mkdirat, openat, renameat, statat};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::FilesError;
use super::receive::Staged;
use crate::durable;

/// The longest list of claims that is read, in bytes.
const CLAIMS_BYTES_MAX: u64 = 256 * 1024 * 1024;

/// An output in its place.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Placed {
    /// Where it is.
    pub path: PathBuf,
    /// Its name in the job's work folder.
    pub name: String,
    /// Bytes.
    pub len: u64,
    /// Whether another task had written a different file of that name, so that this one went aside.
    pub aside: bool,
}

/// Which task of an array wrote which output first. Tasks that write distinct names share the output folder; where
/// two write different files of one name, the second goes to `task-N/` beside.
#[derive(Clone, Debug, Default)]
pub struct Claims {
    inner: Option<Arc<Mutex<Inner>>>,
    task: u32,
}

#[derive(Debug)]
struct Inner {
    by_name: BTreeMap<String, Claim>,
    path: PathBuf,
    file: File,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Claim {
    name: String,
    task: u32,
    hash: ContentHash,
}

impl Claims {
    /// For a job that is no array: nobody to share with.
    #[must_use]
    pub fn alone() -> Self {
        Self::default()
    }

    /// For an array; the claims are kept in `path`, so that they outlive this process.
    ///
    /// # Errors
    /// The file cannot be read or written.
    pub fn shared(path: &Path) -> Result<Self, FilesError> {
        let mut by_name = BTreeMap::new();
        let mut torn = false;
        match durable::read_bounded(path, CLAIMS_BYTES_MAX) {
            Ok(bytes) => {
                // A torn last line is a claim that was never acted upon.
                torn = bytes.last().is_some_and(|b| *b != b'\n');
                for line in bytes.split(|b| *b == b'\n') {
                    if let Ok(claim) = serde_json::from_slice::<Claim>(line) {
                        by_name.entry(claim.name.clone()).or_insert(claim);
                    }
                }
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(FilesError::io(path)(e)),
        }
        if let Some(folder) = path.parent() {
            durable::private_folder(folder).map_err(FilesError::io(folder))?;
        }
        let mut file =
            OpenOptions::new().append(true).create(true).mode(0o600).open(path).map_err(FilesError::io(path))?;
        if torn {
            file.write_all(b"\n").map_err(FilesError::io(path))?;
        }
        let inner = Inner { by_name, path: path.to_owned(), file };
        Ok(Self { inner: Some(Arc::new(Mutex::new(inner))), task: 0 })
    }

    /// The same claims, in the name of a task.
    #[must_use]
    pub fn of_task(&self, task: u32) -> Self {
        Self { inner: self.inner.clone(), task }
    }

    /// Where a file belongs: `Some(name)` in the output folder, `None` when the same file is there already.
    fn claim(&self, name: &str, hash: ContentHash) -> Result<Option<String>, FilesError> {
        let Some(inner) = &self.inner else { return Ok(Some(name.to_owned())) };
        let mut inner = inner.lock().unwrap_or_else(PoisonError::into_inner);
        match inner.by_name.get(name) {
            Some(first) if first.task == self.task => Ok(Some(name.to_owned())),
            Some(first) if first.hash == hash => Ok(None),
            Some(_) => Ok(Some(format!("task-{}/{name}", self.task))),
            None => {
                let claim = Claim { name: name.to_owned(), task: self.task, hash };
                let line = serde_json::to_vec(&claim).map_err(io::Error::other);
                let written = line.and_then(|mut line| {
                    line.push(b'\n');
                    inner.file.write_all(&line)
                });
                written.map_err(FilesError::io(&inner.path))?;
                inner.by_name.insert(name.to_owned(), claim);
                Ok(Some(name.to_owned()))
            }
        }
    }
}

/// Moves everything from the staging folder to its place. Links in the output folder are not followed; a file that
/// was there before gives way.
pub(super) fn place_all(
    staging: &Path,
    output: &Path,
    files: &[Staged],
    folders: &BTreeSet<String>,
    claims: &Claims,
) -> Result<Vec<Placed>, FilesError> {
    let root = open_root(output)?;
    for folder in folders {
        walk_down(&root, output, folder)?;
    }
    let mut placed = Vec::with_capacity(files.len());
    let mut touched: BTreeSet<PathBuf> = BTreeSet::new();
    for staged in files {
        let at = claims.claim(&staged.name, staged.hash)?;
        let aside = at.as_deref().is_some_and(|at| at != staged.name);
        let name = at.as_deref().unwrap_or(&staged.name);
        let path = output.join(name);
        if at.is_some() {
            let (folder, file) = name.rsplit_once('/').unwrap_or(("", name));
            let into = walk_down(&root, output, folder)?;
            refuse_folder(&into, file, &path)?;
            let from = staging.join(&staged.name);
            renameat(rustix::fs::CWD, &from, &into, file).map_err(|e| FilesError::io(&path)(e.into()))?;
            touched.insert(durable::parent(&path).to_owned());
        }
        placed.push(Placed { path, name: staged.name.clone(), len: staged.len, aside });
    }
    for folder in touched {
        durable::sync_folder(&folder).map_err(FilesError::io(&folder))?;
    }
    Ok(placed)
}

fn open_root(output: &Path) -> Result<OwnedFd, FilesError> {
    // The output folder itself was named by the user, so a link to it is followed.
    let real = fs::canonicalize(output).map_err(FilesError::io(output))?;
    openat(rustix::fs::CWD, &real, OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW, Mode::empty())
        .map_err(|e| FilesError::io(output)(e.into()))
}

/// Opens a folder below `root`, making what is missing, one part after the other, none of them through a link.
fn walk_down(root: &OwnedFd, output: &Path, folder: &str) -> Result<OwnedFd, FilesError> {
    let flags = OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let mut at = root.try_clone().map_err(FilesError::io(output))?;
    let mut so_far = output.to_owned();
    for part in folder.split('/').filter(|p| !p.is_empty()) {
        so_far.push(part);
        match mkdirat(&at, part, Mode::from_raw_mode(0o777)) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(e) => return Err(FilesError::io(&so_far)(e.into())),
        }
        at = openat(&at, part, flags, Mode::empty()).map_err(|e| match e {
            Errno::LOOP | Errno::NOTDIR => {
                FilesError::InTheWay { path: so_far.clone(), what: "it is a link or a file, where a folder is needed" }
            }
            other => FilesError::io(&so_far)(other.into()),
        })?;
    }
    Ok(at)
}

fn refuse_folder(into: &OwnedFd, file: &str, path: &Path) -> Result<(), FilesError> {
    match statat(into, file, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) if rustix::fs::FileType::from_raw_mode(stat.st_mode).is_dir() => {
            Err(FilesError::InTheWay { path: path.to_owned(), what: "it is a folder, where a file is needed" })
        }
        Ok(_) | Err(Errno::NOENT) => Ok(()),
        Err(e) => Err(FilesError::io(path)(e.into())),
    }
}
