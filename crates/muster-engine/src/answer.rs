//! The two ends of one request's answer.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use muster_core::inference::{InferenceError, InferenceEvent, TokenCounts};
use tokio::sync::{mpsc, watch};

/// Batches of events that wait for their reader, at most.
pub const EVENTS_WAITING_MAX: usize = 64;

/// What the engine holds of a request: where its events go.
#[derive(Debug)]
pub struct Answering {
    events: To,
    cancelled: watch::Receiver<bool>,
}

#[derive(Debug)]
enum To {
    Channel(mpsc::Sender<Vec<InferenceEvent>>),
    /// The asker drives the engine: what it is told lies here until it is taken.
    Slot(Slot),
}

/// Room for one batch between the two ends, where one task has both.
type Slot = Arc<Mutex<Option<Vec<InferenceEvent>>>>;

/// What the asker holds of a request: where its events come from. Dropping it cancels.
#[derive(Debug)]
pub struct Answer {
    events: From,
    cancel: watch::Sender<bool>,
}

enum From {
    Channel(mpsc::Receiver<Vec<InferenceEvent>>),
    /// The engine's work on this request, until it is done.
    Driven {
        work: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
        slot: Slot,
    },
}

impl std::fmt::Debug for From {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Channel(_) => "Channel",
            Self::Driven { .. } => "Driven",
        })
    }
}

/// Both ends, of an engine that works by itself.
#[must_use]
pub fn answer() -> (Answering, Answer) {
    let (to, events) = mpsc::channel(EVENTS_WAITING_MAX);
    let (cancel, cancelled) = watch::channel(false);
    (Answering { events: To::Channel(to), cancelled }, Answer { events: From::Channel(events), cancel })
}

/// The asker's end, of work that goes on while the asker waits for it, in the asker's own task: nobody has to be woken for
/// an event, and who takes none holds up the work. It ends where the answer is dropped.
#[must_use]
pub fn driven<W: Future<Output = ()> + Send + 'static>(work: impl FnOnce(Answering) -> W) -> Answer {
    let slot = Slot::default();
    let (cancel, cancelled) = watch::channel(false);
    let work = work(Answering { events: To::Slot(Arc::clone(&slot)), cancelled });
    Answer { events: From::Driven { work: Some(Box::pin(work)), slot }, cancel }
}

fn put(slot: &Slot, events: Vec<InferenceEvent>) -> Result<(), Vec<InferenceEvent>> {
    let mut place = slot.lock().unwrap_or_else(PoisonError::into_inner);
    if place.is_some() {
        return Err(events);
    }
    *place = Some(events);
    Ok(())
}

fn taken(slot: &Slot) -> Option<Vec<InferenceEvent>> {
    slot.lock().unwrap_or_else(PoisonError::into_inner).take()
}

/// Waits until the slot is empty. The asker takes what is in it before it goes on with the work, so nobody need be woken.
async fn emptied(slot: &Slot) {
    std::future::poll_fn(|_| {
        let is_empty = slot.lock().unwrap_or_else(PoisonError::into_inner).is_none();
        if is_empty { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
}

impl Answering {
    /// Hands events over; waits while the reader is slow. `false`: nobody reads any more.
    pub async fn send(&self, events: Vec<InferenceEvent>) -> bool {
        match &self.events {
            To::Channel(to) => to.send(events).await.is_ok(),
            To::Slot(slot) => {
                emptied(slot).await;
                put(slot, events).is_ok()
            }
        }
    }

    /// Hands events over if there is room; gives them back otherwise.
    ///
    /// # Errors
    /// The events, where the reader is slow or gone.
    pub fn try_send(&self, events: Vec<InferenceEvent>) -> Result<(), Vec<InferenceEvent>> {
        match &self.events {
            To::Channel(to) => to.try_send(events).map_err(|error| match error {
                mpsc::error::TrySendError::Full(events) | mpsc::error::TrySendError::Closed(events) => events,
            }),
            To::Slot(slot) => put(slot, events),
        }
    }

    /// Waits until there is room for one batch. `false`: nobody reads any more.
    pub async fn room(&self) -> bool {
        match &self.events {
            To::Channel(to) => to.reserve().await.is_ok(),
            To::Slot(slot) => {
                emptied(slot).await;
                true
            }
        }
    }

    /// The asker's word alone, to be waited for beside something else: it turns `true`, or its sender goes.
    #[must_use]
    pub fn word(&self) -> watch::Receiver<bool> {
        self.cancelled.clone()
    }

    /// Whether the asker wants no more, or is gone.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        *self.cancelled.borrow() || self.is_gone()
    }

    /// Whether nobody reads any more.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        match &self.events {
            To::Channel(to) => to.is_closed(),
            // Then nobody would ask: the work goes with its asker.
            To::Slot(_) => false,
        }
    }

    /// Waits until the asker wants no more, or is gone.
    pub async fn cancelled(&mut self) {
        let gone = async {
            match &self.events {
                To::Channel(to) => to.closed().await,
                To::Slot(_) => std::future::pending().await,
            }
        };
        tokio::select! {
            // The sender lives as long as the asker.
            _ = self.cancelled.wait_for(|cancelled| *cancelled) => {}
            () = gone => {}
        }
    }

    /// Says why it cannot be answered, and what was done before. Waits while the reader is slow.
    pub async fn fail(self, error: InferenceError, counts: TokenCounts) {
        // Whoever asked may have gone.
        let _ = self.send(vec![InferenceEvent::Failed { error, counts }]).await;
    }
}

