//! The integer voxel path tracer: a picture that every GPU and every processor draws bit for bit alike.
//!
//! A 32-byte seed gives a [`Scene`]; [`Scene::tile`] renders any 8×8 tile without the rest. The kernel in
//! `muster-gpu/src/shaders/render.wgsl` is this module's `trace` line by line: 32-bit whole numbers only, wrapping where
//! they can wrap, so that there is nothing that two drivers could round differently.
//!
//! A pixel is two words: its colour as it is shown (red, green, blue, 255, from the lowest byte on), and a hash over the
//! light of each of its samples, so that leaving out a single sample of a single pixel changes the tile.

mod build;
mod noise;
mod scene;
mod sky;
mod trace;

pub use scene::{
    CLOUD_SIDE, DIRECTIONS, GLOW_STEPS, GRID_X, GRID_Y, GRID_Z, MATERIALS, SKY_STEPS, SUN_DIRECTIONS, Scene, VOXELS,
};
pub use trace::{Tally, Tile};

/// Pixels of a tile.
pub const TILE_PIXELS: usize = 64;
/// The smallest picture, in pixels a side.
pub const SIDE_MIN: u32 = 64;
