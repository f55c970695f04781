//! The kernel on the processor. Every line has its twin in `render.wgsl`; change both or neither.

#![allow(
    clippy::cast_sign_loss,
    clippy::cast_possible_wrap,
    clippy::cast_possible_truncation,
    reason = "the kernel's casts keep the 32 bits, as WGSL's bitcast does"
)]

use super::noise::{pcg, root};
use super::scene::{
    CLOUD_SIDE, DIRECTIONS, Direction, GLOW_STEPS, GRID_X, GRID_Y, GRID_Z, MATERIALS, SKY_STEPS, SUN_DIRECTIONS, Scene,
    VOXELS,
};
use super::{SIDE_MIN, TILE_PIXELS};
use crate::proof::challenge::TILE_SIDE;

/// A time that no ray reaches.
const NEVER: u32 = 0x3fff_ffff;
/// The brightest that one sample may be.
const BRIGHTEST: i32 = 32_767;

/// The pixels of one tile, row by row: colour and hash of each.
pub type Tile = [[u32; 2]; TILE_PIXELS];

/// What rendering cost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Voxels that rays went through.
    pub steps: u64,
}

/// Where a ray ended.
struct Hit {
    material: u8,
    axis: usize,
    /// Time of the hit: 2²⁸ for a voxel at a speed of 1.
    time: u32,
    cell: [i32; 3],
}

struct Random(u32);

impl Random {
    fn next(&mut self) -> u32 {
        self.0 = self.0.wrapping_mul(747_796_405).wrapping_add(2_891_336_453);
        let word = ((self.0 >> ((self.0 >> 28).wrapping_add(4))) ^ self.0).wrapping_mul(277_803_737);
        (word >> 22) ^ word
    }
}

fn unit(v: [i32; 3]) -> Direction {
    let square = v.iter().fold(0_u32, |sum, v| sum.wrapping_add(v.wrapping_mul(*v) as u32));
    let length = (root(square) as i32).max(1);
    v.map(|v| v.wrapping_shl(14).wrapping_div(length))
}

fn scaled(light: [i32; 3], by: [i32; 3], shift: u32) -> [i32; 3] {
    [0, 1, 2].map(|c| light[c].wrapping_mul(by[c]) >> shift)
}

fn plus(a: [i32; 3], b: [i32; 3]) -> [i32; 3] {
    [0, 1, 2].map(|c| a[c].wrapping_add(b[c]))
}

/// One axis of a ray: where it is, which way it steps, and when.
struct Walk {
    cell: i32,
    step: i32,
    delta: u32,
    next: u32,
}

impl Walk {
    fn new(at: i32, speed: i32) -> Self {
        let cell = at >> 8;
        if speed == 0 {
            return Self { cell, step: 0, delta: 0, next: NEVER };
        }
        let inside = (at & 255) as u32;
        let first = if speed > 0 { 256_u32.wrapping_sub(inside) } else { inside };
        let delta = (1_u32 << 28) / speed.unsigned_abs();
        let next = (delta >> 8).wrapping_mul(first).wrapping_add((delta & 255).wrapping_mul(first) >> 8);
        Self { cell, step: if speed > 0 { 1 } else { -1 }, delta, next }
    }
}

impl Scene {
    /// Renders one tile of a picture of `side` × `side` pixels (a power of two from [`SIDE_MIN`]); tiles are numbered row
    /// by row from the top left. A tile outside of the picture is black.
    #[must_use]
    pub fn tile(&self, side: u32, spp: u32, bounces: u32, tile: u32, tally: &mut Tally) -> Tile {
        let mut out = [[0; 2]; TILE_PIXELS];
        let across = side / TILE_SIDE;
        if side < SIDE_MIN || tile >= across.saturating_mul(across) {
            return out;
        }
        let (left, top) = (tile % across * TILE_SIDE, tile / across * TILE_SIDE);
        for (slot, at) in out.iter_mut().zip(0_u32..) {
            *slot = self.pixel(side, spp, bounces, left + at % TILE_SIDE, top + at / TILE_SIDE, tally);
        }
        out
    }

    /// Steps for one sample of each of 1,024 pixels spread evenly over a picture: what a picture costs, for little.
    #[must_use]
    pub fn probe(&self, bounces: u32) -> u64 {
        let mut tally = Tally::default();
        for y in 0..32 {
            for x in 0..32 {
                let _ = self.pixel(256, 1, bounces, x * 8 + (y & 7), y * 8 + (x & 7), &mut tally);
            }
        }
        tally.steps
    }

