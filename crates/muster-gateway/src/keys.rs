//! API keys: shown once, kept as hashes.

use std::collections::HashMap;
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, PoisonError, RwLock};
use std::time::Instant;

use muster_core::units::UsdMicro;
use rand::Rng;
use serde::{Deserialize, Serialize};

/// What every key begins with, so that a leaked one is recognised.
const PREFIX: &str = "mk_";
/// Keys that a Gateway keeps.
const KEYS_MAX: usize = 10_000;
/// Bytes of the longest name.
const NAME_LEN_MAX: usize = 64;
/// Keys that an account may make by its own keys.
const MADE_MAX: usize = 64;
/// Letters of an account's name in those of the keys that it made; the rest is drawn.
const MADE_PREFIX_LEN: usize = 40;
/// Digits of a key's hash that name it.
const ID_LEN: usize = 16;
/// How often the file is looked at while all keys that come are known; for one that is not it is looked at each time.
const WATCHED_MS: u64 = 1_000;

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
    /// Too many of one account.
    #[error("this account has {MADE_MAX} keys for models already; revoke some first with `muster api-key revoke`")]
    MadeFull,
    /// A key with limits would make one without.
    #[error(
        "the API key {0:?} has limits of its own, and would make a key without them; use `muster api-key new` or a key without limits"
    )]
    Limited(String),
}

/// What a key opens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scope {
    /// Asking models: `/v1`.
    Models,
    /// Apps and live sessions: `/api/v1`.
    Sessions,
}

/// What a key may do, and how much of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct KeyTerms {
    /// Whose it is, where that is not its own name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub account: Option<String>,
    /// What it opens; nothing named opens all.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub scopes: Vec<Scope>,
    /// The models that it may ask; all where none is named.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub models: Vec<String>,
    /// The most that it may spend, ever.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub budget_usd_micro: Option<UsdMicro>,
    /// The most that it may spend in a calendar month, UTC.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub budget_month_usd_micro: Option<UsdMicro>,
    /// Until when it is good, seconds since 1970.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires_s: Option<u64>,
    /// Requests that it may make in a minute.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub requests_per_minute: Option<u32>,
    /// Tokens that it may read and draw in a minute.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tokens_per_minute: Option<u64>,
    /// Requests that it may have answered at once.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub requests_at_once: Option<u32>,
}

/// A key as others may see it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct KeyShown {
    /// What it is called.
    pub name: String,
    /// The beginning of its hash, by which its usage is kept.
    pub id: String,
    /// When it was made, seconds since 1970; 0 where that was not written down.
    pub created_s: u64,
    /// What it may do.
    #[serde(flatten)]
    pub terms: KeyTerms,
}

/// A key as it is kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Kept {
    name: String,
    /// BLAKE3 of the key, in hex. A key is 256 random bits, so a plain hash hides it.
    hash: String,
    #[serde(default)]
    created_s: u64,
    #[serde(flatten)]
    terms: KeyTerms,
}

impl Kept {
    fn shown(&self) -> KeyShown {
        let id = self.hash.chars().take(ID_LEN).collect();
        KeyShown { name: self.name.clone(), id, created_s: self.created_s, terms: self.terms.clone() }
    }
}

/// A key as requests use it.
#[derive(Debug)]
pub(crate) struct Key {
    pub(crate) shown: KeyShown,
    /// What it has used; found at its first request.
    pub(crate) account: OnceLock<Arc<crate::usage::Account>>,
}

impl Key {
    /// What stands for a key where each request is paid by itself. Ids of keys are hex digits: none is like this one.
    pub(crate) fn of_payers() -> Self {
        let (name, id) = (crate::usage::PAYERS.to_owned(), crate::usage::PAYERS.to_owned());
        Self { shown: KeyShown { name, id, created_s: 0, terms: KeyTerms::default() }, account: OnceLock::new() }
    }

    /// Whose it is.
    pub(crate) fn owner(&self) -> &str {
        self.shown.terms.account.as_deref().unwrap_or(&self.shown.name)
    }

    pub(crate) fn opens(&self, scope: Scope) -> bool {
        self.shown.terms.scopes.is_empty() || self.shown.terms.scopes.contains(&scope)
    }

    pub(crate) fn is_expired(&self, now_s: u64) -> bool {
        self.shown.terms.expires_s.is_some_and(|until| now_s >= until)
    }
}

/// All keys, as they were read.
#[derive(Debug)]
struct Table {
    kept: Vec<Kept>,
    by_hash: HashMap<[u8; 32], Arc<Key>>,
    stamp: Stamp,
}

