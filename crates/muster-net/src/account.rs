//! What is known of each peer: its rates, its connections, its bans. One [`Account`] a key, all in one [`Book`].

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use muster_core::ids::NodeId;
use tokio::time::Instant;
use tracing::{debug, info};

use crate::connection::Connection;
use crate::limits::Bucket;
use crate::stats::Stats;
use crate::{CloseCode, CutReason, Limits, NetError};

/// Peers that are remembered without being connected: their rates and bans.
const REMEMBERED_MAX: usize = 8_192;

/// A panic while one of these locks is held leaves counts that are at worst stale; nobody else should fail for it.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[derive(Debug, Default)]
struct State {
    frames: Bucket,
    data_frames: Bucket,
    streams: Bucket,
    connections: Bucket,
    /// Oldest first.
    open: Vec<Connection>,
    cuts: u32,
    last_cut: Option<Instant>,
    banned_until: Option<Instant>,
}

impl State {
    fn ban_left(&self, now: Instant) -> Option<Duration> {
        self.banned_until.map(|until| until.saturating_duration_since(now)).filter(|left| !left.is_zero())
    }
}

/// One peer, by its key.
#[derive(Debug)]
pub(crate) struct Account {
    id: NodeId,
    limits: Arc<Limits>,
    stats: Arc<Stats>,
    state: Mutex<State>,
    /// Held while dialing, so that two who want the same peer share one connection.
    pub(crate) dialing: tokio::sync::Mutex<()>,
}

impl Account {
    pub(crate) fn new(id: NodeId, limits: Arc<Limits>, stats: Arc<Stats>) -> Self {
        Self { id, limits, stats, state: Mutex::default(), dialing: tokio::sync::Mutex::default() }
    }

    pub(crate) fn id(&self) -> NodeId {
        self.id
    }

    pub(crate) fn limits(&self) -> &Limits {
        &self.limits
    }

    pub(crate) fn stats(&self) -> &Stats {
        &self.stats
    }

    /// # Errors
    /// The peer is banned.
    pub(crate) fn check_ban(&self, now: Instant) -> Result<(), NetError> {
        match lock(&self.state).ban_left(now) {
            Some(left) => Err(NetError::Banned { id: self.id, left }),
            None => Ok(()),
        }
    }

    /// Counts a frame.
    ///
    /// # Errors
    /// It was one too many, and the peer is cut off.
    pub(crate) fn frame(&self, now: Instant) -> Result<(), NetError> {
        self.stats.frames_in.add_one();
        let fits = lock(&self.state).frames.take(self.limits.frames, now);
        if fits { Ok(()) } else { Err(self.flood(CutReason::FrameFlood, now)) }
    }

    /// Counts a frame of a job's data, or says how long it must wait to be counted.
    pub(crate) fn data_frame(&self, now: Instant) -> Result<(), Duration> {
        let mut state = lock(&self.state);
        if state.data_frames.take(self.limits.data_frames, now) {
            self.stats.frames_in.add_one();
            Ok(())
        } else {
            Err(state.data_frames.wait(self.limits.data_frames, now))
        }
    }

    /// Counts a new stream of the peer's.
    ///
    /// # Errors
    /// It was one too many, and the peer is cut off.
    pub(crate) fn stream(&self, now: Instant) -> Result<(), NetError> {
        let fits = lock(&self.state).streams.take(self.limits.streams, now);
        if fits { Ok(()) } else { Err(self.flood(CutReason::StreamFlood, now)) }
    }

    /// Counts a new connection of the peer's.
    ///
    /// # Errors
    /// It is banned already, or this was one too many and it is cut off now.
    pub(crate) fn incoming(&self, now: Instant) -> Result<(), NetError> {
        let mut state = lock(&self.state);
        if let Some(left) = state.ban_left(now) {
            return Err(NetError::Banned { id: self.id, left });
        }
        let fits = state.connections.take(self.limits.connections, now);
        drop(state);
        if fits { Ok(()) } else { Err(self.flood(CutReason::ConnectionFlood, now)) }
    }

