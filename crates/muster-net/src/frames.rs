//! Frames on a stream: whole messages in and out, with a deadline for each and a guard against floods.
//!
//! [`FrameReader::recv`] and [`FrameWriter::send`] may be cancelled at any await (in `tokio::select!`): what was read or
//! not yet written stays in the reader and the writer, and the next call goes on from there.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, BytesMut};
use muster_wire::frame::{self, LENGTH_BYTES};
use muster_wire::{WireError, WireMessage};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::{Instant, sleep, timeout};

use crate::account::Account;
use crate::stream::{RecvHalf, SendHalf};
use crate::{CutReason, Limits, NetError};

/// Room for reading on a stream where little happens: tens of thousands of them may wait at once.
const CHUNK_MIN: usize = 512;
/// Room for reading on a busy stream; a long frame's buffer grows by this as it arrives, not as it is announced.
const CHUNK_MAX: usize = 64 * 1024;

/// How long a frame may take once it has begun.
#[derive(Debug, Clone, Copy)]
pub struct FrameRules {
    /// For any frame.
    pub deadline: Duration,
    /// Adds to it for long ones: the slowest they may come.
    pub bytes_per_second_min: u32,
}

impl From<&Limits> for FrameRules {
    fn from(limits: &Limits) -> Self {
        Self { deadline: limits.frame_deadline, bytes_per_second_min: limits.frame_bytes_per_second_min }
    }
}

impl FrameRules {
    fn budget(&self, len: usize) -> Duration {
        let millis =
            u64::try_from(len).unwrap_or(u64::MAX).saturating_mul(1000) / u64::from(self.bytes_per_second_min.max(1));
        self.deadline.saturating_add(Duration::from_millis(millis))
    }
}

/// Adds the time until it is dropped: also when the wait is cancelled.
struct Waiting<'a> {
    total: &'a mut Duration,
    since: Instant,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        *self.total = self.total.saturating_add(self.since.elapsed());
    }
}

/// Reads frames from anything that gives bytes.
#[derive(Debug)]
pub struct FrameReader<R = RecvHalf> {
    io: R,
    buf: BytesMut,
    chunk: usize,
    rules: FrameRules,
    /// Time spent waiting for the rest of the frame that has begun. Waiting for a frame to begin does not count, nor
    /// does the time in which nobody asked.
    waited: Duration,
    account: Option<Arc<Account>>,
    /// Whether the stream carries a job's data: then the peer is slowed down where it would be cut off otherwise.
    data: bool,
    dead: bool,
}

impl<R: AsyncRead + Unpin> FrameReader<R> {
    /// Reads frames from `io`.
    pub fn new(io: R, rules: FrameRules) -> Self {
        Self {
            io,
            buf: BytesMut::new(),
            chunk: CHUNK_MIN,
            rules,
            waited: Duration::ZERO,
            account: None,
            data: false,
            dead: false,
        }
    }

    pub(crate) fn guarded_by(mut self, account: Arc<Account>, data: bool) -> Self {
        self.account = Some(account);
        self.data = data;
        self
    }

    /// The next message; `None` when the other side has finished between two frames. May be cancelled.
    ///
    /// # Errors
    /// The stream or the connection is lost, or the peer broke the rules: then it is cut off, and says so.
    pub async fn recv<M: WireMessage>(&mut self) -> Result<Option<M>, NetError> {
        if self.dead {
            return Err(NetError::StreamClosed);
        }
        let result = self.next::<M>().await;
        self.dead = !matches!(result, Ok(Some(_)));
        result
    }

    /// The next message, which must come within `limit`. The peer is not cut off for being late, and the reader can be
    /// asked again.
    ///
    /// # Errors
    /// As [`FrameReader::recv`]; [`NetError::Timeout`]; [`NetError::StreamReset`] if the stream ends instead.
    pub async fn recv_within<M: WireMessage>(&mut self, limit: Duration) -> Result<M, NetError> {
        match timeout(limit, self.recv()).await {
            Ok(message) => message?.ok_or(NetError::StreamReset { code: None }),
            Err(_) => Err(NetError::Timeout { what: "an answer", after: limit }),
        }
    }

