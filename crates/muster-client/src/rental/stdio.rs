//! A job's standard streams: to the user as they come, and to the lease's folder.

use std::fmt;
use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use muster_core::ids::LeaseId;
use muster_net::{Connection, FrameReader, FrameWriter, NetError, StreamKind};
use muster_wire::BoundedBytes;
use muster_wire::message::stdio::{Input, Output, STDIO_LEN_MAX, Stream, Watch};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::{Mutex, watch};

use super::notes::{Note, Notes};

/// Each saved stream is cut off at this, in bytes.
pub const LOG_BYTES_MAX: u64 = 64 * 1024 * 1024;
/// After the job's end, streams that stay silent for so long have nothing more.
const SILENT_AFTER_END: Duration = Duration::from_secs(3);

/// Where a job's standard streams go and come from. What is left out is not shown, and saved all the same.
#[derive(Default)]
pub struct Stdio {
    /// Standard output.
    pub out: Option<Box<dyn AsyncWrite + Send + Unpin>>,
    /// Standard error.
    pub err: Option<Box<dyn AsyncWrite + Send + Unpin>>,
    /// Standard input; the job's is empty if none is given.
    pub input: Option<Box<dyn AsyncRead + Send + Unpin>>,
}

impl fmt::Debug for Stdio {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stdio")
            .field("out", &self.out.is_some())
            .field("err", &self.err.is_some())
            .field("input", &self.input.is_some())
            .finish()
    }
}

/// How far the streams were received; the driver reads it while they run.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    out: AtomicU64,
    err: AtomicU64,
}

impl Seen {
    pub(crate) fn of(&self, stream: Stream) -> u64 {
        self.cell(stream).load(Ordering::Relaxed)
    }

    fn add(&self, stream: Stream, count: u64) {
        self.cell(stream).fetch_add(count, Ordering::Relaxed);
    }

    const fn cell(&self, stream: Stream) -> &AtomicU64 {
        match stream {
            Stream::Out => &self.out,
            Stream::Err => &self.err,
        }
    }
}

/// Both ends of the streams on this side; they outlive the line.
pub(crate) struct Pipes {
    seen: Arc<Seen>,
    /// Held by one watcher at a time: an earlier one may still be handing its last bytes to a slow reader.
    outputs: Mutex<Outputs>,
    input: Mutex<InputEnd>,
}

struct Outputs {
    out: Option<Box<dyn AsyncWrite + Send + Unpin>>,
    err: Option<Box<dyn AsyncWrite + Send + Unpin>>,
    folder: PathBuf,
    seen: Arc<Seen>,
}

struct InputEnd {
    from: Option<Box<dyn AsyncRead + Send + Unpin>>,
    /// Read and not yet sent.
    pending: Vec<u8>,
}

impl Pipes {
    /// Goes on where the saved streams and the record stop.
    pub(crate) fn new(stdio: Stdio, folder: &Path, out_seen: u64, err_seen: u64) -> Self {
        let seen = Arc::new(Seen::default());
        let saved = |name: &str| std::fs::metadata(folder.join(name)).map_or(0, |m| m.len());
        seen.add(Stream::Out, out_seen.max(saved("stdout")));
        seen.add(Stream::Err, err_seen.max(saved("stderr")));
        let Stdio { out, err, input } = stdio;
        let outputs = Outputs { out, err, folder: folder.to_owned(), seen: Arc::clone(&seen) };
        let input = InputEnd { from: input, pending: Vec::new() };
        Self { seen, outputs: Mutex::new(outputs), input: Mutex::new(input) }
    }

    pub(crate) fn seen(&self) -> &Seen {
        &self.seen
    }
}

impl Outputs {
    /// Saves and shows. Whoever does not read any more (a closed pipe) is shown no more.
    async fn deliver(&mut self, stream: Stream, bytes: &[u8]) {
        let (name, sink) = match stream {
            Stream::Out => ("stdout", &mut self.out),
            Stream::Err => ("stderr", &mut self.err),
        };
        let path = self.folder.join(name);
        if let Err(error) = save(&path, self.seen.of(stream), bytes) {
            tracing::warn!(path = %path.display(), %error, "the job's output could not be saved");
        }
        self.seen.add(stream, u64::try_from(bytes.len()).unwrap_or(u64::MAX));
        if let Some(writer) = sink {
            let shown = async {
                writer.write_all(bytes).await?;
                writer.flush().await
            };
            if let Err(error) = shown.await {
                tracing::debug!(%error, "nobody reads the job's output any more");
                *sink = None;
            }
        }
    }

