//! Sound both ways: what the program plays, as Opus on its way to the players, and a player's voice to the program.
//!
//! Both come and go through pipes that the Sandbox's sound server has at its other end. Such a server may write by a clock
//! of its own or as fast as it is read, may stop, and may start again; neither the picture nor the players ever wait for it.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::TryRecvError;
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::{FileType, Mode, OFlags, fstat, open};
use rustix::io::Errno;
use rustix::pipe::fcntl_setpipe_size;

use crate::wake::{Receiver, Sender, Unsent, wait};

/// Samples a second.
pub(crate) const RATE: u32 = 48_000;
/// Two channels of two bytes.
const SAMPLE_BYTES: usize = 4;
const FRAME: Duration = Duration::from_millis(10);
/// Samples of a frame, in each channel.
const FRAME_SAMPLES: usize = 480;
const FRAME_BYTES: usize = FRAME_SAMPLES * SAMPLE_BYTES;
/// Bytes that may wait in a pipe: 43 ms, which is two of the steps in which sound servers write.
const PIPE_BYTES: usize = 8_192;
/// Sound that is older than this is left out: it would never be in step again.
const LATE: Duration = Duration::from_millis(60);
/// Times of sound that fall so far behind begin anew.
const BEHIND: Duration = Duration::from_millis(40);
/// Sound that comes before its time waits this long before its turn; a server that has no clock is held to this one.
const EARLY: Duration = Duration::from_millis(20);
/// After so much of nothing, nothing is sent.
const SILENT_FRAMES: u32 = 100;
/// How often a pipe is looked for that is not there.
const LOOK_EVERY: Duration = Duration::from_millis(250);
const BPS: i32 = 96_000;
/// The longest packet of Opus that is sent.
const PACKET_MAX: usize = 1_275;
/// The longest that is taken, and samples in it: Opus knows none longer than 120 ms.
const VOICE_MAX: usize = 1_500;
const VOICE_SAMPLES: usize = 5_760;
/// A player who is silent for so long leaves the microphone to others.
const VOICE_HELD: Duration = Duration::from_secs(1);

/// Ten milliseconds of sound on their way.
#[derive(Clone, Debug)]
pub(crate) struct Packet {
    pub(crate) bytes: Arc<[u8]>,
    /// When it was heard.
    pub(crate) at: Instant,
    /// Whether nothing was sent before it.
    pub(crate) first: bool,
}

/// A pipe, if one is there. Nothing else at its place is opened for reading or writing: the Sandbox made it.
fn open_pipe(path: &Path, how: OFlags) -> io::Result<OwnedFd> {
    let flags = how | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NOCTTY;
    let pipe = open(path, flags, Mode::empty())?;
    if FileType::from_raw_mode(fstat(&pipe)?.st_mode) != FileType::Fifo {
        return Err(io::Error::other("it is no pipe"));
    }
    // One that holds more already, or may not be changed, only makes the sound later.
    if let Err(error) = fcntl_setpipe_size(&pipe, PIPE_BYTES) {
        tracing::debug!(%error, "a pipe keeps its size");
    }
    Ok(pipe)
}

/// The program's sound.
pub(crate) struct Ear {
    path: PathBuf,
    encoder: opus::Encoder,
    /// Whether anybody is there who could hear it.
    wanted: Arc<AtomicBool>,
    out: Sender<Packet>,
    told: bool,
}

impl std::fmt::Debug for Ear {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ear").field("path", &self.path).finish_non_exhaustive()
    }
}

impl Ear {
    pub(crate) fn new(path: PathBuf, wanted: Arc<AtomicBool>, out: Sender<Packet>) -> Result<Self, opus::Error> {
        let mut encoder = opus::Encoder::new(RATE, opus::Channels::Stereo, opus::Application::LowDelay)?;
        encoder.set_bitrate(opus::Bitrate::Bits(BPS))?;
        encoder.set_complexity(5)?;
        Ok(Self { path, encoder, wanted, out, told: false })
    }

    /// Works until nobody takes its packets.
    pub(crate) fn run(mut self) {
        loop {
            // Open for both, so that it stays open while no server writes.
            match open_pipe(&self.path, OFlags::RDWR) {
                Ok(pipe) => match self.listen(&pipe) {
                    Ok(()) => return,
                    Err(error) => tracing::warn!(%error, "the sound's pipe breaks; it is opened anew"),
                },
                Err(error) if !std::mem::replace(&mut self.told, true) => {
                    tracing::debug!(path = %self.path.display(), %error, "the sound's pipe is not there yet");
                }
                Err(_) => {}
            }
            thread::sleep(LOOK_EVERY);
        }
    }

