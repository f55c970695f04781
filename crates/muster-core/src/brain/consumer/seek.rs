//! How a consumer finds a Container: one Indexer after another, each in a drawn order, and a look at what it proposes.

use crate::ids::NodeId;
use crate::inference::{ModelDemand, TokenRates};
use crate::lease::LeaseTerms;
use crate::params::Params;
use crate::pricing::Exchange;
use crate::protocol::{MatchFailed, MatchFailure, MatchReply, MatchRequest, Matched};
use crate::units::{TimeMs, TokenAmount};

/// Asks Indexers one after the other until one answers.
#[derive(Clone, Debug)]
pub struct Seek {
    request: MatchRequest,
    /// Still to be asked, last first.
    left: Vec<NodeId>,
    asked: Option<(NodeId, TimeMs)>,
    timeout_ms: u64,
    failed: Option<MatchFailed>,
    unreachable: u32,
    exchange: Exchange,
}

/// What a [`Seek`] wants next.
#[derive(Clone, Debug, PartialEq)]
pub enum SeekStep {
    /// Send the request to this Indexer.
    Ask(NodeId),
    /// Wait for the answer.
    Wait,
    /// A Container holds a slot.
    Matched(Box<Matched>),
    /// Nobody could help; the last answer that said why, if any Indexer answered.
    Failed {
        /// The last Indexer's answer.
        answer: Option<MatchFailed>,
        /// Indexers that did not answer.
        unreachable: u32,
    },
}

impl Seek {
    /// A search over `indexers` in an order drawn from `seed`, so that no Indexer can favour anybody.
    #[must_use]
    pub fn new(request: MatchRequest, indexers: &[NodeId], seed: u64, params: &Params) -> Self {
        let mut left: Vec<NodeId> = indexers.to_vec();
        left.sort_unstable();
        left.dedup();
        shuffle(&mut left, seed);
        let exchange = Exchange { token_price: params.token_price };
        let timeout_ms = params.match_timeout_ms;
        Self { request, left, asked: None, timeout_ms, failed: None, unreachable: 0, exchange }
    }

    /// The request.
    #[must_use]
    pub const fn request(&self) -> &MatchRequest {
        &self.request
    }

    /// The first step.
    pub fn begin(&mut self, now: TimeMs) -> SeekStep {
        self.next(now)
    }

    /// An Indexer answered.
    pub fn answered(&mut self, from: NodeId, reply: MatchReply, now: TimeMs) -> SeekStep {
        if self.asked.map(|a| a.0) != Some(from) {
            return SeekStep::Wait;
        }
        match reply {
            MatchReply::Matched(matched) => match check_matched(&self.request, &matched, &self.exchange) {
                Ok(()) => SeekStep::Matched(matched),
                Err(why) => {
                    let kind = MatchFailure::BadRequest;
                    self.failed = Some(MatchFailed { kind, why, considered: 0, turned_down: Vec::new() });
                    self.next(now)
                }
            },
            MatchReply::Failed(failed) => {
                // Another Indexer may know Containers that this one does not.
                let better = self.failed.as_ref().is_none_or(|f| f.kind != MatchFailure::Busy);
                if better {
                    self.failed = Some(failed);
                }
                self.next(now)
            }
        }
    }

    /// An Indexer could not be reached.
    pub fn unreachable(&mut self, from: NodeId, now: TimeMs) -> SeekStep {
        if self.asked.map(|a| a.0) != Some(from) {
            return SeekStep::Wait;
        }
        self.unreachable = self.unreachable.saturating_add(1);
        self.next(now)
    }

    /// Time passes.
    pub fn tick(&mut self, now: TimeMs) -> SeekStep {
        match self.asked {
            Some((from, at)) if now.since(at) > self.timeout_ms => self.unreachable(from, now),
            _ => SeekStep::Wait,
        }
    }

    fn next(&mut self, now: TimeMs) -> SeekStep {
        match self.left.pop() {
            Some(indexer) => {
                self.asked = Some((indexer, now));
                SeekStep::Ask(indexer)
            }
            None => SeekStep::Failed { answer: self.failed.clone(), unreachable: self.unreachable },
        }
    }
}

/// Fisher-Yates over a splitmix64 stream.
fn shuffle<T>(items: &mut [T], seed: u64) {
    let mut state = seed;
    for at in (1..items.len()).rev() {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^= z >> 31;
        let bound = u64::try_from(at).unwrap_or(u64::MAX).saturating_add(1);
        let pick = usize::try_from(z % bound).unwrap_or(0);
        items.swap(at, pick);
    }
}

/// Whether what an Indexer proposes is what was asked for: an Indexer may lie.
///
/// # Errors
/// What is wrong, as a sentence.
pub fn check_matched(request: &MatchRequest, matched: &Matched, exchange: &Exchange) -> Result<(), String> {
    let t = &matched.terms;
    let wrong = |what: &str| Err(format!("the Indexer proposed terms with another {what} than asked for"));
    if t.lease != request.lease || t.salt != request.salt || t.request != request.request {
        return wrong("lease");
    }
    if t.consumer != request.consumer || t.session_key != request.session_key {
        return wrong("consumer");
    }
    if t.container != matched.container.id {
        return wrong("Container");
    }
    if t.max_seconds != request.demand.time_limit_s {
        return wrong("length");
    }
    if t.egress != request.demand.egress {
        return wrong("network access");
    }
    if request.demand.exclude.contains(&t.container) {
        return Err("the Indexer proposed a Container that was excluded".to_owned());
    }
    let need = &request.demand;
    let a = &t.allocation;
    if a.cpu_millis < need.cpu_millis || a.memory < need.memory || a.disk < need.disk || a.gpus.len() < need.gpu_count {
        return Err("the Indexer proposed less capacity than asked for".to_owned());
    }
    if let Some(model) = &request.demand.model {
        return check_token_terms(model, t, exchange);
    }
    if t.tokens.is_some() {
        return wrong("price");
    }
    let fair = t.rate_per_second.per_second_for_ms(request.deposit_seconds.saturating_mul(1000));
    if t.deposit > fair.max(t.rate_per_second.per_second_for_ms(t.interval_ms.saturating_mul(2))) {
        return Err("the Indexer proposed a larger deposit than asked for".to_owned());
    }
    Ok(())
}

/// Whether a model's tokens are paid as was asked for.
fn check_token_terms(model: &ModelDemand, terms: &LeaseTerms, exchange: &Exchange) -> Result<(), String> {
    let Some(tokens) = &terms.tokens else {
        return Err("the Indexer proposed a price per second for a model".to_owned());
    };
    if terms.rate_per_second != TokenAmount::ZERO || (tokens.weights != model.bytes && !model.endpoint) {
        return Err("the Indexer proposed terms with another price than asked for".to_owned());
    }
    if let Some(price_max) = &model.price_max {
        let most = TokenRates::freeze(price_max, exchange).map_err(|why| why.to_string())?;
        if !tokens.rates.is_within(&most) {
            return Err("the Indexer proposed a dearer Container than asked for".to_owned());
        }
    }
    if tokens.credit > model.credit(&tokens.rates) {
        return Err("the Indexer proposed that more may be unpaid than asked for".to_owned());
    }
    if terms.deposit > model.deposit(&tokens.rates).max(tokens.credit) {
        return Err("the Indexer proposed a larger deposit than asked for".to_owned());
    }
    Ok(())
}
