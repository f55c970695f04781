//! Time as a Checker sees it.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use muster_core::units::TimeMs;

/// The wall clock, in milliseconds since 1970. Epochs go by it, so it is read anew each time: a machine that slept, or
/// whose clock was set right, is in the epoch of the others at once. It may run backwards; the brain's records keep it
/// from saying anything twice.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Clock;

impl Clock {
    /// Now.
    #[expect(clippy::unused_self, reason = "whoever has no clock has no time")]
    pub(crate) fn now(self) -> TimeMs {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        TimeMs(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
    }

    /// A clock for timing something: now, and what has passed since, whatever becomes of the wall clock.
    pub(crate) fn stopwatch(self) -> impl Fn() -> TimeMs {
        let (from, begun) = (self.now(), Instant::now());
        move || from.plus(u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX))
    }
}
