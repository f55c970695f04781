//! Leases of models in the simulator: what is asked, what is counted, and what of that may be paid.

use muster_core::brain::{consumer, container};
use muster_core::demand::{Demand, WorkloadKind};
use muster_core::ids::LeaseId;
use muster_core::inference::{ModelDemand, ModelKind, ModelSpec, TokenAsk, TokenCounts, WeightsId};
use muster_core::lease::{Lease, Phase, TokenTerms};
use muster_core::units::{Bytes, TokenAmount, UsdMicro};

use crate::rng::Rng;
use crate::world::{Happening, World};

/// Of what weights all models of this world are.
const WEIGHTS: WeightsId = WeightsId([7; 32]);
const WEIGHTS_LEN: Bytes = Bytes(Bytes::GIB / 4);
/// Tokens of a prompt, and of an answer, at most.
const TOKENS_MAX: u64 = 2_000;
/// Answers that one task asks for at most.
const ASKS_MAX: u64 = 12;
/// After so long without a request a Container ends a model's lease.
pub(crate) const IDLE_MS: u64 = 15_000;

/// What a model's lease really did.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Tokens {
    /// What was read and drawn.
    counted: TokenCounts,
    /// What its consumer has heard of: ends of answers, and bounds of those that were lost.
    heard: TokenCounts,
    /// Answers that the task still wants.
    wanted: u64,
}

/// What a Container asks for tokens, if it serves models.
pub(crate) fn ask(rng: &mut Rng) -> Option<TokenAsk> {
    let mut price = || UsdMicro(1 + rng.below(2_000_000));
    let ask = TokenAsk { input: price(), cached: price(), output: price() };
    // Remembered tokens are never the dearer ones.
    let ask = TokenAsk { cached: ask.cached.min(ask.input), ..ask };
    rng.chance(700_000).then_some(ask)
}

/// The same demand for a model.
pub(crate) fn demand(rng: &mut Rng, demand: Demand) -> Demand {
    let credit_tokens = 3 * TOKENS_MAX + rng.below(10_000);
    // Some deposits do not last for what is asked.
    let deposit_tokens = credit_tokens.max(if rng.chance(300_000) { 8_000 } else { 200_000 });
    let model = ModelDemand {
        weights: WEIGHTS,
        bytes: WEIGHTS_LEN,
        endpoint: false,
        price_max: None,
        deposit_tokens,
        credit_tokens,
    };
    Demand { kind: WorkloadKind::Model, model: Some(model), ..demand }
}

/// What a Container is told to serve.
pub(crate) fn spec() -> ModelSpec {
    ModelSpec {
        name: "sim".to_owned(),
        kind: ModelKind::Chat,
        weights: WEIGHTS,
        bytes: WEIGHTS_LEN,
        parts: Vec::new(),
        sources: Vec::new(),
        context: 4_096,
        parallel: 1,
        endpoint: None,
    }
}

/// The lie of a Container that multiplies what it counts.
pub(crate) fn multiplied(tokens: TokenCounts, by: u64) -> TokenCounts {
    TokenCounts {
        input: tokens.input.saturating_mul(by),
        cached: tokens.cached,
        output: tokens.output.saturating_mul(by),
    }
}

impl World {
    /// A model answers: its consumer asks it.
    pub(crate) fn model_runs(&mut self, i: usize, lease: LeaseId) {
        self.tokens.entry(lease).or_default().wanted = self.rng.between(0, ASKS_MAX);
        self.asks_again(i, lease);
    }

    /// The next request, or the end.
    fn asks_again(&mut self, i: usize, lease: LeaseId) {
        let life = self.consumers[i].life;
        let delay = self.rng.between(1, 1_500);
        self.after(delay, Happening::Asks { consumer: i, life, lease });
    }

    pub(crate) fn asks(&mut self, i: usize, life: u32, lease: LeaseId) {
        let node = &self.consumers[i];
        let Some(session) = node.session_of(lease).filter(|_| node.up && node.life == life) else { return };
        let tokens = self.tokens.entry(lease).or_default();
        if tokens.wanted == 0 {
            // Some forget to say that they are done: the Container ends it when it was idle for long.
            if self.rng.chance(800_000) {
                self.feed_consumer(i, lease, consumer::Event::Stop);
            }
            return;
        }
        tokens.wanted -= 1;
        match session.and_then(|session| self.sessions.get(&session)).filter(|s| !s.broken).cloned() {
            Some(s) => {
                let delay = self.rng.between(1, 3_000);
                let container_life = self.containers[s.container].life;
                let happening = Happening::Drawn { consumer: i, life, container: s.container, container_life, lease };
                self.after(delay, happening);
            }
            None => self.asks_again(i, lease),
        }
    }

