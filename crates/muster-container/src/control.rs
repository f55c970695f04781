//! What the owner asks of a running Container.

use std::sync::Arc;
use std::time::Duration;

use muster_core::brain::container::{Event, Held, StopBy};
use muster_core::ids::LeaseId;
use muster_core::lease::Phase;
use muster_net::Peer;
use tokio::net::UnixListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info};

use crate::admin::{self, AdminAnswer, AdminRequest};
use crate::clock::Clock;
use crate::config::ContainerConfig;
use crate::presence::Presence;
use crate::status::{
    CapacityStatus, ContainerStatus, EarnedStatus, HistoryStatus, IndexerStatus, LeaseStatus, address_text, lease_text,
    node_text,
};
use crate::store::{HistoryRow, Intent, Store, StoreError, Totals};
use crate::streams::House;

/// Finished leases that a status names.
const HISTORY_SHOWN: usize = 50;
/// How long a status waits for the chain's part of it.
const EARNINGS_WITHIN: Duration = Duration::from_secs(2);
/// How often a leaving Container looks whether it is idle.
const LEAVE_POLL: Duration = Duration::from_millis(250);

/// Everything a status is made of, and what commands act on.
#[derive(Debug)]
pub(crate) struct Control {
    pub(crate) config: ContainerConfig,
    pub(crate) clock: Clock,
    pub(crate) store: Store,
    pub(crate) house: Arc<House>,
    pub(crate) presence: Arc<Presence>,
    pub(crate) peer: Peer,
    pub(crate) intent: watch::Sender<Intent>,
}

impl Control {
    /// Answers the owner until told to stop.
    pub(crate) async fn listen(self: Arc<Self>, listener: UnixListener, stop: CancellationToken) {
        loop {
            let stream = tokio::select! {
                accepted = listener.accept() => match accepted {
                    Ok((stream, _)) => stream,
                    Err(error) => {
                        debug!(%error, "the admin socket does not take a connection");
                        tokio::time::sleep(Duration::from_millis(100)).await;
                        continue;
                    }
                },
                () = stop.cancelled() => return,
            };
            let (control, stop) = (Arc::clone(&self), stop.clone());
            self.house.tasks.spawn(async move {
                let serving = admin::serve(stream, |request| {
                    let control = Arc::clone(&control);
                    async move { control.answer(request).await }
                });
                tokio::select! {
                    served = serving => {
                        if let Err(error) = served {
                            debug!(%error, "an admin connection failed");
                        }
                    }
                    () = stop.cancelled() => {}
                }
            });
        }
    }

    async fn answer(&self, request: AdminRequest) -> AdminAnswer {
        let done = match request {
            AdminRequest::Status => Ok(()),
            AdminRequest::Stop { lease } => self.stop(&lease).await,
            AdminRequest::Drain => self.intend(Intent::Draining).await,
            AdminRequest::Leave => self.intend(Intent::Leaving).await,
            AdminRequest::Resume => {
                self.house.desk.allow_registration();
                self.intend(Intent::Serving).await
            }
        };
        match done {
            Ok(()) => match self.status().await {
                Ok(status) => AdminAnswer::done(status),
                Err(error) => AdminAnswer::refused(error.to_string()),
            },
            Err(why) => AdminAnswer::refused(why),
        }
    }

    async fn stop(&self, name: &str) -> Result<(), String> {
        let lease = self.find(name)?;
        info!(%lease, "stopped by the owner");
        let event = Event::Stop { lease, by: StopBy::Provider };
        self.house.brain.send(event).await.map_err(|error| error.to_string())
    }

    /// A lease by its name, or by the beginning of it.
    fn find(&self, name: &str) -> Result<LeaseId, String> {
        let wanted = name.trim().to_ascii_lowercase();
        let wanted = wanted.strip_prefix("0x").unwrap_or(&wanted);
        let fits =
            |held: &Arc<Held>| held.lease.id().to_string().strip_prefix("0x").is_some_and(|id| id.starts_with(wanted));
        let active = |held: &Arc<Held>| held.lease.phase.holds_capacity();
        let found: Vec<LeaseId> =
            self.house.board.leases().iter().filter(|h| active(h) && fits(h)).map(|h| h.lease.id()).collect();
        match found.as_slice() {
            [one] if !wanted.is_empty() => Ok(*one),
            [] => {
                Err(format!("no lease that begins with {name:?} is active here; `muster container status` lists them"))
            }
            _ => Err(format!("{name:?} fits {} leases; write more of the name", found.len())),
        }
    }

    async fn intend(&self, intent: Intent) -> Result<(), String> {
        self.house.brain.intend(intent).await.map_err(|error| error.to_string())?;
        info!(?intent, "the owner's wish is written down");
        self.intent.send_replace(intent);
        self.presence.beat();
        Ok(())
    }

