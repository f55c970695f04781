//! A network between player and child that loses, delays and narrows, moves a player to another address, or is cut.
//!
//! Where this process is root and the kernel has `netem`, the child lives in a network namespace of its own behind a pair of
//! virtual cards, and the kernel spoils the way. Elsewhere a relay in this process does the same to the same packets.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::AsFd;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Once};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// How one direction treats packets.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Way {
    pub(crate) delay: Duration,
    /// Of a hundred packets so many are lost, each by chance.
    pub(crate) loss_percent: u8,
    /// Bits a second; nothing is no bound.
    pub(crate) bps: Option<u64>,
    /// Bytes that may wait for their turn where there is a bound.
    pub(crate) queue_bytes: u64,
    /// Nothing comes through.
    pub(crate) cut: bool,
}

impl Way {
    pub(crate) const CLEAR: Self =
        Self { delay: Duration::ZERO, loss_percent: 0, bps: None, queue_bytes: 0, cut: false };
}

/// What lies between.
pub(crate) enum Wire {
    Relay(Relay),
    Netem(Netem),
}

impl Wire {
    /// The kernel's where it has one, else ours; says which, once.
    pub(crate) fn start() -> Self {
        static SAID: Once = Once::new();
        match Netem::start() {
            Ok(netem) => {
                SAID.call_once(|| eprintln!("the network: namespaces and netem"));
                Self::Netem(netem)
            }
            Err(why) => {
                SAID.call_once(|| eprintln!("the network: a relay of the test's own, because {why}"));
                Self::Relay(Relay::start())
            }
        }
    }

    /// What the child must be started with.
    pub(crate) fn prefix(&self) -> Vec<String> {
        match self {
            Self::Relay(_) => Vec::new(),
            Self::Netem(netem) => ["ip", "netns", "exec", &netem.far].map(ToOwned::to_owned).to_vec(),
        }
    }

    /// Where the child listens.
    pub(crate) fn child(&self) -> SocketAddr {
        match self {
            Self::Relay(_) => ([127, 0, 0, 1], 0).into(),
            Self::Netem(netem) => (netem.address(2), 0).into(),
        }
    }

    /// Where a player's socket is bound.
    pub(crate) fn player(&self) -> SocketAddr {
        match self {
            Self::Relay(_) => ([127, 0, 0, 1], 0).into(),
            Self::Netem(netem) => (netem.address(if netem.left.load(Ordering::Relaxed) { 3 } else { 1 }), 0).into(),
        }
    }

    /// Leads to the child, once it listens. What a player must be told instead of its address.
    pub(crate) fn leads_to(&self, listens: SocketAddr) -> SocketAddr {
        match self {
            Self::Relay(relay) => {
                relay.shared.lock().unwrap().child = Some(listens);
                relay.front
            }
            Self::Netem(_) => listens,
        }
    }

    /// From now on it is like this: towards the player, and towards the child.
    pub(crate) fn set(&self, down: Way, up: Way) {
        match self {
            Self::Relay(relay) => relay.shared.lock().unwrap().ways = [down, up],
            Self::Netem(netem) => netem.set(down, up),
        }
    }

    /// Players that are there lose their network for good: from now on nothing reaches them any more.
    pub(crate) fn leave(&self) {
        match self {
            Self::Relay(relay) => relay.shared.lock().unwrap().departures += 1,
            Self::Netem(netem) => netem.leave(),
        }
    }

    /// Packets that were lost by chance, for lack of room, or because the way was cut.
    pub(crate) fn lost(&self) -> u64 {
        match self {
            Self::Relay(relay) => relay.lost.load(Ordering::Relaxed),
            Self::Netem(netem) => netem.lost(),
        }
    }
}

/// What the relay's thread and the test share.
struct Shared {
    child: Option<SocketAddr>,
    ways: [Way; 2],
    /// How often those that are there have lost their network.
    departures: u32,
}

