//! The brain's thread: events in, durable records, effects out, in their order.

use std::sync::Arc;

use muster_core::brain::checker::{Checker, Effect, Event, Message, Saved};
use muster_core::epoch::EpochNo;
use muster_core::ids::ContentHash;
use muster_core::reward::{LeafKind, Reexecution, owner_key};
use muster_core::units::TokenAmount;
use tokio::sync::mpsc;
use tracing::{debug, error, info, warn};

use crate::disputes;
use crate::epochs;
use crate::evidence::Kind;
use crate::gossip;
use crate::node::House;
use crate::store::{Store, StoreError};
use crate::tasks;

/// A block's time may be so much behind this clock; an outcome is taken once its last epoch is over by the chain's time.
const BLOCK_LATE_MS: u64 = 1_000;

/// Runs until nobody sends events any more.
///
/// # Errors
/// The records cannot be written: nothing that stands behind them may happen.
pub(crate) fn run(
    mut brain: Checker,
    mut store: Store,
    mut inbox: mpsc::Receiver<Event>,
    house: &Arc<House>,
) -> Result<(), StoreError> {
    while let Some(event) = inbox.blocking_recv() {
        if house.stop.is_cancelled() {
            break;
        }
        let tick = matches!(event, Event::Tick);
        let effects = brain.handle(event, house.clock.now());
        let mut rest = effects.as_slice();
        while !rest.is_empty() {
            let saves: Vec<&Saved> = rest
                .iter()
                .map_while(|effect| match effect {
                    Effect::Save(saved) => Some(&**saved),
                    _ => None,
                })
                .collect();
            if saves.is_empty() {
                let (first, behind) = rest.split_at(1);
                for effect in first {
                    perform(house, &brain, effect);
                }
                rest = behind;
            } else {
                store.save(&saves)?;
                rest = rest.split_at(saves.len()).1;
            }
        }
        if tick {
            show(house, &brain);
        }
    }
    Ok(())
}

/// Begins what an effect says; nothing here waits for the network, the chain or a proof.
fn perform(house: &Arc<House>, brain: &Checker, effect: &Effect) {
    match effect {
        // Done by the caller.
        Effect::Save(_) => {}
        Effect::Perform { epoch, assignment } => {
            house.spawn(tasks::perform(Arc::clone(house), *epoch, *assignment));
        }
        Effect::Vouch(commitment) => {
            let vouched = gossip::vouch(house, *commitment);
            let house = Arc::clone(house);
            // A member's word for its own commitment counts like any other member's: without it a small committee could
            // not settle what its own members found as soon as one of them is away.
            let receipt = gossip::receipt(&house, &vouched);
            let own = Message::Receipt { epoch: vouched.epoch, hash: vouched.hash, receipt };
            house.clone().spawn(async move {
                house.tell(Event::Vouched(vouched)).await;
                house.tell(Event::Heard { from: house.id, message: Box::new(own) }).await;
            });
        }
        Effect::Acknowledge(commitment) => {
            let receipt = gossip::receipt(house, commitment);
            let message = Message::Receipt { epoch: commitment.epoch, hash: commitment.hash, receipt };
            gossip::send(house, commitment.checker, &message);
        }
        Effect::Send { to, message } => {
            if let Message::Reveal(entry) = &**message
                && entry.commitment.checker == house.id
            {
                clock_problem(house, brain, entry.commitment.epoch, entry.receipts.len());
            }
            gossip::send(house, *to, message);
        }
        Effect::Reexecute { epoch, doubt } => {
            house.spawn(reexecute(Arc::clone(house), *epoch, *doubt));
        }
        Effect::Publish(bytes) => match house.keep(Kind::Published, bytes) {
            Ok(hash) => debug!(%hash, "published"),
            Err(why) => warn!(%why, "what was published with an outcome cannot be kept"),
        },
        Effect::Fetch(hash) => house.spawn(fetch_published(Arc::clone(house), *hash)),
        Effect::Forget(epoch) => house.forget(*epoch),
        Effect::AskFacts(_)
        | Effect::Sign(_)
        | Effect::Post { .. }
        | Effect::Finalize(_)
        | Effect::Slash { .. }
        | Effect::Dispute { .. }
        | Effect::Resolve { .. } => on_chain(house, brain, effect),
        Effect::Reexamine(posted) => house.spawn(disputes::reexamine(Arc::clone(house), **posted)),
    }
}

