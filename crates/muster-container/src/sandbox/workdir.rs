//! The private work folder of a job, with a limit on its size.
//!
//! As root on a machine with loop devices, the folder lies on an ext4 file system of its own, in a file of exactly the
//! rented size: the limit is the kernel's. Elsewhere it is a plain folder that is measured while the job runs
//! ([`super::supervise`]); a job can then pass the limit for the length of one interval before it is ended.
//!
//! ```text
//! jobs/ID/           0700, the Container's alone
//!   job.json         the record for recovery
//!   disk.img         the file system (image mode)
//!   data/            its mount point, or the plain folder
//!     work/          /work in the Sandbox
//!     tmp/           /tmp in the Sandbox
//! ```

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Component, Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{AtFlags, CWD, FallocateFlags, Gid, Mode, OFlags, ResolveFlags, Uid};
use rustix::mount::{UnmountFlags, unmount};

use super::capabilities::DiskLimit;
use super::error::{SandboxError, chain};
use super::outputs::{Output, OutputLimits, Outputs};
use super::recover::Record;
use super::spec::{JobId, check_disk};
use super::{Inner, outputs, supervise, system};

const NAME_LEN_MAX: usize = 4096;
const DEPTH_MAX: usize = 64;
/// How the folders of [`try_image`] are named.
const PROBE: &str = "probe-";
/// Magic number of tmpfs, where reserving room would take memory at once.
const TMPFS_MAGIC: i64 = 0x0102_1994;

/// A prepared work folder; dropping it without [`WorkDir::remove`] cleans up too, but blocks and cannot report.
#[derive(Debug)]
pub struct WorkDir {
    id: JobId,
    dir: PathBuf,
    uid: Option<u32>,
    disk_bytes: u64,
    mounted: bool,
    gone: bool,
    /// Set when the folder shall outlive the process.
    kept: AtomicBool,
    /// Keeps the state folder locked for as long as a folder in it is in use.
    inner: Arc<Inner>,
}

