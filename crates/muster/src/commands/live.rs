//! `muster session`, and the Gateway's API from the command line.

use std::fmt::Write as _;
use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};

use super::Context;
use crate::cli::{AtGateway, SessionCommand, SessionStartArgs, TimeLimit};
use crate::failure::{Because, Code, Failure};
use crate::output::table;
use crate::serve;

/// Folder of the Gateway of `muster up`.
pub(crate) const GATEWAY: &str = "gateway-0";
/// Where a Gateway leaves the address of its pages.
pub(crate) const ORIGIN: &str = "origin";
/// The API key of whoever owns the folder.
pub(crate) const KEY_FILE: &str = "gateway.key";
/// How long the Gateway may take to answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(40);
/// How long to wait for a session to run before the link is printed all the same.
const RUNS_WITHIN: Duration = Duration::from_secs(60);
/// A streamed answer may take so long.
const STREAM_WITHIN: Duration = Duration::from_secs(3_600);
/// Bytes of one line of a streamed answer.
const LINE_BYTES_MAX: usize = 4 << 20;
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// How often a part of a file is sent again, and after what pause.
const PUT_TRIES_MAX: u32 = 20;
const PUT_AGAIN_AFTER: Duration = Duration::from_secs(1);

/// A Gateway, as its customer sees it.
#[derive(Debug)]
pub(crate) struct Customer {
    client: reqwest::Client,
    url: String,
    key: String,
}

impl Customer {
    /// Finds the Gateway and the key: by flags, variables, or in the folder of `muster up`.
    pub(crate) async fn find(cx: &Context, at: &AtGateway) -> Result<Self, Failure> {
        let client = reqwest::Client::builder().no_proxy().timeout(ANSWER_WITHIN).build().code(Code::Internal)?;
        let url = match &at.gateway {
            Some(url) => url.trim_end_matches('/').to_owned(),
            None => {
                let note = cx.dirs.at(GATEWAY).join(super::roles::HEALTH_NOTE);
                let health = serve::ask(&note, &client).await;
                let listen = health.and_then(|health| health.listen).ok_or_else(|| {
                    let why = "no Gateway runs in this folder: start the network with `muster up`, or name one with --gateway";
                    Failure::new(Code::Unreachable, why)
                })?;
                format!("http://{listen}")
            }
        };
        let key = match (&at.key_file, std::env::var("MUSTER_API_KEY")) {
            (Some(file), _) => read_key(file)?,
            (None, Ok(key)) if !key.is_empty() => key,
            _ => read_key(&cx.dirs.at(KEY_FILE))?,
        };
        Ok(Self { client, url, key })
    }

    /// Where the Gateway is.
    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// The key that opens it.
    pub(crate) fn key(&self) -> &str {
        &self.key
    }

    /// One call; an error of the Gateway comes back as its sentence.
    pub(crate) async fn call(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Value, Failure> {
        Ok(self.ask(method, path, body, None).await?)
    }

    /// One call, with a header of its own; an error of the Gateway comes back with the code that it gave.
    pub(crate) async fn ask(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
        header: Option<(&str, &str)>,
    ) -> Result<Value, Refused> {
        let mut request = self.client.request(method, format!("{}{path}", self.url)).bearer_auth(&self.key);
        if let Some(body) = body {
            request = request.json(body);
        }
        if let Some((name, value)) = header {
            request = request.header(name, value);
        }
        self.send(request).await
    }

    /// A part of a file; one that comes too soon after others is sent again.
    pub(crate) async fn put(&self, path: &str, part: Vec<u8>) -> Result<Value, Failure> {
        let mut tries = 0;
        loop {
            let request = self.client.put(format!("{}{path}", self.url)).bearer_auth(&self.key).body(part.clone());
            match self.send(request).await {
                Err(refused) if refused.failure.code == Code::Busy && tries < PUT_TRIES_MAX => tries += 1,
                other => return Ok(other?),
            }
            tokio::time::sleep(PUT_AGAIN_AFTER).await;
        }
    }

    /// A call that is answered piece by piece: each piece of JSON goes to `hear`.
    pub(crate) async fn stream(&self, path: &str, body: &Value, mut hear: impl FnMut(&Value)) -> Result<(), Failure> {
        let why = || format!("the Gateway {} does not answer; is it running?", self.url);
        let request = self.client.post(format!("{}{path}", self.url)).bearer_auth(&self.key).json(body);
        // An answer takes as long as it takes.
        let mut response = request.timeout(STREAM_WITHIN).send().await.because(Code::Unreachable, why())?;
        if !response.status().is_success() {
            return Err(self.refused(response).await?.into());
        }
        let mut left: Vec<u8> = Vec::new();
        while let Some(chunk) = response.chunk().await.because(Code::Unreachable, "the answer broke off")? {
            left.extend_from_slice(&chunk);
            while let Some(end) = left.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = left.drain(..=end).collect();
                let Some(data) = line.strip_prefix(b"data:") else { continue };
                let Ok(event) = serde_json::from_slice::<Value>(data) else { continue };
                if let Some(error) = event.pointer("/error/message").and_then(Value::as_str) {
                    return Err(Failure::new(Code::Interrupted, error));
                }
                hear(&event);
            }
            if left.len() > LINE_BYTES_MAX {
                return Err(Failure::new(Code::Unreachable, "the Gateway sends a line without an end"));
            }
        }
        Ok(())
    }