    fn flood(&self, reason: CutReason, now: Instant) -> NetError {
        let rate = match reason {
            CutReason::FrameFlood => self.limits.frames,
            CutReason::StreamFlood => self.limits.streams,
            CutReason::ConnectionFlood => self.limits.connections,
            // Not floods: they have no rate.
            CutReason::Garbage | CutReason::Stall => return self.cut(reason, "", now),
        };
        let detail = format!("more than {} a second, {} at once", rate.per_second, rate.burst);
        self.cut(reason, &detail, now)
    }

    /// Closes all connections to the peer, bans it for a while, counts it, and gives the error that says so.
    pub(crate) fn cut(&self, reason: CutReason, detail: &str, now: Instant) -> NetError {
        let (open, ban) = {
            let mut state = lock(&self.state);
            if state.ban_left(now).is_none() {
                let forgotten = state.last_cut.is_none_or(|last| now.duration_since(last) > self.limits.ban_max);
                state.cuts = if forgotten { 1 } else { state.cuts.saturating_add(1) };
                state.last_cut = Some(now);
                let doublings = state.cuts.saturating_sub(1).min(16);
                let ban = self.limits.ban.saturating_mul(1 << doublings).min(self.limits.ban_max);
                state.banned_until = Some(now + ban);
                self.stats.cut(reason);
            }
            (state.open.clone(), state.ban_left(now).unwrap_or_default())
        };
        info!(peer = %self.id.short(), reason = reason.label(), detail, ban_s = ban.as_secs(), "peer cut off");
        for connection in open {
            connection.close_with(CloseCode::Cut, &format!("cut off: {reason} ({detail})"));
        }
        NetError::Cut { id: self.id, reason, detail: detail.to_owned() }
    }

    /// Bans the peer without a protocol's reason (an operator's or a role's decision).
    pub(crate) fn ban(&self, length: Duration, why: &str, now: Instant) {
        let open = {
            let mut state = lock(&self.state);
            state.banned_until = Some(now + length);
            state.open.clone()
        };
        for connection in open {
            connection.close_with(CloseCode::Banned, why);
        }
    }

    /// The newest connection that is still open: after a peer's restart the older ones only look alive.
    pub(crate) fn live(&self) -> Option<Connection> {
        lock(&self.state).open.iter().rev().find(|connection| connection.close_reason().is_none()).cloned()
    }

    /// Keeps a connection until it closes.
    ///
    /// # Errors
    /// The peer has enough connections, or is new and this node has enough peers.
    pub(crate) fn opened(&self, connection: Connection) -> Result<(), NetError> {
        let mut state = lock(&self.state);
        let max = self.limits.connections_per_peer_max;
        if state.open.len() >= max {
            return Err(NetError::TooManyConnections { id: self.id, max });
        }
        if state.open.is_empty() {
            let max = self.limits.peers_max;
            if self.stats.peers() >= u64::try_from(max).unwrap_or(u64::MAX) {
                return Err(NetError::TooManyPeers { max });
            }
            self.stats.peer_came();
        }
        self.stats.connections.add_one();
        state.open.push(connection);
        Ok(())
    }

    /// Forgets a connection that has closed.
    pub(crate) fn closed(&self, connection: &Connection) {
        let mut state = lock(&self.state);
        let before = state.open.len();
        state.open.retain(|other| !other.is_same(connection));
        if before > 0 && state.open.is_empty() {
            self.stats.peer_went();
        }
    }

    pub(crate) fn open(&self) -> Vec<Connection> {
        lock(&self.state).open.clone()
    }

    /// Whether nothing would be lost by forgetting the peer.
    fn is_blank(&self, now: Instant) -> bool {
        let state = lock(&self.state);
        state.open.is_empty()
            && state.ban_left(now).is_none()
            && state.connections.is_full(now)
            && state.last_cut.is_none_or(|last| now.duration_since(last) > self.limits.ban_max)
    }

    /// Whether nothing is open to the peer.
    fn is_idle(&self) -> bool {
        lock(&self.state).open.is_empty()
    }
}

