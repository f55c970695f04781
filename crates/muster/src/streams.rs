//! What jobs write, shown while they run: one thread prints, so that lines of several tasks never mix and a slow reader
//! holds up nothing but the job that writes.

use std::io::{self, IsTerminal, Write};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::thread::JoinHandle;

use indicatif::ProgressBar;
use tokio::io::AsyncWrite;
use tokio::sync::mpsc;
use tokio_util::sync::PollSender;

/// Pieces that wait to be printed.
const PIECES_MAX: usize = 64;
/// Bytes of one piece.
const PIECE_BYTES_MAX: usize = 64 * 1024;
/// A line that is longer is broken, in bytes.
const LINE_BYTES_MAX: usize = 32 * 1024;

/// Which of this command's own streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum To {
    /// Standard output.
    Out,
    /// Standard error.
    Err,
}

#[derive(Debug)]
struct Piece {
    to: To,
    bytes: Vec<u8>,
}

/// The thread that prints.
#[derive(Debug)]
pub(crate) struct Printer {
    to: mpsc::Sender<Piece>,
    thread: JoinHandle<()>,
}

impl Printer {
    /// Begins to print, beside a progress bar: with `shared`, lines go above it; without, the first byte ends it.
    pub(crate) fn start(bar: ProgressBar, shared: bool) -> Self {
        let (to, pieces) = mpsc::channel(PIECES_MAX);
        let thread = std::thread::spawn(move || print(pieces, &bar, shared));
        Self { to, thread }
    }

    /// For making writers, also while others write.
    pub(crate) fn writers(&self) -> Writers {
        Writers(self.to.clone())
    }

    /// Waits until all that was written is printed. The writers must be gone.
    pub(crate) async fn finish(self) {
        let Self { to, thread } = self;
        drop(to);
        // A panic there has told of itself; the job's result is not lost over it.
        let _ = tokio::task::spawn_blocking(|| thread.join()).await;
    }
}

/// Ends when all writers are gone, or nobody reads any more; writers then get a broken pipe.
fn print(mut pieces: mpsc::Receiver<Piece>, bar: &ProgressBar, shared: bool) {
    let (mut out, mut err) = (io::stdout(), io::stderr());
    let terminals = (out.is_terminal(), err.is_terminal());
    while let Some(Piece { to, bytes }) = pieces.blocking_recv() {
        let (writer, terminal): (&mut dyn Write, bool) = match to {
            To::Out => (&mut out, terminals.0),
            To::Err => (&mut err, terminals.1),
        };
        let mut put = || writer.write_all(&bytes).and_then(|()| writer.flush());
        let done = match (terminal, shared) {
            // What goes elsewhere cannot mix with the bar, and its reader must not hold the bar up.
            (false, _) => put(),
            (true, true) => bar.suspend(put),
            (true, false) => {
                bar.finish_and_clear();
                put()
            }
        };
        if done.is_err() {
            return;
        }
    }
}

/// Makes writers for a printer.
#[derive(Clone, Debug)]
pub(crate) struct Writers(mpsc::Sender<Piece>);

impl Writers {
    /// Bytes as they come.
    pub(crate) fn raw(&self, to: To) -> Raw {
        Raw { to, sender: PollSender::new(self.0.clone()) }
    }

    /// Whole lines, each behind this prefix.
    pub(crate) fn lines(&self, to: To, prefix: String) -> Lines {
        Lines { raw: self.raw(to), prefix: prefix.into_bytes(), held: Vec::new() }
    }
}

/// A job's stream, unchanged.
#[derive(Debug)]
pub(crate) struct Raw {
    to: To,
    sender: PollSender<Piece>,
}

impl Raw {
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.sender.poll_reserve(cx).map_err(|_gone| io::ErrorKind::BrokenPipe.into())
    }

    /// After [`Raw::poll_ready`].
    fn send(&mut self, bytes: Vec<u8>) -> io::Result<()> {
        self.sender.send_item(Piece { to: self.to, bytes }).map_err(|_gone| io::ErrorKind::BrokenPipe.into())
    }
}

