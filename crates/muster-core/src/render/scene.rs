//! What is drawn: a box of voxels, their materials, sky, sun and camera. All tables that the kernel reads are made here,
//! once, so that only looking them up has to be alike everywhere.

use super::noise::{Dice, root};
use super::{build, sky};

/// Voxels from west to east.
pub const GRID_X: usize = 128;
/// Voxels from south to north.
pub const GRID_Y: usize = 128;
/// Voxels from the bottom up.
pub const GRID_Z: usize = 64;
/// All voxels.
pub const VOXELS: usize = GRID_X * GRID_Y * GRID_Z;
/// Materials; 0 is air.
pub const MATERIALS: usize = 64;
/// Directions of scattered light.
pub const DIRECTIONS: usize = 1024;
/// Directions to points of the sun.
pub const SUN_DIRECTIONS: usize = 256;
/// Steps of the sky's colour from horizon to zenith.
pub const SKY_STEPS: usize = 257;
/// Steps of the glow around the sun.
pub const GLOW_STEPS: usize = 256;
/// Side of the pattern of clouds.
pub const CLOUD_SIDE: usize = 64;

/// A direction; its length is 16,384.
pub(super) type Direction = [i32; 3];

/// How a surface looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Material {
    /// Share of the light that is scattered, of 256.
    pub(super) albedo: [u8; 3],
    /// Light of its own, in 16ths of white.
    pub(super) glow: [u8; 3],
    /// How often of 256 a ray is mirrored instead of scattered.
    pub(super) mirror: u8,
    /// How rough the mirror is: 0 is perfect, each step doubles the blur.
    pub(super) rough: u8,
}

/// Where the picture is taken from. Vectors are scaled: forward 8,192; right and up by the opening of the lens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Camera {
    /// In 256ths of a voxel.
    pub(super) at: [i32; 3],
    pub(super) forward: [i32; 3],
    pub(super) right: [i32; 3],
    pub(super) up: [i32; 3],
}

/// Light from above; 4,096 is white.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Light {
    pub(super) sun: [i32; 3],
    /// The sun's middle.
    pub(super) sun_at: Direction,
    pub(super) sun_directions: Box<[Direction; SUN_DIRECTIONS]>,
    pub(super) sky: Box<[[i32; 3]; SKY_STEPS]>,
    pub(super) glow: Box<[[i32; 3]; GLOW_STEPS]>,
    /// How thick the clouds are, of 256.
    pub(super) clouds: Box<[u8; CLOUD_SIDE * CLOUD_SIDE]>,
    /// How soon things fade into the distance: of 4,096, for each 64 voxels.
    pub(super) haze: i32,
}

/// Everything that the renderer needs besides the picture's size.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scene {
    pub(super) voxels: Box<[u8; VOXELS]>,
    pub(super) materials: [Material; MATERIALS],
    pub(super) light: Light,
    pub(super) camera: Camera,
    pub(super) directions: Box<[Direction; DIRECTIONS]>,
    /// Keys of the samples' random numbers.
    pub(super) keys: [u32; 2],
}

/// Place of a voxel in memory.
pub(super) const fn voxel_index(x: usize, y: usize, z: usize) -> usize {
    (z * GRID_Y + y) * GRID_X + x
}

impl Scene {
    /// The scene of a seed. Takes some milliseconds and 2 MiB.
    #[must_use]
    pub fn new(seed: &[u8; 32]) -> Self {
        let mut dice = Dice::new(seed, "keys");
        let keys = [dice.word(), dice.word()];
        let mood = sky::Mood::draw(&mut Dice::new(seed, "mood"));
        let built = build::World::new(seed, mood);
        let light = sky::light(seed, mood, &built.camera);
        Self {
            voxels: built.voxels,
            materials: built.materials,
            camera: built.camera,
            light,
            directions: directions(),
            keys,
        }
    }

