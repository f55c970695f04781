//! What the brain has made durable, for everybody in this process to read.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

use muster_core::brain::container::Held;
use muster_core::hardware::Free;
use muster_core::ids::LeaseId;
use tokio::sync::watch;

/// What a heartbeat and a status say beside the leases themselves.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Summary {
    pub(crate) free: Free,
    pub(crate) draining: bool,
    pub(crate) problem: Option<String>,
    /// Leases that hold capacity.
    pub(crate) busy: usize,
}

/// The leases as last written down, and the summary. The brain writes, everybody reads.
#[derive(Debug)]
pub(crate) struct Board {
    leases: RwLock<HashMap<LeaseId, Arc<Held>>>,
    summary: watch::Sender<Summary>,
}

impl Board {
    pub(crate) fn new() -> Self {
        Self { leases: RwLock::default(), summary: watch::Sender::new(Summary::default()) }
    }

    /// A lease's record.
    pub(crate) fn lease(&self, id: LeaseId) -> Option<Arc<Held>> {
        self.leases.read().unwrap_or_else(PoisonError::into_inner).get(&id).cloned()
    }

    /// All records, by name.
    pub(crate) fn leases(&self) -> Vec<Arc<Held>> {
        let mut all: Vec<_> = self.leases.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect();
        all.sort_unstable_by_key(|held| held.lease.id());
        all
    }

    pub(crate) fn put(&self, changed: impl IntoIterator<Item = Arc<Held>>, gone: &[LeaseId]) {
        let mut leases = self.leases.write().unwrap_or_else(PoisonError::into_inner);
        for held in changed {
            leases.insert(held.lease.id(), held);
        }
        for id in gone {
            leases.remove(id);
        }
    }

    pub(crate) fn summary(&self) -> Summary {
        self.summary.borrow().clone()
    }

    pub(crate) fn watch(&self) -> watch::Receiver<Summary> {
        self.summary.subscribe()
    }

    pub(crate) fn set_summary(&self, now: Summary) {
        self.summary.send_if_modified(|known| {
            let changed = *known != now;
            *known = now;
            changed
        });
    }
}
