//! What computes a proof. All of it blocks: it runs on a thread of its own.

use std::fmt;

use muster_core::ids::ContentHash;
use muster_core::params::Params;
use muster_core::proof::{Challenge, Device, Draw, Openings, Plan, Reference, Rendering, Stage, Work};
use muster_core::render::{Scene, Tally, Tile};

/// One proof of one card. A failure is an interruption: the sentence goes to the Checker.
pub trait Prover: fmt::Debug + Send {
    /// Computes a stage and gives its root; `walk_seed` matters to [`Stage::Walk`] only.
    ///
    /// # Errors
    /// The card or its driver failed: a sentence.
    fn compute(&mut self, stage: Stage, walk_seed: &[u8; 32]) -> Result<ContentHash, String>;

    /// Opens what was drawn.
    ///
    /// # Errors
    /// It failed: a sentence.
    fn open(&mut self, draw: &Draw) -> Result<Openings, String>;
}

/// What makes provers: one for each proof.
pub trait Provers: fmt::Debug + Send + Sync + 'static {
    /// Begins the work of a challenge, which was checked, on one of the cards. Opening a card takes up to seconds.
    ///
    /// # Errors
    /// The card cannot be had: a sentence.
    fn begin(&self, challenge: &Challenge) -> Result<Box<dyn Prover>, String>;
}

/// The processor as prover, for machines without a card: slow, and honest about it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Processor;

impl Provers for Processor {
    fn begin(&self, challenge: &Challenge) -> Result<Box<dyn Prover>, String> {
        Ok(Box::new(Computing::new(Reference::default(), challenge)))
    }
}

/// A device at work on a challenge.
struct Computing<D> {
    device: D,
    work: Work,
    scene: Scene,
}

impl<D> fmt::Debug for Computing<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Computing").finish_non_exhaustive()
    }
}

impl<D: Device> Computing<D> {
    fn new(device: D, challenge: &Challenge) -> Self {
        let (plan, scene) = challenge.plan();
        Self { device, work: Work::new(plan), scene }
    }
}

impl<D: Device + Send> Prover for Computing<D>
where
    D::Error: fmt::Display,
{
    fn compute(&mut self, stage: Stage, walk_seed: &[u8; 32]) -> Result<ContentHash, String> {
        self.work.compute(&mut self.device, &self.scene, stage, walk_seed).map_err(|why| why.to_string())
    }

    fn open(&mut self, draw: &Draw) -> Result<Openings, String> {
        self.work.open::<D::Error>(draw).map_err(|why| why.to_string())
    }
}

/// A Container that lies, to see it caught: development networks only.
#[derive(Clone, Copy, Debug)]
pub struct Cheat {
    skip_percent: u8,
}

/// Why nobody may cheat here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CheatError {
    /// A network with money in it.
    #[error("a Container can only be told to cheat on a development network, where epochs last a minute at most")]
    NotDevelopment,
    /// A share that makes no sense.
    #[error("it can skip from 1 to 100 per cent of the tiles, not {0}")]
    Percent(u8),
}

/// The longest epoch of a network on which a Container may be told to cheat.
const DEVELOPMENT_EPOCH_MS_MAX: u64 = 60_000;

/// Whether a Container of this network may be told to cheat.
pub(crate) const fn may_cheat(params: &Params) -> Result<(), CheatError> {
    if params.epoch.epoch_ms > DEVELOPMENT_EPOCH_MS_MAX { Err(CheatError::NotDevelopment) } else { Ok(()) }
}

impl Cheat {
    /// One that renders only part of the picture and puts noise in place of the rest. Whatever card it claims, it
    /// proves on the processor.
    ///
    /// # Errors
    /// The network is no development network.
    pub fn skips(percent: u8, params: &Params) -> Result<Self, CheatError> {
        may_cheat(params)?;
        if !(1..=100).contains(&percent) {
            return Err(CheatError::Percent(percent));
        }
        Ok(Self { skip_percent: percent })
    }
}

impl Provers for Cheat {
    fn begin(&self, challenge: &Challenge) -> Result<Box<dyn Prover>, String> {
        Ok(Box::new(Computing::new(skipping(self.skip_percent), challenge)))
    }
}

/// Renders so many per cent less than it should.
fn skipping(skip_percent: u8) -> impl Device<Error = core::convert::Infallible> + Send {
    Rendering::new(move |scene: &Scene, plan: &Plan, tiles: &mut dyn FnMut(&Tile)| {
        let mut tally = Tally::default();
        let mut done = 0u32;
        for tile in 0..plan.tiles() {
            done = done.wrapping_add(u32::from(skip_percent));
            if done % 100 < u32::from(skip_percent) {
                // Looks like a pixel and costs nothing.
                let word = |at: usize| u32::try_from(at).unwrap_or(0).wrapping_mul(0x9e37_79b9) ^ tile;
                let noise: Tile = std::array::from_fn(|at| [word(at), word(at.wrapping_add(64))]);
                tiles(&noise);
            } else {
                tiles(&scene.tile(plan.picture_side, plan.spp, plan.bounces, tile, &mut tally));
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_cheats_where_there_is_money() {
        assert!(Cheat::skips(50, &Params::development()).is_ok());
        assert_eq!(Cheat::skips(50, &Params::production()).unwrap_err(), CheatError::NotDevelopment);
        assert_eq!(Cheat::skips(0, &Params::development()).unwrap_err(), CheatError::Percent(0));
    }
}
