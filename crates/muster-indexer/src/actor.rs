//! The actor that owns the brain: takes events in batches and performs what the brain decides. Records go to a writer,
//! which has all that waits written in one durable transaction, and only then gives the answers that follow from them.

use std::collections::BTreeMap;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use muster_core::brain::indexer::{Effect, Event, Indexer, Record};
use muster_core::ids::{LeaseId, NodeId};
use muster_core::params::Params;
use muster_core::protocol::MatchReply;
use muster_core::units::TimeMs;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::listen::{Answer, Routes};
use crate::store::Store;
use crate::{Gauges, IndexerError};

/// Events that are handled together, and records that are written together.
const BATCH_MAX: usize = 512;
/// Batches of records and answers that wait for the writer.
const WRITES_MAX: usize = 64;
/// How often the brain is told that time passes.
const TICK: Duration = Duration::from_millis(50);

/// Wall time at the start plus what has passed since: never goes back.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    wall: TimeMs,
    since: Instant,
}

impl Clock {
    pub(crate) fn start() -> Self {
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self { wall: TimeMs(u64::try_from(wall.as_millis()).unwrap_or(0)), since: Instant::now() }
    }

    pub(crate) fn now(&self) -> TimeMs {
        self.wall.plus(u64::try_from(self.since.elapsed().as_millis()).unwrap_or(u64::MAX))
    }
}

pub(crate) struct Actor {
    brain: Indexer,
    store: Store,
    routes: Routes,
    gauges: Gauges,
    clock: Clock,
}

/// Records, and the answers that may go once these are written.
#[derive(Default)]
struct Write {
    records: Vec<Record>,
    answers: Vec<(u64, Box<MatchReply>)>,
}

impl Actor {
    pub(crate) async fn new(
        id: NodeId,
        params: Params,
        store: Store,
        routes: Routes,
        gauges: Gauges,
    ) -> Result<Self, IndexerError> {
        let mut brain = Indexer::new(id, params, rand::random());
        brain.remember(store.recent().await?);
        Ok(Self { brain, store, routes, gauges, clock: Clock::start() })
    }

    /// Runs until told to stop, and until what was decided is written.
    pub(crate) async fn run(
        self,
        mut inbox: mpsc::Receiver<Event>,
        events: mpsc::Sender<Event>,
        stop: CancellationToken,
    ) -> Result<(), IndexerError> {
        let Self { mut brain, store, routes, gauges, clock } = self;
        let (writes, waiting) = mpsc::channel(WRITES_MAX);
        let mut writer = tokio::spawn(write(store, routes.clone(), waiting));
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
        let mut batch = Vec::with_capacity(BATCH_MAX);
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                failed = &mut writer => return failed.map_err(|error| IndexerError::Task(error.to_string()))?,
                _ = tick.tick() => batch.push(Event::Tick),
                count = inbox.recv_many(&mut batch, BATCH_MAX) => if count == 0 { break },
            }
            let mut effects = Vec::new();
            for event in batch.drain(..) {
                effects.extend(brain.handle(event, clock.now()));
            }
            let write = perform(effects, &routes, &events);
            if !write.is_empty() && writes.send(write).await.is_err() {
                // The writer has failed, and says why.
                break;
            }
            gauges.set(brain.listed() as u64, brain.waiting() as u64);
            metrics::gauge!("muster_indexer_containers").set(brain.listed() as f64);
        }
        drop(writes);
        writer.await.map_err(|error| IndexerError::Task(error.to_string()))?
    }
}

impl Write {
    fn is_empty(&self) -> bool {
        self.records.is_empty() && self.answers.is_empty()
    }
}

/// Performs what follows from no record, and gives the rest to be written.
fn perform(effects: Vec<Effect>, routes: &Routes, events: &mpsc::Sender<Event>) -> Write {
    let mut write = Write::default();
    for effect in effects {
        match effect {
            Effect::Save(record) => write.records.push(*record),
            Effect::Offer { call, to, terms } => {
                metrics::counter!("muster_indexer_offers_total").increment(1);
                routes.offer(call, to, *terms, events.clone());
            }
            Effect::Candidates { reply, answer } => routes.reply(reply, Answer::Candidates(answer)),
            Effect::Noted { reply, answer } => routes.reply(reply, Answer::Noted(answer)),
            Effect::Withdraw { from, lease } => routes.withdraw(from, lease),
            Effect::Suggest { to, packages } => routes.suggest(to, packages),
            Effect::Reply { reply, answer } => {
                let kind = match &*answer {
                    MatchReply::Matched(_) => "matched",
                    MatchReply::Failed(_) => "failed",
                };
                metrics::counter!("muster_indexer_answers_total", "answer" => kind).increment(1);
                write.answers.push((reply, answer));
            }
        }
    }
    write
}

/// Writes records and then gives answers, until nobody brings any more. An answer waits for every record that was
/// decided before it. Records from which no answer follows, which only keep a lease's state up to date, wait for others
/// up to a tick.
async fn write(store: Store, routes: Routes, mut waiting: mpsc::Receiver<Write>) -> Result<(), IndexerError> {
    let mut unsaved: BTreeMap<LeaseId, Record> = BTreeMap::new();
    let mut answers = Vec::new();
    let mut batch = Vec::with_capacity(WRITES_MAX);
    let mut tick = tokio::time::interval(TICK);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut open = true;
    while open {
        let mut due = false;
        tokio::select! {
            count = waiting.recv_many(&mut batch, WRITES_MAX) => open = count > 0,
            _ = tick.tick(), if !unsaved.is_empty() => due = true,
        }
        for Write { records, answers: more } in batch.drain(..) {
            unsaved.extend(records.into_iter().map(|record| (record.lease, record)));
            answers.extend(more);
        }
        let needed = due || !open || !answers.is_empty() || unsaved.len() >= BATCH_MAX;
        if needed && !unsaved.is_empty() {
            let records: Vec<Record> = std::mem::take(&mut unsaved).into_values().collect();
            store.save(&records).await?;
        }
        for (reply, answer) in answers.drain(..) {
            routes.reply(reply, Answer::Match(answer));
        }
    }
    Ok(())
}
