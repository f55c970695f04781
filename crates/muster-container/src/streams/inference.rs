//! A model's streams: requests in, answers out, and how far the model is.

use std::sync::Arc;
use std::time::{Duration, Instant};

use muster_core::ids::LeaseId;
use muster_core::inference::audit::COMMITMENT_CONTEXT;
use muster_core::inference::{
    InferenceError, InferenceErrorKind, InferenceEvent, InferenceRequest, TOKEN_CONTEXT, TokenCounts,
};
use muster_core::lease::Phase;
use muster_engine::Answer;
use muster_engine::hub::Token;
use muster_net::{FrameReader, FrameWriter, NetError, Stream};
use muster_wire::BoundedVec;
use muster_wire::message::inference::{EVENTS_MAX, FromInference, InferenceOpen, ToInference};
use muster_wire::message::session::Sentence;

use super::{Guest, House, PROOF_WITHIN, SEND_WITHIN};
use crate::jobs::{Standing, Workplace};

/// Events of one frame may be so many bytes, so that the frame stays below what one may have.
const FRAME_BYTES_MAX: usize = 256 * 1024;
/// An answer that nobody reads for so long is cancelled.
const READ_WITHIN: Duration = Duration::from_secs(30);
/// That a model answers is written down within this.
const WRITTEN_WITHIN: Duration = Duration::from_secs(5);
const LOOK_EVERY: Duration = Duration::from_millis(10);
/// A cancelled answer says within this what it counted.
const COUNT_WITHIN: Duration = Duration::from_secs(5);

impl House {
    pub(super) async fn inference(self: &Arc<Self>, guest: &Guest, stream: Stream) -> Result<(), NetError> {
        let (mut reader, mut writer) = stream.framed().split();
        let open: InferenceOpen = reader.recv_within(PROOF_WITHIN).await?;
        let (InferenceOpen::Ask { lease, .. }
        | InferenceOpen::Has { lease, .. }
        | InferenceOpen::Watch { lease }
        | InferenceOpen::Token { lease, .. }) = open;
        if !guest.has_proven(lease).await {
            guest.refuse_proof();
            return Ok(());
        }
        match open {
            InferenceOpen::Has { weights, .. } => {
                let has = self.jobs.models().is_some_and(|models| models.has(weights));
                writer.send_within(&FromInference::Has(has), SEND_WITHIN).await?;
            }
            InferenceOpen::Watch { lease } => self.watch_model(lease, &mut writer).await?,
            InferenceOpen::Token { lease, sealed } => {
                let why_not = self.take_token(lease, &sealed).err().map(|why| Sentence::truncated(&why));
                writer.send_within(&FromInference::TokenTaken { why_not }, SEND_WITHIN).await?;
            }
            InferenceOpen::Ask { lease, request } => {
                let Some(place) = self.jobs.get(lease) else {
                    let error = InferenceError::new(InferenceErrorKind::Unavailable, "the lease of this model is over");
                    send(&mut writer, vec![failed(error, TokenCounts::ZERO)]).await?;
                    return writer.finish().await;
                };
                // To the end also where the stream breaks or this Container stops: what was counted is owed.
                let answers = place.model().answers.clone();
                let house = Arc::clone(self);
                let task = answers.spawn(async move { house.answer(&place, *request, reader, writer).await });
                return task.await.unwrap_or(Ok(()));
            }
        }
        writer.finish().await
    }

    /// Opens a token for a lease's model, and hands it to who waits for it. It is never written down.
    fn take_token(&self, lease: LeaseId, sealed: &[u8]) -> Result<(), String> {
        let place = self.jobs.get(lease).ok_or("the lease of this model is over")?;
        let file = place.model().token_wanted().ok_or("this model waits for no token")?;
        let bound = file.repo.token_bound(lease);
        let text = self.secret.open(TOKEN_CONTEXT, &bound, sealed).map_err(|error| error.to_string())?;
        let text = String::from_utf8(text).map_err(|_| "the token is no text")?;
        let token = Token::new(&text).map_err(|error| error.to_string())?;
        Ok(place.model().give_token(token)?)
    }

