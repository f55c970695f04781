//! A job with a live session, from its display to its end.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use muster_core::lease::End;
use muster_core::live::SessionSpec;
use muster_stream::control::FromStream;
use muster_wire::message::clip_sentence;
use muster_wire::message::stdio::Stream;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use super::streamer::{DRAW_WITHIN, Streamer};
use super::workplace::{Workplace, sentence};
use crate::ends::end_of;
use crate::sandbox::{JobEnd, RunningJob};

/// How much of what a job wrote last is told.
const TAIL_LEN_MAX: usize = 400;
/// The streaming program has the first word on what was not drawn.
const WORD_WITHIN: Duration = Duration::from_secs(2);
/// A display that is gone takes the streaming program with it: whether the job went first shows within this.
const END_WITHIN: Duration = Duration::from_secs(1);
/// How long what a job wrote last may be on its way.
const TAIL_WITHIN: Duration = Duration::from_millis(500);

/// The end of what a job has written, for sentences.
#[derive(Debug, Default)]
pub(super) struct Tail {
    out: OneTail,
    err: OneTail,
}

#[derive(Debug, Default)]
struct OneTail {
    bytes: Mutex<VecDeque<u8>>,
    ended: CancellationToken,
}

impl Tail {
    const fn of(&self, stream: Stream) -> &OneTail {
        match stream {
            Stream::Out => &self.out,
            Stream::Err => &self.err,
        }
    }

    pub(super) fn take(&self, stream: Stream, bytes: &[u8]) {
        // Bytes are all there is, so one that panicked left nothing wrong.
        let mut kept = self.of(stream).bytes.lock().unwrap_or_else(PoisonError::into_inner);
        kept.extend(bytes.iter().skip(bytes.len().saturating_sub(TAIL_LEN_MAX)));
        let surplus = kept.len().saturating_sub(TAIL_LEN_MAX);
        kept.drain(..surplus);
    }

    /// The stream is over.
    pub(super) fn end(&self, stream: Stream) {
        self.of(stream).ended.cancel();
    }

    /// What came last on standard error, or else on standard output; on one line.
    fn text(&self) -> String {
        let text = |one: &OneTail| {
            let bytes: Vec<u8> = one.bytes.lock().unwrap_or_else(PoisonError::into_inner).iter().copied().collect();
            String::from_utf8_lossy(&bytes).split_whitespace().collect::<Vec<_>>().join(" ")
        };
        let err = text(&self.err);
        if err.is_empty() { text(&self.out) } else { err }
    }

    /// A sentence, and behind it what was written last. With `all`, waits until both streams are over.
    async fn behind(&self, sentence: &str, all: bool) -> String {
        if all {
            let both = async { tokio::join!(self.out.ended.cancelled(), self.err.ended.cancelled()) };
            // What comes later is in the log.
            drop(timeout(TAIL_WITHIN, both).await);
        }
        let text = self.text();
        let last = if text.is_empty() { "it wrote nothing".to_owned() } else { format!("the last it wrote: {text}") };
        clip_sentence(&format!("{sentence}; {last}"))
    }
}

/// Why a session is not followed any more.
enum Over {
    /// The job ended.
    Job(JobEnd),
    /// The lease did.
    Killed,
    /// The Container ends it like this.
    Ended(End),
}

impl Workplace {
    /// Streams a job whose display is up until it is over. It counts as started once it has drawn something.
    pub(super) async fn play(&self, mut job: RunningJob, session: &SessionSpec) -> (End, Option<String>) {
        let started = match job.display.take() {
            Some(ends) => Streamer::start(&self.shop.stage, &self.shop.sandbox, self.lease(), session, ends).await,
            None => return (End::Interrupted("the sandbox gave the session no display".to_owned()), None),
        };
        let mut streamer = match started {
            Ok(streamer) => streamer,
            Err(error) => return (End::Interrupted(clip_sentence(&sentence(&error))), None),
        };
        self.live.open(streamer.sender());
        let mut drawn = false;
        let over = self.follow(&job, &mut streamer, &mut drawn).await;
        let (end, line) = self.judge(over, drawn).await;
        let text = if matches!(end, End::Interrupted(_)) && self.kill.is_cancelled() {
            "the session was ended".to_owned()
        } else {
            end.to_string()
        };
        // Players first: the display below them goes with the job.
        let gone = async {
            job.kill("the lease ended");
            job.wait().await
        };
        let (ended, ()) = tokio::join!(gone, streamer.end(text));
        match ended {
            // It came to its own end while the axe was falling.
            JobEnd::Exited { .. } if drawn && self.kill.is_cancelled() => end_of(ended),
            _ => (end, line),
        }
    }

