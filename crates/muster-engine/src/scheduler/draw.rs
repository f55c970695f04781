//! How a token is drawn. The same logits, options and seed give the same token, whatever else is in the batch; and logits
//! that differ a little nearly always do, so that an answer can be replayed elsewhere ([`muster_core::inference::audit`]).
//!
//! The order is that of vLLM: bias, penalties, temperature, min-p, top-k, top-p. Of what is left the token wins whose logit
//! plus [`Noise`] is the greatest (Gumbel-max): that has each token's share of the odds. A grammar is asked about the drawn
//! token first, and only where it says no about all of them, which is far cheaper. Tokens of less than e^-30 beside the
//! likeliest are not looked at: they would come once in a million million draws.

use std::borrow::Cow;
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

/// Numbers that are worked on side by side.
const LANES: usize = 16;
/// So many of the likeliest are put in order first.
const NUCLEUS_PIECE: usize = 64;

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
        let token = self.win(&self.weighed(logits, ends), allow)?.token;
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
        let own = self.win(&weighed, allow)?;
        let theirs =
            usize::try_from(claimed).ok().and_then(|token| weighed.get(token)).filter(|logit| logit.is_finite());
        let theirs = theirs.map(|logit| {
            let score = self.score(*logit, own.best);
            if self.is_greedy() { score } else { score + self.noise().of(claimed) }
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

    fn win(&self, weighed: &[f32], allow: Option<Allow<'_>>) -> Result<Won, NoToken> {
        let first = self.pick(weighed);
        let Some(allow) = allow else { return first };
        if let Ok(first) = first {
            let mut one = vec![(first.token, 0.0)];
            allow(&mut one);
            if one.first().is_some_and(|(_, logit)| logit.is_finite()) {
                return Ok(first);
            }
        }
        let mut candidates: Vec<Candidate> = (0u32..).zip(weighed.iter().copied()).collect();
        allow(&mut candidates);
        let mut allowed = vec![f32::NEG_INFINITY; weighed.len()];
        for (token, logit) in candidates {
            if let Some(place) = usize::try_from(token).ok().and_then(|token| allowed.get_mut(token)) {
                *place = logit;
            }
        }
        self.pick(&allowed)
    }

    /// The logits with what the options add to them and take from them.
    fn weighed<'l>(&self, logits: &'l [f32], ends: &[u32]) -> Cow<'l, [f32]> {
        let s = &self.sampling;
        let repeats = (s.repetition_penalty - 1.0).abs() > f32::EPSILON;
        let counts = s.presence_penalty != 0.0 || s.frequency_penalty != 0.0;
        let ends = if s.ignore_eos { ends } else { &[] };
        if s.logit_bias.is_empty() && !repeats && !counts && ends.is_empty() {
            return Cow::Borrowed(logits);
        }
        let mut weighed = logits.to_vec();
        let mut at = |token: u32, change: &dyn Fn(f32) -> f32| {
            if let Some(logit) = usize::try_from(token).ok().and_then(|token| weighed.get_mut(token)) {
                *logit = change(*logit);
            }
        };
        for (token, bias) in &s.logit_bias {
            at(*token, &|logit| logit + bias);
        }
        if repeats {
            let penalty = s.repetition_penalty;
            let also = self.drawn.keys().filter(|token| !self.seen.contains_key(token));
            for token in self.seen.keys().chain(also) {
                at(*token, &|logit| if logit > 0.0 { logit / penalty } else { logit * penalty });
            }
        }
        for (token, times) in self.drawn.iter().filter(|_| counts) {
            // More than 2^24 tokens are in no answer.
            #[allow(clippy::cast_precision_loss, reason = "counts of tokens are far below 2^24")]
            let held = s.presence_penalty + s.frequency_penalty * *times as f32;
            at(*token, &|logit| logit - held);
        }
        for end in ends {
            at(*end, &|_| f32::NEG_INFINITY);
        }
        Cow::Owned(weighed)
    }

    fn pick(&self, weighed: &[f32]) -> Result<Won, NoToken> {
        let best = greatest(weighed);
        let first = weighed.iter().position(|logit| *logit >= best && logit.is_finite()).ok_or(NoToken)?;
        let token = u32::try_from(first).map_err(|_| NoToken)?;
        if self.is_greedy() {
            return Ok(Won { token, sum: 0.0, best });
        }
        let s = &self.sampling;
        let least = f64::from(if s.min_p > 0.0 { s.min_p.ln().max(-FAR) } else { -FAR });
        let scores = (0u32..).zip(weighed.iter().copied()).filter(|(_, logit)| logit.is_finite());
        let scores = scores.map(|(token, logit)| (token, self.score(logit, best))).filter(|(_, score)| *score >= least);
        // The likeliest first: most others need not be looked at then.
        let likeliest = std::iter::once((token, 0.0));
        let won = if s.top_k > 0 || s.top_p < 1.0 {
            let mut kept: Vec<(u32, f64)> = scores.collect();
            if s.top_k > 0 {
                keep_first(&mut kept, usize::try_from(s.top_k).unwrap_or(usize::MAX));
            }
            if s.top_p < 1.0 {
                keep_nucleus(&mut kept, s.top_p.into());
            }
            self.noise().draw(likeliest.chain(kept))
        } else {
            self.noise().draw(likeliest.chain(scores))
        };
        let (token, sum) = won.ok_or(NoToken)?;
        Ok(Won { token, sum, best })
    }
}

