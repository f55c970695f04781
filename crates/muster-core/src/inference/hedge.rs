//! Whether a request whose first token is late goes to another replica as well.
//!
//! A pure function of what is known when a deployment's time for that is over. A request is sent a second time at most, and
//! only where the other replica can begin it at once: one that would have to queue there is hardly faster, and holds up
//! those before it.

use super::route::{Replica, route};

/// A request that has shown nothing of its answer yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Late {
    /// How long ago the replica was asked that has it, in milliseconds.
    pub waited_ms: u64,
    /// Answers that it asks for: `n`, several prompts, several texts to embed.
    pub answers: usize,
    /// Whether it was sent a second time already, whatever became of that.
    pub hedged: bool,
}

impl Late {
    /// Whether it may be sent a second time after `after_ms`, if anybody has a place for it; `None`: it never is. A request
    /// for several answers takes several places, and would cost several times over: it is not.
    #[must_use]
    pub fn may_hedge(&self, after_ms: Option<u64>) -> bool {
        !self.hedged && self.answers <= 1 && after_ms.is_some_and(|after_ms| self.waited_ms >= after_ms)
    }
}

/// The replica that is asked as well; `None`: no other. The one that has the request, and those that failed it, must not
/// [take](Replica::takes) it.
#[must_use]
pub fn hedge(replicas: &[Replica], late: &Late, after_ms: Option<u64>, turn: u64) -> Option<usize> {
    if !late.may_hedge(after_ms) {
        return None;
    }
    let free: Vec<Replica> = replicas
        .iter()
        .map(|one| Replica { takes: one.takes && !one.shaky && one.held < one.parallel, ..*one })
        .collect();
    route(&free, turn)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const IDLE: Replica =
        Replica { takes: true, shaky: false, held: 0, parallel: 2, first_token_us: 20_000, remembers: false };
    const LATE: Late = Late { waited_ms: 500, answers: 1, hedged: false };

    #[test]
    fn only_what_is_late_goes_to_who_is_free() {
        let has_it = Replica { takes: false, held: 1, ..IDLE };
        assert_eq!(hedge(&[has_it, IDLE], &LATE, Some(500), 0), Some(1));
        assert_eq!(hedge(&[has_it, IDLE], &LATE, None, 0), None, "off where nothing is said");
        assert_eq!(hedge(&[has_it, IDLE], &LATE, Some(501), 0), None, "not yet late");
        assert_eq!(hedge(&[has_it, IDLE], &Late { hedged: true, ..LATE }, Some(500), 0), None, "once at most");
        assert_eq!(hedge(&[has_it, IDLE], &Late { answers: 2, ..LATE }, Some(500), 0), None, "several answers");
        let full = Replica { held: 2, ..IDLE };
        let shaky = Replica { shaky: true, ..IDLE };
        assert_eq!(hedge(&[has_it, full, shaky], &LATE, Some(500), 0), None, "nobody has a free place");
        let busier = Replica { held: 1, ..IDLE };
        assert_eq!(hedge(&[busier, full, IDLE], &LATE, Some(500), 0), Some(2), "the one that answers soonest");
        assert_eq!(hedge(&[], &LATE, Some(0), 7), None);
    }

    fn replica() -> impl Strategy<Value = Replica> {
        (any::<bool>(), any::<bool>(), 0u32..8, 0u32..8, 0u64..1_000_000, any::<bool>()).prop_map(
            |(takes, shaky, held, parallel, first_token_us, remembers)| Replica {
                takes,
                shaky,
                held,
                parallel,
                first_token_us,
                remembers,
            },
        )
    }

    proptest! {
        #[test]
        fn nobody_is_asked_who_would_let_it_wait(
            all in prop::collection::vec(replica(), 0..12), waited_ms in 0u64..2_000, answers in 0usize..3, hedged: bool,
            after_ms in prop::option::of(0u64..2_000), turn: u64,
        ) {
            let late = Late { waited_ms, answers, hedged };
            let free = |one: &Replica| one.takes && !one.shaky && one.held < one.parallel;
            match hedge(&all, &late, after_ms, turn) {
                Some(at) => {
                    prop_assert!(free(&all[at]));
                    prop_assert!(!hedged && answers <= 1 && after_ms.is_some_and(|after_ms| waited_ms >= after_ms));
                }
                None => prop_assert!(!late.may_hedge(after_ms) || !all.iter().any(free)),
            }
        }
    }
}
