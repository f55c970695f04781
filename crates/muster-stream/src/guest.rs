//! A player without a browser: what a Checker comes as, to see for itself what is delivered.
//!
//! It offers what a browser offers, decodes the picture, asks for codes and reads them back, presses keys and looks for
//! their effect. It plays the latency meter ([`crate::METER`]), whose square flips with each input. Everything that is
//! left to chance (codes, instants) is drawn by the caller.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use muster_core::delivery::{Asked, CODE_MS_MAX, FIRST_FRAME_MS_MAX, INPUT_MS_MAX, Watched};
use openh264::decoder::{DecodedYUV, Decoder};
use openh264::formats::YUVSource;
use serde_json::json;
use str0m::change::{SdpAnswer, SdpPendingOffer};
use str0m::channel::ChannelId;
use str0m::format::Codec;
use str0m::media::{Direction, MediaData, MediaKind};
use str0m::net::{Protocol, Receive};
use str0m::{Candidate, Event, Input, Output, Rtc, RtcConfig};

use crate::code::{CELL, CELLS, read_code};
use crate::meter::square_at;

/// How often what a browser would measure is measured.
const STATS_EVERY: Duration = Duration::from_secs(1);
/// The longest nap; a player that sleeps longer sees its frames late.
const NAP: Duration = Duration::from_millis(10);
/// The longest datagram.
const DATAGRAM: usize = 2_048;
/// Sizes of picture that are told apart.
const SIZES_MAX: usize = 16;
/// Luma above which the meter's square counts as white.
const GREY: u8 = 125;

/// Why nothing could be watched: this side's own trouble, or an answer that is none.
#[derive(Debug, thiserror::Error)]
pub enum GuestError {
    /// No socket can be had.
    #[error("no socket for a player can be had: {0}")]
    Socket(#[from] io::Error),
    /// The answer is none.
    #[error("the answer to the offer cannot be used: {0}")]
    Answer(String),
    /// This side's WebRTC failed.
    #[error("the player's own WebRTC failed: {0}")]
    Rtc(String),
    /// The decoder cannot be had.
    #[error("the player's decoder cannot be had: {0}")]
    Decoder(String),
}

fn rtc_error(error: impl std::fmt::Display) -> GuestError {
    GuestError::Rtc(error.to_string())
}

/// What a player does, and when. Times count in milliseconds from the first picture.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// How long it looks on.
    pub watch_ms: u64,
    /// Codes that it asks for, ascending by time.
    pub codes: Vec<(u64, u32)>,
    /// When it presses a key, ascending.
    pub keys: Vec<u64>,
    /// When it presses which button of its gamepad, as the W3C counts them, ascending by time; it lets go at once.
    pub pads: Vec<(u64, u8)>,
}

/// A player that has made its offer.
pub struct Guest {
    rtc: Rtc,
    pending: SdpPendingOffer,
    input: ChannelId,
    control: ChannelId,
}

impl std::fmt::Debug for Guest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Guest").finish_non_exhaustive()
    }
}

impl Guest {
    /// A player, and its offer.
    ///
    /// # Errors
    /// The WebRTC of this side fails.
    pub fn offer() -> Result<(Self, String), GuestError> {
        str0m::crypto::from_feature_flags().install_process_default();
        // What a browser can; the Container takes H.264 first.
        let config = RtcConfig::new().clear_codecs().enable_opus(true, false).enable_vp8(true).enable_h264(true);
        let mut rtc = config.set_stats_interval(Some(STATS_EVERY)).build(Instant::now());
        let mut api = rtc.sdp_api();
        api.add_media(MediaKind::Video, Direction::RecvOnly, None, None, None);
        api.add_media(MediaKind::Audio, Direction::RecvOnly, None, None, None);
        let input = api.add_channel("input".to_owned());
        let control = api.add_channel("control".to_owned());
        let (offer, pending) = api.apply().ok_or_else(|| GuestError::Rtc("there is nothing to offer".to_owned()))?;
        Ok((Self { rtc, pending, input, control }, offer.to_sdp_string()))
    }

    /// Plays by the plan, until it is done, nothing comes, or `stop` is set. Blocks.
    ///
    /// # Errors
    /// This side's own trouble, or an answer that is none: nothing that a Container is to be blamed for but the last.
    pub fn play(self, answer: &str, plan: &Plan, stop: &AtomicBool) -> Result<Watched, GuestError> {
        let Self { mut rtc, pending, input, control } = self;
        let remote = remote_of(answer)?;
        let (socket, local) = way_to(remote)?;
        let host = Candidate::host(local, "udp").map_err(rtc_error)?;
        rtc.add_local_candidate(host);
        let answer = SdpAnswer::from_sdp_string(answer).map_err(|e| GuestError::Answer(e.to_string()))?;
        rtc.sdp_api().accept_answer(pending, answer).map_err(|e| GuestError::Answer(e.to_string()))?;
        let decoder = Decoder::new().map_err(|e| GuestError::Decoder(e.to_string()))?;
        let mut seat = Seat {
            rtc,
            socket,
            local,
            input,
            control,
            open: Vec::new(),
            decoder,
            eyes: Eyes::new(Instant::now()),
            gone: false,
        };
        seat.sit(plan, stop)?;
        Ok(seat.eyes.told())
    }
}

