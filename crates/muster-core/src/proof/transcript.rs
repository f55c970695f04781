//! All that was said in one proof: whoever holds it comes to the same verdict.

use serde::{Deserialize, Serialize};

use super::challenge::{Challenge, Plan, Secrets, Stage};
use super::memory::{Pad, WalkKeys};
use super::multiply::{self, Matrices};
use super::openings::{Draw, HINT_WORDS_MAX, Openings};
use super::plan::Slowness;
use super::verdict::{Fault, Gap, Measured, Opened, Verdict};
use crate::ids::ContentHash;
use crate::render::{Scene, Tally};
use crate::units::Ob;

/// The longest sentence that a transcript keeps of what a prover said.
pub const WHY_LEN_MAX: usize = 200;

/// How long things took, by the Checker's clock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Timings {
    /// The shortest way to the Container and back that the Checker saw.
    pub latency_ms: u32,
    /// From the beginning of each stage to its root; 0 for those that were not reached.
    pub stage_ms: [u32; 4],
}

/// How the conversation ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum End {
    /// Openings came; they may be wrong.
    Opened,
    /// The Container said that it cannot go on.
    Broken {
        /// During which stage; `None` after the draw.
        stage: Option<Stage>,
        /// What it said, cut to 200 bytes.
        why: String,
    },
    /// The connection was lost.
    Lost {
        /// During which stage; `None` after the draw.
        stage: Option<Stage>,
    },
    /// Nothing came by the deadline.
    Silent {
        /// During which stage; `None` after the draw.
        stage: Option<Stage>,
    },
    /// A message without a place in the conversation.
    Protocol {
        /// What was wrong, a sentence.
        what: String,
    },
}

/// A Container's ed25519 signature over [`sealed`]: it cannot deny what it opened, and nobody can put words in its mouth.
/// Whoever holds keys makes and checks it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seal(pub [u8; 32], pub [u8; 32]);

/// What a Container signs with its openings: everything that was said.
#[must_use]
pub fn sealed(challenge: &Challenge, roots: &[ContentHash], walk_seed: &[u8; 32], openings: &Openings) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new_derive_key("muster 2026 proof: what a Container seals");
    for part in [postcard::to_allocvec(challenge), postcard::to_allocvec(roots), postcard::to_allocvec(openings)] {
        // Writing into a vector of numbers, texts and lists cannot fail.
        hasher.update(blake3::hash(&part.unwrap_or_default()).as_bytes());
    }
    hasher.update(walk_seed);
    *hasher.finalize().as_bytes()
}

/// One proof from challenge to end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Transcript {
    /// What was asked.
    pub challenge: Challenge,
    /// Roots of the stages that were reached.
    pub roots: Vec<ContentHash>,
    /// What draws the walks: told when the pad's root had come.
    pub walk_seed: [u8; 32],
    /// How long it took.
    pub timings: Timings,
    /// What the Checker had committed to.
    pub secrets: Secrets,
    /// What was opened, where the conversation came that far.
    pub openings: Option<Openings>,
    /// The Container's signature, where it opened.
    pub seal: Option<Seal>,
    /// How it ended.
    pub end: End,
}

/// The seed of the walks: nobody can know it before the Checker tells it, and the Checker cannot choose it.
#[must_use]
pub fn walk_seed(secrets: &Secrets, challenge_seed: &[u8; 32], fill_root: &ContentHash) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new_derive_key("muster 2026 proof: seed of the walks");
    hasher.update(&secrets.vector);
    hasher.update(challenge_seed);
    hasher.update(&fill_root.0);
    *hasher.finalize().as_bytes()
}

