//! Many answers of one Container, and what they prove.

use core::fmt;

use serde::{Deserialize, Serialize};

use super::compare::Compared;
use super::limits::Limits;

/// Tokens of the smallest aggregate that is judged.
pub const TOKENS_MIN: u64 = 1_000;
/// Answers of the smallest aggregate that is judged: one answer proves nothing, however long.
pub const ANSWERS_MIN: u32 = 8;
/// Containers whose replays must say the same before anybody is accused: between two, either may be the wrong one.
pub const WITNESSES_MIN: usize = 2;

/// Answers added up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Aggregate {
    /// How many.
    pub answers: u32,
    /// What they came to.
    pub sums: Compared,
}

impl Aggregate {
    /// One more answer.
    pub fn add(&mut self, answer: Compared) {
        self.answers = self.answers.saturating_add(1);
        self.sums += answer;
    }

    /// Whether there is enough of it to be judged.
    #[must_use]
    pub const fn is_enough(&self) -> bool {
        self.sums.tokens >= TOKENS_MIN && self.answers >= ANSWERS_MIN
    }
}

/// What of an aggregate is beyond its limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Excess {
    /// The tokens are others than the seed draws, and further from those than honest ones. Either alone is no sign: where
    /// two tokens are alike, as in an answer that repeats itself, honest engines draw the other one as well.
    Tokens,
    /// The log-probabilities are another model's.
    Likelihoods,
}

/// An aggregate beyond a limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deviation {
    /// What is beyond it.
    pub excess: Excess,
    /// What it is for each token, in millionths.
    pub got: u32,
    /// What it may be.
    pub limit: u32,
    /// Of how many tokens.
    pub tokens: u64,
}

impl fmt::Display for Deviation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let share = |millionths: u32| format!("{}.{:02} %", millionths / 10_000, millionths / 100 % 100);
        let nats = |millionths: u32| format!("{}.{:04}", millionths / 1_000_000, millionths / 100 % 10_000);
        let tokens = self.tokens;
        match self.excess {
            Excess::Tokens => {
                let (got, limit) = (share(self.got), share(self.limit));
                write!(f, "of {tokens} tokens {got} are not those that the seed draws; {limit} would be")
            }
            Excess::Likelihoods => {
                let (got, limit) = (nats(self.got), nats(self.limit));
                write!(f, "log-probabilities at {tokens} tokens are {got} nats apart; {limit} would be usual")
            }
        }
    }
}

/// What of an aggregate is beyond its limits, if anything is. Of an aggregate that is too small nothing is.
#[must_use]
pub fn judge_one(aggregate: &Aggregate, limits: &Limits) -> Option<Deviation> {
    let each = aggregate.sums.per_token().filter(|_| aggregate.is_enough())?;
    let tokens = aggregate.sums.tokens;
    let far = each.margin_micronats > limits.margin_micronats;
    [
        (Excess::Tokens, each.differing_ppm, limits.differing_ppm, far),
        (Excess::Likelihoods, each.distance_micronats, limits.distance_micronats, true),
    ]
    .into_iter()
    .find(|(_, got, limit, counts)| *counts && got > limit)
    .map(|(excess, got, limit, _)| Deviation { excess, got, limit, tokens })
}

/// One Container's answers by one other's replays, as they come in: what was before the last aggregate is forgotten, so
/// that a good name from long ago covers nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tally {
    open: Aggregate,
    last: Option<Aggregate>,
}

impl Tally {
    /// One more answer. Whether an aggregate was completed by it.
    pub fn add(&mut self, answer: Compared) -> bool {
        self.open.add(answer);
        let complete = self.open.is_enough();
        if complete {
            self.last = Some(core::mem::take(&mut self.open));
        }
        complete
    }

    /// Tokens that still count.
    #[must_use]
    pub fn tokens(&self) -> u64 {
        self.last.map_or(0, |last| last.sums.tokens).saturating_add(self.open.sums.tokens)
    }

    /// The last aggregate that is complete.
    #[must_use]
    pub const fn last(&self) -> Option<Aggregate> {
        self.last
    }
}

/// What a Container's answers come to. Three-valued: too little proves nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Standing {
    /// Too little was looked at, or those who replayed disagree.
    Unknown,
    /// They are the model's own.
    Faithful,
    /// They are not.
    Deviates(Deviation),
}

