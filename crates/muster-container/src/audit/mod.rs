//! Being checked: who may ask for a proof, how often, and what computes it.

mod cards;
mod gate;
mod prover;
mod session;

pub(crate) use gate::Gate;
pub(crate) use session::{prove, refuse};

pub use cards::Cards;
pub(crate) use prover::may_cheat;
pub use prover::{Cheat, CheatError, Processor, Prover, Provers};

use muster_core::hardware::GpuModel;
use muster_core::proof::Claim;
use muster_core::units::{Bytes, Ob};

use crate::config::ContainerConfig;

/// What a machine without a card claims to be: its processor, as the slow thing that it is.
pub const PROCESSOR: &str = "processor";
/// The speed that it claims, in hundredths of a point; what it proves may be more.
const PROCESSOR_OB: Ob = Ob(1);
/// The memory that it claims to compute in.
const PROCESSOR_MEMORY: Bytes = Bytes(16 << 20);

impl ContainerConfig {
    /// What is proved: every card that is offered; the processor where there is none.
    #[must_use]
    pub fn claims(&self) -> Vec<Claim> {
        let cards = self.offer.gpus.iter().map(|gpu| &gpu.card);
        let claims: Vec<Claim> =
            cards.map(|card| Claim { model: card.model.clone(), ob: card.ob, vram: card.vram }).collect();
        if claims.is_empty() {
            let model = GpuModel::new(PROCESSOR).into_iter();
            return model.map(|model| Claim { model, ob: PROCESSOR_OB, vram: PROCESSOR_MEMORY }).collect();
        }
        claims
    }
}
