//! The chain's registry, read again and again: the chain alone says who is a Container.

use std::collections::BTreeMap;
use std::time::Duration;

use muster_chain::settle::{ChainClient, NodeKind, NodeOnChain, NodeStatus};
use muster_core::brain::indexer::{Event, Registered};
use muster_core::ids::NodeId;
use muster_core::params::Params;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::checked::Proved;

/// The shortest pause between two readings.
const PAUSE_MIN: Duration = Duration::from_millis(500);

/// Reads the registry until told to stop. While the chain does not answer, what was known stays: unknown is not "no".
///
/// Where proof is demanded, a Container that has not proved its cards, or has to prove them anew, is offered no work.
pub(crate) async fn watch(
    chain: ChainClient,
    params: Params,
    events: mpsc::Sender<Event>,
    mut proved: watch::Receiver<Proved>,
    stop: CancellationToken,
) {
    let pause = Duration::from_millis(params.heartbeat_ms / 2).max(PAUSE_MIN);
    let mut known: BTreeMap<NodeId, Registered> = BTreeMap::new();
    let mut down = false;
    loop {
        match chain.nodes(NodeKind::Container).await {
            Ok(nodes) => {
                if std::mem::take(&mut down) {
                    tracing::info!("the chain answers again");
                }
                let demanded = proved.borrow_and_update().clone();
                let proven = |node: &NodeId| demanded.as_ref().is_none_or(|proved| proved.contains(node));
                let registered = |n: &NodeOnChain| {
                    let active = n.status == NodeStatus::Active && proven(&n.node);
                    (n.node, Registered { active, stake: n.stake })
                };
                let now: BTreeMap<NodeId, Registered> = nodes.iter().map(registered).collect();
                if tell(&known, &now, &events).await.is_err() {
                    return;
                }
                known = now;
            }
            Err(e) => {
                if !std::mem::replace(&mut down, true) {
                    tracing::warn!(error = %e, "the registry cannot be read; going on with what is known");
                }
            }
        }
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            // Nobody tells where no outcomes are followed.
            Ok(()) = proved.changed() => {}
            () = stop.cancelled() => return,
        }
    }
}

async fn tell(
    before: &BTreeMap<NodeId, Registered>,
    now: &BTreeMap<NodeId, Registered>,
    events: &mpsc::Sender<Event>,
) -> Result<(), mpsc::error::SendError<Event>> {
    for (container, registered) in now {
        if before.get(container) != Some(registered) {
            events.send(Event::Registry { container: *container, registered: Some(*registered) }).await?;
        }
    }
    for container in before.keys().filter(|c| !now.contains_key(c)) {
        events.send(Event::Registry { container: *container, registered: None }).await?;
    }
    Ok(())
}
