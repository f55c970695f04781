//! What the network carries, held to by the clock: when the next picture may be sent, and how large pictures may be.
//!
//! An encoder's own rate control counts pictures, not time: told of 60 a second and given 20, it uses a third of its rate,
//! and what it leaves out to keep the rate costs the time to look at it. So it only chooses how fine a picture is. Whether
//! there is room for one is decided here, before anything is encoded.

use std::time::{Duration, Instant};

/// So much may be under way before the next picture waits: less of it is latency, more of it lets a large one pass.
const SLACK: Duration = Duration::from_millis(100);
/// More than this is not held against pictures to come: what was sent at an earlier, higher rate is soon through.
const DEBT: Duration = Duration::from_secs(1);

/// Bits that were sent against the rate that carries them.
#[derive(Clone, Debug)]
pub(crate) struct Budget {
    bps: f64,
    /// Bits that are still under way, at `at`.
    debt: f64,
    at: Instant,
}

impl Budget {
    pub(crate) fn new(bps: u32, now: Instant) -> Self {
        Self { bps: f64::from(bps.max(1)), debt: 0.0, at: now }
    }

    pub(crate) fn set_rate(&mut self, bps: u32, now: Instant) {
        self.settle(now);
        self.bps = f64::from(bps.max(1));
        self.debt = self.debt.min(self.bps * DEBT.as_secs_f64());
    }

    fn settle(&mut self, now: Instant) {
        let passed = now.saturating_duration_since(self.at).as_secs_f64();
        self.debt = passed.mul_add(-self.bps, self.debt).max(0.0);
        self.at = now;
    }

    /// How long to wait; nothing when there is room for a picture.
    pub(crate) fn wait(&mut self, now: Instant) -> Option<Duration> {
        self.settle(now);
        let over = self.debt - self.bps * SLACK.as_secs_f64();
        (over > 0.0).then(|| Duration::from_secs_f64(over / self.bps))
    }

    pub(crate) fn sent(&mut self, bytes: usize, now: Instant) {
        self.settle(now);
        let bits = f64::from(u32::try_from(bytes.saturating_mul(8)).unwrap_or(u32::MAX));
        self.debt = (self.debt + bits).min(self.bps * DEBT.as_secs_f64());
    }
}

/// Sizes that a picture is sent in, from all of it down: numerator and denominator.
pub(crate) const SIZES: [(usize, usize); 3] = [(1, 1), (2, 3), (1, 2)];
const SMALLEST: usize = SIZES.len() - 1;
/// How often it is looked at whether a size is right.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// A size under which more than this of the time was spent waiting for room is left for a smaller one.
const CROWDED: f64 = 0.5;
/// Up again only where so little was.
const ROOMY: f64 = 0.1;
/// Up again soon where the rate is so much higher than when the size above was left.
const RICHER: u32 = 2;
/// Pictures in a second that say something.
const PICTURES_MIN: u32 = 5;
const SOON: Duration = Duration::from_secs(2);
/// How long a smaller size is kept at first, and at the most: doubled each time a larger one did not hold.
const KEEP: Duration = Duration::from_secs(4);
const KEEP_MAX: Duration = Duration::from_secs(64);

/// Which size pictures have, by how they fared.
#[derive(Clone, Debug)]
pub(crate) struct Ladder {
    step: usize,
    keep: Duration,
    /// When this step began.
    since: Instant,
    looked: Instant,
    waited: Duration,
    pictures: u32,
    /// The rate at which the size above was left.
    left_at: u32,
}

impl Ladder {
    pub(crate) fn new(now: Instant) -> Self {
        Self { step: 0, keep: KEEP, since: now, looked: now, waited: Duration::ZERO, pictures: 0, left_at: 0 }
    }

    /// Where in [`SIZES`].
    pub(crate) fn step(&self) -> usize {
        self.step
    }

    /// A picture was sent, which had waited so long for room.
    pub(crate) fn sent(&mut self, waited: Duration) {
        self.waited += waited;
        self.pictures += 1;
    }

