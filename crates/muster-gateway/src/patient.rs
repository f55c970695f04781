//! Connections whose other end must go on taking what it is sent.
//!
//! Whoever takes nothing for a while is cut, so that slow readers hold no memory and no replica's place.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::serve::{Listener, ListenerExt, TapIo};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, Sleep};

/// How long a client may take nothing of what is sent to it.
pub const TAKES_WITHIN: Duration = Duration::from_secs(30);

/// Takes all the open files that the system lets this process have: a thousand streams need two thousand, and many systems
/// begin with a thousand.
pub fn allow_many_connections() {
    let limit = getrlimit(Resource::Nofile);
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum }) {
        tracing::debug!(%error, ?limit, "the limit of open files stays");
    }
}

/// A listener whose connections are [`Patient`].
#[derive(Debug)]
pub struct PatientListener {
    listener: TcpListener,
    within: Duration,
}

/// What [`patient`] gives: connections that send small pieces at once.
pub type Patiently = TapIo<PatientListener, fn(&mut Patient)>;

/// Wraps a listener: a client that takes nothing for so long is cut.
#[must_use]
pub fn patient(listener: TcpListener, within: Duration) -> Patiently {
    let at_once: fn(&mut Patient) = |connection| {
        // A connection that cannot be told so is only slower.
        let _ = connection.stream.set_nodelay(true);
    };
    PatientListener { listener, within }.tap_io(at_once)
}

impl Listener for PatientListener {
    type Io = Patient;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Patient, SocketAddr) {
        let (stream, from) = Listener::accept(&mut self.listener).await;
        (Patient { stream, within: self.within, stuck: None }, from)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

/// A connection that fails once its other end has taken nothing for a while.
#[derive(Debug)]
pub struct Patient {
    stream: TcpStream,
    within: Duration,
    /// Rings when the write that waits has waited too long.
    stuck: Option<Pin<Box<Sleep>>>,
}

impl Patient {
    fn waited<T>(&mut self, cx: &mut Context<'_>, wrote: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if wrote.is_ready() {
            self.stuck = None;
            return wrote;
        }
        let until = Instant::now() + self.within;
        let stuck = self.stuck.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(until)));
        ready!(stuck.as_mut().poll(cx));
        let why = "the other end has taken nothing for too long";
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, why)))
    }
}

impl AsyncRead for Patient {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, to: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, to)
    }
}

impl AsyncWrite for Patient {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let wrote = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.waited(cx, wrote)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let wrote = Pin::new(&mut self.stream).poll_write_vectored(cx, bytes);
        self.waited(cx, wrote)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
