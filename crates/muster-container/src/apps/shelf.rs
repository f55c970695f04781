//! The sets that are whole: what there is, who uses it, who goes first.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::SystemTime;

use muster_core::packages::{PackageSet, PackageSetId};
use serde::{Deserialize, Serialize};

use super::error::AppsError;
use super::{Opened, guard, remove};

/// What dpkg knows of the machine.
const HOST_STATUS: &str = "/var/lib/dpkg/status";
const MARKER: &str = "set.json";
/// Its time of change is when the set was used last.
const USED: &str = "used";
/// Sets that are kept, with those of which the machine has all packages.
const SETS_MAX: usize = 1_024;

/// Whoever has one uses the set.
#[derive(Clone, Debug, Default)]
pub(super) struct Hold(Arc<()>);

/// What `set.json` says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Marker {
    /// The packages that were asked for.
    pub(super) packages: PackageSet,
    /// For which state of the machine's own packages.
    pub(super) host: String,
    /// The package files that were missing.
    pub(super) files: Vec<String>,
    /// Bytes on disk.
    pub(super) bytes: u64,
}

impl Marker {
    /// The set's folder below `sets`.
    fn folder(&self, id: PackageSetId) -> String {
        let hash = blake3::hash(self.files.join("\n").as_bytes());
        format!("{id}-{}", hex::encode(&hash.as_bytes()[..6]))
    }
}

#[derive(Debug)]
struct Set {
    dir: PathBuf,
    marker: Marker,
    used: SystemTime,
    hold: Hold,
}

impl Set {
    fn is_used(&self) -> bool {
        Arc::strong_count(&self.hold.0) > 1
    }
}

/// All sets that are whole.
#[derive(Debug, Default)]
pub(super) struct Shelf {
    /// The folder of all packages.
    dir: PathBuf,
    /// Folders that are nobody's any more, out of the way and still to be removed.
    gone: Vec<PathBuf>,
    gone_count: u64,
    sets: BTreeMap<PackageSetId, Set>,
    /// Others have taken their place; they go when no job uses them.
    replaced: Vec<Set>,
    /// Bytes that fetches under way will need.
    reserved: u64,
}

/// Room on the disk that a fetch has been promised; given back when it is dropped.
#[derive(Debug)]
pub(super) struct Reserved {
    shelf: Arc<Mutex<Shelf>>,
    bytes: u64,
}

impl Drop for Reserved {
    fn drop(&mut self) {
        let mut shelf = guard(&self.shelf);
        shelf.reserved = shelf.reserved.saturating_sub(self.bytes);
    }
}

/// Names the state of the machine's own packages; the same name, the same packages.
pub(super) fn host_state() -> String {
    let bytes = fs::read(HOST_STATUS).unwrap_or_default();
    hex::encode(&blake3::hash(&bytes).as_bytes()[..16])
}

