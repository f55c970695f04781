//! A job that is a model: its weights, its engine in the Sandbox, its count.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use muster_core::brain::container::Event;
use muster_core::inference::{
    HubFile, InferenceError, InferenceErrorKind, ModelFile, ModelKind, ModelSource, ModelSpec, TokenCounts, WeightsId,
};
use muster_core::lease::End;
use muster_core::protocol::{JobSpec as Job, NodeAddr};
use muster_engine::hub::Token;
use muster_engine::{Answer, Engine, EngineInfo};
use muster_net::PeerAddr;
use muster_wire::message::clip_sentence;
use muster_wire::message::inference::ModelReady;
use muster_wire::message::session::Sentence;
use tokio::sync::watch;
use tokio::time::{Instant, timeout};
use tokio_util::task::TaskTracker;
use tracing::{info, warn};

use super::Serving;
use super::workplace::{Workplace, sentence};
use crate::engines::{EngineSetup, Engines};
use crate::models::{Gathering, Held, ModelsError, Neighbour, Room, Source, Wanted};
use crate::sandbox::RunningJob;

/// Where a job sees its weights, under the names by which a consumer sends them.
const INSIDE: &str = "/.muster";
/// Who has a token gives it within this.
const TOKEN_WITHIN: Duration = Duration::from_secs(900);
/// How often counts are told while something is asked.
const TELL_EVERY: Duration = Duration::from_millis(500);
/// How often it is looked whether something is in hand still.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// Answers that were cut off say within this what they have counted.
const COUNT_WITHIN: Duration = Duration::from_secs(2);
/// An engine that breaks is started again so often within [`BREAKS_WITHIN`].
const BREAKS_MAX: usize = 3;
const BREAKS_WITHIN: Duration = Duration::from_secs(600);
/// An engine that does not answer within this, beside a second for each [`LOAD_BYTES`] of weights, is given up.
const READY_WITHIN: Duration = Duration::from_secs(60);
const LOAD_BYTES: u64 = 50 << 20;

/// How far a model is.
#[derive(Clone)]
pub(crate) enum Standing {
    /// Not there yet; what is being done.
    Preparing(Option<Sentence>),
    /// Its weights need a token, which nobody has given yet: for which file, and in words.
    TokenWanted(HubFile, Sentence),
    /// It answers.
    Ready(ModelReady, Arc<dyn Engine>),
    /// It is over, or never will be there.
    Over(Sentence),
}

impl std::fmt::Debug for Standing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Preparing(what) => f.debug_tuple("Preparing").field(what).finish(),
            Self::TokenWanted(_, what) => f.debug_tuple("TokenWanted").field(what).finish(),
            Self::Ready(ready, _) => f.debug_tuple("Ready").field(ready).finish(),
            Self::Over(why) => f.debug_tuple("Over").field(why).finish(),
        }
    }
}

/// One lease's model, as its streams see it. It is there before the job begins and after it has ended.
#[derive(Debug)]
pub(crate) struct ModelPlace {
    standing: watch::Sender<Standing>,
    counted: Mutex<Counted>,
    /// What opens a private repository, from when it was given until its weights are here.
    token: watch::Sender<Option<Token>>,
    /// Every answer that is being given, so that the end can wait for their counts.
    pub(crate) answers: TaskTracker,
    /// What it is paid for, once that is known.
    weights: OnceLock<WeightsId>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Counted {
    total: TokenCounts,
    busy: u32,
    told: TokenCounts,
}

/// An answer in hand: counts as busy until its count is known.
pub(crate) struct InHand<'a>(&'a ModelPlace);

impl Drop for InHand<'_> {
    fn drop(&mut self) {
        self.0.change(|counted| counted.busy = counted.busy.saturating_sub(1));
    }
}

impl InHand<'_> {
    /// What the engine says that it counted; once.
    pub(crate) fn counted(self, counts: TokenCounts) {
        self.0.change(|counted| counted.total += counts);
    }
}

