//! Telling the Indexers that this Container lives, what is free, and what became of their leases.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use muster_core::demand::{Place, Region};
use muster_core::hardware::Capacity;
use muster_core::ids::{LeaseId, NodeId};
use muster_core::inference::TokenAsk;
use muster_core::packages::{PackageSetId, WARM_MAX};
use muster_core::pricing::Ask;
use muster_core::protocol::{ContainerReport, EndpointOffer, Heartbeat, LeaseReport, NodeAddr};
use muster_net::{Connection, FrameWriter, NetError, Peer, PeerAddr, StreamKind};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::board::Board;
use crate::streams::House;

/// Reports that may wait for an Indexer; it keeps a cache only, so the rest is left out.
const REPORTS: usize = 1_024;
/// Between two heartbeats at least: a burst of changes is told once.
const BEAT_GAP: Duration = Duration::from_millis(50);
/// What became of leases within this time is told at once: their ends in one message rather than each step in its own.
const REPORT_GAP: Duration = Duration::from_millis(50);
/// Pauses between tries to reach an Indexer.
const RETRY: Duration = Duration::from_millis(250);
const RETRY_MAX: Duration = Duration::from_secs(10);
/// How long a heartbeat may wait for an Indexer that does not read.
const SEND_WITHIN: Duration = Duration::from_secs(10);

/// What a heartbeat says beside what changes.
#[derive(Debug)]
pub(crate) struct Face {
    pub(crate) total: Capacity,
    pub(crate) ask: Ask,
    pub(crate) egress: bool,
    pub(crate) sessions: bool,
    pub(crate) region: Option<Region>,
    pub(crate) place: Option<Place>,
    /// Whether packages are fetched that are not there.
    pub(crate) fetches: bool,
    /// Sets of packages that are there.
    pub(crate) warm: watch::Receiver<Vec<PackageSetId>>,
    /// Weights that are there, where models are served.
    pub(crate) weights: Option<watch::Receiver<Vec<PackageSetId>>>,
    /// What is asked for a model's tokens, where models are served.
    pub(crate) models: Option<TokenAsk>,
    /// What the owner's own engines serve.
    pub(crate) endpoints: Vec<EndpointOffer>,
    /// Addresses told to others, if the owner names some.
    pub(crate) announce: Vec<std::net::SocketAddr>,
}

#[derive(Debug)]
struct Line {
    addr: PeerAddr,
    reports: mpsc::Sender<LeaseReport>,
    connected: watch::Sender<bool>,
}

/// The lines to all Indexers.
#[derive(Debug)]
pub(crate) struct Presence {
    face: Face,
    board: Arc<Board>,
    lines: BTreeMap<NodeId, Line>,
    /// Grows when a heartbeat is due at once.
    beats: watch::Sender<u64>,
    seq: AtomicU64,
    every: Duration,
}

/// The receiving ends of the lines, for the tasks that run them.
pub(crate) type Pending = Vec<(NodeId, mpsc::Receiver<LeaseReport>)>;

/// Reports on their way to one Indexer. Only the newest of each lease is told, many at a time.
#[derive(Debug)]
struct Reports {
    queue: mpsc::Receiver<LeaseReport>,
    untold: BTreeMap<LeaseId, LeaseReport>,
    /// When those that wait are told.
    due: Option<Instant>,
}

impl Reports {
    fn new(queue: mpsc::Receiver<LeaseReport>) -> Self {
        Self { queue, untold: BTreeMap::new(), due: None }
    }

    /// Waits until some are due; may be cancelled. Never comes back when there will be no more.
    async fn due(&mut self) {
        loop {
            let soon = self.untold.len() < REPORTS;
            let due = self.due.unwrap_or_else(|| Instant::now() + REPORT_GAP);
            tokio::select! {
                report = self.queue.recv(), if soon => match report {
                    Some(report) => {
                        self.untold.insert(report.lease, report);
                        self.due = Some(due);
                    }
                    None if self.untold.is_empty() => std::future::pending().await,
                    None => return tokio::time::sleep_until(due).await,
                },
                () = tokio::time::sleep_until(due), if self.due.is_some() => return,
                // As many as may wait are told at once.
                () = std::future::ready(()), if !soon => return,
            }
        }
    }

