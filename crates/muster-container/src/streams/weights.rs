//! Weights that other Containers ask for: those that anybody may have, a few at a time.

use std::sync::Arc;
use std::time::Duration;

use muster_net::{NetError, Stream};
use muster_wire::message::session::Sentence;
use muster_wire::message::weights::{WeightsGiven, WeightsWanted};
use tokio::io::{AsyncReadExt as _, AsyncSeekExt as _, AsyncWriteExt as _};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::timeout;
use tracing::info;

use super::{Guest, House, PROOF_WITHIN, SEND_WITHIN};
use crate::models::Held;

/// So many others are given weights at one time; the next one is told to ask elsewhere.
pub(crate) const GIVEN_MAX: usize = 2;
/// So much is read at a time.
const CHUNK: usize = 256 << 10;
/// Who takes nothing for so long wants no more.
const TAKE_WITHIN: Duration = Duration::from_secs(30);

impl House {
    pub(super) async fn weights(self: &Arc<Self>, guest: &Guest, stream: Stream) -> Result<(), NetError> {
        let mut stream = stream.framed();
        let wanted: WeightsWanted = stream.recv_within(PROOF_WITHIN).await?;
        let (held, _turn) = match self.may_have(&wanted) {
            Ok(given) => given,
            Err(why) => {
                let (_, mut writer) = stream.split();
                writer.send_within(&WeightsGiven::Not { why: Sentence::truncated(why) }, SEND_WITHIN).await?;
                return writer.finish().await;
            }
        };
        // Whoever is given something is no stranger who does nothing.
        guest.is_neighbour();
        let (_, mut writer) = stream.split();
        writer.send_within(&WeightsGiven::Here, SEND_WITHIN).await?;
        let mut to = writer.into_raw().await?;
        let mut file = tokio::fs::File::open(&held.path).await?;
        file.seek(std::io::SeekFrom::Start(wanted.from)).await?;
        let mut chunk = vec![0; CHUNK];
        let mut sent = 0u64;
        loop {
            let count = file.read(&mut chunk).await?;
            let Some(piece) = chunk.get(..count).filter(|piece| !piece.is_empty()) else { break };
            let slow = |_| std::io::Error::new(std::io::ErrorKind::TimedOut, "nobody takes the weights");
            timeout(TAKE_WITHIN, to.write_all(piece)).await.map_err(slow)??;
            sent = sent.saturating_add(u64::try_from(count).unwrap_or(u64::MAX));
        }
        metrics::counter!("muster_container_weights_given_bytes_total").increment(sent);
        info!(weights = %wanted.weights, to = %guest.connection.remote_id().short(), sent, "weights were given");
        to.finish()
    }

    /// The weights and a turn, where anybody may have them and there is one.
    fn may_have(&self, wanted: &WeightsWanted) -> Result<(Held, OwnedSemaphorePermit), &'static str> {
        let models = self.jobs.models().ok_or("this Container serves no models")?;
        let turn = Arc::clone(&self.giving).try_acquire_owned();
        let turn = turn.map_err(|_| "this Container gives weights to others already; ask another one")?;
        let held = models.hold_public(wanted.weights, wanted.bytes);
        Ok((held.ok_or("this Container does not have these weights, or may not pass them on")?, turn))
    }
}
