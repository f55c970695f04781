//! Workplaces: what each lease has on this machine: a work folder, a job in the Sandbox, its streams.

mod intake;
mod live;
mod model;
mod outtake;
mod play;
mod streamer;
mod workplace;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use muster_core::brain::container::Held;
use muster_core::ids::{LeaseId, NodeId};
use muster_core::lease::LeaseTerms;
use muster_core::live::SessionSpec;
use muster_core::packages::PackageSet;
use muster_core::protocol::JobSpec as Wanted;
use muster_core::units::Bytes;
use muster_engine::Engine;
use muster_engine::hub::Hub;
use muster_net::Peer;
use tracing::warn;

pub(crate) use intake::{Intake, IntakeError};
pub(crate) use model::Standing;
pub(crate) use outtake::Outtake;
pub(crate) use streamer::Stage;
pub(crate) use workplace::Workplace;

use crate::apps::Apps;
use crate::brain::BrainHandle;
use crate::config::{GpuOffer, JobBounds};
use crate::engines::Engines;
use crate::models::Models;
use crate::sandbox::{Display, JobId, JobSpec, RecoveredJob, Sandbox, SandboxError, SandboxLimits};

/// The command of a job that runs nothing, where the configuration allows it.
const EMPTY_COMMAND: &str = "muster:empty";
/// The least that the Sandbox can work with; less that was rented is rounded up to it.
const DISK_BYTES_MIN: u64 = 4 << 20;
const MEMORY_BYTES_MIN: u64 = 16 << 20;
const CPU_MILLIS_MIN: u32 = 10;

/// What all workplaces share.
#[derive(Debug)]
pub(crate) struct Shop {
    pub(crate) sandbox: Sandbox,
    /// Packages that sessions need.
    pub(crate) apps: Apps,
    pub(crate) brain: BrainHandle,
    pub(crate) node: NodeId,
    pub(crate) leases_dir: PathBuf,
    pub(crate) gpus: Vec<GpuOffer>,
    pub(crate) bounds: JobBounds,
    pub(crate) allow_empty: bool,
    /// What models are served with, where they are.
    pub(crate) serving: Option<Serving>,
    /// The owner's own engines, by the names that consumers know.
    pub(crate) endpoints: BTreeMap<String, Endpoint>,
    /// What live sessions are streamed with.
    pub(crate) stage: Stage,
    /// Bytes of disk that leases which are over may take, until their consumers have fetched what they want.
    pub(crate) keep_bytes_max: u64,
}

/// An engine that the owner runs; all leases share its places.
#[derive(Clone)]
pub(crate) struct Endpoint {
    pub(crate) engine: Arc<dyn Engine>,
    /// How large its owner says that its model is.
    pub(crate) weights: Bytes,
}

impl std::fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Endpoint").field("weights", &self.weights).finish_non_exhaustive()
    }
}

/// What models are served with.
#[derive(Clone, Debug)]
pub(crate) struct Serving {
    pub(crate) weights: Models,
    pub(crate) engines: Arc<dyn Engines>,
    /// What dials other Containers that have weights.
    pub(crate) peer: Peer,
    /// Where weights are fetched from that nobody brings.
    pub(crate) hub: Option<Hub>,
    /// A hub that sends nothing for so long is given up.
    pub(crate) silence: Duration,
}

/// All workplaces. Clones share them.
#[derive(Clone, Debug)]
pub(crate) struct Jobs {
    shop: Arc<Shop>,
    places: Arc<Mutex<Places>>,
}

#[derive(Debug, Default)]
struct Places {
    all: HashMap<LeaseId, Arc<Workplace>>,
    /// Those whose lease is over, the first first; some may be removed since.
    over: VecDeque<LeaseId>,
}

impl Jobs {
    pub(crate) fn new(shop: Shop) -> Self {
        Self { shop: Arc::new(shop), places: Arc::default() }
    }

    fn lock(&self) -> MutexGuard<'_, Places> {
        // The queue may name what the map no longer has, so one that panicked in between left nothing wrong.
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The workplace of a lease, while there is one.
    pub(crate) fn get(&self, lease: LeaseId) -> Option<Arc<Workplace>> {
        self.lock().all.get(&lease).cloned()
    }

    /// The weights that are kept here, where models are served.
    pub(crate) fn models(&self) -> Option<&Models> {
        self.shop.serving.as_ref().map(|serving| &serving.weights)
    }

    fn enter(&self, held: &Held) -> Arc<Workplace> {
        let lease = held.lease.id();
        let mut places = self.lock();
        let make = || Workplace::new(Arc::clone(&self.shop), held.lease.terms.clone());
        Arc::clone(places.all.entry(lease).or_insert_with(make))
    }

    /// Makes the work folder ready, in the background.
    pub(crate) fn prepare(&self, held: &Held) {
        let place = self.enter(held);
        // Where jobs may be empty, most will be: a folder is made once it is needed.
        if !self.shop.allow_empty {
            let jobs = self.clone();
            tokio::spawn(async move {
                if let Err(why) = place.folder().await {
                    warn!(lease = %place.lease(), %why, "no work folder; removing what finished leases have left");
                    jobs.make_room(0);
                    // Whoever needs the folder asks again, and is told what went wrong.
                }
            });
        }
    }

    /// Takes over what an earlier process has left for a lease that is over. Before the Sandbox's recovery, which removes
    /// what nobody has taken over.
    pub(crate) async fn reopen(&self, held: &Held) {
        let lease = held.lease.id();
        let place = Workplace::left_over(Arc::clone(&self.shop), held.lease.terms.clone()).await;
        place.shrink().await;
        let mut places = self.lock();
        places.all.insert(lease, place);
        places.over.push_back(lease);
    }

