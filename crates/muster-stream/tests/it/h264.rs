//! What our encoder says, another's decoder understands, to the last bit.
#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "pictures are small, and their values what is drawn here"
)]

use std::time::Duration;

use muster_h264::{Coded, Encoder};
use openh264::decoder::Decoder;
use openh264::formats::YUVSource;

use crate::canvas::{Canvas, Random};

const FRAME: Duration = Duration::from_micros(16_667);

/// The encoder, a decoder that is fed with all it makes, and what was drawn.
struct Pair {
    encoder: Encoder,
    decoder: Decoder,
    bytes: Vec<usize>,
}

impl Pair {
    fn new(width: usize, height: usize, bps: u32) -> Self {
        Self::with_threads(width, height, bps, 1)
    }

    fn with_threads(width: usize, height: usize, bps: u32, threads: usize) -> Self {
        let encoder = Encoder::new(width, height, bps).unwrap().with_threads(threads);
        Self { encoder, decoder: Decoder::new().unwrap(), bytes: Vec::new() }
    }

    /// Encodes, and holds what the decoder shows against what the encoder believes it shows.
    fn step(&mut self, canvas: &Canvas, key: bool) -> Coded {
        let coded = self.encoder.encode(canvas.planes(), FRAME, key).unwrap();
        let number = self.bytes.len();
        let shown = self.decoder.decode(&coded.bytes).unwrap_or_else(|error| panic!("picture {number}: {error}"));
        let shown = shown.unwrap_or_else(|| panic!("picture {number} is not shown"));
        assert_eq!(shown.dimensions(), (canvas.width, canvas.height));
        let (strides, (y, u, v)) = (shown.strides(), self.encoder.shown());
        let (width, height) = (canvas.width, canvas.height);
        for (name, plane, stride, want, width, height) in [
            ("brightness", shown.y(), strides.0, &y, width, height),
            ("blue", shown.u(), strides.1, &u, width / 2, height / 2),
            ("red", shown.v(), strides.2, &v, width / 2, height / 2),
        ] {
            for row in 0..height {
                let (got, want) = (&plane[row * stride..][..width], &want[row * width..][..width]);
                let differs = got.iter().zip(want).position(|(got, want)| got != want);
                assert_eq!(differs, None, "picture {number}, {name}, row {row}");
            }
        }
        self.bytes.push(coded.bytes.len());
        coded
    }

    fn psnr(&self, canvas: &Canvas) -> f64 {
        let (y, _, _) = self.encoder.shown();
        let sum: f64 = y.iter().zip(&canvas.y).map(|(a, b)| f64::from(a.abs_diff(*b)).powi(2)).sum();
        10.0 * (65_025.0 * y.len() as f64 / sum.max(1.0)).log10()
    }
}

#[test]
fn a_desktop_is_decoded_to_the_last_bit() {
    let mut canvas = Canvas::new(320, 240);
    let mut pair = Pair::new(320, 240, 4_000_000);
    canvas.fill(0, 0, 320, 30, (60, 140, 110));
    canvas.text(10, 40, 280, 180, 7);
    assert!(pair.step(&canvas, false).key, "the first picture needs none before it");
    for step in 0..40 {
        canvas.fill(step * 5, 100, 40, 40, (200 - step as u8 * 3, 90, 170));
        canvas.text(20, 150 + step, 100, 14, step as u32);
        assert!(!pair.step(&canvas, false).key);
    }
    assert!(pair.step(&canvas, true).key);
    assert!(pair.psnr(&canvas) > 30.0, "{}", pair.psnr(&canvas));
}

#[test]
fn everything_at_once_is_decoded_to_the_last_bit() {
    for (width, height, bps, threads) in [
        (320, 240, 300_000, 1),
        (336, 176, 3_000_000, 1),
        (162, 90, 20_000_000, 1),
        (2, 2, 500_000, 8),
        (484, 274, 400_000, 2),
        (482, 402, 3_000_000, 3),
        (336, 560, 12_000_000, 8),
    ] {
        let mut canvas = Canvas::new(width, height);
        let mut pair = Pair::with_threads(width, height, bps, threads);
        let mut random = Random(width as u32);
        for step in 0..60 {
            match random.below(6) {
                0 => canvas.noise(random.below(300) as usize, random.below(200) as usize, 60, 40, step),
                1 => canvas.waves(f64::from(step), 0.0),
                2 if height > 16 => canvas.scroll(random.below(8) as usize * 2),
                3 => canvas.text(random.below(100) as usize, random.below(100) as usize, 150, 90, step),
                4 => {}
                _ => canvas.fill(
                    random.below(300) as usize,
                    random.below(200) as usize,
                    70,
                    33,
                    (random.below(256) as u8, 70, 200),
                ),
            }
            pair.step(&canvas, random.below(20) == 0);
        }
    }
}

