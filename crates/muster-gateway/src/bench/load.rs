//! Who asks: connections that send one request after the other, on one thread, with as little work for each as can be.

use std::cell::RefCell;
use std::future::Future;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::BenchError;
use super::upstream::{MARK, MODEL};

/// Bytes of one reading.
const READ_BYTES: usize = 64 * 1024;
/// Bytes of an answer's head.
const HEAD_MAX: usize = 16 * 1024;
/// An answer may take so long.
const ANSWER_WITHIN: Duration = Duration::from_secs(60);

/// What is asked, again and again.
#[derive(Clone, Debug)]
pub(super) struct Load {
    pub(super) at: SocketAddr,
    /// Whole requests; each connection keeps to one of them.
    requests: Vec<Arc<[u8]>>,
    /// Tokens that each answer must have.
    tokens: u64,
}

impl Load {
    /// Chats of so many tokens, whole or streamed, under these keys.
    pub(super) fn chats(at: SocketAddr, keys: &[String], tokens: u64, stream: bool) -> Self {
        let options = if stream { ",\"stream\":true,\"stream_options\":{\"include_usage\":true}" } else { "" };
        let body = format!(
            "{{\"model\":\"{MODEL}\",\"messages\":[{{\"role\":\"system\",\"content\":\"You are a helpful assistant.\"}},\
             {{\"role\":\"user\",\"content\":\"What is the capital of France?\"}}],\"max_tokens\":{tokens}{options}}}"
        );
        let request = |key: &String| {
            let length = body.len();
            let head = format!(
                "POST /v1/chat/completions HTTP/1.1\r\nhost: {at}\r\nauthorization: Bearer {key}\r\n\
                 content-type: application/json\r\ncontent-length: {length}\r\n\r\n"
            );
            Arc::from([head.as_bytes(), body.as_bytes()].concat())
        };
        Self { at, requests: keys.iter().map(request).collect(), tokens }
    }

    fn request(&self, connection: usize) -> Arc<[u8]> {
        self.requests.get(connection % self.requests.len().max(1)).cloned().unwrap_or_default()
    }
}

/// What came of a load.
#[derive(Clone, Debug, Default)]
pub(super) struct Came {
    /// Requests that were answered, and tokens that came, while the clock ran.
    pub(super) requests: u64,
    pub(super) tokens: u64,
    pub(super) ran: Duration,
    /// With those before and after.
    pub(super) all_requests: u64,
    pub(super) all_tokens: u64,
}

impl Came {
    pub(super) fn requests_per_second(&self) -> f64 {
        per_second(self.requests, self.ran)
    }

    /// Of what was spent on all requests.
    #[allow(clippy::cast_precision_loss, reason = "counts of a measurement are far below 2^53")]
    pub(super) fn us_per_request(&self, spent: Duration) -> f64 {
        spent.as_secs_f64() * 1e6 / self.all_requests.max(1) as f64
    }

    pub(super) fn tokens_per_second(&self) -> f64 {
        per_second(self.tokens, self.ran)
    }
}

#[allow(clippy::cast_precision_loss, reason = "counts of a measurement are far below 2^53")]
fn per_second(count: u64, time: Duration) -> f64 {
    count as f64 / time.as_secs_f64().max(1e-9)
}

/// Does something on a thread of its own, so that nothing else of this process is in its way.
pub(super) async fn aside<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, BenchError> + Send + 'static,
) -> Result<T, BenchError> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|_| Err(BenchError::Load("the load broke off".to_owned())))
}

fn on_this_thread<T>(work: impl Future<Output = Result<T, BenchError>>) -> Result<T, BenchError> {
    let failed = |source| BenchError::Io { what: "cannot start the load".to_owned(), source };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(failed)?;
    tokio::task::LocalSet::new().block_on(&runtime, work)
}

#[derive(Debug, Default)]
struct Tally {
    came: Came,
    runs: bool,
    over: bool,
}

/// So many connections, each with one request at a time: first to warm up, then while the clock runs; what is under way then
/// is awaited.
pub(super) fn at_once(load: &Load, connections: usize, warm: Duration, ran: Duration) -> Result<Came, BenchError> {
    on_this_thread(async {
        let tally = Rc::new(RefCell::new(Tally::default()));
        let mut asking = tokio::task::JoinSet::new();
        for nth in 0..connections {
            let (mut connection, request) = (Connection::open(load.at).await?, load.request(nth));
            let (tally, tokens) = (Rc::clone(&tally), load.tokens);
            asking.spawn_local(async move {
                while !tally.borrow().over {
                    connection.ask(&request, tokens, |marks| tokens_came(&tally, marks)).await?;
                    let mut tally = tally.borrow_mut();
                    tally.came.all_requests += 1;
                    tally.came.requests += u64::from(tally.runs);
                }
                Ok::<_, BenchError>(())
            });
        }
        let clock = async {
            tokio::time::sleep(warm).await;
            tally.borrow_mut().runs = true;
            let begun = Instant::now();
            tokio::time::sleep(ran).await;
            let mut tally = tally.borrow_mut();
            (tally.runs, tally.over, tally.came.ran) = (false, true, begun.elapsed());
        };
        let answers = async {
            while let Some(ended) = asking.join_next().await {
                ended.map_err(|_| BenchError::Load("a connection broke off".to_owned()))??;
            }
            Ok::<_, BenchError>(())
        };
        // Whoever fails ends all.
        tokio::try_join!(
            async {
                clock.await;
                Ok(())
            },
            answers
        )?;
        let came = tally.borrow().came.clone();
        Ok(came)
    })
}

