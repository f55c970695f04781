//! Inputs that a consumer brings, and outputs that it takes home.

use std::sync::Arc;
use std::time::Duration;

use muster_core::brain::container::Event;
use muster_core::ids::LeaseId;
use muster_core::lease::Phase;
use muster_net::{FrameReader, FrameWriter, NetError, Stream};
use muster_wire::message::clip_sentence;
use muster_wire::message::files::{Outcome, Piece, Transfer};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tracing::{debug, info};

use super::{Guest, House, PROOF_WITHIN, SEND_WITHIN};
use crate::jobs::{Intake, Outtake, Workplace};

/// Pieces on their way between the network and the disk.
const QUEUE: usize = 8;
/// A sender of inputs that says nothing for so long has given up.
const PIECE_WITHIN: Duration = Duration::from_secs(30);
/// Inputs keep an open lease from ending as never started only while they come at least so fast: bytes a second.
const UPLOAD_MIN: u64 = 16 * 1024;
/// How often the brain is told that inputs arrive.
const TOUCH_EVERY: Duration = Duration::from_secs(1);
/// A receiver of outputs that takes no piece for so long has given up.
const TAKE_WITHIN: Duration = Duration::from_secs(60);

impl House {
    pub(super) async fn files(self: &Arc<Self>, guest: &Guest, stream: Stream) -> Result<(), NetError> {
        let (mut reader, mut writer) = stream.framed().split();
        match reader.recv_within::<Transfer>(PROOF_WITHIN).await? {
            Transfer::Inputs { lease } => {
                let outcome = match self.may_bring(guest, lease).await {
                    Ok(place) => self.bring(&place, &mut reader).await?,
                    Err(why) => Err(why),
                };
                let outcome = match outcome {
                    Ok((entries, bytes)) => {
                        info!(%lease, entries, bytes, "inputs received");
                        metrics::counter!("muster_container_input_bytes_total").increment(bytes);
                        Outcome::Received { entries, bytes }
                    }
                    Err(why) => {
                        info!(%lease, %why, "inputs refused");
                        Outcome::Refused { why: clip_sentence(&why) }
                    }
                };
                writer.send_within(&outcome, SEND_WITHIN).await?;
                writer.finish_acked().await
            }
            Transfer::Outputs { lease } => match self.may_take(guest, lease).await {
                Ok(place) => hand_out(&place, &mut reader, &mut writer).await,
                Err(why) => conclude(lease, Piece::Abort { why: clip_sentence(&why) }, &mut reader, &mut writer).await,
            },
        }
    }

    async fn may_bring(&self, guest: &Guest, lease: LeaseId) -> Result<Arc<Workplace>, String> {
        if !guest.has_proven(lease).await {
            guest.refuse_proof();
            return Err("attach to the lease on this connection first".to_owned());
        }
        match self.board.lease(lease).map(|held| held.lease.phase) {
            Some(Phase::Open) => {}
            Some(Phase::Accepted) => return Err("the deposit is not on the chain yet; wait for it".to_owned()),
            Some(phase) => return Err(format!("inputs come before the job begins, and the lease is {phase}")),
            None => return Err("this Container knows no such lease".to_owned()),
        }
        self.jobs.get(lease).ok_or_else(|| "the lease has no work folder any more".to_owned())
    }

    async fn may_take(&self, guest: &Guest, lease: LeaseId) -> Result<Arc<Workplace>, String> {
        if !guest.has_proven(lease).await {
            guest.refuse_proof();
            return Err("attach to the lease on this connection first".to_owned());
        }
        let Some(held) = self.board.lease(lease) else {
            return Err("this Container knows no such lease".to_owned());
        };
        match held.lease.phase {
            Phase::Ended | Phase::Settling | Phase::Closed => {}
            phase => return Err(format!("outputs come after the job's end, and the lease is {phase}")),
        }
        let removed =
            "the outputs are removed: they were taken, kept for long enough, or had to make room for newer ones";
        self.jobs.get(lease).ok_or_else(|| removed.to_owned())
    }

    /// Receives inputs. The inner error is a sentence for the consumer, who stays connected.
    async fn bring(
        &self,
        place: &Arc<Workplace>,
        reader: &mut FrameReader,
    ) -> Result<Result<(u64, u64), String>, NetError> {
        let Ok(mut manifest) = place.inputs.try_lock() else {
            return Ok(Err("another transfer of inputs is under way".to_owned()));
        };
        // Looked at under the lock, which a job that begins must take: nothing is ever written beside a running job.
        if place.has_begun() {
            return Ok(Err("the job has begun already".to_owned()));
        }
        let folder = match place.folder().await {
            Ok(folder) => folder,
            Err(why) => return Ok(Err(why)),
        };
        let mut intake = Intake::new(folder, &manifest);
        let (pieces, mut coming) = mpsc::channel::<Piece>(QUEUE);
        let writing = tokio::task::spawn_blocking(move || {
            while let Some(piece) = coming.blocking_recv() {
                if intake.take(piece)? {
                    return Ok(Some(intake));
                }
            }
            // The network failed or fell silent: what came is taken back.
            Ok::<_, crate::jobs::IntakeError>(None)
        });
        let fed = tokio::select! {
            fed = self.feed_pieces(place, reader, pieces) => fed,
            () = place.gone().cancelled() => Ok(Some("the lease ended".to_owned())),
        };
        let wrote = writing.await.map_err(std::io::Error::other)?;
        match (wrote, fed?) {
            (Err(why), _) => Ok(Err(why.to_string())),
            (Ok(Some(_)), _) if place.has_begun() => Ok(Err("the job has begun without them".to_owned())),
            (Ok(Some(intake)), _) => {
                let kept = intake.keep(&mut manifest);
                place.save_manifest(&manifest);
                Ok(Ok(kept))
            }
            (Ok(None), Some(why)) => Ok(Err(why)),
            (Ok(None), None) => Ok(Err("the stream ended before the inputs did".to_owned())),
        }
    }

