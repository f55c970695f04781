//! Populations of bad Checkers and cheating Containers, against the real draw, the real verdicts and the real rewards.
//!
//! Nothing here decides anything: a population only says what each Checker reports and what running something again
//! comes to. Beside each measured figure stands what the formula says.

mod formulas;
mod population;

use muster_core::epoch::EpochParams;
use muster_core::reward::{LeafKind, RewardLeaf, Verdict, owner_key};
use serde::Serialize;

pub use formulas::{epochs_to_catch, wrong_verdict};
pub use population::{Population, Strategy};

/// How large the populations are and how long they live.
#[derive(Clone, Copy, Debug)]
pub struct AuditConfig {
    /// Everything follows from it.
    pub seed: u64,
    /// Checkers, each of an owner of its own with the same licences and stake.
    pub checkers: u32,
    /// Containers.
    pub containers: u32,
    /// Days that honest Containers are audited for.
    pub days: u64,
    /// Audits by which the share of wrong verdicts is measured, at least.
    pub audits: u64,
}

impl Default for AuditConfig {
    fn default() -> Self {
        Self { seed: 1, checkers: 200, containers: 500, days: 20, audits: 20_000 }
    }
}

/// How often a committee of so many is wrong about an honest Container.
#[derive(Clone, Debug, Serialize)]
pub struct WrongVerdicts {
    /// Bad Checkers of a hundred; all of them slander.
    pub bad_percent: u32,
    /// Seats of the committee.
    pub seats: u8,
    /// Audits.
    pub audits: u64,
    /// Those that came to a wrong verdict.
    pub wrong: u64,
    /// Those that came to none.
    pub undecided: u64,
    /// The share that was wrong.
    pub measured: f64,
    /// What the hypergeometric distribution says.
    pub formula: f64,
}

/// How long it takes to catch a cheat.
#[derive(Clone, Debug, Serialize)]
pub struct Catching {
    /// How much of its time it cheats, of a hundred.
    pub cheating_percent: u32,
    /// Cheats that were let loose.
    pub cheats: u64,
    /// Cheats that were caught and slashed in the time that was simulated.
    pub caught: u64,
    /// Hours after which 99.9 % are caught, from the rate that was measured.
    pub hours_measured: f64,
    /// The same by the formula.
    pub hours_formula: f64,
}

/// Whether honest Containers are safe.
#[derive(Clone, Debug, Serialize)]
pub struct HonestSafety {
    /// Bad Checkers of a hundred; all of them slander.
    pub bad_percent: u32,
    /// Honest Containers times days.
    pub container_days: u64,
    /// Accusations by a committee, which a larger one then looked into.
    pub accused: u64,
    /// Honest Containers that lost stake.
    pub slashed: u64,
}

/// What a strategy earns.
#[derive(Clone, Debug, Serialize)]
pub struct StrategyReward {
    /// The strategy, of Checkers or of Containers.
    pub strategy: &'static str,
    /// How many follow it.
    pub count: u64,
    /// Whole tokens that each of them earned, on average; what was slashed is taken off.
    pub tokens_each: f64,
    /// The same as a share of what an honest one earned.
    pub of_honest: f64,
    /// Those that were barred (Checkers) or jailed (Containers).
    pub out: u64,
}

/// All figures.
#[derive(Clone, Debug, Serialize)]
pub struct AuditReport {
    /// What they depend on.
    pub seed: u64,
    /// Wrong verdicts.
    pub wrong_verdicts: Vec<WrongVerdicts>,
    /// Times to catch.
    pub catching: Vec<Catching>,
    /// Honest Containers.
    pub honest: Vec<HonestSafety>,
    /// Checkers' strategies.
    pub checkers: Vec<StrategyReward>,
    /// Containers' strategies.
    pub containers: Vec<StrategyReward>,
}

impl AuditReport {
    /// Whether everything is as it should be: no honest Container slashed, and every dishonest strategy earns less than
    /// honesty does. Each sentence names something that is not.
    #[must_use]
    pub fn complaints(&self) -> Vec<String> {
        let slashed = self
            .honest
            .iter()
            .filter(|h| h.bad_percent <= 20 && h.slashed > 0)
            .map(|h| format!("{} honest Containers were slashed with {} % bad Checkers", h.slashed, h.bad_percent));
        let rich = self.checkers.iter().chain(&self.containers).filter(|s| s.strategy != HONEST && s.of_honest >= 1.0);
        let rich = rich.map(|s| format!("the strategy {} earns {:.3} of what honesty does", s.strategy, s.of_honest));
        slashed.chain(rich).collect()
    }
}

