//! A model on a lease: a job of one task that answers requests.
//!
//! [`start`] rents, sends what is missing and begins like any job, with the same durable records, and gives a handle at
//! once: its state to watch, its [`ModelLine`] to ask, and the way to stop it. The line is an [`Engine`] like any other;
//! what its answers count is noted here as well as there, and no more than that is paid.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use muster_core::inference::audit::Commitment;
use muster_core::inference::{
    InferenceError, InferenceErrorKind, InferenceEvent, InferenceRequest, InferenceTask, Prompt, TokenCounts,
};
use muster_engine::audit;
use muster_engine::{Abilities, Answer, Answering, Engine, EngineInfo, Later, Load, NotReady, answer};
use muster_net::{FrameWriter, NetError, StreamKind};
use muster_wire::message::inference::{FromInference, InferenceOpen, ModelReady, SEALED_LEN_MAX, ToInference};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::job::{JobControl, JobError, JobReport, JobRequest};
use crate::live::{Complaints, LiveState, drive, over};
use crate::rental::LeaseLine;
use crate::renter::Renter;

/// Of so many answers one is held against what was committed to with it, by chance.
const REVEAL_EVERY: u32 = 64;
/// A Container that takes no request for so long is as good as gone.
const SEND_WITHIN: Duration = Duration::from_secs(10);
/// An answer of which nothing comes for so long is given up: a long prompt takes its time.
const SILENCE_MAX: Duration = Duration::from_secs(300);
/// An answer that was cancelled says within this what it counted.
const COUNT_WITHIN: Duration = Duration::from_secs(10);
/// Pause before the Container is asked anew how far the model is.
const AGAIN_AFTER: Duration = Duration::from_millis(500);

/// What a model waits for at first.
pub const LOOKED_FOR: &str = "a Container is looked for";

/// How far a model is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ModelStanding {
    /// Not there yet, and what is being done for it.
    Preparing(String),
    /// Its weights need a token that is sealed to its Container; for what, in words.
    TokenWanted(String),
    /// It answers.
    Ready(EngineInfo),
    /// It is over, or never will be there.
    Over(String),
}

/// A model that this process rents.
#[derive(Debug)]
pub struct Replica {
    name: String,
    state: watch::Receiver<LiveState>,
    line: ModelLine,
    control: JobControl,
    done: JoinHandle<JobReport>,
}

impl Replica {
    /// Its name, as the records of its leases have it.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// How its lease stands; changes are seen as they come.
    #[must_use]
    pub fn state(&self) -> watch::Receiver<LiveState> {
        self.state.clone()
    }

    /// For asking it.
    #[must_use]
    pub fn line(&self) -> ModelLine {
        self.line.clone()
    }

    /// For stopping it from elsewhere.
    #[must_use]
    pub fn control(&self) -> JobControl {
        self.control.clone()
    }

    /// Waits until it is over and settled. `None` when this process's runtime is ending.
    pub async fn over(self) -> Option<JobReport> {
        over(self.done).await
    }
}

/// Rents a Container for a model and drives it in the background. Make the request with [`JobRequest::for_model`].
/// Dropping the handle stops nothing. What the engine complains about goes to `complaints`.
///
/// # Errors
/// The request is no model, or is wrong. What goes wrong later is in the state and in the report.
pub fn start(renter: Renter, request: JobRequest, complaints: Option<Complaints>) -> Result<Replica, JobError> {
    if request.model.is_none() || request.array.is_some() {
        return Err(JobError::Request("a replica is one task with a model to serve".to_owned()));
    }
    let context = request.model.as_ref().map_or(0, |model| model.context);
    let driven = drive(renter, request, complaints)?;
    let (teller, standing) = watch::channel(ModelStanding::Preparing(LOOKED_FOR.to_owned()));
    let line = ModelLine {
        shared: Arc::new(Shared { line: driven.line.clone(), standing, context, busy: AtomicU32::new(0) }),
    };
    tokio::spawn(follow(driven.line, driven.state.clone(), teller));
    Ok(Replica { name: driven.name, state: driven.state, line, control: driven.control, done: driven.done })
}

