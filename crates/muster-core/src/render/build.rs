//! A small world: hills around a castle with its town, a lake, trees, and balloons above it.

use super::noise::{Dice, cosine, noise, sine};
use super::scene::{Camera, GRID_X, GRID_Y, GRID_Z, MATERIALS, Material, VOXELS, normal, voxel_index};
use super::sky::Mood;

const GRASS: u8 = 1;
const DIRT: u8 = 4;
const ROCK: u8 = 5;
const SNOW: u8 = 7;
const SAND: u8 = 8;
const WATER: u8 = 9;
const TRUNK: u8 = 10;
const LEAVES: u8 = 11;
const WALL: u8 = 14;
const ROOF: u8 = 18;
const WINDOW: u8 = 21;
const LAMP: u8 = 22;
const ROAD: u8 = 23;
const STONE: u8 = 24;
const STONE_DARK: u8 = 25;
const GOLD: u8 = 26;
const WOOD: u8 = 27;
const BALLOON: u8 = 28;
const FLOWER: u8 = 33;

/// The middle of the castle.
const MIDDLE: i32 = 64;
/// Height of the ground that the town stands on.
const TOWN: i32 = 13;
/// Height of the lake.
const LAKE: i32 = 9;

/// What was built.
pub(super) struct World {
    pub(super) voxels: Box<[u8; VOXELS]>,
    pub(super) materials: [Material; MATERIALS],
    pub(super) camera: Camera,
    ground: Vec<i32>,
}

fn matt(r: u8, g: u8, b: u8) -> Material {
    Material { albedo: [r, g, b], ..Material::default() }
}

fn materials(mood: Mood, dice: &mut Dice) -> [Material; MATERIALS] {
    let mut out = [Material::default(); MATERIALS];
    let mut set = |at: u8, material: Material| {
        if let Some(slot) = out.get_mut(usize::from(at)) {
            *slot = material;
        }
    };
    set(GRASS, matt(92, 140, 48));
    set(GRASS + 1, matt(106, 152, 54));
    set(GRASS + 2, matt(80, 126, 44));
    set(DIRT, matt(120, 88, 58));
    set(ROCK, matt(128, 124, 118));
    set(ROCK + 1, matt(104, 100, 98));
    set(SNOW, matt(236, 240, 244));
    set(SAND, matt(206, 188, 138));
    set(WATER, Material { albedo: [30, 92, 120], mirror: 150, rough: 3, ..Material::default() });
    set(TRUNK, matt(92, 64, 40));
    let leaves = match dice.range(0, 2) {
        0 => [[58, 116, 40], [74, 132, 44], [46, 98, 44]],
        1 => [[196, 104, 34], [214, 148, 42], [168, 62, 34]],
        _ => [[226, 148, 172], [236, 178, 196], [88, 138, 58]],
    };
    for (at, [r, g, b]) in (LEAVES..).zip(leaves) {
        set(at, matt(r, g, b));
    }
    for (at, [r, g, b]) in (WALL..).zip([[226, 218, 202], [214, 178, 118], [186, 104, 82], [150, 166, 184]]) {
        set(at, matt(r, g, b));
    }
    for (at, [r, g, b]) in (ROOF..).zip([[172, 62, 44], [140, 52, 46], [74, 86, 112]]) {
        set(at, matt(r, g, b));
    }
    let lamp = mood.lamp();
    set(WINDOW, Material { albedo: [70, 84, 100], glow: [lamp, lamp / 3 * 2, lamp / 4], mirror: 40, rough: 0 });
    set(
        LAMP,
        Material { albedo: [240, 220, 180], glow: [lamp.saturating_mul(2), lamp, lamp / 3], ..Material::default() },
    );
    set(ROAD, matt(150, 136, 116));
    set(STONE, matt(186, 178, 164));
    set(STONE_DARK, matt(158, 150, 140));
    set(GOLD, Material { albedo: [236, 182, 70], mirror: 120, rough: 4, ..Material::default() });
    set(WOOD, matt(122, 84, 50));
    for (at, [r, g, b]) in
        (BALLOON..).zip([[206, 52, 46], [240, 196, 60], [48, 110, 190], [238, 236, 228], [46, 150, 116]])
    {
        set(at, matt(r, g, b));
    }
    set(FLOWER, matt(222, 78, 96));
    set(FLOWER + 1, matt(238, 208, 86));
    out
}