/// Waits until a word turns `true`, or nobody is left who could turn it.
pub(crate) async fn turned(word: &mut watch::Receiver<bool>) {
    let _ = word.wait_for(|word| *word).await;
}

impl Answer {
    /// The next events, in their order, never none; `None` after the last, or where the engine is gone without a word.
    pub async fn next(&mut self) -> Option<Vec<InferenceEvent>> {
        std::future::poll_fn(|cx| self.poll_next(cx)).await
    }

    /// As [`Answer::next`], for who is polled.
    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Vec<InferenceEvent>>> {
        match &mut self.events {
            From::Channel(events) => events.poll_recv(cx),
            From::Driven { work, slot } => {
                if let Some(events) = taken(slot) {
                    return Poll::Ready(Some(events));
                }
                let Some(working) = work else { return Poll::Ready(None) };
                let is_done = working.as_mut().poll(cx).is_ready();
                if is_done {
                    *work = None;
                }
                match taken(slot) {
                    Some(events) => Poll::Ready(Some(events)),
                    None if is_done => Poll::Ready(None),
                    None => Poll::Pending,
                }
            }
        }
    }

    /// No more is wanted: `Done` comes with the count of what was answered. What was on its way still comes before it.
    pub fn cancel(&self) {
        self.cancel.send_replace(true);
    }

    /// An answer that has failed before it began.
    #[must_use]
    pub fn failed(error: InferenceError) -> Self {
        let (answering, answer) = answer();
        // A new channel has room.
        let _ = answering.try_send(vec![InferenceEvent::Failed { error, counts: TokenCounts::ZERO }]);
        answer
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use muster_core::inference::InferenceErrorKind;

    #[tokio::test]
    async fn an_asker_cancels_by_word_or_by_leaving() {
        let (mut answering, mut asked) = answer();
        assert!(!answering.is_cancelled());
        asked.cancel();
        answering.cancelled().await;
        assert!(answering.is_cancelled() && !answering.is_gone());
        assert!(answering.send(vec![InferenceEvent::Done { counts: TokenCounts::ZERO }]).await);
        assert_eq!(asked.next().await.map(|events| events.len()), Some(1));
        drop(asked);
        answering.cancelled().await;
        assert!(answering.is_gone() && !answering.send(Vec::new()).await);
        let (mut answering, asked) = answer();
        drop(asked);
        answering.cancelled().await;
    }

    #[tokio::test]
    async fn driven_work_goes_on_as_its_events_are_taken() {
        let count = |output| vec![InferenceEvent::Done { counts: TokenCounts { output, ..TokenCounts::ZERO } }];
        let began = Arc::new(Mutex::new(0));
        let seen = Arc::clone(&began);
        let mut asked = driven(|mut answering| async move {
            for nth in 1..4 {
                *seen.lock().unwrap() = nth;
                assert!(answering.room().await && answering.send(count(nth)).await);
            }
            assert_eq!(answering.try_send(count(4)), Err(count(4)), "one lies there");
            answering.cancelled().await;
            answering.send(count(5)).await;
        });
        assert_eq!(*began.lock().unwrap(), 0, "nobody has asked yet");
        for nth in 1..4 {
            assert_eq!(asked.next().await, Some(count(nth)));
        }
        assert!(
            std::future::poll_fn(|cx| Poll::Ready(asked.poll_next(cx).is_pending())).await,
            "it waits to be cancelled"
        );
        asked.cancel();
        assert_eq!(asked.next().await, Some(count(5)));
        assert_eq!((asked.next().await, asked.next().await), (None, None));
        let held = Arc::new(());
        let inside = Arc::clone(&held);
        let dropped = driven(|_| async move { drop(inside) });
        drop(dropped);
        assert_eq!(Arc::strong_count(&held), 1, "the work goes with its asker");
    }

    #[tokio::test]
    async fn a_failed_answer_says_why_and_ends() {
        let error = InferenceError::new(InferenceErrorKind::Unavailable, "gone");
        let mut answer = Answer::failed(error.clone());
        let told = InferenceEvent::Failed { error, counts: TokenCounts::ZERO };
        assert_eq!(answer.next().await, Some(vec![told]));
        assert_eq!(answer.next().await, None);
    }
}
