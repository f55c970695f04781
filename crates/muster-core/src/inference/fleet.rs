//! How many replicas a model has, and which: what to start, what to let finish, what to stop.
//!
//! [`Fleet::decide`] is asked again and again with what is seen of the replicas, and says what to do. It never stops one
//! that has something in hand, never has more than the greatest number and one (while one takes another's place), and
//! after failures waits longer each time.

use serde::{Deserialize, Serialize};

use crate::units::TimeMs;

/// The most replicas of one model.
pub const REPLICAS_MAX: u16 = 64;
/// A fleet that could do with one less is left alone for so long.
const SHRINK_AFTER_MS: u64 = 60_000;
/// Pause after the first failure in a row, and the longest.
const RETRY_MS: u64 = 1_000;
const RETRY_MAX_MS: u64 = 60_000;
/// A fleet is thought too large when its answers would fill less than this share of the others' places, in hundredths.
const SPARE_PERCENT: u64 = 70;

/// What somebody wants of a model's replicas.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scale {
    /// The least; 0: none while nobody asks.
    pub min: u16,
    /// The most.
    pub max: u16,
    /// Requests that wait longer than this for a place call for another replica, in milliseconds.
    pub queue_ms: u64,
    /// With a least of 0: after so long without a request none is kept, in milliseconds.
    pub idle_ms: u64,
}

impl Default for Scale {
    fn default() -> Self {
        Self { min: 1, max: 1, queue_ms: 1_000, idle_ms: 300_000 }
    }
}

/// What is wrong with a [`Scale`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ScaleError {
    /// The two ends are out of order or too large.
    #[error(
        "replicas {min}..{max} cannot be: the first number is at most the second, which is from 1 to {REPLICAS_MAX}"
    )]
    Ends {
        /// The least.
        min: u16,
        /// The most.
        max: u16,
    },
}

impl Scale {
    /// Refuses what cannot be.
    ///
    /// # Errors
    /// [`ScaleError`].
    pub const fn check(&self) -> Result<(), ScaleError> {
        if self.min > self.max || self.max == 0 || self.max > REPLICAS_MAX {
            return Err(ScaleError::Ends { min: self.min, max: self.max });
        }
        Ok(())
    }
}

/// Where a replica is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// On its way.
    Starting,
    /// It answers.
    Ready,
    /// It finishes what it has.
    Draining,
}

/// What is seen of a replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Its number.
    pub id: u64,
    /// Of which version of the deployment.
    pub version: u64,
    /// Where it is.
    pub stage: Stage,
    /// Requests that it has in hand or waiting.
    pub held: u32,
    /// Requests that it answers side by side.
    pub parallel: u32,
}

/// What to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Rent one more, of the present version.
    Start,
    /// Give this one nothing new.
    Drain(u64),
    /// End this one: it has nothing in hand.
    Stop(u64),
}

/// A model's fleet.
#[derive(Clone, Debug)]
pub struct Fleet {
    scale: Scale,
    version: u64,
    asked_at: TimeMs,
    /// Since when requests wait for places.
    queued_since: Option<TimeMs>,
    /// Since when one less would do.
    spare_since: Option<TimeMs>,
    failures: u32,
    failed_at: TimeMs,
    /// What load asked for last.
    wanted: u16,
}

impl Fleet {
    /// A fleet of this version that has none yet.
    #[must_use]
    pub fn new(scale: Scale, version: u64, now: TimeMs) -> Self {
        let wanted = scale.min.max(1).min(scale.max);
        Self {
            scale,
            version,
            asked_at: now,
            queued_since: None,
            spare_since: None,
            failures: 0,
            failed_at: now,
            wanted,
        }
    }

    /// Somebody has changed what is wanted.
    pub fn change(&mut self, scale: Scale, version: u64) {
        self.wanted = self.wanted.clamp(scale.min, scale.max);
        (self.scale, self.version) = (scale, version);
    }

    /// Somebody has asked the model something.
    pub fn asked(&mut self, now: TimeMs) {
        self.asked_at = now;
        self.wanted = self.wanted.max(1);
    }

    /// A replica came up.
    pub const fn came_up(&mut self) {
        self.failures = 0;
    }

    /// A replica did not come up, or broke.
    pub const fn failed(&mut self, now: TimeMs) {
        self.failures = self.failures.saturating_add(1);
        self.failed_at = now;
    }

    /// When another one may be started.
    #[must_use]
    pub fn may_start_at(&self) -> TimeMs {
        if self.failures <= 1 {
            // One that breaks is replaced at once.
            return self.failed_at;
        }
        let pause = RETRY_MS.saturating_mul(1 << self.failures.saturating_sub(2).min(16)).min(RETRY_MAX_MS);
        self.failed_at.plus(pause)
    }

    /// How many there shall be now.
    #[must_use]
    pub const fn wanted(&self) -> u16 {
        self.wanted
    }