#[test]
fn what_stands_still_becomes_fine_and_then_costs_nothing() {
    for threads in [1, 3] {
        let mut canvas = Canvas::new(640, 480);
        canvas.text(0, 0, 640, 480, 3);
        let mut pair = Pair::with_threads(640, 480, 2_000_000, threads);
        pair.step(&canvas, false);
        let first = pair.psnr(&canvas);
        let mut settled = false;
        for _ in 0..120 {
            settled = pair.step(&canvas, false).settled;
        }
        assert!(settled);
        assert!(pair.psnr(&canvas) > first.max(42.0), "{first} {}", pair.psnr(&canvas));
        assert!(pair.step(&canvas, false).bytes.len() < 16);
    }
}

#[test]
fn a_hasty_picture_is_small_and_becomes_as_fine_as_others() {
    let mut canvas = Canvas::new(640, 480);
    canvas.text(0, 0, 640, 480, 3);
    let mut pair = Pair::new(640, 480, 2_000_000);
    // What is under way to others is not on the way of who comes.
    let full = pair.step(&canvas, true).bytes.len();
    pair.encoder.hasten();
    let hasty = pair.step(&canvas, true);
    assert!(hasty.key && hasty.bytes.len() < full / 2, "{full} {}", hasty.bytes.len());
    let first = pair.psnr(&canvas);
    for _ in 0..120 {
        pair.step(&canvas, false);
    }
    assert!(pair.psnr(&canvas) > first.max(42.0), "{first} {}", pair.psnr(&canvas));
    // It was for one picture.
    assert!(pair.step(&canvas, true).bytes.len() > hasty.bytes.len() * 3 / 2);
}

#[test]
fn what_scrolls_costs_only_what_comes_in() {
    for threads in [1, 3] {
        let mut canvas = Canvas::new(640, 480);
        canvas.text(0, 0, 640, 480, 3);
        let mut pair = Pair::with_threads(640, 480, 6_000_000, threads);
        for _ in 0..60 {
            pair.step(&canvas, false);
        }
        let settled = pair.psnr(&canvas);
        let mut sum = 0;
        for step in 0..40 {
            canvas.scroll(if step % 2 == 0 { 3 } else { 6 });
            canvas.text(0, 466, 640, 14, step);
            sum += pair.step(&canvas, false).bytes.len();
        }
        assert!(pair.psnr(&canvas) > settled - 6.0, "{settled} {}", pair.psnr(&canvas));
        // A whole picture of it takes many times more.
        let key = pair.step(&canvas, true).bytes.len();
        assert!(sum / 40 < key / 4, "{} {key}", sum / 40);
    }
}

#[test]
fn a_rate_is_held() {
    for (bps, threads) in [(500_000u32, 1), (500_000, 2), (2_000_000, 1), (2_000_000, 2), (8_000_000, 2)] {
        let mut canvas = Canvas::new(640, 368);
        let mut pair = Pair::with_threads(640, 368, bps, threads);
        for step in 0..120 {
            canvas.waves(f64::from(step), 0.0);
            canvas.noise(step as usize * 3 % 500, 100, 32, 32, step);
            pair.step(&canvas, false);
        }
        let bits = pair.bytes.iter().skip(30).sum::<usize>() as f64 * 8.0 / (90.0 * FRAME.as_secs_f64());
        assert!(bits < f64::from(bps) * 1.15, "{bps}: {bits}");
        // The highest rate is more than the finest picture of this takes.
        assert!(bits > f64::from(bps.min(3_000_000)) * 0.4, "{bps}: {bits}");
    }
}

#[test]
fn a_picture_that_does_not_fit_is_refused() {
    assert!(Encoder::new(0, 16, 1).is_err());
    assert!(Encoder::new(15, 16, 1).is_err());
    assert!(Encoder::new(16, 10_000, 1).is_err());
    let mut encoder = Encoder::new(32, 32, 1_000_000).unwrap();
    let other = Canvas::new(64, 32);
    let error = encoder.encode(other.planes(), FRAME, false).unwrap_err();
    assert!(error.to_string().contains("64×32"), "{error}");
    let mut short = Canvas::new(32, 32);
    short.u.pop();
    assert!(encoder.encode(short.planes(), FRAME, false).is_err());
}