/// The first address in an answer that this machine has a way to.
fn remote_of(answer: &str) -> Result<SocketAddr, GuestError> {
    let candidate = |line: &str| {
        let mut words = line.trim().strip_prefix("a=candidate:")?.split(' ');
        let udp = words.nth(2)?.eq_ignore_ascii_case("udp");
        let (address, port) = (words.nth(1)?, words.next()?);
        let address: IpAddr = address.parse().ok()?;
        let port: u16 = port.parse().ok()?;
        udp.then_some(SocketAddr::new(address, port))
    };
    let all: Vec<SocketAddr> = answer.lines().filter_map(candidate).collect();
    let usable = |to: &&SocketAddr| own_address(**to).is_ok();
    let found = all.iter().find(usable).or(all.first()).copied();
    found.ok_or_else(|| GuestError::Answer("it names no address".to_owned()))
}

/// From which address of this machine another is reached. Nothing is sent.
fn own_address(to: SocketAddr) -> io::Result<IpAddr> {
    let any: IpAddr = if to.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let probe = UdpSocket::bind((any, 0))?;
    probe.connect(to)?;
    Ok(probe.local_addr()?.ip())
}

fn way_to(remote: SocketAddr) -> Result<(UdpSocket, SocketAddr), GuestError> {
    let socket = UdpSocket::bind((own_address(remote)?, 0))?;
    let local = socket.local_addr()?;
    Ok((socket, local))
}

/// A player at play.
struct Seat {
    rtc: Rtc,
    socket: UdpSocket,
    local: SocketAddr,
    input: ChannelId,
    control: ChannelId,
    open: Vec<ChannelId>,
    decoder: Decoder,
    eyes: Eyes,
    gone: bool,
}

impl Seat {
    fn sit(&mut self, plan: &Plan, stop: &AtomicBool) -> Result<(), GuestError> {
        let (mut codes, mut keys) = (plan.codes.iter().peekable(), plan.keys.iter().peekable());
        let mut pads = plan.pads.iter().peekable();
        while !self.gone && !stop.load(Ordering::Relaxed) {
            let now = Instant::now();
            match self.eyes.since_first(now) {
                None if now - self.eyes.began > Duration::from_millis(FIRST_FRAME_MS_MAX.into()) => break,
                None => {}
                Some(ms) if ms >= plan.watch_ms => break,
                Some(ms) => {
                    if self.is_open(self.control)
                        && let Some((_, code)) = codes.next_if(|(at, _)| *at <= ms)
                    {
                        self.say(self.control, &json!({"t": "code", "n": code}));
                        self.eyes.code.ask(*code, now);
                    }
                    if self.is_open(self.input) && keys.next_if(|at| **at <= ms).is_some() {
                        self.eyes.key.ask(!self.eyes.white, now);
                        self.say(self.input, &json!({"t": "key", "code": "KeyA", "key": "a", "down": true}));
                        self.say(self.input, &json!({"t": "key", "code": "KeyA", "key": "a", "down": false}));
                    }
                    if self.is_open(self.input)
                        && let Some((_, button)) = pads.next_if(|(at, _)| *at <= ms)
                    {
                        let pressed: Vec<u8> = (0..=*button).map(|at| u8::from(at == *button)).collect();
                        for buttons in [pressed, Vec::new()] {
                            self.say(self.input, &json!({"t": "pad", "i": 0, "axes": [], "buttons": buttons}));
                        }
                    }
                }
            }
            self.step()?;
        }
        self.eyes.end(Instant::now());
        Ok(())
    }

    fn is_open(&self, channel: ChannelId) -> bool {
        self.open.contains(&channel)
    }

    fn say(&mut self, channel: ChannelId, message: &serde_json::Value) {
        let written = self.rtc.channel(channel).map(|mut c| c.write(false, message.to_string().as_bytes()));
        if !matches!(written, Some(Ok(true))) {
            tracing::debug!("a player's message was not taken");
        }
    }

