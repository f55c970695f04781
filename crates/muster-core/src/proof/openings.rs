//! The draw and what is opened for it: exactly the drawn leaves, in ascending order, with one path a tree.

use serde::{Deserialize, Serialize};

use super::challenge::{Plan, Stage};
use super::merkle::{self, Tree};
use super::verdict::{Fault, Opened};
use crate::ids::ContentHash;

/// The most words of a hint.
pub const HINT_WORDS_MAX: usize = 64;

/// One opened leaf.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Leaf {
    /// Its place in its tree.
    pub index: u32,
    /// What it holds.
    pub data: Vec<u8>,
}

/// Some leaves of one tree.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Opening {
    /// The leaves, ascending.
    pub leaves: Vec<Leaf>,
    /// Their common path ([`merkle::Tree::path`]).
    pub path: Vec<[u8; 32]>,
}

/// Everything that a draw asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Openings {
    /// Tiles of the picture: two words a pixel.
    pub tiles: Opening,
    /// Rows of the product: a word an entry.
    pub rows: Opening,
    /// Chunks of the pad: four words a chain.
    pub chunks: Opening,
    /// Walks: the states between their segments.
    pub walks: Opening,
    /// Bit patterns of sin, exp and rsqrt on the card, 64 words at most; empty from a card without floating point. They
    /// tell drivers and models apart and are never evidence.
    pub hint: Vec<u32>,
}

/// Numbers drawn from a key, without bias.
#[derive(Debug)]
struct Draws {
    reader: blake3::OutputReader,
}

impl Draws {
    fn new(key: &[u8; 32], seed: &[u8; 32], roots: &[ContentHash], what: &str) -> Self {
        let mut hasher = blake3::Hasher::new_derive_key("muster 2026 proof: what is opened");
        hasher.update(key);
        hasher.update(seed);
        // The roots as well: a Checker that has told its nonce too early has still not told the draw.
        for root in roots {
            hasher.update(&root.0);
        }
        hasher.update(what.as_bytes());
        Self { reader: hasher.finalize_xof() }
    }

    /// A number below `bound`.
    fn below(&mut self, bound: u32) -> u32 {
        let bound = u64::from(bound.max(1));
        loop {
            let mut bytes = [0; 8];
            self.reader.fill(&mut bytes);
            let drawn = u64::from_le_bytes(bytes);
            // Drawn numbers past the last whole multiple would favour small remainders.
            if drawn < u64::MAX - u64::MAX % bound {
                return u32::try_from(drawn % bound).unwrap_or(0);
            }
        }
    }

    /// `count` different numbers below `bound`, ascending; all of them when there are no more.
    fn distinct(&mut self, count: u32, bound: u32) -> Vec<u32> {
        if count >= bound {
            return (0..bound).collect();
        }
        let mut drawn = std::collections::BTreeSet::new();
        while drawn.len() < usize::try_from(count).unwrap_or(usize::MAX) {
            drawn.insert(self.below(bound));
        }
        drawn.into_iter().collect()
    }
}

/// What a nonce draws.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Draw {
    /// Tiles, ascending.
    pub tiles: Vec<u32>,
    /// Rows, ascending.
    pub rows: Vec<u32>,
    /// Chunks, ascending.
    pub chunks: Vec<u32>,
    /// Walks, ascending, and of each the segment that is computed again.
    pub segments: Vec<(u32, u32)>,
}

impl Draw {
    /// The draw of a nonce for the roots of all stages.
    #[must_use]
    pub fn new(plan: &Plan, nonce: &[u8; 32], roots: &[ContentHash]) -> Self {
        let draws = |what| Draws::new(nonce, &plan.seed, roots, what);
        let walks = draws("walks").distinct(plan.segments_opened, plan.walks);
        let mut segment = draws("segments");
        Self {
            tiles: draws("tiles").distinct(plan.tiles_opened, plan.tiles()),
            rows: draws("rows").distinct(plan.rows_opened, plan.product_side),
            chunks: draws("chunks").distinct(plan.chunks_opened, plan.chunks),
            segments: walks.into_iter().map(|walk| (walk, segment.below(plan.walk_segments))).collect(),
        }
    }

    /// The opened walks.
    #[must_use]
    pub fn walks(&self) -> Vec<u32> {
        self.segments.iter().map(|(walk, _)| *walk).collect()
    }
}

impl Opening {
    /// Opens leaves of a tree; `data` gives what a leaf holds.
    ///
    /// # Errors
    /// [`merkle::MerkleError`] when the indices are none of the tree's.
    pub fn of(tree: &Tree, indices: &[u32], mut data: impl FnMut(u32) -> Vec<u8>) -> Result<Self, merkle::MerkleError> {
        let path = tree.path(indices)?;
        Ok(Self { leaves: indices.iter().map(|&index| Leaf { index, data: data(index) }).collect(), path })
    }

    /// Checks that these are exactly the drawn leaves, each of its size, under the root.
    ///
    /// # Errors
    /// [`Fault::Openings`] for another set or order, [`Fault::Path`] for leaves that are not under the root.
    pub fn check(
        &self,
        what: Opened,
        drawn: &[u32],
        leaf_bytes: usize,
        root: &ContentHash,
        count: u32,
    ) -> Result<(), Fault> {
        let number = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        let same = self.leaves.iter().map(|leaf| &leaf.index).eq(drawn);
        if drawn.is_empty() || !same || self.leaves.iter().any(|leaf| leaf.data.len() != leaf_bytes) {
            return Err(Fault::Openings { what, got: number(self.leaves.len()), want: number(drawn.len()) });
        }
        let hashes: Vec<_> =
            self.leaves.iter().map(|leaf| (leaf.index, merkle::leaf_hash(leaf.index, &leaf.data))).collect();
        merkle::verify(root, count, &hashes, &self.path).map_err(|_| Fault::Path { what })
    }
}

impl Openings {
    /// Checks set, order, sizes and paths of everything; what the leaves hold is not looked at.
    ///
    /// # Errors
    /// The first [`Fault`].
    pub fn check(&self, plan: &Plan, draw: &Draw, roots: &[ContentHash; 4]) -> Result<(), Fault> {
        let root = |stage: Stage| &roots[stage.index()];
        let (tile, row, chunk, walk) =
            (plan.tile_bytes(), plan.row_bytes(), plan.chunk_leaf_bytes(), plan.walk_bytes());
        self.tiles.check(Opened::Tiles, &draw.tiles, tile, root(Stage::Render), plan.tiles())?;
        self.rows.check(Opened::Rows, &draw.rows, row, root(Stage::Multiply), plan.product_side)?;
        self.chunks.check(Opened::Chunks, &draw.chunks, chunk, root(Stage::Fill), plan.chunks)?;
        self.walks.check(Opened::Segments, &draw.walks(), walk, root(Stage::Walk), plan.walks)
    }
}