/// All peers.
#[derive(Debug)]
pub(crate) struct Book {
    limits: Arc<Limits>,
    stats: Arc<Stats>,
    accounts: Mutex<HashMap<NodeId, Arc<Account>>>,
}

impl Book {
    pub(crate) fn new(limits: Arc<Limits>, stats: Arc<Stats>) -> Self {
        Self { limits, stats, accounts: Mutex::default() }
    }

    pub(crate) fn get(&self, id: NodeId) -> Option<Arc<Account>> {
        lock(&self.accounts).get(&id).cloned()
    }

    /// The peer's account, opened if need be. The book is bounded: when it is full, blank accounts go first, then those
    /// of peers that are not connected, bans included (keys are cheap, so a ban binds only who cannot make new ones).
    pub(crate) fn open(&self, id: NodeId, now: Instant) -> Arc<Account> {
        let mut accounts = lock(&self.accounts);
        if let Some(account) = accounts.get(&id) {
            return Arc::clone(account);
        }
        let max = self.limits.peers_max.saturating_add(REMEMBERED_MAX);
        if accounts.len() >= max {
            accounts.retain(|_, account| Arc::strong_count(account) > 1 || !account.is_blank(now));
        }
        if accounts.len() >= max {
            accounts.retain(|_, account| Arc::strong_count(account) > 1 || !account.is_idle());
            debug!(left = accounts.len(), "forgot peers that are not connected");
        }
        let account = Arc::new(Account::new(id, Arc::clone(&self.limits), Arc::clone(&self.stats)));
        accounts.insert(id, Arc::clone(&account));
        account
    }

    pub(crate) fn all(&self) -> Vec<Arc<Account>> {
        lock(&self.accounts).values().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Rate;

    fn book(limits: Limits) -> Book {
        Book::new(Arc::new(limits), Arc::new(Stats::new()))
    }

    fn limits() -> Limits {
        Limits {
            frames: Rate::new(1, 2),
            ban: Duration::from_secs(10),
            ban_max: Duration::from_secs(25),
            ..Limits::bulk()
        }
    }

    #[test]
    fn bans_grow_end_and_are_forgotten() {
        let (book, start) = (book(limits()), Instant::now());
        let account = book.open(NodeId([1; 32]), start);
        let mut now = start;
        for length in [10, 20, 25, 25] {
            assert!(account.check_ban(now).is_ok());
            assert!(matches!(account.cut(CutReason::Garbage, "x", now), NetError::Cut { .. }));
            // A second offence of the same instant (another stream) is not a second ban.
            account.cut(CutReason::Garbage, "x", now);
            assert!(account.check_ban(now + Duration::from_secs(length - 1)).is_err(), "ban of {length} s");
            now += Duration::from_secs(length);
        }
        now += Duration::from_secs(26);
        account.cut(CutReason::Garbage, "x", now);
        assert!(account.check_ban(now + Duration::from_secs(10)).is_ok());
        assert_eq!(book.stats.snapshot().cut_for(CutReason::Garbage), 5);
    }

    #[test]
    fn a_flood_is_cut_off() {
        let (book, now) = (book(limits()), Instant::now());
        let account = book.open(NodeId([1; 32]), now);
        assert!(account.frame(now).is_ok() && account.frame(now).is_ok());
        let error = account.frame(now).unwrap_err().to_string();
        assert_eq!(error, "node 01010101 was cut off: it sent too many frames (more than 1 a second, 2 at once)");
        assert!(account.incoming(now).is_err());
        assert!(book.open(NodeId([2; 32]), now).frame(now).is_ok());
    }

    #[test]
    fn the_book_is_bounded() {
        let (book, now) = (book(Limits { peers_max: 0, ..limits() }), Instant::now());
        for i in 0..u32::try_from(REMEMBERED_MAX * 2).unwrap() {
            let mut id = [0; 32];
            id[..4].copy_from_slice(&i.to_le_bytes());
            book.open(NodeId(id), now).cut(CutReason::Garbage, "x", now);
        }
        assert!(book.all().len() <= REMEMBERED_MAX);
    }
}
