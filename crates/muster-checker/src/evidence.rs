//! Bytes by their hash, in files: transcripts, proofs that were set, what was published with outcomes.
//!
//! The hash is the name, so a file is whole or not there: it is written beside its place and then moved there. Transcripts
//! go when their time is over, and the oldest first where room is needed; what was published with the last outcomes stays.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use muster_core::ids::ContentHash;

/// How many published states are kept at least: as many epochs can be caught up with.
const PUBLISHED_MAX: usize = 64;

/// How much is kept, and how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EvidenceLimits {
    /// The most bytes of transcripts.
    pub bytes_max: u64,
    /// How long a transcript is kept: the dispute window and more.
    pub keep: Duration,
}

impl Default for EvidenceLimits {
    fn default() -> Self {
        Self { bytes_max: 8 << 30, keep: Duration::from_secs(7 * 86_400) }
    }
}

/// Why bytes are not kept or cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum EvidenceError {
    /// The limit is too small for this alone.
    #[error("{len} bytes of evidence do not fit into the {max} bytes that are set aside: raise the limit")]
    TooLarge {
        /// How long it is.
        len: u64,
        /// The limit.
        max: u64,
    },
    /// The disk is full, or cannot be written or read.
    #[error("evidence cannot be kept in {}: free some disk, or move the Checker's folder", path.display())]
    Disk {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// What kind of thing is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// A transcript, a proof that was set, a long message.
    Transcript,
    /// What was published with an outcome.
    Published,
    /// The reports that an outcome is of, named by their own hash ([`Bundle::hash`](muster_core::reward::Bundle::hash)).
    Reports,
}

#[derive(Debug, Default)]
struct Index {
    known: BTreeMap<ContentHash, (Kind, u64, SystemTime)>,
    /// By kind and age.
    ages: BTreeSet<(Kind, SystemTime, ContentHash)>,
    transcripts_bytes: u64,
}

impl Index {
    fn insert(&mut self, hash: ContentHash, kind: Kind, len: u64, at: SystemTime) {
        self.remove(&hash);
        self.known.insert(hash, (kind, len, at));
        self.ages.insert((kind, at, hash));
        if kind == Kind::Transcript {
            self.transcripts_bytes = self.transcripts_bytes.saturating_add(len);
        }
    }

    fn remove(&mut self, hash: &ContentHash) {
        if let Some((kind, len, at)) = self.known.remove(hash) {
            self.ages.remove(&(kind, at, *hash));
            if kind == Kind::Transcript {
                self.transcripts_bytes = self.transcripts_bytes.saturating_sub(len);
            }
        }
    }

    fn oldest(&self, kind: Kind) -> Option<(SystemTime, ContentHash)> {
        self.ages.iter().find(|(k, ..)| *k == kind).map(|(_, at, hash)| (*at, *hash))
    }
}

/// The store. Cheap to clone; its calls block for the disk.
#[derive(Clone, Debug)]
pub struct EvidenceStore {
    dir: PathBuf,
    limits: EvidenceLimits,
    index: Arc<Mutex<Index>>,
}

impl EvidenceStore {
    /// Opens a folder, and looks at what is in it.
    ///
    /// # Errors
    /// The folder cannot be used.
    pub fn open(dir: &Path, limits: EvidenceLimits) -> Result<Self, EvidenceError> {
        let mut index = Index::default();
        for kind in [Kind::Transcript, Kind::Published, Kind::Reports] {
            let folder = dir.join(name(kind));
            let disk = |source| EvidenceError::Disk { path: folder.clone(), source };
            fs::create_dir_all(&folder).map_err(disk)?;
            for entry in fs::read_dir(&folder).map_err(disk)? {
                let entry = entry.map_err(disk)?;
                let hash = entry.file_name().to_str().and_then(parse);
                match (hash, entry.metadata()) {
                    (Some(hash), Ok(meta)) => {
                        index.insert(hash, kind, meta.len(), meta.modified().unwrap_or(SystemTime::UNIX_EPOCH));
                    }
                    // What a crash left half written.
                    _ => drop(fs::remove_file(entry.path())),
                }
            }
        }
        Ok(Self { dir: dir.to_owned(), limits, index: Arc::new(Mutex::new(index)) })
    }

    fn lock(&self) -> MutexGuard<'_, Index> {
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn path(&self, kind: Kind, hash: &ContentHash) -> PathBuf {
        self.dir.join(name(kind)).join(hash.to_string())
    }

    /// Keeps bytes; gives their hash. Bytes that are there already are kept as they are.
    ///
    /// # Errors
    /// The disk is full, or the limit too small.
    pub fn put(&self, kind: Kind, bytes: &[u8]) -> Result<ContentHash, EvidenceError> {
        self.put_as(kind, ContentHash(*blake3::hash(bytes).as_bytes()), bytes)
    }

