//! Encoders beside each other: the time of each picture on a core, bytes, and how near the picture comes.
//!
//! `cargo run --release -p muster-stream --example encoders -- [--bps N] [--threads N] [--json] [FILE.y4m]`: without a file,
//! pictures drawn here: a light program, writing that scrolls, and a picture that moves as a whole. A file of raw pictures
//! (4:2:0) can be recorded of anything: `ffmpeg -f x11grab … -pix_fmt yuv420p FILE.y4m`. With more than one thread, which
//! only ours uses, its time is what passed.
#![allow(clippy::unwrap_used, clippy::print_stdout, missing_docs, reason = "a tool for the one who measures")]
#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::unwrap_in_result,
    reason = "pictures are small"
)]

use std::io::{BufRead, BufReader, Read};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use muster_h264::Encoder;
use openh264::OpenH264API;
use openh264::decoder::Decoder;
use openh264::encoder as other;
use openh264::formats::{YUVSlices, YUVSource};

#[path = "../tests/it/canvas.rs"]
#[allow(dead_code, reason = "the tests' pictures, of which this needs a part")]
mod canvas;

use canvas::Canvas as Picture;

/// Grain of what moves as a whole.
const GRAIN: f64 = 14.0;

fn drawn(what: &str) -> Vec<Picture> {
    let mut picture = Picture::new(1280, 720);
    picture.text(4, 0, 1_270, 720, 7);
    (0..150)
        .map(|step| {
            match what {
                "light" => {
                    picture.fill(0, 300, 1280, 160, (200, 120, 140));
                    picture.fill(step * 8 % 1100, 300, 160, 160, (90, 100, 180));
                    picture.fill(0, 0, 320, 16, ((step * 37 % 200 + 20) as u8, 128, 128));
                }
                "scroll" => {
                    picture.scroll(6);
                    picture.text(4, 706, 1_270, 14, step as u32);
                }
                _ => picture.waves(step as f64, GRAIN),
            }
            picture.clone()
        })
        .collect()
}

fn read(path: &str) -> std::io::Result<Vec<Picture>> {
    let mut file = BufReader::new(std::fs::File::open(path)?);
    let mut head = String::new();
    file.read_line(&mut head)?;
    let number =
        |letter: char| head.split(' ').find_map(|part| part.strip_prefix(letter)?.trim().parse::<usize>().ok());
    let (Some(width), Some(height)) = (number('W'), number('H')) else {
        return Err(std::io::Error::other(format!("{path} does not begin like a file of raw pictures (YUV4MPEG2)")));
    };
    let mut pictures = Vec::new();
    loop {
        let mut line = Vec::new();
        if file.read_until(b'\n', &mut line)? == 0 || pictures.len() == 600 {
            return Ok(pictures);
        }
        let mut picture = Picture::new(width, height);
        for plane in [&mut picture.y, &mut picture.u, &mut picture.v] {
            file.read_exact(plane)?;
        }
        pictures.push(picture);
    }
}

/// Processor time of this thread.
fn cpu() -> Duration {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    Duration::from_nanos(stat.split(' ').next().unwrap().parse().unwrap())
}

struct Score {
    encode: Duration,
    decode: Duration,
    bytes: usize,
    psnr: f64,
    ssim: f64,
    key: usize,
    worst: usize,
}

/// Means over blocks of 8 by 8, four apart.
fn ssim(a: &[u8], b: &[u8], width: usize, height: usize) -> f64 {
    let (mut sum, mut count) = (0.0, 0.0);
    for y in (0..height.saturating_sub(7)).step_by(4) {
        for x in (0..width.saturating_sub(7)).step_by(4) {
            let (mut sa, mut sb, mut saa, mut sbb, mut sab) = (0u32, 0u32, 0u32, 0u32, 0u32);
            for row in 0..8 {
                let at = (y + row) * width + x;
                for (a, b) in a[at..at + 8].iter().zip(&b[at..at + 8]) {
                    let (a, b) = (u32::from(*a), u32::from(*b));
                    (sa, sb, saa, sbb, sab) = (sa + a, sb + b, saa + a * a, sbb + b * b, sab + a * b);
                }
            }
            let n = 64.0;
            let (ma, mb) = (f64::from(sa) / n, f64::from(sb) / n);
            let (va, vb) = (f64::from(saa) / n - ma * ma, f64::from(sbb) / n - mb * mb);
            let cov = f64::from(sab) / n - ma * mb;
            let (c1, c2) = (6.5025, 58.5225);
            sum += ((2.0 * ma * mb + c1) * (2.0 * cov + c2)) / ((ma * ma + mb * mb + c1) * (va + vb + c2));
            count += 1.0;
        }
    }
    sum / count
}

