//! How a token is drawn. The same logits, options and seed give the same token, whatever else is in the batch.
//!
//! The order is that of vLLM: bias, penalties, temperature, min-p, top-k, top-p. A grammar is asked about the drawn token
//! first, and only where it says no about all of them, which is far cheaper. Tokens of less than e^-30 beside the
//! likeliest are not looked at: they would come once in a million million draws.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use muster_core::inference::Sampling;

/// A token and its logit; negative infinity is never drawn.
pub type Candidate = (u32, f32);

/// Sets the logit of each token that may not come to negative infinity.
pub type Allow<'a> = &'a mut dyn FnMut(&mut Vec<Candidate>);

/// A difference of logits beyond which a token is not looked at.
const FAR: f32 = 30.0;

/// What was drawn.
#[derive(Clone, Debug, PartialEq)]
pub struct Drawn {
    /// The token.
    pub token: u32,
    /// Its log-probability by the model alone, before bias, penalties and temperature; with the likeliest in its place.
    pub logprob: Option<(f32, Vec<Candidate>)>,
}

/// Nothing can be drawn: the grammar allows no token, or the model gives no numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no token can be drawn: the model gives no number for any that the grammar allows")]
pub struct NoToken;

/// Draws the tokens of one answer.
#[derive(Clone, Debug)]
pub struct Drawer {
    sampling: Sampling,
    state: u64,
    /// Tokens of prompt and answer.
    seen: BTreeMap<u32, ()>,
    /// Tokens of the answer with how often they came.
    drawn: BTreeMap<u32, u32>,
}

impl Drawer {
    /// For the answer `choice` of a request. `random` serves where the request names no seed.
    #[must_use]
    pub fn new(sampling: &Sampling, choice: u32, random: u64, prompt: &[u32]) -> Self {
        let seed = sampling.seed.unwrap_or(random);
        let state = seed ^ u64::from(choice).wrapping_add(1).wrapping_mul(0xd134_2543_de82_ef95);
        // Only a penalty asks what was in the prompt.
        let penal = (sampling.repetition_penalty - 1.0).abs() > f32::EPSILON;
        let seen = if penal { prompt.iter().map(|token| (*token, ())).collect() } else { BTreeMap::new() };
        Self { sampling: sampling.clone(), state, seen, drawn: BTreeMap::new() }
    }

