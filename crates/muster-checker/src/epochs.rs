//! Every epoch in its order: the registry is frozen, the beacon awaited, the draw made.

use std::sync::Arc;
use std::time::Duration;

use muster_core::brain::checker::{ChainSeen, Event};
use muster_core::epoch::{Draw, EpochNo, Phase, RegistryView};
use muster_core::reward::{ChainFacts, Published, State};
use muster_core::units::TimeMs;
use tracing::{info, warn};

use crate::ledger::{LedgerError, Snapshot};
use crate::node::{House, Kept};
use crate::view;

/// Pauses between tries while the chain, the beacon or other Checkers do not answer.
const RETRY: Duration = Duration::from_millis(250);
const RETRY_MAX: Duration = Duration::from_secs(5);

/// Why an epoch could not be drawn yet.
#[derive(Debug, thiserror::Error)]
enum NotYet {
    #[error("the chain: {0}")]
    Chain(#[from] LedgerError),
    #[error("the beacon: {0}")]
    Beacon(#[from] crate::beacon::BeaconError),
    #[error("the registry: {0}")]
    View(#[from] muster_core::epoch::ViewError),
    #[error("nobody gives what was published with the outcome of epoch {0}")]
    Published(EpochNo),
    #[error("the outcome of epoch {0} was replaced, and nobody gives what was published with it")]
    Withheld(EpochNo),
    #[error("the draw could not be made: {0}")]
    Draw(String),
}

/// What the chain says of a whole epoch; asked a little after it is over, so that its last block is there.
pub(crate) async fn facts(house: &House, epoch: EpochNo) -> Result<ChainFacts, LedgerError> {
    let params = &house.params.epoch;
    let over = params.end(epoch).plus(settle_ms(house));
    let now = house.clock.now();
    tokio::time::sleep(Duration::from_millis(over.since(now))).await;
    house.ledger.facts(params.begin(epoch), params.end(epoch)).await
}

/// How long after an instant the blocks before it are waited for: half of the time in which the draw is awaited.
fn settle_ms(house: &House) -> u64 {
    let params = &house.params.epoch;
    let epoch = EpochNo(1);
    params.begin_of(epoch, Phase::Tests).since(params.begin(epoch)) / 2
}

/// Draws every epoch from the first that is not settled on, until told to stop.
pub(crate) async fn run(house: Arc<House>) {
    let Some(mut next) = first(&house).await else { return };
    let mut pause = RETRY;
    loop {
        let due = house.params.epoch.begin(next).plus(settle_ms(&house));
        let wait = Duration::from_millis(due.since(house.clock.now()));
        tokio::select! {
            () = house.stop.cancelled() => return,
            () = tokio::time::sleep(wait) => {}
        }
        if house.params.epoch.at(house.clock.now()) < next {
            continue;
        }
        match draw(&house, next).await {
            Ok(drawn) => {
                pause = RETRY;
                house.board.problem("draw", None);
                let chance = house.chance(&drawn);
                info!(epoch = %next, view = %drawn.view_hash(), "epoch drawn");
                house.tell(Event::Epoch { draw: drawn, chance }).await;
                next = next.next();
            }
            Err(NotYet::Withheld(epoch)) => {
                warn!(%next, settled = %epoch, "an epoch is left out: it began with an outcome whose data was withheld");
                next = next.next();
            }
            Err(why) => {
                let said = format!("epoch {next} cannot be drawn yet: {why}");
                warn!(epoch = %next, %why, "an epoch cannot be drawn yet");
                house.board.problem("draw", Some(said));
                tokio::select! {
                    () = house.stop.cancelled() => return,
                    () = tokio::time::sleep(pause) => {}
                }
                pause = pause.saturating_mul(2).min(RETRY_MAX);
            }
        }
    }
}

/// The first epoch whose draw is needed: the last that is settled on the chain, whose draw names who settles the next.
async fn first(house: &House) -> Option<EpochNo> {
    loop {
        match house.ledger.outcomes().await {
            Ok(posted) => {
                let last = posted.last().map(|one| one.outcome.last_epoch);
                let genesis = house.ledger.genesis();
                return Some(last.map_or(genesis, |last| last.max(genesis)));
            }
            Err(why) => house.chain_problem(Some(why.to_string())),
        }
        tokio::select! {
            () = house.stop.cancelled() => return None,
            () = tokio::time::sleep(RETRY_MAX) => {}
        }
    }
}

async fn draw(house: &Arc<House>, epoch: EpochNo) -> Result<Arc<Draw>, NotYet> {
    let begin = house.params.epoch.begin(epoch);
    let snapshot = house.ledger.snapshot(begin).await?;
    let (view, snapshot) = freeze(house, snapshot, epoch).await?;
    let seed = house.beacon.seed(epoch).await?;
    let params = house.params.epoch.clone();
    let making = move || Draw::new(Arc::new(view), params, seed);
    let draw = Arc::new(house.compute(making).await.map_err(NotYet::Draw)?);
    house.note_nodes(&snapshot);
    house.keep_epoch(Kept::new(Arc::clone(&draw), &snapshot));
    Ok(draw)
}

/// The view of an epoch with what earlier epochs found.
async fn freeze(house: &Arc<House>, snapshot: Snapshot, epoch: EpochNo) -> Result<(RegistryView, Snapshot), NotYet> {
    // Whoever is in it may have to be asked for what was published.
    house.note_nodes(&snapshot);
    let state = match &snapshot.outcome {
        None => State::default(),
        Some(outcome) => {
            let missing = || NotYet::Published(outcome.last_epoch);
            let Some(bytes) = house.find(outcome.data_hash, None).await else {
                // One that fell since will never be had; nobody can draw by it, and the epoch counts as silent.
                let stands = house.ledger.history().await?.contains(outcome);
                return Err(if stands { missing() } else { NotYet::Withheld(outcome.last_epoch) });
            };
            house.keep(crate::evidence::Kind::Published, &bytes).map_err(NotYet::Draw)?;
            Published::decode(&bytes).map_err(|_| missing())?.state
        }
    };
    let view = view::view(&snapshot, epoch, house.ledger.genesis(), &house.params, &house.table)?;
    Ok((state.freeze(view), snapshot))
}

/// Reads the outcomes again and again, and lets time pass for the brain.
pub(crate) async fn watch(house: Arc<House>) {
    let every = Duration::from_millis(house.params.epoch.epoch_ms / 60)
        .clamp(Duration::from_millis(300), Duration::from_secs(10));
    loop {
        match house.ledger.outcomes().await {
            Ok(posted) => {
                house.chain_problem(None);
                house.tell(Event::Chain(Box::new(ChainSeen { posted }))).await;
            }
            Err(why) => house.chain_problem(Some(why.to_string())),
        }
        tokio::select! {
            () = house.stop.cancelled() => return,
            () = tokio::time::sleep(every) => {}
        }
    }
}

/// Ticks: at least every second, and some hundred times an epoch.
pub(crate) async fn tick(house: Arc<House>) {
    let every = Duration::from_millis((house.params.epoch.epoch_ms / 300).clamp(50, 500));
    let mut pruned: Option<TimeMs> = None;
    loop {
        house.tell(Event::Tick).await;
        let now = house.clock.now();
        if pruned.is_none_or(|at| now.since(at) > house.params.epoch.epoch_ms) {
            pruned = Some(now);
            let store = house.evidence.clone();
            house.blocking(move || store.prune(std::time::SystemTime::now())).await;
        }
        tokio::select! {
            () = house.stop.cancelled() => return,
            () = tokio::time::sleep(every) => {}
        }
    }
}
