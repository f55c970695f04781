//! Control streams of consumers that have proved who they are: the newest of each lease counts.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use muster_core::ids::LeaseId;
use muster_core::protocol::ToConsumer;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::debug;

/// Messages that may wait for a consumer; one that reads slower is cut off and may come back.
const OUTBOX: usize = 64;

#[derive(Debug)]
struct Session {
    lease: LeaseId,
    outbox: mpsc::Sender<ToConsumer>,
    cut: CancellationToken,
}

#[derive(Debug, Default)]
struct Table {
    next: u64,
    sessions: HashMap<u64, Session>,
    newest: HashMap<LeaseId, u64>,
}

/// All sessions. Clones share them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sessions {
    table: Arc<Mutex<Table>>,
}

/// One side of a session: what the stream's task holds. Dropping it ends the session.
#[derive(Debug)]
pub(crate) struct Seat {
    sessions: Sessions,
    pub(crate) id: u64,
    pub(crate) inbox: mpsc::Receiver<ToConsumer>,
    pub(crate) cut: CancellationToken,
}

impl Sessions {
    fn lock(&self) -> MutexGuard<'_, Table> {
        // Both maps are changed together under one lock and nothing in between can panic.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A new session of a lease; an older one is cut.
    pub(crate) fn open(&self, lease: LeaseId) -> Seat {
        let (outbox, inbox) = mpsc::channel(OUTBOX);
        let cut = CancellationToken::new();
        let mut table = self.lock();
        table.next += 1;
        let id = table.next;
        if let Some(older) = table.newest.insert(lease, id).and_then(|older| table.sessions.remove(&older)) {
            older.cut.cancel();
        }
        table.sessions.insert(id, Session { lease, outbox, cut: cut.clone() });
        Seat { sessions: self.clone(), id, inbox, cut }
    }

    /// Sends a message to a session, if it is still there.
    pub(crate) fn tell(&self, id: u64, message: ToConsumer) {
        let table = self.lock();
        let Some(session) = table.sessions.get(&id) else { return };
        if session.outbox.try_send(message).is_err() {
            debug!(lease = %session.lease, "a consumer does not read; cut off");
            session.cut.cancel();
        }
    }

    /// Cuts whatever session a lease has.
    pub(crate) fn cut(&self, lease: LeaseId) {
        let table = self.lock();
        if let Some(session) = table.newest.get(&lease).and_then(|id| table.sessions.get(id)) {
            session.cut.cancel();
        }
    }

    /// How many consumers are attached.
    pub(crate) fn count(&self) -> usize {
        self.lock().sessions.len()
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut table = self.sessions.lock();
        if let Some(session) = table.sessions.remove(&self.id)
            && table.newest.get(&session.lease) == Some(&self.id)
        {
            table.newest.remove(&session.lease);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEASE: LeaseId = LeaseId([1; 32]);

    #[test]
    fn the_newest_session_counts() {
        let sessions = Sessions::default();
        let old = sessions.open(LEASE);
        let mut new = sessions.open(LEASE);
        assert!(old.cut.is_cancelled() && !new.cut.is_cancelled());
        sessions.tell(old.id, ToConsumer::Pong);
        sessions.tell(new.id, ToConsumer::Open);
        assert_eq!(new.inbox.try_recv().ok(), Some(ToConsumer::Open));
        // The end of the old one does not take the new one's place.
        drop(old);
        sessions.cut(LEASE);
        assert!(new.cut.is_cancelled());
        drop(new);
        assert_eq!(sessions.count(), 0);
        assert!(sessions.lock().newest.is_empty());
    }

    #[test]
    fn a_consumer_that_does_not_read_is_cut() {
        let sessions = Sessions::default();
        let seat = sessions.open(LEASE);
        for _ in 0..OUTBOX {
            sessions.tell(seat.id, ToConsumer::Pong);
        }
        assert!(!seat.cut.is_cancelled());
        sessions.tell(seat.id, ToConsumer::Pong);
        assert!(seat.cut.is_cancelled());
    }
}
