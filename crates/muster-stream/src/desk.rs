//! The thread that talks to players: packets in and out, what they do, what they are told.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use str0m::net::{Protocol, Receive};
use str0m::{Input, Output};

use crate::aside::{Seen, Wish};
use crate::control::{FromStream, StreamConfig, StreamStats, ToStream};
use crate::display::DisplayError;
use crate::encode::VideoCodec;
use crate::gate::Gate;
use crate::input::Hands;
use crate::messages::{Ask, Tell};
use crate::player::{Brought, Player, Refusal};
use crate::sound::{Packet, Voice};
use crate::studio::{BPS_MAX, BPS_MIN, Frame, Made, Order, START_BPS, wall_ms};
use crate::wake::{Receiver, Sender, wait};

/// Players at once: one plays, others may look on.
const PLAYERS_MAX: usize = 8;
/// Packets that are read in one go, before frames and clocks get their turn.
const BATCH: usize = 64;
/// Packets that may wait to be read.
const RECEIVE_BYTES: usize = 1 << 20;
/// The longest packet that is read.
const PACKET_MAX: usize = 2_000;
/// A player that has not connected by then never will.
const CONNECT_WITHIN: Duration = Duration::from_secs(15);
/// A picture that was made for whoever comes is good for so long.
const HELD_MAX: Duration = Duration::from_secs(5);
/// A player of whom nothing is heard for so long, not even what its browser sends by itself, holds no keys any more, and no
/// place that another wants.
const HOLD_WITHIN: Duration = Duration::from_secs(4);
/// How often the times of frames are told.
const TIMES_EVERY: Duration = Duration::from_millis(200);
/// How often numbers are told.
const STATS_EVERY: Duration = Duration::from_secs(1);

/// What is told to the parent.
pub(crate) type Parent = Box<dyn FnMut(FromStream) -> io::Result<()> + Send>;

