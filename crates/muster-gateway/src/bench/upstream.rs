//! What answers at once: a server of a played model behind the OpenAI API, and the same model as an engine in the Gateway.
//!
//! The server is as cheap as a server can be: an answer is made once for each kind of request, and sent as it is.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use muster_core::inference::{Finish, InferenceEvent, InferenceRequest, Part, TokenCounts};
use muster_engine::{Abilities, Answer, Answering, Engine, EngineInfo, Later, Load, NotReady, answer};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;

use super::BenchError;

/// The model's name.
pub(super) const MODEL: &str = "bench";
/// Each token of the played model; [`MARK`] is in it once, and nowhere else in what is sent.
const TOKEN: &str = " tok~";
/// By which tokens are counted.
pub(super) const MARK: u8 = b'~';
/// Tokens that every prompt counts.
const PROMPT: u64 = 9;
/// Tokens of an answer, at most.
const TOKENS_MAX: u64 = 100_000;
/// Bytes of a request, at most.
const REQUEST_MAX: usize = 64 * 1024;
/// Answers that are kept ready.
const KINDS_MAX: usize = 64;

/// A server on a thread of its own, until it is dropped.
#[derive(Debug)]
pub(super) struct Upstream {
    pub(super) at: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Upstream {
    /// Listens on this machine alone; on any port where none is named. `apart`: each piece of a stream is sent by itself, in
    /// turn with those of all others; otherwise all that a client takes is sent at once.
    pub(super) fn start(port: u16, apart: bool) -> Result<Self, BenchError> {
        let failed = |source| BenchError::Io { what: format!("cannot serve a played model on port {port}"), source };
        let listener = std::net::TcpListener::bind(("127.0.0.1", port)).map_err(failed)?;
        listener.set_nonblocking(true).map_err(failed)?;
        let at = listener.local_addr().map_err(failed)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().map_err(failed)?;
        let (stop, stopped) = oneshot::channel();
        let run = move || {
            runtime.block_on(async {
                tokio::select! {
                    () = accept(listener, apart) => {}
                    // Dropped or told, it ends.
                    _ = stopped => {}
                }
            });
        };
        let thread = std::thread::Builder::new().name("upstream".to_owned()).spawn(run).map_err(failed)?;
        Ok(Self { at, stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::warn!("the played model's server panicked");
        }
    }
}

type Kinds = Arc<Mutex<HashMap<Kind, Arc<Ready>>>>;

/// An answer, and where each of its pieces ends.
#[derive(Debug, Default)]
struct Ready {
    bytes: Vec<u8>,
    ends: Vec<usize>,
}

/// What an answer depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Kind {
    stream: bool,
    /// Whether the usage comes at the end of a stream, and with each piece of it.
    usage: bool,
    usage_each: bool,
    tokens: u64,
}

impl Kind {
    /// What a request asks for. Its body is read as far as the callers of a measurement write it.
    fn of(body: &[u8]) -> Self {
        let text = String::from_utf8_lossy(body);
        let after = |name: &str| {
            let (_, rest) = text.split_once(&format!("\"{name}\""))?;
            Some(rest.trim_start_matches([':', ' ']))
        };
        let is = |name: &str| after(name).is_some_and(|rest| rest.starts_with("true"));
        let digits = |rest: &str| rest.bytes().take_while(u8::is_ascii_digit).count();
        let tokens = after("max_tokens").and_then(|rest| rest.get(..digits(rest))?.parse().ok()).unwrap_or(1);
        Self {
            stream: is("stream"),
            usage: is("include_usage"),
            usage_each: is("continuous_usage_stats"),
            tokens: TOKENS_MAX.min(tokens),
        }
    }

    fn usage(output: u64) -> String {
        let total = PROMPT + output;
        format!("{{\"prompt_tokens\":{PROMPT},\"total_tokens\":{total},\"completion_tokens\":{output}}}")
    }

    /// The whole answer, as vLLM words it: each token of a stream in a piece of its own.
    fn answer(self) -> Ready {
        if self.stream { self.pieces() } else { self.whole() }
    }

