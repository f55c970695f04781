//! A proxy in front of the chain that loses, delays and refuses requests.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use crate::txs::Dice;
use crate::world::http;

/// What happens to a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// Forwarded, and the answer comes back.
    Pass,
    /// Forwarded, but the connection breaks before the answer.
    LoseAnswer,
    /// The connection breaks before anything is forwarded.
    LoseRequest,
    /// Answered with HTTP 503.
    Unavailable,
    /// Answered as if sent, with the hash, but never forwarded.
    Swallow,
}

type Rule = Arc<Mutex<Box<dyn FnMut(&Value) -> Fate + Send>>>;

/// A proxy on a free port; gone when dropped.
pub(crate) struct Proxy {
    pub(crate) address: SocketAddr,
    rule: Rule,
    task: JoinHandle<()>,
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Proxy {
    pub(crate) async fn start(upstream: String, rule: impl FnMut(&Value) -> Fate + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let rule: Rule = Arc::new(Mutex::new(Box::new(rule)));
        let shared = Arc::clone(&rule);
        let client = http();
        let task = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                tokio::spawn(one_request(stream, upstream.clone(), client.clone(), Arc::clone(&shared)));
            }
        });
        Self { address, rule, task }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub(crate) fn set(&self, rule: impl FnMut(&Value) -> Fate + Send + 'static) {
        *self.rule.lock().unwrap() = Box::new(rule);
    }
}

/// Whether a body holds this method, alone or in a batch.
pub(crate) fn holds(body: &Value, method: &str) -> bool {
    match body {
        Value::Array(all) => all.iter().any(|request| request["method"] == method),
        one => one["method"] == method,
    }
}

/// Bad luck of every kind, from a seed.
pub(crate) fn bad_luck(seed: u64) -> impl FnMut(&Value) -> Fate + Send + 'static {
    let mut dice = Dice::new(seed);
    move |_| match dice.below(10) {
        0..=4 => Fate::Pass,
        5..=6 => Fate::LoseAnswer,
        7 => Fate::LoseRequest,
        _ => Fate::Unavailable,
    }
}

async fn one_request(mut stream: TcpStream, upstream: String, client: reqwest::Client, rule: Rule) {
    let Some(body) = read_body(&mut stream).await else { return };
    let parsed: Value = serde_json::from_slice(&body).unwrap();
    let fate = (rule.lock().unwrap())(&parsed);
    let forward = || async {
        let request = client.post(&upstream).header("content-type", "application/json").body(body.clone());
        request.send().await.unwrap().bytes().await.unwrap()
    };
    match fate {
        Fate::Pass => respond(&mut stream, "200 OK", &forward().await).await,
        Fate::LoseAnswer => drop(forward().await),
        Fate::LoseRequest => {}
        Fate::Unavailable => respond(&mut stream, "503 Service Unavailable", b"try later").await,
        Fate::Swallow => {
            let answer = swallowed(&parsed);
            respond(&mut stream, "200 OK", answer.to_string().as_bytes()).await;
        }
    }
    tokio::time::sleep(Duration::from_millis(1)).await;
}

/// What a node says that takes a transaction and forgets it.
fn swallowed(body: &Value) -> Value {
    let one = |request: &Value| {
        let result = match request["method"].as_str() {
            Some("eth_sendRawTransaction") => Value::String(format!("0x{:064x}", 1)),
            _ => Value::Null,
        };
        serde_json::json!({ "jsonrpc": "2.0", "id": request["id"], "result": result })
    };
    match body {
        Value::Array(all) => all.iter().map(one).collect(),
        single => one(single),
    }
}

async fn read_body(stream: &mut TcpStream) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    let (head, length) = loop {
        if stream.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
        if let Some(end) = bytes.windows(4).position(|w| w == b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&bytes[..end]).to_lowercase();
            let length = head.lines().find_map(|l| l.strip_prefix("content-length:")?.trim().parse::<usize>().ok())?;
            break (end + 4, length);
        }
    };
    while bytes.len() < head + length {
        if stream.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
    }
    Some(bytes[head..head + length].to_vec())
}

async fn respond(stream: &mut TcpStream, status: &str, body: &[u8]) {
    let head = format!(
        "HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
        body.len()
    );
    // The client may have given up waiting.
    let _ = stream.write_all(head.as_bytes()).await;
    let _ = stream.write_all(body).await;
}
