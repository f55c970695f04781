//! HTTP/1.1 (RFC 9112) to a server without TLS, by connections that are kept.
//!
//! Whoever waits for an answer reads it from the socket itself: no task and no queue stand between, and what waits holds no
//! buffer. Servers with TLS are asked by `reqwest`.

use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep};

use super::{CONNECT_MAX, SILENCE_MAX};

/// Bytes of an answer's head.
const HEAD_MAX: usize = 16 * 1024;
/// Fields of an answer's head.
const FIELDS_MAX: usize = 64;
/// Bytes of the line before a chunk, and of what follows the last one.
const LINE_MAX: usize = 4 * 1024;
/// Bytes of one reading.
const READ_BYTES: usize = 16 * 1024;
/// A connection that nobody used for so long is not used again.
const IDLE_MAX: Duration = Duration::from_secs(60);
/// Connections that are kept.
const IDLE_COUNT_MAX: usize = 4_096;

/// The server was too slow, is not there, or breaks off.
pub(super) const SLOW: &str = "it took too long";
pub(super) const NOBODY: &str = "nobody answers there";
pub(super) const FAILED: &str = "the connection failed";

/// A server. Clones share its connections.
#[derive(Clone, Debug)]
pub(super) struct Server(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    host: String,
    port: u16,
    /// The path before each address, and the fields of each request.
    prefix: String,
    fields: String,
    idle: Mutex<Vec<(TcpStream, Instant)>>,
}

impl Server {
    /// At `http://host:port/path`, where that is one of these.
    pub(super) fn new(url: &reqwest::Url, key: Option<&str>) -> Option<Self> {
        let is_plain = url.scheme() == "http" && url.username().is_empty() && url.query().is_none();
        let host = url.host_str().filter(|_| is_plain)?;
        let port = url.port_or_known_default()?;
        let mut fields = format!("host: {host}:{port}\r\ncontent-type: application/json\r\naccept: */*\r\n");
        if let Some(key) = key {
            fields.push_str(&format!("authorization: Bearer {key}\r\n"));
        }
        let inner = Inner {
            host: host.trim_matches(['[', ']']).to_owned(),
            port,
            prefix: url.path().trim_end_matches('/').to_owned(),
            fields,
            idle: Mutex::default(),
        };
        Some(Self(Arc::new(inner)))
    }

    /// Sends JSON to a path, and waits for the head of what is answered.
    pub(super) async fn post(&self, path: &str, body: &[u8]) -> Result<Response, &'static str> {
        let Inner { prefix, fields, .. } = &*self.0;
        let head = format!("POST {prefix}/{path} HTTP/1.1\r\n{fields}content-length: {}\r\n\r\n", body.len());
        let request = [head.as_bytes(), body].concat();
        if let Some(stream) = self.kept() {
            // The server may have closed it just now: then nothing was answered, and it is asked by another one.
            if let Ok(response) = self.exchange(stream, &request).await? {
                return Ok(response);
            }
        }
        let stream = self.connect().await?;
        self.exchange(stream, &request).await?.map_err(|Closed| FAILED)
    }

    async fn connect(&self) -> Result<TcpStream, &'static str> {
        let connecting = TcpStream::connect((self.0.host.as_str(), self.0.port));
        let stream = tokio::time::timeout(CONNECT_MAX, connecting).await.map_err(|_| SLOW)?.map_err(|_| NOBODY)?;
        stream.set_nodelay(true).map_err(|_| FAILED)?;
        Ok(stream)
    }

    async fn exchange(&self, mut stream: TcpStream, request: &[u8]) -> Result<Result<Response, Closed>, &'static str> {
        let sent = tokio::time::timeout(SILENCE_MAX, stream.write_all(request)).await.map_err(|_| SLOW)?;
        if sent.is_err() {
            return Ok(Err(Closed));
        }
        let mut response = Response {
            from: self.clone(),
            stream: Some(stream),
            silent: None,
            heard: Instant::now(),
            status: 0,
            retry_after: None,
            keep: true,
            state: State::Head(Vec::new()),
            first: Vec::new(),
        };
        let mut body = Vec::new();
        while matches!(response.state, State::Head(_)) {
            match response.read(&mut body).await {
                Ok(true) => {}
                Ok(false) | Err(Broken::Connection) => {
                    let nothing = matches!(&response.state, State::Head(head) if head.is_empty());
                    return if nothing { Ok(Err(Closed)) } else { Err(FAILED) };
                }
                Err(Broken::Slow) => return Err(SLOW),
                Err(Broken::Answer(why)) => return Err(why),
            }
        }
        response.first = body;
        response.settle();
        Ok(Ok(response))
    }

    /// A connection that is still there.
    fn kept(&self) -> Option<TcpStream> {
        let mut idle = self.0.idle.lock().unwrap_or_else(PoisonError::into_inner);
        while let Some((stream, since)) = idle.pop() {
            let quiet = stream.try_read(&mut [0; 1]).is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock);
            if quiet && since.elapsed() < IDLE_MAX {
                return Some(stream);
            }
        }
        None
    }

    fn keep(&self, stream: TcpStream) {
        let mut idle = self.0.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < IDLE_COUNT_MAX {
            idle.push((stream, Instant::now()));
        }
    }
}