/// Why the thread ends.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Trouble {
    #[error(transparent)]
    Display(#[from] DisplayError),
    #[error("the network fails: {0}")]
    Net(#[from] io::Error),
    #[error("{0}")]
    Studio(String),
    #[error("the program has drawn nothing within {} s of the display's start; it may not be one with a window", .0.as_secs())]
    Drawless(Duration),
}

pub(crate) struct Desk {
    config: StreamConfig,
    socket: UdpSocket,
    addresses: Vec<SocketAddr>,
    local: SocketAddr,
    hands: Hands,
    made: Receiver<Made>,
    orders: Sender<Order>,
    seen: Receiver<Seen>,
    wishes: Sender<Wish>,
    heard: Receiver<Packet>,
    /// Whether sound is encoded.
    listened: Arc<AtomicBool>,
    voices: Option<Sender<Voice>>,
    /// What the pointer looks like, for players to come.
    pointer: Option<Tell>,
    parent_in: Receiver<Option<ToStream>>,
    parent: Parent,
    players: Vec<Player>,
    /// Who did something last, and so may hold keys.
    actor: Option<u64>,
    /// One picture goes to all, in this form; the first player's browser decides.
    codec: VideoCodec,
    begin: Instant,
    rate: u32,
    watched: bool,
    /// The first picture for whoever comes next, made while nobody looks on.
    held: Option<Frame>,
    last_size: (u16, u16),
    /// By when the program must have drawn something, if it has not yet.
    draw_by: Option<Instant>,
    last_used: Instant,
    idle_warned: bool,
    next_times: Instant,
    next_stats: Instant,
    ending: Option<Instant>,
    gate: Gate,
}

/// What the thread works with.
pub(crate) struct Lines {
    pub(crate) made: Receiver<Made>,
    pub(crate) orders: Sender<Order>,
    pub(crate) seen: Receiver<Seen>,
    pub(crate) wishes: Sender<Wish>,
    pub(crate) heard: Receiver<Packet>,
    pub(crate) listened: Arc<AtomicBool>,
    pub(crate) voices: Option<Sender<Voice>>,
    pub(crate) parent_in: Receiver<Option<ToStream>>,
    pub(crate) parent: Parent,
}

impl Desk {
    pub(crate) fn new(config: StreamConfig, socket: UdpSocket, hands: Hands, lines: Lines) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        // More of it is kept while a picture is encoded; the system gives what it allows.
        let _ = rustix::net::sockopt::set_socket_recv_buffer_size(&socket, RECEIVE_BYTES);
        let local = socket.local_addr()?;
        let shown = config.public.map_or(local, |ip| SocketAddr::new(ip, local.port()));
        let Lines { made, orders, seen, wishes, heard, listened, voices, parent_in, parent } = lines;
        let now = Instant::now();
        let draw_within = Duration::from_millis(config.draw_within_ms);
        let mut desk = Self {
            last_size: (config.width, config.height),
            config,
            socket,
            addresses: vec![shown],
            local: shown,
            hands,
            made,
            orders,
            seen,
            wishes,
            heard,
            listened,
            voices,
            pointer: None,
            parent_in,
            parent,
            players: Vec::new(),
            actor: None,
            codec: VideoCodec::H264,
            begin: now,
            rate: 0,
            watched: false,
            held: None,
            draw_by: Some(now + draw_within),
            last_used: now,
            idle_warned: false,
            next_times: now,
            next_stats: now,
            ending: None,
            gate: Gate::default(),
        };
        desk.close_gate();
        Ok(desk)
    }

    /// Works until the parent's line ends.
    pub(crate) fn run(&mut self) -> Result<(), Trouble> {
        let mut packet = vec![0; PACKET_MAX];
        loop {
            let mut next = self.clocks()?;
            for at in 0..self.players.len() {
                next = next.min(self.drain(at)?);
            }
            self.sweep()?;
            if self.ending.is_some_and(|at| Instant::now() >= at) {
                return Ok(());
            }
            let most = next.saturating_duration_since(Instant::now());
            let (made, seen, heard) = (self.made.as_fd(), self.seen.as_fd(), self.heard.as_fd());
            wait([self.socket.as_fd(), made, seen, heard, self.parent_in.as_fd()], Some(most))?;
            self.packets(&mut packet)?;
            self.frames()?;
            self.sound()?;
            self.sights();
            if !self.orders_of_parent()? {
                return Ok(());
            }
        }
    }

    /// Lets nobody but the players in.
    fn close_gate(&mut self) {
        let names = self.players.iter().filter_map(|player| player.name).collect();
        self.gate = Gate::new(names, self.players.iter().flat_map(Player::places));
        // Without the kernel's help strangers cost more, and are kept out all the same.
        if let Err(error) = self.gate.close(&self.socket) {
            tracing::debug!(%error, "the kernel takes no filter");
        }
    }

    /// Reads what came, at most [`BATCH`] packets. What belongs to no player costs nothing, or a look at its first bytes.
    fn packets(&mut self, packet: &mut [u8]) -> Result<(), Trouble> {
        for _ in 0..BATCH {
            let (length, source) = match self.socket.recv_from(packet) {
                Ok(came) => came,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                // An answer of some host that a port is closed there; it says nothing about this socket.
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => continue,
                Err(error) => return Err(error.into()),
            };
            let Some(bytes) = packet.get(..length).filter(|bytes| self.gate.admits(source, bytes)) else { continue };
            let Ok(contents) = bytes.try_into() else { continue };
            let receive = Receive { proto: Protocol::Udp, source, destination: self.local, contents };
            let input = Input::Receive(Instant::now(), receive);
            if let Some(at) = self.players.iter().position(|player| player.rtc.accepts(&input)) {
                let (mut broken, mut news) = (false, false);
                if let Some(player) = self.players.get_mut(at) {
                    player.heard = Instant::now();
                    broken = player.rtc.handle_input(input).is_err();
                    // Taken from a place that is not known only with a name and the password that belongs to it.
                    news = player.is_at(source);
                }
                if news {
                    self.close_gate();
                }
                if broken {
                    self.part(at)?;
                    continue;
                }
                self.drain(at)?;
            }
        }
        Ok(())
    }

    /// Everything that a connection has to say; gives when it wants to be asked again.
    fn drain(&mut self, at: usize) -> Result<Instant, Trouble> {
        let far = Instant::now() + Duration::from_secs(1);
        loop {
            let Some(player) = self.players.get_mut(at) else { return Ok(far) };
            if !player.rtc.is_alive() {
                return Ok(Instant::now());
            }
            match player.rtc.poll_output() {
                Ok(Output::Timeout(when)) => return Ok(when.min(far)),
                Ok(Output::Transmit(packet)) => match self.socket.send_to(&packet.contents, packet.destination) {
                    // What the system does not take now is lost like on any network, and sent again like there.
                    Ok(_) => {}
                    Err(error) => tracing::trace!(%error, "a packet is not sent"),
                },
                Ok(Output::Event(event)) => {
                    let before = player.is_open();
                    let brought = player.event(event);
                    if !before && player.is_open() {
                        let (width, height, fps) = (self.config.width, self.config.height, self.config.fps);
                        player.tell(&Tell::Hello { width, height, fps, codec: player.codec.name() });
                        if let Some(pointer) = &self.pointer {
                            player.tell(pointer);
                        }
                    }
                    if let Some(brought) = brought {
                        self.brought(at, brought)?;
                    }
                }
                Err(error) => {
                    tracing::debug!(player = player.id, %error, "a connection breaks");
                    player.rtc.disconnect();
                    return Ok(Instant::now());
                }
            }
        }
    }

    fn brought(&mut self, at: usize, brought: Brought) -> Result<(), Trouble> {
        let Some(player) = self.players.get_mut(at) else { return Ok(()) };
        match brought {
            Brought::Connected => {
                let player = player.id;
                self.last_used = Instant::now();
                (self.parent)(FromStream::Player { player, connected: true })?;
                // Before the picture is made: its way may be narrower than those of whoever is here.
                self.apply_rate();
                self.first_picture(at)?;
                self.watch();
            }
            Brought::Gone => player.rtc.disconnect(),
            Brought::Input(message) => {
                self.last_used = Instant::now();
                self.idle_warned = false;
                self.actor = Some(player.id);
                if let Some(text) = self.hands.act(message)? {
                    player.tell(&Tell::Note { code: "pad".to_owned(), text: text.to_owned(), seconds: None });
                }
            }
            Brought::Ask(asked) => self.asked(at, asked),
            Brought::Voice(bytes) => {
                let player = player.id;
                // A voice that nobody takes in time is not worth keeping.
                let _ = self.voices.as_ref().map(|voices| voices.send(Voice { player, bytes }));
            }
            Brought::KeyWanted => self.order(Order::Key(false)),
            Brought::Rate => self.apply_rate(),
        }
        Ok(())
    }

    /// Gives a player who has just come the picture that was made for it meanwhile, or has one made.
    fn first_picture(&mut self, at: usize) -> Result<(), Trouble> {
        let held = self.held.take().filter(|held| !self.watched && held.captured.elapsed() < HELD_MAX);
        let Some(held) = held else {
            self.order(Order::Key(true));
            return Ok(());
        };
        let bytes: Arc<[u8]> = held.bytes.as_slice().into();
        if let Some(player) = self.players.get_mut(at) {
            player.send_frame(&held, &bytes, self.begin);
            if player.needs_key {
                self.order(Order::Key(true));
            }
        }
        self.drain(at).map(drop)
    }

    fn asked(&mut self, at: usize, asked: Ask) {
        let Some(player) = self.players.get_mut(at) else { return };
        match asked {
            Ask::Ping { at } => player.tell(&Tell::Pong { at, now: wall_ms() }),
            Ask::Keyframe => self.order(Order::Key(false)),
            Ask::Code { .. } if self.config.stale => {}
            Ask::Code { n } => self.order(Order::Code(n)),
            Ask::Limit { bps } => {
                player.limit = if bps == 0 { BPS_MAX } else { bps.max(BPS_MIN) };
                self.apply_rate();
            }
            Ask::ClipWanted { on } => {
                player.clip_wanted = on;
                self.want_clip();
            }
            Ask::Clip { text } => self.wish(Wish::Clip(text)),
        }
    }

    /// One picture goes to all, so the narrowest way decides.
    fn apply_rate(&mut self) {
        let connected = self.players.iter().filter(|player| player.connected);
        let Some(rate) = connected.map(|player| player.estimate.min(player.limit)).min() else { return };
        let rate = rate.clamp(BPS_MIN, BPS_MAX);
        // Small steps are not worth the encoder's starting anew; a fall is followed at once.
        if rate < self.rate || rate > self.rate + self.rate / 20 {
            self.rate = rate;
            self.order(Order::Rate(rate));
        }
    }

    fn watch(&mut self) {
        let watched = self.players.iter().any(|player| player.connected);
        if watched != self.watched {
            self.watched = watched;
            self.listened.store(watched, Ordering::Relaxed);
            self.order(Order::Watched(watched));
        }
    }

    fn wish(&self, wish: Wish) {
        if self.wishes.send(wish).is_err() {
            tracing::debug!("the clipboard takes no more wishes");
        }
    }

    /// Has the program's clipboard read where any player agreed to it, and only there.
    fn want_clip(&self) {
        self.wish(Wish::ClipWanted(self.players.iter().any(|player| player.clip_wanted)));
    }

    /// Tells what was seen of the pointer and the clipboard.
    fn sights(&mut self) {
        self.seen.quiet();
        while let Ok(seen) = self.seen.next() {
            let tell = match seen {
                Seen::Pointer(shape) => {
                    let pointer = Tell::Cursor { hidden: shape.is_none().then_some(true), shape };
                    self.players.iter_mut().for_each(|player| player.tell(&pointer));
                    self.pointer = Some(pointer);
                    continue;
                }
                Seen::Clip(text) => Tell::Clip { text },
                Seen::ClipTooLong => {
                    let text = "The program's clipboard holds more than 60 KiB of text, so it is not brought here; copy less at once.";
                    Tell::Note { code: "clip".to_owned(), text: text.to_owned(), seconds: None }
                }
            };
            self.players.iter_mut().filter(|player| player.clip_wanted).for_each(|player| player.tell(&tell));
        }
    }

    fn order(&self, order: Order) {
        if self.orders.send(order).is_err() {
            tracing::debug!("the encoder takes no more orders");
        }
    }

    fn frames(&mut self) -> Result<(), Trouble> {
        self.made.quiet();
        while let Ok(made) = self.made.next() {
            match made {
                Made::Drawing => {
                    self.draw_by = None;
                    (self.parent)(FromStream::Drawing)?;
                }
                Made::Failed(why) => return Err(Trouble::Studio(why)),
                Made::Frame(frame) => self.frame(frame)?,
            }
        }
        Ok(())
    }

    fn frame(&mut self, frame: Frame) -> Result<(), Trouble> {
        self.last_size = (frame.width, frame.height);
        if !self.watched {
            self.held = frame.key.then_some(frame);
            return Ok(());
        }
        let bytes: Arc<[u8]> = frame.bytes.as_slice().into();
        for at in 0..self.players.len() {
            if let Some(player) = self.players.get_mut(at) {
                player.send_frame(&frame, &bytes, self.begin);
            }
            self.drain(at)?;
        }
        Ok(())
    }

    fn sound(&mut self) -> Result<(), Trouble> {
        self.heard.quiet();
        while let Ok(packet) = self.heard.next() {
            for at in 0..self.players.len() {
                if let Some(player) = self.players.get_mut(at) {
                    player.send_sound(&packet, self.begin);
                }
                self.drain(at)?;
            }
        }
        Ok(())
    }

    /// `false` once the parent is gone.
    fn orders_of_parent(&mut self) -> Result<bool, Trouble> {
        self.parent_in.quiet();
        loop {
            match self.parent_in.next() {
                Ok(Some(order)) => self.order_of_parent(order)?,
                Ok(None) | Err(std::sync::mpsc::TryRecvError::Disconnected) => return Ok(false),
                Err(std::sync::mpsc::TryRecvError::Empty) => return Ok(true),
            }
        }
    }

    fn order_of_parent(&mut self, order: ToStream) -> Result<(), Trouble> {
        match order {
            ToStream::Offer { request, player, sdp } => {
                let answer = match self.let_in(player, &sdp)? {
                    Ok(sdp) => FromStream::Answer { request, sdp },
                    Err(Refusal { code, why }) => FromStream::Refused { request, code: code.to_owned(), why },
                };
                (self.parent)(answer)?;
            }
            ToStream::Drop { player } => {
                if let Some(at) = self.players.iter().position(|known| known.id == player) {
                    self.part(at)?;
                }
            }
            ToStream::Note { code, text, seconds } => {
                let note = Tell::Note { code, text, seconds };
                self.players.iter_mut().for_each(|player| player.tell(&note));
            }
            ToStream::End { text } => {
                let end = Tell::End { text };
                self.players.iter_mut().for_each(|player| player.tell(&end));
                // Long enough for the words to be sent again once.
                self.ending = Some(Instant::now() + Duration::from_millis(150));
            }
        }
        Ok(())
    }

    fn let_in(&mut self, id: u64, sdp: &str) -> Result<Result<String, Refusal>, Trouble> {
        let known = self.players.iter().position(|known| known.id == id);
        let alone = self.players.iter().all(|known| known.id == id);
        let codec = if alone { VideoCodec::best(sdp) } else { Some(self.codec).filter(|codec| codec.is_in(sdp)) };
        let Some(codec) = codec else {
            let why = if alone {
                "the browser offers neither H.264 (in packets of mode 1) nor VP8, and this Container sends nothing else; use another browser, or install its codecs".to_owned()
            } else {
                format!(
                    "the session is sent as {} to those who are there already, and the browser does not offer it; use another browser, or join when they have left",
                    self.codec.name()
                )
            };
            return Ok(Err(Refusal { code: "no_codec", why }));
        };
        let full = known.is_none() && self.players.len() >= PLAYERS_MAX;
        let silent = self.silent().filter(|_| full);
        if full && silent.is_none() {
            let why = format!("the session has {PLAYERS_MAX} players already; one of them has to leave first");
            return Ok(Err(Refusal { code: "too_many_players", why }));
        }
        let (player, answer) = match Player::accept(id, sdp, &self.addresses, codec) {
            Ok(accepted) => accepted,
            Err(refusal) => return Ok(Err(refusal)),
        };
        // The same player from another place: the old connection is dead, or soon will be.
        if let Some(at) = known.or(silent) {
            self.part(at)?;
        }
        self.players.push(player);
        self.close_gate();
        if codec != self.codec {
            self.codec = codec;
            self.order(Order::Codec(codec));
        }
        if !self.watched {
            // While it finds its way here; of a size for a way of which nothing is known.
            self.rate = START_BPS;
            self.order(Order::Rate(START_BPS));
            self.order(Order::Prepare);
        }
        Ok(Ok(answer))
    }

    /// Takes leave of a player.
    /// Whoever was silent longest, if that was long: a page that was closed rarely says so, and another may have its place.
    fn silent(&self) -> Option<usize> {
        let players = self.players.iter().enumerate();
        let (at, player) = players.min_by_key(|(_, player)| player.heard)?;
        (player.heard.elapsed() > HOLD_WITHIN).then_some(at)
    }

    fn part(&mut self, at: usize) -> Result<(), Trouble> {
        if at >= self.players.len() {
            return Ok(());
        }
        let player = self.players.swap_remove(at);
        self.close_gate();
        if player.connected {
            (self.parent)(FromStream::Player { player: player.id, connected: false })?;
        }
        if self.actor == Some(player.id) {
            self.let_go()?;
        }
        self.watch();
        if player.clip_wanted {
            self.want_clip();
        }
        Ok(())
    }

    /// Whoever is away holds no keys.
    fn let_go(&mut self) -> Result<(), Trouble> {
        self.actor = None;
        Ok(self.hands.release_all()?)
    }

    fn sweep(&mut self) -> Result<(), Trouble> {
        let now = Instant::now();
        while let Some(at) = self
            .players
            .iter()
            .position(|player| !player.rtc.is_alive() || (!player.connected && now > player.since + CONNECT_WITHIN))
        {
            self.part(at)?;
        }
        Ok(())
    }

    /// What is due; gives when the next is.
    fn clocks(&mut self) -> Result<Instant, Trouble> {
        let now = Instant::now();
        for player in &mut self.players {
            if player.rtc.handle_input(Input::Timeout(now)).is_err() {
                player.rtc.disconnect();
            }
        }
        if now >= self.next_times {
            self.next_times = now + TIMES_EVERY;
            self.players.iter_mut().for_each(Player::tell_times);
        }
        if now >= self.next_stats {
            self.next_stats = now + STATS_EVERY;
            let lost = |player: &Player| Some(player.id) == self.actor && now > player.heard + HOLD_WITHIN;
            if self.players.iter().any(lost) {
                self.let_go()?;
            }
            self.stats()?;
            self.idle(now)?;
        }
        if self.draw_by.is_some_and(|by| now >= by) {
            return Err(Trouble::Drawless(Duration::from_millis(self.config.draw_within_ms)));
        }
        let mut next = self.draw_by.map_or(self.next_stats, |by| by.min(self.next_stats));
        if self.watched {
            next = next.min(self.next_times);
        }
        Ok(self.ending.map_or(next, |at| next.min(at)))
    }

    fn stats(&mut self) -> Result<(), Trouble> {
        let (width, height) = self.last_size;
        for player in self.players.iter_mut().filter(|player| player.connected) {
            player.seek();
            let mut count = std::mem::take(&mut player.count);
            (player.count.loss, player.count.rtt) = (count.loss, count.rtt);
            count.encode.sort_by(f32::total_cmp);
            let encode = count.encode.get(count.encode.len() / 2).copied().unwrap_or_default();
            let fps = f32::from(u16::try_from(count.frames).unwrap_or(u16::MAX));
            let (bps, loss, rtt) = (count.bytes * 8, count.loss, count.rtt.as_secs_f32() * 1_000.0);
            player.tell(&Tell::Stats { fps, bps, loss, rtt, width, height, encode });
            let stats = StreamStats { fps, bps, loss, rtt_ms: rtt, encode_ms: encode, width, height };
            (self.parent)(FromStream::Stats(stats))?;
        }
        Ok(())
    }

    fn idle(&mut self, now: Instant) -> Result<(), Trouble> {
        let after = Duration::from_millis(self.config.idle_after_ms);
        let unused = now.saturating_duration_since(self.last_used);
        if after.is_zero() || unused < after {
            return Ok(());
        }
        if unused >= after * 2 {
            let ms = u64::try_from(unused.as_millis()).unwrap_or(u64::MAX);
            return Ok((self.parent)(FromStream::Idle { ms })?);
        }
        if !std::mem::replace(&mut self.idle_warned, true) {
            let minutes = after.as_secs().div_ceil(60);
            let text = format!(
                "Nobody has used the session for {minutes} min. It ends in as many, so that it costs nothing in vain; press any key to go on."
            );
            let note = Tell::Note { code: "idle".to_owned(), text, seconds: Some(after.as_secs()) };
            self.players.iter_mut().for_each(|player| player.tell(&note));
        }
        Ok(())
    }
}