    /// Tells how far a model is until it is over.
    async fn watch_model(&self, lease: LeaseId, writer: &mut FrameWriter) -> Result<(), NetError> {
        let over = |why: &str| FromInference::Over { why: Sentence::truncated(why) };
        let Some(place) = self.jobs.get(lease) else {
            return writer.send_within(&over("the lease of this model is over"), SEND_WITHIN).await;
        };
        let mut standing = place.model().standing();
        loop {
            let message = match &*standing.borrow_and_update() {
                Standing::Preparing(None) => None,
                Standing::Preparing(Some(what)) => Some(FromInference::Preparing { what: what.clone() }),
                Standing::TokenWanted(_, what) => Some(FromInference::TokenWanted { what: what.clone() }),
                Standing::Ready(ready, _) => Some(FromInference::Ready(ready.clone())),
                Standing::Over(why) => Some(FromInference::Over { why: why.clone() }),
            };
            let last = matches!(message, Some(FromInference::Over { .. }));
            if let Some(message) = message {
                writer.send_within(&message, SEND_WITHIN).await?;
            }
            if last {
                return Ok(());
            }
            tokio::select! {
                changed = standing.changed() => if changed.is_err() { return Ok(()) },
                () = place.gone().cancelled() => {
                    return writer.send_within(&over("the lease of this model is over"), SEND_WITHIN).await;
                }
            }
        }
    }

    /// Whether a request may be answered: by what is written down of the lease, and what its model has counted since.
    fn takes_requests(&self, place: &Workplace) -> bool {
        self.board.lease(place.lease()).is_some_and(|held| {
            let mut lease = held.lease.clone();
            lease.tokens = lease.tokens.max(place.model().total());
            lease.takes_requests()
        })
    }

