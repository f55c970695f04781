//! The consumer's data folder: a folder per lease, readable by several processes at once.
//!
//! ```text
//! DIR/leases/ID/record   plan and states, checked lines (mode 0600: it holds the session key)
//!              /lock     held (flock) by the process that drives the lease
//!              /stdout   what the job wrote, as far as it was received, at most 64 MiB each
//!              /stderr
//!    /wishes/ID.stop     somebody wants the lease stopped; whoever drives it does so
//!           /ID.look     the chain has news of the lease: its deposit grew
//!    /networks/F.toml    the networks that leases belong to
//!    /claims/JOB         which task of an array wrote which output first
//!    /outbox/            transactions of the wallets
//!    /agent.lock         held by the agent
//! ```

mod log;
mod record;
mod wishes;

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use muster_core::ids::LeaseId;
use muster_core::step::{WatchSteps, When, steps};
use muster_core::units::TimeMs;

pub use self::record::{LeasePlan, LeaseRecord, LeaseState, SessionSecret, TaskPlace};
pub use self::wishes::{Wish, WishKind};
use crate::{Network, NetworkError, durable};

/// Why the consumer's records cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A file cannot be read or written.
    #[error("cannot use {path}: {reason}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        reason: io::Error,
    },
    /// A record is damaged.
    #[error(
        "the record {path} is damaged ({what}); move its folder away to go on without that lease: its Container settles it with the last voucher it has"
    )]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// Where and what.
        what: String,
    },
    /// A later version of Muster wrote it.
    #[error("{path} was written by a newer version of Muster (format {found}): update this program")]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its format.
        found: u32,
    },
    /// Another process drives the lease.
    #[error("lease {} is driven by another process{}", lease.short(), pid.map(|p| format!(" ({p})")).unwrap_or_default())]
    Driven {
        /// The lease.
        lease: LeaseId,
        /// The process, if it said so.
        pid: Option<u32>,
    },
    /// No lease of that name.
    #[error("no lease here begins with {0:?}; `muster lease ls --all` lists them")]
    Unknown(String),
    /// More than one lease of that name.
    #[error("{count} leases begin with {prefix:?}; write more of the name")]
    Ambiguous {
        /// What was given.
        prefix: String,
        /// How many.
        count: usize,
    },
    /// The network of a lease is not known here any more.
    #[error("the network of a lease cannot be read")]
    Network(#[source] NetworkError),
}

/// The data folder.
#[derive(Clone, Debug)]
pub struct ClientDir {
    root: PathBuf,
    watcher: Option<Arc<dyn WatchSteps>>,
    /// For the names of new leases' folders.
    new: Arc<durable::SharedSync>,
}

/// The layout of the folder that this build knows.
const LAYOUT_VERSION: u32 = 1;

impl ClientDir {
    /// Opens the folder, making it (mode 0700) if it is not there.
    ///
    /// # Errors
    /// It cannot be made, or a newer version of Muster has written it.
    pub fn open(root: &Path) -> Result<Self, StoreError> {
        let root = std::path::absolute(root).map_err(StoreError::io(root))?;
        for sub in ["leases", "wishes", "networks"] {
            let path = root.join(sub);
            durable::private_folder(&path).map_err(StoreError::io(&path))?;
        }
        let version = root.join("version");
        match durable::read_bounded(&version, 64) {
            Ok(bytes) => {
                let found = std::str::from_utf8(&bytes).ok().and_then(|t| t.trim().parse::<u32>().ok());
                match found {
                    Some(LAYOUT_VERSION) => {}
                    Some(found) => return Err(StoreError::Newer { path: version, found }),
                    None => {
                        return Err(StoreError::Corrupt { path: version, what: "it holds no number".to_owned() });
                    }
                }
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                durable::replace(&version, format!("{LAYOUT_VERSION}\n").as_bytes(), 0o600)
                    .map_err(StoreError::io(&version))?;
            }
            Err(reason) => return Err(StoreError::Io { path: version, reason }),
        }
        Ok(Self { root, watcher: None, new: Arc::default() })
    }

    /// The folder.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The folder of one lease.
    #[must_use]
    pub fn lease_folder(&self, lease: LeaseId) -> PathBuf {
        self.root.join("leases").join(hex::encode(lease.0))
    }