impl WorkDir {
    pub(super) fn create(inner: &Arc<Inner>, id: &JobId, disk_bytes: u64) -> Result<Self, SandboxError> {
        check_disk(disk_bytes)?;
        let dir = inner.jobs_dir().join(id.as_str());
        match fs::create_dir(&dir) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                return Err(SandboxError::JobExists { id: id.clone() });
            }
            Err(error) => return Err(SandboxError::io("create the folder", &dir)(error)),
        }
        let uid = system::is_root().then(|| system::job_uid(&inner.instance, id.as_str()));
        // From here on dropping the value removes what exists so far.
        let mut work = Self::at(inner, id, dir, uid, disk_bytes);
        inner.active().insert(id.clone());
        Record::prepared(id).write(&work.dir)?;
        let data = work.dir.join("data");
        fs::create_dir(&data).map_err(SandboxError::io("create the folder", &data))?;
        if inner.capabilities.disk_limit == DiskLimit::Image {
            mount_image(&work.dir, disk_bytes)?;
            work.mounted = true;
        }
        for (name, mode) in [("work", 0o755), ("tmp", 0o1777)] {
            let path = data.join(name);
            fs::create_dir(&path).map_err(SandboxError::io("create the folder", &path))?;
            fs::set_permissions(&path, fs::Permissions::from_mode(mode))
                .map_err(SandboxError::io("set the mode of", &path))?;
        }
        Ok(work)
    }

    fn at(inner: &Arc<Inner>, id: &JobId, dir: PathBuf, uid: Option<u32>, disk_bytes: u64) -> Self {
        let (mounted, gone, kept) = (false, false, AtomicBool::new(false));
        Self { id: id.clone(), dir, uid, disk_bytes, mounted, gone, kept, inner: Arc::clone(inner) }
    }

    /// Takes over what an earlier process kept, or left in a crash, of a job whose processes are ended. When that fails,
    /// what is there stays for the recovery to remove.
    pub(super) fn reopen(inner: &Arc<Inner>, id: &JobId, disk_bytes: u64) -> Result<Self, SandboxError> {
        check_disk(disk_bytes)?;
        let dir = inner.jobs_dir().join(id.as_str());
        let uid = system::is_root().then(|| system::job_uid(&inner.instance, id.as_str()));
        let mut work = Self::at(inner, id, dir, uid, disk_bytes);
        // Until it is whole, dropping the value must remove nothing.
        work.gone = true;
        let (image, data) = (work.dir.join("disk.img"), work.data());
        work.mounted = is_mount_point(&data);
        if image.exists() && !work.mounted {
            // Not unmounted before the machine went down, or not in order: what cannot be mended by itself is an error.
            system::run_program(
                "mend the work folder's file system",
                Command::new(system::find_program("e2fsck").unwrap_or_else(|| "e2fsck".into())).arg("-p").arg(&image),
            )?;
            mount(&image, &data)?;
            work.mounted = true;
        }
        work.root()?;
        work.gone = false;
        inner.active().insert(id.clone());
        Ok(work)
    }

    /// Leaves the files in place when this value is dropped, unmounted, for [`super::Sandbox::reopen`] in a later process.
    pub fn keep(&self) {
        self.kept.store(true, Ordering::Relaxed);
    }

    /// The job this folder belongs to.
    #[must_use]
    pub fn id(&self) -> &JobId {
        &self.id
    }

    /// What the job sees as `/work`, on the host. Never open a name below it after the job has run: links in it are the
    /// job's; [`WorkDir::outputs`] and [`WorkDir::open_output`] are safe.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        self.dir.join("data/work")
    }

    /// Size of the work folder and `/tmp` together.
    #[must_use]
    pub fn disk_bytes(&self) -> u64 {
        self.disk_bytes
    }

    /// Creates an input file and its parent folders; an existing file is replaced. `mode` is cut to its `rwx` bits.
    ///
    /// # Errors
    ///
    /// [`SandboxError::FileName`] for a name that is absolute, empty, holds `.` or `..`, or is too long or deep,
    /// [`SandboxError::Io`] when the file cannot be made (`StorageFull` when the folder's limit is reached).
    pub fn create_file(&self, name: &str, mode: u32) -> Result<File, SandboxError> {
        let relative = checked_name(name)?;
        let root = self.root()?;
        if let Some(parent) = relative.parent() {
            self.make_dirs(&root, parent)?;
        }
        let path = self.path().join(&relative);
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = open_beneath(&root, &relative, flags, Mode::from_raw_mode(0o600))
            .map_err(SandboxError::io("create the file", &path))?;
        rustix::fs::fchmod(&fd, Mode::from_raw_mode((mode & 0o777) | 0o600))
            .map_err(SandboxError::io("set the mode of", &path))?;
        Ok(File::from(fd))
    }

    /// Opens a plain file for reading, without following a link. Call it while no job runs.
    ///
    /// # Errors
    ///
    /// As [`WorkDir::create_file`]; [`SandboxError::Io`] where there is none.
    pub fn open_file(&self, name: &str) -> Result<File, SandboxError> {
        let relative = checked_name(name)?;
        let path = self.path().join(&relative);
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let fd = open_beneath(&self.root()?, &relative, flags, Mode::empty())
            .map_err(SandboxError::io("open the file", &path))?;
        let kind = rustix::fs::fstat(&fd).map_err(SandboxError::io("look at", &path))?.st_mode;
        if rustix::fs::FileType::from_raw_mode(kind) != rustix::fs::FileType::RegularFile {
            return Err(SandboxError::FileName { name: name.to_owned(), why: "it is no plain file" });
        }
        Ok(File::from(fd))
    }

    /// Removes a file, without following a link. Call it while no job runs.
    ///
    /// # Errors
    ///
    /// As [`WorkDir::open_file`].
    pub fn remove_file(&self, name: &str) -> Result<(), SandboxError> {
        let relative = checked_name(name)?;
        let path = self.path().join(&relative);
        let (parent, file) = (relative.parent().unwrap_or(Path::new("")), relative.file_name().unwrap_or_default());
        let folder =
            open_beneath(&self.root()?, parent, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
                .map_err(SandboxError::io("open the folder of", &path))?;
        rustix::fs::unlinkat(&folder, file, rustix::fs::AtFlags::empty()).map_err(SandboxError::io("remove", &path))
    }

    /// Creates an empty folder and its parents; one that exists is no error.
    ///
    /// # Errors
    ///
    /// As [`WorkDir::create_file`].
    pub fn create_dir(&self, name: &str) -> Result<(), SandboxError> {
        let relative = checked_name(name)?;
        self.make_dirs(&self.root()?, &relative)
    }

    /// Lists what the job left in `/work`, without following a link; see [`Outputs`]. Call it when the job has ended.
    ///
    /// # Errors
    ///
    /// [`SandboxError::OutputsTooBig`] past one of the bounds, [`SandboxError::Io`] when the folder cannot be read.
    pub fn outputs(&self, limits: &OutputLimits) -> Result<Outputs, SandboxError> {
        outputs::list(&self.root()?, limits)
    }

    /// Opens one listed file for reading, without following a link.
    ///
    /// # Errors
    ///
    /// [`SandboxError::Io`] when the file is gone or no longer a plain file.
    pub fn open_output(&self, output: &Output) -> Result<File, SandboxError> {
        outputs::open(&self.root()?, output)
    }

    /// Gives the room that was rented and not used back to the machine, once the job has ended, and says how much the
    /// folder still takes.
    ///
    /// # Errors
    ///
    /// [`SandboxError::Io`] when the folder cannot be measured.
    pub async fn shrink(self: &Arc<Self>) -> Result<u64, SandboxError> {
        let work = Arc::clone(self);
        system::blocking(move || {
            if !work.mounted {
                return Ok(supervise::used_bytes(&work.data()));
            }
            let trimmed = system::run_program(
                "give unused room back",
                Command::new(system::find_program("fstrim").unwrap_or_else(|| "fstrim".into())).arg(work.data()),
            );
            let image = work.dir.join("disk.img");
            let stat = fs::metadata(&image).map_err(SandboxError::io("look at", &image))?;
            if let Err(error) = trimmed {
                // A file system below that cannot have holes: the room stays taken until the folder is removed.
                tracing::debug!(job = %work.id, error = %chain(&error), "unused room is not given back");
            }
            Ok(stat.blocks().saturating_mul(512))
        })
        .await
    }

    /// Unmounts and removes the folder. The job must have ended.
    ///
    /// # Errors
    ///
    /// [`SandboxError::Io`] when something resists; the next [`super::Sandbox::recover`] tries again.
    pub async fn remove(mut self) -> Result<(), SandboxError> {
        self.gone = true;
        let dir = self.dir.clone();
        let held = self;
        system::blocking(move || {
            let removed = remove_job_dir(&dir);
            drop(held);
            removed
        })
        .await
    }

    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    pub(super) fn tmp(&self) -> PathBuf {
        self.dir.join("data/tmp")
    }

    pub(super) fn data(&self) -> PathBuf {
        self.dir.join("data")
    }

    /// The host user the job runs as; `None` when the Container is not root and the job shares its user.
    pub(super) fn uid(&self) -> Option<u32> {
        self.uid
    }

    /// Whether the limit is the file system's own.
    pub(super) fn mounted(&self) -> bool {
        self.mounted
    }

    /// Gives everything in the folder to the job's user.
    pub(super) async fn hand_over(&self) -> Result<(), SandboxError> {
        let Some(uid) = self.uid else { return Ok(()) };
        let pending = vec![self.path(), self.tmp()];
        system::blocking(move || hand_over(uid, pending)).await
    }

    fn root(&self) -> Result<OwnedFd, SandboxError> {
        let path = self.path();
        rustix::fs::open(&path, OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())
            .map_err(SandboxError::io("open the folder", &path))
    }

    fn make_dirs(&self, root: &OwnedFd, relative: &Path) -> Result<(), SandboxError> {
        let mut sofar = PathBuf::new();
        for part in relative.components() {
            let parent = open_beneath(root, &sofar, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
                .map_err(SandboxError::io("open the folder", self.path().join(&sofar)))?;
            sofar.push(part);
            match rustix::fs::mkdirat(&parent, part.as_os_str(), Mode::from_raw_mode(0o755)) {
                Ok(()) | Err(rustix::io::Errno::EXIST) => {}
                Err(error) => return Err(SandboxError::io("create the folder", self.path().join(&sofar))(error)),
            }
        }
        Ok(())
    }
}

impl Drop for WorkDir {
    fn drop(&mut self) {
        let done = match (self.gone, self.kept.load(Ordering::Relaxed)) {
            (true, _) => Ok(()),
            (false, true) if self.mounted => unmount_now(&self.data()),
            (false, true) => Ok(()),
            (false, false) => remove_job_dir(&self.dir),
        };
        if let Err(error) = done {
            tracing::warn!(job = %self.id, error = %chain(&error), "a work folder stays until the next recovery");
        }
        self.inner.active().remove(&self.id);
    }
}

/// Changes the owner of everything below some folders. Nothing of the job runs yet, so no name can change under the walk.
fn hand_over(uid: u32, mut pending: Vec<PathBuf>) -> Result<(), SandboxError> {
    let (user, group) = (Uid::from_raw(uid), Gid::from_raw(uid));
    while let Some(path) = pending.pop() {
        rustix::fs::chownat(CWD, &path, Some(user), Some(group), AtFlags::SYMLINK_NOFOLLOW)
            .map_err(SandboxError::io("change the owner of", &path))?;
        let kind = fs::symlink_metadata(&path).map_err(SandboxError::io("look at", &path))?;
        if kind.is_dir() {
            for entry in fs::read_dir(&path).map_err(SandboxError::io("list", &path))? {
                pending.push(entry.map_err(SandboxError::io("list", &path))?.path());
            }
        }
    }
    Ok(())
}

/// Opens a name below a folder so that neither a link nor `..` can lead out of it.
pub(super) fn open_beneath(root: &OwnedFd, name: &Path, flags: OFlags, mode: Mode) -> rustix::io::Result<OwnedFd> {
    let name = if name.as_os_str().is_empty() { Path::new(".") } else { name };
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    rustix::fs::openat2(root, name, flags, mode, resolve)
}

fn checked_name(name: &str) -> Result<PathBuf, SandboxError> {
    let refuse = |why| Err(SandboxError::FileName { name: name.chars().take(200).collect(), why });
    if name.is_empty() || name.len() > NAME_LEN_MAX {
        return refuse("it must have 1 to 4096 bytes");
    }
    let path = Path::new(name);
    if !path.components().all(|part| matches!(part, Component::Normal(part) if part != OsStr::new(""))) {
        return refuse("it must be relative and without '.' or '..'");
    }
    if path.components().count() > DEPTH_MAX {
        return refuse("it has more than 64 folders");
    }
    if name.contains('\0') {
        return refuse("it holds a zero byte");
    }
    Ok(path.components().collect())
}

/// Makes a file of the rented size, an ext4 file system in it, and mounts that at `data`.
fn mount_image(dir: &Path, disk_bytes: u64) -> Result<(), SandboxError> {
    let (image, data) = (dir.join("disk.img"), dir.join("data"));
    let file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&image)
        .map_err(SandboxError::io("create the file", &image))?;
    reserve(&file, &image, disk_bytes)?;
    // No journal: the content ends with the job. Lazy tables and no discard keep it to some milliseconds at any size.
    system::run_program(
        "make the work folder's file system",
        Command::new(system::find_program("mkfs.ext4").unwrap_or_else(|| "mkfs.ext4".into()))
            .args(["-q", "-F", "-m", "0", "-O", "^has_journal,^resize_inode"])
            .args(["-E", "lazy_itable_init=1,nodiscard,root_owner=0:0"])
            .arg(&image),
    )?;
    mount(&image, &data)
}