/// Packets between players and the child, in user space.
pub(crate) struct Relay {
    front: SocketAddr,
    shared: Arc<Mutex<Shared>>,
    lost: Arc<AtomicU64>,
    ends: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Relay {
    pub(crate) fn start() -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let front = socket.local_addr().unwrap();
        let shared = Arc::new(Mutex::new(Shared { child: None, ways: [Way::CLEAR; 2], departures: 0 }));
        let (lost, ends) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let carrier = Carrier {
            front: socket,
            shared: Arc::clone(&shared),
            lost: Arc::clone(&lost),
            flows: Vec::new(),
            waiting: BinaryHeap::new(),
            free: [Instant::now(); 2],
            last: [Instant::now(); 2],
            departures: 0,
            number: 0,
            random: 1,
        };
        let stop = Arc::clone(&ends);
        let thread = std::thread::spawn(move || carrier.run(&stop));
        Self { front, shared, lost, ends, thread: Some(thread) }
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// A packet on its way: when it arrives, its number, its direction, of which player.
type Waiting = Reverse<(Instant, u64, usize, usize, Vec<u8>)>;

const DOWN: usize = 0;
const UP: usize = 1;

struct Carrier {
    front: UdpSocket,
    shared: Arc<Mutex<Shared>>,
    lost: Arc<AtomicU64>,
    /// Of each player its address and the socket that stands for it; nothing once its network is gone.
    flows: Vec<(SocketAddr, Option<UdpSocket>)>,
    waiting: BinaryHeap<Waiting>,
    /// When a narrow way has sent what waits for it, and when the last packet arrives: order is kept.
    free: [Instant; 2],
    last: [Instant; 2],
    departures: u32,
    number: u64,
    random: u32,
}

impl Carrier {
    fn run(mut self, ends: &AtomicBool) {
        self.front.set_nonblocking(true).unwrap();
        let mut packet = [0; 2_000];
        while !ends.load(Ordering::Relaxed) {
            self.wait();
            let (child, ways, departures) = {
                let shared = self.shared.lock().unwrap();
                (shared.child, shared.ways, shared.departures)
            };
            let Some(child) = child else { continue };
            if departures != self.departures {
                self.departures = departures;
                self.flows.iter_mut().for_each(|(_, socket)| *socket = None);
            }
            while let Ok((length, source)) = self.front.recv_from(&mut packet) {
                let flow = self.flows.iter().position(|(known, _)| *known == source).unwrap_or_else(|| {
                    self.flows.push((source, Some(stand_in(child))));
                    self.flows.len() - 1
                });
                self.take(&packet[..length], flow, UP, ways[UP]);
            }
            for flow in 0..self.flows.len() {
                while let Some(Ok(length)) = self.flows[flow].1.as_ref().map(|socket| socket.recv(&mut packet)) {
                    self.take(&packet[..length], flow, DOWN, ways[DOWN]);
                }
            }
            self.deliver();
        }
    }

    /// Waits for a packet, or until one is to be delivered.
    fn wait(&self) {
        let most = Duration::from_millis(20);
        let next = self.waiting.peek().map_or(most, |Reverse(next)| next.0.saturating_duration_since(Instant::now()));
        let most = Timespec { tv_sec: 0, tv_nsec: next.min(most).as_nanos().try_into().unwrap() };
        let sockets = std::iter::once(&self.front).chain(self.flows.iter().filter_map(|(_, socket)| socket.as_ref()));
        let mut fds: Vec<_> = sockets.map(|socket| PollFd::from_borrowed_fd(socket.as_fd(), PollFlags::IN)).collect();
        let _ = poll(&mut fds, Some(&most));
    }

    fn chance(&mut self) -> u32 {
        // Xorshift: the same losses in each run, as far as the packets are the same.
        self.random ^= self.random << 13;
        self.random ^= self.random >> 17;
        self.random ^= self.random << 5;
        self.random % 100
    }

    fn take(&mut self, packet: &[u8], flow: usize, direction: usize, way: Way) {
        let now = Instant::now();
        let lost = self.chance() < u32::from(way.loss_percent);
        let free = self.free[direction].max(now);
        let full = way
            .bps
            .is_some_and(|bps| (free - now).as_micros() * u128::from(bps) / 8_000_000 > u128::from(way.queue_bytes));
        if way.cut || lost || full {
            self.lost.fetch_add(1, Ordering::Relaxed);
            return;
        }
        let takes = way.bps.map_or(0, |bps| u64::try_from(packet.len()).unwrap() * 8_000_000 / bps);
        self.free[direction] = free + Duration::from_micros(takes);
        let due = (self.free[direction] + way.delay).max(self.last[direction]);
        self.last[direction] = due;
        self.number += 1;
        self.waiting.push(Reverse((due, self.number, direction, flow, packet.to_vec())));
    }

    fn deliver(&mut self) {
        while self.waiting.peek().is_some_and(|Reverse(next)| next.0 <= Instant::now()) {
            let Some(Reverse((_, _, direction, flow, packet))) = self.waiting.pop() else { return };
            let (player, Some(socket)) = &self.flows[flow] else { continue };
            // An end that is gone takes nothing.
            let _ = if direction == UP { socket.send(&packet) } else { self.front.send_to(&packet, player) };
        }
    }
}

fn stand_in(child: SocketAddr) -> UdpSocket {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.connect(child).unwrap();
    socket.set_nonblocking(true).unwrap();
    socket
}

/// Two virtual cards, one of them in a namespace of its own.
pub(crate) struct Netem {
    number: u8,
    near: String,
    far: String,
    /// Whether the first of the player's two addresses is dead.
    left: AtomicBool,
}

impl Netem {
    fn start() -> Result<Self, String> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed) + std::process::id();
        let number = u8::try_from(number % 250).unwrap_or(0) + 1;
        let netem =
            Self { number, near: format!("mn{number}"), far: format!("mf{number}"), left: AtomicBool::new(false) };
        let (near, far) = (netem.near.as_str(), netem.far.as_str());
        let (one, two) = (format!("{}/24", netem.address(1)), format!("{}/24", netem.address(2)));
        // Asked first, and of the loopback of a namespace of its own, so that a kernel without it changes nothing.
        run(&["unshare", "-n", "tc", "qdisc", "add", "dev", "lo", "root", "netem", "delay", "1ms"])
            .map_err(|why| format!("the kernel lends no netem ({why})"))?;
        run(&["ip", "netns", "add", far])?;
        run(&["ip", "link", "add", near, "type", "veth", "peer", "name", "far", "netns", far])?;
        run(&["ip", "address", "add", &one, "dev", near])?;
        run(&["ip", "link", "set", near, "up"])?;
        run(&["ip", "-n", far, "address", "add", &two, "dev", "far"])?;
        run(&["ip", "-n", far, "link", "set", "far", "up"])?;
        run(&["ip", "-n", far, "link", "set", "lo", "up"])?;
        run(&["ip", "address", "add", &format!("{}/24", netem.address(3)), "dev", near])?;
        Ok(netem)
    }

