//! A job's standard streams: what it writes goes to whoever watches, what they type goes to it.

use std::io;
use std::sync::Arc;

use muster_net::{FrameReader, FrameWriter, NetError, Stream as NetStream};
use muster_wire::BoundedBytes;
use muster_wire::message::stdio::{Input, Output, Stream, Watch};

use super::{Guest, House, PROOF_WITHIN};
use crate::jobs::Workplace;
use crate::spool::{Next, Watcher};

impl House {
    pub(super) async fn job(&self, guest: &Guest, stream: NetStream) -> Result<(), NetError> {
        let (mut reader, mut writer) = stream.framed().split();
        let watch: Watch = reader.recv_within(PROOF_WITHIN).await?;
        if !guest.has_proven(watch.lease).await {
            guest.refuse_proof();
            return Ok(());
        }
        let Some(place) = self.jobs.get(watch.lease) else {
            // Logs are removed once the consumer has taken them, or when they were kept long enough.
            writer.send(&Output::End).await?;
            return writer.finish().await;
        };
        let out = place.spool(Stream::Out).watch(watch.out_from);
        let err = place.spool(Stream::Err).watch(watch.err_from);
        let watching = show(out, err, watch.follow, &mut writer);
        if watch.stdin {
            let feeding = feed(&mut reader, &place);
            tokio::select! {
                shown = watching => shown,
                () = place.gone().cancelled() => Ok(()),
                // Input may be over long before the output is.
                never = async { feeding.await?; std::future::pending::<Result<(), NetError>>().await } => never,
            }
        } else {
            tokio::select! {
                shown = watching => shown,
                () = place.gone().cancelled() => Ok(()),
                left = left(&mut reader) => left,
            }
        }
    }
}

/// Sends both streams, whichever has something; a whole stream never waits for the other.
async fn show(mut out: Watcher, mut err: Watcher, follow: bool, writer: &mut FrameWriter) -> Result<(), NetError> {
    let (mut out_open, mut err_open) = (true, true);
    loop {
        let out_now = out_open && send_next(&mut out, Stream::Out, follow, writer, &mut out_open).await?;
        let err_now = err_open && send_next(&mut err, Stream::Err, follow, writer, &mut err_open).await?;
        if !out_open && !err_open {
            writer.send(&Output::End).await?;
            return writer.finish().await;
        }
        if !out_now && !err_now {
            tokio::select! {
                () = out.wait(), if out_open => {}
                () = err.wait(), if err_open => {}
            }
        }
    }
}

/// Sends what a stream has next; `true` when there was something.
async fn send_next(
    watcher: &mut Watcher,
    stream: Stream,
    follow: bool,
    writer: &mut FrameWriter,
    open: &mut bool,
) -> Result<bool, NetError> {
    match watcher.read().await? {
        Next::Data(data) => {
            let count = data.len();
            let bytes = BoundedBytes::new(data).map_err(io::Error::other)?;
            writer.send(&Output::Data { stream, bytes }).await?;
            watcher.taken(count);
            Ok(true)
        }
        Next::Missed(count) => {
            writer.send(&Output::Missed { stream, count }).await?;
            Ok(true)
        }
        Next::End => {
            *open = false;
            Ok(false)
        }
        Next::UpToDate => {
            *open = follow;
            Ok(false)
        }
    }
}

/// Passes input on. A watcher that leaves without saying that its input is over leaves the job's input open: another
/// one may go on.
async fn feed(reader: &mut FrameReader, place: &Arc<Workplace>) -> Result<(), NetError> {
    loop {
        match reader.recv::<Input>().await? {
            Some(Input::Data(bytes)) => {
                if place.feed(&bytes).await.is_err() {
                    // The job reads no more. What still comes is read and dropped, so that its sender is not stuck.
                    while reader.recv::<Input>().await?.is_some() {}
                    return Ok(());
                }
            }
            Some(Input::End) => {
                place.end_feed().await;
                return Ok(());
            }
            None => return Ok(()),
        }
    }
}

/// Resolves when the watcher goes away; one that only finishes its own direction stays.
async fn left(reader: &mut FrameReader) -> Result<(), NetError> {
    while reader.recv::<Input>().await?.is_some() {}
    std::future::pending().await
}
