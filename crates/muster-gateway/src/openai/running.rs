//! A request that a replica has.
//!
//! Whoever stops listening, client or Gateway, cancels it; its count is still awaited, and billed to whoever has its
//! [`Claim`]. One whose claim went to another replica is billed to nobody.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures::Stream;
use muster_core::inference::{InferenceError, InferenceErrorKind, InferenceEvent, TokenCounts};
use muster_engine::Answer;
use tokio::time::{Instant, Sleep};

use super::error::ApiError;
use super::render::Writer;
use super::{Inner, ModelApi};
use crate::models::{Model, Seat};
use crate::usage::Bill;

/// How long a cancelled request may take to tell its count.
const COUNT_WITHIN: Duration = Duration::from_secs(60);
/// Bytes of one piece of a stream: what is at hand goes out together up to here.
const PIECE_BYTES_MAX: usize = 16 * 1024;

/// One more request in hand, until it is dropped.
pub(super) struct InHand(Arc<Inner>);

impl InHand {
    /// `None` where there are too many.
    pub(super) fn new(api: &ModelApi, most: u32) -> Option<Self> {
        let before = api.inner.in_hand.fetch_add(1, Ordering::Relaxed);
        let one = Self(Arc::clone(&api.inner));
        (before < most).then_some(one)
    }
}

