//! From a request that is let in to its answer: which replica, which other one where that fails or is late.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::Response;
use muster_core::ids::NodeId;
use muster_core::inference::{
    Content, ContentPart, InferenceError, InferenceEvent, InferenceRequest, InferenceTask, Late, Prompt,
};
use tokio::time::Instant;

use super::ModelApi;
use super::error::ApiError;
use super::estimate::{choices, reckon};
use super::parse::{Asked, Form};
use super::render::{About, Whole, Writer};
use super::running::{Claim, Ended, Running, Sse};
use super::serve::{denied, json};
use crate::keys::now_s;
use crate::models::{Model, Replica, Seat, Whence};

/// Bytes of a prompt's beginning by which replicas are told that read it before.
const PREFIX_BYTES: usize = 1_024;
/// Where no other replica had a free place for a request that is late, it is looked again after so long.
const HEDGE_AGAIN: Duration = Duration::from_millis(100);
/// How long a request had to wait for a replica to come up.
const COLD_START: HeaderName = HeaderName::from_static("x-muster-cold-start-ms");
/// Which Container answered; in a request, whose answer alone is wanted.
pub(super) const CONTAINER: HeaderName = HeaderName::from_static("x-muster-container");

/// A place at a replica that has to come up first, and how long that took.
pub(super) async fn seat_after_cold_start(
    api: &ModelApi,
    model: &Arc<Model>,
    prefix: u64,
) -> Result<(Seat, Duration), ApiError> {
    let since = Instant::now();
    let soon = model.seat_soon(prefix, || api.now_ms(), api.inner.config.cold_start_within);
    let seat = soon.await.ok_or_else(|| nobody(model))?;
    Ok((seat, since.elapsed()))
}

/// Finds a replica, and another one where it fails before anything was seen of the answer, or is late. `waited` is how long
/// this request waited already for a replica to come up.
pub(super) async fn answered(
    api: &ModelApi,
    asked: Asked,
    mut claim: Claim,
    waited: Option<Duration>,
) -> Result<Response, ApiError> {
    let Asked { request, include_usage, form, container, .. } = asked;
    let mut model = Arc::clone(&claim.model);
    let about = About { id: api.inner.ids.next(), model: model.deployment.name.clone(), created_s: now_s() };
    let (stream, answers) = (request.stream || matches!(form, Form::Native), choices(&request));
    let until = Instant::now() + api.inner.config.answer_within;
    let prefix = if model.has_choice() { prefix(&request.task) } else { 0 };
    let seat = match container {
        Some(container) => Some(model.seat_at(container).ok_or_else(|| not_there(&model, container))?),
        None => model.seat(prefix, api.now_ms(), &[]),
    };
    let (seat, waited) = match seat {
        Some(seat) => (seat, waited),
        None => {
            let (seat, took) = seat_after_cold_start(api, &model, prefix).await?;
            // Only now is it known what its replica asks, and how long a context it has.
            model = api.inner.models.get(&about.model).unwrap_or(model);
            claim.bill.raise(reckon(&model, &request).reserved.cost).map_err(denied)?;
            claim.model = Arc::clone(&model);
            (seat, Some(took.saturating_add(waited.unwrap_or_default())))
        }
    };
    let mut quest = Quest::new(api, model, request, (answers, prefix), until);
    quest.pinned = container.is_some();
    let mut asked = quest.ask(seat, Some(claim)).ok_or_else(|| nobody(&quest.model))?;
    loop {
        let (failed, error) = match quest.begun(asked).await? {
            Ok((shown, events)) if stream => {
                let writer = Writer::new(&form, &about, answers, include_usage);
                let kind = writer.content_type();
                let sse = Sse::new(shown.running, writer, events, until);
                return Ok(with_origin(streamed(sse, kind), shown.replica.whence, waited));
            }
            Ok((mut shown, events)) => {
                let mut whole = Whole::new(&form, &about, answers);
                match gathered(&mut shown.running, events, &mut whole, until).await? {
                    Ended::Done(counts) => {
                        shown.running.settle(counts);
                        let mut body = Vec::with_capacity(1_024);
                        whole.write(&about, counts, &mut body);
                        return Ok(with_origin(json(body), shown.replica.whence, waited));
                    }
                    Ended::Failed(error) => (shown, error),
                }
            }
            Err(failed) => failed,
        };
        asked = quest.again(failed, error)?;
    }
}

