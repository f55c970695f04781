//! Pictures to encode, drawn by hand.
#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "pictures are small, and their values what is drawn here"
)]

use muster_h264::Planes;

/// A picture that is drawn on.
#[derive(Clone)]
pub(crate) struct Canvas {
    pub(crate) width: usize,
    pub(crate) height: usize,
    pub(crate) y: Vec<u8>,
    pub(crate) u: Vec<u8>,
    pub(crate) v: Vec<u8>,
}

impl Canvas {
    pub(crate) fn new(width: usize, height: usize) -> Self {
        let quarter = width / 2 * (height / 2);
        Self { width, height, y: vec![235; width * height], u: vec![128; quarter], v: vec![128; quarter] }
    }

    pub(crate) fn planes(&self) -> Planes<'_> {
        Planes { width: self.width, height: self.height, y: &self.y, u: &self.u, v: &self.v }
    }

    pub(crate) fn fill(&mut self, x: usize, y: usize, width: usize, height: usize, (luma, u, v): (u8, u8, u8)) {
        for row in y..(y + height).min(self.height) {
            for column in x..(x + width).min(self.width) {
                self.y[row * self.width + column] = luma;
                let at = row / 2 * (self.width / 2) + column / 2;
                (self.u[at], self.v[at]) = (u, v);
            }
        }
    }

    /// Something like writing: small strokes that are the same for the same seed.
    pub(crate) fn text(&mut self, x: usize, y: usize, width: usize, height: usize, seed: u32) {
        let mut random = Random(seed);
        for line in (y..y + height).step_by(14) {
            let mut at = x;
            while at + 8 < x + width {
                for _ in 0..4 {
                    let (dx, dy) = (random.below(7) as usize, random.below(9) as usize);
                    let (w, h) = if random.below(2) == 0 { (1, 6) } else { (5, 1) };
                    self.fill(at + dx.min(3), line + dy.min(4), w, h, (30, 128, 128));
                }
                at += 9;
            }
        }
    }

    pub(crate) fn noise(&mut self, x: usize, y: usize, width: usize, height: usize, seed: u32) {
        let mut random = Random(seed);
        for row in y..(y + height).min(self.height) {
            for column in x..(x + width).min(self.width) {
                self.y[row * self.width + column] = random.below(256) as u8;
                let at = row / 2 * (self.width / 2) + column / 2;
                (self.u[at], self.v[at]) = (random.below(256) as u8, random.below(256) as u8);
            }
        }
    }

    /// Everything moves up; below, nothing is left.
    pub(crate) fn scroll(&mut self, rows: usize) {
        let width = self.width;
        self.y.copy_within(rows * width.., 0);
        let at = (self.height - rows) * width;
        self.y[at..].fill(235);
        for plane in [&mut self.u, &mut self.v] {
            plane.copy_within(rows / 2 * (width / 2).., 0);
            let at = (self.height - rows) / 2 * (width / 2);
            plane[at..].fill(128);
        }
    }

    /// A picture like that of a game: waves that move, with so much grain.
    pub(crate) fn waves(&mut self, time: f64, grain: f64) {
        for row in 0..self.height {
            for column in 0..self.width {
                let (x, y) = (column as f64 - time * 3.3, row as f64 + time * 1.7);
                let smooth = 30.0f64.mul_add((x / 17.0).sin() * (y / 23.0).cos(), 40.0 * (x / 90.0 + y / 60.0).sin());
                let value = grain.mul_add((x * 0.9).sin() * (y * 1.1).cos(), 120.0 + smooth);
                self.y[row * self.width + column] = value.clamp(16.0, 235.0) as u8;
                let at = row / 2 * (self.width / 2) + column / 2;
                self.u[at] = 20.0f64.mul_add((x / 60.0).cos(), 128.0) as u8;
                self.v[at] = 20.0f64.mul_add((y / 45.0).sin(), 128.0) as u8;
            }
        }
    }
}

/// Numbers that are the same each time.
pub(crate) struct Random(pub(crate) u32);

impl Random {
    pub(crate) fn below(&mut self, limit: u32) -> u32 {
        self.0 = self.0.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        ((u64::from(self.0) * u64::from(limit)) >> 32) as u32
    }
}
