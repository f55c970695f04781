//! API keys: shown once, kept as hashes.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use rand::Rng;
use serde::{Deserialize, Serialize};

/// What every key begins with, so that a leaked one is recognised.
const PREFIX: &str = "mk_";
/// Keys that a Gateway keeps.
const KEYS_MAX: usize = 10_000;
/// Bytes of the longest name.
const NAME_LEN_MAX: usize = 64;

/// Why keys cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The file fails.
    #[error("the API keys in {path} cannot be {what}: {source}", path = path.display())]
    Io {
        /// Which file.
        path: PathBuf,
        /// Read or written.
        what: &'static str,
        /// Why not.
        source: io::Error,
    },
    /// The file is damaged.
    #[error("the API keys in {path} cannot be understood: {why}; restore the file from a backup, or remove it and make new keys", path = path.display())]
    Damaged {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// A name that is none.
    #[error("{0:?} is no name for a key: use 1 to 64 letters, digits, hyphens or underscores")]
    Name(String),
    /// The name is taken.
    #[error("there is a key of the name {0:?} already; revoke it first or choose another name")]
    Taken(String),
    /// Too many.
    #[error("there are {KEYS_MAX} keys already; revoke some first")]
    Full,
}

/// A key as it is kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Kept {
    name: String,
    /// BLAKE3 of the key, in hex. A key is 256 random bits, so a plain hash hides it.
    hash: String,
}

/// All keys of a Gateway.
#[derive(Debug)]
pub struct KeyStore {
    path: PathBuf,
    kept: Mutex<(Vec<Kept>, Stamp)>,
}

/// Which writing of the file was read: another process (`muster api-key`) may have written a newer one.
type Stamp = Option<(u64, std::time::SystemTime)>;

fn stamp(path: &Path) -> Stamp {
    use std::os::unix::fs::MetadataExt;
    let meta = fs::metadata(path).ok()?;
    Some((meta.ino(), meta.modified().ok()?))
}

impl KeyStore {
    /// Reads the keys; none where there is no file yet.
    ///
    /// # Errors
    /// The file cannot be read or is damaged.
    pub fn open(path: &Path) -> Result<Self, KeyError> {
        let stamp = stamp(path);
        Ok(Self { path: path.to_owned(), kept: Mutex::new((read(path)?, stamp)) })
    }

    /// The keys as they are now.
    fn kept(&self) -> std::sync::MutexGuard<'_, (Vec<Kept>, Stamp)> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let now = stamp(&self.path);
        if now != kept.1 {
            match read(&self.path) {
                Ok(new) => *kept = (new, now),
                // The old keys go on; whoever wrote the file is told by their own command.
                Err(error) => tracing::warn!(%error, "the API keys are not read anew"),
            }
        }
        kept
    }

    /// Makes a key and gives it, for the only time.
    ///
    /// # Errors
    /// The name is none or taken, or the file cannot be written.
    pub fn create(&self, name: &str) -> Result<String, KeyError> {
        let good = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        if name.is_empty() || name.len() > NAME_LEN_MAX || !name.chars().all(good) {
            return Err(KeyError::Name(name.to_owned()));
        }
        let mut kept = self.kept();
        if kept.0.iter().any(|key| key.name == name) {
            return Err(KeyError::Taken(name.to_owned()));
        }
        if kept.0.len() >= KEYS_MAX {
            return Err(KeyError::Full);
        }
        let key = format!("{PREFIX}{}", secret());
        let mut next = kept.0.clone();
        next.push(Kept { name: name.to_owned(), hash: hash(&key) });
        self.write(&next)?;
        *kept = (next, stamp(&self.path));
        Ok(key)
    }

    /// Whose key this is.
    #[must_use]
    pub fn account(&self, key: &str) -> Option<String> {
        let hash = hash(key);
        let kept = self.kept();
        kept.0.iter().find(|known| known.hash == hash).map(|known| known.name.clone())
    }

    /// Takes a key's rights away; `false` when there is none of that name.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn revoke(&self, name: &str) -> Result<bool, KeyError> {
        let mut kept = self.kept();
        let next: Vec<Kept> = kept.0.iter().filter(|key| key.name != name).cloned().collect();
        if next.len() == kept.0.len() {
            return Ok(false);
        }
        self.write(&next)?;
        *kept = (next, stamp(&self.path));
        Ok(true)
    }

    /// Names of all keys.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        self.kept().0.iter().map(|key| key.name.clone()).collect()
    }

    fn write(&self, kept: &[Kept]) -> Result<(), KeyError> {
        let failed = |source| KeyError::Io { path: self.path.clone(), what: "written", source };
        let text = serde_json::to_vec_pretty(kept).map_err(|e| failed(e.into()))?;
        write_private(&self.path, &text).map_err(failed)
    }
}

fn read(path: &Path) -> Result<Vec<Kept>, KeyError> {
    match fs::read(path) {
        Ok(bytes) => {
            serde_json::from_slice(&bytes).map_err(|e| KeyError::Damaged { path: path.to_owned(), why: e.to_string() })
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(source) => Err(KeyError::Io { path: path.to_owned(), what: "read", source }),
    }
}

/// Writes a file that only its owner reads, whole or not at all.
pub(crate) fn write_private(path: &Path, bytes: &[u8]) -> io::Result<()> {
    if let Some(dir) = path.parent() {
        fs::create_dir_all(dir)?;
    }
    let aside = path.with_extension("new");
    let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&aside)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&aside, path)?;
    path.parent().map_or(Ok(()), |dir| fs::File::open(dir)?.sync_all())
}

/// 256 random bits as text.
pub(crate) fn secret() -> String {
    let mut bytes = [0u8; 32];
    rand::rng().fill_bytes(&mut bytes);
    hex::encode(bytes)
}

/// What is kept of a secret.
pub(crate) fn hash(secret: &str) -> String {
    blake3::hash(secret.as_bytes()).to_hex().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_open_what_they_should_and_are_not_kept() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("keys.json");
        let store = KeyStore::open(&path).unwrap();
        let key = store.create("studio").unwrap();
        assert_eq!(store.account(&key).as_deref(), Some("studio"));
        assert_eq!(store.account("mk_00"), None);
        assert!(!fs::read_to_string(&path).unwrap().contains(&key));
        assert!(matches!(store.create("studio"), Err(KeyError::Taken(_))));
        assert!(matches!(store.create("a b"), Err(KeyError::Name(_))));
        let again = KeyStore::open(&path).unwrap();
        assert_eq!(again.account(&key).as_deref(), Some("studio"));
        assert!(again.revoke("studio").unwrap());
        assert!(!again.revoke("studio").unwrap());
        assert_eq!(KeyStore::open(&path).unwrap().account(&key), None);
        fs::write(&path, "{").unwrap();
        assert!(matches!(KeyStore::open(&path), Err(KeyError::Damaged { .. })));
    }
}
