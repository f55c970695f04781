//! Everything that a Container asks of the chain, in the background and again until there is an answer.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use muster_core::brain::container::Event;
use muster_core::ids::LeaseId;
use muster_core::voucher::SignedVoucher;
use tokio::sync::{Notify, Semaphore, watch};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};

use crate::board::Board;
use crate::brain::BrainHandle;
use crate::ledger::{Ledger, LedgerError, Settled, Standing};

/// Leases that are asked about at once.
const ASK_BATCH: usize = 256;
/// Settlements under way at once; each waits for its transaction.
const SETTLE_AT_ONCE: usize = 512;
/// Pauses between tries while the chain does not answer.
const RETRY: Duration = Duration::from_millis(500);
const RETRY_MAX: Duration = Duration::from_secs(15);

/// What is known of the registry.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Known {
    /// As last seen; `None` before the first answer.
    pub(crate) standing: Option<Standing>,
    /// Why the last try failed, if it did.
    pub(crate) trouble: Option<String>,
}

#[derive(Debug, Default)]
struct Waiting {
    asks: BTreeSet<LeaseId>,
    settles: BTreeMap<LeaseId, Option<SignedVoucher>>,
    /// Settlements under way: the brain may ask again after a restart of the chain.
    settling: BTreeSet<LeaseId>,
}

/// The desk: takes requests, and runs the tasks that answer them.
#[derive(Clone, Debug)]
pub(crate) struct Desk {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    ledger: Arc<dyn Ledger>,
    brain: BrainHandle,
    waiting: Mutex<Waiting>,
    asked: Notify,
    settled: Notify,
    known: watch::Sender<Known>,
    /// Set when the owner wants to serve; cleared once the registry has the Container, so that one that was taken out
    /// stays out until its owner asks again.
    may_register: AtomicBool,
    /// Look at the registry now.
    look: Notify,
}

impl Desk {
    pub(crate) fn new(ledger: Arc<dyn Ledger>, brain: BrainHandle) -> Self {
        let inner = Inner {
            ledger,
            brain,
            waiting: Mutex::default(),
            asked: Notify::new(),
            settled: Notify::new(),
            known: watch::Sender::new(Known::default()),
            may_register: AtomicBool::new(false),
            look: Notify::new(),
        };
        Self { inner: Arc::new(inner) }
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        // Sets are changed by single calls, so one that panicked left them right.
        self.inner.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn ledger(&self) -> &Arc<dyn Ledger> {
        &self.inner.ledger
    }

    pub(crate) fn known(&self) -> Known {
        self.inner.known.borrow().clone()
    }

    /// Asks about a lease; the answer comes as an event.
    pub(crate) fn ask(&self, lease: LeaseId) {
        self.lock().asks.insert(lease);
        self.inner.asked.notify_one();
    }

    /// Settles a lease; the outcome comes as an event.
    pub(crate) fn settle(&self, lease: LeaseId, voucher: Option<SignedVoucher>) {
        let mut waiting = self.lock();
        if !waiting.settling.contains(&lease) {
            waiting.settles.insert(lease, voucher);
        }
        drop(waiting);
        self.inner.settled.notify_one();
    }

    /// Answers questions about leases until told to stop.
    pub(crate) async fn run_asks(self, stop: CancellationToken) {
        let mut pause = RETRY;
        loop {
            let batch: Vec<LeaseId> = {
                let mut waiting = self.lock();
                let mut some = Vec::new();
                while some.len() < ASK_BATCH
                    && let Some(lease) = waiting.asks.pop_first()
                {
                    some.push(lease);
                }
                some
            };
            if batch.is_empty() {
                tokio::select! {
                    () = self.inner.asked.notified() => continue,
                    () = stop.cancelled() => return,
                }
            }
            match self.inner.ledger.leases(batch.clone()).await {
                Ok(views) => {
                    pause = RETRY;
                    for (lease, view) in batch.into_iter().zip(views) {
                        if self.inner.brain.send(Event::ChainSeen { lease, view }).await.is_err() {
                            return;
                        }
                    }
                }
                Err(error) => {
                    debug!(%error, leases = batch.len(), "the chain does not say; asking again");
                    metrics::counter!("muster_container_chain_errors_total").increment(1);
                    self.lock().asks.extend(batch);
                    if rest(&stop, &mut pause).await {
                        return;
                    }
                }
            }
        }
    }

    /// Asks again and again about leases that work, so that a consumer who closes one on the chain is noticed while
    /// vouchers still count.
    pub(crate) async fn run_watch(self, board: Arc<Board>, every: Duration, stop: CancellationToken) {
        loop {
            tokio::select! {
                () = tokio::time::sleep(every) => {}
                () = stop.cancelled() => return,
            }
            for held in board.leases() {
                if held.lease.phase.holds_capacity() {
                    self.ask(held.lease.id());
                }
            }
        }
    }

    /// Settles until told to stop.
    pub(crate) async fn run_settles(self, stop: CancellationToken) {
        let slots = Arc::new(Semaphore::new(SETTLE_AT_ONCE));
        loop {
            let next = {
                let mut waiting = self.lock();
                let next = waiting.settles.pop_first();
                if let Some((lease, _)) = next {
                    waiting.settling.insert(lease);
                }
                next
            };
            let Some((lease, voucher)) = next else {
                tokio::select! {
                    () = self.inner.settled.notified() => continue,
                    () = stop.cancelled() => return,
                }
            };
            let Ok(slot) = Arc::clone(&slots).acquire_owned().await else { return };
            let (desk, stop) = (self.clone(), stop.clone());
            tokio::spawn(async move {
                tokio::select! {
                    () = desk.settle_one(lease, voucher) => {}
                    () = stop.cancelled() => {}
                }
                desk.lock().settling.remove(&lease);
                drop(slot);
            });
        }
    }

    async fn settle_one(&self, lease: LeaseId, mut voucher: Option<SignedVoucher>) {
        let mut pause = RETRY;
        loop {
            match self.inner.ledger.settle(lease, voucher).await {
                Ok(Settled::Closed { redeemed, refunded, tx }) => {
                    info!(%lease, %redeemed, %refunded, "lease settled");
                    metrics::counter!("muster_container_leases_settled_total").increment(1);
                    // The node going down settles again after its restart, to the same end.
                    self.inner.brain.note(Event::Settled { lease, redeemed, refunded, tx }).await;
                    return;
                }
                Ok(Settled::Worthless { why }) if voucher.is_some() => {
                    error!(%lease, %why, "the escrow does not take the last voucher; closing without it");
                    voucher = None;
                }
                Ok(Settled::Worthless { .. } | Settled::Skipped) => {
                    // Somebody else has closed it: the chain says with what.
                    self.ask(lease);
                    return;
                }
                Err(LedgerError::Refused(why)) => {
                    error!(%lease, %why, "the chain refuses the settlement");
                    self.ask(lease);
                    return;
                }
                Err(LedgerError::Unknown(why)) => {
                    warn!(%lease, %why, "settlement not confirmed; trying again");
                    metrics::counter!("muster_container_chain_errors_total").increment(1);
                    tokio::time::sleep(pause).await;
                    pause = pause.saturating_mul(2).min(RETRY_MAX);
                }
            }
        }
    }

    /// The owner wants to serve: this Container is registered if it is not.
    pub(crate) fn allow_registration(&self) {
        self.inner.may_register.store(true, Ordering::Relaxed);
        self.inner.look.notify_one();
    }

    /// Keeps an eye on the standing, until told to stop. While the chain does not answer, what was last known stays true.
    pub(crate) async fn run_standing(self, endpoint: String, every: Duration, stop: CancellationToken) {
        let mut pause = RETRY;
        loop {
            let wait = match self.look(&endpoint).await {
                Ok(()) => {
                    pause = RETRY;
                    every
                }
                Err(_) => {
                    let now = pause;
                    pause = pause.saturating_mul(2).min(RETRY_MAX);
                    now
                }
            };
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = self.inner.look.notified() => {}
                () = stop.cancelled() => return,
            }
        }
    }