/// A connection ended before anything was answered.
struct Closed;

/// Why nothing more comes.
#[derive(Debug, PartialEq, Eq)]
enum Broken {
    Connection,
    Slow,
    Answer(&'static str),
}

/// How far an answer was read.
#[derive(Debug, PartialEq, Eq)]
enum State {
    Head(Vec<u8>),
    Length(u64),
    /// The line before a chunk: its size so far, and its bytes.
    Size {
        size: u64,
        line: usize,
    },
    Chunk(u64),
    /// What follows a chunk's bytes, or the last chunk: bytes of the line.
    ChunkEnd,
    Trailer {
        line: usize,
        all: usize,
    },
    /// Until the connection ends.
    Rest,
    Over,
}

/// An answer.
#[derive(Debug)]
pub(super) struct Response {
    pub(super) status: u16,
    /// What the server says of when to come back, in seconds.
    pub(super) retry_after: Option<u64>,
    from: Server,
    stream: Option<TcpStream>,
    /// Rings when the server has said nothing for too long.
    silent: Option<Pin<Box<Sleep>>>,
    heard: Instant,
    keep: bool,
    state: State,
    /// What came with the head.
    first: Vec<u8>,
}

impl Response {
    /// The next bytes of the body, whatever was in `to` before; `false` at its end.
    pub(super) async fn piece(&mut self, to: &mut Vec<u8>) -> Result<bool, &'static str> {
        to.clear();
        if !self.first.is_empty() {
            std::mem::swap(to, &mut self.first);
            self.first = Vec::new();
            return Ok(true);
        }
        while to.is_empty() && self.state != State::Over {
            let more = self.read(to).await.map_err(|broken| match broken {
                Broken::Connection => FAILED,
                Broken::Slow => SLOW,
                Broken::Answer(why) => why,
            })?;
            if !more && self.state != State::Over {
                return Err(FAILED);
            }
            self.settle();
        }
        Ok(!to.is_empty())
    }

    /// Whether its end has come.
    pub(super) fn is_over(&self) -> bool {
        self.state == State::Over
    }

    /// A connection whose answer came to its end is kept.
    fn settle(&mut self) {
        if self.state == State::Over
            && let Some(stream) = self.stream.take()
            && self.keep
        {
            self.from.keep(stream);
        }
    }

    /// Reads once; `false` where the connection has ended.
    async fn read(&mut self, to: &mut Vec<u8>) -> Result<bool, Broken> {
        std::future::poll_fn(|cx| self.poll_read(cx, to)).await
    }

    fn poll_read(&mut self, cx: &mut Context<'_>, to: &mut Vec<u8>) -> Poll<Result<bool, Broken>> {
        let Some(stream) = &mut self.stream else { return Poll::Ready(Err(Broken::Connection)) };
        // It is there only while it is read into.
        let mut buffer = [MaybeUninit::uninit(); READ_BYTES];
        let mut buffer = ReadBuf::uninit(&mut buffer);
        match Pin::new(stream).poll_read(cx, &mut buffer) {
            Poll::Ready(Ok(())) => {}
            Poll::Ready(Err(_)) => return Poll::Ready(Err(Broken::Connection)),
            Poll::Pending => return self.poll_silence(cx).map(|()| Err(Broken::Slow)),
        }
        self.heard = Instant::now();
        if buffer.filled().is_empty() {
            if self.state == State::Rest {
                self.state = State::Over;
                self.keep = false;
            }
            return Poll::Ready(Ok(false));
        }
        // One piece of memory for what comes of it, instead of one that grows with each chunk.
        to.reserve(buffer.filled().len());
        Poll::Ready(self.take(buffer.filled(), to).map(|()| true).map_err(Broken::Answer))
    }