    fn listen(&mut self, pipe: &OwnedFd) -> io::Result<()> {
        let mut clock = Clock::default();
        let (mut bytes, mut filled) = ([0; PIPE_BYTES + FRAME_BYTES], 0);
        let mut packet = [0; PACKET_MAX];
        let mut silent = SILENT_FRAMES;
        loop {
            if let Some(pause) = clock.early(Instant::now()) {
                thread::sleep(pause);
            }
            wait([pipe.as_fd()], None)?;
            let room = bytes.get_mut(filled..).unwrap_or_default();
            filled += match rustix::io::read(pipe, room) {
                Ok(count) => count,
                Err(Errno::AGAIN | Errno::INTR) => 0,
                Err(error) => return Err(error.into()),
            };
            let now = Instant::now();
            let frames = filled / FRAME_BYTES;
            for (at, frame) in bytes.chunks_exact(FRAME_BYTES).take(frames).enumerate() {
                let left = u32::try_from(frames - at).unwrap_or(1);
                let (time, joins) = clock.place(now, FRAME * left);
                let Some(time) = time else { continue };
                silent = if frame.iter().all(|byte| *byte == 0) { silent.saturating_add(1) } else { 0 };
                if silent >= SILENT_FRAMES || !self.wanted.load(Ordering::Relaxed) {
                    clock.hushed = true;
                    continue;
                }
                let first = std::mem::take(&mut clock.hushed) || !joins;
                let mut samples = [0i16; FRAME_SAMPLES * 2];
                for (sample, bytes) in samples.iter_mut().zip(frame.as_chunks::<2>().0) {
                    *sample = i16::from_le_bytes(*bytes);
                }
                match self.encoder.encode(&samples, &mut packet) {
                    Ok(length) => {
                        let bytes = packet.get(..length).unwrap_or_default().into();
                        if self.out.send(Packet { bytes, at: time, first }) == Err(Unsent::Gone) {
                            return Ok(());
                        }
                    }
                    Err(error) => tracing::warn!(%error, "a frame of sound is left out"),
                }
            }
            bytes.copy_within(frames * FRAME_BYTES..filled, 0);
            filled -= frames * FRAME_BYTES;
        }
    }
}

/// Gives each frame its time: one after another, until they are too far from the clock of the machine.
#[derive(Debug)]
struct Clock {
    next: Option<Instant>,
    /// Nothing was sent for the frame before.
    hushed: bool,
}

impl Default for Clock {
    fn default() -> Self {
        Self { next: None, hushed: true }
    }
}

impl Clock {
    /// How long to let the pipe wait, because what is in it comes before its time.
    fn early(&self, now: Instant) -> Option<Duration> {
        let ahead = self.next?.checked_duration_since(now)?;
        ahead.checked_sub(EARLY).filter(|pause| !pause.is_zero())
    }

    /// The time of a frame that was read at `now`, when so much was there with it; nothing for one that is left out. And
    /// whether it follows the one before it.
    fn place(&mut self, now: Instant, there: Duration) -> (Option<Instant>, bool) {
        // The last of what is there was played just now.
        let heard = now.checked_sub(there).unwrap_or(now);
        // Too late to be in step: left out, and what follows is nearer.
        if there > LATE {
            self.next = None;
            return (None, false);
        }
        let (at, joins) = match self.next {
            // More than a server with a clock can have played since.
            Some(next) if next > now + EARLY * 2 => return (None, true),
            // Otherwise the server was late, or has stopped in between.
            Some(next) if next + BEHIND >= heard => (next, true),
            Some(_) | None => (heard, false),
        };
        self.next = Some(at + FRAME);
        (Some(at), joins)
    }
}

/// A player's voice, as it came.
#[derive(Clone, Debug)]
pub(crate) struct Voice {
    pub(crate) player: u64,
    pub(crate) bytes: Arc<[u8]>,
}

/// The program's microphone.
pub(crate) struct Mouth {
    path: PathBuf,
    voices: Receiver<Voice>,
    pipe: Option<OwnedFd>,
    looked: Option<Instant>,
    /// Whose voice it is, and until when.
    holder: Option<(u64, Instant, opus::Decoder)>,
}

impl std::fmt::Debug for Mouth {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Mouth").field("path", &self.path).finish_non_exhaustive()
    }
}

impl Mouth {
    pub(crate) fn new(path: PathBuf, voices: Receiver<Voice>) -> Self {
        Self { path, voices, pipe: None, looked: None, holder: None }
    }