/// The better score first; of two alike the smaller number.
fn better(a: &(u32, f64), b: &(u32, f64)) -> Ordering {
    b.1.total_cmp(&a.1).then(a.0.cmp(&b.0))
}

/// Keeps so many of the best scores, in any order.
fn keep_first(scores: &mut Vec<(u32, f64)>, count: usize) {
    if count < scores.len() {
        scores.select_nth_unstable_by(count, better);
        scores.truncate(count);
    }
}

/// Keeps the best scores that have this share of all the odds together, with the one that completes it. They are few of many,
/// so that no more of them are put in order than have to be.
fn keep_nucleus(scores: &mut Vec<(u32, f64)>, share: f64) {
    let (mut have, mut ordered, mut piece) = (0.0, 0usize, NUCLEUS_PIECE);
    // Sums in the order of tokens, which is the same everywhere.
    scores.sort_unstable_by_key(|(token, _)| *token);
    let want = scores.iter().map(|(_, score)| score.exp()).sum::<f64>() * share;
    while ordered < scores.len() {
        let Some(rest) = scores.get_mut(ordered..) else { break };
        let count = piece.min(rest.len());
        if count < rest.len() {
            rest.select_nth_unstable_by(count, better);
        }
        let Some(next) = rest.get_mut(..count) else { break };
        next.sort_unstable_by(better);
        for (at, (_, score)) in next.iter().enumerate() {
            if have >= want {
                scores.truncate(ordered.saturating_add(at));
                return;
            }
            have += score.exp();
        }
        ordered = ordered.saturating_add(count);
        piece = piece.saturating_mul(4);
    }
}

/// The greatest of those that are numbers.
fn greatest(logits: &[f32]) -> f32 {
    let greater = |most: f32, logit: f32| if logit.is_finite() && logit > most { logit } else { most };
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let (chunks, rest) = logits.as_chunks::<LANES>();
    for chunk in chunks {
        for (lane, logit) in lanes.iter_mut().zip(chunk) {
            *lane = greater(*lane, *logit);
        }
    }
    lanes.iter().chain(rest).copied().fold(f32::NEG_INFINITY, greater)
}

/// e to the power of `x`, from -25 to 0, to a few millionths: sums and products alone, so that it is the same on every
/// machine, and several are worked out at once.
fn exp(x: f32) -> f32 {
    /// Added to a small number it leaves the nearest whole one in the last bits.
    const WHOLE: f32 = 12_582_912.0;
    let shifted = x * std::f32::consts::LOG2_E + WHOLE;
    let whole = shifted - WHOLE;
    // What is left of x once whole powers of two are taken out: at most half of ln 2 either way.
    let rest = x - whole * 0.693_359_4 + whole * 2.121_944_4e-4;
    let power =
        1.0 + rest * (1.0 + rest * (0.5 + rest * (0.166_666_67 + rest * (0.041_666_67 + rest * 0.008_333_334))));
    let exponent = shifted.to_bits().wrapping_sub(WHOLE.to_bits()).wrapping_add(127);
    f32::from_bits(exponent << 23) * power
}