    /// Ready once the server has said nothing for too long. What was heard meanwhile only sets the clock on.
    fn poll_silence(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let until = self.heard + SILENCE_MAX;
        let silent = self.silent.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(until)));
        while silent.as_mut().poll(cx).is_ready() {
            if Instant::now() >= until {
                return Poll::Ready(());
            }
            silent.as_mut().reset(until);
        }
        Poll::Pending
    }

    /// Takes bytes in; those of the body go `to`.
    fn take(&mut self, mut bytes: &[u8], to: &mut Vec<u8>) -> Result<(), &'static str> {
        while !bytes.is_empty() {
            match &mut self.state {
                State::Head(head) => {
                    let before = head.len();
                    head.extend_from_slice(bytes);
                    let (head, bytes_before) = (std::mem::take(head), before);
                    match self.head(&head)? {
                        Some(end) => bytes = bytes.get(end.saturating_sub(bytes_before)..).unwrap_or_default(),
                        None if head.len() > HEAD_MAX => return Err("its answer's head is too long"),
                        None => {
                            self.state = State::Head(head);
                            return Ok(());
                        }
                    }
                }
                State::Length(left) | State::Chunk(left) => {
                    let most = usize::try_from(*left).unwrap_or(usize::MAX).min(bytes.len());
                    let (body, rest) = bytes.split_at(most);
                    to.extend_from_slice(body);
                    bytes = rest;
                    *left -= body.len() as u64;
                    if *left == 0 {
                        self.state = if matches!(self.state, State::Length(_)) { State::Over } else { State::ChunkEnd };
                    }
                }
                State::Rest => {
                    to.extend_from_slice(bytes);
                    return Ok(());
                }
                State::Over => {
                    // More than was asked for: what follows on this connection is nobody's.
                    self.keep = false;
                    return Ok(());
                }
                State::Size { .. } | State::ChunkEnd | State::Trailer { .. } => {
                    let (byte, rest) = bytes.split_first().ok_or(FAILED)?;
                    bytes = rest;
                    self.between(*byte)?;
                }
            }
        }
        Ok(())
    }

    /// A byte between chunks.
    fn between(&mut self, byte: u8) -> Result<(), &'static str> {
        const WRONG: &str = "its answer's chunks cannot be read";
        self.state = match self.state {
            State::ChunkEnd if byte == b'\r' => State::ChunkEnd,
            State::ChunkEnd if byte == b'\n' => State::Size { size: 0, line: 0 },
            State::Size { line: 0, .. } if byte == b'\n' => return Err(WRONG),
            State::Size { size: 0, .. } if byte == b'\n' => State::Trailer { line: 0, all: 0 },
            State::Size { size, .. } if byte == b'\n' => State::Chunk(size),
            State::Size { line, .. } if line > LINE_MAX => return Err(WRONG),
            // Behind the digits may be what a server has to say of the chunk; it is marked by a line that is longer than they
            // can be.
            State::Size { size, line } => match char::from(byte).to_digit(16) {
                Some(digit) if line < EXTENSION => {
                    let size = size.checked_mul(16).and_then(|size| size.checked_add(u64::from(digit)));
                    State::Size { size: size.ok_or(WRONG)?, line: line + 1 }
                }
                _ if line == 0 => return Err(WRONG),
                _ => State::Size { size, line: line.max(EXTENSION) + 1 },
            },
            State::Trailer { line: 0, .. } if byte == b'\n' => State::Over,
            State::Trailer { all, .. } if all > LINE_MAX => return Err(WRONG),
            State::Trailer { all, .. } if byte == b'\n' => State::Trailer { line: 0, all },
            State::Trailer { line, all } if byte == b'\r' => State::Trailer { line, all: all + 1 },
            State::Trailer { line, all } => State::Trailer { line: line + 1, all: all + 1 },
            _ => return Err(WRONG),
        };
        Ok(())
    }

    /// Reads a head; gives where it ends, or `None` where it has not.
    fn head(&mut self, bytes: &[u8]) -> Result<Option<usize>, &'static str> {
        const WRONG: &str = "its answer is no HTTP";
        let mut fields = [httparse::EMPTY_HEADER; FIELDS_MAX];
        let mut head = httparse::Response::new(&mut fields);
        let end = match head.parse(bytes).map_err(|_| WRONG)? {
            httparse::Status::Partial => return Ok(None),
            httparse::Status::Complete(end) => end,
        };
        let (status, version) = (head.code.ok_or(WRONG)?, head.version.ok_or(WRONG)?);
        if (100..200).contains(&status) {
            // Word that an answer will come.
            self.state = State::Head(Vec::new());
            return Ok(Some(end));
        }
        let (mut length, mut chunked) = (None, false);
        self.keep = version == 1;
        for field in &*head.headers {
            let value = std::str::from_utf8(field.value).unwrap_or_default().trim();
            let is = |name: &str| field.name.eq_ignore_ascii_case(name);
            if is("content-length") {
                let said = value.parse::<u64>().map_err(|_| WRONG)?;
                if length.is_some_and(|before| before != said) {
                    return Err(WRONG);
                }
                length = Some(said);
            } else if is("transfer-encoding") {
                if !value.eq_ignore_ascii_case("chunked") {
                    return Err("its answer is packed in a way that was not asked for");
                }
                chunked = true;
            } else if is("connection") {
                let says = |word: &str| value.split(',').any(|said| said.trim().eq_ignore_ascii_case(word));
                self.keep = says("keep-alive") || (self.keep && !says("close"));
            } else if is("retry-after") {
                self.retry_after = value.parse().ok();
            }
        }
        self.status = status;
        self.state = match (chunked, length) {
            _ if status == 204 || status == 304 => State::Over,
            (true, _) => State::Size { size: 0, line: 0 },
            (false, Some(0)) => State::Over,
            (false, Some(length)) => State::Length(length),
            (false, None) => State::Rest,
        };
        Ok(Some(end))
    }
}

