//! From what the seats found to a verdict.

use serde::{Deserialize, Serialize};

use super::gather::{Audit, Gathered};
use super::report::{Finding, Reexecution};
use crate::ids::ContentHash;
use crate::units::Ob;

/// What a committee came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// Two thirds saw a right proof; the median of their timings (of an even number the lower one).
    Proved {
        /// The speed.
        ob: Ob,
        /// The time.
        took_ms: u32,
    },
    /// Two thirds got no proof in time.
    Absent,
    /// A signed transcript is wrong for everybody who runs it again.
    Fraud {
        /// The transcript; of several the least.
        evidence: ContentHash,
    },
    /// Quality and duplicates: two thirds found it good.
    Good,
    /// Quality: two thirds found it less than good.
    Poor,
    /// Quality: two thirds saw work broken off.
    Interrupted,
    /// Dispute over work: two thirds found that the evidence bears the accusation out.
    Upheld {
        /// What was looked at; of several the least.
        evidence: ContentHash,
    },
    /// Dispute over work: two thirds found that it does not.
    Dismissed,
    /// None of these: neither good nor bad.
    Unknown,
}

/// A verdict, and what it says of the Checkers.
#[derive(Debug)]
pub(super) struct Judged {
    pub(super) verdict: Verdict,
    /// Whose work counts as done.
    pub(super) done: Vec<u32>,
    /// Whose result is wrong for everybody who runs it again.
    pub(super) wrong: Vec<u32>,
}

/// What a seat's finding is worth once it was run again, where it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Weighed {
    Counts(Finding),
    Proof(ContentHash),
    Wrong,
    Nothing,
}

fn weigh(gathered: &Gathered, needed: bool, audit: &Audit, checker: u32, finding: Option<Finding>) -> (Weighed, bool) {
    let Some(finding) = finding else { return (Weighed::Nothing, false) };
    let Some(transcript) = finding.transcript() else { return (Weighed::Counts(finding), false) };
    let claims_bad = matches!(finding, Finding::Refuted { .. } | Finding::Differs { .. });
    if !claims_bad && !needed {
        // What was not in doubt is not looked at, whatever a bundle says of it.
        return (Weighed::Counts(finding), false);
    }
    match gathered.answer(checker, audit.task, &finding) {
        Some(Reexecution::Forged) => (Weighed::Wrong, true),
        Some(Reexecution::Bad) => (Weighed::Proof(transcript), !claims_bad),
        Some(Reexecution::Good) if claims_bad => (Weighed::Wrong, true),
        Some(Reexecution::Good) => (Weighed::Counts(finding), false),
        // What nobody can show proves nothing, and is no work that was done.
        Some(Reexecution::Unavailable) | None => (Weighed::Nothing, false),
    }
}

/// Judges a full test, a dispute or a duplicate. `needed` says of a Checker whether its proof had to be run again.
pub(super) fn judge_proofs(gathered: &Gathered, audit: &Audit, needed: impl Fn(u32) -> bool) -> Judged {
    let mut judged = Judged { verdict: Verdict::Unknown, done: Vec::new(), wrong: Vec::new() };
    let accused = audit.each().any(|(_, f)| matches!(f, Some(Finding::Refuted { .. } | Finding::Differs { .. })));
    let mut counted: Vec<(u32, Finding)> = Vec::new();
    let mut frauds: Vec<ContentHash> = Vec::new();
    for (checker, finding) in audit.each() {
        let (weighed, wrong) = weigh(gathered, accused || needed(checker), audit, checker, finding);
        if wrong {
            judged.wrong.push(checker);
        }
        match weighed {
            Weighed::Counts(finding) => counted.push((checker, finding)),
            Weighed::Proof(transcript) => {
                frauds.push(transcript);
                if !wrong {
                    judged.done.push(checker);
                }
            }
            Weighed::Wrong | Weighed::Nothing => {}
        }
    }
    if let Some(evidence) = frauds.into_iter().min() {
        judged.verdict = Verdict::Fraud { evidence };
        // A proof that is right, and no answer, are both what an honest Checker may have met.
        judged.done.extend(counted.iter().filter(|(_, f)| *f != Finding::Unknown).map(|(checker, _)| *checker));
        return judged;
    }
    vote(&mut judged, audit, &counted);
    judged
}

