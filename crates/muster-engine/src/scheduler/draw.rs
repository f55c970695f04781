//! How a token is drawn. The same logits, options and seed give the same token, whatever else is in the batch; and logits
//! that differ a little nearly always do, so that an answer can be replayed elsewhere ([`muster_core::inference::audit`]).
//!
//! The order is that of vLLM: bias, penalties, temperature, min-p, top-k, top-p. Of what is left the token wins whose logit
//! plus [`Noise`] is the greatest (Gumbel-max): that has each token's share of the odds. A grammar is asked about the drawn
//! token first, and only where it says no about all of them, which is far cheaper. Tokens of less than e^-30 beside the
//! likeliest are not looked at: they would come once in a million million draws.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use muster_core::inference::Sampling;
use muster_core::inference::audit::{LIKELY, Likely, Noise, Row};

/// A token and its logit; negative infinity is never drawn.
pub type Candidate = (u32, f32);

/// Sets the logit of each token that may not come to negative infinity.
pub type Allow<'a> = &'a mut dyn FnMut(&mut Vec<Candidate>);

/// A difference of logits beyond which a token is not looked at.
const FAR: f32 = 30.0;
/// A difference beyond which all tokens together add nothing to the sum of odds.
const NOTHING: f32 = 25.0;

/// What was drawn.
#[derive(Clone, Debug, PartialEq)]
pub struct Drawn {
    /// The token.
    pub token: u32,
    /// Its log-probability by the model alone, before bias, penalties and temperature; with the likeliest in its place.
    pub logprob: Option<(f32, Vec<Candidate>)>,
    /// The likeliest, for what is committed to.
    pub likely: [Likely; LIKELY],
}

/// Nothing can be drawn: the grammar allows no token, or the model gives no numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no token can be drawn: the model gives no number for any that the grammar allows")]
pub struct NoToken;

/// A token that won, by what, and the greatest logit that it was measured by.
#[derive(Clone, Copy, Debug)]
struct Won {
    token: u32,
    sum: f64,
    best: f32,
}

/// Draws the tokens of one answer.
#[derive(Clone, Debug)]
pub struct Drawer {
    sampling: Sampling,
    seed: u64,
    choice: u32,
    /// Tokens that were drawn.
    position: u32,
    /// Tokens of the prompt, where a penalty asks for them.
    seen: BTreeMap<u32, ()>,
    /// Tokens of the answer with how often they came.
    drawn: BTreeMap<u32, u32>,
}

impl Drawer {
    /// For the answer `choice` of a request. `random` serves where the request names no seed.
    #[must_use]
    pub fn new(sampling: &Sampling, choice: u32, random: u64, prompt: &[u32]) -> Self {
        let seed = sampling.seed.unwrap_or(random);
        // Only a penalty asks what was in the prompt.
        let penal = (sampling.repetition_penalty - 1.0).abs() > f32::EPSILON;
        let seen = if penal { prompt.iter().map(|token| (*token, ())).collect() } else { BTreeMap::new() };
        Self { sampling: sampling.clone(), seed, choice, position: 0, seen, drawn: BTreeMap::new() }
    }

    /// The seed that it draws with.
    #[must_use]
    pub const fn seed(&self) -> u64 {
        self.seed
    }

    /// Draws the next token from the model's logits, by token. `ends` are the tokens that end an answer; `allow` is the
    /// grammar, where there is one.
    ///
    /// # Errors
    /// Nothing can be drawn.
    pub fn draw(&mut self, logits: &[f32], ends: &[u32], allow: Option<Allow<'_>>) -> Result<Drawn, NoToken> {
        let token = self.win(self.weighed(logits, ends), allow)?.token;
        self.took(token);
        let asked = self.sampling.logprobs.map(usize::from);
        let odds = Odds::of(logits, asked.unwrap_or(0).max(LIKELY));
        let logprob = asked.map(|top| (odds.logprob(logits, token), odds.likeliest(top)));
        Ok(Drawn { token, logprob, likely: odds.committed() })
    }