impl Transcript {
    /// The transcript in its one form.
    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        // Writing into a vector of numbers, texts and lists cannot fail.
        postcard::to_allocvec(self).unwrap_or_default()
    }

    /// Reads [`Transcript::bytes`]; `None` for anything else, another form of the same transcript included.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        postcard::from_bytes::<Self>(bytes).ok().filter(|transcript| transcript.bytes() == bytes)
    }

    /// Its name.
    #[must_use]
    pub fn hash(&self) -> ContentHash {
        ContentHash(*blake3::hash(&self.bytes()).as_bytes())
    }

    /// What the Container signed, if it opened: a verdict of [`Fault::is_provable`] convicts it only with a good signature of
    /// [`Challenge::container`] over this.
    #[must_use]
    pub fn sealed(&self) -> Option<([u8; 32], Seal)> {
        let (openings, seal) = (self.openings.as_ref()?, self.seal?);
        Some((sealed(&self.challenge, &self.roots, &self.walk_seed, openings), seal))
    }

    /// Computes again what can be computed, and judges the rest by the Checker's clock. Whoever does this gets the same
    /// verdict. Takes about a second of one core and some megabytes at production's scale.
    #[must_use]
    pub fn verify(&self) -> Verdict {
        match self.examine() {
            Ok(measured) => Verdict::Pass(measured),
            Err(Outcome::Fault(fault)) => Verdict::Fail(fault),
            Err(Outcome::Gap(gap)) => Verdict::Inconclusive(gap),
        }
    }

    fn examine(&self) -> Result<Measured, Outcome> {
        let stands = |right: bool, why: &str| {
            if right { Ok(()) } else { Err(Outcome::Gap(Gap::Checker { why: why.to_owned() })) }
        };
        self.challenge.check().map_err(|why| Outcome::Gap(Gap::Checker { why: why.to_string() }))?;
        stands(self.secrets.commitment() == self.challenge.commitment, "the secrets are not those committed to")?;
        stands(self.roots.len() <= Stage::ALL.len(), "there are more roots than stages")?;
        let (claimed, most) = (self.challenge.claim.ob, self.challenge.rates.most());
        if claimed > most {
            return Err(Outcome::Fault(Fault::Claim { claimed, most }));
        }
        let (plan, scene) = self.challenge.plan();
        if let Some(fill) = self.roots.get(Stage::Fill.index()) {
            let right = walk_seed(&self.secrets, &plan.seed, fill) == self.walk_seed;
            stands(right, "the seed of the walks is not the one that follows from the secrets")?;
        }
        self.end(&plan)?;
        self.late(&plan)?;
        let roots: &[ContentHash; 4] = self
            .roots
            .as_slice()
            .try_into()
            .map_err(|_| Outcome::Fault(Fault::Protocol { what: "openings without all roots".to_owned() }))?;
        let openings = self
            .openings
            .as_ref()
            .ok_or(Outcome::Fault(Fault::Withheld { deadline_ms: self.challenge.scale.opening_ms }))?;
        let draw = Draw::new(&plan, &self.secrets.nonce, roots);
        openings.check(&plan, &draw, roots).map_err(Outcome::Fault)?;
        if openings.hint.len() > HINT_WORDS_MAX {
            return Err(Outcome::Fault(Fault::Protocol { what: "a hint that is too long".to_owned() }));
        }
        recompute(&plan, &scene, &self.secrets, &self.walk_seed, &draw, openings).map_err(Outcome::Fault)?;
        self.measure(&plan)
    }

    /// What follows from how it ended. Before the draw a failure is an interruption; after it everything that is opened
    /// lies outside of the card, and whoever does not open it hides something.
    fn end(&self, plan: &Plan) -> Result<(), Outcome> {
        let withheld = Outcome::Fault(Fault::Withheld { deadline_ms: self.challenge.scale.opening_ms });
        match &self.end {
            End::Opened => Ok(()),
            End::Protocol { what } => Err(Outcome::Fault(Fault::Protocol { what: cut(what) })),
            End::Broken { stage: Some(stage), why } => {
                Err(Outcome::Gap(Gap::Interrupted { stage: *stage, why: cut(why) }))
            }
            End::Lost { stage: Some(stage) } => Err(Outcome::Gap(Gap::Lost { stage: *stage })),
            End::Silent { stage: Some(stage) } => {
                Err(Outcome::Fault(Fault::Silent { stage: *stage, deadline_ms: plan.deadline_ms[stage.index()] }))
            }
            End::Broken { stage: None, .. } | End::Lost { stage: None } | End::Silent { stage: None } => Err(withheld),
        }
    }

    fn late(&self, plan: &Plan) -> Result<(), Outcome> {
        for stage in Stage::ALL.into_iter().take(self.roots.len()) {
            let (took_ms, deadline_ms) = (self.timings.stage_ms[stage.index()], plan.deadline_ms[stage.index()]);
            if took_ms > deadline_ms {
                return Err(Outcome::Fault(Fault::Late { stage, took_ms, deadline_ms }));
            }
        }
        Ok(())
    }

    /// Times without the way between the nodes; at least a millisecond.
    fn measure(&self, plan: &Plan) -> Result<Measured, Outcome> {
        let challenge = &self.challenge;
        let way = self.timings.latency_ms.min(challenge.scale.latency_ms_max);
        let stage_ms = self.timings.stage_ms.map(|ms| ms.saturating_sub(way).max(1));
        challenge.judge(plan, &stage_ms).map_err(|slow| match slow {
            Slowness::Fails(fault) => Outcome::Fault(fault),
            Slowness::Unclear(gap) => Outcome::Gap(gap),
        })?;
        let render_ms = stage_ms[Stage::Render.index()];
        let ob = challenge.worth(plan, Stage::Render, render_ms);
        Ok(Measured {
            ob: Ob(ob.0.min(challenge.rates.most().0)),
            uncertainty_percent: challenge.rates.uncertainty_percent,
            claimed_ob: challenge.claim.ob,
            steps_per_second: plan.steps.saturating_mul(1_000) / u64::from(render_ms),
            stage_ms,
        })
    }
}

