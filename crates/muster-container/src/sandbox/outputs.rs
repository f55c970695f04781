//! Taking out what a job left, when the job may have laid traps: links that point outside, pipes that never end, devices,
//! files of absurd size, folders without end.
//!
//! Nothing here ever follows a link. Every name is opened below the work folder's own descriptor with `openat2` and
//! `RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS`, so a folder swapped for a link between two looks is an error, not an escape.
//! A hard link is harmless: the work folder is its own mount, and the kernel makes no hard link across mounts.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags};
use serde::{Deserialize, Serialize};

use super::error::SandboxError;
use super::workdir::open_beneath;

/// Refused entries that are named one by one; more are only counted.
const SKIPPED_NAMED_MAX: usize = 100;

/// Bounds of what is taken out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutputLimits {
    /// Files and folders together.
    pub entries_max: usize,
    /// Bytes of all files together, holes of sparse files counted.
    pub bytes_max: u64,
    /// Folders within folders.
    pub depth_max: usize,
}

/// One plain file a job left.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Output {
    /// Path relative to `/work`, with `/` between folders; valid UTF-8 without `.` or `..`.
    pub path: String,
    /// Size in bytes when it was listed.
    pub bytes: u64,
    /// Whether its owner may execute it; no other mode bit leaves the Sandbox.
    pub executable: bool,
}

/// Something a job left that is not taken out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SkippedOutput {
    /// Path relative to `/work`, made printable.
    pub path: String,
    /// Why it stays.
    pub why: String,
}

/// All a job left, in the order of the paths' bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outputs {
    /// Plain files.
    pub files: Vec<Output>,
    /// Folders, each after the one it lies in.
    pub dirs: Vec<String>,
    /// Links, devices, pipes and names that cannot travel: the first 100.
    pub skipped: Vec<SkippedOutput>,
    /// How many were skipped in all.
    pub skipped_total: usize,
    /// Bytes of all files together.
    pub bytes: u64,
}

impl Outputs {
    fn skip(&mut self, path: &Path, why: &str) {
        self.skipped_total += 1;
        if self.skipped.len() < SKIPPED_NAMED_MAX {
            self.skipped
                .push(SkippedOutput { path: path.to_string_lossy().escape_debug().collect(), why: why.to_owned() });
        }
    }

    fn check(&self, limits: &OutputLimits) -> Result<(), SandboxError> {
        let entries = self.files.len() + self.dirs.len() + self.skipped_total;
        let why = if entries > limits.entries_max {
            format!(
                "the job left more than {} files and folders: pack them into an archive inside the job",
                limits.entries_max
            )
        } else if self.bytes > limits.bytes_max {
            format!(
                "the job's files add up to more than {} bytes (holes counted): remove what is not a result",
                limits.bytes_max
            )
        } else {
            return Ok(());
        };
        Err(SandboxError::OutputsTooBig { why })
    }
}

/// Lists everything below `root`.
pub(super) fn list(root: &OwnedFd, limits: &OutputLimits) -> Result<Outputs, SandboxError> {
    let mut found = Outputs::default();
    let mut pending = vec![PathBuf::new()];
    while let Some(folder) = pending.pop() {
        if folder.components().count() > limits.depth_max {
            found.skip(&folder, "it lies too deep");
            continue;
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let opened = match open_beneath(root, &folder, flags, Mode::empty()) {
            Ok(opened) => opened,
            Err(error) if folder.as_os_str().is_empty() => return Err(SandboxError::io("list", "/work")(error)),
            Err(error) => {
                found.skip(&folder, &format!("the folder cannot be read: {error}"));
                continue;
            }
        };
        list_folder(&opened, &folder, &mut pending, &mut found, limits)?;
    }
    found.files.sort_by(|a, b| a.path.cmp(&b.path));
    found.dirs.sort();
    Ok(found)
}

fn list_folder(
    opened: &OwnedFd,
    folder: &Path,
    pending: &mut Vec<PathBuf>,
    found: &mut Outputs,
    limits: &OutputLimits,
) -> Result<(), SandboxError> {
    let failed = |error| SandboxError::io("list", Path::new("/work").join(folder))(error);
    for entry in Dir::read_from(opened).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let name = entry.file_name();
        if name == c"." || name == c".." {
            continue;
        }
        let path = folder.join(Path::new(std::ffi::OsStr::new(&*name.to_string_lossy())));
        let Ok(name) = name.to_str() else {
            found.skip(&path, "its name is not valid UTF-8");
            found.check(limits)?;
            continue;
        };
        let stat = rustix::fs::statat(opened, name, AtFlags::SYMLINK_NOFOLLOW).map_err(failed)?;
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => {
                let bytes = u64::try_from(stat.st_size).unwrap_or(0);
                found.bytes = found.bytes.saturating_add(bytes);
                let executable = stat.st_mode & 0o100 != 0;
                found.files.push(Output { path: path.to_string_lossy().into_owned(), bytes, executable });
            }
            FileType::Directory => {
                found.dirs.push(path.to_string_lossy().into_owned());
                pending.push(path);
            }
            FileType::Symlink => found.skip(&path, "it is a symbolic link"),
            FileType::Fifo => found.skip(&path, "it is a named pipe"),
            FileType::Socket => found.skip(&path, "it is a socket"),
            FileType::CharacterDevice | FileType::BlockDevice => found.skip(&path, "it is a device"),
            FileType::Unknown => found.skip(&path, "it is of an unknown kind"),
        }
        found.check(limits)?;
    }
    Ok(())
}