/// What is asked of the chain, each in a task of its own; what fails is asked again by the brain.
fn on_chain(house: &Arc<House>, brain: &Checker, effect: &Effect) {
    let ours = Arc::clone(house);
    match effect.clone() {
        Effect::AskFacts(epoch) => house.spawn(async move {
            match epochs::facts(&ours, epoch).await {
                Ok(facts) => ours.tell(Event::Facts { epoch, facts: Box::new(facts) }).await,
                Err(why) => ours.chain_problem(Some(why.to_string())),
            }
        }),
        Effect::Sign(outcome) => house.spawn(async move {
            match ours.ledger.sign(*outcome).await {
                Ok(signed) => ours.tell(Event::Signed(Box::new(signed))).await,
                Err(why) => ours.chain_problem(Some(why.to_string())),
            }
        }),
        Effect::Post { outcome, signatures, published } => {
            if let Err(why) = house.keep(Kind::Published, &published) {
                // What nobody could fetch is not posted.
                warn!(%why, "an outcome is not posted, because its data cannot be kept");
                return;
            }
            let members = brain.committee(outcome.first_epoch).iter().map(|member| member.signer).collect();
            info!(first = %outcome.first_epoch, last = %outcome.last_epoch, "posting an outcome");
            // Chains whose blocks are later than this clock take it a moment later.
            let due = house.params.epoch.end(outcome.last_epoch).plus(BLOCK_LATE_MS);
            let early = std::time::Duration::from_millis(due.since(house.clock.now()));
            house.spawn(async move {
                tokio::time::sleep(early).await;
                ours.said(ours.ledger.post(*outcome, members, signatures).await, "an outcome was not posted");
            });
        }
        Effect::Finalize(posted) => house.spawn(async move {
            ours.said(ours.ledger.finalize(posted).await, "an outcome was not made final");
        }),
        Effect::Slash { leaf, proof } => house.spawn(async move {
            let (epoch, node) = (leaf.last_epoch, leaf.node);
            let done = ours.ledger.slash(leaf, proof).await;
            if done.is_ok() {
                info!(%epoch, node = %node.short(), amount = %leaf.amount, "slashed");
                ours.tell(Event::SlashExecuted { epoch, node }).await;
            }
            ours.said(done, "a slash was not executed");
        }),
        Effect::Resolve { posted, right, members, signatures } => house.spawn(async move {
            info!(last = %posted.last_epoch, upheld = posted == right, "a dispute is decided");
            ours.said(ours.ledger.resolve(*posted, *right, members, signatures).await, "a dispute was not ended");
        }),
        Effect::Dispute { posted } => house.spawn(async move {
            warn!(last = %posted.last_epoch, "an outcome on the chain is wrong: disputing it");
            ours.said(ours.ledger.dispute(*posted).await, "an outcome was not disputed");
        }),
        Effect::Save(_)
        | Effect::Perform { .. }
        | Effect::Vouch(_)
        | Effect::Acknowledge(_)
        | Effect::Send { .. }
        | Effect::Reexecute { .. }
        | Effect::Publish(_)
        | Effect::Fetch(_)
        | Effect::Reexamine(_)
        | Effect::Forget(_) => {}
    }
}

/// Nobody's receipt by the time of the reveal: this clock, or the way to the committee.
fn clock_problem(house: &House, brain: &Checker, epoch: EpochNo, receipts: usize) {
    let others = brain.committee(epoch).iter().any(|member| member.node != house.id);
    let why = (others && receipts == 0).then(|| {
        format!(
            "no member of the committee of epoch {epoch} gave a receipt for this Checker's commitment; compare \
                 this machine's clock with others', and see whether they can be reached"
        )
    });
    house.board.problem("clock", why);
}

