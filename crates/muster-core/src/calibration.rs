//! The calibration table: how fast a model is known to be, and how much of a proof's work an OctaneBench point stands for.
//!
//! The table is a signed data file (`calibration/calibration.toml`; `muster-wire` reads and verifies it). Each entry names
//! its source and how much that is worth; the uncertainty of everything computed from it follows. A model that the table
//! does not know counts as its fallback, which is slow and uncertain: never better than asked for.

use serde::{Deserialize, Serialize};

use crate::hardware::{GpuModel, OB_MAX};
use crate::proof::Rates;
use crate::units::Ob;

/// The most cards or architectures of a table.
pub const ENTRIES_MAX: usize = 4_096;

/// What is wrong with a table.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TableError {
    /// Too many entries.
    #[error("the table has more than {ENTRIES_MAX} entries")]
    TooMany,
    /// A card of an architecture that the table does not describe.
    #[error("the card {card} is of architecture {architecture}, which the table does not describe")]
    Architecture {
        /// The card.
        card: GpuModel,
        /// Its architecture.
        architecture: String,
    },
    /// One card twice in one version of OctaneBench.
    #[error("the card {card} stands twice in OctaneBench {version}")]
    Twice {
        /// The card.
        card: GpuModel,
        /// The version.
        version: String,
    },
    /// A figure that cannot be.
    #[error("{what} of {entry} is {got}, which is outside of 1 to {max}")]
    Range {
        /// Whose.
        entry: String,
        /// Which figure.
        what: &'static str,
        /// What it is.
        got: u64,
        /// The most it can be.
        max: u64,
    },
}

/// How much a source is worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Grade {
    /// Measured with the proof's own kernels on the card.
    Measured,
    /// Read in a public source.
    Published,
    /// From memory.
    Recalled,
    /// From memory, vaguely.
    Guess,
    /// Computed from a maker's data sheet, never seen on a card.
    Extrapolated,
    /// Nothing is known.
    Unknown,
}

impl Grade {
    /// The uncertainty that it stands for, in per cent.
    #[must_use]
    pub const fn percent(self) -> u8 {
        match self {
            Self::Measured | Self::Published => 3,
            Self::Recalled => 10,
            Self::Guess => 20,
            Self::Extrapolated => 50,
            Self::Unknown => 80,
        }
    }
}

/// A card's speed in one version of OctaneBench.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Card {
    /// The model.
    pub model: GpuModel,
    /// Other names that drivers give to the same card.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub also: Vec<GpuModel>,
    /// Name of its [`Architecture`].
    pub architecture: String,
    /// Which OctaneBench: `2020` is 2020.1 with RTX on, `4` is OctaneBench 4, RTX off. Scores of different versions are
    /// never compared.
    pub version: String,
    /// Its points, whole ones.
    pub ob: u32,
    /// How much the source is worth.
    pub grade: Grade,
    /// Where the figure is from.
    pub source: String,
}

/// How much of a proof's work a second of one OctaneBench point stands for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Architecture {
    /// Its name.
    pub name: String,
    /// Steps of rays.
    pub steps_per_ob: u64,
    /// Products modulo 2³¹ − 1.
    pub products_per_ob: u64,
    /// Dependent reads of the card's memory.
    pub reads_per_ob: u64,
    /// How much the source is worth.
    pub grade: Grade,
    /// Where the figures are from.
    pub source: String,
}

/// What an unknown model counts as.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fallback {
    /// Its points, whole ones.
    pub ob: u32,
    /// Steps of rays.
    pub steps_per_ob: u64,
    /// Products modulo 2³¹ − 1.
    pub products_per_ob: u64,
    /// Dependent reads.
    pub reads_per_ob: u64,
    /// Why these figures.
    pub source: String,
}

/// The table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Table {
    /// Counts up with every issue; of two good tables the higher one holds.
    pub serial: u32,
    /// The day of its issue, for people.
    pub issued: String,
    /// The version of OctaneBench in whose points the network counts.
    pub version: String,
    /// Unknown models.
    pub fallback: Fallback,
    /// Architectures.
    pub architecture: Vec<Architecture>,
    /// Cards.
    pub card: Vec<Card>,
}