const HONEST: &str = "honest";

/// Runs all populations.
#[must_use]
pub fn run(config: &AuditConfig) -> AuditReport {
    let mut wrong_verdicts = Vec::new();
    for seats in [7, 21] {
        for bad_percent in [10, 20, 30] {
            wrong_verdicts.push(measure_verdicts(config, bad_percent, seats));
        }
    }
    let (checkers, containers) = measure_rewards(config);
    AuditReport {
        seed: config.seed,
        wrong_verdicts,
        catching: [1, 5, 10, 50].map(|percent| measure_catching(config, percent)).to_vec(),
        honest: [10, 20].map(|percent| measure_honest(config, percent)).to_vec(),
        checkers,
        containers,
    }
}

/// Slanderers sit in committees over honest Containers that are all tested in every epoch.
#[must_use]
pub fn measure_verdicts(config: &AuditConfig, bad_percent: u32, seats: u8) -> WrongVerdicts {
    let params = EpochParams { committee_seats: seats, dispute_seats: seats, ..EpochParams::production() };
    let mut population = Population::new(config, params);
    let bad = config.checkers * bad_percent / 100;
    population.let_checkers(0..bad, Strategy::Slandering);
    let mut found =
        WrongVerdicts { bad_percent, seats, audits: 0, wrong: 0, undecided: 0, measured: 0.0, formula: 0.0 };
    while found.audits < config.audits {
        population.forget();
        let settled = population.epoch();
        for test in settled.containers.iter().filter_map(|c| c.test) {
            found.audits += 1;
            found.wrong += u64::from(matches!(test, Verdict::Absent | Verdict::Fraud { .. }));
            found.undecided += u64::from(test == Verdict::Unknown);
        }
    }
    found.measured = ratio(found.wrong, found.audits);
    found.formula = wrong_verdict(config.checkers, bad, u32::from(seats));
    found
}

/// Cheats that cheat some of the time, among honest Checkers.
#[must_use]
pub fn measure_catching(config: &AuditConfig, cheating_percent: u32) -> Catching {
    let params = EpochParams::production();
    let (audit, day) = (f64::from(params.audit_bps) / 10_000.0, params.epochs_in(params.full_test_within_ms));
    let hours = |epochs: f64| epochs * params.epoch_ms as f64 / 3_600_000.0;
    let mut population = Population::new(config, params.clone());
    population.epoch();
    population.let_containers(0..config.containers, cheating_percent);
    // Until about half are caught: the rate is then known well enough.
    let formula = epochs_to_catch(audit, day, f64::from(cheating_percent) / 100.0);
    #[allow(clippy::cast_sign_loss, reason = "a number of epochs")]
    let most = (formula / 8.0).ceil() as u64 + 8;
    let (mut at_risk, mut caught) = (0u64, 0u64);
    for _ in 0..most {
        at_risk += u64::from(config.containers) - population.jailed();
        let before = population.jailed();
        population.epoch();
        caught += population.jailed() - before;
    }
    let rate = ratio(caught, at_risk);
    Catching {
        cheating_percent,
        cheats: u64::from(config.containers),
        caught,
        hours_measured: hours(0.001f64.ln() / (1.0 - rate).ln()),
        hours_formula: hours(formula),
    }
}

/// Honest Containers under slander.
#[must_use]
pub fn measure_honest(config: &AuditConfig, bad_percent: u32) -> HonestSafety {
    let params = EpochParams::production();
    let epochs = config.days * params.epochs_in(86_400_000);
    let mut population = Population::new(config, params);
    population.let_checkers(0..config.checkers * bad_percent / 100, Strategy::Slandering);
    let (mut accused, mut slashed) = (0, 0);
    for _ in 0..epochs {
        let before = population.accused();
        let settled = population.epoch();
        accused += population.accused().saturating_sub(before);
        slashed += settled.slashes.len() as u64;
    }
    HonestSafety { bad_percent, container_days: u64::from(config.containers) * config.days, accused, slashed }
}