impl World {
    /// The world of a seed at a time of day.
    pub(super) fn new(seed: &[u8; 32], mood: Mood) -> Self {
        let mut dice = Dice::new(seed, "world");
        let materials = materials(mood, &mut dice);
        let mut world = Self {
            voxels: vec![0; VOXELS].try_into().unwrap_or_else(|_| Box::new([0; VOXELS])),
            materials,
            camera: Camera::default(),
            ground: vec![0; GRID_X * GRID_Y],
        };
        // The camera stands at the rim; the ground is kept low before it.
        let turn = dice.range(0, 4095);
        world.shape(&mut dice, turn);
        world.castle(&mut dice, turn);
        for _ in 0..46 {
            world.house(&mut dice);
        }
        for _ in 0..260 {
            world.tree(&mut dice);
        }
        for _ in 0..300 {
            world.flower(&mut dice);
        }
        for place in 0..4 {
            world.balloon(&mut dice, turn + 2_048 + (place * 2 - 3) * 230);
        }
        world.camera = world.stand(&mut dice, turn);
        world
    }

    fn at(x: i32, y: i32, z: i32) -> Option<usize> {
        let (x, y, z) = (usize::try_from(x).ok()?, usize::try_from(y).ok()?, usize::try_from(z).ok()?);
        (x < GRID_X && y < GRID_Y && z < GRID_Z).then(|| voxel_index(x, y, z))
    }

    fn get(&self, x: i32, y: i32, z: i32) -> u8 {
        Self::at(x, y, z).and_then(|at| self.voxels.get(at)).copied().unwrap_or(0)
    }

    fn put(&mut self, x: i32, y: i32, z: i32, material: u8) {
        if let Some(voxel) = Self::at(x, y, z).and_then(|at| self.voxels.get_mut(at)) {
            *voxel = material;
        }
    }

    fn fill(&mut self, from: [i32; 3], to: [i32; 3], material: u8) {
        for z in from[2]..=to[2] {
            for y in from[1]..=to[1] {
                for x in from[0]..=to[0] {
                    self.put(x, y, z, material);
                }
            }
        }
    }

    fn ground_at(&self, x: i32, y: i32) -> i32 {
        let place = usize::try_from(x).ok().zip(usize::try_from(y).ok()).filter(|(x, y)| *x < GRID_X && *y < GRID_Y);
        place.and_then(|(x, y)| self.ground.get(y * GRID_X + x)).copied().unwrap_or(0)
    }

    /// Hills, lake and town's ground.
    fn shape(&mut self, dice: &mut Dice, turn: i32) {
        let salt = dice.word();
        let lake_turn = turn + if dice.chance(50) { 1 } else { -1 } * dice.range(330, 520);
        let lake = [MIDDLE + 38 * cosine(lake_turn) / 16_384, MIDDLE + 38 * sine(lake_turn) / 16_384];
        let (to_x, to_y) = (cosine(turn), sine(turn));
        for y in 0..128_i32 {
            for x in 0..128_i32 {
                let (dx, dy) = (x - MIDDLE, y - MIDDLE);
                let far = (dx * dx + dy * dy).isqrt();
                // From −64 behind the castle to 64 before it, as the camera sees it.
                let before = (dx * to_x + dy * to_y) / 16_384;
                let rough = noise(x, y, 5, salt) * 14 + noise(x, y, 4, salt ^ 1) * 7 + noise(x, y, 2, salt ^ 2) * 2;
                let peaks = (far - 36).max(0) * noise(x, y, 4, salt ^ 3) / 180 * (96 - before).clamp(20, 130) / 110;
                let mut height = 4 + rough / 256 + peaks.min(28);
                if far < 38 {
                    height = TOWN + (height - TOWN) * (far - 24).max(0) / 14;
                }
                let (lx, ly) = (x - lake[0], y - lake[1]);
                let shore = (lx * lx + ly * ly).isqrt() + noise(x, y, 3, salt ^ 4) / 40 - 3;
                if shore < 18 {
                    height = height.min(LAKE - 4 + (shore - 8).max(0));
                }
                self.column(x, y, height.clamp(2, 58), salt);
            }
        }
    }

