//! The thread that turns what a program draws into frames: woken by the display, never by a clock.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::budget::{Budget, Ladder, SIZES};
use crate::code::Shown;
use crate::display::{Display, DisplayError};
use crate::encode::{EncodeError, VideoCodec, VideoEncoder};
use crate::pace::Pace;
use crate::picture::Picture;
use crate::wake::{Receiver, Sender, wait};

/// What it sends in a second before it knows better.
pub(crate) const START_BPS: u32 = 6_000_000;
/// Below this a picture falls apart; what is left is then said in smaller ones.
pub(crate) const BPS_MIN: u32 = 500_000;
/// More than this shows no difference.
pub(crate) const BPS_MAX: u32 = 20_000_000;

/// Two key frames asked for closer than this are one.
const KEY_GAP: Duration = Duration::from_millis(250);
/// A picture that has stood still so long is sent again, finer; then again and again, until the encoder says that it is as
/// fine as it will be, or so often where it does not say.
const REFINE_AFTER: Duration = Duration::from_millis(120);
const REFINE_NEXT: Duration = Duration::from_millis(20);
const REFINE_TIMES: u8 = 3;

/// Looks at the display for one frame, after the first.
const STEPS_MAX: u8 = 3;

/// What the thread is told.
#[derive(Debug)]
pub(crate) enum Order {
    /// A frame that needs none before it; `true` for one that just joined, and is not made to wait.
    Key(bool),
    /// Bits a second.
    Rate(u32),
    /// Send pictures in this form.
    Codec(VideoCodec),
    /// Draw this code.
    Code(u32),
    /// Make a frame that needs none before it for somebody who is on the way, and no other until he is here.
    Prepare,
    /// Whether anybody looks on.
    Watched(bool),
}

/// What the thread has made.
#[derive(Debug)]
pub(crate) enum Made {
    /// The program has drawn something.
    Drawing,
    /// A frame.
    Frame(Frame),
    /// It cannot go on.
    Failed(String),
}

/// A frame on its way.
#[derive(Clone, Debug)]
pub(crate) struct Frame {
    pub(crate) bytes: Vec<u8>,
    pub(crate) codec: VideoCodec,
    pub(crate) key: bool,
    pub(crate) captured: Instant,
    /// Milliseconds since 1970.
    pub(crate) captured_ms: f64,
    pub(crate) encode: Duration,
    pub(crate) width: u16,
    pub(crate) height: u16,
}