    fn pixel(&self, side: u32, spp: u32, bounces: u32, x: u32, y: u32, tally: &mut Tally) -> [u32; 2] {
        let mut sum = [0_u32; 3];
        let mut hash = self.keys[0];
        let place = pcg(y.wrapping_mul(side).wrapping_add(x) ^ self.keys[1]);
        for sample in 0..spp {
            let mut random = Random(pcg(place.wrapping_add(pcg(sample ^ self.keys[0]))));
            let light = self.sample(side, bounces, x, y, &mut random, tally);
            for c in 0..3 {
                sum[c] = sum[c].wrapping_add(light[c]);
                hash = (hash ^ light[c]).wrapping_mul(2_654_435_769);
                hash ^= hash >> 15;
            }
        }
        [colour(sum, spp), hash]
    }

    fn sample(&self, side: u32, bounces: u32, x: u32, y: u32, random: &mut Random, tally: &mut Tally) -> [u32; 3] {
        let mut direction = self.view(side, x, y, random.next());
        let mut at = self.camera.at;
        let mut share = [4096_i32; 3];
        let mut light = [0_i32; 3];
        // Whether the last turn was a mirror or the lens: then the sun itself is seen.
        let mut sharp = true;
        for bounce in 0..=bounces {
            let Some(hit) = self.trace(at, direction, tally) else {
                light = plus(light, scaled(self.sky(direction, sharp), share, 12));
                break;
            };
            if bounce == 0 {
                let haze = ((hit.time >> 14).wrapping_mul(self.light.haze as u32) >> 6).min(3_072) as i32;
                let far = self.light.sky[0].map(|c| c.wrapping_mul(haze) >> 12);
                light = plus(light, far);
                share = share.map(|s| s.wrapping_mul(4096 - haze) >> 12);
            }
            let material = self.materials[usize::from(hit.material) % MATERIALS];
            light = plus(light, scaled(material.glow.map(|g| i32::from(g) << 8), share, 12));
            let back = direction[hit.axis] > 0;
            at = arrive(at, direction, &hit, back);
            let toss = random.next();
            if toss & 255 < u32::from(material.mirror) {
                direction[hit.axis] = direction[hit.axis].wrapping_neg();
                direction = self.blur(direction, hit.axis, back, u32::from(material.rough), toss);
                sharp = true;
                continue;
            }
            share = scaled(share, material.albedo.map(i32::from), 8);
            sharp = false;
            light = plus(light, self.sunlight(at, hit.axis, back, share, random.next(), tally));
            direction = self.scatter(hit.axis, back, random.next());
        }
        light.map(|l| l.clamp(0, BRIGHTEST) as u32)
    }

    /// The ray through a random point of a pixel.
    fn view(&self, side: u32, x: u32, y: u32, random: u32) -> Direction {
        let shift = side.trailing_zeros().wrapping_sub(6);
        let edge = side.wrapping_shl(8) as i32;
        let over = |pixel: u32, jitter: u32| {
            let doubled = pixel.wrapping_shl(9).wrapping_add((jitter & 255).wrapping_shl(1)) as i32;
            doubled.wrapping_sub(edge) >> shift
        };
        let (u, v) = (over(x, random), over(y, random >> 8).wrapping_neg());
        let camera = &self.camera;
        unit([0, 1, 2].map(|a| {
            camera.forward[a]
                .wrapping_mul(16_384)
                .wrapping_add(camera.right[a].wrapping_mul(u))
                .wrapping_add(camera.up[a].wrapping_mul(v))
                >> 14
        }))
    }

    /// Follows a ray to the first solid voxel (Amanatides and Woo, 1987). Axis by axis instead of by index: registers.
    fn trace(&self, at: [i32; 3], direction: Direction, tally: &mut Tally) -> Option<Hit> {
        let [x, y, z] = [0, 1, 2].map(|a| Walk::new(at[a], direction[a]));
        let (mut cell_x, mut cell_y, mut cell_z) = (x.cell, y.cell, z.cell);
        let (mut next_x, mut next_y, mut next_z) = (x.next, y.next, z.next);
        let mut steps = 0_u64;
        let hit = loop {
            steps += 1;
            let (axis, time) = if next_x <= next_y && next_x <= next_z {
                cell_x = cell_x.wrapping_add(x.step);
                next_x = next_x.wrapping_add(x.delta);
                (0, next_x.wrapping_sub(x.delta))
            } else if next_y <= next_z {
                cell_y = cell_y.wrapping_add(y.step);
                next_y = next_y.wrapping_add(y.delta);
                (1, next_y.wrapping_sub(y.delta))
            } else {
                cell_z = cell_z.wrapping_add(z.step);
                next_z = next_z.wrapping_add(z.delta);
                (2, next_z.wrapping_sub(z.delta))
            };
            if cell_x as u32 >= GRID_X as u32 || cell_y as u32 >= GRID_Y as u32 || cell_z as u32 >= GRID_Z as u32 {
                break None;
            }
            let place = ((cell_z as u32) << 14) | ((cell_y as u32) << 7) | cell_x as u32;
            let material = self.voxels[place as usize % VOXELS];
            if material != 0 {
                break Some(Hit { material, axis, time, cell: [cell_x, cell_y, cell_z] });
            }
        };
        tally.steps += steps;
        hit
    }

