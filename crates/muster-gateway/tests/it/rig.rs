//! A Gateway's API on a port of its own, engines by script, and a client that does as it is told.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use muster_core::inference::{
    Finish, InferenceError, InferenceErrorKind, InferenceEvent, InferenceRequest, Part, TokenAsk, TokenCounts,
};
use muster_core::units::UsdMicro;
use muster_engine::{Abilities, Answer, Answering, Engine, EngineInfo, Later, Load, NotReady, answer};
use muster_gateway::{
    Access, Deployment, KeyStore, KeyTerms, ModelApi, ModelApiConfig, Models, ReplicaId, Whence, patient,
};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// What an engine does next.
#[derive(Clone, Debug)]
pub(crate) enum Step {
    Say(InferenceEvent),
    Wait(Duration),
    Fail(InferenceErrorKind),
    /// Goes away without a word.
    Vanish,
    /// Says so again and again until it is cancelled.
    Forever(String),
}

type Script = dyn Fn(&InferenceRequest) -> Vec<Step> + Send + Sync;

/// An engine that answers from a script. It counts a token for each piece of text.
pub(crate) struct Scripted {
    script: Box<Script>,
    /// How long it takes to tell the count of what was cancelled.
    count_after: Duration,
    state: Arc<Seen>,
}

/// What an engine saw and told.
#[derive(Default)]
pub(crate) struct Seen {
    pub(crate) asked: Mutex<Vec<InferenceRequest>>,
    pub(crate) told: Mutex<TokenCounts>,
    pub(crate) cancelled: AtomicU32,
    pub(crate) busy: AtomicU32,
    pub(crate) answers: AtomicU64,
}

/// Tokens that every prompt counts.
pub(crate) const PROMPT: u64 = 7;

pub(crate) fn text(text: &str) -> Step {
    said(0, Part::Answer, text)
}

pub(crate) fn said(choice: u32, part: Part, text: &str) -> Step {
    Step::Say(InferenceEvent::Text { choice, part, text: text.to_owned(), logprobs: Vec::new() })
}

pub(crate) fn finished(choice: u32, finish: Finish) -> Step {
    Step::Say(InferenceEvent::Finished { choice, finish })
}

pub(crate) fn hello() -> Vec<Step> {
    vec![text("Hello"), text(", \"world\"\n"), text("é😀"), finished(0, Finish::Stop)]
}

impl Scripted {
    pub(crate) fn new(script: impl Fn(&InferenceRequest) -> Vec<Step> + Send + Sync + 'static) -> Self {
        Self { script: Box::new(script), count_after: Duration::ZERO, state: Arc::default() }
    }

    pub(crate) fn counting_after(self, count_after: Duration) -> Self {
        Self { count_after, ..self }
    }

    pub(crate) fn seen(&self) -> Arc<Seen> {
        Arc::clone(&self.state)
    }
}

impl Engine for Scripted {
    fn ready(&self) -> Later<'_, Result<EngineInfo, NotReady>> {
        Box::pin(async { Ok(info()) })
    }

    fn submit(&self, request: InferenceRequest) -> Answer {
        let (answering, answer) = answer();
        let steps = (self.script)(&request);
        self.state.asked.lock().unwrap().push(request);
        self.state.busy.fetch_add(1, Ordering::Relaxed);
        self.state.answers.fetch_add(1, Ordering::Relaxed);
        let (seen, count_after) = (self.seen(), self.count_after);
        tokio::spawn(async move {
            play(answering, steps, count_after, &seen).await;
            seen.busy.fetch_sub(1, Ordering::Relaxed);
        });
        answer
    }

    fn load(&self) -> Load {
        Load { busy: self.state.busy.load(Ordering::Relaxed), waiting: 0 }
    }
}