/// What those who replayed say together, each by its own tally. A Container deviates where two at least find it so, and
/// more than find it faithful: one that replays wrongly accuses nobody, and one that is bribed clears nobody.
#[must_use]
pub fn judge<'a>(witnesses: impl IntoIterator<Item = &'a Tally>, limits: &Limits) -> Standing {
    let (mut faithful, mut deviating, mut first) = (0usize, 0usize, None);
    for last in witnesses.into_iter().filter_map(Tally::last) {
        match judge_one(&last, limits) {
            Some(deviation) => {
                deviating = deviating.saturating_add(1);
                first = first.or(Some(deviation));
            }
            None => faithful = faithful.saturating_add(1),
        }
    }
    match first {
        Some(deviation) if deviating >= WITNESSES_MIN && deviating > faithful => Standing::Deviates(deviation),
        None if faithful > 0 => Standing::Faithful,
        Some(_) if faithful > deviating => Standing::Faithful,
        _ => Standing::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LIMITS: Limits = Limits { differing_ppm: 10_000, margin_micronats: 1_000, distance_micronats: 5_000 };

    fn tally(differing: u64) -> Tally {
        let mut tally = Tally::default();
        for _ in 0..10 {
            tally.add(Compared { tokens: 100, differing, margin: differing * 100, distance: 0 });
        }
        tally
    }

    #[test]
    fn one_answer_proves_nothing_however_bad() {
        let bad = Compared { tokens: 16_000, differing: 16_000, margin: 16_000_000, distance: 16_000_000 };
        let mut tally = Tally::default();
        for _ in 1..ANSWERS_MIN {
            assert!(!tally.add(bad));
        }
        assert_eq!(judge([&tally, &tally], &LIMITS), Standing::Unknown);
        assert!(tally.add(bad));
        assert!(matches!(judge([&tally, &tally], &LIMITS), Standing::Deviates(_)));
        let few = Compared { tokens: 10, ..bad };
        let mut tally = Tally::default();
        assert!((0..99).all(|_| !tally.add(few)) && tally.add(few), "a thousand tokens are needed");
    }

    #[test]
    fn one_witness_accuses_nobody_and_clears_nobody() {
        let (good, bad, none) = (tally(0), tally(9), Tally::default());
        let of = |tallies: &[Tally]| judge(tallies, &LIMITS);
        assert_eq!(of(&[]), Standing::Unknown);
        assert_eq!(of(&[none]), Standing::Unknown);
        assert_eq!(of(&[bad]), Standing::Unknown);
        assert_eq!(of(&[good]), Standing::Faithful);
        assert_eq!(of(&[good, bad]), Standing::Unknown);
        assert_eq!(of(&[good, good, bad]), Standing::Faithful);
        assert!(matches!(of(&[bad, none, bad]), Standing::Deviates(_)));
        assert!(matches!(of(&[bad, good, bad]), Standing::Deviates(_)));
        assert_eq!(of(&[bad, good, bad, good]), Standing::Unknown);
    }

    #[test]
    fn what_is_new_counts_and_each_excess_has_its_sentence() {
        let mut changed = tally(0);
        for _ in 0..10 {
            changed.add(Compared { tokens: 100, differing: 3, margin: 300, distance: 0 });
        }
        let Standing::Deviates(deviation) = judge([&changed, &changed], &LIMITS) else { panic!("{changed:?}") };
        assert_eq!(deviation.to_string(), "of 1000 tokens 3.00 % are not those that the seed draws; 1.00 % would be");
        let said = |sums: Compared| {
            let aggregate = Aggregate { answers: 10, sums: Compared { tokens: 1_000, ..sums } };
            judge_one(&aggregate, &LIMITS).map(|deviation| deviation.to_string())
        };
        assert!(
            said(Compared { distance: 1_234_500, ..Compared::default() }).unwrap().contains("are 1.2345 nats apart")
        );
        // Ties that fall otherwise, and a single token that is far off.
        assert_eq!(said(Compared { differing: 90, margin: 900, ..Compared::default() }), None);
        assert_eq!(said(Compared { differing: 1, margin: 2_345, ..Compared::default() }), None);
        assert!(said(Compared { differing: 90, margin: 2_345, ..Compared::default() }).unwrap().contains("9.00 %"));
    }

    proptest! {
        /// Whoever differs more is never judged better.
        #[test]
        fn more_is_never_better(
            sums in (0u64..30, 0u64..3_000, 0u64..9_000), more in (0u64..30, 0u64..3_000, 0u64..9_000),
        ) {
            let of = |(differing, margin, distance)| {
                Aggregate { answers: 9, sums: Compared { tokens: 1_000, differing, margin, distance } }
            };
            let worse = (sums.0 + more.0, sums.1 + more.1, sums.2 + more.2);
            let (one, two) = (judge_one(&of(sums), &LIMITS), judge_one(&of(worse), &LIMITS));
            prop_assert!(one.is_none() || two.is_some());
        }

        /// Whatever a Container did before, a thousand tokens each of eight answers later it is judged by what it does.
        #[test]
        fn two_thousand_tokens_are_enough(before in prop::collection::vec(1u64..126, 0..40)) {
            let mut tally = Tally::default();
            for tokens in before {
                tally.add(Compared { tokens, ..Compared::default() });
            }
            for _ in 0..16 {
                tally.add(Compared { tokens: 125, differing: 125, margin: 12_500, distance: 0 });
            }
            prop_assert!(matches!(judge([&tally, &tally], &LIMITS), Standing::Deviates(_)));
        }
    }
}
