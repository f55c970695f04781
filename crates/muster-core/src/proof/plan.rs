//! From a claim to an amount of work, and from times back to a speed.

use super::challenge::{
    BOUNCES_MAX, CHUNK_BYTES, CHUNKS_MAX, Challenge, ChallengeError, OPENED_MAX, PRODUCT_SIDE_MAX, PROOF_VERSION, Plan,
    Rates, SIDE_MAX, SPP_MAX, Scale, Stage,
};
use super::verdict::{Fault, Gap};
use crate::render::Scene;
use crate::units::{Bytes, Ob};

/// The smallest picture of a proof: 1,024 tiles.
pub const PROOF_SIDE_MIN: u32 = 256;
/// A measurement and a claim count for at most so many per cent of the table's value.
pub const CAP_PERCENT: u32 = 110;

impl Scale {
    /// The public network's.
    #[must_use]
    pub const fn production() -> Self {
        Self {
            picture_side: 4_096,
            target_ms: 5_000,
            spp_max: 200,
            bounces: 4,
            tiles_opened: 64,
            product_side_max: 4_096,
            product_entries_opened: 32_768,
            pad_percent: 90,
            pad_bytes_max: Bytes(CHUNK_BYTES * CHUNKS_MAX as u64),
            chunks_opened: 16,
            walks: 65_536,
            walk_segments: 64,
            walk_steps: 128,
            segments_opened: 24,
            latency_ms_max: 250,
            slack_ms: 2_000,
            opening_ms: 10_000,
        }
    }

    /// A development network's: about a second, and no more memory than machines that share one can spare.
    #[must_use]
    pub const fn development() -> Self {
        Self {
            picture_side: 1_024,
            target_ms: 1_000,
            spp_max: 16,
            product_side_max: 512,
            pad_bytes_max: Bytes(16 << 20),
            walks: 1_024,
            walk_segments: 8,
            walk_steps: 32,
            chunks_opened: 4,
            segments_opened: 8,
            slack_ms: 10_000,
            opening_ms: 20_000,
            ..Self::production()
        }
    }

    /// Whether challenges of this size can be computed.
    ///
    /// # Errors
    /// [`ChallengeError`] names the parameter.
    pub fn check(&self) -> Result<(), ChallengeError> {
        let range = |field, got: u32, min: u32, max: u32| {
            let (got, min, max) = (u64::from(got), u64::from(min), u64::from(max));
            if (min..=max).contains(&got) { Ok(()) } else { Err(ChallengeError::Range { field, got, min, max }) }
        };
        range("picture_side", self.picture_side, PROOF_SIDE_MIN, SIDE_MAX)?;
        range("target_ms", self.target_ms, 1, 600_000)?;
        range("spp_max", self.spp_max, 1, SPP_MAX)?;
        range("bounces", self.bounces, 0, BOUNCES_MAX)?;
        range("tiles_opened", self.tiles_opened, 1, OPENED_MAX)?;
        range("product_side_max", self.product_side_max, 64, PRODUCT_SIDE_MAX)?;
        range("product_entries_opened", self.product_entries_opened, 1, 65_536)?;
        range("pad_percent", self.pad_percent.into(), 1, 100)?;
        range("chunks_opened", self.chunks_opened, 1, OPENED_MAX)?;
        range("walks", self.walks, 64, 1 << 20)?;
        range("walk_segments", self.walk_segments, 1, 256)?;
        range("walk_steps", self.walk_steps, 1, 1_024)?;
        range("segments_opened", self.segments_opened, 1, OPENED_MAX)?;
        range("latency_ms_max", self.latency_ms_max, 0, 10_000)?;
        range("slack_ms", self.slack_ms, 0, 600_000)?;
        range("opening_ms", self.opening_ms, 1, 600_000)?;
        for (field, got) in
            [("picture_side", self.picture_side), ("product_side_max", self.product_side_max), ("walks", self.walks)]
        {
            if !got.is_power_of_two() {
                return Err(ChallengeError::PowerOfTwo { field, got: got.into() });
            }
        }
        Ok(())
    }
}

