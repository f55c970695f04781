//! The upstream engine: somebody's server that speaks the OpenAI API (vLLM, SGLang, llama-server), as an [`Engine`].
//!
//! Tokens are counted by the server. A request that is cancelled ends its stream before the server says its count; servers
//! that tell the usage with every piece (`continuous_usage_stats`) are believed up to the last piece, and where nothing was
//! told, each piece counts as one token: that is a lower bound.

mod loose;
mod native;
mod pieces;
mod plain;
mod request;
mod sse;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use muster_core::inference::{InferenceError, InferenceErrorKind, InferenceEvent, InferenceRequest, InferenceTask};
use serde_json::Value;

pub use self::native::{GatewayLine, Through, Verify};

use self::loose::Piece;
use self::pieces::Reading;
use self::sse::Lines;
use crate::{Abilities, Answer, Answering, Engine, EngineInfo, Later, Load, NotReady, driven, turned};

/// Bytes of an answer that does not come in pieces: embeddings.
const BODY_MAX: usize = 64 * 1024 * 1024;
/// Bytes of an error that are read.
const ERROR_MAX: usize = 64 * 1024;
/// Events that one reading of a short answer gives, with its end.
const EVENTS_USUAL: usize = 6;
/// How long a server may say nothing before it is given up.
const SILENCE_MAX: Duration = Duration::from_secs(600);
/// How long the end of an answer may take after its last event.
const END_WITHIN: Duration = Duration::from_secs(1);
/// How long it may take to connect.
const CONNECT_MAX: Duration = Duration::from_secs(10);

/// Where the server is.
#[derive(Clone, PartialEq, Eq)]
pub struct UpstreamConfig {
    /// Up to and with `/v1`.
    pub base_url: String,
    /// Its key, where it wants one.
    pub key: Option<String>,
    /// The model's name there.
    pub model: String,
    /// Tokens that prompt and answer may have together, as the owner says.
    pub context: u32,
    /// Requests that it answers side by side, as the owner says.
    pub parallel: u32,
    /// Requests that may wait there.
    pub queue: u32,
    /// What it can do, as the owner says.
    pub abilities: Abilities,
    /// Numbers of an embedding; 0 where it gives none.
    pub dimensions: u32,
}

impl std::fmt::Debug for UpstreamConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let key = self.key.as_ref().map(|_| "(kept)");
        f.debug_struct("UpstreamConfig")
            .field("base_url", &self.base_url)
            .field("model", &self.model)
            .field("key", &key)
            .finish_non_exhaustive()
    }
}

/// A server as an engine.
#[derive(Clone, Debug)]
pub struct Upstream(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    config: UpstreamConfig,
    client: Client,
    open: AtomicU32,
    busy: AtomicU32,
}

/// What asks it.
#[derive(Debug)]
enum Client {
    Plain(plain::Server),
    /// With TLS, or a name and password in the address.
    Other(reqwest::Client),
}

/// What it answers.
enum Response {
    Plain(plain::Response),
    Other(reqwest::Response),
}

/// Why there can be no such engine.
#[derive(Debug, thiserror::Error)]
pub enum UpstreamError {
    /// The address is none.
    #[error("{url:?} is no address of a server: write http://host:port/v1")]
    Address {
        /// What was given.
        url: String,
    },
    /// The address is no Gateway's, or a key would go to it in clear.
    #[error("{url:?} is no address of a Gateway: write https://host, or http://127.0.0.1:port for one on this machine")]
    Gateway {
        /// What was given.
        url: String,
    },
    /// The key cannot be sent.
    #[error("the server's key has characters that no key has; write it again, without spaces or line breaks")]
    Key,
    /// The HTTP client does not come up.
    #[error("the HTTP client does not start")]
    Client(#[source] reqwest::Error),
}

impl Upstream {
    /// An engine for a server; nothing is sent before a request comes.
    ///
    /// # Errors
    /// The address is none.
    pub fn new(mut config: UpstreamConfig) -> Result<Self, UpstreamError> {
        config.base_url = config.base_url.trim_end_matches('/').to_owned();
        let url = reqwest::Url::parse(&config.base_url).ok();
        let Some(url) = url.filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host()) else {
            return Err(UpstreamError::Address { url: config.base_url });
        };
        if config.key.as_ref().is_some_and(|key| !key.bytes().all(|byte| byte.is_ascii_graphic())) {
            return Err(UpstreamError::Key);
        }
        let client = match plain::Server::new(&url, config.key.as_deref()) {
            Some(server) => Client::Plain(server),
            None => Client::Other(other()?),
        };
        Ok(Self(Arc::new(Inner { config, client, open: AtomicU32::new(0), busy: AtomicU32::new(0) })))
    }

