//! The steps of a lease, for whoever watches a role write them down.
//!
//! Both sides of a lease make each transition durable before they act on it. Whoever is given as a [`WatchSteps`] is told
//! just before and just after such a write: the one place where a crash can divide "written" from "done".

use core::fmt;

use crate::ids::LeaseId;
use crate::lease::{Lease, Phase};

/// A transition of a lease, named after what it leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Step {
    /// The slot is held.
    Accepted,
    /// The deposit is seen.
    Open,
    /// The Container was told to begin.
    Starting,
    /// The workload runs.
    Running,
    /// A voucher was signed or taken.
    Voucher,
    /// The workload is over.
    Ended,
    /// The settlement is handed to the chain.
    Settling,
    /// The chain has closed the lease.
    Closed,
}

impl Step {
    /// All of them, in the order of a lease's life.
    pub const ALL: [Self; 8] = [
        Self::Accepted,
        Self::Open,
        Self::Starting,
        Self::Running,
        Self::Voucher,
        Self::Ended,
        Self::Settling,
        Self::Closed,
    ];

    /// The phase that it leads to; a voucher leads to none.
    const fn phase(self) -> Option<Phase> {
        match self {
            Self::Accepted => Some(Phase::Accepted),
            Self::Open => Some(Phase::Open),
            Self::Starting => Some(Phase::Starting),
            Self::Running => Some(Phase::Running),
            Self::Voucher => None,
            Self::Ended => Some(Phase::Ended),
            Self::Settling => Some(Phase::Settling),
            Self::Closed => Some(Phase::Closed),
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Accepted => "accepted",
            Self::Open => "open",
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Voucher => "voucher",
            Self::Ended => "ended",
            Self::Settling => "settling",
            Self::Closed => "closed",
        })
    }
}

/// On which side of the durable write.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum When {
    /// Nothing of the step is on the disk yet.
    Before,
    /// It is, and nothing that follows from it has been done.
    After,
}

impl fmt::Display for When {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Before => "before",
            Self::After => "after",
        })
    }
}

/// Is told of steps while they are written down.
pub trait WatchSteps: fmt::Debug + Send + Sync {
    /// A step of this lease is about to be written, or has been. The writer waits until this returns.
    fn on_step(&self, lease: LeaseId, step: Step, when: When);
}

/// The steps between two states of a lease's record, in the order of [`Step::ALL`]. One write may pass several; a lease
/// that never opens passes none.
pub fn steps(before: Option<&Lease>, after: &Lease) -> impl Iterator<Item = Step> {
    let (from, to) = (before.map(|l| l.phase), after.phase);
    // A workload may begin before the deposit is seen, so the order of phases does not tell.
    let opened = after.deposit_seen() && !before.is_some_and(Lease::deposit_seen);
    let paid = before.map(Lease::paid).unwrap_or_default() < after.paid();
    Step::ALL.into_iter().filter(move |step| match step.phase() {
        Some(Phase::Open) => opened,
        Some(phase) => to != Phase::Void && from.is_none_or(|from| from < phase) && phase <= to,
        None => paid,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hardware::Allocation;
    use crate::ids::{Address, NodeId, RequestId};
    use crate::lease::LeaseTerms;
    use crate::units::{TimeMs, TokenAmount};

    fn terms() -> LeaseTerms {
        LeaseTerms {
            lease: LeaseId([1; 32]),
            salt: [1; 32],
            request: RequestId(1),
            consumer: Address::ZERO,
            session_key: Address::ZERO,
            container: NodeId::ZERO,
            indexer: NodeId::ZERO,
            rate_per_second: TokenAmount(1),
            deposit: TokenAmount(10),
            max_seconds: 10,
            interval_ms: 1_000,
            open_within_ms: 1_000,
            allocation: Allocation::default(),
            egress: false,
            tokens: None,
        }
    }

    #[test]
    fn a_write_passes_every_step_between_two_phases() {
        let accepted = Lease::accepted(terms(), TimeMs(0));
        let seen = Some(TimeMs(5));
        let running = Lease { phase: Phase::Running, opened_at: seen, ..accepted.clone() };
        let void = Lease { phase: Phase::Void, ..accepted.clone() };
        let early = Lease { phase: Phase::Starting, ..accepted.clone() };
        let passed = |before: Option<&Lease>, after: &Lease| steps(before, after).collect::<Vec<_>>();
        assert_eq!(passed(None, &accepted), [Step::Accepted]);
        assert_eq!(passed(Some(&accepted), &running), [Step::Open, Step::Starting, Step::Running]);
        assert_eq!(passed(Some(&running), &running), []);
        // One that begins before its deposit is seen passes the same steps in another order.
        assert_eq!(passed(Some(&accepted), &early), [Step::Starting]);
        assert_eq!(passed(Some(&early), &Lease { opened_at: seen, ..early.clone() }), [Step::Open]);
        assert_eq!(passed(Some(&early), &running), [Step::Open, Step::Running]);
        assert_eq!(passed(Some(&accepted), &void), []);
    }
}
