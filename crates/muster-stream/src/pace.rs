//! When the next picture may be taken: as soon as something has changed, and no more than so many a second.

use std::time::{Duration, Instant};

/// So many pictures may be taken beyond the limit, because a program may draw one frame in two steps now and then.
const BURST: f64 = 12.0;
/// But never closer than this.
const GAP: Duration = Duration::from_millis(3);
/// A program that draws just as fast as the limit must never wait: what it draws in two steps now and then would use up
/// its credit, and from then on each picture would wait for the next beat. So the limit is held only so exactly.
const GRACE: f64 = 1.1;

/// Counts pictures against time.
#[derive(Clone, Debug)]
pub(crate) struct Pace {
    fps: f64,
    /// Pictures that may be taken, at `at`.
    credit: f64,
    at: Instant,
    last: Option<Instant>,
}

impl Pace {
    pub(crate) fn new(fps: f64, now: Instant) -> Self {
        Self { fps: fps * GRACE, credit: BURST, at: now, last: None }
    }

    pub(crate) fn set_fps(&mut self, fps: f64, now: Instant) {
        self.settle(now);
        self.fps = fps * GRACE;
    }

    fn settle(&mut self, now: Instant) {
        let passed = now.saturating_duration_since(self.at).as_secs_f64();
        self.credit = passed.mul_add(self.fps, self.credit).min(BURST);
        self.at = now;
    }

    /// How long to wait; nothing when a picture may be taken now.
    pub(crate) fn wait(&mut self, now: Instant) -> Option<Duration> {
        self.settle(now);
        let gap = self.last.map_or(Duration::ZERO, |last| (last + GAP).saturating_duration_since(now));
        let credit = Duration::from_secs_f64(((1.0 - self.credit) / self.fps).max(0.0));
        let wait = gap.max(credit);
        (!wait.is_zero()).then_some(wait)
    }

    pub(crate) fn taken(&mut self, now: Instant) {
        self.settle(now);
        self.credit -= 1.0;
        self.last = Some(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Draws every `every` for ten seconds; gives pictures taken, and the longest that one had to wait.
    fn run(fps: f64, every: Duration) -> (u32, Duration) {
        let begin = Instant::now();
        let mut pace = Pace::new(fps, begin);
        let (mut taken, mut longest, mut at) = (0, Duration::ZERO, begin);
        let mut next_free = begin;
        while at < begin + Duration::from_secs(10) {
            if at >= next_free {
                let mut now = at;
                while let Some(wait) = pace.wait(now) {
                    now += wait;
                }
                pace.taken(now);
                longest = longest.max(now - at);
                next_free = now;
                taken += 1;
            }
            at += every;
        }
        (taken, longest)
    }

    #[test]
    fn a_program_slower_than_the_limit_never_waits() {
        assert_eq!(run(60.0, Duration::from_micros(16_949)), (591, Duration::ZERO));
        assert_eq!(run(60.0, Duration::from_millis(40)), (250, Duration::ZERO));
        // As fast as the limit allows: no picture waits, to the last.
        assert_eq!(run(60.0, Duration::from_micros(16_667)).1, Duration::ZERO);
    }

    #[test]
    fn a_faster_one_is_held_to_it() {
        let (taken, longest) = run(60.0, Duration::from_millis(2));
        assert!((665..=673).contains(&taken), "{taken}");
        assert!(longest <= Duration::from_millis(17), "{longest:?}");
        assert!((335..=343).contains(&run(30.0, Duration::from_millis(7)).0));
    }
}