    /// The names of all leases, in no order that means anything.
    ///
    /// # Errors
    /// The folder cannot be read.
    pub fn leases(&self) -> Result<Vec<LeaseId>, StoreError> {
        let path = self.root.join("leases");
        let mut ids = Vec::new();
        for entry in fs::read_dir(&path).map_err(StoreError::io(&path))? {
            let name = entry.map_err(StoreError::io(&path))?.file_name();
            // A folder whose record was never written belongs to a lease that never came to be.
            if let Some(id) = name.to_str().and_then(|n| n.parse::<LeaseId>().ok())
                && self.lease_folder(id).join("record").exists()
            {
                ids.push(id);
            }
        }
        ids.sort_unstable();
        Ok(ids)
    }

    /// The one lease whose name begins with `prefix`, with or without `0x`.
    ///
    /// # Errors
    /// None does, or several do.
    pub fn find(&self, prefix: &str) -> Result<LeaseId, StoreError> {
        let bare = prefix.strip_prefix("0x").unwrap_or(prefix).to_ascii_lowercase();
        let found: Vec<LeaseId> =
            self.leases()?.into_iter().filter(|id| !bare.is_empty() && hex::encode(id.0).starts_with(&bare)).collect();
        match found.as_slice() {
            [one] => Ok(*one),
            [] => Err(StoreError::Unknown(prefix.chars().take(80).collect())),
            more => Err(StoreError::Ambiguous { prefix: prefix.chars().take(80).collect(), count: more.len() }),
        }
    }

    /// Reads the record of a lease, whoever drives it.
    ///
    /// # Errors
    /// It is missing, damaged, or of a newer version.
    pub fn read(&self, lease: LeaseId) -> Result<LeaseRecord, StoreError> {
        let (plan, state) = log::read(&self.lease_folder(lease).join("record"))?;
        Ok(LeaseRecord { plan, state })
    }

    /// Whether some process drives the lease just now.
    ///
    /// # Errors
    /// The lock cannot be looked at.
    pub fn is_driven(&self, lease: LeaseId) -> Result<bool, StoreError> {
        let path = self.lease_folder(lease).join("lock");
        match File::open(&path) {
            Ok(file) => match file.try_lock_shared() {
                Ok(()) => Ok(false),
                Err(TryLockError::WouldBlock) => Ok(true),
                Err(TryLockError::Error(reason)) => Err(StoreError::Io { path, reason }),
            },
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(reason) => Err(StoreError::Io { path, reason }),
        }
    }

    /// Somebody is told of every step of a lease that this process writes down.
    #[must_use]
    pub fn watched_by(mut self, watcher: Option<Arc<dyn WatchSteps>>) -> Self {
        self.watcher = watcher;
        self
    }

    /// Writes down a new lease, driven by this process. Durable when this returns.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn create(&self, record: &LeaseRecord) -> Result<LeaseFile, StoreError> {
        let lease = record.id();
        let folder = self.lease_folder(lease);
        tell_steps(self.watcher.as_ref(), When::Before, None, &record.state);
        durable::private_folder(&folder).map_err(StoreError::io(&folder))?;
        let lock = lock(&folder, lease)?;
        let log = log::Log::create(&folder.join("record"), &record.plan, &record.state)?;
        let leases = self.root.join("leases");
        self.new.sync(&leases).map_err(StoreError::io(&leases))?;
        tell_steps(self.watcher.as_ref(), When::After, None, &record.state);
        Ok(LeaseFile { folder, log, record: record.clone(), watcher: self.watcher.clone(), _lock: lock })
    }

    /// Takes over a lease that nobody drives.
    ///
    /// # Errors
    /// [`StoreError::Driven`]; it is missing, damaged, or of a newer version.
    pub fn drive(&self, lease: LeaseId) -> Result<LeaseFile, StoreError> {
        let folder = self.lease_folder(lease);
        let lock = lock(&folder, lease)?;
        let (log, plan, state) = log::Log::open(&folder.join("record"))?;
        let record = LeaseRecord { plan, state };
        Ok(LeaseFile { folder, log, record, watcher: self.watcher.clone(), _lock: lock })
    }

    /// Removes leases that have been over for longer than `older_than_ms`, with their logs, as long as more than `keep`
    /// leases are there: the folder must not grow for ever. Gives how many were removed.
    ///
    /// # Errors
    /// The folder cannot be read.
    pub fn prune(&self, now: TimeMs, older_than_ms: u64, keep: usize) -> Result<usize, StoreError> {
        let all = self.leases()?;
        let mut old = Vec::new();
        for id in all.iter().take(if all.len() > keep { all.len() } else { 0 }) {
            if let Ok(record) = self.read(*id)
                && record.is_over()
                && now.since(record.plan.created_at) > older_than_ms
                && !self.is_driven(*id)?
            {
                old.push((record.plan.created_at, *id));
            }
        }
        old.sort_unstable();
        old.truncate(all.len().saturating_sub(keep));
        for (_, id) in &old {
            let folder = self.lease_folder(*id);
            fs::remove_dir_all(&folder).map_err(StoreError::io(&folder))?;
        }
        Ok(old.len())
    }

    /// Keeps a copy of a network, for whoever drives its leases later.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn keep_network(&self, network: &Network) -> Result<(), StoreError> {
        let path = self.network_path(&network.fingerprint());
        let same = Network::load(&path).is_ok_and(|kept| kept == *network);
        if same { Ok(()) } else { network.save(&path).map_err(StoreError::Network) }
    }

    /// A network that a lease belongs to.
    ///
    /// # Errors
    /// No copy was kept, or it is damaged.
    pub fn network(&self, fingerprint: &str) -> Result<Network, StoreError> {
        Network::load(&self.network_path(fingerprint)).map_err(StoreError::Network)
    }

    /// Where the claims of an array's tasks on output names are kept.
    #[must_use]
    pub fn claims_path(&self, job: &str) -> PathBuf {
        self.root.join("claims").join(job)
    }

    fn network_path(&self, fingerprint: &str) -> PathBuf {
        self.root.join("networks").join(format!("{fingerprint}.toml"))
    }
}