fn score(pictures: &[Picture], mut encode: impl FnMut(&Picture) -> Vec<u8>) -> Score {
    let mut decoder = Decoder::new().unwrap();
    let mut score =
        Score { encode: Duration::ZERO, decode: Duration::ZERO, bytes: 0, psnr: 0.0, ssim: 0.0, key: 0, worst: 0 };
    let (mut error, mut seen) = (0.0, 0.0);
    for (index, picture) in pictures.iter().enumerate() {
        let begin = cpu();
        let bytes = encode(picture);
        if index > 0 {
            score.encode += cpu().checked_sub(begin).unwrap_or_default();
            score.bytes += bytes.len();
            score.worst = score.worst.max(bytes.len());
        } else {
            score.key = bytes.len();
        }
        let begin = cpu();
        let shown = decoder.decode(&bytes).unwrap().unwrap();
        score.decode += cpu().checked_sub(begin).unwrap_or_default();
        if index >= 10 && index % 5 == 0 {
            let stride = shown.strides().0;
            let rows = shown.y().chunks(stride).take(picture.height);
            let luma: Vec<u8> = rows.flat_map(|row| row[..picture.width].iter().copied()).collect();
            error += luma.iter().zip(&picture.y).map(|(a, b)| f64::from(a.abs_diff(*b)).powi(2)).sum::<f64>()
                / luma.len() as f64;
            score.ssim += ssim(&luma, &picture.y, picture.width, picture.height);
            seen += 1.0;
        }
    }
    score.psnr = 10.0 * (65_025.0 * seen / f64::max(error, 1e-3)).log10();
    score.ssim /= seen;
    score
}

fn openh264_encoder(bps: u32) -> impl FnMut(&Picture) -> Vec<u8> {
    let config = other::EncoderConfig::new()
        .bitrate(other::BitRate::from_bps(bps))
        .max_frame_rate(other::FrameRate::from_hz(60.0))
        .rate_control_mode(other::RateControlMode::Bitrate)
        .skip_frames(false)
        .usage_type(other::UsageType::CameraVideoRealTime)
        .complexity(other::Complexity::Low)
        .profile(other::Profile::Baseline)
        .scene_change_detect(false)
        .adaptive_quantization(false)
        .background_detection(true)
        .qp(other::QpRange::new(18, 48))
        .num_threads(1);
    let mut encoder = other::Encoder::with_api_config(OpenH264API::from_source(), config).unwrap();
    move |picture| {
        let half = picture.width / 2;
        let size = (picture.width, picture.height);
        let source = YUVSlices::new((&picture.y, &picture.u, &picture.v), size, (picture.width, half, half));
        encoder.encode(&source).unwrap().to_vec()
    }
}

fn our_encoder(first: &Picture, bps: u32, threads: usize) -> impl FnMut(&Picture) -> Vec<u8> {
    let mut encoder = Encoder::new(first.width, first.height, bps).unwrap().with_threads(threads);
    move |picture| encoder.encode(picture.planes(), Duration::from_micros(16_667), false).unwrap().bytes
}

fn score_ours(pictures: &[Picture], bps: u32, threads: usize) -> Score {
    let first = pictures.first().unwrap();
    if threads == 1 {
        return score(pictures, our_encoder(first, bps, 1));
    }
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
    let mut passed = Duration::ZERO;
    let mut encode = our_encoder(first, bps, threads);
    let mut timed = |picture: &Picture| {
        let begin = Instant::now();
        let bytes = encode(picture);
        passed += begin.elapsed();
        bytes
    };
    let score = pool.install(|| score(pictures, &mut timed));
    Score { encode: passed, ..score }
}

