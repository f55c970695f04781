//! What a program kept in its home folder: it returns to the account, and is there the next time.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::keys::secret;

/// Entries of a home folder that are sent along at most; a program with more at the top of its home is none we know.
const ENTRIES_MAX: usize = 256;

/// The folder of one account's app.
#[derive(Clone, Debug)]
pub(crate) struct SaveFolder {
    dir: PathBuf,
    /// A folder of the home that is the app's and not the player's.
    not: Option<&'static str>,
}

/// Where one session's files come back to. Dropped without being kept, it is removed, and what an earlier session kept
/// stays.
#[derive(Debug)]
pub(crate) struct Returning {
    folder: SaveFolder,
    path: PathBuf,
}

impl SaveFolder {
    /// `account` and `app` are plain names by their own rules.
    pub(crate) fn of(root: &Path, account: &str, app: &str) -> Self {
        Self { dir: root.join("saves").join(account).join(app), not: None }
    }

    /// The same, where one folder of the home is the app's own and never kept.
    pub(crate) fn without(self, not: Option<&'static str>) -> Self {
        Self { not, ..self }
    }

    fn current(&self) -> PathBuf {
        self.dir.join("current")
    }

    /// What is sent along: everything at the top of the last home folder.
    pub(crate) fn inputs(&self) -> io::Result<Vec<PathBuf>> {
        let entries = match fs::read_dir(self.current()) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        let mut inputs = entries.map(|entry| entry.map(|e| e.path())).collect::<io::Result<Vec<_>>>()?;
        inputs.retain(|path| self.not.is_none_or(|not| !path.ends_with(not)));
        inputs.sort();
        inputs.truncate(ENTRIES_MAX);
        Ok(inputs)
    }

    /// A folder for what comes back.
    pub(crate) fn returning(&self) -> io::Result<Returning> {
        let path = self.dir.join(format!("returning-{}", secret().get(..16).unwrap_or_default()));
        fs::create_dir_all(&path)?;
        Ok(Returning { folder: self.clone(), path })
    }
}

impl Returning {
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Everything is back: it becomes what the next session finds. The one before it is kept as `previous`.
    pub(crate) fn keep(self) -> io::Result<()> {
        if let Some(not) = self.folder.not {
            // What the program changed of the app's own files goes no further.
            remove(&self.path.join(not))?;
        }
        let empty = fs::read_dir(&self.path)?.next().is_none();
        if empty {
            // A program that kept nothing takes nothing away from what an earlier session kept.
            return Ok(());
        }
        let (current, previous) = (self.folder.current(), self.folder.dir.join("previous"));
        // A file that is as it was sent does not travel back: it stays as it is here.
        fill(&current, &self.path)?;
        if let Some(not) = self.folder.not {
            remove(&self.path.join(not))?;
        }
        remove(&previous)?;
        match fs::rename(&current, &previous) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        fs::rename(&self.path, &current)
    }
}

impl Drop for Returning {
    fn drop(&mut self) {
        if let Err(error) = remove(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "an unfinished save folder stays");
        }
    }
}

/// Gives a folder what another has and it has not.
fn fill(from: &Path, to: &Path) -> io::Result<()> {
    let entries = match fs::read_dir(from) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        let (one, other) = (entry.path(), to.join(entry.file_name()));
        let there = other.symlink_metadata();
        match (entry.file_type()?.is_dir(), there) {
            (true, Ok(there)) if there.is_dir() => fill(&one, &other)?,
            (_, Ok(_)) => {}
            (true, Err(_)) => {
                fs::create_dir(&other)?;
                fill(&one, &other)?;
            }
            // Neither is ever written to again.
            (false, Err(_)) => fs::hard_link(&one, &other)?,
        }
    }
    Ok(())
}

fn remove(dir: &Path) -> io::Result<()> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_returns_is_found_and_what_does_not_harms_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let folder = SaveFolder::of(dir.path(), "owner", "game");
        assert!(folder.inputs().unwrap().is_empty());
        let first = folder.returning().unwrap();
        fs::create_dir(first.path().join(".game")).unwrap();
        fs::write(first.path().join(".game/score"), "1").unwrap();
        first.keep().unwrap();
        let read = || fs::read_to_string(folder.inputs().unwrap()[0].join("score")).unwrap();
        assert_eq!(read(), "1");
        let broken = folder.returning().unwrap();
        fs::write(broken.path().join("half"), "").unwrap();
        let gone = broken.path().to_owned();
        drop(broken);
        assert!(!gone.exists());
        folder.returning().unwrap().keep().unwrap();
        assert_eq!(read(), "1");
        let second = folder.returning().unwrap();
        fs::create_dir(second.path().join(".game")).unwrap();
        fs::write(second.path().join(".game/score"), "2").unwrap();
        second.keep().unwrap();
        assert_eq!(read(), "2");
        assert_eq!(fs::read_to_string(dir.path().join("saves/owner/game/previous/.game/score")).unwrap(), "1");
        // What came back as it went is not sent, and is there all the same.
        let more = folder.returning().unwrap();
        fs::create_dir(more.path().join(".game")).unwrap();
        fs::write(more.path().join(".game/level"), "5").unwrap();
        more.keep().unwrap();
        assert_eq!(read(), "2");
        let current = dir.path().join("saves/owner/game/current/.game");
        assert_eq!(fs::read_to_string(current.join("level")).unwrap(), "5");
        assert!(!dir.path().join("saves/owner/game/previous/.game/level").exists());
        // The app's own folder is the player's no more than the program is.
        let third = folder.clone().without(Some("app")).returning().unwrap();
        fs::create_dir(third.path().join("app")).unwrap();
        fs::write(third.path().join("app/data"), "changed").unwrap();
        third.keep().unwrap();
        assert_eq!(read(), "2", "nothing else came back, so nothing is taken away");
    }
}
