//! What a Checker asks of a card: the claim, how much work tests it, and the seed from which all of it is drawn.

use serde::{Deserialize, Serialize};

use crate::hardware::GpuModel;
use crate::ids::{ContentHash, NodeId};
use crate::units::{Bytes, Ob};

/// Version of the challenge's meaning: kernels, draws, encodings. A change of any of them is another version.
pub const PROOF_VERSION: u16 = 1;
/// Side of a tile of the picture, in pixels.
pub const TILE_SIDE: u32 = 8;
/// Words of one chain of the pad: 16 KiB.
pub const CHAIN_WORDS: u32 = 4_096;
/// Chains of one chunk, which is a leaf of the pad's tree: 512 KiB.
pub const CHUNK_CHAINS: u32 = 32;
/// Bytes of one chunk.
pub const CHUNK_BYTES: u64 = 4 * CHAIN_WORDS as u64 * CHUNK_CHAINS as u64;
/// The most chunks a pad can have (512 GiB): their words are counted in 32 bits, chain by chain.
pub const CHUNKS_MAX: u32 = 1 << 20;
/// The largest picture: 8,192 pixels a side.
pub const SIDE_MAX: u32 = 8_192;
/// The most samples a pixel.
pub const SPP_MAX: u32 = 16_384;
/// The most bounces of a path.
pub const BOUNCES_MAX: u32 = 8;
/// The most tiles, rows, chunks or segments of one kind that are opened.
pub const OPENED_MAX: u32 = 256;
/// The largest matrix: rows and columns.
pub const PRODUCT_SIDE_MAX: u32 = 8_192;

/// What is wrong with a challenge that somebody sent.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChallengeError {
    /// Made by another version of the protocol.
    #[error("the challenge is of version {got}; this program speaks {PROOF_VERSION}: update the older of the two")]
    Version {
        /// Its version.
        got: u16,
    },
    /// A parameter is outside of what this version computes with.
    #[error("the challenge's {field} is {got}; it must be from {min} to {max}")]
    Range {
        /// The parameter.
        field: &'static str,
        /// What it holds.
        got: u64,
        /// The least it may hold.
        min: u64,
        /// The most it may hold.
        max: u64,
    },
    /// A parameter has to be a power of two.
    #[error("the challenge's {field} is {got}; it must be a power of two")]
    PowerOfTwo {
        /// The parameter.
        field: &'static str,
        /// What it holds.
        got: u64,
    },
    /// The secrets are not those that it is committed to.
    #[error("the challenge is committed to other secrets than these")]
    Commitment,
    /// It is meant for somebody else.
    #[error("the challenge is for Container {got}, which is another one")]
    Container {
        /// Whom it is for.
        got: NodeId,
    },
}

/// What a Container says one of its cards is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Claim {
    /// The model; of a card without a GPU, what its software device calls itself.
    pub model: GpuModel,
    /// Its speed.
    pub ob: Ob,
    /// Its own memory.
    pub vram: Bytes,
}

/// What the calibration table says about a claimed model; carried in the challenge, so that a transcript can be verified
/// by itself and compared with the table of its day.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rates {
    /// The table's speed for the model: a measurement never counts for more than 1.1 times this.
    pub table_ob: Ob,
    /// How far the table may be off, in per cent; tolerances widen with it.
    pub uncertainty_percent: u8,
    /// Steps of the renderer's rays, in a second, for each OctaneBench point.
    pub steps_per_ob: u64,
    /// Products of the multiplication, in a second, for each OctaneBench point.
    pub products_per_ob: u64,
    /// Dependent reads of the pad, in a second, for each OctaneBench point.
    pub reads_per_ob: u64,
}

/// How hard a network tests: production's and development's differ in these figures and in nothing else.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scale {
    /// Side of the picture in pixels, a power of two. Slow cards get a smaller one.
    pub picture_side: u32,
    /// How long the claimed card should render.
    pub target_ms: u32,
    /// The most samples a pixel: bounds the work of verifying.
    pub spp_max: u32,
    /// Bounces of a path.
    pub bounces: u32,
    /// How many tiles are opened.
    pub tiles_opened: u32,
    /// The largest side of the matrices, a power of two.
    pub product_side_max: u32,
    /// The most entries of the product that are opened, in whole rows.
    pub product_entries_opened: u32,
    /// How much of the claimed memory the pad fills.
    pub pad_percent: u8,
    /// The largest pad; development does not fill whole cards.
    pub pad_bytes_max: Bytes,
    /// How many chunks of the pad are opened.
    pub chunks_opened: u32,
    /// How many walks read the pad side by side, a power of two.
    pub walks: u32,
    /// Segments of each walk.
    pub walk_segments: u32,
    /// Dependent reads of each segment.
    pub walk_steps: u32,
    /// How many segments are opened.
    pub segments_opened: u32,
    /// The most that is taken off a stage's time for the way between the two nodes.
    pub latency_ms_max: u32,
    /// Added to every deadline: starting a shader, a hiccup of the network.
    pub slack_ms: u32,
    /// How long the openings may take.
    pub opening_ms: u32,
}

