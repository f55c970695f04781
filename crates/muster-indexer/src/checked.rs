//! What Checkers found, as the last outcome on the chain says: quality for the ranking, and who has proved its cards.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use muster_chain::epochs::{EpochClient, EpochContracts};
use muster_chain::settle::{ChainClient, ClientError, NodeKind, NodeStatus};
use muster_core::brain::indexer::Event;
use muster_core::ids::{ContentHash, NodeId};
use muster_core::reward::Published;
use muster_net::evidence::fetch;
use muster_net::{Peer, PeerAddr};
use muster_wire::endpoint::Endpoint;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

/// The longest published state that is fetched, in bytes: that of some millions of Containers.
const STATE_LEN_MAX: u64 = 512 << 20;
/// Checkers that are asked for it.
const ASKED_MAX: usize = 16;

/// Where outcomes are, and what is made of them.
#[derive(Clone, Copy, Debug)]
pub struct Checked {
    /// The contracts of epochs.
    pub contracts: EpochContracts,
    /// A block at or before their deployment.
    pub from_block: u64,
    /// Whether only Containers that have proved their cards are offered. It holds once an outcome stands: before that
    /// nobody could have proved anything.
    pub demands_proof: bool,
    /// How often the chain is asked.
    pub every: Duration,
}

/// Containers that have proved their cards; `None` while nobody asks for it.
pub(crate) type Proved = Option<Arc<BTreeSet<NodeId>>>;

/// Follows the outcomes until told to stop. What was known stays while the chain or the Checkers are away.
pub(crate) async fn follow(
    checked: Checked,
    chain: ChainClient,
    peer: Peer,
    events: mpsc::Sender<Event>,
    proved: watch::Sender<Proved>,
    stop: CancellationToken,
) {
    let reads = EpochClient::new(chain, checked.contracts);
    let mut known: Option<ContentHash> = None;
    loop {
        match look(&reads, checked.from_block, &peer, known).await {
            Ok(None) => {}
            Ok(Some((hash, published))) => {
                known = Some(hash);
                tracing::info!(epoch = %published.last, "an outcome tells the Containers' quality");
                let mut all = BTreeSet::new();
                for record in &published.state.containers {
                    if record.proved {
                        all.insert(record.node);
                    }
                    let event = Event::Checked { container: record.node, quality_bps: record.quality_bps };
                    if events.send(event).await.is_err() {
                        return;
                    }
                }
                if checked.demands_proof {
                    proved.send_replace(Some(Arc::new(all)));
                }
            }
            Err(why) => tracing::debug!(%why, "the outcomes cannot be followed just now"),
        }
        tokio::select! {
            () = tokio::time::sleep(checked.every) => {}
            () = stop.cancelled() => return,
        }
    }
}

/// What the last outcome left, where that is news.
async fn look(
    reads: &EpochClient,
    from_block: u64,
    peer: &Peer,
    known: Option<ContentHash>,
) -> Result<Option<(ContentHash, Published)>, String> {
    let words = |error: ClientError| error.to_string();
    let last = reads.outcomes(from_block).await.map_err(words)?.into_values().next_back();
    // The first entry only names the first committees.
    let hash = last.map(|posted| ContentHash(posted.outcome.data_hash)).filter(|hash| *hash != ContentHash::ZERO);
    let Some(hash) = hash.filter(|hash| Some(*hash) != known) else { return Ok(None) };
    let checkers = reads.client().nodes(NodeKind::Checker).await.map_err(words)?;
    let mut why = "no Checker is registered".to_owned();
    for checker in checkers.iter().filter(|node| node.status == NodeStatus::Active).take(ASKED_MAX) {
        let addr = PeerAddr::registered(checker.node, &Endpoint::parse(&checker.endpoint));
        match fetch(peer, &addr, hash, STATE_LEN_MAX).await {
            Ok(bytes) => return Ok(Some((hash, Published::decode(&bytes).map_err(|error| error.to_string())?))),
            Err(error) => why = error.to_string(),
        }
    }
    Err(format!("nobody gives what was published with the last outcome: {why}"))
}
