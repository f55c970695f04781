//! What the tests play with: a display, a program, the child, a player.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, UdpSocket};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant, SystemTime};

use muster_stream::control::{FromStream, Gamepads, Keyboard, StreamConfig, ToStream};
use openh264::decoder::Decoder;
use openh264::formats::YUVSource;
use serde_json::{Value, json};
use str0m::change::{SdpAnswer, SdpPendingOffer};
use str0m::channel::ChannelId;
use str0m::format::Codec;
use str0m::media::{Direction, Frequency, MediaData, MediaKind, MediaTime, Mid};
use str0m::net::{Protocol, Receive};
use str0m::{Candidate, Event, Input, Output, Rtc, RtcConfig};
use x11rb::connection::Connection;
use x11rb::protocol::Event as XEvent;
use x11rb::protocol::xproto::{
    AtomEnum, ChangeGCAux, ConnectionExt as _, CreateGCAux, CreateWindowAux, EventMask, InputFocus, PropMode,
    Rectangle, SELECTION_NOTIFY_EVENT, SelectionNotifyEvent, WindowClass,
};
use x11rb::rust_connection::{DefaultStream, RustConnection};
use x11rb::wrapper::ConnectionExt as _;

/// Says to this very program that it is the child.
pub(crate) const CHILD: &str = "MUSTER_STREAM_TEST_CHILD";
pub(crate) const WIDTH: u16 = 640;
pub(crate) const HEIGHT: u16 = 360;
/// Far beyond what anything takes; it ends tests that would hang.
const PATIENCE: Duration = Duration::from_secs(60);

/// An X server without a screen.
pub(crate) struct Xvfb {
    server: Child,
    pub(crate) socket: PathBuf,
}

impl Xvfb {
    pub(crate) fn start() -> Self {
        Self::sized(WIDTH, HEIGHT)
    }