    /// The same; where the model answers already and that is not written down yet, a moment later.
    async fn takes_requests_soon(&self, place: &Workplace) -> bool {
        let until = Instant::now() + WRITTEN_WITHIN;
        loop {
            if self.takes_requests(place) {
                return true;
            }
            let starts = self.board.lease(place.lease()).is_some_and(|held| held.lease.phase == Phase::Starting);
            if !starts || Instant::now() >= until {
                return false;
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Answers one request, and notes what it counted before its asker is told.
    async fn answer(
        &self,
        place: &Arc<Workplace>,
        request: InferenceRequest,
        mut reader: FrameReader,
        mut writer: FrameWriter,
    ) -> Result<(), NetError> {
        if !self.takes_requests_soon(place).await {
            let why = "this Container takes no request on this lease now: it is not running, its deposit is used up, or what \
                       was answered is not paid yet";
            let error = InferenceError::new(InferenceErrorKind::Unavailable, why);
            send(&mut writer, vec![failed(error, TokenCounts::ZERO)]).await?;
            return writer.finish().await;
        }
        let in_hand = place.model().in_hand();
        let mut answer = place.ask(request);
        let sign = |events: &mut [InferenceEvent]| self.sign_commitments(place, events);
        let (counts, outcome) = relay(&mut answer, &mut reader, &mut writer, place, sign).await;
        in_hand.counted(counts);
        if let Ok(last) = outcome {
            send(&mut writer, last).await?;
        }
        writer.finish().await
    }
}

impl House {
    /// Signs what is committed to: whoever gets it from others still knows whose it is, and for which model.
    fn sign_commitments(&self, place: &Workplace, events: &mut [InferenceEvent]) {
        for event in events {
            if let InferenceEvent::Committed { commitment, signature, .. } = event
                && let Some((weights, engine)) = place.model().answers_with()
            {
                let signed = commitment.signed(weights, engine.as_str());
                *signature = Some(self.secret.sign(COMMITMENT_CONTEXT, &signed).into());
            }
        }
    }
}

/// Passes events on until the last; gives the count, and the last events, which are still to be sent.
async fn relay(
    answer: &mut Answer,
    reader: &mut FrameReader,
    writer: &mut FrameWriter,
    place: &Workplace,
    sign: impl Fn(&mut [InferenceEvent]),
) -> (TokenCounts, Result<Vec<InferenceEvent>, NetError>) {
    let mut asking = true;
    let mut began = TokenCounts::ZERO;
    loop {
        let events = tokio::select! {
            events = answer.next() => events,
            said = reader.recv::<ToInference>(), if asking => {
                asking = false;
                match said {
                    Ok(Some(ToInference::Cancel)) => answer.cancel(),
                    // Nothing more is said; whether somebody still listens shows when something is sent.
                    Ok(None) => {}
                    Err(error) => return (settle(answer, began).await, Err(error)),
                }
                continue;
            }
            () = place.kill_wanted().cancelled(), if !place.model().answers.is_empty() => {
                let counts = settle(answer, began).await;
                let why = "the lease ended while this was being answered";
                let error = InferenceError::new(InferenceErrorKind::Unavailable, why);
                return (counts, Ok(vec![failed(error, counts)]));
            }
        };
        let Some(mut events) = events else {
            let error =
                InferenceError::new(InferenceErrorKind::EngineLost, "the engine broke while this was being answered");
            return (began, Ok(vec![failed(error, began)]));
        };
        sign(&mut events);
        for event in &events {
            match event {
                InferenceEvent::Began { counts } => began = *counts,
                InferenceEvent::Done { counts } | InferenceEvent::Failed { counts, .. } => {
                    return (*counts, Ok(events.clone()));
                }
                _ => {}
            }
        }
        let sent = tokio::time::timeout(READ_WITHIN, send(writer, events)).await;
        let broken = match sent {
            Ok(Ok(())) => continue,
            Ok(Err(error)) => error,
            Err(_) => std::io::Error::new(std::io::ErrorKind::TimedOut, "nobody reads the answer").into(),
        };
        return (settle(answer, began).await, Err(broken));
    }
}

/// Cancels an answer and learns what it counted; what its prompt counted, where it does not say.
async fn settle(answer: &mut Answer, began: TokenCounts) -> TokenCounts {
    answer.cancel();
    let counted = async {
        let mut last = began;
        while let Some(events) = answer.next().await {
            for event in events {
                match event {
                    InferenceEvent::Began { counts } => last = counts,
                    InferenceEvent::Done { counts } | InferenceEvent::Failed { counts, .. } => return counts,
                    _ => {}
                }
            }
        }
        last
    };
    tokio::time::timeout(COUNT_WITHIN, counted).await.unwrap_or(began)
}

fn failed(error: InferenceError, counts: TokenCounts) -> InferenceEvent {
    InferenceEvent::Failed { error, counts }
}

/// Sends events in as few frames as they fit into.
async fn send(writer: &mut FrameWriter, events: Vec<InferenceEvent>) -> Result<(), NetError> {
    let (mut batch, mut bytes) = (Vec::new(), 0usize);
    for event in events {
        let len = rough_len(&event);
        if !batch.is_empty() && (batch.len() >= EVENTS_MAX || bytes.saturating_add(len) > FRAME_BYTES_MAX) {
            send_batch(writer, std::mem::take(&mut batch)).await?;
            bytes = 0;
        }
        bytes = bytes.saturating_add(len);
        batch.push(event);
    }
    send_batch(writer, batch).await
}

async fn send_batch(writer: &mut FrameWriter, batch: Vec<InferenceEvent>) -> Result<(), NetError> {
    let events = BoundedVec::new(batch).map_err(std::io::Error::other)?;
    writer.send(&FromInference::Events(events)).await
}

/// About how long an event is on the wire, rather too long than too short.
fn rough_len(event: &InferenceEvent) -> usize {
    let token = |bytes: &Vec<u8>| bytes.len().saturating_add(16);
    match event {
        InferenceEvent::Text { text, logprobs, .. } => {
            let top = |l: &muster_core::inference::TokenLogprob| {
                l.top.iter().map(|(_, bytes, _)| token(bytes)).sum::<usize>()
            };
            let logprobs: usize = logprobs.iter().map(|l| token(&l.bytes).saturating_add(top(l))).sum();
            text.len().saturating_add(logprobs).saturating_add(32)
        }
        InferenceEvent::Embedding { vector, .. } => vector.len().saturating_mul(4).saturating_add(16),
        InferenceEvent::ToolCall { piece, .. } => piece.arguments.len().saturating_add(256),
        InferenceEvent::Failed { error, .. } => error.why.len().saturating_add(128),
        InferenceEvent::Transcript(transcript) => transcript.tokens.len().saturating_mul(48).saturating_add(64),
        InferenceEvent::Replayed(replayed) => replayed.rows.len().saturating_mul(48).saturating_add(64),
        InferenceEvent::Began { .. }
        | InferenceEvent::Finished { .. }
        | InferenceEvent::Done { .. }
        | InferenceEvent::Committed { .. } => 64,
    }
}