    fn info(&self) -> EngineInfo {
        let config = &self.0.config;
        EngineInfo {
            context: config.context,
            parallel: config.parallel,
            queue: config.queue,
            abilities: config.abilities,
            dimensions: config.dimensions,
            engine: format!("{} behind an OpenAI API", config.model),
        }
    }

    fn supported(&self, request: &InferenceRequest) -> Result<(), InferenceError> {
        let can = self.0.config.abilities;
        let (able, what, param) = match &request.task {
            InferenceTask::Chat(chat) if chat.messages.iter().any(|message| message.content.has_image()) => {
                (can.vision, "cannot look at pictures", "messages")
            }
            InferenceTask::Chat(chat) if !chat.tools.is_empty() => (can.tools, "knows no tools", "tools"),
            InferenceTask::Chat(_) => (can.chat, "holds no conversations", "model"),
            InferenceTask::Completion(_) => (can.completion, "goes on with no texts", "model"),
            InferenceTask::Embedding(_) => (can.embedding, "gives no embeddings", "model"),
            InferenceTask::Reveal(_) | InferenceTask::Replay(_) => (false, "commits to nothing", "model"),
        };
        if able {
            return Ok(());
        }
        Err(InferenceError::new(InferenceErrorKind::Unsupported, format!("this model {what}; ask another one"))
            .of(param))
    }
}

/// A client of servers with TLS.
fn other() -> Result<reqwest::Client, UpstreamError> {
    if rustls::crypto::CryptoProvider::get_default().is_none() {
        // Another thread may have been faster; then one is there.
        let _ = rustls::crypto::ring::default_provider().install_default();
    }
    // The server is the owner's own: no proxy stands between, and it sends nobody elsewhere.
    reqwest::Client::builder()
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .connect_timeout(CONNECT_MAX)
        .read_timeout(SILENCE_MAX)
        .build()
        .map_err(UpstreamError::Client)
}

impl Engine for Upstream {
    fn ready(&self) -> Later<'_, Result<EngineInfo, NotReady>> {
        Box::pin(async move {
            let mut answer = self.submit(request::first(&self.0.config.abilities));
            while let Some(events) = answer.next().await {
                for event in events {
                    match event {
                        InferenceEvent::Done { .. } => return Ok(self.info()),
                        InferenceEvent::Failed { error, .. } => return Err(NotReady(error.why)),
                        _ => {}
                    }
                }
            }
            Err(NotReady("the server ended without a word".to_owned()))
        })
    }

    fn submit(&self, request: InferenceRequest) -> Answer {
        if let Err(wrong) = request.check() {
            return Answer::failed(InferenceError::new(InferenceErrorKind::BadRequest, wrong.why).of(&wrong.param));
        }
        if let Err(error) = self.supported(&request) {
            return Answer::failed(error);
        }
        let max = self.0.config.parallel.saturating_add(self.0.config.queue);
        if self.0.open.fetch_add(1, Ordering::AcqRel) >= max {
            self.0.open.fetch_sub(1, Ordering::AcqRel);
            let why = format!(
                "{max} requests are being answered or wait, and there is room for no more; come back in a moment"
            );
            return Answer::failed(InferenceError::new(InferenceErrorKind::QueueFull { retry_after_ms: 1_000 }, why));
        }
        let engine = Counted(self.clone());
        driven(|answering| async move { engine.0.answer(request, answering).await })
    }

    fn load(&self) -> Load {
        let (open, busy) = (self.0.open.load(Ordering::Acquire), self.0.busy.load(Ordering::Acquire));
        Load { busy, waiting: open.saturating_sub(busy) }
    }
}