    pub(crate) fn sized(width: u16, height: u16) -> Self {
        let mut server = Command::new("Xvfb")
            .args(["-displayfd", "1", "-screen", "0"])
            .arg(format!("{width}x{height}x24"))
            .args(["-nolisten", "tcp", "-noreset"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("Xvfb is needed: apt-get install xvfb");
        let mut number = String::new();
        BufReader::new(server.stdout.take().unwrap()).read_line(&mut number).unwrap();
        let socket = format!("/tmp/.X11-unix/X{}", number.trim()).into();
        Self { server, socket }
    }
}

impl Drop for Xvfb {
    fn drop(&mut self) {
        // Asked, not killed, so that it takes its socket and lock away.
        let id = rustix::process::Pid::from_child(&self.server);
        let _ = rustix::process::kill_process(id, rustix::process::Signal::TERM);
        let _ = self.server.wait();
    }
}

/// A program with one window over all of the display.
pub(crate) struct Program {
    pub(crate) connection: RustConnection,
    pub(crate) root: u32,
    pub(crate) window: u32,
    gc: u32,
    at: i16,
}

impl Program {
    pub(crate) fn start(socket: &Path) -> Self {
        let (stream, _) = DefaultStream::from_unix_stream(UnixStream::connect(socket).unwrap()).unwrap();
        let connection = RustConnection::connect_to_stream(stream, 0).unwrap();
        let screen = &connection.setup().roots[0];
        let (root, window, gc) = (screen.root, connection.generate_id().unwrap(), connection.generate_id().unwrap());
        let (width, height) = (screen.width_in_pixels, screen.height_in_pixels);
        let events = EventMask::KEY_PRESS
            | EventMask::KEY_RELEASE
            | EventMask::BUTTON_PRESS
            | EventMask::BUTTON_RELEASE
            | EventMask::POINTER_MOTION
            | EventMask::EXPOSURE;
        let options = CreateWindowAux::new().background_pixel(0x0020_4060).override_redirect(1).event_mask(events);
        connection
            .create_window(24, window, root, 0, 0, width, height, 0, WindowClass::INPUT_OUTPUT, 0, &options)
            .unwrap();
        connection.create_gc(gc, window, &CreateGCAux::new()).unwrap();
        connection.map_window(window).unwrap();
        connection.set_input_focus(InputFocus::POINTER_ROOT, window, x11rb::CURRENT_TIME).unwrap().check().unwrap();
        Self { connection, root, window, gc, at: 0 }
    }

    /// Fills a part of the window.
    pub(crate) fn fill(&self, colour: u32, x: i16, y: i16, width: u16, height: u16) {
        self.connection.change_gc(self.gc, &ChangeGCAux::new().foreground(colour)).unwrap();
        self.connection.poly_fill_rectangle(self.window, self.gc, &[Rectangle { x, y, width, height }]).unwrap();
        self.connection.flush().unwrap();
    }

    /// The next picture: a white square has moved on.
    pub(crate) fn draw(&mut self) {
        self.fill(0x0020_4060, self.at, 100, 40, 40);
        self.at = (self.at + 8) % 500;
        self.fill(0x00ff_ffff, self.at, 100, 40, 40);
    }

    /// The next picture: much has changed, so that it costs a lot to send.
    pub(crate) fn draw_much(&mut self) {
        self.at = (self.at + 1) % 1_000;
        for colour in 0..8u32 {
            let mut random = u32::try_from(self.at).unwrap() * 977 + colour * 7_919 + 1;
            let mut draw = |below: u32| {
                random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (random >> 8) % below
            };
            let place = |v: u32| i16::try_from(v).unwrap();
            let parts: Vec<Rectangle> = (0..5)
                .map(|_| Rectangle { x: place(draw(1_280)), y: place(draw(720)), width: 64, height: 48 })
                .collect();
            self.connection
                .change_gc(self.gc, &ChangeGCAux::new().foreground(0x0020_4060 + colour * 0x000d_0b05))
                .unwrap();
            self.connection.poly_fill_rectangle(self.window, self.gc, &parts).unwrap();
        }
        self.connection.flush().unwrap();
    }

    /// What has happened to the window.
    pub(crate) fn events(&self) -> Vec<XEvent> {
        std::iter::from_fn(|| self.connection.poll_for_event().unwrap()).collect()
    }

    /// Gives a name of the server its number.
    pub(crate) fn atom(&self, name: &str) -> u32 {
        self.connection.intern_atom(false, name.as_bytes()).unwrap().reply().unwrap().atom
    }

    /// Takes the clipboard, as after a copy.
    pub(crate) fn copy(&self) {
        let clipboard = self.atom("CLIPBOARD");
        self.connection.set_selection_owner(self.window, clipboard, x11rb::CURRENT_TIME).unwrap().check().unwrap();
    }

    /// Gives what was copied to who asks for it; what it was asked for.
    pub(crate) fn give(&self, event: &XEvent, text: &[u8]) -> Option<u32> {
        let XEvent::SelectionRequest(request) = event else { return None };
        let (to, property, target) = (request.requestor, request.property, request.target);
        let known = target == self.atom("UTF8_STRING");
        if known {
            self.connection.change_property8(PropMode::REPLACE, to, property, target, text).unwrap();
        }
        let answer = SelectionNotifyEvent {
            response_type: SELECTION_NOTIFY_EVENT,
            sequence: 0,
            time: request.time,
            requestor: to,
            selection: request.selection,
            target,
            property: if known { property } else { 0 },
        };
        self.connection.send_event(false, to, EventMask::NO_EVENT, answer).unwrap().check().unwrap();
        Some(target)
    }

    /// What the clipboard (or another selection) holds in a form, as a program that pastes gets it.
    pub(crate) fn paste(&self, selection: &str, form: &str) -> Option<Vec<u8>> {
        let (selection, target, property) = (self.atom(selection), self.atom(form), self.atom("PASTED"));
        self.connection
            .convert_selection(self.window, selection, target, property, x11rb::CURRENT_TIME)
            .unwrap()
            .check()
            .unwrap();
        loop {
            if let XEvent::SelectionNotify(came) = self.connection.wait_for_event().unwrap() {
                let read = || self.connection.get_property(true, self.window, property, AtomEnum::ANY, 0, 1 << 20);
                return (came.property != 0).then(|| read().unwrap().reply().unwrap().value);
            }
        }
    }

    /// What a key writes without others.
    pub(crate) fn keysym(&self, key: u8) -> u32 {
        self.connection.get_keyboard_mapping(key, 1).unwrap().reply().unwrap().keysyms[0]
    }
}

/// The streaming process, as a Container has it.
pub(crate) struct Stream {
    process: Child,
    stdin: Option<ChildStdin>,
    lines: Receiver<FromStream>,
    /// What has been said and was not waited for.
    said: Vec<FromStream>,
    request: u64,
}

pub(crate) fn config(socket: &Path) -> StreamConfig {
    StreamConfig {
        display_socket: socket.to_owned(),
        sound_pipe: None,
        microphone_pipe: None,
        gamepads: Gamepads::Unasked,
        width: WIDTH,
        height: HEIGHT,
        fps: 30,
        layout: "us".to_owned(),
        keyboard: Keyboard::Position,
        bind: "127.0.0.1:0".parse().unwrap(),
        public: None,
        draw_within_ms: 60_000,
        idle_after_ms: 600_000,
        stale: false,
    }
}

impl Stream {
    pub(crate) fn start(config: &StreamConfig) -> Self {
        Self::start_within(&[], config)
    }

    /// Started by way of another program.
    pub(crate) fn start_within(prefix: &[String], config: &StreamConfig) -> Self {
        let mut stream = Self::within(prefix);
        stream.write(serde_json::to_string(config).unwrap().as_bytes());
        stream
    }

    /// The process, told nothing.
    pub(crate) fn bare() -> Self {
        Self::within(&[])
    }

    fn within(prefix: &[String]) -> Self {
        let me = std::env::current_exe().unwrap();
        let mut words = prefix.iter().map(std::ffi::OsStr::new).chain([me.as_os_str()]);
        let mut process = Command::new(words.next().unwrap())
            .args(words)
            // Two threads, because with one the harness writes a test's name before what the test writes.
            .args(["streams_for_the_other_tests", "--exact", "--nocapture", "--test-threads=2"])
            .env(CHILD, "1")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (send, lines) = channel();
        let out = BufReader::new(process.stdout.take().unwrap());
        std::thread::spawn(move || {
            // The harness says something too.
            for line in out.lines().map_while(Result::ok).filter(|line| line.starts_with('{')) {
                if send.send(serde_json::from_str(&line).unwrap()).is_err() {
                    return;
                }
            }
        });
        let stdin = process.stdin.take();
        Self { process, stdin, lines, said: Vec::new(), request: 0 }
    }

    /// A line, as it is.
    pub(crate) fn write(&mut self, line: &[u8]) {
        let stdin = self.stdin.as_mut().unwrap();
        // A child that has ended takes nothing more, which is for the test to see.
        let _ = stdin.write_all(line).and_then(|()| stdin.write_all(b"\n"));
    }

    pub(crate) fn tell(&mut self, what: &ToStream) {
        self.write(serde_json::to_string(what).unwrap().as_bytes());
    }

    pub(crate) fn close(&mut self) {
        self.stdin = None;
    }

    /// Waits for something that the child says.
    pub(crate) fn hear<T>(&mut self, what: &str, mut wanted: impl FnMut(&FromStream) -> Option<T>) -> T {
        if let Some((at, found)) = self.said.iter().enumerate().find_map(|(at, said)| Some((at, wanted(said)?))) {
            self.said.remove(at);
            return found;
        }
        let end = Instant::now() + PATIENCE;
        loop {
            let said = match self.lines.recv_timeout(end.saturating_duration_since(Instant::now())) {
                Ok(said) => said,
                Err(RecvTimeoutError::Timeout) => panic!("the child does not say {what}; it said {:?}", self.said),
                Err(RecvTimeoutError::Disconnected) => panic!("the child ended before {what}: {:?}", self.said),
            };
            match wanted(&said) {
                Some(found) => return found,
                None => self.said.push(said),
            }
        }
    }

    pub(crate) fn ready(&mut self) -> SocketAddr {
        self.hear("ready", |said| if let FromStream::Ready { listens } = said { Some(*listens) } else { None })
    }

    pub(crate) fn failed(&mut self) -> String {
        self.hear("failed", |said| if let FromStream::Failed { why } = said { Some(why.clone()) } else { None })
    }

    /// Hands an offer over; the answer, or what it is refused with.
    pub(crate) fn offer(&mut self, player: u64, sdp: String) -> Result<String, (String, String)> {
        self.request += 1;
        let mine = self.request;
        self.tell(&ToStream::Offer { request: mine, player, sdp });
        self.hear("an answer", |said| match said {
            FromStream::Answer { request, sdp } if *request == mine => Some(Ok(sdp.clone())),
            FromStream::Refused { request, code, why } if *request == mine => Some(Err((code.clone(), why.clone()))),
            _ => None,
        })
    }

    pub(crate) fn connected(&mut self, wanted: u64, is: bool) {
        self.hear(&format!("player {wanted} connected: {is}"), |said| {
            (*said == FromStream::Player { player: wanted, connected: is }).then_some(())
        });
    }

    /// Waits for its end.
    pub(crate) fn ended(&mut self) -> bool {
        let end = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.process.try_wait().unwrap() {
                return status.success();
            }
            assert!(Instant::now() < end, "the child does not end");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Hundredths of a second that it has spent on a processor.
    pub(crate) fn ticks(&self) -> u64 {
        let said = std::fs::read_to_string(format!("/proc/{}/stat", self.process.id())).unwrap();
        // Behind its name, which may hold anything: the twelfth and thirteenth.
        let numbers = said.rsplit(')').next().unwrap().split_whitespace();
        numbers.skip(11).take(2).map(|number| number.parse::<u64>().unwrap()).sum()
    }

    /// Whether it still runs.
    pub(crate) fn is_alive(&mut self) -> bool {
        self.process.try_wait().unwrap().is_none()
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A picture that has arrived.
#[derive(Clone, Debug)]
pub(crate) struct Luma {
    pub(crate) width: usize,
    pub(crate) height: usize,
    stride: usize,
    y: Vec<u8>,
}

impl Luma {
    pub(crate) fn at(&self, x: usize, y: usize) -> u8 {
        self.y[y * self.stride + x]
    }

    /// The code at the bottom left, read as a page reads it.
    pub(crate) fn code(&self) -> Option<u32> {
        let bits: Vec<bool> = (0..40).map(|cell| self.at(cell * 8 + 4, self.height - 4) > 125).collect();
        let number = |from: usize, to: usize| bits[from..to].iter().fold(0u64, |n, bit| n << 1 | u64::from(*bit));
        let code = u32::try_from(number(4, 36)).unwrap();
        let sum = (0..8).map(|nibble| u64::from(code >> (nibble * 4) & 15)).sum::<u64>() & 15;
        (number(0, 4) == 0b1010 && number(36, 40) == sum).then_some(code)
    }
}

/// Takes one packet, or waits for a little while, until `when` at most.
pub(crate) fn hear(rtc: &mut Rtc, socket: &UdpSocket, local: SocketAddr, when: Instant) {
    let pause = when.saturating_duration_since(Instant::now());
    socket.set_read_timeout(Some(pause.clamp(Duration::from_millis(1), Duration::from_millis(15)))).unwrap();
    let mut packet = [0; 2_000];
    let input = match socket.recv_from(&mut packet) {
        Ok((length, source)) => {
            let contents = packet[..length].try_into().unwrap();
            let receive = Receive { proto: Protocol::Udp, source, destination: local, contents };
            Input::Receive(Instant::now(), receive)
        }
        Err(_) => Input::Timeout(Instant::now()),
    };
    rtc.handle_input(input).unwrap();
}

/// Who looks on and plays: the page's part of WebRTC.
pub(crate) struct Player {
    pub(crate) rtc: Rtc,
    pub(crate) socket: UdpSocket,
    local: SocketAddr,
    input: ChannelId,
    control: ChannelId,
    open: Vec<ChannelId>,
    decoder: Decoder,
    pub(crate) audio: Mid,
    pub(crate) codec: Option<Codec>,
    /// Messages on `control`.
    pub(crate) told: Vec<Value>,
    /// Frames that came, and bytes that cannot be decoded here (VP8).
    pub(crate) frames: usize,
    pub(crate) raw: Option<Vec<u8>>,
    pub(crate) picture: Option<Luma>,
    /// Packets of sound, with their time in samples.
    pub(crate) sound: Vec<(u64, Vec<u8>)>,
    /// When the last sound and the last frame were made, by the sender's clock, as its reports tell it.
    pub(crate) made: [Option<SystemTime>; 2],
    pub(crate) video_times: Vec<u64>,
    pub(crate) gone: bool,
    /// When frames came that can be shown: none before them is missing.
    pub(crate) shown: Vec<Instant>,
    /// Pictures are of no use before one that needs none before it.
    broken: bool,
}

/// What the sender's report says of when it was made: the clock on its wall, and what its packets are counted in.
fn made(data: &MediaData) -> Option<SystemTime> {
    let report = data.last_sender_info?;
    let (at, then) = (Duration::from(data.time), Duration::from(report.rtp_time));
    Some(if at >= then { report.ntp_time + (at - then) } else { report.ntp_time - (then - at) })
}

/// What a player's browser can.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Can {
    H264,
    Vp8,
    Both,
}

impl Player {
    /// An offer, and what takes its answer.
    pub(crate) fn offers(can: Can) -> (Self, SdpPendingOffer, String) {
        Self::offers_from(([127, 0, 0, 1], 0).into(), can)
    }

    fn offers_from(place: SocketAddr, can: Can) -> (Self, SdpPendingOffer, String) {
        str0m::crypto::from_feature_flags().install_process_default();
        let socket = UdpSocket::bind(place).unwrap();
        let local = socket.local_addr().unwrap();
        // Browsers wait for what is sent again by the clock; a frame may have more packets than are waited for by default.
        let config = RtcConfig::new().clear_codecs().enable_opus(true, false).set_reordering_size_video(1_000);
        let config = config.enable_vp8(can != Can::H264).enable_h264(can != Can::Vp8);
        let mut rtc = config.build(Instant::now());
        rtc.add_local_candidate(Candidate::host(local, "udp").unwrap());
        let mut api = rtc.sdp_api();
        api.add_media(MediaKind::Video, Direction::RecvOnly, None, None, None);
        let audio = api.add_media(MediaKind::Audio, Direction::SendRecv, None, None, None);
        let input = api.add_channel("input".to_owned());
        let control = api.add_channel("control".to_owned());
        let (offer, pending) = api.apply().unwrap();
        let player = Self {
            rtc,
            socket,
            local,
            input,
            control,
            open: Vec::new(),
            decoder: Decoder::new().unwrap(),
            audio,
            codec: None,
            told: Vec::new(),
            frames: 0,
            raw: None,
            picture: None,
            sound: Vec::new(),
            made: [None; 2],
            video_times: Vec::new(),
            gone: false,
            shown: Vec::new(),
            broken: false,
        };
        (player, pending, offer.to_sdp_string())
    }

    /// Joins; both channels are open.
    pub(crate) fn join(stream: &mut Stream, id: u64, can: Can) -> Self {
        Self::join_from(([127, 0, 0, 1], 0).into(), |answer| answer, stream, id, can)
    }

    /// Joins from some address; the answer may be changed on its way.
    pub(crate) fn join_from(
        place: SocketAddr,
        change: impl FnOnce(String) -> String,
        stream: &mut Stream,
        id: u64,
        can: Can,
    ) -> Self {
        let (mut player, pending, offer) = Self::offers_from(place, can);
        let answer = change(stream.offer(id, offer).unwrap());
        player.rtc.sdp_api().accept_answer(pending, SdpAnswer::from_sdp_string(&answer).unwrap()).unwrap();
        player.until("channels", |player| player.open.len() == 2);
        stream.connected(id, true);
        player
    }

    /// Lets the connection work until it is so.
    pub(crate) fn until(&mut self, what: &str, mut is: impl FnMut(&mut Self) -> bool) {
        let end = Instant::now() + PATIENCE;
        while !is(self) {
            assert!(
                Instant::now() < end,
                "no {what}: {} frames, told {:?}",
                self.frames,
                &self.told[self.told.len().saturating_sub(5)..]
            );
            self.step();
        }
    }

    /// Works for a little while.
    pub(crate) fn step(&mut self) {
        let when = loop {
            match self.rtc.poll_output().unwrap() {
                Output::Timeout(when) => break when,
                Output::Transmit(packet) => drop(self.socket.send_to(&packet.contents, packet.destination).unwrap()),
                Output::Event(event) => self.event(event),
            }
        };
        hear(&mut self.rtc, &self.socket, self.local, when);
    }

    fn event(&mut self, event: Event) {
        match event {
            Event::ChannelOpen(id, _) => self.open.push(id),
            Event::ChannelData(data) if data.id == self.control => {
                self.told.push(serde_json::from_slice(&data.data).unwrap());
            }
            Event::MediaData(data) if data.mid == self.audio => {
                self.made[0] = made(&data);
                self.sound.push((data.time.numer(), data.data.to_vec()));
            }
            Event::MediaData(data) => {
                self.made[1] = made(&data);
                self.frames += 1;
                self.codec = Some(data.params.spec().codec);
                self.video_times.push(data.time.numer());
                if self.codec == Some(Codec::H264) {
                    let key = data.data.windows(4).any(|four| four[..3] == [0, 0, 1] && four[3] & 31 == 5);
                    self.broken = !key && (self.broken || !data.contiguous);
                    if !self.broken {
                        self.shown.push(Instant::now());
                    }
                    // Packets that came before this side's keys were ready are lost: like any player, it asks again.
                    let broken = match self.decoder.decode(&data.data) {
                        Ok(Some(picture)) => {
                            let ((width, height), (stride, _, _)) = (picture.dimensions(), picture.strides());
                            self.picture = Some(Luma { width, height, stride, y: picture.y().to_vec() });
                            self.broken
                        }
                        Ok(None) => self.broken,
                        Err(_) => true,
                    };
                    if broken && self.open.contains(&self.control) {
                        self.ask(json!({"t": "keyframe"}));
                    }
                } else {
                    self.raw = Some(data.data.to_vec());
                }
            }
            Event::IceConnectionStateChange(str0m::IceConnectionState::Disconnected) | Event::Closed => {
                self.gone = true;
            }
            _ => {}
        }
    }

    fn write(&mut self, id: ChannelId, message: &Value) {
        assert!(self.rtc.channel(id).unwrap().write(false, message.to_string().as_bytes()).unwrap());
        self.step();
    }

    /// Something that the player does.
    #[expect(clippy::needless_pass_by_value, reason = "messages are written where they are sent")]
    pub(crate) fn act(&mut self, message: Value) {
        self.write(self.input, &message);
    }

    /// Something that the page asks.
    #[expect(clippy::needless_pass_by_value, reason = "messages are written where they are sent")]
    pub(crate) fn ask(&mut self, message: Value) {
        self.write(self.control, &message);
    }

    /// Waits for a message of this kind; those before it are forgotten.
    pub(crate) fn told(&mut self, kind: &str) -> Value {
        self.until(kind, |player| player.told.iter().any(|message| message["t"] == kind));
        let at = self.told.iter().position(|message| message["t"] == kind).unwrap();
        self.told.drain(..=at).next_back().unwrap()
    }

    /// Goes there and back once on both sides.
    pub(crate) fn ping(&mut self) {
        self.told.retain(|message| message["t"] != "pong");
        self.ask(json!({"t": "ping", "at": 1.5}));
        assert_eq!(self.told("pong")["at"], 1.5);
    }

    /// Sends sound that is encoded already.
    pub(crate) fn speak(&mut self, samples: u64, opus: &[u8]) {
        let writer = self.rtc.writer(self.audio).unwrap();
        let pt = writer.payload_params().find(|params| params.spec().codec == Codec::Opus).unwrap().pt();
        let time = MediaTime::new(samples, Frequency::FORTY_EIGHT_KHZ);
        writer.write(pt, Instant::now(), time, opus.to_vec()).unwrap();
        self.step();
    }
}

/// Everything at once: display, program that has drawn, child that is ready.
pub(crate) struct Rig {
    // In the order in which they end.
    pub(crate) stream: Stream,
    pub(crate) program: Program,
    pub(crate) display: Xvfb,
    pub(crate) listens: SocketAddr,
}

impl Rig {
    pub(crate) fn start(change: impl FnOnce(&mut StreamConfig)) -> Self {
        let display = Xvfb::start();
        let mut program = Program::start(&display.socket);
        program.draw();
        let mut config = config(&display.socket);
        change(&mut config);
        let mut stream = Stream::start(&config);
        let listens = stream.ready();
        stream.hear("drawing", |said| (*said == FromStream::Drawing).then_some(()));
        Self { stream, program, display, listens }
    }
}