impl AsyncWrite for Raw {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        ready!(this.poll_ready(cx))?;
        let count = bytes.len().min(PIECE_BYTES_MAX);
        Poll::Ready(this.send(bytes.get(..count).unwrap_or_default().to_vec()).map(|()| count))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// A task's stream among others: only whole lines are shown, so that those of several tasks do not mix.
#[derive(Debug)]
pub(crate) struct Lines {
    raw: Raw,
    prefix: Vec<u8>,
    /// The beginning of a line that has not ended yet.
    held: Vec<u8>,
}

impl Lines {
    /// Whatever of `held` makes whole lines, each with its prefix; with `all`, also the rest.
    fn take(&mut self, all: bool) -> Vec<u8> {
        let mut whole = Vec::new();
        let mut from = 0;
        while let Some(line) = self.held.get(from..).filter(|rest| !rest.is_empty()) {
            let end = line.iter().take(LINE_BYTES_MAX).position(|b| *b == b'\n');
            let (length, ended) = match end {
                Some(at) => (at.saturating_add(1), true),
                None if line.len() >= LINE_BYTES_MAX => (LINE_BYTES_MAX, false),
                None if all => (line.len(), false),
                None => break,
            };
            whole.extend_from_slice(&self.prefix);
            whole.extend_from_slice(line.get(..length).unwrap_or_default());
            if !ended {
                whole.push(b'\n');
            }
            from = from.saturating_add(length);
        }
        self.held.drain(..from.min(self.held.len()));
        whole
    }
}

impl AsyncWrite for Lines {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        ready!(this.raw.poll_ready(cx))?;
        let count = bytes.len().min(PIECE_BYTES_MAX);
        this.held.extend_from_slice(bytes.get(..count).unwrap_or_default());
        let whole = this.take(false);
        if whole.is_empty() {
            this.raw.sender.abort_send();
        } else {
            this.raw.send(whole)?;
        }
        Poll::Ready(Ok(count))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.held.is_empty() {
            return Poll::Ready(Ok(()));
        }
        ready!(this.raw.poll_ready(cx))?;
        let rest = this.take(true);
        Poll::Ready(this.raw.send(rest))
    }
}

impl Drop for Lines {
    /// The last line of a job that did not end it, where nobody shut the stream down: a Container that was lost.
    fn drop(&mut self) {
        let bytes = self.take(true);
        if let Some(sender) = self.raw.sender.get_ref()
            && !bytes.is_empty()
        {
            // A printer that is full or gone shows no more; `muster lease logs` has it.
            let _ = sender.try_send(Piece { to: self.raw.to, bytes });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncWriteExt;

    fn said(pieces: &mut mpsc::Receiver<Piece>) -> Vec<String> {
        std::iter::from_fn(|| pieces.try_recv().ok()).map(|p| String::from_utf8(p.bytes).unwrap()).collect()
    }

    #[tokio::test]
    async fn only_whole_lines_are_shown_each_with_its_task() {
        let (to, mut pieces) = mpsc::channel(PIECES_MAX);
        let writers = Writers(to);
        let mut three = writers.lines(To::Out, " 3 | ".to_owned());
        let mut twelve = writers.lines(To::Err, "12 | ".to_owned());
        three.write_all(b"be").await.unwrap();
        twelve.write_all(b"one\ntwo\nth").await.unwrap();
        assert_eq!(said(&mut pieces), ["12 | one\n12 | two\n"]);
        three.write_all(b"gun\n\n").await.unwrap();
        assert_eq!(said(&mut pieces), [" 3 | begun\n 3 | \n"]);
        twelve.shutdown().await.unwrap();
        assert_eq!(said(&mut pieces), ["12 | th\n"]);
        three.write_all(b"lost").await.unwrap();
        drop((three, twelve));
        assert_eq!(said(&mut pieces), [" 3 | lost\n"]);
    }

    #[tokio::test]
    async fn an_endless_line_is_broken_and_loses_nothing() {
        let (to, mut pieces) = mpsc::channel(PIECES_MAX);
        let mut lines = Writers(to).lines(To::Out, "0 | ".to_owned());
        let long = vec![b'x'; LINE_BYTES_MAX * 2 + 5];
        lines.write_all(&long).await.unwrap();
        lines.write_all(b"\n").await.unwrap();
        let shown = said(&mut pieces).concat();
        assert_eq!(shown.lines().count(), 3);
        assert!(shown.lines().all(|l| l.starts_with("0 | ")));
        assert_eq!(shown.matches('x').count(), long.len());
        assert!(lines.held.is_empty());
    }

    #[tokio::test]
    async fn a_reader_that_is_gone_is_a_broken_pipe() {
        let (to, pieces) = mpsc::channel(1);
        let mut raw = Writers(to).raw(To::Out);
        raw.write_all(b"x").await.unwrap();
        drop(pieces);
        assert_eq!(raw.write_all(b"y").await.unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    }

    /// A full printer holds the writer up; nothing is dropped, nothing grows.
    #[tokio::test]
    async fn a_slow_reader_holds_the_job_up() {
        let (to, mut pieces) = mpsc::channel(1);
        let mut lines = Writers(to).lines(To::Out, String::new());
        let writing = tokio::spawn(async move {
            for i in 0..100 {
                lines.write_all(format!("{i}\n").as_bytes()).await.unwrap();
            }
        });
        let mut all = String::new();
        while let Some(piece) = pieces.recv().await {
            all.push_str(std::str::from_utf8(&piece.bytes).unwrap());
        }
        writing.await.unwrap();
        assert_eq!(all, (0..100).map(|i| format!("{i}\n")).collect::<String>());
    }
}
