//! The child process that streams one session: started, spoken to in lines of JSON, and ended with its job.

use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use muster_core::ids::LeaseId;
use muster_core::live::{KeyboardUse, SessionSpec};
use muster_stream::control::{FromStream, Gamepads, Keyboard, LINE_BYTES_MAX, StreamConfig, ToStream};
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, ChildStdin, Command};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tracing::{debug, info, warn};

use crate::sandbox::{DisplayEnds, Sandbox, SandboxError};

/// Messages that may wait for the child, and from it.
const LINES_MAX: usize = 64;
/// How long the child may take to say goodbye to its players.
const GOODBYE_WITHIN: Duration = Duration::from_millis(300);
/// How much of one line of the child's complaints is logged.
const COMPLAINT_LEN_MAX: u64 = 4 * 1024;

/// Within this something must be drawn.
pub(super) const DRAW_WITHIN: Duration = Duration::from_secs(10);
/// After this without input players are warned, and after as much again the session ends.
const IDLE_AFTER: Duration = Duration::from_secs(5 * 60);

/// What all sessions of a Container share.
#[derive(Clone, Debug)]
pub(crate) struct Stage {
    /// The streaming program and its arguments.
    pub(crate) program: Vec<PathBuf>,
    /// Where sessions listen for players.
    pub(crate) bind: SocketAddr,
    /// The address that players are told, where that is another one.
    pub(crate) public: Option<IpAddr>,
    /// Told to lie ([`StreamConfig::stale`]).
    pub(crate) stale: bool,
}

/// One session's child. Dropping it kills it.
#[derive(Debug)]
pub(super) struct Streamer {
    child: Child,
    to: mpsc::Sender<ToStream>,
    from: mpsc::Receiver<FromStream>,
}

impl Streamer {
    /// Starts the child for a job whose display is up.
    pub(super) async fn start(
        stage: &Stage,
        sandbox: &Sandbox,
        lease: LeaseId,
        session: &SessionSpec,
        ends: DisplayEnds,
    ) -> Result<Self, SandboxError> {
        let config = stream_config(stage, session, &ends);
        let (program, args) = stage.program.split_first().ok_or_else(|| failed("no program is named"))?;
        let mut command = Command::new(program);
        command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        let pipes = [Some(ends.socket), ends.sound, ends.microphone].into_iter().flatten();
        // With the child's end its gamepads are gone: nobody else has them open.
        let inherited = pipes.chain(ends.gamepads).collect();
        let mut child = sandbox.start_beside(command, inherited).await?;
        let (Some(stdin), Some(stdout), Some(stderr)) = (child.stdin.take(), child.stdout.take(), child.stderr.take())
        else {
            return Err(failed("its pipes are missing"));
        };
        let first = serde_json::to_string(&config).map_err(failed)?;
        let (to, outgoing) = mpsc::channel(LINES_MAX);
        let (heard, from) = mpsc::channel(LINES_MAX);
        tokio::spawn(write_lines(stdin, first, outgoing));
        tokio::spawn(read_lines(stdout, lease, heard));
        tokio::spawn(log_lines(stderr, lease));
        Ok(Self { child, to, from })
    }

    /// The way to the child.
    pub(super) fn sender(&self) -> mpsc::Sender<ToStream> {
        self.to.clone()
    }

    /// What the child says next; `None` when it says nothing more. Safe to drop and call again.
    pub(super) async fn next(&mut self) -> Option<FromStream> {
        self.from.recv().await
    }

    /// Lets the child tell its players why it is over, and ends it.
    pub(super) async fn end(mut self, text: String) {
        // A child that takes nothing more has nobody to tell.
        let _ = self.to.try_send(ToStream::End { text });
        let over = async {
            tokio::select! {
                ended = self.child.wait() => drop(ended),
                () = async { while self.from.recv().await.is_some() {} std::future::pending().await } => {}
            }
        };
        if timeout(GOODBYE_WITHIN, over).await.is_err()
            && let Err(error) = self.child.kill().await
        {
            warn!(%error, "a streaming program cannot be ended");
        }
    }
}

