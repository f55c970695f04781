//! Sun, sky and clouds, by the time of day.

use super::noise::{Dice, cosine, noise, root, sine};
use super::scene::{CLOUD_SIDE, Camera, GLOW_STEPS, Light, SKY_STEPS, SUN_DIRECTIONS, normal};

/// A time of day.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mood {
    Day,
    Golden,
    Dusk,
}

/// Colours of a mood; 4,096 is white.
struct Palette {
    zenith: [i32; 3],
    horizon: [i32; 3],
    sun: [i32; 3],
    /// The sun's height in 4,096ths of a turn, from and to.
    height: (i32, i32),
    haze: i32,
    /// Clouds where the pattern is above this.
    cloudless: i32,
}

impl Mood {
    pub(super) fn draw(dice: &mut Dice) -> Self {
        match dice.range(0, 9) {
            0..=3 => Self::Day,
            4..=7 => Self::Golden,
            _ => Self::Dusk,
        }
    }

    /// How bright windows and lamps are, in 16ths of white: in daylight they hardly show.
    pub(super) const fn lamp(self) -> u8 {
        match self {
            Self::Day => 8,
            Self::Golden => 40,
            Self::Dusk => 90,
        }
    }

    const fn palette(self) -> Palette {
        match self {
            Self::Day => Palette {
                zenith: [800, 1_800, 3_900],
                horizon: [3_300, 4_000, 4_700],
                sun: [14_500, 13_000, 10_600],
                height: (420, 640),
                haze: 300,
                cloudless: 148,
            },
            Self::Golden => Palette {
                zenith: [950, 1_650, 3_000],
                horizon: [5_200, 3_500, 2_300],
                sun: [17_500, 11_000, 5_200],
                height: (210, 320),
                haze: 420,
                cloudless: 135,
            },
            Self::Dusk => Palette {
                zenith: [330, 470, 1_200],
                horizon: [2_400, 1_300, 1_400],
                sun: [4_900, 2_300, 1_400],
                height: (110, 160),
                haze: 420,
                cloudless: 140,
            },
        }
    }
}

/// The light of a scene. The sun stands to the side of the camera, so that shadows and lit walls are both seen.
pub(super) fn light(seed: &[u8; 32], mood: Mood, camera: &Camera) -> Light {
    let mut dice = Dice::new(seed, "light");
    let palette = mood.palette();
    let side = if dice.chance(50) { 1 } else { -1 };
    let ahead = dice.range(-5_000, 9_000);
    let flat: [i32; 2] =
        [0, 1].map(|a| camera.forward[a] * ahead / 8_192 + side * camera.right[a] * dice.range(9_000, 12_000) / 8_192);
    let flat = normal([flat[0], flat[1], 0]);
    let height = dice.range(palette.height.0, palette.height.1);
    let sun_at = [flat[0] * cosine(height) / 16_384, flat[1] * cosine(height) / 16_384, sine(height)];
    Light {
        sun: palette.sun,
        sun_at,
        sun_directions: sun_directions(sun_at, &mut dice),
        sky: sky(&palette),
        glow: glow(&palette),
        clouds: clouds(&mut dice, palette.cloudless),
        haze: palette.haze,
    }
}

fn sun_directions(sun_at: [i32; 3], dice: &mut Dice) -> Box<[[i32; 3]; SUN_DIRECTIONS]> {
    // Wider than the real sun: softer shadows.
    const RADIUS: i32 = 330;
    let mut out = Box::new([[0; 3]; SUN_DIRECTIONS]);
    for slot in out.iter_mut() {
        *slot = normal(sun_at.map(|s| s + dice.range(-RADIUS, RADIUS)));
    }
    out
}

fn sky(palette: &Palette) -> Box<[[i32; 3]; SKY_STEPS]> {
    let mut out = Box::new([[0; 3]; SKY_STEPS]);
    for (slot, step) in out.iter_mut().zip(0_u32..) {
        let share = i32::try_from(root(step * 256)).unwrap_or(256);
        *slot = [0, 1, 2].map(|c| (palette.horizon[c] * (256 - share) + palette.zenith[c] * share) / 256);
    }
    out
}

fn glow(palette: &Palette) -> Box<[[i32; 3]; GLOW_STEPS]> {
    let mut out = Box::new([[0; 3]; GLOW_STEPS]);
    for (slot, step) in out.iter_mut().zip(0_i32..) {
        // The disc, then a glow that falls to nothing at the table's end.
        let strength = if step == 0 { 768 } else { 60 * (256 - step) / (256 + 14 * step) };
        *slot = palette.sun.map(|s| s * strength / 256);
    }
    out
}

fn clouds(dice: &mut Dice, cloudless: i32) -> Box<[u8; CLOUD_SIDE * CLOUD_SIDE]> {
    let salt = dice.word();
    let mut out = Box::new([0; CLOUD_SIDE * CLOUD_SIDE]);
    let side = i32::try_from(CLOUD_SIDE).unwrap_or(1);
    for (slot, at) in out.iter_mut().zip(0_i32..) {
        let (x, y) = (at % side, at / side);
        let thick = (noise(x, y, 3, salt) * 3 + noise(x, y, 1, salt ^ 1)) / 4;
        *slot = u8::try_from(((thick - cloudless) * 6).clamp(0, 200)).unwrap_or(0);
    }
    out
}