fn mount(image: &Path, data: &Path) -> Result<(), SandboxError> {
    system::run_program(
        "mount the work folder's file system",
        Command::new(system::find_program("mount").unwrap_or_else(|| "mount".into()))
            .args(["-t", "ext4", "-o", "loop,nosuid,nodev,noatime,nobarrier"])
            .arg(image)
            .arg(data),
    )?;
    Ok(())
}

/// Sets the file's size and takes the room for it, so that what was rented is really there.
fn reserve(file: &File, path: &Path, bytes: u64) -> Result<(), SandboxError> {
    file.set_len(bytes).map_err(SandboxError::io("size the file", path))?;
    let on_tmpfs = rustix::fs::fstatfs(file).is_ok_and(|stat| i128::from(stat.f_type) == i128::from(TMPFS_MAGIC));
    if on_tmpfs {
        return Ok(());
    }
    match rustix::fs::fallocate(file, FallocateFlags::empty(), 0, bytes) {
        // A file system that cannot reserve gives the room as it is written, first come, first served.
        Ok(()) | Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) => Ok(()),
        Err(rustix::io::Errno::NOSPC) => {
            let free_bytes = rustix::fs::fstatvfs(file).map_or(0, |stat| stat.f_bavail.saturating_mul(stat.f_frsize));
            let path = path.parent().unwrap_or(path).to_path_buf();
            Err(SandboxError::DiskShort { path, need_bytes: bytes, free_bytes })
        }
        Err(error) => Err(SandboxError::io("reserve room for", path)(error)),
    }
}

