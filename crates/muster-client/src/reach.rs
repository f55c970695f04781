//! Who is near: candidates of an Indexer, and the round trips to them, measured before the choice.

use std::time::{Duration, Instant};

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use muster_core::demand::{Demand, Reach};
use muster_core::ids::NodeId;
use muster_core::protocol::{Candidates, CandidatesRequest, NodeAddr};
use muster_net::StreamKind;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::renter::{Renter, dialable};

/// How long the answer of an Indexer may take.
const ASK_WITHIN: Duration = Duration::from_secs(2);
/// How long measuring may take in all: who has not answered by then is too far away to play on.
const MEASURE_WITHIN: Duration = Duration::from_millis(700);
/// Once somebody has answered, others are awaited for as long again, and this much more.
const GRACE: Duration = Duration::from_millis(20);
/// Round trips that are measured on a connection; the least counts.
const TRIPS: u32 = 3;

/// What measuring came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Measured {
    /// Who was asked for.
    pub candidates: usize,
    /// Who answered, the nearest first.
    pub reached: Vec<Reach>,
}

/// Asks Indexers for Containers that would serve a demand, and measures the way to each. The connections stay open for
/// a moment, so that the one that is chosen need not be dialled again. Nobody where no Indexer answers: matching says why.
pub async fn measure(renter: &Renter, demand: &Demand) -> Measured {
    let Some(containers) = candidates(renter, demand).await else { return Measured::default() };
    let candidates = containers.len();
    // Where there is no choice there is nothing to measure for.
    if candidates < 2 && demand.latency_ms_max.is_none() {
        return Measured { candidates, reached: Vec::new() };
    }
    let began = Instant::now();
    let mut trips: FuturesUnordered<_> = containers.iter().map(|addr| round_trip(renter, addr)).collect();
    let mut reached: Vec<Reach> = Vec::new();
    let mut until = began + MEASURE_WITHIN;
    while let Ok(Some(trip)) = tokio::time::timeout_at(until.into(), trips.next()).await {
        let Some((node, us)) = trip else { continue };
        if reached.is_empty() {
            until = until.min(Instant::now() + began.elapsed() + GRACE);
        }
        reached.push(Reach { node, round_trip_us: Some(us) });
    }
    reached.sort_unstable_by_key(|reach| reach.round_trip_us);
    Measured { candidates, reached }
}

/// The candidates of the first Indexer that answers.
async fn candidates(renter: &Renter, demand: &Demand) -> Option<Vec<NodeAddr>> {
    let request = CandidatesRequest { demand: demand.clone() };
    let addrs = renter.network().indexer_addrs();
    let first = if addrs.is_empty() { 0 } else { rand::random_range(0..addrs.len()) };
    for addr in addrs.iter().cycle().skip(first).take(addrs.len()) {
        match renter.ask::<_, Candidates>(addr, StreamKind::Candidates, &request, ASK_WITHIN).await {
            Ok(answer) => return Some(answer.containers),
            Err(why) => tracing::debug!(indexer = %addr.id.short(), %why, "an Indexer named no candidates"),
        }
    }
    None
}

/// The least round trip to a Container; `None` when it cannot be reached.
async fn round_trip(renter: &Renter, addr: &NodeAddr) -> Option<(NodeId, u32)> {
    let connection = renter.peer().connect(&dialable(addr).ok()?).await.ok()?;
    let mut line = connection.open_bi(StreamKind::Echo).await.ok()?;
    let mut least = u32::MAX;
    for count in 0..TRIPS {
        let (began, sent, mut back) = (Instant::now(), count.to_be_bytes(), [0; 4]);
        line.write_all(&sent).await.ok()?;
        line.read_exact(&mut back).await.ok()?;
        if back != sent {
            return None;
        }
        least = least.min(u32::try_from(began.elapsed().as_micros()).unwrap_or(u32::MAX));
    }
    Some((addr.id, least))
}