/// Fetches a transcript from its Checker, or whoever has it, and runs it again.
async fn reexecute(house: Arc<House>, epoch: EpochNo, doubt: muster_core::reward::Doubt) {
    let result = examine(&house, epoch, &doubt).await;
    house.board.count(|counted| counted.reexecuted += 1);
    info!(%epoch, kind = %doubt.task.kind, checker = doubt.checker, ?result, "ran a result again");
    house.tell(Event::Reexecuted { epoch, doubt, result }).await;
}

async fn examine(house: &Arc<House>, epoch: EpochNo, doubt: &muster_core::reward::Doubt) -> Reexecution {
    let Some(draw) = house.draw(epoch) else { return Reexecution::Unavailable };
    let place = |at: u32| usize::try_from(at).unwrap_or(usize::MAX);
    let owner = draw.view().checkers().get(place(doubt.checker)).map(|c| c.node);
    let Some(bytes) = house.find(doubt.transcript, owner).await else { return Reexecution::Unavailable };
    // Kept here as well: whoever disputes the outcome asks those who signed it.
    if let Err(why) = house.keep(Kind::Transcript, &bytes) {
        debug!(%why, "evidence of another Checker cannot be kept");
    }
    let container = draw.view().containers().get(place(doubt.task.subject)).map(|c| c.node);
    let claims = container.map(|node| house.claims(epoch, node)).unwrap_or_default();
    let (doubt, scale, table) = (*doubt, house.params.proof, Arc::clone(&house.table));
    let running = move || crate::examine::reverify(&bytes, &draw, &doubt, scale, &table, &claims);
    house.compute(running).await.unwrap_or(Reexecution::Unavailable)
}

async fn fetch_published(house: Arc<House>, hash: ContentHash) {
    match house.find(hash, None).await {
        Some(bytes) => house.tell(Event::Published(Arc::new(bytes))).await,
        None => debug!(%hash, "nobody gives what was published with an outcome"),
    }
}

/// Writes the board.
fn show(house: &House, brain: &Checker) {
    let now = house.clock.now();
    let (epoch, phase) = house.params.epoch.phase(now);
    let state = brain.state();
    let draw = brain.draw(epoch);
    let owners = draw.map(|draw| {
        let me = draw.view().checker(&house.id);
        let serving = draw.view().serving_checkers();
        let mut owners: Vec<_> = draw
            .view()
            .licences()
            .iter()
            .zip(serving)
            .filter(|(_, checker)| me.is_some() && *checker == me)
            .map(|(licence, _)| licence.owner)
            .collect();
        let count = u32::try_from(owners.len()).unwrap_or(u32::MAX);
        owners.sort_unstable();
        owners.dedup();
        (me.is_some_and(|me| draw.can_be_drawn(me)), count, owners)
    });
    let transcripts = house.evidence.transcripts();
    let open = u64::try_from(brain.open_epochs().count()).unwrap_or(u64::MAX);
    house.board.note(|status| {
        status.epoch = epoch;
        status.phase = phase;
        status.settled = state.settled;
        status.open = open;
        status.transcripts = transcripts;
        if let (Some(draw), Some((drawable, licences, owners))) = (draw, owners) {
            status.view = Some(draw.view_hash());
            status.drawable = drawable;
            status.licences = licences;
            let leaf = |owner| state.leaf(LeafKind::LicenceOwner, &owner_key(owner)).map_or(0, |(_, l)| l.cumulative);
            status.earned = TokenAmount(owners.iter().map(leaf).fold(0, u128::saturating_add));
        }
    });
}

/// What a thread that ended with an error says.
pub(crate) fn fallen(error: &StoreError) {
    error!(%error, "the records cannot be written; the Checker stops");
}