    /// Keeps bytes under a name of their own.
    ///
    /// # Errors
    /// The disk is full, or the limit too small.
    pub fn put_as(&self, kind: Kind, hash: ContentHash, bytes: &[u8]) -> Result<ContentHash, EvidenceError> {
        let len = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        let mut index = self.lock();
        if index.known.get(&hash).is_some_and(|(known, ..)| *known >= kind) {
            return Ok(hash);
        }
        match kind {
            Kind::Transcript if len > self.limits.bytes_max => {
                return Err(EvidenceError::TooLarge { len, max: self.limits.bytes_max });
            }
            Kind::Transcript => {
                while index.transcripts_bytes.saturating_add(len) > self.limits.bytes_max {
                    let Some((_, oldest)) = index.oldest(kind) else { break };
                    self.drop_file(&mut index, kind, &oldest);
                }
            }
            Kind::Published | Kind::Reports => {
                while index.ages.iter().filter(|(k, ..)| *k == kind).count() >= PUBLISHED_MAX {
                    let Some((_, oldest)) = index.oldest(kind) else { break };
                    self.drop_file(&mut index, kind, &oldest);
                }
            }
        }
        let path = self.path(kind, &hash);
        write(&path, bytes).map_err(|source| EvidenceError::Disk { path, source })?;
        index.insert(hash, kind, len, SystemTime::now());
        Ok(hash)
    }

    /// The bytes with a hash, if they are here; a file that somebody changed is not.
    #[must_use]
    pub fn get(&self, hash: &ContentHash) -> Option<Vec<u8>> {
        let (kind, ..) = *self.lock().known.get(hash)?;
        let bytes = fs::read(self.path(kind, hash)).ok()?;
        // Reports are named by what counts in them: whoever asks for them checks that.
        (kind == Kind::Reports || blake3::hash(&bytes).as_bytes() == &hash.0).then_some(bytes)
    }

    /// Lets go of transcripts whose time is over.
    pub fn prune(&self, now: SystemTime) {
        let mut index = self.lock();
        while let Some((at, hash)) = index.oldest(Kind::Transcript)
            && now.duration_since(at).is_ok_and(|age| age > self.limits.keep)
        {
            self.drop_file(&mut index, Kind::Transcript, &hash);
        }
    }

    /// How many transcripts there are, and their bytes.
    #[must_use]
    pub fn transcripts(&self) -> (usize, u64) {
        let index = self.lock();
        let count = index.known.values().filter(|(kind, ..)| *kind == Kind::Transcript).count();
        (count, index.transcripts_bytes)
    }

    fn drop_file(&self, index: &mut Index, kind: Kind, hash: &ContentHash) {
        index.remove(hash);
        if let Err(error) = fs::remove_file(self.path(kind, hash)) {
            tracing::debug!(%hash, %error, "evidence was gone already");
        }
    }
}

fn name(kind: Kind) -> &'static str {
    match kind {
        Kind::Transcript => "transcripts",
        Kind::Published => "published",
        Kind::Reports => "reports",
    }
}

fn parse(text: &str) -> Option<ContentHash> {
    text.parse().ok()
}

fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let beside = path.with_extension("part");
    let written = (|| {
        let mut file = fs::File::create(&beside)?;
        file.write_all(bytes)?;
        file.sync_data()?;
        fs::rename(&beside, path)
    })();
    if written.is_err() {
        // Nothing may be there; what is goes at the next start at the latest.
        drop(fs::remove_file(&beside));
    }
    written
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_gives_way_and_a_full_disk_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let limits = EvidenceLimits { bytes_max: 250, keep: Duration::from_secs(60) };
        let store = EvidenceStore::open(dir.path(), limits).unwrap();
        let hashes: Vec<_> = (0..3u8).map(|i| store.put(Kind::Transcript, &[i; 100]).unwrap()).collect();
        assert_eq!(store.get(&hashes[0]), None);
        assert_eq!(store.get(&hashes[2]), Some(vec![2; 100]));
        assert_eq!(store.transcripts(), (2, 200));
        let published = store.put(Kind::Published, &[9; 1_000]).unwrap();
        assert!(matches!(store.put(Kind::Transcript, &[0; 251]), Err(EvidenceError::TooLarge { .. })));
        drop(store);
        fs::write(dir.path().join("transcripts/half.part"), b"x").unwrap();
        fs::write(dir.path().join("transcripts").join(hashes[2].to_string()), b"changed").unwrap();
        let store = EvidenceStore::open(dir.path(), limits).unwrap();
        assert_eq!(store.get(&hashes[2]), None, "what was changed is nobody's evidence");
        assert_eq!(store.get(&published), Some(vec![9; 1_000]));
        assert!(!dir.path().join("transcripts/half.part").exists());
        store.prune(SystemTime::now() + Duration::from_secs(61));
        assert_eq!(store.transcripts(), (0, 0));
        // A folder that is a file cannot be written to: the same words as a full disk gives.
        fs::remove_dir_all(dir.path().join("transcripts")).unwrap();
        fs::write(dir.path().join("transcripts"), b"").unwrap();
        let error = store.put(Kind::Transcript, b"new").unwrap_err();
        assert!(matches!(error, EvidenceError::Disk { .. }), "{error}");
    }
}