    /// Takes the Container out of the registry once its owner wants to leave and nothing is left to do.
    pub(crate) async fn run_leave(self: Arc<Self>, stop: CancellationToken) {
        let mut intent = self.intent.subscribe();
        loop {
            tokio::select! {
                wanted = intent.wait_for(|intent| *intent == Intent::Leaving) => {
                    if wanted.is_err() {
                        return;
                    }
                }
                () = stop.cancelled() => return,
            }
            let idle = self.house.board.leases().iter().all(|held| held.lease.phase.is_final());
            if idle {
                self.house.desk.leave(stop.clone()).await;
                tokio::select! {
                    changed = intent.wait_for(|intent| *intent != Intent::Leaving) => {
                        if changed.is_err() {
                            return;
                        }
                    }
                    () = stop.cancelled() => return,
                }
            } else {
                tokio::time::sleep(LEAVE_POLL).await;
            }
        }
    }

    async fn status(&self) -> Result<ContainerStatus, StoreError> {
        let store = self.store.clone();
        let read = tokio::task::spawn_blocking(move || Ok((store.history(HISTORY_SHOWN)?, store.totals()?)));
        let (history, totals) = match read.await {
            Ok(read) => read?,
            Err(_) => (Vec::new(), Totals::default()),
        };
        let (board, desk) = (&self.house.board, &self.house.desk);
        let (summary, known) = (board.summary(), desk.known());
        let total = self.config.capacity();
        let free = summary.free;
        let leases = board.leases();
        let intent = *self.intent.borrow();
        let earned = self.earned(totals).await;
        Ok(ContainerStatus {
            id: node_text(self.house.node),
            name: self.config.name.clone(),
            listen: self.peer.listen_addr().to_string(),
            intent,
            standing: known.standing.as_ref().map_or_else(|| "unknown".to_owned(), ToString::to_string),
            problem: summary.problem.or(known.trouble),
            owner: address_text(desk.ledger().owner()),
            total: CapacityStatus::new(total.cpu_millis, total.memory, total.disk, total.gpus.len()),
            free: CapacityStatus::new(free.cpu_millis, free.memory, free.disk, usize::from(free.gpus.len())),
            indexers: self
                .presence
                .indexers()
                .into_iter()
                .map(|(id, connected)| IndexerStatus { id: node_text(id), connected })
                .collect(),
            leases: leases.iter().filter(|held| !held.lease.phase.is_final()).map(|held| self.lease(held)).collect(),
            consumers_attached: self.house.sessions.count(),
            earned,
            history: history.iter().map(past).collect(),
        })
    }

    fn lease(&self, held: &Held) -> LeaseStatus {
        let l = &held.lease;
        let ran_ms = match (l.phase, l.started_at) {
            (Phase::Running, Some(at)) => self.clock.now().since(at),
            _ => l.ran_ms,
        };
        let usage = self.house.jobs.get(l.id()).and_then(|place| place.usage());
        let a = &l.terms.allocation;
        LeaseStatus {
            lease: lease_text(l.id()),
            phase: l.phase.to_string(),
            consumer: address_text(l.terms.consumer),
            started_at_ms: l.started_at.map(|at| at.0),
            ran_ms,
            rate_per_second: l.terms.rate_per_second.0.to_string(),
            paid: l.paid().0.to_string(),
            deposit: l.deposit.0.to_string(),
            rented: CapacityStatus::new(a.cpu_millis, a.memory, a.disk, usize::from(a.gpus.len())),
            cpu_used_ms: usage.map(|usage| usage.cpu_ns / 1_000_000),
            memory_peak_bytes: usage.map(|usage| usage.memory_peak_bytes),
        }
    }

    async fn earned(&self, totals: Totals) -> EarnedStatus {
        let asked = tokio::time::timeout(EARNINGS_WITHIN, self.house.desk.ledger().earnings()).await;
        let earnings = asked.ok().and_then(Result::ok);
        EarnedStatus {
            leases: totals.leases,
            interrupted: totals.interrupted,
            ran_ms: totals.ran_ms,
            redeemed: totals.redeemed.0.to_string(),
            claimable: earnings.map(|e| e.claimable.0.to_string()),
            pending: earnings.map(|e| e.pending.0.to_string()),
        }
    }
}

fn past(row: &HistoryRow) -> HistoryStatus {
    HistoryStatus {
        lease: lease_text(row.lease),
        consumer: address_text(row.consumer),
        started_at_ms: row.started_at.map(|at| at.0),
        ended_at_ms: row.ended_at.0,
        ran_ms: row.ran_ms,
        end: row.end.to_string(),
        interrupted: row.end.is_interruption(),
        redeemed: row.redeemed.0.to_string(),
        vouchers: row.vouchers,
        settle_tx: row.settle_tx.map(|tx| format!("0x{}", hex::encode(tx))),
    }
}