/// Counts a request as open for as long as it lives.
struct Counted(Upstream);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.0.open.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Counts a request as being answered for as long as it lives.
struct Busy<'a>(&'a AtomicU32);

impl<'a> Busy<'a> {
    fn new(count: &'a AtomicU32) -> Self {
        count.fetch_add(1, Ordering::AcqRel);
        Self(count)
    }
}

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

fn lost(why: impl Into<String>) -> InferenceError {
    InferenceError::new(InferenceErrorKind::EngineLost, why)
}

impl Upstream {
    async fn answer(&self, request: InferenceRequest, answering: Answering) {
        let (mut reading, mut word) = (Reading::new(&request), answering.word());
        let done = tokio::select! {
            done = self.exchange(&request, &mut reading, &answering) => done,
            () = turned(&mut word) => {
                // Leaving the exchange closes its connection, by which the server knows.
                Ok(Vec::new())
            }
        };
        match done {
            Ok(mut events) => {
                events.push(InferenceEvent::Done { counts: reading.counts() });
                answering.send(events).await;
            }
            Err(error) => answering.fail(error, reading.counts()).await,
        }
    }

    /// Asks; gives the last events.
    async fn exchange(
        &self,
        request: &InferenceRequest,
        reading: &mut Reading,
        answering: &Answering,
    ) -> Result<Vec<InferenceEvent>, InferenceError> {
        let config = &self.0.config;
        let (path, body) = request::body(&config.model, request)
            .map_err(|why| InferenceError::new(InferenceErrorKind::BadRequest, why))?;
        let body = body.json().map_err(|error| lost(format!("the request cannot be written: {error}")))?;
        let sent = self.0.client.post(config, path, body).await;
        let mut response = sent.map_err(|why| lost(format!("the server cannot be reached: {why}")))?;
        let status = response.status();
        if status != 200 {
            let retry = response.retry_after();
            let body = all(&mut response, ERROR_MAX).await.unwrap_or_default();
            return Err(refusal(status, retry, &body));
        }
        let _busy = Busy::new(&self.0.busy);
        if matches!(request.task, InferenceTask::Embedding(_)) {
            let body = all(&mut response, BODY_MAX).await?;
            let value = serde_json::from_slice(&body).map_err(|_| lost("the server's answer is no JSON"))?;
            return reading.embeddings(&value);
        }
        let (mut lines, mut piece) = (Lines::default(), Vec::new());
        loop {
            if !response.piece(&mut piece).await.map_err(broke_off)? {
                return if reading.is_complete() {
                    Ok(Vec::new())
                } else {
                    Err(lost("the server ended in the middle of its answer"))
                };
            }
            let (mut events, mut done) = (Vec::with_capacity(EVENTS_USUAL), false);
            lines.push(&piece, |data| {
                if data == "[DONE]" {
                    done = true;
                    return Ok(false);
                }
                let piece = Piece::read(data).ok_or_else(|| lost("a piece of the server's answer is no JSON"))?;
                if let Some(error) = &piece.error {
                    return Err(refusal(500, None, error.to_string().as_bytes()));
                }
                reading.piece(&piece, &mut events);
                Ok(true)
            })?;
            if done {
                response.end();
                return Ok(events);
            }
            if !events.is_empty() && !answering.send(events).await {
                // Nobody reads: the connection closes.
                return Ok(Vec::new());
            }
        }
    }
}

impl Client {
    async fn post(&self, config: &UpstreamConfig, path: &str, body: Vec<u8>) -> Result<Response, &'static str> {
        match self {
            Self::Plain(server) => server.post(path, &body).await.map(Response::Plain),
            Self::Other(client) => {
                let post = client.post(format!("{}/{path}", config.base_url));
                let post = post.header("content-type", "application/json").body(body);
                let post = if let Some(key) = &config.key { post.bearer_auth(key) } else { post };
                post.send().await.map(Response::Other).map_err(|error| why(&error))
            }
        }
    }
}