impl Shelf {
    /// Reads what is there; what is not whole is thrown away.
    pub(super) fn open(dir: &Path) -> Result<Self, AppsError> {
        remove(&dir.join("new"));
        let sets = dir.join("sets");
        fs::create_dir_all(&sets).map_err(AppsError::io("create the folder", &sets))?;
        // Programs that work on it have other folders to stand in.
        let sets = sets.canonicalize().map_err(AppsError::io("resolve", &sets))?;
        let mut shelf = Self { dir: dir.canonicalize().map_err(AppsError::io("resolve", dir))?, ..Self::default() };
        for entry in fs::read_dir(&sets).map_err(AppsError::io("read the folder", &sets))? {
            let path = entry.map_err(AppsError::io("read the folder", &sets))?.path();
            let marker: Option<Marker> =
                fs::read(path.join(MARKER)).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok());
            let Some((marker, id)) = marker.and_then(|marker| Some((marker.clone(), marker.packages.id()?))) else {
                remove(&path);
                continue;
            };
            let used = fs::metadata(path.join(USED)).and_then(|meta| meta.modified()).unwrap_or(SystemTime::UNIX_EPOCH);
            shelf.insert(id, Set { dir: path, marker, used, hold: Hold::default() });
        }
        shelf.drop_replaced();
        std::mem::take(&mut shelf.gone).iter().for_each(|dir| remove(dir));
        Ok(shelf)
    }

    /// Takes a folder out of the way at once; removing it takes longer, see [`sweep`].
    fn discard(&mut self, dir: &Path) {
        let gone = self.dir.join("new").join(format!("gone-{}", self.gone_count));
        self.gone_count = self.gone_count.wrapping_add(1);
        let moved = gone.parent().map_or(Ok(()), fs::create_dir_all).and_then(|()| fs::rename(dir, &gone));
        match moved {
            Ok(()) => self.gone.push(gone),
            // Nothing is lost by waiting for it.
            Err(_) => remove(dir),
        }
    }

    /// Of two of the same name the one that was used last stays.
    fn insert(&mut self, id: PackageSetId, set: Set) {
        if let Some(other) = self.sets.remove(&id) {
            let (new, old) = if other.used > set.used { (other, set) } else { (set, other) };
            self.replaced.push(old);
            self.sets.insert(id, new);
        } else {
            self.sets.insert(id, set);
        }
    }

    /// Removes those whose place others have taken and that nobody uses.
    fn drop_replaced(&mut self) {
        let (used, unused): (Vec<Set>, Vec<Set>) =
            std::mem::take(&mut self.replaced).into_iter().partition(Set::is_used);
        self.replaced = used;
        unused.iter().for_each(|set| self.discard(&set.dir));
    }

    /// The sets by name, the last used first.
    pub(super) fn ids(&self) -> Vec<PackageSetId> {
        let mut all: Vec<_> = self.sets.iter().map(|(id, set)| (std::cmp::Reverse(set.used), *id)).collect();
        all.sort_unstable();
        all.into_iter().map(|(_, id)| id).collect()
    }

    /// A set, if it is there and as wanted; it is used from now on.
    pub(super) fn take(&mut self, id: PackageSetId, fits: impl Fn(&Marker) -> bool) -> Option<Opened> {
        let set = self.sets.get_mut(&id).filter(|set| fits(&set.marker))?;
        set.used = SystemTime::now();
        if let Err(error) = File::create(set.dir.join(USED)).and_then(|file| file.set_modified(set.used)) {
            tracing::debug!(%id, %error, "when a set of packages was used is not written down");
        }
        let over = (!set.marker.files.is_empty()).then(|| set.dir.clone());
        Some(Opened { over, _hold: set.hold.clone() })
    }

    /// A set of which the machine has all packages.
    pub(super) fn put_host(&mut self, dir: &Path, id: PackageSetId, marker: Marker) -> Result<(), AppsError> {
        let place = dir.join("sets").join(marker.folder(id));
        fs::create_dir_all(&place).map_err(AppsError::io("create the folder", &place))?;
        write_marker(&place, &marker)?;
        self.place(id, place, marker);
        Ok(())
    }

    /// The machine's own packages have changed: a set that would be fetched as it is goes on being good.
    pub(super) fn renew(&mut self, id: PackageSetId, now: &Marker) -> Result<(), AppsError> {
        if let Some(set) = self.sets.get_mut(&id)
            && set.marker.files == now.files
            && set.marker.packages == now.packages
        {
            let marker = Marker { bytes: set.marker.bytes, ..now.clone() };
            write_marker(&set.dir, &marker)?;
            set.marker = marker;
        }
        Ok(())
    }

    /// Takes over a folder that is whole and on the disk ([`seal`]) but for its place.
    pub(super) fn put(&mut self, dir: &Path, id: PackageSetId, new: &Path, marker: Marker) -> Result<(), AppsError> {
        let place = dir.join("sets").join(marker.folder(id));
        // Only one that is not known can be in the way: one that was known would have been taken.
        remove(&place);
        fs::rename(new, &place).map_err(AppsError::io("move", new))?;
        let sets = dir.join("sets");
        File::open(&sets).and_then(|sets| sets.sync_all()).map_err(AppsError::io("sync", &sets))?;
        self.place(id, place, marker);
        Ok(())
    }

    fn place(&mut self, id: PackageSetId, dir: PathBuf, marker: Marker) {
        let set = Set { dir: dir.clone(), marker, used: SystemTime::now(), hold: Hold::default() };
        if let Some(old) = self.sets.insert(id, set)
            && old.dir != dir
        {
            self.replaced.push(old);
        }
        while self.sets.len() > SETS_MAX && self.evict_one(0) {}
        self.drop_replaced();
    }

    /// Removes the longest unused set that nobody uses and that takes so many bytes at least; whether there was one.
    fn evict_one(&mut self, bytes_min: u64) -> bool {
        let unused = self.sets.iter().filter(|(_, set)| !set.is_used() && set.marker.bytes >= bytes_min);
        let Some(id) = unused.min_by_key(|(_, set)| set.used).map(|(id, _)| *id) else { return false };
        if let Some(set) = self.sets.remove(&id) {
            self.discard(&set.dir);
        }
        true
    }

    pub(super) fn bytes(&self) -> u64 {
        let all = self.sets.values().chain(&self.replaced);
        all.map(|set| set.marker.bytes).fold(self.reserved, u64::saturating_add)
    }

    /// Removes sets, the longest unused ones first, until so many bytes more fit into `most`.
    ///
    /// # Errors
    /// The bytes that others use, when that is too many.
    fn make_room(&mut self, need: u64, most: u64) -> Result<(), u64> {
        self.drop_replaced();
        let in_use = |set: &&Set| set.is_used();
        let lasting = self.sets.values().filter(in_use).chain(&self.replaced).map(|set| set.marker.bytes);
        let lasting = lasting.fold(self.reserved, u64::saturating_add);
        if lasting.saturating_add(need) > most {
            // Nothing is thrown away in vain.
            return Err(lasting);
        }
        while self.bytes().saturating_add(need) > most && self.evict_one(1) {}
        self.reserved = self.reserved.saturating_add(need);
        Ok(())
    }
}

