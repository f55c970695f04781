//! How far honest Containers' answers lie apart: a table with a line for each model, quantisation and engine, made from
//! honest answers.
//!
//! The table is a data file (`calibration/models.toml`; `muster-wire` reads it). Of what it does not know nobody is judged.

use serde::{Deserialize, Serialize};

use super::compare::{Compared, DISTANCE_MAX, MARGIN_MAX};
use super::tally::TOKENS_MIN;

/// The most lines of a table.
pub const ENTRIES_MAX: usize = 4_096;
/// Bytes of a name in it.
pub const NAME_LEN_MAX: usize = 128;
/// Honest answers from which limits are made, at least.
const HONEST_MIN: usize = 30;
/// How many standard deviations of an aggregate lie between honest answers and the limit.
const DEVIATIONS: u64 = 6;
/// What is allowed at least, however alike the honest answers were: another processor may add in another order.
const FLOOR: Limits = Limits { differing_ppm: 2_000, margin_micronats: 400, distance_micronats: 2_000 };

/// How much wider than its model's widest line an engine is judged that has none.
const UNKNOWN_TIMES: u32 = 3;
/// And at most so: what has nothing to do with the model is further apart.
const UNKNOWN_MAX: Limits = Limits {
    differing_ppm: 500_000,
    margin_micronats: MARGIN_MAX as u32 * 500,
    distance_micronats: DISTANCE_MAX as u32 * 500,
};

/// The most that an aggregate may differ in, for each token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Limits {
    /// Tokens that another one was drawn for, in millionths.
    pub differing_ppm: u32,
    /// Their clipped margins, in millionths of a nat.
    pub margin_micronats: u32,
    /// How far log-probabilities lie apart, in millionths of a nat.
    pub distance_micronats: u32,
}

impl Compared {
    /// What it comes to for each token, in the units of [`Limits`]; `None` of no token.
    #[must_use]
    pub fn per_token(&self) -> Option<Limits> {
        let each = |sum: u64, scale: u64| {
            let exact = u128::from(sum).saturating_mul(scale.into()).checked_div(self.tokens.into())?;
            Some(u32::try_from(exact).unwrap_or(u32::MAX))
        };
        Some(Limits {
            differing_ppm: each(self.differing, 1_000_000)?,
            margin_micronats: each(self.margin, 1_000)?,
            distance_micronats: each(self.distance, 1_000)?,
        })
    }
}

/// Limits from honest answers, each held against an honest replay: twice their mean, six standard deviations of an
/// aggregate of the smallest size, and a floor. Answers differ as wholes (one may be full of close decisions), so the
/// deviation is that of sums over answers. `None` of fewer than 30 answers, or fewer tokens than an aggregate has.
#[must_use]
pub fn calibrate(honest: &[Compared]) -> Option<Limits> {
    let mut all = Compared::default();
    honest.iter().for_each(|answer| all += *answer);
    if honest.len() < HONEST_MIN || all.tokens < TOKENS_MIN {
        return None;
    }
    let limit = |of: fn(&Compared) -> u64, scale: u64, floor: u32| {
        let scaled = |answer: &Compared| u128::from(of(answer)).saturating_mul(scale.into());
        let mean = scaled(&all).checked_div(all.tokens.into())?;
        let squares = honest.iter().fold(0u128, |sum, answer| {
            let apart = scaled(answer).abs_diff(mean.saturating_mul(answer.tokens.into()));
            sum.saturating_add(apart.saturating_mul(apart))
        });
        let variance = squares.checked_div(u128::from(all.tokens).saturating_mul(TOKENS_MIN.into()))?;
        let deviation = variance.isqrt().saturating_mul(DEVIATIONS.into());
        let limit = mean.saturating_mul(2).saturating_add(deviation).saturating_add(floor.into());
        Some(u32::try_from(limit).unwrap_or(u32::MAX))
    };
    Some(Limits {
        differing_ppm: limit(|answer| answer.differing, 1_000_000, FLOOR.differing_ppm)?,
        margin_micronats: limit(|answer| answer.margin, 1_000, FLOOR.margin_micronats)?,
        distance_micronats: limit(|answer| answer.distance, 1_000, FLOOR.distance_micronats)?,
    })
}

/// A line of the table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// The model's name in the catalogue.
    pub model: String,
    /// Its quantisation, by the name that its file goes by: `F16`, `Q8_0`, `Q4_K_M`.
    pub quantisation: String,
    /// What runs it, up to a comma of what the engine says of itself: `llama.cpp, CPU`.
    pub engine: String,
    /// The limits.
    pub limits: Limits,
    /// Honest answers that they were made from.
    pub honest_answers: u32,
    /// Tokens of those.
    pub honest_tokens: u64,
    /// How they were made.
    pub source: String,
}