async fn play(mut answering: Answering, steps: Vec<Step>, count_after: Duration, seen: &Seen) {
    let mut counts = TokenCounts { input: PROMPT, cached: 2, output: 0 };
    let mut queue: std::collections::VecDeque<Step> = steps.into();
    if !matches!(queue.front(), Some(Step::Fail(_) | Step::Vanish)) {
        answering.send(vec![InferenceEvent::Began { counts }]).await;
    }
    let mut cancelled = false;
    while let Some(step) = queue.pop_front() {
        let event = match step {
            Step::Say(event) => event,
            Step::Forever(text) => {
                queue.push_front(Step::Forever(text.clone()));
                InferenceEvent::Text { choice: 0, part: Part::Answer, text, logprobs: Vec::new() }
            }
            Step::Wait(time) => {
                tokio::select! {
                    () = tokio::time::sleep(time) => continue,
                    () = answering.cancelled() => { cancelled = true; break }
                }
            }
            Step::Vanish => return,
            Step::Fail(kind) => {
                let asked = if queue.front().is_none() && counts.output == 0 { TokenCounts::ZERO } else { counts };
                add(seen, asked);
                return answering.fail(InferenceError::new(kind, "the script says so"), asked).await;
            }
        };
        if matches!(event, InferenceEvent::Text { .. } | InferenceEvent::ToolCall { .. }) {
            counts.output += 1;
        }
        let mut events = Some(vec![event]);
        while let Some(batch) = events.take() {
            if answering.is_cancelled() {
                cancelled = true;
                break;
            }
            if let Err(back) = answering.try_send(batch) {
                events = Some(back);
                tokio::select! {
                    () = tokio::time::sleep(Duration::from_millis(1)) => {}
                    () = answering.cancelled() => { cancelled = true; break }
                }
            }
        }
        if cancelled {
            break;
        }
    }
    if cancelled {
        seen.cancelled.fetch_add(1, Ordering::Relaxed);
        tokio::time::sleep(count_after).await;
    }
    add(seen, counts);
    answering.send(vec![InferenceEvent::Done { counts }]).await;
}

fn add(seen: &Seen, counts: TokenCounts) {
    *seen.told.lock().unwrap() += counts;
}

pub(crate) fn info() -> EngineInfo {
    EngineInfo { context: 4_096, parallel: 8, queue: 64, abilities: ALL, dimensions: 4, engine: "a script".to_owned() }
}

pub(crate) const ALL: Abilities =
    Abilities { chat: true, completion: true, embedding: true, tools: true, vision: true };
pub(crate) const PRICE: TokenAsk =
    TokenAsk { input: UsdMicro(1_000_000), cached: UsdMicro(500_000), output: UsdMicro(2_000_000) };

pub(crate) fn deployment(name: &str) -> Deployment {
    Deployment {
        name: name.to_owned(),
        owner: "owner".to_owned(),
        abilities: ALL,
        price: PRICE,
        access: Access::Keys,
        created_s: 1_700_000_000,
        context: 4_096,
        hedge_after_ms: None,
    }
}

/// A running API.
pub(crate) struct Rig {
    pub(crate) api: ModelApi,
    pub(crate) keys: Arc<KeyStore>,
    pub(crate) at: SocketAddr,
    pub(crate) key: String,
    pub(crate) dir: tempfile::TempDir,
    replicas: AtomicU32,
}

impl Rig {
    pub(crate) async fn new() -> Self {
        Self::with(ModelApiConfig::default(), Duration::from_secs(30)).await
    }

