//! On which Containers a model's replicas do not begin: on those that failed it lately, and on those that have one already.
//!
//! [`Placement`] is told what became of replicas, and says which Containers the next start leaves out. It holds no clock: every
//! moment comes with what is told or asked.

use std::collections::VecDeque;

use crate::ids::NodeId;
use crate::units::TimeMs;

/// A Container that failed a model is left out for so long.
pub const SHUN_MS: u64 = 600_000;
/// So many are left out at most; the one that failed longest ago is the first that is forgotten.
pub const SHUNNED_MAX: usize = 16;

/// Where a replica stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stands {
    /// Of which version of the deployment it is.
    pub version: u64,
    /// Whether it only finishes what it has.
    pub draining: bool,
    /// Its Container; none while one is looked for.
    pub container: Option<NodeId>,
}

/// How a replica that was wanted came to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Failed {
    /// Its Container; none where none was found.
    pub container: Option<NodeId>,
    /// Whether the Container is at fault: it broke off, or did not begin.
    pub interrupted: bool,
    /// Whether the model has other replicas.
    pub others: bool,
}

/// Which Containers are left out. The default leaves out none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Placement {
    /// Those that failed, and when; the earliest first.
    shunned: VecDeque<(NodeId, TimeMs)>,
    /// Nobody fits but Containers that have a replica already: the next start may take one of them.
    alone: bool,
}

impl Placement {
    /// Whether another replica may be started now: replicas shall stand apart, so that the next one is looked for once it is
    /// known where those before are.
    #[must_use]
    pub fn may_start(standing: &[Stands]) -> bool {
        standing.iter().all(|replica| replica.container.is_some())
    }

    /// A replica that was wanted is over.
    pub fn failed(&mut self, failed: &Failed, now: TimeMs) {
        let Some(container) = failed.container else {
            // Nobody was found although there are Containers that fit, those of the other replicas.
            self.alone |= failed.others;
            return;
        };
        if !failed.interrupted {
            return;
        }
        self.forget(now);
        self.shunned.retain(|(node, _)| *node != container);
        while self.shunned.len() >= SHUNNED_MAX {
            self.shunned.pop_front();
        }
        self.shunned.push_back((container, now));
    }

    /// Containers that a replica of this version does not start on: those that are shunned, and those that have one. Only
    /// replicas that stay count, those of other versions and those that end soon make room. Where nobody else was found, those
    /// that have one are not left out this once; those that are shunned always are.
    pub fn exclude(&mut self, version: u64, standing: &[Stands], now: TimeMs) -> Vec<NodeId> {
        self.forget(now);
        let mut out: Vec<NodeId> = self.shunned.iter().map(|(node, _)| *node).collect();
        if !core::mem::take(&mut self.alone) {
            let stay = standing.iter().filter(|replica| replica.version == version && !replica.draining);
            for node in stay.filter_map(|replica| replica.container) {
                if !out.contains(&node) {
                    out.push(node);
                }
            }
        }
        out
    }

