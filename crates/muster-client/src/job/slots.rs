//! Waiting for a free Container, one task at a time, so that a long array does not storm the Indexers.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use muster_core::demand::Demand;
use muster_core::protocol::{MatchFailed, MatchFailure, Matched};
use muster_core::units::TokenAmount;
use tokio::sync::{Mutex, Notify};
use tokio_util::sync::CancellationToken;

use super::request::{JobError, JobStep};
use crate::reach::measure;
use crate::renter::Renter;
use crate::seek::{SeekError, seek};
use crate::session::SessionKey;

/// The shortest and longest pause before a busy network is asked again, in milliseconds.
const PAUSE_MS: (u64, u64) = (200, 1_000);
/// While no Indexer answers at all, or none knows a single Container yet, patience is shorter: long enough for one that
/// was restarted, whose old lines both sides take for alive for up to 8 s.
const YOUNG_PATIENCE: Duration = Duration::from_secs(20);

/// What the tasks of one job share while they look for Containers.
#[derive(Debug, Default)]
pub(super) struct Slots {
    /// Whoever holds it asks; the others wait for their turn.
    turn: Mutex<()>,
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    /// Leases of this job that live.
    alive: AtomicUsize,
    /// One of them is over: its Container may be free, and the rest of its deposit back.
    freed: Notify,
}

/// A lease of the job lives as long as this.
#[derive(Debug)]
pub(super) struct Alive(Arc<Shared>);

impl Drop for Alive {
    fn drop(&mut self) {
        self.0.alive.fetch_sub(1, Ordering::Relaxed);
        self.0.freed.notify_one();
    }
}

/// What a task asks with.
pub(super) struct Wanted<'a> {
    pub(super) renter: &'a Renter,
    pub(super) demand: Demand,
    /// Whether round trips are measured before the choice.
    pub(super) nearest: bool,
    pub(super) deposit_seconds: u64,
    pub(super) patience: Duration,
    pub(super) stop: &'a CancellationToken,
}

impl Slots {
    /// A Container that holds a slot, and a deposit that the wallet can pay. Waits while all that fit are busy, as
    /// long as something of the job lives, and for `patience` while nothing does.
    pub(super) async fn find(
        &self,
        mut wanted: Wanted<'_>,
        tell: impl Fn(JobStep) + Send + Sync,
    ) -> Result<(Matched, SessionKey, Alive), JobError> {
        let _turn = tokio::select! {
            turn = self.turn.lock() => turn,
            () = wanted.stop.cancelled() => return Err(JobError::Stopped),
        };
        tell(JobStep::Matching);
        let mut waiting_since = Instant::now();
        loop {
            let why = match self.try_once(&wanted).await {
                Ok(found) => return Ok(found),
                Err(JobError::Seek(error)) if error.may_pass() => {
                    self.patience(&wanted, &error, &mut waiting_since)?;
                    error.to_string()
                }
                // Only the excluded ones fit: better one of those again than none.
                Err(JobError::Seek(SeekError::NothingFits(_))) if !wanted.demand.exclude.is_empty() => {
                    wanted.demand.exclude.clear();
                    continue;
                }
                // Running tasks give back what is left of their deposits.
                Err(error @ (JobError::TooLittle { .. } | JobError::Nothing { .. })) if self.alive() > 0 => {
                    error.to_string()
                }
                Err(error) => return Err(error),
            };
            tell(JobStep::Waiting { why });
            let pause = PAUSE_MS.0 + rand::random::<u64>() % (PAUSE_MS.1 - PAUSE_MS.0);
            tokio::select! {
                () = tokio::time::sleep(Duration::from_millis(pause)) => {}
                () = self.shared.freed.notified() => {}
                () = wanted.stop.cancelled() => return Err(JobError::Stopped),
            }
        }
    }

    fn alive(&self) -> usize {
        self.shared.alive.load(Ordering::Relaxed)
    }

    fn patience(&self, wanted: &Wanted<'_>, error: &SeekError, since: &mut Instant) -> Result<(), JobError> {
        if self.alive() > 0 {
            *since = Instant::now();
            return Ok(());
        }
        let patience = if error.is_young() { wanted.patience.min(YOUNG_PATIENCE) } else { wanted.patience };
        if since.elapsed() < patience {
            return Ok(());
        }
        Err(match error {
            SeekError::Busy(f) | SeekError::Overloaded(f) => {
                JobError::StayedBusy { after: patience, why: f.why.clone() }
            }
            SeekError::Unreachable { .. }
            | SeekError::NothingFits(_)
            | SeekError::Refused(_)
            | SeekError::NoIndexers
            | SeekError::NoWallet => JobError::Seek(error.clone()),
        })
    }

    async fn try_once(&self, wanted: &Wanted<'_>) -> Result<(Matched, SessionKey, Alive), JobError> {
        let ledger = wanted.renter.ledger();
        let wallet = ledger.consumer().ok_or(SeekError::NoWallet)?;
        let have = ledger.balance().await?;
        if have == TokenAmount::ZERO {
            return Err(JobError::Nothing { wallet });
        }
        let key = SessionKey::random();
        let matched = tokio::select! {
            found = find_near(wanted, &key) => found?,
            () = wanted.stop.cancelled() => return Err(JobError::Stopped),
        };
        let need = matched.terms.deposit;
        if need > have {
            // The slot lapses by itself when no deposit comes.
            return Err(JobError::TooLittle { wallet, have, need });
        }
        self.shared.alive.fetch_add(1, Ordering::Relaxed);
        Ok((matched, key, Alive(Arc::clone(&self.shared))))
    }
}

/// Seeks a Container; where that is wanted, among those that are near, by what is measured to each before the choice.
async fn find_near(wanted: &Wanted<'_>, key: &SessionKey) -> Result<Matched, SeekError> {
    let mut demand = wanted.demand.clone();
    if wanted.nearest && demand.only.is_empty() {
        let measured = measure(wanted.renter, &demand).await;
        if measured.reached.is_empty()
            && measured.candidates > 0
            && let Some(max) = demand.latency_ms_max
        {
            let count = measured.candidates;
            let why = format!(
                "none of {count} Containers that fit could be reached to measure whether it is within {max} ms"
            );
            let considered = u64::try_from(count).unwrap_or(u64::MAX);
            let failed = MatchFailed { kind: MatchFailure::Busy, why, considered, turned_down: Vec::new() };
            return Err(SeekError::Busy(failed));
        }
        // Where nobody was named the limit stays: the Indexer says why nobody fits, and gives nobody whose way is unknown.
        demand.only = measured.reached;
    }
    seek(wanted.renter, &demand, wanted.deposit_seconds, key).await
}
