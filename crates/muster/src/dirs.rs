//! Where things lie, and the marks that protect a folder: its version and its lock.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crate::failure::{Because, Code, Failure};

/// The layout that this build writes and reads.
const LAYOUT_VERSION: u32 = 1;

/// A Muster folder.
#[derive(Clone, Debug)]
pub(crate) struct Dirs {
    root: PathBuf,
}

impl Dirs {
    /// The folder that was asked for, or the user's own.
    pub(crate) fn resolve(asked: Option<&Path>) -> Result<Self, Failure> {
        if let Some(dir) = asked {
            let root = std::path::absolute(dir).because(Code::Config, format!("--dir {}", dir.display()))?;
            return Ok(Self { root });
        }
        let data = match (std::env::var_os("XDG_DATA_HOME"), std::env::var_os("HOME")) {
            (Some(data), _) if !data.is_empty() => PathBuf::from(data),
            (_, Some(home)) if !home.is_empty() => PathBuf::from(home).join(".local/share"),
            _ => {
                return Err(Failure::new(
                    Code::Config,
                    "neither HOME nor XDG_DATA_HOME is set; name a folder with --dir",
                ));
            }
        };
        Ok(Self { root: data.join("muster") })
    }

    /// The folder itself.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// Something in it.
    pub(crate) fn at(&self, name: impl AsRef<Path>) -> PathBuf {
        self.root.join(name)
    }

    /// The network file.
    pub(crate) fn network(&self) -> PathBuf {
        self.at("network.toml")
    }

    /// Keystores.
    pub(crate) fn wallets(&self) -> PathBuf {
        self.at("wallets")
    }

    /// The keystore that opens the hub's token.
    pub(crate) fn hub_key(&self) -> PathBuf {
        self.at("hub").join("key.json")
    }

    /// Makes the folder (mode 0700) and checks that this build understands its layout.
    pub(crate) fn prepare(&self) -> Result<(), Failure> {
        make_private(&self.root)?;
        let mark = self.at("version");
        match fs::read_to_string(&mark) {
            Ok(text) => {
                let found: u32 = text.trim().parse().map_err(|_| {
                    Failure::new(Code::Data, format!("{} is damaged: it should hold the number of a layout; restore it from a backup, or start with another --dir", mark.display()))
                })?;
                if found > LAYOUT_VERSION {
                    let why = format!(
                        "{} was written by a newer Muster (layout {found}; this one knows {LAYOUT_VERSION}): update Muster, or start with another --dir",
                        self.root.display()
                    );
                    return Err(Failure::new(Code::Data, why));
                }
                Ok(())
            }
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                write_private(&mark, format!("{LAYOUT_VERSION}\n").as_bytes())
            }
            Err(e) => Err(Failure::new(Code::Io, format!("{}: {e}", mark.display()))),
        }
    }
}

/// Makes a folder that only its owner may enter.
pub(crate) fn make_private(dir: &Path) -> Result<(), Failure> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .because(Code::Io, format!("cannot make {}", dir.display()))
}

/// Writes a file of mode 0600: whole or not at all.
pub(crate) fn write_private(path: &Path, bytes: &[u8]) -> Result<(), Failure> {
    let what = || format!("cannot write {}", path.display());
    let temporary = path.with_extension("new");
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&temporary)
        .because(Code::Io, what())?;
    file.write_all(bytes).because(Code::Io, what())?;
    file.sync_all().because(Code::Io, what())?;
    fs::rename(&temporary, path).because(Code::Io, what())?;
    if let Some(parent) = path.parent() {
        File::open(parent).and_then(|d| d.sync_all()).because(Code::Io, what())?;
    }
    Ok(())
}

/// Holds a folder for one process; given back when dropped, also by a `kill -9`.
#[derive(Debug)]
pub(crate) struct Lock {
    _file: File,
}

impl Lock {
    /// Takes the lock, or says who holds it.
    pub(crate) fn take(path: &Path, what: &str) -> Result<Self, Failure> {
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path)
            .because(Code::Io, format!("cannot open {}", path.display()))?;
        match file.try_lock() {
            Ok(()) => {
                file.set_len(0).because(Code::Io, path.display())?;
                writeln!(file, "{}", std::process::id()).because(Code::Io, path.display())?;
                Ok(Self { _file: file })
            }
            Err(fs::TryLockError::WouldBlock) => {
                let holder = fs::read_to_string(path).unwrap_or_default();
                let holder = holder.trim();
                let by = if holder.is_empty() { String::new() } else { format!(" (process {holder})") };
                Err(Failure::new(
                    Code::InUse,
                    format!(
                        "{what} is in use by another Muster{by}; stop that one first, or name another folder with --dir"
                    ),
                ))
            }
            Err(fs::TryLockError::Error(e)) => {
                Err(Failure::new(Code::Io, format!("cannot lock {}: {e}", path.display())))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_newer_folder_is_refused_with_a_sentence() {
        let dir = tempfile::tempdir().unwrap();
        let dirs = Dirs::resolve(Some(dir.path())).unwrap();
        dirs.prepare().unwrap();
        dirs.prepare().unwrap();
        fs::write(dirs.at("version"), "2\n").unwrap();
        let failure = dirs.prepare().unwrap_err();
        assert_eq!(failure.code, Code::Data);
        assert!(failure.why.contains("newer Muster"), "{failure}");
        fs::write(dirs.at("version"), "garbage").unwrap();
        assert!(dirs.prepare().unwrap_err().why.contains("damaged"));
    }

    #[test]
    fn a_lock_is_held_once() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let held = Lock::take(&path, "the folder").unwrap();
        let failure = Lock::take(&path, "the folder").unwrap_err();
        assert_eq!(failure.code, Code::InUse);
        assert!(failure.why.contains(&std::process::id().to_string()), "{failure}");
        drop(held);
        Lock::take(&path, "the folder").unwrap();
    }
}
