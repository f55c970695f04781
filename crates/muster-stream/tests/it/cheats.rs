//! Attacks of Containers, and the player that Checkers come as: a stream that is made here, so that it can lie.

use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use muster_core::delivery::{Delivered, Promise, Shortcoming, Watched, judge};
use muster_stream::guest::{Guest, Plan};
use openh264::OpenH264API;
use openh264::encoder::{Encoder, EncoderConfig, FrameRate, SpsPpsStrategy};
use openh264::formats::YUVBuffer;
use serde_json::Value;
use str0m::change::SdpOffer;
use str0m::format::Codec;
use str0m::media::{Frequency, MediaKind, MediaTime, Mid};
use str0m::{Candidate, Event, Output, Rtc, RtcConfig};

use crate::rig::hear;

const WIDTH: usize = 640;
const HEIGHT: usize = 360;
const FPS: u64 = 30;
const PROMISE: Promise = Promise { width: 640, height: 360, fps: 30 };

/// How a Container lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lie {
    /// Not at all.
    None,
    /// Shows what it has recorded of an honest session, codes and all, again and again.
    Loop,
    /// Draws less than was promised.
    Small,
    /// Stops in the middle.
    Stall,
    /// Every tenth frame only.
    Slow,
    /// Draws codes, and runs no program.
    NoProgram,
}

/// A stream that lies.
struct Liar {
    thread: Option<JoinHandle<()>>,
    stop: Arc<AtomicBool>,
}

impl Drop for Liar {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        drop(self.thread.take().map(JoinHandle::join));
    }
}

impl Liar {
    fn start(lie: Lie, offer: &str) -> (Self, String) {
        str0m::crypto::from_feature_flags().install_process_default();
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let local = socket.local_addr().unwrap();
        let mut rtc = RtcConfig::new().set_ice_lite(true).build(Instant::now());
        rtc.add_local_candidate(Candidate::host(local, "udp").unwrap());
        let answer = rtc.sdp_api().accept_offer(SdpOffer::from_sdp_string(offer).unwrap()).unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let until = Arc::clone(&stop);
        let thread = std::thread::spawn(move || Studio::new(lie, rtc, socket, local).run(&until));
        (Self { thread: Some(thread), stop }, answer.to_sdp_string())
    }
}

struct Studio {
    lie: Lie,
    rtc: Rtc,
    socket: UdpSocket,
    local: SocketAddr,
    video: Option<Mid>,
    encoder: Encoder,
    began: Instant,
    frame: u64,
    code: Option<(u32, u64)>,
    flipped: bool,
    recorded: Vec<Vec<u8>>,
}

impl Studio {
    fn new(lie: Lie, rtc: Rtc, socket: UdpSocket, local: SocketAddr) -> Self {
        let config = EncoderConfig::new()
            .max_frame_rate(FrameRate::from_hz(30.0))
            .sps_pps_strategy(SpsPpsStrategy::ConstantId)
            .skip_frames(false);
        let encoder = Encoder::with_api_config(OpenH264API::from_source(), config).unwrap();
        let began = Instant::now();
        let mut studio = Self {
            lie,
            rtc,
            socket,
            local,
            video: None,
            encoder,
            began,
            frame: 0,
            code: None,
            flipped: false,
            recorded: Vec::new(),
        };
        if lie == Lie::Loop {
            // What an honest session showed to somebody else.
            studio.recorded = (0..60)
                .map(|at| {
                    studio.code = Some((0x1234_5678, at));
                    studio.flipped = at % 20 < 10;
                    studio.frame = at;
                    studio.encoded()
                })
                .collect();
            studio.frame = 0;
        }
        studio
    }

    fn run(&mut self, stop: &AtomicBool) {
        while !stop.load(Ordering::Relaxed) && self.rtc.is_alive() {
            let when = loop {
                match self.rtc.poll_output().unwrap() {
                    Output::Timeout(when) => break when,
                    Output::Transmit(packet) => {
                        self.socket.send_to(&packet.contents, packet.destination).unwrap();
                    }
                    Output::Event(event) => self.event(event),
                }
            };
            let due = self.began + Duration::from_micros(self.frame * 1_000_000 / FPS);
            if due <= Instant::now() && self.video.is_some() {
                self.send();
                continue;
            }
            hear(&mut self.rtc, &self.socket, self.local, when.min(due));
        }
    }

    fn event(&mut self, event: Event) {
        match event {
            Event::MediaAdded(added) if added.kind == MediaKind::Video => self.video = Some(added.mid),
            Event::Connected => (self.began, self.frame) = (Instant::now(), 0),
            Event::ChannelData(data) => {
                let said: Value = serde_json::from_slice(&data.data).unwrap();
                match said["t"].as_str() {
                    Some("code") => {
                        self.code = Some((u32::try_from(said["n"].as_u64().unwrap()).unwrap(), self.frame));
                    }
                    Some("key") if said["down"] == true => self.flipped = !self.flipped,
                    _ => {}
                }
            }
            _ => {}
        }
    }

