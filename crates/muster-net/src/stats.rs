//! What a peer has seen, counted: for `/metrics` and for tests.

use std::sync::atomic::{AtomicU64, Ordering};

use metrics::{Counter, Gauge};

use crate::CutReason;

/// Counters of one [`Peer`](crate::Peer) since it was bound.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct NetStats {
    /// Peers with an open connection now.
    pub peers: u64,
    /// Connections opened, by either side.
    pub connections: u64,
    /// Connections turned down: banned, too many, too fast.
    pub refused: u64,
    /// Frames taken.
    pub frames_in: u64,
    /// Frames sent.
    pub frames_out: u64,
    /// Streams whose protocol this build does not speak.
    pub unknown_streams: u64,
    /// Peers cut off, in the order of [`CutReason::ALL`].
    pub cuts: [u64; CutReason::ALL.len()],
}

impl NetStats {
    /// Peers cut off for one reason.
    #[must_use]
    pub fn cut_for(&self, reason: CutReason) -> u64 {
        self.cuts.get(reason.index()).copied().unwrap_or(0)
    }
}

/// One figure, kept for [`NetStats`] and told to the process's recorder.
#[derive(Debug)]
pub(crate) struct Tally {
    count: AtomicU64,
    metric: Counter,
}

impl Tally {
    fn new(metric: Counter) -> Self {
        Self { count: AtomicU64::new(0), metric }
    }

    pub(crate) fn add_one(&self) {
        self.count.fetch_add(1, Ordering::Relaxed);
        self.metric.increment(1);
    }

    fn get(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }
}

#[derive(Debug)]
pub(crate) struct Stats {
    peers: AtomicU64,
    peers_metric: Gauge,
    pub(crate) connections: Tally,
    pub(crate) refused: Tally,
    pub(crate) frames_in: Tally,
    pub(crate) frames_out: Tally,
    pub(crate) unknown_streams: Tally,
    cuts: [Tally; CutReason::ALL.len()],
}

impl Stats {
    pub(crate) fn new() -> Self {
        Self {
            peers: AtomicU64::new(0),
            peers_metric: metrics::gauge!("net_peers"),
            connections: Tally::new(metrics::counter!("net_connections_total")),
            refused: Tally::new(metrics::counter!("net_connections_refused_total")),
            frames_in: Tally::new(metrics::counter!("net_frames_received_total")),
            frames_out: Tally::new(metrics::counter!("net_frames_sent_total")),
            unknown_streams: Tally::new(metrics::counter!("net_unknown_streams_total")),
            cuts: CutReason::ALL
                .map(|reason| Tally::new(metrics::counter!("net_peers_cut_total", "reason" => reason.label()))),
        }
    }

    pub(crate) fn cut(&self, reason: CutReason) {
        if let Some(tally) = self.cuts.get(reason.index()) {
            tally.add_one();
        }
    }

    pub(crate) fn peer_came(&self) {
        self.peers.fetch_add(1, Ordering::Relaxed);
        self.peers_metric.increment(1.0);
    }

    pub(crate) fn peer_went(&self) {
        self.peers.fetch_sub(1, Ordering::Relaxed);
        self.peers_metric.decrement(1.0);
    }

    pub(crate) fn peers(&self) -> u64 {
        self.peers.load(Ordering::Relaxed)
    }

    pub(crate) fn snapshot(&self) -> NetStats {
        NetStats {
            peers: self.peers(),
            connections: self.connections.get(),
            refused: self.refused.get(),
            frames_in: self.frames_in.get(),
            frames_out: self.frames_out.get(),
            unknown_streams: self.unknown_streams.get(),
            cuts: core::array::from_fn(|i| self.cuts.get(i).map_or(0, Tally::get)),
        }
    }
}