    async fn send(&self, request: reqwest::RequestBuilder) -> Result<Value, Refused> {
        let why = || format!("the Gateway {} does not answer; is it running?", self.url);
        let response = request.send().await.because(Code::Unreachable, why())?;
        if !response.status().is_success() {
            return Err(self.refused(response).await?);
        }
        let bytes = response.bytes().await.because(Code::Unreachable, why())?;
        Ok(if bytes.is_empty() { Value::Null } else { serde_json::from_slice(&bytes).unwrap_or_default() })
    }

    /// What the Gateway says that it refuses.
    async fn refused(&self, response: reqwest::Response) -> Result<Refused, Failure> {
        let why = || format!("the Gateway {} does not answer; is it running?", self.url);
        let status = response.status();
        let bytes = response.bytes().await.because(Code::Unreachable, why())?;
        let value: Value = serde_json::from_slice(&bytes).unwrap_or_default();
        let code = match status.as_u16() {
            400 | 413 | 422 => Code::Config,
            401 | 403 => Code::Wallet,
            402 => Code::Balance,
            404 | 410 => Code::NotFound,
            409 => Code::InUse,
            429 => Code::Busy,
            _ => Code::Unreachable,
        };
        let said = |field: &str| value.pointer(field).and_then(Value::as_str).map(str::to_owned);
        let plain = || String::from_utf8_lossy(&bytes).trim().chars().take(400).collect::<String>();
        let sentence = said("/error/message").unwrap_or_else(|| format!("the Gateway answers {status}: {}", plain()));
        Ok(Refused { code: said("/error/code"), failure: Failure::new(code, sentence) })
    }
}

/// What a Gateway refused, or why there was no answer.
#[derive(Debug)]
pub(crate) struct Refused {
    /// The Gateway's code, where it gave one.
    pub(crate) code: Option<String>,
    /// The same for people.
    pub(crate) failure: Failure,
}

impl From<Failure> for Refused {
    fn from(failure: Failure) -> Self {
        Self { code: None, failure }
    }
}

impl From<Refused> for Failure {
    fn from(refused: Refused) -> Self {
        refused.failure
    }
}

fn read_key(path: &std::path::Path) -> Result<String, Failure> {
    let text = std::fs::read_to_string(path).map_err(|e| {
        let why = format!(
            "cannot read the API key {}: {e}; name another file with --key-file, or set MUSTER_API_KEY",
            path.display()
        );
        Failure::new(Code::Wallet, why)
    })?;
    Ok(text.trim().to_owned())
}

pub(super) fn text(value: &Value, pointer: &str) -> String {
    match value.pointer(pointer) {
        Some(Value::String(text)) => text.clone(),
        Some(Value::Null) | None => "-".to_owned(),
        Some(other) => other.to_string(),
    }
}

/// `muster session`.
pub(super) async fn session(cx: &Context, command: SessionCommand) -> Result<u8, Failure> {
    match command {
        SessionCommand::Start(args) => {
            let customer = Customer::find(cx, &args.at).await?;
            let value = start(cx, &customer, &args).await?;
            if args.open {
                open(&text(&value, "/link"));
            }
            cx.output.result(&value, || started_text(&value));
        }
        SessionCommand::Ls { at } => {
            let value = Customer::find(cx, &at).await?.call(Method::GET, "/api/v1/sessions", None).await?;
            cx.output.result(&value, || {
                let rows = value.as_array().into_iter().flatten().map(|one| {
                    ["/id", "/app/name", "/state", "/container", "/ran_ms", "/cost"].map(|p| text(one, p)).to_vec()
                });
                table(&["session", "app", "state", "container", "ran ms", "cost"], rows.collect())
            });
        }
        SessionCommand::Show { id, at } => {
            let path = format!("/api/v1/sessions/{id}");
            let value = Customer::find(cx, &at).await?.call(Method::GET, &path, None).await?;
            cx.output.result(&value, || serde_json::to_string_pretty(&value).unwrap_or_default());
        }
        SessionCommand::Link { id, at } => {
            let path = format!("/api/v1/sessions/{id}/link");
            let value = Customer::find(cx, &at).await?.call(Method::POST, &path, None).await?;
            cx.output.result(&value, || text(&value, "/link"));
        }
        SessionCommand::Stop { id, at } => {
            let path = format!("/api/v1/sessions/{id}/stop");
            let value = Customer::find(cx, &at).await?.call(Method::POST, &path, None).await?;
            cx.output.result(&value, || {
                format!("stopping {id}: what has run is billed, the rest of the deposit comes back")
            });
        }
    }
    Ok(0)
}