    /// Ends and removes jobs of an earlier process that nobody has taken over.
    pub(crate) async fn recover(&self) -> Result<Vec<RecoveredJob>, SandboxError> {
        self.shop.sandbox.recover().await
    }

    /// An Indexer says that these packages are asked for.
    pub(crate) fn fetch_ahead(&self, packages: PackageSet) {
        self.shop.apps.ahead(packages);
    }

    /// Starts what the consumer wants run.
    pub(crate) fn start(&self, lease: LeaseId) {
        match self.get(lease) {
            Some(place) => drop(tokio::spawn(place.run())),
            None => warn!(%lease, "a job without a workplace"),
        }
    }

    /// Ends the job.
    pub(crate) fn kill(&self, lease: LeaseId) {
        if let Some(place) = self.get(lease) {
            place.kill();
        }
    }

    /// Tells the workplace that the lease has ended, in whatever way.
    pub(crate) fn over(&self, lease: LeaseId) {
        let Some(place) = self.get(lease) else { return };
        if place.over() {
            self.lock().over.push_back(lease);
            let jobs = self.clone();
            tokio::spawn(async move {
                place.shrink().await;
                jobs.make_room(jobs.shop.keep_bytes_max);
            });
        }
    }

    /// Removes what the longest finished leases have left, until all of it fits into so many bytes: a consumer who
    /// fetches nothing must not fill the disk of its provider.
    fn make_room(&self, bytes_max: u64) {
        let mut surplus = Vec::new();
        {
            let mut places = self.lock();
            let Places { all, over } = &mut *places;
            over.retain(|lease| all.contains_key(lease));
            let kept = |lease: &LeaseId| all.get(lease).map_or(0, |place| place.kept_bytes());
            let mut sum: u64 = over.iter().map(kept).fold(0, u64::saturating_add);
            while sum > bytes_max
                && let Some(oldest) = over.pop_front()
            {
                sum = sum.saturating_sub(kept(&oldest));
                surplus.push(oldest);
            }
        }
        for lease in surplus {
            warn!(%lease, "outputs that nobody has fetched are removed to make room");
            self.clean_up(lease);
        }
    }

    /// Removes everything that the lease had.
    pub(crate) fn clean_up(&self, lease: LeaseId) {
        let place = self.lock().all.remove(&lease);
        if let Some(place) = place {
            tokio::spawn(async move { place.remove().await });
        } else {
            let dir = lease_dir(&self.shop.leases_dir, lease);
            drop(tokio::task::spawn_blocking(move || remove_dir(&dir)));
        }
    }

    /// Removes what no lease owns any more: logs of leases that were forgotten.
    pub(crate) fn sweep_folders(&self, known: impl Fn(LeaseId) -> bool) {
        let entries = std::fs::read_dir(&self.shop.leases_dir).into_iter().flatten().flatten();
        for entry in entries {
            let name = entry.file_name();
            let lease = name.to_str().and_then(|name| name.parse::<LeaseId>().ok());
            if lease.is_some_and(|lease| !known(lease)) {
                remove_dir(&entry.path());
            }
        }
    }

    /// Ends all jobs, and leaves what finished ones have made in place: for the end of the process.
    pub(crate) async fn shut_down(&self) {
        let places: Vec<_> = self.lock().all.drain().map(|(_, place)| place).collect();
        let ending = places.into_iter().map(|place| async move {
            place.kill();
            place.ended().await;
            place.keep();
        });
        futures::future::join_all(ending).await;
    }
}

impl Shop {
    fn spec(&self, terms: &LeaseTerms, wanted: Wanted, over: Option<PathBuf>) -> JobSpec {
        let mut env: BTreeMap<String, String> = wanted.env.into_iter().collect();
        env.insert("MUSTER_LEASE_ID".to_owned(), terms.lease.to_string());
        env.insert("MUSTER_CONTAINER_ID".to_owned(), self.node.to_string());
        let devices = terms.allocation.gpus.iter().filter_map(|index| self.gpus.get(index));
        JobSpec {
            command: wanted.command,
            env,
            egress: terms.egress,
            limits: self.limits(terms),
            stdin: wanted.stdin,
            devices: devices.flat_map(|gpu| gpu.devices.iter().cloned()).collect(),
            display: wanted.session.as_ref().map(display),
            over,
            lent: Vec::new(),
        }
    }

    fn limits(&self, terms: &LeaseTerms) -> SandboxLimits {
        let rented = &terms.allocation;
        SandboxLimits {
            cpu_millis: rented.cpu_millis.max(CPU_MILLIS_MIN),
            memory_bytes: rented.memory.0.max(MEMORY_BYTES_MIN),
            disk_bytes: rented.disk.0.max(DISK_BYTES_MIN),
            processes_max: self.bounds.processes_max,
            open_files_max: self.bounds.open_files_max,
        }
    }

    fn is_empty(&self, wanted: &Wanted) -> bool {
        self.allow_empty && wanted.command == [EMPTY_COMMAND]
    }
}

/// The display that a session asks for.
fn display(session: &SessionSpec) -> Display {
    Display {
        width: session.width,
        height: session.height,
        layout: session.layout.clone(),
        sound: session.sound,
        microphone: session.microphone,
        gamepads: session.gamepads,
    }
}

/// The Sandbox's name for the job of a lease.
fn job_id(lease: LeaseId) -> JobId {
    JobId::new(lease.to_string()).expect("66 hex digits are a name of a job")
}

fn lease_dir(leases_dir: &Path, lease: LeaseId) -> PathBuf {
    leases_dir.join(lease.to_string())
}

fn remove_dir(dir: &Path) {
    match std::fs::remove_dir_all(dir) {
        Ok(()) => {}
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => warn!(path = %dir.display(), %error, "a folder of logs stays"),
    }
}