    /// From 0 to below 1 (splitmix64).
    fn random(&mut self) -> f64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^= z >> 31;
        let top = u32::try_from(z >> 32).unwrap_or(0);
        (f64::from(top) + 0.5) / 4_294_967_296.0
    }

    /// Draws the next token from the model's logits, by token. `ends` are the tokens that end an answer; `allow` is the
    /// grammar, where there is one.
    ///
    /// # Errors
    /// Nothing can be drawn.
    pub fn draw(&mut self, logits: &[f32], ends: &[u32], mut allow: Option<Allow<'_>>) -> Result<Drawn, NoToken> {
        let mut candidates: Vec<Candidate> = (0u32..).zip(logits.iter().copied()).collect();
        self.weigh(&mut candidates, ends);
        let mut token = self.pick(candidates.clone());
        if let (Some(allow), Ok(first)) = (allow.as_mut(), token) {
            let mut one = vec![(first, 0.0)];
            allow(&mut one);
            if !one.first().is_some_and(|(_, logit)| logit.is_finite()) {
                allow(&mut candidates);
                token = self.pick(candidates);
            }
        }
        let token = token?;
        *self.drawn.entry(token).or_insert(0) += 1;
        let logprob = self.sampling.logprobs.map(|top| likelihood(logits, token, usize::from(top)));
        Ok(Drawn { token, logprob })
    }

    fn weigh(&self, candidates: &mut [Candidate], ends: &[u32]) {
        let at = |candidates: &mut [Candidate], token: u32, change: &dyn Fn(f32) -> f32| {
            let place = usize::try_from(token).ok().and_then(|token| candidates.get_mut(token));
            if let Some((_, logit)) = place {
                *logit = change(*logit);
            }
        };
        let s = &self.sampling;
        for (token, bias) in &s.logit_bias {
            at(candidates, *token, &|logit| logit + bias);
        }
        if (s.repetition_penalty - 1.0).abs() > f32::EPSILON {
            let penalty = s.repetition_penalty;
            let also = self.drawn.keys().filter(|token| !self.seen.contains_key(token));
            for token in self.seen.keys().chain(also) {
                at(candidates, *token, &|logit| if logit > 0.0 { logit / penalty } else { logit * penalty });
            }
        }
        for (token, times) in &self.drawn {
            // More than 2^24 tokens are in no answer.
            #[allow(clippy::cast_precision_loss, reason = "counts of tokens are far below 2^24")]
            let held = s.presence_penalty + s.frequency_penalty * *times as f32;
            at(candidates, *token, &|logit| logit - held);
        }
        if s.ignore_eos {
            for end in ends {
                at(candidates, *end, &|_| f32::NEG_INFINITY);
            }
        }
    }

    fn pick(&mut self, mut candidates: Vec<Candidate>) -> Result<u32, NoToken> {
        candidates.retain(|(_, logit)| logit.is_finite());
        let best = candidates.iter().copied().reduce(|a, b| if likelier(&b, &a) == Ordering::Less { b } else { a });
        let best = best.ok_or(NoToken)?;
        let s = &self.sampling;
        if s.temperature <= 0.0 || s.top_k == 1 {
            return Ok(best.0);
        }
        let (temperature, top_k, top_p) = (s.temperature, s.top_k, s.top_p);
        let least = if s.min_p > 0.0 { s.min_p.ln().max(-FAR) } else { -FAR };
        for (_, logit) in &mut candidates {
            *logit = (*logit - best.1) / temperature;
        }
        candidates.retain(|(_, logit)| *logit >= least);
        candidates.sort_by(likelier);
        if top_k > 0 {
            candidates.truncate(usize::try_from(top_k).unwrap_or(usize::MAX));
        }
        let weights: Vec<f64> = candidates.iter().map(|(_, logit)| f64::from(*logit).exp()).collect();
        let mut sum: f64 = weights.iter().sum();
        let mut count = weights.len();
        if top_p < 1.0 {
            let (want, mut have) = (sum * f64::from(top_p), 0.0);
            count = 0;
            for weight in &weights {
                if have >= want {
                    break;
                }
                have += weight;
                count += 1;
            }
            sum = have;
        }
        let mut left = self.random() * sum;
        for ((token, _), weight) in candidates.iter().zip(&weights).take(count) {
            left -= weight;
            if left < 0.0 {
                return Ok(*token);
            }
        }
        Ok(best.0)
    }
}

/// The likelier first; of two alike the smaller number.
fn likelier(a: &Candidate, b: &Candidate) -> Ordering {
    b.1.total_cmp(&a.1).then(a.0.cmp(&b.0))
}