impl Drop for InHand {
    fn drop(&mut self) {
        self.0.in_hand.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What of a request outlives its listener.
struct Live {
    answer: Answer,
    seat: Seat,
    /// None where another replica has it.
    claim: Option<Claim>,
    /// What is known so far of its count: less than the last word, until that was heard.
    known: TokenCounts,
    /// Whether the last word was heard.
    over: bool,
    /// Whether something of the answer was there.
    answered: bool,
}

impl Live {
    /// Takes in what events say of the count, as they come, whoever still gets to see them.
    fn hear(&mut self, events: &[InferenceEvent]) {
        for event in events {
            match event {
                InferenceEvent::Began { counts } => self.known = *counts,
                InferenceEvent::Done { counts } | InferenceEvent::Failed { counts, .. } => {
                    (self.known, self.over) = (*counts, true);
                }
                _ => {}
            }
        }
    }

    /// A request that was turned away costs nothing, whoever listens.
    fn settle_if_any(self, counts: TokenCounts) {
        if counts != TokenCounts::ZERO || self.answered {
            self.settle(counts);
        }
    }

    fn settle(self, counts: TokenCounts) {
        let Some(Claim { model, bill, in_hand }) = self.claim else { return };
        let deployment = &model.deployment;
        bill.settle(&deployment.name, counts, deployment.price.cost(counts));
        drop(in_hand);
    }
}

/// A request that a replica has.
pub(super) struct Running {
    live: Option<Live>,
    submitted: Instant,
}

/// How a request ended.
pub(super) enum Ended {
    /// With this count.
    Done(TokenCounts),
    /// With this error; whoever asked has the bill back where nothing was answered.
    Failed(InferenceError),
}

/// Who pays for an answer, and for which model. One replica has it at a time, and what that one counts is billed.
pub(super) struct Claim {
    pub(super) model: Arc<Model>,
    pub(super) bill: Bill,
    pub(super) in_hand: InHand,
}

impl Running {
    /// A request that a replica was just given; without a claim nothing of it is billed.
    pub(super) fn new(answer: Answer, seat: Seat, claim: Option<Claim>) -> Self {
        let live = Live { answer, seat, claim, known: TokenCounts::ZERO, over: false, answered: false };
        Self { live: Some(live), submitted: Instant::now() }
    }

    /// The next events; an engine that is gone without a word has failed.
    pub(super) async fn next(&mut self) -> Vec<InferenceEvent> {
        std::future::poll_fn(|cx| self.poll_next(cx)).await
    }

    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Vec<InferenceEvent>> {
        let gone = |known| {
            let why = "the engine went away in the middle of this request; send it again";
            vec![InferenceEvent::Failed {
                error: InferenceError::new(InferenceErrorKind::EngineLost, why),
                counts: known,
            }]
        };
        let Some(live) = &mut self.live else { return Poll::Ready(gone(TokenCounts::ZERO)) };
        live.answer.poll_next(cx).map(|events| {
            let events = events.unwrap_or_else(|| gone(live.known));
            live.hear(&events);
            events
        })
    }

    /// Notes what an event says of the request itself.
    pub(super) fn note(&mut self, event: &InferenceEvent) {
        let Some(live) = &mut self.live else { return };
        if is_shown(event) && !std::mem::replace(&mut live.answered, true) {
            live.seat.replica.answered_after(us_since(self.submitted));
        }
    }

    /// Bills what was counted.
    pub(super) fn settle(&mut self, counts: TokenCounts) {
        if let Some(live) = self.live.take() {
            live.settle(counts);
        }
    }

    /// Ends it here; its claim, for another try: what was done here is not billed.
    pub(super) fn give_up(mut self) -> Option<Claim> {
        self.live.take()?.claim
    }

    /// Takes over what another one of the same request would be billed for.
    pub(super) fn take_over(&mut self, other: &mut Self) {
        let claim = other.live.as_mut().and_then(|live| live.claim.take());
        match &mut self.live {
            Some(live) => live.claim = claim,
            None => drop(claim),
        }
    }

    /// Another one was faster: this one has needed so long already, and is ended.
    pub(super) fn lose(self) {
        if let Some(live) = &self.live {
            live.seat.replica.answered_after(us_since(self.submitted));
        }
    }
}

fn us_since(submitted: Instant) -> u64 {
    u64::try_from(submitted.elapsed().as_micros()).unwrap_or(u64::MAX)
}

impl Drop for Running {
    /// Nobody listens any more: the request is cancelled, and its count awaited.
    fn drop(&mut self) {
        let Some(mut live) = self.live.take() else { return };
        if live.over {
            // Its last word came, and nobody took it from here.
            let known = live.known;
            return live.settle_if_any(known);
        }
        live.answer.cancel();
        let Ok(runtime) = tokio::runtime::Handle::try_current() else {
            let known = live.known;
            live.settle(known);
            return;
        };
        runtime.spawn(async move {
            // What is known by then is what counts.
            let _ = tokio::time::timeout(COUNT_WITHIN, last_word(&mut live)).await;
            let known = live.known;
            live.settle_if_any(known);
        });
    }
}

async fn last_word(live: &mut Live) {
    while !live.over
        && let Some(events) = live.answer.next().await
    {
        live.hear(&events);
        live.answered |= events.iter().any(is_shown);
    }
}

/// Whether an event shows something of the answer.
const fn is_shown(event: &InferenceEvent) -> bool {
    matches!(
        event,
        InferenceEvent::Text { .. }
            | InferenceEvent::ToolCall { .. }
            | InferenceEvent::Finished { .. }
            | InferenceEvent::Embedding { .. }
    )
}

/// The body of a streamed answer. It is driven by whoever writes it to the client: a client that takes nothing holds up
/// its own request and no other.
pub(super) struct Sse {
    running: Running,
    writer: Writer,
    /// Events that came before the answer's head was sent.
    pending: Option<Vec<InferenceEvent>>,
    buffer: Vec<u8>,
    ended: bool,
    deadline: Pin<Box<Sleep>>,
}

impl Sse {
    pub(super) fn new(running: Running, writer: Writer, pending: Vec<InferenceEvent>, until: Instant) -> Self {
        let deadline = Box::pin(tokio::time::sleep_until(until));
        Self { running, writer, pending: Some(pending), buffer: Vec::with_capacity(1024), ended: false, deadline }
    }

    fn take(&mut self, events: &[InferenceEvent]) {
        for event in events {
            self.running.note(event);
            match event {
                InferenceEvent::Done { counts } => {
                    self.running.settle(*counts);
                    self.writer.done(*counts, &mut self.buffer);
                    self.ended = true;
                    return;
                }
                InferenceEvent::Failed { error, counts } => {
                    self.running.settle(*counts);
                    self.writer.failed(&ApiError::from(error.clone()), &mut self.buffer);
                    self.ended = true;
                    return;
                }
                InferenceEvent::Began { .. }
                | InferenceEvent::Text { .. }
                | InferenceEvent::ToolCall { .. }
                | InferenceEvent::Finished { .. }
                | InferenceEvent::Embedding { .. }
                | InferenceEvent::Committed { .. }
                | InferenceEvent::Transcript(_)
                | InferenceEvent::Replayed(_) => self.writer.event(event, &mut self.buffer),
            }
        }
    }
}

impl Stream for Sse {
    type Item = Result<Bytes, Infallible>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        if let Some(events) = this.pending.take() {
            this.take(&events);
        }
        let late = !this.ended && this.deadline.as_mut().poll(cx).is_ready();
        while !late && !this.ended && this.buffer.len() < PIECE_BYTES_MAX {
            match this.running.poll_next(cx) {
                Poll::Ready(events) => this.take(&events),
                Poll::Pending => break,
            }
        }
        if late {
            let why = "the answer took longer than this Gateway waits; ask for fewer tokens";
            this.writer.failed(&ApiError::timed_out(why), &mut this.buffer);
            // What runs is cancelled and billed as this body is dropped.
            this.ended = true;
        }
        if this.buffer.is_empty() {
            return if this.ended { Poll::Ready(None) } else { Poll::Pending };
        }
        let piece = Bytes::copy_from_slice(&this.buffer);
        this.buffer.clear();
        Poll::Ready(Some(Ok(piece)))
    }
}
