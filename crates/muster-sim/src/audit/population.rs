//! Who is good and who is bad, and what they therefore say.

use std::ops::Range;
use std::sync::Arc;

use muster_core::epoch::{
    Assignment, ContainerEntry, Draw, EpochNo, EpochParams, RegistryStatus, RegistryView, Seed, TaskKind,
};
use muster_core::ids::ContentHash;
use muster_core::reward::synthetic::{self, Sizes};
use muster_core::reward::{ChainFacts, Doubt, Finding, Reexecution, RewardParams, Settled, State, doubts, settle};
use muster_core::units::TokenAmount;

use super::AuditConfig;
use crate::Rng;

/// Populations begin here: nobody is new any more.
const START: u64 = 100_000;
const STAKE: TokenAmount = TokenAmount(1_000 * TokenAmount::ONE.0);
/// Licences that each Checker serves, each of one owner.
const LICENCES_EACH: u32 = 3;

/// How a Checker behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Strategy {
    /// It tests and says what it found.
    Honest,
    /// It tests nothing and calls everything good.
    Lazy,
    /// It hands in again what others revealed in the epoch before.
    Copying,
    /// It tests, and calls its friends' bad proofs good.
    Colluding,
    /// It says of everybody that he is absent and breaks work off, and upholds whatever others say of the kind.
    Slandering,
}

impl Strategy {
    /// All but honesty.
    pub const BAD: [Self; 4] = [Self::Lazy, Self::Copying, Self::Colluding, Self::Slandering];

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Honest => "honest",
            Self::Lazy => "lazy",
            Self::Copying => "copying",
            Self::Colluding => "colluding",
            Self::Slandering => "slandering",
        }
    }
}

/// A network that lives from epoch to epoch.
#[derive(Debug)]
pub struct Population {
    view: RegistryView,
    params: EpochParams,
    rewards: RewardParams,
    state: State,
    start: State,
    epoch: u64,
    strategies: Vec<Strategy>,
    /// Of a hundred epochs, in so many each Container cheats.
    cheating: Vec<u32>,
    cheats_now: Vec<bool>,
    slashed: Vec<u128>,
    rng: Rng,
}

impl Population {
    /// Everybody is honest.
    #[must_use]
    pub fn new(config: &AuditConfig, params: EpochParams) -> Self {
        let sizes = Sizes {
            containers: config.containers,
            checkers: config.checkers,
            licences: config.checkers * LICENCES_EACH,
            indexers: 1,
        };
        let view = synthetic::view(config.seed, sizes, EpochNo(START), STAKE)
            .expect("a made-up network has each name once and is small");
        // Each Checker's licences belong to one owner, so that what it earns is told apart from what others do.
        let licences = view.licences().iter().map(|licence| {
            let of = u64::from(licence.id % config.checkers);
            muster_core::reward::synthetic::account(config.seed, "audit owner", of)
        });
        let licences: Vec<_> = view
            .licences()
            .iter()
            .zip(licences)
            .map(|(licence, owner)| muster_core::epoch::Licence { owner, ..*licence })
            .collect();
        let view = rebuilt(&view, view.containers().to_vec(), licences);
        let state = State { settled: Some(EpochNo(START - 1)), ..State::default() };
        let (checkers, containers) = (config.checkers as usize, config.containers as usize);
        Self {
            view,
            params,
            rewards: RewardParams::production(),
            start: state.clone(),
            state,
            epoch: START,
            strategies: vec![Strategy::Honest; checkers],
            cheating: vec![0; containers],
            cheats_now: vec![false; containers],
            slashed: vec![0; containers],
            rng: Rng::new(config.seed),
        }
    }

    /// Lets some Checkers follow a strategy.
    pub fn let_checkers(&mut self, places: Range<u32>, strategy: Strategy) {
        places.for_each(|place| self.strategies[place as usize] = strategy);
    }

    /// Lets some Containers cheat so much of the time.
    pub fn let_containers(&mut self, places: Range<u32>, percent: u32) {
        places.for_each(|place| self.cheating[place as usize] = percent);
    }

    /// Makes everybody unknown again, as at the beginning.
    pub fn forget(&mut self) {
        self.state = State { settled: Some(EpochNo(self.epoch - 1)), ..self.start.clone() };
    }

    /// One epoch: drawn, reported, settled, and what was taken is taken.
    pub fn epoch(&mut self) -> Settled {
        for (now, percent) in self.cheats_now.iter_mut().zip(&self.cheating) {
            *now = self.rng.below(100) < u64::from(*percent);
        }
        let seed = Seed(self.rng.bytes());
        let view = self.state.freeze(self.view.at(EpochNo(self.epoch)));
        let draw = Draw::new(Arc::new(view), self.params.clone(), seed);
        let mut bundle = synthetic::bundle(&draw, |assignment| Some(self.says(&draw, assignment)));
        let list = doubts(&draw, &bundle).expect("the bundle is small");
        bundle.reexecuted = list.into_iter().map(|doubt| (doubt, self.truth(&draw, &doubt))).collect();
        let settled = settle(&self.state, &draw, &bundle, &ChainFacts::default(), &self.rewards)
            .expect("epochs come in their order and amounts are small");
        self.state = settled.state.clone();
        self.epoch += 1;
        if !settled.slashes.is_empty() {
            self.take(&settled);
        }
        settled
    }

