//! From seed and registry to who does what and when.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::committee::{Lots, Seats, Urn, at};
use super::instants::groups;
use super::view::{ContainerEntry, RegistryStatus};
use super::{EpochNo, EpochParams, Phase, RegistryView, Seed};
use crate::ids::{ContentHash, NodeId};
use crate::units::TimeMs;

/// The most rechecks that one Checker gets in an epoch.
const RECHECKS_MAX: u64 = 256;

/// What a Checker does with a Container.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TaskKind {
    /// Asks it again and again whether it lives.
    Liveness = 1,
    /// Has it prove what its card can do.
    Capacity = 2,
    /// Looks whether its work is what it says.
    Quality = 3,
    /// Has one of its tasks run elsewhere and compares.
    Duplicate = 4,
    /// Decides, as one of the larger committee, what a smaller one accused it of.
    Dispute = 5,
    /// Verifies a bare proof that another Checker set; some are known to be bad.
    Recheck = 6,
}

impl TaskKind {
    /// All of them, in their order.
    pub const ALL: [Self; 6] =
        [Self::Liveness, Self::Capacity, Self::Quality, Self::Duplicate, Self::Dispute, Self::Recheck];

    /// Makes the draws of different kinds independent of each other.
    const fn purpose(self) -> &'static [u8; 8] {
        match self {
            Self::Liveness => b"liveness",
            Self::Capacity => b"capacity",
            Self::Quality => b"quality ",
            Self::Duplicate => b"duplicat",
            Self::Dispute => b"dispute ",
            Self::Recheck => b"recheck ",
        }
    }
}

impl core::fmt::Display for TaskKind {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(match self {
            Self::Liveness => "liveness",
            Self::Capacity => "capacity",
            Self::Quality => "quality",
            Self::Duplicate => "duplicate",
            Self::Dispute => "dispute",
            Self::Recheck => "recheck",
        })
    }
}

/// One task of one epoch, the same for every Checker that has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Task {
    /// What is done.
    pub kind: TaskKind,
    /// The Container's place in the view; for a recheck the place of the Checker that sets it.
    pub subject: u32,
    /// Which of several rechecks; 0 for all else.
    pub nth: u16,
}

/// A task that a Checker has to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Assignment {
    /// The Checker's place in the view.
    pub checker: u32,
    /// What.
    pub task: Task,
    /// When to begin. Liveness and quality go on from there to the end of the tests.
    pub begin: TimeMs,
}

/// Why a Container is tested in full.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DrawnWhy {
    /// It has never been proved, or must be proved anew.
    Unproved,
    /// The last test came to no verdict.
    Again,
    /// A larger committee decides on an accusation.
    Disputed,
    /// Its last test is too long ago.
    Overdue,
    /// It is new, and the lot fell on it.
    New,
    /// It is suspect, and the lot fell on it.
    Suspect,
    /// The lot fell on it.
    Lot,
}

/// The draw of one epoch.
#[derive(Clone, Debug)]
pub struct Draw {
    view: Arc<RegistryView>,
    view_hash: ContentHash,
    params: EpochParams,
    seed: Seed,
    urn: Urn,
    groups: Vec<u32>,
    tested: Vec<Option<DrawnWhy>>,
    rechecks: u16,
}

impl Draw {
    /// Draws an epoch. Time and memory are linear in the number of nodes (but for sorting).
    #[must_use]
    pub fn new(view: Arc<RegistryView>, params: EpochParams, seed: Seed) -> Self {
        let urn = Urn::new(&view, &params);
        let tested: Vec<Option<DrawnWhy>> =
            view.containers().iter().map(|c| tested(c, view.epoch(), &params, &seed)).collect();
        let audits: u64 = tested
            .iter()
            .map(|why| match why {
                None => 0,
                Some(DrawnWhy::Disputed) => u64::from(params.dispute_seats),
                Some(_) => u64::from(params.committee_seats),
            })
            .sum();
        let share = audits.saturating_mul(u64::from(params.recheck_bps));
        let checkers = u64::try_from(urn.len()).unwrap_or(u64::MAX);
        let each = share.div_ceil(checkers.saturating_mul(10_000).max(1)).clamp(1, RECHECKS_MAX);
        let rechecks = if params.recheck_bps == 0 { 0 } else { u16::try_from(each).unwrap_or(1) };
        let groups = groups(&view);
        let view_hash = view.hash();
        Self { view, view_hash, params, seed, urn, groups, tested, rechecks }
    }

    /// The view that it was drawn from.
    #[must_use]
    pub fn view(&self) -> &RegistryView {
        &self.view
    }

    /// That view's hash; reports name it.
    #[must_use]
    pub const fn view_hash(&self) -> ContentHash {
        self.view_hash
    }

    /// The parameters that it was drawn by.
    #[must_use]
    pub const fn params(&self) -> &EpochParams {
        &self.params
    }

    /// The beacon's randomness.
    #[must_use]
    pub const fn seed(&self) -> Seed {
        self.seed
    }