    pub(crate) async fn with(config: ModelApiConfig, takes_within: Duration) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let keys = Arc::new(KeyStore::open(&dir.path().join("api-keys.json")).unwrap());
        let key = keys.create("main").unwrap();
        let api = ModelApi::new(dir.path(), config, Arc::clone(&keys), Models::default()).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = listener.local_addr().unwrap();
        let service = api.router().into_make_service_with_connect_info::<SocketAddr>();
        tokio::spawn(async move { axum::serve(patient(listener, takes_within), service).await });
        Self { api, keys, at, key, dir, replicas: AtomicU32::new(0) }
    }

    /// One model, `tiny`, that says hello.
    pub(crate) async fn hello() -> (Self, Arc<Seen>) {
        let rig = Self::new().await;
        let seen = rig.add("tiny", Scripted::new(|_| hello()));
        (rig, seen)
    }

    pub(crate) fn add(&self, model: &str, engine: Scripted) -> Arc<Seen> {
        self.add_at(model, engine, Whence::default())
    }

    pub(crate) fn add_at(&self, model: &str, engine: Scripted, whence: Whence) -> Arc<Seen> {
        let seen = engine.seen();
        if !self.api.models().names().iter().any(|name| name == model) {
            self.api.models().deploy(deployment(model)).unwrap();
        }
        let id = ReplicaId(self.replicas.fetch_add(1, Ordering::Relaxed).to_string());
        self.api.models().add(model, id, Arc::new(engine), &info(), whence).unwrap();
        seen
    }

    pub(crate) fn key_of(&self, name: &str, terms: KeyTerms) -> String {
        self.keys.create_with(name, terms).unwrap()
    }

    pub(crate) async fn ask(&self, path: &str, body: &Value) -> Reply {
        self.ask_as(&self.key, path, body).await
    }

    pub(crate) async fn ask_as(&self, key: &str, path: &str, body: &Value) -> Reply {
        self.raw(&request(
            self.at,
            "POST",
            path,
            &[("authorization", &format!("Bearer {key}"))],
            body.to_string().as_bytes(),
        ))
        .await
    }

    pub(crate) async fn get(&self, path: &str) -> Reply {
        self.raw(&request(self.at, "GET", path, &[("authorization", &format!("Bearer {}", self.key))], b"")).await
    }

    pub(crate) async fn raw(&self, bytes: &[u8]) -> Reply {
        read_reply(TcpStream::connect(self.at).await.unwrap(), bytes).await
    }

    /// The sums of what the main key was billed.
    pub(crate) async fn billed(&self) -> (u64, TokenCounts, u64) {
        let rows = self.get("/v1/usage").await.json();
        let mut sums = (0, TokenCounts::ZERO, 0);
        for row in rows["data"].as_array().unwrap() {
            let number = |name: &str| row[name].as_u64().unwrap();
            sums.0 += number("requests");
            sums.1 += TokenCounts { input: number("input"), cached: number("cached"), output: number("output") };
            sums.2 += number("usd_micro");
        }
        sums
    }

    /// Waits until nothing is in hand; the test's own time limit ends it otherwise.
    pub(crate) async fn idle(&self) {
        while self.api.in_hand() > 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

pub(crate) fn request(at: SocketAddr, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Vec<u8> {
    let mut out = format!("{method} {path} HTTP/1.1\r\nhost: {at}\r\nconnection: close\r\n");
    if method == "POST" {
        out.push_str(&format!("content-type: application/json\r\ncontent-length: {}\r\n", body.len()));
    }
    for (name, value) in headers {
        out.push_str(&format!("{name}: {value}\r\n"));
    }
    out.push_str("\r\n");
    [out.as_bytes(), body].concat()
}

/// Sends a request and reads all of its answer.
pub(crate) async fn read_reply(mut connection: TcpStream, bytes: &[u8]) -> Reply {
    connection.write_all(bytes).await.unwrap();
    let mut all = Vec::new();
    // A connection that is reset after its answer has given it.
    let _ = connection.read_to_end(&mut all).await;
    Reply::read(&all)
}

/// An answer.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    head: String,
    raw_head: String,
    pub(crate) body: String,
}

impl Reply {
    fn read(all: &[u8]) -> Self {
        let split = all.windows(4).position(|four| four == b"\r\n\r\n").unwrap_or_else(|| {
            panic!("no answer: {:?}", String::from_utf8_lossy(all));
        });
        let raw_head = String::from_utf8(all[..split].to_vec()).unwrap();
        let head = raw_head.to_ascii_lowercase();
        let body = &all[split + 4..];
        let body = if head.contains("transfer-encoding: chunked") { unchunked(body) } else { body.to_vec() };
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        Self { status, head, raw_head, body: String::from_utf8(body).unwrap() }
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
    }

    /// A header as it was written.
    pub(crate) fn raw_header(&self, name: &str) -> Option<&str> {
        let named = |line: &'_ str| line.split_once(": ").is_some_and(|(known, _)| known.eq_ignore_ascii_case(name));
        self.raw_head.lines().find(|line| named(line)).and_then(|line| line.split_once(": ")).map(|(_, value)| value)
    }

    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.body))
    }

    /// The error, whose status and code are known.
    #[track_caller]
    pub(crate) fn error(&self, status: u16, code: &str) -> Value {
        assert_eq!(self.status, status, "{}", self.body);
        let error = self.json()["error"].clone();
        assert_eq!(error["code"], code, "{error}");
        assert!(self.header("x-request-id").is_some_and(|id| id.starts_with("req_")));
        error
    }

    /// The data of a stream's events; `[DONE]` is a string.
    #[track_caller]
    pub(crate) fn events(&self) -> Vec<Value> {
        assert_eq!(self.status, 200, "{}", self.body);
        let data = self.body.split("\n\n").filter(|event| !event.is_empty()).map(|event| {
            let line = event.lines().find_map(|line| line.strip_prefix("data: ")).unwrap();
            serde_json::from_str(line).unwrap_or_else(|_| Value::String(line.to_owned()))
        });
        data.collect()
    }
}

fn unchunked(mut rest: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    while let Some(end) = rest.windows(2).position(|two| two == b"\r\n") {
        let size = usize::from_str_radix(std::str::from_utf8(&rest[..end]).unwrap().trim(), 16).unwrap();
        if size == 0 {
            break;
        }
        out.extend_from_slice(&rest[end + 2..end + 2 + size]);
        rest = &rest[end + 4 + size..];
    }
    out
}

impl Rig {
    pub(crate) async fn raw_get(&self, key: &str, path: &str) -> Reply {
        self.raw(&request(self.at, "GET", path, &[("authorization", &format!("Bearer {key}"))], b"")).await
    }
}