fn lock(folder: &Path, lease: LeaseId) -> Result<File, StoreError> {
    let path = folder.join("lock");
    take_lock(&path).map_err(StoreError::io(&path))?.map_err(|pid| StoreError::Driven { lease, pid })
}

/// Takes a lock file for this process; the inner error is the process that holds it, if it said so. The lock goes
/// with the file's last handle, so also with the process.
pub(crate) fn take_lock(path: &Path) -> io::Result<Result<File, Option<u32>>> {
    let mut file = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)?;
    match file.try_lock() {
        Ok(()) => {
            file.set_len(0)?;
            write!(file, "{}", std::process::id())?;
            Ok(Ok(file))
        }
        Err(TryLockError::WouldBlock) => {
            let held_by = durable::read_bounded(path, 32).ok();
            Ok(Err(held_by.and_then(|b| String::from_utf8(b).ok()).and_then(|t| t.trim().parse().ok())))
        }
        Err(TryLockError::Error(reason)) => Err(reason),
    }
}

/// The record of a lease that this process drives.
#[derive(Debug)]
pub struct LeaseFile {
    folder: PathBuf,
    log: log::Log,
    record: LeaseRecord,
    watcher: Option<Arc<dyn WatchSteps>>,
    _lock: File,
}

fn tell_steps(watcher: Option<&Arc<dyn WatchSteps>>, when: When, before: Option<&LeaseState>, after: &LeaseState) {
    let Some(watcher) = watcher else { return };
    let lease = &after.rented.lease;
    for step in steps(before.map(|state| &state.rented.lease), lease) {
        watcher.on_step(lease.id(), step, when);
    }
}

impl LeaseFile {
    /// What is written.
    #[must_use]
    pub const fn record(&self) -> &LeaseRecord {
        &self.record
    }

    /// The lease's folder.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Writes a new state down; durable when this returns.
    ///
    /// # Errors
    /// It cannot be written; what was written before stays.
    pub fn save(&mut self, state: LeaseState) -> Result<(), StoreError> {
        self.write(state, true)
    }

    /// Writes a state down that can be found out again: it outlives this process, but nobody waits for the disk.
    ///
    /// # Errors
    /// It cannot be written; what was written before stays.
    pub fn save_soon(&mut self, state: LeaseState) -> Result<(), StoreError> {
        self.write(state, false)
    }

    fn write(&mut self, state: LeaseState, wait: bool) -> Result<(), StoreError> {
        if state != self.record.state {
            tell_steps(self.watcher.as_ref(), When::Before, Some(&self.record.state), &state);
            self.log.append(&state, wait)?;
            let before = std::mem::replace(&mut self.record.state, state);
            tell_steps(self.watcher.as_ref(), When::After, Some(&before), &self.record.state);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