    fn whole(self) -> Ready {
        let text = TOKEN.repeat(usize::try_from(self.tokens).unwrap_or(0));
        let usage = Self::usage(self.tokens);
        let body = format!(
            "{{\"id\":\"chatcmpl-0\",\"object\":\"chat.completion\",\"created\":1700000000,\"model\":\"{MODEL}\",\
             \"choices\":[{{\"index\":0,\"message\":{{\"role\":\"assistant\",\"content\":\"{text}\"}},\
             \"logprobs\":null,\"finish_reason\":\"stop\"}}],\"usage\":{usage}}}"
        );
        let length = body.len();
        let head = format!("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n");
        let bytes = [head.as_bytes(), body.as_bytes()].concat();
        Ready { ends: vec![bytes.len()], bytes }
    }

    fn pieces(self) -> Ready {
        let mut out =
            "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n".to_owned();
        let mut ends = Vec::new();
        let mut chunk = |data: &str| {
            // Writing to a text does not fail.
            let _ = write!(out, "{:x}\r\ndata: {data}\n\n\r\n", data.len() + "data: \n\n".len());
            ends.push(out.len());
        };
        let head = format!(
            "{{\"id\":\"chatcmpl-0\",\"object\":\"chat.completion.chunk\",\"created\":1700000000,\"model\":\"{MODEL}\",\"choices\":["
        );
        let each = |output| if self.usage_each { format!(",\"usage\":{}", Self::usage(output)) } else { String::new() };
        let piece = |delta: &str, finish: &str, output| {
            let usage = each(output);
            format!("{head}{{\"index\":0,\"delta\":{delta},\"logprobs\":null,\"finish_reason\":{finish}}}]{usage}}}")
        };
        chunk(&piece("{\"role\":\"assistant\",\"content\":\"\"}", "null", 0));
        for nth in 1..=self.tokens {
            chunk(&piece(&format!("{{\"content\":\"{TOKEN}\"}}"), "null", nth));
        }
        chunk(&piece("{\"content\":\"\"}", "\"stop\"", self.tokens));
        if self.usage {
            chunk(&format!("{head}],\"usage\":{}}}", Self::usage(self.tokens)));
        }
        chunk("[DONE]");
        out.push_str("0\r\n\r\n");
        if let Some(last) = ends.last_mut() {
            *last = out.len();
        }
        Ready { bytes: out.into(), ends }
    }
}

async fn accept(listener: std::net::TcpListener, apart: bool) {
    let Ok(listener) = TcpListener::from_std(listener) else { return };
    let kinds = Kinds::default();
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let kinds = Arc::clone(&kinds);
                tokio::spawn(async move {
                    if let Err(error) = connection(stream, &kinds, apart).await {
                        tracing::debug!(%error, "a connection to the played model ended");
                    }
                });
            }
            Err(error) => {
                // Too many files are open: some will be closed.
                tracing::warn!(%error, "the played model cannot take a connection");
                tokio::task::yield_now().await;
            }
        }
    }
}

async fn connection(mut stream: TcpStream, kinds: &Kinds, apart: bool) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut buffer = Vec::with_capacity(4 * 1024);
    let mut last: (Vec<u8>, Arc<Ready>) = (Vec::new(), Arc::default());
    loop {
        let Some((body, end)) = body_of(&buffer)? else {
            if stream.read_buf(&mut buffer).await? == 0 {
                return Ok(());
            }
            continue;
        };
        let asked = buffer.get(body..end).unwrap_or_default();
        if last.1.bytes.is_empty() || last.0 != asked {
            last = (asked.to_vec(), ready(kinds, Kind::of(asked)));
        }
        let Ready { bytes, ends } = &*last.1;
        if apart {
            let mut from = 0;
            for end in ends {
                stream.write_all(bytes.get(from..*end).unwrap_or_default()).await?;
                from = *end;
                tokio::task::yield_now().await;
            }
        } else {
            stream.write_all(bytes).await?;
        }
        buffer.drain(..end);
    }
}

fn ready(kinds: &Kinds, kind: Kind) -> Arc<Ready> {
    let mut kinds = kinds.lock().unwrap_or_else(PoisonError::into_inner);
    if kinds.len() >= KINDS_MAX {
        kinds.clear();
    }
    Arc::clone(kinds.entry(kind).or_insert_with(|| Arc::new(kind.answer())))
}