    fn forget(&mut self, now: TimeMs) {
        self.shunned.retain(|(_, at)| now.since(*at) < SHUN_MS);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn node(n: u8) -> NodeId {
        NodeId([n; 32])
    }

    fn on(n: u8) -> Stands {
        Stands { version: 1, draining: false, container: Some(node(n)) }
    }

    fn broke(n: u8) -> Failed {
        Failed { container: Some(node(n)), interrupted: true, others: false }
    }

    #[test]
    fn who_failed_is_left_out_for_a_while_and_the_oldest_is_forgotten_first() {
        let mut placement = Placement::default();
        placement.failed(&broke(1), TimeMs(1_000));
        assert_eq!(placement.exclude(1, &[], TimeMs(1_000 + SHUN_MS - 1)), [node(1)]);
        assert_eq!(placement.exclude(1, &[], TimeMs(1_000 + SHUN_MS)), []);
        let count = u8::try_from(SHUNNED_MAX).unwrap();
        for n in 0..=count {
            placement.failed(&broke(n), TimeMs(2_000_000 + u64::from(n)));
        }
        let out = placement.exclude(1, &[], TimeMs(2_000_100));
        assert_eq!(out, (1..=count).map(node).collect::<Vec<_>>(), "the newest is kept, the oldest is not");
        // Who fails again is as new as who failed just now.
        placement.failed(&broke(1), TimeMs(2_000_200));
        placement.failed(&broke(100), TimeMs(2_000_300));
        let out = placement.exclude(1, &[], TimeMs(2_000_300));
        assert!(out.contains(&node(1)) && !out.contains(&node(2)), "{out:?}");
    }

    #[test]
    fn only_who_is_at_fault_is_left_out() {
        let mut placement = Placement::default();
        placement.failed(&Failed { interrupted: false, ..broke(1) }, TimeMs(0));
        placement.failed(&Failed { container: None, ..broke(2) }, TimeMs(0));
        assert_eq!(placement, Placement::default());
    }

    #[test]
    fn replicas_stand_apart_while_somebody_else_fits() {
        let mut placement = Placement::default();
        let looking = Stands { container: None, ..on(9) };
        assert!(
            Placement::may_start(&[]) && Placement::may_start(&[on(1)]) && !Placement::may_start(&[on(1), looking])
        );
        let draining = Stands { draining: true, ..on(2) };
        let old = Stands { version: 0, ..on(3) };
        let standing = [on(1), draining, old, looking];
        assert_eq!(placement.exclude(1, &standing, TimeMs(0)), [node(1)]);
        placement.failed(&broke(4), TimeMs(0));
        placement.failed(&Failed { container: None, interrupted: false, others: true }, TimeMs(0));
        assert_eq!(placement.exclude(1, &standing, TimeMs(0)), [node(4)], "shunned all the same");
        assert_eq!(placement.exclude(1, &standing, TimeMs(0)), [node(4), node(1)], "once");
        placement.failed(&broke(1), TimeMs(0));
        assert_eq!(placement.exclude(1, &standing, TimeMs(0)), [node(4), node(1)], "nobody is named twice");
    }

    proptest! {
        #[test]
        fn nobody_is_left_out_for_ever(
            steps in prop::collection::vec((0u8..24, 0u64..200_000, 0u8..5), 0..80),
            standing in prop::collection::vec((0u8..24, 0u64..3, any::<bool>()), 0..8),
        ) {
            let standing: Vec<Stands> = standing
                .into_iter()
                .map(|(n, version, draining)| Stands { version, draining, container: Some(node(n)) })
                .collect();
            let stays = |out: &NodeId| standing.iter().any(|r| r.version == 1 && !r.draining && r.container == Some(*out));
            let (mut placement, mut now) = (Placement::default(), TimeMs(0));
            let mut failed_at = std::collections::BTreeMap::new();
            for (n, ms, what) in steps {
                now = now.plus(ms);
                match what {
                    0 => placement.failed(&Failed { container: None, interrupted: false, others: true }, now),
                    1 => placement.failed(&Failed { interrupted: false, ..broke(n) }, now),
                    2 => {
                        placement.failed(&broke(n), now);
                        failed_at.insert(node(n), now);
                    }
                    _ => {
                        let out = placement.exclude(1, &standing, now);
                        let lately = |node: &NodeId| failed_at.get(node).is_some_and(|at| now.since(*at) < SHUN_MS);
                        for node in &out {
                            prop_assert!(lately(node) || stays(node), "{node:?} is left out for nothing");
                        }
                        prop_assert!(out.iter().filter(|node| lately(node) && !stays(node)).count() <= SHUNNED_MAX);
                        let mut last: Vec<_> = failed_at.iter().map(|(node, at)| (*at, *node)).collect();
                        last.sort();
                        let newest = last.last().filter(|(at, _)| now.since(*at) < SHUN_MS);
                        let ties = newest.map_or(0, |(at, _)| last.iter().filter(|(other, _)| other == at).count());
                        prop_assert!(ties != 1 || newest.is_none_or(|(_, node)| out.contains(node)), "the newest is kept");
                    }
                }
            }
            // Nobody fails any more: after a while all are back, but for those that have a replica; and these, too, where
            // nobody else is found.
            now = now.plus(SHUN_MS);
            placement.exclude(1, &standing, now);
            prop_assert!(placement.exclude(1, &standing, now).iter().all(stays));
            placement.failed(&Failed { container: None, interrupted: false, others: true }, now);
            prop_assert!(placement.exclude(1, &standing, now).is_empty());
        }
    }
}