    /// Sends what is to be sent and takes one datagram, or a nap.
    fn step(&mut self) -> Result<(), GuestError> {
        let when = loop {
            match self.rtc.poll_output().map_err(rtc_error)? {
                Output::Timeout(when) => break when,
                Output::Transmit(packet) => {
                    // What cannot be sent is lost, as on any line.
                    let _ = self.socket.send_to(&packet.contents, packet.destination);
                }
                Output::Event(event) => self.event(event),
            }
        };
        let nap = when.saturating_duration_since(Instant::now()).clamp(Duration::from_millis(1), NAP);
        self.socket.set_read_timeout(Some(nap))?;
        let mut packet = [0; DATAGRAM];
        let received = match self.socket.recv_from(&mut packet) {
            Ok((length, source)) => packet
                .get(..length)
                .and_then(|bytes| bytes.try_into().ok())
                .map(|contents| Receive { proto: Protocol::Udp, source, destination: self.local, contents }),
            Err(_) => None,
        };
        let now = Instant::now();
        let input = received.map_or(Input::Timeout(now), |receive| Input::Receive(now, receive));
        self.rtc.handle_input(input).map_err(rtc_error)
    }

    fn event(&mut self, event: Event) {
        match event {
            Event::ChannelOpen(id, _) => self.open.push(id),
            Event::MediaData(data) => self.media(&data),
            Event::MediaIngressStats(stats) => {
                if let Some(loss) = stats.loss {
                    self.eyes.losses.push(loss);
                }
            }
            Event::IceConnectionStateChange(str0m::IceConnectionState::Disconnected) => self.gone = true,
            _ => {}
        }
    }

    fn media(&mut self, data: &MediaData) {
        // The other codec is offered, as browsers do, and not what is sent to who also takes this one.
        if data.params.spec().codec != Codec::H264 {
            return;
        }
        let broken = match self.decoder.decode(&data.data) {
            Ok(Some(picture)) => {
                self.eyes.see(&picture, Instant::now());
                false
            }
            Ok(None) => false,
            Err(_) => true,
        };
        // Packets that came before this side's keys were ready are lost: like any player, it asks again.
        if broken && self.is_open(self.control) {
            self.say(self.control, &json!({"t": "keyframe"}));
        }
    }
}

/// A question whose answer will stand in the picture.
#[derive(Debug)]
struct Question<T> {
    open: Option<(T, Instant)>,
    within: Duration,
    asked: u32,
    took: Vec<u32>,
}

impl<T: PartialEq + Copy> Question<T> {
    const fn new(within_ms: u32) -> Self {
        Self { open: None, within: Duration::from_millis(within_ms as u64), asked: 0, took: Vec::new() }
    }

    /// Who asks before the last answer came has not got it.
    fn ask(&mut self, wanted: T, now: Instant) {
        self.asked = self.asked.saturating_add(1);
        self.open = Some((wanted, now));
    }

    fn look(&mut self, seen: Option<T>, now: Instant) {
        let Some((wanted, asked)) = self.open else { return };
        let took = now.saturating_duration_since(asked);
        if took > self.within {
            self.open = None;
        } else if seen == Some(wanted) {
            self.took.push(ms(took));
            self.open = None;
        }
    }

    /// The end: what could still be answered was not asked.
    fn end(&mut self, now: Instant) {
        if self.open.take().is_some_and(|(_, asked)| now.saturating_duration_since(asked) <= self.within) {
            self.asked = self.asked.saturating_sub(1);
        }
    }

    fn told(&self) -> Asked {
        let seen = u32::try_from(self.took.len()).unwrap_or(u32::MAX);
        Asked { asked: self.asked, seen, ms_p95: p95(self.took.clone()) }
    }
}

/// What is seen.
#[derive(Debug)]
struct Eyes {
    began: Instant,
    first: Option<Instant>,
    last: Option<Instant>,
    until: Option<Instant>,
    frames: u64,
    gap: Duration,
    sizes: Vec<((u16, u16), u64)>,
    white: bool,
    code: Question<u32>,
    key: Question<bool>,
    losses: Vec<f32>,
}

impl Eyes {
    const fn new(began: Instant) -> Self {
        Self {
            began,
            first: None,
            last: None,
            until: None,
            frames: 0,
            gap: Duration::ZERO,
            sizes: Vec::new(),
            white: false,
            code: Question::new(CODE_MS_MAX),
            key: Question::new(INPUT_MS_MAX),
            losses: Vec::new(),
        }
    }

    fn since_first(&self, now: Instant) -> Option<u64> {
        self.first.map(|first| u64::from(ms(now.saturating_duration_since(first))))
    }

    fn see(&mut self, picture: &DecodedYUV<'_>, now: Instant) {
        let (width, height) = picture.dimensions();
        self.look(picture.y(), picture.strides().0, (width, height), now);
    }

