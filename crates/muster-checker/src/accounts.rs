//! What this Checker has found out about Containers' answers, kept over restarts.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use muster_core::ids::{ContentHash, NodeId};
use muster_core::inference::WeightsId;
use muster_core::inference::audit::Account;
use muster_core::units::TimeMs;
use serde::{Deserialize, Serialize};

/// Accounts that are kept at most; the first by name go, which is as good as any.
const ACCOUNTS_MAX: usize = 16_384;
/// The first bytes of the file: another version is begun anew.
const VERSION: u8 = 2;

type All = BTreeMap<(NodeId, WeightsId), Audited>;

/// What is known of a Container's answers for a model.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Audited {
    pub(crate) account: Account,
    /// What ran the model there, by its own words, at the last look.
    pub(crate) engine: String,
    /// When the last look was over.
    pub(crate) at: TimeMs,
}

impl Audited {
    /// Names what was found out, once.
    pub(crate) fn fingerprint(&self, container: NodeId, weights: WeightsId) -> ContentHash {
        let mut hasher = blake3::Hasher::new_derive_key("muster 2026 audited answers v1");
        hasher.update(&container.0).update(&weights.0);
        // What cannot be written down names nothing beyond the Container and the model.
        hasher.update(&postcard::to_stdvec(self).unwrap_or_default());
        ContentHash(*hasher.finalize().as_bytes())
    }
}

/// Why accounts cannot be read or written.
#[derive(Debug, thiserror::Error)]
#[error("{} cannot be read or written; free some disk, or remove the file, and audits begin anew", path.display())]
pub struct AccountsError {
    path: PathBuf,
    source: std::io::Error,
}

/// All accounts, in one file that is written anew each time.
#[derive(Debug)]
pub(crate) struct Accounts {
    path: PathBuf,
    all: Mutex<All>,
}

impl Accounts {
    pub(crate) fn open(path: &Path) -> Result<Self, AccountsError> {
        let wrong = |source| AccountsError { path: path.to_owned(), source };
        let all = match std::fs::read(path) {
            Ok(bytes) => match bytes.split_first() {
                Some((&VERSION, rest)) => postcard::from_bytes(rest).map_err(std::io::Error::other).map_err(wrong)?,
                _ => All::new(),
            },
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => All::new(),
            Err(error) => return Err(wrong(error)),
        };
        Ok(Self { path: path.to_owned(), all: Mutex::new(all) })
    }

    fn held(&self) -> MutexGuard<'_, All> {
        // Nobody panics while holding it; accounts are right between any two lines.
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is known of a Container for a model.
    pub(crate) fn get(&self, container: NodeId, weights: WeightsId) -> Option<Audited> {
        self.held().get(&(container, weights)).cloned()
    }

    /// Keeps what is known. Waits for the disk.
    pub(crate) fn put(&self, container: NodeId, weights: WeightsId, audited: Audited) -> Result<(), AccountsError> {
        let wrong = |source| AccountsError { path: self.path.clone(), source };
        let mut all = self.held();
        all.insert((container, weights), audited);
        while all.len() > ACCOUNTS_MAX {
            all.pop_first();
        }
        let mut bytes = vec![VERSION];
        bytes.extend(postcard::to_stdvec(&*all).map_err(std::io::Error::other).map_err(wrong)?);
        let beside = self.path.with_extension("new");
        let written = || {
            let mut file = std::fs::File::create(&beside)?;
            file.write_all(&bytes)?;
            file.sync_all()?;
            std::fs::rename(&beside, &self.path)
        };
        written().map_err(wrong)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use muster_core::inference::audit::Compared;

    #[test]
    fn accounts_survive_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("answers.bin");
        let (container, weights) = (NodeId([1; 32]), WeightsId([2; 32]));
        let accounts = Accounts::open(&path).unwrap();
        let mut account = Account::default();
        account.compared(NodeId([3; 32]), Compared { tokens: 9, differing: 1, margin: 2, distance: 3 });
        let audited = Audited { account, engine: "llama.cpp, CPU".to_owned(), at: TimeMs(7) };
        accounts.put(container, weights, audited.clone()).unwrap();
        let again = Accounts::open(&path).unwrap();
        assert_eq!(again.get(container, weights), Some(audited.clone()));
        assert_eq!(again.get(NodeId([9; 32]), weights), None);
        let later = Audited { at: TimeMs(8), ..audited.clone() };
        assert_ne!(audited.fingerprint(container, weights), later.fingerprint(container, weights));
        std::fs::write(&path, [VERSION, 0xff]).unwrap();
        assert!(Accounts::open(&path).unwrap_err().to_string().contains("answers.bin"));
        std::fs::write(&path, [VERSION + 1, 0xff]).unwrap();
        assert!(Accounts::open(&path).is_ok(), "another version is begun anew");
    }
}