/// Unmounts and removes a job's folder; what is gone already is no error.
pub(super) fn remove_job_dir(dir: &Path) -> Result<(), SandboxError> {
    let data = dir.join("data");
    if is_mount_point(&data) {
        unmount_now(&data)?;
    }
    match fs::remove_dir_all(dir) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            // A job of the Container's own user can take its folders' permissions away; give them back and try again.
            open_up(dir);
            fs::remove_dir_all(dir).map_err(SandboxError::io("remove the folder", dir))
        }
        Err(error) => Err(SandboxError::io("remove the folder", dir)(error)),
    }
}

fn open_up(dir: &Path) {
    let mut pending = vec![dir.to_path_buf()];
    while let Some(path) = pending.pop() {
        // What still cannot be read shows as the error of the removal that follows.
        let _ = fs::set_permissions(&path, fs::Permissions::from_mode(0o700));
        let entries = fs::read_dir(&path).into_iter().flatten().flatten();
        pending.extend(
            entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())).map(|entry| entry.path()),
        );
    }
}

fn unmount_now(data: &Path) -> Result<(), SandboxError> {
    match unmount(data, UnmountFlags::NOFOLLOW) {
        Ok(()) | Err(rustix::io::Errno::INVAL) => Ok(()),
        // Somebody looks into it: take the name away now, the kernel frees the rest when they leave.
        Err(rustix::io::Errno::BUSY) => {
            unmount(data, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW).map_err(SandboxError::io("unmount", data))
        }
        Err(error) => Err(SandboxError::io("unmount", data)(error)),
    }
}