/// The table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LimitsTable {
    /// Counts up with every issue.
    pub serial: u32,
    /// The day of its issue, for people.
    pub issued: String,
    /// Lines.
    pub model: Vec<Entry>,
}

/// What is wrong with a table.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LimitsError {
    /// Too many lines.
    #[error("the table has more than {ENTRIES_MAX} lines")]
    TooMany,
    /// A name that is none.
    #[error("{0:?} is no name for this table; use from 1 to {NAME_LEN_MAX} bytes")]
    Name(String),
    /// One thing twice.
    #[error("{model} in {quantisation} on {engine} stands twice")]
    Twice {
        /// The model.
        model: String,
        /// Its quantisation.
        quantisation: String,
        /// What runs it.
        engine: String,
    },
    /// A limit that allows everything, or nothing.
    #[error("{what} of {model} is {got}; it must be from 1 to {max}")]
    Range {
        /// Whose.
        model: String,
        /// Which.
        what: &'static str,
        /// What it is.
        got: u32,
        /// The most it can be.
        max: u32,
    },
}

impl LimitsTable {
    /// Refuses a table that contradicts itself; whoever reads one calls it.
    ///
    /// # Errors
    /// [`LimitsError`] names the line.
    pub fn check(&self) -> Result<(), LimitsError> {
        if self.model.len() > ENTRIES_MAX {
            return Err(LimitsError::TooMany);
        }
        let mut names = std::collections::BTreeSet::new();
        for entry in &self.model {
            let Entry { model, quantisation, engine, limits, .. } = entry;
            for name in [model, quantisation, engine] {
                if name.is_empty() || name.len() > NAME_LEN_MAX {
                    return Err(LimitsError::Name(name.chars().take(NAME_LEN_MAX).collect()));
                }
            }
            if !names.insert((model, quantisation, engine)) {
                let (model, quantisation, engine) = (model.clone(), quantisation.clone(), engine.clone());
                return Err(LimitsError::Twice { model, quantisation, engine });
            }
            let micro = |max: u16| u32::from(max).saturating_mul(1_000);
            for (what, got, max) in [
                ("differing_ppm", limits.differing_ppm, 1_000_000),
                ("margin_micronats", limits.margin_micronats, micro(MARGIN_MAX)),
                ("distance_micronats", limits.distance_micronats, micro(DISTANCE_MAX)),
            ] {
                if !(1..=max).contains(&got) {
                    return Err(LimitsError::Range { model: model.clone(), what, got, max });
                }
            }
        }
        Ok(())
    }

    /// The line for a model on an engine, as that describes itself; of several the one that says most of the engine.
    #[must_use]
    pub fn find(&self, model: &str, quantisation: &str, engine: &str) -> Option<&Entry> {
        let runs = |entry: &Entry| {
            engine.strip_prefix(entry.engine.as_str()).is_some_and(|rest| rest.is_empty() || rest.starts_with(','))
        };
        let named = |entry: &&Entry| entry.model == model && entry.quantisation == quantisation && runs(entry);
        self.model.iter().filter(named).max_by_key(|entry| entry.engine.len())
    }