    fn column(&mut self, x: i32, y: i32, height: i32, salt: u32) {
        let speck = noise(x, y, 1, salt ^ 5);
        let top = match height {
            ..=LAKE => SAND,
            10 if speck < 110 => SAND,
            _ if height > 38 + speck / 50 => SNOW,
            _ if height > 29 + speck / 40 => ROCK + u8::from(speck > 128),
            _ => GRASS + u8::from(speck > 150) + 2 * u8::from(speck < 90),
        };
        for z in 0..=height {
            let material = if z == height {
                top
            } else if z + 3 > height && top < ROCK {
                DIRT
            } else {
                ROCK + u8::from((z + speck / 64) % 3 == 0)
            };
            self.put(x, y, z, material);
        }
        for z in height + 1..=LAKE {
            self.put(x, y, z, WATER);
        }
        if let Some(slot) = usize::try_from(y * 128 + x).ok().and_then(|at| self.ground.get_mut(at)) {
            *slot = height.max(LAKE);
        }
    }

    fn castle(&mut self, dice: &mut Dice, turn: i32) {
        let (m, t) = (MIDDLE, TOWN);
        self.fill([m - 14, m - 14, t - 4], [m + 14, m + 14, t], ROAD);
        for (from, to) in [
            ([m - 13, m - 13], [m + 13, m - 12]),
            ([m - 13, m + 12], [m + 13, m + 13]),
            ([m - 13, m - 13], [m - 12, m + 13]),
            ([m + 12, m - 13], [m + 13, m + 13]),
        ] {
            self.fill([from[0], from[1], t + 1], [to[0], to[1], t + 6], STONE);
            self.battlements([from[0], from[1]], [to[0], to[1]], t + 7, STONE_DARK);
        }
        for (x, y) in [(-13, -13), (13, -13), (-13, 13), (13, 13)] {
            let height = dice.range(11, 15);
            self.tower(dice, m + x, m + y, 3, height);
        }
        let (w, h) = (dice.range(5, 6), dice.range(15, 20));
        self.fill([m - w, m - w, t + 1], [m + w, m + w, t + h], STONE);
        self.windows([m - w, m - w], [m + w, m + w], t + 4, t + h - 2);
        self.battlements([m - w, m - w], [m + w, m + w], t + h + 1, STONE_DARK);
        self.spire([m, m], w - 2, t + h + 1, ROOF + 2);
        // A gate and a road towards the camera.
        let (x, y) =
            if cosine(turn).abs() > sine(turn).abs() { (cosine(turn).signum(), 0) } else { (0, sine(turn).signum()) };
        for out in 10..44 {
            for side in -2..=2 {
                let (px, py) = (m + x * out + y * side, m + y * out + x * side);
                let ground = self.ground_at(px, py);
                if out < 15 {
                    self.fill([px, py, t + 1], [px, py, t + 4 - side.abs() / 2], 0);
                } else if ground > LAKE {
                    self.put(px, py, ground, ROAD);
                } else {
                    self.put(px, py, LAKE + 1, WOOD);
                }
                if out % 8 == 1 && out > 15 && side.abs() == 2 && ground > LAKE {
                    self.fill([px, py, ground + 1], [px, py, ground + 3], WOOD);
                    self.put(px, py, ground + 4, LAMP);
                }
            }
        }
    }

    fn tower(&mut self, dice: &mut Dice, x: i32, y: i32, radius: i32, height: i32) {
        for dy in -radius..=radius {
            for dx in -radius..=radius {
                let edge = dx * dx + dy * dy;
                if edge > radius * radius + 1 {
                    continue;
                }
                let band = |z: i32| if z % 5 == 0 { STONE_DARK } else { STONE };
                for z in TOWN + 1..=TOWN + height {
                    self.put(x + dx, y + dy, z, band(z));
                }
                if (dx == 0 || dy == 0) && edge >= radius * radius {
                    self.put(x + dx, y + dy, TOWN + height - 3, WINDOW);
                    self.put(x + dx, y + dy, TOWN + height - 4, WINDOW);
                }
            }
        }
        let roof = ROOF + u8::try_from(dice.range(0, 1)).unwrap_or(0) * 2;
        self.spire([x, y], radius + 1, TOWN + height + 1, roof);
    }