/// The sum of the odds beside the greatest logit.
fn odds_beside(logits: &[f32], max: f32) -> f64 {
    let odds = |logit: f32| {
        let far = logit - max;
        if far > -NOTHING { exp(far) } else { 0.0 }
    };
    let mut sum = 0.0;
    // Short sums, so that none of them loses what is small.
    for part in logits.chunks(LANES * 64) {
        let mut lanes = [0.0f32; LANES];
        let (chunks, rest) = part.as_chunks::<LANES>();
        for chunk in chunks {
            for (lane, logit) in lanes.iter_mut().zip(chunk) {
                *lane += odds(*logit);
            }
        }
        sum += lanes.iter().copied().chain(rest.iter().map(|logit| odds(*logit))).map(f64::from).sum::<f64>();
    }
    sum
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
        let max = greatest(logits);
        // A sum of at most a million numbers from 0 to 1.
        #[allow(clippy::cast_possible_truncation, reason = "the logarithm of a number up to a million")]
        let log_sum = max + odds_beside(logits, max).ln() as f32;
        let mut likeliest: Vec<Candidate> = Vec::with_capacity(top + 1);
        let mut first = 0u32;
        for chunk in logits.chunks(LANES) {
            let least = likeliest.last().filter(|_| likeliest.len() >= top).map_or(f32::NEG_INFINITY, |last| last.1);
            // Hardly any chunk has one.
            if top > 0 && chunk.iter().fold(false, |any, logit| any | (*logit > least)) {
                for candidate in (first..).zip(chunk.iter().copied()).filter(|(_, logit)| logit.is_finite()) {
                    if likeliest.len() < top || likeliest.last().is_some_and(|l| likelier(&candidate, l).is_lt()) {
                        let at = likeliest.partition_point(|l| likelier(l, &candidate).is_lt());
                        likeliest.insert(at, candidate);
                        likeliest.truncate(top);
                    }
                }
            }
            first = first.saturating_add(u32::try_from(LANES).unwrap_or(u32::MAX));
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

    #[test]
    fn powers_of_e_are_right_to_a_few_millionths() {
        for step in 0u16..=25_000 {
            let x = f32::from(step) / -1_000.0;
            let (got, right) = (f64::from(exp(x)), f64::from(x).exp());
            assert!((got / right - 1.0).abs() < 4e-6, "e^{x} is {right}, not {got}");
        }
    }

    /// What is left by the plain way: all in order, one after the other.
    fn plain(mut scores: Vec<(u32, f64)>, top_k: usize, share: f64) -> std::collections::BTreeSet<u32> {
        scores.sort_by(better);
        scores.truncate(top_k);
        let want = scores.iter().map(|(_, score)| score.exp()).sum::<f64>() * share;
        let mut have = 0.0;
        let before = |(token, score): &(u32, f64)| {
            let more = have < want;
            have += score.exp();
            more.then_some(*token)
        };
        scores.iter().map_while(before).collect()
    }

    proptest! {
        #[test]
        fn the_nucleus_is_that_of_the_plain_way(
            scores in prop::collection::vec(-12f64..0.0, 1..900), top_k in 1usize..1_000, share in 0.01f64..0.999,
        ) {
            let scores: Vec<(u32, f64)> = (0u32..).zip(scores).collect();
            let mut kept = scores.clone();
            keep_first(&mut kept, top_k);
            keep_nucleus(&mut kept, share);
            let kept: std::collections::BTreeSet<u32> = kept.iter().map(|(token, _)| *token).collect();
            prop_assert_eq!(kept, plain(scores, top_k, share));
        }

        #[test]
        fn odds_are_those_of_the_plain_way(logits in prop::collection::vec(prop_oneof![9 => -30f32..30.0, 1 => Just(f32::NAN), 1 => Just(f32::NEG_INFINITY)], 1..300), top in 0usize..9) {
            let finite: Vec<Candidate> = (0u32..).zip(logits.iter().copied()).filter(|(_, l)| l.is_finite()).collect();
            let odds = Odds::of(&logits, top);
            let mut ordered = finite.clone();
            ordered.sort_by(likelier);
            ordered.truncate(top);
            prop_assert_eq!(&odds.likeliest, &ordered);
            if let Some((_, max)) = finite.iter().copied().reduce(|a, b| if b.1 > a.1 { b } else { a }) {
                let sum: f64 = finite.iter().map(|(_, logit)| f64::from(logit - max).exp()).sum();
                prop_assert!((f64::from(odds.log_sum) - (f64::from(max) + sum.ln())).abs() < 1e-4);
            }
        }

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