    async fn next<M: WireMessage>(&mut self) -> Result<Option<M>, NetError> {
        loop {
            let want = match self.buf.first_chunk::<LENGTH_BYTES>() {
                None => LENGTH_BYTES,
                Some(header) => {
                    LENGTH_BYTES + frame::check_length::<M>(*header).map_err(|error| self.garbage(error))?
                }
            };
            if want > LENGTH_BYTES && self.buf.len() >= want {
                self.count().await?;
                return self.take(want).map(Some);
            }
            if !self.read_some(want).await? {
                return if self.buf.is_empty() { Ok(None) } else { Err(NetError::Truncated) };
            }
        }
    }

    /// Counts a frame that is there against its peer's rate.
    async fn count(&self) -> Result<(), NetError> {
        let Some(account) = &self.account else { return Ok(()) };
        if !self.data {
            return account.frame(Instant::now());
        }
        while let Err(wait) = account.data_frame(Instant::now()) {
            sleep(wait).await;
        }
        Ok(())
    }

    fn take<M: WireMessage>(&mut self, want: usize) -> Result<M, NetError> {
        let payload = self.buf.get(LENGTH_BYTES..want).unwrap_or_default();
        let message = frame::decode_payload(payload).map_err(|error| self.garbage(error))?;
        self.buf.advance(want);
        self.waited = Duration::ZERO;
        if self.buf.is_empty() {
            // An idle stream holds no buffer.
            self.buf = BytesMut::new();
        }
        Ok(message)
    }

    /// Reads what is there, at least a byte. `false` at the end.
    async fn read_some(&mut self, want: usize) -> Result<bool, NetError> {
        let missing = want.saturating_sub(self.buf.len());
        self.buf.reserve(missing.clamp(self.chunk, CHUNK_MAX));
        let room = self.buf.capacity() - self.buf.len();
        let count = if self.buf.is_empty() {
            self.io.read_buf(&mut self.buf).await?
        } else {
            let budget = self.rules.budget(want);
            let left = budget.saturating_sub(self.waited);
            let _waiting = Waiting { total: &mut self.waited, since: Instant::now() };
            match timeout(left, self.io.read_buf(&mut self.buf)).await {
                Ok(count) => count?,
                Err(_) => return Err(stalled(self.account.as_deref(), budget)),
            }
        };
        self.chunk = if count >= room { (self.chunk * 2).min(CHUNK_MAX) } else { CHUNK_MIN };
        Ok(count > 0)
    }

    fn garbage(&self, error: WireError) -> NetError {
        match &self.account {
            Some(account) => account.cut(CutReason::Garbage, &error.to_string(), Instant::now()),
            None => NetError::Frame(error),
        }
    }
}

fn stalled(account: Option<&Account>, budget: Duration) -> NetError {
    match account {
        Some(account) => {
            let detail = format!("a frame was not finished within {} ms", budget.as_millis());
            account.cut(CutReason::Stall, &detail, Instant::now())
        }
        None => NetError::Stalled(budget),
    }
}

impl FrameReader<RecvHalf> {
    /// The bytes after the last frame.
    #[must_use]
    pub fn into_raw(self) -> RecvHalf {
        let mut io = self.io;
        io.put_back(self.buf.freeze());
        io
    }
}

/// Writes frames to anything that takes bytes.
#[derive(Debug)]
pub struct FrameWriter<W = SendHalf> {
    io: W,
    /// Encoded and not yet written: more than nothing only while a send is under way or was cancelled.
    out: Vec<u8>,
    written: usize,
    account: Option<Arc<Account>>,
}

impl<W: AsyncWrite + Unpin> FrameWriter<W> {
    /// Writes frames to `io`.
    pub fn new(io: W) -> Self {
        Self { io, out: Vec::new(), written: 0, account: None }
    }

    pub(crate) fn guarded_by(mut self, account: Arc<Account>) -> Self {
        self.account = Some(account);
        self
    }

    /// Sends one message, waiting while the peer does not read. When cancelled, the message may still go out with the
    /// next one, whole.
    ///
    /// # Errors
    /// The message is not fit to be sent ([`NetError::Encode`]: the stream stays usable), or the stream or connection
    /// is lost.
    pub async fn send<M: WireMessage>(&mut self, message: &M) -> Result<(), NetError> {
        self.flush().await?;
        frame::encode_into(message, &mut self.out).map_err(NetError::Encode)?;
        self.flush().await?;
        if let Some(account) = &self.account {
            account.stats().frames_out.add_one();
        }
        Ok(())
    }

