//! Packages that apps need: fetched from the machine's own Debian sources, kept warm, laid over the system for a job.
//!
//! ```text
//! DATA/apps/apt/            apt's caches and, where the machine has none, lists
//!           fetch/ID/       package files on their way; an interrupted fetch goes on where it stopped
//!           new/ID/         being unpacked: thrown away at the next start
//!           sets/ID-HASH/   whole: set.json, root/ (what the packages bring), empty/ and mnt/ for mounting
//! ```
//!
//! A set comes into `sets` by one rename, after everything in it is on the disk, so what is there is whole. What a set
//! holds depends on what the machine has besides: `set.json` says for which state of installation it was made, and when
//! that changes, the set is looked at anew before it counts again. The longest unused ones make room for new ones; one
//! that a job uses never does.

mod apt;
mod error;
mod fetch;
mod shelf;
mod unpack;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use muster_core::packages::{PackageSet, PackageSetId, WARM_MAX};
use muster_core::units::Bytes;
use tokio::sync::{Semaphore, watch};
use tokio::time::Instant;
use tracing::{info, warn};

pub(crate) use error::AppsError;

use crate::config::AppsOffer;
use crate::sandbox::Sandbox;
use apt::{Apt, Plan};
use shelf::{Hold, Marker, Shelf};

/// Sets that are fetched at one time; others wait.
const FETCHES_MAX: usize = 2;
/// Between two fetches that nobody waits for.
const AHEAD_EVERY: Duration = Duration::from_secs(60);
/// Sets that are asked for at one time: more than leases can start at once.
const ASKED_MAX: usize = 256;

/// A set of packages that a job may use; while this lives, it stays.
#[derive(Clone, Debug)]
pub(crate) struct Opened {
    /// What is to be laid over the system; nothing where the machine has all of it.
    pub(crate) over: Option<PathBuf>,
    _hold: Hold,
}

/// How a fetch stands.
#[derive(Clone, Debug)]
enum Fetch {
    Going(String),
    Over(Result<Opened, AppsError>),
}

/// All sets of this Container. Clones share them.
#[derive(Clone, Debug)]
pub(crate) struct Apps {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    dir: PathBuf,
    offer: AppsOffer,
    sandbox: Sandbox,
    apt: Apt,
    shelf: Arc<Mutex<Shelf>>,
    going: Mutex<BTreeMap<PackageSetId, watch::Receiver<Fetch>>>,
    places: Semaphore,
    /// When something was fetched last that nobody waited for.
    ahead_at: Mutex<Option<Instant>>,
    /// What is warm, the last used first.
    warm: watch::Sender<Vec<PackageSetId>>,
}

impl Apps {
    /// Takes over what an earlier process has left in the folder.
    ///
    /// # Errors
    /// The folder cannot be made or read.
    pub(crate) fn new(dir: PathBuf, offer: AppsOffer, sandbox: Sandbox) -> Result<Self, AppsError> {
        let shelf = Shelf::open(&dir)?;
        // Programs that work on it have other folders to stand in.
        let dir = dir.canonicalize().map_err(AppsError::io("resolve", &dir))?;
        let (apt, warm) = (Apt::new(dir.join("apt")), watch::Sender::new(Vec::new()));
        let (going, places) = (Mutex::default(), Semaphore::new(FETCHES_MAX));
        let (shelf, ahead_at) = (Arc::new(Mutex::new(shelf)), Mutex::default());
        let inner = Inner { dir, offer, sandbox, apt, shelf, going, places, ahead_at, warm };
        inner.show_warm();
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Sets that are there, the last used first, at most [`WARM_MAX`]; changes are seen.
    pub(crate) fn warm(&self) -> watch::Receiver<Vec<PackageSetId>> {
        self.inner.warm.subscribe()
    }

    /// The packages, fetched if they are not there. `tell` is told how far it is. All who ask for the same set wait for
    /// one fetch, and it goes on when nobody waits any more.
    ///
    /// # Errors
    /// Why they cannot be had.
    pub(crate) async fn open(&self, set: &PackageSet, tell: impl Fn(&str)) -> Result<Opened, AppsError> {
        let Some(id) = set.id() else { return Ok(Opened { over: None, _hold: Hold::default() }) };
        let mut fetch = self.begin(id, set)?;
        loop {
            match &*fetch.borrow_and_update() {
                Fetch::Going(how) if !how.is_empty() => tell(how),
                Fetch::Going(_) => {}
                Fetch::Over(over) => return over.clone(),
            }
            if fetch.changed().await.is_err() {
                return Err(AppsError::program("apt-get", "the Container is going down"));
            }
        }
    }

    /// Whether what is missing is fetched at all.
    pub(crate) fn fetches(&self) -> bool {
        self.inner.fetches()
    }

    /// Fetches what may be asked for soon, in the background: one set at a time, not too often, and only where nothing
    /// has to go for it.
    pub(crate) fn ahead(&self, set: PackageSet) {
        let Some(id) = set.id().filter(|_| self.inner.offer.ahead && self.fetches()) else { return };
        {
            let mut last = guard(&self.inner.ahead_at);
            if last.is_some_and(|at| at.elapsed() < AHEAD_EVERY) || !guard(&self.inner.going).is_empty() {
                return;
            }
            *last = Some(Instant::now());
        }
        let apps = self.clone();
        tokio::spawn(async move {
            let (inner, wanted) = (Arc::clone(&apps.inner), set.clone());
            let fits = blocking(move || match inner.look(id, &wanted)? {
                Looked::Here(_) => Ok(false),
                Looked::Missing { plan, .. } => Ok(inner.fits(&plan)),
            });
            let fetched = match fits.await {
                Ok(true) => apps.open(&set, |_| {}).await.map(drop),
                Ok(false) => Ok(()),
                Err(error) => Err(error),
            };
            apps.inner.show_warm();
            if let Err(error) = fetched {
                info!(%id, packages = %set, %error, "packages that are asked for are not fetched");
            }
        });
    }

    fn begin(&self, id: PackageSetId, set: &PackageSet) -> Result<watch::Receiver<Fetch>, AppsError> {
        let mut going = guard(&self.inner.going);
        if let Some(fetch) = going.get(&id) {
            return Ok(fetch.clone());
        }
        if going.len() >= ASKED_MAX {
            return Err(AppsError::program("apt-get", "too many sets of packages are asked for at once; try again"));
        }
        let (teller, fetch) = watch::channel(Fetch::Going(String::new()));
        going.insert(id, fetch.clone());
        let (inner, set) = (Arc::clone(&self.inner), set.clone());
        tokio::spawn(async move {
            let over = Arc::clone(&inner).have(id, &set, &teller).await;
            if let Err(error) = &over {
                warn!(%id, packages = %set, %error, "packages cannot be had");
            }
            guard(&inner.going).remove(&id);
            inner.show_warm();
            teller.send_replace(Fetch::Over(over));
        });
        Ok(fetch)
    }
}

impl Inner {
    fn fetches(&self) -> bool {
        self.sandbox.capabilities().packages && self.offer.disk > Bytes(0)
    }