    fn leave(&self) {
        self.left.store(true, Ordering::Relaxed);
        run(&["ip", "-n", &self.far, "route", "add", "blackhole", &format!("{}/32", self.address(1))]).unwrap();
    }

    fn address(&self, host: u8) -> IpAddr {
        [10, 213, self.number, host].into()
    }

    fn set(&self, down: Way, up: Way) {
        let (near, far) = (self.near.as_str(), self.far.as_str());
        for (way, mut command) in [(down, vec!["tc", "-n", far]), (up, vec!["tc"])] {
            let card = if command.len() > 1 { "far" } else { near };
            command.extend(["qdisc", "replace", "dev", card, "root", "netem"]);
            let loss = if way.cut { 100 } else { way.loss_percent };
            let mut words = vec!["delay".into(), format!("{}ms", way.delay.as_millis())];
            words.extend(["loss".into(), format!("{loss}%")]);
            // Its bound is in packets; ours are about a thousand bytes each.
            words
                .extend(["limit".into(), if way.bps.is_some() { way.queue_bytes / 1_000 } else { 10_000 }.to_string()]);
            if let Some(bps) = way.bps {
                words.extend(["rate".into(), format!("{bps}bit")]);
            }
            command.extend(words.iter().map(String::as_str));
            run(&command).unwrap();
        }
    }

    fn lost(&self) -> u64 {
        let (near, far) = (self.near.as_str(), self.far.as_str());
        let dropped = |command: &[&str]| {
            let said = run(command).unwrap();
            let number = said.split("dropped ").nth(1).and_then(|rest| rest.split([',', ' ']).next());
            number.map_or(0, |number| number.parse::<u64>().unwrap())
        };
        dropped(&["tc", "-n", far, "-s", "qdisc", "show", "dev", "far"])
            + dropped(&["tc", "-s", "qdisc", "show", "dev", near])
    }
}

impl Drop for Netem {
    fn drop(&mut self) {
        let _ = run(&["ip", "link", "delete", &self.near]);
        let _ = run(&["ip", "netns", "delete", &self.far]);
    }
}

/// What it says, or why it does not.
fn run(command: &[&str]) -> Result<String, String> {
    let (program, args) = command.split_first().unwrap();
    let output = Command::new(program).args(args).output().map_err(|e: io::Error| format!("{program}: {e}"))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    Err(String::from_utf8_lossy(&output.stderr).trim().to_owned())
}