    /// What would be drawn next where somebody drew `claimed`; goes on as if it had been drawn here.
    ///
    /// # Errors
    /// Nothing can be drawn.
    pub fn replay(
        &mut self,
        logits: &[f32],
        ends: &[u32],
        allow: Option<Allow<'_>>,
        claimed: u32,
    ) -> Result<Row, NoToken> {
        let weighed = self.weighed(logits, ends);
        let at = usize::try_from(claimed).ok().and_then(|token| weighed.get(token)).copied();
        let own = self.win(weighed, allow)?;
        let theirs = at.filter(|(_, logit)| logit.is_finite()).map(|(token, logit)| {
            let score = self.score(logit, own.best);
            if self.is_greedy() { score } else { score + self.noise().of(token) }
        });
        let margin = if own.token == claimed { 0.0 } else { own.sum - theirs.unwrap_or(f64::NEG_INFINITY) };
        self.took(claimed);
        Ok(Row::new(own.token, margin, Odds::of(logits, LIKELY).committed()))
    }

    fn noise(&self) -> Noise {
        Noise::new(self.seed, self.choice, self.position)
    }

    fn is_greedy(&self) -> bool {
        self.sampling.temperature <= 0.0 || self.sampling.top_k == 1
    }

    /// A logit in the scale of the noise, the likeliest at 0.
    fn score(&self, logit: f32, best: f32) -> f64 {
        let temperature = if self.is_greedy() { 1.0 } else { self.sampling.temperature };
        f64::from((logit - best) / temperature)
    }

    fn took(&mut self, token: u32) {
        self.position = self.position.saturating_add(1);
        *self.drawn.entry(token).or_insert(0) += 1;
    }

    fn win(&self, mut candidates: Vec<Candidate>, allow: Option<Allow<'_>>) -> Result<Won, NoToken> {
        let Some(allow) = allow else { return self.pick(candidates) };
        if let Ok(first) = self.pick(candidates.clone()) {
            let mut one = vec![(first.token, 0.0)];
            allow(&mut one);
            if one.first().is_some_and(|(_, logit)| logit.is_finite()) {
                return Ok(first);
            }
        }
        allow(&mut candidates);
        self.pick(candidates)
    }

    fn weighed(&self, logits: &[f32], ends: &[u32]) -> Vec<Candidate> {
        let mut candidates: Vec<Candidate> = (0u32..).zip(logits.iter().copied()).collect();
        self.weigh(&mut candidates, ends);
        candidates
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

    fn pick(&self, mut candidates: Vec<Candidate>) -> Result<Won, NoToken> {
        candidates.retain(|(_, logit)| logit.is_finite());
        let likeliest =
            candidates.iter().copied().reduce(|a, b| if likelier(&b, &a) == Ordering::Less { b } else { a });
        let (token, best) = likeliest.ok_or(NoToken)?;
        if self.is_greedy() {
            return Ok(Won { token, sum: 0.0, best });
        }
        let s = &self.sampling;
        let least = if s.min_p > 0.0 { s.min_p.ln().max(-FAR) } else { -FAR };
        let mut scores: Vec<(u32, f64)> =
            candidates.iter().map(|(token, logit)| (*token, self.score(*logit, best))).collect();
        scores.retain(|(_, score)| *score >= f64::from(least));
        if s.top_k > 0 || s.top_p < 1.0 {
            scores.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
            if s.top_k > 0 {
                scores.truncate(usize::try_from(s.top_k).unwrap_or(usize::MAX));
            }
            if s.top_p < 1.0 {
                scores.truncate(nucleus(&scores, s.top_p.into()));
            }
        }
        // The likeliest first: most others need not be looked at then.
        let all = std::iter::once((token, 0.0)).chain(scores);
        let (token, sum) = self.noise().draw(all).ok_or(NoToken)?;
        Ok(Won { token, sum, best })
    }
}

/// How many of the likeliest have this share of all the odds together.
fn nucleus(scores: &[(u32, f64)], share: f64) -> usize {
    let odds = || scores.iter().map(|(_, score)| score.exp());
    let (want, mut have) = (odds().sum::<f64>() * share, 0.0);
    let before = |odds: f64| {
        let more = have < want;
        have += odds;
        more
    };
    odds().map(before).take_while(|more| *more).count()
}

/// The likelier first; of two alike the smaller number.
fn likelier(a: &Candidate, b: &Candidate) -> Ordering {
    b.1.total_cmp(&a.1).then(a.0.cmp(&b.0))
}

/// Log-probabilities by the model alone.
struct Odds {
    log_sum: f32,
    /// The likeliest first, by logit.
    likeliest: Vec<Candidate>,
}

impl Odds {
    fn of(logits: &[f32], top: usize) -> Self {
        let max = logits.iter().copied().filter(|l| l.is_finite()).fold(f32::NEG_INFINITY, f32::max);
        let counts = |logit: &&f32| logit.is_finite() && max - **logit < NOTHING;
        let sum: f64 = logits.iter().filter(counts).map(|l| f64::from(l - max).exp()).sum();
        // A sum of at most a million numbers from 0 to 1.
        #[allow(clippy::cast_possible_truncation, reason = "the logarithm of a number up to a million")]
        let log_sum = max + sum.ln() as f32;
        let mut likeliest: Vec<Candidate> = Vec::with_capacity(top + 1);
        for candidate in (0u32..).zip(logits.iter().copied()).filter(|(_, logit)| logit.is_finite()) {
            if top > 0 && (likeliest.len() < top || likeliest.last().is_some_and(|l| likelier(&candidate, l).is_lt())) {
                let at = likeliest.partition_point(|l| likelier(l, &candidate).is_lt());
                likeliest.insert(at, candidate);
                likeliest.truncate(top);
            }
        }
        Self { log_sum, likeliest }
    }

