//! From a bundle to what each seat found; what does not count, and why.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::SettleError;
use super::report::{Bundle, Doubt, ENTRIES_MAX, Entry, Finding, RESULTS_MAX, Reexecution, Report, Reveal};
use crate::epoch::{Draw, SEATS_MAX, Seats, Task, TaskKind};
use crate::ids::{ContentHash, NodeId};

/// So many results of one Checker may call for running something again because it says that something is wrong; of
/// more, it is as if it did not know.
const ACCUSING_MAX: u32 = 64;

/// Why something in a bundle does not count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum IgnoredWhy {
    /// No Checker of this key is in the view.
    NotRegistered,
    /// The Checker cannot be drawn: no licence, too little stake, jailed or barred.
    CannotBeDrawn,
    /// It committed to two different things; neither counts.
    Twice,
    /// It never revealed.
    NoReveal,
    /// It revealed something else than it committed to.
    Mismatch,
    /// It is about another epoch.
    OtherEpoch,
    /// It was drawn from another view.
    OtherView,
    /// Its results are not in strictly ascending order, or there are too many.
    Disorder,
    /// A result of a task that it was not drawn for.
    NotDrawn,
    /// A finding that such a task cannot have.
    WrongKind,
    /// More accusations than can be looked into.
    TooManyAccusations,
}

impl core::fmt::Display for IgnoredWhy {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(match self {
            Self::NotRegistered => "no such Checker is registered",
            Self::CannotBeDrawn => "the Checker has no licence or too little stake, or is jailed or barred",
            Self::Twice => "the Checker committed to two different reports",
            Self::NoReveal => "the commitment was never revealed",
            Self::Mismatch => "what was revealed is not what was committed to",
            Self::OtherEpoch => "the report is about another epoch",
            Self::OtherView => "the report was drawn from another view of the registry",
            Self::Disorder => "the report's results are out of order or too many",
            Self::NotDrawn => "the Checker was not drawn for the task",
            Self::WrongKind => "such a task cannot have such a result",
            Self::TooManyAccusations => "the Checker accuses more than can be looked into",
        })
    }
}

/// Things of one Checker that do not count, for one reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Ignored {
    /// Whose.
    pub checker: NodeId,
    /// Why.
    pub why: IgnoredWhy,
    /// How many: entries or results.
    pub count: u64,
}

/// What the seats of one committee found.
#[derive(Clone, Debug)]
pub(super) struct Audit {
    pub(super) task: Task,
    pub(super) seats: Seats,
    /// By seat; `None`: nothing that counts was revealed.
    pub(super) findings: [Option<Finding>; SEATS_MAX],
}

impl Audit {
    /// Each seat's Checker and what it found.
    pub(super) fn each(&self) -> impl Iterator<Item = (u32, Option<Finding>)> {
        self.seats.as_slice().iter().copied().zip(self.findings)
    }
}

/// One result, found by task.
#[derive(Clone, Copy, Debug)]
struct Slot {
    task: Task,
    checker: u32,
    finding: Finding,
}

/// The part of a bundle that counts.
#[derive(Debug)]
pub(super) struct Gathered {
    slots: Vec<Slot>,
    /// By place of the Checker: its secret, where its report counts.
    secrets: Vec<Option<[u8; 32]>>,
    spot_seed: [u8; 32],
    answers: BTreeMap<Doubt, Reexecution>,
    ignored: BTreeMap<(NodeId, IgnoredWhy), u64>,
}

impl Gathered {
    pub(super) fn new(draw: &Draw, bundle: &Bundle) -> Result<Self, SettleError> {
        for (what, got) in [("entries of a bundle", bundle.entries.len())] {
            if got > ENTRIES_MAX {
                return Err(SettleError::TooMany { what, got, max: ENTRIES_MAX });
            }
        }
        let mut gathered = Self {
            slots: Vec::new(),
            secrets: vec![None; draw.view().checkers().len()],
            spot_seed: [0; 32],
            answers: BTreeMap::new(),
            ignored: BTreeMap::new(),
        };
        let mut answers = bundle.reexecuted.clone();
        answers.sort_unstable();
        gathered.answers = answers.into_iter().collect();
        gathered.take_entries(draw, bundle);
        gathered.slots.sort_unstable_by_key(|slot| (slot.task, slot.checker));
        Ok(gathered)
    }

    fn take_entries(&mut self, draw: &Draw, bundle: &Bundle) {
        let mut entries: Vec<&Entry> = bundle.entries.iter().collect();
        // Of equal commitments the one that was revealed comes first.
        entries.sort_by_key(|e| (e.commitment.checker, e.commitment.hash, e.reveal.is_none()));
        let mut spot = blake3::Hasher::new_derive_key("muster 2026 spot checks v1");
        spot.update(&draw.seed().0);
        for same in entries.chunk_by(|a, b| a.commitment.checker == b.commitment.checker) {
            let [first, ..] = same else { continue };
            let checker = first.commitment.checker;
            match accept(draw, same) {
                Ok((place, reveal)) => {
                    spot.update(&reveal.salt);
                    self.take_report(place, &reveal.report);
                }
                Err(why) => self.ignore(checker, why),
            }
        }
        self.spot_seed = *spot.finalize().as_bytes();
    }