/// What the table says about a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found<'a> {
    /// What a challenge carries.
    pub rates: Rates,
    /// The entry; `None` for a model that the table does not know.
    pub card: Option<&'a Card>,
}

impl Table {
    /// Refuses a table that contradicts itself; whoever reads one calls it.
    ///
    /// # Errors
    /// [`TableError`] names the entry.
    pub fn check(&self) -> Result<(), TableError> {
        if self.card.len() > ENTRIES_MAX || self.architecture.len() > ENTRIES_MAX {
            return Err(TableError::TooMany);
        }
        let range = |entry: &str, what, got: u64, max: u64| match (1..=max).contains(&got) {
            true => Ok(()),
            false => Err(TableError::Range { entry: entry.to_owned(), what, got, max }),
        };
        let rates = |entry: &str, steps, products, reads| {
            range(entry, "steps_per_ob", steps, 1 << 36)?;
            range(entry, "products_per_ob", products, 1 << 36)?;
            range(entry, "reads_per_ob", reads, 1 << 36)
        };
        let points_max = u64::from(OB_MAX.0 / 100);
        for a in &self.architecture {
            rates(&a.name, a.steps_per_ob, a.products_per_ob, a.reads_per_ob)?;
        }
        let f = &self.fallback;
        rates("the fallback", f.steps_per_ob, f.products_per_ob, f.reads_per_ob)?;
        range("the fallback", "ob", f.ob.into(), points_max)?;
        let mut names = std::collections::BTreeSet::new();
        for card in &self.card {
            range(card.model.as_str(), "ob", card.ob.into(), points_max)?;
            if !self.architecture.iter().any(|a| a.name == card.architecture) {
                let (card, architecture) = (card.model.clone(), card.architecture.clone());
                return Err(TableError::Architecture { card, architecture });
            }
            for name in card.also.iter().chain([&card.model]) {
                if !names.insert((name, &card.version)) {
                    return Err(TableError::Twice { card: name.clone(), version: card.version.clone() });
                }
            }
        }
        Ok(())
    }

    /// What the table says about a model, by its exact name: `RTX 4090 Laptop` and `RTX 4090 D` are no RTX 4090. A card
    /// that is only known in another version of OctaneBench is judged by that as by a guess.
    #[must_use]
    pub fn find(&self, model: &GpuModel) -> Found<'_> {
        let named = |card: &&Card| card.model == *model || card.also.contains(model);
        let own = self.card.iter().filter(named).find(|card| card.version == self.version);
        let card = own.or_else(|| self.card.iter().find(named));
        let architecture = card.and_then(|card| self.architecture.iter().find(|a| a.name == card.architecture));
        let Some((card, a)) = card.zip(architecture) else {
            let f = &self.fallback;
            let rates = Rates {
                table_ob: Ob::points(f.ob),
                uncertainty_percent: Grade::Unknown.percent(),
                steps_per_ob: f.steps_per_ob,
                products_per_ob: f.products_per_ob,
                reads_per_ob: f.reads_per_ob,
            };
            return Found { rates, card: None };
        };
        let graded = if card.version == self.version { card.grade } else { card.grade.max(Grade::Guess) };
        let rates = Rates {
            table_ob: Ob::points(card.ob),
            uncertainty_percent: graded.percent().max(a.grade.percent()),
            steps_per_ob: a.steps_per_ob,
            products_per_ob: a.products_per_ob,
            reads_per_ob: a.reads_per_ob,
        };
        Found { rates, card: Some(card) }
    }
}