    /// Nothing more comes: whoever shows whole lines shows the last one now.
    async fn close(&mut self) {
        for writer in [self.out.take(), self.err.take()].iter_mut().flatten() {
            if let Err(error) = writer.shutdown().await {
                tracing::debug!(%error, "nobody reads the end of the job's output");
            }
        }
    }
}

impl InputEnd {
    /// Sends input until it is over. What was read and not sent stays here, should the line break.
    async fn feed(&mut self, to: &mut FrameWriter) -> Result<(), NetError> {
        loop {
            if self.pending.is_empty() && !self.read().await {
                to.send(&Input::End).await?;
                return to.finish().await;
            }
            let bytes = BoundedBytes::new(self.pending.clone()).map_err(std::io::Error::other)?;
            to.send(&Input::Data(bytes)).await?;
            self.pending.clear();
        }
    }

    /// `false` at the end.
    async fn read(&mut self) -> bool {
        let Some(from) = &mut self.from else { return false };
        let mut bytes = vec![0; STDIO_LEN_MAX];
        match from.read(&mut bytes).await {
            Ok(count) if count > 0 => {
                bytes.truncate(count);
                self.pending = bytes;
                true
            }
            Ok(_) => {
                self.from = None;
                false
            }
            Err(error) => {
                tracing::warn!(%error, "standard input could not be read; the job's input ends here");
                self.from = None;
                false
            }
        }
    }
}

fn save(path: &Path, at: u64, bytes: &[u8]) -> std::io::Result<()> {
    let room = usize::try_from(LOG_BYTES_MAX.saturating_sub(at)).unwrap_or(usize::MAX);
    let kept = bytes.get(..room.min(bytes.len())).unwrap_or_default();
    if kept.is_empty() {
        return Ok(());
    }
    OpenOptions::new().append(true).create(true).mode(0o600).open(path)?.write_all(kept)
}

/// Watches a job until its streams are over.
pub(crate) struct Watcher {
    pub(crate) connection: Connection,
    pub(crate) lease: LeaseId,
    pub(crate) pipes: Arc<Pipes>,
    pub(crate) stdin: bool,
    /// Whether the job is over.
    pub(crate) ended: watch::Receiver<bool>,
    pub(crate) notes: Notes,
}

impl Watcher {
    pub(crate) async fn run(self) {
        let result = self.watch().await.map_err(|e| e.to_string());
        self.notes.send(Note::Stdio(result)).await;
    }

    async fn watch(&self) -> Result<(), NetError> {
        let mut outputs = self.pipes.outputs.lock().await;
        let mut input = self.pipes.input.lock().await;
        let stream = self.connection.open_bi(StreamKind::Job).await?;
        let (mut from, mut to) = stream.framed().split();
        let first = Watch {
            lease: self.lease,
            out_from: self.pipes.seen.of(Stream::Out),
            err_from: self.pipes.seen.of(Stream::Err),
            follow: !*self.ended.borrow(),
            stdin: self.stdin,
        };
        to.send(&first).await?;
        let feeding = async {
            if self.stdin {
                input.feed(&mut to).await?;
            }
            std::future::pending::<Result<(), NetError>>().await
        };
        // Apart from each other: a job that reads nothing must not stop its own output.
        tokio::select! {
            shown = self.show(&mut from, &mut outputs) => shown,
            failed = feeding => failed,
        }
    }

    async fn show(&self, from: &mut FrameReader, outputs: &mut Outputs) -> Result<(), NetError> {
        loop {
            match self.next(from).await? {
                Output::Data { stream, bytes } => outputs.deliver(stream, &bytes).await,
                Output::Missed { stream, count } => {
                    self.pipes.seen.add(stream, count);
                    self.notes.send(Note::Missed(stream, count)).await;
                }
                Output::End => {
                    outputs.close().await;
                    return Ok(());
                }
            }
        }
    }

    /// The next piece; after the job's end, silence is the end.
    async fn next(&self, from: &mut FrameReader) -> Result<Output, NetError> {
        let mut ended = self.ended.clone();
        let silent = async {
            if ended.wait_for(|over| *over).await.is_err() {
                std::future::pending::<()>().await;
            }
            tokio::time::sleep(SILENT_AFTER_END).await;
        };
        tokio::select! {
            got = from.recv::<Output>() => got?.ok_or(NetError::Truncated),
            () = silent => Ok(Output::End),
        }
    }
}