/// Digits of a chunk's size are fewer; what follows them is counted from here on.
const EXTENSION: usize = 32;

#[cfg(test)]
mod tests {
    use super::*;

    fn response() -> Response {
        let url = reqwest::Url::parse("http://[::1]:7/a/v1/").unwrap();
        Response {
            status: 0,
            retry_after: None,
            from: Server::new(&url, Some("key")).unwrap(),
            stream: None,
            silent: None,
            heard: Instant::now(),
            keep: true,
            state: State::Head(Vec::new()),
            first: Vec::new(),
        }
    }

    /// However an answer is cut, the same is read of it.
    #[track_caller]
    fn check(answer: &str, status: u16, body: &str, keep: bool) {
        let ends = !answer.contains("ntil");
        for size in 1..=answer.len() {
            let (mut response, mut out) = (response(), Vec::new());
            for piece in answer.as_bytes().chunks(size) {
                response.take(piece, &mut out).unwrap();
            }
            assert_eq!(response.is_over(), ends, "pieces of {size}");
            assert_eq!((response.status, String::from_utf8(out).unwrap().as_str()), (status, body), "pieces of {size}");
            assert_eq!(response.keep, keep, "pieces of {size}");
        }
    }

    #[test]
    fn answers_are_read_in_any_pieces() {
        check("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", 200, "hello", true);
        check("HTTP/1.1 200 OK\r\ncontent-length: 0\r\nConnection: x, close\r\n\r\n", 200, "", false);
        check("HTTP/1.0 404 Not Found\r\ncontent-length: 2\r\n\r\nno", 404, "no", false);
        let chunks = "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n00A;a=\"b\"\r\n, world 12\r\n0\r\nx: y\r\n\r\n";
        check(&format!("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n{chunks}"), 200, "hello, world 12", true);
        check("HTTP/1.1 200 OK\r\n\r\nuntil the end", 200, "until the end", true);
        check("HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\nabc", 200, "a", false);
    }

    #[test]
    fn answers_that_are_none_are_refused() {
        let read = |answer: &str| response().take(answer.as_bytes(), &mut Vec::new());
        for wrong in [
            "SSH-2.0-OpenSSH\r\n\r\n",
            "HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\n",
            "HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: gzip, chunked\r\n\r\n",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nx\r\n",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n\r\n",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nfffffffffffffffff\r\n",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\nabc\r\n",
        ] {
            assert!(read(wrong).is_err(), "{wrong:?}");
        }
        assert!(read(&format!("HTTP/1.1 200 OK\r\nx: {}", "y".repeat(HEAD_MAX))).is_err());
        assert!(
            read(&format!("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1;{}", "y".repeat(2 * LINE_MAX)))
                .is_err()
        );
        let fields = "a: b\r\n".repeat(2 * LINE_MAX);
        assert!(read(&format!("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n{fields}")).is_err());
    }

    #[test]
    fn only_plain_addresses_are_asked_plainly() {
        let server = |url: &str| Server::new(&reqwest::Url::parse(url).unwrap(), None);
        let plain = server("http://[::1]:7/a/v1/").unwrap();
        assert_eq!((plain.0.host.as_str(), plain.0.port, plain.0.prefix.as_str()), ("::1", 7, "/a/v1"));
        assert!(plain.0.fields.starts_with("host: [::1]:7\r\n"));
        assert_eq!(server("http://a/v1").unwrap().0.port, 80);
        assert!(
            server("https://a/v1").is_none()
                && server("http://u:p@a/v1").is_none()
                && server("http://a/v1?k=1").is_none()
        );
    }
}