    fn take_report(&mut self, checker: u32, report: &Report) {
        if let Some(secret) = self.secrets.get_mut(at(checker)) {
            *secret = Some(report.secret);
        }
        let mut accusing = 0u32;
        for result in &report.results {
            let mut finding = result.finding;
            if !finding.fits(result.task.kind) {
                self.ignore(report.checker, IgnoredWhy::WrongKind);
                continue;
            }
            if matches!(finding, Finding::Refuted { .. } | Finding::Differs { .. }) {
                accusing = accusing.saturating_add(1);
                if accusing > ACCUSING_MAX {
                    self.ignore(report.checker, IgnoredWhy::TooManyAccusations);
                    finding = Finding::Unknown;
                }
            }
            self.slots.push(Slot { task: result.task, checker, finding });
        }
    }

    fn ignore(&mut self, checker: NodeId, why: IgnoredWhy) {
        let count = self.ignored.entry((checker, why)).or_insert(0);
        *count = count.saturating_add(1);
    }

    /// Calls `hear` with what the seats of each committee of a kind found, Container by Container. Gives the Checkers of
    /// results that no seat was drawn for, one a result.
    pub(super) fn audits(&self, draw: &Draw, kind: TaskKind, mut hear: impl FnMut(&Audit)) -> Vec<u32> {
        let first = self.slots.partition_point(|slot| slot.task.kind < kind);
        let end = self.slots.partition_point(|slot| slot.task.kind <= kind);
        let slots = self.slots.get(first..end).unwrap_or_default();
        let mut strays: Vec<u32> = Vec::new();
        let mut rest = slots;
        let count = u32::try_from(draw.view().containers().len()).unwrap_or(u32::MAX);
        for container in 0..count {
            let task = Task { kind, subject: container, nth: 0 };
            let (mine, after) = rest.split_at(rest.partition_point_near(task));
            rest = after;
            let seats = draw.seats(kind, container);
            if seats.is_empty() {
                strays.extend(mine.iter().map(|slot| slot.checker));
                continue;
            }
            let mut audit = Audit { task, seats, findings: [None; SEATS_MAX] };
            for slot in mine {
                let seat = if slot.task == task { seats.seat_of(slot.checker) } else { None };
                match seat.and_then(|seat| audit.findings.get_mut(seat)) {
                    Some(finding) => *finding = Some(slot.finding),
                    None => strays.push(slot.checker),
                }
            }
            hear(&audit);
        }
        strays.extend(rest.iter().map(|slot| slot.checker));
        strays
    }

    /// Calls `hear` with every recheck that was drawn: who had it, the task, what it found, and whether its setter had
    /// to set a bad proof (`None`: the setter did not say).
    pub(super) fn rechecks(
        &self,
        draw: &Draw,
        mut hear: impl FnMut(u32, Task, Option<Finding>, Option<bool>),
    ) -> Vec<u32> {
        let first = self.slots.partition_point(|slot| slot.task.kind < TaskKind::Recheck);
        let slots = self.slots.get(first..).unwrap_or_default();
        let mut used = 0usize;
        for checker in draw.drawable() {
            for nth in 0..draw.rechecks() {
                let Some(setter) = draw.setter(checker, nth) else { continue };
                let task = Task { kind: TaskKind::Recheck, subject: setter, nth };
                let found = slots.binary_search_by_key(&(task, checker), |slot| (slot.task, slot.checker)).ok();
                let finding = found.and_then(|at| slots.get(at)).map(|slot| slot.finding);
                used = used.saturating_add(usize::from(finding.is_some()));
                let secret = self.secrets.get(at(setter)).copied().flatten();
                hear(checker, task, finding, secret.map(|secret| draw.planted(&secret, checker, nth)));
            }
        }
        if used == slots.len() {
            return Vec::new();
        }
        let stray = |slot: &&Slot| draw.setter(slot.checker, slot.task.nth) != Some(slot.task.subject);
        slots.iter().filter(stray).map(|slot| slot.checker).collect()
    }

    /// Counts results that no seat was drawn for as ignored.
    pub(super) fn stray(&mut self, draw: &Draw, checkers: &[u32]) {
        for checker in checkers {
            if let Some(entry) = draw.view().checkers().get(at(*checker)) {
                self.ignore(entry.node, IgnoredWhy::NotDrawn);
            }
        }
    }

    /// What came of running something again, where somebody did.
    pub(super) fn answer(&self, checker: u32, task: Task, finding: &Finding) -> Option<Reexecution> {
        self.answers.get(&Doubt { checker, task, transcript: finding.transcript()? }).copied()
    }