fn failed(why: impl ToString) -> SandboxError {
    SandboxError::Setup { step: "start the streaming program", detail: why.to_string() }
}

fn stream_config(stage: &Stage, session: &SessionSpec, ends: &DisplayEnds) -> StreamConfig {
    let path = |fd: &OwnedFd| PathBuf::from(format!("/proc/self/fd/{}", fd.as_raw_fd()));
    StreamConfig {
        display_socket: path(&ends.socket),
        sound_pipe: ends.sound.as_ref().map(path),
        microphone_pipe: ends.microphone.as_ref().map(path),
        gamepads: match ends.gamepads.as_slice() {
            _ if session.gamepads == 0 => Gamepads::Unasked,
            [] => Gamepads::Refused,
            pads => Gamepads::Lent(pads.iter().map(AsRawFd::as_raw_fd).collect()),
        },
        width: session.width,
        height: session.height,
        fps: session.fps,
        layout: session.layout.clone(),
        keyboard: match session.keyboard {
            KeyboardUse::Position => Keyboard::Position,
            KeyboardUse::Text => Keyboard::Text,
        },
        bind: stage.bind,
        public: stage.public,
        draw_within_ms: millis(DRAW_WITHIN),
        idle_after_ms: millis(IDLE_AFTER),
        stale: stage.stale,
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// The child's input ends with this task, and the child with its input.
async fn write_lines(mut stdin: ChildStdin, first: String, mut outgoing: mpsc::Receiver<ToStream>) {
    let mut line = first;
    loop {
        line.push('\n');
        if stdin.write_all(line.as_bytes()).await.is_err() {
            return;
        }
        let Some(message) = outgoing.recv().await else { return };
        line = match serde_json::to_string(&message) {
            Ok(line) => line,
            Err(error) => {
                warn!(%error, "a message to a streaming program cannot be written");
                return;
            }
        };
    }
}

/// Lines of messages; one that is none, or too long, ends the session.
async fn read_lines(stdout: impl AsyncRead + Unpin, lease: LeaseId, heard: mpsc::Sender<FromStream>) {
    let mut lines = BufReader::new(stdout);
    let most = u64::try_from(LINE_BYTES_MAX).unwrap_or(u64::MAX);
    loop {
        let mut line = Vec::new();
        match (&mut lines).take(most).read_until(b'\n', &mut line).await {
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
        match serde_json::from_slice(&line) {
            Ok(message) => {
                if heard.send(message).await.is_err() {
                    return;
                }
            }
            Err(error) => {
                warn!(%lease, %error, "the streaming program says what nobody understands");
                return;
            }
        }
    }
}

async fn log_lines(stderr: impl AsyncRead + Unpin, lease: LeaseId) {
    let mut lines = BufReader::new(stderr);
    loop {
        let mut line = Vec::new();
        match (&mut lines).take(COMPLAINT_LEN_MAX).read_until(b'\n', &mut line).await {
            Ok(0) => return,
            Ok(_) => info!(%lease, line = %String::from_utf8_lossy(&line).trim_end(), "streaming program"),
            Err(error) => {
                debug!(%lease, %error, "the streaming program's complaints cannot be read");
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_child_is_lent_the_gamepads_that_the_program_sees() {
        let stage = Stage { program: Vec::new(), bind: ([127, 0, 0, 1], 0).into(), public: None, stale: false };
        let open = || OwnedFd::from(std::fs::File::open("/dev/null").unwrap());
        let check = |asked: u8, given: usize| {
            let gamepads: Vec<OwnedFd> = (0..given).map(|_| open()).collect();
            let numbers = gamepads.iter().map(AsRawFd::as_raw_fd).collect();
            let ends = DisplayEnds { socket: open(), sound: None, microphone: None, gamepads };
            let session = SessionSpec { gamepads: asked, ..SessionSpec::default() };
            (stream_config(&stage, &session, &ends).gamepads, Gamepads::Lent(numbers))
        };
        assert_eq!(check(0, 0).0, Gamepads::Unasked);
        assert_eq!(check(2, 0).0, Gamepads::Refused);
        let (told, lent) = check(2, 2);
        assert_eq!(told, lent);
    }
}
