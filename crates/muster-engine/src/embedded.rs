//! The embedded engine, as its owner holds it: a child process that has the model, and this side that speaks to it.
//!
//! [`Embedded`] is the [`Engine`]; [`Embedded::run`] starts the child, hands requests over, and starts it again when it
//! ends, after a growing pause. Who runs it says by [`Spawn`] how a child is started, in what sandbox.
//! A child that ends fails the requests it had, with what they counted until then.

mod serve;
mod spawn;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use muster_core::inference::{InferenceError, InferenceErrorKind, InferenceEvent, InferenceRequest, TokenCounts};
use tokio::sync::{mpsc, watch};

use crate::protocol::ChildConfig;
use crate::{Answer, Answering, Engine, EngineInfo, Later, Load, NotReady, answer, turned};

pub use spawn::{Child, Process, Spawn};

/// The first pause before a child is started again; each further one is twice as long.
pub const PAUSE_MIN: Duration = Duration::from_millis(250);
/// The longest pause.
pub const PAUSE_MAX: Duration = Duration::from_secs(30);
/// A child that was ready so long had nothing wrong: the next pause is the first one again.
pub const GOOD_AFTER: Duration = Duration::from_secs(60);
/// A model must be loaded and have answered once within this time.
pub const LOAD_TIME_MAX: Duration = Duration::from_secs(1_800);

/// How the engine is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Phase {
    /// The model is being loaded, so many thousandths of it are.
    Loading(u16),
    /// It answers.
    Ready(EngineInfo),
    /// It broke after it was ready, and is started again.
    Lost(String),
    /// It does not come up; it is tried again.
    Broken(String),
    /// It was stopped.
    Stopped,
}

/// A request on its way to the child.
type Asked = (u64, Box<InferenceRequest>, Answering);

#[derive(Debug)]
struct State {
    next: u64,
    /// Requests that are not answered, with whether they have a place.
    open: BTreeMap<u64, bool>,
}

#[derive(Debug)]
struct Inner {
    config: ChildConfig,
    queue: u32,
    state: Mutex<State>,
    phase: watch::Sender<Phase>,
    asks: mpsc::UnboundedSender<Asked>,
    asked: tokio::sync::Mutex<mpsc::UnboundedReceiver<Asked>>,
}

/// The embedded engine. A clone is the same engine.
#[derive(Clone, Debug)]
pub struct Embedded(Arc<Inner>);

impl Embedded {
    /// An engine for this model; `queue` requests may wait for a place. Nothing is started before [`Embedded::run`].
    #[must_use]
    pub fn new(config: ChildConfig, queue: u32) -> Self {
        // As many are on their way at once as may be open, which `submit` sees to.
        let (asks, asked) = mpsc::unbounded_channel();
        Self(Arc::new(Inner {
            config,
            queue,
            state: Mutex::new(State { next: 1, open: BTreeMap::new() }),
            phase: watch::Sender::new(Phase::Loading(0)),
            asks,
            asked: tokio::sync::Mutex::new(asked),
        }))
    }

    /// How the engine is, and will be.
    #[must_use]
    pub fn phase(&self) -> watch::Receiver<Phase> {
        self.0.phase.subscribe()
    }

    /// Starts the child, and starts it again whenever it ends, until `stop` is done. One run at a time; a second one waits.
    pub async fn run(&self, spawn: &dyn Spawn, stop: impl Future<Output = ()>) {
        let mut asked = self.0.asked.lock().await;
        let (tell, stopped) = watch::channel(false);
        let both = async {
            stop.await;
            tell.send_replace(true);
            // Only the other one ends.
            std::future::pending::<()>().await;
        };
        tokio::select! {
            () = both => {}
            () = self.again_and_again(spawn, &mut asked, stopped) => {}
        }
        self.0.phase.send_replace(Phase::Stopped);
        asked.close();
        while let Some((id, _, answering)) = asked.recv().await {
            self.close(id);
            let error = Self::refusal(&Phase::Stopped);
            // Whoever asked may have gone.
            let _ = answering.try_send(vec![InferenceEvent::Failed { error, counts: TokenCounts::ZERO }]);
        }
    }