/// The Checker's two secrets. The nonce draws what is opened and is revealed after the roots; the vector tests the product
/// and is only told in the transcript.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Secrets {
    /// Draws tiles, rows, chunks and segments.
    pub nonce: [u8; 32],
    /// Draws the vector of Freivalds' check.
    pub vector: [u8; 32],
}

impl core::fmt::Debug for Secrets {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("Secrets(..)")
    }
}

impl Secrets {
    /// What the Checker sends ahead: it can reveal nothing else afterwards.
    #[must_use]
    pub fn commitment(&self) -> ContentHash {
        let mut hasher = blake3::Hasher::new_derive_key("muster 2026 proof: a Checker's secrets");
        hasher.update(&self.nonce);
        hasher.update(&self.vector);
        ContentHash(*hasher.finalize().as_bytes())
    }
}

/// What is computed, in this order; each ends with a root.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// The picture; root over its tiles.
    Render,
    /// The product of two matrices; root over its rows.
    Multiply,
    /// The pad in the card's memory; root over its chunks.
    Fill,
    /// Dependent reads through the pad; root over the walks.
    Walk,
}

impl Stage {
    /// All, in the order in which they are computed.
    pub const ALL: [Self; 4] = [Self::Render, Self::Multiply, Self::Fill, Self::Walk];

    /// Its place in [`Stage::ALL`].
    #[must_use]
    pub const fn index(self) -> usize {
        match self {
            Self::Render => 0,
            Self::Multiply => 1,
            Self::Fill => 2,
            Self::Walk => 3,
        }
    }
}

impl core::fmt::Display for Stage {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(match self {
            Self::Render => "render",
            Self::Multiply => "multiply",
            Self::Fill => "fill",
            Self::Walk => "walk",
        })
    }
}

/// One test of one card by one Checker.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Challenge {
    /// [`PROOF_VERSION`] of whoever made it.
    pub version: u16,
    /// The epoch's beacon.
    pub beacon: [u8; 32],
    /// The epoch.
    pub epoch: u64,
    /// Who is tested.
    pub container: NodeId,
    /// Who tests.
    pub checker: NodeId,
    /// Which of the Container's cards, by its place in what it offers.
    pub card: u8,
    /// What the Container says of the card.
    pub claim: Claim,
    /// The table's figures for the claimed model.
    pub rates: Rates,
    /// How hard the network tests.
    pub scale: Scale,
    /// [`Secrets::commitment`] of the Checker.
    pub commitment: ContentHash,
}

/// The work that a challenge stands for, computed from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// The challenge's seed.
    pub seed: [u8; 32],
    /// Side of the picture in pixels.
    pub picture_side: u32,
    /// Samples a pixel.
    pub spp: u32,
    /// Bounces of a path.
    pub bounces: u32,
    /// Steps of all rays of the picture, estimated from a thousand of its pixels.
    pub steps: u64,
    /// Side of the matrices.
    pub product_side: u32,
    /// Chunks of the pad.
    pub chunks: u32,
    /// Walks through the pad.
    pub walks: u32,
    /// Segments of each walk.
    pub walk_segments: u32,
    /// Dependent reads of each segment.
    pub walk_steps: u32,
    /// Tiles that are opened.
    pub tiles_opened: u32,
    /// Rows that are opened.
    pub rows_opened: u32,
    /// Chunks that are opened.
    pub chunks_opened: u32,
    /// Walks that are opened, a segment of each.
    pub segments_opened: u32,
    /// How long the claimed card should take for each stage; 0 where no time is judged.
    pub predicted_ms: [u32; 4],
    /// When each stage's root must be there, counted from the end of the stage before.
    pub deadline_ms: [u32; 4],
}

impl Plan {
    /// How many tiles the picture has.
    #[must_use]
    pub const fn tiles(&self) -> u32 {
        let side = self.picture_side / TILE_SIDE;
        side * side
    }

    /// Bytes of a tile's leaf: two words a pixel.
    #[must_use]
    pub const fn tile_bytes(&self) -> usize {
        (TILE_SIDE * TILE_SIDE * 8) as usize
    }

    /// Bytes of a row's leaf: a word an entry.
    #[must_use]
    pub const fn row_bytes(&self) -> usize {
        self.product_side as usize * 4
    }

    /// Bytes of a chunk's leaf: four words a chain.
    #[must_use]
    pub const fn chunk_leaf_bytes(&self) -> usize {
        CHUNK_CHAINS as usize * 16
    }

    /// Bytes of a walk's leaf: its states before, between and after its segments.
    #[must_use]
    pub const fn walk_bytes(&self) -> usize {
        (self.walk_segments as usize + 1) * 4
    }
}

impl Challenge {
    /// BLAKE3 over beacon, epoch, Container, card and the Checker's committed secrets: nobody knows it before the beacon
    /// and the commitment are there, and every card gets its own.
    #[must_use]
    pub fn seed(&self) -> [u8; 32] {
        let mut hasher = blake3::Hasher::new_derive_key("muster 2026 proof: seed of a challenge");
        hasher.update(&self.version.to_le_bytes());
        hasher.update(&self.beacon);
        hasher.update(&self.epoch.to_le_bytes());
        hasher.update(&self.container.0);
        hasher.update(&[self.card]);
        hasher.update(&self.commitment.0);
        *hasher.finalize().as_bytes()
    }
}