    /// Light of the sky from a direction.
    fn sky(&self, direction: Direction, sharp: bool) -> [i32; 3] {
        let light = &self.light;
        let up = direction[2].clamp(0, 16_384);
        let mut sky = light.sky[((up >> 6) as usize).min(SKY_STEPS - 1)];
        if up > 1_200 {
            // The second summand keeps the quotient above zero, so that rounding down is the same everywhere.
            let over = |d: i32| {
                (d.wrapping_mul(24).wrapping_add(up.wrapping_mul(8_192)).wrapping_div(up) as u32 as usize) % CLOUD_SIDE
            };
            let thick = i32::from(light.clouds[over(direction[1]) * CLOUD_SIDE + over(direction[0])]);
            // Clouds fade in above the horizon.
            let thick = thick.wrapping_mul((up - 1_200).min(2_048)) >> 11;
            let bright = light.sky[0].map(|c| c.wrapping_add(light.sun[0] >> 3));
            sky = [0, 1, 2].map(|c| sky[c].wrapping_add((bright[c].wrapping_sub(sky[c])).wrapping_mul(thick) >> 8));
        }
        let along = |a: usize| direction[a].wrapping_mul(light.sun_at[a]) >> 14;
        let apart = 16_384_i32.wrapping_sub(along(0).wrapping_add(along(1)).wrapping_add(along(2))).max(0);
        if sharp && apart < 4_096 {
            sky = plus(sky, light.glow[((apart >> 4) as usize).min(GLOW_STEPS - 1)]);
        }
        sky
    }

    /// What the sun gives to a surface, where nothing is between.
    fn sunlight(
        &self,
        at: [i32; 3],
        axis: usize,
        back: bool,
        share: [i32; 3],
        random: u32,
        tally: &mut Tally,
    ) -> [i32; 3] {
        let sun = self.light.sun_directions[random as usize % SUN_DIRECTIONS];
        let slope = if back { sun[axis].wrapping_neg() } else { sun[axis] };
        if slope <= 0 || self.trace(at, sun, tally).is_some() {
            return [0; 3];
        }
        scaled(self.light.sun.map(|s| s.wrapping_mul(slope) >> 14), share, 12)
    }

    /// A random direction away from a surface.
    fn scatter(&self, axis: usize, back: bool, random: u32) -> Direction {
        let drawn = self.directions[random as usize % DIRECTIONS];
        let flip = |v: i32, bit: u32| if random & bit == 0 { v } else { v.wrapping_neg() };
        let (mut a, mut b) = (flip(drawn[0], 1 << 20), flip(drawn[1], 1 << 21));
        if random & (1 << 22) != 0 {
            (a, b) = (b, a);
        }
        let up = if back { drawn[2].wrapping_neg() } else { drawn[2] };
        match axis {
            0 => [up, a, b],
            1 => [a, up, b],
            _ => [a, b, up],
        }
    }

    /// A mirrored direction, blurred; it never goes into the surface.
    fn blur(&self, direction: Direction, axis: usize, back: bool, rough: u32, random: u32) -> Direction {
        if rough == 0 {
            return direction;
        }
        let scatter = self.scatter(axis, back, random >> 8);
        let shift = 8_u32.wrapping_sub(rough) & 31;
        unit(plus(direction, scatter.map(|s| s >> shift)))
    }
}

/// Where a ray meets a surface: on its outer side, and inside of the voxel's bounds along the other axes.
fn arrive(at: [i32; 3], direction: Direction, hit: &Hit, back: bool) -> [i32; 3] {
    let time = (hit.time >> 6) as i32;
    let mut out = [0; 3];
    for a in 0..3 {
        let low = hit.cell[a].wrapping_shl(8);
        out[a] = if a != hit.axis {
            at[a].wrapping_add(direction[a].wrapping_mul(time) >> 14).clamp(low, low.wrapping_add(255))
        } else if back {
            low.wrapping_sub(1)
        } else {
            low.wrapping_add(256)
        };
    }
    out
}

/// The mean of the samples as it is shown: bright parts compressed (Reinhard), then a gamma of 2.
fn colour(sum: [u32; 3], spp: u32) -> u32 {
    let mut packed = 0xff00_0000_u32;
    for (c, sum) in sum.into_iter().enumerate() {
        let mean = sum / spp.max(1);
        let shown = mean.wrapping_shl(13) / mean.wrapping_add(8_192);
        let level = root(shown.wrapping_mul(10)).min(255);
        packed |= level.wrapping_shl(8 * c as u32);
    }
    packed
}