impl Response {
    fn status(&self) -> u16 {
        match self {
            Self::Plain(response) => response.status,
            Self::Other(response) => response.status().as_u16(),
        }
    }

    fn retry_after(&self) -> Option<u64> {
        match self {
            Self::Plain(response) => response.retry_after,
            Self::Other(response) => response.headers().get("retry-after")?.to_str().ok()?.parse().ok(),
        }
    }

    /// The next bytes of the body, whatever was in `to` before; `false` at its end.
    async fn piece(&mut self, to: &mut Vec<u8>) -> Result<bool, &'static str> {
        match self {
            Self::Plain(response) => response.piece(to).await,
            Self::Other(response) => {
                to.clear();
                let piece = response.chunk().await.map_err(|error| why(&error))?;
                to.extend_from_slice(piece.as_deref().unwrap_or_default());
                Ok(piece.is_some())
            }
        }
    }

    /// Nothing more is wanted: a connection whose answer comes to its end can be used again.
    fn end(mut self) {
        if matches!(&self, Self::Plain(response) if response.is_over()) {
            return;
        }
        tokio::spawn(async move {
            let rest = async {
                let mut piece = Vec::new();
                while let Ok(true) = self.piece(&mut piece).await {}
            };
            // A server that goes on for longer is left.
            let _ = tokio::time::timeout(END_WITHIN, rest).await;
        });
    }
}

async fn all(response: &mut Response, max: usize) -> Result<Vec<u8>, InferenceError> {
    let (mut body, mut piece) = (Vec::new(), Vec::new());
    while response.piece(&mut piece).await.map_err(broke_off)? {
        if body.len() + piece.len() > max {
            return Err(lost(format!("the server's answer is longer than {max} bytes")));
        }
        body.extend_from_slice(&piece);
    }
    Ok(body)
}

fn broke_off(why: &str) -> InferenceError {
    lost(format!("the server broke off: {why}"))
}

/// What happened, without the address, which is the owner's.
fn why(error: &reqwest::Error) -> &'static str {
    if error.is_timeout() {
        plain::SLOW
    } else if error.is_connect() {
        plain::NOBODY
    } else {
        plain::FAILED
    }
}

/// What a server's refusal means.
fn refusal(status: u16, retry_after_secs: Option<u64>, body: &[u8]) -> InferenceError {
    let value: Value = serde_json::from_slice(body).unwrap_or_default();
    let error = value.get("error").unwrap_or(&value);
    let field =
        |name: &str| error.get(name).and_then(Value::as_str).map(|text| text.chars().take(500).collect::<String>());
    let said = field("message")
        .or_else(|| error.as_str().map(str::to_owned))
        .unwrap_or_else(|| format!("the server said {status}"));
    let is_context = field("code").is_some_and(|code| code == "context_length_exceeded")
        || field("type").is_some_and(|kind| kind == "exceed_context_size_error")
        || said.contains("maximum context length");
    let kind = match status {
        400 | 413 | 422 if is_context => InferenceErrorKind::ContextOverflow,
        400 | 413 | 422 => InferenceErrorKind::BadRequest,
        429 => {
            let retry_after_ms = retry_after_secs.unwrap_or(1).min(3_600) * 1_000;
            InferenceErrorKind::QueueFull { retry_after_ms }
        }
        501 => InferenceErrorKind::Unsupported,
        // A wrong key or a wrong name is the owner's mistake: another replica may do better.
        401 | 403 | 404 => InferenceErrorKind::Unavailable,
        _ => InferenceErrorKind::EngineLost,
    };
    let why = match status {
        401 | 403 => "the model's server turns its owner away: the key is missing or wrong".to_owned(),
        404 => "the model's server does not know the model or the way to ask for it".to_owned(),
        _ => said,
    };
    let error = InferenceError::new(kind, why);
    match field("param") {
        Some(param) => error.of(&param),
        None => error,
    }
}