    /// Sends one message to a peer that must take it within `limit`.
    ///
    /// # Errors
    /// As [`FrameWriter::send`]; [`NetError::Timeout`].
    pub async fn send_within<M: WireMessage>(&mut self, message: &M, limit: Duration) -> Result<(), NetError> {
        match timeout(limit, self.send(message)).await {
            Ok(sent) => sent,
            Err(_) => Err(NetError::Timeout { what: "sending", after: limit }),
        }
    }

    /// Says that this was all.
    ///
    /// # Errors
    /// The stream or connection is lost.
    pub async fn finish(&mut self) -> Result<(), NetError> {
        self.flush().await?;
        Ok(self.io.shutdown().await?)
    }

    async fn flush(&mut self) -> Result<(), NetError> {
        while let Some(rest) = self.out.get(self.written..).filter(|rest| !rest.is_empty()) {
            let count = self.io.write(rest).await?;
            if count == 0 {
                return Err(NetError::Io(io::ErrorKind::WriteZero.into()));
            }
            self.written += count;
        }
        if !self.out.is_empty() {
            self.io.flush().await?;
            self.out.clear();
            self.written = 0;
            // A long message's buffer is not kept for short ones.
            self.out.shrink_to(CHUNK_MIN);
        }
        Ok(())
    }
}

impl FrameWriter<SendHalf> {
    /// Says that this was all, and waits until the peer's machine has it.
    ///
    /// # Errors
    /// The stream or connection is lost.
    pub async fn finish_acked(&mut self) -> Result<(), NetError> {
        self.flush().await?;
        self.io.finish_acked().await
    }

    /// Raw bytes from here on. They must end with [`SendHalf::finish`].
    ///
    /// # Errors
    /// The stream or connection is lost while a cancelled frame is still to be written.
    pub async fn into_raw(mut self) -> Result<SendHalf, NetError> {
        self.flush().await?;
        let mut io = self.io;
        io.set_drop_ends(false);
        Ok(io)
    }

    /// Streams of a higher priority go first on this connection (0 is usual).
    pub fn set_priority(&self, priority: i32) {
        self.io.set_priority(priority);
    }
}

/// Messages both ways on one stream.
#[derive(Debug)]
pub struct FramedStream<R = RecvHalf, W = SendHalf> {
    reader: FrameReader<R>,
    writer: FrameWriter<W>,
}

impl<R: AsyncRead + Unpin, W: AsyncWrite + Unpin> FramedStream<R, W> {
    /// From a reader and a writer.
    pub fn from_parts(reader: FrameReader<R>, writer: FrameWriter<W>) -> Self {
        Self { reader, writer }
    }

    /// Sends one message; see [`FrameWriter::send`].
    ///
    /// # Errors
    /// As [`FrameWriter::send`].
    pub async fn send<M: WireMessage>(&mut self, message: &M) -> Result<(), NetError> {
        self.writer.send(message).await
    }

    /// The next message; see [`FrameReader::recv`].
    ///
    /// # Errors
    /// As [`FrameReader::recv`].
    pub async fn recv<M: WireMessage>(&mut self) -> Result<Option<M>, NetError> {
        self.reader.recv().await
    }

    /// The next message within a time; see [`FrameReader::recv_within`].
    ///
    /// # Errors
    /// As [`FrameReader::recv_within`].
    pub async fn recv_within<M: WireMessage>(&mut self, limit: Duration) -> Result<M, NetError> {
        self.reader.recv_within(limit).await
    }

    /// A question and its answer.
    ///
    /// # Errors
    /// As [`FrameWriter::send_within`] and [`FrameReader::recv_within`]; the time is for both together.
    pub async fn ask<Q: WireMessage, A: WireMessage>(&mut self, question: &Q, limit: Duration) -> Result<A, NetError> {
        let start = Instant::now();
        self.writer.send_within(question, limit).await?;
        self.reader.recv_within(limit.saturating_sub(start.elapsed())).await
    }

    /// Says that this was all.
    ///
    /// # Errors
    /// As [`FrameWriter::finish`].
    pub async fn finish(&mut self) -> Result<(), NetError> {
        self.writer.finish().await
    }

    /// Both directions apart.
    #[must_use]
    pub fn split(self) -> (FrameReader<R>, FrameWriter<W>) {
        (self.reader, self.writer)
    }
}

impl FramedStream {
    /// Raw bytes from here on, both ways.
    ///
    /// # Errors
    /// As [`FrameWriter::into_raw`].
    pub async fn into_raw(self) -> Result<(RecvHalf, SendHalf), NetError> {
        Ok((self.reader.into_raw(), self.writer.into_raw().await?))
    }
}