/// A replica that was given the request.
struct Runner {
    running: Running,
    replica: Arc<Replica>,
    /// What it said before anything of its answer.
    before: Vec<InferenceEvent>,
}

/// The replica that shows something of the answer first, with its first events; or the last that failed before.
type Begun = Result<(Runner, Vec<InferenceEvent>), (Runner, InferenceError)>;

impl Runner {
    /// The first events that show something of the answer, or the error of one that failed before; `None`: nothing yet.
    fn shown(&mut self, events: Vec<InferenceEvent>) -> Option<Result<Vec<InferenceEvent>, InferenceError>> {
        match events.iter().find(|event| !matches!(event, InferenceEvent::Began { .. })) {
            Some(InferenceEvent::Failed { error, .. }) => Some(Err(error.clone())),
            Some(_) if self.before.is_empty() => Some(Ok(events)),
            Some(_) => {
                self.before.extend(events);
                Some(Ok(std::mem::take(&mut self.before)))
            }
            None => {
                self.before.extend(events);
                None
            }
        }
    }
}

/// What comes first where two replicas have a request.
enum Turn {
    First(Vec<InferenceEvent>),
    Second(Vec<InferenceEvent>),
    /// It is time to look for another replica.
    Late,
}

/// A request on its way to an answer.
struct Quest<'a> {
    api: &'a ModelApi,
    model: Arc<Model>,
    /// None once it was given away for the last time.
    request: Option<InferenceRequest>,
    /// Answers that it asks for.
    answers: usize,
    prefix: u64,
    until: Instant,
    /// How many replicas were given it.
    asked: usize,
    /// Those that failed it.
    tried: Vec<Arc<Replica>>,
    /// Whether a second replica was given it while the first had it.
    hedged: bool,
    /// Whether no other replica's answer is wanted.
    pinned: bool,
}

impl<'a> Quest<'a> {
    fn new(
        api: &'a ModelApi,
        model: Arc<Model>,
        mut request: InferenceRequest,
        (answers, prefix): (usize, u64),
        until: Instant,
    ) -> Self {
        // Where it matters when the first token comes, engines must not hold it back.
        request.stream |= model.deployment.hedge_after_ms.is_some();
        let (request, tried) = (Some(request), Vec::new());
        Self { api, model, request, answers, prefix, until, asked: 0, tried, hedged: false, pinned: false }
    }

    /// Gives the request to a replica; `None` where it was given away for the last time.
    fn ask(&mut self, seat: Seat, claim: Option<Claim>) -> Option<Runner> {
        self.asked = self.asked.saturating_add(1);
        let may_repeat = !self.pinned && self.asked < self.api.inner.config.tries && self.model.has_choice();
        let this = if may_repeat { self.request.clone() } else { self.request.take() }?;
        let replica = Arc::clone(&seat.replica);
        let running = Running::new(replica.engine.submit(this), seat, claim);
        Some(Runner { running, replica, before: Vec::new() })
    }

    /// Gives the request to another replica after one failed, of which nothing was seen; the error where there is none.
    fn again(&mut self, failed: Runner, error: InferenceError) -> Result<Runner, ApiError> {
        // Nothing of it was seen: it is not billed.
        let claim = failed.running.give_up();
        if !error.kind.is_worth_another() {
            return Err(error.into());
        }
        self.note_failed(failed.replica, &error);
        let seat = match &self.request {
            Some(_) => self.model.seat(self.prefix, self.api.now_ms(), &self.tried),
            None => None,
        };
        let (Some(claim), Some(seat)) = (claim, seat) else { return Err(error.into()) };
        self.ask(seat, Some(claim)).ok_or_else(|| error.into())
    }

    fn note_failed(&mut self, replica: Arc<Replica>, error: &InferenceError) {
        replica.failed(self.api.now_ms());
        tracing::debug!(model = self.model.deployment.name, %error, "a replica failed before its answer began");
        self.tried.push(replica);
    }

