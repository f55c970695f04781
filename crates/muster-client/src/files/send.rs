//! Sending inputs.

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;

use muster_core::ids::ContentHash;
use muster_net::{FramedStream, NetError};
use muster_wire::BoundedBytes;
use muster_wire::message::clip_sentence;
use muster_wire::message::files::{CHUNK_LEN_MAX, Outcome, Piece};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;
use tokio::time::{Duration, Instant, sleep_until};

use super::walk::Item;
use super::{FilesError, Meter, Source};

/// Pieces that are read ahead of the line.
const READ_AHEAD: usize = 8;
/// A receiver cuts off who sends more frames than it allows; many small files stay below this by waiting.
const FRAMES_PER_SECOND_MAX: u32 = 5_000;

/// What was sent and taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sent {
    /// Files and folders.
    pub entries: u64,
    /// Bytes of all files.
    pub bytes: u64,
}

/// Why inputs did not arrive.
#[derive(Debug, thiserror::Error)]
pub enum SendFailed {
    /// Something is wrong with them here; trying again would not help.
    #[error(transparent)]
    Here(#[from] FilesError),
    /// The receiver does not take them.
    #[error("the Container refused the inputs: {0}")]
    Refused(String),
    /// The line broke; try again.
    #[error("the inputs could not be sent")]
    Line(#[source] NetError),
}

/// Sends everything, and waits for the receiver to say that it has it. The first frame
/// ([`Transfer`](muster_wire::message::files::Transfer)) has been sent before.
///
/// # Errors
/// As [`SendFailed`]; the receiver is told why, and keeps nothing.
pub async fn send<R, W>(line: FramedStream<R, W>, source: Arc<Source>, meter: Arc<Meter>) -> Result<Sent, SendFailed>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    meter.restart();
    meter.expect(source.bytes);
    let (pieces_in, mut pieces) = mpsc::channel(READ_AHEAD);
    let reader = tokio::task::spawn_blocking({
        let source = Arc::clone(&source);
        move || read_all(&source, &pieces_in)
    });
    let (mut from, mut to) = line.split();
    let mut pace = Pace::new();
    let refused = |outcome: Option<Outcome>| match outcome {
        Some(Outcome::Refused { why }) => Err(SendFailed::Refused(why)),
        Some(Outcome::Received { entries, bytes }) => Ok(Sent { entries, bytes }),
        None => Err(SendFailed::Line(NetError::StreamClosed)),
    };
    while let Some(piece) = pieces.recv().await {
        pace.wait().await;
        let sent = tokio::select! {
            biased;
            // An early answer is a refusal: the disk is too small, a name is not taken.
            early = from.recv::<Outcome>() => {
                drop(pieces);
                return match early.map_err(SendFailed::Line)? {
                    Some(Outcome::Received { .. }) => Err(SendFailed::Line(NetError::StreamClosed)),
                    other => refused(other),
                };
            }
            sent = to.send(&piece) => sent,
        };
        if let Err(error) = sent {
            // A receiver that refuses stops reading first and then says why.
            drop(pieces);
            return match from.recv_within::<Outcome>(Duration::from_secs(1)).await {
                Ok(Outcome::Refused { why }) => Err(SendFailed::Refused(why)),
                Ok(Outcome::Received { .. }) | Err(_) => Err(SendFailed::Line(error)),
            };
        }
        if let Piece::Chunk(bytes) = &piece {
            meter.add(bytes.len());
        }
    }
    let read = reader.await.map_err(|e| SendFailed::Here(stopped(&e)))?;
    if let Err(why) = read {
        let told = to.send(&Piece::Abort { why: clip_sentence(&why.to_string()) }).await;
        if let Err(error) = told.and(to.finish().await) {
            tracing::debug!(%error, "the receiver could not be told that the inputs were given up");
        }
        return Err(SendFailed::Here(why));
    }
    to.finish().await.map_err(SendFailed::Line)?;
    refused(from.recv::<Outcome>().await.map_err(SendFailed::Line)?)
}

fn stopped(error: &tokio::task::JoinError) -> FilesError {
    FilesError::Io { path: Path::new("the inputs").to_owned(), reason: io::Error::other(error.to_string()) }
}

/// Reads everything into the channel; ends early when nobody takes it any more.
fn read_all(source: &Source, out: &mpsc::Sender<Piece>) -> Result<(), FilesError> {
    for item in &source.items {
        let open = match item {
            Item::Folder { name } => out.blocking_send(Piece::Folder { path: name.clone() }).is_ok(),
            Item::File { name, from, len, executable } => {
                let head = Piece::File { path: name.clone(), len: *len, executable: *executable };
                out.blocking_send(head).is_ok() && read_file(from, *len, out)?
            }
        };
        if !open {
            return Ok(());
        }
    }
    let done = Piece::Done { entries: source.entries(), bytes: source.bytes, left_out: source.left_out.clone() };
    // Whoever closed the channel knows why.
    drop(out.blocking_send(done));
    Ok(())
}

/// `false` when nobody takes it any more.
fn read_file(from: &Path, len: u64, out: &mpsc::Sender<Piece>) -> Result<bool, FilesError> {
    let mut file = open(from)?;
    let mut hasher = blake3::Hasher::new();
    let mut left = len;
    while left > 0 {
        let want = usize::try_from(left).unwrap_or(CHUNK_LEN_MAX).min(CHUNK_LEN_MAX);
        let mut bytes = vec![0; want];
        file.read_exact(&mut bytes).map_err(|e| match e.kind() {
            io::ErrorKind::UnexpectedEof => FilesError::Changed(from.to_owned()),
            _ => FilesError::io(from)(e),
        })?;
        hasher.update(&bytes);
        left = left.saturating_sub(u64::try_from(want).unwrap_or(u64::MAX));
        let chunk = BoundedBytes::new(bytes).map_err(|e| FilesError::io(from)(io::Error::other(e)))?;
        if out.blocking_send(Piece::Chunk(chunk)).is_err() {
            return Ok(false);
        }
    }
    let more = file.read(&mut [0; 1]).map_err(FilesError::io(from))?;
    if more > 0 {
        return Err(FilesError::Changed(from.to_owned()));
    }
    let hash = ContentHash(*hasher.finalize().as_bytes());
    Ok(out.blocking_send(Piece::End { hash }).is_ok())
}

/// Opens a file, not a link that has taken its place, and never waits for a pipe.
fn open(from: &Path) -> Result<File, FilesError> {
    let flags = rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK | rustix::fs::OFlags::CLOEXEC;
    let flags = i32::try_from(flags.bits()).map_err(|e| FilesError::io(from)(io::Error::other(e)))?;
    let is_link = |e: &io::Error| e.raw_os_error() == Some(rustix::io::Errno::LOOP.raw_os_error());
    let file = OpenOptions::new().read(true).custom_flags(flags).open(from).map_err(|e| match e.kind() {
        io::ErrorKind::NotFound => FilesError::Vanished(from.to_owned()),
        _ if is_link(&e) => FilesError::Changed(from.to_owned()),
        _ => FilesError::io(from)(e),
    })?;
    let meta = file.metadata().map_err(FilesError::io(from))?;
    if meta.is_file() { Ok(file) } else { Err(FilesError::Changed(from.to_owned())) }
}

/// Spreads frames over time.
struct Pace {
    window: Instant,
    frames: u32,
}

impl Pace {
    fn new() -> Self {
        Self { window: Instant::now(), frames: 0 }
    }

    async fn wait(&mut self) {
        let slice = Duration::from_millis(100);
        if self.frames >= FRAMES_PER_SECOND_MAX / 10 {
            sleep_until(self.window + slice).await;
        }
        if self.window.elapsed() >= slice {
            *self = Self::new();
        }
        self.frames = self.frames.saturating_add(1);
    }
}