    /// An answer is at its end, at the Container.
    pub(crate) fn drawn(&mut self, (i, life): (usize, u32), (c, container_life): (usize, u32), lease: LeaseId) {
        let input = self.rng.between(1, TOKENS_MAX);
        let cached = if self.rng.chance(500_000) { self.rng.below(input) } else { 0 };
        let counts = TokenCounts { input, cached, output: self.rng.between(0, TOKENS_MAX) };
        let node = &self.containers[c];
        let runs = node.jobs.get(&lease).is_some_and(|job| job.since.is_some() && !job.killed);
        let takes = node.brain.held(lease).is_some_and(|held| held.lease.takes_requests());
        let there = node.up && node.life == container_life;
        // Where it does not answer it says so, and counts nothing.
        let counts = if there && !(runs && takes) { TokenCounts::ZERO } else { counts };
        if there && runs && takes {
            let tokens = self.tokens.entry(lease).or_default();
            tokens.counted += counts;
            let tokens = tokens.counted;
            self.feed_container(c, container::Event::Counted { lease, tokens });
        }
        // The line may break with the last word; then only a bound of the answer is known.
        let lost = !there || self.rng.chance(self.config.faults.loss_ppm);
        let counts = if lost { TokenCounts { cached: 0, output: TOKENS_MAX, ..counts } } else { counts };
        let delay = self.rng.between(1, 200);
        self.after(delay, Happening::Answered { consumer: i, life, lease, counts, lost });
    }

    /// An answer is at its end, at its consumer.
    pub(crate) fn answered(&mut self, i: usize, life: u32, lease: LeaseId, counts: TokenCounts, lost: bool) {
        // What a former life heard is forgotten with it.
        if !self.consumers[i].up || self.consumers[i].life != life {
            return;
        }
        self.tokens.entry(lease).or_default().heard += counts;
        let event =
            if lost { consumer::Event::AnswerLost { most: counts } } else { consumer::Event::Answered { counts } };
        self.feed_consumer(i, lease, event);
        self.asks_again(i, lease);
    }

    /// How a model's tokens are paid, as its consumer wrote it down; `None` of other work.
    pub(crate) fn token_terms(&self, lease: LeaseId) -> Option<(usize, TokenTerms)> {
        let mut consumers = self.consumers.iter().enumerate();
        consumers.find_map(|(i, node)| Some((i, node.record(lease)?.lease.terms.tokens?)))
    }

    /// What may have been paid for a model's tokens at most: what was counted; to a liar what its consumer has heard of, and
    /// within the credit what it had forgotten, once for each of its lives.
    pub(crate) fn tokens_cost_most(&self, lease: LeaseId, honest: bool) -> Option<TokenAmount> {
        let (i, terms) = self.token_terms(lease)?;
        let tokens = self.tokens.get(&lease).copied().unwrap_or_default();
        if honest {
            return Some(terms.rates.cost(tokens.counted));
        }
        let forgotten = terms.credit.0.saturating_mul(u128::from(self.consumers[i].life));
        // Of a lost answer nothing was remembered, which costs the most.
        let heard = TokenCounts { cached: 0, ..tokens.heard };
        Some(TokenAmount(terms.rates.cost(heard).0.saturating_add(forgotten)))
    }

    /// A model's answers that nobody has paid for: what may be unpaid, and the answer that it hit.
    pub(crate) fn unpaid_tokens(&self, lease: &Lease) -> Option<String> {
        let terms = lease.terms.tokens.filter(|_| lease.phase == Phase::Running)?;
        let counted = self.tokens.get(&lease.id()).copied().unwrap_or_default().counted;
        let one = terms.rates.cost(TokenCounts { input: TOKENS_MAX, cached: 0, output: TOKENS_MAX });
        let most = terms.credit.0.saturating_add(one.0);
        let unpaid = terms.rates.cost(counted).saturating_sub(lease.paid());
        (unpaid.0 > most).then(|| format!("{:?} has answered {} unpaid, and {most} may be", lease.id(), unpaid.0))
    }

    /// Answers that were given, for the outcome.
    pub(crate) fn tokens_counted(&self) -> u64 {
        self.tokens.values().map(|tokens| tokens.counted.output).sum()
    }
}