    async fn tell(&mut self, writer: &mut FrameWriter) -> Result<(), NetError> {
        self.due = None;
        while let Some((lease, report)) = self.untold.first_key_value() {
            let lease = *lease;
            writer.send_within(&ContainerReport::Lease(report.clone()), SEND_WITHIN).await?;
            self.untold.remove(&lease);
        }
        Ok(())
    }
}

impl Presence {
    /// Lines to `indexers`; `seq` is the first heartbeat's number.
    pub(crate) fn new(
        face: Face,
        board: Arc<Board>,
        indexers: Vec<PeerAddr>,
        every: Duration,
        seq: u64,
    ) -> (Arc<Self>, Pending) {
        let (mut lines, mut pending) = (BTreeMap::new(), Vec::new());
        for addr in indexers {
            let (reports, receiver) = mpsc::channel(REPORTS);
            pending.push((addr.id, receiver));
            lines.insert(addr.id, Line { addr, reports, connected: watch::Sender::new(false) });
        }
        let (beats, seq) = (watch::Sender::new(0), AtomicU64::new(seq));
        (Arc::new(Self { face, board, lines, beats, seq, every }), pending)
    }

    /// A heartbeat is due at once.
    pub(crate) fn beat(&self) {
        self.beats.send_modify(|count| *count = count.wrapping_add(1));
    }

    /// Tells an Indexer what became of a lease, if there is a line to it.
    pub(crate) fn report(&self, indexer: NodeId, report: LeaseReport) {
        if let Some(line) = self.lines.get(&indexer)
            && line.reports.try_send(report).is_err()
        {
            metrics::counter!("muster_container_reports_left_out_total").increment(1);
        }
    }

    /// Each Indexer and whether there is a line to it now.
    pub(crate) fn indexers(&self) -> Vec<(NodeId, bool)> {
        self.lines.iter().map(|(id, line)| (*id, *line.connected.borrow())).collect()
    }

    /// Keeps one line up until told to stop.
    pub(crate) async fn run(
        self: Arc<Self>,
        id: NodeId,
        reports: mpsc::Receiver<LeaseReport>,
        peer: Peer,
        house: Arc<House>,
        stop: CancellationToken,
    ) {
        let Some(line) = self.lines.get(&id) else { return };
        let (mut reports, mut pause) = (Reports::new(reports), RETRY);
        loop {
            let lost = tokio::select! {
                lost = self.hold(line, &mut reports, &peer, &house, &mut pause) => lost,
                () = stop.cancelled() => return,
            };
            if line.connected.send_replace(false) {
                warn!(indexer = %id.short(), why = %lost, "lost an Indexer; dialling again");
                self.show_connected();
            } else {
                debug!(indexer = %id.short(), why = %lost, "an Indexer cannot be reached");
            }
            let jitter = Duration::from_millis(rand::random_range(0..=250));
            tokio::select! {
                () = tokio::time::sleep(pause + jitter) => {}
                () = stop.cancelled() => return,
            }
            pause = pause.saturating_mul(2).min(RETRY_MAX);
        }
    }

    /// Dials, and talks until the line is lost. Gives the reason.
    async fn hold(
        &self,
        line: &Line,
        reports: &mut Reports,
        peer: &Peer,
        house: &Arc<House>,
        pause: &mut Duration,
    ) -> NetError {
        let talk = async {
            let connection = peer.connect(&line.addr).await?;
            let stream = connection.open_bi(StreamKind::Presence).await?;
            let (_, mut writer) = stream.framed().split();
            // Its offers come on this connection.
            let serving = house.tasks.spawn(Arc::clone(house).serve(connection.clone()));
            let _serving = AbortOnDrop(serving.abort_handle());
            self.talk(line, reports, peer, &connection, &mut writer, pause).await
        };
        match talk.await {
            Ok(never) => match never {},
            Err(error) => error,
        }
    }