fn tokens_came(tally: &RefCell<Tally>, marks: u64) {
    let mut tally = tally.borrow_mut();
    tally.came.all_tokens += marks;
    if tally.runs {
        tally.came.tokens += marks;
    }
}

/// How long single requests take, one after the other: in turn straight to the upstream and by the way that is measured.
#[derive(Clone, Debug, Default)]
pub(super) struct Times {
    straight: Vec<Duration>,
    through: Vec<Duration>,
    /// Requests that went by the way that is measured.
    pub(super) all: u64,
}

impl Times {
    pub(super) fn straight_ms(&self, percent: usize) -> f64 {
        percentile_ms(&self.straight, percent)
    }

    pub(super) fn through_ms(&self, percent: usize) -> f64 {
        percentile_ms(&self.through, percent)
    }
}

/// The value below which so many of a hundred lie, by the nearest rank.
fn percentile_ms(sorted: &[Duration], percent: usize) -> f64 {
    let rank = (sorted.len() * percent).div_ceil(100).max(1);
    sorted.get(rank - 1).copied().unwrap_or_default().as_secs_f64() * 1_000.0
}

/// Takes turns of a request each, so that both ways see the same machine.
pub(super) fn in_turn(straight: &Load, through: &Load, warm: u64, ran: Duration) -> Result<Times, BenchError> {
    on_this_thread(async {
        let mut times = Times::default();
        let mut ways =
            [(straight, Connection::open(straight.at).await?), (through, Connection::open(through.at).await?)];
        let begun = Instant::now();
        // Of a slow way fewer will do.
        while times.all < warm && begun.elapsed() < ran {
            turn(&mut ways).await?;
            times.all += 1;
        }
        let begun = Instant::now();
        while begun.elapsed() < ran {
            let [straight, through] = turn(&mut ways).await?;
            times.straight.push(straight);
            times.through.push(through);
            times.all += 1;
        }
        times.straight.sort_unstable();
        times.through.sort_unstable();
        Ok(times)
    })
}

async fn turn(ways: &mut [(&Load, Connection); 2]) -> Result<[Duration; 2], BenchError> {
    let mut took = [Duration::ZERO; 2];
    for ((load, connection), took) in ways.iter_mut().zip(&mut took) {
        let request = load.request(0);
        let begun = Instant::now();
        connection.ask(&request, load.tokens, |_| {}).await?;
        *took = begun.elapsed();
    }
    Ok(took)
}

/// A connection that is kept.
struct Connection {
    stream: TcpStream,
    at: SocketAddr,
    buffer: Box<[u8]>,
}

impl Connection {
    async fn open(at: SocketAddr) -> Result<Self, BenchError> {
        let failed = |source| BenchError::Io { what: format!("cannot connect to {at}"), source };
        let stream = TcpStream::connect(at).await.map_err(failed)?;
        stream.set_nodelay(true).map_err(failed)?;
        Ok(Self { stream, at, buffer: vec![0; READ_BYTES].into_boxed_slice() })
    }

    /// Sends a request and takes its whole answer in, which must be good and have so many tokens.
    async fn ask(&mut self, request: &[u8], tokens: u64, mut came: impl FnMut(u64)) -> Result<(), BenchError> {
        let at = self.at;
        let failed = |source| BenchError::Io { what: format!("the connection to {at} failed"), source };
        self.stream.write_all(request).await.map_err(failed)?;
        let (mut reading, mut marks) = (Reading::default(), 0);
        let until = tokio::time::Instant::now() + ANSWER_WITHIN;
        while !reading.is_over() {
            let read = tokio::time::timeout_at(until, self.stream.read(&mut self.buffer)).await;
            let read = read.map_err(|_| BenchError::Load(format!("{at} did not answer within a minute")))?;
            let piece = self.buffer.get(..read.map_err(failed)?).unwrap_or_default();
            if piece.is_empty() {
                return Err(BenchError::Load(format!("{at} ended its connection in the middle of an answer")));
            }
            let new = reading.take(piece).map_err(|why| BenchError::Load(format!("{at} answered {why}")))?;
            marks += new;
            came(new);
        }
        if marks == tokens {
            return Ok(());
        }
        Err(BenchError::Load(format!("{at} answered with {marks} tokens of {tokens}")))
    }
}

/// How far an answer was read. Bodies are not kept: their tokens are counted.
#[derive(Debug)]
enum Reading {
    Head(Vec<u8>),
    Body {
        left: usize,
    },
    /// The line with a chunk's size; the digits that came.
    Size {
        size: usize,
        digits: bool,
    },
    Chunk {
        left: usize,
    },
    /// What follows the last chunk: bytes that the line has.
    Trailer {
        line: usize,
    },
    Over,
}