impl Table {
    fn new(kept: Vec<Kept>, stamp: Stamp, before: &HashMap<[u8; 32], Arc<Key>>) -> Self {
        let mut by_hash = HashMap::with_capacity(kept.len());
        for one in &kept {
            let mut hash = [0; 32];
            if hex::decode_to_slice(&one.hash, &mut hash).is_err() {
                continue;
            }
            let shown = one.shown();
            // What has not changed stays, with what it knows.
            let key = before.get(&hash).filter(|key| key.shown == shown).cloned();
            by_hash.insert(hash, key.unwrap_or_else(|| Arc::new(Key { shown, account: OnceLock::new() })));
        }
        Self { kept, by_hash, stamp }
    }
}

/// All keys of a Gateway.
#[derive(Debug)]
pub struct KeyStore {
    path: PathBuf,
    table: RwLock<Table>,
    opened: Instant,
    /// When the file was last looked at, milliseconds since the store was opened.
    looked_ms: AtomicU64,
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
        let table = RwLock::new(Table::new(read(path)?, stamp, &HashMap::new()));
        Ok(Self { path: path.to_owned(), table, opened: Instant::now(), looked_ms: AtomicU64::new(0) })
    }

    /// Takes over what another process wrote, if the file was not looked at for so long.
    fn refresh(&self, after_ms: u64) {
        let now_ms = u64::try_from(self.opened.elapsed().as_millis()).unwrap_or(u64::MAX);
        let looked = self.looked_ms.load(Ordering::Relaxed);
        let due = after_ms == 0 || now_ms.saturating_sub(looked) >= after_ms;
        // Of several that find it due, one looks.
        if !due || self.looked_ms.compare_exchange(looked, now_ms, Ordering::Relaxed, Ordering::Relaxed).is_err() {
            return;
        }
        let stamp = stamp(&self.path);
        if stamp == self.table.read().unwrap_or_else(PoisonError::into_inner).stamp {
            return;
        }
        let mut table = self.table.write().unwrap_or_else(PoisonError::into_inner);
        match read(&self.path) {
            Ok(kept) => *table = Table::new(kept, stamp, &table.by_hash),
            // The old keys go on; whoever wrote the file is told by their own command.
            Err(error) => tracing::warn!(%error, "the API keys are not read anew"),
        }
    }

    /// The key, if it is known. One that another process made is known at once; one that it revoked is good for a second
    /// longer.
    pub(crate) fn find(&self, key: &str) -> Option<Arc<Key>> {
        let hash = *blake3::hash(key.as_bytes()).as_bytes();
        let known = || self.table.read().unwrap_or_else(PoisonError::into_inner).by_hash.get(&hash).cloned();
        self.refresh(WATCHED_MS);
        known().or_else(|| {
            self.refresh(0);
            known()
        })
    }

    /// Makes a key that may do everything, and gives it, for the only time.
    ///
    /// # Errors
    /// The name is none or taken, or the file cannot be written.
    pub fn create(&self, name: &str) -> Result<String, KeyError> {
        self.create_with(name, KeyTerms::default())
    }

    /// Makes a key and gives it, for the only time.
    ///
    /// # Errors
    /// The name is none or taken, or the file cannot be written.
    pub fn create_with(&self, name: &str, terms: KeyTerms) -> Result<String, KeyError> {
        let good = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        let is_name = |name: &str| !name.is_empty() && name.len() <= NAME_LEN_MAX && name.chars().all(good);
        if let Some(wrong) = [Some(name), terms.account.as_deref()].into_iter().flatten().find(|name| !is_name(name)) {
            return Err(KeyError::Name(wrong.to_owned()));
        }
        self.refresh(0);
        let mut table = self.table.write().unwrap_or_else(PoisonError::into_inner);
        if table.kept.iter().any(|key| key.name == name) {
            return Err(KeyError::Taken(name.to_owned()));
        }
        if table.kept.len() >= KEYS_MAX {
            return Err(KeyError::Full);
        }
        let key = format!("{PREFIX}{}", secret());
        let mut next = table.kept.clone();
        next.push(Kept { name: name.to_owned(), hash: hash(&key), created_s: now_s(), terms });
        self.write(&next)?;
        *table = Table::new(next, stamp(&self.path), &table.by_hash);
        Ok(key)
    }

    /// Makes a key for models alone, all of them where none is named, of the same account as the key `by`; gives its name,
    /// and itself, for the only time.
    ///
    /// # Errors
    /// `by` has limits, which the new key would not have; the account has made as many as it may; or as in
    /// [`KeyStore::create_with`].
    pub(crate) fn create_by(&self, by: &Key, models: Vec<String>) -> Result<(String, String), KeyError> {
        let unlimited = KeyTerms { account: by.shown.terms.account.clone(), ..KeyTerms::default() };
        if by.shown.terms != unlimited {
            return Err(KeyError::Limited(by.shown.name.clone()));
        }
        let account = by.owner();
        let made =
            |key: &KeyShown| key.terms.account.as_deref() == Some(account) && key.terms.scopes == [Scope::Models];
        if self.list().iter().filter(|key| made(key)).count() >= MADE_MAX {
            return Err(KeyError::MadeFull);
        }
        let prefix: String = account.chars().take(MADE_PREFIX_LEN).collect();
        let drawn: String = secret().chars().take(ID_LEN).collect();
        let name = format!("{prefix}-{drawn}");
        let terms =
            KeyTerms { account: Some(account.to_owned()), scopes: vec![Scope::Models], models, ..KeyTerms::default() };
        let key = self.create_with(&name, terms)?;
        Ok((name, key))
    }

    /// Whose key this is, if it is good and opens apps and sessions.
    #[must_use]
    pub fn account(&self, key: &str) -> Option<String> {
        let key = self.find(key)?;
        (key.opens(Scope::Sessions) && !key.is_expired(now_s())).then(|| key.owner().to_owned())
    }

    /// Takes a key's rights away; `false` when there is none of that name.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn revoke(&self, name: &str) -> Result<bool, KeyError> {
        self.refresh(0);
        let mut table = self.table.write().unwrap_or_else(PoisonError::into_inner);
        let next: Vec<Kept> = table.kept.iter().filter(|key| key.name != name).cloned().collect();
        if next.len() == table.kept.len() {
            return Ok(false);
        }
        self.write(&next)?;
        *table = Table::new(next, stamp(&self.path), &table.by_hash);
        Ok(true)
    }

    /// Names of all keys.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        self.list().into_iter().map(|key| key.name).collect()
    }

    /// Whether any key belongs to this account.
    pub(crate) fn has_account(&self, name: &str) -> bool {
        self.refresh(0);
        let table = self.table.read().unwrap_or_else(PoisonError::into_inner);
        table.by_hash.values().any(|key| key.owner() == name)
    }

    /// All keys, without what opens them.
    #[must_use]
    pub fn list(&self) -> Vec<KeyShown> {
        self.refresh(0);
        self.table.read().unwrap_or_else(PoisonError::into_inner).kept.iter().map(Kept::shown).collect()
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

/// Seconds since 1970.
pub(crate) fn now_s() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |since| since.as_secs())
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

    #[test]
    fn terms_are_kept_and_old_files_are_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("keys.json");
        let old = format!("[{{\"name\":\"old\",\"hash\":\"{}\"}}]", hash("mk_old"));
        fs::write(&path, old).unwrap();
        let store = KeyStore::open(&path).unwrap();
        assert_eq!(store.account("mk_old").as_deref(), Some("old"));
        let terms = KeyTerms {
            account: Some("studio".into()),
            scopes: vec![Scope::Models],
            models: vec!["tiny".into()],
            budget_usd_micro: Some(UsdMicro(5)),
            ..KeyTerms::default()
        };
        let key = store.create_with("ci", terms.clone()).unwrap();
        assert_eq!(store.account(&key), None, "it opens no sessions");
        let other = KeyStore::open(&path).unwrap();
        let found = other.find(&key).unwrap();
        assert_eq!((found.owner(), &found.shown.terms), ("studio", &terms));
        let late = KeyTerms { expires_s: Some(1), ..KeyTerms::default() };
        let expired = other.create_with("late", late).unwrap();
        assert_eq!(other.account(&expired), None);
        // What another store wrote is known at once, and what was known stays the same.
        let before = store.find(&key).unwrap();
        assert!(store.names().contains(&"late".to_owned()));
        assert!(Arc::ptr_eq(&before, &store.find(&key).unwrap()));
    }

    #[test]
    fn keys_make_keys_for_models_alone() {
        let dir = tempfile::tempdir().unwrap();
        let store = KeyStore::open(&dir.path().join("keys.json")).unwrap();
        let parent = store.find(&store.create("studio").unwrap()).unwrap();
        let (name, key) = store.create_by(&parent, vec!["tiny".into()]).unwrap();
        let child = store.find(&key).unwrap();
        assert_eq!(
            (child.owner(), &child.shown.name, &child.shown.terms.models),
            ("studio", &name, &vec!["tiny".into()])
        );
        assert!(child.opens(Scope::Models) && !child.opens(Scope::Sessions));
        // What has limits makes nothing without them, and what it made counts.
        assert!(
            matches!(store.create_by(&child, Vec::new()), Err(KeyError::Limited(name)) if name == child.shown.name)
        );
        let poor = KeyTerms { budget_usd_micro: Some(UsdMicro(5)), ..KeyTerms::default() };
        let poor = store.find(&store.create_with("poor", poor).unwrap()).unwrap();
        assert!(matches!(store.create_by(&poor, Vec::new()), Err(KeyError::Limited(_))));
        for _ in 1..MADE_MAX {
            store.create_by(&parent, Vec::new()).unwrap();
        }
        assert!(matches!(store.create_by(&parent, Vec::new()), Err(KeyError::MadeFull)));
        let other = store.find(&store.create("other").unwrap()).unwrap();
        store.create_by(&other, Vec::new()).unwrap();
        assert!(store.revoke(&name).unwrap());
        store.create_by(&parent, Vec::new()).unwrap();
    }
}