    /// What to do, for what is seen.
    pub fn decide(&mut self, seen: &[Seen], now: TimeMs) -> Vec<Order> {
        self.weigh(seen, now);
        let mut orders = Vec::new();
        let done = seen.iter().filter(|r| r.stage == Stage::Draining && r.held == 0);
        orders.extend(done.map(|r| Order::Stop(r.id)));
        let version = self.version;
        let of =
            |ours: bool, stage: Stage| seen.iter().filter(move |r| (r.version == version) == ours && r.stage == stage);
        let (ready, starting) = (of(true, Stage::Ready).count(), of(true, Stage::Starting).count());
        let wanted = usize::from(self.wanted);
        // Old ones go one for each new one that answers, and at once where none are wanted.
        let old: Vec<&Seen> = of(false, Stage::Ready).chain(of(false, Stage::Starting)).collect();
        let keep_old = wanted.saturating_sub(ready);
        let mut old_by_load = old.clone();
        old_by_load.sort_by_key(|r| (r.stage == Stage::Ready, r.held));
        orders.extend(old_by_load.iter().take(old.len().saturating_sub(keep_old)).map(|r| Order::Drain(r.id)));
        // The emptiest of those that are too many go first; one that only starts is the emptiest.
        let mut ours: Vec<&Seen> = of(true, Stage::Starting).chain(of(true, Stage::Ready)).collect();
        ours.sort_by_key(|r| (r.stage == Stage::Ready, r.held));
        orders.extend(ours.iter().take(ours.len().saturating_sub(wanted)).map(|r| Order::Drain(r.id)));
        let missing = wanted.saturating_sub(ready + starting);
        if missing > 0 && now >= self.may_start_at() {
            // While old ones still answer, new ones come one at a time.
            let room = usize::from(self.scale.max).saturating_add(1).saturating_sub(seen.len());
            let at_once = if old.is_empty() { missing } else { usize::from(starting == 0) };
            orders.extend(std::iter::repeat_n(Order::Start, missing.min(at_once).min(room)));
        }
        orders
    }