/// A folder is a mount point when it lies on another device than its parent.
fn is_mount_point(path: &Path) -> bool {
    let device = |path: &Path| fs::symlink_metadata(path).map(|meta| meta.dev());
    match (device(path), path.parent().map(device)) {
        (Ok(here), Some(Ok(above))) => here != above,
        _ => false,
    }
}

/// Tries the whole way of an image once, to know whether this machine can do it.
pub(super) fn try_image(state_dir: &Path) -> Result<(), SandboxError> {
    let dir = state_dir.join(format!("{PROBE}{}", std::process::id()));
    let tried = (|| {
        system::make_private_dir(&dir.join("data"))?;
        mount_image(&dir, 8 << 20)
    })();
    let removed = remove_job_dir(&dir);
    tried.and(removed)
}

/// Removes what attempts that were cut short have left. One that is going on in another process fails, at worst: this
/// process has the state folder's lock.
pub(super) fn remove_probes(state_dir: &Path) {
    for entry in fs::read_dir(state_dir).into_iter().flatten().flatten() {
        if entry.file_name().to_string_lossy().starts_with(PROBE)
            && let Err(error) = remove_job_dir(&entry.path())
        {
            tracing::warn!(path = %entry.path().display(), error = %chain(&error), "a leftover stays");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_lead_out_are_refused() {
        for name in ["", "/etc/passwd", "../x", "a/../b", "./a", "a/..", "a\0b", &"d/".repeat(70), &"x".repeat(5000)] {
            assert!(checked_name(name).is_err(), "{name:?}");
        }
        assert_eq!(checked_name("frames/01.png").expect("plain"), Path::new("frames/01.png"));
        assert_eq!(checked_name("a//b").expect("doubled slash"), Path::new("a/b"));
    }
}
