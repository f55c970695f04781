//! The noise by which tokens are drawn.

/// Noise of one position of one answer, for each token its own: a number of the Gumbel distribution, the same for everybody
/// who knows the seed.
///
/// The key of a token is a splitmix64 of seed, answer, position and token; its upper 32 bits `u`, with a half in the
/// middle of each step, give `-ln(-ln u)`: from about -3.1 to 22.9. It hides nothing from who knows the seed, and need not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Noise(u64);

/// The greatest noise there is, rounded up: no token that is further behind can be drawn.
const GREATEST: f64 = 22.91;

const fn mix(word: u64) -> u64 {
    let z = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

impl Noise {
    /// For the token at `position` of the answer `choice`, both from 0.
    #[must_use]
    pub fn new(seed: u64, choice: u32, position: u32) -> Self {
        let place = u64::from(choice) << 32 | u64::from(position);
        Self(mix(mix(seed.wrapping_add(0x9e37_79b9_7f4a_7c15)) ^ mix(place.wrapping_add(0xd134_2543_de82_ef95))))
    }

    fn word(self, token: u32) -> u32 {
        let key = self.0.wrapping_add(u64::from(token).wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        u32::try_from(mix(key) >> 32).unwrap_or(0)
    }

    /// The noise of a token.
    #[must_use]
    pub fn of(self, token: u32) -> f64 {
        let u = (f64::from(self.word(token)) + 0.5) / 4_294_967_296.0;
        -(-u.ln()).ln()
    }

    /// What a token of this score comes to, unless it is certainly less than `least`: then `None`, without a logarithm.
    #[must_use]
    pub fn beyond(self, token: u32, score: f64, least: f64) -> Option<f64> {
        let short = least - score;
        if short > GREATEST {
            return None;
        }
        // -ln(-ln u) <= -ln(1 - u), and 1 - u is at least 2^-(ones + 1) where u begins with so many ones.
        let ones = f64::from(self.word(token).leading_ones());
        if (ones + 1.0) * core::f64::consts::LN_2 < short {
            return None;
        }
        Some(score + self.of(token))
    }

    /// The token with the greatest score and noise, and what that is; of two alike the smaller number. `None` of none.
    #[must_use]
    pub fn draw(self, scores: impl IntoIterator<Item = (u32, f64)>) -> Option<(u32, f64)> {
        let mut best: Option<(u32, f64)> = None;
        for (token, score) in scores {
            let least = best.map_or(f64::NEG_INFINITY, |(_, most)| most);
            let Some(sum) = self.beyond(token, score, least) else { continue };
            if best.is_none_or(|(first, most)| sum > most || sum >= most && token < first) {
                best = Some((token, sum));
            }
        }
        best
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn noise_is_the_same_everywhere() {
        let noise = Noise::new(7, 0, 3);
        let told: Vec<String> = (0..3).map(|token| format!("{:.6}", noise.of(token))).collect();
        assert_eq!(told, ["-0.207288", "0.900961", "2.997165"]);
        assert_ne!(Noise::new(7, 1, 0), Noise::new(7, 0, 1));
        assert_ne!(Noise::new(7, 0, 0), Noise::new(8, 0, 0));
    }

    #[test]
    fn shares_are_as_the_scores_say() {
        let scores = [(5, 0.0), (9, 3.0f64.ln()), (11, -40.0)];
        let drawn = |at| Noise::new(1, 0, at).draw(scores).unwrap().0;
        let nines = (0..40_000).filter(|at| drawn(*at) == 9).count();
        assert!((29_600..30_400).contains(&nines), "{nines} of 40,000, three quarters are right");
        assert_eq!(Noise::new(1, 0, 0).draw([]), None);
    }

    proptest! {
        /// What is left out could not have won.
        #[test]
        fn the_short_way_is_the_long_one(seed: u64, at: u32, logits in prop::collection::vec(-25f64..0., 1..200)) {
            let noise = Noise::new(seed, 0, at);
            let scores = || (0u32..).zip(logits.iter().copied());
            let long = scores().map(|(token, score)| (token, score + noise.of(token)));
            let long = long.reduce(|a, b| if b.1 > a.1 { b } else { a });
            prop_assert_eq!(noise.draw(scores()), long);
        }

        /// A little difference of all scores seldom draws another token, and then one that is as near.
        #[test]
        fn what_differs_little_draws_the_same(seed: u64, logits in prop::collection::vec(-9f64..0., 2..60)) {
            let near = |at: u32| {
                let noise = Noise::new(seed, 0, at);
                let change = |token: u32| f64::from((token * 7 + at) % 3) * 1e-4;
                let other = (0u32..).zip(&logits).map(|(token, score)| (token, score + change(token)));
                let one = noise.draw((0u32..).zip(logits.iter().copied())).unwrap();
                let two = noise.draw(other).unwrap();
                (one.0 == two.0, one.1 - two.1)
            };
            let all: Vec<_> = (0..300).map(near).collect();
            prop_assert!(all.iter().filter(|(same, _)| !same).count() <= 3);
            prop_assert!(all.iter().all(|(_, margin)| margin.abs() <= 2e-4 + 1e-9));
        }
    }
}