    /// A pointed roof with a golden tip.
    fn spire(&mut self, at: [i32; 2], radius: i32, base: i32, material: u8) {
        let tall = radius * 2;
        for up in 0..=tall {
            let r = radius - up / 2;
            for dy in -r..=r {
                for dx in -r..=r {
                    if dx * dx + dy * dy <= r * r + 1 {
                        self.put(at[0] + dx, at[1] + dy, base + up, material);
                    }
                }
            }
        }
        self.fill([at[0], at[1], base + tall + 1], [at[0], at[1], base + tall + 3], GOLD);
    }

    fn battlements(&mut self, from: [i32; 2], to: [i32; 2], z: i32, material: u8) {
        for y in from[1]..=to[1] {
            for x in from[0]..=to[0] {
                let rim = x == from[0] || x == to[0] || y == from[1] || y == to[1];
                if rim && (x + y).rem_euclid(3) != 0 {
                    self.put(x, y, z, material);
                }
            }
        }
    }

    /// Rows of windows in the walls of a box.
    fn windows(&mut self, from: [i32; 2], to: [i32; 2], low: i32, high: i32) {
        for z in (low..=high).step_by(4) {
            for along in (2..=(to[0] - from[0] - 2)).step_by(3) {
                for up in 0..2 {
                    self.put(from[0] + along, from[1], z + up, WINDOW);
                    self.put(from[0] + along, to[1], z + up, WINDOW);
                    self.put(from[0], from[1] + along, z + up, WINDOW);
                    self.put(to[0], from[1] + along, z + up, WINDOW);
                }
            }
        }
    }

    /// Whether a box of ground is free, level and dry.
    fn is_free(&self, from: [i32; 2], to: [i32; 2]) -> Option<i32> {
        let level = self.ground_at(from[0], from[1]);
        for y in from[1] - 1..=to[1] + 1 {
            for x in from[0] - 1..=to[0] + 1 {
                let ground = self.ground_at(x, y);
                let covered = self.get(x, y, ground + 1) != 0 || self.get(x, y, ground) == ROAD;
                if ground <= LAKE || (ground - level).abs() > 2 || covered {
                    return None;
                }
            }
        }
        Some(level)
    }

    fn house(&mut self, dice: &mut Dice) {
        let (turn, far) = (dice.range(0, 4095), dice.range(18, 36));
        let (x, y) = (MIDDLE + far * cosine(turn) / 16_384, MIDDLE + far * sine(turn) / 16_384);
        let (w, d, h) = (dice.range(4, 7), dice.range(4, 6), dice.range(3, 5));
        let wall = WALL + u8::try_from(dice.range(0, 3)).unwrap_or(0);
        let roof = ROOF + u8::try_from(dice.range(0, 2)).unwrap_or(0);
        let swap = dice.chance(50);
        let (w, d) = if swap { (d, w) } else { (w, d) };
        let Some(level) = self.is_free([x, y], [x + w, y + d]) else { return };
        self.fill([x, y, level - 2], [x + w, y + d, level + h], wall);
        for (px, py) in [(x + 1, y), (x + w - 1, y), (x + 1, y + d), (x + w - 1, y + d), (x, y + 2), (x + w, y + 2)] {
            self.put(px, py, level + 2, WINDOW);
        }
        self.put(x + w / 2, y, level + 1, WOOD);
        self.put(x + w / 2, y + d, level + 1, WOOD);
        // A gabled roof that overhangs by one.
        for up in 0..=(if swap { w } else { d }) / 2 + 1 {
            let z = level + h + 1 + up;
            if swap {
                self.fill([x - 1 + up, y - 1, z], [x + w + 1 - up, y + d + 1, z], roof);
            } else {
                self.fill([x - 1, y - 1 + up, z], [x + w + 1, y + d + 1 - up, z], roof);
            }
        }
        let chimney = level + h + 4;
        self.fill([x + 1, y + 1, chimney - 3], [x + 1, y + 1, chimney], STONE_DARK);
    }

