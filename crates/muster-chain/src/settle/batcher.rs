//! Many at once: requests that come while a transaction is under way share the next one.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use futures::future::BoxFuture;
use tokio::sync::oneshot;

/// Carries out a group; one result for each item, in order.
pub(super) type Carrier<T, R> = Arc<dyn Fn(Vec<T>) -> BoxFuture<'static, Vec<R>> + Send + Sync>;

/// Collects items into groups. The first of a quiet time goes at once; the ones behind it wait for a
/// free lane, and travel together.
pub(super) struct Batcher<T, R> {
    state: Mutex<State<T, R>>,
    carrier: Carrier<T, R>,
    group_max: usize,
    lanes_max: usize,
}

struct State<T, R> {
    waiting: VecDeque<(T, oneshot::Sender<R>)>,
    lanes: usize,
}

impl<T, R> std::fmt::Debug for Batcher<T, R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Batcher").field("group_max", &self.group_max).finish_non_exhaustive()
    }
}

impl<T: Send + 'static, R: Send + 'static> Batcher<T, R> {
    pub(super) fn new(group_max: usize, lanes_max: usize, carrier: Carrier<T, R>) -> Arc<Self> {
        let state = Mutex::new(State { waiting: VecDeque::new(), lanes: 0 });
        Arc::new(Self { state, carrier, group_max, lanes_max })
    }

    /// Carries out one item, perhaps together with others; `None` where the carrier was stopped.
    pub(super) async fn carry(self: &Arc<Self>, item: T) -> Option<R> {
        let (reply, answer) = oneshot::channel();
        let open_lane = {
            let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            state.waiting.push_back((item, reply));
            let free = state.lanes < self.lanes_max;
            state.lanes += usize::from(free);
            free
        };
        if open_lane {
            tokio::spawn(Lane(Arc::clone(self)).run());
        }
        answer.await.ok()
    }

    fn take(&self) -> Vec<(T, oneshot::Sender<R>)> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let count = state.waiting.len().min(self.group_max);
        state.waiting.drain(..count).collect()
    }
}

/// A place on which groups travel one after the other; given back however it ends.
struct Lane<T: Send + 'static, R: Send + 'static>(Arc<Batcher<T, R>>);

impl<T: Send + 'static, R: Send + 'static> Lane<T, R> {
    async fn run(self) {
        loop {
            let group = self.0.take();
            if group.is_empty() {
                return;
            }
            let (items, replies): (Vec<T>, Vec<_>) = group.into_iter().unzip();
            let results = (self.0.carrier)(items).await;
            for (reply, result) in replies.into_iter().zip(results) {
                // Who asked may have gone away; what was sent is in the outbox.
                let _ = reply.send(result);
            }
        }
    }
}

impl<T: Send + 'static, R: Send + 'static> Drop for Lane<T, R> {
    fn drop(&mut self) {
        let mut state = self.0.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.lanes = state.lanes.saturating_sub(1);
    }
}