    /// Looks once a second; whether the step is another.
    pub(crate) fn look(&mut self, bps: u32, now: Instant) -> bool {
        let passed = now.saturating_duration_since(self.looked);
        if passed < LOOK_EVERY {
            return false;
        }
        let crowded = self.waited.as_secs_f64() / passed.as_secs_f64();
        let pictures = std::mem::take(&mut self.pictures);
        (self.looked, self.waited) = (now, Duration::ZERO);
        let stayed = now.saturating_duration_since(self.since);
        if crowded > CROWDED && self.step < SMALLEST {
            if stayed < KEEP {
                self.keep = (self.keep * 2).min(KEEP_MAX);
            }
            (self.step, self.since, self.left_at) = (self.step + 1, now, bps);
            return true;
        }
        if stayed > KEEP_MAX {
            self.keep = KEEP;
        }
        let richer = stayed >= SOON && bps / RICHER >= self.left_at;
        // A second in which nearly nothing was drawn says nothing.
        if self.step > 0 && pictures >= PICTURES_MIN && crowded < ROOMY && (richer || stayed >= self.keep) {
            (self.step, self.since) = (self.step - 1, now);
            return true;
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: fn(u64) -> Duration = Duration::from_millis;

    #[test]
    fn what_is_sent_in_a_second_is_the_rate() {
        let begin = Instant::now();
        let mut budget = Budget::new(800_000, begin);
        let (mut at, mut bytes) = (begin, 0usize);
        while at < begin + MS(10_000) {
            match budget.wait(at) {
                Some(wait) => at += wait,
                None => {
                    budget.sent(4_000, at);
                    bytes += 4_000;
                    at += MS(3);
                }
            }
        }
        // A million bytes in ten seconds, and what may be under way at the end.
        assert!((1_000_000..=1_020_000).contains(&bytes), "{bytes}");
    }

    #[test]
    fn small_pictures_never_wait_and_large_ones_hold_up_those_after_them() {
        let begin = Instant::now();
        let mut budget = Budget::new(8_000_000, begin);
        for frame in 0..600u32 {
            let now = begin + MS(10) * frame;
            assert_eq!(budget.wait(now), None);
            budget.sent(9_000, now);
        }
        let now = begin + MS(6_000);
        budget.sent(300_000, now);
        let wait = budget.wait(now).unwrap();
        assert!(wait >= MS(190) && wait <= MS(215), "{wait:?}");
        assert_eq!(budget.wait(now + wait + MS(1)), None);
    }

    #[test]
    fn a_fall_of_the_rate_holds_up_for_a_second_at_the_most() {
        let begin = Instant::now();
        let mut budget = Budget::new(20_000_000, begin);
        budget.sent(2_000_000, begin);
        budget.set_rate(500_000, begin);
        assert!(budget.wait(begin).unwrap() <= DEBT);
    }

    /// Plays seconds of so many pictures, a share of which was spent waiting; steps after each.
    fn climb(ladder: &mut Ladder, from: Instant, bps: u32, seconds: &[(u32, f64)]) -> Vec<usize> {
        let second = |(at, (pictures, crowded)): (usize, &(u32, f64))| {
            for _ in 0..*pictures {
                ladder.sent(MS(1_000).mul_f64(*crowded) / *pictures);
            }
            ladder.look(bps, from + MS(1_000) * u32::try_from(at + 1).unwrap());
            ladder.step()
        };
        seconds.iter().enumerate().map(second).collect()
    }

    #[test]
    fn a_crowded_way_gets_smaller_pictures_and_a_free_one_larger_ones() {
        let begin = Instant::now();
        let mut ladder = Ladder::new(begin);
        let (crowded, right, roomy, still) = ((9, 0.8), (30, 0.2), (30, 0.0), (1, 0.0));
        let steps = climb(&mut ladder, begin, 800_000, &[right, crowded, crowded, crowded, right]);
        assert_eq!(steps, [0, 1, 2, 2, 2]);
        // Not at once: the steps down were close together, so it waits for twice the time, twice.
        let later = begin + MS(5_000);
        assert_eq!(climb(&mut ladder, later, 800_000, &[roomy; 10]), [2; 10]);
        // Not where hardly anything is drawn, and not where pictures wait.
        let later = later + MS(10_000);
        assert_eq!(climb(&mut ladder, later, 800_000, &[still, still, still, right, roomy]), [2, 2, 2, 2, 1]);
    }

    #[test]
    fn much_more_room_than_before_is_used_soon() {
        let begin = Instant::now();
        let mut ladder = Ladder::new(begin);
        assert_eq!(climb(&mut ladder, begin, 800_000, &[(9, 0.8), (9, 0.8)]), [1, 2]);
        let later = begin + MS(2_000);
        assert_eq!(climb(&mut ladder, later, 2_000_000, &[(30, 0.0); 4]), [2, 1, 1, 0]);
    }

    #[test]
    fn a_size_that_does_not_hold_is_tried_less_and_less_often() {
        let begin = Instant::now();
        let mut ladder = Ladder::new(begin);
        let mut climbs = Vec::new();
        for second in 1..300u32 {
            // Whatever is larger than the smallest is too much, and the smallest leaves room.
            let waited = if ladder.step() < SMALLEST { MS(90) } else { MS(0) };
            let before = ladder.step();
            (0..10).for_each(|_| ladder.sent(waited));
            ladder.look(800_000, begin + MS(1_000) * second);
            if ladder.step() < before {
                climbs.push(second);
            }
        }
        let gaps: Vec<u32> = climbs.windows(2).map(|pair| pair[1] - pair[0]).collect();
        assert!(gaps.windows(2).all(|pair| pair[0] <= pair[1]) && climbs.len() <= 7, "{climbs:?}");
    }
}