    /// The set as it is, or as it becomes by fetching what is missing.
    async fn have(
        self: Arc<Self>,
        id: PackageSetId,
        set: &PackageSet,
        teller: &watch::Sender<Fetch>,
    ) -> Result<Opened, AppsError> {
        match Arc::clone(&self).have_by_these_lists(id, set, teller).await {
            Err(AppsError::Stale { .. }) => self.have_by_these_lists(id, set, teller).await,
            other => other,
        }
    }

    async fn have_by_these_lists(
        self: Arc<Self>,
        id: PackageSetId,
        set: &PackageSet,
        teller: &watch::Sender<Fetch>,
    ) -> Result<Opened, AppsError> {
        let (inner, wanted) = (Arc::clone(&self), set.clone());
        let (host, plan) = match blocking(move || inner.look(id, &wanted)).await? {
            Looked::Here(opened) => return Ok(opened),
            Looked::Missing { host, plan } => (host, plan),
        };
        if !self.fetches() {
            let missing =
                plan.names().iter().filter_map(|file| file.split('_').next()).take(8).collect::<Vec<_>>().join(", ");
            let why = if self.offer.disk == Bytes(0) {
                "its owner gives no disk for them"
            } else {
                "its kernel lays no folders over the system"
            };
            return Err(AppsError::Off { missing, why });
        }
        teller.send_replace(Fetch::Going(format!("waiting to fetch {}", name(set))));
        let _place = self.places.acquire().await.map_err(|error| AppsError::program("apt-get", error))?;
        self.fetch(id, set, host, plan, teller).await
    }

    /// Whether a set is there; else what is missing.
    fn look(&self, id: PackageSetId, set: &PackageSet) -> Result<Looked, AppsError> {
        let host = shelf::host_state();
        if let Some(opened) = guard(&self.shelf).take(id, |marker| marker.host == host && marker.packages == *set) {
            return Ok(Looked::Here(opened));
        }
        if crate::sandbox::find_program("apt-get").is_none() {
            // The machine may have what is needed all the same: the program's start tells.
            return Ok(Looked::Here(Opened { over: None, _hold: Hold::default() }));
        }
        let plan = self.apt.plan(set)?;
        let marker = Marker { packages: set.clone(), host: host.clone(), files: plan.names(), bytes: 0 };
        let mut shelf = guard(&self.shelf);
        if plan.files.is_empty() {
            shelf.put_host(&self.dir, id, marker)?;
        } else {
            shelf.renew(id, &marker)?;
        }
        let opened = shelf.take(id, |known| known.host == host && known.packages == *set);
        Ok(opened.map_or(Looked::Missing { host, plan }, Looked::Here))
    }

    fn show_warm(&self) {
        let mut warm = guard(&self.shelf).ids();
        warm.truncate(WARM_MAX);
        self.warm.send_if_modified(|shown| std::mem::replace(shown, warm.clone()) != warm);
    }
}

enum Looked {
    Here(Opened),
    Missing { host: String, plan: Plan },
}

/// A set's name for people: its first packages.
fn name(set: &PackageSet) -> String {
    let names = set.names();
    match names {
        [one, two, three, ..] if names.len() > 3 => format!("{one}, {two}, {three} and {} more", names.len() - 3),
        _ => names.join(", "),
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, AppsError> + Send + 'static,
) -> Result<T, AppsError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => Err(AppsError::program("apt-get", error)),
    }
}

/// What is guarded here is changed as a whole, so one that panicked left it right.
fn guard<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Removes a folder, if it is there.
fn remove(dir: &Path) {
    match std::fs::remove_dir_all(dir) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            warn!(path = %dir.display(), %error, "a folder of packages stays");
        }
        Ok(()) => info!(path = %dir.display(), "packages removed"),
        Err(_) => {}
    }
}