/// Computes what was drawn again and compares it with openings whose set and paths were checked ([`Openings::check`]). This
/// is nearly all that verifying costs.
///
/// # Errors
/// [`Fault::Wrong`] names the first part that differs.
pub fn recompute(
    plan: &Plan,
    scene: &Scene,
    secrets: &Secrets,
    walk_seed: &[u8; 32],
    draw: &Draw,
    openings: &Openings,
) -> Result<(), Fault> {
    let mut tally = Tally::default();
    for leaf in &openings.tiles.leaves {
        let tile = scene.tile(plan.picture_side, plan.spp, plan.bounces, leaf.index, &mut tally);
        if !same_words(&leaf.data, tile.iter().flatten().copied()) {
            return Err(Fault::Wrong { what: Opened::Tiles, index: leaf.index.into() });
        }
    }
    let matrices = Matrices::new(&plan.seed, plan.product_side);
    let vector = multiply::vector(&secrets.vector, &plan.seed, plan.product_side);
    let shadow = matrices.shadow(&vector);
    for leaf in &openings.rows.leaves {
        let entries: Vec<u32> = words_of(&leaf.data).collect();
        if !matrices.is_row(leaf.index, &entries, &vector, &shadow) {
            return Err(Fault::Wrong { what: Opened::Rows, index: leaf.index.into() });
        }
    }
    let pad = Pad::new(&plan.seed, plan.chunks);
    for leaf in &openings.chunks.leaves {
        if leaf.data != pad.chunk_leaf(leaf.index) {
            return Err(Fault::Wrong { what: Opened::Chunks, index: leaf.index.into() });
        }
    }
    let keys = WalkKeys::new(walk_seed);
    for (leaf, (walk, segment)) in openings.walks.leaves.iter().zip(&draw.segments) {
        let states: Vec<u32> = words_of(&leaf.data).collect();
        let state = |at: u32| states.get(usize::try_from(at).unwrap_or(usize::MAX)).copied();
        let end = state(*segment).map(|start| pad.segment(keys, *walk, *segment, plan.walk_steps, start));
        if state(0) != Some(keys.start(*walk)) || end.is_none() || end != state(segment.saturating_add(1)) {
            return Err(Fault::Wrong { what: Opened::Segments, index: (*walk).into() });
        }
    }
    Ok(())
}

/// What is not a pass.
enum Outcome {
    Fault(Fault),
    Gap(Gap),
}

/// The beginning of a sentence that somebody else wrote.
pub(super) fn cut(text: &str) -> String {
    let clean = text.chars().filter(|c| !c.is_control());
    let mut out = String::new();
    for c in clean {
        if out.len() + c.len_utf8() > WHY_LEN_MAX {
            break;
        }
        out.push(c);
    }
    out
}

fn words_of(data: &[u8]) -> impl Iterator<Item = u32> {
    data.chunks_exact(4).map(|four| u32::from_le_bytes([four[0], four[1], four[2], four[3]]))
}

fn same_words(data: &[u8], words: impl Iterator<Item = u32>) -> bool {
    data.len().is_multiple_of(4) && words_of(data).eq(words)
}
