//! One child's life.

use std::collections::BTreeMap;
use std::time::Duration;

use muster_core::inference::{
    Completion, Embedding, InferenceError, InferenceErrorKind, InferenceEvent, InferenceRequest, InferenceTask, Prompt,
    ResponseFormat, Sampling, TokenCounts,
};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::{Asked, Child, Embedded, LOAD_TIME_MAX, Phase, Spawn};
use crate::protocol::{self, FrameError, FromEngine, ToEngine};
use crate::{Answering, EngineInfo, turned};

/// Messages of the child that wait to be looked at.
const FRAMES_WAITING_MAX: usize = 64;
/// The first request, which shows that the model answers.
const FIRST: u64 = 0;
/// A child that said why it ends, or whose pipe broke, has so long to end by itself.
const END_TIME: Duration = Duration::from_secs(2);

struct Request {
    /// To whom its events go. It holds what one request answers at most, which its tokens bound.
    events: mpsc::UnboundedSender<Vec<InferenceEvent>>,
    counts: TokenCounts,
}

/// What one child has.
struct Serving<'a> {
    engine: &'a Embedded,
    stdin: Box<dyn tokio::io::AsyncWrite + Send + Unpin>,
    requests: BTreeMap<u64, Request>,
    forwards: JoinSet<()>,
    cancel: mpsc::UnboundedSender<u64>,
    loaded: Option<EngineInfo>,
    ready: Option<Instant>,
}

impl Embedded {
    /// Starts a child and serves it until it ends: why, and how long it was ready.
    pub(super) async fn serve(
        &self,
        spawn: &dyn Spawn,
        asked: &mut mpsc::UnboundedReceiver<Asked>,
        stopped: &mut watch::Receiver<bool>,
    ) -> (String, Option<Duration>) {
        let Child { stdin, stdout, mut exit } = match spawn.spawn().await {
            Ok(child) => child,
            Err(why) => {
                self.0.phase.send_replace(Phase::Broken(why.clone()));
                return (why, None);
            }
        };
        let (cancel, mut cancels) = mpsc::unbounded_channel();
        let forwards = JoinSet::new();
        let requests = BTreeMap::new();
        let mut serving = Serving { engine: self, stdin, requests, forwards, cancel, loaded: None, ready: None };
        let (frames_in, mut frames) = mpsc::channel(FRAMES_WAITING_MAX);
        let mut reading = JoinSet::new();
        reading.spawn(read(stdout, frames_in));
        let late = tokio::time::sleep(LOAD_TIME_MAX);
        tokio::pin!(late);
        let mut why = serving.say(&ToEngine::Load(self.0.config.clone())).await.err();
        while why.is_none() {
            let done = tokio::select! {
                frame = frames.recv() => match frame {
                    Some(Ok(frame)) => serving.heard(frame).await,
                    Some(Err(error)) => Err(error.to_string()),
                    None => Err(String::new()),
                },
                Some(one) = asked.recv() => serving.ask(one).await,
                Some(id) = cancels.recv() => serving.say(&ToEngine::Cancel { id }).await,
                Some(_) = serving.forwards.join_next() => Ok(()),
                () = turned(stopped) => Err("the engine of this model was stopped".to_owned()),
                () = &mut late, if serving.ready.is_none() => Err("the model was not loaded within half an hour".to_owned()),
            };
            why = done.err();
        }
        let said = why.unwrap_or_default();
        // One that hears no more is ended when `exit` is dropped.
        let _ = serving.say(&ToEngine::Stop).await;
        let ended = tokio::time::timeout(END_TIME, &mut exit).await;
        let why = match ended {
            _ if !said.is_empty() => said,
            Ok(ended) => ended,
            Err(_) => "the engine's process closed its output".to_owned(),
        };
        let stopped = *stopped.borrow();
        // First this, so that who is told below and asks at once is told right.
        self.0.phase.send_replace(match serving.ready {
            _ if stopped => Phase::Stopped,
            Some(_) => Phase::Lost(why.clone()),
            None => Phase::Broken(why.clone()),
        });
        serving.lost(&why, stopped).await;
        (why, serving.ready.map(|since| since.elapsed()))
    }
}