    /// The epoch.
    #[must_use]
    pub fn epoch(&self) -> EpochNo {
        self.view.epoch()
    }

    /// Whether a Container, by its place, is tested in full, and why.
    #[must_use]
    pub fn tested(&self, container: u32) -> Option<DrawnWhy> {
        self.tested.get(at(container)).copied().flatten()
    }

    /// The place of the Container after which the instant of this one's group is drawn.
    #[must_use]
    pub fn group(&self, container: u32) -> u32 {
        self.groups.get(at(container)).copied().unwrap_or(container)
    }

    /// A Checker's weight in the draw, and the sum of all.
    #[must_use]
    pub fn weight(&self, checker: u32) -> (u64, u64) {
        (self.urn.weight_of(checker), self.urn.total())
    }

    /// Whether a Checker, by its place, can be drawn at all.
    #[must_use]
    pub fn can_be_drawn(&self, checker: u32) -> bool {
        self.urn.weight_of(checker) > 0
    }

    /// Checkers that can be drawn, by their places.
    pub fn drawable(&self) -> impl Iterator<Item = u32> {
        self.urn.places()
    }

    /// Who has a task, in draw order; nobody where there is no such task in this epoch. Rechecks are told by
    /// [`Draw::setter`].
    #[must_use]
    pub fn seats(&self, kind: TaskKind, container: u32) -> Seats {
        let Some(entry) = self.view.containers().get(at(container)) else { return Seats::default() };
        if !self.has(kind, container, entry) {
            return Seats::default();
        }
        let count = match kind {
            TaskKind::Liveness => self.params.liveness_seats,
            TaskKind::Capacity | TaskKind::Quality | TaskKind::Duplicate => self.params.committee_seats,
            TaskKind::Dispute => self.params.dispute_seats,
            TaskKind::Recheck => 0,
        };
        let lots = Lots::new(&self.seed, kind.purpose(), &entry.node.0);
        self.urn.seats(lots, count, Some(entry.owner), &self.view)
    }

    fn has(&self, kind: TaskKind, container: u32, entry: &ContainerEntry) -> bool {
        if entry.status != RegistryStatus::Active {
            return false;
        }
        match kind {
            TaskKind::Liveness => true,
            TaskKind::Capacity => self.tested(container).is_some_and(|why| why != DrawnWhy::Disputed),
            TaskKind::Dispute => entry.accused.is_some(),
            TaskKind::Quality => entry.serving,
            TaskKind::Duplicate => {
                entry.serving && Lots::new(&self.seed, b"twice   ", &entry.node.0).chance(self.params.duplicate_bps)
            }
            TaskKind::Recheck => false,
        }
    }

    /// When the test of a Container begins for the Checker of a seat.
    ///
    /// The instant is drawn for the Container's group in the first half of the tests; the seats follow one another
    /// evenly in the time of the second half, so that every Checker finds the card alone with its own group.
    #[must_use]
    pub fn instant(&self, container: u32, seat: usize, seats: usize) -> TimeMs {
        let tests = self.params.begin_of(self.epoch(), Phase::Tests);
        let half = self.params.begin_of(self.epoch(), Phase::Commit).since(tests) / 2;
        let first = self.view.containers().get(at(self.group(container))).map_or(NodeId::ZERO, |c| c.node);
        let offset = Lots::new(&self.seed, b"instant ", &first.0).below(half);
        let step = half / u64::try_from(seats.saturating_add(1)).unwrap_or(u64::MAX);
        tests.plus(offset).plus(step.saturating_mul(u64::try_from(seat).unwrap_or(0)))
    }

    /// How many rechecks each Checker has.
    #[must_use]
    pub const fn rechecks(&self) -> u16 {
        self.rechecks
    }

    /// Who sets the n-th recheck of a Checker; nobody where there is only one owner.
    #[must_use]
    pub fn setter(&self, checker: u32, nth: u16) -> Option<u32> {
        let entry = self.view.checkers().get(at(checker))?;
        if nth >= self.rechecks || !self.can_be_drawn(checker) {
            return None;
        }
        let mut subject = [0; 34];
        let (node, number) = subject.split_at_mut(32);
        node.copy_from_slice(&entry.node.0);
        number.copy_from_slice(&nth.to_be_bytes());
        let lots = Lots::new(&self.seed, TaskKind::Recheck.purpose(), &subject);
        self.urn.seats(lots, 1, Some(entry.owner), &self.view).as_slice().first().copied()
    }

    /// Whether the setter of a recheck has to set a bad proof: it follows from the setter's secret, which others only
    /// learn when everybody has committed.
    #[must_use]
    pub fn planted(&self, secret: &[u8; 32], checker: u32, nth: u16) -> bool {
        let node = self.view.checkers().get(at(checker)).map_or(NodeId::ZERO, |c| c.node);
        let mut lots = Lots::new(&Seed(*secret), b"planted ", &[&node.0[..], &nth.to_be_bytes()].concat());
        lots.chance(self.params.planted_bps)
    }