/// One population with every strategy in it: of Checkers a twentieth follows each bad one, of Containers a twentieth
/// each cheats half the time and always.
#[must_use]
pub fn measure_rewards(config: &AuditConfig) -> (Vec<StrategyReward>, Vec<StrategyReward>) {
    let mut population = Population::new(config, EpochParams::production());
    let part = (config.checkers / 20).max(1);
    for (strategy, n) in Strategy::BAD.into_iter().zip(0..) {
        population.let_checkers(n * part..(n + 1) * part, strategy);
    }
    population.epoch();
    let cheats = (config.containers / 20).max(1);
    population.let_containers(0..cheats, 50);
    population.let_containers(cheats..2 * cheats, 100);
    for _ in 0..config.days.min(7) * 96 {
        population.epoch();
    }
    let checkers = [Strategy::Honest].into_iter().chain(Strategy::BAD).map(|strategy| {
        let places: Vec<u32> = population.checkers_of(strategy).collect();
        let earned = places.iter().map(|place| earned_by_checker(&population, *place)).sum::<f64>();
        let barred = |place: &&u32| population.barred(**place);
        row(strategy.name(), earned, places.len() as u64, places.iter().filter(barred).count() as u64)
    });
    let containers = [
        (HONEST, 2 * cheats..config.containers),
        ("cheats half the time", 0..cheats),
        ("cheats always", cheats..2 * cheats),
    ]
    .into_iter()
    .map(|(name, places)| {
        let earned = places.clone().map(|place| earned_by_container(&population, place)).sum::<f64>();
        let out = places.clone().filter(|place| population.is_jailed(*place)).count() as u64;
        row(name, earned, u64::from(places.end - places.start), out)
    });
    (compared(checkers.collect()), compared(containers.collect()))
}

fn row(strategy: &'static str, earned: f64, count: u64, out: u64) -> StrategyReward {
    StrategyReward { strategy, count, tokens_each: earned / count.max(1) as f64, of_honest: 0.0, out }
}

fn compared(mut rows: Vec<StrategyReward>) -> Vec<StrategyReward> {
    let honest = rows.first().map_or(0.0, |row| row.tokens_each);
    rows.iter_mut().for_each(|row| row.of_honest = row.tokens_each / honest);
    rows
}

fn tokens(leaf: Option<(usize, &RewardLeaf)>) -> f64 {
    leaf.map_or(0.0, |(_, leaf)| leaf.cumulative as f64 / 1e18)
}

fn earned_by_checker(population: &Population, place: u32) -> f64 {
    let signer = population.view().checkers()[place as usize].signer;
    let owners = population.view().licences().iter().filter(|licence| licence.delegate == Some(signer));
    owners.map(|licence| tokens(population.state().leaf(LeafKind::LicenceOwner, &owner_key(&licence.owner)))).sum()
}

fn earned_by_container(population: &Population, place: u32) -> f64 {
    let node = population.view().containers()[place as usize].node;
    tokens(population.state().leaf(LeafKind::Container, &node.0)) - population.slashed_tokens(place)
}

fn ratio(part: u64, whole: u64) -> f64 {
    part as f64 / whole.max(1) as f64
}

impl std::fmt::Display for AuditReport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "wrong verdicts on honest Containers, all bad Checkers slandering")?;
        writeln!(f, "  bad   seats    audits     wrong undecided   measured    formula")?;
        for w in &self.wrong_verdicts {
            writeln!(
                f,
                "  {:>2} %  {:>5}  {:>8}  {:>8}  {:>8}  {:>9.2e}  {:>9.2e}",
                w.bad_percent, w.seats, w.audits, w.wrong, w.undecided, w.measured, w.formula
            )?;
        }
        writeln!(f, "time until 99.9 % of cheats are caught")?;
        writeln!(f, "  cheating  cheats  caught  measured h  formula h")?;
        for c in &self.catching {
            writeln!(
                f,
                "  {:>6} %  {:>6}  {:>6}  {:>10.1}  {:>9.1}",
                c.cheating_percent, c.cheats, c.caught, c.hours_measured, c.hours_formula
            )?;
        }
        writeln!(f, "honest Containers, all bad Checkers slandering")?;
        for h in &self.honest {
            writeln!(
                f,
                "  {:>2} % bad: {} Container-days, accused {} times, slashed {}",
                h.bad_percent, h.container_days, h.accused, h.slashed
            )?;
        }
        for (what, rows) in [("Checkers", &self.checkers), ("Containers", &self.containers)] {
            writeln!(f, "what {what} earn by strategy")?;
            for s in rows {
                writeln!(
                    f,
                    "  {:<22} {:>5}  {:>14.2} tokens each, {:>7.3} of honest, {} out",
                    s.strategy, s.count, s.tokens_each, s.of_honest, s.out
                )?;
            }
        }
        Ok(())
    }
}