impl Serving<'_> {
    async fn say(&mut self, message: &ToEngine) -> Result<(), String> {
        match protocol::write(&mut self.stdin, message).await {
            // The child's end is told by its own words or its exit, which is more than a broken pipe.
            Err(FrameError::Pipe(_)) => Err(String::new()),
            other => other.map_err(|error| error.to_string()),
        }
    }

    async fn ask(&mut self, (id, request, answering): Asked) -> Result<(), String> {
        let (events, forwarded) = mpsc::unbounded_channel();
        let forward = Forward { id, answering, events: forwarded, cancel: self.cancel.clone() };
        self.forwards.spawn(forward.run(self.engine.clone()));
        self.requests.insert(id, Request { events, counts: TokenCounts::ZERO });
        self.say(&ToEngine::Ask { id, request }).await
    }

    async fn heard(&mut self, frame: FromEngine) -> Result<(), String> {
        match frame {
            FromEngine::Loading { permille } => {
                // One that was ready before is still lost, and one that did not come up broken, until this one is ready.
                self.engine.0.phase.send_if_modified(|phase| match phase {
                    Phase::Loading(so_far) => std::mem::replace(so_far, permille.min(1_000)) != permille,
                    _ => false,
                });
                Ok(())
            }
            FromEngine::Ready(mut info) => {
                info.queue = self.engine.0.queue;
                let request = Box::new(first(&info));
                self.loaded = Some(info);
                self.say(&ToEngine::Ask { id: FIRST, request }).await
            }
            FromEngine::Failed { why } => Err(why),
            FromEngine::Events { id: FIRST, events, .. } => self.first(&events),
            FromEngine::Events { id, events, counts } => {
                let Some(request) = self.requests.get_mut(&id) else { return Ok(()) };
                request.counts = counts;
                if events.iter().any(|event| matches!(event, InferenceEvent::Began { .. })) {
                    self.engine.began(id);
                }
                let last = events.iter().any(is_last);
                // Whoever asked may have gone.
                let _ = request.events.send(events);
                if last {
                    self.requests.remove(&id);
                    self.engine.close(id);
                }
                Ok(())
            }
        }
    }

    fn first(&mut self, events: &[InferenceEvent]) -> Result<(), String> {
        for event in events {
            match (event, &self.loaded) {
                (InferenceEvent::Failed { error, .. }, _) => {
                    return Err(format!("the model was loaded and does not answer: {error}"));
                }
                (InferenceEvent::Done { .. }, Some(info)) => {
                    self.ready = Some(Instant::now());
                    self.engine.0.phase.send_replace(Phase::Ready(info.clone()));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// The child is gone: whoever waits for it is told.
    async fn lost(&mut self, why: &str, stopped: bool) {
        for (id, request) in std::mem::take(&mut self.requests) {
            let error = if stopped {
                InferenceError::new(InferenceErrorKind::Unavailable, why)
            } else {
                let why = format!(
                    "the engine broke while it answered ({why}); it is being started again, ask again in a moment"
                );
                InferenceError::new(InferenceErrorKind::EngineLost, why)
            };
            let _ = request.events.send(vec![InferenceEvent::Failed { error, counts: request.counts }]);
            self.engine.close(id);
        }
        // A reader that stands still holds nobody up.
        let all = async { while self.forwards.join_next().await.is_some() {} };
        if tokio::time::timeout(Duration::from_millis(100), all).await.is_err() {
            self.forwards.detach_all();
        }
    }
}

fn is_last(event: &InferenceEvent) -> bool {
    matches!(event, InferenceEvent::Done { .. } | InferenceEvent::Failed { .. })
}

fn first(info: &EngineInfo) -> InferenceRequest {
    let prompt = || vec![Prompt::Text("Hello".to_owned())];
    let task = if info.abilities.embedding {
        InferenceTask::Embedding(Embedding { inputs: prompt(), dimensions: None })
    } else {
        let sampling = Sampling { max_tokens: Some(1), temperature: 0.0, ..Sampling::default() };
        let (prompts, format) = (prompt(), ResponseFormat::Text);
        InferenceTask::Completion(Box::new(Completion { prompts, echo: false, suffix: None, format, sampling }))
    };
    InferenceRequest { task, stream: false }
}

async fn read(
    stdout: Box<dyn tokio::io::AsyncRead + Send + Unpin>,
    frames: mpsc::Sender<Result<FromEngine, FrameError>>,
) {
    // A token is a frame of a few bytes: one look at the pipe for each, and not three.
    let mut stdout = tokio::io::BufReader::new(stdout);
    loop {
        let frame = match protocol::read(&mut stdout).await {
            Ok(Some(frame)) => Ok(frame),
            // What ends in the middle of a frame is told by the exit, like what ends between two.
            Ok(None) | Err(FrameError::Pipe(_)) => return,
            Err(error) => Err(error),
        };
        let broken = frame.is_err();
        if frames.send(frame).await.is_err() || broken {
            return;
        }
    }
}

/// Carries one request's events to its reader, and the reader's word back.
struct Forward {
    id: u64,
    answering: Answering,
    events: mpsc::UnboundedReceiver<Vec<InferenceEvent>>,
    cancel: mpsc::UnboundedSender<u64>,
}

impl Forward {
    async fn run(mut self, engine: Embedded) {
        let (mut cancelled, mut word) = (false, self.answering.word());
        loop {
            let mut batch = tokio::select! {
                () = self.answering.cancelled(), if !cancelled => {
                    cancelled = true;
                    // The child may be gone; then the request has failed.
                    let _ = self.cancel.send(self.id);
                    continue;
                }
                batch = self.events.recv() => match batch {
                    Some(batch) => batch,
                    None => break,
                },
            };
            loop {
                tokio::select! {
                    there_is = self.answering.room() => {
                        if there_is { break }
                        if !cancelled { let _ = self.cancel.send(self.id); }
                        // Nobody reads: the count still comes, to the child's side only.
                        while self.events.recv().await.is_some() {}
                        engine.close(self.id);
                        return;
                    }
                    () = turned(&mut word), if !cancelled => {
                        cancelled = true;
                        let _ = self.cancel.send(self.id);
                    }
                }
            }
            while let Ok(more) = self.events.try_recv() {
                batch.extend(more);
            }
            let last = batch.iter().any(is_last);
            // There is room: nobody else sends.
            let _ = self.answering.try_send(batch);
            if last {
                break;
            }
        }
    }
}
