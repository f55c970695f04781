//! What becomes of a deployment, line by line: what is done for it, and what its engines say. The oldest lines are
//! forgotten.

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use serde::Serialize;
use tokio::io::AsyncWrite;
use utoipa::ToSchema;

use crate::sessions::now_ms;

/// Lines that are kept of a deployment.
const LINES_MAX: usize = 1_000;
/// Bytes of a line.
const LINE_BYTES_MAX: usize = 1_024;

/// Who says a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Speaker {
    /// The Gateway.
    Gateway,
    /// The engine of a replica.
    Engine,
}

/// A line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub(crate) struct LogLine {
    /// Grows by one with each line.
    pub(crate) number: u64,
    /// Milliseconds since 1970.
    pub(crate) at_ms: u64,
    /// Which replica, by its number.
    pub(crate) replica: Option<u64>,
    pub(crate) from: Speaker,
    pub(crate) text: String,
}

/// The lines of a deployment. Clones share them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Log(Arc<Mutex<Lines>>);

#[derive(Debug, Default)]
struct Lines {
    kept: VecDeque<LogLine>,
    next: u64,
}

impl Log {
    fn lock(&self) -> MutexGuard<'_, Lines> {
        // A panic in between loses a line at most.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a line that the Gateway says.
    pub(crate) fn say(&self, replica: Option<u64>, text: &str) {
        self.add(replica, Speaker::Gateway, text.as_bytes());
    }

    fn add(&self, replica: Option<u64>, from: Speaker, bytes: &[u8]) {
        let text = String::from_utf8_lossy(bytes.get(..bytes.len().min(LINE_BYTES_MAX)).unwrap_or_default());
        // What a stranger's machine says must not move the cursor of whoever reads it.
        let text: String = text.chars().map(|c| if c.is_control() && c != '\t' { '\u{fffd}' } else { c }).collect();
        let mut lines = self.lock();
        let number = lines.next;
        lines.next += 1;
        lines.kept.push_back(LogLine { number, at_ms: now_ms(), replica, from, text });
        if lines.kept.len() > LINES_MAX {
            lines.kept.pop_front();
        }
    }

    /// The lines from this number on.
    pub(crate) fn from(&self, number: u64) -> Vec<LogLine> {
        self.lock().kept.iter().filter(|line| line.number >= number).cloned().collect()
    }

    /// Takes what the engine of a replica writes.
    pub(crate) fn engine(&self, replica: u64) -> EngineLines {
        EngineLines { log: self.clone(), replica, begun: Vec::new() }
    }
}

/// Cuts what an engine writes into lines.
#[derive(Debug)]
pub(crate) struct EngineLines {
    log: Log,
    replica: u64,
    /// A line without its end.
    begun: Vec<u8>,
}

impl EngineLines {
    fn end_line(&mut self) {
        let line = std::mem::take(&mut self.begun);
        let line = line.trim_ascii_end();
        if !line.is_empty() {
            self.log.add(Some(self.replica), Speaker::Engine, line);
        }
    }
}

impl AsyncWrite for EngineLines {
    fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        for byte in bytes {
            if *byte == b'\n' {
                self.end_line();
            } else if self.begun.len() < LINE_BYTES_MAX {
                self.begun.push(*byte);
            }
        }
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.end_line();
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;

    use super::*;

    fn texts(log: &Log) -> Vec<String> {
        log.from(0).into_iter().map(|line| line.text).collect()
    }

    #[tokio::test]
    async fn engines_speak_in_lines_and_move_no_cursor() {
        let log = Log::default();
        let mut engine = log.engine(3);
        engine.write_all(b"one\ntw").await.unwrap();
        log.say(None, "between");
        engine.write_all(b"o\r\n\n\x1b[2Jthree \xff").await.unwrap();
        engine.shutdown().await.unwrap();
        assert_eq!(texts(&log), ["one", "between", "two", "\u{fffd}[2Jthree \u{fffd}"]);
        let last = log.from(3);
        assert_eq!((last.len(), last[0].replica, last[0].from), (1, Some(3), Speaker::Engine));
    }

    #[tokio::test]
    async fn memory_has_a_bound() {
        let log = Log::default();
        let mut engine = log.engine(1);
        engine.write_all(&vec![b'x'; 10 * LINE_BYTES_MAX]).await.unwrap();
        engine.shutdown().await.unwrap();
        assert_eq!(texts(&log)[0].len(), LINE_BYTES_MAX);
        for _ in 0..2 * LINES_MAX {
            log.say(None, "again");
        }
        let kept = log.from(0);
        assert_eq!((kept.len(), kept[0].number), (LINES_MAX, u64::try_from(LINES_MAX).unwrap() + 1));
    }
}