    fn logprob(&self, logits: &[f32], token: u32) -> f32 {
        let logit = usize::try_from(token).ok().and_then(|token| logits.get(token)).copied();
        logit.filter(|logit| logit.is_finite()).map_or(-9_999.0, |logit| logit - self.log_sum)
    }

    fn likeliest(&self, top: usize) -> Vec<Candidate> {
        self.likeliest.iter().take(top).map(|(token, logit)| (*token, logit - self.log_sum)).collect()
    }

    fn committed(&self) -> [Likely; LIKELY] {
        let mut list = [Likely::NONE; LIKELY];
        for (place, (token, logprob)) in list.iter_mut().zip(self.likeliest(LIKELY)) {
            *place = Likely::new(token, logprob);
        }
        list
    }
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

    /// Logits as another machine may have them.
    fn elsewhere(logits: &[f32], by: f32) -> Vec<f32> {
        (0u16..).zip(logits).map(|(at, logit)| logit + by * (f32::from(at * 37 % 11) / 5.0 - 1.0)).collect()
    }

    #[test]
    fn a_replay_draws_the_same_and_says_how_far_another_is() {
        let logits: Vec<f32> = (0u16..40).map(|at| f32::from(at * 7 % 41) / 9.0).collect();
        for s in [
            sampling(),
            Sampling { temperature: 0.6, top_p: 0.9, ..sampling() },
            Sampling { temperature: 0.0, presence_penalty: 0.3, ..sampling() },
            Sampling { top_k: 6, min_p: 0.01, repetition_penalty: 1.2, ..sampling() },
        ] {
            let (mut one, mut two) = (Drawer::new(&s, 0, 0, &[3]), Drawer::new(&s, 0, 0, &[3]));
            let mut three = Drawer::new(&Sampling { seed: Some(8), ..s.clone() }, 0, 0, &[3]);
            let (mut same, mut of_another) = (0, 0);
            for _ in 0..200 {
                let drawn = one.draw(&logits, &[], None).unwrap();
                let row = two.replay(&elsewhere(&logits, 1e-4), &[], None, drawn.token).unwrap();
                // Whoever was the last to be looked at may be the first who is not, elsewhere.
                let cut = s.top_p < 1.0 || s.top_k > 0;
                assert!(row.own == drawn.token || row.margin <= 1 || cut, "{row:?}");
                assert_eq!(row.likely[0].id, drawn.likely[0].id);
                same += usize::from(row.own == drawn.token);
                of_another += usize::from(three.replay(&logits, &[], None, drawn.token).unwrap().own == drawn.token);
            }
            assert!(same >= 195, "{same} of 200 agree");
            assert!(of_another < 120 || s.temperature <= 0.0, "{of_another} of 200 agree with another seed");
        }
        let mut drawer = Drawer::new(&Sampling { temperature: 0.0, ..sampling() }, 0, 0, &[]);
        let row = drawer.replay(&[0.0, 2.0, 1.5], &[], None, 2).unwrap();
        assert_eq!((row.own, row.margin, row.likely[3]), (1, 500, Likely::NONE));
        let unknown = drawer.replay(&[0.0, 2.0], &[], None, 99).unwrap();
        assert_eq!((unknown.own, unknown.margin), (1, muster_core::inference::audit::MARGIN_MAX));
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
