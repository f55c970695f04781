//! The two ends of one request's answer.

use muster_core::inference::{InferenceError, InferenceEvent, TokenCounts};
use tokio::sync::{mpsc, watch};

/// Batches of events that wait for their reader, at most.
pub const EVENTS_WAITING_MAX: usize = 64;

/// What the engine holds of a request: where its events go.
#[derive(Debug)]
pub struct Answering {
    events: mpsc::Sender<Vec<InferenceEvent>>,
    cancelled: watch::Receiver<bool>,
}

/// What the asker holds of a request: where its events come from. Dropping it cancels.
#[derive(Debug)]
pub struct Answer {
    events: mpsc::Receiver<Vec<InferenceEvent>>,
    cancel: watch::Sender<bool>,
}

/// Both ends.
#[must_use]
pub fn answer() -> (Answering, Answer) {
    let (to, events) = mpsc::channel(EVENTS_WAITING_MAX);
    let (cancel, cancelled) = watch::channel(false);
    (Answering { events: to, cancelled }, Answer { events, cancel })
}

impl Answering {
    /// Hands events over; waits while the reader is slow. `false`: nobody reads any more.
    pub async fn send(&self, events: Vec<InferenceEvent>) -> bool {
        self.events.send(events).await.is_ok()
    }

    /// Hands events over if there is room; gives them back otherwise.
    ///
    /// # Errors
    /// The events, where the reader is slow or gone.
    pub fn try_send(&self, events: Vec<InferenceEvent>) -> Result<(), Vec<InferenceEvent>> {
        self.events.try_send(events).map_err(|error| match error {
            mpsc::error::TrySendError::Full(events) | mpsc::error::TrySendError::Closed(events) => events,
        })
    }

    /// Waits until there is room for one batch. `false`: nobody reads any more.
    pub async fn room(&self) -> bool {
        self.events.reserve().await.is_ok()
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
        self.events.is_closed()
    }

    /// Waits until the asker wants no more, or is gone.
    pub async fn cancelled(&mut self) {
        tokio::select! {
            // The sender lives as long as the asker.
            _ = self.cancelled.wait_for(|cancelled| *cancelled) => {}
            () = self.events.closed() => {}
        }
    }

    /// Says why it cannot be answered, and what was done before. Waits while the reader is slow.
    pub async fn fail(self, error: InferenceError, counts: TokenCounts) {
        // Whoever asked may have gone.
        let _ = self.events.send(vec![InferenceEvent::Failed { error, counts }]).await;
    }
}

/// Waits until a word turns `true`, or nobody is left who could turn it.
pub(crate) async fn turned(word: &mut watch::Receiver<bool>) {
    let _ = word.wait_for(|word| *word).await;
}

impl Answer {
    /// The next events, in their order, never none; `None` after the last, or where the engine is gone without a word.
    pub async fn next(&mut self) -> Option<Vec<InferenceEvent>> {
        self.events.recv().await
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
    async fn a_failed_answer_says_why_and_ends() {
        let error = InferenceError::new(InferenceErrorKind::Unavailable, "gone");
        let mut answer = Answer::failed(error.clone());
        let told = InferenceEvent::Failed { error, counts: TokenCounts::ZERO };
        assert_eq!(answer.next().await, Some(vec![told]));
        assert_eq!(answer.next().await, None);
    }
}