    async fn follow(&self, job: &RunningJob, streamer: &mut Streamer, drawn: &mut bool) -> Over {
        let draw_by = Instant::now() + DRAW_WITHIN + WORD_WITHIN;
        let mut ready = false;
        loop {
            tokio::select! {
                biased;
                () = self.kill.cancelled() => return Over::Killed,
                end = job.wait() => return Over::Job(end),
                heard = streamer.next() => match self.heard(heard, ready, drawn).await {
                    Ok(now_ready) => ready |= now_ready,
                    // Without its display the streaming program ends at once; the job's own end says more.
                    Err(end) => return timeout(END_WITHIN, job.wait()).await.map_or(Over::Ended(end), Over::Job),
                },
                () = sleep_until(draw_by), if !*drawn => return Over::Ended(self.never_drew().await),
            }
        }
    }

    /// Takes in what the streaming program says; `true` when it is ready.
    async fn heard(&self, heard: Option<FromStream>, ready: bool, drawn: &mut bool) -> Result<bool, End> {
        let Some(message) = heard else {
            return Err(End::Interrupted("the program that streams the session ended".to_owned()));
        };
        let end = match &message {
            FromStream::Drawing if !*drawn => {
                *drawn = true;
                self.report_started().await;
                None
            }
            FromStream::Idle { .. } => Some(End::Idle),
            // The display was up, and what should have drawn on it did not.
            FromStream::Failed { why } if ready && !*drawn => {
                Some(End::FailedToStart(self.tail.behind(why, false).await))
            }
            FromStream::Failed { why } => {
                Some(End::Interrupted(clip_sentence(&format!("the session could not be streamed: {why}"))))
            }
            _ => None,
        };
        let is_ready = matches!(message, FromStream::Ready { .. });
        self.live.hear(message);
        end.map_or(Ok(is_ready), Err)
    }

    async fn never_drew(&self) -> End {
        let sentence = format!("the program drew nothing within {} s", DRAW_WITHIN.as_secs());
        End::FailedToStart(self.tail.behind(&sentence, false).await)
    }

    async fn judge(&self, over: Over, drawn: bool) -> (End, Option<String>) {
        match over {
            Over::Killed => (End::Interrupted("the lease ended".to_owned()), None),
            Over::Ended(end) => (end, None),
            Over::Job(end @ (JobEnd::Exited { .. } | JobEnd::Signaled { .. } | JobEnd::CompanionEnded { .. }))
                if !drawn =>
            {
                let how = match &end {
                    JobEnd::Exited { code } => format!("the program ended with exit code {code}"),
                    other => other.to_string(),
                };
                let sentence = format!("{how} before it had drawn anything");
                (End::FailedToStart(self.tail.behind(&sentence, true).await), None)
            }
            Over::Job(end) => end_of(end),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_end_of_the_output_stands_behind_the_sentence() {
        let tail = Tail::default();
        assert_eq!(tail.behind("It ended", false).await, "It ended; it wrote nothing");
        tail.take(Stream::Out, b"out");
        assert_eq!(tail.behind("It ended", false).await, "It ended; the last it wrote: out");
        tail.take(Stream::Err, "x".repeat(10_000).as_bytes());
        tail.take(Stream::Err, b"\nno\nscreen\n");
        tail.end(Stream::Err);
        tail.end(Stream::Out);
        let text = tail.behind("It ended", true).await;
        assert!(text.ends_with("x no screen") && text.len() < 450, "{text}");
    }
}