/// Asks a model on a lease. Clones share it; it outlives the connection below it.
#[derive(Clone, Debug)]
pub struct ModelLine {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    line: watch::Receiver<Option<LeaseLine>>,
    standing: watch::Receiver<ModelStanding>,
    context: u32,
    busy: AtomicU32,
}

impl ModelLine {
    /// How far the model is; changes are seen as they come.
    #[must_use]
    pub fn standing(&self) -> watch::Receiver<ModelStanding> {
        self.shared.standing.clone()
    }

    /// Asks for what was committed to. Nobody waits for it; what is wrong stands in the log.
    async fn hold_against(&self, commitment: Commitment) {
        if let Err(error) = audit::reveal(self, commitment).await {
            let lease = self.shared.line.borrow().as_ref().map(|line| line.lease.short());
            tracing::warn!(lease, %error, "a model's Container does not stand by an answer");
        }
    }
}

impl ModelLine {
    /// Gives the Container a token that was sealed to it. What is sealed stays so: this only passes it on.
    ///
    /// # Errors
    /// A sentence that says why it is not taken.
    pub async fn give_token(&self, sealed: Vec<u8>) -> Result<(), String> {
        let line =
            self.shared.line.borrow().clone().ok_or("the line to the Container is down; try again in a moment")?;
        let sealed = sealed.try_into().map_err(|_| format!("a sealed token has at most {SEALED_LEN_MAX} bytes"))?;
        let told = async {
            let mut stream = line.connection.open_bi(StreamKind::Inference).await?.framed();
            stream.ask(&InferenceOpen::Token { lease: line.lease, sealed }, SEND_WITHIN).await
        };
        let told: Result<FromInference, NetError> = told.await;
        match told {
            Ok(FromInference::TokenTaken { why_not: None }) => Ok(()),
            Ok(FromInference::TokenTaken { why_not: Some(why) }) => Err(why.into_string()),
            Ok(_) => Err("the Container answers something else; it may be of another version".to_owned()),
            Err(error) => Err(format!("the line to the Container broke: {error}; try again in a moment")),
        }
    }
}

impl Engine for ModelLine {
    fn ready(&self) -> Later<'_, Result<EngineInfo, NotReady>> {
        let mut standing = self.shared.standing.clone();
        Box::pin(async move {
            let settled = |standing: &ModelStanding| {
                !matches!(standing, ModelStanding::Preparing(_) | ModelStanding::TokenWanted(_))
            };
            match standing.wait_for(settled).await.as_deref() {
                Ok(ModelStanding::Ready(info)) => Ok(info.clone()),
                Ok(ModelStanding::Over(why) | ModelStanding::Preparing(why) | ModelStanding::TokenWanted(why)) => {
                    Err(NotReady(why.clone()))
                }
                Err(_) => Err(NotReady("the model's lease is over".to_owned())),
            }
        })
    }

    /// Each request gets a seed, so that its answer can be replayed; now and then an answer is held against its
    /// commitment, which also hides those that Checkers ask for.
    fn submit(&self, request: InferenceRequest) -> Answer {
        let (answering, answer) = answer();
        let busy = Busy::begin(&self.shared);
        // Servers behind an OpenAI API take no seed that needs a sign.
        let request = request.seeded(rand::random::<u64>() >> 1);
        let line = self.clone();
        tokio::spawn(async move {
            let committed = ask(&busy.0, request, answering).await;
            drop(busy);
            if let Some(commitment) = committed
                && rand::random_range(0..REVEAL_EVERY) == 0
            {
                line.hold_against(commitment).await;
            }
        });
        answer
    }

    fn load(&self) -> Load {
        let busy = self.shared.busy.load(Ordering::Relaxed);
        let parallel = match &*self.shared.standing.borrow() {
            ModelStanding::Ready(info) => info.parallel,
            ModelStanding::Preparing(_) | ModelStanding::TokenWanted(_) | ModelStanding::Over(_) => 1,
        };
        Load { busy: busy.min(parallel), waiting: busy.saturating_sub(parallel) }
    }
}

/// One that counts as busy while it lives.
struct Busy(Arc<Shared>);

