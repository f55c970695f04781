//! The one thread that owns the brain and its records.
//!
//! Everything that happens comes through one bounded queue. The thread takes what waits (up to a batch), lets the brain
//! handle it, writes all changed records in one durable commit, and only then performs the effects, in their order.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use muster_core::brain::container::{Container, Effect, Event, Held};
use muster_core::ids::{LeaseId, NodeId};
use muster_core::lease::LeaseTerms;
use muster_core::protocol::{LeaseReport, OfferRejected, ToConsumer};
use muster_core::step::{Step, WatchSteps, When, steps};
use muster_core::voucher::SignedVoucher;
use tokio::sync::{mpsc, oneshot};
use tracing::{debug, trace};

use crate::board::{Board, Summary};
use crate::clock::Clock;
use crate::store::{Intent, Store, StoreError, Writes};

/// Events that may wait; whoever brings more waits.
const QUEUE: usize = 4_096;
/// Events that share one durable commit.
const BATCH: u32 = 512;

type OfferResult = Result<Box<LeaseTerms>, OfferRejected>;

enum Message {
    Event(Event),
    Offer { terms: Box<LeaseTerms>, answer: oneshot::Sender<OfferResult> },
    Intent { intent: Intent, done: oneshot::Sender<()> },
    Stop,
}

/// The brain has stopped: the node is going down.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("this Container is going down")]
pub(crate) struct Stopped;

/// Keeps the brain's queue open. When it is dropped, the thread ends: the handles alone, of which the brain's own hands
/// hold some, keep nothing alive.
#[derive(Debug)]
pub(crate) struct Keeper {
    _queue: mpsc::Sender<Message>,
}

/// Brings events to the brain. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct BrainHandle {
    queue: mpsc::WeakSender<Message>,
    /// Leases that the brain must look at every tick.
    live: Arc<AtomicUsize>,
}

impl std::fmt::Debug for Message {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Event(_) => "Event",
            Self::Offer { .. } => "Offer",
            Self::Intent { .. } => "Intent",
            Self::Stop => "Stop",
        })
    }
}

impl BrainHandle {
    pub(crate) async fn send(&self, event: Event) -> Result<(), Stopped> {
        self.put(Message::Event(event)).await
    }

    async fn put(&self, message: Message) -> Result<(), Stopped> {
        let queue = self.queue.upgrade().ok_or(Stopped)?;
        queue.send(message).await.map_err(|_| Stopped)
    }

    /// As [`BrainHandle::send`], for what is found out again after a restart: a node that goes down may miss it.
    pub(crate) async fn note(&self, event: Event) {
        if self.send(event).await.is_err() {
            trace!("an event came after the end of the brain");
        }
    }

    /// An Indexer's offer, and the brain's durable answer.
    pub(crate) async fn offer(&self, terms: Box<LeaseTerms>) -> Result<OfferResult, Stopped> {
        let (answer, answered) = oneshot::channel();
        self.put(Message::Offer { terms, answer }).await?;
        answered.await.map_err(|_| Stopped)
    }

    /// Writes down whether the owner wants work.
    pub(crate) async fn intend(&self, intent: Intent) -> Result<(), Stopped> {
        let (done, noted) = oneshot::channel();
        self.put(Message::Intent { intent, done }).await?;
        noted.await.map_err(|_| Stopped)
    }

    /// Time passes. A tick that finds the queue full is left out: the events in it carry the time along.
    pub(crate) fn tick(&self) {
        if let Some(queue) = self.queue.upgrade() {
            drop(queue.try_send(Message::Event(Event::Tick)));
        }
    }

    /// Whether any lease wants frequent ticks.
    pub(crate) fn is_live(&self) -> bool {
        self.live.load(Ordering::Relaxed) > 0
    }

    pub(crate) async fn stop(&self) {
        // Stopped already is as good.
        self.put(Message::Stop).await.ok();
    }
}

/// What the brain's effects are performed with. No method waits: each hands over to a task of its own.
pub(crate) trait Hands: Send + 'static {
    /// Make the work folder ready.
    fn prepare(&self, held: &Arc<Held>);
    /// Start the workload that `Go` named.
    fn start(&self, lease: LeaseId);
    /// Kill the workload.
    fn kill(&self, lease: LeaseId);
    /// The workload is over, or never will begin.
    fn over(&self, lease: LeaseId);
    /// Remove work folder, outputs and logs.
    fn clean_up(&self, lease: LeaseId);
    /// Ask the chain.
    fn ask_chain(&self, lease: LeaseId);
    /// Settle on the chain.
    fn settle(&self, lease: LeaseId, voucher: Option<SignedVoucher>);
    /// Tell a consumer.
    fn tell(&self, session: u64, message: ToConsumer);
    /// Tell an Indexer.
    fn report(&self, indexer: NodeId, report: LeaseReport);
    /// Send a heartbeat.
    fn beat(&self);
    /// Nothing more will happen to this lease.
    fn forget(&self, lease: LeaseId);
}

