//! What a session costs the child for each picture, and how old pictures are when they have come: the latency meter draws, a
//! player without a browser looks on.
//!
//! `cargo run --release -p muster-stream --example cost -- [--json] [--fps N] [--seconds N]`; needs Xvfb.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a measurement, stopped by what goes wrong")]

use std::process::{Child, Command};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use muster_stream::control::FromStream;
use serde_json::json;

#[path = "../tests/it/rig.rs"]
#[allow(dead_code, reason = "the tests' session, of which this needs a part")]
mod rig;

/// Says to this very program that it is the meter, and how it moves.
const METER: &str = "MUSTER_STREAM_METER";
/// Bits of the meter's clock that it shows.
const CLOCK_BITS: u32 = 20;

fn main() {
    if std::env::var_os(rig::CHILD).is_some() {
        muster_stream::stream_main().unwrap();
        return;
    }
    let args: Vec<String> = std::env::args().collect();
    let text = |name: &str, other: &str| {
        let at = args.iter().position(|arg| arg == name);
        at.and_then(|at| args.get(at + 1)).map_or_else(|| other.to_owned(), Clone::clone)
    };
    let fps = text("--fps", "59");
    if let Ok(motion) = std::env::var(METER) {
        let words = ["--motion", &motion, "--fps", &fps].map(str::to_owned);
        // It ends with its display.
        let _ = muster_stream::meter_main(words);
        return;
    }
    let seconds = text("--seconds", "6").parse().unwrap();
    let measured = ["box", "full"].map(|motion| (motion, measure(motion, &fps, seconds)));
    if args.iter().any(|arg| arg == "--json") {
        let all = measured.map(|(motion, Measured { cpu, fps, ages: [p50, p95] })| {
            json!({"motion": motion, "cpu_ms_per_frame": cpu, "fps": fps,
                "draw_to_received_ms_p50": p50, "draw_to_received_ms_p95": p95})
        });
        println!("{}", json!(all));
    } else {
        for (motion, Measured { cpu, fps, ages: [p50, p95] }) in measured {
            println!(
                "{motion:>5}: {cpu:.2} ms of the child's processor time a picture, {fps:.1} pictures a second, \
                 drawn {p50:.1} ms before they came (p95 {p95:.1})"
            );
        }
    }
}

struct Measured {
    /// The child's processor time for each picture, in milliseconds.
    cpu: f64,
    fps: f64,
    /// From drawing to the last byte, p50 and p95 in milliseconds; what is drawn says when it was.
    ages: [f64; 2],
}

struct Meter(Child);

impl Drop for Meter {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn measure(motion: &str, fps: &str, seconds: u64) -> Measured {
    let display = rig::Xvfb::sized(1280, 720);
    let number = display.socket.file_name().unwrap().to_str().unwrap().trim_start_matches('X');
    let meter = Command::new(std::env::current_exe().unwrap())
        .args(["--fps", fps])
        .env(METER, motion)
        .env("DISPLAY", format!(":{number}"))
        .spawn();
    let _meter = Meter(meter.unwrap());
    let mut config = rig::config(&display.socket);
    (config.width, config.height, config.fps) = (1280, 720, 60);
    let mut stream = rig::Stream::start(&config);
    stream.ready();
    stream.hear("drawing", |said| (*said == FromStream::Drawing).then_some(()));
    let mut player = rig::Player::join(&mut stream, 1, rig::Can::H264);
    let mut ages: Vec<f64> = Vec::new();
    let mut play = |long: Duration| {
        let begin = Instant::now();
        player.shown.clear();
        ages.clear();
        while begin.elapsed() < long {
            let before = player.shown.len();
            player.step();
            if player.shown.len() == before + 1
                && let (Some(came), Some(picture)) = (player.shown.last(), &player.picture)
                && let Some(drawn) = drawn(picture)
            {
                let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap() - came.elapsed();
                let ms = (now.as_secs_f64() * 1_000.0) % f64::from(1 << CLOCK_BITS);
                ages.push(ms - f64::from(drawn));
            }
        }
        (begin.elapsed().as_secs_f64(), u32::try_from(player.shown.len()).unwrap())
    };
    play(Duration::from_secs(2));
    let ticks = stream.ticks();
    let (passed, shown) = play(Duration::from_secs(seconds));
    // A tick is a hundredth of a second.
    let ticks = u32::try_from(stream.ticks() - ticks).unwrap();
    ages.sort_by(f64::total_cmp);
    let at = |share: usize| ages.get(ages.len() * share / 100).copied().unwrap_or(f64::NAN);
    Measured { cpu: f64::from(ticks) * 10.0 / f64::from(shown), fps: f64::from(shown) / passed, ages: [at(50), at(95)] }
}

/// The clock that the meter drew: the upper row of cells, the lowest bit first.
fn drawn(picture: &rig::Luma) -> Option<u32> {
    let at = |column: usize| picture.at(column * 40 + 20, 20);
    let middle = at(24).midpoint(at(25));
    let value = (0..24).fold(0, |value, bit| value | u32::from(at(bit) > middle) << bit);
    let sum = (0..CLOCK_BITS).step_by(4).fold(5, |sum, at| sum + (value >> at & 15));
    (value >> CLOCK_BITS == sum & 15).then_some(value & ((1 << CLOCK_BITS) - 1))
}