impl Default for Reading {
    fn default() -> Self {
        Self::Head(Vec::new())
    }
}

impl Reading {
    fn is_over(&self) -> bool {
        matches!(self, Self::Over)
    }

    /// Takes a piece in; gives the tokens that were in it.
    fn take(&mut self, mut piece: &[u8]) -> Result<u64, String> {
        let mut marks = 0;
        while !piece.is_empty() {
            match self {
                Self::Head(head) => {
                    let before = head.len();
                    head.extend_from_slice(piece);
                    let from = before.saturating_sub(3);
                    let Some(end) =
                        head.get(from..).unwrap_or_default().windows(4).position(|four| four == b"\r\n\r\n")
                    else {
                        return if head.len() > HEAD_MAX { Err("a head without an end".to_owned()) } else { Ok(marks) };
                    };
                    let end = from + end + 4;
                    piece = piece.get(end - before..).unwrap_or_default();
                    head.truncate(end);
                    *self = after(head)?;
                }
                Self::Body { left } => {
                    let (body, rest) = piece.split_at(piece.len().min(*left));
                    marks += count(body);
                    *left -= body.len();
                    piece = rest;
                    if *left == 0 {
                        *self = Self::Over;
                    }
                }
                Self::Size { size, digits } => {
                    let (byte, rest) = piece.split_first().ok_or("nothing")?;
                    piece = rest;
                    match (byte, char::from(*byte).to_digit(16)) {
                        (_, Some(digit)) => {
                            *size = size.saturating_mul(16).saturating_add(usize::try_from(digit).unwrap_or(0));
                            *digits = true;
                        }
                        (b'\n', None) if *digits => {
                            *self = if *size == 0 { Self::Trailer { line: 0 } } else { Self::Chunk { left: *size } };
                        }
                        // What ends the chunk before.
                        (b'\r' | b'\n', None) => {}
                        (other, None) => return Err(format!("a chunk's size with the byte {other}")),
                    }
                }
                Self::Chunk { left } => {
                    let (body, rest) = piece.split_at(piece.len().min(*left));
                    marks += count(body);
                    *left -= body.len();
                    piece = rest;
                    if *left == 0 {
                        *self = Self::Size { size: 0, digits: false };
                    }
                }
                Self::Trailer { line } => {
                    let (byte, rest) = piece.split_first().ok_or("nothing")?;
                    piece = rest;
                    match byte {
                        b'\n' if *line == 0 => *self = Self::Over,
                        b'\n' => *line = 0,
                        b'\r' => {}
                        _ => *line += 1,
                    }
                }
                Self::Over => return Err("more than was asked".to_owned()),
            }
        }
        Ok(marks)
    }
}

#[allow(clippy::naive_bytecount, reason = "as fast as is needed, without another dependency")]
fn count(bytes: &[u8]) -> u64 {
    // In parts of which the compiler makes vectors.
    bytes.chunks(192).map(|part| u64::from(part.iter().map(|byte| u8::from(*byte == MARK)).sum::<u8>())).sum()
}

/// What follows a head.
fn after(head: &[u8]) -> Result<Reading, String> {
    let text = std::str::from_utf8(head).map_err(|_| "a head that is no text".to_owned())?;
    let mut lines = text.split("\r\n");
    let status = lines.next().unwrap_or_default();
    if status.split(' ').nth(1) != Some("200") {
        return Err(format!("{status:?}"));
    }
    for line in lines {
        let Some((name, value)) = line.split_once(':') else { continue };
        if name.eq_ignore_ascii_case("content-length") {
            let left = value.trim().parse().map_err(|_| format!("a length of {value:?}"))?;
            return Ok(if left == 0 { Reading::Over } else { Reading::Body { left } });
        }
        if name.eq_ignore_ascii_case("transfer-encoding") {
            return Ok(Reading::Size { size: 0, digits: false });
        }
    }
    Err("neither a length nor chunks".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// However an answer is cut, the same is read of it.
    fn check(answer: &[u8], tokens: u64) {
        for size in 1..answer.len() {
            let (mut reading, mut marks) = (Reading::default(), 0);
            for piece in answer.chunks(size) {
                assert!(!reading.is_over(), "over too early at pieces of {size}");
                marks += reading.take(piece).unwrap();
            }
            assert!(reading.is_over(), "not over at pieces of {size}");
            assert_eq!(marks, tokens, "pieces of {size}");
        }
    }

    #[test]
    fn answers_are_read_in_any_pieces() {
        check(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\na~b~c", 2);
        check(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\n~ab\r\nA\r\n~~23456789\r\n0\r\n\r\n", 3);
        check(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\n~\r\n0\r\nx: ~\r\n\r\n", 1);
        let mut reading = Reading::default();
        assert!(reading.take(b"HTTP/1.1 429 Too Many\r\ncontent-length: 0\r\n\r\n").unwrap_err().contains("429"));
        assert_eq!(count(&[MARK; 1_000]), 1_000);
    }
}