/// Where the body of a request begins and ends; `None` while it is not whole.
fn body_of(buffer: &[u8]) -> std::io::Result<Option<(usize, usize)>> {
    let wrong = |why: &str| std::io::Error::new(std::io::ErrorKind::InvalidData, why);
    let Some(head) = buffer.windows(4).position(|four| four == b"\r\n\r\n") else {
        return if buffer.len() > REQUEST_MAX { Err(wrong("a head without an end")) } else { Ok(None) };
    };
    let text =
        std::str::from_utf8(buffer.get(..head).unwrap_or_default()).map_err(|_| wrong("a head that is no text"))?;
    let field = |name: &str| {
        let is = |line: &&str| line.get(..name.len()).is_some_and(|begin| begin.eq_ignore_ascii_case(name));
        text.lines().find(is).and_then(|line| line.get(name.len()..)).map(str::trim)
    };
    let body = head + 4;
    let length = match field("content-length:") {
        Some(length) => length.parse::<usize>().map_err(|_| wrong("a length that is no number"))?,
        None if field("transfer-encoding:").is_some() => return Err(wrong("a body in chunks, which is not read here")),
        None => 0,
    };
    if length > REQUEST_MAX {
        return Err(wrong("a body that is too long"));
    }
    Ok((buffer.len() >= body + length).then_some((body, body + length)))
}

/// The played model as an engine in the Gateway's own process: a batch of events for each token.
#[derive(Clone, Copy, Debug)]
pub(super) struct Played;

/// What the played model can do.
pub(super) fn info() -> EngineInfo {
    let abilities = Abilities { chat: true, completion: true, ..Abilities::default() };
    let engine = "a played model".to_owned();
    EngineInfo { context: 131_072, parallel: 16_384, queue: 16_384, abilities, dimensions: 0, engine }
}

impl Engine for Played {
    fn ready(&self) -> Later<'_, Result<EngineInfo, NotReady>> {
        Box::pin(async { Ok(info()) })
    }

    fn submit(&self, request: InferenceRequest) -> Answer {
        let (answering, answer) = answer();
        let tokens = request.sampling().and_then(|sampling| sampling.max_tokens).map_or(1, u64::from).min(TOKENS_MAX);
        tokio::spawn(play(answering, tokens));
        answer
    }

    fn load(&self) -> Load {
        Load::default()
    }
}

async fn play(answering: Answering, tokens: u64) {
    let mut counts = TokenCounts { input: PROMPT, ..TokenCounts::ZERO };
    let mut is_read = answering.send(vec![InferenceEvent::Began { counts }]).await;
    while is_read && counts.output < tokens && !answering.is_cancelled() {
        counts.output += 1;
        let text = InferenceEvent::Text { choice: 0, part: Part::Answer, text: TOKEN.to_owned(), logprobs: Vec::new() };
        is_read = answering.send(vec![text]).await;
    }
    if is_read {
        let finished = InferenceEvent::Finished { choice: 0, finish: Finish::Stop };
        // Whoever asked may have gone.
        let _ = answering.send(vec![finished, InferenceEvent::Done { counts }]).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_read_once_it_is_whole() {
        let whole = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhelloPOST";
        assert_eq!(body_of(&whole[..30]).unwrap(), None);
        assert_eq!(body_of(&whole[..whole.len() - 5]).unwrap(), None);
        let (from, to) = body_of(whole).unwrap().unwrap();
        assert_eq!(&whole[from..to], b"hello");
        assert!(body_of(b"POST / HTTP/1.1\r\ncontent-length: x\r\n\r\n").is_err());
        assert!(body_of(b"POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n").is_err());
    }

    #[test]
    fn an_answer_has_a_mark_for_each_token() {
        for (body, tokens) in [
            (r#"{"stream":true,"max_tokens":7}"#, 7),
            (r#"{"max_tokens": 3, "stream": false}"#, 3),
            (
                r#"{"stream":true,"stream_options":{"include_usage":true,"continuous_usage_stats":true},"max_tokens":12}"#,
                12,
            ),
            (r#"{}"#, 1),
        ] {
            let answer = Kind::of(body.as_bytes()).answer();
            assert_eq!(answer.bytes.iter().filter(|byte| **byte == MARK).count(), tokens, "{body}");
            assert_eq!(answer.ends.last(), Some(&answer.bytes.len()), "{body}");
            assert!(answer.ends.is_sorted() && answer.ends.len() < tokens + 5, "{body}");
        }
    }
}
