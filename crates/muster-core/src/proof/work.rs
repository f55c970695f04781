//! The prover's side of the work: a [`Device`] computes, [`Work`] builds the trees, keeps what may be drawn, and opens it.
//!
//! Everything that can be drawn is kept outside of the device: a card that resets after the roots went out still opens.

use super::challenge::{CHAIN_WORDS, CHUNK_CHAINS, Plan, Stage};
use super::memory::{Pad, WalkKeys};
use super::merkle::{MerkleError, Tree, leaf_hash};
use super::multiply::Matrices;
use super::openings::{Draw, HINT_WORDS_MAX, Opening, Openings};
use crate::ids::ContentHash;
use crate::render::{Scene, Tally, Tile};

/// What computes a challenge's stages: a card, or the processor.
pub trait Device {
    /// Why it could not.
    type Error;

    /// Renders all tiles of the picture, in order, and hands them over as they come.
    ///
    /// # Errors
    /// When the device failed.
    fn render(&mut self, scene: &Scene, plan: &Plan, tiles: &mut dyn FnMut(&Tile)) -> Result<(), Self::Error>;

    /// Multiplies the matrices and hands over all rows, in order.
    ///
    /// # Errors
    /// When the device failed.
    fn multiply(&mut self, matrices: &Matrices, rows: &mut dyn FnMut(&[u32])) -> Result<(), Self::Error>;

    /// Fills its memory with the pad and hands over the last four words of all chains, in order.
    ///
    /// # Errors
    /// When the device failed or has not so much memory.
    fn fill(&mut self, pad: &Pad, ends: &mut dyn FnMut([u32; 4])) -> Result<(), Self::Error>;

    /// Walks through the pad that it holds and hands over the states of all walks, in order: `segments + 1` of each.
    ///
    /// # Errors
    /// When the device failed.
    fn walk(
        &mut self,
        pad: &Pad,
        keys: WalkKeys,
        shape: WalkShape,
        states: &mut dyn FnMut(&[u32]),
    ) -> Result<(), Self::Error>;

    /// Bit patterns of floating-point functions: a hint at what the device is; empty where there are none.
    ///
    /// # Errors
    /// When the device failed.
    fn hint(&mut self) -> Result<Vec<u32>, Self::Error>;
}

/// How many walks, and how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WalkShape {
    /// Walks.
    pub walks: u32,
    /// Segments of each.
    pub segments: u32,
    /// Reads of each segment.
    pub steps: u32,
}

impl Plan {
    /// The shape of its walks.
    #[must_use]
    pub const fn walk_shape(&self) -> WalkShape {
        WalkShape { walks: self.walks, segments: self.walk_segments, steps: self.walk_steps }
    }
}

/// Why a stage has no root or a draw cannot be opened.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WorkError<E> {
    /// The device failed.
    #[error("{0}")]
    Device(E),
    /// The device handed over another number of leaves than the work has.
    #[error("the device handed over {got} leaves of {stage}; there are {want}")]
    Count {
        /// Which stage.
        stage: Stage,
        /// How many came.
        got: usize,
        /// How many there are.
        want: u32,
    },
    /// A stage that was not computed is to be opened.
    #[error("the draw does not fit what was computed")]
    Draw,
}

impl<E> From<MerkleError> for WorkError<E> {
    fn from(_: MerkleError) -> Self {
        Self::Draw
    }
}

/// Leaves of one tree.
#[derive(Clone, Debug, Default)]
struct Leaves {
    bytes: Vec<u8>,
    hashes: Vec<[u8; 32]>,
    leaf_bytes: usize,
    tree: Option<Tree>,
}

impl Leaves {
    fn new(leaf_bytes: usize) -> Self {
        Self { leaf_bytes, ..Self::default() }
    }

    fn push(&mut self, words: impl Iterator<Item = u32>) {
        let from = self.bytes.len();
        self.bytes.extend(words.flat_map(u32::to_le_bytes));
        let index = u32::try_from(self.hashes.len()).unwrap_or(u32::MAX);
        self.hashes.push(leaf_hash(index, self.bytes.get(from..).unwrap_or_default()));
    }

    fn close<E>(mut self, stage: Stage, want: u32) -> Result<(Self, ContentHash), WorkError<E>> {
        let got = self.hashes.len();
        let tree = Tree::new(core::mem::take(&mut self.hashes)).filter(|tree| tree.count() == want);
        let root = tree.as_ref().map(Tree::root).ok_or(WorkError::Count { stage, got, want })?;
        self.tree = tree;
        Ok((self, root))
    }