    async fn again_and_again(
        &self,
        spawn: &dyn Spawn,
        asked: &mut mpsc::UnboundedReceiver<Asked>,
        mut stopped: watch::Receiver<bool>,
    ) {
        let mut pause = PAUSE_MIN;
        loop {
            let (why, was_ready) = self.serve(spawn, asked, &mut stopped).await;
            if *stopped.borrow() {
                return;
            }
            if was_ready.is_some_and(|long| long >= GOOD_AFTER) {
                pause = PAUSE_MIN;
            }
            tracing::warn!(model = %self.0.config.path, why, pause_ms = pause.as_millis(), "engine ended");
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = turned(&mut stopped) => return,
            }
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nobody panics while holding it; its numbers are right between any two lines.
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn close(&self, id: u64) {
        self.state().open.remove(&id);
    }

    fn began(&self, id: u64) {
        if let Some(has_place) = self.state().open.get_mut(&id) {
            *has_place = true;
        }
    }

    /// Takes a number for a request, if there is room for it.
    fn open(&self, info: &EngineInfo) -> Result<u64, InferenceError> {
        let mut state = self.state();
        let (open, max) = (state.open.len(), u64::from(info.parallel) + u64::from(self.0.queue));
        if u64::try_from(open).unwrap_or(u64::MAX) >= max {
            let why = format!(
                "{open} requests are being answered or wait, and there is room for {max}; come back in a moment"
            );
            return Err(InferenceError::new(InferenceErrorKind::QueueFull { retry_after_ms: 1_000 }, why));
        }
        let id = state.next;
        state.next += 1;
        state.open.insert(id, false);
        Ok(id)
    }

    fn refusal(phase: &Phase) -> InferenceError {
        let (kind, why) = match phase {
            Phase::Loading(permille) => {
                let percent = permille / 10;
                (
                    InferenceErrorKind::EngineLost,
                    format!("the model is being loaded ({percent} %); ask again in a moment"),
                )
            }
            Phase::Lost(why) => (
                InferenceErrorKind::EngineLost,
                format!("the engine broke ({why}) and is being started again; ask again in a moment"),
            ),
            Phase::Broken(why) => (InferenceErrorKind::Unavailable, format!("the model does not come up: {why}")),
            Phase::Ready(_) | Phase::Stopped => {
                (InferenceErrorKind::Unavailable, "the engine of this model was stopped".to_owned())
            }
        };
        InferenceError::new(kind, why)
    }
}

impl Engine for Embedded {
    fn ready(&self) -> Later<'_, Result<EngineInfo, NotReady>> {
        Box::pin(async move {
            let mut phase = self.phase();
            let known = phase.wait_for(|phase| !matches!(phase, Phase::Loading(_) | Phase::Lost(_))).await;
            match known.as_deref() {
                Ok(Phase::Ready(info)) => Ok(info.clone()),
                Ok(Phase::Broken(why)) => Err(NotReady(why.clone())),
                _ => Err(NotReady("the engine of this model was stopped".to_owned())),
            }
        })
    }

    fn submit(&self, request: InferenceRequest) -> Answer {
        if let Err(wrong) = request.check() {
            return Answer::failed(InferenceError::new(InferenceErrorKind::BadRequest, wrong.why).of(&wrong.param));
        }
        let info = match &*self.0.phase.borrow() {
            Phase::Ready(info) => info.clone(),
            phase => return Answer::failed(Self::refusal(phase)),
        };
        let id = match self.open(&info) {
            Ok(id) => id,
            Err(error) => return Answer::failed(error),
        };
        let (answering, answer) = answer();
        if let Err(gone) = self.0.asks.send((id, Box::new(request), answering)) {
            drop(gone);
            self.close(id);
            return Answer::failed(Self::refusal(&Phase::Stopped));
        }
        answer
    }

    fn load(&self) -> Load {
        let state = self.state();
        let busy = state.open.values().filter(|has_place| **has_place).count();
        let count = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
        Load { busy: count(busy), waiting: count(state.open.len() - busy) }
    }
}