    /// Who computes and signs the next outcome after this epoch's, in the order in which they propose.
    #[must_use]
    pub fn next_committee(&self) -> Seats {
        let lots = Lots::new(&self.seed, b"settle  ", &[]);
        self.urn.seats(lots, self.params.committee_seats, None, &self.view)
    }

    /// Who decides when the next outcome is disputed.
    #[must_use]
    pub fn next_dispute_committee(&self) -> Seats {
        let lots = Lots::new(&self.seed, b"appeal  ", &[]);
        self.urn.seats(lots, self.params.dispute_seats, None, &self.view)
    }

    /// Every task that a Checker has in this epoch, in the order of the tasks.
    #[must_use]
    pub fn tasks_of(&self, checker: u32) -> Vec<Assignment> {
        let mut tasks = Vec::new();
        if !self.can_be_drawn(checker) {
            return tasks;
        }
        for container in self.container_places() {
            for kind in TaskKind::ALL {
                let seats = self.seats(kind, container);
                if let Some(seat) = seats.seat_of(checker) {
                    tasks.push(self.assignment(checker, kind, container, seat, seats.len()));
                }
            }
        }
        tasks.extend(self.rechecks_of(checker));
        tasks.sort_unstable_by_key(|assignment| assignment.task);
        tasks
    }

    /// Every task of every Checker: Container by Container, then the rechecks.
    pub fn assignments(&self) -> impl Iterator<Item = Assignment> {
        let of_containers = self.container_places().flat_map(move |container| {
            TaskKind::ALL.into_iter().flat_map(move |kind| {
                let seats = self.seats(kind, container);
                (0..seats.len()).filter_map(move |seat| {
                    let checker = *seats.as_slice().get(seat)?;
                    Some(self.assignment(checker, kind, container, seat, seats.len()))
                })
            })
        });
        of_containers.chain(self.urn.places().flat_map(|checker| self.rechecks_of(checker)))
    }

    fn container_places(&self) -> core::ops::Range<u32> {
        0..u32::try_from(self.view.containers().len()).unwrap_or(u32::MAX)
    }

    fn assignment(&self, checker: u32, kind: TaskKind, container: u32, seat: usize, seats: usize) -> Assignment {
        let begin = match kind {
            TaskKind::Liveness | TaskKind::Quality => self.params.begin_of(self.epoch(), Phase::Tests),
            TaskKind::Capacity | TaskKind::Duplicate | TaskKind::Dispute | TaskKind::Recheck => {
                self.instant(container, seat, seats)
            }
        };
        Assignment { checker, task: Task { kind, subject: container, nth: 0 }, begin }
    }

    fn rechecks_of(&self, checker: u32) -> impl Iterator<Item = Assignment> {
        let tests = self.params.begin_of(self.epoch(), Phase::Tests);
        (0..self.rechecks).filter_map(move |nth| {
            let subject = self.setter(checker, nth)?;
            Some(Assignment { checker, task: Task { kind: TaskKind::Recheck, subject, nth }, begin: tests })
        })
    }

    /// How many tasks each Checker has, by its place.
    #[must_use]
    pub fn loads(&self) -> Vec<u32> {
        let mut loads = vec![0u32; self.view.checkers().len()];
        let mut count = |checker: u32| {
            if let Some(load) = loads.get_mut(at(checker)) {
                *load = load.saturating_add(1);
            }
        };
        for container in self.container_places() {
            for kind in TaskKind::ALL {
                self.seats(kind, container).as_slice().iter().for_each(|checker| count(*checker));
            }
        }
        self.urn.places().flat_map(|checker| self.rechecks_of(checker)).for_each(|a| count(a.checker));
        loads
    }
}

/// Whether and why a Container is tested in full in this epoch.
fn tested(entry: &ContainerEntry, epoch: EpochNo, params: &EpochParams, seed: &Seed) -> Option<DrawnWhy> {
    if entry.status != RegistryStatus::Active {
        return None;
    }
    // Work is judged by votes over it; absence and slowness are decided by another test.
    if entry.accused.is_some_and(|accused| !accused.of.is_decided_by_votes()) {
        return Some(DrawnWhy::Disputed);
    }
    let Some(last) = entry.tested else { return Some(DrawnWhy::Unproved) };
    if entry.again {
        return Some(DrawnWhy::Again);
    }
    if epoch.since(last) >= params.epochs_in(params.full_test_within_ms) {
        return Some(DrawnWhy::Overdue);
    }
    let mut lots = Lots::new(seed, b"tested? ", &entry.node.0);
    let new = params.begin(epoch).since(entry.registered_at) < params.new_for_ms;
    let suspect = entry.suspect_until > epoch;
    let share = if new || suspect { params.audit_watched_bps } else { params.audit_bps };
    if !lots.chance(share) {
        return None;
    }
    Some(match (suspect, new) {
        (true, _) => DrawnWhy::Suspect,
        (false, true) => DrawnWhy::New,
        (false, false) => DrawnWhy::Lot,
    })
}
