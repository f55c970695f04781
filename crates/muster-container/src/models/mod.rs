//! Weights of models: checked, kept by their hash, shared by all leases that need the same.
//!
//! ```text
//! DATA/models/new-NAME-N      on its way in from a lease: thrown away at the next start
//!             part-NAME       on its way in from elsewhere: goes on where it stopped, also after a start
//!             NAME            whole; NAME is the SHA-256 of what is in it, in hex
//!             public-NAME     empty: anybody may have the weights of this name, so that other Containers are given them
//!             set-NAME        the names of the files that are one model together, in their order; NAME stands for them
//! ```
//!
//! A file gets its name by one rename, after all of it is on the disk and its hash was counted, so what has a name is
//! whole. The longest unused ones make room for new ones; one that a lease uses never does.

mod fetch;
mod sets;

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use muster_core::inference::WeightsId;
use muster_core::packages::{PackageSetId, WARM_MAX};
use muster_core::units::Bytes;
use sha2::{Digest, Sha256};
use tokio::sync::watch;
use tracing::{info, warn};

use self::fetch::Flight;
pub(crate) use self::fetch::{Gathering, Neighbour, Source};
use self::sets::SET;

/// What the file of weights that are only partly here is called, before their name.
const PART: &str = "part-";
/// What the mark of weights that anybody may have is called, before their name.
const PUBLIC: &str = "public-";
/// Files that are kept.
const FILES_MAX: usize = 4_096;
/// How much is read and hashed at a time.
const CHUNK: usize = 1 << 20;

/// Why weights cannot be had.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ModelsError {
    /// The folder fails.
    #[error("cannot {what} {path}: {source}", path = path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// With what.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// They are not there, and nobody brought them.
    #[error("the weights {0} are not here and were not sent; send them, or name a place where they can be had")]
    Missing(WeightsId),
    /// Another length than was said.
    #[error("the weights have {got}, announced were {said}; the file is cut off or another one")]
    Length {
        /// As they are.
        got: Bytes,
        /// As they were said to be.
        said: Bytes,
    },
    /// Another hash than was said.
    #[error("the weights are not what they were said to be: their SHA-256 is {got}, announced was {said}")]
    Hash {
        /// Counted.
        got: WeightsId,
        /// Announced.
        said: WeightsId,
    },
    /// Nothing is fetched here.
    #[error("{0} cannot be fetched: this Container's owner has named no hub (models.hub in container.toml)")]
    NoHub(String),
    /// Nobody gave a token.
    #[error("the weights are private, and no token was given for them; `muster model token give NAME` gives yours")]
    NoToken,
    /// They cannot be fetched.
    #[error("{from}: {why}{kept}")]
    Fetch {
        /// From where.
        from: String,
        /// Why not.
        why: String,
        /// What is here already, in words.
        kept: String,
        /// Whether another Container, or this one later, may do better.
        may_pass: bool,
    },
    /// No file of a model.
    #[error("the weights are no model that can be served: {0}")]
    Form(String),
    /// No room.
    #[error("the weights need {need}, and of the {offered} that this Container keeps for models {used} are in use")]
    NoRoom {
        /// Needed.
        need: Bytes,
        /// Kept for models.
        offered: Bytes,
        /// In use by leases.
        used: Bytes,
    },
}

impl ModelsError {
    /// Whether the fault lies with this Container, so that another one may do better.
    pub(crate) const fn is_ours(&self) -> bool {
        matches!(self, Self::Io { .. } | Self::NoHub(_) | Self::NoRoom { .. } | Self::Fetch { may_pass: true, .. })
    }
}

/// Weights that a lease may use; while this lives, they stay.
#[derive(Clone, Debug)]
pub(crate) struct Held {
    /// Where they are.
    pub(crate) path: PathBuf,
    _hold: Arc<()>,
}

#[derive(Debug)]
struct Kept {
    bytes: u64,
    used: SystemTime,
    hold: Arc<()>,
    /// Whether anybody may have them.
    public: bool,
}