fn likelihood(logits: &[f32], token: u32, top: usize) -> (f32, Vec<Candidate>) {
    let max = logits.iter().copied().filter(|l| l.is_finite()).fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().filter(|l| l.is_finite()).map(|l| f64::from(l - max).exp()).sum();
    // A sum of at most a million numbers from 0 to 1.
    #[allow(clippy::cast_possible_truncation, reason = "the logarithm of a number up to a million")]
    let log_sum = max + sum.ln() as f32;
    let of = |token: u32| {
        let logit = usize::try_from(token).ok().and_then(|token| logits.get(token)).copied();
        logit.filter(|logit| logit.is_finite()).map_or(-9_999.0, |logit| logit - log_sum)
    };
    let mut likeliest: Vec<Candidate> = Vec::with_capacity(top + 1);
    for candidate in (0u32..).zip(logits.iter().copied()).filter(|(_, logit)| logit.is_finite()) {
        if top > 0 && (likeliest.len() < top || likeliest.last().is_some_and(|l| likelier(&candidate, l).is_lt())) {
            let at = likeliest.partition_point(|l| likelier(l, &candidate).is_lt());
            likeliest.insert(at, candidate);
            likeliest.truncate(top);
        }
    }
    (of(token), likeliest.into_iter().map(|(token, _)| (token, of(token))).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sampling() -> Sampling {
        Sampling { seed: Some(7), ..Sampling::default() }
    }

    fn draws(sampling: &Sampling, logits: &[f32], count: usize) -> Vec<u32> {
        let mut drawer = Drawer::new(sampling, 0, 0, &[0]);
        (0..count).map(|_| drawer.draw(logits, &[3], None).unwrap().token).collect()
    }

    #[test]
    fn no_temperature_takes_the_likeliest_and_the_smaller_of_two_alike() {
        let s = Sampling { temperature: 0.0, ..sampling() };
        assert_eq!(draws(&s, &[1.0, 2.0, 2.0, 0.0], 3), [1, 1, 1]);
        let s = Sampling { logit_bias: vec![(3, 5.0)], ..s };
        assert_eq!(draws(&s, &[1.0, 2.0, 2.0, 0.0], 2), [3, 3]);
        let s = Sampling { ignore_eos: true, ..s };
        assert_eq!(draws(&s, &[1.0, 2.0, 2.0, 0.0], 1), [1]);
        let s = Sampling { presence_penalty: 0.5, ..Sampling { logit_bias: Vec::new(), ..s } };
        assert_eq!(draws(&s, &[1.0, 2.0, 2.0, 0.0], 3), [1, 2, 1]);
        let s = Sampling { repetition_penalty: 3.0, presence_penalty: 0.0, ..s };
        assert_eq!(draws(&s, &[5.0, 2.0, 1.0, 0.0], 1), [1], "the prompt counts too");
    }

    #[test]
    fn filters_leave_what_they_should() {
        let logits = [0.0, 1.0, 2.0, 3.0, 4.0];
        let only = |s: &Sampling| draws(s, &logits, 400).into_iter().collect::<std::collections::BTreeSet<_>>();
        assert_eq!(only(&sampling()).len(), 5);
        assert_eq!(only(&Sampling { top_k: 2, ..sampling() }), [3, 4].into());
        assert_eq!(only(&Sampling { top_p: 0.7, ..sampling() }), [3, 4].into());
        assert_eq!(only(&Sampling { top_p: 0.01, ..sampling() }), [4].into());
        assert_eq!(only(&Sampling { min_p: 0.1, ..sampling() }), [2, 3, 4].into());
    }

    #[test]
    fn shares_are_as_the_logits_say() {
        let s = sampling();
        let ones = draws(&s, &[0.0, 3.0f32.ln()], 4_000).iter().filter(|t| **t == 1).count();
        assert!((2_850..3_150).contains(&ones), "{ones} of 4,000, three quarters are right");
    }

    #[test]
    fn a_grammar_decides_in_the_end() {
        let mut drawer = Drawer::new(&sampling(), 0, 0, &[]);
        let mut even = |candidates: &mut Vec<Candidate>| {
            candidates.iter_mut().filter(|(token, _)| token % 2 == 1).for_each(|c| c.1 = f32::NEG_INFINITY);
        };
        for _ in 0..100 {
            assert_eq!(drawer.draw(&[0.0, 9.0, 1.0, 9.0], &[], Some(&mut even)).unwrap().token % 2, 0);
        }
        let mut none = |candidates: &mut Vec<Candidate>| candidates.clear();
        assert_eq!(drawer.draw(&[0.0], &[], Some(&mut none)), Err(NoToken));
        assert_eq!(drawer.draw(&[f32::NAN], &[], None), Err(NoToken));
    }

    #[test]
    fn log_probabilities_are_the_models_own() {
        let s = Sampling { logprobs: Some(2), temperature: 0.0, logit_bias: vec![(0, 50.0)], ..sampling() };
        let drawn = Drawer::new(&s, 0, 0, &[]).draw(&[0.0, 3.0f32.ln(), f32::NEG_INFINITY], &[], None).unwrap();
        let (own, top) = drawn.logprob.unwrap();
        assert_eq!(drawn.token, 0);
        assert!((own.exp() - 0.25).abs() < 1e-5);
        assert_eq!(top.iter().map(|(token, _)| *token).collect::<Vec<_>>(), [1, 0]);
    }

    proptest! {
        #[test]
        fn the_same_seed_draws_the_same(seed: u64, choice in 0u32..4, logits in prop::collection::vec(-9f32..9., 1..40)) {
            let s = Sampling { seed: Some(seed), top_p: 0.9, ..Sampling::default() };
            let draw = |random| {
                let mut drawer = Drawer::new(&s, choice, random, &[]);
                (0..9).map(|_| drawer.draw(&logits, &[], None).map(|d| d.token)).collect::<Vec<_>>()
            };
            prop_assert_eq!(draw(1), draw(2));
        }
    }
}