impl ModelPlace {
    pub(super) fn new() -> Self {
        let standing = watch::Sender::new(Standing::Preparing(None));
        Self {
            standing,
            counted: Mutex::default(),
            token: watch::Sender::new(None),
            answers: TaskTracker::new(),
            weights: OnceLock::new(),
        }
    }

    /// What it answers with, while it does: the weights that it is paid for, and how the engine describes itself.
    pub(crate) fn answers_with(&self) -> Option<(WeightsId, Sentence)> {
        let engine = match &*self.standing.borrow() {
            Standing::Ready(ready, _) => ready.engine.clone(),
            Standing::Preparing(_) | Standing::TokenWanted(..) | Standing::Over(_) => return None,
        };
        Some((*self.weights.get()?, engine))
    }

    /// How far it is, now and from now on.
    pub(crate) fn standing(&self) -> watch::Receiver<Standing> {
        self.standing.subscribe()
    }

    fn change<T>(&self, change: impl FnOnce(&mut Counted) -> T) -> T {
        // Every change is whole, so one that panicked left nothing wrong.
        change(&mut self.counted.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Takes a token, where one is waited for.
    pub(crate) fn give_token(&self, token: Token) -> Result<(), &'static str> {
        self.token_wanted().ok_or("this model waits for no token")?;
        self.token.send_replace(Some(token));
        Ok(())
    }

    /// For which file a token is waited for.
    pub(crate) fn token_wanted(&self) -> Option<HubFile> {
        match &*self.standing.borrow() {
            Standing::TokenWanted(file, _) => Some(file.clone()),
            Standing::Preparing(_) | Standing::Ready(..) | Standing::Over(_) => None,
        }
    }

    /// Waits for a token, and takes it away from here.
    async fn token_for(&self, what: &HubFile) -> Option<Token> {
        let wanted = Sentence::truncated(&format!("waiting for a token for {what}, sealed to this Container"));
        self.standing.send_if_modified(|standing| {
            let goes = !matches!(standing, Standing::Over(_));
            if goes {
                *standing = Standing::TokenWanted(what.clone(), wanted);
            }
            goes
        });
        let mut given = self.token.subscribe();
        let waited = timeout(TOKEN_WITHIN, given.wait_for(Option::is_some)).await;
        drop(waited);
        self.token.send_replace(None)
    }

    /// What was counted so far.
    pub(crate) fn total(&self) -> TokenCounts {
        self.change(|counted| counted.total)
    }

    /// Takes a request in hand.
    pub(crate) fn in_hand(&self) -> InHand<'_> {
        self.change(|counted| counted.busy = counted.busy.saturating_add(1));
        InHand(self)
    }

    /// The engine, if it answers now.
    pub(crate) fn engine(&self) -> Result<Arc<dyn Engine>, InferenceError> {
        let unavailable = |why: String| InferenceError::new(InferenceErrorKind::Unavailable, why);
        match &*self.standing.borrow() {
            Standing::Ready(_, engine) => Ok(Arc::clone(engine)),
            Standing::Preparing(what) => {
                let what = what.as_ref().map_or("it is not started yet", Sentence::as_str);
                Err(unavailable(format!("the model does not answer yet: {what}")))
            }
            Standing::TokenWanted(_, what) => {
                Err(unavailable(format!("the model does not answer yet: {}", what.as_str())))
            }
            Standing::Over(why) => Err(unavailable(format!("the model answers no more: {}", why.as_str()))),
        }
    }

