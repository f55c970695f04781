//! JSON-RPC over HTTP: on loopback, with bounds on everything a stranger could grow.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::serve::Listener;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, Sleep};

use super::{RpcError, answer, failure};
use crate::embedded::{Chain, ChainError};

/// Bounds of the HTTP server.
#[derive(Clone, Debug)]
pub struct ServerConfig {
    /// Serve on an address that other machines can reach. Everybody who reaches it can read the
    /// chain and send signed transactions; there is nothing else to take.
    pub allow_remote: bool,
    /// Largest body of a request, in bytes.
    pub body_bytes_max: usize,
    /// Most connections at a time; more wait to be accepted.
    pub connections_max: usize,
    /// Longest time for one HTTP request, from its headers to its answer.
    pub request_timeout: Duration,
    /// A connection that sends nothing for so long is closed.
    pub idle_timeout: Duration,
}

impl Default for ServerConfig {
    fn default() -> Self {
        Self {
            allow_remote: false,
            body_bytes_max: 8 << 20,
            connections_max: 512,
            request_timeout: Duration::from_secs(30),
            idle_timeout: Duration::from_secs(120),
        }
    }
}

/// How long requests in flight may take once the server has been told to stop.
const SHUTDOWN_GRACE: Duration = Duration::from_secs(5);

/// Serves the chain's JSON-RPC until `shutdown` is ready, then finishes the requests in flight and returns.
///
/// # Errors
/// The listener is reachable from other machines without `allow_remote`, or fails.
pub async fn serve(
    chain: Chain,
    listener: TcpListener,
    config: ServerConfig,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> Result<(), ChainError> {
    let address = listener.local_addr().map_err(listener_failed)?;
    if !address.ip().is_loopback() && !config.allow_remote {
        return Err(ChainError::NotLoopback { address });
    }
    tracing::info!(%address, chain_id = chain.chain_id(), "embedded chain listens");
    let state = Arc::new(Service { chain, config: config.clone() });
    let router = Router::new()
        .route("/", post(handle).get(only_post))
        .layer(DefaultBodyLimit::max(config.body_bytes_max))
        .with_state(state);
    let bounded = BoundedListener {
        listener,
        permits: Arc::new(Semaphore::new(config.connections_max)),
        idle_timeout: config.idle_timeout,
    };
    let (stopping, stopped) = tokio::sync::oneshot::channel();
    let server = axum::serve(bounded, router).with_graceful_shutdown(async move {
        shutdown.await;
        // The receiver lives as long as this server.
        let _ = stopping.send(());
    });
    tokio::select! {
        result = server.into_future() => result.map_err(listener_failed)?,
        () = async {
            // An error means that the server ended by itself, which the other branch reports.
            let _ = stopped.await;
            tokio::time::sleep(SHUTDOWN_GRACE).await;
        } => tracing::warn!(%address, "requests were still in flight when the embedded chain stopped listening"),
    }
    Ok(())
}

fn listener_failed(reason: io::Error) -> ChainError {
    ChainError::Io { path: "listener".into(), reason }
}

struct Service {
    chain: Chain,
    config: ServerConfig,
}

async fn only_post() -> Response {
    (StatusCode::METHOD_NOT_ALLOWED, "this is an Ethereum JSON-RPC endpoint: POST a request as application/json\n")
        .into_response()
}

async fn handle(State(service): State<Arc<Service>>, request: Request) -> Response {
    if let Some((status, reason)) = refusal(request.headers(), service.config.allow_remote) {
        return (status, reason).into_response();
    }
    let work = async {
        let body = match axum::body::to_bytes(request.into_body(), service.config.body_bytes_max).await {
            Ok(body) => body,
            Err(_) => return too_large(service.config.body_bytes_max),
        };
        respond(answer(&service.chain, &body).await)
    };
    match tokio::time::timeout(service.config.request_timeout, work).await {
        Ok(response) => response,
        Err(_) => {
            let error = RpcError::limit("request timed out");
            (StatusCode::SERVICE_UNAVAILABLE, json_body(&failure(Value::Null, &error))).into_response()
        }
    }
}

fn respond(answer: Option<Value>) -> Response {
    match answer {
        Some(answer) => json_body(&answer).into_response(),
        None => StatusCode::NO_CONTENT.into_response(),
    }
}

fn json_body(value: &Value) -> impl IntoResponse + use<> {
    ([(header::CONTENT_TYPE, "application/json")], Bytes::from(value.to_string()))
}

fn too_large(limit: usize) -> Response {
    let error = RpcError::invalid_request(format!("request body too large: the limit is {limit} bytes"));
    (StatusCode::PAYLOAD_TOO_LARGE, json_body(&failure(Value::Null, &error))).into_response()
}

/// Keeps web pages out: a foreign page cannot send JSON without asking first, and one that has
/// rebound its name to this machine still carries that name in `Host`.
fn refusal(headers: &HeaderMap, allow_remote: bool) -> Option<(StatusCode, &'static str)> {
    let content_type = headers.get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or("");
    if !content_type.trim_start().to_ascii_lowercase().starts_with("application/json") {
        let text = "send the request with Content-Type: application/json\n";
        return Some((StatusCode::UNSUPPORTED_MEDIA_TYPE, text));
    }
    let host = headers.get(header::HOST).and_then(|v| v.to_str().ok()).unwrap_or("");
    if allow_remote || is_local_name(host) {
        return None;
    }
    Some((StatusCode::FORBIDDEN, "this endpoint answers to localhost and loopback addresses only\n"))
}

fn is_local_name(host: &str) -> bool {
    if let Ok(address) = host.parse::<SocketAddr>() {
        return address.ip().is_loopback();
    }
    let name = host.rsplit_once(':').map_or(host, |(name, _)| name);
    name.eq_ignore_ascii_case("localhost")
        || name.trim_matches(['[', ']']).parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
        || host.trim_matches(['[', ']']).parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// Accepts no more than so many connections at a time.
struct BoundedListener {
    listener: TcpListener,
    permits: Arc<Semaphore>,
    idle_timeout: Duration,
}

impl Listener for BoundedListener {
    type Io = BoundedStream;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (BoundedStream, SocketAddr) {
        let permit = Arc::clone(&self.permits).acquire_owned().await.expect("the semaphore is never closed");
        // axum's own listener logs an error of `accept` and tries again.
        let (stream, address) = Listener::accept(&mut self.listener).await;
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "TCP_NODELAY could not be set");
        }
        let deadline = Box::pin(tokio::time::sleep(self.idle_timeout));
        (BoundedStream { stream, deadline, idle_timeout: self.idle_timeout, _permit: permit }, address)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

/// A connection that gives its place back when it ends, and ends when it has been silent too long.
struct BoundedStream {
    stream: TcpStream,
    deadline: Pin<Box<Sleep>>,
    idle_timeout: Duration,
    _permit: OwnedSemaphorePermit,
}

impl AsyncRead for BoundedStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if let Poll::Ready(result) = Pin::new(&mut this.stream).poll_read(cx, buf) {
            this.deadline.as_mut().reset(Instant::now() + this.idle_timeout);
            return Poll::Ready(result);
        }
        ready!(this.deadline.as_mut().poll(cx));
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the connection was silent for too long")))
    }
}

impl AsyncWrite for BoundedStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