    fn tree(&mut self, dice: &mut Dice) {
        let (x, y) = (dice.range(2, 125), dice.range(2, 125));
        let (kind, height, leaf) = (dice.range(0, 2), dice.range(3, 5), dice.range(0, 2));
        let Some(level) = self.is_free([x, y], [x, y]).filter(|level| *level < 32) else { return };
        let leaf = LEAVES + u8::try_from(leaf).unwrap_or(0);
        if kind == 0 {
            // A fir.
            self.fill([x, y, level + 1], [x, y, level + 3], TRUNK);
            for up in 0..height + 4 {
                let r = (height + 4 - up) / 3;
                self.ball([x, y, level + 3 + up], [r, r, 0], LEAVES + 2);
            }
        } else {
            self.fill([x, y, level + 1], [x, y, level + height], TRUNK);
            let r = dice.range(2, 3);
            self.ball([x, y, level + height + r - 1], [r, r, r], leaf);
        }
    }

    fn flower(&mut self, dice: &mut Dice) {
        let (x, y, kind) = (dice.range(0, 127), dice.range(0, 127), dice.range(0, 1));
        if self.is_free([x, y], [x, y]).is_some_and(|level| level < 24) {
            let level = self.ground_at(x, y);
            self.put(x, y, level + 1, FLOWER + u8::try_from(kind).unwrap_or(0));
        }
    }

    /// An ellipsoid; a radius of 0 is one voxel thick.
    fn ball(&mut self, at: [i32; 3], radius: [i32; 3], material: u8) {
        let sq = radius.map(|r| (r * r * 4 + r * 2).max(1));
        for dz in -radius[2]..=radius[2] {
            for dy in -radius[1]..=radius[1] {
                for dx in -radius[0]..=radius[0] {
                    let inside = dx * dx * 4_096 / sq[0] + dy * dy * 4_096 / sq[1] + dz * dz * 4_096 / sq[2];
                    if inside <= 1_024 {
                        self.put(at[0] + dx, at[1] + dy, at[2] + dz, material);
                    }
                }
            }
        }
    }

    /// A balloon in a direction from the castle.
    fn balloon(&mut self, dice: &mut Dice, turn: i32) {
        let away = turn + dice.range(-100, 100);
        let far = dice.range(20, 50);
        let (x, y) = (MIDDLE + far * cosine(away) / 16_384, MIDDLE + far * sine(away) / 16_384);
        let (z, r) = (dice.range(40, 55), dice.range(3, 5));
        let colours = [dice.range(0, 4), dice.range(0, 4)].map(|c| BALLOON + u8::try_from(c).unwrap_or(0));
        for dz in -r..=r {
            for dy in -r..=r {
                for dx in -r..=r {
                    if dx * dx + dy * dy + dz * dz <= r * r + 1 {
                        let stripe = (dx + dy).rem_euclid(4) < 2;
                        self.put(x + dx, y + dy, z + dz, colours[usize::from(stripe)]);
                    }
                }
            }
        }
        self.fill([x - 1, y - 1, z - r - 4], [x + 1, y + 1, z - r - 3], WOOD);
        for (dx, dy) in [(-1, -1), (1, -1), (-1, 1), (1, 1)] {
            self.fill([x + dx, y + dy, z - r - 2], [x + dx, y + dy, z - r], WOOD);
        }
    }

    fn stand(&self, dice: &mut Dice, turn: i32) -> Camera {
        let far = dice.range(56, 61);
        let (x, y) = (MIDDLE + far * cosine(turn) / 16_384, MIDDLE + far * sine(turn) / 16_384);
        let mut highest = 0;
        for dy in -3..=3 {
            for dx in -3..=3 {
                highest = highest.max((0..64).rev().find(|z| self.get(x + dx, y + dy, *z) != 0).unwrap_or(0));
            }
        }
        let z = (highest + 4).max(dice.range(30, 42)).min(62);
        let aim = [MIDDLE - x, MIDDLE - y, TOWN + dice.range(5, 9) - z];
        let forward = normal(aim.map(|a| a * 200));
        let right = normal([forward[1], -forward[0], 0]);
        let up = [
            (right[1] * forward[2] - right[2] * forward[1]) >> 14,
            (right[2] * forward[0] - right[0] * forward[2]) >> 14,
            (right[0] * forward[1] - right[1] * forward[0]) >> 14,
        ];
        // Half of the view is 30° wide: tan 30° = 0.577.
        let lens = |v: [i32; 3]| v.map(|v| v * 4_730 / 16_384);
        Camera {
            at: [x * 256 + 128, y * 256 + 128, z * 256 + 128],
            forward: forward.map(|v| v / 2),
            right: lens(right),
            up: lens(up),
        }
    }
}
