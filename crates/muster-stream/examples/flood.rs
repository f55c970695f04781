//! What a flood of junk does to a running session: pictures before it and during it, and what they cost the child.
//!
//! `cargo run --release -p muster-stream --example flood -- [--json] [--packets N] [--seconds N]`; needs Xvfb.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a measurement, stopped by what goes wrong")]

use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rustix::io::IoSlice;
use rustix::net::{MMsgHdr, SendAncillaryBuffer, SendFlags, sendmmsg};
use serde_json::json;

#[path = "../tests/it/rig.rs"]
#[allow(dead_code, reason = "the tests' session, of which this needs a part")]
mod rig;

const ROUNDS: u64 = 4;
const SOCKETS: usize = 16;
const BATCH: usize = 64;

fn main() {
    if std::env::var_os(rig::CHILD).is_some() {
        muster_stream::stream_main().unwrap();
        return;
    }
    let args: Vec<String> = std::env::args().collect();
    let number = |name: &str, other: u64| {
        let at = args.iter().position(|arg| arg == name);
        at.and_then(|at| args.get(at + 1)).map_or(other, |text| text.parse().unwrap())
    };
    let (rate, seconds) = (number("--packets", 50_000), number("--seconds", 5));
    let mut rig = rig::Rig::start(|config| config.fps = 60);
    let mut player = rig::Player::join(&mut rig.stream, 1, rig::Can::H264);
    play(&mut rig, &mut player, Duration::from_secs(2));
    let (mut before, mut during) = (Measured::default(), Measured::default());
    let (mut junk, mut answers) = (0, 0);
    // In turns, so that what else the machine does falls on both.
    for _ in 0..ROUNDS {
        before.add(&measure(&mut rig, &mut player, seconds));
        let (ends, sent) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let sender = {
            let (to, ends, sent) = (rig.listens, Arc::clone(&ends), Arc::clone(&sent));
            std::thread::spawn(move || flood(to, rate, &ends, &sent))
        };
        play(&mut rig, &mut player, Duration::from_millis(500));
        let at_first = sent.load(Ordering::Relaxed);
        during.add(&measure(&mut rig, &mut player, seconds));
        junk += (sent.load(Ordering::Relaxed) - at_first) / seconds / ROUNDS;
        ends.store(true, Ordering::Relaxed);
        answers += sender.join().unwrap();
    }
    let kept = 100.0 * during.fps / before.fps;
    if args.iter().any(|arg| arg == "--json") {
        let what = |m: &Measured| json!({"drawn": m.drawn, "fps": m.fps, "child_cpu_percent": m.cpu});
        let all = json!({"junk_packets_per_second": junk, "answers": answers, "kept_percent": kept,
            "before": what(&before), "during": what(&during)});
        println!("{all}");
    } else {
        println!("junk: {junk} packets a second, {answers} answered");
        println!("pictures a second: {:.1} before, {:.1} during: {kept:.1} %", before.fps, during.fps);
        println!("drawn a second:    {:.1} before, {:.1} during", before.drawn, during.drawn);
        println!("child's processor: {:.1} % before, {:.1} % during", before.cpu, during.cpu);
    }
}

/// Each a second, over all rounds.
#[derive(Default)]
struct Measured {
    drawn: f64,
    fps: f64,
    cpu: f64,
}

impl Measured {
    fn add(&mut self, round: &Self) {
        let rounds = f64::from(u32::try_from(ROUNDS).unwrap());
        self.drawn += round.drawn / rounds;
        self.fps += round.fps / rounds;
        self.cpu += round.cpu / rounds;
    }
}

/// Draws 59 times a second.
fn play(rig: &mut rig::Rig, player: &mut rig::Player, long: Duration) -> u32 {
    let (begin, mut drawn) = (Instant::now(), 0);
    while begin.elapsed() < long {
        if begin.elapsed() >= Duration::from_secs(1) * drawn / 59 {
            // One step, so that it is one picture.
            rig.program.fill(drawn.wrapping_mul(0x0001_0307) | 0x40, 100, 100, 60, 60);
            drawn += 1;
        }
        player.step();
    }
    drawn
}

fn measure(rig: &mut rig::Rig, player: &mut rig::Player, seconds: u64) -> Measured {
    player.shown.clear();
    let (ticks, begin) = (rig.stream.ticks(), Instant::now());
    let drawn = play(rig, player, Duration::from_secs(seconds));
    let passed = begin.elapsed().as_secs_f64();
    let ticks = u32::try_from(rig.stream.ticks() - ticks).unwrap();
    let shown = u32::try_from(player.shown.len()).unwrap();
    // A tick is a hundredth of a second.
    Measured { drawn: f64::from(drawn) / passed, fps: f64::from(shown) / passed, cpu: f64::from(ticks) / passed }
}

/// Sends junk of four kinds from many ports, so many packets a second; how many were answered.
fn flood(to: SocketAddr, rate: u64, ends: &AtomicBool, sent: &AtomicU64) -> u64 {
    let sockets: Vec<UdpSocket> = (0..SOCKETS)
        .map(|_| {
            let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
            socket.connect(to).unwrap();
            socket.set_nonblocking(true).unwrap();
            socket
        })
        .collect();
    let packets = junk();
    let slices: Vec<[IoSlice<'_>; 1]> = packets.iter().map(|packet| [IoSlice::new(packet)]).collect();
    let begin = Instant::now();
    let (mut count, mut answers) = (0u64, 0);
    for socket in sockets.iter().cycle() {
        if ends.load(Ordering::Relaxed) {
            break;
        }
        let due = begin + Duration::from_micros(count * 1_000_000 / rate);
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        let mut nothing: Vec<SendAncillaryBuffer<'_, '_, '_>> =
            (0..BATCH).map(|_| SendAncillaryBuffer::default()).collect();
        let mut batch: Vec<MMsgHdr<'_>> =
            slices.iter().zip(&mut nothing).map(|(slice, nothing)| MMsgHdr::new(slice, nothing)).collect();
        let done = sendmmsg(socket, &mut batch, SendFlags::empty()).unwrap_or(0);
        count += u64::try_from(BATCH).unwrap();
        sent.fetch_add(u64::try_from(done).unwrap(), Ordering::Relaxed);
        if socket.recv(&mut [0; 2_000]).is_ok() {
            answers += 1;
        }
    }
    answers
}

/// Random bytes, and what looks like STUN, DTLS and RTP.
fn junk() -> Vec<Vec<u8>> {
    let mut seed = 1u32;
    let mut random = |length: usize| -> Vec<u8> {
        let mut byte = || {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            seed.to_be_bytes()[0]
        };
        (0..length).map(|_| byte()).collect()
    };
    let stun = [&[0, 1, 0, 28, 0x21, 0x12, 0xa4, 0x42][..], &[5; 12], &[0, 6, 0, 7], b"abc:def\0", &[0; 16]].concat();
    let dtls = [&[22, 0xfe, 0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 50, 1, 0, 0, 38][..], &[0; 46]].concat();
    (0..BATCH)
        .map(|at| match at % 4 {
            0 => random(100 + at * 17),
            1 => stun.clone(),
            2 => dtls.clone(),
            _ => [&[0x80, 96, 0, 1, 0, 0, 0, 1, 0, 0, 0, 2][..], &random(600)].concat(),
        })
        .collect()
}