    /// Waits for the first events that show something.
    async fn begun(&mut self, first: Runner) -> Result<Begun, ApiError> {
        let after_ms = self.model.deployment.hedge_after_ms;
        match after_ms.filter(|_| !self.hedged && self.answers <= 1 && self.request.is_some()) {
            Some(after_ms) => self.raced(first, Duration::from_millis(after_ms)).await,
            None => alone(first, self.until).await,
        }
    }

    /// The same, and gives the request to a second replica where the first shows nothing for so long. The first that shows
    /// something has won; the other is ended, and nobody is billed for it.
    async fn raced(&mut self, mut first: Runner, after: Duration) -> Result<Begun, ApiError> {
        let began = Instant::now();
        let mut look_at = began.checked_add(after);
        let mut second: Option<Runner> = None;
        loop {
            let turn = next_of(&mut first, second.as_mut(), look_at);
            match tokio::time::timeout_at(self.until, turn).await.map_err(late)? {
                Turn::Late => {
                    second = self.second(&first, began.elapsed());
                    look_at = if second.is_none() { Instant::now().checked_add(after.max(HEDGE_AGAIN)) } else { None };
                }
                Turn::First(events) => match (first.shown(events), second.take()) {
                    (None, other) => second = other,
                    (Some(Ok(events)), _) => return Ok(Ok((first, events))),
                    (Some(Err(error)), Some(mut other)) if error.kind.is_worth_another() => {
                        other.running.take_over(&mut first.running);
                        drop(first.running.give_up());
                        self.note_failed(first.replica, &error);
                        first = other;
                    }
                    (Some(Err(error)), _) => return Ok(Err((first, error))),
                },
                Turn::Second(events) => {
                    let Some(mut other) = second.take() else { continue };
                    match other.shown(events) {
                        None => second = Some(other),
                        Some(Ok(events)) => {
                            other.running.take_over(&mut first.running);
                            first.running.lose();
                            return Ok(Ok((other, events)));
                        }
                        Some(Err(error)) if error.kind.is_worth_another() => {
                            drop(other.running.give_up());
                            self.note_failed(other.replica, &error);
                        }
                        Some(Err(error)) => {
                            other.running.take_over(&mut first.running);
                            return Ok(Err((other, error)));
                        }
                    }
                }
            }
        }
    }

    /// A second replica for a request that the first has had for so long, if one is free.
    fn second(&mut self, first: &Runner, waited: Duration) -> Option<Runner> {
        self.request.as_ref()?;
        let waited_ms = u64::try_from(waited.as_millis()).unwrap_or(u64::MAX);
        let late = Late { waited_ms, answers: self.answers, hedged: self.hedged };
        let tried: Vec<_> = self.tried.iter().chain([&first.replica]).map(Arc::clone).collect();
        let seat = self.model.second_seat(self.prefix, self.api.now_ms(), &tried, &late)?;
        self.hedged = true;
        tracing::debug!(model = self.model.deployment.name, waited_ms, "a late request goes to a second replica");
        self.ask(seat, None)
    }
}

async fn alone(mut runner: Runner, until: Instant) -> Result<Begun, ApiError> {
    loop {
        let events = tokio::time::timeout_at(until, runner.running.next()).await.map_err(late)?;
        match runner.shown(events) {
            None => {}
            Some(Ok(events)) => return Ok(Ok((runner, events))),
            Some(Err(error)) => return Ok(Err((runner, error))),
        }
    }
}