    fn look(&mut self, luma: &[u8], stride: usize, (width, height): (usize, usize), now: Instant) {
        self.first.get_or_insert(now);
        if let Some(last) = self.last.replace(now) {
            self.gap = self.gap.max(now.saturating_duration_since(last));
        }
        self.frames = self.frames.saturating_add(1);
        let short = |side: usize| u16::try_from(side).unwrap_or(u16::MAX);
        let size = (short(width), short(height));
        let known = self.sizes.len();
        match self.sizes.iter_mut().find(|(known, _)| *known == size) {
            Some((_, count)) => *count = count.saturating_add(1),
            None if known < SIZES_MAX => self.sizes.push((size, 1)),
            None => {}
        }
        let at = |x: usize, y: usize| luma.get(y.checked_mul(stride)?.checked_add(x)?).copied();
        let code = (width >= CELL * CELLS && height >= CELL)
            .then(|| read_code(|x, y| at(x, (height - CELL).saturating_add(y)).unwrap_or(0)))
            .flatten();
        self.code.look(code, now);
        let (x, y) = square_at(width);
        if let Some(luma) = at(x, y) {
            self.white = luma > GREY;
            self.key.look(Some(self.white), now);
        }
    }

    fn end(&mut self, now: Instant) {
        self.until = Some(now);
        if let Some(last) = self.last {
            self.gap = self.gap.max(now.saturating_duration_since(last));
        }
        self.code.end(now);
        self.key.end(now);
    }

    fn told(&self) -> Watched {
        let (width, height) = self.sizes.iter().max_by_key(|(_, count)| *count).map_or((0, 0), |(size, _)| *size);
        let until = self.until.or(self.last).unwrap_or(self.began);
        Watched {
            ms: self.since_first(until).unwrap_or(0),
            first_frame_ms: self.first.map(|first| ms(first.saturating_duration_since(self.began))),
            frames: self.frames,
            width,
            height,
            codes: self.code.told(),
            inputs: self.key.told(),
            loss_ppm: mean_ppm(&self.losses),
            gap_ms_max: ms(self.gap),
        }
    }
}

fn ms(time: Duration) -> u32 {
    u32::try_from(time.as_millis()).unwrap_or(u32::MAX)
}

fn p95(mut all: Vec<u32>) -> u32 {
    all.sort_unstable();
    all.get(all.len().saturating_mul(95) / 100).or(all.last()).copied().unwrap_or(0)
}

fn mean_ppm(losses: &[f32]) -> u32 {
    if losses.is_empty() {
        return 0;
    }
    let sum: f64 = losses.iter().map(|loss| f64::from(loss.clamp(0.0, 1.0))).sum();
    #[expect(clippy::cast_precision_loss, reason = "a count of seconds")]
    let mean = sum / losses.len() as f64 * 1e6;
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "from 0 to 1,000,000")]
    let ppm = mean as u32;
    ppm
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_address_is_taken_from_the_answer() {
        let answer = "v=0\r\na=candidate:1 1 tcp 1 127.0.0.1 9 typ host\r\na=candidate:1 1 UDP 2130706175 127.0.0.1 4711 typ host\r\n";
        assert_eq!(remote_of(answer).unwrap(), "127.0.0.1:4711".parse().unwrap());
        assert_eq!(own_address("127.0.0.1:4711".parse().unwrap()).unwrap(), Ipv4Addr::LOCALHOST);
        for none in ["", "a=candidate:", "a=candidate:1 1 udp 1 there 4711 typ host", "a=candidate:1 1 udp 1 ::1"] {
            assert!(matches!(remote_of(none), Err(GuestError::Answer(_))), "{none:?}");
        }
    }

    #[test]
    fn answers_count_in_time_only() {
        let now = Instant::now();
        let later = |ms| now + Duration::from_millis(ms);
        let mut question = Question::new(1_000);
        question.look(Some(7), now);
        question.ask(7, now);
        question.look(None, later(10));
        question.look(Some(8), later(20));
        question.look(Some(7), later(30));
        question.ask(9, later(100));
        question.look(Some(9), later(1_101));
        question.ask(1, later(2_000));
        question.end(later(2_500));
        assert_eq!(question.told(), Asked { asked: 2, seen: 1, ms_p95: 30 });
    }

    #[test]
    fn most_frames_tell_the_size_and_the_longest_gap_counts_to_the_end() {
        let now = Instant::now();
        let mut eyes = Eyes::new(now);
        let (large, small) = (vec![0; 640 * 360], vec![255; 320 * 180]);
        for at in [100, 120, 140] {
            eyes.look(&large, 640, (640, 360), now + Duration::from_millis(at));
        }
        eyes.look(&small, 320, (320, 180), now + Duration::from_millis(160));
        eyes.end(now + Duration::from_millis(660));
        let told = eyes.told();
        assert_eq!((told.width, told.height, told.frames, told.gap_ms_max), (640, 360, 4, 500));
        assert_eq!((told.first_frame_ms, told.ms), (Some(100), 560));
        assert!(eyes.white);
        // A picture that is shorter than it says is no harm.
        eyes.look(&[], 640, (640, 360), now);
    }
}