/// Why the thread ends.
#[derive(Debug, thiserror::Error)]
enum Trouble {
    #[error(transparent)]
    Display(#[from] DisplayError),
    #[error(transparent)]
    Encode(#[from] EncodeError),
    #[error("cannot wait for the display: {0}")]
    Wait(#[from] std::io::Error),
}

/// A still picture that changes now and then is not given all of a second's bits at once.
const FPS_MIN: f64 = 5.0;
/// How often the encoder is told how many pictures a second it really gets.
const FPS_EVERY: Duration = Duration::from_secs(1);
/// Bits for each pixel and second under which a size is left for a smaller one.
const BITS_PER_PIXEL_MIN: f64 = 0.9;

pub(crate) struct Studio {
    display: Box<dyn Display>,
    orders: Receiver<Order>,
    out: Sender<Made>,
    encoder: Box<dyn VideoEncoder>,
    bps: u32,
    full: Picture,
    small: Option<Picture>,
    pace: Pace,
    budget: Budget,
    ladder: Ladder,
    /// Since when a picture waits for room on its way.
    crowded: Option<Instant>,
    fps: u8,
    /// Pictures since the encoder was last told how many there are.
    pictures: u16,
    counted: Instant,
    shown: Shown,
    watched: bool,
    /// A first picture is wanted for somebody who is on the way.
    prepares: bool,
    drawing: bool,
    key_wanted: bool,
    last_key: Option<Instant>,
    /// Something has changed that was not sent.
    stale: bool,
    last_sent: Instant,
    refinements: u8,
    refine_after: Duration,
}

impl Studio {
    pub(crate) fn new(
        display: Box<dyn Display>,
        fps: u8,
        orders: Receiver<Order>,
        out: Sender<Made>,
    ) -> Result<Self, EncodeError> {
        let (width, height) = display.size();
        let now = Instant::now();
        Ok(Self {
            display,
            orders,
            out,
            encoder: VideoCodec::H264.encoder(fps, START_BPS)?,
            bps: START_BPS,
            full: Picture::new(usize::from(width), usize::from(height)),
            small: None,
            pace: Pace::new(f64::from(fps), now),
            budget: Budget::new(START_BPS, now),
            ladder: Ladder::new(now),
            crowded: None,
            fps,
            pictures: 0,
            counted: now,
            shown: Shown::default(),
            watched: false,
            prepares: false,
            drawing: false,
            key_wanted: true,
            last_key: None,
            stale: true,
            last_sent: now,
            refinements: 0,
            refine_after: REFINE_AFTER,
        })
    }

    /// Works until nobody takes its frames any more.
    pub(crate) fn run(mut self) {
        if let Err(trouble) = self.work() {
            let _ = self.out.send(Made::Failed(trouble.to_string()));
        }
    }

    fn work(&mut self) -> Result<(), Trouble> {
        // What stands on the display already; an empty one is no picture.
        self.look()?;
        loop {
            if !self.take_orders()? {
                return Ok(());
            }
            let changed = self.display.changed()?;
            if changed && !self.drawing {
                self.look()?;
                // What was drawn while it looked is known by now, and the display tells nothing of the same place twice.
                continue;
            }
            let now = Instant::now();
            let pause = if self.wants_frame(changed, now) {
                match self.pause(now) {
                    None => {
                        self.frame(now)?;
                        continue;
                    }
                    pause => pause,
                }
            } else {
                self.next_look(now)
            };
            // While nobody looks on, damage needs no answer once the program draws; it is read when somebody comes.
            if self.watched || !self.drawing {
                wait([self.display.as_fd(), std::os::fd::AsFd::as_fd(&self.orders)], pause)?;
            } else {
                wait([std::os::fd::AsFd::as_fd(&self.orders)], Some(Duration::from_millis(500)))?;
            }
        }
    }

    /// Looks whether the program has drawn anything: a picture of one colour is none yet.
    fn look(&mut self) -> Result<(), Trouble> {
        let mut colours = false;
        let full = &mut self.full;
        self.display.read(true, &mut |area, pixels| {
            let first = pixels.get(..3);
            colours |= pixels.chunks_exact(crate::display::PIXEL_BYTES).any(|pixel| pixel.get(..3) != first);
            full.put(area, pixels);
        })?;
        if colours && !self.drawing {
            self.drawing = true;
            self.stale = true;
            let _ = self.out.send(Made::Drawing);
        }
        Ok(())
    }

    /// `false` once nobody gives orders any more.
    fn take_orders(&mut self) -> Result<bool, EncodeError> {
        self.orders.quiet();
        loop {
            match self.orders.next() {
                Ok(Order::Key(at_once)) => {
                    self.key_wanted = true;
                    if at_once {
                        self.last_key = None;
                    }
                }
                Ok(Order::Rate(bps)) => self.set_rate(bps),
                Ok(Order::Codec(codec)) => self.set_codec(codec)?,
                Ok(Order::Code(code)) => self.shown.ask(code),
                Ok(Order::Prepare) => {
                    if !self.watched {
                        (self.prepares, self.key_wanted, self.last_key) = (true, true, None);
                    }
                }
                Ok(Order::Watched(watched)) => {
                    self.stale |= watched && !self.watched;
                    self.watched = watched;
                    self.prepares = false;
                }
                Err(std::sync::mpsc::TryRecvError::Empty) => return Ok(true),
                Err(std::sync::mpsc::TryRecvError::Disconnected) => return Ok(false),
            }
        }
    }

    fn set_codec(&mut self, codec: VideoCodec) -> Result<(), EncodeError> {
        if self.encoder.codec() != codec {
            self.encoder = codec.encoder(self.fps, self.bps)?;
            self.key_wanted = true;
            self.last_key = None;
            self.stale = true;
        }
        Ok(())
    }

    fn set_rate(&mut self, bps: u32) {
        let bps = bps.clamp(BPS_MIN, BPS_MAX);
        self.bps = bps;
        self.budget.set_rate(bps, Instant::now());
        // A rate that is refused leaves the old one, which is no reason to end.
        if let Err(error) = self.encoder.set_bitrate(bps) {
            tracing::warn!(%error, bps, "the encoder keeps its rate");
        }
        self.size();
        // The smallest picture at the lowest rates is also shown less often.
        let fps = if bps < BPS_MIN * 3 / 2 { f64::from(self.fps).min(30.0) } else { f64::from(self.fps) };
        self.pace.set_fps(fps, Instant::now());
    }

    /// Sends pictures in the size that the rate and what is drawn allow.
    fn size(&mut self) {
        let sized = |(over, under): (usize, usize)| (self.full.width * over / under, self.full.height * over / under);
        let fits = |size: &(usize, usize)| {
            let pixels = f64::from(u32::try_from(size.0 * size.1).unwrap_or(u32::MAX));
            f64::from(self.bps) / pixels >= BITS_PER_PIXEL_MIN
        };
        let mut sizes = SIZES.into_iter().skip(self.ladder.step()).map(sized);
        let smallest = SIZES.last().copied().map(sized);
        let Some(size) = sizes.find(fits).or(smallest) else { return };
        let size = (size.0 & !1, size.1 & !1);
        let now_small = self.small.as_ref().map_or((self.full.width, self.full.height), |p| (p.width, p.height));
        if size != now_small {
            let whole = size == (self.full.width, self.full.height);
            self.small = (!whole).then(|| Picture::new(size.0, size.1));
            self.stale = true;
        }
    }

    /// What a picture that was sent says of the way, and of how many there are.
    fn count(&mut self, bytes: usize, now: Instant) -> Result<(), EncodeError> {
        let waited = self.crowded.take().map_or(Duration::ZERO, |since| now.saturating_duration_since(since));
        self.budget.sent(bytes, now);
        self.ladder.sent(waited);
        if self.ladder.look(self.bps, now) {
            self.size();
        }
        self.pictures = self.pictures.saturating_add(1);
        let passed = now.saturating_duration_since(self.counted);
        if passed >= FPS_EVERY {
            let fps = f64::from(self.pictures) / passed.as_secs_f64();
            (self.pictures, self.counted) = (0, now);
            self.encoder.set_fps(fps.clamp(FPS_MIN, f64::from(self.fps)))?;
        }
        Ok(())
    }

    fn wants_frame(&self, changed: bool, now: Instant) -> bool {
        if !self.drawing || !self.watched {
            return self.drawing && self.prepares;
        }
        changed || self.stale || self.key_due(now) || self.shown.is_active() || self.wants_refinement(now)
    }

    fn key_due(&self, now: Instant) -> bool {
        self.key_wanted && self.last_key.is_none_or(|last| now >= last + KEY_GAP)
    }

    fn wants_refinement(&self, now: Instant) -> bool {
        self.refinements > 0 && now >= self.last_sent + self.refine_after
    }

    /// How long the picture that is wanted has to wait, if it has to.
    fn pause(&mut self, now: Instant) -> Option<Duration> {
        let pace = self.pace.wait(now);
        // Who has just come sees something at once, whatever is under way.
        let room = self.budget.wait(now).filter(|_| !(self.key_wanted && self.last_key.is_none()));
        if room.is_some() {
            self.crowded.get_or_insert(now);
        }
        pace.max(room)
    }

    /// How long nothing needs to be looked at, if nothing changes.
    fn next_look(&self, now: Instant) -> Option<Duration> {
        // Before the program draws there is nothing to send, however much a key frame is wanted: the display wakes us.
        if !self.watched || !self.drawing {
            return None;
        }
        let key = self.key_wanted.then(|| self.last_key.map_or(now, |last| last + KEY_GAP));
        let refine = (self.refinements > 0).then(|| self.last_sent + self.refine_after);
        [key, refine].into_iter().flatten().min().map(|at| at.saturating_duration_since(now))
    }

    fn frame(&mut self, now: Instant) -> Result<(), Trouble> {
        self.prepares = false;
        self.pace.taken(now);
        let refinement = self.wants_refinement(now) && !self.stale && !self.display.changed()?;
        let full = &mut self.full;
        self.display.read(false, &mut |area, pixels| full.put(area, pixels))?;
        // A server often tells of the first step of a frame while it draws the others: they are a moment away, and taken
        // along they spare a frame of their own.
        for _ in 0..STEPS_MAX {
            if !self.display.changed()? {
                break;
            }
            let full = &mut self.full;
            self.display.read(false, &mut |area, pixels| full.put(area, pixels))?;
        }
        let (captured, captured_ms) = (Instant::now(), wall_ms());
        let key = self.key_due(now);
        let newcomer = key && self.last_key.is_none();
        if newcomer {
            self.encoder.hasten();
        }
        let picture = match &mut self.small {
            Some(small) => {
                self.full.shrink_into(small);
                small
            }
            None => &mut self.full,
        };
        let encoded = if self.shown.is_active() {
            let mut marked = picture.clone();
            self.shown.draw(&mut marked, now);
            self.encoder.encode(&marked, key)?
        } else {
            self.encoder.encode(picture, key)?
        };
        let (width, height) = (side(picture.width), side(picture.height));
        self.stale = encoded.bytes.is_empty();
        self.last_sent = now;
        self.refine_after = if refinement || newcomer { REFINE_NEXT } else { REFINE_AFTER };
        self.refinements = match encoded.settled {
            Some(true) => 0,
            None if refinement => self.refinements - 1,
            _ => REFINE_TIMES,
        };
        self.count(encoded.bytes.len(), now)?;
        if encoded.bytes.is_empty() {
            return Ok(());
        }
        if encoded.key {
            self.key_wanted = false;
            self.last_key = Some(now);
        }
        let encode = captured.elapsed();
        let (bytes, key, codec) = (encoded.bytes, encoded.key, self.encoder.codec());
        let frame = Frame { bytes, codec, key, captured, captured_ms, encode, width, height };
        if self.out.send(Made::Frame(frame)) == Err(crate::wake::Unsent::Full) {
            // A frame that is left out would break those after it.
            self.key_wanted = true;
        }
        Ok(())
    }
}

fn side(pixels: usize) -> u16 {
    u16::try_from(pixels).unwrap_or(u16::MAX)
}

/// Milliseconds since 1970.
pub(crate) fn wall_ms() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64() * 1_000.0
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::fd::{AsFd, BorrowedFd};

    use super::*;
    use crate::display::Area;
    use crate::wake::channel;

    /// A display that is drawn on while it is read the second time, and tells of that read itself only: what waits for its
    /// socket waits for ever.
    struct DrawnWhileRead {
        quiet: File,
        reads: u8,
        changed: bool,
    }

    impl Display for DrawnWhileRead {
        fn size(&self) -> (u16, u16) {
            (64, 64)
        }

        fn as_fd(&self) -> BorrowedFd<'_> {
            self.quiet.as_fd()
        }

        fn changed(&mut self) -> Result<bool, DisplayError> {
            Ok(self.changed)
        }

        fn read(&mut self, _all: bool, part: &mut dyn FnMut(Area, &[u8])) -> Result<(), DisplayError> {
            self.reads += 1;
            self.changed = self.reads <= 2;
            let mut pixels = vec![0; 64 * 64 * 4];
            if self.reads > 2 {
                pixels[..4].fill(255);
            }
            part(Area { x: 0, y: 0, width: 64, height: 64 }, &pixels);
            Ok(())
        }
    }

    #[test]
    fn what_is_drawn_while_the_display_is_read_is_seen() {
        let (_orders, taken) = channel(4).unwrap();
        let (out, made) = channel(4).unwrap();
        // Readable never: nobody writes to the other end.
        let (quiet, _open) = rustix::pipe::pipe().unwrap();
        let display = DrawnWhileRead { quiet: quiet.into(), reads: 0, changed: false };
        let studio = Studio::new(Box::new(display), 60, taken, out).unwrap();
        std::thread::spawn(|| studio.run());
        wait([made.as_fd()], Some(Duration::from_secs(60))).unwrap();
        assert!(matches!(made.next(), Ok(Made::Drawing)));
    }
}