    fn data(&self, index: u32) -> &[u8] {
        let from = usize::try_from(index).unwrap_or(usize::MAX).saturating_mul(self.leaf_bytes);
        self.bytes.get(from..from.saturating_add(self.leaf_bytes)).unwrap_or_default()
    }

    fn open(&self, indices: &[u32]) -> Result<Opening, MerkleError> {
        let tree = self.tree.as_ref().ok_or(MerkleError::Empty)?;
        Opening::of(tree, indices, |index| self.data(index).to_vec())
    }
}

/// A challenge's work as far as it is done.
#[derive(Clone, Debug)]
pub struct Work {
    plan: Plan,
    leaves: [Leaves; 4],
    hint: Vec<u32>,
}

impl Work {
    /// Nothing done.
    #[must_use]
    pub fn new(plan: Plan) -> Self {
        Self { plan, leaves: Default::default(), hint: Vec::new() }
    }

    /// The plan.
    #[must_use]
    pub const fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Computes a stage and gives its root. `walk_seed` matters to [`Stage::Walk`] only.
    ///
    /// # Errors
    /// [`WorkError`].
    pub fn compute<D: Device>(
        &mut self,
        device: &mut D,
        scene: &Scene,
        stage: Stage,
        walk_seed: &[u8; 32],
    ) -> Result<ContentHash, WorkError<D::Error>> {
        let plan = self.plan;
        let pad = Pad::new(&plan.seed, plan.chunks);
        let (leaves, want) = match stage {
            Stage::Render => {
                let mut leaves = Leaves::new(plan.tile_bytes());
                device
                    .render(scene, &plan, &mut |tile| leaves.push(tile.iter().flatten().copied()))
                    .map_err(WorkError::Device)?;
                (leaves, plan.tiles())
            }
            Stage::Multiply => {
                let mut leaves = Leaves::new(plan.row_bytes());
                let matrices = Matrices::new(&plan.seed, plan.product_side);
                device.multiply(&matrices, &mut |row| leaves.push(row.iter().copied())).map_err(WorkError::Device)?;
                (leaves, plan.product_side)
            }
            Stage::Fill => {
                let mut leaves = Leaves::new(plan.chunk_leaf_bytes());
                let mut chunk = Vec::new();
                let mut push = |end: [u32; 4]| {
                    chunk.extend(end);
                    if chunk.len() == CHUNK_CHAINS as usize * 4 {
                        leaves.push(chunk.drain(..));
                    }
                };
                device.fill(&pad, &mut push).map_err(WorkError::Device)?;
                self.hint = device.hint().map_err(WorkError::Device)?;
                self.hint.truncate(HINT_WORDS_MAX);
                (leaves, plan.chunks)
            }
            Stage::Walk => {
                let mut leaves = Leaves::new(plan.walk_bytes());
                let mut push = |states: &[u32]| leaves.push(states.iter().copied());
                device.walk(&pad, WalkKeys::new(walk_seed), plan.walk_shape(), &mut push).map_err(WorkError::Device)?;
                (leaves, plan.walks)
            }
        };
        let (leaves, root) = leaves.close(stage, want)?;
        self.leaves[stage.index()] = leaves;
        Ok(root)
    }

    /// Opens what was drawn; needs no device.
    ///
    /// # Errors
    /// [`WorkError::Draw`] when a stage is missing.
    pub fn open<E>(&self, draw: &Draw) -> Result<Openings, WorkError<E>> {
        let of = |stage: Stage| &self.leaves[stage.index()];
        Ok(Openings {
            tiles: of(Stage::Render).open(&draw.tiles)?,
            rows: of(Stage::Multiply).open(&draw.rows)?,
            chunks: of(Stage::Fill).open(&draw.chunks)?,
            walks: of(Stage::Walk).open(&draw.walks())?,
            hint: self.hint.clone(),
        })
    }