    /// By what a model's answers are judged on an engine: by its line, or by [`UNKNOWN_TIMES`] the widest of that model's lines
    /// where the engine has none, so that nobody escapes by what he calls his engine.
    #[must_use]
    pub fn judged_by(&self, model: &str, quantisation: &str, engine: &str) -> Option<Limits> {
        if let Some(entry) = self.find(model, quantisation, engine) {
            return Some(entry.limits);
        }
        let of = |entry: &&Entry| entry.model == model && entry.quantisation == quantisation;
        let lines = || self.model.iter().filter(of).map(|entry| entry.limits);
        let wide = |figure: fn(Limits) -> u32| {
            let widest = lines().map(figure).max()?;
            Some(widest.saturating_mul(UNKNOWN_TIMES).min(figure(UNKNOWN_MAX)).max(widest))
        };
        Some(Limits {
            differing_ppm: wide(|limits| limits.differing_ppm)?,
            margin_micronats: wide(|limits| limits.margin_micronats)?,
            distance_micronats: wide(|limits| limits.distance_micronats)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::tally::{Aggregate, judge_one};
    use super::*;
    use proptest::prelude::*;

    fn answer(tokens: u64, differing: u64, margin: u64, distance: u64) -> Compared {
        Compared { tokens, differing, margin, distance }
    }

    fn entry(model: &str, engine: &str) -> Entry {
        Entry {
            model: model.to_owned(),
            quantisation: "F16".to_owned(),
            engine: engine.to_owned(),
            limits: FLOOR,
            honest_answers: 30,
            honest_tokens: 3_000,
            source: String::new(),
        }
    }

    #[test]
    fn limits_lie_above_what_honest_answers_come_to() {
        let honest: Vec<Compared> = (0..100).map(|at| answer(100, at % 2, at % 3, 40)).collect();
        let limits = calibrate(&honest).unwrap();
        // Half a token in a hundred: twice that, and six times a deviation of 5,000 / sqrt(10), and the floor.
        assert_eq!(limits.differing_ppm, 10_000 + 6 * 1_581 + 2_000);
        assert_eq!(limits.distance_micronats, 800 + 2_000, "no deviation at all");
        assert_eq!(calibrate(&honest[..29]), None);
        assert_eq!(calibrate(&[answer(10, 0, 0, 0); 90]), None, "too few tokens");
        assert_eq!(calibrate(&[answer(100, 0, 0, 0); 30]), Some(FLOOR));
        assert_eq!(Compared::default().per_token(), None);
    }

    #[test]
    fn a_line_is_found_by_all_its_names() {
        let table = LimitsTable {
            serial: 1,
            issued: String::new(),
            model: vec![entry("a", "llama.cpp"), entry("a", "llama.cpp, CPU"), entry("b", "vllm")],
        };
        assert_eq!(table.check(), Ok(()));
        let engine =
            |model, quantisation, engine| table.find(model, quantisation, engine).map(|entry| entry.engine.as_str());
        assert_eq!(engine("a", "F16", "llama.cpp, CPU, 2 threads"), Some("llama.cpp, CPU"));
        assert_eq!(engine("a", "F16", "llama.cpp, CUDA"), Some("llama.cpp"));
        assert_eq!(engine("a", "F16", "llama.cpp2"), None);
        assert_eq!((engine("a", "Q4_0", "llama.cpp"), engine("c", "F16", "vllm")), (None, None));
        let refused = |change: fn(&mut LimitsTable)| {
            let mut table = table.clone();
            change(&mut table);
            table.check().unwrap_err()
        };
        assert!(matches!(refused(|t| t.model[1].engine = "llama.cpp".into()), LimitsError::Twice { .. }));
        assert!(matches!(refused(|t| t.model[0].model.clear()), LimitsError::Name(_)));
        assert!(matches!(refused(|t| t.model[0].limits.differing_ppm = 1_000_001), LimitsError::Range { .. }));
        assert!(matches!(refused(|t| t.model[0].limits.margin_micronats = 0), LimitsError::Range { .. }));
        assert!(matches!(refused(|t| t.model = vec![entry("a", "b"); ENTRIES_MAX + 1]), LimitsError::TooMany));
    }

    #[test]
    fn nobody_escapes_by_what_he_calls_his_engine() {
        let mut wide = entry("a", "vllm");
        wide.limits = Limits { differing_ppm: 300_000, margin_micronats: 700, distance_micronats: 3_000 };
        let table = LimitsTable { serial: 1, issued: String::new(), model: vec![entry("a", "llama.cpp"), wide] };
        let by = |model, quantisation, engine| table.judged_by(model, quantisation, engine);
        assert_eq!(by("a", "F16", "llama.cpp, CPU"), Some(FLOOR));
        let unknown = Limits { differing_ppm: 500_000, margin_micronats: 2_100, distance_micronats: 9_000 };
        assert_eq!(by("a", "F16", "something of my own"), Some(unknown));
        assert_eq!((by("a", "Q4_0", "llama.cpp"), by("b", "F16", "llama.cpp")), (None, None));
        // What is as wide as can be stays so.
        let most = Limits { differing_ppm: 1_000_000, margin_micronats: 3_000_000, distance_micronats: 1_000 };
        let table = LimitsTable { model: vec![Entry { limits: most, ..entry("a", "x") }], ..table };
        let unknown = Limits { distance_micronats: 3_000, ..most };
        assert_eq!(table.judged_by("a", "F16", "y"), Some(unknown));
    }

    proptest! {
        /// Whoever they were made from is within them, as a whole and at twice its mean.
        #[test]
        fn the_honest_are_within_their_own_limits(
            answers in prop::collection::vec((30u64..200, 0u64..20, 0u64..9_000, 0u64..30_000), 40..80),
        ) {
            let honest: Vec<_> = answers.iter().map(|(n, d, m, l)| answer(*n, *d, *m, *l)).collect();
            let limits = calibrate(&honest).unwrap();
            let mut all = Aggregate::default();
            honest.iter().for_each(|one| all.add(*one));
            prop_assert_eq!(judge_one(&all, &limits), None);
            all.sums.differing *= 2;
            all.sums.margin *= 2;
            all.sums.distance *= 2;
            prop_assert_eq!(judge_one(&all, &limits), None);
        }
    }
}