    /// How many there shall be, by what they have in hand.
    fn weigh(&mut self, seen: &[Seen], now: TimeMs) {
        let Scale { min, max, queue_ms, idle_ms } = self.scale;
        self.wanted = self.wanted.clamp(min, max);
        let answering = seen.iter().filter(|r| r.stage == Stage::Ready);
        let (mut held, mut places, mut count) = (0u64, 0u64, 0u64);
        for replica in answering {
            held = held.saturating_add(u64::from(replica.held));
            places = places.saturating_add(u64::from(replica.parallel));
            count += 1;
        }
        if held > 0 {
            self.asked_at = now;
        }
        if min == 0 && held == 0 && now.since(self.asked_at) >= idle_ms {
            self.wanted = 0;
            return;
        }
        let queued = held > places && count > 0;
        self.queued_since = if queued { self.queued_since.or(Some(now)) } else { None };
        if let Some(since) = self.queued_since
            && now.since(since) >= queue_ms
            && count >= u64::from(self.wanted)
            && self.wanted < max
        {
            self.wanted = self.wanted.saturating_add(1);
            self.queued_since = Some(now);
        }
        let each = places.checked_div(count).unwrap_or(0);
        let without = places.saturating_sub(each);
        let spare = count > u64::from(min.max(1)) && held.saturating_mul(100) < without.saturating_mul(SPARE_PERCENT);
        self.spare_since = if spare { self.spare_since.or(Some(now)) } else { None };
        if let Some(since) = self.spare_since
            && now.since(since) >= SHRINK_AFTER_MS
            && self.wanted > min.max(1)
        {
            self.wanted = self.wanted.saturating_sub(1);
            self.spare_since = Some(now);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PARALLEL: u32 = 4;

    fn seen(id: u64, stage: Stage, held: u32) -> Seen {
        Seen { id, version: 1, stage, held, parallel: PARALLEL }
    }

    fn scale(min: u16, max: u16) -> Scale {
        Scale { min, max, ..Scale::default() }
    }

    #[test]
    fn a_dead_one_is_replaced_at_once_and_later_ones_after_longer_pauses() {
        let mut fleet = Fleet::new(scale(2, 2), 1, TimeMs(0));
        assert_eq!(fleet.decide(&[], TimeMs(0)), [Order::Start, Order::Start]);
        let one = [seen(1, Stage::Ready, 0)];
        fleet.failed(TimeMs(100));
        assert_eq!(fleet.decide(&one, TimeMs(100)), [Order::Start]);
        fleet.failed(TimeMs(200));
        fleet.failed(TimeMs(200));
        assert_eq!(fleet.decide(&one, TimeMs(2_199)), []);
        assert_eq!(fleet.decide(&one, TimeMs(2_200)), [Order::Start]);
        fleet.came_up();
        assert_eq!(fleet.may_start_at(), TimeMs(200));
    }

    #[test]
    fn queues_call_for_more_and_idleness_for_less() {
        let mut fleet = Fleet::new(scale(1, 3), 1, TimeMs(0));
        let busy = [seen(1, Stage::Ready, PARALLEL + 1)];
        assert_eq!(fleet.decide(&busy, TimeMs(0)), []);
        assert_eq!(fleet.decide(&busy, TimeMs(999)), [], "not yet longer than it may");
        assert_eq!(fleet.decide(&busy, TimeMs(1_000)), [Order::Start]);
        let two = [seen(1, Stage::Ready, 5), seen(2, Stage::Starting, 0)];
        assert_eq!(fleet.decide(&two, TimeMs(9_000)), [], "one that is on its way is waited for");
        let idle = [seen(1, Stage::Ready, 1), seen(2, Stage::Ready, 0)];
        assert_eq!(fleet.decide(&idle, TimeMs(10_000)), []);
        assert_eq!(fleet.decide(&idle, TimeMs(70_000)), [Order::Drain(2)]);
    }

    #[test]
    fn none_is_kept_while_nobody_asks_and_the_first_who_asks_calls_one() {
        let mut fleet = Fleet::new(scale(0, 2), 1, TimeMs(0));
        let one = [seen(1, Stage::Ready, 0)];
        assert_eq!(fleet.decide(&one, TimeMs(299_999)), []);
        assert_eq!(fleet.decide(&one, TimeMs(300_000)), [Order::Drain(1)]);
        assert_eq!(fleet.decide(&[seen(1, Stage::Draining, 0)], TimeMs(300_001)), [Order::Stop(1)]);
        assert_eq!(fleet.decide(&[], TimeMs(400_000)), []);
        fleet.asked(TimeMs(400_001));
        assert_eq!(fleet.decide(&[], TimeMs(400_001)), [Order::Start]);
    }

    #[test]
    fn a_new_version_comes_before_the_old_one_goes() {
        let mut fleet = Fleet::new(scale(2, 2), 1, TimeMs(0));
        fleet.change(scale(2, 2), 2);
        let old = [seen(1, Stage::Ready, 3), seen(2, Stage::Ready, 1)];
        assert_eq!(fleet.decide(&old, TimeMs(1)), [Order::Start]);
        let new = Seen { version: 2, ..seen(3, Stage::Ready, 0) };
        assert_eq!(fleet.decide(&[old[0], old[1], new], TimeMs(2)), [Order::Drain(2)]);
        let draining = Seen { stage: Stage::Draining, ..old[1] };
        assert_eq!(fleet.decide(&[old[0], draining, new], TimeMs(3)), [], "there is no room before that one is gone");
        assert_eq!(fleet.decide(&[old[0], new], TimeMs(4)), [Order::Start]);
    }

    proptest! {
        #[test]
        fn nobody_who_answers_is_stopped_and_never_are_there_too_many(
            min in 0u16..3, more in 0u16..4, steps in proptest::collection::vec((0u64..5_000, 0u32..20, 0u8..8), 1..80),
        ) {
            let scale = scale(min, (min + more).max(1));
            let mut fleet = Fleet::new(scale, 1, TimeMs(0));
            let (mut now, mut next, mut all) = (TimeMs(0), 0u64, Vec::<Seen>::new());
            for (ms, held, what) in steps {
                now = now.plus(ms);
                match what {
                    0 => fleet.asked(now),
                    1 => { fleet.failed(now); all.pop(); }
                    2 => fleet.change(scale, 2),
                    _ => {}
                }
                for (at, replica) in all.iter_mut().enumerate() {
                    if replica.stage == Stage::Starting { replica.stage = Stage::Ready; fleet.came_up(); }
                    replica.held = if replica.stage == Stage::Draining { replica.held / 2 } else { held / (u32::try_from(at).unwrap() + 1) };
                }
                for order in fleet.decide(&all, now) {
                    match order {
                        Order::Start => {
                            next += 1;
                            let version = if what == 2 { 2 } else { fleet.version };
                            all.push(Seen { id: next, version, stage: Stage::Starting, held: 0, parallel: PARALLEL });
                        }
                        Order::Drain(id) => {
                            let replica = all.iter_mut().find(|r| r.id == id).unwrap();
                            prop_assert!(replica.stage != Stage::Draining);
                            replica.stage = Stage::Draining;
                        }
                        Order::Stop(id) => {
                            let at = all.iter().position(|r| r.id == id).unwrap();
                            prop_assert_eq!(all.remove(at).held, 0);
                        }
                    }
                }
                prop_assert!(all.len() <= usize::from(scale.max) + 1, "{} of {:?}", all.len(), scale);
            }
        }
    }
}