/// The brain, its records and its queue, before the thread runs.
pub(crate) struct Actor<H> {
    pub(crate) brain: Container,
    pub(crate) store: Store,
    pub(crate) board: Arc<Board>,
    pub(crate) clock: Clock,
    pub(crate) hands: H,
    pub(crate) inbox: Inbox,
    pub(crate) counts: Counts,
    pub(crate) watcher: Option<Arc<dyn WatchSteps>>,
}

/// What the summary says, kept up with each batch so that many finished leases cost nothing.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    /// Leases that are not final.
    live: BTreeSet<LeaseId>,
    /// Leases that hold capacity.
    busy: BTreeSet<LeaseId>,
    /// Why nothing is taken, if so.
    problem: Option<String>,
}

impl Counts {
    /// Nothing is taken for this reason, until the registry has spoken.
    pub(crate) fn with_problem(why: String) -> Self {
        Self { problem: Some(why), ..Self::default() }
    }

    fn note(&mut self, held: &Held) {
        let (lease, phase) = (held.lease.id(), held.lease.phase);
        let keep =
            |set: &mut BTreeSet<LeaseId>, inside: bool| if inside { set.insert(lease) } else { set.remove(&lease) };
        keep(&mut self.live, !phase.is_final());
        keep(&mut self.busy, phase.holds_capacity());
    }
}

/// The receiving end of the queue.
pub(crate) struct Inbox {
    queue: mpsc::Receiver<Message>,
    live: Arc<AtomicUsize>,
}

/// Both ends of the brain's queue, and what keeps it open.
pub(crate) fn queue() -> (Keeper, BrainHandle, Inbox) {
    let (sender, queue) = mpsc::channel(QUEUE);
    let live = Arc::new(AtomicUsize::new(0));
    let handle = BrainHandle { queue: sender.downgrade(), live: Arc::clone(&live) };
    (Keeper { _queue: sender }, handle, Inbox { queue, live })
}

/// What a batch has come to, until it is written down.
#[derive(Default)]
struct Batch {
    effects: Vec<Effect>,
    intent: Option<Intent>,
    intents: Vec<oneshot::Sender<()>>,
    /// Answers to offers; an effect's `reply` is the place in here.
    answers: Vec<Option<oneshot::Sender<OfferResult>>>,
    stop: bool,
}

impl<H: Hands> Actor<H> {
    /// Performs what a restart left to do, then everything that comes, until told to stop.
    ///
    /// # Errors
    /// The records cannot be written: nothing may happen then that is not written down.
    pub(crate) fn run(mut self, restored: Vec<Effect>, intent: Intent) -> Result<(), StoreError> {
        if intent != Intent::Serving {
            self.brain.handle(Event::Drain, self.clock.now());
        }
        self.publish_all();
        let mut batch = Batch { effects: restored, ..Batch::default() };
        self.finish(&mut batch)?;
        while !batch.stop {
            let Some(first) = self.inbox.queue.blocking_recv() else { return Ok(()) };
            batch = Batch::default();
            self.take(first, &mut batch);
            let mut taken = 1u32;
            while taken < BATCH && !batch.stop {
                let Ok(next) = self.inbox.queue.try_recv() else { break };
                self.take(next, &mut batch);
                taken += 1;
            }
            metrics::histogram!("muster_container_batch_events").record(f64::from(taken));
            self.finish(&mut batch)?;
        }
        debug!("brain stopped");
        Ok(())
    }

    fn take(&mut self, message: Message, batch: &mut Batch) {
        let now = self.clock.now();
        let event = match message {
            Message::Event(event) => event,
            Message::Offer { terms, answer } => {
                let reply = u64::try_from(batch.answers.len()).unwrap_or(u64::MAX);
                batch.answers.push(Some(answer));
                Event::Offered { reply, terms }
            }
            Message::Intent { intent, done } => {
                batch.intent = Some(intent);
                batch.intents.push(done);
                if intent == Intent::Serving { Event::Resume } else { Event::Drain }
            }
            Message::Stop => {
                batch.stop = true;
                return;
            }
        };
        match &event {
            Event::Tick => {}
            Event::Standing { problem } => self.counts.problem.clone_from(problem),
            other => trace!(event = ?other, "event"),
        }
        batch.effects.extend(self.brain.handle(event, now));
    }