/// Judges quality, and whatever else nothing but votes tell.
pub(super) fn judge_votes(audit: &Audit) -> Judged {
    let mut judged = Judged { verdict: Verdict::Unknown, done: Vec::new(), wrong: Vec::new() };
    let counted: Vec<(u32, Finding)> =
        audit.each().filter_map(|(checker, finding)| Some((checker, finding?))).collect();
    vote(&mut judged, audit, &counted);
    judged
}

/// Two thirds of the seats, or no verdict. Who is outvoted has done no work that counts, and nothing wrong either.
fn vote(judged: &mut Judged, audit: &Audit, counted: &[(u32, Finding)]) {
    let need = audit.seats.two_thirds();
    let of = |is: fn(&Finding) -> bool| {
        let voters: Vec<(u32, Finding)> = counted.iter().copied().filter(|(_, f)| is(f)).collect();
        (need > 0 && voters.len() >= need).then_some(voters)
    };
    let won = [
        of(|f| matches!(f, Finding::Proved { .. })),
        of(|f| matches!(f, Finding::Absent)),
        of(|f| matches!(f, Finding::Good | Finding::Same { .. })),
        of(|f| matches!(f, Finding::Interrupted)),
        // Broken off is less than good as well, and so is another model.
        of(|f| matches!(f, Finding::Poor | Finding::Interrupted | Finding::Substituted { .. })),
        of(|f| matches!(f, Finding::Upheld { .. })),
        of(|f| matches!(f, Finding::Dismissed)),
    ];
    let Some(voters) = won.into_iter().flatten().next() else {
        let known = counted.iter().filter(|(_, f)| *f != Finding::Unknown);
        judged.done.extend(known.map(|(checker, _)| *checker));
        return;
    };
    judged.verdict = match voters.first().map(|(_, f)| *f) {
        Some(Finding::Proved { .. }) => Verdict::Proved {
            ob: Ob(median(voters.iter().filter_map(|(_, f)| proved(f).map(|(ob, _)| ob.0)))),
            took_ms: median(voters.iter().filter_map(|(_, f)| proved(f).map(|(_, ms)| ms))),
        },
        Some(Finding::Absent) => Verdict::Absent,
        Some(Finding::Good | Finding::Same { .. }) => Verdict::Good,
        Some(Finding::Interrupted | Finding::Poor | Finding::Substituted { .. }) => {
            if voters.iter().all(|(_, f)| *f == Finding::Interrupted) { Verdict::Interrupted } else { Verdict::Poor }
        }
        Some(Finding::Upheld { .. }) => {
            let least = voters.iter().filter_map(|(_, f)| f.transcript()).min();
            Verdict::Upheld { evidence: least.unwrap_or(ContentHash::ZERO) }
        }
        Some(Finding::Dismissed) => Verdict::Dismissed,
        _ => Verdict::Unknown,
    };
    judged.done.extend(voters.iter().map(|(checker, _)| *checker));
}

const fn proved(finding: &Finding) -> Option<(Ob, u32)> {
    match finding {
        Finding::Proved { ob, took_ms, .. } => Some((*ob, *took_ms)),
        _ => None,
    }
}

/// The median; of an even number the lower of the middle two; 0 of none.
pub(super) fn median(values: impl Iterator<Item = u32>) -> u32 {
    let mut values: Vec<u32> = values.collect();
    values.sort_unstable();
    values.get(values.len().saturating_sub(1) / 2).copied().unwrap_or(0)
}
