//! What a Checker has found out about one Container's answers.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::compare::Compared;
use super::limits::Limits;
use super::tally::{Standing, Tally, judge};
use crate::ids::NodeId;

/// Answers one after the other whose transcript is not told, beyond which that is no accident any more.
pub const UNREVEALED_MAX: u32 = 3;
/// Witnesses that are remembered for one Container.
const WITNESSES_MAX: usize = 32;

/// One Container's answers for one model.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Account {
    witnesses: BTreeMap<NodeId, Tally>,
    /// Answers since the last one that was revealed.
    unrevealed: u32,
}

impl Account {
    /// An answer was replayed by somebody else.
    pub fn compared(&mut self, witness: NodeId, answer: Compared) {
        self.unrevealed = 0;
        if self.witnesses.contains_key(&witness) || self.witnesses.len() < WITNESSES_MAX {
            self.witnesses.entry(witness).or_default().add(answer);
        }
    }

    /// An answer came and what was committed to with it did not, or was something else.
    pub const fn unrevealed(&mut self) {
        self.unrevealed = self.unrevealed.saturating_add(1);
    }

    /// Whether it hides what it commits to: a single time it may have been restarted.
    #[must_use]
    pub const fn hides(&self) -> bool {
        self.unrevealed >= UNREVEALED_MAX
    }

    /// What its answers come to, by the replays of those that are trusted.
    #[must_use]
    pub fn standing(&self, limits: &Limits, trusted: impl Fn(&NodeId) -> bool) -> Standing {
        judge(self.witnesses.iter().filter(|(witness, _)| trusted(witness)).map(|(_, tally)| tally), limits)
    }

    /// The Containers whose replays are wanted next: those who have said most, until enough have said enough.
    #[must_use]
    pub fn witnesses(&self) -> Vec<NodeId> {
        let mut known: Vec<_> = self.witnesses.iter().map(|(node, tally)| (tally.tokens(), *node)).collect();
        known.sort_by_key(|(tokens, node)| (core::cmp::Reverse(*tokens), *node));
        known.into_iter().map(|(_, node)| node).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits { differing_ppm: 10_000, margin_micronats: 1_000, distance_micronats: 5_000 };

    #[test]
    fn two_witnesses_who_agree_are_enough() {
        let mut account = Account::default();
        let bad = Compared { tokens: 125, differing: 20, margin: 2_000, distance: 0 };
        for _ in 0..16 {
            account.compared(NodeId([1; 32]), bad);
        }
        assert_eq!(account.standing(&LIMITS, |_| true), Standing::Unknown);
        for _ in 0..8 {
            account.compared(NodeId([2; 32]), bad);
        }
        assert!(matches!(account.standing(&LIMITS, |_| true), Standing::Deviates(_)));
        assert_eq!(account.witnesses(), [NodeId([1; 32]), NodeId([2; 32])]);
        for _ in 0..9 {
            account.compared(NodeId([2; 32]), Compared { differing: 0, margin: 0, ..bad });
        }
        assert_eq!(account.standing(&LIMITS, |_| true), Standing::Unknown, "they disagree");
        for node in 3..99 {
            account.compared(NodeId([node; 32]), bad);
        }
        assert_eq!(account.witnesses().len(), WITNESSES_MAX);
    }

    #[test]
    fn whoever_is_not_trusted_accuses_nobody_and_clears_nobody() {
        let mut account = Account::default();
        let good = Compared { tokens: 125, ..Compared::default() };
        for _ in 0..8 {
            account.compared(NodeId([1; 32]), Compared { differing: 20, margin: 2_000, ..good });
            account.compared(NodeId([2; 32]), Compared { differing: 20, margin: 2_000, ..good });
            account.compared(NodeId([3; 32]), good);
        }
        assert!(matches!(account.standing(&LIMITS, |_| true), Standing::Deviates(_)));
        assert_eq!(account.standing(&LIMITS, |node| *node != NodeId([2; 32])), Standing::Unknown);
        assert_eq!(account.standing(&LIMITS, |node| *node == NodeId([3; 32])), Standing::Faithful);
    }

    #[test]
    fn who_never_reveals_hides_something() {
        let mut account = Account::default();
        account.unrevealed();
        account.unrevealed();
        assert!(!account.hides());
        account.compared(NodeId::ZERO, Compared { tokens: 1, ..Compared::default() });
        (0..UNREVEALED_MAX).for_each(|_| account.unrevealed());
        assert!(account.hides());
    }
}
