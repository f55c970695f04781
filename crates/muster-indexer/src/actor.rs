//! The actor that owns the brain: takes events in batches, writes all records of a batch in one
//! transaction, then performs what is left.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use muster_core::brain::indexer::{Effect, Event, Indexer, Record};
use muster_core::ids::NodeId;
use muster_core::params::Params;
use muster_core::units::TimeMs;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::listen::Routes;
use crate::store::Store;
use crate::{Gauges, IndexerError};

/// Events that are handled before records are written.
const BATCH_MAX: usize = 512;
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

    /// Runs until told to stop.
    pub(crate) async fn run(
        mut self,
        mut inbox: mpsc::Receiver<Event>,
        events: mpsc::Sender<Event>,
        stop: CancellationToken,
    ) -> Result<(), IndexerError> {
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
        let mut batch = Vec::with_capacity(BATCH_MAX);
        loop {
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                _ = tick.tick() => batch.push(Event::Tick),
                count = inbox.recv_many(&mut batch, BATCH_MAX) => if count == 0 { return Ok(()) },
            }
            let mut effects = Vec::new();
            for event in batch.drain(..) {
                effects.extend(self.brain.handle(event, self.clock.now()));
            }
            self.perform(effects, &events).await?;
            self.gauges.set(self.brain.listed() as u64, self.brain.waiting() as u64);
            metrics::gauge!("muster_indexer_containers").set(self.brain.listed() as f64);
        }
    }

    async fn perform(&self, effects: Vec<Effect>, events: &mpsc::Sender<Event>) -> Result<(), IndexerError> {
        let records: Vec<Record> = effects
            .iter()
            .filter_map(|e| match e {
                Effect::Save(record) => Some((**record).clone()),
                Effect::Offer { .. } | Effect::Withdraw { .. } | Effect::Reply { .. } => None,
            })
            .collect();
        if !records.is_empty() {
            self.store.save(&records).await?;
        }
        for effect in effects {
            match effect {
                Effect::Save(_) => {}
                Effect::Offer { call, to, terms } => {
                    metrics::counter!("muster_indexer_offers_total").increment(1);
                    self.routes.offer(call, to, *terms, events.clone());
                }
                Effect::Withdraw { from, lease } => self.routes.withdraw(from, lease),
                Effect::Reply { reply, answer } => {
                    let kind = match &*answer {
                        muster_core::protocol::MatchReply::Matched(_) => "matched",
                        muster_core::protocol::MatchReply::Failed(_) => "failed",
                    };
                    metrics::counter!("muster_indexer_answers_total", "answer" => kind).increment(1);
                    self.routes.reply(reply, *answer);
                }
            }
        }
        Ok(())
    }
}