impl Rates {
    /// The most that a card of the model can claim or be measured with.
    #[must_use]
    pub fn most(&self) -> Ob {
        percent(self.table_ob, CAP_PERCENT)
    }

    /// At or above so many per cent of the claim, a time passes.
    #[must_use]
    pub fn pass_percent(&self) -> u32 {
        95_u32.saturating_sub(self.uncertainty_percent.into()).max(10)
    }

    /// Below so many per cent of the claim, a time fails; between the two nothing is proven.
    #[must_use]
    pub fn fail_percent(&self) -> u32 {
        85_u32.saturating_sub(self.uncertainty_percent.into()).max(5)
    }

    /// How much of `per_ob` a card of that speed does in a second; at least 1.
    fn per_second(per_ob: u64, ob: Ob) -> u64 {
        (per_ob.saturating_mul(ob.0.into()) / 100).max(1)
    }
}

/// So many per cent of a speed, rounded down.
pub(super) fn percent(ob: Ob, percent: u32) -> Ob {
    Ob(u32::try_from(u64::from(ob.0) * u64::from(percent) / 100).unwrap_or(u32::MAX))
}

fn ms(work: u64, per_second: u64) -> u32 {
    let ms = u128::from(work) * 1_000 / u128::from(per_second.max(1));
    u32::try_from(ms).unwrap_or(u32::MAX)
}

impl Challenge {
    /// Refuses what this version cannot compute; whoever receives a challenge calls it before [`Challenge::plan`].
    ///
    /// # Errors
    /// [`ChallengeError`] names the parameter.
    pub fn check(&self) -> Result<(), ChallengeError> {
        if self.version != PROOF_VERSION {
            return Err(ChallengeError::Version { got: self.version });
        }
        let rates = &self.rates;
        for (field, got) in [
            ("table_ob", rates.table_ob.0.into()),
            ("steps_per_ob", rates.steps_per_ob),
            ("products_per_ob", rates.products_per_ob),
            ("reads_per_ob", rates.reads_per_ob),
        ] {
            let max = 1 << 40;
            if !(1..=max).contains(&got) {
                return Err(ChallengeError::Range { field, got, min: 1, max });
            }
        }
        self.scale.check()
    }

    /// The work of this challenge, scaled to the claim, and its scene.
    #[must_use]
    pub fn plan(&self) -> (Plan, Scene) {
        let seed = self.seed();
        let scene = Scene::new(&seed);
        let scale = &self.scale;
        let ob = Ob(self.claim.ob.0.clamp(1, self.rates.most().0.max(1)));
        let within = |per_ob: u64| Rates::per_second(per_ob, ob).saturating_mul(scale.target_ms.into()) / 1_000;

        let probe = scene.probe(scale.bounces).max(1);
        let steps_at = |side: u32, spp: u64| u64::from(side) * u64::from(side) * spp * probe / 1_024;
        let steps_wanted = within(self.rates.steps_per_ob);
        let mut side = scale.picture_side;
        while side > PROOF_SIDE_MIN && steps_at(side, 1) > steps_wanted {
            side /= 2;
        }
        let spp = (steps_wanted / steps_at(side, 1).max(1)).clamp(1, scale.spp_max.into());
        let steps = steps_at(side, spp);

        // The product and the walks are to take a fifth of the picture's time at most.
        let mut product_side = scale.product_side_max;
        while product_side > 64 && u64::from(product_side).pow(3) > within(self.rates.products_per_ob) / 5 {
            product_side /= 2;
        }
        let walk_reads = u64::from(scale.walk_segments) * u64::from(scale.walk_steps);
        let mut walks = scale.walks;
        while walks > 64 && u64::from(walks) * walk_reads > within(self.rates.reads_per_ob) / 5 {
            walks /= 2;
        }
        let pad = (self.claim.vram.0 / 100 * u64::from(scale.pad_percent)).min(scale.pad_bytes_max.0);
        let chunks = u32::try_from(pad / CHUNK_BYTES).unwrap_or(CHUNKS_MAX).clamp(1, CHUNKS_MAX);

        let reads = Rates::per_second(self.rates.reads_per_ob, ob);
        let predicted_ms = [
            ms(steps, Rates::per_second(self.rates.steps_per_ob, ob)),
            ms(u64::from(product_side).pow(3), Rates::per_second(self.rates.products_per_ob, ob)),
            // The passes stay inside of a chain, which caches hold: a word costs about as much as a read from anywhere.
            ms(u64::from(chunks) * CHUNK_BYTES / 4, reads),
            ms(u64::from(walks) * walk_reads, reads),
        ];
        let deadline_ms = Stage::ALL.map(|stage| {
            let least = u64::from(self.rates.fail_percent()) / tolerance(stage);
            let ms = u64::from(predicted_ms[stage.index()]) * 100 / least.max(1);
            u32::try_from(ms).unwrap_or(u32::MAX).saturating_add(scale.slack_ms)
        });
        let plan = Plan {
            seed,
            picture_side: side,
            spp: u32::try_from(spp).unwrap_or(1),
            bounces: scale.bounces,
            steps,
            product_side,
            chunks,
            walks,
            walk_segments: scale.walk_segments,
            walk_steps: scale.walk_steps,
            tiles_opened: scale.tiles_opened,
            rows_opened: (scale.product_entries_opened / product_side).clamp(1, 16),
            chunks_opened: scale.chunks_opened,
            segments_opened: scale.segments_opened,
            predicted_ms,
            deadline_ms,
        };
        (plan, scene)
    }