    /// Writes down, shows, performs.
    fn finish(&mut self, batch: &mut Batch) -> Result<(), StoreError> {
        let effects = std::mem::take(&mut batch.effects);
        let mut saved = BTreeSet::new();
        let mut gone = BTreeSet::new();
        for effect in &effects {
            match effect {
                Effect::Save(lease) => {
                    saved.insert(*lease);
                }
                Effect::Forget(lease) => {
                    gone.insert(*lease);
                }
                _ => {}
            }
        }
        // The last state of each record is written: later than each effect may ask for, never earlier.
        let records: Vec<&Held> = saved.iter().filter_map(|lease| self.brain.held(*lease)).collect();
        let writes = Writes { save: records, forget: gone.iter().copied().collect(), intent: batch.intent };
        let passed = self.steps_of(&writes.save);
        self.tell_steps(&passed, When::Before);
        if !writes.is_empty() {
            self.store.commit(&writes)?;
        }
        self.tell_steps(&passed, When::After);
        let shown: Vec<Arc<Held>> = writes.save.into_iter().map(|held| Arc::new(held.clone())).collect();
        for held in &shown {
            self.counts.note(held);
            if !held.lease.phase.holds_capacity() {
                self.hands.over(held.lease.id());
            }
        }
        let gone: Vec<LeaseId> = gone.into_iter().collect();
        for lease in &gone {
            self.counts.live.remove(lease);
            self.counts.busy.remove(lease);
        }
        self.board.put(shown, &gone);
        self.publish_summary();
        for done in batch.intents.drain(..) {
            // Whoever asked may have gone; the intent is written down all the same.
            done.send(()).ok();
        }
        for effect in effects {
            self.perform(effect, &mut batch.answers);
        }
        Ok(())
    }

    /// What the records are about to pass, for whoever watches: the board still shows what is on the disk.
    fn steps_of(&self, save: &[&Held]) -> Vec<(LeaseId, Step)> {
        if self.watcher.is_none() {
            return Vec::new();
        }
        let of_one = |held: &&Held| {
            let (lease, before) = (held.lease.id(), self.board.lease(held.lease.id()));
            let passed: Vec<Step> = steps(before.as_ref().map(|b| &b.lease), &held.lease).collect();
            passed.into_iter().map(move |step| (lease, step))
        };
        save.iter().flat_map(of_one).collect()
    }

    fn tell_steps(&self, passed: &[(LeaseId, Step)], when: When) {
        let Some(watcher) = &self.watcher else { return };
        passed.iter().for_each(|(lease, step)| watcher.on_step(*lease, *step, when));
    }

    fn perform(&self, effect: Effect, answers: &mut [Option<oneshot::Sender<OfferResult>>]) {
        match effect {
            Effect::Save(_) => {}
            Effect::Forget(lease) => self.hands.forget(lease),
            Effect::Answer { reply, result } => {
                let place = usize::try_from(reply).unwrap_or(usize::MAX);
                if let Some(answer) = answers.get_mut(place).and_then(Option::take) {
                    // An Indexer that left finds the slot void when its time to open has passed.
                    drop(answer.send(result));
                }
            }
            Effect::Prepare(lease) => {
                if let Some(held) = self.board.lease(lease) {
                    self.hands.prepare(&held);
                }
            }
            Effect::AskChain(lease) => self.hands.ask_chain(lease),
            Effect::Start(lease) => self.hands.start(lease),
            Effect::Kill(lease) => self.hands.kill(lease),
            Effect::Tell { session, message } => self.hands.tell(session, message),
            Effect::Settle { lease, voucher } => self.hands.settle(lease, voucher),
            Effect::Report { indexer, report } => self.hands.report(indexer, report),
            Effect::Beat => self.hands.beat(),
            Effect::CleanUp(lease) => self.hands.clean_up(lease),
        }
    }

    fn publish_all(&mut self) {
        let all: Vec<Arc<Held>> = self.brain.all().map(|held| Arc::new(held.clone())).collect();
        for held in &all {
            self.counts.note(held);
        }
        self.board.put(all, &[]);
        self.publish_summary();
    }

    fn publish_summary(&self) {
        let busy = self.counts.busy.len();
        self.inbox.live.store(self.counts.live.len(), Ordering::Relaxed);
        metrics::gauge!("muster_container_leases_active").set(f64::from(u32::try_from(busy).unwrap_or(u32::MAX)));
        let problem = self.counts.problem.clone();
        self.board.set_summary(Summary { free: self.brain.free(), draining: self.brain.draining(), problem, busy });
    }
}