impl Busy {
    fn begin(shared: &Arc<Shared>) -> Self {
        shared.busy.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(shared))
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.busy.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Carries a request; what was committed to with its first answer.
async fn ask(shared: &Shared, request: InferenceRequest, answering: Answering) -> Option<Commitment> {
    let line = shared.line.borrow().clone();
    let Some(line) = line else {
        let why = match &*shared.standing.borrow() {
            ModelStanding::Preparing(what) | ModelStanding::TokenWanted(what) => {
                format!("the model does not answer yet: {what}")
            }
            ModelStanding::Over(why) => format!("the model answers no more: {why}"),
            ModelStanding::Ready(_) => "the line to the model's Container is down; it is dialled again".to_owned(),
        };
        answering.fail(InferenceError::new(InferenceErrorKind::Unavailable, why), TokenCounts::ZERO).await;
        return None;
    };
    let most = most(&request, shared.context);
    let mut asked = Asked { line: &line, began: None, committed: None, answering, sent: false };
    match asked.carry(request).await {
        Ok(()) => asked.committed,
        Err(error) => {
            // Of a request that was sent, what it counted is not known any more.
            let counts = asked.began.unwrap_or_default();
            if asked.sent {
                line.tally.lost(TokenCounts { input: counts.input.max(most.input), ..most });
            }
            let why = format!("the line to the model's Container broke: {error}");
            let error = InferenceError::new(InferenceErrorKind::Unavailable, why);
            asked.answering.fail(error, counts).await;
            None
        }
    }
}

/// A request on its stream.
struct Asked<'a> {
    line: &'a LeaseLine,
    began: Option<TokenCounts>,
    committed: Option<Commitment>,
    answering: Answering,
    sent: bool,
}

impl Asked<'_> {
    async fn carry(&mut self, request: InferenceRequest) -> Result<(), NetError> {
        let stream = self.line.connection.open_bi(StreamKind::Inference).await?;
        let (mut from, mut to) = stream.framed().split();
        let open = InferenceOpen::Ask { lease: self.line.lease, request: Box::new(request) };
        to.send_within(&open, SEND_WITHIN).await?;
        self.sent = true;
        let mut cancelled = false;
        loop {
            let within = if cancelled { COUNT_WITHIN } else { SILENCE_MAX };
            let message = tokio::select! {
                message = tokio::time::timeout(within, from.recv::<FromInference>()) => message,
                () = self.answering.cancelled(), if !cancelled => {
                    cancelled = true;
                    cancel(&mut to).await;
                    continue;
                }
            };
            let silent = |_| NetError::from(std::io::Error::new(std::io::ErrorKind::TimedOut, "nothing more came"));
            let Some(FromInference::Events(events)) = message.map_err(silent)?? else {
                return Err(std::io::Error::new(std::io::ErrorKind::UnexpectedEof, "it ended without its count").into());
            };
            let events = events.into_vec();
            let mut last = false;
            for event in &events {
                match event {
                    InferenceEvent::Began { counts } => self.began = Some(*counts),
                    InferenceEvent::Committed { choice: 0, commitment, .. } => self.committed = Some(*commitment),
                    InferenceEvent::Done { counts } | InferenceEvent::Failed { counts, .. } => {
                        self.line.tally.answered(*counts);
                        last = true;
                    }
                    _ => {}
                }
            }
            // One who has left needs no events; the count is still waited for.
            let heard = self.answering.is_gone() || self.answering.send(events).await;
            if last {
                return Ok(());
            }
            if !heard && !cancelled {
                cancelled = true;
                cancel(&mut to).await;
            }
        }
    }
}

/// Says that no more is wanted. A Container that has just said its last word hears nothing any more, and its last word is on its
/// way; whether the stream is broken shows when it is read from.
async fn cancel(to: &mut FrameWriter) {
    if let Err(error) = to.send_within(&ToInference::Cancel, SEND_WITHIN).await {
        tracing::debug!(%error, "a request cannot be cancelled; it may be over");
    }
}