    /// Works until nobody has a voice any more.
    pub(crate) fn run(mut self) {
        loop {
            self.voices.quiet();
            loop {
                match self.voices.next() {
                    Ok(voice) => self.say(&voice, Instant::now()),
                    Err(TryRecvError::Empty) => break,
                    Err(TryRecvError::Disconnected) => return,
                }
            }
            if let Err(error) = wait([self.voices.as_fd()], None) {
                tracing::warn!(%error, "the microphone ends");
                return;
            }
        }
    }

    /// One speaks at a time; words of others in between would be noise.
    fn say(&mut self, voice: &Voice, now: Instant) {
        if voice.bytes.is_empty() || voice.bytes.len() > VOICE_MAX {
            return;
        }
        match &mut self.holder {
            Some((player, until, _)) if *player == voice.player => *until = now + VOICE_HELD,
            Some((_, until, _)) if now < *until => return,
            _ => match opus::Decoder::new(RATE, opus::Channels::Stereo) {
                Ok(decoder) => self.holder = Some((voice.player, now + VOICE_HELD, decoder)),
                Err(error) => return tracing::warn!(%error, "the microphone has no decoder"),
            },
        }
        let mut samples = [0i16; VOICE_SAMPLES * 2];
        let Some((_, _, decoder)) = &mut self.holder else { return };
        let Ok(count) = decoder.decode(&voice.bytes, &mut samples, false) else { return };
        let bytes: Vec<u8> = samples.iter().take(count * 2).flat_map(|sample| sample.to_le_bytes()).collect();
        self.write(&bytes, now);
    }

    /// Writes it if anybody reads; what a reader has no room for is lost, like words into a microphone that is off.
    fn write(&mut self, bytes: &[u8], now: Instant) {
        if self.pipe.is_none() && self.looked.is_none_or(|looked| now >= looked + LOOK_EVERY) {
            self.looked = Some(now);
            self.pipe = open_pipe(&self.path, OFlags::WRONLY).ok();
        }
        let Some(pipe) = &self.pipe else { return };
        // Parts that a pipe takes whole or not at all, so that no sample is ever cut.
        for part in bytes.chunks(FRAME_BYTES * 2) {
            match rustix::io::write(pipe, part) {
                Ok(_) => {}
                Err(Errno::AGAIN | Errno::INTR) => return,
                Err(_) => {
                    self.pipe = None;
                    return;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_follow_one_another_and_keep_to_the_clock() {
        let begin = Instant::now() + Duration::from_secs(10);
        let mut clock = Clock::default();
        let ms = Duration::from_millis;
        // Two frames at once, every 20 ms, sometimes 15 ms late: no gap, no jump.
        let mut last = None;
        for step in 0..100u64 {
            let now = begin + ms(step * 20 + if step % 7 == 3 { 15 } else { 0 });
            for left in [2, 1] {
                let (at, joins) = clock.place(now, FRAME * left);
                let at = at.unwrap();
                assert_eq!(joins, last.is_some());
                assert!(last.is_none_or(|last| at == last + FRAME));
                assert!(at <= now && at + LATE >= now);
                last = Some(at);
            }
        }
    }

    #[test]
    fn after_a_pause_time_goes_on_where_it_is() {
        let begin = Instant::now() + Duration::from_secs(10);
        let mut clock = Clock::default();
        clock.place(begin, FRAME);
        let later = begin + Duration::from_secs(3);
        assert_eq!(clock.place(later, FRAME), (Some(later - FRAME), false));
        assert_eq!(clock.place(later + FRAME, FRAME), (Some(later), true));
    }

    #[test]
    fn a_server_without_a_clock_is_held_to_ours() {
        let begin = Instant::now() + Duration::from_secs(10);
        let (mut clock, mut now, mut frames) = (Clock::default(), begin, 0u32);
        // Always four frames there, at once.
        while now < begin + Duration::from_secs(1) {
            if let Some(pause) = clock.early(now) {
                now += pause;
            }
            for left in [4, 3, 2, 1] {
                if let (Some(at), _) = clock.place(now, FRAME * left) {
                    assert!(at + LATE >= now && at <= now + EARLY * 3, "{:?}", at.checked_duration_since(now));
                    frames += 1;
                }
            }
        }
        assert!((95..=115).contains(&frames), "{frames}");
    }

    #[test]
    fn what_is_too_old_is_left_out() {
        let begin = Instant::now() + Duration::from_secs(10);
        let mut clock = Clock::default();
        let times: Vec<_> = (1..=20u32).rev().map(|left| clock.place(begin, FRAME * left).0).collect();
        assert_eq!(times.iter().flatten().count(), 6);
        assert_eq!(times.last(), Some(&Some(begin - FRAME)));
    }
}