    /// What a stage's time is worth.
    #[must_use]
    pub fn worth(&self, plan: &Plan, stage: Stage, ms: u32) -> Ob {
        let (work, per_ob) = match stage {
            Stage::Render => (plan.steps, self.rates.steps_per_ob),
            Stage::Multiply => (u64::from(plan.product_side).pow(3), self.rates.products_per_ob),
            Stage::Fill => (u64::from(plan.chunks) * CHUNK_BYTES / 4, self.rates.reads_per_ob),
            Stage::Walk => (
                u64::from(plan.walks) * u64::from(plan.walk_segments) * u64::from(plan.walk_steps),
                self.rates.reads_per_ob,
            ),
        };
        let worth = u128::from(work) * 100_000 / (u128::from(per_ob.max(1)) * u128::from(ms.max(1)));
        Ob(u32::try_from(worth).unwrap_or(u32::MAX))
    }

    /// Judges the times of a proof whose work is right.
    ///
    /// # Errors
    /// What is too slow: a failure, or a gap where it is within what is uncertain.
    pub fn judge(&self, plan: &Plan, stage_ms: &[u32; 4]) -> Result<(), Slowness> {
        for stage in [Stage::Render, Stage::Multiply, Stage::Walk] {
            // Too short to be told from the network's and the scheduler's moods.
            if plan.predicted_ms[stage.index()] < self.scale.target_ms / 50 {
                continue;
            }
            let measured = self.worth(plan, stage, stage_ms[stage.index()]);
            let tolerance = u32::try_from(tolerance(stage)).unwrap_or(1);
            let claimed = self.claim.ob;
            let least = percent(claimed, self.rates.fail_percent() / tolerance);
            if measured < least {
                return Err(Slowness::Fails(Fault::Slow { stage, measured, claimed, least }));
            }
            if measured < percent(claimed, self.rates.pass_percent() / tolerance) {
                return Err(Slowness::Unclear(Gap::Slower { stage, measured, claimed }));
            }
        }
        Ok(())
    }
}

/// What is too slow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Slowness {
    /// By more than anything explains.
    Fails(Fault),
    /// By less.
    Unclear(Gap),
}

/// OctaneBench is a renderer, so the picture's time is judged by the claim itself; how fast a card multiplies integers and
/// reads its memory follows its points less closely. Memory that is not there is slower by far more than this.
const fn tolerance(stage: Stage) -> u64 {
    match stage {
        Stage::Render => 1,
        Stage::Multiply | Stage::Walk => 2,
        Stage::Fill => 4,
    }
}