    /// Passes pieces on until the last one, the end of the stream, or until nobody takes them. A sentence says why it
    /// stopped early.
    async fn feed_pieces(
        &self,
        place: &Workplace,
        reader: &mut FrameReader,
        pieces: mpsc::Sender<Piece>,
    ) -> Result<Option<String>, NetError> {
        let mut since = Instant::now();
        let mut bytes = 0u64;
        loop {
            let piece: Piece = tokio::select! {
                piece = reader.recv() => match piece? {
                    Some(piece) => piece,
                    None => return Ok(None),
                },
                // Refused by the disk's side: its sender is told at once.
                () = pieces.closed() => return Ok(None),
                () = tokio::time::sleep(PIECE_WITHIN) => {
                    let seconds = PIECE_WITHIN.as_secs();
                    return Ok(Some(format!("nothing came for {seconds} s; send the inputs again")));
                }
            };
            bytes = bytes.saturating_add(match &piece {
                Piece::Chunk(chunk) => u64::try_from(chunk.len()).unwrap_or(u64::MAX),
                // Many small files are slow by nature.
                Piece::File { .. } | Piece::Folder { .. } => UPLOAD_MIN / 8,
                Piece::End { .. } | Piece::Done { .. } | Piece::Abort { .. } => 0,
            });
            let last = matches!(piece, Piece::Done { .. } | Piece::Abort { .. });
            if pieces.send(piece).await.is_err() || last {
                return Ok(None);
            }
            let elapsed = since.elapsed();
            if elapsed >= TOUCH_EVERY && bytes / elapsed.as_secs().max(1) >= UPLOAD_MIN {
                (since, bytes) = (Instant::now(), 0);
                self.brain.note(Event::Touched { lease: place.lease() }).await;
            }
        }
    }
}

/// Sends what the job left, and hears whether it arrived.
async fn hand_out(place: &Arc<Workplace>, reader: &mut FrameReader, writer: &mut FrameWriter) -> Result<(), NetError> {
    let folder = match place.folder_if_made().await {
        Ok(Some(folder)) => folder,
        Ok(None) => {
            let nothing = Piece::Done { entries: 0, bytes: 0, left_out: Vec::new() };
            return conclude(place.lease(), nothing, reader, writer).await;
        }
        Err(why) => {
            let abort = Piece::Abort { why: clip_sentence(&why) };
            return conclude(place.lease(), abort, reader, writer).await;
        }
    };
    let (pieces, mut coming) = mpsc::channel::<Piece>(QUEUE);
    let from = Arc::clone(place);
    let reading = tokio::task::spawn_blocking(move || {
        let inputs = from.inputs.blocking_lock();
        let sink = |piece| pieces.blocking_send(piece).is_ok();
        Outtake { work: &folder, inputs: &inputs, sink }.run();
    });
    let sent = tokio::select! {
        sent = send_pieces(&mut coming, writer) => sent,
        () = place.gone().cancelled() => Ok(0),
    };
    // Dropping the receiver ends the reading thread at its next piece.
    drop(coming);
    reading.await.map_err(std::io::Error::other)?;
    let bytes = sent?;
    metrics::counter!("muster_container_output_bytes_total").increment(bytes);
    hear_outcome(place.lease(), reader, writer).await
}

/// Sends the one piece that is all, and hears what the consumer makes of it.
async fn conclude(
    lease: LeaseId,
    piece: Piece,
    reader: &mut FrameReader,
    writer: &mut FrameWriter,
) -> Result<(), NetError> {
    writer.send_within(&piece, SEND_WITHIN).await?;
    hear_outcome(lease, reader, writer).await
}

async fn hear_outcome(lease: LeaseId, reader: &mut FrameReader, writer: &mut FrameWriter) -> Result<(), NetError> {
    writer.finish().await?;
    match reader.recv_within::<Outcome>(TAKE_WITHIN).await? {
        Outcome::Received { entries, bytes } => info!(%lease, entries, bytes, "outputs taken"),
        Outcome::Refused { why } => info!(%lease, %why, "the consumer could not take the outputs"),
    }
    Ok(())
}

async fn send_pieces(coming: &mut mpsc::Receiver<Piece>, writer: &mut FrameWriter) -> Result<u64, NetError> {
    let mut bytes = 0u64;
    while let Some(piece) = coming.recv().await {
        if let Piece::Chunk(chunk) = &piece {
            bytes = bytes.saturating_add(u64::try_from(chunk.len()).unwrap_or(u64::MAX));
        }
        writer.send_within(&piece, TAKE_WITHIN).await?;
    }
    debug!(bytes, "outputs sent");
    Ok(bytes)
}
