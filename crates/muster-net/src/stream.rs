//! One stream: two directions of bytes with backpressure.

use std::fmt;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::{Buf, Bytes};
use iroh::endpoint::{RecvStream, SendStream};
use muster_core::ids::NodeId;
use muster_wire::StreamKind;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::account::Account;
use crate::frames::{FrameReader, FrameRules, FrameWriter, FramedStream};
use crate::{CloseCode, NetError};

/// A stream between two peers. Use it as frames ([`Stream::framed`]), or as bytes.
#[derive(Debug)]
pub struct Stream {
    kind: StreamKind,
    recv: RecvHalf,
    send: SendHalf,
    account: Arc<Account>,
}

impl Stream {
    pub(crate) fn new(kind: StreamKind, recv: RecvStream, send: SendStream, account: Arc<Account>) -> Self {
        let peer = account.id();
        Self {
            kind,
            recv: RecvHalf { quic: recv, left: Bytes::new(), peer },
            send: SendHalf { quic: send, peer, drop_ends: false, ended: false },
            account,
        }
    }

    /// The protocol that the opener named.
    #[must_use]
    pub fn kind(&self) -> StreamKind {
        self.kind
    }

    /// The other side.
    #[must_use]
    pub fn remote_id(&self) -> NodeId {
        self.recv.peer
    }

    /// As messages. A peer that breaks the rules of framing is cut off.
    #[must_use]
    pub fn framed(self) -> FramedStream {
        let Self { kind, recv, mut send, account } = self;
        // Frames say themselves where they end: dropping the writer between two of them loses nothing.
        send.drop_ends = true;
        let rules = FrameRules::from(account.limits());
        FramedStream::from_parts(
            FrameReader::new(recv, rules).guarded_by(Arc::clone(&account), kind.carries_data()),
            FrameWriter::new(send).guarded_by(account),
        )
    }

    /// Both directions apart.
    #[must_use]
    pub fn split(self) -> (RecvHalf, SendHalf) {
        (self.recv, self.send)
    }
}

impl AsyncRead for Stream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.recv).poll_read(cx, buf)
    }
}

impl AsyncWrite for Stream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.send).poll_write(cx, buf)
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.send).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.send).poll_shutdown(cx)
    }
}

/// The receiving direction. Its end is told apart from its loss: a sender that drops a raw stream without finishing it
/// gives [`NetError::StreamReset`] here, never a short read.
pub struct RecvHalf {
    quic: RecvStream,
    /// Read ahead of the last frame, before the stream became raw.
    left: Bytes,
    peer: NodeId,
}

impl RecvHalf {
    /// The next bytes as they came, at most `max`, without a copy; `None` at the end.
    ///
    /// # Errors
    /// The stream was given up or the connection is lost.
    pub async fn read_chunk(&mut self, max: usize) -> Result<Option<Bytes>, NetError> {
        if !self.left.is_empty() {
            return Ok(Some(self.left.split_to(max.min(self.left.len()))));
        }
        self.quic.read_chunk(max).await.map_err(|error| NetError::read(self.peer, &error))
    }

    /// Tells the sender that no more is wanted.
    pub fn stop(mut self, code: CloseCode) {
        // Already stopped or finished is as good.
        self.quic.stop(code.quic()).ok();
    }

    pub(crate) fn put_back(&mut self, read_ahead: Bytes) {
        debug_assert!(self.left.is_empty());
        self.left = read_ahead;
    }
}

impl fmt::Debug for RecvHalf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RecvHalf({} from {})", self.quic.id(), self.peer.short())
    }
}

impl AsyncRead for RecvHalf {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if !self.left.is_empty() {
            let count = self.left.len().min(buf.remaining());
            self.left.copy_to_slice(buf.initialize_unfilled_to(count));
            buf.advance(count);
            return Poll::Ready(Ok(()));
        }
        let peer = self.peer;
        let unfilled = buf.initialize_unfilled();
        let read = std::task::ready!(self.quic.poll_read(cx, unfilled));
        let count = read.map_err(|error| NetError::read(peer, &error))?;
        buf.advance(count);
        Poll::Ready(Ok(()))
    }
}

/// The sending direction. Dropped before [`SendHalf::finish`], a raw stream is given up, so that the receiver cannot
/// take a part for the whole.
pub struct SendHalf {
    quic: SendStream,
    peer: NodeId,
    drop_ends: bool,
    ended: bool,
}

impl SendHalf {
    /// Says that this was all. What was written still goes out, as long as the connection lives.
    ///
    /// # Errors
    /// The stream is closed already.
    pub fn finish(&mut self) -> Result<(), NetError> {
        self.ended = true;
        self.quic.finish().map_err(|_| NetError::StreamClosed)
    }

    /// Says that this was all, and waits until the peer's machine has it.
    ///
    /// # Errors
    /// The stream was closed before, the peer gave it up, or the connection is lost.
    pub async fn finish_acked(&mut self) -> Result<(), NetError> {
        self.finish()?;
        match self.quic.stopped().await {
            Ok(None) => Ok(()),
            Ok(Some(code)) => Err(NetError::StreamReset { code: CloseCode::from_quic(code) }),
            Err(error) => Err(NetError::write(self.peer, &error.into())),
        }
    }

    /// Gives the stream up.
    pub fn reset(mut self, code: CloseCode) {
        self.ended = true;
        // Already closed is as good.
        self.quic.reset(code.quic()).ok();
    }

    /// Streams of a higher priority go first on this connection (0 is usual; vouchers may go before files).
    pub fn set_priority(&self, priority: i32) {
        // A closed stream has nothing left to send first.
        self.quic.set_priority(priority).ok();
    }

    pub(crate) fn set_drop_ends(&mut self, ends: bool) {
        self.drop_ends = ends;
    }
}

impl Drop for SendHalf {
    fn drop(&mut self) {
        if !self.ended && !self.drop_ends {
            // Already closed is as good.
            self.quic.reset(CloseCode::Abandoned.quic()).ok();
        }
    }
}

impl fmt::Debug for SendHalf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SendHalf({} to {})", self.quic.id(), self.peer.short())
    }
}

impl AsyncWrite for SendHalf {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let peer = self.peer;
        let written = std::task::ready!(Pin::new(&mut self.quic).poll_write(cx, buf));
        Poll::Ready(written.map_err(|error| NetError::write(peer, &error).into()))
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // The transport sends as soon as the peer and the path allow.
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(self.finish().map_err(Into::into))
    }
}