    /// Looks at the registry once, and registers where the owner wants that.
    ///
    /// # Errors
    /// The chain does not answer, or refuses the registration.
    pub(crate) async fn look(&self, endpoint: &str) -> Result<(), LedgerError> {
        let looked = self.try_look(endpoint).await;
        if let Err(error) = &looked {
            self.trouble(error);
        }
        looked
    }

    async fn try_look(&self, endpoint: &str) -> Result<(), LedgerError> {
        let mut standing = self.inner.ledger.standing().await?;
        let outside = |standing: &Standing| matches!(standing, Standing::Absent | Standing::Left);
        if outside(&standing) && self.inner.may_register.load(Ordering::Relaxed) {
            info!("registering on the chain");
            self.inner.ledger.register(endpoint.to_owned()).await?;
            standing = self.inner.ledger.standing().await?;
        }
        if !outside(&standing) {
            self.inner.may_register.store(false, Ordering::Relaxed);
            self.inner.ledger.announce(endpoint.to_owned()).await?;
        }
        self.publish(standing).await;
        Ok(())
    }

    /// Shows a standing and tells the brain.
    async fn publish(&self, standing: Standing) {
        let problem = standing.problem();
        let before = self.inner.known.borrow().standing.clone();
        if before.as_ref() != Some(&standing) {
            match &problem {
                None => info!(%standing, "in good standing"),
                Some(why) => warn!(%standing, %why, "no work is taken"),
            }
            self.inner.brain.note(Event::Standing { problem }).await;
        }
        self.inner.known.send_replace(Known { standing: Some(standing), trouble: None });
    }

    fn trouble(&self, error: &LedgerError) {
        let why = error.to_string();
        let new = self.inner.known.borrow().trouble.as_ref() != Some(&why);
        if new {
            warn!(%why, "the chain does not tell this Container's standing; trying on");
        }
        self.inner.known.send_modify(|known| known.trouble = Some(why));
    }

    /// Takes this Container out of the registry, again and again until the chain has it.
    pub(crate) async fn leave(&self, stop: CancellationToken) {
        let mut pause = RETRY;
        loop {
            match self.inner.ledger.leave().await {
                Ok(()) => break,
                Err(error) => self.trouble(&error),
            }
            if rest(&stop, &mut pause).await {
                return;
            }
        }
        info!("taken out of the registry; the stake is unbonding");
        self.publish(Standing::Left).await;
    }
}

/// Waits before the next try, longer each time; `true` when told to stop.
async fn rest(stop: &CancellationToken, pause: &mut Duration) -> bool {
    let now = *pause;
    *pause = pause.saturating_mul(2).min(RETRY_MAX);
    tokio::select! {
        () = tokio::time::sleep(now) => false,
        () = stop.cancelled() => true,
    }
}