/// Starts a session and waits until it runs, so that what goes wrong is told here and not only on the page.
pub(crate) async fn start(cx: &Context, customer: &Customer, args: &SessionStartArgs) -> Result<Value, Failure> {
    let size =
        args.resolution.as_deref().map(muster_gateway::size).transpose().because(Code::Config, "--resolution")?;
    let body = json!({
        "app": args.app, "width": size.map(|s| s.0), "height": size.map(|s| s.1), "fps": args.fps,
        "region": args.region.as_ref().map(ToString::to_string), "max_latency_ms": args.max_latency,
        "near": args.near.map(|place| place.to_string()),
        "time_limit_s": args.time.0, "layout": args.layout, "cpu_millis": args.cpus.map(|cpus| cpus.0),
    });
    let mut value = customer.call(Method::POST, "/api/v1/sessions", Some(&body)).await?;
    let path = format!("/api/v1/sessions/{}", text(&value, "/id"));
    let mut until = tokio::time::Instant::now() + RUNS_WITHIN;
    let mut told = String::new();
    while tokio::time::Instant::now() < until {
        let state = customer.call(Method::GET, &path, None).await?;
        let step = text(&state, "/state");
        if step == "ended" {
            return Err(Failure::new(Code::Interrupted, format!("the session has ended: {}", text(&state, "/why"))));
        }
        // A Container that fetches what the app needs says how far it is; for as long as it gets on, it is waited for.
        let now = match state.get("why").and_then(Value::as_str).filter(|_| step != "running") {
            Some(why) => format!("{step}: {why} …"),
            None => format!("{step} …"),
        };
        if now != told {
            cx.output.note(&now);
            told = now;
            until = tokio::time::Instant::now() + RUNS_WITHIN;
        }
        if let (Some(all), Some(new)) = (value.as_object_mut(), state.as_object()) {
            all.extend(new.clone());
        }
        if step == "running" {
            break;
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
    Ok(value)
}

fn started_text(value: &Value) -> String {
    let mut all = text(value, "/link");
    // Writing into a string cannot fail.
    let _ = write!(
        all,
        "\n{} on Container {}, {} an hour. The link is good once, for two minutes; `muster session stop {}` ends it.",
        text(value, "/app/title"),
        text(value, "/container"),
        text(value, "/rate_must_per_hour"),
        text(value, "/id"),
    );
    all
}

/// The app of the first session: a game where it is installed, else the meter that comes with Muster.
pub(crate) fn first_app() -> &'static str {
    let game = ["/usr/games/neverball", "/usr/bin/neverball"].iter().any(|path| std::path::Path::new(path).exists());
    if game { "neverball" } else { "latency" }
}

/// Starts a first session and gives what to say about it. With `once` it is stopped again, as the network ends.
pub(super) async fn first(cx: &Context, once: bool) -> Result<String, Failure> {
    let at = AtGateway { gateway: None, key_file: None };
    let customer = Customer::find(cx, &at).await?;
    let args = SessionStartArgs {
        app: first_app().to_owned(),
        region: None,
        near: None,
        max_latency: None,
        resolution: None,
        fps: None,
        cpus: None,
        time: TimeLimit(3_600),
        layout: "us".to_owned(),
        open: false,
        at,
    };
    let begun = std::time::Instant::now();
    let value = start(cx, &customer, &args).await?;
    let took = begun.elapsed().as_secs_f64();
    if !once {
        let link = text(&value, "/link");
        open(&link);
        return Ok(format!("\nA live session runs after {took:.1} s; play it in a browser:\n{}", started_text(&value)));
    }
    let path = format!("/api/v1/sessions/{}", text(&value, "/id"));
    customer.call(Method::POST, &format!("{path}/stop"), None).await?;
    let until = tokio::time::Instant::now() + RUNS_WITHIN;
    loop {
        let state = customer.call(Method::GET, &path, None).await?;
        if text(&state, "/state") == "ended" || tokio::time::Instant::now() >= until {
            let (title, cost) = (text(&state, "/app/title"), text(&state, "/cost"));
            return Ok(format!("\nA live session of {title} ran after {took:.1} s, was stopped, and cost {cost}."));
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Opens a link in the browser of whoever sits here; nothing happens where nobody does.
pub(crate) fn open(link: &str) {
    let display = std::env::var_os("DISPLAY").is_some() || std::env::var_os("WAYLAND_DISPLAY").is_some();
    if !display {
        return;
    }
    let opened = std::process::Command::new("xdg-open")
        .arg(link)
        .stdin(std::process::Stdio::null())
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .spawn();
    if let Err(error) = opened {
        tracing::info!(%error, "no browser was opened");
    }
}