/// x264 as the peer runs it, where it is installed: its pictures, and its processor time for each.
fn x264(pictures: &[Picture], bps: u32) -> Option<Score> {
    use std::io::Write as _;
    let first = pictures.first()?;
    let rate = (bps / 1_000).to_string();
    let size = format!("{}x{}", first.width, first.height);
    let mut child = Command::new("x264")
        .args(["--preset", "ultrafast", "--tune", "zerolatency", "--profile", "baseline", "--threads", "1"])
        .args(["--bitrate", &rate, "--vbv-maxrate", &rate, "--vbv-bufsize", &(bps / 10_000).to_string()])
        .args([
            "--keyint",
            "infinite",
            "--fps",
            "60",
            "--demuxer",
            "raw",
            "--input-res",
            &size,
            "--aud",
            "-o",
            "-",
            "-",
        ])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .ok()?;
    let mut stdin = child.stdin.take()?;
    let raw = pictures.to_vec();
    let writer = std::thread::spawn(move || {
        for picture in raw {
            for plane in [&picture.y, &picture.u, &picture.v] {
                let _ = stdin.write_all(plane);
            }
        }
    });
    let mut stream = Vec::new();
    child.stdout.take()?.read_to_end(&mut stream).ok()?;
    writer.join().ok()?;
    child.wait().ok()?;
    // Each picture begins with an access unit delimiter.
    let begins: Vec<usize> =
        (0..stream.len().saturating_sub(5)).filter(|at| stream[*at..*at + 5] == [0, 0, 0, 1, 9]).collect();
    let ends = begins.iter().copied().skip(1).chain([stream.len()]);
    let mut frames = begins.iter().copied().zip(ends).map(|(from, to)| stream[from..to].to_vec());
    let mut score = score(pictures, |_| frames.next().unwrap_or_default());
    score.encode = Duration::ZERO;
    Some(score)
}

fn main() {
    let mut arguments = std::env::args().skip(1);
    let (mut bps, mut threads, mut json, mut file) = (6_000_000, 1, false, None);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--bps" => bps = arguments.next().and_then(|value| value.parse().ok()).unwrap_or(bps),
            "--threads" => threads = arguments.next().and_then(|value| value.parse().ok()).unwrap_or(threads),
            "--json" => json = true,
            _ => file = Some(argument),
        }
    }
    let names =
        file.map_or_else(|| vec!["light".to_owned(), "scroll".to_owned(), "waves".to_owned()], |file| vec![file]);
    for name in names {
        let pictures = if std::path::Path::new(&name).exists() { read(&name).unwrap() } else { drawn(&name) };
        if pictures.is_empty() {
            continue;
        }
        let scores = [
            ("muster-h264", Some(score_ours(&pictures, bps, threads))),
            ("openh264", Some(score(&pictures, openh264_encoder(bps)))),
            ("x264 ultrafast", x264(&pictures, bps)),
        ];
        let count = pictures.len().saturating_sub(1).max(1) as f64;
        for (encoder, score) in scores {
            let Some(score) = score else { continue };
            let ms = score.encode.as_secs_f64() * 1_000.0 / count;
            let decode = score.decode.as_secs_f64() * 1_000.0 / count;
            let mbps = score.bytes as f64 * 8.0 * 60.0 / count / 1e6;
            if json {
                println!(
                    "{{\"pictures\":\"{name}\",\"encoder\":\"{encoder}\",\"encode_ms\":{ms:.3},\"decode_ms\":{decode:.3},\"mbit_per_second\":{mbps:.3},\"psnr_db\":{:.2},\"ssim\":{:.4},\"first_bytes\":{},\"largest_bytes\":{}}}",
                    score.psnr, score.ssim, score.key, score.worst
                );
            } else {
                println!(
                    "{name:>10} {encoder:>15}: {ms:6.2} ms encode {decode:5.2} ms decode {mbps:6.2} Mbit/s  psnr {:5.2} dB  ssim {:.4}  first {:>6} largest {:>6} bytes",
                    score.psnr, score.ssim, score.key, score.worst
                );
            }
        }
    }
}