/// The speed that pays: the median of the last seven days' measurements, the lower of the two middle ones; `None` of none.
/// Each is `(when in milliseconds, speed)`.
#[must_use]
pub fn seven_day_median(measured: &[(u64, Ob)], now_ms: u64) -> Option<Ob> {
    const WEEK_MS: u64 = 7 * 24 * 3_600 * 1_000;
    let from = now_ms.saturating_sub(WEEK_MS);
    let mut speeds: Vec<Ob> =
        measured.iter().filter(|(at, _)| (from..=now_ms).contains(at)).map(|(_, ob)| *ob).collect();
    speeds.sort_unstable();
    speeds.get(speeds.len().checked_sub(1)? / 2).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn model(name: &str) -> GpuModel {
        GpuModel::new(name).unwrap()
    }

    fn table() -> Table {
        let card = |name: &str, version: &str, ob, grade| Card {
            model: model(name),
            also: Vec::new(),
            architecture: "ada".into(),
            version: version.into(),
            ob,
            grade,
            source: String::new(),
        };
        let ada = Architecture {
            name: "ada".into(),
            steps_per_ob: 80,
            products_per_ob: 300,
            reads_per_ob: 2,
            grade: Grade::Measured,
            source: String::new(),
        };
        let fallback =
            Fallback { ob: 100, steps_per_ob: 200, products_per_ob: 600, reads_per_ob: 6, source: String::new() };
        let mut titan = card("Titan V", "4", 401, Grade::Published);
        titan.also.push(model("Titan V CEO"));
        Table {
            serial: 1,
            issued: "2026-11-25".into(),
            version: "2020".into(),
            fallback,
            architecture: vec![ada],
            card: vec![
                card("RTX 4090", "2020", 1_270, Grade::Recalled),
                card("RTX 4090 Laptop", "2020", 715, Grade::Published),
                card("RTX 4090", "4", 900, Grade::Published),
                titan,
            ],
        }
    }

    #[test]
    fn drivers_names_find_their_card_and_none_better() {
        let table = table();
        assert_eq!(table.check(), Ok(()));
        let ob = |name: &str| {
            let found = table.find(&model(name));
            (found.rates.table_ob, found.rates.uncertainty_percent)
        };
        assert_eq!(ob("NVIDIA GeForce RTX 4090"), (Ob::points(1_270), 10));
        assert_eq!(ob("NVIDIA GeForce RTX 4090 Laptop GPU"), (Ob::points(715), 3));
        assert_eq!(ob("rtx4090"), (Ob::points(1_270), 10), "the network's version, not the other");
        for unknown in ["NVIDIA GeForce RTX 4090 D", "RTX 4091", "RTX 40", "llvmpipe (LLVM 15.0.6, 256 bits)"] {
            assert_eq!(ob(unknown), (Ob::points(100), 80), "{unknown}");
        }
        assert_eq!(ob("NVIDIA TITAN V CEO"), (Ob::points(401), 20), "known in another version only: a guess");
    }

    #[test]
    fn tables_that_contradict_themselves_are_refused() {
        let refused = |change: fn(&mut Table)| {
            let mut table = table();
            change(&mut table);
            table.check().unwrap_err()
        };
        assert!(matches!(refused(|t| t.card[0].architecture = "x".into()), TableError::Architecture { .. }));
        assert!(matches!(refused(|t| t.card[0].ob = 0), TableError::Range { .. }));
        assert!(matches!(refused(|t| t.card[2].version = "2020".into()), TableError::Twice { .. }));
        assert!(matches!(refused(|t| t.fallback.reads_per_ob = 0), TableError::Range { .. }));
        assert!(matches!(refused(|t| t.card = vec![t.card[0].clone(); 5_000]), TableError::TooMany));
    }

    #[test]
    fn the_week_s_median_pays() {
        let day = 24 * 3_600 * 1_000;
        let measured: Vec<_> =
            [900, 100, 110, 120, 130].iter().zip(0..).map(|(ob, at)| (at * 2 * day, Ob(*ob))).collect();
        assert_eq!(
            seven_day_median(&measured, 8 * day),
            Some(Ob(110)),
            "the first is too old; of four the lower middle"
        );
        assert_eq!(seven_day_median(&measured[..1], 0), Some(Ob(900)));
        assert_eq!(seven_day_median(&measured, 100 * day), None);
        assert_eq!(seven_day_median(&measured[1..], 0), None, "none from the future");
    }
}