    /// The scene as the kernel reads it: words in the order that `render.wgsl` names. 1.1 MiB.
    #[must_use]
    pub fn words(&self) -> Vec<u32> {
        let mut words = Vec::with_capacity(VOXELS / 4 + 8_192);
        let signed = |words: &mut Vec<u32>, values: &[i32]| words.extend(values.iter().map(|v| v.cast_unsigned()));
        words.extend(self.voxels.chunks_exact(4).map(|four| u32::from_le_bytes([four[0], four[1], four[2], four[3]])));
        for material in &self.materials {
            let three = |c: [u8; 3], high: u8| u32::from_le_bytes([c[0], c[1], c[2], high]);
            words.push(three(material.albedo, material.mirror));
            words.push(three(material.glow, material.rough));
        }
        self.directions.iter().for_each(|d| signed(&mut words, d));
        self.light.sun_directions.iter().for_each(|d| signed(&mut words, d));
        self.light.sky.iter().for_each(|c| signed(&mut words, c));
        self.light.glow.iter().for_each(|c| signed(&mut words, c));
        words.extend(self.light.clouds.chunks_exact(4).map(|f| u32::from_le_bytes([f[0], f[1], f[2], f[3]])));
        let camera = &self.camera;
        for vector in [self.light.sun, self.light.sun_at, camera.at, camera.forward, camera.right, camera.up] {
            signed(&mut words, &vector);
        }
        signed(&mut words, &[self.light.haze]);
        words.extend(self.keys);
        words
    }
}

/// A vector brought to length 16,384; its parts may be up to 30,000.
pub(super) fn normal(vector: [i32; 3]) -> Direction {
    let square = vector.iter().map(|v| v.unsigned_abs().saturating_mul(v.unsigned_abs())).fold(0, u32::saturating_add);
    let length = i32::try_from(root(square)).unwrap_or(i32::MAX).max(1);
    vector.map(|v| v * 16_384 / length)
}

/// Directions above a floor, the more of them the steeper (cosine law): points of a disc in the order of a golden spiral,
/// lifted to the half sphere.
fn directions() -> Box<[Direction; DIRECTIONS]> {
    // The golden angle as a fraction of 2³².
    const GOLDEN: u32 = 1_640_531_527;
    let mut out = Box::new([[0; 3]; DIRECTIONS]);
    let mut turn = 0_u32;
    for (slot, i) in out.iter_mut().zip(0_u32..) {
        let count = u32::try_from(DIRECTIONS).unwrap_or(1);
        // Equal areas: the squared radius grows evenly.
        let square = (2 * i + 1) * ((1 << 28) / (2 * count));
        let radius = i32::try_from(root(square)).unwrap_or(0);
        let up = i32::try_from(root((1 << 28) - square)).unwrap_or(0);
        let angle = i32::try_from(turn >> 20).unwrap_or(0);
        *slot = [radius * super::noise::cosine(angle) / 16_384, radius * super::noise::sine(angle) / 16_384, up.max(1)];
        turn = turn.wrapping_add(GOLDEN);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scattered_light_follows_the_cosine_law() {
        let directions = directions();
        let mean_up = directions.iter().map(|d| i64::from(d[2])).sum::<i64>() / 1024;
        // The mean height of the cosine law is two thirds.
        assert!((mean_up - 16_384 * 2 / 3).abs() < 50, "{mean_up}");
        for axis in 0..2 {
            let mean = directions.iter().map(|d| i64::from(d[axis])).sum::<i64>() / 1024;
            assert!(mean.abs() < 60, "{mean}");
        }
        for d in directions.iter() {
            let length = d.iter().map(|v| i64::from(*v) * i64::from(*v)).sum::<i64>().isqrt();
            assert!((length - 16_384).abs() < 60, "{d:?}");
        }
    }

    #[test]
    fn a_seed_is_a_scene() {
        let scene = Scene::new(&[1; 32]);
        assert_eq!(scene, Scene::new(&[1; 32]));
        assert_ne!(scene, Scene::new(&[2; 32]));
        let solid = scene.voxels.iter().filter(|v| **v != 0).count();
        assert!(solid > VOXELS / 20 && solid < VOXELS / 2, "{solid}");
        let [x, y, z] = scene.camera.at.map(|v| usize::try_from(v >> 8).unwrap());
        assert_eq!(scene.voxels[voxel_index(x, y, z)], 0, "the camera stands in the open");
    }
}