#[derive(Debug, Default)]
struct Shelf {
    files: BTreeMap<WeightsId, Kept>,
    /// Models in several files, all of which are here.
    sets: BTreeMap<WeightsId, Vec<WeightsId>>,
    /// What is only partly here, and nobody fetches just now.
    parts: BTreeMap<WeightsId, u64>,
    /// What is being fetched.
    flights: BTreeMap<WeightsId, Arc<Flight>>,
    /// Promised to files on their way in.
    reserved: u64,
    count: u64,
}

/// All weights of this Container. Clones share them.
#[derive(Clone, Debug)]
pub(crate) struct Models {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    dir: PathBuf,
    most: Bytes,
    shelf: Mutex<Shelf>,
    warm: watch::Sender<Vec<PackageSetId>>,
}

fn failed(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> ModelsError {
    let path = path.to_owned();
    move |source| ModelsError::Io { what, path, source }
}

impl Models {
    /// Takes over what an earlier process has left. `most`: bytes of disk that weights may take.
    ///
    /// # Errors
    /// The folder cannot be made or read.
    pub(crate) fn open(dir: PathBuf, most: Bytes) -> Result<Self, ModelsError> {
        fs::create_dir_all(&dir).map_err(failed("make", &dir))?;
        let dir = dir.canonicalize().map_err(failed("resolve", &dir))?;
        let mut shelf = Shelf::default();
        let (mut public, mut sets) = (Vec::new(), Vec::new());
        for entry in fs::read_dir(&dir).map_err(failed("read", &dir))? {
            let entry = entry.map_err(failed("read", &dir))?;
            let name = entry.file_name();
            let known = name.to_str().and_then(|name| name.parse::<WeightsId>().ok());
            let meta = entry.metadata().map_err(failed("look at", &entry.path()))?;
            match known {
                Some(id) if meta.is_file() => {
                    let used = meta.modified().unwrap_or(SystemTime::UNIX_EPOCH);
                    shelf.files.insert(id, Kept { bytes: meta.len(), used, hold: Arc::default(), public: false });
                }
                _ if name.to_str().is_some_and(|name| name.starts_with("new-")) => remove(&entry.path()),
                _ if named(&name, PART).is_some() && meta.is_file() => {
                    shelf.parts.extend(named(&name, PART).map(|id| (id, meta.len())));
                }
                _ if named(&name, PUBLIC).is_some() => public.extend(named(&name, PUBLIC)),
                _ if named(&name, SET).is_some() => sets.extend(named(&name, SET)),
                _ => warn!(path = %entry.path().display(), "a file among the weights that is none of ours stays"),
            }
        }
        for id in public {
            match shelf.files.get_mut(&id) {
                Some(kept) => kept.public = true,
                None => remove(&dir.join(format!("{PUBLIC}{id}"))),
            }
        }
        let inner = Inner { dir, most, shelf: Mutex::default(), warm: watch::Sender::new(Vec::new()) };
        sets.into_iter().for_each(|id| inner.reopen_set(&mut shelf, id));
        *inner.lock() = shelf;
        inner.show(&inner.lock());
        Ok(Self { inner: Arc::new(inner) })
    }

    /// What is there, the last used first; changes are seen.
    pub(crate) fn warm(&self) -> watch::Receiver<Vec<PackageSetId>> {
        self.inner.warm.subscribe()
    }

    /// Whether these weights are there: a file, or all that are one model.
    pub(crate) fn has(&self, id: WeightsId) -> bool {
        let shelf = self.inner.lock();
        shelf.files.contains_key(&id) || shelf.sets.contains_key(&id)
    }

    /// From now on anybody may have these weights.
    pub(crate) fn publish(&self, id: WeightsId) -> Result<(), ModelsError> {
        let mark = self.inner.dir.join(format!("{PUBLIC}{id}"));
        let mut shelf = self.inner.lock();
        if let Some(kept) = shelf.files.get_mut(&id)
            && !kept.public
        {
            File::create(&mark).map_err(failed("make", &mark))?;
            kept.public = true;
        }
        Ok(())
    }

    /// The weights, if they are there, have this length, and anybody may have them.
    pub(crate) fn hold_public(&self, id: WeightsId, bytes: Bytes) -> Option<Held> {
        let open = self.inner.lock().files.get(&id).is_some_and(|kept| kept.public && kept.bytes == bytes.0);
        if open { self.hold(id) } else { None }
    }

    /// The weights, if they are there.
    pub(crate) fn hold(&self, id: WeightsId) -> Option<Held> {
        let mut shelf = self.inner.lock();
        let path = self.inner.path(id);
        let kept = shelf.files.get_mut(&id)?;
        kept.used = SystemTime::now();
        let held = Held { path, _hold: Arc::clone(&kept.hold) };
        // Only the order in which files go depends on it.
        drop(File::open(&held.path).and_then(|file| file.set_modified(kept.used)));
        self.inner.show(&shelf);
        Some(held)
    }

    /// Takes weights in that came as a file: counts their hash while it copies them, and checks that they are a model.
    /// Blocks; `tell` is told how far it is, in thousandths.
    ///
    /// # Errors
    /// They are not what they were said to be, or there is no room.
    pub(crate) fn take_in(
        &self,
        wanted: Wanted,
        mut from: impl Read,
        check: impl FnOnce(&Path) -> Result<(), String>,
        tell: impl Fn(u64),
    ) -> Result<Held, ModelsError> {
        let Wanted { id, bytes, .. } = wanted;
        if let Some(held) = self.hold(id) {
            return Ok(held);
        }
        let room = wanted.room(&self.inner)?;
        let place = self.inner.dir.join(format!("new-{id}-{}", room.number));
        let arrived = copy(&mut from, &place, bytes, &tell).and_then(|hash| {
            let got = WeightsId(hash);
            if got != id {
                return Err(ModelsError::Hash { got, said: id });
            }
            check(&place).map_err(ModelsError::Form)?;
            let whole = self.inner.path(id);
            fs::rename(&place, &whole).map_err(failed("name", &place))?;
            File::open(&self.inner.dir).and_then(|dir| dir.sync_all()).map_err(failed("write", &whole))
        });
        if let Err(error) = arrived {
            remove(&place);
            return Err(error);
        }
        drop(room);
        Ok(self.inner.keep(id, bytes))
    }
}

/// The weights that a file is of whose name begins like this.
fn named(name: &OsStr, begin: &str) -> Option<WeightsId> {
    name.to_str()?.strip_prefix(begin)?.parse().ok()
}

/// One file of weights that a lease needs.
#[derive(Clone, Debug)]
pub(crate) struct Wanted {
    /// Which.
    pub(crate) id: WeightsId,
    /// How large it is.
    pub(crate) bytes: Bytes,
    /// Room that was made for it; none: it is made when it is needed.
    pub(crate) room: Option<Arc<Room>>,
}

impl Wanted {
    fn room(self, inner: &Arc<Inner>) -> Result<Arc<Room>, ModelsError> {
        self.room.map_or_else(|| inner.reserve(self.bytes).map(Arc::new), Ok)
    }
}

/// Room for a file on its way in; given back when it is dropped.
#[derive(Debug)]
pub(crate) struct Room {
    inner: Arc<Inner>,
    bytes: u64,
    number: u64,
}

impl Room {
    /// Gives a part of it to a file of its own.
    fn split(&mut self, bytes: Bytes) -> Self {
        let bytes = bytes.0.min(self.bytes);
        self.bytes = self.bytes.saturating_sub(bytes);
        let mut shelf = self.inner.lock();
        shelf.count = shelf.count.wrapping_add(1);
        Self { inner: Arc::clone(&self.inner), bytes, number: shelf.count }
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        let mut shelf = self.inner.lock();
        shelf.reserved = shelf.reserved.saturating_sub(self.bytes);
    }
}

impl Inner {
    fn lock(&self) -> MutexGuard<'_, Shelf> {
        // What the shelf says of a file that is gone shows when the file is opened, so a panic in between does no harm.
        self.shelf.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn path(&self, id: WeightsId) -> PathBuf {
        self.dir.join(id.to_string())
    }

    fn part(&self, id: WeightsId) -> PathBuf {
        self.dir.join(format!("{PART}{id}"))
    }

    fn show(&self, shelf: &Shelf) {
        // What is one of several files is of use to nobody by itself.
        let parts: BTreeSet<&WeightsId> = shelf.sets.values().flatten().collect();
        let files = shelf.files.iter().filter(|(id, _)| !parts.contains(id)).map(|(id, kept)| (&kept.used, id));
        let last_use = |parts: &[WeightsId]| parts.iter().filter_map(|id| Some(&shelf.files.get(id)?.used)).max();
        let sets = shelf.sets.iter().filter_map(|(id, parts)| Some((last_use(parts)?, id)));
        let mut by_use: Vec<(&SystemTime, &WeightsId)> = files.chain(sets).collect();
        by_use.sort_unstable_by(|a, b| b.cmp(a));
        self.warm.send_replace(by_use.into_iter().take(WARM_MAX).map(|(_, id)| id.warm_id()).collect());
    }

    /// A whole file has its name: it is there from now on.
    fn keep(&self, id: WeightsId, bytes: Bytes) -> Held {
        info!(weights = %id, %bytes, "weights are here");
        let mut shelf = self.lock();
        let kept = Kept { bytes: bytes.0, used: SystemTime::now(), hold: Arc::default(), public: false };
        let held = Held { path: self.path(id), _hold: Arc::clone(&kept.hold) };
        shelf.files.insert(id, kept);
        self.show(&shelf);
        held
    }

    /// Makes room for so many bytes: parts that nobody fetches go first, then the longest unused files.
    fn reserve(self: &Arc<Self>, bytes: Bytes) -> Result<Room, ModelsError> {
        let mut shelf = self.lock();
        let used = |shelf: &Shelf| -> u64 {
            let held = |kept: &&Kept| Arc::strong_count(&kept.hold) > 1;
            shelf.files.values().filter(held).map(|kept| kept.bytes).sum::<u64>().saturating_add(shelf.reserved)
        };
        let in_use = used(&shelf);
        if in_use.saturating_add(bytes.0) > self.most.0 || shelf.files.len() >= FILES_MAX {
            return Err(ModelsError::NoRoom { need: bytes, offered: self.most, used: Bytes(in_use) });
        }
        loop {
            let parts: u64 = shelf.parts.values().sum();
            let files: u64 = shelf.files.values().map(|kept| kept.bytes).sum();
            let all = files.saturating_add(parts).saturating_add(shelf.reserved);
            if all.saturating_add(bytes.0) <= self.most.0 {
                break;
            }
            if let Some((id, _)) = shelf.parts.pop_first() {
                remove(&self.part(id));
                continue;
            }
            let unused = shelf.files.iter().filter(|(_, kept)| Arc::strong_count(&kept.hold) == 1);
            let Some(oldest) = unused.min_by_key(|(_, kept)| kept.used).map(|(id, _)| *id) else { break };
            shelf.files.remove(&oldest);
            info!(weights = %oldest, "weights that were not used for the longest make room");
            remove(&self.path(oldest));
            remove(&self.dir.join(format!("{PUBLIC}{oldest}")));
            self.break_sets(&mut shelf, oldest);
        }
        shelf.reserved = shelf.reserved.saturating_add(bytes.0);
        shelf.count = shelf.count.wrapping_add(1);
        self.show(&shelf);
        Ok(Room { inner: Arc::clone(self), bytes: bytes.0, number: shelf.count })
    }
}

/// Copies so many bytes and no more, to the disk; gives their hash.
fn copy(from: &mut impl Read, to: &Path, bytes: Bytes, tell: &impl Fn(u64)) -> Result<[u8; 32], ModelsError> {
    let mut file = File::create(to).map_err(failed("make", to))?;
    let mut hasher = Sha256::new();
    let mut chunk = vec![0; CHUNK];
    let mut got = 0u64;
    loop {
        let count = from.read(&mut chunk).map_err(failed("read what came for", to))?;
        let part = chunk.get(..count).unwrap_or_default();
        if part.is_empty() {
            break;
        }
        got = got.saturating_add(u64::try_from(count).unwrap_or(u64::MAX));
        if got > bytes.0 {
            return Err(ModelsError::Length { got: Bytes(got), said: bytes });
        }
        hasher.update(part);
        file.write_all(part).map_err(failed("write", to))?;
        tell(got.saturating_mul(1000) / bytes.0.max(1));
    }
    if got != bytes.0 {
        return Err(ModelsError::Length { got: Bytes(got), said: bytes });
    }
    file.sync_all().map_err(failed("write", to))?;
    Ok(hasher.finalize().into())
}

fn remove(path: &Path) {
    if let Err(error) = fs::remove_file(path)
        && error.kind() != io::ErrorKind::NotFound
    {
        warn!(path = %path.display(), %error, "weights that are not needed stay");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(content: &[u8]) -> (WeightsId, Bytes) {
        (WeightsId(Sha256::digest(content).into()), Bytes(content.len() as u64))
    }

    fn wanted((id, bytes): (WeightsId, Bytes)) -> Wanted {
        Wanted { id, bytes, room: None }
    }

    fn take(models: &Models, content: &[u8]) -> Result<Held, ModelsError> {
        models.take_in(wanted(named(content)), content, |_| Ok(()), |_| {})
    }

    #[test]
    fn weights_are_what_they_were_said_to_be_or_are_not_kept() {
        let dir = tempfile::tempdir().unwrap();
        let models = Models::open(dir.path().join("models"), Bytes(100)).unwrap();
        let (id, bytes) = named(b"weights");
        assert!(!models.has(id) && models.hold(id).is_none());
        let wrong = |id, bytes, content: &[u8]| {
            models.take_in(wanted((id, bytes)), content, |_| Ok(()), |_| {}).unwrap_err().to_string()
        };
        assert!(wrong(id, bytes, b"Weights").contains("SHA-256"));
        assert!(wrong(id, bytes, b"weight").contains("cut off"));
        assert!(wrong(id, bytes, b"weights!").contains("announced were 7 B"));
        let bad = models.take_in(wanted((id, bytes)), &b"weights"[..], |_| Err("no magic".into()), |_| {});
        assert!(bad.unwrap_err().to_string().contains("no magic"));
        assert_eq!(fs::read_dir(dir.path().join("models")).unwrap().count(), 0, "nothing stays of what was refused");
        let held = take(&models, b"weights").unwrap();
        assert_eq!(fs::read(&held.path).unwrap(), b"weights");
        assert_eq!(*models.warm().borrow(), [id.warm_id()]);
        fs::write(dir.path().join("models/new-x"), b"half").unwrap();
        let again = Models::open(dir.path().join("models"), Bytes(100)).unwrap();
        assert!(again.has(id) && !dir.path().join("models/new-x").exists());
    }

    #[test]
    fn the_longest_unused_make_room_and_those_in_use_do_not() {
        let dir = tempfile::tempdir().unwrap();
        let models = Models::open(dir.path().to_owned(), Bytes(10)).unwrap();
        let (one, two, three) = (b"1111", b"2222", b"3333");
        drop(take(&models, one).unwrap());
        let held = take(&models, two).unwrap();
        let other = take(&models, three).unwrap();
        assert!(!models.has(named(one).0) && models.has(named(two).0) && models.has(named(three).0));
        let full = take(&models, b"444").unwrap_err();
        assert!(full.is_ours() && full.to_string().contains("8 B are in use"), "{full}");
        drop(held);
        drop(take(&models, b"444").unwrap());
        assert!(!models.has(named(two).0));
        drop(other);
    }
}
