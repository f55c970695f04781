//! What others open on a Container: offers by Indexers, leases, jobs and files by consumers, proofs by Checkers.

mod audit;
mod files;
mod inference;
mod job;
mod lease;
mod offer;
mod session;
mod weights;

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use muster_core::epoch::EpochParams;
use muster_core::ids::{LeaseId, NodeId};
use muster_net::{Connection, NetError, NodeSecret, Peer, Stream, StreamKind};
use tokio::sync::{Semaphore, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, warn};

pub(crate) use self::weights::GIVEN_MAX;
use crate::audit::{Gate, Provers};
use crate::board::Board;
use crate::brain::BrainHandle;
use crate::clock::Clock;
use crate::desk::Desk;
use crate::jobs::Jobs;
use crate::sessions::Sessions;

/// A consumer proves itself within this time, on a new control stream.
const PROOF_WITHIN: Duration = Duration::from_secs(5);
/// A stream that needs a proof waits for it so long.
const PROOF_ON_ITS_WAY: Duration = Duration::from_secs(2);
/// A connection on which nobody has proved anything is closed after this time.
const NOBODY_FOR: Duration = Duration::from_secs(30);
/// False proofs on one connection until it is cut off.
const FALSE_PROOFS_MAX: u32 = 5;
/// Leases that one connection may prove.
const PROVEN_MAX: usize = 65_536;
/// How long a message may wait for a peer that does not read.
const SEND_WITHIN: Duration = Duration::from_secs(10);

/// What all streams share.
#[derive(Debug)]
pub(crate) struct House {
    pub(crate) node: NodeId,
    pub(crate) secret: NodeSecret,
    pub(crate) indexers: BTreeSet<NodeId>,
    pub(crate) brain: BrainHandle,
    pub(crate) board: Arc<Board>,
    pub(crate) jobs: Jobs,
    pub(crate) sessions: Sessions,
    pub(crate) desk: Desk,
    pub(crate) gate: Gate,
    pub(crate) provers: Arc<dyn Provers>,
    pub(crate) epochs: EpochParams,
    pub(crate) clock: Clock,
    /// Turns at giving weights to other Containers.
    pub(crate) giving: Arc<Semaphore>,
    /// Every task of a stream, so that the end can wait for them.
    pub(crate) tasks: TaskTracker,
    pub(crate) stop: CancellationToken,
}

/// One connection and what its peer has proved on it.
#[derive(Debug)]
struct Guest {
    connection: Connection,
    proven: watch::Sender<HashSet<LeaseId>>,
    false_proofs: AtomicU32,
    checker: AtomicBool,
    neighbour: AtomicBool,
}

impl Guest {
    /// Whether the peer has proved a lease on this connection. A proof that is still on its way is waited for: streams
    /// that were opened one after the other may arrive in another order.
    async fn has_proven(&self, lease: LeaseId) -> bool {
        let mut proven = self.proven.subscribe();
        let known = proven.wait_for(|known| known.contains(&lease));
        matches!(tokio::time::timeout(PROOF_ON_ITS_WAY, known).await, Ok(Ok(_)))
    }

    fn has_proven_anything(&self) -> bool {
        let known = self.checker.load(Ordering::Relaxed) || self.neighbour.load(Ordering::Relaxed);
        known || !self.proven.borrow().is_empty()
    }

    /// It is a Checker in good standing: it needs no lease.
    fn is_checker(&self) {
        self.checker.store(true, Ordering::Relaxed);
    }

    /// It is given weights, which needs no lease.
    fn is_neighbour(&self) {
        self.neighbour.store(true, Ordering::Relaxed);
    }

    fn prove(&self, lease: LeaseId) {
        self.proven.send_if_modified(|proven| proven.len() < PROVEN_MAX && proven.insert(lease));
    }

    /// Counts a false proof; cuts the peer off when there are too many.
    fn refuse_proof(&self) {
        metrics::counter!("muster_container_false_proofs_total").increment(1);
        if self.false_proofs.fetch_add(1, Ordering::Relaxed) + 1 >= FALSE_PROOFS_MAX {
            drop(self.connection.cut("it claims leases that are not its own"));
        }
    }
}

impl House {
    /// Takes connections that others dial, until told to stop.
    pub(crate) async fn accept(self: Arc<Self>, peer: Peer) {
        loop {
            let connection = tokio::select! {
                accepted = peer.accept() => match accepted {
                    Ok(connection) => connection,
                    Err(error) => {
                        debug!(%error, "no more connections are taken");
                        return;
                    }
                },
                () = self.stop.cancelled() => return,
            };
            self.tasks.spawn(Arc::clone(&self).serve(connection));
        }
    }

    /// Takes the streams of one connection until it is lost.
    pub(crate) async fn serve(self: Arc<Self>, connection: Connection) {
        let guest = Arc::new(Guest {
            connection,
            proven: watch::Sender::default(),
            false_proofs: AtomicU32::new(0),
            checker: AtomicBool::new(false),
            neighbour: AtomicBool::new(false),
        });
        let known = self.indexers.contains(&guest.connection.remote_id());
        let nobody = tokio::time::sleep(NOBODY_FOR);
        tokio::pin!(nobody);
        let mut watched = !known;
        loop {
            let stream = tokio::select! {
                stream = guest.connection.accept_bi() => stream,
                () = &mut nobody, if watched => {
                    if !guest.has_proven_anything() {
                        guest.connection.close("nothing was proved on this connection");
                        return;
                    }
                    watched = false;
                    continue;
                }
                () = self.stop.cancelled() => return,
            };
            match stream {
                Ok(stream) => {
                    let (house, guest) = (Arc::clone(&self), Arc::clone(&guest));
                    self.tasks.spawn(async move {
                        let stop = house.stop.clone();
                        tokio::select! {
                            () = house.take(guest, stream) => {}
                            () = stop.cancelled() => {}
                        }
                    });
                }
                Err(error) => {
                    debug!(peer = %guest.connection.remote_id().short(), %error, "connection over");
                    return;
                }
            }
        }
    }

    async fn take(self: Arc<Self>, guest: Arc<Guest>, stream: Stream) {
        let (kind, peer) = (stream.kind(), stream.remote_id());
        let outcome = match kind {
            StreamKind::Offer => self.offer(&guest, stream).await,
            StreamKind::Lease => self.lease(&guest, stream).await,
            StreamKind::Job => self.job(&guest, stream).await,
            StreamKind::Files => self.files(&guest, stream).await,
            StreamKind::Session => self.session(&guest, stream).await,
            StreamKind::Inference => self.inference(&guest, stream).await,
            StreamKind::Weights => self.weights(&guest, stream).await,
            StreamKind::Audit => self.audit(&guest, stream).await,
            StreamKind::Liveness => self.liveness(&guest, stream).await,
            StreamKind::Echo => echo(stream).await,
            _ => {
                warn!(peer = %peer.short(), ?kind, "a stream that no Container serves");
                Ok(())
            }
        };
        if let Err(error) = outcome {
            debug!(peer = %peer.short(), ?kind, %error, "stream over");
        }
    }
}

/// Sends back what comes: for latency and for tests.
async fn echo(stream: Stream) -> Result<(), NetError> {
    let (mut recv, mut send) = stream.split();
    tokio::io::copy(&mut recv, &mut send).await?;
    send.finish()
}