    /// Whether a good proof is one of those that are run again all the same. It follows from the salts of all who
    /// revealed, so that nobody knew when committing.
    pub(super) fn spot_checked(&self, draw: &Draw, checker: u32, task: Task) -> bool {
        let mut hasher = blake3::Hasher::new_keyed(&self.spot_seed);
        hasher.update(&checker.to_be_bytes()).update(&task.subject.to_be_bytes()).update(&[task.kind as u8]);
        let [a, b, c, d, ..] = *hasher.finalize().as_bytes();
        let lot = u64::from(u32::from_be_bytes([a, b, c, d])).saturating_mul(10_000) >> 32;
        lot < u64::from(draw.params().spot_check_bps)
    }

    /// What did not count, by Checker and reason.
    pub(super) fn ignored(self) -> Vec<Ignored> {
        self.ignored.into_iter().map(|((checker, why), count)| Ignored { checker, why, count }).collect()
    }
}

/// Finds an end near the beginning of a long list.
trait Near {
    /// How many are of tasks up to and with this one.
    fn partition_point_near(&self, task: Task) -> usize;
}

impl Near for [Slot] {
    fn partition_point_near(&self, task: Task) -> usize {
        self.iter().take_while(|slot| slot.task.subject <= task.subject).count()
    }
}

/// The one entry of a Checker that counts.
fn accept<'b>(draw: &Draw, same: &[&'b Entry]) -> Result<(u32, &'b Reveal), IgnoredWhy> {
    let [first, rest @ ..] = same else { return Err(IgnoredWhy::NoReveal) };
    let commitment = &first.commitment;
    let place = draw.view().checker(&commitment.checker).ok_or(IgnoredWhy::NotRegistered)?;
    if !draw.can_be_drawn(place) {
        return Err(IgnoredWhy::CannotBeDrawn);
    }
    if commitment.epoch != draw.epoch() {
        return Err(IgnoredWhy::OtherEpoch);
    }
    if rest.iter().any(|other| other.commitment.hash != commitment.hash) {
        return Err(IgnoredWhy::Twice);
    }
    let revealed = same.iter().filter_map(|entry| entry.reveal.as_ref());
    let mut reveals = revealed.peekable();
    reveals.peek().ok_or(IgnoredWhy::NoReveal)?;
    let right =
        |reveal: &&Reveal| reveal.report.checker == commitment.checker && reveal.commitment_hash() == commitment.hash;
    let reveal = reveals.find(right).ok_or(IgnoredWhy::Mismatch)?;
    let report = &reveal.report;
    if report.epoch != draw.epoch() {
        return Err(IgnoredWhy::OtherEpoch);
    }
    if report.view != draw.view_hash() {
        return Err(IgnoredWhy::OtherView);
    }
    if report.results.len() > RESULTS_MAX || !report.results.is_sorted_by(|a, b| a.task < b.task) {
        return Err(IgnoredWhy::Disorder);
    }
    Ok((place, reveal))
}

/// Everything that has to be run again before an outcome can be computed from these entries, in order: proofs that are
/// called wrong, all others of the same audit, rechecks that gave something else than was set, and a drawn share of
/// the good proofs. An answer that is missing from a bundle counts as [`Reexecution::Unavailable`].
///
/// # Errors
/// A bundle beyond its bounds.
pub fn doubts(draw: &Draw, bundle: &Bundle) -> Result<Vec<Doubt>, SettleError> {
    let gathered = Gathered::new(draw, bundle)?;
    let mut doubts = Vec::new();
    for kind in [TaskKind::Capacity, TaskKind::Duplicate, TaskKind::Dispute] {
        let mut audits: Vec<(u32, Task, ContentHash, bool)> = Vec::new();
        let _strays = gathered.audits(draw, kind, |audit| {
            let accused = audit
                .each()
                .any(|(_, finding)| matches!(finding, Some(Finding::Refuted { .. } | Finding::Differs { .. })));
            for (checker, finding) in audit.each() {
                if let Some(finding) = finding
                    && !matches!(finding, Finding::Upheld { .. })
                    && let Some(transcript) = finding.transcript()
                {
                    audits.push((checker, audit.task, transcript, accused));
                }
            }
        });
        let needed = |(checker, task, _, accused): &(u32, Task, ContentHash, bool)| {
            *accused || gathered.spot_checked(draw, *checker, *task)
        };
        let doubt = |(checker, task, transcript, _)| Doubt { checker, task, transcript };
        doubts.extend(audits.into_iter().filter(needed).map(doubt));
    }
    let _strays = gathered.rechecks(draw, |checker, task, finding, planted| {
        if let (Some(Finding::Rechecked { good, proof }), Some(planted)) = (finding, planted)
            && good == planted
        {
            doubts.push(Doubt { checker, task, transcript: proof });
        }
    });
    doubts.sort_unstable();
    Ok(doubts)
}

/// A place as an index.
pub(super) fn at(place: u32) -> usize {
    usize::try_from(place).unwrap_or(usize::MAX)
}