    /// Waits until nothing is in hand.
    async fn idle(&self) {
        while self.change(|counted| counted.busy) > 0 {
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    fn prepare(&self, what: &str) {
        let what = Sentence::truncated(what);
        self.standing.send_if_modified(|standing| match standing {
            Standing::Over(_) => false,
            Standing::Preparing(Some(known)) if *known == what => false,
            _ => {
                *standing = Standing::Preparing(Some(what));
                true
            }
        });
    }

    /// It is over, for this reason; only the first counts.
    pub(super) fn close(&self, why: &str) {
        self.standing.send_if_modified(|standing| {
            let first = !matches!(standing, Standing::Over(_));
            if first {
                *standing = Standing::Over(Sentence::truncated(why));
            }
            first
        });
    }
}

fn ready_form(info: &EngineInfo) -> ModelReady {
    let can = info.abilities;
    ModelReady {
        context: info.context,
        parallel: info.parallel,
        queue: info.queue,
        chat: can.chat,
        completion: can.completion,
        embedding: can.embedding,
        tools: can.tools,
        vision: can.vision,
        dimensions: info.dimensions,
        engine: Sentence::truncated(&info.engine),
    }
}

/// How a run of the engine came to its end.
enum Ran {
    /// The lease ended.
    Killed,
    /// It broke, or never came up.
    Broke(String),
    /// It cannot come up, here or anywhere.
    Never(End),
}

impl Workplace {
    /// Serves a model until its lease is over. It counts as started once it has answered something.
    pub(super) async fn serve(self: &Arc<Self>, wanted: Job, model: ModelSpec) -> (End, Option<String>) {
        // Said once, before the first answer: a lease has one model.
        self.model.weights.get_or_init(|| model.weights);
        let end = self.serve_to_the_end(wanted, &model).await;
        self.model.close(&end.to_string());
        self.model.answers.close();
        if timeout(COUNT_WITHIN, self.model.answers.wait()).await.is_err() {
            warn!(lease = %self.lease(), "answers that were cut off have not said what they counted");
        }
        self.tell_counts().await;
        (end, None)
    }

    async fn serve_to_the_end(self: &Arc<Self>, wanted: Job, model: &ModelSpec) -> End {
        let killed = || End::Interrupted("the lease ended".to_owned());
        if let Some(name) = &model.endpoint {
            return self.serve_endpoint(name, model).await;
        }
        let Some(serving) = self.shop.serving.clone() else {
            return End::FailedToStart("this Container serves no models".to_owned());
        };
        let weights = tokio::select! {
            biased;
            () = self.kill.cancelled() => return killed(),
            weights = self.weights(&serving, model) => weights,
        };
        let weights = match weights {
            Ok(weights) => weights,
            Err(end) => return end,
        };
        let mut breaks: Vec<Instant> = Vec::new();
        loop {
            match self.run_engine(&serving, &wanted, model, &weights).await {
                Ran::Killed => return killed(),
                Ran::Never(end) => return end,
                Ran::Broke(why) => {
                    breaks.retain(|at| at.elapsed() < BREAKS_WITHIN);
                    breaks.push(Instant::now());
                    metrics::counter!("muster_container_engine_breaks_total").increment(1);
                    warn!(lease = %self.lease(), %why, "an engine broke");
                    if breaks.len() > BREAKS_MAX {
                        let why = format!(
                            "the engine broke {} times within {} minutes, the last time: {why}",
                            breaks.len(),
                            BREAKS_WITHIN.as_secs() / 60
                        );
                        return End::Interrupted(clip_sentence(&why));
                    }
                    self.model.prepare(&format!("the engine broke and is started again: {why}"));
                }
            }
        }
    }

    /// The weights, in the order of the model's files.
    async fn weights(self: &Arc<Self>, serving: &Serving, model: &ModelSpec) -> Result<Vec<Held>, End> {
        if self.terms.tokens.as_ref().is_none_or(|tokens| tokens.weights != model.bytes) {
            let why = "the lease was not agreed for a model of this size";
            return Err(End::FailedToStart(why.to_owned()));
        }
        let models = &serving.weights;
        let files = model.files();
        let mut ways = Ways { near: self.neighbours(serving, model), token: None };
        if model.parts.is_empty() {
            let mut held = Vec::new();
            for file in &files {
                held.push(match models.hold(file.part.weights) {
                    Some(held) => held,
                    None => self.file(serving, file, &mut ways, None).await?,
                });
            }
            return Ok(held);
        }
        // Leases that need the same gather it one after the other, and room is made for all of it at once.
        let turn = models.gathering(model.weights, |what| self.model.prepare(what)).await;
        let here: Vec<Option<Held>> = files.iter().map(|file| models.hold(file.part.weights)).collect();
        let mut room = models.room_for(&model.parts).map_err(ended)?;
        let mut all = Vec::new();
        for (file, held) in files.iter().zip(here) {
            let held = match held {
                Some(held) => held,
                None => self.file(serving, file, &mut ways, Some((room.take(&file.part), &turn))).await?,
            };
            all.push(held);
        }
        if !models.has(model.weights) {
            self.one_model(serving, model, &all).await?;
        }
        Ok(all)
    }

    /// Looks whether files that are here are one model, and writes it down.
    async fn one_model(&self, serving: &Serving, model: &ModelSpec, all: &[Held]) -> Result<(), End> {
        self.model.prepare("looking at the weights");
        let (engines, models) = (Arc::clone(&serving.engines), serving.weights.clone());
        let (paths, id, parts) = (paths(all), model.weights, model.parts.clone());
        let looked_at = tokio::task::spawn_blocking(move || {
            engines.check_together(&paths).map_err(ModelsError::Form)?;
            models.keep_set(id, &parts)
        });
        let looked_at = looked_at.await.map_err(|error| End::Interrupted(clip_sentence(&error.to_string())))?;
        looked_at.map_err(ended)
    }

    /// One file that is not here: from where the consumer says that it can be had, or as it was sent.
    async fn file(
        self: &Arc<Self>,
        serving: &Serving,
        file: &ModelFile,
        ways: &mut Ways,
        set: Option<(Arc<Room>, &Gathering)>,
    ) -> Result<Held, End> {
        let (room, turn) = set.unzip();
        let wanted = Wanted { id: file.part.weights, bytes: file.part.bytes, room };
        let tell = |what: &str| {
            self.model.prepare(what);
            if let Some(turn) = turn {
                turn.say(what);
            }
        };
        let check = checker(&serving.engines, file.place);
        // Another Container: nobody has to give weights, and who gives none is asked no more.
        while let Some(neighbour) = ways.near.first().cloned() {
            match self.fetch(serving, wanted.clone(), &Source::Neighbour(neighbour), check.clone(), tell).await {
                Ok(held) => return Ok(held),
                Err(error) => info!(lease = %self.lease(), %error, "another Container does not give weights"),
            }
            ways.near.remove(0);
        }
        let mut why_not = None;
        if let Some((on_hub, private)) = &file.hub {
            let source = self.on_hub(serving, on_hub, *private, ways).await;
            let fetched = match source {
                Ok(source) => self.fetch(serving, wanted.clone(), &source, check.clone(), tell).await,
                Err(error) => Err(error),
            };
            match fetched {
                Ok(held) => return Ok(held),
                Err(error) => why_not = Some(error),
            }
        }
        let taken = match (self.sent(serving, wanted, &file.name, check).await?, why_not) {
            (Err(ModelsError::Missing(_)), Some(why)) => return Err(ended(why)),
            (taken, _) => taken.map_err(ended)?,
        };
        // What a consumer brings is its own, unless it is known to everybody.
        if serving.engines.is_public(file.part.weights) {
            serving.weights.publish(file.part.weights).map_err(ended)?;
        }
        Ok(taken)
    }

    /// Takes in a file that the consumer has sent.
    async fn sent(
        self: &Arc<Self>,
        serving: &Serving,
        wanted: Wanted,
        name: &str,
        check: impl FnOnce(&Path) -> Result<(), String> + Send + 'static,
    ) -> Result<Result<Held, ModelsError>, End> {
        let folder = self.folder().await.map_err(End::Interrupted)?;
        let (models, name, place) = (serving.weights.clone(), name.to_owned(), Arc::clone(self));
        let taken = tokio::task::spawn_blocking(move || {
            let Ok(file) = folder.open_file(&name) else { return Err(ModelsError::Missing(wanted.id)) };
            let tell = |permille: u64| place.model.prepare(&format!("checking the weights: {} %", permille / 10));
            let held = models.take_in(wanted, file, check, tell)?;
            // They are kept once; a copy that stays takes only what was rented.
            if let Err(error) = folder.remove_file(&name) {
                warn!(error = %sentence(&error), "weights are kept twice");
            }
            Ok(held)
        });
        taken.await.map_err(|error| End::Interrupted(clip_sentence(&error.to_string())))
    }

    /// Other Containers that are said to have the weights.
    fn neighbours(&self, serving: &Serving, model: &ModelSpec) -> Vec<Neighbour> {
        let neighbour = |source: &ModelSource| {
            let ModelSource::Container(addr) = source else { return None };
            // Its relay is left out: nobody makes this Container call a server of his choice.
            let direct = NodeAddr { relay: None, ..addr.clone() };
            let addr = muster_wire::NodeAddr::try_from(direct).ok()?;
            let addr = PeerAddr::try_from(&addr).ok().filter(|addr| addr.id != self.shop.node)?;
            Some(Neighbour { peer: serving.peer.clone(), addr, silence: serving.silence })
        };
        model.sources.iter().filter_map(neighbour).collect()
    }

    async fn fetch(
        &self,
        serving: &Serving,
        wanted: Wanted,
        source: &Source,
        check: impl FnOnce(&Path) -> Result<(), String> + Send + 'static,
        tell: impl Fn(&str),
    ) -> Result<Held, ModelsError> {
        let id = wanted.id;
        let held = serving.weights.fetch(wanted, source, check, tell).await?;
        let public = match source {
            Source::Hub { token, .. } => token.is_none(),
            Source::Neighbour(_) => true,
        };
        if public {
            serving.weights.publish(id)?;
        }
        Ok(held)
    }

    /// A file on the hub, with the token that it wants; one token is for all files of a model.
    async fn on_hub(
        &self,
        serving: &Serving,
        file: &HubFile,
        private: bool,
        ways: &mut Ways,
    ) -> Result<Source, ModelsError> {
        let Some(hub) = serving.hub.clone() else { return Err(ModelsError::NoHub(file.to_string())) };
        if private && ways.token.is_none() {
            ways.token = Some(self.model.token_for(file).await.ok_or(ModelsError::NoToken)?);
        }
        let token = ways.token.clone().filter(|_| private);
        Ok(Source::Hub { hub, file: file.clone(), token, silence: serving.silence })
    }

    async fn run_engine(self: &Arc<Self>, serving: &Serving, wanted: &Job, model: &ModelSpec, weights: &[Held]) -> Ran {
        self.model.prepare("starting the engine");
        let files: Vec<PathBuf> = model.files().iter().map(|file| Path::new(INSIDE).join(&file.name)).collect();
        let mut job = match self.start_engine(serving, wanted, paths(weights).into_iter().zip(files.clone())).await {
            Ok(job) => job,
            Err(ran) => return ran,
        };
        *super::workplace::guard(&self.handle) = Some(job.handle());
        let (Some(stdin), Some(stdout)) = (job.stdin.take(), job.stdout.take()) else {
            return Ran::Never(End::Interrupted("the sandbox gave the engine no pipes".to_owned()));
        };
        self.pump_complaints(&mut job);
        let first = files.into_iter().next().unwrap_or_default();
        let engine = serving.engines.over(Box::new(stdin), Box::new(stdout), self.setup(model, first));
        let within = READY_WITHIN + Duration::from_secs(model.bytes.0 / LOAD_BYTES);
        self.model.prepare("loading the weights");
        let ready = tokio::select! {
            biased;
            () = self.kill.cancelled() => return self.end_engine(&job, Ran::Killed).await,
            ready = timeout(within, engine.ready()) => ready,
            end = job.wait() => return Ran::Broke(end.to_string()),
        };
        let info = match ready {
            Ok(Ok(info)) => info,
            Ok(Err(why)) => {
                let ran = Ran::Never(End::FailedToStart(clip_sentence(&format!("the model does not answer: {why}"))));
                return self.end_engine(&job, ran).await;
            }
            Err(_) => {
                let why = format!("it did not answer within {} s", within.as_secs());
                return self.end_engine(&job, Ran::Broke(why)).await;
            }
        };
        if let Err(why) = fits(model, &info) {
            return self.end_engine(&job, Ran::Never(End::FailedToStart(why))).await;
        }
        info!(lease = %self.lease(), model = %model.name, engine = %info.engine, "a model answers");
        self.answers_now(&info, engine).await;
        let mut tick = tokio::time::interval(TELL_EVERY);
        loop {
            tokio::select! {
                biased;
                () = self.kill.cancelled() => {
                    self.end_answers().await;
                    return self.end_engine(&job, Ran::Killed).await;
                }
                end = job.wait() => {
                    // Nobody new; those who were being answered are told what they counted.
                    self.model.prepare("the engine broke");
                    drop(timeout(COUNT_WITHIN, self.model.idle()).await);
                    return Ran::Broke(end.to_string());
                }
                _ = tick.tick() => self.tell_counts().await,
            }
        }
    }

    /// Lets the owner's own engine answer until the lease is over. It counts as started once it has answered something.
    async fn serve_endpoint(self: &Arc<Self>, name: &str, model: &ModelSpec) -> End {
        let failed = |why: String| End::FailedToStart(clip_sentence(&why));
        let Some(endpoint) = self.shop.endpoints.get(name).cloned() else {
            return failed(format!("this Container has no endpoint {name:?} any more"));
        };
        if self.terms.tokens.as_ref().is_none_or(|tokens| tokens.weights != endpoint.weights) {
            return failed(format!(
                "the lease was not agreed for a model of {}, as the endpoint's is",
                endpoint.weights
            ));
        }
        self.model.prepare("asking the provider's engine something");
        let ready = tokio::select! {
            biased;
            () = self.kill.cancelled() => return End::Interrupted("the lease ended".to_owned()),
            ready = timeout(READY_WITHIN, endpoint.engine.ready()) => ready,
        };
        let info = match ready {
            Ok(Ok(info)) => info,
            Ok(Err(why)) => {
                return End::Interrupted(clip_sentence(&format!("the provider's engine does not answer: {why}")));
            }
            Err(_) => {
                let why = format!("the provider's engine did not answer within {} s", READY_WITHIN.as_secs());
                return End::Interrupted(why);
            }
        };
        if let Err(why) = fits(model, &info) {
            return failed(why);
        }
        info!(lease = %self.lease(), model = %model.name, endpoint = name, "a provider's engine answers");
        self.answers_now(&info, endpoint.engine).await;
        let mut tick = tokio::time::interval(TELL_EVERY);
        loop {
            tokio::select! {
                biased;
                () = self.kill.cancelled() => {
                    self.end_answers().await;
                    return End::Interrupted("the lease ended".to_owned());
                }
                _ = tick.tick() => self.tell_counts().await,
            }
        }
    }

    /// Tells everybody that the model answers; from here on it is billed.
    async fn answers_now(&self, info: &EngineInfo, engine: Arc<dyn Engine>) {
        self.model.standing.send_replace(Standing::Ready(ready_form(info), engine));
        self.report_started().await;
    }

    /// Those who are being answered say what they counted while the engine can still tell.
    async fn end_answers(&self) {
        self.model.close("its lease ended");
        self.model.answers.close();
        drop(timeout(COUNT_WITHIN, self.model.answers.wait()).await);
    }

    async fn end_engine(&self, job: &RunningJob, ran: Ran) -> Ran {
        job.kill("the lease ended");
        job.wait().await;
        ran
    }

    async fn start_engine(
        &self,
        serving: &Serving,
        wanted: &Job,
        weights: impl Iterator<Item = (PathBuf, PathBuf)>,
    ) -> Result<RunningJob, Ran> {
        let Ok(_no_more_inputs) = self.inputs.try_lock() else {
            let why = "weights were still arriving when the model was told to begin; wait until they are received";
            return Err(Ran::Never(End::FailedToStart(why.to_owned())));
        };
        let folder = self.folder().await.map_err(|why| Ran::Never(End::Interrupted(clip_sentence(&why))))?;
        let mut wanted = Job { command: serving.engines.command(), stdin: true, ..wanted.clone() };
        // A crash is told by its signal, and not by a debugger that writes where frames go.
        wanted.env.push(("GGML_NO_BACKTRACE".to_owned(), "1".to_owned()));
        let mut spec = self.shop.spec(&self.terms, wanted, None);
        spec.lent = serving.engines.lent(weights);
        let started = self.shop.sandbox.start(&folder, spec).await;
        started.map_err(|error| Ran::Broke(clip_sentence(&sentence(&error))))
    }

    fn setup(&self, model: &ModelSpec, weights: PathBuf) -> EngineSetup {
        EngineSetup {
            weights,
            context: model.context,
            parallel: model.parallel,
            threads: self.terms.allocation.cpu_millis.div_ceil(1_000).max(1),
            embedding: model.kind == ModelKind::Embedding,
            gpus: !self.terms.allocation.gpus.is_empty(),
        }
    }

    /// Tells the brain what was counted, where something was, or something is in hand.
    async fn tell_counts(&self) {
        let tokens = self.model.change(|counted| {
            let news = counted.busy > 0 || counted.total != counted.told;
            counted.told = counted.total;
            news.then_some(counted.total)
        });
        if let Some(tokens) = tokens {
            self.shop.brain.note(Event::Counted { lease: self.lease(), tokens }).await;
        }
    }

    /// Submits a request, where the model answers and what it counted so far is paid well enough.
    pub(crate) fn ask(&self, request: muster_core::inference::InferenceRequest) -> Answer {
        match self.model.engine() {
            Ok(engine) => engine.submit(request),
            Err(error) => Answer::failed(error),
        }
    }
}

/// Ways to the weights of one lease, as far as they are open still.
struct Ways {
    /// Other Containers that gave what they were asked for so far.
    near: Vec<Neighbour>,
    /// What opens the hub's repository, once it was given; gone when all is here.
    token: Option<Token>,
}

fn paths(weights: &[Held]) -> Vec<PathBuf> {
    weights.iter().map(|held| held.path.clone()).collect()
}

/// What looks at a file before it is kept.
fn checker(
    engines: &Arc<dyn Engines>,
    place: Option<(u16, u16)>,
) -> impl FnOnce(&Path) -> Result<(), String> + Clone + Send + 'static {
    let engines = Arc::clone(engines);
    move |path| match place {
        None => engines.check(path),
        Some((number, count)) => engines.check_part(path, number, count),
    }
}

/// How a lease ends whose weights cannot be had.
fn ended(error: ModelsError) -> End {
    let why = clip_sentence(&error.to_string());
    if error.is_ours() { End::Interrupted(why) } else { End::FailedToStart(why) }
}

/// Whether a model that came up is what was asked for.
fn fits(model: &ModelSpec, info: &EngineInfo) -> Result<(), String> {
    let can = info.abilities;
    let does = match model.kind {
        ModelKind::Chat => can.chat,
        ModelKind::Completion => can.completion,
        ModelKind::Embedding => can.embedding,
    };
    if does {
        return Ok(());
    }
    let lacks = match model.kind {
        ModelKind::Chat => "it has no template for conversations; deploy it as a model for completions",
        ModelKind::Completion => "it does not go on with texts",
        ModelKind::Embedding => "it gives no embeddings",
    };
    Err(format!("the model {} is deployed for {}, and {lacks}", model.name, model.kind))
}
