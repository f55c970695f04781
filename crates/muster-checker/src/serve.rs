//! What others open on a Checker: other Checkers' words, and whoever wants evidence.

use std::sync::Arc;
use std::time::Duration;

use muster_core::epoch::EpochNo;
use muster_core::ids::NodeId;
use muster_net::{Connection, NetError, Stream, StreamKind};
use muster_wire::message::audit::{Evidence, PIECE_LEN_MAX, Wanted};
use tracing::debug;

use crate::evidence::Kind;
use crate::examine::SET_PROOF;
use crate::gossip;
use crate::node::House;
use crate::tasks::set_proof;

/// How long a question may take to come.
const QUESTION_WITHIN: Duration = Duration::from_secs(5);
/// How long a piece may wait for somebody who does not read.
const SEND_WITHIN: Duration = Duration::from_secs(10);

/// Takes connections until told to stop.
pub(crate) async fn accept(house: Arc<House>) {
    loop {
        let connection = tokio::select! {
            () = house.stop.cancelled() => return,
            connection = house.peer.accept() => match connection {
                Ok(connection) => connection,
                Err(error) => {
                    debug!(%error, "no more connections are taken");
                    return;
                }
            },
        };
        house.tasks.spawn(streams(Arc::clone(&house), connection));
    }
}

/// Takes the streams of one connection until it is lost.
pub(crate) async fn streams(house: Arc<House>, connection: Connection) {
    loop {
        let stream = tokio::select! {
            () = house.stop.cancelled() => return,
            stream = connection.accept_bi() => stream,
        };
        match stream {
            Ok(stream) => {
                let (house, connection) = (Arc::clone(&house), connection.clone());
                house.clone().tasks.spawn(async move {
                    let (kind, peer) = (stream.kind(), stream.remote_id());
                    let outcome = tokio::select! {
                        () = house.stop.cancelled() => return,
                        outcome = take(&house, &connection, stream) => outcome,
                    };
                    if let Err(error) = outcome {
                        debug!(peer = %peer.short(), ?kind, %error, "stream over");
                    }
                });
            }
            Err(error) => {
                debug!(peer = %connection.remote_id().short(), %error, "connection over");
                return;
            }
        }
    }
}

async fn take(house: &Arc<House>, connection: &Connection, stream: Stream) -> Result<(), NetError> {
    match stream.kind() {
        StreamKind::Checkers => gossip::take(house, connection, stream).await,
        StreamKind::Evidence => evidence(house, stream).await,
        other => Err(connection.cut(&format!("a Checker speaks no {other:?}"))),
    }
}

/// Gives what is wanted, if it is here.
async fn evidence(house: &Arc<House>, stream: Stream) -> Result<(), NetError> {
    let asker = stream.remote_id();
    let (mut reader, mut writer) = stream.framed().split();
    let wanted: Wanted = reader.recv_within(QUESTION_WITHIN).await?;
    let bytes = match wanted {
        Wanted::Bytes { hash } | Wanted::Reports { hash } => {
            let store = house.evidence.clone();
            house.blocking(move || store.get(&hash)).await.flatten()
        }
        Wanted::SetProof { epoch, nth } => set(house, asker, EpochNo(epoch), nth).await,
    };
    let Some(bytes) = bytes else {
        writer.send_within(&Evidence::Absent, SEND_WITHIN).await?;
        return writer.finish().await;
    };
    let len = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
    writer.send_within(&Evidence::Here { len }, SEND_WITHIN).await?;
    for piece in bytes.chunks(PIECE_LEN_MAX) {
        let Ok(piece) = piece.try_into() else { break };
        writer.send_within(&Evidence::Piece(piece), SEND_WITHIN).await?;
    }
    writer.finish().await
}

/// The proof that this Checker sets for the one that asks, if it was drawn to.
async fn set(house: &Arc<House>, asker: NodeId, epoch: EpochNo, nth: u16) -> Option<Vec<u8>> {
    let draw = house.draw(epoch)?;
    let checker = draw.view().checker(&asker)?;
    let me = draw.view().checker(&house.id)?;
    if draw.setter(checker, nth) != Some(me) {
        return None;
    }
    let secret = house.secret_of(&draw);
    let bad = draw.planted(&secret, checker, nth);
    let (me, table) = (house.id, Arc::clone(&house.table));
    let making = move || set_proof(&draw, &secret, (me, asker), nth, bad, &table);
    let mut made = match house.compute(making).await {
        Ok(Ok(made)) => made,
        Ok(Err(why)) | Err(why) => {
            debug!(%why, "a proof could not be set");
            return None;
        }
    };
    made.signature = house.secret.sign(SET_PROOF, &made.digest());
    let bytes = made.bytes().ok()?;
    // Kept, so that whoever has to run it again finds it here as well.
    house.keep(Kind::Transcript, &bytes).ok()?;
    Some(bytes)
}
