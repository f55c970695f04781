//! The child process: reads its configuration, opens the display, streams until its parent's line ends.

use std::io::{self, BufRead, Write};
use std::net::UdpSocket;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::thread;
use std::time::{Duration, Instant};

use crate::aside::Aside;
use crate::control::{FromStream, LINE_BYTES_MAX, StreamConfig, ToStream};
use crate::desk::{Desk, Lines};
use crate::display::{Display, DisplayError, XDisplay};
use crate::input::Hands;
use crate::sound::{Ear, Mouth};
use crate::studio::Studio;
use crate::wake::{self, Sender};

/// How long the display's server may take to open its socket.
const DISPLAY_WITHIN: Duration = Duration::from_secs(10);
const LOOK_PAUSE: Duration = Duration::from_millis(5);
/// Frames that may wait for the network; more, and the encoder begins anew.
const FRAMES_MAX: usize = 16;
const ORDERS_MAX: usize = 256;
/// Threads that may work on one picture: beyond these, the bits that more slices cost are worth more than the time they save.
const ENCODERS_MAX: usize = 4;
/// Clipboards that wait to be put there, and pointers and clipboards that wait to be told: the bound of their memory.
const WISHES_MAX: usize = 16;
const SEEN_MAX: usize = 16;
/// Packets of sound that may wait, each way; 10 or 20 ms are in each.
const SOUND_MAX: usize = 16;

/// Body of the child: reads its configuration from standard input, streams until its input ends.
///
/// # Errors
/// Standard input or output is gone.
pub fn stream_main() -> io::Result<()> {
    // The parent may be gone already; then the first line is the last.
    let mut lines = io::stdin().lock();
    let Some(config) = read_line::<StreamConfig>(&mut lines)? else { return Ok(()) };
    drop(lines);
    if let Err(why) = stream(config) {
        tell(FromStream::Failed { why })?;
    }
    Ok(())
}

fn stream(config: StreamConfig) -> Result<(), String> {
    str0m::crypto::from_feature_flags().install_process_default();
    // The library gathers randomness for a while before its first use; that is done before a player waits for it.
    let warm = thread::Builder::new().name("muster-warm".into()).spawn(|| drop(str0m::Rtc::new(Instant::now())));
    warm.map_err(|e| e.to_string())?;
    let sentence = |e: &dyn std::fmt::Display| e.to_string();
    let display = open(&config.display_socket).map_err(|e| sentence(&e))?;
    let hands = Hands::open(&config.display_socket, config.keyboard, &config.gamepads).map_err(|e| sentence(&e))?;
    let socket = UdpSocket::bind(config.bind)
        .map_err(|e| format!("cannot listen for players on {}: {e}; choose another address", config.bind))?;
    let listens = socket.local_addr().map_err(|e| sentence(&e))?;
    let (order, orders) = wake::channel(ORDERS_MAX).map_err(|e| sentence(&e))?;
    let (make, made) = wake::channel(FRAMES_MAX).map_err(|e| sentence(&e))?;
    let (from_parent, parent_in) = wake::channel(ORDERS_MAX).map_err(|e| sentence(&e))?;
    let (wish, wishes) = wake::channel(WISHES_MAX).map_err(|e| sentence(&e))?;
    let (see, seen) = wake::channel(SEEN_MAX).map_err(|e| sentence(&e))?;
    let aside = Aside::open(&config.display_socket, wishes, see).map_err(|e| sentence(&e))?;
    thread::Builder::new().name("muster-aside".into()).spawn(|| aside.run()).map_err(|e| sentence(&e))?;
    let listened = Arc::new(AtomicBool::new(false));
    let (hear, heard) = wake::channel(SOUND_MAX).map_err(|e| sentence(&e))?;
    if let Some(path) = config.sound_pipe.clone() {
        let ear = Ear::new(path, Arc::clone(&listened), hear).map_err(|e| format!("cannot encode sound: {e}"))?;
        thread::Builder::new().name("muster-ear".into()).spawn(|| ear.run()).map_err(|e| sentence(&e))?;
    }
    let voices = match config.microphone_pipe.clone() {
        Some(path) => {
            let (speak, voices) = wake::channel(SOUND_MAX).map_err(|e| sentence(&e))?;
            let mouth = Mouth::new(path, voices);
            thread::Builder::new().name("muster-mouth".into()).spawn(|| mouth.run()).map_err(|e| sentence(&e))?;
            Some(speak)
        }
        None => None,
    };
    let studio = Studio::new(Box::new(display), config.fps, orders, make).map_err(|e| sentence(&e))?;
    // The encoder finds the others of the pool when it has work for them.
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(thread::available_parallelism().map_or(1, usize::from).min(ENCODERS_MAX))
        .thread_name(|_| "muster-studio".to_owned())
        .build()
        .map_err(|e| sentence(&e))?;
    pool.spawn(|| studio.run());
    thread::Builder::new()
        .name("muster-parent".into())
        .spawn(move || listen(&from_parent))
        .map_err(|e| sentence(&e))?;
    let lines =
        Lines { made, orders: order, seen, wishes: wish, heard, listened, voices, parent_in, parent: Box::new(tell) };
    let mut desk = Desk::new(config, socket, hands, lines).map_err(|e| sentence(&e))?;
    tell(FromStream::Ready { listens }).map_err(|e| sentence(&e))?;
    desk.run().map_err(|e| sentence(&e))
}

/// Opens the display once its server is there.
fn open(socket: &Path) -> Result<impl Display + use<>, DisplayError> {
    let begin = Instant::now();
    loop {
        match XDisplay::open(socket) {
            Err(DisplayError::Connect { .. }) if begin.elapsed() < DISPLAY_WITHIN => thread::sleep(LOOK_PAUSE),
            opened => return opened,
        }
    }
}

/// Reads what the parent says, until it says nothing more.
fn listen(to: &Sender<Option<ToStream>>) {
    let mut lines = io::stdin().lock();
    loop {
        let line = read_line::<ToStream>(&mut lines);
        let last = !matches!(line, Ok(Some(_)));
        if let Err(error) = &line {
            tracing::warn!(%error, "the Container's line ends");
        }
        // A full queue means a desk that has stopped working: its parent sees that itself.
        if to.send(line.ok().flatten()).is_err() || last {
            return;
        }
    }
}

/// One line, read to its end and understood; `None` at the end of everything.
fn read_line<T: serde::de::DeserializeOwned>(from: &mut impl BufRead) -> io::Result<Option<T>> {
    let mut line = Vec::new();
    let limit = u64::try_from(LINE_BYTES_MAX).unwrap_or(u64::MAX);
    io::Read::take(&mut *from, limit).read_until(b'\n', &mut line)?;
    if line.last() != Some(&b'\n') {
        return if line.is_empty() { Ok(None) } else { Err(io::Error::other("a line is cut off or too long")) };
    }
    serde_json::from_slice(&line).map(Some).map_err(io::Error::other)
}

fn tell(what: FromStream) -> io::Result<()> {
    let mut line = serde_json::to_vec(&what)?;
    line.push(b'\n');
    let mut out = io::stdout().lock();
    out.write_all(&line)?;
    out.flush()
}