/// Whatever comes first; nothing is lost of what comes later.
async fn next_of(first: &mut Runner, second: Option<&mut Runner>, look_at: Option<Instant>) -> Turn {
    let other = async {
        match second {
            Some(second) => second.running.next().await,
            None => std::future::pending().await,
        }
    };
    let look = async {
        match look_at {
            Some(at) => tokio::time::sleep_until(at).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        biased;
        events = first.running.next() => Turn::First(events),
        events = other => Turn::Second(events),
        () = look => Turn::Late,
    }
}

/// Who answered, and how long it took to come up where it had to.
fn with_origin(mut response: Response, from: Whence, waited: Option<Duration>) -> Response {
    if let Some(value) = from.container.and_then(|container| HeaderValue::try_from(container.to_string()).ok()) {
        response.headers_mut().insert(CONTAINER, value);
    }
    if let Some(waited) = waited {
        let ms = u64::try_from(waited.as_millis()).unwrap_or(u64::MAX);
        response.headers_mut().insert(COLD_START, HeaderValue::from(ms));
    }
    response
}

fn not_there(model: &Model, container: NodeId) -> ApiError {
    let name = &model.deployment.name;
    let why = format!(
        "no replica of the model {name} that takes requests is at the Container {container}; /v1/models/{name} names those that are, and without {CONTAINER} any of them answers"
    );
    ApiError::not_found("container_not_here", why)
}

fn nobody(model: &Model) -> ApiError {
    let name = &model.deployment.name;
    let why = if model.has_replicas() {
        format!("no replica of the model {name} takes requests just now; come back in a few seconds")
    } else {
        format!("the model {name} has no replica that is ready; come back in a few seconds")
    };
    ApiError::unavailable(why, 5)
}

/// The beginning of a prompt as a number, by which a replica that read it before is found.
fn prefix(task: &InferenceTask) -> u64 {
    let mut hasher = DefaultHasher::new();
    let mut left = PREFIX_BYTES;
    let mut take = |bytes: &[u8]| {
        let part = bytes.get(..left.min(bytes.len())).unwrap_or_default();
        part.hash(&mut hasher);
        left -= part.len();
        left > 0
    };
    let whole = |content: &Content, take: &mut dyn FnMut(&[u8]) -> bool| match content {
        Content::Text(text) => take(text.as_bytes()),
        Content::Parts(parts) => parts.iter().all(|part| match part {
            ContentPart::Text(text) => take(text.as_bytes()),
            ContentPart::Image(bytes) => take(bytes),
        }),
    };
    match task {
        // The first two messages are the same in each turn of a conversation.
        InferenceTask::Chat(chat) => {
            chat.messages.iter().take(2).all(|message| whole(&message.content, &mut take));
        }
        InferenceTask::Completion(completion) => match completion.prompts.first() {
            Some(Prompt::Text(text)) => {
                take(text.as_bytes());
            }
            Some(Prompt::Tokens(tokens)) => tokens.iter().take(PREFIX_BYTES).for_each(|token| {
                take(&token.to_le_bytes());
            }),
            None => {}
        },
        InferenceTask::Embedding(_) | InferenceTask::Reveal(_) | InferenceTask::Replay(_) => return 0,
    }
    hasher.finish().max(1)
}

fn late(_: tokio::time::error::Elapsed) -> ApiError {
    ApiError::timed_out("the answer took longer than this Gateway waits; ask for fewer tokens, or stream it")
}

/// Takes all events of an answer in, from those on that are at hand.
async fn gathered(
    running: &mut Running,
    mut events: Vec<InferenceEvent>,
    whole: &mut Whole,
    until: Instant,
) -> Result<Ended, ApiError> {
    loop {
        for event in events {
            running.note(&event);
            match event {
                InferenceEvent::Done { counts } => return Ok(Ended::Done(counts)),
                InferenceEvent::Failed { error, .. } => return Ok(Ended::Failed(error)),
                InferenceEvent::Began { .. }
                | InferenceEvent::Text { .. }
                | InferenceEvent::ToolCall { .. }
                | InferenceEvent::Finished { .. }
                | InferenceEvent::Embedding { .. }
                | InferenceEvent::Committed { .. }
                | InferenceEvent::Transcript(_)
                | InferenceEvent::Replayed(_) => whole.event(event),
            }
        }
        events = tokio::time::timeout_at(until, running.next()).await.map_err(late)?;
    }
}

fn streamed(sse: Sse, kind: &'static str) -> Response {
    let mut response = Response::new(Body::from_stream(sse));
    *response.status_mut() = StatusCode::OK;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    headers.insert(HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no"));
    response
}
