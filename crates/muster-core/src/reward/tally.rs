//! What all committees of an epoch came to, by Container and by Checker.

use super::gather::{Audit, Gathered, at};
use super::judge::{Judged, Verdict, judge_proofs, judge_votes, median};
use super::report::{Finding, Reexecution};
use super::settle::ByPlace;
use super::state::Duty;
use crate::epoch::{AccusedOf, Draw, TaskKind};
use crate::ids::ContentHash;

/// A Checker whose count of answers is off from the median by more than this was outvoted.
const PRESENCE_APART_BPS: u16 = 2_000;

/// What an epoch found of one Container.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Found {
    pub(super) presence_bps: Option<u16>,
    /// A full test's verdict, by the small committee or the large one.
    pub(super) test: Option<Verdict>,
    /// The verdict over an accusation that votes decide.
    pub(super) appeal: Option<Verdict>,
    pub(super) quality: Option<Verdict>,
    /// Somebody of the committee says that its answers are another model's.
    pub(super) substituted: Option<ContentHash>,
    pub(super) duplicate: Option<Verdict>,
}

/// What an epoch found.
#[derive(Debug)]
pub(super) struct Tally {
    pub(super) containers: Vec<Found>,
    /// By place of the Checker.
    pub(super) duties: Vec<Duty>,
    pub(super) wrong: Vec<u32>,
    /// By place of a Container: the Checkers that found the fault that it may be slashed for.
    pub(super) finders: ByPlace<Vec<u32>>,
}

pub(super) fn tally(draw: &Draw, gathered: &mut Gathered) -> Tally {
    let mut tally = Tally {
        containers: vec![Found::default(); draw.view().containers().len()],
        duties: vec![Duty::default(); draw.view().checkers().len()],
        wrong: vec![0; draw.view().checkers().len()],
        finders: ByPlace::new(),
    };
    let kinds = [TaskKind::Liveness, TaskKind::Quality, TaskKind::Capacity, TaskKind::Duplicate, TaskKind::Dispute];
    for kind in kinds {
        let strays = gathered.audits(draw, kind, |audit| match kind {
            TaskKind::Liveness => tally.liveness(audit),
            _ => tally.committee(draw, gathered, audit),
        });
        gathered.stray(draw, &strays);
    }
    let strays = tally.rechecks(draw, gathered);
    gathered.stray(draw, &strays);
    tally
}

impl Tally {
    fn liveness(&mut self, audit: &Audit) {
        let share = |finding: Option<Finding>| match finding {
            Some(Finding::Liveness { answered, asked }) if asked > 0 => {
                let share = u32::from(answered).saturating_mul(10_000) / u32::from(asked);
                Some(u16::try_from(share.min(10_000)).unwrap_or(10_000))
            }
            _ => None,
        };
        let known: Vec<(u32, u16)> =
            audit.each().filter_map(|(checker, finding)| Some((checker, share(finding)?))).collect();
        let middle = u16::try_from(median(known.iter().map(|(_, share)| u32::from(*share)))).unwrap_or(0);
        let decided = !known.is_empty() && known.len() >= audit.seats.two_thirds();
        if decided && let Some(found) = self.containers.get_mut(at(audit.task.subject)) {
            found.presence_bps = Some(middle);
        }
        let right = |share: u16| !decided || share.abs_diff(middle) <= PRESENCE_APART_BPS;
        let done = known.iter().filter(|(_, share)| right(*share)).map(|(checker, _)| *checker).collect();
        self.count(audit, &Judged { verdict: Verdict::Unknown, done, wrong: Vec::new() });
    }

    fn committee(&mut self, draw: &Draw, gathered: &Gathered, audit: &Audit) {
        let container = audit.task.subject;
        let accused = draw.view().containers().get(at(container)).and_then(|c| c.accused).map(|a| a.of);
        let by_votes = audit.task.kind == TaskKind::Quality
            || (audit.task.kind == TaskKind::Dispute && accused.is_some_and(AccusedOf::is_decided_by_votes));
        let judged = if by_votes {
            judge_votes(audit)
        } else {
            judge_proofs(gathered, audit, |checker| gathered.spot_checked(draw, checker, audit.task))
        };
        let verdict = Some(judged.verdict);
        if let Some(found) = self.containers.get_mut(at(container)) {
            match (audit.task.kind, by_votes) {
                (TaskKind::Quality, _) => {
                    found.quality = verdict;
                    found.substituted = audit.each().find_map(|(_, finding)| match finding {
                        Some(Finding::Substituted { weights }) => Some(weights),
                        _ => None,
                    });
                }
                (TaskKind::Duplicate, _) => found.duplicate = verdict,
                (TaskKind::Dispute, true) => found.appeal = verdict,
                _ => found.test = verdict,
            }
        }
        let may_slash = audit.task.kind == TaskKind::Dispute || matches!(judged.verdict, Verdict::Fraud { .. });
        if may_slash {
            self.finders.entry(container).or_default().extend_from_slice(&judged.done);
        }
        self.count(audit, &judged);
    }

    fn count(&mut self, audit: &Audit, judged: &Judged) {
        for checker in audit.seats.as_slice() {
            self.duty(*checker, 1, 0);
        }
        judged.done.iter().for_each(|checker| self.duty(*checker, 0, 1));
        judged.wrong.iter().for_each(|checker| self.wrong(*checker));
    }

    fn duty(&mut self, checker: u32, due: u32, done: u32) {
        if let Some(duty) = self.duties.get_mut(at(checker)) {
            *duty = duty.plus(Duty { due, done });
        }
    }

    fn wrong(&mut self, checker: u32) {
        if let Some(wrong) = self.wrong.get_mut(at(checker)) {
            *wrong = wrong.saturating_add(1);
        }
    }

    fn rechecks(&mut self, draw: &Draw, gathered: &Gathered) -> Vec<u32> {
        gathered.rechecks(draw, |checker, task, finding, planted| {
            self.duty(checker, 1, 0);
            let Some(Finding::Rechecked { good, .. }) = finding else { return };
            // The setter's word is taken where the Checker agrees with it, or where nobody knows the word; else only
            // running it again tells who is wrong.
            let truth = match planted {
                Some(planted) if planted == good => {
                    match finding.and_then(|finding| gathered.answer(checker, task, &finding)) {
                        Some(Reexecution::Good) => Some(true),
                        Some(Reexecution::Bad) => Some(false),
                        Some(Reexecution::Forged | Reexecution::Unavailable) | None => None,
                    }
                }
                Some(_) | None => Some(good),
            };
            match truth {
                Some(truth) if truth == good => self.duty(checker, 0, 1),
                Some(_) => self.wrong(checker),
                None => {}
            }
        })
    }
}