    fn take(&mut self, settled: &Settled) {
        let mut containers: Vec<ContainerEntry> = self.view.containers().to_vec();
        for slash in &settled.slashes {
            let place = self.view.container(&slash.node).map_or(usize::MAX, |place| place as usize);
            let entry = &mut containers[place];
            let taken = slash.amount.min(entry.stake);
            self.slashed[place] += taken.0;
            entry.stake = entry.stake.saturating_sub(taken);
            if settled.jailed.contains(&slash.node) {
                entry.status = RegistryStatus::Jailed;
            }
        }
        self.view = rebuilt(&self.view, containers, self.view.licences().to_vec());
    }

    fn cheats(&self, draw: &Draw, assignment: &Assignment) -> bool {
        let of_container = assignment.task.kind != TaskKind::Recheck;
        debug_assert!(draw.view().containers().len() == self.cheats_now.len());
        of_container && self.cheats_now.get(assignment.task.subject as usize).copied().unwrap_or(false)
    }

    fn says(&self, draw: &Draw, assignment: &Assignment) -> Finding {
        let honest = synthetic::honest(draw, assignment);
        let strategy = self.strategies[assignment.checker as usize];
        let transcript = synthetic::transcript(draw, assignment);
        let seen = if self.cheats(draw, assignment) && matches!(honest, Finding::Proved { .. }) {
            Finding::Refuted { transcript }
        } else {
            honest
        };
        match (strategy, assignment.task.kind) {
            (Strategy::Honest, _) => seen,
            (Strategy::Colluding, TaskKind::Recheck) => seen,
            (Strategy::Colluding, _) => honest,
            (Strategy::Lazy | Strategy::Copying, TaskKind::Recheck) => {
                Finding::Rechecked { good: true, proof: transcript }
            }
            (Strategy::Lazy | Strategy::Copying, _) => honest,
            (Strategy::Slandering, kind) => slander(draw, assignment, kind, honest),
        }
    }

    /// What running something again comes to.
    fn truth(&self, draw: &Draw, doubt: &Doubt) -> Reexecution {
        let assignment =
            Assignment { checker: doubt.checker, task: doubt.task, begin: draw.params().begin(draw.epoch()) };
        if doubt.task.kind == TaskKind::Recheck {
            let (secret, _) = synthetic::secret_and_salt(draw, doubt.task.subject);
            let planted = draw.planted(&secret, doubt.checker, doubt.task.nth);
            return if planted { Reexecution::Bad } else { Reexecution::Good };
        }
        match self.strategies[doubt.checker as usize] {
            // What was never made cannot be had, and what another Checker made is not this one's.
            Strategy::Lazy => Reexecution::Unavailable,
            Strategy::Copying => Reexecution::Forged,
            Strategy::Honest | Strategy::Colluding | Strategy::Slandering => {
                if self.cheats(draw, &assignment) {
                    Reexecution::Bad
                } else {
                    Reexecution::Good
                }
            }
        }
    }

    /// The registry.
    #[must_use]
    pub const fn view(&self) -> &RegistryView {
        &self.view
    }

    /// What settled epochs left.
    #[must_use]
    pub const fn state(&self) -> &State {
        &self.state
    }

    /// Places of the Checkers that follow a strategy.
    pub fn checkers_of(&self, strategy: Strategy) -> impl Iterator<Item = u32> {
        self.strategies.iter().zip(0u32..).filter(move |(s, _)| **s == strategy).map(|(_, place)| place)
    }

    pub(super) fn barred(&self, checker: u32) -> bool {
        let node = self.view.checkers()[checker as usize].node;
        self.state.checker(&node).is_some_and(|record| record.barred_until.0 >= self.epoch)
    }

    pub(super) fn is_jailed(&self, container: u32) -> bool {
        self.view.containers()[container as usize].status == RegistryStatus::Jailed
    }

    pub(super) fn jailed(&self) -> u64 {
        self.view.containers().iter().filter(|c| c.status == RegistryStatus::Jailed).count() as u64
    }

    pub(super) fn accused(&self) -> u64 {
        self.state.containers.iter().filter(|record| record.accused.is_some()).count() as u64
    }

    pub(super) fn slashed_tokens(&self, container: u32) -> f64 {
        self.slashed[container as usize] as f64 / 1e18
    }
}

/// The worst that can be said of everybody without a transcript that shows the lie.
fn slander(draw: &Draw, assignment: &Assignment, kind: TaskKind, honest: Finding) -> Finding {
    let accused = draw.view().containers().get(assignment.task.subject as usize).and_then(|c| c.accused);
    match kind {
        // It says that they are there: only who is there can be accused of not answering a test.
        TaskKind::Liveness | TaskKind::Recheck | TaskKind::Duplicate => honest,
        TaskKind::Capacity => Finding::Absent,
        TaskKind::Quality => Finding::Interrupted,
        TaskKind::Dispute => match accused.map(|accused| accused.of) {
            Some(of) if of.is_decided_by_votes() => Finding::Upheld { evidence: ContentHash([0xee; 32]) },
            _ => Finding::Absent,
        },
    }
}

fn rebuilt(
    view: &RegistryView,
    containers: Vec<ContainerEntry>,
    licences: Vec<muster_core::epoch::Licence>,
) -> RegistryView {
    let (checkers, indexers) = (view.checkers().to_vec(), view.indexers().to_vec());
    RegistryView::new(view.epoch(), view.genesis(), containers, checkers, indexers, licences)
        .expect("the names are those of another view")
}
