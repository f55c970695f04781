//! Which replica of a model answers a request.
//!
//! A pure function of what is known of the replicas. The one is chosen from which the first token is expected soonest:
//! what it took lately, times how many requests have to end before this one has a place, and a quarter of it where the
//! beginning of the prompt was read there before, because that part need not be read again.

use serde::{Deserialize, Serialize};

/// What a first token is taken to need where none was seen yet.
pub const FIRST_TOKEN_US: u64 = 50_000;

/// How much less a prompt needs whose beginning was read there before.
const REMEMBERED: u64 = 4;

/// A replica, as it stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Replica {
    /// Whether it takes requests: not drained, and not tried for this one already.
    pub takes: bool,
    /// Whether it failed a moment ago: the last that is asked.
    pub shaky: bool,
    /// Requests that it answers or holds.
    pub held: u32,
    /// Requests that it answers side by side.
    pub parallel: u32,
    /// What a first token took lately, in microseconds; 0 where none was seen.
    pub first_token_us: u64,
    /// Whether it read the beginning of this prompt before.
    pub remembers: bool,
}

/// What a request has to wait for, by what is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Rank {
    shaky: bool,
    expected_us: u64,
    held: u32,
}

impl Replica {
    fn rank(&self) -> Rank {
        let parallel = self.parallel.max(1);
        // Rounds that end before this one begins; within the first round every place in use slows the others a little.
        let ahead = u64::from(self.held / parallel);
        let beside = u64::from(self.held % parallel);
        let once = if self.first_token_us == 0 { FIRST_TOKEN_US } else { self.first_token_us };
        let read = if self.remembers { once / REMEMBERED } else { once };
        let waits = once.saturating_mul(ahead.saturating_mul(4));
        let shares = once.saturating_mul(beside) / u64::from(parallel);
        let expected_us = read.saturating_add(waits).saturating_add(shares / 2);
        Rank { shaky: self.shaky, expected_us, held: self.held }
    }
}

/// The replica that shall answer; `None` where none takes requests. Among equals `turn` decides, so that they take
/// turns.
#[must_use]
pub fn route(replicas: &[Replica], turn: u64) -> Option<usize> {
    let count = u64::try_from(replicas.len()).ok().filter(|count| *count > 0)?;
    let first = usize::try_from(turn.checked_rem(count)?).ok()?;
    let order = (first..replicas.len()).chain(0..first);
    order
        .filter_map(|at| replicas.get(at).filter(|replica| replica.takes).map(|replica| (replica.rank(), at)))
        // The first of the least, in the order of the turn.
        .reduce(|best, next| if next.0 < best.0 { next } else { best })
        .map(|(_, at)| at)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn replica() -> impl Strategy<Value = Replica> {
        (any::<bool>(), any::<bool>(), 0u32..64, 0u32..16, 0u64..10_000_000, any::<bool>()).prop_map(
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

    const IDLE: Replica =
        Replica { takes: true, shaky: false, held: 0, parallel: 4, first_token_us: 20_000, remembers: false };

    #[test]
    fn queue_memory_and_speed_each_decide() {
        let busy = Replica { held: 9, ..IDLE };
        assert_eq!(route(&[busy, IDLE], 0), Some(1), "the shorter queue");
        let remembers = Replica { remembers: true, ..IDLE };
        assert_eq!(route(&[IDLE, remembers], 0), Some(1), "the prompt that was read there");
        let slow = Replica { first_token_us: 90_000, ..IDLE };
        assert_eq!(route(&[slow, IDLE], 0), Some(1), "the faster");
        let full = Replica { remembers: true, held: 8, ..IDLE };
        assert_eq!(route(&[full, IDLE], 0), Some(1), "memory is not worth two rounds of waiting");
        let shaky = Replica { shaky: true, ..IDLE };
        assert_eq!(route(&[shaky, busy], 0), Some(1), "who failed a moment ago comes last");
        assert_eq!(route(&[shaky], 0), Some(0), "and yet before nobody");
        assert_eq!(route(&[], 3), None);
        let turns: Vec<_> = (0..4).map(|turn| route(&[IDLE, IDLE], turn)).collect();
        assert_eq!(turns, [Some(0), Some(1), Some(0), Some(1)]);
    }

    proptest! {
        #[test]
        fn one_that_takes_requests_is_chosen_and_no_other(all in prop::collection::vec(replica(), 0..12), turn: u64) {
            match route(&all, turn) {
                Some(at) => prop_assert!(all[at].takes),
                None => prop_assert!(all.iter().all(|one| !one.takes)),
            }
        }

        #[test]
        fn nobody_is_chosen_beside_one_that_is_better_in_everything(
            all in prop::collection::vec(replica(), 1..12), turn: u64,
        ) {
            if let Some(at) = route(&all, turn) {
                let chosen = all[at];
                for other in all.iter().filter(|one| one.takes && one.parallel == chosen.parallel) {
                    let seen = |one: &Replica| if one.first_token_us == 0 { FIRST_TOKEN_US } else { one.first_token_us };
                    let worse = (chosen.shaky || !other.shaky) && chosen.held > other.held
                        && seen(&chosen) >= seen(other) && (other.remembers || !chosen.remembers) && seen(other) > 64;
                    prop_assert!(!worse, "{chosen:?} beside {other:?}");
                }
            }
        }

        #[test]
        fn the_order_decides_only_among_equals(all in prop::collection::vec(replica(), 1..12), a: u64, b: u64) {
            let rank = |turn| route(&all, turn).map(|at| all[at].rank());
            prop_assert_eq!(rank(a), rank(b));
        }

        #[test]
        fn leaving_out_who_was_not_chosen_changes_nothing(all in prop::collection::vec(replica(), 2..12), out: usize) {
            if let Some(at) = route(&all, 0) {
                let out = out % all.len();
                if out != at {
                    let mut fewer = all.clone();
                    fewer[out].takes = false;
                    prop_assert_eq!(route(&fewer, 0), Some(at));
                }
            }
        }
    }
}
