//! Many at once: requests that come while a transaction is under way share the next one.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::future::BoxFuture;
use tokio::sync::oneshot;
use tokio::time::timeout;

/// Who has waited for so long does so for a slow answer, and not for company: another lane opens.
const PATIENCE: Duration = Duration::from_millis(50);

/// Carries out a group; one result for each item, in order.
pub(super) type Carrier<T, R> = Arc<dyn Fn(Vec<T>) -> BoxFuture<'static, Vec<R>> + Send + Sync>;

/// Collects items into groups. The first of a quiet time goes at once; the ones behind it wait for it to come back, and
/// travel together: on a quick chain fewer and larger groups cost less and are no slower. Another lane opens for a full
/// group, or where a trip takes long, as on a chain that makes blocks by the clock.
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
        {
            let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            state.waiting.push_back((item, reply));
            if state.lanes == 0 || state.waiting.len() >= self.group_max {
                self.open_lane(&mut state);
            }
        }
        let mut answer = answer;
        match timeout(PATIENCE, &mut answer).await {
            Ok(answered) => answered.ok(),
            Err(_) => {
                self.open_lane(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner));
                answer.await.ok()
            }
        }
    }

    /// Opens another lane for those who wait, if there may be one.
    fn open_lane(self: &Arc<Self>, state: &mut State<T, R>) {
        if !state.waiting.is_empty() && state.lanes < self.lanes_max {
            state.lanes += 1;
            tokio::spawn(Lane { batcher: Arc::clone(self), given_back: false }.run());
        }
    }

    /// The next group, if anybody waits. Otherwise the lane is given back before somebody can come and count on it.
    fn take(&self) -> Option<Vec<(T, oneshot::Sender<R>)>> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.waiting.is_empty() {
            state.lanes = state.lanes.saturating_sub(1);
            return None;
        }
        let count = state.waiting.len().min(self.group_max);
        Some(state.waiting.drain(..count).collect())
    }
}

/// A place on which groups travel one after the other; given back however it ends.
struct Lane<T: Send + 'static, R: Send + 'static> {
    batcher: Arc<Batcher<T, R>>,
    given_back: bool,
}

impl<T: Send + 'static, R: Send + 'static> Lane<T, R> {
    async fn run(mut self) {
        while let Some(group) = self.batcher.take() {
            let (items, replies): (Vec<T>, Vec<_>) = group.into_iter().unzip();
            let results = (self.batcher.carrier)(items).await;
            for (reply, result) in replies.into_iter().zip(results) {
                // Who asked may have gone away; what was sent is in the outbox.
                let _ = reply.send(result);
            }
        }
        self.given_back = true;
    }
}

impl<T: Send + 'static, R: Send + 'static> Drop for Lane<T, R> {
    fn drop(&mut self) {
        if !self.given_back {
            let mut state = self.batcher.state.lock().unwrap_or_else(PoisonError::into_inner);
            state.lanes = state.lanes.saturating_sub(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use futures::FutureExt;
    use futures::future::join_all;

    use super::*;

    /// A carrier that takes so long for a group, and the sizes of the groups that it has carried.
    /// How many were in each group.
    type Sizes = Arc<Mutex<Vec<usize>>>;

    fn batcher(trip: Duration) -> (Arc<Batcher<u32, u32>>, Sizes) {
        let sizes = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&sizes);
        let carrier: Carrier<u32, u32> = Arc::new(move |items| {
            seen.lock().unwrap().push(items.len());
            tokio::time::sleep(trip).map(move |()| items).boxed()
        });
        (Batcher::new(8, 3, carrier), sizes)
    }

    #[tokio::test(start_paused = true)]
    async fn who_comes_during_a_quick_trip_shares_the_next_one() {
        let (batcher, sizes) = batcher(Duration::from_millis(5));
        let answers = join_all((0..8).map(|n| batcher.carry(n))).await;
        assert_eq!(answers, (0..8).map(Some).collect::<Vec<_>>());
        assert_eq!(sizes.lock().unwrap().iter().sum::<usize>(), 8);
        assert!(sizes.lock().unwrap().len() <= 2, "{:?}", sizes.lock().unwrap());
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_trip_holds_others_up_for_their_patience_only() {
        let (batcher, sizes) = batcher(Duration::from_secs(2));
        let begun = tokio::time::Instant::now();
        let late = async {
            tokio::time::sleep(Duration::from_millis(1)).await;
            batcher.carry(2).await
        };
        assert_eq!(tokio::join!(batcher.carry(1), late), (Some(1), Some(2)));
        assert!(begun.elapsed() < Duration::from_millis(2_100), "{:?}", begun.elapsed());
        assert_eq!(*sizes.lock().unwrap(), [1, 1]);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn nobody_is_left_behind_by_a_lane_that_ends() {
        let (batcher, _) = batcher(Duration::ZERO);
        let slow = Arc::new(AtomicUsize::new(0));
        let workers = (0..8).map(|_| {
            let (batcher, slow) = (Arc::clone(&batcher), Arc::clone(&slow));
            tokio::spawn(async move {
                for n in 0..500 {
                    let begun = std::time::Instant::now();
                    assert_eq!(batcher.carry(n).await, Some(n));
                    slow.fetch_add(usize::from(begun.elapsed() >= PATIENCE), Ordering::Relaxed);
                }
            })
        });
        assert!(join_all(workers).await.into_iter().all(|worker| worker.is_ok()));
        assert!(slow.load(Ordering::Relaxed) < 200, "items wait for the timer");
    }
}
