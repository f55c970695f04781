//! The stages of a proof on a card.

use std::time::{Duration, Instant};

use muster_core::proof::challenge::CHUNK_CHAINS;
use muster_core::proof::memory::{Pad, WalkKeys};
use muster_core::proof::multiply::Matrices;
use muster_core::proof::{Device, Plan, WalkShape};
use muster_core::render::{Scene, TILE_PIXELS, Tile};

use super::pads::Pads;
use super::{CardError, Gpu};

/// How long one call of a kernel should take: long enough to fill a card, far below the two seconds after which systems
/// take a card for hung.
const CALL: Duration = Duration::from_millis(120);
/// The first call's tiles, before it is known how fast the card is.
const TILES_FIRST: u32 = 64;
/// The most tiles of one call: 8 MiB of pixels.
const TILES_MAX: u32 = 16_384;
/// Groups of a call lie in rows of this length: WebGPU's limit is 65,535.
const GROUPS_ROW: u32 = 32_768;
/// Words of a tile.
const TILE_WORDS: usize = TILE_PIXELS * 2;

/// How many to take in the next call, after `done` took `took`.
fn next_batch(done: u32, took: Duration, max: u32) -> u32 {
    let fits = u128::from(done) * CALL.as_micros() / took.as_micros().max(1);
    // At most four times as many: the first calls of a card say little.
    u32::try_from(fits).unwrap_or(max).clamp(1, done.saturating_mul(4)).clamp(1, max)
}

fn tile_of(words: &[u32]) -> Tile {
    let mut tile = [[0; 2]; TILE_PIXELS];
    for (pixel, two) in tile.iter_mut().zip(words.chunks_exact(2)) {
        pixel.copy_from_slice(two);
    }
    tile
}

impl Device for Gpu {
    type Error = CardError;

    fn render(&mut self, scene: &Scene, plan: &Plan, tiles: &mut dyn FnMut(&Tile)) -> Result<(), CardError> {
        let scene = self.constant(&scene.words(), wgpu::BufferUsages::STORAGE);
        let outs = [0, 1].map(|_| self.storage(u64::from(TILES_MAX) * TILE_WORDS as u64 * 4));
        let (mut first, mut batch) = (0, TILES_FIRST);
        let mut running = None;
        let mut turn = 0_usize;
        let mut begun = Instant::now();
        loop {
            // The next call is on its way before the last one's pixels are hashed: the card does not wait for us.
            let count = batch.min(plan.tiles() - first);
            let next = (count > 0).then(|| {
                let out = &outs[turn % 2];
                let params = self.params([plan.picture_side, plan.spp, plan.bounces, first, count, 0, 0, 0]);
                let bytes = u64::from(count) * TILE_WORDS as u64 * 4;
                let groups = [count.min(GROUPS_ROW), count.div_ceil(GROUPS_ROW)];
                (count, self.start(&self.kernels.render, &[&params, &scene, out], groups, Some((out, bytes))))
            });
            first += count;
            turn += 1;
            if let Some((done, last)) = running.take() {
                let words = self.finish(last)?;
                batch = next_batch(done, begun.elapsed(), TILES_MAX);
                begun = Instant::now();
                words.chunks_exact(TILE_WORDS).for_each(|words| tiles(&tile_of(words)));
            }
            match next {
                Some(next) => running = Some(next),
                None => return Ok(()),
            }
        }
    }

    fn multiply(&mut self, matrices: &Matrices, rows: &mut dyn FnMut(&[u32])) -> Result<(), CardError> {
        let side = matrices.side;
        let row_bytes = u64::from(side) * 4;
        let most = u32::try_from((64 << 20) / row_bytes).unwrap_or(16).clamp(16, side) / 16 * 16;
        let out = self.storage(u64::from(most) * row_bytes);
        let (mut first, mut batch) = (0, 16);
        while first < side {
            let count = batch.min(side - first);
            let begun = Instant::now();
            let params = self.params([side, first, count, matrices.keys[0], matrices.keys[1], 0, 0, 0]);
            let running = self.start(
                &self.kernels.multiply,
                &[&params, &out],
                [side / 16, count / 16],
                Some((&out, u64::from(count) * row_bytes)),
            );
            let words = self.finish(running)?;
            words.chunks_exact(side as usize).for_each(&mut *rows);
            first += count;
            batch = next_batch(count, begun.elapsed(), most).div_ceil(16) * 16;
        }
        Ok(())
    }

    fn fill(&mut self, pad: &Pad, ends: &mut dyn FnMut([u32; 4])) -> Result<(), CardError> {
        Pads::allocate(self, pad)?;
        let per_buffer = self.pads.chunks_per_buffer.saturating_mul(CHUNK_CHAINS);
        // As many chains as a large card runs at once.
        let most = 1 << 17;
        let out = self.storage(u64::from(most) * 16);
        let (mut first, mut batch) = (0_u32, 256_u32);
        while first < pad.chains {
            let begun = Instant::now();
            let (buffer, local) = (first / per_buffer, first % per_buffer);
            let count = batch.min(pad.chains - first).min(per_buffer - local);
            let Some(target) = self.pads.buffers.get(buffer as usize) else {
                return Err(CardError::Memory { bytes: 0, why: "the pad has fewer buffers than it needs".into() });
            };
            let params = self.params([first, count, pad.keys[0], pad.keys[1], local, 0, 0, 0]);
            let groups = [count.div_ceil(32), 1];
            let bytes = u64::from(count) * 16;
            let running = self.start(&self.kernels.fill, &[&params, target, &out], groups, Some((&out, bytes)));
            for end in self.finish(running)?.chunks_exact(4) {
                ends([end[0], end[1], end[2], end[3]]);
            }
            first += count;
            batch = next_batch(count, begun.elapsed(), most).div_ceil(32) * 32;
        }
        Ok(())
    }

    fn walk(
        &mut self,
        pad: &Pad,
        keys: WalkKeys,
        shape: WalkShape,
        states: &mut dyn FnMut(&[u32]),
    ) -> Result<(), CardError> {
        let Some(kernel) = &self.pads.walk else {
            return Err(CardError::Memory { bytes: 0, why: "there is no pad to walk through".into() });
        };
        let line = shape.segments as usize + 1;
        let bytes = u64::from(shape.walks) * line as u64 * 4;
        let out = self.storage(bytes);
        for segment in 0..shape.segments {
            let WalkKeys([key0, key1]) = keys;
            let per_buffer = self.pads.chunks_per_buffer;
            let words = [shape.walks, shape.segments, segment, shape.steps, key0, key1, pad.chains, per_buffer];
            let params = self.params(words);
            let mut buffers = vec![&params, &out];
            buffers.extend(&self.pads.buffers);
            let last = segment + 1 == shape.segments;
            let running = self.start(kernel, &buffers, [shape.walks.div_ceil(64), 1], last.then_some((&out, bytes)));
            // Only the last is waited for; the queue keeps the order.
            if last {
                self.finish(running)?.chunks_exact(line).for_each(&mut *states);
            }
        }
        Ok(())
    }

    fn hint(&mut self) -> Result<Vec<u32>, CardError> {
        let kernel = self.kernel("hint", include_str!("../shaders/hint.wgsl"));
        let out = self.storage(48 * 4);
        let running = self.start(&kernel, &[&out], [1, 1], Some((&out, 48 * 4)));
        self.finish(running)
    }
}