    /// The picture as rows of red, green and blue, once it is rendered.
    #[must_use]
    pub fn picture(&self) -> Option<Vec<u8>> {
        let leaves = &self.leaves[Stage::Render.index()];
        leaves.tree.as_ref()?;
        let side = usize::try_from(self.plan.picture_side).ok()?;
        let mut out = vec![0; side * side * 3];
        let across = side / 8;
        for (tile, data) in leaves.bytes.chunks_exact(self.plan.tile_bytes()).enumerate() {
            for (at, pixel) in data.chunks_exact(8).enumerate() {
                let (x, y) = (tile % across * 8 + at % 8, tile / across * 8 + at / 8);
                if let Some(slot) = out.get_mut((y * side + x) * 3..(y * side + x) * 3 + 3) {
                    slot.copy_from_slice(pixel.get(..3)?);
                }
            }
        }
        Some(out)
    }
}

/// The processor as a device: the reference that every other one has to equal, and the prover of a machine without a
/// Vulkan driver.
#[derive(Clone, Debug, Default)]
pub struct Reference {
    pad: Vec<u32>,
}

impl Device for Reference {
    type Error = core::convert::Infallible;

    fn render(&mut self, scene: &Scene, plan: &Plan, tiles: &mut dyn FnMut(&Tile)) -> Result<(), Self::Error> {
        let mut tally = Tally::default();
        for tile in 0..plan.tiles() {
            tiles(&scene.tile(plan.picture_side, plan.spp, plan.bounces, tile, &mut tally));
        }
        Ok(())
    }

    fn multiply(&mut self, matrices: &Matrices, rows: &mut dyn FnMut(&[u32])) -> Result<(), Self::Error> {
        (0..matrices.side).for_each(|row| rows(&matrices.row(row)));
        Ok(())
    }

    fn fill(&mut self, pad: &Pad, ends: &mut dyn FnMut([u32; 4])) -> Result<(), Self::Error> {
        self.pad.clear();
        let mut words = [0; CHAIN_WORDS as usize];
        for chain in 0..pad.chains {
            pad.write(chain, &mut words);
            self.pad.extend(words);
            let [.., a, b, c, d] = words;
            ends([a, b, c, d]);
        }
        Ok(())
    }

    fn walk(
        &mut self,
        pad: &Pad,
        keys: WalkKeys,
        shape: WalkShape,
        states: &mut dyn FnMut(&[u32]),
    ) -> Result<(), Self::Error> {
        for walk in 0..shape.walks {
            let mut state = keys.start(walk);
            let mut out = vec![state];
            for step in 0..shape.segments.saturating_mul(shape.steps) {
                let (chain, word) = pad.place(state);
                let at = chain as usize * CHAIN_WORDS as usize + word as usize;
                state = Pad::next(keys, walk, step, state, self.pad.get(at).copied().unwrap_or(0));
                if (step + 1) % shape.steps == 0 {
                    out.push(state);
                }
            }
            states(&out);
        }
        Ok(())
    }

    fn hint(&mut self) -> Result<Vec<u32>, Self::Error> {
        Ok(Vec::new())
    }
}

/// The processor with another way to render: what cheats, and what proves known to be bad, differ in.
#[derive(Clone, Debug)]
pub struct Rendering<F> {
    honest: Reference,
    render: F,
}

impl<F> Rendering<F> {
    /// `render` gives all tiles in their order, as [`Device::render`] does.
    #[must_use]
    pub fn new(render: F) -> Self {
        Self { honest: Reference::default(), render }
    }
}

impl<F: FnMut(&Scene, &Plan, &mut dyn FnMut(&Tile))> Device for Rendering<F> {
    type Error = <Reference as Device>::Error;

    fn render(&mut self, scene: &Scene, plan: &Plan, tiles: &mut dyn FnMut(&Tile)) -> Result<(), Self::Error> {
        (self.render)(scene, plan, tiles);
        Ok(())
    }

    fn multiply(&mut self, matrices: &Matrices, rows: &mut dyn FnMut(&[u32])) -> Result<(), Self::Error> {
        self.honest.multiply(matrices, rows)
    }

    fn fill(&mut self, pad: &Pad, ends: &mut dyn FnMut([u32; 4])) -> Result<(), Self::Error> {
        self.honest.fill(pad, ends)
    }

    fn walk(
        &mut self,
        pad: &Pad,
        keys: WalkKeys,
        shape: WalkShape,
        states: &mut dyn FnMut(&[u32]),
    ) -> Result<(), Self::Error> {
        self.honest.walk(pad, keys, shape, states)
    }

    fn hint(&mut self) -> Result<Vec<u32>, Self::Error> {
        self.honest.hint()
    }
}