/// Opens one listed file.
pub(super) fn open(root: &OwnedFd, output: &Output) -> Result<File, SandboxError> {
    let shown = Path::new("/work").join(&output.path);
    // Not blocking, so that a pipe put in the file's place cannot hold us up.
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let fd =
        open_beneath(root, Path::new(&output.path), flags, Mode::empty()).map_err(SandboxError::io("open", &shown))?;
    let stat = rustix::fs::fstat(&fd).map_err(SandboxError::io("look at", &shown))?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(SandboxError::io("open", &shown)(std::io::Error::other("it is no longer a plain file")));
    }
    Ok(File::from(fd))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    const LIMITS: OutputLimits = OutputLimits { entries_max: 100, bytes_max: 1 << 20, depth_max: 8 };

    fn root(dir: &Path) -> OwnedFd {
        rustix::fs::open(dir, OFlags::PATH | OFlags::DIRECTORY, Mode::empty()).expect("folder")
    }

    #[test]
    fn only_plain_files_and_folders_are_listed() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let at = |name: &str| dir.path().join(name);
        fs::create_dir_all(at("b/c")).expect("folders");
        fs::write(at("b/c/deep"), b"12345").expect("file");
        fs::write(at("a"), b"1").expect("file");
        fs::set_permissions(at("a"), fs::Permissions::from_mode(0o4755)).expect("mode");
        symlink("/etc/shadow", at("link")).expect("link");
        symlink("/etc", at("folder-link")).expect("link");
        rustix::fs::mkfifoat(rustix::fs::CWD, at("pipe"), Mode::from_raw_mode(0o600)).expect("pipe");
        let found = list(&root(dir.path()), &LIMITS).expect("list");
        assert_eq!(
            found.files,
            [
                Output { path: "a".into(), bytes: 1, executable: true },
                Output { path: "b/c/deep".into(), bytes: 5, executable: false },
            ]
        );
        assert_eq!(found.dirs, ["b", "b/c"]);
        assert_eq!((found.bytes, found.skipped_total), (6, 3));
        let why = |name: &str| found.skipped.iter().find(|s| s.path == name).map(|s| s.why.as_str());
        assert_eq!(why("link"), Some("it is a symbolic link"));
        assert_eq!(why("pipe"), Some("it is a named pipe"));
    }

    #[test]
    fn a_file_swapped_for_a_link_or_pipe_is_not_opened() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let output = |path: &str| Output { path: path.into(), bytes: 0, executable: false };
        symlink("/etc/passwd", dir.path().join("file")).expect("link");
        symlink("/etc", dir.path().join("folder")).expect("link");
        rustix::fs::mkfifoat(rustix::fs::CWD, dir.path().join("pipe"), Mode::from_raw_mode(0o600)).expect("pipe");
        for name in ["file", "folder/passwd", "pipe", "../outside", "/etc/passwd"] {
            assert!(open(&root(dir.path()), &output(name)).is_err(), "{name}");
        }
    }

    #[test]
    fn bounds_are_kept() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let file = File::create(dir.path().join("sparse")).expect("file");
        file.set_len(1 << 30).expect("a hole of a gibibyte");
        assert!(matches!(list(&root(dir.path()), &LIMITS), Err(SandboxError::OutputsTooBig { .. })));
        fs::remove_file(dir.path().join("sparse")).expect("remove");
        for n in 0..101 {
            fs::write(dir.path().join(format!("f{n}")), b"").expect("file");
        }
        assert!(matches!(list(&root(dir.path()), &LIMITS), Err(SandboxError::OutputsTooBig { .. })));
        let deep = tempfile::tempdir().expect("temporary folder");
        fs::create_dir_all(deep.path().join("1/2/3/4/5/6/7/8/9/10")).expect("folders");
        assert_eq!(list(&root(deep.path()), &LIMITS).expect("list").skipped[0].why, "it lies too deep");
    }
}