/// Makes and keeps room for a fetch.
///
/// # Errors
/// The bytes that sets in use and other fetches take.
pub(super) fn reserve(shelf: &Arc<Mutex<Shelf>>, need: u64, most: u64) -> Result<Reserved, u64> {
    let made = guard(shelf).make_room(need, most);
    sweep(shelf);
    made?;
    Ok(Reserved { shelf: Arc::clone(shelf), bytes: need })
}

/// Removes what is out of the way, while others use the shelf.
pub(super) fn sweep(shelf: &Mutex<Shelf>) {
    let gone = std::mem::take(&mut guard(shelf).gone);
    gone.iter().for_each(|dir| remove(dir));
}

/// Writes a marker so that it is there whole or as it was.
fn write_marker(dir: &Path, marker: &Marker) -> Result<(), AppsError> {
    let (new, path) = (dir.join("set.new"), dir.join(MARKER));
    let failed = AppsError::io("write", &path);
    let text = serde_json::to_vec(marker).map_err(|error| AppsError::program("muster", error))?;
    let write = || {
        let mut file = File::create(&new)?;
        file.write_all(&text)?;
        file.sync_all()?;
        fs::rename(&new, &path)
    };
    write().map_err(failed)
}

/// Marks a new folder as whole, and waits until everything in it is on the disk: with large sets for long, so not while the
/// shelf is held, which every start of a session looks at.
pub(super) fn seal(dir: &Path, marker: &Marker) -> Result<(), AppsError> {
    write_marker(dir, marker)?;
    let folder = File::open(dir).map_err(AppsError::io("open", dir))?;
    rustix::fs::syncfs(&folder).map_err(|error| AppsError::io("sync", dir)(error.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(name: &str) -> (PackageSetId, PackageSet) {
        let set = PackageSet::new([name.to_owned()]).unwrap();
        (set.id().unwrap(), set)
    }

    fn put(shelf: &mut Shelf, dir: &Path, name: &str, bytes: u64) -> PackageSetId {
        let (id, packages) = set(name);
        let new = dir.join("new").join(name);
        fs::create_dir_all(new.join("root/usr")).unwrap();
        let marker = Marker { packages, host: "one".into(), files: vec![format!("{name}_1_all.deb")], bytes };
        seal(&new, &marker).unwrap();
        shelf.put(dir, id, &new, marker).unwrap();
        id
    }

    #[test]
    fn what_is_whole_survives_and_what_is_not_goes() {
        let dir = tempfile::tempdir().unwrap();
        let mut shelf = Shelf::open(dir.path()).unwrap();
        let whole = put(&mut shelf, dir.path(), "whole", 10);
        // Killed while it was unpacked, and while its marker was written.
        fs::create_dir_all(dir.path().join("new/half/root")).unwrap();
        fs::create_dir_all(dir.path().join("sets/0123-4567/root")).unwrap();
        fs::write(dir.path().join("sets/0123-4567/set.new"), "{").unwrap();
        let mut again = Shelf::open(dir.path()).unwrap();
        assert_eq!(again.ids(), [whole]);
        assert!(!dir.path().join("new").exists() && !dir.path().join("sets/0123-4567").exists());
        let opened = again.take(whole, |marker| marker.host == "one").unwrap();
        assert!(opened.over.unwrap().join("root/usr").is_dir());
        assert!(again.take(whole, |marker| marker.host == "two").is_none());
    }

    #[test]
    fn the_longest_unused_make_room_and_used_ones_stay() {
        let dir = tempfile::tempdir().unwrap();
        let mut shelf = Shelf::open(dir.path()).unwrap();
        let [a, b, c] = ["aa", "bb", "cc"].map(|name| put(&mut shelf, dir.path(), name, 100));
        let used = shelf.take(a, |_| true).unwrap();
        assert_eq!(shelf.ids(), [a, c, b], "the last used first");
        let place = used.over.clone().unwrap();
        let shelf = Arc::new(Mutex::new(shelf));
        // 300 are there, 100 of them in use: 250 more can never fit into 340, and nothing is thrown away for it.
        assert_eq!(reserve(&shelf, 250, 340).unwrap_err(), 100);
        assert_eq!(guard(&shelf).ids(), [a, c, b]);
        let room = reserve(&shelf, 100, 340).unwrap();
        assert_eq!(guard(&shelf).ids(), [a, c]);
        // What was promised counts until the fetch is over.
        assert_eq!(reserve(&shelf, 200, 340).unwrap_err(), 200);
        drop(room);
        drop(reserve(&shelf, 240, 340).unwrap());
        assert_eq!(guard(&shelf).ids(), [a]);
        assert!(place.exists());
        drop(used);
        drop(reserve(&shelf, 340, 340).unwrap());
        assert!(guard(&shelf).ids().is_empty() && !place.exists());
    }

    #[test]
    fn a_machine_that_changed_is_looked_at_anew() {
        let dir = tempfile::tempdir().unwrap();
        let mut shelf = Shelf::open(dir.path()).unwrap();
        let id = put(&mut shelf, dir.path(), "game", 10);
        let (_, packages) = set("game");
        let same =
            Marker { packages: packages.clone(), host: "two".into(), files: vec!["game_1_all.deb".into()], bytes: 0 };
        shelf.renew(id, &Marker { files: vec!["game_2_all.deb".into()], ..same.clone() }).unwrap();
        assert!(shelf.take(id, |marker| marker.host == "two").is_none());
        shelf.renew(id, &same).unwrap();
        let old = shelf.take(id, |marker| marker.host == "two").unwrap();
        assert_eq!(shelf.bytes(), 10);
        // Now the machine has it itself; the job that uses the old folder keeps it.
        let host = Marker { host: "three".into(), files: Vec::new(), ..same };
        shelf.put_host(dir.path(), id, host).unwrap();
        assert_eq!(shelf.take(id, |marker| marker.host == "three").unwrap().over, None);
        let place = old.over.clone().unwrap();
        assert!(place.exists());
        drop(old);
        assert!(shelf.make_room(1, 1).is_ok());
        assert!(!place.exists() && shelf.gone.iter().all(|dir| dir.exists()));
        assert_eq!(Shelf::open(dir.path()).unwrap().ids(), [id]);
    }
}