    async fn talk(
        &self,
        line: &Line,
        reports: &mut Reports,
        peer: &Peer,
        connection: &Connection,
        writer: &mut FrameWriter,
        pause: &mut Duration,
    ) -> Result<std::convert::Infallible, NetError> {
        let mut beats = self.beats.subscribe();
        let mut summary = self.board.watch();
        let mut warm = self.face.warm.clone();
        loop {
            beats.mark_unchanged();
            summary.mark_unchanged();
            warm.mark_unchanged();
            writer.send_within(&ContainerReport::Heartbeat(Box::new(self.heartbeat(peer))), SEND_WITHIN).await?;
            if !line.connected.send_replace(true) {
                info!(indexer = %line.addr.id.short(), "connected to an Indexer");
                self.show_connected();
                *pause = RETRY;
            }
            let due = Instant::now() + self.every;
            let not_before = Instant::now() + BEAT_GAP;
            loop {
                tokio::select! {
                    () = tokio::time::sleep_until(due) => break,
                    reason = connection.closed() => {
                        return Err(NetError::Lost { id: line.addr.id, reason });
                    }
                    () = reports.due() => reports.tell(writer).await?,
                    _ = beats.changed() => {
                        tokio::time::sleep_until(not_before).await;
                        break;
                    }
                    _ = summary.changed() => {
                        tokio::time::sleep_until(not_before).await;
                        break;
                    }
                    Ok(()) = warm.changed() => {
                        tokio::time::sleep_until(not_before).await;
                        break;
                    }
                }
            }
        }
    }

    fn heartbeat(&self, peer: &Peer) -> Heartbeat {
        let now = self.board.summary();
        Heartbeat {
            seq: self.seq.fetch_add(1, Ordering::Relaxed),
            addr: self.addr(peer),
            total: self.face.total.clone(),
            free: now.free,
            ask: self.face.ask,
            // One that may not work offers none: nobody's demand is sent to it in vain.
            draining: now.draining || now.problem.is_some(),
            egress: self.face.egress,
            sessions: self.face.sessions,
            region: self.face.region.clone(),
            place: self.face.place,
            leases: u32::try_from(now.busy).unwrap_or(u32::MAX),
            fetches: self.face.fetches,
            warm: self.warm(),
            models: self.face.models,
            endpoints: self.face.endpoints.clone(),
        }
    }

    /// What is there already: of weights and packages as many as can be told, in turn.
    fn warm(&self) -> Vec<PackageSetId> {
        let weights = self.face.weights.as_ref().map(|weights| weights.borrow().clone()).unwrap_or_default();
        let packages = self.face.warm.borrow().clone();
        let half = WARM_MAX / 2;
        let first = weights.len().min(half.max(WARM_MAX.saturating_sub(packages.len())));
        weights.into_iter().take(first).chain(packages).take(WARM_MAX).collect()
    }

    /// Where this Container is dialled.
    pub(crate) fn addr(&self, peer: &Peer) -> NodeAddr {
        let found = peer.addr();
        let direct = if self.face.announce.is_empty() {
            found.direct.into_iter().filter(|addr| addr.port() != 0 && !addr.ip().is_unspecified()).collect()
        } else {
            self.face.announce.clone()
        };
        let direct: Vec<_> = direct.into_iter().take(muster_wire::addr::DIRECT_MAX).collect();
        NodeAddr { id: peer.id(), direct, relay: found.relay.map(|url| url.to_string()) }
    }

    fn show_connected(&self) {
        let count = self.lines.values().filter(|line| *line.connected.borrow()).count();
        metrics::gauge!("muster_container_indexers").set(f64::from(u32::try_from(count).unwrap_or(u32::MAX)));
    }
}

/// A task that ends with its owner.
struct AbortOnDrop(tokio::task::AbortHandle);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}