/// The most that a request can count: no token is less than a byte, and an answer ends with the context.
fn most(request: &InferenceRequest, context: u32) -> TokenCounts {
    let context = u64::from(context);
    let (input, sampling) = match &request.task {
        InferenceTask::Chat(chat) => (context, Some(&chat.sampling)),
        InferenceTask::Completion(completion) => (prompts(&completion.prompts), Some(&completion.sampling)),
        InferenceTask::Embedding(embedding) => (prompts(&embedding.inputs), None),
        InferenceTask::Replay(_) => (context, None),
        InferenceTask::Reveal(_) => (0, None),
    };
    let output = sampling.map_or(0, |sampling| {
        let each = sampling.max_tokens.map_or(context, u64::from).min(context);
        let prompts = match &request.task {
            InferenceTask::Completion(completion) => completion.prompts.len(),
            InferenceTask::Chat(_)
            | InferenceTask::Embedding(_)
            | InferenceTask::Reveal(_)
            | InferenceTask::Replay(_) => 1,
        };
        each.saturating_mul(u64::from(sampling.n)).saturating_mul(u64::try_from(prompts).unwrap_or(u64::MAX))
    });
    TokenCounts { input, cached: 0, output }
}

fn prompts(prompts: &[Prompt]) -> u64 {
    // A text may get a token before it and one behind it.
    let len = |prompt: &Prompt| match prompt {
        Prompt::Text(text) => text.len().saturating_add(2),
        Prompt::Tokens(tokens) => tokens.len().saturating_add(2),
    };
    prompts.iter().map(|prompt| u64::try_from(len(prompt)).unwrap_or(u64::MAX)).fold(0, u64::saturating_add)
}

/// Follows how far the model is, over all lines, until the job is over.
async fn follow(
    mut line: watch::Receiver<Option<LeaseLine>>,
    mut state: watch::Receiver<LiveState>,
    teller: watch::Sender<ModelStanding>,
) {
    loop {
        let present = line.borrow_and_update().clone();
        let Some(present) = present else {
            let why = state.borrow().why.clone();
            let words = why.unwrap_or_else(|| "a Container is looked for".to_owned());
            prepare(&teller, words);
            tokio::select! {
                changed = line.changed() => if changed.is_err() { break },
                changed = state.changed() => if changed.is_err() { break },
            }
            continue;
        };
        tokio::select! {
            watched = watch_one(&present, &teller) => {
                if let Err(error) = watched {
                    tracing::debug!(lease = %present.lease.short(), %error, "how far a model is cannot be heard");
                }
                tokio::time::sleep(AGAIN_AFTER).await;
            }
            changed = line.changed() => if changed.is_err() { break },
        }
    }
    let why = state.borrow().why.clone().unwrap_or_else(|| "its lease is over".to_owned());
    teller.send_replace(ModelStanding::Over(why));
}

fn prepare(teller: &watch::Sender<ModelStanding>, what: String) {
    teller.send_if_modified(|standing| {
        let new = ModelStanding::Preparing(what);
        let news = *standing != new;
        *standing = new;
        news
    });
}

async fn watch_one(line: &LeaseLine, teller: &watch::Sender<ModelStanding>) -> Result<(), NetError> {
    let mut stream = line.connection.open_bi(StreamKind::Inference).await?.framed();
    stream.send(&InferenceOpen::Watch { lease: line.lease }).await?;
    while let Some(message) = stream.recv::<FromInference>().await? {
        match message {
            FromInference::Preparing { what } => prepare(teller, what.into_string()),
            FromInference::Ready(ready) => {
                teller.send_replace(ModelStanding::Ready(info(ready)));
            }
            FromInference::Over { why } => {
                // Another Container may take it over: the job says when it is over for good.
                prepare(teller, why.into_string());
                return Ok(());
            }
            FromInference::TokenWanted { what } => {
                teller.send_replace(ModelStanding::TokenWanted(what.into_string()));
            }
            FromInference::Events(_) | FromInference::Has(_) | FromInference::TokenTaken { .. } => {}
        }
    }
    Ok(())
}

fn info(ready: ModelReady) -> EngineInfo {
    EngineInfo {
        context: ready.context,
        parallel: ready.parallel,
        queue: ready.queue,
        abilities: Abilities {
            chat: ready.chat,
            completion: ready.completion,
            embedding: ready.embedding,
            tools: ready.tools,
            vision: ready.vision,
        },
        dimensions: ready.dimensions,
        engine: ready.engine.into_string(),
    }
}