    fn send(&mut self) {
        let bytes = match self.lie {
            Lie::Loop => self.recorded[usize::try_from(self.frame % 60).unwrap()].clone(),
            Lie::Stall if self.frame > FPS * 2 => Vec::new(),
            Lie::Slow if !self.frame.is_multiple_of(10) => Vec::new(),
            _ => self.encoded(),
        };
        let now = Instant::now();
        let ticks = self.frame * 90_000 / FPS;
        self.frame += 1;
        let Some(writer) = self.video.and_then(|mid| self.rtc.writer(mid)) else { return };
        let Some(pt) =
            writer.payload_params().find(|params| params.spec().codec == Codec::H264).map(|params| params.pt())
        else {
            return;
        };
        if !bytes.is_empty() {
            writer.write(pt, now, MediaTime::new(ticks, Frequency::NINETY_KHZ), bytes).unwrap();
        }
    }

    /// The next frame: something that moves, the code while it is to be seen, the square.
    fn encoded(&mut self) -> Vec<u8> {
        let (width, height) = if self.lie == Lie::Small { (WIDTH / 2, HEIGHT / 2) } else { (WIDTH, HEIGHT) };
        let mut luma = vec![60u8; width * height];
        let mut fill = |x: usize, y: usize, w: usize, h: usize, value: u8| {
            for row in luma.chunks_mut(width).skip(y).take(h) {
                row[x..x + w].fill(value);
            }
        };
        let at = usize::try_from(self.frame).unwrap() * 4 % (width - 80);
        fill(at, height / 2, 40, 40, 200);
        if self.lie != Lie::NoProgram {
            let cell = 40 * width / 1280;
            fill(0, cell * 2, cell * 3, cell * 3, if self.flipped { 235 } else { 16 });
        }
        if let Some((code, since)) = self.code
            && self.frame < since + 6
        {
            let sum = (0..8).fold(0u32, |sum, nibble| sum + (code >> (nibble * 4) & 15)) & 15;
            let bits = 0b1010u64 << 36 | u64::from(code) << 4 | u64::from(sum);
            for cell in 0..40 {
                fill(cell * 8, height - 8, 8, 8, if bits >> (39 - cell) & 1 == 1 { 235 } else { 16 });
            }
        }
        luma.resize(width * height * 3 / 2, 128);
        // Whoever joins later, or starts a recording again, must be able to decode it.
        if self.frame.is_multiple_of(60) {
            self.encoder.force_intra_frame();
        }
        self.encoder.encode(&YUVBuffer::from_vec(luma, width, height)).unwrap().to_vec()
    }
}

/// What the player saw.
fn watch(lie: Lie) -> Watched {
    let (guest, offer) = Guest::offer().unwrap();
    let (_liar, answer) = Liar::start(lie, &offer);
    let plan = Plan {
        watch_ms: 5_500,
        codes: vec![(300, 0xdead_beef), (1_400, 7), (2_600, u32::MAX), (4_000, 0x0102_0304)],
        keys: vec![500, 1_700, 2_900, 4_100],
        pads: Vec::new(),
    };
    guest.play(&answer, &plan, &AtomicBool::new(false)).unwrap()
}

fn poor(lie: Lie) -> Shortcoming {
    let watched = watch(lie);
    match judge(&watched, &PROMISE) {
        Delivered::Poor(shortcoming) => shortcoming,
        other => panic!("{lie:?} passes as {other:?}: {watched:?}"),
    }
}

#[test]
fn an_honest_stream_is_good() {
    let watched = watch(Lie::None);
    assert_eq!(judge(&watched, &PROMISE), Delivered::Good, "{watched:?}");
    assert_eq!((watched.width, watched.height), (640, 360));
}

#[test]
fn a_recording_is_seen_through() {
    assert!(matches!(poor(Lie::Loop), Shortcoming::Stale { seen: 0, .. }));
}

#[test]
fn a_smaller_picture_is_seen() {
    assert_eq!(poor(Lie::Small), Shortcoming::Small { width: 320, height: 180 });
}

#[test]
fn a_stream_that_stops_or_crawls_is_seen() {
    // What is asked for after it has stopped is not seen either, nor what would have stood in pictures that were left out;
    // which of the two is said does not matter.
    assert!(matches!(poor(Lie::Stall), Shortcoming::Stalled { .. } | Shortcoming::Stale { .. }));
    assert!(matches!(poor(Lie::Slow), Shortcoming::Stalled { .. } | Shortcoming::Stale { .. }));
}

#[test]
fn a_picture_without_the_program_is_seen() {
    assert!(matches!(poor(Lie::NoProgram), Shortcoming::Deaf { answered: 0, .. }));
}

#[test]
fn who_never_answers_shows_no_picture() {
    let (guest, offer) = Guest::offer().unwrap();
    let (liar, answer) = Liar::start(Lie::None, &offer);
    drop(liar);
    // Nobody is there any more; the player is told to stop, because ten seconds are long for a test.
    let stop = Arc::new(AtomicBool::new(false));
    let soon = Arc::clone(&stop);
    let stopping = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(300));
        soon.store(true, Ordering::Relaxed);
    });
    let watched = guest.play(&answer, &Plan { watch_ms: 1_000, ..Plan::default() }, &stop).unwrap();
    stopping.join().unwrap();
    assert_eq!(judge(&watched, &PROMISE), Delivered::Poor(Shortcoming::NoPicture));
}
